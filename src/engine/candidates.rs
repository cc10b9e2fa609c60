//! Candidates by name: the workspace's own, and those that runs scored or made.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::examples;
use super::models::model_ref;
use super::outcomes;
use super::state::{Engine, bad_input, failed};
use super::versions;
use crate::data::Dataset;
use crate::domain::api::Failure;
use crate::domain::candidate::{AdapterRef, Candidate, ModelSource, OutputKind, StageCandidate};
use crate::domain::row::Part;
use crate::domain::run::{Job, RunKind};
use crate::domain::settings::TrainSettings;
use crate::domain::trilemma::Training;
use crate::store::files;
use crate::tuning::{check, evaluate};
use crate::worker::folder::RunFolder;
use crate::workspace::Workspace;
use crate::workspace::nearest;

/// More different answers than this are no set of labels.
const LABELS_MAX: usize = 1000;

/// A candidate, and the run whose outcomes are its.
#[derive(Clone, Debug)]
pub struct Known {
    pub candidate: Candidate,
    /// [`Candidate::id`]
    pub id: String,
    /// The newest run with outcomes of it; none where it was only named.
    pub run: Option<String>,
    /// Every run with outcomes of it, oldest first.
    pub runs: Vec<String>,
    pub folder: RunFolder,
    pub created_ms: u64,
    /// The newest evaluation of it on the reserve.
    pub fresh: Option<(String, RunFolder)>,
    /// Rows a second, many at once, as the newest run found that measured them.
    pub rows_per_s: Option<f64>,
    /// The run that trained it.
    pub training: Option<Training>,
}

/// Every candidate that has outcomes, as of a version of the board; and what the runs' results say, as long as their files stay as they are.
#[derive(Debug, Default)]
pub struct CandidateCache {
    known: Option<(u64, Arc<Vec<Known>>)>,
    results: HashMap<PathBuf, (Stamp, Option<Scores>)>,
}

type Stamp = (u64, i64, i64);

/// A run's candidate, its id, and the part that was scored where that is not the board's.
type Scores = (Candidate, String, Option<Part>);

/// What a run says of itself.
struct Told {
    created_ms: u64,
    run: String,
    folder: RunFolder,
    rows_per_s: Option<f64>,
    /// In which it trained; none for other kinds.
    trained_ms: Option<u64>,
}

/// Every candidate that has outcomes, oldest first, under the names people gave.
pub fn known(engine: &Engine) -> Arc<Vec<Known>> {
    let mut cache = engine.candidate_cache.lock().unwrap_or_else(PoisonError::into_inner);
    let (version, mut runs, names) = engine.read(|state| {
        let runs: Vec<Told> = state
            .runs
            .values()
            .filter(|r| r.record.state.has_result() && r.record.kind != RunKind::Strata)
            .map(|r| Told {
                created_ms: r.record.created_ms,
                run: r.record.run.clone(),
                folder: r.folder.clone(),
                rows_per_s: r.record.metrics.get(evaluate::ROWS_PER_SECOND).copied(),
                trained_ms: (r.record.kind == RunKind::Train).then_some(r.record.ran_ms),
            })
            .collect();
        (state.board_version, runs, state.decisions.candidates.clone())
    });
    if let Some((at, known)) = &cache.known
        && *at == version
    {
        return known.clone();
    }
    runs.sort_by(|a, b| (a.created_ms, &a.run).cmp(&(b.created_ms, &b.run)));
    let mut known: Vec<Known> = imported(engine);
    let mut places: HashMap<String, usize> =
        known.iter().enumerate().map(|(at, k)| (k.id.clone(), at)).collect();
    let trained: Vec<(PathBuf, String, u64)> =
        runs.iter().filter_map(|t| Some((t.folder.dir().to_owned(), t.run.clone(), t.trained_ms?))).collect();
    for told in runs {
        let Some((candidate, id, part)) = result(&mut cache.results, &told.folder) else { continue };
        let fresh = (part == Some(Part::Reserve)).then(|| (told.run.clone(), told.folder.clone()));
        if fresh.is_some() {
            match places.get(&id).and_then(|at| known.get_mut(*at)) {
                Some(before) => before.fresh = fresh,
                None => {
                    places.insert(id.clone(), known.len());
                    let training = training(&candidate, &trained);
                    let (folder, created_ms) = (told.folder, told.created_ms);
                    let (run, runs, rows_per_s) = (None, Vec::new(), None);
                    known.push(Known {
                        candidate,
                        id,
                        run,
                        runs,
                        folder,
                        created_ms,
                        fresh,
                        rows_per_s,
                        training,
                    });
                }
            }
            continue;
        }
        if let Some(before) = places.get(&id).and_then(|at| known.get_mut(*at)) {
            before.runs.push(told.run.clone());
            before.run = Some(told.run);
            before.folder = told.folder;
            before.rows_per_s = told.rows_per_s.or(before.rows_per_s);
        } else {
            places.insert(id.clone(), known.len());
            let training = training(&candidate, &trained);
            known.push(Known {
                candidate,
                id,
                runs: vec![told.run.clone()],
                run: Some(told.run),
                folder: told.folder,
                created_ms: told.created_ms,
                fresh: None,
                rows_per_s: told.rows_per_s,
                training,
            });
        }
    }
    known.sort_by_key(|k| k.created_ms);
    // Names are unique: the first keeps it, unless a person said otherwise.
    let mut taken: BTreeSet<String> = names.values().cloned().collect();
    for k in &mut known {
        if let Some(name) = names.get(&k.id) {
            k.candidate.name.clone_from(name);
        } else if !taken.insert(k.candidate.name.clone()) {
            k.candidate.name = format!("{}-{}", k.candidate.name, &k.id[..6]);
            taken.insert(k.candidate.name.clone());
        }
    }
    let known = Arc::new(known);
    cache.known = Some((version, known.clone()));
    known
}

/// What a run's result says: its candidate with its id, and the part that it scored where that is not the board's.
fn result(kept: &mut HashMap<PathBuf, (Stamp, Option<Scores>)>, folder: &RunFolder) -> Option<Scores> {
    let path = folder.result();
    let meta = fs::metadata(&path).ok()?;
    let stamp = (meta.len(), meta.mtime(), meta.mtime_nsec());
    if let Some((at, found)) = kept.get(&path)
        && *at == stamp
    {
        return found.clone();
    }
    let found = folder.read_result().and_then(|r| {
        let mut candidate = r.candidate?;
        relocate(&mut candidate, folder);
        let id = candidate.id();
        Some((candidate, id, r.part))
    });
    kept.insert(path, (stamp, found.clone()));
    found
}

/// The run in whose folder an adapter or a model of the candidate lies, and what its machine costs.
fn training(candidate: &Candidate, trained: &[(PathBuf, String, u64)]) -> Option<Training> {
    candidate.stages.iter().find_map(|stage| {
        let model = match &stage.model.source {
            ModelSource::Local { path } => Some(path),
            ModelSource::Endpoint { .. } => None,
        };
        let lies = |dir: &Path| {
            let places = stage.adapter.iter().map(|a| &a.path).chain(model);
            places.into_iter().any(|path| Path::new(path).starts_with(dir))
        };
        let (_, run, ms) = trained.iter().find(|(dir, ..)| lies(dir))?;
        let usd_per_hour = stage.model.usd_per_hour;
        Some(Training { run: run.clone(), hours: *ms as f64 / 3_600_000.0, usd_per_hour })
    })
}

/// What a run made lies in its folder, also after the workspace has moved.
fn relocate(candidate: &mut Candidate, folder: &RunFolder) {
    for stage in &mut candidate.stages {
        let here = |path: &str| {
            let name = Path::new(path).file_name()?;
            let moved = folder.artifacts().join(name);
            (!Path::new(path).exists() && moved.is_dir()).then(|| moved.display().to_string())
        };
        if let Some(adapter) = &mut stage.adapter
            && let Some(moved) = here(&adapter.path)
        {
            adapter.path = moved;
        }
        if let Some(examples) = &mut stage.examples
            && !Path::new(&examples.path).exists()
            && let Some(name) = Path::new(&examples.path).file_name()
        {
            let moved = [folder.artifacts(), folder.inputs()].map(|dir| dir.join(name));
            if let Some(moved) = moved.into_iter().find(|path| path.is_file()) {
                examples.path = moved.display().to_string();
            }
        }
        if let ModelSource::Local { path } = &mut stage.model.source
            && let Some(moved) = here(path)
        {
            *path = moved;
        }
    }
}

/// Folders of candidates whose outcomes were made elsewhere: `imports/outcomes/<hash>/`.
pub fn imported_dir(engine: &Engine) -> PathBuf {
    engine.state_dir.join("imports/outcomes")
}

fn imported(engine: &Engine) -> Vec<Known> {
    let kept = engine.read(|s| s.decisions.outcomes.clone());
    kept.iter()
        .filter_map(|(name, import)| {
            let folder = RunFolder::new(imported_dir(engine).join(import));
            let mut candidate: Candidate =
                serde_json::from_slice(&fs::read(folder.dir().join("candidate.json")).ok()?).ok()?;
            candidate.name.clone_from(name);
            let created_ms = outcomes::about(&folder).map_or(0, |about| about.first_ms);
            let id = candidate.id();
            Some(Known {
                candidate,
                id,
                run: None,
                runs: Vec::new(),
                folder,
                created_ms,
                rows_per_s: None,
                training: None,
                fresh: None,
            })
        })
        .collect()
}

/// A candidate with outcomes, by name, run (its best), or the start of its id.
pub fn find(engine: &Engine, name: &str) -> Result<Known, Failure> {
    let known = known(engine);
    if let Some(k) = known.iter().find(|k| k.candidate.name == name) {
        return Ok(k.clone());
    }
    if engine.read(|s| s.runs.contains_key(name)) {
        let of_run = engine.read(|s| s.runs.get(name).map(|r| r.folder.clone())).and_then(|folder| {
            let mut candidate = folder.read_result()?.candidate?;
            relocate(&mut candidate, &folder);
            Some((candidate, folder))
        });
        return match of_run {
            Some((candidate, folder)) => {
                let id = candidate.id();
                let shown = known.iter().find(|k| k.id == id);
                let candidate = shown.map_or(candidate, |k| k.candidate.clone());
                let run = name.to_owned();
                Ok(Known {
                    candidate,
                    id,
                    runs: vec![run.clone()],
                    run: Some(run),
                    folder,
                    created_ms: 0,
                    rows_per_s: None,
                    training: None,
                    fresh: None,
                })
            }
            None => Err(bad_input(format!("run {name} has no candidate (yet)"))),
        };
    }
    let like: Vec<&Known> = known.iter().filter(|k| name.len() >= 4 && k.id.starts_with(name)).collect();
    match like[..] {
        [only] => Ok(only.clone()),
        [] => {
            let names: Vec<&str> = known.iter().map(|k| k.candidate.name.as_str()).collect();
            let there = if names.is_empty() {
                "none has been evaluated yet: `tunebench run eval`".to_owned()
            } else {
                format!("there are: {}", names.join(", "))
            };
            Err(bad_input(format!("no candidate `{name}`; {there}")))
        }
        _ => Err(bad_input(format!("several candidates' ids begin with `{name}`; write more of it"))),
    }
}

/// What `candidate=` means for a launch: a name, a run (its best), `RUN@STEP`, the start of an id; nothing: the workspace as it stands.
pub fn resolve(
    engine: &Engine,
    ws: &Workspace,
    dataset: &Dataset,
    wanted: Option<&str>,
) -> Result<Candidate, Failure> {
    let base = || baseline(engine, ws, dataset);
    let Some(wanted) = wanted else { return base() };
    if let Some((run, step)) = wanted.split_once('@') {
        return at_step(engine, run, step);
    }
    match find(engine, wanted) {
        Ok(known) if known.candidate.stages.is_empty() => {
            Err(bad_input(format!("`{wanted}` was imported: only its outcomes are known, it cannot be run")))
        }
        Ok(known) => Ok(known.candidate),
        Err(_) if wanted == "baseline" => base(),
        // A version of prompts; a candidate's name has no colon.
        Err(_) if wanted.contains(':') => versions::candidate(engine, wanted, base()?),
        Err(failure) => match wanted.rsplit_once('+') {
            Some((base, store)) => {
                let base = resolve(engine, ws, dataset, Some(base))?;
                examples::with_store(engine, ws, base, store)
            }
            None => Err(failure),
        },
    }
}

/// The adapter of a training run as it was at a step.
pub fn at_step(engine: &Engine, run: &str, step: &str) -> Result<Candidate, Failure> {
    let folder = engine
        .read(|s| s.runs.get(run).map(|r| r.folder.clone()))
        .ok_or_else(|| super::state::no_run(run))?;
    let checkpoints = folder.list_checkpoints().map_err(|e| failed(e.to_string()))?;
    let steps = || checkpoints.iter().map(|(s, _)| s.to_string()).collect::<Vec<_>>().join(", ");
    let found = step.parse::<u64>().ok().and_then(|step| checkpoints.iter().find(|(s, _)| *s == step));
    let Some((step, path)) = found else {
        let there =
            if checkpoints.is_empty() { "it has none".into() } else { format!("it has: {}", steps()) };
        return Err(bad_input(format!("{run} has no checkpoint at step `{step}`; {there}")));
    };
    let spec = folder.read_spec().map_err(|e| failed(format!("{e:#}")))?;
    let (Job::Train { train, .. }, Some(mut candidate)) = (spec.job, spec.candidate) else {
        return Err(bad_input(format!("{run} is no training run")));
    };
    let adapter = adapter_dir(path).ok_or_else(|| {
        bad_input(format!("{} holds no adapter (adapter_model.safetensors)", path.display()))
    })?;
    // What the run's result says of its stages (prompt, name) holds for its earlier steps as well.
    if let Some(best) = folder.read_result().and_then(|r| r.candidate) {
        candidate = best;
    }
    let at = candidate.stages.iter().position(|s| s.name == train.stage).unwrap_or(0);
    let stage = candidate.stages.get_mut(at).ok_or_else(|| bad_input(format!("{run} has no stage")))?;
    let hash = crate::tuning::train::adapter_hash(&adapter).map_err(|e| failed(e.to_string()))?;
    stage.adapter = Some(AdapterRef { path: adapter.display().to_string(), hash });
    candidate.name = format!("{run}@{step}");
    candidate.rung = "lora".into();
    Ok(candidate)
}

/// The folder in PEFT's format in (or right under) a checkpoint.
fn adapter_dir(checkpoint: &Path) -> Option<PathBuf> {
    [checkpoint.join("adapter"), checkpoint.to_owned()]
        .into_iter()
        .find(|dir| dir.join("adapter_model.safetensors").is_file())
}

/// A prompt's text and what the board calls it.
fn prompt_file(engine: &Engine, ws: &Workspace, path: &Path) -> Result<(String, String), Failure> {
    let path = ws.resolve(path);
    let text = fs::read_to_string(&path)
        .map_err(|e| bad_input(format!("{}: cannot be read: {e}", path.display())))?;
    let hash = blake3::hash(text.as_bytes()).to_hex();
    keep_prompt(engine, hash.as_str(), &text)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((text, format!("{stem} {}", &hash.as_str()[..6])))
}

/// The candidate with the prompt that its stage is trained on, and then answers to: `bare`, `same`, or a file.
pub fn for_training(
    engine: &Engine,
    ws: &Workspace,
    mut candidate: Candidate,
    train: &TrainSettings,
) -> Result<Candidate, Failure> {
    // The student sees no examples: what they did is to go into the weights.
    for stage in &mut candidate.stages {
        if train.stage.is_empty() || stage.name == train.stage {
            stage.examples = None;
        }
    }
    let (text, name) = match train.prompt.as_str() {
        "same" => return Ok(candidate),
        "bare" => bare(),
        file => prompt_file(engine, ws, Path::new(file))?,
    };
    let only = candidate.stages.len() == 1;
    let known: Vec<_> = candidate.stages.iter().map(|s| s.name.clone()).collect();
    let stage = candidate
        .stages
        .iter_mut()
        .find(|s| s.name == train.stage || (only && train.stage.is_empty()))
        .ok_or_else(|| {
            let known = known.join(", ");
            bad_input(format!(
                "tuning.train.stage `{}` names no stage; expected one of: {known}",
                train.stage
            ))
        })?;
    (stage.prompt, stage.prompt_name) = (text, name);
    Ok(candidate)
}

/// The input and nothing else.
fn bare() -> (String, String) {
    (StageCandidate::BARE.to_owned(), "bare".to_owned())
}

/// The pipeline of `workspace.toml`, frozen.
pub fn baseline(engine: &Engine, ws: &Workspace, dataset: &Dataset) -> Result<Candidate, Failure> {
    let mut stages = Vec::new();
    let mut labels: Option<Vec<String>> = None;
    for (i, stage) in ws.config.stages.iter().enumerate() {
        let model = model_ref(engine, ws, &stage.model, &format!("stage.{i}.model"))?;
        let (prompt, prompt_name) = match &stage.prompt {
            None => bare(),
            Some(path) => prompt_file(engine, ws, path)?,
        };
        // The last stage's labels are the task's; another stage's are its own gold's.
        let labels = match (&stage.gold, stage.output) {
            (Some(field), OutputKind::Label) => field_values(dataset, field)?,
            (None, OutputKind::Label) if i + 1 == ws.config.stages.len() => match &labels {
                Some(labels) => labels.clone(),
                None => labels.insert(gold_values(engine, dataset)?).clone(),
            },
            _ => Vec::new(),
        };
        let constraint = check::constraint_of(ws, stage, &labels).map_err(|p| super::parts::problems(&p))?;
        stages.push(StageCandidate {
            name: stage.name.clone(),
            model,
            adapter: None,
            prompt,
            prompt_name,
            output: stage.output,
            labels,
            decoding: check::decoding_of(stage),
            when: stage.when.clone(),
            retries: stage.retries,
            constraint,
            tools: stage
                .tools
                .iter()
                .map(|path| ws.tool(path))
                .collect::<Result<_, _>>()
                .map_err(|p| super::parts::problems(&p))?,
            gold: stage.gold.clone(),
            examples: None,
        });
    }
    Ok(named(engine, Candidate { name: "baseline".into(), rung: "baseline".into(), stages }))
}

/// Under the name that it has, or where another has that, told apart by its id: a pipeline of the workspace need not be its first one.
fn named(engine: &Engine, mut candidate: Candidate) -> Candidate {
    let id = candidate.id();
    let known = known(engine);
    match known.iter().find(|k| k.id == id) {
        Some(k) => candidate.name.clone_from(&k.candidate.name),
        None if known.iter().any(|k| k.candidate.name == candidate.name) => {
            candidate.name = format!("{}-{}", candidate.name, &id[..6]);
        }
        None => {}
    }
    candidate
}

/// The rung of a pipeline with another model in all its stages.
const OTHER_MODEL: &str = "model";

/// The candidate with a model of the workspace in the place of every stage's model and adapter. With its own it stays what it is.
pub fn with_model(
    engine: &Engine,
    ws: &Workspace,
    candidate: Candidate,
    name: &str,
) -> Result<Candidate, Failure> {
    if !ws.config.models.contains_key(name) {
        let known = || ws.config.models.keys().map(String::as_str);
        let hint = match nearest(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("models: {}", known().collect::<Vec<_>>().join(", ")),
        };
        return Err(bad_input(format!("no model is called `{name}`; {hint}")));
    }
    let model = model_ref(engine, ws, name, &format!("models.{name}"))?;
    if candidate.stages.iter().all(|stage| stage.adapter.is_none() && stage.model.hash == model.hash) {
        return Ok(candidate);
    }
    let before = candidate.rung == "baseline";
    let called = if before { slug(name) } else { slug(&format!("{}-{name}", candidate.name)) };
    let with = |stage| StageCandidate { model: model.clone(), adapter: None, ..stage };
    let stages = candidate.stages.into_iter().map(with).collect();
    Ok(named(engine, Candidate { name: called, rung: OTHER_MODEL.into(), stages }))
}

/// The texts of prompts outlive their files: `prompts/<hash>.md`.
pub fn keep_prompt(engine: &Engine, hash: &str, text: &str) -> Result<(), Failure> {
    let dir = engine.state_dir.join("prompts");
    let path = dir.join(format!("{hash}.md"));
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(&dir)
        .and_then(|()| files::write_atomic(&path, text.as_bytes()))
        .map_err(|e| failed(format!("{}: {e}", path.display())))
}

/// Every golden answer that occurs, sorted. Too many for labels: none.
fn gold_values(engine: &Engine, dataset: &Dataset) -> Result<Vec<String>, Failure> {
    let mut values: BTreeSet<String> = engine.read(|s| s.decisions.gold.values().cloned().collect());
    for i in 0..dataset.len() {
        let row = dataset.row(i).map_err(|e| bad_input(e.to_string()))?;
        if let (_, Some(gold)) = dataset.resolve(&row).map_err(|e| bad_input(e.to_string()))? {
            values.insert(gold);
            if values.len() > LABELS_MAX {
                return Ok(Vec::new());
            }
        }
    }
    Ok(values.into_iter().collect())
}

fn field_values(dataset: &Dataset, field: &str) -> Result<Vec<String>, Failure> {
    let mut values = BTreeSet::new();
    for i in 0..dataset.len() {
        let row = dataset.row(i).map_err(|e| bad_input(e.to_string()))?;
        // A row without this gold says nothing of the labels.
        if let Some(value) = row.fields.get(field).filter(|value| !value.is_null()) {
            values.insert(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            if values.len() > LABELS_MAX {
                return Ok(Vec::new());
            }
        }
    }
    Ok(values.into_iter().collect())
}

/// Letters, digits, `-`, `_`, `.`; the rest becomes `-`.
pub fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.trim().chars() {
        if c.is_alphanumeric() || matches!(c, '_' | '.') {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.trim_end_matches('-').chars().take(64).collect()
}

#[cfg(test)]
mod tests;
