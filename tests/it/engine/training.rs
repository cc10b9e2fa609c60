//! Training runs under way: steered, branched from, tested for a learning rate.

use std::fs;

use serde_json::json;
use tunebench::domain::event::EventBody;
use tunebench::domain::steer::Change;

use super::bench::{Bench, until};

fn evals(bench: &Bench, run: &str) -> Vec<(u64, f64)> {
    let eval =
        |e: EventBody| if let EventBody::Eval { step, loss, .. } = e { Some((step, loss?)) } else { None };
    bench.events(run).into_iter().filter_map(|e| eval(e.body)).collect()
}

/// Step and rate, in the order of the events.
fn rates(bench: &Bench, run: &str) -> Vec<(u64, f64)> {
    let rate = |e: EventBody| if let EventBody::Step { step, lr, .. } = e { Some((step, lr)) } else { None };
    bench.events(run).into_iter().filter_map(|e| rate(e.body)).collect()
}

fn changes(bench: &Bench, run: &str) -> Vec<(u64, Change)> {
    let change = |e: EventBody| {
        if let EventBody::Change { step, change, .. } = e { Some((step, change)) } else { None }
    };
    bench.events(run).into_iter().filter_map(|e| change(e.body)).collect()
}

#[test]
fn a_steered_run_keeps_its_changes_over_a_kill() {
    let bench = Bench::new();
    let run = bench.launch("train", &["max_steps=1000000", "epochs=100000", "schedule=constant", "warmup=0"]);
    bench.wait_steps(&run, 3);
    let strata = fs::read_to_string(bench.state().join("runs").join(&run).join("inputs/rows.jsonl")).unwrap();
    let row: serde_json::Value =
        serde_json::from_str(strata.lines().find(|l| l.contains("\"train\"")).unwrap()).unwrap();
    let weight = format!("weight:{}=3", row["stratum"].as_str().unwrap());
    assert!(bench.run(&["runs", "steer", &run, "learning_rate=x0.5", &weight]).status.success());
    until("the changes", || (changes(&bench, &run).len() == 2).then_some(()));
    let told = changes(&bench, &run);
    assert_eq!(told[0].1, Change::LearningRate(5e-4));
    let at = told[0].0;
    bench.wait_steps(&run, at + 3);
    bench.kill_worker(&run);
    bench.wait_state(&run, "interrupted");
    let before = rates(&bench, &run);
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    let last = before.last().unwrap().0;
    bench.wait_steps(&run, last + 5);
    for (step, rate) in rates(&bench, &run) {
        let want = if step < at { 1e-3 } else { 5e-4 };
        assert!((rate - want).abs() < 1e-12, "step {step}: {rate}");
    }
    assert_eq!(changes(&bench, &run), told, "nothing is changed twice");

    // Acknowledged, and its worker dies before it looks.
    assert!(bench.run(&["runs", "pause", &run]).status.success());
    bench.wait_state(&run, "paused");
    assert!(bench.run(&["runs", "steer", &run, "learning_rate=2e-4"]).status.success());
    bench.kill_worker(&run);
    bench.wait_state(&run, "interrupted");
    assert!(bench.run(&["runs", "steer", &run, "learning_rate=x0.5"]).status.success());
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    until("the changes", || (changes(&bench, &run).len() == told.len() + 2).then_some(()));
    let late: Vec<_> = changes(&bench, &run).into_iter().skip(told.len()).map(|c| c.1).collect();
    assert_eq!(late, [Change::LearningRate(2e-4), Change::LearningRate(1e-4)]);

    let code = |args: &[&str]| bench.run(args).status.code();
    assert_eq!(code(&["runs", "steer", &run, "rank=8"]), Some(2));
    assert_eq!(code(&["runs", "steer", &run, "weight:nobody=2"]), Some(2));
    assert_eq!(code(&["runs", "steer", &run]), Some(2));
    assert_eq!(code(&["runs", "stop", &run, "learning_rate=1"]), Some(2));
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");
    // It could be resumed, and would have the change then.
    let later = bench.run(&["runs", "steer", &run, "learning_rate=1e-4"]);
    assert!(String::from_utf8_lossy(&later.stdout).contains("when it is resumed"), "{later:?}");
}

#[test]
fn a_branch_begins_where_its_checkpoint_stood_and_outlives_it() {
    let bench = Bench::new();
    let parent =
        bench.json(&["run", "train", "--set", "max_steps=20", "--set", "eval_every=10", "--set", "rank=4"]);
    assert_eq!(parent["state"], "done", "{parent}");
    let set = ["--set", "learning_rate=1e-5", "--set", "max_steps=4"];
    let launched =
        bench.json(&[&["run", "train", "--from", "train-1@10", "--detach"][..], &set[..]].concat());
    let run = launched["run"].as_str().unwrap();
    fs::remove_dir_all(bench.state().join("runs/train-1/checkpoints")).unwrap();
    let record = bench.wait_state(run, "done");
    assert_eq!(record["from"], json!({ "run": "train-1", "step": 10 }));
    let settings = record["settings"].to_string();
    assert!(settings.contains("[\"rank\",\"4\"]") && settings.contains("1e-5"), "{settings}");
    let at = evals(&bench, "train-1").into_iter().find(|e| e.0 == 10).unwrap();
    let start = evals(&bench, run)[0];
    assert_eq!((start.0, start.1.to_bits()), (0, at.1.to_bits()), "the same model, bit for bit");
    assert!(bench.state().join("runs").join(run).join("inputs/start/optimizer.safetensors").exists());
    let shown = String::from_utf8(bench.run(&["runs", "show", run]).stdout).unwrap();
    assert!(shown.contains("train-1@10"), "{shown}");

    // From its best checkpoint, with the adapter merged and every weight trained.
    let full = bench.json(&["run", "train", "--from", run, "--set", "method=full", "--set", "max_steps=2"]);
    assert_eq!(full["state"], "done", "{full}");
    let best = bench.record(run)["metrics"]["eval_loss"].as_f64().unwrap();
    let start = evals(&bench, full["run"].as_str().unwrap())[0].1;
    assert!((start - best).abs() < 1e-4, "{start} {best}");

    for (from, set, says) in [
        ("train-9", "rank=4", "no run"),
        ("train-2@3", "rank=4", "it has:"),
        ("train-2", "rank=8", "keeps its rank"),
        ("strata-1", "rank=4", "no training run"),
    ] {
        let output = bench.run(&["run", "train", "--from", from, "--set", set]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{from}: {said}");
        assert!(said.contains(says), "{from}: {said}");
    }
    assert_eq!(bench.run(&["run", "eval", "--from", "train-1"]).status.code(), Some(2));
}

#[test]
fn a_range_test_suggests_a_rate_and_leaves_nothing_but_its_figures() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let board = bench.json(&["board"]);
    let result =
        bench.json(&["run", "lr-range", "--set", "steps=60", "--set", "rank=4", "--set", "epochs=3"]);
    assert_eq!(result["state"], "done", "{result}");
    assert!(result["candidate"].is_null(), "{result}");
    let suggested =
        result["metrics"]["suggested_learning_rate"].as_f64().unwrap_or_else(|| panic!("{result}"));
    assert!(suggested > 1e-6 && suggested < 1.0, "{result}");
    let rates = rates(&bench, "lr-range-1");
    assert!(rates.len() <= 60 && rates.windows(2).all(|w| w[1].1 > w[0].1), "{rates:?}");
    assert!((rates[0].1 - 1e-6).abs() < 1e-12);
    let dir = bench.state().join("runs/lr-range-1");
    assert!(!dir.join("checkpoints").exists());
    let names: Vec<_> =
        fs::read_dir(dir.join("artifacts")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["result.json"]);
    assert_eq!(bench.json(&["board"])["rows"], board["rows"], "the board does not know of it");
    assert_eq!(bench.run(&["run", "lr-range", "--set", "lr_min=2"]).status.code(), Some(2));
    assert_eq!(bench.run(&["run", "train", "--from", "lr-range-1"]).status.code(), Some(2));
}
