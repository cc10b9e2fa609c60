//! Something that answers.

pub mod cache;
pub mod device;
pub mod endpoint;
mod forms;
mod growing;
mod local;
pub mod mask;
pub mod meter;
pub mod models;
mod replace;
pub mod resident;
mod shared;

use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::domain::candidate::{AdapterRef, Constraint, Decoding, ModelRef, ModelSource};
use crate::domain::keys::Keys;
use crate::domain::report::RunInputs;
use crate::domain::settings::{CachePlace, DeviceChoice};
use crate::model::chat::Message;

pub use endpoint::Endpoint;
pub use local::{AskId, Lane, LocalModel, Progress, Settings};
pub use meter::Meter;
pub use shared::Shared;

/// What a question consists of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Prompt {
    /// A stage's prompt: the user's turn of a chat model, the text as it stands for a model without a chat template.
    Turn(String),
    /// A conversation; a model without a chat template reads it as text with the roles written out.
    Chat(Vec<Message>),
    /// Text that the model is to continue.
    Text(String),
}

/// One question. Its JSON is part of the cache's key: every field tells questions apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ask {
    pub prompt: Prompt,
    pub decoding: Decoding,
    pub constraint: Option<Constraint>,
    /// Tools that the model may call, each as OpenAI's `tools` has it.
    pub tools: Vec<serde_json::Value>,
    /// Tells repeated drawings of the same question apart; part of the cache's key.
    pub sample: u32,
    /// Log-probability of every token of the answer, with so many of the likeliest others.
    pub logprobs: Option<usize>,
}

impl Ask {
    /// A stage's question.
    pub fn turn(text: impl Into<String>, decoding: Decoding) -> Self {
        Self {
            prompt: Prompt::Turn(text.into()),
            decoding,
            constraint: None,
            tools: Vec::new(),
            sample: 0,
            logprobs: None,
        }
    }

    /// The text of the last turn.
    pub fn text(&self) -> &str {
        match &self.prompt {
            Prompt::Turn(text) | Prompt::Text(text) => text,
            Prompt::Chat(messages) => messages.last().map_or("", |m| m.content.as_str()),
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// By the model's own wish, a stop string, or because a constraint was fulfilled.
    #[default]
    Stop,
    /// At `max_tokens` or the end of the context.
    Length,
    /// With calls of tools.
    ToolCalls,
    /// The listener had enough.
    Broken,
}

/// A token of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenLogprob {
    pub text: String,
    /// Natural logarithm of its probability, before temperature and cuts.
    pub logprob: f64,
    /// The likeliest tokens in its place, likeliest first.
    pub top: Vec<(String, f64)>,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    pub text: String,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// Time to the first token.
    pub ttft_ms: f64,
    pub ms: f64,
    pub finish: Finish,
    /// As far as they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// With labels to choose from: each with its probability, likeliest first.
    pub labels: Vec<(String, f64)>,
    /// Calls of tools, each as OpenAI's `tool_calls` has it.
    pub tool_calls: Vec<serde_json::Value>,
    /// From the response cache: its times are those of the first asking.
    pub cached: bool,
    /// Pieces of personal data that went out as placeholders.
    pub masked: u32,
    /// Waiting beside the answer's own time: for a limit on requests, or until it was asked again.
    pub waited_ms: f64,
    /// The server counted no tokens; what stands here is reckoned from the length of the texts.
    pub estimated: bool,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BackendError(pub String);

/// What is heard of an answer while it is made.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// More of its text. The listener may break the answer off.
    Piece(&'a str),
    /// Nothing, but it is still waited for: for its turn, for a server. The listener may give the question up.
    Waiting,
    /// It has ended: once for every answer that is no error, as soon as it is whole (or broken off).
    Done(&'a Answer),
}

/// Hears of answers as they come, by the place of the question.
pub type Listener<'a> = dyn FnMut(usize, Heard<'_>) -> ControlFlow<()> + 'a;

/// A model that answers. Answers stand in the order of the questions.
pub trait Backend {
    /// Answers while `listener` hears.
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>>;

    fn answer(&mut self, asks: &[Ask]) -> Vec<Result<Answer, BackendError>> {
        self.stream(asks, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Questions that it works on at once; a batch should not have fewer.
    fn width(&self) -> usize {
        1
    }

    /// What sets its answers apart from others of the same model: they are computed otherwise. Empty: nothing.
    fn variant(&self) -> &'static str {
        ""
    }

    /// What a person should know of where it answers.
    fn told(&self) -> Option<String> {
        None
    }

    /// Ask anew from now on (or no longer), whatever a cache remembers: what is timed must be worked for.
    fn set_fresh(&mut self, _fresh: bool) {}
}

/// What a backend may use beside the model itself.
#[derive(Clone, Debug)]
pub struct Access {
    /// Threads for a batch.
    pub threads: usize,
    /// Where models of this machine compute, whatever their tables say.
    pub device: Option<DeviceChoice>,
    pub keys: Keys,
    /// The response cache.
    pub cache: Option<CachePlace>,
    /// Counts the requests of endpoints that are opened.
    pub meter: Meter,
}

impl Access {
    /// Threads alone: no keys, no cache.
    pub fn threads(threads: usize) -> Self {
        Self { threads, device: None, keys: Keys::default(), cache: None, meter: Meter::default() }
    }

    /// What a run was given.
    pub fn of(inputs: &RunInputs) -> Self {
        Self { keys: inputs.keys.clone(), cache: inputs.cache.clone(), ..Self::threads(inputs.spec.threads) }
    }
}

/// Opens a model, with an adapter in PEFT's format, behind the response cache where there is one.
pub fn open(
    model: &ModelRef,
    adapter: Option<&AdapterRef>,
    access: &Access,
) -> Result<Box<dyn Backend>, BackendError> {
    let inner = open_model(model, adapter, access)?;
    Ok(match &access.cache {
        Some(place) => cache::Cached::wrap(inner, model, adapter, place),
        None => inner,
    })
}

fn open_model(
    model: &ModelRef,
    adapter: Option<&AdapterRef>,
    access: &Access,
) -> Result<Box<dyn Backend>, BackendError> {
    match &model.source {
        ModelSource::Local { path } => {
            let failed =
                |why: String| BackendError(format!("the model `{}` cannot be opened: {why}", model.name));
            let settings = Settings::threads(access.threads);
            let choice = access.device.unwrap_or(model.device);
            let (settings, said) =
                device::settings_for(Path::new(path), choice, settings).map_err(&failed)?;
            match LocalModel::open(Path::new(path), model, adapter, settings) {
                Ok(local) => Ok(Box::new(local.telling(said))),
                Err(e) => Err(failed(e.to_string())),
            }
        }
        ModelSource::Endpoint { .. } => match adapter {
            None => Ok(Box::new(Endpoint::open(model, &access.keys)?.metered(&access.meter))),
            Some(_) => Err(BackendError(format!(
                "the model `{}` stands behind an endpoint, which takes no adapter",
                model.name
            ))),
        },
    }
}
