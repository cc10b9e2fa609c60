//! TOML as a tree that knows where each key stands, so that every problem can name its line.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// Where a key or value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Line of `workspace.toml`, from 1.
    Line(u64),
    /// A `--set` on the command line.
    Setting,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    /// None: beyond 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

/// A table's keys with their values; [`Node::place`] of a value is its key's.
pub(super) type Table = BTreeMap<String, Node>;

impl Value {
    /// What it is, for "expected ..., found ...".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Parses a whole file. Every syntax error becomes a problem of `file`.
pub(super) fn parse(file: &str, text: &str) -> Result<Table, Vec<Problem>> {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(convert_table(table.into_inner(), &|span| Place::Line(lines.line(span.start))));
    }
    // Recovery after the first error invents followers; a handful is what a person can use.
    Err(errors
        .iter()
        .take(8)
        .map(|e| Problem {
            file: file.to_owned(),
            line: e.span().map_or(0, |s| lines.line(s.start)),
            message: format!("not valid TOML: {}", e.message().replace('\n', ", ")),
        })
        .collect())
}

/// The value of a `--set key=value`: TOML where it is TOML, else the text itself.
pub(super) fn parse_setting(text: &str) -> Node {
    let line = format!("value = {text}");
    let value = match DeTable::parse(&line) {
        // More than one key: the text had a line break in it, so it is no value.
        Ok(table) if table.get_ref().len() == 1 => {
            convert_table(table.into_inner(), &|_| Place::Setting).remove("value").map(|node| node.value)
        }
        _ => None,
    };
    let number = || text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::Float);
    let value = value.or_else(number).unwrap_or_else(|| Value::String(text.to_owned()));
    Node { place: Place::Setting, value }
}

fn convert_table(table: DeTable<'_>, place: &dyn Fn(std::ops::Range<usize>) -> Place) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let at = place(key.span());
            (key.into_inner().into_owned(), Node { place: at, value: convert(value, place) })
        })
        .collect()
}

fn convert(value: Spanned<DeValue<'_>>, place: &dyn Fn(std::ops::Range<usize>) -> Place) -> Value {
    match value.into_inner() {
        DeValue::String(s) => Value::String(s.into_owned()),
        DeValue::Integer(i) => Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).ok()),
        DeValue::Float(f) => Value::Float(f.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(b) => Value::Boolean(b),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| Node { place: place(item.span()), value: convert(item, place) })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, place)),
    }
}

/// Line numbers of byte offsets.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect())
    }

    /// From 1.
    pub fn line(&self, offset: usize) -> u64 {
        self.0.partition_point(|newline| *newline < offset) as u64 + 1
    }
}
