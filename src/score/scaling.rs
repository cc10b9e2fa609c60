//! A power law through the errors of candidates that were trained on more and more of the rows (Hestness et al. 2017, arXiv:1712.00409), and
//! what twice as many rows would give. Intervals come from drawing the eval rows, which all candidates answered, again and again: a row that
//! is hard is hard for all of them, so that their differences are known better than each of them.

use super::stats::{percentile, wilson};
use crate::domain::rng::SplitMix64;
use crate::domain::scaling::{Law, Next, Point, Scaling, Verdict};
use crate::domain::words::counted;

const ROUNDS: u64 = 2_000;
/// A gain below this share of the rows is not worth having more of them labelled.
const WORTH: f64 = 0.01;

/// A candidate: its run, its train rows, and whether each eval row is right, in the same order for all.
#[derive(Clone, Debug)]
pub struct Trained {
    pub run: String,
    pub rows: usize,
    pub right: Vec<bool>,
}

/// Least squares in logarithms: `ln error = ln scale - exponent ln rows`. None for fewer than two different numbers of rows.
pub fn fit(points: &[(f64, f64)]) -> Option<Law> {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(rows, error)| (rows.ln(), error.ln())).collect();
    let (mx, my) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    let xx: f64 = logs.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let xy: f64 = logs.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    if points.len() < 2 || xx < 1e-12 || !xy.is_finite() {
        return None;
    }
    let slope = xy / xx;
    Some(Law { scale: (my - slope * mx).exp(), exponent: -slope })
}

/// Error of which a logarithm can be taken, also where nothing is wrong.
fn error(wrong: usize, n: usize) -> f64 {
    (wrong as f64 + 0.5) / (n as f64 + 1.0)
}

/// The curve through these, and what it says.
pub fn curve(mut trained: Vec<Trained>, seed: u64) -> Scaling {
    trained.sort_by(|a, b| (a.rows, &a.run).cmp(&(b.rows, &b.run)));
    let n = trained.iter().map(|t| t.right.len()).min().unwrap_or(0);
    let wrong = |t: &Trained| t.right.iter().take(n).filter(|right| !**right).count();
    let points: Vec<Point> = trained
        .iter()
        .map(|t| Point {
            run: t.run.clone(),
            rows: t.rows,
            error: wrong(t) as f64 / n.max(1) as f64,
            ci95: wilson(wrong(t), n),
        })
        .collect();
    let most = points.last().map_or(0, |p| p.rows);
    let sizes: std::collections::BTreeSet<usize> =
        points.iter().map(|p| p.rows).filter(|rows| *rows > 0).collect();
    let mut found = Scaling { eval_rows: n, points, ..Scaling::default() };
    if sizes.len() < 3 || n == 0 {
        found.words = format!(
            "a curve takes at least 3 different numbers of train rows and one eval row; there are {} and {}",
            sizes.len(),
            counted(n, "eval row")
        );
        return found;
    }
    let law_of = |errors: &[f64]| {
        let points: Vec<(f64, f64)> =
            trained.iter().map(|t| t.rows as f64).zip(errors.iter().copied()).collect();
        fit(&points)
    };
    let errors: Vec<f64> = trained.iter().map(|t| error(wrong(t), n)).collect();
    let Some(law) = law_of(&errors) else { return found };
    let twice = 2 * most;
    let gain_of = |law: &Law| law.error(most as f64) - law.error(twice as f64);
    let (mut exponents, mut gains) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut rng = SplitMix64::stream(seed, round);
        let mut wrong = vec![0usize; trained.len()];
        for _ in 0..n {
            // The same row of all of them.
            let at = rng.below(n);
            for (count, t) in wrong.iter_mut().zip(&trained) {
                *count += usize::from(t.right.get(at) == Some(&false));
            }
        }
        let drawn: Vec<f64> = wrong.into_iter().map(|w| error(w, n)).collect();
        if let Some(law) = law_of(&drawn) {
            exponents.push(law.exponent);
            gains.push(gain_of(&law));
        }
    }
    let interval = |values: &mut Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        [0.025, 0.975].map(|q| percentile(values, q).unwrap_or(0.0))
    };
    let (of_exponent, of_gain) = (interval(&mut exponents), interval(&mut gains));
    let next = Next { rows: twice, error: law.error(twice as f64), gain: gain_of(&law), ci95: of_gain };
    found.verdict = if of_gain[0] > 0.0 && of_gain[1] >= WORTH {
        Verdict::Pays
    } else if of_gain[1] < WORTH {
        Verdict::Flat
    } else {
        Verdict::Unclear
    };
    let points = |share: f64| format!("{:+.1}", 100.0 * share);
    let told = format!(
        "twice as many train rows ({twice}) would take {} points off the errors (95% {} to {})",
        points(next.gain),
        points(of_gain[0]),
        points(of_gain[1])
    );
    // A power law through few points always fits somehow: its interval holds only if it is the law.
    let few = format!("{} and one power law: reckon no further than that", counted(sizes.len(), "point"));
    found.words = match found.verdict {
        Verdict::Pays => format!("more rows would pay: {told}; {few}"),
        Verdict::Flat => format!("more rows would not pay: {told}, less than one point"),
        Verdict::Unclear => format!(
            "{} cannot tell: {told}; more eval rows, or more shares and seeds, would",
            counted(sizes.len(), "point")
        ),
    };
    (found.law, found.exponent_ci95, found.next) = (Some(law), Some(of_exponent), Some(next));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `n` answers of which the first `wrong` are wrong.
    fn trained(rows: usize, wrong: usize, n: usize) -> Trained {
        Trained { run: format!("train-{rows}"), rows, right: (0..n).map(|i| i >= wrong).collect() }
    }

    #[test]
    fn a_law_that_is_one_is_found() {
        let points: Vec<(f64, f64)> =
            [100.0, 200.0, 400.0].iter().map(|n: &f64| (*n, 3.0 * n.powf(-0.5))).collect();
        let law = fit(&points).unwrap();
        assert!((law.scale - 3.0).abs() < 1e-9 && (law.exponent - 0.5).abs() < 1e-12, "{law:?}");
        assert_eq!(fit(&[(100.0, 0.1), (100.0, 0.2)]), None);
    }

    #[test]
    fn falling_errors_pay_flat_ones_do_not_and_few_rows_cannot_tell() {
        let falling =
            curve(vec![trained(400, 200, 2000), trained(100, 800, 2000), trained(200, 400, 2000)], 7);
        assert_eq!(falling.verdict, Verdict::Pays, "{}", falling.words);
        assert_eq!(falling.points.iter().map(|p| p.rows).collect::<Vec<_>>(), [100, 200, 400]);
        let (law, next) = (falling.law.unwrap(), falling.next.unwrap());
        // Errors halve with twice the rows.
        assert!((law.exponent - 1.0).abs() < 0.01 && (next.gain - 0.05).abs() < 0.002, "{law:?} {next:?}");
        assert!(next.ci95[0] < next.gain && next.gain < next.ci95[1]);

        let flat = curve(vec![trained(100, 200, 2000), trained(200, 200, 2000), trained(400, 200, 2000)], 7);
        assert_eq!(flat.verdict, Verdict::Flat, "{}", flat.words);
        let mut noisy = vec![trained(100, 5, 12), trained(200, 6, 12), trained(400, 4, 12)];
        noisy[1].right.reverse();
        let unclear = curve(noisy, 7);
        assert!(
            unclear.verdict == Verdict::Unclear && unclear.words.contains("cannot tell"),
            "{}",
            unclear.words
        );
        let two = curve(vec![trained(100, 5, 12), trained(200, 4, 12)], 7);
        assert!(two.law.is_none() && two.words.contains("at least 3"), "{}", two.words);
    }

    proptest! {
        #[test]
        fn nothing_is_wrong_or_all_is_and_there_is_still_an_answer(wrong in prop::collection::vec(0..=20usize, 3..6)) {
            let all: Vec<Trained> = wrong.iter().enumerate().map(|(i, w)| trained(50 << i, *w, 20)).collect();
            let mut turned = all.clone();
            turned.reverse();
            let found = curve(all, 3);
            prop_assert_eq!(&found, &curve(turned, 3), "in any order");
            let next = found.next.unwrap();
            prop_assert!(next.gain.is_finite() && next.ci95[0] <= next.ci95[1] && (0.0..=1.0).contains(&next.error));
        }
    }
}
