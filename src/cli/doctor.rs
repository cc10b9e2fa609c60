//! `tunebench doctor`: what is wrong here, and the remedy.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rebuild the store from the journal and the run folders
    #[arg(long)]
    repair: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("doctor is not built yet"))
}
