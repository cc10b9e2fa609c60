//! Two candidates on the same rows: flips, test and interval of the difference, by stratum, and one of many.
//!
//! What is computed, with formulas and sources, for people: `docs/comparing.md`.

mod pairs;
mod stratified;
mod test;

use std::collections::BTreeMap;

use super::aggregate::mean;
use super::metric::Metric;
use crate::domain::board::{Adjusted, Clusters, Comparison, StratumDelta};
use crate::domain::outcome::{Flip, FlipKind, Outcome};
use pairs::{Pair, pair};
pub use stratified::stratified;
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

/// Compare on every row that both have at the same content (and sample number) with a value of `metric`, one of [`Metric::comparable`]'s.
pub fn compare(a: Side<'_>, b: Side<'_>, metric: &Metric, about: &About<'_>) -> Comparison {
    let pairs = pair(a.outcomes, b.outcomes, metric);
    let all: Vec<&Pair<'_>> = pairs.iter().collect();
    let (fixed, regressed) = (count(&all, FlipKind::Fixed), count(&all, FlipKind::Regressed));
    let differences: Vec<f64> = pairs.iter().map(Pair::difference).collect();
    let alone = |_: &str| None;
    let (by, group) = about.group.unwrap_or(("row", &alone));
    let together = about.group.is_some() || pairs.iter().any(|p| p.b.sample > 0);
    let (cluster, clusters) =
        if together { pairs::clusters(&pairs, group) } else { (Vec::new(), pairs.len()) };

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
    let stratified = (about.whole && pairs.iter().any(|p| p.stratum().is_some())).then(|| {
        let strata: Vec<&str> = pairs.iter().map(|p| p.stratum().unwrap_or(NO_STRATUM)).collect();
        stratified(&differences, &strata, about.part, clustered.then_some((&cluster, clusters)))
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
        churned: count(&all, FlipKind::Churned),
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
        strata: if about.whole { strata(&pairs) } else { Vec::new() },
        flips: if about.whole { flips(&pairs, about.input) } else { Vec::new() },
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

fn count(pairs: &[&Pair<'_>], kind: FlipKind) -> usize {
    pairs.iter().filter(|p| p.flip == Some(kind)).count()
}

/// Each stratum's share, the worst loss first. Empty where no row has a stratum.
fn strata(pairs: &[Pair<'_>]) -> Vec<StratumDelta> {
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
            churned: count(&pairs, FlipKind::Churned),
        })
        .collect();
    let net = |s: &StratumDelta| s.fixed as i64 - s.regressed as i64;
    all.sort_by_key(net);
    all
}

/// Regressions first, then what was fixed, then churn; each in the order of the rows.
fn flips(pairs: &[Pair<'_>], input: &dyn Fn(&str) -> String) -> Vec<Flip> {
    let order = |kind| match kind {
        FlipKind::Regressed => 0,
        FlipKind::Fixed => 1,
        FlipKind::Churned => 2,
    };
    let mut all: Vec<(FlipKind, &Pair<'_>)> = pairs.iter().filter_map(|p| Some((p.flip?, p))).collect();
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
mod tests;
