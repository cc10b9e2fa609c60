//! One table of comma-separated values (RFC 4180). A cell of text that a spreadsheet would take for a formula gets an apostrophe before it.

use std::collections::BTreeSet;

use super::blocks::clean;
use crate::domain::board::{Board, Comparison};
use crate::domain::outcome::FlipKind;

enum Cell {
    Text(String),
    Number(Option<f64>),
    Count(usize),
}

impl Cell {
    fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().to_owned())
    }

    const fn none() -> Self {
        Self::Number(None)
    }

    fn written(self) -> String {
        let text = match self {
            Self::Text(text) => guarded(&clean(&text)),
            Self::Number(number) => number.map(|n| n.to_string()).unwrap_or_default(),
            Self::Count(n) => n.to_string(),
        };
        if text.contains([',', '"', '\n', '\r', ';']) || text.starts_with(['\'', ' ']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    }
}

/// Spreadsheets read a cell that begins so, also behind space and in full width, as a formula (OWASP: CSV injection).
fn guarded(text: &str) -> String {
    let formula = |c: char| {
        matches!(c, '=' | '+' | '-' | '@' | '\u{ff1d}' | '\u{ff0b}' | '\u{ff0d}' | '\u{ff20}' | '|' | '%')
    };
    if text.trim_start().starts_with(formula) { format!("'{text}") } else { text.to_owned() }
}

fn table(head: &[String], rows: Vec<Vec<Cell>>) -> String {
    let line = |cells: Vec<String>| cells.join(",") + "\r\n";
    let mut out = line(head.iter().map(|h| Cell::text(h).written()).collect());
    for row in rows {
        out += &line(row.into_iter().map(Cell::written).collect());
    }
    out
}

/// A line for each candidate.
pub(super) fn board(board: &Board) -> String {
    let first = ["candidate", "id", "rung", "run", "n", "errors", "stale"];
    let mut head: Vec<String> = first.map(str::to_owned).to_vec();
    let metrics: BTreeSet<&String> = board.rows.iter().flat_map(|row| row.metrics.keys()).collect();
    // The board's own first, then what was measured beside.
    let mut names: Vec<&String> = board.metrics.iter().collect();
    names.extend(metrics.into_iter().filter(|name| !board.metrics.contains(name)));
    head.extend(names.iter().map(|name| (*name).clone()));
    for name in ["low95", "high95", "latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms"] {
        head.push(if names.iter().any(|n| *n == name) { format!("{name} (all)") } else { name.to_owned() });
    }
    head.extend(["tokens_in", "tokens_out", "usd_per_1k"].map(str::to_owned));
    head.extend(["regression_kept", "regression_of"].map(str::to_owned));
    let sets: BTreeSet<&String> = board.rows.iter().flat_map(|row| row.sets.keys()).collect();
    for set in &sets {
        head.extend([format!("set {set}: right"), format!("set {set}: of")]);
    }
    let goals = board.rows.first().map(|row| &row.goals[..]).unwrap_or_default();
    head.extend(goals.iter().map(|goal| format!("goal: {} {}", goal.metric, goal.want)));
    let rows = board.rows.iter().map(|row| {
        let mut cells = vec![
            Cell::text(&row.candidate),
            Cell::text(&row.id),
            Cell::text(&row.rung),
            Cell::text(row.run.as_deref().unwrap_or_default()),
            Cell::Count(row.n),
            Cell::Count(row.errors),
            Cell::Count(row.stale),
        ];
        cells.extend(names.iter().map(|name| Cell::Number(row.metrics.get(*name).copied())));
        cells.extend([0, 1].map(|at| Cell::Number(row.ci95.map(|ci| ci[at]))));
        let latency = row.latency_ms;
        cells.extend([
            Cell::Number(latency.map(|l| l.p50)),
            Cell::Number(latency.map(|l| l.p90)),
            Cell::Number(latency.map(|l| l.p95)),
            Cell::Number(latency.map(|l| l.p99)),
            Cell::Number(Some(row.tokens_in)),
            Cell::Number(Some(row.tokens_out)),
            Cell::Number(row.usd_per_1k),
        ]);
        let kept = row.regression.as_ref();
        cells.extend([kept.map(|k| k.kept), kept.map(|k| k.of)].map(|n| Cell::Number(n.map(|n| n as f64))));
        for set in &sets {
            let score = row.sets.get(*set);
            cells.extend(
                [score.map(|s| s.right), score.map(|s| s.n)].map(|n| Cell::Number(n.map(|n| n as f64))),
            );
        }
        cells.extend((0..goals.len()).map(|at| Cell::text(row.goals.get(at).map_or("", |goal| &goal.state))));
        cells
    });
    table(&head, rows.collect())
}

/// `what` says what a line is: `all`, `stratum`, or a flip's kind.
pub(super) fn comparison(c: &Comparison) -> String {
    let head = [
        "what",
        "name",
        "n",
        "a",
        "b",
        "difference",
        "low95",
        "high95",
        "p_value",
        "test",
        "fixed",
        "regressed",
        "churned",
        "needed",
        "stratum",
        "gold",
        "answer_a",
        "answer_b",
        "input",
    ]
    .map(str::to_owned);
    let texts = |n: usize| (0..n).map(|_| Cell::text(""));
    let mut rows = Vec::new();
    let mut all = vec![
        Cell::text("all"),
        Cell::text(format!("{}: {} against {}", c.metric, c.candidates[1], c.candidates[0])),
        Cell::Count(c.n),
        Cell::Number(Some(c.a)),
        Cell::Number(Some(c.b)),
        Cell::Number(Some(c.delta)),
        Cell::Number(Some(c.ci95[0])),
        Cell::Number(Some(c.ci95[1])),
        Cell::Number(Some(c.p_value)),
        Cell::text(&c.test),
        Cell::Count(c.fixed),
        Cell::Count(c.regressed),
        Cell::Count(c.churned),
        Cell::Count(c.needed),
    ];
    all.extend(texts(5));
    rows.push(all);
    for s in &c.strata {
        let mut cells = vec![
            Cell::text("stratum"),
            Cell::text(&s.stratum),
            Cell::Count(s.n),
            Cell::Number(Some(s.a)),
            Cell::Number(Some(s.b)),
            Cell::Number(Some(s.b - s.a)),
        ];
        cells.extend((0..4).map(|_| Cell::none()));
        cells.extend([Cell::Count(s.fixed), Cell::Count(s.regressed), Cell::none(), Cell::none()]);
        cells.push(Cell::text(&s.stratum));
        cells.extend(texts(4));
        rows.push(cells);
    }
    for flip in &c.flips {
        let mut cells = vec![Cell::text(kind(flip.flip)), Cell::text(&flip.row)];
        cells.extend((0..12).map(|_| Cell::none()));
        cells.extend([
            Cell::text(flip.stratum.as_deref().unwrap_or_default()),
            Cell::text(flip.gold.as_deref().unwrap_or_default()),
            Cell::text(&flip.a),
            Cell::text(&flip.b),
            Cell::text(&flip.input),
        ]);
        rows.push(cells);
    }
    table(&head, rows)
}

pub(super) const fn kind(flip: FlipKind) -> &'static str {
    match flip {
        FlipKind::Fixed => "fixed",
        FlipKind::Regressed => "regressed",
        FlipKind::Churned => "churned",
    }
}
