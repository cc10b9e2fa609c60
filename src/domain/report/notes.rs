//! A reporter for tests: it keeps what a run tells, and asks of it what the test says.

use std::io;
use std::path::Path;

use super::{Control, Reporter};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::PromptNews;
use crate::domain::steer::Change;
use crate::domain::trace::RowTrace;

/// From when on somebody asks for something.
#[derive(Clone, Copy, Debug)]
pub enum After {
    Polls(usize),
    Outcomes(usize),
    /// Epochs of a prompt run.
    Epochs(usize),
}

#[derive(Debug, Default)]
pub struct Notes {
    pub events: Vec<EventBody>,
    pub outcomes: Vec<Outcome>,
    pub traces: Vec<RowTrace>,
    /// Outcomes that came before their trace.
    pub untraced: usize,
    pub polls: usize,
    pub asks: Option<(After, Control)>,
    /// What somebody asks for, each once so much news of a prompt run was told.
    pub wishes: Vec<(usize, Change)>,
}

impl Notes {
    pub fn asking(after: After, control: Control) -> Self {
        Self { asks: Some((after, control)), ..Self::default() }
    }

    fn news(&self, wanted: impl Fn(&PromptNews) -> bool) -> usize {
        self.events.iter().filter(|e| matches!(e, EventBody::Prompt(news) if wanted(news))).count()
    }
}

impl Reporter for Notes {
    fn event(&mut self, body: EventBody) -> io::Result<()> {
        self.events.push(body);
        Ok(())
    }

    fn outcome(&mut self, outcome: &Outcome) -> io::Result<()> {
        let trace = self.traces.get(self.outcomes.len()).map(|t| &t.row);
        self.untraced += usize::from(trace != Some(&outcome.row));
        self.outcomes.push(outcome.clone());
        Ok(())
    }

    fn trace(&mut self, trace: RowTrace) -> io::Result<()> {
        self.traces.push(trace);
        Ok(())
    }

    fn checkpoint(
        &mut self,
        _: u64,
        _: bool,
        _: usize,
        _: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        Err(io::Error::other("only a training has checkpoints"))
    }

    fn changes(&mut self, _: usize) -> io::Result<Vec<Change>> {
        let told = self.news(|_| true);
        let due = self.wishes.extract_if(.., |(at, _)| told >= *at);
        Ok(due.map(|(_, change)| change).collect())
    }

    fn poll_control(&mut self) -> io::Result<Control> {
        self.polls += 1;
        let due = |after| match after {
            After::Polls(n) => self.polls > n,
            After::Outcomes(n) => self.outcomes.len() >= n,
            After::Epochs(n) => self.news(|news| matches!(news, PromptNews::Epoch { .. })) >= n,
        };
        Ok(self.asks.filter(|(after, _)| due(*after)).map_or(Control::Continue, |(_, control)| control))
    }
}
