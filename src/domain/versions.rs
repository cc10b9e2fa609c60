//! Versions of prompts as they are shown: the tree of a run, one version beside its parent, and what a version did when it was tried.

use serde::{Deserialize, Serialize};

use super::outcome::FlipKind;
use super::prompt::{Lesson, PromptGain, PromptVersion, Score};
use super::words::counted;

/// What people wrote and tried by hand stands beside the runs, under this name.
pub const HAND: &str = "hand";
/// Rows of a trial where nothing else is said, and at most.
pub const TRIAL_ROWS: usize = 24;
pub const TRIAL_ROWS_MAX: usize = 500;

/// The versions of a run, without their texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VersionTree {
    /// A prompt run, or [`HAND`]; empty where there are no versions at all.
    pub run: String,
    /// Every history there is, the newest first.
    pub runs: Vec<String>,
    pub metric: String,
    /// In the order in which they came.
    pub versions: Vec<Branch>,
    pub lessons: Vec<Lesson>,
    pub gain: Option<PromptGain>,
    /// Stages with the files of their prompts, as `workspace.toml` has them.
    pub files: Vec<(String, String)>,
}

/// A version in the tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// Without texts, rows and further metrics.
    pub version: PromptVersion,
    pub depth: usize,
    /// Rows fixed and broken against its parent.
    pub fixed: usize,
    pub broken: usize,
    pub tag: Option<String>,
    /// Its texts stand in the prompt files.
    pub current: bool,
}

/// One version with what it is compared with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FoundVersion {
    pub run: String,
    pub version: PromptVersion,
    pub parent: Option<PromptVersion>,
    pub tag: Option<String>,
    /// Rows that it fixed and broke, the broken ones first.
    pub rows: Vec<TriedRow>,
    /// Beyond those.
    pub more: usize,
}

impl FoundVersion {
    pub fn address(&self) -> String {
        format!("{}:{}", self.run, self.version.id)
    }
}

/// A row under two versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TriedRow {
    pub id: String,
    pub input: String,
    pub gold: Option<String>,
    /// The answer of the version before, where it is known.
    pub before: Option<String>,
    pub after: String,
    /// None: as good as before.
    pub flip: Option<FlipKind>,
    pub right: Option<bool>,
}

/// On which rows a version is tried. All of what is said must hold; rows of eval and of the reserve are never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slice {
    /// A stratum's id or name.
    pub stratum: Option<String>,
    /// Rows with this mark.
    pub mark: Option<String>,
    /// Rows on which the version before was wrong when it was tried.
    pub failing: bool,
    /// How many; 0: [`TRIAL_ROWS`].
    pub rows: usize,
}

impl Slice {
    pub fn words(&self) -> String {
        let rows = if self.rows == 0 { TRIAL_ROWS } else { self.rows };
        let mut words = counted(rows, if self.failing { "failing row" } else { "row" });
        if let Some(stratum) = &self.stratum {
            words.push_str(&format!(" of {stratum}"));
        }
        if let Some(mark) = &self.mark {
            words.push_str(&format!(" marked {mark}"));
        }
        words
    }
}

/// What came of trying the prompts as they stand in their files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    /// The version that was kept: an id of [`HAND`].
    pub version: String,
    /// What it is compared with; none: it is the first.
    pub before: Option<String>,
    pub slice: Slice,
    pub score: Score,
    pub before_score: Option<Score>,
    /// 95% interval of the difference between them.
    pub ci95: Option<[f64; 2]>,
    /// Flips first, then rows that are wrong, then the others.
    pub rows: Vec<TriedRow>,
    /// Rows that the slice holds in eval or the reserve, and that were left out.
    pub left_out: usize,
    /// Answers that were asked for; the others were known.
    pub asked: usize,
    /// Rows that failed, and why the first did.
    pub failed: usize,
    pub error: Option<String>,
    /// Mean tokens that a row's prompts take, and took before.
    pub tokens: f64,
    pub before_tokens: Option<f64>,
    pub ms: u64,
}

impl Trial {
    pub fn count(&self, kind: FlipKind) -> usize {
        self.rows.iter().filter(|row| row.flip == Some(kind)).count()
    }

    /// `hand:v3: 0.750 (n=24), v2 had 0.667, +0.083 [-0.096, +0.257]: 3 fixed, 1 broken, 20 as before`
    pub fn line(&self) -> String {
        let mut line = format!("{HAND}:{}: {}", self.version, self.score);
        match (&self.before, self.before_score) {
            (Some(before), Some(score)) => {
                let (fixed, broken) = (self.count(FlipKind::Fixed), self.count(FlipKind::Regressed));
                let same = self.score.n.saturating_sub(fixed + broken);
                let interval =
                    self.ci95.map_or_else(String::new, |[low, high]| format!(" [{low:+.3}, {high:+.3}]"));
                line.push_str(&format!(
                    ", {before} had {:.3}, {:+.3}{interval}: {fixed} fixed, {broken} broken, {same} as before",
                    score.mean,
                    self.score.mean - score.mean
                ));
            }
            _ => line.push_str(", the first of its kind"),
        }
        if let Some(before) = self.before_tokens.filter(|before| (before - self.tokens).abs() >= 0.5) {
            line.push_str(&format!("; {before:.0} -> {:.0} tokens a row", self.tokens));
        }
        if self.failed > 0 {
            let why = self.error.as_deref().unwrap_or_default();
            line.push_str(&format!("; {} failed: {why}", counted(self.failed, "row")));
        }
        line
    }
}
