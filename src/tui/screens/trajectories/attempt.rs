//! An input that somebody typed: what is retrieved for it and why, and the answer with and without.

use crate::domain::api::Request;
use crate::domain::example::FoundExamples;
use crate::domain::keys::Keys;
use crate::domain::play::{PlayAsk, PlayEvent, PlayInput};
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::layers::Layer;
use crate::tui::layers::compose::{Compose, ComposePurpose};
use crate::tui::screens::play::answer::Answer;

#[derive(Debug, Default)]
pub struct Attempt {
    pub input: Option<String>,
    /// What is retrieved; or why nothing can be.
    pub found: Option<Result<FoundExamples, String>>,
    /// Without examples, and with them.
    pub answers: [Option<Answer>; 2],
    pub scroll: usize,
    history: Vec<String>,
}

impl Attempt {
    pub fn answer(&mut self, id: u64) -> Option<&mut Answer> {
        self.answers.iter_mut().flatten().find(|answer| answer.id == id)
    }

    pub fn heard(&mut self, events: &[PlayEvent], now_ms: u64) {
        for event in events {
            if let Some(answer) = self.answer(event.id) {
                answer.heard(event.body.clone(), now_ms);
            }
        }
    }

    /// Answers under way.
    pub fn open(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().flatten().filter(|answer| answer.is_open())
    }

    pub fn lost(&mut self) {
        for answer in self.answers.iter_mut().flatten() {
            answer.fail("the connection to the engine was lost in mid-answer; again asks anew".into());
        }
    }

    pub fn found(&mut self, input: &str, found: Result<FoundExamples, String>) {
        if self.input.as_deref() == Some(input) {
            self.found = Some(found);
        }
    }

    /// What was tried belongs to another store.
    pub fn forget(&mut self) {
        (self.found, self.answers, self.scroll) = (None, [None, None], 0);
    }
}

impl App {
    pub(crate) fn compose_attempt(&mut self, start: &str) {
        let history = self.trajectories.attempt.history.clone();
        let compose = Compose::new("try an input", start, ComposePurpose::Try, history);
        self.layers.push(Layer::Compose(compose));
    }

    /// Ask an input with the store and without it, and what the store has for it.
    pub(crate) fn attempt(&mut self, input: String) {
        if input.trim().is_empty() {
            return;
        }
        let Some(store) = self.example_store() else {
            return self.notice(Mood::Plain, "there is no store of examples yet; t looks for them");
        };
        let open: Vec<u64> = self.trajectories.attempt.open().map(|answer| answer.id).collect();
        for id in open {
            self.ask(Purpose::PlayCancel, Request::PlayCancel { id });
        }
        let attempt = &mut self.trajectories.attempt;
        attempt.forget();
        attempt.history.retain(|known| *known != input);
        attempt.history.push(input.clone());
        attempt.input = Some(input.clone());
        let search = Request::SearchExamples {
            store: Some(store.clone()),
            stage: None,
            input: input.clone(),
            shots: None,
            keys: Keys::default(),
        };
        self.ask(Purpose::SearchExamples(input.clone()), search);
        let base =
            self.trajectories.view.as_ref().map_or_else(|| "baseline".into(), |view| view.base.clone());
        let with = format!("{base}+{store}");
        for (at, candidate) in [base, with].into_iter().enumerate() {
            let id = self.play.next_id();
            let question = PlayAsk {
                id,
                candidate: Some(candidate.clone()),
                input: PlayInput::Typed { text: input.clone() },
                temperature: None,
                max_tokens: None,
                sample: 0,
                logprobs: None,
            };
            let mut answer = Answer::new(id, candidate.clone(), None, input.clone(), self.now_ms);
            // The one who holds the connection adds the values of the variables that the workspace names.
            let request = Request::Play { question, keys: Keys::default() };
            if self.ask(Purpose::Play(id, candidate), request).is_none() {
                answer.fail("there is no connection to the engine".into());
            }
            self.trajectories.attempt.answers[at] = Some(answer);
        }
    }

    /// The answer to a question of the playground or of screen 3.
    pub(crate) fn answer_to(&mut self, id: u64) -> Option<&mut Answer> {
        match self.trajectories.attempt.answer(id) {
            Some(answer) => Some(answer),
            None => self.play.answer(id),
        }
    }
}
