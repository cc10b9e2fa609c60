//! The ladder on the board: the best candidate of every rung, what each added, and whether the next is worth it.

use serde::{Deserialize, Serialize};

/// The rungs, cheapest first.
pub const RUNGS: [&str; 4] = ["baseline", "prompt", "trajectory", "lora"];

/// Every rung that was climbed, from below.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ladder {
    pub rungs: Vec<Rung>,
    pub advice: Advice,
}

/// The best candidate of a rung.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    pub rung: String,
    pub candidate: String,
    /// By the primary metric on the board, and over how many rows.
    pub value: Option<f64>,
    pub n: usize,
    /// How many candidates stand on the rung.
    pub candidates: usize,
    /// Against the rung below; none on the lowest.
    pub step: Option<Step>,
}

/// What a rung added, on the rows that both have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The candidate below.
    pub over: String,
    pub n: usize,
    pub delta: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
    pub fixed: usize,
    pub regressed: usize,
    pub churned: usize,
    /// Further rows fixed (with none regressed) that would bring p below 0.05.
    pub needed: usize,
}

impl Step {
    /// The interval leaves 0 out.
    pub fn proven(&self) -> bool {
        self.ci95[0] > 0.0 || self.ci95[1] < 0.0
    }
}

/// Is the next rung worth it?
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    pub verdict: Verdict,
    /// The rung that is meant: the next one to climb, or the one to stay on.
    pub rung: Option<String>,
    pub reasons: Vec<Reason>,
    /// What to run for it.
    pub run: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Something must be measured before anything can be said.
    #[default]
    Measure,
    /// This rung still has something to give.
    Stay,
    Climb,
    /// The goals are met.
    Done,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measure => "measure first",
            Self::Stay => "stay",
            Self::Climb => "climb",
            Self::Done => "done",
        }
    }
}

/// A piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub says: Verdict,
    pub text: String,
}
