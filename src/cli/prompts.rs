//! `tunebench prompts`: versions of prompts that runs tried, their texts and differences; which one the workspace uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean, clean_lines};
use crate::domain::api::{Decision, PromptFile, PromptsKept, Request, Response};
use crate::domain::diff;
use crate::domain::prompt::{Fate, PromptHistory, PromptVersion, Score};
use crate::domain::run::{RunKind, RunRecord};

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
}

/// Versions of a run, for whom a version is asked of.
struct Found {
    run: String,
    history: PromptHistory,
    at: usize,
}

impl Found {
    fn version(&self) -> Result<&PromptVersion, Exit> {
        self.history.versions.get(self.at).ok_or_else(|| Exit::usage(format!("{} has no versions", self.run)))
    }

    fn address(&self) -> String {
        format!("{}:{}", self.run, self.history.versions.get(self.at).map_or("", |v| v.id.as_str()))
    }
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match args.command.unwrap_or(Command::List { run: None, tagged: false }) {
        Command::List { run, tagged } => list(root, run.as_deref(), tagged, out),
        Command::Show { version } => show(root, version.as_deref(), out),
        Command::Diff { a, b } => difference(root, &a, b.as_deref(), out),
        Command::Tag { version, tag } => {
            let found = find(root, Some(&version))?;
            let hash = found.version()?.hash.clone();
            let tag = Some(tag.trim().to_owned()).filter(|tag| !tag.is_empty());
            decide(root, Decision::TagPrompt { version: hash, tag }, out)
        }
        Command::Adopt { version } => {
            let found = find(root, Some(&version))?;
            let texts = &found.version()?.prompts;
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

/// Prompt runs, the newest first.
fn runs(root: &Path) -> Result<Vec<RunRecord>, Exit> {
    let Response::Runs { runs } = once(root, Request::Runs)? else { return Err(unexpected()) };
    let mut runs: Vec<RunRecord> = runs.into_iter().filter(|run| run.kind == RunKind::Prompt).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.created_ms));
    Ok(runs)
}

fn kept(root: &Path) -> Result<PromptsKept, Exit> {
    match once(root, Request::Prompts)? {
        Response::Prompts { kept } => Ok(kept),
        _ => Err(unexpected()),
    }
}

fn history(root: &Path, run: &str) -> Result<PromptHistory, Exit> {
    let path = root.join(".tunebench/runs").join(run).join(crate::tuning::prompt::HISTORY);
    let bytes = std::fs::read(&path)
        .map_err(|e| Exit::usage(format!("{run} has no versions yet: {}: {e}", path.display())))?;
    serde_json::from_slice(&bytes).map_err(|e| Exit::failed(format!("{} is damaged: {e}", path.display())))
}

/// `RUN:v7`, `v7` of the newest run, `RUN` (its answer), a tag, or the start of a hash.
fn find(root: &Path, wanted: Option<&str>) -> Result<Found, Exit> {
    let runs = runs(root)?;
    let newest =
        runs.first().ok_or_else(|| Exit::usage("no prompts were tuned here yet: `tunebench run prompt`"))?;
    let in_run = |run: &str, version: Option<&str>| -> Result<Found, Exit> {
        let history = history(root, run)?;
        let at = match version {
            Some(id) => history.versions.iter().position(|v| v.id == id),
            None => history.versions.iter().position(|v| v.fate == Fate::Final).or(Some(0)),
        };
        let at = at.ok_or_else(|| {
            let last = history.versions.last().map_or("none", |v| v.id.as_str());
            Exit::usage(format!(
                "{run} has no version `{}`; its last one is {last}",
                version.unwrap_or_default()
            ))
        })?;
        Ok(Found { run: run.to_owned(), history, at })
    };
    let Some(wanted) = wanted else { return in_run(&newest.run, None) };
    if let Some((run, version)) = wanted.split_once(':') {
        return in_run(run, Some(version));
    }
    if runs.iter().any(|run| run.run == wanted) {
        return in_run(wanted, None);
    }
    if wanted.strip_prefix('v').is_some_and(|n| n.parse::<usize>().is_ok()) {
        return in_run(&newest.run, Some(wanted));
    }
    let kept = kept(root)?;
    let tagged: Vec<&String> =
        kept.tags.iter().filter(|(_, tag)| *tag == wanted).map(|(hash, _)| hash).collect();
    for run in &runs {
        let Ok(history) = history(root, &run.run) else { continue };
        let named = |v: &PromptVersion| {
            tagged.contains(&&v.hash) || (wanted.len() >= 6 && v.hash.starts_with(wanted))
        };
        if let Some(at) = history.versions.iter().position(named) {
            return Ok(Found { run: run.run.clone(), history, at });
        }
    }
    Err(Exit::usage(format!(
        "no version `{wanted}`; write v3, {}:v3, a tag or the start of a hash (`tunebench prompts list` has them)",
        newest.run
    )))
}

#[derive(Serialize)]
struct Listed<'a> {
    run: &'a str,
    tag: Option<&'a String>,
    #[serde(flatten)]
    version: PromptVersion,
}

fn list(root: &Path, run: Option<&str>, tagged: bool, out: &Output) -> super::CommandResult {
    let kept = kept(root)?;
    let all = runs(root)?;
    let wanted: Vec<String> = match run {
        Some(run) => vec![run.to_owned()],
        None if tagged => all.iter().map(|run| run.run.clone()).collect(),
        None => all.iter().take(1).map(|run| run.run.clone()).collect(),
    };
    let mut histories = Vec::new();
    for run in wanted {
        match history(root, &run) {
            Ok(history) => histories.push((run, history)),
            Err(_) if tagged => {}
            Err(exit) => return Err(exit),
        }
    }
    let mut rows: Vec<Listed<'_>> = Vec::new();
    let mut table =
        Table::new(&["version", "from", "epoch", "by", "edit", "fate", ">selected", ">fresh", "tag"]);
    for (run, history) in &histories {
        let depths = depths(history);
        for (version, depth) in history.versions.iter().zip(depths) {
            let tag = kept.tags.get(&version.hash);
            if tagged && tag.is_none() {
                continue;
            }
            let score = |score: Option<Score>| score.map_or_else(String::new, |s| format!("{:.3}", s.mean));
            let edit: String = version.edit.chars().take(48).collect();
            let id = if tagged {
                format!("{run}:{}", version.id)
            } else {
                format!("{}{}", "  ".repeat(depth), version.id)
            };
            table.row(vec![
                id,
                version.parents.join(" "),
                version.epoch.to_string(),
                version.proposer.clone(),
                clean(&edit),
                version.fate.name().to_owned(),
                score(version.selected),
                score(version.fresh),
                tag.map(|tag| clean(tag)).unwrap_or_default(),
            ]);
            let version = PromptVersion { prompts: BTreeMap::new(), ..version.clone() };
            rows.push(Listed { run, tag, version });
        }
    }
    let one = histories.first().filter(|_| !tagged);
    let value = json!({
        "versions": rows,
        "gain": one.and_then(|(_, history)| history.gain.clone()),
        "lessons": one.map(|(_, history)| &history.lessons),
        "adopted": kept.adopted,
    });
    out.result(&value, || {
        if histories.is_empty() {
            return "no prompts were tuned here yet: `tunebench run prompt`".into();
        }
        let mut text = table.render();
        if let Some((run, history)) = one {
            let mut lessons: Vec<_> = history.lessons.iter().collect();
            lessons.sort_by(|a, b| b.gain.abs().total_cmp(&a.gain.abs()));
            if !lessons.is_empty() {
                text.push_str("\nlessons:");
                for lesson in lessons.into_iter().take(6) {
                    text.push_str(&format!("\n  {}", clean(&lesson.to_string())));
                }
            }
            if let Some(gain) = &history.gain {
                text.push_str(&format!("\n{run}: {}", clean(&gain.to_string())));
            }
        }
        text
    });
    Ok(ExitCode::SUCCESS)
}

/// How deep in the tree each version is.
fn depths(history: &PromptHistory) -> Vec<usize> {
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all = Vec::new();
    for version in &history.versions {
        let parent = version.parents.first().and_then(|parent| depths.get(parent.as_str()));
        let depth = parent.map_or(0, |depth| depth + 1);
        depths.insert(&version.id, depth);
        all.push(depth);
    }
    all
}

fn show(root: &Path, wanted: Option<&str>, out: &Output) -> super::CommandResult {
    let found = find(root, wanted)?;
    let version = found.version()?;
    let tag = kept(root)?.tags.get(&version.hash).cloned();
    out.result(&json!({ "run": found.run, "tag": tag, "version": version }), || {
        let mut lines = vec![format!(
            "{}{} · {} · {} ({})",
            found.address(),
            tag.map(|tag| format!(" `{}`", clean(&tag))).unwrap_or_default(),
            version.fate.name(),
            clean(&version.edit),
            version.proposer
        )];
        if let Some(selected) = version.selected {
            lines.push(format!("selected {selected}"));
        }
        if let (Some(fresh), Some(start)) = (version.fresh, version.start_fresh) {
            lines.push(format!("fresh {fresh}, the start's {:.3}", start.mean));
        }
        lines.extend(version.metrics.iter().map(|(name, value)| format!("{} {value:.3}", clean(name))));
        if !version.parents.is_empty() {
            let shown = |rows: &[String]| clean(&rows.iter().take(8).cloned().collect::<Vec<_>>().join(" "));
            lines.push(format!(
                "against {}: fixed {} ({})",
                version.parents[0],
                version.fixed.len(),
                shown(&version.fixed)
            ));
            lines.push(format!(
                "against {}: broke {} ({})",
                version.parents[0],
                version.broken.len(),
                shown(&version.broken)
            ));
        }
        for (stage, text) in &version.prompts {
            lines.push(format!("--- stage {}", clean(stage)));
            lines.push(clean_lines(text));
        }
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn difference(root: &Path, a: &str, b: Option<&str>, out: &Output) -> super::CommandResult {
    let newer = find(root, Some(b.unwrap_or(a)))?;
    let older = match b {
        Some(_) => find(root, Some(a))?,
        None => {
            let parent = newer.version()?.parents.first().cloned();
            let parent = parent.ok_or_else(|| Exit::usage(format!("{} has no parent", newer.address())))?;
            find(root, Some(&format!("{}:{parent}", newer.run)))?
        }
    };
    let (before, after) = (older.version()?, newer.version()?);
    let mut diffs = BTreeMap::new();
    for (stage, text) in &after.prompts {
        let base = before.prompts.get(stage).map_or("", String::as_str);
        if base != text {
            diffs.insert(stage.clone(), diff::lines(base, text));
        }
    }
    let value = json!({ "a": older.address(), "b": newer.address(), "diff": diffs });
    out.result(&value, || {
        let mut lines = vec![format!("{} -> {}: {}", older.address(), newer.address(), clean(&after.edit))];
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
