//! Is a difference between paired scores more than chance? Which test, its p-value, and the interval of the difference.

use super::super::bootstrap::{self, Unit};
use super::super::distributions::{normal_two_sided, student_95};
use super::super::stats;

/// Name of the test for metrics that are right or wrong on each row.
pub const MCNEMAR: &str = "mcnemar_exact";
/// Name of the test for all other metrics.
pub const BOOTSTRAP: &str = "paired_bootstrap";
/// Their names where rows belong together.
pub const CLUSTERED_MCNEMAR: &str = "clustered_mcnemar";
pub const CLUSTER_BOOTSTRAP: &str = "cluster_bootstrap";

/// Up to so many clusters that changed, every pattern of signs is counted; beyond, their sum is as good as normal.
const EXACT_CLUSTERS: usize = 200;

/// What a test says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub test: &'static str,
    /// Mean of the differences.
    pub delta: f64,
    /// Its standard error; of clusters, where there are some.
    pub se: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
    /// Further rows fixed, with none regressed, that would bring p below 0.05; 0 when it is, or where nothing is right or wrong.
    pub needed: usize,
}

/// Rows as the tests see them.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Score of B less score of A.
    pub differences: &'a [f64],
    /// Each row's cluster, from 0, and how many there are. As many as rows: each stands alone.
    pub cluster: &'a [usize],
    pub clusters: usize,
    /// Rows that B fixed and that it broke; none where the metric does not tell right from wrong.
    pub flips: Option<(usize, usize)>,
    /// Every score is 0 or 1, and with `flips` right or wrong is all there is. `1.0` where 1 is right, `-1.0` where 0 is.
    pub binary: Option<f64>,
}

impl Rows<'_> {
    pub fn test(&self, seed: u64) -> Verdict {
        let n = self.differences.len();
        let delta = mean(self.differences);
        let clustered = self.clusters < n;
        let units = if clustered { self.units() } else { Vec::new() };
        let se = if clustered { clustered_se(&units) } else { plain_se(self.differences) };
        let (fixed, regressed) = self.flips.unwrap_or_default();
        if let Some(sign) = self.binary {
            let (up, down) = if sign > 0.0 { (fixed, regressed) } else { (regressed, fixed) };
            if !clustered {
                return Verdict {
                    test: MCNEMAR,
                    delta,
                    se,
                    ci95: stats::paired_difference(up, down, n),
                    p_value: stats::mcnemar_exact(fixed, regressed),
                    needed: stats::needed(fixed, regressed),
                };
            }
            let sums: Vec<i64> = units.iter().map(|u| (u.sum * sign).round() as i64).collect();
            let ci95 = if se > 0.0 {
                let half = student_95(self.clusters as f64 - 1.0) * se;
                [(delta - half).max(-1.0), (delta + half).min(1.0)]
            } else {
                // All clusters alike: they say as much as so many rows.
                let count = |rows: usize| (rows as f64 / n as f64 * self.clusters as f64).round() as usize;
                stats::paired_difference(count(up), count(down), self.clusters)
            };
            let needed = stats::fewest(|k| clustered_mcnemar(&sums, k) < 0.05, 0);
            return Verdict {
                test: CLUSTERED_MCNEMAR,
                delta,
                se,
                ci95,
                p_value: clustered_mcnemar(&sums, 0),
                needed,
            };
        }
        let (test, boot) = if clustered {
            (CLUSTER_BOOTSTRAP, bootstrap::of_units(units, bootstrap::ROUNDS, seed))
        } else {
            (BOOTSTRAP, bootstrap::mean(self.differences, bootstrap::ROUNDS, seed))
        };
        let needed = match self.flips {
            Some(_) if boot.p_value >= 0.05 => stats::needed(fixed, regressed),
            _ => 0,
        };
        Verdict { test, delta, se, ci95: boot.ci95, p_value: boot.p_value, needed }
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = vec![Unit { sum: 0.0, rows: 0.0 }; self.clusters];
        for (difference, cluster) in self.differences.iter().zip(self.cluster) {
            if let Some(unit) = units.get_mut(*cluster) {
                unit.sum += difference;
                unit.rows += 1.0;
            }
        }
        units
    }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Standard error of a mean: sd / sqrt(n), with n - 1 degrees of freedom.
fn plain_se(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let centre = mean(values);
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 }
}

/// Standard error of a mean over clusters, robust to whatever goes on within them (Liang and Zeger 1986, Biometrika 73:13-22):
/// sqrt(G/(G-1) sum over clusters of (sum of residuals)^2) / n.
fn clustered_se(units: &[Unit]) -> f64 {
    let (sum, rows) = units.iter().fold((0.0, 0.0), |(s, r), u| (s + u.sum, r + u.rows));
    let clusters = units.len() as f64;
    if clusters < 2.0 || rows == 0.0 {
        return 0.0;
    }
    let centre = sum / rows;
    let squares: f64 = units.iter().map(|u| (u.sum - u.rows * centre).powi(2)).sum();
    (clusters / (clusters - 1.0) * squares).sqrt() / rows
}

/// McNemar's test where rows belong to clusters: `sums` holds for each cluster its fixed rows less its regressed ones, `more` further clusters
/// have one fixed row each. If neither candidate is better, each cluster's sum is as likely with the other sign; p is the share of sign
/// patterns whose total is as far from 0. That is the statistic of Obuchowski as modified for tests (Yang, Sun and Hardin 2010, Biometrical
/// Journal 52:638-652), (sum of sums)^2 / sum of squares, with its exact distribution instead of chi-square while clusters are few;
/// and the exact McNemar test where every cluster is one row.
pub fn clustered_mcnemar(sums: &[i64], more: usize) -> f64 {
    let changed: Vec<usize> = sums
        .iter()
        .filter(|s| **s != 0)
        .map(|s| s.unsigned_abs() as usize)
        .chain(std::iter::repeat_n(1, more))
        .collect();
    let total = sums.iter().sum::<i64>() + more as i64;
    let reach: usize = changed.iter().sum();
    if total == 0 {
        return 1.0;
    }
    if changed.len() > EXACT_CLUSTERS {
        let squares: f64 = changed.iter().map(|s| (*s as f64).powi(2)).sum();
        return normal_two_sided(total as f64 / squares.sqrt());
    }
    // Share of patterns by their total, from -reach on.
    let mut shares = vec![0.0; 2 * reach + 1];
    let mut next = shares.clone();
    let mut so_far = 0;
    shares[reach] = 1.0;
    for size in changed {
        next[reach - so_far - size..=reach + so_far + size].fill(0.0);
        for at in reach - so_far..=reach + so_far {
            let half = 0.5 * shares[at];
            next[at - size] += half;
            next[at + size] += half;
        }
        so_far += size;
        std::mem::swap(&mut shares, &mut next);
    }
    let far = total.unsigned_abs() as usize;
    let tail: f64 = shares[..=reach - far].iter().sum();
    (2.0 * tail).min(1.0)
}

/// Holm's adjustment of several p-values (1979, Scandinavian Journal of Statistics 6:65-70): calling those below 0.05 significant errs, with one of
/// them or with several, in at most 5 of 100 such families.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, at) in order.into_iter().enumerate() {
        largest = largest.max((p_values.len() - rank) as f64 * p_values[at]).min(1.0);
        adjusted[at] = largest;
    }
    adjusted
}
