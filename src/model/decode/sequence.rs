//! A request and how far it has come.

use std::time::Instant;

use super::batch::Next;
use super::forks::Forks;
use super::pages::Table;
use super::speculation::Drafter;
use crate::domain::candidate::Decoding;
use crate::model::ModelError;
use crate::model::sampling::{Chooser, Chosen};

/// Which weights answer: those of the base, or these with one of its adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub(crate) u32);

impl Lane {
    /// Without an adapter.
    pub const BASE: Self = Self(0);
}

/// A request that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// What is asked.
#[derive(Debug)]
pub struct Request {
    pub lane: Lane,
    pub prompt: Vec<u32>,
    pub work: Work,
}

/// What is to be done after the prompt.
#[derive(Debug)]
pub enum Work {
    /// An answer, token by token, until one of `eos` comes, its constraint is fulfilled, or `max_tokens` are made.
    Generate { chooser: Chooser, max_tokens: usize, eos: Vec<u32> },
    /// Logits after continuations of the prompt.
    Score(Box<dyn super::forks::Scoring>),
}

impl Request {
    /// An answer as `decoding` says.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn generate(
        lane: Lane,
        prompt: Vec<u32>,
        decoding: &Decoding,
        eos: &[u32],
    ) -> Result<Self, ModelError> {
        let chooser = Chooser::new(decoding, &prompt, None, None)?;
        let work = Work::Generate { chooser, max_tokens: decoding.max_tokens, eos: eos.to_vec() };
        Ok(Self { lane, prompt, work })
    }
}

/// How a request ended, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// An end token came or the constraint was fulfilled; else the limit or the end of the context was reached.
    pub ended: bool,
    /// Tokens computed: those given and the one that ended it.
    pub steps: usize,
    /// Of the prompt, tokens that were computed for others already.
    pub shared: usize,
    /// From handing in to the first token; waiting for others counts.
    pub ttft_ms: f64,
    /// From handing in to the end.
    pub ms: f64,
}

impl Done {
    /// Mean time of the tokens after the first; 0 where there are none.
    pub fn tpot_ms(&self) -> f64 {
        if self.steps > 1 { (self.ms - self.ttft_ms) / (self.steps - 1) as f64 } else { 0.0 }
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Sequence {
    pub id: RequestId,
    pub lane: u32,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// Tokens of prompt and answer at most.
    pub most: usize,
    pub table: Table,
    pub job: Job,
    /// Waits until this request has computed so many tokens, which both begin with.
    pub behind: Option<(RequestId, usize)>,
    pub submitted: Instant,
    pub done: Done,
}

#[derive(Debug)]
pub(super) enum Job {
    Generate { chooser: Chooser, eos: Vec<u32>, drafter: Option<Drafter> },
    Score(Forks),
}

impl Sequence {
    pub fn ms(&self) -> f64 {
        self.submitted.elapsed().as_secs_f64() * 1000.0
    }

    /// Tokens that no pass has seen.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.table.len()
    }

    /// Takes the token after the last one: none if it ends the answer, else with whether the answer ends after it.
    pub fn choose(&mut self, next: Next<'_>) -> Result<Option<(Chosen, bool)>, ModelError> {
        let Job::Generate { chooser, eos, .. } = &mut self.job else { return Ok(None) };
        let chosen = match next {
            Next::Logits(logits) => chooser.next(logits)?,
            Next::Token(id) => chooser.chosen(id)?,
        };
        self.done.steps += 1;
        if self.done.steps == 1 {
            self.done.ttft_ms = self.submitted.elapsed().as_secs_f64() * 1000.0;
        }
        if eos.contains(&chosen.id) {
            self.done.ended = true;
            return Ok(None);
        }
        self.tokens.push(chosen.id);
        self.done.ended = chosen.complete;
        let last = chosen.complete || self.tokens.len() >= self.most;
        Ok(Some((chosen, last)))
    }
}
