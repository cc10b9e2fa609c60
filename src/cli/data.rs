//! `tunebench data import`: index the sources.

use std::path::Path;
use std::process::ExitCode;

use super::ask::once;
use super::output::{Exit, Output};
use super::progress::Bytes;
use crate::data;
use crate::domain::api::{ImportReport, Request};
use crate::domain::words::counted;
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Index the sources; rows that cannot be read are set aside, with the reason
    Import {
        /// Index again, also where nothing has changed
        #[arg(long)]
        force: bool,
    },
}

/// Bad rows that are printed; `--json` has the first 1,000.
const SHOWN: usize = 10;

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let Command::Import { force } = args.command;
    let (ws, missing) = Workspace::open(root).map_err(|e| Exit::usage(e.to_string()))?;
    // A model that is not there does not keep anybody from looking at the data.
    let sources: Vec<_> = missing.0.into_iter().filter(|p| p.message.starts_with("data file")).collect();
    if let Some(problem) = sources.first() {
        return Err(Exit::usage(problem.to_string()));
    }
    let mut progress = Bytes::new(out, "importing");
    let report = data::import(&ws, force, &mut |done, total| progress.show(done, total))
        .map_err(|e| Exit { code: e.exit_code(), message: e.to_string() })?;
    drop(progress);
    if !report.cached {
        once(&ws.root, Request::Imported)?;
    }
    out.result(&report, || describe(&report));
    Ok(ExitCode::SUCCESS)
}

/// The report for people.
pub fn describe(report: &ImportReport) -> String {
    let mib = report.bytes as f64 / (1 << 20) as f64;
    let how =
        if report.cached { "unchanged, index kept".to_owned() } else { format!("{:.1} s", report.seconds) };
    let mut text = format!("{}, {mib:.1} MiB, {} ({how})\n", counted(report.rows, "row"), report.format);
    for warning in &report.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if report.quarantined_total > 0 {
        text.push_str(&format!("{} set aside:\n", counted(report.quarantined_total, "row")));
        for bad in report.quarantined.iter().take(SHOWN) {
            text.push_str(&format!("  {}:{}: {}\n", bad.file, bad.line, data::clean_line(&bad.reason)));
        }
        if report.quarantined_total > SHOWN {
            text.push_str("  ... (--json lists more)\n");
        }
    }
    text
}
