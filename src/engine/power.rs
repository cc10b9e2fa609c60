//! What the rows of a part can show by the primary metric, from the comparisons and the runs there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::candidates::{self, Known};
use super::compare;
use super::honest;
use super::rows::{self, Loaded};
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use crate::domain::api::Failure;
use crate::domain::board::Comparison;
use crate::domain::metric::Metric;
use crate::domain::outcome::Outcome;
use crate::domain::power::{Cost, Power, StratumPower};
use crate::domain::row::Part;
use crate::domain::run::RunKind;
use crate::score::aggregate;
use crate::score::power::{
    ASSUMED_DISCORDANCE, Allotted, allocate, power as chance, rows_needed, smallest_difference,
};

/// Candidates, the newest, whose comparisons with the baseline tell how much candidates disagree.
const COMPARISONS: usize = 20;
/// A stratum's own share counts as much as that of all strata from so many rows on.
const PRIOR_ROWS: f64 = 10.0;

pub fn power(
    engine: &Engine,
    candidate: Option<&str>,
    difference: f64,
    part: Option<Part>,
) -> Result<Power, Failure> {
    if !(difference > 0.0 && difference <= 1.0) {
        return Err(bad_input("the difference is a share above 0 and up to 1 (0.05 is 5 points)"));
    }
    let loaded = rows::loaded(engine)?;
    let config = &loaded.ws.config;
    let part = part.unwrap_or(config.eval.part);
    let eval = &config.eval;
    let primary = eval.known().comparable(&eval.primary).map_err(|e| bad_input(e.to_string()))?;
    let known = candidates::known(engine);
    let name = match candidate {
        Some(wanted) => candidates::resolve(engine, &loaded.ws, &loaded.dataset, Some(wanted))?.name,
        None => "baseline".to_owned(),
    };

    let counted = loaded.parts.iter().filter(|p| **p == Some(part)).count();
    let expected = loaded.parts.iter().all(Option::is_none);
    let split = &config.data.split;
    let shared = if part == Part::Reserve { split.reserve } else { split.eval };
    let rows = if expected { (loaded.dataset.len() as f64 * shared).round() as usize } else { counted };

    let past = past(engine, &loaded, &known, &primary)?;
    let (discordance, design_effect) = figures(&past);
    // Clusters say as much as so many rows that stand alone.
    let alone = |rows: usize| (rows as f64 / design_effect).floor() as usize;
    let needed = rows_needed(discordance, difference).map(|n| (n as f64 * design_effect).ceil() as usize);
    let own = known.iter().find(|k| k.candidate.name == name);
    let scored = match own {
        Some(own) => standing::scored(engine, &loaded, own)?,
        None => None,
    };
    let mut power = Power {
        metric: primary.name.clone(),
        candidate: name,
        part,
        rows,
        expected,
        discordance,
        compared: past.len(),
        design_effect,
        smallest: smallest_difference(alone(rows), discordance),
        difference,
        power: chance(alone(rows), discordance.max(difference), difference),
        needed,
        strata: Vec::new(),
        // What was answered before is counted by answers, and each row asks for so many.
        cost: cost(engine, &known, own, rows * eval.samples.max(1) as usize)?
            .map(|cost| Cost { rows, ..cost }),
    };
    power.strata = strata(&loaded, part, &past, scored.as_deref(), discordance, power.more());
    Ok(power)
}

/// The newest candidates against the first baseline, on the eval part.
fn past(
    engine: &Engine,
    loaded: &Arc<Loaded>,
    known: &[Known],
    primary: &Metric,
) -> Result<Vec<Comparison>, Failure> {
    // Without a baseline, results made elsewhere tell as well how much candidates disagree.
    let Some(base) = honest::baseline(known).or_else(|| known.first()) else { return Ok(Vec::new()) };
    let Some(of_base) = standing::scored(engine, loaded, base)? else { return Ok(Vec::new()) };
    let mut past = Vec::new();
    for other in known.iter().rev().filter(|k| k.id != base.id).take(COMPARISONS) {
        if let Some(scored) = standing::scored(engine, loaded, other)? {
            let sides = ((&base.candidate, &of_base.current[..]), (&other.candidate, &scored.current[..]));
            past.push(compare::held(loaded, sides.0, sides.1, primary, true));
        }
    }
    past.retain(|c| c.n > 0);
    Ok(past)
}

/// Share of rows that two candidates differ on, and the design effect of clusters: medians.
fn figures(past: &[Comparison]) -> (f64, f64) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let discordance = |c: &Comparison| (c.fixed + c.regressed) as f64 / c.n as f64;
    let effect = |c: &Comparison| {
        let plain = (discordance(c) - c.delta * c.delta) / c.n as f64;
        (c.clusters.is_some() && c.is_binary() && plain > 0.0).then(|| (c.se * c.se / plain).max(1.0))
    };
    let share = median(past.iter().map(discordance).collect());
    // Where none ever disagreed, one of two rows more may be the first.
    let least = past.iter().map(|c| 0.5 / c.n as f64).fold(f64::INFINITY, f64::min);
    (
        share.map_or(ASSUMED_DISCORDANCE, |share| share.max(least)),
        median(past.iter().filter_map(effect).collect()).unwrap_or(1.0),
    )
}

/// Each stratum of the part, those that lack most first.
fn strata(
    loaded: &Loaded,
    part: Part,
    past: &[Comparison],
    own: Option<&Scored>,
    overall: f64,
    more: usize,
) -> Vec<StratumPower> {
    let rows = compare::part_by_stratum(loaded, part);
    if rows.len() < 2 {
        return Vec::new();
    }
    let mut seen = BTreeMap::<&str, (usize, usize)>::new();
    for s in past.iter().flat_map(|c| &c.strata) {
        let counts = seen.entry(&s.stratum).or_default();
        counts.0 += s.fixed + s.regressed;
        counts.1 += s.n;
    }
    let mut right = BTreeMap::<&str, (usize, usize)>::new();
    for outcome in own.iter().flat_map(|s| s.current.iter()).filter(|o| o.part == Some(part)) {
        if let (Some(stratum), Some(correct)) = (&outcome.stratum, outcome.correct) {
            let counts = right.entry(stratum).or_default();
            counts.0 += usize::from(correct);
            counts.1 += 1;
        }
    }
    let all: usize = rows.values().sum();
    let discordance = |name: &str| {
        let (differ, n) = seen.get(name).copied().unwrap_or_default();
        (differ as f64 + PRIOR_ROWS * overall) / (n as f64 + PRIOR_ROWS)
    };
    let allotted: Vec<Allotted> = rows
        .iter()
        .map(|(name, rows)| Allotted {
            share: *rows as f64 / all as f64,
            spread: discordance(name).sqrt(),
            rows: *rows,
        })
        .collect();
    let mut strata: Vec<StratumPower> = rows
        .iter()
        .zip(allocate(&allotted, more))
        .map(|((name, rows), more)| StratumPower {
            stratum: name.clone(),
            rows: *rows,
            discordance: discordance(name),
            right: right.get(name.as_str()).map(|(right, n)| *right as f64 / *n as f64),
            more,
        })
        .collect();
    strata.sort_by(|a, b| b.more.cmp(&a.more).then(b.rows.cmp(&a.rows)));
    strata
}

/// What the newest evaluation took, for so many answers: of the candidate itself, else of any other.
pub fn cost(
    engine: &Engine,
    known: &[Known],
    own: Option<&Known>,
    answers: usize,
) -> Result<Option<Cost>, Failure> {
    let mut of = None;
    for k in own.into_iter().chain(known.iter().rev()).filter(|k| !k.runs.is_empty()) {
        let outcomes = standing::outcomes(engine, k)?;
        // Those made elsewhere say nothing of calls.
        if outcomes.iter().any(|o| !o.stages.is_empty()) {
            of = Some((k, outcomes));
            break;
        }
    }
    let Some((of, outcomes)) = of else { return Ok(None) };
    let Some(run) = of.runs.last() else { return Ok(None) };
    let outcomes: Vec<&Outcome> = outcomes.iter().collect();
    let calls: u64 = outcomes
        .iter()
        .flat_map(|o| o.stages.iter().filter(|s| !s.skipped))
        .map(|s| 1 + u64::from(s.retries))
        .sum();
    // A training run's time is mostly that of the training.
    let seconds = engine.read(|state| {
        let record = &state.runs.get(run)?.record;
        (record.kind == RunKind::Eval && record.ran_ms > 0).then_some(record.ran_ms as f64 / 1e3)
    });
    let price = Metric::find("usd_per_1k")
        .ok()
        .and_then(|metric| aggregate::value(&metric, &outcomes, Some(&of.candidate)));
    let past = Cost {
        rows: outcomes.len(),
        calls,
        tokens_in: outcomes.iter().map(|o| o.tokens_in()).sum(),
        tokens_out: outcomes.iter().map(|o| o.tokens_out()).sum(),
        seconds,
        usd: price.map(|usd| usd * outcomes.len() as f64 / 1_000.0),
        run: run.clone(),
        of_another: own.is_none_or(|own| own.id != of.id),
    };
    Ok(Some(past.of_rows(answers)))
}
