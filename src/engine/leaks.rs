//! Rows that are scored on and stand in what is learned from: all of them for whoever asks, and the refusal of a run.

use std::collections::BTreeMap;
use std::path::Path;

use super::rows::{self, Loaded, cut};
use super::state::{Engine, bad_input};
use super::{examples, parts, problems};
use crate::data::Of;
use crate::domain::api::Failure;
use crate::domain::candidate::Candidate;
use crate::domain::leak::{Leak, LeakKind, Leaks};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunKind;
use crate::domain::words::counted;
use crate::retrieve::store;
use crate::strata::leaks::{Overlap, Rule, overlaps};
use crate::strata::problems::neighbours;
use crate::tuning::check;
use crate::tuning::prompt::Copies;

/// Pairs of one row that are told, and of one answer.
const PAIRS: usize = 5;
const WINDOW: usize = 100;
/// Characters of each text.
const TEXT: usize = 600;
/// A row that shares words in a row with what is learned from counts for a refusal from so many of its words on, in a hundred (a sample that
/// is dirty in Touvron et al. 2023, "Llama 2", appendix A.6), and where more than this share of the scored rows are such: sentences of the
/// trade recur in honest data, and so few cannot move a score by much.
const MOSTLY: u32 = 80;
const FEW: f64 = 0.02;
/// Vectors of the built-in embedder nearer than this are suspected.
const COSINE: f32 = 0.95;

/// Texts that are learned from beside rows, with what they are called and the row that they are made of.
type Beside = Vec<(String, Option<String>, String)>;

fn rule_in_words(rule: Rule) -> String {
    format!(
        "by words in a row: {} of them, or a row of {} to {} words as a whole, where at most {} learned texts have them (Brown et al. 2020, appendix C)",
        rule.words,
        rule.least,
        rule.words - 1,
        rule.common
    )
}

fn detail(overlap: &Overlap) -> String {
    match overlap.grams {
        None => "the same text".into(),
        Some(_) => format!("words in a row, {}% of it", overlap.percent),
    }
}

/// Pairs of all rows that are scored on with what is learned from; by place, the surest first. None while rows have no parts.
pub fn of(engine: &Engine, loaded: &Loaded) -> Result<BTreeMap<usize, Vec<Leak>>, Failure> {
    if loaded.parts.iter().all(Option::is_none) {
        return Ok(BTreeMap::new());
    }
    let data = &loaded.dataset;
    let places = |wanted: &dyn Fn(Part) -> bool| -> Vec<usize> {
        (0..data.len()).filter(|at| loaded.parts[*at].is_some_and(wanted)).collect()
    };
    let (scored, train) = (places(&|part| part != Part::Train), places(&|part| part == Part::Train));
    let columns = data.columns(&[Of::Input]).map_err(|e| parts::data_error(&e))?;
    let text = |at: usize| columns.first().and_then(|inputs| inputs.get(at)).unwrap_or_default();
    let beside: Beside = examples::shown(engine)
        .into_iter()
        .map(|(store, e)| (format!("example {} of {store}", cut(&e.id, 8)), e.row, e.input))
        .collect();
    let learned = |i: usize| train.get(i).map_or_else(|| beside[i - train.len()].2.as_str(), |at| text(*at));
    let rule = Rule::default();
    let found = overlaps((scored.len(), &|i| text(scored[i])), (train.len() + beside.len(), &learned), rule);
    let mut all: BTreeMap<usize, Vec<Leak>> = BTreeMap::new();
    let short = |text: &str| cut(text, TEXT).into_owned();
    let mut push =
        |at: usize, how: LeakKind, from: String, from_row: Option<usize>, from_text: &str, detail: String| {
            let leak = Leak {
                row: data.id(at).to_owned(),
                part: loaded.parts[at],
                text: short(text(at)),
                how,
                from,
                from_row: from_row.map(|at| data.id(at).to_owned()),
                from_text: short(from_text),
                detail,
            };
            let mine = all.entry(at).or_default();
            if mine.len() < PAIRS {
                mine.push(leak);
            }
        };
    for overlap in found {
        let (at, j) = (scored[overlap.scored as usize], overlap.learned as usize);
        let how = if overlap.grams.is_none() { LeakKind::Exact } else { LeakKind::Ngram };
        match train.get(j) {
            Some(&of) => push(at, how, format!("row {}", data.id(of)), Some(of), text(of), detail(&overlap)),
            None => {
                let (name, row, input) = &beside[j - train.len()];
                // It is never shown for the row that it is made of.
                if row.as_deref() != Some(data.id(at)) {
                    push(at, how, name.clone(), None, input, detail(&overlap));
                }
            }
        }
    }
    for stage in check::candidate(&loaded.ws).stages {
        let copies = Copies::new(&[(stage.name.clone(), stage.prompt.clone())].into());
        for &at in scored.iter().filter(|at| copies.has(text(**at))) {
            let from = format!("the prompt of stage {}", stage.name);
            push(at, LeakKind::Ngram, from, None, &stage.prompt, "half of its words, six in a row".into());
        }
    }
    let near = neighbours::of(data, &|_| {}).map_err(|e| parts::data_error(&e))?;
    for &at in &scored {
        for (other, cosine) in neighbours::read(&near, at) {
            let other = other as usize;
            if cosine >= COSINE && loaded.parts.get(other) == Some(&Some(Part::Train)) {
                let from = format!("row {}", data.id(other));
                push(at, LeakKind::Embedding, from, Some(other), text(other), format!("cosine {cosine:.3}"));
            }
        }
    }
    for mine in all.values_mut() {
        // One pair stands where it is surest.
        mine.sort_by_key(|leak| leak.how);
        let mut seen: Vec<String> = Vec::new();
        mine.retain(|leak| {
            let fresh = !seen.contains(&leak.from);
            seen.push(leak.from.clone());
            fresh
        });
    }
    Ok(all)
}

/// A window on the pairs, the surest first.
pub fn leaks(engine: &Engine, offset: usize, count: usize) -> Result<Leaks, Failure> {
    let loaded = rows::loaded(engine)?;
    let parts =
        |wanted: &dyn Fn(Part) -> bool| loaded.parts.iter().flatten().filter(|part| wanted(**part)).count();
    if parts(&|_| true) == 0 {
        return Err(bad_input(
            "the rows have no parts yet, so that what is learned from cannot be told from what is scored on; build the strata first (`tunebench strata build`)",
        ));
    }
    let found = problems::found(engine, &loaded)?;
    let mut leaks = Leaks {
        scored: parts(&|part| part != Part::Train),
        learned: parts(&|part| part == Part::Train) + examples::shown(engine).len(),
        notes: vec![
            "exact: the same words, whatever their case".into(),
            rule_in_words(Rule::default()),
            format!(
                "by embedding: cosine of the built-in embedder at least {COSINE}; a suspicion, which refuses no run"
            ),
        ],
        ..Leaks::default()
    };
    let mut pairs: Vec<&Leak> = Vec::new();
    for mine in found.leaks.values() {
        match mine.first().map(|leak| leak.how) {
            Some(LeakKind::Exact) => leaks.exact += 1,
            Some(LeakKind::Ngram) => leaks.ngram += 1,
            Some(LeakKind::Embedding) => leaks.embedding += 1,
            None => {}
        }
        pairs.extend(mine);
    }
    pairs.sort_by_key(|leak| leak.how);
    leaks.total = pairs.len();
    leaks.offset = offset.min(pairs.len());
    leaks.found = pairs.into_iter().skip(leaks.offset).take(count.min(WINDOW)).cloned().collect();
    Ok(leaks)
}

/// Refuses a run that learns from what it is scored on. `rows` are its rows, with their parts.
pub fn refuse(kind: RunKind, candidate: Option<&Candidate>, rows: &[RunRow]) -> Result<(), Failure> {
    if !matches!(kind, RunKind::Train | RunKind::Prompt | RunKind::Trajectory) {
        return Ok(());
    }
    let of = |part: Part| -> Vec<&RunRow> { rows.iter().filter(|row| row.part == Some(part)).collect() };
    let (scored, train) = (of(Part::Eval), of(Part::Train));
    let mut beside: Beside = Vec::new();
    let mut copied: BTreeMap<usize, String> = BTreeMap::new();
    for stage in candidate.iter().flat_map(|candidate| &candidate.stages) {
        if let Some(shown) = &stage.examples {
            let all = store::read(Path::new(&shown.path), Some(shown.hash.as_str())).unwrap_or_default();
            let mine = all.into_iter().filter(|e| e.stage == stage.name && e.enabled);
            beside.extend(
                mine.map(|e| (format!("example {} of stage {}", cut(&e.id, 8), stage.name), e.row, e.input)),
            );
        }
        let copies = Copies::new(&[(stage.name.clone(), stage.prompt.clone())].into());
        for (i, _) in scored.iter().enumerate().filter(|(_, row)| copies.has(&row.input)) {
            copied.entry(i).or_insert_with(|| format!("stands in the prompt of stage {}", stage.name));
        }
    }
    let learned =
        |i: usize| train.get(i).map_or_else(|| beside[i - train.len()].2.as_str(), |row| row.input.as_str());
    let rule = Rule::default();
    let found =
        overlaps((scored.len(), &|i| scored[i].input.as_str()), (train.len() + beside.len(), &learned), rule);
    let (mut told, mut nearly): (BTreeMap<usize, String>, BTreeMap<usize, String>) =
        (copied, BTreeMap::new());
    for overlap in found {
        let (i, j) = (overlap.scored as usize, overlap.learned as usize);
        let said = match train.get(j) {
            Some(row) => format!("as row {} of the train part ({})", row.id, detail(&overlap)),
            None => {
                let (name, row, _) = &beside[j - train.len()];
                if row.as_deref() == scored.get(i).map(|row| row.id.as_str()) {
                    continue;
                }
                format!("as {name} ({})", detail(&overlap))
            }
        };
        if overlap.grams.is_none() {
            told.entry(i).or_insert(said);
        } else if overlap.percent >= MOSTLY {
            nearly.entry(i).or_insert(said);
        }
    }
    if nearly.len() as f64 > FEW * scored.len() as f64 {
        for (i, said) in nearly {
            told.entry(i).or_insert(said);
        }
    }
    if told.is_empty() {
        return Ok(());
    }
    let some: Vec<String> = told
        .iter()
        .take(3)
        .filter_map(|(i, said)| Some(format!("row {} {said}", scored.get(*i)?.id)))
        .collect();
    let more = if told.len() > some.len() { ", ..." } else { "" };
    let message = format!(
        "{} of {} that the run is scored on {} in what it learns from: {}{more}\n`tunebench data leaks` shows them; leave some out (`tunebench data exclude`), or go on all the same with --leaks allow",
        told.len(),
        counted(scored.len(), "row"),
        if told.len() == 1 { "stands" } else { "stand" },
        some.join("; "),
    );
    Err(Failure { leaks: true, ..bad_input(message) })
}
