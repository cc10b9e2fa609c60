//! `tunebench runs`: list, show and steer runs.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("runs is not built yet"))
}
