//! A backend that follows a script, for tests of everything above it.

use super::*;
use crate::backend::{Answer, Heard, Listener};
use crate::domain::candidate::{Limits, ModelRef, ModelSource};
use crate::domain::row::Turn;
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;

type Script = Box<dyn FnMut(&Ask) -> Result<String, BackendError>>;

/// Answers by a function of the question; keeps what it was asked, batch by batch.
pub struct Scripted {
    pub script: Script,
    pub asked: Rc<RefCell<Vec<Vec<Ask>>>>,
}

impl Backend for Scripted {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        self.asked.borrow_mut().push(asks.to_vec());
        asks.iter()
            .enumerate()
            .map(|(i, ask)| {
                let text = (self.script)(ask)?;
                let answer =
                    Answer { text, tokens_in: 10, tokens_out: 2, ttft_ms: 1.0, ms: 5.0, ..Answer::default() };
                let _ = listener(i, Heard::Done(&answer));
                Ok(answer)
            })
            .collect()
    }
}

pub fn stage(name: &str, prompt: &str, output: OutputKind, labels: &[&str]) -> StageCandidate {
    StageCandidate {
        name: name.into(),
        model: ModelRef {
            name: "base".into(),
            source: ModelSource::Local { path: "/nowhere".into() },
            hash: "h".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        },
        adapter: None,
        prompt: prompt.into(),
        prompt_name: format!("prompts/{name}.md"),
        output,
        labels: labels.iter().map(|&l| l.to_owned()).collect(),
        decoding: Decoding::default(),
        when: None,
        retries: 0,
        constraint: None,
        tools: Vec::new(),
        gold: None,
        examples: None,
    }
}

pub fn candidate(stages: Vec<StageCandidate>) -> Candidate {
    Candidate { name: "test".into(), rung: "baseline".into(), stages }
}

pub fn row(id: &str, input: &str) -> RunRow {
    let fields = json!({ "channel": "mail", "input": "a field of that name" });
    RunRow {
        id: id.into(),
        hash: format!("hash-{id}"),
        part: None,
        stratum: None,
        fields: fields.as_object().cloned().unwrap_or_default(),
        input: input.into(),
        turns: Vec::new(),
        gold: None,
    }
}

type Asked = Rc<RefCell<Vec<Vec<Ask>>>>;

pub fn scripted(
    candidate: &Candidate,
    script: impl Fn(&Ask) -> Result<String, BackendError> + Clone + 'static,
) -> (Pipeline, Asked) {
    let asked = Asked::default();
    let pipeline = Pipeline::with_backends(candidate, &Access::threads(1), &mut |_| {
        Ok(Box::new(Scripted { script: Box::new(script.clone()), asked: asked.clone() }))
    })
    .unwrap();
    (pipeline, asked)
}

#[test]
fn later_stages_see_earlier_answers_and_may_be_skipped() {
    let mut second = stage("solve", "{{ channel }}: {{ route }} / {{ input }}", OutputKind::Text, &[]);
    second.when = Some("route == 'tech'".into());
    let candidate =
        candidate(vec![stage("route", "{{ input }}", OutputKind::Label, &["tech", "sales"]), second]);
    let (mut pipeline, asked) = scripted(&candidate, |ask| {
        Ok(match ask.text() {
            "broken" => "TECH.",
            "buy" => "sales",
            _ => "reboot",
        }
        .to_owned())
    });
    let (a, b) = (row("1", "broken"), row("2", "buy"));
    let got = pipeline.answer(&[&a, &b]);
    assert_eq!((got[0].output.as_str(), got[0].kind), ("reboot", OutputKind::Text));
    assert_eq!((got[1].output.as_str(), got[1].kind), ("sales", OutputKind::Label));
    assert!(got[1].stages[1].skipped && got[1].stages[1].tokens_in == 0);
    let asked = asked.borrow();
    assert_eq!(asked.len(), 2, "rows go through a stage together");
    assert_eq!(asked[1].iter().map(|a| a.text()).collect::<Vec<_>>(), ["mail: tech / broken"]);
}

#[test]
fn a_bare_prompt_asks_a_conversation_turn_by_turn() {
    let turn = |role: &str, text: &str| Turn { role: role.into(), text: text.into() };
    let turns = vec![turn("user", "a"), turn("assistant", "b"), turn("user", "c")];
    let asked = |prompt: &str| {
        let stages = vec![stage("s", prompt, OutputKind::Text, &[])];
        let (mut pipeline, asked) = scripted(&candidate(stages), |_| Ok("ok".to_owned()));
        pipeline.answer(&[&RunRow { turns: turns.clone(), ..row("1", "as text") }]);
        asked.borrow()[0][0].prompt.clone()
    };
    let messages: Vec<Message> = turns.iter().map(Message::from).collect();
    assert_eq!(asked(StageCandidate::BARE), crate::backend::Prompt::Chat(messages));
    assert_eq!(asked("Say: {{ input }}"), crate::backend::Prompt::Turn("Say: as text".into()));
}

#[test]
fn an_unreadable_answer_is_asked_again_and_counted() {
    let mut s = stage("route", "{{ input }}", OutputKind::Label, &["tech"]);
    s.retries = 2;
    let (mut pipeline, asked) = scripted(&candidate(vec![s]), |ask| {
        Ok(if ask.text() == "good" || ask.decoding.seed == 1 { "tech" } else { "hm" }.to_owned())
    });
    let rows = [row("1", "bad"), row("2", "good")];
    let got = pipeline.answer(&rows.iter().collect::<Vec<_>>());
    assert_eq!(
        (got[0].stages[0].retries, got[0].stages[0].format_ok, got[0].stages[0].tokens_in),
        (1, true, 20)
    );
    assert_eq!((got[1].stages[0].retries, got[1].stages[0].tokens_in), (0, 10));
    assert_eq!(asked.borrow().iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert!(asked.borrow()[1][0].decoding.temperature > 0.0, "a greedy retry would repeat itself");
}

#[test]
fn what_stays_unreadable_keeps_its_text() {
    let mut s = stage("route", "{{ input }}", OutputKind::Label, &["tech"]);
    s.retries = 1;
    let (mut pipeline, _) = scripted(&candidate(vec![s]), |_| Ok(" hm \n".to_owned()));
    let got = pipeline.answer(&[&row("1", "x")]);
    assert_eq!(
        (got[0].output.as_str(), got[0].stages[0].format_ok, got[0].stages[0].retries),
        ("hm", false, 1)
    );
    assert_eq!(got[0].error, None);
}

#[test]
fn a_row_that_fails_leaves_the_others_alone() {
    let first = stage("a", "{{ input }}", OutputKind::Json, &[]);
    let second = stage("b", "{{ a.city }}", OutputKind::Text, &[]);
    let (mut pipeline, _) = scripted(&candidate(vec![first, second]), |ask| match ask.text() {
        "boom" => Err(BackendError("prompt too long".into())),
        "full" => Ok("{\"city\": \"Rome\"}".to_owned()),
        "empty" => Ok("{}".to_owned()),
        other => Ok(format!("saw {other}")),
    });
    let rows = ["boom", "full", "empty"].map(|input| row(input, input));
    let got = pipeline.answer(&rows.iter().collect::<Vec<_>>());
    assert_eq!(got[0].error.as_deref(), Some("stage `a`: prompt too long"));
    assert_eq!((got[1].output.as_str(), got[1].error.as_ref()), ("saw Rome", None));
    let said = got[2].error.as_deref().unwrap();
    assert!(said.contains("prompts/b.md") && said.contains("`a.city`"), "{said}");
}

#[test]
fn a_tool_call_is_looked_up_and_its_result_is_in_scope_for_the_next_stage() {
    let mut plan = stage("plan", "{{ input }}", OutputKind::Tool, &[]);
    plan.tools = crate::domain::tool::tests::tools();
    plan.retries = 1;
    let mut answer = stage(
        "answer",
        "{{ plan.name }} {{ plan.arguments.city }} {{ plan.result.sky or plan.result }}",
        OutputKind::Text,
        &[],
    );
    answer.when = Some("plan.name".into());
    let (mut pipeline, asked) = scripted(&candidate(vec![plan, answer]), |ask| {
        let text = ask.text();
        Ok(if text.ends_with("Rome?") && ask.decoding.seed == 0 {
            "{\"name\": \"weather\", \"arguments\": {\"town\": \"Rome\"}}".to_owned()
        } else if text.ends_with("Rome?") {
            "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 1}}</tool_call>"
                .to_owned()
        } else if text.ends_with("hello") {
            "hello".to_owned()
        } else {
            format!("saw {text}")
        })
    });
    let rows = [row("1", "Rome?"), row("2", "hello")];
    let got = pipeline.answer(&rows.iter().collect::<Vec<_>>());
    assert_eq!(got[0].output, "saw weather Rome blue");
    let plan = &got[0].stages[0];
    assert_eq!((plan.retries, plan.format_ok), (1, true));
    assert_eq!(plan.output, r#"{"name":"weather","arguments":{"city":"Rome","days":1}}"#);
    let trace = &got[0].traces[0];
    assert_eq!(trace.result, Some(json!({ "sky": "blue" })));
    assert_eq!(trace.attempts[0].problem.as_deref(), Some("arguments of `weather`: /: `city` is missing"));
    assert!(
        trace.prompt.starts_with("You can call one of these tools:\n{\"name\":\"weather\""),
        "{}",
        trace.prompt
    );
    assert!(asked.borrow()[0][0].tools.is_empty(), "a local model without a template is told in text");
    // No call, twice: the stage's value has no name, and the pipeline can go on.
    assert_eq!(
        (got[1].stages[0].format_ok, got[1].stages[1].skipped, got[1].error.as_ref()),
        (false, true, None)
    );
    assert_eq!(got[1].traces[0].attempts.len(), 2);
}

#[test]
fn an_endpoint_gets_the_tools_beside_the_prompt_and_a_prompt_may_lay_them_out_itself() {
    let tools = crate::domain::tool::tests::tools();
    let mut native = stage("plan", "{{ input }}", OutputKind::Tool, &[]);
    native.tools = tools.clone();
    native.model.source = ModelSource::Endpoint {
        endpoint: "http://127.0.0.1:1/v1".into(),
        model: "m".into(),
        api_key_env: None,
    };
    let (mut pipeline, asked) = scripted(&candidate(vec![native]), |_| Ok("{}".into()));
    pipeline.answer(&[&row("1", "x")]);
    let ask = asked.borrow()[0][0].clone();
    assert_eq!((ask.text(), ask.tools.len()), ("x", 2));
    assert_eq!(ask.tools[0]["function"]["name"], "weather");

    let mut own =
        stage("plan", "{% for t in tools %}{{ t.name }} {% endfor %}{{ input }}", OutputKind::Tool, &[]);
    own.tools = tools;
    let (mut pipeline, asked) = scripted(&candidate(vec![own]), |_| Ok("{}".into()));
    pipeline.answer(&[&row("1", "x")]);
    assert_eq!(asked.borrow()[0][0].text(), "weather stock x");
}

#[test]
fn nested_json_of_a_stage_is_in_scope_for_every_later_one() {
    let first = stage("read", "{{ input }}", OutputKind::Json, &[]);
    let mut second = stage("ask", "{{ read.who.name }} {{ read.items[1].price + 1 }}", OutputKind::Json, &[]);
    second.when = Some("read.items | length > 1".into());
    let third = stage("say", "{{ stages.read.who.name }}/{{ ask.steps[0].ok }}", OutputKind::Text, &[]);
    let (mut pipeline, asked) = scripted(&candidate(vec![first, second, third]), |ask| {
        Ok(match ask.text() {
            "x" => "{\"who\": {\"name\": \"Ann\"}, \"items\": [{}, {\"price\": 6}]}",
            "Ann 7" => "```json\n{\"steps\": [{\"ok\": \"yes\"}]}\n```",
            _ => "done",
        }
        .to_owned())
    });
    let got = pipeline.answer(&[&row("1", "x")]);
    assert_eq!((got[0].output.as_str(), got[0].error.as_ref()), ("done", None));
    assert_eq!(asked.borrow()[2][0].text(), "Ann/yes");
    let traced: Vec<&str> = got[0].traces.iter().map(|t| t.prompt.as_str()).collect();
    assert_eq!(traced, ["x", "Ann 7", "Ann/yes"]);
}

#[test]
fn stages_of_one_model_share_it() {
    let mut other = stage("c", "x", OutputKind::Text, &[]);
    other.model.hash = "other".into();
    let stages = vec![stage("a", "x", OutputKind::Text, &[]), stage("b", "x", OutputKind::Text, &[]), other];
    let mut opened = 0;
    Pipeline::with_backends(&candidate(stages), &Access::threads(1), &mut |_| {
        opened += 1;
        Ok(Box::new(Scripted { script: Box::new(|_| Ok(String::new())), asked: Asked::default() }))
    })
    .unwrap();
    assert_eq!(opened, 2);
}
