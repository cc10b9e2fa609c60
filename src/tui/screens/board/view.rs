//! Draws screen 5: the board. The comparison beside it is drawn in `comparison.rs`.

use ratatui::layout::Rect;

use super::columns::{Column, money};
use super::{Pane, comparison};
use crate::domain::board::{Board, BoardRow};
use crate::domain::trilemma::Pareto;
use crate::domain::words::{counted, noun};
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::{WIDE, empty, pane_tabs};
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, number};

/// ```text
/// wide: | candidates | comparison |     narrow: one of the two
/// ```
pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    let state = &app.board;
    if body.width >= WIDE {
        let right = (body.width * 2 / 5).clamp(44, 80);
        let left = Rect { width: body.width - right, ..body };
        board(app, p, left, "board");
        comparison::draw(app, p, Rect { x: left.right(), width: right, ..body }, "comparison");
        return;
    }
    let tabs = |active| pane_tabs(&["board", "comparison"], active);
    match state.pane {
        Pane::Candidates => board(app, p, body, &tabs(0)),
        Pane::Comparison => comparison::draw(app, p, body, &tabs(1)),
    }
}

fn board(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.board;
    let focused = state.pane == Pane::Candidates;
    let Some(board) = &state.board else {
        let inner = p.pane(area, title, focused);
        return empty(p, inner, if app.connected() { "reading the board ..." } else { "connecting ..." });
    };
    // Where no row has a part yet, results made elsewhere stand on all of them.
    let (rows, one) = match board.eval_rows {
        0 => (board.rows.iter().map(|r| r.n).max().unwrap_or(0), "row"),
        n => (n, "eval row"),
    };
    let mut title = format!("{title} {} {} {}", p.look.signs.dot, number::count(rows), noun(rows, one));
    if !state.filter.is_empty() || board.rows.len() < board.total {
        let total = board.total.max(board.rows.len());
        title.push_str(&format!(" {} {} of {}", p.look.signs.dot, state.order.len(), number::count(total)));
    }
    if !state.filter.is_empty() {
        title.push_str(&format!(" match {}", state.filter));
    }
    let inner = p.pane(area, &title, focused);
    if board.rows.is_empty() {
        let key = app.keymap.key_for(&[Context::Board, Context::Global], Action::LaunchEval);
        return empty(
            p,
            inner,
            &format!(
                "nothing is scored yet: {key} evaluates the pipeline as it stands, the baseline of all that follows"
            ),
        );
    }
    if state.order.is_empty() {
        let key = app.keymap.key_for(&[Context::Board], Action::Search);
        return empty(
            p,
            inner,
            &format!("no candidate matches `{}`; {key} changes the filter", state.filter),
        );
    }
    let needed: u16 = state.columns.iter().map(|c| c.width(board) + 1).sum();
    let names = state.name_width;
    let name_width =
        names.clamp(10, 32).max(inner.width.saturating_sub(needed + 5).min(names)).min(inner.width / 2);
    // Each column as far as there is room, the rest dropped.
    let mut x = 4 + name_width;
    let mut placed = Vec::new();
    for column in &state.columns {
        let width = column.width(board);
        if x + width > inner.width {
            break;
        }
        placed.push((x, width, column));
        x += width + 1;
    }
    let role = |column: &Column| if *column == state.sort.by { Role::Title } else { Role::Dim };
    p.put(inner, 4, 0, name_width, "candidate", role(&Column::Name));
    for (x, width, column) in &placed {
        p.put(inner, *x, 0, *width, &column.head(board), role(column));
    }
    let ladder = ladder(board, p);
    let goals = said(board, state.selected_row(), inner, p);
    let below = u16::from(!ladder.is_empty()) + goals.len() as u16;
    let list = Rect { y: inner.y + 1, height: inner.height.saturating_sub(1 + below), ..inner };
    let top = scroll(0, state.selected, usize::from(list.height));
    let window = state.order.iter().enumerate().skip(top).take(usize::from(list.height));
    for (y, (i, row)) in window.filter_map(|(i, at)| Some((i, board.rows.get(*at)?))).enumerate() {
        let (y, selected) = (y as u16, i == state.selected);
        let plain = if selected { Role::Selected } else { Role::Text };
        if selected {
            p.highlight(list, y, plain);
            let pointer = p.look.signs.pointer;
            p.put(list, 0, y, 1, pointer, plain);
        }
        let side = if state.a.as_ref() == Some(&row.candidate) {
            "A"
        } else if state.b.as_ref() == Some(&row.candidate) {
            "B"
        } else {
            " "
        };
        p.put(list, 2, y, 1, side, if selected { plain } else { Role::Key });
        p.put(list, 4, y, name_width, &row.candidate, plain);
        for (x, width, column) in &placed {
            let (text, role) = column.cell(row, board, &p.look.signs);
            p.put(list, *x, y, *width, &text, if selected { plain } else { role });
        }
    }
    let mut y = inner.height - below.min(inner.height);
    for (text, role) in goals {
        p.put(inner, 1, y, inner.width, &text, role);
        y += 1;
    }
    p.put(inner, 1, y, inner.width, &ladder, Role::Title);
}

/// Of the selected candidate in words: its goals, quality x latency x cost, and what its figures alone do not say.
fn said(board: &Board, row: Option<&BoardRow>, inner: Rect, p: &Painter<'_>) -> Vec<(String, Role)> {
    let Some(row) = row else { return Vec::new() };
    let line = |g: &crate::domain::board::GoalResult| {
        let (sign, role) = match g.state.as_str() {
            "pass" => (p.look.signs.right, Role::Good),
            "fail" => (p.look.signs.wrong, Role::Bad),
            _ => (p.look.signs.open, Role::Text),
        };
        let got = g.got.map_or("not measured".into(), number::short);
        (format!("{sign} goal {} {}: {got}", g.metric, g.want), role)
    };
    let remarks = row.remarks().into_iter().map(|r| (format!("{} {r}", p.look.signs.warning), Role::Warning));
    let figures = figures(board, row, p).into_iter().map(|text| (text, Role::Text));
    // The list keeps half of the pane.
    row.goals
        .iter()
        .take(4)
        .map(line)
        .chain(remarks)
        .chain(figures)
        .take(usize::from(inner.height / 2))
        .collect()
}

/// Latency, cost, place and training, each in a line, as far as they are known.
fn figures(board: &Board, row: &BoardRow, p: &Painter<'_>) -> Vec<String> {
    let (t, dot) = (&row.trilemma, p.look.signs.dot);
    let join = |parts: Vec<Option<String>>| {
        let known: Vec<String> = parts.into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.join(&format!(" {dot} ")))
    };
    let ms = number::millis;
    let mut lines = Vec::new();
    lines.extend(join(vec![
        row.latency_ms
            .map(|l| format!("p50 {} p90 {} p95 {} p99 {}", ms(l.p50), ms(l.p90), ms(l.p95), ms(l.p99))),
        t.ttft_ms.map(|l| format!("first token {} (p95 {})", ms(l.p50), ms(l.p95))),
    ]));
    lines.extend(join(vec![
        t.rows_per_s.map(|r| format!("{} rows/s", number::short(r))),
        t.goodput.map(|g| {
            let per_s = g.per_s.map_or_else(String::new, |r| format!(", {} a second", number::short(r)));
            format!("right and within {}: {} of {} timed rows{per_s}", ms(g.limit_ms), g.good, g.n)
        }),
    ]));
    lines.extend(join(vec![
        t.month.map(|m| match m.usd {
            Some(usd) => format!("{} $ for {} rows a month", money(usd), number::count(m.volume as usize)),
            None => format!("{} rows a month: cost not known", number::count(m.volume as usize)),
        }),
        t.month.and_then(|m| {
            let (usd, n) = (m.usd_always_on?, m.machines?);
            Some(format!("{} $ with {} on all month", money(usd), counted(n as usize, "machine")))
        }),
    ]));
    lines.extend(t.break_even.as_ref().map(|b| {
        let months = b.months.map_or_else(String::new, |m| format!(" ({} months)", number::short(m)));
        format!("training {}{months}", b.note)
    }));
    if board.axes.len() > 1 {
        let axes = board.axes.join(", ");
        match &t.pareto {
            Pareto::Front => {
                lines.push(format!("{} nobody is as good on all of {axes}", p.look.signs.bullet));
            }
            Pareto::Dominated { by } => lines.push(format!("dominated by {by} on {axes}")),
            Pareto::Open { missing } if !missing.is_empty() => {
                lines.push(format!("not held against others: {} not known", missing.join(", ")));
            }
            Pareto::Open { .. } => {}
        }
    }
    lines
}

/// What each rung gained over the one below, and whether the next is worth it: `ladder: +.092 prompt · +.097 lora; climb: ...`.
fn ladder(board: &Board, p: &Painter<'_>) -> String {
    let ladder = &board.ladder;
    let steps: Vec<String> = ladder
        .rungs
        .iter()
        .filter_map(|r| Some((r, r.step.as_ref()?)))
        .map(|(rung, step)| {
            let open = if step.proven() { "" } else { "?" };
            format!("{}{open} {}", number::signed_share(step.delta, 3), rung.rung)
        })
        .collect();
    let advice = &ladder.advice;
    let verdict = match &advice.rung {
        Some(rung) => format!("{}: {rung}", advice.verdict.name()),
        None => advice.verdict.name().to_owned(),
    };
    if ladder.rungs.is_empty() {
        return String::new();
    }
    let gap = if steps.is_empty() { "" } else { "; " };
    format!("ladder: {}{gap}{verdict}", steps.join(&format!(" {} ", p.look.signs.dot)))
}
