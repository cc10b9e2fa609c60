//! From a row's bytes to its fields.

use serde_json::{Map, Value};

use super::MAX_ROW;
use super::format::{Format, Layout};
use super::split::csv_fields;
use crate::domain::words::steers;

/// One row's fields; the error says what is wrong in words for the quarantine.
pub(super) fn fields(layout: &Layout, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.len() > MAX_ROW {
        return Err(too_long());
    }
    match layout.format {
        Format::Csv | Format::Tsv => csv(layout, bytes),
        Format::Text => {
            let text = utf8(bytes)?.trim_end_matches('\r');
            Ok(Map::from_iter([("text".to_owned(), Value::String(text.to_owned()))]))
        }
        Format::Jsonl | Format::Json | Format::Parquet => json(bytes),
    }
}

pub(super) fn too_long() -> String {
    format!("the row is over {} MiB", MAX_ROW >> 20)
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes)
        .map_err(|e| format!("not valid UTF-8 at byte {} of the row", e.valid_up_to() + 1))
}

fn json(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let text = utf8(bytes)?.trim();
    if text.starts_with('{') {
        // Straight to a map: one pass, no detour over other kinds of values.
        return serde_json::from_str(text).map_err(|e| explain(text, &e));
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => Err(format!("expected an object, found {}", kind(&value))),
        Err(e) => Err(explain(text, &e)),
    }
}

fn explain(text: &str, error: &serde_json::Error) -> String {
    // A row is one line: which one of the file, the caller says.
    let said = error.to_string().replace(" at line 1 column ", " at column ");
    let advice = if text.contains("NaN") || text.contains("Infinity") {
        "; NaN and Infinity are no JSON, write null"
    } else if text.contains('\'') && said.starts_with("key must be a string") {
        "; JSON wants double quotes"
    } else {
        ""
    };
    format!("not valid JSON: {said}{advice}")
}

/// What a JSON value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn csv(layout: &Layout, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let found = csv_fields(bytes, layout.delimiter);
    if found.len() > layout.columns.len() {
        return Err(format!("{} fields, but the header has {}", found.len(), layout.columns.len()));
    }
    let mut fields = Map::new();
    for (name, value) in layout.columns.iter().zip(found) {
        utf8(&value).map_err(|_| {
            format!(
                "field `{}` is not valid UTF-8; save the file as UTF-8 (iconv -f LATIN1 -t UTF-8)",
                clean(name)
            )
        })?;
        let value = String::from_utf8(value).unwrap_or_default();
        fields.insert(name.clone(), Value::String(value));
    }
    Ok(fields)
}

/// Text of a file, fit for a message: no control characters, not long.
pub fn clean(text: &str) -> String {
    clip(text, 60)
}

/// The same for a whole sentence.
pub fn clean_line(text: &str) -> String {
    clip(text, 300)
}

fn clip(text: &str, limit: usize) -> String {
    let short: String = text.chars().take(limit).map(|c| if steers(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(limit).is_some() { format!("{short}...") } else { short }
}
