//! Settings of runs, with their defaults: the tables of `workspace.toml`, resolved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::candidate::ModelRef;
use super::judge::Judge;
use super::metric::{Known, Metric, MetricError, OwnMetric};
use super::row::Part;

/// `[eval]`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSettings {
    /// A per-row metric: it says which rows are right, hence flips.
    pub primary: String,
    pub metrics: Vec<String>,
    /// Rows of the latency pass: one at a time, warmed, no cache. At least 30 where there are so many.
    pub latency_rows: usize,
    /// Names of the sets (`[[set]]`) that are evaluated beside the rows; none: those with `every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sets: Option<Vec<String>>,
    /// Judges that the metrics and goals need, the one that `judge` means first; filled in when a run is frozen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub judges: Vec<Judge>,
    /// Answers to each row.
    #[serde(skip_serializing_if = "is_one")]
    pub samples: u32,
    /// Metrics of goals that `metrics` does not list: scored on each row, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
    #[serde(skip_serializing_if = "IntentSettings::is_default")]
    pub intent: IntentSettings,
    /// The workspace's own metrics, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnMetric>,
    /// JSON Schemas by the file that `json_schema:FILE` names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<String, Arc<Value>>,
    /// The part that is scored: `eval`, or `reserve` for a claim (which a run asks for; it does not stand in the file).
    #[serde(skip_serializing_if = "is_eval")]
    pub part: Part,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_eval(part: &Part) -> bool {
    *part == Part::Eval
}

#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_one(n: &u32) -> bool {
    *n == 1
}

/// The embedder that needs no model.
pub const BUILTIN: &str = "builtin";

/// `[eval] intent`: when an answer means what the gold means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntentSettings {
    /// `builtin`: hashed words and letters; it knows typos and word forms, no synonyms. Or a model's name.
    pub embedder: String,
    /// That model; filled in when a run is frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Box<ModelRef>>,
    /// Similarity, 0 to 1, from which on it does.
    pub threshold: f64,
}

impl IntentSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for IntentSettings {
    fn default() -> Self {
        Self { embedder: BUILTIN.into(), model: None, threshold: 0.8 }
    }
}

impl EvalSettings {
    /// Where metrics are looked up: the registry and what the workspace adds to it.
    pub fn known(&self) -> Known<'_> {
        Known {
            own: &self.own,
            primary: Some(&self.primary),
            intent: Some(self.intent.threshold),
            schemas: Some(&self.schemas),
        }
    }

    /// The metric that says which rows are right.
    pub fn primary_metric(&self) -> Result<Metric, MetricError> {
        self.known().primary(&self.primary)
    }

    /// Every metric that is scored: the primary one first, each once. Names that mean nothing are left out (the workspace is checked before).
    pub fn scored(&self) -> Vec<Metric> {
        let mut names: Vec<&str> = Vec::new();
        for name in std::iter::once(&self.primary).chain(&self.metrics).chain(&self.beside) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.into_iter().filter_map(|name| self.known().find(name).ok()).collect()
    }
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            primary: "accuracy".into(),
            metrics: ["accuracy", "macro_f1", "format_error_rate", "latency_p95_ms"]
                .map(String::from)
                .to_vec(),
            latency_rows: 30,
            sets: None,
            judges: Vec::new(),
            samples: 1,
            beside: Vec::new(),
            intent: IntentSettings::default(),
            own: Vec::new(),
            schemas: BTreeMap::new(),
            part: Part::Eval,
        }
    }
}

/// Settings key by key (`tuning.prompt.budget.calls`), as text for people. Left out is what says nothing.
pub fn shown(table: &str, settings: &impl Serialize) -> BTreeMap<String, String> {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(many) => many.iter().map(text).collect::<Vec<_>>().join(","),
            Value::Number(n) => {
                let n = n.as_f64().unwrap_or_default();
                // An f32 is not told with the digits of an f64.
                if n as f32 as f64 == n { (n as f32).to_string() } else { n.to_string() }
            }
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
    fn walk(key: String, value: &Value, all: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    walk(format!("{key}.{name}"), value, all);
                }
            }
            value => {
                let text = text(value);
                if !text.is_empty() {
                    all.insert(key, text);
                }
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(table.to_owned(), &serde_json::to_value(settings).unwrap_or_default(), &mut all);
    all
}

/// Where tuning stops, whichever comes first; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Answers of models.
    pub calls: Option<u64>,
    /// Read and written.
    pub tokens: Option<u64>,
    pub usd: Option<f64>,
    pub seconds: Option<u64>,
}

/// `[cache]`: answers that are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Every question is asked anew and no answer is kept.
    pub off: bool,
    /// MiB on disk.
    pub limit_mb: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { off: false, limit_mb: 512 }
    }
}

impl CacheSettings {
    /// Where the answers of a workspace are, by its state folder; none where the cache is off.
    pub fn place(self, state_dir: &Path) -> Option<CachePlace> {
        (!self.off).then(|| CachePlace {
            dir: CachePlace::folder(state_dir),
            limit: self.limit_mb.saturating_mul(1 << 20),
        })
    }
}

/// A response cache on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePlace {
    pub dir: PathBuf,
    /// Bytes.
    pub limit: u64,
}

impl CachePlace {
    /// `cache/answers` of a state folder.
    pub fn folder(state_dir: &Path) -> PathBuf {
        state_dir.join("cache/answers")
    }

    /// `vectors` of the same state folder.
    pub fn vectors(&self) -> Option<PathBuf> {
        Some(self.dir.parent()?.parent()?.join("vectors"))
    }
}

/// Settings of a `strata` run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StrataSettings {
    /// Number of clusters; none: chosen by a criterion.
    pub k: Option<usize>,
    /// Metadata dimensions.
    pub dimensions: Vec<String>,
    /// The model that `[data] embedder` names; filled in when a run is frozen. None: the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedder: Option<Box<ModelRef>>,
    pub seed: u64,
    /// When rows are near duplicates.
    pub duplicates: Likeness,
}

impl Default for StrataSettings {
    fn default() -> Self {
        Self { k: None, dimensions: Vec::new(), embedder: None, seed: 7, duplicates: Likeness::default() }
    }
}

/// `[strata] duplicates`: texts are near duplicates from this Jaccard likeness of their character n-grams on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Likeness {
    pub threshold: f64,
    /// Characters of an n-gram, of the text in lower case with letters and digits only.
    pub ngram: usize,
}

impl Default for Likeness {
    fn default() -> Self {
        Self { threshold: 0.8, ngram: 5 }
    }
}

/// Which linear layers carry an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// `"all-linear"`, one layer name, or a pattern with `*` over full names (`model.layers.*.self_attn.q_proj`).
    One(String),
    Many(Vec<String>),
}

impl Default for Targets {
    fn default() -> Self {
        Self::One("all-linear".into())
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Adapters `W x + (alpha / r) B A x` on frozen weights (Hu et al. 2021, arXiv:2106.09685).
    #[default]
    Lora,
    /// LoRA scaled by `alpha / sqrt(r)` (Kalajdzievski 2023, arXiv:2312.03732).
    Rslora,
    /// LoRA on the direction of the weights, their magnitudes trained beside it (Liu et al. 2024, arXiv:2402.09353).
    Dora,
    /// LoRA on a base in NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314).
    Qlora,
    /// DoRA on such a base.
    Qdora,
    /// Every parameter.
    Full,
}

impl Method {
    pub const ALL: [(&'static str, Self); 6] = [
        ("lora", Self::Lora),
        ("rslora", Self::Rslora),
        ("dora", Self::Dora),
        ("qlora", Self::Qlora),
        ("qdora", Self::Qdora),
        ("full", Self::Full),
    ];

    /// Whether an adapter is trained, and the base stays as it is.
    pub fn trains_adapter(self) -> bool {
        self != Self::Full
    }

    pub fn is_rank_stabilized(self) -> bool {
        self == Self::Rslora
    }

    /// Whether magnitudes are trained beside the directions.
    pub fn is_decomposed(self) -> bool {
        matches!(self, Self::Dora | Self::Qdora)
    }

    /// Whether the base's linear layers are kept in NF4 while training.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::Qlora | Self::Qdora)
    }
}

/// Where adapters start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// `A` at random, `B` zero: the model is the base's.
    #[default]
    Default,
    /// In the principal singular values and vectors of each weight, the residual frozen (Meng et al. 2024, arXiv:2404.02948).
    Pissa,
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Constant,
    Linear,
    #[default]
    Cosine,
}

/// What becomes of activations between forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Kept as far as the free memory reaches.
    #[default]
    Auto,
    Never,
    Always,
}

/// Which turns of the assistant are trained, where rows are conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainedTurns {
    #[default]
    All,
    /// The golden answer alone.
    Last,
}

/// Where a training or a model computes: `auto`, `cpu`, `cuda:0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU where one can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// This GPU or none.
    Cuda(u16),
}

impl DeviceChoice {
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is no device: write auto, cpu or cuda:0")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

/// `[tuning.train]`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// The stage to train; empty: the only one.
    pub stage: String,
    /// `bare` (input only), `same` (the stage's prompt), or a file.
    pub prompt: String,
    /// `sft` is the only objective yet.
    pub objective: String,
    pub method: Method,
    pub rank: usize,
    pub alpha: f32,
    pub targets: Targets,
    /// Ranks and alphas of layers, by names or patterns as `targets` has them; the pattern with the most letters counts.
    pub rank_pattern: BTreeMap<String, usize>,
    pub alpha_pattern: BTreeMap<String, f32>,
    pub init: Init,
    /// Share of the adapters' inputs that a training step drops.
    pub dropout: f32,
    pub learning_rate: f64,
    /// Learning rate of `B` (and of DoRA's magnitudes) by that of `A`: LoRA+ (Hayou et al. 2024, arXiv:2402.12354).
    pub loraplus_lr_ratio: f64,
    pub schedule: Schedule,
    /// Share of all steps.
    pub warmup: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Gradients are scaled down to this norm; 0 switches clipping off.
    pub max_grad_norm: f64,
    pub epochs: f64,
    /// Ends earlier than `epochs` if set.
    pub max_steps: Option<u64>,
    /// Rows of one micro-batch.
    pub batch_size: usize,
    /// Micro-batches per optimizer step.
    pub accumulate: usize,
    /// Whether layers are computed again in the backward, which takes time and spares memory; the gradient is the same.
    pub recompute: Recompute,
    pub device: DeviceChoice,
    pub turns: TrainedTurns,
    /// Longer rows are left out, which is told; in tokens.
    pub max_length: usize,
    /// Steps between evaluations; 0: about ten over the run.
    pub eval_every: u64,
    /// Evaluations without a better dev loss before the run stops early; 0: never.
    pub patience: u64,
    /// Steps between checkpoints; 0: at every evaluation.
    pub checkpoint_every: u64,
    pub keep_checkpoints: usize,
    /// Dev rows that are answered at every evaluation.
    pub fixed_rows: usize,
    pub seed: u64,
    /// The train rows, as [`super::sample::TrainRows`] reads them; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rows: String,
    /// How often rows of a stratum (by its name) are drawn, relative to 1.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// Strata that the best candidate answers better than this get the weight `shrink_to`, unless they have one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shrink_above: Option<f64>,
    pub shrink_to: f64,
}

impl TrainSettings {
    /// Where what was trained is scored: where it was trained, if that was said; else as the model's own table says.
    pub fn scoring_device(&self) -> Option<DeviceChoice> {
        (!self.device.is_auto()).then_some(self.device)
    }
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            stage: String::new(),
            prompt: "bare".into(),
            objective: "sft".into(),
            method: Method::Lora,
            rank: 16,
            alpha: 32.0,
            targets: Targets::default(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            init: Init::Default,
            dropout: 0.0,
            learning_rate: 2e-4,
            loraplus_lr_ratio: 1.0,
            schedule: Schedule::Cosine,
            warmup: 0.03,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            epochs: 4.0,
            max_steps: None,
            batch_size: 8,
            accumulate: 1,
            recompute: Recompute::Auto,
            turns: TrainedTurns::All,
            device: DeviceChoice::Auto,
            max_length: 1024,
            eval_every: 0,
            patience: 0,
            checkpoint_every: 0,
            keep_checkpoints: 3,
            fixed_rows: 6,
            seed: 7,
            rows: String::new(),
            weights: BTreeMap::new(),
            shrink_above: None,
            shrink_to: 0.5,
        }
    }
}

/// `[tuning.lr_range]`, resolved: the rate rises from `lr_min` to `lr_max` in equal ratios over `steps` steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RangeSettings {
    pub lr_min: f64,
    pub lr_max: f64,
    pub steps: u64,
}

impl Default for RangeSettings {
    fn default() -> Self {
        Self { lr_min: 1e-6, lr_max: 1.0, steps: 100 }
    }
}
