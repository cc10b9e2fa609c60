//! One pass on the CPU: the new tokens of many sequences through all layers, over their blocks.

use std::ops::Range;

use super::batch::{Batch, Feed, Found, Outcome, Stretch};
use super::pages::Pages;
use crate::model::linear::{LinearSaved, forward_lanes};
use crate::model::{Decoder, Lora};
use crate::ops::{self, KvPages, Mat, MatMut, PagedPlan, Par, RopeTable, Write};

/// Keys and values, rotations and buffers, kept from one pass to the next.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// None before the first pass.
    kv: Option<KvPages>,
    rope: RopeTable,
    x: Vec<f32>,
    pub(super) normed: Vec<f32>,
    r: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
    saved: LinearSaved,
}

impl Host {
    fn fit(&mut self, decoder: &Decoder, n: usize) {
        let (c, shape) = (&decoder.config, decoder.attention_shape());
        for (buffer, len) in [
            (&mut self.x, n * c.hidden),
            (&mut self.normed, n * c.hidden),
            (&mut self.r, n * c.heads),
            (&mut self.qkv, n * shape.qkv_cols()),
            (&mut self.mixed, n * shape.q_cols()),
            (&mut self.gate_up, n * 2 * c.ffn),
            (&mut self.inner, n * c.ffn),
        ] {
            if buffer.len() < len {
                buffer.resize(len, 0.0);
            }
        }
    }
}

impl Decoder {
    /// See [`super::compute::Compute::pass`].
    pub(super) fn pass(&self, pages: &mut Pages, feeds: &[Feed<'_>], host: &mut Host, par: Par) -> Outcome {
        let (h, vocab) = (self.config.hidden, self.config.vocab);
        let ranges = self.states(pages, feeds, host, par);
        let w: usize = ranges.iter().map(Range::len).sum();
        let mut logits = vec![0.0; w * vocab];
        let out = MatMut::new(&mut logits, w, vocab);
        ops::matmul(out, Write::Set, 1.0, Mat::new(&host.normed, w, h), self.head().t(), par);
        let found = ranges.into_iter().map(Found::Logits).collect();
        Outcome { logits, vocab, tokens: Vec::new(), found }
    }

    /// The tokens' last states after the final norm, of those after which something is wanted: in `host.normed` (wanted, hidden). By feed, its part
    /// of them.
    pub(super) fn states(
        &self,
        pages: &mut Pages,
        feeds: &[Feed<'_>],
        host: &mut Host,
        par: Par,
    ) -> Vec<Range<usize>> {
        let (c, shape) = (&self.config, self.attention_shape());
        let (h, block) = (c.hidden, pages.block());
        let Batch { ids, rows, lanes, wanted, ranges } = Batch::new(feeds);
        let n = ids.len();
        if n == 0 {
            return ranges;
        }
        let lanes: Vec<(Range<usize>, Option<&Lora>)> =
            lanes.into_iter().map(|Stretch { tokens, adapter, .. }| (tokens, adapter)).collect();
        host.fit(self, n);
        let Host { kv, rope, x, normed, r, qkv, mixed, gate_up, inner, saved } = host;
        let kv = kv.get_or_insert_with(|| KvPages::new(c.layers, c.kv_heads, c.head_dim, block));
        while kv.blocks() < pages.taken() {
            kv.grow();
        }
        for (from, to, n) in pages.take_copies() {
            kv.copy(from, to, n);
        }
        // Where each token's key and value go; those of a tree go nowhere.
        let mut places = Vec::with_capacity(n);
        for row in &rows {
            places.extend(
                (row.start..row.start + row.new)
                    .map(|p| row.parents.is_none().then(|| (row.blocks[p / block], p % block))),
            );
        }
        let plan = PagedPlan::new(kv, &rows);
        let furthest = plan.positions().iter().max().map_or(0, |p| *p as usize + 1);
        rope.cover(&self.rope, furthest);

        ops::embedding(self.embedding(), &ids, MatMut::new(x, n, h));
        for (layer, at) in self.layout.layers.iter().enumerate() {
            let mut linear = |group: usize, x: Mat<'_>, y: MatMut<'_>, write: Write| {
                forward_lanes(self, &lanes, (layer, group), x, saved, y, write, par);
            };
            let norm = self.slice(at.attention_norm, h);
            ops::rms_norm(Mat::new(x, n, h), norm, c.rms_eps, MatMut::new(normed, n, h), r, par);
            linear(0, Mat::new(normed, n, h), MatMut::new(qkv, n, shape.qkv_cols()), Write::Set);
            let (mut q, rest) = MatMut::new(qkv, n, shape.qkv_cols()).split_cols(shape.q_cols());
            let (mut k, v) = rest.split_cols(shape.kv_cols());
            if let Some((q_norm, k_norm)) = at.qk_norm {
                ops::rms_norm_heads(q.rb(), self.slice(q_norm, c.head_dim), c.rms_eps, r);
                ops::rms_norm_heads(k.rb(), self.slice(k_norm, c.head_dim), c.rms_eps, r);
            }
            ops::rotate(q.rb(), c.head_dim, rope, plan.positions(), false, par);
            ops::rotate(k.rb(), c.head_dim, rope, plan.positions(), false, par);
            let (q, k, v) = (q.as_mat(), k.as_mat(), v.as_mat());
            for (row, place) in places.iter().enumerate() {
                if let Some((block, offset)) = *place {
                    kv.write(layer, block, offset, k.row(row), v.row(row));
                }
            }
            let out = MatMut::new(mixed, n, shape.q_cols());
            ops::paged_attention(&shape, layer, kv, &plan, (q, k, v), out, par);
            linear(1, Mat::new(mixed, n, shape.q_cols()), MatMut::new(x, n, h), Write::Add);
            let norm = self.slice(at.ffn_norm, h);
            ops::rms_norm(Mat::new(x, n, h), norm, c.rms_eps, MatMut::new(normed, n, h), r, par);
            linear(2, Mat::new(normed, n, h), MatMut::new(gate_up, n, 2 * c.ffn), Write::Set);
            ops::swiglu(Mat::new(gate_up, n, 2 * c.ffn), MatMut::new(inner, n, c.ffn), par);
            linear(3, Mat::new(inner, n, c.ffn), MatMut::new(x, n, h), Write::Add);
        }
        let w = wanted.len();
        let mut last = vec![0.0; w * h];
        for (row, into) in wanted.into_iter().zip(last.chunks_exact_mut(h)) {
            into.copy_from_slice(&x[row * h..(row + 1) * h]);
        }
        let norm = self.slice(self.layout.norm, h);
        ops::rms_norm(Mat::new(&last, w, h), norm, c.rms_eps, MatMut::new(normed, w, h), r, par);
        ranges
    }
}

#[cfg(test)]
mod tests;
