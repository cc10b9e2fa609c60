//! Launching: from a request to a run folder with everything frozen in it.
//!
//! A run that needs parts when some rows have none waits for a `strata` run; its folder holds only `launch.json` till then.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::ingest::{self, LaunchFile};
use super::state::{Engine, Run, State, bad_input, failed, needs_keys};
use super::strata::StrataIndex;
use super::{branch, candidates, examples, judges, pairs, parts, resident, rows, strata};
use crate::data::{self, Dataset};
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, ModelRef};
use crate::domain::honest::Look;
use crate::domain::judge::{Judge, PairSettings};
use crate::domain::keys::{KEYS_MAX, KeyNeed, Keys};
use crate::domain::preflight::{PastRuns, figures};
use crate::domain::row::{Part, RowRef, RunRow};
use crate::domain::run::{Job, RUN_FORMAT, RunKind, RunSpec, RunState};
use crate::domain::sets::SetSettings;
use crate::domain::sweep::{Group, MOST_RUNS};
use crate::domain::words::counted;
use crate::store::files;
use crate::tuning::check;
use crate::worker::device::Device;
use crate::worker::folder::{RunFolder, now_ms};
use crate::workspace::Workspace;

/// A run's settings are short; whoever sends more is not a person.
const SET_MAX: usize = 64 << 10;

/// Settings of a launch, read: the workspace with them applied, and which candidate, with which model in place of its own.
struct Wish {
    ws: Workspace,
    candidate: Option<String>,
    model: Option<String>,
}

fn wish(engine: &Engine, kind: RunKind, set: &[(String, String)]) -> Result<Wish, Failure> {
    let ws = Workspace::load(&engine.root).map_err(|p| parts::problems(&p))?;
    let (mine, rest): (Vec<_>, Vec<_>) =
        set.iter().cloned().partition(|(key, _)| matches!(key.as_str(), "candidate" | "model"));
    let ws = ws.with_settings(Some(kind), &rest).map_err(|p| parts::problems(&p))?;
    let last = |name: &str| mine.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.clone());
    let (candidate, model) = (last("candidate"), last("model"));
    if kind == RunKind::Strata && candidate.is_some() {
        return Err(bad_input("a strata run has no candidate"));
    }
    if kind != RunKind::Eval && model.is_some() {
        return Err(bad_input(format!(
            "`model` puts a model in the place of every stage's, to evaluate it; for a run of kind {kind} set stage.NAME.model"
        )));
    }
    if kind != RunKind::Eval && ws.config.eval.part != Part::Eval {
        return Err(bad_input(format!(
            "part: only `eval` runs look at the {}; a {kind} run works on the other parts",
            ws.config.eval.part.name()
        )));
    }
    let mut ws = ws;
    if matches!(kind, RunKind::Eval | RunKind::Prompt | RunKind::Trajectory | RunKind::Train) {
        ws.config.eval.judges = judges::of_eval(engine, &ws)?;
    }
    Ok(Wish { ws, candidate, model })
}

impl Wish {
    /// The candidate that is wished for.
    fn resolve(&self, engine: &Engine, dataset: &Dataset) -> Result<Candidate, Failure> {
        let candidate = candidates::resolve(engine, &self.ws, dataset, self.candidate.as_deref())?;
        match &self.model {
            None => Ok(candidate),
            Some(model) => candidates::with_model(engine, &self.ws, candidate, model),
        }
    }
}

/// Start a run: check, freeze, queue. Returns its id.
pub fn launch(
    engine: &Engine,
    kind: RunKind,
    set: Vec<(String, String)>,
    keys: Keys,
    from: Option<&str>,
) -> Result<String, Failure> {
    let _one = engine.launching.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if kind.is_resident() && from.is_none() {
        // What is asked for is read when it is frozen, which is at once.
        return create(engine, kind, set, Needs::default(), None, None);
    }
    if kind == RunKind::Judge && from.is_none() {
        let judge = pairs::judge(engine, &set)?;
        let keys = keys_for(KeyNeed::of(&judge.model).into_iter().collect(), &keys)?;
        return create(engine, kind, set, Needs { run: None, keys }, None, None);
    }
    let (parent, set) = match from {
        Some(_) if kind != RunKind::Train => {
            return Err(bad_input(format!(
                "a run of kind {kind} starts from no checkpoint; only `train` does"
            )));
        }
        Some(from) => {
            let parent = branch::find(engine, from)?;
            let set = parent.settings(set);
            (Some(parent), set)
        }
        None => (None, set),
    };
    let needs = check(engine, kind, &set, &keys, parent.as_ref())?;
    create(engine, kind, set, needs, parent.as_ref(), None)
}

/// Start several runs. Returns their ids.
pub fn launch_all(
    engine: &Engine,
    kind: RunKind,
    sets: Vec<Vec<(String, String)>>,
    keys: &Keys,
) -> Result<Vec<String>, Failure> {
    if kind.is_resident() || sets.is_empty() || sets.len() > MOST_RUNS {
        return Err(bad_input(format!(
            "from 1 to {MOST_RUNS} runs of a kind that ends are launched at once"
        )));
    }
    launch_group(engine, kind, sets, keys, || None)
}

/// Start runs as a group: check all, then freeze and queue each. Returns the runs' ids.
pub fn launch_group(
    engine: &Engine,
    kind: RunKind,
    sets: Vec<Vec<(String, String)>>,
    keys: &Keys,
    group: impl FnOnce() -> Option<Group>,
) -> Result<Vec<String>, Failure> {
    let _one = engine.launching.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut needs, mut missing) = (Vec::new(), Vec::new());
    for set in &sets {
        match check(engine, kind, set, keys, None) {
            Ok(need) => needs.push(need),
            // All keys are asked for at once.
            Err(failure) if !failure.needs.is_empty() => missing.extend(failure.needs),
            Err(failure) => return Err(failure),
        }
    }
    if !missing.is_empty() {
        missing.sort();
        missing.dedup();
        return Err(needs_keys("a run", missing));
    }
    let group = group();
    let mut runs = Vec::new();
    for (set, needs) in sets.into_iter().zip(needs) {
        match create(engine, kind, set, needs, None, group.clone()) {
            Ok(run) => runs.push(run),
            Err(failure) => {
                // All or none.
                for run in &runs {
                    let why = format!("another one of its group could not be launched: {}", failure.message);
                    let _ = engine.set_run_state(run, RunState::Cancelled, Some(why));
                }
                return Err(failure);
            }
        }
    }
    Ok(runs)
}

/// What a run needs before it can start.
#[derive(Default)]
struct Needs {
    /// The run that must be done before.
    run: Option<String>,
    keys: Keys,
}

/// Refuse what cannot be run.
fn check(
    engine: &Engine,
    kind: RunKind,
    set: &[(String, String)],
    keys: &Keys,
    parent: Option<&branch::Parent>,
) -> Result<Needs, Failure> {
    if set.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > SET_MAX {
        return Err(bad_input("the settings are too long"));
    }
    let wish = wish(engine, kind, set)?;
    if let Some(parent) = parent {
        parent.check(&wish.ws.config.tuning.train)?;
    }
    let dataset = parts::dataset(engine, &wish.ws)?;
    if dataset.is_empty() {
        return Err(bad_input("the data has no readable rows; `tunebench check` says why"));
    }
    let mut needs = Needs::default();
    if kind != RunKind::Strata {
        // Wrong wishes are refused now, not when the strata are done.
        let mut candidate = wish.resolve(engine, &dataset)?;
        if matches!(kind, RunKind::Train | RunKind::LrRange) {
            candidate = candidates::for_training(engine, &wish.ws, candidate, &wish.ws.config.tuning.train)?;
        }
        refuse(&wish, kind, &candidate, &dataset)?;
        sets_of(&wish.ws, kind)?;
        let critic = match kind {
            RunKind::Prompt => candidates::critic(engine, &wish.ws)?,
            _ => None,
        };
        needs.keys = check_keys(kind, &candidate, &wish.ws.config.eval.judges, critic.as_ref(), keys)?;
        refuse_prompt(&wish, kind, &candidate)?;
        if !every_row_has_a_part(engine, &wish.ws, &dataset)? {
            if dataset.len() == 1 && wish.ws.config.data.split.eval < 1.0 {
                // Known without strata: refused now, not when they are built.
                return Err(bad_input(
                    "the data has 1 row, which cannot be split into rows to train on and rows to score; add data",
                ));
            }
            needs.run = Some(strata_run(engine)?);
        }
    }
    Ok(needs)
}

/// What a launch would refuse of the settings, without starting anything. Keys are not looked at.
pub fn refusal(engine: &Engine, kind: RunKind, set: &[(String, String)]) -> Result<(), Failure> {
    let wish = wish(engine, kind, set)?;
    let dataset = parts::dataset(engine, &wish.ws)?;
    let mut candidate = wish.resolve(engine, &dataset)?;
    if kind == RunKind::Train {
        candidate = candidates::for_training(engine, &wish.ws, candidate, &wish.ws.config.tuning.train)?;
    }
    refuse(&wish, kind, &candidate, &dataset)?;
    refuse_prompt(&wish, kind, &candidate)
}

fn refuse_prompt(wish: &Wish, kind: RunKind, candidate: &Candidate) -> Result<(), Failure> {
    if kind != RunKind::Prompt {
        return Ok(());
    }
    let config = &wish.ws.config;
    crate::tuning::prompt::check(&config.tuning.prompt, &config.eval, candidate)
        .map_err(|(key, message)| bad_input(wish.ws.problem(&key, message).to_string()))
}

/// What `check` refuses is refused here, by the same rule.
fn refuse(wish: &Wish, kind: RunKind, candidate: &Candidate, dataset: &Dataset) -> Result<(), Failure> {
    let trains = matches!(kind, RunKind::Train | RunKind::LrRange);
    let train = trains.then_some(&wish.ws.config.tuning.train);
    let mut found = check::examine(candidate, train, &check::Sample::of_dataset(dataset));
    if kind != RunKind::LrRange {
        found.extend(check::pointless_samples(candidate, wish.ws.config.eval.samples));
    }
    let refused = found.into_iter().filter(|f| f.refused).map(|f| {
        match wish.candidate.as_ref().or(wish.model.as_ref()) {
            // Its stages are not those of the file.
            Some(_) if f.key.starts_with("stage.") => {
                format!("candidate `{}`: {}", candidate.name, f.message)
            }
            _ => f.problem(&wish.ws).to_string(),
        }
    });
    let refused: Vec<String> = refused.collect();
    if refused.is_empty() { Ok(()) } else { Err(bad_input(refused.join("\n"))) }
}

/// Rows without a part get one here where strata that know them are built already: a strata run may have ended
/// only just now, with its parts not given out yet.
fn every_row_has_a_part(engine: &Engine, ws: &Workspace, dataset: &Dataset) -> Result<bool, Failure> {
    let missing = |parts: &[Option<Part>]| parts.iter().any(Option::is_none);
    let parts = parts::parts(engine, dataset)?;
    if !missing(&parts) {
        return Ok(true);
    }
    let strata = strata_of(strata::latest(engine)?.as_deref(), dataset);
    if parts.iter().zip(&strata).any(|(part, stratum)| part.is_none() && stratum.is_none()) {
        return Ok(false);
    }
    parts::assign(engine, ws, dataset, &strata)?;
    Ok(!missing(&parts::parts(engine, dataset)?))
}

/// Of the keys that came with the launch those that the models of candidate and judges (and the critic) need: they are held in memory till
/// the run ends.
pub fn check_keys(
    kind: RunKind,
    candidate: &Candidate,
    judges: &[Judge],
    critic: Option<&ModelRef>,
    keys: &Keys,
) -> Result<Keys, Failure> {
    if !matches!(kind, RunKind::Eval | RunKind::Prompt | RunKind::Trajectory | RunKind::Train) {
        return Ok(Keys::default());
    }
    keys_for(KeyNeed::of_models(candidate, judges, critic), keys)
}

/// Of the keys those that are needed; refuses where some are missing.
fn keys_for(needs: Vec<KeyNeed>, keys: &Keys) -> Result<Keys, Failure> {
    let missing = keys.missing(&needs);
    if !missing.is_empty() {
        return Err(needs_keys("the run", missing));
    }
    let keys = keys.only(&needs);
    if keys.bytes() > KEYS_MAX {
        return Err(bad_input(format!("the keys are longer than {} KiB", KEYS_MAX >> 10)));
    }
    Ok(keys)
}

/// The strata run that is under way, or a new one.
fn strata_run(engine: &Engine) -> Result<String, Failure> {
    let under_way = engine.read(|state: &State| {
        let mut open: Vec<_> = state
            .runs
            .values()
            .filter(|r| r.record.kind == RunKind::Strata && !r.record.state.is_final())
            .map(|r| (r.record.created_ms, r.record.run.clone()))
            .collect();
        open.sort();
        open.pop().map(|(_, run)| run)
    });
    match under_way {
        Some(run) => Ok(run),
        None => {
            let needs = Needs::default();
            create(engine, RunKind::Strata, Vec::new(), needs, None, None)
        }
    }
}

/// Make the run's folder, freeze it unless it must wait, and queue it.
fn create(
    engine: &Engine,
    kind: RunKind,
    set: Vec<(String, String)>,
    needs: Needs,
    parent: Option<&branch::Parent>,
    group: Option<Group>,
) -> Result<String, Failure> {
    let io = |e: std::io::Error| failed(format!("the run's folder cannot be made: {e}"));
    let (id, path) = fresh_folder(engine, kind).map_err(io)?;
    let folder = RunFolder::new(&path);
    let from = parent.map(|parent| parent.origin.clone());
    let launch = LaunchFile { kind, created_ms: now_ms(), set, from, needs: needs.run, group };
    let made = files::write_json(&folder.launch(), &launch).map_err(io).and_then(|()| {
        if let Some(parent) = parent {
            folder
                .keep_start(&parent.checkpoint)
                .map_err(|e| failed(format!("the checkpoint of {} cannot be taken: {e}", parent.origin)))?;
        }
        if launch.needs.is_none() {
            freeze(engine, &id, &folder, &launch)?;
        }
        ingest::load(&id, folder.clone(), None).map_err(|e| failed(format!("{e:#}")))
    });
    match made {
        Ok(run) => {
            engine.update(|state| {
                let version = state.version;
                if !needs.keys.is_empty() {
                    state.keys.insert(id.clone(), needs.keys);
                }
                state.runs.insert(id.clone(), Run { version, ..run });
            });
            Ok(id)
        }
        Err(failure) => {
            let _ = fs::remove_dir_all(&path);
            Err(failure)
        }
    }
}

/// `runs/<kind>-<n>`, made here, with the next free number.
fn fresh_folder(engine: &Engine, kind: RunKind) -> std::io::Result<(String, PathBuf)> {
    let runs = engine.state_dir.join("runs");
    fs::create_dir_all(&runs)?;
    let prefix = format!("{kind}-");
    let mut number = 1 + fs::read_dir(&runs)?
        .filter_map(|e| e.ok()?.file_name().to_string_lossy().strip_prefix(&prefix)?.parse::<u64>().ok())
        .max()
        .unwrap_or(0);
    loop {
        let id = format!("{prefix}{number}");
        match fs::create_dir(runs.join(&id)) {
            Ok(()) => return Ok((id.clone(), runs.join(id))),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e),
        }
    }
}

/// What a waiting run waited for has ended: freeze it now.
pub fn freeze_waiting(engine: &Engine, run: &str) -> Result<(), Failure> {
    let (folder, needs) = engine
        .read(|s| s.runs.get(run).map(|r| (r.folder.clone(), r.needs.clone())))
        .ok_or_else(|| super::state::no_run(run))?;
    if let Some(needed) = &needs {
        let state = engine.read(|s| s.runs.get(needed).map(|r| (r.record.state, r.record.message.clone())));
        match state {
            Some((state, _)) if state.has_result() => {}
            Some((state, message)) => {
                let why = message.map(|m| format!(": {m}")).unwrap_or_default();
                return Err(failed(format!("{needed}, which it needs, is {state}{why}")));
            }
            None => return Err(failed(format!("{needed}, which it needs, is gone"))),
        }
    }
    let launch: LaunchFile = fs::read(folder.launch())
        .map_err(|e| e.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()))
        .map_err(|e| failed(format!("{}: {e}", folder.launch().display())))?;
    freeze(engine, run, &folder, &launch)?;
    engine.update(|state| {
        let version = state.version;
        if let Some(run) = state.runs.get_mut(run) {
            ingest::read_candidate(run);
            run.record.message = None;
            run.needs = None;
            run.version = version;
        }
    });
    Ok(())
}

/// Write `spec.json` and `inputs/`.
fn freeze(engine: &Engine, id: &str, folder: &RunFolder, launch: &LaunchFile) -> Result<(), Failure> {
    let resident = launch.kind.is_resident();
    // What is set for these does not stand in the file.
    let own = resident || launch.kind == RunKind::Judge;
    let set = if own { &[][..] } else { &launch.set };
    let wish = wish(engine, launch.kind, set)?;
    let ws = &wish.ws;
    let config = &ws.config;
    let compared = match launch.kind {
        RunKind::Judge => Some(pairs::frozen(engine, &launch.set)?),
        _ => None,
    };
    let (job, seed) = match launch.kind {
        RunKind::Judge => {
            let settings = compared.as_ref().map(|found| found.settings.clone());
            (Job::Judge(settings.ok_or_else(|| failed("there is nothing to judge"))?), 0)
        }
        RunKind::Serve | RunKind::Playground => (resident::job(engine, launch.kind, &launch.set)?, 0),
        RunKind::Strata => (Job::Strata(config.strata.clone()), config.strata.seed),
        RunKind::Eval => (Job::Eval(config.eval.clone()), config.data.split.seed),
        RunKind::Prompt => {
            let prompt = config.tuning.prompt.clone();
            let seed = prompt.seed;
            let critic = candidates::critic(engine, ws)?.map(Box::new);
            (Job::Prompt { prompt, eval: config.eval.clone(), critic }, seed)
        }
        RunKind::Trajectory => {
            let trajectory = config.tuning.trajectory.clone();
            (Job::Trajectory { trajectory, eval: config.eval.clone() }, config.data.split.seed)
        }
        RunKind::Train => {
            let train = config.tuning.train.clone();
            let seed = train.seed;
            (Job::Train { train, eval: config.eval.clone() }, seed)
        }
        RunKind::LrRange => {
            let train = config.tuning.train.clone();
            let seed = train.seed;
            (Job::LrRange { train, range: config.tuning.lr_range }, seed)
        }
    };
    let dataset = || parts::dataset(engine, ws);
    let resolve = || wish.resolve(engine, &dataset()?);
    let candidate = match &job {
        Job::Strata(_) | Job::Judge(_) | Job::Serve(_) | Job::Playground(_) => None,
        Job::Eval(_) | Job::Prompt { .. } | Job::Trajectory { .. } => Some(resolve()?),
        Job::Train { train, .. } | Job::LrRange { train, .. } => {
            Some(candidates::for_training(engine, ws, resolve()?, train)?)
        }
    };
    let rows = match &compared {
        Some(found) => found.rows.clone(),
        None if resident => Vec::new(),
        None => run_rows(engine, ws, &dataset()?, launch.kind)?,
    };
    let looked = match (&job, &candidate) {
        (Job::Eval(eval), Some(candidate)) if eval.part == Part::Reserve => {
            Some(Look { candidate: candidate.id(), run: id.to_owned(), rows: rows.len() })
        }
        _ => None,
    };
    let mut spec = RunSpec {
        format: RUN_FORMAT,
        id: id.to_owned(),
        workspace: config.name.clone(),
        created_ms: launch.created_ms,
        seed,
        threads: engine.threads,
        job,
        candidate,
        settings: launch.set.clone(),
        past: None,
        from: launch.from.clone(),
        cache: config.cache,
        sets: Vec::new(),
        rows: rows.iter().map(|r| RowRef { id: r.id.clone(), hash: r.hash.clone() }).collect(),
    };
    spec.past = past(engine, launch.kind, Device::of_training(&spec) != Device::Cpu);
    // The look is in the journal before anybody can look.
    if let Some(look) = looked {
        engine
            .look(look)
            .map_err(|e| failed(format!("the look at the reserve could not be written down: {e}")))?;
    }
    let mut more: Vec<(String, Vec<u8>)> =
        compared.map(|found| (PairSettings::FILE.to_owned(), found.bytes)).into_iter().collect();
    for (set, rows) in sets_of(ws, launch.kind)? {
        more.push((RunFolder::set_rows(&set.name), lines_of(&rows).map_err(|e| failed(e.to_string()))?));
        spec.sets.push(set);
    }
    let more: Vec<(&str, Vec<u8>)> =
        more.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    folder.freeze_with(&spec, &rows, &more).map_err(|e| failed(format!("the run could not be frozen: {e}")))
}

fn lines_of(rows: &[RunRow]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The sets that a run is also on, with their rows.
fn sets_of(ws: &Workspace, kind: RunKind) -> Result<Vec<(SetSettings, Vec<RunRow>)>, Failure> {
    if !matches!(kind, RunKind::Eval | RunKind::Train) {
        return Ok(Vec::new());
    }
    let read = |set: &crate::workspace::config::SetConfig| {
        let rows = data::sets::read(&ws.set_files(set), set.input.as_deref(), set.gold.as_deref());
        rows.map(|rows| (set.settings.clone(), rows)).map_err(|wrong| {
            let told: Vec<String> = wrong.iter().map(|w| data::sets::told(&set.settings.name, w)).collect();
            bad_input(told.join("\n"))
        })
    };
    ws.sets_of_eval().into_iter().map(read).collect()
}

/// Runs that teach about the next one.
const PAST_RUNS: usize = 9;

/// Medians over the newest finished training runs on the CPU, or on a GPU: how far the peak was from what was reckoned, and how fast they went.
fn past(engine: &Engine, kind: RunKind, on_gpu: bool) -> Option<PastRuns> {
    if kind != RunKind::Train {
        return None;
    }
    let mut runs: Vec<(u64, f64, f64)> = engine.read(|state| {
        let figures = |metrics: &BTreeMap<String, f64>| {
            let get = |name: &str| metrics.get(name).copied().filter(|v| v.is_finite() && *v > 0.0);
            Some((get(figures::PEAK_MIB)? / get(figures::RECKONED_MIB)?, get(figures::FLOPS_PER_S)?))
        };
        let trained = state.runs.values().map(|run| &run.record).filter(|r| r.kind == RunKind::Train);
        trained
            .filter(|r| r.metrics.contains_key(figures::ON_GPU) == on_gpu)
            .filter_map(|r| figures(&r.metrics).map(|(memory, flops)| (r.created_ms, memory, flops)))
            .collect()
    });
    runs.sort_by_key(|run| std::cmp::Reverse(run.0));
    runs.truncate(PAST_RUNS);
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(PastRuns {
        runs: runs.len() as u64,
        memory: median(runs.iter().map(|run| run.1).collect())?,
        flops_per_s: median(runs.iter().map(|run| run.2).collect())?,
    })
}

/// Each row's stratum, by its place in the data.
fn strata_of(strata: Option<&StrataIndex>, dataset: &Dataset) -> Vec<Option<u32>> {
    (0..dataset.len()).map(|i| strata?.of_row(dataset.id(i))).collect()
}

/// New strata: rows without a part get one now.
pub fn assign_parts(engine: &Engine) -> Result<(), Failure> {
    let _one = engine.launching.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ws = Workspace::load(&engine.root).map_err(|p| parts::problems(&p))?;
    let dataset = parts::dataset(engine, &ws)?;
    let strata = strata::latest(engine)?;
    parts::assign(engine, &ws, &dataset, &strata_of(strata.as_deref(), &dataset)).map(drop)
}

/// The rows a run works on, rendered, in the order of the data.
fn run_rows(
    engine: &Engine,
    ws: &Workspace,
    dataset: &Dataset,
    kind: RunKind,
) -> Result<Vec<RunRow>, Failure> {
    let gold = engine.read(|s| s.decisions.gold.clone());
    let strata = strata::latest(engine)?;
    let of_row = strata_of(strata.as_deref(), dataset);
    let parts = match kind {
        RunKind::Strata | RunKind::Judge | RunKind::Serve | RunKind::Playground => {
            parts::parts(engine, dataset)?
        }
        RunKind::Eval | RunKind::Prompt | RunKind::Trajectory | RunKind::Train | RunKind::LrRange => {
            parts::assign(engine, ws, dataset, &of_row)?
        }
    };
    let wanted: &[Part] = match kind {
        RunKind::Strata => &Part::ALL,
        RunKind::Eval => &[ws.config.eval.part],
        RunKind::Prompt | RunKind::Trajectory | RunKind::Train => &[Part::Train, Part::Dev, Part::Eval],
        RunKind::LrRange => &[Part::Train],
        RunKind::Judge | RunKind::Serve | RunKind::Playground => &[],
    };
    let mut found = Vec::new();
    for i in 0..dataset.len() {
        if kind != RunKind::Strata && parts[i].is_none_or(|p| !wanted.contains(&p)) {
            continue;
        }
        let row = dataset.row(i).map_err(|e| parts::data_error(&e))?;
        let (input, in_file) = dataset.resolve(&row).map_err(|e| parts::data_error(&e))?;
        let turns = dataset.turns(&row);
        let (gold, hash) = rows::with_gold(&row.id, &row.hash, in_file, &gold);
        found.push(RunRow {
            id: row.id,
            hash,
            part: parts[i],
            stratum: of_row[i].and_then(|s| strata.as_ref()?.name(s)),
            fields: row.fields,
            input,
            turns,
            gold,
        });
    }
    if let Some(run) = ws.config.tuning.train.rows.strip_prefix("store:").filter(|_| kind == RunKind::Train) {
        let of_store = examples::rows_of(engine, run)?;
        found.retain(|row| row.part != Some(Part::Train) || of_store.contains(&row.id));
        if !found.iter().any(|row| row.part == Some(Part::Train)) {
            return Err(bad_input(format!("no row of the train part stands in the store of {run}")));
        }
    }
    let needed: &[Part] = match kind {
        RunKind::Strata | RunKind::Judge | RunKind::Serve | RunKind::Playground => &[],
        RunKind::Eval => &[ws.config.eval.part],
        RunKind::Prompt => &[Part::Eval],
        RunKind::Trajectory | RunKind::Train => &[Part::Train, Part::Eval],
        RunKind::LrRange => &[Part::Train],
    };
    if let Some(part) = needed.iter().find(|part| !found.iter().any(|r| r.part == Some(**part))) {
        let message = format!(
            "none of {} is in the {} part; rows keep the part that they were given, so add data (or give new rows other shares)",
            counted(dataset.len(), "row"),
            part.name(),
        );
        return Err(bad_input(ws.problem("data.split", message).to_string()));
    }
    Ok(found)
}
