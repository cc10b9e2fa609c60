//! Candidates that are equal, hundreds of times over: false alarms stay at the level promised, and intervals cover what they promise.

use super::super::super::stats;
use super::*;
use crate::domain::rng::SplitMix64;

/// Largest count of successes in `n` trials at `p` that chance gives but once in some thousand.
fn at_most(n: usize, p: f64) -> usize {
    (n as f64 * p + 3.2 * (n as f64 * p * (1.0 - p)).sqrt()).ceil() as usize
}

fn at_least(n: usize, p: f64) -> usize {
    n - at_most(n, 1.0 - p)
}

/// Rows of a simulation: each candidate right or wrong, and the row's cluster.
struct Drawn {
    differences: Vec<f64>,
    cluster: Vec<usize>,
    clusters: usize,
}

impl Drawn {
    /// `clusters` of `size` rows. Candidates differ on a quarter of the rows, A or B right by the lean of the cluster: B with
    /// chance 1/2 + `lean` in a random half of the clusters, 1/2 - `lean` in the others; over all of them nobody is better.
    fn equal(rng: &mut SplitMix64, clusters: usize, size: usize, lean: f64) -> Self {
        let (mut differences, mut cluster) = (Vec::new(), Vec::new());
        for at in 0..clusters {
            let chance = if rng.unit() < 0.5 { 0.5 + lean } else { 0.5 - lean };
            for _ in 0..size {
                let differ = rng.unit() < 0.25;
                let b = rng.unit() < chance;
                differences.push(if !differ {
                    0.0
                } else if b {
                    1.0
                } else {
                    -1.0
                });
                cluster.push(at);
            }
        }
        Self { differences, cluster, clusters }
    }

    fn verdict(&self, clustered: bool) -> Verdict {
        let count = |value: f64| self.differences.iter().filter(|d| **d == value).count();
        let rows = Rows {
            differences: &self.differences,
            cluster: &self.cluster,
            clusters: if clustered { self.clusters } else { self.differences.len() },
            flips: Some((count(1.0), count(-1.0))),
            binary: Some(1.0),
        };
        rows.test(1)
    }
}

#[test]
fn equal_candidates_are_called_different_once_in_twenty_at_most() {
    let mut rng = SplitMix64::new(20);
    let times = 1_000;
    let (mut alarms, mut covered) = (0, 0);
    for _ in 0..times {
        let got = Drawn::equal(&mut rng, 300, 1, 0.0).verdict(false);
        assert_eq!(got.test, MCNEMAR);
        alarms += usize::from(got.p_value < 0.05);
        covered += usize::from(got.ci95[0] <= 0.0 && 0.0 <= got.ci95[1]);
    }
    assert!(alarms <= at_most(times, 0.05) && alarms >= times / 100, "{alarms}");
    assert!((at_least(times, 0.95)..=at_most(times, 0.95)).contains(&covered), "{covered}");
}

#[test]
fn rows_that_belong_together_raise_no_false_alarms_when_the_test_knows_it() {
    let mut rng = SplitMix64::new(21);
    let times = 600;
    let (mut alarms, mut fooled, mut covered) = (0, 0, 0);
    for _ in 0..times {
        let drawn = Drawn::equal(&mut rng, 60, 6, 0.45);
        let got = drawn.verdict(true);
        assert_eq!(got.test, CLUSTERED_MCNEMAR);
        alarms += usize::from(got.p_value < 0.05);
        covered += usize::from(got.ci95[0] <= 0.0 && 0.0 <= got.ci95[1]);
        fooled += usize::from(drawn.verdict(false).p_value < 0.05);
    }
    assert!(alarms <= at_most(times, 0.05) && alarms >= times / 100, "{alarms}");
    assert!(covered >= at_least(times, 0.95), "{covered}");
    assert!(fooled > at_most(times, 0.05), "plain McNemar would be valid here: {fooled}");
}

#[test]
fn of_eight_candidates_equal_to_the_baseline_one_is_called_better_once_in_twenty_at_most() {
    let mut rng = SplitMix64::new(22);
    let times = 500;
    let (mut families, mut raw) = (0, 0);
    for _ in 0..times {
        // All against the same baseline, so that the comparisons hang together.
        let right = |rng: &mut SplitMix64| (0..250).map(|_| rng.unit() < 0.7).collect::<Vec<_>>();
        let base = right(&mut rng);
        let p_values: Vec<f64> = (0..8)
            .map(|_| {
                let other = right(&mut rng);
                let count = |a: bool| base.iter().zip(&other).filter(|(x, y)| **x == a && **y != a).count();
                stats::mcnemar_exact(count(false), count(true))
            })
            .collect();
        raw += usize::from(p_values.iter().any(|p| *p < 0.05));
        families += usize::from(holm(&p_values).iter().any(|p| *p < 0.05));
    }
    assert!(families <= at_most(times, 0.05) && families > 0, "{families}");
    assert!(raw > at_most(times, 0.05), "without the adjustment: {raw}");
}

#[test]
fn graded_scores_of_equal_candidates_stay_near_the_level() {
    let mut rng = SplitMix64::new(23);
    let times = 300;
    let (mut alarms, mut alarms_clustered) = (0, 0);
    for _ in 0..times {
        // Marks in quarters, for each of 80 clusters of 3 rows a shift of its own.
        let (mut differences, mut cluster) = (Vec::new(), Vec::new());
        for at in 0..80 {
            let shift = rng.below(3) as f64 - 1.0;
            for _ in 0..3 {
                differences.push((shift + rng.below(5) as f64 - 2.0) / 4.0);
                cluster.push(at);
            }
        }
        let every: Vec<f64> = differences.iter().step_by(3).copied().collect();
        let boot = super::super::super::bootstrap::mean(&every, 500, rng.next_u64());
        alarms += usize::from(boot.p_value < 0.05);
        let mut units = vec![super::super::super::bootstrap::Unit { sum: 0.0, rows: 3.0 }; 80];
        for (d, at) in differences.iter().zip(&cluster) {
            units[*at].sum += d;
        }
        let boot = super::super::super::bootstrap::of_units(units, 500, rng.next_u64());
        alarms_clustered += usize::from(boot.p_value < 0.05);
    }
    // A bootstrap of 80 is a little bold: its spread has n where the sample's has n - 1.
    let near = |count: usize| (times / 100..=at_most(times, 0.055)).contains(&count);
    assert!(near(alarms) && near(alarms_clustered), "{alarms} {alarms_clustered}");
}

#[test]
fn stratified_intervals_cover_the_difference_of_the_whole() {
    let mut rng = SplitMix64::new(24);
    let times = 600;
    let part = BTreeMap::from([("x".to_owned(), 700), ("y".to_owned(), 200), ("z".to_owned(), 100)]);
    // True mean differences by stratum: 0.3, 0, -0.2; of the whole 0.19.
    let truth = 0.7 * 0.3 - 0.1 * 0.2;
    let mut covered = 0;
    for _ in 0..times {
        let (mut differences, mut strata) = (Vec::new(), Vec::new());
        for (name, n, better, worse) in [("x", 60, 0.4, 0.1), ("y", 120, 0.1, 0.1), ("z", 90, 0.0, 0.2)] {
            for _ in 0..n {
                let u = rng.unit();
                differences.push(if u < better {
                    1.0
                } else if u < better + worse {
                    -1.0
                } else {
                    0.0
                });
                strata.push(name);
            }
        }
        let (names, of) = coded(&strata);
        let got = stratified(&differences, Strata { names: &names, of: &of }, &part, None).unwrap();
        covered += usize::from(got.ci95[0] <= truth && truth <= got.ci95[1]);
    }
    assert!((at_least(times, 0.94)..=at_most(times, 0.96)).contains(&covered), "{covered}");
}

#[test]
fn the_interval_of_a_share_covers_it() {
    let mut rng = SplitMix64::new(25);
    let times = 1_000;
    let covered = (0..times)
        .filter(|_| {
            let right = (0..200).filter(|_| rng.unit() < 0.83).count();
            let [low, high] = stats::wilson(right, 200);
            low <= 0.83 && 0.83 <= high
        })
        .count();
    assert!((at_least(times, 0.94)..=at_most(times, 0.965)).contains(&covered), "{covered}");
}
