//! The weight of a linear layer as it stands in memory, and the two products that a pass makes with it.

use std::ops::Range;

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::nf4::Nf4;
use super::par::Par;

/// Elements of a quantized weight that stand in f32 at once, for each thread that computes: 1 MiB.
const ELEMENTS_AT_ONCE: usize = 1 << 18;
/// Fewer elements are not worth another thread.
const ELEMENTS_PER_THREAD: usize = 1 << 14;

/// A weight (outputs x inputs) that is read.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    F32(Mat<'a>),
    /// One below the other, with as many inputs each.
    Nf4(&'a [Nf4]),
}

impl Weight<'_> {
    /// Writes some rows (rows x inputs) in f32 to `into`.
    pub fn read_rows(&self, rows: Range<usize>, mut into: MatMut<'_>) {
        match self {
            Self::F32(weight) => into.copy_from(weight.rows(rows)),
            Self::Nf4(weights) => {
                let mut first = 0;
                for weight in *weights {
                    let here = first..first + weight.n_rows();
                    let (start, end) = (rows.start.max(here.start), rows.end.min(here.end));
                    if start < end {
                        let mut into = into.rb().rows(start - rows.start..end - rows.start);
                        weight.read_rows(start - first..end - first, &mut into);
                    }
                    first = here.end;
                }
            }
        }
    }
}

/// `y (tokens x outputs) = [y +] x W^T`.
pub fn linear(mut y: MatMut<'_>, write: Write, x: Mat<'_>, weight: Weight<'_>, par: Par) {
    match weight {
        Weight::F32(weight) => matmul(y, write, 1.0, x, weight.t(), par),
        Weight::Nf4(_) => in_tiles(weight, y.n_cols(), x.n_cols(), par, |rows, tile| {
            matmul(y.rb().cols(rows), write, 1.0, x, tile.t(), par);
        }),
    }
}

/// `dx (tokens x inputs) = dy W`.
pub fn linear_backward_x(mut dx: MatMut<'_>, dy: Mat<'_>, weight: Weight<'_>, par: Par) {
    match weight {
        Weight::F32(weight) => matmul(dx, Write::Set, 1.0, dy, weight, par),
        Weight::Nf4(_) => in_tiles(weight, dy.n_cols(), dx.n_cols(), par, |rows, tile| {
            let write = if rows.start == 0 { Write::Set } else { Write::Add };
            matmul(dx.rb(), write, 1.0, dy.cols(rows), tile, par);
        }),
    }
}

/// Gives the weight's rows in f32 (rows x inputs), some at a time: never the whole matrix, if it is large.
fn in_tiles(
    weight: Weight<'_>,
    outputs: usize,
    inputs: usize,
    par: Par,
    mut with: impl FnMut(Range<usize>, Mat<'_>),
) {
    let rows = (ELEMENTS_AT_ONCE / inputs.max(1)).clamp(1, outputs.max(1));
    let mut buffer = vec![0.0; rows * inputs];
    for start in (0..outputs).step_by(rows) {
        let tile = start..outputs.min(start + rows);
        read_parallel(weight, tile.clone(), MatMut::new(&mut buffer, tile.len(), inputs), par);
        with(tile.clone(), Mat::new(&buffer, tile.len(), inputs));
    }
}

fn read_parallel(weight: Weight<'_>, rows: Range<usize>, into: MatMut<'_>, par: Par) {
    if par.is_serial() || rows.len() < 2 || rows.len() * into.n_cols() < 2 * ELEMENTS_PER_THREAD {
        return weight.read_rows(rows, into);
    }
    let half = rows.len() / 2;
    let ((upper, lower), (p, q)) = (into.split_rows(half), par.halves());
    rayon::join(
        || read_parallel(weight, rows.start..rows.start + half, upper, p),
        || read_parallel(weight, rows.start + half..rows.end, lower, q),
    );
}
