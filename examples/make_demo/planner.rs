//! The planner workspace's data and tools: new messages of the desk's kinds, the intent and the tool call that are right, and what the
//! desk's books answer to every call.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::lexicon::{Case, Lexicon};
use super::messages::{Channel, message};
use super::random::Random;

/// Rows of the planner that is bundled.
pub const ROWS: usize = 320;
const SEED: u64 = 20_261;

/// Problems for which the thing is blocked at once.
const EMERGENCIES: [&str; 2] = ["losses", "fraud"];
/// Problems that need no tool: the help pages answer them.
const HELP: &str = "guidance";

/// One line of `data/messages.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannerRow {
    pub id: String,
    pub message: String,
    pub channel: &'static str,
    /// Gold of the stage `intent`.
    pub intent: String,
    /// Gold of the stage `plan`: a tool call; none where no tool is to be called.
    pub call: Value,
    /// Gold of the whole: where the message goes.
    pub desk: String,
}

/// The first `n` rows, always the same.
pub fn rows(words: &Lexicon, n: usize) -> Vec<PlannerRow> {
    let mut r = Random::new(SEED);
    let cases = words.cases();
    let weights: Vec<usize> = cases.iter().map(|c| c.weight).collect();
    (0..n)
        .map(|i| {
            let case = cases[r.weighted(&weights)];
            let channel = *r.pick(&Channel::ALL);
            let turns = 1 + r.weighted(&[60, 30, 10]);
            let (call, desk) = plan(&case);
            PlannerRow {
                id: format!("p{:03}", i + 1),
                message: message(&mut r, words, case.kind, channel, turns, false).text,
                channel: channel.name(),
                intent: case.kind.1.to_owned(),
                call,
                desk,
            }
        })
        .collect()
}

/// The right call for a kind of message, and where it goes in the end.
fn plan(case: &Case<'_>) -> (Value, String) {
    let (topic, problem) = case.kind;
    if problem == HELP {
        (Value::Null, HELP.to_owned())
    } else if EMERGENCIES.contains(&problem) {
        (json!({ "name": "block_item", "arguments": { "topic": topic } }), "fraud".to_owned())
    } else {
        let arguments = json!({ "topic": topic, "problem": problem });
        (json!({ "name": "find_team", "arguments": arguments }), case.team.to_owned())
    }
}

/// As it stands in the file.
pub fn jsonl(rows: &[PlannerRow]) -> serde_json::Result<String> {
    let mut text = String::new();
    for row in rows {
        text.push_str(&serde_json::to_string(row)?);
        text.push('\n');
    }
    Ok(text)
}

/// The tools by the names of their files.
pub fn tools(words: &Lexicon) -> serde_json::Result<[(&'static str, String); 2]> {
    let cases = words.cases();
    let mut topics: Vec<&str> = cases.iter().map(|c| c.kind.0).collect();
    topics.sort_unstable();
    topics.dedup();
    let problems: Vec<&String> =
        words.problems.keys().filter(|p| *p != HELP && !EMERGENCIES.contains(&p.as_str())).collect();
    let responses: Vec<Value> = cases
        .iter()
        .filter(|c| plan(c).0["name"] == "find_team")
        .map(|c| {
            let (topic, problem) = c.kind;
            // The same for everybody, without a clock: the busier the kind, the sooner.
            let hours = if c.weight > 40 { 4 } else { 24 };
            json!({
                "arguments": { "topic": topic, "problem": problem },
                "result": { "team": c.team, "answers_within_hours": hours },
            })
        })
        .collect();
    let find_team = json!({
        "name": "find_team",
        "description": "Which team handles this problem with this thing, and how soon it answers.",
        "parameters": {
            "type": "object",
            "properties": { "topic": { "enum": topics }, "problem": { "enum": problems } },
            "required": ["topic", "problem"],
            "additionalProperties": false,
        },
        "responses": responses,
        "default": { "team": "accounts", "answers_within_hours": 48 },
    });
    let blocked: Map<String, Value> = topics
        .iter()
        .map(|topic| {
            ((*topic).to_owned(), json!({ "team": "fraud", "blocked": format!("the customer's {topic}") }))
        })
        .collect();
    let block_item = json!({
        "name": "block_item",
        "description": "Blocks what was lost or stolen at once.",
        "parameters": {
            "type": "object",
            "properties": { "topic": { "enum": topics } },
            "required": ["topic"],
            "additionalProperties": false,
        },
        "by": "topic",
        "responses": blocked,
        "error": "there is no such thing on the customer's account",
    });
    Ok([
        ("tools/find_team.json", serde_json::to_string_pretty(&find_team)? + "\n"),
        ("tools/block_item.json", serde_json::to_string_pretty(&block_item)? + "\n"),
    ])
}
