//! Bytes that training takes, reckoned from shapes alone: the sizes that [`super::workspace`] makes its buffers of.

use super::plan::Plan;
use super::workspace::Places;
use super::{Sequence, Trainable};
use crate::domain::preflight::Memory;
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;
use crate::ops::CROSS_ENTROPY_ROWS;

/// What of a row counts for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSize {
    /// Tokens that are read.
    pub tokens: usize,
    /// Tokens that are predicted.
    pub targets: usize,
}

impl Sequence {
    pub fn size(&self) -> RowSize {
        RowSize { tokens: self.inputs(), targets: self.targets() }
    }
}

/// Floats per token that one layer keeps for its backward, in the order of the buffers of `Saved`, without its input.
pub(super) fn saved_widths(decoder: &Decoder) -> [usize; 10] {
    let (c, shape) = (&decoder.config, decoder.attention_shape());
    let qk_norm = usize::from(c.qk_norm);
    [
        c.hidden,
        1,
        1,
        shape.qkv_cols(),
        qk_norm * (shape.q_cols() + shape.kv_cols()),
        qk_norm * c.heads,
        qk_norm * c.kv_heads,
        shape.q_cols(),
        c.heads,
        2 * c.ffn,
    ]
}

/// Ranks of the four groups of a layer.
pub(super) fn ranks(lora: Option<&Lora>, layer: usize) -> [usize; 4] {
    [0, 1, 2, 3].map(|g| lora.and_then(|a| a.group(layer, g)).map_or(0, |g| g.rank))
}

/// The largest ranks of the four groups over all layers.
pub(super) fn widest_ranks(decoder: &Decoder, lora: Option<&Lora>) -> [usize; 4] {
    let all = (0..decoder.config.layers).map(|layer| ranks(lora, layer));
    all.fold([0; 4], |widest, of| std::array::from_fn(|g| widest[g].max(of[g])))
}

/// Where the layers' activations go for a pack of `n` tokens under a budget of bytes.
pub(super) fn places(
    decoder: &Decoder,
    lora: Option<&Lora>,
    budget: usize,
    n: usize,
    backward: bool,
) -> Places {
    let saved: usize = saved_widths(decoder).iter().chain(&widest_ranks(decoder, lora)).sum();
    Places::new(decoder.config.layers, backward, budget, 4 * n * decoder.config.hidden, 4 * n * saved)
}

/// Floats of one thread's buffers for packs of `n` tokens and `targets` targets: activations, logits.
fn floats(
    decoder: &Decoder,
    lora: Option<&Lora>,
    places: &Places,
    n: usize,
    targets: usize,
    backward: bool,
) -> (usize, usize) {
    let (c, shape) = (&decoder.config, decoder.attention_shape());
    let (h, own) = (c.hidden, saved_widths(decoder).iter().sum::<usize>());
    let widest = widest_ranks(decoder, lora);
    let saved: usize = (0..places.slots(c.layers))
        .map(|slot| match places.layer_of(slot) {
            Some(layer) => own + ranks(lora, layer).iter().sum::<usize>(),
            None => own + widest.iter().sum::<usize>(),
        })
        .sum();
    let mut per_token = saved + places.inputs(c.layers) * h + 1 + h + c.ffn;
    let mut per_target = h;
    if backward {
        per_token += h + h.max(shape.q_cols()) + shape.qkv_cols() + lora.map_or(0, Lora::widest);
        per_target += h;
    }
    (n * per_token + targets * per_target, targets.min(CROSS_ENTROPY_ROWS) * c.vocab)
}

impl Trainable {
    /// Bytes that these micro-batches take: `train` forward and backward, `dev` forward only, as they are run one after
    /// another. Needs no weights: an [`Decoder::outline`] will do.
    pub fn memory(&self, train: &[Vec<RowSize>], dev: &[Vec<RowSize>]) -> Memory {
        let (decoder, lora) = (self.model.decoder(), self.adapter());
        // Buffers grow and stay: each thread's are as large as its largest pack.
        let mut largest: Vec<[(usize, usize); 2]> = Vec::new();
        for (pass, batches) in [dev, train].into_iter().enumerate() {
            for batch in batches {
                let lengths: Vec<usize> = batch.iter().map(|row| row.tokens).collect();
                let plan = Plan::new(&lengths, self.threads);
                largest.resize(largest.len().max(plan.shards.len()), [(0, 0); 2]);
                for (most, packs) in largest.iter_mut().zip(&plan.shards) {
                    for pack in packs {
                        let (n, targets) = &mut most[pass];
                        *n = (*n).max(pack.iter().map(|row| batch[*row].tokens).sum());
                        *targets = (*targets).max(pack.iter().map(|row| batch[*row].targets).sum());
                    }
                }
            }
        }
        let budget = self.activations / largest.len().max(1);
        let (mut activations, mut logits) = (0, 0);
        for most in &largest {
            let pass = |backward: bool| {
                let (n, targets) = most[usize::from(backward)];
                let places = places(decoder, lora, budget, n, backward);
                floats(decoder, lora, &places, n, targets, backward)
            };
            let (dev, train) = (pass(false), pass(true));
            activations += dev.0.max(train.0);
            logits += dev.1.max(train.1);
        }
        let trained = self.parameters();
        let bytes = |floats: usize| 4 * floats as u64;
        Memory {
            weights: bytes(decoder.parameters()),
            adapters: bytes(lora.map_or(0, Lora::parameters)),
            gradients: bytes(trained * largest.len()),
            optimizer: bytes(2 * trained),
            activations: bytes(activations),
            logits: bytes(logits),
        }
    }

    /// How many layers' activations are made again in the backward of the largest of these micro-batches.
    pub fn recomputed(&self, train: &[Vec<RowSize>]) -> usize {
        let of = |batch: &Vec<RowSize>| {
            let lengths: Vec<usize> = batch.iter().map(|row| row.tokens).collect();
            let plan = Plan::new(&lengths, self.threads);
            let budget = self.activations / plan.shards.len().max(1);
            let packs = plan.shards.iter().flatten();
            let n = packs.map(|pack| pack.iter().map(|r| lengths[*r]).sum::<usize>()).max().unwrap_or(0);
            places(self.model.decoder(), self.adapter(), budget, n, true).shared()
        };
        train.iter().map(of).max().unwrap_or(0)
    }

    /// Floating-point operations of a row, forward and backward or forward only: the products with weights and adapters,
    /// attention's scores, the output layer over the targets (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, by part).
    pub fn flops(&self, row: RowSize, backward: bool) -> f64 {
        let decoder = self.model.decoder();
        let (c, shape) = (&decoder.config, decoder.attention_shape());
        let (n, targets) = (row.tokens as f64, row.targets as f64);
        let linear: usize =
            decoder.layout.layers.iter().flat_map(|l| &l.linears).map(|l| l.inputs * l.outputs).sum();
        let linear = 2.0 * n * linear as f64;
        let head = 2.0 * targets * (c.vocab * c.hidden) as f64;
        // Scores and their sum of values, each over the causal half.
        let attention = 2.0 * n * n * (shape.q_cols() * c.layers) as f64;
        let adapters = 2.0 * n * self.adapter().map_or(0, Lora::parameters) as f64;
        let forward = linear + head + attention + adapters;
        if !backward {
            return forward;
        }
        let weights = if self.adapter().is_none() { linear + head } else { 0.0 };
        forward + linear + weights + head + 2.5 * attention + 2.0 * adapters
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::settings::Targets;
    use crate::model::config::Arch;
    use crate::model::oracle::small;

    fn rows(lengths: &[usize]) -> Vec<Sequence> {
        let row =
            |n: &usize| Sequence { tokens: vec![1; n + 1], trained: (0..=*n).map(|i| i > n / 2).collect() };
        lengths.iter().map(row).collect()
    }

    #[test]
    fn reckoned_bytes_are_those_of_the_buffers() {
        for arch in Arch::ALL {
            for (threads, grant) in [(1, usize::MAX), (2, usize::MAX), (2, 0), (1, 200_000)] {
                for targets in ["all-linear", "q_proj"] {
                    let decoder = small(arch, 4);
                    let outline = Decoder::outline(decoder.config.clone()).unwrap();
                    let lora = |d: &Decoder| Lora::init(d, 3, 6.0, &Targets::One(targets.into()), 5).unwrap();
                    let mut planned =
                        Trainable::lora(Arc::new(outline.clone()), lora(&outline), threads).unwrap();
                    planned.grant_activations(grant);
                    let mut real =
                        Trainable::lora(Arc::new(decoder.clone()), lora(&decoder), threads).unwrap();
                    real.grant_activations(grant);
                    let (train, dev) = (rows(&[9, 30, 12, 40]), rows(&[70, 3]));
                    let sizes = |rows: &[Sequence]| vec![rows.iter().map(Sequence::size).collect::<Vec<_>>()];
                    let memory = planned.memory(&sizes(&train), &sizes(&dev));
                    real.loss(&dev.iter().collect::<Vec<_>>()).unwrap();
                    real.forward_backward(&train.iter().collect::<Vec<_>>(), 1.0).unwrap();
                    let buffers: usize = real.buffers.idle().iter().map(|w| w.floats()).sum();
                    let logits: usize = real.buffers.idle().iter().map(|w| w.logits.len()).sum();
                    let grads: usize = real.shards.iter().map(|s| s.grad.len()).sum();
                    assert_eq!(memory.gradients, 4 * grads as u64, "{arch:?} {threads} {grant}");
                    assert_eq!(memory.logits, 4 * logits as u64, "{arch:?} {threads} {grant}");
                    assert_eq!(memory.weights, 4 * decoder.values().len() as u64);
                    let (found, wanted) = (memory.activations as f64, 4.0 * buffers as f64);
                    assert!(
                        (found / wanted - 1.0).abs() < 0.03,
                        "{arch:?} {threads} {grant}: {found} is not {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn operations_of_a_row_grow_with_what_is_trained() {
        let decoder = Arc::new(small(Arch::Llama, 2));
        let lora = Lora::init(&decoder, 3, 6.0, &Targets::default(), 5).unwrap();
        let lora = Trainable::lora(decoder.clone(), lora, 1).unwrap();
        let full = Trainable::full((*decoder).clone(), 1);
        let row = RowSize { tokens: 20, targets: 5 };
        let forward = lora.flops(row, false);
        assert!(lora.flops(row, true) > 2.0 * forward && lora.flops(row, true) < 3.0 * forward);
        assert!(full.flops(row, true) > lora.flops(row, true));
        let longer = lora.flops(RowSize { tokens: 40, ..row }, true);
        assert!(longer > 1.5 * lora.flops(row, true));
    }
}
