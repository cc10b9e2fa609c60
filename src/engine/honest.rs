//! What the board says beyond scores: who was selected on these rows, what fresh rows say, and who differs from the baseline.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::board::Scored;
use super::compare;
use super::rows::Loaded;
use super::state::Engine;
use crate::domain::board::{Adjusted, Against, BoardRow, Comparison};
use crate::domain::honest::{Checkpoints, Honest};
use crate::domain::metric::{Direction, Metric};
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::run::SELECTED_AMONG;
use crate::score::aggregate;
use crate::score::board::{interval, on_the_board};
use crate::score::honest::{largest_of, luck_of_the_best};
use crate::score::rows::value;

/// The estimate looks the same each time.
const SEED: u64 = 7;

/// `rows` stand in the order of `scored`.
pub fn fill(engine: &Engine, loaded: &Loaded, scored: &[Arc<Scored>], rows: &mut [BoardRow]) {
    let Ok(primary) = Metric::find(&loaded.ws.config.eval.primary) else { return };
    let sign = if primary.entry.direction == Direction::Higher { 1.0 } else { -1.0 };
    let looks = engine.read(|s| s.looks.len());
    let value_of = |row: &BoardRow| row.metrics.get(&primary.name).copied();

    let ranked: Vec<(usize, f64)> =
        rows.iter().enumerate().filter_map(|(at, row)| Some((at, sign * value_of(row)?))).collect();
    let best = ranked.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| *at);
    for (at, (row, scored)) in rows.iter_mut().zip(scored).enumerate() {
        let is_best = best == Some(at) && ranked.len() > 1;
        let selected = value_of(row);
        let fresh: Vec<&Outcome> = scored.fresh.iter().filter(|o| o.part == Some(Part::Reserve)).collect();
        let score = aggregate::value(&primary, &fresh, Some(&scored.candidate));
        row.checkpoints = checkpoints(engine, &scored.runs);
        if !is_best && score.is_none() {
            continue;
        }
        let ci95 = if fresh.is_empty() { None } else { interval(&primary, &fresh) };
        row.honest = Some(Honest {
            selected,
            selected_on: Part::Eval,
            among: if is_best { ranked.len() } else { 1 },
            expected_luck: None,
            fresh: score,
            fresh_on: Part::Reserve,
            n: fresh.len(),
            ci95,
            luck: selected.zip(score).map(|(selected, fresh)| sign * (selected - fresh)),
            looks,
            worn: ci95.and_then(|ci95| worn(looks, ci95)),
        });
    }
    let all: Vec<&Arc<Scored>> = ranked.iter().filter_map(|(at, _)| scored.get(*at)).collect();
    if let Some(honest) = best.and_then(|at| rows.get_mut(at)).and_then(|row| row.honest.as_mut()) {
        honest.expected_luck = luck(&primary, sign, &all);
    }
    against_the_baseline(loaded, scored, &primary, rows);
}

/// From how many looks on the best of them flatters by a standard error or more.
fn worn(looks: usize, ci95: [f64; 2]) -> Option<[f64; 2]> {
    let errors = largest_of(looks);
    let error = (ci95[1] - ci95[0]) / 2.0 / crate::score::distributions::Z95;
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

/// On the rows that all have; candidates that were scored on few others' rows are left out.
fn luck(primary: &Metric, sign: f64, scored: &[&Arc<Scored>]) -> Option<f64> {
    let tables: Vec<HashMap<&str, f64>> = scored
        .iter()
        .map(|s| {
            on_the_board(&s.candidate, &s.current)
                .into_iter()
                .filter(|o| o.part == Some(Part::Eval) && o.sample == 0)
                .filter_map(|o| Some((o.row.as_str(), sign * value(primary, o)?)))
                .collect()
        })
        .collect();
    let most = tables.iter().map(HashMap::len).max()?;
    let tables: Vec<&HashMap<&str, f64>> = tables.iter().filter(|t| 2 * t.len() > most).collect();
    let mut rows: Vec<&str> = tables.first()?.keys().copied().collect();
    rows.retain(|row| tables.iter().all(|t| t.contains_key(row)));
    rows.sort_unstable();
    let scores: Vec<Vec<f64>> =
        tables.iter().map(|t| rows.iter().filter_map(|row| t.get(row).copied()).collect()).collect();
    luck_of_the_best(&scores, SEED)
}

/// Each candidate against the first baseline, with Holm's adjustment over all of them.
fn against_the_baseline(loaded: &Loaded, scored: &[Arc<Scored>], primary: &Metric, rows: &mut [BoardRow]) {
    let Some(base) = scored.iter().find(|s| s.candidate.rung == "baseline" && !s.runs.is_empty()) else {
        return;
    };
    let others: Vec<(usize, &Arc<Scored>)> =
        scored.iter().enumerate().filter(|(_, s)| !Arc::ptr_eq(s, base)).collect();
    let mut held: Vec<(usize, Comparison)> = others
        .into_par_iter()
        .map(|(at, other)| {
            let sides = ((&base.candidate, &base.current[..]), (&other.candidate, &other.current[..]));
            (at, compare::held(loaded, sides.0, sides.1, primary, false))
        })
        .collect();
    held.retain(|(_, c)| c.n > 0);
    let (places, mut comparisons): (Vec<usize>, Vec<Comparison>) = held.into_iter().unzip();
    crate::score::compare::adjust(&mut comparisons);
    for (at, c) in places.into_iter().zip(comparisons) {
        let adjusted = c.adjusted.unwrap_or(Adjusted { p_value: c.p_value, of: 1 });
        if let Some(row) = rows.get_mut(at) {
            let [candidate, _] = c.candidates;
            let (n, delta, ci95, p_value) = (c.n, c.delta, c.ci95, c.p_value);
            row.against = Some(Against { candidate, n, delta, ci95, p_value, adjusted });
        }
    }
}
