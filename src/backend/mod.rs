//! Something that answers.

use thiserror::Error;

use crate::domain::candidate::{AdapterRef, Decoding, ModelRef};

/// One question. A chat model gets `text` as the user's turn; a model without a chat template as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub text: String,
    pub decoding: Decoding,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub text: String,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// Time to the first token.
    pub ttft_ms: f64,
    pub ms: f64,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BackendError(pub String);

/// A model that answers. Answers stand in the order of the questions.
pub trait Backend {
    fn answer(&mut self, asks: &[Ask]) -> Vec<Result<Answer, BackendError>>;
}

/// Open a model.
pub fn open(
    model: &ModelRef,
    _adapter: Option<&AdapterRef>,
    _threads: usize,
) -> Result<Box<dyn Backend>, BackendError> {
    Err(BackendError(format!("the model `{}` cannot be opened yet", model.name)))
}
