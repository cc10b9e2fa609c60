//! Trajectory runs and stores of examples, through the binary.

use std::fs;

use serde_json::{Value, json};

use tunebench::domain::run::RunState;
use tunebench::worker::folder::RunFolder;

use super::bench::{Bench, until};

#[test]
fn a_trajectory_run_leaves_its_store_its_report_and_a_candidate() {
    let bench = Bench::new();
    let run = bench.json(&["run", "trajectory", "--set", "shots=1", "--set", "rows=12"]);
    assert_eq!(run["state"], "done", "{run}");
    assert!(run["metrics"]["accuracy"].is_number(), "scored on the eval part: {run}");
    assert!(run["metrics"]["calls"].as_f64().unwrap() >= 12.0, "{run}");
    let artifacts = bench.state().join("runs").join(run["run"].as_str().unwrap()).join("artifacts");
    let report: Value =
        serde_json::from_str(&fs::read_to_string(artifacts.join("trajectory.json")).unwrap()).unwrap();
    assert_eq!(report["looked_at"], 12);
    assert_eq!(report["searches"].as_array().unwrap().len() as u64, report["wrong"].as_u64().unwrap());
    assert!(artifacts.join("store.jsonl").exists());
    let list = bench.json(&["examples"]);
    assert_eq!(list["store"], run["run"], "{list}");
    let wrong = bench.run(&["run", "trajectory", "--set", "shots=0"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("tuning.trajectory.shots"));
}

#[test]
fn a_store_is_imported_searched_edited_exported_and_used_as_it_stands() {
    let bench = Bench::new();
    // Parts are given out by the first evaluation.
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let rows: Vec<Value> = {
        let spec: Value =
            serde_json::from_str(&fs::read_to_string(bench.state().join("runs/eval-1/spec.json")).unwrap())
                .unwrap();
        spec["rows"].as_array().unwrap().clone()
    };
    let scored = rows[0]["id"].as_str().unwrap();
    let number: usize = scored.trim_start_matches('r').parse().unwrap();
    let team = ["cards", "loans"][number / 2 % 2];
    let line = |input: String, answer: &str| {
        json!({ "stage": "route", "input": input, "answer": answer }).to_string()
    };
    let lines = [
        line("a card is lost".into(), "cards"),
        line("a loan is too dear".into(), "loans"),
        // A row that is scored on, or chosen on.
        line(format!("the {team} case {number}"), team),
    ];
    let file = bench.root.join("mine.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    let said = bench.json(&["examples", "import", file.to_str().unwrap(), "--name", "mine"]);
    let said = said["message"].as_str().unwrap();
    assert!(said.starts_with("2 examples") && said.contains("1 are left out"), "{said}");

    // Which of two texts is nearer tells nothing; the words that it shares do.
    let found = bench.json(&["examples", "--store", "mine", "search", "my card is lost", "--shots", "2"]);
    let hits = found["hits"].as_array().unwrap();
    let of = |answer: &str| hits.iter().find(|hit| hit[0]["answer"] == answer).expect("both are found");
    assert!(of("cards")[1]["bm25"].as_f64() > of("loans")[1]["bm25"].as_f64(), "{found}");
    let id = of("cards")[0]["id"].as_str().unwrap().to_owned();
    let used = |name: &str| {
        let set = format!("candidate={name}");
        bench.json(&["run", "eval", "--set", &set, "--set", "latency_rows=1"])
    };
    let first = used("baseline+mine");
    assert_eq!((&first["state"], &first["candidate"]), (&json!("done"), &json!("baseline-mine")), "{first}");
    let trace = bench.json(&["runs", "trace", first["run"].as_str().unwrap(), scored]);
    assert_eq!(trace["stages"][0]["examples"].as_array().map(Vec::len), Some(2), "{trace}");

    assert!(bench.run(&["examples", "--store", "mine", "disable", &id]).status.success());
    let second = used("baseline+mine");
    let trace = bench.json(&["runs", "trace", second["run"].as_str().unwrap(), scored]);
    assert_eq!(trace["stages"][0]["examples"].as_array().map(Vec::len), Some(1), "{trace}");
    assert_ne!(first["candidate"], second["candidate"], "another store is another candidate");
    // The first one is as it was, by its frozen store.
    let again = used(first["candidate"].as_str().unwrap());
    assert_eq!(again["candidate"], first["candidate"]);

    let out = bench.root.join("out.jsonl");
    let export = bench.json(&["examples", "--store", "mine", "export", out.to_str().unwrap()]);
    assert_eq!(export["examples"], 2);
    let lines: Vec<Value> =
        fs::read_to_string(&out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().filter(|e| e["enabled"] == false).count(), 1);
    // A file that is there stays, unless one says so.
    let precious = bench.root.join("precious.jsonl");
    fs::write(&precious, "mine").unwrap();
    let over = ["examples", "--store", "mine", "export", precious.to_str().unwrap()];
    let refused = bench.run(&over);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
    assert!(bench.run(&[&over[..], &["--force"]].concat()).status.success());
    assert_eq!(fs::read(&precious).unwrap(), fs::read(&out).unwrap());
    let missing = bench.run(&["examples", "--store", "nowhere"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_trajectory_run_that_is_killed_goes_on_and_pays_for_no_answer_twice() {
    let bench = Bench::new();
    let run = bench.launch("trajectory", &["shots=2", "rows=200"]);
    let folder = RunFolder::new(bench.state().join("runs").join(&run));
    let log = folder.artifacts().join("answers.jsonl");
    let answers = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let mut kills = 0;
    for _ in 0..3 {
        let before = answers();
        let ended = until("more answers", || {
            // From its files, without a command that takes longer than the run.
            let ended = folder.read_state().is_some_and(|s| s.state == RunState::Done);
            (ended || answers() > before).then_some(ended)
        });
        if ended {
            break;
        }
        bench.kill_worker(&run);
        let record = bench.wait_state(&run, "interrupted");
        assert_eq!(record["resumable"], true, "{record}");
        kills += 1;
        assert!(bench.run(&["runs", "resume", &run]).status.success());
    }
    assert!(kills > 0, "it was over before it could be killed");
    let record = bench.wait_state(&run, "done");
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What a killed worker had been answered and not yet kept comes from the cache the second time.
    let sum = |name: &str| lines.iter().map(|line| line[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(record["metrics"]["calls"].as_f64(), Some(sum("calls") as f64), "{record}");
    assert_eq!(sum("calls") + sum("cached"), lines.len() as u64);
    let mut keys: Vec<&str> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    let all = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), all, "nothing was asked twice");
}
