//! The operations on a GPU: activations in bf16, statistics, adapters and their gradients in f32, one stream.
//!
//! The base stands there in bf16, every tensor at the place that it has in the decoder's parameters, or in NF4. Products with
//! `A` and `B` take a bf16 copy of the adapter, made once a step; their gradients are summed in f32.

mod adapter;
mod base;
mod linear;
mod losses;

use super::device::{Batch, Device, Kind, Memory};
use crate::model::decoder::{Decoder, LayerAt, LinearAt};
use crate::model::lora::Lora;
use crate::ops::cuda::{Buffer, Dtype, Gpu, Positions, Tiles, View, attention_tiles};
use crate::ops::{AttentionShape, RopeTable};
pub(in crate::model) use adapter::Adapter;
pub use base::Base;
pub(in crate::model) use base::Dequantized;
pub(in crate::model) use linear::factors;
use linear::{Saved, Scratch};
pub(super) use losses::Losses;

/// A GPU's memory.
#[derive(Debug)]
pub(super) struct OnGpu;

impl Memory for OnGpu {
    type Buffer = Buffer;
    type LinearSaved = Saved;
    type LinearScratch = Scratch;
    type Batch = BatchOnGpu;
    type Gradient = Buffer;
    type Loss = Losses;

    fn bytes(kind: Kind) -> usize {
        dtype(kind).bytes()
    }
}

fn dtype(kind: Kind) -> Dtype {
    match kind {
        Kind::Activation => Dtype::Bf16,
        Kind::Statistic => Dtype::F32,
    }
}

/// A packed batch on the device.
#[derive(Debug)]
pub(super) struct BatchOnGpu {
    ids: Buffer,
    positions: Buffer,
    /// Of dropout, two words a token.
    keys: Buffer,
    predicting: Buffer,
    targets: Buffer,
    /// By row, one past its last target.
    ends: Buffer,
    tiles: Tiles,
    /// Cosines and sines of the positions so far, on both sides.
    rope: RopeTable,
    table: Buffer,
    /// Scratch of the attention's backward (heads x tokens).
    delta: Buffer,
}

impl Default for BatchOnGpu {
    fn default() -> Self {
        let words = || Buffer::empty(Dtype::U32);
        Self {
            ids: words(),
            positions: words(),
            keys: words(),
            predicting: words(),
            targets: words(),
            ends: words(),
            tiles: Tiles::default(),
            rope: RopeTable::default(),
            table: Buffer::empty(Dtype::F32),
            delta: Buffer::empty(Dtype::F32),
        }
    }
}

/// The model on a GPU.
#[derive(Clone, Copy)]
pub(super) struct OnDevice<'a> {
    pub gpu: &'a Gpu,
    /// For configuration and layout; its values stay on the host.
    pub decoder: &'a Decoder,
    pub lora: &'a Lora,
    pub base: &'a Base,
    pub adapter: &'a Adapter,
    /// Rate of dropout on the adapter's inputs, in a training step.
    pub dropout: Option<f32>,
}

impl<'a> OnDevice<'a> {
    fn hidden<'b>(&self, buffer: &'b Buffer, n: usize) -> View<'b> {
        View::new(buffer, n, self.decoder.config.hidden)
    }

    /// A vector of the base.
    fn vector(&self, offset: usize, len: usize) -> View<'a> {
        View::at(&self.base.values, offset, 1, len)
    }

    fn norm(&self, offset: usize) -> View<'a> {
        self.vector(offset, self.decoder.config.hidden)
    }

    fn qk_norms(&self, at: &LayerAt) -> Option<[View<'a>; 2]> {
        let dim = self.decoder.config.head_dim;
        at.qk_norm.map(|(q, k)| [self.vector(q, dim), self.vector(k, dim)])
    }

    fn table(&self, offset: usize) -> View<'a> {
        View::at(&self.base.values, offset, self.decoder.config.vocab, self.decoder.config.hidden)
    }

    fn group(&self, (layer, group): (usize, usize)) -> &'a LinearAt {
        &self.decoder.layout.layers[layer].linears[group]
    }

    fn shape(&self) -> AttentionShape {
        self.decoder.attention_shape()
    }

    fn positions(batch: &Batch<BatchOnGpu>) -> Positions<'_> {
        let positions = View::new(&batch.own.positions, 1, batch.packed.tokens());
        Positions { table: &batch.own.table, positions }
    }
}

impl Device for OnDevice<'_> {
    type Memory = OnGpu;

    fn decoder(&self) -> &Decoder {
        self.decoder
    }

    fn lora(&self) -> Option<&Lora> {
        Some(self.lora)
    }

    fn fit(&self, buffer: &mut Buffer, kind: Kind, len: usize) {
        self.gpu.fit_as(buffer, len, dtype(kind));
    }

    fn fit_linear(&self, saved: &mut Saved, n: usize, rank: usize, magnitudes: usize) {
        self.gpu.fit_as(&mut saved.u, n * rank, Dtype::Bf16);
        self.gpu.fit_as(&mut saved.v, n * magnitudes, Dtype::Bf16);
    }

    fn fit_linear_scratch(&self, scratch: &mut Scratch, n: usize) {
        let (c, shape) = (&self.decoder.config, self.shape());
        self.gpu.fit_as(&mut scratch.c, n * self.lora.widest(), Dtype::Bf16);
        if self.dropout.is_some() {
            let widest = c.hidden.max(shape.q_cols()).max(c.ffn);
            self.gpu.fit_as(&mut scratch.dropped, n * widest, Dtype::Bf16);
        }
    }

    fn take(&self, batch: &mut Batch<BatchOnGpu>) {
        let Batch { packed, own } = batch;
        let gpu = self.gpu;
        gpu.write_u32(&mut own.ids, &packed.ids);
        gpu.write_u32(&mut own.positions, &packed.positions);
        let words: Vec<u32> = packed.keys.iter().flat_map(|key| [*key as u32, (*key >> 32) as u32]).collect();
        gpu.write_u32(&mut own.keys, &words);
        gpu.write_u32(&mut own.predicting, &packed.predicting);
        gpu.write_u32(&mut own.targets, &packed.targets);
        let before = |end: usize| packed.predicting.partition_point(|token| (*token as usize) < end) as u32;
        let ends: Vec<u32> = packed.rows.iter().map(|row| before(row.end)).collect();
        gpu.write_u32(&mut own.ends, &ends);
        let tiles = attention_tiles(&packed.rows);
        own.tiles.count = tiles.len() / 4;
        gpu.write_u32(&mut own.tiles.buffer, &tiles);
        let covered = own.rope.values().len();
        own.rope.cover(&self.decoder.rope, packed.positions());
        if own.rope.values().len() > covered {
            gpu.write_f32(&mut own.table, own.rope.values());
        }
        gpu.fit(&mut own.delta, self.decoder.config.heads * packed.tokens());
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer, len: usize) {
        self.gpu.copy(to, from, len);
    }

    fn embedding(&self, batch: &Batch<BatchOnGpu>, x: &mut Buffer) {
        let x = self.hidden(x, batch.packed.tokens());
        self.gpu.gather(self.table(self.decoder.layout.embedding), &batch.own.ids, x);
    }

    fn embedding_backward(&self, _: &Batch<BatchOnGpu>, _: &Buffer, _: &mut Buffer) {
        // Asked for only where everything is trained, and that is not done here: `lora` is never none.
    }

    fn rms_norm(&self, norm: usize, x: &Buffer, y: &mut Buffer, r: &mut Buffer, n: usize) {
        let eps = self.decoder.config.rms_eps;
        self.gpu.rms_norm(self.hidden(x, n), self.norm(norm), eps, self.hidden(y, n), r);
    }

    fn rms_norm_again(&self, norm: usize, x: &Buffer, r: &Buffer, y: &mut Buffer, n: usize) {
        self.gpu.rms_norm_again(self.hidden(x, n), self.norm(norm), r, self.hidden(y, n));
    }

    fn rms_norm_backward(
        &self,
        norm: usize,
        x: &Buffer,
        r: &Buffer,
        dy: &Buffer,
        dx: &mut Buffer,
        add: bool,
        _: Option<&mut Buffer>,
        n: usize,
    ) {
        let (x, dy, dx) = (self.hidden(x, n), self.hidden(dy, n), self.hidden(dx, n));
        self.gpu.rms_norm_backward(x, self.norm(norm), r, dy, dx, add);
    }

    fn linear(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        x: &Buffer,
        saved: &mut Saved,
        scratch: &mut Scratch,
        y: &mut Buffer,
        residual: Option<&Buffer>,
    ) {
        self.group_forward(at, batch, x, saved, scratch, y, residual);
    }

    fn linear_again(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        x: &Buffer,
        saved: &mut Saved,
        scratch: &mut Scratch,
    ) {
        self.group_forward_again(at, batch, x, saved, scratch);
    }

    fn linear_backward_x(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        grad: &mut Buffer,
        dy: &Buffer,
        saved: &mut Saved,
        scratch: &mut Scratch,
        dx: Option<&mut Buffer>,
    ) {
        self.group_backward_x(at, batch, grad, dy, saved, scratch, dx.map(|dx| &*dx));
    }

    fn linear_backward_weights(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        grad: &mut Buffer,
        dy: &Buffer,
        x: &Buffer,
        saved: &Saved,
        scratch: &mut Scratch,
    ) {
        self.group_backward_weights(at, batch, grad, dy, x, saved, scratch);
    }

    fn position(
        &self,
        at: &LayerAt,
        batch: &Batch<BatchOnGpu>,
        qkv: &mut Buffer,
        qk: &mut Buffer,
        r_q: &mut Buffer,
        _r_k: &mut Buffer,
    ) {
        let (shape, n) = (self.shape(), batch.packed.tokens());
        let qkv = View::new(qkv, n, shape.qkv_cols());
        let positions = Self::positions(batch);
        match self.qk_norms(at) {
            Some(norms) => {
                // The kernel keeps the inverse root mean squares of q's and k's heads in one place.
                self.gpu.fit(r_q, n * (shape.heads + shape.kv_heads));
                let eps = self.decoder.config.rms_eps;
                self.gpu.norm_rope(&shape, qkv, qk, norms, eps, r_q, positions);
            }
            None => {
                let qk = qkv.cols(0..shape.q_cols() + shape.kv_cols());
                self.gpu.rotate(qk, shape.dim, positions, false);
            }
        }
    }

    fn position_backward(
        &self,
        at: &LayerAt,
        batch: &Batch<BatchOnGpu>,
        d_qkv: &mut Buffer,
        qk: &Buffer,
        r_q: &Buffer,
        _r_k: &Buffer,
        _: Option<&mut Buffer>,
    ) {
        let (shape, n) = (self.shape(), batch.packed.tokens());
        let d_qkv = View::new(d_qkv, n, shape.qkv_cols());
        let positions = Self::positions(batch);
        match self.qk_norms(at) {
            Some(norms) => self.gpu.norm_rope_backward(&shape, d_qkv, qk, norms, r_q, positions),
            None => {
                let d_qk = d_qkv.cols(0..shape.q_cols() + shape.kv_cols());
                self.gpu.rotate(d_qk, shape.dim, positions, true);
            }
        }
    }

    fn attention(&self, batch: &Batch<BatchOnGpu>, qkv: &Buffer, out: &mut Buffer, lse: &mut Buffer) {
        let (shape, n) = (self.shape(), batch.packed.tokens());
        let (qkv, out) = (View::new(qkv, n, shape.qkv_cols()), View::new(out, n, shape.q_cols()));
        self.gpu.attention(&shape, qkv, &batch.own.tiles, out, lse);
    }

    fn attention_backward(
        &self,
        batch: &Batch<BatchOnGpu>,
        qkv: &Buffer,
        out: &Buffer,
        lse: &Buffer,
        d_out: &Buffer,
        d_qkv: &mut Buffer,
    ) {
        let (shape, n) = (self.shape(), batch.packed.tokens());
        let (qkv, d_qkv) = (View::new(qkv, n, shape.qkv_cols()), View::new(d_qkv, n, shape.qkv_cols()));
        let (out, d_out) = (View::new(out, n, shape.q_cols()), View::new(d_out, n, shape.q_cols()));
        let own = &batch.own;
        self.gpu.attention_backward(&shape, qkv, &own.tiles, out, lse, d_out, d_qkv, &own.delta);
    }

    fn swiglu(&self, gate_up: &Buffer, inner: &mut Buffer, n: usize) {
        let ffn = self.decoder.config.ffn;
        self.gpu.swiglu(View::new(gate_up, n, 2 * ffn), View::new(inner, n, ffn));
    }

    fn swiglu_backward(&self, gate_up: &mut Buffer, d_inner: &mut Buffer, n: usize) {
        let ffn = self.decoder.config.ffn;
        self.gpu.swiglu_backward(View::new(gate_up, n, 2 * ffn), View::new(d_inner, n, ffn));
    }

    fn gather(&self, batch: &Batch<BatchOnGpu>, x: &Buffer, hidden: &mut Buffer) {
        let packed = &batch.packed;
        let (x, hidden) = (self.hidden(x, packed.tokens()), self.hidden(hidden, packed.targets.len()));
        self.gpu.gather(x, &batch.own.predicting, hidden);
    }

    fn scatter(&self, batch: &Batch<BatchOnGpu>, d_hidden: &Buffer, dx: &mut Buffer) {
        let packed = &batch.packed;
        self.gpu.zero(dx);
        let (d_hidden, dx) = (self.hidden(d_hidden, packed.targets.len()), self.hidden(dx, packed.tokens()));
        self.gpu.scatter(d_hidden, &batch.own.predicting, dx);
    }

    fn loss(
        &self,
        batch: &Batch<BatchOnGpu>,
        hidden: &Buffer,
        logits: &mut Buffer,
        loss: &mut Losses,
        backward: Option<(f32, &mut Buffer, Option<&mut Buffer>)>,
    ) {
        let n = batch.packed.targets.len();
        let backward = backward.map(|(scale, d_hidden, _)| (scale, self.hidden(d_hidden, n)));
        let (hidden, head) = (self.hidden(hidden, n), self.table(self.decoder.layout.head));
        self.gpu.linear_cross_entropy(hidden, head, &batch.own.targets, logits, &mut loss.each, backward);
        loss.keep(self.gpu, &batch.own.ends, batch.packed.rows.len());
    }
}
