//! `tunebench report [A] [B]`: the board, or a comparison, as a file for people without a terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::ask::{self, ask, block_on, connect, unexpected};
use super::output::{Exit, Output};
use crate::domain::api::{Request, Response};
use crate::domain::board::{Board, Comparison};
use crate::report::{self, About, Format, Subject};
use crate::store::files;
use crate::worker::folder::now_ms;
use crate::workspace::STATE;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A candidate; alone it is held against the baseline. Nobody: the whole board
    a: Option<String>,
    /// The candidate that is held against A
    b: Option<String>,
    /// md, csv or html; without it: as the file's name ends, else html
    #[arg(long)]
    format: Option<String>,
    /// The file to write (it is replaced), or - for stdout; without it: .tunebench/reports/
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Another metric than the primary one, for a comparison
    #[arg(long)]
    metric: Option<String>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let format = format(&args)?;
    if args.metric.is_some() && args.a.is_none() {
        return Err(Exit::usage("--metric is for a comparison; name two candidates"));
    }
    let Args { a, b, to, metric, .. } = args;
    let (board, comparison, workspace) = block_on(async {
        let client = connect(root).await?;
        let Response::Status { status } = ask(&client, Request::Status).await? else {
            return Err(unexpected());
        };
        let board = ask::board(&client).await?;
        let pair = match (a, b) {
            (Some(a), Some(b)) => Some((a, b)),
            (Some(b), None) => Some((baseline(&board)?, b)),
            (None, _) => None,
        };
        let comparison = match pair {
            None => None,
            Some((a, b)) => match ask(&client, Request::Compare { a, b, metric }).await? {
                Response::Compare { comparison } => Some(comparison),
                _ => return Err(unexpected()),
            },
        };
        Ok((board, comparison, status.workspace))
    })?;
    let about = About { workspace, made_ms: now_ms(), version: env!("CARGO_PKG_VERSION").into() };
    let subject = match &comparison {
        None => Subject::Board(&board),
        Some(comparison) => Subject::Comparison(comparison, &board),
    };
    let text = report::write(format, subject, &about);
    if to.as_deref() == Some(Path::new("-")) {
        out.result(&json!({ "path": null, "text": text }), || text.clone());
        return Ok(ExitCode::SUCCESS);
    }
    let path = match to {
        Some(path) => path,
        None => {
            let dir = root.join(STATE).join("reports");
            fs::create_dir_all(&dir).map_err(|e| Exit::failed(format!("{}: {e}", dir.display())))?;
            dir.join(format!("{}.{}", name(comparison.as_ref()), format.name()))
        }
    };
    let wrong = |e: std::io::Error| Exit::usage(format!("--to {}: cannot be written: {e}", path.display()));
    if path.is_dir() {
        return Err(Exit::usage(format!("--to {}: is a folder; name a file in it", path.display())));
    }
    files::write_atomic(&path, text.as_bytes()).map_err(wrong)?;
    let path = path.canonicalize().map_err(wrong)?;
    out.result(&json!({ "path": path }), || path.display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn format(args: &Args) -> Result<Format, Exit> {
    let known = Format::ALL.map(Format::name).join(", ");
    let ending = args.to.as_ref().and_then(|to| to.extension()).map(|e| e.to_string_lossy().into_owned());
    match (&args.format, ending) {
        (Some(name), _) => Format::find(name).ok_or_else(|| {
            Exit::usage(format!("--format {name}: no format of reports; expected one of: {known}"))
        }),
        (None, Some(ending)) => Format::find(&ending).ok_or_else(|| {
            Exit::usage(format!("--to: a file called .{ending} could be anything; say --format ({known})"))
        }),
        (None, None) => Ok(Format::Html),
    }
}

fn baseline(board: &Board) -> Result<String, Exit> {
    let base = board.rows.iter().find(|row| row.rung == "baseline").or(board.rows.first());
    base.map(|row| row.candidate.clone())
        .ok_or_else(|| Exit::usage("nobody is on the board yet; `tunebench run eval` takes a baseline"))
}

/// A file's name of candidates' names, which may hold anything.
fn name(comparison: Option<&Comparison>) -> String {
    let Some(comparison) = comparison else { return "board".into() };
    let plain = |name: &String| -> String {
        let fits = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@') { c } else { '_' };
        name.chars().map(fits).take(60).collect()
    };
    let [a, b] = comparison.candidates.each_ref().map(plain);
    format!("{b}-against-{a}").trim_start_matches('.').to_owned()
}
