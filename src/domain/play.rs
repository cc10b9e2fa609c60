//! The playground: a question put to candidates, their answers as they come, and what a person says of them.
//!
//! The client asks the engine ([`super::api::Request`]), the engine the resident worker of the workspace's playground run, which holds
//! the models: frames of [`PlayRequest`] there, of [`PlayEvent`] back, each in the framing of the engine's own socket.

use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::keys::Keys;
use super::outcome::StageOutcome;
use super::row::RunRow;

/// A client's question, before its candidate and its row are looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayAsk {
    /// The client's own number, different from those of its other questions under way. Its [`PlayEvent`]s carry it.
    pub id: u64,
    /// A candidate's name, the start of its id, RUN or RUN@STEP; none: the pipeline as it stands.
    pub candidate: Option<String>,
    pub input: PlayInput,
    /// In place of every stage's own.
    #[serde(default)]
    pub temperature: Option<f32>,
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// Added to the seed of every stage: another one draws another answer where the temperature is above 0.
    #[serde(default)]
    pub sample: u32,
    /// Probabilities of the answer's tokens, with so many others in their place.
    #[serde(default)]
    pub logprobs: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum PlayInput {
    /// A row of the data.
    Row { id: String },
    /// What the pipeline gets, as it was typed.
    Typed { text: String },
}

/// A question that was accepted, with what was looked up for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Playing {
    pub id: u64,
    /// The candidate's name.
    pub candidate: String,
    /// Names of its stages, in their order.
    pub stages: Vec<String>,
    /// Labels to choose from; empty where the last stage has none.
    pub labels: Vec<String>,
    pub row: Option<String>,
    pub input: String,
    pub gold: Option<String>,
}

/// To the resident worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "play", rename_all = "snake_case")]
pub enum PlayRequest {
    /// Put the row through the candidate's pipeline. `id` is the engine's, new for every question; answers to several run side by
    /// side.
    Ask {
        id: u64,
        candidate: Box<Candidate>,
        /// A row of the data, or one made of what was typed.
        row: Box<RunRow>,
        /// Log-probabilities of the answer's tokens, with so many others in their place.
        #[serde(default)]
        logprobs: Option<usize>,
        #[serde(default)]
        keys: Keys,
    },
    Cancel {
        id: u64,
    },
}

/// From the resident worker, about question `id`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayEvent {
    pub id: u64,
    #[serde(flatten)]
    pub body: PlayBody,
}

/// What happens to a question, in this order: waiting, then for every stage prompt, pieces and end, then done or failed. A stage that
/// is asked again, because its answer could not be read, begins with its prompt again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PlayBody {
    /// Not answering yet, and why: a model is loaded, a run has the device.
    Waiting {
        why: String,
    },
    /// A stage begins: its rendered prompt.
    Prompt {
        stage: String,
        prompt: String,
    },
    /// More of the stage's answer.
    Piece {
        stage: String,
        text: String,
    },
    /// The stage's end, with its tokens as far as they were asked for.
    Stage {
        outcome: StageOutcome,
        tokens: Vec<PlayToken>,
    },
    Done {
        output: String,
    },
    Failed {
        error: String,
    },
}

/// A token of an answer, with its probability and the likeliest others in its place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlayToken {
    pub text: String,
    /// Natural logarithm.
    pub logprob: f64,
    pub top: Vec<(String, f64)>,
}

/// How a [`Feedback`] that is taken back is named.
pub const SAID: &str = "what was said of an answer";

/// What a person says of an answer. An edit is the gold answer of its input, and better than the output that it corrects. With
/// neither thumb nor edit nothing is said any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    /// The row that was asked; none where the input was typed.
    pub row: Option<String>,
    pub input: String,
    /// Name of the candidate that answered.
    pub candidate: String,
    pub output: String,
    /// Thumb up or down.
    #[serde(default)]
    pub good: Option<bool>,
    /// The answer as it should be.
    #[serde(default)]
    pub edit: Option<String>,
}

impl Feedback {
    /// Tells answers apart: what is said again of the same answer replaces what was said before.
    pub fn answer(&self) -> String {
        let about = serde_json::json!([self.row, self.input, self.candidate, self.output]);
        blake3::hash(about.to_string().as_bytes()).to_hex().to_string()
    }

    pub const fn says_nothing(&self) -> bool {
        self.good.is_none() && self.edit.is_none()
    }

    /// The edit, where it says something else than the output: preferred to it.
    pub fn preferred(&self) -> Option<&str> {
        self.edit.as_deref().filter(|edit| *edit != self.output)
    }
}
