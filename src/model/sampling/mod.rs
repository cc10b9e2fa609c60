//! Which token comes next: the likeliest, or one drawn, in the order of transformers: repetition penalty, what a constraint
//! permits, temperature, top-k, top-p, min-p.

mod draw;
mod stop;

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::ModelError;
use super::constraint::Matcher;
use crate::domain::candidate::Decoding;
use crate::ops::vocabulary::{argmax, log_sum_exp};
use draw::Cuts;

pub use stop::StopStrings;

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    pub id: u32,
    /// Natural logarithm of its probability before penalty, constraint, temperature and cuts; none where it was not asked for.
    pub logprob: Option<f64>,
    /// The likeliest tokens in its place with their log-probabilities, likeliest first; as many as asked for.
    pub top: Vec<(u32, f64)>,
    /// The answer's constraint is fulfilled and permits nothing more: the answer ends with this token.
    pub complete: bool,
}

/// Chooses the tokens of one answer from logits.
#[derive(Debug)]
pub struct Chooser {
    cuts: Cuts,
    penalty: f32,
    /// Tokens of prompt and answer; kept only for the penalty.
    seen: HashSet<u32>,
    matcher: Option<Matcher>,
    logprobs: Option<usize>,
    rng: StdRng,
    /// Logits after penalty and constraint; empty as long as neither is asked for and nothing is drawn.
    scores: Vec<f32>,
}

/// How a GPU chooses the next token itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Temperature (0: the likeliest), top-p, min-p.
    pub settings: [f32; 3],
    /// 0: all.
    pub top_k: u32,
    /// From [0, 1).
    pub draw: f64,
    pub penalty: f32,
    /// The tokens that the penalty is for, each once.
    pub seen: Vec<u32>,
    /// What the constraint permits: one bit a token.
    pub mask: Option<Vec<u32>>,
}

/// The likeliest token.
pub static GREEDY: Choice =
    Choice { settings: [0.0, 1.0, 0.0], top_k: 0, draw: 0.0, penalty: 1.0, seen: Vec::new(), mask: None };

/// Says what makes no sense in `decoding`, by the name of the setting.
///
/// # Errors
/// A value out of its range.
pub fn check(decoding: &Decoding) -> Result<(), ModelError> {
    let wrong = |what: String| Err(ModelError::Request(what));
    if !(decoding.temperature >= 0.0 && decoding.temperature.is_finite()) {
        return wrong(format!("temperature {} is not a number from 0 upwards", decoding.temperature));
    }
    if decoding.top_k == Some(0) {
        return wrong("top_k 0 leaves no token; leave it out to keep all".into());
    }
    if let Some(top_p) = decoding.top_p
        && !(top_p > 0.0 && top_p <= 1.0)
    {
        return wrong(format!("top_p {top_p} is not above 0 and at most 1"));
    }
    if let Some(min_p) = decoding.min_p
        && !(0.0..=1.0).contains(&min_p)
    {
        return wrong(format!("min_p {min_p} is not from 0 to 1"));
    }
    if let Some(penalty) = decoding.repetition_penalty
        && !(penalty > 0.0 && penalty.is_finite())
    {
        return wrong(format!("repetition_penalty {penalty} is not a number above 0; 1 is no penalty"));
    }
    if decoding.stop.iter().any(String::is_empty) {
        return wrong("an empty stop string would end every answer before it begins; leave it out".into());
    }
    Ok(())
}

/// Random numbers that depend on the seed and the prompt alone, not on what was answered before or beside it.
pub fn seeded(seed: u64, prompt: &[u32]) -> StdRng {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    for id in prompt {
        hash.update(&id.to_le_bytes());
    }
    StdRng::from_seed(*hash.finalize().as_bytes())
}

/// Draws a place by temperature and cuts from logarithms of probabilities, the largest of which comes first.
pub(super) fn draw_label(decoding: &Decoding, mut logs: Vec<f32>, rng: &mut StdRng) -> usize {
    Cuts::new(decoding).draw(&mut logs, 0, rng) as usize
}

impl Chooser {
    /// For the answer to `prompt`. `logprobs`: log-probabilities are wanted, with so many of the likeliest other tokens.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(
        decoding: &Decoding,
        prompt: &[u32],
        matcher: Option<Matcher>,
        logprobs: Option<usize>,
    ) -> Result<Self, ModelError> {
        check(decoding)?;
        let penalty = decoding.repetition_penalty.unwrap_or(1.0);
        let seen = if penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() };
        let cuts = Cuts::new(decoding);
        Ok(Self {
            cuts,
            penalty,
            seen,
            matcher,
            logprobs,
            rng: seeded(decoding.seed, prompt),
            scores: Vec::new(),
        })
    }

    /// Every choice is the likeliest token, whatever was chosen before: others may be tried ahead of time (speculation).
    pub fn is_greedy(&self) -> bool {
        self.cuts.temperature == 0.0 && self.penalty == 1.0 && self.matcher.is_none()
    }

    /// The next token. Among equal logits the first counts as the likelier.
    ///
    /// # Errors
    /// Logits that are no numbers; a constraint that is beyond its limits.
    pub fn next(&mut self, logits: &[f32]) -> Result<Chosen, ModelError> {
        let best = argmax(logits).ok_or_else(|| broken(logits))?;
        let id = if self.is_greedy() { best as u32 } else { self.choose(logits)? };
        let (logprob, top) = match self.logprobs {
            None => (None, Vec::new()),
            Some(n) => {
                let lse = log_sum_exp(logits, logits[best]);
                let of = |id: u32| f64::from(logits[id as usize]) - lse;
                (Some(of(id)), draw::likeliest(logits, n).into_iter().map(|id| (id, of(id))).collect())
            }
        };
        let complete = self.take(id)?;
        Ok(Chosen { id, logprob, top, complete })
    }

    /// How a device chooses the next token of a vocabulary; none where the logits themselves are wanted. What it chose goes to
    /// [`Chooser::chosen`], before the next one is asked for.
    pub fn choice(&mut self, vocab: usize) -> Option<Choice> {
        if self.logprobs.is_some() {
            return None;
        }
        let mask = match &mut self.matcher {
            // Where there is an error, `next` tells it.
            Some(matcher) => Some(matcher.permitted(vocab).ok()?),
            None => None,
        };
        let (settings, top_k) = self.cuts.settings(vocab);
        let draw = if self.cuts.temperature == 0.0 { 0.0 } else { self.rng.random() };
        let seen = self.seen.iter().copied().collect();
        Some(Choice { settings, top_k, draw, penalty: self.penalty, seen, mask })
    }

    /// Takes the token that a device chose; none if it found none to choose.
    ///
    /// # Errors
    /// No token; a constraint that is beyond its limits.
    pub fn chosen(&mut self, id: Option<u32>) -> Result<Chosen, ModelError> {
        let Some(id) = id else {
            return Err(ModelError::Request(match self.matcher {
                Some(_) => format!("{NOTHING_PERMITTED}, or {NO_NUMBER}"),
                None => NO_NUMBER.into(),
            }));
        };
        let complete = self.take(id)?;
        Ok(Chosen { id, logprob: None, top: Vec::new(), complete })
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, ModelError> {
        let best = self.score(logits)?;
        if self.cuts.temperature == 0.0 {
            return Ok(best as u32);
        }
        Ok(self.cuts.draw(&mut self.scores, best, &mut self.rng))
    }

    /// Puts the logits after penalty and constraint into `scores`; says where the largest stands.
    fn score(&mut self, logits: &[f32]) -> Result<usize, ModelError> {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if self.penalty != 1.0 {
            for &id in &self.seen {
                if let Some(score) = self.scores.get_mut(id as usize) {
                    *score = if *score < 0.0 { *score * self.penalty } else { *score / self.penalty };
                }
            }
        }
        if let Some(matcher) = &mut self.matcher {
            matcher.mask(&mut self.scores)?;
        }
        argmax(&self.scores).ok_or_else(|| ModelError::Request(NOTHING_PERMITTED.into()))
    }

    fn take(&mut self, id: u32) -> Result<bool, ModelError> {
        if self.penalty != 1.0 {
            self.seen.insert(id);
        }
        match &mut self.matcher {
            Some(matcher) => matcher.take(id),
            None => Ok(false),
        }
    }
}

const NO_NUMBER: &str =
    "the model computed something that is not a number; its weights or its adapter are broken";
const NOTHING_PERMITTED: &str = "the answer's constraint permits no token here that the model can say";

fn broken(logits: &[f32]) -> ModelError {
    let message = if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
        NO_NUMBER
    } else {
        "the model gave no logits"
    };
    ModelError::Request(message.into())
}

#[cfg(test)]
mod tests;
