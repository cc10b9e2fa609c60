//! Evaluation in mid-run: dev loss, fixed rows, the books of the best step and of patience.

use anyhow::{Context as _, bail};

use super::fit::{Fit, Sample, in_rows};
use super::requests::Cancelled;
use crate::domain::event::EventBody;
use crate::model::trainable::Sequence;

impl Fit<'_> {
    /// Dev loss and the fixed rows' answers; keeps the books of the best step and of patience.
    pub(super) fn evaluate(&mut self) -> anyhow::Result<Result<(), Cancelled>> {
        let step = self.state.step;
        let loss = match self.dev_loss()? {
            Err(cancelled) => return Ok(Err(cancelled)),
            Ok(loss) => loss,
        };
        self.step_ended = None;
        self.tell(EventBody::Eval { step, loss, metrics: Default::default() })?;
        self.model.bring_home()?;
        match (self.answer)(self.model) {
            Ok(samples) => {
                for Sample { row, output, gold, correct, ended } in samples {
                    self.tell(EventBody::Sample { step, row, output, gold, correct, ended })?;
                }
            }
            // The run is worth more than a look at it.
            Err(e) => self.warn(format!("step {step}: the fixed rows could not be answered: {e:#}"))?,
        }
        self.examine(true)?;
        let Some(loss) = loss else { return Ok(Ok(())) };
        if !loss.is_finite() {
            bail!("step {step}: the dev loss is not finite ({loss}); {}", self.way_back());
        }
        self.state.evals += u64::from(step > 0);
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
}
