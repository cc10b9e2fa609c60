//! The board, told.

use std::collections::BTreeSet;

use super::About;
use super::blocks::{Block, Cell, Mood, Table};
use super::charts::{self, Point};
use crate::domain::board::{Board, BoardRow};
use crate::domain::metric::{Direction, Metric, Unit};
use crate::domain::sets::SetScore;
use crate::domain::words::{counted, number, p_value, share, utc};
use crate::score;

/// Candidates in a picture.
const DRAWN: usize = 60;

pub(super) fn blocks(board: &Board, about: &About) -> Vec<Block> {
    let mut blocks = vec![
        Block::Heading(1, format!("{}: the board", about.workspace)),
        Block::Text(format!(
            "{} on {}; primary metric {}. Made {} by tunebench {}.",
            counted(board.rows.len(), "candidate"),
            counted(board.eval_rows, "eval row"),
            board.primary,
            utc(about.made_ms),
            about.version
        )),
    ];
    if board.rows.is_empty() {
        blocks.push(Block::Text("Nobody is on the board yet; `tunebench run eval` takes a baseline.".into()));
        return blocks;
    }
    blocks.push(Block::Table(table(board)));
    let remarks: Vec<String> = board
        .rows
        .iter()
        .flat_map(|row| row.remarks().into_iter().map(|remark| format!("{}: {remark}", row.candidate)))
        .collect();
    if !remarks.is_empty() {
        blocks.push(Block::List(remarks));
    }
    blocks.extend(pictures(board));
    blocks.extend(ladder(board));
    blocks
}

/// What each rung added over the one below.
fn ladder(board: &Board) -> Vec<Block> {
    let rungs = &board.ladder.rungs;
    if rungs.len() < 2 {
        return Vec::new();
    }
    let mut table =
        Table::new(["rung", "best candidate", ">value", ">n", ">added", "95%", ">p", ">fixed", ">regressed"]);
    for rung in rungs {
        let value = rung.value.map_or_else(|| "-".into(), |value| share(value, rung.n));
        let mut cells: Vec<Cell> = vec![
            rung.rung.as_str().into(),
            rung.candidate.as_str().into(),
            value.into(),
            rung.n.to_string().into(),
        ];
        match &rung.step {
            Some(step) => {
                let mood = match (step.proven(), step.delta > 0.0) {
                    (false, _) => Mood::Plain,
                    (true, true) => Mood::Good,
                    (true, false) => Mood::Bad,
                };
                cells.extend([
                    Cell::of(format!("{:+.3}", step.delta), mood),
                    format!("{:+.3} to {:+.3}", step.ci95[0], step.ci95[1]).into(),
                    p_value(step.p_value).into(),
                    step.fixed.to_string().into(),
                    step.regressed.to_string().into(),
                ]);
            }
            None => cells.extend((0..5).map(|_| Cell::default())),
        }
        table.rows.push(cells);
    }
    vec![
        Block::Heading(2, "The ladder".into()),
        Block::Table(table),
        Block::List(score::ladder::lines(&board.ladder)),
    ]
}

/// Quality with its interval; quality over what it costs, in money and in time.
fn pictures(board: &Board) -> Vec<Block> {
    let lower = lower_is_better(&board.primary);
    let mut drawn: Vec<(usize, &BoardRow, f64)> = board
        .rows
        .iter()
        .enumerate()
        .filter_map(|(at, row)| Some((at + 1, row, *row.metrics.get(&board.primary)?)))
        .collect();
    if drawn.len() > DRAWN {
        drawn.sort_by(|a, b| if lower { a.2.total_cmp(&b.2) } else { b.2.total_cmp(&a.2) });
        drawn.truncate(DRAWN);
        drawn.sort_by_key(|(at, ..)| *at);
    }
    let points = |x: &dyn Fn(&BoardRow) -> Option<f64>| -> Vec<Point> {
        let point = |(at, row, value): &(usize, &BoardRow, f64)| {
            let x = x(row).filter(|x| x.is_finite() && value.is_finite())?;
            let ci95 = row.ci95.filter(|ci| ci.iter().all(|end| end.is_finite()));
            Some(Point { label: format!("{at} {}", row.candidate), x, y: *value, ci95 })
        };
        drawn.iter().filter_map(point).collect()
    };
    let goal = board.rows.first().and_then(|row| {
        let goal = row.goals.iter().find(|goal| goal.metric == board.primary)?;
        goal.want.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let mut charts = vec![charts::intervals(&board.primary, &points(&|_| Some(0.0)), goal)];
    charts.push(charts::front(
        &board.primary,
        "US dollars per 1,000 rows",
        &points(&|row| row.usd_per_1k),
        lower,
    ));
    let latency = points(&|row| row.latency_ms.map(|l| l.p95));
    charts.push(charts::front(&board.primary, "latency p95 in ms", &latency, lower));
    charts.into_iter().flatten().map(Block::Chart).collect()
}

pub(super) fn lower_is_better(metric: &str) -> bool {
    Metric::find(metric).is_ok_and(|m| m.entry.direction == Direction::Lower)
}

/// A line for each candidate.
pub(super) fn table(board: &Board) -> Table {
    let rows = &board.rows;
    let measured =
        |name: &&String| !name.starts_with("latency_") || rows.iter().any(|r| r.metrics.contains_key(*name));
    let metrics: Vec<&String> = board.metrics.iter().filter(measured).collect();
    let mut head = vec![">#".to_owned(), "candidate".into(), "rung".into(), ">n".into()];
    for metric in &metrics {
        head.push(format!(">{metric}"));
        if **metric == board.primary {
            head.push("95%".into());
        }
    }
    let failed = rows.iter().any(|row| row.errors > 0);
    if failed {
        head.push(">failed rows".into());
    }
    let timed = rows.iter().any(|row| row.latency_ms.is_some());
    if timed {
        head.push(">p50/p95 ms".into());
    }
    head.push(">tokens in/out".into());
    let priced = rows.iter().any(|row| row.usd_per_1k.is_some());
    if priced {
        head.push(">$/1k".into());
    }
    let regression = rows.iter().any(|row| row.regression.is_some());
    if regression {
        head.push(">regression".into());
    }
    let sets: BTreeSet<&String> = rows.iter().flat_map(|row| row.sets.keys()).collect();
    head.extend(sets.iter().map(|set| format!(">{set}")));
    let goals = rows.first().map(|row| &row.goals[..]).unwrap_or_default();
    head.extend(goals.iter().map(|goal| format!("{} {}", goal.metric, goal.want)));
    let mut table = Table::new(head);
    for (at, row) in rows.iter().enumerate() {
        let mut cells: Vec<Cell> = vec![
            (at + 1).to_string().into(),
            row.candidate.as_str().into(),
            row.rung.as_str().into(),
            row.n.to_string().into(),
        ];
        for metric in &metrics {
            let of_rows = Metric::find(metric).is_ok_and(|m| m.entry.unit == Unit::Share && m.entry.per_row);
            cells.push(match row.metrics.get(*metric) {
                None => "-".into(),
                Some(value) if of_rows => share(*value, row.n).into(),
                Some(value) => number(*value).into(),
            });
            if **metric == board.primary {
                let ci = row.ci95.map(|[low, high]| format!("{low:.3} to {high:.3}"));
                cells.push(ci.unwrap_or_default().into());
            }
        }
        if failed {
            let mood = if row.errors > 0 { Mood::Bad } else { Mood::Plain };
            cells.push(Cell::of(row.errors.to_string(), mood));
        }
        if timed {
            let latency = row.latency_ms.map(|l| format!("{}/{}", number(l.p50), number(l.p95)));
            cells.push(latency.unwrap_or_else(|| "-".into()).into());
        }
        cells.push(row.tokens().unwrap_or_else(|| "-".into()).into());
        if priced {
            cells.push(row.usd_per_1k.map_or_else(|| "-".into(), number).into());
        }
        if regression {
            let kept = row.regression.as_ref().map(|k| format!("{}/{}", k.kept, k.of));
            let lost = row.regression.as_ref().is_some_and(|k| k.kept < k.of);
            let mood = if lost { Mood::Bad } else { Mood::Plain };
            cells.push(Cell::of(kept.unwrap_or_else(|| "-".into()), mood));
        }
        for set in &sets {
            let score = row.sets.get(*set);
            let mood = if score.is_some_and(SetScore::is_worse) { Mood::Bad } else { Mood::Plain };
            cells.push(Cell::of(score.map_or_else(|| "-".into(), |s| format!("{}/{}", s.right, s.n)), mood));
        }
        for goal in 0..goals.len() {
            let state = row.goals.get(goal).map_or("open", |goal| goal.state.as_str());
            let mood = match state {
                "pass" => Mood::Good,
                "fail" => Mood::Bad,
                _ => Mood::Plain,
            };
            cells.push(Cell::of(state, mood));
        }
        table.rows.push(cells);
    }
    table
}
