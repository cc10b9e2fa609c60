//! Results made elsewhere, read record by record in bounded memory: plain JSON lines and tables, samples of lm-evaluation-harness
//! (`--log_samples`, 0.4), results of promptfoo (`--output` .json or .jsonl; results of version 2 and 3).
//!
//! A reader says what each record tells of one answer. Which row that is about is for others to find out.

mod lm_eval;
mod plain;
mod promptfoo;

use std::fs::{self, File};
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};

use super::format::{self, Layout};
use super::scan::{Within, array_in, scan};
use super::split::newlines;
use super::{DataError, field, parse};

/// Longest file.
const FILE_MAX: u64 = 4 << 30;
/// As much as is looked at to find out what a file is.
const HEAD: u64 = 1 << 20;

/// Who wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Objects with `id` (or a field of the row), `output`, `correct` or `score`; one a line, or in one array.
    Jsonl,
    /// A table with the same columns.
    Csv,
    LmEval,
    Promptfoo,
}

impl Format {
    pub const ALL: [Self; 4] = [Self::Jsonl, Self::Csv, Self::LmEval, Self::Promptfoo];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::LmEval => "lm-eval",
            Self::Promptfoo => "promptfoo",
        }
    }

    /// None for `auto`.
    pub fn asked(name: &str) -> Result<Option<Self>, String> {
        if name == "auto" || name.is_empty() {
            return Ok(None);
        }
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        let known = Self::ALL.map(Self::name).join(", ");
        found.map(Some).ok_or_else(|| {
            format!("`{}` is no format of outcomes; expected auto or one of: {known}", parse::clean(name))
        })
    }
}

/// Which of a row's answers this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The file numbers them; the same number twice is an error.
    Number(u32),
    /// The next of that row.
    Next,
}

/// What a file tells of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Line of the record in its file, from 1.
    pub line: u64,
    /// Which of the candidates in the file: a provider, a filter. Empty where it tells of one only.
    pub by: String,
    /// The row's id, as the file has it.
    pub id: Option<String>,
    /// What was asked about, by name: the document, the variables, the record itself.
    pub fields: Map<String, Value>,
    /// What the model was sent.
    pub prompt: Option<String>,
    pub repeat: Repeat,
    pub output: String,
    pub correct: Option<bool>,
    /// By the primary metric.
    pub score: Option<f64>,
    /// Of an answer that was worked for, not of one from a cache.
    pub latency_ms: Option<f64>,
    pub tokens_in: Option<u64>,
    pub tokens_out: Option<u64>,
    /// US dollars.
    pub usd: Option<f64>,
    pub error: Option<String>,
}

impl Made {
    fn new(line: u64) -> Self {
        Self {
            line,
            by: String::new(),
            id: None,
            fields: Map::new(),
            prompt: None,
            repeat: Repeat::Number(0),
            output: String::new(),
            correct: None,
            score: None,
            latency_ms: None,
            tokens_in: None,
            tokens_out: None,
            usd: None,
            error: None,
        }
    }

    /// A field of what was asked about, by its name or dotted path; `id` is the row's.
    pub fn field(&self, name: &str) -> Option<String> {
        match field(&self.fields, name) {
            Some(value) => text_of(value),
            None if name == "id" => self.id.clone(),
            None => None,
        }
    }
}

/// How a file is to be read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// None: told by the file.
    pub format: Option<Format>,
    /// Which figure of a record is the primary metric's; none: what each format has for it.
    pub score: Option<String>,
}

/// One format's reading of a record: what it tells, or what is wrong with it.
trait Reader {
    fn read(&mut self, line: u64, record: Map<String, Value>) -> Result<Vec<Made>, String>;
}

/// Reads a file's records in their order. `shown` is what it is called in errors, `each` may refuse a record. Returns the format.
pub fn read(
    path: &Path,
    shown: &str,
    options: &Options,
    each: &mut dyn FnMut(Made) -> Result<(), String>,
) -> Result<Format, DataError> {
    let (format, layout) = detect(path, shown, options.format)?;
    let mut file = File::open(path).map_err(DataError::io("cannot read", path))?;
    let score = options.score.clone();
    let mut reader: Box<dyn Reader> = match format {
        Format::Jsonl | Format::Csv => Box::new(plain::Plain { score }),
        Format::LmEval => Box::new(lm_eval::LmEval::new(score)),
        Format::Promptfoo => Box::new(promptfoo::Promptfoo::new(score)),
    };
    let mut wrong = None;
    scan(&mut file, &layout, path, &mut |batch| {
        for span in batch.rows.iter() {
            let bytes = batch.bytes.get(span.start..span.end).unwrap_or_default();
            let read = match &span.fault {
                Some(fault) => Err(fault.clone()),
                None => parse::fields(&layout, bytes).and_then(|record| reader.read(span.line, record)),
            };
            if let Err(message) = read.and_then(|made| made.into_iter().try_for_each(&mut *each)) {
                wrong = Some(DataError::input(format!("{shown}:{}", span.line), message));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    wrong.map_or(Ok(format), Err)
}

/// What a file is, and where its records stand.
fn detect(path: &Path, shown: &str, asked: Option<Format>) -> Result<(Format, Layout), DataError> {
    let refuse = |message: &str| DataError::input(shown, message);
    let meta = fs::metadata(path).map_err(|e| refuse(&format!("cannot be read: {e}")))?;
    if !meta.is_file() {
        return Err(refuse("is no regular file; a file of results is expected"));
    }
    if meta.len() > FILE_MAX {
        return Err(refuse("is over 4 GiB; cut it into several, one for each candidate"));
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|f| f.take(HEAD).read_to_end(&mut head))
        .map_err(|e| refuse(&format!("cannot be read: {e}")))?;
    if let Some(message) = format::no_text(&head) {
        return Err(refuse(message));
    }
    let start = if head.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 };
    let body = head.get(start..).unwrap_or_default();
    let layout = |format, start: u64, line| Layout { format, start, line, columns: Vec::new(), delimiter: 0 };
    let lines = layout(format::Format::Jsonl, start as u64, 1);
    let (first, table) = (body.trim_ascii_start().first(), is_table(path, body));
    match (asked, first) {
        (_, None) => Err(refuse("is empty")),
        (Some(Format::Csv), _) => Ok((Format::Csv, table_layout(path, shown)?)),
        (None, _) if table => Ok((Format::Csv, table_layout(path, shown)?)),
        // One array of records; or an object that holds them, in which no line is a whole record.
        (_, Some(b'[')) => {
            let at = start + (body.len() - body.trim_ascii_start().len()) + 1;
            let line = 1 + newlines(head.get(..at).unwrap_or_default());
            let layout = layout(format::Format::Json, at as u64, line);
            let format = asked.unwrap_or_else(|| told(&record_after(head.get(at..).unwrap_or_default())));
            Ok((format, layout))
        }
        (_, Some(b'{')) => {
            let record = first_line(body);
            let whole = record.as_ref().is_some_and(|record| !record.contains_key("results"));
            // A first line that is no JSON stands in a file of lines all the same, and is told with its number.
            if whole || (record.is_none() && format::is_jsonl(body)) {
                return Ok((asked.unwrap_or_else(|| told(&record)), lines));
            }
            match array_in(path, start as u64, &["results", "results"])? {
                Within::Array { start, line } => {
                    Ok((Format::Promptfoo, layout(format::Format::Json, start, line)))
                }
                Within::Nothing if asked == Some(Format::Promptfoo) => {
                    Err(refuse("has no array `results`; an output file of promptfoo is expected"))
                }
                Within::Nothing => Ok((asked.unwrap_or(Format::Jsonl), lines)),
            }
        }
        (Some(_), _) => Ok((asked.unwrap_or(Format::Jsonl), lines)),
        (None, _) => Err(refuse(
            "is in no format known here: expected JSON lines, csv, or what lm-eval or promptfoo writes",
        )),
    }
}

fn is_table(path: &Path, body: &[u8]) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    matches!(extension.as_deref(), Some("csv" | "tsv" | "tab"))
        && !matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

fn table_layout(path: &Path, shown: &str) -> Result<Layout, DataError> {
    let layout = format::detect(path, shown)?;
    if layout.columns.is_empty() {
        return Err(DataError::input(shown, "is no table with a header line"));
    }
    Ok(layout)
}

fn first_line(body: &[u8]) -> Option<Map<String, Value>> {
    let body = body.trim_ascii_start();
    let line = body.split(|b| *b == b'\n').next()?;
    serde_json::from_slice(line).ok()
}

/// The first item of an array.
fn record_after(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::Deserializer::from_slice(bytes).into_iter().next()?.ok()
}

/// Who wrote this record.
fn told(record: &Option<Map<String, Value>>) -> Format {
    let has = |name: &str| record.as_ref().is_some_and(|r| r.contains_key(name));
    if has("doc_id") && (has("resps") || has("filtered_resps")) {
        Format::LmEval
    } else if has("vars") && (has("response") || has("provider") || has("success")) {
        Format::Promptfoo
    } else {
        Format::Jsonl
    }
}

/// A value as text; none of nothing.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A figure that may stand as a number, a truth value or (in tables) a text. None where there is nothing.
fn number_of(name: &str, value: &Value) -> Result<Option<f64>, String> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::Bool(right) => Some(f64::from(u8::from(*right))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => {
            text.trim().parse().ok().or_else(|| truth(text).map(|t| f64::from(u8::from(t))))
        }
        _ => None,
    };
    match number.filter(|n| n.is_finite()) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("`{name}` is no finite number: {}", parse::clean(&value.to_string()))),
    }
}

/// A figure that cannot be below zero.
fn amount_of(name: &str, value: Option<&Value>) -> Result<Option<f64>, String> {
    match value.map_or(Ok(None), |value| number_of(name, value))? {
        Some(number) if number < 0.0 => Err(format!("`{name}` is {number}; at least 0 is expected")),
        number => Ok(number),
    }
}

fn count_of(name: &str, value: Option<&Value>) -> Result<Option<u64>, String> {
    match amount_of(name, value)? {
        Some(number) if number.fract() != 0.0 || number > 1e15 => {
            Err(format!("`{name}` is {number}; a whole number is expected"))
        }
        number => Ok(number.map(|n| n as u64)),
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" | "1.0" | "right" | "correct" | "pass" => Some(true),
        "false" | "no" | "0" | "0.0" | "wrong" | "incorrect" | "fail" => Some(false),
        _ => None,
    }
}

/// Right or wrong. None where nothing is said.
fn right_of(name: &str, value: Option<&Value>) -> Result<Option<bool>, String> {
    let right = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::Bool(right)) => Some(*right),
        Some(Value::Number(n)) => n.as_f64().filter(|n| *n == 0.0 || *n == 1.0).map(|n| n == 1.0),
        Some(Value::String(text)) => truth(text),
        Some(_) => None,
    };
    let found = value.map(ToString::to_string).unwrap_or_default();
    right.map(Some).ok_or_else(|| format!("`{name}` is neither true nor false: {}", parse::clean(&found)))
}

#[cfg(test)]
mod tests;
