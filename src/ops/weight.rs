//! The weight of a linear layer as it stands in memory, and the two products that a pass makes with it.

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;

/// A weight (outputs x inputs) that is read.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    F32(Mat<'a>),
}

impl Weight<'_> {
    pub fn outputs(&self) -> usize {
        match self {
            Self::F32(weight) => weight.n_rows(),
        }
    }

    pub fn inputs(&self) -> usize {
        match self {
            Self::F32(weight) => weight.n_cols(),
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
