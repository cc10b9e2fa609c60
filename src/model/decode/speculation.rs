//! Tokens that are guessed before they are computed, so that one pass can make several of an answer.
//!
//! A pass over a few tokens costs hardly more than over one, as long as reading the weights is what takes the time. The guesses go
//! through the model behind the answer's last token; as far as each is what the model then says itself, it counts (Leviathan et
//! al. 2023, arXiv:2211.17192, with greedy choice). The answer is the same as without. Guesses come from the text so far (what
//! followed the last tokens when they came before: prompt lookup), or from a small model with the same tokenizer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{Feed, Next, Outcome, Wants};
use super::compute::{Compute, OnGpu};
use super::engine::Settings;
use super::pages::{Pages, Table, common};
use super::sequence::RequestId;
use crate::model::sampling::GREEDY;
use crate::model::{Decoder, ModelError};
use crate::ops::Par;
use crate::ops::vocabulary::argmax;

/// How tokens are guessed; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Speculation {
    pub lookup: Option<Lookup>,
    pub draft: Option<Draft>,
}

/// Prompt lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Tokens at the end that must have come before: tried from this many down to two.
    pub ngram: usize,
    /// Guessed tokens at most.
    pub tokens: usize,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { ngram: 4, tokens: 8 }
    }
}

/// A small model that guesses.
#[derive(Clone, Debug)]
pub struct Draft {
    pub decoder: Arc<Decoder>,
    /// Guessed tokens at most.
    pub tokens: usize,
    /// Bytes of its keys and values at most.
    pub kv_bytes: usize,
}

/// Guesses that a sequence makes are worth it from this share of right ones.
const WORTH: f32 = 0.25;
/// Tokens of an answer without guesses, after these were not worth it.
const PAUSE: usize = 32;

/// How guessing goes for one sequence.
#[derive(Clone, Debug)]
pub(super) struct Drafter {
    /// Share of right guesses, of late.
    right: f32,
    /// Tokens to guess next.
    length: usize,
    most: usize,
    pause: usize,
}

impl Drafter {
    pub fn new(most: usize) -> Self {
        Self { right: 0.5, length: most.min(4), most, pause: 0 }
    }

    /// Tokens to guess now.
    pub fn wants(&mut self) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.length
    }

    /// Of `guessed` tokens the first `right` were right.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        let weight = 0.3;
        self.right += weight * (right as f32 / guessed as f32 - self.right);
        self.length =
            if right == guessed { (2 * self.length).min(self.most) } else { (right + 1).min(self.most) };
        if self.right < WORTH {
            (self.pause, self.right) = (PAUSE, 0.5);
        }
    }
}

impl Lookup {
    /// What followed the last tokens when they came before, the last time.
    pub fn guess(&self, tokens: &[u32], most: usize) -> Vec<u32> {
        let n = tokens.len();
        for length in (2..=self.ngram.min(n.saturating_sub(1))).rev() {
            let last = &tokens[n - length..];
            let before = (0..n - length).rev().find(|&at| tokens[at..at + length] == *last);
            if let Some(at) = before {
                return tokens[at + length..].iter().copied().take(most).collect();
            }
        }
        Vec::new()
    }
}

/// The small model at work.
#[derive(Debug)]
pub(super) struct DraftModel {
    decoder: Arc<Decoder>,
    pub tokens: usize,
    pages: Pages,
    compute: Compute,
    /// By request; guesses that are in the blocks, but not of the table.
    tables: BTreeMap<RequestId, (Table, Vec<u32>)>,
}

impl DraftModel {
    /// # Errors
    /// A model of another vocabulary than `of`; no room on the GPU.
    pub fn new(draft: &Draft, of: &Decoder, gpu: Option<&OnGpu>) -> Result<Self, ModelError> {
        let (own, wanted) = (draft.decoder.config.vocab, of.config.vocab);
        if own != wanted {
            return Err(ModelError::Request(format!(
                "the draft model has {own} tokens and the model that it is to guess for {wanted}; it must have the same tokenizer"
            )));
        }
        // What the other has there is not of this one.
        let gpu = gpu.map(|gpu| OnGpu::new(gpu.launcher.clone()));
        let (kv_bytes, gpu_kv_bytes) = (draft.kv_bytes, Some(draft.kv_bytes));
        let settings = Settings { gpu, kv_bytes, gpu_kv_bytes, ..Settings::default() };
        let (compute, pages) = Compute::new(&draft.decoder, &settings)?;
        Ok(Self {
            decoder: Arc::clone(&draft.decoder),
            tokens: draft.tokens,
            pages,
            compute,
            tables: BTreeMap::new(),
        })
    }

    /// Guesses what follows each of the texts, so many tokens at most.
    pub fn guess(&mut self, texts: &[(RequestId, &[u32], usize)], chunk: usize, par: Par) -> Vec<Vec<u32>> {
        let mut guesses = vec![Vec::new(); texts.len()];
        for &(id, tokens, wanted) in texts {
            if self.tables.get(&id).is_some_and(|(table, _)| table.len() >= tokens.len()) {
                self.close(id);
            }
            let (table, kept) =
                self.tables.entry(id).or_insert_with(|| (self.pages.open(0, tokens), Vec::new()));
            // What was guessed rightly the last time is computed already; the last token is read again for its logits.
            let known = common(kept, &tokens[table.len()..tokens.len() - 1]);
            let from = table.len();
            self.pages.extend(table, &tokens[from..from + known]);
            kept.clear();
            let positions = self.decoder.config.max_positions;
            if tokens.len() + wanted > positions || self.pages.grow(table, tokens.len() + wanted).is_err() {
                self.close(id);
            }
        }
        // The texts first, in passes of bounded size, then guess after guess.
        let mut next: Vec<Option<u32>> = vec![None; texts.len()];
        for (at, &(id, tokens, _)) in texts.iter().enumerate() {
            while let Some((table, _)) = self.tables.get_mut(&id) {
                let new = &tokens[table.len()..];
                let new = &new[..new.len().min(chunk)];
                let start = table.len();
                let last = start + new.len() == tokens.len();
                let wants = if last { Wants::Last } else { Wants::None };
                let (parents, choice) = (None, Some(&GREEDY));
                let feed = Feed { table, start, adapter: None, lane: 0, tokens: new, parents, wants, choice };
                let Ok(outcome) = self.compute.pass(&self.decoder, &mut self.pages, &[feed], par) else {
                    return self.give_up(texts);
                };
                self.pages.extend(table, new);
                if last {
                    next[at] = likeliest(&outcome, 0);
                    break;
                }
            }
        }
        loop {
            for ((guess, next), (_, _, wanted)) in guesses.iter_mut().zip(&mut next).zip(texts) {
                guess.extend(next.filter(|_| guess.len() < *wanted));
                if guess.len() >= *wanted {
                    *next = None;
                }
            }
            let feeds: Vec<(usize, Feed<'_>)> = (0..texts.len())
                .filter(|at| next[*at].is_some())
                .filter_map(|at| {
                    let (table, _) = self.tables.get(&texts[at].0)?;
                    let tokens = &guesses[at][guesses[at].len() - 1..];
                    let start = table.len() + guesses[at].len() - 1;
                    let (parents, wants, choice) = (None, Wants::Last, Some(&GREEDY));
                    Some((at, Feed { table, start, adapter: None, lane: 0, tokens, parents, wants, choice }))
                })
                .collect();
            if feeds.is_empty() {
                break;
            }
            let (at, feeds): (Vec<usize>, Vec<Feed<'_>>) = feeds.into_iter().unzip();
            let Ok(outcome) = self.compute.pass(&self.decoder, &mut self.pages, &feeds, par) else {
                return self.give_up(texts);
            };
            for (feed, at) in at.into_iter().enumerate() {
                next[at] = likeliest(&outcome, feed);
            }
        }
        for (guess, (id, ..)) in guesses.iter().zip(texts) {
            if let Some((_, kept)) = self.tables.get_mut(id) {
                // The last guess did not go through the model.
                kept.extend_from_slice(&guess[..guess.len().saturating_sub(1)]);
            }
        }
        guesses
    }

    /// The GPU failed: nobody has a guess. What went wrong, the model itself will tell.
    fn give_up(&mut self, texts: &[(RequestId, &[u32], usize)]) -> Vec<Vec<u32>> {
        for (id, ..) in texts {
            self.close(*id);
        }
        vec![Vec::new(); texts.len()]
    }

    pub fn close(&mut self, id: RequestId) {
        if let Some((table, _)) = self.tables.remove(&id) {
            self.pages.close(table);
        }
    }
}

/// The likeliest token after a feed; none of numbers that are none.
fn likeliest(outcome: &Outcome, feed: usize) -> Option<u32> {
    match outcome.of(feed).next()? {
        Next::Token(id) => id,
        Next::Logits(logits) => argmax(logits).map(|id| id as u32),
    }
}

#[cfg(test)]
mod tests;
