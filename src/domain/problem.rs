//! What is wrong with rows: the kinds, how many rows each has, and rows with their reasons.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::row::Part;
use super::settings::Likeness;

/// The mark of rows that people leave out: nothing learns from them, and nothing is scored on them.
pub const EXCLUDED: &str = "excluded";

/// The same word in the filter language (`problem:near-duplicate`), on the command line and on screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The same input with another gold.
    ConflictingGold,
    /// A row that is scored on stands in what is learned from.
    Leak,
    /// The gold is likely wrong.
    WrongGold,
    /// The same input with the same gold.
    ExactDuplicate,
    /// Nearly the same input.
    NearDuplicate,
    EmptyInput,
    EmptyGold,
    /// For the context of the model that is asked.
    TooLong,
    /// The row does not fit what input and gold are made of.
    Template,
    OddCharacters,
    /// Personal data.
    Pii,
}

impl ProblemKind {
    /// In the order in which people should look at them.
    pub const ALL: [Self; 11] = [
        Self::ConflictingGold,
        Self::Leak,
        Self::WrongGold,
        Self::ExactDuplicate,
        Self::NearDuplicate,
        Self::EmptyInput,
        Self::EmptyGold,
        Self::TooLong,
        Self::Template,
        Self::OddCharacters,
        Self::Pii,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ConflictingGold => "conflicting-gold",
            Self::Leak => "leak",
            Self::WrongGold => "wrong-gold",
            Self::ExactDuplicate => "exact-duplicate",
            Self::NearDuplicate => "near-duplicate",
            Self::EmptyInput => "empty-input",
            Self::EmptyGold => "empty-gold",
            Self::TooLong => "too-long",
            Self::Template => "template",
            Self::OddCharacters => "odd-characters",
            Self::Pii => "pii",
        }
    }

    /// What it is, for people.
    pub const fn help(self) -> &'static str {
        match self {
            Self::ConflictingGold => "the same input with different gold",
            Self::Leak => "scored on, and in what is learned from",
            Self::WrongGold => "gold that other rows, or a good candidate, speak against",
            Self::ExactDuplicate => "the same input and gold",
            Self::NearDuplicate => "nearly the same input",
            Self::EmptyInput => "nothing to ask",
            Self::EmptyGold => "no golden answer",
            Self::TooLong => "longer than the model reads",
            Self::Template => "fields or roles that do not fit",
            Self::OddCharacters => "control, invisible or garbled characters",
            Self::Pii => "personal data",
        }
    }

    /// Its rows come in groups.
    pub const fn in_groups(self) -> bool {
        matches!(self, Self::ConflictingGold | Self::ExactDuplicate | Self::NearDuplicate)
    }
}

impl std::str::FromStr for ProblemKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let near = super::words::nearest(text, known).map(|near| format!("; did you mean `{near}`?"));
            format!(
                "no kind of problem `{text}`{}",
                near.unwrap_or_else(|| format!("; there are {}", known.join(", ")))
            )
        })
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Rows of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemCount {
    pub kind: ProblemKind,
    pub rows: usize,
    /// Groups that they are in, where they come in groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
}

/// One row and why it is listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowProblem {
    pub id: String,
    /// Never holds a piece of personal data.
    pub reason: String,
    /// 0 to 1: how sure (wrong gold), how alike (near duplicates).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    pub text: String,
    pub gold: Option<String>,
    pub part: Option<Part>,
    pub excluded: bool,
    /// The first row of its group, where it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The first row's text, where this is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// The first row's gold, where this is another one that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like_gold: Option<String>,
}

/// What is wrong with the rows of a query; those of one kind, where one was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problems {
    /// Rows that were looked at: excluded ones are not.
    pub rows: usize,
    pub excluded: usize,
    /// Kinds that some row has.
    pub kinds: Vec<ProblemCount>,
    /// When rows were near duplicates.
    pub duplicates: Likeness,
    /// How it was found, and what could not be looked at.
    pub notes: Vec<String>,
    /// Rows of the kind, in all.
    pub total: usize,
    pub offset: usize,
    pub found: Vec<RowProblem>,
}

impl Problems {
    pub fn count(&self, kind: ProblemKind) -> usize {
        self.kinds.iter().find(|count| count.kind == kind).map_or(0, |count| count.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_the_names_they_are_written_with() {
        for kind in ProblemKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert!("near-duplicates".parse::<ProblemKind>().unwrap_err().contains("`near-duplicate`"));
    }
}
