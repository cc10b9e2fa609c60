//! What is told before a run, and of scores on rows that chose nothing.

use std::fs;

use serde_json::Value;

use super::bench::Bench;

fn row<'a>(board: &'a Value, candidate: &str) -> &'a Value {
    board["rows"].as_array().unwrap().iter().find(|r| r["candidate"] == candidate).unwrap()
}

/// Results of everybody's rows, `right` of ten right.
fn import(bench: &Bench, name: &str, right: usize) {
    let file = bench.root.join("made-elsewhere.jsonl");
    let line = |i: usize| format!("{{\"id\": \"r{i:03}\", \"correct\": {}}}\n", i % 10 < right);
    fs::write(&file, (0..60).map(line).collect::<String>()).unwrap();
    bench.json(&["outcomes", "import", file.to_str().unwrap(), "--candidate", name]);
}

#[test]
fn who_was_selected_is_scored_again_on_the_reserve_and_every_look_is_counted() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    assert!(row(&bench.json(&["board"]), "baseline").get("honest").is_none(), "one candidate is no choice");
    import(&bench, "weak", 1);
    import(&bench, "strong", 9);
    let board = bench.json(&["board"]);
    let honest = &row(&board, "strong")["honest"];
    assert_eq!(
        (honest["among"].as_u64(), honest["fresh"].as_f64(), honest["looks"].as_u64()),
        (Some(3), None, Some(0))
    );
    assert!(honest["expected_luck"].as_f64().unwrap() >= 0.0, "{honest}");
    assert!(row(&board, "weak").get("honest").is_none());
    let text = String::from_utf8(bench.run(&["board"]).stdout).unwrap();
    assert!(
        text.contains("selected among 3")
            && text.contains("made elsewhere, so it is not scored on fresh ones"),
        "{text}"
    );
    let against = &row(&board, "strong")["against"];
    assert_eq!(
        (against["candidate"].as_str(), against["adjusted"]["of"].as_u64()),
        (Some("baseline"), Some(2))
    );

    let look = ["run", "eval", "--set", "part=reserve", "--set", "candidate=baseline"];
    let result = bench.json(&look);
    assert_eq!((result["state"].as_str(), result["candidate"].as_str()), (Some("done"), Some("baseline")));
    let board = bench.json(&["board"]);
    let baseline = row(&board, "baseline");
    assert_eq!(baseline["runs"], serde_json::json!(["eval-1"]), "the reserve's run is none of the board's");
    assert_eq!(baseline["n"], board["eval_rows"]);
    let honest = &baseline["honest"];
    assert_eq!((honest["fresh_on"].as_str(), honest["looks"].as_u64()), (Some("reserve"), Some(1)));
    let n = honest["n"].as_u64().unwrap();
    assert!(n > 0 && n < 20 && honest["fresh"].is_number() && honest["ci95"].is_array(), "{honest}");
    let selected = honest["selected"].as_f64().unwrap();
    assert!(
        (honest["luck"].as_f64().unwrap() - (selected - honest["fresh"].as_f64().unwrap())).abs() < 1e-12
    );
    assert!(honest.get("worn").is_none());

    for _ in 0..3 {
        assert_eq!(bench.json(&look)["state"], "done");
    }
    let journal = fs::read_to_string(bench.state().join("journal.jsonl")).unwrap();
    assert_eq!(journal.matches("\"op\":\"look\"").count(), 4, "{journal}");
    let text = String::from_utf8(bench.run(&["board"]).stdout).unwrap();
    assert!(text.contains("looked at 4 times, which is too often: the best of 4 looks"), "{text}");

    for (wrong, said) in [
        (&["run", "train", "--set", "part=reserve"][..], "only `eval` runs"),
        (&["run", "eval", "--set", "part=train"], "none of: eval, reserve"),
    ] {
        let output = bench.run(wrong);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(said), "{error}");
    }
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    fs::write(&path, toml.replace("[eval]", "[eval]\npart = \"reserve\"")).unwrap();
    let output = bench.run(&["check"]);
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("--set part=reserve"), "{output:?}");
}

#[test]
fn the_choice_of_a_checkpoint_is_told() {
    let bench = Bench::new();
    let trained = bench.json(&["run", "train", "--set", "max_steps=20", "--set", "eval_every=5"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let board = bench.json(&["board"]);
    let row = &board["rows"][0];
    assert_eq!(row["checkpoints"], serde_json::json!({ "run": trained["run"], "among": 4 }), "{row}");
    let text = String::from_utf8(bench.run(&["board"]).stdout).unwrap();
    assert!(text.contains("chose its checkpoint among 4 on dev rows"), "{text}");
}

#[test]
fn before_a_run_it_is_told_what_its_rows_can_show_and_what_they_cost() {
    let bench = Bench::new();
    let before = bench.json(&["power"]);
    assert_eq!((before["expected"].as_bool(), before["rows"].as_u64()), (Some(true), Some(18)));
    assert!(before["cost"].is_null() && before["compared"] == 0, "{before}");
    let output = bench.run(&["run", "eval"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("about 18 rows of the eval part"), "{said}");
    assert!(said.contains("no earlier evaluation tells what it will cost"), "{said}");
    import(&bench, "other", 5);
    let power = bench.json(&["power", "--difference", "10"]);
    let board = bench.json(&["board"]);
    assert_eq!(
        (power["rows"].clone(), power["expected"].as_bool()),
        (board["eval_rows"].clone(), Some(false))
    );
    assert_eq!(power["compared"], 1);
    let (rows, needed) = (power["rows"].as_u64().unwrap(), power["needed"].as_u64().unwrap());
    let more: u64 = power["strata"].as_array().unwrap().iter().map(|s| s["more"].as_u64().unwrap()).sum();
    assert_eq!(more, needed - rows, "{power}");
    let cost = &power["cost"];
    assert_eq!((cost["calls"].as_u64(), cost["run"].as_str()), (Some(rows), Some("eval-1")), "{cost}");
    assert!(cost["tokens_in"].as_u64().unwrap() > rows && cost["seconds"].as_f64().unwrap() > 0.0, "{cost}");
    let text = String::from_utf8(bench.run(&["power"]).stdout).unwrap();
    assert!(text.contains("it will take") && text.contains("by eval-1"), "{text}");
    assert_eq!(bench.run(&["power", "--difference", "0"]).status.code(), Some(2));
    assert_eq!(bench.run(&["power", "--candidate", "nobody"]).status.code(), Some(2));
}
