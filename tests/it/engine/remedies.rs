//! What could be done about a wrong row, over the command line.

use serde_json::Value;

use super::bench::Bench;

/// Rows that the baseline has wrong, and one it has right, of the eval part.
fn judged(bench: &Bench, run: &str) -> (Vec<String>, Option<String>) {
    let path = bench.state().join("runs").join(run).join("outcomes.jsonl");
    let (mut wrong, mut right) = (Vec::new(), None);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let outcome: Value = serde_json::from_str(line).unwrap();
        let row = outcome["row"].as_str().unwrap().to_owned();
        if outcome["correct"].as_bool().unwrap() {
            right = Some(row);
        } else {
            wrong.push(row);
        }
    }
    (wrong, right)
}

fn remedy<'a>(remedies: &'a Value, kind: &str) -> &'a Value {
    let all = remedies["remedies"].as_array().unwrap();
    all.iter().find(|r| r["kind"] == kind).unwrap_or_else(|| panic!("{remedies}"))
}

#[test]
fn remedies_are_priced_by_evidence_and_started_with_their_settings() {
    let bench = Bench::new();
    let early = bench.run(&["remedies", "r000"]);
    assert_eq!(early.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&early.stderr).contains("nothing is scored yet"));
    let unknown = bench.run(&["remedies", "nobody"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no row `nobody`"));

    let eval = bench.json(&["run", "eval"]);
    let (wrong, right) = judged(&bench, eval["run"].as_str().unwrap());
    let row = &wrong[0];
    let before = bench.json(&["remedies", row]);
    assert_eq!((&before["candidate"], &before["right"]), (&"baseline".into(), &false.into()), "{before}");
    assert_eq!(before["part"], "eval");
    assert!(
        before["wrong"].as_u64().unwrap() >= 1 && before["same_mistake"].as_u64().unwrap() >= 1,
        "{before}"
    );
    // The fixture's model says nothing readable.
    assert_eq!(before["stage"]["why"], "its answer could not be read", "{before}");
    for kind in ["prompt", "trajectory", "train"] {
        assert!(remedy(&before, kind)["expected"].is_null(), "nothing is invented: {before}");
    }
    // The prompt's calls are reckoned from the evaluation's; how long a training takes nobody knows yet.
    assert!(remedy(&before, "prompt")["price"]["calls"].as_u64().unwrap() > 100, "{before}");
    assert!(remedy(&before, "train")["price"]["seconds"].is_null(), "{before}");
    let text = String::from_utf8(bench.run(&["remedies", row]).stdout).unwrap();
    assert!(text.contains("no evidence yet: no train run was scored here"), "{text}");
    if let Some(right) = right {
        let none = bench.json(&["remedies", &right, "--candidate", "baseline"]);
        assert_eq!(none["remedies"], serde_json::json!([]), "{none}");
    }

    // Started from here, the stratum's rows are weighed, and the run that came of it is evidence.
    let trained = bench.json(&["remedies", row, "--start", "train"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let record = bench.record(trained["run"].as_str().unwrap());
    let set = record["settings"].to_string();
    assert!(set.contains("tuning.train.weights") && set.contains("tuning.train.stage"), "{set}");
    let after = bench.json(&["remedies", row, "--candidate", "baseline"]);
    let train = remedy(&after, "train");
    assert_eq!(train["expected"]["runs"], serde_json::json!([trained["run"]]), "{after}");
    let (fixed, seen) = (&train["expected"]["seen_fixed"], &train["expected"]["seen_wrong"]);
    assert!(fixed.as_f64().unwrap() <= seen.as_f64().unwrap(), "{after}");
    assert!(train["price"]["seconds"].as_f64().unwrap() > 0.0, "{after}");
    assert!(train["price"]["tokens"].as_u64().unwrap() > 0, "{after}");

    let said = bench.run(&["remedies", row, "--start", "luck"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("expected prompt, trajectory or train"));
    let said = bench.json(&["run", "trajectory", "--set", "strata=[\"nowhere\"]"]);
    let message = format!("{said} {}", bench.record("trajectory-1")["message"]);
    assert!(message.contains("no row of the train part with a gold is of nowhere"), "{message}");
}
