//! Answers for people to judge: blind, in an order of each annotator's own, the same answers for all of them.
//!
//! Rows are drawn within strata by a hash of judge and row, so that every annotator gets the same ones and their leniency can be
//! compared. Of a row one answer is asked about; whose it is, is not told, nor what the judge said of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::candidates;
use super::judges;
use super::rows::{self, cut};
use super::standing;
use super::state::{Engine, bad_input};
use crate::domain::api::{Decision, Failure};
use crate::domain::judge::{PersonVerdict, Queue, QueueItem, item_id, output_hash};
use crate::domain::outcome::Outcome;
use crate::score::board::on_the_board;
use crate::store::journal;
use crate::workspace::config::JudgeEntry;

/// Characters of each text of an item, and of all of an answer together.
const TEXT_MAX: usize = 16_000;
const ALL_MAX: usize = 400_000;
/// A judge below this probability of its own verdict is torn.
const TORN: f64 = 0.75;
/// Longest name of an annotator.
const NAME_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub judge: Option<String>,
    pub annotator: Option<String>,
    pub per: usize,
    pub disagreement: bool,
}

/// An answer to a row, whoever gave it.
struct Answer {
    hash: String,
    outcome: Outcome,
    candidate: String,
    /// Candidates that gave it.
    given: usize,
}

/// A row with its different answers.
struct Open {
    row_hash: String,
    stratum: Option<String>,
    answers: Vec<Answer>,
}

/// The annotator's name, checked: the user's where none is given.
pub fn annotator(name: Option<&str>) -> Result<String, Failure> {
    let name = name.map_or_else(journal::actor, |name| name.trim().to_owned());
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fine) {
        return Err(bad_input(format!(
            "`{}` is no annotator's name: letters, digits, `-`, `_`, `.` and `@`, at most {NAME_MAX}",
            cut(&name, NAME_MAX)
        )));
    }
    Ok(name)
}

/// Rows of the board with their different answers. Answers of single-row failures are none.
fn open_rows(engine: &Engine) -> Result<BTreeMap<String, Open>, Failure> {
    let loaded = rows::loaded(engine)?;
    let mut open: BTreeMap<String, Open> = BTreeMap::new();
    for known in candidates::known(engine).iter() {
        let Some(s) = standing::scored(engine, &loaded, known)? else { continue };
        let id = known.id.clone();
        let rows = on_the_board(&s.candidate, &s.current).into_iter();
        for outcome in rows.filter(|o| o.error.is_none() && o.sample == 0) {
            // Only right or wrong is known of some outcomes made elsewhere.
            if outcome.output.trim().is_empty() && outcome.stages.is_empty() {
                continue;
            }
            let hash = output_hash(&outcome.output);
            let row = open.entry(outcome.row.clone()).or_insert_with(|| Open {
                row_hash: outcome.row_hash.clone(),
                stratum: outcome.stratum.clone(),
                answers: Vec::new(),
            });
            match row.answers.iter_mut().find(|answer| answer.hash == hash) {
                Some(known) => {
                    known.given += 1;
                    // The verdict of a judge that another candidate's run asked is as good.
                    for judged in &outcome.judged {
                        if known.outcome.judged_by(Some(&judged.judge)).is_none() {
                            known.outcome.judged.push(judged.clone());
                        }
                    }
                }
                None => row.answers.push(Answer {
                    hash,
                    outcome: outcome.clone(),
                    candidate: id.clone(),
                    given: 1,
                }),
            }
        }
    }
    Ok(open)
}

/// A number that nobody chooses and that stays the same.
pub fn lot(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes()).update(b"\0");
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// How far an answer is in dispute: the judge is torn over it, or people say something else than the judge.
fn dispute(answer: &Answer, judge: &str, people: &HashMap<(&str, &str), Vec<&str>>, row: &str) -> f64 {
    let Some(judged) = answer.outcome.judged_by(Some(judge)) else { return 0.0 };
    let torn = judged.probability.filter(|p| *p < TORN).map_or(0.0, |p| 1.0 - p);
    let said = people.get(&(row, answer.hash.as_str())).into_iter().flatten();
    let parted =
        said.filter(|word| judged.verdict.as_deref().is_some_and(|verdict| verdict != **word)).count();
    torn + if parted > 0 { 1.0 } else { 0.0 }
}

/// What is left for the annotator.
pub fn queue(engine: &Engine, asked: &Asked) -> Result<Queue, Failure> {
    let loaded = rows::loaded(engine)?;
    let judge: &JudgeEntry = judges::named(&loaded.ws, asked.judge.as_deref())?;
    let name = judge.name.as_str();
    let annotator = annotator(asked.annotator.as_deref())?;
    let said: Vec<PersonVerdict> =
        engine.read(|s| s.decisions.verdicts.values().filter(|v| v.judge == name).cloned().collect());
    // What one has said oneself does not change what one is asked.
    let mut people: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
    for v in said.iter().filter(|v| v.annotator != annotator) {
        let word = v.verdict.as_deref().unwrap_or_default();
        people.entry((&v.row, &v.output_hash)).or_default().push(word);
    }
    let mine: HashSet<(&str, &str)> = said
        .iter()
        .filter(|v| v.annotator == annotator)
        .map(|v| (v.row.as_str(), v.row_hash.as_str()))
        .collect();

    let open = open_rows(engine)?;
    let mut strata: BTreeMap<&str, Vec<(f64, u64, &String, &Open)>> = BTreeMap::new();
    for (id, row) in &open {
        let given: usize = row.answers.iter().map(|answer| answer.given).sum();
        let most = row.answers.iter().map(|answer| answer.given).max().unwrap_or(0);
        let apart = 1.0 - most as f64 / given.max(1) as f64;
        let disputed = row.answers.iter().map(|a| dispute(a, name, &people, id)).fold(0.0, f64::max);
        let weight = if asked.disagreement { apart + disputed } else { 0.0 };
        if asked.disagreement && weight == 0.0 {
            continue;
        }
        let stratum = row.stratum.as_deref().unwrap_or_default();
        strata.entry(stratum).or_default().push((weight, lot(&[name, id]), id, row));
    }
    let mut chosen: Vec<(&String, &Open)> = Vec::new();
    for rows in strata.values_mut() {
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        chosen.extend(rows.iter().take(asked.per.max(1)).map(|(_, _, id, row)| (*id, *row)));
    }
    let total = chosen.len();
    chosen.retain(|(id, row)| !mine.contains(&(id.as_str(), row.row_hash.as_str())));
    chosen.sort_by_key(|(id, _)| lot(&[&annotator, name, id]));
    let done = total - chosen.len();

    let (mut items, mut room) = (Vec::new(), ALL_MAX);
    for (id, row) in chosen {
        let key = |a: &&Answer| {
            let weight = if asked.disagreement { dispute(a, name, &people, id) } else { 0.0 };
            (weight, lot(&[name, id, &a.hash]))
        };
        let by = |a: &&Answer, b: &&Answer| {
            let (a, b) = (key(a), key(b));
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
        };
        let Some(answer) = row.answers.iter().max_by(by) else { continue };
        let text = |text: &str| cut(text, TEXT_MAX).into_owned();
        let input = loaded.dataset.find(id).map(|at| loaded.text(at).0.clone()).unwrap_or_default();
        let item = QueueItem {
            item: item_id(id, &row.row_hash, &answer.hash),
            row: id.clone(),
            stratum: row.stratum.clone(),
            input: text(&input),
            output: text(&answer.outcome.output),
            gold: answer.outcome.gold.as_deref().map(text),
        };
        let size = item.input.len() + item.output.len() + item.gold.as_ref().map_or(0, String::len) + 200;
        if size > room && !items.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        items.push(item);
    }
    let verdicts = judge.verdicts.words.clone();
    Ok(Queue { judge: judge.name.clone(), annotator, verdicts, done, total, items })
}

/// The decision that a verdict on an item is.
pub fn verdict(
    engine: &Engine,
    judge: Option<&str>,
    name: Option<String>,
    item: &str,
    word: &str,
) -> Result<Decision, Failure> {
    let loaded = rows::loaded(engine)?;
    let judge = judges::named(&loaded.ws, judge)?;
    let annotator = annotator(name.as_deref())?;
    let words = &judge.verdicts.words;
    let word = word.trim();
    let exact = words.iter().find(|known| *known == word);
    let known = exact.or_else(|| words.iter().find(|known| known.to_lowercase() == word.to_lowercase()));
    let Some(known) = known else {
        return Err(bad_input(format!(
            "`{}` is no verdict of the judge `{}`; verdicts: {}",
            cut(word, 80),
            judge.name,
            words.join(", ")
        )));
    };
    for (row, open) in open_rows(engine)? {
        for answer in open.answers {
            if item_id(&row, &open.row_hash, &answer.hash) == item {
                return Ok(Decision::Verdict(PersonVerdict {
                    judge: judge.name.clone(),
                    annotator,
                    row,
                    row_hash: open.row_hash,
                    output_hash: answer.hash,
                    candidate: answer.candidate,
                    verdict: Some(known.clone()),
                }));
            }
        }
    }
    Err(bad_input(format!(
        "no answer on the board is called `{}`; `tunebench judge queue` lists them",
        cut(item, 80)
    )))
}
