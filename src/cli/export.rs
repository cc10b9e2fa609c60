//! `tunebench export RUN`: a folder that other tools load.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    run: String,
    #[arg(long)]
    to: PathBuf,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("export is not built yet"))
}
