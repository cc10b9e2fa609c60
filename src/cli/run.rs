//! `tunebench run KIND`: start a run and follow it.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    kind: String,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("run is not built yet"))
}
