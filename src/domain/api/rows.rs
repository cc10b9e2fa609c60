//! Windows on the rows, and all about one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::play::Feedback;
use crate::domain::row::Part;

/// A window on the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowQuery {
    /// Only rows of this stratum (its id).
    pub stratum: Option<String>,
    /// Only rows of this group of strata (its id).
    pub group: Option<String>,
    pub part: Option<Part>,
    /// A filter ([`crate::domain::filter`]): words of the text, and tests such as `base:wrong` and `len>40`.
    pub text: String,
    /// `outliers` or `near-duplicates`, as flagged by the strata run.
    pub flag: Option<String>,
    /// Only these rows, in this order (rows of a step, flips).
    pub ids: Option<Vec<String>>,
    /// `id`, `length`, `wrong-first`, `outlier`; empty: file order.
    pub sort: String,
    pub offset: usize,
    pub count: usize,
}

/// A row in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowSummary {
    pub id: String,
    pub text: String,
    pub gold: Option<String>,
    /// Answers of the baseline and of the best candidate: text and whether it is right.
    pub base: Option<(String, Option<bool>)>,
    pub best: Option<(String, Option<bool>)>,
    /// Characters of the input.
    pub length: usize,
    pub part: Option<Part>,
    pub stratum: Option<String>,
    pub marks: Vec<String>,
    pub has_note: bool,
}

/// A window of rows, with the size of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowPage {
    pub total: usize,
    pub offset: usize,
    pub rows: Vec<RowSummary>,
}

/// Everything about one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowDetail {
    pub id: String,
    pub input: String,
    pub gold: Option<String>,
    /// The gold as it stands in the file, where a person changed it.
    pub gold_in_file: Option<String>,
    pub fields: BTreeMap<String, String>,
    pub part: Option<Part>,
    pub stratum: Option<String>,
    pub marks: Vec<String>,
    pub note: Option<String>,
    pub source: String,
    pub line: u64,
    pub flags: Vec<String>,
    /// How unusual the row is among all, 0 to 1; from 0.5 on it is flagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<f32>,
    /// Candidate, answer, right or wrong.
    pub answers: Vec<(String, String, Option<bool>)>,
    /// What people said of answers to it in the playground.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
}
