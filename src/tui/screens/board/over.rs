//! What lies over the board: the Pareto picture and the ladder in full.

use ratatui::layout::Rect;

use super::columns::pareto_sign;
use super::{BoardLayer, BoardState};
use crate::domain::board::{Board, BoardRow};
use crate::domain::ladder::{Ladder, Verdict};
use crate::domain::trilemma::Pareto;
use crate::domain::words::counted;
use crate::score::trilemma::{COST, LATENCY};
use crate::tui::app::App;
use crate::tui::layers::view::boxed;
use crate::tui::theme::Role;
use crate::tui::widgets::chart::{Chart, Line, Mark, Scale};
use crate::tui::widgets::{Painter, Piece, number, text};

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect, layer: BoardLayer) {
    let Some(board) = &app.board.board else {
        boxed(p, body, 60, 5, "board");
        return;
    };
    match layer {
        BoardLayer::Pareto { cost } => pareto(&app.board, board, p, body, cost),
        BoardLayer::Ladder { scroll } => ladder(&board.ladder, p, body, scroll),
        BoardLayer::Timeline { from, scroll } => {
            super::timeline::draw(p, body, app.board.timeline.as_ref().map(|(_, t)| t), from, scroll);
        }
    }
}

/// Quality (upwards) over latency or cost (to the right, by powers of ten): a dot a candidate, the front joined by a line.
fn pareto(state: &BoardState, board: &Board, p: &mut Painter<'_>, body: Rect, cost: bool) {
    let axis = if cost { COST } else { LATENCY };
    let title = format!("{} over {axis} (left/right: the other axis; up/down: the candidate)", board.primary);
    let inner = boxed(p, body, 160, body.height, &title);
    let place = |row: &BoardRow| -> Option<(f64, f64)> {
        let y = row.metrics.get(&board.primary).copied().filter(|v| v.is_finite())?;
        let x = if cost { row.trilemma.cost.usd_per_1k } else { row.latency_ms.map(|l| l.p95) }?;
        (x.is_finite() && x > 0.0).then(|| (x.log10(), y))
    };
    let shown = state.order.iter().filter_map(|at| board.rows.get(*at));
    let points: Vec<(&BoardRow, (f64, f64))> = shown.filter_map(|r| Some((r, place(r)?))).collect();
    let left_out = state.order.len() - points.len();
    let below = selected(state, board, p, cost, left_out);
    let height = inner.height.saturating_sub(below.len() as u16);
    if points.is_empty() {
        p.paragraph(
            inner,
            0,
            &format!("of no candidate both {} and {axis} are known", board.primary),
            Role::Dim,
        );
    } else {
        let xs = || points.iter().map(|(_, (x, _))| *x);
        let (lo, hi) = xs().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
        let scale = Scale::over(points.iter().map(|(_, (_, y))| *y), false);
        let mut front: Vec<(f64, f64)> =
            points.iter().filter(|(r, _)| r.trilemma.pareto == Pareto::Front).map(|(_, at)| *at).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut marks: Vec<Mark> = Vec::new();
        let (bullet, churned) = (p.look.signs.bullet, p.look.signs.churned);
        marks.extend(front.iter().map(|(x, y)| Mark { x: *x, y: *y, sign: bullet, role: Role::Good }));
        if let Some((x, y)) = state.selected_row().and_then(place) {
            marks.push(Mark { x, y, sign: churned, role: Role::Key });
        }
        // Of three axes a picture shows two: its line joins who is best for the money (or time) shown.
        let mut best = f64::NEG_INFINITY;
        let lower = super::columns::lower_is_better(board, &board.primary);
        let stairs = front.into_iter().filter(|(_, y)| {
            let y = if lower { -*y } else { *y };
            let better = y > best;
            best = best.max(y);
            better
        });
        let chart = Chart {
            range: if hi > lo { (lo, hi) } else { (lo - 0.5, hi + 0.5) },
            scale,
            lines: vec![Line { points: stairs.collect(), role: Role::Series1 }],
            marks,
            dots: points.iter().map(|(_, (x, y))| (*x, *y, Role::Series2)).collect(),
            cursor: None,
            powers: true,
        };
        chart.draw(p, Rect { height, ..inner });
    }
    for (i, line) in below.iter().enumerate() {
        p.pieces(inner, 0, height + i as u16, line);
    }
}

/// The selected candidate and the signs, below the picture.
fn selected(
    state: &BoardState,
    board: &Board,
    p: &Painter<'_>,
    cost: bool,
    left_out: usize,
) -> Vec<Vec<Piece>> {
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    if let Some(row) = state.selected_row() {
        let (sign, role) = pareto_sign(&row.trilemma.pareto, &p.look.signs);
        let value = row.metrics.get(&board.primary).map_or("-".into(), |v| number::share(*v, 3));
        let x = if cost {
            row.trilemma.cost.usd_per_1k.map_or("cost not known".into(), |v| format!("{v:.3} $/1k"))
        } else {
            row.latency_ms.map_or("latency not known".into(), |l| format!("p95 {}", number::millis(l.p95)))
        };
        let said = match &row.trilemma.pareto {
            Pareto::Front => "dominated by nobody".to_owned(),
            Pareto::Dominated { by } => format!("dominated by {by}"),
            Pareto::Open { missing } => format!("not held against others: {} not known", missing.join(", ")),
        };
        lines.push(vec![
            (format!("{} ", p.look.signs.churned), Role::Key),
            (row.candidate.clone(), Role::Title),
            (format!("  {} {value}, {x}  ", board.primary), Role::Text),
            (format!("{sign} "), role),
            (said, Role::Text),
        ]);
    }
    let mut signs = format!("{} on the front of {}", p.look.signs.bullet, board.axes.join(" x "));
    if left_out > 0 {
        signs.push_str(&format!("; {} of which one of the two is not known", counted(left_out, "candidate")));
    }
    lines.push(vec![(signs, Role::Dim)]);
    lines
}

/// Every rung with what it added, then the advice and why.
fn ladder(ladder: &Ladder, p: &mut Painter<'_>, body: Rect, from: usize) {
    let inner = boxed(p, body, 110, body.height, "the ladder: what each rung added over the one below");
    let width = usize::from(inner.width);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    for rung in &ladder.rungs {
        let value = rung.value.map_or("-".into(), |v| match rung.n {
            0..30 => format!("{:.0} of {}", v * rung.n as f64, rung.n),
            _ => number::share(v, 3),
        });
        let best = if rung.candidates > 1 { format!(", best of {}", rung.candidates) } else { String::new() };
        lines.push(vec![
            (format!("{:<11}", rung.rung), Role::Title),
            (format!("{value}  {}{best}", rung.candidate), Role::Text),
        ]);
        if let Some(s) = &rung.step {
            let signs = &p.look.signs;
            let half = (s.ci95[1] - s.ci95[0]) / 2.0;
            let (sign, role) = match (s.proven(), s.delta > 0.0) {
                (false, _) => (signs.open, Role::Text),
                (true, true) => (signs.fixed, Role::Good),
                (true, false) => (signs.regressed, Role::Bad),
            };
            let delta = format!(
                "{} {}{}",
                number::signed_share(s.delta, 3),
                signs.plus_minus,
                number::share(half, 3)
            );
            lines.push(vec![
                (format!("  {sign} "), role),
                (
                    format!(
                        "{delta}  {}  over {} on {}",
                        number::p_value(s.p_value),
                        s.over,
                        counted(s.n, "row")
                    ),
                    Role::Text,
                ),
            ]);
            lines.push(vec![(
                format!("    fixed {}, regressed {}, churned {}", s.fixed, s.regressed, s.churned),
                Role::Dim,
            )]);
        }
    }
    if !ladder.rungs.is_empty() {
        lines.push(Vec::new());
    }
    lines.push(vec![(crate::score::ladder::verdict(&ladder.advice), Role::Title)]);
    for reason in &ladder.advice.reasons {
        let signs = &p.look.signs;
        let (sign, role) = match reason.says {
            Verdict::Climb => (signs.fixed, Role::Good),
            Verdict::Stay => (signs.regressed, Role::Warning),
            Verdict::Measure => ("?", Role::Warning),
            Verdict::Done => (signs.right, Role::Good),
        };
        let head = format!("{sign} {}: ", reason.says.name());
        let room = width.saturating_sub(text::width(&head)).max(8);
        for (i, part) in text::wrap(&reason.text, room, 20).into_iter().enumerate() {
            let lead = if i == 0 { head.clone() } else { " ".repeat(text::width(&head)) };
            lines.push(vec![(lead, role), (part, Role::Text)]);
        }
    }
    if let Some(run) = &ladder.advice.run {
        lines.push(Vec::new());
        lines.push(vec![("to do: ".into(), Role::Dim), (run.clone(), Role::Key)]);
    }
    let height = usize::from(inner.height);
    let from = from.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(from).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 12, " more: pgdn ", Role::Dim);
    }
}
