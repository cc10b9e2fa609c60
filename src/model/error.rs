//! What can be wrong with a model's folder, and with what is asked of a model.

use std::io;
use std::path::{Path, PathBuf};

/// Names the file, and the key or tensor in it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    /// A file that is not what it should be.
    #[error("{}: {message}", file.display())]
    File { file: PathBuf, message: String },
    /// A key of a JSON file with a value that cannot be used.
    #[error("{}: `{key}`: {message}", file.display())]
    Key { file: PathBuf, key: String, message: String },
    /// A tensor that is missing or not what the configuration says.
    #[error("{}: tensor `{tensor}`: {message}", file.display())]
    Tensor { file: PathBuf, tensor: String, message: String },
    /// Something asked of a model that it cannot do: a prompt beyond its context, say.
    #[error("{0}")]
    Request(String),
    /// A GPU has no room: what takes it, and what to lower.
    #[error("{0}")]
    OutOfMemory(String),
    /// A failure of the GPU.
    #[error("the GPU failed: {0}")]
    Cuda(#[from] crate::ops::cuda::CudaError),
}

impl ModelError {
    pub fn io(file: &Path, source: io::Error) -> Self {
        Self::Io { file: file.to_path_buf(), source }
    }

    pub fn file(file: &Path, message: impl Into<String>) -> Self {
        Self::File { file: file.to_path_buf(), message: message.into() }
    }

    pub fn key(file: &Path, key: &str, message: impl Into<String>) -> Self {
        Self::Key { file: file.to_path_buf(), key: key.to_owned(), message: message.into() }
    }

    pub fn tensor(file: &Path, tensor: &str, message: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_path_buf(), tensor: tensor.to_owned(), message: message.into() }
    }
}
