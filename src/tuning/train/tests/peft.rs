//! Twenty steps against PEFT and torch: `tests/reference/peft_20_steps.py` says how they were made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::super::fit::{Data, Example, Past, fit, no_samples};
use super::super::order::Order;
use super::recorder::Recorder;
use crate::domain::event::EventBody;
use crate::domain::settings::{Schedule, TrainSettings};
use crate::model::trainable::{Sequence, Trainable};
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

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft_20_steps")
}

#[test]
fn twenty_steps_have_the_losses_of_peft_and_torch() {
    let dir = fixture();
    let expected: Expected =
        serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let s = expected.settings;
    let settings = TrainSettings {
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
    };
    // The loop shuffles: put each step's rows where the shuffle takes that step's from.
    let rows: usize = expected.steps.iter().flat_map(|s| &s.micro_batches).map(Vec::len).sum();
    let mut order = Order::new(rows, &settings);
    assert_eq!(order.total_steps(), s.steps);
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

    let decoder = Arc::new(Decoder::load(&dir).unwrap());
    let lora = Lora::load_peft(&dir.join("adapter_start"), &decoder).unwrap();
    let mut model = Trainable::lora(Arc::clone(&decoder), lora, 2).unwrap();
    let mut recorder = Recorder::new();
    fit(
        &mut model,
        Data { train: &train, dev: &[] },
        &settings,
        Past::default(),
        &mut no_samples,
        &mut recorder,
    )
    .unwrap();

    let taken: Vec<(f64, f64, f64)> = recorder
        .events
        .iter()
        .filter_map(|e| match e {
            EventBody::Step { loss, grad_norm, lr, .. } => Some((*loss, *grad_norm, *lr)),
            _ => None,
        })
        .collect();
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

    let reference = Weights::open_file(&dir.join("final_logits.safetensors")).unwrap();
    let (_, ids) = reference.read_ints("input_ids").unwrap();
    let ids: Vec<u32> = ids.iter().map(|&id| u32::try_from(id).unwrap()).collect();
    let want = reference.read_vec("logits", &[1, ids.len(), decoder.config.vocab]).unwrap();
    let trained = decoder.logits_all(&ids, model.adapter(), Par::SERIAL).unwrap();
    let theirs = Lora::load_peft(&dir.join("adapter_final"), &decoder).unwrap();
    let loaded = decoder.logits_all(&ids, Some(&theirs), Par::SERIAL).unwrap();
    for (got, tolerance) in [(loaded, 1e-4), (trained, 1e-3)] {
        let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
        assert!(worst < tolerance, "logits differ by {worst}");
    }
}
