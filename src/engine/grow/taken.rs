//! Made rows that somebody takes into the data, and out of it again.
//!
//! They become a file of the data, `data/grown/RUN.jsonl`, which is one more source. Every state of that file is kept by its hash in
//! `.tunebench/grown/`, and the decision in the journal: taking in adds to the file, taking out takes from it, an undo puts the file back to
//! the state before. An engine that dies between the journal and the file finds [`PENDING`] when it starts again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::texts::{Wanted, each, folder_of};
use crate::data::Of;
use crate::domain::api::{Decision, Failure};
use crate::domain::grow::{Accepted, Grown};
use crate::domain::row::Part;
use crate::domain::words::counted;
use crate::engine::state::{Engine, bad_input, failed};
use crate::engine::{decisions, parts, rows};
use crate::store::files;
use crate::strata::duplicates::said;
use crate::workspace::GROWN_SOURCES;

/// There while the journal may be ahead of the files.
const PENDING: &str = "pending";

/// The file of the data that the rows of a run stand in, relative to the workspace.
pub fn file_of(run: &str) -> String {
    format!("{GROWN_SOURCES}/{run}.jsonl")
}

fn kept_path(engine: &Engine, hash: &str) -> PathBuf {
    engine.state_dir.join("grown").join(format!("{hash}.jsonl"))
}

fn hash_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn keep(engine: &Engine, bytes: &[u8]) -> Result<String, Failure> {
    let hash = hash_of(bytes);
    let path = kept_path(engine, &hash);
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if path.exists() { Ok(()) } else { files::write_atomic(&path, bytes) }
    };
    write().map_err(|e| failed(format!("{} could not be written: {e}", path.display())))?;
    Ok(hash)
}

/// What stands in the data of a run: as the file has it, since people may have edited it, else as it was accepted.
fn now(engine: &Engine, run: &str) -> Result<Option<Vec<u8>>, Failure> {
    let Some(accepted) = engine.read(|s| s.decisions.grown.get(run).cloned()) else { return Ok(None) };
    if let Ok(bytes) = fs::read(engine.root.join(file_of(run))) {
        return Ok(Some(bytes));
    }
    let kept = kept_path(engine, &accepted.hash);
    fs::read(&kept).map(Some).map_err(|e| failed(format!("{}: {e}", kept.display())))
}

/// The id of the row that a line is; none of a line that is no row.
fn id_of(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        id: String,
    }
    serde_json::from_slice::<Line>(line).ok().map(|line| line.id)
}

fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty())
}

/// Ids of the run's rows that are in the data.
pub fn ids(engine: &Engine, run: &str) -> HashSet<String> {
    let bytes = now(engine, run).ok().flatten().unwrap_or_default();
    whole_lines(&bytes).filter_map(id_of).collect()
}

/// Why rows stayed out.
#[derive(Default)]
struct Left {
    /// A row that is scored on by now is among its parents, or a parent is gone from the train part.
    parents: usize,
    /// By now another row says the same.
    said: usize,
    fell: usize,
}

impl Left {
    fn words(&self) -> String {
        let some = [
            (self.fell, "fell at a check of its text, or says what another row says"),
            (self.parents, "has a parent that is not in the train part any more"),
            (self.said, "says what another row says by now"),
        ];
        let told: Vec<String> = some
            .into_iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, why)| format!("{} {why}", counted(n, "row")))
            .collect();
        if told.is_empty() { String::new() } else { format!("; left out: {}", told.join(", ")) }
    }
}

/// Take the rows that a filter means into the data, or with `withdraw` out of it; says what became of it. Rows that fell at the check of
/// their gold or meaning are taken where the filter names them: people know better.
pub fn accept(engine: &Engine, run: &str, filter: &str, withdraw: bool) -> Result<String, Failure> {
    let _one = engine.accepting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (decision, message) =
        if withdraw { withdrawal(engine, run, filter)? } else { acceptance(engine, run, filter)? };
    if let Some(decision) = decision {
        let pending = Pending::begin(engine)?;
        decisions::decide(engine, decision.clone())?;
        write(engine, &decision)?;
        pending.end();
    }
    Ok(message)
}

fn acceptance(engine: &Engine, run: &str, filter: &str) -> Result<(Option<Decision>, String), Failure> {
    let folder = folder_of(engine, run)?;
    let wanted = Wanted::read(filter)?;
    let own = file_of(run);
    let mut bytes = now(engine, run)?.unwrap_or_default();
    let there: HashSet<String> = whole_lines(&bytes).filter_map(id_of).collect();
    let before = whole_lines(&bytes).count();
    let meant: Vec<Grown> =
        each(&folder, |_, _, one| wanted.fits(&one, there.contains(&one.id)).then_some(one))?;
    let already = meant.iter().filter(|one| there.contains(&one.id)).count();

    let loaded = rows::loaded(engine)?;
    let dataset = &loaded.dataset;
    let inputs = dataset.columns(&[Of::Input]).map_err(|e| parts::data_error(&e))?;
    let mut known: HashSet<[u8; 16]> = HashSet::new();
    for at in 0..dataset.len() {
        // A row of the file that is not in it any more says nothing.
        if dataset.source(at) != own || there.contains(dataset.id(at)) {
            known.extend(inputs.first().and_then(|inputs| inputs.get(at)).and_then(said));
        }
    }
    let mut in_train: HashMap<String, bool> = HashMap::new();
    let mut is_in_train = |id: &String| {
        *in_train.entry(id.clone()).or_insert_with(|| {
            let part = |at: usize| loaded.parts.get(at).copied().flatten();
            dataset.find(id).is_none_or(|at| part(at).is_none_or(|part| part == Part::Train))
        })
    };
    if !bytes.is_empty() && bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    let (mut left, mut taken) = (Left::default(), 0);
    for one in meant.into_iter().filter(|one| !there.contains(&one.id)) {
        if one.fell.is_some_and(|check| !check.may_be_overruled()) {
            left.fell += usize::from(wanted.names());
        } else if !wanted.admits(&one) {
        } else if !one.parents.iter().all(&mut is_in_train) {
            left.parents += 1;
        } else if said(&one.text).is_none_or(|said| !known.insert(said)) {
            left.said += 1;
        } else {
            serde_json::to_writer(&mut bytes, &one.row).map_err(|e| failed(e.to_string()))?;
            bytes.push(b'\n');
            taken += 1;
        }
    }
    if taken == 0 && already > 0 {
        let words = format!("{} of {run} {} in {own} already", counted(already, "row"), is(already));
        return Ok((None, words + &left.words()));
    }
    if taken == 0 {
        return Err(bad_input(format!(
            "{run} has no row to take in{}; `tunebench data grown {run}` shows what it made",
            left.words()
        )));
    }
    let hash = keep(engine, &bytes)?;
    let rows = before + taken;
    let all = if before > 0 { format!(" ({rows} with those before)") } else { String::new() };
    let message = format!(
        "{} in {own}{all}, a source of the data from now on, in the train part; one undo takes {} back{}",
        counted(taken, "row"),
        if taken == 1 { "it" } else { "them" },
        left.words()
    );
    let accepted = Some(Accepted { hash, rows });
    Ok((Some(Decision::Grown { run: run.to_owned(), accepted }), message))
}

const fn is(n: usize) -> &'static str {
    if n == 1 { "is" } else { "are" }
}

fn withdrawal(engine: &Engine, run: &str, filter: &str) -> Result<(Option<Decision>, String), Failure> {
    let folder = folder_of(engine, run)?;
    let wanted = Wanted::read(filter)?;
    let Some(bytes) = now(engine, run)? else {
        return Err(bad_input(format!("no rows of {run} are in the data")));
    };
    let all = || {
        let message = format!("the rows of {run} are out of the data; undo takes that back");
        (Some(Decision::Grown { run: run.to_owned(), accepted: None }), message)
    };
    if filter.trim().is_empty() {
        return Ok(all());
    }
    let there: HashSet<String> = whole_lines(&bytes).filter_map(id_of).collect();
    let out: HashSet<String> = each(&folder, |_, _, one| {
        let meant = there.contains(&one.id) && wanted.fits(&one, true);
        meant.then_some(one.id)
    })?
    .into_iter()
    .collect();
    if out.is_empty() {
        return Err(bad_input(format!("none of the rows of {run} that are in the data is meant")));
    }
    let stays = |line: &&[u8]| id_of(line).is_none_or(|id| !out.contains(&id));
    let left: Vec<u8> = whole_lines(&bytes).filter(stays).flatten().copied().collect();
    let rows = whole_lines(&left).count();
    if rows == 0 {
        return Ok(all());
    }
    let hash = keep(engine, &left)?;
    let message = format!(
        "{} of {run} {} out of the data, {rows} {} in it; undo takes that back",
        counted(out.len(), "row"),
        is(out.len()),
        if rows == 1 { "stays" } else { "stay" }
    );
    Ok((Some(Decision::Grown { run: run.to_owned(), accepted: Some(Accepted { hash, rows }) }), message))
}

/// Bring the file of an acceptance that was decided (or taken back) up to it. What somebody wrote into it in the meantime is kept first.
pub fn write(engine: &Engine, decision: &Decision) -> Result<(), Failure> {
    let Decision::Grown { run, accepted } = decision else { return Ok(()) };
    let path = engine.root.join(file_of(run));
    let io = |e: io::Error| failed(format!("{} could not be written: {e}", path.display()));
    if let Ok(now) = fs::read(&path) {
        keep(engine, &now)?;
    }
    match accepted {
        Some(accepted) => {
            let kept = kept_path(engine, &accepted.hash);
            let bytes = fs::read(&kept).map_err(|e| failed(format!("{}: {e}", kept.display())))?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(io)?;
            }
            files::write_atomic(&path, &bytes).map_err(io)?;
        }
        None if path.exists() => fs::remove_file(&path).map_err(io)?,
        None => {}
    }
    // Whoever looks at the rows next imports them, too.
    if let Err(failure) = parts::import(engine, false) {
        tracing::warn!("the rows of {run} are not indexed yet: {}", failure.message);
    }
    Ok(())
}

/// Says on disk that the journal is about to be ahead of the files. What is left behind by an error is looked at by the next start.
pub struct Pending(Option<PathBuf>);

impl Pending {
    pub fn begin(engine: &Engine) -> Result<Self, Failure> {
        let path = engine.state_dir.join("grown").join(PENDING);
        let write = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            files::write_atomic(&path, b"")
        };
        write().map_err(|e| failed(format!("{} could not be written: {e}", path.display())))?;
        Ok(Self(Some(path)))
    }

    /// For a decision that is taken back, which may be one on made rows.
    pub fn before_undo(engine: &Engine) -> Result<Self, Failure> {
        if engine.state_dir.join("grown").exists() { Self::begin(engine) } else { Ok(Self(None)) }
    }

    pub fn end(self) {
        if let Some(path) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// An earlier engine died between the journal and the files.
pub fn catch_up(engine: &Engine) -> anyhow::Result<()> {
    let pending = engine.state_dir.join("grown").join(PENDING);
    if pending.exists() {
        restore(engine)?;
        fs::remove_file(&pending)?;
    }
    Ok(())
}

/// Files of accepted rows are as they were decided, but for what people wrote into them: those that are gone are written again, and those
/// that are in an earlier state of ours are brought up.
pub fn restore(engine: &Engine) -> anyhow::Result<()> {
    let decided: HashMap<String, Accepted> = engine.read(|s| s.decisions.grown.clone()).into_iter().collect();
    let mut wanted: Vec<(String, Option<Accepted>)> = Vec::new();
    for entry in fs::read_dir(engine.root.join(GROWN_SOURCES)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(run) = name.strip_suffix(".jsonl").filter(|run| !decided.contains_key(*run)) else {
            continue;
        };
        wanted.push((run.to_owned(), None));
    }
    wanted.extend(decided.into_iter().map(|(run, accepted)| (run, Some(accepted))));
    for (run, accepted) in wanted {
        let stale = match fs::read(engine.root.join(file_of(&run))) {
            Err(_) => accepted.is_some(),
            Ok(bytes) => {
                let hash = hash_of(&bytes);
                accepted.as_ref().is_none_or(|a| a.hash != hash) && kept_path(engine, &hash).exists()
            }
        };
        if stale {
            write(engine, &Decision::Grown { run, accepted })
                .map_err(|failure| anyhow::anyhow!(failure.message))?;
        }
    }
    Ok(())
}
