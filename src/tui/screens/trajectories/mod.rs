//! Screen 3: stored examples, how each was found, and the run that finds them.

pub mod view;

use crate::domain::run::{RunKind, RunRecord};
use crate::tui::app::App;
use crate::tui::keymap::Action;

#[derive(Debug, Default)]
pub struct TrajectoriesState {
    /// The run that somebody chose; none: one under way, else the newest.
    pub shown: Option<String>,
}

impl TrajectoriesState {
    pub fn back(&mut self) {
        self.shown = None;
    }
}

impl App {
    fn trajectory_runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs().iter().filter(|r| r.kind == RunKind::Trajectory)
    }

    /// The run that the screen shows.
    pub fn trajectory_run(&self) -> Option<String> {
        let chosen =
            self.trajectories.shown.clone().filter(|id| self.runs.is_none() || self.run(id).is_some());
        let under_way = || self.trajectory_runs().find(|r| !r.state.is_final());
        chosen.or_else(|| under_way().or_else(|| self.trajectory_runs().next()).map(|r| r.run.clone()))
    }

    pub(crate) fn act_trajectories(&mut self, action: Action) {
        self.act_run(self.trajectory_run(), action);
    }
}
