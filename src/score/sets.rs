//! Rows beside the board's: which rows were fixed, who keeps them, and who has forgotten what the baseline could.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::metric::Metric;
use super::rows;
use super::stats;
use crate::domain::metric::Direction;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::sets::{AgainstBase, Fixed, Kept, SetScore};

/// A candidate in the order of time.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub name: &'a str,
    pub outcomes: &'a [Outcome],
    /// The primary metric on the board.
    pub value: Option<f64>,
    /// A person gave it a name.
    pub named: bool,
    pub imported: bool,
}

/// A row at a content.
pub type Key = (String, String);

/// Rows of the eval and dev parts that were fixed and are not `known` yet.
///
/// The rule: candidates in the order in which they first were scored, imported ones left out. One is taken up when it is better by the
/// primary metric than every one before it (the first is not), or when a person gave it a name. A row that it has right and that any candidate
/// before it had wrong at the same content is fixed.
pub fn fixed(seen: &[Seen<'_>], direction: Direction, known: &HashSet<Key>, t_ms: u64) -> Vec<Fixed> {
    let mut best: Option<f64> = None;
    let mut wrong: HashMap<(&str, &str), &str> = HashMap::new();
    let mut found = Vec::new();
    let mut taken: HashSet<(&str, &str)> = HashSet::new();
    for (at, one) in seen.iter().filter(|one| !one.imported).enumerate() {
        let better = match (one.value, best) {
            (Some(value), Some(best)) => match direction {
                Direction::Higher => value > best,
                Direction::Lower => value < best,
            },
            (Some(_), None) => true,
            (None, _) => false,
        };
        let of_parts = || one.outcomes.iter().filter(|o| matches!(o.part, Some(Part::Eval | Part::Dev)));
        if at > 0 && (better || one.named) {
            for o in of_parts().filter(|o| o.correct == Some(true)) {
                let key = (o.row.as_str(), o.row_hash.as_str());
                let Some(before) = wrong.get(&key) else { continue };
                if !known.contains(&(o.row.clone(), o.row_hash.clone())) && taken.insert(key) {
                    found.push(Fixed {
                        t_ms,
                        row: o.row.clone(),
                        row_hash: o.row_hash.clone(),
                        part: o.part,
                        wrong: (*before).to_owned(),
                        right: one.name.to_owned(),
                    });
                }
            }
        }
        for o in of_parts().filter(|o| o.correct == Some(false)) {
            wrong.entry((&o.row, &o.row_hash)).or_insert(one.name);
        }
        if better {
            best = one.value;
        }
    }
    found
}

/// How a candidate does on the fixed rows. None where it answered none of them. Of several samples of a row all must be right.
pub fn kept(outcomes: &[Outcome], fixed: &HashSet<Key>) -> Option<Kept> {
    if fixed.is_empty() {
        return None;
    }
    let mut rows: BTreeMap<&str, bool> = BTreeMap::new();
    for o in outcomes {
        let Some(right) = o.correct else { continue };
        if fixed.contains(&(o.row.clone(), o.row_hash.clone())) {
            let all = rows.entry(&o.row).or_insert(true);
            *all = *all && right;
        }
    }
    let lost = || rows.iter().filter(|(_, right)| !**right).map(|(row, _)| (*row).to_owned());
    (!rows.is_empty()).then(|| Kept {
        kept: rows.len() - lost().count(),
        of: rows.len(),
        lost: lost().take(Kept::MOST).collect(),
    })
}

/// How a candidate does on a set, and beside the baseline.
pub fn score(metric: &Metric, outcomes: &[Outcome], base: Option<&[Outcome]>) -> SetScore {
    let right = |o: &Outcome| rows::value(metric, o).and_then(|value| metric.right(value));
    let own: HashMap<Key, bool> =
        outcomes.iter().filter_map(|o| Some(((o.row.clone(), o.row_hash.clone()), right(o)?))).collect();
    let against = base.map(|base| {
        let (mut against, mut fixed, mut regressed) = (AgainstBase::default(), 0, 0);
        let mut seen = HashSet::new();
        for o in base.iter().rev() {
            let key = (o.row.clone(), o.row_hash.clone());
            let (Some(was), Some(is)) = (right(o), own.get(&key)) else { continue };
            if !seen.insert(key) {
                continue;
            }
            against.n += 1;
            against.right += usize::from(*is);
            against.base_right += usize::from(was);
            fixed += usize::from(!was && *is);
            regressed += usize::from(was && !*is);
        }
        against.p_value = stats::mcnemar_exact(fixed, regressed);
        against
    });
    SetScore {
        metric: metric.name.clone(),
        right: own.values().filter(|right| **right).count(),
        n: own.len(),
        base: against.filter(|against| against.n > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcomes(right: &str) -> Vec<Outcome> {
        let one = |(i, c): (usize, char)| Outcome {
            row: format!("r{i}"),
            row_hash: "h".into(),
            part: Some(Part::Eval),
            correct: Some(c == '+'),
            scores: [("accuracy".to_owned(), f64::from(u8::from(c == '+')))].into(),
            ..Outcome::default()
        };
        right.chars().enumerate().filter(|(_, c)| *c != ' ').map(one).collect()
    }

    fn seen<'a>(name: &'a str, outcomes: &'a [Outcome], value: f64) -> Seen<'a> {
        Seen { name, outcomes, value: Some(value), named: false, imported: false }
    }

    fn rows(found: &[Fixed]) -> Vec<(&str, &str, &str)> {
        found.iter().map(|f| (f.row.as_str(), f.wrong.as_str(), f.right.as_str())).collect()
    }

    #[test]
    fn what_the_best_one_has_right_and_an_earlier_one_had_wrong_is_fixed() {
        let (base, worse, better) = (outcomes("+--+"), outcomes("-+--"), outcomes("++-+"));
        let all = [seen("base", &base, 0.5), seen("worse", &worse, 0.25), seen("better", &better, 0.75)];
        let none = HashSet::new();
        let found = fixed(&all, Direction::Higher, &none, 1);
        assert_eq!(
            rows(&found),
            [("r0", "worse", "better"), ("r1", "base", "better"), ("r3", "worse", "better")]
        );
        // Who is not better fixes nothing, unless a person took it up.
        assert_eq!(fixed(&all[..2], Direction::Higher, &none, 1), []);
        let named = [all[0], Seen { named: true, ..all[1] }];
        assert_eq!(rows(&fixed(&named, Direction::Higher, &none, 1)), [("r1", "base", "worse")]);
        let imported = [all[0], Seen { imported: true, ..all[2] }];
        assert_eq!(fixed(&imported, Direction::Higher, &none, 1), []);
        assert_eq!(rows(&fixed(&all[..2], Direction::Lower, &none, 1)), [("r1", "base", "worse")]);
        let known: HashSet<Key> = [("r1".to_owned(), "h".to_owned())].into();
        assert_eq!(fixed(&all, Direction::Higher, &known, 1).len(), 2);
    }

    #[test]
    fn rows_of_other_parts_and_of_another_content_are_not_fixed() {
        let base = outcomes("---");
        let mut better = outcomes("+++");
        better[0].row_hash = "edited".into();
        better[1].part = Some(Part::Train);
        better[2].part = Some(Part::Dev);
        let all = [seen("base", &base, 0.0), seen("better", &better, 1.0)];
        assert_eq!(rows(&fixed(&all, Direction::Higher, &HashSet::new(), 1)), [("r2", "base", "better")]);
    }

    #[test]
    fn a_candidate_keeps_what_it_has_right_of_what_it_answered() {
        let set: HashSet<Key> = ["r0", "r1", "r2", "r9"].map(|r| (r.to_owned(), "h".to_owned())).into();
        let got = kept(&outcomes("+- +"), &set).unwrap();
        assert_eq!((got.kept, got.of, got.lost), (1, 2, vec!["r1".to_owned()]));
        assert_eq!(kept(&outcomes("   +"), &set), None);
        assert_eq!(kept(&outcomes("+"), &HashSet::new()), None);
    }

    #[test]
    fn forgetting_is_told_by_the_paired_test() {
        let metric = Metric::find("accuracy").unwrap();
        let base = outcomes("++++++++++--");
        let some = score(&metric, &outcomes("+++++++++---"), Some(&base));
        assert_eq!((some.right, some.n, some.is_worse()), (9, 12, false));
        let most = score(&metric, &outcomes("+---------++"), Some(&base));
        let against = most.base.clone().unwrap();
        assert_eq!((against.n, against.right, against.base_right), (12, 3, 10));
        // 9 lost, 2 won: 2 * (1 + 11 + 55) / 2^11.
        assert!((against.p_value - 134.0 / 2048.0).abs() < 1e-12 && !most.is_worse());
        assert!(score(&metric, &outcomes("----------++"), Some(&base[..10])).is_worse());
        assert_eq!(score(&metric, &base, None).base, None);
    }

    proptest! {
        /// Candidate by candidate, as runs end, or all at once: the same set.
        #[test]
        fn the_set_grows_the_same_however_often_it_is_looked_at(all in prop::collection::vec("[+-]{6}", 1..8)) {
            let outcomes: Vec<Vec<Outcome>> = all.iter().map(|text| outcomes(text)).collect();
            let value = |text: &String| text.matches('+').count() as f64;
            let seen: Vec<Seen<'_>> = outcomes.iter().zip(&all).map(|(o, text)| seen("x", o, value(text))).collect();
            let key = |f: &Fixed| (f.row.clone(), f.row_hash.clone());
            let mut known = HashSet::new();
            for upto in 1..=seen.len() {
                let new: Vec<Key> = fixed(&seen[..upto], Direction::Higher, &known, 1).iter().map(key).collect();
                prop_assert!(new.iter().all(|k| !known.contains(k)));
                known.extend(new);
            }
            let once: HashSet<Key> = fixed(&seen, Direction::Higher, &HashSet::new(), 1).iter().map(key).collect();
            prop_assert_eq!(once, known);
        }
    }
}
