//! The board, and outcomes made elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use serde::Deserialize;
use serde_json::json;

use super::candidates::{self, Known};
use super::honest;
use super::judges;
use super::rows::{self, Loaded};
use super::state::{Engine, bad_input, failed};
use crate::domain::api::Failure;
use crate::domain::board::{Board, BoardRow, Goal};
use crate::domain::candidate::Candidate;
use crate::domain::detail::Detail;
use crate::domain::metric::Direction;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::trace::RowTrace;
use crate::score;
use crate::store::files;
use crate::worker::folder::{RunFolder, now_ms};

/// Longest file of outcomes, and longest name.
const OUTCOMES_MAX: u64 = 4 << 30;

/// A candidate with its outcomes in memory.
#[derive(Debug)]
pub struct Scored {
    pub candidate: Candidate,
    /// Every run that scored it, oldest first; the last one's outcomes are these.
    pub runs: Vec<String>,
    pub outcomes: Arc<Vec<Outcome>>,
    /// Those whose rows still have the content and gold they were scored with.
    pub current: Arc<Vec<Outcome>>,
    /// Those on the reserve, of their newest run, whose rows are as they were.
    pub fresh: Arc<Vec<Outcome>>,
    by_row: HashMap<String, usize>,
}

impl Scored {
    pub fn outcome(&self, row: &str) -> Option<&Outcome> {
        self.by_row.get(row).and_then(|&at| self.outcomes.get(at))
    }
}

/// Outcomes by folder, as long as their file stays as it is; and the board of a version.
#[derive(Debug, Default)]
pub struct BoardCache {
    outcomes: HashMap<std::path::PathBuf, ((u64, i64, i64), Arc<Vec<Outcome>>)>,
    scored: Option<(u64, Arc<Loaded>, Arc<Vec<Arc<Scored>>>)>,
    board: Option<(u64, Arc<Loaded>, Board)>,
}

pub fn outcomes(engine: &Engine, known: &Known) -> Result<Arc<Vec<Outcome>>, Failure> {
    read(engine, &known.folder)
}

fn read(engine: &Engine, folder: &RunFolder) -> Result<Arc<Vec<Outcome>>, Failure> {
    let path = folder.outcomes();
    let Ok(meta) = fs::metadata(&path) else { return Ok(Arc::default()) };
    let stamp = (meta.len(), meta.mtime(), meta.mtime_nsec());
    let mut cache = engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, kept)) = cache.outcomes.get(&path)
        && *at == stamp
    {
        return Ok(kept.clone());
    }
    let read = folder.read_outcomes().map_err(|e| failed(format!("{}: {e}", path.display())))?;
    let read = Arc::new(read);
    cache.outcomes.insert(path, (stamp, read.clone()));
    Ok(read)
}

/// Outcomes without those of rows that are gone or have another content or gold by now.
fn current(
    loaded: &Loaded,
    outcomes: &Arc<Vec<Outcome>>,
    gold: &BTreeMap<String, String>,
) -> Arc<Vec<Outcome>> {
    let holds =
        |o: &Outcome| loaded.dataset.find(&o.row).is_some_and(|at| loaded.content(at, gold) == o.row_hash);
    if outcomes.iter().all(holds) {
        return outcomes.clone();
    }
    Arc::new(outcomes.iter().filter(|o| holds(o)).cloned().collect())
}

/// Every candidate that has outcomes, oldest first, held against the data as it stands.
pub fn all_scored(engine: &Engine, loaded: &Arc<Loaded>) -> Result<Arc<Vec<Arc<Scored>>>, Failure> {
    let version = engine.read(|s| s.board_version);
    {
        let cache = engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, of, kept)) = &cache.scored
            && *at == version
            && Arc::ptr_eq(of, loaded)
        {
            return Ok(kept.clone());
        }
    }
    let gold = engine.read(|s| s.decisions.gold.clone());
    let mut all = Vec::new();
    for known in candidates::known(engine) {
        let outcomes = outcomes(engine, &known)?;
        if outcomes.is_empty() {
            continue;
        }
        // Of several answers to a row the first is shown.
        let first = outcomes.iter().enumerate().filter(|(_, o)| o.sample == 0);
        let by_row = first.map(|(i, o)| (o.row.clone(), i)).collect();
        let kept = current(loaded, &outcomes, &gold);
        let fresh = match &known.fresh {
            None => Arc::default(),
            Some((_, folder)) => current(loaded, &read(engine, folder)?, &gold),
        };
        let Known { candidate, runs, .. } = known;
        all.push(Arc::new(Scored { candidate, runs, outcomes, current: kept, fresh, by_row }));
    }
    let all = Arc::new(all);
    engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner).scored =
        Some((version, loaded.clone(), all.clone()));
    Ok(all)
}

/// Every candidate on the eval part.
pub fn board(engine: &Engine) -> Result<Board, Failure> {
    let loaded = rows::loaded(engine)?;
    let version = engine.read(|s| s.board_version);
    {
        let cache = engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, of, board)) = &cache.board
            && *at == version
            && Arc::ptr_eq(of, &loaded)
        {
            return Ok(board.clone());
        }
    }
    let board = drawn_up(engine, &loaded)?;
    engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner).board =
        Some((version, loaded, board.clone()));
    Ok(board)
}

fn drawn_up(engine: &Engine, loaded: &Arc<Loaded>) -> Result<Board, Failure> {
    let config = &loaded.ws.config;
    let scored = all_scored(engine, loaded)?;
    let goals: Vec<Goal> = config.goals.clone();
    let judges = judges::standing(engine, loaded, &scored);
    let mut rows: Vec<BoardRow> = scored
        .iter()
        .map(|s| {
            let run = s.runs.last().cloned();
            let row = score::board::row(&s.candidate, run, &s.current, &config.eval, &goals);
            let all = score::board::on_the_board(&s.candidate, &s.outcomes);
            let all = score::repeats::count(&all);
            let row = BoardRow { runs: s.runs.clone(), stale: all.saturating_sub(row.n), ..row };
            judges::remark(row, &s.candidate, &s.current, &judges)
        })
        .collect();
    honest::fill(engine, loaded, &scored, &mut rows);
    let mut metrics = vec![config.eval.primary.clone()];
    for metric in &config.eval.metrics {
        if !metrics.contains(metric) {
            metrics.push(metric.clone());
        }
    }
    let own = config.eval.own.clone();
    let eval_rows = loaded.parts.iter().filter(|p| **p == Some(Part::Eval)).count();
    Ok(Board { primary: config.eval.primary.clone(), metrics, own, eval_rows, rows })
}

/// All that is known of a candidate on the board's rows.
pub fn detail(engine: &Engine, candidate: &str) -> Result<Detail, Failure> {
    let loaded = rows::loaded(engine)?;
    let known = candidates::find(engine, candidate)?;
    let scored = all_scored(engine, &loaded)?;
    let id = known.candidate.id();
    let Some(found) = scored.iter().find(|s| s.candidate.id() == id) else {
        let name = &known.candidate.name;
        return Err(bad_input(format!(
            "`{name}` has no outcomes yet; `tunebench run eval --set candidate={name}` makes some"
        )));
    };
    let config = &loaded.ws.config;
    let detail = score::detail::detail(&found.candidate, &found.current, &config.eval);
    let all = score::board::on_the_board(&found.candidate, &found.outcomes);
    let stale = score::repeats::count(&all).saturating_sub(detail.n);
    Ok(Detail { run: found.runs.last().cloned(), stale, ..detail })
}

/// The first baseline, and the candidate that stands best on the board (none when that is the baseline).
pub fn base_and_best(
    engine: &Engine,
    loaded: &Arc<Loaded>,
) -> Result<(Option<Arc<Scored>>, Option<Arc<Scored>>), Failure> {
    let scored = all_scored(engine, loaded)?;
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let value = |s: &Scored| {
        let counted = score::board::on_the_board(&s.candidate, &s.current);
        let value = score::aggregate::value(&primary, &counted, Some(&s.candidate))?;
        Some(if primary.entry.direction == Direction::Higher { value } else { -value })
    };
    let base = scored.iter().find(|s| s.candidate.rung == "baseline").cloned();
    let best = scored
        .iter()
        .filter_map(|s| Some((value(s)?, s)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, s)| s.clone())
        .filter(|best| base.as_ref().is_none_or(|base| !Arc::ptr_eq(base, best)));
    Ok((base, best))
}

/// A row through the stages, as a candidate (or a run) answered it last; with the run that did.
pub fn trace(engine: &Engine, of: &str, row: &str) -> Result<(String, RowTrace), Failure> {
    let running = engine.read(|s| s.runs.get(of).map(|r| r.folder.clone()));
    // A run that has no candidate yet may have answered rows already.
    let runs: Vec<(String, RunFolder)> = match (running, candidates::find(engine, of)) {
        (Some(folder), _) => vec![(of.to_owned(), folder)],
        (None, found) => {
            let runs = found?.runs;
            engine.read(|s| {
                runs.iter()
                    .rev()
                    .filter_map(|id| Some((id.clone(), s.runs.get(id)?.folder.clone())))
                    .collect()
            })
        }
    };
    for (run, folder) in &runs {
        let found = folder.read_trace(row).map_err(|e| failed(format!("{run}: {e}")))?;
        if let Some(trace) = found {
            return Ok((run.clone(), trace));
        }
    }
    Err(bad_input(format!(
        "`{of}` has no trace of row `{row}`: {}",
        if runs.is_empty() {
            "its outcomes were made elsewhere"
        } else {
            "it did not answer the row, or did so before traces were kept"
        }
    )))
}

/// A line of a file of outcomes made elsewhere.
#[derive(Debug, Deserialize)]
struct Line {
    id: serde_json::Value,
    #[serde(default)]
    output: serde_json::Value,
    #[serde(default)]
    correct: Option<bool>,
    #[serde(default)]
    score: Option<f64>,
}

fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Put results made elsewhere on the board, under a name. Returns lines read and lines whose row is in the data.
pub fn import_outcomes(engine: &Engine, file: &str, name: &str) -> Result<(usize, usize), Failure> {
    let loaded = rows::loaded(engine)?;
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let name = candidates::slug(name);
    if name.is_empty() {
        return Err(bad_input("the candidate needs a name of letters and digits"));
    }
    let candidate = Candidate { name: name.clone(), rung: score::board::IMPORTED.into(), stages: Vec::new() };
    if candidates::known(engine)
        .iter()
        .any(|k| k.candidate.name == name && k.candidate.id() != candidate.id())
    {
        return Err(bad_input(format!("`{name}` is another candidate's name; take a new one")));
    }
    let path = Path::new(file);
    let meta = fs::metadata(path).map_err(|e| bad_input(format!("{file}: cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > OUTCOMES_MAX {
        return Err(bad_input(format!("{file}: a file of JSON lines is expected, of at most 4 GiB")));
    }
    let text = fs::read_to_string(path).map_err(|e| bad_input(format!("{file}: cannot be read: {e}")))?;
    let gold = engine.read(|s| s.decisions.gold.clone());
    let (mut bytes, mut rows, mut matched) = (Vec::new(), 0, 0);
    let mut seen = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |message: String| bad_input(format!("{file}:{}: {message}", number + 1));
        let line: Line = serde_json::from_str(line).map_err(|e| {
            at(format!("an object with `id`, `output`, and `correct` or `score` is expected: {e}"))
        })?;
        rows += 1;
        let id = text_of(&line.id);
        if let Some(before) = seen.insert(id.clone(), number + 1) {
            return Err(at(format!("row `{id}` stands in line {before} already")));
        }
        if line.score.is_some_and(|s| !s.is_finite()) {
            return Err(at("`score` is no finite number".into()));
        }
        let Some(place) = loaded.dataset.find(&id) else { continue };
        matched += 1;
        let (in_file, hash) = (loaded.text(place).1, loaded.dataset.hash(place));
        let (gold, row_hash) = rows::with_gold(&id, &hash, in_file, &gold);
        let mut outcome = Outcome {
            row: id,
            row_hash,
            part: loaded.parts.get(place).copied().flatten(),
            stratum: loaded.strata.as_ref().and_then(|s| s.name(s.of_row(loaded.dataset.id(place))?)),
            output: text_of(&line.output),
            gold,
            correct: line.correct,
            ..Outcome::default()
        };
        score::rows::fill_imported(&mut outcome, &primary, line.score);
        serde_json::to_writer(&mut bytes, &outcome).map_err(|e| failed(e.to_string()))?;
        bytes.push(b'\n');
    }
    if rows == 0 {
        return Err(bad_input(format!("{file}: holds no lines")));
    }
    if matched == 0 {
        return Err(bad_input(format!("{file}: none of its {rows} ids is a row of this workspace")));
    }
    let dir = candidates::imported_dir(engine).join(&name);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(&dir)?;
        files::write_json(&dir.join("candidate.json"), &candidate)?;
        bytes.flush()?;
        files::write_atomic(&dir.join("outcomes.jsonl"), &bytes)?;
        engine.store.record(
            now_ms(),
            "import_outcomes",
            json!({ "candidate": name, "file": file, "rows": rows, "matched": matched }),
        )
    };
    {
        let mut write = write;
        write()
    }
    .map_err(|e| failed(format!("the outcomes could not be kept: {e}")))?;
    engine.update(|state| state.board_version = state.version);
    Ok((rows, matched))
}
