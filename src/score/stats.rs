//! Intervals, tests and percentiles of single rows, each with its source.

use super::distributions::Z95;

/// Percentile by linear interpolation between order statistics, h = (n - 1) q (Hyndman and Fan 1996, type 7; NumPy's default).
/// `sorted` ascends; `q` is in 0..=1. None of no values.
pub fn percentile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let h = last as f64 * q.clamp(0.0, 1.0);
    let low = *sorted.get(h.floor() as usize)?;
    let high = *sorted.get(h.ceil() as usize)?;
    Some(low + (high - low) * h.fract())
}

/// 95% score interval of a share (Wilson 1927). 0..1 for n = 0.
pub fn wilson(right: usize, n: usize) -> [f64; 2] {
    wilson_of(right as f64 / n.max(1) as f64, n)
}

/// The same of a mean of scores in 0..1, which vary no more than rights and wrongs of that mean: at least as wide as it need be.
pub fn wilson_of(mean: f64, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (p, n, z2) = (mean, n as f64, Z95 * Z95);
    let centre = p + z2 / (2.0 * n);
    let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // Exact at the ends, where rounding would leave 1e-17.
    let low = if p == 0.0 { 0.0 } else { (centre - half) / scale };
    let high = if p == 1.0 { 1.0 } else { (centre + half) / scale };
    [low.max(0.0), high.min(1.0)]
}

/// Exact McNemar test: of `fixed + regressed` rows that changed, each direction is equally likely (two-sided binomial test at 1/2).
pub fn mcnemar_exact(fixed: usize, regressed: usize) -> f64 {
    let n = fixed + regressed;
    // ln C(n, i) - n ln 2, from i = 0 on.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=fixed.min(regressed) {
        tail += ln_term.exp();
        ln_term += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Further rows fixed, with none regressed, that would bring the exact McNemar test below 0.05. 0 when it is.
pub fn needed(fixed: usize, regressed: usize) -> usize {
    // From as many fixed as regressed on, each further one lowers p.
    fewest(|k| mcnemar_exact(fixed + k, regressed) < 0.05, regressed.saturating_sub(fixed))
}

/// The smallest number that is `enough`; 0 where that is, else one above `low`, from where on more is never worse.
pub fn fewest(enough: impl Fn(usize) -> bool, mut low: usize) -> usize {
    /// Beyond it nobody counts.
    const MOST: usize = 1 << 40;
    if enough(0) {
        return 0;
    }
    // Bracket, then halve.
    let mut step = 8;
    while step < MOST && !enough(low + step) {
        low += step;
        step *= 2;
    }
    let mut high = low + step;
    while high - low > 1 {
        let middle = low.midpoint(high);
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// 95% score interval of the difference of two paired shares, `(fixed - regressed) / n` (Tango 1998, Statistics in Medicine 17:891-908).
/// It inverts the score test, so it leaves out 0 just when the asymptotic McNemar test is below 0.05. -1..1 for n = 0.
pub fn paired_difference(fixed: usize, regressed: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [-1.0, 1.0];
    }
    let (b, c, n) = (fixed as f64, regressed as f64, n as f64);
    // z(d) falls in d; the regressed share q under the constraint is the root of 2n q^2 + B q + C = 0.
    let z = |d: f64| {
        let linear = -b - c + (2.0 * n - b + c) * d;
        let constant = -c * d * (1.0 - d);
        let root = (linear * linear - 8.0 * n * constant).max(0.0).sqrt();
        let q = (root - linear) / (4.0 * n);
        let variance = n * (2.0 * q + d * (1.0 - d));
        (b - c - n * d) / variance.max(0.0).sqrt()
    };
    let solve = |mut outer: f64, mut inner: f64| {
        for _ in 0..100 {
            let middle = f64::midpoint(outer, inner);
            // Beyond the bound, also where the variance vanishes and z is infinite.
            if z(middle).abs() > Z95 {
                outer = middle;
            } else {
                inner = middle;
            }
        }
        f64::midpoint(outer, inner)
    };
    let estimate = (b - c) / n;
    [
        if estimate <= -1.0 { -1.0 } else { solve(-1.0, estimate) },
        if estimate >= 1.0 { 1.0 } else { solve(1.0, estimate) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        /// fixed, regressed, p (statsmodels).
        mcnemar: Vec<(usize, usize, f64)>,
        /// right, n, low, high (statsmodels).
        wilson: Vec<(usize, usize, f64, f64)>,
        /// fixed, regressed, n, low, high (root finding over the constrained likelihood, scipy).
        tango: Vec<(usize, usize, usize, f64, f64)>,
        /// values, q, result (numpy).
        percentile: Vec<(Vec<f64>, f64, f64)>,
    }

    fn reference() -> Reference {
        serde_json::from_str(include_str!("../../tests/fixtures/score/stats.json")).unwrap()
    }

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance
    }

    #[test]
    fn mcnemar_is_statsmodels() {
        for (fixed, regressed, p) in reference().mcnemar {
            let got = mcnemar_exact(fixed, regressed);
            assert!(close(got, p, 1e-9 * p.max(1e-9)), "{fixed} {regressed}: {got} {p}");
        }
    }

    #[test]
    fn wilson_is_statsmodels() {
        for (right, n, low, high) in reference().wilson {
            let got = wilson(right, n);
            assert!(close(got[0], low, 1e-12) && close(got[1], high, 1e-12), "{right} {n}: {got:?}");
        }
    }

    #[test]
    fn the_paired_interval_is_the_likelihoods() {
        for (fixed, regressed, n, low, high) in reference().tango {
            let got = paired_difference(fixed, regressed, n);
            assert!(
                close(got[0], low, 1e-6) && close(got[1], high, 1e-6),
                "{fixed} {regressed} {n}: {got:?}"
            );
        }
        // Published: airway hyper-responsiveness, 1 and 7 discordant of 21 (Fagerland, Lydersen and Laake 2014, table V).
        let got = paired_difference(1, 7, 21);
        assert!(close(got[0], -0.517, 5e-4) && close(got[1], -0.026, 5e-4), "{got:?}");
    }

    #[test]
    fn percentiles_are_numpys() {
        for (values, q, want) in reference().percentile {
            assert!(close(percentile(&values, q).unwrap(), want, 1e-9), "{q}");
        }
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn no_difference_is_never_significant() {
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert_eq!(paired_difference(0, 0, 0), [-1.0, 1.0]);
    }

    #[test]
    fn needed_counts_the_rows_that_turn_the_test() {
        // Exact McNemar below 0.05 takes 6 / 8 / 10 / 12 / 15 improvements against 0 / 1 / 2 / 3 / 5 regressions.
        for (regressed, fixed) in [(0, 6), (1, 8), (2, 10), (3, 12), (5, 15)] {
            assert_eq!(needed(0, regressed), if mcnemar_exact(0, regressed) < 0.05 { 0 } else { fixed });
            assert_eq!(needed(fixed - 1, regressed), 1);
            assert_eq!(needed(fixed, regressed), 0);
        }
    }

    proptest! {
        #[test]
        fn needed_is_the_smallest(fixed in 0..200usize, regressed in 0..200usize) {
            let k = needed(fixed, regressed);
            prop_assert!(mcnemar_exact(fixed + k, regressed) < 0.05);
            if k > 0 {
                prop_assert!(mcnemar_exact(fixed + k - 1, regressed) >= 0.05 || fixed + k - 1 < regressed);
            }
        }

        #[test]
        fn the_paired_interval_holds_its_estimate_and_mirrors(fixed in 0..60usize, regressed in 0..60usize, same in 0..200usize) {
            let n = fixed + regressed + same;
            prop_assume!(n > 0);
            let [low, high] = paired_difference(fixed, regressed, n);
            let estimate = (fixed as f64 - regressed as f64) / n as f64;
            prop_assert!(-1.0 <= low && low <= estimate && estimate <= high && high <= 1.0, "{} {} {}", low, estimate, high);
            let [mirror_low, mirror_high] = paired_difference(regressed, fixed, n);
            prop_assert!(close(mirror_low, -high, 1e-9) && close(mirror_high, -low, 1e-9));
        }
    }
}
