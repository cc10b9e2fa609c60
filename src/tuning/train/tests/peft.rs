//! Twenty steps against PEFT and torch: `tests/reference/peft_20_steps.py` and `peft_methods_20_steps.py` say how they were made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::super::fit::{Data, Example, Past, fit, no_samples};
use super::super::order::Order;
use super::recorder::Recorder;
use crate::domain::event::EventBody;
use crate::domain::settings::{Init, Method, Schedule, TrainSettings};
use crate::model::lora::LoraModule;
use crate::model::trainable::{AdapterTraining, Sequence, Trainable};
use crate::model::weights::Weights;
use crate::model::{Decoder, Lora};
use crate::ops::Par;

#[derive(Deserialize)]
struct Expected {
    settings: Settings,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Settings {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    max_grad_norm: f64,
    warmup: f64,
    batch_size: usize,
    accumulate: usize,
    steps: u64,
}

#[derive(Deserialize)]
struct Step {
    loss: f64,
    grad_norm: f64,
    lr: f64,
    micro_batches: Vec<Vec<Row>>,
}

#[derive(Deserialize)]
struct Row {
    tokens: Vec<u32>,
    trained: Vec<u8>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected() -> Expected {
    let file = fixture("peft_20_steps").join("expected.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn settings_of(s: &Settings) -> TrainSettings {
    TrainSettings {
        learning_rate: s.learning_rate,
        beta1: s.beta1,
        beta2: s.beta2,
        epsilon: s.epsilon,
        weight_decay: s.weight_decay,
        max_grad_norm: s.max_grad_norm,
        warmup: s.warmup,
        schedule: Schedule::Cosine,
        batch_size: s.batch_size,
        accumulate: s.accumulate,
        epochs: 1.0,
        ..TrainSettings::default()
    }
}

/// Loss, gradient norm and rate of every step.
fn train(model: &mut Trainable, expected: &Expected, settings: &TrainSettings) -> Vec<(f64, f64, f64)> {
    // The loop shuffles: put each step's rows where the shuffle takes that step's from.
    let rows: usize = expected.steps.iter().flat_map(|s| &s.micro_batches).map(Vec::len).sum();
    let mut order = Order::new(rows, settings);
    assert_eq!(order.total_steps(), expected.settings.steps);
    let mut train = vec![None; rows];
    for (number, step) in (1..).zip(&expected.steps) {
        let places = order.step(number, |_| 0).concat();
        for (place, row) in places.into_iter().zip(step.micro_batches.iter().flatten()) {
            let trained = row.trained.iter().map(|&t| t == 1).collect();
            let sequence = Sequence { tokens: row.tokens.clone(), trained };
            train[place] = Some(Example { row: place.to_string(), stratum: None, sequence });
        }
    }
    let train: Vec<Example> = train.into_iter().map(Option::unwrap).collect();
    let mut recorder = Recorder::new();
    fit(model, Data { train: &train, dev: &[] }, settings, Past::default(), &mut no_samples, &mut recorder)
        .unwrap();
    let taken = recorder.events.iter().filter_map(|e| match e {
        EventBody::Step { loss, grad_norm, lr, .. } => Some((*loss, *grad_norm, *lr)),
        _ => None,
    });
    taken.collect()
}

/// Largest differences of the logits that `dir` has from those of its own `adapter_final`, and from the trained adapter's.
fn logits_off(dir: &Path, decoder: &Decoder, trained: Option<&Lora>) -> (f32, f32) {
    let reference = Weights::open_file(&dir.join("final_logits.safetensors")).unwrap();
    let (_, ids) = reference.read_ints("input_ids").unwrap();
    let ids: Vec<u32> = ids.iter().map(|&id| u32::try_from(id).unwrap()).collect();
    let want = reference.read_vec("logits", &[1, ids.len(), decoder.config.vocab]).unwrap();
    let theirs = Lora::load_peft(&dir.join("adapter_final"), decoder).unwrap();
    let worst = |adapter: Option<&Lora>| {
        let got = decoder.logits_all(&ids, adapter, Par::SERIAL).unwrap();
        got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
    };
    (worst(Some(&theirs)), worst(trained))
}

#[test]
fn twenty_steps_have_the_losses_of_peft_and_torch() {
    let dir = fixture("peft_20_steps");
    let expected = expected();
    let settings = settings_of(&expected.settings);
    let decoder = Arc::new(Decoder::load(&dir).unwrap());
    let lora = Lora::load_peft(&dir.join("adapter_start"), &decoder).unwrap();
    let mut model = Trainable::lora(Arc::clone(&decoder), lora, 2).unwrap();
    let taken = train(&mut model, &expected, &settings);
    assert_eq!(taken.len(), expected.steps.len());
    for (i, ((loss, grad_norm, lr), want)) in taken.iter().zip(&expected.steps).enumerate() {
        assert!((loss - want.loss).abs() < 1e-4, "step {}: loss {loss}, torch has {}", i + 1, want.loss);
        assert!(
            (grad_norm - want.grad_norm).abs() < 1e-3,
            "step {}: norm {grad_norm}, torch has {}",
            i + 1,
            want.grad_norm
        );
        assert!((lr - want.lr).abs() < 1e-9, "step {}: rate {lr}, torch has {}", i + 1, want.lr);
    }
    let (loaded, trained) = logits_off(&dir, &decoder, model.adapter());
    assert!(loaded < 1e-4 && trained < 1e-3, "logits differ by {loaded} and {trained}");
}

/// What `peft_methods_20_steps.py` leaves of a method.
#[derive(Deserialize)]
struct ExpectedOfMethod {
    rank: usize,
    alpha: f32,
    loraplus_lr_ratio: f64,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f32>,
    steps: Vec<StepOfMethod>,
}

#[derive(Deserialize)]
struct StepOfMethod {
    loss: f64,
    grad_norm: f64,
}

/// `scale B A` (outputs x inputs) of a module as loaded from PEFT's format.
fn product(lora: &Lora, module: &LoraModule) -> Vec<f32> {
    let (a, b) = lora.matrices(module);
    let mut product = vec![0.0; module.outputs * module.inputs];
    for (row, b) in product.chunks_mut(module.inputs).zip(b.chunks(module.rank)) {
        for (b, a) in b.iter().zip(a.chunks(module.inputs)) {
            row.iter_mut().zip(a).for_each(|(p, a)| *p += module.scale * b * a);
        }
    }
    product
}

fn worst(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f32::max)
}

#[test]
fn twenty_steps_of_every_method_have_the_losses_and_the_end_of_peft() {
    let base = fixture("peft_20_steps");
    let expected = expected();
    let decoder = Arc::new(Decoder::load(&base).unwrap());
    for (name, method, init) in [
        ("rslora", Method::Rslora, Init::Default),
        ("dora", Method::Dora, Init::Default),
        ("pissa", Method::Lora, Init::Pissa),
        ("loraplus", Method::Lora, Init::Default),
        ("patterns", Method::Lora, Init::Default),
    ] {
        let dir = fixture("peft_methods_20_steps").join(name);
        let of_method: ExpectedOfMethod =
            serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let settings = TrainSettings {
            method,
            init,
            rank: of_method.rank,
            alpha: of_method.alpha,
            rank_pattern: of_method.rank_pattern,
            alpha_pattern: of_method.alpha_pattern,
            loraplus_lr_ratio: of_method.loraplus_lr_ratio,
            ..settings_of(&expected.settings)
        };
        let fresh = Lora::from_settings(&decoder, &settings, Par::SERIAL).unwrap();
        let start = Lora::load_peft(&dir.join("adapter_start"), &decoder).unwrap();
        assert_eq!(fresh.modules(), start.modules(), "{name}: the same layers, ranks and scales");
        for module in fresh.modules() {
            if let (Some(ours), Some(theirs)) = (fresh.magnitudes(module), start.magnitudes(module)) {
                assert!(worst(ours, theirs) < 1e-5, "{name}: magnitudes of {}", module.name);
            }
            if init == Init::Pissa {
                // Singular vectors have no sign of their own, their product has.
                let off = worst(&product(&fresh, module), &product(&start, module));
                assert!(off < 1e-5, "{name}: {} starts off by {off}", module.name);
            }
        }
        let training = AdapterTraining {
            loraplus_lr_ratio: settings.loraplus_lr_ratio as f32,
            ..AdapterTraining::default()
        };
        let lora = if init == Init::Pissa { fresh } else { start };
        let mut model =
            Trainable::lora(Arc::clone(&decoder), lora, 2).unwrap().with_adapter_training(training);
        let taken = train(&mut model, &expected, &settings);
        assert_eq!(taken.len(), of_method.steps.len());
        for (i, ((loss, grad_norm, _), want)) in taken.iter().zip(&of_method.steps).enumerate() {
            let step = i + 1;
            assert!(
                (loss - want.loss).abs() < 1e-4,
                "{name}, step {step}: loss {loss}, PEFT has {}",
                want.loss
            );
            assert!(
                (grad_norm - want.grad_norm).abs() < 1e-3,
                "{name}, step {step}: norm {grad_norm}, PEFT has {}",
                want.grad_norm
            );
        }

        let (loaded, trained) = logits_off(&dir, &decoder, model.adapter());
        assert!(loaded < 1e-4 && trained < 1e-3, "{name}: logits differ by {loaded} and {trained}");
        // As written, which for PiSSA is the conversion to a plain LoRA of twice the rank.
        let written = tempfile::tempdir().unwrap();
        model.adapter().unwrap().save_peft(written.path(), None).unwrap();
        let ours = Lora::load_peft(written.path(), &decoder).unwrap();
        let theirs = Lora::load_peft(&dir.join("adapter_final"), &decoder).unwrap();
        assert_eq!(ours.modules(), theirs.modules(), "{name}: written as PEFT writes it");
        for module in ours.modules() {
            let off = worst(&product(&ours, module), &product(&theirs, module));
            assert!(off < 1e-4, "{name}: {} ends off by {off}", module.name);
            if init != Init::Pissa {
                let ((a, b), (their_a, their_b)) = (ours.matrices(module), theirs.matrices(module));
                let off = worst(a, their_a).max(worst(b, their_b));
                assert!(off < 1e-4, "{name}: matrices of {} end off by {off}", module.name);
            }
            if let (Some(m), Some(their_m)) = (ours.magnitudes(module), theirs.magnitudes(module)) {
                assert!(worst(m, their_m) < 1e-4, "{name}: magnitudes of {}", module.name);
            }
        }
    }
}
