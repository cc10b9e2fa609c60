//! What the screens know of one run, gathered from its events.

use std::collections::BTreeMap;

use crate::domain::event::{Event, EventBody};
use crate::domain::prompt::PromptNews;
use crate::domain::run::{Progress, RunState};
use crate::domain::steer::{Change, told};
use crate::domain::trajectory::{Measured, Searching, TrajectoryNews};
use crate::tui::screens::prompts::race::Climb;

/// One optimizer step on the curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPoint {
    pub step: u64,
    /// The event that told of it: its rows are fetched from there when somebody asks.
    pub seq: u64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    pub tokens: u64,
    pub trained_tokens: u64,
    pub ms: f64,
    pub epoch: f64,
}

/// An evaluation in mid-run.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalPoint {
    pub step: u64,
    pub loss: Option<f64>,
    pub metrics: BTreeMap<String, f64>,
}

/// What the model said on a fixed row.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplePoint {
    pub step: u64,
    pub output: String,
    pub correct: Option<bool>,
}

/// How loud a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Warning,
}

/// A run's curve, evaluations, fixed rows, log.
#[derive(Clone, Debug, Default)]
pub struct RunSeries {
    /// Highest event known.
    pub last_seq: u64,
    /// Steps that the run will take in all, as last told.
    pub total: u64,
    pub steps: Vec<StepPoint>,
    pub evals: Vec<EvalPoint>,
    /// By row: its gold, and what was said on it, oldest first.
    pub samples: BTreeMap<String, (Option<String>, Vec<SamplePoint>)>,
    pub checkpoints: Vec<(u64, bool)>,
    /// What was changed in mid-run, and the first step with it.
    pub changes: Vec<(u64, Change)>,
    pub log: Vec<(u64, Tone, String)>,
    pub state: Option<RunState>,
    pub progress: Option<Progress>,
    /// Of a prompt run.
    pub climb: Climb,
    /// Of a run that looks for examples: where the search stands, and what was measured with and without.
    pub searching: Option<Searching>,
    pub curve: Vec<Measured>,
    pub ablation: Vec<Measured>,
    pub without: Option<Measured>,
}

impl RunSeries {
    /// Lines of the log kept; older ones are in the run's folder.
    const LOG_LINES: usize = 500;

    /// Events in order. What was seen already is skipped, so that a snapshot may overlap.
    pub fn push(&mut self, events: Vec<Event>) {
        for event in events {
            if event.seq > self.last_seq {
                self.last_seq = event.seq;
                self.one(event);
            }
        }
    }

    fn say(&mut self, t_ms: u64, tone: Tone, text: String) {
        self.log.push((t_ms, tone, text));
        if self.log.len() > 2 * Self::LOG_LINES {
            self.log.drain(..Self::LOG_LINES);
        }
    }

    fn one(&mut self, event: Event) {
        let (seq, t_ms) = (event.seq, event.t_ms);
        match event.body {
            EventBody::State { state, message } => {
                self.state = Some(state);
                let text = message.map_or_else(|| state.to_string(), |m| format!("{state}: {m}"));
                let tone = if matches!(state, RunState::Failed | RunState::Interrupted) {
                    Tone::Warning
                } else {
                    Tone::Plain
                };
                self.say(t_ms, tone, text);
            }
            EventBody::Progress { phase, done, total, eta_ms } => {
                self.progress = Some(Progress { phase, done, total, eta_ms });
            }
            EventBody::Step {
                step,
                total,
                epoch,
                loss,
                lr,
                grad_norm,
                tokens,
                trained_tokens,
                ms,
                rows: _,
                padding: _,
                wait_ms: _,
                losses: _,
            } => {
                // A resumed run takes some steps again, from its checkpoint on: the new ones replace the old.
                self.rewind(step);
                self.total = total;
                self.steps.push(StepPoint {
                    step,
                    seq,
                    loss,
                    lr,
                    grad_norm,
                    tokens,
                    trained_tokens,
                    ms,
                    epoch,
                });
            }
            EventBody::Eval { step, loss, metrics } => {
                self.evals.retain(|e| e.step < step);
                self.evals.push(EvalPoint { step, loss, metrics });
            }
            EventBody::Prompt(news) => {
                // The race is drawn; its rounds would fill the log.
                if let Some(line) = news.line().filter(|_| !matches!(news, PromptNews::Race { .. })) {
                    self.say(t_ms, Tone::Plain, line);
                }
                self.climb.hear(news);
            }
            EventBody::Trajectory(TrajectoryNews::Searching(searching)) => self.searching = Some(searching),
            EventBody::Trajectory(TrajectoryNews::Measured { measured, without, ablation: false }) => {
                // A resumed run tells again what it had measured.
                self.curve.retain(|m| (&m.store, m.shots) != (&measured.store, measured.shots));
                self.curve.push(measured);
                self.without = Some(without);
            }
            EventBody::Trajectory(TrajectoryNews::Measured { measured, .. }) => {
                self.ablation.retain(|m| (&m.store, m.shots) != (&measured.store, measured.shots));
                self.ablation.push(measured);
            }
            EventBody::Sample { step, row, output, gold, correct, ended: _ } => {
                let (known, said) = self.samples.entry(row).or_default();
                *known = gold.or(known.take());
                said.retain(|s| s.step < step);
                said.push(SamplePoint { step, output, correct });
            }
            EventBody::Preflight(preflight) => self.say(t_ms, Tone::Plain, preflight.line()),
            EventBody::Change { step, change, refused: Some(why) } => {
                self.say(t_ms, Tone::Warning, told(step, &change, Some(&why)));
            }
            EventBody::Change { step, change, refused: None } => {
                // A resumed run does not tell again of a change that it makes again.
                if !self.changes.contains(&(step, change.clone())) {
                    self.say(t_ms, Tone::Plain, told(step, &change, None));
                    self.changes.push((step, change));
                }
            }
            EventBody::Finding { step, holds, finding } => {
                let (tone, text) = if holds {
                    (Tone::Warning, format!("doctor, step {step}: {}: {}", finding.rule, finding.evidence))
                } else {
                    (Tone::Plain, format!("doctor, step {step}: no longer {}", finding.rule))
                };
                self.say(t_ms, tone, text);
            }
            // They stand in the record.
            EventBody::Figures { .. } => {}
            EventBody::Log { message } => self.say(t_ms, Tone::Plain, message),
            EventBody::Warning { message } => self.say(t_ms, Tone::Warning, message),
            EventBody::Checkpoint { step, path: _, best } => {
                self.checkpoints.retain(|(s, _)| *s < step);
                self.checkpoints.push((step, best));
                self.say(
                    t_ms,
                    Tone::Plain,
                    format!("checkpoint at step {step}{}", if best { ", the best so far" } else { "" }),
                );
            }
        }
    }

    fn rewind(&mut self, step: u64) {
        if self.steps.last().is_some_and(|s| s.step >= step) {
            self.steps.truncate(self.steps.partition_point(|s| s.step < step));
            self.evals.retain(|e| e.step < step);
            for (_, said) in self.samples.values_mut() {
                said.retain(|s| s.step < step);
            }
        }
    }

    /// The step at or before `step`.
    pub fn at(&self, step: u64) -> Option<&StepPoint> {
        self.steps[..self.steps.partition_point(|s| s.step <= step)].last()
    }

    /// Tokens per second over the last ten steps up to `step`.
    pub fn tokens_per_second(&self, step: u64) -> Option<f64> {
        let until = self.steps.partition_point(|s| s.step <= step);
        let last = &self.steps[until.saturating_sub(10)..until];
        let ms: f64 = last.iter().map(|s| s.ms).sum();
        (ms > 0.0).then(|| last.iter().map(|s| s.tokens as f64).sum::<f64>() / ms * 1000.0)
    }

    /// Milliseconds until the last step, by the mean of the last twenty.
    pub fn eta_ms(&self) -> Option<u64> {
        if let Some(eta) = self.progress.as_ref().and_then(|p| p.eta_ms) {
            return Some(eta);
        }
        let last = &self.steps[self.steps.len().saturating_sub(20)..];
        let step = last.last()?.step;
        let mean = last.iter().map(|s| s.ms).sum::<f64>() / last.len() as f64;
        Some((mean * self.total.saturating_sub(step) as f64) as u64)
    }

    /// What goes well, in words. What does not is the doctor's to say.
    pub fn going_well(&self) -> Vec<String> {
        let mut well = Vec::new();
        let losses: Vec<f64> = self.evals.iter().filter_map(|e| e.loss).collect();
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        if losses.len() >= 2 && losses.last() == Some(&best) {
            well.push("eval follows: the last one is the best".to_owned());
        }
        let n = self.steps.len();
        if n >= 20 {
            let mean = |s: &[StepPoint]| s.iter().map(|s| s.loss).sum::<f64>() / s.len() as f64;
            if mean(&self.steps[n - n / 4..]) < mean(&self.steps[..n / 4]) {
                well.push("the loss falls".to_owned());
            }
        }
        well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seq: u64, step: u64, loss: f64) -> Event {
        let body = EventBody::Step {
            step,
            total: 100,
            epoch: 0.1,
            loss,
            lr: 1e-4,
            grad_norm: 1.0,
            tokens: 500,
            trained_tokens: 50,
            padding: 0,
            ms: 100.0,
            wait_ms: 0.0,
            rows: vec![],
            losses: vec![],
        };
        Event { seq, t_ms: 0, body }
    }

    #[test]
    fn overlapping_snapshots_count_once() {
        let mut s = RunSeries::default();
        s.push((1..=5).map(|i| step(i, i, 1.0)).collect());
        s.push((3..=7).map(|i| step(i, i, 2.0)).collect());
        assert_eq!(
            s.steps.iter().map(|p| (p.step, p.loss as u64)).collect::<Vec<_>>(),
            [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2)]
        );
    }

    #[test]
    fn steps_taken_again_after_a_resume_replace_the_old_ones() {
        let mut s = RunSeries::default();
        s.push((1..=6).map(|i| step(i, i, 1.0)).collect());
        let eval = |seq, at| Event {
            seq,
            t_ms: 0,
            body: EventBody::Eval { step: at, loss: Some(1.0), metrics: BTreeMap::new() },
        };
        s.push(vec![eval(7, 6), step(8, 4, 2.0)]);
        assert_eq!(s.steps.iter().map(|p| p.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(s.evals.is_empty());
    }

    #[test]
    fn speed_and_time_left_come_from_the_last_steps() {
        let mut s = RunSeries::default();
        assert_eq!((s.tokens_per_second(9), s.eta_ms()), (None, None));
        s.push((1..=50).map(|i| step(i, i, 1.0)).collect());
        assert_eq!(s.tokens_per_second(50), Some(5000.0));
        assert_eq!(s.eta_ms(), Some(5000));
    }

    #[test]
    fn an_evaluation_that_is_the_best_goes_well_and_another_does_not() {
        let eval = |(i, loss): (usize, &f64)| Event {
            seq: i as u64 + 1,
            t_ms: 0,
            body: EventBody::Eval { step: i as u64, loss: Some(*loss), metrics: BTreeMap::new() },
        };
        let mut s = RunSeries::default();
        s.push([1.0, 0.5].iter().enumerate().map(eval).collect());
        assert_eq!(s.going_well(), ["eval follows: the last one is the best"]);
        s.push([1.0, 0.5, 0.6].iter().enumerate().map(eval).collect());
        assert_eq!(s.going_well(), [""; 0]);
    }

    #[test]
    fn a_change_is_kept_once_also_when_its_step_is_taken_again() {
        let change = |seq| Event {
            seq,
            t_ms: 0,
            body: EventBody::Change { step: 3, change: Change::LearningRate(1e-4), refused: None },
        };
        let mut s = RunSeries::default();
        s.push(vec![
            step(1, 1, 1.0),
            step(2, 2, 1.0),
            change(3),
            step(4, 3, 1.0),
            step(5, 2, 1.0),
            step(6, 3, 1.0),
        ]);
        assert_eq!(s.changes, [(3, Change::LearningRate(1e-4))]);
        assert_eq!(s.steps.len(), 3);
    }

    #[test]
    fn the_log_does_not_grow_without_bound() {
        let mut s = RunSeries::default();
        s.push(
            (1..=5000)
                .map(|i| Event { seq: i, t_ms: 0, body: EventBody::Log { message: i.to_string() } })
                .collect(),
        );
        assert!(s.log.len() <= 2 * RunSeries::LOG_LINES);
        assert_eq!(s.log.last().map(|l| l.2.as_str()), Some("5000"));
    }
}
