//! The engine role.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::Exit;
use crate::engine::{self, Ending};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The workspace's folder
    root: PathBuf,
}

pub fn run(args: Args) -> super::CommandResult {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TUNEBENCH_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,tunebench=info")),
        )
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match engine::run(&args.root) {
        Ok(Ending::Left) => Ok(ExitCode::SUCCESS),
        Ok(Ending::Locked) => Ok(ExitCode::from(engine::EXIT_LOCKED)),
        Err(error) => Err(Exit::failed(format!("{error:#}"))),
    }
}
