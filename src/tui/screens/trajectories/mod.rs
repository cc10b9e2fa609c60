//! Screen 3: stored examples, how each was found, what they do for an input that is typed, and the run that finds them.

pub mod attempt;
mod files;
mod run_view;
pub mod view;

use std::collections::BTreeSet;

use ratatui::layout::Rect;

use super::{WIDE, body_of};
use crate::domain::api::{Decision, Request};
use crate::domain::example::{Example, ExampleEdit, ExamplePage, ExampleQuery};
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::domain::steer::Change;
use crate::domain::trajectory::TrajectoryView;
use crate::tui::app::{App, Mood, Purpose, Screen, moved};
use crate::tui::keymap::Action;
use crate::tui::layers::compose::{Compose, ComposePurpose};
use crate::tui::layers::form::Form;
use crate::tui::layers::picker::{Choice, Item, Picker};
use crate::tui::layers::{Layer, TextPurpose};
use crate::tui::widgets::window::Window;
use attempt::Attempt;

/// From this width on, three columns stand side by side.
pub const THREE: u16 = 150;

/// Where the focus is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    List,
    Example,
    Try,
    Run,
}

impl Pane {
    pub const ALL: [(&'static str, Self); 4] =
        [("examples", Self::List), ("example", Self::Example), ("try", Self::Try), ("run", Self::Run)];
}

/// Orders of the list, as [`ExampleQuery::sort`] has them; each shows what there is most of first.
const SORTS: [&str; 6] = ["lift", "harm", "uses", "found", "stratum", "answer"];

#[derive(Debug, Default)]
pub struct TrajectoriesState {
    /// The run or imported store that somebody chose; none: a run under way, else the newest.
    pub shown: Option<String>,
    pub pane: Pane,
    pub window: Window<Example>,
    /// Those of the window that something was decided about.
    pub edited: BTreeSet<String>,
    pub sort: usize,
    pub filter: String,
    /// Picked for a merge, by id.
    pub picked: Vec<String>,
    pub scroll: usize,
    pub attempt: Attempt,
    pub view: Option<TrajectoryView>,
    /// The store that window and view are of.
    of: Option<String>,
    pub loaded: bool,
    stale: bool,
    tag: Option<u64>,
    view_tag: Option<u64>,
    view_stale: bool,
    /// Why there are no examples.
    pub failed: Option<String>,
}

impl TrajectoriesState {
    pub fn sort_name(&self) -> &'static str {
        SORTS.get(self.sort).copied().unwrap_or("lift")
    }

    pub fn back(&mut self) {
        match self.pane {
            Pane::List if !self.picked.is_empty() => self.picked.clear(),
            Pane::List if !self.filter.is_empty() => self.search(String::new()),
            Pane::List => self.shown = None,
            _ => self.pane = Pane::List,
        }
    }

    /// What is known may be other by now: it is read again, and shown until then.
    pub fn refresh(&mut self) {
        (self.stale, self.view_stale, self.failed) = (true, true, None);
    }

    /// The connection is gone or new: nothing is under way any more.
    pub fn forget_requests(&mut self) {
        (self.tag, self.view_tag) = (None, None);
        self.refresh();
    }

    pub fn search(&mut self, text: String) {
        if self.filter != text {
            self.filter = text;
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        self.window = Window::default();
        (self.loaded, self.tag, self.scroll) = (false, None, 0);
    }

    fn show(&mut self, store: &str) {
        if self.of.as_deref() != Some(store) {
            self.of = Some(store.to_owned());
            self.start_over();
            self.picked.clear();
            self.edited.clear();
            (self.view, self.view_tag) = (None, None);
            self.attempt.forget();
            self.refresh();
        }
    }

    fn query(&self, offset: usize) -> ExampleQuery {
        ExampleQuery {
            text: self.filter.clone(),
            sort: self.sort_name().to_owned(),
            offset,
            count: Window::<Example>::CHUNK,
        }
    }

    /// The examples to ask for now: one question at a time.
    fn wants(&mut self, height: usize) -> Option<ExampleQuery> {
        if self.tag.is_some() || self.failed.is_some() {
            return None;
        }
        let offset = if !self.loaded {
            0
        } else if self.stale {
            self.window.offset
        } else {
            self.window.missing(height)?
        };
        self.stale = false;
        Some(self.query(offset))
    }

    pub fn arrived(&mut self, tag: u64, query: &ExampleQuery, page: ExamplePage) {
        if self.tag == Some(tag) {
            self.tag = None;
            if *query == self.query(query.offset) {
                self.edited = page.edited.into_iter().collect();
                self.window.fill(page.total, page.offset, page.examples);
                self.loaded = true;
            }
        }
    }

    pub fn view_arrived(&mut self, tag: u64, view: TrajectoryView) {
        if self.view_tag == Some(tag) {
            self.view_tag = None;
            self.view = Some(view);
        }
    }

    /// True when the question was one of this screen's.
    pub fn request_failed(&mut self, tag: u64, why: &str) -> bool {
        if self.tag == Some(tag) {
            (self.tag, self.failed) = (None, Some(why.to_owned()));
            self.window = Window::default();
            return true;
        }
        self.view_tag.take_if(|known| *known == tag).is_some()
    }
}

/// Where the panes stand; none: not shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Panes {
    pub list: Option<Rect>,
    pub example: Option<Rect>,
    pub attempt: Option<Rect>,
    pub run: Option<Rect>,
}

impl Panes {
    /// Whether several panes share one place.
    pub const fn alone(&self) -> bool {
        !(self.list.is_some() && self.example.is_some())
    }
}

/// ```text
/// very wide: | list | example | try |    wide: | list | example |    narrow: one of them
///            | run                  |          | run  | try     |
/// ```
pub fn layout(body: Rect, pane: Pane) -> Panes {
    if body.width >= THREE {
        let low = if body.height >= 36 { (body.height * 3 / 10).min(18) } else { 9 };
        let above = Rect { height: body.height - low, ..body };
        let (left, middle) = (above.width * 2 / 5, above.width * 3 / 10);
        let list = Rect { width: left, ..above };
        let example = Rect { x: list.right(), width: middle, ..above };
        let attempt = Rect { x: example.right(), width: above.width - left - middle, ..above };
        let run = Rect { y: above.bottom(), height: low, ..body };
        return Panes { list: Some(list), example: Some(example), attempt: Some(attempt), run: Some(run) };
    }
    if body.width >= WIDE {
        let low = (body.height / 3).clamp(7, 14);
        let left = body.width * 9 / 20;
        let list = Rect { width: left, height: body.height - low, ..body };
        let run = Rect { width: left, y: list.bottom(), height: low, ..body };
        let half = body.height / 2;
        let right = Rect { x: left, width: body.width - left, ..body };
        let example = Rect { height: half, ..right };
        let attempt = Rect { y: example.bottom(), height: body.height - half, ..right };
        return Panes { list: Some(list), example: Some(example), attempt: Some(attempt), run: Some(run) };
    }
    let only = |wanted: Pane| (pane == wanted).then_some(body);
    Panes {
        list: only(Pane::List),
        example: only(Pane::Example),
        attempt: only(Pane::Try),
        run: only(Pane::Run),
    }
}

/// Examples that fit on a terminal of this size: borders and heading taken off.
fn list_height(size: (u16, u16)) -> usize {
    let list = layout(body_of(size), Pane::List).list;
    usize::from(list.map_or(1, |list| list.height).saturating_sub(3)).max(1)
}

impl App {
    fn trajectory_runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs().iter().filter(|r| r.kind == RunKind::Trajectory)
    }

    /// The run that the screen shows; none where an imported store is.
    pub fn trajectory_run(&self) -> Option<String> {
        if let Some(shown) = &self.trajectories.shown {
            return (self.runs.is_none() || self.run(shown).is_some()).then(|| shown.clone());
        }
        let under_way = || self.trajectory_runs().find(|r| !r.state.is_final());
        // One that was cancelled or failed has left no store.
        let found = || self.trajectory_runs().find(|r| r.state.has_result());
        under_way().or_else(found).or_else(|| self.trajectory_runs().next()).map(|r| r.run.clone())
    }

    /// The store that the screen shows: an imported one, or that of the run.
    pub fn example_store(&self) -> Option<String> {
        self.trajectories.shown.clone().or_else(|| self.trajectory_run())
    }

    /// Asks for what the screen shows and does not have.
    pub(crate) fn fetch_examples(&mut self) {
        if !self.connected() || self.screen != Screen::Trajectories {
            return;
        }
        let Some(store) = self.example_store() else { return };
        self.trajectories.show(&store);
        let writes = self.run(&store).is_none_or(|r| r.state.is_final());
        if !writes {
            // It is written at the end.
            self.trajectories.loaded = false;
        } else if let Some(query) = self.trajectories.wants(list_height(self.size)) {
            let request = Request::Examples { store: Some(store.clone()), id: None, query: query.clone() };
            self.trajectories.tag = self.ask(Purpose::Examples(store.clone(), query), request);
        }
        if self.trajectories.view_stale && self.trajectories.view_tag.is_none() {
            self.trajectories.view_stale = false;
            let request = Request::Trajectory { run: store.clone() };
            self.trajectories.view_tag = self.ask(Purpose::Trajectory(store), request);
        }
    }

    pub(crate) fn act_trajectories(&mut self, action: Action) {
        let height = list_height(self.size);
        let state = &mut self.trajectories;
        match action {
            Action::NextPane | Action::PreviousPane => {
                let at = Pane::ALL.iter().position(|(_, pane)| *pane == state.pane).unwrap_or(0);
                let by = if action == Action::NextPane { 1 } else { Pane::ALL.len() - 1 };
                state.pane = Pane::ALL[(at + by) % Pane::ALL.len()].1;
                state.scroll = 0;
            }
            Action::Open => {
                state.scroll = 0;
                state.pane = if state.pane == Pane::Example { Pane::List } else { Pane::Example };
            }
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::First | Action::Last => {
                match state.pane {
                    Pane::List => {
                        let to = moved(state.window.selected, action, height, usize::MAX - 1);
                        if to != state.window.selected {
                            state.scroll = 0;
                        }
                        state.window.go(to, height);
                    }
                    Pane::Try => {
                        state.attempt.scroll = moved(state.attempt.scroll, action, height, 2000);
                    }
                    Pane::Example | Pane::Run => state.scroll = moved(state.scroll, action, height, 2000),
                }
            }
            Action::SortExamples => {
                state.sort = (state.sort + 1) % SORTS.len();
                state.start_over();
            }
            Action::Search => {
                let text = state.filter.clone();
                self.type_line("filter the examples", text, TextPurpose::FilterExamples);
            }
            Action::Pick => {
                if let Some(id) = state.window.current().map(|e| e.id.clone()) {
                    match state.picked.iter().position(|known| *known == id) {
                        Some(at) => drop(state.picked.remove(at)),
                        None => state.picked.push(id),
                    }
                }
            }
            Action::MergeExamples => self.merge_examples(),
            Action::ToggleExample => self.toggle_example(),
            Action::EditExample | Action::EditExampleInput => self.edit_example(action),
            Action::Compose => self.compose_attempt(""),
            Action::AskAgain => match self.trajectories.attempt.input.clone() {
                Some(input) => self.attempt(input),
                None => self.notice(Mood::Plain, "nothing was asked yet; i writes an input"),
            },
            Action::TryExample => {
                if let Some(input) = state.window.current().map(|e| e.input.clone()) {
                    self.attempt(input);
                }
            }
            Action::ChooseRun => self.choose_store(),
            Action::ExportExamples => self.ask_export_examples(),
            Action::ImportExamples => self.ask_import_examples(),
            Action::LaunchTrajectory => {
                let names = self.candidate_names();
                self.launch_form(Form::trajectory(names));
            }
            Action::Distill => self.distill(),
            Action::Steer => {
                match self.trajectory_run().filter(|id| self.run(id).is_some_and(|r| !r.state.is_final())) {
                    Some(run) => self.type_line("another budget", "calls=", TextPurpose::Budget { run }),
                    None => self.notice(Mood::Plain, "no run is under way whose budget could be changed"),
                }
            }
            Action::ShowFlips => {
                let run =
                    self.trajectory_run().and_then(|id| self.run(&id)).and_then(|r| r.candidate.clone());
                let base = self.trajectories.view.as_ref().map(|view| view.base.clone());
                match (run, base) {
                    (Some(candidate), Some(base)) if candidate != base => {
                        self.screen = Screen::Board;
                        self.compare_two(base, candidate);
                    }
                    (Some(_), Some(_)) => {
                        self.notice(Mood::Plain, "the run's examples did not help, so it made no candidate");
                    }
                    _ => self.notice(
                        Mood::Plain,
                        "the run is scored at its end; then f shows what it fixed and broke",
                    ),
                }
            }
            _ => self.act_run(self.trajectory_run(), action),
        }
    }

    /// The selected example and its store.
    fn example_here(&mut self) -> Option<(String, Example)> {
        let found = self.trajectories.window.current().cloned().zip(self.example_store());
        if found.is_none() {
            self.notice(Mood::Plain, "there is no example here");
        }
        found.map(|(example, store)| (store, example))
    }

    fn decide_example(&mut self, words: String, store: String, example: String, edit: ExampleEdit) {
        self.decide(words, Decision::Example { store, example, edit });
    }

    fn toggle_example(&mut self) {
        let Some((store, example)) = self.example_here() else { return };
        let words = if example.enabled { "disable the example" } else { "enable the example" };
        let edit = ExampleEdit { enabled: Some(!example.enabled), ..ExampleEdit::default() };
        self.decide_example(words.into(), store, example.id, edit);
    }

    fn merge_examples(&mut self) {
        let Some((store, example)) = self.example_here() else { return };
        let merges: Vec<String> =
            self.trajectories.picked.iter().filter(|id| **id != example.id).cloned().collect();
        if merges.is_empty() {
            let words = "pick the examples that are to go with space, then go to the one that stays, and m";
            return self.notice(Mood::Plain, words);
        }
        self.trajectories.picked.clear();
        let edit = ExampleEdit { merges, ..ExampleEdit::default() };
        self.decide_example("merge the examples".into(), store, example.id, edit);
    }

    fn edit_example(&mut self, action: Action) {
        let Some((store, example)) = self.example_here() else { return };
        let answer = action == Action::EditExample;
        let (title, text) = if answer {
            ("the answer that the example shows", example.answer)
        } else {
            ("the input that the example shows", example.input)
        };
        let purpose = ComposePurpose::Example { store, id: example.id, answer };
        self.layers.push(Layer::Compose(Compose::new(title, &text, purpose, Vec::new())));
    }

    /// An example was written anew.
    pub(crate) fn example_written(&mut self, store: String, id: String, answer: bool, text: String) {
        let same = self
            .trajectories
            .window
            .rows
            .iter()
            .any(|e| e.id == id && text == *(if answer { &e.answer } else { &e.input }));
        if same {
            return self.notice(Mood::Plain, "nothing was changed");
        }
        let text = Some(text);
        let edit = if answer {
            ExampleEdit { answer: text, ..ExampleEdit::default() }
        } else {
            ExampleEdit { input: text, ..ExampleEdit::default() }
        };
        self.decide_example("change the example".into(), store, id, edit);
    }

    fn choose_store(&mut self) {
        let state = |name: &str| self.run(name).map_or_else(|| "imported".into(), |r| r.state.to_string());
        let mut names: Vec<String> = self.trajectory_runs().map(|r| r.run.clone()).collect();
        let others = self.trajectories.view.iter().flat_map(|view| view.stores.iter());
        names.extend(others.filter(|name| self.run(name).is_none()).cloned());
        let items: Vec<Item> = names
            .into_iter()
            .map(|name| Item { aside: state(&name), label: name.clone(), choice: Choice::Store(name) })
            .collect();
        if items.is_empty() {
            return self.notice(Mood::Plain, "there is no store of examples yet; t looks for them");
        }
        self.layers.push(Layer::Picker(Picker::new("show a store of examples", items)));
    }

    pub(crate) fn show_store(&mut self, name: String) {
        self.screen = Screen::Trajectories;
        self.trajectories.shown = Some(name);
    }

    /// `calls=8000`
    pub(crate) fn raise_budget(&mut self, run: String, text: &str) {
        match format!("budget.{text}").parse::<Change>() {
            Ok(change @ Change::Budget(_)) => {
                self.ask(Purpose::Steer(run.clone()), Request::Steer { run, changes: vec![change] });
            }
            Ok(_) => {}
            Err(why) => self.notice(Mood::Bad, why),
        }
    }

    /// The bridge to LoRA: the rows that the store is made of or turned to gold, with their gold, without examples in the prompt.
    fn distill(&mut self) {
        let finished = |r: &RunRecord| matches!(r.state, RunState::Done | RunState::Stopped);
        match self.trajectory_run().and_then(|id| self.run(&id)).filter(|r| finished(r)).map(|r| r.run.clone()) {
            Some(run) => {
                let set = vec![("tuning.train.rows".to_owned(), format!("store:{run}"))];
                self.launch(RunKind::Train, set, None);
            }
            None => self.notice(
                Mood::Plain,
                "a run that has found its examples can be trained on: its rows, their gold, and no examples in the prompt",
            ),
        }
    }
}
