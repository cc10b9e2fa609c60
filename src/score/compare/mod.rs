//! Two candidates on the same rows: flips, test and interval of the difference, by stratum, and one of many.
//!
//! What is computed, with formulas and sources, for people: `docs/comparing.md`.

mod columns;
mod line;
mod pairs;
mod stratified;
mod test;

use std::collections::BTreeMap;

use super::aggregate::mean;
use super::metric::Metric;
use crate::domain::board::{Adjusted, Clusters, Comparison, StratumDelta};
use crate::domain::outcome::{Flip, FlipKind, Outcome};
pub use columns::{Columns, Piece};
use pairs::{Pair, Pairs, pair};
pub use stratified::{Strata, stratified};
pub use test::{
    BOOTSTRAP, CLUSTER_BOOTSTRAP, CLUSTERED_MCNEMAR, MCNEMAR, Rows, Verdict, clustered_mcnemar, holm,
};

/// Stratum of rows that have none, where others have one.
const NO_STRATUM: &str = "(none)";

/// One candidate's outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub name: &'a str,
    pub outcomes: &'a [Outcome],
}

/// What is known of the rows beside their outcomes.
#[derive(Clone, Copy)]
pub struct About<'a> {
    /// A row's text for the list of flips.
    pub input: &'a dyn Fn(&str) -> String,
    /// A row's group and the field that names it, where `[data.split] group` is set.
    pub group: Option<(&'a str, &'a dyn Fn(&str) -> Option<String>)>,
    /// Rows of the eval part by stratum; empty where there are no strata.
    pub part: &'a BTreeMap<String, usize>,
    /// The bootstrap's.
    pub seed: u64,
    /// With strata and flips.
    pub whole: bool,
}

/// One candidate's outcomes in columns.
#[derive(Clone, Copy)]
pub struct Columned<'a> {
    pub name: &'a str,
    pub columns: &'a Columns,
    /// The whole outcome that stands there, by [`Columns`].
    pub outcome: &'a dyn Fn(u64) -> Option<Outcome>,
}

/// Compare on every row that both have at the same content (and sample number) with a value of `metric`, one of [`Metric::comparable`]'s.
pub fn compare(a: Side<'_>, b: Side<'_>, metric: &Metric, about: &About<'_>) -> Comparison {
    let (of_a, of_b) = (Columns::of(a.outcomes, metric), Columns::of(b.outcomes, metric));
    compare_columns(
        Columned { name: a.name, columns: &of_a, outcome: &|at| a.outcomes.get(at as usize).cloned() },
        Columned { name: b.name, columns: &of_b, outcome: &|at| b.outcomes.get(at as usize).cloned() },
        metric,
        about,
    )
}

/// As [`compare`]; the columns are of the same metric.
pub fn compare_columns(a: Columned<'_>, b: Columned<'_>, metric: &Metric, about: &About<'_>) -> Comparison {
    let paired = pair(a.columns, b.columns, metric);
    let pairs = &paired.all;
    let count = |kind| pairs.iter().filter(|p| p.flip == Some(kind)).count();
    let (fixed, regressed) = (count(FlipKind::Fixed), count(FlipKind::Regressed));
    let differences: Vec<f64> = pairs.iter().map(Pair::difference).collect();
    let alone = |_: &str| None;
    let (by, group) = about.group.unwrap_or(("row", &alone));
    let sample = |p: &Pair| b.columns.view(p.b).map_or(0, |row| row.sample);
    let together = about.group.is_some() || pairs.iter().any(|p| sample(p) > 0);
    let (cluster, clusters) =
        if together { pairs::clusters(pairs, b.columns, group) } else { (Vec::new(), pairs.len()) };

    // Right or wrong is all there is: the shares are those of right rows, or (lower is better) of wrong ones.
    let tells = metric.entry.threshold.is_some();
    let binary = tells && pairs.iter().all(|p| [p.score_a, p.score_b].iter().all(|s| *s == 0.0 || *s == 1.0));
    let sign = if metric.right(1.0) == Some(true) { 1.0 } else { -1.0 };
    let rows = Rows {
        differences: &differences,
        cluster: &cluster,
        clusters,
        flips: tells.then_some((fixed, regressed)),
        binary: binary.then_some(sign),
    };
    let verdict = rows.test(about.seed);
    let clustered = clusters < pairs.len();
    let (names, strata) = if about.whole { by_stratum(&paired) } else { (Vec::new(), Vec::new()) };
    let stratified = (!names.is_empty()).then(|| {
        let strata = Strata { names: &names, of: &strata };
        stratified(&differences, strata, about.part, clustered.then_some((&cluster, clusters)))
    });
    Comparison {
        regression: None,
        candidates: [a.name.to_owned(), b.name.to_owned()],
        metric: metric.name.clone(),
        n: pairs.len(),
        a: mean(pairs.iter().map(|p| p.score_a)).unwrap_or(0.0),
        b: mean(pairs.iter().map(|p| p.score_b)).unwrap_or(0.0),
        fixed,
        regressed,
        churned: count(FlipKind::Churned),
        delta: verdict.delta,
        ci95: verdict.ci95,
        p_value: verdict.p_value,
        test: verdict.test.to_owned(),
        needed: verdict.needed,
        se: verdict.se,
        clusters: clustered.then(|| Clusters { clusters, by: by.to_owned() }),
        stratified: stratified.flatten(),
        adjusted: None,
        prompts: Vec::new(),
        strata: shares(pairs, &names, &strata),
        flips: if about.whole { flips(&paired, a, b, about.input) } else { Vec::new() },
    }
}

/// Several candidates against one: Holm's adjusted p beside each one's own.
pub fn adjust(comparisons: &mut [Comparison]) {
    let of = comparisons.len();
    let adjusted = holm(&comparisons.iter().map(|c| c.p_value).collect::<Vec<_>>());
    for (comparison, p_value) in comparisons.iter_mut().zip(adjusted) {
        comparison.adjusted = Some(Adjusted { p_value, of });
    }
}

/// Names of the strata, and each pair's by its place among them. Empty where no row has a stratum.
fn by_stratum<'a>(paired: &Pairs<'a>) -> (Vec<&'a str>, Vec<u32>) {
    if paired.all.iter().all(|p| p.stratum == columns::NO_STRATUM) {
        return (Vec::new(), Vec::new());
    }
    let mut names = paired.strata.clone();
    let none = names.iter().position(|name| *name == NO_STRATUM).unwrap_or(names.len());
    if none == names.len() {
        names.push(NO_STRATUM);
    }
    let known = |stratum: u32| if stratum == columns::NO_STRATUM { none as u32 } else { stratum };
    (names, paired.all.iter().map(|p| known(p.stratum)).collect())
}

/// Each stratum's share, the worst loss first. Empty where no row has a stratum.
fn shares(pairs: &[Pair], names: &[&str], strata: &[u32]) -> Vec<StratumDelta> {
    let empty = |name: &&str| StratumDelta { stratum: (*name).to_owned(), ..StratumDelta::default() };
    let mut all: Vec<StratumDelta> = names.iter().map(empty).collect();
    for (pair, stratum) in pairs.iter().zip(strata) {
        let Some(share) = all.get_mut(*stratum as usize) else { continue };
        share.n += 1;
        // Sums, until all are counted.
        share.a += pair.score_a;
        share.b += pair.score_b;
        match pair.flip {
            Some(FlipKind::Fixed) => share.fixed += 1,
            Some(FlipKind::Regressed) => share.regressed += 1,
            Some(FlipKind::Churned) => share.churned += 1,
            None => {}
        }
    }
    all.retain(|share| share.n > 0);
    for share in &mut all {
        share.a /= share.n as f64;
        share.b /= share.n as f64;
    }
    all.sort_by(|a, b| a.stratum.cmp(&b.stratum));
    let net = |s: &StratumDelta| s.fixed as i64 - s.regressed as i64;
    all.sort_by_key(net);
    all
}

/// Regressions first, then what was fixed, then churn; each in the order of the rows.
fn flips(paired: &Pairs<'_>, a: Columned<'_>, b: Columned<'_>, input: &dyn Fn(&str) -> String) -> Vec<Flip> {
    let order = [FlipKind::Regressed, FlipKind::Fixed, FlipKind::Churned];
    let of = |kind| paired.all.iter().filter(move |p| p.flip == Some(kind)).map(move |p| (kind, p));
    let whole = |side: Columned<'_>, place: usize| {
        side.columns.view(place).and_then(|row| (side.outcome)(row.at)).unwrap_or_default()
    };
    order
        .into_iter()
        .flat_map(of)
        .take(Comparison::MAX_FLIPS)
        .map(|(flip, pair)| {
            let (of_a, of_b) = (whole(a, pair.a), whole(b, pair.b));
            let row = b.columns.view(pair.b).map(|row| row.id.to_owned()).unwrap_or_default();
            Flip {
                flip,
                stratum: paired.strata.get(pair.stratum as usize).map(|name| (*name).to_owned()),
                input: input(&row),
                row,
                a: shown(&of_a),
                b: shown(&of_b),
                gold: of_b.gold,
            }
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
mod tests;
