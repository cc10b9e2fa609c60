//! Tools in a pipeline: how a model is told of them, and how its call is read.
//!
//! Endpoints get them as OpenAI's `tools`; a local model whose chat template knows `tools` gets them there. Any other is told in text,
//! in front of the prompt ([`description`]), unless the prompt lays `tools` out itself.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::backend::Answer;
use crate::domain::candidate::{ModelSource, StageCandidate};
use crate::domain::tool::{Tool, check_call};
use crate::model::chat::ChatTemplate;

/// The stage's model takes tools beside the prompt.
pub fn is_native(stage: &StageCandidate) -> bool {
    match &stage.model.source {
        ModelSource::Endpoint { .. } => true,
        ModelSource::Local { path } => {
            ChatTemplate::load(Path::new(path)).ok().flatten().is_some_and(|t| t.knows_tools())
        }
    }
}

/// What stands in front of a prompt for a model that knows no tools.
pub fn description(tools: &[Tool]) -> String {
    let mut text = match tools {
        [_] => "You can call this tool:\n".to_owned(),
        _ => "You can call one of these tools:\n".to_owned(),
    };
    for tool in tools {
        text.push_str(&format!("{}\n", tool.signature()));
    }
    text.push_str(
        "Answer with the call and nothing else, as JSON: {\"name\": TOOL, \"arguments\": {...}}\n\n",
    );
    text
}

/// An answer as text: what was said, or where tools were called, the calls as JSON.
pub fn said(answer: &Answer) -> String {
    match answer.tool_calls.as_slice() {
        [] => answer.text.clone(),
        [only] => only.to_string(),
        many => Value::Array(many.to_vec()).to_string(),
    }
}

/// The one call in `raw`, as JSON of `name` and `arguments`; else why there is none. A call is JSON, alone or in a code fence or in
/// `<tool_call>` tags, as `{"name", "arguments"}` (or `parameters`) or as OpenAI's `{"function": {...}}` with the arguments in a string.
pub fn read_call(raw: &str, tools: &[Tool]) -> Result<Value, String> {
    let tagged: Vec<&str> = raw.split("<tool_call>").skip(1).map(inside).collect();
    let value = match tagged.as_slice() {
        [] => super::output::parse_json(raw).ok_or("the answer is no call of a tool (no JSON)")?,
        [only] => super::output::parse_json(only).ok_or("there is no JSON in the <tool_call> tags")?,
        many => return Err(format!("{} calls; one is expected", many.len())),
    };
    let value = match value {
        Value::Array(mut calls) if calls.len() == 1 => calls.swap_remove(0),
        Value::Array(calls) => return Err(format!("{} calls; one is expected", calls.len())),
        value => value,
    };
    let call = value.get("function").filter(|f| f.is_object()).unwrap_or(&value);
    let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|e| format!("the call's arguments are no JSON: {e}"))?
        }
        Some(value) => value.clone(),
    };
    let call = json!({ "name": call.get("name").cloned().unwrap_or_default(), "arguments": arguments });
    check_call(tools, &call)?;
    Ok(call)
}

/// Up to the closing tag, or to the end where it was cut off.
fn inside(text: &str) -> &str {
    text.split("</tool_call>").next().unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::tool::tests::tools;

    #[test]
    fn a_call_is_read_in_every_form_that_models_write_it() {
        let tools = tools();
        let want = json!({ "name": "weather", "arguments": { "city": "Rome" } });
        for raw in [
            r#"{"name": "weather", "arguments": {"city": "Rome"}}"#,
            r#"{"name": "weather", "parameters": {"city": "Rome"}}"#,
            r#"[{"name": "weather", "arguments": "{\"city\": \"Rome\"}"}]"#,
            "Let me see.\n```json\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n```",
            "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call> done",
            r#"<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}"#,
            r#"{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}"#,
        ] {
            assert_eq!(read_call(raw, &tools).as_ref(), Ok(&want), "{raw}");
        }
        let call = json!({ "function": { "name": "weather", "arguments": "{\"city\": \"Rome\"}" } });
        let answer = Answer { tool_calls: vec![call], ..Answer::default() };
        assert_eq!(read_call(&said(&answer), &tools), Ok(want));
    }

    #[test]
    fn what_is_no_call_says_why() {
        let tools = tools();
        for (raw, want) in [
            ("It will rain.", "the answer is no call"),
            (r#"{"name": "news"}"#, "no tool `news`"),
            (
                r#"{"name": "weather", "arguments": {"city": 3}}"#,
                "arguments of `weather`: /city: expected string",
            ),
            (r#"{"name": "weather", "arguments": "{city"}"#, "the call's arguments are no JSON"),
            (r#"{"name": "weather", "arguments": [1]}"#, "a call's `arguments` are an object"),
            ("[]", "0 calls; one is expected"),
            ("<tool_call>{}</tool_call><tool_call>{}</tool_call>", "2 calls; one is expected"),
            ("<tool_call>rain</tool_call>", "there is no JSON in the"),
            ("3", "a call has a `name`"),
        ] {
            let said = read_call(raw, &tools).unwrap_err();
            assert!(said.starts_with(want), "{raw}: {said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_model_says_is_read_without_panic(raw in "(<tool_call>|</tool_call>|[{\\[\"\\]},:]|name|arguments|[a-z0-9 ]){0,12}") {
            let tools = tools();
            if let Ok(call) = read_call(&raw, &tools) {
                prop_assert_eq!(read_call(&call.to_string(), &tools), Ok(call));
            }
        }
    }
}
