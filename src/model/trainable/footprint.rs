//! Bytes that training takes, reckoned from shapes alone: the sizes that [`super::workspace`] makes its buffers of.

use super::cpu::Host;
use super::device::{Kind, Memory as Device};
use super::gpu::{Adapter, Base, OnGpu};
use super::plan::{Plan, packs_for_gpu};
use super::workspace::Places;
use super::{Sequence, Trainable};
use crate::domain::preflight::Memory;
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;
use crate::ops::CROSS_ENTROPY_ROWS;
use crate::ops::cuda::{Dtype, Gpu};

/// Where a training computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Cpu,
    Gpu,
}

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

/// Per token, what one layer keeps for its backward, in the order of the buffers of `Saved`, without its input.
pub(super) fn saved_widths(decoder: &Decoder) -> [(Kind, usize); 10] {
    use Kind::{Activation, Statistic};
    let (c, shape) = (&decoder.config, decoder.attention_shape());
    let qk_norm = usize::from(c.qk_norm);
    [
        (Activation, c.hidden),
        (Statistic, 1),
        (Statistic, 1),
        (Activation, shape.qkv_cols()),
        (Activation, qk_norm * (shape.q_cols() + shape.kv_cols())),
        (Statistic, qk_norm * c.heads),
        (Statistic, qk_norm * c.kv_heads),
        (Activation, shape.q_cols()),
        (Statistic, c.heads),
        (Activation, 2 * c.ffn),
    ]
}

/// What a group's adapter adds to the activations: columns per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfAdapter {
    pub rank: usize,
    /// With DoRA, the outputs that have a magnitude.
    pub magnitudes: usize,
}

/// Of the four groups of a layer.
pub(super) fn of_adapters(lora: Option<&Lora>, layer: usize) -> [OfAdapter; 4] {
    [0, 1, 2, 3].map(|group| OfAdapter {
        rank: lora.and_then(|a| a.group(layer, group)).map_or(0, |g| g.rank),
        magnitudes: lora.map_or(0, |a| a.magnitudes_of(layer, group)),
    })
}

/// The largest of the four groups over all layers.
pub(super) fn widest(decoder: &Decoder, lora: Option<&Lora>) -> [OfAdapter; 4] {
    let mut widest = [OfAdapter::default(); 4];
    for layer in 0..decoder.config.layers {
        for (most, of) in widest.iter_mut().zip(of_adapters(lora, layer)) {
            most.rank = most.rank.max(of.rank);
            most.magnitudes = most.magnitudes.max(of.magnitudes);
        }
    }
    widest
}

/// Bytes per token that a layer with such adapters keeps.
fn saved_bytes<M: Device>(decoder: &Decoder, adapters: [OfAdapter; 4]) -> usize {
    let own: usize = saved_widths(decoder).iter().map(|(kind, width)| M::bytes(*kind) * width).sum();
    own + M::bytes(Kind::Activation) * adapters.iter().map(|a| a.rank + a.magnitudes).sum::<usize>()
}

/// Where the layers' activations go for a pack of `n` tokens under a budget of bytes.
pub(super) fn places<M: Device>(
    decoder: &Decoder,
    lora: Option<&Lora>,
    budget: usize,
    n: usize,
    backward: bool,
) -> Places {
    let input = M::bytes(Kind::Activation) * decoder.config.hidden;
    let saved = saved_bytes::<M>(decoder, widest(decoder, lora));
    Places::new(decoder.config.layers, backward, budget, n * input, n * saved)
}

/// Tokens and targets of a thread's largest pack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Largest {
    pub tokens: usize,
    pub targets: usize,
}

/// Bytes of one thread's activations: buffers grow to the largest pack of either pass and stay.
pub(super) fn activation_bytes<M: Device>(
    decoder: &Decoder,
    lora: Option<&Lora>,
    budget: usize,
    dropout: bool,
    forward: Largest,
    backward: Largest,
) -> usize {
    let (c, shape) = (&decoder.config, decoder.attention_shape());
    let tokens = forward.tokens.max(backward.tokens);
    let places = places::<M>(decoder, lora, budget, backward.tokens, true);
    let of_slot = |slot: usize| {
        let adapters = places.layer_of(slot).map_or_else(|| widest(decoder, lora), |l| of_adapters(lora, l));
        saved_bytes::<M>(decoder, adapters)
    };
    let first = if forward.tokens > 0 { saved_bytes::<M>(decoder, widest(decoder, lora)) } else { 0 };
    let first = (forward.tokens * first).max(backward.tokens * of_slot(0));
    let above: usize = (1..places.slots(c.layers)).map(of_slot).sum();
    // Inputs: the first two are used by both passes. Beside them a normalized state and swiglu's output.
    let both = 2 * c.hidden + c.hidden + c.ffn;
    let mut trained = (c.layers - 1) * c.hidden;
    trained += c.hidden + c.hidden.max(shape.q_cols()) + shape.qkv_cols() + lora.map_or(0, Lora::widest);
    if dropout {
        trained += c.hidden.max(shape.q_cols()).max(c.ffn);
    }
    let targets = forward.targets.max(backward.targets) + backward.targets;
    let columns = tokens * both + backward.tokens * trained + targets * c.hidden;
    first
        + backward.tokens * above
        + tokens * M::bytes(Kind::Statistic)
        + M::bytes(Kind::Activation) * columns
}

impl Trainable {
    /// Packs of a micro-batch, by thread.
    fn packs(&self, on: On, batch: &[RowSize]) -> Vec<Vec<Vec<usize>>> {
        let lengths: Vec<usize> = batch.iter().map(|row| row.tokens).collect();
        match on {
            On::Cpu => Plan::new(&lengths, self.threads).shards,
            On::Gpu => vec![packs_for_gpu(&lengths)],
        }
    }

    /// Bytes that these micro-batches take: `train` forward and backward, `dev` forward only, as they are run one after
    /// another. Needs no weights: an [`Decoder::outline`] will do.
    pub fn memory(&self, on: On, train: &[Vec<RowSize>], dev: &[Vec<RowSize>]) -> Memory {
        // Buffers grow and stay: each thread's are as large as its largest pack.
        let mut largest: Vec<[Largest; 2]> = Vec::new();
        for (pass, batches) in [dev, train].into_iter().enumerate() {
            for batch in batches {
                let shards = self.packs(on, batch);
                largest.resize(largest.len().max(shards.len()), [Largest::default(); 2]);
                for (most, packs) in largest.iter_mut().zip(&shards) {
                    for pack in packs {
                        let most = &mut most[pass];
                        most.tokens = most.tokens.max(pack.iter().map(|row| batch[*row].tokens).sum());
                        most.targets = most.targets.max(pack.iter().map(|row| batch[*row].targets).sum());
                    }
                }
            }
        }
        match on {
            On::Cpu => self.memory_on_cpu(&largest),
            On::Gpu => self.memory_on_gpu(largest.first().copied().unwrap_or_default()),
        }
    }

    fn memory_on_cpu(&self, largest: &[[Largest; 2]]) -> Memory {
        let (decoder, lora) = (self.model.decoder(), self.adapter());
        let budget = self.activations / largest.len().max(1);
        let dropout = self.adapter_training.dropout > 0.0;
        let (mut activations, mut logits) = (0, 0);
        for [forward, backward] in largest {
            activations += activation_bytes::<Host>(decoder, lora, budget, dropout, *forward, *backward);
            let targets = forward.targets.max(backward.targets);
            logits += size_of::<f32>() * targets.min(CROSS_ENTROPY_ROWS) * decoder.config.vocab;
        }
        let trained = self.parameters();
        let bytes = |floats: usize| 4 * floats as u64;
        Memory {
            weights: decoder.bytes() as u64,
            adapters: bytes(lora.map_or(0, Lora::parameters)),
            gradients: bytes(trained * largest.len()),
            optimizer: bytes(2 * trained),
            activations: activations as u64,
            logits: logits as u64,
            overhead: 0,
        }
        .with_overhead()
    }

    fn memory_on_gpu(&self, [forward, backward]: [Largest; 2]) -> Memory {
        let (decoder, lora) = (self.model.decoder(), self.adapter());
        let dropout = self.adapter_training.dropout > 0.0;
        let activations =
            activation_bytes::<OnGpu>(decoder, lora, self.activations, dropout, forward, backward);
        let (tokens, targets) = (forward.tokens.max(backward.tokens), forward.targets.max(backward.targets));
        // Of the batch itself: ids, positions, dropout's keys, attention's delta; targets, places and losses.
        let words = tokens * (2 + if dropout { 2 } else { 0 } + decoder.config.heads) + 3 * targets;
        let magnitudes = lora.map_or(0, Lora::widest_magnitudes);
        let beside = 4 * words + Gpu::dora_parts_bytes(magnitudes);
        let vocab = decoder.config.vocab;
        let logits = Gpu::logit_rows(targets, vocab).min(targets) * vocab * Dtype::Bf16.bytes();
        let trained = 4 * self.parameters() as u64;
        Memory {
            weights: Base::bytes_of(decoder) as u64,
            adapters: lora.map_or(0, |lora| Adapter::bytes_of(decoder, lora)) as u64,
            gradients: trained,
            optimizer: 2 * trained,
            activations: (activations + beside) as u64,
            logits: logits as u64,
            // Buffers are as large as reckoned, and products have room of their own before.
            overhead: 0,
        }
    }

    /// Bytes of the weights on the host.
    pub fn bytes_at_home(&self) -> u64 {
        self.model.decoder().bytes() as u64
    }

    /// Bytes of what is trained with its moments.
    pub fn bytes_of_state(&self) -> u64 {
        3 * 4 * self.parameters() as u64
    }

    /// How many layers' activations are made again in the backward of the largest of these micro-batches.
    pub fn recomputed(&self, on: On, train: &[Vec<RowSize>]) -> usize {
        let of = |batch: &Vec<RowSize>| {
            let shards = self.packs(on, batch);
            let budget = self.activations / shards.len().max(1);
            let packs = shards.iter().flatten();
            let n = packs.map(|pack| pack.iter().map(|r| batch[*r].tokens).sum::<usize>()).max().unwrap_or(0);
            let (decoder, lora) = (self.model.decoder(), self.adapter());
            match on {
                On::Cpu => places::<Host>(decoder, lora, budget, n, true).shared(),
                On::Gpu => places::<OnGpu>(decoder, lora, budget, n, true).shared(),
            }
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
    use crate::domain::settings::{Method, Targets, TrainSettings};
    use crate::model::config::Arch;
    use crate::model::oracle::small;
    use crate::model::trainable::AdapterTraining;
    use crate::ops::Par;
    use crate::ops::cuda::Emulator;

    fn rows(lengths: &[usize]) -> Vec<Sequence> {
        let row =
            |n: &usize| Sequence { tokens: vec![1; n + 1], trained: (0..=*n).map(|i| i > n / 2).collect() };
        lengths.iter().map(row).collect()
    }

    #[test]
    fn reckoned_bytes_are_those_of_the_buffers() {
        for arch in Arch::ALL {
            for (threads, grant) in [(1, usize::MAX), (2, usize::MAX), (2, 0), (1, 200_000)] {
                for (targets, method) in
                    [("all-linear", Method::Lora), ("q_proj", Method::Lora), ("all-linear", Method::Dora)]
                {
                    let decoder = small(arch, 4);
                    let outline = Decoder::outline(decoder.config.clone(), false).unwrap();
                    let targets = Targets::One(targets.into());
                    let settings = TrainSettings { rank: 3, method, targets, ..TrainSettings::default() };
                    let places = Lora::outline(&outline, &settings).unwrap();
                    let mut planned = Trainable::lora(Arc::new(outline), places, threads).unwrap();
                    planned.grant_activations(grant);
                    let lora = Lora::from_settings(&decoder, &settings, Par::SERIAL).unwrap();
                    let mut real = Trainable::lora(Arc::new(decoder.clone()), lora, threads).unwrap();
                    real.grant_activations(grant);
                    let (train, dev) = (rows(&[9, 30, 12, 40]), rows(&[70, 3]));
                    let sizes = |rows: &[Sequence]| vec![rows.iter().map(Sequence::size).collect::<Vec<_>>()];
                    let memory = planned.memory(On::Cpu, &sizes(&train), &sizes(&dev));
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
    fn reckoned_bytes_are_those_that_a_gpu_gives() {
        for (method, dropout, grant) in [
            (Method::Lora, 0.0, usize::MAX),
            (Method::Lora, 0.0, 0),
            (Method::Dora, 0.2, usize::MAX),
            (Method::Qdora, 0.0, 100_000),
        ] {
            let Some(launcher) = Emulator::new(0) else { return };
            let mut config = small(Arch::Qwen3, 3).config;
            (config.head_dim, config.hidden, config.ffn) = (8, 64, 96);
            let decoder = Decoder::random(config.clone(), 1).unwrap();
            let quantized = method.is_quantized();
            let decoder = if quantized { decoder.quantized().unwrap() } else { decoder };
            let settings = TrainSettings { rank: 3, method, ..TrainSettings::default() };
            let training = AdapterTraining { dropout, ..AdapterTraining::default() };
            let outline = Decoder::outline(config, quantized).unwrap();
            let places = Lora::outline(&outline, &settings).unwrap();
            let mut planned =
                Trainable::lora(Arc::new(outline), places, 1).unwrap().with_adapter_training(training);
            let lora = Lora::from_settings(&decoder, &settings, Par::SERIAL).unwrap();
            let mut real =
                Trainable::lora(Arc::new(decoder), lora, 1).unwrap().with_adapter_training(training);
            for t in [&mut planned, &mut real] {
                t.grant_activations(grant);
            }
            real.move_to(launcher.clone()).unwrap();
            let (train, dev) = (rows(&[60, 90, 70]), rows(&[95, 30]));
            let sizes = |rows: &[Sequence]| vec![rows.iter().map(Sequence::size).collect::<Vec<_>>()];
            let reckoned = planned.memory(On::Gpu, &sizes(&train), &sizes(&dev)).total() as f64;
            real.loss(&dev.iter().collect::<Vec<_>>()).unwrap();
            real.accumulate(&train.iter().collect::<Vec<_>>(), 1.0).unwrap();
            real.settle().unwrap();
            real.step(&crate::ops::AdamW::default(), 1.0);
            let used = launcher.peak() as f64;
            assert!((reckoned / used - 1.0).abs() < 0.05, "{method:?} {grant}: {reckoned} is not {used}");
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
