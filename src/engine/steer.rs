//! What a person asks of a run: pause, resume, stop, changes in mid-run.

use std::time::{Duration, Instant};

use super::state::{Engine, bad_input, failed, needs_keys, no_run};
use crate::domain::api::Failure;
use crate::domain::keys::{KEYS_MAX, Keys};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::{RunAction, RunKind, RunRecord, RunState};
use crate::domain::steer::Change;
use crate::store::lines;
use crate::worker::control::{self, Ask};
use crate::worker::folder::RunFolder;

/// How long a worker may take to open its control socket.
const WORKER_PATIENCE: Duration = Duration::from_secs(10);

/// What a person asks of a run.
pub fn steer(engine: &Engine, run: &str, action: RunAction, keys: &Keys) -> Result<String, Failure> {
    let (record, folder, active) = engine
        .read(|s| s.runs.get(run).map(|r| (r.record.clone(), r.folder.clone(), r.active)))
        .ok_or_else(|| no_run(run))?;
    let state = record.state;
    match action {
        RunAction::Resume if state.is_final() => {
            if !record.resumable {
                return Err(bad_input(format!("{run} is {state} and cannot be resumed")));
            }
            // Told now: the worker could only fail on it.
            if folder.spec().exists()
                && let Err(error) = folder.read_spec()
            {
                return Err(bad_input(format!(
                    "{run} cannot be resumed: {error:#}; put the file back from a copy, or start it again with `tunebench run {}`",
                    record.kind
                )));
            }
            wait_for_end(engine, run);
            give_keys(engine, run, keys)?;
            if engine.set_run_state(run, RunState::Queued, Some("resumed".into()))? {
                Ok(format!("{run} is queued again"))
            } else {
                Err(failed(format!("the worker of {run} has not ended yet; try again in a moment")))
            }
        }
        RunAction::Resume if state == RunState::Paused => ask_worker(&folder, &record, action),
        RunAction::Resume if lacks_keys(engine, run) => {
            give_keys(engine, run, keys)?;
            Ok(format!("{run} has its keys and is queued"))
        }
        RunAction::Resume => Err(bad_input(format!("{run} is {state}, not paused"))),
        _ if state.is_final() => Err(bad_input(format!("{run} is {state} already"))),
        RunAction::Cancel | RunAction::Stop if !active && state == RunState::Queued => {
            if engine.set_run_state(run, RunState::Cancelled, None)? {
                Ok(format!("{run} is cancelled"))
            } else {
                ask_worker(&folder, &record, action)
            }
        }
        RunAction::Checkpoint if record.kind.is_resident() => {
            Err(bad_input(format!("{run} has nothing to checkpoint: it answers and learns nothing")))
        }
        RunAction::Pause if record.kind == RunKind::Playground => {
            Err(bad_input(format!("{run} cannot be paused; it can be stopped")))
        }
        _ if !active => Err(bad_input(format!("{run} is {state}: it has no worker yet"))),
        _ => {
            let said = ask_worker(&folder, &record, action)?;
            if matches!(action, RunAction::Cancel) {
                engine.update(|s| {
                    if let Some(run) = s.runs.get_mut(run) {
                        let _ = run.cancelled.get_or_insert_with(Instant::now);
                    }
                });
            }
            Ok(said)
        }
    }
}

/// It waits for keys, since the engine that had them is gone.
pub fn lacks_keys(engine: &Engine, run: &str) -> bool {
    engine.read(|s| s.runs.get(run).is_some_and(|r| !s.missing_keys(r).is_empty()))
}

/// Takes of the keys those that the run's models need; refuses where some are missing.
pub fn give_keys(engine: &Engine, run: &str, keys: &Keys) -> Result<(), Failure> {
    let needs = engine.read(|s| s.runs.get(run).map(|r| r.needs_keys.clone())).unwrap_or_default();
    let missing = keys.missing(&needs);
    if !missing.is_empty() {
        return Err(needs_keys(run, missing));
    }
    if needs.is_empty() {
        return Ok(());
    }
    let keys = keys.only(&needs);
    if keys.bytes() > KEYS_MAX {
        return Err(bad_input(format!("the keys are longer than {} KiB", KEYS_MAX >> 10)));
    }
    engine.update(|state| {
        let version = state.version;
        state.keys.insert(run.to_owned(), keys);
        if let Some(run) = state.runs.get_mut(run).filter(|r| r.record.state == RunState::Queued) {
            (run.record.message, run.record.resumable, run.version) = (None, false, version);
        }
    });
    Ok(())
}

/// A run that said its last word still has a worker for a moment.
fn wait_for_end(engine: &Engine, run: &str) {
    let deadline = Instant::now() + WORKER_PATIENCE;
    while Instant::now() < deadline && engine.read(|s| s.runs.get(run).is_some_and(|r| r.active)) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ask_worker(folder: &RunFolder, record: &RunRecord, action: RunAction) -> Result<String, Failure> {
    let run = &record.run;
    tell_worker(folder, run, &action.into())?;
    let said = match action {
        RunAction::Pause if record.kind.is_resident() => "will refuse requests",
        RunAction::Stop if record.kind.is_resident() => "ends with the answers that are under way",
        RunAction::Pause => "will pause at its next step",
        RunAction::Resume => "goes on",
        RunAction::Checkpoint => "will write a checkpoint",
        RunAction::Stop => "will finish with a checkpoint",
        RunAction::Cancel => "is being cancelled",
    };
    Ok(format!("{run} {said}"))
}

/// What can be changed of a run of this kind in mid-run.
struct Steerable {
    takes: fn(&Change) -> bool,
    forms: &'static str,
    /// It takes a change between two of these.
    round: &'static str,
    /// What can go on with other settings when it has ended.
    other: &'static str,
}

const fn steerable(kind: RunKind) -> Option<Steerable> {
    Some(match kind {
        RunKind::Train => Steerable {
            takes: |change| {
                matches!(
                    change,
                    Change::LearningRate(_) | Change::LearningRateTimes(_) | Change::Weight { .. }
                )
            },
            forms: "learning_rate=1e-4, learning_rate=x0.3 or weight:STRATUM=2",
            round: "step",
            other: "a branch",
        },
        RunKind::Prompt => Steerable {
            takes: Change::is_of_prompts,
            forms: "hint=TEXT, pin=WORDS, kill=v7, budget.calls=8000 or lesson:v7=TEXT",
            round: "round",
            other: "a new run",
        },
        RunKind::Trajectory => Steerable {
            takes: |change| matches!(change, Change::Budget(_)),
            forms: "its budget, such as budget.calls=8000",
            round: "round",
            other: "a new run",
        },
        RunKind::Grow => Steerable {
            takes: |change| matches!(change, Change::Budget(_) | Change::PerRow(_)),
            forms: "its budget and its target, such as budget.calls=8000 or per_row=4",
            round: "round",
            other: "a new run",
        },
        _ => return None,
    })
}

/// Change a run from its next step or round on. It stands in the run's folder before it is acknowledged: a life after this one has it, too.
pub fn change(engine: &Engine, run: &str, changes: &[Change]) -> Result<String, Failure> {
    let (record, folder) = engine
        .read(|s| s.runs.get(run).map(|r| (r.record.clone(), r.folder.clone())))
        .ok_or_else(|| no_run(run))?;
    let RunRecord { kind, state, resumable, .. } = record;
    let Some(Steerable { takes, forms, round, other }) = steerable(kind) else {
        return Err(bad_input(format!(
            "{run} is a run of kind {kind}; only training, prompt and trajectory runs and those that grow rows can be steered"
        )));
    };
    if let Some(change) = changes.iter().find(|change| !takes(change)) {
        return Err(bad_input(format!(
            "`{change}` is no change of a {kind} run, and {run} is one; it takes {forms}"
        )));
    }
    if changes.is_empty() {
        return Err(bad_input(format!("nothing to change; {run} takes {forms}")));
    }
    if state.is_final() && !resumable {
        return Err(bad_input(format!("{run} is {state} already; {other} can go on with other settings")));
    }
    for change in changes {
        // A run that waits for its turn may not have its rows yet; then it says itself what it cannot do.
        if let Change::Weight { stratum, .. } = change
            && folder.rows().exists()
        {
            known_stratum(&folder, run, stratum)?;
        }
    }
    folder.steer(changes).map_err(|e| failed(format!("{run} cannot be asked: {e}")))?;
    let words: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let words = words.join(" and ");
    Ok(match state {
        _ if state.is_final() => format!("{run} takes {words} when it is resumed"),
        RunState::Queued => format!("{run} takes {words} from its first {round} on"),
        RunState::Paused => format!("{run} takes {words} when it goes on"),
        _ => format!("{run} takes {words} from its next {round} on"),
    })
}

/// The stratum is one of those that the run's training rows had at its launch.
fn known_stratum(folder: &RunFolder, run: &str, stratum: &str) -> Result<(), Failure> {
    let (rows, _) = lines::read_all::<RunRow>(&folder.rows()).map_err(|e| failed(format!("{run}: {e}")))?;
    let known: std::collections::BTreeSet<String> =
        rows.into_iter().filter(|r| r.part == Some(Part::Train)).filter_map(|r| r.stratum).collect();
    if known.contains(stratum) {
        return Ok(());
    }
    let there = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(bad_input(format!("no training row of {run} is of stratum `{stratum}`; its strata: {there}")))
}

fn tell_worker(folder: &RunFolder, run: &str, ask: &Ask) -> Result<(), Failure> {
    let deadline = Instant::now() + WORKER_PATIENCE;
    loop {
        let asked = folder.control().and_then(|path| control::ask(&path, ask));
        match asked {
            Ok(()) => return Ok(()),
            // Its worker is starting; or it is ending, and then the run's state will say so.
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) && Instant::now() < deadline =>
            {
                if folder.read_state().is_some_and(|s| s.state.is_final()) {
                    return Err(bad_input(format!("{run} has just ended")));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(failed(format!("the worker of {run} cannot be asked: {e}"))),
        }
    }
}
