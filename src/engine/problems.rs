//! What is wrong with the rows: found when somebody first asks, kept while the data stays as it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use serde_json::{Map, Value};

use super::rows::{self, Loaded, cut};
use super::standing::{self, Scored};
use super::state::{Engine, bad_input};
use super::{leaks, parts};
use crate::data::{Bits, Column, Of};
use crate::domain::api::{Decision, Failure, RowQuery};
use crate::domain::leak::{Leak, LeakKind};
use crate::domain::problem::{EXCLUDED, ProblemCount, ProblemKind, Problems, RowProblem};
use crate::domain::row::{Part, RunRow};
use crate::domain::settings::Likeness;
use crate::domain::words::counted;
use crate::strata::problems::golds::{self, Evidence};
use crate::strata::problems::neighbours;
use crate::strata::problems::{Golds, HeldOut, Limits, Scan, characters, personal};
use crate::tuning::check::Contexts;

/// Rows of one window at most.
const WINDOW: usize = 200;
/// Characters of all texts of a window, which must fit a frame; and of one text at most.
const TEXTS: usize = 70_000;
const TEXT: usize = 1500;
/// Odd things and pieces of personal data that are told of one text.
const TOLD: usize = 5;
/// Rows that are left out at once.
const AT_ONCE: usize = 20_000;

/// What was found of one state of the data, and of people's decisions.
#[derive(Debug)]
pub struct Found {
    scan: Scan,
    golds: Golds,
    /// What a classifier says of the golds, where they are classes.
    held_out: Option<HeldOut>,
    /// Rows that are nearly, and not exactly, like another that is not left out.
    near: Bits,
    /// First row and number of those of a group that are not left out, by the group's number.
    near_groups: HashMap<u32, (u32, usize)>,
    /// Rows with the same input that are not left out, by the first one.
    same_groups: HashMap<u32, Vec<u32>>,
    limits: Option<Contexts>,
    likeness: Likeness,
    golds_column: Option<Arc<Column>>,
    decided: HashMap<usize, String>,
    by: Option<String>,
    /// Of rows that are scored on.
    pub leaks: BTreeMap<usize, Vec<Leak>>,
}

/// Of the data as it stands.
pub fn found(engine: &Engine, loaded: &Arc<Loaded>) -> Result<Arc<Found>, Failure> {
    let mut kept = loaded.problems.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = &*kept {
        return Ok(found.clone());
    }
    let found = Arc::new(find(engine, loaded)?);
    *kept = Some(found.clone());
    Ok(found)
}

/// How far the pass under way is, of how much; none of none where there is none.
pub fn progress(engine: &Engine) -> (usize, usize) {
    *engine.looking.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells how far the pass is, until it is dropped.
struct Told<'a>(&'a Engine);

impl Told<'_> {
    fn tell(&self, done: usize, total: usize) {
        *self.0.looking.lock().unwrap_or_else(PoisonError::into_inner) = (done, total);
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.tell(0, 0);
    }
}

fn find(engine: &Engine, loaded: &Arc<Loaded>) -> Result<Found, Failure> {
    let data = &loaded.dataset;
    let wrong = |e| parts::data_error(&e);
    let likeness = loaded.ws.config.strata.duplicates;
    let limits = Contexts::of(&loaded.ws);
    // Reading the rows, holding them against each other, finding neighbours, classifying: each a quarter.
    let (n, told) = (data.len(), Told(engine));
    let limiting = limits.as_ref().map(|l| l as &dyn Limits);
    let scan = Scan::of(data, likeness, limiting, &|done| told.tell(done, 4 * n)).map_err(wrong)?;
    let decided: HashMap<usize, String> = engine.read(|s| {
        let gold = s.decisions.gold.iter();
        gold.filter_map(|(id, gold)| Some((data.find(id)?, gold.clone()))).collect()
    });
    let column = data.columns(&[Of::Gold]).map_err(wrong)?.pop();
    let near = neighbours::of(data, &|done| told.tell(2 * n + done, 4 * n)).map_err(wrong)?;
    // As they stand in the files: what people gave since is not doubted, and a few golds more change no classifier.
    let in_files = |at: usize| column.as_deref()?.get(at).map(str::to_owned);
    let held_out = match golds::classes(n, &in_files) {
        Some((names, labels)) => {
            let label = |at: usize| labels.get(at).copied().flatten();
            let told = |done| told.tell(3 * n + done, 4 * n);
            Some(HeldOut::of(data, &scan, &names, &label, &told).map_err(wrong)?)
        }
        None => None,
    };
    let (base, best) = standing::base_and_best(engine, loaded).unwrap_or_default();
    let by = best.or(base);
    let counts = |at: usize| !loaded.excluded.has(at);
    let golds = Golds::of(
        &scan,
        &Evidence {
            gold: &|at| gold_of(&decided, column.as_deref(), at).filter(|_| counts(at)),
            counts: &counts,
            vouched: &|at| decided.contains_key(&at),
            neighbours: &|at| neighbours::read(&near, at).into_iter().map(|(other, _)| other).collect(),
            held_out: held_out.as_ref(),
            answered: &|at| {
                // What it learned from it may know by heart.
                if loaded.parts.get(at).copied().flatten() == Some(Part::Train) {
                    return None;
                }
                let outcome = by.as_ref()?.outcome(data.id(at)).filter(|o| o.error.is_none())?;
                Some((outcome.correct?, outcome.output.as_str()))
            },
        },
    );
    let mut near_members: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut same_groups: HashMap<u32, Vec<u32>> = HashMap::new();
    for at in (0..scan.len()).filter(|at| counts(*at)) {
        if let Some(group) = scan.near(at) {
            near_members.entry(group).or_default().push(at as u32);
        }
        if let Some(group) = scan.same(at) {
            same_groups.entry(group).or_default().push(at as u32);
        }
    }
    let mut is_near = Bits::of(scan.len(), |_| false);
    let mut near_groups = HashMap::new();
    for (group, members) in near_members {
        // Copies of one row alone are duplicates, and no near ones.
        let text = |at: u32| scan.same(at as usize).unwrap_or(at);
        if let Some(&first) = members.first()
            && members.iter().any(|&at| text(at) != text(first))
        {
            for &at in &members {
                is_near.set(at as usize, true);
            }
            near_groups.insert(group, (first, members.len()));
        }
    }
    Ok(Found {
        scan,
        golds,
        held_out,
        near: is_near,
        near_groups,
        same_groups,
        limits,
        likeness,
        golds_column: column,
        decided,
        leaks: leaks::of(engine, loaded)?,
        by: by.map(|by: Arc<Scored>| by.candidate.name.clone()),
    })
}

fn gold_of<'a>(
    decided: &'a HashMap<usize, String>,
    column: Option<&'a Column>,
    at: usize,
) -> Option<&'a str> {
    decided.get(&at).map(String::as_str).or_else(|| column?.get(at))
}

impl Found {
    /// The row has this problem; one that is left out has none.
    pub fn has(&self, loaded: &Loaded, at: usize, kind: ProblemKind) -> bool {
        if loaded.excluded.has(at) {
            return false;
        }
        match kind {
            ProblemKind::ConflictingGold => self.golds.conflicting(at),
            ProblemKind::WrongGold => self.golds.doubt(at).is_some(),
            // Vectors alone are a suspicion.
            ProblemKind::Leak => self.leak(at).is_some_and(|leak| leak.how != LeakKind::Embedding),
            ProblemKind::ExactDuplicate => self.golds.duplicate(at),
            ProblemKind::NearDuplicate => self.near.has(at),
            ProblemKind::EmptyGold => !self.golds.none() && self.golds.is_empty(at),
            ProblemKind::EmptyInput
            | ProblemKind::TooLong
            | ProblemKind::Template
            | ProblemKind::OddCharacters
            | ProblemKind::Pii => self.scan.has(at, kind),
        }
    }

    /// The surest of a row.
    fn leak(&self, at: usize) -> Option<&Leak> {
        self.leaks.get(&at)?.first()
    }

    fn gold(&self, at: usize) -> Option<&str> {
        gold_of(&self.decided, self.golds_column.as_deref(), at)
    }

    /// The number of the row's group among rows of this kind.
    fn group(&self, at: usize, kind: ProblemKind) -> Option<u32> {
        match kind {
            ProblemKind::NearDuplicate => self.scan.near(at),
            ProblemKind::ExactDuplicate | ProblemKind::ConflictingGold => self.scan.same(at),
            _ => None,
        }
    }

    /// The row of its group that others are held against: the first; among exact duplicates the first with the same gold.
    fn first(&self, at: usize, kind: ProblemKind) -> Option<u32> {
        let group = self.group(at, kind)?;
        match kind {
            ProblemKind::NearDuplicate => self.near_groups.get(&group).map(|(first, _)| *first),
            ProblemKind::ExactDuplicate => {
                let members = self.same_groups.get(&group)?;
                members.iter().copied().find(|other| self.same_gold(at, *other as usize))
            }
            _ => self.same_groups.get(&group)?.first().copied(),
        }
    }

    fn same_gold(&self, a: usize, b: usize) -> bool {
        let gold = |at| self.gold(at).map(str::trim).unwrap_or_default();
        gold(a) == gold(b)
    }

    /// What people should know of how it was found.
    fn notes(&self, query: &RowQuery) -> Vec<String> {
        let Likeness { threshold, ngram } = self.likeness;
        let mut notes = vec![format!(
            "near duplicates: Jaccard likeness of {ngram}-grams of characters at least {threshold} ([strata] duplicates)"
        )];
        notes.push(match self.held_out.as_ref().and_then(|held_out| held_out.fit) {
            Some(fit) if fit.tells() => {
                let by = self.by.as_ref().map(|by| format!(", and by `{by}` where it has answered"));
                format!(
                    "wrong gold: by a classifier of the inputs on rows that it has not seen, right on {:.0}% of them{}; about {:.1}% of all golds look wrong",
                    100.0 * fit.accuracy,
                    by.unwrap_or_default(),
                    100.0 * fit.wrong()
                )
            }
            Some(fit) => format!(
                "wrong gold is not looked for: a classifier of the inputs has {:.0}% of the golds right, so that the inputs do not tell them",
                100.0 * fit.accuracy
            ),
            None => "wrong gold is not looked for: golds are no classes (2 to 1,000 labels, three rows a label and 50 rows at least)".into(),
        });
        if self.limits.is_none() {
            notes.push(
                "too long is not looked for: no stage has a model here whose tokens could be counted".into(),
            );
        }
        if !query.text.is_empty() {
            notes.push(format!("only rows that fit `{}`", query.text));
        }
        notes
    }
}

/// Counts of all kinds among the rows of a query, and rows of one kind.
pub fn problems(engine: &Engine, kind: Option<ProblemKind>, query: &RowQuery) -> Result<Problems, Failure> {
    let (loaded, places) = rows::places(engine, &RowQuery { offset: 0, count: 0, ..query.clone() })?;
    let found = found(engine, &loaded)?;
    let mut kinds = Vec::new();
    for kind in ProblemKind::ALL {
        let mine = || places.iter().filter(|at| found.has(&loaded, **at as usize, kind));
        let rows = mine().count();
        let groups = kind.in_groups().then(|| {
            let mut groups: Vec<u32> = mine().filter_map(|at| found.group(*at as usize, kind)).collect();
            groups.sort_unstable();
            groups.dedup();
            groups.len()
        });
        if rows > 0 {
            kinds.push(ProblemCount { kind, rows, groups });
        }
    }
    let mut of_kind: Vec<u32> = match kind {
        Some(kind) => places.iter().copied().filter(|at| found.has(&loaded, *at as usize, kind)).collect(),
        None => Vec::new(),
    };
    if let Some(kind) = kind {
        order(&found, kind, &mut of_kind);
    }
    let excluded = places.iter().filter(|at| loaded.excluded.has(**at as usize)).count();
    let from = query.offset.min(of_kind.len());
    let window = &of_kind[from..(from + query.count.min(WINDOW)).min(of_kind.len())];
    let room = (TEXTS / window.len().max(1)).min(TEXT);
    Ok(Problems {
        rows: places.len() - excluded,
        excluded,
        kinds,
        duplicates: found.likeness,
        notes: found.notes(query),
        total: of_kind.len(),
        offset: from,
        found: window.iter().filter_map(|at| Some(row(&loaded, &found, *at as usize, kind?, room))).collect(),
    })
}

/// The surest first; groups together; else as in the data.
fn order(found: &Found, kind: ProblemKind, places: &mut [u32]) {
    match kind {
        ProblemKind::WrongGold => {
            let score = |at: &u32| found.golds.doubt(*at as usize).map_or(0.0, |doubt| doubt.sure);
            places.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        }
        kind if kind.in_groups() => {
            places.sort_by_key(|at| (found.group(*at as usize, kind), found.first(*at as usize, kind), *at));
        }
        _ => {}
    }
}

/// `room`: characters of its texts.
fn row(loaded: &Loaded, found: &Found, at: usize, kind: ProblemKind, room: usize) -> RowProblem {
    let read = |at: usize| {
        let (text, in_file) = loaded.text(at);
        (text, found.decided.get(&at).cloned().or(in_file))
    };
    let short = |gold: String| cut(&gold, 100).into_owned();
    let (text, gold) = read(at);
    let first = found.first(at, kind);
    let other = first.filter(|first| *first as usize != at).map(|first| read(first as usize));
    let (other, like_gold) = other.map_or((None, None), |(text, gold)| (Some(text), gold));
    let score = match kind {
        ProblemKind::WrongGold => found.golds.doubt(at).map(|doubt| doubt.sure),
        ProblemKind::NearDuplicate => other.as_ref().map(|other| found.likeness.of(&text, other)),
        _ => None,
    };
    let leak = found.leak(at).filter(|_| kind == ProblemKind::Leak);
    RowProblem {
        id: loaded.dataset.id(at).to_owned(),
        reason: reason(loaded, found, at, kind, (&text, gold.as_deref()), score),
        score,
        text: cut(&text, room).into_owned(),
        gold: gold.map(short),
        part: loaded.parts.get(at).copied().flatten(),
        excluded: loaded.excluded.has(at),
        group: first
            .map(|first| loaded.dataset.id(first as usize).to_owned())
            .or_else(|| leak.map(|leak| leak.from_row.clone().unwrap_or_else(|| leak.from.clone()))),
        like: other
            .or_else(|| leak.map(|leak| leak.from_text.clone()))
            .map(|other| cut(&other, room).into_owned()),
        like_gold: like_gold.map(short),
    }
}

fn reason(
    loaded: &Loaded,
    found: &Found,
    at: usize,
    kind: ProblemKind,
    (text, gold): (&str, Option<&str>),
    score: Option<f64>,
) -> String {
    let id = |at: u32| loaded.dataset.id(at as usize);
    let fields = || loaded.dataset.row(at).map(|row| row.fields).unwrap_or_default();
    let short = |text: &str| cut(text, 60).into_owned();
    let first = found.first(at, kind);
    match kind {
        ProblemKind::EmptyInput => "the input says nothing".into(),
        ProblemKind::EmptyGold => "there is no gold".into(),
        ProblemKind::NearDuplicate => {
            let of = found.group(at, kind).and_then(|group| found.near_groups.get(&group));
            match (first, score) {
                (Some(first), Some(score)) => {
                    let (mine, other) = (found.gold(at), found.gold(first as usize));
                    let apart = match (mine, other) {
                        (Some(mine), Some(other)) if !found.same_gold(at, first as usize) => {
                            format!(", which has gold `{}` and not `{}`", short(other), short(mine))
                        }
                        _ => String::new(),
                    };
                    format!("{score:.2} like {}{apart}", id(first))
                }
                _ => format!("first of {} alike", of.map_or(0, |(_, rows)| *rows)),
            }
        }
        ProblemKind::ExactDuplicate => match first {
            Some(first) if first as usize != at => format!("the same as {}", id(first)),
            _ => "first of the same".into(),
        },
        ProblemKind::ConflictingGold => {
            let members = found.group(at, kind).and_then(|group| found.same_groups.get(&group));
            let other = members.into_iter().flatten().find(|other| {
                found.gold(**other as usize).is_some() && !found.same_gold(at, **other as usize)
            });
            let other = other.map(|other| {
                format!("{} has `{}`", id(*other), short(found.gold(*other as usize).unwrap_or_default()))
            });
            format!("has `{}`, {}", short(gold.unwrap_or_default()), other.unwrap_or_default())
        }
        ProblemKind::WrongGold => found.golds.doubt(at).map_or(String::new(), |doubt| {
            let by = found.by.as_deref().filter(|_| doubt.candidate);
            format!(
                "{:.0}% sure: a classifier that has not seen it says `{}` ({:.2}; its own {:.2}){}; {} of its {} nearest rows say so",
                (100.0 * doubt.sure).min(99.0),
                short(&doubt.other),
                doubt.says,
                doubt.own,
                by.map(|by| format!(", as does `{by}`")).unwrap_or_default(),
                doubt.near,
                doubt.of
            )
        }),
        ProblemKind::Leak => found
            .leak(at)
            .map(|leak| format!("{}: {} ({})", leak.how.name(), leak.from, leak.detail))
            .unwrap_or_default(),
        ProblemKind::TooLong => {
            let limits = found.limits.as_ref();
            limits.and_then(|limits| Limits::exceeded(limits, &fields(), text)).unwrap_or_default()
        }
        ProblemKind::Template => {
            let fields = fields();
            loaded
                .dataset
                .misfit(at, &fields)
                .or_else(|| loaded.dataset.resolved(at, &fields).err())
                .unwrap_or_default()
        }
        ProblemKind::OddCharacters => told(text, gold, |text| {
            characters::odd(text, TOLD).into_iter().map(|odd| (odd.what, odd.at)).collect()
        }),
        ProblemKind::Pii => told(text, gold, |text| {
            personal::personal(text, TOLD).into_iter().map(|p| (p.what.to_owned(), p.at)).collect()
        }),
    }
}

/// `e-mail address at character 12 of the input`, each kind with its places.
fn told(input: &str, gold: Option<&str>, find: impl Fn(&str) -> Vec<(String, usize)>) -> String {
    let mut lines = Vec::new();
    for (text, name) in [(Some(input), "input"), (gold, "gold")] {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (what, at) in text.map(&find).unwrap_or_default() {
            places.entry(what).or_default().push((at + 1).to_string());
        }
        let each = places.into_iter();
        lines.extend(each.map(|(what, at)| format!("{what} at character {} of the {name}", at.join(", "))));
    }
    lines.join("; ")
}

/// Leaves the rows of a query out, or takes them in again: a mark each, taken back as one. With `keep_first`, of each group of duplicates
/// the first one stays.
pub fn exclude(engine: &Engine, query: &RowQuery, keep_first: bool, on: bool) -> Result<Decision, Failure> {
    let (loaded, places) = rows::places(engine, &RowQuery { offset: 0, count: 0, ..query.clone() })?;
    let firsts = if keep_first { Some(found(engine, &loaded)?) } else { None };
    let stays = |at: usize| {
        firsts.as_ref().is_some_and(|found| {
            [ProblemKind::NearDuplicate, ProblemKind::ExactDuplicate]
                .into_iter()
                .find(|kind| found.has(&loaded, at, *kind))
                .is_none_or(|kind| found.first(at, kind) == Some(at as u32))
        })
    };
    let rows: Vec<usize> = places
        .iter()
        .map(|at| *at as usize)
        .filter(|at| loaded.excluded.has(*at) != on && !(on && stays(*at)))
        .collect();
    if rows.len() > AT_ONCE {
        return Err(bad_input(format!(
            "{} at once; at most {AT_ONCE} are decided on in one go, so narrow the filter down",
            counted(rows.len(), "row")
        )));
    }
    if rows.is_empty() {
        return Err(bad_input(if on { "no row to leave out fits" } else { "no row that is left out fits" }));
    }
    let marks = rows.into_iter().map(|at| Decision::Mark {
        row: loaded.dataset.id(at).to_owned(),
        mark: EXCLUDED.to_owned(),
        on,
    });
    Ok(Decision::Together { decisions: marks.collect() })
}

impl Limits for Contexts {
    fn key(&self) -> String {
        self.key.clone()
    }

    fn exceeded(&self, fields: &Map<String, Value>, input: &str) -> Option<String> {
        self.above(&RunRow {
            id: String::new(),
            hash: String::new(),
            part: None,
            stratum: None,
            fields: fields.clone(),
            input: input.to_owned(),
            turns: Vec::new(),
            gold: None,
        })
    }
}

#[cfg(test)]
mod tests;
