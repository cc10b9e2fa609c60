//! The board over the command line: cost at a volume, the ladder, and a board too long for one message.

use std::fs;

use super::bench::Bench;

/// A workspace whose model is paid by the hour, and with a latency goal that nobody misses.
fn priced() -> Bench {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    let goal = "[[goal]]\nmetric = \"latency_p95_ms\"\nat_most = 600000\n[[stage]]";
    let toml = toml.replace("[[stage]]", &format!("usd_per_hour = 3.6\n\n{goal}"));
    fs::write(&path, toml).unwrap();
    bench
}

#[test]
fn a_month_costs_what_its_rows_take_and_an_unknown_candidate_is_refused() {
    let bench = priced();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let board = bench.json(&["board", "--volume", "1000000"]);
    let t = &board["rows"][0]["trilemma"];
    let of = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("{t}"));
    // 3.6 $ an hour is 0.001 $ a second.
    assert!((of(&t["cost"]["usd_per_1k"]) - of(&t["cost"]["machine_s_per_row"])).abs() < 1e-9, "{t}");
    assert!((of(&t["cost"]["machine_s_per_row"]) * of(&t["rows_per_s"]) - 1.0).abs() < 1e-9, "{t}");
    assert!((of(&t["month"]["usd"]) - 1000.0 * of(&t["cost"]["usd_per_1k"])).abs() < 1e-6, "{t}");
    assert!(of(&t["month"]["usd_always_on"]) >= 3.6 * 730.5 - 1e-6, "{t}");
    assert_eq!(t["goodput"]["n"], 2, "{t}");
    assert!(of(&t["ttft_ms"]["p50"]) > 0.0 && t["pareto"]["state"] == "front", "{t}");
    assert_eq!(board["axes"], serde_json::json!(["accuracy", "latency_p95_ms", "usd_per_1k"]));

    let refused = bench.run(&["board", "--volume", "5", "--against", "nobody"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no candidate `nobody`"));
    assert_eq!(bench.run(&["board", "--volume", "0"]).status.code(), Some(2));
    let text = String::from_utf8(bench.run(&["board", "--volume", "1000000"]).stdout).unwrap();
    assert!(text.contains("$/month") && text.contains("held against each other by accuracy"), "{text}");
}

#[test]
fn another_prompt_is_a_rung_of_the_ladder() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["board", "--ladder"])["advice"]["verdict"], "measure");
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    fs::write(bench.root.join("route.md"), "Which team? {{ input }}").unwrap();
    fs::write(&path, toml.replace("output = \"label\"", "output = \"label\"\nprompt = \"route.md\""))
        .unwrap();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let ladder = bench.json(&["board", "--ladder"]);
    let rungs = ladder["rungs"].as_array().unwrap();
    assert_eq!(rungs.iter().map(|r| r["rung"].as_str().unwrap()).collect::<Vec<_>>(), ["baseline", "prompt"]);
    let step = &rungs[1]["step"];
    assert_eq!((step["over"].as_str(), step["n"].as_u64()), (Some("baseline"), rungs[0]["n"].as_u64()));
    assert!(!ladder["advice"]["reasons"].as_array().unwrap().is_empty(), "{ladder}");
    let text = String::from_utf8(bench.run(&["board", "--ladder"]).stdout).unwrap();
    assert!(text.contains("is the next rung worth it?"), "{text}");
}

#[test]
fn a_board_too_long_for_a_message_is_read_whole() {
    let bench = Bench::new();
    // As an older version left them, many times over: they are taken over when the engine starts.
    let file = bench.root.join("one.jsonl");
    let lines: String = (0..60)
        .map(|i| format!("{{\"id\": \"r{i:03}\", \"output\": \"cards\", \"correct\": true}}\n"))
        .collect();
    fs::write(&file, lines).unwrap();
    bench.json(&["outcomes", "import", file.to_str().unwrap(), "--candidate", "made-0"]);
    let mut imports = fs::read_dir(bench.state().join("imports/outcomes")).unwrap();
    let first =
        imports.find_map(|e| Some(e.unwrap().path()).filter(|p| p.join("outcomes.jsonl").exists())).unwrap();
    bench.kill_engine();
    let outcomes = fs::read(first.join("outcomes.jsonl")).unwrap();
    let candidate = fs::read_to_string(first.join("candidate.json")).unwrap();
    for i in 1..2500 {
        let dir = bench.state().join(format!("imports/outcomes/made-{i}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("outcomes.jsonl"), &outcomes).unwrap();
        fs::write(dir.join("candidate.json"), candidate.replace("made-0", &format!("made-{i}"))).unwrap();
    }
    let board = bench.json(&["board"]);
    let names: std::collections::BTreeSet<&str> =
        board["rows"].as_array().unwrap().iter().map(|r| r["candidate"].as_str().unwrap()).collect();
    assert_eq!((names.len(), board["total"].as_u64()), (2500, Some(2500)));
    assert!(board.to_string().len() > 1 << 20, "it would have fitted one message");
}

#[test]
fn the_timeline_tells_strata_over_candidates_and_over_the_checkpoints_of_a_run() {
    let bench = Bench::new();
    let none = String::from_utf8(bench.run(&["board", "--timeline"]).stdout).unwrap();
    assert!(none.contains("nothing is scored yet"), "{none}");
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let trained = bench.json(&["run", "train", "--set", "max_steps=20", "--set", "eval_every=10"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let run = trained["run"].as_str().unwrap();

    let board = bench.json(&["board"]);
    let timeline = bench.json(&["board", "--timeline"]);
    let columns = timeline["columns"].as_array().unwrap();
    assert_eq!(columns.len(), 2, "{timeline}");
    for (column, row) in columns.iter().zip(board["rows"].as_array().unwrap()) {
        assert_eq!((&column["name"], &column["all"]["n"]), (&row["candidate"], &row["n"]), "{timeline}");
        let (right, n) = (column["all"]["right"].as_f64().unwrap(), column["all"]["n"].as_f64().unwrap());
        assert!((right / n - row["metrics"]["accuracy"].as_f64().unwrap()).abs() < 1e-9, "{timeline}");
        let cells = column["cells"].as_array().unwrap();
        let sum: f64 = cells.iter().map(|c| c["n"].as_f64().unwrap()).sum();
        assert_eq!((cells.len(), sum), (timeline["strata"].as_array().unwrap().len(), n), "{timeline}");
    }

    let of_run = bench.json(&["board", "--timeline", run]);
    let curve = &of_run["run"];
    assert_eq!(curve["losses"].as_array().unwrap().len(), 20, "{of_run}");
    assert!(!curve["checkpoints"].as_array().unwrap().is_empty(), "{of_run}");
    let steps: Vec<u64> =
        curve["flips"].as_array().unwrap().iter().map(|f| f["step"].as_u64().unwrap()).collect();
    assert!(steps.contains(&10) && steps.contains(&20), "{of_run}");
    let names: Vec<&str> =
        of_run["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("baseline", columns[1]["name"].as_str().unwrap()));
    assert!(names.contains(&format!("{run}@10").as_str()), "{names:?}");
    let text = String::from_utf8(bench.run(&["board", "--timeline", run]).stdout).unwrap();
    assert!(text.contains("(all rows)") && text.contains("on its fixed rows"), "{text}");

    for (wrong, why) in [("eval-1", "no training run but a run of kind eval"), ("train-9", "train-9")] {
        let refused = bench.run(&["board", "--timeline", wrong]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains(why), "{said}");
    }
}
