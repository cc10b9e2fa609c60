//! `tunebench init DIR`: scaffold a workspace from a data file.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    dir: PathBuf,
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    model: PathBuf,
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    Err(Exit::failed("init is not built yet"))
}
