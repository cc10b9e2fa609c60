//! Answers in OpenAI's words.

use serde_json::{Value, json};

use super::request::Api;
use crate::backend::{Answer, Finish, TokenLogprob};

/// What all parts of one reply say.
#[derive(Clone, Debug)]
pub struct Head {
    pub api: Api,
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    pub model: String,
    /// Of the weights that answer.
    pub fingerprint: String,
    /// Answers to each prompt.
    pub samples: usize,
}

/// Tokens in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: u64,
    pub completion: u64,
}

impl Usage {
    pub fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.prompt + self.completion,
        })
    }

    /// Takes an answer in: the prompt of several samples was read once.
    pub fn add(&mut self, index: usize, samples: usize, answer: &Answer) {
        if index.is_multiple_of(samples.max(1)) {
            self.prompt += answer.tokens_in;
        }
        self.completion += answer.tokens_out;
    }
}

fn finish(answer: &Answer) -> &'static str {
    match answer.finish {
        _ if !answer.tool_calls.is_empty() => "tool_calls",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
        Finish::Stop | Finish::Broken => "stop",
    }
}

impl Head {
    fn envelope(&self, chunk: bool, choices: Vec<Value>) -> Value {
        let object = match (self.api, chunk) {
            (Api::Chat, false) => "chat.completion",
            (Api::Chat, true) => "chat.completion.chunk",
            (Api::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        })
    }

    /// The whole reply.
    pub fn whole(&self, answers: &[Answer], with_logprobs: bool) -> Value {
        let mut usage = Usage::default();
        let choice = |(index, answer): (usize, &Answer)| {
            usage.add(index, self.samples, answer);
            let logprobs = if with_logprobs { self.logprobs(&answer.logprobs, 0) } else { Value::Null };
            let mut choice = json!({ "index": index, "logprobs": logprobs, "finish_reason": finish(answer) });
            match self.api {
                Api::Completion => choice["text"] = json!(answer.text),
                Api::Chat => choice["message"] = message(answer),
            }
            choice
        };
        let choices = answers.iter().enumerate().map(choice).collect();
        let mut reply = self.envelope(false, choices);
        reply["usage"] = usage.json();
        reply
    }

    /// The first word on an answer of a chat: who speaks.
    pub fn opening(&self, index: usize) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        (self.api == Api::Chat).then(|| {
            self.envelope(
                true,
                vec![json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null })],
            )
        })
    }

    /// More of an answer, `at` characters after its beginning.
    pub fn piece(&self, index: usize, text: &str, tokens: &[TokenLogprob], at: usize) -> Value {
        let logprobs = if tokens.is_empty() { Value::Null } else { self.logprobs(tokens, at) };
        let mut choice = json!({ "index": index, "logprobs": logprobs, "finish_reason": null });
        match self.api {
            Api::Completion => choice["text"] = json!(text),
            Api::Chat => choice["delta"] = json!({ "content": text }),
        }
        self.envelope(true, vec![choice])
    }

    /// The end of an answer, with what could not be told before.
    pub fn closing(&self, index: usize, answer: &Answer, tokens: &[TokenLogprob]) -> Value {
        let logprobs = if tokens.is_empty() { Value::Null } else { self.logprobs(tokens, 0) };
        let mut choice = json!({ "index": index, "logprobs": logprobs, "finish_reason": finish(answer) });
        match self.api {
            Api::Completion => choice["text"] = json!(""),
            Api::Chat => {
                let calls: Vec<Value> = answer
                    .tool_calls
                    .iter()
                    .enumerate()
                    .map(|(i, call)| {
                        let mut call = call.clone();
                        call["index"] = json!(i);
                        call
                    })
                    .collect();
                choice["delta"] = if calls.is_empty() { json!({}) } else { json!({ "tool_calls": calls }) };
            }
        }
        self.envelope(true, vec![choice])
    }

    /// The last part of a stream whose client wants to know.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.envelope(true, Vec::new());
        chunk["usage"] = usage.json();
        chunk
    }

    fn logprobs(&self, tokens: &[TokenLogprob], at: usize) -> Value {
        match self.api {
            Api::Chat => {
                let one = |text: &str, logprob: f64| json!({ "token": text, "logprob": number(logprob), "bytes": text.as_bytes() });
                let content: Vec<Value> = tokens
                    .iter()
                    .map(|t| {
                        let mut token = one(&t.text, t.logprob);
                        token["top_logprobs"] =
                            t.top.iter().map(|(text, logprob)| one(text, *logprob)).collect();
                        token
                    })
                    .collect();
                json!({ "content": content, "refusal": null })
            }
            Api::Completion => {
                let mut offset = at;
                let offsets: Vec<usize> = tokens
                    .iter()
                    .map(|t| {
                        let here = offset;
                        offset += t.text.chars().count();
                        here
                    })
                    .collect();
                let top: Vec<Value> = tokens
                    .iter()
                    .map(|t| {
                        t.top
                            .iter()
                            .map(|(text, logprob)| (text.clone(), json!(number(*logprob))))
                            .collect::<serde_json::Map<_, _>>()
                            .into()
                    })
                    .collect();
                json!({
                    "tokens": tokens.iter().map(|t| t.text.as_str()).collect::<Vec<_>>(),
                    "token_logprobs": tokens.iter().map(|t| number(t.logprob)).collect::<Vec<_>>(),
                    "top_logprobs": top,
                    "text_offset": offsets,
                })
            }
        }
    }
}

/// JSON has no infinity; OpenAI writes this for what cannot come.
fn number(logprob: f64) -> f64 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

fn message(answer: &Answer) -> Value {
    let content = if answer.text.is_empty() && !answer.tool_calls.is_empty() {
        Value::Null
    } else {
        json!(answer.text)
    };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !answer.tool_calls.is_empty() {
        message["tool_calls"] = json!(answer.tool_calls);
    }
    message
}

/// One part of a stream of server-sent events.
pub fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// After the last part.
pub const DONE: &str = "data: [DONE]\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn head(api: Api) -> Head {
        Head { api, id: "x".into(), created: 1, model: "m".into(), fingerprint: "f".into(), samples: 2 }
    }

    fn answer(text: &str) -> Answer {
        let token = |text: &str| TokenLogprob {
            text: text.into(),
            logprob: -0.5,
            top: vec![(text.into(), -0.5), ("z".into(), f64::NEG_INFINITY)],
        };
        Answer {
            text: text.into(),
            tokens_in: 3,
            tokens_out: 2,
            logprobs: vec![token("é"), token("b")],
            ..Answer::default()
        }
    }

    #[test]
    fn the_prompt_of_several_samples_counts_once() {
        let reply = head(Api::Completion).whole(&[answer("a"), answer("b"), answer("c"), answer("d")], false);
        assert_eq!(reply["usage"], json!({ "prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14 }));
        assert_eq!((&reply["choices"][3]["text"], &reply["choices"][3]["index"]), (&json!("d"), &json!(3)));
    }

    #[test]
    fn log_probabilities_stand_as_each_endpoint_has_them() {
        let chat = head(Api::Chat).whole(&[answer("éb")], true);
        let first = &chat["choices"][0]["logprobs"]["content"][0];
        assert_eq!((&first["token"], &first["bytes"]), (&json!("é"), &json!([195, 169])));
        assert_eq!(first["top_logprobs"][1]["logprob"], -9999.0);
        let text = head(Api::Completion).whole(&[answer("éb")], true);
        let logprobs = &text["choices"][0]["logprobs"];
        assert_eq!((&logprobs["text_offset"], &logprobs["tokens"]), (&json!([0, 1]), &json!(["é", "b"])));
        assert_eq!(logprobs["top_logprobs"][1]["b"], -0.5);
    }

    #[test]
    fn calls_of_tools_stand_in_place_of_a_text() {
        let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } });
        let called = Answer { tool_calls: vec![call], ..Answer::default() };
        let reply = head(Api::Chat).whole(std::slice::from_ref(&called), false);
        let choice = &reply["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null)
        );
        let chunk = head(Api::Chat).closing(0, &called, &[]);
        assert_eq!(chunk["choices"][0]["delta"]["tool_calls"][0]["index"], 0);
    }

    #[test]
    fn control_characters_of_an_answer_stay_inside_its_json() {
        let chunk = event(&head(Api::Chat).piece(0, "a\n\ndata: x\u{1b}[31m\r", &[], 0));
        assert_eq!(chunk.matches('\n').count(), 2, "{chunk:?}");
        assert!(chunk.contains("\\u001b") && !chunk.contains('\r'));
    }
}
