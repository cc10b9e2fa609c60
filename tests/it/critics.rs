//! Prompt and trajectory tuning over an endpoint: critics that answer well, garbage or not at all, budgets, and a kill in the middle.

use std::collections::HashMap;
use std::fs;

use serde_json::Value;
use tunebench::domain::event::{Event, EventBody};

use crate::engine::bench::{Bench, until};
use crate::server::{Reply, Server};

/// What the model behind the endpoint says: the label that stands in the row, when the prompt asks for the topic or an example
/// shows how; else always the same.
fn said(text: &str) -> String {
    let row = text.rsplit("the ").next().unwrap_or_default();
    let label = ["cards", "loans"].into_iter().find(|label| row.starts_with(label)).unwrap_or("cards");
    let knows = text.contains("topic") || text.contains("Answer: ");
    (if knows { label } else { "cards" }).to_owned()
}

/// As the critic: a prompt that names the topic. As the model: what it says.
fn both(text: &str) -> String {
    if text.contains("</prompt>") {
        return "It is vague.\n<prompt>\nName the topic of this.\n\n{{ input }}\n</prompt>".into();
    }
    said(text)
}

fn is_for_critic(asked: &Value) -> bool {
    asked["model"] == "critic"
}

/// Both models behind servers of their own; few epochs, few rows.
fn bench(model: &Server, critic: &Server) -> Bench {
    bench_at(model, &critic.endpoint(), "")
}

/// The same, with a critic anywhere, and more lines in its table.
fn bench_at(model: &Server, critic: &str, more: &str) -> Bench {
    let bench = Bench::new();
    let path = bench.root.join("workspace.toml");
    let text = fs::read_to_string(&path).unwrap();
    let head = text.split("[models.base]").next().unwrap();
    let models = format!(
        "[models.base]\nendpoint = \"{}\"\nmodel = \"big\"\nusd_per_million_input = 1.0\nmax_in_flight = 4\n\n\
         [models.critic]\nendpoint = \"{}\"\nmodel = \"critic\"\nusd_per_million_input = 2.0\nusd_per_million_output = 10.0\n{more}\n",
        model.endpoint(),
        critic
    );
    let rest = "\n[[stage]]\nname = \"route\"\nmodel = \"base\"\nprompt = \"route.md\"\noutput = \"label\"\nmax_tokens = 2\n\n\
                [eval]\nprimary = \"accuracy\"\nmetrics = [\"accuracy\"]\nlatency_rows = 1\n\n\
                [tuning.prompt]\nfan_out = 6\nepochs = 2\nsurvivors = 2\nrows = 8\ncritic = \"critic\"\n";
    fs::write(&path, format!("{head}{models}{rest}")).unwrap();
    fs::write(bench.root.join("route.md"), "Which team?\n\n{{ input }}\n").unwrap();
    bench
}

fn by_critic(bench: &Bench, run: &str) -> Vec<Value> {
    let path = bench.state().join("runs").join(run).join("artifacts/prompts.json");
    let history: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let own = ["reflection", "history", "induction"];
    let versions = history["versions"].as_array().unwrap().clone();
    versions.into_iter().filter(|v| own.contains(&v["proposer"].as_str().unwrap())).collect()
}

fn warnings(bench: &Bench, run: &str) -> Vec<String> {
    let path = bench.state().join("runs").join(run).join("events.jsonl");
    let events = fs::read_to_string(path).unwrap();
    let all = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|e| e["kind"] == "warning").map(|e| e["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_critic_behind_an_endpoint_is_asked_used_and_paid() {
    let (model, critic) = (Server::start(vec![Reply::Say(said)]), Server::start(vec![Reply::Say(both)]));
    let bench = bench(&model, &critic);
    let done = bench.json(&["run", "prompt"]);
    assert_eq!(done["state"], "done", "{done}");
    assert!(!critic.asked().is_empty() && critic.asked().iter().all(|a| is_for_critic(&a.body)));
    let proposed = by_critic(&bench, "prompt-1");
    assert!(
        proposed.iter().any(|v| v["prompts"]["route"].as_str().unwrap().contains("topic")),
        "{proposed:?}"
    );
    assert!(done["metrics"]["usd"].as_f64().unwrap() > 0.0, "{done}");
}

#[test]
fn critics_that_answer_garbage_cost_proposals_and_not_the_run() {
    let page = Reply::Plain(200, "text/html", String::new(), b"<!doctype html><p>log in".to_vec());
    let broken = Reply::Plain(200, "application/json", String::new(), b"{\"choices\": 7, [".to_vec());
    let odd: Vec<(&str, Reply)> = vec![
        ("empty", Reply::Say(|_| String::new())),
        ("no body", Reply::Plain(200, "application/json", String::new(), Vec::new())),
        ("a page", page),
        ("no JSON", broken),
        ("huge", Reply::Say(|_| format!("<prompt>{}{{{{ input }}}}</prompt>", "word ".repeat(1_800)))),
        ("lost", Reply::Say(|_| "<prompt>Name the topic of this.</prompt>".into())),
        ("gold", Reply::Say(|_| "<prompt>The topic is {{ team }}. {{ input }}</prompt>".into())),
        (
            "a loop",
            Reply::Say(|_| {
                "<prompt>{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}{{ input }}</prompt>"
                    .into()
            }),
        ),
        ("refused", Reply::refuse(401, "no such key")),
    ];
    for (name, reply) in odd {
        let (model, critic) = (Server::start(vec![Reply::Say(said)]), Server::start(vec![reply]));
        let bench = bench(&model, &critic);
        let quick = ["run", "prompt", "--set", "tuning.prompt.epochs=1"];
        let done = bench.json(&quick);
        assert_eq!(done["state"], "done", "{name}: {done}");
        assert!(!critic.asked().is_empty(), "{name}");
        assert_eq!(by_critic(&bench, "prompt-1"), Vec::<Value>::new(), "{name}");
    }
}

#[test]
fn a_critic_that_copies_rows_and_colours_does_not_reach_the_terminal_and_the_copies_are_named() {
    // Every row of the workspace, in a prompt that is right on all of them.
    let copying = |text: &str| {
        if !text.contains("</prompt>") {
            return String::new();
        }
        let rows: Vec<String> =
            (0..60).map(|i| format!("the {} case {i}", ["cards", "loans"][i / 2 % 2])).collect();
        format!(
            "\u{1b}[2J\u{7}<prompt>\u{1b}[31mName the topic.\u{1b}[0m {}\n{{{{ input }}}}</prompt>",
            rows.join("; ")
        )
    };
    let (model, critic) = (Server::start(vec![Reply::Say(said)]), Server::start(vec![Reply::Say(copying)]));
    let bench = bench(&model, &critic);
    let out = bench.run(&["run", "prompt"]);
    assert!(out.status.success());
    let shown = bench.run(&["prompts"]);
    for bytes in [&out.stdout, &out.stderr, &shown.stdout] {
        assert!(!bytes.contains(&0x1b) && !bytes.contains(&7), "{}", String::from_utf8_lossy(bytes));
    }
    let history = bench.state().join("runs/prompt-1/artifacts/prompts.json");
    let history: Value = serde_json::from_slice(&fs::read(history).unwrap()).unwrap();
    let last = history["versions"].as_array().unwrap().iter().find(|v| v["fate"] == "final").unwrap();
    if last["prompts"]["route"].as_str().unwrap().contains("case 3;") {
        assert!(warnings(&bench, "prompt-1").iter().any(|w| w.contains("in the prompt")));
        assert!(history["gain"]["copied"].as_u64().unwrap() > 0, "{}", history["gain"]);
    }
}

/// How often each question was put to a server.
fn counted(server: &Server) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for asked in server.asked() {
        *counts.entry(asked.body.to_string()).or_default() += 1;
    }
    counts
}

#[test]
fn a_run_killed_with_its_engine_pays_for_no_answer_twice() {
    for kind in ["prompt", "trajectory"] {
        let whole = (Server::start(vec![Reply::Say(said)]), Server::start(vec![Reply::Say(both)]));
        let want = bench(&whole.0, &whole.1).json(&["run", kind]);
        // The same, but nobody answers from the 40th question on.
        let (model, critic) =
            (Server::start_until(40, Reply::Say(said)), Server::start(vec![Reply::Say(both)]));
        let bench = bench(&model, &critic);
        let run = bench.json(&["run", kind, "--detach"])["run"].as_str().unwrap().to_owned();
        until("the model to fall silent", || (model.asked().len() > 40).then_some(()));
        bench.kill_engine();
        bench.kill_worker(&run);
        model.go_on();
        let before = model.asked().len();
        assert!(bench.run(&["runs", "resume", &run]).status.success());
        bench.wait_state(&run, "done");
        let got = bench.json(&["runs", "show", &run]);
        assert_eq!(got["metrics"]["accuracy"], want["metrics"]["accuracy"], "{kind}: {got}");
        // What was under way when it was killed was never answered and is asked anew: at most a batch.
        let under_way = before - 40;
        let twice: usize = counted(&model).values().map(|n| n - 1).sum();
        let unavoidable: usize = counted(&whole.0).values().map(|n| n - 1).sum();
        assert!(twice <= unavoidable + under_way + 16, "{kind}: {twice} of {}", model.asked().len());
        assert_eq!(critic.asked().len(), whole.1.asked().len(), "{kind}: the critic");
    }
}

#[test]
fn budgets_hold_at_the_server() {
    for (key, most) in [("calls", 90.0), ("tokens", 900.0), ("usd", 0.0006)] {
        for kind in ["prompt", "trajectory"] {
            let (model, critic) =
                (Server::start(vec![Reply::Say(said)]), Server::start(vec![Reply::Say(both)]));
            let bench = bench(&model, &critic);
            let done = bench.json(&["run", kind, "--set", &format!("tuning.{kind}.budget.{key}={most}")]);
            assert_eq!(done["state"], "done", "{kind} {key}: {done}");
            let eval = done["metrics"]["rows"].as_f64().unwrap_or(18.0) + 2.0;
            let asked = (model.asked().len() + critic.asked().len()) as f64;
            let calls = done["metrics"]["calls"].as_f64().unwrap();
            assert!(asked <= calls + eval + 3.0, "{kind} {key}: {asked} at the server, {calls} counted");
            if key == "calls" {
                assert!(calls <= most, "{kind}: {calls}");
            }
        }
    }
}

#[test]
fn a_critic_that_is_gone_in_the_middle_is_left_alone_and_the_run_comes_to_its_end() {
    let mut replies = vec![Reply::Say(both); 2];
    replies.push(Reply::later(429, "Retry-After: 1"));
    replies.push(Reply::Say(both));
    replies.push(Reply::refuse(401, "no such key any more"));
    let (model, critic) = (Server::start(vec![Reply::Say(said)]), Server::start(replies));
    let bench = bench(&model, &critic);
    let done = bench.json(&["run", "prompt"]);
    assert_eq!(done["state"], "done", "{done}");
    assert!(!by_critic(&bench, "prompt-1").is_empty());
    assert!(done["metrics"]["accuracy"].as_f64().unwrap() > 0.9, "{done}");
}

#[test]
fn critics_that_stall_fail_or_say_too_much_are_told_of_and_the_run_comes_to_its_end() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let megabytes =
        format!("{{\"choices\":[{{\"message\":{{\"content\":\"{}\"}}}}]}}", "<prompt>word ".repeat(400_000));
    let stream = format!("data: {}\n\n", crate::server::delta(&"word ".repeat(20_000)));
    let odd: Vec<(&str, Option<Reply>, &str)> = vec![
        ("stalls", Some(Reply::Stall(vec![])), "did not come in time"),
        (
            "stalls in the middle",
            Some(Reply::Stall(vec![crate::server::delta("<prompt>")])),
            "did not come in time",
        ),
        ("always 500", Some(Reply::later(500, "retry-after-ms: 1")), "it answered 500"),
        ("refuses connections", None, "cannot be reached"),
        (
            "megabytes",
            Some(Reply::Plain(200, "application/json", String::new(), megabytes.into_bytes())),
            "expected",
        ),
        ("megabytes without end", Some(Reply::Endless(stream)), "expected"),
        ("garbage", Some(Reply::Say(|_| "\u{1b}[31mI am\u{7} a teapot.".into())), "I am a teapot"),
    ];
    for (name, reply, told) in odd {
        let model = Server::start(vec![Reply::Say(said)]);
        let critic = reply.map(|reply| Server::start(vec![reply]));
        let address = critic.as_ref().map_or_else(|| closed.clone(), Server::endpoint);
        let bench = bench_at(&model, &address, "timeout = 1");
        let done = bench.json(&["run", "prompt", "--set", "tuning.prompt.epochs=1"]);
        assert_eq!(done["state"], "done", "{name}: {done}");
        assert_eq!(by_critic(&bench, "prompt-1"), Vec::<Value>::new(), "{name}");
        let warnings = warnings(&bench, "prompt-1");
        let first = warnings.iter().find(|w| w.starts_with("no proposal of the critic `critic`: "));
        let first = first.unwrap_or_else(|| panic!("{name}: {warnings:?}"));
        assert!(first.contains(told) && first.len() < 400 && !first.contains('\u{1b}'), "{name}: {first}");
        let summary = warnings.iter().find(|w| w.contains("brought no proposal"));
        let summary = summary.unwrap_or_else(|| panic!("{name}: {warnings:?}"));
        let (asked, failed) = (&done["metrics"]["critic_asked"], &done["metrics"]["critic_failed"]);
        let (asked, failed) = (asked.as_f64().unwrap(), failed.as_f64().unwrap());
        assert!(asked > 0.0 && failed == asked, "{name}: {done}");
        assert!(summary.starts_with(&format!("{failed} of {asked} ")), "{name}: {summary}");
    }
}

#[test]
fn a_run_whose_critic_is_silent_can_be_stopped() {
    let (model, critic) = (Server::start(vec![Reply::Say(said)]), Server::start(vec![Reply::Stall(vec![])]));
    let bench = bench(&model, &critic);
    let run = bench.json(&["run", "prompt", "--detach"])["run"].as_str().unwrap().to_owned();
    until("the critic to be asked", || (!critic.asked().is_empty()).then_some(()));
    assert!(bench.run(&["runs", "stop", &run]).status.success());
    // Before its patience with the critic is at an end, by far.
    let record = until("the run to end", || {
        let record = bench.record(&run);
        matches!(record["state"].as_str(), Some("done" | "stopped" | "failed")).then_some(record)
    });
    assert_ne!(record["state"], "failed", "{record}");
    assert_eq!(by_critic(&bench, &run), Vec::<Value>::new());
}

/// Requests that were made to tune: those that hold no eval row's text, which scoring asks for.
fn tuning_requests(bench: &Bench, run: &str, servers: &[&Server]) -> usize {
    let path = bench.state().join("runs").join(run).join("outcomes.jsonl");
    let outcomes = fs::read_to_string(path).unwrap();
    let ids = outcomes.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let cases: Vec<String> = ids
        .filter_map(|o| Some(o["row"].as_str()?.trim_start_matches('r').parse::<usize>().ok()?.to_string()))
        .collect();
    assert!(!cases.is_empty());
    let of_eval = |text: &str| {
        text.split("case ").skip(1).any(|rest| {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            cases.contains(&number)
        })
    };
    servers.iter().flat_map(|server| server.asked()).filter(|a| !of_eval(&a.body.to_string())).count()
}

#[test]
fn a_budget_of_calls_holds_where_calls_fail_and_are_repeated() {
    for kind in ["prompt", "trajectory"] {
        for n in [3, 7] {
            let model = Server::start_failing(n, Reply::Say(said));
            let critic = Server::start_failing(n, Reply::Say(both));
            let bench = bench(&model, &critic);
            let done = bench.json(&["run", kind, "--set", &format!("tuning.{kind}.budget.calls=90")]);
            assert_eq!(done["state"], "done", "{kind}, every {n}: {done}");
            let asked = tuning_requests(&bench, &format!("{kind}-1"), &[&model, &critic]);
            let calls = done["metrics"]["calls"].as_f64().unwrap() as usize;
            assert!(asked <= 90, "{kind}, every {n}: {asked} at the server, {calls} counted");
            assert_eq!(asked, calls, "{kind}, every {n}");
            assert!(calls > 45, "{kind}, every {n}: the budget is used");
        }
    }
}

#[test]
fn a_budget_raised_in_mid_run_is_kept_over_a_kill() {
    for kind in ["prompt", "trajectory"] {
        let (model, critic) =
            (Server::start_until(20, Reply::Say(said)), Server::start(vec![Reply::Say(both)]));
        let bench = bench(&model, &critic);
        let small = format!("tuning.{kind}.budget.calls=60");
        let run = bench.json(&["run", kind, "--detach", "--set", &small])["run"].as_str().unwrap().to_owned();
        until("the model to fall silent", || (model.asked().len() > 20).then_some(()));
        let steered = bench.run(&["runs", "steer", &run, "budget.calls=400"]);
        assert!(steered.status.success(), "{steered:?}");
        model.go_on();
        until("the budget to be raised", || {
            let raised = |e: &Event| matches!(&e.body, EventBody::Change { .. });
            bench.events(&run).iter().any(raised).then_some(())
        });
        let alive = bench.worker(&run).is_some() && bench.run_state(&run) == "running";
        if alive {
            bench.kill_engine();
            bench.kill_worker(&run);
            assert!(bench.run(&["runs", "resume", &run]).status.success());
        }
        let done = bench.wait_state(&run, "done");
        let calls = done["metrics"]["calls"].as_f64().unwrap();
        assert!(alive && calls > 60.0 && calls <= 400.0, "{kind}: {done}");
    }
}

#[test]
fn a_paused_tuning_asks_nothing_and_goes_on_when_it_is_resumed() {
    for kind in ["prompt", "trajectory"] {
        let whole = (Server::start(vec![Reply::Say(said)]), Server::start(vec![Reply::Say(both)]));
        let want = bench(&whole.0, &whole.1).json(&["run", kind]);
        let (model, critic) =
            (Server::start_until(20, Reply::Say(said)), Server::start(vec![Reply::Say(both)]));
        let bench = bench(&model, &critic);
        let run = bench.json(&["run", kind, "--detach"])["run"].as_str().unwrap().to_owned();
        until("the model to fall silent", || (model.asked().len() > 20).then_some(()));
        assert!(bench.run(&["runs", "pause", &run]).status.success());
        model.go_on();
        bench.wait_state(&run, "paused");
        let asked = || model.asked().len() + critic.asked().len();
        let before = asked();
        for _ in 0..3 {
            assert_eq!(bench.run_state(&run), "paused");
        }
        assert_eq!(asked(), before, "{kind}");
        assert!(bench.run(&["runs", "resume", &run]).status.success());
        let done = bench.wait_state(&run, "done");
        assert!(asked() > before, "{kind}");
        assert_eq!(done["metrics"]["accuracy"], want["metrics"]["accuracy"], "{kind}: {done}");
    }
}
