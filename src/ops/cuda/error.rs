//! What can go wrong on a device, always with the call or kernel that it went wrong in.

/// A failure of CUDA or of one of its libraries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The device has no room; bytes.
    #[error(
        "out of device memory: {} asked for, {} of {} free",
        mib(*.asked), mib(*.free), mib(*.total)
    )]
    OutOfMemory { asked: usize, free: usize, total: usize },
    /// A call failed. After a fault in a kernel every later call fails too: the process has to end.
    #[error("{call}: {message}")]
    Call { call: String, message: String },
    /// nvrtc's log, with file and line.
    #[error("kernel file {file} does not compile for {arch}: {log}")]
    Compile { file: String, arch: String, log: String },
    /// CUDA cannot be used on this machine; what is missing and how to get it.
    #[error("{0}")]
    Unavailable(String),
}

impl CudaError {
    pub fn call(call: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Call { call: call.into(), message: message.into() }
    }
}

fn mib(bytes: usize) -> String {
    if bytes < 1 << 20 {
        format!("{bytes} bytes")
    } else {
        format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64)
    }
}
