//! Rows that are drawn: by strata, by errors, by doubt; written, marked, trained on.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::bench::Bench;

fn ids(sample: &Value) -> Vec<String> {
    sample["rows"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

fn drawn(sample: &Value) -> Vec<(u64, u64)> {
    let strata = sample["strata"].as_array().unwrap().iter();
    strata.map(|s| (s["rows"].as_u64().unwrap(), s["drawn"].as_u64().unwrap())).collect()
}

#[test]
fn each_mode_draws_its_number_again_with_the_same_seed_and_says_why() {
    let bench = Bench::new();
    let refused = bench.run(&["data", "sample", "-n", "3"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("strata build"));
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let draw = |args: &[&str]| bench.json(&[&["data", "sample"], args].concat());

    let per = draw(&["-n", "2"]);
    assert!(drawn(&per).iter().all(|(rows, drawn)| *drawn == 2.min(*rows)), "{per}");
    assert_eq!(ids(&per), ids(&draw(&["--mode", "per-stratum", "-n", "2"])));
    assert_ne!(ids(&per), ids(&draw(&["-n", "2", "--seed", "8"])));
    let alias = bench.json(&["strata", "sample", "--per", "2"]);
    assert_eq!(alias["rows"], json!(ids(&per)), "one implementation");

    let part = draw(&["--mode", "proportional", "-n", "20"]);
    assert_eq!((part["total"].as_u64(), ids(&part).len()), (Some(20), 20));
    assert!(
        drawn(&part).iter().all(|(rows, drawn)| (*drawn as f64 - *rows as f64 / 3.0).abs() < 1.0),
        "{part}"
    );

    for mode in ["weak", "active"] {
        let sample = draw(&["--mode", mode, "-n", "15", "--where", "part:train"]);
        let once: BTreeSet<String> = ids(&sample).into_iter().collect();
        assert_eq!(once.len(), 15, "{mode}");
        assert_eq!(ids(&sample), ids(&draw(&["--mode", mode, "-n", "15", "--where", "part:train"])));
        let why = sample["rows"][0]["why"].as_str().unwrap();
        assert!(why.contains("stratum") || why.contains("unsure"), "{why}");
    }
    let all = draw(&["--mode", "weak", "-n", "500"]);
    assert_eq!(all["total"], 60, "there are no more");
    let bad = bench.run(&["data", "sample", "--mode", "odd", "-n", "3"]);
    assert!(bad.status.code() == Some(2) && String::from_utf8_lossy(&bad.stderr).contains("per-stratum"));
}

#[test]
fn a_sample_is_written_marked_and_trained_on() {
    let bench = Bench::new();
    assert!(bench.json(&["strata", "build"])["strata"].is_array());
    let out = bench.root.join("sample.jsonl");
    let sample = bench.json(&[
        "data",
        "sample",
        "--mode",
        "proportional",
        "-n",
        "12",
        "--where",
        "part:train",
        "--mark",
        "pilot",
        "--out",
        out.to_str().unwrap(),
    ]);
    let want: BTreeSet<String> = ids(&sample).into_iter().collect();
    let written: BTreeSet<String> = fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(written, want);
    let marked = bench.json(&["data", "rows", "--where", "mark:pilot", "-n", "100"]);
    assert_eq!(ids(&marked).into_iter().collect::<BTreeSet<_>>(), want);

    let trained = |args: &[&str]| -> (Value, BTreeSet<String>) {
        let all = [&["run", "train", "--set", "max_steps=2"], args].concat();
        let run = bench.json(&all)["run"].as_str().unwrap().to_owned();
        assert_eq!(bench.run_state(&run), "done");
        let rows =
            fs::read_to_string(bench.state().join("runs").join(&run).join("inputs/rows.jsonl")).unwrap();
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let train =
            rows.filter(|row| row["part"] == "train").map(|row| row["id"].as_str().unwrap().to_owned());
        let train = train.collect();
        (bench.record(&run), train)
    };
    let (record, rows) = trained(&["--where", "mark:pilot"]);
    assert_eq!(rows, want);
    assert_eq!(record["settings"][1], json!(["tuning.train.rows", "where:mark:pilot"]), "the record says so");
    let (_, rows) = trained(&["--sample", "proportional:7:3"]);
    assert_eq!(rows.len(), 7);
    let (_, half) = trained(&["--set", "rows=share:50%"]);
    let (_, quarter) = trained(&["--set", "rows=share:25%"]);
    assert!(quarter.is_subset(&half) && half.len().abs_diff(2 * quarter.len()) <= 1, "{half:?} {quarter:?}");

    let nothing = bench.run(&["run", "train", "--where", "mark:none"]);
    assert!(nothing.status.code() == Some(2), "{}", String::from_utf8_lossy(&nothing.stderr));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("leaves no row"));
    let wrong = bench.run(&["run", "eval", "--sample", "weak:3"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn strata_that_are_mastered_shrink_in_train_and_only_there() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let all: Vec<Value> = bench.json(&["data", "rows", "-n", "100"])["rows"].as_array().unwrap().clone();
    // Somebody who is right on all cards and wrong on all loans.
    let lines: String = all
        .iter()
        .map(|row| {
            format!("{}\n", json!({"id": row["id"], "output": "cards", "correct": row["gold"] == "cards"}))
        })
        .collect();
    let file = bench.root.join("other.jsonl");
    fs::write(&file, lines).unwrap();
    bench.json(&["outcomes", "import", file.to_str().unwrap(), "--candidate", "other"]);
    let weak = bench.json(&["data", "sample", "--mode", "weak", "-n", "12"]);
    for s in weak["strata"].as_array().unwrap() {
        assert!(s["scored"].as_u64().unwrap() > 0 && s["accuracy"].is_number(), "{s}");
    }
    let run = bench.json(&[
        "run",
        "train",
        "--set",
        "max_steps=1",
        "--set",
        "shrink_above=0.9",
        "--set",
        "shrink_to=0.25",
    ]);
    let spec = bench.state().join("runs").join(run["run"].as_str().unwrap()).join("spec.json");
    let spec: Value = serde_json::from_str(&fs::read_to_string(spec).unwrap()).unwrap();
    let weights = spec["job"]["train"]["weights"].as_object().cloned().unwrap_or_default();
    for s in weak["strata"].as_array().unwrap() {
        let (name, accuracy) = (s["stratum"].as_str().unwrap(), s["accuracy"].as_f64().unwrap());
        let mastered = accuracy > 0.9 && s["scored"].as_u64().unwrap() >= 10;
        assert_eq!(weights.get(name).and_then(Value::as_f64), mastered.then_some(0.25), "{s} {weights:?}");
    }
}

#[test]
fn a_scaling_curve_trains_on_nested_shares_and_says_what_its_rows_can_tell() {
    let bench = Bench::new();
    let short = bench.run(&["data", "scaling", "--shares", "50%,100%"]);
    assert_eq!(short.status.code(), Some(2));
    let none = bench.run(&["data", "scaling", "--show"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no curve has been drawn"));
    let found = bench.json(&["data", "scaling", "--set", "max_steps=3"]);
    let points = found["points"].as_array().unwrap();
    let rows: Vec<u64> = points.iter().map(|p| p["rows"].as_u64().unwrap()).collect();
    let all = bench.json(&["data", "rows", "--where", "part:train", "-n", "1"])["total"].as_u64().unwrap();
    assert_eq!(rows, [(all as f64 * 0.25).round() as u64, (all as f64 * 0.5).round() as u64, all], "{found}");
    assert_eq!(found["eval_rows"], bench.json(&["board"])["eval_rows"]);
    assert!(
        found["next"]["rows"].as_u64() == Some(2 * all) && found["law"]["exponent"].is_number(),
        "{found}"
    );
    assert!(found["words"].as_str().unwrap().contains("more"), "{found}");
    let train = |point: &Value| -> BTreeSet<String> {
        let path = bench.state().join("runs").join(point["run"].as_str().unwrap()).join("inputs/rows.jsonl");
        let rows = fs::read_to_string(path).unwrap();
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row["part"] == "train").map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert!(
        train(&points[0]).is_subset(&train(&points[1])) && train(&points[1]).is_subset(&train(&points[2]))
    );
    assert_eq!(bench.json(&["data", "scaling", "--show"]), found, "told again without training");
}
