//! Versions of prompts: those of prompt runs, and those that people wrote and tried by hand; found by what people call them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use serde::Deserialize;

use super::candidates;
use super::prompts::history;
use super::rows::{self, Loaded, cut};
use super::state::{Engine, bad_input, failed};
use crate::domain::api::Failure;
use crate::domain::candidate::Candidate;
use crate::domain::outcome::{FlipKind, Outcome};
use crate::domain::prompt::{Fate, PromptHistory, PromptVersion};
use crate::domain::run::RunKind;
use crate::domain::versions::{Branch, FoundVersion, HAND, TriedRow, VersionTree};
use crate::store::files;
use crate::worker::folder::RunFolder;
use crate::workspace::Workspace;

/// Rows of a version that are told with their texts.
const ROWS_MAX: usize = 200;
/// Characters of an input and of an answer.
const INPUT_TEXT: usize = 300;
const ANSWER_TEXT: usize = 120;
/// Shortest start of a hash that stands for a version.
const HASH_LEAST: usize = 6;

/// `prompts/hand.json`: what people wrote and tried.
pub fn hand_file(engine: &Engine) -> PathBuf {
    engine.state_dir.join("prompts").join("hand.json")
}

pub fn hand(engine: &Engine) -> Result<PromptHistory, Failure> {
    let path = hand_file(engine);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| failed(format!("{} is damaged: {e}; move it away to begin anew", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(PromptHistory::default()),
        Err(e) => Err(failed(format!("{}: {e}", path.display()))),
    }
}

pub fn keep_hand(engine: &Engine, history: &PromptHistory) -> Result<(), Failure> {
    let path = hand_file(engine);
    fs::create_dir_all(engine.state_dir.join("prompts"))
        .and_then(|()| files::write_json(&path, history))
        .map_err(|e| failed(format!("{}: {e}", path.display())))
}

/// Prompt runs with versions, the newest first; then what was made by hand.
fn histories(engine: &Engine) -> Vec<(String, Option<RunFolder>)> {
    // A run that only took clauses out has no answer: it comes after those that have.
    let is_errand =
        |set: &[(String, String)]| set.iter().any(|(key, value)| key.ends_with("task") && value == "clauses");
    let mut runs: Vec<(bool, u64, String, RunFolder)> = engine.read(|state| {
        let of_kind = state.runs.values().filter(|run| run.record.kind == RunKind::Prompt);
        of_kind
            .map(|run| {
                let record = &run.record;
                (!is_errand(&record.settings), record.created_ms, record.run.clone(), run.folder.clone())
            })
            .collect()
    });
    runs.retain(|(.., folder)| folder.dir().join(crate::tuning::prompt::HISTORY).exists());
    runs.sort_by(|a, b| (b.0, b.1, &b.2).cmp(&(a.0, a.1, &a.2)));
    let mut all: Vec<_> = runs.into_iter().map(|(.., run, folder)| (run, Some(folder))).collect();
    if hand_file(engine).exists() {
        all.push((HAND.to_owned(), None));
    }
    all
}

fn read(engine: &Engine, folder: Option<&RunFolder>) -> Result<PromptHistory, Failure> {
    match folder {
        Some(folder) => Ok(history(folder)?.unwrap_or_default()),
        None => hand(engine),
    }
}

/// The texts that stand in the prompt files now, and the files, by stage. What cannot be read is left out.
pub fn in_files(engine: &Engine) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    let Ok((ws, _)) = Workspace::open(&engine.root) else { return Default::default() };
    let mut texts = BTreeMap::new();
    let mut files = Vec::new();
    for stage in &ws.config.stages {
        let Some(path) = &stage.prompt else { continue };
        files.push((stage.name.clone(), path.display().to_string()));
        if let Ok(text) = fs::read_to_string(ws.resolve(path)) {
            texts.insert(stage.name.clone(), text);
        }
    }
    (texts, files)
}

/// The versions of a run; without a name those of the newest one.
pub fn tree(engine: &Engine, run: Option<&str>) -> Result<VersionTree, Failure> {
    let all = histories(engine);
    let runs: Vec<String> = all.iter().map(|(run, _)| run.clone()).collect();
    let (texts, files) = in_files(engine);
    let chosen = match run {
        Some(run) => {
            let known = engine.read(|s| s.runs.get(run).map(|r| r.record.kind));
            match all.into_iter().find(|(name, _)| name == run) {
                Some(found) => Some(found),
                // It has none yet.
                None if known == Some(RunKind::Prompt) || run == HAND => None,
                None if known.is_some() => {
                    return Err(bad_input(format!("{run} is no prompt run and has no versions")));
                }
                None => return Err(super::state::no_run(run)),
            }
        }
        None => all.into_iter().next(),
    };
    let Some((name, folder)) = chosen else {
        return Ok(VersionTree {
            run: run.unwrap_or_default().to_owned(),
            runs,
            files,
            ..VersionTree::default()
        });
    };
    let history = read(engine, folder.as_ref())?;
    let tags = engine.read(|s| s.decisions.prompts.tags.clone());
    let mut depths: HashMap<String, usize> = HashMap::new();
    let versions = history
        .versions
        .into_iter()
        .map(|version| {
            let parent = version.parents.first().and_then(|parent| depths.get(parent));
            let depth = parent.map_or(0, |depth| depth + 1);
            depths.insert(version.id.clone(), depth);
            let of_files = |(stage, text): (&String, &String)| texts.get(stage) == Some(text);
            Branch {
                depth,
                fixed: version.fixed.len(),
                broken: version.broken.len(),
                tag: tags.get(&version.hash).cloned(),
                current: !version.prompts.is_empty() && version.prompts.iter().all(of_files),
                version: PromptVersion {
                    edit: cut(&version.edit, 200).into_owned(),
                    fixed: Vec::new(),
                    broken: Vec::new(),
                    prompts: BTreeMap::new(),
                    metrics: BTreeMap::new(),
                    ..version
                },
            }
        })
        .collect();
    Ok(VersionTree {
        run: name,
        runs,
        metric: history.metric,
        versions,
        lessons: history.lessons,
        gain: history.gain,
        files,
    })
}

/// A version of a history, and the one that it is compared with.
pub struct Found {
    pub run: String,
    pub folder: Option<RunFolder>,
    pub version: PromptVersion,
    pub parent: Option<PromptVersion>,
}

/// `RUN:v7`, `v7` of the newest run, `RUN` (its answer), `hand` (the newest), a tag, or the start of a hash; without any: the answer of
/// the newest run.
pub fn find(engine: &Engine, wanted: Option<&str>) -> Result<Found, Failure> {
    let all = histories(engine);
    let newest = all.first().ok_or_else(|| {
        bad_input(
            "no prompts were tuned here yet: `tunebench run prompt`, or `tunebench prompts watch` and write",
        )
    })?;
    let in_history = |(run, folder): &(String, Option<RunFolder>), id: Option<&str>| {
        let history = read(engine, folder.as_ref())?;
        let at = match id {
            Some(id) => history.versions.iter().position(|v| v.id == id),
            None if run == HAND => history.versions.len().checked_sub(1),
            None => history.versions.iter().position(|v| v.fate == Fate::Final).or(Some(0)),
        };
        let version = at.and_then(|at| history.versions.get(at)).ok_or_else(|| {
            let last = history.versions.last().map_or("none", |v| v.id.as_str());
            bad_input(format!("{run} has no version `{}`; its last one is {last}", id.unwrap_or_default()))
        })?;
        let version = version.clone();
        let parent = match version.parents.first().map(String::as_str) {
            None => None,
            Some(id) if id.contains(':') => find_elsewhere(engine, id),
            Some(id) => history.versions.into_iter().find(|v| v.id == id),
        };
        Ok(Found { run: run.clone(), folder: folder.clone(), version, parent })
    };
    let Some(wanted) = wanted else { return in_history(newest, None) };
    let of_run = |name: &str| {
        all.iter().find(|(run, _)| run == name).ok_or_else(|| {
            let there: Vec<&str> = all.iter().map(|(run, _)| run.as_str()).collect();
            bad_input(format!("`{name}` has no versions; those that have: {}", there.join(", ")))
        })
    };
    if let Some((run, id)) = wanted.split_once(':') {
        return in_history(of_run(run)?, Some(id));
    }
    if all.iter().any(|(run, _)| run == wanted) {
        return in_history(of_run(wanted)?, None);
    }
    if wanted.strip_prefix('v').is_some_and(|n| n.parse::<usize>().is_ok()) {
        return in_history(newest, Some(wanted));
    }
    let tagged: Vec<String> = engine.read(|s| {
        let tags = s.decisions.prompts.tags.iter().filter(|(_, tag)| *tag == wanted);
        tags.map(|(hash, _)| hash.clone()).collect()
    });
    for (run, folder) in &all {
        let Ok(history) = read(engine, folder.as_ref()) else { continue };
        let named = |v: &&PromptVersion| {
            tagged.contains(&v.hash) || (wanted.len() >= HASH_LEAST && v.hash.starts_with(wanted))
        };
        if let Some(version) = history.versions.iter().find(named) {
            return in_history(&(run.clone(), folder.clone()), Some(&version.id));
        }
    }
    Err(bad_input(format!(
        "no version `{wanted}`; write v3, {}:v3, a tag or the start of a hash (`tunebench prompts list` has them)",
        newest.0
    )))
}

/// Keep a text by its hash that stands in some history, also in that of a run under way.
pub fn keep_text(engine: &Engine, hash: &str) -> Result<(), Failure> {
    for (_, folder) in histories(engine) {
        let Ok(history) = read(engine, folder.as_ref()) else { continue };
        let mut texts = history.versions.iter().flat_map(|version| version.prompts.values());
        if let Some(text) = texts.find(|text| blake3::hash(text.as_bytes()).to_hex().as_str() == hash) {
            return candidates::keep_prompt(engine, hash, text);
        }
    }
    Ok(())
}

/// A version of a run that has exactly these texts: its address.
pub fn same_texts(engine: &Engine, texts: &BTreeMap<String, String>) -> Option<String> {
    histories(engine).into_iter().filter(|(_, folder)| folder.is_some()).find_map(|(run, folder)| {
        let history = read(engine, folder.as_ref()).ok()?;
        let same = |v: &&PromptVersion| {
            !v.prompts.is_empty() && v.prompts.iter().all(|(stage, text)| texts.get(stage) == Some(text))
        };
        // Where the run only started from it, nothing was taken over.
        history.versions.iter().skip(1).find(same).map(|version| format!("{run}:{}", version.id))
    })
}

/// A parent in another history.
fn find_elsewhere(engine: &Engine, address: &str) -> Option<PromptVersion> {
    let (run, id) = address.split_once(':')?;
    let (_, folder) = histories(engine).into_iter().find(|(name, _)| name == run)?;
    read(engine, folder.as_ref()).ok()?.versions.into_iter().find(|v| v.id == id)
}

/// A version with its parent, and the rows on which they part.
pub fn shown(engine: &Engine, wanted: Option<&str>) -> Result<FoundVersion, Failure> {
    let found = find(engine, wanted)?;
    let tag = engine.read(|s| s.decisions.prompts.tags.get(&found.version.hash).cloned());
    let told: Vec<(&String, FlipKind)> = found
        .version
        .broken
        .iter()
        .map(|row| (row, FlipKind::Regressed))
        .chain(found.version.fixed.iter().map(|row| (row, FlipKind::Fixed)))
        .collect();
    let more = told.len().saturating_sub(ROWS_MAX);
    let loaded = rows::loaded(engine).ok();
    let answers = |version: &PromptVersion| match &found.folder {
        Some(folder) => answers(folder, &version.hash),
        None => super::trial::answers(engine, &version.hash),
    };
    let (after, before) = if told.is_empty() {
        Default::default()
    } else {
        (answers(&found.version), found.parent.as_ref().map(answers).unwrap_or_default())
    };
    let rows = told
        .into_iter()
        .take(ROWS_MAX)
        .map(|(id, flip)| {
            let (input, gold) = loaded.as_ref().map(|loaded| text_of(loaded, id)).unwrap_or_default();
            let answer = |of: &HashMap<String, String>| of.get(id).map(|a| cut(a, ANSWER_TEXT).into_owned());
            TriedRow {
                id: id.clone(),
                input,
                gold,
                before: answer(&before),
                after: answer(&after).unwrap_or_default(),
                flip: Some(flip),
                right: Some(flip == FlipKind::Fixed),
            }
        })
        .collect();
    let short = |version: PromptVersion| PromptVersion {
        fixed: version.fixed.into_iter().take(ROWS_MAX).collect(),
        broken: version.broken.into_iter().take(ROWS_MAX).collect(),
        ..version
    };
    Ok(FoundVersion {
        run: found.run,
        version: short(found.version),
        parent: found.parent.map(short),
        tag,
        rows,
        more,
    })
}

/// Input and gold of a row, cut for a list.
pub fn text_of(loaded: &Loaded, id: &str) -> (String, Option<String>) {
    let Some(at) = loaded.dataset.find(id) else { return Default::default() };
    let (input, gold) = loaded.text(at);
    (cut(&input, INPUT_TEXT).into_owned(), gold.map(|gold| cut(&gold, ANSWER_TEXT).into_owned()))
}

/// What a version of a run said on its rows, by the run's log.
fn answers(folder: &RunFolder, version: &str) -> HashMap<String, String> {
    #[derive(Deserialize)]
    struct Line {
        key: String,
        outcome: Outcome,
    }
    let mut found = HashMap::new();
    let Ok(file) = fs::File::open(folder.dir().join(crate::tuning::prompt::LOG)) else { return found };
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        // Most lines are another version's.
        if !line.contains(version) {
            continue;
        }
        if let Ok(line) = serde_json::from_str::<Line>(&line)
            && line.key == version
        {
            found.insert(line.outcome.row, line.outcome.output);
        }
    }
    found
}

/// A version as a candidate: the pipeline that its run started from (for those by hand: that of the workspace), with its texts.
pub fn candidate(engine: &Engine, wanted: &str, base: Candidate) -> Result<Candidate, Failure> {
    let found = find(engine, Some(wanted))?;
    let address = format!("{}-{}", found.run, found.version.id);
    let of_run = found.folder.as_ref().and_then(|folder| folder.read_spec().ok()?.candidate);
    let mut candidate = of_run.unwrap_or(base);
    for stage in &mut candidate.stages {
        let Some(text) = found.version.prompts.get(&stage.name).filter(|text| **text != stage.prompt) else {
            continue;
        };
        stage.prompt.clone_from(text);
        let stem = stage.prompt_name.split(' ').next().unwrap_or_default().to_owned();
        stage.prompt_name = format!("{stem} {}", &blake3::hash(text.as_bytes()).to_hex().as_str()[..6]);
    }
    (candidate.name, candidate.rung) = (address, "prompt".into());
    Ok(candidate)
}
