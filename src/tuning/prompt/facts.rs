//! What the rows say of a stage: its gold on each row, its labels and the terms that go with each.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::candidate::{OutputKind, StageCandidate};
use crate::domain::row::RunRow;
use crate::strata::naming;

/// Rows whose terms are counted.
const ROWS: usize = 4_000;
/// More different answers are no labels.
const LABELS: usize = 100;

#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// By the row's place; of rows that may be learned from and of those that select, never of eval rows.
    pub gold: BTreeMap<usize, String>,
    pub labels: Vec<String>,
    /// Heaviest first.
    pub terms: BTreeMap<String, Vec<String>>,
}

impl Facts {
    /// `learn`: rows that may be learned from. `known`: those and the rows that select.
    pub fn of(
        stage: &StageCandidate,
        is_last: bool,
        rows: &[RunRow],
        learn: &[usize],
        known: &[usize],
    ) -> Self {
        let gold_of = |row: &RunRow| match &stage.gold {
            Some(_) => stage.own_gold(&row.fields),
            None if is_last => row.gold.clone(),
            None => None,
        };
        let gold: BTreeMap<usize, String> =
            known.iter().filter_map(|&at| Some((at, gold_of(rows.get(at)?)?))).collect();
        if stage.output != OutputKind::Label {
            return Self { gold, ..Self::default() };
        }
        let labels: Vec<String> = if stage.labels.is_empty() {
            let seen: BTreeSet<&String> = learn.iter().filter_map(|at| gold.get(at)).collect();
            seen.into_iter().take(LABELS + 1).cloned().collect()
        } else {
            stage.labels.clone()
        };
        if labels.len() > LABELS {
            return Self { gold, ..Self::default() };
        }
        let place: BTreeMap<&str, usize> = labels.iter().enumerate().map(|(i, l)| (l.as_str(), i)).collect();
        let (texts, assignment): (Vec<&str>, Vec<usize>) = learn
            .iter()
            .take(ROWS)
            .filter_map(|at| Some((rows.get(*at)?.input.as_str(), *place.get(gold.get(at)?.as_str())?)))
            .unzip();
        let named =
            if texts.is_empty() { Vec::new() } else { naming::name(&texts, &assignment, labels.len()) };
        let terms = labels.iter().cloned().zip(named.into_iter().map(|naming| naming.terms)).collect();
        Self { gold, labels, terms }
    }
}
