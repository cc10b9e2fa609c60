//! A reporter that remembers, with checkpoints in a temporary folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::domain::event::EventBody;
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter};
use crate::domain::steer::Change;

pub struct Recorder {
    pub dir: tempfile::TempDir,
    pub events: Vec<EventBody>,
    pub best: Option<u64>,
    pub polls: u64,
    /// Polls until each step event.
    polls_at_step: Vec<u64>,
    /// What is asked at poll 1, 2, ...
    pub script: Box<dyn FnMut(u64) -> io::Result<Control>>,
    /// What is to be changed, asked before every step.
    pub steer: Box<dyn FnMut() -> Vec<Change>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            events: Vec::new(),
            best: None,
            polls: 0,
            polls_at_step: Vec::new(),
            script: Box::new(|_| Ok(Control::Continue)),
            steer: Box::new(Vec::new),
        }
    }

    pub fn stop_at_poll(&mut self, stop_at: u64) {
        self.script =
            Box::new(move |poll| Ok(if poll >= stop_at { Control::Stop } else { Control::Continue }));
    }

    /// The last poll before the end of a step.
    pub fn last_poll_of_step(&self, step: u64) -> u64 {
        self.polls_at_step[step as usize - 1]
    }

    /// Steps whose checkpoint is there.
    pub fn kept(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = fs::read_dir(self.dir.path())
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        steps
    }

    pub fn newest(&self) -> Option<PathBuf> {
        self.kept().last().map(|step| self.dir.path().join(format!("step-{step:06}")))
    }

    pub fn evals(&self) -> Vec<(u64, f64)> {
        self.events
            .iter()
            .filter_map(|e| {
                if let EventBody::Eval { step, loss: Some(loss), .. } = e {
                    Some((*step, *loss))
                } else {
                    None
                }
            })
            .collect()
    }

    pub fn losses_and_norms(&self) -> Vec<(f64, f64)> {
        self.events
            .iter()
            .filter_map(|e| {
                if let EventBody::Step { loss, grad_norm, .. } = e { Some((*loss, *grad_norm)) } else { None }
            })
            .collect()
    }
}

/// Step, loss, gradient norm, rate, epoch: of the last time that each step was taken.
pub fn steps(events: &[EventBody]) -> Vec<(u64, f64, f64, f64, f64)> {
    let mut steps = BTreeMap::new();
    for event in events {
        if let EventBody::Step { step, loss, grad_norm, lr, epoch, .. } = *event {
            steps.insert(step, (step, loss, grad_norm, lr, epoch));
        }
    }
    steps.into_values().collect()
}

impl Reporter for Recorder {
    fn event(&mut self, body: EventBody) -> io::Result<()> {
        if matches!(body, EventBody::Step { .. }) {
            self.polls_at_step.push(self.polls);
        }
        self.events.push(body);
        Ok(())
    }

    fn outcome(&mut self, _: &Outcome) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint(
        &mut self,
        step: u64,
        best: bool,
        keep: usize,
        write: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let fresh = self.dir.path().join("fresh");
        fs::create_dir(&fresh)?;
        write(&fresh)?;
        let place = self.dir.path().join(format!("step-{step:06}"));
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&fresh, place)?;
        if best {
            self.best = Some(step);
        }
        let kept = self.kept();
        for old in &kept[..kept.len().saturating_sub(keep)] {
            if Some(*old) != self.best {
                fs::remove_dir_all(self.dir.path().join(format!("step-{old:06}")))?;
            }
        }
        Ok(())
    }

    fn changes(&mut self, _: usize) -> io::Result<Vec<Change>> {
        Ok((self.steer)())
    }

    fn poll_control(&mut self) -> io::Result<Control> {
        self.polls += 1;
        (self.script)(self.polls)
    }
}
