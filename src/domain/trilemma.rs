//! Quality x latency x cost of a candidate: what the board says beside its metrics. What is not known is none, never 0.

use serde::{Deserialize, Serialize};

use super::board::Percentiles;

/// Hours of a month: 365.25 days by twelve.
pub const HOURS_A_MONTH: f64 = 730.5;

/// How fast a candidate is and what it costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trilemma {
    /// Until the answer of the last stage begins, in the latency pass: the stages before it, then its own first token.
    pub ttft_ms: Option<Percentiles>,
    /// Rows a second when many are asked at once, as the run that scored it found.
    pub rows_per_s: Option<f64>,
    pub cost: Cost,
    /// None without a latency goal, or where no row was timed.
    pub goodput: Option<Goodput>,
    /// The run that trained it; none for what was not trained here.
    pub training: Option<Training>,
    pub pareto: Pareto,
    /// At the volume that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<Month>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_even: Option<BreakEven>,
}

/// What a row costs, in the parts it is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Tokens of 1,000 rows by their price; none where no model is priced by the token, or no tokens are known.
    pub tokens_usd_per_1k: Option<f64>,
    /// Machines paid by the hour, for 1,000 rows; none where there is none, or no time is known.
    pub machine_usd_per_1k: Option<f64>,
    /// Seconds of such a machine for a row: many rows at once where that was measured, else one after the other.
    pub machine_s_per_row: Option<f64>,
    /// Of the dearest one.
    pub usd_per_hour: Option<f64>,
    /// Both parts; none where a model has no price, or a part of a price is not known.
    pub usd_per_1k: Option<f64>,
    /// Models without any price.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unpriced: Vec<String>,
}

/// Rows that are right and in time (DistServe, Zhong et al. 2024, counts such requests; right ones only are counted here).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// Rows of the latency pass that have a gold.
    pub n: usize,
    /// Right, and answered within `limit_ms`.
    pub good: usize,
    /// The latency goal of the highest percentile.
    pub limit_ms: f64,
    /// Of `good / n` (Wilson).
    pub ci95: [f64; 2],
    /// `good / n` of the rows a second; none where those are not known.
    pub per_s: Option<f64>,
}

impl Goodput {
    pub fn share(&self) -> f64 {
        self.good as f64 / self.n.max(1) as f64
    }
}

/// What the training of a candidate took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    pub run: String,
    /// In which the run ran, its final evaluation included.
    pub hours: f64,
    /// Of the machine that the trained model names; none: it names none.
    pub usd_per_hour: Option<f64>,
}

/// Where a candidate stands among the others on all of [`super::board::Board::axes`] together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Pareto {
    /// Not known on these axes, so nothing is said.
    Open { missing: Vec<String> },
    /// Nobody is as good on every axis and better on one.
    Front,
    /// By this one, the best in quality of those that are.
    Dominated { by: String },
}

impl Default for Pareto {
    fn default() -> Self {
        Self::Open { missing: Vec::new() }
    }
}

/// A candidate that answers so many rows a month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Month {
    /// Rows.
    pub volume: u64,
    /// Machines paid for the hours in which they work.
    pub usd: Option<f64>,
    /// Hours in which a machine works; none where none is priced or no time is known.
    pub machine_hours: Option<f64>,
    /// Machines that it takes at least.
    pub machines: Option<u64>,
    /// Machines paid all month.
    pub usd_always_on: Option<f64>,
}

/// After how many rows training has paid, against another candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    pub against: String,
    /// Hours of training by the machine's price; none where it has no price.
    pub training_usd: Option<f64>,
    /// Of the other's 1,000 rows, less this one's.
    pub saving_usd_per_1k: Option<f64>,
    /// None: never, or not known.
    pub rows: Option<u64>,
    /// At the volume that was asked for.
    pub months: Option<f64>,
    /// What is said of it: the figures in words, or why there are none.
    pub note: String,
}
