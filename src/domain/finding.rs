//! What the doctor finds in a training run: a rule that holds, its evidence, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What can be found. The worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    NotFinite,
    LossOscillates,
    GradientJumps,
    NoStop,
    Overfitting,
    EvalFlat,
    Slow,
    InputBound,
    Padding,
}

impl Rule {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFinite => "not finite",
            Self::LossOscillates => "loss oscillates",
            Self::GradientJumps => "gradient jumps",
            Self::NoStop => "no stop token",
            Self::Overfitting => "overfitting",
            Self::EvalFlat => "eval is flat",
            Self::Slow => "stable but slow",
            Self::InputBound => "waits for input",
            Self::Padding => "padding",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What one key does about it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Remedy {
    /// Multiply the learning rate, in the run itself.
    LearningRate { times: f64 },
    /// Finish now and keep the best checkpoint.
    Stop,
    /// A new run from the best checkpoint, with the learning rate times this.
    Branch { times: f64 },
    /// Look at the rows of a step.
    Rows { step: u64 },
    /// Look for a better learning rate with a range test.
    RangeTest,
}

/// A rule that holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub rule: Rule,
    /// What was seen: numbers and steps.
    pub evidence: String,
    /// What to do, in words.
    pub advice: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
}
