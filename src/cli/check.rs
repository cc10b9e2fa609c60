//! `tunebench check`: validate workspace, data, prompts and models.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hold the board against the goals
    #[arg(long)]
    goals: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("check is not built yet"))
}
