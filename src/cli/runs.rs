//! `tunebench runs`: list, show and steer runs.

use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;

use super::ask::{ask, ask_with_keys, block_on, connect, once, unexpected};
use super::judge::pairwise;
use super::output::{Exit, Output};
use super::table::{Table, clean, duration, figures, number};
use crate::domain::api::{Request, Response};
use crate::domain::event::{Event, EventBody};
use crate::domain::keys::Keys;
use crate::domain::prompt::PromptNews;
use crate::domain::run::{RunAction, RunKind, RunRecord};
use crate::domain::steer::{Change, told};
use crate::worker::folder::now_ms;

/// Last events that `show` prints.
const SHOWN_EVENTS: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    List,
    Show,
    Pause,
    Resume,
    Checkpoint,
    Stop,
    Cancel,
    /// Change a run while it runs. A training: learning_rate=1e-4, learning_rate=x0.3, weight:STRATUM=2. A prompt run: hint=TEXT,
    /// pin=WORDS, kill=v7, budget.calls=8000 (tokens, usd, seconds), lesson:v7=TEXT
    Steer,
    /// A row through the stages: prompts, answers, tools, tokens, time
    Trace,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do with it
    #[arg(value_enum, default_value = "list")]
    what: What,
    /// The run (the start of its name is enough where only one begins so); with `trace` a candidate's name does as well
    run: Option<String>,
    /// With `steer`: the changes, such as learning_rate=1e-4 or hint="refunds go to billing"; with `trace`: the row's id
    changes: Vec<String>,
    /// With `resume`: send the keys that the run needs to the endpoints that it needs them for, without being asked
    #[arg(long)]
    trust: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let needs_run = || args.run.clone().ok_or_else(|| Exit::usage("which run? `tunebench runs` lists them"));
    if !matches!(args.what, What::Steer | What::Trace) && !args.changes.is_empty() {
        return Err(Exit::usage(format!(
            "`{}`: only `runs steer RUN` takes changes",
            args.changes.join(" ")
        )));
    }
    let action = match args.what {
        What::List => return list(root, out),
        What::Trace => {
            let [row] = args.changes.as_slice() else {
                return Err(Exit::usage("which row? `tunebench runs trace RUN ROW`"));
            };
            return trace(root, needs_run()?, row.clone(), out);
        }
        What::Show => return show(root, needs_run()?, out),
        What::Pause => RunAction::Pause,
        What::Resume => RunAction::Resume,
        What::Checkpoint => RunAction::Checkpoint,
        What::Stop => RunAction::Stop,
        What::Cancel => RunAction::Cancel,
        What::Steer => {
            let changes: Vec<Change> =
                args.changes.iter().map(|c| c.parse()).collect::<Result<_, String>>().map_err(Exit::usage)?;
            let run = needs_run()?;
            return tell(root, &run, Request::Steer { run: run.clone(), changes }, false, out);
        }
    };
    let run = needs_run()?;
    tell(root, &run, Request::Control { run: run.clone(), action, keys: Keys::default() }, args.trust, out)
}

/// Ask something of a run, and say what came of it.
fn tell(root: &Path, run: &str, mut request: Request, agreed: bool, out: &Output) -> super::CommandResult {
    block_on(async {
        let client = connect(root).await?;
        let done = match request.keys_mut() {
            Some(_) => ask_with_keys(&client, root, request, agreed).await?,
            None => ask(&client, request).await?,
        };
        let Response::Done { message } = done else { return Err(unexpected()) };
        let record = super::follow::fresh(&client, run).await?;
        out.result(&record, || clean(&message));
        Ok(ExitCode::SUCCESS)
    })
}

fn list(root: &Path, out: &Output) -> super::CommandResult {
    let Response::Runs { mut runs } = once(root, Request::Runs)? else { return Err(unexpected()) };
    runs.reverse();
    out.result(&serde_json::json!({ "runs": runs }), || {
        if runs.is_empty() {
            return "no runs yet; `tunebench run eval` takes a baseline".into();
        }
        let mut table = Table::new(&["run", "state", ">age", ">took", "progress", "candidate", "figures"]);
        for run in &runs {
            let took = run.took_ms(now_ms()).map(duration);
            let progress = run.progress.as_ref().filter(|_| !run.state.is_final());
            let progress = progress.map(|p| format!("{} {}/{}", p.phase, p.done, p.total));
            let message = run.message.as_ref().filter(|_| !run.state.has_result());
            table.row(vec![
                run.run.clone(),
                run.state.to_string(),
                duration(now_ms().saturating_sub(run.created_ms)),
                took.unwrap_or_default(),
                progress.unwrap_or_default(),
                run.candidate.clone().unwrap_or_default(),
                match message {
                    Some(message) => message.chars().take(60).collect(),
                    None => figures(run, 3),
                },
            ]);
        }
        table.render()
    });
    Ok(ExitCode::SUCCESS)
}

fn show(root: &Path, run: String, out: &Output) -> super::CommandResult {
    let (record, events, pairwise) = block_on(async {
        let client = connect(root).await?;
        let Response::Run { run: record } = ask(&client, Request::Run { run }).await? else {
            return Err(unexpected());
        };
        let request = Request::Events {
            run: record.run.clone(),
            after: record.last_seq.saturating_sub(SHOWN_EVENTS),
            limit: SHOWN_EVENTS as usize,
        };
        let Response::Events { events, .. } = ask(&client, request).await? else {
            return Err(unexpected());
        };
        let judged = record.kind == RunKind::Judge && record.state.has_result();
        let pairwise = if judged { Some(pairwise::of_run(&client, &record.run).await?) } else { None };
        Ok((record, events, pairwise))
    })?;
    match pairwise {
        Some(found) => out.result(&pairwise::with(&record, &found)?, || {
            format!("{}\n{}", describe(&record, &events).trim_end(), pairwise::render(&found))
        }),
        None => out.result(&record, || describe(&record, &events)),
    }
    Ok(ExitCode::SUCCESS)
}

fn trace(root: &Path, of: String, row: String, out: &Output) -> super::CommandResult {
    let Response::Trace { run, trace } = once(root, Request::Trace { of, row })? else {
        return Err(unexpected());
    };
    out.result(&serde_json::json!({ "run": run, "row": trace.row, "stages": trace.stages }), || {
        let mut text = format!("row {} in {run}", clean(&trace.row));
        for stage in &trace.stages {
            text.push_str(&format!("\n\n== {}", clean(&stage.stage)));
            if stage.skipped {
                text.push_str(" (skipped: its `when` does not hold)");
                continue;
            }
            let mut say = |name: &str, value: &str| {
                let value = value.lines().map(clean).collect::<Vec<_>>().join("\n           ");
                text.push_str(&format!("\n  {name:8} {value}"));
            };
            say("prompt", &stage.prompt);
            for (i, attempt) in stage.attempts.iter().enumerate() {
                let cached = if attempt.cached { ", cached" } else { "" };
                if i > 0 && i + 1 == stage.attempts.len() && stage.left_out > 0 {
                    say("", &format!("({} more tries are left out)", stage.left_out));
                }
                say("answer", &attempt.answer);
                say(
                    "",
                    &format!(
                        "{} tokens in, {} out, {} ms{cached}",
                        attempt.tokens_in,
                        attempt.tokens_out,
                        number(attempt.ms)
                    ),
                );
                if let Some(problem) = &attempt.problem {
                    say("problem", problem);
                }
            }
            say("output", &stage.output);
            if let Some(result) = &stage.result {
                say("result", &result.to_string());
            }
            if let Some(error) = &stage.error {
                say("error", error);
            }
        }
        text
    });
    Ok(ExitCode::SUCCESS)
}

fn describe(run: &RunRecord, events: &[Event]) -> String {
    let mut lines = vec![format!("{}  {}  {}", run.run, run.kind, run.state)];
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            lines.push(format!("  {name:10} {}", clean(&value)));
        }
    };
    say("said", run.message.clone());
    say("candidate", run.candidate.clone());
    let set: Vec<String> = run.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
    say("settings", Some(set.join(" ")));
    say("from", run.from.as_ref().map(ToString::to_string));
    let progress = run.progress.as_ref().filter(|_| !run.state.is_final());
    say("progress", progress.map(|p| format!("{} {}/{}", p.phase, p.done, p.total)));
    say("figures", Some(figures(run, 20)));
    say("took", run.took_ms(now_ms()).map(duration));
    for finding in &run.findings {
        say("doctor", Some(format!("{}: {}; {}", finding.rule, finding.evidence, finding.advice)));
    }
    if run.resumable {
        say("next", Some(format!("`tunebench runs resume {}` goes on with it", run.run)));
    }
    if !events.is_empty() {
        lines.push("last events:".into());
        lines.extend(events.iter().map(|e| format!("  {:>6}  {}", e.seq, clean(&summary(&e.body)))));
    }
    lines.join("\n")
}

fn summary(body: &EventBody) -> String {
    match body {
        EventBody::State { state, message } => {
            format!("{state} {}", message.as_deref().unwrap_or_default())
        }
        EventBody::Progress { phase, done, total, .. } => format!("{phase} {done}/{total}"),
        EventBody::Step { step, total, loss, .. } => format!("step {step}/{total} loss {}", number(*loss)),
        EventBody::Eval { step, loss, .. } => {
            format!(
                "evaluation at step {step} {}",
                loss.map(|l| format!("loss {}", number(l))).unwrap_or_default()
            )
        }
        EventBody::Sample { row, output, .. } => format!("{row}: {output}"),
        EventBody::Prompt(PromptNews::Version { version }) => {
            format!("{}: {} ({})", version.id, version.edit, version.proposer)
        }
        EventBody::Prompt(news) => news.line().unwrap_or_default(),
        EventBody::Trajectory(news) => news.line(),
        EventBody::Preflight(preflight) => preflight.line(),
        EventBody::Figures { metrics } => metrics
            .iter()
            .map(|(name, value)| format!("{name} {}", number(*value)))
            .collect::<Vec<_>>()
            .join("  "),
        EventBody::Log { message } => message.clone(),
        EventBody::Warning { message } => format!("warning: {message}"),
        EventBody::Change { step, change, refused } => {
            format!("changed at {}", told(*step, change, refused.as_deref()))
        }
        EventBody::Finding { step, holds, finding } => {
            let words = if *holds { finding.evidence.as_str() } else { "no longer" };
            format!("doctor at step {step}: {}: {words}", finding.rule)
        }
        EventBody::Checkpoint { step, best, .. } => {
            format!("checkpoint at step {step}{}", if *best { " (best)" } else { "" })
        }
    }
}
