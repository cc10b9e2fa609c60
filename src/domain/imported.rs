//! Candidates whose outcomes were made elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One candidate's outcomes, as they were imported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    pub candidate: String,
    /// The file they came from, and the format that it was read as.
    pub file: String,
    pub format: String,
    /// Which of the file's candidates it is: a provider, a filter. Empty where the file tells of one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Answers in the file, and those of them whose row is in the data.
    pub rows: usize,
    pub matched: usize,
    /// How their rows were found: by `id`, by `input`, or by a field.
    pub how: BTreeMap<String, usize>,
    /// When it was imported first, and with what stands there now.
    pub first_ms: u64,
    pub t_ms: u64,
}

/// What a file of outcomes led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportedFile {
    pub format: String,
    pub rows: usize,
    pub matched: usize,
    pub how: BTreeMap<String, usize>,
    /// The first answers whose row was not found: line and id, or the text they are about.
    pub unmatched: Vec<String>,
    /// One for each candidate in the file.
    pub candidates: Vec<Imported>,
}

/// How a file of outcomes is to be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportAs {
    pub candidate: String,
    /// `auto`, or empty, or a format's name.
    pub format: String,
    /// `FIELD`, or `FIELD=FIELD` where the data has another name for it; none: by id, else by the input's text.
    pub match_by: Option<String>,
    /// The figure that is the primary metric's.
    pub score: Option<String>,
}
