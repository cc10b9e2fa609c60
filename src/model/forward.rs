//! Inference: new tokens of one or many sequences through all layers, over their caches.

use super::ModelError;
use super::decoder::Decoder;
use super::kv_cache::KvCache;
use super::linear::{Linear, LinearSaved, LinearScratch};
use super::lora::Lora;
use crate::ops::{self, LoraGroup, Mat, MatMut, Par, Write};

/// Tokens that go through the layers at once: bounds the memory of a long prompt.
const TOKENS_AT_ONCE: usize = 512;

/// New tokens of one sequence and its cache, which they are added to.
#[derive(Debug)]
pub struct Feed<'a> {
    pub tokens: &'a [u32],
    pub cache: &'a mut KvCache,
}

impl Lora {
    pub(super) fn group(&self, layer: usize, group: usize) -> Option<&LoraGroup> {
        self.groups[layer][group].as_ref()
    }

    /// Outputs of a group whose magnitudes are trained; 0 for others.
    pub(super) fn magnitudes_of(&self, layer: usize, group: usize) -> usize {
        let norms = self.norms.as_ref().and_then(|norms| norms[layer][group].as_ref());
        norms.map_or(0, Vec::len)
    }

    /// The largest such number.
    pub(super) fn widest_magnitudes(&self) -> usize {
        self.norms.iter().flatten().flatten().flatten().map(Vec::len).max().unwrap_or(0)
    }

    /// The largest rank of a group.
    pub(super) fn widest(&self) -> usize {
        self.groups.iter().flatten().flatten().map(|g| g.rank).max().unwrap_or(0)
    }
}

/// The tokens of one pass: for each, which feed it is of.
struct Part {
    feed: usize,
    /// Of the feed's tokens.
    tokens: std::ops::Range<usize>,
}

impl Decoder {
    /// Logits (vocab) after the last of `tokens`, which are added to the cache.
    ///
    /// # Errors
    /// No token, a token beyond the vocabulary, a position past the cache or past the model's; nothing is added then.
    pub fn forward(
        &self,
        tokens: &[u32],
        cache: &mut KvCache,
        adapter: Option<&Lora>,
        par: Par,
    ) -> Result<Vec<f32>, ModelError> {
        let logits = self.forward_batch(&mut [Feed { tokens, cache }], adapter, par)?;
        Ok(logits.into_iter().next().unwrap_or_default())
    }

    /// As [`Decoder::forward`] for many sequences at once: the linear layers see all new tokens as one matrix.
    pub fn forward_batch(
        &self,
        feeds: &mut [Feed<'_>],
        adapter: Option<&Lora>,
        par: Par,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut logits = vec![Vec::new(); feeds.len()];
        self.run(feeds, adapter, par, |feed, token, of, hidden| {
            if token + 1 == of {
                let mut row = vec![0f32; self.config.vocab];
                ops::matmul(
                    MatMut::new(&mut row, 1, self.config.vocab),
                    Write::Set,
                    1.0,
                    hidden,
                    self.head().t(),
                    par,
                );
                logits[feed] = row;
            }
        })?;
        Ok(logits)
    }

    /// Logits after every token of one sequence, row by row (tokens x vocab).
    pub fn logits_all(
        &self,
        tokens: &[u32],
        adapter: Option<&Lora>,
        par: Par,
    ) -> Result<Vec<f32>, ModelError> {
        let vocab = self.config.vocab;
        let mut logits = vec![0f32; tokens.len() * vocab];
        let mut cache = KvCache::new(self, tokens.len());
        self.run(&mut [Feed { tokens, cache: &mut cache }], adapter, par, |_, token, _, hidden| {
            let row = MatMut::new(&mut logits[token * vocab..], 1, vocab);
            ops::matmul(row, Write::Set, 1.0, hidden, self.head().t(), par);
        })?;
        Ok(logits)
    }

    /// Feeds all tokens; `with` gets feed, index of the token, number of its feed's tokens, and its last hidden state, normalized.
    fn run(
        &self,
        feeds: &mut [Feed<'_>],
        adapter: Option<&Lora>,
        par: Par,
        mut with: impl FnMut(usize, usize, usize, Mat<'_>),
    ) -> Result<(), ModelError> {
        if let Some(adapter) = adapter {
            adapter.check(self)?;
        }
        for feed in feeds.iter() {
            if feed.tokens.is_empty() {
                return Err(ModelError::Request("no token to read: the prompt is empty".into()));
            }
            self.check_tokens(feed.tokens, feed.cache.len())?;
            feed.cache.check(self, feed.tokens.len())?;
        }
        for parts in passes(feeds) {
            let hidden = self.pass(feeds, &parts, adapter, par);
            let mut row = 0;
            for part in &parts {
                for token in part.tokens.clone() {
                    let hidden = Mat::new(&hidden[row * self.config.hidden..], 1, self.config.hidden);
                    with(part.feed, token, feeds[part.feed].tokens.len(), hidden);
                    row += 1;
                }
            }
        }
        Ok(())
    }

    /// One pass: hidden states after the last norm (tokens x hidden).
    fn pass(&self, feeds: &mut [Feed<'_>], parts: &[Part], adapter: Option<&Lora>, par: Par) -> Vec<f32> {
        let (c, shape) = (&self.config, self.attention_shape());
        let h = c.hidden;
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for part in parts {
            let feed = &mut feeds[part.feed];
            ids.extend_from_slice(&feed.tokens[part.tokens.clone()]);
            let start = feed.cache.len();
            positions.extend((start..start + part.tokens.len()).map(|p| p as u32));
        }
        let n = ids.len();
        let mut table = std::mem::take(&mut feeds[parts[0].feed].cache.table);
        table.cover(&self.rope, positions.iter().max().map_or(0, |p| *p as usize + 1));

        let (mut x, mut normed, mut r) = (vec![0f32; n * h], vec![0f32; n * h], vec![0f32; n]);
        let mut head_r = vec![0f32; if c.qk_norm { n * c.heads } else { 0 }];
        let (mut qkv, mut mixed) = (vec![0f32; n * shape.qkv_cols()], vec![0f32; n * shape.q_cols()]);
        let (mut gate_up, mut inner) = (vec![0f32; n * 2 * c.ffn], vec![0f32; n * c.ffn]);
        let mut saved = LinearSaved {
            u: vec![0f32; n * adapter.map_or(0, Lora::widest)],
            v: vec![0f32; n * adapter.map_or(0, Lora::widest_magnitudes)],
        };
        let mut scratch = LinearScratch::default();
        ops::embedding(self.embedding(), &ids, MatMut::new(&mut x, n, h));
        for (layer, at) in self.layout.layers.iter().enumerate() {
            let linear = |group: usize| Linear::new(self, adapter, layer, group);
            let norm = self.slice(at.attention_norm, h);
            ops::rms_norm(Mat::new(&x, n, h), norm, c.rms_eps, MatMut::new(&mut normed, n, h), &mut r, par);
            let (hidden, out) = (Mat::new(&normed, n, h), MatMut::new(&mut qkv, n, shape.qkv_cols()));
            linear(0).forward(hidden, &mut saved, &mut scratch, out, Write::Set, par);
            let (mut q, rest) = MatMut::new(&mut qkv, n, shape.qkv_cols()).split_cols(shape.q_cols());
            let (mut k, v) = rest.split_cols(shape.kv_cols());
            if let Some((q_norm, k_norm)) = at.qk_norm {
                ops::rms_norm_heads(q.rb(), self.slice(q_norm, c.head_dim), c.rms_eps, &mut head_r);
                ops::rms_norm_heads(k.rb(), self.slice(k_norm, c.head_dim), c.rms_eps, &mut head_r);
            }
            ops::rotate(q.rb(), c.head_dim, &table, &positions, false, par);
            ops::rotate(k.rb(), c.head_dim, &table, &positions, false, par);
            let mut out = MatMut::new(&mut mixed, n, shape.q_cols());
            let mut row = 0;
            for part in parts {
                let (cache, new) = (&mut *feeds[part.feed].cache, part.tokens.len());
                let rows = row..row + new;
                cache.store(layer, k.as_mat().rows(rows.clone()), v.as_mat().rows(rows.clone()));
                let (keys, values) = cache.read(layer, new);
                let (q, out) = (q.as_mat().rows(rows.clone()), out.rb().rows(rows));
                ops::attention_cached(&shape, cache.len(), q, keys, values, out, par);
                row += new;
            }
            let (hidden, out) = (Mat::new(&mixed, n, shape.q_cols()), MatMut::new(&mut x, n, h));
            linear(1).forward(hidden, &mut saved, &mut scratch, out, Write::Add, par);
            let norm = self.slice(at.ffn_norm, h);
            ops::rms_norm(Mat::new(&x, n, h), norm, c.rms_eps, MatMut::new(&mut normed, n, h), &mut r, par);
            let (hidden, out) = (Mat::new(&normed, n, h), MatMut::new(&mut gate_up, n, 2 * c.ffn));
            linear(2).forward(hidden, &mut saved, &mut scratch, out, Write::Set, par);
            ops::swiglu(Mat::new(&gate_up, n, 2 * c.ffn), MatMut::new(&mut inner, n, c.ffn), par);
            let (hidden, out) = (Mat::new(&inner, n, c.ffn), MatMut::new(&mut x, n, h));
            linear(3).forward(hidden, &mut saved, &mut scratch, out, Write::Add, par);
        }
        for part in parts {
            feeds[part.feed].cache.advance(part.tokens.len());
        }
        feeds[parts[0].feed].cache.table = table;
        let norm = self.slice(self.layout.norm, h);
        ops::rms_norm(Mat::new(&x, n, h), norm, c.rms_eps, MatMut::new(&mut normed, n, h), &mut r, par);
        normed
    }
}

/// Cuts the feeds' tokens into passes of at most [`TOKENS_AT_ONCE`].
fn passes(feeds: &[Feed<'_>]) -> Vec<Vec<Part>> {
    let mut passes = vec![Vec::new()];
    let mut room = TOKENS_AT_ONCE;
    for (feed, Feed { tokens, .. }) in feeds.iter().enumerate() {
        let mut from = 0;
        while from < tokens.len() {
            if room == 0 {
                passes.push(Vec::new());
                room = TOKENS_AT_ONCE;
            }
            let n = room.min(tokens.len() - from);
            if let Some(pass) = passes.last_mut() {
                pass.push(Part { feed, tokens: from..from + n });
            }
            from += n;
            room -= n;
        }
    }
    passes.retain(|p| !p.is_empty());
    passes
}

#[cfg(test)]
mod tests;
