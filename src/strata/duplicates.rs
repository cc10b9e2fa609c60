//! Exact and near duplicates: MinHash over character 5-grams, banded into buckets, candidates checked by their true likeness
//! (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::domain::rng::SplitMix64;
use crate::ops::min_hashes;

/// Rows are near duplicates from this Jaccard likeness of their 5-grams on.
pub const THRESHOLD: f64 = 0.8;

const GRAM: usize = 5;

/// A pair just at the threshold is missed with this probability at most.
const MISSED: f64 = 0.005;
/// Hash functions at most.
const FUNCTIONS: usize = 160;

/// A bucket with more texts than this is compared along a chain and not each with each: boilerplate would cost the square.
const CROWDED: usize = 64;

/// Rows that say the same, or nearly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// All of them say exactly the same, but for case, punctuation and spacing.
    pub exact: bool,
    /// Places of the rows, ascending; at least two.
    pub rows: Vec<usize>,
}

/// Two texts that say nearly the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Places of the texts, the smaller first.
    pub texts: (u32, u32),
    /// Jaccard likeness of their 5-grams: 1 where they say the same but for case, punctuation and spacing.
    pub likeness: f64,
}

/// Bands, and hash functions of each: the widest bands (the fewest candidates) with which a pair at the threshold is missed rarely enough.
///
/// A pair of likeness s shares a bucket in one of b bands of r functions with probability 1 - (1 - s^r)^b.
fn bands_of(threshold: f64) -> (usize, usize) {
    let bands = |width: usize| {
        let meets = threshold.powi(width as i32).clamp(1e-9, 1.0 - 1e-9);
        (MISSED.ln() / (1.0 - meets).ln()).ceil() as usize
    };
    let width = (1..=16).rev().find(|&width| bands(width) * width <= FUNCTIONS).unwrap_or(1);
    (bands(width).clamp(1, FUNCTIONS / width), width)
}

/// Groups of duplicates, in the order of their first rows. Likeness is passed on: of A like B and B like C all three are one group.
pub fn groups<T: AsRef<str> + Sync>(texts: &[T], threshold: f64) -> Vec<Group> {
    let corpus = Corpus::new(texts);
    let mut sets = DisjointSets::new(texts.len());
    for &(first, copy) in &corpus.copies {
        sets.join(first as usize, copy as usize);
    }
    for pair in corpus.pairs(threshold) {
        sets.join(pair.texts.0 as usize, pair.texts.1 as usize);
    }
    let mut by_root: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..texts.len() {
        by_root.entry(sets.root(i)).or_default().push(i);
    }
    let mut groups: Vec<Group> = by_root
        .into_values()
        .filter(|rows| rows.len() > 1)
        .map(|rows| Group { exact: rows.iter().all(|&i| corpus.normal[i] == corpus.normal[rows[0]]), rows })
        .collect();
    groups.sort_by_key(|group| group.rows[0]);
    groups
}

/// The pairs at least so alike, each once, in order. A text that has been said before is left out: see [`copies`].
pub fn pairs<T: AsRef<str> + Sync>(texts: &[T], threshold: f64) -> Vec<Pair> {
    Corpus::new(texts).pairs(threshold)
}

/// What a text says but for case, punctuation and spacing, in 16 bytes; none where that is nothing.
pub fn said(text: &str) -> Option<[u8; 16]> {
    let normal = normalize(text);
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(normal.as_bytes()).as_bytes()[..16]);
    (!normal.is_empty()).then_some(short)
}

/// Texts that were said before, but for case, punctuation and spacing, each behind the first that said so.
pub fn copies<T: AsRef<str> + Sync>(texts: &[T]) -> Vec<(u32, u32)> {
    Corpus::new(texts).copies
}

/// Texts made ready for being compared.
struct Corpus {
    normal: Vec<String>,
    copies: Vec<(u32, u32)>,
    /// Places of the texts that go on: one of each that are equal.
    distinct: Vec<u32>,
}

impl Corpus {
    fn new<T: AsRef<str> + Sync>(texts: &[T]) -> Self {
        let normal: Vec<String> = texts.par_iter().map(|t| normalize(t.as_ref())).collect();
        let mut first: HashMap<&str, u32> = HashMap::new();
        let (mut copies, mut distinct) = (Vec::new(), Vec::new());
        for (text, i) in normal.iter().zip(0..).filter(|(text, _)| !text.is_empty()) {
            match first.get(text.as_str()) {
                Some(&known) => copies.push((known, i)),
                None => {
                    first.insert(text, i);
                    distinct.push(i);
                }
            }
        }
        Self { normal, copies, distinct }
    }

    fn pairs(&self, threshold: f64) -> Vec<Pair> {
        let sets: Vec<Vec<u32>> =
            self.distinct.par_iter().map(|&i| shingles(&self.normal[i as usize])).collect();
        let (bands, width) = bands_of(threshold);
        let keys = keys(bands * width);
        let signatures: Vec<u32> = sets
            .par_iter()
            .flat_map_iter(|set| {
                let mut least = vec![0; keys.len()];
                min_hashes(set, &keys, &mut least);
                least
            })
            .collect();
        let mut candidates: Vec<(u32, u32)> = (0..bands)
            .into_par_iter()
            .flat_map_iter(|band| {
                let part = |i: usize| &signatures[i * keys.len() + band * width..][..width];
                let mut buckets: Vec<(u64, u32)> =
                    (0..sets.len()).map(|i| (mixed(part(i)), i as u32)).collect();
                buckets.sort_unstable();
                let mut found = Vec::new();
                for bucket in buckets.chunk_by(|a, b| a.0 == b.0) {
                    meet(bucket, &mut found);
                }
                found
            })
            .collect();
        candidates.par_sort_unstable();
        candidates.dedup();
        candidates
            .into_par_iter()
            .filter_map(|(a, b)| {
                let likeness = likeness(&sets[a as usize], &sets[b as usize]);
                let texts = (self.distinct[a as usize], self.distinct[b as usize]);
                (likeness >= threshold).then_some(Pair { texts, likeness })
            })
            .collect()
    }
}

/// Who is compared with whom in a bucket.
fn meet(bucket: &[(u64, u32)], found: &mut Vec<(u32, u32)>) {
    if bucket.len() > CROWDED {
        found.extend(bucket.windows(2).map(|w| (w[0].1, w[1].1)));
        found.extend(bucket.iter().skip(2).map(|b| (bucket[0].1, b.1)));
    } else {
        for (i, a) in bucket.iter().enumerate() {
            found.extend(bucket[i + 1..].iter().map(|b| (a.1, b.1)));
        }
    }
}

/// Lower case, letters and digits only, single spaces.
fn normalize(text: &str) -> String {
    let plain: String = text
        .chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Hashes of the character 5-grams, sorted, each once; of a shorter text its own. Of 32 bits: of two sets of a thousand grams, one in four
/// thousand pairs of sets shares a hash that is no shared gram.
fn shingles(text: &str) -> Vec<u32> {
    let edges: Vec<usize> =
        text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len())).collect();
    let mut all: Vec<u32> = if edges.len() <= GRAM {
        vec![hash(text.as_bytes())]
    } else {
        edges.windows(GRAM + 1).map(|edge| hash(&text.as_bytes()[edge[0]..edge[GRAM]])).collect()
    };
    all.sort_unstable();
    all.dedup();
    all
}

/// FNV-1a, mixed.
fn hash(bytes: &[u8]) -> u32 {
    let h = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |h, byte| {
        (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    (SplitMix64::new(h).next_u64() >> 32) as u32
}

/// Multipliers (odd) and addends of the hash functions.
fn keys(n: usize) -> Vec<(u32, u32)> {
    let mut rng = SplitMix64::new(0x7E57);
    let mut draw = || (rng.next_u64() >> 32) as u32;
    (0..n).map(|_| (draw() | 1, draw())).collect()
}

/// One hash of the minima of a band.
fn mixed(minima: &[u32]) -> u64 {
    minima.iter().fold(0, |mixed, least| SplitMix64::new(mixed ^ u64::from(*least)).next_u64())
}

/// Jaccard likeness of two sorted sets.
fn likeness(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        both += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

/// Union-find with path halving; the smallest member is the root.
pub(super) struct DisjointSets(Vec<usize>);

impl DisjointSets {
    pub(super) fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    pub(super) fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    pub(super) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_and_near_duplicates_are_found_and_told_apart() {
        let texts = [
            "Where is my card? I ordered it two weeks ago.",
            "I want a refund for the shoes",
            "where is my card... I ordered it TWO weeks ago",
            "My transfer to Poland has been pending for three days now, what is happening with it?",
            "My transfer to Poland has been pending for three days now, what is happening to it?",
            "My transfer to Spain was cancelled",
            "",
            "  ",
            "ok",
            "OK!",
        ];
        let got = groups(&texts, THRESHOLD);
        let group = |exact, rows: &[usize]| Group { exact, rows: rows.to_vec() };
        assert_eq!(got, [group(true, &[0, 2]), group(false, &[3, 4]), group(true, &[8, 9])]);
    }

    #[test]
    fn many_copies_of_boilerplate_are_one_group() {
        let texts: Vec<String> = (0..500)
            .map(|i| format!("This is a long automatic notice that everybody gets, number {i}."))
            .collect();
        let got = groups(&texts, THRESHOLD);
        assert_eq!((got.len(), got[0].rows.len()), (1, 500));
    }

    #[test]
    fn likeness_is_jaccards() {
        assert_eq!(likeness(&[1, 2, 3, 4], &[3, 4, 5, 6]), 2.0 / 6.0);
        assert_eq!(likeness(&[], &[]), 0.0);
    }

    #[test]
    fn bands_miss_a_pair_at_the_threshold_rarely_and_cost_few_functions() {
        for threshold in [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0] {
            let (bands, width) = bands_of(threshold);
            let missed = (1.0 - f64::powi(threshold, width as i32)).powi(bands as i32);
            assert!(
                bands * width <= FUNCTIONS && missed <= MISSED,
                "{threshold}: {bands} x {width}, {missed}"
            );
        }
        assert_eq!(bands_of(0.7), (29, 5));
        assert_eq!(bands_of(0.0).1, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pairs_are_those_of_all_pairs_and_their_likeness_is_told(texts in prop::collection::vec("(where is|when comes|who has) my (card|money|new card) [ab]{0,3}", 1..40)) {
            let found = pairs(&texts, 0.6);
            let copied: Vec<u32> = copies(&texts).into_iter().map(|(_, copy)| copy).collect();
            let sets: Vec<Vec<u32>> = texts.iter().map(|t| shingles(&normalize(t))).collect();
            for b in 0..texts.len() {
                for a in 0..b {
                    let (pair, both) = ((a as u32, b as u32), likeness(&sets[a], &sets[b]));
                    let got = found.iter().find(|p| p.texts == pair);
                    if copied.contains(&pair.0) || copied.contains(&pair.1) || both < 0.6 {
                        prop_assert_eq!(got, None);
                    } else if both > 0.75 {
                        prop_assert_eq!(got.map(|p| p.likeness), Some(both), "{} {}", texts[a], texts[b]);
                    }
                }
            }
        }

        #[test]
        fn banding_finds_what_comparing_all_pairs_finds(texts in prop::collection::vec("[ab]{0,3} (the quick brown fox|jumps over|lazy dogs sleep) [cd]{0,2}", 1..30)) {
            let got = groups(&texts, THRESHOLD);
            let normal: Vec<String> = texts.iter().map(|t| normalize(t)).collect();
            let all: Vec<Vec<u32>> = normal.iter().map(|t| shingles(t)).collect();
            let mut sets = DisjointSets::new(texts.len());
            // Just at the threshold a pair may be missed (0.2%); from 0.9 on it is one in 10^7.
            for i in 0..texts.len() {
                for j in 0..i {
                    if likeness(&all[i], &all[j]) >= 0.9 {
                        sets.join(i, j);
                    }
                }
            }
            let place = |i: usize| got.iter().position(|g| g.rows.contains(&i));
            for i in 0..texts.len() {
                for j in 0..i {
                    if sets.root(i) == sets.root(j) {
                        prop_assert!(place(i).is_some() && place(i) == place(j), "{:?} {:?}", texts[i], texts[j]);
                    }
                }
            }
            for group in &got {
                for &i in &group.rows {
                    prop_assert!(group.rows.iter().any(|&j| j != i && likeness(&all[i], &all[j]) >= THRESHOLD));
                }
            }
        }
    }
}
