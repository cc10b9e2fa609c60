//! Classes: confusion, precision, recall, F1. Values equal scikit-learn's with `zero_division=0`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::domain::detail::ClassScore;

/// Golden class by answered class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Sorted; every class that is golden or was answered.
    pub labels: Vec<String>,
    /// `counts[gold][answer]`
    pub counts: Vec<Vec<usize>>,
    /// By golden class: rows whose answer could not be read as any class.
    pub unread: Vec<usize>,
}

impl Confusion {
    /// Count pairs of gold and answer; an answer of none could not be read, and counts against its gold only.
    pub fn count<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Self {
        let pairs: Vec<_> =
            pairs.into_iter().map(|(gold, answer)| (gold.trim(), answer.map(str::trim))).collect();
        let names: BTreeSet<&str> =
            pairs.iter().flat_map(|(gold, answer)| [Some(*gold), *answer]).flatten().collect();
        let place: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (*name, i)).collect();
        let mut counts = vec![vec![0; names.len()]; names.len()];
        let mut unread = vec![0; names.len()];
        for (gold, answer) in &pairs {
            match answer {
                Some(answer) => counts[place[gold]][place[answer]] += 1,
                None => unread[place[gold]] += 1,
            }
        }
        Self { labels: names.into_iter().map(str::to_owned).collect(), counts, unread }
    }

    /// Every class, in the order of `labels`.
    pub fn classes(&self) -> Vec<ClassScore> {
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        self.labels
            .iter()
            .enumerate()
            .map(|(i, label)| {
                let right = self.counts[i][i];
                let support = self.counts[i].iter().sum::<usize>() + self.unread[i];
                let answered = self.counts.iter().map(|row| row[i]).sum::<usize>();
                ClassScore {
                    label: label.clone(),
                    support,
                    answered,
                    right,
                    precision: share(right, answered),
                    recall: share(right, support),
                    // 2 tp / (2 tp + fp + fn)
                    f1: share(2 * right, answered + support),
                }
            })
            .collect()
    }

    /// One class.
    pub fn class(&self, label: &str) -> Option<ClassScore> {
        self.classes().into_iter().find(|class| class.label == label.trim())
    }

    /// Mean F1 of all classes; none of no rows.
    pub fn macro_f1(&self) -> Option<f64> {
        let classes = self.classes();
        (!classes.is_empty()).then(|| classes.iter().map(|c| c.f1).sum::<f64>() / classes.len() as f64)
    }

    /// Mean F1 weighted by support; none of no rows.
    pub fn weighted_f1(&self) -> Option<f64> {
        let classes = self.classes();
        let rows: usize = classes.iter().map(|c| c.support).sum();
        (rows > 0).then(|| classes.iter().map(|c| c.f1 * c.support as f64).sum::<f64>() / rows as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        gold: Vec<String>,
        answers: Vec<Option<String>>,
        labels: Vec<String>,
        confusion: Vec<Vec<usize>>,
        precision: Vec<f64>,
        recall: Vec<f64>,
        f1: Vec<f64>,
        support: Vec<usize>,
        macro_f1: f64,
        weighted_f1: f64,
        accuracy: f64,
    }

    #[test]
    fn figures_are_scikit_learns() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/score/labels.json")).unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let pairs = case.gold.iter().map(String::as_str).zip(case.answers.iter().map(Option::as_deref));
            let got = Confusion::count(pairs);
            assert_eq!(got.labels, case.labels, "{}", case.name);
            assert_eq!(got.counts, case.confusion, "{}", case.name);
            let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{}: {a} {b}", case.name);
            for (i, class) in got.classes().into_iter().enumerate() {
                near(class.precision, case.precision[i]);
                near(class.recall, case.recall[i]);
                near(class.f1, case.f1[i]);
                assert_eq!(class.support, case.support[i], "{}", case.name);
            }
            let right: usize = got.classes().iter().map(|c| c.right).sum();
            near(right as f64 / case.gold.len() as f64, case.accuracy);
            near(got.macro_f1().unwrap(), case.macro_f1);
            near(got.weighted_f1().unwrap(), case.weighted_f1);
        }
    }

    #[test]
    fn nothing_has_no_figures() {
        let none = Confusion::count([]);
        assert_eq!((none.macro_f1(), none.weighted_f1(), none.classes().len()), (None, None, 0));
    }
}
