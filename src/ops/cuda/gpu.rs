#![allow(unsafe_code)]
//! The operations on a device, by kernels and matrix products: twins of the CPU's functions one level up.
//!
//! Work on a device is asynchronous and its errors come late, so no operation returns one: the first failure is kept, what
//! follows it does nothing, and [`Gpu::check`] tells it. Activations are bf16, what is summed or trained is f32.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::buffer::Buffer;
use super::error::CudaError;
use super::kernels::AttentionKernels;
use super::seam::{Arg, Dtype, Gemm, Launch, Launcher};
use super::view::View;
use crate::ops::AttentionShape;

/// Bytes of logits that exist at once; rows of a chunk are what fits, at least [`LOGIT_ROWS`].
const LOGIT_BYTES: usize = 256 << 20;
const LOGIT_ROWS: usize = 128;
/// Threads of the kernels that stride over elements, and elements that a thread takes at a time.
const THREADS: u32 = 256;
const PER_THREAD: usize = 8;
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;
/// Most partial sums of a norm.
const NORM_PARTS: usize = 256;

/// What stands in a product's destination before: nothing that counts, or an addend.
#[derive(Clone, Copy, Debug)]
pub enum Addend<'a> {
    None,
    /// The destination itself.
    Itself,
    /// Another matrix of the destination's shape, type and stride.
    Other(View<'a>),
}

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

/// A device and its first failure.
#[derive(Debug)]
pub struct Gpu {
    launcher: Arc<dyn Launcher>,
    failure: Mutex<Option<CudaError>>,
}

fn int(n: usize) -> Result<Arg, CudaError> {
    i32::try_from(n).map(Arg::I32).map_err(|_| CudaError::call("launch", format!("{n} is beyond an int")))
}

fn pointer(buffer: &Buffer, count: usize) -> Result<Arg, CudaError> {
    Ok(Arg::Pointer(buffer.at(0, count)?))
}

fn matrix(view: View<'_>) -> Result<Arg, CudaError> {
    Ok(Arg::Pointer(view.address()?))
}

/// Threads for a block that works on one row of `width`.
fn threads_of_row(width: usize) -> u32 {
    (width.div_ceil(PER_THREAD) as u32).next_multiple_of(32).clamp(32, 1024)
}

impl Gpu {
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self { launcher, failure: Mutex::new(None) }
    }

    pub fn launcher(&self) -> &Arc<dyn Launcher> {
        &self.launcher
    }

    /// The first failure since the last call that told one.
    pub fn check(&self) -> Result<(), CudaError> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Runs `work` unless something failed before; keeps its failure.
    fn run(&self, work: impl FnOnce() -> Result<(), CudaError>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none()
            && let Err(error) = work()
        {
            *failure = Some(error);
        }
    }

    /// Blocks of a kernel that strides over `count` elements.
    fn strides(&self, count: usize) -> [usize; 2] {
        let enough = count.div_ceil(THREADS as usize * PER_THREAD);
        let chip = BLOCKS_PER_MULTIPROCESSOR * self.launcher.multiprocessors() as usize;
        [enough.clamp(1, chip.max(1)), 1]
    }

    fn launch(
        &self,
        kernel: &str,
        grid: [usize; 2],
        block: [u32; 2],
        shared: u32,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let [x, y] = grid;
        if x > i32::MAX as usize || y > 65_535 {
            return Err(CudaError::call(kernel, format!("a grid of {x} x {y} blocks is beyond the device")));
        }
        let launch =
            Launch { kernel, grid: [x as u32, y as u32, 1], block: [block[0], block[1], 1], shared, args };
        // SAFETY: the operations below pass what kernels/README.md says of the kernel, from buffers whose lengths they checked
        // against the shape (`Buffer::at`, `View::address`); buffers live until work that names them is done, for freeing waits.
        unsafe { self.launcher.launch(&launch) }
    }

    /// Room for `len` elements of a type; what stood there is lost when it grows.
    pub fn fit_as(&self, buffer: &mut Buffer, len: usize, dtype: Dtype) {
        self.run(|| buffer.fit_as(&self.launcher, len, dtype));
    }

    /// As [`Gpu::fit_as`] with the type that the buffer has.
    pub fn fit(&self, buffer: &mut Buffer, len: usize) {
        self.run(|| buffer.fit(&self.launcher, len));
    }

    pub fn zero(&self, buffer: &Buffer) {
        self.run(|| buffer.zero());
    }

    pub fn write_u32(&self, buffer: &mut Buffer, values: &[u32]) {
        self.fit(buffer, values.len());
        self.run(|| buffer.write_u32(0, values));
    }

    pub fn write_f32(&self, buffer: &mut Buffer, values: &[f32]) {
        self.fit(buffer, values.len());
        self.run(|| buffer.write_f32(0, values));
    }

    /// `to[..count] = from[..count]`, of one type.
    pub fn copy(&self, to: &Buffer, from: &Buffer, count: usize) {
        self.run(|| {
            let bytes = count * to.dtype().bytes();
            let (to, from) = (to.at(0, count)?, from.at(0, count)?);
            if bytes == 0 {
                return Ok(());
            }
            // SAFETY: both hold `count` elements, as `at` checked.
            unsafe { self.launcher.copy(to, from, bytes) }
        });
    }

    /// `d = alpha a b + addend`.
    pub fn matmul(&self, d: View<'_>, addend: Addend<'_>, alpha: f32, a: View<'_>, b: View<'_>) {
        self.run(|| {
            let ((m, k), (k_b, n)) = (a.shape(), b.shape());
            if d.shape() != (m, n) || k != k_b {
                return Err(CudaError::call(
                    "matrix product",
                    format!("{:?} = {:?} * {:?}", d.shape(), a.shape(), b.shape()),
                ));
            }
            if m == 0 || n == 0 || k == 0 {
                return Ok(());
            }
            let at = d.address()?;
            let (c, beta) = match addend {
                Addend::None => (at, 0.0),
                Addend::Itself => (at, 1.0),
                Addend::Other(c) => {
                    if (c.shape(), c.stride, c.buffer.dtype()) != (d.shape(), d.stride, d.buffer.dtype()) {
                        return Err(CudaError::call("matrix product", "an addend of another shape"));
                    }
                    (c.address()?, 1.0)
                }
            };
            let (a, b) = (a.operand()?, b.operand()?);
            let output = d.buffer.dtype();
            // SAFETY: the views lie within their buffers, as `address` checked.
            unsafe {
                self.launcher.gemm(&Gemm { m, n, k, a, b, c, d: at, ld: d.stride, output, alpha, beta })
            }
        });
    }

    /// Operations a second of the product of two bf16 matrices (side x side): the median of three rounds of `times` products.
    pub fn matmul_rate(&self, side: usize, times: usize) -> Result<f64, CudaError> {
        // Numbers of a plain generator: products of zeros take less power and run at a higher clock.
        let mut state = 1_u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let row: Vec<f32> = (0..side * side).map(|_| number()).collect();
        let mut buffers = [Buffer::default(), Buffer::default(), Buffer::default()];
        for buffer in &mut buffers {
            self.write_f32(buffer, &row);
        }
        self.check()?;
        let [a, b, d] = buffers.each_ref().map(|buffer| View::new(buffer, side, side));
        let mut rounds = Vec::new();
        for round in 0..4 {
            let start = Instant::now();
            for _ in 0..times {
                self.matmul(d, Addend::None, 1.0, a, b.t());
            }
            self.check()?;
            self.launcher.synchronize()?;
            // The first one warms up.
            if round > 0 {
                rounds.push(start.elapsed().as_secs_f64());
            }
        }
        rounds.sort_by(f64::total_cmp);
        Ok(2.0 * (side as f64).powi(3) * times as f64 / rounds[1])
    }

    /// Adds `bias` (1 x width) to every row of `y`.
    pub fn add_bias(&self, y: View<'_>, bias: View<'_>) {
        self.run(|| {
            let args = [matrix(y)?, matrix(bias)?, int(y.stride)?, int(y.rows)?, int(y.cols)?];
            self.launch("add_bias", self.strides(y.rows * y.cols), [THREADS, 1], 0, &args)
        });
    }

    /// `y = bf16(x)`, `count` elements.
    pub fn cast(&self, x: &Buffer, y: &Buffer, count: usize) {
        self.run(|| {
            let args = [pointer(x, count)?, pointer(y, count)?, Arg::U64(count as u64)];
            self.launch("cast_bf16", self.strides(count), [THREADS, 1], 0, &args)
        });
    }

    /// `y (rows x width)`: the rows `ids[..rows]` of `table`.
    pub fn gather(&self, table: View<'_>, ids: &Buffer, y: View<'_>) {
        self.run(|| {
            let args = [matrix(table)?, pointer(ids, y.rows)?, matrix(y)?, int(y.cols)?];
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

    /// See [`crate::ops::attention`]; `tiles` are [`super::attention_tiles`] of the packed rows.
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

    /// Rows of logits that exist at once.
    pub fn logit_rows(rows: usize, vocab: usize) -> usize {
        let most = (LOGIT_BYTES / (vocab * Dtype::Bf16.bytes()).max(1)).max(LOGIT_ROWS);
        rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(8).min(rows.max(1))
    }

    /// The sum of the losses of `hidden` under `head` (vocab x h) against `targets` to element `sum.1` of `sum.0`; with
    /// `backward`, a scale and the hidden states' gradient, also that times the scale. `logits` and `losses` are scratch.
    pub fn linear_cross_entropy(
        &self,
        hidden: View<'_>,
        head: View<'_>,
        targets: &Buffer,
        logits: &mut Buffer,
        losses: &mut Buffer,
        sum: (&Buffer, usize),
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
        self.sum(losses, rows, sum);
    }

    /// The sum of the first `count` of `values` to one element.
    pub fn sum(&self, values: &Buffer, count: usize, to: (&Buffer, usize)) {
        self.run(|| {
            let to = Arg::Pointer(to.0.at(to.1, 1)?);
            self.launch("sum_losses", [1, 1], [1024, 1], 0, &[pointer(values, count)?, int(count)?, to])
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

/// Where rotation looks: the table of a [`crate::ops::RopeTable`] that covers all positions, and each token's position.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    pub table: &'a Buffer,
    pub positions: &'a Buffer,
}

impl Positions<'_> {
    fn args(&self, tokens: usize) -> Result<[Arg; 2], CudaError> {
        Ok([pointer(self.table, self.table.len())?, pointer(self.positions, tokens)?])
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
