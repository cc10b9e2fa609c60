//! What `workspace.toml` says, with its defaults filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::address::Address;
pub use crate::domain::board::{Goal, Want};
use crate::domain::candidate::OutputKind;
use crate::domain::keys::KeyNeed;
use crate::domain::sets::SetSettings;
use crate::domain::settings::{CacheSettings, EvalSettings, RangeSettings, StrataSettings, TrainSettings};

/// What kind of answer the pipeline gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    #[default]
    Classification,
    Extraction,
    Generation,
    Agent,
}

impl Task {
    pub const ALL: [Self; 4] = [Self::Classification, Self::Extraction, Self::Generation, Self::Agent];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Extraction => "extraction",
            Self::Generation => "generation",
            Self::Agent => "agent",
        }
    }
}

/// Everything in `workspace.toml`. Paths are as written: relative to the workspace's folder unless absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub name: String,
    pub task: Task,
    pub goals: Vec<Goal>,
    pub data: DataConfig,
    pub models: BTreeMap<String, ModelEntry>,
    /// At least one.
    pub stages: Vec<Stage>,
    pub eval: EvalSettings,
    /// General-ability sets.
    pub sets: Vec<SetConfig>,
    /// Model that judges, where a metric needs one.
    pub judge: Option<String>,
    /// `[strata]`, with `[data] dimensions` and the split's seed where it has none of its own.
    pub strata: StrataSettings,
    pub tuning: Tuning,
    pub cache: CacheSettings,
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// At least one.
    pub sources: Vec<String>,
    /// minijinja template over the row's fields; none: what the data's shape offers.
    pub input: Option<String>,
    /// Field with the golden answer; none: what the data's shape offers.
    pub gold: Option<String>,
    /// Metadata fields whose values make strata.
    pub dimensions: Vec<String>,
    /// `builtin` or a model's name.
    pub embedder: String,
    pub split: Split,
}

/// `[data.split]`: shares of the four parts; `train` is what is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub eval: f64,
    pub dev: f64,
    pub reserve: f64,
    pub stratified: bool,
    /// Rows with the same value of this field never straddle parts.
    pub group: Option<String>,
    pub seed: u64,
}

impl Default for Split {
    fn default() -> Self {
        Self { eval: 0.15, dev: 0.10, reserve: 0.10, stratified: true, group: None, seed: 7 }
    }
}

/// `[models.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    pub place: ModelPlace,
    pub usd_per_million_input: Option<f64>,
    pub usd_per_million_output: Option<f64>,
    pub usd_per_hour: Option<f64>,
    pub max_in_flight: Option<usize>,
    pub requests_per_minute: Option<usize>,
    pub mask_pii: bool,
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelPlace {
    /// A Hugging Face folder.
    Local { path: PathBuf },
    /// An OpenAI-compatible endpoint.
    Endpoint { endpoint: String, model: String, api_key_env: Option<String> },
}

impl ModelPlace {
    /// The key that goes to its endpoint.
    pub fn key_need(&self) -> Option<KeyNeed> {
        let Self::Endpoint { endpoint, .. } = self else { return None };
        let origin = Address::parse(endpoint).ok()?.origin();
        Some(KeyNeed { origin, variable: self.key_variable()?.to_owned() })
    }

    /// The environment variable with its key.
    pub fn key_variable(&self) -> Option<&str> {
        match self {
            Self::Endpoint { api_key_env, .. } => api_key_env.as_deref(),
            Self::Local { .. } => None,
        }
    }
}

/// `[[stage]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    /// Name of a model.
    pub model: String,
    /// File with the prompt template; none: the bare input.
    pub prompt: Option<PathBuf>,
    pub output: OutputKind,
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    pub seed: u64,
    /// What the answer must look like; none: whatever the model says.
    pub constrain: Option<Constrain>,
    /// minijinja expression: the stage runs only where it holds.
    pub when: Option<String>,
    /// Files with the definitions of recorded tools.
    pub tools: Vec<PathBuf>,
    /// Field with the stage's own gold.
    pub gold: Option<String>,
    /// The stage's own metric, by its whole name (`route.accuracy`); it stands among those of `[eval]`.
    pub metric: Option<String>,
    pub retries: u32,
}

/// `[[set]]`: rows beside the task's, so that forgetting shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetConfig {
    /// Files, as in `[data]`.
    pub sources: Vec<String>,
    pub input: Option<String>,
    pub gold: Option<String>,
    /// Evaluated with every evaluation; else where `[eval] sets` names it.
    pub every: bool,
    pub settings: SetSettings,
}

/// `constrain` of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Constrain {
    /// One of the stage's labels.
    Labels,
    /// Any JSON object.
    Json,
    /// A valid call of one of the stage's tools.
    Call,
    /// A text that the whole of this regular expression matches.
    Regex(String),
    /// File with a JSON Schema.
    Schema(PathBuf),
}

/// `[tuning]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    pub prompt: PromptTuning,
    pub trajectory: TrajectoryTuning,
    pub train: TrainSettings,
    pub lr_range: RangeSettings,
}

/// `[tuning.prompt]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptTuning {
    pub fan_out: usize,
    pub epochs: usize,
    pub survivors: usize,
    pub rows: usize,
    /// Name of a model; none: edits that need no model.
    pub critic: Option<String>,
    /// Stages to tune; empty: all.
    pub stages: Vec<String>,
    pub budget: Budget,
}

impl Default for PromptTuning {
    fn default() -> Self {
        Self {
            fan_out: 16,
            epochs: 5,
            survivors: 4,
            rows: 40,
            critic: None,
            stages: Vec::new(),
            budget: Budget::default(),
        }
    }
}

/// Where tuning stops, whichever comes first; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    pub calls: Option<u64>,
    pub usd: Option<f64>,
    pub seconds: Option<u64>,
}

/// `[tuning.trajectory]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrajectoryTuning {
    /// Examples retrieved for each input.
    pub shots: usize,
}

impl Default for TrajectoryTuning {
    fn default() -> Self {
        Self { shots: 5 }
    }
}
