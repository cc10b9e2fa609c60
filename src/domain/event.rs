//! What a run tells: the lines of `events.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::preflight::Preflight;
use super::run::RunState;

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
        ms: f64,
        /// Ids of the rows of this step.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rows: Vec<String>,
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
    },
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
