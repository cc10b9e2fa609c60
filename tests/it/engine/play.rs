//! The playground through its command: the real worker answers.

use serde_json::Value;
use tunebench::domain::outcome::Outcome;
use tunebench::store::lines;

use super::bench::Bench;

fn answers(bench: &Bench, args: &[&str]) -> Vec<Value> {
    let mut all = vec!["play"];
    all.extend(args);
    let said = bench.json(&all);
    said["answers"].as_array().unwrap_or_else(|| panic!("{said}")).clone()
}

#[test]
fn the_playground_answers_as_an_evaluation_does_and_stays_for_the_next_question() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let outcomes = bench.state().join("runs/eval-1/outcomes.jsonl");
    let (outcomes, _) = lines::read_all::<Outcome>(&outcomes).unwrap();
    for outcome in &outcomes[..3] {
        let answers = answers(&bench, &["baseline", "--row", &outcome.row]);
        assert_eq!(
            (&answers[0]["output"], &answers[0]["error"]),
            (&outcome.output.as_str().into(), &Value::Null)
        );
        assert_eq!(answers[0]["gold"].as_str(), outcome.gold.as_deref());
        let stage = &answers[0]["stages"][0];
        assert_eq!(stage["tokens_in"], outcome.stages[0].tokens_in, "{stage}");
        assert!(stage["prompt"].as_str().unwrap().contains(" case "), "{stage}");
    }
    let runs = bench.json(&["runs"]);
    let playgrounds = runs["runs"].as_array().unwrap().iter().filter(|r| r["kind"] == "playground");
    assert_eq!(playgrounds.count(), 1, "one worker answered all: {runs}");
}

#[test]
fn two_candidates_answer_a_typed_input_and_a_dead_worker_is_replaced() {
    let bench = Bench::new();
    let trained = bench.json(&["run", "train", "--set", "max_steps=10"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let run = trained["run"].as_str().unwrap();
    let ask = || answers(&bench, &["baseline", run, "--input", "a new\ncase", "--max-tokens", "3"]);
    let before = ask();
    assert_eq!(before.len(), 2);
    assert!(
        before.iter().all(|a| {
            a["error"].is_null() && a["stages"][0]["prompt"].as_str().unwrap().contains("a new\ncase")
        }),
        "{before:?}"
    );
    bench.kill_worker("playground-1");
    let after = ask();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["output"], after["output"], "greedy answers are the same again");
    }
    assert!(bench.worker("playground-2").is_some());
}

#[test]
fn what_cannot_be_asked_is_refused_with_code_2() {
    let bench = Bench::new();
    for args in [
        &["play", "nobody", "--input", "x"][..],
        &["play", "--row", "r999"],
        &["play", "--input", " "],
        &["play"],
        &["play", "--input", "x", "--row", "r001"],
        &["play", "--input", "x", "--max-tokens", "0"],
        &["play", "--input", "x", "--temperature=-1"],
    ] {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}
