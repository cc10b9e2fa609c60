//! The score at the end of a tuning run.

use std::io;
use std::path::Path;

use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter};
use crate::domain::trace::RowTrace;

/// Passes everything on, but for a stop that was answered before: results that are kept include their score. Keeps the outcomes.
pub(super) struct Scoring<'a> {
    pub reporter: &'a mut dyn Reporter,
    pub stop_is_answered: bool,
    pub outcomes: Vec<Outcome>,
}

impl Reporter for Scoring<'_> {
    fn event(&mut self, body: EventBody) -> io::Result<()> {
        self.reporter.event(body)
    }

    fn outcome(&mut self, outcome: &Outcome) -> io::Result<()> {
        self.outcomes.push(outcome.clone());
        self.reporter.outcome(outcome)
    }

    fn set_outcome(&mut self, set: &str, outcome: &Outcome) -> io::Result<()> {
        self.reporter.set_outcome(set, outcome)
    }

    fn trace(&mut self, trace: RowTrace) -> io::Result<()> {
        self.reporter.trace(trace)
    }

    fn checkpoint(
        &mut self,
        step: u64,
        best: bool,
        keep: usize,
        write: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        self.reporter.checkpoint(step, best, keep, write)
    }

    fn poll_control(&mut self) -> io::Result<Control> {
        match self.reporter.poll_control()? {
            Control::Stop if self.stop_is_answered => Ok(Control::Continue),
            control => Ok(control),
        }
    }

    fn peek_control(&self) -> Control {
        match self.reporter.peek_control() {
            Control::Stop if self.stop_is_answered => Control::Continue,
            control => control,
        }
    }
}
