//! Prompts as the model reads them, one way for training and for answering.
//!
//! The chat template is the model's own (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`), rendered
//! by minijinja with the settings and extras of transformers' `apply_chat_template`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;
use super::{ModelError, files};
use crate::domain::row::Turn;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    pub content: String,
    /// Of an assistant's turn: the tools that it called, as templates see them (arguments as a value).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<serde_json::Value>,
}

impl From<&Turn> for Message {
    fn from(turn: &Turn) -> Self {
        Self::new(&turn.role, &turn.text)
    }
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), tool_calls: Vec::new() }
    }

    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Steps that a template may take; those of real models take some hundred for a turn.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    /// For errors: where it stands.
    origin: String,
    special: BTreeMap<String, String>,
    /// It prints the time.
    dated: bool,
    /// Every conversation is rendered with these, each as OpenAI's `tools` has it.
    tools: Vec<serde_json::Value>,
}

impl ChatTemplate {
    /// Reads the folder's template; none when it has none (a base model).
    pub fn load(dir: &Path) -> Result<Option<Self>, ModelError> {
        let (file, source) = match files::read_text(dir, "chat_template.jinja")? {
            Some(text) => ("chat_template.jinja", text),
            None => match from_config(dir)? {
                Some(text) => ("tokenizer_config.json", text),
                None => return Ok(None),
            },
        };
        let tokenizer = if dir.join("tokenizer.json").exists() { Some(Tokenizer::load(dir)?) } else { None };
        let special = tokenizer.map(|t| t.special().clone()).unwrap_or_default();
        Self::new(source, special)
            .map(Some)
            .map_err(|e| ModelError::file(&dir.join(file), format!("the chat template is not valid: {e:#}")))
            .map(|t| t.map(|t| Self { origin: dir.join(file).display().to_string(), ..t }))
    }

    /// `special`: `bos_token`, `eos_token`, ... and their text.
    pub fn new(source: impl Into<String>, special: BTreeMap<String, String>) -> Result<Self, Error> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
        env.add_filter("tojson", tojson);
        let source = without_generation_tags(&source.into());
        let dated = source.contains("strftime_now");
        env.add_template_owned(NAME, source)?;
        Ok(Self { env, origin: "chat template".into(), special, dated, tools: Vec::new() })
    }

    /// The same at a fixed time: what templates print of the date is then the same however long a run takes and whenever it is
    /// resumed.
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.env.add_function("strftime_now", move |format: String| strftime(&format, time));
        self
    }

    /// The same with tools in every conversation.
    #[must_use]
    pub fn with_tools(self, tools: Vec<serde_json::Value>) -> Self {
        Self { tools, ..self }
    }

    /// Whether it tells the model of tools.
    pub fn knows_tools(&self) -> bool {
        self.env.get_template(NAME).is_ok_and(|t| t.undeclared_variables(false).contains("tools"))
    }

    /// Whether what it renders may depend on the date.
    pub fn is_dated(&self) -> bool {
        self.dated
    }

    /// The conversation as text; with `add_generation_prompt` it ends where the assistant is to go on.
    ///
    /// Templates of models that can think aloud are told not to (`enable_thinking`): answers here are short, scored, and
    /// trained, and prompt and training text must agree.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        self.render_with(messages, &self.tools, add_generation_prompt)
    }

    /// [`ChatTemplate::render`] with other tools, each as OpenAI's `tools` has it.
    pub fn render_with(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let mut special = Value::from_serialize(&self.special);
        // Templates ask whether there are any.
        if !tools.is_empty() {
            special = context! { tools => Value::from_serialize(tools), ..special };
        }
        let values = context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            enable_thinking => false,
            ..special
        };
        let rendered = self.env.get_template(NAME).and_then(|t| t.render(values));
        rendered
            .map_err(|e| ModelError::Request(format!("{}: rendering the chat template: {e:#}", self.origin)))
    }
}

/// `chat_template` of `tokenizer_config.json`: a text, or a list of named ones, of which `default` is taken.
fn from_config(dir: &Path) -> Result<Option<String>, ModelError> {
    let Some(config) = files::read_json(dir, "tokenizer_config.json")? else { return Ok(None) };
    let error = |message: &str| ModelError::key(&dir.join("tokenizer_config.json"), "chat_template", message);
    match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(serde_json::Value::Array(list)) => {
            let named = |t: &&serde_json::Value| t.get("name").and_then(|n| n.as_str()) == Some("default");
            let default = list.iter().find(named).ok_or_else(|| error("has no template named `default`"))?;
            let text = default.get("template").and_then(|t| t.as_str());
            text.map(|t| Some(t.to_owned())).ok_or_else(|| error("has no text in its template `default`"))
        }
        Some(_) => Err(error("is neither a text nor a list of templates")),
    }
}

/// `{% generation %}` and `{% endgeneration %}` mark the assistant's part for transformers and render nothing of their own.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let word = tag[2..end].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

/// `json.dumps(value, ensure_ascii=False)`, with its `indent`, as transformers gives it to templates.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let wrong = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let spaces = b" ".repeat(n.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty)).map_err(wrong)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonFormatter);
            value.serialize(&mut serializer).map_err(wrong)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// `", "` and `": "` as separators.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// `datetime.strftime` as far as templates use it, in UTC.
fn strftime(format: &str, time: SystemTime) -> Result<String, Error> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // 1 January 1970 was a Thursday.
    let weekday = DAYS[(days + 3) as usize % 7];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let code = chars.next();
        let plain = code == Some('-');
        let code = if plain { chars.next() } else { code };
        let number = |n: u64| if plain { n.to_string() } else { format!("{n:02}") };
        out += &match code {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            other => {
                let code = other.map(String::from).unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: `%{code}` is not supported"),
                ));
            }
        };
    }
    Ok(out)
}

/// Days since 1970 to year, month and day of the Gregorian calendar
/// (H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + (month <= 2) as u64, month, day)
}

/// The tokens a model is given for `user_text`: by training and by answering alike.
///
/// With a chat template: the user's turn and the opening of the assistant's. Without one: the text itself, with what the
/// tokenizer puts before a text.
pub fn prompt_tokens(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    user_text: &str,
) -> Result<Vec<u32>, ModelError> {
    conversation_tokens(tokenizer, template, &[Message::user(user_text)])
}

/// As [`prompt_tokens`], for a conversation that the assistant is to go on with.
pub fn conversation_tokens(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    messages: &[Message],
) -> Result<Vec<u32>, ModelError> {
    open_tokens(tokenizer, template, &conversation_text(template, messages, &[])?)
}

/// The text that the model reads of a conversation.
pub fn conversation_text(
    template: Option<&ChatTemplate>,
    messages: &[Message],
    tools: &[serde_json::Value],
) -> Result<String, ModelError> {
    match template {
        Some(template) if tools.is_empty() => template.render(messages, true),
        Some(template) if template.knows_tools() => template.render_with(messages, tools, true),
        Some(_) => Err(ModelError::Request("the model's chat template knows no tools".into())),
        None if tools.is_empty() => Ok(plain(messages)),
        None => Err(ModelError::Request("the model has no chat template, so it knows no tools".into())),
    }
}

/// The tokens of a text made by [`conversation_text`].
pub fn open_tokens(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    text: &str,
) -> Result<Vec<u32>, ModelError> {
    match template {
        // The template writes the beginning token itself.
        Some(_) => tokenizer.encode(text, false),
        None => tokenizer.encode_open(text),
    }
}

/// A conversation for a model that knows no turns: a single message stands for itself, of several the roles are written out.
fn plain(messages: &[Message]) -> String {
    match messages {
        [only] => only.content.clone(),
        many => many.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join("\n\n"),
    }
}

/// The tokens that training asks for after [`prompt_tokens`]: `gold` and the token that ends the answer.
///
/// They are what the tokenizer makes of prompt and answer together where the prompt's tokens stay the same, as generation
/// would go on from it, else what it makes of the answer alone. With a chat template the text after the prompt is
/// the template's, up to the first token that ends generation.
pub fn answer_tokens(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    user_text: &str,
    gold: &str,
) -> Result<Vec<u32>, ModelError> {
    reply_tokens(tokenizer, template, &[Message::user(user_text)], gold)
}

/// As [`answer_tokens`], after [`conversation_tokens`].
pub fn reply_tokens(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    messages: &[Message],
    gold: &str,
) -> Result<Vec<u32>, ModelError> {
    let ends = |ids: &[u32]| ids.iter().position(|id| tokenizer.eos().contains(id));
    if ends(&tokenizer.encode(gold, false)?).is_some() {
        let message = "the answer contains the text of a token that ends generation".to_owned();
        return Err(ModelError::Request(message));
    }
    let Some(template) = template else {
        let Some(end) = tokenizer.end() else {
            return Err(ModelError::file(
                tokenizer.file(),
                "no token ends an answer: name one as `eos_token` in tokenizer_config.json",
            ));
        };
        let text = plain(messages);
        let prompt = tokenizer.encode_open(&text)?;
        let joint = tokenizer.encode_open(&format!("{text}{gold}"))?;
        let mut answer = after(tokenizer, &prompt, joint, gold)?;
        answer.push(end);
        return Ok(answer);
    };
    let prompt = template.render(messages, true)?;
    let full = template.render(&[messages, &[Message::assistant(gold)]].concat(), false)?;
    let Some(rest) = full.strip_prefix(&prompt) else {
        let shared = prompt.chars().zip(full.chars()).take_while(|(a, b)| a == b).count();
        let show = |text: &str| text.chars().skip(shared.saturating_sub(20)).take(60).collect::<String>();
        return Err(ModelError::Request(format!(
            "{}: the prompt is no beginning of the conversation with its answer: {:?} against {:?}; \
             a model trained on the one would not be asked with the other",
            template.origin,
            show(&prompt),
            show(&full)
        )));
    };
    let answer = after(tokenizer, &tokenizer.encode(&prompt, false)?, tokenizer.encode(&full, false)?, rest)?;
    match ends(&answer) {
        Some(end) => Ok(answer[..=end].to_vec()),
        None => Err(ModelError::Request(format!(
            "{}: after the answer comes {:?}, and no token in it ends generation ({}); \
             name the end of turn as `eos_token_id` in generation_config.json",
            template.origin,
            rest.strip_prefix(gold).unwrap_or(rest),
            tokenizer.eos().iter().filter_map(|&id| tokenizer.token(id)).collect::<Vec<_>>().join(" "),
        ))),
    }
}

/// What follows `prompt` in `joint`, or the tokens of `rest` alone where the prompt's last token would change.
fn after(tokenizer: &Tokenizer, prompt: &[u32], joint: Vec<u32>, rest: &str) -> Result<Vec<u32>, ModelError> {
    match joint.strip_prefix(prompt) {
        Some(answer) => Ok(answer.to_vec()),
        None => tokenizer.encode(rest, false),
    }
}

#[cfg(test)]
mod tests;
