//! Launching: from a request to a run folder with everything frozen in it.
//!
//! A run that needs parts when some rows have none waits for a `strata` run; its folder holds only `launch.json` till then.

use std::fs;
use std::path::PathBuf;

use super::freeze::{freeze, sets_of, strata_of};
use super::ingest::{self, LaunchFile};
use super::state::{Engine, Run, State, bad_input, failed, needs_keys};
use super::{branch, candidates, grow, judges, judging, models, pairs, parts, strata};
use crate::data::Dataset;
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, ModelRef};
use crate::domain::keys::{self, KEYS_MAX, KeyNeed, Keys};
use crate::domain::leak::{ALLOW, LEAKS};
use crate::domain::row::Part;
use crate::domain::run::{RunKind, RunState};
use crate::domain::settings::EvalSettings;
use crate::domain::sweep::{Group, MOST_RUNS};
use crate::domain::trajectory::Match;
use crate::store::files;
use crate::tuning::check;
use crate::worker::folder::{RunFolder, now_ms};
use crate::workspace::Workspace;

/// A run's settings are short; whoever sends more is not a person.
const SET_MAX: usize = 64 << 10;

/// Settings of a launch, read: the workspace with them applied, and which candidate, with which model in place of its own.
pub(super) struct Wish {
    pub(super) ws: Workspace,
    pub(super) candidate: Option<String>,
    pub(super) model: Option<String>,
    /// Name of the judge whose rubric is to be tuned.
    pub judge: Option<String>,
    /// The run goes on though it learns from what it is scored on.
    pub allow_leaks: bool,
}

pub(super) fn wish(engine: &Engine, kind: RunKind, set: &[(String, String)]) -> Result<Wish, Failure> {
    let ws = Workspace::load(&engine.root).map_err(|p| parts::problems(&p))?;
    // A judge is tuned by a run of kind prompt.
    let own = |key: &str| {
        matches!(key, "candidate" | "model" | LEAKS) || (key == "judge" && kind == RunKind::Prompt)
    };
    let (mine, rest): (Vec<_>, Vec<_>) = set.iter().cloned().partition(|(key, _)| own(key));
    let ws = ws.with_settings(Some(kind), &rest).map_err(|p| parts::problems(&p))?;
    let last = |name: &str| mine.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.clone());
    let (candidate, model, judge) = (last("candidate"), last("model"), last("judge"));
    let allow_leaks = match last(LEAKS).as_deref() {
        None | Some("refuse") => false,
        Some(ALLOW) => true,
        Some(other) => {
            return Err(bad_input(format!("{LEAKS} = \"{other}\": write `{ALLOW}` or `refuse`")));
        }
    };
    if judge.is_some() && candidate.is_some() {
        return Err(bad_input(
            "a prompt run tunes a candidate or a judge, not both; leave out candidate= or judge=",
        ));
    }
    if kind == RunKind::Strata && candidate.is_some() {
        return Err(bad_input("a strata run has no candidate"));
    }
    if !matches!(kind, RunKind::Eval | RunKind::Grow) && model.is_some() {
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
    if kind == RunKind::Grow {
        // Of the metrics only the primary one is asked for: it says whether a new row's gold is right.
        let primary = ws.config.eval.primary.clone();
        ws.config.eval.metrics = vec![primary];
        ws.config.eval.beside.clear();
        ws.config.goals.clear();
    }
    if matches!(kind, RunKind::Eval | RunKind::Prompt | RunKind::Trajectory | RunKind::Train | RunKind::Grow)
    {
        ws.config.eval.judges = judges::of_eval(engine, &ws)?;
        ws.config.eval.intent.model =
            models::embedder(engine, &ws, &ws.config.eval.intent.embedder, "eval.intent.embedder")?;
    }
    if kind == RunKind::Grow {
        ws.config.tuning.grow.embedder =
            models::embedder(engine, &ws, &ws.config.data.embedder, "data.embedder")?;
    }
    if kind == RunKind::Trajectory {
        ws.config.tuning.trajectory.model = models::of_examples(engine, &ws)?;
    }
    if kind == RunKind::Trajectory && ws.config.tuning.trajectory.matches == Match::Judge {
        let judge = judges::frozen(engine, &ws, judges::named(&ws, None)?)?;
        ws.config.tuning.trajectory.judge = Some(judge);
    }
    Ok(Wish { ws, candidate, model, judge, allow_leaks })
}

impl Wish {
    /// The candidate that is wished for.
    pub(super) fn resolve(&self, engine: &Engine, dataset: &Dataset) -> Result<Candidate, Failure> {
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
    if kind == RunKind::Strata {
        needs.keys = strata_keys(engine, &wish.ws, keys)?;
    } else {
        if let Some(name) = &wish.judge {
            let tuned = judging::frozen(engine, &wish.ws, name)?;
            let critic = models::critic(engine, &wish.ws)?;
            needs.keys = check_keys(kind, &tuned.candidate, &tuned.eval, critic.as_ref(), keys)?;
            return Ok(needs);
        }
        // Wrong wishes are refused now, not when the strata are done.
        let mut candidate = match kind {
            RunKind::Grow => grow::checker(engine, &wish, &dataset)?,
            _ => wish.resolve(engine, &dataset)?,
        };
        if matches!(kind, RunKind::Train | RunKind::LrRange) {
            candidate = candidates::for_training(engine, &wish.ws, candidate, &wish.ws.config.tuning.train)?;
        }
        refuse(&wish, kind, &candidate, &dataset)?;
        sets_of(&wish.ws, kind)?;
        let other = match kind {
            RunKind::Prompt => models::critic(engine, &wish.ws)?,
            RunKind::Trajectory => wish.ws.config.tuning.trajectory.model.as_deref().cloned(),
            RunKind::Grow => {
                grow::form(&wish.ws, &dataset)?;
                Some(grow::maker(engine, &wish.ws)?)
            }
            _ => None,
        };
        let config = &wish.ws.config;
        let judges = config.eval.judges.iter().chain(&config.tuning.trajectory.judge);
        let asked = EvalSettings { judges: judges.cloned().collect(), ..config.eval.clone() };
        let others = other.iter().chain(config.tuning.grow.embedder.as_deref());
        needs.keys = check_keys(kind, &candidate, &asked, others, keys)?;
        refuse_prompt(&wish, kind, &candidate)?;
        if !every_row_has_a_part(engine, &wish.ws, &dataset)? {
            if dataset.len() == 1 && wish.ws.config.data.split.eval < 1.0 {
                // Known without strata: refused now, not when they are built.
                return Err(bad_input(
                    "the data has 1 row, which cannot be split into rows to train on and rows to score; add data",
                ));
            }
            needs.run = Some(strata_run(engine, &wish.ws, keys)?);
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
    let strata = strata::latest(engine)?;
    // What was made is in the train part, whatever its stratum.
    let made = parts::parents(dataset)?;
    if parts
        .iter()
        .zip(&strata_of(strata.as_deref(), dataset))
        .enumerate()
        .any(|(at, (part, stratum))| part.is_none() && stratum.is_none() && !made.contains_key(&at))
    {
        return Ok(false);
    }
    parts::assign(engine, ws, dataset, strata.as_deref())?;
    Ok(!missing(&parts::parts(engine, dataset)?))
}

/// Of the keys that came with the launch those that the models of candidate and judges (and others: the critic, the embedder) need: they are
/// held in memory till the run ends.
pub fn check_keys<'m>(
    kind: RunKind,
    candidate: &'m Candidate,
    eval: &'m EvalSettings,
    others: impl IntoIterator<Item = &'m ModelRef>,
    keys: &Keys,
) -> Result<Keys, Failure> {
    let beside: Vec<&ModelRef> = others.into_iter().chain(eval.intent.model.as_deref()).collect();
    keys::models(candidate, &eval.judges).chain(beside.iter().copied()).try_for_each(models::present)?;
    if !matches!(kind, RunKind::Eval | RunKind::Prompt | RunKind::Trajectory | RunKind::Train | RunKind::Grow)
    {
        return Ok(Keys::default());
    }
    keys_for(KeyNeed::of_models(candidate, &eval.judges, beside), keys)
}

/// Of the keys those that are needed; refuses where some are missing.
pub(super) fn keys_for(needs: Vec<KeyNeed>, keys: &Keys) -> Result<Keys, Failure> {
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

/// Of the keys the one that the embedder of `[data]` needs.
fn strata_keys(engine: &Engine, ws: &Workspace, keys: &Keys) -> Result<Keys, Failure> {
    let embedder = models::embedder(engine, ws, &ws.config.data.embedder, "data.embedder")?;
    keys_for(embedder.as_deref().and_then(KeyNeed::of).into_iter().collect(), keys)
}

/// The strata run that is under way, or a new one.
fn strata_run(engine: &Engine, ws: &Workspace, keys: &Keys) -> Result<String, Failure> {
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
            let needs = Needs { run: None, keys: strata_keys(engine, ws, keys)? };
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
