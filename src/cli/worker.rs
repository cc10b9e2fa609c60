//! The worker role.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output::Exit;
use crate::domain::keys::{KEYS_MAX, Keys};
use crate::worker::{self, Ending};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder
    run_dir: PathBuf,
    /// Read the keys of its models from stdin
    #[arg(long)]
    keys: bool,
}

pub fn run(args: Args) -> super::CommandResult {
    let keys = if args.keys { read_keys()? } else { Keys::default() };
    match worker::run(&args.run_dir, keys) {
        Ok(Ending::Orderly) => Ok(ExitCode::SUCCESS),
        Ok(Ending::Failed) => Ok(ExitCode::FAILURE),
        Ok(Ending::Locked) => Ok(ExitCode::from(worker::EXIT_LOCKED)),
        Err(error) => Err(Exit::failed(format!("{error:#}"))),
    }
}

fn read_keys() -> Result<Keys, Exit> {
    let mut bytes = Vec::new();
    std::io::stdin().take(4 * KEYS_MAX as u64).read_to_end(&mut bytes)?;
    // What was read is not repeated.
    serde_json::from_slice(&bytes).map_err(|_| Exit::usage("--keys: no keys came on stdin"))
}
