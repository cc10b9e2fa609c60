//! Drawing of screen 3: the run that finds examples, and the curve over their number.

use ratatui::layout::Rect;

use super::Pane;
use crate::domain::run::{RunRecord, RunState};
use crate::domain::trajectory::{Measured, Searching};
use crate::tui::app::App;
use crate::tui::screens::train::view::log_lines;
use crate::tui::screens::{empty, runs};
use crate::tui::series::RunSeries;
use crate::tui::theme::Role;
use crate::tui::widgets::chart::{Chart, Line, Mark, Scale};
use crate::tui::widgets::{Painter, number};

/// Columns that a curve takes beside the text.
const CURVE: u16 = 44;

/// What was measured: with so many examples of these stores, and without any.
struct Curve<'a> {
    measured: &'a [Measured],
    ablation: &'a [Measured],
    without: Option<&'a Measured>,
    chosen: Option<&'a Measured>,
}

pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect, title: &dyn Fn(Pane, String) -> String) {
    let run = app.trajectory_run();
    let record = run.as_deref().and_then(|id| app.run(id));
    let focused = app.trajectories.pane == Pane::Run;
    let dot = p.look.signs.dot;
    let Some(record) = record else {
        let inner = p.pane(area, &title(Pane::Run, String::new()), focused);
        return empty(p, inner, "an imported store: no run found it");
    };
    let none = RunSeries::default();
    let series = app.series.get(&record.run).unwrap_or(&none);
    let mut rest =
        format!(" {dot} {} {} {}", record.run, runs::state_sign(&p.look.signs, record.state), record.state);
    if let Some(progress) = record.progress.as_ref().filter(|_| record.state == RunState::Running) {
        let left = progress.eta_ms.map_or(String::new(), |ms| format!(", {} left", number::duration(ms)));
        rest.push_str(&format!(" {dot} {} {} of {}{left}", progress.phase, progress.done, progress.total));
    }
    let inner = p.pane(area, &title(Pane::Run, rest), focused);
    let report = app
        .trajectories
        .view
        .as_ref()
        .filter(|v| v.run == record.run && record.state.is_final())
        .and_then(|v| v.report.as_ref());
    let curve = match report {
        Some(report) => {
            let (without, chosen) = (Some(&report.without), report.chosen.as_ref());
            Curve { measured: &report.curve, ablation: &report.ablation, without, chosen }
        }
        None => Curve {
            measured: &series.curve,
            ablation: &series.ablation,
            without: series.without.as_ref(),
            chosen: None,
        },
    };
    let searching = report.map_or(series.searching, |report| {
        Some(Searching {
            looked_at: report.looked_at,
            wrong: report.wrong,
            turned: app.trajectories.view.as_ref().map_or(0, |v| v.turned),
            failed: report.searches.len(),
            calls: report.calls,
            ..series.searching.unwrap_or_default()
        })
    });
    let any = !curve.measured.is_empty();
    // Side by side, or one above the other where the pane has the screen to itself.
    let (words, chart) = if !any {
        (inner, None)
    } else if inner.width >= 2 * CURVE {
        let wide = (inner.width / 2).max(CURVE);
        let words = Rect { width: inner.width - wide - 1, ..inner };
        (words, Some(Rect { x: words.right() + 1, width: wide, ..inner }))
    } else if inner.height >= 18 {
        let height = inner.height / 2;
        let words = Rect { height: inner.height - height, ..inner };
        (words, Some(Rect { y: words.bottom(), height, ..inner }))
    } else {
        (inner, None)
    };
    figures(p, words, record, series, searching, &curve, app.trajectories.scroll);
    if let Some(area) = chart {
        draw_curve(p, area, &curve);
    }
}

fn figures(
    p: &mut Painter<'_>,
    area: Rect,
    record: &RunRecord,
    series: &RunSeries,
    searching: Option<Searching>,
    curve: &Curve<'_>,
    back: usize,
) {
    let mut y = 0;
    let mut say = |p: &mut Painter<'_>, text: &str, role: Role| {
        y = p.paragraph(area, y, text, role);
    };
    if let Some(message) = record.message.as_ref().filter(|_| record.state != RunState::Done) {
        say(p, message, Role::Warning);
    }
    if let Some(s) = searching {
        let turned = if s.wrong == 0 { 0.0 } else { s.turned as f64 / s.wrong as f64 * 100.0 };
        let failed = s.wrong.saturating_sub(s.turned);
        let failed = if record.state.is_final() { failed } else { s.failed };
        say(
            p,
            &format!(
                "{} of {} train rows wrong; {} turned to gold ({turned:.0}%), {failed} not; {} calls",
                s.wrong,
                s.looked_at,
                s.turned,
                number::count(s.calls as usize)
            ),
            Role::Text,
        );
    }
    if let (Some(chosen), Some(without)) = (curve.chosen, curve.without) {
        say(
            p,
            &format!(
                "chosen on dev: {} of {}: {} from {}, {}, {} fixed, {} broken; {:.0} tokens ({:+.0}), {:.1} ms ({:+.1})",
                chosen.shots,
                chosen.store,
                number::share(chosen.accuracy(), 3),
                number::share(without.accuracy(), 3),
                chosen.against(without),
                chosen.fixed,
                chosen.broken,
                chosen.tokens_in,
                chosen.tokens_in - without.tokens_in,
                chosen.ms,
                chosen.ms - without.ms
            ),
            Role::Good,
        );
    } else if record.state == RunState::Done && curve.without.is_some_and(|w| w.rows > 0) {
        say(p, "examples did not help on the dev rows: the candidate keeps none", Role::Warning);
    }
    if !curve.measured.is_empty() && y < area.height {
        table(p, area, y, curve);
        y += 1 + stores(curve).len() as u16;
    }
    // The store without a part of it, or ranked by what it did.
    for measured in curve.ablation {
        let Some(without) = curve.without.filter(|_| y < area.height) else { break };
        let text = format!(
            "{} of {}: {} ({})",
            measured.shots,
            measured.store,
            number::share(measured.accuracy(), 3),
            measured.against(without)
        );
        y = p.paragraph(area, y, &text, Role::Text);
    }
    if y + 1 < area.height {
        let rest = Rect { y: area.y + y + 1, height: area.height - y - 1, ..area };
        log_lines(p, rest, series, back);
    }
}

fn stores<'a>(curve: &Curve<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for measured in curve.measured {
        if !names.contains(&measured.store.as_str()) {
            names.push(&measured.store);
        }
    }
    names
}

/// One line a store: the share right by number of examples.
fn table(p: &mut Painter<'_>, area: Rect, y: u16, curve: &Curve<'_>) {
    let mut shots: Vec<usize> = curve.measured.iter().map(|m| m.shots).collect();
    shots.sort_unstable();
    shots.dedup();
    p.put(area, 0, y, 9, "examples", Role::Dim);
    p.put_right(area, 15, y, 5, "0", Role::Dim);
    for (i, k) in shots.iter().enumerate() {
        p.put_right(area, 21 + 6 * i as u16, y, 5, &k.to_string(), Role::Dim);
    }
    for (line, store) in stores(curve).into_iter().enumerate() {
        let y = y + 1 + line as u16;
        p.put(area, 0, y, 9, store, Role::Text);
        if let Some(without) = curve.without {
            p.put_right(area, 15, y, 5, &number::share(without.accuracy(), 3), Role::Dim);
        }
        for (i, k) in shots.iter().enumerate() {
            let here = curve.measured.iter().find(|m| m.store == store && m.shots == *k);
            let chosen = curve.chosen.is_some_and(|c| c.shots == *k && c.store == store);
            let role = if chosen { Role::Good } else { Role::Text };
            let text = here.map_or_else(|| "-".into(), |m| number::share(m.accuracy(), 3));
            p.put_right(area, 21 + 6 * i as u16, y, 5, &text, role);
        }
    }
}

/// The share right over the number of examples, a line for each store.
fn draw_curve(p: &mut Painter<'_>, area: Rect, curve: &Curve<'_>) {
    if area.height < 4 {
        return;
    }
    let ink = if p.look.signs.ascii { "--" } else { "──" };
    let mut x = p.put(area, 0, 0, 30, "right over examples", Role::Dim) + 2;
    let mut lines = Vec::new();
    let mut marks = Vec::new();
    let mut values = Vec::new();
    for (i, store) in stores(curve).into_iter().enumerate() {
        let role = Role::series(i);
        let sign = p.look.signs.marks[i % p.look.signs.marks.len()];
        let mut points: Vec<(f64, f64)> = curve.without.iter().map(|w| (0.0, w.accuracy())).collect();
        points.extend(
            curve.measured.iter().filter(|m| m.store == store).map(|m| (m.shots as f64, m.accuracy())),
        );
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        values.extend(points.iter().map(|(_, y)| *y));
        marks.extend(points.iter().map(|&(x, y)| Mark { x, y, sign, role }));
        lines.push(Line { points, role });
        x = p.pieces(area, x, 0, &[(format!("{ink}{sign}"), role), (format!(" {store}  "), Role::Text)]);
    }
    let most = curve.measured.iter().map(|m| m.shots).max().unwrap_or(1) as f64;
    let plot = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let scale = Scale::over(values, false);
    Chart { range: (0.0, most), scale, lines, marks, dots: Vec::new(), cursor: None, powers: false }
        .draw(p, plot);
}
