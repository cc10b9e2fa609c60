//! The rows that two candidates both have.

use std::cmp::Ordering;
use std::collections::HashMap;

use rayon::prelude::*;

use super::super::metric::Metric;
use super::columns::{AT_ONCE, Columns, NO_STRATUM, View};
use crate::domain::outcome::FlipKind;

/// A row on both sides.
pub(super) struct Pair {
    /// Places in the columns.
    pub a: usize,
    pub b: usize,
    pub score_a: f64,
    pub score_b: f64,
    /// Number among [`Pairs::strata`]; [`NO_STRATUM`] for none.
    pub stratum: u32,
    pub flip: Option<FlipKind>,
}

impl Pair {
    pub fn difference(&self) -> f64 {
        self.score_b - self.score_a
    }
}

/// Rows that both have at the same content and sample number, with a value of the metric; in the order of B.
pub(super) struct Pairs<'a> {
    pub all: Vec<Pair>,
    /// Names of the strata of both sides.
    pub strata: Vec<&'a str>,
}

/// None: right in both, wrong in the same way, or the metric does not tell right from wrong.
fn flip(metric: &Metric, a: (&View<'_>, f64), b: (&View<'_>, f64)) -> Option<FlipKind> {
    match (metric.right(a.1)?, metric.right(b.1)?) {
        (false, true) => Some(FlipKind::Fixed),
        (true, false) => Some(FlipKind::Regressed),
        (false, false) if a.0.answer != b.0.answer => Some(FlipKind::Churned),
        _ => None,
    }
}

pub(super) fn pair<'a>(a: &'a Columns, b: &'a Columns, metric: &Metric) -> Pairs<'a> {
    let (strata, of_a) = united(a.strata(), b.strata());
    let scored = |at: (usize, usize), a: &View<'_>, b: &View<'_>| {
        let (score_a, score_b) = (a.score?, b.score?);
        let stratum = if b.stratum == NO_STRATUM {
            of_a.get(a.stratum as usize).copied().unwrap_or(NO_STRATUM)
        } else {
            b.stratum
        };
        let flip = flip(metric, (a, score_a), (b, score_b));
        Some(Pair { a: at.0, b: at.1, score_a, score_b, stratum, flip })
    };
    // As evaluations of the same data mostly leave them: the same rows in one order.
    let together = |at: usize| {
        let (a, b) = (a.view(at)?, b.view(at)?);
        a.same_as(&b).then_some((a, b))
    };
    let n = a.len();
    // Few rows are no work to share: comparisons may themselves be many at once.
    let rows = || (0..n).into_par_iter().with_min_len(AT_ONCE);
    if n == b.len() && rows().all(|at| together(at).is_some()) {
        let all = rows().filter_map(|at| together(at).and_then(|(a, b)| scored((at, at), &a, &b)));
        return Pairs { all: all.collect(), strata };
    }
    let mut places = in_common(a, b);
    places.par_sort_unstable_by_key(|(_, b)| *b);
    let all = places
        .into_par_iter()
        .with_min_len(AT_ONCE)
        .filter_map(|at| scored(at, &a.view(at.0)?, &b.view(at.1)?))
        .collect();
    Pairs { all, strata }
}

/// Places of the rows that are the same on both sides.
fn in_common(a: &Columns, b: &Columns) -> Vec<(usize, usize)> {
    let (mut rest_a, mut rest_b) = (a.by_hash(), b.by_hash());
    let mut found = Vec::with_capacity(a.len().min(b.len()));
    while let ([(hash_a, _), ..], [(hash_b, at_b), ..]) = (rest_a, rest_b) {
        match hash_a.cmp(hash_b) {
            Ordering::Less => rest_a = &rest_a[1..],
            Ordering::Greater => rest_b = &rest_b[1..],
            Ordering::Equal => {
                // Mostly one: a row stands once on a side, and other rows seldom have its hash.
                let of_hash = rest_a.iter().take_while(|(hash, _)| hash == hash_a);
                let here = b.view(*at_b);
                let same = |at: usize| a.view(at).zip(here).is_some_and(|(a, b)| a.same_as(&b));
                found.extend(of_hash.map(|(_, at_a)| (*at_a, *at_b)).find(|(at_a, _)| same(*at_a)));
                rest_b = &rest_b[1..];
            }
        }
    }
    found
}

/// Strata of both by name: those of B keep their numbers. And the numbers of those of A.
fn united<'a>(a: &'a [String], b: &'a [String]) -> (Vec<&'a str>, Vec<u32>) {
    let mut names: Vec<&str> = b.iter().map(String::as_str).collect();
    let mut known: HashMap<&str, u32> = names.iter().zip(0..).map(|(name, at)| (*name, at)).collect();
    let of_a = a
        .iter()
        .map(|name| {
            *known.entry(name.as_str()).or_insert_with(|| {
                names.push(name);
                names.len() as u32 - 1
            })
        })
        .collect();
    (names, of_a)
}

/// Each pair's cluster, numbered from 0, and how many there are: rows of one group, and samples of one row.
pub(super) fn clusters(
    pairs: &[Pair],
    b: &Columns,
    group: &dyn Fn(&str) -> Option<String>,
) -> (Vec<usize>, usize) {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'a> {
        Group(String),
        Row(&'a str),
    }
    let mut known = HashMap::<Key<'_>, usize>::new();
    let of = pairs
        .iter()
        .map(|pair| {
            let row = b.view(pair.b).map_or("", |row| row.id);
            let key = group(row).map_or(Key::Row(row), Key::Group);
            let next = known.len();
            *known.entry(key).or_insert(next)
        })
        .collect();
    (of, known.len())
}
