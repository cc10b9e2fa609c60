use super::super::aggregate::tests::{candidate, outcome};
use super::super::compare::{About, Side, compare};
use super::*;
use crate::domain::board::GoalResult;

/// One candidate: name, rung, prompt, and which of 200 rows are right.
type Made = (Candidate, Vec<Outcome>);

fn made(name: &str, rung: &str, prompt: &str, right: impl Fn(usize) -> bool) -> Made {
    let mut c = candidate(name);
    c.rung = rung.into();
    c.stages[0].prompt = prompt.into();
    let outcomes = (0..200).map(|i| outcome(&i.to_string(), "a", if right(i) { "a" } else { "b" }, true));
    (c, outcomes.collect())
}

fn climbed(all: &[Made], facts: Facts, goals: &[(&str, &str)]) -> Ladder {
    let rows: Vec<BoardRow> = all
        .iter()
        .map(|(c, outcomes)| {
            let right = outcomes.iter().filter(|o| o.correct == Some(true)).count();
            BoardRow {
                candidate: c.name.clone(),
                n: outcomes.len(),
                metrics: [("accuracy".to_owned(), right as f64 / outcomes.len().max(1) as f64)].into(),
                goals: goals
                    .iter()
                    .map(|(metric, state)| GoalResult {
                        metric: (*metric).into(),
                        want: String::new(),
                        why: None,
                        got: None,
                        state: (*state).into(),
                    })
                    .collect(),
                ..BoardRow::default()
            }
        })
        .collect();
    let entries: Vec<Entry<'_>> =
        rows.iter().zip(all).map(|(row, (candidate, _))| Entry { row, candidate }).collect();
    let primary = Metric::find("accuracy").unwrap();
    let side = |at: usize| Side { name: &all[at].0.name, outcomes: &all[at].1 };
    let part = std::collections::BTreeMap::new();
    let about = About { input: &|_| String::new(), group: None, part: &part, seed: 7, whole: false };
    let evidence = Evidence {
        outcomes: &|at| Some(all[at].1.clone()),
        held: &|a, b| Some(compare(side(a), side(b), &primary, &about)),
    };
    ladder(&entries, &primary, facts, &evidence)
}

const FACTS: Facts = Facts { eval_rows: 200, train_rows: 500 };

#[test]
fn every_rung_is_held_against_the_one_below_on_the_same_rows() {
    let all = [
        made("base", "baseline", "p1", |i| i % 2 == 0),
        made("better words", "baseline", "p2", |i| i % 2 == 0 || i < 60),
        made("worse words", "baseline", "p3", |i| i % 4 == 0),
        made("lora", "lora", "bare", |i| i % 10 != 0),
        made("elsewhere", "imported", "p1", |_| true),
    ];
    let got = climbed(&all, FACTS, &[]);
    let names: Vec<_> =
        got.rungs.iter().map(|r| (r.rung.as_str(), r.candidate.as_str(), r.candidates)).collect();
    assert_eq!(names, [("baseline", "base", 1), ("prompt", "better words", 2), ("lora", "lora", 1)]);
    let step = got.rungs[1].step.as_ref().unwrap();
    assert_eq!((step.over.as_str(), step.n, step.fixed, step.regressed), ("base", 200, 30, 0));
    assert!((step.delta - 0.15).abs() < 1e-12 && step.proven());
    assert_eq!(got.rungs[2].step.as_ref().unwrap().over, "better words");
    assert_eq!(
        (got.advice.verdict, got.advice.rung.as_deref()),
        (Verdict::Stay, Some("lora")),
        "the last one"
    );
}

#[test]
fn without_a_baseline_one_is_to_be_measured() {
    for all in [
        vec![],
        vec![made("elsewhere", "imported", "", |_| true)],
        vec![made("x", "no such rung", "", |_| true)],
    ] {
        let got = climbed(&all, FACTS, &[]);
        assert_eq!((got.rungs.len(), got.advice.verdict), (0, Verdict::Measure));
        assert_eq!(got.advice.run.as_deref(), Some("tunebench run eval"));
    }
    let mut few = made("base", "baseline", "p", |_| true);
    few.1.truncate(3);
    assert_eq!(climbed(&[few], FACTS, &[]).advice.verdict, Verdict::Measure, "3 rows of 200 are no baseline");
}

#[test]
fn prompts_that_still_fix_rows_say_stay_and_those_that_do_not_say_climb() {
    let base = || made("base", "baseline", "p1", |i| i % 2 == 0);
    let got = climbed(&[base()], FACTS, &[]).advice;
    assert_eq!((got.verdict, got.rung.as_deref()), (Verdict::Climb, Some("prompt")));

    let fixing = made("v2", "prompt", "p2", |i| i % 2 == 0 || i < 60);
    let got = climbed(&[base(), fixing.clone()], Facts { train_rows: 0, ..FACTS }, &[]).advice;
    assert_eq!((got.verdict, got.rung.as_deref()), (Verdict::Stay, Some("prompt")), "{:?}", got.reasons);
    assert!(got.reasons.iter().any(|r| r.text.contains("still fixes rows: 30 fixed, 0 regressed")));

    let levelled = made("v3", "prompt", "p3", |i| (i % 2 == 0 || i < 58) && i != 100);
    let got = climbed(&[base(), fixing, levelled], FACTS, &[]).advice;
    assert_eq!((got.verdict, got.rung.as_deref()), (Verdict::Climb, Some("lora")), "{:?}", got.reasons);
    assert_eq!(got.run.as_deref(), Some("tunebench run train"));
}

#[test]
fn a_step_that_is_not_proven_asks_for_more_rows() {
    let all = [
        made("base", "baseline", "p1", |i| i % 2 == 0),
        made("v2", "prompt", "p2", |i| i % 2 == 0 || i == 1),
    ];
    let got = climbed(&all, FACTS, &[]).advice;
    assert_eq!(got.verdict, Verdict::Measure);
    assert!(got.reasons[0].text.contains("5 more rows fixed would prove it"), "{}", got.reasons[0].text);
}

#[test]
fn examples_that_helped_speak_for_training() {
    let all = [
        made("base", "baseline", "p1", |i| i % 2 == 0),
        made("shots", "trajectory", "p1", |i| i % 2 == 0 || i < 60),
    ];
    let got = climbed(&all, FACTS, &[]).advice;
    assert_eq!((got.verdict, got.rung.as_deref()), (Verdict::Climb, Some("lora")), "{:?}", got.reasons);
    assert!(got.reasons.iter().any(|r| r.text.starts_with("examples in the prompt helped")));
}

#[test]
fn answers_that_cannot_be_read_say_mend_the_prompt() {
    let mut v2 = made("v2", "prompt", "p2", |i| i % 2 == 0 || i < 60);
    for o in v2.1.iter_mut().filter(|o| o.correct == Some(false)).take(30) {
        o.stages[0].format_ok = false;
    }
    let all = [made("base", "baseline", "p1", |i| i % 2 == 0), v2];
    let got = climbed(&all, FACTS, &[("usd_per_1k", "open")]).advice;
    assert!(
        got.reasons.iter().any(|r| r.text.starts_with("30 of 70 wrong rows could not be read")),
        "{:?}",
        got.reasons
    );
    assert_eq!(got.verdict, Verdict::Stay);
    assert!(got.reasons.iter().any(|r| r.text == "not measured: usd_per_1k"));
}

#[test]
fn goals_that_are_met_end_the_climb() {
    let got = climbed(&[made("base", "baseline", "p1", |_| true)], FACTS, &[("accuracy", "pass")]).advice;
    assert_eq!((got.verdict, got.rung, got.run), (Verdict::Done, None, None));
}
