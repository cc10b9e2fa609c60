//! The operations on the CPU: f32, each by a function of `ops/` over slices.

use super::device::{Batch, Device, Kind, Memory};
use crate::model::decoder::{Decoder, LayerAt};
use crate::model::linear::{Linear, LinearSaved, LinearScratch};
use crate::model::lora::Lora;
use crate::ops::{self, Dropout, Mat, MatMut, Par, RopeTable, Write};

const LAYER_GROUPS: usize = 4;

/// The host's memory.
#[derive(Debug)]
pub(super) struct Host;

/// The losses of the batch that was computed last.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub sum: f64,
    /// Of every target.
    pub each: Vec<f32>,
}

impl Memory for Host {
    type Buffer = Vec<f32>;
    type LinearSaved = LinearSaved;
    type LinearScratch = LinearScratch;
    type Batch = RopeTable;
    type Gradient = [f32];
    type Loss = Losses;

    fn bytes(_: Kind) -> usize {
        size_of::<f32>()
    }
}

/// The model on the CPU, computed with so much parallelism.
#[derive(Clone, Copy)]
pub(super) struct Cpu<'a> {
    pub decoder: &'a Decoder,
    pub lora: Option<&'a Lora>,
    /// Rate of dropout on the adapter's inputs, in a training step.
    pub dropout: Option<f32>,
    pub par: Par,
}

/// Grows without copying; what stands in a buffer is never read before it is written.
fn fit(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        // The old memory goes first, so that both are never there at once. Zeroed pages come lazily from the system.
        *buffer = Vec::new();
        *buffer = vec![0.0; len];
    }
}

impl Cpu<'_> {
    fn hidden(&self) -> usize {
        self.decoder.config.hidden
    }

    fn mat<'b>(&self, buffer: &'b [f32], n: usize) -> Mat<'b> {
        Mat::new(buffer, n, self.hidden())
    }

    fn mat_mut<'b>(&self, buffer: &'b mut [f32], n: usize) -> MatMut<'b> {
        MatMut::new(buffer, n, self.hidden())
    }

    fn norm(&self, at: usize) -> &[f32] {
        self.decoder.slice(at, self.hidden())
    }

    fn group<'b>(&'b self, (layer, group): (usize, usize), batch: &'b Batch<RopeTable>) -> Linear<'b> {
        let stream = (layer * LAYER_GROUPS + group) as u64;
        let dropout = self.dropout.map(|rate| Dropout { keys: &batch.packed.keys, layer: stream, rate });
        Linear::new(self.decoder, self.lora, layer, group).with_dropout(dropout)
    }

    /// Inputs and outputs of a group.
    fn widths(&self, (layer, group): (usize, usize)) -> (usize, usize) {
        let at = &self.decoder.layout.layers[layer].linears[group];
        (at.inputs, at.outputs)
    }
}

impl Device for Cpu<'_> {
    type Memory = Host;

    fn decoder(&self) -> &Decoder {
        self.decoder
    }

    fn lora(&self) -> Option<&Lora> {
        self.lora
    }

    fn fit(&self, buffer: &mut Vec<f32>, _: Kind, len: usize) {
        fit(buffer, len);
    }

    fn fit_linear(&self, saved: &mut LinearSaved, n: usize, rank: usize, magnitudes: usize) {
        fit(&mut saved.u, n * rank);
        fit(&mut saved.v, n * magnitudes);
    }

    fn fit_linear_scratch(&self, scratch: &mut LinearScratch, n: usize) {
        let (c, shape) = (&self.decoder.config, self.decoder.attention_shape());
        fit(&mut scratch.c, n * self.lora.map_or(0, Lora::widest));
        if self.dropout.is_some() {
            fit(&mut scratch.dropped, n * c.hidden.max(shape.q_cols()).max(c.ffn));
        }
    }

    fn take(&self, batch: &mut Batch<RopeTable>) {
        batch.own.cover(&self.decoder.rope, batch.packed.positions());
    }

    fn copy(&self, from: &Vec<f32>, to: &mut Vec<f32>, len: usize) {
        to[..len].copy_from_slice(&from[..len]);
    }

    fn embedding(&self, batch: &Batch<RopeTable>, x: &mut Vec<f32>) {
        let ids = &batch.packed.ids;
        ops::embedding(self.decoder.embedding(), ids, self.mat_mut(x, ids.len()));
    }

    fn embedding_backward(&self, batch: &Batch<RopeTable>, dx: &Vec<f32>, grad: &mut [f32]) {
        let (d, ids) = (self.decoder, &batch.packed.ids);
        let d_table = MatMut::new(&mut grad[d.layout.embedding..], d.config.vocab, d.config.hidden);
        ops::embedding_backward(self.mat(dx, ids.len()), ids, d_table);
    }

    fn rms_norm(&self, norm: usize, x: &Vec<f32>, y: &mut Vec<f32>, r: &mut Vec<f32>, n: usize) {
        let (x, y, eps) = (self.mat(x, n), self.mat_mut(y, n), self.decoder.config.rms_eps);
        ops::rms_norm(x, self.norm(norm), eps, y, r, self.par);
    }

    fn rms_norm_again(&self, norm: usize, x: &Vec<f32>, r: &Vec<f32>, y: &mut Vec<f32>, n: usize) {
        ops::rms_norm_again(self.mat(x, n), self.norm(norm), r, self.mat_mut(y, n), self.par);
    }

    fn rms_norm_backward(
        &self,
        norm: usize,
        x: &Vec<f32>,
        r: &Vec<f32>,
        dy: &Vec<f32>,
        dx: &mut Vec<f32>,
        add: bool,
        grad: Option<&mut [f32]>,
        n: usize,
    ) {
        let (x, dy) = (self.mat(x, n), self.mat(dy, n));
        if let Some(grad) = grad {
            ops::rms_norm_weight_backward(x, r, dy, &mut grad[norm..norm + self.hidden()]);
        }
        ops::rms_norm_backward(x, self.norm(norm), r, dy, self.mat_mut(dx, n), add, self.par);
    }

    fn linear(
        &self,
        at: (usize, usize),
        batch: &Batch<RopeTable>,
        x: &Vec<f32>,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
        y: &mut Vec<f32>,
        residual: Option<&Vec<f32>>,
    ) {
        let ((inputs, outputs), n) = (self.widths(at), batch.packed.tokens());
        let write = match residual {
            Some(residual) => {
                self.copy(residual, y, n * outputs);
                Write::Add
            }
            None => Write::Set,
        };
        let (x, y) = (Mat::new(x, n, inputs), MatMut::new(y, n, outputs));
        self.group(at, batch).forward(x, saved, scratch, y, write, self.par);
    }

    fn linear_again(
        &self,
        at: (usize, usize),
        batch: &Batch<RopeTable>,
        x: &Vec<f32>,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
    ) {
        let x = Mat::new(x, batch.packed.tokens(), self.widths(at).0);
        self.group(at, batch).forward_again(x, saved, scratch, self.par);
    }

    fn linear_backward_x(
        &self,
        at: (usize, usize),
        batch: &Batch<RopeTable>,
        grad: &mut [f32],
        dy: &Vec<f32>,
        saved: &mut LinearSaved,
        scratch: &mut LinearScratch,
        dx: Option<&mut Vec<f32>>,
    ) {
        let ((inputs, outputs), n) = (self.widths(at), batch.packed.tokens());
        let dx = dx.map(|dx| MatMut::new(dx, n, inputs));
        let dy = Mat::new(dy, n, outputs);
        self.group(at, batch).backward_x(grad, dy, saved, scratch, dx, self.par);
    }

    fn linear_backward_weights(
        &self,
        at: (usize, usize),
        batch: &Batch<RopeTable>,
        grad: &mut [f32],
        dy: &Vec<f32>,
        x: &Vec<f32>,
        saved: &LinearSaved,
        scratch: &mut LinearScratch,
    ) {
        let ((inputs, outputs), n) = (self.widths(at), batch.packed.tokens());
        let (linear, dy, x) = (self.group(at, batch), Mat::new(dy, n, outputs), Mat::new(x, n, inputs));
        match self.lora {
            Some(_) => linear.backward_adapter(grad, dy, x, saved, scratch, self.par),
            None => linear.backward_full(grad, dy, x, self.par),
        }
    }

    fn position(
        &self,
        at: &LayerAt,
        batch: &Batch<RopeTable>,
        qkv: &mut Vec<f32>,
        qk: &mut Vec<f32>,
        r_q: &mut Vec<f32>,
        r_k: &mut Vec<f32>,
    ) {
        let (c, shape, n) = (&self.decoder.config, self.decoder.attention_shape(), batch.packed.tokens());
        let cols = shape.q_cols() + shape.kv_cols();
        let (mut x, _) = MatMut::new(qkv, n, shape.qkv_cols()).split_cols(cols);
        if let Some((q_norm, k_norm)) = at.qk_norm {
            MatMut::new(qk, n, cols).copy_from(x.as_mat());
            let (q, k) = x.rb().split_cols(shape.q_cols());
            ops::rms_norm_heads(q, self.decoder.slice(q_norm, c.head_dim), c.rms_eps, r_q);
            ops::rms_norm_heads(k, self.decoder.slice(k_norm, c.head_dim), c.rms_eps, r_k);
        }
        ops::rotate(x, c.head_dim, &batch.own, &batch.packed.positions, false, self.par);
    }

    fn position_backward(
        &self,
        at: &LayerAt,
        batch: &Batch<RopeTable>,
        d_qkv: &mut Vec<f32>,
        qk: &Vec<f32>,
        r_q: &Vec<f32>,
        r_k: &Vec<f32>,
        mut grad: Option<&mut [f32]>,
    ) {
        let (c, shape, n) = (&self.decoder.config, self.decoder.attention_shape(), batch.packed.tokens());
        let cols = shape.q_cols() + shape.kv_cols();
        let (mut d_qk, _) = MatMut::new(d_qkv, n, shape.qkv_cols()).split_cols(cols);
        ops::rotate(d_qk.rb(), c.head_dim, &batch.own, &batch.packed.positions, true, self.par);
        if let Some((q_norm, k_norm)) = at.qk_norm {
            let (d_q, d_k) = d_qk.split_cols(shape.q_cols());
            let before = Mat::new(qk, n, cols);
            let (q, k) = (before.cols(0..shape.q_cols()), before.cols(shape.q_cols()..cols));
            for (x, offset, r, d_x) in [(q, q_norm, r_q, d_q), (k, k_norm, r_k, d_k)] {
                let dw = grad.as_deref_mut().map(|grad| &mut grad[offset..offset + c.head_dim]);
                ops::rms_norm_heads_backward(x, self.decoder.slice(offset, c.head_dim), r, d_x, dw);
            }
        }
    }

    fn attention(&self, batch: &Batch<RopeTable>, qkv: &Vec<f32>, out: &mut Vec<f32>, lse: &mut Vec<f32>) {
        let (shape, n) = (self.decoder.attention_shape(), batch.packed.tokens());
        let (qkv, out) = (Mat::new(qkv, n, shape.qkv_cols()), MatMut::new(out, n, shape.q_cols()));
        ops::attention(&shape, qkv, &batch.packed.rows, out, lse, self.par);
    }

    fn attention_backward(
        &self,
        batch: &Batch<RopeTable>,
        qkv: &Vec<f32>,
        out: &Vec<f32>,
        lse: &Vec<f32>,
        d_out: &Vec<f32>,
        d_qkv: &mut Vec<f32>,
    ) {
        let (shape, n) = (self.decoder.attention_shape(), batch.packed.tokens());
        let (qkv, d_qkv) = (Mat::new(qkv, n, shape.qkv_cols()), MatMut::new(d_qkv, n, shape.qkv_cols()));
        let (out, d_out) = (Mat::new(out, n, shape.q_cols()), Mat::new(d_out, n, shape.q_cols()));
        ops::attention_backward(&shape, qkv, &batch.packed.rows, out, lse, d_out, d_qkv, self.par);
    }

    fn swiglu(&self, gate_up: &Vec<f32>, inner: &mut Vec<f32>, n: usize) {
        let ffn = self.decoder.config.ffn;
        ops::swiglu(Mat::new(gate_up, n, 2 * ffn), MatMut::new(inner, n, ffn), self.par);
    }

    fn swiglu_backward(&self, gate_up: &mut Vec<f32>, d_inner: &mut Vec<f32>, n: usize) {
        let ffn = self.decoder.config.ffn;
        ops::swiglu_backward(MatMut::new(gate_up, n, 2 * ffn), MatMut::new(d_inner, n, ffn), self.par);
    }

    fn gather(&self, batch: &Batch<RopeTable>, x: &Vec<f32>, hidden: &mut Vec<f32>) {
        let h = self.hidden();
        for (to, token) in hidden.chunks_exact_mut(h).zip(&batch.packed.predicting) {
            to.copy_from_slice(&x[*token as usize * h..][..h]);
        }
    }

    fn scatter(&self, batch: &Batch<RopeTable>, d_hidden: &Vec<f32>, dx: &mut Vec<f32>) {
        let h = self.hidden();
        dx[..batch.packed.tokens() * h].fill(0.0);
        for (from, token) in d_hidden.chunks_exact(h).zip(&batch.packed.predicting) {
            dx[*token as usize * h..][..h].copy_from_slice(from);
        }
    }

    fn loss(
        &self,
        batch: &Batch<RopeTable>,
        hidden: &Vec<f32>,
        logits: &mut Vec<f32>,
        loss: &mut Losses,
        backward: Option<(f32, &mut Vec<f32>, Option<&mut [f32]>)>,
    ) {
        let (d, targets) = (self.decoder, &batch.packed.targets);
        let hidden = self.mat(hidden, targets.len());
        loss.each.clear();
        loss.each.resize(targets.len(), 0.0);
        let each = loss.each.as_mut_slice();
        loss.sum += match backward {
            None => ops::linear_cross_entropy(hidden, d.head(), targets, each, logits, self.par),
            Some((scale, d_hidden, grad)) => {
                let d_head =
                    grad.map(|grad| MatMut::new(&mut grad[d.layout.head..], d.config.vocab, d.config.hidden));
                let d_hidden = self.mat_mut(d_hidden, targets.len());
                ops::linear_cross_entropy_backward(
                    hidden,
                    d.head(),
                    targets,
                    scale,
                    each,
                    logits,
                    d_hidden,
                    d_head,
                    self.par,
                )
            }
        };
    }
}
