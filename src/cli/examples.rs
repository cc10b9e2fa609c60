//! `tunebench examples`: the stores of worked examples that trajectory runs found, by hand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::ask::{ask_with_keys, block_on, connect, once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean};
use crate::domain::api::{Decision, Request, Response};
use crate::domain::example::{ExampleEdit, ExamplePage, ExampleQuery, FoundExamples};
use crate::domain::keys::Keys;
use crate::domain::words::counted;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Which store: a trajectory run, or the name of an imported one (default: the newest run's)
    #[arg(long, global = true, value_name = "RUN")]
    store: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The examples, those that did most first
    List {
        #[arg(long, default_value_t = 30)]
        count: usize,
        #[arg(long, default_value_t = 0)]
        offset: usize,
        /// Words that must stand in input, answer, stage or stratum; is:off, is:edited, stage:NAME, stratum:NAME
        #[arg(long, value_name = "TEXT", default_value = "")]
        filter: String,
        #[arg(long, default_value = "lift", value_parser = ["lift", "harm", "uses", "found", "stratum", "answer"])]
        sort: String,
    },
    /// An example and how it was found
    Show {
        id: String,
    },
    /// Change an example; the store as it stands is candidate `BASE+RUN` (`run eval --set candidate=baseline+trajectory-1`)
    Edit {
        id: String,
        #[arg(long)]
        input: Option<String>,
        #[arg(long)]
        answer: Option<String>,
    },
    /// Show it no more
    Disable {
        id: String,
    },
    Enable {
        id: String,
    },
    /// Let one example stand for others
    Merge {
        into: String,
        #[arg(required = true)]
        others: Vec<String>,
    },
    /// Write the store as it stands, one example a line
    Export {
        file: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Take a store in under a name
    Import {
        file: PathBuf,
        #[arg(long)]
        name: String,
    },
    /// What would be retrieved for an input, and why
    Search {
        input: String,
        #[arg(long)]
        stage: Option<String>,
        #[arg(long)]
        shots: Option<usize>,
    },
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let store = args.store;
    let newest = What::List { count: 30, offset: 0, filter: String::new(), sort: String::new() };
    match args.what.unwrap_or(newest) {
        What::List { count, offset, filter, sort } => {
            list(root, store, ExampleQuery { text: filter, sort, offset, count }, out)
        }
        What::Show { id } => show(root, store, id, out),
        What::Edit { input: None, answer: None, .. } => {
            Err(Exit::usage("say what is to change: --input TEXT or --answer TEXT"))
        }
        What::Edit { id, input, answer } => {
            decide(root, store, id, ExampleEdit { input, answer, ..ExampleEdit::default() }, out)
        }
        What::Disable { id } => {
            decide(root, store, id, ExampleEdit { enabled: Some(false), ..ExampleEdit::default() }, out)
        }
        What::Enable { id } => {
            decide(root, store, id, ExampleEdit { enabled: Some(true), ..ExampleEdit::default() }, out)
        }
        What::Merge { into, others } => {
            decide(root, store, into, ExampleEdit { merges: others, ..ExampleEdit::default() }, out)
        }
        What::Export { file, force } => export(root, store, &file, force, out),
        What::Import { file, name } => {
            let file = file.canonicalize().map_err(|e| Exit::usage(format!("{}: {e}", file.display())))?;
            let request = Request::ImportExamples { file: file.display().to_string(), name };
            let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
            out.result(&json!({ "message": message }), || message.clone());
            Ok(ExitCode::SUCCESS)
        }
        What::Search { input, stage, shots } => search(root, store, stage, input, shots, out),
    }
}

fn page(
    root: &Path,
    store: Option<String>,
    id: Option<String>,
    query: ExampleQuery,
) -> Result<ExamplePage, Exit> {
    match once(root, Request::Examples { store, id, query })? {
        Response::Examples { page } => Ok(page),
        _ => Err(unexpected()),
    }
}

fn list(root: &Path, store: Option<String>, query: ExampleQuery, out: &Output) -> super::CommandResult {
    let ExamplePage { store, total, examples, edited, .. } = page(root, store, None, query)?;
    out.result(&json!({ "store": store, "total": total, "examples": examples, "edited": edited }), || {
        let mut table =
            Table::new(&["id", "stage", ">found", ">uses", ">fixed", ">broken", "", "answer", "input"]);
        for e in &examples {
            let total = e.total();
            let state = match (e.enabled, edited.contains(&e.id)) {
                (false, _) => "off",
                (true, true) => "edited",
                (true, false) => "",
            };
            table.row(vec![
                e.id.clone(),
                clean(&e.stage),
                e.found_rows.to_string(),
                total.uses.to_string(),
                total.fixed.to_string(),
                total.broken.to_string(),
                state.to_owned(),
                short(&e.answer, 16),
                short(&e.input, 60),
            ]);
        }
        format!("{}{} of {} in {}", table.render(), examples.len(), counted(total, "example"), clean(&store))
    });
    Ok(ExitCode::SUCCESS)
}

fn short(text: &str, most: usize) -> String {
    let line = clean(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn show(root: &Path, store: Option<String>, id: String, out: &Output) -> super::CommandResult {
    let ExamplePage { store, examples, edited, .. } =
        page(root, store, Some(id), ExampleQuery { count: 1, ..ExampleQuery::default() })?;
    let Some(e) = examples.first() else { return Err(unexpected()) };
    out.result(&json!({ "store": store, "example": e, "edited": edited.contains(&e.id) }), || {
        let mut lines = vec![format!(
            "{}  stage {}, {}{}{}",
            e.id,
            clean(&e.stage),
            e.source.name(),
            e.row.as_ref().map(|row| format!(" of row {}", clean(row))).unwrap_or_default(),
            if e.enabled { "" } else { ", off" }
        )];
        lines.push(format!("  input    {}", clean(&e.input)));
        lines.push(format!("  answer   {}", clean(&e.answer)));
        for (stage, output) in &e.outputs {
            lines.push(format!("  {}    {}", clean(stage), short(output, 100)));
        }
        for (stratum, effect) in &e.effect {
            let name = if stratum.is_empty() { "no stratum" } else { stratum };
            lines.push(format!(
                "  shown for {} of {}: {} fixed, {} broken (worth {:+.2})",
                counted(effect.uses as usize, "row"),
                clean(name),
                effect.fixed,
                effect.broken,
                e.value(Some(stratum))
            ));
        }
        lines.push(format!("  in the smallest set of {}", counted(e.found_rows as usize, "row")));
        for found in &e.found {
            lines.push(format!(
                "    {}: {} instead of {}; {} tried ({}), the smallest: {}",
                clean(&found.row),
                short(&found.wrong, 30),
                short(&found.gold, 30),
                counted(found.tried as usize, "set"),
                clean(&found.proposal),
                found.set.join(" ")
            ));
        }
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn decide(
    root: &Path,
    store: Option<String>,
    id: String,
    edit: ExampleEdit,
    out: &Output,
) -> super::CommandResult {
    let ExamplePage { store, examples, .. } =
        page(root, store, Some(id), ExampleQuery { count: 1, ..ExampleQuery::default() })?;
    let Some(example) = examples.into_iter().next() else { return Err(unexpected()) };
    let decision = Decision::Example { store: store.clone(), example: example.id.clone(), edit };
    let Response::Done { message } = once(root, Request::Decide { decision })? else {
        return Err(unexpected());
    };
    out.result(&json!({ "store": store, "example": example.id, "message": message }), || {
        format!("{message}; `run eval --set candidate=baseline+{store}` scores the store as it stands")
    });
    Ok(ExitCode::SUCCESS)
}

fn export(
    root: &Path,
    store: Option<String>,
    file: &Path,
    force: bool,
    out: &Output,
) -> super::CommandResult {
    let path = std::path::absolute(file).map_err(|e| Exit::usage(format!("{}: {e}", file.display())))?;
    let request = Request::ExportExamples { store, file: path.display().to_string(), force };
    let Response::ExportedExamples { store, examples, .. } = once(root, request)? else {
        return Err(unexpected());
    };
    out.result(&json!({ "store": store, "examples": examples, "path": file }), || {
        format!("{} of {} are in {}", counted(examples, "example"), clean(&store), file.display())
    });
    Ok(ExitCode::SUCCESS)
}

fn search(
    root: &Path,
    store: Option<String>,
    stage: Option<String>,
    input: String,
    shots: Option<usize>,
    out: &Output,
) -> super::CommandResult {
    let request = Request::SearchExamples { store, stage, input, shots, keys: Keys::default() };
    let asked = async { ask_with_keys(&connect(root).await?, root, request, false).await };
    let Response::FoundExamples { found } = block_on(asked)? else {
        return Err(unexpected());
    };
    let FoundExamples { store, stage, hits } = found;
    out.result(&json!({ "store": store, "stage": stage, "hits": hits }), || {
        let mut table = Table::new(&["id", ">score", ">alike", ">bm25", ">worth", "answer", "input"]);
        for (e, why) in &hits {
            table.row(vec![
                e.id.clone(),
                format!("{:.3}", why.score),
                format!("{:.2}", why.similarity),
                format!("{:.1}", why.bm25),
                format!("{:+.2}", why.value),
                short(&e.answer, 16),
                short(&e.input, 60),
            ]);
        }
        format!(
            "{}{} of {}, stage {}, in the order in which they are shown",
            table.render(),
            counted(hits.len(), "example"),
            clean(&store),
            clean(&stage)
        )
    });
    Ok(ExitCode::SUCCESS)
}
