//! Draws a comparison: the verdict, then flips or strata.

use ratatui::layout::Rect;

use super::Pane;
use crate::domain::board::{Comparison, StratumDelta};
use crate::domain::outcome::{Flip, FlipKind};
use crate::domain::words::{counted, noun};
use crate::tui::app::App;
use crate::tui::screens::empty;
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, number, text};

/// Sign and role of a flip.
pub fn sign(p: &Painter<'_>, kind: FlipKind) -> (&'static str, Role, &'static str) {
    match kind {
        FlipKind::Fixed => (p.look.signs.fixed, Role::Good, "fixed"),
        FlipKind::Regressed => (p.look.signs.regressed, Role::Bad, "regressed"),
        FlipKind::Churned => (p.look.signs.churned, Role::Warning, "churned"),
    }
}

pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.board;
    let focused = state.pane == Pane::Comparison;
    let (a, b) = (state.a.as_deref(), state.b.as_deref());
    let title = match (a, b) {
        (Some(a), Some(b)) => format!("{title} {} {a} {} {b}", p.look.signs.dot, p.look.signs.arrow),
        _ => title.to_owned(),
    };
    let inner = p.pane(area, &title, focused);
    let Some(c) = &state.comparison else {
        let text = match (a, b) {
            (Some(_), Some(_)) if state.asked.is_some() => "comparing ...".to_owned(),
            (Some(_), Some(_)) => "no comparison; c chooses two candidates".to_owned(),
            (Some(a), None) => format!("A is {a}; c on another candidate makes it B"),
            _ => "enter compares the selected candidate with the baseline; c chooses two: first A, then B"
                .to_owned(),
        };
        return empty(p, inner, &text);
    };
    let y = verdict(p, inner, c);
    let list = Rect { y: inner.y + y + 1, height: inner.height.saturating_sub(y + 1), ..inner };
    if state.by_stratum {
        p.put(inner, 0, y, inner.width, "by stratum: the largest loss first", Role::Dim);
        strata(p, list, &c.strata, state.flip);
        return;
    }
    let flips = state.flips();
    let all = c.fixed + c.regressed + c.churned;
    let heading = match state.kind {
        Some(kind) => format!("{} only ({})", sign(p, kind).2, flips.len()),
        None if all > c.flips.len() => {
            format!("the first {} of {all} flips, regressions first", c.flips.len())
        }
        None => "flips, regressions first".to_owned(),
    };
    p.put(inner, 0, y, inner.width, &heading, Role::Dim);
    if flips.is_empty() {
        p.put(list, 2, 0, list.width, "none", Role::Dim);
    }
    rows(p, list, &flips, state.flip, focused);
}

/// Counts, p, difference with its interval, what is still needed; returns the rows used.
fn verdict(p: &mut Painter<'_>, area: Rect, c: &Comparison) -> u16 {
    let mut x = 0;
    for (kind, n) in
        [(FlipKind::Regressed, c.regressed), (FlipKind::Fixed, c.fixed), (FlipKind::Churned, c.churned)]
    {
        let (sign, role, name) = sign(p, kind);
        x = p.pieces(area, x, 0, &[(format!("{sign} "), role), (format!("{name} {n}  "), Role::Text)]);
    }
    let test = c.test_name();
    let (better, role) = match (c.is_significant(), c.delta > 0.0) {
        (true, true) => ("B is better", Role::Good),
        (true, false) => ("B is worse", Role::Bad),
        (false, _) => ("no proven difference", Role::Text),
    };
    let (delta, pm) = (p.look.signs.delta, p.look.signs.plus_minus);
    let half = (c.ci95[1] - c.ci95[0]) / 2.0;
    let line = format!(
        "{delta} {} {pm}{}  {} ({test})",
        number::signed_share(c.delta, 3),
        number::share(half, 3),
        number::p_value(c.p_value)
    );
    p.put(area, 0, 1, area.width, &line, Role::Title);
    let values = format!(
        "{} {} {} {} on {} {}: ",
        c.metric,
        number::share(c.a, 3),
        p.look.signs.arrow,
        number::share(c.b, 3),
        number::count(c.n),
        noun(c.n, "row")
    );
    p.pieces(area, 0, 2, &[(values, Role::Text), (better.into(), role)]);
    if c.needed > 0 {
        p.put(
            area,
            0,
            3,
            area.width,
            &format!("{} fixed, none regressed, would bring p below .05", counted(c.needed, "more row")),
            Role::Dim,
        );
        return 5;
    }
    4
}

fn rows(p: &mut Painter<'_>, list: Rect, flips: &[&Flip], selected: usize, focused: bool) {
    let id_width = flips.iter().take(50).map(|f| text::width(&f.row)).max().unwrap_or(4).clamp(4, 14) as u16;
    let top = scroll(0, selected, usize::from(list.height));
    for (y, (i, flip)) in flips.iter().enumerate().skip(top).take(usize::from(list.height)).enumerate() {
        let y = y as u16;
        let here = i == selected && focused;
        let plain = if here { Role::Selected } else { Role::Text };
        if here {
            p.highlight(list, y, plain);
        }
        let (sign, role, _) = sign(p, flip.flip);
        p.put(list, 0, y, 1, sign, if here { plain } else { role });
        p.put(list, 2, y, id_width, &flip.row, plain);
        let x = 3 + id_width;
        let arrow = p.look.signs.arrow;
        let answers = format!("{} {arrow} {}", text::one_line(&flip.a, " "), text::one_line(&flip.b, " "));
        // The answers, then the gold where there is room for both.
        let gold = flip.gold.as_ref().map(|g| format!("gold {}", text::one_line(g, " ")));
        let room = list.width.saturating_sub(x);
        let gold_width = gold.as_ref().map_or(0, |g| (text::width(g) as u16).min(room / 2));
        let used = p.put(list, x, y, room.saturating_sub(gold_width + 1), &answers, plain);
        if let Some(gold) = gold {
            p.put(
                list,
                x + used.max(room.saturating_sub(gold_width)),
                y,
                gold_width,
                &gold,
                if here { plain } else { Role::Dim },
            );
        }
    }
}

/// Counts instead of shares where n < 30: a percentage of eleven rows misleads.
fn strata(p: &mut Painter<'_>, list: Rect, strata: &[StratumDelta], selected: usize) {
    let mut sorted: Vec<&StratumDelta> = strata.iter().collect();
    sorted.sort_by(|x, y| (x.b - x.a).total_cmp(&(y.b - y.a)));
    let top = scroll(0, selected, usize::from(list.height));
    let arrow = p.look.signs.arrow;
    let change = |s: &StratumDelta| {
        if s.n < 30 {
            let right = |share: f64| (share * s.n as f64).round();
            format!("{:.0} {arrow} {:.0} of {}", right(s.a), right(s.b), s.n)
        } else {
            let (a, b) = (number::share(s.a, 2), number::share(s.b, 2));
            format!("{a} {arrow} {b} {}", number::signed_share(s.b - s.a, 2))
        }
    };
    let room = sorted.iter().map(|s| text::width(&change(s))).max().unwrap_or(0) as u16;
    for (y, s) in sorted.iter().skip(top).take(usize::from(list.height)).enumerate() {
        let y = y as u16;
        let change = change(s);
        let (sign, role) = if s.b > s.a {
            (p.look.signs.fixed, Role::Good)
        } else if s.b < s.a {
            (p.look.signs.regressed, Role::Bad)
        } else {
            (p.look.signs.open, Role::Dim)
        };
        p.put(list, 0, y, 1, sign, role);
        let width = list.width.saturating_sub(room + 3);
        p.put(list, 2, y, width, &s.stratum, Role::Text);
        p.put_right(list, list.width, y, room, &change, role);
    }
    if sorted.is_empty() {
        p.put(list, 2, 0, list.width, "no strata are built", Role::Dim);
    }
}
