//! Calibration: whether a label's probability is the chance that it is right.

use crate::domain::detail::{CalibrationBin, CalibrationDetail};

/// Bins of equal width over 0..1 (Guo et al. 2017, On Calibration of Modern Neural Networks, section 2).
pub const BINS: usize = 15;

/// Bins `(low, high]` of probability and right or wrong; a probability of 0 is in the first. Empty bins are left out.
///
/// `ece`: sum over bins of their share of rows times |mean probability - share right|. `brier`: mean of (probability - right)^2, of the
/// likeliest label alone: scikit-learn's `brier_score_loss` of whether it is right. None of no rows.
pub fn calibration(rows: &[(f64, bool)]) -> Option<CalibrationDetail> {
    if rows.is_empty() {
        return None;
    }
    let edge = |i: usize| i as f64 * (1.0 / BINS as f64);
    let mut sums = [(0usize, 0.0f64, 0usize); BINS];
    let mut squares = 0.0;
    for &(p, right) in rows {
        // Edges as NumPy's linspace has them: what lies on one is below it.
        let bin = (1..BINS).take_while(|&i| edge(i) < p).count();
        let (n, sum, hits) = &mut sums[bin];
        *n += 1;
        *sum += p;
        *hits += usize::from(right);
        squares += brier(p, right);
    }
    let all = rows.len() as f64;
    let bins: Vec<CalibrationBin> = sums
        .iter()
        .enumerate()
        .filter(|(_, (n, ..))| *n > 0)
        .map(|(i, (n, sum, hits))| CalibrationBin {
            low: edge(i),
            high: edge(i + 1),
            n: *n,
            probability: sum / *n as f64,
            right: *hits,
        })
        .collect();
    let gap = |b: &CalibrationBin| b.n as f64 / all * (b.probability - b.right as f64 / b.n as f64).abs();
    Some(CalibrationDetail { n: rows.len(), ece: bins.iter().map(gap).sum(), brier: squares / all, bins })
}

/// Squared distance of a probability from what came true.
pub fn brier(p: f64, right: bool) -> f64 {
    (p - f64::from(u8::from(right))).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        probability: Vec<f64>,
        right: Vec<u8>,
        brier: f64,
        ece: f64,
        /// Of the bins with rows.
        mean_probability: Vec<f64>,
        share_right: Vec<f64>,
        count: Vec<usize>,
    }

    #[test]
    fn figures_are_scikit_learns() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/score/calibration.json")).unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let rows: Vec<(f64, bool)> =
                case.probability.iter().zip(&case.right).map(|(p, r)| (*p, *r == 1)).collect();
            let got = calibration(&rows).unwrap();
            let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{}: {a} {b}", case.name);
            near(got.brier, case.brier);
            near(got.ece, case.ece);
            assert_eq!(got.bins.iter().map(|b| b.n).collect::<Vec<_>>(), case.count, "{}", case.name);
            for (i, bin) in got.bins.iter().enumerate() {
                near(bin.probability, case.mean_probability[i]);
                near(bin.right as f64 / bin.n as f64, case.share_right[i]);
            }
        }
        assert_eq!(calibration(&[]), None);
    }
}
