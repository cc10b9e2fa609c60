//! The worker: one process per run, started as `tunebench worker RUN_DIR`.
//!
//! It reads the run folder and model files, nothing else, and writes the run folder. It lives on when the engine dies;
//! whoever holds `lock` is the worker.

pub mod control;
pub mod folder;
mod reporter;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::domain::event::EventBody;
use crate::domain::report::RunInputs;
use crate::domain::run::{Job, RunResult, RunState};
use crate::store::files::{self, Lock};
use control::Requests;
use folder::RunFolder;
pub use reporter::FolderReporter;

/// Exit code of a worker that found the run's lock held: another worker lives.
pub const EXIT_LOCKED: u8 = 75;

/// First words of each life in the worker's log.
const STARTED: &str = "worker started: ";

/// How a worker's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The run is done, stopped or cancelled.
    Orderly,
    Failed,
    /// Another worker holds the run.
    Locked,
}

/// Be the worker of the run in `dir`, to the end. Errors only when the run folder itself cannot be used.
pub fn run(dir: &Path) -> anyhow::Result<Ending> {
    let dir = dir.canonicalize().with_context(|| format!("no run folder at {}", dir.display()))?;
    let folder = RunFolder::new(&dir);
    // A session of our own: a hang-up of the terminal, or of the engine's, is not for us. It fails where we lead one already.
    let _ = rustix::process::setsid();
    let patience = Duration::from_secs(1);
    let Some(_lock) = Lock::take_within(&folder.lock(), &std::process::id().to_string(), patience)? else {
        return Ok(Ending::Locked);
    };
    eprintln!("{STARTED}{}", std::process::id());
    let requests = Requests::default();
    let control = folder.control()?;
    control::listen(&control, requests.clone())?;
    let mut reporter = FolderReporter::new(folder.clone(), requests.clone())?;
    let ending = live(&folder, &requests, &mut reporter);
    let _ = fs::remove_file(&control);
    let (state, message) = match ending {
        Ok(state) => (state, None),
        Err(error) => {
            eprintln!("error: {error:#}");
            (RunState::Failed, Some(format!("{error:#}")))
        }
    };
    reporter.state(state, message)?;
    Ok(if state == RunState::Failed { Ending::Failed } else { Ending::Orderly })
}

/// From reading the inputs to the result; the state to end in.
fn live(folder: &RunFolder, requests: &Requests, reporter: &mut FolderReporter) -> anyhow::Result<RunState> {
    let inputs = folder.read_inputs()?;
    let threads = inputs.spec.threads.max(1);
    // Fails only when a pool exists already, and then that one serves.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let note = format!("{} of {}", inputs.spec.id, inputs.spec.workspace);
    let device = files::private_temp()?.join("device-cpu.lock");
    let Some(_device) = wait_for_device(&device, requests, reporter, &note)? else {
        return Ok(RunState::Cancelled);
    };
    reporter.state(RunState::Running, None)?;
    if let Some(from) = &inputs.resume_from {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        crate::domain::report::Reporter::event(
            reporter,
            EventBody::Log { message: format!("resumed from {name}") },
        )?;
    }
    let result = guarded(|| dispatch(&inputs, reporter))?;
    if requests.cancelled() {
        return Ok(RunState::Cancelled);
    }
    fs::create_dir_all(folder.artifacts())?;
    files::write_json(&folder.result(), &result)?;
    Ok(if result.stopped { RunState::Stopped } else { RunState::Done })
}

fn dispatch(inputs: &RunInputs, reporter: &mut FolderReporter) -> anyhow::Result<RunResult> {
    match &inputs.spec.job {
        Job::Strata(settings) => crate::strata::build::run(settings, inputs, reporter),
        Job::Eval(settings) => crate::tuning::evaluate::run(settings, inputs, reporter),
        Job::Train { train, eval } => crate::tuning::train::run(train, eval, inputs, reporter),
        Job::LrRange { train, range } => crate::tuning::train::range::run(train, range, inputs, reporter),
    }
}

/// Batch runs of all of the user's workspaces take turns on a device. While it waits, the run says for whom, and says so again
/// when that changes. None: cancelled while waiting.
fn wait_for_device(
    path: &Path,
    requests: &Requests,
    reporter: &mut FolderReporter,
    note: &str,
) -> anyhow::Result<Option<Lock>> {
    let mut said: Option<String> = None;
    loop {
        if let Some(lock) = Lock::try_take(path, note)? {
            return Ok(Some(lock));
        }
        if requests.cancelled() || requests.stopped() {
            return Ok(None);
        }
        // The file is empty for a moment, while a new holder writes its name.
        let holder = fs::read_to_string(path).unwrap_or_default();
        let holder = match (holder.trim(), &said) {
            ("", Some(before)) => before.clone(),
            ("", None) => "another run".to_owned(),
            (holder, _) => holder.to_owned(),
        };
        if said.as_ref() != Some(&holder) {
            reporter.state(RunState::Queued, Some(format!("waits for the CPU, in use by {holder}")))?;
            said = Some(holder);
        }
        requests.nap(Duration::from_millis(200));
    }
}

/// Run `work`; a panic becomes an error with its message and place.
fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    static PLACE: Mutex<Option<String>> = Mutex::new(None);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        // The first panic is the cause; those after it are other threads finding out.
        PLACE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(place);
        before(info);
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    let _ = std::panic::take_hook();
    result.unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        Err(anyhow::anyhow!("internal error: {text}{place}"))
    })
}

/// The end of the worker's log, for the last words of one that died without any.
pub fn log_tail(folder: &RunFolder, bytes: usize) -> io::Result<String> {
    let log = fs::read(folder.log())?;
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(bytes)..]).into_owned();
    // Words of an earlier life explain nothing.
    let mut tail: Vec<&str> = text
        .lines()
        .rev()
        .take_while(|line| !line.starts_with(STARTED))
        .filter(|line| !line.trim().is_empty())
        .take(3)
        .collect();
    tail.reverse();
    Ok(tail.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::RunAction;

    #[test]
    fn a_waiting_run_says_who_holds_the_device_and_says_so_again_when_that_changes() {
        let temp = tempfile::tempdir().unwrap();
        let device = temp.path().join("device.lock");
        let held = Lock::try_take(&device, "train-1 of one").unwrap().unwrap();
        let folder = RunFolder::new(temp.path());
        let requests = Requests::default();
        let mut reporter = FolderReporter::new(folder.clone(), requests.clone()).unwrap();
        let until_said = |words: &str| {
            while !folder.read_state().is_some_and(|s| s.message.is_some_and(|m| m.ends_with(words))) {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| wait_for_device(&device, &requests, &mut reporter, "eval-1 of two").unwrap());
            until_said("in use by train-1 of one");
            // As another holder would: the same lock, another name.
            fs::write(&device, "train-2 of three").unwrap();
            until_said("in use by train-2 of three");
            assert_eq!(folder.read_state().unwrap().state, RunState::Queued);
            requests.put(RunAction::Cancel);
            assert!(waiting.join().unwrap().is_none());
        });
        drop(held);
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let error = guarded::<()>(|| panic!("no such layer")).unwrap_err().to_string();
        assert!(error.contains("no such layer") && error.contains("worker/mod.rs"), "{error}");
    }
}
