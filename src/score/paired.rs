//! Two candidates on the same rows: flips, exact McNemar or paired bootstrap, the interval of the difference, strata.

use std::collections::{BTreeMap, HashMap};

use super::aggregate::mean;
use super::metric::Metric;
use super::rows;
use super::stats;
use crate::domain::board::{Comparison, StratumDelta};
use crate::domain::outcome::{Flip, FlipKind, Outcome};

/// Name of the test for metrics that are right or wrong on each row.
pub const MCNEMAR: &str = "mcnemar_exact";
/// Name of the test for all other metrics.
pub const BOOTSTRAP: &str = "paired_bootstrap";

/// Stratum of rows that have none, where others have one.
const NO_STRATUM: &str = "(none)";

/// One candidate's outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub name: &'a str,
    pub outcomes: &'a [Outcome],
}

/// A row on both sides.
struct Pair<'a> {
    a: &'a Outcome,
    b: &'a Outcome,
    score_a: f64,
    score_b: f64,
}

impl Pair<'_> {
    /// None: right in both, wrong in the same way, or the metric does not tell right from wrong.
    fn flip(&self, metric: &Metric) -> Option<FlipKind> {
        match (metric.right(self.score_a)?, metric.right(self.score_b)?) {
            (false, true) => Some(FlipKind::Fixed),
            (true, false) => Some(FlipKind::Regressed),
            (false, false) if self.a.output.trim() != self.b.output.trim() => Some(FlipKind::Churned),
            _ => None,
        }
    }

    fn stratum(&self) -> Option<&str> {
        self.b.stratum.as_deref().or(self.a.stratum.as_deref())
    }
}

/// Compare on every row that both have at the same content (and sample number) with a value of `metric`. `metric` is one of
/// [`Metric::comparable`]'s. `input` gives a row's text for the list of flips; `seed` is the bootstrap's.
pub fn compare(
    a: Side<'_>,
    b: Side<'_>,
    metric: &Metric,
    input: &dyn Fn(&str) -> String,
    seed: u64,
) -> Comparison {
    let pairs = pair(a.outcomes, b.outcomes, metric);
    let n = pairs.len();
    let count = |pairs: &[&Pair<'_>], kind| pairs.iter().filter(|p| p.flip(metric) == Some(kind)).count();
    let all: Vec<&Pair<'_>> = pairs.iter().collect();
    let (fixed, regressed) = (count(&all, FlipKind::Fixed), count(&all, FlipKind::Regressed));
    let mean_a = mean(pairs.iter().map(|p| p.score_a)).unwrap_or(0.0);
    let mean_b = mean(pairs.iter().map(|p| p.score_b)).unwrap_or(0.0);

    // Right or wrong is all there is: the shares are those of right rows, or (lower is better) of wrong ones.
    let binary = metric.entry.threshold.is_some()
        && pairs.iter().all(|p| [p.score_a, p.score_b].iter().all(|s| *s == 0.0 || *s == 1.0));
    let (ci95, p_value, test) = if binary {
        let (up, down) =
            if metric.right(1.0) == Some(true) { (fixed, regressed) } else { (regressed, fixed) };
        (stats::paired_difference(up, down, n), stats::mcnemar_exact(fixed, regressed), MCNEMAR)
    } else {
        let differences: Vec<f64> = pairs.iter().map(|p| p.score_b - p.score_a).collect();
        let boot = stats::bootstrap_mean(&differences, None, seed);
        (boot.ci95, boot.p_value, BOOTSTRAP)
    };
    let needed = match metric.entry.threshold {
        Some(_) if !binary && p_value < 0.05 => 0,
        Some(_) => stats::needed(fixed, regressed),
        None => 0,
    };

    Comparison {
        candidates: [a.name.to_owned(), b.name.to_owned()],
        metric: metric.name.clone(),
        n,
        a: mean_a,
        b: mean_b,
        fixed,
        regressed,
        churned: count(&all, FlipKind::Churned),
        delta: mean_b - mean_a,
        ci95,
        p_value,
        test: test.to_owned(),
        needed,
        strata: strata(&pairs, &count),
        flips: flips(&pairs, metric, input),
    }
}

/// In the order of B. Where a side has a row several times, its last outcome counts.
fn pair<'a>(a: &'a [Outcome], b: &'a [Outcome], metric: &Metric) -> Vec<Pair<'a>> {
    fn key(o: &Outcome) -> (&str, &str, u32) {
        (o.row.as_str(), o.row_hash.as_str(), o.sample)
    }
    let latest_a: HashMap<_, _> = a.iter().map(|o| (key(o), o)).collect();
    let latest_b: HashMap<_, usize> = b.iter().enumerate().map(|(i, o)| (key(o), i)).collect();
    b.iter()
        .enumerate()
        .filter(|(i, o)| latest_b.get(&key(o)) == Some(i))
        .filter_map(|(_, b)| {
            let a = *latest_a.get(&key(b))?;
            Some(Pair { a, b, score_a: rows::value(metric, a)?, score_b: rows::value(metric, b)? })
        })
        .collect()
}

/// Each stratum's share, the worst loss first. Empty where no row has a stratum.
fn strata(pairs: &[Pair<'_>], count: &dyn Fn(&[&Pair<'_>], FlipKind) -> usize) -> Vec<StratumDelta> {
    if pairs.iter().all(|p| p.stratum().is_none()) {
        return Vec::new();
    }
    let mut by_name = BTreeMap::<&str, Vec<&Pair<'_>>>::new();
    for pair in pairs {
        by_name.entry(pair.stratum().unwrap_or(NO_STRATUM)).or_default().push(pair);
    }
    let mut all: Vec<StratumDelta> = by_name
        .into_iter()
        .map(|(name, pairs)| StratumDelta {
            stratum: name.to_owned(),
            n: pairs.len(),
            a: mean(pairs.iter().map(|p| p.score_a)).unwrap_or(0.0),
            b: mean(pairs.iter().map(|p| p.score_b)).unwrap_or(0.0),
            fixed: count(&pairs, FlipKind::Fixed),
            regressed: count(&pairs, FlipKind::Regressed),
        })
        .collect();
    let net = |s: &StratumDelta| s.fixed as i64 - s.regressed as i64;
    all.sort_by_key(net);
    all
}

/// Regressions first, then what was fixed, then churn; each in the order of the rows.
fn flips(pairs: &[Pair<'_>], metric: &Metric, input: &dyn Fn(&str) -> String) -> Vec<Flip> {
    let order = |kind| match kind {
        FlipKind::Regressed => 0,
        FlipKind::Fixed => 1,
        FlipKind::Churned => 2,
    };
    let mut all: Vec<(FlipKind, &Pair<'_>)> =
        pairs.iter().filter_map(|p| Some((p.flip(metric)?, p))).collect();
    all.sort_by_key(|(kind, _)| order(*kind));
    all.truncate(Comparison::MAX_FLIPS);
    all.into_iter()
        .map(|(flip, pair)| Flip {
            row: pair.b.row.clone(),
            flip,
            stratum: pair.stratum().map(str::to_owned),
            input: input(&pair.b.row),
            gold: pair.b.gold.clone(),
            a: shown(pair.a),
            b: shown(pair.b),
        })
        .collect()
}

fn shown(outcome: &Outcome) -> String {
    match &outcome.error {
        Some(error) => format!("error: {error}"),
        None => outcome.output.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::aggregate::tests::outcome;
    use super::*;
    use proptest::prelude::*;

    fn run(a: &[Outcome], b: &[Outcome], metric: &str) -> Comparison {
        let metric = Metric::comparable(metric).unwrap();
        let side = |name, outcomes| Side { name, outcomes };
        compare(side("a", a), side("b", b), &metric, &|row| format!("text of {row}"), 7)
    }

    fn answers(all: &[(&str, &str)]) -> Vec<Outcome> {
        all.iter().enumerate().map(|(i, (gold, out))| outcome(&i.to_string(), gold, out, true)).collect()
    }

    #[test]
    fn flips_are_told_apart_and_regressions_come_first() {
        let a = answers(&[("x", "y"), ("x", "x"), ("x", "y"), ("x", "y"), ("x", "x")]);
        let b = answers(&[("x", "x"), ("x", "y"), ("x", "z"), ("x", "y"), ("x", "x")]);
        let got = run(&a, &b, "accuracy");
        assert_eq!((got.n, got.fixed, got.regressed, got.churned), (5, 1, 1, 1));
        assert_eq!((got.a, got.b, got.delta, got.p_value), (0.4, 0.4, 0.0, 1.0));
        let kinds: Vec<_> = got.flips.iter().map(|f| (f.flip, f.row.as_str())).collect();
        assert_eq!(kinds, [(FlipKind::Regressed, "1"), (FlipKind::Fixed, "0"), (FlipKind::Churned, "2")]);
        assert_eq!((got.flips[0].input.as_str(), got.flips[0].b.as_str()), ("text of 1", "y"));
        assert_eq!(got.test, MCNEMAR);
    }

    #[test]
    fn only_rows_at_the_same_content_are_compared() {
        let a = answers(&[("x", "x"), ("x", "x"), ("x", "x")]);
        let mut b = answers(&[("x", "x"), ("x", "y")]);
        b[1].row_hash = "edited".into();
        assert_eq!(run(&a, &b, "accuracy").n, 1);
        assert_eq!(run(&a, &[], "accuracy").n, 0);
        assert_eq!(run(&a, &[], "accuracy").p_value, 1.0);
    }

    #[test]
    fn a_row_answered_again_counts_once_with_its_last_answer() {
        let a = answers(&[("x", "x")]);
        let mut b = answers(&[("x", "y"), ("x", "x")]);
        b[1].row = "0".into();
        b[1].row_hash = "hash-0".into();
        let got = run(&a, &b, "accuracy");
        assert_eq!((got.n, got.regressed), (1, 0));
    }

    #[test]
    fn where_lower_is_better_fixed_means_lower() {
        let mut a = answers(&[("x", "x"), ("x", "x")]);
        let b = a.clone();
        a[0].stages[0].format_ok = false;
        let got = run(&a, &b, "format_error_rate");
        assert_eq!((got.fixed, got.regressed, got.delta), (1, 0, -0.5));
        assert!(got.ci95[0] < -0.5 && got.ci95[1] > -0.5, "{:?}", got.ci95);
    }

    #[test]
    fn graded_scores_go_through_the_bootstrap() {
        let graded = |shift: f64| {
            let mut all = answers(&[("x", "x"); 40]);
            for (i, o) in all.iter_mut().enumerate() {
                o.scores.insert("json_fields".into(), (0.2 + shift + 0.01 * (i % 7) as f64 * shift).min(1.0));
            }
            all
        };
        let got = run(&graded(0.0), &graded(0.3), "json_fields");
        assert_eq!((got.test.as_str(), got.fixed, got.needed), (BOOTSTRAP, 0, 0));
        assert!(got.p_value < 0.01 && got.ci95[0] > 0.29 && got.ci95[1] < 0.33, "{got:?}");
        let tokens = run(&graded(0.0), &graded(0.0), "tokens_out");
        assert_eq!((tokens.test.as_str(), tokens.delta, tokens.p_value), (BOOTSTRAP, 0.0, 1.0));
    }

    #[test]
    fn strata_are_listed_with_the_worst_loss_first() {
        let mut a = answers(&[("x", "x"), ("x", "y"), ("x", "x")]);
        let mut b = answers(&[("x", "y"), ("x", "x"), ("x", "x")]);
        for (i, name) in [Some("north"), Some("south"), None].into_iter().enumerate() {
            a[i].stratum = name.map(str::to_owned);
            b[i].stratum = name.map(str::to_owned);
        }
        let got = run(&a, &b, "accuracy");
        let lines: Vec<_> = got.strata.iter().map(|s| (s.stratum.as_str(), s.n, s.a, s.b)).collect();
        assert_eq!(lines, [("north", 1, 1.0, 0.0), (NO_STRATUM, 1, 1.0, 1.0), ("south", 1, 0.0, 1.0)]);
    }

    proptest! {
        #[test]
        fn swapping_the_sides_mirrors_everything(flags in prop::collection::vec((any::<bool>(), any::<bool>()), 0..60)) {
            let side = |pick: &dyn Fn(&(bool, bool)) -> bool| {
                answers(&flags.iter().map(|f| ("x", if pick(f) { "x" } else { "y" })).collect::<Vec<_>>())
            };
            let (a, b) = (side(&|f| f.0), side(&|f| f.1));
            let (there, back) = (run(&a, &b, "accuracy"), run(&b, &a, "accuracy"));
            prop_assert_eq!((there.fixed, there.regressed, there.churned), (back.regressed, back.fixed, back.churned));
            prop_assert_eq!(there.p_value, back.p_value);
            prop_assert!((there.delta + back.delta).abs() < 1e-12);
            prop_assert!((there.ci95[0] + back.ci95[1]).abs() < 1e-9);
        }
    }
}
