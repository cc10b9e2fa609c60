//! Drawing of screen 3.

use ratatui::layout::Rect;

use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::theme::Role;
use crate::tui::widgets::Painter;

pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect) {
    if app.trajectory_run().is_none() {
        let key = app.keymap.key_for(&[Context::Trajectories, Context::Global], Action::LaunchTrajectory);
        p.paragraph(area, 0, &format!("There are no worked examples yet. {key} looks for them: for each row that goes wrong, the smallest set that turns the answer to gold."), Role::Dim);
    }
}
