//! One pass: the new tokens of many sequences through all layers, over their blocks.

use std::ops::Range;

use super::pages::{Pages, Table};
use crate::model::linear::{LinearSaved, forward_lanes};
use crate::model::{Decoder, Lora};
use crate::ops::{self, Mat, MatMut, PagedPlan, PagedRow, Par, Write};

/// After which of a feed's tokens logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants<'a> {
    None,
    Last,
    All,
    At(&'a [u32]),
}

/// New tokens of one sequence, whose blocks have room for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feed<'a> {
    pub table: &'a Table,
    /// Tokens before the new ones; those beyond the table's are in its blocks without being of it yet.
    pub start: usize,
    /// Of the blocks' lane.
    pub adapter: Option<&'a Lora>,
    pub lane: u32,
    pub tokens: &'a [u32],
    /// The tokens are a tree of continuations, of which nothing is stored: for each the one before it, if it is not the first.
    pub parents: Option<&'a [Option<u32>]>,
    pub wants: Wants<'a>,
}

/// Logits by feed: rows of the vocabulary.
#[derive(Debug)]
pub(super) struct Logits {
    values: Vec<f32>,
    vocab: usize,
    rows: Vec<Range<usize>>,
}

impl Logits {
    /// The rows of a feed, in the order of its tokens.
    pub fn of(&self, feed: usize) -> impl ExactSizeIterator<Item = &[f32]> {
        let rows = self.rows.get(feed).cloned().unwrap_or_default();
        self.values[rows.start * self.vocab..rows.end * self.vocab].chunks_exact(self.vocab)
    }
}

/// Buffers of a pass, kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    x: Vec<f32>,
    normed: Vec<f32>,
    r: Vec<f32>,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
    saved: LinearSaved,
}

impl Buffers {
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
    /// Feeds all tokens: their keys and values are in the blocks then (their tables' owners say so by [`Pages::extend`]), and logits
    /// where they are wanted. Tokens and positions are checked already.
    pub(super) fn pass(
        &self,
        pages: &mut Pages,
        feeds: &[Feed<'_>],
        buffers: &mut Buffers,
        par: Par,
    ) -> Logits {
        let (c, shape) = (&self.config, self.attention_shape());
        let (h, block) = (c.hidden, pages.kv.block());
        // By lane, for its adapter; then by blocks, so that those who share some are neighbours.
        let mut order: Vec<usize> = (0..feeds.len()).filter(|at| !feeds[*at].tokens.is_empty()).collect();
        order.sort_by_key(|at| (feeds[*at].lane, feeds[*at].table.blocks()));
        let (mut ids, mut rows) = (Vec::new(), Vec::with_capacity(order.len()));
        let mut lanes: Vec<(u32, (Range<usize>, Option<&Lora>))> = Vec::new();
        let mut wanted = Vec::new();
        let mut logits = Logits { values: Vec::new(), vocab: c.vocab, rows: vec![0..0; feeds.len()] };
        for &at in &order {
            let feed = &feeds[at];
            let first = ids.len();
            ids.extend_from_slice(feed.tokens);
            rows.push(PagedRow {
                blocks: feed.table.blocks(),
                start: feed.start,
                new: feed.tokens.len(),
                parents: feed.parents,
            });
            match lanes.last_mut() {
                Some((lane, (rows, _))) if *lane == feed.lane => *rows = rows.start..ids.len(),
                _ => lanes.push((feed.lane, (first..ids.len(), feed.adapter))),
            }
            let from = wanted.len();
            match feed.wants {
                Wants::None => {}
                Wants::Last => wanted.push(ids.len() - 1),
                Wants::All => wanted.extend(first..ids.len()),
                Wants::At(tokens) => wanted.extend(tokens.iter().map(|at| first + *at as usize)),
            }
            logits.rows[at] = from..wanted.len();
        }
        let n = ids.len();
        if n == 0 {
            return logits;
        }
        let lanes: Vec<_> = lanes.into_iter().map(|(_, lane)| lane).collect();
        // Where each token's key and value go; those of a tree go nowhere.
        let mut places = Vec::with_capacity(n);
        for row in &rows {
            places.extend(
                (row.start..row.start + row.new)
                    .map(|p| row.parents.is_none().then(|| (row.blocks[p / block], p % block))),
            );
        }
        let plan = PagedPlan::new(&pages.kv, &rows);
        let furthest = plan.positions().iter().max().map_or(0, |p| *p as usize + 1);
        pages.rope.cover(&self.rope, furthest);

        buffers.fit(self, n);
        let Buffers { x, normed, r, qkv, mixed, gate_up, inner, saved } = buffers;
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
            ops::rotate(q.rb(), c.head_dim, &pages.rope, plan.positions(), false, par);
            ops::rotate(k.rb(), c.head_dim, &pages.rope, plan.positions(), false, par);
            let (q, k, v) = (q.as_mat(), k.as_mat(), v.as_mat());
            for (row, place) in places.iter().enumerate() {
                if let Some((block, offset)) = *place {
                    pages.kv.write(layer, block, offset, k.row(row), v.row(row));
                }
            }
            let out = MatMut::new(mixed, n, shape.q_cols());
            ops::paged_attention(&shape, layer, &pages.kv, &plan, (q, k, v), out, par);
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
        logits.values = vec![0.0; w * c.vocab];
        let out = MatMut::new(&mut logits.values, w, c.vocab);
        ops::matmul(out, Write::Set, 1.0, Mat::new(normed, w, h), self.head().t(), par);
        logits
    }
}

#[cfg(test)]
mod tests;
