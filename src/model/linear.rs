//! One group of linear layers with its adapter: forward, and the backward by hand.
//!
//! All that a training method changes about a layer stands here; the passes over whole blocks only ask for it.

use super::decoder::{Decoder, LinearAt};
use super::lora::Lora;
use crate::ops::{self, LoraGroup, Mat, MatMut, Par, Weight, Write};

/// What the backward of a group wants of its forward, beside the input.
#[derive(Debug, Default)]
pub(super) struct LinearSaved {
    /// `x A^T` (tokens x rank).
    pub u: Vec<f32>,
}

/// Buffers that serve all groups in turn.
#[derive(Debug, Default)]
pub(super) struct LinearScratch {
    /// Gradient of `u` (tokens x rank), from [`Linear::backward_x`] to [`Linear::backward_weights`].
    pub c: Vec<f32>,
}

/// Layers that share their input, stacked: `y = x W^T + bias + adapter`.
#[derive(Clone, Copy)]
pub(super) struct Linear<'a> {
    at: &'a LinearAt,
    weight: Weight<'a>,
    bias: Option<&'a [f32]>,
    adapter: Option<Adapter<'a>>,
}

#[derive(Clone, Copy)]
struct Adapter<'a> {
    group: &'a LoraGroup,
    values: &'a [f32],
}

impl<'a> Linear<'a> {
    pub fn new(decoder: &'a Decoder, lora: Option<&'a Lora>, layer: usize, group: usize) -> Self {
        let at = &decoder.layout.layers[layer].linears[group];
        let adapter =
            lora.and_then(|lora| Some(Adapter { group: lora.group(layer, group)?, values: lora.values() }));
        Self { at, weight: decoder.weight(at), bias: at.bias(&decoder.params), adapter }
    }

    /// `y (=|+=) x W^T + bias + adapter`.
    pub fn forward(&self, x: Mat<'_>, saved: &mut LinearSaved, mut y: MatMut<'_>, write: Write, par: Par) {
        ops::linear(y.rb(), write, x, self.weight, par);
        if let Some(bias) = self.bias {
            ops::add_bias(y.rb(), bias);
        }
        if let Some(Adapter { group, values }) = self.adapter {
            let u = MatMut::new(&mut saved.u, x.n_rows(), group.rank);
            ops::lora_forward(group, values, x, u, y, par);
        }
    }

    /// What the backward wants of the forward, once more, without the output.
    pub fn forward_again(&self, x: Mat<'_>, saved: &mut LinearSaved, par: Par) {
        if let Some(Adapter { group, values }) = self.adapter {
            ops::lora_down(group, values, x, MatMut::new(&mut saved.u, x.n_rows(), group.rank), par);
        }
    }

    /// `dx = dy W [+ c A]`, `c = scale dy B`.
    pub fn backward_x(&self, dy: Mat<'_>, scratch: &mut LinearScratch, mut dx: Option<MatMut<'_>>, par: Par) {
        if let Some(dx) = &mut dx {
            ops::linear_backward_x(dx.rb(), dy, self.weight, par);
        }
        if let Some(Adapter { group, values }) = self.adapter {
            let c = MatMut::new(&mut scratch.c, dy.n_rows(), group.rank);
            ops::lora_backward_x(group, values, dy, c, dx, par);
        }
    }

    /// Gradients of the adapter, if there is one.
    pub fn backward_adapter(
        &self,
        grad: &mut [f32],
        dy: Mat<'_>,
        x: Mat<'_>,
        saved: &LinearSaved,
        scratch: &LinearScratch,
        par: Par,
    ) {
        if let Some(Adapter { group, .. }) = self.adapter {
            let n = dy.n_rows();
            let (u, c) = (Mat::new(&saved.u, n, group.rank), Mat::new(&scratch.c, n, group.rank));
            ops::lora_backward_weights(group, grad, dy, x, u, c, par);
        }
    }

    /// Gradients of weight and bias, where everything is trained.
    pub fn backward_full(&self, grad: &mut [f32], dy: Mat<'_>, x: Mat<'_>, par: Par) {
        let d_weight = MatMut::new(&mut grad[self.at.weight..], self.at.outputs, self.at.inputs);
        ops::matmul(d_weight, Write::Add, 1.0, dy.t(), x, par);
        if let Some(bias) = self.at.bias {
            ops::bias_backward(dy, &mut grad[bias..bias + self.at.outputs]);
        }
    }
}
