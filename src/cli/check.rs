//! `tunebench check`: validate workspace, data, prompts and models.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::ask;
use super::output::{Exit, Output};
use super::trust;
use crate::data::{self, Dataset, Resolver, Sample};
use crate::domain::board::{Board, BoardRow, GoalResult};
use crate::domain::metric::Direction;
use crate::domain::words::counted;
use crate::model::config::ModelConfig;
use crate::model::encoder::Encoder;
use crate::tuning::check::{self, Finding};
use crate::workspace::config::ModelPlace;
use crate::workspace::{Problem, Workspace};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hold the board against the goals
    #[arg(long)]
    goals: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let mut ws = None;
    match Workspace::open(root) {
        // Without a file there is nothing to check.
        Err(found) if found.0.iter().any(|p| p.file != crate::workspace::FILE) => {
            return Err(Exit::usage(found.to_string()));
        }
        Err(found) => problems.extend(found.0),
        Ok((workspace, missing)) => {
            problems.extend(missing.0);
            let (of_data, sample) = check_data(&workspace, out);
            problems.extend(of_data);
            problems.extend(check_models(&workspace));
            problems.extend(check_sets(&workspace));
            warnings.extend(unset_keys(&workspace));
            for finding in findings(&workspace, &sample) {
                let problem = finding.problem(&workspace);
                if finding.refused {
                    problems.push(problem);
                } else {
                    warnings.push(problem.to_string());
                }
            }
            for warning in &warnings {
                out.say(&format!("note: {}", data::clean_line(warning)));
            }
            ws = Some(workspace);
        }
    }
    problems.sort();
    problems.dedup();
    let goals = match &ws {
        Some(ws) if args.goals && problems.is_empty() => Some(goals(ws)?),
        _ => None,
    };
    let missed = goals.iter().flat_map(|g| &g.results).any(|g| g.state != "pass");
    let value = json!({
        "problems": problems,
        "warnings": warnings,
        "goals": goals.as_ref().map(|g| &g.results),
        "candidate": goals.as_ref().and_then(|g| g.candidate.as_ref()),
    });
    out.result(&value, || describe(&problems, goals.as_ref()));
    Ok(if problems.is_empty() && !missed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The goals as the best candidate on the board meets them; its name comes with them, if there is one.
struct Goals {
    candidate: Option<String>,
    results: Vec<GoalResult>,
}

fn goals(ws: &Workspace) -> Result<Goals, Exit> {
    let wanted = &ws.config.goals;
    if wanted.is_empty() {
        return Ok(Goals { candidate: None, results: Vec::new() });
    }
    let board = ask::block_on(async { ask::board(&ask::connect(&ws.root).await?).await })?;
    Ok(best(&board).unwrap_or_else(|| Goals {
        candidate: None,
        results: wanted
            .iter()
            .map(|g| GoalResult {
                metric: g.metric.clone(),
                want: g.want.to_string(),
                got: None,
                state: "open".into(),
                why: None,
            })
            .collect(),
    }))
}

/// Done means that one candidate passes every goal, so the one that passes most is the one to look at; then the primary metric decides.
fn best(board: &Board) -> Option<Goals> {
    let passed = |row: &BoardRow| row.goals.iter().filter(|g| g.state == "pass").count();
    let primary = |row: &BoardRow| row.metrics.get(&board.primary).copied().unwrap_or(f64::NEG_INFINITY);
    let sign = match board.metric(&board.primary).map(|m| m.entry.direction) {
        Some(Direction::Lower) => -1.0,
        _ => 1.0,
    };
    let better = |a: &&BoardRow, b: &&BoardRow| {
        passed(a).cmp(&passed(b)).then((sign * primary(a)).total_cmp(&(sign * primary(b))))
    };
    let row = board.rows.iter().max_by(better)?;
    Some(Goals { candidate: Some(row.candidate.clone()), results: row.goals.clone() })
}

fn describe(problems: &[Problem], goals: Option<&Goals>) -> String {
    let mut text = match problems.len() {
        0 => "no problems".to_owned(),
        n => format!("{}:", counted(n, "problem")),
    };
    for problem in problems {
        text.push_str(&format!("\n{}", data::clean_line(&problem.to_string())));
    }
    let Some(goals) = goals else { return text };
    match &goals.candidate {
        _ if goals.results.is_empty() => text.push_str("\nno goals are set"),
        Some(candidate) => text.push_str(&format!("\ngoals, as {} meets them:", data::clean(candidate))),
        None => text.push_str("\ngoals; nobody is on the board yet:"),
    }
    for goal in &goals.results {
        let got = goal.got.map_or("not measured".into(), |g| format!("{g:.4}"));
        let why = goal.why.as_ref().map(|why| format!(" ({})", data::clean_line(why))).unwrap_or_default();
        text.push_str(&format!("\n  {} {}: {got}, {}{why}", goal.metric, goal.want, goal.state));
    }
    text
}

/// Looks at a sample of every source, and holds what the workspace names against it.
fn check_data(ws: &Workspace, out: &Output) -> (Vec<Problem>, Sample) {
    let mut problems = Vec::new();
    let mut sample = Sample::default();
    for (i, (shown, path)) in ws.config.data.sources.iter().zip(ws.sources()).enumerate() {
        if !path.is_file() {
            // Reported as missing already.
            continue;
        }
        match data::survey(&path, shown) {
            Err(e) => problems.push(ws.problem(&source_key(ws, i), e.to_string())),
            Ok(seen) => {
                for bad in &seen.bad {
                    out.say(&format!(
                        "bad row: {}:{}: {}",
                        bad.file,
                        bad.line,
                        data::clean_line(&bad.reason)
                    ));
                }
                if seen.sample.rows.is_empty() {
                    let message = format!("{shown}: {}", seen.no_row());
                    problems.push(ws.problem(&source_key(ws, i), message));
                }
                sample.merge(seen.sample);
            }
        }
    }
    if !sample.rows.is_empty() {
        problems.extend(check_fields(ws, &sample));
    }
    (problems, sample)
}

/// Every row of the sets.
fn check_sets(ws: &Workspace) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, set) in ws.config.sets.iter().enumerate() {
        let files = ws.set_files(set);
        if files.iter().any(|(_, path)| !path.is_file()) {
            // Reported as missing already.
            continue;
        }
        let wrong = data::sets::read(&files, set.input.as_deref(), set.gold.as_deref()).err();
        problems.extend(wrong.into_iter().flatten().map(|wrong| {
            if wrong.line > 0 {
                Problem { file: wrong.file, line: wrong.line, message: wrong.reason }
            } else {
                ws.problem(&format!("set.{i}.source"), data::sets::told(&set.settings.name, &wrong))
            }
        }));
    }
    problems
}

/// What a run would refuse, or stumble over: of the imported data where it is imported, else of the sample.
fn findings(ws: &Workspace, sample: &Sample) -> Vec<Finding> {
    let rows = Dataset::open(ws).map(|data| check::Sample::of_dataset(&data)).unwrap_or_else(|_| {
        let guess = data::guess(sample, None, None);
        let resolver = Resolver::new(ws.config.data.input.as_deref(), ws.config.data.gold.as_deref(), &guess);
        resolver.map(|r| check::Sample::of_fields(&sample.rows, &r)).unwrap_or_default()
    });
    let candidate = check::candidate(ws);
    let mut found = check::examine(&candidate, None, &rows);
    found.extend(check::pointless_samples(&candidate, ws.config.eval.samples));
    let train = Some(&ws.config.tuning.train);
    for finding in check::examine(&check::candidate_for_training(ws), train, &rows) {
        // Who writes nothing of training does not mean to train.
        if finding.key == check::ENDPOINT_STAGE && ws.line_of("tuning.train") == 0 {
            continue;
        }
        // The same stage may be too long in both; the pipeline's own finding is the one to see first.
        if found.iter().all(|f| f.key != finding.key) {
            found.push(finding);
        }
    }
    found
}

fn source_key(ws: &Workspace, i: usize) -> String {
    let key = format!("data.source.{i}");
    if ws.line_of(&key) > 0 { key } else { "data.source".into() }
}

/// Fields that the workspace names and that no sampled row has.
fn check_fields(ws: &Workspace, sample: &Sample) -> Vec<Problem> {
    let mut known: Vec<String> = sample.rows.iter().flat_map(|r| r.keys().cloned()).collect();
    known.sort_unstable();
    known.dedup();
    let config = &ws.config.data;
    let mut problems = Vec::new();
    let mut named: Vec<(String, &str)> = Vec::new();
    named.extend(config.gold.as_deref().map(|f| ("data.gold".to_owned(), f)));
    named.extend(config.split.group.iter().map(|f| ("data.split.group".to_owned(), f.as_str())));
    named.extend(
        config.dimensions.iter().enumerate().map(|(i, f)| (format!("data.dimensions.{i}"), f.as_str())),
    );
    for (i, stage) in ws.config.stages.iter().enumerate() {
        named.extend(stage.gold.as_deref().map(|f| (format!("stage.{i}.gold"), f)));
    }
    for (key, name) in named {
        if !sample.rows.iter().any(|row| data::field(row, name).is_some()) {
            let near = crate::workspace::nearest(name, known.iter().map(String::as_str));
            let hint = near
                .map_or_else(|| format!("fields: {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
            let message = format!(
                "`{key}`: none of {} has a field `{name}`; {hint}",
                counted(sample.rows.len(), "sampled row")
            );
            problems.push(ws.problem(&key, data::clean_line(&message)));
        }
    }
    if let Some(template) = &config.input {
        let unknown = data::unknown_fields(template, &known);
        problems.extend(unknown.into_iter().map(|m| ws.problem("data.input", format!("`data.input`: {m}"))));
    }
    problems.extend(check_prompts(ws, &known));
    if problems.is_empty() {
        problems.extend(check_rows(ws, sample));
    }
    problems
}

/// Variables in prompts that are neither fields nor what the pipeline adds.
fn check_prompts(ws: &Workspace, fields: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut known: Vec<String> = fields.to_vec();
    known.extend(["input", "examples", "labels", "row", "stages"].map(String::from));
    for stage in &ws.config.stages {
        if let Some(prompt) = &stage.prompt
            && let Ok(text) = std::fs::read_to_string(ws.resolve(prompt))
        {
            let mut known = known.clone();
            known.extend((!stage.tools.is_empty()).then(|| "tools".to_owned()));
            for message in data::unknown_fields(&text, &known) {
                let name = message.split('`').nth(1).unwrap_or_default();
                let line = text.lines().position(|l| l.contains(name)).map_or(0, |i| i as u64 + 1);
                problems.push(Problem { file: prompt.display().to_string(), line, message });
            }
        }
        known.push(stage.name.clone());
    }
    problems.extend(check_rubrics(ws, fields));
    problems
}

/// The same of rubrics.
fn check_rubrics(ws: &Workspace, fields: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for judge in &ws.config.judges {
        for (path, texts) in [(&judge.rubric, &["output"][..]), (&judge.pairwise, &["first", "second"][..])] {
            let Some(path) = path else { continue };
            let Ok(text) = std::fs::read_to_string(ws.resolve(path)) else { continue };
            let mut known: Vec<String> = fields.to_vec();
            known.extend(["input", "gold", "row"].iter().chain(texts).map(|name| (*name).to_owned()));
            for message in data::unknown_fields(&text, &known) {
                let name = message.split('`').nth(1).unwrap_or_default();
                let line = text.lines().position(|l| l.contains(name)).map_or(0, |i| i as u64 + 1);
                problems.push(Problem { file: path.display().to_string(), line, message });
            }
        }
    }
    problems
}

/// Renders the sample: every row must have an input, and some must have a gold.
fn check_rows(ws: &Workspace, sample: &Sample) -> Vec<Problem> {
    let config = &ws.config.data;
    let guess = data::guess(sample, None, None);
    let resolver = match Resolver::new(config.input.as_deref(), config.gold.as_deref(), &guess) {
        Ok(resolver) => resolver,
        Err(message) => return vec![ws.problem("data.input", message)],
    };
    let (mut failed, mut empty, mut golds) = (None, 0, 0);
    for row in &sample.rows {
        match resolver.resolve(row) {
            Err(message) => failed = Some(message),
            Ok((input, gold)) => {
                empty += usize::from(input.trim().is_empty());
                golds += usize::from(gold.is_some());
            }
        }
    }
    let n = sample.rows.len();
    let mut problems: Vec<Problem> = failed.into_iter().map(|m| ws.problem("data.input", m)).collect();
    if empty * 2 > n {
        problems.push(ws.problem(
            "data.input",
            format!("the input is empty in {empty} of {}", counted(n, "sampled row")),
        ));
    }
    if golds == 0 {
        let message =
            format!("none of {} has a gold; name its field, gold = \"FIELD\"", counted(n, "sampled row"));
        problems.push(ws.problem(if config.gold.is_some() { "data.gold" } else { "data" }, message));
    }
    problems
}

fn check_models(ws: &Workspace) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, model) in &ws.config.models {
        let ModelPlace::Local { path } = &model.place else { continue };
        let dir = ws.resolve(path);
        if !dir.is_dir() {
            continue;
        }
        let key = format!("models.{name}.path");
        // A model that embeds, and answers nothing.
        if Encoder::is_one(&dir) {
            if let Err(e) = Encoder::load(&dir) {
                problems.push(ws.problem(&key, e.to_string()));
            }
            continue;
        }
        if let Err(e) = ModelConfig::load(&dir) {
            problems.push(ws.problem(&key, e.to_string()));
        }
        if !dir.join("tokenizer.json").is_file() {
            problems.push(ws.problem(&key, format!("model {} has no tokenizer.json", dir.display())));
        }
        if let Err(e) = crate::model::weights::Weights::open(&dir) {
            problems.push(ws.problem(&key, e.to_string()));
        }
    }
    problems
}

/// What is no fault of the workspace but will be in the way.
fn unset_keys(ws: &Workspace) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, model) in &ws.config.models {
        let Some(need) = model.place.key_need() else { continue };
        if trust::value(&need.variable).is_none() {
            notes.push(format!(
                "model `{name}` needs the environment variable {}, which is not set",
                need.variable
            ));
        }
        if need.is_open() {
            notes.push(format!(
                "model `{name}` gets its key and all texts unencrypted ({}); https would hide them on the way",
                need.origin
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, accuracy: f64, states: &[&str]) -> BoardRow {
        let goal = |s: &&str| GoalResult {
            metric: "m".into(),
            want: String::new(),
            got: None,
            state: (*s).into(),
            why: None,
        };
        BoardRow {
            candidate: name.into(),
            metrics: [("accuracy".to_owned(), accuracy)].into(),
            goals: states.iter().map(goal).collect(),
            ..BoardRow::default()
        }
    }

    #[test]
    fn the_candidate_that_passes_most_goals_is_held_against_them() {
        let mut board = Board { primary: "accuracy".into(), ..Board::default() };
        assert!(best(&board).is_none());
        board.rows = vec![
            row("accurate", 0.9, &["pass", "fail"]),
            row("both", 0.7, &["pass", "pass"]),
            row("better both", 0.8, &["pass", "pass"]),
        ];
        assert_eq!(best(&board).unwrap().candidate.unwrap(), "better both");
    }
}
