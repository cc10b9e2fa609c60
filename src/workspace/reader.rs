//! Typed reading of a table: each key asked for is a key allowed; the rest are errors with the nearest valid key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::problem::Problem;
use super::tree::{Node, Place, Table, Value};
use crate::domain::words::{nearest, steers};

/// Collects problems, and the keys that each table may have.
pub(super) struct Sink {
    file: String,
    problems: RefCell<Vec<Problem>>,
    /// Valid keys by the table's path: `tuning.train` -> `rank`, ...
    keys: RefCell<BTreeMap<String, Vec<&'static str>>>,
}

impl Sink {
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), problems: RefCell::default(), keys: RefCell::default() }
    }

    pub fn push(&self, place: Place, message: String) {
        let (file, line) = match place {
            Place::Line(line) => (self.file.clone(), line),
            Place::Setting => ("--set".to_owned(), 0),
        };
        self.problems.borrow_mut().push(Problem { file, line, message });
    }

    /// Problems in the order of the file, and the valid keys of every table that was read.
    pub fn into_parts(self) -> (Vec<Problem>, BTreeMap<String, Vec<&'static str>>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        (problems, self.keys.into_inner())
    }
}

/// One table under reading.
pub(super) struct Fields<'a> {
    sink: &'a Sink,
    /// `tuning.train`; empty for the file itself.
    path: String,
    place: Place,
    table: &'a Table,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub fn new(sink: &'a Sink, path: impl Into<String>, place: Place, table: &'a Table) -> Self {
        Self { sink, path: path.into(), place, table, known: Vec::new() }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.table.get(key)
    }

    fn wrong(&self, key: &str, node: &Node, expected: &str) {
        let found = node.value.kind();
        self.sink.push(node.place, format!("`{}`: expected {expected}, found {found}", self.full(key)));
    }

    /// A problem with a key's value.
    pub fn fault(&self, key: &str, message: &str) {
        let place = self.table.get(key).map_or(self.place, |node| node.place);
        self.sink.push(place, format!("`{}`: {message}", self.full(key)));
    }

    /// A key that must be there and is not.
    pub fn missing(&self, key: &str, advice: &str) {
        self.sink.push(self.place, format!("`{}` is missing: {advice}", self.full(key)));
    }

    /// The key was set for one run (`--set`), not in the file.
    pub fn is_set(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|node| matches!(node.place, Place::Setting))
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub fn string(&mut self, key: &'static str) -> Option<String> {
        let node = self.get(key)?;
        match &node.value {
            Value::String(s) if s.trim().is_empty() => {
                self.wrong_text(key, node, "must not be empty");
                None
            }
            Value::String(s) if s.contains('\0') => {
                self.wrong_text(key, node, "must not contain a NUL character");
                None
            }
            Value::String(s) => Some(s.clone()),
            _ => {
                self.wrong(key, node, "a string");
                None
            }
        }
    }

    fn wrong_text(&self, key: &str, node: &Node, message: &str) {
        self.sink.push(node.place, format!("`{}` {message}", self.full(key)));
    }

    /// Whether the key's value is a table.
    pub fn is_table(&self, key: &str) -> bool {
        matches!(self.table.get(key).map(|node| &node.value), Some(Value::Table(_)))
    }

    /// Whether the key's value is a whole number.
    pub fn is_number(&self, key: &str) -> bool {
        matches!(self.table.get(key).map(|node| &node.value), Some(Value::Integer(_)))
    }

    /// A list of whole numbers.
    pub fn wholes(&mut self, key: &'static str) -> Option<Vec<i64>> {
        let node = self.get(key)?;
        let numbers = match &node.value {
            Value::Array(items) => items
                .iter()
                .map(|item| if let Value::Integer(n) = item.value { n } else { None })
                .collect::<Option<Vec<i64>>>(),
            _ => None,
        };
        if numbers.is_none() {
            self.wrong(key, node, "a list of whole numbers");
        }
        numbers
    }

    /// One string or a list of strings.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.list(key, |s| !s.trim().is_empty())
    }

    /// As [`Fields::strings`], where white space is a text, too.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.list(key, |s| !s.is_empty())
    }

    fn list(&mut self, key: &'static str, says: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let valid = |s: &str| says(s) && !s.contains('\0');
        let node = self.get(key)?;
        match &node.value {
            Value::String(s) if valid(s) => Some(vec![s.clone()]),
            Value::Array(items) => {
                let mut strings = Vec::with_capacity(items.len());
                for item in items {
                    match &item.value {
                        Value::String(s) if valid(s) => strings.push(s.clone()),
                        Value::String(_) => self.wrong_text(key, item, "has an empty item"),
                        _ => self.wrong(key, item, "a list of strings"),
                    }
                }
                Some(strings)
            }
            Value::String(_) => {
                self.wrong_text(key, node, "must not be empty");
                None
            }
            _ => {
                self.wrong(key, node, "a list of strings");
                None
            }
        }
    }

    /// A whole number in a range.
    pub fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let node = self.get(key)?;
        let number = match node.value {
            Value::Integer(n) => n.and_then(|n| u64::try_from(n).ok()),
            _ => {
                self.wrong(key, node, "a whole number");
                return None;
            }
        };
        if let Some(n) = number
            && range.contains(&n)
        {
            return Some(n);
        }
        let (low, high) = (range.start(), range.end());
        let bounds = if *high == u64::MAX || *high == i64::MAX as u64 {
            format!("at least {low}")
        } else {
            format!("from {low} to {high}")
        };
        self.wrong_text(key, node, &format!("must be a whole number {bounds}"));
        None
    }

    /// [`Self::whole`] as a length.
    pub fn count(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<usize> {
        self.whole(key, range).and_then(|n| usize::try_from(n).ok())
    }

    /// A finite number that `valid` accepts; `expected` says what that is.
    pub fn number(&mut self, key: &'static str, expected: &str, valid: impl Fn(f64) -> bool) -> Option<f64> {
        let node = self.get(key)?;
        let number = match node.value {
            Value::Float(n) => n,
            Value::Integer(Some(n)) => n as f64,
            _ => {
                self.wrong(key, node, "a number");
                return None;
            }
        };
        if number.is_finite() && valid(number) {
            return Some(number);
        }
        self.wrong_text(key, node, &format!("must be {expected}, not {number}"));
        None
    }

    /// Not below zero.
    pub fn amount(&mut self, key: &'static str) -> Option<f64> {
        self.number(key, "at least 0", |n| n >= 0.0)
    }

    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = self.get(key)?;
        if let Value::Boolean(b) = node.value {
            return Some(b);
        }
        self.wrong(key, node, "true or false");
        None
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let word = self.string(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.fault(key, &format!("`{}` is none of: {}", clip(&word), names.join(", ")));
        None
    }

    /// A table within.
    pub fn table(&mut self, key: &'static str) -> Option<Fields<'a>> {
        let node = self.get(key)?;
        if let Value::Table(table) = &node.value {
            return Some(Fields::new(self.sink, self.full(key), node.place, table));
        }
        self.wrong(key, node, &format!("a table: write [{}]", self.full(key)));
        None
    }

    /// A table within, read as empty where it is absent or wrong, so that its defaults hold.
    pub fn table_or_empty(&mut self, key: &'static str) -> Fields<'a> {
        static EMPTY: Table = Table::new();
        let (sink, path, place) = (self.sink, self.full(key), self.place);
        self.table(key).unwrap_or_else(|| Fields::new(sink, path, place, &EMPTY))
    }

    /// Tables by free names (`[models.base]`).
    pub fn named_tables(&mut self, key: &'static str) -> Vec<(String, Fields<'a>)> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let path = self.full(key);
        let Value::Table(entries) = &node.value else {
            self.wrong(key, node, &format!("tables with names: write [{path}.NAME]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, node) in entries {
            if let Value::Table(table) = &node.value {
                let path = format!("{path}.{name}");
                tables.push((name.clone(), Fields::new(self.sink, path, node.place, table)));
            } else {
                let message =
                    format!("`{path}.{name}`: expected a table [{path}.NAME], found {}", node.value.kind());
                self.sink.push(node.place, message);
            }
        }
        tables
    }

    /// Numbers by free names (`rank_pattern = { q_proj = 8 }`), each one that `valid` accepts.
    pub fn numbers(
        &mut self,
        key: &'static str,
        expected: &str,
        valid: impl Fn(f64) -> bool,
    ) -> BTreeMap<String, f64> {
        let Some(node) = self.get(key) else { return BTreeMap::new() };
        let path = self.full(key);
        let Value::Table(entries) = &node.value else {
            self.wrong(key, node, &format!("names with numbers: write {key} = {{ \"NAME\" = 2 }}"));
            return BTreeMap::new();
        };
        let mut numbers = BTreeMap::new();
        for (name, node) in entries {
            let number = match node.value {
                Value::Float(n) => n,
                Value::Integer(Some(n)) => n as f64,
                _ => f64::NAN,
            };
            if number.is_finite() && valid(number) {
                numbers.insert(name.clone(), number);
            } else {
                self.sink.push(node.place, format!("`{path}.{}` must be {expected}", clip(name)));
            }
        }
        numbers
    }

    /// Texts by free names (`meanings = { card_arrival = "where a new card is" }`).
    pub fn texts_by_name(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let Some(node) = self.get(key) else { return BTreeMap::new() };
        let path = self.full(key);
        let Value::Table(entries) = &node.value else {
            self.wrong(
                key,
                node,
                &format!("names with texts: write {key} = {{ \"NAME\" = \"what it means\" }}"),
            );
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for (name, node) in entries {
            match &node.value {
                Value::String(text) => drop(texts.insert(name.clone(), text.clone())),
                other => {
                    let message = format!("`{path}.{}`: expected a text, found {}", clip(name), other.kind());
                    self.sink.push(node.place, message);
                }
            }
        }
        texts
    }

    /// A list of tables (`[[stage]]`).
    pub fn table_list(&mut self, key: &'static str) -> Vec<Fields<'a>> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let path = self.full(key);
        let Value::Array(items) = &node.value else {
            self.wrong(key, node, &format!("a list of tables: write [[{path}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (i, item) in items.iter().enumerate() {
            if let Value::Table(table) = &item.value {
                tables.push(Fields::new(self.sink, format!("{path}.{i}"), item.place, table));
            } else {
                self.wrong(key, item, &format!("a list of tables: write [[{path}]]"));
            }
        }
        tables
    }

    /// Every key that was not asked for is unknown.
    pub fn finish(self) {
        for (key, node) in self.table {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let table = match self.path.as_str() {
                "" => String::new(),
                path => format!(" in [{path}]"),
            };
            let near = nearest(key, self.known.iter().copied());
            // `max_token` is a slip, `api_key` is not.
            let slip = near.is_some_and(|near| strsim::normalized_damerau_levenshtein(key, near) >= 0.8);
            let message = if is_secret(key) && !slip {
                format!(
                    "`{}` would put a secret into a file; remove it, set an environment variable, and name that \
                     variable here: api_key_env = \"NAME\"",
                    clip(&self.full(key))
                )
            } else if let Some(near) = near {
                format!("unknown key `{}`{table}; did you mean `{near}`?", clip(key))
            } else {
                format!("unknown key `{}`{table}; valid keys: {}", clip(key), self.known.join(", "))
            };
            self.sink.push(node.place, message);
        }
        self.sink.keys.borrow_mut().insert(self.path, self.known);
    }
}

/// Keys whose values people would put a secret into.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace(['-', ' '], "_");
    if key.ends_with("_env") {
        return false;
    }
    let words: Vec<&str> = key.split('_').collect();
    words.iter().any(|w| {
        matches!(
            *w,
            "key" | "apikey" | "token" | "secret" | "password" | "passwd" | "authorization" | "bearer"
        )
    })
}

/// Keeps what people wrote to a few readable words.
pub(super) fn clip(text: &str) -> String {
    clip_to(text, 80)
}

/// Keeps a message to a readable line.
pub(super) fn clip_long(text: &str) -> String {
    clip_to(text, 500)
}

fn clip_to(text: &str, limit: usize) -> String {
    let clean: String = text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).take(limit).collect();
    if text.chars().nth(limit).is_some() { format!("{clean}...") } else { clean }
}
