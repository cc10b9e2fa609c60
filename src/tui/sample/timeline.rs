//! Strata over candidates, and over the checkpoints of a run.

use super::{NOW_MS, TOPICS, noise};
use crate::domain::timeline::{Cell, Curve, Moment, StepFlips, Timeline};

/// Every candidate of the board by topic; of a run its evaluations on 24 fixed rows.
pub fn timeline(run: Option<&str>) -> Timeline {
    let cells = |right: &dyn Fn(f64, f64) -> f64, rows: &dyn Fn(usize) -> usize| -> Vec<Cell> {
        let of = |(_, n, base, best): &(&str, usize, f64, f64)| {
            let n = rows(*n);
            Cell { right: (right(*base, *best) * n as f64).round() as usize, n }
        };
        TOPICS.iter().map(of).collect()
    };
    let moment = |name: &str, rung: &str, step: Option<u64>, cells: Vec<Cell>| {
        let all = cells.iter().fold(Cell::default(), |a, c| Cell { right: a.right + c.right, n: a.n + c.n });
        Moment { name: name.into(), rung: rung.into(), t_ms: NOW_MS, step, all, cells }
    };
    let eval = |n: usize| n * 15 / 100;
    let at = |share: f64| cells(&move |base, best| base + (best - base) * share, &eval);
    let mut columns = vec![moment("base", "baseline", None, at(0.0))];
    let mut curve = None;
    match run {
        None => {
            columns.push(moment("route v7", "prompt", None, at(0.3)));
            columns.push(moment("lora-11", "lora", None, at(0.9)));
        }
        Some(run) => {
            let flips = |step: u64| StepFlips {
                step,
                all: Cell { right: 8 + step as usize / 50, n: 24 },
                fixed: (0..step as usize / 200).map(|i| format!("{i:05}")).collect(),
                regressed: if step == 400 { vec!["00031".into()] } else { vec![] },
                churned: 1,
            };
            let steps = [200, 400, 600];
            columns.extend(steps.map(|step| {
                let share = step as f64 / 600.0;
                moment(
                    &format!("{run}@{step}"),
                    "lora",
                    Some(step),
                    cells(&move |base, best| base + (best - base) * share, &|_| 3),
                )
            }));
            curve = Some(Curve {
                run: run.into(),
                losses: (1..=612)
                    .map(|s| (s, 0.4 + 1.7 / (1.0 + s as f64 / 60.0) + 0.1 * noise(s)))
                    .collect(),
                evals: steps.map(|s| (s, 0.5 + 1.6 / (1.0 + s as f64 / 60.0))).to_vec(),
                checkpoints: vec![(200, true), (400, true), (600, false)],
                flips: steps.map(flips).to_vec(),
            });
        }
    }
    columns.push(moment("lora-12", "lora", None, at(1.0)));
    Timeline { strata: TOPICS.map(|(name, ..)| name.to_owned()).to_vec(), columns, left_out: 0, run: curve }
}
