//! The short list under a filter being typed: keys, and the values of a key. Tab takes the chosen one.
//!
//! Filters over rows are completed by the engine: at most one question a key is under way, and what was typed meanwhile is asked when it
//! is answered, so that a field that has to be read first keeps nothing waiting. Runs and candidates are here already.

use ratatui::layout::Rect;

use super::{Layer, TextPurpose};
use crate::domain::api::Request;
use crate::domain::complete::{Completion, Suggestion, fitting, place, take};
use crate::domain::filter::{Filter, Test, quoted};
use crate::domain::words::nearest;
use crate::tui::app::{App, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::screens::{board, runs, short_key};
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, text};

/// Lines of the list.
pub const HEIGHT: u16 = 6;

/// Whose filter is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Rows,
    /// Keys to count rows by.
    Count,
    Runs,
    Board,
}

/// What the filter being typed could go on with.
#[derive(Clone, Debug, Default)]
pub struct Completing {
    /// What `found` was found for.
    text: String,
    found: Completion,
    selected: usize,
    /// Questions under way: tag, and the key whose values were asked for.
    asked: Vec<(u64, Option<String>)>,
    /// Something was typed that has not been asked for yet.
    stale: bool,
}

impl Completing {
    /// What is wrong with `text`, where that is known.
    pub fn error_of(&self, text: &str) -> Option<&str> {
        self.found.error.as_deref().filter(|_| self.text == text)
    }

    pub fn step(&mut self, action: Action) {
        self.selected = moved(self.selected, action, 1, self.found.items.len().saturating_sub(1));
    }

    fn fill(&mut self, text: String, found: Completion) {
        if self.found.items != found.items {
            self.selected = 0;
        }
        (self.text, self.found) = (text, found);
    }

    fn chosen(&self) -> Option<&Suggestion> {
        self.found.items.get(self.selected)
    }
}

impl App {
    /// Whose filter is being typed, where one is.
    pub fn completes(&self) -> Option<Of> {
        let Some(Layer::Text { purpose, .. }) = self.layers.last() else { return None };
        match purpose {
            TextPurpose::SearchRows => Some(Of::Rows),
            TextPurpose::CountBy | TextPurpose::Histogram | TextPurpose::MapBy => Some(Of::Count),
            TextPurpose::FilterRuns { .. } => Some(Of::Runs),
            TextPurpose::FilterBoard { .. } => Some(Of::Board),
            _ => None,
        }
    }

    /// The line being typed, and where its cursor stands.
    fn completed_line(&self) -> Option<(String, usize)> {
        match self.layers.last() {
            Some(Layer::Text { input, .. }) => Some((input.text().to_owned(), input.at())),
            _ => None,
        }
    }

    /// Looks for what the filter could go on with.
    pub(crate) fn complete(&mut self) {
        let (Some(of), Some((filter, at))) = (self.completes(), self.completed_line()) else { return };
        let here = |keys: Vec<Suggestion>, values: &dyn Fn(&str) -> Vec<Suggestion>| {
            let items = place(&filter, at).map_or_else(Vec::new, |place| match place.what.key() {
                None => fitting(keys.clone(), place.what.typed()),
                Some(key) => fitting(values(key), place.what.typed()),
            });
            Completion { items, error: unknown(&filter, &keys) }
        };
        match of {
            Of::Rows | Of::Count => {
                let key = place(&filter, at).and_then(|p| p.what.key().map(str::to_owned));
                self.completing.stale = self.completing.asked.iter().any(|(_, of)| *of == key);
                if self.completing.stale {
                    return;
                }
                let tag = self.ask(Purpose::Complete(filter.clone()), Request::Complete { filter, at });
                self.completing.asked.extend(tag.map(|tag| (tag, key)));
            }
            Of::Runs => {
                let runs = self.runs();
                let found =
                    here(runs::filter::keys(runs), &|key| runs::filter::values(runs, &key.to_lowercase()));
                self.completing.fill(filter, found);
            }
            Of::Board => {
                let Some(board) = &self.board.board else { return };
                let found = here(board::filter_keys(board), &|key| board::filter_values(board, key));
                self.completing.fill(filter, found);
            }
        }
    }

    pub(crate) fn completion_arrived(&mut self, tag: u64, filter: &str, found: Completion) {
        self.completing.asked.retain(|(t, _)| *t != tag);
        if !matches!(self.completes(), Some(Of::Rows | Of::Count)) {
            return;
        }
        // An answer to what has been typed over by now is better than none, until the next.
        let newest = self.completed_line().is_some_and(|(text, _)| text == filter);
        if newest || self.completing.stale {
            self.completing.fill(filter.to_owned(), found);
        }
        if std::mem::take(&mut self.completing.stale) && !newest {
            self.complete();
        }
    }

    pub(crate) fn completing_failed(&mut self, tag: u64) {
        self.completing.asked.retain(|(t, _)| *t != tag);
        self.completing.stale = false;
    }

    /// Tab: what is chosen goes into the line.
    pub(crate) fn take_completion(&mut self) {
        let Some((line, at)) = self.completed_line() else { return };
        // The list may still be that of an earlier text: it must fit this one.
        let chosen = self.completes().and_then(|_| self.completing.chosen()).map(|c| c.text.clone());
        let Some((place, chosen)) = place(&line, at).zip(chosen) else { return };
        if !chosen.to_lowercase().contains(&place.what.typed().to_lowercase()) {
            return;
        }
        let (line, at) = if self.completes() == Some(Of::Count) {
            let head = format!("{}{} ", line.get(..place.span.start).unwrap_or_default(), quoted(&chosen));
            (format!("{head}{}", line.get(place.span.end..).unwrap_or_default()), head.len())
        } else {
            take(&line, &place, &chosen)
        };
        if let Some(Layer::Text { input, .. }) = self.layers.last_mut() {
            input.set(line, at);
        }
        self.input_changed();
    }

    /// A filter that is known to be wrong stays in the line, with what is wrong below it.
    pub(crate) fn completing_refused(&self) -> bool {
        let line = self.completed_line();
        self.completes() == Some(Of::Rows)
            && line.is_some_and(|(text, _)| self.completing.error_of(&text).is_some())
    }
}

/// A key that none of these is, with the nearest.
fn unknown(filter: &str, keys: &[Suggestion]) -> Option<String> {
    let known = |key: &str| {
        keys.iter().any(|k| k.text.eq_ignore_ascii_case(key) || k.text.eq_ignore_ascii_case(short_key(key)))
    };
    let terms = Filter::parse(filter).terms;
    let key = terms.iter().find_map(|term| match &term.test {
        Test::Key { key, .. } if !known(key) => Some(key),
        _ => None,
    })?;
    let near = nearest(key, keys.iter().map(|k| k.text.as_str()));
    let near = near.map(|near| format!(", the nearest is `{near}`")).unwrap_or_default();
    Some(format!("nothing has `{key}`{near}"))
}

/// The list, from line `y` of `area` on.
pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect, y: u16) {
    if app.completes().is_none() {
        return;
    }
    let list = Rect { y: area.y + y, height: area.height.saturating_sub(y).min(HEIGHT), ..area };
    let Completing { found, selected, .. } = &app.completing;
    let rows = usize::from(list.height);
    let top = scroll(0, *selected, rows);
    for (y, (i, item)) in found.items.iter().enumerate().skip(top).take(rows).enumerate() {
        let (y, chosen) = (y as u16, i == *selected);
        let role = |plain| if chosen { Role::Selected } else { plain };
        if chosen {
            p.highlight(list, y, Role::Selected);
            let pointer = p.look.signs.pointer;
            p.put(list, 0, y, 1, pointer, Role::Selected);
        }
        let aside = (text::width(&text::clean(&item.aside)) as u16).min(list.width / 2);
        p.put(list, 2, y, list.width.saturating_sub(aside + 3), &item.text, role(Role::Text));
        p.put_right(list, list.width, y, aside, &item.aside, role(Role::Dim));
    }
}
