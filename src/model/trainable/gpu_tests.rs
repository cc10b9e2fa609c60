//! Training on a GPU as a whole, on the emulator: its kernels, products and order of work against the CPU's step.
//!
//! Tolerances: activations are rounded to bf16 (8 bits, half a unit is 2^-9 = 0.2%) some ten times a layer, each rounding
//! independent of the others. Base and adapter are rounded before, so that both sides compute with the same numbers.

use std::sync::Arc;

use half::bf16;

use super::tests::{adapter, all_linear, batch};
use super::*;
use crate::domain::settings::Targets;
use crate::model::config::Arch;
use crate::model::oracle::small;
use crate::ops::cuda::Emulator;

/// A small model that the GPU's attention takes (its heads are a multiple of 8), of numbers that bf16 has.
pub(super) fn model(arch: Arch, layers: usize) -> Arc<Decoder> {
    let mut config = small(arch, layers).config;
    config.head_dim = 8;
    let mut decoder = Decoder::random(config, 3).unwrap();
    for x in decoder.values_mut() {
        // Larger than a fresh model's, so that attention and swiglu are not nearly linear.
        *x = bf16::from_f32(if *x == 1.0 { 1.0 } else { 8.0 * *x }).to_f32();
    }
    Arc::new(decoder)
}

fn rounded(decoder: &Decoder, targets: &Targets) -> Lora {
    let mut lora = adapter(decoder, targets);
    for x in lora.values_mut() {
        *x = bf16::from_f32(*x).to_f32();
    }
    lora
}

fn both(decoder: &Arc<Decoder>, lora: &Lora, order: i32) -> Option<(Trainable, Trainable)> {
    let launcher = Emulator::new(order)?;
    let cpu = Trainable::lora(decoder.clone(), lora.clone(), 1).unwrap();
    let mut gpu = Trainable::lora(decoder.clone(), lora.clone(), 1).unwrap();
    gpu.move_to(launcher).unwrap();
    Some((cpu, gpu))
}

pub(super) fn gpu_gradient(t: &mut Trainable) -> Vec<f32> {
    t.gpu.as_mut().unwrap().gradient().unwrap()
}

/// Off by how much of the wanted one's length.
pub(super) fn off(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(wanted).map(|(f, w)| f64::from(f - w)))
        / norm(&mut wanted.iter().map(|w| f64::from(*w)))
}

#[test]
fn loss_and_adapter_gradients_agree_with_the_cpu_on_every_architecture() {
    for arch in Arch::ALL {
        let decoder = model(arch, 2);
        let lora = rounded(&decoder, &all_linear());
        let Some((mut cpu, mut gpu)) = both(&decoder, &lora, 0) else { return };
        let rows = batch(53, &[9, 7, 12, 70, 3]);
        let rows: Vec<&Sequence> = rows.iter().collect();
        let wanted = cpu.forward_backward(&rows, 0.5).unwrap();
        let found = gpu.forward_backward(&rows, 0.5).unwrap();
        assert_eq!(found.trained, wanted.trained);
        let relative = (found.loss_sum / wanted.loss_sum - 1.0).abs();
        assert!(relative < 2e-3, "{arch:?}: loss {} wanted {}", found.loss_sum, wanted.loss_sum);
        let evaluated = gpu.loss(&rows).unwrap().loss_sum;
        assert!((evaluated / found.loss_sum - 1.0).abs() < 1e-6, "{arch:?}: {evaluated} without a gradient");
        let (found, wanted) = (gpu_gradient(&mut gpu), cpu.gradient().to_vec());
        assert!(off(&found, &wanted) < 0.02, "{arch:?}: gradient off by {:.4}", off(&found, &wanted));
        // Every matrix by itself: a wrong one must not hide behind the large ones.
        for m in lora.modules() {
            for (name, range) in [("A", m.a..m.a + m.rank * m.inputs), ("B", m.b..m.b + m.rank * m.outputs)] {
                let off = off(&found[range.clone()], &wanted[range]);
                assert!(off < 0.05, "{arch:?}: {}.lora_{name} off by {off:.4}", m.name);
            }
        }
    }
}

#[test]
fn order_of_threads_and_activations_made_again_change_no_bit() {
    let decoder = model(Arch::Qwen3, 3);
    let lora = rounded(&decoder, &all_linear());
    let rows = batch(53, &[9, 7, 12, 30]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let gradient = |order: i32, grant: usize| {
        let (_, mut gpu) = both(&decoder, &lora, order)?;
        gpu.grant_activations(grant);
        let loss = gpu.forward_backward(&rows, 0.5).unwrap().loss_sum;
        Some((loss.to_bits(), gpu_gradient(&mut gpu)))
    };
    let Some(wanted) = gradient(0, usize::MAX) else { return };
    for (order, grant) in [(1, usize::MAX), (2, usize::MAX), (0, 0), (0, 40_000)] {
        assert!(gradient(order, grant).unwrap() == wanted, "order {order}, {grant} bytes granted");
    }
}

#[test]
fn the_backward_ends_at_the_lowest_adapter_on_a_gpu_too() {
    for target in ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj", "v_proj"] {
        let decoder = model(Arch::Qwen2, 2);
        let lora = rounded(&decoder, &Targets::One(target.into()));
        let Some((mut cpu, mut gpu)) = both(&decoder, &lora, 0) else { return };
        let rows = batch(53, &[9, 7]);
        let rows: Vec<&Sequence> = rows.iter().collect();
        cpu.forward_backward(&rows, 0.5).unwrap();
        gpu.forward_backward(&rows, 0.5).unwrap();
        let off = off(&gpu_gradient(&mut gpu), cpu.gradient());
        assert!(off < 0.03, "{target}: off by {off:.4}");
    }
}

pub(super) fn train(t: &mut Trainable, rows: &[&Sequence], steps: usize) -> Vec<f64> {
    let settings = AdamW { lr: 0.01, weight_decay: 0.1, ..AdamW::default() };
    let trained: usize = rows.iter().map(|r| r.targets()).sum();
    (0..steps)
        .map(|_| {
            t.zero_grad();
            for half in rows.chunks(rows.len().div_ceil(2)) {
                t.accumulate(half, 1.0 / trained as f32).unwrap();
            }
            let settled = t.settle().unwrap();
            assert!(settled.grad_norm.is_finite() && settled.grad_norm > 0.0);
            t.step(&settings, 0.5);
            settled.loss_sum / trained as f64
        })
        .collect()
}

#[test]
fn twenty_steps_follow_the_cpus_curve() {
    let decoder = model(Arch::Llama, 2);
    let lora = Lora::init(&decoder, 3, 6.0, &all_linear(), 5).unwrap();
    let Some((mut cpu, mut gpu)) = both(&decoder, &lora, 0) else { return };
    let rows = batch(53, &[9, 7, 12, 30]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let (wanted, found) = (train(&mut cpu, &rows, 20), train(&mut gpu, &rows, 20));
    assert!(wanted[19] < 0.7 * wanted[0], "training lowers the loss: {wanted:?}");
    for (step, (f, w)) in found.iter().zip(&wanted).enumerate() {
        assert!((f / w - 1.0).abs() < 0.02, "step {step}: {f} wanted {w}");
    }
    gpu.bring_home().unwrap();
    let (found, wanted) = (gpu.adapter().unwrap().values(), cpu.adapter().unwrap().values());
    assert!(off(found, wanted) < 0.1, "adapters are off by {:.3}", off(found, wanted));
}

#[test]
fn a_state_saved_on_a_gpu_goes_on_there_bit_for_bit_and_on_the_cpu() {
    let decoder = model(Arch::Llama, 1);
    let lora = Lora::init(&decoder, 3, 6.0, &all_linear(), 5).unwrap();
    let Some((mut cpu, mut whole)) = both(&decoder, &lora, 0) else { return };
    let rows = batch(53, &[9, 7, 12]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let losses = train(&mut whole, &rows, 6);
    let dir = tempfile::tempdir().unwrap();
    let (_, mut first) = both(&decoder, &lora, 0).unwrap();
    train(&mut first, &rows, 3);
    assert!(first.save_state(dir.path()).is_err(), "what is on the device is not saved by mistake");
    first.bring_home().unwrap();
    first.save_state(dir.path()).unwrap();
    let (_, mut second) = both(&decoder, &lora, 0).unwrap();
    train(&mut second, &rows, 1);
    second.load_state(dir.path()).unwrap();
    assert_eq!(second.steps(), 3);
    assert_eq!(train(&mut second, &rows, 3), losses[3..]);
    cpu.load_state(dir.path()).unwrap();
    let on_cpu = train(&mut cpu, &rows, 3);
    assert!(
        on_cpu.iter().zip(&losses[3..]).all(|(a, b)| (a / b - 1.0).abs() < 0.02),
        "{on_cpu:?} {losses:?}"
    );
}

#[test]
fn every_row_s_own_loss_of_a_step_is_told_with_the_sum() {
    let decoder = model(Arch::Llama, 1);
    let lora = rounded(&decoder, &all_linear());
    let Some((mut cpu, mut gpu)) = both(&decoder, &lora, 0) else { return };
    // One row has no target; two batches, the second one larger than the room that the first one made.
    let rows = batch(53, &[9, 7, 12, 30, 3, 8, 8, 8, 8, 8, 8]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let mut settled = [&mut cpu, &mut gpu].map(|t| {
        t.zero_grad();
        t.accumulate(&rows[..4], 0.1).unwrap();
        t.accumulate(&rows[4..], 0.1).unwrap();
        t.settle().unwrap()
    });
    let [wanted, found] = &mut settled;
    assert_eq!((found.row_losses.len(), found.row_losses[2]), (rows.len(), 0.0));
    for (i, (f, w)) in found.row_losses.iter().zip(&wanted.row_losses).enumerate() {
        assert!((f - w).abs() <= 0.01 * w, "row {i}: {f} wanted {w}");
    }
    let sum: f64 = found.row_losses.iter().sum();
    assert!((found.loss_sum - sum).abs() < 1e-9 * sum);
    // What was told is not told again.
    gpu.accumulate(&rows[..1], 0.1).unwrap();
    assert_eq!(gpu.settle().unwrap().row_losses, found.row_losses[..1]);
}

#[test]
fn a_gradient_that_is_not_finite_takes_no_step() {
    let decoder = model(Arch::Llama, 1);
    let lora = rounded(&decoder, &all_linear());
    let Some((_, mut gpu)) = both(&decoder, &lora, 0) else { return };
    let rows = batch(53, &[9, 7]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    gpu.accumulate(&rows, f32::INFINITY).unwrap();
    assert!(!gpu.settle().unwrap().grad_norm.is_finite());
    gpu.step(&AdamW::default(), 1.0);
    gpu.bring_home().unwrap();
    assert_eq!(gpu.adapter().unwrap().values(), lora.values());
}

#[test]
fn full_training_is_refused_with_what_to_do() {
    let Some(launcher) = Emulator::new(0) else { return };
    let mut full = Trainable::full((*model(Arch::Llama, 1)).clone(), 1);
    let message = full.move_to(launcher).unwrap_err().to_string();
    assert!(message.contains("device = \"cpu\""), "{message}");
}

#[test]
fn out_of_memory_says_what_to_lower_and_what_that_saves() {
    let decoder = model(Arch::Llama, 3);
    let lora = rounded(&decoder, &all_linear());
    let Some(launcher) = Emulator::with_room(0, 400 << 10) else { return };
    let mut gpu = Trainable::lora(decoder.clone(), lora.clone(), 1).unwrap();
    gpu.move_to(launcher).unwrap();
    let rows = batch(53, &[90; 8]);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let message = gpu.forward_backward(&rows, 0.5).unwrap_err().to_string();
    for words in
        ["out of device memory", "the base takes", "batch_size or max_length by half saves", "logits"]
    {
        assert!(message.contains(words), "{message}");
    }
    // Fewer rows at once fit, and what failed is forgotten.
    gpu.zero_grad();
    assert!(gpu.forward_backward(&rows[..1], 0.5).unwrap().loss_sum > 0.0);

    let Some(tiny) = Emulator::with_room(0, 1 << 12) else { return };
    let mut none = Trainable::lora(decoder, lora, 1).unwrap();
    let message = none.move_to(tiny).unwrap_err().to_string();
    assert!(message.contains("the base takes") && message.contains("device = \"cpu\""), "{message}");
}
