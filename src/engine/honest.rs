//! What the board says beyond scores: who was selected on these rows, what fresh rows say, and who differs from the baseline.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::candidates::Known;
use super::compare;
use super::rows::Loaded;
use super::standing::{self, current};
use super::state::{Engine, failed};
use crate::domain::api::Failure;
use crate::domain::board::{Adjusted, Against, BoardRow};
use crate::domain::candidate::Candidate;
use crate::domain::honest::{Checkpoints, Honest};
use crate::domain::metric::{Direction, Metric};
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::run::SELECTED_AMONG;
use crate::score::aggregate;
use crate::score::board::{interval, on_the_board};
use crate::score::compare::holm;
use crate::score::distributions::Z95;
use crate::score::honest::{CONTENDERS, FAR, largest_of, luck_of_the_best};
use crate::score::repeats;
use crate::score::rows::value;

/// The estimate looks the same each time.
const SEED: u64 = 7;

/// The candidate that the others are held against: the first baseline that was evaluated here.
pub fn baseline(known: &[Known]) -> Option<&Known> {
    known.iter().find(|k| k.candidate.rung == "baseline" && !k.runs.is_empty())
}

/// A candidate against the baseline; p is adjusted by [`fill`]. None where they have no row in common.
pub fn against(
    loaded: &Loaded,
    base: (&Candidate, &[Outcome]),
    other: (&Candidate, &[Outcome]),
    primary: &Metric,
) -> Option<Against> {
    let c = compare::held(loaded, base, other, primary, false);
    let [candidate, _] = c.candidates;
    let adjusted = Adjusted { p_value: c.p_value, of: 1 };
    let (n, delta, ci95, p_value) = (c.n, c.delta, c.ci95, c.p_value);
    (n > 0).then_some(Against { candidate, n, delta, ci95, p_value, adjusted })
}

/// `rows` stand in the order of `known`.
pub fn fill(
    engine: &Engine,
    loaded: &Loaded,
    gold: &BTreeMap<String, String>,
    known: &[&Known],
    rows: &mut [BoardRow],
) -> Result<(), Failure> {
    let Ok(primary) = loaded.ws.config.eval.primary_metric() else { return Ok(()) };
    let sign = if primary.entry.direction == Direction::Higher { 1.0 } else { -1.0 };
    let looks = engine.read(|s| s.looks.len());
    let value_of = |row: &BoardRow| row.metrics.get(&primary.name).copied();

    let mut ranked: Vec<(usize, f64)> =
        rows.iter().enumerate().filter_map(|(at, row)| Some((at, sign * value_of(row)?))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let best = ranked.first().filter(|_| ranked.len() > 1).copied();
    let luck = match best {
        Some(best) => luck(engine, loaded, gold, &primary, known, rows, &ranked, best)?,
        None => None,
    };
    for (at, (row, k)) in rows.iter_mut().zip(known).enumerate() {
        row.checkpoints = checkpoints(engine, &k.runs);
        let is_best = best.is_some_and(|best| best.0 == at);
        let fresh = match &k.fresh {
            None => Arc::default(),
            Some((run, folder)) => {
                let read = folder.read_outcomes().map_err(|e| failed(format!("{run}: {e}")))?;
                current(loaded, &Arc::new(read), gold)
            }
        };
        let fresh: Vec<&Outcome> = fresh.iter().filter(|o| o.part == Some(Part::Reserve)).collect();
        let score = aggregate::value(&primary, &fresh, Some(&k.candidate));
        if !is_best && score.is_none() {
            continue;
        }
        let selected = value_of(row);
        let ci95 = if fresh.is_empty() { None } else { interval(&primary, &fresh) };
        row.honest = Some(Honest {
            selected,
            selected_on: Part::Eval,
            among: if is_best { ranked.len() } else { 1 },
            expected_luck: luck.filter(|_| is_best),
            fresh: score,
            fresh_on: Part::Reserve,
            n: repeats::count(&fresh),
            ci95,
            luck: selected.zip(score).map(|(selected, fresh)| sign * (selected - fresh)),
            looks,
            worn: ci95.and_then(|ci95| worn(looks, ci95)),
        });
    }
    let mut held: Vec<&mut Against> = rows.iter_mut().filter_map(|r| r.against.as_mut()).collect();
    let adjusted = holm(&held.iter().map(|a| a.p_value).collect::<Vec<_>>());
    let of = held.len();
    for (against, p_value) in held.iter_mut().zip(adjusted) {
        against.adjusted = Adjusted { p_value, of };
    }
    Ok(())
}

/// From how many looks on the best of them flatters by a standard error or more.
fn worn(looks: usize, ci95: [f64; 2]) -> Option<[f64; 2]> {
    let errors = largest_of(looks);
    let error = (ci95[1] - ci95[0]) / 2.0 / Z95;
    (errors >= 1.0).then_some([errors, errors * error])
}

/// The training run among those that scored the candidate, and how many evaluations its checkpoint was chosen from.
fn checkpoints(engine: &Engine, runs: &[String]) -> Option<Checkpoints> {
    engine.read(|state| {
        runs.iter().find_map(|run| {
            let among = *state.runs.get(run)?.record.metrics.get(SELECTED_AMONG)?;
            Some(Checkpoints { run: run.clone(), among: among as usize })
        })
    })
}

/// Of the best, on the rows that all have who could have been it by luck. Those that were scored on few of its rows are left out.
#[allow(clippy::too_many_arguments)]
fn luck(
    engine: &Engine,
    loaded: &Loaded,
    gold: &BTreeMap<String, String>,
    primary: &Metric,
    known: &[&Known],
    rows: &[BoardRow],
    ranked: &[(usize, f64)],
    best: (usize, f64),
) -> Result<Option<f64>, Failure> {
    let sign = if primary.entry.direction == Direction::Higher { 1.0 } else { -1.0 };
    let error = rows.get(best.0).and_then(|r| r.ci95).map_or(f64::INFINITY, |c| (c[1] - c[0]) / 2.0 / Z95);
    let near = ranked.iter().take_while(|(_, score)| best.1 - score <= FAR * error).take(CONTENDERS);
    let mut tables: Vec<HashMap<String, f64>> = Vec::new();
    for (at, _) in near {
        let Some(k) = known.get(*at) else { continue };
        let outcomes = current(loaded, &standing::outcomes(engine, k)?, gold);
        let scores = on_the_board(&k.candidate, &outcomes)
            .into_iter()
            .filter(|o| o.part == Some(Part::Eval) && o.sample == 0)
            .filter_map(|o| Some((o.row.clone(), sign * value(primary, o)?)));
        tables.push(scores.collect());
    }
    let most = tables.iter().map(HashMap::len).max().unwrap_or(0);
    tables.retain(|t| 2 * t.len() > most);
    let Some(first) = tables.first() else { return Ok(None) };
    let mut common: Vec<&String> =
        first.keys().filter(|row| tables.iter().all(|t| t.contains_key(*row))).collect();
    common.sort_unstable();
    let scores: Vec<Vec<f64>> =
        tables.iter().map(|t| common.iter().filter_map(|row| t.get(*row).copied()).collect()).collect();
    Ok(luck_of_the_best(&scores, SEED))
}
