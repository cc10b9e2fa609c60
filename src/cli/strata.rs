//! `tunebench strata build|sample`.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("strata is not built yet"))
}
