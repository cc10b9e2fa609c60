//! How far a judge and people agree: Cohen's kappa with its interval, leniency of each annotator, and where they part.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bootstrap;
use super::distributions::Z95;
use crate::domain::judge::{Agreement, Kappa, Leniency, Parting, PersonVerdict, Verdicts};
use crate::domain::words::counted;

/// Of the bootstrap behind each annotator's interval.
const ROUNDS: usize = 2_000;

/// Cohen's kappa of a square table of counts, with the large-sample variance of Fleiss, Cohen and Everitt (1969, Psychological Bulletin
/// 72:323-327). `squared`: disagreement weighs by the square of its distance (Cohen 1968). None where one verdict is all that both ever
/// give: chance alone would agree.
pub fn kappa(table: &[Vec<usize>], squared: bool) -> Option<Kappa> {
    let k = table.len();
    let total: usize = table.iter().flatten().sum();
    if total == 0 || k < 2 {
        return None;
    }
    let n = total as f64;
    let p =
        |i: usize, j: usize| table.get(i).and_then(|row| row.get(j)).map_or(0.0, |&count| count as f64 / n);
    let weight = |i: usize, j: usize| {
        if squared {
            let d = i.abs_diff(j) as f64 / (k - 1) as f64;
            1.0 - d * d
        } else {
            f64::from(u8::from(i == j))
        }
    };
    let sum = |of: &dyn Fn(usize) -> f64| (0..k).map(of).sum::<f64>();
    let rows: Vec<f64> = (0..k).map(|i| sum(&|j| p(i, j))).collect();
    let columns: Vec<f64> = (0..k).map(|j| sum(&|i| p(i, j))).collect();
    let observed = sum(&|i| sum(&|j| weight(i, j) * p(i, j)));
    let expected = sum(&|i| sum(&|j| weight(i, j) * rows[i] * columns[j]));
    let room = 1.0 - expected;
    if room <= 1e-12 {
        return None;
    }
    let value = (observed - expected) / room;
    let of_row: Vec<f64> = (0..k).map(|i| sum(&|j| weight(i, j) * columns[j])).collect();
    let of_column: Vec<f64> = (0..k).map(|j| sum(&|i| weight(i, j) * rows[i])).collect();
    let spread = sum(&|i| {
        sum(&|j| {
            let term = weight(i, j) * room - (of_row[i] + of_column[j]) * (1.0 - observed);
            p(i, j) * term * term
        })
    });
    let centre = observed * expected - 2.0 * expected + observed;
    let variance = (spread - centre * centre) / (n * room.powi(4));
    let half = Z95 * variance.max(0.0).sqrt();
    Some(Kappa { value, ci95: [(value - half).max(-1.0), (value + half).min(1.0)] })
}

/// An answer: row, its content, the answer's hash.
pub type Answer = (String, String, String);

/// What the judge is, and what it takes to trust it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub judge: &'a str,
    pub verdicts: &'a Verdicts,
    pub at_least: f64,
    pub people_at_least: usize,
}

/// One answer as people judged it.
struct Case<'a> {
    answer: Answer,
    /// Annotator and place of the verdict.
    people: Vec<(&'a str, usize)>,
    judge: Option<usize>,
}

impl Case<'_> {
    /// The verdict most people gave; none where several share the lead.
    fn majority(&self) -> Option<usize> {
        let mut counts = BTreeMap::<usize, usize>::new();
        for (_, place) in &self.people {
            *counts.entry(*place).or_default() += 1;
        }
        let most = counts.values().max()?;
        let mut leaders = counts.iter().filter(|(_, count)| *count == most);
        let first = leaders.next()?;
        leaders.next().is_none().then_some(*first.0)
    }
}

/// What most people say of each answer, where one verdict leads.
pub fn majorities(people: &[&PersonVerdict], verdicts: &Verdicts) -> BTreeMap<Answer, String> {
    let word = |case: Case<'_>| Some((case.answer.clone(), verdicts.words.get(case.majority()?)?.clone()));
    cases(people, verdicts, &HashMap::new()).into_iter().filter_map(word).collect()
}

fn cases<'a>(
    people: &[&'a PersonVerdict],
    verdicts: &Verdicts,
    machine: &HashMap<Answer, String>,
) -> Vec<Case<'a>> {
    let mut by_answer = BTreeMap::<Answer, Vec<(&str, usize)>>::new();
    for said in people {
        // Words of another rubric than the one that stands say nothing of it.
        let Some(place) = said.verdict.as_deref().and_then(|word| verdicts.place(word)) else { continue };
        let answer = (said.row.clone(), said.row_hash.clone(), said.output_hash.clone());
        by_answer.entry(answer).or_default().push((said.annotator.as_str(), place));
    }
    by_answer
        .into_iter()
        .map(|(answer, people)| {
            let judge = machine.get(&answer).and_then(|word| verdicts.place(word));
            Case { answer, people, judge }
        })
        .collect()
}

/// People's verdicts beside the judge's. `machine`: what the judge, as it stands, said of answers; `shown`: an answer's stratum and text.
pub fn agreement(
    asked: Asked<'_>,
    people: &[&PersonVerdict],
    machine: &HashMap<Answer, String>,
    shown: &dyn Fn(&Answer) -> (Option<String>, String),
) -> Agreement {
    let verdicts = asked.verdicts;
    let cases = cases(people, verdicts, machine);

    let k = verdicts.words.len();
    let mut table = vec![vec![0; k]; k];
    for case in &cases {
        if let (Some(judge), Some(people)) = (case.judge, case.majority()) {
            table[judge][people] += 1;
        }
    }
    let n = table.iter().flatten().sum();
    let (plain, weighted) = (kappa(&table, false), verdicts.scale.then(|| kappa(&table, true)).flatten());
    let mut partings: Vec<Parting> = cases.iter().filter_map(|case| parting(case, verdicts, shown)).collect();
    partings.truncate(Agreement::MAX_PARTINGS);
    let mut found = Agreement {
        judge: asked.judge.to_owned(),
        verdicts: verdicts.words.clone(),
        n,
        judged: cases.len(),
        without_judge: cases.iter().filter(|case| case.judge.is_none()).count(),
        split: cases.iter().filter(|case| case.majority().is_none()).count(),
        same: (0..k).map(|i| table[i][i]).sum(),
        kappa: plain,
        weighted,
        people: among_people(&cases, k, verdicts.scale),
        leniency: leniency(&cases, verdicts.right_from, asked.judge),
        partings,
        table,
        at_least: asked.at_least,
        people_at_least: asked.people_at_least,
        distrust: None,
    };
    found.distrust = distrust(&found, verdicts.scale);
    found
}

/// The rule: on enough answers, and a kappa with people (weighted, where the verdicts are a scale) that reaches what is asked for and is
/// above chance by its interval.
fn distrust(found: &Agreement, scale: bool) -> Option<String> {
    let asked = found.at_least;
    if found.n < found.people_at_least {
        return Some(format!(
            "people have judged {} with it, {} are asked for",
            counted(found.n, "answer"),
            found.people_at_least
        ));
    }
    let Some(kappa) = (if scale { found.weighted } else { found.kappa }) else {
        return Some("it and people only ever gave one verdict, which says nothing of how they agree".into());
    };
    let words = format!(
        "its kappa with people is {:.2} ({:.2} to {:.2}) on {}",
        kappa.value,
        kappa.ci95[0],
        kappa.ci95[1],
        counted(found.n, "answer")
    );
    if kappa.value < asked {
        return Some(format!("{words}, {asked} is asked for"));
    }
    // Exactly 0 is as good as chance, too.
    (kappa.ci95[0] <= 0.0).then(|| format!("{words}: it may be chance; judge more answers"))
}

fn parting(
    case: &Case<'_>,
    verdicts: &Verdicts,
    shown: &dyn Fn(&Answer) -> (Option<String>, String),
) -> Option<Parting> {
    let said = |place: &usize| verdicts.words.get(*place).cloned().unwrap_or_default();
    let everybody: BTreeSet<usize> = case.people.iter().map(|(_, place)| *place).chain(case.judge).collect();
    if everybody.len() < 2 {
        return None;
    }
    let (stratum, output) = shown(&case.answer);
    let (row, row_hash, output_hash) = &case.answer;
    Some(Parting {
        item: crate::domain::judge::item_id(row, row_hash, output_hash),
        row: row.clone(),
        stratum,
        output,
        judge: case.judge.as_ref().map(said),
        people: case.people.iter().map(|(who, place)| ((*who).to_owned(), said(place))).collect(),
    })
}

/// The two people with most answers in common.
fn among_people(cases: &[Case<'_>], k: usize, scale: bool) -> Option<(String, String, usize, Option<Kappa>)> {
    let mut tables = BTreeMap::<(&str, &str), Vec<Vec<usize>>>::new();
    for case in cases {
        let mut people = case.people.clone();
        people.sort_unstable();
        for (i, (a, place_a)) in people.iter().enumerate() {
            for (b, place_b) in &people[i + 1..] {
                tables.entry((a, b)).or_insert_with(|| vec![vec![0; k]; k])[*place_a][*place_b] += 1;
            }
        }
    }
    let count = |table: &Vec<Vec<usize>>| table.iter().flatten().sum::<usize>();
    let ((a, b), table) = tables.iter().max_by_key(|(_, table)| count(table))?;
    Some(((*a).to_owned(), (*b).to_owned(), count(table), kappa(table, scale)))
}

/// Each person, and the judge, against the others on the same answers. The judge is no measure of people: it is not among the others.
fn leniency(cases: &[Case<'_>], right_from: usize, judge: &str) -> Vec<Leniency> {
    let right = |place: usize| f64::from(u8::from(place >= right_from));
    let names: BTreeSet<&str> = cases.iter().flat_map(|c| c.people.iter().map(|(who, _)| *who)).collect();
    let beside = |who: &str, own: &dyn Fn(&Case<'_>) -> Option<usize>| {
        let mut pairs: Vec<(f64, f64)> = Vec::new();
        let mut all = 0;
        for case in cases {
            let Some(place) = own(case) else { continue };
            all += 1;
            let others: Vec<f64> =
                case.people.iter().filter(|(name, _)| *name != who).map(|(_, p)| right(*p)).collect();
            if !others.is_empty() {
                pairs.push((right(place), others.iter().sum::<f64>() / others.len() as f64));
            }
        }
        let n = pairs.len();
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n.max(1) as f64;
        let differences: Vec<f64> = pairs.iter().map(|(own, others)| own - others).collect();
        let boot = bootstrap::mean(&differences, ROUNDS, 0);
        Leniency {
            annotator: who.to_owned(),
            n,
            right: mean(&|pair| pair.0),
            others: mean(&|pair| pair.1),
            difference: boot.mean,
            ci95: boot.ci95,
            all,
        }
    };
    let mut found: Vec<Leniency> = names
        .iter()
        .map(|who| beside(who, &|case| case.people.iter().find(|(name, _)| name == who).map(|(_, p)| *p)))
        .collect();
    if cases.iter().any(|case| case.judge.is_some()) {
        // A name that no annotator can have: theirs have no space.
        found.push(beside(&format!("judge {judge}"), &|case| case.judge));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        name: String,
        table: Vec<Vec<usize>>,
        kappa: Option<[f64; 3]>,
        weighted: Option<[f64; 3]>,
    }

    #[test]
    fn kappa_and_its_interval_are_scikit_learns_and_statsmodels() {
        let text = include_str!("../../tests/fixtures/score/agreement.json");
        let cases: Vec<Reference> = serde_json::from_str(text).unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            for (squared, want) in [(false, case.kappa), (true, case.weighted)] {
                let got = kappa(&case.table, squared);
                let Some([value, low, high]) = want else {
                    assert_eq!(got, None, "{}", case.name);
                    continue;
                };
                let got = got.unwrap_or_else(|| panic!("{}", case.name));
                let want = [value, low.max(-1.0), high.min(1.0)];
                for (got, want) in [got.value, got.ci95[0], got.ci95[1]].into_iter().zip(want) {
                    assert!((got - want).abs() < 1e-9, "{}: {got} {want}", case.name);
                }
            }
        }
    }

    fn said(annotator: &str, row: usize, verdict: &str) -> PersonVerdict {
        PersonVerdict {
            judge: "j".into(),
            annotator: annotator.into(),
            row: format!("r{row}"),
            row_hash: "h".into(),
            output_hash: "o".into(),
            candidate: "c".into(),
            verdict: Some(verdict.into()),
        }
    }

    fn answer(row: usize) -> Answer {
        (format!("r{row}"), "h".into(), "o".into())
    }

    fn run(people: &[PersonVerdict], machine: &[(usize, &str)], at_least: f64, enough: usize) -> Agreement {
        let verdicts = Verdicts::new(["bad", "good"].map(String::from).to_vec());
        let machine = machine.iter().map(|(row, word)| (answer(*row), (*word).to_owned())).collect();
        let asked = Asked { judge: "j", verdicts: &verdicts, at_least, people_at_least: enough };
        agreement(asked, &people.iter().collect::<Vec<_>>(), &machine, &|a| {
            (None, format!("text of {}", a.0))
        })
    }

    fn word(good: bool) -> &'static str {
        if good { "good" } else { "bad" }
    }

    #[test]
    fn a_judge_is_trusted_only_on_enough_answers_and_above_what_is_asked_for() {
        let people: Vec<_> = (0..40).map(|i| said("ann", i, word(i % 2 == 0))).collect();
        let honest: Vec<_> = (0..40).map(|i| (i, word(i % 2 == 0 || i == 7))).collect();
        let good = run(&people, &honest, 0.6, 30);
        assert_eq!((good.n, good.same, good.trusted()), (40, 39, true), "{:?}", good.distrust);
        let few = run(&people[..20], &honest, 0.6, 30);
        assert!(few.distrust.unwrap().contains("20 answers with it, 30 are asked for"));
        let yes: Vec<_> = (0..40).map(|i| (i, "good")).collect();
        let lenient = run(&people, &yes, 0.6, 30);
        assert_eq!(lenient.kappa.unwrap().value, 0.0);
        assert!(lenient.distrust.unwrap().contains("kappa with people is 0.00"));
        let judge = lenient.leniency.iter().find(|l| l.annotator == "judge j").unwrap();
        assert_eq!((judge.right, judge.others, judge.n), (1.0, 0.5, 40));
        let all_good: Vec<_> = (0..40).map(|i| said("ann", i, "good")).collect();
        assert!(run(&all_good, &yes, 0.0, 30).distrust.unwrap().contains("only ever gave one verdict"));
        // Above what is asked for, but so few that it may be chance.
        let four = run(&people[..4], &[(0, "good"), (1, "bad"), (2, "good"), (3, "good")], 0.4, 2);
        assert!(four.distrust.unwrap().contains("may be chance"));
    }

    #[test]
    fn where_judge_and_people_part_is_listed_and_split_people_decide_nothing() {
        let people = [
            said("ann", 0, "good"),
            said("bob", 0, "good"),
            said("ann", 1, "bad"),
            said("bob", 1, "good"),
            said("ann", 2, "bad"),
            said("ann", 3, "other words"),
        ];
        let got = run(&people, &[(0, "bad"), (1, "good")], 0.6, 30);
        assert_eq!((got.judged, got.n, got.split, got.without_judge), (3, 1, 1, 1));
        let rows: Vec<_> = got.partings.iter().map(|p| (p.row.as_str(), p.judge.as_deref())).collect();
        assert_eq!(rows, [("r0", Some("bad")), ("r1", Some("good"))]);
        assert_eq!(got.partings[0].output, "text of r0");
        let (a, b, n, _) = got.people.unwrap();
        assert_eq!((a.as_str(), b.as_str(), n), ("ann", "bob", 2));
        let bob = got.leniency.iter().find(|l| l.annotator == "bob").unwrap();
        assert_eq!((bob.n, bob.right, bob.others, bob.difference), (2, 1.0, 0.5, 0.5));
    }

    proptest! {
        /// Kappa does not know who is the judge, and is 1 only where all agree.
        #[test]
        fn kappa_is_symmetric_and_at_most_one(counts in prop::collection::vec(0usize..9, 9)) {
            let table: Vec<Vec<usize>> = counts.chunks(3).map(<[usize]>::to_vec).collect();
            let turned: Vec<Vec<usize>> = (0..3).map(|j| (0..3).map(|i| table[i][j]).collect()).collect();
            for squared in [false, true] {
                match (kappa(&table, squared), kappa(&turned, squared)) {
                    (Some(a), Some(b)) => {
                        prop_assert!((a.value - b.value).abs() < 1e-9 && a.value <= 1.0 + 1e-12);
                        prop_assert!(a.ci95[0] <= a.value + 1e-12 && a.value <= a.ci95[1] + 1e-12);
                    }
                    (a, b) => prop_assert_eq!(a, b),
                }
            }
        }
    }
}
