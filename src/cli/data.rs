//! `tunebench data`: index the sources, look at rows, count them, write them to a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::progress::Bytes;
use super::table::{Table, share};
use crate::data;
use crate::domain::api::{Decision, ImportReport, Request, Response, RowPage, RowQuery};
use crate::domain::count::{Counts, crossed};
use crate::domain::leak::Leaks;
use crate::domain::preview::Preview;
use crate::domain::problem::{ProblemKind, Problems};
use crate::domain::row::Part;
use crate::domain::sample::{Mode, SEED, Sample, SampleAsk, Wanted};
use crate::domain::views::SavedView;
use crate::domain::words::{counted, nearest};
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
    /// Rows that a filter admits
    #[command(after_help = FILTERS)]
    Rows {
        /// Only these: `stratum:"card arrival" base:wrong len>40 -mark:reviewed "lost card"`
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
        /// Only rows of this saved view
        #[arg(long)]
        view: Option<String>,
        /// id, length, outlier or wrong-first; as in the file without it
        #[arg(long)]
        sort: Option<String>,
        /// Leave out so many rows
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// Rows to show
        #[arg(short = 'n', long, default_value_t = 20)]
        count: usize,
    },
    /// How often values occur: `data count stratum`, `data count intent len/20 --where base:wrong`
    #[command(after_help = FILTERS)]
    Count {
        /// Keys to cross (`intent x turns`, or blanks alone); a number behind a slash is the width of bins
        #[arg(required = true)]
        by: Vec<String>,
        /// Only rows that this filter admits
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
        /// Only rows of this saved view
        #[arg(long)]
        view: Option<String>,
        /// Values to show
        #[arg(short = 'n', long, default_value_t = 30)]
        count: usize,
    },
    /// What is wrong with the rows: duplicates, golds that disagree, personal data, odd characters, ...
    #[command(after_help = FILTERS)]
    Problems {
        /// List the rows of this kind, with the reasons
        #[arg(long)]
        kind: Option<ProblemKind>,
        /// Only rows that this filter admits
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
        /// Leave out so many rows
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// Rows to show
        #[arg(short = 'n', long, default_value_t = 20)]
        count: usize,
    },
    /// Rows that are scored on and stand in what is learned from: train rows, stored examples, prompts. Exit code 1 where some do
    Leaks {
        /// Leave out so many pairs
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// Pairs to show
        #[arg(short = 'n', long, default_value_t = 20)]
        count: usize,
    },
    /// What a training run would see: a row as tokens, lengths, batches, rows that are left out and why
    Preview {
        /// The row to show, else the first that would be trained on
        row: Option<String>,
        /// A setting of the run, as in `tunebench run train --set`
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Leave rows out of all learning and scoring, by the mark `excluded`; `data include` takes them in again
    #[command(after_help = FILTERS)]
    Exclude {
        /// The rows
        #[arg(long = "where", value_name = "FILTER", allow_hyphen_values = true)]
        filter: String,
        /// Of each group of duplicates the first one stays
        #[arg(long)]
        keep_first: bool,
    },
    /// Take rows in again that were left out
    #[command(after_help = FILTERS)]
    Include {
        /// The rows
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
    },
    /// Rows for people to review: is this their gold? With second opinions, and how far people agree
    Review(super::review::Args),
    /// Train on 25%, 50% and all of the train rows, and say whether more rows would pay
    Scaling(super::scaling::Args),
    /// What a run made of train rows (`tunebench run grow`), where it fell and why; --accept takes it into the data
    Grown(super::grown::Args),
    /// Draw rows by their strata, and say why each one
    #[command(after_help = FILTERS)]
    Sample {
        /// per-stratum: as many of each; proportional: by size; weak: by size and errors of the best candidate; active: what candidates are
        /// unsure of or part on, what is short in train, what has many errors
        #[arg(long, default_value_t = Mode::PerStratum)]
        mode: Mode,
        /// Rows; of each stratum with per-stratum
        #[arg(short = 'n', long)]
        count: usize,
        /// The same seed draws the same rows
        #[arg(long, default_value_t = SEED)]
        seed: u64,
        /// Only rows that this filter admits
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
        /// Write the rows to a .jsonl, .csv or .parquet file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace that file
        #[arg(long, requires = "out")]
        force: bool,
        /// Mark the rows; `mark:NAME` finds them again, and one undo takes the marks back
        #[arg(long, value_name = "NAME")]
        mark: Option<String>,
    },
    /// Write rows to a .jsonl, .csv or .parquet file, with people's golds, marks and notes
    #[command(after_help = FILTERS)]
    Export {
        file: PathBuf,
        /// Only rows that this filter admits
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
        /// Only rows of this saved view
        #[arg(long)]
        view: Option<String>,
        /// id, length, outlier or wrong-first; as in the file without it
        #[arg(long)]
        sort: Option<String>,
        /// Replace the file
        #[arg(long)]
        force: bool,
    },
    /// Saved views: list them, save one, delete one
    #[command(after_help = FILTERS)]
    Views {
        /// Keep the filter and order under this name
        #[arg(long, value_name = "NAME", conflicts_with = "delete")]
        save: Option<String>,
        /// Delete this view
        #[arg(long, value_name = "NAME")]
        delete: Option<String>,
        /// The rows of the view that is saved
        #[arg(
            long = "where",
            value_name = "FILTER",
            default_value = "",
            allow_hyphen_values = true,
            requires = "save"
        )]
        filter: String,
        /// Their order: id, length or wrong-first
        #[arg(long, requires = "save")]
        sort: Option<String>,
    },
}

const FILTERS: &str = "A filter's terms must all hold; `-` before a term negates it. KEY:VALUE contains, KEY=VALUE is, < <= > >= compare;
commas mean or, * anything, double quotes hold blanks. Keys: id, part, stratum, flag, problem, mark, note, gold, len, base, best, a candidate's name
(right, wrong, error, unjudged, missing), base.answer, NAME.answer, and every field of the data.";

/// Bad rows that are printed; `--json` has the first 1,000.
const SHOWN: usize = 10;

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match args.command {
        Command::Import { force } => import(force, root, out),
        Command::Rows { filter, view, sort, from, count } => {
            let query = query(root, view, filter, sort)?;
            let query = RowQuery { offset: from, count, ..query };
            let Response::Rows { page } = once(root, Request::Rows { query })? else {
                return Err(unexpected());
            };
            out.result(&page, || rows(&page));
            Ok(ExitCode::SUCCESS)
        }
        Command::Count { by, filter, view, count } => {
            let (query, by) = (query(root, view, filter, None)?, crossed(by));
            let request = Request::Count { query, by, limit: count };
            let Response::Counts { counts } = once(root, request)? else { return Err(unexpected()) };
            out.result(&counts, || frequencies(&counts));
            Ok(ExitCode::SUCCESS)
        }
        Command::Review(args) => super::review::run(args, root, out),
        Command::Grown(args) => super::grown::run(args, root, out),
        Command::Scaling(args) => super::scaling::run(args, root, out),
        Command::Sample { mode, count, seed, filter, out: file, force, mark } => {
            let absolute = |file: PathBuf| {
                let path = std::path::absolute(&file);
                path.map_err(|e| Exit::usage(format!("{}: {e}", file.display())))
            };
            let file = file.map(absolute).transpose()?.map(|path| path.display().to_string());
            let wanted = Wanted { mode, n: count, seed, filter, part: None };
            let ask = SampleAsk { wanted, out: file, force, mark };
            let Response::Sample { sample } = once(root, Request::Sample { sample: ask })? else {
                return Err(unexpected());
            };
            out.result(&sample, || drawn(&sample));
            Ok(ExitCode::SUCCESS)
        }
        Command::Problems { kind, filter, from, count } => {
            let query = RowQuery { offset: from, count, ..plain(filter, None) };
            let Response::Problems { problems } = once(root, Request::Problems { kind, query })? else {
                return Err(unexpected());
            };
            out.result(&problems, || self::problems(&problems, kind));
            Ok(ExitCode::SUCCESS)
        }
        Command::Leaks { from, count } => {
            let Response::Leaks { leaks } = once(root, Request::Leaks { offset: from, count })? else {
                return Err(unexpected());
            };
            out.result(&leaks, || self::leaks(&leaks));
            // A suspicion is no find.
            Ok(ExitCode::from(u8::from(leaks.exact + leaks.ngram > 0)))
        }
        Command::Preview { row, set } => {
            let set = super::run::settings("set", &set)?;
            let Response::Preview { preview } = once(root, Request::Preview { row, set })? else {
                return Err(unexpected());
            };
            out.result(&*preview, || self::preview(&preview));
            Ok(ExitCode::SUCCESS)
        }
        Command::Exclude { filter, keep_first } => exclude(filter, keep_first, true, root, out),
        Command::Include { filter } => exclude(filter, false, false, root, out),
        Command::Export { file, filter, view, sort, force } => {
            let file =
                std::path::absolute(&file).map_err(|e| Exit::usage(format!("{}: {e}", file.display())))?;
            let file = file.display().to_string();
            let query = query(root, view, filter, sort)?;
            let request = Request::ExportRows { query, file: file.clone(), force };
            let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
            out.result(&json!({ "file": file, "done": message }), || message.clone());
            Ok(ExitCode::SUCCESS)
        }
        Command::Views { save: None, delete: None, .. } => {
            let views = views(root)?;
            out.result(&json!({ "views": views }), || listed(&views));
            Ok(ExitCode::SUCCESS)
        }
        Command::Views { save, delete, filter, sort } => {
            let view = save.as_ref().map(|_| Box::new(SavedView::new(&plain(filter, sort), "all rows")));
            let name = save.or(delete).unwrap_or_default();
            let request = Request::Decide { decision: Decision::View { name: name.clone(), view } };
            let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
            out.result(&json!({ "view": name, "done": message }), || message.clone());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn plain(text: String, sort: Option<String>) -> RowQuery {
    RowQuery { text, sort: sort.unwrap_or_default(), ..RowQuery::default() }
}

fn views(root: &Path) -> Result<BTreeMap<String, SavedView>, Exit> {
    match once(root, Request::Views)? {
        Response::Views { views } => Ok(views),
        _ => Err(unexpected()),
    }
}

/// The rows of a filter, within a view where one is named.
fn query(root: &Path, view: Option<String>, filter: String, sort: Option<String>) -> Result<RowQuery, Exit> {
    let Some(name) = view else { return Ok(plain(filter, sort)) };
    let mut views = views(root)?;
    match views.remove(&name) {
        Some(view) => Ok(view.with(&filter, sort)),
        None => {
            let near = nearest(&name, views.keys().map(String::as_str));
            let near = near.map(|near| format!("; the nearest is `{near}`")).unwrap_or_default();
            Err(Exit::usage(format!("no view `{name}`{near}; `tunebench data views` lists them")))
        }
    }
}

fn listed(views: &BTreeMap<String, SavedView>) -> String {
    if views.is_empty() {
        return "no view is saved yet: --save NAME --where FILTER, or `v` on the strata screen".into();
    }
    let mut table = Table::new(&["view", "rows", "filter", "order"]);
    for (name, SavedView { query, scope }) in views {
        let part = query.part.map(|p| format!(", {}", p.name())).unwrap_or_default();
        table.row(vec![name.clone(), format!("{scope}{part}"), query.text.clone(), query.sort.clone()]);
    }
    table.render()
}

fn rows(page: &RowPage) -> String {
    let mut table = Table::new(&["id", "part", "gold", "base", "best", ">len", "marks", "text"]);
    for row in &page.rows {
        let answer = |of: &Option<(String, Option<bool>)>| match of {
            None => String::new(),
            Some((text, right)) => {
                let sign = right.map_or("", |right| if right { "ok " } else { "x " });
                format!("{sign}{}", text.chars().take(24).collect::<String>())
            }
        };
        table.row(vec![
            row.id.clone(),
            row.part.map_or("", Part::name).to_owned(),
            row.gold.iter().flat_map(|g| g.chars()).take(24).collect(),
            answer(&row.base),
            answer(&row.best),
            row.length.to_string(),
            row.marks.join(","),
            row.text.chars().take(60).collect(),
        ]);
    }
    let shown = page.rows.len();
    let more = match page.total.saturating_sub(page.offset + shown) {
        0 => String::new(),
        more => format!("; {more} more, --from {}", page.offset + shown),
    };
    format!("{}{}{more}\n", table.render(), counted(page.total, "row"))
}

fn exclude(filter: String, keep_first: bool, on: bool, root: &Path, out: &Output) -> super::CommandResult {
    if on && !keep_first && filter.trim().is_empty() {
        return Err(Exit::usage(
            "--where is empty, which would leave every row out; `--where 'id:*'` if that is meant",
        ));
    }
    let request = Request::Exclude { query: plain(filter, None), keep_first, on };
    let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
    out.result(&json!({ "done": message }), || message.clone());
    Ok(ExitCode::SUCCESS)
}

fn preview(preview: &Preview) -> String {
    let mut text = String::new();
    if let Some(row) = &preview.rendered {
        let head = format!(
            "row {}, {}, {} trained (in brackets):",
            row.id,
            counted(row.tokens, "token"),
            row.trained
        );
        let pieces: String = row
            .pieces
            .iter()
            .map(|(said, trained)| if *trained { format!("[{said}]") } else { said.clone() })
            .collect();
        if let Some(why) = &row.not_learned {
            text.push_str(&format!("{why}: it is never trained on; if it were,\n"));
        }
        text.push_str(&format!("{head}\n{}\n", data::clean(&pieces)));
        if let Some(why) = &row.dropped {
            text.push_str(&format!("left out: {why}\n"));
        }
        text.push('\n');
    }
    text.push_str(&preview.lines(80).join("\n"));
    text.push('\n');
    text
}

fn leaks(leaks: &Leaks) -> String {
    let mut table = Table::new(&["row", "part", "how", "from", "detail", "text"]);
    for leak in &leaks.found {
        table.row(vec![
            leak.row.clone(),
            leak.part.map_or("", Part::name).to_owned(),
            leak.how.name().to_owned(),
            leak.from.clone(),
            leak.detail.clone(),
            leak.text.chars().take(60).collect(),
        ]);
    }
    let mut text = if leaks.found.is_empty() { String::new() } else { table.render() };
    text.push_str(&format!(
        "{} of {} that are scored on leak: {} exact, {} by words in a row, {} suspected by embedding ({})\n",
        leaks.rows(),
        counted(leaks.scored, "row"),
        leaks.exact,
        leaks.ngram,
        leaks.embedding,
        counted(leaks.total, "pair"),
    ));
    for note in &leaks.notes {
        text.push_str(&format!("{note}\n"));
    }
    text
}

fn problems(problems: &Problems, kind: Option<ProblemKind>) -> String {
    let mut text = String::new();
    if let Some(kind) = kind {
        let mut table = Table::new(&["id", "part", "gold", "reason", "text"]);
        for row in &problems.found {
            let short = |text: &str, most: usize| text.chars().take(most).collect::<String>();
            table.row(vec![
                row.id.clone(),
                row.part.map_or("", Part::name).to_owned(),
                short(row.gold.as_deref().unwrap_or_default(), 24),
                short(&row.reason, 100),
                // What is personal is not spread further.
                if kind == ProblemKind::Pii { String::new() } else { short(&row.text, 60) },
            ]);
        }
        let more = match problems.total.saturating_sub(problems.offset + problems.found.len()) {
            0 => String::new(),
            more => format!("; {more} more, --from {}", problems.offset + problems.found.len()),
        };
        text = format!("{}{} with {kind}{more}\n", table.render(), counted(problems.total, "row"));
    } else {
        let mut table = Table::new(&["problem", ">rows", ">groups", "what"]);
        for count in &problems.kinds {
            let groups = count.groups.map(|n| n.to_string()).unwrap_or_default();
            let cells =
                [count.kind.name().to_owned(), count.rows.to_string(), groups, count.kind.help().into()];
            table.row(cells.into());
        }
        if !problems.kinds.is_empty() {
            text.push_str(&table.render());
        }
    }
    text.push_str(&format!("{}, {} left out\n", counted(problems.rows, "row"), problems.excluded));
    for note in &problems.notes {
        text.push_str(&format!("{note}\n"));
    }
    text
}

fn drawn(sample: &Sample) -> String {
    let mut table = Table::new(&["id", "stratum", "why"]);
    for row in &sample.rows {
        table.row(vec![row.id.clone(), row.stratum.clone(), row.why.clone()]);
    }
    let mut strata = Table::new(&["stratum", ">rows", ">drawn", ">right"]);
    for s in &sample.strata {
        let right = s.accuracy.map_or_else(|| "-".into(), |right| share(right, s.scored));
        strata.row(vec![s.stratum.clone(), s.rows.to_string(), s.drawn.to_string(), right]);
    }
    let more = match sample.total.saturating_sub(sample.rows.len()) {
        0 => String::new(),
        more => format!("; {more} not shown"),
    };
    let done: String = sample.done.iter().map(|done| format!("{done}\n")).collect();
    format!(
        "{}\n{}{} drawn ({}){more}\n{done}",
        table.render(),
        strata.render(),
        counted(sample.total, "row"),
        sample.mode
    )
}

fn frequencies(counts: &Counts) -> String {
    let named = |of: &Option<String>| of.clone().unwrap_or_default();
    let (base, best) = (format!(">{}", named(&counts.base)), format!(">{}", named(&counts.best)));
    let scored = [(&counts.base, &base), (&counts.best, &best)];
    let mut heads: Vec<&str> = counts.by.iter().map(String::as_str).collect();
    heads.extend([">rows", ">share"]);
    heads.extend(scored.iter().filter(|(name, _)| name.is_some()).map(|(_, head)| head.as_str()));
    let mut table = Table::new(&heads);
    for group in &counts.groups {
        let mut cells: Vec<String> =
            group.values.iter().map(|v| v.clone().unwrap_or_else(|| "(none)".into())).collect();
        cells.push(group.rows.to_string());
        cells.push(format!("{:.1}%", 100.0 * group.rows as f64 / counts.rows.max(1) as f64));
        for (name, (right, of)) in [(&counts.base, group.base), (&counts.best, group.best)] {
            if name.is_some() {
                cells.push(if of == 0 { "-".into() } else { share(right as f64 / of as f64, of) });
            }
        }
        table.row(cells);
    }
    let more = match counts.distinct - counts.groups.len().min(counts.distinct) {
        0 => String::new(),
        more => format!(", {more} not shown"),
    };
    let values = counted(counts.distinct, if counts.by.len() > 1 { "combination" } else { "value" });
    format!("{}{}, {values}{more}\n", table.render(), counted(counts.rows, "row"))
}

fn import(force: bool, root: &Path, out: &Output) -> super::CommandResult {
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
