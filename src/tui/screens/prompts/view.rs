//! Drawing of screen 2.

use ratatui::layout::Rect;

use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::theme::Role;
use crate::tui::widgets::Painter;

pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect) {
    if app.prompt_run().is_none() {
        let key = app.keymap.key_for(&[Context::Prompts, Context::Global], Action::LaunchPrompt);
        p.paragraph(area, 0, &format!("No prompt has been tuned yet. {key} tunes the prompts: candidates are written from what goes wrong, raced, and the best is measured on rows that chose nothing."), Role::Dim);
    }
}
