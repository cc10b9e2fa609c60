//! Rows that are scored on and stand, or nearly stand, in what is learned from.

use serde::{Deserialize, Serialize};

use super::row::Part;

/// The setting of a launch that goes on in spite of leaks: `leaks=allow`.
pub const LEAKS: &str = "leaks";
pub const ALLOW: &str = "allow";

/// How it was found. The surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakKind {
    /// The same text, but for case and white space.
    Exact,
    /// Words in a row are the same.
    Ngram,
    /// Their vectors are nearly the same: a suspicion, which refuses nothing.
    Embedding,
}

impl LeakKind {
    pub const ALL: [Self; 3] = [Self::Exact, Self::Ngram, Self::Embedding];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Ngram => "ngram",
            Self::Embedding => "embedding",
        }
    }
}

/// A row that is scored on, and what it stands in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leak {
    pub row: String,
    pub part: Option<Part>,
    pub text: String,
    pub how: LeakKind,
    /// `row 17`, `example 3f of stage route`, `the prompt of stage route`.
    pub from: String,
    /// The id, where it is a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_row: Option<String>,
    pub from_text: String,
    /// `4 word 13-grams`, `cosine 0.97`.
    pub detail: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leaks {
    /// Rows that are scored on.
    pub scored: usize,
    /// Texts that are learned from.
    pub learned: usize,
    /// Rows that leak, each once, by how; a row counts where it is surest.
    pub exact: usize,
    pub ngram: usize,
    pub embedding: usize,
    /// The rule, in words.
    pub notes: Vec<String>,
    /// Pairs in all.
    pub total: usize,
    pub offset: usize,
    pub found: Vec<Leak>,
}

impl Leaks {
    pub const fn rows(&self) -> usize {
        self.exact + self.ngram + self.embedding
    }
}
