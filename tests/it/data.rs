//! `init`, `check` and `data import`, as scripts use them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn tunebench(dir: &Path, args: &[&str]) -> Output {
    // An engine that writes the journal is soon gone again.
    Command::new(env!("CARGO_BIN_EXE_tunebench"))
        .current_dir(dir)
        .args(args)
        .env("TUNEBENCH_IDLE_SECS", "0.1")
        .output()
        .unwrap()
}

/// Exit code, the last line of stdout as JSON, stderr.
fn json(dir: &Path, args: &[&str]) -> (i32, Value, String) {
    let out = tunebench(dir, &[args, &["--json"]].concat());
    let stdout = String::from_utf8(out.stdout).unwrap();
    let last = stdout.lines().last().unwrap_or("null");
    (out.status.code().unwrap(), serde_json::from_str(last).unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// A small model of random weights.
fn model(dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
    let to = dir.join("model");
    std::fs::create_dir(&to).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

fn table(dir: &Path) {
    let mut text = String::from("text,channel,label\n");
    for i in 0..120 {
        let (channel, label) = [("chat", "cards"), ("mail", "money"), ("mail", "cards")][i % 3];
        text.push_str(&format!("\"message, number {i}\",{channel},{label}\n"));
    }
    text.push_str("one,too,many,fields\n");
    std::fs::write(dir.join("rows.csv"), text).unwrap();
}

const INIT: [&str; 6] = ["init", "ws", "--data", "rows.csv", "--model", "model"];

#[test]
fn data_can_be_looked_at_without_a_model_and_a_run_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String =
        (0..60).map(|i| format!("where is my card {i},cards\nrefund me {i},refunds\n")).collect();
    std::fs::write(dir.path().join("rows.csv"), format!("text,label\n{rows}")).unwrap();
    let (code, made, _) = json(dir.path(), &["init", "ws", "--data", "rows.csv"]);
    assert_eq!((code, made["rows"].as_u64()), (0, Some(120)), "{made}");
    assert!(made["why"].to_string().contains("model: none yet"), "{made}");
    let (code, counted, _) = json(dir.path(), &["-C", "ws", "data", "count", "label"]);
    assert_eq!(code, 0, "{counted}");
    let (code, built, said) = json(dir.path(), &["-C", "ws", "strata", "build"]);
    assert_eq!(code, 0, "{built} {said}");
    let (code, _, said) = json(dir.path(), &["-C", "ws", "run", "eval"]);
    assert!(
        code == 2 && said.contains("model has no config.json; put the model's files there"),
        "{code} {said}"
    );
}

#[test]
fn a_workspace_is_made_checked_and_imported() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    table(dir.path());
    let (code, made, _) = json(dir.path(), &INIT);
    assert_eq!(code, 0);
    assert_eq!(
        (&made["rows"], &made["task"], &made["gold"]),
        (&120.into(), &"classification".into(), &"label".into())
    );
    assert_eq!(
        (&made["input"], &made["dimensions"]),
        (&"{{ text }}".into(), &serde_json::json!(["channel"]))
    );
    let toml = std::fs::read_to_string(dir.path().join("ws/workspace.toml")).unwrap();
    assert!(toml.contains("\"../rows.csv\"") && toml.contains("\"../model\""), "{toml}");
    assert!(!dir.path().join("ws/.tunebench").exists(), "init does not index");

    let (code, found, stderr) = json(dir.path(), &["-C", "ws", "check"]);
    assert_eq!((code, &found["problems"]), (0, &serde_json::json!([])), "{stderr}");
    assert!(stderr.contains("rows.csv:122: 4 fields, but the header has 3"), "{stderr}");

    let (code, report, _) = json(dir.path(), &["-C", "ws", "data", "import"]);
    assert_eq!(
        (code, &report["rows"], &report["cached"], &report["format"]),
        (0, &120.into(), &false.into(), &"csv/records".into())
    );
    assert_eq!(report["quarantined"][0]["line"], 122);
    assert!(report["peak_mib"].as_f64().unwrap() > 0.0 && report["bytes"].as_u64().unwrap() > 1000);
    let (_, again, _) = json(dir.path(), &["-C", "ws", "data", "import"]);
    assert_eq!(again["cached"], true);
    let (_, forced, _) = json(dir.path(), &["-C", "ws", "data", "import", "--force"]);
    assert_eq!((&forced["cached"], &forced["rows"]), (&false.into(), &120.into()));
    // The two that indexed are in the journal.
    let journal = std::fs::read_to_string(dir.path().join("ws/.tunebench/journal.jsonl")).unwrap();
    let entries: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = entries.iter().map(|e| (e["op"].as_str().unwrap(), &e["args"]["rows"])).collect();
    assert_eq!(said, [("import", &120.into()), ("import", &120.into())]);
}

#[test]
fn init_keeps_what_is_there_and_refuses_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    table(dir.path());
    std::fs::create_dir(dir.path().join("ws")).unwrap();
    std::fs::write(dir.path().join("ws/workspace.toml"), "mine").unwrap();
    let (code, said, _) = json(dir.path(), &INIT);
    assert!(code == 2 && said["error"].as_str().unwrap().contains("there already"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("ws/workspace.toml")).unwrap(), "mine");
    for (args, expected) in [
        (&["init", "x", "--data", "none.csv", "--model", "model"][..], "none.csv"),
        (&["init", "x", "--data", "rows.csv", "--model", "none"], "none"),
        (
            &["init", "x", "--data", "rows.csv", "--model", "model", "--gold", "lable"],
            "did you mean `label`?",
        ),
        (&["init", "x", "--data", "rows.csv", "--model", "model", "--input", "txt"], "did you mean `text`?"),
        (
            &["init", "x", "--data", "rows.csv", "--model", "model", "--input", "{{ txt }}"],
            "did you mean `text`?",
        ),
        (
            &["init", "x", "--data", "rows.csv", "--model", "model", "--input", "{{ text"],
            "not a valid template",
        ),
    ] {
        let (code, said, _) = json(dir.path(), args);
        assert!(said["error"].as_str().unwrap().contains(expected), "{said}");
        assert!(code == 2 || code == 1 && expected == "none.csv", "{code} {said}");
        assert!(!dir.path().join("x/workspace.toml").exists());
    }
}

#[test]
fn check_lists_every_problem_with_file_and_line_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    table(dir.path());
    assert_eq!(json(dir.path(), &INIT).0, 0);
    let path = dir.path().join("ws/workspace.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    let toml = toml.replace("gold = \"label\"", "gold = \"lable\"").replace("{{ text }}", "{{ txet }}");
    std::fs::write(&path, &toml).unwrap();
    std::fs::write(dir.path().join("ws/prompts/classify.md"), "Sort:\n{{ imput }}\n").unwrap();
    std::fs::remove_file(dir.path().join("model/tokenizer.json")).unwrap();
    let line_of = |what: &str| toml.lines().position(|l| l.contains(what)).unwrap() as u64 + 1;
    let (code, found, _) = json(dir.path(), &["-C", "ws", "check"]);
    assert_eq!(code, 1);
    let problems: Vec<(String, u64, String)> = found["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            (
                p["file"].as_str().unwrap().into(),
                p["line"].as_u64().unwrap(),
                p["message"].as_str().unwrap().into(),
            )
        })
        .collect();
    let has = |file: &str, line: u64, part: &str| {
        problems.iter().any(|(f, l, m)| f == file && *l == line && m.contains(part))
    };
    assert!(has("workspace.toml", line_of("lable"), "did you mean `label`?"), "{problems:?}");
    assert!(has("workspace.toml", line_of("txet"), "did you mean `text`?"), "{problems:?}");
    assert!(has("workspace.toml", line_of("../model"), "tokenizer.json"), "{problems:?}");
    assert!(has("prompts/classify.md", 2, "did you mean `input`?"), "{problems:?}");

    std::fs::write(&path, toml.replace("[eval]", "[evil]\nx = 1\n[eval]")).unwrap();
    let (code, found, _) = json(dir.path(), &["-C", "ws", "check"]);
    assert!(
        code == 1 && found["problems"][0]["message"].as_str().unwrap().contains("did you mean `eval`?"),
        "{found}"
    );
    assert_eq!(tunebench(dir.path(), &["-C", "nowhere", "check"]).status.code(), Some(2));
}

#[test]
fn what_the_data_says_never_reaches_the_terminal_as_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    std::fs::write(
        dir.path().join("rows.jsonl"),
        "{\"t\u{1b}[31m\": \"x\", \"label\": \"a\"}\n{\"\u{1b}]0;owned\u{7}\n",
    )
    .unwrap();
    for args in [
        &["init", "ws", "--data", "rows.jsonl", "--model", "model"][..],
        &["-C", "ws", "check"],
        &["-C", "ws", "data", "import"],
    ] {
        let out = tunebench(dir.path(), args);
        let bytes = [out.stdout, out.stderr].concat();
        assert!(!bytes.contains(&0x1b) && !bytes.contains(&7), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn init_leaves_the_labels_out_where_the_model_has_no_room_for_them() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    let mut text = String::from("text,label\n");
    for i in 0..300 {
        text.push_str(&format!("message {i},a long name of a label {}\n", i % 60));
    }
    std::fs::write(dir.path().join("rows.csv"), text).unwrap();
    let (code, made, _) = json(dir.path(), &INIT);
    assert_eq!(code, 0);
    let why = made["why"].to_string();
    assert!(why.contains("does not list the 60 labels") && why.contains("context is 96"), "{why}");
    let prompt = std::fs::read_to_string(dir.path().join("ws/prompts/classify.md")).unwrap();
    assert_eq!(prompt, "{{ input }}\n\nAnswer with the label and nothing else.\n");
    let (code, found, stderr) = json(dir.path(), &["-C", "ws", "check"]);
    assert_eq!((code, &found["problems"]), (0, &serde_json::json!([])), "{stderr}");
}

#[test]
fn init_says_what_to_change_where_nothing_fits() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    let mut text = String::from("text,label\n");
    for i in 0..30 {
        text.push_str(&format!("{},{}\n", "many words ".repeat(60), ["a", "b"][i % 2]));
    }
    std::fs::write(dir.path().join("rows.csv"), text).unwrap();
    let (code, made, _) = json(dir.path(), &[&INIT[..], &["--input", "text"]].concat());
    assert!(code == 0 && made["why"].to_string().contains("take a model with a longer context"), "{made}");
    let (code, found, _) = json(dir.path(), &["-C", "ws", "check"]);
    let found = found["problems"][0]["message"].to_string();
    assert!(code == 1 && found.contains("30 of 30 rows are too long"), "{found}");
}

#[test]
fn files_without_rows_say_so() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    for (name, text, said) in [
        ("h.csv", "text,label\n", "h.csv: 0 rows: the file has a header and no rows"),
        ("e.json", "{\"data\": [], \"version\": 1}", "e.json: 0 rows: the file has none"),
        ("b.jsonl", "{\n", "b.jsonl: no usable row: 1 bad one"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
        let (code, found, _) = json(dir.path(), &["init", "x", "--data", name, "--model", "model"]);
        assert!(code == 2 && found["error"].as_str().unwrap() == said, "{found}");
    }
    // One row of one field is no envelope, though a list in it is empty.
    std::fs::write(dir.path().join("o.json"), "{\"text\": \"hello\", \"tags\": []}").unwrap();
    let (code, made, _) = json(dir.path(), &["init", "x", "--data", "o.json", "--model", "model"]);
    assert!(code == 0 && made["rows"] == 1, "{made}");
}

#[test]
fn check_refuses_forms_of_answers_that_are_wrong_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    table(dir.path());
    assert_eq!(json(dir.path(), &INIT).0, 0);
    let path = dir.path().join("ws/workspace.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    let line = toml.lines().position(|l| l.starts_with("output =")).unwrap() + 1;
    let text = toml.replace("output = \"label\"", "output = \"text\"");
    std::fs::create_dir(dir.path().join("ws/schemas")).unwrap();
    std::fs::write(dir.path().join("ws/schemas/broken.json"), "{\n  \"type\": \"object\",\n}").unwrap();
    std::fs::write(dir.path().join("ws/schemas/wrong.json"), "{\"type\": \"objekt\"}").unwrap();
    let at = line + 1;
    for (toml, constrain, file, at, says) in [
        (&text, "{ regex = \"(a\" }", "workspace.toml", at, "unclosed group"),
        (&text, "{ schema = \"schemas/wrong.json\" }", "workspace.toml", at, "objekt"),
        (&text, "{ schema = \"schemas/broken.json\" }", "schemas/broken.json", 3, "not valid JSON"),
        (&text, "\"labels\"", "workspace.toml", at, "output = \"label\""),
        (&toml, "\"labels\"", "", 0, ""),
        (&text, "{ regex = \"[a-z]+\" }", "", 0, ""),
    ] {
        let output = if toml.contains("output = \"label\"") { "label" } else { "text" };
        let with = format!("output = \"{output}\"\nconstrain = {constrain}");
        std::fs::write(&path, toml.replace(&format!("output = \"{output}\""), &with)).unwrap();
        let (code, found, _) = json(dir.path(), &["-C", "ws", "check"]);
        let problems = found["problems"].as_array().unwrap();
        if says.is_empty() {
            assert_eq!((code, problems.len()), (0, 0), "{constrain}: {found}");
            continue;
        }
        let said = problems
            .iter()
            .any(|p| p["file"] == file && p["line"] == at && p["message"].as_str().unwrap().contains(says));
        assert!(code == 1 && said, "{constrain}: {found}");
    }
}

#[test]
fn what_is_asked_of_nothing_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["generate", "--model", "none", "--prompt", "x"][..],
        &["model", "info", "none"],
        &["model", "verify", "none", "--reference", "r"],
        &["init", "x", "--data", "d.csv", "--model", "none"],
    ] {
        let (code, said, _) = json(dir.path(), args);
        let said = said["error"].as_str().unwrap();
        assert!(code == 2 && said.contains("none: does not exist") && said.contains("model pull"), "{said}");
    }
    let (code, said, _) = json(dir.path(), &["strata", "sample", "--per", "0"]);
    assert!(code == 2 && said["error"].as_str().unwrap().contains("at least 1"), "{said}");
}

/// A workspace over the table, imported.
fn imported() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    table(dir.path());
    assert_eq!(json(dir.path(), &INIT).0, 0);
    assert_eq!(json(&dir.path().join("ws"), &["data", "import"]).0, 0);
    dir
}

#[test]
fn rows_are_found_by_a_filter_over_any_field() {
    let dir = imported();
    let ws = dir.path().join("ws");
    let found = |filter: &str| json(&ws, &["data", "rows", "--where", filter]);
    for (filter, rows) in [
        ("", 120),
        ("channel:chat", 40),
        ("channel=CHAT", 40),
        ("channel=cha", 0),
        ("-channel:chat", 80),
        ("channel:chat,mail gold:money", 40),
        ("label:cards channel:mail", 40),
        ("\"message, number 7\"", 11),
        ("\"NUMBER 11\"", 11),
        ("len>17", 110),
        ("len>17 len<19", 90),
        ("mark:*", 0),
        ("-mark:*", 120),
        ("base:missing", 120),
        ("part:eval -part:eval", 0),
        ("field.channel:chat", 40),
        ("text:\"number 5\"", 11),
    ] {
        let (code, page, said) = found(filter);
        assert_eq!((code, &page["total"]), (0, &rows.into()), "{filter}: {said}");
    }
    let (code, _, said) = found("chanel:chat");
    assert_eq!(code, 2);
    assert!(said.contains("no row has `chanel`, the nearest is `channel`"), "{said}");
    let (code, _, said) = found("len>long");
    assert!(code == 2 && said.contains("`long`"), "{said}");
    let (_, page, _) = json(&ws, &["data", "rows", "--sort", "length", "--from", "2", "-n", "3"]);
    let lengths: Vec<u64> =
        page["rows"].as_array().unwrap().iter().map(|r| r["length"].as_u64().unwrap()).collect();
    assert_eq!(lengths, [19, 19, 19]);
}

#[test]
fn values_are_counted_by_one_key_by_several_and_in_bins() {
    let dir = imported();
    let ws = dir.path().join("ws");
    let groups = |args: &[&str]| -> Vec<(String, u64)> {
        let (code, counts, said) = json(&ws, &[&["data", "count"], args].concat());
        assert_eq!(code, 0, "{args:?}: {said}");
        let group = |g: &Value| {
            let values: Vec<&str> =
                g["values"].as_array().unwrap().iter().map(|v| v.as_str().unwrap_or("-")).collect();
            (values.join("+"), g["rows"].as_u64().unwrap())
        };
        counts["groups"].as_array().unwrap().iter().map(group).collect()
    };
    let said = |pairs: &[(&str, u64)]| pairs.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(groups(&["channel"]), said(&[("mail", 80), ("chat", 40)]));
    assert_eq!(
        groups(&["channel", "label"]),
        said(&[("chat+cards", 40), ("mail+cards", 40), ("mail+money", 40)])
    );
    assert_eq!(groups(&["len/10", "--where", "channel:chat"]), said(&[("10", 40)]));
    assert_eq!(groups(&["len/1"]), said(&[("17", 10), ("18", 90), ("19", 20)]));
    assert_eq!(groups(&["mark"]), said(&[("-", 120)]));
    let (code, _, error) = json(&ws, &["data", "count", "labell"]);
    assert!(code == 2 && error.contains("`label`"), "{error}");
}

#[test]
fn rows_are_exported_and_read_back_in_every_format() {
    let dir = imported();
    let ws = dir.path().join("ws");
    let row = |n: usize| format!("message, number {n}");
    for name in ["out.jsonl", "out.csv", "out.parquet"] {
        let file = dir.path().join(name);
        let path = file.to_str().unwrap();
        let (code, _, said) = json(&ws, &["data", "export", path, "--where", "channel:chat"]);
        assert_eq!(code, 0, "{name}: {said}");
        let (code, _, said) = json(&ws, &["data", "export", path]);
        assert!(code == 2 && said.contains("is there already"), "{said}");
        let again = format!("again-{}", name.replace('.', "-"));
        let (code, made, said) = json(dir.path(), &["init", &again, "--data", path, "--model", "model"]);
        assert_eq!((code, &made["rows"]), (0, &40.into()), "{name}: {said}");
        let (_, page, _) = json(&dir.path().join(&again), &["data", "rows", "-n", "2"]);
        assert_eq!(page["rows"][1]["text"], row(3).as_str(), "{name}: {page}");
        assert_eq!(page["rows"][1]["gold"], "cards");
    }
    let (code, _, said) = json(&ws, &["data", "export", "out.xlsx"]);
    assert!(code == 2 && said.contains(".jsonl, .csv or .parquet"), "{said}");
}

#[test]
fn views_are_saved_used_undone_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    table(dir.path());
    assert_eq!(json(dir.path(), &INIT).0, 0);
    let data = |args: &[&str]| json(dir.path(), &[&["-C", "ws", "data"], args].concat());
    let (code, said, _) = data(&["views", "--save", "mail", "--where", "channel:mail lable:x"]);
    assert!(code == 2 && said["error"].as_str().unwrap().contains("the nearest is `label`"), "{said}");
    assert_eq!(data(&["views", "--save", "mail", "--where", "channel:mail", "--sort", "length"]).0, 0);
    let (_, views, _) = data(&["views"]);
    assert_eq!(views["views"]["mail"]["query"]["text"], "channel:mail");
    assert_eq!(data(&["rows", "--view", "mail"]).1["total"], 80);
    assert_eq!(data(&["rows", "--view", "mail", "--where", "label=money"]).1["total"], 40);
    let (_, counts, _) = data(&["count", "label", "--view", "mail"]);
    assert_eq!((&counts["rows"], &counts["distinct"]), (&80.into(), &2.into()));
    let file = dir.path().join("mail.csv");
    assert_eq!(data(&["export", file.to_str().unwrap(), "--view", "mail"]).0, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 81);
    let (code, said, _) = data(&["rows", "--view", "male"]);
    assert!(code == 2 && said["error"].as_str().unwrap().contains("the nearest is `mail`"), "{said}");
    assert_eq!(data(&["views", "--delete", "mail"]).0, 0);
    assert_eq!(data(&["views"]).1["views"], serde_json::json!({}));
    let (code, said, _) = data(&["views", "--delete", "mail"]);
    assert!(code == 2 && said["error"].as_str().unwrap().contains("no view `mail`"), "{said}");
    let journal = std::fs::read_to_string(dir.path().join("ws/.tunebench/journal.jsonl")).unwrap();
    assert_eq!(journal.lines().filter(|line| line.contains("\"op\":\"view\"")).count(), 2, "{journal}");
}
