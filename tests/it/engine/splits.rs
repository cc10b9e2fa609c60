//! Parts: who belongs together is never torn apart, and what was given out once stays.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::bench::Bench;

/// Rows that say something of their own; each third one is said again, a word changed, by somebody else.
fn rows(from: usize, to: usize) -> Vec<Value> {
    let things = ["parcel", "invoice", "password", "mortgage", "passport", "voucher", "statement", "receipt"];
    let deeds = [
        "was sent to the wrong address",
        "has not arrived after three weeks",
        "shows another name than mine",
    ];
    let mut all = Vec::new();
    for i in from..to {
        let (thing, deed) = (things[i % 8], deeds[i / 8 % 3]);
        let key = blake3::hash(&i.to_le_bytes()).to_hex();
        let text = format!("{} {deed}, the {thing} of {} {}", &key[..12], &key[12..30], &key[30..44]);
        let row = |id: String, text: String, customer: String| json!({"id": id, "text": text, "team": "cards", "channel": "chat", "customer": customer, "account": format!("a{}", i / 2)});
        all.push(row(format!("r{i:03}"), text.clone(), format!("c{}", i % 29)));
        if i % 3 == 0 {
            all.push(row(format!("s{i:03}"), format!("{text} please"), format!("d{i}")));
        }
    }
    all
}

fn write(bench: &Bench, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(bench.root.join("data/rows.jsonl"), lines).unwrap();
}

fn with(split: &str) -> Bench {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("[data.split]", &format!("[data.split]\n{split}"))).unwrap();
    bench
}

fn parts(bench: &Bench) -> BTreeMap<String, String> {
    assert!(bench.json(&["strata", "build"])["strata"].is_array());
    let page = bench.json(&["data", "rows", "-n", "500"]);
    let of = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    page["rows"].as_array().unwrap().iter().map(|row| (of(row, "id"), of(row, "part"))).collect()
}

/// No two rows that belong together are in different parts.
fn assert_whole(rows: &[Value], parts: &BTreeMap<String, String>, key: impl Fn(&Value) -> String) {
    let mut home: BTreeMap<String, &String> = BTreeMap::new();
    for row in rows {
        let part = &parts[row["id"].as_str().unwrap()];
        assert_eq!(*home.entry(key(row)).or_insert(part), part, "{row}");
    }
}

#[test]
fn customers_and_near_duplicates_stay_in_one_part_in_any_order_and_new_rows_join_them() {
    let customer = |row: &Value| row["customer"].as_str().unwrap().to_owned();
    let said = |row: &Value| row["id"].as_str().unwrap()[1..].to_owned();
    let all = rows(0, 120);
    // Clusters depend on the order that they are looked for in: without strata nothing does.
    let forward = with("stratified = false\ngroup = \"customer\"");
    write(&forward, &all);
    let assigned = parts(&forward);
    assert_eq!(assigned.len(), 160);
    assert_whole(&all, &assigned, customer);
    assert_whole(&all, &assigned, said);
    assert!(["train", "dev", "eval", "reserve"].iter().all(|part| assigned.values().any(|p| p == part)));

    let backward = with("stratified = false\ngroup = \"customer\"");
    let turned: Vec<Value> = all.iter().rev().cloned().collect();
    write(&backward, &turned);
    assert_eq!(parts(&backward), assigned, "the order of the file says nothing");

    // Half of the rows first, and again in the other half what was said in the first.
    let grown = with("group = \"customer\"");
    let (first, second): (Vec<Value>, Vec<Value>) =
        all.iter().cloned().partition(|row| row["id"].as_str().unwrap().starts_with('r'));
    write(&grown, &first);
    let early = parts(&grown);
    let both: Vec<Value> = first.iter().chain(&second).cloned().collect();
    write(&grown, &both);
    let late = parts(&grown);
    assert!(early.iter().all(|(id, part)| late[id] == *part), "a part once given stays");
    assert_whole(&both, &late, customer);
    assert_whole(&both, &late, said);
}

#[test]
fn several_fields_group_along_their_chain_and_near_duplicates_can_be_left_apart() {
    let bench = with("group = [\"customer\", \"account\"]\nnear_duplicates = false");
    let all = rows(0, 60);
    write(&bench, &all);
    let assigned = parts(&bench);
    assert_whole(&all, &assigned, |row| row["customer"].as_str().unwrap().to_owned());
    assert_whole(&all, &assigned, |row| row["account"].as_str().unwrap().to_owned());

    let apart = with("near_duplicates = false");
    write(&apart, &all);
    let assigned = parts(&apart);
    let torn = all.iter().filter(|row| row["id"].as_str().unwrap().starts_with('s')).filter(|row| {
        let id = row["id"].as_str().unwrap();
        assigned[id] != assigned[&id.replace('s', "r")]
    });
    assert!(torn.count() > 3, "without the setting they fall apart");
}
