//! Forward and backward of whole blocks by hand over one thread's buffers.
//!
//! Each layer's input is kept; the rest of its activations is kept as far as the memory that was granted reaches, from the top
//! layer down, and otherwise made again by the same operations before the layer's backward (Chen et al. 2016,
//! arXiv:1604.06174): the gradient is the same bit for bit.
//!
//! The residual stream's gradient `d_x` runs backwards through the layers and every branch adds to it. What is cheap to make
//! again (normalized states, swiglu's output) is not kept. Frozen weights get no gradient, and the backward ends at the
//! lowest layer that is trained.

use super::workspace::{Saved, Workspace};
use crate::model::decoder::{Decoder, LayerAt};
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::lora::Lora;
use crate::ops::{self, Dropout, Mat, MatMut, Par, Write};

/// What is computed: the model and, if any, its adapter. Without an adapter every parameter is trained.
#[derive(Clone, Copy)]
pub(super) struct Net<'a> {
    pub decoder: &'a Decoder,
    pub lora: Option<&'a Lora>,
    /// Rate of dropout on the adapter's inputs, in a training step.
    pub dropout: Option<f32>,
    /// Bytes that one thread's activations may take; layers beyond it are computed again in the backward.
    pub activations: usize,
    pub par: Par,
}

/// Group of the linear layers; the order of `LayerAt::linears`.
const QKV: usize = 0;
const O: usize = 1;
const GATE_UP: usize = 2;
const DOWN: usize = 3;
const LAYER_GROUPS: usize = 4;

impl Net<'_> {
    /// Sum of the losses of the packed batch; with `scale` and a gradient, adds `scale * d(loss)` to it.
    pub fn run(&self, ws: &mut Workspace, backward: Option<(f32, &mut [f32])>) -> f64 {
        ws.fit(self.decoder, self.lora, self.activations, backward.is_some(), self.dropout.is_some());
        self.forward(ws);
        self.gather(ws);
        let (config, n) = (&self.decoder.config, ws.targets.len());
        let hidden = Mat::new(&ws.hidden, n, config.hidden);
        let Some((scale, grad)) = backward else {
            return ops::linear_cross_entropy(
                hidden,
                self.decoder.head(),
                &ws.targets,
                &mut ws.logits,
                self.par,
            );
        };
        let d_head = self
            .lora
            .is_none()
            .then(|| MatMut::new(&mut grad[self.decoder.layout.head..], config.vocab, config.hidden));
        let d_hidden = MatMut::new(&mut ws.d_hidden, n, config.hidden);
        let (head, targets) = (self.decoder.head(), &ws.targets);
        let loss = ops::linear_cross_entropy_backward(
            hidden,
            head,
            targets,
            scale,
            &mut ws.logits,
            d_hidden,
            d_head,
            self.par,
        );
        self.backward(ws, grad);
        loss
    }

    fn forward(&self, ws: &mut Workspace) {
        let d = self.decoder;
        let (c, n, h) = (&d.config, ws.ids.len(), d.config.hidden);
        let first = ws.places.input_of(0);
        ops::embedding(d.embedding(), &ws.ids, MatMut::new(&mut ws.inputs[first], n, h));
        for layer in 0..c.layers {
            self.layer_forward(layer, ws, true);
        }
        let norm = d.slice(d.layout.norm, h);
        let x = Mat::new(&ws.inputs[ws.places.input_of(c.layers)], n, h);
        ops::rms_norm(x, norm, c.rms_eps, MatMut::new(&mut ws.normed, n, h), &mut ws.r, self.par);
    }

    /// Fills the layer's [`Saved`] from its input. With `output` goes on to the input of the layer above; when activations
    /// are made again that is there already, and the last product is spared.
    fn layer_forward(&self, layer: usize, ws: &mut Workspace, output: bool) {
        let d = self.decoder;
        let (c, shape, par) = (&d.config, d.attention_shape(), self.par);
        let (n, h, at) = (ws.ids.len(), c.hidden, &d.layout.layers[layer]);
        let (slot, input) = (ws.places.slot(layer), ws.places.input_of(layer));
        let (s, x) = (&mut ws.saved[slot], Mat::new(&ws.inputs[input], n, h));
        let linear = |group: usize| self.linear(layer, group, &ws.keys);

        let norm = d.slice(at.attention_norm, h);
        ops::rms_norm(x, norm, c.rms_eps, MatMut::new(&mut ws.normed, n, h), &mut s.r, par);
        let (normed, out) = (Mat::new(&ws.normed, n, h), MatMut::new(&mut s.qkv, n, shape.qkv_cols()));
        linear(QKV).forward(normed, &mut s.linear[QKV], &mut ws.linear, out, Write::Set, par);
        self.position(at, s, &ws.table, &ws.positions);
        let qkv = Mat::new(&s.qkv, n, shape.qkv_cols());
        let out = MatMut::new(&mut s.mixed, n, shape.q_cols());
        ops::attention(&shape, qkv, &ws.rows, out, &mut s.lse, par);
        MatMut::new(&mut s.x_mid, n, h).copy_from(x);
        let (mixed, out) = (Mat::new(&s.mixed, n, shape.q_cols()), MatMut::new(&mut s.x_mid, n, h));
        linear(O).forward(mixed, &mut s.linear[O], &mut ws.linear, out, Write::Add, par);

        let (x_mid, norm) = (Mat::new(&s.x_mid, n, h), d.slice(at.ffn_norm, h));
        ops::rms_norm(x_mid, norm, c.rms_eps, MatMut::new(&mut ws.normed, n, h), &mut s.r_mid, par);
        let (normed, out) = (Mat::new(&ws.normed, n, h), MatMut::new(&mut s.gate_up, n, 2 * c.ffn));
        linear(GATE_UP).forward(normed, &mut s.linear[GATE_UP], &mut ws.linear, out, Write::Set, par);
        let inner = MatMut::new(&mut ws.inner, n, c.ffn);
        ops::swiglu(Mat::new(&s.gate_up, n, 2 * c.ffn), inner, par);
        let inner = Mat::new(&ws.inner, n, c.ffn);
        let down = linear(DOWN);
        if output {
            let mut out = MatMut::new(&mut ws.inputs[ws.places.input_of(layer + 1)], n, h);
            out.copy_from(x_mid);
            down.forward(inner, &mut s.linear[DOWN], &mut ws.linear, out, Write::Add, par);
        } else {
            down.forward_again(inner, &mut s.linear[DOWN], &mut ws.linear, par);
        }
        s.of = Some(layer);
    }

    /// q and k norm where the architecture has it, then rotation.
    fn position(&self, at: &LayerAt, s: &mut Saved, table: &ops::RopeTable, positions: &[u32]) {
        let (c, shape, n) = (&self.decoder.config, self.decoder.attention_shape(), positions.len());
        let qk_cols = shape.q_cols() + shape.kv_cols();
        let (mut qk, _) = MatMut::new(&mut s.qkv, n, shape.qkv_cols()).split_cols(qk_cols);
        if let Some((q_norm, k_norm)) = at.qk_norm {
            MatMut::new(&mut s.qk, n, qk_cols).copy_from(qk.as_mat());
            let (q, k) = qk.rb().split_cols(shape.q_cols());
            ops::rms_norm_heads(q, self.decoder.slice(q_norm, c.head_dim), c.rms_eps, &mut s.r_q);
            ops::rms_norm_heads(k, self.decoder.slice(k_norm, c.head_dim), c.rms_eps, &mut s.r_k);
        }
        ops::rotate(qk, c.head_dim, table, positions, false, self.par);
    }

    /// The normalized states of the predicting tokens, side by side: only they go through the output layer.
    fn gather(&self, ws: &mut Workspace) {
        let h = self.decoder.config.hidden;
        for (i, token) in ws.predicting.iter().enumerate() {
            ws.hidden[i * h..(i + 1) * h].copy_from_slice(&ws.normed[token * h..(token + 1) * h]);
        }
    }

    fn backward(&self, ws: &mut Workspace, grad: &mut [f32]) {
        let (d, par, full) = (self.decoder, self.par, self.lora.is_none());
        let (c, n) = (&d.config, ws.ids.len());
        let h = c.hidden;
        ws.d_h[..n * h].fill(0.0);
        for (i, token) in ws.predicting.iter().enumerate() {
            ws.d_h[token * h..(token + 1) * h].copy_from_slice(&ws.d_hidden[i * h..(i + 1) * h]);
        }
        let x = Mat::new(&ws.inputs[ws.places.input_of(c.layers)], n, h);
        let d_h = Mat::new(&ws.d_h, n, h);
        ops::rms_norm_backward(
            x,
            d.slice(d.layout.norm, h),
            &ws.r,
            d_h,
            MatMut::new(&mut ws.d_x, n, h),
            false,
            par,
        );
        if full {
            ops::rms_norm_weight_backward(x, &ws.r, d_h, &mut grad[d.layout.norm..d.layout.norm + h]);
        }
        let lowest = self.lowest();
        for layer in (lowest.0..c.layers).rev() {
            // The lowest trained group of this layer; below it nothing asks for a gradient.
            let stop = if layer == lowest.0 && !full { Some(lowest.1) } else { None };
            self.layer_backward(layer, stop, ws, grad);
        }
        if full {
            let d_table = MatMut::new(&mut grad[d.layout.embedding..], c.vocab, h);
            ops::embedding_backward(Mat::new(&ws.d_x, n, h), &ws.ids, d_table);
        }
    }

    /// Layer and group of the lowest adapter; the very first without one.
    fn lowest(&self) -> (usize, usize) {
        let Some(lora) = self.lora else { return (0, 0) };
        lora.modules.iter().map(|m| (m.layer, m.group)).min().unwrap_or((self.decoder.config.layers, 0))
    }

    fn layer_backward(&self, layer: usize, stop: Option<usize>, ws: &mut Workspace, grad: &mut [f32]) {
        let d = self.decoder;
        let (c, shape, par, full) = (&d.config, d.attention_shape(), self.par, self.lora.is_none());
        let (n, h) = (ws.ids.len(), c.hidden);
        let at = &d.layout.layers[layer];
        if ws.saved[ws.places.slot(layer)].of != Some(layer) {
            self.layer_forward(layer, ws, false);
        }
        let s = &mut ws.saved[ws.places.slot(layer)];
        let linear = |group: usize| self.linear(layer, group, &ws.keys);
        let below = |group: usize| stop.is_none_or(|lowest| group > lowest);

        // Feed-forward. swiglu's output is only there after its backward, which wants the gradient for it first.
        let (dy, d_inner) = (Mat::new(&ws.d_x, n, h), MatMut::new(&mut ws.inner, n, c.ffn));
        linear(DOWN).backward_x(grad, dy, &mut s.linear[DOWN], &mut ws.linear, Some(d_inner), par);
        ops::swiglu_backward(
            MatMut::new(&mut s.gate_up, n, 2 * c.ffn),
            MatMut::new(&mut ws.inner, n, c.ffn),
            par,
        );
        self.backward_weights(
            linear(DOWN),
            grad,
            dy,
            Mat::new(&ws.inner, n, c.ffn),
            &s.linear[DOWN],
            &mut ws.linear,
        );
        if !below(DOWN) {
            return;
        }
        let (dy, norm) = (Mat::new(&s.gate_up, n, 2 * c.ffn), d.slice(at.ffn_norm, h));
        let d_h = below(GATE_UP).then(|| MatMut::new(&mut ws.d_h, n, h));
        linear(GATE_UP).backward_x(grad, dy, &mut s.linear[GATE_UP], &mut ws.linear, d_h, par);
        let x_mid = Mat::new(&s.x_mid, n, h);
        ops::rms_norm_again(x_mid, norm, &s.r_mid, MatMut::new(&mut ws.normed, n, h), par);
        self.backward_weights(
            linear(GATE_UP),
            grad,
            dy,
            Mat::new(&ws.normed, n, h),
            &s.linear[GATE_UP],
            &mut ws.linear,
        );
        if !below(GATE_UP) {
            return;
        }
        let d_h = Mat::new(&ws.d_h, n, h);
        if full {
            ops::rms_norm_weight_backward(x_mid, &s.r_mid, d_h, &mut grad[at.ffn_norm..at.ffn_norm + h]);
        }
        ops::rms_norm_backward(x_mid, norm, &s.r_mid, d_h, MatMut::new(&mut ws.d_x, n, h), true, par);

        // Attention.
        let (dy, mixed) = (Mat::new(&ws.d_x, n, h), Mat::new(&s.mixed, n, shape.q_cols()));
        let d_mixed = below(O).then(|| MatMut::new(&mut ws.d_h, n, shape.q_cols()));
        linear(O).backward_x(grad, dy, &mut s.linear[O], &mut ws.linear, d_mixed, par);
        self.backward_weights(linear(O), grad, dy, mixed, &s.linear[O], &mut ws.linear);
        if !below(O) {
            return;
        }
        let (qkv, d_mixed) = (Mat::new(&s.qkv, n, shape.qkv_cols()), Mat::new(&ws.d_h, n, shape.q_cols()));
        let d_qkv = MatMut::new(&mut ws.d_qkv, n, shape.qkv_cols());
        ops::attention_backward(&shape, qkv, &ws.rows, mixed, &s.lse, d_mixed, d_qkv, par);
        let (mut d_qk, _) =
            MatMut::new(&mut ws.d_qkv, n, shape.qkv_cols()).split_cols(shape.q_cols() + shape.kv_cols());
        ops::rotate(d_qk.rb(), c.head_dim, &ws.table, &ws.positions, true, par);
        if let Some((q_norm, k_norm)) = at.qk_norm {
            let (d_q, d_k) = d_qk.split_cols(shape.q_cols());
            let before = Mat::new(&s.qk, n, shape.q_cols() + shape.kv_cols());
            let (q, k) = (before.cols(0..shape.q_cols()), before.cols(shape.q_cols()..before.n_cols()));
            for (x, offset, r, d_x) in [(q, q_norm, &s.r_q, d_q), (k, k_norm, &s.r_k, d_k)] {
                let dw = if full { Some(&mut grad[offset..offset + c.head_dim]) } else { None };
                ops::rms_norm_heads_backward(x, d.slice(offset, c.head_dim), r, d_x, dw);
            }
        }
        let (dy, norm) = (Mat::new(&ws.d_qkv, n, shape.qkv_cols()), d.slice(at.attention_norm, h));
        let d_h = below(QKV).then(|| MatMut::new(&mut ws.d_h, n, h));
        linear(QKV).backward_x(grad, dy, &mut s.linear[QKV], &mut ws.linear, d_h, par);
        let x = Mat::new(&ws.inputs[ws.places.input_of(layer)], n, h);
        ops::rms_norm_again(x, norm, &s.r, MatMut::new(&mut ws.normed, n, h), par);
        self.backward_weights(
            linear(QKV),
            grad,
            dy,
            Mat::new(&ws.normed, n, h),
            &s.linear[QKV],
            &mut ws.linear,
        );
        if !below(QKV) {
            return;
        }
        let d_h = Mat::new(&ws.d_h, n, h);
        if full {
            ops::rms_norm_weight_backward(x, &s.r, d_h, &mut grad[at.attention_norm..at.attention_norm + h]);
        }
        ops::rms_norm_backward(x, norm, &s.r, d_h, MatMut::new(&mut ws.d_x, n, h), true, par);
    }

    /// A group of linear layers; `keys` are the tokens' for dropout.
    fn linear<'b>(&'b self, layer: usize, group: usize, keys: &'b [u64]) -> Linear<'b> {
        let stream = (layer * LAYER_GROUPS + group) as u64;
        let dropout = self.dropout.map(|rate| Dropout { keys, layer: stream, rate });
        Linear::new(self.decoder, self.lora, layer, group).with_dropout(dropout)
    }

    /// Gradients of the adapter, or of weight and bias where everything is trained.
    fn backward_weights(
        &self,
        linear: Linear<'_>,
        grad: &mut [f32],
        dy: Mat<'_>,
        x: Mat<'_>,
        saved: &LinearSaved,
        scratch: &mut LinearScratch,
    ) {
        match self.lora {
            Some(_) => linear.backward_adapter(grad, dy, x, saved, scratch, self.par),
            None => linear.backward_full(grad, dy, x, self.par),
        }
    }
}
