//! What the doctor finds in a training run: a rule that holds, its evidence, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What can be found. The worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    OutOfMemory,
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
            Self::OutOfMemory => "out of memory",
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
    /// A new run like this one that takes less memory.
    Again { lower: Lower },
}

/// What makes a training take less memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "setting", rename_all = "kebab-case")]
pub enum Lower {
    /// The same gradient.
    Recompute,
    /// The same gradient too: half the rows at once, twice as often.
    Batch {
        batch_size: usize,
        accumulate: usize,
    },
    Rank {
        rank: usize,
    },
    /// Adapters on q and v only.
    QueryAndValue,
    Lora,
}

impl Lower {
    /// Keys of `[tuning.train]` with their values.
    pub fn settings(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Recompute => vec![("recompute", "always".into())],
            Self::Batch { batch_size, accumulate } => {
                vec![("batch_size", batch_size.to_string()), ("accumulate", accumulate.to_string())]
            }
            Self::Rank { rank } => vec![("rank", rank.to_string())],
            Self::QueryAndValue => vec![("targets", "[\"q_proj\", \"v_proj\"]".into())],
            Self::Lora => vec![("method", "lora".into())],
        }
    }
}

/// As it stands in `workspace.toml`.
impl fmt::Display for Lower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recompute => f.write_str("recompute = \"always\""),
            Self::Batch { batch_size, accumulate } => {
                write!(f, "batch_size = {batch_size} with accumulate = {accumulate}")
            }
            Self::Rank { rank } => write!(f, "rank = {rank}"),
            Self::QueryAndValue => f.write_str("targets = [\"q_proj\", \"v_proj\"]"),
            Self::Lora => f.write_str("method = \"lora\""),
        }
    }
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
