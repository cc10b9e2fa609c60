//! Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a group of linear layers that share their input (q|k|v, gate|up).
//!
//! Per layer of the group `y += s (x A^T) B^T` with `A (r x in)`, `B (out x r)`, on top of the frozen `x W^T`. The `A` of a group
//! stand one below the other, so `x A^T` is one product. Backward, with `u = x A^T` kept and `c = s dy B`: `dx += c A`,
//! `dA += c^T x`, `dB += s dy^T u`. The frozen `W` gets no gradient at all.

use std::ops::Range;

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;

/// The adapter of one linear layer within its group; `b` is the offset of `B` in the adapter's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// Columns of the group's output.
    pub out: Range<usize>,
    /// Columns of the group's `u`, one per rank.
    pub ranks: Range<usize>,
    pub scale: f32,
    pub b: usize,
    /// Offset of DoRA's magnitudes (one for each output), where the adapter is one.
    pub magnitude: Option<usize>,
}

/// The adapters of one group; `a` is the offset of the stacked `A (rank x inputs)` in the adapter's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraGroup {
    pub inputs: usize,
    /// Sum of the parts' ranks.
    pub rank: usize,
    pub a: usize,
    pub parts: Vec<LoraPart>,
}

impl LoraGroup {
    pub(super) fn a<'a>(&self, params: &'a [f32]) -> Mat<'a> {
        Mat::new(&params[self.a..], self.rank, self.inputs)
    }
}

impl LoraPart {
    pub(super) fn b<'a>(&self, params: &'a [f32]) -> Mat<'a> {
        Mat::new(&params[self.b..], self.out.len(), self.ranks.len())
    }
}

/// Writes `u = x A^T` (tokens x rank).
pub fn lora_down(group: &LoraGroup, params: &[f32], x: Mat<'_>, u: MatMut<'_>, par: Par) {
    matmul(u, Write::Set, 1.0, x, group.a(params).t(), par);
}

/// Writes `u` (tokens x rank), adds to `y` (tokens x out of the group).
pub fn lora_forward(
    group: &LoraGroup,
    params: &[f32],
    x: Mat<'_>,
    mut u: MatMut<'_>,
    mut y: MatMut<'_>,
    par: Par,
) {
    lora_down(group, params, x, u.rb(), par);
    for part in &group.parts {
        let u = u.as_mat().cols(part.ranks.clone());
        matmul(y.rb().cols(part.out.clone()), Write::Add, part.scale, u, part.b(params).t(), par);
    }
}

/// Writes `c` (tokens x rank); adds to `dx` (tokens x in) if given.
pub fn lora_backward_x(
    group: &LoraGroup,
    params: &[f32],
    dy: Mat<'_>,
    mut c: MatMut<'_>,
    dx: Option<MatMut<'_>>,
    par: Par,
) {
    for part in &group.parts {
        let dy = dy.cols(part.out.clone());
        matmul(c.rb().cols(part.ranks.clone()), Write::Set, part.scale, dy, part.b(params), par);
    }
    if let Some(dx) = dx {
        matmul(dx, Write::Add, 1.0, c.as_mat(), group.a(params), par);
    }
}

/// Adds to `grad` (as long as the adapter's parameters) the gradients of the group's `A` and `B`.
pub fn lora_backward_weights(
    group: &LoraGroup,
    grad: &mut [f32],
    dy: Mat<'_>,
    x: Mat<'_>,
    u: Mat<'_>,
    c: Mat<'_>,
    par: Par,
) {
    let d_a = MatMut::new(&mut grad[group.a..], group.rank, group.inputs);
    matmul(d_a, Write::Add, 1.0, c.t(), x, par);
    for part in &group.parts {
        let d_b = MatMut::new(&mut grad[part.b..], part.out.len(), part.ranks.len());
        matmul(d_b, Write::Add, part.scale, dy.cols(part.out.clone()).t(), u.cols(part.ranks.clone()), par);
    }
}
