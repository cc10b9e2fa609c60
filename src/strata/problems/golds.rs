//! What golds show: the same input with another gold, rows without one, and golds that are likely wrong.
//!
//! A gold is likely wrong where a classifier that has not seen the row says so ([`HeldOut`]), and the best candidate's answer, where it has one
//! on a row that it did not learn from, does not speak for it. Its score is the probability that the gold was drawn by lot.

use std::collections::HashMap;

use rayon::prelude::*;

use super::held_out::LABELS;
use super::{HeldOut, Scan};

/// Golds that are wrong with at least this probability are doubted, where another label has at least this share of what speaks for any.
const LEAST: f64 = 0.5;
/// A candidate is believed that has so large a share of so many rows right.
const GOOD: f64 = 0.8;
const ENOUGH: usize = 30;
/// Fewer rows with gold teach nothing.
const LEAST_ROWS: usize = 50;
/// Labels that are not those of this many rows on average are no classes but texts.
const ROWS_A_LABEL: usize = 3;

const NONE: u32 = u32::MAX;

/// Why a gold is doubted.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Probability that the gold is wrong.
    pub sure: f64,
    /// The label that is likelier, what the classifier gives it and the gold.
    pub other: String,
    pub says: f64,
    pub own: f64,
    /// The candidate answers that label, too.
    pub candidate: bool,
    /// Nearest rows with that label, and those that have one.
    pub near: usize,
    pub of: usize,
}

/// What golds show of each row.
#[derive(Debug, Default)]
pub struct Golds {
    /// Label by row, numbers into `names`.
    labels: Vec<u32>,
    names: Vec<String>,
    conflicting: Vec<bool>,
    duplicate: Vec<bool>,
    doubts: HashMap<usize, Verdict>,
}

/// What a candidate did with a row: whether it is right, and its answer.
pub type Answered<'a> = (bool, &'a str);

/// What golds are looked at with.
pub struct Evidence<'a> {
    /// Gold of a row as it holds now; none where it has none, or the row is left out.
    pub gold: &'a (dyn Fn(usize) -> Option<&'a str> + Sync),
    /// The row is not left out.
    pub counts: &'a (dyn Fn(usize) -> bool + Sync),
    /// A person gave the gold: it is not doubted.
    pub vouched: &'a (dyn Fn(usize) -> bool + Sync),
    /// Nearest neighbours, nearest first.
    pub neighbours: &'a (dyn Fn(usize) -> Vec<u32> + Sync),
    /// What a classifier says; none where golds are no classes.
    pub held_out: Option<&'a HeldOut>,
    /// What the best candidate did with a row that it did not learn from.
    pub answered: &'a (dyn Fn(usize) -> Option<Answered<'a>> + Sync),
}

impl Golds {
    pub fn of(scan: &Scan, evidence: &Evidence<'_>) -> Self {
        let mut golds = Self { labels: vec![NONE; scan.len()], ..Self::default() };
        let mut known: HashMap<&str, u32> = HashMap::new();
        for at in 0..scan.len() {
            if let Some(gold) = (evidence.gold)(at).map(str::trim).filter(|gold| !super::empty(gold)) {
                let next = known.len() as u32;
                golds.labels[at] = *known.entry(gold).or_insert(next);
            }
        }
        let mut names = vec![String::new(); known.len()];
        for (name, at) in known {
            name.clone_into(&mut names[at as usize]);
        }
        golds.names = names;
        golds.copies(scan, evidence);
        if let Some(held_out) = evidence.held_out {
            golds.by_classifier(scan, evidence, held_out);
        }
        golds
    }

    /// Rows with the same input: those with the same gold are duplicates, those with golds apart are in conflict.
    fn copies(&mut self, scan: &Scan, evidence: &Evidence<'_>) {
        let n = scan.len();
        (self.conflicting, self.duplicate) = (vec![false; n], vec![false; n]);
        // (first row of the group, label, row)
        let mut members: Vec<(u32, u32, u32)> = (0..n)
            .filter(|at| (evidence.counts)(*at))
            .filter_map(|at| Some((scan.same(at)?, self.labels[at], at as u32)))
            .collect();
        members.par_sort_unstable();
        for group in members.chunk_by(|a, b| a.0 == b.0) {
            let labels = group.chunk_by(|a, b| a.1 == b.1).filter(|same| same[0].1 != NONE).count();
            for same in group.chunk_by(|a, b| a.1 == b.1) {
                for &(_, label, at) in same {
                    self.duplicate[at as usize] = same.len() > 1;
                    self.conflicting[at as usize] = labels > 1 && label != NONE;
                }
            }
        }
    }

    fn by_classifier(&mut self, scan: &Scan, evidence: &Evidence<'_>, held_out: &HeldOut) {
        let Some(fit) = held_out.fit.filter(super::held_out::Fit::tells) else { return };
        let (right, asked) = (0..scan.len())
            .filter(|at| self.labels[*at] != NONE)
            .filter_map(|at| (evidence.answered)(at))
            .fold((0usize, 0usize), |(right, n), (is, _)| (right + usize::from(is), n + 1));
        // One that is always right is so but for the next row: (right + 1) / (n + 2), Laplace's rule of succession.
        let share = (right + 1) as f64 / (asked + 2) as f64;
        let good = asked >= ENOUGH && share >= GOOD;
        let doubt = |at: usize| -> Option<(usize, Verdict)> {
            if self.labels[at] == NONE || (evidence.vouched)(at) {
                return None;
            }
            let told = held_out.told(at)?;
            let answer = (evidence.answered)(at).filter(|_| good).map(|(_, answer)| answer.trim());
            let gold = self.names.get(self.labels[at] as usize)?;
            let (sure, other, share_of_other) =
                told.doubt(&fit, answer.map(|answer| (answer, share)), gold)?;
            if sure < LEAST || share_of_other < LEAST {
                return None;
            }
            let near: Vec<u32> = (evidence.neighbours)(at)
                .into_iter()
                // A copy of the row says nothing that the row does not.
                .filter(|near| scan.same(at).is_none() || scan.same(at) != scan.same(*near as usize))
                .filter_map(|near| self.labels.get(near as usize).copied().filter(|label| *label != NONE))
                .collect();
            let is_other = |label: &&u32| self.names.get(**label as usize).is_some_and(|name| name == other);
            let says = told.others.iter().find(|(label, _)| label == other).map_or(0.0, |(_, p)| *p);
            let verdict = Verdict {
                sure,
                other: other.to_owned(),
                says: f64::from(says),
                own: f64::from(told.own),
                candidate: answer == Some(other),
                near: near.iter().filter(is_other).count(),
                of: near.len(),
            };
            Some((at, verdict))
        };
        self.doubts = (0..scan.len()).into_par_iter().filter_map(doubt).collect();
    }

    pub fn is_empty(&self, at: usize) -> bool {
        self.labels.get(at).is_none_or(|label| *label == NONE)
    }

    /// No row has a gold.
    pub const fn none(&self) -> bool {
        self.names.is_empty()
    }

    pub fn conflicting(&self, at: usize) -> bool {
        self.conflicting.get(at).is_some_and(|yes| *yes)
    }

    pub fn duplicate(&self, at: usize) -> bool {
        self.duplicate.get(at).is_some_and(|yes| *yes)
    }

    /// How surely the gold is wrong, and why.
    pub fn doubt(&self, at: usize) -> Option<&Verdict> {
        self.doubts.get(&at)
    }
}

/// The labels of rows, where golds are classes of enough rows: their names, and each row's place among them.
pub fn classes(n: usize, gold: &dyn Fn(usize) -> Option<String>) -> Option<(Vec<String>, Vec<Option<u32>>)> {
    let mut known: HashMap<String, u32> = HashMap::new();
    let mut labels = Vec::with_capacity(n);
    for at in 0..n {
        let label =
            gold(at).map(|gold| gold.trim().to_owned()).filter(|gold| !super::empty(gold)).map(|gold| {
                let next = known.len() as u32;
                *known.entry(gold).or_insert(next)
            });
        labels.push(label);
    }
    let labelled = labels.iter().flatten().count();
    let classes = (2..=LABELS).contains(&known.len())
        && known.len() * ROWS_A_LABEL <= labelled
        && labelled >= LEAST_ROWS;
    let mut names = vec![String::new(); known.len()];
    for (name, at) in known {
        names[at as usize] = name;
    }
    classes.then_some((names, labels))
}
