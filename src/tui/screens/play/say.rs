//! What a person says of an answer: thumb, edit, gold.

use super::answer::Answer;
use crate::domain::api::{Decision, Request};
use crate::domain::play::Feedback;
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::layers::Layer;
use crate::tui::layers::compose::{Compose, ComposePurpose};
use crate::tui::layers::picker::{Choice, Item, Picker};
use crate::tui::screens::play::PlayState;

/// How an answer stood before something was said of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Before {
    /// Number of the question.
    id: u64,
    good: Option<bool>,
    edit: Option<String>,
    /// Of both sides: an edit is the gold of all that were asked the same.
    golds: Vec<(u64, Option<String>)>,
}

impl App {
    /// The answer of a side at its end; else it says why there is nothing to say of it.
    fn ended(&mut self, side: usize) -> Option<Answer> {
        let answer = self.play.sides[side].answer.clone();
        match answer {
            Some(answer) if answer.output().is_some() => return Some(answer),
            Some(answer) if answer.is_open() => {
                self.notice(Mood::Plain, "the answer is still being written; k breaks it off");
            }
            Some(_) => self.notice(Mood::Plain, "there is no answer to judge; r asks again"),
            None => self.notice(Mood::Plain, "nothing was asked on this side yet; i writes an input"),
        }
        None
    }

    /// A thumb, or no thumb any more.
    pub(super) fn thumb(&mut self, side: usize, up: bool) {
        if let Some(mut answer) = self.ended(side) {
            answer.good = if answer.good == Some(up) { None } else { Some(up) };
            self.say(answer);
        }
    }

    /// A box with the answer in it, to be corrected.
    pub(super) fn edit(&mut self, side: usize) {
        if let Some(answer) = self.ended(side) {
            let start = answer.edit.as_deref().or(answer.output()).unwrap_or_default();
            let purpose = ComposePurpose::Edit { id: answer.id };
            let title = "the answer as it should be: becomes the gold, and is preferred to this one";
            self.layers.push(Layer::Compose(Compose::new(title, start, purpose, Vec::new())));
        }
    }

    /// The gold from a list of labels; where there are none, as an edit.
    pub(super) fn choose_gold(&mut self, side: usize) {
        let Some(answer) = self.ended(side) else { return };
        if answer.labels.is_empty() {
            return self.edit(side);
        }
        let item = |label: &String| Item {
            label: label.clone(),
            aside: match (answer.gold.as_ref() == Some(label), answer.output() == Some(label)) {
                (true, _) => "gold".into(),
                (false, true) => "answered".into(),
                _ => String::new(),
            },
            choice: Choice::GoldOf(answer.id, label.clone()),
        };
        let items = answer.labels.iter().map(item).collect();
        self.layers.push(Layer::Picker(Picker::new("the golden answer", items)));
    }

    /// The answer as it should be was written or chosen.
    pub(crate) fn edited(&mut self, id: u64, text: String) {
        if text.trim().is_empty() {
            return self.notice(Mood::Plain, "an empty answer is no golden answer; nothing was changed");
        }
        match self.play.answer(id).cloned() {
            Some(mut answer) => {
                answer.edit = Some(text);
                self.say(answer);
            }
            None => self.notice(Mood::Plain, "that answer has given way to another one; nothing was changed"),
        }
    }

    /// Tell the engine, and show it.
    fn say(&mut self, answer: Answer) {
        let feedback = Feedback {
            row: answer.row.clone(),
            input: answer.input.clone(),
            candidate: answer.candidate.clone(),
            output: answer.output().unwrap_or_default().to_owned(),
            good: answer.good,
            edit: answer.edit.clone(),
        };
        let decision = Decision::Feedback(feedback);
        if self.ask(Purpose::Say(answer.id), Request::Decide { decision }).is_some()
            && let Some(shown) = self.play.answer(answer.id)
        {
            let (id, good, edit) = (shown.id, shown.good, shown.edit.clone());
            (shown.good, shown.edit) = (answer.good, answer.edit);
            let answers = self.play.sides.iter().filter_map(|side| side.answer.as_ref());
            let golds = answers.map(|a| (a.id, a.gold.clone())).collect();
            self.play.said.push(Before { id, good, edit, golds });
        }
    }
}

impl PlayState {
    /// The engine keeps what was said: an edit is the gold of everything that was asked the same.
    pub(crate) fn kept(&mut self, id: u64) {
        let Some(answer) = self.answer(id) else { return };
        let (Some(gold), row, input) = (answer.edit.clone(), answer.row.clone(), answer.input.clone()) else {
            return;
        };
        for other in self.sides.iter_mut().filter_map(|side| side.answer.as_mut()) {
            if other.row == row && other.input == input {
                other.gold = Some(gold.clone());
            }
        }
    }

    /// What was said last could not be kept, or was taken back.
    pub(crate) fn unsaid(&mut self) {
        let Some(Before { id, good, edit, golds }) = self.said.pop() else { return };
        if let Some(answer) = self.answer(id) {
            (answer.good, answer.edit) = (good, edit);
        }
        for (id, gold) in golds {
            if let Some(answer) = self.answer(id) {
                answer.gold = gold;
            }
        }
    }
}
