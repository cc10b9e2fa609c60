//! What an endpoint answers, put together from its pieces and held against what it must be.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::backend::{Finish, TokenLogprob};

/// Tool calls of one answer.
const CALLS_MAX: usize = 128;
/// A count of tokens above this is none.
const TOKENS_MAX: u64 = 1 << 32;

/// A chunk of a stream, or a whole answer.
#[derive(Debug, Deserialize)]
struct Chunk {
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    /// Of a stream.
    #[serde(default)]
    delta: Option<Message>,
    /// Of a whole answer.
    #[serde(default)]
    message: Option<Message>,
    /// Of a text that is continued.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    /// In place of a content.
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Debug, Deserialize)]
struct CallPiece {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionPiece>,
}

#[derive(Debug, Deserialize)]
struct FunctionPiece {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

#[derive(Debug, Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// An answer that is being put together.
#[derive(Debug, Default)]
pub struct Reply {
    pub text: String,
    calls: BTreeMap<u64, Call>,
    pub logprobs: Vec<TokenLogprob>,
    finish: Option<String>,
    /// Tokens in and out.
    pub usage: Option<(u64, u64)>,
    /// A choice was seen.
    any: bool,
    /// Of text and calls together.
    bytes: usize,
}

/// Why a reply cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no such reply: what was expected. The bytes are shown with it.
    Strange(String),
    /// The server says that it failed.
    Error(String),
    /// What is wrong with what it says.
    Wrong(String),
}

impl Reply {
    /// Takes a chunk of a stream, or a whole answer. Returns the text that is new.
    pub fn take(&mut self, bytes: &[u8], most: usize) -> Result<String, Fault> {
        let value = std::str::from_utf8(bytes)
            .map_err(|_| Fault::Strange("JSON in UTF-8 was expected".into()))
            .and_then(|text| {
                serde_json::from_str::<Chunk>(text)
                    .map_err(|e| Fault::Strange(format!("an answer in JSON was expected ({})", plain(&e))))
            });
        let chunk = match value {
            Ok(chunk) => chunk,
            // Its shape may be wrong because it is an error of another shape.
            Err(fault) => return Err(error_text(bytes).map_or(fault, Fault::Error)),
        };
        if let Some(error) = chunk.error.filter(|e| !e.is_null()) {
            return Err(Fault::Error(error_text(bytes).unwrap_or_else(|| error.to_string())));
        }
        if chunk.choices.is_none() && chunk.usage.is_none() {
            return Err(match error_text(bytes) {
                Some(error) => Fault::Error(error),
                None => Fault::Strange("an answer with `choices` was expected".into()),
            });
        }
        if let Some(usage) = chunk.usage.filter(|usage| !usage.is_null()) {
            self.usage = Some(read_usage(&usage)?);
        }
        let mut new = String::new();
        for choice in chunk.choices.unwrap_or_default() {
            // Only one answer is ever asked for.
            if choice.index == 0 {
                self.choice(choice, &mut new)?;
            }
        }
        self.bytes += new.len();
        if self.bytes > most {
            return Err(Fault::Wrong(format!(
                "an answer of at most {most} bytes was expected by its max_tokens, and more came"
            )));
        }
        self.text.push_str(&new);
        Ok(new)
    }

    fn choice(&mut self, choice: Choice, new: &mut String) -> Result<(), Fault> {
        self.any = true;
        for message in [choice.delta, choice.message].into_iter().flatten() {
            new.extend(message.content);
            new.extend(message.refusal);
            for (at, piece) in message.tool_calls.into_iter().flatten().enumerate() {
                self.call(piece, at as u64)?;
            }
        }
        new.extend(choice.text);
        if let Some(reason) = choice.finish_reason.filter(|r| !r.is_empty()) {
            self.finish = Some(reason);
        }
        if let Some(logprobs) = choice.logprobs.filter(|l| !l.is_null()) {
            self.logprobs.extend(read_logprobs(&logprobs));
        }
        Ok(())
    }

    fn call(&mut self, piece: CallPiece, at: u64) -> Result<(), Fault> {
        let call = self.calls.entry(piece.index.unwrap_or(at)).or_default();
        if let Some(id) = piece.id.filter(|id| !id.is_empty()) {
            self.bytes += id.len();
            call.id = id;
        }
        if let Some(function) = piece.function {
            if let Some(name) = function.name
                && call.name != name
            {
                // Some servers repeat it in every piece, some send it in pieces.
                self.bytes += name.len();
                call.name.push_str(&name);
            }
            if let Some(arguments) = function.arguments {
                self.bytes += arguments.len();
                call.arguments.push_str(&arguments);
            }
        }
        if self.calls.len() > CALLS_MAX {
            return Err(Fault::Wrong(format!(
                "at most {CALLS_MAX} calls of tools were expected, and more came"
            )));
        }
        Ok(())
    }

    /// Something of an answer has come.
    pub fn has_begun(&self) -> bool {
        !self.text.is_empty() || !self.calls.is_empty()
    }

    /// It said why it ended.
    pub fn has_ended(&self) -> bool {
        self.finish.is_some()
    }

    /// Why it ended; `done`: the stream said that it is at its end.
    pub fn ending(&self, done: bool) -> Result<Finish, Fault> {
        if !self.any {
            return Err(Fault::Wrong("an answer was expected, and `choices` is empty".into()));
        }
        match self.finish.as_deref() {
            Some("length" | "max_tokens") => Ok(Finish::Length),
            Some("tool_calls" | "function_call") => Ok(Finish::ToolCalls),
            Some("content_filter") => {
                Err(Fault::Wrong("the server withheld the answer (finish_reason: content_filter)".into()))
            }
            // Several servers say `stop` where they end with calls.
            Some(_) if !self.calls.is_empty() => Ok(Finish::ToolCalls),
            Some(_) => Ok(Finish::Stop),
            None if done => Ok(if self.calls.is_empty() { Finish::Stop } else { Finish::ToolCalls }),
            None => Err(Fault::Wrong("the stream was cut off before the end of the answer".into())),
        }
    }

    /// Its calls of tools as OpenAI's `tool_calls` has them, their texts changed by `change`.
    pub fn tool_calls(&self, mut change: impl FnMut(&str) -> String) -> Vec<Value> {
        let of = |(at, call): (&u64, &Call)| {
            let id = if call.id.is_empty() { format!("call_{at}") } else { change(&call.id) };
            let function = json!({ "name": change(&call.name), "arguments": change(&call.arguments) });
            json!({ "id": id, "type": "function", "function": function })
        };
        self.calls.iter().map(of).collect()
    }
}

/// Without the place, which says nothing in one line.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

fn read_usage(usage: &Value) -> Result<(u64, u64), Fault> {
    let count = |name: &str| match usage.get(name) {
        Some(value) => match value.as_u64().filter(|n| *n <= TOKENS_MAX) {
            Some(n) => Ok(n),
            None => {
                Err(Fault::Wrong(format!("a count of tokens was expected in usage.{name}, and {value} came")))
            }
        },
        None => Err(Fault::Wrong(format!("a count of tokens was expected in usage.{name}, and none came"))),
    };
    Ok((count("prompt_tokens")?, count("completion_tokens")?))
}

/// Of a conversation, or of a text that is continued; what is neither is left out.
fn read_logprobs(value: &Value) -> Vec<TokenLogprob> {
    let pair = |v: &Value| Some((v.get("token")?.as_str()?.to_owned(), v.get("logprob")?.as_f64()?));
    if let Some(content) = value.get("content").and_then(Value::as_array) {
        let of = |v: &Value| {
            let (text, logprob) = pair(v)?;
            let top = v.get("top_logprobs").and_then(Value::as_array);
            let top = top.map(|top| top.iter().filter_map(pair).collect()).unwrap_or_default();
            Some(TokenLogprob { text, logprob, top })
        };
        return content.iter().filter_map(of).collect();
    }
    let list = |name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let (values, tops) = (list("token_logprobs"), list("top_logprobs"));
    let of = |(at, token): (usize, &Value)| {
        let top = tops.get(at).and_then(Value::as_object);
        let mut top: Vec<(String, f64)> =
            top.into_iter().flatten().filter_map(|(t, p)| Some((t.clone(), p.as_f64()?))).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        Some(TokenLogprob { text: token.as_str()?.to_owned(), logprob: values.get(at)?.as_f64()?, top })
    };
    list("tokens").iter().enumerate().filter_map(of).collect()
}

/// The words of an error in one of the shapes that servers use.
pub fn error_text(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let of = |value: &Value| match value {
        Value::String(_) => text(value),
        Value::Object(fields) => {
            let said = ["message", "msg", "detail"].iter().find_map(|name| text(fields.get(*name)?))?;
            // `insufficient_quota` and its like tell more than some messages.
            let code = ["code", "type"].iter().find_map(|name| text(fields.get(*name)?));
            Some(match code.filter(|code| !said.contains(code.as_str())) {
                Some(code) => format!("{said} ({code})"),
                None => said,
            })
        }
        // FastAPI: [{"loc": [...], "msg": "..."}].
        Value::Array(list) => {
            let of = |one: &Value| {
                let place: Vec<&str> = one.get("loc")?.as_array()?.iter().filter_map(Value::as_str).collect();
                Some(format!("{}: {}", place.join("."), text(one.get("msg")?)?))
            };
            let all: Vec<String> = list.iter().take(3).filter_map(of).collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
        _ => None,
    };
    let named = ["error", "detail", "message"].iter().find_map(|name| of(value.get(*name)?));
    // vLLM before 0.6: {"object": "error", "message": ...}.
    named.or_else(|| (value.get("object")? == "error").then(|| of(&value)).flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(chunks: &[Value]) -> Result<Reply, Fault> {
        let mut reply = Reply::default();
        for chunk in chunks {
            reply.take(chunk.to_string().as_bytes(), 1000)?;
        }
        Ok(reply)
    }

    fn delta(delta: Value) -> Value {
        json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
    }

    #[test]
    fn pieces_of_a_stream_are_put_together() {
        let reply = take(&[
            delta(json!({ "role": "assistant", "content": "" })),
            delta(json!({ "content": "Ro" })),
            delta(json!({ "content": "me" })),
            json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "length" }], "usage": null }),
            json!({ "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 } }),
        ])
        .unwrap();
        assert_eq!(
            (reply.text.as_str(), reply.usage, reply.ending(false)),
            ("Rome", Some((5, 2)), Ok(Finish::Length))
        );
    }

    #[test]
    fn calls_of_tools_are_merged_by_their_index() {
        let call = |index: u64, id: Value, name: Value, arguments: &str| {
            delta(
                json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }] }),
            )
        };
        let reply = take(&[
            call(0, json!("a"), json!("find"), ""),
            call(1, json!("b"), json!("book"), "{\"x\":"),
            call(0, Value::Null, Value::Null, "{\"q\":"),
            call(0, Value::Null, json!("find"), "1}"),
            call(1, json!(""), Value::Null, "2}"),
            json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] }),
        ])
        .unwrap();
        let calls = reply.tool_calls(str::to_owned);
        assert_eq!(
            calls[0],
            json!({ "id": "a", "type": "function", "function": { "name": "find", "arguments": "{\"q\":1}" } })
        );
        assert_eq!(calls[1]["function"], json!({ "name": "book", "arguments": "{\"x\":2}" }));
        assert_eq!(reply.ending(true), Ok(Finish::ToolCalls));
        let many: Vec<Value> = (0..200).map(|i| call(i, json!("a"), json!("f"), "")).collect();
        assert!(matches!(take(&many), Err(Fault::Wrong(_))));
    }

    #[test]
    fn a_whole_answer_is_read_as_well() {
        let message = json!({ "content": "Rome", "tool_calls": [{ "id": "a", "function": { "name": "f", "arguments": "{}" } }] });
        let whole = json!({ "choices": [{ "message": message, "finish_reason": "stop" }] });
        let reply = take(&[whole]).unwrap();
        assert_eq!((reply.text.as_str(), reply.ending(true)), ("Rome", Ok(Finish::ToolCalls)));
        let reply = take(&[json!({ "choices": [{ "text": " upon", "finish_reason": "stop" }] })]).unwrap();
        assert_eq!((reply.text.as_str(), reply.ending(true)), (" upon", Ok(Finish::Stop)));
    }

    #[test]
    fn log_probabilities_of_both_shapes_are_read() {
        let chat = json!({ "content": [{ "token": "a", "logprob": -0.5, "top_logprobs": [{ "token": "b", "logprob": -1.0 }] }] });
        let text = json!({ "tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{ "b": -1.0 }] });
        let want = TokenLogprob { text: "a".into(), logprob: -0.5, top: vec![("b".into(), -1.0)] };
        for value in [chat, text] {
            assert_eq!(read_logprobs(&value), std::slice::from_ref(&want));
        }
        assert_eq!(read_logprobs(&json!({ "tokens": ["a", 3], "token_logprobs": [null] })), []);
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        let fault = |chunk: Value| take(&[chunk]).unwrap_err();
        assert_eq!(
            fault(json!({ "error": { "message": "no room", "code": "x" } })),
            Fault::Error("no room (x)".into())
        );
        assert_eq!(fault(json!({ "error": "no room" })), Fault::Error("no room".into()));
        assert_eq!(
            fault(json!({ "detail": [{ "loc": ["body", "model"], "msg": "missing" }] })),
            Fault::Error("body.model: missing".into())
        );
        assert_eq!(fault(json!({ "object": "error", "message": "old" })), Fault::Error("old".into()));
        for strange in [
            json!({}),
            json!([]),
            json!("x"),
            json!({ "choices": "x" }),
            json!({ "choices": [{ "delta": { "content": 3 } }] }),
        ] {
            assert!(matches!(fault(strange.clone()), Fault::Strange(_)), "{strange}");
        }
        for (name, value) in
            [("prompt_tokens", json!(-1)), ("completion_tokens", json!(1.5)), ("prompt_tokens", json!(1e18))]
        {
            let mut usage = json!({ "prompt_tokens": 1, "completion_tokens": 1 });
            usage[name] = value;
            let Fault::Wrong(words) = fault(json!({ "choices": [], "usage": usage })) else { panic!() };
            assert!(words.contains(&format!("usage.{name}")), "{words}");
        }
        assert_eq!(
            Reply::default().take(b"{\"choices\": [{\"text\": \"\xff\"}]}", 9),
            Err(Fault::Strange("JSON in UTF-8 was expected".into()))
        );
        let long = json!({ "choices": [{ "text": "x".repeat(1001) }] });
        assert!(matches!(fault(long), Fault::Wrong(words) if words.contains("1000 bytes")));
        let ending = |chunk: Value, done| take(&[chunk]).unwrap().ending(done);
        assert!(ending(json!({ "choices": [] }), true).is_err());
        assert!(ending(delta(json!({ "content": "a" })), false).is_err());
        assert_eq!(ending(delta(json!({ "content": "a" })), true), Ok(Finish::Stop));
        assert!(ending(json!({ "choices": [{ "finish_reason": "content_filter" }] }), true).is_err());
    }
}
