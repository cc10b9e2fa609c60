//! The board.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, PoisonError};

use super::candidates::{self, Known};
use super::rows::{self, Loaded};
use super::state::{Engine, bad_input, failed};
use crate::domain::api::Failure;
use crate::domain::board::{Board, BoardRow, Goal};
use crate::domain::candidate::Candidate;
use crate::domain::metric::{Direction, Metric};
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::trace::RowTrace;
use crate::score;
use crate::worker::folder::RunFolder;

/// A candidate with its outcomes in memory.
#[derive(Debug)]
pub struct Scored {
    pub candidate: Candidate,
    /// Every run that scored it, oldest first; the last one's outcomes are these.
    pub runs: Vec<String>,
    pub outcomes: Arc<Vec<Outcome>>,
    /// Those whose rows still have the content and gold they were scored with.
    pub current: Arc<Vec<Outcome>>,
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
}

pub fn outcomes(engine: &Engine, known: &Known) -> Result<Arc<Vec<Outcome>>, Failure> {
    let path = known.folder.outcomes();
    let Ok(meta) = fs::metadata(&path) else { return Ok(Arc::default()) };
    let stamp = (meta.len(), meta.mtime(), meta.mtime_nsec());
    let mut cache = engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, kept)) = cache.outcomes.get(&path)
        && *at == stamp
    {
        return Ok(kept.clone());
    }
    let read = known.folder.read_outcomes().map_err(|e| failed(format!("{}: {e}", path.display())))?;
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
        let by_row = outcomes.iter().enumerate().map(|(i, o)| (o.row.clone(), i)).collect();
        let current = current(loaded, &outcomes, &gold);
        let Known { candidate, runs, .. } = known;
        all.push(Arc::new(Scored { candidate, runs, outcomes, current, by_row }));
    }
    let all = Arc::new(all);
    engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner).scored =
        Some((version, loaded.clone(), all.clone()));
    Ok(all)
}

/// Every candidate on the eval part.
pub fn board(engine: &Engine) -> Result<Board, Failure> {
    let loaded = rows::loaded(engine)?;
    let config = &loaded.ws.config;
    let scored = all_scored(engine, &loaded)?;
    let goals: Vec<Goal> = config.goals.clone();
    let rows: Vec<BoardRow> = scored
        .iter()
        .map(|s| {
            let run = s.runs.last().cloned();
            let row = score::board::row(&s.candidate, run, &s.current, &config.eval, &goals);
            let all = score::board::on_the_board(&s.candidate, &s.outcomes).len();
            BoardRow { runs: s.runs.clone(), stale: all.saturating_sub(row.n), ..row }
        })
        .collect();
    let mut metrics = vec![config.eval.primary.clone()];
    for metric in &config.eval.metrics {
        if !metrics.contains(metric) {
            metrics.push(metric.clone());
        }
    }
    let eval_rows = loaded.parts.iter().filter(|p| **p == Some(Part::Eval)).count();
    Ok(Board { primary: config.eval.primary.clone(), metrics, eval_rows, rows })
}

/// The first baseline, and the candidate that stands best on the board (none when that is the baseline).
pub fn base_and_best(
    engine: &Engine,
    loaded: &Arc<Loaded>,
) -> Result<(Option<Arc<Scored>>, Option<Arc<Scored>>), Failure> {
    let scored = all_scored(engine, loaded)?;
    let primary = Metric::find(&loaded.ws.config.eval.primary).map_err(|e| bad_input(e.to_string()))?;
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
