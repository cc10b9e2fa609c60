//! Results made elsewhere, and reports.

use std::fs;

use serde_json::{Value, json};
use tunebench::domain::api::{Request, Response};

use super::bench::Bench;
use super::kills::{ask, client, runtime};

fn import(bench: &Bench, file: &str, text: &str, args: &[&str]) -> Value {
    let path = bench.root.join(file);
    fs::write(&path, text).unwrap();
    let mut all = vec!["outcomes", "import", path.to_str().unwrap()];
    all.extend(args);
    bench.json(&all)
}

fn on_board(bench: &Bench) -> Vec<String> {
    let board = bench.json(&["board"]);
    board["rows"].as_array().unwrap().iter().map(|r| r["candidate"].as_str().unwrap().to_owned()).collect()
}

/// The inputs and the gold of `Bench`'s rows.
fn text(i: usize) -> (String, &'static str) {
    let team = ["cards", "loans"][i / 2 % 2];
    (format!("the {team} case {i}"), team)
}

#[test]
fn rows_are_found_by_the_text_of_their_input_and_each_filter_is_a_candidate() {
    let bench = Bench::new();
    let mut lines = String::new();
    for filter in ["strict", "flexible"] {
        for i in 0..20 {
            let (question, team) = text(i);
            let right = filter == "flexible" || i % 2 == 0;
            let answer = if right { team } else { "none" };
            lines += &json!({
                "doc_id": 59 - i, "doc": { "question": format!(" {question}\r\n"), "answer": team }, "target": team,
                "arguments": [["", {}]], "resps": [[answer]], "filtered_resps": [answer], "filter": filter,
                "exact_match": if right { 1.0 } else { 0.0 },
            })
            .to_string();
            lines.push('\n');
        }
    }
    let told = import(&bench, "samples_x.jsonl", &lines, &["--candidate", "other"]);
    assert_eq!((told["format"].as_str(), told["rows"].as_u64()), (Some("lm-eval"), Some(40)), "{told}");
    assert_eq!((told["matched"].as_u64(), &told["how"]), (Some(40), &json!({ "input": 40 })), "{told}");
    assert_eq!(on_board(&bench), ["other-strict", "other-flexible"], "in the order of the file");
    let comparison = bench.json(&["compare", "other-strict", "other-flexible"]);
    assert_eq!(
        (comparison["n"].as_u64(), comparison["fixed"].as_u64()),
        (Some(20), Some(10)),
        "{comparison}"
    );
    assert_eq!(comparison["regressed"], 0);
    // The same file again changes nothing; the number of a document is only used where one says so.
    let journal = || fs::read_to_string(bench.state().join("journal.jsonl")).unwrap().lines().count();
    let before = journal();
    import(&bench, "samples_x.jsonl", &lines, &["--candidate", "other"]);
    assert_eq!((journal(), on_board(&bench).len()), (before, 2));
    let said = import(&bench, "samples_x.jsonl", &lines, &["--candidate", "y", "--match", "doc_id"]);
    assert!(said["error"].as_str().unwrap().contains("none of its 40 answers"), "{said}");
    let said =
        import(&bench, "samples_x.jsonl", &lines, &["--candidate", "y", "--match", "question=nothing"]);
    assert!(said["error"].as_str().unwrap().contains("no row has a field `nothing`"), "{said}");
    let told = import(&bench, "samples_x.jsonl", &lines, &["--candidate", "y", "--match", "answer=team"]);
    assert_eq!(told["how"], json!({ "field": 40 }), "{told}");
}

#[test]
fn providers_of_promptfoo_stand_on_the_board_with_tokens_latency_price_and_repeats() {
    let bench = Bench::new();
    let mut results = Vec::new();
    for (provider, ms) in [("big", 700.0), ("small", 70.0)] {
        for i in 0..40 {
            let (message, team) = text(i);
            for repeat in 0..2 {
                let right = provider == "big" || (i + repeat) % 2 == 0;
                results.push(json!({
                    "provider": { "id": provider }, "vars": { "text": message }, "success": right, "score": 0,
                    "response": { "output": if right { team } else { "none" }, "tokenUsage": { "prompt": 30, "completion": 2 } },
                    "latencyMs": ms, "cost": 0.001, "promptIdx": 0, "testIdx": 2 * i + repeat,
                }));
            }
        }
    }
    let whole = json!({ "evalId": "e", "results": { "version": 3, "results": results } }).to_string();
    let told = import(&bench, "out.json", &whole, &["--candidate", "foo", "--match", "text"]);
    assert_eq!((told["format"].as_str(), told["matched"].as_u64()), (Some("promptfoo"), Some(160)), "{told}");
    let board = bench.json(&["board"]);
    let row = |name: &str| {
        let found = board["rows"].as_array().unwrap().iter().find(|r| r["candidate"] == name);
        found.unwrap_or_else(|| panic!("{name}: {board}")).clone()
    };
    let (big, small) = (row("foo-big"), row("foo-small"));
    assert_eq!(
        (big["metrics"]["accuracy"].as_f64(), small["metrics"]["accuracy"].as_f64()),
        (Some(1.0), Some(0.5))
    );
    assert_eq!((big["tokens_in"].as_f64(), big["tokens_out"].as_f64()), (Some(30.0), Some(2.0)));
    assert_eq!(
        (big["usd_per_1k"].as_f64().map(|usd| (usd - 1.0).abs() < 1e-9), big["latency_ms"]["p95"].as_f64()),
        (Some(true), Some(700.0))
    );
    let outcomes = fs::read_dir(bench.state().join("imports/outcomes")).unwrap().map(|e| e.unwrap().path());
    let texts: Vec<String> =
        outcomes.map(|p| fs::read_to_string(p.join("outcomes.jsonl")).unwrap()).collect();
    assert_eq!(texts.len(), 2, "nothing half done is left");
    assert!(texts.iter().all(|t| t.lines().count() == 80 && t.contains("\"sample\":1")));
}

#[test]
fn a_table_is_imported_listed_removed_and_brought_back() {
    let bench = Bench::new();
    let table = "id,output,correct\nr000,cards,true\nr001,loans,false\nnobody,x,true\n";
    let told = import(&bench, "o.csv", table, &["--candidate", "sheet"]);
    assert_eq!((told["format"].as_str(), told["how"].clone()), (Some("csv"), json!({ "id": 2 })), "{told}");
    assert_eq!(told["unmatched"], json!(["line 4: nobody"]));
    let listed = bench.json(&["outcomes", "list"]);
    let one = &listed["imported"][0];
    assert_eq!(
        (one["candidate"].as_str(), one["rows"].as_u64(), one["matched"].as_u64()),
        (Some("sheet"), Some(3), Some(2))
    );
    assert!(one["file"].as_str().unwrap().ends_with("o.csv"));
    assert!(bench.run(&["outcomes", "remove", "sheet"]).status.success());
    assert_eq!(on_board(&bench).len(), 0);
    let again = bench.json(&["outcomes", "remove", "sheet"]);
    assert!(again["error"].as_str().unwrap().contains("none were"), "{again}");
    bench.kill_engine();
    runtime().block_on(async {
        let client = client(&bench).await;
        let Response::Done { message } = ask(&client, Request::Undo).await else { panic!() };
        assert_eq!(message, "took back: removal of the outcomes of sheet");
    });
    assert_eq!(on_board(&bench), ["sheet"]);
    // Other outcomes under the name replace these; taken back, these are there again.
    import(&bench, "o.csv", "id,correct\nr000,false\n", &["--candidate", "sheet"]);
    assert_eq!(bench.json(&["board"])["rows"][0]["n"], 1);
    runtime().block_on(async {
        let client = client(&bench).await;
        ask(&client, Request::Undo).await;
    });
    assert_eq!(bench.json(&["board"])["rows"][0]["n"], 2);
    for (text, says) in [
        ("id,correct\nr000,true\nr000,false\n", "o.csv:3: row `r000` stands in line 2 already"),
        ("id,correct\nr000,maybe\n", "o.csv:2: `correct` is neither true nor false"),
        ("id,correct\nx,true\n", "none of its 1 answers is of a row"),
    ] {
        let said = import(&bench, "o.csv", text, &["--candidate", "other"]);
        assert!(said["error"].as_str().unwrap().contains(says), "{said}");
    }
    assert_eq!(on_board(&bench), ["sheet"], "what failed left nothing");
}

#[test]
fn imports_of_an_older_version_are_taken_over() {
    let bench = Bench::new();
    let old = bench.state().join("imports/outcomes/old");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("candidate.json"), "{\"name\":\"old\",\"rung\":\"imported\",\"stages\":[]}").unwrap();
    fs::write(
        old.join("outcomes.jsonl"),
        "{\"row\":\"r000\",\"row_hash\":\"h\",\"part\":null,\"output\":\"cards\",\"correct\":true}\n",
    )
    .unwrap();
    assert_eq!(on_board(&bench), ["old"]);
    assert!(bench.run(&["outcomes", "remove", "old"]).status.success());
    bench.kill_engine();
    assert_eq!(on_board(&bench).len(), 0);
}

#[test]
fn the_board_and_a_comparison_are_written_as_files() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let lines: String = (0..60)
        .map(|i| format!("{{\"id\": \"r{i:03}\", \"output\": \"<b>{i}\", \"correct\": true}}\n"))
        .collect();
    import(&bench, "o.jsonl", &lines, &["--candidate", "other"]);
    let page = bench.json(&["report"])["path"].as_str().unwrap().to_owned();
    assert!(page.ends_with(".tunebench/reports/board.html"), "{page}");
    assert!(fs::read_to_string(&page).unwrap().contains("<h1>tickets: the board</h1>"));
    let path = bench.json(&["report", "other", "--format", "html"])["path"].as_str().unwrap().to_owned();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        path.ends_with("other-against-baseline.html") && text.contains("tickets: other against baseline")
    );
    assert!(text.contains("&lt;b&gt;") && !text.contains("<b>"), "what a model wrote is no markup");
    let to = bench.root.join("report.csv");
    let written = bench.json(&["report", "baseline", "other", "--to", to.to_str().unwrap()]);
    assert_eq!(written["path"], to.canonicalize().unwrap().to_str().unwrap());
    assert!(fs::read_to_string(&to).unwrap().starts_with("what,name,n,a,b,difference,"));
    let shown = bench.run(&["report", "--format", "md", "--to", "-"]);
    assert!(String::from_utf8_lossy(&shown.stdout).starts_with("# tickets: the board\n"), "{shown:?}");
    for (args, says) in [
        (&["report", "--format", "pdf"][..], "expected one of: md, csv, html"),
        (&["report", "--to", "a.docx"], "say --format"),
        (&["report", "nobody"], "no candidate `nobody`"),
        (&["report", "--metric", "accuracy"], "name two candidates"),
        (&["report", "--to", bench.root.to_str().unwrap(), "--format", "md"], "is a folder"),
        (&["report", "--to", "/proc/no/such.md"], "cannot be written"),
    ] {
        let output = bench.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn models_of_the_workspace_take_their_turn_in_the_same_pipeline_on_the_same_rows() {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    let other = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen3");
    let toml =
        toml.replace("[[stage]]", &format!("[models.other]\npath = \"{}\"\n\n[[stage]]", other.display()));
    fs::write(&path, toml).unwrap();
    let both = bench.json(&["run", "eval", "--model", "base", "--model", "other"]);
    let runs = both["runs"].as_array().unwrap_or_else(|| panic!("{both}"));
    assert!(runs.iter().all(|run| run["state"] == "done"), "{both}");
    let board = bench.json(&["board"]);
    let told: Vec<_> = board["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            (r["candidate"].as_str().unwrap(), r["rung"].as_str().unwrap(), r["n"] == board["eval_rows"])
        })
        .collect();
    assert_eq!(told, [("baseline", "baseline", true), ("other", "model", true)]);
    assert_eq!(both["board"].as_array().unwrap().len(), 2);
    let comparison = bench.json(&["compare", "baseline", "other"]);
    assert_eq!(comparison["n"], board["eval_rows"]);
    // Again: the same two candidates, whatever they are called on the command line.
    let again = bench.json(&["run", "eval", "--model", "other", "--set", "candidate=baseline"]);
    assert_eq!(again["candidate"], "other", "{again}");
    for (args, says) in [
        (
            &["run", "eval", "--model", "othr", "--model", "base"][..],
            "no model is called `othr`; did you mean `other`?",
        ),
        (&["run", "eval", "--model", "base", "--model", "base"], "named twice"),
        (&["run", "train", "--model", "base"], "only evaluations"),
        (&["run", "train", "--set", "model=other"], "set stage.NAME.model"),
    ] {
        let output = bench.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(says), "{args:?}: {said}");
    }
    assert_eq!(
        bench.json(&["runs"])["runs"].as_array().map(Vec::len),
        Some(4),
        "strata and three evaluations"
    );
}
