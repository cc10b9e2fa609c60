//! One group of linear layers with its adapter: forward, and the backward by hand.
//!
//! All that a training method changes about a layer stands here; the passes over whole blocks only ask for it.

use std::ops::Range;

use super::decoder::{Decoder, LinearAt};
use super::lora::Lora;
use crate::ops::{self, Dropout, LoraGroup, Mat, MatMut, Par, Weight, Write};

/// What the backward of a group wants of its forward, beside the input.
#[derive(Debug, Default)]
pub(super) struct LinearSaved {
    /// `x A^T` (tokens x rank).
    pub u: Vec<f32>,
    /// With DoRA, the output before its magnitude and bias (tokens x outputs); then the gradient for it.
    pub v: Vec<f32>,
}

/// Buffers that serve all groups in turn.
#[derive(Debug, Default)]
pub(super) struct LinearScratch {
    /// Gradient of `u` (tokens x rank), from [`Linear::backward_x`] to [`Linear::backward_adapter`].
    pub c: Vec<f32>,
    /// With dropout, the adapter's input or the gradient for it (tokens x inputs).
    pub dropped: Vec<f32>,
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
    /// What is taken off with PiSSA.
    start: Option<(&'a LoraGroup, &'a [f32])>,
    /// With DoRA, lengths of the rows of `W + scale B A`.
    norms: Option<&'a [f32]>,
    /// On the input of `A`, in training steps.
    dropout: Option<Dropout<'a>>,
}

impl<'a> Linear<'a> {
    pub fn new(decoder: &'a Decoder, lora: Option<&'a Lora>, layer: usize, group: usize) -> Self {
        let at = &decoder.layout.layers[layer].linears[group];
        let adapter = lora.and_then(|lora| {
            Some(Adapter {
                group: lora.group(layer, group)?,
                values: &lora.params,
                start: lora
                    .start
                    .as_ref()
                    .and_then(|s| Some((s.groups[layer][group].as_ref()?, s.params.as_slice()))),
                norms: lora.norms.as_ref().and_then(|norms| norms[layer][group].as_deref()),
                dropout: None,
            })
        });
        Self { at, weight: decoder.weight(at, layer, group), bias: at.bias(&decoder.params), adapter }
    }

    /// The same with dropout on the adapter's input.
    pub fn with_dropout(mut self, dropout: Option<Dropout<'a>>) -> Self {
        if let Some(adapter) = &mut self.adapter {
            adapter.dropout = dropout;
        }
        self
    }

    /// `y (=|+=) x W^T + bias + adapter`.
    pub fn forward(
        &self,
        x: Mat<'_>,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
        mut y: MatMut<'_>,
        write: Write,
        par: Par,
    ) {
        let n = x.n_rows();
        let Some(Adapter { group, values, start, norms, dropout }) = self.adapter else {
            ops::linear(y.rb(), write, x, self.weight, par);
            return self.add_bias(y);
        };
        let for_a = match dropout {
            Some(mask) => dropped(x, &mask, &mut scratch.dropped),
            None => x,
        };
        if let Some(norms) = norms {
            let mut v = MatMut::new(&mut saved.v, n, self.at.outputs);
            ops::linear(v.rb(), Write::Set, x, self.weight, par);
            ops::lora_forward(group, values, for_a, MatMut::new(&mut saved.u, n, group.rank), v.rb(), par);
            ops::dora_forward(&ops::dora_gains(group, values, norms), v.as_mat(), y.rb(), write, par);
            return self.add_bias(y);
        }
        ops::linear(y.rb(), write, x, self.weight, par);
        // The same buffer for both: the backward wants the trained adapter's u, which comes last.
        if let Some((group, values)) = start {
            ops::lora_forward(group, values, for_a, MatMut::new(&mut saved.u, n, group.rank), y.rb(), par);
        }
        ops::lora_forward(group, values, for_a, MatMut::new(&mut saved.u, n, group.rank), y.rb(), par);
        self.add_bias(y);
    }

    /// What the backward wants of the forward, once more, without the output.
    pub fn forward_again(&self, x: Mat<'_>, saved: &mut LinearSaved, scratch: &mut LinearScratch, par: Par) {
        let Some(Adapter { group, values, norms, dropout, .. }) = self.adapter else { return };
        let n = x.n_rows();
        let for_a = match dropout {
            Some(mask) => dropped(x, &mask, &mut scratch.dropped),
            None => x,
        };
        let u = MatMut::new(&mut saved.u, n, group.rank);
        if norms.is_some() {
            let mut v = MatMut::new(&mut saved.v, n, self.at.outputs);
            ops::linear(v.rb(), Write::Set, x, self.weight, par);
            ops::lora_forward(group, values, for_a, u, v, par);
        } else {
            ops::lora_down(group, values, for_a, u, par);
        }
    }

    fn add_bias(&self, y: MatMut<'_>) {
        if let Some(bias) = self.bias {
            ops::add_bias(y, bias);
        }
    }

    /// `dx = dy W [+ c A]`, `c = scale dy B`; with DoRA the magnitudes' gradient too.
    pub fn backward_x(
        &self,
        grad: &mut [f32],
        dy: Mat<'_>,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
        mut dx: Option<MatMut<'_>>,
        par: Par,
    ) {
        let n = dy.n_rows();
        let Some(Adapter { group, values, start, norms, dropout }) = self.adapter else {
            if let Some(dx) = dx {
                ops::linear_backward_x(dx, dy, self.weight, par);
            }
            return;
        };
        let dy = match norms {
            Some(norms) => {
                let gains = ops::dora_gains(group, values, norms);
                let v = MatMut::new(&mut saved.v, n, self.at.outputs);
                ops::dora_backward(group, &gains, norms, grad, dy, v, par);
                Mat::new(&saved.v, n, self.at.outputs)
            }
            None => dy,
        };
        if let Some(dx) = &mut dx {
            ops::linear_backward_x(dx.rb(), dy, self.weight, par);
        }
        // Through the adapter: straight into dx, or with dropout into a buffer that is masked first.
        let mut through = match (&mut dx, dropout) {
            (Some(_), Some(_)) => {
                let mut masked = MatMut::new(&mut scratch.dropped, n, self.at.inputs);
                masked.fill(0.0);
                Some(masked)
            }
            (Some(dx), None) => Some(dx.rb()),
            (None, _) => None,
        };
        if let Some((group, values)) = start {
            let c = MatMut::new(&mut scratch.c, n, group.rank);
            ops::lora_backward_x(group, values, dy, c, through.as_mut().map(MatMut::rb), par);
        }
        ops::lora_backward_x(group, values, dy, MatMut::new(&mut scratch.c, n, group.rank), through, par);
        if let (Some(dx), Some(mask)) = (dx, dropout) {
            ops::dropout_backward(Mat::new(&scratch.dropped, n, self.at.inputs), &mask, dx);
        }
    }

    /// Gradients of the adapter's `A` and `B`, if there is one.
    pub fn backward_adapter(
        &self,
        grad: &mut [f32],
        dy: Mat<'_>,
        x: Mat<'_>,
        saved: &LinearSaved,
        scratch: &mut LinearScratch,
        par: Par,
    ) {
        let Some(Adapter { group, norms, dropout, .. }) = self.adapter else { return };
        let n = dy.n_rows();
        let dy = if norms.is_some() { Mat::new(&saved.v, n, self.at.outputs) } else { dy };
        let x = match dropout {
            Some(mask) => dropped(x, &mask, &mut scratch.dropped),
            None => x,
        };
        let (u, c) = (Mat::new(&saved.u, n, group.rank), Mat::new(&scratch.c, n, group.rank));
        ops::lora_backward_weights(group, grad, dy, x, u, c, par);
    }

    /// Gradients of weight and bias, where everything is trained.
    pub fn backward_full(&self, grad: &mut [f32], dy: Mat<'_>, x: Mat<'_>, par: Par) {
        if let Some(weight) = self.at.weight {
            let d_weight = MatMut::new(&mut grad[weight..], self.at.outputs, self.at.inputs);
            ops::matmul(d_weight, Write::Add, 1.0, dy.t(), x, par);
        }
        if let Some(bias) = self.at.bias {
            ops::bias_backward(dy, &mut grad[bias..bias + self.at.outputs]);
        }
    }
}

/// Ranges of a batch's rows, each with its adapter; together all rows, in order.
pub(super) type Lanes<'a> = [(Range<usize>, Option<&'a Lora>)];

/// As [`Linear::forward`], every range of rows with an adapter of its own: the frozen product is one for all.
pub(super) fn forward_lanes(
    decoder: &Decoder,
    lanes: &Lanes<'_>,
    (layer, group): (usize, usize),
    x: Mat<'_>,
    saved: &mut LinearSaved,
    mut y: MatMut<'_>,
    write: Write,
    par: Par,
) {
    let base = Linear::new(decoder, None, layer, group);
    let adapters = lanes
        .iter()
        .filter_map(|(rows, lora)| Some((rows.clone(), Linear::new(decoder, *lora, layer, group).adapter?)));
    let add_delta = |adapter: &Adapter<'_>, x: Mat<'_>, u: &mut Vec<f32>, mut y: MatMut<'_>| {
        let terms = adapter.start.into_iter().chain([(adapter.group, adapter.values)]);
        for (group, values) in terms {
            let u = sized(u, x.n_rows() * group.rank);
            ops::lora_forward(group, values, x, MatMut::new(u, x.n_rows(), group.rank), y.rb(), par);
        }
    };
    if adapters.clone().all(|(_, adapter)| adapter.norms.is_none()) {
        ops::linear(y.rb(), write, x, base.weight, par);
        for (rows, adapter) in adapters {
            add_delta(&adapter, x.rows(rows.clone()), &mut saved.u, y.rb().rows(rows));
        }
        return base.add_bias(y);
    }
    // DoRA scales the whole product, so that it cannot be added to what stands in `y` before the deltas are.
    let (n, outputs) = (x.n_rows(), base.at.outputs);
    ops::linear(MatMut::new(sized(&mut saved.v, n * outputs), n, outputs), Write::Set, x, base.weight, par);
    for (rows, lora) in lanes {
        let mut v = MatMut::new(&mut saved.v, n, outputs).rows(rows.clone());
        let adapter = Linear::new(decoder, *lora, layer, group).adapter;
        if let Some(adapter) = &adapter {
            add_delta(adapter, x.rows(rows.clone()), &mut saved.u, v.rb());
        }
        let gains = match adapter {
            Some(Adapter { norms: Some(norms), group, values, .. }) => ops::dora_gains(group, values, norms),
            _ => vec![1.0; outputs],
        };
        ops::dora_forward(&gains, v.as_mat(), y.rb().rows(rows.clone()), write, par);
    }
    base.add_bias(y);
}

fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

fn dropped<'b>(x: Mat<'_>, mask: &Dropout<'_>, buffer: &'b mut [f32]) -> Mat<'b> {
    ops::dropout(x, mask, MatMut::new(buffer, x.n_rows(), x.n_cols()));
    Mat::new(buffer, x.n_rows(), x.n_cols())
}
