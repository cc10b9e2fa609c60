//! `run grow` and `tunebench data grown`, over scripted endpoints: made, checked, stopped, killed, taken into the data and out again.

use std::collections::HashMap;
use std::fs;

use serde_json::{Value, json};

use super::bench::{Bench, until};
use super::prompts::with_prompt;
use crate::server::{Reply, Server};

/// Knows every team.
fn sorts(question: &str) -> String {
    if question.contains("loan") { "loans" } else { "cards" }.to_owned()
}

/// Words that nobody has said before, the same for the same number.
fn words(number: u64) -> String {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut word = || -> String {
        (0..7)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'a' + ((state >> 33) % 26) as u8)
            })
            .collect()
    };
    (0..5).map(|_| word()).collect::<Vec<_>>().join(" ")
}

/// Of six rows: three good ones, one in words of a template, the row itself, and another row of the data.
fn makes(question: &str) -> String {
    let shown = question.rsplit("the ").find(|part| part.contains(" case ")).unwrap_or_default();
    let mut parts = shown.split_whitespace();
    let (team, number) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    let number: u64 = number.parse().unwrap_or_default();
    match number % 6 {
        3 => "Dear {{ name }}, my case".to_owned(),
        4 => format!("The {team} case {number}!"),
        5 => format!("the {team} case {}", (number + 2) % 240),
        // The checker does not see whose it is.
        2 => format!("{} loan", words(number)).replace("loan", if team == "cards" { "loan" } else { "card" }),
        _ => format!("{team} {}", words(number)),
    }
}

/// A workspace whose maker and sorter stand behind endpoints.
fn bench(maker: Server) -> (Bench, Server, Server) {
    let bench = Bench::new();
    let sorter = with_prompt(&bench, sorts);
    let toml = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    let endpoint = maker.endpoint();
    let more = format!(
        "\n[models.maker]\nendpoint = \"{endpoint}\"\nmodel = \"m\"\nmax_in_flight = 4\n\n[tuning.grow]\nmaker = \"maker\"\nrows = \"all\"\nper_row = 1\n\n[cache]\noff = true\n"
    );
    fs::write(bench.root.join("workspace.toml"), format!("{toml}{more}")).unwrap();
    (bench, sorter, maker)
}

fn parts(bench: &Bench) -> HashMap<String, String> {
    let rows = bench.json(&["data", "rows", "-n", "500"]);
    let of = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    rows["rows"].as_array().unwrap().iter().map(|row| (of(row, "id"), of(row, "part"))).collect()
}

fn all(bench: &Bench, run: &str, filter: &str) -> Vec<Value> {
    let page = bench.json(&["data", "grown", run, "--where", filter, "-n", "200"]);
    page["rows"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
}

#[test]
fn rows_are_made_checked_taken_in_filtered_and_taken_out_again() {
    let (bench, _sorter, _maker) = bench(Server::start(vec![Reply::Say(makes)]));
    let run = bench.json(&["run", "grow"]);
    assert_eq!((&run["run"], &run["state"]), (&json!("grow-1"), &json!("done")), "{run}");
    let parts_before = parts(&bench);
    let grown = all(&bench, "grow-1", "");
    assert_eq!(grown.len() as f64, run["metrics"]["made"].as_f64().unwrap(), "{run}");
    for one in &grown {
        let parent = one["parents"][0].as_str().unwrap();
        assert_eq!(parts_before[parent], "train", "only train rows are grown from: {one}");
        let number: usize = parent[1..].parse().unwrap();
        let text = one["text"].as_str().unwrap();
        let fell = one["fell"].as_str().unwrap_or("kept");
        let want = match number % 6 {
            3 => "text",
            4 => "duplicate",
            // Another row: whether it is scored on decides.
            5 => {
                let other: usize = text.rsplit(' ').next().unwrap().parse().unwrap();
                // The next row of the same team says it in nearly the same words, so that either may be told.
                if parts_before[&format!("r{other:03}")] == "train" { "duplicate" } else { "leak" }
            }
            2 => "disputed",
            _ => "kept",
        };
        assert!(fell == want, "{want}: {one}");
        assert!(fell == "kept" || !one["why"].as_str().unwrap().is_empty(), "{one}");
    }
    let page = bench.json(&["data", "grown", "grow-1"]);
    assert_eq!((&page["maker"], &page["method"]), (&json!("maker"), &json!("paraphrase")), "{page}");
    let kept = page["counts"]["kept"].as_u64().unwrap() as usize;
    assert!(kept > 20 && page["counts"]["fell"]["disputed"].as_u64().unwrap() > 5, "{page}");

    let refused = bench.run(&["data", "grown", "grow-1", "--accept", "--where", "leak"]);
    assert_eq!(refused.status.code(), Some(2), "what leaks is never taken in: {refused:?}");
    let done = bench.json(&["data", "grown", "grow-1", "--accept"]);
    assert!(
        done["done"].as_str().unwrap().contains(&format!("{kept} rows in data/grown/grow-1.jsonl")),
        "{done}"
    );
    let file = fs::read_to_string(bench.root.join("data/grown/grow-1.jsonl")).unwrap();
    assert_eq!(file.lines().count(), kept);
    let first: Value = serde_json::from_str(file.lines().next().unwrap()).unwrap();
    assert!(["id", "text", "team", "channel"].iter().all(|field| first[*field].is_string()), "{first}");
    let parent = first["synthetic"]["parents"][0].as_str().unwrap().to_owned();

    // They are rows like others, of the train part, and found by where they are from.
    let total =
        |filter: &str| bench.json(&["data", "rows", "--where", filter])["total"].as_u64().unwrap() as usize;
    assert_eq!((total(""), total("synthetic:paraphrase"), total("maker:maker")), (240 + kept, kept, kept));
    assert_eq!((total("synthetic:reverse"), total("-synthetic:*")), (0, 240));
    assert_eq!(total(&format!("parent:{parent}")), 1);
    let eval = bench.json(&["run", "eval"]);
    assert_eq!(eval["state"], "done", "{eval}");
    assert!(!bench.state().join("runs/strata-2").exists(), "made rows need no strata to have a part");
    let parts_after = parts(&bench);
    for (id, part) in &parts_after {
        match parts_before.get(id) {
            Some(before) => assert_eq!(part, before, "{id}"),
            None => assert_eq!(part, "train", "{id}"),
        }
    }
    // What was made is not grown from.
    let again = bench.json(&["run", "grow", "--set", "method=reverse"]);
    assert_eq!(again["metrics"]["made"], run["metrics"]["made"], "{again}");

    let undone = bench.run(&["prompts", "undo"]);
    assert!(undone.status.success(), "{undone:?}");
    assert!(!bench.root.join("data/grown/grow-1.jsonl").exists());
    assert_eq!((total(""), total("synthetic:*")), (240, 0));

    // A person may know better than whoever checks.
    let done = bench.json(&["data", "grown", "grow-1", "--accept", "--where", "disputed"]);
    assert!(done["done"].as_str().unwrap().contains("rows in data/grown/grow-1.jsonl"), "{done}");
    let out = bench.json(&["data", "grown", "grow-1", "--withdraw"]);
    assert!(out["done"].as_str().unwrap().contains("out of the data"), "{out}");
    assert_eq!(total(""), 240);
    let wrong = bench.run(&["data", "grown", "eval-1"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("only `grow` makes rows"), "{wrong:?}");
}

#[test]
fn rows_whose_parents_are_scored_on_by_now_are_in_no_run() {
    let (bench, _sorter, _maker) = bench(Server::start(vec![Reply::Say(makes)]));
    assert_eq!(bench.json(&["run", "grow"])["state"], "done");
    assert!(bench.json(&["data", "grown", "grow-1", "--accept"])["done"].is_string());
    let made: Vec<Value> = fs::read_to_string(bench.root.join("data/grown/grow-1.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // All parts are given anew: parents go where their children are.
    fs::remove_dir_all(bench.state().join("imports")).unwrap();
    let toml = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    let toml = toml.replace("reserve = 0.1\n", "reserve = 0.1\nseed = 99\n");
    fs::write(bench.root.join("workspace.toml"), toml).unwrap();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let parts = parts(&bench);
    for row in &made {
        let (id, parent) = (row["id"].as_str().unwrap(), row["synthetic"]["parents"][0].as_str().unwrap());
        assert_eq!((parts[id].as_str(), parts[parent].as_str()), ("train", "train"), "{row}");
    }
    // One that claims a parent of the eval part is left out.
    let scored = parts.iter().find(|(_, part)| *part == "eval").unwrap().0.clone();
    let forged = json!({ "id": "grown-x", "text": "cards and something else", "team": "cards", "channel": "chat",
        "synthetic": { "parents": [scored], "maker": "m", "method": "paraphrase", "run": "grow-9" } });
    fs::write(bench.root.join("data/grown/grow-9.jsonl"), format!("{forged}\n")).unwrap();
    let run = bench.launch("prompt", &["fan_out=8", "epochs=1", "rows=16", "candidate=baseline"]);
    until("the run to be frozen", || {
        bench.state().join("runs").join(&run).join("spec.json").exists().then_some(())
    });
    let rows = fs::read_to_string(bench.state().join("runs").join(&run).join("inputs/rows.jsonl")).unwrap();
    assert!(!rows.contains("grown-x"), "it learns nothing from a child of a row that it is scored on");
    assert!(rows.contains(made[0]["id"].as_str().unwrap()), "the others are there");
}

#[test]
fn a_run_that_is_stopped_or_killed_goes_on_and_pays_for_nothing_twice() {
    let (bench, sorter, maker) = bench(Server::start_until(30, Reply::Say(makes)));
    let run = bench.launch("grow", &[]);
    until("the maker to be asked", || (maker.asked().len() >= 30).then_some(()));
    bench.kill_worker(&run);
    until("the run to be found dead", || (bench.run_state(&run) == "interrupted").then_some(()));
    assert!(!all(&bench, &run, "kept").is_empty(), "what was verified before is there");
    maker.go_on();
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    let record = bench.wait_state(&run, "done");
    let questions = |server: &Server| -> (usize, usize) {
        let mut all: Vec<String> = server.asked().iter().map(|a| a.body["messages"].to_string()).collect();
        let n = all.len();
        all.sort();
        all.dedup();
        (n, all.len())
    };
    let (asked, different) = questions(&maker);
    assert_eq!(different as f64, record["metrics"]["made"].as_f64().unwrap(), "{record}");
    assert!(asked - different <= 4, "only what was on its way is asked again: {asked} of {different}");
    let (asked, different) = questions(&sorter);
    assert!(asked - different <= 8, "{asked} of {different}");
    let made: Vec<Value> = all(&bench, &run, "");
    let mut ids: Vec<&str> = made.iter().filter_map(|one| one["parents"][0].as_str()).collect();
    ids.sort_unstable();
    let before = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), before, "each once");

    // A second one is stopped in the middle, and keeps what it verified.
    let (bench, _sorter, maker) = self::bench(Server::start_until(20, Reply::Say(makes)));
    let run = bench.launch("grow", &[]);
    until("the maker to be asked", || (maker.asked().len() >= 20).then_some(()));
    assert!(bench.run(&["runs", "stop", &run]).status.success());
    maker.go_on();
    let record = bench.wait_state(&run, "stopped");
    let kept = record["metrics"]["kept"].as_f64().unwrap();
    assert!(kept > 0.0 && record["metrics"]["made"].as_f64().unwrap() < 96.0, "{record}");
    assert_eq!(all(&bench, &run, "kept").len() as f64, kept);
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    let record = bench.wait_state(&run, "done");
    assert!(record["metrics"]["kept"].as_f64().unwrap() > kept, "{record}");
}

#[test]
fn nobody_who_is_silent_keeps_a_run_from_being_cancelled() {
    let (bench, sorter, maker) = bench(Server::start_until(20, Reply::Say(makes)));
    let ready = Server::start(vec![Reply::Say(makes)]);
    let run = bench.launch("grow", &[]);
    until("the maker to be asked", || (maker.asked().len() >= 20).then_some(()));
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");
    assert!(maker.asked().len() <= 24, "nothing more was asked: {}", maker.asked().len());

    // Nor one who checks: its worker waits for it, and is ended.
    let silent = Server::start(vec![Reply::Stall(vec![])]);
    let text = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    fs::write(
        bench.root.join("workspace.toml"),
        text.replace(&sorter.endpoint(), &silent.endpoint()).replace(&maker.endpoint(), &ready.endpoint()),
    )
    .unwrap();
    let run = bench.launch("grow", &[]);
    until("who checks to be asked", || (!silent.asked().is_empty()).then_some(()));
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");

    let embedder = Server::start(vec![Reply::Stall(vec![])]);
    let toml = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    let toml = toml.replacen("[data]\n", "[data]\nembedder = \"far\"\n", 1);
    let more = format!("\n[models.far]\nendpoint = \"{}\"\nmodel = \"e\"\n", embedder.endpoint());
    fs::write(bench.root.join("workspace.toml"), toml + &more).unwrap();
    let run = bench.launch("grow", &[]);
    until("the embedder to be asked", || (!embedder.asked().is_empty()).then_some(()));
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");
}

#[test]
fn a_budget_of_calls_is_held_and_wrong_wishes_are_refused_before_anything_is_asked() {
    let (bench, sorter, maker) = bench(Server::start(vec![Reply::Say(makes)]));
    for (set, said) in [
        ("maker=nobody", "no model"),
        ("method=guess", "paraphrase"),
        ("fields=[\"txt\"]", "did you mean `text`"),
        ("rows=sample:odd:3", "tuning.grow.rows"),
        ("per_row=0", "per_row"),
    ] {
        let refused = bench.run(&["run", "grow", "--set", set]);
        let err = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && err.contains(said), "{set}: {err}");
    }
    assert!(maker.asked().is_empty() && sorter.asked().is_empty());
    let run = bench.json(&["run", "grow", "--set", "budget.calls=30"]);
    assert_eq!(run["state"], "done", "{run}");
    assert!(maker.asked().len() + sorter.asked().len() <= 30, "{run}");
    assert!(run["metrics"]["made"].as_f64().unwrap() >= 10.0, "{run}");
}

#[test]
fn made_rows_go_in_one_by_one_come_out_again_and_every_step_can_be_taken_back() {
    let (bench, _sorter, _maker) = bench(Server::start(vec![Reply::Say(makes)]));
    assert_eq!(bench.json(&["run", "grow"])["state"], "done");
    let kept = all(&bench, "grow-1", "kept");
    let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
    let (first, second) = (id(&kept[0]), id(&kept[1]));
    let file = bench.root.join("data/grown/grow-1.jsonl");
    let lines = || fs::read_to_string(&file).unwrap_or_default().lines().count();
    let accept = |filter: &str| bench.json(&["data", "grown", "grow-1", "--accept", "--where", filter]);
    let said = |value: &Value| value["done"].as_str().unwrap().to_owned();
    let one = said(&accept(&format!("id:{first}")));
    assert!(one.starts_with("1 row in data/grown/grow-1.jsonl, "), "{one}");
    let two = said(&accept(&format!("id:{second}")));
    assert!(two.starts_with("1 row in data/grown/grow-1.jsonl (2 with those before)"), "{two}");
    // A disputed one by its name.
    let disputed = id(&all(&bench, "grow-1", "disputed")[0]);
    accept(&format!("id:{disputed}"));
    assert_eq!(lines(), 3);
    assert!(said(&accept(&format!("id:{first}"))).contains("is in data/grown/grow-1.jsonl already"));
    assert_eq!(lines(), 3);
    let ids = |filter: &str| all(&bench, "grow-1", filter).iter().map(id).collect::<Vec<_>>();
    let mut accepted = ids("accepted");
    accepted.sort();
    let mut want = vec![first.clone(), second.clone(), disputed.clone()];
    want.sort();
    assert_eq!(accepted, want);
    assert!(all(&bench, "grow-1", "accepted").iter().all(|one| one["accepted"] == true));
    let page = bench.json(&["data", "grown", "grow-1", "--where", "kept", "-n", "5"]);
    assert_eq!(page["open"].as_u64().unwrap() as usize, kept.len() - 2, "{page}");
    assert_eq!(page["rows"].as_array().unwrap().len(), 5);

    // Out again: one, by what it fell at, all.
    let out = bench.json(&["data", "grown", "grow-1", "--withdraw", "--where", "disputed"]);
    assert!(said(&out).contains("1 row of grow-1 is out of the data, 2 stay"), "{out}");
    let none = bench.run(&["data", "grown", "grow-1", "--withdraw", "--where", "disputed"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    let undo = || assert!(bench.run(&["prompts", "undo"]).status.success());
    undo();
    assert_eq!((lines(), ids("accepted").len()), (3, 3));
    undo();
    undo();
    assert_eq!(ids("accepted"), std::slice::from_ref(&first));
    // What people wrote into the file stays when more is taken in.
    let edited = fs::read_to_string(&file).unwrap().replace("\"channel\":\"", "\"channel\":\"by hand ");
    fs::write(&file, edited).unwrap();
    accept("kept");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.lines().next().unwrap().contains("by hand ") && text.lines().count() == kept.len(),
        "{text}"
    );

    // An engine that died between the journal and the file finds that out.
    undo();
    let before = fs::read(&file).unwrap();
    accept("kept");
    bench.kill_engine();
    fs::write(&file, before).unwrap();
    fs::write(bench.state().join("grown/pending"), "").unwrap();
    assert_eq!(ids("accepted").len(), kept.len(), "the journal says so");
    assert_eq!(lines(), kept.len());
    assert!(!bench.state().join("grown/pending").exists());
}

#[test]
fn more_is_wanted_in_mid_run_and_after_the_budget_is_spent_and_a_kill_loses_no_wish() {
    let (bench, _sorter, maker) = bench(Server::start_until(20, Reply::Say(makes)));
    let run = bench.launch("grow", &[]);
    until("the maker to be asked", || (maker.asked().len() >= 20).then_some(()));
    let steer = |run: &str, changes: &[&str]| bench.run(&[&["runs", "steer", run], changes].concat());
    let refused = steer(&run, &["hint=be brief"]);
    let err = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && err.contains("per_row=4"), "{err}");
    assert!(steer(&run, &["per_row=2"]).status.success());
    // What was acknowledged holds, whatever dies.
    bench.kill_worker(&run);
    bench.kill_engine();
    until("the run to be found dead", || (bench.run_state(&run) == "interrupted").then_some(()));
    maker.go_on();
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    let record = bench.wait_state(&run, "done");
    let first = bench.json(&["data", "grown", &run]);
    let made = record["metrics"]["made"].as_f64().unwrap();
    let rows = fs::read_to_string(bench.state().join("runs").join(&run).join("inputs/rows.jsonl")).unwrap();
    assert_eq!(made, 2.0 * rows.lines().count() as f64, "{record} {first}");
    assert_eq!(record["resumable"], json!(false), "{record}");
    let over = steer(&run, &["per_row=3"]);
    assert!(String::from_utf8_lossy(&over.stderr).contains("is done already"), "{over:?}");

    // A budget that is spent is no end: with more of it the run goes on from its answers.
    let (bench, sorter, maker) = self::bench(Server::start(vec![Reply::Say(makes)]));
    let run = bench.json(&["run", "grow", "--set", "budget.calls=40"]);
    let (id, before) = (run["run"].as_str().unwrap(), run["metrics"]["made"].as_f64().unwrap());
    assert!(run["state"] == "done" && run["metrics"]["unmade"].as_f64().unwrap() > 0.0, "{run}");
    let said = bench.run(&["runs", "steer", id, "budget.calls=4000"]);
    assert!(said.status.success(), "{said:?}");
    assert!(bench.run(&["runs", "resume", id]).status.success());
    let record = until("it to be through", || {
        let record = bench.record(id);
        (record["state"] == "done" && record["metrics"]["unmade"] == 0.0).then_some(record)
    });
    assert!(record["metrics"]["made"].as_f64().unwrap() > before, "{record}");
    for server in [&maker, &sorter] {
        let mut all: Vec<String> = server.asked().iter().map(|a| a.body["messages"].to_string()).collect();
        let asked = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), asked, "no answer is paid for twice");
    }
}
