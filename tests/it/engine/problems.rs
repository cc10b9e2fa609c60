//! What is wrong with the rows, and rows that are left out.

use std::fs;

use serde_json::Value;

use super::bench::Bench;

fn count(problems: &Value, kind: &str) -> u64 {
    let kinds = problems["kinds"].as_array().unwrap();
    kinds.iter().find(|count| count["kind"] == kind).map_or(0, |count| count["rows"].as_u64().unwrap())
}

#[test]
fn rows_that_are_left_out_are_scored_and_compared_no_more_until_they_are_taken_in_again() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let before = bench.json(&["board"]);
    let rows = before["eval_rows"].as_u64().unwrap();
    let page = bench.json(&["data", "rows", "--where", "part:eval", "-n", "1"]);
    let row = page["rows"][0]["id"].as_str().unwrap();
    let filter = format!("id={row}");
    let all = bench.run(&["data", "exclude", "--where", ""]);
    assert_eq!(
        all.status.code(),
        Some(2),
        "a variable of a script that is not set leaves out nothing: {all:?}"
    );
    let said = bench.json(&["data", "exclude", "--where", &filter]);
    assert!(said["done"].as_str().unwrap().starts_with("1 row left out"), "{said}");
    let after = bench.json(&["board"]);
    assert_eq!(after["eval_rows"], rows - 1, "{after}");
    assert_eq!(
        (&after["rows"][0]["n"], &after["rows"][0]["stale"]),
        (&(rows - 1).into(), &0.into()),
        "{after}"
    );
    // Who is scored from now on, and who was before: on the rows that both have.
    let trained = bench.json(&["run", "train", "--set", "max_steps=2"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let run = trained["run"].as_str().unwrap();
    let frozen = fs::read_to_string(bench.state().join("runs").join(run).join("inputs/rows.jsonl")).unwrap();
    assert!(!frozen.contains(&format!("\"id\":\"{row}\"")), "{frozen}");
    assert_eq!(bench.json(&["compare", "baseline", run])["n"], rows - 1);
    let problems = bench.json(&["data", "problems"]);
    assert_eq!(problems["excluded"], 1, "{problems}");
    assert_eq!(bench.json(&["data", "rows", "--where", "mark:excluded"])["total"], 1);

    bench.json(&["data", "include"]);
    assert_eq!(bench.json(&["board"])["eval_rows"], rows);
    assert_eq!(bench.json(&["data", "problems"])["excluded"], 0);
}

#[test]
fn problems_are_counted_listed_and_filtered_and_nothing_personal_is_logged() {
    let bench = Bench::new();
    let data = fs::read_dir(bench.root.join("data")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&data).unwrap();
    let first = text.lines().next().unwrap();
    let mut row: serde_json::Map<String, Value> = serde_json::from_str(first).unwrap();
    row.remove("id");
    let field = ["message", "text", "input"].into_iter().find(|f| row.contains_key(*f)).unwrap();
    let copy = Value::from(row.clone());
    row.insert(field.into(), "write to zebedee.quux@example.com \u{7}".into());
    fs::write(&data, format!("{text}{copy}\n{copy}\n{}\n", Value::from(row))).unwrap();

    let problems = bench.json(&["data", "problems"]);
    assert!(count(&problems, "exact-duplicate") >= 2, "{problems}");
    assert_eq!((count(&problems, "pii"), count(&problems, "odd-characters")), (1, 1), "{problems}");
    let listed = bench.json(&["data", "problems", "--kind", "pii"]);
    assert!(
        listed["found"][0]["reason"].as_str().unwrap().contains("e-mail address at character 10"),
        "{listed}"
    );
    let shown = bench.run(&["data", "problems", "--kind", "pii"]);
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("zebedee"), "kind and place only");
    let page = bench.json(&["data", "rows", "--where", "problem:pii"]);
    assert_eq!(page["total"], 1, "{page}");
    let log = fs::read_to_string(bench.state().join("engine.log")).unwrap_or_default();
    assert!(!log.contains("zebedee"));
    let refused = bench.run(&["data", "problems", "--kind", "pi"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_run_whose_train_rows_stand_among_those_it_is_scored_on_is_refused_unless_told_to_go_on() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let (code, before) = bench.leaks();
    assert_eq!((code, &before["exact"], &before["ngram"]), (0, &0.into(), &0.into()), "{before}");
    // A copy of an eval row comes in as a row of its own, and is given to the train part by hand.
    let page = bench.json(&["data", "rows", "--where", "part:eval", "-n", "1"]);
    let (row, text) = (page["rows"][0]["id"].as_str().unwrap(), page["rows"][0]["text"].as_str().unwrap());
    let train = bench.json(&["data", "rows", "--where", "part:train", "-n", "1"]);
    let (of, old) = (train["rows"][0]["id"].as_str().unwrap(), train["rows"][0]["text"].as_str().unwrap());
    let data = fs::read_dir(bench.root.join("data")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read_to_string(&data).unwrap();
    assert!(whole.contains(&format!("\"id\":\"{of}\"")) || whole.contains(of), "rows have ids: {whole}");
    let json = |text: &str| serde_json::to_string(text).unwrap();
    fs::write(&data, whole.replacen(&json(old), &json(&text.to_uppercase()), 1)).unwrap();

    let (code, found) = bench.leaks();
    assert_eq!((code, &found["exact"]), (1, &1.into()), "{found}");
    assert_eq!((&found["found"][0]["row"], &found["found"][0]["from_row"]), (&row.into(), &of.into()));
    let refused = bench.run(&["run", "train", "--set", "max_steps=1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains(row) && said.contains(of) && said.contains("--leaks allow"), "{said}");
    assert_eq!(bench.json(&["data", "rows", "--where", "problem:leak"])["total"], 1);
    let told = bench.json(&["run", "train", "--set", "max_steps=1", "--leaks", "allow"]);
    assert_eq!(told["state"], "done", "{told}");
    // Left out, it leaks no more.
    bench.json(&["data", "exclude", "--where", &format!("id={of}")]);
    assert_eq!(bench.leaks().0, 0);
    assert_eq!(bench.json(&["run", "train", "--set", "max_steps=1"])["state"], "done");
}

impl Bench {
    fn leaks(&self) -> (i32, Value) {
        let out = self.run(&["data", "leaks", "--json"]);
        let text = String::from_utf8(out.stdout).unwrap();
        (out.status.code().unwrap(), serde_json::from_str(text.lines().last().unwrap()).unwrap())
    }
}

#[test]
fn a_preview_shows_what_training_would_see_without_starting_it() {
    let bench = Bench::new();
    let early = bench.run(&["data", "preview"]);
    assert_eq!(early.status.code(), Some(2), "no row has a part");
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    bench.json(&["data", "problems"]);
    let preview = bench.json(&["data", "preview", "r007"]);
    let row = &preview["rendered"];
    let of = |trained: bool| -> String {
        let pieces = row["pieces"].as_array().unwrap().iter().filter(|p| p[1] == trained);
        pieces.map(|p| p[0].as_str().unwrap()).collect()
    };
    assert!(of(false).contains("the loans case"), "{preview}");
    assert!(of(true).contains("loans"), "{preview}");
    assert_eq!(row["trained"].as_u64().map(|n| n > 1), Some(true), "its end is trained, too");
    let rows = |value: &Value| {
        value.as_array().unwrap().iter().map(|bin| bin["rows"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(rows(&preview["lengths"]), preview["rows"].as_u64().unwrap());
    let steps = preview["packing"]["steps"].as_u64().unwrap();
    assert_eq!(steps, preview["rows"].as_u64().unwrap().div_ceil(2), "batches of 2");
    let short = bench.json(&["data", "preview", "--set", "max_length=2"]);
    assert_eq!(rows(&short["dropped"]), short["rows"].as_u64().unwrap(), "{short}");
    assert!(short["dropped"][0]["why"].as_str().unwrap().contains("max_length = 2"), "{short}");
    assert_eq!(bench.run(&["data", "preview", "nobody"]).status.code(), Some(2));
}
