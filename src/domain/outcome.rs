//! Outcomes: what a candidate did on a row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::judge::Judged;
use super::row::Part;

/// What one stage did on a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageOutcome {
    pub stage: String,
    pub output: String,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// Time to the first token.
    pub ttft_ms: f64,
    pub ms: f64,
    /// The answer could be read as the stage's output kind.
    pub format_ok: bool,
    pub retries: u32,
    /// The stage's `when` did not hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Answers that came from the response cache, of `1 + retries`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached: u32,
    /// Pieces of personal data that went out as placeholders.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub masked: u32,
    /// Waiting beside the answers' own time: for a limit on requests, or until a server was asked again.
    #[serde(default, skip_serializing_if = "is_none_ms")]
    pub waited_ms: f64,
    /// The server counted no tokens; those that stand here are reckoned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    /// Probability of the label, where labels were scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_none_ms(ms: &f64) -> bool {
    *ms == 0.0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One line of `outcomes.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub row: String,
    pub row_hash: String,
    pub part: Option<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stratum: Option<String>,
    /// 0 unless the same row is asked several times.
    #[serde(default)]
    pub sample: u32,
    /// The pipeline's answer: the output of the last stage that ran.
    pub output: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
    /// By the primary metric; none where the row has no gold.
    pub correct: Option<bool>,
    /// Per-row metrics by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
    /// Why a metric has no value here, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unscored: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageOutcome>,
    /// What a user would wait, from the latency pass; none for rows it did not cover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// The row failed; the run went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What judges said of the answer, the one that `judge` means first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<Judged>,
}

impl Outcome {
    pub fn tokens_in(&self) -> u64 {
        self.stages.iter().map(|s| s.tokens_in).sum()
    }

    /// What the judge of that name said; with no name, the first one.
    pub fn judged_by(&self, judge: Option<&str>) -> Option<&Judged> {
        self.judged.iter().find(|j| judge.is_none_or(|name| j.judge == name))
    }

    pub fn tokens_out(&self) -> u64 {
        self.stages.iter().map(|s| s.tokens_out).sum()
    }
}

/// How a row changed from candidate A to candidate B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlipKind {
    /// Wrong in A, right in B.
    Fixed,
    /// Right in A, wrong in B.
    Regressed,
    /// Wrong in both, in another way.
    Churned,
}

/// A row whose outcome differs between two candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    pub row: String,
    pub flip: FlipKind,
    pub stratum: Option<String>,
    pub input: String,
    pub gold: Option<String>,
    pub a: String,
    pub b: String,
}
