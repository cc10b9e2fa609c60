//! What this many rows can show, and how many would show more.

use super::distributions::{Z95, incomplete_beta, ln_binomial};
use super::stats::fewest;

/// Differences that are found: four in five.
pub const POWER: f64 = 0.8;
/// Share of rows on which two candidates disagree, where none have been compared yet.
pub const ASSUMED_DISCORDANCE: f64 = 0.2;
/// The standard normal's 80% point.
const Z_POWER: f64 = 0.841_621_233_572_914_3;
/// From so many rows on the asymptotic formula is as good as the exact test.
const EXACT_ROWS: usize = 20_000;

/// P(X <= k) of a binomial with `n` draws at `p`.
fn at_most(k: usize, n: usize, p: f64) -> f64 {
    if k >= n { 1.0 } else { incomplete_beta((n - k) as f64, k as f64 + 1.0, 1.0 - p) }
}

/// Chance that the exact McNemar test on `n` rows is below 0.05, where two candidates disagree on the share `discordant` of rows and B is right on
/// `difference` more of them: over the number m of rows that they disagree on, binomial, the chance that those B fixed, binomial too at
/// (discordant + difference) / (2 discordant), lie where the test rejects. Beyond 20,000 rows by Connor's formula (1987, Biometrics 43:207-211).
pub fn power(n: usize, discordant: f64, difference: f64) -> f64 {
    let psi = discordant.clamp(0.0, 1.0);
    let d = difference.abs().min(psi);
    if psi == 0.0 || n == 0 {
        return 0.0;
    }
    if n > EXACT_ROWS {
        let spread = (psi - d * d).max(1e-12).sqrt();
        let z = (d * (n as f64).sqrt() - Z95 * psi.sqrt()) / spread;
        let tail = super::distributions::normal_two_sided(z) / 2.0;
        return if z > 0.0 { 1.0 - tail } else { tail };
    }
    let chance = (psi + d) / (2.0 * psi);
    let (centre, spread) = (n as f64 * psi, (n as f64 * psi * (1.0 - psi)).sqrt());
    let first = (centre - 9.0 * spread - 2.0).max(1.0) as usize;
    let last = ((centre + 9.0 * spread + 2.0) as usize).min(n);
    let mut total = 0.0;
    // Fewer than so many on one side: the test rejects. It grows by one at most with each further row.
    let mut rejected = fewest_not_rejected(first, 0);
    for m in first..=last {
        rejected = fewest_not_rejected(m, rejected);
        let weight = if psi < 1.0 { ln_binomial(m, n, psi).exp() } else { f64::from(u8::from(m == n)) };
        if rejected > 0 {
            let few = at_most(rejected - 1, m, chance);
            let many = 1.0 - at_most(m - rejected, m, chance);
            total += weight * (few + many);
        }
    }
    total.min(1.0)
}

/// The least number of rows on one side of `m` at which the exact test does not reject, searched from `from` on.
fn fewest_not_rejected(m: usize, from: usize) -> usize {
    (from..=m / 2).find(|k| 2.0 * at_most(*k, m, 0.5) >= 0.05).unwrap_or(m / 2)
}

/// The smallest difference that `n` rows show with 80% power at p < 0.05, when candidates disagree on the share `discordant` of rows.
/// None where not even a difference on all those rows would show.
pub fn smallest_difference(n: usize, discordant: f64) -> Option<f64> {
    let psi = discordant.clamp(0.0, 1.0);
    if power(n, psi, psi) < POWER {
        return None;
    }
    let (mut low, mut high) = (0.0, psi);
    for _ in 0..24 {
        let middle = f64::midpoint(low, high);
        if power(n, psi, middle) < POWER {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(high)
}

/// Rows that show `difference` with 80% power. Candidates that differ by so much disagree on so many rows at least.
pub fn rows_needed(discordant: f64, difference: f64) -> Option<usize> {
    let (psi, d) = (discordant.max(difference).min(1.0), difference);
    if d <= 0.0 || d > 1.0 {
        return None;
    }
    let asymptotic = ((Z95 * psi.sqrt() + Z_POWER * (psi - d * d).max(0.0).sqrt()) / d).powi(2);
    if asymptotic > EXACT_ROWS as f64 {
        return Some(asymptotic.ceil() as usize);
    }
    // The exact test asks for a little more than the formula.
    Some(fewest(|n| power(n, psi, d) >= POWER, (asymptotic * 0.9) as usize))
}

/// One stratum, for the allocation of rows.
#[derive(Clone, Copy, Debug)]
pub struct Allotted {
    /// Its share of what the score is to speak for.
    pub share: f64,
    /// Standard deviation of the differences of its rows.
    pub spread: f64,
    pub rows: usize,
}

/// Where `more` rows help most: as many to each stratum as bring it nearest to Neyman's allocation (1934, Journal of the Royal Statistical Society
/// 97:558-625), rows in proportion to share x spread. Rows that are there stay.
pub fn allocate(strata: &[Allotted], more: usize) -> Vec<usize> {
    let total = strata.iter().map(|s| s.rows).sum::<usize>() + more;
    let weight: f64 = strata.iter().map(|s| s.share * s.spread).sum();
    if weight <= 0.0 {
        return vec![0; strata.len()];
    }
    let short: Vec<f64> = strata
        .iter()
        .map(|s| (total as f64 * s.share * s.spread / weight - s.rows as f64).max(0.0))
        .collect();
    let all: f64 = short.iter().sum();
    if all <= 0.0 {
        return vec![0; strata.len()];
    }
    // Whole rows, what is left to those with the largest remainders.
    let exact: Vec<f64> = short.iter().map(|s| s / all * more as f64).collect();
    let mut given: Vec<usize> = exact.iter().map(|e| *e as usize).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
    let left = more - given.iter().sum::<usize>().min(more);
    for at in order.into_iter().take(left) {
        given[at] += 1;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rng::SplitMix64;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        /// n, discordant, difference, power: scipy, by enumeration of the exact test.
        power: Vec<(usize, f64, f64, f64)>,
        /// discordant, difference, rows: the asymptotic formula's root.
        rows: Vec<(f64, f64, f64)>,
    }

    fn reference() -> Reference {
        let all: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/score/comparison.json")).unwrap();
        serde_json::from_value(all["power"].clone()).unwrap()
    }

    #[test]
    fn power_is_the_exact_tests() {
        for (n, psi, d, want) in reference().power {
            assert!((power(n, psi, d) - want).abs() < 1e-9, "{n} {psi} {d}: {} {want}", power(n, psi, d));
        }
    }

    #[test]
    fn the_exact_test_needs_a_little_more_rows_than_the_formula() {
        for (psi, d, formula) in reference().rows {
            let needed = rows_needed(psi, d).unwrap() as f64;
            if formula > EXACT_ROWS as f64 {
                assert_eq!(needed, formula.ceil(), "by the formula alone");
            } else {
                assert!(needed >= formula && needed < formula * 1.2 + 5.0, "{psi} {d}: {needed} {formula}");
            }
        }
        assert_eq!((rows_needed(0.2, 0.0), rows_needed(0.2, 1.5)), (None, None));
    }

    #[test]
    fn more_rows_show_smaller_differences() {
        let at = |n| smallest_difference(n, 0.2).unwrap();
        assert!(at(600) < at(100) && at(100) < 0.2);
        let d = at(300);
        assert!(power(300, 0.2, d) >= POWER && power(300, 0.2, d * 0.98) < POWER);
        assert_eq!(smallest_difference(5, 0.2), None);
        assert_eq!(smallest_difference(1000, 0.0), None);
    }

    #[test]
    fn simulated_candidates_that_differ_by_so_much_are_told_apart_four_times_in_five() {
        let (n, psi) = (250, 0.25);
        let d = smallest_difference(n, psi).unwrap();
        // Of all rows those that B alone has right.
        let better = f64::midpoint(psi, d);
        let mut rng = SplitMix64::new(31);
        let times = 2_000;
        let found = (0..times)
            .filter(|_| {
                let (mut fixed, mut regressed) = (0, 0);
                for _ in 0..n {
                    let u = rng.unit();
                    fixed += usize::from(u < better);
                    regressed += usize::from(better <= u && u < psi);
                }
                super::super::stats::mcnemar_exact(fixed, regressed) < 0.05
            })
            .count();
        assert!((found as f64 / f64::from(times) - POWER).abs() < 0.03, "{found}");
    }

    #[test]
    fn rows_go_where_candidates_disagree_most() {
        let stratum = |share, spread, rows| Allotted { share, spread, rows };
        let got = allocate(&[stratum(0.5, 0.1, 50), stratum(0.5, 0.3, 50)], 100);
        // 200 rows by 1 : 3 would be 50 and 150.
        assert_eq!(got, [0, 100]);
        assert_eq!(allocate(&[stratum(0.5, 0.2, 0), stratum(0.5, 0.2, 0)], 3).iter().sum::<usize>(), 3);
        assert_eq!(allocate(&[stratum(1.0, 0.0, 5)], 3), [0]);
    }

    proptest! {
        #[test]
        fn every_row_is_given_once(strata in prop::collection::vec((0.01..1.0, 0.05..1.0, 0..300usize), 1..9), more in 0..2_000usize) {
            let strata: Vec<Allotted> = strata.iter().map(|(share, spread, rows)| Allotted { share: *share, spread: *spread, rows: *rows }).collect();
            let given = allocate(&strata, more);
            prop_assert_eq!(given.iter().sum::<usize>(), more);
        }
    }
}
