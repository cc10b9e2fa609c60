//! Recorded tools: what a model may call, and what is answered. No code is run: the responses stand in the tool's file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::schema;

/// A tool as its file defines it: a function as OpenAI has it, and its recorded responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the arguments, an object.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
    /// The one argument that responses are looked up by; none: by all arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// With `by`: an object from the argument's text to the response. Without: a list of `{arguments, result}`.
    pub responses: Value,
    /// The response to everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Or its error: the result is then `{"error": ...}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn no_parameters() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

/// What is wrong with a tool's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slip {
    /// From 1; 0 where the message names the place by a JSON pointer.
    pub line: u64,
    pub message: String,
}

impl Tool {
    /// Read and check a tool's file.
    pub fn parse(text: &str) -> Result<Self, Slip> {
        let tool: Self = serde_json::from_str(text).map_err(|e| {
            let said = e.to_string();
            // The line is told apart from the message.
            let message = said.rsplit_once(" at line ").map_or(said.as_str(), |(message, _)| message);
            Slip { line: e.line() as u64, message: format!("is no tool: {message}") }
        })?;
        tool.check().map_err(|message| Slip { line: 0, message })?;
        Ok(tool)
    }

    fn check(&self) -> Result<(), String> {
        let named = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(named) {
            return Err("/name: must be letters, digits, `_` or `-`, at most 64".into());
        }
        schema::check(&self.parameters).map_err(|e| format!("/parameters{e}"))?;
        if self.parameters.get("type").and_then(Value::as_str) != Some("object") {
            return Err("/parameters/type: the parameters of a function are an \"object\"".into());
        }
        if self.default.is_some() && self.error.is_some() {
            return Err(
                "/error: a tool has a `default` response or an `error` for what is not recorded, not both"
                    .into(),
            );
        }
        match (&self.by, &self.responses) {
            (None, Value::Array(records)) => self.check_records(records),
            (Some(by), Value::Object(_)) => {
                let known = self.parameters.get("properties").and_then(Value::as_object);
                if known.is_some_and(|known| known.contains_key(by)) {
                    Ok(())
                } else {
                    Err(format!("/by: the parameters have no property `{by}`"))
                }
            }
            (None, _) => Err("/responses: expected a list of {\"arguments\": {...}, \"result\": ...}; with `by` an object from an argument's value to its response".into()),
            (Some(by), _) => Err(format!("/responses: with \"by\": \"{by}\" an object is expected, from that argument's value to its response")),
        }
    }

    fn check_records(&self, records: &[Value]) -> Result<(), String> {
        for (i, record) in records.iter().enumerate() {
            let at = |what: &str| format!("/responses/{i}{what}");
            let fields =
                record.as_object().ok_or_else(|| at(": expected {\"arguments\": {...}, \"result\": ...}"))?;
            if let Some(other) = fields.keys().find(|k| !matches!(k.as_str(), "arguments" | "result")) {
                return Err(at(&format!("/{other}: only `arguments` and `result` belong here")));
            }
            let arguments = fields.get("arguments").filter(|a| a.is_object());
            let arguments = arguments.ok_or_else(|| at("/arguments: an object is expected"))?;
            if !fields.contains_key("result") {
                return Err(at(": `result` is missing"));
            }
            schema::validate(&self.parameters, arguments).map_err(|e| at(&format!("/arguments{e}")))?;
            let same = |r: &Value| r.get("arguments").is_some_and(|a| schema::equal(a, arguments));
            if let Some(before) = records[..i].iter().position(same) {
                return Err(at(&format!("/arguments: the same arguments as in /responses/{before}")));
            }
        }
        Ok(())
    }

    /// As OpenAI's `tools` has it.
    pub fn function(&self) -> Value {
        json!({ "type": "function", "function": self.signature() })
    }

    /// Name, description and parameters.
    pub fn signature(&self) -> Value {
        json!({ "name": self.name, "description": self.description, "parameters": self.parameters })
    }

    /// The recorded response to valid arguments.
    pub fn respond(&self, arguments: &Map<String, Value>) -> Value {
        let recorded = match (&self.by, &self.responses) {
            (Some(by), Value::Object(responses)) => arguments.get(by).and_then(|value| match value {
                Value::String(text) => responses.get(text),
                other => responses.get(&other.to_string()),
            }),
            (_, Value::Array(records)) => {
                let asked = Value::Object(arguments.clone());
                let same = |r: &&Value| r.get("arguments").is_some_and(|a| schema::equal(a, &asked));
                records.iter().find(same).and_then(|r| r.get("result"))
            }
            _ => None,
        };
        recorded.or(self.default.as_ref()).cloned().unwrap_or_else(|| {
            let error = self.error.as_deref().unwrap_or("no response is recorded for these arguments");
            json!({ "error": error })
        })
    }
}

/// A call: `{"name": ..., "arguments": {...}}`, where one of `tools` has that name and takes these arguments; else why it is none.
pub fn check_call(tools: &[Tool], call: &Value) -> Result<(), String> {
    let name = call.get("name").and_then(Value::as_str).ok_or("a call has a `name`")?;
    let tool = tools.iter().find(|tool| tool.name == name).ok_or_else(|| {
        let known: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
        let name: String = name.chars().take(80).collect();
        format!("no tool `{name}`; there are: {}", known.join(", "))
    })?;
    let arguments =
        call.get("arguments").filter(|a| a.is_object()).ok_or("a call's `arguments` are an object")?;
    schema::validate(&tool.parameters, arguments).map_err(|e| format!("arguments of `{name}`: {e}"))
}

/// The call with its recorded result: `{"name", "arguments", "result"}`; none where it is no valid call.
pub fn answered(tools: &[Tool], call: &Value) -> Option<Value> {
    check_call(tools, call).ok()?;
    let name = call.get("name")?.as_str()?;
    let arguments = call.get("arguments")?.as_object()?;
    let result = tools.iter().find(|tool| tool.name == name)?.respond(arguments);
    Some(json!({ "name": name, "arguments": arguments, "result": result }))
}

/// JSON Schema of a valid call, for answers that can be nothing else.
pub fn call_schema(tools: &[Tool]) -> Value {
    let of = |tool: &Tool| {
        json!({
            "type": "object",
            "properties": { "name": { "const": tool.name }, "arguments": tool.parameters },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    match tools {
        [only] => of(only),
        many => json!({ "anyOf": many.iter().map(of).collect::<Vec<_>>() }),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const WEATHER: &str = r#"{
        "name": "weather",
        "description": "Tomorrow's weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
        "responses": [
            {"arguments": {"city": "Rome", "days": 1}, "result": {"sky": "blue"}},
            {"arguments": {"city": "Bonn"}, "result": "rain"}
        ],
        "error": "no such place"
    }"#;

    const STOCK: &str = r#"{
        "name": "stock",
        "parameters": {"type": "object", "properties": {"item": {"type": ["string", "integer"]}}, "required": ["item"]},
        "by": "item",
        "responses": {"7": 70, "lamp": {"left": 3}},
        "default": 0
    }"#;

    pub fn tools() -> Vec<Tool> {
        vec![Tool::parse(WEATHER).unwrap(), Tool::parse(STOCK).unwrap()]
    }

    #[test]
    fn responses_are_looked_up_by_all_arguments_or_by_one() {
        let tools = tools();
        let ask = |name: &str, arguments: Value| {
            let call = json!({ "name": name, "arguments": arguments });
            answered(&tools, &call).map(|mut a| a["result"].take())
        };
        assert_eq!(ask("weather", json!({ "days": 1.0, "city": "Rome" })), Some(json!({ "sky": "blue" })));
        assert_eq!(ask("weather", json!({ "city": "Bonn" })), Some(json!("rain")));
        assert_eq!(
            ask("weather", json!({ "city": "Bonn", "days": 2 })),
            Some(json!({ "error": "no such place" }))
        );
        assert_eq!(ask("stock", json!({ "item": "lamp" })), Some(json!({ "left": 3 })));
        assert_eq!(ask("stock", json!({ "item": 7 })), Some(json!(70)));
        assert_eq!(ask("stock", json!({ "item": "sofa" })), Some(json!(0)));
        assert_eq!(ask("weather", json!({ "city": 3 })), None);
        assert_eq!(ask("news", json!({})), None);
    }

    #[test]
    fn a_wrong_call_is_told_why() {
        let tools = tools();
        for (call, want) in [
            (json!({ "name": "news", "arguments": {} }), "no tool `news`; there are: weather, stock"),
            (json!({ "name": "weather", "arguments": {} }), "arguments of `weather`: /: `city` is missing"),
            (json!({ "name": "weather" }), "a call's `arguments` are an object"),
            (json!(3), "a call has a `name`"),
        ] {
            assert_eq!(check_call(&tools, &call).unwrap_err(), want);
        }
    }

    #[test]
    fn a_slip_in_the_file_is_told_with_its_place() {
        let with = |from: &str, to: &str| {
            assert!(WEATHER.contains(from));
            Tool::parse(&WEATHER.replacen(from, to, 1)).unwrap_err()
        };
        assert_eq!(with("\"name\": \"weather\",", "").line, 10, "the object's end, where it is missed");
        let slip = with("\"error\"", "\"eror\"");
        assert!(slip.line == 9 && slip.message.contains("unknown field `eror`"), "{slip:?}");
        assert_eq!(with("}\n        ],", "}\n        ").line, 9);
        for (from, to, want) in [
            ("\"weather\"", "\"wea ther\"", "/name: must be"),
            ("\"type\": \"object\"", "\"type\": \"array\"", "/parameters/type: the parameters"),
            ("\"type\": \"integer\"", "\"type\": \"int\"", "/parameters/properties/days/type: expected"),
            ("\"city\": \"Bonn\"", "\"city\": 3", "/responses/1/arguments/city: expected string"),
            ("{\"city\": \"Bonn\"}", "{\"days\": 1, \"city\": \"Rome\"}", "/responses/1/arguments: the same"),
            ("\"result\": \"rain\"", "\"answer\": 1", "/responses/1/answer: only"),
            ("\"error\": \"no such place\"", "\"error\": \"x\", \"default\": 1", "/error: a tool has"),
            ("\"error\": \"no such place\"", "\"by\": \"city\"", "/responses: with \"by\""),
        ] {
            let slip = with(from, to);
            assert!(slip.line == 0 && slip.message.starts_with(want), "{slip:?}");
        }
        let slip = Tool::parse(&STOCK.replacen("\"by\": \"item\"", "\"by\": \"thing\"", 1)).unwrap_err();
        assert_eq!(slip.message, "/by: the parameters have no property `thing`");
    }
}
