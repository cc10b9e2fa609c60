//! The texts that a run made of train rows: what is kept, what fell where and why, each beside the rows that it was made of. What holds is
//! taken into the data from here, one by one or all that are shown; and while the run goes on, its figures stand above.

pub mod view;

use std::collections::BTreeSet;

use super::form::{Field, Form, FormPurpose, Want, field};
use super::picker::{Choice, Item, Picker};
use super::{Confirmed, Layer, TextPurpose};
use crate::domain::api::{Request, RowQuery};
use crate::domain::filter::quoted;
use crate::domain::grow::{Check, GrownAsk, GrownPage, Made, Parent};
use crate::domain::run::{RunKind, RunRecord};
use crate::domain::steer::Change;
use crate::domain::words::counted;
use crate::tui::app::{App, Mood, Purpose, Screen, moved};
use crate::tui::keymap::Action;
use crate::tui::screens::strata::Pane as StrataPane;
use crate::tui::widgets::input::TextInput;
use crate::tui::widgets::window::Window;

/// What one key walks through.
const FILTERS: [&str; 4] = ["", "kept", "refused", "accepted"];
/// Lines of a text that can be scrolled to.
const LINES: usize = 2_000;

/// Where the focus is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    List,
    Text,
}

/// One text whole, with the rows that it was made of.
#[derive(Clone, Debug)]
pub struct Shown {
    at: usize,
    /// None: the engine does not know it any more.
    found: Option<(Made, Vec<Parent>)>,
}

/// The layer's state.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// None: no run has made any.
    run: Option<String>,
    filter: String,
    /// What is known of all of them; its rows are in the window.
    page: Option<GrownPage>,
    error: Option<String>,
    window: Window<Made>,
    /// Ids.
    picked: BTreeSet<String>,
    shown: Option<Shown>,
    pane: Pane,
    scroll: usize,
    /// What is here may not hold any more.
    stale: bool,
    asked: Option<u64>,
    asked_one: Option<u64>,
}

impl Texts {
    fn of(run: Option<String>) -> Self {
        Self { run, stale: true, ..Self::default() }
    }

    pub fn run(&self) -> Option<&String> {
        self.run.as_ref()
    }

    /// Other texts from their beginning.
    fn restart(&mut self) {
        (self.window, self.stale, self.error, self.scroll) = (Window::default(), true, None, 0);
    }

    /// The ids that a decision is about: the picked ones, else the one under the cursor.
    fn meant(&self) -> Vec<String> {
        if self.picked.is_empty() {
            let id = self.window.current().map(|made| made.one.id.clone());
            return id.filter(|id| !id.is_empty()).into_iter().collect();
        }
        self.picked.iter().cloned().collect()
    }

    /// Connections come and go.
    fn forget(&mut self) {
        (self.asked, self.asked_one, self.stale) = (None, None, true);
    }
}

/// A filter that means these and no others.
fn these(ids: &[String]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| quoted(id)).collect();
    format!("id:{}", ids.join(","))
}

fn grows(run: &RunRecord) -> bool {
    run.kind == RunKind::Grow
}

impl App {
    /// The texts of a run; none: of the newest that made any.
    pub(crate) fn open_grown(&mut self, run: Option<String>) {
        let run = run.or_else(|| self.runs().iter().find(|run| grows(run)).map(|run| run.run.clone()));
        self.layers.push(Layer::Grown(Box::new(Texts::of(run))));
    }

    pub(crate) fn grown(&mut self) -> Option<&mut Texts> {
        self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Grown(texts) => Some(&mut **texts),
            _ => None,
        })
    }

    /// The run whose texts are shown.
    pub(crate) fn grown_run(&self) -> Option<String> {
        self.layers.iter().rev().find_map(|layer| match layer {
            Layer::Grown(texts) => texts.run.clone(),
            _ => None,
        })
    }

    pub(crate) fn refresh_grown(&mut self) {
        if let Some(texts) = self.grown() {
            texts.stale = true;
        }
    }

    pub(crate) fn forget_grown(&mut self) {
        if let Some(texts) = self.grown() {
            texts.forget();
        }
    }

    /// A run made more.
    pub(crate) fn grown_changed(&mut self, run: &RunRecord) {
        let made = run.metrics.get("made").copied().unwrap_or(0.0) as usize;
        let Some(texts) = self.grown() else { return };
        let known = texts.page.as_ref().map_or(0, |page| page.counts.made);
        if texts.run.as_ref() == Some(&run.run) && (made != known || run.state.is_final()) {
            texts.stale = true;
        }
    }

    /// Asks for what the layer shows and does not have; one question of a kind at a time.
    pub(crate) fn fetch_grown(&mut self) {
        if !self.connected() {
            return;
        }
        let height = view::list_height(self.size, self.grown().map_or(Pane::List, |texts| texts.pane));
        let Some(texts) = self.grown() else { return };
        let Some(run) = texts.run.clone() else { return };
        let missing = if texts.error.is_none() { texts.window.missing(height) } else { None };
        let wanted = match missing {
            Some(offset) => Some(offset),
            None => texts.stale.then_some(texts.window.offset),
        };
        if let (Some(offset), None) = (wanted, texts.asked) {
            let (filter, count) = (texts.filter.clone(), Window::<Made>::CHUNK);
            texts.stale = false;
            let grown = GrownAsk {
                run: run.clone(),
                filter: filter.clone(),
                offset,
                count,
                brief: true,
                ..GrownAsk::default()
            };
            let tag = self.ask(Purpose::Grown { run: run.clone(), filter }, Request::Grown { grown });
            if let Some(texts) = self.grown() {
                texts.asked = tag;
            }
        }
        let Some(texts) = self.grown() else { return };
        let current = texts.window.current().map(|made| made.at);
        let known = texts.shown.as_ref().map(|shown| shown.at);
        if let (Some(at), None) = (current.filter(|at| Some(*at) != known), texts.asked_one) {
            let grown = GrownAsk { run: run.clone(), at: Some(at), ..GrownAsk::default() };
            let tag = self.ask(Purpose::GrownText { run, at }, Request::Grown { grown });
            if let Some(texts) = self.grown() {
                texts.asked_one = tag;
            }
        }
    }

    pub(crate) fn grown_arrived(
        &mut self,
        tag: u64,
        (run, filter): (&str, &str),
        found: Result<GrownPage, String>,
    ) {
        let Some(texts) = self.grown().filter(|texts| texts.asked == Some(tag)) else { return };
        texts.asked = None;
        if texts.run.as_deref() != Some(run) || texts.filter != filter {
            // Asked before somebody turned to others.
            texts.stale = true;
            return;
        }
        match found {
            Ok(mut page) => {
                let before = texts.window.current().map(|made| (made.at, made.accepted, made.one.id.clone()));
                texts.window.fill(page.total, page.offset, std::mem::take(&mut page.rows));
                let now = texts.window.current().map(|made| (made.at, made.accepted, made.one.id.clone()));
                if before != now {
                    // Another one, or the same one after a decision or a resumed run.
                    texts.shown = None;
                }
                (texts.error, texts.page) = (None, Some(page));
            }
            Err(why) => {
                texts.window = Window::default();
                texts.error = Some(why);
            }
        }
    }

    pub(crate) fn grown_text_arrived(&mut self, tag: u64, at: usize, found: Option<GrownPage>) {
        let Some(texts) = self.grown().filter(|texts| texts.asked_one == Some(tag)) else { return };
        texts.asked_one = None;
        let found = found.and_then(|page| Some((page.rows.into_iter().next()?, page.parents)));
        texts.shown = Some(Shown { at, found });
    }

    pub(crate) fn act_grown(&mut self, action: Action) {
        let size = self.size;
        let failure =
            self.shown_notice().filter(|at| self.notices.get(*at).is_some_and(|n| n.mood == Mood::Bad));
        let Some(Layer::Grown(texts)) = self.layers.last_mut() else { return };
        // What stays until it is closed hides what a decision led to.
        if let (Action::Back, Some(at)) = (action, failure) {
            return drop(self.notices.remove(at));
        }
        match action {
            Action::Back if texts.pane == Pane::Text => texts.pane = Pane::List,
            Action::Back => drop(self.layers.pop()),
            Action::NextPane | Action::PreviousPane | Action::Open => {
                texts.pane = if texts.pane == Pane::List { Pane::Text } else { Pane::List };
                texts.scroll = 0;
            }
            Action::FilterGrown => {
                let at = FILTERS.iter().position(|f| *f == texts.filter);
                let next = at.map_or(0, |at| (at + 1) % FILTERS.len());
                FILTERS.get(next).copied().unwrap_or_default().clone_into(&mut texts.filter);
                texts.restart();
            }
            Action::Search => {
                let filter = texts.filter.clone();
                self.type_line("filter the made texts", filter, TextPurpose::FilterGrown);
            }
            Action::ChooseRun => self.choose_grown(),
            Action::Pick => {
                let Some(made) = texts.window.current() else { return };
                if made.one.id.is_empty() {
                    let why = format!("it fell at `{}`: there is no row to take in", fell(made));
                    return self.notice(Mood::Plain, why);
                }
                let id = made.one.id.clone();
                if !texts.picked.remove(&id) {
                    texts.picked.insert(id);
                }
                let height = view::list_height(size, texts.pane);
                texts.window.step(1, height);
            }
            Action::AcceptGrown => self.take_in(),
            Action::AcceptAllGrown => self.ask_to_take_all_in(),
            Action::WithdrawGrown => self.take_out(),
            Action::WithdrawAllGrown => self.ask_to_take_all_out(),
            Action::FlipRows => self.show_accepted(),
            Action::Undo => drop(self.ask(Purpose::Undo, Request::Undo)),
            Action::Steer => {
                let run = self.grown_run();
                self.steer_grown(run);
            }
            Action::Pause | Action::Resume | Action::StopAndKeep | Action::CancelRun => {
                let run = self.grown_run();
                self.act_run(run, action);
            }
            _ if texts.pane == Pane::Text => {
                texts.scroll = moved(texts.scroll, action, view::text_height(size), LINES);
            }
            _ => {
                let height = view::list_height(size, texts.pane);
                let to = moved(texts.window.selected, action, height, usize::MAX - 1);
                texts.window.go(to, height);
                texts.scroll = 0;
            }
        }
    }

    /// What is typed after the search key.
    pub(crate) fn filter_grown(&mut self, text: String) {
        if let Some(texts) = self.grown() {
            texts.filter = text;
            texts.restart();
        }
    }

    fn choose_grown(&mut self) {
        let told = |run: &RunRecord| match (run.metrics.get("kept"), run.metrics.get("made")) {
            (Some(kept), Some(made)) => format!("{kept} of {made} kept, {}", run.state),
            _ => run.state.to_string(),
        };
        let item = |run: &RunRecord| Item {
            label: run.run.clone(),
            aside: told(run),
            choice: Choice::GrownRun(run.run.clone()),
        };
        let items: Vec<Item> = self.runs().iter().filter(|run| grows(run)).map(item).collect();
        if items.is_empty() {
            return self.notice(Mood::Plain, "no run has made rows yet; + on screen 1 starts one");
        }
        self.layers.push(Layer::Picker(Picker::new("texts of run", items)));
    }

    pub(crate) fn show_grown(&mut self, run: String) {
        if let Some(texts) = self.grown() {
            *texts = Texts::of(Some(run));
        }
    }

    /// The picked texts, or the one under the cursor.
    fn take_in(&mut self) {
        let Some(texts) = self.grown() else { return };
        let (Some(run), ids) = (texts.run.clone(), texts.meant()) else { return };
        let current = texts.window.current().filter(|_| texts.picked.is_empty());
        let refused = match current {
            Some(made) if made.accepted => Some("its row is in the data already; x takes it out".to_owned()),
            Some(made) if ids.is_empty() => {
                Some(format!("it fell at `{}`: there is no row to take in", fell(made)))
            }
            None if ids.is_empty() => Some("there is no text here".to_owned()),
            _ => None,
        };
        if let Some(why) = refused {
            return self.notice(Mood::Plain, why);
        }
        texts.picked.clear();
        self.accept_made(run, these(&ids), false);
    }

    fn take_out(&mut self) {
        let Some(texts) = self.grown() else { return };
        let (Some(run), ids) = (texts.run.clone(), texts.meant()) else { return };
        let out = texts.picked.is_empty() && texts.window.current().is_none_or(|made| !made.accepted);
        if ids.is_empty() || out {
            return self.notice(Mood::Plain, "its row is not in the data");
        }
        texts.picked.clear();
        self.accept_made(run, these(&ids), true);
    }

    /// Rows of a run go into the data, or out of it.
    pub(crate) fn accept_made(&mut self, run: String, filter: String, withdraw: bool) {
        let words = if withdraw {
            format!("take rows of {run} out of the data")
        } else {
            format!("take rows of {run} into the data")
        };
        self.ask(Purpose::Decide(words), Request::AcceptGrown { run, filter, withdraw });
    }

    fn ask_to_take_all_in(&mut self) {
        let Some(texts) = self.grown() else { return };
        let (Some(run), Some(page)) = (texts.run.clone(), &texts.page) else { return };
        let (open, filter) = (page.open, texts.filter.clone());
        if open == 0 {
            let may = "`disputed`, `unanswered` or `meaning` as a filter (/), and they can be taken in all the same";
            return self
                .notice(Mood::Plain, format!("nothing of what is shown is left to take in; name {may}"));
        }
        let what =
            if filter.trim().is_empty() { "all that holds".to_owned() } else { format!("all of `{filter}`") };
        let question = format!(
            "Take {} of {run} ({what}) into the data, in the train part? One undo (u) takes them back.",
            counted(open, "row")
        );
        let then = Confirmed::AcceptGrown { run, filter, withdraw: false };
        self.layers.push(Layer::Confirm { question, then });
    }

    fn ask_to_take_all_out(&mut self) {
        let Some(texts) = self.grown() else { return };
        let Some(run) = texts.run.clone() else { return };
        let rows = texts.page.as_ref().and_then(|page| page.accepted.as_ref()).map_or(0, |a| a.rows);
        if rows == 0 {
            return self.notice(Mood::Plain, format!("no rows of {run} are in the data"));
        }
        let question = format!(
            "Take all {} of {run} out of the data? One undo (u) puts them back.",
            counted(rows, "row")
        );
        let then = Confirmed::AcceptGrown { run, filter: String::new(), withdraw: true };
        self.layers.push(Layer::Confirm { question, then });
    }

    /// The run's rows that are in the data, on the strata screen.
    fn show_accepted(&mut self) {
        let Some(texts) = self.grown() else { return };
        let Some(run) = texts.run.clone() else { return };
        if texts.page.as_ref().is_none_or(|page| page.accepted.is_none()) {
            return self.notice(Mood::Plain, format!("no rows of {run} are in the data yet; a takes one in"));
        }
        self.screen = Screen::Strata;
        self.layers.clear();
        self.strata.pane = StrataPane::Rows;
        let text = format!("synthetic.run={}", quoted(&run));
        self.strata.show(RowQuery { text, ..RowQuery::default() }, format!("rows that {run} made"));
    }

    /// Another limit, or more texts of each row, in mid-run.
    pub(crate) fn steer_grown(&mut self, run: Option<String>) {
        let Some(run) = run.and_then(|id| self.run(&id)).cloned() else {
            return self.notice(Mood::Plain, "there is no run here yet; + on screen 1 starts one");
        };
        let goes_on = !run.state.is_final() || run.resumable;
        if !goes_on {
            let text = format!("{} is {}; + on screen 1 starts another", run.run, run.state);
            return self.notice(Mood::Plain, text);
        }
        self.layers.push(Layer::Form(grown_form(&run, &[])));
    }

    pub(crate) fn grown_steered(&mut self, run: String, values: &[(String, String)]) {
        let lines = values.iter().map(|(key, value)| format!("{key}={value}").parse::<Change>());
        match lines.collect::<Result<Vec<Change>, String>>() {
            Ok(changes) if changes.is_empty() => self.notice(Mood::Plain, "nothing was changed"),
            Ok(changes) => drop(self.ask(Purpose::Steer(run.clone()), Request::Steer { run, changes })),
            Err(why) => {
                self.notice(Mood::Bad, why);
                if let Some(record) = self.run(&run).cloned() {
                    self.layers.push(Layer::Form(grown_form(&record, values)));
                }
            }
        }
    }
}

fn fell(made: &Made) -> &'static str {
    made.one.fell.map_or("kept", Check::name)
}

/// What can be changed of a run that goes on.
fn grown_form(run: &RunRecord, values: &[(String, String)]) -> Form {
    let of = |key: &'static str, label, hint, want| {
        let typed = values.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let set = run.settings.iter().rfind(|(k, _)| *k == format!("tuning.grow.{key}"));
        let stands = set.map(|(_, value)| value.clone()).unwrap_or_else(|| "as it is".into());
        Field { input: TextInput::new(typed.unwrap_or_default()), stands, ..field(key, label, hint, want) }
    };
    let fields = vec![
        of("per_row", "texts of each", "the target: so many texts of each row in all: 4", Want::Count),
        of("budget.calls", "budget: calls", "answers of models, in all: 2000", Want::Count),
        of("budget.tokens", "budget: tokens", "in all: 2000000", Want::Count),
        of("budget.usd", "budget: USD", "in all: 10", Want::Positive),
        of("budget.seconds", "budget: seconds", "of work, in all: 3600", Want::Count),
    ];
    let purpose = FormPurpose::SteerGrown(run.run.clone());
    Form { title: "change the run from its next round on", purpose, fields, focus: 0, error: None }
}
