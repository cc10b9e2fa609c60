//! The worker: one process per run, started as `tunebench worker RUN_DIR`. Runs that train adapters over the base of one that is
//! under way are taken into its process instead ([`host`]).
//!
//! It reads the run folder and model files, nothing else, and writes the run folder. It lives on when the engine dies;
//! whoever holds `lock` is the worker.

pub mod control;
pub mod device;
pub mod folder;
pub mod host;
mod neighbours;
mod play;
mod reporter;
mod resident;
mod turns;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::domain::event::EventBody;
use crate::domain::keys::Keys;
use crate::domain::report::{Reporter as _, RunInputs};
use crate::domain::run::{Job, RunResult, RunState};
use crate::machine;
use crate::ops::cuda::{self, Driver};
use crate::store::files::{self, Lock};
use crate::tuning::train::TooLarge;
use control::Requests;
use device::{Device, Devices};
use folder::RunFolder;
use host::{Host, Seat};
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
/// `keys`: what its models need. They come through a pipe and stay in memory.
pub fn run(dir: &Path, keys: Keys) -> anyhow::Result<Ending> {
    let dir = dir.canonicalize().with_context(|| format!("no run folder at {}", dir.display()))?;
    let folder = RunFolder::new(&dir);
    // A session of our own: a hang-up of the terminal, or of the engine's, is not for us. It fails where we lead one already.
    let _ = rustix::process::setsid();
    let patience = Duration::from_secs(1);
    let Some(lock) = Lock::take_within(&folder.lock(), &std::process::id().to_string(), patience)? else {
        return Ok(Ending::Locked);
    };
    eprintln!("{STARTED}{}", std::process::id());
    let host = Arc::new(Host::default());
    let seat = host.first(&folder);
    let ending = serve(&host, &folder, seat, lock, keys);
    host.wait();
    ending
}

/// Take the run in `dir` into this process, on a thread of its own.
fn take_in(host: &Arc<Host>, dir: &Path, keys: Keys) -> Result<(), String> {
    let said = |e: io::Error| e.to_string();
    let folder = RunFolder::new(dir.canonicalize().map_err(said)?);
    let pid = std::process::id().to_string();
    let Some(lock) = Lock::take_within(&folder.lock(), &pid, Duration::from_millis(200)).map_err(said)?
    else {
        return Err("another worker has the run".into());
    };
    let seat = host.join(&folder)?;
    // Last words of the process stand in the log of the run that it was started for.
    let mut log =
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(folder.log()).map_err(said)?;
    writeln!(log, "{STARTED}{pid}, which has other runs too").map_err(said)?;
    let host = host.clone();
    let work = move || {
        if let Err(error) = serve(&host, &folder, seat, lock, keys) {
            eprintln!("{}: error: {error:#}", folder.dir().display());
        }
    };
    // As large a stack as a process begins with.
    std::thread::Builder::new().name("run".into()).stack_size(8 << 20).spawn(work).map_err(said)?;
    Ok(())
}

/// The run from its first event to its last.
fn serve(host: &Arc<Host>, folder: &RunFolder, seat: Seat, lock: Lock, keys: Keys) -> anyhow::Result<Ending> {
    let requests = Requests::default();
    let taker = host.clone();
    let listening = control::listen(
        &folder.control()?,
        requests.clone(),
        Arc::new(move |dir: &Path, keys| take_in(&taker, dir, keys)),
    )?;
    let mut reporter = FolderReporter::new(folder.clone(), requests.clone())?.with_turns(host.turns.clone());
    let ending = live(host, folder, keys, &requests, &mut reporter);
    drop(listening);
    let (state, message) = match ending {
        Ok(state) => (state, requests.why().filter(|_| state == RunState::Stopped)),
        Err(error) => {
            eprintln!("{}: error: {error:#}", folder.dir().file_name().unwrap_or_default().display());
            (RunState::Failed, Some(format!("{error:#}")))
        }
    };
    reporter.state(state, message)?;
    // The turn, the run's lock, its place: whoever finds the run unlocked finds its last word.
    drop(reporter);
    drop(lock);
    drop(seat);
    Ok(if state == RunState::Failed { Ending::Failed } else { Ending::Orderly })
}

/// From reading the inputs to the result; the state to end in.
fn live(
    host: &Host,
    folder: &RunFolder,
    keys: Keys,
    requests: &Requests,
    reporter: &mut FolderReporter,
) -> anyhow::Result<RunState> {
    let inputs = RunInputs { keys, ..folder.read_inputs()? };
    let threads = inputs.spec.threads.max(1);
    // Fails only when a pool exists already, and then that one serves.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    if inputs.spec.job.kind().is_resident() {
        return Ok(match guarded(|| resident::run(&inputs, folder, requests, reporter))? {
            None => RunState::Cancelled,
            Some(result) => finish(folder, &result)?,
        });
    }
    let locks = files::private_temp()?;
    let mut devices = Devices::of(&inputs.spec);
    let _held = loop {
        let mut held = Vec::new();
        for device in &devices.all {
            let lock = locks.join(device.lock_file());
            match wait_for_device(*device, &lock, || host.device(&lock), requests, reporter)? {
                Some(lock) => held.push(lock),
                None => return Ok(RunState::Cancelled),
            }
        }
        // Only who has a GPU may try it.
        let opened = devices.clone().that_open(|ordinal| Driver::open(ordinal).is_ok());
        if opened == devices {
            break held;
        }
        devices = opened;
    };
    // Strata use a GPU that nobody holds, and wait for none.
    let spare = match &inputs.spec.job {
        Job::Strata(_) if cuda::devices() > 0 => {
            let device = Device::Cuda(0);
            host.device(&locks.join(device.lock_file()))?.map(|lock| (device, lock))
        }
        _ => None,
    };
    let gpus = devices.all.iter().chain(spare.as_ref().map(|(device, _)| device));
    let _loans: Vec<_> = gpus
        .filter_map(|device| match device {
            Device::Cuda(n) => Some(crate::embed::gpu::lend(usize::from(*n))),
            Device::Cpu => None,
        })
        .collect();
    reporter.state(RunState::Running, None)?;
    if let Some(from) = &inputs.resume_from {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        reporter.event(EventBody::Log { message: format!("resumed from {name}") })?;
    }
    let result = loop {
        let others = host.departures();
        let neighbours = neighbours::living();
        machine::leave_to_others(neighbours::still_promised(&neighbours));
        reporter.take_turn();
        let result = guarded(|| dispatch(&inputs, reporter));
        reporter.hand_on();
        match result {
            // When another run, or a resident, has left there is more room.
            Err(error) if error.is::<TooLarge>() && (others.is_some() || !neighbours.is_empty()) => {
                let whom = if neighbours.is_empty() {
                    "another run".to_owned()
                } else {
                    neighbours::names(&neighbours)
                };
                reporter.state(RunState::Queued, Some(format!("waits for {whom} to end: {error}")))?;
                neighbours::ask_playgrounds_to_leave(&neighbours, &inputs.spec.id);
                while host.departures() == others
                    && neighbours::living() == neighbours
                    && !requests.cancelled()
                    && !requests.stopped()
                {
                    requests.nap(Duration::from_millis(200));
                }
                if requests.cancelled() || requests.stopped() {
                    return Ok(RunState::Cancelled);
                }
                reporter.state(RunState::Running, None)?;
            }
            Err(error) => {
                if let Some(large) = error.downcast_ref::<TooLarge>() {
                    let finding = large.finding(&inputs.spec.id);
                    reporter.event(EventBody::Finding { step: 0, holds: true, finding })?;
                }
                return Err(error);
            }
            Ok(result) => break result,
        }
    };
    if requests.cancelled() {
        return Ok(RunState::Cancelled);
    }
    finish(folder, &result)
}

/// Writes the result down; the state that says so.
fn finish(folder: &RunFolder, result: &RunResult) -> anyhow::Result<RunState> {
    fs::create_dir_all(folder.artifacts())?;
    files::write_json(&folder.result(), result)?;
    Ok(if result.stopped { RunState::Stopped } else { RunState::Done })
}

fn dispatch(inputs: &RunInputs, reporter: &mut FolderReporter) -> anyhow::Result<RunResult> {
    match &inputs.spec.job {
        Job::Strata(settings) => crate::strata::build::run(settings, inputs, reporter),
        Job::Eval(settings) => crate::tuning::evaluate::run(settings, inputs, reporter),
        Job::Prompt { prompt, eval, critic, judge: None } => {
            crate::tuning::prompt::run(prompt, eval, critic.as_deref(), inputs, reporter)
        }
        Job::Prompt { prompt, eval, critic, judge: Some(judge) } => {
            crate::tuning::prompt::judging::run(prompt, eval, critic.as_deref(), judge, inputs, reporter)
        }
        Job::Trajectory { trajectory, eval } => {
            crate::tuning::trajectory::run(trajectory, eval, inputs, reporter)
        }
        Job::Train { train, eval } => crate::tuning::train::run(train, eval, inputs, reporter),
        Job::LrRange { train, range } => crate::tuning::train::range::run(train, range, inputs, reporter),
        Job::Grow { grow, form, maker, from, eval } => {
            let growing = crate::tuning::grow::Growing { settings: grow, form, maker, from: *from };
            crate::tuning::grow::run(&growing, eval, inputs, reporter)
        }
        Job::Judge(settings) => crate::tuning::judge::pairs::run(settings, inputs, reporter),
        Job::Serve(_) | Job::Playground(_) => anyhow::bail!("a resident run is no batch run"),
    }
}

/// Batch runs of all of the user's workspaces take turns on a device. While it waits, the run says for whom, and says so again
/// when that changes. None: cancelled while waiting.
fn wait_for_device(
    device: Device,
    path: &Path,
    take: impl Fn() -> io::Result<Option<Arc<Lock>>>,
    requests: &Requests,
    reporter: &mut FolderReporter,
) -> anyhow::Result<Option<Arc<Lock>>> {
    let mut said: Option<String> = None;
    loop {
        if let Some(lock) = take()? {
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
            reporter.state(RunState::Queued, Some(format!("waits for {device}, in use by {holder}")))?;
            said = Some(holder);
        }
        requests.nap(Duration::from_millis(200));
    }
}

/// Run `work`; a panic becomes an error with its message and place.
fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    static PLACE: Mutex<Option<String>> = Mutex::new(None);
    static HOOK: Once = Once::new();
    let place = || PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let found = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
            // The first panic is the cause; those after it are other threads finding out.
            PLACE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
            before(info);
        }));
    });
    // What an earlier panic left that somebody caught.
    place().take();
    // Runs take turns: what panics is the run whose turn it is, on whatever thread.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        let place = place().take().unwrap_or_default();
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
        let (host, requests) = (Host::default(), Requests::default());
        let mut reporter = FolderReporter::new(folder.clone(), requests.clone()).unwrap();
        let until_said = |words: &str| {
            while !folder.read_state().is_some_and(|s| s.message.is_some_and(|m| m.ends_with(words))) {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let take = || host.device(&device);
                wait_for_device(Device::Cuda(1), &device, take, &requests, &mut reporter).unwrap()
            });
            until_said("waits for the GPU cuda:1, in use by train-1 of one");
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
    fn the_device_is_one_for_the_runs_of_a_process_and_none_for_others() {
        let temp = tempfile::tempdir().unwrap();
        let device = temp.path().join("device.lock");
        let (here, elsewhere) = (Host::default(), Host::default());
        let first = here.device(&device).unwrap().unwrap();
        let second = here.device(&device).unwrap().unwrap();
        drop(first);
        assert!(elsewhere.device(&device).unwrap().is_none());
        drop(second);
        assert!(elsewhere.device(&device).unwrap().is_some());
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let error = guarded::<()>(|| panic!("no such layer")).unwrap_err().to_string();
        assert!(error.contains("no such layer") && error.contains("worker/mod.rs"), "{error}");
    }
}
