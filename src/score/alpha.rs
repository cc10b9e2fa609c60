//! Krippendorff's alpha for nominal data: any number of annotators, any of whom may have said nothing of a unit
//! (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C).

use std::collections::BTreeMap;

use super::stats::percentile;
use crate::domain::judge::Kappa;
use crate::domain::rng::SplitMix64;

/// Of the bootstrap behind the interval.
const ROUNDS: u64 = 2_000;
/// Rounds in which alpha has a value, at least this share: else there is too little for an interval.
const ENOUGH: f64 = 0.5;

/// Counts of each value in a unit that at least two annotators spoke of.
type Counts = Vec<(usize, f64)>;

/// Alpha with a 95% percentile interval over units drawn with replacement. `units`: what was said of each, once an annotator. None where no
/// unit was spoken of twice, or only one value was ever given: chance alone would agree.
///
/// `alpha = 1 - (n - 1) sum_{c != k} o_ck / sum_{c != k} n_c n_k`, where `o_ck` sums, over units of m values, the pairs of values c and k by
/// `1 / (m - 1)`, `n_c` is how often c was given in those units, and `n` the sum of all `n_c`.
pub fn alpha(units: &[Vec<&str>], seed: u64) -> Option<Kappa> {
    let mut words: BTreeMap<&str, usize> = BTreeMap::new();
    for word in units.iter().filter(|unit| unit.len() > 1).flatten() {
        let next = words.len();
        words.entry(word).or_insert(next);
    }
    let counts: Vec<Counts> = units
        .iter()
        .filter(|unit| unit.len() > 1)
        .map(|unit| {
            let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
            unit.iter()
                .filter_map(|word| words.get(word))
                .for_each(|w| *counts.entry(*w).or_default() += 1.0);
            counts.into_iter().collect()
        })
        .collect();
    let value = of(counts.iter(), words.len())?;
    let mut drawn: Vec<f64> = (0..ROUNDS)
        .filter_map(|round| {
            let mut rng = SplitMix64::stream(seed, round);
            of((0..counts.len()).map(|_| &counts[rng.below(counts.len())]), words.len())
        })
        .collect();
    if (drawn.len() as f64) < ENOUGH * ROUNDS as f64 {
        return Some(Kappa { value, ci95: [-1.0, 1.0] });
    }
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |q| percentile(&drawn, q).unwrap_or(value);
    Some(Kappa { value, ci95: [at(0.025), at(0.975)] })
}

fn of<'a>(units: impl Iterator<Item = &'a Counts>, words: usize) -> Option<f64> {
    let (mut apart, mut given) = (0.0, vec![0.0; words]);
    for unit in units {
        let m: f64 = unit.iter().map(|(_, count)| count).sum();
        let same: f64 = unit.iter().map(|(_, count)| count * count).sum();
        // Ordered pairs of unlike values.
        apart += (m * m - same) / (m - 1.0);
        for (word, count) in unit {
            given[*word] += count;
        }
    }
    let n: f64 = given.iter().sum();
    let by_chance = n * n - given.iter().map(|count| count * count).sum::<f64>();
    (by_chance > 0.0).then(|| 1.0 - (n - 1.0) * apart / by_chance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        name: String,
        table: Vec<Vec<Option<String>>>,
        alpha: Option<f64>,
    }

    #[test]
    fn alpha_is_that_of_the_reference() {
        let text = include_str!("../../tests/fixtures/score/alpha.json");
        let cases: Vec<Reference> = serde_json::from_str(text).unwrap();
        assert!(cases.len() > 8);
        for case in cases {
            let units: Vec<Vec<&str>> = (0..case.table[0].len())
                .map(|u| case.table.iter().filter_map(|row| row[u].as_deref()).collect())
                .collect();
            let got = alpha(&units, 7);
            assert_eq!(got.is_some(), case.alpha.is_some(), "{}", case.name);
            if let (Some(got), Some(want)) = (got, case.alpha) {
                assert!((got.value - want).abs() < 1e-9, "{}: {} {want}", case.name, got.value);
                assert!(got.ci95[0] <= got.value + 1e-9 && got.value <= got.ci95[1] + 1e-9, "{}", case.name);
            }
        }
    }

    proptest! {
        #[test]
        fn neither_names_nor_order_nor_single_voices_matter(units in prop::collection::vec(prop::collection::vec("[abc]", 0..5), 1..20)) {
            let plain: Vec<Vec<&str>> = units.iter().map(|u| u.iter().map(String::as_str).collect()).collect();
            let mut other: Vec<Vec<&str>> = plain
                .iter()
                .map(|u| u.iter().rev().map(|w| match *w { "a" => "z", "b" => "y", other => other }).collect())
                .collect();
            other.reverse();
            other.push(vec!["lonely"]);
            match (alpha(&plain, 1), alpha(&other, 1)) {
                (Some(a), Some(b)) => prop_assert!((a.value - b.value).abs() < 1e-9 && a.value <= 1.0 + 1e-12),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
