//! How much being the best of several flatters.

use super::distributions::normal_two_sided;
use crate::domain::rng::SplitMix64;

/// Rounds of the bootstrap, fewer where rows and candidates are many.
const ROUNDS: usize = 400;
/// Multiplications for all rounds.
const WORK: usize = 100_000_000;
/// Candidates that may have been the best by luck: the nearest to the best.
pub const CONTENDERS: usize = 40;
/// Whoever stands further below the best, in standard errors of a score, would not have been it.
pub const FAR: f64 = 5.0;

/// What the score of the best of several candidates owes to its being the best, by resampling rows: in each round the best on the drawn rows
/// is taken, and what it gained on them over its own score is averaged (Tibshirani and Tibshirani 2009, Annals of Applied Statistics 3:822-829). The
/// scores that are resampled already lie apart by chance as far as the rounds move them, so that of equal candidates only 1 / sqrt 2 of the luck
/// would be seen: the estimate is multiplied by sqrt 2. It is right for equal candidates, and too large rather than too small where they differ.
///
/// `scores`: for each candidate its score on each row, higher is better; the same rows for all. None for less than two candidates or rows.
pub fn luck_of_the_best(scores: &[Vec<f64>], seed: u64) -> Option<f64> {
    let n = scores.first()?.len();
    if scores.len() < 2 || n < 2 || scores.iter().any(|s| s.len() != n) {
        return None;
    }
    let mean = |s: &[f64]| s.iter().sum::<f64>() / n as f64;
    let mut ranked: Vec<(f64, &Vec<f64>)> = scores.iter().map(|s| (mean(s), s)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (best, of_best) = *ranked.first()?;
    let error = (of_best.iter().map(|v| (v - best).powi(2)).sum::<f64>() / (n * n) as f64).sqrt();
    ranked.retain(|(score, _)| best - score <= FAR * error.max(1.0 / n as f64));
    ranked.truncate(CONTENDERS);
    let rounds = (WORK / (n * ranked.len())).clamp(40, ROUNDS);
    let mut gained = 0.0;
    for round in 0..rounds {
        let mut rng = SplitMix64::stream(seed, round as u64);
        let mut drawn = vec![0.0; n];
        for _ in 0..n {
            drawn[rng.below(n)] += 1.0;
        }
        let on_drawn = |s: &[f64]| s.iter().zip(&drawn).map(|(v, times)| v * times).sum::<f64>() / n as f64;
        // Against the gain of the one that is best now, which is 0 on average: what all gain alike is no luck of choosing.
        let alike = on_drawn(of_best) - best;
        let gains = ranked.iter().map(|(score, s)| (on_drawn(s), *score));
        // Of equals the one that stood higher, as on the board.
        let winner = gains.fold((f64::NEG_INFINITY, 0.0), |top, now| if now.0 > top.0 { now } else { top });
        gained += winner.0 - winner.1 - alike;
    }
    Some((std::f64::consts::SQRT_2 * gained / rounds as f64).max(0.0))
}

/// Mean of the largest of `k` standard normal values: the luck of the best of `k` equal ones, in standard errors.
/// By Simpson's rule over the distribution of the largest.
pub fn largest_of(k: usize) -> f64 {
    if k < 2 {
        return 0.0;
    }
    let below = |x: f64| {
        let tail = normal_two_sided(x) / 2.0;
        if x > 0.0 { 1.0 - tail } else { tail }
    };
    // E max = integral of 1 - F^k over x > 0, less that of F^k over x < 0.
    let value = |x: f64| {
        let all_below = below(x).powf(k as f64);
        if x > 0.0 { 1.0 - all_below } else { -all_below }
    };
    let integral = |from: f64, to: f64| {
        const STEPS: usize = 400;
        let width = (to - from) / STEPS as f64;
        let inner: f64 =
            (1..STEPS).map(|i| (if i % 2 == 1 { 4.0 } else { 2.0 }) * value(from + i as f64 * width)).sum();
        (value(from) + inner + value(to)) * width / 3.0
    };
    // Just above and below 0 the two halves meet with a jump.
    integral(1e-12, 9.0) + integral(-9.0, -1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_several_normal_values_is_the_tables() {
        // Harter 1961, Biometrika 48:151-165: expected values of normal order statistics.
        for (k, want) in [(1, 0.0), (2, 0.56419), (3, 0.84628), (5, 1.16296), (10, 1.53875), (100, 2.50759)] {
            assert!((largest_of(k) - want).abs() < 1e-5, "{k}: {}", largest_of(k));
        }
    }

    /// Candidates with given chances to be right, correlated through rows that are easy or hard.
    fn drawn(rng: &mut SplitMix64, chances: &[f64], n: usize) -> Vec<Vec<f64>> {
        let mut all = vec![Vec::with_capacity(n); chances.len()];
        for _ in 0..n {
            let shift = if rng.unit() < 0.5 { 0.15 } else { -0.15 };
            for (scores, chance) in all.iter_mut().zip(chances) {
                scores.push(f64::from(u8::from(rng.unit() < chance + shift)));
            }
        }
        all
    }

    /// Mean over many boards: true luck of the best, and what is estimated.
    fn simulated(chances: &[f64], n: usize) -> (f64, f64) {
        let mut rng = SplitMix64::new(9);
        let times = 150;
        let (mut luck, mut estimated) = (0.0, 0.0);
        for _ in 0..times {
            let scores = drawn(&mut rng, chances, n);
            let mean = |s: &Vec<f64>| s.iter().sum::<f64>() / n as f64;
            let (mut best, mut top) = (0, f64::NEG_INFINITY);
            for (at, s) in scores.iter().enumerate() {
                if mean(s) > top {
                    (best, top) = (at, mean(s));
                }
            }
            luck += top - chances[best];
            estimated += luck_of_the_best(&scores, rng.next_u64()).unwrap();
        }
        (luck / f64::from(times), estimated / f64::from(times))
    }

    #[test]
    fn the_luck_of_equal_candidates_is_estimated_about_right() {
        let (luck, estimated) = simulated(&[0.6; 8], 120);
        assert!(luck > 0.04, "{luck}");
        assert!((estimated / luck - 1.0).abs() < 0.15, "{luck} {estimated}");
    }

    #[test]
    fn who_is_best_by_far_owes_little_to_luck() {
        let (luck, estimated) = simulated(&[0.3, 0.35, 0.75], 120);
        assert!(luck.abs() < 0.01 && estimated < 0.012, "{luck} {estimated}");
        assert_eq!(luck_of_the_best(&[vec![1.0, 0.0]], 1), None);
        let same = vec![vec![1.0, 0.0, 1.0, 0.0]; 3];
        assert_eq!(luck_of_the_best(&same, 1), Some(0.0), "nothing was chosen between equals in every row");
    }
}
