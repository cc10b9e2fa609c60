#![allow(unsafe_code)]
//! The seam between what is computed and what computes it: memory, launches by kernel name, matrix products.
//!
//! Two implementations: the driver (`driver.rs`), and in tests an emulator that runs the same kernels, compiled for the host, on
//! host memory. Everything above the seam (which kernel, which grid, which buffers, in which order) is therefore tested
//! without a GPU. All work goes to one stream: what is submitted first is done first.

use std::fmt;

use super::error::CudaError;

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    Bf16,
    F32,
    U32,
    U8,
}

impl Dtype {
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::U8 => 1,
        }
    }
}

/// A device address; 0 is null.
pub type Address = u64;

/// One argument of a kernel, in the order and with the C type that the kernel declares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Any pointer.
    Pointer(Address),
    /// `int`
    I32(i32),
    /// `unsigned`
    U32(u32),
    /// `size_t`, `unsigned long long`
    U64(u64),
    /// `float`
    F32(f32),
}

/// A launch: the kernel's name, blocks, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub args: &'a [Arg],
}

/// A row-major bf16 matrix: element `(i, j)` at `i * ld + j`; `transposed` reads it as its transpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operand {
    pub at: Address,
    pub ld: usize,
    pub transposed: bool,
}

/// `d (m x n) = alpha * op(a) (m x k) * op(b) (k x n) + beta * c`, row-major, bf16 operands, f32 accumulation. `c` has the type and
/// the leading dimension of `d` and is usually `d` itself; with `beta == 0` it is not read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    pub c: Address,
    pub d: Address,
    pub ld: usize,
    /// [`Dtype::Bf16`] or [`Dtype::F32`].
    pub output: Dtype,
    pub alpha: f32,
    pub beta: f32,
}

/// Work that was recorded, of the launcher that recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Graph(pub(super) u64);

/// Device memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub free: usize,
    pub total: usize,
}

/// What runs the work. Addresses given to it are of its own [`Launcher::alloc`].
pub trait Launcher: fmt::Debug + Send + Sync {
    /// Fresh memory (its content is arbitrary), aligned to at least 256 bytes; `bytes > 0`.
    fn alloc(&self, bytes: usize) -> Result<Address, CudaError>;

    /// # Safety
    /// `at` came from [`Launcher::alloc`] and nothing submitted later names it.
    unsafe fn free(&self, at: Address);

    /// Host to device, in order with the launches. The bytes are taken before this returns.
    ///
    /// # Safety
    /// This and the following: the addresses lie within live allocations that are large enough.
    unsafe fn upload(&self, to: Address, from: &[u8]) -> Result<(), CudaError>;

    /// Device to host; waits for everything submitted before.
    ///
    /// # Safety
    /// See [`Launcher::upload`].
    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<(), CudaError>;

    /// # Safety
    /// See [`Launcher::upload`].
    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), CudaError>;

    /// # Safety
    /// See [`Launcher::upload`].
    unsafe fn zero(&self, at: Address, bytes: usize) -> Result<(), CudaError>;

    /// # Safety
    /// The arguments are what the kernel declares, and every element that it touches lies in a live allocation.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;

    /// # Safety
    /// The matrices lie in live allocations.
    unsafe fn gemm(&self, gemm: &Gemm) -> Result<(), CudaError>;

    /// From here to [`Launcher::recorded`], launches, products, copies on the device and fills are written down and not done, with
    /// the addresses and numbers that they are given now. Nothing else may be asked for in between, and by no other thread.
    fn record(&self) -> Result<(), CudaError>;

    /// Ends a recording.
    ///
    /// # Errors
    /// Something in it cannot be recorded; nothing of it was done, and work goes on as if it had never been asked for.
    fn recorded(&self) -> Result<Graph, CudaError>;

    /// Does what was recorded, in order with all other work.
    ///
    /// # Safety
    /// All that the recording names is still allocated where it was.
    unsafe fn replay(&self, graph: Graph) -> Result<(), CudaError>;

    /// The recording is not used any more.
    fn forget(&self, graph: Graph);

    /// Waits for everything submitted.
    fn synchronize(&self) -> Result<(), CudaError>;

    fn memory(&self) -> Result<Memory, CudaError>;

    /// The most bytes that were allocated at once.
    fn peak(&self) -> usize;

    /// What the device calls itself.
    fn name(&self) -> String;

    /// Streaming multiprocessors: grids that stride over elements need no more than a few blocks on each.
    fn multiprocessors(&self) -> u32;
}
