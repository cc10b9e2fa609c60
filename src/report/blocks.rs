//! What a report is made of, whatever it is written as.

use crate::domain::words::steers;

#[derive(Debug)]
pub(super) enum Block {
    /// Level 1 is the report's own.
    Heading(u8, String),
    Text(String),
    /// A few figures that say most: what, and how much.
    Figures(Vec<(String, String)>),
    Table(Table),
    List(Vec<String>),
    /// Lines of a unified diff: `+` and `-` before what came and went.
    Diff(String),
    /// Only where pictures can be shown: tables tell the same.
    Chart(Chart),
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Headers; those that begin with `>` are of columns of numbers.
    pub head: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Each header without its mark, and whether its column is of numbers.
    pub fn columns(&self) -> impl Iterator<Item = (&str, bool)> {
        self.head.iter().map(|h| (h.strip_prefix('>').unwrap_or(h), h.starts_with('>')))
    }
}

/// What a cell says beside its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Plain,
    Good,
    Bad,
}

#[derive(Debug, Default)]
pub(super) struct Cell {
    pub text: String,
    pub mood: Mood,
}

impl Cell {
    pub fn of(text: impl Into<String>, mood: Mood) -> Self {
        Self { text: text.into(), mood }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::of(text, Mood::Plain)
    }
}

#[derive(Debug)]
pub(super) struct Chart {
    pub title: String,
    /// In a sentence, for those who do not see it.
    pub about: String,
    /// An `<svg>` element, everything in it escaped.
    pub svg: String,
}

/// Text of data and models without what steers or turns it; line breaks stay.
pub(super) fn clean(text: &str) -> String {
    // The last two of each plane are no characters (Unicode, 23.7).
    let none = |c: char| (c as u32) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c);
    let text = text.replace("\r\n", "\n");
    text.chars()
        .map(|c| match c {
            '\t' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
            c => c,
        })
        .filter(|c| {
            *c == '\n' || !(steers(*c) || none(*c) || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}'))
        })
        .collect()
}

/// The same on one line.
pub(super) fn line(text: &str) -> String {
    clean(text).split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}
