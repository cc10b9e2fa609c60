//! What people ask of a run while it runs: to stop, to checkpoint, to change its learning rate or the weights of its strata.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use anyhow::ensure;

use super::fit::{Example, Fit};
use crate::domain::event::EventBody;
use crate::domain::report::Control;
use crate::domain::settings::TrainSettings;
use crate::domain::steer::{Change, RATE_MAX, Recorded};

/// Somebody asked to cancel: unwinds to the loop.
pub(super) struct Cancelled;

/// How often the rows of each stratum are drawn, relative to 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mixture {
    /// Each training row's stratum.
    strata: Vec<Option<String>>,
    weights: BTreeMap<String, f64>,
}

impl Mixture {
    /// As the settings have it.
    pub(super) fn new(train: &[Example], settings: &TrainSettings) -> Self {
        let strata = train.iter().map(|example| example.stratum.clone()).collect();
        Self { strata, weights: settings.weights.clone() }
    }

    /// Why the weights cannot be used.
    ///
    /// # Errors
    /// A stratum that no row is of; weights that leave no row.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let known: BTreeSet<&str> = self.strata.iter().flatten().map(String::as_str).collect();
        for stratum in self.weights.keys() {
            let there = if known.is_empty() {
                "none of them has one; build the strata first".to_owned()
            } else {
                format!("they are of: {}", known.iter().copied().collect::<Vec<_>>().join(", "))
            };
            ensure!(known.contains(stratum.as_str()), "no training row is of stratum `{stratum}`; {there}");
        }
        ensure!(self.rows().iter().any(|weight| *weight > 0.0), "these weights leave no row to train on");
        Ok(())
    }

    /// With another weight for a stratum.
    fn with(&self, stratum: &str, weight: f64) -> anyhow::Result<Self> {
        let mut mixture = self.clone();
        mixture.weights.insert(stratum.to_owned(), weight);
        mixture.check()?;
        Ok(mixture)
    }

    fn is_even(&self) -> bool {
        self.weights.is_empty()
    }

    /// Each training row's weight.
    fn rows(&self) -> Vec<f64> {
        let weight = |stratum: &Option<String>| self.weights.get(stratum.as_ref()?).copied();
        self.strata.iter().map(|stratum| weight(stratum).unwrap_or(1.0)).collect()
    }
}

impl Fit<'_> {
    /// Put the settings' weights in force, and every change up to the step where the run stands.
    pub(super) fn begin(&mut self) {
        if !self.mixture.is_even() {
            self.order.weigh(1, self.mixture.rows());
        }
        for Recorded { step, change } in self.state.changes.clone() {
            if step <= self.state.step {
                self.apply(step, &change);
            }
        }
    }

    /// Before a step: changes that an earlier life of the run made here, then those that were asked for by now.
    pub(super) fn take_changes(&mut self, step: u64) -> anyhow::Result<()> {
        for recorded in self.state.changes.clone() {
            if recorded.step == step {
                self.apply(step, &recorded.change);
            }
        }
        for wanted in self.reporter.changes(self.asked)? {
            self.asked += 1;
            let change = match wanted {
                Change::LearningRateTimes(factor) => {
                    Change::LearningRate((self.rates.peak() * factor).clamp(f64::MIN_POSITIVE, RATE_MAX))
                }
                other => other,
            };
            if let Change::Weight { stratum, weight } = &change
                && let Err(why) = self.mixture.with(stratum, *weight)
            {
                self.tell(EventBody::Change { step, change, refused: Some(format!("{why:#}")) })?;
                continue;
            }
            self.apply(step, &change);
            let at = self.state.changes.partition_point(|recorded| recorded.step <= step);
            self.state.changes.insert(at, Recorded { step, change: change.clone() });
            self.tell(EventBody::Change { step, change, refused: None })?;
        }
        Ok(())
    }

    fn apply(&mut self, step: u64, change: &Change) {
        match change {
            Change::LearningRate(peak) => self.rates.set_peak(*peak),
            Change::LearningRateTimes(factor) => self.rates.set_peak(self.rates.peak() * factor),
            Change::Weight { stratum, weight } => {
                if let Ok(mixture) = self.mixture.with(stratum, *weight) {
                    self.mixture = mixture;
                    self.order.weigh(step, self.mixture.rows());
                }
            }
            // Of other runs; the engine refuses them here.
            Change::Hint(_)
            | Change::Pin(_)
            | Change::Kill(_)
            | Change::Budget(_)
            | Change::Lesson { .. }
            | Change::PerRow(_) => {}
        }
    }

    /// Look for requests; time spent paused is not work.
    pub(super) fn poll(&mut self) -> io::Result<Result<(), Cancelled>> {
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
}
