//! Two parents become one: stages from each, or clauses of the second put into the first.
//!
//! GEPA's system-aware merge: Agrawal et al. 2025, "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", section 3
//! (modules of two lineages combined), and crossover of clauses where only one stage is tuned.

use super::{Draft, Examiner, Halt, Proposer, Scene};
use crate::domain::rng::SplitMix64;
use crate::tuning::prompt::clauses::Block;

#[derive(Debug)]
pub struct Merge;

impl Proposer for Merge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        _: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let mut drafts = Vec::new();
        let mut parents: Vec<usize> = scene.parents.to_vec();
        parents.sort_unstable();
        parents.dedup();
        if parents.len() < 2 {
            return Ok(drafts);
        }
        for _ in 0..n {
            let a = parents[rng.below(parents.len())];
            let b = parents[rng.below(parents.len())];
            let (Some(first), Some(second)) = (scene.nodes.get(a), scene.nodes.get(b)) else { continue };
            if a == b {
                continue;
            }
            let mut texts = first.texts.clone();
            if scene.tuned.len() > 1 {
                // At least one stage from each.
                let from_second = 1 + rng.below(scene.tuned.len() - 1);
                let start = rng.below(scene.tuned.len());
                for k in 0..from_second {
                    let stage = &scene.tuned[(start + k) % scene.tuned.len()];
                    if let Some(text) = second.texts.get(stage) {
                        texts.insert(stage.clone(), text.clone());
                    }
                }
            } else if let Some(stage) = scene.tuned.first() {
                let (Some(mut base), Some(other)) = (scene.clauses(a, stage), scene.clauses(b, stage)) else {
                    continue;
                };
                let new: Vec<String> = other
                    .parts
                    .iter()
                    .map(|part| part.text().trim())
                    .filter(|words| !words.is_empty() && !base.text().contains(words))
                    .filter(|words| words.starts_with("{# ") || !words.contains('{'))
                    .map(str::to_owned)
                    .collect();
                let places = base.clauses();
                for words in new {
                    if let Some((block, inner)) = Block::of(&words) {
                        base.set_block(block, Some(inner));
                    } else if !places.is_empty() && rng.below(2) == 0 {
                        base.set_core(places[rng.below(places.len())], &words);
                    } else {
                        base.insert(base.input_at(), &words);
                    }
                }
                texts.insert(stage.clone(), base.text());
            }
            if texts == first.texts || texts == second.texts {
                continue;
            }
            let edit = format!("of {} and {}", first.version.id, second.version.id);
            drafts.push(Draft { texts, parents: vec![a, b], edit });
        }
        Ok(drafts)
    }
}
