//! Prompt tuning: its settings, the versions of prompts that it tries, and what it tells on the way.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::settings::Budget;
use super::words::{counted, duration};

/// `[tuning.prompt]`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSettings {
    /// New versions per epoch.
    pub fan_out: usize,
    pub epochs: usize,
    /// Versions that go on to the next epoch.
    pub survivors: usize,
    /// Rows of a race, and fresh rows of an epoch.
    pub rows: usize,
    /// Name of a model; none: edits that need no model.
    pub critic: Option<String>,
    /// Stages to tune; empty: all.
    pub stages: Vec<String>,
    /// Most examples that a prompt may be given; 0: none.
    pub few_shot: usize,
    /// Words that must stay where they stand in a prompt.
    pub pins: Vec<String>,
    /// Longest prompt template, in characters.
    pub max_chars: usize,
    /// Most US dollars per 1,000 rows that a version may cost, by the models' prices.
    pub max_usd_per_1k: Option<f64>,
    pub budget: Budget,
    pub seed: u64,
    #[serde(skip_serializing_if = "PromptTask::is_climb")]
    pub task: PromptTask,
}

impl Default for PromptSettings {
    fn default() -> Self {
        Self {
            fan_out: 16,
            epochs: 5,
            survivors: 4,
            rows: 40,
            critic: None,
            stages: Vec::new(),
            few_shot: 4,
            pins: Vec::new(),
            max_chars: 8_000,
            max_usd_per_1k: None,
            budget: Budget::default(),
            seed: 7,
            task: PromptTask::Climb,
        }
    }
}

/// What a prompt run is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptTask {
    /// Find better prompts.
    #[default]
    Climb,
    /// Say which clause fixed and broke which rows.
    Clauses,
    /// The same score for fewer tokens.
    Economy,
}

impl PromptTask {
    pub const ALL: [(&'static str, Self); 3] =
        [("climb", Self::Climb), ("clauses", Self::Clauses), ("economy", Self::Economy)];

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_climb(&self) -> bool {
        *self == Self::Climb
    }
}

/// What a clause of a prompt did, against the prompt without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClauseEffect {
    pub stage: String,
    pub words: String,
    /// Mean score with it, less that without, and its 95% interval.
    pub delta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// Tokens of a row's prompts that it takes.
    pub tokens: f64,
    /// Rows that are right (or better) with it only, and without it only.
    pub fixed: Vec<String>,
    pub broken: Vec<String>,
}

/// `artifacts/clauses.json`: every clause of a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClauseReport {
    pub rows: usize,
    pub score: f64,
    pub clauses: Vec<ClauseEffect>,
}

impl ClauseReport {
    /// Rows of a clause that an event tells.
    const ROWS_TOLD: usize = 50;

    /// For an event.
    pub fn short(&self) -> Self {
        let cut = |rows: &[String]| rows.iter().take(Self::ROWS_TOLD).cloned().collect();
        let clauses = self.clauses.iter().map(|c| ClauseEffect {
            fixed: cut(&c.fixed),
            broken: cut(&c.broken),
            words: c.words.chars().take(400).collect(),
            ..c.clone()
        });
        Self { clauses: clauses.collect(), ..*self }
    }

    /// The most useful first.
    pub fn sorted(&self) -> Vec<&ClauseEffect> {
        let mut all: Vec<&ClauseEffect> = self.clauses.iter().collect();
        all.sort_by(|a, b| b.delta.total_cmp(&a.delta).then(b.fixed.len().cmp(&a.fixed.len())));
        all
    }
}

/// What was spent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spend {
    /// Answers that were worked for; the cached ones stand apart.
    pub calls: u64,
    pub cached: u64,
    pub tokens: u64,
    pub usd: f64,
    /// While the run worked: pauses are not counted.
    pub seconds: f64,
}

impl Spend {
    /// Against a budget: `1,204 of 4000 calls, ...`
    pub fn against(&self, budget: &Budget) -> String {
        let limit = |limit: Option<String>| limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let mut parts = vec![format!("{}{} calls", self.calls, limit(budget.calls.map(|n| n.to_string())))];
        if self.cached > 0 {
            parts.push(format!("{} cached", self.cached));
        }
        parts.push(format!("{}{} tokens", self.tokens, limit(budget.tokens.map(|n| n.to_string()))));
        if self.usd > 0.0 || budget.usd.is_some() {
            parts.push(format!("{:.4}{} USD", self.usd, limit(budget.usd.map(|usd| usd.to_string()))));
        }
        let took = duration((self.seconds * 1e3) as u64);
        parts.push(format!("{took}{}", limit(budget.seconds.map(|s| format!("{s} s")))));
        parts.join(", ")
    }
}

/// A mean over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub mean: f64,
    pub n: usize,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} (n={})", self.mean, self.n)
    }
}

/// What became of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// In its race, or not raced because the run ended before.
    #[default]
    Open,
    /// Left the race early.
    Dropped,
    /// Ran the whole race, and others were better.
    Beaten,
    /// Went on to the next epoch.
    Survived,
    /// Costs more than `max_usd_per_1k`.
    Dear,
    /// The answer of the run.
    Final,
}

impl Fate {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Dropped => "dropped",
            Self::Beaten => "beaten",
            Self::Survived => "survived",
            Self::Dear => "too dear",
            Self::Final => "final",
        }
    }
}

/// A node of the tree of versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptVersion {
    /// `v0` is what the run started from.
    pub id: String,
    /// Hash of its texts.
    pub hash: String,
    pub parents: Vec<String>,
    pub epoch: usize,
    pub proposer: String,
    /// What was changed, in words.
    pub edit: String,
    pub fate: Fate,
    /// On the rows of its last race: what chose it, hence too good for those that were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected: Option<Score>,
    /// On rows that were fresh when they were asked, and the start's on the same rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh: Option<Score>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_fresh: Option<Score>,
    /// Other per-row metrics on all its rows, stages' own among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// Rows of its races and fresh rows on which it is right and its first parent wrong, and the other way round.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixed: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
    /// Template by stage, of the stages that are tuned. Events leave them out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, String>,
}

/// What was learned of one edit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lesson {
    pub epoch: usize,
    pub version: String,
    pub proposer: String,
    pub edit: String,
    /// Against its parent on the same rows.
    pub gain: f64,
    pub n: usize,
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.3} on {}: {} ({})", self.gain, counted(self.n, "row"), self.edit, self.proposer)
    }
}

/// The last word of a run: its gain on rows that chose nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptGain {
    /// The best version against the start.
    pub version: String,
    pub n: usize,
    pub start: f64,
    pub tuned: f64,
    pub delta: f64,
    pub ci95: [f64; 2],
    pub p_value: f64,
    pub fixed: usize,
    pub regressed: usize,
    /// What the version scored on the rows that chose it.
    pub selected: Score,
    /// On fresh rows, by which the final was chosen.
    pub fresh: Score,
    /// Rows of these that stand in the prompt, and the gain without them.
    pub copied: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_copied: Option<(f64, [f64; 2])>,
    /// Nothing beat the start: it is the answer.
    pub start_stays: bool,
    /// Mean tokens of a row's prompts: the start's, and the version's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<[f64; 2]>,
    /// Fewer tokens were looked for, and no gain.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub economy: bool,
}

impl fmt::Display for PromptGain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.n == 0 && self.economy {
            return f.write_str("nothing could be left out without a loss; the start is the answer");
        }
        if self.n == 0 {
            return write!(f, "nothing beat the start on fresh rows; the start is the answer");
        }
        write!(
            f,
            "{} gains {:+.3} [{:+.3}, {:+.3}] over the start on {} that chose nothing ({:.3} against {:.3}; {} fixed, {} broken; p = {:.2e}); selected at {}, fresh {}",
            self.version,
            self.delta,
            self.ci95[0],
            self.ci95[1],
            counted(self.n, "row"),
            self.tuned,
            self.start,
            self.fixed,
            self.regressed,
            self.p_value,
            self.selected,
            self.fresh,
        )?;
        if let Some((delta, [low, high])) = self.without_copied {
            let rows = counted(self.copied, "row");
            write!(f, "; {delta:+.3} [{:+.3}, {:+.3}] without {rows} copied into the prompt", low, high)?;
        }
        if let Some([start, tuned]) = self.tokens.filter(|[start, _]| *start > 0.0) {
            write!(f, "; {start:.0} -> {tuned:.0} tokens a row ({:+.0}%)", 100.0 * (tuned / start - 1.0))?;
        }
        if self.economy {
            return f.write_str(if self.start_stays {
                "; the score does not hold: the start is the answer"
            } else {
                "; the score holds"
            });
        }
        if self.start_stays {
            f.write_str("; that beats nothing: the start is the answer")?;
        } else if self.ci95[0] <= 0.0 {
            f.write_str("; the interval reaches 0: this many rows do not show it")?;
        }
        Ok(())
    }
}

/// `artifacts/prompts.json`: the history of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptHistory {
    pub format: u32,
    pub metric: String,
    pub versions: Vec<PromptVersion>,
    pub lessons: Vec<Lesson>,
    pub spend: Spend,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<PromptGain>,
    /// Of versions made by hand: the one in the files when it was looked at last, and the one before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// A version in a race.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    pub version: String,
    pub score: Score,
    /// Still in the race.
    pub runs: bool,
}

/// A survivor at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub version: String,
    pub selected: Score,
    pub fresh: Score,
    /// The start's on the same rows.
    pub start: Score,
}

/// What a prompt run tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub enum PromptNews {
    /// A new version, without its texts.
    Version {
        version: PromptVersion,
    },
    /// After a round of a race: `rows` of `of` were asked.
    Race {
        epoch: usize,
        round: usize,
        rows: usize,
        of: usize,
        lanes: Vec<Lane>,
        #[serde(default)]
        budget: Budget,
        spend: Spend,
    },
    /// The survivors, the best first.
    Epoch {
        epoch: usize,
        epochs: usize,
        standings: Vec<Standing>,
        budget: Budget,
        spend: Spend,
    },
    Lesson {
        lesson: Lesson,
    },
    /// What every clause did.
    Clauses {
        report: ClauseReport,
    },
    Gain {
        gain: PromptGain,
        budget: Budget,
        spend: Spend,
    },
}

impl PromptNews {
    /// For people, on one line; none where a line each would be too many.
    pub fn line(&self) -> Option<String> {
        Some(match self {
            Self::Version { .. } => return None,
            Self::Race { epoch, round, rows, of, lanes, spend, .. } => {
                let running = lanes.iter().filter(|lane| lane.runs).count();
                let best = lanes
                    .iter()
                    .filter(|lane| lane.runs)
                    .max_by(|a, b| a.score.mean.total_cmp(&b.score.mean));
                let best =
                    best.map_or_else(String::new, |b| format!(", best {} {:.3}", b.version, b.score.mean));
                format!(
                    "epoch {epoch}, race, round {round}: {rows}/{of} rows, {running} of {} still in{best}; {} calls",
                    lanes.len(),
                    spend.calls
                )
            }
            Self::Epoch { epoch, epochs, standings, budget, spend } => {
                let best = standings.first().map_or_else(String::new, |s| {
                    format!(
                        "best {} fresh {} against the start's {:.3}, selected {:.3}",
                        s.version, s.fresh, s.start.mean, s.selected.mean
                    )
                });
                format!("epoch {epoch}/{epochs}: {best}; {}", spend.against(budget))
            }
            Self::Lesson { lesson } => format!("lesson: {lesson}"),
            Self::Clauses { report } => {
                let useless = report.clauses.iter().filter(|c| c.fixed.is_empty()).count();
                format!(
                    "{} on {}, which score {:.3}: {useless} fixed none",
                    counted(report.clauses.len(), "clause"),
                    counted(report.rows, "row"),
                    report.score
                )
            }
            Self::Gain { gain, budget, spend } => format!("{gain}; {}", spend.against(budget)),
        })
    }
}
