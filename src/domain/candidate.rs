//! Candidates: anything that can be evaluated.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::example::StageExamples;
use super::settings::DeviceChoice;
use super::tool::Tool;

/// What a stage's answer is read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    Label,
    Json,
    #[default]
    Text,
    Tool,
}

/// Where answers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum ModelSource {
    /// A Hugging Face folder, absolute.
    Local { path: String },
    /// An OpenAI-compatible endpoint.
    Endpoint { endpoint: String, model: String, api_key_env: Option<String> },
}

/// A model by name, place and content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRef {
    /// Its name in `workspace.toml`.
    pub name: String,
    #[serde(flatten)]
    pub source: ModelSource,
    /// Content hash of configuration, tokenizer and weights (endpoint: of address and model name).
    pub hash: String,
    /// US dollars per million tokens read and written, or per hour for a local machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_million_input: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_million_output: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// Where a model of this machine answers.
    #[serde(default, skip_serializing_if = "DeviceChoice::is_auto")]
    pub device: DeviceChoice,
}

/// How an endpoint may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests under way at once.
    pub max_in_flight: Option<usize>,
    pub requests_per_minute: Option<usize>,
    /// Seconds in which nothing comes of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Personal data goes out as placeholders, which are reversed in the answer.
    pub mask_pii: bool,
}

impl Limits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A LoRA adapter in PEFT's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterRef {
    /// Absolute path of the folder.
    pub path: String,
    pub hash: String,
}

/// How answers are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    pub max_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    /// Tokens less likely than this share of the likeliest are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Logits of tokens seen in prompt or answer are divided by it where positive, else multiplied; none or 1: no penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// The answer ends before the first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    pub seed: u64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            max_tokens: 64,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

/// What an answer must look like; the model can say nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Constraint {
    /// One of these, with the probability of each.
    Labels(Vec<String>),
    /// A text that the whole of this regular expression matches.
    Regex(String),
    /// JSON of this schema (JSON Schema).
    Schema(serde_json::Value),
    /// Any JSON object.
    Json,
}

/// One stage of a pipeline, frozen: everything that decides its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageCandidate {
    pub name: String,
    pub model: ModelRef,
    pub adapter: Option<AdapterRef>,
    /// The prompt template's text (minijinja). `{{ input }}` is the row's input; the row's fields and the outputs of earlier stages are in scope.
    pub prompt: String,
    /// What the prompt is called on the board: file name and short hash, or `bare`.
    pub prompt_name: String,
    pub output: OutputKind,
    /// For labels: the set of valid answers, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    pub decoding: Decoding,
    /// Run the stage only when this expression holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default)]
    pub retries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// Recorded tools that the stage may call, with all their responses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Field with the stage's own gold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
    /// Worked examples that are retrieved for each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<StageExamples>,
}

impl StageCandidate {
    /// The stage's gold on a row, from the field that it names.
    pub fn own_gold(&self, fields: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
        match fields.get(self.gold.as_ref()?)? {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// The rung of candidates whose outcomes were made elsewhere: they cannot be run.
pub const IMPORTED: &str = "imported";

/// Anything that can be evaluated. Its id is the hash of [`Candidate::canonical`]; its name a slug that people may change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub name: String,
    /// The rung of the ladder: `baseline`, `prompt`, `trajectory`, `lora`, or `imported`.
    pub rung: String,
    pub stages: Vec<StageCandidate>,
}

impl StageCandidate {
    /// The prompt of who has none: the input and nothing else.
    pub const BARE: &str = "{{ input }}";

    /// A row that is a conversation is asked turn by turn, not as one text.
    pub fn is_bare(&self) -> bool {
        self.prompt.trim() == Self::BARE
    }
}

impl Candidate {
    /// Canonical JSON: every part by content, no names, no paths, no prices; keys sorted.
    pub fn canonical(&self) -> String {
        let stages: Vec<BTreeMap<&str, serde_json::Value>> = self
            .stages
            .iter()
            .map(|s| {
                let mut parts: BTreeMap<&str, serde_json::Value> = BTreeMap::from([
                    ("name", s.name.clone().into()),
                    ("model", s.model.hash.clone().into()),
                    ("adapter", s.adapter.as_ref().map(|a| a.hash.clone()).into()),
                    ("prompt", s.prompt.clone().into()),
                    ("output", serde_json::json!(s.output)),
                    ("labels", s.labels.clone().into()),
                    ("max_tokens", s.decoding.max_tokens.into()),
                    ("temperature", s.decoding.temperature.into()),
                    ("top_k", s.decoding.top_k.into()),
                    ("top_p", s.decoding.top_p.into()),
                    ("seed", s.decoding.seed.into()),
                    ("when", s.when.clone().into()),
                    ("retries", s.retries.into()),
                ]);
                // What came later counts only where it is set, so that older candidates keep their ids.
                let decoding = &s.decoding;
                let later: [(&str, Option<serde_json::Value>); 6] = [
                    ("min_p", decoding.min_p.map(Into::into)),
                    ("repetition_penalty", decoding.repetition_penalty.map(Into::into)),
                    ("stop", (!decoding.stop.is_empty()).then(|| decoding.stop.clone().into())),
                    ("constraint", s.constraint.as_ref().map(|c| serde_json::json!(c))),
                    ("tools", (!s.tools.is_empty()).then(|| serde_json::json!(s.tools))),
                    (
                        "examples",
                        s.examples.as_ref().map(|e| match &e.embedder {
                            Some(embedder) => serde_json::json!([e.hash, e.retrieval, embedder.hash()]),
                            None => serde_json::json!([e.hash, e.retrieval]),
                        }),
                    ),
                ];
                parts.extend(later.into_iter().filter_map(|(key, value)| Some((key, value?))));
                parts
            })
            .collect();
        let mut text = serde_json::json!(stages).to_string();
        if stages.is_empty() {
            // An imported candidate has no parts of ours: its name is all that tells it apart.
            text = format!("imported:{}", self.name);
        }
        text
    }

    /// Hex of the BLAKE3 of the canonical JSON.
    pub fn id(&self) -> String {
        blake3::hash(self.canonical().as_bytes()).to_hex().to_string()
    }
}
