//! The end: who is the final, what it gains on rows that chose nothing, and all that was tried.

use std::collections::BTreeMap;

use super::Climb;
use crate::domain::event::EventBody;
use crate::domain::prompt::{Fate, PromptGain, PromptHistory, PromptNews, PromptVersion};
use crate::score::{bootstrap, stats};
use crate::tuning::prompt::examiner::{Examiner, Halt};
use crate::tuning::prompt::guards::Copies;

/// Version of the history's format.
const FORMAT: u32 = 1;
/// Rows of the last comparison that are asked at once, where there is a budget of calls.
const COMPARED: usize = 16;

impl Climb<'_> {
    /// Mean gain over the start on the version's fresh rows, drawn towards 0 as by half a block of rows without any: who
    /// had few rows should not win by luck.
    pub(super) fn fresh_gain(&self, node: usize) -> f64 {
        let rows = &self.nodes[node].fresh;
        let of = |node: usize, row: &usize| self.nodes[node].marks.get(row).map(|mark| mark.score);
        let gains: Vec<f64> = rows.iter().filter_map(|row| Some(of(node, row)? - of(0, row)?)).collect();
        gains.iter().sum::<f64>() / (gains.len() as f64 + self.plan.select.len() as f64 / 2.0)
    }

    /// The best on fresh rows against the start, on rows that chose nothing. Returns the place of the answer.
    pub fn conclude(&mut self, examiner: &mut dyn Examiner) -> Result<usize, Halt> {
        let scored = (1..self.nodes.len())
            .filter(|&node| !self.nodes[node].fresh.is_empty() && self.keeps_late_pins(node));
        let best = scored
            .max_by(|a, b| self.fresh_gain(*a).total_cmp(&self.fresh_gain(*b)).then(b.cmp(a)))
            .filter(|&node| self.fresh_gain(node) > 0.0);
        let mut gain = PromptGain { start_stays: true, ..PromptGain::default() };
        let mut answer = 0;
        if let Some(node) = best {
            let claim = self.compare(node, examiner)?;
            gain = self.gain(node, &claim);
            if gain.delta > 0.0 {
                answer = node;
                gain.start_stays = false;
            }
        }
        self.finish(answer, gain, examiner)?;
        Ok(answer)
    }

    /// Asks the start and a version for the rows of the last comparison, in turn: where the budget ends before the rows do (calls that had to be
    /// repeated took what was kept for it), both are known on the same ones. Returns the rows.
    pub(in crate::tuning::prompt) fn compare(
        &mut self,
        node: usize,
        examiner: &mut dyn Examiner,
    ) -> Result<Vec<usize>, Halt> {
        let claim = self.plan.claim.clone();
        let size = if self.budget.calls.is_some() { COMPARED } else { claim.len().max(1) };
        let open = self.unknown(0, &claim) + self.unknown(node, &claim);
        examiner.begin("the last comparison".to_owned(), open);
        for rows in claim.chunks(size) {
            match self.ask(0, rows, examiner).and_then(|()| self.ask(node, rows, examiner)) {
                Err(Halt::Budget(what)) => {
                    let has =
                        |row: &usize| [0, node].iter().all(|at| self.nodes[*at].marks.contains_key(row));
                    let known: Vec<usize> = claim.iter().copied().filter(has).collect();
                    let message = format!(
                        "the budget of {what} ended in the last comparison: it has {} of {} rows",
                        known.len(),
                        claim.len()
                    );
                    examiner.say(EventBody::Warning { message })?;
                    return Ok(known);
                }
                done => done?,
            }
        }
        Ok(claim)
    }

    /// The last word.
    pub(in crate::tuning::prompt) fn finish(
        &mut self,
        answer: usize,
        gain: PromptGain,
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        self.nodes[answer].version.fate = Fate::Final;
        self.gain = Some(gain.clone());
        let (budget, spend) = (self.budget, examiner.spend());
        examiner.tell(PromptNews::Gain { gain, budget, spend })?;
        examiner.keep(&self.history(examiner))
    }

    /// Scores of two versions on the rows that both were asked.
    pub(in crate::tuning::prompt) fn pairs(&self, a: usize, b: usize, rows: &[usize]) -> Vec<(f64, f64)> {
        let of = |node: usize, row: &usize| self.nodes.get(node)?.marks.get(row).map(|mark| mark.score);
        rows.iter().filter_map(|row| Some((of(a, row)?, of(b, row)?))).collect()
    }

    pub(in crate::tuning::prompt) fn gain(&self, node: usize, rows: &[usize]) -> PromptGain {
        let version = &self.nodes[node].version;
        let pairs = |rows: &[usize]| -> Vec<(f64, f64)> {
            let of = |node: usize, row: &usize| self.nodes[node].marks.get(row).map(|mark| mark.score);
            rows.iter().filter_map(|row| Some((of(0, row)?, of(node, row)?))).collect()
        };
        let all = pairs(rows);
        let (delta, ci95, p_value, fixed, regressed) = compared(&all, self.settings.seed);
        let mean = |pick: fn(&(f64, f64)) -> f64| all.iter().map(pick).sum::<f64>() / all.len().max(1) as f64;
        let copies = Copies::new(&self.nodes[node].texts);
        let (copied, other): (Vec<usize>, Vec<usize>) =
            rows.iter().partition(|at| self.rows.get(**at).is_some_and(|row| copies.has(&row.input)));
        let without_copied = (!copied.is_empty()).then(|| {
            let (delta, ci95, ..) = compared(&pairs(&other), self.settings.seed);
            (delta, ci95)
        });
        PromptGain {
            version: version.id.clone(),
            n: all.len(),
            start: mean(|pair| pair.0),
            tuned: mean(|pair| pair.1),
            delta,
            ci95,
            p_value,
            fixed,
            regressed,
            selected: version.selected.unwrap_or_default(),
            fresh: version.fresh.unwrap_or_default(),
            copied: copied.len(),
            without_copied,
            start_stays: true,
            tokens: Some([self.tokens(0, rows), self.tokens(node, rows)]),
            economy: false,
        }
    }

    pub fn reported(&self) -> Option<&PromptGain> {
        self.gain.as_ref()
    }

    /// Everything that was tried.
    pub(in crate::tuning::prompt) fn history(&self, examiner: &dyn Examiner) -> PromptHistory {
        PromptHistory {
            format: FORMAT,
            metric: self.metric.clone(),
            versions: (0..self.nodes.len()).map(|node| self.described(node)).collect(),
            lessons: self.memory.lessons.clone(),
            spend: examiner.spend(),
            gain: self.gain.clone(),
            ..PromptHistory::default()
        }
    }

    fn described(&self, at: usize) -> PromptVersion {
        let node = &self.nodes[at];
        let mut version = PromptVersion { prompts: node.texts.clone(), ..node.version.clone() };
        let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
        for (name, value) in node.marks.values().flat_map(|mark| &mark.metrics) {
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
        version.metrics =
            sums.into_iter().map(|(name, (sum, n))| (name.to_owned(), sum / n as f64)).collect();
        if let Some(parent) = node.parent.and_then(|parent| self.nodes.get(parent)) {
            for (row, mark) in &node.marks {
                let (Some(before), Some(data)) = (parent.marks.get(row), self.rows.get(*row)) else {
                    continue;
                };
                if mark.score > before.score {
                    version.fixed.push(data.id.clone());
                } else if mark.score < before.score {
                    version.broken.push(data.id.clone());
                }
            }
        }
        version
    }
}

/// Difference of the means with interval and p-value, and rows up and down: Tango's interval and McNemar's exact test where all
/// scores are 0 or 1, else the bootstrap's.
pub fn compared(pairs: &[(f64, f64)], seed: u64) -> (f64, [f64; 2], f64, usize, usize) {
    let fixed = pairs.iter().filter(|(a, b)| b > a).count();
    let regressed = pairs.iter().filter(|(a, b)| b < a).count();
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let delta = differences.iter().sum::<f64>() / pairs.len().max(1) as f64;
    let binary = pairs.iter().all(|(a, b)| [a, b].iter().all(|s| **s == 0.0 || **s == 1.0));
    if binary {
        let ci95 = stats::paired_difference(fixed, regressed, pairs.len());
        return (delta, ci95, stats::mcnemar_exact(fixed, regressed), fixed, regressed);
    }
    let boot = bootstrap::mean(&differences, bootstrap::ROUNDS, seed);
    (delta, boot.ci95, boot.p_value, fixed, regressed)
}
