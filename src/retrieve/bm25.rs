//! BM25 (Robertson and Zaragoza 2009, "The probabilistic relevance framework", section 3), over an inverted index.
//!
//! `score(q, d) = sum over words of q: idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|))`, idf `ln(1 + (N - n + 0.5) / (n + 0.5))`,
//! which is never negative. A word that the query has twice counts twice.

use std::collections::{BTreeMap, HashMap};

use crate::embed::words;

/// Saturation of a word's count, and how much a text's length counts.
pub const K1: f32 = 1.5;
pub const B: f32 = 0.75;

/// An index of texts.
#[derive(Clone, Debug, Default)]
pub struct Bm25 {
    /// Word to (text, count), by text.
    postings: HashMap<String, Vec<(u32, u32)>>,
    /// Words of each text.
    lengths: Vec<u32>,
    mean: f32,
}

impl Bm25 {
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut index = Self::default();
        for (at, text) in texts.into_iter().enumerate() {
            let mut counts: BTreeMap<String, u32> = BTreeMap::new();
            words(text).for_each(|word| *counts.entry(word).or_default() += 1);
            index.lengths.push(counts.values().sum());
            for (word, count) in counts {
                index.postings.entry(word).or_default().push((at as u32, count));
            }
        }
        let total: f32 = index.lengths.iter().map(|n| *n as f32).sum();
        index.mean = (total / index.lengths.len().max(1) as f32).max(f32::MIN_POSITIVE);
        index
    }

    /// Scores of the texts that have a word of the query, by text.
    pub fn scores(&self, query: &str) -> BTreeMap<usize, f32> {
        let n = self.lengths.len() as f32;
        // Sums in one order whatever the query's: sorted words.
        let mut asked: BTreeMap<String, f32> = BTreeMap::new();
        words(query).for_each(|word| *asked.entry(word).or_default() += 1.0);
        let mut scores = BTreeMap::new();
        for (word, times) in asked {
            let Some(postings) = self.postings.get(&word) else { continue };
            let df = postings.len() as f32;
            let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
            for &(text, count) in postings {
                let tf = count as f32;
                let length = self.lengths.get(text as usize).map_or(0.0, |l| *l as f32);
                let norm = K1 * (1.0 - B + B * length / self.mean);
                *scores.entry(text as usize).or_default() += times * idf * tf * (K1 + 1.0) / (tf + norm);
            }
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        texts: Vec<String>,
        queries: Vec<String>,
        /// (queries, texts)
        scores: Vec<Vec<f32>>,
    }

    #[test]
    fn scores_are_those_of_the_reference() {
        let reference: Reference =
            serde_json::from_str(include_str!("../../tests/fixtures/retrieve/bm25.json")).unwrap();
        let index = Bm25::new(reference.texts.iter().map(String::as_str));
        for (query, want) in reference.queries.iter().zip(&reference.scores) {
            let got = index.scores(query);
            for (i, want) in want.iter().enumerate() {
                let got = got.get(&i).copied().unwrap_or(0.0);
                assert!((got - want).abs() < 1e-4 * want.max(1.0), "{query}, text {i}: {got}, not {want}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_texts_and_of_the_querys_words_changes_no_score(texts in prop::collection::vec("[a-c]( [a-c]){0,6}", 1..12), query in prop::collection::vec("[a-d]", 0..5)) {
            let forward = Bm25::new(texts.iter().map(String::as_str)).scores(&query.join(" "));
            let backward: Vec<&str> = texts.iter().rev().map(String::as_str).collect();
            let mirrored: Vec<&str> = query.iter().rev().map(String::as_str).collect();
            let got = Bm25::new(backward).scores(&mirrored.join(" "));
            let got: BTreeMap<usize, f32> = got.into_iter().map(|(i, s)| (texts.len() - 1 - i, s)).collect();
            prop_assert_eq!(got, forward);
        }
    }
}
