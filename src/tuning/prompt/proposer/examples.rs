//! Examples from rows that nothing is scored on, together with the parent's instructions.
//!
//! MIPRO: Opsahl-Ong et al. 2024, "Optimizing Instructions and Demonstrations for Multi-Stage Language Model Programs": demonstrations and
//! instructions are searched together. Golden answers are the labels; sets are drawn anew for each proposal, and the race chooses.

use super::{Draft, Examiner, Halt, Proposer, Scene};
use crate::domain::rng::SplitMix64;
use crate::tuning::prompt::clauses::Block;

/// Longer rows make no example, in characters.
const LONGEST: usize = 600;
/// Rows that are looked at for one example.
const TRIES: usize = 40;

#[derive(Debug)]
pub struct Examples;

impl Proposer for Examples {
    fn name(&self) -> &'static str {
        "examples"
    }

    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        _: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let mut drafts = Vec::new();
        if scene.settings.few_shot == 0 || scene.learn.is_empty() {
            return Ok(drafts);
        }
        for i in 0..n {
            let Some((parent, stage)) = scene.turn(i) else { break };
            let (Some(mut clauses), Some(facts)) = (scene.clauses(parent, stage), scene.facts.get(stage))
            else {
                continue;
            };
            if i % 4 == 3 && clauses.has_block(Block::Examples) {
                clauses.set_block(Block::Examples, None);
                drafts.extend(scene.draft(parent, stage, clauses.text(), "without examples".into()));
                continue;
            }
            let wanted = 1 + rng.below(scene.settings.few_shot);
            let mut shown: Vec<(usize, &str)> = Vec::new();
            for _ in 0..wanted * TRIES {
                if shown.len() == wanted {
                    break;
                }
                let row = scene.learn[rng.below(scene.learn.len())];
                let (Some(gold), Some(input)) = (facts.gold.get(&row), scene.rows.get(row).map(|r| &r.input))
                else {
                    continue;
                };
                let plain = |text: &str| !["{{", "{%", "{#", "#}"].iter().any(|tag| text.contains(tag));
                let fits = input.chars().count() <= LONGEST && plain(input) && plain(gold);
                // Each another answer, as long as there are some.
                let new = shown.iter().all(|(other, said)| {
                    *other != row && (*said != gold.as_str() || shown.len() >= facts.labels.len())
                });
                if fits && new {
                    shown.push((row, gold));
                }
            }
            if shown.is_empty() {
                continue;
            }
            let lines: Vec<String> = shown
                .iter()
                .filter_map(|(row, gold)| {
                    Some(format!("Input: {}\nAnswer: {gold}", scene.rows.get(*row)?.input.trim()))
                })
                .collect();
            clauses.set_block(Block::Examples, Some(&lines.join("\n\n")));
            let edit = format!("shows {}", crate::domain::words::counted(shown.len(), "example"));
            drafts.extend(scene.draft(parent, stage, clauses.text(), edit));
        }
        Ok(drafts)
    }
}
