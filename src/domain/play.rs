//! The playground: a question put to candidates, their answers as they come, and what a person says of them.
//!
//! The client asks the engine ([`super::api::Request`]), the engine the resident worker of the workspace's playground run, which holds
//! the models: frames of [`PlayRequest`] there, of [`PlayEvent`] back, each in the framing of the engine's own socket.

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, Decoding};
use super::keys::Keys;
use super::outcome::StageOutcome;
use super::row::RunRow;

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
        /// In place of every stage's own.
        #[serde(default)]
        decoding: Option<Decoding>,
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

/// What happens to a question, in this order: waiting, then for every stage prompt, pieces and end, then done or failed.
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

/// What a person says of an answer. An edit is the gold answer of its input, and better than the output that it corrects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
