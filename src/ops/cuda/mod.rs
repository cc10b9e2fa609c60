//! One NVIDIA GPU at run time. The build links no CUDA library; everything is found and loaded when it is asked for.
//!
//! ```text
//! libraries   driver, nvrtc, cuBLASLt: which are here, what is missing, how to get it
//! compile     kernels/*.cu by nvrtc, kept on disk by content and architecture
//! seam        what computes: memory, launches, matrix products   <- driver (the GPU) | emulator (tests)
//! buffer      device memory with length and element type
//! ```

mod blas;
mod buffer;
mod compile;
mod driver;
mod error;
mod libraries;
mod seam;

pub use buffer::Buffer;
pub use compile::{Cache, KERNELS, compile};
pub use driver::{Driver, devices};
pub use error::CudaError;
pub use libraries::{Found, LIBS_VARIABLE, Libraries, libraries};
pub use seam::{Address, Arg, Dtype, Gemm, Launch, Launcher, Memory, Operand};
