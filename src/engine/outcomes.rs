//! Outcomes made elsewhere: which rows they are of, and the folders in which they are kept.
//!
//! `imports/outcomes/<hash>/` holds `candidate.json`, `outcomes.jsonl` and `import.json`; the hash is that of the outcomes and the name, so
//! that the same file again changes nothing. Which folder stands on the board under which name is a decision, and can be taken back.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rayon::prelude::*;

use super::candidates::{self, imported_dir};
use super::rows::{self, Loaded};
use super::state::{Engine, bad_input, failed};
use crate::data;
use crate::data::outcomes::{Format, Made, Options, Repeat};
use crate::domain::api::{Decision, Failure};
use crate::domain::candidate::Candidate;
use crate::domain::imported::{ImportAs, Imported, ImportedFile};
use crate::domain::metric::Metric;
use crate::domain::outcome::{Elsewhere, Outcome};
use crate::score;
use crate::store::files;
use crate::worker::folder::{RunFolder, now_ms};

/// Candidates that one file may tell of.
const MOST: usize = 64;
/// Answers without a row that are named.
const UNMATCHED: usize = 5;

/// What is kept of an import beside its outcomes.
pub fn about(folder: &RunFolder) -> Option<Imported> {
    serde_json::from_slice(&fs::read(folder.dir().join("import.json")).ok()?).ok()
}

/// Imports of an older version, which lay under their names and were no decisions, become such.
pub fn adopt(engine: &Engine) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(imported_dir(engine)) else { return Ok(()) };
    let (mut found, mut decisions) = (Vec::new(), Vec::new());
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let folder = RunFolder::new(&path);
        if name.starts_with('.') || !path.join("candidate.json").exists() || path.join("import.json").exists()
        {
            continue;
        }
        let rows = folder.read_outcomes()?.len();
        let since = fs::metadata(folder.outcomes())?.modified()?;
        let since = since.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let about = Imported {
            candidate: name.clone(),
            format: Format::Jsonl.name().into(),
            rows,
            matched: rows,
            first_ms: since,
            t_ms: since,
            ..Imported::default()
        };
        decisions.push(Decision::Outcomes { candidate: name.clone(), import: Some(name) });
        found.push((path, about));
    }
    if found.is_empty() {
        return Ok(());
    }
    let decisions = engine.store.decide(now_ms(), Decision::Together { decisions })?;
    engine.update(|state| state.decisions = decisions);
    for (path, about) in found {
        files::write_json(&path.join("import.json"), &about)?;
    }
    Ok(())
}

/// Candidates whose outcomes were made elsewhere, by name.
pub fn list(engine: &Engine) -> Vec<Imported> {
    let kept = engine.read(|s| s.decisions.outcomes.clone());
    kept.into_iter()
        .filter_map(|(name, import)| {
            let about = about(&RunFolder::new(imported_dir(engine).join(import)))?;
            Some(Imported { candidate: name, ..about })
        })
        .collect()
}

/// Take a candidate off the board; its outcomes stay where they are, so that this can be taken back.
pub fn remove(engine: &Engine, name: &str) -> Result<String, Failure> {
    let kept = engine.read(|s| s.decisions.outcomes.clone());
    if !kept.contains_key(name) {
        let names: Vec<&str> = kept.keys().map(String::as_str).collect();
        let there =
            if names.is_empty() { "none were".into() } else { format!("imported: {}", names.join(", ")) };
        return Err(bad_input(format!("no outcomes of `{name}` were imported; {there}")));
    }
    decide(engine, Decision::Outcomes { candidate: name.to_owned(), import: None })?;
    Ok(format!("{name} is off the board; its outcomes are kept: undo (`u` in the screens) brings it back"))
}

fn decide(engine: &Engine, decision: Decision) -> Result<(), Failure> {
    let decisions = engine
        .store
        .decide(now_ms(), decision)
        .map_err(|e| failed(format!("the decision could not be written down: {e}")))?;
    engine.decided(decisions);
    Ok(())
}

/// Put results made elsewhere on the board.
pub fn import(engine: &Engine, file: &str, how: &ImportAs) -> Result<ImportedFile, Failure> {
    // Two imports of one name must not both find it free.
    let _one = engine.importing.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = rows::loaded(engine)?;
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let name = candidates::slug(&how.candidate);
    if name.is_empty() {
        return Err(bad_input("the candidate needs a name of letters and digits"));
    }
    let options =
        Options { format: Format::asked(&how.format).map_err(bad_input)?, score: how.score.clone() };
    let mut intake = Intake {
        file,
        gold: engine.read(|s| s.decisions.gold.clone()),
        matcher: Matcher::new(&loaded, how.match_by.as_deref())?,
        loaded: &loaded,
        primary,
        dir: imported_dir(engine),
        sides: Vec::new(),
        unmatched: Vec::new(),
        broken: None,
    };
    let read = data::outcomes::read(Path::new(file), file, &options, &mut |made| intake.take(made));
    if let Some(failure) = intake.broken.take() {
        return Err(failure);
    }
    let format = read.map_err(|e| super::parts::data_error(&e))?;
    intake.finish(engine, &name, format)
}

/// One candidate of the file, with the outcomes that were read so far.
struct Side {
    by: String,
    dir: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    rows: usize,
    matched: usize,
    how: BTreeMap<String, usize>,
    /// By row and sample: the line that told of it.
    taken: HashMap<(u32, u32), u64>,
    /// By row: samples that it has.
    samples: HashMap<u32, u32>,
}

impl Drop for Side {
    fn drop(&mut self) {
        // Where it was kept, it is elsewhere by now.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

struct Intake<'a> {
    file: &'a str,
    gold: BTreeMap<String, String>,
    matcher: Matcher<'a>,
    loaded: &'a Loaded,
    primary: Metric,
    dir: PathBuf,
    sides: Vec<Side>,
    unmatched: Vec<String>,
    /// A failure of ours, not of the file's.
    broken: Option<Failure>,
}

impl Intake<'_> {
    fn take(&mut self, made: Made) -> Result<(), String> {
        let at = match self.sides.iter().position(|side| side.by == made.by) {
            Some(at) => at,
            None => self.side(&made.by)?,
        };
        let found = self.matcher.find(&made);
        let Some(side) = self.sides.get_mut(at) else { return Ok(()) };
        side.rows += 1;
        let Some((places, how)) = found else {
            if self.unmatched.len() < UNMATCHED {
                let text =
                    made.id.clone().or_else(|| made.prompt.clone()).or_else(|| {
                        made.fields.values().find_map(serde_json::Value::as_str).map(str::to_owned)
                    });
                let text = data::clean(text.as_deref().unwrap_or("(no id and no text)"));
                self.unmatched.push(format!("line {}: {text}", made.line));
            }
            return Ok(());
        };
        let (place, sample) = side.place(&places, made.repeat).map_err(|(place, sample, before)| {
            let row = self.loaded.dataset.id(place as usize);
            let which = if sample > 0 { format!(" (sample {sample})") } else { String::new() };
            format!("row `{}`{which} stands in line {before} already", data::clean(row))
        })?;
        side.taken.insert((place, sample), made.line);
        side.matched += 1;
        *side.how.entry(how.to_owned()).or_default() += 1;
        let outcome = outcome(self.loaded, place as usize, sample, made, &self.gold, &self.primary);
        let mut line = serde_json::to_vec(&outcome).map_err(|e| e.to_string())?;
        line.push(b'\n');
        side.hasher.update(&line);
        side.out.write_all(&line).map_err(|e| self.broke(&e))
    }

    fn broke(&mut self, error: &std::io::Error) -> String {
        self.broken = Some(failed(format!("the outcomes could not be kept: {error}")));
        String::new()
    }

    /// A new candidate.
    fn side(&mut self, by: &str) -> Result<usize, String> {
        if self.sides.len() >= MOST {
            return Err(format!(
                "is of the candidate number {}; at most {MOST} are read from a file",
                MOST + 1
            ));
        }
        let dir = self.dir.join(format!(".tmp-{}-{}", std::process::id(), self.sides.len()));
        let open = || -> std::io::Result<File> {
            if dir.exists() {
                fs::remove_dir_all(&dir)?;
            }
            fs::create_dir_all(&dir)?;
            File::create(dir.join("outcomes.jsonl"))
        };
        let out = BufWriter::new(open().map_err(|e| self.broke(&e))?);
        self.sides.push(Side {
            by: by.to_owned(),
            dir,
            out,
            hasher: blake3::Hasher::new(),
            rows: 0,
            matched: 0,
            how: BTreeMap::new(),
            taken: HashMap::new(),
            samples: HashMap::new(),
        });
        Ok(self.sides.len() - 1)
    }

    /// Everything was read: names for the candidates, their folders, the decisions.
    fn finish(mut self, engine: &Engine, name: &str, format: Format) -> Result<ImportedFile, Failure> {
        let file = self.file;
        let rows: usize = self.sides.iter().map(|side| side.rows).sum();
        let matched: usize = self.sides.iter().map(|side| side.matched).sum();
        if rows == 0 {
            return Err(bad_input(format!("{file}: holds no answers")));
        }
        if matched == 0 {
            let first = self.unmatched.first().cloned().unwrap_or_default();
            return Err(bad_input(format!(
                "{file}: none of its {rows} answers is of a row of this workspace ({first}); rows are found by {}",
                self.matcher.told()
            )));
        }
        let mut sides: Vec<Side> = std::mem::take(&mut self.sides);
        // A filter or a provider none of whose rows are here has nothing to stand with.
        let alone = sides.iter().filter(|side| side.matched > 0).count() == 1;
        let mut names: Vec<String> = Vec::new();
        for side in &sides {
            let mut own =
                if alone { name.to_owned() } else { candidates::slug(&format!("{name}-{}", side.by)) };
            while names.contains(&own) {
                own.push('_');
            }
            names.push(own);
        }
        let known = candidates::known(engine);
        for (side, name) in sides.iter().zip(&names).filter(|(side, _)| side.matched > 0) {
            let mine = imported_candidate(name).id();
            if known.iter().any(|k| k.candidate.name == *name && k.candidate.id() != mine) {
                let which = if side.by.is_empty() { String::new() } else { format!(" (for {})", side.by) };
                return Err(bad_input(format!(
                    "`{name}`{which} is another candidate's name; take a new one"
                )));
            }
        }
        let mut all = ImportedFile {
            format: format.name().into(),
            rows,
            matched,
            unmatched: std::mem::take(&mut self.unmatched),
            ..ImportedFile::default()
        };
        for side in &sides {
            for (how, n) in &side.how {
                *all.how.entry(how.clone()).or_default() += n;
            }
        }
        for (at, (side, name)) in sides.iter_mut().zip(names).filter(|(side, _)| side.matched > 0).enumerate()
        {
            let kept = keep(engine, side, at, &name, file, format);
            all.candidates.push(kept.map_err(|e| failed(format!("the outcomes could not be kept: {e}")))?);
        }
        Ok(all)
    }
}

fn imported_candidate(name: &str) -> Candidate {
    Candidate { name: name.to_owned(), rung: score::board::IMPORTED.into(), stages: Vec::new() }
}

/// Put a candidate's folder in its place and decide for it, unless it stands there already.
fn keep(
    engine: &Engine,
    side: &mut Side,
    at: usize,
    name: &str,
    file: &str,
    format: Format,
) -> std::io::Result<Imported> {
    side.out.flush()?;
    side.out.get_ref().sync_all()?;
    side.hasher.update(name.as_bytes());
    let hash = side.hasher.finalize().to_hex();
    let import = hash.as_str()[..32].to_owned();
    let before = engine.read(|s| s.decisions.outcomes.get(name).cloned());
    // In the order of the file, however quickly that went.
    let now = now_ms() + at as u64;
    let first = before.as_ref().and_then(|b| about(&RunFolder::new(imported_dir(engine).join(b))));
    let made = Imported {
        candidate: name.to_owned(),
        file: file.to_owned(),
        format: format.name().into(),
        by: side.by.clone(),
        rows: side.rows,
        matched: side.matched,
        how: side.how.clone(),
        first_ms: first.as_ref().map_or(now, |first| first.first_ms),
        t_ms: now,
    };
    let to = imported_dir(engine).join(&import);
    if before.as_ref() == Some(&import)
        && let Some(same) = first
    {
        // Of another file, perhaps, but to the same effect.
        return Ok(same);
    }
    files::write_json(&side.dir.join("candidate.json"), &imported_candidate(name))?;
    files::write_json(&side.dir.join("import.json"), &made)?;
    if to.exists() {
        // It was taken off the board before.
        fs::remove_dir_all(&to)?;
    }
    fs::rename(&side.dir, &to)?;
    files::sync_tree(&to)?;
    let decision = Decision::Outcomes { candidate: name.to_owned(), import: Some(import) };
    let decisions = engine.store.decide(now, decision)?;
    engine.decided(decisions);
    Ok(made)
}

impl Side {
    /// Which of several rows with the same text an answer is of, and which of the row's samples it is: the first that is free.
    /// An answer that the file numbers and that is there already: its row, its number and the line that told of it.
    fn place(&mut self, places: &[u32], repeat: Repeat) -> Result<(u32, u32), (u32, u32, u64)> {
        let first = places.first().copied().unwrap_or_default();
        match repeat {
            Repeat::Number(sample) => {
                let free = places.iter().find(|place| !self.taken.contains_key(&(**place, sample)));
                free.map(|place| (*place, sample)).ok_or_else(|| {
                    (first, sample, self.taken.get(&(first, sample)).copied().unwrap_or_default())
                })
            }
            Repeat::Next => {
                let has = |place: &u32| self.samples.get(place).copied().unwrap_or(0);
                let place = places.iter().copied().min_by_key(has).unwrap_or(first);
                let next = self.samples.entry(place).or_default();
                *next += 1;
                Ok((place, *next - 1))
            }
        }
    }
}

fn outcome(
    loaded: &Loaded,
    place: usize,
    sample: u32,
    made: Made,
    gold: &BTreeMap<String, String>,
    primary: &Metric,
) -> Outcome {
    let id = loaded.dataset.id(place);
    let (gold, row_hash) = rows::with_gold(id, &loaded.dataset.hash(place), loaded.text(place).1, gold);
    let elsewhere = Elsewhere { tokens_in: made.tokens_in, tokens_out: made.tokens_out, usd: made.usd };
    let mut outcome = Outcome {
        row: id.to_owned(),
        row_hash,
        part: loaded.parts.get(place).copied().flatten(),
        stratum: loaded.strata.as_ref().and_then(|s| s.name(s.of_row(id)?)),
        sample,
        output: made.output,
        gold,
        // A row that failed is wrong.
        correct: made.correct.or_else(|| made.error.is_some().then_some(false)),
        latency_ms: made.latency_ms,
        error: made.error,
        elsewhere: Some(elsewhere),
        ..Outcome::default()
    };
    score::rows::fill_imported(&mut outcome, primary, made.score);
    outcome
}

/// Finds rows.
struct Matcher<'a> {
    loaded: &'a Loaded,
    /// The file's field and the data's.
    by: Option<(String, String)>,
    /// Beginning of the hash of a row's text, and its place; sorted. Made when an answer first needs it.
    texts: Option<Vec<(u128, u32)>>,
}

impl<'a> Matcher<'a> {
    fn new(loaded: &'a Loaded, by: Option<&str>) -> Result<Self, Failure> {
        let by = by.map(|by| {
            let (theirs, ours) = by.split_once('=').unwrap_or((by, by));
            (theirs.trim().to_owned(), ours.trim().to_owned())
        });
        if let Some((theirs, ours)) = &by {
            let named = theirs != ours;
            let first = ours.split('.').next().unwrap_or_default();
            let there = loaded.dataset.fields().iter().any(|f| f == ours || f == first) || ours == "id";
            if theirs.is_empty() || ours.is_empty() {
                return Err(bad_input("--match needs a field: --match question, or --match question=prompt"));
            }
            if named && !there {
                let known = loaded.dataset.fields().join(", ");
                return Err(bad_input(format!("--match: no row has a field `{ours}`; fields: {known}")));
            }
        }
        Ok(Self { loaded, by, texts: None })
    }

    fn told(&self) -> String {
        match &self.by {
            None => "`id`, else by the text of their input; name the field that holds it with --match".into(),
            Some((theirs, _)) if self.field().is_none() => format!("`{theirs}`, held against their input"),
            Some((theirs, ours)) => format!("`{theirs}`, held against their `{ours}`"),
        }
    }

    /// The data's field that is held against; none: the input.
    fn field(&self) -> Option<&str> {
        let (_, ours) = self.by.as_ref()?;
        let first = ours.split('.').next().unwrap_or_default();
        let there = self.loaded.dataset.fields().iter().any(|f| f == ours || f == first);
        there.then_some(ours)
    }

    /// Rows that an answer may be of, and how they were found.
    fn find(&mut self, made: &Made) -> Option<(Vec<u32>, &'static str)> {
        let by_id = |id: &str| self.loaded.dataset.find(id).map(|at| vec![at as u32]);
        if let Some((theirs, ours)) = self.by.clone() {
            let value = made.field(&theirs)?;
            if ours == "id" {
                return by_id(&value).map(|places| (places, "id"));
            }
            let how = if self.field().is_some() { "field" } else { "input" };
            return self.by_text(&value).map(|places| (places, how));
        }
        if let Some(places) = made.id.as_deref().and_then(by_id) {
            return Some((places, "id"));
        }
        let texts = made.fields.values().filter_map(serde_json::Value::as_str).chain(made.prompt.as_deref());
        let texts: Vec<&str> = texts.filter(|text| !text.trim().is_empty()).collect();
        texts.into_iter().find_map(|text| self.by_text(text)).map(|places| (places, "input"))
    }

    fn by_text(&mut self, text: &str) -> Option<Vec<u32>> {
        if self.texts.is_none() {
            self.texts = Some(self.index());
        }
        let texts = self.texts.as_ref()?;
        let key = key(text);
        let from = texts.partition_point(|(k, _)| *k < key);
        let places: Vec<u32> =
            texts[from..].iter().take_while(|(k, _)| *k == key).map(|(_, at)| *at).collect();
        (!places.is_empty()).then_some(places)
    }

    fn index(&self) -> Vec<(u128, u32)> {
        let dataset = &self.loaded.dataset;
        let field = self.field();
        let text = |at: usize| -> Option<String> {
            let row = dataset.row(at).ok()?;
            match field {
                None => dataset.resolve(&row).ok().map(|(input, _)| input),
                Some(field) => match data::field(&row.fields, field)? {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(text.clone()),
                    other => Some(other.to_string()),
                },
            }
        };
        let mut texts: Vec<(u128, u32)> = (0..dataset.len())
            .into_par_iter()
            .filter_map(|at| text(at).filter(|t| !t.trim().is_empty()).map(|text| (key(&text), at as u32)))
            .collect();
        texts.par_sort_unstable();
        texts
    }
}

/// Exact but for space around it, and for the two ways of ending lines.
fn key(text: &str) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for (i, line) in text.trim().lines().enumerate() {
        if i > 0 {
            hasher.update(b"\n");
        }
        hasher.update(line.as_bytes());
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_be_bytes(first)
}
