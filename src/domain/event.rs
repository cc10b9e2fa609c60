//! What a run tells: the lines of `events.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::finding::Finding;
use super::preflight::Preflight;
use super::prompt::PromptNews;
use super::run::RunState;
use super::steer::Change;
use super::trajectory::TrajectoryNews;

/// One line of `events.jsonl`. `seq` counts from 1 without gaps over the whole life of a run, also across resumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub t_ms: u64,
    #[serde(flatten)]
    pub body: EventBody,
}

/// The body of an event, told apart by its `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// The run entered a state.
    State {
        state: RunState,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// How far the current phase is.
    Progress {
        phase: String,
        done: u64,
        total: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eta_ms: Option<u64>,
    },
    /// What the run will take, before its model is loaded.
    Preflight(Preflight),
    /// One optimizer step.
    Step {
        step: u64,
        total: u64,
        epoch: f64,
        /// Mean loss per trained token over the whole step.
        loss: f64,
        lr: f64,
        /// Norm of the gradient before clipping.
        grad_norm: f64,
        /// Tokens through the model, padding not counted.
        tokens: u64,
        trained_tokens: u64,
        /// Tokens computed for nothing, to fill a batch. The CPU's batches have none.
        #[serde(default, skip_serializing_if = "is_zero")]
        padding: u64,
        ms: f64,
        /// Between the end of the step before and the beginning of this one: gathering rows, writing events. Evaluations,
        /// checkpoints and pauses are not counted.
        #[serde(default)]
        wait_ms: f64,
        /// Ids of the rows of this step.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rows: Vec<String>,
        /// Each row's mean loss per trained token, in the order of `rows`; empty where it is not known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        losses: Vec<f32>,
    },
    /// An evaluation in mid-run.
    Eval {
        step: u64,
        /// Mean loss per trained token on the dev part.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metrics: BTreeMap<String, f64>,
    },
    /// What the model says now on a fixed row.
    Sample {
        step: u64,
        row: String,
        output: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gold: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        correct: Option<bool>,
        /// An end token came before the limit; none where that is not known, or the gold itself is beyond the limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<bool>,
    },
    /// Somebody changed the run; `step` is the first one that is taken with it.
    Change {
        step: u64,
        change: Change,
        /// Why it is not done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    /// The doctor's rule began to hold (or what it says changed), or holds no more.
    Finding {
        step: u64,
        holds: bool,
        finding: Finding,
    },
    /// Figures of a resident run, or of one that grows rows, as they are now; each replaces the one of its name.
    Figures {
        metrics: BTreeMap<String, f64>,
    },
    /// Of a run that tunes prompts.
    Prompt(PromptNews),
    /// Of a run that looks for worked examples.
    Trajectory(TrajectoryNews),
    Log {
        message: String,
    },
    Warning {
        message: String,
    },
    /// A checkpoint was written; the path is relative to the run folder.
    Checkpoint {
        step: u64,
        path: String,
        best: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}
