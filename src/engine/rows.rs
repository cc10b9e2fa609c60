//! Windows on the rows, and everything about one row. What is heavy is kept until something changes.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use super::filter::Finder;
use super::problems::Found;
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use super::strata::{RowTable, StrataIndex};
use super::{feedback, parts, strata};
use crate::data::{Bits, Dataset, Of, language};
use crate::domain::api::{Failure, RowDetail, RowPage, RowQuery, RowSummary, STRATUM_GONE};
use crate::domain::filter::{Filter, misread};
use crate::domain::row::Part;
use crate::workspace::{FILE, Workspace};

/// Rows of one window at most.
const WINDOW_MAX: usize = 500;
/// Characters of a text in a list, and of an answer.
const LIST_TEXT: usize = 240;
const LIST_ANSWER: usize = 80;
/// Characters of a field, and of the input, in the view of one row.
const FIELD_TEXT: usize = 16_000;
/// Candidates whose answers to a row are told.
const ANSWERS_MAX: usize = 20;
const INPUT_TEXT: usize = 100_000;

/// The data as it stands, with what was found out about each row, by its place.
#[derive(Debug)]
pub struct Loaded {
    pub ws: Workspace,
    pub dataset: Dataset,
    pub parts: Vec<Option<Part>>,
    pub strata: Option<Arc<StrataIndex>>,
    /// Rows that people left out: they are in no part.
    pub excluded: Bits,
    /// What is wrong with the rows; found when somebody asks.
    pub problems: Mutex<Option<Arc<Found>>>,
    /// Each row's place in the list of strata, [`NO_STRATUM`] where it has none; filled when many rows are looked at.
    of_rows: OnceLock<Vec<u32>>,
    /// Value of `[data.split] group` of each row; filled when rows are compared.
    groups: OnceLock<Vec<Option<Box<str>>>>,
    derived: Arc<Derived>,
}

/// What is worked out of the rows themselves when it is first asked for; kept as long as the files are the same.
#[derive(Debug, Default)]
struct Derived {
    turns: OnceLock<Vec<u32>>,
    languages: OnceLock<Vec<&'static str>>,
}

/// What was loaded, and the last query's rows.
#[derive(Debug, Default)]
pub struct RowCache {
    loaded: Option<(Stamp, Arc<Loaded>)>,
    found: Option<(Stamp, u64, RowQuery, Arc<Vec<u32>>)>,
    /// Values of keys by frequency, for completing filters; the last asked for at the back.
    values: Vec<(Stamp, u64, String, Values)>,
}

/// Different values with their rows, the most common first.
type Values = Arc<Vec<(String, usize)>>;

/// Keys whose values are kept.
const KEPT_KEYS: usize = 8;

/// The values of a key as they were counted in this state of the data, or counted now; kept where `count` says that they are all.
pub fn values(
    engine: &Engine,
    stamp: &Stamp,
    key: &str,
    count: impl FnOnce() -> Result<(Values, bool), Failure>,
) -> Result<Values, Failure> {
    let version = engine.read(|s| s.board_version.max(s.strata_version));
    let cache = || engine.row_cache.lock().unwrap_or_else(PoisonError::into_inner);
    let here = |(at, v, of, _): &&(Stamp, u64, String, Values)| at == stamp && *v == version && of == key;
    if let Some((.., kept)) = cache().values.iter().find(here) {
        return Ok(kept.clone());
    }
    let (counted, all) = count()?;
    if all {
        let kept = &mut cache().values;
        kept.retain(|(at, v, of, _)| at == stamp && *v == version && of != key);
        kept.push((stamp.clone(), version, key.to_owned(), counted.clone()));
        if kept.len() > KEPT_KEYS {
            kept.remove(0);
        }
    }
    Ok(counted)
}

/// Changes whenever what was loaded may be stale.
pub type Stamp = (Vec<(u64, i64, i64)>, usize, u64);

fn stamp(engine: &Engine, ws: &Workspace) -> Stamp {
    let of = |path: &std::path::Path| {
        fs::metadata(path).map_or((0, 0, 0), |m| (m.len(), m.mtime(), m.mtime_nsec()))
    };
    let mut files = vec![of(&engine.root.join(FILE))];
    files.extend(ws.row_files().iter().map(|(_, path)| of(path)));
    (files, parts::assignment_stamp(engine), engine.read(|s| s.strata_version))
}

/// The data, imported if need be; kept until a file changes.
pub fn loaded(engine: &Engine) -> Result<Arc<Loaded>, Failure> {
    let ws = Workspace::load(&engine.root).map_err(|p| parts::problems(&p))?;
    loaded_of(engine, ws).map(|(_, loaded)| loaded)
}

/// [`loaded`] for what people look at: while `workspace.toml` cannot be read, as it last could.
pub fn shown(engine: &Engine) -> Result<(Stamp, Arc<Loaded>), Failure> {
    let ws = Workspace::load(&engine.root).or_else(|problems| {
        let cache = engine.row_cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.loaded.as_ref().map(|(_, l)| l.ws.clone()).ok_or_else(|| parts::problems(&problems))
    })?;
    loaded_of(engine, ws)
}

fn loaded_of(engine: &Engine, ws: Workspace) -> Result<(Stamp, Arc<Loaded>), Failure> {
    let mut cache = engine.row_cache.lock().unwrap_or_else(PoisonError::into_inner);
    let now = stamp(engine, &ws);
    if let Some((at, loaded)) = &cache.loaded
        && *at == now
    {
        return Ok((now, loaded.clone()));
    }
    let dataset = parts::dataset(engine, &ws)?;
    let mut parts = parts::parts(engine, &dataset)?;
    let strata = strata::latest(engine)?;
    let same = cache.loaded.as_ref().filter(|(at, _)| at.0 == now.0);
    let derived = same.map(|(_, loaded)| loaded.derived.clone()).unwrap_or_default();
    let mut excluded = Bits::of(dataset.len(), |_| false);
    for at in engine.read(|s| s.decisions.excluded().filter_map(|id| dataset.find(id)).collect::<Vec<_>>()) {
        excluded.set(at, true);
        if let Some(part) = parts.get_mut(at) {
            *part = None;
        }
    }
    let loaded = Arc::new(Loaded {
        ws,
        dataset,
        parts,
        strata,
        excluded,
        problems: Mutex::default(),
        of_rows: OnceLock::new(),
        groups: OnceLock::new(),
        derived,
    });
    // Importing counts as a change itself.
    let now = stamp(engine, &loaded.ws);
    cache.loaded = Some((now.clone(), loaded.clone()));
    cache.found = None;
    Ok((now, loaded))
}

/// Of a row that is in no stratum.
pub const NO_STRATUM: u32 = u32::MAX;

impl Loaded {
    pub fn stratum(&self, at: usize) -> Option<u32> {
        match self.of_rows.get() {
            Some(of_rows) => of_rows.get(at).copied().filter(|s| *s != NO_STRATUM),
            None => self.strata.as_ref()?.of_row(self.dataset.id(at)),
        }
    }

    /// The strata of all rows, by their place. From then on [`Self::stratum`] is a look into a table.
    pub fn strata_of_rows(&self) -> &[u32] {
        self.of_rows.get_or_init(|| match &self.strata {
            None => Vec::new(),
            Some(strata) => (0..self.dataset.len())
                .into_par_iter()
                .map(|at| strata.of_row(self.dataset.id(at)).unwrap_or(NO_STRATUM))
                .collect(),
        })
    }

    /// A person left the row out.
    pub fn is_excluded(&self, id: &str) -> bool {
        self.dataset.find(id).is_some_and(|at| self.excluded.has(at))
    }

    /// Messages of each row's conversation; 0 of a row that cannot be read.
    pub fn turns(&self) -> &[u32] {
        let count = |at| self.dataset.row(at).map_or(0, |row| self.dataset.turn_count(&row) as u32);
        self.derived.turns.get_or_init(|| (0..self.dataset.len()).into_par_iter().map(count).collect())
    }

    /// The language of each row's input ([`language`]).
    ///
    /// # Errors
    /// The inputs cannot be read.
    pub fn languages(&self) -> Result<&[&'static str], Failure> {
        if let Some(known) = self.derived.languages.get() {
            return Ok(known);
        }
        let columns = self.dataset.columns(&[Of::Input]).map_err(|e| parts::data_error(&e))?;
        let of = |at| columns.iter().find_map(|c| c.get(at)).map_or(language::UNKNOWN, language::of);
        Ok(self.derived.languages.get_or_init(|| (0..self.dataset.len()).into_par_iter().map(of).collect()))
    }

    /// Input and gold of a row as they stand in the file; a row that cannot be rendered shows why.
    pub fn text(&self, at: usize) -> (String, Option<String>) {
        self.dataset
            .row(at)
            .and_then(|row| self.dataset.resolve(&row))
            .unwrap_or_else(|e| (format!("({e})"), None))
    }

    /// Hash of a row's content with the gold that holds now.
    pub fn content(&self, at: usize, gold: &BTreeMap<String, String>) -> String {
        let (id, hash) = (self.dataset.id(at), self.dataset.hash(at));
        // Only where a person decided, what the file says is looked up.
        if gold.contains_key(id) { with_gold(id, &hash, self.text(at).1, gold).1 } else { hash }
    }

    /// What a row belongs to by `[data.split] group`; none where that is not set, or the row has no such field.
    pub fn group(&self, at: usize) -> Option<&str> {
        let groups = self.groups.get_or_init(|| {
            // Without them each row stands alone; the data is read again before anything else is said of it.
            parts::groups(&self.ws, &self.dataset).unwrap_or_default()
        });
        groups.get(at)?.as_deref()
    }
}

/// A person's gold instead of the file's. The content is another one then, so its hash is, too.
pub fn with_gold(
    id: &str,
    hash: &str,
    in_file: Option<String>,
    decided: &BTreeMap<String, String>,
) -> (Option<String>, String) {
    match decided.get(id) {
        Some(gold) if Some(gold) != in_file.as_ref() => {
            let mixed = blake3::hash(format!("{hash}\n{gold}").as_bytes()).to_hex();
            (Some(gold.clone()), mixed.as_str()[..32].to_owned())
        }
        _ => (in_file, hash.to_owned()),
    }
}

/// At most `max` characters; what was cut is marked.
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
    }
}

pub fn page(engine: &Engine, query: &RowQuery) -> Result<RowPage, Failure> {
    let (stamp, loaded) = shown(engine)?;
    let (base, best) = standing::base_and_best(engine, &loaded).unwrap_or_default();
    let found = found(engine, &stamp, &loaded, query)?;
    let from = query.offset.min(found.len());
    let window = &found[from..(from + query.count.min(WINDOW_MAX)).min(found.len())];
    let (marks, gold, notes): (Vec<Vec<String>>, Vec<Option<String>>, Vec<bool>) = engine.read(|s| {
        let d = &s.decisions;
        let ids = window.iter().map(|&at| loaded.dataset.id(at as usize));
        ids.map(|id| {
            let marks = d.marks.get(id).map(|m| m.iter().cloned().collect()).unwrap_or_default();
            (marks, d.gold.get(id).cloned(), d.notes.contains_key(id))
        })
        .collect()
    });
    let rows = window
        .iter()
        .zip(marks)
        .zip(gold)
        .zip(notes)
        .map(|(((&at, marks), gold), has_note)| {
            let at = at as usize;
            let id = loaded.dataset.id(at).to_owned();
            let (input, in_file) = loaded.text(at);
            let answer = |scored: &Option<Arc<Scored>>| {
                let outcome = scored.as_ref()?.outcome(&id)?;
                Some((cut(&outcome.output, LIST_ANSWER).into_owned(), outcome.correct))
            };
            RowSummary {
                text: cut(&input, LIST_TEXT).into_owned(),
                gold: gold.or(in_file).map(|g| cut(&g, LIST_ANSWER).into_owned()),
                base: answer(&base),
                best: answer(&best),
                length: input.chars().count(),
                part: loaded.parts.get(at).copied().flatten(),
                stratum: loaded.stratum(at).and_then(|s| loaded.strata.as_ref()?.id(s)),
                marks,
                has_note,
                id,
            }
        })
        .collect();
    Ok(RowPage { total: found.len(), offset: from, rows })
}

/// The data, and the places of the rows that a query asks for.
pub fn places(engine: &Engine, query: &RowQuery) -> Result<(Arc<Loaded>, Arc<Vec<u32>>), Failure> {
    let (stamp, loaded) = shown(engine)?;
    let found = found(engine, &stamp, &loaded, query)?;
    Ok((loaded, found))
}

/// Places of the rows that a query asks for, in its order; those of the last query are kept.
fn found(
    engine: &Engine,
    stamp: &Stamp,
    loaded: &Arc<Loaded>,
    query: &RowQuery,
) -> Result<Arc<Vec<u32>>, Failure> {
    let asked = RowQuery { offset: 0, count: 0, ..query.clone() };
    // Marks and outcomes change what some queries find.
    let version = engine.read(|s| s.board_version.max(s.strata_version));
    if let Some((at, v, kept, found)) = &engine.row_cache.lock().unwrap_or_else(PoisonError::into_inner).found
        && at == stamp
        && *v == version
        && *kept == asked
    {
        return Ok(found.clone());
    }
    let found = Arc::new(search(engine, loaded, &asked)?);
    engine.row_cache.lock().unwrap_or_else(PoisonError::into_inner).found =
        Some((stamp.clone(), version, asked, found.clone()));
    Ok(found)
}

fn search(engine: &Engine, loaded: &Arc<Loaded>, query: &RowQuery) -> Result<Vec<u32>, Failure> {
    let dataset = &loaded.dataset;
    let mut places: Vec<u32> = match &query.ids {
        Some(ids) => ids.iter().filter_map(|id| dataset.find(id)).map(|at| at as u32).collect(),
        None => (0..dataset.len() as u32).collect(),
    };
    if let Some(part) = query.part {
        places.retain(|&at| loaded.parts.get(at as usize) == Some(&Some(part)));
    }
    if let Some(id) = &query.stratum {
        let wanted = loaded.strata.as_ref().and_then(|s| s.find(id));
        let Some(wanted) = wanted else { return Err(bad_input(format!("{STRATUM_GONE} `{id}`"))) };
        let of_rows = loaded.strata_of_rows();
        places.retain(|&at| of_rows.get(at as usize) == Some(&wanted));
    }
    if let Some(id) = &query.group {
        let Some(strata) = loaded.strata.as_ref().filter(|s| s.has_group(id)) else {
            return Err(bad_input(format!("no group `{id}`")));
        };
        let of = |at: u32| strata.stratum(loaded.stratum(at as usize)?).map(|s| &s.group);
        places.retain(|&at| of(at) == Some(id));
    }
    if let Some(flag) = &query.flag {
        let (table, is) = match (&loaded.strata, flag.as_str()) {
            (None, _) => return Err(bad_input("no strata have been built; `tunebench strata build`")),
            (Some(strata), "outliers") => {
                (&strata.table, RowTable::is_outlier as fn(&RowTable, &str) -> bool)
            }
            (Some(strata), "near-duplicates") => (&strata.table, RowTable::is_near_duplicate as _),
            (Some(_), other) => {
                return Err(bad_input(format!("no flag `{other}`; there are outliers and near-duplicates")));
            }
        };
        places.retain(|&at| is(table, dataset.id(at as usize)));
    }
    if let Some(why) = misread(&query.text) {
        return Err(bad_input(why));
    }
    let filter = Filter::parse(&query.text);
    if !filter.is_empty() {
        let admitted = Finder::new(engine, loaded).admitted(&filter)?;
        places.retain(|&at| admitted.has(at as usize));
    }
    match query.sort.as_str() {
        "" => {}
        "id" => places.sort_by(|&a, &b| dataset.id(a as usize).cmp(dataset.id(b as usize))),
        "length" => {
            let inputs = dataset.columns(&[Of::Input]).map_err(|e| parts::data_error(&e))?;
            let length =
                |at: u32| inputs.iter().find_map(|c| c.get(at as usize)).map_or(0, |t| t.chars().count());
            places.par_sort_by_cached_key(|&at| Reverse(length(at)));
        }
        "wrong-first" => {
            let (base, best) = standing::base_and_best(engine, loaded).unwrap_or_default();
            let scored = best.or(base);
            places.sort_by_cached_key(|&at| {
                let outcome = scored.as_ref().and_then(|s| s.outcome(dataset.id(at as usize)));
                match outcome.and_then(|o| o.correct) {
                    Some(false) => 0_u8,
                    None => 1,
                    Some(true) => 2,
                }
            });
        }
        "outlier" => {
            let Some(strata) = &loaded.strata else {
                return Err(bad_input("no strata have been built; `tunebench strata build`"));
            };
            let score = |at: &u32| strata.outlier(dataset.id(*at as usize)).unwrap_or(0.0);
            places.sort_by(|a, b| score(b).total_cmp(&score(a)));
        }
        other => {
            return Err(bad_input(format!(
                "no order `{other}`; there are id, length, outlier and wrong-first"
            )));
        }
    }
    Ok(places)
}

pub fn detail(engine: &Engine, id: &str) -> Result<RowDetail, Failure> {
    let (_, loaded) = shown(engine)?;
    let at = loaded.dataset.find(id).ok_or_else(|| bad_input(format!("no row `{id}`")))?;
    let row = loaded.dataset.row(at).map_err(|e| parts::data_error(&e))?;
    let (input, in_file) = loaded.text(at);
    let (marks, gold, note, feedback) = engine.read(|s| {
        let d = &s.decisions;
        let marks = d.marks.get(id).map(|m| m.iter().cloned().collect()).unwrap_or_default();
        (marks, d.gold.get(id).cloned(), d.notes.get(id).cloned(), feedback::on(d, id))
    });
    let mut flags = Vec::new();
    if let Some(strata) = &loaded.strata {
        if strata.table.is_outlier(id) {
            flags.push("outlier".to_owned());
        }
        if strata.table.is_near_duplicate(id) {
            flags.push("near-duplicate".to_owned());
        }
    }
    let answers = standing::some(engine, &loaded, ANSWERS_MAX)
        .unwrap_or_default()
        .iter()
        .filter_map(|scored| {
            let outcome = scored.outcome(id)?;
            let shown = outcome.error.as_ref().map_or_else(|| outcome.output.clone(), |e| format!("({e})"));
            Some((scored.candidate.name.clone(), cut(&shown, 1000).into_owned(), outcome.correct))
        })
        .collect();
    let fields = row.fields.iter().take(200).map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (cut(name, 200).into_owned(), cut(&text, FIELD_TEXT / (1 + row.fields.len() / 16)).into_owned())
    });
    let short = |text: String| cut(&text, FIELD_TEXT).into_owned();
    let changed = gold.is_some() && gold != in_file;
    Ok(RowDetail {
        id: id.to_owned(),
        input: cut(&input, INPUT_TEXT).into_owned(),
        gold: gold.or_else(|| in_file.clone()).map(short),
        gold_in_file: in_file.filter(|_| changed).map(short),
        fields: fields.collect(),
        part: loaded.parts.get(at).copied().flatten(),
        stratum: loaded.stratum(at).and_then(|s| loaded.strata.as_ref()?.id(s)),
        marks,
        note: note.map(short),
        source: row.source,
        line: row.line,
        flags,
        outlier: loaded.strata.as_ref().and_then(|s| s.outlier(id)),
        answers,
        feedback,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_gold_changes_the_content_and_the_same_gold_does_not() {
        let decided = BTreeMap::from([("a".to_owned(), "x".to_owned())]);
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(with_gold("a", hash, Some("x".into()), &decided), (Some("x".into()), hash.into()));
        let (gold, other) = with_gold("a", hash, Some("y".into()), &decided);
        assert_eq!(gold.as_deref(), Some("x"));
        assert_ne!(other, hash);
        assert_eq!(with_gold("b", hash, None, &decided), (None, hash.into()));
    }

    #[test]
    fn cutting_counts_characters_and_not_bytes() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äöü…");
    }
}
