//! The screens: state and actions in `mod.rs`, drawing in `view.rs` of each. Drawing is a pure function of the state.
//!
//! ```text
//! header: workspace | tabs | runs under way | device
//! body:   the screen
//! notice: what happened, or what is waited for (only when there is something)
//! footer: keys of the focused pane
//! ```

pub mod board;
pub mod play;
pub mod prompts;
pub mod runs;
pub mod strata;
pub mod trace;
pub mod train;
pub mod trajectories;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::app::{App, Link, Mood, Screen};
use super::layers;
use super::theme::Role;
use super::widgets::{Painter, number, text};

/// The least size on which the screens can be read.
pub const LEAST: (u16, u16) = (60, 15);

/// From this width on, panes stand side by side.
pub const WIDE: u16 = 100;

/// The body's size for a terminal's.
pub const fn body_of(size: (u16, u16)) -> Rect {
    Rect::new(0, 1, size.0, size.1.saturating_sub(2))
}

/// A setting's name without the table it stands in.
pub fn short_key(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, short)| short)
}

pub fn draw(app: &App, buf: &mut Buffer) {
    let area = buf.area;
    let mut p = Painter { buf, look: &app.look };
    p.clear(area);
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "tunebench needs {}x{} cells, and this terminal has {}x{}. Make it larger, or leave with q and use the commands (tunebench --help).",
            LEAST.0, LEAST.1, area.width, area.height
        );
        p.paragraph(area, 0, &text, Role::Text);
        return;
    }
    header(app, &mut p, Rect { height: 1, ..area });
    let footer_area = Rect { y: area.bottom() - 1, height: 1, ..area };
    let notice = notice(app);
    let notice_lines =
        notice.as_ref().map_or(Vec::new(), |(_, text)| text::wrap(text, usize::from(area.width - 2), 3));
    let notice_height = notice_lines.len() as u16;
    let body = Rect { y: area.y + 1, height: area.height - 2 - notice_height, ..area };
    match app.screen {
        Screen::Strata => strata::view::draw(app, &mut p, body),
        Screen::Prompts => prompts::view::draw(app, &mut p, body),
        Screen::Trajectories => trajectories::view::draw(app, &mut p, body),
        Screen::Train => train::view::draw(app, &mut p, body),
        Screen::Board => board::view::draw(app, &mut p, body),
        Screen::Play => play::view::draw(app, &mut p, body),
        Screen::Runs => runs::view::draw(app, &mut p, body),
    }
    layers::view::draw(app, &mut p, body);
    if let Some((mood, _)) = notice {
        let area = Rect { y: body.bottom(), height: notice_height, ..area };
        let (sign, role) = match mood {
            Mood::Good => (p.look.signs.right, Role::Good),
            Mood::Plain => (p.look.signs.dot, Role::Text),
            Mood::Bad => (p.look.signs.warning, Role::Notice),
        };
        p.clear(area);
        p.put(area, 0, 0, 1, sign, role);
        for (y, line) in notice_lines.iter().enumerate() {
            p.put(area, 2, y as u16, area.width, line, role);
        }
    }
    footer(app, &mut p, footer_area);
}

/// What the line above the footer says: a failure first, then what is waited for, then news.
fn notice(app: &App) -> Option<(Mood, String)> {
    if let Link::Lost { reason, since_ms } = &app.link {
        let ago = number::duration(app.now_ms.saturating_sub(*since_ms));
        let text = format!("no connection to the engine for {ago}, trying again: {reason}");
        return Some((Mood::Bad, text));
    }
    let waiting =
        app.pending.values().map(|p| (app.now_ms.saturating_sub(p.since_ms), p)).max_by_key(|(ms, _)| *ms);
    match (app.shown_notice().and_then(|at| app.notices.get(at)), waiting) {
        (Some(n), _) if n.mood == Mood::Bad => {
            let more = app.notices.iter().filter(|n| n.mood == Mood::Bad).count() - 1;
            let more = if more > 0 { format!(" ({more} more)") } else { String::new() };
            let failed = if n.failed > 1 { format!(" ({} failed)", n.failed) } else { String::new() };
            Some((n.mood, format!("{}{failed}  [esc closes{more}]", n.text)))
        }
        (_, Some((ms, pending))) if ms >= 1000 => {
            let far = app.looked.filter(|_| pending.purpose.reads_all());
            let far = far.map(|percent| {
                // As fast as so far.
                let left = (ms * (100 - percent.min(100)) as u64).checked_div(percent as u64);
                let left = left.map(|ms| format!(", {} left", number::duration(ms))).unwrap_or_default();
                format!(": {percent}%{left}")
            });
            let (far, what) = (far.unwrap_or_default(), pending.purpose.words());
            let ago = number::duration(ms);
            Some((Mood::Plain, format!("waiting for the engine to {what}{far} ({ago})")))
        }
        (Some(n), _) => Some((n.mood, n.text.clone())),
        _ => None,
    }
}

fn header(app: &App, p: &mut Painter<'_>, area: Rect) {
    let (name, device) = match &app.link {
        Link::Up { status } => (status.workspace.as_str(), status.device.as_str()),
        Link::Connecting { .. } => ("tunebench", "connecting"),
        Link::Lost { .. } => ("tunebench", "not connected"),
    };
    let narrow = area.width < WIDE;
    let mut x = 1 + p.put(area, 1, 0, if narrow { 12 } else { 30 }, name, Role::Header) + 2;
    for (digit, title, screen) in Screen::ALL {
        let active = app.screen == screen;
        // So that a run under way has room beside the tabs.
        let text = match (narrow, screen) {
            (true, Screen::Trajectories) => format!("{digit} Traj"),
            (true, Screen::Play) => format!("{digit} Play"),
            (true, _) => format!("{digit} {title}"),
            (false, _) => format!(" {digit} {title} "),
        };
        x += p.put(area, x, 0, 20, &text, if active { Role::TabActive } else { Role::Tab });
        x += u16::from(narrow);
    }
    x += 1;
    // Runs under way come first; the device has what is left.
    let end = area.width;
    for run in app.under_way() {
        let percent = match &run.progress {
            Some(progress) if progress.total > 0 => {
                format!(" {:.0}%", progress.done as f64 / progress.total as f64 * 100.0)
            }
            _ => String::new(),
        };
        let sign = runs::state_sign(&p.look.signs, run.state);
        let full = format!("{sign} {}{percent}", text::one_line(&run.run, " "));
        let room = usize::from(end.saturating_sub(x + 1));
        let Some(text) = [full, format!("{sign}{percent}")].into_iter().find(|t| text::width(t) <= room)
        else {
            break;
        };
        let width = text::width(&text) as u16;
        x += p.put(area, x, 0, width, &text, Role::Good) + 2;
    }
    let device_width = (text::width(&text::clean(device)) as u16).min(40);
    if x + device_width < end {
        p.put_right(area, end - 1, 0, device_width, device, Role::Dim);
    }
}

fn footer(app: &App, p: &mut Painter<'_>, area: Rect) {
    let mut keys = app.keymap.footer(&app.contexts(), &|b| app.offers(b));
    // Help, closing and leaving stand at the end and are never cut off; where there is room, the palette too.
    let room = area.width >= WIDE;
    let last = |label: &str| matches!(label, "help" | "leave" | "close") || (room && label == "palette");
    let fixed: Vec<(String, &str)> = keys.iter().filter(|(_, label)| last(label)).cloned().collect();
    keys.retain(|k| !fixed.contains(k));
    let width = |k: &(String, &str)| (text::width(&k.0) + text::width(k.1) + 3) as u16;
    let end = area.width.saturating_sub(fixed.iter().map(width).sum::<u16>());
    let mut x = 1;
    for key in keys {
        if x + width(&key) > end {
            break;
        }
        x += p.put(area, x, 0, 12, &key.0, Role::Key);
        x += p.put(area, x, 0, 20, &format!(" {}", key.1), Role::Text) + 2;
    }
    x = end;
    for (key, label) in fixed {
        x += p.put(area, x, 0, 12, &key, Role::Key);
        x += p.put(area, x, 0, 20, &format!(" {label}"), Role::Text) + 2;
    }
}

/// The names of panes that share one place, the shown one marked; for screens too narrow to show all.
pub fn pane_tabs(names: &[&str], active: usize) -> String {
    let tabs: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, n)| if i == active { format!("[{n}]") } else { (*n).to_owned() })
        .collect();
    tabs.join(" ")
}

/// A text in the middle of an empty pane: what is missing and what to do.
pub fn empty(p: &mut Painter<'_>, area: Rect, text: &str) {
    let y = area.height / 3;
    let inner = Rect { x: area.x + 2, width: area.width.saturating_sub(4), ..area };
    p.paragraph(inner, y, text, Role::Dim);
}
