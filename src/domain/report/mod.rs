//! What a run reports to. `worker` implements it over the run folder; `tuning` and `strata` are handed it.

pub mod listener;
#[cfg(test)]
pub mod notes;

use std::io;
use std::path::Path;

use crate::domain::event::EventBody;
use crate::domain::keys::Keys;
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;
use crate::domain::run::RunSpec;
use crate::domain::sets::SetInputs;
use crate::domain::steer::Change;
use crate::domain::trace::RowTrace;

/// What was asked of the run since the last poll. Pausing happens inside the poll: it returns when the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Continue,
    Checkpoint,
    /// Finish with a checkpoint and keep the results.
    Stop,
    Cancel,
}

/// A run's way out. Methods fail only when the run folder cannot be written, and then the run must end.
pub trait Reporter {
    /// Append one event.
    fn event(&mut self, body: EventBody) -> io::Result<()>;

    /// Append one outcome.
    fn outcome(&mut self, outcome: &Outcome) -> io::Result<()>;

    /// Append one outcome of a set beside the rows: it stands apart.
    fn set_outcome(&mut self, _set: &str, _outcome: &Outcome) -> io::Result<()> {
        Ok(())
    }

    /// Append the trace of a row, before its outcome.
    fn trace(&mut self, _trace: RowTrace) -> io::Result<()> {
        Ok(())
    }

    /// Write a checkpoint: `write` fills a fresh folder, which then appears as `checkpoints/step-NNNNNN` at once or not at all.
    /// Older checkpoints beyond the newest `keep` are removed, the best one (last written with `best`) never is.
    fn checkpoint(
        &mut self,
        step: u64,
        best: bool,
        keep: usize,
        write: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()>;

    /// Look for requests; blocks while the run is paused. `Cancel` and `Stop` are sticky.
    fn poll_control(&mut self) -> io::Result<Control>;

    /// Whether the run is to end: `Cancel`, `Stop`, else `Continue`. Never blocks, for who waits for somebody else.
    fn peek_control(&self) -> Control {
        Control::Continue
    }

    /// Changes that were asked for in the run's whole life, from the `taken`-th on: those before it stand in what the run itself has
    /// written down, so that none is lost or made twice, whatever killed it and wherever.
    fn changes(&mut self, _taken: usize) -> io::Result<Vec<Change>> {
        Ok(Vec::new())
    }
}

/// What a run starts from: its folder, its frozen spec, its rows.
#[derive(Debug)]
pub struct RunInputs {
    pub dir: std::path::PathBuf,
    pub spec: RunSpec,
    pub rows: Vec<RunRow>,
    /// The newest complete checkpoint, when the run is resumed.
    pub resume_from: Option<std::path::PathBuf>,
    /// Ids of rows that already have an outcome in `outcomes.jsonl` (a resumed evaluation skips them).
    pub outcomes: Vec<Outcome>,
    /// Values of the variables that the candidate's endpoints name.
    pub keys: Keys,
    /// The workspace's response cache.
    pub cache: Option<super::settings::CachePlace>,
    /// General-ability sets, evaluated beside the rows.
    pub sets: Vec<SetInputs>,
    /// What an earlier life of a training run told: its steps (without their rows), evaluations, samples and changes.
    pub history: Vec<EventBody>,
}
