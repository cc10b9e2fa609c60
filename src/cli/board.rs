//! `tunebench board`: every candidate on every metric.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{once, unexpected};
use super::output::Output;
use super::table::{Table, clean, number, share};
use crate::domain::api::{Request, Response};
use crate::domain::board::Board;
use crate::domain::metric::Unit;
use crate::domain::words::counted;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let Response::Board { board } = once(root, Request::Board)? else { return Err(unexpected()) };
    out.result(&board, || render(&board));
    Ok(ExitCode::SUCCESS)
}

/// The board as a table; goals as `pass`, `fail`, `open`.
pub fn render(board: &Board) -> String {
    if board.rows.is_empty() {
        return "nobody is on the board yet; `tunebench run eval` takes a baseline".into();
    }
    let metrics: Vec<&String> = board
        .metrics
        .iter()
        .filter(|m| !m.starts_with("latency_") || board.rows.iter().any(|r| r.metrics.contains_key(*m)))
        .collect();
    let mut header = vec!["candidate".to_owned(), "rung".into(), ">n".into()];
    for metric in &metrics {
        header.push(format!(">{metric}"));
        if **metric == board.primary {
            header.push("95%".into());
        }
    }
    let any_errors = board.rows.iter().any(|r| r.errors > 0);
    if any_errors {
        header.push(">failed rows".into());
    }
    let any_against = board.rows.iter().any(|r| r.against.is_some());
    if any_against {
        header.push(">vs baseline".into());
    }
    header.extend([">tok in/out".into(), ">$/1k".into(), "goals".into()]);
    let names: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = Table::new(&names);
    for row in &board.rows {
        let mut cells = vec![row.candidate.clone(), row.rung.clone(), row.n.to_string()];
        for metric in &metrics {
            let per_row_share =
                board.metric(metric).is_some_and(|m| m.entry.unit == Unit::Share && m.entry.per_row);
            cells.push(match row.metrics.get(*metric) {
                None => "-".into(),
                Some(value) if per_row_share => share(*value, row.n),
                Some(value) => number(*value),
            });
            if **metric == board.primary {
                cells.push(row.ci95.map_or_else(String::new, |[low, high]| format!("{low:.3}-{high:.3}")));
            }
        }
        if any_errors {
            cells.push(row.errors.to_string());
        }
        if any_against {
            cells.push(row.against.as_ref().map_or_else(String::new, |against| {
                let star = if against.is_significant() { "*" } else { " " };
                format!("{:+.3}{star}", against.delta)
            }));
        }
        cells.push(format!("{:.0}/{:.0}", row.tokens_in, row.tokens_out));
        cells.push(row.usd_per_1k.map_or_else(|| "-".into(), |usd| format!("{usd:.3}")));
        let goals: Vec<&str> = row.goals.iter().map(|g| g.state.as_str()).collect();
        cells.push(goals.join(" "));
        table.row(cells);
    }
    let mut text = table.render();
    if let Some(against) = board.rows.iter().find_map(|r| r.against.as_ref()) {
        text.push_str(&format!(
            "* differs from {} on the same rows: p below 0.05 by Holm's adjustment over {}\n",
            clean(&against.candidate),
            counted(against.adjusted.of, "comparison")
        ));
    }
    if let Some(goals) = board.rows.first().map(|r| &r.goals).filter(|g| !g.is_empty()) {
        let goals: Vec<String> = goals.iter().map(|g| format!("{} {}", g.metric, g.want)).collect();
        text.push_str(&format!("goals: {}\n", goals.join(", ")));
    }
    for row in &board.rows {
        for remark in row.remarks() {
            text.push_str(&format!("{}: {remark}\n", clean(&row.candidate)));
        }
    }
    text
}
