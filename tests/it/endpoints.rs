//! A workspace whose model stands behind an endpoint: evaluated, refused, resumed, and the key nowhere but where it belongs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::engine::bench::{Bench, until};
use crate::server::{Reply, Server, delta, end, usage};

const VARIABLE: &str = "TUNEBENCH_TEST_CRITIC_KEY";
const KEY: &str = "sk-hush-0123456789abcdef";

fn cards() -> Reply {
    Reply::Events(vec![delta("car"), delta("ds"), end("stop"), usage(7, 3)])
}

/// The workspace of the other tests, asking this server.
fn bench(server: &Server) -> Bench {
    let bench = Bench::new();
    point(&bench, server);
    bench
}

fn point(bench: &Bench, server: &Server) {
    let path = bench.root.join("workspace.toml");
    let text = fs::read_to_string(&path).unwrap();
    let head = text.split("[models.base]").next().unwrap();
    let endpoint = server.endpoint();
    let model = format!(
        "[models.base]\nendpoint = \"{endpoint}\"\nmodel = \"big\"\napi_key_env = \"{VARIABLE}\"\n\
         usd_per_million_input = 2.0\nusd_per_million_output = 10.0\nmax_in_flight = 4\n"
    );
    let rest = "\n[[stage]]\nname = \"route\"\nmodel = \"base\"\noutput = \"label\"\nmax_tokens = 2\n\n\
                [eval]\nprimary = \"accuracy\"\nmetrics = [\"accuracy\", \"usd_per_1k\"]\nlatency_rows = 2\n";
    fs::write(&path, format!("{head}{model}{rest}")).unwrap();
}

/// With a configuration of its own, and the key in the environment.
fn command(bench: &Bench, key: bool, args: &[&str]) -> Command {
    let mut command = bench.command(args);
    command.env("XDG_CONFIG_HOME", bench.root.parent().unwrap().join("config")).env_remove(VARIABLE);
    if key {
        command.env(VARIABLE, KEY);
    }
    command
}

fn run(bench: &Bench, key: bool, args: &[&str]) -> Output {
    command(bench, key, args).output().unwrap()
}

fn json(bench: &Bench, key: bool, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    let output = run(bench, key, &all);
    let stdout = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout:?} {}", String::from_utf8_lossy(&output.stderr)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file below that holds the text.
fn holders(dir: &Path, text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holders(&path, text));
        } else if path.is_file() && fs::read(&path).unwrap().windows(text.len()).any(|w| w == text) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn an_endpoint_is_evaluated_with_its_cost_and_the_key_is_nowhere() {
    let echo = Reply::refuse(400, &format!("Bearer {KEY} is odd; sk-hush\u{7}-0123456789abcdef"));
    let told = Reply::Events(vec![delta("sk-hush-0123456"), delta("789abcdef"), end("stop"), usage(7, 3)]);
    // The first one asked is the warm-up; then a row fails, and one gets the key as its answer.
    let server = Server::start(vec![cards(), echo, told, cards()]);
    let bench = bench(&server);
    let result = json(&bench, true, &["run", "eval", "--trust"]);
    assert_eq!(result["state"], "done", "{result}");
    let metrics = &result["metrics"];
    let (n, asked) = (json(&bench, true, &["board"])["eval_rows"].as_u64().unwrap() as f64, server.asked());
    assert!(metrics["accuracy"].as_f64().unwrap() > 0.2, "{result}");
    // 7 tokens at 2 and 3 at 10 dollars a million, but for the row that failed.
    let (row, got) = ((7.0 * 2.0 + 3.0 * 10.0) / 1e6 * 1e3, metrics["usd_per_1k"].as_f64().unwrap());
    assert!(got <= row + 1e-9 && got >= row * (n - 1.0) / n - 1e-9, "{got} against {row}");
    assert!(asked.iter().all(|a| a.authorization == Some(format!("Bearer {KEY}"))));
    assert_eq!(asked.len() as f64, n + 1.0, "each row once, and the warm-up");

    let engine = bench.engine().unwrap();
    for file in ["environ", "cmdline"] {
        let held = fs::read(format!("/proc/{engine}/{file}")).unwrap();
        assert!(!held.windows(KEY.len()).any(|w| w == KEY.as_bytes()), "the engine's {file}");
    }
    let everything = bench.root.parent().unwrap();
    assert_eq!(holders(everything, KEY.as_bytes()), Vec::<String>::new());
    assert_eq!(holders(everything, b"sk-hush"), Vec::<String>::new());
    let trust = fs::read_to_string(everything.join("config/tunebench/trust.json")).unwrap();
    assert!(trust.contains(&server.origin) && trust.contains(VARIABLE), "{trust}");
}

#[test]
fn a_key_goes_nowhere_without_having_been_agreed_to() {
    let server = Server::start(vec![cards()]);
    let bench = bench(&server);
    let refused = run(&bench, true, &["run", "eval"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains(VARIABLE) && said.contains(&server.origin) && said.contains("--trust"), "{said}");
    let unset = run(&bench, false, &["run", "eval", "--trust"]);
    assert_eq!(unset.status.code(), Some(2));
    assert!(stderr(&unset).contains(VARIABLE), "{}", stderr(&unset));
    assert_eq!(json(&bench, false, &["runs"])["runs"], json!([]));
    assert!(server.asked().is_empty());
    // Strata ask no model, and no person.
    assert!(run(&bench, true, &["run", "strata"]).status.success());

    assert_eq!(json(&bench, true, &["run", "eval", "--trust"])["state"], "done");
    assert_eq!(json(&bench, true, &["run", "eval"])["state"], "done", "agreed to once for all");
    // Somebody changes the address in the file.
    let elsewhere = Server::start(vec![cards()]);
    point(&bench, &elsewhere);
    assert_eq!(run(&bench, true, &["run", "eval"]).status.code(), Some(2));
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn after_an_engine_was_lost_a_queued_run_waits_for_its_key() {
    // The first question of all is never answered.
    let server = Server::start(vec![Reply::Together(1000), cards()]);
    let bench = bench(&server);
    let launch = |trust: &[&str]| {
        let args = [&["run", "eval", "--detach"], trust].concat();
        json(&bench, true, &args)["run"].as_str().unwrap().to_owned()
    };
    let first = launch(&["--trust"]);
    until("the first run to ask", || (!server.asked().is_empty()).then_some(()));
    let second = launch(&[]);
    bench.kill_engine();
    bench.kill_worker(&first);
    let record = until("the second run to say what it waits for", || {
        let record = json(&bench, false, &["runs", "show", &second]);
        record["message"].as_str().is_some_and(|m| m.contains(VARIABLE)).then_some(record)
    });
    assert_eq!((&record["state"], &record["resumable"]), (&json!("queued"), &json!(true)), "{record}");
    for run_id in [&second, &first] {
        let refused = run(&bench, false, &["runs", "resume", run_id]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(VARIABLE), "{}", stderr(&refused));
        let resumed = run(&bench, true, &["runs", "resume", run_id]);
        assert!(resumed.status.success(), "{}", stderr(&resumed));
    }
    bench.wait_state(&second, "done");
    bench.wait_state(&first, "done");
    assert_eq!(holders(bench.root.parent().unwrap(), b"sk-hush"), Vec::<String>::new());
}

#[test]
fn an_endpoint_that_cannot_be_used_ends_the_run_with_its_reason() {
    let server = Server::start(vec![Reply::refuse(404, "The model `big` does not exist")]);
    let bench = bench(&server);
    let built = run(&bench, true, &["run", "strata"]);
    assert!(built.status.success(), "{}", stderr(&built));
    let result = json(&bench, true, &["run", "eval", "--trust"]);
    let said = result["message"].as_str().unwrap_or_default();
    // Too few rows for the run to be given up: all of them failed.
    assert!(result["state"] == "done" || said.contains("does not exist"), "{result}");
    // Three one by one, then four at once; the others are not asked.
    assert!(server.asked().len() <= 7, "{}", server.asked().len());
}

#[test]
fn check_and_doctor_look_at_endpoints() {
    let list = json!({ "object": "list", "data": [{ "id": "big" }] });
    let server = Server::start(vec![Reply::json(200, &list)]);
    let bench = bench(&server);
    let checked = json(&bench, false, &["check"]);
    assert_eq!(checked["problems"], json!([]), "{checked}");
    assert!(checked["warnings"][0].as_str().unwrap().contains(VARIABLE), "{checked}");
    let of_endpoint = |key: bool| {
        let seen = json(&bench, key, &["doctor"]);
        let checks = seen["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|c| c["name"] == "endpoint").unwrap_or_else(|| panic!("{seen}"))
    };
    let seen = of_endpoint(true);
    assert!(
        seen["ok"] == true && seen["detail"].as_str().unwrap().contains("`big` is one of 1 model"),
        "{seen}"
    );
    assert!(seen["detail"].as_str().unwrap().contains("asked without the key"), "{seen}");
    assert!(server.asked().iter().all(|a| a.authorization.is_none()));
    let refused = run(&bench, true, &["run", "train", "--trust"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("only a model with a `path` can be trained"), "{}", stderr(&refused));
}
