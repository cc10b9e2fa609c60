//! `tunebench generate`: one generation.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    model: PathBuf,
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    Err(Exit::failed("generate is not built yet"))
}
