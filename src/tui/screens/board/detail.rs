//! One flip over the whole screen: input, gold, A, B, and what changed word by word.

use ratatui::layout::Rect;

use super::comparison::sign;
use crate::tui::app::App;
use crate::tui::layers::view::boxed;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, Piece, diff, text};

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect, from: usize) {
    let flips = app.board.flips();
    let Some(flip) = flips.get(app.board.flip) else {
        boxed(p, body, 100, body.height, "flip");
        return;
    };
    let (mark, role, name) = sign(p, flip.flip);
    let title = format!(
        "{mark} {name} {} {} ({} of {}; up/down: others)",
        p.look.signs.dot,
        flip.row,
        app.board.flip + 1,
        flips.len()
    );
    let inner = boxed(p, body, 120, body.height, &title);
    let width = usize::from(inner.width);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    let mut say = |heading: &str, text_: &str, role: Role| {
        lines.push(vec![(heading.to_owned(), Role::Title)]);
        lines.extend(text::wrap(text_, width, 300).into_iter().map(|l| vec![(l, role)]));
        lines.push(Vec::new());
    };
    let (right, wrong) = (format!(" {}", p.look.signs.right), format!(" {}", p.look.signs.wrong));
    use crate::domain::outcome::FlipKind as K;
    let (a_sign, b_sign) = match flip.flip {
        K::Fixed => (&wrong, &right),
        K::Regressed => (&right, &wrong),
        K::Churned => (&wrong, &wrong),
    };
    let (a, b) = (app.board.a.as_deref().unwrap_or("A"), app.board.b.as_deref().unwrap_or("B"));
    if let Some(stratum) = &flip.stratum {
        say("stratum", app.strata.stratum_name(stratum), Role::Text);
    }
    say("input", &flip.input, Role::Text);
    say("gold", flip.gold.as_deref().unwrap_or("none"), Role::Good);
    say(&format!("A{a_sign} {a}"), &flip.a, Role::Text);
    say(&format!("B{b_sign} {b}"), &flip.b, Role::Text);
    lines.push(vec![("A to B, word by word".into(), Role::Title)]);
    lines.extend(diff::wrapped(diff::words(&flip.a, &flip.b), width));
    if let Some(gold) = flip.gold.as_ref().filter(|g| **g != flip.b && flip.flip != K::Fixed) {
        lines.push(Vec::new());
        lines.push(vec![("gold to B".into(), Role::Title)]);
        lines.extend(diff::wrapped(diff::words(gold, &flip.b), width));
    }
    let height = usize::from(inner.height);
    let from = from.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(from).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height - 1, 12, " more: pgdn ", role);
    }
}
