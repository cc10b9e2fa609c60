//! Rows of a batch: what is read and what is predicted of each, laid one after another.

use super::device::Packed;
use crate::model::decoder::Decoder;
use crate::ops;

/// One row: its tokens, and which of them are targets (each is predicted from the tokens before it, so never the first).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub trained: Vec<bool>,
}

impl Sequence {
    /// Number of targets.
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|t| **t).count()
    }

    /// The tokens before the answer, which is the last run of targets.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.answer_start()]
    }

    /// The last run of targets.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.answer_start()..]
    }

    fn answer_start(&self) -> usize {
        self.trained.iter().rposition(|t| !t).map_or(0, |last| last + 1).min(self.tokens.len())
    }

    /// Tokens that are read: all before the last target; none without a target.
    pub(super) fn inputs(&self) -> usize {
        self.trained.iter().rposition(|t| *t).unwrap_or(0)
    }
}

pub(super) fn check_row(decoder: &Decoder, row: &Sequence) -> Result<(), String> {
    if row.tokens.len() != row.trained.len() {
        return Err(format!(
            "{} tokens but {} marks of what is trained",
            row.tokens.len(),
            row.trained.len()
        ));
    }
    if row.trained.first() == Some(&true) {
        return Err("its first token is marked as trained, but nothing comes before it".into());
    }
    let read = row.inputs();
    decoder.check_tokens(&row.tokens[..read], 0).map_err(|e| e.to_string())?;
    match row.tokens.get(read).filter(|id| **id as usize >= decoder.config.vocab) {
        Some(id) => Err(format!("token {id} is beyond the model's vocabulary of {}", decoder.config.vocab)),
        None => Ok(()),
    }
}

/// What tells a row's tokens apart in the step that has this `seed`: the row's tokens and the position. Rows are known by what they
/// say, not by where they stand, so that order, packs and micro-batches do not matter.
pub(in crate::model) fn dropout_keys(seed: u64, tokens: &[u32]) -> impl Iterator<Item = u64> {
    let row = tokens.iter().fold(seed, |key, token| ops::mix(key.wrapping_add(u64::from(*token) + 1)));
    (0..).map(move |position: u64| ops::mix(row.wrapping_add(position)))
}

/// The seed of a step's masks.
pub(super) fn dropout_seed(seed: u64, steps: u64) -> u64 {
    ops::mix(ops::mix(seed).wrapping_add(steps))
}

/// Lays the rows one after another; with the step's `seed` for dropout, tokens get keys that depend on their row and place.
pub(super) fn pack<'a>(packed: &mut Packed, rows: impl Iterator<Item = &'a Sequence>, seed: Option<u64>) {
    packed.ids.clear();
    packed.positions.clear();
    packed.keys.clear();
    packed.rows.clear();
    packed.predicting.clear();
    packed.targets.clear();
    for row in rows {
        let (start, n) = (packed.ids.len(), row.inputs());
        packed.ids.extend_from_slice(&row.tokens[..n]);
        packed.positions.extend(0..n as u32);
        if let Some(seed) = seed {
            packed.keys.extend(dropout_keys(seed, &row.tokens).take(n));
        }
        packed.rows.push(start..start + n);
        for (i, (token, trained)) in row.tokens.iter().zip(&row.trained).enumerate().skip(1) {
            if *trained {
                packed.predicting.push((start + i - 1) as u32);
                packed.targets.push(*token);
            }
        }
    }
}
