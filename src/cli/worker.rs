//! The worker role.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    run_dir: PathBuf,
}

pub fn run(args: Args) -> super::CommandResult {
    Err(Exit::failed("worker is not built yet"))
}
