//! Strata x candidates over time, and a training run's loss with its flips, from outcomes and events.

use std::collections::BTreeMap;

use super::metric::Metric;
use super::rows;
use crate::domain::event::{Event, EventBody};
use crate::domain::outcome::Outcome;
use crate::domain::timeline::{Cell, Curve, Moment, StepFlips};

/// Points of a loss curve that are kept.
const POINTS: usize = 600;

/// How often a candidate is right, by stratum. `stratum` is a row's place among `strata` of them; rows without one have none.
pub fn cells(
    scored: &[&Outcome],
    primary: &Metric,
    strata: usize,
    stratum: &dyn Fn(&Outcome) -> Option<usize>,
) -> (Cell, Vec<Cell>) {
    let (mut all, mut cells) = (Cell::default(), vec![Cell::default(); strata]);
    for outcome in scored {
        let Some(right) = rows::value(primary, outcome).and_then(|v| primary.right(v)) else { continue };
        all.add(right);
        if let Some(cell) = stratum(outcome).and_then(|at| cells.get_mut(at)) {
            cell.add(right);
        }
    }
    (all, cells)
}

/// What the model said on the fixed rows at one step: answer, and right or wrong.
type Answers = BTreeMap<String, (String, Option<bool>)>;

/// A run's curve, and its evaluations as moments. Steps that a resumed run took again replace the old ones. `stratum` is a row's place.
pub fn curve(
    run: &str,
    events: impl Iterator<Item = Event>,
    strata: usize,
    stratum: &dyn Fn(&str) -> Option<usize>,
) -> (Curve, Vec<Moment>) {
    let mut losses: Vec<(u64, f64)> = Vec::new();
    let mut curve = Curve { run: run.to_owned(), ..Curve::default() };
    let mut answers: BTreeMap<u64, (u64, Answers)> = BTreeMap::new();
    for event in events {
        match event.body {
            EventBody::Step { step, loss, .. } => {
                if losses.last().is_some_and(|(last, _)| *last >= step) {
                    losses.truncate(losses.partition_point(|(s, _)| *s < step));
                    curve.evals.retain(|(s, _)| *s < step);
                    curve.checkpoints.retain(|(s, _)| *s < step);
                    answers.split_off(&step);
                }
                losses.push((step, loss));
            }
            EventBody::Eval { step, loss: Some(loss), .. } => {
                curve.evals.retain(|(s, _)| *s < step);
                curve.evals.push((step, loss));
            }
            EventBody::Checkpoint { step, best, .. } => {
                curve.checkpoints.retain(|(s, _)| *s < step);
                curve.checkpoints.push((step, best));
            }
            EventBody::Sample { step, row, output, correct, .. } => {
                let (t_ms, at) = answers.entry(step).or_default();
                *t_ms = event.t_ms;
                at.insert(row, (output, correct));
            }
            _ => {}
        }
    }
    curve.losses = thinned(&losses);
    let mut before: Option<&Answers> = None;
    let mut moments = Vec::new();
    for (step, (t_ms, at)) in &answers {
        let mut flips = StepFlips { step: *step, ..StepFlips::default() };
        let mut moment = Moment {
            name: format!("{run}@{step}"),
            rung: "lora".into(),
            t_ms: *t_ms,
            step: Some(*step),
            all: Cell::default(),
            cells: vec![Cell::default(); strata],
        };
        for (row, (output, right)) in at {
            let Some(right) = *right else { continue };
            moment.all.add(right);
            if let Some(cell) = stratum(row).and_then(|at| moment.cells.get_mut(at)) {
                cell.add(right);
            }
            match before.and_then(|b| b.get(row)) {
                Some((_, Some(false))) if right => flips.fixed.push(row.clone()),
                Some((_, Some(true))) if !right => flips.regressed.push(row.clone()),
                Some((old, Some(false))) if !right && old != output => flips.churned += 1,
                _ => {}
            }
        }
        flips.all = moment.all;
        curve.flips.push(flips);
        moments.push(moment);
        before = Some(at);
    }
    (curve, moments)
}

/// At most [`POINTS`]: of each stretch the least and the greatest, in their order, so that no spike is lost.
fn thinned(losses: &[(u64, f64)]) -> Vec<(u64, f64)> {
    if losses.len() <= POINTS {
        return losses.to_vec();
    }
    let stretch = (losses.len() * 2).div_ceil(POINTS);
    let mut kept = Vec::new();
    for part in losses.chunks(stretch) {
        let by = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let (least, most) = (part.iter().min_by(by), part.iter().max_by(by));
        let mut ends: Vec<(u64, f64)> = least.into_iter().chain(most).copied().collect();
        ends.sort_by_key(|(step, _)| *step);
        ends.dedup_by_key(|(step, _)| *step);
        kept.extend(ends);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::aggregate::tests::outcome;
    use super::*;

    #[test]
    fn rows_are_counted_in_their_stratum_and_rows_without_gold_nowhere() {
        let mut all =
            [outcome("1", "a", "a", true), outcome("2", "a", "b", true), outcome("3", "b", "b", true)];
        all[2].gold = None;
        all[2].correct = None;
        all[2].scores.clear();
        let scored: Vec<&Outcome> = all.iter().collect();
        let metric = Metric::find("accuracy").unwrap();
        let (whole, cells) = cells(&scored, &metric, 2, &|o| (o.row == "1").then_some(1));
        assert_eq!(whole, Cell { right: 1, n: 2 });
        assert_eq!(cells, [Cell::default(), Cell { right: 1, n: 1 }]);
    }

    fn event(seq: u64, body: EventBody) -> Event {
        Event { seq, t_ms: seq, body }
    }

    fn step(seq: u64, step: u64, loss: f64) -> Event {
        event(
            seq,
            EventBody::Step {
                step,
                total: 9,
                epoch: 0.0,
                loss,
                lr: 0.0,
                grad_norm: 0.0,
                tokens: 0,
                trained_tokens: 0,
                padding: 0,
                ms: 0.0,
                wait_ms: 0.0,
                rows: vec![],
                losses: vec![],
            },
        )
    }

    fn sample(step: u64, row: &str, output: &str, right: bool) -> Event {
        let body = EventBody::Sample {
            step,
            row: row.into(),
            output: output.into(),
            gold: None,
            correct: Some(right),
            ended: None,
        };
        event(step * 100, body)
    }

    #[test]
    fn flips_are_against_the_evaluation_before_and_steps_taken_again_count_once() {
        let events = vec![
            step(1, 1, 2.0),
            sample(1, "x", "bad", false),
            sample(1, "y", "good", true),
            sample(1, "z", "bad", false),
            step(2, 2, 9.0),
            sample(2, "x", "lost with the resume", true),
            // Resumed from step 1.
            step(3, 2, 1.0),
            sample(2, "x", "good", true),
            sample(2, "y", "bad", false),
            sample(2, "z", "worse", false),
            event(9, EventBody::Eval { step: 2, loss: Some(0.5), metrics: BTreeMap::new() }),
            event(10, EventBody::Checkpoint { step: 2, path: String::new(), best: true }),
        ];
        let (curve, moments) = curve("train-1", events.into_iter(), 1, &|row| (row != "z").then_some(0));
        assert_eq!(curve.losses, [(1, 2.0), (2, 1.0)]);
        assert_eq!((&curve.evals[..], &curve.checkpoints[..]), (&[(2, 0.5)][..], &[(2, true)][..]));
        let flips: Vec<_> = curve
            .flips
            .iter()
            .map(|f| (f.step, f.fixed.join(" "), f.regressed.join(" "), f.churned))
            .collect();
        assert_eq!(flips, [(1, String::new(), String::new(), 0), (2, "x".into(), "y".into(), 1)]);
        assert_eq!(moments[1].name, "train-1@2");
        assert_eq!((moments[1].all, moments[1].cells[0]), (Cell { right: 1, n: 3 }, Cell { right: 1, n: 2 }));
    }

    #[test]
    fn a_long_curve_keeps_its_spike() {
        let events = (1..=10_000).map(|i| step(i, i, if i == 4321 { 50.0 } else { 1.0 / i as f64 }));
        let (curve, _) = curve("t", events, 0, &|_| None);
        assert!(curve.losses.len() <= POINTS + 2, "{}", curve.losses.len());
        assert!(curve.losses.contains(&(4321, 50.0)) && curve.losses.is_sorted_by_key(|(s, _)| *s));
    }
}
