//! One wrong row, three remedies: what each would fix and take, and starting one.

use ratatui::layout::Rect;

use super::Layer;
use super::view::boxed;
use crate::domain::api::Request;
use crate::domain::remedy::Remedies;
use crate::tui::app::{App, Mood, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, text};

/// Lines of one text.
const LINES: usize = 12;

/// The layer's state.
#[derive(Clone, Debug)]
pub struct Mending {
    pub row: String,
    /// None: the engine chooses.
    pub candidate: Option<String>,
    /// None while it is being worked out.
    pub found: Option<Result<Remedies, String>>,
    pub selected: usize,
}

impl App {
    /// What could be done about this row, as this candidate answers it.
    pub(crate) fn open_remedies(&mut self, row: String, candidate: Option<String>) {
        let request = Request::Remedies { row: row.clone(), candidate: candidate.clone() };
        self.ask(Purpose::Remedies { row: row.clone(), candidate: candidate.clone() }, request);
        self.layers.push(Layer::Mending(Mending { row, candidate, found: None, selected: 0 }));
    }

    pub(crate) fn remedies_arrived(
        &mut self,
        row: &str,
        candidate: Option<&str>,
        found: Result<Remedies, String>,
    ) {
        let mending = self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Mending(m) if m.row == row && m.candidate.as_deref() == candidate => Some(m),
            _ => None,
        });
        if let Some(mending) = mending {
            mending.found = Some(found);
        }
    }

    pub(crate) fn act_mending(&mut self, action: Action) {
        let Some(Layer::Mending(mending)) = self.layers.last_mut() else { return };
        let remedies = match &mending.found {
            Some(Ok(found)) => &found.remedies[..],
            _ => &[],
        };
        match action {
            Action::Back => drop(self.layers.pop()),
            Action::StartRemedy => match remedies.get(mending.selected) {
                None => {}
                Some(remedy) if remedy.refused.is_some() => {
                    let why = remedy.refused.clone().unwrap_or_default();
                    self.notice(Mood::Plain, format!("cannot be started: {}", text::one_line(&why, "; ")));
                }
                Some(remedy) => {
                    let (kind, set) = (remedy.kind, remedy.set.clone());
                    self.layers.pop();
                    self.launch(kind, set, None);
                }
            },
            _ => mending.selected = moved(mending.selected, action, 1, remedies.len().saturating_sub(1)),
        }
    }
}

/// ```text
///   whose answer, gold, how many rows are like it
/// > prompt edit: what is done
///     fixes: ...
///     takes: ...
///     with: key=value ...
///   stored example: fixes ...; takes ...
/// ```
pub fn draw(p: &mut Painter<'_>, body: Rect, mending: &Mending) {
    let title = format!("row {}: three remedies", text::one_line(&mending.row, " "));
    let inner = boxed(p, body, 110, body.height, &title);
    let found = match &mending.found {
        None => {
            p.paragraph(inner, 1, "counting rows like it and reading past runs ...", Role::Dim);
            return;
        }
        Some(Err(why)) => {
            p.paragraph(inner, 1, why, Role::Bad);
            return;
        }
        Some(Ok(found)) => found,
    };
    let width = usize::from(inner.width);
    let mut lines: Vec<(String, Role)> = Vec::new();
    for (i, line) in found.head().iter().enumerate() {
        let role = if i == 0 { Role::Text } else { Role::Dim };
        lines.extend(text::wrap(line, width, LINES).into_iter().map(|line| (line, role)));
    }
    lines.push((String::new(), Role::Text));
    let mut chosen = 0..0;
    for (i, remedy) in found.remedies.iter().enumerate() {
        if i != mending.selected {
            // One line each: what it fixes and takes.
            let line = match (&remedy.refused, &remedy.expected) {
                (Some(_), _) => "cannot be started".to_owned(),
                (None, Some(expected)) => format!("fixes {}", expected.short(found.wrong)),
                (None, None) => "no evidence yet".into(),
            };
            let takes = remedy.price.short().filter(|_| remedy.refused.is_none());
            let takes = takes.map_or_else(String::new, |short| format!("; takes {short}"));
            lines.push((format!("  {}: {line}{takes}", remedy.name()), Role::Text));
            continue;
        }
        let start = lines.len();
        let mut say = |indent: usize, text_: &str, role: Role| {
            let wrapped = text::wrap(text_, width.saturating_sub(indent), LINES);
            lines.extend(wrapped.into_iter().map(|line| (format!("{:indent$}{line}", ""), role)));
        };
        say(0, &format!("> {}: {}", remedy.name(), remedy.what), Role::Title);
        match &remedy.refused {
            Some(why) => say(4, &format!("cannot be started: {why}"), Role::Warning),
            None => {
                let known = if remedy.expected.is_some() { Role::Text } else { Role::Dim };
                say(4, &format!("fixes: {}", found.fixes(remedy)), known);
                say(4, &format!("takes: {}", remedy.price.line()), Role::Text);
                let set: Vec<String> = remedy.set.iter().map(|(k, v)| format!("{k}={v}")).collect();
                say(4, &format!("with: {}", set.join("  ")), Role::Dim);
            }
        }
        chosen = start..lines.len();
    }
    // The chosen one is seen whole where it fits.
    let height = usize::from(inner.height);
    let from = chosen.end.saturating_sub(height).min(chosen.start);
    for (y, (line, role)) in lines.iter().skip(from).take(height).enumerate() {
        p.put(inner, 0, y as u16, inner.width, line, *role);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 14, " more: down ", Role::Key);
    }
}
