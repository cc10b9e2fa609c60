//! One candidate's detail over the whole screen: classes and what they are taken for, calibration, fields, tools, stages, strata.

use ratatui::layout::Rect;

use crate::domain::api::Request;
use crate::domain::detail::{Detail, Section, sections};
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::layers::Layer;
use crate::tui::layers::view::boxed;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, text};

/// Widest cell.
const CELL: usize = 60;

/// The layer's state: whose detail, and what came of asking for it.
#[derive(Clone, Debug, PartialEq)]
pub struct DetailView {
    pub candidate: String,
    /// None while it is being read.
    pub found: Option<Result<Box<Detail>, String>>,
    pub scroll: usize,
}

impl App {
    /// Opens the detail of the selected candidate.
    pub(crate) fn open_detail(&mut self) {
        let Some(candidate) = self.board.selected_name() else {
            self.notice(Mood::Plain, "there is no candidate yet; e evaluates the pipeline as it stands");
            return;
        };
        self.layers.push(Layer::Detail(DetailView { candidate: candidate.clone(), found: None, scroll: 0 }));
        self.ask(Purpose::Detail(candidate.clone()), Request::Detail { candidate });
    }

    /// What was asked for is here, unless it is no longer looked at.
    pub(crate) fn detail_arrived(&mut self, candidate: &str, found: Result<Box<Detail>, String>) {
        for layer in &mut self.layers {
            if let Layer::Detail(view) = layer
                && view.candidate == candidate
            {
                view.found = Some(found);
                return;
            }
        }
    }
}

pub fn draw(p: &mut Painter<'_>, body: Rect, view: &DetailView) {
    let inner = boxed(p, body, 160, body.height, &format!("detail {} {}", p.look.signs.dot, view.candidate));
    let lines: Vec<(String, Role)> = match &view.found {
        None => vec![("reading the outcomes ...".into(), Role::Dim)],
        Some(Err(why)) => vec![(why.clone(), Role::Bad)],
        Some(Ok(detail)) => sections(detail).iter().flat_map(lines).collect(),
    };
    let height = usize::from(inner.height);
    let from = view.scroll.min(lines.len().saturating_sub(height));
    for (y, (line, role)) in lines.iter().skip(from).take(height).enumerate() {
        p.put(inner, 0, y as u16, inner.width, line, *role);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 12, " more: pgdn ", Role::Key);
    }
}

fn lines(section: &Section) -> Vec<(String, Role)> {
    let mut lines = vec![(section.title.clone(), Role::Title)];
    let cell = |text_: &str| {
        let line = text::one_line(text_, " ");
        line.chars().take(CELL).collect::<String>()
    };
    let right = |i: usize| section.header.get(i).is_some_and(|h| h.starts_with('>'));
    let header: Vec<String> =
        section.header.iter().map(|h| h.strip_prefix('>').unwrap_or(h).to_owned()).collect();
    let rows: Vec<Vec<String>> =
        section.rows.iter().map(|row| row.iter().map(|c| cell(c)).collect()).collect();
    if !rows.is_empty() {
        let width = |i: usize| {
            let cells = rows.iter().chain([&header]).filter_map(|row| row.get(i));
            cells.map(|c| text::width(c)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let laid = |row: &Vec<String>| {
            let mut line = String::from("  ");
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width.saturating_sub(text::width(cell)));
                if right(i) {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
                line.push_str("  ");
            }
            line.trim_end().to_owned()
        };
        lines.push((laid(&header), Role::Dim));
        lines.extend(rows.iter().map(|row| (laid(row), Role::Text)));
    }
    lines.extend(section.notes.iter().map(|note| (format!("  {note}"), Role::Text)));
    lines.push((String::new(), Role::Text));
    lines
}
