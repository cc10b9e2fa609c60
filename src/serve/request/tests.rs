use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chat(more: Value) -> Result<Wanted, ApiError> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    merge(&mut body, more);
    read(Api::Chat, body.to_string().as_bytes(), 7)
}

fn completion(more: Value) -> Result<Wanted, ApiError> {
    let mut body = json!({ "model": "m", "prompt": "hi" });
    merge(&mut body, more);
    read(Api::Completion, body.to_string().as_bytes(), 7)
}

fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

#[test]
fn what_is_left_out_has_the_defaults_of_openai() {
    let wanted = chat(json!({})).unwrap();
    let ask = &wanted.asks[0];
    assert_eq!(ask.prompt, Prompt::Chat(vec![Message::user("hi")]));
    assert_eq!((ask.decoding.temperature, ask.decoding.max_tokens, ask.decoding.seed), (1.0, usize::MAX, 7));
    assert!(!wanted.stream && ask.logprobs.is_none() && ask.constraint.is_none());
    assert_eq!(completion(json!({})).unwrap().asks[0].decoding.max_tokens, 16);
    // Null is nothing, and what nobody knows is passed over.
    let nulls = json!({ "temperature": null, "stop": null, "tools": null, "response_format": null, "user": "x", "metadata": {} });
    assert_eq!(chat(nulls).unwrap(), wanted);
}

#[test]
fn every_field_reaches_the_question() {
    let wanted = chat(json!({
        "max_completion_tokens": 5, "max_tokens": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1,
        "repetition_penalty": 1.2, "seed": -1, "stop": ["a", "b"], "n": 3, "logprobs": true, "top_logprobs": 4,
        "stream": true, "stream_options": { "include_usage": true },
        "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": "object" } } },
    }))
    .unwrap();
    assert_eq!((wanted.asks.len(), wanted.samples, wanted.stream, wanted.include_usage), (3, 3, true, true));
    let ask = &wanted.asks[2];
    let decoding = &ask.decoding;
    assert_eq!((decoding.max_tokens, decoding.temperature, decoding.top_p), (5, 0.0, Some(0.5)));
    assert_eq!(
        (decoding.top_k, decoding.min_p, decoding.repetition_penalty),
        (Some(3), Some(0.1), Some(1.2))
    );
    assert_eq!((decoding.stop.clone(), ask.sample, ask.logprobs), (vec!["a".into(), "b".into()], 2, Some(4)));
    assert_eq!(decoding.seed, u64::MAX.wrapping_add(2));
    assert_eq!(ask.constraint, Some(Constraint::Schema(json!({ "type": "object" }))));
    let several = completion(json!({ "prompt": ["a", "b"], "n": 2, "logprobs": 0, "stop": "x" })).unwrap();
    let prompts: Vec<_> = several.asks.iter().map(|a| (a.text(), a.sample)).collect();
    assert_eq!(prompts, [("a", 0), ("a", 1), ("b", 0), ("b", 1)]);
    assert_eq!(several.asks[0].logprobs, Some(0));
}

#[test]
fn turns_are_read_in_parts_and_with_calls_of_tools() {
    let tool = json!({ "type": "function", "function": { "name": "look", "parameters": {} } });
    let wanted = chat(json!({
        "messages": [
            { "role": "developer", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "1", "type": "function", "function": { "name": "look", "arguments": "{\"q\": 1}" } }
            ] },
            { "role": "tool", "tool_call_id": "1", "content": "found" },
        ],
        "tools": [tool.clone()],
    }))
    .unwrap();
    let Prompt::Chat(turns) = &wanted.asks[0].prompt else { panic!() };
    let roles: Vec<_> = turns.iter().map(|t| (t.role.as_str(), t.content.as_str())).collect();
    assert_eq!(roles, [("system", "be brief"), ("user", "ab"), ("assistant", ""), ("tool", "found")]);
    assert_eq!(turns[2].tool_calls[0]["function"]["arguments"]["q"], 1);
    assert_eq!(wanted.asks[0].tools, std::slice::from_ref(&tool));
    assert!(chat(json!({ "tools": [tool], "tool_choice": "none" })).unwrap().asks[0].tools.is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (json!({ "model": 3 }), "model"),
        (json!({ "model": null }), "model"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hi" }), "messages"),
        (json!({ "messages": [3] }), "messages[0]"),
        (json!({ "messages": [{ "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "robot", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": 4 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "temperature": 2.1 }), "temperature"),
        (json!({ "top_p": 0 }), "top_p"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "n": 9 }), "n"),
        (json!({ "n": 0 }), "n"),
        (json!({ "seed": 1e300 }), "seed"),
        (json!({ "stop": 3 }), "stop"),
        (json!({ "stop": ["a", 3] }), "stop[1]"),
        (json!({ "stop": [""] }), "stop"),
        (json!({ "stream": "yes" }), "stream"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({ "stream": true, "stream_options": 3 }), "stream_options"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "response_format": "json" }), "response_format"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": {} } }),
            "response_format.json_schema.schema",
        ),
        (json!({ "presence_penalty": 1 }), "presence_penalty"),
        (json!({ "logit_bias": { "5": 1 } }), "logit_bias"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (json!({ "tools": [{ "type": "function", "function": {} }] }), "tools[0].function.name"),
        (json!({ "tools": [], "tool_choice": "required" }), "tool_choice"),
        (json!({ "functions": [] }), "functions"),
    ];
    for (more, param) in cases {
        let error = chat(more.clone()).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{more}: {}", error.message);
    }
    for (more, param) in [
        (json!({ "prompt": [1, 2] }), "prompt[0]"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": {} }), "prompt"),
        (json!({ "echo": true }), "echo"),
        (json!({ "best_of": 4 }), "best_of"),
        (json!({ "suffix": "x" }), "suffix"),
        (json!({ "prompt": vec!["a"; 20], "n": 8 }), "n"),
    ] {
        assert_eq!(completion(more).unwrap_err().param.as_deref(), Some(param));
    }
    for body in ["", "{", "[]", "3", "\"x\"", "\u{0}"] {
        assert_eq!(read(Api::Chat, body.as_bytes(), 0).unwrap_err().status, 400);
    }
    // Deeper than any reader should follow.
    let deep = format!("{{\"model\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(read(Api::Chat, deep.as_bytes(), 0).unwrap_err().status, 400);
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop_oneof![Just("user"), Just("text"), Just("function"), Just("json_schema"), Just("auto")]
            .prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("role"),
        Just("content"),
        Just("type"),
        Just("text"),
        Just("function"),
        Just("name"),
        Just("arguments"),
        Just("json_schema"),
        Just("schema"),
        Just("include_usage"),
        Just("tool_calls"),
        Just("x"),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(String::from), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands in whichever field: an answer, or an error of the client's.
    #[test]
    fn any_body_is_read_or_refused(
        fields in prop::collection::btree_map(
            prop::sample::select(vec![
                "model", "messages", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n",
                "logprobs", "top_logprobs", "stream", "stream_options", "response_format", "tools", "tool_choice",
                "logit_bias", "echo",
            ]),
            anything(),
            0..8,
        ),
        valid in any::<bool>(),
    ) {
        let mut body = if valid {
            json!({ "model": "m", "prompt": "p", "messages": [{ "role": "user", "content": "c" }] })
        } else {
            json!({})
        };
        merge(&mut body, Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()));
        for api in [Api::Chat, Api::Completion] {
            match read(api, body.to_string().as_bytes(), 0) {
                Ok(wanted) => {
                    prop_assert!(!wanted.asks.is_empty() && wanted.asks.len() <= MOST_ANSWERS);
                    for ask in &wanted.asks {
                        prop_assert!((0.0..=2.0).contains(&ask.decoding.temperature));
                        prop_assert!(ask.decoding.max_tokens > 0 && ask.decoding.top_k != Some(0));
                    }
                }
                Err(error) => prop_assert_eq!(error.status, 400),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for api in [Api::Chat, Api::Completion] {
            prop_assert_eq!(read(api, &bytes, 0).unwrap_err().status, 400);
        }
    }
}
