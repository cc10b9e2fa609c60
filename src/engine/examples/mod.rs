//! Stores of worked examples: those that runs found, and imported ones; as people left them.
//!
//! ```text
//! runs/RUN/artifacts/store.jsonl          what a trajectory run found
//! imports/examples/NAME/store.jsonl       what was imported
//! .../embedder.safetensors                beside each: what turns its texts into vectors, fitted once,
//! .../embedder.json                       or the model that does
//! examples/<hash>.jsonl                   a store with its edits, frozen for the candidates that use it
//! ```

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::backend::Access;
use crate::domain::api::{Decision, FILE_THERE, Failure};
use crate::domain::candidate::{Candidate, ModelRef, ModelSource};
use crate::domain::example::{
    Example, ExampleEdit, ExamplePage, ExampleQuery, Form, FoundExamples, KeptFile, Retrieval, StageExamples,
    StoreEmbedder, edited, merged_away,
};
use crate::domain::keys::{KeyNeed, Keys};
use crate::domain::row::Part;
use crate::domain::run::RunKind;
use crate::domain::trajectory::{TrajectoryReport, TrajectorySettings, TrajectoryView};
use crate::engine::state::{Engine, bad_input, failed};
use crate::engine::{candidates, launch, models, rows};
use crate::retrieve::{self, EMBEDDER, MODEL, Query, same_text, store};
use crate::store::files;
use crate::tuning::trajectory::{REPORT, STORE};
use crate::workspace::Workspace;

/// Examples of a page, in bytes of their JSON: a page must fit a frame.
const PAGE_BYTES: usize = 512 << 10;
/// Largest file that is imported.
const IMPORT_MAX: u64 = 1 << 30;

fn imported(engine: &Engine, name: &str) -> PathBuf {
    engine.state_dir.join("imports/examples").join(name).join("store.jsonl")
}

/// The store's name and file: a run's, or an imported one's; without a name the newest run's.
fn find(engine: &Engine, wanted: Option<&str>) -> Result<(String, PathBuf), Failure> {
    let of_runs: BTreeMap<(u64, String), PathBuf> = engine.read(|state| {
        let runs = state.runs.values().filter(|r| r.record.kind == RunKind::Trajectory);
        runs.map(|r| ((r.record.created_ms, r.record.run.clone()), r.folder.dir().join(STORE))).collect()
    });
    let of_runs: Vec<(String, PathBuf)> =
        of_runs.into_iter().filter(|(_, path)| path.is_file()).map(|((_, run), path)| (run, path)).collect();
    let Some(wanted) = wanted else {
        return of_runs.into_iter().next_back().ok_or_else(|| {
            bad_input("there is no store of examples yet: `tunebench run trajectory` makes one")
        });
    };
    if let Some(found) = of_runs.iter().find(|(run, _)| run == wanted) {
        return Ok(found.clone());
    }
    let path = imported(engine, wanted);
    if !wanted.contains('/') && path.is_file() {
        return Ok((wanted.to_owned(), path));
    }
    // A candidate's name stands for the run that made it.
    if let Some(run) = candidates::find(engine, wanted).ok().and_then(|k| k.runs.first().cloned())
        && let Some(found) = of_runs.iter().find(|(known, _)| *known == run)
    {
        return Ok(found.clone());
    }
    let names: Vec<&str> = of_runs.iter().map(|(run, _)| run.as_str()).collect();
    let there = if names.is_empty() { "no run has made one".into() } else { names.join(", ") };
    Err(bad_input(format!("no store of examples `{wanted}`; there are: {there}")))
}

/// A store, what people decided about its examples (by id), and the examples as they left them.
struct Loaded {
    name: String,
    path: PathBuf,
    all: Vec<Example>,
    edits: BTreeMap<String, ExampleEdit>,
    examples: Vec<Example>,
}

fn load(engine: &Engine, wanted: Option<&str>) -> Result<Loaded, Failure> {
    let (name, path) = find(engine, wanted)?;
    let all = store::read(&path, None).map_err(|e| failed(format!("{e:#}")))?;
    let edits: BTreeMap<String, ExampleEdit> = engine.read(|state| {
        let mine = state.decisions.examples.iter().filter(|((of, _), _)| *of == name);
        mine.map(|((_, id), edit)| (id.clone(), edit.clone())).collect()
    });
    let examples = edited(&all, &edits);
    Ok(Loaded { name, path, all, edits, examples })
}

/// The embedder of a store. A store that was made without one gets it now: the one that `[tuning.trajectory]` names, or the built-in one,
/// fitted on its texts as they were made.
fn embedder(engine: &Engine, ws: &Workspace, loaded: &Loaded) -> Result<StoreEmbedder, Failure> {
    let (fitted, asked) = (loaded.path.with_file_name(EMBEDDER), loaded.path.with_file_name(MODEL));
    let told = |path: &Path, e: &dyn std::fmt::Display| failed(format!("{}: {e}", path.display()));
    if asked.is_file() {
        let bytes = fs::read(&asked).map_err(|e| told(&asked, &e))?;
        let model: ModelRef = serde_json::from_slice(&bytes).map_err(|e| told(&asked, &e))?;
        return Ok(StoreEmbedder::Model(Box::new(unchanged(engine, &loaded.name, model)?)));
    }
    let hash = if fitted.is_file() {
        store::hash(&fs::read(&fitted).map_err(|e| told(&fitted, &e))?)
    } else if let Some(model) = models::of_examples(engine, ws)? {
        files::write_json(&asked, &model).map_err(|e| told(&asked, &e))?;
        return Ok(StoreEmbedder::Model(model));
    } else {
        let texts = loaded.all.iter().map(|e| e.input.as_str());
        let bytes = retrieve::fit(texts).to_bytes().map_err(|e| told(&fitted, &e))?;
        files::write_atomic(&fitted, &bytes).map_err(|e| told(&fitted, &e))?;
        store::hash(&bytes)
    };
    Ok(StoreEmbedder::Fitted(KeptFile { path: fitted.display().to_string(), hash }))
}

/// Refuses a model whose folder holds another one than when the store was made: its vectors would not be those of the examples.
fn unchanged(engine: &Engine, store: &str, model: ModelRef) -> Result<ModelRef, Failure> {
    let ModelSource::Local { path } = &model.source else { return Ok(model) };
    let there = models::model_hash(engine, Path::new(path));
    let why = match there {
        Ok(hash) if hash == model.hash => return Ok(model),
        Ok(_) => "it was changed since the store was made".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(bad_input(format!(
        "the embedder `{}` of {store} at {path}: {why}; put it back, or `examples export` the store and import it under another name, which embeds it anew",
        model.name
    )))
}

/// The store as it stands in a file of its own, which nothing changes any more.
fn freeze(
    engine: &Engine,
    ws: &Workspace,
    loaded: &Loaded,
    retrieval: Retrieval,
) -> Result<StageExamples, Failure> {
    // What others stand for keeps its place in the rankings, as what is disabled does.
    let mut all = loaded.examples.clone();
    all.extend(merged_away(&loaded.all, &loaded.edits));
    let bytes = store::to_bytes(&all).map_err(|e| failed(format!("{e:#}")))?;
    let hash = store::hash(&bytes);
    let path = engine.state_dir.join("examples").join(format!("{hash}.jsonl"));
    if !path.exists() {
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| files::write_atomic(&path, &bytes))
            .map_err(|e| failed(format!("{}: {e}", path.display())))?;
    }
    let embedder = Some(embedder(engine, ws, loaded)?);
    Ok(StageExamples { path: path.display().to_string(), hash, retrieval, embedder })
}

/// The examples that may be shown, of the newest run's store and of those that were imported, each with the store's name.
pub fn shown(engine: &Engine) -> Vec<(String, Example)> {
    let folder = engine.state_dir.join("imports/examples");
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<Option<String>> =
        names.map(|entry| Some(entry.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    names.push(None);
    let stores = names.iter().filter_map(|name| load(engine, name.as_deref()).ok());
    let shown = stores.flat_map(|store| {
        let name = store.name;
        store.examples.into_iter().filter(|e| e.enabled).map(move |e| (name.clone(), e))
    });
    shown.collect()
}

/// A window on a store; with `id` the one example that begins so.
pub fn page(
    engine: &Engine,
    wanted: Option<&str>,
    id: Option<&str>,
    query: &ExampleQuery,
) -> Result<ExamplePage, Failure> {
    let Loaded { name, examples: mut all, edits, .. } = load(engine, wanted)?;
    if let Some(id) = id {
        all = vec![one(&name, &all, id)?.clone()];
    }
    all.retain(|example| list::fits(example, &edits, &query.text));
    list::order(&mut all, &query.sort);
    let (total, offset) = (all.len(), query.offset.min(all.len()));
    let mut bytes = 0;
    let page: Vec<Example> = all
        .into_iter()
        .skip(offset)
        .take(query.count)
        .take_while(|example| {
            let first = bytes == 0;
            bytes += serde_json::to_string(example).map_or(0, |text| text.len());
            first || bytes <= PAGE_BYTES
        })
        .collect();
    let here: BTreeSet<&str> = page.iter().map(|e| e.id.as_str()).collect();
    let edited = edits.into_keys().filter(|id| here.contains(id.as_str())).collect();
    Ok(ExamplePage { store: name, total, offset, examples: page, edited })
}

fn one<'e>(name: &str, all: &'e [Example], id: &str) -> Result<&'e Example, Failure> {
    let mut like = all.iter().filter(|e| !id.is_empty() && e.id.starts_with(id));
    match (like.next(), like.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(bad_input(format!("several examples begin with `{id}`; write more of it"))),
        (None, _) => Err(bad_input(format!("no example `{id}` in {name}"))),
    }
}

/// How the run of a store retrieves; the settings', where it kept none.
fn retrieval(engine: &Engine, ws: &Workspace, name: &str) -> Retrieval {
    let of_run = candidates::find(engine, name).ok().and_then(|known| {
        let stages = known.candidate.stages.into_iter();
        stages.filter_map(|s| s.examples).map(|e| e.retrieval).next()
    });
    let settings: &TrajectorySettings = &ws.config.tuning.trajectory;
    of_run.unwrap_or_else(|| settings.retrieval(settings.shots, settings.form.unwrap_or(Form::Text)))
}

/// What would be retrieved for an input, at the stage that is named or the first that has examples.
pub fn search(
    engine: &Engine,
    wanted: Option<&str>,
    stage: Option<&str>,
    input: &str,
    shots: Option<usize>,
    keys: &Keys,
) -> Result<FoundExamples, Failure> {
    let of_store = load(engine, wanted)?;
    let (name, all) = (&of_store.name, &of_store.examples);
    let loaded = rows::loaded(engine)?;
    let stages: BTreeSet<&str> = all.iter().map(|e| e.stage.as_str()).collect();
    let stage = match stage {
        Some(stage) if stages.contains(stage) => stage.to_owned(),
        Some(stage) => {
            let known = stages.into_iter().collect::<Vec<_>>().join(", ");
            return Err(bad_input(format!("{name} has no examples of stage `{stage}`; it has: {known}")));
        }
        None => {
            let stages = &loaded.ws.config.stages;
            let first = stages.iter().map(|s| s.name.as_str()).find(|s| all.iter().any(|e| e.stage == *s));
            first.map(str::to_owned).unwrap_or_default()
        }
    };
    let mut how = retrieval(engine, &loaded.ws, name);
    how.shots = shots.unwrap_or(how.shots);
    let frozen = freeze(engine, &loaded.ws, &of_store, how.clone())?;
    let model = frozen.embedder.as_ref().and_then(StoreEmbedder::model);
    let access = Access {
        keys: launch::keys_for(model.and_then(KeyNeed::of).into_iter().collect(), keys)?,
        cache: loaded.ws.config.cache.place(&engine.state_dir),
        ..Access::threads(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    };
    let index = retrieve::open(&frozen, &stage, &access).map_err(|e| failed(format!("{e:#}")))?;
    let hits = index.retrieve(&Query::text(input), &how).map_err(failed)?;
    let hits = hits.into_iter().map(|hit| (Example::clone(&hit.example), hit.why)).collect();
    Ok(FoundExamples { store: of_store.name, stage, hits })
}

/// A decision about an example, with what was decided before and is not decided anew.
pub fn decision(
    engine: &Engine,
    wanted: &str,
    example: &str,
    edit: ExampleEdit,
) -> Result<Decision, Failure> {
    let Loaded { name, examples: all, edits, .. } = load(engine, Some(wanted))?;
    let of = one(&name, &all, example)?;
    let blank = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim().is_empty());
    if blank(&edit.input) || blank(&edit.answer) {
        return Err(bad_input("an example needs an input and an answer; `disable` leaves it out"));
    }
    let mut whole = edits.get(&of.id).cloned().unwrap_or_default();
    whole.input = edit.input.or(whole.input);
    whole.answer = edit.answer.or(whole.answer);
    whole.enabled = edit.enabled.or(whole.enabled);
    for gone in &edit.merges {
        let gone = one(&name, &all, gone)?;
        if gone.id == of.id || gone.stage != of.stage {
            return Err(bad_input(format!(
                "`{}` cannot be merged into `{}`: examples of one stage are merged, and two of them",
                gone.id, of.id
            )));
        }
        whole.merges.push(gone.id.clone());
    }
    Ok(Decision::Example { store: name, example: of.id.clone(), edit: whole })
}

/// The names of all stores, the newest run's first.
fn stores(engine: &Engine) -> Vec<String> {
    let of_runs: BTreeSet<(u64, String)> = engine.read(|state| {
        let runs = state.runs.values().filter(|r| r.record.kind == RunKind::Trajectory);
        let made = runs.filter(|r| r.folder.dir().join(STORE).is_file());
        made.map(|r| (r.record.created_ms, r.record.run.clone())).collect()
    });
    let folder = engine.state_dir.join("imports/examples");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut imported: Vec<String> = entries
        .filter(|entry| entry.path().join("store.jsonl").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    imported.sort();
    of_runs.into_iter().rev().map(|(_, run)| run).chain(imported).collect()
}

/// What a trajectory run found and measured, and whom to ask with and without its examples.
pub fn view(engine: &Engine, wanted: &str) -> Result<TrajectoryView, Failure> {
    let folder = engine.read(|s| s.runs.get(wanted).map(|r| r.folder.clone()));
    let mut view = TrajectoryView {
        run: wanted.to_owned(),
        base: "baseline".into(),
        stores: stores(engine),
        ..TrajectoryView::default()
    };
    if let Some(folder) = folder {
        let spec = folder.read_spec().map_err(|e| failed(format!("{e:#}")))?;
        if let Some(start) = spec.candidate {
            // People may have named it since; what is on no board is the pipeline as it stood.
            let id = start.id();
            let known = candidates::known(engine);
            let now = known.iter().find(|k| k.candidate.id() == id).map(|k| k.candidate.name.clone());
            view.base = now.unwrap_or(start.name);
        }
        let path = folder.dir().join(REPORT);
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
            let mut report: TrajectoryReport =
                serde_json::from_slice(&bytes).map_err(|e| failed(format!("{}: {e}", path.display())))?;
            view.turned = report.searches.iter().filter(|s| s.proposal.is_some()).count();
            report.searches.clear();
            view.report = Some(report);
        }
    }
    view.with = format!("{}+{wanted}", view.base);
    Ok(view)
}

/// Rows that a run's store is made of, or that it turned to gold.
pub fn rows_of(engine: &Engine, run: &str) -> Result<BTreeSet<String>, Failure> {
    let Loaded { name, examples: all, .. } = load(engine, Some(run))?;
    let mut rows: BTreeSet<String> = all.into_iter().filter(|e| e.enabled).filter_map(|e| e.row).collect();
    let folder = engine.read(|s| s.runs.get(&name).map(|r| r.folder.clone()));
    if let Some(folder) = folder
        && let Ok(bytes) = fs::read(folder.dir().join(REPORT))
    {
        let report: TrajectoryReport =
            serde_json::from_slice(&bytes).map_err(|e| failed(format!("{name}: {REPORT}: {e}")))?;
        rows.extend(report.searches.into_iter().filter(|s| s.proposal.is_some()).map(|s| s.row));
    }
    Ok(rows)
}

/// `BASE+STORE`: a candidate with the examples of a store, as it stands.
pub fn with_store(
    engine: &Engine,
    ws: &Workspace,
    mut base: Candidate,
    wanted: &str,
) -> Result<Candidate, Failure> {
    let loaded = load(engine, Some(wanted))?;
    let (name, all) = (&loaded.name, &loaded.examples);
    let frozen = freeze(engine, ws, &loaded, retrieval(engine, ws, name))?;
    let mut any = false;
    for stage in &mut base.stages {
        let has = all.iter().any(|e| e.enabled && e.stage == stage.name);
        any |= has;
        stage.examples = has.then(|| frozen.clone());
    }
    if !any {
        return Err(bad_input(format!("{name} has no example of a stage of candidate `{}`", base.name)));
    }
    base.name = candidates::slug(&format!("{}-{name}", base.name));
    base.rung = "trajectory".into();
    // A store that was edited since is another candidate: told apart by its id.
    let id = base.id();
    let known = candidates::known(engine);
    match known.iter().find(|k| k.candidate.id() == id) {
        Some(k) => base.name.clone_from(&k.candidate.name),
        None if known.iter().any(|k| k.candidate.name == base.name) => {
            base.name = format!("{}-{}", base.name, &id[..6]);
        }
        None => {}
    }
    Ok(base)
}

/// Write a store as it stands, one example a line. Returns its name and how many there are.
pub fn export(
    engine: &Engine,
    wanted: Option<&str>,
    file: &str,
    force: bool,
) -> Result<(String, usize), Failure> {
    let path = Path::new(file);
    if !path.is_absolute() {
        return Err(bad_input(format!("{file} is no absolute path")));
    }
    if path.exists() && !path.is_file() {
        return Err(bad_input(format!("{file} is no file")));
    }
    if path.exists() && !force {
        return Err(bad_input(format!("{file} {FILE_THERE}; choose another name, or --force to replace it")));
    }
    let Loaded { name, examples, .. } = load(engine, wanted)?;
    store::write(path, &examples).map_err(|e| failed(format!("{e:#}")))?;
    Ok((name, examples.len()))
}

/// Take a store in. Rows that are scored or chosen on never become examples.
pub fn import(engine: &Engine, file: &str, name: &str) -> Result<String, Failure> {
    let slug = candidates::slug(name);
    if slug.is_empty() || slug != name {
        return Err(bad_input("a store's name is made of letters, digits, `-`, `_` and `.`"));
    }
    let path = imported(engine, name);
    let taken = engine.read(|s| s.runs.contains_key(name)) || path.exists();
    if taken {
        return Err(bad_input(format!("there is a store or a run called `{name}` already")));
    }
    let from = Path::new(file);
    let size = fs::metadata(from).map_err(|e| bad_input(format!("{file}: {e}")))?.len();
    if size > IMPORT_MAX {
        return Err(bad_input(format!("{file} has {size} bytes; at most {IMPORT_MAX} are taken")));
    }
    let all = store::read(from, None).map_err(|e| bad_input(format!("{e:#}")))?;
    let loaded = rows::loaded(engine)?;
    let stages: Vec<&str> = loaded.ws.config.stages.iter().map(|s| s.name.as_str()).collect();
    if let Some(other) = all.iter().find(|e| !stages.contains(&e.stage.as_str())) {
        return Err(bad_input(format!(
            "{file}: example `{}` is of stage `{}`; the stages here are: {}",
            other.id,
            other.stage,
            stages.join(", ")
        )));
    }
    let learned = |part: Option<Part>| matches!(part, None | Some(Part::Train));
    let mut held: BTreeSet<String> = BTreeSet::new();
    for at in 0..loaded.dataset.len() {
        if !learned(loaded.parts.get(at).copied().flatten()) {
            held.insert(loaded.text(at).0.trim().to_lowercase());
        }
    }
    let count = all.len();
    let kept: Vec<Example> = all
        .into_iter()
        .filter(|e| {
            let of_row = e.row.as_deref().and_then(|row| loaded.dataset.find(row));
            let own = of_row.is_none_or(|at| {
                learned(loaded.parts.get(at).copied().flatten()) || !same_text(&loaded.text(at).0, &e.input)
            });
            own && !held.contains(&e.input.trim().to_lowercase())
        })
        .collect();
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    written.map_err(|e| failed(e.to_string()))?;
    store::write(&path, &kept).map_err(|e| failed(format!("{e:#}")))?;
    let left = match count - kept.len() {
        0 => String::new(),
        n => format!("; {n} are left out: their inputs stand among the dev, eval or reserve rows"),
    };
    Ok(format!("{} examples are in `{name}`{left}", kept.len()))
}
