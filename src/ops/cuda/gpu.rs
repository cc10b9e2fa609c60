#![allow(unsafe_code)]
//! The operations on a device, by kernels and matrix products: twins of the CPU's functions one level up.
//!
//! Here is what all of them go through; `layers` has those of a block, `methods` what adapters and bases in NF4 add, `training`
//! loss and step, `generation` keys and values in blocks and the choice of tokens.
//!
//! Work on a device is asynchronous and its errors come late, so no operation returns one: the first failure is kept, what
//! follows it does nothing, and [`Gpu::check`] tells it. Activations are bf16, what is summed or trained is f32.

mod generation;
mod layers;
mod methods;
mod nearest;
mod training;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::buffer::Buffer;
use super::error::CudaError;
use super::seam::{Arg, Dtype, Gemm, Graph, Launch, Launcher};
use super::view::View;

pub use generation::{KvCache, Queries};
pub use layers::{Positions, Tiles};
pub use methods::{DoraRows, Mask, Nf4Weight};
pub use nearest::{MOST_NEAREST, NearestTable};
pub use training::AdamWFactors;

/// Threads of the kernels that stride over elements, and elements that a thread takes at a time.
const THREADS: u32 = 256;
const PER_THREAD: usize = 8;
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;

/// What stands in a product's destination before: nothing that counts, or an addend.
#[derive(Clone, Copy, Debug)]
pub enum Addend<'a> {
    None,
    /// The destination itself.
    Itself,
    /// Another matrix of the destination's shape, type and stride.
    Other(View<'a>),
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

/// `count` numbers side by side.
fn numbers(view: View<'_>, count: usize) -> Result<Arg, CudaError> {
    if (view.rows, view.cols) != (1, count) {
        return Err(CudaError::call("launch", format!("{} x {} numbers for {count}", view.rows, view.cols)));
    }
    matrix(view)
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

    /// Writes down what `work` submits, without doing it. `work` makes no buffer larger and moves nothing between host and device.
    ///
    /// # Errors
    /// What failed before, or what cannot be recorded; nothing is kept of that as a failure.
    pub fn record(&self, work: impl FnOnce()) -> Result<Graph, CudaError> {
        self.check()?;
        self.launcher.record()?;
        work();
        let graph = self.launcher.recorded();
        match (self.check(), graph) {
            (Ok(()), graph) => graph,
            (Err(error), Ok(graph)) => {
                self.launcher.forget(graph);
                Err(error)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Does what was recorded.
    ///
    /// # Safety
    /// The buffers that the recording names are what they were then: none has been made larger or dropped.
    pub unsafe fn replay(&self, graph: Graph) {
        // SAFETY: the caller's.
        self.run(|| unsafe { self.launcher.replay(graph) });
    }

    pub fn forget(&self, graph: Graph) {
        self.launcher.forget(graph);
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

    /// Bytes a second that a copy on the device of `bytes` reads and writes: the median of three rounds of `times`.
    ///
    /// # Errors
    /// No room; what failed before.
    pub fn copy_rate(&self, bytes: usize, times: usize) -> Result<f64, CudaError> {
        let mut buffers = [Buffer::empty(Dtype::U8), Buffer::empty(Dtype::U8)];
        for buffer in &mut buffers {
            self.fit(buffer, bytes);
            self.zero(buffer);
        }
        let mut rounds = Vec::new();
        for round in 0..4 {
            self.check()?;
            self.launcher.synchronize()?;
            let start = Instant::now();
            for _ in 0..times {
                self.copy(&buffers[0], &buffers[1], bytes);
            }
            self.check()?;
            self.launcher.synchronize()?;
            // The first one warms up.
            if round > 0 {
                rounds.push(start.elapsed().as_secs_f64());
            }
        }
        rounds.sort_by(f64::total_cmp);
        Ok(2.0 * bytes as f64 * times as f64 / rounds[1])
    }

    /// `y = bf16(x)`, `count` elements.
    pub fn cast(&self, x: &Buffer, y: &Buffer, count: usize) {
        self.run(|| {
            let args = [pointer(x, count)?, pointer(y, count)?, Arg::U64(count as u64)];
            self.launch("cast_bf16", self.strides(count), [THREADS, 1], 0, &args)
        });
    }
}
