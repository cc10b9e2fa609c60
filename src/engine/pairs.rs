//! Launching a run of kind `judge`: the answers of two candidates to the same rows, frozen as they stand.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::candidates;
use super::judges;
use super::rows;
use super::standing::{self, Scored};
use super::state::{Engine, bad_input, failed, no_run};
use crate::domain::api::Failure;
use crate::domain::judge::{AnswerPair, Judge, PairSettings, Pairwise};
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;
use crate::domain::words::nearest;
use crate::tuning::judge::pairs::RESULT;
use crate::workspace::Workspace;

/// What is set for such a run.
const KEYS: [&str; 4] = ["a", "b", "judge", "rows"];

/// Everything that the run works on.
pub struct Frozen {
    pub settings: PairSettings,
    pub rows: Vec<RunRow>,
    /// `pairs.jsonl`.
    pub bytes: Vec<u8>,
}

struct Wish {
    a: String,
    b: String,
    judge: Option<String>,
    rows: usize,
}

fn wish(set: &[(String, String)]) -> Result<Wish, Failure> {
    let mut wish = Wish { a: String::new(), b: String::new(), judge: None, rows: usize::MAX };
    for (key, value) in set {
        match key.as_str() {
            "a" => wish.a.clone_from(value),
            "b" => wish.b.clone_from(value),
            "judge" => wish.judge = Some(value.clone()),
            "rows" => {
                wish.rows = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                    bad_input(format!("`rows` must be a whole number from 1 on, not `{value}`"))
                })?;
            }
            _ => {
                let near = nearest(key, KEYS);
                let advice = near.map_or_else(|| KEYS.join(", "), |near| format!("did you mean `{near}`?"));
                return Err(bad_input(format!("`{key}` is no setting of a run of kind judge: {advice}")));
            }
        }
    }
    if wish.a.is_empty() || wish.b.is_empty() {
        return Err(bad_input("name the two candidates: `tunebench judge A B`"));
    }
    Ok(wish)
}

/// The judge that is asked for.
pub fn judge(engine: &Engine, set: &[(String, String)]) -> Result<Judge, Failure> {
    let wish = wish(set)?;
    let ws = Workspace::load(&engine.root).map_err(|p| super::parts::problems(&p))?;
    judges::frozen(engine, &ws, judges::named(&ws, wish.judge.as_deref())?)
}

/// The pairs of all rows that both have answered at the content that they have now.
pub fn frozen(engine: &Engine, set: &[(String, String)]) -> Result<Frozen, Failure> {
    let wish = wish(set)?;
    let judge = judge(engine, set)?;
    let loaded = rows::loaded(engine)?;
    let side = |name: &str| -> Result<(String, Arc<Scored>), Failure> {
        let known = candidates::find(engine, name)?;
        let scored = standing::scored(engine, &loaded, &known)?;
        let scored =
            scored.ok_or_else(|| bad_input(format!("`{name}` has no outcomes yet; `tunebench run eval`")))?;
        Ok((known.candidate.name, scored))
    };
    let ((a, of_a), (b, of_b)) = (side(&wish.a)?, side(&wish.b)?);
    if of_a.candidate.id() == of_b.candidate.id() {
        return Err(bad_input(format!("`{a}` and `{b}` are the same candidate")));
    }
    let said = |o: &&Outcome| {
        o.sample == 0 && (!o.output.trim().is_empty() || !o.stages.is_empty() || o.error.is_some())
    };
    let by_row: HashMap<&str, &Outcome> =
        of_a.current.iter().filter(said).map(|o| (o.row.as_str(), o)).collect();
    let mut pairs: Vec<(&Outcome, &Outcome)> =
        of_b.current.iter().filter(said).filter_map(|b| Some((*by_row.get(b.row.as_str())?, b))).collect();
    let all = pairs.len();
    pairs.retain(|(a, b)| a.error.is_none() && b.error.is_none());
    let left_out = all - pairs.len();
    if pairs.is_empty() {
        return Err(bad_input(format!(
            "`{a}` and `{b}` have no answered row in common at the content it has now"
        )));
    }
    // A fair sample from the start, the same each time.
    pairs.sort_by_cached_key(|(_, b)| *blake3::hash(b.row.as_bytes()).as_bytes());
    pairs.truncate(wish.rows);

    let gold = engine.read(|s| s.decisions.gold.clone());
    let (mut rows, mut bytes) = (Vec::new(), Vec::new());
    for (a, b) in pairs {
        let Some(at) = loaded.dataset.find(&b.row) else { continue };
        let row = loaded.dataset.row(at).map_err(|e| super::parts::data_error(&e))?;
        let (input, in_file) = loaded.dataset.resolve(&row).map_err(|e| super::parts::data_error(&e))?;
        let (gold, hash) = rows::with_gold(&row.id, &row.hash, in_file, &gold);
        let pair = AnswerPair { row: row.id.clone(), a: a.output.clone(), b: b.output.clone() };
        serde_json::to_writer(&mut bytes, &pair).map_err(|e| failed(e.to_string()))?;
        bytes.push(b'\n');
        rows.push(RunRow {
            turns: Vec::new(),
            id: row.id,
            hash,
            part: b.part,
            stratum: b.stratum.clone(),
            fields: row.fields,
            input,
            gold,
        });
    }
    Ok(Frozen { settings: PairSettings { judge, candidates: [a, b], left_out }, rows, bytes })
}

/// What came of a run.
pub fn result(engine: &Engine, run: &str) -> Result<Pairwise, Failure> {
    let folder = engine.read(|s| s.runs.get(run).map(|r| r.folder.clone())).ok_or_else(|| no_run(run))?;
    let path = folder.dir().join(RESULT);
    let bytes = fs::read(&path).map_err(|_| bad_input(format!("{run} has not come to its end yet")))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(format!("{} is damaged: {e}", path.display())))
}
