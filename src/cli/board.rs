//! `tunebench board`: every candidate on every metric.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use super::ask::{self, block_on, connect, once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean, number, share};
use crate::domain::api::{Request, Response};
use crate::domain::board::Board;
use crate::domain::metric::Unit;
use crate::domain::timeline::{Cell, Timeline};
use crate::domain::trilemma::Pareto;
use crate::domain::words::{counted, p_value};
use crate::score;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rows a month: what each candidate costs, and in how many months training has paid
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    volume: Option<u64>,
    /// The candidate that is called instead of training; else the best untrained one whose cost is known
    #[arg(long, value_name = "CANDIDATE")]
    against: Option<String>,
    /// Only the ladder: what each rung added, and whether the next one is worth it
    #[arg(long, conflicts_with_all = ["volume", "against"])]
    ladder: bool,
    /// Also which rows that once were fixed are lost again, and each set beside the baseline
    #[arg(long)]
    sets: bool,
    /// Strata over candidates in time; with a training run its checkpoints: loss, and rows fixed and broken at each
    #[arg(long, value_name = "RUN", num_args = 0..=1, conflicts_with_all = ["volume", "against", "ladder", "sets"])]
    #[allow(clippy::option_option, reason = "clap's way to say: the flag, with or without a run")]
    timeline: Option<Option<String>>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    if let Some(run) = args.timeline {
        let Response::Timeline { timeline } = once(root, Request::Timeline { run })? else {
            return Err(unexpected());
        };
        out.result(&timeline, || history(&timeline));
        return Ok(ExitCode::SUCCESS);
    }
    let mut board = block_on(async { ask::board(&connect(root).await?).await })?;
    if args.ladder {
        out.result(&board.ladder, || lines(&score::ladder::lines(&board.ladder)));
        return Ok(ExitCode::SUCCESS);
    }
    score::trilemma::at_volume(&mut board, args.volume, args.against.as_deref()).map_err(Exit::usage)?;
    out.result(&board, || render(&board) + &if args.sets { render_sets(&board) } else { String::new() });
    Ok(ExitCode::SUCCESS)
}

/// Rows lost again and the sets beside the baseline, for each candidate.
fn render_sets(board: &Board) -> String {
    let mut text = String::new();
    for row in &board.rows {
        let mut said = Vec::new();
        if let Some(kept) = &row.regression {
            let lost = kept.of - kept.kept;
            let more = if lost > kept.lost.len() { ", ..." } else { "" };
            let names = if lost > 0 { format!(": {}{more}", kept.lost.join(", ")) } else { String::new() };
            said.push(format!("{} of {} fixed rows lost again{names}", lost, kept.of));
        }
        for (name, score) in &row.sets {
            let base = score.base.as_ref().map_or_else(String::new, |b| {
                format!(
                    "; {} of {} where the baseline has {} (p = {})",
                    b.right,
                    b.n,
                    b.base_right,
                    p_value(b.p_value)
                )
            });
            said.push(format!("{name}: {} of {} right by {}{base}", score.right, score.n, score.metric));
        }
        for said in said {
            text.push_str(&format!("{}: {}\n", clean(&row.candidate), clean(&said)));
        }
    }
    if text.is_empty() {
        "no row was fixed yet, and no set was evaluated\n".into()
    } else {
        format!("\n{text}")
    }
}

/// A row a stratum, a column a candidate or checkpoint; then the run's evaluations.
fn history(timeline: &Timeline) -> String {
    if timeline.columns.is_empty() {
        return "nothing is scored yet; `tunebench run eval` takes a baseline".into();
    }
    let cell = |c: Cell| match c.n {
        0 => "-".to_owned(),
        1..30 => format!("{}/{}", c.right, c.n),
        _ => format!("{:.3}", c.share().unwrap_or_default()),
    };
    let mut header = vec!["stratum".to_owned()];
    header.extend(timeline.columns.iter().map(|m| format!(">{}", m.name)));
    let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let row = |name: &str, of: &dyn Fn(usize) -> Cell| {
        let cells = (0..timeline.columns.len()).map(|at| cell(of(at)));
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    table.row(row("(all rows)", &|at| timeline.columns.get(at).map(|m| m.all).unwrap_or_default()));
    for (nth, stratum) in timeline.strata.iter().enumerate() {
        let of =
            |at: usize| timeline.columns.get(at).and_then(|m| m.cells.get(nth)).copied().unwrap_or_default();
        table.row(row(stratum, &of));
    }
    let mut text = table.render();
    if timeline.left_out > 0 {
        text.push_str(&format!("{} older columns are left out\n", timeline.left_out));
    }
    if let Some(curve) = &timeline.run {
        let mut table = Table::new(&[">step", ">dev loss", ">fixed rows right", "fixed", "broke"]);
        for flips in &curve.flips {
            let loss = curve.evals.iter().find(|(s, _)| *s == flips.step).map(|(_, loss)| number(*loss));
            table.row(vec![
                flips.step.to_string(),
                loss.unwrap_or_else(|| "-".into()),
                format!("{}/{}", flips.all.right, flips.all.n),
                flips.fixed.join(" "),
                flips.regressed.join(" "),
            ]);
        }
        text.push_str(&format!("\n{}, on its fixed rows:\n{}", clean(&curve.run), table.render()));
    }
    text
}

/// Lines of text for a terminal.
pub fn lines(all: &[String]) -> String {
    all.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")
}

/// The board for people, with the ladder's advice in a line.
pub fn render(board: &Board) -> String {
    let mut text = standings(board);
    if !board.ladder.rungs.is_empty() {
        text.push_str(&format!("{} (--ladder says why)\n", score::ladder::verdict(&board.ladder.advice)));
    }
    text
}

/// The board as a table, goals as `pass`, `fail`, `open`, and what is to be said of its candidates.
pub fn standings(board: &Board) -> String {
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
    let regression = board.rows.iter().any(|r| r.regression.is_some());
    if regression {
        header.push(">regression".into());
    }
    let sets: BTreeSet<&String> = board.rows.iter().flat_map(|r| r.sets.keys()).collect();
    header.extend(sets.iter().map(|set| format!(">{set}")));
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
        if regression {
            cells
                .push(row.regression.as_ref().map_or_else(|| "-".into(), |k| format!("{}/{}", k.kept, k.of)));
        }
        for set in &sets {
            cells.push(row.sets.get(*set).map_or_else(|| "-".into(), |s| format!("{}/{}", s.right, s.n)));
        }
        if any_against {
            cells.push(row.against.as_ref().map_or_else(String::new, |against| {
                let star = if against.is_significant() { "*" } else { " " };
                format!("{:+.3}{star}", against.delta)
            }));
        }
        cells.push(row.tokens().unwrap_or_else(|| "-".into()));
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
    text.push_str(&trilemma(board));
    for row in &board.rows {
        for note in row.trilemma.break_even.iter().map(|b| &b.note) {
            text.push_str(&format!("{}: training {}\n", clean(&row.candidate), clean(note)));
        }
        for remark in row.remarks() {
            text.push_str(&format!("{}: {remark}\n", clean(&row.candidate)));
        }
    }
    text
}

/// Latency, first token, cost and who is dominated by whom; what is not known is `-`.
fn trilemma(board: &Board) -> String {
    let any = |known: &dyn Fn(&crate::domain::board::BoardRow) -> bool| board.rows.iter().any(known);
    let (rate, good) = (any(&|r| r.trilemma.rows_per_s.is_some()), any(&|r| r.trilemma.goodput.is_some()));
    let month = any(&|r| r.trilemma.month.is_some());
    if board.axes.len() < 2 {
        return String::new();
    }
    let mut header = vec!["candidate", ">p50", ">p90", ">p95", ">p99", ">first token"];
    header.extend(rate.then_some(">rows/s"));
    header.extend(good.then_some(">in time and right"));
    header.push(">$/1k, machine full");
    header.extend(month.then_some([">$/month", ">always on"]).into_iter().flatten());
    header.push("dominated by");
    let mut table = Table::new(&header);
    let or_dash = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    let ms = |v: Option<f64>| or_dash(v.map(|v| format!("{v:.0} ms")));
    let usd = |v: Option<f64>| or_dash(v.map(|v| format!("{v:.3}")));
    for row in &board.rows {
        let (l, t) = (row.latency_ms, &row.trilemma);
        let mut cells = vec![row.candidate.clone()];
        cells.extend([l.map(|l| l.p50), l.map(|l| l.p90), l.map(|l| l.p95), l.map(|l| l.p99)].map(ms));
        cells.push(ms(t.ttft_ms.map(|t| t.p50)));
        if rate {
            cells.push(or_dash(t.rows_per_s.map(|r| format!("{r:.1}"))));
        }
        if good {
            cells.push(or_dash(t.goodput.map(|g| {
                let per_s = g.per_s.map_or_else(String::new, |r| format!(", {r:.1}/s"));
                format!("{} of {}{per_s}", g.good, g.n)
            })));
        }
        cells.push(usd(t.cost.usd_per_1k));
        if month {
            let m = t.month;
            cells.push(or_dash(m.and_then(|m| m.usd).map(|v| format!("{v:.2}"))));
            cells.push(or_dash(m.and_then(|m| {
                let machines = m.machines.map_or_else(String::new, |n| format!(" ({n} on)"));
                m.usd_always_on.map(|v| format!("{v:.2}{machines}"))
            })));
        }
        cells.push(match &t.pareto {
            Pareto::Front => "nobody".into(),
            Pareto::Dominated { by } => by.clone(),
            Pareto::Open { missing } if missing.is_empty() => "-".into(),
            Pareto::Open { missing } => format!("? ({} not known)", missing.join(", ")),
        });
        table.row(cells);
    }
    format!("\nheld against each other by {}:\n{}", board.axes.join(", "), table.render())
}
