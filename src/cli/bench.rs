//! `tunebench bench NAME`: reproducible measurements.

use std::path::{Path, PathBuf};

use super::output::{Exit, Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure
    name: String,
    /// Flags of the measurement
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    Err(Exit::failed("bench is not built yet"))
}
