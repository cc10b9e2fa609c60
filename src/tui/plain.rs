//! `--plain`: lines instead of screens, for screen readers and logs.
//!
//! First what stands (strata, board, runs), then what happens, line by line. Ends when nothing is under way; on a terminal only on Ctrl-C or Ctrl-D.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::screens::short_key;
use super::widgets::{number, text};
use crate::domain::api::{FromEngine, Push, ToEngine, View};
use crate::domain::board::{Board, BoardRow, StrataView};
use crate::domain::event::{Event, EventBody};
use crate::domain::run::RunRecord;
use crate::domain::steer::told;
use crate::domain::trilemma::Pareto;
use crate::domain::words::{counted, noun};

/// What was printed already, so that only news are.
#[derive(Debug, Default)]
pub struct Plain {
    runs: BTreeMap<String, RunRecord>,
    seq: BTreeMap<String, u64>,
    strata: Option<StrataView>,
    board: Option<Board>,
    told_runs: bool,
    steps: BTreeMap<String, u64>,
}

impl Plain {
    /// Lines for a piece of news, and what to follow from now on.
    pub fn take(&mut self, news: FromEngine) -> (Vec<String>, Vec<View>) {
        let mut lines = Vec::new();
        let mut follow = Vec::new();
        match news {
            FromEngine::Connected { status } => {
                lines.push(format!("workspace {} on {}", status.workspace, status.device));
                lines.extend(status.notices.iter().map(|n| format!("notice: {n}")));
                follow.extend([View::Strata, View::Board, View::Runs, View::Files]);
                let under_way = self.runs.values().filter(|r| !r.state.is_final());
                follow.extend(under_way.map(|r| View::Run {
                    run: r.run.clone(),
                    after: self.seq.get(&r.run).copied().unwrap_or(0),
                }));
            }
            FromEngine::Lost { reason } => {
                lines.push(format!("no connection to the engine, trying again: {reason}"));
            }
            FromEngine::Answer { .. } => {}
            FromEngine::Push { push } => match push {
                Push::Strata { view } => {
                    if self.strata.as_ref() != Some(&view) {
                        lines.extend(strata(&view));
                        self.strata = Some(view);
                    }
                }
                Push::Board { board: new } => {
                    if self.board.as_ref() != Some(&new) {
                        lines.extend(board(&new));
                        self.board = Some(new);
                    }
                }
                Push::BoardRows { board: news } => {
                    let known = self.board.get_or_insert_default();
                    lines.extend(news.rows.iter().map(candidate));
                    if known.ladder != news.ladder {
                        lines.extend(ladder(&news));
                    }
                    known.merge(news);
                }
                // Nothing is asked here.
                Push::Play { .. } => {}
                Push::Files { news } => lines.extend(news.into_iter().map(|n| n.text)),
                Push::Runs { runs } => {
                    self.told_runs = true;
                    for run in runs.into_iter().rev() {
                        self.run(run, &mut lines, &mut follow);
                    }
                }
                Push::RunChanged { run } => self.run(run, &mut lines, &mut follow),
                Push::Events { run, events } => {
                    for event in events {
                        let seen = self.seq.entry(run.clone()).or_default();
                        if event.seq > *seen {
                            *seen = event.seq;
                            lines.extend(self.event(&run, event));
                        }
                    }
                }
            },
        }
        (lines.iter().map(|l| text::one_line(l, " ")).collect(), follow)
    }

    fn run(&mut self, run: RunRecord, lines: &mut Vec<String>, follow: &mut Vec<View>) {
        let before = self.runs.get(&run.run).map(|r| r.state);
        if before != Some(run.state) {
            let mut line = format!("run {} ({}): {}", run.run, run.kind, run.state);
            for (key, value) in &run.settings {
                line.push_str(&format!(", {} {value}", short_key(key)));
            }
            for (name, value) in &run.metrics {
                line.push_str(&format!(", {name} {}", number::short(*value)));
            }
            if let Some(message) = &run.message {
                line.push_str(&format!(": {message}"));
            }
            lines.push(line);
            if before.is_none() && !run.state.is_final() {
                follow.push(View::Run { run: run.run.clone(), after: run.last_seq });
            }
        }
        self.runs.insert(run.run.clone(), run);
    }

    fn event(&mut self, run: &str, event: Event) -> Option<String> {
        match event.body {
            EventBody::Step { step, total, loss, .. } => {
                // One line in twenty says how it goes; all steps are in the run's folder.
                let every = (total / 20).max(1);
                let last = self.steps.entry(run.to_owned()).or_default();
                let due = step == total || step / every > *last / every;
                *last = step;
                due.then(|| format!("{run} step {step} of {total}: loss {}", number::short(loss)))
            }
            EventBody::Eval { step, loss, metrics } => {
                let mut line = format!("{run} evaluation at step {step}");
                line.extend(loss.map(|l| format!(", loss {}", number::short(l))));
                line.extend(metrics.iter().map(|(k, v)| format!(", {k} {}", number::short(*v))));
                Some(line)
            }
            EventBody::Prompt(news) => news.line().map(|line| format!("{run} {line}")),
            EventBody::Sample { step, row, output, gold, correct, ended: _ } => {
                let verdict = match correct {
                    Some(true) => "right",
                    Some(false) => "wrong",
                    None => "not judged",
                };
                let gold = gold.map_or(String::new(), |g| format!(", gold {g}"));
                Some(format!("{run} step {step} row {row}: {output} ({verdict}{gold})"))
            }
            EventBody::Preflight(preflight) => Some(format!("{run} {}", preflight.line())),
            EventBody::Log { message } => Some(format!("{run}: {message}")),
            EventBody::Warning { message } => Some(format!("{run} warning: {message}")),
            EventBody::Change { step, change, refused } => {
                Some(format!("{run} {}", told(step, &change, refused.as_deref())))
            }
            EventBody::Finding { step, holds, finding } => Some(if holds {
                format!(
                    "{run} doctor at step {step}: {}: {}; {}",
                    finding.rule, finding.evidence, finding.advice
                )
            } else {
                format!("{run} doctor at step {step}: no longer {}", finding.rule)
            }),
            EventBody::Checkpoint { step, best, .. } => Some(format!(
                "{run} checkpoint at step {step}{}",
                if best { ", the best so far" } else { "" }
            )),
            EventBody::State { .. }
            | EventBody::Progress { .. }
            | EventBody::Trajectory(_)
            | EventBody::Figures { .. } => None,
        }
    }

    /// Everything was told, and nothing is under way.
    pub fn at_rest(&self) -> bool {
        self.told_runs
            && self.strata.is_some()
            && self.board.is_some()
            // What stays and answers has no end of its own.
            && self.runs.values().all(|r| r.state.is_final() || r.kind.is_resident())
    }
}

fn strata(view: &StrataView) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {}, {}, {} quarantined",
        number::count(view.rows),
        noun(view.rows, "row"),
        counted(view.strata.len(), "stratum"),
        view.quarantined
    )];
    for s in &view.strata {
        let score = |name: &str, v: Option<f64>| {
            v.map_or(String::new(), |v| format!(", {name} {}", number::short(v)))
        };
        lines.push(format!(
            "stratum {}: {}{}{}",
            s.name,
            counted(s.rows, "row"),
            score("base", s.base),
            score("best", s.best)
        ));
    }
    lines
}

fn board(board: &Board) -> Vec<String> {
    let mut lines = vec![format!(
        "board: {} on {}",
        counted(board.total.max(board.rows.len()), "candidate"),
        counted(board.eval_rows, "eval row")
    )];
    lines.extend(board.rows.iter().map(candidate));
    lines.extend(ladder(board));
    lines
}

fn candidate(row: &BoardRow) -> String {
    let mut line = format!("candidate {} ({}), {}", row.candidate, row.rung, counted(row.n, "row"));
    line.extend(row.metrics.iter().map(|(k, v)| format!(", {k} {}", number::short(*v))));
    line.extend(
        row.latency_ms
            .map(|l| format!(", latency p50 {}, p95 {}", number::millis(l.p50), number::millis(l.p95))),
    );
    let t = &row.trilemma;
    line.extend(t.ttft_ms.map(|l| format!(", first token p50 {}", number::millis(l.p50))));
    line.extend(row.usd_per_1k.map(|usd| format!(", {} $ per 1,000", number::short(usd))));
    line.extend(
        t.goodput.map(|g| format!(", right and within {} {} of {}", number::millis(g.limit_ms), g.good, g.n)),
    );
    line.extend(row.goals.iter().map(|g| format!(", goal {} {} {}", g.metric, g.want, g.state)));
    match &t.pareto {
        Pareto::Front => line.push_str(", dominated by nobody"),
        Pareto::Dominated { by } => line.push_str(&format!(", dominated by {by}")),
        Pareto::Open { .. } => {}
    }
    line.extend(t.break_even.iter().map(|b| format!(", training {}", b.note)));
    line.extend(row.remarks().into_iter().map(|r| format!(", {r}")));
    line
}

/// Every rung with what it added, then the advice with its reasons.
fn ladder(board: &Board) -> Vec<String> {
    crate::score::ladder::lines(&board.ladder).into_iter().map(|line| format!("ladder: {line}")).collect()
}

/// Prints until nothing is under way.
///
/// # Errors
/// None by itself: a closed pipe ends it quietly.
pub async fn run(
    to_engine: UnboundedSender<ToEngine>,
    mut from_engine: UnboundedReceiver<FromEngine>,
) -> anyhow::Result<()> {
    let mut plain = Plain::default();
    let stay = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut leave = std::pin::pin!(super::signals()?);
    use futures_util::StreamExt as _;
    loop {
        let news = tokio::select! {
            biased;
            signal = leave.next() => match signal {
                Some(super::event_loop::Signal::Continued) => continue,
                _ => return Ok(()),
            },
            news = from_engine.recv() => match news {
                Some(news) => news,
                None => return Ok(()),
            },
        };
        let (lines, follow) = plain.take(news);
        let mut out = std::io::stdout().lock();
        for line in lines {
            if writeln!(out, "{line}").is_err() {
                return Ok(());
            }
        }
        if out.flush().is_err() {
            return Ok(());
        }
        for view in follow {
            let _ = to_engine.send(ToEngine::Follow { view });
        }
        if plain.at_rest() && !stay {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::{RunKind, RunState};
    use crate::tui::sample;

    #[test]
    fn lines_tell_what_stands_then_what_happens_and_end_at_rest() {
        let mut plain = Plain::default();
        let (lines, follow) = plain.take(FromEngine::Connected { status: sample::status() });
        assert_eq!(lines, ["workspace support-router on CPU, 2 threads"]);
        for view in follow {
            let (lines, _) = plain.take(FromEngine::Push { push: sample::snapshot(&view) });
            // Of the files only those that cannot be used are told at first, and all can.
            assert_eq!(lines.is_empty(), view == View::Files);
            let (again, _) = plain.take(FromEngine::Push { push: sample::snapshot(&view) });
            assert!(again.is_empty(), "told twice: {again:?}");
        }
        assert!(!plain.at_rest());
        let events = sample::training(200, 1000);
        let (lines, _) =
            plain.take(FromEngine::Push { push: Push::Events { run: "lora-12".into(), events } });
        assert_eq!(
            lines.iter().filter(|l| l.contains(" step ") && l.contains(" of 1000")).count(),
            4,
            "{lines:#?}"
        );
        let mut run = sample::run("lora-12", RunKind::Train, RunState::Failed);
        run.message = Some("out of memory\u{1b}[2J\nat step 3".into());
        let (lines, _) = plain.take(FromEngine::Push { push: Push::RunChanged { run } });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("out of memory at step 3"), "{lines:?}");
        assert!(plain.at_rest());
    }
}
