//! The rows that two candidates both have.

use std::collections::HashMap;

use super::super::metric::Metric;
use super::super::rows;
use crate::domain::outcome::{FlipKind, Outcome};

/// A row on both sides.
pub(super) struct Pair<'a> {
    pub a: &'a Outcome,
    pub b: &'a Outcome,
    pub score_a: f64,
    pub score_b: f64,
    pub flip: Option<FlipKind>,
}

impl Pair<'_> {
    pub fn stratum(&self) -> Option<&str> {
        self.b.stratum.as_deref().or(self.a.stratum.as_deref())
    }

    pub fn difference(&self) -> f64 {
        self.score_b - self.score_a
    }
}

/// None: right in both, wrong in the same way, or the metric does not tell right from wrong.
fn flip(metric: &Metric, a: (&Outcome, f64), b: (&Outcome, f64)) -> Option<FlipKind> {
    match (metric.right(a.1)?, metric.right(b.1)?) {
        (false, true) => Some(FlipKind::Fixed),
        (true, false) => Some(FlipKind::Regressed),
        (false, false) if a.0.output.trim() != b.0.output.trim() => Some(FlipKind::Churned),
        _ => None,
    }
}

/// Rows that both have at the same content and sample number, with a value of the metric; in the order of B. Where a side has a row
/// several times, its last outcome counts.
pub(super) fn pair<'a>(a: &'a [Outcome], b: &'a [Outcome], metric: &Metric) -> Vec<Pair<'a>> {
    fn key(o: &Outcome) -> (&str, &str, u32) {
        (o.row.as_str(), o.row_hash.as_str(), o.sample)
    }
    fn latest(all: &[Outcome]) -> HashMap<(&str, &str, u32), usize> {
        all.iter().enumerate().map(|(i, o)| (key(o), i)).collect()
    }
    let (latest_a, latest_b) = rayon::join(|| latest(a), || latest(b));
    b.iter()
        .enumerate()
        .filter_map(|(i, b)| {
            if latest_b.get(&key(b)) != Some(&i) {
                return None;
            }
            let a = a.get(*latest_a.get(&key(b))?)?;
            let (score_a, score_b) = (rows::value(metric, a)?, rows::value(metric, b)?);
            Some(Pair { a, b, score_a, score_b, flip: flip(metric, (a, score_a), (b, score_b)) })
        })
        .collect()
}

/// Each pair's cluster, numbered from 0, and how many there are: rows of one group, and samples of one row.
pub(super) fn clusters(pairs: &[Pair<'_>], group: &dyn Fn(&str) -> Option<String>) -> (Vec<usize>, usize) {
    #[derive(PartialEq, Eq, Hash)]
    enum Key<'a> {
        Group(String),
        Row(&'a str),
    }
    let mut known = HashMap::<Key<'_>, usize>::new();
    let of = pairs
        .iter()
        .map(|pair| {
            let key = group(&pair.b.row).map_or(Key::Row(&pair.b.row), Key::Group);
            let next = known.len();
            *known.entry(key).or_insert(next)
        })
        .collect();
    (of, known.len())
}
