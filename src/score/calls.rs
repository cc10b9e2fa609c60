//! Calls of tools: what an answer calls against what it may call and what it should.

use serde_json::{Map, Value};

use crate::domain::schema;
use crate::domain::tool::Tool;
use crate::pipeline::output::parse_json;

/// A call as an answer has it: `{"name", "arguments"}`, or OpenAI's `{"function": {...}}` with the arguments in a string.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub name: String,
    /// What stands there; not always an object.
    pub arguments: Value,
}

/// The calls of an answer, one or a list; none where it is no call.
pub fn calls(text: &str) -> Option<Vec<Call>> {
    let text = match text.split_once("<tool_call>") {
        Some((_, tagged)) if !tagged.contains("<tool_call>") => {
            tagged.split("</tool_call>").next().unwrap_or(tagged)
        }
        Some(_) => {
            let each: Option<Vec<Call>> = text
                .split("<tool_call>")
                .skip(1)
                .map(|t| call(&parse_json(t.split("</tool_call>").next().unwrap_or(t))?))
                .collect();
            return each;
        }
        None => text,
    };
    match parse_json(text)? {
        Value::Array(items) => items.iter().map(call).collect(),
        one => call(&one).map(|call| vec![call]),
    }
}

fn call(value: &Value) -> Option<Call> {
    let value = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
        }
        Some(other) => other.clone(),
    };
    Some(Call { name, arguments })
}

/// Of the calls made, and of the golden ones, how many agree: same tool, same arguments, each golden call once.
pub fn matched(made: &[Call], golden: &[Call]) -> usize {
    let mut open: Vec<&Call> = golden.iter().collect();
    made.iter()
        .filter(|call| {
            let same = |g: &&Call| g.name == call.name && schema::equal(&g.arguments, &call.arguments);
            open.iter().position(same).map(|at| open.swap_remove(at)).is_some()
        })
        .count()
}

/// Share of the calls made that the gold has, or of the golden ones that were made. None where there are none to have a share of, or no gold.
pub fn share(output: &str, gold: &str, of_made: bool) -> Option<f64> {
    let golden = calls(gold)?;
    let made = calls(output).unwrap_or_default();
    let whole = if of_made { made.len() } else { golden.len() };
    (whole > 0).then(|| matched(&made, &golden) as f64 / whole as f64)
}

fn tool<'a>(tools: &'a [Tool], call: &Call) -> Option<&'a Tool> {
    tools.iter().find(|tool| tool.name == call.name)
}

/// Share of the calls whose tool is not among `tools`; none where nothing is called, or nothing is declared.
pub fn invalid_tool(output: &str, tools: &[Tool]) -> Option<f64> {
    let made = calls(output).filter(|made| !made.is_empty() && !tools.is_empty())?;
    Some(made.iter().filter(|call| tool(tools, call).is_none()).count() as f64 / made.len() as f64)
}

/// Of the calls of declared tools, the share whose arguments do not fit the parameters; none where there are none.
pub fn invalid_parameters(output: &str, tools: &[Tool]) -> Option<f64> {
    let made = calls(output)?;
    let declared: Vec<(&Call, &Tool)> =
        made.iter().filter_map(|call| Some((call, tool(tools, call)?))).collect();
    let wrong = declared.iter().filter(|(call, tool)| !fits(call, tool)).count();
    (!declared.is_empty()).then(|| wrong as f64 / declared.len() as f64)
}

/// The arguments fit the tool's parameters.
pub fn fits(call: &Call, tool: &Tool) -> bool {
    call.arguments.is_object() && schema::validate(&tool.parameters, &call.arguments).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tool::tests::tools;
    use proptest::prelude::*;

    const ROME: &str = r#"{"name": "weather", "arguments": {"city": "Rome"}}"#;

    #[test]
    fn calls_are_held_against_what_is_declared() {
        let tools = tools();
        for (output, tool, parameter) in [
            (ROME, Some(0.0), Some(0.0)),
            (r#"{"name": "weather", "arguments": {"town": "Rome"}}"#, Some(0.0), Some(1.0)),
            (r#"{"name": "weather", "arguments": "{city"}"#, Some(0.0), Some(1.0)),
            (r#"{"name": "news", "arguments": {}}"#, Some(1.0), None),
            (
                r#"[{"name": "news"}, {"function": {"name": "stock", "arguments": "{\"item\": 7}"}}]"#,
                Some(0.5),
                Some(0.0),
            ),
            ("<tool_call>{\"name\": \"news\"}</tool_call>", Some(1.0), None),
            ("It will rain.", None, None),
            ("[]", None, None),
            ("3", None, None),
        ] {
            assert_eq!(invalid_tool(output, &tools), tool, "{output}");
            assert_eq!(invalid_parameters(output, &tools), parameter, "{output}");
        }
        assert_eq!(invalid_tool(ROME, &[]), None, "nothing is declared");
    }

    #[test]
    fn precision_is_of_the_calls_made_and_recall_of_the_golden_ones() {
        let two = format!("[{ROME}, {{\"name\": \"stock\", \"arguments\": {{\"item\": 7}}}}]");
        let thrice = format!("[{ROME}, {ROME}, {ROME}]");
        for (output, gold, precision, recall) in [
            (ROME, ROME, Some(1.0), Some(1.0)),
            (ROME, two.as_str(), Some(1.0), Some(0.5)),
            (two.as_str(), ROME, Some(0.5), Some(1.0)),
            (thrice.as_str(), ROME, Some(1.0 / 3.0), Some(1.0)),
            ("no call", ROME, None, Some(0.0)),
            (ROME, "[]", Some(0.0), None),
            (ROME, "no call", None, None),
        ] {
            assert_eq!(share(output, gold, true), precision, "{output} {gold}");
            assert_eq!(share(output, gold, false), recall, "{output} {gold}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_model_says_is_read_without_panic(raw in "(<tool_call>|</tool_call>|[{\\[\"\\]},:]|name|arguments|[a-z0-9 ]){0,12}") {
            if let Some(calls) = calls(&raw) {
                prop_assert!(calls.len() <= raw.len());
            }
        }
    }
}
