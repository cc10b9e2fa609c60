//! Loss, gradient norm and the optimizer's step.

use std::ops::Range;

use super::{Addend, Gpu, THREADS, int, matrix, pointer, threads_of_row};
use crate::ops::cuda::buffer::Buffer;
use crate::ops::cuda::seam::{Arg, Dtype};
use crate::ops::cuda::view::View;

/// Bytes of logits that exist at once; rows of a chunk are what fits, at least [`LOGIT_ROWS`].
const LOGIT_BYTES: usize = 256 << 20;
const LOGIT_ROWS: usize = 128;
/// Most partial sums of a norm.
const NORM_PARTS: usize = 256;

/// Factors of an AdamW step that are the same for all elements; see [`crate::ops::AdamW`].
#[derive(Clone, Copy, Debug)]
pub struct AdamWFactors {
    pub keep: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub rate: f32,
    pub root_correction: f32,
    pub epsilon: f32,
}

impl Gpu {
    /// Rows of logits that exist at once.
    pub fn logit_rows(rows: usize, vocab: usize) -> usize {
        let most = (LOGIT_BYTES / (vocab * Dtype::Bf16.bytes()).max(1)).max(LOGIT_ROWS);
        rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(8).min(rows.max(1))
    }

    /// The losses of `hidden` under `head` (vocab x h) against `targets` to `losses`; with `backward`, a scale and the hidden states'
    /// gradient, also that times the scale. `logits` is scratch.
    pub fn linear_cross_entropy(
        &self,
        hidden: View<'_>,
        head: View<'_>,
        targets: &Buffer,
        logits: &mut Buffer,
        losses: &mut Buffer,
        backward: Option<(f32, View<'_>)>,
    ) {
        let (rows, vocab) = (hidden.rows, head.rows);
        let chunk = Self::logit_rows(rows, vocab);
        self.fit(logits, chunk * vocab);
        self.fit(losses, rows);
        let (logits, losses) = (&*logits, &*losses);
        for first in (0..rows).step_by(chunk) {
            let part = first..(first + chunk).min(rows);
            let z = View::new(logits, part.len(), vocab);
            self.matmul(z, Addend::None, 1.0, hidden.rows(part.clone()), head.t());
            self.run(|| {
                let args = [
                    matrix(z)?,
                    Arg::Pointer(targets.at(first, part.len())?),
                    Arg::Pointer(losses.at(first, part.len())?),
                    int(vocab)?,
                    Arg::F32(backward.map_or(0.0, |(scale, _)| scale)),
                    Arg::I32(i32::from(backward.is_some())),
                ];
                self.launch("cross_entropy", [part.len(), 1], [threads_of_row(vocab), 1], 0, &args)
            });
            if let Some((_, d_hidden)) = backward {
                self.matmul(d_hidden.rows(part), Addend::None, 1.0, z, head);
            }
        }
    }

    /// Sums of the losses of the rows that end before `ends` (rows) to `sums` (1 x rows).
    pub fn row_losses(&self, losses: &Buffer, ends: &Buffer, sums: View<'_>) {
        self.run(|| {
            let args = [pointer(losses, 0)?, pointer(ends, sums.cols)?, matrix(sums)?, int(sums.cols)?];
            self.launch("row_losses", [sums.cols.div_ceil(8), 1], [256, 1], 0, &args)
        });
    }

    /// The norm of `grad` and what follows from it: `state` becomes (norm, factor for the gradient under `max_norm`, 1 if finite
    /// else 0). `parts` is scratch of 8-byte numbers.
    pub fn clip(&self, grad: &Buffer, max_norm: f32, parts: &mut Buffer, state: &Buffer) {
        // A double is two words; there is no element type for it, as nothing else has one.
        self.fit(parts, 2 * NORM_PARTS);
        let parts = &*parts;
        self.run(|| {
            let blocks = self.strides(grad.len())[0].min(NORM_PARTS);
            let count = Arg::U64(grad.len() as u64);
            let to = pointer(parts, 2 * blocks)?;
            let args = [pointer(grad, grad.len())?, count, to];
            self.launch("squared_norm", [blocks, 1], [THREADS, 1], 0, &args)?;
            let args = [to, int(blocks)?, Arg::F32(1.0), Arg::F32(max_norm), pointer(state, 3)?];
            self.launch("clip", [1, 1], [THREADS, 1], 0, &args)
        });
    }

    /// One step on a range of parameters, gradient and both moments; nothing where `state` (of [`Gpu::clip`]) says that the
    /// gradient is not finite.
    pub fn adamw(&self, buffers: [&Buffer; 4], range: Range<usize>, f: &AdamWFactors, state: &Buffer) {
        self.run(|| {
            let mut args = Vec::with_capacity(12);
            for buffer in buffers {
                args.push(Arg::Pointer(buffer.at(range.start, range.len())?));
            }
            args.push(Arg::U64(range.len() as u64));
            args.extend([f.keep, f.beta1, f.beta2, f.rate, f.root_correction, f.epsilon].map(Arg::F32));
            args.push(pointer(state, 3)?);
            self.launch("adamw", self.strides(range.len()), [THREADS, 1], 0, &args)
        });
    }
}
