//! Draws the layers, each as a box over the screen.

use ratatui::layout::Rect;

use super::compose::Compose;
use super::form::{Form, FormPurpose};
use super::picker::Picker;
use super::{Layer, TextPurpose};
use crate::domain::run::RunKind;
use crate::tui::app::App;
use crate::tui::screens;
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, text};

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    for layer in &app.layers {
        match layer {
            Layer::Help { scroll, contexts } => help(app, p, body, *scroll, contexts),
            Layer::Picker(picker) => pick(p, body, picker),
            Layer::Text { title, input, purpose } => {
                let hint = hint(purpose);
                let below = if app.completes().is_some() { super::complete::HEIGHT } else { 0 };
                let lines = if hint.is_empty() { 3 } else { 4 };
                let inner = boxed(p, body, 76, lines + below, title);
                input.draw(p, inner, 0, 0, inner.width, true);
                let list = match app.completing.error_of(input.text()).filter(|_| below > 0) {
                    Some(error) => {
                        let text = format!("{} {error}", p.look.signs.warning);
                        p.paragraph(inner, 1, &text, Role::Bad)
                    }
                    None => {
                        p.put(inner, 0, 1, inner.width, hint, Role::Dim);
                        2
                    }
                };
                super::complete::draw(app, p, inner, list);
            }
            Layer::Compose(compose) => self::compose(p, body, compose),
            Layer::Form(form) => {
                let evaluates = form.purpose == FormPurpose::Launch(RunKind::Eval);
                let notes = match form.purpose {
                    FormPurpose::Scaling => &app.scaled[..],
                    _ if evaluates => &app.power[..],
                    _ => &[],
                };
                self::form(p, body, form, notes);
            }
            Layer::Confirm { question, .. } => {
                let width = body.width.min(64);
                let lines = text::wrap(question, usize::from(width.saturating_sub(2)), 6);
                let inner = boxed(p, body, 64, lines.len() as u16 + 3, "sure?");
                let y = p.paragraph(inner, 0, question, Role::Text);
                p.pieces(
                    inner,
                    0,
                    y,
                    &[
                        ("y".into(), Role::Key),
                        (" yes   ".into(), Role::Text),
                        ("n".into(), Role::Key),
                        (" no".into(), Role::Text),
                    ],
                );
            }
            Layer::Board(layer) => screens::board::over::draw(app, p, body, *layer),
            Layer::Flip { scroll } => screens::board::detail::draw(app, p, body, *scroll),
            Layer::Why { side, token, scroll } => {
                screens::play::why::draw(app, p, body, *side, *token, *scroll);
            }
            Layer::Judging(judging) => super::judging::draw(p, body, judging),
            Layer::Map(map) => super::map::draw(p, body, map),
            Layer::Counts(table) => super::counts::draw(p, body, table),
            Layer::Reviewing(reviewing) => super::reviewing::draw(p, body, reviewing),
            Layer::Mending(mending) => super::remedies::draw(p, body, mending),
            Layer::Preview(view) => super::preview::draw(p, body, view),
            Layer::Problems(wrong) => super::problems::draw(p, body, wrong),
            Layer::Grown(texts) => super::grown::view::draw(app, p, body, texts),
            Layer::Choice => screens::strata::view::choice(app, p, body),
            Layer::Trace(view) => screens::trace::draw(p, body, view),
            Layer::Detail(view) => screens::board::classes::draw(p, body, view),
            Layer::Difference { a, b, scroll } => {
                screens::runs::difference::draw(app, p, body, a, b, *scroll);
            }
        }
    }
}

const fn hint(purpose: &TextPurpose) -> &'static str {
    match purpose {
        TextPurpose::SearchRows => "words, base:wrong len>40 stratum:\"card arrival\" -mark:star; empty: all",
        TextPurpose::Budget { .. } => "calls=8000, tokens=2000000, usd=5 or seconds=1800: so much in all",
        TextPurpose::FilterGrown => {
            "kept disputed leak gold:x parent:ID nearest>.8 -accepted words; empty: all"
        }
        TextPurpose::FilterExamples => {
            "words in input or answer; is:off is:edited stage:X stratum:X; empty: all"
        }
        TextPurpose::FilterRuns { .. } => {
            "kind:train -state:failed lr>1e-4 accuracy>.8 or words; empty: all runs"
        }
        TextPurpose::FilterBoard { .. } => {
            "words in name or rung; rung:lora is:front accuracy>.8 -base; empty: all"
        }
        TextPurpose::Volume => "what each costs, when training has paid: 300000, 300k, 2.5M; empty: none",
        TextPurpose::Histogram => "any key that holds numbers; empty: len",
        TextPurpose::MapBy => "any key: a field, a candidate's name, mark, flag, len/20; empty: stratum",
        TextPurpose::CountBy => "intent x turns x stratum; numbers in bins: len/20",
        TextPurpose::SaveView => "a name; a view of that name is replaced",
        TextPurpose::ExportExamples { .. } => "a file, one example a line, as the store stands",
        TextPurpose::ImportExamples => {
            "FILE, or FILE as NAME; one example a line: stage, input, answer are enough"
        }
        TextPurpose::ExportRows => "a name that ends in .jsonl, .csv or .parquet",
        TextPurpose::SplitStratum { .. } => "so many parts, by what their rows say; u takes it back",
        TextPurpose::Mark { .. } => "one word; the same word again takes the mark away",
        TextPurpose::ReviewGold { .. } => "the answer you vouch for; empty: it has none",
        TextPurpose::Gold { .. } => "the answer you vouch for; empty: back to the file's",
        TextPurpose::Note { .. } | TextPurpose::NameStratum { .. } | TextPurpose::NameVersion { .. } => {
            "empty: take it away"
        }
        TextPurpose::NameCandidate { .. } => "",
        TextPurpose::Player { .. } => "a candidate's name, RUN (its best), RUN@STEP, or the start of an id",
    }
}

/// At the bottom, as high as what is written needs.
fn compose(p: &mut Painter<'_>, body: Rect, compose: &Compose) {
    let lines = compose.area.height(body.width.saturating_sub(2));
    let area = screens::play::view::compose_area(body, lines);
    p.clear(area);
    let inner = p.pane(area, &compose.title, true);
    let hint = "enter: done; alt-enter or ctrl-j: a new line; up and down: written before";
    p.put(inner, 0, inner.height.saturating_sub(1), inner.width, hint, Role::Dim);
    compose.area.draw(p, Rect { height: inner.height.saturating_sub(1), ..inner });
}

/// An emptied box in the middle of `body`; returns its inside.
pub fn boxed(p: &mut Painter<'_>, body: Rect, width: u16, height: u16, title: &str) -> Rect {
    let (width, height) = (width.min(body.width), height.min(body.height));
    let area =
        Rect::new(body.x + (body.width - width) / 2, body.y + (body.height - height) / 3, width, height);
    p.clear(area);
    p.pane(area, title, true)
}

fn help(app: &App, p: &mut Painter<'_>, body: Rect, from: usize, contexts: &[crate::tui::keymap::Context]) {
    let inner = boxed(p, body, 90, body.height, "help: the keys here");
    // Keys and what they do; a heading has no keys.
    let mut entries: Vec<(String, String)> = Vec::new();
    for (context, rows) in app.keymap.help(contexts) {
        if !rows.is_empty() {
            entries.push((String::new(), context.title().to_owned()));
            entries.extend(rows.into_iter().map(|(keys, binding)| {
                let not_now = if app.offers(binding) { "" } else { " (not now)" };
                (keys, format!("{}{not_now}", binding.help))
            }));
        }
    }
    entries.push((String::new(), "signs".to_owned()));
    let s = &p.look.signs;
    for (sign, text) in [
        (s.right, "the answer is right"),
        (s.wrong, "the answer is wrong"),
        (s.fixed, "fixed: wrong in A, right in B"),
        (s.regressed, "regressed: right in A, wrong in B"),
        (s.churned, "churned: wrong in both, in another way"),
        (s.star, "marked by a person"),
    ] {
        entries.push((sign.to_owned(), text.to_owned()));
    }
    let keys_width = entries.iter().map(|(k, _)| text::width(k)).max().unwrap_or(0) as u16 + 2;
    let room = usize::from(inner.width.saturating_sub(1 + keys_width));
    let mut lines: Vec<(String, String, Role)> = Vec::new();
    for (mut keys, text) in entries {
        if keys.is_empty() {
            lines.push((keys, text, Role::Title));
            continue;
        }
        for line in text::wrap(&text, room, 4) {
            lines.push((std::mem::take(&mut keys), line, Role::Text));
        }
    }
    let all = usize::from(inner.height);
    // The last line says that there is more.
    let height = if lines.len() > all { all.saturating_sub(1) } else { all };
    let from = from.min(lines.len().saturating_sub(height));
    for (y, (keys, text, role)) in lines.iter().skip(from).take(height).enumerate() {
        if *role == Role::Title {
            p.put(inner, 0, y as u16, inner.width, text, *role);
        } else {
            p.put(inner, 1, y as u16, keys_width, keys, Role::Key);
            p.put(inner, 1 + keys_width, y as u16, inner.width, text, *role);
        }
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height - 1, 12, " more: pgdn ", Role::Dim);
    }
}

fn pick(p: &mut Painter<'_>, body: Rect, picker: &Picker) {
    let height = (picker.items.len() as u16).saturating_add(3).min(body.height).max(6);
    let inner = boxed(p, body, 84, height, &picker.title);
    picker.input.draw(p, inner, 0, 0, inner.width, true);
    let rows = usize::from(inner.height.saturating_sub(1));
    let top = scroll(0, picker.selected, rows);
    for (y, (i, at)) in picker.shown.iter().enumerate().skip(top).take(rows).enumerate() {
        let Some(item) = picker.items.get(*at) else { continue };
        let y = y as u16 + 1;
        let aside = (text::width(&item.aside) as u16).min(24);
        if i == picker.selected {
            p.highlight(inner, y, Role::Selected);
            let pointer = p.look.signs.pointer;
            p.put(inner, 0, y, 1, pointer, Role::Selected);
        }
        let role = if i == picker.selected { Role::Selected } else { Role::Text };
        p.put(inner, 2, y, inner.width.saturating_sub(aside + 3), &item.label, role);
        p.put_right(
            inner,
            inner.width,
            y,
            aside,
            &item.aside,
            if i == picker.selected { Role::Selected } else { Role::Key },
        );
    }
    if picker.shown.is_empty() {
        p.put(inner, 2, 1, inner.width, "nothing matches", Role::Dim);
    }
}

/// `notes` stand below the fields.
fn form(p: &mut Painter<'_>, body: Rect, form: &Form, notes: &[String]) {
    let width = usize::from(body.width.min(76).saturating_sub(2));
    let notes: Vec<String> = notes.iter().flat_map(|note| text::wrap(note, width, 4)).collect();
    let inner = boxed(p, body, 76, (form.fields.len() + notes.len()) as u16 + 5, form.title);
    let label = form.fields.iter().map(|f| f.label.len()).max().unwrap_or(0) as u16 + 3;
    for (i, field) in form.fields.iter().enumerate() {
        let (y, focused) = (i as u16, i == form.focus);
        if focused {
            let pointer = p.look.signs.pointer;
            p.put(inner, 0, y, 1, pointer, Role::Key);
        }
        p.put(inner, 2, y, label, field.label, if focused { Role::Title } else { Role::Text });
        let width = inner.width.saturating_sub(label + 2).min(34);
        if !field.input.text().is_empty() || focused {
            field.input.draw(p, inner, label + 2, y, width, focused);
        }
        if field.input.text().is_empty() {
            let empty = match (field.want, field.stands.as_str()) {
                (super::form::Want::Needed, _) => "needed".to_owned(),
                _ if matches!(
                    form.purpose,
                    FormPurpose::Play
                        | FormPurpose::Judging
                        | FormPurpose::Sample
                        | FormPurpose::Review
                        | FormPurpose::SteerPrompt(_)
                        | FormPurpose::SteerGrown(_)
                        | FormPurpose::Slice
                ) =>
                {
                    field.stands.clone()
                }
                (_, "") => "as in workspace.toml".to_owned(),
                (_, value) => format!("{value} (workspace.toml)"),
            };
            // Behind the cursor.
            let at = u16::from(focused);
            p.put(inner, label + 2 + at, y, width.saturating_sub(at), &empty, Role::Dim);
        }
        if !field.choices.is_empty() && focused {
            p.put(inner, label + 3 + width, y, inner.width, "left/right: choices", Role::Dim);
        }
    }
    let y = form.fields.len() as u16 + 1;
    match &form.error {
        Some((i, why)) => {
            let name = form.fields.get(*i).map_or("", |f| f.label);
            p.put(inner, 0, y, inner.width, &format!("{} {name}: {why}", p.look.signs.warning), Role::Bad);
        }
        None => {
            let hint = form.fields.get(form.focus).map_or("", |f| f.hint);
            p.put(inner, 0, y, inner.width, hint, Role::Dim);
        }
    }
    for (i, note) in notes.iter().enumerate() {
        p.put(inner, 0, y + 2 + i as u16, inner.width, note, Role::Text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_is_for_is_said_to_its_end_at_80_columns() {
        let of = String::new;
        for purpose in [
            TextPurpose::SearchRows,
            TextPurpose::FilterExamples,
            TextPurpose::FilterGrown,
            TextPurpose::Budget { run: of() },
            TextPurpose::FilterRuns { before: of() },
            TextPurpose::FilterBoard { before: of() },
            TextPurpose::Volume,
            TextPurpose::CountBy,
            TextPurpose::Histogram,
            TextPurpose::MapBy,
            TextPurpose::ImportExamples,
            TextPurpose::SplitStratum { stratum: of() },
            TextPurpose::Player { side: 0 },
        ] {
            assert!(text::width(hint(&purpose)) <= 74, "{}", hint(&purpose));
        }
    }
}
