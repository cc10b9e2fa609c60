//! Every method of training an adapter on a GPU, on the emulator, against the CPU's step; tolerances as in `gpu_tests`.

use std::sync::Arc;

use half::bf16;

use super::gpu_tests::{gpu_gradient, model, off, train};
use super::method_tests::{away, methods, start};
use super::tests::batch;
use super::*;
use crate::domain::settings::{Init, TrainSettings};
use crate::model::config::Arch;
use crate::ops::cuda::Emulator;

fn base(arch: Arch, layers: usize, settings: &TrainSettings) -> Arc<Decoder> {
    let decoder = model(arch, layers);
    if settings.method.is_quantized() { Arc::new(decoder.quantized().unwrap()) } else { decoder }
}

/// Away from the start, of numbers that bf16 has, so that both sides compute with the same.
fn rounded(decoder: &Arc<Decoder>, settings: &TrainSettings) -> Trainable {
    let mut trainable = away(decoder, settings, 1);
    let Model::Lora { lora, decoder } = &mut trainable.model else { unreachable!() };
    let start = lora.start.iter_mut().flat_map(|start| &mut start.params);
    for x in lora.params.iter_mut().chain(start) {
        *x = bf16::from_f32(*x).to_f32();
    }
    lora.refresh(decoder, Par::SERIAL);
    trainable
}

fn on_gpu(mut trainable: Trainable, order: i32) -> Option<Trainable> {
    trainable.move_to(Emulator::new(order)?).unwrap();
    Some(trainable)
}

#[test]
fn a_step_of_every_method_agrees_with_the_cpus() {
    for (name, settings) in methods() {
        for arch in [Arch::Qwen2, Arch::Qwen3] {
            let decoder = base(arch, 2, &settings);
            let mut cpu = rounded(&decoder, &settings);
            let Some(mut gpu) = on_gpu(rounded(&decoder, &settings), 0) else { return };
            let rows = batch(53, &[9, 7, 12, 70, 3]);
            let rows: Vec<&Sequence> = rows.iter().collect();
            let wanted = cpu.forward_backward(&rows, 0.5).unwrap();
            let found = gpu.forward_backward(&rows, 0.5).unwrap();
            assert_eq!(found.trained, wanted.trained);
            let relative = (found.loss_sum / wanted.loss_sum - 1.0).abs();
            assert!(relative < 4e-3, "{name}, {arch:?}: {} wanted {}", found.loss_sum, wanted.loss_sum);
            let (dropped, evaluated) = (found.loss_sum, gpu.loss(&rows).unwrap().loss_sum);
            let without = cpu.loss(&rows).unwrap().loss_sum;
            assert!((evaluated / without - 1.0).abs() < 4e-3, "{name}: {evaluated} wanted {without}");
            assert_eq!(
                settings.dropout > 0.0,
                (dropped / evaluated - 1.0).abs() > 1e-6,
                "{name}: what is dropped"
            );
            let (found, wanted) = (gpu_gradient(&mut gpu), cpu.gradient().to_vec());
            assert!(
                off(&found, &wanted) < 0.03,
                "{name}, {arch:?}: gradient off by {:.4}",
                off(&found, &wanted)
            );
            // Every matrix by itself: a wrong one must not hide behind the large ones.
            for m in cpu.adapter().unwrap().modules() {
                let a = m.a..m.a + m.rank * m.inputs;
                let b = m.b..m.b + m.rank * m.outputs;
                let magnitudes = m.magnitude.map(|at| ("magnitude", at..at + m.outputs));
                for (part, range) in [("A", a), ("B", b)].into_iter().chain(magnitudes) {
                    let off = off(&found[range.clone()], &wanted[range]);
                    assert!(off < 0.07, "{name}, {arch:?}: {} {part} off by {off:.4}", m.name);
                }
            }
        }
    }
}

#[test]
fn no_method_s_step_depends_on_the_order_of_threads_or_on_activations_made_again() {
    for (name, settings) in methods() {
        let decoder = base(Arch::Qwen2, 3, &settings);
        let rows = batch(53, &[9, 7, 12, 30]);
        let rows: Vec<&Sequence> = rows.iter().collect();
        let gradient = |order: i32, grant: usize| {
            let mut gpu = on_gpu(rounded(&decoder, &settings), order)?;
            gpu.grant_activations(grant);
            let loss = gpu.forward_backward(&rows, 0.5).unwrap().loss_sum;
            Some((loss.to_bits(), gpu_gradient(&mut gpu)))
        };
        let Some(wanted) = gradient(0, usize::MAX) else { return };
        for (order, grant) in [(1, usize::MAX), (0, 0)] {
            assert!(
                gradient(order, grant).unwrap() == wanted,
                "{name}: order {order}, {grant} bytes granted"
            );
        }
    }
}

#[test]
fn training_by_every_method_follows_the_cpus_and_resumes_bit_for_bit() {
    for (name, settings) in methods() {
        let decoder = base(Arch::Llama, 2, &settings);
        let rows = batch(53, &[9, 7, 12]);
        let rows: Vec<&Sequence> = rows.iter().collect();
        let fresh = || start(&decoder, &settings, 1);
        let mut cpu = fresh();
        let (Some(mut whole), Some(mut first)) = (on_gpu(fresh(), 0), on_gpu(fresh(), 0)) else { return };
        let (wanted, losses) = (train(&mut cpu, &rows, 4), train(&mut whole, &rows, 4));
        for (step, (f, w)) in losses.iter().zip(&wanted).enumerate() {
            assert!((f / w - 1.0).abs() < 0.02, "{name}, step {step}: {f} wanted {w}");
        }
        train(&mut first, &rows, 2);
        first.bring_home().unwrap();
        let dir = tempfile::tempdir().unwrap();
        first.save_state(dir.path()).unwrap();
        let mut second = on_gpu(fresh(), 1).unwrap();
        train(&mut second, &rows, 1);
        second.load_state(dir.path()).unwrap();
        let resumed = train(&mut second, &rows, 2);
        // What PiSSA writes is read back with the rounding of a difference.
        let exact = settings.init != Init::Pissa;
        for (f, w) in resumed.iter().zip(&losses[2..]) {
            assert!(
                if exact { f == w } else { (f / w - 1.0).abs() < 2e-3 },
                "{name}: {f} resumed, {w} at once"
            );
        }
        // What came home computes on the CPU as it does there.
        whole.bring_home().unwrap();
        let on_gpu = whole.loss(&rows).unwrap().loss_sum;
        let (lora, decoder) = whole.into_parts();
        let home = Trainable::lora(decoder, lora.unwrap(), 1).unwrap().loss(&rows).unwrap().loss_sum;
        assert!((on_gpu / home - 1.0).abs() < 0.01, "{name}: {on_gpu} there, {home} at home");
    }
}
