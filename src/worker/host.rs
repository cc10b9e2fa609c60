//! Several runs in one worker: those that train adapters over one base, taking turns.
//!
//! Each keeps a folder, a lock, a control socket and a thread of its own, and is the run that it would be alone. They share the
//! process, and with it the base ([`crate::model::Base`]), the activations and the device. Ends of runs are theirs only; the
//! process ends with its last run, and a death of the process interrupts all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::device::{Devices, stage_of};
use super::folder::RunFolder;
use super::turns::Turns;
use crate::domain::candidate::ModelSource;
use crate::domain::run::{Job, RunSpec};
use crate::store::files::Lock;

/// Runs in one worker. More of them take no less time together, and each comes round the more seldom: a person who watches eight
/// curves sees each move eight times slower. What is queued behind them begins as soon as one ends.
pub const MOST: usize = 8;

/// The runs of this process, and what they have in common.
#[derive(Debug, Default)]
pub struct Host {
    pub turns: Arc<Turns>,
    /// By file; held as long as any of the runs holds it.
    devices: Mutex<BTreeMap<PathBuf, Weak<Lock>>>,
    runs: Mutex<Runs>,
    departed: Condvar,
}

#[derive(Debug, Default)]
struct Runs {
    here: Vec<Guest>,
    /// Runs that ever came, and those that have left.
    came: u64,
    left: u64,
    /// The last one left: the process ends.
    closed: bool,
}

#[derive(Debug, PartialEq)]
struct Guest {
    seat: u64,
    name: String,
    base: Option<BaseKey>,
}

/// Folder and content of the base that an adapter is trained on, and whether it is quantized.
type BaseKey = (String, String, bool);

/// Only adapters leave the base as it is. On a GPU each run still has a copy of its own, so there is nothing to share.
fn base_of(spec: &RunSpec) -> Option<BaseKey> {
    let Job::Train { train, .. } = &spec.job else { return None };
    let stage = stage_of(spec, train)?;
    match &stage.model.source {
        ModelSource::Local { path } if train.method.trains_adapter() && Devices::of(spec).is_cpu() => {
            Some((path.clone(), stage.model.hash.clone(), train.method.is_quantized()))
        }
        _ => None,
    }
}

/// A run's place in the process, until dropped.
#[derive(Debug)]
pub struct Seat {
    host: Arc<Host>,
    number: u64,
}

impl Host {
    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run that the process was started for.
    pub fn first(self: &Arc<Self>, folder: &RunFolder) -> Seat {
        let spec = folder.read_spec().ok();
        self.seat(&mut self.runs(), folder, spec.as_ref())
    }

    fn seat(self: &Arc<Self>, runs: &mut Runs, folder: &RunFolder, spec: Option<&RunSpec>) -> Seat {
        let name = match spec {
            Some(spec) => format!("{} of {}", spec.id, spec.workspace),
            None => folder.dir().display().to_string(),
        };
        runs.came += 1;
        runs.here.push(Guest { seat: runs.came, name, base: spec.and_then(base_of) });
        Seat { host: self.clone(), number: runs.came }
    }

    /// Take another run in.
    ///
    /// # Errors
    /// Why it must wait for a worker of its own.
    pub fn join(self: &Arc<Self>, folder: &RunFolder) -> Result<Seat, String> {
        let spec = folder.read_spec().map_err(|e| format!("{e:#}"))?;
        let base = base_of(&spec).ok_or("only runs that train an adapter on the CPU share a worker")?;
        let mut runs = self.runs();
        if runs.closed {
            return Err("the worker is ending".into());
        }
        if runs.here.len() >= MOST {
            return Err(format!("the worker has {MOST} runs already"));
        }
        if runs.here.iter().any(|guest| guest.base.as_ref() != Some(&base)) {
            return Err("the worker's runs train on another base".into());
        }
        let seat = self.seat(&mut runs, folder, Some(&spec));
        self.tell_device(&runs);
        Ok(seat)
    }

    /// The device's lock: that of the other runs here, or a fresh one where it is free.
    pub fn device(&self, path: &Path) -> std::io::Result<Option<Arc<Lock>>> {
        let note = note(&self.runs());
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = devices.get(path).and_then(Weak::upgrade) {
            return Ok(Some(held));
        }
        let Some(lock) = Lock::try_take(path, &note)?.map(Arc::new) else { return Ok(None) };
        devices.insert(path.to_owned(), Arc::downgrade(&lock));
        Ok(Some(lock))
    }

    /// Who waits for a device reads who has it.
    fn tell_device(&self, runs: &Runs) {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        for held in devices.values().filter_map(Weak::upgrade).filter(|_| !runs.here.is_empty()) {
            let _ = held.note(&note(runs));
        }
    }

    /// Runs that have left so far; none when nobody else is here, so that nobody could leave.
    pub fn departures(&self) -> Option<u64> {
        let runs = self.runs();
        (runs.here.len() > 1).then_some(runs.left)
    }

    /// Wait until the last run has left.
    pub fn wait(&self) {
        let mut runs = self.runs();
        while !runs.closed {
            runs = self.departed.wait(runs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn note(runs: &Runs) -> String {
    let first = runs.here.first().map_or("another run", |guest| guest.name.as_str());
    match runs.here.len() {
        0 | 1 => first.to_owned(),
        n => format!("{first} and {} beside it", n - 1),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut runs = self.host.runs();
        runs.here.retain(|guest| guest.seat != self.number);
        runs.left += 1;
        runs.closed = runs.here.is_empty();
        self.host.tell_device(&runs);
        drop(runs);
        self.host.departed.notify_all();
    }
}
