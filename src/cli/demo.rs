//! `tunebench demo`: the bundled workspace.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to put the workspace
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Climb the ladder without a terminal and print the board
    #[arg(long)]
    no_tui: bool,
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    Err(Exit::failed("demo is not built yet"))
}
