//! Everything that is known of one candidate on the board's rows, part by part.

mod sections;

use serde::{Deserialize, Serialize};

use super::metric::{Direction, Unit};
pub use sections::{Section, sections};

/// A metric's value over rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub value: f64,
    /// Rows that have a value.
    pub n: usize,
    /// 95%; none where the metric has no value on each row.
    pub ci95: Option<[f64; 2]>,
    pub unit: Unit,
    pub direction: Direction,
    /// A row is right from here on; none: says nothing of right and wrong.
    pub threshold: Option<f64>,
    /// Rows that are right by the threshold.
    pub right: Option<usize>,
    pub about: String,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    pub label: String,
    /// Rows that are of the class.
    pub support: usize,
    /// Rows that were answered with it.
    pub answered: usize,
    /// Rows that are of it and were answered with it.
    pub right: usize,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// Rows of one class that were answered with another; an answer of none could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confused {
    pub gold: String,
    pub answer: Option<String>,
    pub n: usize,
}

/// Classes: figures of each and what they are taken for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassesDetail {
    /// Most frequent first.
    pub classes: Vec<ClassScore>,
    /// Classes beyond those.
    pub classes_left_out: usize,
    pub macro_f1: f64,
    pub weighted_f1: f64,
    /// `[gold][answer]` in the order of `labels`; empty where there are more than [`ClassesDetail::MATRIX`] classes.
    pub labels: Vec<String>,
    pub matrix: Vec<Vec<usize>>,
    /// By golden class, in the order of `labels`: answers that could not be read.
    pub unread: Vec<usize>,
    /// The largest first.
    pub confused: Vec<Confused>,
    pub confused_left_out: usize,
}

impl ClassesDetail {
    /// So many classes make a matrix that can be read.
    pub const MATRIX: usize = 20;
}

/// Rows whose probability lies in `(low, high]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    pub low: f64,
    pub high: f64,
    pub n: usize,
    /// Mean.
    pub probability: f64,
    /// Rows that are right.
    pub right: usize,
}

/// Whether the probability of the likeliest label is the chance that it is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrationDetail {
    /// Rows with a probability and a gold.
    pub n: usize,
    pub ece: f64,
    pub brier: f64,
    pub bins: Vec<CalibrationBin>,
}

/// One field of the golden JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDetail {
    /// Dotted path.
    pub field: String,
    /// Rows whose gold has it.
    pub n: usize,
    pub right: usize,
    /// Another value.
    pub wrong: usize,
    /// The answer has no such field.
    pub missing: usize,
    /// Rows whose answer has it and whose gold has not.
    pub unasked: usize,
}

/// One tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDetail {
    pub tool: String,
    /// The candidate has declared it.
    pub declared: bool,
    /// Calls of it in the golds.
    pub golden: usize,
    /// Calls of it in the answers.
    pub called: usize,
    /// Golden calls whose tool was called on that row.
    pub right_tool: usize,
    /// Of those, calls with the golden arguments.
    pub right_arguments: usize,
    /// Calls whose arguments do not fit the parameters.
    pub invalid_arguments: usize,
}

/// What one stage did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageDetail {
    pub stage: String,
    /// Answers.
    pub ran: usize,
    pub skipped: usize,
    pub format_errors: usize,
    pub retries: u64,
    /// Mean per answer.
    pub tokens_in: f64,
    pub tokens_out: f64,
    /// Metrics of the stage.
    pub metrics: Vec<Measured>,
    pub calibration: Option<CalibrationDetail>,
}

/// One stratum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StratumScore {
    pub stratum: String,
    /// Rows with a value of the primary metric.
    pub n: usize,
    /// Rows that are right.
    pub right: usize,
    /// Mean of the primary metric.
    pub value: f64,
    pub ci95: Option<[f64; 2]>,
}

/// Rows on which a metric could not be worked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unscored {
    pub metric: String,
    pub n: usize,
    /// The first of them, and why.
    pub row: String,
    pub why: String,
}

/// A candidate on the board's rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    pub candidate: String,
    pub id: String,
    pub rung: String,
    pub run: Option<String>,
    /// Rows scored.
    pub n: usize,
    /// Answers to each row, at most.
    pub samples: usize,
    /// Rows that failed with an error.
    pub errors: usize,
    pub without_gold: usize,
    /// Outcomes left out, because their rows are gone or have another content or gold since.
    pub stale: usize,
    pub primary: String,
    pub metrics: Vec<Measured>,
    /// Metrics asked for that have no value here.
    pub not_measured: Vec<String>,
    pub classes: Option<ClassesDetail>,
    pub calibration: Option<CalibrationDetail>,
    pub fields: Vec<FieldDetail>,
    pub fields_left_out: usize,
    pub tools: Vec<ToolDetail>,
    pub stages: Vec<StageDetail>,
    /// The weakest first.
    pub strata: Vec<StratumScore>,
    pub unscored: Vec<Unscored>,
}
