//! Rows are reviewed by several people: blind, agreed on or settled, undone, and not lost with the engine.

use serde_json::Value;

use super::bench::Bench;

fn items(queue: &Value) -> Vec<String> {
    queue["items"].as_array().unwrap().iter().map(|i| i["row"].as_str().unwrap().to_owned()).collect()
}

fn say(bench: &Bench, who: &str, row: &str, how: &[&str]) -> String {
    let args = [&["data", "review", "say", row, "--as", who], how].concat();
    bench.json(&args)["message"].as_str().unwrap().to_owned()
}

fn gold(bench: &Bench, row: &str) -> String {
    let page = bench.json(&["data", "rows", "--where", &format!("id={row}")]);
    page["rows"][0]["gold"].as_str().unwrap().to_owned()
}

#[test]
fn two_people_review_the_same_rows_blind_and_what_parts_them_is_settled() {
    let bench = Bench::new();
    bench.json(&["strata", "build"]);
    let queue = |who: &str, more: &[&str]| {
        bench.json(&[&["data", "review", "queue", "--per", "2", "--as", who], more].concat())
    };
    let (ann, ben) = (queue("ann", &[]), queue("ben", &[]));
    let (mut a, mut b) = (items(&ann), items(&ben));
    assert!(a.len() >= 4 && a != b, "the same rows, in an order of each one's own: {a:?} {b:?}");
    a.sort();
    b.sort();
    assert_eq!(a, b);
    assert_eq!(items(&queue("ben", &["--second"])).len(), 0);
    let refused = bench.run(&["data", "review", "settle", &a[0], "--accept"]);
    assert_eq!(refused.status.code(), Some(2), "nothing to settle yet");

    // Ann changes the first, excludes the second, accepts the others.
    let before = gold(&bench, &a[0]);
    let other = if before == "cards" { "loans" } else { "cards" };
    say(&bench, "ann", &a[0], &["--gold", other]);
    say(&bench, "ann", &a[1], &["--exclude"]);
    for row in &a[2..] {
        say(&bench, "ann", row, &["--accept"]);
    }
    assert_eq!(gold(&bench, &a[0]), other, "the first opinion takes effect");
    let marked = bench.json(&["data", "rows", "--where", "mark:exclude"]);
    assert_eq!((marked["total"].as_u64(), marked["rows"][0]["id"].as_str()), (Some(1), Some(a[1].as_str())));
    let left = queue("ann", &[]);
    assert_eq!((left["done"].as_u64(), items(&left).len()), (Some(a.len() as u64), 0));
    let strata = left["strata"].as_array().unwrap();
    assert!(strata.iter().all(|s| s["done"] == s["total"]), "{left}");

    // Ben sees nothing of it.
    let second = queue("ben", &["--second"]);
    assert_eq!(items(&second).len(), a.len());
    let shown = second["items"].as_array().unwrap().iter().find(|i| i["row"] == a[0].as_str()).unwrap();
    assert_eq!(shown["gold"], before.as_str(), "the file's, not hers: {shown}");
    for row in &a {
        say(&bench, "ben", row, &["--accept"]);
    }
    assert_eq!(gold(&bench, &a[0]), other, "until it is settled the first one holds");

    // Her key does not tell who is first: the engine is killed, and everything is still there.
    bench.kill_engine();
    let found = bench.json(&["data", "review", "agreement"]);
    let n = a.len() as u64;
    assert_eq!((found["rows"].as_u64(), found["same"].as_u64()), (Some(n), Some(n - 2)), "{found}");
    assert!(found["alpha"]["value"].as_f64().unwrap() < 1.0);
    assert_eq!(found["pairs"][0]["rows"].as_u64(), Some(n));
    let apart: Vec<&str> =
        found["apart"].as_array().unwrap().iter().map(|r| r["row"].as_str().unwrap()).collect();
    assert_eq!(apart, [a[0].as_str(), a[1].as_str()]);

    bench.json(&["data", "review", "settle", &a[0], "--gold", &before]);
    bench.json(&["data", "review", "settle", &a[1], "--accept"]);
    assert_eq!(gold(&bench, &a[0]), before);
    assert_eq!(bench.json(&["data", "rows", "--where", "mark:exclude"])["total"], 0);
    let found = bench.json(&["data", "review", "agreement"]);
    assert_eq!(
        (found["apart"].as_array().unwrap().len(), found["settled"].as_u64()),
        (0, Some(2)),
        "{found}"
    );
    assert_eq!(found["same"].as_u64(), Some(n - 2), "settling makes nobody agree");
    // The last word is one decision.
    let undone = bench.json(&["prompts", "undo"]);
    assert!(undone.to_string().contains(&format!("review of row {}", a[1])), "{undone}");
    assert_eq!(bench.json(&["data", "rows", "--where", "mark:exclude"])["total"], 1);
    assert_eq!(bench.json(&["data", "review", "agreement"])["apart"].as_array().unwrap().len(), 1);
}
