//! Other instructions for the same question, from a list: what the answer is called and how it is asked for.
//!
//! Instruction search over a fixed set of phrasings, without a model (as the templates of PromptSource: Bach et al. 2022, "PromptSource: An
//! Integrated Development Environment and Repository for Natural Language Prompts"; the choice by score is APE's, Zhou et al. 2022). A model
//! may know a task by one name and not by another.

use super::{Draft, Examiner, Halt, Proposer, Scene};
use crate::domain::candidate::OutputKind;
use crate::domain::rng::SplitMix64;

/// What the answer may be called, where it is a label.
const NOUNS: [&str; 16] = [
    "category",
    "topic",
    "intent",
    "class",
    "subject",
    "problem",
    "label",
    "type",
    "issue",
    "theme",
    "department",
    "group",
    "reason",
    "product",
    "sentiment",
    "team",
];

/// How it is asked for. `{n}` is the noun, `{x}` what the input is called.
const FRAMES: [&str; 6] = [
    "What is the {n} of this {x}?",
    "Name the {n} of this {x}.",
    "Which {n} does this {x} belong to?",
    "Classify this {x} by {n}.",
    "Give the {n} of the {x}. Answer with the {n} only.",
    "Read the {x} and choose the one {n} that fits best.",
];

/// What the input may be called; the one that the prompt uses is kept.
const THINGS: [&str; 16] = [
    "message",
    "ticket",
    "email",
    "question",
    "review",
    "request",
    "document",
    "sentence",
    "article",
    "query",
    "comment",
    "post",
    "conversation",
    "complaint",
    "utterance",
    "text",
];

/// Where the answer is no label.
const OTHERS: [&str; 6] = [
    "Do exactly what is asked, step by step, and give only the result.",
    "Read the input carefully, then give the answer and nothing else.",
    "You are careful and exact. Give the answer in the form that is asked for.",
    "Work out what is asked for. Then write only the answer.",
    "Answer from the input alone. Leave out what it does not say.",
    "Give the shortest answer that is complete.",
];

#[derive(Debug, Default)]
pub struct Wording {
    /// Wordings in the order of trial, and how many were proposed, by stage.
    order: Vec<(usize, usize)>,
    next: usize,
}

impl Wording {
    /// Every noun once before any a second time.
    fn wording(&mut self, i: usize, rng: &mut SplitMix64) -> (usize, usize) {
        if self.order.is_empty() {
            let mut nouns: Vec<usize> = (0..NOUNS.len()).collect();
            rng.shuffle(&mut nouns);
            for round in 0..FRAMES.len() {
                self.order
                    .extend(nouns.iter().enumerate().map(|(k, noun)| (*noun, (k + round) % FRAMES.len())));
            }
        }
        self.order[i % self.order.len()]
    }
}

impl Proposer for Wording {
    fn name(&self) -> &'static str {
        "wording"
    }

    fn stock(&self) -> usize {
        NOUNS.len()
    }

    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        _: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let mut drafts = Vec::new();
        for _ in 0..n {
            let i = self.next;
            self.next += 1;
            let Some((parent, stage)) = scene.turn(i) else { break };
            let (Some(mut clauses), Some(spec)) = (scene.clauses(parent, stage), scene.stage(stage)) else {
                continue;
            };
            let mine = i / scene.tuned.len().max(1);
            let words = if spec.output == OutputKind::Label {
                let text = clauses.text().to_lowercase();
                let thing = THINGS.iter().find(|thing| text.contains(**thing)).unwrap_or(&"text");
                let (noun, frame) = self.wording(mine, rng);
                FRAMES[frame].replace("{n}", NOUNS[noun]).replace("{x}", thing)
            } else {
                OTHERS[mine % OTHERS.len()].to_owned()
            };
            // In the place of the instruction: the first clause that asks, else the first.
            let places = clauses.clauses();
            let asks = places.iter().find(|at| clauses.core(**at).ends_with('?')).or(places.first()).copied();
            match asks {
                Some(at) => clauses.set_core(at, &words),
                None => clauses.insert(clauses.input_at(), &words),
            }
            drafts.extend(scene.draft(parent, stage, clauses.text(), format!("asks \"{words}\"")));
        }
        Ok(drafts)
    }
}
