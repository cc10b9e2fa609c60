//! Where new versions come from. Each proposer names its source.

mod critic;
mod edits;
mod examples;
mod labels;
mod merge;
mod wording;

use std::collections::BTreeMap;

use super::clauses::Clauses;
use super::examiner::{Examiner, Halt};
use super::facts::Facts;
use super::memory::Memory;
use super::{Node, Texts};
use crate::domain::candidate::StageCandidate;
use crate::domain::prompt::PromptSettings;
use crate::domain::rng::SplitMix64;
use crate::domain::row::RunRow;

/// What proposers see.
pub struct Scene<'a> {
    pub settings: &'a PromptSettings,
    /// The whole pipeline as the run started.
    pub stages: &'a [StageCandidate],
    /// Names of the stages that are tuned.
    pub tuned: &'a [String],
    pub rows: &'a [RunRow],
    /// Rows that nothing is scored on: examples are drawn from them, and instructions induced.
    pub learn: &'a [usize],
    pub facts: &'a BTreeMap<String, Facts>,
    pub nodes: &'a [Node],
    /// Drawn from the front, the likeliest more often.
    pub parents: &'a [usize],
    pub memory: &'a Memory,
    /// Pinned words by stage.
    pub pins: &'a BTreeMap<String, Vec<String>>,
    /// What people said in mid-run.
    pub hints: &'a [String],
}

impl Scene<'_> {
    /// The parent and the stage of the `i`-th proposal.
    pub fn turn(&self, i: usize) -> Option<(usize, &str)> {
        let parent = *self.parents.get(i % self.parents.len().max(1))?;
        Some((parent, self.tuned.get(i % self.tuned.len().max(1))?))
    }

    pub fn stage(&self, name: &str) -> Option<&StageCandidate> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    pub fn clauses(&self, parent: usize, stage: &str) -> Option<Clauses> {
        let text = self.nodes.get(parent)?.texts.get(stage)?;
        Some(Clauses::parse(text, self.pins.get(stage).map_or(&[], Vec::as_slice)))
    }

    /// A proposal that changes one stage of a parent.
    pub fn draft(&self, parent: usize, stage: &str, text: String, edit: String) -> Option<Draft> {
        let mut texts = self.nodes.get(parent)?.texts.clone();
        texts.insert(stage.to_owned(), text);
        let edit = if self.tuned.len() > 1 { format!("{stage}: {edit}") } else { edit };
        Some(Draft { texts, parents: vec![parent], edit })
    }

    /// Rows on which a version is wrong, in the order of their places.
    pub fn failures(&self, node: usize) -> Vec<usize> {
        let marks = self.nodes.get(node).map(|node| &node.marks);
        marks.into_iter().flatten().filter(|(_, mark)| mark.score < 1.0).map(|(row, _)| *row).collect()
    }
}

/// A proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub texts: Texts,
    /// Places of the nodes that it was made of; the first is what it is compared with.
    pub parents: Vec<usize>,
    /// What was changed, in words.
    pub edit: String,
}

pub trait Proposer {
    /// As it stands in the history.
    fn name(&self) -> &'static str;

    /// It asks the critic.
    fn needs_critic(&self) -> bool {
        false
    }

    /// How many ideas it has for a stage from the start, which cost nothing: they are screened on a few rows before the first race.
    fn stock(&self) -> usize {
        0
    }

    /// About `n` proposals; fewer where it has no more ideas. Whether they are allowed is for others to say.
    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        examiner: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt>;
}

/// All of them, those without a model first.
pub fn all() -> Vec<Box<dyn Proposer>> {
    vec![
        Box::new(wording::Wording::default()),
        Box::new(edits::Edits),
        Box::new(labels::Labels),
        Box::new(examples::Examples),
        Box::new(merge::Merge),
        Box::new(critic::REFLECTION),
        Box::new(critic::HISTORY),
        Box::new(critic::INDUCTION),
    ]
}

/// Shares of a fan-out: a place each where there are so many, the rest by how often a proposer's versions survived so far
/// (`(1 + 2 wins) / (1 + tries)`).
pub fn shares(fan_out: usize, records: &[(usize, usize)]) -> Vec<usize> {
    let worth: Vec<f64> =
        records.iter().map(|(tries, wins)| (1.0 + 2.0 * *wins as f64) / (1.0 + *tries as f64)).collect();
    let mut shares = vec![0; records.len()];
    for given in 0..fan_out {
        // Sainte-Laguë: the next place goes where worth / (2 share + 1) is largest; everybody's first comes before a second.
        let next = (0..records.len()).max_by(|&a, &b| {
            let claim = |i: usize| {
                let first = given < records.len() && shares[i] == 0;
                worth[i] / (2 * shares[i] + 1) as f64 + if first { 1e6 } else { 0.0 }
            };
            claim(a).total_cmp(&claim(b)).then(b.cmp(&a))
        });
        if let Some(next) = next {
            shares[next] += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_place_and_who_wins_gets_more() {
        assert_eq!(shares(8, &[(0, 0); 4]), [2, 2, 2, 2]);
        let got = shares(16, &[(4, 4), (4, 0), (4, 0)]);
        assert!(got[0] > 10 && got[1] >= 1 && got[2] >= 1 && got.iter().sum::<usize>() == 16, "{got:?}");
        assert_eq!(shares(2, &[(0, 0); 4]).iter().sum::<usize>(), 2);
    }
}
