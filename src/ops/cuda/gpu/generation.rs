#![allow(unsafe_code)]
//! Operations of generation: keys and values in blocks, attention over them, the choice of tokens.

use std::sync::Arc;

use super::{Gpu, THREADS, int, matrix, numbers, pointer, threads_of_row};
use crate::ops::AttentionShape;
use crate::ops::cuda::buffer::Buffer;
use crate::ops::cuda::error::CudaError;
use crate::ops::cuda::seam::{Arg, Dtype, Launcher};
use crate::ops::cuda::view::View;

/// Positions of a query's keys that one thread block reads; the same for all, so that an answer does not depend on who is answered
/// beside it.
const SPAN: usize = 128;
/// Bytes of the parts of attention that are there at once, beyond those of one query.
const PARTS: usize = 256 << 20;

/// Keys and values of all layers in blocks, in bf16: within a block layer after layer, of each the keys by head (positions x dim),
/// then the values.
#[derive(Debug)]
pub struct KvCache {
    values: Buffer,
    layers: usize,
    kv_cols: usize,
    block: usize,
}

impl KvCache {
    /// Bytes of a block of `block` positions.
    pub fn block_bytes(layers: usize, kv_cols: usize, block: usize) -> usize {
        layers * 2 * kv_cols * block * Dtype::Bf16.bytes()
    }

    /// `count` blocks; their content is arbitrary.
    ///
    /// # Errors
    /// No room.
    pub fn new(
        launcher: &Arc<dyn Launcher>,
        [layers, kv_cols, block]: [usize; 3],
        count: usize,
    ) -> Result<Self, CudaError> {
        let values = Buffer::new(launcher, count * layers * 2 * kv_cols * block, Dtype::Bf16)?;
        Ok(Self { values, layers, kv_cols, block })
    }

    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }

    /// Positions of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Elements from one block to the next.
    fn stride(&self) -> usize {
        self.layers * self.of_layer()
    }

    fn of_layer(&self) -> usize {
        2 * self.kv_cols * self.block
    }

    /// A layer's part of block 0.
    fn layer(&self, layer: usize) -> Result<Arg, CudaError> {
        Ok(Arg::Pointer(self.values.at(layer * self.of_layer(), self.of_layer())?))
    }
}

/// What the queries of a pass see; see `kernels/paged_attention.cu`.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// Blocks, and rows of this pass (1 x any).
    pub tables: View<'a>,
    /// Four numbers a query (queries x 4).
    pub places: View<'a>,
    /// Parts of [`SPAN`] positions that hold the furthest position of all.
    pub splits: usize,
}

/// The paged attention kernel for heads of `dim`, and the query heads that one of its blocks takes.
fn paged_kernel(dim: usize) -> Result<(&'static str, usize), CudaError> {
    match dim {
        _ if !dim.is_multiple_of(8) => {}
        1..=64 => return Ok(("paged_attention_bf16_64", 4)),
        65..=128 => return Ok(("paged_attention_bf16_128", 4)),
        129..=256 => return Ok(("paged_attention_bf16_256", 2)),
        _ => {}
    }
    Err(CudaError::Unavailable(format!(
        "attention heads of {dim} are not for the GPU: their kernels want a multiple of 8 up to 256; use device = \"cpu\""
    )))
}

impl Gpu {
    /// Splits for queries at positions below `positions`.
    pub fn splits(positions: usize) -> usize {
        positions.div_ceil(SPAN).max(1)
    }

    /// Queries whose attention goes at once, and the elements that its parts take.
    fn at_once(shape: &AttentionShape, queries: usize, splits: usize) -> (usize, usize) {
        let of_one = shape.heads * splits * (shape.dim + 2);
        let at_once = (PARTS / (Dtype::F32.bytes() * of_one)).clamp(1, queries.max(1));
        (at_once, at_once * of_one)
    }

    /// Room for the parts of [`Gpu::paged_attention`].
    pub fn fit_parts(&self, parts: &mut Buffer, shape: &AttentionShape, queries: usize, splits: usize) {
        self.fit_as(parts, Self::at_once(shape, queries, splits).1, Dtype::F32);
    }

    /// Keys and values of the rows of `qkv` to their `slots` (1 x rows): block * positions of a block + place in it, or nowhere.
    pub fn paged_write(
        &self,
        shape: &AttentionShape,
        qkv: View<'_>,
        slots: View<'_>,
        cache: &KvCache,
        layer: usize,
    ) {
        self.run(|| {
            let args = [
                matrix(qkv)?,
                numbers(slots, qkv.rows)?,
                cache.layer(layer)?,
                Arg::U64(cache.stride() as u64),
                int(qkv.stride)?,
                int(qkv.rows)?,
                int(shape.heads)?,
                int(shape.kv_heads)?,
                int(shape.dim)?,
                int(cache.block)?,
            ];
            self.launch(
                "paged_write_bf16",
                self.strides(qkv.rows * 2 * shape.kv_cols()),
                [THREADS, 1],
                0,
                &args,
            )
        });
    }

    /// `out` (rows x heads dim): attention of the rows of `qkv` over what they see; `parts` has the room of [`Gpu::fit_parts`].
    pub fn paged_attention(
        &self,
        shape: &AttentionShape,
        qkv: View<'_>,
        queries: Queries<'_>,
        cache: &KvCache,
        layer: usize,
        parts: &Buffer,
        out: View<'_>,
    ) {
        self.run(|| {
            let (kernel, heads_at_once) = paged_kernel(shape.dim)?;
            let Queries { tables, places, splits } = queries;
            let (at_once, parts_len) = Self::at_once(shape, qkv.rows, splits);
            let window = shape.window.map_or(0, |w| w.min(i32::MAX as usize));
            let y = shape.kv_heads * (shape.heads / shape.kv_heads).div_ceil(heads_at_once);
            for first in (0..qkv.rows).step_by(at_once) {
                let rows = first..(first + at_once).min(qkv.rows);
                let mut args = vec![
                    matrix(qkv)?,
                    cache.layer(layer)?,
                    matrix(tables)?,
                    matrix(places)?,
                    pointer(parts, parts_len)?,
                    Arg::U64(cache.stride() as u64),
                ];
                for n in
                    [qkv.stride, shape.heads, shape.kv_heads, shape.dim, cache.block, SPAN, splits, window]
                {
                    args.push(int(n)?);
                }
                args.push(int(first)?);
                self.launch(kernel, [rows.len() * splits, y], [128, 1], 0, &args)?;
                let args = [
                    pointer(parts, parts_len)?,
                    matrix(out.rows(rows.clone()))?,
                    int(splits)?,
                    int(shape.dim)?,
                ];
                let threads = (shape.dim as u32).next_multiple_of(32);
                self.launch("paged_merge", [rows.len() * shape.heads, 1], [threads, 1], 0, &args)?;
            }
            Ok(())
        });
    }

    /// Copies block `from` to block `to`, of all layers.
    pub fn copy_block(&self, cache: &KvCache, from: u32, to: u32) {
        self.run(|| {
            let (n, at) = (cache.stride(), |block: u32| block as usize * cache.stride());
            let (to, from) = (cache.values.at(at(to), n)?, cache.values.at(at(from), n)?);
            // SAFETY: both hold `n` elements, as `at` checked.
            unsafe { self.launcher.copy(to, from, n * Dtype::Bf16.bytes()) }
        });
    }

    /// Repetition penalties and masks into rows of `logits` (rows x vocab, f32); see `kernels/sampling.cu` for `jobs` (jobs x 5) and
    /// `words`.
    pub fn adjust_logits(&self, logits: View<'_>, jobs: View<'_>, words: View<'_>) {
        self.run(|| {
            let args = [matrix(logits)?, matrix(jobs)?, matrix(words)?, int(logits.cols)?];
            self.launch("adjust_logits", [jobs.rows, 1], [threads_of_row(logits.cols), 1], 0, &args)
        });
    }

    /// `ids` (1 x draws): a token from each of the `rows` of `logits` (any x vocab, f32); `settings` three numbers a draw (draws x 3),
    /// `draws` numbers in [0, 1) of two words each (draws x 2).
    pub fn sample(
        &self,
        logits: View<'_>,
        rows: View<'_>,
        settings: View<'_>,
        top_k: View<'_>,
        draws: View<'_>,
        ids: View<'_>,
    ) {
        self.run(|| {
            let n = rows.cols;
            let args = [
                matrix(logits)?,
                numbers(rows, n)?,
                matrix(settings)?,
                numbers(top_k, n)?,
                matrix(draws)?,
                numbers(ids, n)?,
                int(logits.cols)?,
            ];
            self.launch("sample", [n, 1], [threads_of_row(logits.cols), 1], 0, &args)
        });
    }
}
