//! What the passes over whole blocks compute with: one implementation for the CPU, one for a GPU.
//!
//! The passes say which operation follows which on which buffers, and when activations are made again; a device has the
//! buffers and the operations. `n` is the number of tokens, shapes follow from the configuration.

use std::fmt::Debug;
use std::ops::Range;

use crate::model::decoder::{Decoder, LayerAt};
use crate::model::lora::Lora;

/// Rows laid one after another.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Ids and positions of the tokens, token ranges of the rows.
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    /// What tells tokens apart for dropout; empty without.
    pub keys: Vec<u64>,
    pub rows: Vec<Range<usize>>,
    /// Tokens after which a trained token comes, and that token.
    pub predicting: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Packed {
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Positions that occur, from 0.
    pub fn positions(&self) -> usize {
        self.positions.iter().max().map_or(0, |p| *p as usize + 1)
    }
}

/// A packed batch, and what the device has of it.
#[derive(Debug, Default)]
pub(super) struct Batch<O> {
    pub packed: Packed,
    pub own: O,
}

/// What a buffer is for; on a GPU it decides the element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Hidden states and their gradients.
    Activation,
    /// Norms' and softmaxes' statistics: f32 everywhere.
    Statistic,
}

/// The kinds of memory of a device.
pub(super) trait Memory: Debug {
    type Buffer: Debug + Default;
    /// Of one group of linear layers, from its forward to its backward; and for all in turn within a backward.
    type LinearSaved: Debug + Default;
    type LinearScratch: Debug + Default;
    /// What the device has of a packed batch beside the host's.
    type Batch: Debug + Default;
    /// Of everything that is trained, one after another.
    type Gradient: ?Sized;
    /// Collects the sum of losses.
    type Loss;

    fn bytes(kind: Kind) -> usize;
}

pub(super) type Buffer<D> = <<D as Device>::Memory as Memory>::Buffer;
pub(super) type LinearSaved<D> = <<D as Device>::Memory as Memory>::LinearSaved;
pub(super) type LinearScratch<D> = <<D as Device>::Memory as Memory>::LinearScratch;
pub(super) type BatchOf<D> = Batch<<<D as Device>::Memory as Memory>::Batch>;
pub(super) type Gradient<D> = <<D as Device>::Memory as Memory>::Gradient;
pub(super) type Loss<D> = <<D as Device>::Memory as Memory>::Loss;

/// The operations. `norm` is the offset of a norm's weight in the decoder's parameters; with a gradient the weight's is added
/// to it, which is where everything is trained.
pub(super) trait Device {
    type Memory: Memory;

    fn decoder(&self) -> &Decoder;
    /// Without an adapter every parameter is trained.
    fn lora(&self) -> Option<&Lora>;

    fn fit(&self, buffer: &mut Buffer<Self>, kind: Kind, len: usize);
    /// For groups of so much rank and so many trained magnitudes.
    fn fit_linear(&self, saved: &mut LinearSaved<Self>, n: usize, rank: usize, magnitudes: usize);
    fn fit_linear_scratch(&self, scratch: &mut LinearScratch<Self>, n: usize);
    /// Brings the packed batch to the device.
    fn take(&self, batch: &mut BatchOf<Self>);
    fn copy(&self, from: &Buffer<Self>, to: &mut Buffer<Self>, len: usize);

    fn embedding(&self, batch: &BatchOf<Self>, x: &mut Buffer<Self>);
    fn embedding_backward(&self, batch: &BatchOf<Self>, dx: &Buffer<Self>, grad: &mut Gradient<Self>);

    fn rms_norm(&self, norm: usize, x: &Buffer<Self>, y: &mut Buffer<Self>, r: &mut Buffer<Self>, n: usize);
    fn rms_norm_again(&self, norm: usize, x: &Buffer<Self>, r: &Buffer<Self>, y: &mut Buffer<Self>, n: usize);
    /// With `add`, onto the residual stream's gradient that stands in `dx`.
    fn rms_norm_backward(
        &self,
        norm: usize,
        x: &Buffer<Self>,
        r: &Buffer<Self>,
        dy: &Buffer<Self>,
        dx: &mut Buffer<Self>,
        add: bool,
        grad: Option<&mut Gradient<Self>>,
        n: usize,
    );

    /// `y = [residual +] x W^T + bias + adapter` of a group of a layer.
    fn linear(
        &self,
        at: (usize, usize),
        batch: &BatchOf<Self>,
        x: &Buffer<Self>,
        saved: &mut LinearSaved<Self>,
        scratch: &mut LinearScratch<Self>,
        y: &mut Buffer<Self>,
        residual: Option<&Buffer<Self>>,
    );
    /// What the backward wants of the forward, once more.
    fn linear_again(
        &self,
        at: (usize, usize),
        batch: &BatchOf<Self>,
        x: &Buffer<Self>,
        saved: &mut LinearSaved<Self>,
        scratch: &mut LinearScratch<Self>,
    );
    /// The input's gradient, if it is asked for, and what the weights' gradients want; with DoRA the magnitudes' gradient.
    fn linear_backward_x(
        &self,
        at: (usize, usize),
        batch: &BatchOf<Self>,
        grad: &mut Gradient<Self>,
        dy: &Buffer<Self>,
        saved: &mut LinearSaved<Self>,
        scratch: &mut LinearScratch<Self>,
        dx: Option<&mut Buffer<Self>>,
    );
    /// Adds the gradients of the adapter's matrices, or of weight and bias where everything is trained.
    fn linear_backward_weights(
        &self,
        at: (usize, usize),
        batch: &BatchOf<Self>,
        grad: &mut Gradient<Self>,
        dy: &Buffer<Self>,
        x: &Buffer<Self>,
        saved: &LinearSaved<Self>,
        scratch: &mut LinearScratch<Self>,
    );

    /// q and k norm where the architecture has it (then `qk` becomes q|k before it), then rotation; in place in `qkv`.
    fn position(
        &self,
        at: &LayerAt,
        batch: &BatchOf<Self>,
        qkv: &mut Buffer<Self>,
        qk: &mut Buffer<Self>,
        r_q: &mut Buffer<Self>,
        r_k: &mut Buffer<Self>,
    );
    /// In place in `d_qkv`.
    fn position_backward(
        &self,
        at: &LayerAt,
        batch: &BatchOf<Self>,
        d_qkv: &mut Buffer<Self>,
        qk: &Buffer<Self>,
        r_q: &Buffer<Self>,
        r_k: &Buffer<Self>,
        grad: Option<&mut Gradient<Self>>,
    );
    fn attention(
        &self,
        batch: &BatchOf<Self>,
        qkv: &Buffer<Self>,
        out: &mut Buffer<Self>,
        lse: &mut Buffer<Self>,
    );
    fn attention_backward(
        &self,
        batch: &BatchOf<Self>,
        qkv: &Buffer<Self>,
        out: &Buffer<Self>,
        lse: &Buffer<Self>,
        d_out: &Buffer<Self>,
        d_qkv: &mut Buffer<Self>,
    );

    fn swiglu(&self, gate_up: &Buffer<Self>, inner: &mut Buffer<Self>, n: usize);
    /// In place: `gate_up` becomes its gradient, `d_inner` the forward's output once more.
    fn swiglu_backward(&self, gate_up: &mut Buffer<Self>, d_inner: &mut Buffer<Self>, n: usize);

    /// The predicting tokens' rows of `x`, side by side.
    fn gather(&self, batch: &BatchOf<Self>, x: &Buffer<Self>, hidden: &mut Buffer<Self>);
    /// Back to their places; zero elsewhere.
    fn scatter(&self, batch: &BatchOf<Self>, d_hidden: &Buffer<Self>, dx: &mut Buffer<Self>);
    /// Adds the losses of `hidden` under the output layer; with `backward`, a scale, the gradient of `hidden` times it.
    fn loss(
        &self,
        batch: &BatchOf<Self>,
        hidden: &Buffer<Self>,
        logits: &mut Buffer<Self>,
        loss: &mut Loss<Self>,
        backward: Option<(f32, &mut Buffer<Self>, Option<&mut Gradient<Self>>)>,
    );
}
