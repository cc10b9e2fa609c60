//! The bootstrap of a mean (Efron and Tibshirani 1993), over rows or over clusters of rows.
//!
//! A round draws as many units as there are, with replacement. How often each is drawn is multinomial, and only that is needed: units
//! of equal value are one kind, drawn by one binomial each, so that a metric which is right or wrong costs three draws a round whatever
//! the number of rows. Where values hardly repeat, the units stand in blocks that fit the first cache: how many draws fall into
//! each block is multinomial again, and only within a block is drawn one by one. Both are exact in distribution.
//!
//! Each round has random numbers of its own, by its number: the result does not depend on the threads, nor on the order of the rows.

use rayon::prelude::*;

use super::stats::percentile;
use crate::domain::rng::SplitMix64;

/// Rounds of every bootstrap that is shown.
pub const ROUNDS: usize = 10_000;

/// Units of a block: 16 KiB of values. A power of two, so that places in it are bits of a random number.
const BLOCK: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 11;
/// A binomial draw takes about as long as so many units drawn one by one.
const BINOMIAL_COST: usize = 64;

/// What resampling says of a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    pub mean: f64,
    /// Percentile interval, 95% (chapter 13).
    pub ci95: [f64; 2],
    /// Two-sided, of the hypothesis that the mean is 0: from the rounds shifted to mean 0 (chapter 16).
    pub p_value: f64,
}

/// What is drawn: a row with its value, or a cluster with the sum over its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    pub sum: f64,
    pub rows: f64,
}

/// The mean of `values`, each a unit of its own.
pub fn mean(values: &[f64], rounds: usize, seed: u64) -> Bootstrap {
    let units: Vec<Unit> = values.iter().map(|sum| Unit { sum: *sum, rows: 1.0 }).collect();
    of_units(units, rounds, seed)
}

/// The mean over all rows, sum of sums by sum of rows, where whole units are drawn.
pub fn of_units(mut units: Vec<Unit>, rounds: usize, seed: u64) -> Bootstrap {
    let rows: f64 = units.iter().map(|u| u.rows).sum();
    if units.is_empty() || rows <= 0.0 {
        return Bootstrap { mean: 0.0, ci95: [0.0, 0.0], p_value: 1.0 };
    }
    let ascending = |a: &Unit, b: &Unit| a.sum.total_cmp(&b.sum).then(a.rows.total_cmp(&b.rows));
    let (mean, plan) = if let Some(mut kinds) = few_kinds(&units) {
        kinds.sort_unstable_by(|a, b| ascending(&a.0, &b.0));
        let sum: f64 = kinds.iter().map(|(unit, count)| unit.sum * *count as f64).sum();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        (sum / rows, Plan::Kinds { kinds, n: units.len() })
    } else {
        units.par_sort_unstable_by(ascending);
        (units.iter().map(|u| u.sum).sum::<f64>() / rows, Plan::of(units))
    };
    let mut means: Vec<f64> = (0..rounds as u64)
        .into_par_iter()
        .map(|round| {
            let drawn = plan.round(&mut SplitMix64::stream(seed, round));
            if drawn.rows > 0.0 { drawn.sum / drawn.rows } else { mean }
        })
        .collect();
    // A round as far from the mean as the mean from 0; equal ones count, rounding aside.
    let reach = mean.abs() * (1.0 - 1e-12);
    let beyond = means.iter().filter(|m| (*m - mean).abs() >= reach).count();
    means.par_sort_unstable_by(f64::total_cmp);
    let at = |q| percentile(&means, q).unwrap_or(mean);
    Bootstrap { mean, ci95: [at(0.025), at(0.975)], p_value: (beyond + 1) as f64 / (rounds + 1) as f64 }
}

/// The kinds and how many there are of each, counted without sorting; none where there are more than a few.
fn few_kinds(units: &[Unit]) -> Option<Vec<(Unit, usize)>> {
    const FEW: usize = 16;
    let add = |kinds: &mut Vec<(Unit, usize)>, unit: &Unit, n: usize| {
        if let Some((_, count)) = kinds.iter_mut().find(|(kind, _)| kind == unit) {
            *count += n;
            return Some(());
        }
        (kinds.len() < FEW).then(|| kinds.push((*unit, n)))
    };
    let count = |units: &[Unit]| {
        let mut kinds = Vec::with_capacity(FEW);
        units.iter().try_for_each(|unit| add(&mut kinds, unit, 1)).map(|()| kinds)
    };
    let both = |mut a: Vec<(Unit, usize)>, b: Vec<(Unit, usize)>| {
        b.iter().try_for_each(|(unit, n)| add(&mut a, unit, *n)).map(|()| a)
    };
    units.par_chunks(1 << 16).map(count).try_reduce(Vec::new, both)
}

/// How a round is drawn.
#[derive(Debug)]
enum Plan {
    /// Kinds of equal units, each with how many there are.
    Kinds { kinds: Vec<(Unit, usize)>, n: usize },
    /// Each unit with a value of its own; `rows` is empty where all are single rows.
    Blocks { sums: Vec<f64>, rows: Vec<f64> },
}

impl Plan {
    /// `units` ascend.
    fn of(units: Vec<Unit>) -> Self {
        let n = units.len();
        let mut kinds: Vec<(Unit, usize)> = Vec::new();
        for unit in &units {
            match kinds.last_mut() {
                Some((kind, count)) if kind == unit => *count += 1,
                _ => kinds.push((*unit, 1)),
            }
            if kinds.len() * BINOMIAL_COST > n.max(4 * BINOMIAL_COST) {
                let rows = if units.iter().all(|u| u.rows == 1.0) {
                    Vec::new()
                } else {
                    units.iter().map(|u| u.rows).collect()
                };
                return Self::Blocks { sums: units.iter().map(|u| u.sum).collect(), rows };
            }
        }
        // The most frequent first: then few draws are left for the others.
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self::Kinds { kinds, n }
    }

    fn round(&self, rng: &mut SplitMix64) -> Unit {
        let mut drawn = Unit { sum: 0.0, rows: 0.0 };
        match self {
            Self::Kinds { kinds, n } => {
                multinomial(rng, *n, kinds.iter().map(|(_, count)| *count), |_, kind, times| {
                    if let Some((unit, _)) = kinds.get(kind) {
                        drawn.sum += unit.sum * times as f64;
                        drawn.rows += unit.rows * times as f64;
                    }
                });
            }
            Self::Blocks { sums, rows } => {
                let sizes = sums.chunks(BLOCK).map(<[f64]>::len);
                multinomial(rng, sums.len(), sizes, |rng, block, times| {
                    let range = block * BLOCK..((block + 1) * BLOCK).min(sums.len());
                    // The same places for rows and sums.
                    drawn.rows += if rows.is_empty() {
                        times as f64
                    } else {
                        draw(&mut rng.clone(), &rows[range.clone()], times)
                    };
                    drawn.sum += draw(rng, &sums[range], times);
                });
            }
        }
        drawn
    }
}

/// The sum of `times` draws from a block.
fn draw(rng: &mut SplitMix64, block: &[f64], times: usize) -> f64 {
    let mut sum = 0.0;
    if let Ok(block) = <&[f64; BLOCK]>::try_from(block) {
        const AT_ONCE: usize = 5;
        let mut sums = [0.0; AT_ONCE];
        for _ in 0..times / AT_ONCE {
            let mut bits = rng.next_u64();
            for sum in &mut sums {
                *sum += block[bits as usize % BLOCK];
                bits >>= BLOCK_BITS;
            }
        }
        for _ in 0..times % AT_ONCE {
            sum += block[rng.next_u64() as usize % BLOCK];
        }
        sum += sums.iter().sum::<f64>();
    } else {
        for _ in 0..times {
            sum += block[rng.below(block.len())];
        }
    }
    sum
}

/// Draws as many as there are among cells of these sizes, and tells how many fell into each: binomials, one after another.
fn multinomial(
    rng: &mut SplitMix64,
    n: usize,
    sizes: impl Iterator<Item = usize>,
    mut each: impl FnMut(&mut SplitMix64, usize, usize),
) {
    let (mut left, mut cells) = (n, n);
    for (at, size) in sizes.enumerate() {
        if left == 0 {
            return;
        }
        let times = if size >= cells { left } else { binomial(rng, left, size as f64 / cells as f64) };
        if times > 0 {
            each(rng, at, times);
        }
        left -= times;
        cells -= size.min(cells);
    }
}

/// A binomial draw: by inversion where few are expected, else by Hörmann's transformed rejection (BTRS; 1993, Journal of
/// Statistical Computation and Simulation 46:101-110).
pub(super) fn binomial(rng: &mut SplitMix64, n: usize, p: f64) -> usize {
    if p > 0.5 {
        return n - binomial(rng, n, 1.0 - p);
    }
    if p <= 0.0 || n == 0 {
        return 0;
    }
    if n as f64 * p < 10.0 { inverted(rng, n, p) } else { rejected(rng, n, p) }
}

fn inverted(rng: &mut SplitMix64, n: usize, p: f64) -> usize {
    let odds = p / (1.0 - p);
    let mut density = (n as f64 * (-p).ln_1p()).exp();
    let mut u = rng.unit();
    let mut k = 0;
    while u > density && k < n {
        u -= density;
        density *= odds * (n - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    k
}

fn rejected(rng: &mut SplitMix64, n: usize, p: f64) -> usize {
    let count = n as f64;
    let spread = (count * p * (1.0 - p)).sqrt();
    let b = 1.15 + 2.53 * spread;
    let a = -0.0873 + 0.0248 * b + 0.01 * p;
    let c = count * p + 0.5;
    let accepted = 0.92 - 4.2 / b;
    let (odds, alpha) = (p / (1.0 - p), (2.83 + 5.1 / b) * spread);
    let mode = ((count + 1.0) * p).floor();
    loop {
        let (u, v) = (rng.unit() - 0.5, rng.unit());
        let us = 0.5 - u.abs();
        let k = ((2.0 * a / us + b) * u + c).floor();
        if us >= 0.07 && v <= accepted {
            return k as usize;
        }
        if !(0.0..=count).contains(&k) {
            continue;
        }
        let v = (v * alpha / (a / (us * us) + b)).ln();
        let bound = (mode + 0.5) * ((mode + 1.0) / (odds * (count - mode + 1.0))).ln()
            + (count + 1.0) * ((count - mode + 1.0) / (count - k + 1.0)).ln()
            + (k + 0.5) * (odds * (count - k + 1.0) / (k + 1.0)).ln()
            + stirling(mode)
            + stirling(count - mode)
            - stirling(k)
            - stirling(count - k);
        if v <= bound {
            return k as usize;
        }
    }
}

/// ln k! less Stirling's formula in k + 1.
fn stirling(k: f64) -> f64 {
    const SMALL: [f64; 10] = [
        0.081_061_466_795_327_26,
        0.041_340_695_955_409_29,
        0.027_677_925_684_998_34,
        0.020_790_672_103_765_09,
        0.016_644_691_189_821_19,
        0.013_876_128_823_070_75,
        0.011_896_709_945_891_77,
        0.010_411_265_261_972_09,
        0.009_255_462_182_712_733,
        0.008_330_563_433_362_87,
    ];
    if let Some(value) = SMALL.get(k as usize) {
        return *value;
    }
    let x = k + 1.0;
    let x2 = x * x;
    (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / 1_260.0 / x2) / x2) / x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        /// scipy.stats.bootstrap of the mean, 50,000 rounds.
        values: Vec<f64>,
        ci95: [f64; 2],
    }

    fn reference() -> Reference {
        let all: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/score/stats.json")).unwrap();
        serde_json::from_value(all["bootstrap"].clone()).unwrap()
    }

    #[test]
    fn the_interval_agrees_with_scipys_and_repeats_itself() {
        let all = reference();
        let got = mean(&all.values, ROUNDS, 1);
        let width = all.ci95[1] - all.ci95[0];
        for (got, want) in got.ci95.iter().zip(all.ci95) {
            assert!((got - want).abs() < 0.04 * width, "{got} {want}");
        }
        assert_eq!(got, mean(&all.values, ROUNDS, 1));
        assert_ne!(got, mean(&all.values, ROUNDS, 2));
    }

    #[test]
    fn no_difference_is_never_significant() {
        assert_eq!(mean(&[0.0; 40], 200, 1).p_value, 1.0);
        assert_eq!(mean(&[], 200, 1).p_value, 1.0);
    }

    /// Both ways of drawing have the mean and the spread that theory gives: sd / sqrt(n).
    #[test]
    fn kinds_and_blocks_have_the_spread_of_the_mean() {
        let kinds: Vec<f64> = (0..5_000).map(|i| f64::from(i % 4)).collect();
        let blocks: Vec<f64> = (0..5_000).map(|i| f64::from(i) / 1_250.0).collect();
        for values in [kinds, blocks] {
            let n = values.len() as f64;
            let centre = values.iter().sum::<f64>() / n;
            let spread = (values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / n / n).sqrt();
            let got = mean(&values, 2_000, 3);
            for (bound, sign) in got.ci95.iter().zip([-1.0, 1.0]) {
                let z = sign * (bound - centre) / spread;
                // The standard error of the 97.5% point of 2,000 draws is 0.06.
                assert!((z - 1.96).abs() < 0.25, "{z}");
            }
        }
    }

    #[test]
    fn clusters_are_drawn_whole() {
        // Ten rows of a cluster agree: the spread is that of 50 clusters, not of 500 rows.
        let units: Vec<Unit> =
            (0..50).map(|i| Unit { sum: if i % 2 == 0 { 10.0 } else { -9.0 }, rows: 10.0 }).collect();
        let rows: Vec<f64> = units.iter().flat_map(|u| std::iter::repeat_n(u.sum / u.rows, 10)).collect();
        let width = |b: Bootstrap| b.ci95[1] - b.ci95[0];
        let ratio = width(of_units(units, 2_000, 3)) / width(mean(&rows, 2_000, 3));
        assert!((ratio / 10f64.sqrt() - 1.0).abs() < 0.12, "{ratio}");
    }

    #[test]
    fn binomial_draws_have_the_binomials_shape() {
        for (n, p) in [(7, 0.3), (60, 0.02), (400, 0.5), (1_000, 0.77), (100_000, 0.001), (100_000, 0.31)] {
            let mut rng = SplitMix64::new(11);
            let times = 20_000;
            let draws: Vec<f64> = (0..times).map(|_| binomial(&mut rng, n, p) as f64).collect();
            let (count, expected) = (f64::from(times), n as f64 * p);
            let variance = expected * (1.0 - p);
            let mean = draws.iter().sum::<f64>() / count;
            assert!((mean - expected).abs() < 4.0 * (variance / count).sqrt(), "{n} {p}: {mean}");
            let got = draws.iter().map(|d| (d - expected).powi(2)).sum::<f64>() / count;
            assert!((got / variance - 1.0).abs() < 0.06, "{n} {p}: {got} {variance}");
            // And its third moment.
            let skew = draws.iter().map(|d| ((d - expected) / variance.sqrt()).powi(3)).sum::<f64>() / count;
            let want = (1.0 - 2.0 * p) / variance.sqrt();
            assert!((skew - want).abs() < 0.15, "{n} {p}: {skew} {want}");
        }
    }

    proptest! {
        /// Neither the order of the rows nor the number of threads changes anything.
        #[test]
        fn order_and_threads_do_not_matter(values in prop::collection::vec(-3i32..3, 1..200), fine in any::<bool>(), threads in 1..4usize) {
            let mut values: Vec<f64> =
                values.iter().enumerate().map(|(i, v)| f64::from(*v) + if fine { i as f64 / 977.0 } else { 0.0 }).collect();
            let there = mean(&values, 50, 5);
            values.reverse();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| mean(&values, 50, 5));
            prop_assert_eq!(there.ci95, again.ci95);
            prop_assert_eq!(there.p_value, again.p_value);
        }
    }
}
