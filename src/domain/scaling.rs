//! Whether more rows would pay: error over the number of train rows.

use serde::{Deserialize, Serialize};

/// Shares of the train rows that are tried where nothing else is said.
pub const SHARES: [&str; 3] = ["25%", "50%", "100%"];

/// A candidate that was trained on some of the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    pub run: String,
    /// Train rows.
    pub rows: usize,
    /// Share of wrong answers on the eval rows that all points have, with its 95% interval.
    pub error: f64,
    pub ci95: [f64; 2],
}

/// `error = scale * rows ^ -exponent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Law {
    pub scale: f64,
    pub exponent: f64,
}

impl Law {
    pub fn error(&self, rows: f64) -> f64 {
        (self.scale * rows.powf(-self.exponent)).min(1.0)
    }
}

/// What twice as many rows would give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Next {
    pub rows: usize,
    pub error: f64,
    /// How much less is wrong than at the most rows by the law, with its 95% interval.
    pub gain: f64,
    pub ci95: [f64; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval of the gain is above 0.
    Pays,
    /// The interval of the gain is below one point.
    Flat,
    /// Neither: these eval rows, or these runs, cannot tell.
    #[default]
    Unclear,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scaling {
    pub group: String,
    /// Eval rows that all points have.
    pub eval_rows: usize,
    /// The fewest rows first.
    pub points: Vec<Point>,
    pub law: Option<Law>,
    /// 95%, of the exponent.
    pub exponent_ci95: Option<[f64; 2]>,
    pub next: Option<Next>,
    pub verdict: Verdict,
    /// What follows, in words.
    pub words: String,
    /// Runs of the group that have no result.
    pub missing: Vec<String>,
}
