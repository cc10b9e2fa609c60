//! One NVIDIA GPU at run time. The build links no CUDA library; everything is found and loaded when it is asked for.
//!
//! ```text
//! libraries   driver, nvrtc, cuBLASLt: which are here, what is missing, how to get it
//! compile     kernels/*.cu by nvrtc, kept on disk by content and architecture
//! kernels     the kernels' sources, and the rules by which they are launched
//! seam        what computes: memory, launches, matrix products   <- driver (the GPU) | emulator (tests)
//! buffer      device memory with length and element type; view: matrices within
//! gpu         the operations, twins of the CPU's
//! ```

mod blas;
mod buffer;
mod compile;
mod driver;
#[cfg(test)]
mod emulator;
mod error;
mod gpu;
#[cfg(test)]
mod kernel_tests;
mod kernels;
mod libraries;
mod seam;
mod view;

pub use buffer::Buffer;
pub use compile::{Cache, compile};
pub use driver::{Driver, devices};
#[cfg(test)]
pub(crate) use emulator::Emulator;
pub use error::CudaError;
pub use gpu::{
    AdamWFactors, Addend, DoraRows, Gpu, KvCache, MOST_NEAREST, Mask, NearestTable, Nf4Weight, Positions,
    Queries, Tiles,
};
pub use kernels::{AttentionKernels, KERNELS, attention_takes, attention_tiles};
pub use libraries::{Found, LIBS_VARIABLE, Libraries, libraries};
pub use seam::{Address, Arg, Dtype, Gemm, Graph, Launch, Launcher, Memory, Operand};
pub use view::View;
