//! Reviewing rows: what annotators say of golds, queues of rows, and how far annotators agree.

use serde::{Deserialize, Serialize};

use super::judge::Kappa;

/// Stands where an annotator's name does, for what was settled among several; no name can be this one.
pub const SETTLED: &str = "=";
/// How [`Opinion::Exclude`] is told beside golds.
pub const LEFT_OUT: &str = "(exclude)";
/// Rows of every stratum in a queue, where nothing else is said.
pub const PER: usize = 5;

/// What an annotator says of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opinion {
    /// This is its gold. None: it has none.
    Gold(Option<String>),
    /// It is not to be used.
    Exclude,
}

impl Opinion {
    /// As it is compared and told.
    pub fn word(&self) -> &str {
        match self {
            Self::Gold(gold) => gold.as_deref().unwrap_or_default(),
            Self::Exclude => LEFT_OUT,
        }
    }
}

/// An opinion as it stands in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Review {
    pub annotator: String,
    pub row: String,
    /// Of the row's content then, as in its file.
    pub row_hash: String,
    /// None takes it back.
    pub opinion: Option<Opinion>,
}

impl Review {
    /// One opinion of an annotator on a row.
    pub fn key(&self) -> String {
        format!("{}\0{}", self.annotator, self.row)
    }
}

/// Which rows are to be reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReviewAsk {
    /// None: the user of the engine.
    pub annotator: Option<String>,
    /// Rows of every stratum.
    pub per: usize,
    pub filter: String,
    pub seed: u64,
    /// Only rows that somebody else has decided on.
    pub second: bool,
}

impl Default for ReviewAsk {
    fn default() -> Self {
        Self { annotator: None, per: PER, filter: String::new(), seed: super::sample::SEED, second: false }
    }
}

/// A row to be reviewed. What others said of it is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReviewItem {
    pub row: String,
    pub stratum: String,
    pub input: String,
    /// The one that holds; where others have decided, as it stands in the file.
    pub gold: Option<String>,
    pub marks: Vec<String>,
    pub note: Option<String>,
}

/// How far a stratum is reviewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub stratum: String,
    pub done: usize,
    pub total: usize,
}

/// What is left for an annotator, in the annotator's own order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReviewQueue {
    pub annotator: String,
    pub done: usize,
    pub total: usize,
    pub strata: Vec<Progress>,
    /// As many as fit a message.
    pub items: Vec<ReviewItem>,
}

/// Two annotators on the rows that both decided on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pair {
    pub a: String,
    pub b: String,
    pub rows: usize,
    pub same: usize,
    /// None where only one thing was ever said.
    pub kappa: Option<Kappa>,
}

/// A row on which annotators part and nothing is settled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Apart {
    pub row: String,
    pub stratum: String,
    pub input: String,
    /// As it stands in the file.
    pub gold: Option<String>,
    /// Annotator, and the gold that each vouches for.
    pub said: Vec<(String, String)>,
}

/// How far annotators agree on rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowAgreement {
    /// Annotators, and how many rows each decided on.
    pub annotators: Vec<(String, usize)>,
    /// Rows that at least two decided on; of them those on which all say the same, and those that were settled since.
    pub rows: usize,
    pub same: usize,
    pub settled: usize,
    /// Krippendorff's alpha over all annotators.
    pub alpha: Option<Kappa>,
    /// Cohen's kappa, those with most rows in common first.
    pub pairs: Vec<Pair>,
    pub apart: Vec<Apart>,
}
