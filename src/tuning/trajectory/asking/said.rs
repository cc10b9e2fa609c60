//! What came of a question: the answer, whether it is right, what it took.

use serde::{Deserialize, Serialize};

use super::Given;
use crate::domain::candidate::{Candidate, ModelRef, ModelSource};
use crate::domain::example::Form;
use crate::domain::judge::Effort;
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;
use crate::domain::trajectory::Match;
use crate::pipeline::Answered;
use crate::score::scorer::Scorer;

/// A row, and what is shown at its stages.
#[derive(Clone, Debug)]
pub struct Question<'r> {
    pub row: &'r RunRow,
    pub given: Given,
    pub form: Form,
}

/// What came of a question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    pub(super) key: String,
    pub output: String,
    pub right: bool,
    /// There is no answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) failed: bool,
    /// Outputs of the stages that ran, by name.
    pub stages: Vec<(String, String)>,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub ms: f64,
    /// Answers of models that it took, retries included, and how many more came from the response cache.
    pub calls: u64,
    pub cached: u64,
    /// Of the calls, those that answers of endpoints count.
    #[serde(skip)]
    pub(super) sent: u64,
    /// Dollars, of what did not come from there.
    pub usd: f64,
    /// What the judge took, where one was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) judging: Option<Effort>,
}

/// What says whether an answer is gold.
pub(super) struct Rule {
    pub(super) scorer: Scorer,
    pub(super) matches: Match,
    pub(super) match_at: f64,
    pub(super) tolerance: f64,
}

impl Rule {
    /// What came of a question; `ms` is its time.
    pub(super) fn told(
        &self,
        candidate: &Candidate,
        key: String,
        row: &RunRow,
        answered: Answered,
        ms: f64,
    ) -> Said {
        let mut outcome = Outcome {
            row: row.id.clone(),
            row_hash: row.hash.clone(),
            part: row.part,
            output: answered.output,
            gold: row.gold.clone(),
            stages: answered.stages,
            error: answered.error,
            ..Outcome::default()
        };
        let (mut calls, mut cached, mut sent, mut usd) = (0, 0, 0, 0.0);
        for ran in outcome.stages.iter().filter(|s| !s.skipped) {
            let all = 1 + u64::from(ran.retries);
            let free = u64::from(ran.cached).min(all);
            calls += all - free;
            cached += free;
            if let Some(stage) = candidate.stages.iter().find(|s| s.name == ran.stage) {
                if matches!(stage.model.source, ModelSource::Endpoint { .. }) {
                    sent += all - free;
                }
                let full = price(&stage.model, ran.tokens_in, ran.tokens_out, ran.ms);
                usd += full * (all - free) as f64 / all as f64;
            }
        }
        self.scorer.fill(&mut outcome, answered.kind, Some(row));
        let gold = row.gold.as_deref().unwrap_or_default();
        let alike = match self.matches {
            Match::Metric | Match::Judge => false,
            Match::Similarity => {
                strsim::normalized_levenshtein(outcome.output.trim(), gold.trim()) >= self.match_at
            }
            Match::Numeric => numbers_agree(&outcome.output, gold, self.tolerance),
        };
        Said {
            key,
            right: outcome.error.is_none() && (outcome.correct == Some(true) || alike),
            tokens_in: outcome.tokens_in(),
            tokens_out: outcome.tokens_out(),
            stages: outcome
                .stages
                .iter()
                .filter(|s| !s.skipped)
                .map(|s| (s.stage.clone(), s.output.clone()))
                .collect(),
            failed: outcome.error.is_some(),
            output: outcome.output,
            ms,
            calls,
            cached,
            sent,
            usd,
            judging: None,
        }
    }
}

/// Dollars of an answer.
fn price(model: &ModelRef, tokens_in: u64, tokens_out: u64, ms: f64) -> f64 {
    let tokens = tokens_in as f64 * model.usd_per_million_input.unwrap_or(0.0)
        + tokens_out as f64 * model.usd_per_million_output.unwrap_or(0.0);
    tokens / 1e6 + model.usd_per_hour.unwrap_or(0.0) * ms / 3_600_000.0
}

/// Everything that decides the answer.
pub(super) fn key(candidate: &Candidate, question: &Question<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(&candidate.id());
    part(&question.row.id);
    part(&question.row.hash);
    for given in &question.given {
        part(if given.is_empty() { "" } else { question.form.name() });
        for example in given {
            part(&example.id);
        }
        part("\n");
    }
    hasher.finalize().to_hex().as_str()[..24].to_owned()
}

/// Numbers in a text: digits with a point, a sign, and commas between thousands.
fn numbers(text: &str) -> Vec<f64> {
    let inside = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-');
    text.split(|c: char| !inside(c))
        .filter_map(|word| {
            let plain = word.trim_matches(['.', ',']).replace(',', "");
            plain.parse::<f64>().ok().filter(|n| n.is_finite())
        })
        .collect()
}

/// Every number of the gold stands in the answer, within a share of it. A gold without numbers agrees with nothing.
fn numbers_agree(answer: &str, gold: &str, tolerance: f64) -> bool {
    let (answer, gold) = (numbers(answer), numbers(gold));
    let near = |want: f64| answer.iter().any(|got| (got - want).abs() <= tolerance * want.abs().max(1e-12));
    !gold.is_empty() && gold.into_iter().all(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_agree_within_the_tolerance_and_nothing_agrees_without_figures() {
        assert!(numbers_agree("about 1,009 EUR in 3 days.", "1000 in 3", 0.01));
        assert!(!numbers_agree("1011 in 3", "1000 in 3", 0.01));
        assert!(!numbers_agree("3", "3 and 4", 0.01));
        assert!(!numbers_agree("many", "many", 0.5));
        assert_eq!(numbers("-2.5, 1,000,000. x7"), [-2.5, 1e6, 7.0]);
    }
}
