//! Draws screen 7.

use ratatui::layout::Rect;

use super::{Pane, state_sign};
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::train::view::log_lines;
use crate::tui::screens::{WIDE, empty, pane_tabs, short_key};
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, number, text};

/// ```text
/// wide: | runs | settings, results, log |     narrow: runs over the selected one's detail, or the detail alone
/// ```
pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    if body.width >= WIDE {
        let right = (body.width * 2 / 5).clamp(40, 80);
        let left = Rect { width: body.width - right, ..body };
        list(app, p, left, "runs");
        detail(app, p, Rect { x: left.right(), width: right, ..body }, "");
        return;
    }
    let tabs = |active| pane_tabs(&["runs", "detail"], active);
    match app.runs_screen.pane {
        Pane::List => {
            let below = (body.height / 3).max(6);
            list(app, p, Rect { height: body.height - below, ..body }, &tabs(0));
            detail(app, p, Rect { y: body.bottom() - below, height: below, ..body }, "");
        }
        Pane::Detail => detail(app, p, body, &tabs(1)),
    }
}

/// Role of a state; its sign and name stand beside it.
pub const fn state_role(state: RunState) -> Role {
    match state {
        RunState::Running | RunState::Done | RunState::Stopped => Role::Good,
        RunState::Failed | RunState::Interrupted => Role::Bad,
        RunState::Paused | RunState::Queued => Role::Warning,
        RunState::Cancelled => Role::Dim,
    }
}

/// The one figure that tells most: the primary metric, else the loss.
fn result(app: &App, run: &RunRecord) -> String {
    if let (RunKind::Grow, Some(kept), Some(made)) =
        (run.kind, run.metrics.get("kept"), run.metrics.get("made"))
    {
        return format!("{kept} of {made} kept");
    }
    let primary = app.board.board.as_ref().map_or("accuracy", |b| b.primary.as_str());
    if let Some(value) = run.metrics.get(primary) {
        return format!("{primary} {}", number::share(*value, 3));
    }
    for name in ["eval_loss", "loss"] {
        if let Some(value) = run.metrics.get(name) {
            return format!("{name} {}", number::short(*value));
        }
    }
    run.metrics.iter().next().map_or(String::new(), |(k, v)| format!("{k} {}", number::short(*v)))
}

fn progress(run: &RunRecord, now_ms: u64) -> String {
    match &run.progress {
        Some(p) if !run.state.is_final() && p.total > 0 => {
            let left = p.eta_ms.map_or(String::new(), |ms| format!(" {}", number::duration(ms)));
            format!("{:.0}%{left}", p.done as f64 / p.total as f64 * 100.0)
        }
        _ if run.state.is_final() => run.took_ms(now_ms).map_or(String::new(), number::duration),
        _ => String::new(),
    }
}

fn list(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.runs_screen;
    let listed = app.listed_runs();
    let mut title = format!("{title} ({})", listed.len());
    if !state.filter.is_empty() {
        title = format!("{title} of {}: {}", app.runs().len(), state.filter);
    }
    let inner = p.pane(area, &title, state.pane == Pane::List);
    if listed.is_empty() {
        let key = |a| app.keymap.key_for(&[Context::Runs, Context::Global], a);
        let text = match (&app.runs, app.connected()) {
            (None, true) => "reading the runs ...".to_owned(),
            (None, false) => "connecting ...".to_owned(),
            (Some(runs), _) if !runs.is_empty() => "no run passes the filter; esc clears it".to_owned(),
            _ => format!(
                "no run yet: {} evaluates, {} trains",
                key(Action::LaunchEval),
                key(Action::LaunchTrain)
            ),
        };
        return empty(p, inner, &text);
    }
    let name_width = listed.iter().map(|r| text::width(&r.run)).max().unwrap_or(6).clamp(6, 24) as u16;
    let heads = [
        ("run", name_width),
        ("kind", 6),
        ("state", 13),
        ("age", 4),
        ("progress", 9),
        ("result", 16),
        ("last words", 40),
    ];
    let mut xs = Vec::new();
    let mut x = 4;
    for (head, width) in heads {
        if x + width.min(10) > inner.width {
            break;
        }
        p.put(inner, x, 0, width, head, Role::Dim);
        xs.push((x, if head == "last words" { inner.width - x } else { width }));
        x += width + 1;
    }
    let list = Rect { y: inner.y + 1, height: inner.height.saturating_sub(1), ..inner };
    let selected = app.selected_run();
    let at = listed.iter().position(|r| Some(&r.run) == selected.as_ref()).unwrap_or(0);
    let top = scroll(0, at, usize::from(list.height));
    for (y, (i, run)) in listed.iter().enumerate().skip(top).take(usize::from(list.height)).enumerate() {
        let (y, here) = (y as u16, i == at);
        let plain = if here { Role::Selected } else { Role::Text };
        if here {
            p.highlight(list, y, plain);
            let pointer = p.look.signs.pointer;
            p.put(list, 0, y, 1, pointer, plain);
        }
        if state.picked.contains(&run.run) {
            p.put(list, 2, y, 1, "*", if here { plain } else { Role::Key });
        }
        let state_text = format!("{} {}", state_sign(&p.look.signs, run.state), run.state);
        let cells = [
            (run.run.clone(), plain),
            (run.kind.to_string(), plain),
            (state_text, if here { plain } else { state_role(run.state) }),
            (number::age(run.created_ms, app.now_ms), plain),
            (progress(run, app.now_ms), plain),
            (result(app, run), plain),
            (run.message.clone().unwrap_or_default(), plain),
        ];
        for ((x, width), (text, role)) in xs.iter().zip(cells) {
            p.put(list, *x, y, *width, &text, role);
        }
    }
}

fn detail(app: &App, p: &mut Painter<'_>, area: Rect, tabs: &str) {
    let state = &app.runs_screen;
    let selected = app.selected_run();
    let Some(run) = selected.as_ref().and_then(|id| app.run(id)) else {
        p.pane(area, tabs, state.pane == Pane::Detail);
        return;
    };
    let title = if tabs.is_empty() { run.run.clone() } else { format!("{tabs} {}", run.run) };
    let inner = p.pane(area, &title, state.pane == Pane::Detail);
    let mut y = 0;
    let head = format!("{} {} {}", run.kind, state_sign(&p.look.signs, run.state), run.state);
    y += u16::from(p.put(inner, 0, y, inner.width, &head, state_role(run.state)) > 0);
    if let Some(progress) = run.progress.as_ref().filter(|g| g.total > 0 && !run.state.is_final()) {
        let text = format!("{} {} of {}", progress.phase, progress.done, progress.total);
        let used = p.put(inner, 0, y, inner.width / 2, &text, Role::Text);
        let width = inner.width.saturating_sub(used + 2).min(30);
        p.bar(inner, used + 1, y, width, progress.done as f64 / progress.total as f64, Role::Good);
        y += 1;
    }
    if let Some(message) = &run.message {
        let role = if matches!(run.state, RunState::Failed | RunState::Interrupted) {
            Role::Bad
        } else {
            Role::Text
        };
        y = p.paragraph(Rect { height: inner.height.min(y + 4), ..inner }, y, message, role);
    }
    if run.resumable {
        let text = format!(
            "{} resumes it from its last checkpoint",
            app.keymap.key_for(&[Context::Runs], Action::Resume)
        );
        p.put(inner, 0, y, inner.width, &text, Role::Dim);
        y += 1;
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    pairs.extend(run.candidate.iter().map(|c| ("candidate".to_owned(), c.clone())));
    pairs.extend(run.settings.iter().map(|(k, v)| (short_key(k).to_owned(), v.clone())));
    pairs.extend(run.metrics.iter().map(|(k, v)| (k.clone(), number::short(*v))));
    let columns: u16 = if inner.width >= 60 { 2 } else { 1 };
    let width = inner.width / columns;
    let log_height = (inner.height / 3).min(12);
    let room = usize::from(inner.height.saturating_sub(y + log_height)) * usize::from(columns);
    for (i, (name, value)) in pairs.iter().take(room).enumerate() {
        let (x, row) = ((i as u16 % columns) * width, y + i as u16 / columns);
        let used = p.put(inner, x, row, width, name, Role::Dim);
        p.put(inner, x + used + 1, row, width.saturating_sub(used + 2), value, Role::Text);
    }
    y += (pairs.len().min(room) as u16).div_ceil(columns);
    if let Some(series) = app.series.get(&run.run)
        && inner.height > y + 1
    {
        let area = Rect { y: inner.y + y + 1, height: inner.height - y - 1, ..inner };
        p.put(inner, 0, y, inner.width, "log", Role::Title);
        log_lines(p, area, series, state.scroll);
    }
}
