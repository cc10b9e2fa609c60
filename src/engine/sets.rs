//! Rows beside the board's: the regression set, which grows as candidates fix rows, and the figures on general-ability sets.
//!
//! `regression.jsonl` in the state folder: a line for each row that was fixed, appended when that is seen and never taken away. What was a
//! candidate's best moment then need not be one later, so it cannot be worked out again: it is truth.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::candidates::Known;
use super::rows::Loaded;
use super::standing;
use super::state::{Engine, failed};
use crate::domain::api::Failure;
use crate::domain::board::Board;
use crate::domain::metric::Known as Metrics;
use crate::domain::metric::Metric;
use crate::domain::outcome::Outcome;
use crate::domain::sets::{Fixed, Kept};
use crate::score::board::IMPORTED;
use crate::score::compare::Columns;
use crate::score::sets::{self, Mark, Seen};
use crate::store::lines::{self, Appender};
use crate::worker::folder::{RunFolder, now_ms};

/// Lost rows that are named on the board, and of one candidate.
const LOST_ON_BOARD: usize = 20;
const LOST_OF_ONE: usize = 500;

/// Size and time of a file.
type Stamp = (u64, i64, i64);

/// What is known of the sets.
#[derive(Debug, Default)]
pub struct SetsCache {
    /// Rows of the regression set by their key; none before its file was read.
    fixed: Option<HashMap<u64, String>>,
    /// Outcomes on general-ability sets.
    outcomes: HashMap<PathBuf, (Stamp, Arc<Vec<Outcome>>)>,
}

fn path(engine: &Engine) -> PathBuf {
    engine.state_dir.join("regression.jsonl")
}

fn cache(engine: &Engine) -> std::sync::MutexGuard<'_, SetsCache> {
    engine.sets_cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The regression set, read once.
fn fixed_rows(engine: &Engine, cache: &mut SetsCache) -> Result<HashMap<u64, String>, Failure> {
    if let Some(fixed) = &cache.fixed {
        return Ok(fixed.clone());
    }
    let path = path(engine);
    let (all, _) = lines::read_all::<Fixed>(&path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    let fixed: HashMap<u64, String> =
        all.into_iter().map(|f| (sets::key(&f.row, &f.row_hash), f.row)).collect();
    cache.fixed = Some(fixed.clone());
    Ok(fixed)
}

/// A candidate's outcomes on the rows that once were fixed.
pub fn kept(engine: &Engine, outcomes: &Columns) -> Result<Option<Kept>, Failure> {
    let fixed = fixed_rows(engine, &mut cache(engine))?;
    if fixed.is_empty() {
        return Ok(None);
    }
    Ok(sets::kept(&sets::marks_of(outcomes.right()), &fixed, LOST_OF_ONE))
}

/// Let the regression set grow by what the board shows, and write both kinds of sets into its rows. `known` and `marks` are the rows', in
/// their order, which is that of time.
pub fn fill(
    engine: &Engine,
    loaded: &Loaded,
    known: &[&Known],
    marks: &[&[Mark]],
    board: &mut Board,
) -> Result<(), Failure> {
    let mut cache = cache(engine);
    let mut fixed = fixed_rows(engine, &mut cache)?;
    let new = grow(engine, known, marks, board, &fixed)?;
    if !new.is_empty() {
        fixed.extend(new);
        cache.fixed = Some(fixed.clone());
    }
    for (row, marks) in board.rows.iter_mut().zip(marks) {
        row.regression = sets::kept(marks, &fixed, LOST_ON_BOARD);
    }
    let base = board.rows.iter().position(|row| row.rung == "baseline");
    for set in &loaded.ws.config.sets {
        let name = &set.settings.name;
        let Ok(metric) = Metrics::default().primary(&set.settings.metric) else { continue };
        let of = |cache: &mut SetsCache, at: usize| outcomes_on(engine, cache, known.get(at)?, name);
        let of_base = base.and_then(|at| of(&mut cache, at));
        for at in 0..board.rows.len() {
            let Some(own) = of(&mut cache, at) else { continue };
            let other = of_base.as_ref().filter(|_| base != Some(at));
            let score = sets::score(&metric, &own, other.map(|o| o.as_slice()));
            if let Some(row) = board.rows.get_mut(at).filter(|_| score.n > 0) {
                row.sets.insert(name.clone(), score);
            }
        }
    }
    Ok(())
}

/// Append what was fixed and is not there yet.
fn grow(
    engine: &Engine,
    known: &[&Known],
    marks: &[&[Mark]],
    board: &Board,
    fixed: &HashMap<u64, String>,
) -> Result<Vec<(u64, String)>, Failure> {
    let Ok(primary) = Metric::find(&board.primary) else { return Ok(Vec::new()) };
    let named = engine.read(|s| s.decisions.candidates.clone());
    let seen: Vec<Seen<'_>> = board
        .rows
        .iter()
        .zip(marks)
        .map(|(row, marks)| Seen {
            marks,
            // One right row of one is no quality of 1.
            value: row.metrics.get(&board.primary).copied().filter(|_| row.counts(board.eval_rows)),
            named: named.contains_key(&row.id),
            imported: row.rung == IMPORTED,
        })
        .collect();
    let there: HashSet<u64> = fixed.keys().copied().collect();
    let found = sets::fixed(&seen, primary.entry.direction, &there);
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let kept = |e: std::io::Error| failed(format!("{}: {e}", path(engine).display()));
    let (mut file, _) = Appender::open(&path(engine)).map_err(kept)?;
    let t_ms = now_ms();
    let mut new = Vec::new();
    // By the candidate that has it right: its outcomes know the rows by name.
    let mut by_right: HashMap<usize, HashMap<u64, usize>> = HashMap::new();
    for (key, wrong, right) in found {
        by_right.entry(right).or_default().insert(key, wrong);
    }
    let mut rights: Vec<usize> = by_right.keys().copied().collect();
    rights.sort_unstable();
    let name = |at: usize| board.rows.get(at).map(|row| row.candidate.clone()).unwrap_or_default();
    for right in rights {
        let (Some(k), Some(keys)) = (known.get(right), by_right.get_mut(&right)) else { continue };
        for o in standing::outcomes(engine, k)?.iter() {
            let key = sets::key(&o.row, &o.row_hash);
            let Some(wrong) = keys.remove(&key) else { continue };
            let line = Fixed {
                t_ms,
                row: o.row.clone(),
                row_hash: o.row_hash.clone(),
                part: o.part,
                wrong: name(wrong),
                right: name(right),
            };
            file.append(&line).map_err(kept)?;
            new.push((key, o.row.clone()));
        }
    }
    file.sync().map_err(kept)?;
    Ok(new)
}

/// What the newest run of a candidate that was on the set answered.
fn outcomes_on(
    engine: &Engine,
    cache: &mut SetsCache,
    known: &Known,
    set: &str,
) -> Option<Arc<Vec<Outcome>>> {
    let folder = |run: &String| engine.read(|s| s.runs.get(run).map(|r| r.folder.clone()));
    let found: Option<(RunFolder, fs::Metadata)> = known.runs.iter().rev().find_map(|run| {
        let on = folder(run)?.set(set);
        let meta = fs::metadata(on.outcomes()).ok()?;
        Some((on, meta))
    });
    let (on, meta) = found?;
    let stamp = (meta.len(), meta.mtime(), meta.mtime_nsec());
    if let Some((at, outcomes)) = cache.outcomes.get(&on.outcomes())
        && *at == stamp
    {
        return Some(outcomes.clone());
    }
    let outcomes = Arc::new(on.read_outcomes().ok()?);
    cache.outcomes.insert(on.outcomes(), (stamp, outcomes.clone()));
    Some(outcomes)
}
