//! `tunebench compare A B`: two candidates on the same rows.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    a: String,
    b: String,
    #[arg(long)]
    metric: Option<String>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    Err(Exit::failed("compare is not built yet"))
}
