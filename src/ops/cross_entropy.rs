//! The output layer and its loss in chunks of rows: never all logits at once.
//!
//! Per row with target `y`: `loss = log sum_j e^{z_j} - z_y`, `dz = softmax(z) - onehot(y)`; with `z = h W^T`: `dh = dz W`,
//! `dW += dz^T h`. The gradient of the hidden state is computed while the chunk's logits are there.

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;
use super::simd::{self, simd};

/// Rows of one chunk: enough for the products to run at full speed, little enough for the logits to stay small.
pub const CHUNK: usize = 256;

fn chunk_rows(logits: &mut Vec<f32>, rows: usize, vocab: usize) -> usize {
    let chunk = CHUNK.min(rows);
    if logits.len() < chunk * vocab {
        logits.resize(chunk * vocab, 0.0);
    }
    chunk.max(1)
}

/// Sum of the losses of `hidden` (rows x h) under `head` (vocab x h) against `targets` (rows), each of which goes to `each` (rows);
/// `logits` is scratch.
pub fn linear_cross_entropy(
    hidden: Mat<'_>,
    head: Mat<'_>,
    targets: &[u32],
    each: &mut [f32],
    logits: &mut Vec<f32>,
    par: Par,
) -> f64 {
    let (rows, vocab) = (hidden.n_rows(), head.n_rows());
    let chunk = chunk_rows(logits, rows, vocab);
    let mut loss = 0.0;
    for first in (0..rows).step_by(chunk) {
        let last = (first + chunk).min(rows);
        let mut z = MatMut::new(logits, last - first, vocab);
        matmul(z.rb(), Write::Set, 1.0, hidden.rows(first..last), head.t(), par);
        loss += cross_entropy(z, &targets[first..last], &mut each[first..last], None, par);
    }
    loss
}

/// As [`linear_cross_entropy`]; also writes `d_hidden` (rows x h) and adds to `d_head` (vocab x h) if given, both times `scale`.
pub fn linear_cross_entropy_backward(
    hidden: Mat<'_>,
    head: Mat<'_>,
    targets: &[u32],
    scale: f32,
    each: &mut [f32],
    logits: &mut Vec<f32>,
    mut d_hidden: MatMut<'_>,
    mut d_head: Option<MatMut<'_>>,
    par: Par,
) -> f64 {
    let (rows, vocab) = (hidden.n_rows(), head.n_rows());
    let chunk = chunk_rows(logits, rows, vocab);
    let mut loss = 0.0;
    for first in (0..rows).step_by(chunk) {
        let last = (first + chunk).min(rows);
        let mut z = MatMut::new(logits, last - first, vocab);
        matmul(z.rb(), Write::Set, 1.0, hidden.rows(first..last), head.t(), par);
        loss += cross_entropy(z.rb(), &targets[first..last], &mut each[first..last], Some(scale), par);
        matmul(d_hidden.rb().rows(first..last), Write::Set, 1.0, z.as_mat(), head, par);
        if let Some(d_head) = &mut d_head {
            matmul(d_head.rb(), Write::Add, 1.0, z.as_mat().t(), hidden.rows(first..last), par);
        }
    }
    loss
}

/// Sum of the losses of `logits` (rows x vocab), each of which goes to `each`; with a scale, they become `scale * dz` in place.
pub fn cross_entropy(
    logits: MatMut<'_>,
    targets: &[u32],
    each: &mut [f32],
    scale: Option<f32>,
    par: Par,
) -> f64 {
    let n = logits.n_rows();
    assert_eq!((n, n), (targets.len(), each.len()));
    if !par.is_serial() && n >= 16 {
        let ((z0, z1), (t0, t1)) = (logits.split_rows(n / 2), targets.split_at(n / 2));
        let (e0, e1) = each.split_at_mut(n / 2);
        let (p, q) = par.halves();
        let (a, b) =
            rayon::join(|| cross_entropy(z0, t0, e0, scale, p), || cross_entropy(z1, t1, e1, scale, q));
        a + b
    } else {
        rows(logits, targets, each, scale)
    }
}

simd! {
    fn rows(logits: MatMut<'_>, targets: &[u32], each: &mut [f32], scale: Option<f32>) -> f64 {
        let mut loss = 0f64;
        for (i, (target, own)) in targets.iter().zip(each.iter_mut()).enumerate() {
            let row = logits.row_mut(i);
            let target = *target as usize;
            let largest = simd::max(row);
            let of_target = row[target];
            let sum = simd::exp_sum::<FMA>(row, largest);
            *own = largest - of_target + sum.ln();
            loss += f64::from(*own);
            if let Some(scale) = scale {
                let factor = scale / sum;
                for z in row.iter_mut() {
                    *z *= factor;
                }
                row[target] -= scale;
            }
        }
        loss
    }
}
