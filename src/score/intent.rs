//! Semantic intent: how near an answer is to its gold by what they say.

use std::sync::{Mutex, PoisonError};

use crate::embed::{Embedder, Source, dot};

/// The same for every candidate on the same rows.
const SEED: u64 = 7;

/// Characters of a text that are embedded.
const LONGEST: usize = 20_000;

/// Who says how near two texts are.
#[derive(Debug)]
pub struct Intent {
    /// The built-in embedder is fitted on the golden answers of the rows.
    source: Source,
    /// It failed: it is not asked again, and what it would have scored has no value.
    trouble: Mutex<Option<String>>,
}

impl Intent {
    pub fn fit<'a>(golds: impl Iterator<Item = &'a str>) -> Self {
        let golds: Vec<&str> = golds.map(cut).collect();
        Self { source: Embedder::fit(&golds, SEED).into(), trouble: Mutex::default() }
    }

    /// By a model; golds are embedded together.
    ///
    /// # Errors
    /// Why it cannot embed, in words.
    pub fn by(source: Source, golds: &[String]) -> Result<Self, String> {
        let golds: Vec<&str> = golds.iter().map(|gold| cut(gold)).collect();
        source.embed(&golds, &mut |_| true)?;
        Ok(Self { source, trouble: Mutex::default() })
    }

    /// Why the model embeds no more.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cosine of the two texts, 0 to 1. None where the gold says nothing, or the model failed.
    ///
    /// With the built-in embedder what the answer says and no gold ever does lowers it: the cosine within the golds' main directions is
    /// scaled by the share of the answer that lies in them, as far as it is below the gold's.
    pub fn similarity(&self, output: &str, gold: &str) -> Option<f64> {
        if gold.trim().is_empty() {
            return None;
        }
        if output.trim() == gold.trim() {
            return Some(1.0);
        }
        if self.source.builtin().is_none() {
            if self.trouble().is_some() {
                return None;
            }
            // An empty answer has no vector worth the name.
            if output.trim().is_empty() {
                return Some(0.0);
            }
        }
        let (vectors, shares) = match self.source.embed_with_fit(&[cut(output), cut(gold)]) {
            Ok(found) => found,
            Err(why) => {
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                return None;
            }
        };
        let cosine = f64::from(dot(vectors.row(0), vectors.row(1))).clamp(0.0, 1.0);
        let (output, gold) = (f64::from(*shares.first()?), f64::from(*shares.get(1)?));
        Some(if gold > 0.0 { cosine * (output / gold).min(1.0) } else { 0.0 })
    }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDS: [&str; 6] = [
        "Your card was sent on Monday and arrives within five days.",
        "You can cancel the transfer in the app until it is sent.",
        "A refund takes up to ten days to reach your account.",
        "Please verify your identity with a photo of your passport.",
        "The exchange rate is the one at the time of your payment.",
        "Top up your account by bank transfer or with another card.",
    ];

    #[test]
    fn the_same_said_otherwise_is_nearer_than_something_else() {
        let intent = Intent::fit(GOLDS.into_iter());
        let at = |output: &str| intent.similarity(output, GOLDS[2]).unwrap();
        assert_eq!(at(GOLDS[2]), 1.0);
        let same = at("The refund takes ten days to reach the account");
        let other = at(GOLDS[3]);
        assert!(same > 0.5 && same > other + 0.25, "{same} {other}");
        assert_eq!(at(""), 0.0);
    }

    #[test]
    fn what_no_gold_says_lowers_it() {
        let intent = Intent::fit(GOLDS.into_iter());
        let junk = format!("{} {}", GOLDS[2], "zebra quantum umbrella volcano ".repeat(20));
        let got = intent.similarity(&junk, GOLDS[2]).unwrap();
        assert!(got < 0.8, "{got}");
    }

    #[test]
    fn odd_texts_are_no_trouble() {
        let none = Intent::fit(std::iter::empty());
        assert_eq!(none.similarity("x", ""), None);
        assert!(none.similarity("x", "y").unwrap().is_finite());
        let one = Intent::fit(["ja"].into_iter());
        assert!(one.similarity(&"ä".repeat(1 << 20), "ja").unwrap() < 0.5);
    }
}
