//! Metrics of the workspace, several answers to a row, a candidate's detail: through engine and worker.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use tunebench::domain::outcome::Outcome;
use tunebench::store::lines;

use super::bench::Bench;

fn with_own_metrics() -> Bench {
    let bench = Bench::new();
    let file = bench.root.join("workspace.toml");
    let mut toml = fs::read_to_string(&file).unwrap();
    toml.push_str(
        r#"
[[metric]]
name = "right_in_chat"
expression = "correct if fields.channel == 'chat' else none"
about = "right, of what came by chat"
threshold = 0.5

[[metric]]
name = "rare"
expression = "fields.nowhere + 1"

[[goal]]
metric = "right_in_chat"
at_least = 0.99
[[goal]]
metric = "length_chars"
at_most = 1000
"#,
    );
    fs::write(file, toml).unwrap();
    bench
}

fn names(list: &Value) -> Vec<String> {
    list["metrics"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_workspaces_metrics_are_listed_scored_and_held_against_goals() {
    let bench = with_own_metrics();
    let listed = names(&bench.json(&["metrics"]));
    assert!(
        listed.contains(&"precision:LABEL".into()) && listed.contains(&"right_in_chat".into()),
        "{listed:?}"
    );
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let board = bench.json(&["board"]);
    let row = &board["rows"][0];
    assert!(row["metrics"]["right_in_chat"].is_number(), "{row}");
    assert!(row["metrics"].get("rare").is_none(), "no row has a value: {row}");
    let states: Vec<&str> =
        row["goals"].as_array().unwrap().iter().map(|g| g["state"].as_str().unwrap()).collect();
    assert_eq!(states[1], "pass", "a goal's metric is scored though no column asks for it: {row}");
    assert_ne!(states[0], "open", "{row}");

    let detail = bench.json(&["metrics", "baseline"]);
    assert_eq!(detail["n"], row["n"], "{detail}");
    let rare = detail["unscored"].as_array().unwrap().iter().find(|u| u["metric"] == "rare").unwrap();
    assert_eq!(rare["n"], row["n"]);
    assert!(rare["why"].as_str().unwrap().contains("`fields.nowhere` is not in scope"), "{rare}");
    let support: u64 =
        detail["classes"]["classes"].as_array().unwrap().iter().map(|c| c["support"].as_u64().unwrap()).sum();
    assert_eq!(Some(support), row["n"].as_u64());
    let text = String::from_utf8(bench.run(&["metrics", "baseline"]).stdout).unwrap();
    for part in ["classes, most frequent first", "confusion", "strata by accuracy", "could not be worked out"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let events = fs::read_to_string(bench.state().join("runs/eval-1/events.jsonl")).unwrap();
    assert!(events.contains("`rare` could not be worked out on"), "{events}");

    // Changed, it is another metric: worked out anew, without a run, where it looks at the outcome alone.
    let file = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&file).unwrap();
    let changed =
        toml.replace("fields.nowhere + 1", "tokens_out * 2").replace("fields.channel == 'chat'", "input");
    fs::write(&file, changed).unwrap();
    let row = bench.json(&["board"])["rows"][0].clone();
    assert_eq!(row["metrics"]["rare"].as_f64(), row["tokens_out"].as_f64().map(|t| 2.0 * t), "{row}");
    assert!(row["metrics"].get("right_in_chat").is_none(), "needs the row itself: {row}");

    let unknown = bench.run(&["metrics", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

#[test]
fn several_answers_to_a_row_count_as_one_row() {
    let bench = Bench::new();
    let greedy = bench.run(&["run", "eval", "--set", "samples=3"]);
    let said = String::from_utf8(greedy.stderr).unwrap();
    assert_eq!(greedy.status.code(), Some(2), "{said}");
    assert!(said.contains("temperature 0") && said.contains("stage.route.temperature"), "{said}");
    let checked = bench.run(&["run", "eval", "--set", "samples=0"]);
    assert_eq!(checked.status.code(), Some(2));

    let set = [
        "run",
        "eval",
        "--set",
        "samples=3",
        "--set",
        "stage.route.temperature=1.5",
        "--set",
        "metrics=[\"accuracy\", \"pass_at:3\", \"majority\", \"row_variance\"]",
    ];
    let result = bench.json(&set);
    assert_eq!(result["state"], "done", "{result}");
    let path = bench.state().join("runs").join(result["run"].as_str().unwrap()).join("outcomes.jsonl");
    let (outcomes, _) = lines::read_all::<Outcome>(&path).unwrap();
    let board = bench.json(&["board"]);
    let n = board["eval_rows"].as_u64().unwrap() as usize;
    assert_eq!(outcomes.len(), 3 * n);
    let asked: BTreeSet<(&str, u32)> = outcomes.iter().map(|o| (o.row.as_str(), o.sample)).collect();
    assert_eq!(asked.len(), 3 * n);
    let different = outcomes
        .iter()
        .filter(|o| outcomes.iter().any(|p| p.row == o.row && p.stages[0].output != o.stages[0].output));
    assert!(different.count() > 0, "three drawings of every row are all alike");
    assert_eq!(board["rows"][0]["n"].as_u64(), Some(n as u64), "rows, not answers");
    let detail = bench.json(&["metrics", result["candidate"].as_str().unwrap()]);
    assert_eq!((detail["samples"].as_u64(), detail["n"].as_u64()), (Some(3), Some(n as u64)));
    let metrics = detail["metrics"].as_array().unwrap();
    for name in ["accuracy", "majority", "row_variance"] {
        let found = metrics.iter().find(|m| m["name"] == name).unwrap();
        assert_eq!(found["n"].as_u64(), Some(n as u64), "{found}");
    }
}
