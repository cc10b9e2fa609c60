//! Buffers of one thread's forward and backward: made once, grown when a batch is larger, never cleared.

use std::ops::Range;

use crate::model::decoder::Decoder;
use crate::model::linear::{LinearSaved, LinearScratch};
use crate::model::lora::Lora;
use crate::ops::RopeTable;

/// What the backward of one layer wants of its forward.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// Residual stream before attention and before the feed-forward (tokens x hidden).
    pub x: Vec<f32>,
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

/// Everything else of a thread.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub saved: Vec<Saved>,
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
    /// Output of the last layer (tokens x hidden) and its norm's inverse root mean squares.
    pub x: Vec<f32>,
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
    /// Makes room for the packed batch; `keep` layers are saved (all for a backward, two in turn without).
    pub fn fit(
        &mut self,
        decoder: &Decoder,
        lora: Option<&Lora>,
        keep: usize,
        backward: bool,
        dropout: bool,
    ) {
        let (c, shape) = (&decoder.config, decoder.attention_shape());
        let (n, h) = (self.ids.len(), c.hidden);
        if self.saved.len() < keep {
            self.saved.resize_with(keep, Saved::default);
        }
        for (layer, saved) in self.saved.iter_mut().enumerate().take(keep) {
            for (group, LinearSaved { u, v }) in saved.linear.iter_mut().enumerate() {
                // Without a backward the buffers serve all layers in turn.
                let rank = |l: usize| lora.and_then(|a| a.group(l, group)).map_or(0, |g| g.rank);
                let widest = if backward { rank(layer) } else { (0..c.layers).map(rank).max().unwrap_or(0) };
                fit(u, n * widest);
                let outputs = |l: usize| lora.map_or(0, |a| a.magnitudes_of(l, group));
                let widest =
                    if backward { outputs(layer) } else { (0..c.layers).map(outputs).max().unwrap_or(0) };
                fit(v, n * widest);
            }
            for (buffer, width) in [
                (&mut saved.x, h),
                (&mut saved.x_mid, h),
                (&mut saved.r, 1),
                (&mut saved.r_mid, 1),
                (&mut saved.qkv, shape.qkv_cols()),
                (&mut saved.qk, if c.qk_norm { shape.q_cols() + shape.kv_cols() } else { 0 }),
                (&mut saved.r_q, if c.qk_norm { c.heads } else { 0 }),
                (&mut saved.r_k, if c.qk_norm { c.kv_heads } else { 0 }),
                (&mut saved.mixed, shape.q_cols()),
                (&mut saved.lse, c.heads),
                (&mut saved.gate_up, 2 * c.ffn),
            ] {
                fit(buffer, n * width);
            }
        }
        for (buffer, width) in
            [(&mut self.x, h), (&mut self.r, 1), (&mut self.normed, h), (&mut self.inner, c.ffn)]
        {
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
