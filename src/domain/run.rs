//! Runs: kinds, states, the frozen specification and the record shown on screens.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, ModelRef};
use super::finding::Finding;
use super::grow::{GrowSettings, RowForm};
use super::judge::{Judge, PairSettings};
use super::keys::KeyNeed;
use super::preflight::PastRuns;
use super::prompt::PromptSettings;
use super::resident::{PlaySettings, ServeSettings};
use super::row::{Part, RowRef};
use super::sets::SetSettings;
use super::settings::{CacheSettings, EvalSettings, RangeSettings, StrataSettings, TrainSettings};
use super::steer::Origin;
use super::sweep::Group;
use super::trajectory::TrajectorySettings;
use super::words;

/// Version of the run folder's format.
pub const RUN_FORMAT: u32 = 1;

/// A piece of work with a life of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    Strata,
    Eval,
    /// Prompts are tuned.
    Prompt,
    /// Worked examples are found.
    Trajectory,
    Train,
    /// A learning-rate range test.
    #[serde(rename = "lr-range")]
    LrRange,
    /// Two candidates' answers side by side, by a judge.
    Judge,
    /// New rows are made of train rows.
    Grow,
    /// Models behind an endpoint on this machine.
    Serve,
    /// Models that answer what is asked on the screen.
    Playground,
}

impl RunKind {
    pub const ALL: [Self; 10] = [
        Self::Strata,
        Self::Eval,
        Self::Prompt,
        Self::Trajectory,
        Self::Train,
        Self::LrRange,
        Self::Judge,
        Self::Grow,
        Self::Serve,
        Self::Playground,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Strata => "strata",
            Self::Eval => "eval",
            Self::Prompt => "prompt",
            Self::Trajectory => "trajectory",
            Self::Train => "train",
            Self::LrRange => "lr-range",
            Self::Judge => "judge",
            Self::Grow => "grow",
            Self::Serve => "serve",
            Self::Playground => "playground",
        }
    }

    /// It stays and answers, beside the batch run that is under way; works on no rows, and has no result of its own.
    pub const fn is_resident(self) -> bool {
        matches!(self, Self::Serve | Self::Playground)
    }
}

impl fmt::Display for RunKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RunKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|k| k.name() == s).ok_or_else(|| {
            format!("`{s}` is no kind of run; expected one of: {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Queued,
    Running,
    Paused,
    /// Came to its end by itself.
    Done,
    /// Ended early on request, with its results kept.
    Stopped,
    Cancelled,
    Failed,
    /// The worker died; resumes from its last checkpoint.
    Interrupted,
}

impl RunState {
    /// No worker lives, and none will without somebody's asking.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running | Self::Paused)
    }

    /// The results of the run can be used.
    pub const fn has_result(self) -> bool {
        matches!(self, Self::Done | Self::Stopped)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a person can ask of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunAction {
    Pause,
    Resume,
    Checkpoint,
    /// Finish now, with a checkpoint, and keep the results.
    Stop,
    Cancel,
}

/// What the worker is to do, with its resolved settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "lowercase")]
pub enum Job {
    Strata(StrataSettings),
    Eval(EvalSettings),
    Prompt {
        prompt: PromptSettings,
        /// What says which rows are right, and how the tuned candidate is scored at the end.
        eval: EvalSettings,
        /// The model that `prompt.critic` names.
        critic: Option<Box<ModelRef>>,
        /// Its rubric is what is tuned, on answers that people judged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        judge: Option<Box<Judge>>,
    },
    Trajectory {
        trajectory: TrajectorySettings,
        /// What says which rows are right, and how the candidate is scored at the end.
        eval: EvalSettings,
    },
    Train {
        train: TrainSettings,
        /// How the trained candidate is scored at the end.
        eval: EvalSettings,
    },
    #[serde(rename = "lr-range")]
    LrRange {
        /// What would be trained; its learning rate and schedule are not used.
        train: TrainSettings,
        range: RangeSettings,
    },
    Judge(PairSettings),
    Grow {
        grow: GrowSettings,
        form: RowForm,
        /// The model that writes.
        maker: Box<ModelRef>,
        /// So many of the rows, the first ones, are grown from; the others are shown beside them.
        from: usize,
        /// What says whether the new rows' golds are right.
        eval: EvalSettings,
    },
    Serve(ServeSettings),
    Playground(PlaySettings),
}

impl Job {
    pub const fn kind(&self) -> RunKind {
        match self {
            Self::Strata(_) => RunKind::Strata,
            Self::Eval(_) => RunKind::Eval,
            Self::Prompt { .. } => RunKind::Prompt,
            Self::Trajectory { .. } => RunKind::Trajectory,
            Self::Train { .. } => RunKind::Train,
            Self::LrRange { .. } => RunKind::LrRange,
            Self::Judge(_) => RunKind::Judge,
            Self::Grow { .. } => RunKind::Grow,
            Self::Serve(_) => RunKind::Serve,
            Self::Playground(_) => RunKind::Playground,
        }
    }
}

/// `spec.json`: frozen at launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    pub format: u32,
    pub id: String,
    pub workspace: String,
    pub created_ms: u64,
    pub seed: u64,
    /// Threads the worker may use.
    pub threads: usize,
    pub job: Job,
    /// What is evaluated, or for training: what the adapter is put on. None for strata.
    pub candidate: Option<Candidate>,
    /// What the person set for this run, for the record.
    pub settings: Vec<(String, String)>,
    /// For training: what this workspace's earlier runs teach about its time and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<PastRuns>,
    /// The checkpoint that it starts from; a copy is in `inputs/start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The workspace's response cache.
    #[serde(default)]
    pub cache: CacheSettings,
    /// Sets beside the rows, each with its rows in `inputs/set-NAME.jsonl`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetSettings>,
    /// In the order of `inputs/rows.jsonl`.
    pub rows: Vec<RowRef>,
}

impl RunSpec {
    /// What the models that it asks need. A range test asks none.
    pub fn needs_keys(&self) -> Vec<KeyNeed> {
        match (&self.job, &self.candidate) {
            (Job::Eval(eval) | Job::Train { eval, .. }, Some(candidate)) => {
                KeyNeed::of_models(candidate, &eval.judges, eval.intent.model.as_deref())
            }
            (Job::Trajectory { trajectory, eval }, Some(candidate)) => {
                let judge = trajectory.judge.as_ref().map(|judge| &judge.model);
                let embedders = [trajectory.model.as_deref(), eval.intent.model.as_deref()];
                let beside = judge.into_iter().chain(embedders.into_iter().flatten());
                KeyNeed::of_models(candidate, &eval.judges, beside)
            }
            (Job::Prompt { eval, critic, .. }, Some(candidate)) => {
                let beside = critic.as_deref().into_iter().chain(eval.intent.model.as_deref());
                KeyNeed::of_models(candidate, &eval.judges, beside)
            }
            (Job::Grow { eval, maker, grow, .. }, Some(candidate)) => {
                let embedders = [grow.embedder.as_deref(), eval.intent.model.as_deref()];
                let beside = std::iter::once(&**maker).chain(embedders.into_iter().flatten());
                KeyNeed::of_models(candidate, &eval.judges, beside)
            }
            (Job::Strata(strata), _) => {
                strata.embedder.as_deref().and_then(KeyNeed::of).into_iter().collect()
            }
            (Job::Judge(pairs), _) => KeyNeed::of(&pairs.judge.model).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

/// How far the current phase of a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: String,
    pub done: u64,
    pub total: u64,
    pub eta_ms: Option<u64>,
}

impl Progress {
    /// After a training step of `ms`. The run's own estimate, told now and then, is by the mean of many steps, and goes on until the
    /// next; a single step says little.
    pub fn after_step(before: Option<&Self>, step: u64, total: u64, ms: f64) -> Self {
        const PHASE: &str = "train";
        let told = before.filter(|p| p.phase == PHASE && p.done < p.total);
        let per_step = told.and_then(|p| Some(p.eta_ms? as f64 / (p.total - p.done) as f64)).unwrap_or(ms);
        let eta_ms = Some((total.saturating_sub(step) as f64 * per_step) as u64);
        Self { phase: PHASE.into(), done: step, total, eta_ms }
    }

    /// For people: `epoch 1/5, screening: 30 of 160, 12 s left`.
    pub fn line(&self) -> String {
        let left = self.eta_ms.map_or_else(String::new, |ms| format!(", {} left", words::duration(ms)));
        format!("{}: {} of {}{left}", self.phase, self.done, self.total)
    }
}

/// A run as the screens and `runs` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub run: String,
    pub kind: RunKind,
    pub state: RunState,
    pub created_ms: u64,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    /// Time in which it ran, up to its last event: not while it waited, was paused or had no worker.
    pub ran_ms: u64,
    /// When it last told anything.
    pub told_ms: u64,
    pub settings: Vec<(String, String)>,
    /// The checkpoint that it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The sweep that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    pub progress: Option<Progress>,
    /// Last figures: `loss`, `eval_loss`, and at the end the metrics.
    pub metrics: BTreeMap<String, f64>,
    /// What the doctor finds in it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Name of the candidate that the run scored or made.
    pub candidate: Option<String>,
    /// Last words: why it failed, or what it waits for.
    pub message: Option<String>,
    /// Can be resumed (interrupted, stopped or cancelled with a checkpoint).
    pub resumable: bool,
    /// Highest event sequence number known.
    pub last_seq: u64,
}

impl RunRecord {
    /// How long it has run by `now_ms`; none before its start.
    pub fn took_ms(&self, now_ms: u64) -> Option<u64> {
        self.started_ms?;
        let since = if self.state == RunState::Running { now_ms.saturating_sub(self.told_ms) } else { 0 };
        Some(self.ran_ms + since)
    }

    /// Whether an action makes sense where the run stands.
    pub const fn accepts(&self, action: RunAction) -> bool {
        match action {
            RunAction::Pause => {
                matches!(self.state, RunState::Running) && !matches!(self.kind, RunKind::Playground)
            }
            RunAction::Resume => self.resumable || matches!(self.state, RunState::Paused),
            RunAction::Checkpoint if self.kind.is_resident() => false,
            RunAction::Checkpoint | RunAction::Stop => {
                matches!(self.state, RunState::Running | RunState::Paused)
            }
            RunAction::Cancel => !self.state.is_final(),
        }
    }
}

/// Figure of a training run: evaluations on dev rows of which the best chose its checkpoint.
pub const SELECTED_AMONG: &str = "selected_among";

/// What a worker hands back at the end (`artifacts/result.json`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    pub metrics: BTreeMap<String, f64>,
    /// The candidate whose outcomes stand in `outcomes.jsonl`.
    pub candidate: Option<Candidate>,
    /// Asked to stop before its end.
    pub stopped: bool,
    /// The outcomes are of this part and not of the board's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}
