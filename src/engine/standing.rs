//! The outcomes behind the board, and each candidate's row worked out of them: once, for as long as outcomes, data, gold and settings stay
//! as they are. A board of a thousand candidates is not held in memory: outcomes are read when somebody asks for them, and the last ones
//! asked for are kept.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use super::candidates::{self, Known};
use super::judges;
use super::rows::Loaded;
use super::sets;
use super::state::{Engine, bad_input, failed};
use super::{compare, honest};
use crate::domain::api::Failure;
use crate::domain::board::{Board, BoardRow};
use crate::domain::candidate::Candidate;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::score;
use crate::score::sets::Mark;

/// Outcomes that are kept in memory, about; those of the last candidate asked for are kept whatever their number.
const KEPT_OUTCOMES: usize = 200_000;
/// Candidates whose rows can be looked up at once.
const KEPT_SCORED: usize = 32;

/// A candidate with its outcomes in memory.
#[derive(Debug)]
pub struct Scored {
    pub candidate: Candidate,
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

/// Size and time of a file of outcomes.
type Stamp = (u64, i64, i64);

/// What all rows of the board hang on beside their outcomes; its number is the basis.
#[derive(Debug)]
struct Basis {
    loaded: Arc<Loaded>,
    gold: BTreeMap<String, String>,
    /// The outcomes of the baseline, which every row is held against.
    baseline: Option<(PathBuf, Stamp)>,
    number: u64,
}

/// A candidate's row, and which rows it has right.
type Worked = (Arc<BoardRow>, Arc<Vec<Mark>>);

/// What was read and worked out.
#[derive(Debug, Default)]
pub struct BoardCache {
    /// The last one asked for at the back.
    outcomes: VecDeque<(PathBuf, Stamp, Arc<Vec<Outcome>>)>,
    scored: VecDeque<((PathBuf, Stamp, u64), Arc<Scored>)>,
    basis: Option<Basis>,
    /// Rows of the board by their outcomes' file, without what is of the whole board.
    rows: HashMap<PathBuf, (Stamp, u64, Worked)>,
    board: Option<(u64, u64, Arc<Board>)>,
}

fn cache(engine: &Engine) -> std::sync::MutexGuard<'_, BoardCache> {
    engine.board_cache.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp(known: &Known) -> Option<Stamp> {
    let meta = fs::metadata(known.folder.outcomes()).ok()?;
    Some((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// A candidate's outcomes; none where it has left no file of them.
pub fn outcomes(engine: &Engine, known: &Known) -> Result<Arc<Vec<Outcome>>, Failure> {
    let path = known.folder.outcomes();
    let Some(stamp) = stamp(known) else { return Ok(Arc::default()) };
    {
        let kept = &mut cache(engine).outcomes;
        if let Some(at) = kept.iter().position(|(p, s, _)| *p == path && *s == stamp)
            && let Some(found) = kept.remove(at)
        {
            let outcomes = found.2.clone();
            kept.push_back(found);
            return Ok(outcomes);
        }
    }
    let read = Arc::new(read(known)?);
    let kept = &mut cache(engine).outcomes;
    kept.retain(|(p, ..)| *p != path);
    kept.push_back((path, stamp, read.clone()));
    let mut total: usize = kept.iter().map(|(.., o)| o.len()).sum();
    while kept.len() > 1 && total > KEPT_OUTCOMES {
        total -= kept.pop_front().map_or(0, |(.., o)| o.len());
    }
    Ok(read)
}

fn read(known: &Known) -> Result<Vec<Outcome>, Failure> {
    let path = known.folder.outcomes();
    known.folder.read_outcomes().map_err(|e| failed(format!("{}: {e}", path.display())))
}

/// Outcomes without those of rows that are gone, are left out, or have another content or gold by now.
pub fn current(
    loaded: &Loaded,
    outcomes: &Arc<Vec<Outcome>>,
    gold: &BTreeMap<String, String>,
) -> Arc<Vec<Outcome>> {
    let holds = |o: &Outcome| {
        let at = loaded.dataset.find(&o.row);
        at.is_some_and(|at| !loaded.excluded.has(at) && loaded.content(at, gold) == o.row_hash)
    };
    if outcomes.iter().all(holds) {
        return outcomes.clone();
    }
    Arc::new(outcomes.iter().filter(|o| holds(o)).cloned().collect())
}

/// The number of what everything hangs on now, and the gold that people gave.
fn basis(engine: &Engine, loaded: &Arc<Loaded>) -> (u64, BTreeMap<String, String>) {
    let gold = engine.read(|s| s.decisions.gold.clone());
    let known = candidates::known(engine);
    let baseline = honest::baseline(&known).and_then(|base| Some((base.folder.outcomes(), stamp(base)?)));
    let mut cache = cache(engine);
    let number = match &cache.basis {
        Some(b) if Arc::ptr_eq(&b.loaded, loaded) && b.gold == gold && b.baseline == baseline => b.number,
        before => {
            let number = before.as_ref().map_or(0, |b| b.number) + 1;
            cache.basis = Some(Basis { loaded: loaded.clone(), gold: gold.clone(), baseline, number });
            number
        }
    };
    (number, gold)
}

/// A candidate with its outcomes, held against the data as it stands; none where it has none.
pub fn scored(engine: &Engine, loaded: &Arc<Loaded>, known: &Known) -> Result<Option<Arc<Scored>>, Failure> {
    let (basis, gold) = basis(engine, loaded);
    let Some(stamp) = stamp(known) else { return Ok(None) };
    let key = (known.folder.outcomes(), stamp, basis);
    if let Some((_, found)) = cache(engine).scored.iter().find(|(k, _)| *k == key)
        // It may have another name by now.
        && found.candidate.name == known.candidate.name
    {
        return Ok(Some(found.clone()));
    }
    let outcomes = outcomes(engine, known)?;
    if outcomes.is_empty() {
        return Ok(None);
    }
    // Of several answers to a row the first is shown.
    let first = outcomes.iter().enumerate().filter(|(_, o)| o.sample == 0);
    let by_row = first.map(|(i, o)| (o.row.clone(), i)).collect();
    let current = current(loaded, &outcomes, &gold);
    let scored = Arc::new(Scored { candidate: known.candidate.clone(), outcomes, current, by_row });
    let kept = &mut cache(engine).scored;
    kept.retain(|(k, _)| k.0 != key.0);
    kept.push_back((key, scored.clone()));
    if kept.len() > KEPT_SCORED {
        kept.pop_front();
    }
    Ok(Some(scored))
}

/// Every candidate on the eval part; the same one as long as nothing changes.
pub fn board(engine: &Engine, loaded: &Arc<Loaded>) -> Result<Arc<Board>, Failure> {
    // One at a time works it out, and the others find it.
    let _working = engine.board_working.lock().unwrap_or_else(PoisonError::into_inner);
    let version = engine.read(|s| s.board_version);
    let (basis, gold) = basis(engine, loaded);
    if let Some((at, of, kept)) = &cache(engine).board
        && (*at, *of) == (version, basis)
    {
        return Ok(kept.clone());
    }
    let board = Arc::new(work_out(engine, loaded, basis, &gold, version)?);
    cache(engine).board = Some((version, basis, board.clone()));
    Ok(board)
}

fn work_out(
    engine: &Engine,
    loaded: &Arc<Loaded>,
    basis: u64,
    gold: &BTreeMap<String, String>,
    version: u64,
) -> Result<Board, Failure> {
    let config = &loaded.ws.config;
    let known = candidates::known(engine);
    let stamped: Vec<(&Known, Stamp)> = known.iter().filter_map(|k| Some((k, stamp(k)?))).collect();
    let kept: Vec<Option<Worked>> = {
        let cache = cache(engine);
        let fits = |(k, stamp): &(&Known, Stamp)| {
            let (at, of, row) = cache.rows.get(&k.folder.outcomes())?;
            ((at, *of) == (stamp, basis)).then(|| row.clone())
        };
        stamped.iter().map(fits).collect()
    };
    let base = match honest::baseline(&known) {
        Some(base) if kept.iter().any(Option::is_none) => {
            Some((base, current(loaded, &outcomes(engine, base)?, gold)))
        }
        _ => None,
    };
    let rows: Vec<Worked> = stamped
        .par_iter()
        .zip(kept)
        .map(|((k, _), kept)| match kept {
            Some(kept) => Ok(kept),
            None => row_of(engine, loaded, k, gold, base.as_ref())
                .map(|(row, marks)| (Arc::new(row), Arc::new(marks))),
        })
        .collect::<Result<_, Failure>>()?;
    cache(engine).rows = stamped
        .iter()
        .zip(&rows)
        .map(|((k, stamp), row)| (k.folder.outcomes(), (*stamp, basis, row.clone())))
        .collect();

    let judges = judges::standing(engine, loaded)?;
    // What a person or another run can change without a new outcome.
    let named = |((k, _), (row, _)): (&(&Known, Stamp), &Worked)| {
        let mut row = BoardRow::clone(row);
        row.candidate.clone_from(&k.candidate.name);
        row.run.clone_from(&k.run);
        row.runs.clone_from(&k.runs);
        judges::remark(row, &judges)
    };
    // A file without a line has nothing to show.
    let shown: Vec<(&(&Known, Stamp), &Worked)> =
        stamped.iter().zip(&rows).filter(|((_, (bytes, ..)), _)| *bytes > 0).collect();
    let on_board: Vec<&Known> = shown.iter().map(|pair| pair.0.0).collect();
    let marks: Vec<&[Mark]> = shown.iter().map(|pair| pair.1.1.as_slice()).collect();
    let mut rows: Vec<BoardRow> = shown.iter().copied().map(named).collect();
    honest::fill(engine, loaded, gold, &on_board, &mut rows)?;
    let mut metrics = vec![config.eval.primary.clone()];
    for metric in &config.eval.metrics {
        if !metrics.contains(metric) {
            metrics.push(metric.clone());
        }
    }
    let mut board = Board {
        primary: config.eval.primary.clone(),
        metrics,
        own: config.eval.own.clone(),
        eval_rows: loaded.parts.iter().filter(|p| **p == Some(Part::Eval)).count(),
        total: rows.len(),
        version,
        rows,
        ..Board::default()
    };
    score::trilemma::pareto(&mut board);
    // Without a volume this cannot be refused.
    let _ = score::trilemma::at_volume(&mut board, None, None);
    board.ladder = ladder(engine, loaded, &on_board, &board, gold)?;
    sets::fill(engine, loaded, &on_board, &marks, &mut board)?;
    Ok(board)
}

/// Of its outcomes alone. They are read and let go: on a board of a thousand they would fill the memory.
fn row_of(
    engine: &Engine,
    loaded: &Loaded,
    known: &Known,
    gold: &BTreeMap<String, String>,
    base: Option<&(&Known, Arc<Vec<Outcome>>)>,
) -> Result<(BoardRow, Vec<Mark>), Failure> {
    let config = &loaded.ws.config;
    let path = known.folder.outcomes();
    let kept = cache(engine).outcomes.iter().find(|(p, ..)| *p == path).map(|(.., o)| o.clone());
    let outcomes = match kept {
        Some(kept) => kept,
        None => Arc::new(read(known)?),
    };
    let current = current(loaded, &outcomes, gold);
    let candidate = &known.candidate;
    let run = known.run.clone();
    let mut row = score::board::row(candidate, run, &current, &config.eval, &config.goals);
    let mut all = score::board::on_the_board(candidate, &outcomes);
    all.retain(|o| !loaded.is_excluded(&o.row));
    row.stale = score::repeats::count(&all).saturating_sub(row.n);
    let counted = score::board::on_the_board(candidate, &current);
    row.judged = judges::counts(&counted);
    if let Ok(primary) = config.eval.primary_metric() {
        let facts = score::trilemma::Known { rows_per_s: known.rows_per_s, training: known.training.clone() };
        row.against = base.and_then(|(base, outcomes)| {
            let other = (candidate, &current[..]);
            honest::against(loaded, (&base.candidate, &outcomes[..]), other, &primary)
                .filter(|_| base.id != known.id)
        });
        row.trilemma = score::trilemma::measure(candidate, &counted, &primary, &config.goals, facts);
    }
    Ok((row, score::sets::marks(&current)))
}

fn ladder(
    engine: &Engine,
    loaded: &Arc<Loaded>,
    known: &[&Known],
    board: &Board,
    gold: &BTreeMap<String, String>,
) -> Result<crate::domain::ladder::Ladder, Failure> {
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let train = loaded.parts.iter().filter(|p| **p == Some(Part::Train)).count();
    let facts = score::ladder::Facts {
        eval_rows: board.eval_rows,
        train_rows: if loaded.ws.config.data.gold.is_some() { train } else { gold.len().min(train) },
    };
    let entries: Vec<score::ladder::Entry<'_>> = board
        .rows
        .iter()
        .zip(known)
        .map(|(row, k)| score::ladder::Entry { row, candidate: &k.candidate })
        .collect();
    let scored = |at: usize| -> Option<Vec<Outcome>> {
        let k = known.get(at)?;
        let all = current(loaded, &outcomes(engine, k).ok()?, gold);
        Some(score::board::on_the_board(&k.candidate, &all).into_iter().cloned().collect())
    };
    let held = |a: usize, b: usize| {
        let side = |at: usize| Some((&known.get(at)?.candidate, scored(at)?));
        let ((a, of_a), (b, of_b)) = (side(a)?, side(b)?);
        Some(compare::held(loaded, (a, &of_a), (b, &of_b), &primary, false))
    };
    let evidence = score::ladder::Evidence { outcomes: &scored, held: &held };
    Ok(score::ladder::ladder(&entries, &primary, facts, &evidence))
}

/// The first baseline, and the candidate that stands best on the board (none when that is the baseline).
pub fn base_and_best(
    engine: &Engine,
    loaded: &Arc<Loaded>,
) -> Result<(Option<Arc<Scored>>, Option<Arc<Scored>>), Failure> {
    let board = board(engine, loaded)?;
    let base = board.rows.iter().find(|r| r.rung == "baseline");
    let best = board
        .rows
        .iter()
        .filter_map(|r| Some((score::trilemma::standing(r, &board.primary, board.eval_rows)?, r)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, row)| row)
        .filter(|best| base.is_none_or(|base| base.id != best.id));
    let known = candidates::known(engine);
    let of = |row: Option<&BoardRow>| -> Result<Option<Arc<Scored>>, Failure> {
        let Some(k) = row.and_then(|row| known.iter().find(|k| k.id == row.id)) else { return Ok(None) };
        scored(engine, loaded, k)
    };
    Ok((of(base)?, of(best)?))
}

/// At most `n` candidates for somebody who looks at one row: all where there are few; else baseline, best, and the newest.
pub fn some(engine: &Engine, loaded: &Arc<Loaded>, n: usize) -> Result<Vec<Arc<Scored>>, Failure> {
    let known = candidates::known(engine);
    let mut all: Vec<Arc<Scored>> = Vec::new();
    if known.len() > n {
        let (base, best) = base_and_best(engine, loaded)?;
        all.extend(base.into_iter().chain(best));
    }
    for k in known.iter().skip(known.len().saturating_sub(n - all.len().min(n))) {
        if let Some(scored) = scored(engine, loaded, k)?
            && !all.iter().any(|a| Arc::ptr_eq(a, &scored))
        {
            all.push(scored);
        }
    }
    Ok(all)
}
