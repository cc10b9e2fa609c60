//! A row as a training run would see it, trained tokens marked; lengths, batches, and what is left out.

use ratatui::layout::Rect;

use super::Layer;
use super::view::boxed;
use crate::domain::api::Request;
use crate::domain::preview::Preview;
use crate::domain::words::counted;
use crate::tui::app::{App, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, Piece, diff, number, text};

/// The layer's state.
#[derive(Clone, Debug)]
pub struct Previewed {
    pub row: String,
    /// None while it is being made.
    pub found: Option<Result<Preview, String>>,
    pub scroll: usize,
}

impl App {
    pub(crate) fn open_preview(&mut self, row: String) {
        let request = Request::Preview { row: Some(row.clone()), set: Vec::new() };
        self.ask(Purpose::Preview(row.clone()), request);
        self.layers.push(Layer::Preview(Previewed { row, found: None, scroll: 0 }));
    }

    pub(crate) fn preview_arrived(&mut self, row: &str, found: Result<Preview, String>) {
        let layer = self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Preview(view) if view.row == row => Some(view),
            _ => None,
        });
        if let Some(view) = layer {
            view.found = Some(found);
        }
    }

    pub(crate) fn act_preview(&mut self, action: Action, height: usize) {
        let Some(Layer::Preview(view)) = self.layers.last_mut() else { return };
        match action {
            Action::Back => drop(self.layers.pop()),
            _ => view.scroll = moved(view.scroll, action, height, 2000),
        }
    }
}

/// Bars keep the blanks that they are set with.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    if text::width(line) <= width { vec![line.to_owned()] } else { text::wrap(line, width, 4) }
}

pub fn draw(p: &mut Painter<'_>, body: Rect, view: &Previewed) {
    let row = text::one_line(&view.row, " ");
    let rendered = view.found.as_ref().and_then(|found| found.as_ref().ok()?.rendered.as_ref());
    let title = match rendered.and_then(|row| row.not_learned.as_ref()) {
        Some(why) => format!("row {row}: {why}, never trained on; if it were"),
        None => format!("row {row} as it would be trained on"),
    };
    let inner = boxed(p, body, 120, body.height, &title);
    let found = match &view.found {
        None => {
            p.paragraph(inner, 1, "rendering the rows of the train part ...", Role::Dim);
            return;
        }
        Some(Err(why)) => {
            p.paragraph(inner, 1, why, Role::Bad);
            return;
        }
        Some(Ok(found)) => found,
    };
    let width = usize::from(inner.width);
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    if let Some(row) = &found.rendered {
        let head =
            format!("{}, {} trained (in brackets)", counted(row.tokens, "token"), number::count(row.trained));
        lines.push(vec![(head, Role::Title)]);
        if let Some(why) = &row.dropped {
            lines.push(vec![(format!("{} left out: {why}", p.look.signs.warning), Role::Warning)]);
        }
        let piece = |(said, trained): &(String, bool)| -> Piece {
            let said = text::clean(said);
            if *trained { (format!("[{said}]"), Role::Good) } else { (said.into_owned(), Role::Text) }
        };
        lines.extend(diff::wrapped(row.pieces.iter().map(piece).collect(), width));
        lines.push(Vec::new());
    }
    for (i, line) in found.lines(width).into_iter().enumerate() {
        let role = if i == 0 { Role::Title } else { Role::Text };
        lines.extend(wrapped(&line, width).into_iter().map(|line| vec![(line, role)]));
    }
    // The last line says that there is more.
    let all = usize::from(inner.height);
    let height = if lines.len() > all { all.saturating_sub(1) } else { all };
    let from = view.scroll.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(from).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 12, " more: pgdn ", Role::Key);
    }
}
