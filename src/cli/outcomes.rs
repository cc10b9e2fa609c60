//! `tunebench outcomes import|list|remove`: results made elsewhere, put on the board.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::imported::{ImportAs, Imported, ImportedFile};
use crate::domain::words::{counted, utc};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read a file of results: JSON lines or a table with `id`, `output`, `correct` or `score`; samples of lm-eval; results of promptfoo
    Import {
        file: PathBuf,
        /// Under which name they stand on the board; several candidates in one file get its own names behind it
        #[arg(long)]
        candidate: String,
        /// auto, jsonl, csv, lm-eval or promptfoo
        #[arg(long, default_value = "auto")]
        format: String,
        /// The file's field that tells which row it is: held against the rows' field of the same name (or FIELD=FIELD), else against their
        /// input. Without it: by `id`, else by the input's text
        #[arg(long = "match", value_name = "FIELD")]
        match_by: Option<String>,
        /// The figure that is the primary metric's, where there are several
        #[arg(long, value_name = "NAME")]
        score: Option<String>,
    },
    /// What was imported
    List,
    /// Take an imported candidate off the board; undo (`u` in the screens) brings it back
    Remove { candidate: String },
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match args.what {
        What::Import { file, candidate, format, match_by, score } => {
            // The engine works in another folder than this command.
            let file = file.canonicalize().map_err(|e| Exit::usage(format!("{}: {e}", file.display())))?;
            let how = ImportAs { candidate, format, match_by, score };
            let request = Request::ImportOutcomes { file: file.display().to_string(), how };
            let Response::ImportedOutcomes { imported } = once(root, request)? else {
                return Err(unexpected());
            };
            out.result(&imported, || told(&imported));
        }
        What::List => {
            let Response::Outcomes { imported } = once(root, Request::Outcomes)? else {
                return Err(unexpected());
            };
            out.result(&json!({ "imported": imported }), || listed(&imported));
        }
        What::Remove { candidate } => {
            let request = Request::RemoveOutcomes { candidate: candidate.clone() };
            let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
            out.result(&json!({ "removed": candidate, "message": message }), || message.clone());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(file: &ImportedFile) -> String {
    let how: Vec<String> = file.how.iter().map(|(how, n)| format!("{n} by {how}")).collect();
    let mut text = format!(
        "{} ({}), {} of rows of this workspace ({})\n",
        counted(file.rows, "outcome"),
        file.format,
        file.matched,
        how.join(", ")
    );
    for one in &file.candidates {
        let by = if one.by.is_empty() { String::new() } else { format!(", {}", clean(&one.by)) };
        text.push_str(&format!("  {}: {} of {}{by}\n", clean(&one.candidate), one.matched, one.rows));
    }
    if !file.unmatched.is_empty() {
        let left = file.rows - file.matched;
        text.push_str(&format!("{} of no row here, such as\n", counted(left, "outcome")));
        for one in &file.unmatched {
            text.push_str(&format!("  {}\n", clean(one)));
        }
    }
    text
}

fn listed(imported: &[Imported]) -> String {
    if imported.is_empty() {
        return "nothing was imported; `tunebench outcomes import FILE --candidate NAME`".into();
    }
    let mut table = Table::new(&["candidate", "format", ">outcomes", ">of rows here", "imported", "file"]);
    for one in imported {
        table.row(vec![
            one.candidate.clone(),
            one.format.clone(),
            one.rows.to_string(),
            one.matched.to_string(),
            utc(one.t_ms),
            one.file.clone(),
        ]);
    }
    table.render()
}
