//! File formats, found by extension and then by content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DataError;
use super::split::{Records, Splitter as _, csv_fields, newline, newlines};

/// How rows stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Jsonl,
    Json,
    Csv,
    Tsv,
    Parquet,
    /// Plain text: one row per line, with the field `text`.
    Text,
}

impl Format {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
            Self::Text => "text",
        }
    }

    /// Each row stands in the file as a JSON object, converted ones in the file they were converted to.
    pub const fn is_json(self) -> bool {
        matches!(self, Self::Jsonl | Self::Json | Self::Parquet)
    }
}

/// What is needed to split and parse a file's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub format: Format,
    /// Where the first row may begin: behind the byte order mark, the CSV header, the JSON array's bracket.
    pub start: u64,
    /// Line at `start`, from 1.
    pub line: u64,
    /// CSV and TSV: the columns' names, made unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// CSV and TSV.
    #[serde(default)]
    pub delimiter: u8,
}

/// As much as is looked at to find out what a file is.
const HEAD: u64 = 1 << 20;

/// Looks at a file's name and beginning.
pub fn detect(path: &Path, shown: &str) -> Result<Layout, DataError> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|f| f.take(HEAD).read_to_end(&mut head))
        .map_err(DataError::io("cannot read", path))?;
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let refuse = |message: &str| Err(DataError::input(shown, message));
    if let Some(message) = no_text(&head) {
        return refuse(message);
    }
    let plain = |format| Layout { format, start: 0, line: 1, columns: Vec::new(), delimiter: 0 };
    if head.starts_with(b"PAR1") {
        return Ok(plain(Format::Parquet));
    }
    let start = if head.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 };
    let body = &head[start..];
    match extension.as_deref() {
        Some("parquet") if !body.is_empty() => {
            refuse("is called .parquet but does not begin as a parquet file does")
        }
        Some("csv") => csv(body, start, shown, Format::Csv, csv_delimiter(body)),
        Some("tsv" | "tab") => csv(body, start, shown, Format::Tsv, b'\t'),
        Some("txt") => Ok(Layout { start: start as u64, ..plain(Format::Text) }),
        Some("jsonl" | "ndjson") => Ok(Layout { start: start as u64, ..plain(Format::Jsonl) }),
        extension => {
            let first = body.iter().find(|b| !b.is_ascii_whitespace());
            match first {
                None => Ok(Layout { start: start as u64, ..plain(Format::Jsonl) }),
                Some(b'[') => json(path, shown, start),
                Some(b'{') if is_jsonl(body) => Ok(Layout { start: start as u64, ..plain(Format::Jsonl) }),
                Some(b'{') => json(path, shown, start),
                Some(_) if extension == Some("json") => {
                    refuse("is called .json but begins neither with `[` nor with `{`")
                }
                Some(_) if looks_like_table(body, b'\t') => csv(body, start, shown, Format::Tsv, b'\t'),
                Some(_) if looks_like_table(body, csv_delimiter(body)) => {
                    csv(body, start, shown, Format::Csv, csv_delimiter(body))
                }
                Some(_) => {
                    refuse("is in no format known here: expected jsonl, json, csv, tsv, parquet or txt")
                }
            }
        }
    }
}

/// Why a file that begins so cannot be read as UTF-8 text.
pub(super) fn no_text(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || head.starts_with(b"PK\x03\x04")
    {
        return Some("is a compressed file; unpack it first (gunzip, zstd -d, unzip)");
    }
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Some("is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)");
    }
    None
}

/// The first line is a whole object, and another follows it: one object per line, whatever the file is called.
pub(super) fn is_jsonl(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    let Some(end) = newline(body) else { return false };
    let (first, rest) = body.split_at(end);
    let whole =
        |line: &[u8]| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok();
    let next = rest.trim_ascii_start().first();
    next == Some(&b'{') && (whole(first) || first.trim_ascii_end().ends_with(b"}"))
}

fn looks_like_table(body: &[u8], delimiter: u8) -> bool {
    let mut lines = body.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty());
    let count = |line: &[u8]| line.split(|b| *b == delimiter).count() - 1;
    let first = lines.next().map_or(0, count);
    first > 0 && lines.next().is_none_or(|l| count(l) > 0)
}

/// The commonest of the usual delimiters in the header; a comma if there is none.
fn csv_delimiter(body: &[u8]) -> u8 {
    let header = &body[..newline(body).unwrap_or(body.len())];
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0), (b'|', 0)];
    for byte in header {
        quoted ^= *byte == b'"';
        if let (false, Some((_, n))) = (quoted, counts.iter_mut().find(|(d, _)| d == byte)) {
            *n += 1;
        }
    }
    counts.iter().rev().max_by_key(|(_, n)| *n).filter(|(_, n)| *n > 0).map_or(b',', |(d, _)| *d)
}

fn csv(body: &[u8], offset: usize, shown: &str, format: Format, delimiter: u8) -> Result<Layout, DataError> {
    use super::split::Found;
    let mut splitter = Records { delimiter, width: 0 };
    // Blank lines before the header are no header.
    let blank = body.len() - body.trim_ascii_start().len();
    let blank = body[..blank].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let body_from = &body[blank..];
    let whole = (body.len() as u64) < HEAD - 3;
    let (len, next) = match splitter.find(body_from, whole) {
        Found::Row { len, next } => (len, next),
        Found::More => return Err(DataError::input(shown, "the header line is over 1 MiB")),
        Found::Torn { reason } => return Err(DataError::input(shown, format!("the header line: {reason}"))),
        Found::Skip(_) | Found::End | Found::CutOff => (0, 0),
    };
    let header = &body_from[..len];
    let mut columns: Vec<String> = Vec::new();
    if len > 0 {
        for (i, name) in csv_fields(header, delimiter).into_iter().enumerate() {
            let name = String::from_utf8(name).map_err(|_| {
                DataError::input(shown, "the header line is not valid UTF-8; save the file as UTF-8")
            })?;
            let name =
                if name.trim().is_empty() { format!("column_{}", i + 1) } else { name.trim().to_owned() };
            columns.push(unique(name, &columns));
        }
    }
    let consumed = blank + next;
    let line = newlines(&body[..consumed]) + 1;
    Ok(Layout { format, start: (offset + consumed) as u64, line, columns, delimiter })
}

fn unique(name: String, taken: &[String]) -> String {
    let mut n = 1;
    let mut candidate = name.clone();
    while taken.contains(&candidate) {
        n += 1;
        candidate = format!("{name}_{n}");
    }
    candidate
}

/// Finds the array that holds the rows: the file itself, or the one array in its object.
/// `{"data": []}`: where rows would stand, there are none.
fn is_empty_envelope(path: &Path, start: usize) -> bool {
    const ENVELOPES: [&str; 7] =
        ["data", "rows", "examples", "items", "records", "instances", "conversations"];
    let mut head = Vec::new();
    let read = File::open(path).and_then(|f| f.take(HEAD).read_to_end(&mut head));
    let object = read.ok().and_then(|_| {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(head.get(start..)?).ok()
    });
    let Some(object) = object else { return false };
    let empty = |value: &serde_json::Value| value.as_array().is_some_and(Vec::is_empty);
    (!object.is_empty() && object.values().all(empty))
        || object.iter().any(|(key, value)| ENVELOPES.contains(&key.as_str()) && empty(value))
}

fn json(path: &Path, shown: &str, start: usize) -> Result<Layout, DataError> {
    let arrays = super::scan::arrays(path, start as u64)?;
    let layout =
        |start, line| Layout { format: Format::Json, start, line, columns: Vec::new(), delimiter: 0 };
    match &arrays[..] {
        [one] => Ok(layout(one.start, one.line)),
        // An object without arrays is one row: the splitter takes what stands from its brace on.
        [] if is_empty_envelope(path, start) => {
            let end = std::fs::metadata(path).map_err(DataError::io("cannot read", path))?.len();
            Ok(layout(end, 1))
        }
        [] => Ok(layout(start as u64, 1)),
        many => {
            let names: Vec<String> =
                many.iter().map(|a| format!("`{}`", super::parse::clean(&a.key))).collect();
            Err(DataError::input(
                shown,
                format!(
                    "holds several arrays ({}); rows are expected in one: make one file of each",
                    names.join(", ")
                ),
            ))
        }
    }
}
