//! Buffers of one thread's forward and backward: made once, grown when a batch is larger, never cleared.

use std::ops::Range;

use crate::model::decoder::Decoder;
use crate::model::linear::{LinearSaved, LinearScratch};
use crate::model::lora::Lora;
use crate::ops::RopeTable;

/// What the backward of one layer wants of its forward, beside its input.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// The layer that it is of.
    pub of: Option<usize>,
    /// Residual stream before the feed-forward (tokens x hidden).
    pub x_mid: Vec<f32>,
    /// Inverse root mean squares of both norms (tokens).
    pub r: Vec<f32>,
    pub r_mid: Vec<f32>,
    /// Of the four groups of linear layers.
    pub linear: [LinearSaved; 4],
    /// Stacked q|k|v, q and k normalized and rotated.
    pub qkv: Vec<f32>,
    /// With q and k norm: q|k before it, and its inverse root mean squares per head.
    pub qk: Vec<f32>,
    pub r_q: Vec<f32>,
    pub r_k: Vec<f32>,
    /// Attention's output (tokens x heads*dim) and log sum exp (heads x tokens).
    pub mixed: Vec<f32>,
    pub lse: Vec<f32>,
    /// Stacked gate|up (tokens x 2 ffn); the backward overwrites it with its gradient.
    pub gate_up: Vec<f32>,
}

/// Which buffers a layer uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Layers below this one share the first place for their activations, which are made again in the backward.
    shared: usize,
    backward: bool,
}

impl Places {
    /// As many of the `layers` as `budget` bytes hold beside what is always there: every layer's input, one place.
    fn new(layers: usize, backward: bool, budget: usize, input: usize, saved: usize) -> Self {
        let always = (layers + 1) * input + saved;
        let kept = (budget.saturating_sub(always) / saved.max(1)).min(layers);
        // A single shared layer has the place for itself.
        let shared = if !backward {
            layers
        } else if kept + 1 >= layers {
            0
        } else {
            layers - kept
        };
        Self { shared, backward }
    }

    pub fn slot(&self, layer: usize) -> usize {
        if layer < self.shared { 0 } else { layer - self.shared + usize::from(self.shared > 0) }
    }

    /// Without a backward, inputs are written in turn.
    pub fn input_of(&self, layer: usize) -> usize {
        if self.backward { layer } else { layer % 2 }
    }
}

/// Everything else of a thread.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub places: Places,
    pub saved: Vec<Saved>,
    /// Residual stream before each layer, and after the last (tokens x hidden).
    pub inputs: Vec<Vec<f32>>,
    /// The packed batch: ids and positions of its tokens, token ranges of its rows.
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    /// What tells tokens apart for dropout; empty without.
    pub keys: Vec<u64>,
    pub rows: Vec<Range<usize>>,
    /// Tokens after which a trained token comes, and that token.
    pub predicting: Vec<usize>,
    pub targets: Vec<u32>,
    pub table: RopeTable,
    /// Inverse root mean squares of the last norm.
    pub r: Vec<f32>,
    /// A normalized hidden state, made anew in the backward.
    pub normed: Vec<f32>,
    /// swiglu's output (tokens x ffn), then its gradient.
    pub inner: Vec<f32>,
    /// Gradients: of the residual stream, of a hidden state, of q|k|v.
    pub d_x: Vec<f32>,
    pub d_h: Vec<f32>,
    pub d_qkv: Vec<f32>,
    pub linear: LinearScratch,
    /// Hidden states of the predicting tokens only, and their gradient.
    pub hidden: Vec<f32>,
    pub d_hidden: Vec<f32>,
    pub logits: Vec<f32>,
}

/// Grows without copying; what stands in a buffer is never read before it is written.
fn fit(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        // The old memory goes first, so that both are never there at once. Zeroed pages come lazily from the system.
        *buffer = Vec::new();
        *buffer = vec![0.0; len];
    }
}

impl Workspace {
    /// Makes room for the packed batch, with activations of at most `budget` bytes if that is possible at all.
    pub fn fit(
        &mut self,
        decoder: &Decoder,
        lora: Option<&Lora>,
        budget: usize,
        backward: bool,
        dropout: bool,
    ) {
        let (c, shape) = (&decoder.config, decoder.attention_shape());
        let (n, h) = (self.ids.len(), c.hidden);
        // Of the four groups: what the adapter's A makes, and with DoRA the outputs.
        let adapted = |layer: usize| {
            let rank = |g: usize| lora.and_then(|a| a.group(layer, g)).map_or(0, |g| g.rank);
            let outputs = |g: usize| lora.map_or(0, |a| a.magnitudes_of(layer, g));
            std::array::from_fn::<_, 8, _>(|i| if i < 4 { rank(i) } else { outputs(i - 4) })
        };
        let mut widest = [0; 8];
        for layer in 0..c.layers {
            widest = std::array::from_fn(|i| widest[i].max(adapted(layer)[i]));
        }
        let qk_norm = usize::from(c.qk_norm);
        let widths = [
            h,
            1,
            1,
            shape.qkv_cols(),
            qk_norm * (shape.q_cols() + shape.kv_cols()),
            qk_norm * c.heads,
            qk_norm * c.kv_heads,
            shape.q_cols(),
            c.heads,
            2 * c.ffn,
        ];
        let floats = widths.iter().chain(&widest).sum::<usize>();
        self.places = Places::new(c.layers, backward, budget, 4 * n * h, 4 * n * floats);
        let slots = self.places.slot(c.layers - 1) + 1;
        // Where memory is short, places of a smaller batch before are given back.
        if self.saved.len() < slots || (backward && self.places.shared > 0) {
            self.saved.resize_with(slots, Saved::default);
        }
        for saved in &mut self.saved {
            saved.of = None;
        }
        for layer in (0..c.layers).rev() {
            let slot = self.places.slot(layer);
            let saved = &mut self.saved[slot];
            let adapted = if slot == 0 && self.places.shared > 0 { widest } else { adapted(layer) };
            let buffers = [
                &mut saved.x_mid,
                &mut saved.r,
                &mut saved.r_mid,
                &mut saved.qkv,
                &mut saved.qk,
                &mut saved.r_q,
                &mut saved.r_k,
                &mut saved.mixed,
                &mut saved.lse,
                &mut saved.gate_up,
            ];
            let [q, o, g, d] = &mut saved.linear;
            let of_adapter = [&mut q.u, &mut o.u, &mut g.u, &mut d.u, &mut q.v, &mut o.v, &mut g.v, &mut d.v];
            for (buffer, width) in buffers.into_iter().zip(widths).chain(of_adapter.into_iter().zip(adapted))
            {
                fit(buffer, n * width);
            }
        }
        let inputs = self.places.input_of(c.layers).max(self.places.input_of(c.layers - 1)) + 1;
        if self.inputs.len() < inputs {
            self.inputs.resize_with(inputs, Vec::new);
        }
        for input in &mut self.inputs {
            fit(input, n * h);
        }
        for (buffer, width) in [(&mut self.r, 1), (&mut self.normed, h), (&mut self.inner, c.ffn)] {
            fit(buffer, n * width);
        }
        if dropout {
            fit(&mut self.linear.dropped, n * h.max(shape.q_cols()).max(c.ffn));
        }
        fit(&mut self.hidden, self.targets.len() * h);
        if backward {
            for (buffer, width) in [
                (&mut self.d_x, h),
                (&mut self.d_h, h.max(shape.q_cols())),
                (&mut self.d_qkv, shape.qkv_cols()),
                (&mut self.linear.c, lora.map_or(0, Lora::widest)),
            ] {
                fit(buffer, n * width);
            }
            fit(&mut self.d_hidden, self.targets.len() * h);
        }
        let positions = self.positions.iter().max().map_or(0, |p| *p as usize + 1);
        self.table.cover(&decoder.rope, positions);
    }
}
