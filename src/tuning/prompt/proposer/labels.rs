//! The labels told to the model: as a list, with the terms that go with each, or only those that are confused.
//!
//! Terms are each label's heaviest by c-TF-IDF, as the names of strata are ([`crate::strata::naming`]); the confused labels those of the
//! parent's wrong answers. Descriptions of classes in prompts without a model: after the verbalizers of PET (Schick and Schütze 2020).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Draft, Examiner, Halt, Proposer, Scene};
use crate::domain::candidate::OutputKind;
use crate::domain::rng::SplitMix64;
use crate::tuning::prompt::clauses::Block;

/// Terms of a label.
const TERMS: usize = 6;
/// Labels that are told apart.
const CONFUSED: usize = 4;

#[derive(Debug)]
pub struct Labels;

impl Proposer for Labels {
    fn name(&self) -> &'static str {
        "labels"
    }

    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        _: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let mut drafts = Vec::new();
        let first = rng.below(4);
        for i in 0..n {
            let Some((parent, stage)) = scene.turn(i) else { break };
            let (Some(mut clauses), Some(spec)) = (scene.clauses(parent, stage), scene.stage(stage)) else {
                continue;
            };
            let Some(facts) = scene.facts.get(stage).filter(|_| spec.output == OutputKind::Label) else {
                continue;
            };
            let described = |label: &String| {
                let terms: Vec<&str> =
                    facts.terms.get(label)?.iter().take(TERMS).map(String::as_str).collect();
                (!terms.is_empty()).then(|| format!("- {label}: {}", terms.join(", ")))
            };
            let (text, edit) = match (first + i / scene.tuned.len().max(1)) % 4 {
                0 => {
                    (Some(format!("The answer is one of: {}.", facts.labels.join(", "))), "lists the labels")
                }
                1 => {
                    let lines: Vec<String> = facts.labels.iter().filter_map(described).collect();
                    ((!lines.is_empty()).then(|| lines.join("\n")), "describes each label by its terms")
                }
                2 => (confused(scene, parent, stage, &described), "describes the labels that are confused"),
                _ if clauses.has_block(Block::Labels) => (None, "no longer tells the labels"),
                _ => {
                    let mut text = String::from("Labels:");
                    for label in &facts.labels {
                        let _ = write!(text, "\n- {label}");
                    }
                    (Some(text), "lists the labels, one a line")
                }
            };
            if text.is_none() && !clauses.has_block(Block::Labels) {
                continue;
            }
            clauses.set_block(Block::Labels, text.as_deref());
            drafts.extend(scene.draft(parent, stage, clauses.text(), edit.to_owned()));
        }
        Ok(drafts)
    }
}

/// The labels of the parent's commonest confusions.
fn confused(
    scene: &Scene<'_>,
    parent: usize,
    stage: &str,
    described: &dyn Fn(&String) -> Option<String>,
) -> Option<String> {
    let facts = scene.facts.get(stage)?;
    let node = scene.nodes.get(parent)?;
    let mut pairs = BTreeMap::<(String, String), usize>::new();
    for (row, mark) in &node.marks {
        let (Some(gold), Some(said)) = (facts.gold.get(row), mark.output_of(stage)) else { continue };
        if gold != said && facts.labels.iter().any(|label| label == said) {
            *pairs.entry((gold.clone(), said.to_owned())).or_default() += 1;
        }
    }
    let mut sorted: Vec<_> = pairs.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut labels: Vec<String> = Vec::new();
    for ((gold, said), _) in sorted {
        for label in [gold, said] {
            if !labels.contains(&label) && labels.len() < CONFUSED {
                labels.push(label);
            }
        }
    }
    let lines: Vec<String> = labels.iter().filter_map(described).collect();
    (!lines.is_empty()).then(|| format!("Do not mix these up:\n{}", lines.join("\n")))
}
