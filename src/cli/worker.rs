//! The worker role.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::Exit;
use crate::worker::{self, Ending};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder
    run_dir: PathBuf,
}

pub fn run(args: Args) -> super::CommandResult {
    match worker::run(&args.run_dir) {
        Ok(Ending::Orderly) => Ok(ExitCode::SUCCESS),
        Ok(Ending::Failed) => Ok(ExitCode::FAILURE),
        Ok(Ending::Locked) => Ok(ExitCode::from(worker::EXIT_LOCKED)),
        Err(error) => Err(Exit::failed(format!("{error:#}"))),
    }
}
