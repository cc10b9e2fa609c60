//! The bundled planner: its data, and a run through its three stages, offline and without a terminal.

#[allow(dead_code)]
#[path = "../../examples/make_demo/planner.rs"]
mod generator;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::{lexicon, messages, random};
use serde_json::Value;
use tunebench::domain::tool::{Tool, check_call};

fn bundled() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/workspaces/planner"))
}

#[test]
fn the_committed_data_and_tools_are_what_the_generator_makes() {
    let words = lexicon::Lexicon::load().unwrap();
    let rows = generator::rows(&words, generator::ROWS);
    let again = "run `cargo run --release --example make_demo -- planner`";
    let committed = fs::read_to_string(bundled().join("data/messages.jsonl")).unwrap();
    assert!(generator::jsonl(&rows).unwrap() == committed, "{again}");
    assert!(committed.len() < 300_000);
    let mut tools = Vec::new();
    for (name, text) in generator::tools(&words).unwrap() {
        assert!(fs::read_to_string(bundled().join(name)).unwrap() == text, "{again}");
        tools.push(Tool::parse(&text).unwrap());
    }
    for row in &rows {
        assert!(row.call.is_null() || check_call(&tools, &row.call).is_ok(), "{row:?}");
    }
    let called: BTreeSet<&str> = rows.iter().filter_map(|r| r.call["name"].as_str()).collect();
    assert_eq!(called.into_iter().collect::<Vec<_>>(), ["block_item", "find_team"]);
    assert!(rows.iter().any(|r| r.call.is_null()), "some messages need no tool");
}

fn tunebench(root: &Path, args: &[&str]) -> Command {
    let tmp = root.parent().unwrap().join("tmp");
    fs::create_dir_all(&tmp).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunebench"));
    command.args(args).env("TMPDIR", tmp).env("TUNEBENCH_IDLE_SECS", "2");
    command
}

fn json(root: &Path, args: &[&str]) -> Value {
    let out = tunebench(root, args).args(["-C", root.to_str().unwrap(), "--json"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn the_planner_runs_offline_from_intent_over_tool_to_answer() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap().join("planner");
    // The copy that `demo --bundle planner` makes, without its screens.
    for (from, to) in [("workspaces/planner", root.clone()), ("workspaces/demo/model", root.join("model"))] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(from), &to);
    }
    assert_eq!(json(&root, &["check"])["problems"], Value::Array(Vec::new()));
    let first = json(&root, &["run", "eval"]);
    assert_eq!(first["state"], "done", "{first}");
    let metrics = &first["metrics"];
    for name in ["accuracy", "intent.accuracy", "plan.accuracy", "plan.right_tool", "format_error_rate"] {
        assert!(metrics[name].as_f64().is_some_and(|v| (0.0..=1.0).contains(&v)), "{name}: {metrics}");
    }
    assert!(metrics["intent.accuracy"].as_f64().unwrap() > 0.3, "the base knows problems by name: {metrics}");
    assert!(metrics["cached_rate"].as_f64().unwrap() < 0.05, "two rows may say the same: {metrics}");

    let board = json(&root, &["board"]);
    let row = &board["rows"][0];
    assert!(
        row["metrics"]["plan.right_tool"].is_number() && row["metrics"]["accuracy"].is_number(),
        "{board}"
    );

    // Every stage of a row, with what the tool answered.
    let run = first["run"].as_str().unwrap();
    let outcomes = fs::read_to_string(root.join(".tunebench/runs").join(run).join("outcomes.jsonl")).unwrap();
    let rows: Vec<Value> = outcomes.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let called =
        rows.iter().find(|r| r["stages"][1]["format_ok"] == true && r["stages"][1]["skipped"] != true);
    let id = called.expect("a valid call")["row"].as_str().unwrap();
    let trace = json(&root, &["runs", "trace", run, id]);
    assert_eq!(trace["row"], id);
    let stages: Vec<&str> =
        trace["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["intent", "plan", "answer"]);
    assert!(trace["stages"][1]["result"]["team"].is_string(), "{trace}");
    let desk = trace["stages"][1]["result"]["team"].as_str().unwrap();
    assert!(trace["stages"][2]["prompt"].as_str().unwrap().contains(&format!("Desk: {desk}")), "{trace}");

    // The same again costs nothing but the latency pass.
    let again = json(&root, &["run", "eval"]);
    assert!(again["metrics"]["cached_rate"].as_f64().unwrap() > 0.3, "{again}");
    assert_eq!(again["metrics"]["accuracy"], metrics["accuracy"]);
    let cache = json(&root, &["cache"]);
    assert!(cache["answers"].as_u64().unwrap() > 100 && cache["damaged"] == 0, "{cache}");
    let said =
        tunebench(&root, &["runs", "trace", run, "nobody", "-C", root.to_str().unwrap()]).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        // The model's folder is a link here; it is copied from where it is.
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
