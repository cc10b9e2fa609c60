//! Screen 2: versions of the prompts, and the run that tunes them.

pub mod view;

use crate::domain::run::{RunKind, RunRecord};
use crate::tui::app::App;
use crate::tui::keymap::Action;

#[derive(Debug, Default)]
pub struct PromptsState {
    /// The run that somebody chose; none: one under way, else the newest.
    pub shown: Option<String>,
}

impl PromptsState {
    pub fn back(&mut self) {
        self.shown = None;
    }
}

impl App {
    fn prompt_runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs().iter().filter(|r| r.kind == RunKind::Prompt)
    }

    /// The run that the screen shows.
    pub fn prompt_run(&self) -> Option<String> {
        let chosen = self.prompts.shown.clone().filter(|id| self.runs.is_none() || self.run(id).is_some());
        let under_way = || self.prompt_runs().find(|r| !r.state.is_final());
        chosen.or_else(|| under_way().or_else(|| self.prompt_runs().next()).map(|r| r.run.clone()))
    }

    pub(crate) fn act_prompts(&mut self, action: Action) {
        self.act_run(self.prompt_run(), action);
    }
}
