//! Generation: prompt tokens to answer tokens, one at a time, over a cache that is kept between prompts.

use std::ops::ControlFlow;
use std::time::Instant;

use super::sampling::Chooser;
use super::{Decoder, KvCache, Lora, ModelError};
use crate::domain::candidate::Decoding;
use crate::ops::Par;

/// What was generated, and how long it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Without the token that ended it.
    pub tokens: Vec<u32>,
    /// An end token came; else the limit or the end of the context was reached, or the caller had enough.
    pub ended: bool,
    /// Tokens computed: those given and the one that ended it.
    pub steps: usize,
    /// To the first token.
    pub ttft_ms: f64,
    /// Mean of the tokens after the first; 0 when there are none.
    pub tpot_ms: f64,
    pub ms: f64,
}

/// Generates from one decoder; keeps the cache, and what two prompts begin with in common is computed once.
#[derive(Debug)]
pub struct Generator {
    cache: KvCache,
    /// Tokens in the cache.
    seen: Vec<u32>,
}

/// Positions of the smallest cache.
const MIN_CACHE: usize = 256;

impl Generator {
    pub fn new(decoder: &Decoder) -> Self {
        Self { cache: KvCache::new(decoder, MIN_CACHE), seen: Vec::new() }
    }

    /// Generates until a token of `eos` comes, `max_tokens` are made or the context is full.
    ///
    /// `decoder` and `adapter` must be the same at every call: the cache holds what they computed. `on_token` gets every
    /// token as it comes, but the end token, and may break off.
    ///
    /// # Errors
    /// A prompt that is empty or leaves no room for an answer; settings that make no sense; weights that compute no numbers.
    pub fn generate(
        &mut self,
        decoder: &Decoder,
        adapter: Option<&Lora>,
        eos: &[u32],
        prompt: &[u32],
        decoding: &Decoding,
        par: Par,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let start = Instant::now();
        let ms = |start: Instant| start.elapsed().as_secs_f64() * 1000.0;
        let mut chooser = Chooser::new(decoding, prompt, None, None)?;
        let context = decoder.config.max_positions;
        if prompt.len() >= context {
            return Err(ModelError::Request(format!(
                "the prompt has {} tokens and the model's context {context}, so there is no room for an answer; shorten the prompt",
                prompt.len()
            )));
        }
        let limit = decoding.max_tokens.min(context - prompt.len());
        let mut made = Generation::default();
        if limit == 0 {
            return Ok(made);
        }
        self.make_room(decoder, prompt.len() + limit);
        // At least one token goes through the model, to have logits.
        let shared = prompt.iter().zip(&self.seen).take_while(|(a, b)| a == b).count();
        let shared = shared.min(prompt.len().saturating_sub(1));
        self.cache.truncate(shared);
        self.seen.truncate(shared);
        let mut logits = self.feed(decoder, adapter, &prompt[shared..], par)?;
        loop {
            let id = chooser.next(&logits)?.id;
            made.steps += 1;
            if made.steps == 1 {
                made.ttft_ms = ms(start);
            }
            made.ended = eos.contains(&id);
            if made.ended {
                break;
            }
            made.tokens.push(id);
            if on_token(id).is_break() || made.tokens.len() == limit {
                break;
            }
            logits = self.feed(decoder, adapter, &[id], par)?;
        }
        made.ms = ms(start);
        if made.steps > 1 {
            made.tpot_ms = (made.ms - made.ttft_ms) / (made.steps - 1) as f64;
        }
        Ok(made)
    }

    fn feed(
        &mut self,
        decoder: &Decoder,
        adapter: Option<&Lora>,
        tokens: &[u32],
        par: Par,
    ) -> Result<Vec<f32>, ModelError> {
        let logits = decoder.forward(tokens, &mut self.cache, adapter, par)?;
        self.seen.extend_from_slice(tokens);
        Ok(logits)
    }

    fn make_room(&mut self, decoder: &Decoder, positions: usize) {
        if positions > self.cache.capacity() {
            self.cache = KvCache::new(decoder, positions.next_power_of_two());
            self.seen.clear();
        }
    }
}

#[cfg(test)]
mod tests;
