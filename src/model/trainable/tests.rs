use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::settings::Targets;
use crate::model::config::Arch;
use crate::model::oracle::{Oracle, small};

pub(super) fn all_linear() -> Targets {
    Targets::One("all-linear".into())
}

/// Rows of different lengths; some tokens trained, one row without any, one row all.
pub(super) fn batch(vocab: u32, lengths: &[usize]) -> Vec<Sequence> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 10
    };
    let row = |(i, len): (usize, &usize)| {
        let tokens = (0..*len).map(|_| next() % vocab).collect();
        let trained = (0..*len)
            .map(|j| j > 0 && (i == 1 || (i != 2 && next() % 3 == 0) || j == len / 2 && i != 2))
            .collect();
        Sequence { tokens, trained }
    };
    lengths.iter().enumerate().map(row).collect()
}

/// An adapter away from its start, where B = 0 hides A's gradient.
pub(super) fn adapter(decoder: &Decoder, targets: &Targets) -> Lora {
    let mut lora = Lora::init(decoder, 3, 6.0, targets, 5).unwrap();
    let mut state = 3_u32;
    for module in lora.modules().to_vec() {
        for b in &mut lora.params[module.b..module.b + module.outputs * module.rank] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = 0.3 * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5);
        }
    }
    lora
}

/// The flat gradient by the names that the oracle uses.
fn named(trainable: &mut Trainable) -> BTreeMap<String, Vec<f32>> {
    let gradient = trainable.gradient().to_vec();
    match trainable.adapter() {
        None => trainable
            .decoder()
            .tensors()
            .iter()
            .map(|p| (p.name.clone(), gradient[p.range()].to_vec()))
            .collect(),
        Some(lora) => lora
            .modules()
            .iter()
            .flat_map(|m| {
                let a = gradient[m.a..m.a + m.rank * m.inputs].to_vec();
                let b = gradient[m.b..m.b + m.rank * m.outputs].to_vec();
                let magnitudes = m.magnitude.map(|at| {
                    (format!("{}.lora_magnitude_vector", m.name), gradient[at..at + m.outputs].to_vec())
                });
                [(format!("{}.lora_A", m.name), a), (format!("{}.lora_B", m.name), b)]
                    .into_iter()
                    .chain(magnitudes)
            })
            .collect(),
    }
}

pub(super) fn assert_gradients_agree(trainable: &mut Trainable, rows: &[Sequence]) {
    let rows: Vec<&Sequence> = rows.iter().collect();
    let scale = 0.5;
    let mut oracle = Oracle::new(trainable.decoder(), trainable.adapter()).unwrap();
    let AdapterTraining { dropout, seed, .. } = trainable.adapter_training;
    if dropout > 0.0 {
        let (evaluated, _) = oracle.gradients(&rows).unwrap();
        let without = trainable.loss(&rows).unwrap().loss_sum;
        assert!((without - evaluated).abs() < 1e-5 * evaluated, "nothing is dropped in an evaluation");
        oracle.dropout = Some((dropout, dropout_seed(seed, trainable.steps)));
    }
    let (loss, wanted) = oracle.gradients(&rows).unwrap();
    let step = trainable.forward_backward(&rows, scale).unwrap();
    assert_eq!(step.trained, rows.iter().map(|r| r.targets()).sum::<usize>());
    assert!((step.loss_sum - loss).abs() < 1e-5 * loss, "loss {} wanted {loss}", step.loss_sum);
    if dropout == 0.0 {
        assert!((trainable.loss(&rows).unwrap().loss_sum - step.loss_sum).abs() < 1e-6 * loss);
    }
    let found = named(trainable);
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, wanted) in &wanted {
        let found = &found[name];
        let norm: f64 = wanted.iter().map(|g| g * g).sum::<f64>().sqrt() * f64::from(scale);
        let off: f64 = found
            .iter()
            .zip(wanted)
            .map(|(f, w)| (f64::from(*f) - w * f64::from(scale)).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(found.iter().all(|g| g.is_finite()) && norm > 1e-6, "{name}: gradient is zero or not finite");
        assert!(off < 2e-4 * norm, "{name}: off by {off:e} of {norm:e}");
    }
}

#[test]
fn lora_gradients_agree_with_autograd_on_every_architecture() {
    for arch in Arch::ALL {
        for threads in [1, 2] {
            let decoder = Arc::new(small(arch, 2));
            let lora = adapter(&decoder, &all_linear());
            let mut trainable = Trainable::lora(decoder, lora, threads).unwrap();
            assert_gradients_agree(&mut trainable, &batch(53, &[9, 7, 12, 90, 3]));
        }
    }
}

#[test]
fn full_gradients_agree_with_autograd_on_every_architecture() {
    for arch in Arch::ALL {
        let mut trainable = Trainable::full(small(arch, 2), 2);
        assert_gradients_agree(&mut trainable, &batch(53, &[9, 7, 12, 80, 3, 77]));
    }
}

#[test]
fn the_backward_ends_at_the_lowest_adapter() {
    let targets = [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.mlp.down_proj",
        "v_proj",
    ];
    for target in targets {
        let decoder = Arc::new(small(Arch::Qwen3, 2));
        let lora = adapter(&decoder, &Targets::One(target.into()));
        let modules = lora.modules().len();
        assert_eq!(modules, if target == "v_proj" { 2 } else { 1 });
        let mut trainable = Trainable::lora(decoder, lora, 1).unwrap();
        assert_gradients_agree(&mut trainable, &batch(53, &[9, 7]));
        assert_eq!(trainable.gradient().len(), trainable.parameters(), "frozen weights have no gradient");
    }
}

fn gradient_of(rows: &[&Sequence], threads: usize, split: usize) -> Vec<f32> {
    let decoder = Arc::new(small(Arch::Llama, 2));
    let lora = adapter(&decoder, &all_linear());
    let mut trainable = Trainable::lora(decoder, lora, threads).unwrap();
    for part in rows.chunks(split.max(1)) {
        trainable.forward_backward(part, 0.25).unwrap();
    }
    trainable.gradient().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_gradient_does_not_depend_on_split_order_or_threads(
        lengths in prop::collection::vec(2_usize..70, 3..8), threads in 1_usize..5, split in 1_usize..8, rotate in 0_usize..8,
    ) {
        let rows = batch(53, &lengths);
        let mut rows: Vec<&Sequence> = rows.iter().collect();
        let whole = gradient_of(&rows, 1, rows.len());
        let n = rows.len();
        rows.rotate_left(rotate % n);
        let other = gradient_of(&rows, threads, split);
        let norm: f64 = whole.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let off: f64 = whole.iter().zip(&other).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        prop_assert!(off <= 1e-5 * norm, "off by {off} of {norm}");
        prop_assert_eq!(gradient_of(&rows, threads, split), other, "not the same bits the second time");
    }
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    let settings = AdamW { lr: 0.01, weight_decay: 0.1, ..AdamW::default() };
    let rows = batch(53, &[9, 7, 12, 30]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let decoder = Arc::new(small(Arch::Qwen2, 2));
    let make = |full: bool| {
        if full {
            Trainable::full((*decoder).clone(), 2)
        } else {
            Trainable::lora(decoder.clone(), Lora::init(&decoder, 2, 4.0, &all_linear(), 1).unwrap(), 2)
                .unwrap()
        }
    };
    for full in [false, true] {
        let step = |t: &mut Trainable| {
            t.zero_grad();
            let loss = t.forward_backward(&rows, 0.1).unwrap().loss_sum;
            t.step(&settings, 1.0);
            loss
        };
        let mut whole = make(full);
        let losses: Vec<f64> = (0..6).map(|_| step(&mut whole)).collect();
        assert!(losses[5] < losses[0], "training lowers the loss: {losses:?}");

        let dir = tempfile::tempdir().unwrap();
        let mut first = make(full);
        for _ in 0..3 {
            step(&mut first);
        }
        first.save_state(dir.path()).unwrap();
        let mut second = make(full);
        step(&mut second); // Something to be overwritten.
        second.load_state(dir.path()).unwrap();
        assert_eq!(second.steps(), 3);
        let resumed: Vec<f64> = (0..3).map(|_| step(&mut second)).collect();
        assert_eq!(resumed, losses[3..]);
        assert_eq!(whole.model.params(), second.model.params());
    }
}

#[test]
fn a_state_of_another_adapter_is_refused_and_changes_nothing() {
    let decoder = Arc::new(small(Arch::Llama, 1));
    let dir = tempfile::tempdir().unwrap();
    let lora = |rank| Lora::init(&decoder, rank, 4.0, &all_linear(), 1).unwrap();
    Trainable::lora(decoder.clone(), lora(2), 1).unwrap().save_state(dir.path()).unwrap();
    let mut other = Trainable::lora(decoder.clone(), lora(3), 1).unwrap();
    let before = other.model.params().to_vec();
    let error = other.load_state(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ranks"), "{error}");
    assert_eq!(other.model.params(), before);
}

#[test]
fn rows_that_do_not_fit_are_errors() {
    let decoder = Arc::new(small(Arch::Llama, 1));
    let lora = Lora::init(&decoder, 2, 4.0, &all_linear(), 1).unwrap();
    let mut trainable = Trainable::lora(decoder, lora, 2).unwrap();
    let row = |tokens: Vec<u32>, trained: Vec<bool>| Sequence { tokens, trained };
    for (bad, word) in [
        (row(vec![1, 2], vec![false]), "marks"),
        (row(vec![1, 2], vec![true, true]), "first token"),
        (row(vec![1, 53], vec![false, true]), "vocabulary"),
        (row(vec![99, 5], vec![false, true]), "vocabulary"),
        (row(vec![1; 98], [[false].repeat(97), vec![true]].concat()), "96 positions"),
    ] {
        let error = trainable
            .forward_backward(&[&row(vec![1, 2], vec![false, true]), &bad], 1.0)
            .unwrap_err()
            .to_string();
        assert!(error.contains(word) && error.contains("row 1"), "{error}");
    }
    assert_eq!(
        trainable
            .forward_backward(&[&row(vec![1, 2], vec![false, false]), &row(vec![], vec![])], 1.0)
            .unwrap(),
        StepLoss::default()
    );
    assert_eq!(trainable.gradient().iter().filter(|g| **g != 0.0).count(), 0);
    // 97 tokens need 96 positions: the last is only predicted.
    trainable.forward_backward(&[&row(vec![1; 97], [[false].repeat(96), vec![true]].concat())], 1.0).unwrap();
}

#[test]
fn clipping_scales_the_step_to_the_norm() {
    let rows = batch(53, &[9, 7]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    // With beta1 = beta2 = 0 and a large epsilon the step is lr * g / epsilon: proportional to the clipped gradient.
    let settings = AdamW { lr: 1.0, beta1: 0.0, beta2: 0.0, epsilon: 1e6, weight_decay: 0.0 };
    let moved = |clip: f32| {
        let mut t = Trainable::full(small(Arch::Llama, 1), 1);
        let before = t.model.params().to_vec();
        t.forward_backward(&rows, 1e3).unwrap();
        let norm = t.grad_norm();
        t.step(&settings, clip);
        let squares = before.iter().zip(t.model.params().iter()).map(|(a, b)| f64::from(a - b).powi(2));
        (norm, squares.sum::<f64>().sqrt() * 1e6)
    };
    let (norm, plain) = moved(0.0);
    assert!((plain / norm - 1.0).abs() < 0.05, "{plain} {norm}");
    let (_, clipped) = moved(norm as f32 / 2.0);
    assert!((clipped / norm - 0.5).abs() < 0.05, "{clipped} {norm}");
}

#[test]
fn activations_made_again_give_the_same_gradient_bit_for_bit() {
    for arch in Arch::ALL {
        let decoder = Arc::new(small(arch, 4));
        let rows = batch(53, &[9, 7, 12, 90, 3]);
        let rows: Vec<&Sequence> = rows.iter().collect();
        let with = |bytes: usize, threads: usize| {
            let lora = adapter(&decoder, &all_linear());
            let mut trainable = Trainable::lora(decoder.clone(), lora, threads).unwrap();
            trainable.grant_activations(bytes);
            // The second time over used buffers, after a pass without a backward.
            let (mut losses, mut places) = (Vec::new(), 0);
            for _ in 0..2 {
                trainable.zero_grad();
                losses.push(trainable.forward_backward(&rows, 0.5).unwrap().loss_sum.to_bits());
                places = trainable.buffers.idle().iter().map(|w| w.saved.len()).sum::<usize>();
                trainable.loss(&rows).unwrap();
            }
            (losses, trainable.gradient().iter().map(|g| g.to_bits()).collect::<Vec<_>>(), places)
        };
        for threads in [1, 2] {
            let (losses, gradient, _) = with(usize::MAX, threads);
            let mut places = BTreeMap::new();
            for bytes in [0, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21] {
                let found = with(bytes, threads);
                assert!(found.0 == losses && found.1 == gradient, "{arch:?} with {bytes} bytes");
                places.insert(found.2, bytes);
            }
            assert!(places.len() > 2, "{arch:?}: all budgets kept the same layers: {places:?}");
        }
    }
}

#[test]
fn full_training_makes_activations_again_too() {
    let rows = batch(53, &[9, 7, 12, 80]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let with = |bytes: usize| {
        let mut trainable = Trainable::full(small(Arch::Qwen3, 3), 2);
        trainable.grant_activations(bytes);
        trainable.forward_backward(&rows, 0.5).unwrap();
        trainable.gradient().to_vec()
    };
    assert_eq!(with(usize::MAX), with(0));
}

#[test]
fn models_that_take_turns_over_one_base_use_one_set_of_buffers_and_get_the_results_of_each_alone() {
    let decoder = Arc::new(small(Arch::Qwen3, 3));
    let batches = [batch(53, &[9, 7, 12]), batch(53, &[30, 4, 4, 21]), batch(53, &[5])];
    let optimizer = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
    let start = |rank: usize, buffers: &Buffers| {
        let lora = Lora::init(&decoder, rank, 8.0, &all_linear(), rank as u64).unwrap();
        let mut trainable = Trainable::lora(decoder.clone(), lora, 2).unwrap();
        // One of them makes its activations again.
        trainable.grant_activations(if rank == 5 { 0 } else { usize::MAX });
        trainable.share_buffers(buffers.clone());
        trainable
    };
    let step = |trainable: &mut Trainable, at: usize| {
        let rows: Vec<&Sequence> = batches[at % batches.len()].iter().collect();
        trainable.zero_grad();
        let loss = trainable.forward_backward(&rows, 0.5).unwrap().loss_sum.to_bits();
        trainable.step(&optimizer, 1.0);
        (loss, trainable.loss(&rows).unwrap().loss_sum.to_bits())
    };
    let ranks = [2, 5, 3];
    let alone: Vec<_> = ranks
        .iter()
        .map(|&rank| {
            let mut trainable = start(rank, &Buffers::default());
            (0..7).map(|at| step(&mut trainable, at)).collect::<Vec<_>>()
        })
        .collect();
    let shared = Buffers::default();
    let mut models: Vec<_> = ranks.iter().map(|&rank| start(rank, &shared)).collect();
    let mut together = vec![Vec::new(); ranks.len()];
    for at in 0..7 {
        for (model, found) in models.iter_mut().zip(&mut together) {
            found.push(step(model, at));
        }
    }
    assert_eq!(together, alone);
    assert_eq!(shared.idle().len(), 2, "one workspace for each thread, not for each model");
}
