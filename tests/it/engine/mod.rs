//! Engine, worker and client as processes: killed, cut off, lied to.

pub mod bench;
mod frames;
mod kills;
mod training;

use std::fs;

use bench::{Bench, until};

#[test]
fn an_evaluation_puts_the_baseline_on_the_board() {
    let bench = Bench::new();
    let result = bench.json(&["run", "eval"]);
    assert_eq!(result["state"], "done", "{result}");
    assert_eq!(result["candidate"], "baseline");
    assert!(result["metrics"]["accuracy"].is_number(), "{result}");
    let board = bench.json(&["board"]);
    let row = &board["rows"][0];
    assert_eq!(row["candidate"], "baseline");
    assert_eq!(row["run"], result["run"]);
    assert_eq!(row["n"], board["eval_rows"]);
    assert!(row["n"].as_u64().unwrap() > 5, "{board}");
}

#[test]
fn a_trained_candidate_is_compared_with_the_baseline_on_the_same_rows() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let trained = bench.json(&["run", "train", "--set", "max_steps=20"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let comparison = bench.json(&["compare", "baseline", trained["run"].as_str().unwrap()]);
    let board = bench.json(&["board"]);
    assert_eq!(comparison["n"], board["eval_rows"], "{comparison}");
    let rungs: Vec<&str> =
        board["rows"].as_array().unwrap().iter().map(|r| r["rung"].as_str().unwrap()).collect();
    assert_eq!(rungs, ["baseline", "lora"]);
    // A checkpoint's candidate can be evaluated by itself.
    let run = trained["run"].as_str().unwrap();
    let at = bench.json(&["run", "eval", "--set", &format!("candidate={run}@10")]);
    assert_eq!(at["candidate"], format!("{run}@10"), "{at}");
}

#[test]
fn parts_stay_with_their_rows_when_rows_are_added() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let parts = || -> std::collections::BTreeMap<String, String> {
        let mut all = std::collections::BTreeMap::new();
        for entry in fs::read_dir(bench.state().join("imports")).unwrap() {
            for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines().skip(1) {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                let id = value["id"].as_str().unwrap().to_owned();
                let before = all.insert(id, value["part"].as_str().unwrap().to_owned());
                assert_eq!(before, None, "a row was given a part twice: {line}");
            }
        }
        all
    };
    let before = parts();
    assert_eq!(before.len(), 60);
    let path = bench.root.join("data/rows.jsonl");
    let mut rows = fs::read_to_string(&path).unwrap();
    for i in 60..90 {
        rows.push_str(&format!("{{\"id\": \"r{i:03}\", \"text\": \"a new case {i}\", \"team\": \"cards\", \"channel\": \"chat\"}}\n"));
    }
    fs::write(&path, rows).unwrap();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let after = parts();
    assert_eq!(after.len(), 90);
    assert!(before.iter().all(|(id, part)| after[id] == *part));
}

#[test]
fn a_run_can_be_paused_resumed_and_stopped_with_its_results() {
    let bench = Bench::new();
    let run = bench.train(1_000_000);
    bench.wait_steps(&run, 3);
    assert!(bench.run(&["runs", "pause", &run]).status.success());
    bench.wait_state(&run, "paused");
    let steps = bench.steps(&run);
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    bench.wait_steps(&run, steps + 3);
    assert!(bench.run(&["runs", "stop", &run]).status.success());
    let record = bench.wait_state(&run, "stopped");
    assert!(record["metrics"]["accuracy"].is_number(), "{record}");
    assert_eq!(record["resumable"], true);
}

#[test]
fn a_queued_run_waits_for_the_one_before_it_and_can_be_cancelled() {
    let bench = Bench::new();
    let first = bench.train(1_000_000);
    bench.wait_steps(&first, 1);
    let second = bench.launch("eval", &[]);
    assert_eq!(bench.run_state(&second), "queued");
    assert!(bench.run(&["runs", "cancel", &second]).status.success());
    assert_eq!(bench.run_state(&second), "cancelled");
    assert!(bench.run(&["runs", "cancel", &first]).status.success());
    bench.wait_state(&first, "cancelled");
}

#[test]
fn two_workspaces_of_a_user_take_turns_on_the_device() {
    let one = Bench::new();
    let two = Bench::new();
    // The second workspace is told to use the first one's locks.
    let tmp = one.root.parent().unwrap().join("tmp");
    let second = |args: &[&str]| two.command(args).env("TMPDIR", &tmp).output().unwrap();
    // With its strata built, the second workspace's run waits for the device alone.
    let built = second(&["run", "strata"]);
    assert!(built.status.success(), "{built:?}");
    let busy = one.train(1_000_000);
    one.wait_steps(&busy, 1);
    let launched = second(&["run", "eval", "--detach", "--json"]);
    assert!(launched.status.success(), "{launched:?}");
    let waiting = until("the second run to say what it waits for", || {
        let record = two.record("eval-1");
        record["message"].as_str().is_some_and(|m| m.contains(&busy)).then_some(record)
    });
    assert_eq!(waiting["state"], "queued");
    assert!(one.run(&["runs", "cancel", &busy]).status.success());
    two.wait_state("eval-1", "done");
}

#[test]
fn bad_input_is_refused_with_code_2_and_leaves_no_run() {
    let bench = Bench::new();
    let code = |args: &[&str]| bench.run(args).status.code();
    assert_eq!(code(&["run", "dance"]), Some(2));
    assert_eq!(code(&["run", "train", "--set", "rank"]), Some(2));
    assert_eq!(code(&["run", "train", "--set", "rnak=3"]), Some(2));
    assert_eq!(code(&["run", "eval", "--set", "candidate=nobody"]), Some(2));
    assert_eq!(code(&["runs", "show", "train-9"]), Some(2));
    assert_eq!(code(&["compare", "a", "b"]), Some(2));
    assert_eq!(code(&["outcomes", "import", "/nowhere.jsonl", "--candidate", "x"]), Some(2));
    assert_eq!(bench.json(&["runs"])["runs"], serde_json::json!([]));
    let nowhere = bench.root.parent().unwrap().join("tmp");
    let output = bench.command(&["-C", nowhere.to_str().unwrap(), "board"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn outcomes_made_elsewhere_stand_on_the_board_and_are_compared() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let file = bench.root.join("outcomes.jsonl");
    let mut text = String::new();
    for i in 0..60 {
        text.push_str(&format!(
            "{{\"id\": \"r{i:03}\", \"output\": \"cards\", \"correct\": {}}}\n",
            i % 3 == 0
        ));
    }
    text.push_str("{\"id\": \"of nobody\", \"output\": \"\", \"correct\": true}\n");
    fs::write(&file, text).unwrap();
    let imported = bench.json(&["outcomes", "import", file.to_str().unwrap(), "--candidate", "other model"]);
    assert_eq!((imported["rows"].as_u64(), imported["matched"].as_u64()), (Some(61), Some(60)));
    let board = bench.json(&["board"]);
    let row = board["rows"].as_array().unwrap().iter().find(|r| r["candidate"] == "other-model").unwrap();
    assert_eq!(row["n"], 60);
    assert!((row["metrics"]["accuracy"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9, "{row}");
    let comparison = bench.json(&["compare", "baseline", "other-model"]);
    assert_eq!(comparison["n"], board["eval_rows"]);
    fs::write(&file, "{\"id\": \"r001\", \"correct\": true}\nnonsense\n").unwrap();
    let bad = bench.run(&["outcomes", "import", file.to_str().unwrap(), "--candidate", "x"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("outcomes.jsonl:2"), "{bad:?}");
}

#[test]
fn doctor_finds_a_sound_workspace_sound_and_repairs_the_store() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let before = bench.json(&["runs"]);
    let report = bench.json(&["doctor", "--repair"]);
    let names: Vec<&str> =
        report["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in ["gpu", "memory", "disk", "workspace", "engine", "repair", "store", "runs"] {
        assert!(names.contains(&name), "{report}");
    }
    assert_eq!(bench.json(&["runs"]), before);
}

#[test]
fn an_idle_engine_leaves_and_takes_its_socket_along() {
    let bench = Bench::new();
    assert!(bench.run(&["runs"]).status.success());
    until("the engine to leave", || bench.engine().is_none().then_some(()));
    assert!(!bench.state().join("engine.sock").exists());
}

#[test]
fn a_workspace_with_a_long_path_is_served_by_a_short_socket() {
    let bench = Bench::at(&"long-name/".repeat(15));
    assert!(bench.state().join("engine.sock").as_os_str().len() > 107);
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
}

#[test]
fn a_state_folder_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give a folder away");
        return;
    }
    let bench = Bench::new();
    fs::create_dir(bench.state()).unwrap();
    let other = Some(rustix::fs::Uid::from_raw(12345));
    rustix::fs::chown(bench.state(), other, None).unwrap();
    let refused = bench.run(&["runs"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("belongs to user 12345"), "{refused:?}");
}
