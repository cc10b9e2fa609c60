//! Quality x latency x cost: what a candidate costs, at a volume too, when training has paid, and who is dominated by whom.
//!
//! Nothing is weighted against anything, and what is not known is never 0.
//!
//! ```text
//! usd per 1,000   = tokens x their price + machine seconds x usd_per_hour / 3600
//! machine seconds = mean ms of the latency pass / 1000; where the run measured rows a second and all stages are local, 1 / that
//! a month         = volume / 1000 x usd per 1,000            (machines paid for the hours in which they work)
//! always on       = tokens + machines x 730.5 h x usd_per_hour, machines = ceil(volume x machine seconds / 3600 / 730.5)
//! break-even      = training hours x usd_per_hour / (usd per row of the other - usd per row of the trained)
//! ```

use super::aggregate::mean;
use super::metric::{Base, Direction, Metric};
use super::{rows, stats};
use crate::domain::board::{Board, BoardRow, Goal, Percentiles, Want};
use crate::domain::candidate::{Candidate, ModelSource};
use crate::domain::outcome::{Outcome, StageOutcome};
use crate::domain::trilemma::{BreakEven, Cost, Goodput, HOURS_A_MONTH, Month, Pareto, Training, Trilemma};
use crate::domain::words::noun;

/// The axes beside the primary metric.
pub const LATENCY: &str = "latency_p95_ms";
pub const COST: &str = "usd_per_1k";

/// What is known of a candidate from elsewhere than its outcomes.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// As the run that scored it measured.
    pub rows_per_s: Option<f64>,
    pub training: Option<Training>,
}

/// All but its place among the others. `scored` are the outcomes that count on the board.
pub fn measure(
    candidate: &Candidate,
    scored: &[&Outcome],
    primary: &Metric,
    goals: &[Goal],
    known: Known,
) -> Trilemma {
    let rows_per_s = known.rows_per_s.filter(|r| r.is_finite() && *r > 0.0);
    Trilemma {
        ttft_ms: first_token(scored),
        rows_per_s,
        cost: cost(candidate, scored, rows_per_s),
        goodput: goodput(scored, primary, goals, rows_per_s),
        training: known.training,
        ..Trilemma::default()
    }
}

fn ran(outcome: &Outcome) -> impl DoubleEndedIterator<Item = &StageOutcome> {
    outcome.stages.iter().filter(|s| !s.skipped)
}

/// Percentiles over the rows of the latency pass; none where no backend told.
fn first_token(scored: &[&Outcome]) -> Option<Percentiles> {
    let mut all: Vec<f64> = scored
        .iter()
        .filter_map(|o| {
            let last = ran(o).next_back().filter(|s| s.ttft_ms > 0.0)?;
            Some((o.latency_ms? - last.ms + last.ttft_ms).max(0.0)).filter(|ms| ms.is_finite())
        })
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    let at = |q| stats::percentile(&all, q);
    Some(Percentiles { p50: at(0.50)?, p90: at(0.90)?, p95: at(0.95)?, p99: at(0.99)? })
}

/// What a row costs.
fn cost(candidate: &Candidate, scored: &[&Outcome], rows_per_s: Option<f64>) -> Cost {
    let (mut tokens, mut machine, mut seconds) = (Part::default(), Part::default(), Part::default());
    let mut cost = Cost::default();
    let timed = || scored.iter().filter(|o| o.latency_ms.is_some());
    let stages_s = mean(timed().map(|o| ran(o).map(|s| s.ms / 1e3).sum())).filter(|s| *s > 0.0);
    let local = candidate.stages.iter().all(|s| matches!(s.model.source, ModelSource::Local { .. }));
    let batched_s = rows_per_s.filter(|_| local).map(|rate| 1.0 / rate);
    for stage in &candidate.stages {
        let model = &stage.model;
        let of = |o: &Outcome| ran(o).find(|s| s.stage == stage.name).cloned();
        let tokens_of = |count: fn(&StageOutcome) -> u64| {
            let known = scored.iter().filter(|o| !o.stages.is_empty());
            mean(known.map(|o| of(o).map_or(0.0, |s| count(&s) as f64)))
        };
        let prices = [
            (model.usd_per_million_input, (|s| s.tokens_in) as fn(&StageOutcome) -> u64),
            (model.usd_per_million_output, |s| s.tokens_out),
        ];
        for (price, count) in prices {
            if let Some(price) = price {
                tokens.add(tokens_of(count).map(|n| n * price / 1e6 * 1e3));
            }
        }
        if let Some(price) = model.usd_per_hour {
            let alone_s = mean(timed().map(|o| of(o).map_or(0.0, |s| s.ms / 1e3)));
            // The stages share the time as they do one after the other.
            let row_s = match (batched_s, alone_s, stages_s) {
                (Some(batched), Some(alone), Some(all)) => Some(batched * alone / all),
                (Some(batched), ..) if candidate.stages.len() == 1 => Some(batched),
                (_, alone, _) => alone,
            };
            seconds.add(row_s);
            machine.add(row_s.map(|s| s / 3600.0 * price * 1e3));
            cost.usd_per_hour = Some(cost.usd_per_hour.map_or(price, |dearest: f64| dearest.max(price)));
        } else if model.usd_per_million_input.is_none() && model.usd_per_million_output.is_none() {
            cost.unpriced.push(model.name.clone());
        }
    }
    cost.unpriced.dedup();
    cost.tokens_usd_per_1k = tokens.value();
    cost.machine_usd_per_1k = machine.value();
    cost.machine_s_per_row = seconds.value();
    let known = cost.unpriced.is_empty() && tokens.whole && machine.whole;
    cost.usd_per_1k = match (cost.tokens_usd_per_1k, cost.machine_usd_per_1k) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)).filter(|_| known),
    };
    cost
}

/// A sum that is not known when one of its parts is not.
struct Part {
    sum: Option<f64>,
    whole: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self { sum: None, whole: true }
    }
}

impl Part {
    fn add(&mut self, value: Option<f64>) {
        match value.filter(|v| v.is_finite()) {
            Some(value) => *self.sum.get_or_insert(0.0) += value,
            None => self.whole = false,
        }
    }

    fn value(&self) -> Option<f64> {
        self.sum.filter(|_| self.whole)
    }
}

/// The longest a row may take: the goal on the highest percentile of the whole pipeline's latency.
pub fn latency_limit(goals: &[Goal]) -> Option<f64> {
    goals
        .iter()
        .filter_map(|goal| {
            let metric = Metric::find(&goal.metric).ok().filter(|m| m.stage.is_none())?;
            match (metric.entry.base, goal.want) {
                (Base::Latency(percent), Want::AtMost(limit)) => Some((percent, limit)),
                _ => None,
            }
        })
        .max_by_key(|(percent, _)| *percent)
        .map(|(_, limit)| limit)
}

fn goodput(
    scored: &[&Outcome],
    primary: &Metric,
    goals: &[Goal],
    rows_per_s: Option<f64>,
) -> Option<Goodput> {
    let limit_ms = latency_limit(goals)?;
    let (mut n, mut good) = (0, 0);
    for o in scored {
        // A row that failed was asked too, and is no good.
        let right = if o.error.is_some() {
            Some(false)
        } else {
            rows::value(primary, o).and_then(|v| primary.right(v)).or(o.correct)
        };
        if let (Some(ms), Some(right)) = (o.latency_ms, right) {
            n += 1;
            good += usize::from(right && ms <= limit_ms);
        }
    }
    let per_s = rows_per_s.map(|rate| rate * good as f64 / n.max(1) as f64);
    (n > 0).then(|| Goodput { n, good, limit_ms, ci95: stats::wilson(good, n), per_s })
}

/// What `volume` rows a month cost.
pub fn month(cost: &Cost, volume: u64) -> Month {
    let rows = volume as f64;
    let machine_hours = cost.machine_s_per_row.map(|s| s * rows / 3600.0);
    let machines = machine_hours.map(|hours| (hours / HOURS_A_MONTH).ceil().max(1.0));
    let usd = cost.usd_per_1k.map(|usd| usd * rows / 1e3);
    let rent = match (machines, cost.usd_per_hour) {
        (Some(machines), Some(price)) => machines * HOURS_A_MONTH * price,
        _ => 0.0,
    };
    Month {
        volume,
        usd,
        machine_hours,
        machines: machines.map(|n| n as u64),
        usd_always_on: usd.map(|_| cost.tokens_usd_per_1k.unwrap_or(0.0) * rows / 1e3 + rent),
    }
}

/// The best candidate in quality that was not trained and whose cost is known: what is called instead.
pub fn called(board: &Board) -> Option<&BoardRow> {
    let fits = |r: &&BoardRow| {
        r.trilemma.training.is_none()
            && r.trilemma.cost.usd_per_1k.is_some()
            && standing(r, &board.primary, board.eval_rows).is_some()
    };
    board.rows.iter().filter(fits).max_by(|a, b| {
        let value = |r: &BoardRow| standing(r, &board.primary, board.eval_rows).unwrap_or(f64::NEG_INFINITY);
        value(a).total_cmp(&value(b))
    })
}

/// When the training of `row` has paid, against `other`. None for what was not trained.
pub fn break_even(row: &BoardRow, other: Option<&BoardRow>, volume: Option<u64>) -> Option<BreakEven> {
    let training = row.trilemma.training.as_ref()?;
    let training_usd = training.usd_per_hour.map(|price| price * training.hours);
    let mut found = BreakEven {
        against: other.map(|o| o.candidate.clone()).unwrap_or_default(),
        training_usd,
        saving_usd_per_1k: None,
        rows: None,
        months: None,
        note: String::new(),
    };
    let unknown = |row: &BoardRow| match &row.trilemma.cost.unpriced[..] {
        [] => format!("not known: no cost of {}", row.candidate),
        models => format!(
            "not known: no price of model {}, which {} asks (usd_per_hour, or usd_per_million_input)",
            models.join(", "),
            row.candidate
        ),
    };
    let Some(other) = other else {
        found.note = "not known: no untrained candidate has a known cost".into();
        return Some(found);
    };
    let (Some(own), Some(others)) = (row.trilemma.cost.usd_per_1k, other.trilemma.cost.usd_per_1k) else {
        found.note = unknown(if row.trilemma.cost.usd_per_1k.is_none() { row } else { other });
        return Some(found);
    };
    let saving = others - own;
    found.saving_usd_per_1k = Some(saving);
    if saving <= 0.0 {
        found.note = format!("never: a row costs no less than with {}", other.candidate);
        return Some(found);
    }
    let rows = (training_usd.unwrap_or(0.0) / saving * 1e3).ceil().min(u64::MAX as f64) as u64;
    found.rows = Some(rows);
    found.months = volume.filter(|v| *v > 0).map(|v| rows as f64 / v as f64);
    found.note = match training_usd {
        Some(usd) => format!(
            "paid after {} against {}: {} $ of training, {} $ saved per 1,000",
            counted_with(rows),
            other.candidate,
            dollars(usd),
            dollars(saving)
        ),
        None => format!(
            "paid at once against {}: {} $ saved per 1,000, and {:.1} h of training count as 0 $ since the model names no usd_per_hour",
            other.candidate,
            dollars(saving),
            training.hours
        ),
    };
    Some(found)
}

/// `182,858 rows`
fn counted_with(rows: u64) -> String {
    let digits = rows.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    format!("{out} {}", noun(rows as usize, "row"))
}

/// Two digits after the point, and more where that would be nothing.
fn dollars(usd: f64) -> String {
    if usd.abs() >= 0.1 || usd == 0.0 { format!("{usd:.2}") } else { format!("{usd:.2e}") }
}

/// Fills in what hangs on a volume and on who is called instead: `against`, else [`called`].
///
/// # Errors
/// `against` is no candidate on the board.
pub fn at_volume(board: &mut Board, volume: Option<u64>, against: Option<&str>) -> Result<(), String> {
    let other = match against {
        None => called(board).cloned(),
        Some(name) => {
            let found = board.rows.iter().find(|r| r.candidate == name);
            Some(found.cloned().ok_or_else(|| format!("no candidate `{name}` on the board"))?)
        }
    };
    // Where nothing has a price there is nothing to say of it.
    let priced = board.rows.iter().any(|r| r.trilemma.cost.usd_per_1k.is_some());
    for row in &mut board.rows {
        let other = other.as_ref().filter(|o| o.id != row.id);
        row.trilemma.month = volume.map(|volume| month(&row.trilemma.cost, volume));
        row.trilemma.break_even = if priced { break_even(row, other, volume) } else { None };
    }
    Ok(())
}

/// The primary metric so that higher is better; none where it is not known, or of too few rows to be held against others.
pub fn standing(row: &BoardRow, primary: &str, eval_rows: usize) -> Option<f64> {
    let value = row.metrics.get(primary).copied().filter(|v| v.is_finite() && row.counts(eval_rows))?;
    let lower = Metric::find(primary).is_ok_and(|m| m.entry.direction == Direction::Lower);
    Some(if lower { -value } else { value })
}

/// Sets who is dominated by whom, and which axes counted: those of which anything is known.
pub fn pareto(board: &mut Board) {
    let (primary, eval_rows) = (board.primary.clone(), board.eval_rows);
    let finite = |v: Option<f64>| v.filter(|v| v.is_finite());
    // Lower is better on each.
    let values = |row: &BoardRow| {
        [
            standing(row, &primary, eval_rows).map(|v| -v),
            finite(row.latency_ms.map(|l| l.p95)),
            finite(row.trilemma.cost.usd_per_1k),
        ]
    };
    let all: Vec<[Option<f64>; 3]> = board.rows.iter().map(values).collect();
    let names = [primary.as_str(), LATENCY, COST];
    let counts = [0, 1, 2].map(|axis| all.iter().any(|v| v[axis].is_some()));
    let mut placed: Vec<(usize, [f64; 3])> = Vec::new();
    let mut found: Vec<Pareto> = Vec::with_capacity(all.len());
    for (at, values) in all.iter().enumerate() {
        let missing = (0..3).filter(|a| counts[*a] && values[*a].is_none());
        let missing: Vec<String> = missing.map(|a| names[a].to_owned()).collect();
        if missing.is_empty() && counts.contains(&true) {
            placed.push((at, values.map(|v| v.unwrap_or(0.0))));
        }
        found.push(Pareto::Open { missing });
    }
    // Whoever dominates stands before in this order; and whoever is dominated, is so by somebody on the front.
    placed.sort_by(|(_, a), (_, b)| {
        a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    });
    let mut front: Vec<(usize, [f64; 3])> = Vec::new();
    for (at, values) in placed {
        let dominates = |other: &[f64; 3]| other.iter().zip(&values).all(|(o, v)| o <= v) && *other != values;
        match front.iter().find(|(_, other)| dominates(other)) {
            Some((by, _)) => found[at] = Pareto::Dominated { by: board.rows[*by].candidate.clone() },
            None => {
                found[at] = Pareto::Front;
                front.push((at, values));
            }
        }
    }
    for (row, pareto) in board.rows.iter_mut().zip(found) {
        row.trilemma.pareto = pareto;
    }
    board.axes = (0..3).filter(|a| counts[*a]).map(|a| names[a].to_owned()).collect();
}

#[cfg(test)]
mod tests;
