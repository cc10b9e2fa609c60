//! The sweep of the shown run: its curves over that run's, its runs in a list.

use std::cmp::Ordering;

use ratatui::layout::Rect;

use crate::domain::api::Request;
use crate::domain::run::RunRecord;
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::screens::{runs, short_key};
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, number, text};

use super::TrainState;

/// Those of one sweep were launched in the same moment: then by number.
fn by_age(a: &RunRecord, b: &RunRecord) -> Ordering {
    (a.created_ms, a.run.len(), &a.run).cmp(&(b.created_ms, b.run.len(), &b.run))
}

impl App {
    /// Runs of the sweep that the shown run belongs to, oldest first; none when it was launched by itself.
    pub fn sweep(&self) -> Vec<&RunRecord> {
        let Some(shown) = self.shown_run() else { return Vec::new() };
        let Some(group) = self.run(&shown).and_then(|r| r.group.as_ref()) else { return Vec::new() };
        let of_group = |r: &&RunRecord| r.group.as_ref().is_some_and(|g| g.name == group.name);
        let mut members: Vec<&RunRecord> = self.training_runs().filter(of_group).collect();
        members.sort_by(|a, b| by_age(a, b));
        members
    }

    /// Runs whose curves are drawn beside the shown one's: those that somebody chose, else the best of its sweep.
    pub fn overlaid(&self) -> Vec<String> {
        if !self.train.overlays.is_empty() || self.train.alone {
            return self.train.overlays.clone();
        }
        let shown = self.shown_run();
        let loss = |r: &RunRecord| r.metrics.get("eval_loss").copied().unwrap_or(f64::INFINITY);
        let mut others: Vec<&RunRecord> =
            self.sweep().into_iter().filter(|r| Some(&r.run) != shown.as_ref()).collect();
        others.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
        others.truncate(TrainState::MAX_OVERLAYS);
        // In the order of the list, so that a curve keeps its sign when losses change.
        others.sort_by(|a, b| by_age(a, b));
        others.into_iter().map(|r| r.run.clone()).collect()
    }

    /// Stop the hopeless runs of the shown run's sweep from now on, or leave them alone again.
    pub(crate) fn toggle_drop(&mut self) {
        let group = self.shown_run().and_then(|id| self.run(&id)?.group.clone());
        match group {
            Some(group) => {
                let (name, on) = (group.name, !group.drop_hopeless);
                self.ask(Purpose::DropHopeless(name.clone()), Request::DropHopeless { group: name, on });
            }
            None => self.notice(
                Mood::Plain,
                "the run belongs to no sweep; t with several values, such as 4,8,16, launches one",
            ),
        }
    }
}

/// One line for each run: sign of its curve, name, what is its own, loss, dev loss, state.
pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect, title: &str) {
    let members = app.sweep();
    let Some(group) = members.first().and_then(|r| r.group.as_ref()) else { return };
    let dropping = if group.drop_hopeless { ", hopeless ones are dropped" } else { "" };
    let title = format!("{title} {} {}{dropping}", p.look.signs.dot, text::clean(&group.name));
    let inner = p.pane(area, &title, false);
    let (shown, overlaid) = (app.shown_run(), app.overlaid());
    let own = |r: &RunRecord| -> String {
        let differs = |key: &str, value: &str| {
            members.iter().any(|m| !m.settings.iter().any(|(k, v)| k == key && v == value))
        };
        let own = r.settings.iter().filter(|(k, v)| differs(k, v));
        own.map(|(k, v)| format!("{}={v}", short_key(k))).collect::<Vec<_>>().join(" ")
    };
    let name_width = members.iter().map(|r| text::width(&r.run)).max().unwrap_or(0).min(16) as u16;
    let state_width = 14;
    // Where there is not room for all, the shown one is among those that are seen.
    let height = usize::from(inner.height);
    let at = members.iter().position(|r| Some(&r.run) == shown.as_ref()).unwrap_or(0);
    let from = (at + 1).saturating_sub(height);
    for (y, run) in members.iter().skip(from).take(height).enumerate() {
        let y = y as u16;
        let marks = p.look.signs.marks;
        let (sign, role) = match overlaid.iter().position(|o| *o == run.run) {
            _ if Some(&run.run) == shown.as_ref() => (marks[0], Role::Eval),
            Some(i) => (marks[(i + 1) % marks.len()], Role::series(i + 1)),
            None => (" ", Role::Dim),
        };
        p.put(inner, 0, y, 1, sign, role);
        p.put(inner, 2, y, name_width, &run.run, Role::Text);
        let metric = |name: &str| run.metrics.get(name).map_or("-".into(), |v| number::short(*v));
        let figures = format!("loss {}  dev {}", metric("loss"), metric("eval_loss"));
        let state = format!("{} {}", runs::state_sign(&p.look.signs, run.state), run.state);
        let right = (text::width(&figures) as u16 + 2 + state_width).min(inner.width);
        let x = 3 + name_width;
        p.put(inner, x, y, inner.width.saturating_sub(right + x + 1), &own(run), Role::Dim);
        p.put(inner, inner.width - right, y, right, &figures, Role::Text);
        p.put(
            inner,
            inner.width.saturating_sub(state_width),
            y,
            state_width,
            &state,
            runs::view::state_role(run.state),
        );
    }
}
