//! Screen 6: an input, two candidates, their answers as they come, and what a person says of them.

pub mod answer;
mod say;
pub mod view;
pub mod why;

use crate::domain::api::Request;
use crate::domain::keys::Keys;
use crate::domain::play::{PlayAsk, PlayEvent, PlayInput};
use crate::tui::app::{App, Mood, Purpose, Screen, moved};
use crate::tui::keymap::Action;
use crate::tui::layers::compose::{Compose, ComposePurpose};
use crate::tui::layers::form::Form;
use crate::tui::layers::picker::{Choice, Item, Picker};
use crate::tui::layers::{Layer, TextPurpose};
use answer::Answer;

/// Inputs that are kept for typing again.
const HISTORY: usize = 100;
/// Others told in a token's place.
const ALTERNATIVES: usize = 5;

/// Who answers on a side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// Nobody chose: A is the baseline, B the best candidate where that is another one.
    #[default]
    Auto,
    Nobody,
    /// The pipeline as it stands.
    Pipeline,
    Named(String),
}

#[derive(Clone, Debug, Default)]
pub struct Side {
    pub who: Who,
    pub answer: Option<Answer>,
    /// First line shown; none: follows the end as it is written.
    pub scroll: Option<usize>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A row of the data; none: it was typed.
    pub row: Option<String>,
    pub input: String,
}

#[derive(Debug, Default)]
pub struct PlayState {
    /// The focused side: 0 is A.
    pub focus: usize,
    pub sides: [Side; 2],
    pub asked: Option<Asked>,
    /// Typed inputs, newest last.
    pub history: Vec<String>,
    /// In place of the stages' own.
    pub temperature: Option<f32>,
    pub max_tokens: Option<usize>,
    /// How often the same was asked.
    sample: u32,
    last_id: u64,
    /// What stood there before each thing that was said, for when it is taken back.
    said: Vec<say::Before>,
}

impl PlayState {
    pub fn answer(&mut self, id: u64) -> Option<&mut Answer> {
        self.sides.iter_mut().filter_map(|side| side.answer.as_mut()).find(|answer| answer.id == id)
    }

    /// A number for a question: no two of this client have the same.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn heard(&mut self, events: Vec<PlayEvent>, now_ms: u64) {
        for event in events {
            if let Some(answer) = self.answer(event.id) {
                answer.heard(event.body, now_ms);
            }
        }
    }

    /// Answers under way.
    pub fn open(&self) -> impl Iterator<Item = &Answer> {
        self.sides.iter().filter_map(|side| side.answer.as_ref()).filter(|answer| answer.is_open())
    }

    /// The connection is gone, and the questions with it.
    pub fn lost(&mut self) {
        for answer in self.sides.iter_mut().filter_map(|side| side.answer.as_mut()) {
            answer.fail("the connection to the engine was lost in mid-answer; r asks again".into());
        }
    }

    pub fn back(&mut self) {
        self.sides[self.focus].scroll = None;
    }

    fn remember(&mut self, input: &str) {
        self.history.retain(|known| known != input);
        self.history.push(input.to_owned());
        let over = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..over);
    }
}

impl App {
    /// Who answers on a side, as a name to ask for (none: the pipeline as it stands); nobody: none at all.
    pub fn player(&self, side: usize) -> Option<Option<String>> {
        let best = || self.strata.view.as_ref().and_then(|v| v.best.clone());
        match (&self.play.sides[side].who, side) {
            (Who::Nobody, _) => None,
            (Who::Pipeline, _) => Some(None),
            (Who::Named(name), _) => Some(Some(name.clone())),
            (Who::Auto, 0) => Some(self.baseline()),
            (Who::Auto, _) => {
                let first = self.player(0).flatten();
                best().filter(|best| first.as_ref() != Some(best)).map(Some)
            }
        }
    }

    /// Put a question to both sides.
    fn play(&mut self, asked: Asked) {
        if self.player(0).is_none() && self.player(1).is_none() {
            return self.notice(Mood::Plain, "nobody answers: c chooses a candidate");
        }
        self.play.sample = if self.play.asked.as_ref() == Some(&asked) { self.play.sample + 1 } else { 0 };
        self.play.asked = Some(asked.clone());
        for side in 0..self.play.sides.len() {
            self.break_off(side);
            self.play.sides[side].answer = None;
            self.play.sides[side].scroll = None;
            if let Some(candidate) = self.player(side) {
                self.play_one(side, candidate, asked.clone());
            }
        }
    }

    fn play_one(&mut self, side: usize, candidate: Option<String>, asked: Asked) {
        let id = self.play.next_id();
        let name = candidate.clone().unwrap_or_else(|| "the pipeline".into());
        let input = match &asked.row {
            Some(id) => PlayInput::Row { id: id.clone() },
            None => PlayInput::Typed { text: asked.input.clone() },
        };
        let question = PlayAsk {
            id,
            candidate,
            input,
            temperature: self.play.temperature,
            max_tokens: self.play.max_tokens,
            sample: self.play.sample,
            logprobs: Some(ALTERNATIVES),
        };
        let mut answer = Answer::new(id, name.clone(), asked.row, asked.input, self.now_ms);
        // The one who holds the connection adds the values of the variables that the workspace names.
        let keys = Keys::default();
        if self.ask(Purpose::Play(id, name), Request::Play { question, keys }).is_none() {
            answer.fail("there is no connection to the engine; r asks again".into());
        }
        self.play.sides[side].answer = Some(answer);
    }

    /// End the answer of a side that is under way.
    fn break_off(&mut self, side: usize) {
        if let Some(id) = self.play.sides[side].answer.as_ref().filter(|a| a.is_open()).map(|a| a.id)
            && self.connected()
        {
            self.ask(Purpose::PlayCancel, Request::PlayCancel { id });
        }
    }

    /// A row that was selected elsewhere.
    pub(crate) fn play_row(&mut self, row: Option<(String, String)>) {
        match row {
            Some((id, input)) => {
                self.screen = Screen::Play;
                self.play(Asked { row: Some(id), input });
            }
            None => self.notice(Mood::Plain, "there is no row here"),
        }
    }

    /// The selected row of the strata screen, with its text as far as it is here.
    pub(crate) fn strata_row(&self) -> Option<(String, String)> {
        let row = self.strata.window.current()?;
        let detail = self.strata.detail.as_ref().filter(|d| d.id == row.id);
        Some((row.id.clone(), detail.map_or_else(|| row.text.clone(), |d| d.input.clone())))
    }

    /// A candidate beside the baseline.
    pub(crate) fn play_candidate(&mut self, name: String) {
        self.screen = Screen::Play;
        let side = usize::from(self.player(0) != Some(Some(name.clone())));
        self.play.sides[side].who = Who::Named(name.clone());
        self.notice(Mood::Plain, format!("{name} answers as {}", ["A", "B"][side]));
    }

    pub(crate) fn compose(&mut self, start: &str) {
        let compose = Compose::new("ask", start, ComposePurpose::Ask, self.play.history.clone());
        self.layers.push(Layer::Compose(compose));
    }

    /// What was written into the box.
    pub(crate) fn composed(&mut self, purpose: ComposePurpose, text: String) {
        match purpose {
            ComposePurpose::Ask if text.trim().is_empty() => {}
            ComposePurpose::Ask => {
                self.play.remember(&text);
                self.screen = Screen::Play;
                self.play(Asked { row: None, input: text });
            }
            ComposePurpose::Edit { id } => self.edited(id, text),
            ComposePurpose::Try => self.attempt(text),
            ComposePurpose::Example { store, id, answer } => self.example_written(store, id, answer, text),
        }
    }

    pub(crate) fn act_play(&mut self, action: Action) {
        let focus = self.play.focus;
        match action {
            Action::Compose | Action::Open => self.compose(""),
            Action::NextPane | Action::PreviousPane => self.play.focus = 1 - focus,
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::First | Action::Last => {
                let (lines, height) = view::extent(self, focus);
                let most = lines.saturating_sub(height);
                let at = self.play.sides[focus].scroll.unwrap_or(most).min(most);
                let to = moved(at, action, height, most);
                // At the end it follows what is written.
                self.play.sides[focus].scroll = (to < most).then_some(to);
            }
            Action::ChooseCandidate => self.choose_player(focus),
            Action::Swap => self.play.sides.swap(0, 1),
            Action::AskAgain => match self.play.asked.clone() {
                Some(asked) => {
                    self.play(asked);
                    if self.play.temperature.is_none_or(|t| t == 0.0) {
                        self.notice(
                            Mood::Plain,
                            "asked again; where the temperature is 0 the answer is the same (s sets it)",
                        );
                    }
                }
                None => self.notice(Mood::Plain, "nothing was asked yet; i writes an input"),
            },
            Action::PlaySettings => {
                let form = Form::play(self.play.temperature, self.play.max_tokens);
                self.layers.push(Layer::Form(form));
            }
            Action::NextRow | Action::PreviousRow => {
                let by = if action == Action::NextRow { 1 } else { -1 };
                let height = crate::tui::screens::strata::rows_height(self.size);
                let before = self.strata.window.selected;
                self.strata.window.step(by, height);
                let row = self.strata_row();
                if self.strata.window.selected == before
                    && self.play.asked.as_ref().is_some_and(|a| a.row.is_some())
                {
                    self.notice(Mood::Plain, "there are no more rows this way");
                } else if row.is_none() && self.strata.window.total > 0 {
                    self.notice(Mood::Plain, "the rows there are still being read; again in a moment");
                } else {
                    self.play_row(row);
                }
            }
            Action::PlayRows => match self.play.asked.as_ref().and_then(|asked| asked.row.clone()) {
                Some(row) => self.show_rows(format!("row {row}"), vec![row]),
                None => self.notice(Mood::Plain, "what was asked is no row of the data"),
            },
            Action::Remedies => {
                let row = self.play.asked.as_ref().and_then(|asked| asked.row.clone());
                match (row, &self.play.sides[focus].answer) {
                    (Some(row), Some(answer)) => {
                        let of = answer.candidate.clone();
                        self.open_remedies(row, Some(of));
                    }
                    (None, _) => self.notice(
                        Mood::Plain,
                        "what was asked is no row of the data; e corrects the answer and makes it one",
                    ),
                    (_, None) => self.notice(Mood::Plain, "there is no answer here yet"),
                }
            }
            Action::CancelAnswer => {
                if self.play.open().next().is_none() {
                    self.notice(Mood::Plain, "no answer is under way");
                }
                (0..self.play.sides.len()).for_each(|side| self.break_off(side));
            }
            Action::Why => match &self.play.sides[focus].answer {
                Some(answer) if !answer.stages.is_empty() => {
                    let token = (answer.tokens().next().is_some()).then_some(0);
                    self.layers.push(Layer::Why { side: focus, token, scroll: 0 });
                }
                _ => self.notice(Mood::Plain, "there is no answer here to look into yet"),
            },
            Action::ThumbUp | Action::ThumbDown => self.thumb(focus, action == Action::ThumbUp),
            Action::EditAnswer => self.edit(focus),
            Action::Gold => self.choose_gold(focus),
            _ => {}
        }
    }

    /// A list of who may answer.
    fn choose_player(&mut self, side: usize) {
        let choice = |who| Choice::Player(side, who);
        let item = |label: &str, aside: &str, who| Item {
            label: label.into(),
            aside: aside.into(),
            choice: choice(who),
        };
        let mut items: Vec<Item> = Vec::new();
        for row in self.board.board.iter().flat_map(|b| &b.rows).filter(|r| r.rung != "imported") {
            items.push(item(&row.candidate, &row.rung, Who::Named(row.candidate.clone())));
        }
        items.push(item("the pipeline as it stands", "workspace.toml", Who::Pipeline));
        items.push(Item {
            label: "another: RUN, RUN@STEP or the start of an id".into(),
            aside: String::new(),
            choice: Choice::OtherPlayer(side),
        });
        items.push(item("nobody", "one side only", Who::Nobody));
        let title = format!("who answers as {}", ["A", "B"][side]);
        self.layers.push(Layer::Picker(Picker::new(&title, items)));
    }

    pub(crate) fn player_chosen(&mut self, side: usize, who: Who) {
        self.break_off(side);
        self.play.sides[side] = Side { who, ..Side::default() };
        if let (Some(asked), Some(candidate)) = (self.play.asked.clone(), self.player(side)) {
            self.play_one(side, candidate, asked);
        }
    }

    pub(crate) fn other_player(&mut self, side: usize) {
        let title = format!("who answers as {}", ["A", "B"][side]);
        self.type_line(title, "", TextPurpose::Player { side });
    }

    pub(crate) fn play_settings(&mut self, values: &[(String, String)]) {
        let value = |name: &str| values.iter().find(|(key, _)| key == name).map(|(_, text)| text.as_str());
        self.play.temperature = value("temperature").and_then(|text| text.parse().ok());
        self.play.max_tokens = value("max_tokens").and_then(|text| text.parse().ok());
        self.notice(Mood::Good, "holds from the next question on; r asks again");
    }
}
