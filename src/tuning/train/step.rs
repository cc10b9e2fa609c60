//! One optimizer step: micro-batches forward and backward, clip, AdamW; and what is said when it cannot be taken.

use std::io;
use std::time::Duration;

use anyhow::Context as _;

use super::doctor;
use super::fit::{Example, Fit, in_rows, list};
use super::requests::Cancelled;
use crate::domain::event::EventBody;
use crate::domain::settings::TrainSettings;
use crate::model::trainable::{AdamW, Sequence, Settled};

/// The optimizer's settings at a learning rate.
pub(super) fn optimizer(settings: &TrainSettings, lr: f64) -> AdamW {
    AdamW {
        lr: lr as f32,
        beta1: settings.beta1 as f32,
        beta2: settings.beta2 as f32,
        epsilon: settings.epsilon as f32,
        weight_decay: settings.weight_decay as f32,
    }
}

/// Each row's mean loss per trained token.
pub(super) fn means<'a>(sums: &[f64], rows: impl Iterator<Item = &'a Example>) -> Vec<f32> {
    let mean = |(sum, row): (&f64, &Example)| (sum / row.sequence.targets().max(1) as f64) as f32;
    sums.iter().zip(rows).map(mean).collect()
}

impl Fit<'_> {
    /// One optimizer step.
    pub(super) fn step(&mut self) -> anyhow::Result<Result<(), Cancelled>> {
        let before = self.step_ended.take();
        let step = self.state.step + 1;
        self.take_changes(step)?;
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

        let begun = self.pace.worked();
        self.model.zero_grad();
        for batch in &micro_batches {
            if self.poll()?.is_err() {
                return Ok(Err(Cancelled));
            }
            let rows: Vec<&Sequence> = batch.iter().map(|e| &e.sequence).collect();
            self.model.accumulate(&rows, scale).with_context(|| in_rows(batch))?;
        }
        let Settled { loss_sum, row_losses, grad_norm } = self.model.settle()?;
        let losses = means(&row_losses, examples());
        let loss = loss_sum / trained.max(1) as f64;
        let lr = self.rates.at(step);
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(self.not_finite(step, loss, grad_norm, lr, &examples().collect::<Vec<_>>())?);
        }
        self.model.step(&optimizer(self.settings, lr), self.settings.max_grad_norm as f32);

        self.state.step = step;
        (self.state.epoch, self.state.epoch_rows) = self.order.position_after(step);
        self.state.tokens += tokens as u64;
        self.state.trained_tokens += trained as u64;
        self.state.last_loss = Some(loss);
        let ended = self.pace.worked();
        self.step_ended = Some(ended);
        let ms = |from, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e3;
        let rows = examples().map(|e| e.row.clone()).collect();
        self.tell(EventBody::Step {
            step,
            total: self.total,
            epoch: self.order.epochs_after(step),
            loss,
            lr,
            grad_norm,
            tokens: tokens as u64,
            trained_tokens: trained as u64,
            // Rows are laid one after another, on either device.
            padding: 0,
            ms: ms(begun, ended),
            wait_ms: before.map_or(0.0, |before| ms(before, begun)),
            rows,
            losses,
        })?;
        self.examine(false)?;
        Ok(Ok(()))
    }

    /// The loss or the gradient of a step is not finite. The step has not been taken: the weights are those of the step before.
    fn not_finite(
        &mut self,
        step: u64,
        loss: f64,
        grad_norm: f64,
        lr: f64,
        examples: &[&Example],
    ) -> io::Result<anyhow::Error> {
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
        let holds = true;
        let finding = doctor::not_finite(step, loss, grad_norm, lr, &rows, self.saved_step);
        self.tell(EventBody::Finding { step, holds, finding })?;
        Ok(anyhow::anyhow!(
            "step {step}: the {what} (learning rate {lr:e}); {rows}. The step was not taken; {}",
            self.way_back()
        ))
    }
}
