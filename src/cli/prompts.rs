//! `tunebench prompts`: versions of prompts that runs tried, their texts and differences; which one the workspace uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::ask::{ask, ask_with_keys, block_on, connect, launch, once, unexpected};
use super::follow;
use super::output::{Exit, Output};
use super::table::{Table, clean, clean_lines};
use crate::domain::api::{Decision, PromptFile, Push, Request, Response, View};
use crate::domain::diff;
use crate::domain::keys::Keys;
use crate::domain::outcome::FlipKind;
use crate::domain::prompt::{ClauseReport, PromptVersion, Score};
use crate::domain::run::RunKind;
use crate::domain::versions::{FoundVersion, HAND, Slice, TRIAL_ROWS, Trial, TriedRow, VersionTree};
use crate::engine::client::Client;
use crate::score::stats;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The tree of versions of a run (default: the newest), or of all versions that have a tag
    List {
        run: Option<String>,
        /// Versions of all prompt runs that have a tag
        #[arg(long)]
        tagged: bool,
    },
    /// A version's text, its scores, and what it fixed and broke; without a version the answer of the newest run
    Show { version: Option<String> },
    /// What two versions differ in; with one, against its parent
    Diff { a: String, b: Option<String> },
    /// Give a version a name; an empty one takes it away
    Tag { version: String, tag: String },
    /// Write a version into the prompt files of workspace.toml; `tunebench prompts undo` takes it back
    Adopt { version: String },
    /// Put the prompt of a stage back to what it was before the last adoption
    Rollback { stage: String },
    /// Take back the newest decision of the journal
    Undo,
    /// Which sentence of a version fixed and broke which rows: each is left out, on the same rows
    Clauses {
        /// Default: the prompts as they stand in their files
        version: Option<String>,
        #[command(flatten)]
        errand: Errand,
    },
    /// Fewer tokens for the same score: fields that are empty, prose that can be a table, clauses that fix nothing
    Economy {
        /// Default: the prompts as they stand in their files
        version: Option<String>,
        #[command(flatten)]
        errand: Errand,
    },
    /// Try the prompts as they stand in their files on some rows, beside the version before, and keep the version
    Try(TryArgs),
    /// Try the prompts now, and again whenever one is saved, until Ctrl-C
    Watch(TryArgs),
}

#[derive(Debug, clap::Args)]
struct Errand {
    /// A setting for this run, such as rows=60 or budget.calls=500
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Send the keys that the workspace names to the endpoints that it names them for, without being asked
    #[arg(long)]
    trust: bool,
}

#[derive(Debug, clap::Args)]
struct TryArgs {
    /// Rows of this stratum (its name or id)
    #[arg(long)]
    stratum: Option<String>,
    /// Rows with this mark
    #[arg(long)]
    mark: Option<String>,
    /// Rows that the version before got wrong when it was tried
    #[arg(long)]
    failing: bool,
    /// How many rows, of dev and then of train
    #[arg(long, value_name = "N", default_value_t = TRIAL_ROWS)]
    rows: usize,
    /// Send the keys that the workspace names to the endpoints that it names them for, without being asked
    #[arg(long)]
    trust: bool,
}

impl TryArgs {
    fn slice(&self) -> Slice {
        Slice {
            stratum: self.stratum.clone(),
            mark: self.mark.clone(),
            failing: self.failing,
            rows: self.rows,
        }
    }
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match args.command.unwrap_or(Command::List { run: None, tagged: false }) {
        Command::List { run, tagged } => list(root, run.as_deref(), tagged, out),
        Command::Show { version } => show(root, version.as_deref(), out),
        Command::Diff { a, b } => difference(root, &a, b.as_deref(), out),
        Command::Tag { version, tag } => {
            let hash = find(root, Some(&version))?.version.hash;
            let tag = Some(tag.trim().to_owned()).filter(|tag| !tag.is_empty());
            decide(root, Decision::TagPrompt { version: hash, tag }, out)
        }
        Command::Adopt { version } => {
            let texts = find(root, Some(&version))?.version.prompts;
            let file = |(stage, text): (&String, &String)| PromptFile {
                stage: stage.clone(),
                hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
                ..PromptFile::default()
            };
            decide(root, Decision::AdoptPrompts { files: texts.iter().map(file).collect() }, out)
        }
        Command::Rollback { stage } => {
            let files = vec![PromptFile { stage, ..PromptFile::default() }];
            decide(root, Decision::AdoptPrompts { files }, out)
        }
        Command::Undo => done(once(root, Request::Undo)?, out),
        Command::Clauses { version, errand } => clauses(root, version, errand, out),
        Command::Economy { version, errand } => {
            let set = errand_settings(root, "economy", version, &errand)?;
            super::run::start(root, RunKind::Prompt, set, None, false, errand.trust, out)
        }
        Command::Try(args) => attempt(root, &args, out),
        Command::Watch(args) => watch(root, &args, out),
    }
}

fn decide(root: &Path, decision: Decision, out: &Output) -> super::CommandResult {
    done(once(root, Request::Decide { decision })?, out)
}

fn done(response: Response, out: &Output) -> super::CommandResult {
    let Response::Done { message } = response else { return Err(unexpected()) };
    out.result(&json!({ "message": message }), || clean(&message));
    Ok(ExitCode::SUCCESS)
}

/// The engine knows what versions are called.
fn find(root: &Path, wanted: Option<&str>) -> Result<FoundVersion, Exit> {
    match once(root, Request::PromptVersion { of: wanted.map(str::to_owned) })? {
        Response::PromptVersion { found } => Ok(*found),
        _ => Err(unexpected()),
    }
}

fn tree(root: &Path, run: Option<&str>) -> Result<VersionTree, Exit> {
    match once(root, Request::PromptTree { run: run.map(str::to_owned) })? {
        Response::PromptTree { tree } => Ok(tree),
        _ => Err(unexpected()),
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    run: &'a str,
    tag: Option<&'a String>,
    current: bool,
    fixed_rows: usize,
    broken_rows: usize,
    #[serde(flatten)]
    version: &'a PromptVersion,
}

fn list(root: &Path, run: Option<&str>, tagged: bool, out: &Output) -> super::CommandResult {
    let first = tree(root, run)?;
    let mut trees = vec![first];
    if tagged && run.is_none() {
        let others: Vec<String> =
            trees[0].runs.iter().filter(|other| **other != trees[0].run).cloned().collect();
        for other in others {
            trees.push(tree(root, Some(&other))?);
        }
    }
    let adopted = match once(root, Request::Prompts)? {
        Response::Prompts { kept } => kept.adopted,
        _ => return Err(unexpected()),
    };
    let mut rows: Vec<Listed<'_>> = Vec::new();
    let mut table = Table::new(&[
        "version",
        "from",
        "epoch",
        "by",
        "edit",
        "fate",
        ">selected",
        ">fresh",
        ">fixed",
        ">broken",
        "tag",
    ]);
    for tree in &trees {
        for branch in &tree.versions {
            if tagged && branch.tag.is_none() {
                continue;
            }
            let version = &branch.version;
            let score = |score: Option<Score>| score.map_or_else(String::new, |s| format!("{:.3}", s.mean));
            let edit: String = version.edit.chars().take(48).collect();
            let id = if tagged {
                format!("{}:{}", tree.run, version.id)
            } else {
                format!("{}{}", "  ".repeat(branch.depth), version.id)
            };
            // By hand nothing is raced: what counts is which one stands in the files.
            let fate = match (tree.run == HAND, branch.current) {
                (true, true) => "in the files",
                (true, false) => "",
                (false, _) => version.fate.name(),
            };
            table.row(vec![
                id,
                version.parents.join(" "),
                version.epoch.to_string(),
                version.proposer.clone(),
                clean(&edit),
                fate.to_owned(),
                score(version.selected),
                score(version.fresh),
                branch.fixed.to_string(),
                branch.broken.to_string(),
                branch.tag.as_ref().map(|tag| clean(tag)).unwrap_or_default(),
            ]);
            rows.push(Listed {
                run: &tree.run,
                tag: branch.tag.as_ref(),
                current: branch.current,
                fixed_rows: branch.fixed,
                broken_rows: branch.broken,
                version,
            });
        }
    }
    let one = trees.first().filter(|tree| !tagged && !tree.versions.is_empty());
    let value = json!({
        "run": one.map(|tree| &tree.run),
        "runs": trees.first().map(|tree| &tree.runs),
        "versions": rows,
        "gain": one.and_then(|tree| tree.gain.clone()),
        "lessons": one.map(|tree| &tree.lessons),
        "adopted": adopted,
    });
    out.result(&value, || {
        if trees.iter().all(|tree| tree.versions.is_empty()) {
            return "no prompts were tuned here yet: `tunebench run prompt`".into();
        }
        let mut text = table.render();
        if let Some(tree) = one {
            let mut lessons: Vec<_> = tree.lessons.iter().collect();
            lessons.sort_by(|a, b| b.gain.abs().total_cmp(&a.gain.abs()));
            if !lessons.is_empty() {
                text.push_str("\nlessons:");
                for lesson in lessons.into_iter().take(6) {
                    text.push_str(&format!("\n  {}: {}", lesson.version, clean(&lesson.to_string())));
                }
            }
            if let Some(gain) = &tree.gain {
                text.push_str(&format!("\n{}: {}", tree.run, clean(&gain.to_string())));
            }
        }
        text
    });
    Ok(ExitCode::SUCCESS)
}

fn show(root: &Path, wanted: Option<&str>, out: &Output) -> super::CommandResult {
    let found = find(root, wanted)?;
    let version = &found.version;
    let value = json!({ "run": found.run, "tag": found.tag, "version": version, "rows": found.rows });
    out.result(&value, || {
        let mut lines = vec![format!(
            "{}{} · {} · {} ({})",
            found.address(),
            found.tag.as_ref().map(|tag| format!(" `{}`", clean(tag))).unwrap_or_default(),
            version.fate.name(),
            clean(&version.edit),
            version.proposer
        )];
        if let Some(selected) = version.selected {
            lines.push(format!("selected {}", sure(selected)));
        }
        if let (Some(fresh), Some(start)) = (version.fresh, version.start_fresh) {
            lines.push(format!("fresh {}, the start's {:.3}", sure(fresh), start.mean));
        }
        lines.extend(version.metrics.iter().map(|(name, value)| format!("{} {value:.3}", clean(name))));
        if let Some(parent) = version.parents.first() {
            lines.push(format!(
                "against {parent}: {} fixed, {} broken",
                version.fixed.len(),
                version.broken.len()
            ));
            lines.extend(flips(&found.rows, 8));
        }
        for (stage, text) in &version.prompts {
            lines.push(format!("--- stage {}", clean(stage)));
            lines.push(clean_lines(text));
        }
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

/// A score with its interval.
fn sure(score: Score) -> String {
    let [low, high] = stats::wilson_of(score.mean, score.n);
    format!("{:.3} [{low:.3}, {high:.3}] (n={})", score.mean, score.n)
}

/// Rows that came out another way: broken ones, then fixed ones, at most so many of each.
fn flips(rows: &[TriedRow], most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (kind, sign) in
        [(FlipKind::Regressed, "broke"), (FlipKind::Fixed, "fixed"), (FlipKind::Churned, "churned")]
    {
        let of_kind: Vec<&TriedRow> = rows.iter().filter(|row| row.flip == Some(kind)).collect();
        for row in of_kind.iter().take(most) {
            let input: String = row.input.chars().take(60).collect();
            let before = row.before.as_deref().unwrap_or("?");
            lines.push(format!(
                "  {sign} {}: {} -> {} (gold {}): {}",
                clean(&row.id),
                clean(before),
                clean(&row.after),
                clean(row.gold.as_deref().unwrap_or("none")),
                clean(&input)
            ));
        }
        if of_kind.len() > most {
            lines.push(format!("  {sign} {} more", of_kind.len() - most));
        }
    }
    lines
}

fn difference(root: &Path, a: &str, b: Option<&str>, out: &Output) -> super::CommandResult {
    let newer = find(root, Some(b.unwrap_or(a)))?;
    let (name, before) = match b {
        Some(_) => {
            let older = find(root, Some(a))?;
            (older.address(), older.version)
        }
        None => {
            let parent = newer.parent.clone();
            let parent = parent.ok_or_else(|| Exit::usage(format!("{} has no parent", newer.address())))?;
            let first = newer.version.parents.first().cloned().unwrap_or_default();
            (if first.contains(':') { first } else { format!("{}:{first}", newer.run) }, parent)
        }
    };
    let after = &newer.version;
    let mut diffs = BTreeMap::new();
    for (stage, text) in &after.prompts {
        let base = before.prompts.get(stage).map_or("", String::as_str);
        if base != text {
            diffs.insert(stage.clone(), diff::lines(base, text));
        }
    }
    let value = json!({ "a": name, "b": newer.address(), "diff": diffs });
    out.result(&value, || {
        let mut lines = vec![format!("{name} -> {}: {}", newer.address(), clean(&after.edit))];
        for (stage, text) in &diffs {
            lines.push(format!("--- stage {}", clean(stage)));
            lines.push(clean_lines(text));
        }
        if diffs.is_empty() {
            lines.push("no difference".into());
        }
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

/// Settings of a run that is about one version.
fn errand_settings(
    root: &Path,
    task: &str,
    version: Option<String>,
    errand: &Errand,
) -> Result<Vec<(String, String)>, Exit> {
    let mut set = super::run::settings("set", &errand.set)?;
    set.push(("tuning.prompt.task".into(), task.into()));
    if let Some(version) = version {
        let found = find(root, Some(&version))?;
        set.push(("candidate".into(), found.address()));
    }
    Ok(set)
}

fn clauses(root: &Path, version: Option<String>, errand: Errand, out: &Output) -> super::CommandResult {
    let set = errand_settings(root, "clauses", version, &errand)?;
    block_on(async {
        let client = connect(root).await?;
        let run = launch(&client, root, RunKind::Prompt, set, None, errand.trust).await?;
        let followed = follow::follow(client, root, &run, out).await?;
        let path = root.join(".tunebench/runs").join(&run).join(crate::tuning::prompt::CLAUSES);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(follow::finish(&followed, out)) };
        let report: ClauseReport = serde_json::from_slice(&bytes)
            .map_err(|e| Exit::failed(format!("{} is damaged: {e}", path.display())))?;
        out.result(&json!({ "run": run, "report": report }), || {
            let mut table = Table::new(&[
                "clause",
                ">fixed",
                ">broke",
                ">score",
                "95%",
                ">tokens",
                "rows it fixed",
                "rows it broke",
            ]);
            let rows = |rows: &[String]| {
                let more = if rows.len() > 3 { " ..." } else { "" };
                clean(&format!("{}{more}", rows.iter().take(3).cloned().collect::<Vec<_>>().join(" ")))
            };
            for clause in report.sorted() {
                let words: String = clause.words.split_whitespace().collect::<Vec<_>>().join(" ");
                table.row(vec![
                    clean(&words.chars().take(60).collect::<String>()),
                    clause.fixed.len().to_string(),
                    clause.broken.len().to_string(),
                    format!("{:+.3}", clause.delta),
                    clause.ci95.map_or_else(String::new, |[low, high]| format!("{low:+.3} to {high:+.3}")),
                    format!("{:.0}", clause.tokens),
                    rows(&clause.fixed),
                    rows(&clause.broken),
                ]);
            }
            format!("{}\n{run}: {:.3} on {} rows", table.render(), report.score, report.rows)
        });
        Ok(ExitCode::SUCCESS)
    })
}

async fn one_trial(client: &Client, root: &Path, args: &TryArgs, out: &Output) -> Result<(), Exit> {
    let request = Request::TryPrompts { slice: args.slice(), keys: Keys::default() };
    let Response::Tried { trial } = ask_with_keys(client, root, request, args.trust).await? else {
        return Err(unexpected());
    };
    let Trial { rows, left_out, .. } = &*trial;
    out.result(&json!({ "trial": &*trial }), || {
        let mut lines = vec![clean(&trial.line())];
        lines.extend(flips(rows, 12));
        if *left_out > 0 {
            lines.push(format!("  ({left_out} rows of eval and the reserve were left out)"));
        }
        lines.join("\n")
    });
    Ok(())
}

fn attempt(root: &Path, args: &TryArgs, out: &Output) -> super::CommandResult {
    block_on(async {
        one_trial(&connect(root).await?, root, args, out).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Try at once, then whenever a prompt is saved. What is wrong with a text is said, and the next one is waited for.
fn watch(root: &Path, args: &TryArgs, out: &Output) -> super::CommandResult {
    block_on(async {
        let mut client = connect(root).await?;
        client.follow(View::Files).await?;
        one_trial(&client, root, args, out).await?;
        out.say("saved prompts are tried; Ctrl-C ends");
        loop {
            let push = tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                push = client.push() => push,
            };
            let Some(push) = push else {
                out.say("the engine ended; connecting again");
                client = connect(root).await?;
                client.follow(View::Files).await?;
                continue;
            };
            let Push::Files { news } = push else { continue };
            let request = Request::PromptTree { run: Some(HAND.to_owned()) };
            let Response::PromptTree { tree } = ask(&client, request).await? else {
                return Err(unexpected());
            };
            let files = tree.files;
            let mut due = false;
            for news in news {
                let is_prompt = files.iter().any(|(_, file)| *file == news.file);
                if news.problem {
                    out.say(&news.text);
                } else {
                    due |= is_prompt;
                }
            }
            if due && let Err(exit) = one_trial(&client, root, args, out).await {
                out.say(&exit.message);
            }
        }
    })
}
