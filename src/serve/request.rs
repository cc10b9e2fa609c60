//! Requests, read: what is missing, of a wrong type or out of range is named; what nobody knows is passed over.

use serde_json::{Map, Value};

use super::error::ApiError;
use crate::backend::{Ask, Prompt};
use crate::domain::candidate::{Constraint, Decoding};
use crate::model::chat::Message;

/// Answers to one prompt, at most.
const MOST_SAMPLES: u64 = 8;
/// Answers of one request, at most.
const MOST_ANSWERS: usize = 64;
/// Likeliest tokens told beside each.
const MOST_LOGPROBS: u64 = 20;
const MOST_STOPS: usize = 16;
/// Of a completion where the request does not say; a chat answer goes on to its end.
const COMPLETION_TOKENS: usize = 16;

/// Which of the two endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Chat,
    Completion,
}

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub model: String,
    /// Every answer that is asked for: prompts in their order, `samples` of each.
    pub asks: Vec<Ask>,
    pub samples: usize,
    pub stream: bool,
    pub include_usage: bool,
}

/// Fields of an object, with their names for errors.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// `messages[2].`
    at: String,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, at: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, at: format!("{at}.") }),
            other => Err(wrong(at, "an object", other)),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.at)
    }

    /// `null` is as good as nothing.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>, ApiError> {
        let read = |value: &'a Value| value.as_str().ok_or_else(|| wrong(&self.name(key), "a string", value));
        self.get(key).map(read).transpose()
    }

    fn required(&self, key: &str) -> Result<&'a str, ApiError> {
        let missing = || ApiError::invalid(&self.name(key), format!("`{}` is missing", self.name(key)));
        self.string(key)?.ok_or_else(missing)
    }

    fn bool(&self, key: &str) -> Result<bool, ApiError> {
        let read =
            |value: &Value| value.as_bool().ok_or_else(|| wrong(&self.name(key), "true or false", value));
        self.get(key).map_or(Ok(false), read)
    }

    fn integer(&self, key: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let name = self.name(key);
        let whole = || {
            value
                .as_i64()
                .or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64))
        };
        let n = whole().ok_or_else(|| wrong(&name, "a whole number", value))?;
        if (least..=most).contains(&n) {
            Ok(Some(n))
        } else {
            Err(ApiError::invalid(
                &name,
                format!("`{name}` is {n}; a number from {least} to {most} is expected"),
            ))
        }
    }

    fn number(&self, key: &str, good: impl Fn(f64) -> bool, expected: &str) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let name = self.name(key);
        let n = value.as_f64().ok_or_else(|| wrong(&name, "a number", value))?;
        if n.is_finite() && good(n) {
            Ok(Some(n as f32))
        } else {
            Err(ApiError::invalid(&name, format!("`{name}` is {n}; {expected} is expected")))
        }
    }
}

fn wrong(name: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::invalid(name, format!("`{name}` is {found}; {expected} is expected"))
}

/// Reads the body. `seed` is for requests that name none.
///
/// # Errors
/// What is wrong with it, and with which field.
pub fn read(api: Api, body: &[u8], seed: u64) -> Result<Wanted, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("the body is no JSON that can be read: {e}")))?;
    let Value::Object(map) = &value else {
        return Err(ApiError::bad_request("the body is no JSON object"));
    };
    let fields = Fields { map, at: String::new() };
    refuse_unsupported(api, &fields)?;
    let model = fields.required("model")?;
    let stream = fields.bool("stream")?;
    let samples = fields.integer("n", 1, MOST_SAMPLES as i64)?.unwrap_or(1) as usize;
    let decoding = decoding(api, &fields, seed)?;
    let include_usage = match fields.get("stream_options") {
        None => false,
        Some(_) if !stream => {
            return Err(ApiError::invalid("stream_options", "`stream_options` goes with `stream` only"));
        }
        Some(options) => Fields::of(options, "stream_options")?.bool("include_usage")?,
    };
    let (prompts, tools, logprobs) = match api {
        Api::Chat => {
            let logprobs =
                match (fields.bool("logprobs")?, fields.integer("top_logprobs", 0, MOST_LOGPROBS as i64)?) {
                    (true, top) => Some(top.unwrap_or(0) as usize),
                    (false, None | Some(0)) => None,
                    (false, Some(_)) => {
                        return Err(ApiError::invalid(
                            "top_logprobs",
                            "`top_logprobs` goes with `logprobs` only",
                        ));
                    }
                };
            (vec![Prompt::Chat(messages(&fields)?)], tools(&fields)?, logprobs)
        }
        Api::Completion => {
            let logprobs = fields.integer("logprobs", 0, MOST_LOGPROBS as i64)?.map(|n| n as usize);
            (prompts(&fields)?, Vec::new(), logprobs)
        }
    };
    let constraint = constraint(&fields)?;
    if constraint.is_some() && !tools.is_empty() {
        return Err(ApiError::unsupported("tools", "`tools` and `response_format` do not go together here"));
    }
    if prompts.len() * samples > MOST_ANSWERS {
        return Err(ApiError::invalid("n", format!("at most {MOST_ANSWERS} answers come of one request")));
    }
    let mut asks = Vec::with_capacity(prompts.len() * samples);
    for prompt in prompts {
        for sample in 0..samples {
            // A sample is the answer that its own seed would have drawn.
            let seed = decoding.seed.wrapping_add(sample as u64);
            asks.push(Ask {
                prompt: prompt.clone(),
                decoding: Decoding { seed, ..decoding.clone() },
                constraint: constraint.clone(),
                tools: tools.clone(),
                sample: sample as u32,
                logprobs,
            });
        }
    }
    Ok(Wanted { model: model.to_owned(), asks, samples, stream, include_usage })
}

/// To leave these out in silence would answer another question than was asked.
fn refuse_unsupported(api: Api, fields: &Fields<'_>) -> Result<(), ApiError> {
    for key in ["presence_penalty", "frequency_penalty"] {
        if fields
            .number(key, |n| (-2.0..=2.0).contains(&n), "a number from -2 to 2")?
            .is_some_and(|n| n != 0.0)
        {
            return Err(ApiError::unsupported(
                key,
                format!("`{key}` is not known here; `repetition_penalty` is"),
            ));
        }
    }
    if let Some(bias) = fields.get("logit_bias")
        && !bias.as_object().is_some_and(Map::is_empty)
    {
        return Err(ApiError::unsupported("logit_bias", "`logit_bias` is not known here"));
    }
    let keys: &[&str] = match api {
        Api::Chat => &["functions", "function_call", "audio", "web_search_options"],
        Api::Completion => &["suffix"],
    };
    if let Some(key) = keys.iter().find(|key| fields.get(key).is_some()) {
        return Err(ApiError::unsupported(key, format!("`{key}` is not known here")));
    }
    if api == Api::Completion {
        if fields.bool("echo")? {
            return Err(ApiError::unsupported("echo", "`echo` is not known here"));
        }
        if fields.integer("best_of", 1, 20)?.is_some_and(|n| n > 1) {
            return Err(ApiError::unsupported(
                "best_of",
                "`best_of` is not known here; `n` gives several answers",
            ));
        }
    }
    Ok(())
}

fn decoding(api: Api, fields: &Fields<'_>, seed: u64) -> Result<Decoding, ApiError> {
    let most = i64::from(u32::MAX);
    let long = fields.integer("max_completion_tokens", 1, most)?;
    let max_tokens = long.or(fields.integer("max_tokens", 1, most)?).map(|n| n as usize);
    let top_k = fields.integer("top_k", -1, most)?.filter(|k| *k > 0).map(|k| k as usize);
    let positive = |n: f64| n > 0.0 && n <= 1.0;
    let penalty = fields.number("repetition_penalty", |n| n > 0.0 && n <= 100.0, "a number above 0")?;
    Ok(Decoding {
        max_tokens: max_tokens.unwrap_or(match api {
            Api::Chat => usize::MAX,
            Api::Completion => COMPLETION_TOKENS,
        }),
        temperature: fields
            .number("temperature", |n| (0.0..=2.0).contains(&n), "a number from 0 to 2")?
            .unwrap_or(1.0),
        top_k,
        top_p: fields.number("top_p", positive, "a number above 0 and at most 1")?.filter(|p| *p < 1.0),
        min_p: fields
            .number("min_p", |n| (0.0..=1.0).contains(&n), "a number from 0 to 1")?
            .filter(|p| *p > 0.0),
        repetition_penalty: penalty.filter(|p| (p - 1.0).abs() > f32::EPSILON),
        stop: stops(fields)?,
        seed: fields.integer("seed", i64::MIN, i64::MAX)?.map_or(seed, |n| n as u64),
    })
}

fn stops(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let stops: Vec<String> = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => {
            let read = |(i, v): (usize, &Value)| match v {
                Value::String(text) => Ok(text.clone()),
                other => Err(wrong(&format!("stop[{i}]"), "a string", other)),
            };
            many.iter().enumerate().map(read).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong("stop", "a string or a list of strings", other)),
    };
    if stops.len() > MOST_STOPS || stops.iter().any(|s| s.is_empty() || s.len() > 1024) {
        let message =
            format!("`stop` takes at most {MOST_STOPS} texts, none empty and none above 1024 bytes");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stops)
}

fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let list = match fields.get("messages") {
        None => return Err(ApiError::invalid("messages", "`messages` is missing")),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(Value::Array(_)) => return Err(ApiError::invalid("messages", "`messages` is empty")),
        Some(other) => return Err(wrong("messages", "a list", other)),
    };
    list.iter().enumerate().map(|(i, value)| message(value, &format!("messages[{i}]"))).collect()
}

fn message(value: &Value, at: &str) -> Result<Message, ApiError> {
    let fields = Fields::of(value, at)?;
    let role = match fields.required("role")? {
        // What newer clients call it.
        "developer" => "system",
        role @ ("system" | "user" | "assistant" | "tool") => role,
        other => {
            let name = fields.name("role");
            let message = format!("`{name}` is `{other}`; system, user, assistant or tool is expected");
            return Err(ApiError::invalid(&name, message));
        }
    };
    let calls = match fields.get("tool_calls") {
        Some(Value::Array(calls)) if role == "assistant" => calls.iter().map(call_as_value).collect(),
        None => Vec::new(),
        Some(other) => {
            return Err(wrong(&fields.name("tool_calls"), "a list, in a turn of the assistant's,", other));
        }
    };
    let name = fields.name("content");
    let content = match fields.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let part = |(i, part): (usize, &Value)| {
                let at = format!("{name}[{i}]");
                let fields = Fields::of(part, &at)?;
                match fields.required("type")? {
                    "text" => fields.required("text").map(str::to_owned),
                    other => {
                        let message = format!("`{at}` is of type `{other}`; only text is read here");
                        Err(ApiError::unsupported(&fields.name("type"), message))
                    }
                }
            };
            parts.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.concat()
        }
        None if !calls.is_empty() => String::new(),
        None => return Err(ApiError::invalid(&name, format!("`{name}` is missing"))),
        Some(other) => return Err(wrong(&name, "a string or a list of parts", other)),
    };
    Ok(Message { tool_calls: calls, ..Message::new(role, content) })
}

/// Clients write a call's arguments as a text of JSON; templates expect what it stands for.
fn call_as_value(call: &Value) -> Value {
    let mut call = call.clone();
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(read) = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
        && read.is_object()
    {
        *arguments = read;
    }
    call
}

fn prompts(fields: &Fields<'_>) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string or a list of strings";
    match fields.get("prompt") {
        None => Err(ApiError::invalid("prompt", "`prompt` is missing")),
        Some(Value::String(text)) => Ok(vec![Prompt::Text(text.clone())]),
        Some(Value::Array(many)) if !many.is_empty() => {
            let read = |(i, value): (usize, &Value)| match value {
                Value::String(text) => Ok(Prompt::Text(text.clone())),
                other => Err(wrong(&format!("prompt[{i}]"), "a string", other)),
            };
            many.iter().enumerate().map(read).collect()
        }
        Some(Value::Array(_)) => Err(ApiError::invalid("prompt", "`prompt` is empty")),
        Some(other) => Err(wrong("prompt", expected, other)),
    }
}

fn constraint(fields: &Fields<'_>) -> Result<Option<Constraint>, ApiError> {
    let Some(format) = fields.get("response_format") else { return Ok(None) };
    let format = Fields::of(format, "response_format")?;
    match format.required("type")? {
        "text" => Ok(None),
        "json_object" => Ok(Some(Constraint::Json)),
        "json_schema" => {
            let name = "response_format.json_schema";
            let missing = || ApiError::invalid(name, format!("`{name}` is missing"));
            let outer = Fields::of(format.get("json_schema").ok_or_else(missing)?, name)?;
            let name = "response_format.json_schema.schema";
            match outer.get("schema") {
                Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
                    Ok(Some(Constraint::Schema(schema.clone())))
                }
                Some(other) => Err(wrong(name, "a JSON schema", other)),
                None => Err(ApiError::invalid(name, format!("`{name}` is missing"))),
            }
        }
        other => {
            let message =
                format!("`response_format.type` is `{other}`; text, json_object or json_schema is expected");
            Err(ApiError::invalid("response_format.type", message))
        }
    }
}

/// The tools that the model is told of: none where it may not call any.
fn tools(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let list = match fields.get("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("tools", "a list", other)),
    };
    for (i, tool) in list.iter().enumerate() {
        let at = format!("tools[{i}]");
        let fields = Fields::of(tool, &at)?;
        if fields.required("type")? != "function" {
            return Err(ApiError::unsupported(
                &fields.name("type"),
                "only tools of type `function` are known here",
            ));
        }
        let at = format!("{at}.function");
        let missing = || ApiError::invalid(&at, format!("`{at}` is missing"));
        Fields::of(fields.get("function").ok_or_else(missing)?, &at)?.required("name")?;
    }
    match fields.get("tool_choice") {
        None => Ok(list.clone()),
        Some(Value::String(choice)) if choice == "auto" => Ok(list.clone()),
        Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
        Some(_) => Err(ApiError::unsupported("tool_choice", "`tool_choice` can be `auto` or `none` here")),
    }
}

#[cfg(test)]
mod tests;
