//! `tunebench outcomes import FILE --candidate NAME`: results made elsewhere, put on the board.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use crate::domain::api::{Request, Response};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read JSON lines with `id`, `output`, and `correct` or `score`
    Import {
        /// One JSON object a line
        file: PathBuf,
        /// Under which name they stand on the board
        #[arg(long)]
        candidate: String,
    },
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let What::Import { file, candidate } = args.what;
    // The engine works in another folder than this command.
    let file = file.canonicalize().map_err(|e| Exit::usage(format!("{}: {e}", file.display())))?;
    let request = Request::ImportOutcomes { file: file.display().to_string(), candidate };
    let Response::ImportedOutcomes { rows, matched } = once(root, request)? else { return Err(unexpected()) };
    out.result(&json!({ "rows": rows, "matched": matched }), || {
        let lost = match rows - matched {
            0 => String::new(),
            n => format!("; {n} are of rows that this workspace does not have"),
        };
        format!("{matched} of {rows} outcomes are on the board{lost}")
    });
    Ok(ExitCode::SUCCESS)
}
