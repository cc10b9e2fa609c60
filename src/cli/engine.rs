//! The engine role.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    root: PathBuf,
}

pub fn run(args: Args) -> super::CommandResult {
    Err(Exit::failed("engine is not built yet"))
}
