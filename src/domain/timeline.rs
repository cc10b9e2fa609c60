//! Strata over time: how often each candidate is right in each stratum; and of a training run its loss with what flipped at every evaluation.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeline {
    /// By name, the largest first; what has none is the last one.
    pub strata: Vec<String>,
    /// In the order of time.
    pub columns: Vec<Moment>,
    /// Candidates that are not among the columns, since there are too many.
    pub left_out: usize,
    pub run: Option<Curve>,
}

/// One candidate on the eval part, or a checkpoint of a run on its fixed rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    pub name: String,
    pub rung: String,
    pub t_ms: u64,
    /// Of a checkpoint.
    pub step: Option<u64>,
    pub all: Cell,
    /// In the order of the strata.
    pub cells: Vec<Cell>,
}

/// Rows, and how many of them are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    pub right: usize,
    pub n: usize,
}

impl Cell {
    /// None of no rows.
    pub fn share(self) -> Option<f64> {
        (self.n > 0).then(|| self.right as f64 / self.n as f64)
    }

    pub const fn add(&mut self, right: bool) {
        self.n += 1;
        self.right += right as usize;
    }
}

/// A training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub run: String,
    /// Step and loss on the rows trained on; of many steps the least and the greatest of each stretch.
    pub losses: Vec<(u64, f64)>,
    /// Step and loss on the dev part.
    pub evals: Vec<(u64, f64)>,
    /// Step, and whether it was the best so far.
    pub checkpoints: Vec<(u64, bool)>,
    /// At every evaluation, on the run's fixed rows.
    pub flips: Vec<StepFlips>,
}

/// The fixed rows at a step, against the evaluation before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepFlips {
    pub step: u64,
    pub all: Cell,
    pub fixed: Vec<String>,
    pub regressed: Vec<String>,
    pub churned: usize,
}
