//! Rows beside the board's: general-ability sets with rows of their own, and the regression set of rows that once were fixed.

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::row::{Part, RunRow};

/// What a set's rows are asked with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetPrompt {
    /// One stage's model and adapter get the input and nothing else: what the weights can do.
    #[default]
    Bare,
    /// The whole pipeline.
    Same,
}

/// `[[set]]`, as far as a run needs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetSettings {
    pub name: String,
    /// A metric that tells right from wrong.
    pub metric: String,
    #[serde(default)]
    pub prompt: SetPrompt,
    /// Whose model answers a bare prompt; none: the last stage's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Of an answer to a bare prompt; none: the stage's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
}

/// A set as a run works on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetInputs {
    pub set: SetSettings,
    pub rows: Vec<RunRow>,
    /// What an earlier life of the run has answered.
    pub done: Vec<Outcome>,
}

/// How a candidate does on a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetScore {
    pub metric: String,
    pub right: usize,
    pub n: usize,
    /// The baseline on the rows that both answered at the same content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<AgainstBase>,
}

/// A candidate and the baseline on the same rows of a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgainstBase {
    pub n: usize,
    pub right: usize,
    pub base_right: usize,
    /// Exact McNemar.
    pub p_value: f64,
}

impl SetScore {
    /// It has forgotten: fewer right than the baseline, by more than chance would have it (p below 0.05).
    pub fn is_worse(&self) -> bool {
        self.base.as_ref().is_some_and(|b| b.right < b.base_right && b.p_value < 0.05)
    }
}

/// A row that once was fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    pub t_ms: u64,
    pub row: String,
    pub row_hash: String,
    pub part: Option<Part>,
    /// Names of the first candidate that had it wrong and of the one that had it right.
    pub wrong: String,
    pub right: String,
}

/// How a candidate does on the rows that once were fixed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub kept: usize,
    /// Those of them that it answered, at the same content.
    pub of: usize,
    /// Rows that are wrong again, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}
