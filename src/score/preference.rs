//! Two candidates by a judge's preferences, each pair asked about in both orders: only what both orders agree on counts.

use std::collections::BTreeMap;

use super::distributions::incomplete_beta;
use super::stats;
use crate::domain::judge::{PairStratum, Pairwise, Share};

/// Which answer was preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferred {
    First,
    Second,
    Neither,
}

/// A pair of answers, asked about with A first and with B first.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    pub stratum: Option<&'a str>,
    /// The answers are the same: nobody was asked.
    pub identical: bool,
    /// None: no verdict.
    pub a_first: Option<Preferred>,
    pub b_first: Option<Preferred>,
    /// Characters of A's answer and of B's.
    pub lengths: (usize, usize),
}

/// What both orders say of B: 1 better, -1 worse, 0 neither; none where one of them says nothing.
fn says(pair: &Pair<'_>) -> Option<i8> {
    if pair.identical {
        return Some(0);
    }
    Some(match (pair.a_first?, pair.b_first?) {
        (Preferred::Second, Preferred::First) => 1,
        (Preferred::First, Preferred::Second) => -1,
        _ => 0,
    })
}

/// The preference followed the position.
fn swayed(pair: &Pair<'_>) -> Option<bool> {
    match (pair.identical, pair.a_first?, pair.b_first?) {
        (true, ..) => None,
        (_, a, b) => Some(a == b && a != Preferred::Neither),
    }
}

/// Everything that the pairs say. Names, tokens and prices are the caller's.
pub fn pairwise(pairs: &[Pair<'_>]) -> Pairwise {
    let said: Vec<(&Pair<'_>, i8)> = pairs.iter().filter_map(|pair| Some((pair, says(pair)?))).collect();
    let count = |what: i8| said.iter().filter(|(_, says)| *says == what).count();
    let (wins, losses, ties) = (count(1), count(-1), count(0));
    let asked: Vec<bool> = pairs.iter().filter_map(swayed).collect();
    let followed = asked.iter().filter(|swayed| **swayed).count();
    let first = pairs
        .iter()
        .filter(|pair| swayed(pair) == Some(true) && pair.a_first == Some(Preferred::First))
        .count();
    let uneven = || said.iter().filter(|(pair, says)| *says != 0 && pair.lengths.0 != pair.lengths.1);
    let longer = uneven().filter(|(pair, says)| (pair.lengths.1 > pair.lengths.0) == (*says > 0)).count();
    let open = || said.iter().filter(|(pair, _)| !pair.identical);
    let lengths: Vec<f64> = open().map(|(pair, _)| pair.lengths.1 as f64 - pair.lengths.0 as f64).collect();
    let preferences: Vec<f64> = open().map(|(_, says)| f64::from(*says)).collect();
    let mut strata = BTreeMap::<&str, PairStratum>::new();
    for (pair, says) in &said {
        let Some(name) = pair.stratum else { continue };
        let of = strata.entry(name).or_default();
        of.n += 1;
        match says {
            1 => of.wins += 1,
            -1 => of.losses += 1,
            _ => of.ties += 1,
        }
    }
    let share = |count: usize, n: usize| Share { count, n, ci95: stats::wilson(count, n) };
    Pairwise {
        n: said.len(),
        wins,
        losses,
        ties,
        identical: pairs.iter().filter(|pair| pair.identical).count(),
        swayed: followed,
        unread: pairs.len() - said.len(),
        p_value: stats::mcnemar_exact(wins, losses),
        won: Share { count: wins, n: wins + losses, ci95: exact_share(wins, wins + losses) },
        position: share(followed, asked.len()),
        first,
        longer: share(longer, uneven().count()),
        length_correlation: spearman(&lengths, &preferences),
        strata: strata.into_iter().map(|(name, of)| PairStratum { stratum: name.to_owned(), ..of }).collect(),
        ..Pairwise::default()
    }
}

/// 95% interval of a share by inverting the exact binomial test (Clopper and Pearson 1934). 0..1 for n = 0.
pub fn exact_share(count: usize, n: usize) -> [f64; 2] {
    // `rises`: the tail grows with p.
    let solve = |of: &dyn Fn(f64) -> f64, rises: bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..100 {
            let middle = f64::midpoint(low, high);
            if (of(middle) < 0.025) == rises {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    let (k, rest) = (count as f64, n.saturating_sub(count) as f64);
    // P(X >= k) and P(X <= k) for X ~ Bin(n, p).
    let at_least = |p: f64| incomplete_beta(k, rest + 1.0, p);
    let at_most = |p: f64| 1.0 - incomplete_beta(k + 1.0, rest, p);
    [
        if count == 0 { 0.0 } else { solve(&at_least, true) },
        if count >= n { 1.0 } else { solve(&at_most, false) },
    ]
}

/// Spearman's rank correlation, ties by their mean rank. None where one side never varies.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len() as f64;
    let mean = f64::midpoint(n, 1.0);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        let (x, y) = (x - mean, y - mean);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// Ranks from 1.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    for group in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let before = order.iter().position(|i| Some(i) == group.first()).unwrap_or(0);
        let rank = before as f64 + f64::midpoint(group.len() as f64, 1.0);
        for &i in group {
            ranks[i] = rank;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use Preferred::{First, Neither, Second};
    use proptest::prelude::*;

    fn pair(
        a_first: Option<Preferred>,
        b_first: Option<Preferred>,
        lengths: (usize, usize),
    ) -> Pair<'static> {
        Pair { stratum: Some("s"), identical: false, a_first, b_first, lengths }
    }

    #[derive(serde::Deserialize)]
    struct Reference {
        /// wins, n, low, high (statsmodels, method beta), p (scipy, binomtest).
        shares: Vec<(usize, usize, f64, f64, f64)>,
        lengths: Vec<f64>,
        preferences: Vec<f64>,
        spearman: f64,
    }

    #[test]
    fn the_sign_test_its_interval_and_the_correlation_are_scipys() {
        let text = include_str!("../../tests/fixtures/score/preference.json");
        let reference: Reference = serde_json::from_str(text).unwrap();
        for (wins, n, low, high, p) in reference.shares {
            let got = exact_share(wins, n);
            assert!((got[0] - low).abs() < 1e-9 && (got[1] - high).abs() < 1e-9, "{wins} of {n}: {got:?}");
            let got = stats::mcnemar_exact(wins, n - wins);
            assert!((got - p).abs() < 1e-9, "{wins} of {n}: {got} {p}");
        }
        let got = spearman(&reference.lengths, &reference.preferences).unwrap();
        assert!((got - reference.spearman).abs() < 1e-12, "{got}");
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 3.0]), None);
        assert_eq!(exact_share(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn a_judge_that_always_prefers_the_first_decides_nothing() {
        let pairs = vec![pair(Some(First), Some(First), (3, 9)); 12];
        let got = pairwise(&pairs);
        assert_eq!((got.wins, got.losses, got.ties, got.swayed, got.first), (0, 0, 12, 12, 12));
        assert_eq!((got.position.value(), got.p_value, got.won.value()), (Some(1.0), 1.0, None));
    }

    #[test]
    fn only_agreement_of_both_orders_counts() {
        let mut same = pair(None, None, (4, 4));
        same.identical = true;
        let pairs = [
            pair(Some(Second), Some(First), (3, 9)),
            pair(Some(First), Some(Second), (9, 3)),
            pair(Some(Second), Some(Second), (3, 9)),
            pair(Some(Second), Some(Neither), (3, 9)),
            pair(Some(Second), None, (3, 9)),
            same,
        ];
        let got = pairwise(&pairs);
        assert_eq!((got.n, got.wins, got.losses, got.ties, got.identical, got.unread), (5, 1, 1, 3, 1, 1));
        assert_eq!((got.position.count, got.position.n, got.first), (1, 4, 0), "a tie follows no position");
        assert_eq!((got.longer.count, got.longer.n), (2, 2));
        assert_eq!((got.strata[0].n, got.strata[0].wins), (5, 1));
    }

    proptest! {
        #[test]
        fn exchanging_the_candidates_mirrors_wins_and_losses(flags in prop::collection::vec((0..4usize, 0..4usize, 0..9usize, 0..9usize), 0..40)) {
            let of = |i: usize| [Some(First), Some(Second), Some(Neither), None][i];
            let there: Vec<_> = flags.iter().map(|f| pair(of(f.0), of(f.1), (f.2, f.3))).collect();
            let back: Vec<_> = flags.iter().map(|f| pair(of(f.1), of(f.0), (f.3, f.2))).collect();
            let (there, back) = (pairwise(&there), pairwise(&back));
            prop_assert_eq!((there.wins, there.losses, there.ties), (back.losses, back.wins, back.ties));
            prop_assert_eq!((there.position.count, there.longer.count, there.first), (back.position.count, back.longer.count, back.first));
            prop_assert_eq!(there.n + there.unread, flags.len());
        }
    }
}
