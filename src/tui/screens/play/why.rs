//! Why it answered so, over the whole screen: each stage's rendered prompt, and every token with its probability.

use ratatui::layout::Rect;

use super::answer::Answer;
use crate::domain::play::PlayToken;
use crate::tui::app::App;
use crate::tui::layers::view::boxed;
use crate::tui::screens::body_of;
use crate::tui::signs::Signs;
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, Piece, number, text};

/// Below this probability a token is marked, and below the second one marked twice.
const UNLIKELY: f64 = 0.5;
const RARE: f64 = 0.1;
/// Rows of the list of alternatives, its heading with it.
const FOOT: u16 = 8;
/// Lines of a prompt, and of tokens, at most.
const LINES: usize = 2000;

/// Everything in lines; and the line of the token under the cursor.
fn lines(answer: &Answer, signs: &Signs, width: usize, cursor: Option<usize>) -> (Vec<Vec<Piece>>, usize) {
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    let (mut here, mut number) = (0, 0);
    for stage in &answer.stages {
        lines.push(vec![(format!("stage {}: the prompt as the model got it", stage.name), Role::Title)]);
        lines.extend(text::wrap(&stage.prompt, width, LINES).into_iter().map(|l| vec![(l, Role::Text)]));
        lines.push(Vec::new());
        if stage.tokens.is_empty() {
            lines.push(vec![(format!("stage {}: its answer", stage.name), Role::Title)]);
            lines.extend(text::wrap(&stage.text, width, LINES).into_iter().map(|l| vec![(l, Role::Text)]));
            let note = match &stage.outcome {
                Some(outcome) if outcome.skipped => "not run: its condition does not hold",
                Some(_) => "the model tells no probabilities of its tokens",
                None => "its tokens are told at its end",
            };
            lines.push(vec![(note.to_owned(), Role::Dim)]);
        } else {
            let heading = format!("stage {}: its tokens; [unlikely .31] [[rare .04]]", stage.name);
            lines.push(vec![(heading, Role::Title)]);
            let from = lines.len();
            lines.push(Vec::new());
            let mut used = 0;
            for token in &stage.tokens {
                let (shown, role) = shown(token, signs);
                let shown = text::cut(&shown, width, signs.ellipsis).into_owned();
                let cells = text::width(&shown);
                if (used + cells > width && used > 0) || lines.len() - from > LINES {
                    lines.push(Vec::new());
                    used = 0;
                }
                let selected = cursor == Some(number);
                if selected {
                    here = lines.len() - 1;
                }
                if let Some(line) = lines.last_mut() {
                    line.push((shown, if selected { Role::Selected } else { role }));
                }
                used += cells;
                if token.text.ends_with('\n') {
                    lines.push(Vec::new());
                    used = 0;
                }
                number += 1;
            }
        }
        lines.push(Vec::new());
    }
    (lines, here)
}

/// A token in its line: unlikely ones in brackets with their probability.
fn shown(token: &PlayToken, signs: &Signs) -> (String, Role) {
    let p = token.logprob.exp();
    let text_ = visible(&token.text, signs);
    if p < RARE {
        (format!("[[{text_} {}]]", number::share(p, 2)), Role::Bad)
    } else if p < UNLIKELY {
        (format!("[{text_} {}]", number::share(p, 2)), Role::Warning)
    } else {
        (text_, Role::Text)
    }
}

/// On one line, with line breaks as a sign; a token that cannot be seen is one, too.
fn visible(token: &str, signs: &Signs) -> String {
    let mark = if signs.ascii { "\\n" } else { signs.newline };
    let shown = text::clean(token).replace('\n', mark);
    if shown.is_empty() { signs.open.to_owned() } else { shown }
}

fn inside(body: Rect) -> (usize, usize) {
    let width = body.width.min(120).saturating_sub(2);
    (usize::from(width), usize::from(body.height.saturating_sub(2 + FOOT)).max(1))
}

/// The scrolling after the cursor has moved, or a page was asked for.
pub fn scrolled(
    app: &App,
    answer: &Answer,
    cursor: Option<usize>,
    wanted: Option<usize>,
    at: usize,
) -> usize {
    let (width, height) = inside(body_of(app.size));
    let (lines, here) = lines(answer, &app.look.signs, width, cursor);
    let most = lines.len().saturating_sub(height);
    wanted.unwrap_or_else(|| scroll(at, here, height)).min(most)
}

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect, side: usize, cursor: Option<usize>, from: usize) {
    let answer = app.play.sides.get(side).and_then(|side| side.answer.as_ref());
    let name = answer.map_or("", |answer| answer.candidate.as_str());
    let dot = p.look.signs.dot;
    let title = format!("why {name} answered so {dot} left/right: tokens, up/down: lines");
    let inner = boxed(p, body, 120, body.height, &title);
    let Some(answer) = answer else { return };
    let (lines, _) = lines(answer, &p.look.signs, usize::from(inner.width), cursor);
    let height = usize::from(inner.height.saturating_sub(FOOT)).max(1);
    let from = from.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(from).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, height as u16 - 1, 12, " more: pgdn ", Role::Dim);
    }
    let foot =
        Rect { y: inner.y + height as u16, height: inner.height.saturating_sub(height as u16), ..inner };
    alternatives(answer, p, foot, cursor);
}

/// The token under the cursor and what might have stood in its place.
fn alternatives(answer: &Answer, p: &mut Painter<'_>, area: Rect, cursor: Option<usize>) {
    let Some((at, (_, token))) = cursor.and_then(|at| Some((at, answer.tokens().nth(at)?))) else {
        p.put(area, 0, 1, area.width, "no probabilities to show", Role::Dim);
        return;
    };
    let count = answer.tokens().count();
    let say = |token: &str| format!("\"{token}\"");
    let heading = format!(
        "token {} of {count}: {} with probability {}",
        at + 1,
        say(&visible(&token.text, &p.look.signs)),
        number::share(token.logprob.exp(), 3)
    );
    p.put(area, 0, 0, area.width, &heading, Role::Title);
    p.put(area, 0, 1, area.width, "likeliest in its place:", Role::Dim);
    for (y, (text_, logprob)) in token.top.iter().take(usize::from(area.height.saturating_sub(2))).enumerate()
    {
        let y = y as u16 + 2;
        let share = logprob.exp();
        let taken = if *text_ == token.text { p.look.signs.pointer } else { " " };
        p.put(area, 1, y, 1, taken, Role::Key);
        p.put(area, 3, y, 5, &number::share(share, 3), Role::Text);
        p.bar(area, 9, y, 10, share, Role::Good);
        let shown = say(&visible(text_, &p.look.signs));
        p.put(area, 20, y, area.width.saturating_sub(20), &shown, Role::Text);
    }
}
