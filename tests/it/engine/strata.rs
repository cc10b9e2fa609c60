//! Strata arranged by hand: split, merged, named, kept when they are built anew, taken back.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::bench::Bench;

const TOPICS: [&str; 4] = [
    "where is my new card, its delivery is late",
    "please refund my purchase, the shop owes me money",
    "the app crashes when i log in",
    "i moved house and must change my address",
];

/// Four topics and no dimension; `from` is the first row's number.
fn bench() -> Bench {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let text = fs::read_to_string(&path).unwrap().replace("dimensions = [\"channel\"]\n", "");
    fs::write(&path, text).unwrap();
    fs::write(bench.root.join("data/rows.jsonl"), rows(0..120)).unwrap();
    bench
}

fn rows(of: std::ops::Range<usize>) -> String {
    of.map(|i| {
        format!("{{\"id\": \"r{i:03}\", \"text\": \"{} number {i}\", \"team\": \"a\"}}\n", TOPICS[i % 4])
    })
    .collect()
}

fn sizes(listed: &Value) -> BTreeMap<String, u64> {
    let strata = listed["strata"].as_array().unwrap_or_else(|| panic!("{listed}"));
    strata.iter().map(|s| (s["name"].as_str().unwrap().to_owned(), s["rows"].as_u64().unwrap())).collect()
}

fn id_of_row(bench: &Bench, row: &str) -> String {
    let rows = bench.json(&["data", "rows", "--where", &format!("id={row}")]);
    rows["rows"][0]["stratum"].as_str().unwrap_or_else(|| panic!("{rows}")).to_owned()
}

#[test]
fn what_people_arranged_is_there_after_the_next_build_and_can_be_taken_back() {
    let bench = bench();
    assert_eq!(sizes(&bench.json(&["strata", "build", "--k", "4"])).len(), 4);
    let (card, refund) = (id_of_row(&bench, "r000"), id_of_row(&bench, "r001"));
    let merged = bench.json(&["strata", "merge", &card, &refund]);
    assert!(merged["done"].as_str().unwrap().contains("60 rows"), "{merged}");
    let both = id_of_row(&bench, "r000");
    assert_eq!(id_of_row(&bench, "r001"), both);
    bench.json(&["strata", "rename", &both, "cards and refunds"]);
    let app = id_of_row(&bench, "r002");
    let split = bench.json(&["strata", "split", &app]);
    let before = sizes(&split);
    assert_eq!((before.len(), before["cards and refunds"]), (4, 60), "{split}");

    // More rows, other numbers of clusters: what was decided holds.
    let path = bench.root.join("data/rows.jsonl");
    fs::write(&path, rows(0..200)).unwrap();
    let built = bench.json(&["strata", "build", "--k", "4"]);
    let after = sizes(&built);
    assert_eq!((after.len(), after["cards and refunds"]), (4, 100), "{built}");
    assert!(before.keys().all(|name| after.contains_key(name)), "{before:?} {after:?}");
    let states: Vec<&str> =
        built["by_hand"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["applied"; 3], "{built}");

    for _ in 0..3 {
        bench.json(&["strata", "undo"]);
    }
    let undone = bench.json(&["strata", "list"]);
    assert_eq!(undone["by_hand"], serde_json::json!([]));
    assert_eq!(sizes(&undone).values().collect::<Vec<_>>(), [&50; 4], "{undone}");
}

#[test]
fn what_cannot_be_applied_any_more_is_said() {
    let bench = bench();
    bench.json(&["strata", "build", "--k", "4"]);
    let card = id_of_row(&bench, "r000");
    bench.json(&["strata", "rename", &card, "late cards"]);
    // The rows that had the name are gone.
    let text: String =
        rows(0..120).lines().enumerate().filter(|(i, _)| i % 4 != 0).map(|(_, l)| format!("{l}\n")).collect();
    fs::write(bench.root.join("data/rows.jsonl"), text).unwrap();
    let built = bench.json(&["strata", "build", "--k", "3"]);
    assert!(!sizes(&built).contains_key("late cards"));
    assert_eq!(built["by_hand"][0]["state"], "failed");
    let listed = bench.run(&["strata", "list"]);
    let said = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        said.contains("NOT applied") && said.contains("late cards") && said.contains("still in the data"),
        "{said}"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = bench();
    let said = |args: &[&str]| {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["strata", "list"]).contains("no strata have been built"));
    bench.json(&["strata", "build", "--k", "4"]);
    assert!(said(&["strata", "merge", "c1", "c1"]).contains("of one cluster already"));
    assert!(said(&["strata", "split", "c9"]).contains("no stratum `c9`"));
    assert!(said(&["strata", "split", "c1", "--into", "40"]).contains("2 to 12 parts"));
    assert!(said(&["strata", "rename", "c1", ""]).contains("was not named by hand"));
    bench.json(&["strata", "rename", "c1", "one\u{1b} name"]);
    let names = sizes(&bench.json(&["strata", "list"]));
    let named = names.keys().find(|name| name.starts_with("one")).unwrap();
    assert!(!named.chars().any(char::is_control), "{named:?}");
    assert!(said(&["strata", "rename", "c2", named]).contains("names tell strata apart"));
}
