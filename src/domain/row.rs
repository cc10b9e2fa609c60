//! Rows, as they stand in the data and as a run sees them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The part of the data a row belongs to; assigned once, within strata, and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Learned from.
    Train,
    /// Selected on: early stopping, fixed rows, racing.
    Dev,
    /// Scored on: the board.
    Eval,
    /// Final claims only; every look is counted.
    Reserve,
}

impl Part {
    /// All parts, in the order of the screens.
    pub const ALL: [Self; 4] = [Self::Train, Self::Dev, Self::Eval, Self::Reserve];

    /// The lower-case name used in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Eval => "eval",
            Self::Reserve => "reserve",
        }
    }
}

/// One example as it stands in the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The `id` field where present and unique, else content hash + occurrence number.
    pub id: String,
    /// Hex of the BLAKE3 of the row's canonical content, first 16 bytes.
    pub hash: String,
    /// The fields as read.
    pub fields: Map<String, Value>,
    /// Source file, relative to the workspace.
    pub source: String,
    /// Line of the row in its file, from 1 (for JSON arrays and parquet: row number).
    pub line: u64,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`, or what the data calls it.
    pub role: String,
    pub text: String,
}

/// A row as it is frozen into a run's `inputs/rows.jsonl`: rendered, with people's edits applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    pub id: String,
    pub hash: String,
    pub part: Option<Part>,
    /// Name of the stratum, where strata have been built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stratum: Option<String>,
    pub fields: Map<String, Value>,
    /// What the pipeline gets: `[data] input`, rendered.
    pub input: String,
    /// The conversation before the golden answer, where the row is one and `[data] input` does not say otherwise: a bare prompt
    /// asks with it, turn by turn. `input` is the same as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Turn>,
    /// The golden answer, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
}

/// A row by id and content, as listed in `spec.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRef {
    pub id: String,
    pub hash: String,
}

/// What is wrong with a line of the data that could not become a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub file: String,
    pub line: u64,
    pub reason: String,
}
