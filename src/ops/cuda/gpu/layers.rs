//! Operations of a block: rows, norms, rotation, attention, swiglu.

use super::{Gpu, THREADS, int, matrix, numbers, pointer, threads_of_row};
use crate::ops::AttentionShape;
use crate::ops::cuda::buffer::Buffer;
use crate::ops::cuda::error::CudaError;
use crate::ops::cuda::kernels::AttentionKernels;
use crate::ops::cuda::seam::{Arg, Dtype};
use crate::ops::cuda::view::View;

impl Gpu {
    /// Adds `bias` (1 x width) to every row of `y`.
    pub fn add_bias(&self, y: View<'_>, bias: View<'_>) {
        self.run(|| {
            let args = [matrix(y)?, matrix(bias)?, int(y.stride)?, int(y.rows)?, int(y.cols)?];
            self.launch("add_bias", self.strides(y.rows * y.cols), [THREADS, 1], 0, &args)
        });
    }

    /// `y (rows x width)`: the rows `ids[..rows]` of `table`.
    pub fn gather(&self, table: View<'_>, ids: &Buffer, y: View<'_>) {
        self.gather_at(table, View::new(ids, 1, y.rows), y);
    }

    /// As [`Gpu::gather`], `ids` (1 x rows) within a buffer.
    pub fn gather_at(&self, table: View<'_>, ids: View<'_>, y: View<'_>) {
        self.run(|| {
            let args = [matrix(table)?, numbers(ids, y.rows)?, matrix(y)?, int(y.cols)?];
            self.launch("gather_rows", [y.rows, 1], [threads_of_row(y.cols), 1], 0, &args)
        });
    }

    /// The rows of `y` to the rows `ids[..rows]` of `table`; ids differ.
    pub fn scatter(&self, y: View<'_>, ids: &Buffer, table: View<'_>) {
        self.run(|| {
            let args = [matrix(y)?, pointer(ids, y.rows)?, matrix(table)?, int(y.cols)?];
            self.launch("scatter_rows", [y.rows, 1], [threads_of_row(y.cols), 1], 0, &args)
        });
    }

    /// See [`crate::ops::rms_norm`]; `w` (1 x width).
    pub fn rms_norm(&self, x: View<'_>, w: View<'_>, eps: f32, y: View<'_>, r: &Buffer) {
        self.run(|| {
            let args = [matrix(x)?, matrix(w)?, matrix(y)?, pointer(r, x.rows)?, int(x.cols)?, Arg::F32(eps)];
            self.launch("rms_norm", [x.rows, 1], [threads_of_row(x.cols), 1], 0, &args)
        });
    }

    /// See [`crate::ops::rms_norm_again`].
    pub fn rms_norm_again(&self, x: View<'_>, w: View<'_>, r: &Buffer, y: View<'_>) {
        self.run(|| {
            let args = [matrix(x)?, matrix(w)?, pointer(r, x.rows)?, matrix(y)?, int(x.cols)?];
            self.launch("rms_norm_again", [x.rows, 1], [threads_of_row(x.cols), 1], 0, &args)
        });
    }

    /// See [`crate::ops::rms_norm_backward`].
    pub fn rms_norm_backward(
        &self,
        x: View<'_>,
        w: View<'_>,
        r: &Buffer,
        dy: View<'_>,
        dx: View<'_>,
        add: bool,
    ) {
        self.run(|| {
            let r = pointer(r, x.rows)?;
            let args =
                [matrix(x)?, matrix(w)?, r, matrix(dy)?, matrix(dx)?, int(x.cols)?, Arg::I32(i32::from(add))];
            self.launch("rms_norm_backward", [x.rows, 1], [threads_of_row(x.cols), 1], 0, &args)
        });
    }

    /// RMSNorm of every head of q and k, then their rotation, in place in the columns q|k of `qkv`; `raw` (tokens x q|k) gets what
    /// stood there and `r` (tokens x heads of both) the inverse root mean squares. `norms` are the weights for q and k.
    pub fn norm_rope(
        &self,
        shape: &AttentionShape,
        qkv: View<'_>,
        raw: &Buffer,
        norms: [View<'_>; 2],
        eps: f32,
        r: &Buffer,
        at: Positions<'_>,
    ) {
        self.run(|| {
            let (n, heads) = (qkv.rows, shape.heads + shape.kv_heads);
            let mut args = vec![
                matrix(qkv)?,
                pointer(raw, n * heads * shape.dim)?,
                matrix(norms[0])?,
                matrix(norms[1])?,
                pointer(r, n * heads)?,
            ];
            args.extend(at.args(n)?);
            args.extend(head_sizes(shape, qkv)?);
            args.push(Arg::F32(eps));
            self.launch("norm_rope", [(n * heads).div_ceil(8), 1], [256, 1], 0, &args)
        });
    }

    /// Backward of [`Gpu::norm_rope`], in place in `d_qkv`.
    pub fn norm_rope_backward(
        &self,
        shape: &AttentionShape,
        d_qkv: View<'_>,
        raw: &Buffer,
        norms: [View<'_>; 2],
        r: &Buffer,
        at: Positions<'_>,
    ) {
        self.run(|| {
            let (n, heads) = (d_qkv.rows, shape.heads + shape.kv_heads);
            let mut args = vec![
                matrix(d_qkv)?,
                pointer(raw, n * heads * shape.dim)?,
                matrix(norms[0])?,
                matrix(norms[1])?,
                pointer(r, n * heads)?,
            ];
            args.extend(at.args(n)?);
            args.extend(head_sizes(shape, d_qkv)?);
            self.launch("norm_rope_backward", [(n * heads).div_ceil(8), 1], [256, 1], 0, &args)
        });
    }

    /// See [`crate::ops::rotate`].
    pub fn rotate(&self, x: View<'_>, dim: usize, at: Positions<'_>, inverse: bool) {
        self.run(|| {
            let [table, positions] = at.args(x.rows)?;
            let args = [
                matrix(x)?,
                table,
                positions,
                int(x.stride)?,
                int(x.rows)?,
                int(x.cols / dim.max(1))?,
                int(dim)?,
                Arg::F32(if inverse { -1.0 } else { 1.0 }),
            ];
            self.launch("rope", self.strides(x.rows * x.cols / 2), [THREADS, 1], 0, &args)
        });
    }

    /// See [`crate::ops::swiglu`].
    pub fn swiglu(&self, gate_up: View<'_>, m: View<'_>) {
        self.run(|| {
            let args = [matrix(gate_up)?, matrix(m)?, int(m.rows)?, int(m.cols)?];
            self.launch("swiglu", self.strides(m.rows * m.cols), [THREADS, 1], 0, &args)
        });
    }

    /// See [`crate::ops::swiglu_backward`].
    pub fn swiglu_backward(&self, gate_up: View<'_>, dm: View<'_>) {
        self.run(|| {
            let args = [matrix(gate_up)?, matrix(dm)?, int(dm.rows)?, int(dm.cols)?];
            self.launch("swiglu_backward", self.strides(dm.rows * dm.cols), [THREADS, 1], 0, &args)
        });
    }

    /// See [`crate::ops::attention`]; `tiles` are the `attention_tiles` of the packed rows.
    pub fn attention(
        &self,
        shape: &AttentionShape,
        qkv: View<'_>,
        tiles: &Tiles,
        out: View<'_>,
        lse: &Buffer,
    ) {
        self.run(|| {
            let (name, shared) = attention_kernels(shape)?.forward;
            let (qkv, tokens) = (matrix(qkv)?, qkv.rows);
            let mut args = vec![qkv, tiles.pointer()?, matrix(out)?, pointer(lse, shape.heads * tokens)?];
            args.extend(attention_sizes(shape, tokens)?);
            self.launch(name, [tiles.count, shape.heads], [128, 1], shared, &args)
        });
    }

    /// See [`crate::ops::attention_backward`]; `delta` (heads x tokens) is scratch.
    pub fn attention_backward(
        &self,
        shape: &AttentionShape,
        qkv: View<'_>,
        tiles: &Tiles,
        out: View<'_>,
        lse: &Buffer,
        d_out: View<'_>,
        d_qkv: View<'_>,
        delta: &Buffer,
    ) {
        self.run(|| {
            let kernels = attention_kernels(shape)?;
            let tokens = qkv.rows;
            let (lse, delta) = (pointer(lse, shape.heads * tokens)?, pointer(delta, shape.heads * tokens)?);
            let args =
                [matrix(out)?, matrix(d_out)?, delta, int(tokens)?, int(shape.heads)?, int(shape.dim)?];
            self.launch("attention_delta", [(tokens * shape.heads).div_ceil(8), 1], [256, 1], 0, &args)?;
            let mut args = vec![matrix(qkv)?, tiles.pointer()?, matrix(d_out)?, lse, delta, matrix(d_qkv)?];
            args.extend(attention_sizes(shape, tokens)?);
            let ((kv, kv_shared), (q, q_shared)) = (kernels.backward_kv, kernels.backward_q);
            self.launch(kv, [tiles.count, shape.kv_heads], [128, 1], kv_shared, &args)?;
            self.launch(q, [tiles.count, shape.heads], [128, 1], q_shared, &args)
        });
    }
}

/// Where rotation looks: the table of a [`crate::ops::RopeTable`] that covers all positions, and each token's position (1 x tokens).
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    pub table: &'a Buffer,
    pub positions: View<'a>,
}

impl Positions<'_> {
    fn args(&self, tokens: usize) -> Result<[Arg; 2], CudaError> {
        Ok([pointer(self.table, self.table.len())?, numbers(self.positions, tokens)?])
    }
}

/// The tiles of a packed batch on the device.
#[derive(Debug)]
pub struct Tiles {
    pub buffer: Buffer,
    pub count: usize,
}

impl Default for Tiles {
    fn default() -> Self {
        Self { buffer: Buffer::empty(Dtype::U32), count: 0 }
    }
}

impl Tiles {
    fn pointer(&self) -> Result<Arg, CudaError> {
        pointer(&self.buffer, 4 * self.count)
    }
}

fn attention_kernels(shape: &AttentionShape) -> Result<AttentionKernels, CudaError> {
    AttentionKernels::of(shape.dim).ok_or_else(|| {
        CudaError::Unavailable(format!(
            "attention heads of {} are not for the GPU: their kernels want a multiple of 8 up to 256; use device = \"cpu\"",
            shape.dim
        ))
    })
}

/// Stride, tokens, heads, heads of keys, dimension.
fn head_sizes(shape: &AttentionShape, qkv: View<'_>) -> Result<[Arg; 5], CudaError> {
    Ok([int(qkv.stride)?, int(qkv.rows)?, int(shape.heads)?, int(shape.kv_heads)?, int(shape.dim)?])
}

fn attention_sizes(shape: &AttentionShape, tokens: usize) -> Result<[Arg; 5], CudaError> {
    let window = shape.window.map_or(0, |w| w.min(i32::MAX as usize));
    Ok([int(tokens)?, int(shape.heads)?, int(shape.kv_heads)?, int(shape.dim)?, int(window)?])
}
