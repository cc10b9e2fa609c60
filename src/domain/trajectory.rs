//! Trajectory tuning: its settings, and what a run leaves behind beside its store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::candidate::ModelRef;
use super::example::{Form, Order, Ranking, Retrieval};
use super::judge::Judge;
use super::settings::{BUILTIN, Budget};

/// When an answer counts as gold while examples are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// The primary metric says so.
    #[default]
    Metric,
    /// It differs in a few letters only (normalized Levenshtein similarity of `match_at` or more).
    Similarity,
    /// Every number of the gold stands in it, within `tolerance`.
    Numeric,
    /// A judge of the workspace says that it is right.
    Judge,
}

impl Match {
    pub const ALL: [(&'static str, Self); 4] = [
        ("metric", Self::Metric),
        ("similarity", Self::Similarity),
        ("numeric", Self::Numeric),
        ("judge", Self::Judge),
    ];
}

/// `[tuning.trajectory]`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrajectorySettings {
    /// Stages to find examples for; empty: all that can be.
    pub stages: Vec<String>,
    /// Strata, by name, of the train rows that are looked at; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strata: Vec<String>,
    /// Examples retrieved for each input; half and double are tried beside.
    pub shots: usize,
    /// Train rows that are looked at, spread over the strata.
    pub rows: usize,
    /// What turns texts into vectors: `builtin`, or a model's name.
    pub embedder: String,
    /// That model; filled in when a run is frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Box<ModelRef>>,
    pub ranking: Ranking,
    pub threshold: f32,
    pub diversity: f32,
    /// How much lift minus harm counts in the ranking, where that does no worse.
    pub lift_weight: f32,
    /// Tokens of the examples of a prompt, reckoned; 0: no limit.
    pub max_tokens: usize,
    pub order: Order,
    /// None: both are tried.
    pub form: Option<Form>,
    #[serde(rename = "match")]
    pub matches: Match,
    /// Likeness from which an answer counts as gold.
    pub match_at: f64,
    /// Share by which a number may differ.
    pub tolerance: f64,
    /// Dev rows that are measured on, at most.
    pub dev_rows: usize,
    pub budget: Budget,
    /// Who says what is right, where `match` asks a judge: the one that `[eval] judge` means, frozen at launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
}

impl Default for TrajectorySettings {
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            strata: Vec::new(),
            shots: 5,
            rows: 300,
            embedder: BUILTIN.into(),
            model: None,
            ranking: Ranking::Fused,
            threshold: 0.0,
            diversity: 0.0,
            lift_weight: 0.25,
            max_tokens: 0,
            order: Order::Last,
            form: None,
            matches: Match::Metric,
            match_at: 0.9,
            tolerance: 0.01,
            dev_rows: 400,
            budget: Budget::default(),
            judge: None,
        }
    }
}

impl TrajectorySettings {
    /// With so many examples, without figures of what they did.
    pub fn retrieval(&self, shots: usize, form: Form) -> Retrieval {
        Retrieval {
            shots,
            ranking: self.ranking,
            threshold: self.threshold,
            diversity: self.diversity,
            lift_weight: 0.0,
            max_tokens: self.max_tokens,
            order: self.order,
            form,
        }
    }
}

/// One way of using examples, measured on the dev part beside the same rows without any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// `found`: those that turned a wrong answer; `all`: every train row with gold; and ablations of these.
    pub store: String,
    pub shots: usize,
    pub rows: usize,
    pub right: usize,
    pub fixed: usize,
    pub broken: usize,
    /// Means per row.
    pub tokens_in: f64,
    pub ms: f64,
    /// Exact McNemar against the same rows without examples.
    pub p_value: f64,
    /// 95% interval of the difference to the same rows without examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// Rows that were shown an example which says nearly the same.
    pub near_duplicates: usize,
}

impl Measured {
    pub fn accuracy(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.right as f64 / self.rows as f64 }
    }

    /// The difference with its interval: `+0.465 [+0.380, +0.541]`.
    pub fn against(&self, without: &Self) -> String {
        let interval = self.ci95.map_or_else(String::new, |[low, high]| format!(" [{low:+.3}, {high:+.3}]"));
        format!("{:+.3}{interval}", self.accuracy() - without.accuracy())
    }
}

/// What was looked for on one wrong row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Search {
    pub row: String,
    pub wrong: String,
    pub gold: String,
    /// What the set that turned it was proposed as; none: nothing turned it.
    pub proposal: Option<String>,
    /// Sets that were tried, those of the minimization among them.
    pub tried: u32,
    /// Ids of the smallest set.
    pub set: Vec<String>,
    /// The proposals that were tried, in order, with whether they turned the answer.
    pub proposals: Vec<(String, bool)>,
}

/// What a run that looks for examples tells on its way. A run that is resumed tells all of it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub enum TrajectoryNews {
    /// After a round of the search.
    Searching(Searching),
    /// A way of using examples was measured, beside the same rows without any.
    Measured { measured: Measured, without: Measured, ablation: bool },
}

impl TrajectoryNews {
    /// For people, on one line.
    pub fn line(&self) -> String {
        match self {
            Self::Searching(s) => format!(
                "{} of {} wrong: {} turned, {} not; {} sets tried",
                s.wrong, s.looked_at, s.turned, s.failed, s.tried
            ),
            Self::Measured { measured: m, without, .. } => {
                format!("{} of {}: {:.3} ({})", m.shots, m.store, m.accuracy(), m.against(without))
            }
        }
    }
}

/// Where the search for examples stands: rows of the train part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Searching {
    pub looked_at: usize,
    /// Wrong without examples.
    pub wrong: usize,
    /// Of these, turned to gold.
    pub turned: usize,
    /// Nothing that was proposed turned them.
    pub failed: usize,
    /// Sets that were tried.
    pub tried: u64,
    pub calls: u64,
}

/// What screen 3 shows of a run beside its store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrajectoryView {
    pub run: String,
    /// The candidate without examples, and the one with the store as it stands.
    pub base: String,
    pub with: String,
    /// None until the run wrote it. Without its searches, which are told by the examples.
    pub report: Option<TrajectoryReport>,
    pub turned: usize,
    /// Every store there is: runs', and imported ones.
    pub stores: Vec<String>,
}

/// `artifacts/trajectory.json`: what a run found, tried and measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrajectoryReport {
    pub form: String,
    /// Train rows looked at, and of them wrong.
    pub looked_at: usize,
    pub wrong: usize,
    pub searches: Vec<Search>,
    /// The dev rows without examples.
    pub without: Measured,
    pub curve: Vec<Measured>,
    pub ablation: Vec<Measured>,
    /// What the candidate uses; none where examples do not help.
    pub chosen: Option<Measured>,
    /// Examples that were left out because they break more than they fix.
    pub harmful: Vec<String>,
    pub calls: u64,
    pub usd: Option<f64>,
    /// Answers of the end, by dev row: without and with.
    pub by_stratum: BTreeMap<String, (usize, usize, usize)>,
}
