//! Exact and near duplicates: MinHash over character 5-grams, banded into buckets, candidates checked by their true likeness
//! (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::domain::rng::SplitMix64;

/// Rows are near duplicates from this Jaccard likeness of their 5-grams on.
pub const THRESHOLD: f64 = 0.8;

const GRAM: usize = 5;

/// 20 bands of 6: a pair at the threshold meets in some bucket with probability 1 - (1 - 0.8^6)^20 = 0.998, one at 0.5 with 0.27.
const BANDS: usize = 20;
const BAND: usize = 6;

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

/// Groups of duplicates, in the order of their first rows. Likeness is passed on: of A like B and B like C all three are one group.
pub fn groups<T: AsRef<str> + Sync>(texts: &[T]) -> Vec<Group> {
    let normal: Vec<String> = texts.par_iter().map(|t| normalize(t.as_ref())).collect();
    // Equal texts are joined at once; only one of each goes on.
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut sets = DisjointSets::new(texts.len());
    let mut distinct: Vec<usize> = Vec::new();
    for (i, text) in normal.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        match first.get(text.as_str()) {
            Some(&known) => sets.join(known, i),
            None => {
                first.insert(text, i);
                distinct.push(i);
            }
        }
    }
    let shingles: Vec<Vec<u64>> = distinct.par_iter().map(|&i| shingles(&normal[i])).collect();
    let keys = keys();
    let signatures: Vec<Vec<u64>> = shingles.par_iter().map(|s| bands(s, &keys)).collect();
    for band in 0..BANDS {
        let mut buckets: HashMap<u64, Vec<usize>> = HashMap::new();
        for (i, signature) in signatures.iter().enumerate() {
            buckets.entry(signature[band]).or_default().push(i);
        }
        let mut buckets: Vec<Vec<usize>> = buckets.into_values().filter(|b| b.len() > 1).collect();
        buckets.sort_unstable();
        for bucket in buckets {
            let mut compare = |a: usize, b: usize| {
                let (x, y) = (distinct[a], distinct[b]);
                if sets.root(x) != sets.root(y) && likeness(&shingles[a], &shingles[b]) >= THRESHOLD {
                    sets.join(x, y);
                }
            };
            if bucket.len() > CROWDED {
                bucket.windows(2).for_each(|w| compare(w[0], w[1]));
                bucket.iter().skip(2).for_each(|&b| compare(bucket[0], b));
            } else {
                for (i, &a) in bucket.iter().enumerate() {
                    bucket[i + 1..].iter().for_each(|&b| compare(a, b));
                }
            }
        }
    }
    let mut by_root: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..texts.len() {
        by_root.entry(sets.root(i)).or_default().push(i);
    }
    let mut groups: Vec<Group> = by_root
        .into_values()
        .filter(|rows| rows.len() > 1)
        .map(|rows| Group { exact: rows.iter().all(|&i| normal[i] == normal[rows[0]]), rows })
        .collect();
    groups.sort_by_key(|group| group.rows[0]);
    groups
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

/// Hashes of the character 5-grams, sorted, each once; of a shorter text its own.
fn shingles(text: &str) -> Vec<u64> {
    let edges: Vec<usize> =
        text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len())).collect();
    let mut all: Vec<u64> = if edges.len() <= GRAM {
        vec![hash(text.as_bytes())]
    } else {
        edges.windows(GRAM + 1).map(|edge| hash(&text.as_bytes()[edge[0]..edge[GRAM]])).collect()
    };
    all.sort_unstable();
    all.dedup();
    all
}

/// FNV-1a, mixed.
fn hash(bytes: &[u8]) -> u64 {
    let h = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |h, byte| {
        (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    SplitMix64::new(h).next_u64()
}

/// Multipliers (odd) and addends of the hash functions h(x) = (a x + b) mod 2^64, of which the upper half counts.
fn keys() -> Vec<(u64, u64)> {
    let mut rng = SplitMix64::new(0x7E57);
    (0..BANDS * BAND).map(|_| (rng.next_u64() | 1, rng.next_u64())).collect()
}

/// One hash a band over its minima.
fn bands(shingles: &[u64], keys: &[(u64, u64)]) -> Vec<u64> {
    keys.chunks_exact(BAND)
        .map(|band| {
            band.iter().fold(0_u64, |mixed, (a, b)| {
                let least =
                    shingles.iter().map(|x| a.wrapping_mul(*x).wrapping_add(*b) >> 32).min().unwrap_or(0);
                SplitMix64::new(mixed ^ least).next_u64()
            })
        })
        .collect()
}

/// Jaccard likeness of two sorted sets.
fn likeness(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        both += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

/// Union-find with path halving; the smallest member is the root.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
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
        let got = groups(&texts);
        let group = |exact, rows: &[usize]| Group { exact, rows: rows.to_vec() };
        assert_eq!(got, [group(true, &[0, 2]), group(false, &[3, 4]), group(true, &[8, 9])]);
    }

    #[test]
    fn many_copies_of_boilerplate_are_one_group() {
        let texts: Vec<String> = (0..500)
            .map(|i| format!("This is a long automatic notice that everybody gets, number {i}."))
            .collect();
        let got = groups(&texts);
        assert_eq!((got.len(), got[0].rows.len()), (1, 500));
    }

    #[test]
    fn likeness_is_jaccards() {
        assert_eq!(likeness(&[1, 2, 3, 4], &[3, 4, 5, 6]), 2.0 / 6.0);
        assert_eq!(likeness(&[], &[]), 0.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn banding_finds_what_comparing_all_pairs_finds(texts in prop::collection::vec("[ab]{0,3} (the quick brown fox|jumps over|lazy dogs sleep) [cd]{0,2}", 1..30)) {
            let got = groups(&texts);
            let normal: Vec<String> = texts.iter().map(|t| normalize(t)).collect();
            let all: Vec<Vec<u64>> = normal.iter().map(|t| shingles(t)).collect();
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
