//! The probability of every label, from as few passes over the model as it takes.
//!
//! The labels' tokens form a trie. At a node the model's probabilities over the tokens that may follow (an end token among them
//! where a label ends that others go on from) are renormalized, and a label's probability is their product along its path: the
//! distribution of constrained decoding, which sums to 1. Where only one token may follow, the model need not be asked.

use std::sync::Arc;

use super::super::ModelError;
use super::super::decode::Scoring;
use super::super::sampling::{draw_label, seeded};
use crate::domain::candidate::Decoding;

/// Nodes with at least this share of the probability are asked about, all of a depth in one pass.
const SHARE: f64 = 0.005;
/// Of those with less, which matter only if all others have less still, so many in one pass.
const FEW: usize = 16;

/// The labels of one set by the tokens that they are written with.
#[derive(Debug)]
pub struct LabelTrie {
    labels: Vec<String>,
    nodes: Vec<Node>,
    eos: Vec<u32>,
}

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    /// The token that leads here.
    token: u32,
    children: Vec<(u32, usize)>,
    /// Labels that end here; several only where the tokenizer writes them alike.
    labels: Vec<usize>,
    /// Labels that end here or below.
    below: usize,
}

impl LabelTrie {
    /// `tokens`: of each label, in their order. `eos`: tokens that end an answer.
    ///
    /// # Errors
    /// A label without tokens; one that others go on from, where the model has no end token to tell them apart.
    pub fn new(labels: Vec<String>, tokens: &[Vec<u32>], eos: &[u32]) -> Result<Self, ModelError> {
        let mut trie = Self { labels, nodes: vec![Node::default()], eos: eos.to_vec() };
        for (label, tokens) in tokens.iter().enumerate() {
            if tokens.is_empty() {
                let message = format!("the label `{}` has no tokens", trie.labels[label]);
                return Err(ModelError::Request(message));
            }
            let mut at = 0;
            trie.nodes[at].below += 1;
            for &token in tokens {
                at = match trie.nodes[at].children.iter().find(|(t, _)| *t == token) {
                    Some(&(_, child)) => child,
                    None => {
                        let child = trie.nodes.len();
                        trie.nodes.push(Node { parent: at, token, ..Node::default() });
                        trie.nodes[at].children.push((token, child));
                        child
                    }
                };
                trie.nodes[at].below += 1;
            }
            trie.nodes[at].labels.push(label);
        }
        if trie.nodes[0].below == 0 {
            return Err(ModelError::Request("there are no labels to choose from".into()));
        }
        let stuck = trie.nodes.iter().find(|n| !n.labels.is_empty() && !n.children.is_empty());
        if let Some(node) = stuck.filter(|_| eos.is_empty()) {
            return Err(ModelError::Request(format!(
                "the label `{}` is the beginning of another, and the model has no token that ends an answer",
                trie.labels[node.labels[0]]
            )));
        }
        Ok(trie)
    }

    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Tokens from the root to a node.
    fn path(&self, mut node: usize) -> Vec<u32> {
        let mut tokens = Vec::new();
        while node != 0 {
            tokens.push(self.nodes[node].token);
            node = self.nodes[node].parent;
        }
        tokens.reverse();
        tokens
    }
}

/// Finds the labels' probabilities after one prompt.
///
/// Ask [`LabelScores::wants`] for continuations of the prompt, give the logits after each, until nothing is wanted. What is
/// wanted first is mostly the empty continuation: the logits after the prompt itself.
#[derive(Debug)]
pub struct LabelScores {
    trie: Arc<LabelTrie>,
    /// Probability of each label that is certain.
    certain: Vec<f64>,
    /// Nodes where several tokens may follow, with the probability of getting there.
    open: Vec<(usize, f64)>,
    /// Those of them whose logits are wanted.
    asked: Vec<(usize, f64)>,
}

impl LabelScores {
    pub fn new(trie: Arc<LabelTrie>) -> Self {
        let certain = vec![0.0; trie.labels.len()];
        let mut scores = Self { trie, certain, open: Vec::new(), asked: Vec::new() };
        scores.reach(0, 1.0);
        scores.ask();
        scores
    }

    #[cfg(test)]
    pub fn trie(&self) -> Arc<LabelTrie> {
        self.trie.clone()
    }

    /// Continuations of the prompt after which the logits are wanted; none: all is known.
    pub fn wants(&self) -> Vec<Vec<u32>> {
        self.asked.iter().map(|(node, _)| self.trie.path(*node)).collect()
    }

    /// The logits after each of [`LabelScores::wants`], in their order.
    ///
    /// # Errors
    /// Logits that are no numbers, or fewer than the labels' tokens need.
    pub fn give(&mut self, logits: &[&[f32]]) -> Result<(), ModelError> {
        if logits.len() != self.asked.len() {
            let message = format!("{} rows of logits for {} questions", logits.len(), self.asked.len());
            return Err(ModelError::Request(message));
        }
        for ((node, mass), logits) in std::mem::take(&mut self.asked).into_iter().zip(logits) {
            self.expand(node, mass, logits)?;
        }
        self.ask();
        Ok(())
    }

    fn expand(&mut self, node: usize, mass: f64, logits: &[f32]) -> Result<(), ModelError> {
        let trie = self.trie.clone();
        let node = &trie.nodes[node];
        let ending: &[u32] = if node.labels.is_empty() { &[] } else { &trie.eos };
        let of = |id: u32| {
            logits.get(id as usize).map(|l| f64::from(*l)).filter(|l| *l < f64::INFINITY).ok_or_else(|| {
                let message = "the model's weights or its adapter are broken: no number for a label's token";
                ModelError::Request(message.into())
            })
        };
        let ends = ending.iter().map(|&id| of(id)).collect::<Result<Vec<_>, _>>()?;
        let next = node.children.iter().map(|&(id, _)| of(id)).collect::<Result<Vec<_>, _>>()?;
        let largest = ends.iter().chain(&next).copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return Err(ModelError::Request("the model can say none of the labels".into()));
        }
        let weight = |l: &f64| (l - largest).exp();
        let total: f64 = ends.iter().chain(&next).map(weight).sum();
        self.end(node, mass * ends.iter().map(weight).sum::<f64>() / total);
        for ((_, child), l) in node.children.iter().zip(&next) {
            self.reach(*child, mass * weight(l) / total);
        }
        Ok(())
    }

    /// Goes on from a node to the next at which there is a choice.
    fn reach(&mut self, mut at: usize, mass: f64) {
        let trie = self.trie.clone();
        loop {
            let node = &trie.nodes[at];
            match (node.children.as_slice(), node.labels.is_empty()) {
                ([], _) => return self.end(node, mass),
                (&[(_, only)], true) => at = only,
                _ => return self.open.push((at, mass)),
            }
        }
    }

    fn end(&mut self, node: &Node, mass: f64) {
        for &label in &node.labels {
            self.certain[label] += mass / node.labels.len() as f64;
        }
    }

    /// Chooses what to ask about next. The best label must be the best in truth: a node is asked about as long as a label below
    /// it could have more than the best that is certain.
    fn ask(&mut self) {
        self.open.sort_by(|a, b| b.1.total_cmp(&a.1));
        let best = self.certain.iter().copied().fold(0.0, f64::max);
        let mut n = self.open.iter().take_while(|(_, mass)| *mass >= SHARE).count();
        if n == 0 {
            n = self.open.iter().take(FEW).take_while(|(_, mass)| *mass > best).count();
        }
        self.asked = self.open.drain(..n).collect();
    }

    /// Every label with its probability, likeliest first. Labels below a node that was not asked about share its probability.
    pub fn done(&self) -> Vec<(String, f64)> {
        let mut all = self.certain.clone();
        for &(node, mass) in self.open.iter().chain(&self.asked) {
            let share = mass / self.trie.nodes[node].below as f64;
            self.spread(node, share, &mut all);
        }
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|&a, &b| all[b].total_cmp(&all[a]).then(a.cmp(&b)));
        order.into_iter().map(|i| (self.trie.labels[i].clone(), all[i])).collect()
    }

    fn spread(&self, node: usize, share: f64, all: &mut [f64]) {
        let mut left = vec![node];
        while let Some(at) = left.pop() {
            let node = &self.trie.nodes[at];
            node.labels.iter().for_each(|&label| all[label] += share);
            left.extend(node.children.iter().map(|(_, child)| *child));
        }
    }

    /// The answer: the likeliest label; with a temperature one drawn from their probabilities to the power of its inverse, after
    /// the cuts of `decoding`.
    pub fn choose(&self, decoding: &Decoding, prompt: &[u32]) -> String {
        let all = self.done();
        let place = if decoding.temperature == 0.0 {
            0
        } else {
            let scores: Vec<f32> = all.iter().map(|(_, p)| p.ln() as f32).collect();
            draw_label(decoding, scores, &mut seeded(decoding.seed, prompt))
        };
        all.into_iter().nth(place).map(|(label, _)| label).unwrap_or_default()
    }
}

impl Scoring for LabelScores {
    fn wants(&mut self) -> Vec<Vec<u32>> {
        Self::wants(self)
    }

    fn take(&mut self, logits: Vec<Vec<f32>>) -> Result<(), ModelError> {
        self.give(&logits.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}
