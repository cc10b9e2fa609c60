//! Something that answers.

mod local;

use std::path::Path;

use thiserror::Error;

use crate::domain::candidate::{AdapterRef, Decoding, ModelRef, ModelSource};

pub use local::LocalModel;

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

/// Opens a model, with an adapter in PEFT's format. `threads`: how many it may use for a batch.
pub fn open(
    model: &ModelRef,
    adapter: Option<&AdapterRef>,
    threads: usize,
) -> Result<Box<dyn Backend>, BackendError> {
    match &model.source {
        ModelSource::Local { path } => match LocalModel::open(Path::new(path), model, adapter, threads) {
            Ok(local) => Ok(Box::new(local)),
            Err(e) => Err(BackendError(format!("the model `{}` cannot be opened: {e}", model.name))),
        },
        ModelSource::Endpoint { endpoint, .. } => Err(BackendError(format!(
            "the model `{}` stands behind an endpoint ({endpoint}), and only local models can answer yet; give it a `path`",
            model.name
        ))),
    }
}
