//! Draws screen 2.

use ratatui::layout::Rect;

use super::{Pane, race};
use crate::domain::outcome::FlipKind;
use crate::domain::prompt::{Fate, Score};
use crate::domain::versions::{Branch, FoundVersion, HAND, TriedRow};
use crate::score::stats::wilson_of;
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::{WIDE, empty, pane_tabs, runs};
use crate::tui::series::RunSeries;
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, Piece, diff, number, text};

/// ```text
/// wide: | versions | text | rows |      narrow: | one of versions, text, rows, race |
///       | race, spend, lessons   |
/// ```
pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    let state = &app.prompts;
    let run = app.prompt_run();
    let none = RunSeries::default();
    let series = run.as_ref().and_then(|run| app.series.get(run)).unwrap_or(&none);
    if state.tree.as_ref().is_none_or(|tree| tree.versions.is_empty()) && series.climb.lanes.is_empty() {
        let inner = p.pane(body, "prompts", true);
        let key = |action| app.keymap.key_for(&[Context::Prompts, Context::Global], action);
        let text = match (&run, &state.tree) {
            _ if !app.connected() && app.runs.is_none() => "connecting ...".to_owned(),
            (Some(run), _) => {
                let record = app.run(run);
                let said = record.and_then(|r| r.message.clone()).or_else(|| race::doing(record));
                let said = said.unwrap_or_default();
                let state = record.map_or_else(String::new, |r| r.state.to_string());
                format!("{run} {state}: no version yet. {said}")
            }
            (None, None) => "reading the versions ...".to_owned(),
            (None, Some(_)) => format!(
                "no prompt has been tuned yet. {} tunes the prompts: versions are written from what goes wrong, raced, and the best is measured on rows that chose nothing. {} opens a prompt in your editor, and tries what you save.",
                key(Action::LaunchPrompt),
                key(Action::EditPrompt)
            ),
        };
        return empty(p, inner, &text);
    }
    let record = run.as_ref().and_then(|run| app.run(run));
    let race_title = run.as_ref().map_or_else(String::new, |run| {
        let record = app.run(run);
        let state = record.map_or_else(String::new, |r| {
            format!(" {} {}", runs::state_sign(&p.look.signs, r.state), r.state)
        });
        format!("{run}{state}")
    });
    if body.width < WIDE {
        let at = Pane::ALL.iter().position(|(_, pane)| *pane == state.pane).unwrap_or(0);
        let names: Vec<&str> = Pane::ALL.iter().map(|(name, _)| *name).collect();
        let tabs = pane_tabs(&names, at);
        // What is said stands under whichever pane is open.
        let under = if state.pane == Pane::Race { 0 } else { said_height(app, body) };
        let area = Rect { height: body.height - under, ..body };
        match state.pane {
            Pane::Tree => tree(app, p, area, &tabs),
            Pane::Text => shown(app, p, area, &tabs),
            Pane::Rows => rows(app, p, area, &tabs),
            Pane::Race => below(app, p, area, &format!("{tabs} {race_title}"), series),
        }
        if under > 0 {
            said(app, p, Rect { y: area.bottom(), height: under, ..body });
        }
        return;
    }
    let has_below = run.is_some()
        && (!series.climb.lanes.is_empty() || series.climb.gain.is_some() || series.climb.clauses.is_some());
    let below_height =
        if has_below { race::height(&series.climb, record).min(body.height * 2 / 5).max(6) } else { 0 };
    let under = said_height(app, body);
    let top = Rect { height: body.height - below_height - under, ..body };
    let left = (body.width * 2 / 5).clamp(40, 70);
    let right = (body.width / 4).clamp(28, 50);
    tree(app, p, Rect { width: left, ..top }, "versions");
    let middle = Rect { x: top.x + left, width: top.width - left - right, ..top };
    shown(app, p, middle, "");
    rows(app, p, Rect { x: middle.right(), width: right, ..top }, "");
    if under > 0 {
        said(app, p, Rect { y: top.bottom(), height: under, ..body });
    }
    if has_below {
        let area = Rect { y: top.bottom() + under, height: below_height, ..body };
        below(app, p, area, &race_title, series);
    }
}

/// The trial of the selected version, or the last word of the run, in words.
fn sentence(app: &App) -> Option<(String, Role)> {
    if app.is_trying() {
        return Some((format!("trying on {} ...", app.prompts.slice.words()), Role::Title));
    }
    if let Some(trial) = app.prompts.shown_trial() {
        let line = format!("tried on {}: {}", trial.slice.words(), trial.line());
        return Some((line, Role::Text));
    }
    let tree = app.prompts.tree.as_ref()?;
    if tree.run == HAND && tree.versions.len() < 2 {
        let key = |action| app.keymap.key_for(&[Context::Prompts, Context::Global], action);
        let text = format!(
            "{} opens the prompt in your editor, and what you save is tried at once; {} tunes the prompts: versions are written from what goes wrong, raced, and the best is measured on rows that chose nothing",
            key(Action::EditPrompt),
            key(Action::LaunchPrompt)
        );
        return Some((text, Role::Dim));
    }
    let gain = tree.gain.as_ref()?;
    Some((gain.to_string(), if gain.start_stays { Role::Text } else { Role::Good }))
}

fn said_height(app: &App, body: Rect) -> u16 {
    let lines = sentence(app)
        .map_or(0, |(text, _)| text::wrap(&text, usize::from(body.width.saturating_sub(2)), 4).len());
    lines as u16
}

fn said(app: &App, p: &mut Painter<'_>, area: Rect) {
    if let Some((text, role)) = sentence(app) {
        p.paragraph(Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area }, 0, &text, role);
    }
}

fn below(app: &App, p: &mut Painter<'_>, area: Rect, title: &str, series: &RunSeries) {
    let record = app.prompt_run().and_then(|run| app.run(&run));
    let from = if app.prompts.pane == Pane::Race { app.prompts.scroll } else { 0 };
    race::draw(p, area, &series.climb, record, title, from);
}

fn fate_sign(p: &Painter<'_>, branch: &Branch) -> (&'static str, Role) {
    let signs = &p.look.signs;
    match branch.version.fate {
        Fate::Final => (signs.star, Role::Good),
        Fate::Survived => (signs.right, Role::Good),
        Fate::Open => (signs.open, Role::Text),
        Fate::Beaten => (signs.open, Role::Dim),
        Fate::Dropped | Fate::Dear => (signs.wrong, Role::Dim),
    }
}

/// `★   v3 labels      ▆ .800 ▅ .750 +8 -1 short-one`
fn tree(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.prompts;
    let run = state.tree.as_ref().map_or("", |tree| tree.run.as_str());
    let title = format!("{title} {} {}", p.look.signs.dot, if run == HAND { "by hand" } else { run });
    let inner = p.pane(area, &title, state.pane == Pane::Tree);
    let ordered = state.ordered();
    let selected = state.branch().map(|b| b.version.id.clone());
    let at = ordered.iter().position(|b| Some(&b.version.id) == selected.as_ref()).unwrap_or(0);
    let height = usize::from(inner.height.saturating_sub(1));
    p.put_right(inner, inner.width, 0, 30, "selected fresh  +fixed -broken", Role::Dim);
    p.put(inner, 0, 0, inner.width.saturating_sub(31), "version", Role::Dim);
    let top = scroll(0, at, height);
    let wide = inner.width >= 60;
    for (y, branch) in ordered.iter().skip(top).take(height).enumerate() {
        let y = y as u16 + 1;
        let version = &branch.version;
        let is_selected = Some(&version.id) == selected.as_ref();
        let (sign, role) = fate_sign(p, branch);
        p.put(inner, 0, y, 1, sign, role);
        let indent = (branch.depth as u16).min(6);
        let mut pieces: Vec<Piece> = vec![(format!("{} ", version.id), Role::Text)];
        if branch.current {
            pieces.push((format!("{} ", p.look.signs.bullet), Role::Title));
        }
        match &branch.tag {
            Some(tag) => pieces.push((format!("{tag} "), Role::Title)),
            None => pieces.push((format!("{} ", version.proposer), Role::Dim)),
        }
        if wide {
            pieces.push((version.edit.clone(), Role::Dim));
        }
        let figures = 25;
        let room = inner.width.saturating_sub(figures + 3 + indent);
        let names = Rect { x: inner.x + 2 + indent, width: room, ..inner };
        p.pieces(names, 0, y, &pieces);
        let x = inner.width.saturating_sub(figures);
        for (i, score) in [version.selected, version.fresh].into_iter().enumerate() {
            let x = x + i as u16 * 8;
            if let Some(score) = score {
                let level = p.look.signs.level(score.mean);
                p.put(inner, x, y, 1, level, if i == 0 { Role::Curve } else { Role::Eval });
                p.put(inner, x + 2, y, 5, &number::share(score.mean, 3), Role::Text);
            }
        }
        if branch.fixed + branch.broken > 0 {
            p.put(inner, x + 16, y, 4, &format!("+{}", branch.fixed), Role::Good);
            p.put(inner, x + 20, y, 5, &format!("-{}", branch.broken), Role::Bad);
        }
        if is_selected {
            p.highlight(inner, y, Role::Selected);
        }
    }
}

/// The text of every stage, with what changed against the parent, or against the version that was chosen for that.
fn shown(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.prompts;
    let found = state.found.as_ref().filter(|found| Some(found.address()) == state.address());
    let Some(found) = found else {
        let inner = p.pane(area, title, state.pane == Pane::Text);
        return empty(p, inner, "reading the version ...");
    };
    let base = state.against.as_ref().filter(|a| a.address() != found.address());
    let (base_id, base_texts) = match (base, &found.parent) {
        (Some(base), _) => (Some(base.address()), Some(&base.version.prompts)),
        (None, Some(parent)) => (found.version.parents.first().cloned(), Some(&parent.prompts)),
        (None, None) => (None, None),
    };
    let against = base_id.map_or_else(String::new, |id| format!(" against {id}"));
    let title = if title.is_empty() {
        format!("{}{against}", found.address())
    } else {
        format!("{title} {} {}{against}", p.look.signs.dot, found.version.id)
    };
    let inner = p.pane(area, &title, state.pane == Pane::Text);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    for line in about(found) {
        for line in text::wrap(&line, usize::from(inner.width), 4) {
            lines.push(vec![(line, Role::Dim)]);
        }
    }
    let several = found.version.prompts.len() > 1;
    for (stage, prompt) in &found.version.prompts {
        if several {
            lines.push(vec![(format!("stage {stage}"), Role::Title)]);
        }
        let before = base_texts.and_then(|texts| texts.get(stage)).unwrap_or(prompt);
        lines.extend(flowed(&diff::words(before, prompt), usize::from(inner.width)));
    }
    let height = usize::from(inner.height);
    let from = state.scroll.min(lines.len().saturating_sub(height));
    let from = if state.pane == Pane::Text { from } else { 0 };
    for (y, line) in lines.iter_mut().skip(from).take(height).enumerate() {
        // The space at which a line was broken has no cell of its own.
        if let Some((text, _)) = line.last_mut() {
            text.truncate(text.trim_end_matches(' ').len());
        }
        p.pieces(inner, 0, y as u16, line);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 7, " more ", Role::Dim);
    }
}

/// What is known of a version, in a line or two.
fn about(found: &FoundVersion) -> Vec<String> {
    let version = &found.version;
    let mut line = format!("{} ({})", version.edit, version.proposer);
    let sure = |score: Score| {
        let [low, high] = wilson_of(score.mean, score.n).map(|bound| number::share(bound, 2));
        format!("{} [{low}, {high}] (n={})", number::share(score.mean, 3), score.n)
    };
    if let Some(selected) = version.selected {
        line.push_str(&format!("; selected {}", sure(selected)));
    }
    if let (Some(fresh), Some(start)) = (version.fresh, version.start_fresh) {
        line.push_str(&format!("; fresh {}, the start's {}", sure(fresh), number::share(start.mean, 3)));
    }
    vec![line, String::new()]
}

/// Pieces of text broken into lines of so many cells, at spaces where there are any; line breaks stay.
fn flowed(pieces: &[Piece], cells: usize) -> Vec<Vec<Piece>> {
    let cells = cells.max(1);
    let mut lines: Vec<Vec<Piece>> = vec![Vec::new()];
    let mut used = 0;
    let put = |lines: &mut Vec<Vec<Piece>>, text: &str, role: Role| {
        if let Some(line) = lines.last_mut() {
            match line.last_mut() {
                Some((before, of)) if *of == role => before.push_str(text),
                _ => line.push((text.to_owned(), role)),
            }
        }
    };
    for (text, role) in pieces {
        for (i, line) in text.split('\n').enumerate() {
            if i > 0 {
                lines.push(Vec::new());
                used = 0;
            }
            for word in line.split_inclusive(' ') {
                let mut rest = word;
                let width = text::width(rest);
                if used > 0 && used + text::width(rest.trim_end()) > cells {
                    lines.push(Vec::new());
                    used = 0;
                }
                if width <= cells {
                    put(&mut lines, rest, *role);
                    used += width;
                    continue;
                }
                // A word wider than the pane.
                while !rest.is_empty() {
                    let mut end = 0;
                    let mut wide = 0;
                    for (at, c) in rest.char_indices() {
                        let w = unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
                        if wide + w > cells && end > 0 {
                            break;
                        }
                        wide += w;
                        end = at + c.len_utf8();
                    }
                    let (head, tail) = rest.split_at(end);
                    put(&mut lines, head, *role);
                    used = wide;
                    rest = tail;
                    if !rest.is_empty() {
                        lines.push(Vec::new());
                        used = 0;
                    }
                }
            }
        }
    }
    lines
}

/// Rows that the version fixed and broke, or those of its trial.
fn rows(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let state = &app.prompts;
    let tried = state.rows();
    let count = |kind| tried.iter().filter(|row| row.flip == Some(kind)).count();
    let (fixed, broken) = (count(FlipKind::Fixed), count(FlipKind::Regressed));
    let dot = p.look.signs.dot;
    let more = state.found.as_ref().map_or(0, |f| f.more);
    let beyond = if more > 0 { format!(", {more} more") } else { String::new() };
    let figures = format!("{fixed} fixed, {broken} broken{beyond}");
    let title = if title.is_empty() { figures } else { format!("{title} {dot} {figures}") };
    let inner = p.pane(area, &title, state.pane == Pane::Rows);
    if tried.is_empty() {
        let text = match state.branch() {
            Some(b) if b.version.parents.is_empty() => "the first version has nothing to differ from",
            Some(b) if b.version.fate == Fate::Open => "no row has come out another way so far",
            _ => "it fixed no row and broke none",
        };
        return empty(p, inner, text);
    }
    let each: u16 = if inner.width >= 60 { 1 } else { 2 };
    let height = usize::from(inner.height / each);
    let at = state.row.min(tried.len() - 1);
    for (y, (i, row)) in tried.iter().enumerate().skip(scroll(0, at, height)).take(height).enumerate() {
        let y = y as u16 * each;
        one_row(p, inner, y, row, each == 2);
        if i == at && state.pane == Pane::Rows {
            p.highlight(inner, y, Role::Selected);
        }
    }
}

/// `▲ 00017 card_lost → delivery` and the input.
fn one_row(p: &mut Painter<'_>, inner: Rect, y: u16, row: &TriedRow, two: bool) {
    let signs = &p.look.signs;
    let (sign, role) = match (row.flip, row.right) {
        (Some(FlipKind::Fixed), _) => (signs.fixed, Role::Good),
        (Some(FlipKind::Regressed), _) => (signs.regressed, Role::Bad),
        (Some(FlipKind::Churned), _) => (signs.churned, Role::Warning),
        (None, Some(true)) => (signs.right, Role::Good),
        (None, _) => (signs.wrong, Role::Bad),
    };
    p.put(inner, 0, y, 1, sign, role);
    let mut x = 2 + p.put(inner, 2, y, 10, &row.id, Role::Dim) + 1;
    let arrow = signs.arrow;
    let said = match &row.before {
        Some(before) if row.flip.is_some() => format!("{before} {arrow} {}", row.after),
        _ => row.after.clone(),
    };
    x += p.put(inner, x, y, inner.width.saturating_sub(x), &said, Role::Text) + 1;
    let wrong = row.flip == Some(FlipKind::Regressed) || row.right == Some(false);
    if let Some(gold) = row.gold.as_ref().filter(|_| wrong) {
        x += p.put(inner, x, y, inner.width, &format!("gold {gold}"), Role::Dim) + 1;
    }
    let (x, y) = if two { (2, y + 1) } else { (x, y) };
    p.put(inner, x, y, inner.width.saturating_sub(x), &row.input, Role::Dim);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_pane_and_no_letter_is_lost(text in "[a-z \\nü日]{0,120}", cells in 2usize..30) {
            let lines = flowed(&[(text.clone(), Role::Text)], cells);
            for line in &lines {
                let line: String = line.iter().map(|(text, _)| text.as_str()).collect();
                prop_assert!(text::width(line.trim_end()) <= cells, "{line:?}");
            }
            let back: String = lines.iter().flatten().map(|(text, _)| text.as_str()).collect();
            prop_assert_eq!(back, text.replace('\n', ""));
        }
    }
}
