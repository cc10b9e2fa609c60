//! Rows beside the board's: which rows were fixed, who keeps them, and who has forgotten what the baseline could.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::metric::Metric;
use super::rows;
use super::stats;
use crate::domain::metric::Direction;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;
use crate::domain::sets::{AgainstBase, Kept, SetScore};

/// What is right and what is wrong of a candidate, in little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of the row at its content: [`key`].
    pub key: u64,
    pub right: bool,
    /// On the eval or the dev part.
    pub counts: bool,
}

/// A row at a content, as the beginning of a hash.
pub fn key(row: &str, row_hash: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(row.as_bytes()).update(b"\0").update(row_hash.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// The marks of outcomes. A row that was answered several times is right where all of its answers are.
pub fn marks(outcomes: &[Outcome]) -> Vec<Mark> {
    marks_of(outcomes.iter().map(|o| (o.row.as_str(), o.row_hash.as_str(), o.part, o.correct)))
}

/// By id, content hash, part, and whether the answer was right.
pub fn marks_of<'a>(
    outcomes: impl Iterator<Item = (&'a str, &'a str, Option<Part>, Option<bool>)>,
) -> Vec<Mark> {
    let mut all: BTreeMap<u64, Mark> = BTreeMap::new();
    for (row, row_hash, part, right) in outcomes {
        let Some(right) = right else { continue };
        let key = key(row, row_hash);
        let counts = matches!(part, Some(Part::Eval | Part::Dev));
        let mark = all.entry(key).or_insert(Mark { key, right: true, counts });
        mark.right = mark.right && right;
    }
    all.into_values().collect()
}

/// A candidate in the order of time.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub marks: &'a [Mark],
    /// The primary metric on the board.
    pub value: Option<f64>,
    /// A person gave it a name.
    pub named: bool,
    pub imported: bool,
}

/// A row that was fixed: who had it wrong first, and who had it right, by their places.
pub type Fix = (u64, usize, usize);

/// Rows of the eval and dev parts that were fixed and are not `known` yet.
///
/// The rule: candidates in the order in which they first were scored, imported ones left out. One is taken up when it is better by the
/// primary metric than every one before it (the first is not), or when a person gave it a name. A row that it has right and that any candidate
/// before it had wrong at the same content is fixed.
pub fn fixed(seen: &[Seen<'_>], direction: Direction, known: &HashSet<u64>) -> Vec<Fix> {
    let mut best: Option<f64> = None;
    let mut wrong: HashMap<u64, usize> = HashMap::new();
    let mut found = Vec::new();
    let mut taken: HashSet<u64> = HashSet::new();
    let own = seen.iter().enumerate().filter(|(_, one)| !one.imported);
    for (nth, (at, one)) in own.enumerate() {
        let better = match (one.value, best) {
            (Some(value), Some(best)) => match direction {
                Direction::Higher => value > best,
                Direction::Lower => value < best,
            },
            (Some(_), None) => true,
            (None, _) => false,
        };
        let of_parts = || one.marks.iter().filter(|mark| mark.counts);
        if nth > 0 && (better || one.named) {
            for mark in of_parts().filter(|mark| mark.right) {
                let Some(before) = wrong.get(&mark.key) else { continue };
                if !known.contains(&mark.key) && taken.insert(mark.key) {
                    found.push((mark.key, *before, at));
                }
            }
        }
        for mark in of_parts().filter(|mark| !mark.right) {
            wrong.entry(mark.key).or_insert(at);
        }
        if better {
            best = one.value;
        }
    }
    found
}

/// How a candidate does on the fixed rows, whose names are `fixed`. None where it answered none of them.
pub fn kept(marks: &[Mark], fixed: &HashMap<u64, String>, most: usize) -> Option<Kept> {
    let mut kept = Kept::default();
    for mark in marks {
        let Some(row) = fixed.get(&mark.key) else { continue };
        kept.of += 1;
        if mark.right {
            kept.kept += 1;
        } else {
            kept.lost.push(row.clone());
        }
    }
    kept.lost.sort_unstable();
    kept.lost.truncate(most);
    (kept.of > 0).then_some(kept)
}

/// How a candidate does on a set, and beside the baseline.
pub fn score(metric: &Metric, outcomes: &[Outcome], base: Option<&[Outcome]>) -> SetScore {
    let right = |o: &Outcome| rows::value(metric, o).and_then(|value| metric.right(value));
    let own: HashMap<(&str, &str), bool> =
        outcomes.iter().filter_map(|o| Some(((o.row.as_str(), o.row_hash.as_str()), right(o)?))).collect();
    let against = base.map(|base| {
        let (mut against, mut fixed, mut regressed) = (AgainstBase::default(), 0, 0);
        let mut seen = HashSet::new();
        for o in base.iter().rev() {
            let key = (o.row.as_str(), o.row_hash.as_str());
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

    /// Right, wrong, and not answered: `+`, `-`, ` `; the keys are the places.
    fn marked(text: &str) -> Vec<Mark> {
        let one = |(i, c): (usize, char)| Mark { key: i as u64, right: c == '+', counts: true };
        text.chars().enumerate().filter(|(_, c)| *c != ' ').map(one).collect()
    }

    fn seen(marks: &[Mark], value: f64) -> Seen<'_> {
        Seen { marks, value: Some(value), named: false, imported: false }
    }

    #[test]
    fn what_the_best_one_has_right_and_an_earlier_one_had_wrong_is_fixed() {
        let (base, worse, better) = (marked("+--+"), marked("-+--"), marked("++-+"));
        let all = [seen(&base, 0.5), seen(&worse, 0.25), seen(&better, 0.75)];
        let none = HashSet::new();
        assert_eq!(fixed(&all, Direction::Higher, &none), [(0, 1, 2), (1, 0, 2), (3, 1, 2)]);
        // Who is not better fixes nothing, unless a person took it up.
        assert_eq!(fixed(&all[..2], Direction::Higher, &none), []);
        assert_eq!(fixed(&[all[0], Seen { named: true, ..all[1] }], Direction::Higher, &none), [(1, 0, 1)]);
        assert_eq!(fixed(&[all[0], Seen { imported: true, ..all[2] }], Direction::Higher, &none), []);
        assert_eq!(fixed(&all[..2], Direction::Lower, &none), [(1, 0, 1)]);
        assert_eq!(fixed(&all, Direction::Higher, &[1].into()).len(), 2);
        let train = [Mark { counts: false, ..better[1] }];
        assert_eq!(fixed(&[all[0], seen(&train, 1.0)], Direction::Higher, &none), []);
    }

    #[test]
    fn marks_tell_content_part_and_repeats_apart() {
        let mut all = outcomes("++");
        all[1].row = "r0".into();
        all[1].correct = Some(false);
        assert_eq!(marks(&all), [Mark { key: key("r0", "h"), right: false, counts: true }]);
        all[1].row_hash = "edited".into();
        all[0].part = Some(Part::Reserve);
        let told: Vec<_> = marks(&all).iter().map(|m| (m.key == key("r0", "h"), m.right, m.counts)).collect();
        assert!(
            told.len() == 2 && told.contains(&(true, true, false)) && told.contains(&(false, false, true))
        );
        assert_ne!(key("a", "bc"), key("ab", "c"));
    }

    #[test]
    fn a_candidate_keeps_what_it_has_right_of_what_it_answered() {
        let set: HashMap<u64, String> = [0, 1, 2, 9].map(|r| (r, format!("r{r}"))).into();
        let got = kept(&marked("+- +"), &set, 9).unwrap();
        assert_eq!((got.kept, got.of, got.lost), (1, 2, vec!["r1".to_owned()]));
        assert_eq!(kept(&marked("   +"), &set, 9), None);
        assert_eq!(kept(&marked("---"), &set, 2).unwrap().lost, ["r0", "r1"]);
        assert_eq!(kept(&marked("+"), &HashMap::new(), 9), None);
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
            let marks: Vec<Vec<Mark>> = all.iter().map(|text| marked(text)).collect();
            let value = |text: &String| text.matches('+').count() as f64;
            let seen: Vec<Seen<'_>> = marks.iter().zip(&all).map(|(m, text)| seen(m, value(text))).collect();
            let mut known = HashSet::new();
            for upto in 1..=seen.len() {
                let new: Vec<u64> = fixed(&seen[..upto], Direction::Higher, &known).iter().map(|f| f.0).collect();
                prop_assert!(new.iter().all(|k| !known.contains(k)));
                known.extend(new);
            }
            let once: HashSet<u64> = fixed(&seen, Direction::Higher, &HashSet::new()).iter().map(|f| f.0).collect();
            prop_assert_eq!(once, known);
        }
    }
}
