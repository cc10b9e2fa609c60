//! Freezing: everything that a run works on, into its folder.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use super::ingest::{self, LaunchFile};
use super::launch::wish;
use super::state::{Engine, bad_input, failed};
use super::strata::StrataIndex;
use super::{candidates, grow, judging, leaks, models, pairs, parts, resident, rows, sample, strata};
use crate::data::{self, Dataset};
use crate::domain::api::Failure;
use crate::domain::grow::Other;
use crate::domain::honest::Look;
use crate::domain::judge::{JudgedAnswer, PairSettings};
use crate::domain::preflight::{PastRuns, figures};
use crate::domain::row::{Part, RowRef, RunRow};
use crate::domain::run::{Job, RUN_FORMAT, RunKind, RunSpec};
use crate::domain::sets::SetSettings;
use crate::domain::settings::StrataSettings;
use crate::domain::words::counted;
use crate::worker::device::Device;
use crate::worker::folder::RunFolder;
use crate::workspace::Workspace;

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
pub(super) fn freeze(
    engine: &Engine,
    id: &str,
    folder: &RunFolder,
    launch: &LaunchFile,
) -> Result<(), Failure> {
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
    let grown = match launch.kind {
        RunKind::Grow => Some(grow::frozen(engine, &wish)?),
        _ => None,
    };
    let tuned = wish.judge.as_deref().map(|name| judging::frozen(engine, ws, name)).transpose()?;
    let (job, seed) = match launch.kind {
        RunKind::Judge => {
            let settings = compared.as_ref().map(|found| found.settings.clone());
            (Job::Judge(settings.ok_or_else(|| failed("there is nothing to judge"))?), 0)
        }
        RunKind::Grow => {
            let job = grown.as_ref().map(|grown| grown.job.clone());
            (job.ok_or_else(|| failed("there is nothing to grow from"))?, config.tuning.grow.seed)
        }
        RunKind::Serve | RunKind::Playground => (resident::job(engine, launch.kind, &launch.set)?, 0),
        RunKind::Strata => {
            let embedder = models::embedder(engine, ws, &config.data.embedder, "data.embedder")?;
            (Job::Strata(StrataSettings { embedder, ..config.strata.clone() }), config.strata.seed)
        }
        RunKind::Eval => (Job::Eval(config.eval.clone()), config.data.split.seed),
        RunKind::Prompt => {
            let (mut prompt, mut eval) = (config.tuning.prompt.clone(), config.eval.clone());
            let seed = prompt.seed;
            let critic = models::critic(engine, ws)?.map(Box::new);
            let judge = tuned.as_ref().map(|tuned| Box::new(tuned.judge.clone()));
            if let Some(tuned) = &tuned {
                (prompt, eval) = (tuned.prompt.clone(), tuned.eval.clone());
            }
            (Job::Prompt { prompt, eval, critic, judge }, seed)
        }
        RunKind::Trajectory => {
            let trajectory = config.tuning.trajectory.clone();
            (Job::Trajectory { trajectory, eval: config.eval.clone() }, config.data.split.seed)
        }
        RunKind::Train => {
            let mut train = config.tuning.train.clone();
            sample::shrink(engine, &mut train)?;
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
        Job::Prompt { judge: Some(_), .. } => tuned.as_ref().map(|tuned| tuned.candidate.clone()),
        Job::Strata(_) | Job::Judge(_) | Job::Serve(_) | Job::Playground(_) => None,
        Job::Grow { .. } => grown.as_ref().map(|grown| grown.candidate.clone()),
        Job::Eval(_) | Job::Prompt { .. } | Job::Trajectory { .. } => Some(resolve()?),
        Job::Train { train, .. } | Job::LrRange { train, .. } => {
            Some(candidates::for_training(engine, ws, resolve()?, train)?)
        }
    };
    let rows = match (&compared, &tuned) {
        _ if grown.is_some() => grown.as_ref().map(|grown| grown.rows.clone()).unwrap_or_default(),
        (Some(found), _) => found.rows.clone(),
        (None, Some(tuned)) => tuned.rows.clone(),
        (None, None) if resident || launch.kind == RunKind::Strata => Vec::new(),
        (None, None) => run_rows(engine, ws, &dataset()?, launch.kind)?,
    };
    if tuned.is_none() && !wish.allow_leaks {
        leaks::refuse(launch.kind, candidate.as_ref(), &rows)?;
    }
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
    let mut more: Vec<(String, Vec<u8>)> =
        compared.map(|found| (PairSettings::FILE.to_owned(), found.bytes)).into_iter().collect();
    more.extend(tuned.map(|tuned| (JudgedAnswer::FILE.to_owned(), tuned.bytes)));
    more.extend(grown.map(|grown| (Other::FILE.to_owned(), grown.others)));
    for (set, rows) in sets_of(ws, launch.kind)? {
        more.push((RunFolder::set_rows(&set.name), lines_of(&rows).map_err(|e| failed(e.to_string()))?));
        spec.sets.push(set);
    }
    // The look is in the journal before anybody can look.
    if let Some(look) = looked {
        engine
            .look(look)
            .map_err(|e| failed(format!("the look at the reserve could not be written down: {e}")))?;
    }
    if launch.kind == RunKind::Strata {
        let rows = strata_rows(engine, ws, &dataset()?, folder)?;
        let frozen = folder.freeze_rest(&spec, rows, &more);
        return frozen.map_err(|e| failed(format!("the run could not be frozen: {e}")));
    }
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
pub(super) fn sets_of(ws: &Workspace, kind: RunKind) -> Result<Vec<(SetSettings, Vec<RunRow>)>, Failure> {
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
pub(super) fn strata_of(strata: Option<&StrataIndex>, dataset: &Dataset) -> Vec<Option<u32>> {
    (0..dataset.len()).map(|i| strata?.of_row(dataset.id(i))).collect()
}

/// New strata: rows without a part get one now.
pub fn assign_parts(engine: &Engine) -> Result<(), Failure> {
    let _one = engine.launching.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ws = Workspace::load(&engine.root).map_err(|p| parts::problems(&p))?;
    let dataset = parts::dataset(engine, &ws)?;
    let strata = strata::latest(engine)?;
    parts::assign(engine, &ws, &dataset, strata.as_deref()).map(drop)
}

/// All rows for a strata run, written one by one: a million of them are never in memory together. Of the fields only the dimensions go with
/// them. Those that are left out have a stratum, too, so that they have one when they are taken in again. Returns the file's hash.
pub(super) fn strata_rows(
    engine: &Engine,
    ws: &Workspace,
    dataset: &Dataset,
    folder: &RunFolder,
) -> Result<String, Failure> {
    let gold = engine.read(|s| s.decisions.gold.clone());
    let parts = parts::parts(engine, dataset)?;
    let dimensions = &ws.config.strata.dimensions;
    let mut wrong = None;
    let one = |at: usize| -> Result<RunRow, Failure> {
        let mut row = dataset.row(at).map_err(|e| parts::data_error(&e))?;
        let (input, in_file) = dataset.resolve(&row).map_err(|e| parts::data_error(&e))?;
        let (gold, hash) = rows::with_gold(&row.id, &row.hash, in_file, &gold);
        row.fields.retain(|name, _| dimensions.contains(name));
        let part = parts.get(at).copied().flatten();
        Ok(RunRow {
            id: row.id,
            hash,
            part,
            stratum: None,
            fields: row.fields,
            input,
            turns: Vec::new(),
            gold,
        })
    };
    let written = folder.write_rows(&mut |write| {
        for at in 0..dataset.len() {
            match one(at) {
                Ok(row) => write(&row)?,
                Err(failure) => {
                    wrong = Some(failure);
                    return Err(std::io::Error::other("a row"));
                }
            }
        }
        Ok(())
    });
    if let Some(failure) = wrong {
        return Err(failure);
    }
    written.map_err(|e| failed(format!("the run could not be frozen: {e}")))
}

/// The rows a run works on, rendered, in the order of the data.
pub(super) fn run_rows(
    engine: &Engine,
    ws: &Workspace,
    dataset: &Dataset,
    kind: RunKind,
) -> Result<Vec<RunRow>, Failure> {
    let (gold, excluded) = engine.read(|s| {
        let excluded: HashSet<String> = s.decisions.excluded().map(str::to_owned).collect();
        (s.decisions.gold.clone(), excluded)
    });
    let strata = strata::latest(engine)?;
    let of_row = strata_of(strata.as_deref(), dataset);
    let parts = match kind {
        RunKind::Strata | RunKind::Judge | RunKind::Grow | RunKind::Serve | RunKind::Playground => {
            parts::parts(engine, dataset)?
        }
        RunKind::Eval | RunKind::Prompt | RunKind::Trajectory | RunKind::Train | RunKind::LrRange => {
            parts::assign(engine, ws, dataset, strata.as_deref())?
        }
    };
    let wanted: &[Part] = match kind {
        RunKind::Eval => &[ws.config.eval.part],
        RunKind::Prompt | RunKind::Trajectory | RunKind::Train => &[Part::Train, Part::Dev, Part::Eval],
        RunKind::LrRange => &[Part::Train],
        RunKind::Strata | RunKind::Judge | RunKind::Grow | RunKind::Serve | RunKind::Playground => &[],
    };
    let torn = grow::torn(dataset, &parts)?;
    let mut found = Vec::new();
    for i in 0..dataset.len() {
        if parts[i].is_none_or(|p| !wanted.contains(&p))
            || torn.contains(&i)
            || excluded.contains(dataset.id(i))
        {
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
    let written = &ws.config.tuning.train.rows;
    if kind == RunKind::Train
        && let Some(wanted) = sample::train_rows(engine, written)?
    {
        found.retain(|row| row.part != Some(Part::Train) || wanted.contains(&row.id));
        if !found.iter().any(|row| row.part == Some(Part::Train)) {
            return Err(bad_input(format!("rows = \"{written}\" leaves no row of the train part")));
        }
    }
    let needed: &[Part] = match kind {
        RunKind::Strata | RunKind::Judge | RunKind::Grow | RunKind::Serve | RunKind::Playground => &[],
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
