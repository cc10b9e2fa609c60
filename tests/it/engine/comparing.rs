//! Candidates against each other, over the command line.

use std::fs;

use super::bench::Bench;

/// A workspace whose rows belong to customers, four each, with the baseline and others on its board.
fn with_others(names: &[&str]) -> Bench {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    fs::write(&path, toml.replace("[data.split]", "[data.split]\ngroup = \"customer\"")).unwrap();
    let path = bench.root.join("data/rows.jsonl");
    let rows = fs::read_to_string(&path).unwrap();
    let with_customer =
        |(i, line): (usize, &str)| format!("{}, \"customer\": {}}}\n", line.trim_end_matches('}'), i / 4);
    fs::write(&path, rows.lines().enumerate().map(with_customer).collect::<String>()).unwrap();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    for (nth, name) in names.iter().enumerate() {
        let file = bench.root.join("others.jsonl");
        let line = |i: usize| {
            format!(
                "{{\"id\": \"r{i:03}\", \"output\": \"cards of {name}\", \"correct\": {}}}\n",
                (i / 4) % 5 >= nth
            )
        };
        fs::write(&file, (0..60).map(line).collect::<String>()).unwrap();
        bench.json(&["outcomes", "import", file.to_str().unwrap(), "--candidate", name]);
    }
    bench
}

#[test]
fn several_candidates_are_held_against_one_with_adjusted_p_values() {
    let bench = with_others(&["best", "middle", "last"]);
    let all = bench.json(&["compare", "--all"]);
    assert_eq!((all["baseline"].as_str(), all["correction"].as_str()), (Some("baseline"), Some("holm")));
    let rows = all["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{all}");
    for row in rows {
        let (raw, adjusted) =
            (row["p_value"].as_f64().unwrap(), row["adjusted"]["p_value"].as_f64().unwrap());
        assert!(adjusted >= raw && adjusted <= 1.0 && row["adjusted"]["of"] == 3, "{row}");
    }
    let named = bench.json(&["compare", "best", "middle", "last"]);
    assert_eq!(named["baseline"], "best");
    assert_eq!(named["rows"].as_array().unwrap().len(), 2);
    // Rows of one customer are one cluster, and the test says so.
    let pair = bench.json(&["compare", "best", "last"]);
    let (n, clusters) = (pair["n"].as_u64().unwrap(), pair["clusters"]["clusters"].as_u64().unwrap());
    assert!(clusters > 1 && clusters < n && pair["clusters"]["by"] == "customer", "{pair}");
    assert_eq!(pair["test"], "clustered_mcnemar");
    let text = String::from_utf8(bench.run(&["compare", "best", "middle", "last"]).stdout).unwrap();
    assert!(text.contains("adjusted p") && text.contains("2 comparisons (clustered McNemar)"), "{text}");
    let text = String::from_utf8(bench.run(&["compare", "best", "last"]).stdout).unwrap();
    assert!(text.contains("rows belong together by `customer`"), "{text}");

    let text = String::from_utf8(bench.run(&["compare", "best", "last", "--flips", "1"]).stdout).unwrap();
    assert!(text.contains("[-best-]{+last+}") && text.matches("regressed r").count() == 1, "{text}");
    let text = String::from_utf8(bench.run(&["compare", "best", "baseline", "--prompts"]).stdout).unwrap();
    assert!(text.contains("prompt of stage route") && text.contains("\n+{{ input }}"), "{text}");
    for wrong in [
        &["compare", "best"][..],
        &["compare", "best", "best", "last"],
        &["compare", "best", "best"],
        &["compare", "--all", "--flips", "2"],
    ] {
        assert_eq!(bench.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
