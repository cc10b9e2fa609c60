//! Screen 7: every run, what it was set to, what became of it.

pub mod difference;
pub mod filter;
pub mod view;

use crate::domain::filter::Filter;
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::tui::app::{App, Mood, moved};
use crate::tui::keymap::Action;
use crate::tui::layers::{Layer, TextPurpose};
use crate::tui::signs::Signs;

/// Where the focus is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    List,
    Detail,
}

#[derive(Debug, Default)]
pub struct RunsState {
    /// The selected run; none: the newest.
    pub selected: Option<String>,
    pub filter: String,
    /// Picked for a difference, at most two.
    pub picked: Vec<String>,
    pub pane: Pane,
    pub scroll: usize,
}

impl RunsState {
    pub fn back(&mut self) {
        if self.pane == Pane::Detail {
            self.pane = Pane::List;
        } else if !self.filter.is_empty() {
            self.filter.clear();
        } else {
            self.picked.clear();
        }
    }
}

/// The sign of a state.
pub const fn state_sign(signs: &Signs, state: RunState) -> &'static str {
    match state {
        RunState::Queued => signs.queued,
        RunState::Running => signs.running,
        RunState::Paused => signs.paused,
        RunState::Done | RunState::Stopped => signs.right,
        RunState::Cancelled => signs.open,
        RunState::Failed => signs.wrong,
        RunState::Interrupted => signs.warning,
    }
}

impl App {
    /// The runs that the filter lets through, newest first.
    pub fn listed_runs(&self) -> Vec<&RunRecord> {
        let filter = Filter::parse(&self.runs_screen.filter);
        self.runs().iter().filter(|r| filter::admits(&filter, r)).collect()
    }

    pub fn selected_run(&self) -> Option<String> {
        let listed = self.listed_runs();
        let chosen = self.runs_screen.selected.as_ref().and_then(|id| listed.iter().find(|r| r.run == *id));
        chosen.or_else(|| listed.first()).map(|r| r.run.clone())
    }

    pub(crate) fn act_runs(&mut self, action: Action) {
        let selected = self.selected_run();
        match action {
            Action::NextPane | Action::PreviousPane => {
                let pane = &mut self.runs_screen.pane;
                *pane = if *pane == Pane::List { Pane::Detail } else { Pane::List };
            }
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::First | Action::Last => {
                let page = usize::from(self.size.1 / 2);
                if self.runs_screen.pane == Pane::Detail {
                    self.runs_screen.scroll = moved(self.runs_screen.scroll, action, page, 1000);
                    return;
                }
                let ids: Vec<String> = self.listed_runs().iter().map(|r| r.run.clone()).collect();
                let at = selected.and_then(|id| ids.iter().position(|r| *r == id)).unwrap_or(0);
                let to =
                    moved(at, action, page, ids.len().saturating_sub(1)).min(ids.len().saturating_sub(1));
                self.runs_screen.selected = ids.get(to).cloned();
                self.runs_screen.scroll = 0;
            }
            Action::Open => {
                match selected.as_ref().and_then(|id| self.run(id)).map(|r| (r.run.clone(), r.kind)) {
                    Some((run, RunKind::Train | RunKind::LrRange)) => self.show_training(run),
                    Some((run, RunKind::Grow)) => self.open_grown(Some(run)),
                    Some(_) => self.runs_screen.pane = Pane::Detail,
                    None => {}
                }
            }
            Action::Search => {
                let before = self.runs_screen.filter.clone();
                self.type_line("filter the runs", before.clone(), TextPurpose::FilterRuns { before });
            }
            Action::Pick => {
                let picked = &mut self.runs_screen.picked;
                if let Some(id) = selected {
                    match picked.iter().position(|r| *r == id) {
                        Some(at) => drop(picked.remove(at)),
                        None => {
                            if picked.len() == 2 {
                                picked.remove(0);
                            }
                            picked.push(id);
                        }
                    }
                }
            }
            Action::Difference => {
                let mut two = self.runs_screen.picked.clone();
                // One picked run is compared with the selected one.
                two.extend(selected.filter(|id| two.len() == 1 && two[0] != *id));
                match <[String; 2]>::try_from(two) {
                    Ok([a, b]) => self.layers.push(Layer::Difference { a, b, scroll: 0 }),
                    Err(_) => {
                        self.notice(Mood::Plain, "pick a run with space, then select another and press d");
                    }
                }
            }
            _ => self.act_run(selected, action),
        }
    }
}
