//! From a question to what the engine is asked: the form of the answer, and how its tokens are chosen.

use std::sync::{Arc, OnceLock};

use super::{Ask, Prompt, TokenLogprob};
use crate::domain::candidate::{Constraint, Decoding};
use crate::model::ModelError;
use crate::model::chat::ChatTemplate;
use crate::model::constraint::Grammars;
use crate::model::decode::{Lane, Request, Work};
use crate::model::labels::LabelSets;
use crate::model::sampling::{self, Chooser, Chosen};
use crate::model::tokenizer::{TokenBytes, Tokenizer};

/// What a model's vocabulary takes to hold answers to a form; made when first asked for.
#[derive(Debug)]
pub(super) struct Forms {
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    grammars: OnceLock<Result<Grammars, String>>,
    /// After turns of a conversation, and after a text.
    labels: [OnceLock<LabelSets>; 2],
    bytes: OnceLock<Option<TokenBytes>>,
}

impl Forms {
    pub fn new(tokenizer: Arc<Tokenizer>, template: Option<Arc<ChatTemplate>>) -> Self {
        Self {
            tokenizer,
            template,
            grammars: OnceLock::new(),
            labels: Default::default(),
            bytes: OnceLock::new(),
        }
    }

    /// # Errors
    /// Settings that make no sense; a constraint that is wrong or that the model cannot write.
    pub fn request(&self, lane: Lane, ask: &Ask, prompt: Vec<u32>) -> Result<Request, ModelError> {
        let decoding = decoding(ask);
        let work = match &ask.constraint {
            Some(Constraint::Labels(labels)) => {
                sampling::check(&decoding)?;
                Work::Score(Box::new(self.sets(&ask.prompt).scores(&self.tokenizer, &prompt, labels)?))
            }
            form => {
                let matcher = match form {
                    Some(form) => Some(self.grammars()?.matcher(form)?),
                    None => None,
                };
                let chooser = Chooser::new(&decoding, &prompt, matcher, ask.logprobs)?;
                Work::Generate {
                    chooser,
                    max_tokens: decoding.max_tokens,
                    eos: self.tokenizer.eos().to_vec(),
                }
            }
        };
        Ok(Request { lane, prompt, work })
    }

    /// # Errors
    /// A form that is wrong or that the model cannot write.
    pub fn check(&self, form: &Constraint) -> Result<(), ModelError> {
        match form {
            Constraint::Labels(_) => Ok(()),
            form => self.grammars()?.matcher(form).map(drop),
        }
    }

    fn grammars(&self) -> Result<&Grammars, ModelError> {
        let made = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer).map_err(|e| e.to_string()));
        made.as_ref().map_err(|e| ModelError::Request(e.clone()))
    }

    fn sets(&self, prompt: &Prompt) -> &LabelSets {
        let text = matches!(prompt, Prompt::Text(_));
        let template = self.template.as_deref().filter(|_| !text);
        self.labels[usize::from(text)].get_or_init(|| LabelSets::new(&self.tokenizer, template))
    }

    /// A token with its log-probability as an answer tells it; none where it was not asked for.
    pub fn logprob(&self, chosen: &Chosen) -> Option<TokenLogprob> {
        let logprob = chosen.logprob?;
        let top = chosen.top.iter().map(|&(id, logprob)| (self.text(id), logprob)).collect();
        Some(TokenLogprob { text: self.text(chosen.id), logprob, top })
    }

    fn text(&self, id: u32) -> String {
        let bytes = self.bytes.get_or_init(|| self.tokenizer.token_bytes().ok());
        match bytes.as_ref().and_then(|b| b.bytes.get(id as usize)) {
            Some(bytes) if !bytes.is_empty() => String::from_utf8_lossy(bytes).into_owned(),
            _ => self.tokenizer.token(id).unwrap_or_default(),
        }
    }
}

/// Repeated drawings of one question differ.
pub(super) fn decoding(ask: &Ask) -> Decoding {
    let seed = ask.decoding.seed.wrapping_add(u64::from(ask.sample) << 32);
    Decoding { seed, ..ask.decoding.clone() }
}
