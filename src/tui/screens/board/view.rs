//! Draws screen 5: the board. The comparison beside it is drawn in `comparison.rs`.

use ratatui::layout::Rect;

use super::{Pane, comparison};
use crate::domain::board::{Board, BoardRow};
use crate::domain::words::noun;
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::{WIDE, empty, pane_tabs};
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, number, text};

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

/// One column: heading, width, text and role of a row.
struct Column {
    head: String,
    width: u16,
    cell: Box<dyn Fn(&BoardRow) -> (String, Role)>,
}

/// Columns in order of weight; those that do not fit are left out from the end.
fn columns(board: &Board, p: &Painter<'_>) -> Vec<Column> {
    let plus_minus = p.look.signs.plus_minus;
    let (right, wrong, open) = (p.look.signs.right, p.look.signs.wrong, p.look.signs.open);
    let primary = board.primary.clone();
    let mut columns = vec![Column {
        head: board.primary.clone(),
        width: 11,
        cell: Box::new(move |row| {
            let Some(value) = row.metrics.get(&primary) else { return ("-".into(), Role::Dim) };
            let text = match row.ci95 {
                // A Wilson interval is lopsided near 0 and 1: its longer side is what is claimed.
                Some([lo, hi]) => {
                    format!(
                        "{} {plus_minus}{}",
                        number::share(*value, 3),
                        number::share((hi - value).max(value - lo), 3)
                    )
                }
                None => number::share(*value, 3),
            };
            (text, Role::Text)
        }),
    }];
    let goals = board.rows.iter().map(|r| r.goals.len()).max().unwrap_or(0) as u16;
    if goals > 0 {
        columns.push(Column {
            head: "goals".into(),
            width: (goals * 2).max(5),
            cell: Box::new(move |row| {
                let sign = |state: &str| match state {
                    "pass" => right,
                    "fail" => wrong,
                    _ => open,
                };
                let signs: Vec<&str> = row.goals.iter().map(|g| sign(&g.state)).collect();
                let role = if row.goals.iter().any(|g| g.state == "fail") {
                    Role::Bad
                } else if row.goals.iter().all(|g| g.state == "pass") {
                    Role::Good
                } else {
                    Role::Text
                };
                (signs.join(" "), role)
            }),
        });
    }
    columns.push(Column {
        head: "n".into(),
        width: 5,
        cell: Box::new(|row| (row.n.to_string(), Role::Text)),
    });
    columns.push(Column {
        head: "p50".into(),
        width: 6,
        cell: Box::new(|row| (row.latency_ms.map_or("-".into(), |l| number::millis(l.p50)), Role::Text)),
    });
    columns.push(Column {
        head: "p95".into(),
        width: 6,
        cell: Box::new(|row| (row.latency_ms.map_or("-".into(), |l| number::millis(l.p95)), Role::Text)),
    });
    columns.push(Column {
        head: "tok in/out".into(),
        width: 10,
        cell: Box::new(|row| (format!("{:.0}/{:.0}", row.tokens_in, row.tokens_out), Role::Text)),
    });
    columns.push(Column {
        head: "$/1k".into(),
        width: 7,
        cell: Box::new(|row| (row.usd_per_1k.map_or("-".into(), |v| format!("{v:.3}")), Role::Text)),
    });
    if board.rows.iter().any(|r| r.errors > 0) {
        columns.push(Column {
            head: "errors".into(),
            width: 6,
            cell: Box::new(|row| {
                (row.errors.to_string(), if row.errors > 0 { Role::Bad } else { Role::Text })
            }),
        });
    }
    for metric in board.metrics.iter().filter(|m| **m != board.primary && !m.starts_with("latency_")) {
        let name = metric.clone();
        columns.push(Column {
            head: metric.clone(),
            width: (text::width(metric) as u16).clamp(6, 18),
            cell: Box::new(move |row| {
                (row.metrics.get(&name).map_or("-".into(), |v| number::short(*v)), Role::Text)
            }),
        });
    }
    columns
}

fn board(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.board;
    let focused = state.pane == Pane::Candidates;
    let Some(board) = &state.board else {
        let inner = p.pane(area, title, focused);
        return empty(p, inner, if app.connected() { "reading the board ..." } else { "connecting ..." });
    };
    let title = format!(
        "{title} {} {} {}",
        p.look.signs.dot,
        number::count(board.eval_rows),
        noun(board.eval_rows, "eval row")
    );
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
    let columns = columns(board, p);
    let needed: u16 = columns.iter().map(|c| c.width + 1).sum();
    let names = board.rows.iter().map(|r| text::width(&r.candidate) + 1).max().unwrap_or(8) as u16;
    let name_width =
        names.clamp(10, 32).max(inner.width.saturating_sub(needed + 5).min(names)).min(inner.width / 2);
    // Each column as far as there is room, the rest dropped.
    let mut x = 4 + name_width;
    let mut placed = Vec::new();
    for column in columns {
        if x + column.width > inner.width {
            break;
        }
        let width = column.width;
        placed.push((x, column));
        x += width + 1;
    }
    p.put(inner, 4, 0, name_width, "candidate", Role::Dim);
    for (x, column) in &placed {
        p.put(inner, *x, 0, column.width, &column.head, Role::Dim);
    }
    let ladder = ladder(board, p);
    let goals = goals(board, state.selected, p);
    let below = u16::from(!ladder.is_empty()) + goals.len() as u16;
    let list = Rect { y: inner.y + 1, height: inner.height.saturating_sub(1 + below), ..inner };
    let top = scroll(0, state.selected, usize::from(list.height));
    for (y, (i, row)) in board.rows.iter().enumerate().skip(top).take(usize::from(list.height)).enumerate() {
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
        for (x, column) in &placed {
            let (text, role) = (column.cell)(row);
            p.put(list, *x, y, column.width, &text, if selected { plain } else { role });
        }
    }
    let mut y = inner.height - below.min(inner.height);
    for (text, role) in goals {
        p.put(inner, 1, y, inner.width, &text, role);
        y += 1;
    }
    p.put(inner, 1, y, inner.width, &ladder, Role::Title);
}

/// The goals of the selected candidate in words, and what its figures alone do not say.
fn goals(board: &Board, selected: usize, p: &Painter<'_>) -> Vec<(String, Role)> {
    let Some(row) = board.rows.get(selected) else { return Vec::new() };
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
    row.goals.iter().take(4).map(line).chain(remarks).collect()
}

/// What each rung gained over the best of the rungs before it: `ladder: +.092 prompt · +.097 lora`.
fn ladder(board: &Board, p: &Painter<'_>) -> String {
    let best = |rung: &str| {
        let rows = board.rows.iter().filter(|r| r.rung == rung);
        rows.filter_map(|r| r.metrics.get(&board.primary).copied())
            .fold(None, |a: Option<f64>, v| Some(a.map_or(v, |a| a.max(v))))
    };
    let Some(mut so_far) = best("baseline") else { return String::new() };
    let mut steps = Vec::new();
    for rung in ["prompt", "trajectory", "lora"] {
        if let Some(score) = best(rung) {
            steps.push(format!("{} {rung}", number::signed_share(score - so_far, 3)));
            so_far = so_far.max(score);
        }
    }
    if steps.is_empty() {
        String::new()
    } else {
        format!("ladder: {}", steps.join(&format!(" {} ", p.look.signs.dot)))
    }
}
