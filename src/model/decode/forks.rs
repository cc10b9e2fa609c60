//! Continuations of a prompt that are only looked at: what comes after each of them, all in one pass, nothing of it stored.

use std::any::Any;
use std::fmt::Debug;

use crate::model::{Decoder, ModelError};

/// Asks for logits after continuations of a prompt, round after round.
pub trait Scoring: Any + Debug + Send {
    /// Continuations after which logits are wanted now; an empty one is the prompt itself. None at all: this is finished.
    fn wants(&mut self) -> Vec<Vec<u32>>;

    /// The logits (vocab) after each, in their order.
    ///
    /// # Errors
    /// Logits that cannot be used.
    fn take(&mut self, logits: Vec<Vec<f32>>) -> Result<(), ModelError>;
}

/// A scoring under way.
#[derive(Debug)]
pub(super) struct Forks {
    pub scoring: Box<dyn Scoring>,
    /// After the prompt itself.
    pub prompt: Option<Vec<f32>>,
    wants: Vec<Vec<u32>>,
    /// The wanted continuations as a tree of tokens.
    pub tokens: Vec<u32>,
    pub parents: Vec<Option<u32>>,
    /// The last token of every continuation that has one.
    pub ends: Vec<u32>,
}

impl Forks {
    pub fn new(scoring: Box<dyn Scoring>) -> Self {
        Self {
            scoring,
            prompt: None,
            wants: Vec::new(),
            tokens: Vec::new(),
            parents: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// After the logits of the prompt (so many tokens) or those of the last round: whether this is the end.
    pub fn advance(&mut self, decoder: &Decoder, prompt: usize) -> Result<bool, ModelError> {
        loop {
            self.wants = self.scoring.wants();
            if self.wants.is_empty() {
                return Ok(true);
            }
            self.plant();
            if !self.tokens.is_empty() {
                let longest = self.wants.iter().max_by_key(|c| c.len()).map_or(&[][..], Vec::as_slice);
                decoder.check_tokens(longest, prompt)?;
                for token in &self.tokens {
                    decoder.check_tokens(&[*token], prompt)?;
                }
                return Ok(false);
            }
            self.take(std::iter::empty())?;
        }
    }

    /// The logits at `ends`, in their order.
    pub fn take<'a>(&mut self, mut at_ends: impl Iterator<Item = &'a [f32]>) -> Result<(), ModelError> {
        let logits = self.wants.iter().map(|continuation| {
            if continuation.is_empty() { self.prompt.as_deref() } else { at_ends.next() }
                .map(<[f32]>::to_vec)
                .unwrap_or_default()
        });
        let logits = logits.collect();
        self.scoring.take(logits)
    }

    /// Makes the tree: what two continuations begin with is one path.
    fn plant(&mut self) {
        let Self { wants, tokens, parents, ends, .. } = self;
        tokens.clear();
        parents.clear();
        ends.clear();
        let mut at = std::collections::HashMap::new();
        for continuation in wants.iter() {
            let mut parent = None;
            for &token in continuation {
                parent = Some(*at.entry((parent, token)).or_insert_with(|| {
                    tokens.push(token);
                    parents.push(parent);
                    tokens.len() as u32 - 1
                }));
            }
            ends.extend(parent);
        }
    }
}
