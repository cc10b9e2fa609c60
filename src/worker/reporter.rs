//! The run's way out, over the run folder: events, outcomes, checkpoints, and the requests that come in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::control::Requests;
use super::folder::{EventLog, RunFolder};
use super::turns::{Turn, Turns};
use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter};
use crate::domain::run::RunState;
use crate::domain::steer::Change;
use crate::domain::trace::RowTrace;
use crate::domain::words::bytes;
use crate::store::files;
use crate::store::lines::Appender;

/// A run's traces end at about this size, in bytes.
const TRACES_MAX: u64 = 1 << 30;

/// Implements [`Reporter`] by appending to files.
#[derive(Debug)]
pub struct FolderReporter {
    folder: RunFolder,
    events: EventLog,
    outcomes: Option<Appender>,
    /// Outcomes of sets, by name.
    sets: BTreeMap<String, Appender>,
    traces: Option<Appender>,
    /// No trace fits any more.
    traces_full: bool,
    requests: Requests,
    /// What was asked for, and up to which byte of the file it was read.
    asked: (Vec<Change>, u64),
    /// Where other runs of this process compute too, and the turn that this one has.
    turns: Option<Arc<Turns>>,
    turn: Option<Turn>,
}

impl FolderReporter {
    pub fn new(folder: RunFolder, requests: Requests) -> io::Result<Self> {
        let events = EventLog::open(&folder.events())?;
        Ok(Self {
            folder,
            events,
            outcomes: None,
            sets: BTreeMap::new(),
            traces: None,
            traces_full: false,
            requests,
            asked: (Vec::new(), 0),
            turns: None,
            turn: None,
        })
    }

    /// Compute in turn with others from the next [`FolderReporter::take_turn`] on.
    pub fn with_turns(self, turns: Arc<Turns>) -> Self {
        Self { turns: Some(turns), ..self }
    }

    /// Wait for this run's turn, unless it has it.
    pub fn take_turn(&mut self) {
        if self.turn.is_none() {
            self.turn = self.turns.as_ref().map(Turns::take);
        }
    }

    /// Let others compute.
    pub fn hand_on(&mut self) {
        self.turn = None;
    }

    /// Enter a state: the event first, durably, then `state.json`.
    pub fn state(&mut self, state: RunState, message: Option<String>) -> io::Result<()> {
        let event = self.events.append(EventBody::State { state, message: message.clone() })?;
        self.events.sync()?;
        self.folder.write_state(state, message, &event, std::process::id())
    }

    fn best_marker(&self) -> PathBuf {
        self.folder.checkpoints().join("best")
    }

    /// Remove checkpoints beyond the newest `keep`, but not the best one.
    fn thin(&self, keep: usize) -> io::Result<()> {
        let best = fs::read_to_string(self.best_marker()).unwrap_or_default();
        let all = self.folder.list_checkpoints()?;
        for (_, path) in all.iter().take(all.len().saturating_sub(keep.max(1))) {
            if path.file_name().is_some_and(|n| n.to_string_lossy() != best.trim()) {
                // By rename first, so that a half removed folder is never taken for a checkpoint.
                let doomed = path.with_extension("old");
                fs::rename(path, &doomed)?;
                fs::remove_dir_all(&doomed)?;
            }
        }
        Ok(())
    }
}

impl Reporter for FolderReporter {
    fn event(&mut self, body: EventBody) -> io::Result<()> {
        self.events.append(body).map(drop)
    }

    fn outcome(&mut self, outcome: &Outcome) -> io::Result<()> {
        let appender = match &mut self.outcomes {
            Some(appender) => appender,
            none => none.insert(Appender::open(&self.folder.outcomes())?.0),
        };
        appender.append(outcome).map(drop)
    }

    fn set_outcome(&mut self, set: &str, outcome: &Outcome) -> io::Result<()> {
        if !self.sets.contains_key(set) {
            let folder = self.folder.set(set);
            fs::create_dir_all(folder.dir())?;
            self.sets.insert(set.to_owned(), Appender::open(&folder.outcomes())?.0);
        }
        self.sets.get_mut(set).map_or(Ok(()), |appender| appender.append(outcome).map(drop))
    }

    fn trace(&mut self, trace: RowTrace) -> io::Result<()> {
        if self.traces_full {
            return Ok(());
        }
        let appender = match &mut self.traces {
            Some(appender) => appender,
            none => {
                let path = self.folder.traces();
                if let Some(folder) = path.parent() {
                    files::private_dir(folder)?;
                }
                none.insert(Appender::open(&path)?.0)
            }
        };
        if appender.append(&trace.bounded())? > TRACES_MAX {
            self.traces_full = true;
            let message =
                format!("the traces of this run are over {}; further rows leave none", bytes(TRACES_MAX));
            self.event(EventBody::Warning { message })?;
        }
        Ok(())
    }

    fn checkpoint(
        &mut self,
        step: u64,
        best: bool,
        keep: usize,
        write: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let parent = self.folder.checkpoints();
        fs::create_dir_all(&parent)?;
        // What an earlier worker did not finish.
        for entry in fs::read_dir(&parent)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "part" || e == "old") {
                fs::remove_dir_all(&path)?;
            }
        }
        let name = format!("step-{step:06}");
        let (part, place, old) =
            (parent.join(format!("{name}.part")), parent.join(&name), parent.join(format!("{name}.old")));
        fs::create_dir(&part)?;
        let written = write(&part).and_then(|()| files::sync_tree(&part));
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        // A resumed run can come to a step a second time.
        if place.exists() {
            fs::rename(&place, &old)?;
        }
        fs::rename(&part, &place)?;
        files::sync_dir(&parent)?;
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        if best {
            files::write_atomic(&self.best_marker(), name.as_bytes())?;
        }
        self.thin(keep)?;
        self.event(EventBody::Checkpoint { step, path: format!("checkpoints/{name}"), best })?;
        self.events.sync()
    }

    fn changes(&mut self, taken: usize) -> io::Result<Vec<Change>> {
        let (new, to) = self.folder.asked(self.asked.1)?;
        self.asked.0.extend(new);
        self.asked.1 = to;
        Ok(self.asked.0.get(taken..).unwrap_or_default().to_vec())
    }

    fn poll_control(&mut self) -> io::Result<Control> {
        // Others compute now, and for as long as this run is paused.
        self.hand_on();
        let control = self.wait_for_control();
        self.take_turn();
        control
    }

    fn peek_control(&self) -> Control {
        if self.requests.cancelled() {
            Control::Cancel
        } else if self.requests.stopped() {
            Control::Stop
        } else {
            Control::Continue
        }
    }
}

impl FolderReporter {
    fn wait_for_control(&mut self) -> io::Result<Control> {
        if let Some(control) = self.requests.now() {
            return Ok(control);
        }
        self.state(RunState::Paused, None)?;
        loop {
            self.requests.wait_while_paused();
            match self.requests.now() {
                None => {}
                // Done while paused; the next poll pauses again.
                Some(Control::Checkpoint) => return Ok(Control::Checkpoint),
                Some(control) => {
                    self.state(RunState::Running, None)?;
                    return Ok(control);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::RunAction;
    use crate::domain::trace::StageTrace;

    fn reporter(dir: &Path) -> FolderReporter {
        FolderReporter::new(RunFolder::new(dir), Requests::default()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir.join("checkpoints"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_best_checkpoint_and_the_newest_stay() {
        let temp = tempfile::tempdir().unwrap();
        let mut reporter = reporter(temp.path());
        for step in 1..=5 {
            reporter.checkpoint(step, step == 2, 2, &mut |dir| fs::write(dir.join("w"), b"x")).unwrap();
        }
        assert_eq!(names(temp.path()), ["best", "step-000002", "step-000004", "step-000005"]);
    }

    #[test]
    fn the_last_trace_of_a_row_is_found_whatever_the_row_is_called() {
        let temp = tempfile::tempdir().unwrap();
        let mut reporter = reporter(temp.path());
        let folder = RunFolder::new(temp.path());
        assert_eq!(folder.read_trace("a").unwrap(), None);
        let trace = |row: &str, stage: &str| RowTrace {
            row: row.into(),
            sample: 0,
            stages: vec![StageTrace { stage: stage.into(), ..StageTrace::default() }],
        };
        for (row, stage) in [("a", "1"), ("a\"b\\", "2"), ("a", "3"), ("\u{1b}", "4")] {
            reporter.trace(trace(row, stage)).unwrap();
        }
        for (row, stage) in [("a", "3"), ("a\"b\\", "2"), ("\u{1b}", "4")] {
            assert_eq!(folder.read_trace(row).unwrap(), Some(trace(row, stage)));
        }
        assert_eq!(folder.read_trace("b").unwrap(), None);
    }

    #[test]
    fn a_checkpoint_that_fails_leaves_no_trace_and_the_old_one() {
        let temp = tempfile::tempdir().unwrap();
        let mut reporter = reporter(temp.path());
        reporter.checkpoint(1, false, 2, &mut |dir| fs::write(dir.join("w"), b"x")).unwrap();
        let failed = reporter.checkpoint(2, false, 2, &mut |dir| {
            fs::write(dir.join("w"), b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(names(temp.path()), ["step-000001"]);
    }

    #[test]
    fn what_a_killed_worker_left_half_written_is_no_checkpoint() {
        let temp = tempfile::tempdir().unwrap();
        let mut reporter = reporter(temp.path());
        reporter.checkpoint(1, false, 2, &mut |dir| fs::write(dir.join("w"), b"x")).unwrap();
        fs::create_dir(temp.path().join("checkpoints/step-000002.part")).unwrap();
        let folder = RunFolder::new(temp.path());
        assert_eq!(folder.list_checkpoints().unwrap().len(), 1);
        reporter.checkpoint(2, false, 2, &mut |dir| fs::write(dir.join("w"), b"x")).unwrap();
        assert_eq!(folder.list_checkpoints().unwrap().len(), 2);
    }

    #[test]
    fn what_was_asked_for_is_there_for_every_life_of_the_run_from_where_it_says_it_stands() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(temp.path());
        let mut first = reporter(temp.path());
        assert_eq!(first.changes(0).unwrap(), []);
        let named = |i: usize| Change::Kill(format!("v{i}"));
        std::thread::scope(|scope| {
            for i in 0..16 {
                let folder = &folder;
                scope.spawn(move || folder.steer(&[named(2 * i), named(2 * i + 1)]).unwrap());
            }
        });
        let all = first.changes(0).unwrap();
        let of = |pair: &[Change]| pair.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut pairs: Vec<_> = all.chunks(2).map(of).collect();
        pairs.sort();
        let mut want: Vec<_> = (0..16).map(|i| of(&[named(2 * i), named(2 * i + 1)])).collect();
        want.sort();
        assert_eq!(pairs, want, "nobody's changes are lost or torn apart");
        folder.steer(&[named(99)]).unwrap();
        assert_eq!(first.changes(32).unwrap(), [named(99)]);
        // Killed after it had written down thirty of them.
        drop(first);
        let mut second = reporter(temp.path());
        assert_eq!(second.changes(30).unwrap(), [&all[30..], &[named(99)]].concat());
        assert_eq!(second.changes(40).unwrap(), []);
        fs::write(temp.path().join("steered.jsonl"), "\"rank=8\"\n").unwrap();
        let error = reporter(temp.path()).changes(0).unwrap_err().to_string();
        assert!(error.contains("steered.jsonl") && error.contains("rank"), "{error}");
    }

    #[test]
    fn a_paused_run_waits_in_the_poll_and_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let requests = Requests::default();
        let mut reporter = FolderReporter::new(RunFolder::new(temp.path()), requests.clone()).unwrap();
        requests.put(RunAction::Pause);
        let folder = RunFolder::new(temp.path());
        let waker = std::thread::spawn(move || {
            while folder.read_state().is_none_or(|s| s.state != RunState::Paused) {
                std::thread::yield_now();
            }
            requests.put(RunAction::Resume);
        });
        assert_eq!(reporter.poll_control().unwrap(), Control::Continue);
        waker.join().unwrap();
        let state = RunFolder::new(temp.path()).read_state().unwrap();
        assert_eq!(state.state, RunState::Running);
    }
}
