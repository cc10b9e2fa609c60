//! What golds show: the same input with another gold, rows without one, and golds that are likely wrong.
//!
//! A gold is likely wrong by confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
//! Labels", JAIR 70): of a row's nearest neighbours the share with label l is the estimate p(l) of a classifier that has not seen the row;
//! the threshold of l is the mean p(l) over the rows whose gold is l. A row whose gold is g counts as an l where l is the likeliest of the
//! labels whose share reaches their threshold, l is not g, and p(l) > p(g). Its score is p(l) - p(g), from 0 to 1.
//!
//! And by a candidate: where it answers a row wrong, but at least [`GOOD`] of the row's neighbours right, the gold is doubted with that
//! share as the score.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Scan;

/// A vote of fewer neighbours is none.
const LEAST: usize = 4;
/// A candidate is believed that has so large a share of the neighbours right.
const GOOD: f64 = 0.8;
/// Among fewer rows with gold the nearest are not near.
const LEAST_ROWS: usize = 50;
/// Labels that are not those of this many rows on average are no classes but texts, which no neighbour can vote on.
const ROWS_A_LABEL: usize = 3;

const NONE: u32 = u32::MAX;

/// Why a gold is doubted.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Of so many neighbours so many have the other label, and so many this one.
    Neighbours { other: String, votes: usize, own: usize, of: usize },
    /// The candidate's answer, and how many of the neighbours that it was asked it has right.
    Candidate { answer: String, right: usize, of: usize },
}

/// What golds show of each row.
#[derive(Debug, Default)]
pub struct Golds {
    /// Label by row, numbers into `names`.
    labels: Vec<u32>,
    names: Vec<String>,
    conflicting: Vec<bool>,
    duplicate: Vec<bool>,
    doubts: HashMap<usize, (f64, Verdict)>,
    /// Golds are classes of enough rows, and neighbours were asked.
    pub asked: bool,
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
    /// What a good candidate did.
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
        let labelled = golds.labels.iter().filter(|label| **label != NONE).count();
        let classes = golds.names.len() >= 2 && golds.names.len() * ROWS_A_LABEL <= labelled;
        golds.asked = classes && labelled >= LEAST_ROWS;
        if golds.asked {
            golds.by_neighbours(scan, evidence);
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

    fn by_neighbours(&mut self, scan: &Scan, evidence: &Evidence<'_>) {
        /// Labels with their votes, the most first; and neighbours that voted.
        type Votes = (Vec<(u32, usize)>, usize);
        let votes = |at: usize| -> Option<Votes> {
            (self.labels[at] != NONE).then_some(())?;
            let mut votes: Vec<(u32, usize)> = Vec::new();
            let mut of = 0;
            for other in (evidence.neighbours)(at) {
                let label = self.labels.get(other as usize).copied().unwrap_or(NONE);
                // A copy of the row says nothing that the row does not.
                if label == NONE || scan.same(at).is_some() && scan.same(at) == scan.same(other as usize) {
                    continue;
                }
                of += 1;
                match votes.iter_mut().find(|(of, _)| *of == label) {
                    Some((_, n)) => *n += 1,
                    None => votes.push((label, 1)),
                }
            }
            votes.sort_unstable_by_key(|(label, n)| (std::cmp::Reverse(*n), *label));
            (of >= LEAST).then_some((votes, of))
        };
        let all: Vec<Option<Votes>> = (0..scan.len()).into_par_iter().map(votes).collect();
        let share = |(votes, of): &Votes, label: u32| {
            votes.iter().find(|(l, _)| *l == label).map_or(0, |(_, n)| *n) as f64 / *of as f64
        };
        let mut sums = vec![(0.0, 0usize); self.names.len()];
        for (votes, label) in all.iter().zip(&self.labels) {
            if let (Some(votes), Some((sum, n))) = (votes, sums.get_mut(*label as usize)) {
                *sum += share(votes, *label);
                *n += 1;
            }
        }
        let threshold = |label: u32| {
            sums.get(label as usize).filter(|(_, n)| *n > 0).map_or(f64::INFINITY, |(sum, n)| sum / *n as f64)
        };
        let doubt = |at: usize| -> Option<(usize, (f64, Verdict))> {
            if (evidence.vouched)(at) {
                return None;
            }
            let votes = all.get(at)?.as_ref()?;
            let own = share(votes, self.labels[at]);
            let likeliest = votes.0.iter().find(|(label, _)| share(votes, *label) >= threshold(*label));
            let by_vote = likeliest.filter(|(label, _)| *label != self.labels[at]).and_then(|(label, n)| {
                let margin = share(votes, *label) - own;
                let other = self.names.get(*label as usize)?.clone();
                let own = (own * votes.1 as f64).round() as usize;
                (margin > 0.0).then_some((margin, Verdict::Neighbours { other, votes: *n, own, of: votes.1 }))
            });
            let by_candidate = || {
                let (right, answer) = (evidence.answered)(at)?;
                (!right).then_some(())?;
                let asked: Vec<bool> = (evidence.neighbours)(at)
                    .into_iter()
                    .filter_map(|other| (evidence.answered)(other as usize).map(|(right, _)| right))
                    .collect();
                let right = asked.iter().filter(|right| **right).count();
                let share = right as f64 / asked.len().max(1) as f64;
                let verdict = Verdict::Candidate { answer: answer.to_owned(), right, of: asked.len() };
                (asked.len() >= LEAST && share >= GOOD).then_some((share, verdict))
            };
            by_vote.or_else(by_candidate).map(|found| (at, found))
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
    pub fn doubt(&self, at: usize) -> Option<&(f64, Verdict)> {
        self.doubts.get(&at)
    }
}
