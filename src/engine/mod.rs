//! The engine: one per workspace, the only process that opens the store.

pub mod client;
pub mod protocol;

use std::io;
use std::path::{Path, PathBuf};

use crate::store::files;

/// Exit code of an engine that found another one's lock.
pub const EXIT_LOCKED: u8 = 75;

/// Where the engine of the workspace at `root` (absolute) listens.
pub fn socket_path(root: &Path) -> io::Result<PathBuf> {
    files::socket_path(&root.join(".tunebench/engine.sock"))
}
