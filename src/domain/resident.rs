//! Resident runs: models that stay loaded and answer whoever asks. `serve` answers over HTTP, the playground over a socket of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::candidate::{AdapterRef, Candidate, Decoding, ModelRef};

/// A model by the name that clients ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    pub name: String,
    pub model: ModelRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterRef>,
}

/// How much a resident may take on, and take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Answers under way at once.
    pub at_once: usize,
    /// Questions that may wait beside them; more are refused.
    pub waiting: usize,
    /// Memory for keys and values of the answers under way, in MiB; none: chosen from what is free.
    pub cache_mib: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { at_once: 16, waiting: 64, cache_mib: None }
    }
}

/// Settings of a `serve` run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServeSettings {
    pub models: Vec<Served>,
    /// 0: any free one.
    pub port: u16,
    #[serde(default)]
    pub bounds: Bounds,
}

/// Settings of a playground's worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlaySettings {
    /// Loaded at the start; others follow when they are asked.
    pub candidates: Vec<Candidate>,
    pub bounds: Bounds,
    /// It leaves when nobody asked for so long.
    pub idle_s: u64,
}

/// Idle time after which a playground leaves.
pub const PLAY_IDLE_S: u64 = 600;

/// To a playground's worker. Frames as the engine's protocol has them: u32 length + JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToPlay {
    Ask(Box<PlayAsk>),
    /// Of an earlier ask on this connection. One that has ended already is no error.
    Cancel {
        id: u64,
    },
}

/// One question to one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayAsk {
    /// The asker's own number, different from those of its other questions under way; every event carries it.
    pub id: u64,
    /// Which of the candidates side by side; comes back with every event.
    #[serde(default)]
    pub side: u8,
    /// With everything that decides its answer, as the engine resolved it.
    pub candidate: Candidate,
    pub prompt: PlayPrompt,
    /// Instead of what the candidate's stages say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// The likeliest tokens that are told with each token of the answer; none: no probabilities at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<usize>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PlayPrompt {
    /// A row: goes through all stages of the candidate, with their prompts.
    Row {
        input: String,
        #[serde(default)]
        fields: Map<String, Value>,
    },
    /// A conversation with the model of the candidate's last stage; its prompt is not used.
    Chat { turns: Vec<Turn> },
    /// Text that the model of the last stage is to continue.
    Text { text: String },
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

/// From a playground's worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayEvent {
    pub id: u64,
    pub side: u8,
    #[serde(flatten)]
    pub body: PlayBody,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PlayBody {
    /// A model is asked: the text that it reads, chat template and all. What it says follows as tokens. A pipeline of several
    /// stages has one of these for each, and one more for each retry.
    Prompt { text: String },
    /// A piece of what the model says; several tokens may come as one.
    Token {
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tokens: Vec<PlayToken>,
    },
    /// The whole answer. Nothing follows.
    Finish(PlayAnswer),
    /// No answer, and why. Nothing follows.
    Error { message: String },
}

/// A token of an answer, with its natural log-probability and those of the likeliest in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayToken {
    pub text: String,
    pub logprob: f64,
    pub top: Vec<(String, f64)>,
}

/// Figures are sums over the stages; the first token is the first stage's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlayAnswer {
    /// Output of the last stage that ran.
    pub output: String,
    /// Whether it could be read as what the stage is to say.
    pub format_ok: bool,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub ttft_ms: f64,
    pub ms: f64,
    /// Ended at its limit of tokens.
    pub cut: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_and_come_back_as_they_were() {
        let event = PlayEvent {
            id: 7,
            side: 1,
            body: PlayBody::Finish(PlayAnswer { output: "cards".into(), ..PlayAnswer::default() }),
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["id"], &json["type"], &json["output"]), (&7.into(), &"finish".into(), &"cards".into()));
        assert_eq!(serde_json::from_value::<PlayEvent>(json).unwrap(), event);
        let cancel: ToPlay = serde_json::from_str(r#"{"type": "cancel", "id": 3}"#).unwrap();
        assert_eq!(cancel, ToPlay::Cancel { id: 3 });
    }
}
