//! Several answers to each row: the row stays the unit of noise, so each counts with the mean of its answers.

use std::collections::HashMap;

use super::metric::{Base, Metric, Prepared};
use super::{rows, text};
use crate::domain::outcome::Outcome;
use crate::pipeline::output::parse_json;

/// The outcomes of each row, in the order in which rows and samples come.
pub fn by_row<'a>(outcomes: &[&'a Outcome]) -> Vec<Vec<&'a Outcome>> {
    let mut place: HashMap<&str, usize> = HashMap::new();
    let mut rows: Vec<Vec<&Outcome>> = Vec::new();
    for outcome in outcomes {
        let at = *place.entry(outcome.row.as_str()).or_insert_with(|| {
            rows.push(Vec::new());
            rows.len() - 1
        });
        if let Some(row) = rows.get_mut(at) {
            row.push(outcome);
        }
    }
    for row in &mut rows {
        row.sort_by_key(|outcome| outcome.sample);
    }
    rows
}

/// How many rows there are.
pub fn count(outcomes: &[&Outcome]) -> usize {
    if single(outcomes) { outcomes.len() } else { by_row(outcomes).len() }
}

/// No row has more than its first answer.
fn single(outcomes: &[&Outcome]) -> bool {
    outcomes.iter().all(|o| o.sample == 0)
}

/// The metric's value on each row that has one: the mean over the row's answers, or what is said of them together.
pub fn values(metric: &Metric, outcomes: &[&Outcome]) -> Vec<f64> {
    let together: &dyn Fn(&[&Outcome]) -> Option<f64> = match (metric.entry.base, &metric.prepared) {
        (Base::PassAt, Prepared::Tries(k)) => &|row| {
            let right = rights(row);
            pass_at(*k as usize, right.len(), right.iter().filter(|r| **r).count())
        },
        (Base::Majority, prepared) => &|row| {
            let vote = match prepared {
                Prepared::Vote(primary) => Some(primary.entry.base),
                _ => None,
            };
            majority(row, vote).map(|right| f64::from(u8::from(right)))
        },
        (Base::RowVariance, _) => &|row| variance(&rights(row)),
        _ if single(outcomes) => return outcomes.iter().filter_map(|o| rows::value(metric, o)).collect(),
        _ => &|row| super::aggregate::mean(row.iter().filter_map(|o| rows::value(metric, o))),
    };
    by_row(outcomes).iter().filter_map(|row| together(row)).collect()
}

fn rights(row: &[&Outcome]) -> Vec<bool> {
    row.iter().filter_map(|o| o.correct).collect()
}

/// Chance that at least one of `k` answers is right, from `right` of `n`, without bias: `1 - C(n - right, k) / C(n, k)` (Chen et al. 2021,
/// Evaluating Large Language Models Trained on Code, equation 1). None where there are fewer than `k` answers.
pub fn pass_at(k: usize, n: usize, right: usize) -> Option<f64> {
    let wrong = n.checked_sub(right)?;
    if k == 0 || n < k {
        return None;
    }
    if wrong < k {
        return Some(1.0);
    }
    // C(wrong, k) / C(n, k) = product over i of 1 - k / i.
    Some(1.0 - (wrong + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

/// Whether the most frequent answer is right; of equally frequent ones the one that came first. Answers count as the same as the primary
/// metric (`vote`) sees them: the same number, the same normalized text, the same JSON, else the same text. Answers that failed do not vote.
/// None where none has a right or wrong.
pub fn majority(row: &[&Outcome], vote: Option<Base>) -> Option<bool> {
    if row.iter().all(|o| o.correct.is_none()) {
        return None;
    }
    let mut votes: Vec<(String, usize, Option<bool>)> = Vec::new();
    for outcome in row.iter().filter(|o| o.error.is_none()) {
        let key = ballot(&outcome.output, vote);
        match votes.iter_mut().find(|(other, ..)| *other == key) {
            Some((_, n, _)) => *n += 1,
            None => votes.push((key, 1, outcome.correct)),
        }
    }
    let most = votes.iter().map(|(_, n, _)| *n).max();
    let won = votes.iter().find(|(_, n, _)| Some(*n) == most);
    // No answer at all is wrong.
    won.map_or(Some(false), |(.., right)| *right)
}

fn ballot(output: &str, vote: Option<Base>) -> String {
    let number =
        || text::last_number(output).map(|n| format!("{}{}", n.value, if n.percent { "%" } else { "" }));
    match vote {
        Some(Base::Numeric) => number().unwrap_or_default(),
        Some(Base::Normalized) => text::normalize(output),
        _ => match parse_json(output) {
            // Without regard to the order of the keys.
            Some(mut value) => {
                value.sort_all_objects();
                value.to_string()
            }
            None => output.trim().to_owned(),
        },
    }
}

/// Variance of right (1) and wrong (0) within a row, without bias: `right wrong / (n (n - 1))`. None of fewer than two answers.
fn variance(right: &[bool]) -> Option<f64> {
    let n = right.len() as f64;
    let hits = right.iter().filter(|r| **r).count() as f64;
    (right.len() > 1).then(|| hits * (n - hits) / (n * (n - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(row: &str, all: &[(&str, bool)]) -> Vec<Outcome> {
        all.iter()
            .enumerate()
            .map(|(i, (output, right))| Outcome {
                row: row.into(),
                sample: i as u32,
                output: (*output).into(),
                correct: Some(*right),
                scores: [("accuracy".to_owned(), f64::from(u8::from(*right)))].into(),
                ..Outcome::default()
            })
            .collect()
    }

    fn of(name: &str, outcomes: &[Outcome]) -> Vec<f64> {
        values(&Metric::find(name).unwrap(), &outcomes.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_row_counts_once_with_the_mean_of_its_answers() {
        let mut all = answers("1", &[("x", true), ("y", false), ("x", true), ("x", true)]);
        all.extend(answers("2", &[("z", false), ("x", true)]));
        assert_eq!(of("accuracy", &all), [0.75, 0.5]);
        assert_eq!(count(&all.iter().collect::<Vec<_>>()), 2);
        assert_eq!(of("pass_at:1", &all), [0.75, 0.5]);
        assert_eq!(of("pass_at:2", &all), [1.0, 1.0]);
        assert_eq!(of("pass_at:3", &all), [1.0], "a row with fewer answers has no value");
        assert_eq!(of("majority", &all), [1.0, 0.0], "of two that are equally frequent the first");
        assert_eq!(of("row_variance", &all), [0.25, 0.5]);
    }

    #[test]
    fn votes_count_as_the_primary_metric_sees_them() {
        let all = answers("1", &[("no, 3", false), ("it is 5", true), ("5.0", true), ("no, 4", false)]);
        let row: Vec<&Outcome> = all.iter().collect();
        assert_eq!(majority(&row, Some(Base::Numeric)), Some(true));
        assert_eq!(majority(&row, None), Some(false));
        let all = answers("1", &[("b", false), ("{\"a\": 1, \"b\": 2}", true), ("{\"b\":2,\"a\":1}", true)]);
        assert_eq!(majority(&all.iter().collect::<Vec<_>>(), None), Some(true));
        let mut failed = answers("1", &[("", false), ("", false), ("x", true)]);
        failed[0].error = Some("gone".into());
        failed[1].error = Some("gone".into());
        assert_eq!(majority(&failed.iter().collect::<Vec<_>>(), None), Some(true));
    }

    /// By counting all subsets of size k.
    fn by_counting(k: usize, n: usize, right: usize) -> f64 {
        let choose = |n: usize, k: usize| (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
        if n - right < k { 1.0 } else { 1.0 - choose(n - right, k) / choose(n, k) }
    }

    proptest! {
        #[test]
        fn pass_at_k_is_the_share_of_subsets_with_a_right_answer(n in 1..30usize, right in 0..30usize, k in 1..30usize) {
            prop_assume!(right <= n);
            match pass_at(k, n, right) {
                None => prop_assert!(k > n),
                Some(p) => prop_assert!((p - by_counting(k, n, right)).abs() < 1e-9),
            }
        }
    }
}
