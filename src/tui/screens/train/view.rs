//! Draws screen 4.

use ratatui::layout::Rect;

use super::{Pane, SMOOTHING, TrainState, range, steer, sweep};
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::{WIDE, empty, pane_tabs, runs, short_key};
use crate::tui::series::{RunSeries, StepPoint, Tone};
use crate::tui::theme::Role;
use crate::tui::widgets::chart::{Chart, Line, Mark, Scale, smooth};
use crate::tui::widgets::{Painter, number, text};

/// ```text
/// wide: | chart          | figures  |      narrow: | chart                     |
///       | its sweep      | findings |              | samples / figures / log / |
///       | what it says   | log      |              | sweep                     |
/// ```
pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    let state = &app.train;
    let Some(id) = app.shown_run() else {
        let inner = p.pane(body, "train", true);
        let key = app.keymap.key_for(&[Context::Train, Context::Global], Action::LaunchTrain);
        let text = if app.runs.is_none() && !app.connected() {
            "connecting ...".to_owned()
        } else {
            format!(
                "no training run yet: {key} starts one. Its curve grows here, and goes on when you leave."
            )
        };
        return empty(p, inner, &text);
    };
    let none = RunSeries::default();
    let series = app.series.get(&id).unwrap_or(&none);
    let record = app.run(&id);
    if body.width < WIDE {
        let chart_height = (body.height * 3 / 5).max(8);
        chart(app, p, Rect { height: chart_height, ..body }, &id, record, series);
        let below = Rect { y: body.y + chart_height, height: body.height - chart_height, ..body };
        let names = ["what it says", "figures", "doctor, log", "sweep"];
        let names = if app.sweep().is_empty() { &names[..3] } else { &names };
        let tabs = |active| pane_tabs(names, active);
        match state.pane {
            Pane::Sweep if names.len() > 3 => sweep::draw(app, p, below, &tabs(3)),
            Pane::Samples | Pane::Sweep => samples(p, below, series, &tabs(0)),
            Pane::Figures => figures(p, below, state, record, series, &tabs(1)),
            Pane::Log => log(p, below, state, record, series, &tabs(2)),
        }
        return;
    }
    let right_width = (body.width / 3).clamp(34, 60);
    let left = Rect { width: body.width - right_width, ..body };
    let right = Rect { x: left.right(), width: right_width, ..body };
    let samples_height = (series.samples.len() as u16 + 2).clamp(4, body.height / 3);
    let swept = app.sweep().len() as u16;
    let sweep_height = if swept > 0 { (swept + 2).min(left.height / 4) } else { 0 };
    let chart_height = left.height - samples_height - sweep_height;
    chart(app, p, Rect { height: chart_height, ..left }, &id, record, series);
    sweep::draw(app, p, Rect { y: left.y + chart_height, height: sweep_height, ..left }, "sweep");
    samples(
        p,
        Rect { y: left.bottom() - samples_height, height: samples_height, ..left },
        series,
        "what it says now (fixed rows)",
    );
    let figures_height = 10.min(right.height / 2);
    figures(p, Rect { height: figures_height, ..right }, state, record, series, "figures");
    let rest = Rect { y: right.y + figures_height, height: right.height - figures_height, ..right };
    let doctor_height =
        (said(p, record, series, right.width.saturating_sub(2)).len() as u16 + 2).clamp(3, rest.height / 2);
    let pane = p.pane(Rect { height: doctor_height, ..rest }, "doctor", false);
    doctor(p, pane, record, series);
    let rest = Rect { y: rest.y + doctor_height, height: rest.height - doctor_height, ..rest };
    let inner = p.pane(rest, "log", false);
    log_lines(p, inner, series, state.scroll);
}

/// What the doctor says: its findings with their evidence and advice, or what goes well.
fn said(p: &Painter<'_>, record: Option<&RunRecord>, series: &RunSeries, width: u16) -> Vec<(String, Role)> {
    let signs = &p.look.signs;
    let mut lines = Vec::new();
    let mut say = |sign: &str, text: &str, first: Role, rest: Role| {
        for (i, line) in text::wrap(text, usize::from(width.saturating_sub(2)), 4).into_iter().enumerate() {
            lines.push((
                format!("{} {line}", if i == 0 { sign } else { " " }),
                if i == 0 { first } else { rest },
            ));
        }
    };
    for finding in record.iter().flat_map(|r| &r.findings) {
        let text = format!("{}: {}", finding.rule, finding.evidence);
        say(signs.warning, &text, Role::Warning, Role::Warning);
        let advice = match finding.remedy {
            Some(_) => format!("{} (d)", finding.advice),
            None => finding.advice.clone(),
        };
        say(signs.arrow, &advice, Role::Text, Role::Text);
    }
    for text in series.going_well() {
        say(signs.right, &text, Role::Good, Role::Good);
    }
    lines
}

fn doctor(p: &mut Painter<'_>, inner: Rect, record: Option<&RunRecord>, series: &RunSeries) {
    let lines = said(p, record, series, inner.width);
    if lines.is_empty() {
        p.put(inner, 0, 0, inner.width, "nothing to remark", Role::Dim);
    }
    for (y, (line, role)) in lines.iter().take(usize::from(inner.height)).enumerate() {
        p.put(inner, 0, y as u16, inner.width, line, *role);
    }
}

fn title(app: &App, p: &Painter<'_>, id: &str, record: Option<&RunRecord>, series: &RunSeries) -> String {
    let mut title = id.to_owned();
    if let Some(record) = record {
        title.push_str(&format!(" {} {}", runs::state_sign(&p.look.signs, record.state), record.state));
        if record.state == RunState::Running {
            let step = series.steps.last().map_or(0, |s| s.step);
            match &series.progress {
                // The scoring at the end has steps of its own.
                Some(now) if now.phase != "train" && step == series.total => {
                    let dot = p.look.signs.dot;
                    title.push_str(&format!(" {dot} {} {} of {}", now.phase, now.done, now.total));
                }
                _ if series.total > 0 => {
                    let percent = step as f64 / series.total as f64 * 100.0;
                    title.push_str(&format!(" {percent:.0}%, step {step}"));
                }
                _ => {}
            }
            if let Some(eta) = series.eta_ms() {
                title.push_str(&format!(" {} {} left", p.look.signs.dot, number::duration(eta)));
            }
        }
    }
    // Without a curve the pane says it; a resumed run has one from before.
    if let Some(record) = record.filter(|r| r.state == RunState::Queued && !series.steps.is_empty())
        && let Some(message) = &record.message
    {
        title.push_str(&format!(" {} {message}", p.look.signs.dot));
    }
    let on = [
        (app.train.smooth, "smoothed"),
        (app.train.log_scale, "log scale"),
        (app.train.zoom.is_some(), "zoomed"),
    ];
    for (_, name) in on.into_iter().filter(|(on, _)| *on) {
        title.push_str(&format!(" {} {name}", p.look.signs.dot));
    }
    title
}

fn chart(
    app: &App,
    p: &mut Painter<'_>,
    area: Rect,
    id: &str,
    record: Option<&RunRecord>,
    series: &RunSeries,
) {
    let state = &app.train;
    let title = title(app, p, id, record, series);
    let inner = p.pane(area, &title, true);
    if inner.height < 4 {
        return;
    }
    let none = RunSeries::default();
    let overlaid = app.overlaid();
    let others: Vec<(&String, &RunSeries)> =
        overlaid.iter().map(|run| (run, app.series.get(run).unwrap_or(&none))).collect();
    if series.steps.is_empty() && series.evals.is_empty() && others.is_empty() {
        let text = match record {
            Some(r) if r.state.is_final() => {
                r.message.clone().unwrap_or_else(|| format!("the run is {} and took no step", r.state))
            }
            Some(r) => match &r.progress {
                // How far an earlier life came is no news while the run waits.
                Some(progress) if r.state != RunState::Queued || r.message.is_none() => {
                    let left = progress
                        .eta_ms
                        .map_or(String::new(), |ms| format!(", {} left", number::duration(ms)));
                    format!("{}: {} of {}{left}", progress.phase, progress.done, progress.total)
                }
                _ => r.message.clone().unwrap_or_else(|| format!("{}: no step yet", r.state)),
            },
            None => "reading the run ...".into(),
        };
        return empty(p, inner, &text);
    }
    legend(p, inner, state, record, series, &others);
    let plot = Rect { y: inner.y + 1, height: inner.height - 1, ..inner };
    let over_rate = is_range_test(record);
    let x = |s: &StepPoint| if over_rate { s.lr.max(f64::MIN_POSITIVE).log10() } else { s.step as f64 };
    let points = |series: &RunSeries| series.steps.iter().map(|s| (x(s), s.loss)).collect::<Vec<_>>();
    let range = match (series.steps.first(), series.steps.last()) {
        (Some(first), Some(last)) if over_rate => (x(first), x(last)),
        _ => range(state, series, &others.iter().map(|(_, s)| *s).collect::<Vec<_>>()),
    };
    let inside = |x: f64| x >= range.0 && x <= range.1;
    let mut lines = Vec::new();
    let mut marks = Vec::new();
    let mut values = Vec::new();
    for (i, (_, other)) in others.iter().enumerate() {
        let role = Role::series(i + 1);
        let points = points(other);
        lines.push(Line { points: if state.smooth { smooth(&points, SMOOTHING) } else { points }, role });
        let sign = p.look.signs.marks[(i + 1) % p.look.signs.marks.len()];
        marks.extend(
            other.evals.iter().filter_map(|e| Some(Mark { x: e.step as f64, y: e.loss?, sign, role })),
        );
    }
    let points = points(series);
    if state.smooth {
        lines.push(Line { points: points.clone(), role: Role::CurveRaw });
        lines.push(Line { points: smooth(&points, SMOOTHING), role: Role::Curve });
    } else {
        lines.push(Line { points, role: Role::Curve });
    }
    let sign = p.look.signs.marks[0];
    marks.extend(
        series
            .evals
            .iter()
            .filter_map(|e| Some(Mark { x: e.step as f64, y: e.loss?, sign, role: Role::Eval })),
    );
    let sign = p.look.signs.delta;
    marks.extend(series.changes.iter().filter_map(|(step, _)| {
        series.at(*step).map(|s| Mark { x: x(s), y: s.loss, sign, role: Role::Title })
    }));
    if let Some(rate) = record.and_then(|r| r.metrics.get("suggested_learning_rate")) {
        let nearest =
            series.steps.iter().min_by(|a, b| (a.lr / rate).ln().abs().total_cmp(&(b.lr / rate).ln().abs()));
        let sign = p.look.signs.star;
        marks.extend(nearest.map(|s| Mark { x: x(s), y: s.loss, sign, role: Role::Title }));
    }
    for line in &lines {
        values.extend(line.points.iter().filter(|(x, _)| inside(*x)).map(|(_, y)| *y));
    }
    values.extend(marks.iter().filter(|m| inside(m.x)).map(|m| m.y));
    let scale = Scale::over(values, state.log_scale);
    let cursor = state.cursor.and_then(|c| series.at(c)).map(x);
    Chart { range, scale, lines, marks, dots: Vec::new(), cursor, powers: over_rate }.draw(p, plot);
}

fn is_range_test(record: Option<&RunRecord>) -> bool {
    record.is_some_and(|r| r.kind == RunKind::LrRange)
}

fn legend(
    p: &mut Painter<'_>,
    inner: Rect,
    state: &TrainState,
    record: Option<&RunRecord>,
    series: &RunSeries,
    others: &[(&String, &RunSeries)],
) {
    let line = if p.look.signs.ascii { "--" } else { "──" };
    let mut x = p.put(inner, 0, 0, 9, "loss", Role::Dim) + 2;
    if is_range_test(record) {
        let said = record.and_then(steer::suggestion).unwrap_or_else(|| "over the learning rate".into());
        x = p.pieces(inner, x, 0, &[(line.into(), Role::Curve), (format!(" {said}  "), Role::Text)]);
    } else {
        x = p.pieces(inner, x, 0, &[(line.into(), Role::Curve), (" train  ".into(), Role::Text)]);
        let sign = p.look.signs.marks[0];
        x = p.pieces(inner, x, 0, &[(sign.into(), Role::Eval), (" eval  ".into(), Role::Text)]);
    }
    if !series.changes.is_empty() {
        let sign = p.look.signs.delta;
        x = p.pieces(inner, x, 0, &[(sign.into(), Role::Title), (" changed  ".into(), Role::Text)]);
    }
    for (i, (run, _)) in others.iter().enumerate() {
        let sign = p.look.signs.marks[(i + 1) % p.look.signs.marks.len()];
        x = p.pieces(
            inner,
            x,
            0,
            &[(format!("{line}{sign}"), Role::series(i + 1)), (format!(" {run}  "), Role::Text)],
        );
    }
    if let Some(step) = state.cursor {
        p.put_right(inner, inner.width, 0, 16, &format!("cursor at {step}"), Role::Title);
    }
}

fn samples(p: &mut Painter<'_>, area: Rect, series: &RunSeries, title: &str) {
    let inner = p.pane(area, title, false);
    if series.samples.is_empty() {
        p.put(inner, 1, 0, inner.width, "the fixed rows are answered at every evaluation", Role::Dim);
        return;
    }
    let id_width = series.samples.keys().map(|r| text::width(r)).max().unwrap_or(4).clamp(3, 12) as u16;
    let golds = series.samples.values().filter_map(|(gold, _)| gold.as_deref());
    let longest = golds.map(|g| text::width(&text::clean(g))).max().unwrap_or(0) as u16;
    let gold_width = (longest + 5).clamp(8, (inner.width / 3).max(8));
    for (y, (row, (gold, said))) in series.samples.iter().take(usize::from(inner.height)).enumerate() {
        let y = y as u16;
        p.put(inner, 0, y, id_width, row, Role::Dim);
        let mut x = id_width + 1;
        if let Some(gold) = gold {
            p.put(inner, x, y, gold_width, &format!("gold {gold}"), Role::Text);
            x += gold_width + 1;
        }
        // The first answer and the last: what the training changed.
        let (first, last) = (said.first(), said.last());
        let answers = [first.filter(|f| last.is_some_and(|l| l.step != f.step)), last];
        let n = answers.iter().flatten().count() as u16;
        let width = inner.width.saturating_sub(x) / n.max(1);
        for answer in answers.into_iter().flatten() {
            let (sign, role) = match answer.correct {
                Some(true) => (p.look.signs.right, Role::Good),
                Some(false) => (p.look.signs.wrong, Role::Bad),
                None => (p.look.signs.open, Role::Text),
            };
            let text = format!("{}: {sign} {}", answer.step, text::one_line(&answer.output, " "));
            p.put(inner, x, y, width.saturating_sub(1), &text, role);
            x += width;
        }
    }
}

fn figures(
    p: &mut Painter<'_>,
    area: Rect,
    state: &TrainState,
    record: Option<&RunRecord>,
    series: &RunSeries,
    title: &str,
) {
    let point = series.at(state.cursor.unwrap_or(u64::MAX));
    let title = point.map_or_else(
        || title.to_owned(),
        |s| format!("{title} {} step {} of {}", p.look.signs.dot, s.step, series.total),
    );
    let inner = p.pane(area, &title, false);
    let mut pairs: Vec<(String, String)> = Vec::new();
    if let Some(from) = record.and_then(|record| record.from.as_ref()) {
        pairs.push(("branch of".into(), from.to_string()));
    }
    if let Some(s) = point {
        pairs.push(("loss".into(), number::short(s.loss)));
        if let Some(eval) = series.evals.iter().rev().find(|e| e.step <= s.step) {
            let loss = eval.loss.map_or("-".into(), number::short);
            pairs.push(("eval loss".into(), format!("{loss} @{}", eval.step)));
            pairs.extend(eval.metrics.iter().map(|(k, v)| (k.clone(), number::short(*v))));
        }
        pairs.push(("lr".into(), number::short(s.lr)));
        pairs.push(("grad norm".into(), number::short(s.grad_norm)));
        pairs.push(("tok/s".into(), series.tokens_per_second(s.step).map_or("-".into(), number::short)));
        pairs.push(("ms/step".into(), number::short(s.ms)));
        pairs.push(("epoch".into(), format!("{:.2}", s.epoch)));
        let trained = s.trained_tokens as f64 / (s.tokens.max(1)) as f64 * 100.0;
        pairs.push(("trained".into(), format!("{trained:.0}% of tokens")));
    }
    if let Some((step, _)) = series.checkpoints.last() {
        pairs.push(("checkpoint".into(), format!("step {step}")));
    }
    if let Some(record) = record {
        let rates = ["suggested", "steepest", "minimum", "diverged"];
        pairs.extend(rates.iter().filter_map(|name| {
            let rate = record.metrics.get(&format!("{name}_learning_rate"))?;
            Some((format!("lr {name}"), number::short(*rate)))
        }));
        pairs.extend(record.settings.iter().map(|(k, v)| (short_key(k).to_owned(), v.clone())));
    }
    let columns = (inner.width / 26).max(1);
    let width = inner.width / columns;
    for (i, (name, value)) in pairs.iter().enumerate() {
        let (x, y) = ((i as u16 % columns) * width, i as u16 / columns);
        let used = p.put(inner, x, y, width, name, Role::Dim);
        p.put(inner, x + used + 1, y, width.saturating_sub(used + 2), value, Role::Text);
    }
}

/// The doctor above the log, where both share one pane.
fn log(
    p: &mut Painter<'_>,
    area: Rect,
    state: &TrainState,
    record: Option<&RunRecord>,
    series: &RunSeries,
    title: &str,
) {
    let inner = p.pane(area, title, false);
    let lines = said(p, record, series, inner.width).len() as u16;
    let height = lines.min(inner.height / 2);
    if height > 0 {
        doctor(p, Rect { height, ..inner }, record, series);
    }
    let rest = Rect { y: inner.y + height, height: inner.height.saturating_sub(height), ..inner };
    log_lines(p, rest, series, state.scroll);
}

/// The last lines of a run's log; `back` lines further up.
pub fn log_lines(p: &mut Painter<'_>, area: Rect, series: &RunSeries, back: usize) {
    let height = usize::from(area.height);
    let mut lines: Vec<(String, Role)> = Vec::new();
    for (_, tone, text) in series.log.iter().rev() {
        let (sign, role) = if *tone == Tone::Warning {
            (p.look.signs.warning, Role::Warning)
        } else {
            (p.look.signs.dot, Role::Text)
        };
        let wrapped = text::wrap(text, usize::from(area.width.saturating_sub(2)), 4);
        // Built from the end: the first line of a message comes last.
        for (i, line) in wrapped.iter().enumerate().rev() {
            lines.push((format!("{} {line}", if i == 0 { sign } else { " " }), role));
        }
        if lines.len() >= height + back {
            break;
        }
    }
    let back = back.min(lines.len().saturating_sub(height));
    let shown: Vec<_> = lines.into_iter().skip(back).take(height).collect();
    for (y, (line, role)) in shown.iter().rev().enumerate() {
        p.put(area, 0, y as u16, area.width, line, *role);
    }
}
