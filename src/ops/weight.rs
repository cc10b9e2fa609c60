//! The weight of a linear layer as it stands in memory, and the two products that a pass makes with it.

use std::ops::Range;

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;

/// A weight (outputs x inputs) that is read.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    F32(Mat<'a>),
}

impl Weight<'_> {
    /// Writes some rows (rows x inputs) in f32 to `into`.
    pub fn read_rows(&self, rows: Range<usize>, mut into: MatMut<'_>) {
        match self {
            Self::F32(weight) => into.copy_from(weight.rows(rows)),
        }
    }
}

/// `y (tokens x outputs) = [y +] x W^T`.
pub fn linear(y: MatMut<'_>, write: Write, x: Mat<'_>, weight: Weight<'_>, par: Par) {
    match weight {
        Weight::F32(weight) => matmul(y, write, 1.0, x, weight.t(), par),
    }
}

/// `dx (tokens x inputs) = dy W`.
pub fn linear_backward_x(dx: MatMut<'_>, dy: Mat<'_>, weight: Weight<'_>, par: Par) {
    match weight {
        Weight::F32(weight) => matmul(dx, Write::Set, 1.0, dy, weight, par),
    }
}
