//! Starts workers, one on each device, follows them, and says what became of those that died. A run that can share the worker that is
//! there (`crate::worker::host`) is handed to it; others wait for their device. Residents (`serve`, the playground) are started
//! at once, beside them.
//!
//! A thread of its own. While no run is under way it sleeps until something changes; else it looks ten times a second.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::state::{Engine, Run, State};
use super::sweep::Judge;
use super::{board, freeze, prompts};
use crate::domain::api::Failure;
use crate::domain::keys::Keys;
use crate::domain::run::{RunKind, RunState};
use crate::worker::control::{self, Ask};
use crate::worker::device::{Device, Devices};
use crate::worker::folder::RunFolder;
use crate::worker::{self, EXIT_LOCKED};

/// Time between two looks at a living worker.
const TICK: Duration = Duration::from_millis(100);

/// Looks at a run that nobody holds, before it is given up.
const LOST: u32 = 20;

/// A worker that was asked to cancel its run, and waits for somebody who does not answer, is ended after so long: it has nothing to write.
const GRACE: Duration = Duration::from_secs(5);

/// A run that is followed.
struct Followed {
    run: String,
    folder: RunFolder,
    devices: Vec<Device>,
    /// Its process, which other runs may share. None: started by an earlier engine, and adopted.
    child: Option<Arc<Mutex<Child>>>,
    /// Its lock was held by a worker.
    lived: bool,
    /// Looks in which it was not held any more, with the run not ended and its process there.
    lost: u32,
    /// It was to be cancelled, did not end by itself, and was ended.
    ended: bool,
}

impl Followed {
    /// It has one of these.
    fn is_on(&self, devices: &[Device]) -> bool {
        self.devices.iter().any(|device| devices.contains(device))
    }

    /// End its process, where it is the only run there.
    fn end(&mut self) {
        if let Some(child) = self.child.as_ref().filter(|child| Arc::strong_count(child) == 1) {
            self.ended = child.lock().unwrap_or_else(PoisonError::into_inner).kill().is_ok();
        }
    }
}

/// Start the thread. It adopts living workers and marks dead ones first.
pub fn start(engine: Arc<Engine>) -> std::io::Result<JoinHandle<()>> {
    let mut devices = Looked::default();
    let (mut residents, mut followed): (Vec<Followed>, Vec<Followed>) =
        take_stock(&engine, &mut devices).into_iter().partition(|one| is_resident(&engine, &one.run));
    std::thread::Builder::new().name("supervisor".into()).spawn(move || {
        let mut seen = 0;
        let mut judge = Judge::default();
        // What the worker did not take in, until one of its runs ends.
        let mut refused = None;
        while !engine.read(|state| state.leaving) {
            // A fault of ours in one look must not end all looking: runs would go on with nobody to say so.
            let looked = catch_unwind(AssertUnwindSafe(|| {
                let before = followed.len();
                followed.retain_mut(|worker| !look(&engine, worker));
                if followed.len() < before {
                    refused = None;
                }
                residents.retain_mut(|worker| !look(&engine, worker));
                while let Some(started) = start_next(&engine, true, |_| true, &mut devices) {
                    residents.push(started);
                }
                loop {
                    let free = |wanted: &[Device]| !followed.iter().any(|f| f.is_on(wanted));
                    let Some(started) = start_next(&engine, false, free, &mut devices) else { break };
                    followed.push(started);
                }
                while let Some(joined) = join_next(&engine, &followed, &mut devices, &mut refused) {
                    followed.push(joined);
                }
                tell_of_keys(&engine);
                judge.look(&engine);
                tell_the_queue(&engine, &followed, &mut devices);
            }));
            if looked.is_err() {
                tracing::error!("a look at the runs failed; the next one follows");
            }
            let idle = followed.is_empty() && residents.is_empty();
            seen = engine.wait(seen, (!idle).then_some(TICK));
        }
    })
}

fn is_resident(engine: &Engine, run: &str) -> bool {
    engine.record(run).is_ok_and(|record| record.kind.is_resident())
}

/// After a start: who lives is followed, who died without a word gets last words.
fn take_stock(engine: &Engine, devices: &mut Looked) -> Vec<Followed> {
    let open: Vec<(String, RunFolder, bool)> = engine.read(|state| {
        let runs = state.runs.values().filter(|r| !r.record.state.is_final() || r.folder.is_locked());
        runs.map(|r| (r.record.run.clone(), r.folder.clone(), r.record.state == RunState::Queued)).collect()
    });
    let mut followed = Vec::new();
    for (run, folder, queued) in open {
        if folder.is_locked() {
            tracing::info!("adopts the worker of {run}");
            mark_active(engine, &run, true);
            let devices = devices.of(&run, &folder);
            followed.push(Followed { run, folder, devices, child: None, lived: true, lost: 0, ended: false });
        } else if !queued {
            bury(engine, &run, &folder, None);
        }
    }
    followed
}

/// Take in what is new. True when nobody works on the run any more.
fn look(engine: &Arc<Engine>, worker: &mut Followed) -> bool {
    // Death is looked for first, so that the last look at the file comes after the last write.
    let exit =
        worker.child.as_ref().map(|child| child.lock().unwrap_or_else(PoisonError::into_inner).try_wait());
    let locked = worker.folder.is_locked();
    worker.lived |= locked;
    let mut status = match exit {
        None | Some(Ok(None)) => None,
        Some(Ok(Some(status))) if status.code() == Some(i32::from(EXIT_LOCKED)) => {
            worker.child = None;
            None
        }
        Some(Ok(Some(status))) => Some(Some(status)),
        Some(Err(_)) => Some(None),
    };
    while engine.ingest(&worker.run) {}
    let ended = engine.record(&worker.run).is_ok_and(|r| r.state.is_final());
    if status.is_none() && !locked {
        // Its process may live on, with other runs. One that dies gives its locks up before it can be asked what of.
        worker.lost += u32::from(worker.lived && !ended);
        let last = worker.child.as_ref().is_some_and(|child| Arc::strong_count(child) == 1);
        // The last run of a process is followed till that has ended, so that it is reaped.
        if (ended && !last) || worker.child.is_none() || worker.lost > LOST {
            status = Some(None);
        }
    }
    let Some(status) = status else {
        if !ended && !worker.ended && is_overdue(engine, &worker.run) {
            worker.end();
        }
        return false;
    };
    if !ended && worker.ended {
        if let Err(error) = engine.set_run_state(&worker.run, RunState::Cancelled, None) {
            tracing::error!("{}", error.message);
        }
    } else if !ended {
        bury(engine, &worker.run, &worker.folder, status);
    }
    let built = engine.record(&worker.run).is_ok_and(|r| r.kind == RunKind::Strata && r.state.has_result());
    if built && let Err(failure) = freeze::assign_parts(engine) {
        tracing::error!("{}: the rows got no parts: {}", worker.run, failure.message);
    }
    if engine.record(&worker.run).is_ok_and(|r| r.kind == RunKind::Prompt)
        && let Err(failure) = prompts::keep(engine, &worker.folder)
    {
        tracing::error!("{}: its prompts could not be kept: {}", worker.run, failure.message);
    }
    mark_active(engine, &worker.run, false);
    note_what_was_fixed(engine, &worker.run);
    true
}

/// The board is worked out once when a run has scored somebody, whether or not anybody looks: rows that were fixed are noted then.
fn note_what_was_fixed(engine: &Arc<Engine>, run: &str) {
    let scored = |r: &crate::domain::run::RunRecord| {
        r.state.has_result() && matches!(r.kind, RunKind::Eval | RunKind::Train)
    };
    if !engine.record(run).is_ok_and(|r| scored(&r)) {
        return;
    }
    let (engine, run) = (engine.clone(), run.to_owned());
    let note = move || {
        if let Err(failure) = board::board(&engine) {
            tracing::warn!("after {run} the board could not be worked out: {}", failure.message);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("board".into()).spawn(note) {
        tracing::warn!("no thread for the board: {error}");
    }
}

/// Its worker was asked to cancel it, and has had time to.
fn is_overdue(engine: &Engine, run: &str) -> bool {
    let asked = engine.read(|state| state.runs.get(run).and_then(|run| run.cancelled));
    asked.is_some_and(|at| at.elapsed() >= GRACE)
}

fn mark_active(engine: &Engine, run: &str, active: bool) {
    engine.update(|state| {
        let version = state.version;
        if let Some(run) = state.runs.get_mut(run) {
            run.active = active;
            run.cancelled = None;
            run.version = version;
        }
    });
}

/// The worker is dead and had no time to say so.
fn bury(engine: &Engine, run: &str, folder: &RunFolder, status: Option<ExitStatus>) {
    let mut words = match status {
        Some(status) => match (status.signal(), status.code()) {
            (Some(9), _) => {
                "the worker was killed (signal 9; the kernel does that when memory runs out)".into()
            }
            (Some(signal), _) => format!("the worker was killed by signal {signal}"),
            (None, code) => format!("the worker ended with code {}", code.unwrap_or(-1)),
        },
        None => "the worker died; the engine that started it was gone, so nobody saw why".into(),
    };
    if let Ok(tail) = worker::log_tail(folder, 2000)
        && !tail.is_empty()
    {
        words.push_str("; its log ends: ");
        words.push_str(&tail);
    }
    tracing::warn!("{run}: {words}");
    if let Err(error) = engine.set_run_state(run, RunState::Interrupted, Some(words)) {
        tracing::error!("{}", error.message);
    }
}

/// Waits for nothing but its turn: what it needs has ended, well or not.
fn is_ready(state: &State, run: &Run) -> bool {
    let needs = run.needs.as_ref().and_then(|needed| state.runs.get(needed));
    run.record.state == RunState::Queued
        && !run.active
        && state.missing_keys(run).is_empty()
        && needs.is_none_or(|needed| needed.record.state.is_final() && !needed.active)
}

/// Where runs compute, as far as they were looked at: what is frozen stays so.
#[derive(Default)]
struct Looked(BTreeMap<String, Vec<Device>>);

impl Looked {
    /// A run that is not frozen yet waited for another run's result, and is looked at again.
    fn of(&mut self, run: &str, folder: &RunFolder) -> Vec<Device> {
        if let Some(known) = self.0.get(run) {
            return known.clone();
        }
        let Ok(spec) = folder.read_spec() else { return vec![Device::Cpu] };
        self.0.entry(run.to_owned()).or_insert_with(|| Devices::of(&spec).all).clone()
    }
}

/// Runs behind the first one on their device say what they wait for. That is no event of theirs: nobody works on them yet.
fn tell_the_queue(engine: &Engine, followed: &[Followed], devices: &mut Looked) {
    let stale: Vec<(String, String)> = ready(engine, false)
        .into_iter()
        .filter_map(|Ready { run, folder, .. }| {
            let wanted = devices.of(&run, &folder);
            let Followed { run: ahead, devices: held, .. } = followed.iter().find(|f| f.is_on(&wanted))?;
            let device = wanted.iter().find(|device| held.contains(device))?;
            let first = engine.record(ahead).ok()?;
            let words = match (first.state, &first.message) {
                // It waits itself, for a run of another workspace.
                (RunState::Queued, Some(message)) => format!("waits for {ahead}, which {message}"),
                (RunState::Paused, _) => {
                    format!("waits for {device}, in use by {ahead} of this workspace (paused)")
                }
                _ => format!("waits for {device}, in use by {ahead} of this workspace"),
            };
            let said = engine.record(&run).ok()?.message;
            (said.as_ref() != Some(&words)).then_some((run, words))
        })
        .collect();
    if stale.is_empty() {
        return;
    }
    engine.update(|state| {
        let version = state.version;
        for (run, words) in stale {
            if let Some(run) = state.runs.get_mut(&run).filter(|r| r.record.state == RunState::Queued) {
                run.record.message = Some(words);
                run.version = version;
            }
        }
    });
}

/// Runs whose keys went with an earlier engine say which they need. That is no event of theirs either.
fn tell_of_keys(engine: &Engine) {
    let words = |state: &State, run: &Run| {
        let missing = state.missing_keys(run);
        let named: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let words = format!(
            "waits for {}: `tunebench runs resume {}` where it is set",
            named.join(" and "),
            run.record.run
        );
        (!missing.is_empty() && run.record.message.as_ref() != Some(&words))
            .then(|| (run.record.run.clone(), words))
    };
    let stale: Vec<(String, String)> =
        engine.read(|state| state.runs.values().filter_map(|run| words(state, run)).collect());
    if stale.is_empty() {
        return;
    }
    engine.update(|state| {
        let version = state.version;
        for (run, words) in stale {
            if let Some(run) = state.runs.get_mut(&run) {
                (run.record.message, run.record.resumable, run.version) = (Some(words), true, version);
            }
        }
    });
}

/// Start the oldest queued run that can start, of the residents or of the others, and whose device is free.
fn start_next(
    engine: &Arc<Engine>,
    resident: bool,
    free: impl Fn(&[Device]) -> bool,
    devices: &mut Looked,
) -> Option<Followed> {
    loop {
        let can = |r: &Ready| free(&devices.of(&r.run, &r.folder));
        let Ready { run, folder, .. } = ready(engine, resident).into_iter().find(can)?;
        let started = frozen(engine, &run, &folder).and_then(|()| {
            if engine.read(|s| s.runs.get(&run).is_some_and(|r| !s.missing_keys(r).is_empty())) {
                return Ok(None);
            }
            spawn(engine, &run, &folder)
                .map(Some)
                .map_err(|e| super::state::failed(format!("the worker could not be started: {e}")))
        });
        match started {
            // What it needs was not known before it was frozen.
            Ok(None) => {}
            Ok(Some(child)) => {
                mark_active(engine, &run, true);
                let (child, devices) = (Some(Arc::new(Mutex::new(child))), devices.of(&run, &folder));
                return Some(Followed { run, folder, devices, child, lived: false, lost: 0, ended: false });
            }
            Err(failure) => {
                let set = engine.set_run_state(&run, RunState::Failed, Some(failure.message));
                if !matches!(set, Ok(true)) {
                    tracing::error!("{run} can neither be started nor ended");
                    return None;
                }
            }
        }
    }
}

/// A queued run that can start.
struct Ready {
    run: String,
    folder: RunFolder,
    kind: RunKind,
}

/// The oldest first.
fn ready(engine: &Engine, resident: bool) -> Vec<Ready> {
    engine.read(|state| {
        let next = |r: &&Run| is_ready(state, r) && r.record.kind.is_resident() == resident;
        let mut queued: Vec<_> = state.runs.values().filter(next).collect();
        queued.sort_by_key(|r| (r.record.created_ms, r.record.run.clone()));
        let of =
            |r: &&Run| Ready { run: r.record.run.clone(), folder: r.folder.clone(), kind: r.record.kind };
        queued.iter().map(of).collect()
    })
}

fn frozen(engine: &Engine, run: &str, folder: &RunFolder) -> Result<(), Failure> {
    if folder.spec().exists() { Ok(()) } else { freeze::freeze_waiting(engine, run) }
}

/// Hand the next run on the CPU to the worker that is there. Only the next: those behind it do not overtake it.
fn join_next(
    engine: &Engine,
    followed: &[Followed],
    devices: &mut Looked,
    refused: &mut Option<String>,
) -> Option<Followed> {
    let hosts = || followed.iter().filter(|f| f.is_on(&[Device::Cpu]));
    let host = hosts().next()?;
    let on_cpu = |r: &Ready| devices.of(&r.run, &r.folder) == [Device::Cpu];
    let Ready { run, folder, kind } = ready(engine, false).into_iter().find(on_cpu)?;
    let trains = |run: &str| engine.record(run).is_ok_and(|r| r.kind == RunKind::Train);
    if kind != RunKind::Train || refused.as_ref() == Some(&run) || !hosts().all(|f| trains(&f.run)) {
        return None;
    }
    if let Err(failure) = frozen(engine, &run, &folder) {
        if !matches!(engine.set_run_state(&run, RunState::Failed, Some(failure.message)), Ok(true)) {
            *refused = Some(run);
        }
        return None;
    }
    if engine.read(|s| s.runs.get(&run).is_some_and(|r| !s.missing_keys(r).is_empty())) {
        return None;
    }
    let ask = Ask::Host { host: folder.dir().to_owned(), keys: keys_of(engine, &run) };
    let asked = host.folder.control().and_then(|path| control::ask(&path, &ask));
    // An answer that came too late is one all the same.
    if asked.is_ok() || folder.is_locked() {
        mark_active(engine, &run, true);
        let (devices, child) = (vec![Device::Cpu], host.child.clone());
        return Some(Followed { run, folder, devices, child, lived: true, lost: 0, ended: false });
    }
    let error = asked.err()?;
    // Else it has no socket yet, or no more.
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        tracing::info!("{run} waits: {error}");
        *refused = Some(run);
    }
    None
}

fn keys_of(engine: &Engine, run: &str) -> Keys {
    engine.read(|state| state.keys.get(run).cloned().unwrap_or_default())
}

/// Keys go through a pipe: arguments and environment of a process can be read from outside.
fn spawn(engine: &Engine, run: &str, folder: &RunFolder) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.log())?;
    let threads = engine.threads.to_string();
    let keys = keys_of(engine, run);
    let mut command = Command::new(&engine.program);
    command
        .arg("worker")
        .arg(folder.dir())
        .current_dir("/")
        .env("RAYON_NUM_THREADS", &threads)
        .env("CANDLE_NUM_THREADS", &threads)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    for need in engine.read(|s| s.runs.get(run).map(|r| r.needs_keys.clone())).unwrap_or_default() {
        command.env_remove(need.variable);
    }
    if keys.is_empty() {
        return command.spawn();
    }
    let mut child = command.arg("--keys").stdin(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // A worker that is gone already says why in its log.
        let _ = pipe.write_all(&serde_json::to_vec(&keys)?);
    }
    Ok(child)
}
