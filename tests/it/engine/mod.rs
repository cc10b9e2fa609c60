//! Engine, worker and client as processes: killed, cut off, lied to.

pub mod bench;
mod board;
mod comparing;
mod examples;
mod frames;
mod growing;
mod honest;
mod kills;
mod metrics;
mod outcomes;
mod play;
mod problems;
pub mod prompts;
mod remedies;
mod review;
mod sampling;
mod sets;
mod shared;
mod splits;
mod strata;
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
    let refused = bench.run(&["export", run, "--to", "/proc/no/such"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && said.contains("--to /proc/no/such: cannot be made"),
        "{said}"
    );
    assert!(said.contains("name a new folder"), "{said}");
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
    until("the second run to say what it waits for", || {
        let record = bench.record(&second);
        assert_eq!(record["state"], "queued", "{record}");
        let said = format!("in use by {first} of this workspace");
        record["message"].as_str().is_some_and(|m| m.ends_with(&said)).then_some(())
    });
    assert!(bench.run(&["runs", "cancel", &second]).status.success());
    assert_eq!(bench.run_state(&second), "cancelled");
    assert!(bench.run(&["runs", "cancel", &first]).status.success());
    bench.wait_state(&first, "cancelled");
}

#[test]
fn a_resumed_run_says_what_it_waits_for() {
    let bench = Bench::new();
    let first = bench.train(1_000_000);
    bench.wait_steps(&first, 11);
    assert!(bench.run(&["runs", "stop", &first]).status.success());
    bench.wait_state(&first, "stopped");
    // It shares its model with nobody.
    let full = ["method=full", "max_steps=1000000", "epochs=100000", "learning_rate=1e-6"];
    let second = bench.launch("train", &full);
    bench.wait_steps(&second, 1);
    assert!(bench.run(&["runs", "resume", &first]).status.success());
    let waiting = until("the resumed run to say what it waits for", || {
        let record = bench.record(&first);
        record["message"].as_str().is_some_and(|m| m.contains(&second)).then_some(record)
    });
    assert_eq!(waiting["state"], "queued");
    assert!(bench.run(&["runs", "cancel", &second]).status.success());
    bench.wait_state(&second, "cancelled");
    bench.wait_state(&first, "running");
    assert!(bench.run(&["runs", "cancel", &first]).status.success());
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
fn what_check_refuses_a_launch_refuses_with_the_same_words() {
    let bench = Bench::new();
    let toml = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    fs::create_dir(bench.root.join("prompts")).unwrap();
    let prompt = |name: &str| format!("max_tokens = 2\nprompt = \"prompts/{name}.md\"");
    for (name, text) in [
        ("empty", " \n"),
        ("deaf", "Which team?\n"),
        ("long", &format!("{}{{{{ input }}}}", "case ".repeat(120))),
    ] {
        fs::write(bench.root.join(format!("prompts/{name}.md")), text).unwrap();
    }
    for (from, to, kind, said) in [
        ("rank = 2", "rank = 2\ntargets = \"q_prj\"".to_owned(), "train", "did you mean `q_proj`?"),
        ("max_tokens = 2", prompt("empty"), "eval", "prompts/empty.md:1: the prompt is empty"),
        ("max_tokens = 2", prompt("deaf"), "eval", "prompts/deaf.md:1: the prompt never mentions"),
        ("max_tokens = 2", prompt("long"), "eval", "60 of 60 rows are too long"),
        (
            "rank = 2",
            "rank = 2\nmax_length = 4".to_owned(),
            "train",
            "60 of 60 rows are too long to be trained on",
        ),
    ] {
        fs::write(bench.root.join("workspace.toml"), toml.replacen(from, &to, 1)).unwrap();
        let problems = bench.json(&["check"])["problems"].clone();
        let [problem] = &problems.as_array().unwrap()[..] else { panic!("{problems}") };
        let message = problem["message"].as_str().unwrap();
        let shown = format!("{}:{}: {message}", problem["file"].as_str().unwrap(), problem["line"]);
        assert!(shown.contains(said) && problem["line"] != 0, "{shown}");
        let output = bench.run(&["run", kind, "--detach"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&shown), "check: {shown}\nrun: {stderr}");
    }
    assert_eq!(bench.json(&["runs"])["runs"], serde_json::json!([]));
}

#[test]
fn one_row_cannot_be_split_and_is_refused_as_bad_input() {
    let bench = Bench::new();
    fs::write(
        bench.root.join("data/rows.jsonl"),
        "{\"text\": \"a\", \"team\": \"cards\", \"channel\": \"chat\"}\n",
    )
    .unwrap();
    for kind in ["eval", "train"] {
        let output = bench.run(&["run", kind]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && said.contains("the data has 1 row, which cannot be split"),
            "{said}"
        );
    }
    // Once it has a part, the part is what is told.
    assert!(bench.run(&["strata", "build"]).status.success());
    let output = bench.run(&["run", "train"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
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
fn rows_that_changed_since_are_left_out_of_the_board_until_a_rerun() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let before = bench.json(&["board"])["rows"][0].clone();
    assert_eq!((before["stale"].as_u64(), before["runs"].clone()), (Some(0), serde_json::json!(["eval-1"])));
    // Other content in the file, for every row with an even number.
    let path = bench.root.join("data/rows.jsonl");
    let rows = fs::read_to_string(&path).unwrap();
    let changed: String = rows
        .lines()
        .enumerate()
        .map(|(i, line)| {
            format!("{}\n", if i % 2 == 0 { line.replace("case", "matter") } else { line.into() })
        })
        .collect();
    fs::write(&path, changed).unwrap();
    let row = bench.json(&["board"])["rows"][0].clone();
    let (n, stale) = (row["n"].as_u64().unwrap(), row["stale"].as_u64().unwrap());
    assert!(stale > 0 && n > 0, "{row}");
    assert_eq!(n + stale, before["n"].as_u64().unwrap(), "{row}");
    let text = String::from_utf8(bench.run(&["board"]).stdout).unwrap();
    assert!(text.contains("changed since: left out"), "{text}");
    // The same candidate once more: whole again, and both runs are named.
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let row = bench.json(&["board"])["rows"][0].clone();
    assert_eq!((row["stale"].as_u64(), row["n"].clone()), (Some(0), before["n"].clone()), "{row}");
    assert_eq!(
        (row["run"].as_str(), row["runs"].clone()),
        (Some("eval-2"), serde_json::json!(["eval-1", "eval-2"]))
    );
    let text = String::from_utf8(bench.run(&["board"]).stdout).unwrap();
    assert!(text.contains("2 runs of this same candidate: eval-2 counts, not eval-1"), "{text}");
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
