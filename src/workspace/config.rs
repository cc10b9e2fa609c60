//! What `workspace.toml` says, with its defaults filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::address::Address;
pub use crate::domain::board::{Goal, Want};
use crate::domain::candidate::OutputKind;
pub use crate::domain::grow::GrowSettings;
use crate::domain::judge::Verdicts;
use crate::domain::keys::KeyNeed;
use crate::domain::metric::Metric;
pub use crate::domain::prompt::{PromptSettings, PromptTask};
use crate::domain::sets::SetSettings;
pub use crate::domain::settings::Budget;
use crate::domain::settings::{
    CacheSettings, DeviceChoice, EvalSettings, RangeSettings, StrataSettings, TrainSettings,
};
pub use crate::domain::trajectory::TrajectorySettings;

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
    /// By name, each once.
    pub judges: Vec<JudgeEntry>,
    /// `[eval] judge`: the one that `judge` without a name means; one of `judges`.
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
    /// Rows with the same value of one of these fields never straddle parts.
    pub group: Vec<String>,
    /// Neither do rows that say nearly the same.
    pub near_duplicates: bool,
    pub seed: u64,
}

impl Default for Split {
    fn default() -> Self {
        Self {
            eval: 0.15,
            dev: 0.10,
            reserve: 0.10,
            stratified: true,
            group: Vec::new(),
            near_duplicates: true,
            seed: 7,
        }
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
    pub timeout: Option<u64>,
    pub mask_pii: bool,
    /// Of a local one.
    pub device: DeviceChoice,
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

/// `[[judge]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeEntry {
    pub name: String,
    /// Name of a model.
    pub model: String,
    /// File with the rubric; none: the built-in one.
    pub rubric: Option<PathBuf>,
    /// File with the rubric for two answers side by side; none: the built-in one.
    pub pairwise: Option<PathBuf>,
    pub verdicts: Verdicts,
    /// First gather what the question needs, then judge on it.
    pub two_step: bool,
    pub max_tokens: usize,
    /// Cohen's kappa with people from which on it is to be trusted.
    pub agreement_at_least: f64,
    /// Answers that people must have judged for that.
    pub people_at_least: usize,
}

impl JudgeEntry {
    /// A judge with nothing but a model.
    pub fn plain(name: &str, model: &str) -> Self {
        Self {
            name: name.to_owned(),
            model: model.to_owned(),
            rubric: None,
            pairwise: None,
            verdicts: Verdicts::new(["bad", "good"].map(String::from).to_vec()),
            two_step: false,
            max_tokens: 256,
            agreement_at_least: 0.6,
            people_at_least: 30,
        }
    }
}

impl Config {
    /// A judge by its name; with none, the one that `judge` means.
    pub fn judge_named(&self, name: Option<&str>) -> Option<&JudgeEntry> {
        match name.or(self.judge.as_deref()) {
            Some(name) => self.judges.iter().find(|j| j.name == name),
            None => match self.judges.as_slice() {
                [only] => Some(only),
                _ => None,
            },
        }
    }

    /// The judges that metrics and goals need, the one that `judge` means first where it is among them.
    pub fn judges_of_eval(&self) -> Vec<&JudgeEntry> {
        let asked = self.eval.metrics.iter().chain([&self.eval.primary]);
        let asked = asked.chain(self.goals.iter().map(|goal| &goal.metric));
        let metrics = asked.filter_map(|name| Metric::find(name).ok()).filter(Metric::is_judged);
        let named: Vec<Option<String>> = metrics.map(|metric| metric.argument).collect();
        let mut found: Vec<&JudgeEntry> = Vec::new();
        // `judge` is what the first one says.
        let (nameless, by_name): (Vec<_>, Vec<_>) = named.iter().partition(|name| name.is_none());
        for name in nameless.into_iter().chain(by_name) {
            if let Some(judge) = self.judge_named(name.as_deref())
                && found.iter().all(|known| known.name != judge.name)
            {
                found.push(judge);
            }
        }
        found
    }
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
    pub prompt: PromptSettings,
    pub trajectory: TrajectorySettings,
    pub train: TrainSettings,
    pub lr_range: RangeSettings,
    pub grow: GrowSettings,
}
