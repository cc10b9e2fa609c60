//! Shapes that training data comes in, told by their field names; each offers an input and a gold of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::canonical;
use crate::domain::row::Turn;

/// What the fields of a row mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Fields with meanings of their own; input and gold are named in `workspace.toml`, or guessed.
    #[default]
    Records,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `conversations` of `from` and `value`.
    Sharegpt,
    /// `messages` of `role` and `content`.
    Messages,
    /// `prompt` and `completion`, `question` and `answer`.
    PromptCompletion,
    /// `chosen` and `rejected`, with a prompt or conversation before them.
    Preference,
    /// `text` alone.
    Text,
}

/// Fields that hold a conversation.
const CONVERSATIONS: [&str; 4] = ["messages", "conversations", "conversation", "dialog"];
const PROMPTS: [&str; 4] = ["prompt", "instruction", "question", "query"];
const COMPLETIONS: [&str; 3] = ["completion", "response", "answer"];

impl Shape {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Alpaca => "alpaca",
            Self::Sharegpt => "sharegpt",
            Self::Messages => "messages",
            Self::PromptCompletion => "prompt-completion",
            Self::Preference => "preference",
            Self::Text => "text",
        }
    }

    /// The input and gold that the shape offers, in words; none where it has none.
    pub const fn offers(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Records => (None, None),
            Self::Alpaca => (Some("instruction and input"), Some("output")),
            Self::Sharegpt | Self::Messages => {
                (Some("the conversation up to its last answer"), Some("the last answer"))
            }
            Self::PromptCompletion => (Some("the prompt"), Some("the completion")),
            Self::Preference => (Some("the prompt"), Some("the chosen answer")),
            Self::Text => (Some("text"), None),
        }
    }

    /// Told by the names and types of the fields.
    pub fn of(fields: &Map<String, Value>) -> Self {
        let has = |name: &str| fields.get(name).is_some_and(|v| !v.is_null());
        let text = |name: &str| fields.get(name).is_some_and(Value::is_string);
        if has("chosen") && has("rejected") {
            return Self::Preference;
        }
        if let Some(first) = conversation(fields).and_then(|turns| turns.first()) {
            if first.get("from").is_some() && first.get("value").is_some() {
                return Self::Sharegpt;
            }
            if first.get("role").is_some() {
                return Self::Messages;
            }
        }
        if text("instruction") && (text("output") || text("response")) {
            return Self::Alpaca;
        }
        let prompt = text("prompt") || text("question");
        if prompt && COMPLETIONS.iter().any(|c| has(c)) {
            return Self::PromptCompletion;
        }
        let is_note =
            |name: &str| matches!(name, "id" | "meta" | "metadata" | "source" | "url" | "timestamp");
        if text("text") && fields.keys().all(|k| k == "text" || is_note(k)) {
            return Self::Text;
        }
        Self::Records
    }

    /// What the pipeline gets, where `workspace.toml` does not say.
    pub fn input(self, fields: &Map<String, Value>) -> Option<String> {
        match self {
            Self::Records => None,
            Self::Text => fields.get("text").and_then(as_text),
            Self::Alpaca => {
                let instruction = fields.get("instruction").and_then(as_text)?;
                let more = fields.get("input").or_else(|| fields.get("context")).and_then(as_text);
                Some(match more {
                    Some(more) => format!("{instruction}\n\n{more}"),
                    None => instruction,
                })
            }
            Self::PromptCompletion => first_text(fields, &PROMPTS),
            Self::Messages | Self::Sharegpt => {
                let turns = turns(fields);
                Some(render(&turns[..last_answer(&turns).unwrap_or(turns.len())]))
            }
            Self::Preference => preference_input(fields),
        }
    }

    /// The turns of [`Shape::input`], where there are several and all are of roles that chat templates know.
    pub fn turns(self, fields: &Map<String, Value>) -> Vec<Turn> {
        if !matches!(self, Self::Messages | Self::Sharegpt) {
            return Vec::new();
        }
        let mut turns = turns(fields);
        turns.truncate(last_answer(&turns).unwrap_or(turns.len()));
        let known = |t: &Turn| matches!(t.role.as_str(), "system" | "user" | "assistant");
        if turns.len() < 2 || !turns.iter().all(known) {
            return Vec::new();
        }
        turns
    }

    /// What is wrong with the order of a conversation's roles: the system first, then user and assistant in turn, the assistant last.
    /// Several calls and results of tools may follow each other; where the gold stands elsewhere (`asked`), it may end with the user.
    pub fn misfit(self, fields: &Map<String, Value>, asked: bool) -> Option<String> {
        if !matches!(self, Self::Messages | Self::Sharegpt) {
            return None;
        }
        let turns: Vec<Turn> = conversation(fields).into_iter().flatten().filter_map(turn).collect();
        let system = |turn: &Turn| matches!(turn.role.as_str(), "system" | "developer");
        let mut before: Option<&Turn> = None;
        for (i, turn) in turns.iter().enumerate() {
            let at = i + 1;
            let wrong = match (turn.role.as_str(), before) {
                (role, _) if !system(turn) && !matches!(role, "user" | "assistant" | "tool") => {
                    Some(format!("turn {at} is of an unknown role `{role}`"))
                }
                ("system" | "developer", Some(b)) if !system(b) => {
                    Some(format!("turn {at} is a system prompt"))
                }
                (role @ ("user" | "assistant"), Some(b)) if b.role == role => {
                    Some(format!("turns {i} and {at} are both of the {role}"))
                }
                ("assistant", None) => Some(format!("turn {at} is the assistant's")),
                ("assistant", Some(b)) if system(b) => Some(format!("turn {at} is the assistant's")),
                ("tool", None) => Some(format!("turn {at} is of a tool that nobody called")),
                _ => None,
            };
            if wrong.is_some() {
                return wrong.map(|why| format!("roles out of order: {why}"));
            }
            before = Some(turn);
        }
        let last = turns.last().map_or("nobody", |turn| turn.role.as_str());
        (last != "assistant" && !(asked && last == "user"))
            .then(|| format!("roles out of order: it ends with the {last}"))
    }

    /// The golden answer, where `workspace.toml` does not say.
    pub fn gold(self, fields: &Map<String, Value>) -> Option<String> {
        match self {
            Self::Records | Self::Text => None,
            Self::Alpaca => first_text(fields, &["output", "response"]),
            Self::PromptCompletion => first_text(fields, &COMPLETIONS),
            Self::Messages | Self::Sharegpt => {
                let turns = turns(fields);
                last_answer(&turns).and_then(|i| turns.get(i)).map(|t| t.text.clone())
            }
            Self::Preference => answer(fields.get("chosen")?),
        }
    }
}

/// A field of this name holds messages, of which one or several make a row.
pub(super) fn is_conversation(field: &str) -> bool {
    CONVERSATIONS.contains(&field)
        || matches!(field, "prompt" | "chosen" | "rejected" | "tools" | "tool_calls")
}

fn conversation(fields: &Map<String, Value>) -> Option<&Vec<Value>> {
    CONVERSATIONS.iter().find_map(|name| fields.get(*name)?.as_array())
}

/// The conversation with common role names, tools and system prompt first.
fn turns(fields: &Map<String, Value>) -> Vec<Turn> {
    let mut turns = Vec::new();
    for name in ["tools", "system"] {
        if let Some(text) = fields.get(name).and_then(as_text)
            && !(name == "tools" && text == "[]")
        {
            turns.push(Turn { role: name.to_owned(), text });
        }
    }
    turns.extend(conversation(fields).into_iter().flatten().filter_map(turn));
    turns
}

fn turn(value: &Value) -> Option<Turn> {
    let role = value.get("role").or_else(|| value.get("from")).and_then(Value::as_str)?;
    let role = match role {
        "human" | "user" => "user",
        "gpt" | "bot" | "chatgpt" | "model" | "assistant" | "function_call" | "tool_call" => "assistant",
        "observation" | "function" | "function_response" | "tool" => "tool",
        other => other,
    };
    let content = value.get("content").or_else(|| value.get("value")).and_then(content_text);
    let calls = value.get("tool_calls").and_then(Value::as_array).filter(|calls| !calls.is_empty());
    let text = match (content, calls) {
        (Some(text), None) => text,
        (text, Some(calls)) => {
            let calls = calls.iter().map(call_text).collect::<Vec<_>>().join("\n");
            text.map_or(calls.clone(), |text| format!("{text}\n{calls}"))
        }
        (None, None) => value.get("function_call").map(canonical::to_string)?,
    };
    Some(Turn { role: role.to_owned(), text })
}

/// `{"name": ..., "arguments": ...}`, whatever it is wrapped in, with the arguments as JSON and not as text.
fn call_text(call: &Value) -> String {
    let mut function = call.get("function").unwrap_or(call).clone();
    if let Some(arguments) = function.get_mut("arguments")
        && let Some(parsed) = arguments.as_str().and_then(|s| serde_json::from_str::<Value>(s).ok())
    {
        *arguments = parsed;
    }
    canonical::to_string(&function)
}

/// A message's content: text, or parts of which the text ones count.
fn content_text(value: &Value) -> Option<String> {
    match value {
        Value::Array(parts) => {
            let texts: Vec<&str> = parts
                .iter()
                .filter_map(|p| p.as_str().or_else(|| p.get("text").and_then(Value::as_str)))
                .collect();
            (!texts.is_empty()).then(|| texts.join("\n"))
        }
        other => as_text(other),
    }
}

/// Position of the last assistant message.
fn last_answer(turns: &[Turn]) -> Option<usize> {
    turns.iter().rposition(|t| t.role == "assistant")
}

/// A single message stands for itself; a longer conversation has its roles written out.
fn render(turns: &[Turn]) -> String {
    match turns {
        [only] => only.text.clone(),
        many => many.iter().map(|t| format!("{}: {}", t.role, t.text)).collect::<Vec<_>>().join("\n\n"),
    }
}

/// `chosen` as text, as a message, or as a conversation that ends in the answer.
fn answer(value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => {
            let turns: Vec<Turn> = items.iter().filter_map(turn).collect();
            last_answer(&turns).and_then(|i| turns.get(i)).map(|t| t.text.clone())
        }
        Value::Object(_) => turn(value).map(|t| t.text),
        // Anthropic's HH: both sides hold the whole dialogue as text.
        other => as_text(other).map(|text| match text.rsplit_once("\n\nAssistant:") {
            Some((before, last)) if before.contains("\n\nHuman:") => last.trim().to_owned(),
            _ => text,
        }),
    }
}

fn preference_input(fields: &Map<String, Value>) -> Option<String> {
    let mut before = turns(fields);
    if let Some(items) = fields.get("prompt").and_then(Value::as_array) {
        before.extend(items.iter().filter_map(turn));
    } else if let Some(prompt) = first_text(fields, &PROMPTS) {
        let more = fields.get("input").and_then(as_text);
        let text = more.map_or(prompt.clone(), |more| format!("{prompt}\n\n{more}"));
        before.push(Turn { role: "user".into(), text });
    } else if conversation(fields).is_none() {
        match fields.get("chosen")? {
            Value::Array(items) => {
                let turns: Vec<Turn> = items.iter().filter_map(turn).collect();
                before.extend(turns[..last_answer(&turns).unwrap_or(turns.len())].iter().cloned());
            }
            chosen => {
                let text = as_text(chosen)?;
                let (start, _) = text.rsplit_once("\n\nAssistant:")?;
                return Some(start.trim().to_owned());
            }
        }
    }
    (!before.is_empty()).then(|| render(&before))
}

fn first_text(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| fields.get(*name).and_then(content_text))
}

/// A field as text: strings as they are, numbers and truth values written out, lists and objects as canonical JSON; empty is none.
pub fn as_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(s) => s.clone(),
        other => canonical::to_string(other),
    };
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(json: &str) -> (&'static str, Option<String>, Option<String>) {
        let fields: Map<String, Value> = serde_json::from_str(json).unwrap();
        let shape = Shape::of(&fields);
        (shape.name(), shape.input(&fields), shape.gold(&fields))
    }

    fn told(json: &str, shape: &str, input: &str, gold: &str) {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        assert_eq!(case(json), (shape, some(input), some(gold)), "{json}");
    }

    #[test]
    fn a_conversation_keeps_its_turns_up_to_the_last_answer() {
        let turns = |json: &str| -> Vec<(String, String)> {
            let fields: Map<String, Value> = serde_json::from_str(json).unwrap();
            Shape::of(&fields).turns(&fields).into_iter().map(|t| (t.role, t.text)).collect()
        };
        let long = r#"{"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"},
            {"from":"human","value":"c"},{"from":"gpt","value":"d"},{"from":"human","value":"e"}]}"#;
        let want = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")];
        assert_eq!(turns(long), want.map(|(r, t)| (r.to_owned(), t.to_owned())));
        // One question is a text, and roles that templates do not know make the whole a text.
        assert!(
            turns(r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#)
                .is_empty()
        );
        let with_tool = r#"{"messages":[{"role":"user","content":"a"},{"role":"tool","content":"b"},{"role":"assistant","content":"c"}]}"#;
        assert!(turns(with_tool).is_empty());
        assert!(turns(r#"{"prompt":"p","completion":"c"}"#).is_empty());
    }

    #[test]
    fn each_shape_is_told_and_offers_input_and_gold() {
        told(r#"{"instruction":"Add","input":"1 2","output":"3"}"#, "alpaca", "Add\n\n1 2", "3");
        told(r#"{"instruction":"Add","input":"","output":"3"}"#, "alpaca", "Add", "3");
        told(r#"{"prompt":"p","completion":"c"}"#, "prompt-completion", "p", "c");
        told(r#"{"question":"q","answer":7}"#, "prompt-completion", "q", "7");
        told(r#"{"text":"only","id":1}"#, "text", "only", "");
        told(r#"{"text":"x","label":"y"}"#, "records", "", "");
        told(
            r#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}]}"#,
            "sharegpt",
            "hi",
            "ho",
        );
        told(
            r#"{"conversations":[{"from":"human","value":"a"},{"from":"function_call","value":"{}"},{"from":"observation","value":"3"},{"from":"gpt","value":"z"}],"tools":"[]"}"#,
            "sharegpt",
            "user: a\n\nassistant: {}\n\ntool: 3",
            "z",
        );
        told(
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"u"}]},{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":2}"}}]}]}"#,
            "messages",
            "system: s\n\nuser: u",
            r#"{"arguments":{"a":2,"b":1},"name":"f"}"#,
        );
    }

    #[test]
    fn preferences_come_in_many_forms() {
        told(r#"{"prompt":"p","chosen":"c","rejected":"r"}"#, "preference", "p", "c");
        told(
            r#"{"conversations":[{"from":"human","value":"h"}],"chosen":{"from":"gpt","value":"c"},"rejected":{"from":"gpt","value":"r"}}"#,
            "preference",
            "h",
            "c",
        );
        told(
            r#"{"chosen":[{"role":"user","content":"u"},{"role":"assistant","content":"c"}],"rejected":[{"role":"user","content":"u"},{"role":"assistant","content":"r"}]}"#,
            "preference",
            "u",
            "c",
        );
        told(
            r#"{"prompt":[{"role":"user","content":"u"}],"chosen":[{"role":"assistant","content":"c"}],"rejected":[]}"#,
            "preference",
            "u",
            "c",
        );
        told(
            r#"{"chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"\n\nHuman: a\n\nAssistant: c"}"#,
            "preference",
            "Human: a",
            "b",
        );
    }

    #[test]
    fn odd_values_in_known_fields_do_not_confuse() {
        told(r#"{"messages":"none"}"#, "records", "", "");
        told(r#"{"messages":[]}"#, "records", "", "");
        told(r#"{"messages":[7,{"role":"user"}]}"#, "records", "", "");
        let (shape, input, gold) = case(r#"{"messages":[{"role":"assistant","content":"c"}]}"#);
        assert_eq!((shape, input.as_deref(), gold.as_deref()), ("messages", Some(""), Some("c")));
    }
}
