//! The board, comparisons and strata, as computed by the engine and shown by clients.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::candidate::IMPORTED;
use super::honest::{Checkpoints, Honest};
use super::ladder::Ladder;
use super::metric::{Known, Metric, OwnMetric};
use super::outcome::Flip;
use super::sets::{Kept, SetScore};
use super::strata::ActTold;
use super::trilemma::Trilemma;
use super::words::p_value;

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
}

/// A threshold on a metric: the shared definition of done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    pub metric: String,
    pub want: Want,
}

/// Which side of a threshold is good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    AtLeast(f64),
    AtMost(f64),
}

impl Want {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(limit) => write!(f, ">= {limit}"),
            Self::AtMost(limit) => write!(f, "<= {limit}"),
        }
    }
}

/// A goal of `workspace.toml` against a candidate. `state` is `pass`, `fail`, or `open` where it was not measured, or by a judge that is
/// not to be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoalResult {
    pub metric: String,
    /// `>= 0.9` or `<= 2000`.
    pub want: String,
    pub got: Option<f64>,
    pub state: String,
    /// Why it is open although something was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a judge said of a candidate's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JudgedCount {
    pub judge: String,
    /// Answers without a verdict.
    pub silent: usize,
    /// Answers by the judge's content: a rubric that changed is another judge.
    pub by_id: BTreeMap<String, usize>,
}

/// One candidate on the board.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardRow {
    pub candidate: String,
    pub id: String,
    pub rung: String,
    /// The run its outcomes come from.
    pub run: Option<String>,
    /// Every run that scored this same candidate, oldest first; the last one's outcomes count.
    #[serde(default)]
    pub runs: Vec<String>,
    /// Rows scored.
    pub n: usize,
    /// Outcomes left out, because their rows are gone or have another content or gold since.
    #[serde(default)]
    pub stale: usize,
    /// Rows that failed with an error.
    pub errors: usize,
    pub metrics: BTreeMap<String, f64>,
    /// The primary metric's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// 95% interval of the primary metric (Wilson for shares of right rows, bootstrap else).
    pub ci95: Option<[f64; 2]>,
    pub latency_ms: Option<Percentiles>,
    /// Mean per row.
    pub tokens_in: f64,
    pub tokens_out: f64,
    pub usd_per_1k: Option<f64>,
    pub goals: Vec<GoalResult>,
    /// What is to be known of the judges behind its figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judges: Vec<String>,
    /// Their verdicts on the rows that count; not told.
    #[serde(skip)]
    pub judged: Vec<JudgedCount>,
    #[serde(default)]
    pub trilemma: Trilemma,
    /// On the rows that once were fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<Kept>,
    /// On the general-ability sets, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sets: BTreeMap<String, SetScore>,
    /// Its score on rows that selected nothing, where it was selected or scored there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honest: Option<Honest>,
    /// Its checkpoint was chosen on dev rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Checkpoints>,
    /// Against the baseline, on the rows that both have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// A candidate of the board against the baseline, by the primary metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    pub candidate: String,
    pub n: usize,
    pub delta: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
    pub adjusted: Adjusted,
}

impl Against {
    /// By the adjusted p, at 0.05.
    pub fn is_significant(&self) -> bool {
        self.adjusted.p_value < 0.05
    }
}

impl BoardRow {
    /// Mean tokens per row, read and written; none where nobody counted them (results made elsewhere).
    pub fn tokens(&self) -> Option<String> {
        let known = self.tokens_in > 0.0 || self.tokens_out > 0.0;
        known.then(|| format!("{:.0}/{:.0}", self.tokens_in, self.tokens_out))
    }

    /// What the figures alone do not say: several runs behind one candidate, outcomes left out.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let [earlier @ .., last] = &self.runs[..]
            && !earlier.is_empty()
        {
            let (runs, earlier) = (self.runs.len(), earlier.join(", "));
            remarks.push(format!("{runs} runs of this same candidate: {last} counts, not {earlier}"));
        }
        if self.stale > 0 {
            let rows = if self.stale == 1 { "row" } else { "rows" };
            remarks
                .push(format!("{} {rows} changed since: left out until it is evaluated again", self.stale));
        }
        for (name, score) in &self.sets {
            if let Some(base) = score.base.as_ref().filter(|_| score.is_worse()) {
                remarks.push(format!(
                    "worse than the baseline on the set {name}: {} of {} right against {} (p = {})",
                    base.right,
                    base.n,
                    base.base_right,
                    p_value(base.p_value)
                ));
            }
        }
        remarks.extend(self.judges.iter().cloned());
        if let Some(Checkpoints { run, among }) = &self.checkpoints
            && *among > 1
        {
            remarks.push(format!(
                "{run} chose its checkpoint among {among} on dev rows: the eval rows had no part in that"
            ));
        }
        if let Some(honest) = &self.honest {
            let runs_here = (self.rung != IMPORTED).then_some(self.candidate.as_str());
            remarks.extend(honest.remarks(self.primary.as_deref().unwrap_or("score"), runs_here));
        }
        remarks
    }
}

/// Every candidate, on the eval part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Board {
    pub primary: String,
    pub metrics: Vec<String>,
    /// The workspace's own metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnMetric>,
    /// Rows of the eval part.
    pub eval_rows: usize,
    /// Oldest first. In a message: those that fit, or those that changed.
    pub rows: Vec<BoardRow>,
    /// How many candidates there are, `rows` may hold only some.
    #[serde(default)]
    pub total: usize,
    /// Of the engine's state: windows of one version are of one board.
    #[serde(default)]
    pub version: u64,
    /// What candidates are held against each other by, all at once: the primary metric, and of `latency_p95_ms` and `usd_per_1k` those that
    /// are known of any.
    #[serde(default)]
    pub axes: Vec<String>,
    #[serde(default)]
    pub ladder: Ladder,
}

impl Board {
    /// Take in what changed: rows by their id, and all that is said of the whole.
    pub fn merge(&mut self, news: Self) {
        let mut places: HashMap<String, usize> =
            self.rows.iter().enumerate().map(|(at, row)| (row.id.clone(), at)).collect();
        let mut rows = std::mem::take(&mut self.rows);
        for row in news.rows {
            match places.get(&row.id).and_then(|at| rows.get_mut(*at)) {
                Some(known) => *known = row,
                None => {
                    places.insert(row.id.clone(), rows.len());
                    rows.push(row);
                }
            }
        }
        *self = Self { rows, ..news };
    }
}

impl BoardRow {
    /// Scored on enough of the eval part to be held against others: half of it. One right row of one is no quality of 1.
    pub fn counts(&self, eval_rows: usize) -> bool {
        self.n > 0 && self.n * 2 >= eval_rows
    }
}

impl Board {
    /// A metric of the registry or of the workspace.
    pub fn metric(&self, name: &str) -> Option<Metric> {
        Known { own: &self.own, primary: Some(&self.primary), ..Known::default() }.find(name).ok()
    }
}

/// One stratum's share in a comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StratumDelta {
    pub stratum: String,
    pub n: usize,
    pub a: f64,
    pub b: f64,
    pub fixed: usize,
    pub regressed: usize,
    #[serde(default)]
    pub churned: usize,
}

/// Rows of a comparison that do not stand alone: those of one group, or several samples of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clusters {
    pub clusters: usize,
    /// The field of `[data.split] group`, or `row` where only samples belong together.
    pub by: String,
}

/// The difference as it would be if each stratum had its share of the whole eval part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stratified {
    /// Strata that count; those with a single row are one together.
    pub strata: usize,
    /// Share of the eval part's rows that stand in a stratum with compared rows.
    pub covered: f64,
    pub delta: f64,
    /// Standard error of `delta`.
    pub se: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
}

/// A p-value among several.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adjusted {
    /// By Holm's method.
    pub p_value: f64,
    /// How many candidates were held against the same one.
    pub of: usize,
}

/// The prompts of a stage, where two candidates have different ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptChange {
    pub stage: String,
    /// Empty where A has no such stage.
    pub a: String,
    pub b: String,
}

/// Two candidates on the same rows at the same content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Names of A and B.
    pub candidates: [String; 2],
    pub metric: String,
    pub n: usize,
    /// The metric of A and of B over those rows.
    pub a: f64,
    pub b: f64,
    pub fixed: usize,
    pub regressed: usize,
    pub churned: usize,
    /// b - a
    pub delta: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
    /// `mcnemar_exact`, `paired_bootstrap`, and where rows belong together `clustered_mcnemar`, `cluster_bootstrap`.
    pub test: String,
    /// Further rows fixed (with none regressed) that would bring p below 0.05; 0 when it is.
    pub needed: usize,
    /// Standard error of `delta`; of clusters, where there are some.
    #[serde(default)]
    pub se: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Clusters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stratified: Option<Stratified>,
    /// Where this is one of several comparisons: what is to be called significant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjusted: Option<Adjusted>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<PromptChange>,
    /// B on the rows that once were fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<Kept>,
    pub strata: Vec<StratumDelta>,
    /// At most [`Comparison::MAX_FLIPS`], regressions first.
    pub flips: Vec<Flip>,
}

impl Comparison {
    pub const MAX_FLIPS: usize = 500;

    /// The p-value that decides: the adjusted one, where there are several comparisons.
    pub fn deciding_p(&self) -> f64 {
        self.adjusted.map_or(self.p_value, |adjusted| adjusted.p_value)
    }

    /// B differs from A by more than chance would have it, at 0.05.
    pub fn is_significant(&self) -> bool {
        self.deciding_p() < 0.05
    }

    /// The test's name for people.
    pub fn test_name(&self) -> &str {
        match self.test.as_str() {
            "mcnemar_exact" => "exact McNemar",
            "paired_bootstrap" => "paired bootstrap",
            "clustered_mcnemar" => "clustered McNemar",
            "cluster_bootstrap" => "cluster bootstrap",
            other => other,
        }
    }

    /// Every row is right or wrong, and nothing between.
    pub fn is_binary(&self) -> bool {
        matches!(self.test.as_str(), "mcnemar_exact" | "clustered_mcnemar")
    }
}

/// One slice of rows: a value of each metadata dimension x a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stratum {
    pub id: String,
    pub name: String,
    /// Value of each dimension.
    pub dimensions: BTreeMap<String, String>,
    pub rows: usize,
    pub terms: Vec<String>,
    /// Rows by part: train, dev, eval, reserve.
    pub parts: [usize; 4],
    /// Score of the baseline and of the best candidate on this stratum's eval rows, with the number of rows scored.
    pub base: Option<f64>,
    pub best: Option<f64>,
    pub scored: usize,
    /// The cluster's id.
    #[serde(default)]
    pub cluster: String,
}

/// All strata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StrataView {
    pub rows: usize,
    pub quarantined: usize,
    pub clusters: usize,
    pub outliers: usize,
    pub near_duplicates: usize,
    pub dimensions: Vec<String>,
    pub strata: Vec<Stratum>,
    /// Names of the candidates behind `base` and `best`.
    pub base: Option<String>,
    pub best: Option<String>,
    /// Two coordinates per point in -1..1 and the stratum's place in `strata`: a sample of the map.
    pub map: Vec<(f32, f32, usize)>,
    /// What people decided about the strata, and what became of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_hand: Vec<ActTold>,
}
