//! Against a server of our own that does whatever a server can do wrong.

#[allow(dead_code, reason = "the black-box tests use the rest")]
mod server;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::backend::{Finish, Prompt};
use crate::domain::candidate::{Constraint, Decoding};
use server::{Reply, Server, delta, end, usage};

const KEY: &str = "sk-hush-0123456789";

fn model(endpoint: &str) -> ModelRef {
    ModelRef {
        name: "critic".into(),
        source: ModelSource::Endpoint { endpoint: endpoint.into(), model: "big".into(), api_key_env: None },
        hash: "h".into(),
        usd_per_million_input: None,
        usd_per_million_output: None,
        usd_per_hour: None,
        limits: Limits::default(),
        device: Default::default(),
    }
}

fn keyed(endpoint: &str) -> (ModelRef, Keys) {
    let mut model = model(endpoint);
    model.source = ModelSource::Endpoint {
        endpoint: endpoint.into(),
        model: "big".into(),
        api_key_env: Some("CRITIC_KEY".into()),
    };
    let need = KeyNeed::of(&model).unwrap();
    (model, Keys::new([(need, KEY.to_owned())]))
}

/// Patience for a machine that is busy, and none where a test waits for the end of it.
fn times() -> Times {
    Times { first: Duration::from_secs(30), idle: Duration::from_secs(30), ..Times::default() }
}

fn open_with(model: &ModelRef, keys: &Keys, times: Times) -> Endpoint {
    Endpoint::with_times(model, keys, times, Duration::from_millis(1)).unwrap()
}

fn open(server: &Server) -> Endpoint {
    open_with(&model(&server.endpoint()), &Keys::default(), times())
}

fn ask(text: &str) -> Ask {
    Ask::turn(text, Decoding { max_tokens: 16, ..Decoding::default() })
}

fn one(backend: &mut Endpoint, ask: Ask) -> Result<Answer, String> {
    backend.answer(&[ask]).remove(0).map_err(|e| e.to_string())
}

/// What a server that replies so is told to have done.
fn said(replies: Vec<Reply>) -> String {
    one(&mut open(&Server::start(replies)), ask("hi")).unwrap_err()
}

#[test]
fn an_answer_comes_with_its_tokens_and_times() {
    let server = Server::start(vec![]);
    let got = one(&mut open(&server), ask("Rome, é")).unwrap();
    assert_eq!((got.text.as_str(), got.tokens_in, got.tokens_out), ("Rome, é", 7, 3));
    assert_eq!((got.finish, got.estimated, got.masked), (Finish::Stop, false, 0));
    assert!(got.ttft_ms > 0.0 && got.ms >= got.ttft_ms);
    let asked = &server.asked()[0];
    assert_eq!((asked.path.as_str(), asked.authorization.as_ref()), ("/v1/chat/completions", None));
    assert_eq!(asked.body["model"], "big");
}

#[test]
fn a_text_is_continued_at_its_own_path() {
    let server = Server::start(vec![Reply::Events(vec![
        json!({ "choices": [{ "index": 0, "text": " upon" }] }),
        json!({ "choices": [{ "index": 0, "text": " a", "finish_reason": "length" }] }),
        usage(1, 2),
    ])]);
    let got = one(&mut open(&server), Ask { prompt: Prompt::Text("Once".into()), ..ask("") }).unwrap();
    assert_eq!((got.text.as_str(), got.finish), (" upon a", Finish::Length));
    assert_eq!(server.asked()[0].path, "/v1/completions");
}

#[test]
fn so_many_questions_are_under_way_and_no_more() {
    let server = Server::start(vec![Reply::Together(3)]);
    let mut model = model(&server.endpoint());
    model.limits.max_in_flight = Some(3);
    let asks: Vec<Ask> = (0..9).map(|i| ask(&format!("q{i}"))).collect();
    // Three must be there before the first is answered, so the last three are answered together as well.
    let got = open_with(&model, &Keys::default(), times()).answer(&asks);
    let texts: Vec<String> = got.into_iter().map(|a| a.unwrap().text).collect();
    assert_eq!(texts, (0..9).map(|i| format!("q{i}")).collect::<Vec<_>>(), "in their order");
    assert_eq!(server.most_at_once(), 3);
}

#[test]
fn a_listener_may_wait_for_a_channel_in_a_thread_of_another_runtime() {
    let server = Server::start(vec![]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let heard = runtime.block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let asking = tokio::task::spawn_blocking(move || {
            open(&server).stream(&[ask("abc")], &mut |_, news| {
                if let Heard::Piece(piece) = news {
                    tell.blocking_send(piece.to_owned()).unwrap();
                }
                ControlFlow::Continue(())
            })
        });
        let mut heard = String::new();
        while let Some(piece) = told.recv().await {
            heard += &piece;
        }
        assert_eq!(asking.await.unwrap()[0].as_ref().unwrap().text, "abc");
        heard
    });
    assert_eq!(heard, "abc");
}

#[test]
fn a_question_that_waits_for_its_server_can_be_taken_back() {
    let server = Server::start(vec![Reply::later(429, "Retry-After: 60")]);
    let mut waited = false;
    let got = open(&server).stream(&[ask("abc")], &mut |_, news| {
        waited |= matches!(news, Heard::Waiting);
        if waited { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(got[0].as_ref().unwrap_err().0.contains("taken back"), "{got:?}");
}

#[test]
fn pieces_are_heard_as_they_come_and_an_answer_can_be_broken_off() {
    let server = Server::start(vec![]);
    let (mut heard, mut done) = (vec![String::new(); 2], Vec::new());
    let got = open(&server).stream(&[ask("abcdef"), ask("uvw")], &mut |i, news| {
        match news {
            Heard::Piece(piece) => heard[i].push_str(piece),
            Heard::Done(answer) => done.push((i, answer.text.clone())),
            Heard::Waiting => {}
        }
        if heard[i] == "abc" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    done.sort();
    assert_eq!(done, [(0, "abc".to_owned()), (1, "uvw".to_owned())], "told once each");
    assert_eq!(heard, ["abc", "uvw"]);
    let got: Vec<Answer> = got.into_iter().map(Result::unwrap).collect();
    assert_eq!((got[0].text.as_str(), got[0].finish, got[0].estimated), ("abc", Finish::Broken, true));
    assert_eq!((got[1].text.as_str(), got[1].finish), ("uvw", Finish::Stop));
}

#[test]
fn a_busy_server_is_asked_again() {
    for busy in [
        Reply::refuse(429, "slow down"),
        Reply::refuse(500, "oops"),
        Reply::refuse(502, "oops"),
        Reply::refuse(503, "loading"),
        Reply::refuse(504, "oops"),
        Reply::later(429, "Retry-After: 0"),
        Reply::later(503, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"),
        Reply::later(429, "retry-after-ms: 1"),
        Reply::Hangup,
        Reply::Cut(vec![]),
    ] {
        let server = Server::start(vec![busy.clone(), busy.clone(), Reply::Echo]);
        let got = one(&mut open(&server), ask("hi"));
        assert_eq!(got.as_ref().map(|a| a.text.as_str()), Ok("hi"), "{busy:?}");
        assert!(got.unwrap().waited_ms > 0.0);
        // A client may ask once more by itself where a connection was closed without a word.
        assert!(server.asked().len() >= 3, "{busy:?}");
    }
}

#[test]
fn a_server_that_stays_busy_is_given_up_and_says_how_often_it_was_asked() {
    let server = Server::start(vec![Reply::refuse(503, "loading")]);
    let mut backend = open(&server);
    let said = one(&mut backend, ask("hi")).unwrap_err();
    assert!(said.contains("503") && said.contains("loading") && said.contains("asked 6 times"), "{said}");
    assert_eq!(server.asked().len(), 6);
    one(&mut backend, ask("hi")).unwrap_err();
    assert_eq!(server.asked().len(), 7, "one that never answered is not waited for again");
    let server = Server::start(vec![Reply::later(429, "Retry-After: 86400")]);
    let said = one(&mut open(&server), ask("hi")).unwrap_err();
    assert!(said.contains("asks to wait for 86400 s"), "{said}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn an_unreachable_server_is_an_error_of_the_question() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut backend = open_with(&model(&format!("http://{gone}/v1")), &Keys::default(), times());
    let said = one(&mut backend, ask("hi")).unwrap_err();
    assert!(
        said.contains("`critic`") && said.contains("cannot be reached") && said.contains("refused"),
        "{said}"
    );
    assert!(said.contains(&format!("http://{gone}")), "{said}");
}

#[test]
fn a_server_that_takes_no_stream_or_no_stream_options_is_asked_without_and_remembered() {
    let server = Server::start(vec![
        Reply::refuse(400, "Unrecognized request argument supplied: stream_options"),
        Reply::refuse(422, "Streaming is not supported"),
        Reply::refuse(400, "Unsupported parameter: 'max_tokens'; use 'max_completion_tokens' instead"),
        Reply::Echo,
    ]);
    let mut backend = open(&server);
    assert_eq!(one(&mut backend, ask("a")).unwrap().text, "a");
    assert_eq!(one(&mut backend, ask("b")).unwrap().text, "b");
    let bodies: Vec<Value> = server.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies.len(), 5);
    assert!(bodies[1].get("stream_options").is_none() && bodies[1]["stream"] == true);
    for body in &bodies[3..] {
        assert_eq!((&body["stream"], &body["max_completion_tokens"]), (&json!(false), &json!(16)));
        assert!(body.get("max_tokens").is_none());
    }
}

#[test]
fn a_parameter_that_the_server_does_not_know_is_named() {
    let server = Server::start(vec![Reply::refuse(400, "extra fields not permitted: top_k")]);
    let mut question = ask("hi");
    question.decoding.top_k = Some(3);
    let said = one(&mut open(&server), question).unwrap_err();
    assert!(said.contains("does not take `top_k`"), "{said}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn what_a_lying_server_sends_is_an_error_that_says_what_was_expected_and_what_came() {
    let plain = |kind, body: &[u8]| Reply::Plain(200, kind, String::new(), body.to_vec());
    let sse = |body: &[u8]| plain("text/event-stream", body);
    let usage =
        |value: Value| json!({ "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": value } });
    for (reply, words) in [
        (plain("application/json", b"{\"choices\": [{\"mess"), "an answer in JSON was expected"),
        (plain("application/json", b"[1, 2]"), "an answer"),
        (plain("application/json", b""), "and this came: nothing"),
        (plain("application/json", b"{\"id\": \"x\"}"), "an answer with `choices` was expected"),
        (plain("application/json", b"{\"choices\": []}"), "`choices` is empty"),
        (plain("application/json", b"{\"error\": {\"message\": \"no GPU\"}}"), "200 with an error: no GPU"),
        (
            plain("application/json", b"{\"choices\": [{\"message\": {\"content\": \"\xff\"}}]}"),
            "JSON in UTF-8 was expected",
        ),
        (
            plain("text/html", b"<html><head><title>Sign in</title></head>"),
            "text/event-stream was expected, and text/html came: an HTML page, \"Sign in\"",
        ),
        (plain("text/plain", b"\x1b[31mred\x07"), "and text/plain came: [31mred"),
        (plain("", b"{}"), "the answer was cut off"),
        (Reply::Plain(204, "", String::new(), vec![]), "it answered 204"),
        (
            Reply::Plain(403, "text/html", String::new(), b"<!DOCTYPE html><title>Blocked</title>".to_vec()),
            "403 Forbidden: an HTML page, \"Blocked\"",
        ),
        (sse(b"data: {\"choices\": [{\"delta\": {\"con\n\n"), "an answer in JSON was expected"),
        (sse(b"data: {\"error\": \"out of memory\"}\n\n"), "200 with an error: out of memory"),
        (Reply::Events(vec![]), "`choices` is empty"),
        (
            Reply::Events(vec![delta("a"), usage(json!(-3))]),
            "a count of tokens was expected in usage.completion_tokens, and -3 came",
        ),
        (Reply::Events(vec![delta("a"), usage(json!("many"))]), "and \"many\" came"),
        (Reply::Events(vec![delta("a"), end("content_filter")]), "withheld"),
        (Reply::Cut(vec![delta("Ro"), delta("me")]), "cut off after 4 bytes"),
        (
            Reply::Plain(307, "", "Location: http://evil.test/v1\r\n".into(), vec![]),
            "sends on to http://evil.test/v1",
        ),
    ] {
        let got = said(vec![reply.clone()]);
        assert!(got.contains(words), "{reply:?}: {got}");
        assert!(got.contains("`critic` at http://127.0.0.1:") && !got.contains('\u{1b}'), "{got}");
        assert!(got.len() < 700, "{got}");
    }
}

#[test]
fn ten_megabytes_of_text_are_given_up_early() {
    let text = "x".repeat(10 << 20);
    let whole = json!({ "choices": [{ "message": { "content": text } }] });
    let one = format!("data: {}\n\n", delta(&"x".repeat(1000)));
    let comment = format!(": {}\n\n", "x".repeat(1 << 16));
    let line = "x".repeat(1 << 16);
    for (reply, words) in [
        (Reply::json(200, &whole), "at most 8192 bytes"),
        (Reply::Endless(one), "at most 8192 bytes"),
        (Reply::Endless(comment), "at most 64 MiB"),
        (Reply::Endless(line), "one without end came"),
    ] {
        let got = said(vec![reply]);
        assert!(got.contains(words), "{got}");
    }
}

#[test]
fn a_stalled_or_dripping_server_is_not_waited_for() {
    let short = Duration::from_millis(60);
    let cases = [
        (vec![], Times { first: short, ..times() }, "the first piece of an answer was expected"),
        (vec![delta("a")], Times { idle: short, ..times() }, "the next piece of an answer was expected"),
    ];
    for (events, times, words) in cases {
        let server = Server::start(vec![Reply::Stall(events)]);
        let got =
            one(&mut open_with(&model(&server.endpoint()), &Keys::default(), times), ask("hi")).unwrap_err();
        assert!(got.contains(words), "{got}");
        assert_eq!(server.asked().len(), 1, "a slow server is not given more to do");
    }
    // A piece now and then, for ever: each comes in time, the answer does not end.
    let server = Server::start(vec![Reply::Endless(format!("data: {}\n\n", delta("")))]);
    let short = Times { total: Duration::from_millis(200), first: Duration::from_millis(150), ..times() };
    let got =
        one(&mut open_with(&model(&server.endpoint()), &Keys::default(), short), ask("hi")).unwrap_err();
    assert!(got.contains("expected"), "{got}");
}

#[test]
fn tokens_that_the_server_does_not_count_are_reckoned_and_said_to_be() {
    let server = Server::start(vec![Reply::Events(vec![delta("12345678"), end("stop")])]);
    let got = one(&mut open(&server), ask("0123456789")).unwrap();
    assert_eq!((got.tokens_in, got.tokens_out, got.estimated), (3, 2, true));
}

#[test]
fn tools_and_schemas_go_out_and_calls_come_back() {
    let call = |index: u64, arguments: &str| {
        json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [
            { "index": index, "id": "c1", "type": "function", "function": { "name": "find", "arguments": arguments } }] } }] })
    };
    let server =
        Server::start(vec![Reply::Events(vec![call(0, "{\"q\":"), call(0, "1}"), end("tool_calls")])]);
    let mut question = ask("hi");
    question.tools = vec![json!({ "type": "function", "function": { "name": "find" } })];
    question.constraint = Some(Constraint::Schema(json!({ "type": "object" })));
    let got = one(&mut open(&server), question).unwrap();
    assert_eq!(got.finish, Finish::ToolCalls);
    assert_eq!(got.tool_calls[0]["function"], json!({ "name": "find", "arguments": "{\"q\":1}" }));
    let body = &server.asked()[0].body;
    assert_eq!(body["tools"][0]["function"]["name"], "find");
    assert_eq!(body["response_format"]["type"], "json_schema");
}

#[test]
fn an_error_that_is_the_same_for_all_is_not_asked_for_again_and_again() {
    for (status, words) in [(401, "name the variable"), (404, "has it a model `big`")] {
        let server = Server::start(vec![Reply::refuse(status, "no")]);
        let mut model = model(&server.endpoint());
        model.limits.max_in_flight = Some(1);
        let asks: Vec<Ask> = (0..50).map(|i| ask(&i.to_string())).collect();
        let got = open_with(&model, &Keys::default(), times()).answer(&asks);
        assert!(got.iter().all(|a| a.as_ref().is_err_and(|e| e.to_string().contains(words))), "{got:?}");
        assert!(
            got[49].as_ref().unwrap_err().to_string().contains("not asked again after 4"),
            "{:?}",
            got[49]
        );
        assert_eq!(server.asked().len(), 4);
    }
}

#[test]
fn an_answer_between_two_failures_starts_the_count_anew() {
    let mut replies: Vec<Reply> = Vec::new();
    for _ in 0..3 {
        replies.extend([
            Reply::refuse(404, "no"),
            Reply::refuse(404, "no"),
            Reply::refuse(404, "no"),
            Reply::Echo,
        ]);
    }
    let server = Server::start(replies);
    let mut backend = open(&server);
    for i in 0..12 {
        assert_eq!(one(&mut backend, ask("hi")).is_ok(), i % 4 == 3, "{i}");
    }
}

#[test]
fn the_key_goes_to_its_endpoint_and_into_no_word() {
    let echo = format!("Bearer {KEY} is wrong: sk-hush-\u{7}0123456789");
    let server = Server::start(vec![
        Reply::refuse(400, &echo),
        Reply::Plain(500, "text/plain", "Retry-After: 9999\r\n".into(), echo.clone().into_bytes()),
        Reply::Plain(302, "", format!("Location: http://x/{KEY}\r\n"), vec![]),
        Reply::Plain(200, "application/json", String::new(), echo.clone().into_bytes()),
        Reply::json(200, &json!({ "error": echo })),
        Reply::refuse(401, &echo),
        Reply::Events(vec![delta("it is sk-hu"), delta("sh-0123456789."), end("stop")]),
    ]);
    let (model, keys) = keyed(&server.endpoint());
    let mut backend = open_with(&model, &keys, times());
    assert!(!format!("{backend:?}").contains("hush"), "{backend:?}");
    for _ in 0..6 {
        let said = one(&mut backend, ask("hi")).unwrap_err();
        assert!(!said.contains("hush") && !said.contains(KEY), "{said}");
    }
    let mut heard = String::new();
    let got = backend.stream(&[ask("hi")], &mut |_, news| {
        if let Heard::Piece(piece) = news {
            heard.push_str(piece);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(got[0].as_ref().unwrap().text, "it is <key>.");
    assert_eq!(heard, "it is <key>.");
    assert!(server.asked().iter().all(|a| a.authorization.as_deref() == Some("Bearer sk-hush-0123456789")));
}

#[test]
fn a_key_for_another_origin_is_none() {
    let server = Server::start(vec![]);
    let (model, _) = keyed(&server.endpoint());
    let (_, keys) = keyed("https://elsewhere.test/v1");
    let said = Endpoint::open(&model, &keys).unwrap_err().to_string();
    assert!(said.contains("CRITIC_KEY") && said.contains(&server.origin) && !said.contains("hush"), "{said}");
}

#[test]
fn personal_data_goes_out_as_placeholders_and_comes_back() {
    let text = "Mail ann@example.com, card 4111 1111 1111 1111, or ann@example.com; not <EMAIL_1>.";
    let call = json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [
        { "index": 0, "id": "c", "function": { "name": "f", "arguments": "{\"to\":\"<EMAIL_2>\"}" } }] } }] });
    let server = Server::start(vec![Reply::Echo, Reply::Events(vec![call, end("tool_calls")])]);
    let mut model = model(&server.endpoint());
    model.limits.mask_pii = true;
    let mut backend = open_with(&model, &Keys::default(), times());
    let mut heard = String::new();
    let mut question = ask(text);
    question.decoding.max_tokens = 100;
    // The server sends it character by character.
    let got = backend.stream(&[question.clone()], &mut |_, news| {
        if let Heard::Piece(piece) = news {
            heard.push_str(piece);
        }
        ControlFlow::Continue(())
    });
    let got = got[0].clone().unwrap();
    assert_eq!((got.text.as_str(), heard.as_str(), got.masked), (text, text, 3));
    let sent = server.asked()[0].body["messages"][0]["content"].clone();
    assert_eq!(sent, "Mail <EMAIL_2>, card <CARD_1>, or <EMAIL_2>; not <EMAIL_1>.");
    let calls = one(&mut backend, question).unwrap().tool_calls;
    assert_eq!(calls[0]["function"]["arguments"], "{\"to\":\"ann@example.com\"}");
}

#[test]
fn a_probe_says_what_models_there_are() {
    let list = json!({ "object": "list", "data": [{ "id": "big" }, { "id": "small" }] });
    let server = Server::start(vec![
        Reply::json(200, &list),
        Reply::json(200, &list),
        Reply::refuse(401, "no"),
        Reply::Plain(200, "text/html", String::new(), b"<html>".to_vec()),
    ]);
    let address = Address::parse(&server.endpoint()).unwrap();
    let ask = |model: &str| probe(&address, Some(KEY.into()), model);
    assert_eq!((ask("big"), ask("huge")), (Ok((2, true)), Ok((2, false))));
    assert!(ask("big").unwrap_err().contains("401"));
    assert!(ask("big").unwrap_err().contains("no list of models"));
    assert_eq!(server.asked()[0].path, "/v1/models");
}

#[test]
fn texts_are_embedded_together_and_a_busy_server_is_asked_again() {
    let vectors =
        json!({ "data": [{ "index": 1, "embedding": [0.0, 2.0] }, { "index": 0, "embedding": [1.0, 0.0] }] });
    let server = Server::start(vec![Reply::refuse(429, "slow down"), Reply::json(200, &vectors)]);
    let got = open(&server).embeddings(&["where is my card", "refund"], &mut || true).unwrap().unwrap();
    assert_eq!(got, [[1.0, 0.0], [0.0, 2.0]]);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (asked[1].path.as_str(), &asked[1].body["input"]),
        ("/v1/embeddings", &json!(["where is my card", "refund"]))
    );
    assert_eq!(asked[1].body["model"], "big");
}

#[test]
fn a_server_that_embeds_nothing_or_nonsense_is_told_in_words() {
    let refused = |reply: Reply| {
        let server = Server::start(vec![reply]);
        open(&server).embeddings(&["a", "b"], &mut || true).unwrap_err().to_string()
    };
    assert!(refused(Reply::refuse(404, "no such route")).contains("has it embeddings by `big`?"));
    let one = json!({ "data": [{ "embedding": [1.0] }] });
    assert!(refused(Reply::json(200, &one)).contains("2 vectors were expected, and 1 came"));
    let uneven = json!({ "data": [{ "embedding": [1.0] }, { "embedding": [1.0, 2.0] }] });
    assert!(refused(Reply::json(200, &uneven)).contains("different lengths"));
    let server = Server::start(vec![Reply::json(200, &one)]);
    let mut masked = model(&server.endpoint());
    masked.limits.mask_pii = true;
    let why = open_with(&masked, &Keys::default(), times()).embeddings(&["a"], &mut || true);
    let why = why.unwrap_err().to_string();
    assert!(why.contains("mask_pii") && server.asked().is_empty(), "{why}");
}

#[test]
fn a_server_that_embeds_nothing_in_its_time_is_not_asked_again_and_nobody_need_wait_for_it() {
    let server = Server::start(vec![Reply::Stall(vec![])]);
    let short = Times { first: Duration::from_millis(50), ..times() };
    let endpoint = open_with(&model(&server.endpoint()), &Keys::default(), short);
    let why = endpoint.embeddings(&["a"], &mut || true).unwrap_err().to_string();
    assert!(why.contains("no answer came within"), "{why}");
    assert_eq!(server.asked().len(), 1);
    let mut asked = 0;
    let none = open(&Server::start(vec![Reply::Stall(vec![])])).embeddings(&["a"], &mut || {
        asked += 1;
        asked < 3
    });
    assert_eq!((none.unwrap(), asked), (None, 3));
}
