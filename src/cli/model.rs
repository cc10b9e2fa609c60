//! `tunebench model info|verify|pull`.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    Err(Exit::failed("model is not built yet"))
}
