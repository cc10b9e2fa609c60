//! Labels as a model writes them after a prompt, and their probabilities.
//!
//! A label's tokens are those that an answer would have: with what the chat template writes before an answer (a space, say), and
//! as the tokenizer writes them after the prompt where that leaves the prompt's own tokens as they are; so training does it, too
//! ([`super::chat::answer_tokens`]).

mod scores;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::ModelError;
use super::chat::{ChatTemplate, Message};
use super::tokenizer::{TokenBytes, Tokenizer};

pub use scores::{LabelScores, LabelTrie};

/// Tries that are kept; a stage has one, as its prompts end alike, unless its model has no chat template.
const KEPT: usize = 256;
/// Tokens of the prompt's end that can matter to how a label is written, at most.
const TAIL: usize = 48;

/// How the chat template goes on from a prompt to an answer.
#[derive(Debug, Default)]
struct Lead {
    /// What it writes before the answer.
    text: String,
    /// It takes white space from the answer's ends.
    trims: bool,
}

/// Writes labels for one model.
#[derive(Debug)]
pub struct LabelSets {
    lead: Lead,
    bytes: Option<TokenBytes>,
    tries: Mutex<HashMap<(Vec<String>, Vec<u32>), Arc<LabelTrie>>>,
}

impl LabelSets {
    pub fn new(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Self {
        Self {
            lead: template.and_then(lead).unwrap_or_default(),
            bytes: tokenizer.token_bytes().ok(),
            tries: Mutex::default(),
        }
    }

    /// The question which of `labels` answers `prompt`.
    ///
    /// # Errors
    /// No labels; a label that cannot be an answer.
    pub fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        labels: &[String],
    ) -> Result<LabelScores, ModelError> {
        let tail = self.tail(tokenizer, prompt);
        let key = (labels.to_vec(), tail.as_ref().map(|(_, ids)| ids.to_vec()).unwrap_or_default());
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trie) = tries.get(&key) {
            return Ok(LabelScores::new(trie.clone()));
        }
        let mut known = Vec::new();
        let mut tokens = Vec::new();
        for label in labels {
            if !known.contains(label) {
                known.push(label.clone());
                tokens.push(self.tokens(tokenizer, tail.as_ref(), label)?);
            }
        }
        let trie = Arc::new(LabelTrie::new(known, &tokens, tokenizer.eos())?);
        if tries.len() >= KEPT {
            tries.clear();
        }
        tries.insert(key, trie.clone());
        Ok(LabelScores::new(trie))
    }

    fn tokens(
        &self,
        tokenizer: &Tokenizer,
        tail: Option<&(String, &[u32])>,
        label: &str,
    ) -> Result<Vec<u32>, ModelError> {
        let label = if self.lead.trims { label.trim() } else { label };
        let text = format!("{}{label}", self.lead.text);
        let alone = || tokenizer.encode(&text, false);
        let tokens = match tail {
            Some((before, ids)) => {
                let joint = tokenizer.encode(&format!("{before}{text}"), false)?;
                joint.strip_prefix(*ids).map_or_else(alone, |rest| Ok(rest.to_vec()))?
            }
            None => alone()?,
        };
        if tokens.iter().any(|id| tokenizer.eos().contains(id)) {
            let message = format!("the label `{label}` contains the text of a token that ends generation");
            return Err(ModelError::Request(message));
        }
        Ok(tokens)
    }

    /// The end of the prompt, from a place where the tokenizer begins anew, as text and tokens.
    fn tail<'a>(&self, tokenizer: &Tokenizer, prompt: &'a [u32]) -> Option<(String, &'a [u32])> {
        let bytes = self.bytes.as_ref()?;
        let of = |id: &u32| bytes.bytes.get(*id as usize).map_or(&[][..], Vec::as_slice);
        let blank = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_whitespace());
        let least = prompt.len().saturating_sub(TAIL);
        // The last token alone may be the space that a label would go together with.
        for from in (least..prompt.len()).rev() {
            let before = from.checked_sub(1).map(|at| of(&prompt[at]));
            let fresh = before.is_none_or(<[u8]>::is_empty);
            let word = blank(of(&prompt[from]).first()) && !blank(before.and_then(<[u8]>::last));
            if of(&prompt[from]).is_empty() {
                // A special token: nothing before it matters, and the label comes first after it.
                return None;
            }
            let last = from + 1 == prompt.len();
            if !fresh && (last || !word) {
                continue;
            }
            let ids = &prompt[from..];
            let text: Vec<u8> = ids.iter().flat_map(|id| of(id).iter().copied()).collect();
            let Ok(text) = String::from_utf8(text) else { continue };
            // Some tokenizers put a space before a text by themselves.
            for text in [Some(text.as_str()), text.strip_prefix(' ')].into_iter().flatten() {
                if tokenizer.encode(text, false).is_ok_and(|again| again == ids) {
                    return Some((text.to_owned(), ids));
                }
            }
        }
        None
    }
}

/// None where the prompt is no beginning of the conversation with its answer.
fn lead(template: &ChatTemplate) -> Option<Lead> {
    // A word that no template writes by itself.
    const WORD: &str = "qzanswerzq";
    let before = |answer: String| {
        let messages = [Message::user("x"), Message::assistant(answer)];
        let prompt = template.render(&messages[..1], true).ok()?;
        let whole = template.render(&messages, false).ok()?;
        whole.strip_prefix(&prompt)?.split_once(WORD).map(|(lead, _)| lead.to_owned())
    };
    let text = before(WORD.to_owned())?;
    let trims = before(format!(" {WORD}")).is_some_and(|lead| lead == text);
    Some(Lead { text, trims })
}

#[cfg(test)]
mod tests;
