//! What training methods add to a linear layer: dropout, DoRA's lengths and magnitudes, weights in NF4.

use std::sync::Arc;

use super::{Gpu, THREADS, int, matrix, pointer};
use crate::ops::Nf4;
use crate::ops::cuda::buffer::Buffer;
use crate::ops::cuda::error::CudaError;
use crate::ops::cuda::seam::{Arg, Dtype, Launcher};
use crate::ops::cuda::view::View;
use crate::ops::dropout::dropout_bound;

/// Rows that a block of DoRA's backward sums over, and most of such blocks.
const ROWS_PER_PART: usize = 64;
const MOST_PARTS: usize = 64;

/// The mask of one layer's input; see [`crate::ops::Dropout`].
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// Of every row two words, the lower one first.
    pub keys: &'a Buffer,
    pub layer: u64,
    pub rate: f32,
}

/// Rows of a weight with their adapter, all in f32 but the weight: `w` (outputs x inputs), `a` (rank x inputs), `b` (outputs x rank),
/// `m` (1 x outputs).
#[derive(Clone, Copy, Debug)]
pub struct DoraRows<'a> {
    pub w: View<'a>,
    pub a: View<'a>,
    pub b: View<'a>,
    pub m: View<'a>,
    pub scale: f32,
}

/// A weight (rows x cols) in NF4 on a device.
#[derive(Debug)]
pub struct Nf4Weight {
    codes: Buffer,
    constants: Buffer,
    super_constants: Buffer,
    mean: f32,
    rows: usize,
    cols: usize,
}

impl Nf4Weight {
    pub fn new(launcher: &Arc<dyn Launcher>, weight: &Nf4) -> Result<Self, CudaError> {
        let (codes, constants, super_constants, mean) = weight.parts();
        let bytes = |values: &[u8]| -> Result<Buffer, CudaError> {
            let buffer = Buffer::new(launcher, values.len(), Dtype::U8)?;
            buffer.write_u8(0, values)?;
            Ok(buffer)
        };
        Ok(Self {
            codes: bytes(codes)?,
            constants: bytes(constants)?,
            super_constants: Buffer::from_f32(launcher, super_constants)?,
            mean,
            rows: weight.n_rows(),
            cols: weight.n_cols(),
        })
    }

    /// The levels that constants are indices into: one buffer for all weights.
    pub fn levels(launcher: &Arc<dyn Launcher>) -> Result<Buffer, CudaError> {
        Buffer::from_f32(launcher, Nf4::levels())
    }

    pub fn n_rows(&self) -> usize {
        self.rows
    }

    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.constants.bytes() + self.super_constants.bytes()
    }
}

/// A matrix whose rows stand one after another.
fn dense(view: View<'_>) -> Result<Arg, CudaError> {
    if view.stride != view.cols {
        return Err(CudaError::call("launch", format!("rows of {} in steps of {}", view.cols, view.stride)));
    }
    matrix(view)
}

impl Gpu {
    /// `y = [y +] x k / (1 - rate)` (rows x width each); see [`crate::ops::dropout`]. The backward is the same on the gradient.
    pub fn dropout(&self, x: View<'_>, mask: Mask<'_>, y: View<'_>, add: bool) {
        self.run(|| {
            let (bound, kept) = dropout_bound(mask.rate);
            let args = [
                dense(x)?,
                dense(y)?,
                pointer(mask.keys, 2 * x.rows)?,
                Arg::U64(mask.layer),
                Arg::U32(bound),
                Arg::F32(kept),
                int(x.rows)?,
                int(x.cols)?,
                Arg::I32(i32::from(add)),
            ];
            self.launch("dropout", self.strides(x.rows * x.cols), [THREADS, 1], 0, &args)
        });
    }

    /// Lengths of the rows of `W + scale B A` to `norm`, and `m / norm` to `gain` (1 x outputs each); see
    /// [`crate::ops::dora_norms`].
    pub fn dora_norm(&self, rows: DoraRows<'_>, norm: View<'_>, gain: View<'_>) {
        self.run(|| {
            let DoraRows { w, a, b, m, scale } = rows;
            let args = [
                dense(w)?,
                dense(a)?,
                dense(b)?,
                matrix(m)?,
                matrix(norm)?,
                matrix(gain)?,
                int(w.rows)?,
                int(w.cols)?,
                int(a.rows)?,
                Arg::F32(scale),
            ];
            let shared = u32::try_from(32 * a.rows)
                .map_err(|_| CudaError::call("dora_norm", format!("a rank of {}", a.rows)))?;
            self.launch("dora_norm", [w.rows.div_ceil(8), 1], [THREADS, 1], shared, &args)
        });
    }

    /// `y = [y +] gain v`, `gain` (1 x width).
    pub fn dora_forward(&self, v: View<'_>, gain: View<'_>, y: View<'_>, add: bool) {
        self.run(|| {
            let args = [
                matrix(v)?,
                matrix(y)?,
                matrix(gain)?,
                int(v.stride)?,
                int(y.stride)?,
                int(v.rows)?,
                int(v.cols)?,
                Arg::I32(i32::from(add)),
            ];
            self.launch("dora_forward", self.strides(v.rows * v.cols), [THREADS, 1], 0, &args)
        });
    }

    /// Bytes of the parts of [`Gpu::dora_backward`] for so many columns.
    pub fn dora_parts_bytes(width: usize) -> usize {
        MOST_PARTS * width * Dtype::F32.bytes()
    }

    /// `v` becomes `gain dy`; sums over some rows of `dy v` each go to `parts` (the number returned x width).
    pub fn dora_backward(&self, dy: View<'_>, v: View<'_>, gain: View<'_>, parts: &mut Buffer) -> usize {
        let count = v.rows.div_ceil(ROWS_PER_PART).clamp(1, MOST_PARTS);
        self.fit_as(parts, MOST_PARTS * v.cols, Dtype::F32);
        let parts = &*parts;
        self.run(|| {
            let args = [
                matrix(dy)?,
                matrix(v)?,
                matrix(gain)?,
                pointer(parts, count * v.cols)?,
                int(dy.stride)?,
                int(v.stride)?,
                int(v.rows)?,
                int(v.cols)?,
            ];
            self.launch("dora_backward", [v.cols.div_ceil(32), count], [32, 8], 0, &args)
        });
        count
    }

    /// Adds to `d_m` (1 x width) the sum of `parts` (count x width, a view of some columns) by `norm`.
    pub fn dora_magnitude(&self, parts: View<'_>, norm: View<'_>, d_m: View<'_>) {
        self.run(|| {
            let args = [
                matrix(parts)?,
                matrix(norm)?,
                matrix(d_m)?,
                int(parts.rows)?,
                int(parts.stride)?,
                int(parts.cols)?,
            ];
            self.launch("dora_magnitude", [parts.cols.div_ceil(256), 1], [256, 1], 0, &args)
        });
    }

    /// What a weight in NF4 stands for, in bf16 (rows x cols); `levels` is [`Nf4Weight::levels`].
    pub fn dequantize(&self, from: &Nf4Weight, levels: &Buffer, w: View<'_>) {
        self.run(|| {
            if w.shape() != (from.rows, from.cols) {
                return Err(CudaError::call("nf4_dequantize", "a weight of another shape"));
            }
            let (codes, constants) = (&from.codes, &from.constants);
            let args = [
                pointer(codes, codes.len())?,
                pointer(constants, constants.len())?,
                pointer(levels, levels.len())?,
                pointer(&from.super_constants, from.super_constants.len())?,
                Arg::F32(from.mean),
                dense(w)?,
                Arg::U64((w.rows * w.cols) as u64),
            ];
            self.launch("nf4_dequantize", self.strides(w.rows * w.cols), [THREADS, 1], 0, &args)
        });
    }
}
