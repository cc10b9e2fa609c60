//! A reporter for work without a run folder.

use std::io;
use std::path::Path;

use super::{Control, Reporter};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;

/// Hands every event to a function (`|_| {}` for silence), keeps no checkpoint and asks for nothing: a model is that of the
/// last step when its training ends.
#[derive(Debug)]
pub struct Listener<F>(pub F);

impl<F: FnMut(EventBody)> Reporter for Listener<F> {
    fn event(&mut self, body: EventBody) -> io::Result<()> {
        (self.0)(body);
        Ok(())
    }

    fn outcome(&mut self, _: &Outcome) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint(
        &mut self,
        _step: u64,
        _best: bool,
        _keep: usize,
        _write: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn poll_control(&mut self) -> io::Result<Control> {
        Ok(Control::Continue)
    }
}
