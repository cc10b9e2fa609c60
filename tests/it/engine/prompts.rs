//! `run prompt` and `tunebench prompts`, over a scripted endpoint: tuned, steered, killed, tried by hand.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use tunebench::domain::event::EventBody;
use tunebench::domain::prompt::PromptNews;

use super::bench::{Bench, until};
use crate::server::{Reply, Server};

/// Knows its task by any name but `team`. Half of the rows are of cards.
pub fn knows_no_teams(question: &str) -> String {
    let of_loans = question.contains("the loans case") && !question.contains("team");
    if of_loans { "loans" } else { "cards" }.to_owned()
}

/// The workspace asks this endpoint, with a prompt in a file.
pub fn with_prompt(bench: &Bench, answer: fn(&str) -> String) -> Server {
    let server = Server::start(vec![Reply::Say(answer)]);
    let path = bench.root.join("workspace.toml");
    let toml = fs::read_to_string(&path).unwrap();
    let toml = toml.replace("model = \"base\"\n", "model = \"sorter\"\nprompt = \"prompts/route.md\"\n");
    let endpoint = server.endpoint();
    let model = format!("\n[models.sorter]\nendpoint = \"{endpoint}\"\nmodel = \"m\"\n");
    fs::write(&path, format!("{toml}{model}")).unwrap();
    fs::create_dir_all(bench.root.join("prompts")).unwrap();
    write(bench, "Which team should get this message?\n\n{{ input }}\n");
    let mut rows = String::new();
    for i in 0..240 {
        let team = ["cards", "loans"][i % 2];
        rows.push_str(&format!("{}\n", json!({ "id": format!("r{i:03}"), "text": format!("the {team} case {i}"), "team": team, "channel": "chat" })));
    }
    fs::write(bench.root.join("data/rows.jsonl"), rows).unwrap();
    server
}

fn write(bench: &Bench, text: &str) {
    fs::write(bench.root.join("prompts/route.md"), text).unwrap();
}

fn prompt(bench: &Bench) -> String {
    fs::read_to_string(bench.root.join("prompts/route.md")).unwrap()
}

const QUICK: [&str; 3] = ["fan_out=8", "epochs=1", "rows=16"];

fn tuned(bench: &Bench) -> Value {
    let set: Vec<&str> = QUICK.iter().flat_map(|pair| ["--set", pair]).collect();
    bench.json(&[&["run", "prompt"][..], &set].concat())
}

#[test]
fn a_run_finds_the_words_that_the_model_knows_and_its_versions_are_listed_shown_and_compared() {
    let bench = Bench::new();
    let _server = with_prompt(&bench, knows_no_teams);
    let run = tuned(&bench);
    assert_eq!((&run["run"], &run["state"]), (&json!("prompt-1"), &json!("done")), "{run}");
    assert!(run["metrics"]["gain"].as_f64().unwrap() > 0.2, "{run}");
    assert_eq!(run["metrics"]["accuracy"], 1.0, "{run}");

    let listed = bench.json(&["prompts"]);
    let versions = listed["versions"].as_array().unwrap();
    assert_eq!(versions[0]["id"], "v0", "{listed}");
    assert!(versions[0]["current"].as_bool().unwrap(), "the start stands in the files: {listed}");
    assert_eq!(versions.iter().filter(|v| v["fate"] == "final").count(), 1, "{listed}");
    assert!(listed["gain"]["delta"].as_f64().unwrap() > 0.2, "{listed}");

    let answer = bench.json(&["prompts", "show"]);
    let id = answer["version"]["id"].as_str().unwrap().to_owned();
    let text = answer["version"]["prompts"]["route"].as_str().unwrap().to_owned();
    assert!(!text.contains("team"), "{answer}");
    // The rows that it fixed come with what was said before and after.
    let fixed = &answer["rows"][0];
    assert_eq!((&fixed["before"], &fixed["after"]), (&json!("cards"), &json!("loans")), "{answer}");
    assert!(fixed["input"].as_str().unwrap().contains("the loans case"), "{fixed}");
    let diff = bench.json(&["prompts", "diff", "v0", &id]);
    assert!(diff["diff"]["route"].as_str().unwrap().contains("\n-Which team"), "{diff}");

    // A version is a candidate: it can be evaluated like any other.
    let scored = bench.json(&["run", "eval", "--set", &format!("candidate=prompt-1:{id}")]);
    assert_eq!(scored["metrics"]["accuracy"], 1.0, "{scored}");
    let wrong = bench.run(&["prompts", "show", "v999"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no version `v999`"), "{wrong:?}");
}

#[test]
fn a_version_is_tagged_adopted_rolled_back_and_every_step_can_be_undone() {
    let bench = Bench::new();
    let _server = with_prompt(&bench, knows_no_teams);
    let start = prompt(&bench);
    assert_eq!(tuned(&bench)["state"], "done");
    let text = bench.json(&["prompts", "show"])["version"]["prompts"]["route"].as_str().unwrap().to_owned();

    let done = |args: &[&str]| {
        let said = bench.run(args);
        assert!(said.status.success(), "{args:?}: {said:?}");
    };
    let id = bench.json(&["prompts", "show"])["version"]["id"].as_str().unwrap().to_owned();
    done(&["prompts", "tag", &id, "kind one"]);
    assert_eq!(bench.json(&["prompts", "show", "kind one"])["version"]["id"], id.as_str());
    done(&["prompts", "undo"]);
    assert_eq!(bench.json(&["prompts", "show", &id])["tag"], Value::Null);

    done(&["prompts", "adopt", &id]);
    assert_eq!(prompt(&bench), text);
    // What was taken over is what the next text by hand comes from.
    assert_eq!(
        bench.json(&["prompts", "list", "hand"])["versions"][0]["parents"],
        json!([format!("prompt-1:{id}")])
    );
    done(&["prompts", "rollback", "route"]);
    assert_eq!(prompt(&bench), start);
    done(&["prompts", "undo"]);
    assert_eq!(prompt(&bench), text);
    done(&["prompts", "undo"]);
    assert_eq!(prompt(&bench), start);
}

#[test]
fn a_run_is_paused_steered_killed_and_resumed_and_asks_nothing_twice() {
    let bench = Bench::new();
    let server = with_prompt(&bench, knows_no_teams);
    // The cache would hide a question that is asked again.
    let toml = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    fs::write(bench.root.join("workspace.toml"), format!("{toml}\n[cache]\noff = true\n")).unwrap();
    let set = ["fan_out=8", "epochs=2", "rows=16"];
    let run = bench.launch("prompt", &set);
    let news = |bench: &Bench| -> Vec<PromptNews> {
        let prompt = |e: tunebench::domain::event::Event| match e.body {
            EventBody::Prompt(news) => Some(news),
            _ => None,
        };
        bench.events(&run).into_iter().filter_map(prompt).collect()
    };
    until("a race", || news(&bench).iter().any(|n| matches!(n, PromptNews::Race { .. })).then_some(()));
    let steered = bench.run(&["runs", "steer", &run, "hint=Think of the topic of it.", "budget.calls=5000"]);
    let said = String::from_utf8_lossy(&steered.stdout).into_owned();
    assert!(said.contains("hint=Think of the topic of it."), "{steered:?}");
    // A version of a run under way can be taken over already.
    let adopted = bench.run(&["prompts", "adopt", &format!("{run}:v1")]);
    assert!(adopted.status.success(), "{adopted:?}");
    let refused = bench.run(&["runs", "steer", &run, "learning_rate=1e-4"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    until("the hint to be taken", || {
        let changed = |e: &tunebench::domain::event::Event| matches!(e.body, EventBody::Change { .. });
        (bench.run_state(&run) == "done" || bench.events(&run).iter().any(changed)).then_some(())
    });
    bench.kill_worker(&run);
    until("the run to be found dead", || {
        let state = bench.run_state(&run);
        matches!(state.as_str(), "interrupted" | "done").then_some(())
    });
    bench.run(&["runs", "resume", &run]);
    let record = bench.wait_state(&run, "done");
    let hinted = news(&bench).into_iter().any(
        |n| matches!(n, PromptNews::Version { version } if version.proposer == "hint" && version.edit.contains("topic")),
    );
    assert!(hinted, "{record}");
    let mut questions: Vec<String> = server.asked().iter().map(|a| a.body["messages"].to_string()).collect();
    let all = questions.len();
    questions.sort();
    questions.dedup();
    // What was under way when it was killed is asked again, and the start is scored on eval as well; nothing else is.
    let calls = record["metrics"]["calls"].as_f64().unwrap() as usize;
    assert!(all - questions.len() <= 64, "{all} questions, {} different, {calls} paid", questions.len());
}

#[test]
fn a_critic_that_is_cut_off_costs_proposals_and_not_the_run() {
    let bench = Bench::new();
    let _server = with_prompt(&bench, knows_no_teams);
    let critic = Server::start(vec![Reply::Hangup]);
    let toml = fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    let endpoint = critic.endpoint();
    let model = format!("\n[models.critic]\nendpoint = \"{endpoint}\"\nmodel = \"c\"\n");
    fs::write(bench.root.join("workspace.toml"), format!("{toml}{model}")).unwrap();
    let mut args = vec!["run", "prompt", "--set", "critic=critic"];
    args.extend(QUICK.iter().flat_map(|pair| ["--set", pair]));
    let run = bench.json(&args);
    assert_eq!(run["state"], "done", "{run}");
    assert!(run["metrics"]["gain"].as_f64().unwrap() > 0.2, "{run}");
}

#[test]
fn prompts_are_tried_by_hand_flips_are_shown_and_every_version_is_kept() {
    let bench = Bench::new();
    let server = with_prompt(&bench, knows_no_teams);
    let parts = bench.run(&["prompts", "try"]);
    assert_eq!(parts.status.code(), Some(2), "rows without parts are not tried on: {parts:?}");
    assert!(String::from_utf8_lossy(&parts.stderr).contains("strata build"), "{parts:?}");
    assert!(bench.run(&["strata", "build"]).status.success());

    let first = bench.json(&["prompts", "try", "--rows", "16"])["trial"].clone();
    assert_eq!((&first["version"], &first["before"]), (&json!("v0"), &Value::Null), "{first}");
    assert_eq!(first["score"]["n"], 16, "{first}");
    write(&bench, "What is the topic of this message?\n\n{{ input }}\n");
    let second = bench.json(&["prompts", "try", "--rows", "16"])["trial"].clone();
    assert_eq!((&second["version"], &second["before"]), (&json!("v1"), &json!("v0")), "{second}");
    assert_eq!(
        (second["asked"].as_u64(), second["score"]["mean"].as_f64()),
        (Some(16), Some(1.0)),
        "{second}"
    );
    let row = &second["rows"][0];
    assert_eq!(
        (&row["flip"], &row["before"], &row["after"]),
        (&json!("fixed"), &json!("cards"), &json!("loans")),
        "{second}"
    );

    // Rows of eval never: those of the slice are of dev and train.
    let eval: Vec<String> = bench.json(&["strata", "sample", "--per", "1000", "--split", "eval"])["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().trim_start_matches('r').trim_start_matches('0').to_owned())
        .collect();
    let asked = server.asked();
    for case in &eval {
        assert!(!asked.iter().any(|a| a.body.to_string().contains(&format!("case {case}\\n"))), "{case}");
    }
    // The same again is not asked again.
    let before = server.asked().len();
    let again = bench.json(&["prompts", "try", "--rows", "16"])["trial"].clone();
    assert_eq!((again["asked"].as_u64(), server.asked().len()), (Some(0), before), "{again}");

    // Back to the first text: the same version, now compared with the second.
    write(&bench, "Which team should get this message?\n\n{{ input }}\n");
    let back = bench.json(&["prompts", "try", "--rows", "16"])["trial"].clone();
    assert_eq!((&back["version"], &back["before"]), (&json!("v0"), &json!("v1")), "{back}");
    let failing = bench.json(&["prompts", "try", "--failing", "--rows", "4"]);
    assert!(failing["error"].as_str().unwrap().contains("no row is known"), "v1 got all right: {failing}");

    let tree = bench.json(&["prompts", "list", "hand"]);
    assert_eq!(tree["versions"].as_array().unwrap().len(), 2, "{tree}");
    let shown = bench.json(&["prompts", "show", "hand:v1"]);
    let loans = second["rows"].as_array().unwrap().iter().filter(|row| row["gold"] == "loans").count();
    assert_eq!(shown["version"]["fixed"].as_array().unwrap().len(), loans, "{shown}");

    // A text that is no template is told with its line, and the version before stays what it was.
    write(&bench, "Which {% if %}\n\n{{ input }}\n");
    let broken = bench.run(&["prompts", "try"]);
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
    assert!(String::from_utf8_lossy(&broken.stderr).contains("prompts/route.md:1"), "{broken:?}");
}

#[test]
fn watch_tries_a_prompt_whenever_it_is_saved() {
    let bench = Bench::new();
    let _server = with_prompt(&bench, knows_no_teams);
    assert!(bench.run(&["strata", "build"]).status.success());
    let mut child = bench
        .command(&["prompts", "watch", "--rows", "8", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["trial"]["version"], "v0");
    write(&bench, "Name the topic of this.\n\n{{ input }}\n");
    let trial = next()["trial"].clone();
    assert_eq!((&trial["version"], trial["score"]["mean"].as_f64()), (&json!("v1"), Some(1.0)), "{trial}");
    write(&bench, "Name the team.\n\n{{ input }}\n");
    let trial = next()["trial"].clone();
    assert_eq!(
        (&trial["version"], &trial["rows"][0]["flip"]),
        (&json!("v2"), &json!("regressed")),
        "{trial}"
    );
    let _ = child.kill();
    let _ = child.wait();
}
