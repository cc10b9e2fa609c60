//! What an endpoint is sent.
//!
//! A turn or a conversation goes to `chat/completions`, a text that is to be continued to `completions`. Sent are `model`,
//! `max_tokens`, `temperature` and `stream`; where they are set `top_p`, `top_k`, `min_p`, `repetition_penalty`, `stop`,
//! `logprobs` and `tools`; `seed` where answers are drawn. A JSON schema goes out as `response_format`, any JSON as its
//! `json_object`. A set of labels is not sent, since servers differ in how they take one: the answer is read as a label, and
//! counts as a format error where it is none. A regular expression cannot be sent at all.

use serde_json::{Map, Value, json};

use crate::backend::mask::Mask;
use crate::backend::{Ask, BackendError, Prompt};
use crate::domain::candidate::Constraint;

/// What a server turned out not to take; learned from its refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub stream: bool,
    /// `stream_options`.
    pub usage: bool,
    /// `max_completion_tokens` in the place of `max_tokens`.
    pub completion_tokens: bool,
}

impl Default for Taken {
    fn default() -> Self {
        Self { stream: true, usage: true, completion_tokens: false }
    }
}

/// One question as it goes out.
#[derive(Debug)]
pub struct Request {
    /// Below the endpoint's address.
    pub path: &'static str,
    body: Map<String, Value>,
    max_tokens: usize,
    /// Bytes of all texts, for an estimate of the tokens.
    pub bytes: usize,
    /// What stands for personal data.
    pub mask: Mask,
}

/// Parameters that not every server knows.
pub const UNCOMMON: [&str; 9] = [
    "top_k",
    "min_p",
    "repetition_penalty",
    "top_logprobs",
    "logprobs",
    "response_format",
    "tools",
    "seed",
    "stop",
];

impl Request {
    /// With `masked`, personal data goes out as placeholders.
    pub fn new(model: &str, ask: &Ask, masked: bool) -> Result<Self, BackendError> {
        let (path, name, mut asked) = match &ask.prompt {
            Prompt::Turn(text) => {
                ("chat/completions", "messages", json!([{ "role": "user", "content": text }]))
            }
            Prompt::Chat(messages) => {
                let messages = serde_json::to_value(messages)
                    .map_err(|e| BackendError(format!("the conversation cannot be sent: {e}")))?;
                ("chat/completions", "messages", messages)
            }
            Prompt::Text(text) => ("completions", "prompt", text.as_str().into()),
        };
        let chat = name == "messages";
        let mut texts = Vec::new();
        each_text(&mut asked, &mut |text| texts.push(text.clone()));
        let bytes = texts.iter().map(String::len).sum();
        let mut mask = masked.then(|| Mask::new(texts.iter().map(String::as_str)));
        if let Some(mask) = &mut mask {
            each_text(&mut asked, &mut |text| *text = mask.mask(text));
        }
        let mut body = Map::new();
        body.insert("model".into(), model.into());
        body.insert(name.into(), asked);
        let decoding = &ask.decoding;
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value.filter(|v| !v.is_null()) {
                body.insert(name.to_owned(), value);
            }
        };
        set("temperature", Some(rounded(decoding.temperature)));
        set("top_p", decoding.top_p.map(rounded));
        set("top_k", decoding.top_k.map(Value::from));
        set("min_p", decoding.min_p.map(rounded));
        set("repetition_penalty", decoding.repetition_penalty.map(rounded));
        set("stop", (!decoding.stop.is_empty()).then(|| decoding.stop.clone().into()));
        if decoding.temperature > 0.0 {
            // Servers read it as a signed number. Repeated drawings must differ.
            let seed = decoding.seed.wrapping_add(u64::from(ask.sample)) & i64::MAX as u64;
            set("seed", Some(seed.into()));
        }
        match (ask.logprobs, chat) {
            (None, _) => {}
            (Some(top), true) => {
                set("logprobs", Some(true.into()));
                set("top_logprobs", (top > 0).then(|| top.into()));
            }
            (Some(top), false) => set("logprobs", Some(top.into())),
        }
        if !ask.tools.is_empty() {
            if !chat {
                return Err(BackendError(
                    "tools can be offered in a conversation only, not for a text to continue".into(),
                ));
            }
            set("tools", Some(ask.tools.clone().into()));
        }
        match &ask.constraint {
            None | Some(Constraint::Labels(_)) => {}
            Some(Constraint::Json) => set("response_format", Some(json!({ "type": "json_object" }))),
            Some(Constraint::Schema(schema)) => {
                let schema = json!({ "name": "answer", "strict": true, "schema": schema });
                set("response_format", Some(json!({ "type": "json_schema", "json_schema": schema })));
            }
            Some(Constraint::Regex(_)) => {
                return Err(BackendError(
                    "an endpoint cannot be held to a regular expression; use a JSON schema, or a local model"
                        .into(),
                ));
            }
        }
        Ok(Self { path, body, max_tokens: decoding.max_tokens, bytes, mask: mask.unwrap_or_default() })
    }

    pub const fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// For a server that takes so much.
    pub fn body(&self, taken: Taken) -> Value {
        let mut body = self.body.clone();
        let limit = if taken.completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        body.insert(limit.into(), self.max_tokens.into());
        body.insert("stream".into(), taken.stream.into());
        if taken.stream && taken.usage {
            body.insert("stream_options".into(), json!({ "include_usage": true }));
        }
        Value::Object(body)
    }

    /// Uncommon parameters of this question that a text names.
    pub fn named_in(&self, text: &str) -> Vec<&'static str> {
        UNCOMMON.into_iter().filter(|name| self.body.contains_key(*name) && text.contains(name)).collect()
    }
}

/// As it was written: `0.7` and not `0.699999988079071`.
fn rounded(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().map_or(Value::Null, Value::from)
}

/// Texts of a conversation; names and kinds of its parts are none.
fn each_text(value: &mut Value, change: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(parts) => parts.iter_mut().for_each(|part| each_text(part, change)),
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if !matches!(name.as_str(), "role" | "type" | "id" | "name" | "tool_call_id") {
                    each_text(field, change);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::Decoding;
    use crate::model::chat::Message;

    fn body(ask: &Ask) -> Value {
        Request::new("big", ask, false).unwrap().body(Taken::default())
    }

    #[test]
    fn a_plain_question_sends_only_what_every_server_knows() {
        let got = body(&Ask::turn("hi", Decoding { max_tokens: 7, ..Decoding::default() }));
        assert_eq!(
            got,
            json!({
                "model": "big", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 7, "temperature": 0.0,
                "stream": true, "stream_options": { "include_usage": true },
            })
        );
    }

    #[test]
    fn what_is_set_is_sent_by_its_common_name() {
        let decoding = Decoding {
            temperature: 0.7,
            top_k: Some(40),
            top_p: Some(0.9),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            stop: vec!["END".into()],
            seed: u64::MAX,
            ..Decoding::default()
        };
        let mut ask = Ask::turn("hi", decoding);
        ask.logprobs = Some(3);
        ask.tools = vec![json!({ "type": "function" })];
        ask.constraint = Some(Constraint::Schema(json!({ "type": "object" })));
        let got = body(&ask);
        for (name, want) in [
            ("temperature", json!(0.7)),
            ("top_k", json!(40)),
            ("top_p", json!(0.9)),
            ("min_p", json!(0.05)),
            ("repetition_penalty", json!(1.1)),
            ("stop", json!(["END"])),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
            ("tools", json!([{ "type": "function" }])),
        ] {
            assert_eq!(got[name], want, "{name}");
        }
        assert_eq!(got["response_format"]["json_schema"]["schema"], json!({ "type": "object" }));
        assert_eq!(got["seed"], json!(i64::MAX));
        ask.sample = 1;
        assert_ne!(body(&ask)["seed"], got["seed"], "repeated drawings differ");
        ask.constraint = Some(Constraint::Labels(vec!["a".into()]));
        assert_eq!(body(&ask).get("response_format"), None);
        ask.constraint = Some(Constraint::Regex("a*".into()));
        assert!(Request::new("big", &ask, false).unwrap_err().to_string().contains("regular expression"));
    }

    #[test]
    fn a_text_to_continue_and_a_conversation_have_their_own_places() {
        let decoding = Decoding::default();
        let mut ask = Ask { prompt: Prompt::Text("Once".into()), ..Ask::turn("", decoding.clone()) };
        ask.logprobs = Some(2);
        let request = Request::new("big", &ask, false).unwrap();
        assert_eq!(
            (request.path, &body(&ask)["prompt"], &body(&ask)["logprobs"]),
            ("completions", &json!("Once"), &json!(2))
        );
        ask.tools = vec![json!({})];
        assert!(Request::new("big", &ask, false).is_err());
        let messages = vec![Message::user("mail a@b.cd"), Message::assistant("to <EMAIL_1>?")];
        let ask = Ask { prompt: Prompt::Chat(messages), ..Ask::turn("", decoding) };
        let request = Request::new("big", &ask, true).unwrap();
        let sent = request.body(Taken { stream: false, usage: true, completion_tokens: true });
        assert_eq!(sent["messages"][0], json!({ "role": "user", "content": "mail <EMAIL_2>" }));
        assert_eq!(sent["messages"][1]["content"], "to <EMAIL_1>?");
        assert_eq!((&sent["stream"], sent.get("stream_options")), (&json!(false), None));
        assert_eq!((sent.get("max_tokens"), &sent["max_completion_tokens"]), (None, &json!(64)));
        assert_eq!(request.mask.pieces(), 1);
    }
}
