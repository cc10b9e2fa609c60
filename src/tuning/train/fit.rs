//! The training loop over sequences in memory: no run folder, no tokenizer, no template.
//!
//! ```text
//! evaluate once before the first step
//! for every step:  micro-batches forward and backward -> clip -> AdamW      (polls for requests in between)
//!                  every eval_every steps, and at the end: dev loss, fixed rows, is it the best?
//!                  checkpoint where one is due
//! until the steps are done, patience is out, or somebody asks to stop
//! ```

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::doctor::Doctor;
use super::order::Order;
use super::pace::Pace;
use super::requests::Mixture;
use super::schedule::LearningRate;
use super::state::{self, TrainerState};
use crate::domain::event::EventBody;
use crate::domain::report::Reporter;
use crate::domain::settings::TrainSettings;
use crate::domain::steer::Recorded;
use crate::model::trainable::{Sequence, Trainable};

/// A row as the model is trained on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row's id.
    pub row: String,
    /// Name of its stratum, where strata are built.
    pub stratum: Option<String>,
    pub sequence: Sequence,
}

/// What the loop learns from and selects by.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    pub train: &'a [Example],
    /// May be empty: then nothing is selected, and the last step is the best one.
    pub dev: &'a [Example],
}

/// What the model says now on a fixed row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub row: String,
    pub output: String,
    pub gold: Option<String>,
    pub correct: Option<bool>,
    /// It ended by itself; none where the gold itself does not fit the limit.
    pub ended: Option<bool>,
}

/// Answers the fixed rows with the model as it is now. Called at every evaluation.
pub type Answer<'a> = dyn FnMut(&Trainable) -> anyhow::Result<Vec<Sample>> + 'a;

/// For runs without fixed rows.
pub fn no_samples(_: &Trainable) -> anyhow::Result<Vec<Sample>> {
    Ok(Vec::new())
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are taken.
    Done,
    /// Patience is out.
    Early,
    /// Somebody asked to stop and keep.
    Stopped,
    /// Somebody asked to end without results.
    Cancelled,
}

/// What the loop leaves; the model itself stands where the last step left it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    pub end: End,
    pub state: TrainerState,
    /// Time of this session, pauses left out.
    pub worked: Duration,
}

impl Fitted {
    /// The step whose model is to be used: the best by dev loss, or the last where nothing was selected.
    pub fn best_step(&self) -> u64 {
        self.state.best_step.unwrap_or(self.state.step)
    }
}

/// What an earlier life of the run left.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Of the checkpoint whose model state has been loaded; none: from the beginning.
    pub state: Option<TrainerState>,
    /// What was told, also after that checkpoint.
    pub history: Vec<EventBody>,
}

/// Train `model` on `data.train`.
///
/// With a `past` it continues a run: what follows is bit for bit what would have followed, changes in mid-run included.
/// The gradient of a step is that of the mean loss per trained token over all its micro-batches, however they are cut.
///
/// # Errors
/// When the loss or the gradient is not finite (the step is not taken; the message names its rows), when a checkpoint belongs
/// to other settings or rows, when the reporter cannot write.
pub fn fit(
    model: &mut Trainable,
    data: Data<'_>,
    settings: &TrainSettings,
    past: Past,
    answer: &mut Answer<'_>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Fitted> {
    ensure!(!data.train.is_empty(), "no row to train on");
    let inputs = fingerprint(data, settings)?;
    let order = Order::new(data.train.len(), settings);
    let total = order.total_steps();
    let saved_step = past.state.as_ref().map(|state| state.step);
    let mut state = match past.state {
        None => TrainerState {
            step: 0,
            epoch: 0,
            epoch_rows: 0,
            seed: settings.seed,
            tokens: 0,
            trained_tokens: 0,
            loss_before: None,
            best_step: None,
            best_loss: None,
            evals: 0,
            evals_without_better: 0,
            last_loss: None,
            finished: false,
            changes: Vec::new(),
            inputs,
        },
        Some(state) => {
            ensure!(
                state.inputs == inputs && (state.epoch, state.epoch_rows) == order.position_after(state.step),
                "the checkpoint of step {} was made with other settings or other rows; start a new run instead",
                state.step
            );
            state
        }
    };
    if state.finished {
        let end = if state.step < total { End::Early } else { End::Done };
        return Ok(Fitted { end, state, worked: Duration::ZERO });
    }
    // Changes that were made after the checkpoint are made again at their steps.
    for event in &past.history {
        if let EventBody::Change { step, change, refused: None } = event {
            let recorded = Recorded { step: *step, change: change.clone() };
            if !state.changes.contains(&recorded) {
                state.changes.push(recorded);
            }
        }
    }
    state.changes.sort_by_key(|recorded| recorded.step);
    let mixture = Mixture::new(data.train, settings);
    mixture.check()?;
    let mut doctor = Doctor::default();
    for event in &past.history {
        doctor.see(event);
    }
    let eval_every = if settings.eval_every > 0 { settings.eval_every } else { total.div_ceil(10) };
    // Rows of like length share a batch.
    let mut dev: Vec<&Example> = data.dev.iter().collect();
    dev.sort_by_key(|example| example.sequence.tokens.len());
    let mut fit = Fit {
        model,
        train: data.train,
        dev,
        settings,
        rates: LearningRate::new(settings, total),
        mixture,
        order,
        total,
        eval_every,
        pace: Pace::new(state.step),
        state,
        answer,
        reporter,
        asked: past.history.iter().filter(|event| matches!(event, EventBody::Change { .. })).count(),
        stop: false,
        checkpoint_asked: false,
        saved_step,
        doctor,
        step_ended: None,
    };
    fit.begin();
    fit.run()
}

pub(super) struct Fit<'a> {
    pub(super) model: &'a mut Trainable,
    pub(super) train: &'a [Example],
    pub(super) dev: Vec<&'a Example>,
    pub(super) settings: &'a TrainSettings,
    pub(super) rates: LearningRate,
    /// How often which rows are drawn.
    pub(super) mixture: Mixture,
    pub(super) order: Order,
    pub(super) total: u64,
    eval_every: u64,
    pub(super) pace: Pace,
    pub(super) state: TrainerState,
    pub(super) answer: &'a mut Answer<'a>,
    pub(super) reporter: &'a mut dyn Reporter,
    /// Changes that were taken, over all lives of the run.
    pub(super) asked: usize,
    pub(super) stop: bool,
    pub(super) checkpoint_asked: bool,
    /// Step of the newest checkpoint.
    pub(super) saved_step: Option<u64>,
    pub(super) doctor: Doctor,
    /// When the step before ended, by the pace's clock; none where something else came after it.
    pub(super) step_ended: Option<Duration>,
}

impl Fit<'_> {
    fn run(mut self) -> anyhow::Result<Fitted> {
        self.progress(true)?;
        if self.saved_step.is_none() && self.evaluate()?.is_err() {
            return Ok(self.end(End::Cancelled));
        }
        if self.saved_step.is_some() && self.saved_step == self.state.best_step {
            // Killed after this checkpoint appeared, it may not have been marked as the best one, which is kept.
            self.checkpoint(true, &self.state.clone())?;
        }
        loop {
            if self.step()?.is_err() {
                return Ok(self.end(End::Cancelled));
            }
            let step = self.state.step;
            let last = step >= self.total;
            let scheduled = last || step.is_multiple_of(self.eval_every);
            // A stopped run is evaluated where it stands, for the choice of what is used. Its checkpoint knows nothing of
            // that: resumed, the run selects and loses patience as if it had never been stopped.
            let unstopped = (self.stop && !scheduled).then(|| self.state.clone());
            if (scheduled || self.stop) && self.evaluate()?.is_err() {
                return Ok(self.end(End::Cancelled));
            }
            let better = self.state.best_step == Some(step);
            let early = scheduled
                && self.settings.patience > 0
                && self.state.evals_without_better >= self.settings.patience;
            let end = match (last, early, self.stop) {
                (true, ..) => Some(End::Done),
                (_, true, _) => Some(End::Early),
                (.., true) => Some(End::Stopped),
                _ => None,
            };
            self.state.finished = last || early;
            let due = match self.settings.checkpoint_every {
                0 => scheduled,
                every => step.is_multiple_of(every),
            };
            let asked = std::mem::take(&mut self.checkpoint_asked);
            if due || better || asked || end.is_some() {
                let best = (better && unstopped.is_none()) || (self.dev.is_empty() && end.is_some());
                self.checkpoint(best, &unstopped.unwrap_or_else(|| self.state.clone()))?;
            }
            self.progress(end.is_some())?;
            if let Some(end) = end {
                self.last_words(end)?;
                return Ok(self.end(end));
            }
        }
    }

    fn end(self, end: End) -> Fitted {
        Fitted { end, worked: self.pace.worked(), state: self.state }
    }

    fn checkpoint(&mut self, best: bool, state: &TrainerState) -> anyhow::Result<()> {
        self.model.bring_home()?;
        let (step, model) = (state.step, &*self.model);
        self.reporter
            .checkpoint(step, best, self.settings.keep_checkpoints.max(1), &mut |dir| {
                state::write(dir, model, state)
            })
            .with_context(|| format!("the checkpoint of step {step} could not be written"))?;
        (self.saved_step, self.step_ended) = (Some(step), None);
        Ok(())
    }

    /// Tell it, and let the doctor hear it.
    pub(super) fn tell(&mut self, body: EventBody) -> io::Result<()> {
        self.doctor.see(&body);
        self.reporter.event(body)
    }

    /// What the doctor finds now that a step was taken, or the model evaluated.
    pub(super) fn examine(&mut self, evaluated: bool) -> io::Result<()> {
        self.doctor.news(evaluated).into_iter().try_for_each(|news| self.reporter.event(news))
    }

    /// At most one line a second, but always at the ends.
    fn progress(&mut self, always: bool) -> io::Result<()> {
        let now = Instant::now();
        if !always && self.pace.told.is_some_and(|told| now - told < Duration::from_secs(1)) {
            return Ok(());
        }
        self.pace.told = Some(now);
        self.reporter.event(EventBody::Progress {
            phase: "train".into(),
            done: self.state.step,
            total: self.total,
            eta_ms: self.pace.eta_ms(self.state.step, self.total),
        })
    }

    pub(super) fn warn(&mut self, message: String) -> io::Result<()> {
        self.reporter.event(EventBody::Warning { message })
    }

    fn last_words(&mut self, end: End) -> io::Result<()> {
        let TrainerState { step, best_step, best_loss, loss_before, .. } = self.state;
        if end == End::Early {
            let message = format!(
                "stopped early at step {step} of {}: {} evaluations without a better dev loss",
                self.total, self.settings.patience
            );
            self.tell(EventBody::Log { message })?;
        }
        if let (Some(best_step), Some(best), Some(before)) = (best_step, best_loss, loss_before)
            && best >= before
        {
            self.warn(format!(
                "the dev loss never fell below what it was before training ({before:.4}); the best was {best:.4} at step {best_step}. \
                 Lower learning_rate, or look at the rows' gold"
            ))?;
        }
        Ok(())
    }

    pub(super) fn way_back(&self) -> String {
        match self.saved_step {
            Some(step) => format!(
                "the newest checkpoint is of step {step}. Start again with a lower learning_rate (now {:e})",
                self.settings.learning_rate
            ),
            None => format!("start again with a lower learning_rate (now {:e})", self.settings.learning_rate),
        }
    }
}

pub(super) fn in_rows(batch: &[&Example]) -> String {
    format!("among the rows {}", list(&batch.iter().map(|e| e.row.as_str()).collect::<Vec<_>>()))
}

/// The first ten, and how many more.
pub(super) fn list(rows: &[&str]) -> String {
    const SHOWN: usize = 10;
    let mut text = rows.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if rows.len() > SHOWN {
        text += &format!(" and {} more", rows.len() - SHOWN);
    }
    text
}

/// Everything that decides the course of a run beside the model.
fn fingerprint(data: Data<'_>, settings: &TrainSettings) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&serde_json::to_vec(settings)?);
    for part in [data.train, data.dev] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        for Example { row, sequence, .. } in part {
            for length in [row.len(), sequence.tokens.len()] {
                hasher.update(&(length as u64).to_le_bytes());
            }
            hasher.update(row.as_bytes());
            for (token, &trained) in sequence.tokens.iter().zip(&sequence.trained) {
                hasher.update(&token.to_le_bytes()).update(&[u8::from(trained)]);
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
