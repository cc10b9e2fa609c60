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

use anyhow::{Context as _, bail, ensure};

use super::order::Order;
use super::pace::Pace;
use super::schedule::LearningRate;
use super::state::{self, TrainerState};
use crate::domain::event::EventBody;
use crate::domain::report::{Control, Reporter};
use crate::domain::settings::TrainSettings;
use crate::model::trainable::{AdamW, Sequence, Trainable};

/// A row as the model is trained on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The row's id.
    pub row: String,
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
}

impl Fitted {
    /// The step whose model is to be used: the best by dev loss, or the last where nothing was selected.
    pub fn best_step(&self) -> u64 {
        self.state.best_step.unwrap_or(self.state.step)
    }
}

/// Train `model` on `data.train`.
///
/// `from` continues a run whose model state has been loaded: what follows is bit for bit what would have followed.
/// The gradient of a step is that of the mean loss per trained token over all its micro-batches, however they are cut.
///
/// # Errors
/// When the loss or the gradient is not finite (the step is not taken; the message names its rows), when a checkpoint belongs
/// to other settings or rows, when the reporter cannot write.
pub fn fit(
    model: &mut Trainable,
    data: Data<'_>,
    settings: &TrainSettings,
    from: Option<TrainerState>,
    answer: &mut Answer<'_>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Fitted> {
    ensure!(!data.train.is_empty(), "no row to train on");
    let inputs = fingerprint(data, settings)?;
    let order = Order::new(data.train.len(), settings);
    let total = order.total_steps();
    let saved_step = from.as_ref().map(|state| state.step);
    let state = match from {
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
            evals_without_better: 0,
            last_loss: None,
            finished: false,
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
        return Ok(Fitted { end, state });
    }
    let eval_every = if settings.eval_every > 0 { settings.eval_every } else { total.div_ceil(10) };
    // Rows of like length share a batch.
    let mut dev: Vec<&Example> = data.dev.iter().collect();
    dev.sort_by_key(|example| example.sequence.tokens.len());
    let fit = Fit {
        model,
        train: data.train,
        dev,
        settings,
        rates: LearningRate::new(settings, total),
        order,
        total,
        eval_every,
        pace: Pace::new(state.step),
        state,
        answer,
        reporter,
        stop: false,
        checkpoint_asked: false,
        saved_step,
    };
    fit.run()
}

struct Fit<'a> {
    model: &'a mut Trainable,
    train: &'a [Example],
    dev: Vec<&'a Example>,
    settings: &'a TrainSettings,
    rates: LearningRate,
    order: Order,
    total: u64,
    eval_every: u64,
    pace: Pace,
    state: TrainerState,
    answer: &'a mut Answer<'a>,
    reporter: &'a mut dyn Reporter,
    stop: bool,
    checkpoint_asked: bool,
    /// Step of the newest checkpoint.
    saved_step: Option<u64>,
}

/// Somebody asked to cancel: unwinds to the loop.
struct Cancelled;

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
        Fitted { end, state: self.state }
    }

    /// One optimizer step.
    fn step(&mut self) -> anyhow::Result<Result<(), Cancelled>> {
        let begun = self.pace.worked();
        let step = self.state.step + 1;
        let train = self.train;
        let micro_batches =
            self.order.step(step, |row| train.get(row).map_or(0, |e| e.sequence.tokens.len()));
        let micro_batches: Vec<Vec<&Example>> = micro_batches
            .iter()
            .map(|rows| rows.iter().filter_map(|&row| train.get(row)).collect())
            .collect();
        let examples = || micro_batches.iter().flatten().copied();
        let trained: usize = examples().map(|e| e.sequence.targets()).sum();
        let tokens: usize = examples().map(|e| e.sequence.tokens.len()).sum();
        let scale = 1.0 / trained.max(1) as f32;

        self.model.zero_grad();
        for batch in &micro_batches {
            if self.poll()?.is_err() {
                return Ok(Err(Cancelled));
            }
            let rows: Vec<&Sequence> = batch.iter().map(|e| &e.sequence).collect();
            self.model.accumulate(&rows, scale).with_context(|| in_rows(batch))?;
        }
        let (loss_sum, grad_norm) = self.model.settle()?;
        let loss = loss_sum / trained.max(1) as f64;
        let lr = self.rates.at(step);
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(self.not_finite(step, loss, grad_norm, lr, &examples().collect::<Vec<_>>()));
        }
        let optimizer = AdamW {
            lr: lr as f32,
            beta1: self.settings.beta1 as f32,
            beta2: self.settings.beta2 as f32,
            epsilon: self.settings.epsilon as f32,
            weight_decay: self.settings.weight_decay as f32,
        };
        self.model.step(&optimizer, self.settings.max_grad_norm as f32);

        self.state.step = step;
        (self.state.epoch, self.state.epoch_rows) = self.order.position_after(step);
        self.state.tokens += tokens as u64;
        self.state.trained_tokens += trained as u64;
        self.state.last_loss = Some(loss);
        self.reporter.event(EventBody::Step {
            step,
            total: self.total,
            epoch: self.order.epochs_after(step),
            loss,
            lr,
            grad_norm,
            tokens: tokens as u64,
            trained_tokens: trained as u64,
            ms: self.pace.worked().saturating_sub(begun).as_secs_f64() * 1e3,
            rows: examples().map(|e| e.row.clone()).collect(),
        })?;
        Ok(Ok(()))
    }

    /// Dev loss and the fixed rows' answers; keeps the books of the best step and of patience.
    fn evaluate(&mut self) -> anyhow::Result<Result<(), Cancelled>> {
        let step = self.state.step;
        let loss = match self.dev_loss()? {
            Err(cancelled) => return Ok(Err(cancelled)),
            Ok(loss) => loss,
        };
        self.reporter.event(EventBody::Eval { step, loss, metrics: Default::default() })?;
        self.model.bring_home()?;
        match (self.answer)(self.model) {
            Ok(samples) => {
                for Sample { row, output, gold, correct } in samples {
                    self.reporter.event(EventBody::Sample { step, row, output, gold, correct })?;
                }
            }
            // The run is worth more than a look at it.
            Err(e) => self.warn(format!("step {step}: the fixed rows could not be answered: {e:#}"))?,
        }
        let Some(loss) = loss else { return Ok(Ok(())) };
        if !loss.is_finite() {
            bail!("step {step}: the dev loss is not finite ({loss}); {}", self.way_back());
        }
        if step == 0 {
            self.state.loss_before = Some(loss);
        } else if self.state.best_loss.is_none_or(|best| loss < best) {
            self.state.best_step = Some(step);
            self.state.best_loss = Some(loss);
            self.state.evals_without_better = 0;
        } else {
            self.state.evals_without_better += 1;
        }
        Ok(Ok(()))
    }

    /// Mean loss per trained token over the dev rows; none without dev rows.
    fn dev_loss(&mut self) -> anyhow::Result<Result<Option<f64>, Cancelled>> {
        let (mut sum, mut trained) = (0.0, 0);
        let dev = std::mem::take(&mut self.dev);
        let mut cancelled = false;
        for batch in dev.chunks(self.settings.batch_size.max(1)) {
            if self.poll()?.is_err() {
                cancelled = true;
                break;
            }
            let rows: Vec<&Sequence> = batch.iter().map(|e| &e.sequence).collect();
            let loss = self.model.loss(&rows).with_context(|| in_rows(batch))?;
            sum += loss.loss_sum;
            trained += loss.trained;
        }
        self.dev = dev;
        if cancelled {
            return Ok(Err(Cancelled));
        }
        Ok(Ok((trained > 0).then(|| sum / trained as f64)))
    }

    fn checkpoint(&mut self, best: bool, state: &TrainerState) -> anyhow::Result<()> {
        self.model.bring_home()?;
        let (step, model) = (state.step, &*self.model);
        self.reporter
            .checkpoint(step, best, self.settings.keep_checkpoints.max(1), &mut |dir| {
                state::write(dir, model, state)
            })
            .with_context(|| format!("the checkpoint of step {step} could not be written"))?;
        self.saved_step = Some(step);
        Ok(())
    }

    /// Look for requests; time spent paused is not work.
    fn poll(&mut self) -> io::Result<Result<(), Cancelled>> {
        let begun = Instant::now();
        let control = self.reporter.poll_control()?;
        self.pace.idle += begun.elapsed();
        match control {
            Control::Continue => {}
            Control::Checkpoint => self.checkpoint_asked = true,
            Control::Stop => self.stop = true,
            Control::Cancel => return Ok(Err(Cancelled)),
        }
        Ok(Ok(()))
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

    fn warn(&mut self, message: String) -> io::Result<()> {
        self.reporter.event(EventBody::Warning { message })
    }

    fn last_words(&mut self, end: End) -> io::Result<()> {
        let TrainerState { step, best_step, best_loss, loss_before, .. } = self.state;
        if end == End::Early {
            let message = format!(
                "stopped early at step {step} of {}: {} evaluations without a better dev loss",
                self.total, self.settings.patience
            );
            self.reporter.event(EventBody::Log { message })?;
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

    /// The loss or the gradient of a step is not finite. The step has not been taken: the weights are those of the step before.
    fn not_finite(
        &mut self,
        step: u64,
        loss: f64,
        grad_norm: f64,
        lr: f64,
        examples: &[&Example],
    ) -> anyhow::Error {
        let what = if loss.is_finite() {
            format!("gradient norm is {grad_norm}")
        } else {
            format!("loss is {loss}")
        };
        let mut culprits: Vec<&str> = Vec::new();
        for example in examples {
            if self.model.loss(&[&example.sequence]).is_ok_and(|loss| !loss.loss_sum.is_finite()) {
                culprits.push(&example.row);
            }
        }
        let rows = if culprits.is_empty() {
            format!("its rows: {}", list(&examples.iter().map(|e| e.row.as_str()).collect::<Vec<_>>()))
        } else {
            format!("rows whose own loss is not finite: {}", list(&culprits))
        };
        anyhow::anyhow!(
            "step {step}: the {what} (learning rate {lr:e}); {rows}. The step was not taken; {}",
            self.way_back()
        )
    }

    fn way_back(&self) -> String {
        match self.saved_step {
            Some(step) => format!(
                "the newest checkpoint is of step {step}. Start again with a lower learning_rate (now {:e})",
                self.settings.learning_rate
            ),
            None => format!("start again with a lower learning_rate (now {:e})", self.settings.learning_rate),
        }
    }
}

fn in_rows(batch: &[&Example]) -> String {
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
        for Example { row, sequence } in part {
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
