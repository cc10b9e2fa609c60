//! Following a run from the command line: a bar on a terminal, plain lines otherwise.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::ask::{ask, connect, unexpected};
use super::output::{Exit, Output};
use super::table::{clean, duration, figures, number};
use crate::domain::api::{Push, Request, Response, View};
use crate::domain::event::{Event, EventBody};
use crate::domain::run::{Progress, RunRecord, RunState};
use crate::domain::steer::told;
use crate::domain::words::noun;
use crate::engine::client::Client;

/// Least time between two plain lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Exit code after Ctrl-C, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// How the following ended.
#[derive(Debug)]
pub enum Followed {
    Ended(Box<RunRecord>),
    /// Ctrl-C: the run goes on without us.
    Detached,
}

/// Show a run's progress on stderr until it ends or Ctrl-C detaches. Outlives engines.
pub async fn follow(mut client: Client, root: &Path, run: &str, out: &Output) -> Result<Followed, Exit> {
    let mut show = Show::new(out, run, out.stderr_is_terminal());
    let mut after = 0;
    'connected: loop {
        client.follow(View::Run { run: run.to_owned(), after }).await?;
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {
                    show.finish();
                    out.say(&format!("detached; {run} goes on (`tunebench runs show {run}`)"));
                    return Ok(Followed::Detached);
                }
                push = client.push() => match push {
                    None => {
                        show.line("the engine ended; connecting again");
                        client = connect(root).await?;
                        continue 'connected;
                    }
                    // A client may follow other things as well, or have followed another run before.
                    Some(Push::Events { run: of, events }) if of == run => {
                        for event in &events {
                            after = after.max(event.seq);
                            show.event(event);
                        }
                    }
                    Some(Push::RunChanged { run: record }) if record.run == run => {
                        show.record(&record);
                        if record.state.is_final() {
                            show.finish();
                            return Ok(Followed::Ended(Box::new(record)));
                        }
                    }
                    Some(_) => {}
                },
            }
        }
    }
}

/// What is drawn.
pub(super) struct Show<'a> {
    out: &'a Output,
    bar: Option<ProgressBar>,
    run: String,
    state: Option<RunState>,
    message: Option<String>,
    phase: String,
    loss: Option<f64>,
    progress: Option<Progress>,
    last_line: Option<Instant>,
}

impl<'a> Show<'a> {
    /// With a bar, or by lines.
    pub(super) fn new(out: &'a Output, run: &str, bar: bool) -> Self {
        let bar = bar.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {msg:22} [{wide_bar}] {pos}/{len} {eta}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(run.to_owned());
            bar
        });
        Self {
            out,
            bar,
            run: run.to_owned(),
            state: None,
            message: None,
            phase: String::new(),
            loss: None,
            progress: None,
            last_line: None,
        }
    }

    fn line(&self, text: &str) {
        let text = format!("{}: {}", self.run, clean(text));
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.say(&text)),
            None => self.out.say(&text),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub(super) fn record(&mut self, record: &RunRecord) {
        if self.state != Some(record.state) || self.message != record.message {
            let said = record.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
            self.line(&format!("{}{said}", record.state));
            self.state = Some(record.state);
            self.message.clone_from(&record.message);
        }
    }

    fn show(&mut self, progress: Progress) {
        let Progress { phase, done, total, eta_ms } = self.progress.insert(progress).clone();
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(match self.loss {
                Some(loss) if phase == "train" => format!("train loss {}", number(loss)),
                _ => clean(&phase),
            });
            return;
        }
        let due = self.phase != phase
            || done == total
            || self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if due {
            phase.clone_into(&mut self.phase);
            self.last_line = Some(Instant::now());
            let loss = self
                .loss
                .filter(|_| phase == "train")
                .map(|l| format!(", loss {}", number(l)))
                .unwrap_or_default();
            let eta = eta_ms.filter(|_| done < total).map(|e| format!(", {} left", duration(e)));
            self.line(&format!("{phase} {done}/{total}{loss}{}", eta.unwrap_or_default()));
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        match &event.body {
            EventBody::Progress { phase, done, total, eta_ms } => {
                self.show(Progress { phase: phase.clone(), done: *done, total: *total, eta_ms: *eta_ms });
            }
            EventBody::Step { step, total, loss, ms, .. } => {
                self.loss = Some(*loss);
                let progress = Progress::after_step(self.progress.as_ref(), *step, *total, *ms);
                self.show(progress);
            }
            EventBody::Eval { step, loss, metrics } => {
                let metrics: String = metrics.iter().map(|(n, v)| format!(" {n} {}", number(*v))).collect();
                match loss {
                    Some(loss) => self.line(&format!("step {step}: dev loss {}{metrics}", number(*loss))),
                    // An evaluation's own figures on the way.
                    None => self.line(&format!("after {step} {}:{metrics}", noun(*step as usize, "row"))),
                }
            }
            EventBody::Preflight(preflight) => self.line(&preflight.line()),
            EventBody::Log { message } => self.line(message),
            EventBody::Warning { message } => self.line(&format!("warning: {message}")),
            EventBody::Change { step, change, refused } => self.line(&told(*step, change, refused.as_deref())),
            EventBody::Finding { step, holds: true, finding } => {
                self.line(&format!(
                    "doctor, step {step}: {}: {}; {}",
                    finding.rule, finding.evidence, finding.advice
                ));
            }
            EventBody::Finding { step, finding, .. } => {
                self.line(&format!("doctor, step {step}: no longer {}", finding.rule));
            }
            EventBody::Prompt(news) => {
                if let Some(line) = news.line() {
                    self.line(&line);
                }
            }
            EventBody::State { .. }
            | EventBody::Sample { .. }
            // Its log says the same in words.
            | EventBody::Trajectory(_)
            | EventBody::Figures { .. }
            | EventBody::Checkpoint { .. } => {}
        }
    }
}

/// Print the end of a followed run; the command's exit code.
pub fn finish(followed: &Followed, out: &Output) -> ExitCode {
    let Followed::Ended(run) = followed else { return ExitCode::from(INTERRUPTED) };
    result(run, out);
    if run.state.has_result() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The result of a run: `run, state, metrics, candidate`.
pub fn result(run: &RunRecord, out: &Output) {
    let mut value = json!({
        "run": run.run,
        "state": run.state,
        "metrics": run.metrics,
        "candidate": run.candidate,
    });
    if let (Some(message), Some(object)) = (&run.message, value.as_object_mut()) {
        object.insert("message".into(), json!(message));
    }
    out.result(&value, || {
        let took = run.ended_ms.and_then(|end| run.took_ms(end));
        let took = took.map_or_else(String::new, |took| format!(" in {}", duration(took)));
        let candidate =
            run.candidate.as_ref().map(|c| format!("\n  candidate {}", clean(c))).unwrap_or_default();
        let figures = figures(run, 12);
        let figures = if figures.is_empty() { figures } else { format!("\n  {figures}") };
        let message = run.message.as_ref().map(|m| format!("\n  {}", clean(m))).unwrap_or_default();
        format!("{} {}{took}{candidate}{figures}{message}", run.run, run.state)
    });
}

/// A run's record, asked for again.
pub async fn fresh(client: &Client, run: &str) -> Result<RunRecord, Exit> {
    match ask(client, Request::Run { run: run.to_owned() }).await? {
        Response::Run { run } => Ok(run),
        _ => Err(unexpected()),
    }
}
