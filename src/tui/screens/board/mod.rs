//! Screen 5: every candidate on every metric, and two of them row by row.

pub mod classes;
pub mod columns;
pub mod comparison;
pub mod detail;
pub mod over;
pub mod timeline;
pub mod view;

use std::collections::BTreeSet;

use columns::Column;

use crate::domain::api::Request;
use crate::domain::board::{Board, BoardRow, Comparison};
use crate::domain::complete::Suggestion;
use crate::domain::filter::{Filter, Term, Test, number};
use crate::domain::outcome::{Flip, FlipKind};
use crate::domain::timeline::Timeline;
use crate::domain::trilemma::Pareto;
use crate::score::trilemma::at_volume;
use crate::tui::app::{App, Mood, Purpose, moved};
use crate::tui::keymap::{Action, Context};
use crate::tui::layers::picker::Picker;
use crate::tui::layers::{Layer, TextPurpose};
use crate::tui::screens::play::Who;
use crate::tui::widgets::text;

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
    /// Places in the board of the candidates that are shown, in their order.
    pub order: Vec<usize>,
    /// A place in `order`.
    pub selected: usize,
    pub sort: Sort,
    /// Words that a candidate's name or rung must hold; `rung:NAME`, `is:front`, `is:dominated`.
    pub filter: String,
    /// The timeline as it was last read, and of which run.
    pub timeline: Option<(Option<String>, Timeline)>,
    /// Rows a month.
    pub volume: Option<u64>,
    /// What the board has something for, and the cells that names take.
    pub columns: Vec<Column>,
    pub name_width: u16,
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

/// By which column, and whether the worse end stands first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    pub by: Column,
    pub turned: bool,
}

impl Default for Sort {
    fn default() -> Self {
        Self { by: Column::Age, turned: false }
    }
}

/// Whether a row of the board fits a term of the filter: `rung:lora`, `is:front`, `accuracy>.8`, words of name or rung.
fn fits(board: &Board, row: &BoardRow, term: &Term) -> bool {
    let lower = |text: &str| text.to_lowercase();
    let holds = match &term.test {
        Test::Word(word) => {
            lower(&row.candidate).contains(&lower(word)) || lower(&row.rung).contains(&lower(word))
        }
        Test::Key { key, op, values } => {
            let figure = || match key.as_str() {
                "score" => row.metrics.get(&board.primary).copied(),
                key => row.metrics.get(key).copied(),
            };
            let one = |value: &String| match (key.as_str(), lower(value).as_str()) {
                ("rung", rung) => lower(&row.rung).starts_with(rung),
                ("name", name) => lower(&row.candidate).contains(name),
                ("is", "front") => row.trilemma.pareto == Pareto::Front,
                ("is", "dominated") => matches!(row.trilemma.pareto, Pareto::Dominated { .. }),
                (_, value) => figure().zip(number(value)).is_some_and(|(got, wanted)| op.holds(got, wanted)),
            };
            values.is_empty() || values.iter().any(one)
        }
    };
    holds != term.negated
}

/// Keys of the board's filter.
pub fn filter_keys(board: &Board) -> Vec<Suggestion> {
    let named = |text: &str, aside: &str| Suggestion { text: text.to_owned(), aside: aside.to_owned() };
    let mut keys = vec![
        named("rung", "baseline, prompt, trajectory, lora"),
        named("name", "words of the candidate's name"),
        named("is", "front or dominated"),
        named("score", "what candidates are ordered by"),
    ];
    let metrics: BTreeSet<&String> = board.rows.iter().flat_map(|r| r.metrics.keys()).collect();
    keys.extend(metrics.into_iter().map(|name| named(name, "a metric")));
    keys
}

/// Values of a key of the board's filter.
pub fn filter_values(board: &Board, key: &str) -> Vec<Suggestion> {
    let values: BTreeSet<&str> = match key {
        "rung" => board.rows.iter().map(|r| r.rung.as_str()).collect(),
        "name" => board.rows.iter().map(|r| r.candidate.as_str()).collect(),
        "is" => BTreeSet::from(["dominated", "front"]),
        _ => BTreeSet::new(),
    };
    let named = |text: &str| Suggestion { text: text.to_owned(), aside: String::new() };
    values.into_iter().filter(|text| !text.is_empty()).map(named).collect()
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
        self.arrange(here);
    }

    /// Rows that are new or changed.
    pub fn merge(&mut self, news: Board) {
        let here = self.selected_name();
        match &mut self.board {
            Some(board) => board.merge(news),
            None => self.board = Some(news),
        }
        self.arrange(here);
    }

    /// Works out what is shown, in which order; the selection stays on the candidate `here`.
    pub fn arrange(&mut self, here: Option<String>) {
        let Some(board) = &mut self.board else { return };
        // Whom one calls instead of training: A, where one was chosen.
        if at_volume(board, self.volume, self.a.as_deref()).is_err() {
            let _ = at_volume(board, self.volume, None);
        }
        self.columns = Column::all(board, self.volume.is_some());
        let widest = board.rows.iter().map(|r| text::width(&r.candidate)).max().unwrap_or(0);
        self.name_width = (widest + 1).clamp(8, 500) as u16;
        let filter = Filter::parse(&self.filter);
        let admits = |at: &usize| {
            board.rows.get(*at).is_some_and(|row| filter.terms.iter().all(|term| fits(board, row, term)))
        };
        self.order = (0..board.rows.len()).filter(admits).collect();
        self.sort.by.sort(&mut self.order, board, self.sort.turned);
        let place = |name: &String| {
            let of = |at: &usize| board.rows.get(*at).is_some_and(|r| r.candidate == *name);
            self.order.iter().position(of)
        };
        if let Some(at) = here.as_ref().and_then(place) {
            self.selected = at;
        }
        self.selected = self.selected.min(self.order.len().saturating_sub(1));
    }

    pub fn selected_row(&self) -> Option<&BoardRow> {
        self.board.as_ref()?.rows.get(*self.order.get(self.selected)?)
    }

    pub fn selected_name(&self) -> Option<String> {
        self.selected_row().map(|r| r.candidate.clone())
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

    /// Remedies for the selected flip, as the side answers it that has it wrong: B, and where B fixed it A.
    pub(crate) fn mend_flip(&mut self) {
        let flip = self.board.flips().get(self.board.flip).map(|f| (f.row.clone(), f.flip));
        match flip {
            Some((row, kind)) if !self.board.by_stratum => {
                let side = if kind == FlipKind::Fixed { &self.board.a } else { &self.board.b };
                self.open_remedies(row, side.clone());
            }
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

    /// One candidate against another.
    pub(crate) fn compare_two(&mut self, a: String, b: String) {
        if self.board.a.as_ref() != Some(&a) || self.board.b.as_ref() != Some(&b) {
            self.board.comparison = None;
            (self.board.flip, self.board.kind) = (0, None);
        }
        (self.board.a, self.board.b) = (Some(a), Some(b));
        self.board.pane = Pane::Comparison;
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
        self.compare_two(baseline, candidate.to_owned());
    }

    /// The board by another column; the one that it is ordered by already is turned.
    pub(crate) fn sort_board(&mut self, by: Column) {
        let here = self.board.selected_name();
        let sort = &mut self.board.sort;
        let turned = sort.by == by && !sort.turned;
        *sort = Sort { by, turned };
        self.board.arrange(here);
    }

    /// Rows a month as typed: `1000000`, `1_000_000`, `1,000,000`, `2.5M`, `300k`; nothing: none.
    pub(crate) fn volume_typed(&mut self, text: &str) {
        let here = self.board.selected_name();
        let volume = if text.trim().is_empty() { Some(0) } else { volume_of(text) };
        match volume {
            Some(volume) => {
                self.board.volume = Some(volume).filter(|v| *v > 0);
                self.board.arrange(here);
            }
            None => self.notice(
                Mood::Bad,
                format!("`{text}` is no number of rows a month; expected one such as 300000, 300k or 2.5M"),
            ),
        }
    }

    /// Strata over all candidates.
    pub(crate) fn open_timeline(&mut self) {
        if self.board.timeline.as_ref().is_some_and(|(of, _)| of.is_some()) {
            self.board.timeline = None;
        }
        self.ask(Purpose::Timeline(None), Request::Timeline { run: None });
        self.layers.push(Layer::Board(BoardLayer::Timeline { from: 0, scroll: 0 }));
    }

    pub(crate) fn filter_board(&mut self, text: String) {
        let here = self.board.selected_name();
        self.board.filter = text;
        self.board.arrange(here);
    }

    pub(crate) fn act_board_layer(&mut self, layer: BoardLayer, action: Action, page: usize) {
        let next = match (layer, action) {
            (_, Action::Back) => None,
            (BoardLayer::Pareto { cost }, Action::NextPane | Action::PreviousPane) => {
                Some(BoardLayer::Pareto { cost: !cost })
            }
            // One walks along the board, and sees the candidate in the picture.
            (BoardLayer::Pareto { .. }, _) => {
                let last = self.board.order.len().saturating_sub(1);
                self.board.selected = moved(self.board.selected, action, page, last);
                Some(layer)
            }
            (BoardLayer::Timeline { from, scroll }, Action::NextPane | Action::PreviousPane) => {
                let last = self.board.timeline.as_ref().map_or(0, |(_, t)| t.columns.len().saturating_sub(1));
                let from =
                    if action == Action::NextPane { (from + 1).min(last) } else { from.saturating_sub(1) };
                Some(BoardLayer::Timeline { from, scroll })
            }
            (BoardLayer::Timeline { from, scroll }, _) => {
                let last = self.board.timeline.as_ref().map_or(0, |(_, t)| t.strata.len().saturating_sub(1));
                Some(BoardLayer::Timeline { from, scroll: moved(scroll, action, page, last).min(last) })
            }
            (BoardLayer::Ladder { scroll }, _) => {
                Some(BoardLayer::Ladder { scroll: moved(scroll, action, page, 500) })
            }
        };
        self.layers.pop();
        self.layers.extend(next.map(Layer::Board));
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
                        let n = board.order.len();
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
            Action::SortBoard => {
                let picker = board.board.as_ref().map(|b| Picker::columns(b, &board.columns));
                self.layers.extend(picker.map(Layer::Picker));
            }
            Action::TurnBoard => {
                let here = board.selected_name();
                board.sort.turned = !board.sort.turned;
                board.arrange(here);
            }
            Action::Search => {
                let before = board.filter.clone();
                self.type_line("candidates with", before.clone(), TextPurpose::FilterBoard { before });
            }
            Action::Volume => {
                let start = board.volume.map(|v| v.to_string()).unwrap_or_default();
                self.type_line("rows a month", start, TextPurpose::Volume);
            }
            Action::ParetoPicture => self.layers.push(Layer::Board(BoardLayer::Pareto { cost: false })),
            Action::TimelineView => {
                let run =
                    board.selected_row().and_then(|r| r.trilemma.training.as_ref()).map(|t| t.run.clone());
                if board.timeline.as_ref().is_some_and(|(of, _)| *of != run) {
                    board.timeline = None;
                }
                self.ask(Purpose::Timeline(run.clone()), Request::Timeline { run });
                self.layers.push(Layer::Board(BoardLayer::Timeline { from: 0, scroll: 0 }));
            }
            Action::LadderView => self.layers.push(Layer::Board(BoardLayer::Ladder { scroll: 0 })),
            Action::Trace => self.trace_flip(),
            Action::Remedies => self.mend_flip(),
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

/// What lies over the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardLayer {
    /// Quality over latency, or over cost.
    Pareto {
        cost: bool,
    },
    Ladder {
        scroll: usize,
    },
    /// The first column and the first stratum shown.
    Timeline {
        from: usize,
        scroll: usize,
    },
}

/// None: no number of rows.
fn volume_of(text: &str) -> Option<u64> {
    let plain: String = text.chars().filter(|c| !matches!(c, '_' | ',' | ' ')).collect();
    let (digits, times) = match plain.to_lowercase() {
        t if t.ends_with('k') => (t[..t.len() - 1].to_owned(), 1e3),
        t if t.ends_with('m') => (t[..t.len() - 1].to_owned(), 1e6),
        t => (t, 1.0),
    };
    let rows = digits.parse::<f64>().ok()? * times;
    (rows.is_finite() && (1.0..=1e15).contains(&rows)).then(|| rows.round() as u64)
}

#[cfg(test)]
mod tests;
