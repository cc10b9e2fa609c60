//! Weight-decomposed adapters, DoRA (Liu et al. 2024, arXiv:2402.09353), on a group of linear layers that share their input.
//!
//! The adapted weight is `V = W + s B A` with every row (one output's weights, the paper's columns of `W^T`) brought to a
//! trained length `m`: `y = (m / |V|) v + bias`, `v = x V^T = x W^T + s (x A^T) B^T`. The length of row `j` is taken for a
//! constant in the backward (section 4.3, as PEFT does). With `g = m / |V|` and `d = g dy`:
//!
//! ```text
//! dL/dm_j = sum over tokens of dy_j v_j / |V_j|
//! dL/dv   = g dy = d,   hence as in LoRA with d for dy:   dx = d W + c A,  c = s d B,  dA = c^T x,  dB = s d^T u
//! ```
//!
//! `v` is kept from the forward; the backward writes `d` over it. `|V|` changes only with the optimizer's step, so that
//! [`dora_norms`] is called once for each.

use super::lora::LoraGroup;
use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;
use super::simd::{dot, fma, simd};
use super::weight::Weight;

/// Rows of a weight that are made at once.
const ROWS_AT_ONCE: usize = 32;
/// Fewer tokens are not worth another thread.
const TOKENS_PER_THREAD: usize = 32;

/// Lengths of the rows of `W + s B A` to `norms` (outputs of the group); those of layers without an adapter stay as they are.
/// The same whatever the threads.
pub fn dora_norms(group: &LoraGroup, params: &[f32], weight: Weight<'_>, norms: &mut [f32], par: Par) {
    for part in &group.parts {
        let (a, b) = (group.a(params).rows(part.ranks.clone()), part.b(params));
        let work = |(tile, norms): (usize, &mut [f32])| {
            let first = tile * ROWS_AT_ONCE;
            let mut rows = vec![0.0; norms.len() * group.inputs];
            let mut rows = MatMut::new(&mut rows, norms.len(), group.inputs);
            let from = part.out.start + first;
            weight.read_rows(from..from + norms.len(), rows.rb());
            let b = b.rows(first..first + norms.len());
            matmul(rows.rb(), Write::Add, part.scale, b, a, Par::SERIAL);
            lengths(rows.as_mat(), norms);
        };
        let tiles = norms[part.out.clone()].chunks_mut(ROWS_AT_ONCE).enumerate();
        if par.is_serial() {
            tiles.for_each(work);
        } else {
            rayon::scope(|scope| tiles.for_each(|tile| scope.spawn(move |_| work(tile))));
        }
    }
}

simd! {
    fn lengths(rows: Mat<'_>, norms: &mut [f32]) {
        for (i, norm) in norms.iter_mut().enumerate() {
            *norm = dot::<FMA>(rows.row(i), rows.row(i)).sqrt();
        }
    }
}

/// `g = m / |V|` for every output of the group; 1 where a layer has no adapter, 0 for a row without a length.
pub fn dora_gains(group: &LoraGroup, params: &[f32], norms: &[f32]) -> Vec<f32> {
    let mut gains = vec![1.0; norms.len()];
    for part in &group.parts {
        let Some(m) = part.magnitude else { continue };
        for (j, out) in part.out.clone().enumerate() {
            gains[out] = if norms[out] > 0.0 { params[m + j] / norms[out] } else { 0.0 };
        }
    }
    gains
}

/// `y (tokens x outputs) = [y +] g v`.
pub fn dora_forward(gains: &[f32], v: Mat<'_>, y: MatMut<'_>, write: Write, par: Par) {
    let n = v.n_rows();
    if !par.is_serial() && n >= 2 * TOKENS_PER_THREAD {
        let ((y0, y1), (p, q)) = (y.split_rows(n / 2), par.halves());
        rayon::join(
            || dora_forward(gains, v.rows(0..n / 2), y0, write, p),
            || dora_forward(gains, v.rows(n / 2..n), y1, write, q),
        );
    } else {
        forward(gains, v, y, write == Write::Add);
    }
}

simd! {
    fn forward(gains: &[f32], v: Mat<'_>, y: MatMut<'_>, add: bool) {
        for i in 0..v.n_rows() {
            let (v, y) = (v.row(i), y.row_mut(i));
            if add {
                for ((y, v), g) in y.iter_mut().zip(v).zip(gains) {
                    *y = fma::<FMA>(*g, *v, *y);
                }
            } else {
                for ((y, v), g) in y.iter_mut().zip(v).zip(gains) {
                    *y = g * v;
                }
            }
        }
    }
}

/// Adds `dL/dm` to `grad` (as long as the adapter's parameters); `v` becomes `d = g dy`.
pub fn dora_backward(
    group: &LoraGroup,
    gains: &[f32],
    norms: &[f32],
    grad: &mut [f32],
    dy: Mat<'_>,
    v: MatMut<'_>,
    par: Par,
) {
    let mut sums = vec![0.0; gains.len()];
    backward(gains, dy, v, &mut sums, par);
    for part in &group.parts {
        let Some(m) = part.magnitude else { continue };
        for (j, out) in part.out.clone().enumerate().filter(|(_, out)| norms[*out] > 0.0) {
            grad[m + j] += sums[out] / norms[out];
        }
    }
}

/// `sums (outputs) += sum over tokens of dy v`, `v = g dy`.
fn backward(gains: &[f32], dy: Mat<'_>, v: MatMut<'_>, sums: &mut [f32], par: Par) {
    let n = dy.n_rows();
    if par.is_serial() || n < 2 * TOKENS_PER_THREAD {
        return backward_serial(gains, dy, v, sums);
    }
    let ((v0, v1), (p, q)) = (v.split_rows(n / 2), par.halves());
    let mut other = vec![0.0; sums.len()];
    rayon::join(
        || backward(gains, dy.rows(0..n / 2), v0, sums, p),
        || backward(gains, dy.rows(n / 2..n), v1, &mut other, q),
    );
    for (sum, other) in sums.iter_mut().zip(other) {
        *sum += other;
    }
}

simd! {
    fn backward_serial(gains: &[f32], dy: Mat<'_>, v: MatMut<'_>, sums: &mut [f32]) {
        for i in 0..dy.n_rows() {
            for (((v, dy), g), sum) in v.row_mut(i).iter_mut().zip(dy.row(i)).zip(gains).zip(sums.iter_mut()) {
                *sum = fma::<FMA>(*dy, *v, *sum);
                *v = g * dy;
            }
        }
    }
}
