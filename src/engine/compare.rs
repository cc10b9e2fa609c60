//! Candidates against each other, on the rows that both have.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::sync::Arc;

use super::candidates::{self, Known};
use super::protocol::FRAME_MAX;
use super::rows::{self, Loaded, cut};
use super::sets;
use super::standing::outcomes;
use super::state::{Engine, bad_input, failed};
use crate::domain::api::Failure;
use crate::domain::board::{Comparison, PromptChange};
use crate::domain::candidate::Candidate;
use crate::domain::metric::Metric;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::score::compare::{self, About, Columned, Columns, Side};
use crate::store::lines;

/// Seed of the bootstrap: a comparison looks the same each time.
const SEED: u64 = 7;
/// Characters of an answer in a list of flips, at least and at most: as many as a frame has room for.
const FLIP_TEXT: (usize, usize) = (160, 8_000);
/// Characters of all the texts of the flips, and of a prompt.
const FLIPS_ROOM: usize = FRAME_MAX / 8;
const PROMPT_TEXT: usize = FRAME_MAX / 64;
/// Stages whose prompts are told.
const PROMPTS: usize = 8;
/// Bytes of a file of outcomes up to which they are read whole, and kept for whoever asks next.
const HELD: u64 = 32 << 20;
/// Candidates compared with one.
const MANY: usize = 1_000;

/// Two candidates on every row that both have at the same content.
pub fn compare(engine: &Engine, a: &str, b: &str, metric: Option<&str>) -> Result<Comparison, Failure> {
    let loaded = rows::loaded(engine)?;
    let metric = metric_of(&loaded, metric)?;
    let (a, b) = (candidates::find(engine, a)?, candidates::find(engine, b)?);
    if a.id == b.id {
        return Err(bad_input(format!("{} is compared with itself; name two candidates", a.candidate.name)));
    }
    let (of_a, of_b) = (side_of(engine, &a, &metric)?, side_of(engine, &b, &metric)?);
    let mut comparison = sides(&loaded, (&a.candidate, &of_a), (&b.candidate, &of_b), &metric, true);
    if comparison.n == 0 {
        return Err(nothing_in_common(&a, &b, &metric));
    }
    let room = FLIPS_ROOM / (3 * comparison.flips.len().max(1));
    let room = room.clamp(FLIP_TEXT.0, FLIP_TEXT.1);
    for flip in &mut comparison.flips {
        for text in [&mut flip.a, &mut flip.b] {
            *text = cut(text, room).into_owned();
        }
        flip.gold = flip.gold.take().map(|g: String| cut(&g, room).into_owned());
    }
    comparison.prompts = prompts(&a.candidate, &b.candidate);
    comparison.regression = sets::kept(engine, &of_b.columns)?;
    Ok(comparison)
}

/// Several candidates against one, each with Holm's adjusted p; without flips and strata. `others` empty: all on the board.
pub fn many(
    engine: &Engine,
    a: &str,
    others: &[String],
    metric: Option<&str>,
) -> Result<Vec<Comparison>, Failure> {
    let loaded = rows::loaded(engine)?;
    let metric = metric_of(&loaded, metric)?;
    let a = candidates::find(engine, a)?;
    let of_a = side_of(engine, &a, &metric)?;
    let mut all: Vec<Known> = Vec::new();
    for name in others {
        let b = candidates::find(engine, name)?;
        if b.id == a.id || all.iter().any(|k| k.id == b.id) {
            return Err(bad_input(format!("`{}` is named twice", b.candidate.name)));
        }
        has_outcomes(&b)?;
        all.push(b);
    }
    if others.is_empty() {
        all.extend(candidates::known(engine).iter().filter(|k| k.id != a.id).cloned());
    }
    if all.len() > MANY {
        return Err(bad_input(format!("{} candidates are too many at once; name up to {MANY}", all.len())));
    }
    // One after the other: the outcomes of a thousand candidates would fill the memory.
    let mut found: Vec<Comparison> = Vec::new();
    for b in &all {
        let of_b = side_of(engine, b, &metric)?;
        found.push(sides(&loaded, (&a.candidate, &of_a), (&b.candidate, &of_b), &metric, false));
    }
    if others.is_empty() {
        // Who was scored on other rows only says nothing.
        found.retain(|c| c.n > 0);
    } else if let Some(empty) = found.iter().find(|c| c.n == 0) {
        return Err(nothing_in_common(&a, &candidates::find(engine, &empty.candidates[1])?, &metric));
    }
    compare::adjust(&mut found);
    Ok(found)
}

fn metric_of(loaded: &Loaded, name: Option<&str>) -> Result<Metric, Failure> {
    let eval = &loaded.ws.config.eval;
    eval.known().comparable(name.unwrap_or(&eval.primary)).map_err(|e| bad_input(e.to_string()))
}

/// A candidate's outcomes in columns, and where the whole ones are.
struct Of {
    columns: Columns,
    whole: Whole,
}

enum Whole {
    Held(Arc<Vec<Outcome>>),
    /// The file they were read from.
    Stored(File),
}

impl Of {
    fn outcome(&self, at: u64) -> Option<Outcome> {
        match &self.whole {
            Whole::Held(outcomes) => outcomes.get(at as usize).cloned(),
            Whole::Stored(file) => serde_json::from_slice(&lines::line_at(file, at).ok()?).ok(),
        }
    }
}

fn has_outcomes(known: &Known) -> Result<u64, Failure> {
    match fs::metadata(known.folder.outcomes()) {
        Ok(meta) => Ok(meta.len()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let name = &known.candidate.name;
            Err(bad_input(format!("`{name}` has no outcomes yet; `tunebench run eval`")))
        }
        Err(e) => Err(unreadable(known, e)),
    }
}

fn unreadable(known: &Known, e: std::io::Error) -> Failure {
    failed(format!("{}: {e}", known.folder.outcomes().display()))
}

fn side_of(engine: &Engine, known: &Known, metric: &Metric) -> Result<Of, Failure> {
    if has_outcomes(known)? <= HELD {
        let outcomes = outcomes(engine, known)?;
        return Ok(Of { columns: Columns::of(&outcomes, metric), whole: Whole::Held(outcomes) });
    }
    // It stays open for the texts of flips; those that are not of their row any more are not shown.
    let file = File::open(known.folder.outcomes()).map_err(|e| unreadable(known, e))?;
    let columns = known.folder.read_columns(metric).map_err(|e| unreadable(known, e))?;
    Ok(Of { columns, whole: Whole::Stored(file) })
}

fn nothing_in_common(a: &Known, b: &Known, metric: &Metric) -> Failure {
    bad_input(format!(
        "`{}` and `{}` have no row in common at the same content and with a value of {}",
        a.candidate.name, b.candidate.name, metric.name
    ))
}

/// With the flips and strata, or without.
pub fn held(
    loaded: &Loaded,
    a: (&Candidate, &[Outcome]),
    b: (&Candidate, &[Outcome]),
    metric: &Metric,
    whole: bool,
) -> Comparison {
    let a = Side { name: &a.0.name, outcomes: a.1 };
    let b = Side { name: &b.0.name, outcomes: b.1 };
    about(loaded, whole, |about| compare::compare(a, b, metric, about))
}

fn sides(
    loaded: &Loaded,
    a: (&Candidate, &Of),
    b: (&Candidate, &Of),
    metric: &Metric,
    whole: bool,
) -> Comparison {
    let (of_a, of_b) = (|at| a.1.outcome(at), |at| b.1.outcome(at));
    let a = Columned { name: &a.0.name, columns: &a.1.columns, outcome: &of_a };
    let b = Columned { name: &b.0.name, columns: &b.1.columns, outcome: &of_b };
    about(loaded, whole, |about| compare::compare_columns(a, b, metric, about))
}

/// What is known of the rows.
fn about(loaded: &Loaded, whole: bool, work: impl FnOnce(&About<'_>) -> Comparison) -> Comparison {
    let input = |row: &str| {
        let at = loaded.dataset.find(row);
        at.map(|at| cut(&loaded.text(at).0, FLIP_TEXT.0).into_owned()).unwrap_or_default()
    };
    let group = |row: &str| loaded.group(loaded.dataset.find(row)?).map(str::to_owned);
    let fields = loaded.ws.config.data.split.group.join(" or ");
    let part = if whole { part_by_stratum(loaded, Part::Eval) } else { BTreeMap::new() };
    work(&About {
        input: &input,
        group: (!fields.is_empty()).then_some((fields.as_str(), &group as &dyn Fn(&str) -> Option<String>)),
        part: &part,
        seed: SEED,
        whole,
    })
}

/// Rows of a part by stratum.
pub fn part_by_stratum(loaded: &Loaded, wanted: Part) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::<u32, usize>::new();
    for (at, part) in loaded.parts.iter().enumerate() {
        if *part == Some(wanted)
            && let Some(stratum) = loaded.stratum(at)
        {
            *rows.entry(stratum).or_default() += 1;
        }
    }
    let mut names = BTreeMap::new();
    for (stratum, n) in rows {
        if let Some(name) = loaded.strata.as_ref().and_then(|s| s.name(stratum)) {
            *names.entry(name).or_default() += n;
        }
    }
    names
}

/// Prompts that differ, stage by stage.
fn prompts(a: &Candidate, b: &Candidate) -> Vec<PromptChange> {
    let names = a.stages.iter().chain(&b.stages).map(|s| &s.name);
    let mut seen = std::collections::BTreeSet::new();
    names
        .filter(|name| seen.insert(name.as_str()))
        .filter_map(|name| {
            let of = |c: &Candidate| c.stages.iter().find(|s| s.name == *name).map(|s| s.prompt.clone());
            let (a, b) = (of(a).unwrap_or_default(), of(b).unwrap_or_default());
            let text = |text: &str| cut(text, PROMPT_TEXT).into_owned();
            (a != b).then(|| PromptChange { stage: name.clone(), a: text(&a), b: text(&b) })
        })
        .take(PROMPTS)
        .collect()
}
