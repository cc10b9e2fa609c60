//! The learning rate at every step.

use super::order::ROUNDING;
use crate::domain::settings::{Schedule, TrainSettings};

/// Learning rates of a run of known length: a linear warm-up over `W = ceil(warmup * T)` steps, then down to (almost) zero.
///
/// With steps `s = 1..=T`:
///
/// ```text
/// s <= W:  peak * s / W                               never 0: the first step moves
/// s >  W:  p = (s - 1 - W) / (T - W)                  0 at the first step after the warm-up, below 1 at the last
///          constant: peak    linear: peak * (1 - p)    cosine: peak * (1 + cos(pi p)) / 2
/// ```
///
/// The decay is that of transformers' `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup`; their
/// warm-up is one step behind ours and begins with a step of rate 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    peak: f64,
    shape: Schedule,
    warmup_steps: u64,
    total_steps: u64,
}

impl LearningRate {
    pub fn new(settings: &TrainSettings, total_steps: u64) -> Self {
        let warmup_steps = (settings.warmup * total_steps as f64 - ROUNDING).ceil() as u64;
        Self {
            peak: settings.learning_rate,
            shape: settings.schedule,
            warmup_steps: warmup_steps.min(total_steps),
            total_steps,
        }
    }

    /// Another peak for the steps to come; the shape stays.
    pub const fn set_peak(&mut self, peak: f64) {
        self.peak = peak;
    }

    pub const fn peak(&self) -> f64 {
        self.peak
    }

    /// The rate of step `step`, from 1.
    pub fn at(&self, step: u64) -> f64 {
        if step <= self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = (self.total_steps - self.warmup_steps).max(1);
        let p = ((step - 1 - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        self.peak
            * match self.shape {
                Schedule::Constant => 1.0,
                Schedule::Linear => 1.0 - p,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * p).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(shape: Schedule, warmup: f64, total: u64) -> Vec<f64> {
        let settings =
            TrainSettings { schedule: shape, warmup, learning_rate: 1.0, ..TrainSettings::default() };
        let schedule = LearningRate::new(&settings, total);
        (1..=total).map(|s| schedule.at(s)).collect()
    }

    fn assert_close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-12, "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn rises_in_equal_parts_then_follows_its_shape() {
        assert_close(&rates(Schedule::Constant, 0.5, 6), &[1. / 3., 2. / 3., 1., 1., 1., 1.]);
        assert_close(&rates(Schedule::Linear, 0.2, 5), &[1., 1., 0.75, 0.5, 0.25]);
        let c = std::f64::consts::FRAC_1_SQRT_2;
        assert_close(
            &rates(Schedule::Cosine, 0.0, 4),
            &[1., f64::midpoint(1., c), 0.5, f64::midpoint(1., -c)],
        );
    }

    #[test]
    fn schedules_are_those_of_transformers_but_for_its_first_step_of_rate_zero() {
        #[derive(serde::Deserialize)]
        struct Case {
            schedule: Schedule,
            warmup_steps: u64,
            total_steps: u64,
            rates: Vec<f64>,
        }
        #[derive(serde::Deserialize)]
        struct Reference {
            cases: Vec<Case>,
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schedules.json");
        let reference: Reference = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(reference.cases.len(), 12);
        for case in reference.cases {
            let share = case.warmup_steps as f64 / case.total_steps as f64;
            let got = rates(case.schedule, share, case.total_steps);
            let warmup = case.warmup_steps as usize;
            // Their warm-up begins with a step of rate 0 and is one step behind ours; the decay is the same.
            let want = case.rates.get(1..=warmup).unwrap_or(&case.rates[1..]);
            for (g, w) in got.iter().zip(want).chain(got[warmup..].iter().zip(&case.rates[warmup..])) {
                assert!((g - w).abs() < 1e-12, "{:?}, warm-up {warmup}: {g} is not {w}", case.schedule);
            }
        }
    }

    #[test]
    fn a_run_that_is_all_warm_up_ends_at_the_peak() {
        assert_close(&rates(Schedule::Cosine, 1.0, 4), &[0.25, 0.5, 0.75, 1.0]);
    }

    proptest! {
        #[test]
        fn every_step_moves_and_none_passes_the_peak(warmup in 0.0..1.0f64, total in 1u64..400, shape in 0..3) {
            let shape = [Schedule::Constant, Schedule::Linear, Schedule::Cosine][shape as usize];
            let rates = rates(shape, warmup, total);
            prop_assert!(rates.iter().all(|&r| r > 0.0 && r <= 1.0));
            let top = rates.iter().position(|&r| r == 1.0);
            prop_assert!(top.is_some(), "the peak is reached");
            // Up to the peak it never falls, after it it never rises.
            let top = top.unwrap();
            prop_assert!(rates[..=top].is_sorted() && rates[top..].is_sorted_by(|a, b| a >= b));
        }
    }
}
