//! Screen 5: every candidate on every metric, and two of them row by row.

pub mod classes;
pub mod comparison;
pub mod detail;
pub mod view;

use crate::domain::api::Request;
use crate::domain::board::{Board, Comparison};
use crate::domain::outcome::{Flip, FlipKind};
use crate::tui::app::{App, Mood, Purpose, moved};
use crate::tui::keymap::{Action, Context};
use crate::tui::layers::{Layer, TextPurpose};
use crate::tui::screens::play::Who;

/// Where the focus is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    Candidates,
    Comparison,
}

#[derive(Debug, Default)]
pub struct BoardState {
    pub board: Option<Board>,
    pub selected: usize,
    pub pane: Pane,
    /// Candidates chosen for the comparison: A, then B.
    pub a: Option<String>,
    pub b: Option<String>,
    pub comparison: Option<Comparison>,
    /// The comparison under way.
    pub asked: Option<(String, String)>,
    pub by_stratum: bool,
    pub kind: Option<FlipKind>,
    /// The selected flip, among those shown.
    pub flip: usize,
}

impl BoardState {
    pub const fn context(&self) -> Context {
        match self.pane {
            Pane::Candidates => Context::Board,
            Pane::Comparison => Context::Flips,
        }
    }

    pub fn fill(&mut self, board: Board) {
        let here = self.selected_name();
        self.board = Some(board);
        let rows = self.board.iter().flat_map(|b| &b.rows);
        if let Some(at) = here.and_then(|name| rows.clone().position(|r| r.candidate == name)) {
            self.selected = at;
        }
        self.selected = self.selected.min(rows.count().saturating_sub(1));
    }

    pub fn selected_name(&self) -> Option<String> {
        self.board.as_ref()?.rows.get(self.selected).map(|r| r.candidate.clone())
    }

    /// The flips of the comparison that are shown.
    pub fn flips(&self) -> Vec<&Flip> {
        let flips = self.comparison.iter().flat_map(|c| &c.flips);
        flips.filter(|f| self.kind.is_none_or(|k| f.flip == k)).collect()
    }

    pub fn comparison_arrived(&mut self, a: &str, b: &str, comparison: Comparison) {
        if self.asked.as_ref().is_some_and(|(x, y)| x == a && y == b) {
            self.asked = None;
        }
        // Only the newest wish counts.
        if self.a.as_deref() == Some(a) && self.b.as_deref() == Some(b) {
            let row = self.flips().get(self.flip).map(|f| f.row.clone());
            self.comparison = Some(comparison);
            let same = row.and_then(|row| self.flips().iter().position(|f| f.row == row));
            self.flip = same.unwrap_or(0);
        }
    }

    pub fn back(&mut self) {
        match self.pane {
            Pane::Comparison if self.kind.is_some() => self.kind = None,
            Pane::Comparison => self.pane = Pane::Candidates,
            Pane::Candidates => (self.a, self.b, self.comparison) = (None, None, None),
        }
    }

    /// First A, then B; choosing one of them again takes it away; a third takes the place of B.
    fn pick(&mut self, name: String) {
        self.comparison = None;
        if self.a.as_ref() == Some(&name) {
            self.a = self.b.take();
        } else if self.b.as_ref() == Some(&name) {
            self.b = None;
        } else if self.a.is_none() {
            self.a = Some(name);
        } else {
            self.b = Some(name);
        }
    }
}

impl App {
    /// The selected flip's row through the stages of A and B.
    pub(crate) fn trace_flip(&mut self) {
        let row = self.board.flips().get(self.board.flip).map(|f| f.row.clone());
        let of = [self.board.a.clone(), self.board.b.clone()].into_iter().flatten().collect();
        match row {
            Some(row) if !self.board.by_stratum => self.open_trace(row, of),
            _ => self.notice(Mood::Plain, "select a flip first"),
        }
    }

    /// Asks for the comparison of A and B, unless it is here or on its way.
    fn compare(&mut self) {
        let (Some(a), Some(b)) = (self.board.a.clone(), self.board.b.clone()) else { return };
        if self.board.asked.as_ref() == Some(&(a.clone(), b.clone())) {
            return;
        }
        let request = Request::Compare { a: a.clone(), b: b.clone(), metric: None };
        if self.ask(Purpose::Compare(a.clone(), b.clone()), request).is_some() {
            self.board.asked = Some((a, b));
        }
    }

    /// The comparison again, with what is on the board now.
    pub(crate) fn refresh_comparison(&mut self) {
        self.compare();
    }

    /// The baseline as A and a candidate as B.
    pub(crate) fn compare_with_baseline(&mut self, candidate: &str) {
        let Some(baseline) = self.baseline() else {
            return self.notice(
                Mood::Plain,
                "there is no baseline to compare with yet; e evaluates the pipeline as it stands",
            );
        };
        if baseline == candidate {
            return self
                .notice(Mood::Plain, format!("{candidate} is the baseline itself; c chooses two others"));
        }
        if self.board.b.as_deref() != Some(candidate) || self.board.a.as_ref() != Some(&baseline) {
            self.board.comparison = None;
            (self.board.flip, self.board.kind) = (0, None);
        }
        (self.board.a, self.board.b) = (Some(baseline), Some(candidate.to_owned()));
        self.board.pane = Pane::Comparison;
        self.compare();
    }

    pub(crate) fn act_board(&mut self, action: Action) {
        let page = usize::from(self.size.1 / 2);
        let board = &mut self.board;
        match action {
            Action::NextPane | Action::PreviousPane => {
                board.pane = if board.pane == Pane::Candidates { Pane::Comparison } else { Pane::Candidates };
            }
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::First | Action::Last => {
                match board.pane {
                    Pane::Candidates => {
                        let n = board.board.as_ref().map_or(0, |b| b.rows.len());
                        board.selected =
                            moved(board.selected, action, page, n.saturating_sub(1)).min(n.saturating_sub(1));
                    }
                    Pane::Comparison => {
                        let n = if board.by_stratum {
                            board.comparison.as_ref().map_or(0, |c| c.strata.len())
                        } else {
                            board.flips().len()
                        };
                        board.flip =
                            moved(board.flip, action, page, n.saturating_sub(1)).min(n.saturating_sub(1));
                    }
                }
            }
            Action::Open => match board.pane {
                Pane::Candidates => {
                    if let Some(name) = board.selected_name() {
                        self.compare_with_baseline(&name);
                    }
                }
                Pane::Comparison if board.by_stratum => {}
                Pane::Comparison if !board.flips().is_empty() => self.layers.push(Layer::Flip { scroll: 0 }),
                Pane::Comparison => {}
            },
            Action::Pick => {
                if let Some(name) = board.selected_name() {
                    board.pick(name);
                    (board.flip, board.kind) = (0, None);
                    if board.a.is_some() && board.b.is_some() {
                        board.pane = Pane::Comparison;
                    }
                    self.compare();
                }
            }
            Action::Swap => {
                std::mem::swap(&mut board.a, &mut board.b);
                if board.b.is_none() {
                    std::mem::swap(&mut board.a, &mut board.b);
                }
                board.comparison = None;
                self.compare();
            }
            Action::ByStratum => {
                board.by_stratum = !board.by_stratum;
                board.flip = 0;
            }
            Action::FilterFlips => {
                board.kind = match board.kind {
                    None => Some(FlipKind::Regressed),
                    Some(FlipKind::Regressed) => Some(FlipKind::Fixed),
                    Some(FlipKind::Fixed) => Some(FlipKind::Churned),
                    Some(FlipKind::Churned) => None,
                };
                board.flip = 0;
            }
            Action::CandidateDetail => self.open_detail(),
            Action::Trace => self.trace_flip(),
            Action::FlipRows => {
                let ids: Vec<String> = board.flips().iter().map(|f| f.row.clone()).collect();
                let title = format!(
                    "flips of {} against {}",
                    board.b.as_deref().unwrap_or("B"),
                    board.a.as_deref().unwrap_or("A")
                );
                if ids.is_empty() {
                    self.notice(Mood::Plain, "there are no flips to open");
                } else {
                    self.show_rows(title, ids);
                }
            }
            Action::PlayCandidate => match board.selected_name() {
                Some(name) => self.play_candidate(name),
                None => self
                    .notice(Mood::Plain, "there is no candidate yet; e evaluates the pipeline as it stands"),
            },
            Action::PlayRow => {
                let flips = board.flips();
                let flip = flips.get(board.flip).filter(|_| !board.by_stratum);
                let row = flip.map(|f| (f.row.clone(), f.input.clone()));
                // Those that are compared answer.
                if let (Some(a), Some(b)) = (board.a.clone(), board.b.clone()) {
                    (self.play.sides[0].who, self.play.sides[1].who) = (Who::Named(a), Who::Named(b));
                }
                self.play_row(row);
            }
            Action::RenameCandidate => {
                if let Some(name) = board.selected_name() {
                    self.type_line(
                        format!("new name of {name}"),
                        name.clone(),
                        TextPurpose::NameCandidate { candidate: name },
                    );
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_chosen_one_after_the_other_and_taken_back() {
        let mut state = BoardState::default();
        state.pick("base".into());
        state.pick("lora".into());
        assert_eq!((state.a.as_deref(), state.b.as_deref()), (Some("base"), Some("lora")));
        state.pick("other".into());
        assert_eq!(state.b.as_deref(), Some("other"));
        state.pick("base".into());
        assert_eq!((state.a.as_deref(), state.b.as_deref()), (Some("other"), None));
    }

    #[test]
    fn an_answer_that_is_no_longer_wished_for_is_dropped() {
        let mut state = BoardState { a: Some("x".into()), b: Some("y".into()), ..BoardState::default() };
        state.comparison_arrived("x", "old", Comparison::default());
        assert!(state.comparison.is_none());
        state.comparison_arrived("x", "y", Comparison::default());
        assert!(state.comparison.is_some());
    }
}
