//! One pass on a GPU, the twin of `pass.rs`: weights, activations, keys and values in bf16, sums and logits in f32.
//!
//! One copy brings what the pass is about, one brings back the tokens that were chosen there; logits come only where they are asked
//! for. Rows are filled up to some numbers of them ([`inputs::padded`]), and passes in which every row wants something, those of
//! decoding, are recorded once and then replayed ([`graphs`]).

mod forward;
mod graphs;
mod inputs;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{Batch, Feed, Found, Outcome};
use super::compute::OnGpu;
use super::engine::Settings;
use super::pages::{BLOCK, Pages};
use crate::model::lora::Lora;
use crate::model::trainable::BaseOnGpu;
use crate::model::trainable::gpu::{Adapter, Dequantized};
use crate::model::{Decoder, ModelError};
use crate::ops::RopeTable;
use crate::ops::cuda::{Address, Buffer, CudaError, Dtype, Gpu, KvCache, View, attention_takes};
use forward::Forward;
use graphs::{Graphs, Kind};
use inputs::{Inputs, Picks};

/// Memory that stays free for activations, the driver, and what else runs on the device.
const RESERVE: usize = 1 << 30;
/// Bytes of logits that are there at once.
const LOGITS: usize = 256 << 20;
/// Rows of a pass up to which it is recorded: with more, submitting is not what takes the time.
const RECORDED: usize = 256;

/// A decoder on a GPU, its adapters, its keys and values.
#[derive(Debug)]
pub(super) struct Device {
    gpu: Gpu,
    base: Arc<BaseOnGpu>,
    adapters: BTreeMap<u32, Adapter>,
    cache: KvCache,
    buffers: Buffers,
    graphs: Graphs,
}

/// What a pass computes in.
#[derive(Debug)]
pub(super) struct Buffers {
    inputs: Buffer,
    rope: RopeTable,
    table: Buffer,
    x: Buffer,
    normed: Buffer,
    /// Of rows or of heads, inverse root mean squares.
    r: Buffer,
    qkv: Buffer,
    /// q and k before their norms.
    raw: Buffer,
    parts: Buffer,
    mixed: Buffer,
    gate_up: Buffer,
    inner: Buffer,
    /// Of adapters: `x A^T`, and with DoRA the output before its magnitude.
    u: Buffer,
    v: Buffer,
    room: Dequantized,
    last: Buffer,
    logits: Buffer,
    ids: Buffer,
}

impl Default for Buffers {
    fn default() -> Self {
        let of = Buffer::empty;
        let [x, normed, qkv, raw, mixed, gate_up, inner, u, v, last] =
            [const { Buffer::empty(Dtype::Bf16) }; 10];
        Self {
            inputs: of(Dtype::U32),
            rope: RopeTable::default(),
            table: of(Dtype::F32),
            x,
            normed,
            r: of(Dtype::F32),
            qkv,
            raw,
            parts: of(Dtype::F32),
            mixed,
            gate_up,
            inner,
            u,
            v,
            room: Dequantized::default(),
            last,
            logits: of(Dtype::F32),
            ids: of(Dtype::U32),
        }
    }
}

impl Buffers {
    /// Where each stands that a recording names.
    fn addresses(&self) -> Result<Vec<Address>, CudaError> {
        let Self { inputs, table, x, normed, r, qkv, raw, parts, mixed, gate_up, inner, .. } = self;
        let rest = [&self.u, &self.v, self.room.buffer(), &self.last, &self.logits];
        let all =
            [inputs, table, x, normed, r, qkv, raw, parts, mixed, gate_up, inner].into_iter().chain(rest);
        all.map(|buffer| buffer.at(0, 0)).collect()
    }
}

/// Rows of logits that are there at once.
fn rows_of_logits(vocab: usize) -> usize {
    (LOGITS / (Dtype::F32.bytes() * vocab)).max(1)
}

impl Device {
    /// Brings the decoder there; its blocks are as many as half of what is free then holds, or as the settings say, and not more
    /// than one whole context takes for each request.
    ///
    /// # Errors
    /// A decoder that a GPU does not do; no room for it.
    pub fn new(gpu: &OnGpu, decoder: &Decoder, settings: &Settings) -> Result<(Self, usize), ModelError> {
        let (launcher, c) = (&gpu.launcher, &decoder.config);
        if !attention_takes(c.head_dim) {
            return Err(ModelError::Request(format!(
                "attention with heads of {} is computed on the CPU only yet: set device = \"cpu\"",
                c.head_dim
            )));
        }
        let short = |error: CudaError, what: &str| match error {
            CudaError::OutOfMemory { .. } => {
                ModelError::OutOfMemory(format!("{error}: {what}; use a smaller base, or device = \"cpu\""))
            }
            other => other.into(),
        };
        let mib = |bytes: usize| format!("{} MiB", bytes.div_ceil(1 << 20));
        let base = match &gpu.base {
            Some(base) => base.clone(),
            None => Arc::new(BaseOnGpu::new(launcher, decoder).map_err(|error| {
                short(error, &format!("the model takes {}", mib(BaseOnGpu::bytes_of(decoder))))
            })?),
        };
        let free = launcher.memory()?.free;
        let of_one = KvCache::block_bytes(c.layers, c.kv_dim(), BLOCK);
        let bytes = settings.gpu_kv_bytes.unwrap_or(usize::MAX).min(free.saturating_sub(RESERVE) / 2);
        let most = settings.requests.saturating_mul(c.max_positions.div_ceil(BLOCK));
        let blocks = (bytes / of_one).clamp(1, most.max(1));
        let cache = KvCache::new(launcher, [c.layers, c.kv_dim(), BLOCK], blocks).map_err(|error| {
            short(error, &format!("keys and values of {BLOCK} tokens take {}", mib(of_one)))
        })?;
        let device = Self {
            gpu: Gpu::new(launcher.clone()),
            base,
            adapters: BTreeMap::new(),
            cache,
            buffers: Buffers::default(),
            graphs: Graphs::default(),
        };
        Ok((device, blocks))
    }

    /// With so many blocks of `block` positions.
    #[cfg(test)]
    pub fn with_blocks(mut self, decoder: &Decoder, block: usize, count: usize) -> Self {
        let (launcher, c) = (self.gpu.launcher(), &decoder.config);
        self.cache = KvCache::new(launcher, [c.layers, c.kv_dim(), block], count).unwrap();
        self
    }

    /// The lane's adapter is gone.
    pub fn forget(&mut self, lane: u32) {
        self.graphs.forget(&self.gpu, |kind| kind.lane == lane);
        self.adapters.remove(&lane);
    }

    /// See [`super::compute::Compute::pass`].
    pub fn pass(
        &mut self,
        decoder: &Decoder,
        pages: &mut Pages,
        feeds: &[Feed<'_>],
    ) -> Result<Outcome, ModelError> {
        let batch = Batch::new(feeds);
        let vocab = decoder.config.vocab;
        let mut outcome = Outcome { logits: Vec::new(), vocab, tokens: Vec::new(), found: Vec::new() };
        if batch.ids.is_empty() {
            return Ok(outcome);
        }
        // What an earlier pass left behind is not of this one.
        let _ = self.gpu.check();
        for (from, to, _) in pages.take_copies() {
            self.gpu.copy_block(&self.cache, from, to);
        }
        self.bring_adapters(decoder, &batch)?;
        let mut inputs = Inputs::new(&batch, self.cache.block());
        let at_once = rows_of_logits(vocab);
        let parts = inputs.choose(&batch, feeds, at_once);
        self.fit(decoder, &batch, &inputs, at_once);
        self.gpu.check()?;
        self.buffers.inputs.write_u32(0, &inputs.words)?;
        let whole = self.submit(decoder, &batch, &inputs, at_once)?;
        self.read(decoder, &inputs, &parts, feeds, &batch, whole, &mut outcome)?;
        Ok(outcome)
    }

    /// Layers, and the logits of all wanted rows where they are there at once: whether they are.
    fn submit(
        &mut self,
        decoder: &Decoder,
        batch: &Batch<'_>,
        inputs: &Inputs,
        at_once: usize,
    ) -> Result<bool, ModelError> {
        let Self { gpu, base, adapters, cache, buffers, graphs } = self;
        let whole = inputs.wanted <= at_once;
        let addresses = buffers.addresses()?;
        let mut pass = || {
            let mut forward = Forward { gpu, decoder, base, adapters, cache, buffers, batch, inputs };
            forward.layers();
            if whole && inputs.wanted > 0 {
                forward.logits(0..inputs.wanted);
            }
        };
        let every_row = batch.wanted.iter().copied().eq(0..batch.ids.len());
        let [stretch] = batch.lanes.as_slice() else {
            pass();
            return Ok(whole);
        };
        if !(whole && every_row && inputs.rows <= RECORDED) {
            pass();
            return Ok(whole);
        }
        graphs.keep(gpu, addresses);
        let kind = Kind { rows: inputs.rows, splits: inputs.splits, lane: stretch.lane };
        match graphs.ready(gpu, kind, &mut pass)? {
            None => pass(),
            // SAFETY: `keep` has just dropped all recordings if a buffer of a pass has moved; weights and cache stay as long as
            // `self`, and with an adapter go the recordings that name it.
            #[allow(unsafe_code)]
            Some(graph) => unsafe { gpu.replay(graph) },
        }
        Ok(whole)
    }

    /// Tokens and logits, to the host.
    fn read(
        &mut self,
        decoder: &Decoder,
        inputs: &Inputs,
        parts: &[Picks],
        feeds: &[Feed<'_>],
        batch: &Batch<'_>,
        whole: bool,
        outcome: &mut Outcome,
    ) -> Result<(), ModelError> {
        let vocab = decoder.config.vocab;
        // By wanted row: its place among the tokens, or among the logits.
        let (mut tokens, mut rows) = (0, 0);
        let mut chosen = vec![false; batch.wanted.len()];
        for (feed, range) in feeds.iter().zip(&batch.ranges) {
            chosen[range.clone()].fill(feed.choice.is_some());
        }
        let places: Vec<usize> = chosen
            .iter()
            .map(|chosen| {
                let next = if *chosen { &mut tokens } else { &mut rows };
                *next += 1;
                *next - 1
            })
            .collect();
        outcome.logits = vec![0.0; rows * vocab];
        for part in parts {
            let count = part.rows.len();
            let Self { gpu, base, adapters, cache, buffers, .. } = self;
            if !whole {
                let mut forward = Forward { gpu, decoder, base, adapters, cache, buffers, batch, inputs };
                forward.logits(part.rows.clone());
            }
            let Buffers { inputs, logits, ids, .. } = &*buffers;
            part.submit(gpu, inputs, View::new(logits, count, vocab), ids);
            gpu.check()?;
            // Neighbours come in one copy: each waits for the device.
            let first = part.rows.start;
            for run in chosen[part.rows.clone()].chunk_by(|a, b| a == b).scan(first, |at, run| {
                *at += run.len();
                Some((run[0], *at - run.len()..*at))
            }) {
                if let (false, rows) = run {
                    let to = places[rows.start] * vocab..(places[rows.start] + rows.len()) * vocab;
                    logits.read_f32((rows.start - first) * vocab, &mut outcome.logits[to])?;
                }
            }
        }
        let mut ids = vec![0; tokens];
        self.buffers.ids.read_u32(0, &mut ids)?;
        outcome.tokens = ids.into_iter().map(|id| (id != u32::MAX).then_some(id)).collect();
        let found = feeds.iter().zip(&batch.ranges).map(|(feed, range)| {
            let first = if range.is_empty() { 0 } else { places[range.start] };
            let rows = first..first + range.len();
            if feed.choice.is_some() { Found::Tokens(rows) } else { Found::Logits(rows) }
        });
        outcome.found = found.collect();
        Ok(())
    }

    /// Adapters of lanes that were not there yet.
    fn bring_adapters(&mut self, decoder: &Decoder, batch: &Batch<'_>) -> Result<(), ModelError> {
        for stretch in &batch.lanes {
            let Some(lora) = stretch.adapter else { continue };
            if self.adapters.contains_key(&stretch.lane) {
                continue;
            }
            let mut adapter = Adapter::new(self.gpu.launcher(), decoder, lora)?;
            adapter.refresh(&self.gpu, decoder, lora, &self.base, &mut self.buffers.room);
            self.gpu.check()?;
            self.adapters.insert(stretch.lane, adapter);
        }
        Ok(())
    }

    /// Room for a pass.
    fn fit(&mut self, decoder: &Decoder, batch: &Batch<'_>, inputs: &Inputs, at_once: usize) {
        let Self { gpu, buffers: b, .. } = self;
        let (c, shape) = (&decoder.config, decoder.attention_shape());
        let (n, w) = (inputs.rows, inputs.wanted);
        let heads = shape.heads + shape.kv_heads;
        let loras: Vec<&Lora> = batch.lanes.iter().filter_map(|stretch| stretch.adapter).collect();
        let rank = loras.iter().map(|lora| lora.widest()).max().unwrap_or(0);
        let widest = shape.qkv_cols().max(c.hidden).max(2 * c.ffn);
        let dora = if loras.iter().any(|lora| lora.norms.is_some()) { widest } else { 0 };
        for (buffer, len) in [
            (&mut b.x, n * c.hidden),
            (&mut b.normed, n.max(w) * c.hidden),
            (&mut b.r, (n * heads).max(w)),
            (&mut b.qkv, n * shape.qkv_cols()),
            (&mut b.raw, if c.qk_norm { n * heads * c.head_dim } else { 0 }),
            (&mut b.mixed, n * shape.q_cols()),
            (&mut b.gate_up, n * 2 * c.ffn),
            (&mut b.inner, n * c.ffn),
            (&mut b.u, n * rank),
            (&mut b.v, n * dora),
            (&mut b.last, w * c.hidden),
            (&mut b.logits, w.min(at_once) * c.vocab),
            (&mut b.ids, w),
        ] {
            gpu.fit(buffer, len);
        }
        gpu.fit_parts(&mut b.parts, &shape, n, inputs.splits);
        // Numbers that grow with every token get room for some more.
        if b.inputs.len() < inputs.words.len() {
            gpu.fit(&mut b.inputs, (2 * inputs.words.len()).next_power_of_two());
        }
        if b.rope.values().len() < inputs.positions * c.head_dim {
            b.rope.cover(&decoder.rope, inputs.positions.next_power_of_two().max(1024));
            gpu.write_f32(&mut b.table, b.rope.values());
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The launcher may live on.
        self.graphs.forget(&self.gpu, |_| true);
    }
}

#[cfg(test)]
mod tests;
