//! Calls of tools in what a model says.
//!
//! Two ways of writing are read: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes and Qwen), several times or once, and
//! a lone JSON object `{"name": ..., "parameters": {...}}` (Llama 3.1). What is neither stays text.

use rand::Rng as _;
use serde_json::{Value, json};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// The text beside the calls, and the calls as OpenAI's `tool_calls` has them.
pub fn split(text: &str) -> (String, Vec<Value>) {
    if let Some(call) = lone(text) {
        return (String::new(), vec![call]);
    }
    let (mut rest, mut beside, mut calls) = (text, String::new(), Vec::new());
    while let Some((before, after)) = rest.split_once(OPEN) {
        // A model that was cut off has not closed its last one.
        let (inside, behind) = after.split_once(CLOSE).unwrap_or((after, ""));
        match call(inside) {
            Some(call) => {
                beside.push_str(before);
                calls.push(call);
            }
            None => {
                let end = rest.len() - behind.len();
                beside.push_str(rest.get(..end).unwrap_or_default());
            }
        }
        rest = behind;
    }
    beside.push_str(rest);
    if calls.is_empty() { (text.to_owned(), calls) } else { (beside.trim().to_owned(), calls) }
}

fn lone(text: &str) -> Option<Value> {
    let text = text.trim();
    let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
    (text.starts_with('{') && text.ends_with('}')).then(|| call(text)).flatten()
}

fn call(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let name = value.get("name")?.as_str()?;
    let arguments = match value.get("arguments").or_else(|| value.get("parameters"))? {
        // Some write the arguments as a text of JSON.
        Value::String(text) => text.clone(),
        arguments @ Value::Object(_) => arguments.to_string(),
        _ => return None,
    };
    let id: u64 = rand::rng().random();
    Some(
        json!({ "id": format!("call_{id:016x}"), "type": "function", "function": { "name": name, "arguments": arguments } }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> (String, Vec<(String, String)>) {
        let (beside, calls) = split(text);
        let field = |call: &Value, key: &str| call["function"][key].as_str().unwrap().to_owned();
        (beside, calls.iter().map(|c| (field(c, "name"), field(c, "arguments"))).collect())
    }

    #[test]
    fn both_ways_of_writing_calls_are_read_and_other_text_stays() {
        let one = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
        let two = "Let me see.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>{\"name\": \"b\", \"arguments\": \"{}\"}</tool_call>";
        assert_eq!(names(two), ("Let me see.".into(), vec![one("a", "{\"x\":1}"), one("b", "{}")]));
        assert_eq!(names(" {\"name\": \"a\", \"parameters\": {}} "), (String::new(), vec![one("a", "{}")]));
        assert_eq!(names("<tool_call>{\"name\": \"a\", \"arguments\": {}}").1, [one("a", "{}")]);
        for text in [
            "plain",
            "{\"a\": 1}",
            "{\"name\": 3, \"arguments\": {}}",
            "<tool_call>no</tool_call> x",
            "<tool_call>{\"name\": \"a\"",
            " <tool_call>",
        ] {
            assert_eq!(names(text), (text.to_owned(), vec![]), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split(text in "(<tool_call>|</tool_call>|\\{\"name\": \"a\", \"arguments\": \\{\\}\\}|[a-z é]){0,12}") {
            let (beside, calls) = split(&text);
            prop_assert!(beside.len() <= text.len());
            if calls.is_empty() {
                prop_assert_eq!(beside, text);
            }
        }
    }
}
