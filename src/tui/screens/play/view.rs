//! Draws screen 6.

use ratatui::layout::Rect;

use super::Who;
use super::answer::{Answer, Standing};
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::{WIDE, body_of, empty, pane_tabs};
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, Piece, number, text};

const NAMES: [&str; 2] = ["A", "B"];
/// Rows of a pane below which the two do not stand one above the other.
const LEAST_PANE: u16 = 8;
/// Lines of an answer that can be scrolled through.
const LINES: usize = 4000;
/// Rows of the box with the input.
const INPUT: u16 = 5;

/// Where the panes stand; none: not shown.
struct Panes {
    sides: [Option<Rect>; 2],
    input: Rect,
}

/// ```text
/// wide: | A | B |    narrow: | A |   low: | A or B |
///       | input |            | B |        | input  |
///                            | input |
/// ```
fn layout(body: Rect, focus: usize, input_lines: u16) -> Panes {
    let height = (input_lines.clamp(1, INPUT) + 2).min(body.height / 3).max(3).min(body.height);
    let input = Rect { y: body.bottom() - height, height, ..body };
    let above = Rect { height: body.height - height, ..body };
    if body.width >= WIDE {
        let left = Rect { width: above.width / 2, ..above };
        let right = Rect { x: above.x + left.width, width: above.width - left.width, ..above };
        return Panes { sides: [Some(left), Some(right)], input };
    }
    if above.height >= 2 * LEAST_PANE {
        let top = Rect { height: above.height / 2, ..above };
        let bottom = Rect { y: above.y + top.height, height: above.height - top.height, ..above };
        return Panes { sides: [Some(top), Some(bottom)], input };
    }
    let mut sides = [None, None];
    sides[focus.min(1)] = Some(above);
    Panes { sides, input }
}

fn panes(app: &App, body: Rect) -> Panes {
    let width = usize::from(body.width.saturating_sub(2));
    let asked = app.play.asked.as_ref().map_or("", |asked| asked.input.as_str());
    let lines = text::wrap(asked, width, usize::from(INPUT)).len() as u16;
    layout(body, app.play.focus, lines)
}

/// Lines of a side's answer, and how many of them its pane shows.
pub(super) fn extent(app: &App, side: usize) -> (usize, usize) {
    let Some(area) = panes(app, body_of(app.size)).sides[side] else { return (0, 1) };
    let inner = Rect { width: area.width.saturating_sub(2), height: area.height.saturating_sub(2), ..area };
    let Some(answer) = &app.play.sides[side].answer else { return (0, 1) };
    let (lines, foot) = content(app, answer, inner.width);
    (lines.len(), usize::from(inner.height).saturating_sub(foot.len()).max(1))
}

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    let panes = panes(app, body);
    let alone = panes.sides.iter().flatten().count() == 1;
    for (side, area) in panes.sides.iter().enumerate() {
        if let Some(area) = area {
            draw_side(app, p, *area, side, alone);
        }
    }
    input(app, p, panes.input);
}

fn draw_side(app: &App, p: &mut Painter<'_>, area: Rect, side: usize, alone: bool) {
    let state = &app.play.sides[side];
    let who = match (&state.answer, app.player(side)) {
        (Some(answer), _) => answer.candidate.clone(),
        (None, Some(Some(name))) => name,
        (None, Some(None)) => "the pipeline as it stands".into(),
        (None, None) => "nobody".into(),
    };
    let tabs = if alone { pane_tabs(&NAMES, side) } else { NAMES[side].to_owned() };
    let dot = p.look.signs.dot;
    let said = state.answer.as_ref().map(said).filter(|said| !said.is_empty());
    let said = said.map(|said| format!(" {dot} {said}")).unwrap_or_default();
    let inner = p.pane(area, &format!("{tabs} {who}{said}"), app.play.focus == side);
    let Some(answer) = &state.answer else {
        let key = |action| app.keymap.key_for(&[Context::Play], action);
        let hint = match (app.player(side), &state.who) {
            (None, Who::Auto) => {
                format!("nobody answers here yet: {} chooses a candidate", key(Action::ChooseCandidate))
            }
            (None, _) => format!("one side only; {} chooses a candidate", key(Action::ChooseCandidate)),
            (Some(_), _) => format!(
                "{} writes an input; on the strata screen {} asks the selected row",
                key(Action::Compose),
                app.keymap.key_for(&[Context::Rows], Action::PlayRow)
            ),
        };
        return empty(p, inner, &hint);
    };
    let (lines, foot) = content(app, answer, inner.width);
    let height = usize::from(inner.height).saturating_sub(foot.len());
    let most = lines.len().saturating_sub(height);
    // What is being written moves on by half a pane at a time: fewer cells change than with every line.
    let page = (height / 2).max(1);
    let top = state
        .scroll
        .map_or_else(|| if answer.is_open() { most.div_ceil(page) * page } else { most }, |at| at.min(most));
    for (y, line) in lines.iter().skip(top).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    if top < most && height > 0 {
        p.put_right(inner, inner.width, height as u16 - 1, 6, " more ", Role::Key);
    }
    for (y, line) in foot.iter().enumerate() {
        p.pieces(inner, 0, (height + y) as u16, line);
    }
}

/// `+ good`, `- bad`, `corrected`.
fn said(answer: &Answer) -> String {
    let thumb = answer.good.map(|good| if good { "+ good" } else { "- bad" });
    let edit = answer.edit.is_some().then_some("gold given");
    thumb.into_iter().chain(edit).collect::<Vec<_>>().join(", ")
}

/// The lines of an answer, and those that stay under it: how it stands, and its figures.
fn content(app: &App, answer: &Answer, width: u16) -> (Vec<Vec<Piece>>, Vec<Vec<Piece>>) {
    let width_cells = usize::from(width);
    let signs = &app.look.signs;
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    let mut say = |text_: &str, role: Role| {
        lines.extend(text::wrap(text_, width_cells, LINES).into_iter().map(|line| vec![(line, role)]));
    };
    let many = answer.plan.len().max(answer.stages.len()) > 1;
    for stage in &answer.stages {
        let skipped = stage.outcome.as_ref().is_some_and(|o| o.skipped);
        if many {
            let note = if skipped { " (not run: its condition does not hold)" } else { "" };
            say(&format!("{}{note}", stage.name), Role::Title);
        }
        if !skipped {
            let unread = stage.outcome.as_ref().is_some_and(|o| !o.format_ok);
            say(&stage.text, if unread { Role::Warning } else { Role::Text });
            if unread {
                say(&format!("{} cannot be read as what the stage is to say", signs.warning), Role::Warning);
            }
        }
    }
    if let Some(edit) = &answer.edit {
        say(&format!("{} {edit}", signs.arrow), Role::Good);
    }
    let mut foot: Vec<Vec<Piece>> = Vec::new();
    let seconds = number::duration(app.now_ms.saturating_sub(answer.asked_ms));
    match &answer.standing {
        Standing::Waiting => foot.push(vec![(format!("asked {seconds} ago"), Role::Dim)]),
        Standing::WaitingFor(why) => {
            let text_ = format!("{} {seconds}: {why}", signs.queued);
            foot.extend(text::wrap(&text_, width_cells, 3).into_iter().map(|l| vec![(l, Role::Warning)]));
        }
        Standing::Streaming => {
            let stage = match answer.current() {
                Some((name, at, of)) if of > 1 => format!(" {name} ({at} of {of})"),
                _ => String::new(),
            };
            foot.push(vec![(format!("{} writing{stage}", signs.running), Role::Good)]);
        }
        Standing::Done(_) => {}
        Standing::Failed(error) => {
            let text_ = format!("{} {error}", signs.warning);
            foot.extend(text::wrap(&text_, width_cells, 4).into_iter().map(|l| vec![(l, Role::Bad)]));
        }
    }
    if let (Some(output), Some(gold)) = (answer.output(), &answer.gold) {
        let right = output.trim() == gold.trim();
        let (sign, role) = match (right, answer.labels.is_empty()) {
            (true, _) => (signs.right, Role::Good),
            (false, false) => (signs.wrong, Role::Bad),
            // Right can be worded in many ways.
            (false, true) => (signs.open, Role::Text),
        };
        foot.push(vec![(format!("{sign} gold {}", text::one_line(gold, signs.newline)), role)]);
    }
    let figures = answer.figures();
    let mut shown: Vec<String> = Vec::new();
    shown.extend(figures.ttft_ms.map(|ms| format!("first {}", number::millis(ms))));
    shown.extend(figures.per_token_ms.map(|ms| format!("{} a token", number::millis(ms))));
    if figures.tokens_in + figures.tokens_out > 0 {
        shown.push(format!("tokens {}/{}", figures.tokens_in, figures.tokens_out));
    }
    if let [only] = answer.stages.as_slice()
        && let Some(probability) = only.outcome.as_ref().and_then(|o| o.probability)
    {
        shown.push(format!("p {}", number::share(probability, 2)));
    }
    if !shown.is_empty() {
        foot.push(vec![(shown.join(&format!(" {} ", signs.dot)), Role::Dim)]);
    }
    (lines, foot)
}

/// The input that was asked last.
fn input(app: &App, p: &mut Painter<'_>, area: Rect) {
    let state = &app.play;
    let mut title = match &state.asked {
        Some(asked) => asked.row.as_ref().map_or("input".to_owned(), |row| format!("input: row {row}")),
        None => "input".to_owned(),
    };
    let set = [
        state.temperature.map(|t| format!("temperature {t}")),
        state.max_tokens.map(|n| format!("at most {n} tokens")),
    ];
    for set in set.into_iter().flatten() {
        title.push_str(&format!(" {} {set}", p.look.signs.dot));
    }
    let inner = p.pane(area, &title, false);
    match &state.asked {
        Some(asked) => {
            let lines = text::wrap(&asked.input, usize::from(inner.width), usize::from(inner.height) + 1);
            for (y, line) in lines.iter().take(usize::from(inner.height)).enumerate() {
                p.put(inner, 0, y as u16, inner.width, line, Role::Text);
            }
            if lines.len() > usize::from(inner.height) {
                p.put_right(inner, inner.width, inner.height.saturating_sub(1), 6, " more ", Role::Dim);
            }
        }
        None => {
            let key = app.keymap.key_for(&[Context::Play], Action::Compose);
            p.put(inner, 0, 0, inner.width, &format!("{key} writes one"), Role::Dim);
        }
    }
}

/// Where a box to write into stands: over the input, growing upwards with what is written.
pub fn compose_area(body: Rect, lines: u16) -> Rect {
    let height = (lines.clamp(1, 12) + 3).min(body.height);
    Rect { y: body.bottom() - height, height, ..body }
}
