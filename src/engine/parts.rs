//! Imports, and which part each row belongs to: `imports/<hash>.jsonl`, written once per state of the data and never changed.
//!
//! The first line says what was imported; each further line gives a row that was new then its part. A row keeps its part for good.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::grow;
use super::state::{Engine, failed};
use super::strata::StrataIndex;
use crate::data::{self, DataError, Dataset, Of};
use crate::domain::api::{Failure, ImportReport};
use crate::domain::grow::SYNTHETIC;
use crate::domain::row::Part;
use crate::domain::words::counted;
use crate::store::{files, lines};
use crate::strata::split::{self, Member, Shares};
use crate::worker::folder::now_ms;
use crate::workspace::{Problems, Workspace};

/// First line of an import's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    t_ms: u64,
    /// Rows of the data then.
    rows: usize,
    seed: u64,
}

/// Further lines: a row's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Assigned {
    id: String,
    hash: String,
    part: Part,
}

pub fn problems(problems: &Problems) -> Failure {
    super::state::bad_input(problems.to_string())
}

pub fn data_error(error: &DataError) -> Failure {
    Failure::new(error.exit_code(), error.to_string())
}

/// Index the sources, unless an index that fits them is there.
pub fn import(engine: &Engine, force: bool) -> Result<ImportReport, Failure> {
    let report = index(engine, force)?;
    if !report.cached {
        journal(engine, &report)?;
    }
    Ok(report)
}

/// A client has indexed the sources (with its own memory and its own progress bar): the journal is the engine's alone.
pub fn imported(engine: &Engine) -> Result<ImportReport, Failure> {
    let report = index(engine, false)?;
    journal(engine, &report)?;
    Ok(report)
}

fn index(engine: &Engine, force: bool) -> Result<ImportReport, Failure> {
    // A model that is not there, or a prompt that is being edited, keeps nobody from importing.
    let (ws, _) = Workspace::open(&engine.root).map_err(|p| problems(&p))?;
    data::import(&ws, force, &mut |_, _| {}).map_err(|e| data_error(&e))
}

fn journal(engine: &Engine, report: &ImportReport) -> Result<(), Failure> {
    let args =
        json!({ "rows": report.rows, "format": report.format, "quarantined": report.quarantined_total });
    engine
        .store
        .record(now_ms(), "import", args)
        .map_err(|e| failed(format!("the import could not be journalled: {e}")))?;
    engine.update(|state| {
        state.strata_version = state.version;
        state.board_version = state.version;
    });
    Ok(())
}

/// The data, imported if need be.
pub fn dataset(engine: &Engine, ws: &Workspace) -> Result<Dataset, Failure> {
    match Dataset::open(ws) {
        Ok(dataset) => return Ok(dataset),
        Err(DataError::NotImported | DataError::Stale { .. } | DataError::Damaged { .. }) => {}
        Err(error) => return Err(data_error(&error)),
    }
    import(engine, false)?;
    Dataset::open(ws).map_err(|e| data_error(&e))
}

fn dir(engine: &Engine) -> PathBuf {
    engine.state_dir.join("imports")
}

/// Files of assignments, oldest first.
fn assignment_files(engine: &Engine) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir(engine)) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            (path.extension()? == "jsonl").then_some(())?;
            let mut header: Option<Header> = None;
            lines::read_from(&path, 0, 1, |line, _| {
                header = serde_json::from_slice(line).ok();
                false
            })
            .ok()?;
            Some((header?.t_ms, path))
        })
        .collect();
    found.sort();
    found
}

/// The part of each row, by its place in the data; none for rows that have none yet.
pub fn parts(engine: &Engine, dataset: &Dataset) -> Result<Vec<Option<Part>>, Failure> {
    let mut parts = vec![None; dataset.len()];
    for (_, path) in assignment_files(engine) {
        lines::read_from(&path, 0, u64::MAX, |line, _| {
            if let Ok(assigned) = serde_json::from_slice::<Assigned>(line)
                && let Some(at) = dataset.find(&assigned.id)
            {
                // The first assignment holds.
                parts[at].get_or_insert(assigned.part);
            }
            true
        })
        .map_err(|e| failed(format!("{}: {e}", path.display())))?;
    }
    Ok(parts)
}

/// What each row belongs to by `[data.split] group`.
pub fn groups(ws: &Workspace, dataset: &Dataset) -> Result<Vec<Option<Box<str>>>, DataError> {
    let fields = &ws.config.data.split.group;
    if fields.is_empty() {
        return Ok(vec![None; dataset.len()]);
    }
    let of: Vec<Of> = fields.iter().map(|field| Of::Field(field.clone())).collect();
    let columns = dataset.columns(&of)?;
    let values: Vec<Vec<Option<&str>>> =
        columns.iter().map(|column| (0..dataset.len()).map(|at| column.get(at)).collect()).collect();
    let names: Vec<&str> = fields.iter().map(String::as_str).collect();
    Ok(split::groups(dataset.len(), &names, &values))
}

/// Places of rows that say nearly the same, as the strata run found them.
fn families(
    engine: &Engine,
    dataset: &Dataset,
    strata: Option<&StrataIndex>,
    shares: &Shares,
) -> Result<Vec<Vec<usize>>, Failure> {
    let Some(strata) = strata else { return Ok(Vec::new()) };
    let found: Vec<Vec<usize>> = strata
        .duplicates
        .iter()
        .map(|ids| ids.iter().filter_map(|id| dataset.find(id)).collect::<Vec<_>>())
        .filter(|places| places.len() > 1)
        .collect();
    if found.is_empty() {
        return Ok(found);
    }
    let inputs = dataset.columns(&[Of::Input]).map_err(|e| data_error(&e))?;
    let text = |at| inputs.first().and_then(|column| column.get(at)).unwrap_or_default();
    let (families, torn) = split::families(found, dataset.len(), shares, text);
    if torn > 0 {
        let notice = format!(
            "{} say nearly the same as more others than one part can hold: only exact copies of them stay in one part",
            counted(torn, "row")
        );
        engine.update(|state| {
            if !state.notices.contains(&notice) {
                state.notices.push(notice);
            }
        });
    }
    Ok(families)
}

/// Rows that were made of others, by their places, with the ids of those.
pub fn parents(dataset: &Dataset) -> Result<HashMap<usize, Vec<String>>, Failure> {
    if !grow::has_made(dataset) {
        return Ok(HashMap::new());
    }
    let of = Of::Field(format!("{SYNTHETIC}.parents"));
    let columns = dataset.columns(&[of]).map_err(|e| data_error(&e))?;
    let read = |at: usize| -> Option<Vec<String>> { serde_json::from_str(columns.first()?.get(at)?).ok() };
    Ok((0..dataset.len()).filter_map(|at| Some((at, read(at)?))).collect())
}

/// Give every row without a part one, and write it down.
pub fn assign(
    engine: &Engine,
    ws: &Workspace,
    dataset: &Dataset,
    strata: Option<&StrataIndex>,
) -> Result<Vec<Option<Part>>, Failure> {
    let mut known = parts(engine, dataset)?;
    if known.iter().all(Option::is_some) {
        return Ok(known);
    }
    let wanted = &ws.config.data.split;
    let shares = Shares {
        dev: wanted.dev,
        eval: wanted.eval,
        reserve: wanted.reserve,
        stratified: wanted.stratified,
        seed: wanted.seed,
    };
    let groups = groups(ws, dataset).map_err(|e| data_error(&e))?;
    let families =
        if wanted.near_duplicates { families(engine, dataset, strata, &shares)? } else { Vec::new() };
    // What people typed and corrected is to be learned from, and never stands among the rows that are claimed on.
    let before = known.clone();
    // Nor what was made; and what it was made of stays with it, unless it is scored on already.
    let made = parents(dataset)?;
    for i in (0..dataset.len()).filter(|i| known[*i].is_none()).collect::<Vec<_>>() {
        if dataset.is_feedback(i) || made.contains_key(&i) {
            known[i] = Some(Part::Train);
        }
    }
    let mut families = families;
    for (child, parents) in &made {
        let parents = parents.iter().filter_map(|id| dataset.find(id));
        let joined = parents.filter(|at| known[*at].is_none_or(|part| part == Part::Train));
        families.extend(joined.map(|at| vec![at, *child]));
    }
    let names: Vec<String> = (0..dataset.len())
        .map(|i| strata.and_then(|s| s.of_row(dataset.id(i))).map(|s| s.to_string()).unwrap_or_default())
        .collect();
    let members: Vec<Member<'_>> = (0..dataset.len())
        .map(|i| Member {
            id: dataset.id(i),
            group: groups[i].as_deref(),
            stratum: &names[i],
            part: known[i],
        })
        .collect();
    let assigned = split::assign(&members, &families, &shares);
    let fresh: Vec<(usize, Part)> =
        assigned.into_iter().enumerate().filter(|(i, _)| before[*i].is_none()).collect();
    let mut hasher = blake3::Hasher::new();
    for i in 0..dataset.len() {
        hasher.update(dataset.id(i).as_bytes());
        hasher.update(b"\0");
        hasher.update(dataset.hash(i).as_bytes());
    }
    let name = format!("{}.jsonl", &hasher.finalize().to_hex().as_str()[..32]);
    let write = || -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let header = Header { format: 1, t_ms: now_ms(), rows: dataset.len(), seed: wanted.seed };
        serde_json::to_writer(&mut bytes, &header)?;
        bytes.write_all(b"\n")?;
        for (i, part) in &fresh {
            let line = Assigned { id: dataset.id(*i).to_owned(), hash: dataset.hash(*i), part: *part };
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.write_all(b"\n")?;
        }
        fs::create_dir_all(dir(engine))?;
        files::write_atomic(&dir(engine).join(&name), &bytes)
    };
    write().map_err(|e| failed(format!("the parts could not be written down: {e}")))?;
    for (i, part) in fresh {
        known[i] = Some(part);
    }
    engine.update(|state| {
        state.strata_version = state.version;
        state.board_version = state.version;
    });
    Ok(known)
}

/// Changes whenever the assignment may have: for caches.
pub fn assignment_stamp(engine: &Engine) -> usize {
    fs::read_dir(dir(engine)).map_or(0, Iterator::count)
}
