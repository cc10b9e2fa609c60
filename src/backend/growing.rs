//! An answer that is being made: from tokens to text, up to a stop string, with log-probabilities.

use std::sync::Arc;

use super::{Answer, Finish, Progress, TokenLogprob};
use crate::domain::candidate::Decoding;
use crate::model::ModelError;
use crate::model::decode::Done;
use crate::model::labels::LabelScores;
use crate::model::sampling::StopStrings;
use crate::model::tokenizer::{TextStream, Tokenizer};

#[derive(Debug)]
pub(super) struct Growing {
    tokenizer: Arc<Tokenizer>,
    stream: TextStream<Arc<Tokenizer>>,
    stop: StopStrings,
    text: String,
    logprobs: Vec<TokenLogprob>,
    /// Of them, those that were told with a piece of text.
    told: usize,
    decoding: Decoding,
    prompt: Vec<u32>,
}

impl Growing {
    pub fn new(tokenizer: Arc<Tokenizer>, decoding: Decoding, prompt: Vec<u32>) -> Self {
        Self {
            stream: TextStream::new(Arc::clone(&tokenizer)),
            tokenizer,
            stop: StopStrings::new(&decoding.stop),
            text: String::new(),
            logprobs: Vec::new(),
            told: 0,
            decoding,
            prompt,
        }
    }

    /// What became certain with a token; none: nothing yet.
    pub fn push(&mut self, id: u32, logprob: Option<TokenLogprob>) -> Result<Option<Progress>, ModelError> {
        let piece = self.stream.push(id)?;
        let text = self.stop.push(&piece);
        self.logprobs.extend(logprob);
        self.text.push_str(&text);
        if text.is_empty() {
            return Ok(None);
        }
        let tokens = self.logprobs.get(self.told..).map(<[_]>::to_vec).unwrap_or_default();
        self.told = self.logprobs.len();
        Ok(Some(Progress::Piece { text, tokens }))
    }

    /// A stop string has come.
    pub const fn stopped(&self) -> bool {
        self.stop.stopped()
    }

    /// What was held back, and the whole.
    pub fn finish(mut self, done: &Done) -> Result<(Option<Progress>, Answer), ModelError> {
        let held = self.stream.finish()?;
        let rest = self.stop.push(&held) + &self.stop.finish();
        self.text.push_str(&rest);
        let finish = if done.ended || self.stop.stopped() { Finish::Stop } else { Finish::Length };
        if self.stop.stopped() {
            // Tokens of the stop string are none of the answer's; the one that it begins in is.
            let mut length = 0;
            let within = self.logprobs.iter().take_while(|token| {
                let begins = length;
                length += token.text.len();
                begins < self.text.len()
            });
            let kept = within.count();
            self.logprobs.truncate(kept);
        }
        let tokens = self.logprobs.get(self.told..).map(<[_]>::to_vec).unwrap_or_default();
        let last = !(rest.is_empty() && tokens.is_empty());
        let piece = last.then_some(Progress::Piece { text: rest, tokens });
        let answer =
            Answer { finish, logprobs: self.logprobs, text: self.text, ..times(self.prompt.len(), done) };
        Ok((piece, answer))
    }

    /// The label that was chosen, with the probabilities of all.
    pub fn label(self, scores: &LabelScores, done: &Done) -> Result<(Option<Progress>, Answer), ModelError> {
        let text = scores.choose(&self.decoding, &self.prompt);
        let tokens_out = self.tokenizer.encode(&text, false)?.len() as u64;
        // It is told when all is known.
        let (labels, ttft_ms) = (scores.done(), done.ms);
        let piece = Progress::Piece { text: text.clone(), tokens: Vec::new() };
        Ok((Some(piece), Answer { text, tokens_out, ttft_ms, labels, ..times(self.prompt.len(), done) }))
    }

    /// What there is of an answer that nobody wants any more.
    pub fn broken(self, done: &Done) -> Answer {
        let finish = Finish::Broken;
        Answer { finish, logprobs: self.logprobs, text: self.text, ..times(self.prompt.len(), done) }
    }
}

/// An answer's numbers.
fn times(tokens_in: usize, done: &Done) -> Answer {
    Answer {
        tokens_in: tokens_in as u64,
        tokens_out: done.steps as u64,
        ttft_ms: done.ttft_ms,
        ms: done.ms,
        ..Answer::default()
    }
}
