//! Keys and values of all layers in blocks of equal length, taken from the system some blocks at a time.
//!
//! A block is a run of positions of one sequence, or of several that begin alike (Kwon et al. 2023, arXiv:2309.06180). Within a
//! chunk of blocks, each layer and key-value head has its keys `(positions x dim)` together, then its values: blocks that stand
//! one after another are one matrix, and nothing is gathered to multiply with it.

use super::mat::Mat;

/// Blocks that are taken from the system at once.
const BLOCKS_AT_ONCE: usize = 16;

/// The blocks; which of them are in use, and by whom, the caller knows.
#[derive(Debug)]
pub struct KvPages {
    layers: usize,
    kv_heads: usize,
    dim: usize,
    block: usize,
    chunks: Vec<Vec<f32>>,
}

impl KvPages {
    /// Blocks of `block` positions; none is there yet.
    pub fn new(layers: usize, kv_heads: usize, dim: usize, block: usize) -> Self {
        assert!(layers > 0 && kv_heads > 0 && dim > 0 && block > 0);
        Self { layers, kv_heads, dim, block, chunks: Vec::new() }
    }

    /// Positions of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Bytes of a block.
    pub fn block_bytes(layers: usize, kv_cols: usize, block: usize) -> usize {
        layers * 2 * kv_cols * block * size_of::<f32>()
    }

    /// Blocks that are there: ids count from 0.
    pub fn blocks(&self) -> usize {
        self.chunks.len() * BLOCKS_AT_ONCE
    }

    /// Takes more from the system. The memory is committed as it is written.
    pub fn grow(&mut self) {
        self.chunks.push(vec![0.0; self.layers * 2 * self.kv_heads * BLOCKS_AT_ONCE * self.block * self.dim]);
    }

    /// Where a layer's keys (0) or values (1) of a head begin in a chunk, and what is there for each of its positions.
    fn base(&self, layer: usize, which: usize, head: usize) -> usize {
        ((layer * 2 + which) * self.kv_heads + head) * BLOCKS_AT_ONCE * self.block * self.dim
    }

    fn place(&self, block: u32) -> (usize, usize) {
        let at = block as usize;
        (at / BLOCKS_AT_ONCE, at % BLOCKS_AT_ONCE * self.block)
    }

    /// Stores one position's key and value (each kv_heads*dim).
    pub fn write(&mut self, layer: usize, block: u32, offset: usize, key: &[f32], value: &[f32]) {
        assert!(offset < self.block);
        let (chunk, first) = self.place(block);
        for (which, row) in [key, value].into_iter().enumerate() {
            for (head, row) in row.chunks_exact(self.dim).enumerate() {
                let at = self.base(layer, which, head) + (first + offset) * self.dim;
                self.chunks[chunk][at..at + self.dim].copy_from_slice(row);
            }
        }
    }

    /// Copies the first `n` positions of a block to another.
    pub fn copy(&mut self, from: u32, to: u32, n: usize) {
        assert!(n <= self.block && from != to);
        let ((from_chunk, from_first), (to_chunk, to_first)) = (self.place(from), self.place(to));
        let len = n * self.dim;
        for layer in 0..self.layers {
            for (which, head) in (0..2).flat_map(|w| (0..self.kv_heads).map(move |h| (w, h))) {
                let base = self.base(layer, which, head);
                let (at, to) = (base + from_first * self.dim, base + to_first * self.dim);
                if from_chunk == to_chunk {
                    self.chunks[to_chunk].copy_within(at..at + len, to);
                } else if let Ok([source, target]) = self.chunks.get_disjoint_mut([from_chunk, to_chunk]) {
                    target[to..to + len].copy_from_slice(&source[at..at + len]);
                }
            }
        }
    }

    /// Keys and values (positions x dim) of one head, from the `n` positions after `skip` in a run of blocks.
    pub(super) fn head(
        &self,
        layer: usize,
        head: usize,
        run: &Run,
        skip: usize,
        n: usize,
    ) -> (Mat<'_>, Mat<'_>) {
        let (chunk, first) = self.place(run.block);
        let of = |which| {
            let at = self.base(layer, which, head) + (first + skip) * self.dim;
            Mat::new(&self.chunks[chunk][at..], n, self.dim)
        };
        (of(0), of(1))
    }

    /// Whether `next` stands right after `block`.
    fn adjoin(block: u32, next: u32) -> bool {
        next == block + 1 && !(next as usize).is_multiple_of(BLOCKS_AT_ONCE)
    }

    /// Some blocks' positions `0..len` in runs, the first of which is at `position`.
    pub(super) fn runs(&self, blocks: &[u32], position: usize, len: usize) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (i, &block) in blocks.iter().enumerate().take(len.div_ceil(self.block)) {
            let n = self.block.min(len - i * self.block);
            match runs.last_mut() {
                Some(run) if Self::adjoin(blocks[i - 1], block) => run.len += n,
                _ => runs.push(Run { block, position: position + i * self.block, len: n }),
            }
        }
        runs
    }
}

/// Positions that stand one after another in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub block: u32,
    pub position: usize,
    pub len: usize,
}
