//! Draws the timeline: strata x candidates as a map of shares, and of a training run the loss with its flips on one axis.

use ratatui::layout::Rect;

use crate::domain::timeline::{Cell, Curve, Moment, Timeline};
use crate::domain::words::counted;
use crate::tui::layers::view::boxed;
use crate::tui::theme::Role;
use crate::tui::widgets::chart::{Chart, GUTTER, Line, Mark, Scale};
use crate::tui::widgets::{Painter, Piece, number, text};

/// Cells of a column: a bar of one, the share or count, a space; more where names have room.
const COLUMN: u16 = 8;
const COLUMN_MAX: u16 = 20;
/// Lines that the loss and its flips want.
const CURVE: u16 = 11;

/// `from`: the first column shown; `scroll`: the first stratum.
pub fn draw(p: &mut Painter<'_>, body: Rect, timeline: Option<&Timeline>, from: usize, scroll: usize) {
    let run = timeline.and_then(|t| t.run.as_ref());
    let title = match run {
        Some(curve) => format!("timeline of {}: strata over its checkpoints", curve.run),
        None => "timeline: strata over candidates, oldest first".to_owned(),
    };
    let inner = boxed(p, body, 240, body.height, &title);
    let Some(timeline) = timeline else {
        p.paragraph(inner, 1, "reading the timeline ...", Role::Dim);
        return;
    };
    if timeline.columns.is_empty() {
        p.paragraph(inner, 1, "nothing is scored yet", Role::Dim);
        return;
    }
    // The map gets the lines that it needs, as long as the curve has enough.
    let map = (timeline.strata.len().min(1000) as u16).saturating_add(3);
    let curve_height = match run {
        Some(_) => {
            let least = CURVE.max(inner.height / 2).min(inner.height.saturating_sub(4));
            inner.height.saturating_sub(map).max(least)
        }
        None => 0,
    };
    let map = Rect { height: inner.height - curve_height, ..inner };
    heat(p, map, timeline, from, scroll);
    if let Some(curve) = run {
        let area = Rect { y: inner.y + map.height, height: curve_height, ..inner };
        self::curve(p, area, curve);
    }
}

/// A share as a bar and a number; below 30 rows counts, since a share of eleven rows misleads.
fn cell(p: &Painter<'_>, cell: Cell) -> (String, Role) {
    let Some(share) = cell.share() else { return ("-".into(), Role::Dim) };
    let role = match share {
        s if s >= 0.9 => Role::Good,
        s if s < 0.5 => Role::Bad,
        _ => Role::Text,
    };
    let bar = p.look.signs.level(share);
    let text = match cell.n {
        0..30 => format!("{bar}{}/{}", cell.right, cell.n),
        _ => format!("{bar}{}", number::share(share, 2)),
    };
    (text, role)
}

fn heat(p: &mut Painter<'_>, area: Rect, timeline: &Timeline, from: usize, scroll: usize) {
    // What tells strata apart often stands at the end of their names: they get what the columns leave.
    let longest = timeline.strata.iter().map(|s| text::width(s)).max().unwrap_or(0).clamp(9, 60) as u16;
    let columns = (timeline.columns.len().min(1000) as u16).saturating_mul(COLUMN);
    let names = longest.min((area.width / 3).max(area.width.saturating_sub(columns + 1)));
    let head = |m: &Moment| m.step.map_or_else(|| m.name.clone(), |step| format!("@{step}"));
    let widest = timeline.columns.iter().map(|m| text::width(&head(m)) + 2).max().unwrap_or(0) as u16;
    let room = area.width.saturating_sub(names + 1);
    let each = room / (timeline.columns.len().clamp(1, 1000) as u16);
    let column = widest.min(each.max(COLUMN)).clamp(COLUMN, COLUMN_MAX);
    let fit = usize::from(room / column).max(1);
    let from = from.min(timeline.columns.len().saturating_sub(fit));
    let shown = &timeline.columns[from..(from + fit).min(timeline.columns.len())];
    for (i, moment) in shown.iter().enumerate() {
        let x = names + 1 + i as u16 * column;
        p.put(
            area,
            x,
            0,
            column - 1,
            &head(moment),
            if moment.step.is_some() { Role::Dim } else { Role::Title },
        );
        let (share, role) = cell(p, moment.all);
        p.put(area, x, 1, column - 1, &share, role);
    }
    p.put(area, 0, 1, names, "all rows", Role::Title);
    let rows = usize::from(area.height.saturating_sub(3));
    let scroll = scroll.min(timeline.strata.len().saturating_sub(rows));
    for (y, (at, stratum)) in timeline.strata.iter().enumerate().skip(scroll).take(rows).enumerate() {
        let y = y as u16 + 2;
        p.put(area, 0, y, names, stratum, Role::Text);
        for (i, moment) in shown.iter().enumerate() {
            let (share, role) = cell(p, moment.cells.get(at).copied().unwrap_or_default());
            p.put(area, names + 1 + i as u16 * column, y, column - 1, &share, role);
        }
    }
    let last = area.height.saturating_sub(1);
    let mut words = Vec::new();
    if timeline.columns.len() > fit {
        words.push(format!(
            "columns {} to {} of {} (left/right)",
            from + 1,
            from + shown.len(),
            timeline.columns.len()
        ));
    }
    if timeline.left_out > 0 {
        words.push(format!("{} older left out", timeline.left_out));
    }
    if timeline.strata.len() > rows {
        words.push(format!(
            "strata {} to {} of {} (up/down)",
            scroll + 1,
            scroll + rows.min(timeline.strata.len()),
            timeline.strata.len()
        ));
    }
    if timeline.strata.is_empty() {
        words.push("no strata are built".into());
    }
    if timeline.columns.iter().any(|m| m.step.is_some()) {
        words.push("@STEP: on the run's fixed rows".into());
    }
    p.put(area, 0, last, area.width, &words.join("; "), Role::Dim);
}

/// Loss above; beneath, at the same steps, how many fixed rows became right and wrong.
fn curve(p: &mut Painter<'_>, area: Rect, curve: &Curve) {
    let losses = |points: &[(u64, f64)]| points.iter().map(|(s, l)| (*s as f64, *l)).collect::<Vec<_>>();
    let steps =
        curve.losses.iter().chain(&curve.evals).map(|(s, _)| *s).chain(curve.flips.iter().map(|f| f.step));
    let Some((lo, hi)) = steps.fold(None, |range: Option<(u64, u64)>, s| {
        Some(range.map_or((s, s), |(lo, hi)| (lo.min(s), hi.max(s))))
    }) else {
        p.paragraph(area, 1, "the run has taken no step yet", Role::Dim);
        return;
    };
    let range = (lo as f64, (hi.max(lo + 1)) as f64);
    let bullet = p.look.signs.bullet;
    let chart = Chart {
        range,
        scale: Scale::over(curve.losses.iter().chain(&curve.evals).map(|(_, l)| *l), false),
        lines: vec![Line { points: losses(&curve.losses), role: Role::Curve }],
        marks: losses(&curve.evals)
            .into_iter()
            .map(|(x, y)| Mark { x, y, sign: bullet, role: Role::Eval })
            .collect(),
        dots: Vec::new(),
        cursor: None,
        powers: false,
    };
    let below = 4;
    chart.draw(p, Rect { height: area.height.saturating_sub(below), ..area });
    let plot = area.width.saturating_sub(GUTTER);
    let x_of = |step: u64| {
        GUTTER
            + ((step as f64 - range.0) / (range.1 - range.0) * f64::from(plot.saturating_sub(1))).round()
                as u16
    };
    let y = area.height.saturating_sub(below);
    let (fixed, regressed) = (p.look.signs.fixed, p.look.signs.regressed);
    for (row, (sign, role, name)) in
        [(fixed, Role::Good, "fixed"), (regressed, Role::Bad, "broke")].into_iter().enumerate()
    {
        let y = y + row as u16;
        p.put(area, 0, y, GUTTER - 1, name, Role::Axis);
        let mut free = GUTTER;
        for flips in &curve.flips {
            let n = if row == 0 { flips.fixed.len() } else { flips.regressed.len() };
            let label = format!("{sign}{n}");
            let x = x_of(flips.step).min(area.width.saturating_sub(text::width(&label) as u16));
            // Where steps stand too close, the later ones are told by the sum below.
            if n > 0 && x >= free {
                free = x + p.put(area, x, y, 6, &label, role) + 1;
            }
        }
    }
    let (all_fixed, all_broke) =
        curve.flips.iter().fold((0, 0), |(f, r), s| (f + s.fixed.len(), r + s.regressed.len()));
    let last = curve.flips.last().map_or_else(String::new, |f| {
        format!("{} of {} fixed rows right at step {}; ", f.all.right, f.all.n, f.step)
    });
    let line: Vec<Piece> = vec![
        (last, Role::Text),
        (
            format!(
                "over {} {fixed}{all_fixed} {regressed}{all_broke}; {bullet} dev loss",
                counted(curve.flips.len(), "evaluation")
            ),
            Role::Dim,
        ),
    ];
    p.pieces(area, 0, area.height.saturating_sub(2), &line);
    let saved: Vec<String> = curve
        .checkpoints
        .iter()
        .map(|(step, best)| if *best { format!("{step}{}", p.look.signs.star) } else { step.to_string() })
        .collect();
    if !saved.is_empty() {
        let text = format!("checkpoints: {}", saved.join(" "));
        p.put(area, 0, area.height.saturating_sub(1), area.width, &text, Role::Dim);
    }
}
