//! Rows beside the board's: those that once were fixed, and general-ability sets.

use std::fs;

use serde_json::{Value, json};

use super::bench::{Bench, until};
use crate::server::{Reply, Server, delta, end, usage};

fn with_set(bench: &Bench, set: &str) {
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        format!("{toml}\n[[set]]\nname = \"general\"\nsource = [\"data/general.jsonl\"]\n{set}\n"),
    )
    .unwrap();
}

fn general(bench: &Bench, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(bench.root.join("data/general.jsonl"), text).unwrap();
}

/// A model that calls everything `cards`, which half of the rows are.
fn with_cards(bench: &Bench) -> Server {
    let server = Server::start(vec![Reply::Events(vec![delta("cards"), end("stop"), usage(7, 3)])]);
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    let endpoint = server.endpoint();
    fs::write(&path, format!("{toml}\n[models.cards]\nendpoint = \"{endpoint}\"\nmodel = \"m\"\n")).unwrap();
    server
}

fn board_row(board: &Value, candidate: &str) -> Value {
    let found = board["rows"].as_array().unwrap().iter().find(|r| r["candidate"] == candidate);
    found.unwrap_or_else(|| panic!("{candidate}: {board}")).clone()
}

#[test]
fn a_set_is_evaluated_beside_the_rows_and_stands_apart() {
    let bench = Bench::new();
    general(&bench, &(0..5).map(|i| json!({ "q": format!("number {i}"), "a": "x" })).collect::<Vec<_>>());
    with_set(&bench, "input = \"{{ q }}\"\ngold = \"a\"\nmax_tokens = 2");
    assert_eq!(bench.json(&["check"])["problems"], json!([]));
    let result = bench.json(&["run", "eval"]);
    assert_eq!(result["state"], "done", "{result}");
    assert!(result["metrics"]["set.general"].is_number(), "{result}");
    let trained = bench.json(&["run", "train", "--set", "max_steps=10"]);
    assert!(trained["metrics"]["set.general"].is_number(), "{trained}");
    let board = bench.json(&["board"]);
    let base = board_row(&board, "baseline");
    assert_eq!(base["n"], board["eval_rows"], "the rows of the set are not among them");
    assert_eq!(
        (base["sets"]["general"]["n"].as_u64(), base["sets"]["general"]["base"].clone()),
        (Some(5), Value::Null)
    );
    let lora = board_row(&board, trained["candidate"].as_str().unwrap());
    assert_eq!(lora["sets"]["general"]["base"]["n"], 5, "{lora}");
    let shown = bench.run(&["board", "--sets"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("general: ") && shown.contains("right by exact"), "{shown}");
    // On demand only, and by name.
    let none = bench.json(&["run", "eval", "--set", "eval.sets=[]"]);
    assert!(none["metrics"]["set.general"].is_null(), "{none}");
    let said = bench.json(&["run", "eval", "--set", "eval.sets=genral"]);
    assert!(said["error"].as_str().unwrap().contains("did you mean `general`?"), "{said}");
}

#[test]
fn a_bad_row_of_a_set_is_told_with_its_line_by_check_and_by_a_launch() {
    let bench = Bench::new();
    general(&bench, &[json!({ "q": "1", "a": "x" }), json!({ "q": "2" })]);
    with_set(&bench, "input = \"{{ q }}\"\ngold = \"a\"");
    let checked = bench.json(&["check"]);
    let problem = &checked["problems"][0];
    assert_eq!(
        (problem["file"].as_str(), problem["line"].as_u64()),
        (Some("data/general.jsonl"), Some(2)),
        "{checked}"
    );
    let said = bench.json(&["run", "eval"]);
    assert!(said["error"].as_str().unwrap().contains("data/general.jsonl:2: "), "{said}");
}

#[test]
fn rows_that_were_fixed_are_kept_and_told_where_they_are_lost_again() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let _server = with_cards(&bench);
    let run = bench.json(&["run", "eval", "--model", "cards"]);
    assert_eq!(run["state"], "done", "{run}");
    let board = bench.json(&["board"]);
    let second = board_row(&board, run["candidate"].as_str().unwrap());
    let fixed =
        bench.json(&["compare", "baseline", run["candidate"].as_str().unwrap()])["fixed"].as_u64().unwrap();
    assert!(fixed > 0, "half of the rows are of cards: {second}");
    assert_eq!(
        (second["regression"]["kept"].as_u64(), second["regression"]["of"].as_u64()),
        (Some(fixed), Some(fixed))
    );
    let base = board_row(&board, "baseline");
    assert_eq!(
        (base["regression"]["kept"].as_u64(), base["regression"]["of"].as_u64()),
        (Some(0), Some(fixed))
    );
    let file = bench.state().join("regression.jsonl");
    let lines = || fs::read_to_string(&file).unwrap().lines().count() as u64;
    assert_eq!(lines(), fixed);
    // It outlives the engine, and grows no second time by the same.
    bench.kill_engine();
    bench.json(&["board"]);
    assert_eq!(lines(), fixed);
    let back = bench.json(&["compare", run["candidate"].as_str().unwrap(), "baseline"]);
    assert_eq!(back["regression"]["lost"].as_array().map(|l| l.len() as u64), Some(fixed), "{back}");
    let shown = bench.run(&["compare", run["candidate"].as_str().unwrap(), "baseline"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("are lost again in baseline"));
}

#[test]
fn what_was_fixed_is_noted_when_the_run_ends_though_nobody_looks() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let _server = with_cards(&bench);
    assert_eq!(bench.json(&["run", "eval", "--model", "cards"])["state"], "done");
    until("the set to be written", || bench.state().join("regression.jsonl").exists().then_some(()));
}
