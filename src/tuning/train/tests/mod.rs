//! The loop on small models: requests, selection, checkpoints, exact resume.

mod mask;
mod peft;
mod preflight;
pub(super) mod recorder;
mod steer;

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use recorder::{Recorder, steps};

use super::fit::{Data, End, Example, Fitted, Past, Sample, fit, no_samples};
use super::state;
use crate::domain::event::EventBody;
use crate::domain::report::Control;
use crate::domain::settings::{Targets, TrainSettings};
use crate::model::config::{Arch, ModelConfig, RopeScaling};
use crate::model::trainable::{Sequence, Trainable};
use crate::model::{Decoder, Lora};

const VOCAB: u32 = 24;

/// A fresh adapter on a small random base, always the same.
fn model(seed: u64) -> Trainable {
    model_with_heads_of(4, seed)
}

pub(super) fn model_with_heads_of(head_dim: usize, seed: u64) -> Trainable {
    let config = ModelConfig {
        arch: Arch::Llama,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim,
        ffn: 24,
        vocab: VOCAB as usize,
        max_positions: 32,
        rms_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tied_embeddings: true,
        sliding_window: None,
        bos: None,
        eos: vec![0],
        pad: None,
    };
    let mut decoder = Decoder::random(config, 5).unwrap();
    // Larger than models start with, so that there is something to adapt.
    decoder.values_mut().iter_mut().filter(|w| **w != 1.0).for_each(|w| *w *= 15.0);
    let lora = Lora::init(&decoder, 4, 8.0, &Targets::default(), seed).unwrap();
    Trainable::lora(Arc::new(decoder), lora, 2).unwrap()
}

/// Rows of uneven length whose answer is the last token of the prompt plus one, then the end token 0.
pub(super) fn examples(n: usize, offset: u32) -> Vec<Example> {
    (0..n as u32)
        .map(|i| {
            let i = i + offset;
            let mut tokens: Vec<u32> = (0..2 + i % 5).map(|k| 1 + (i * 7 + k * 3) % (VOCAB - 2)).collect();
            let prompt = tokens.len();
            tokens.push(tokens[prompt - 1] + 1);
            tokens.push(0);
            let trained = (0..tokens.len()).map(|t| t >= prompt).collect();
            let stratum = Some(if i.is_multiple_of(3) { "threes" } else { "others" }.to_owned());
            Example { row: format!("row-{i}"), stratum, sequence: Sequence { tokens, trained } }
        })
        .collect()
}

pub(super) fn settings() -> TrainSettings {
    TrainSettings {
        batch_size: 3,
        accumulate: 2,
        epochs: 4.0,
        learning_rate: 0.02,
        eval_every: 4,
        rank: 4,
        alpha: 8.0,
        ..TrainSettings::default()
    }
}

struct Runs {
    train: Vec<Example>,
    dev: Vec<Example>,
}

impl Runs {
    fn new() -> Self {
        // 28 rows make 5 steps an epoch, the last of 4 rows.
        Self { train: examples(28, 0), dev: examples(7, 100) }
    }

    /// Train from the newest checkpoint under the recorder's folder, or from the beginning.
    fn go(&self, settings: &TrainSettings, recorder: &mut Recorder, seed: u64) -> anyhow::Result<Fitted> {
        let mut model = model(seed);
        let from = match recorder.newest() {
            None => None,
            Some(dir) => {
                let state = state::read(&dir)?;
                state::load_model(&dir, &mut model)?;
                Some(state)
            }
        };
        let data = Data { train: &self.train, dev: &self.dev };
        let past = Past { state: from, history: recorder.events.clone() };
        fit(&mut model, data, settings, past, &mut no_samples, recorder)
    }
}

/// The poll after which only step `step` is left to take before a stop acts.
fn poll_of_step(runs: &Runs, step: u64) -> u64 {
    let mut recorder = Recorder::new();
    runs.go(&settings(), &mut recorder, 1).unwrap();
    recorder.last_poll_of_step(step)
}

/// Every byte of a folder's files, by name.
fn model_bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_run_killed_anywhere_goes_on_bit_for_bit() {
    let runs = Runs::new();
    let mut whole = Recorder::new();
    runs.go(&settings(), &mut whole, 1).unwrap();
    let want = steps(&whole.events);
    assert_eq!(want.len(), 20);
    assert!(want[19].1 < want[0].1, "the loss falls");

    // A poll stands between any two micro-batches: kills land before a step, between its micro-batches, in an evaluation.
    for kill_at in [3, 9, 10, 11, 17, 24, 30, 41, 53, 58] {
        let mut killed = Recorder::new();
        killed.script = Box::new(move |poll| {
            if poll == kill_at { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(Control::Continue) }
        });
        runs.go(&settings(), &mut killed, 1).unwrap_err();
        let before = steps(&killed.events).len();
        killed.script = Box::new(|_| Ok(Control::Continue));
        // A checkpoint restores everything: another start must not matter. Without one the run begins again.
        let seed = if killed.newest().is_some() { 2 } else { 1 };
        let fitted = runs.go(&settings(), &mut killed, seed).unwrap();
        assert_eq!(fitted.end, End::Done);
        assert_eq!(steps(&killed.events), want, "killed at poll {kill_at}, after {before} steps");
        assert_eq!(
            model_bytes(&killed.newest().unwrap()),
            model_bytes(&whole.newest().unwrap()),
            "killed at poll {kill_at}"
        );
        assert_eq!(killed.best, whole.best);
    }
}

#[test]
fn a_run_that_is_stopped_at_any_step_goes_on_bit_for_bit() {
    let runs = Runs::new();
    let mut whole = Recorder::new();
    let settings = TrainSettings { patience: 2, ..settings() };
    runs.go(&settings, &mut whole, 1).unwrap();
    for stop_after in 1..20 {
        let mut stopped = Recorder::new();
        stopped.stop_at_poll(whole.last_poll_of_step(stop_after));
        let fitted = runs.go(&settings, &mut stopped, 1).unwrap();
        assert_eq!((fitted.end, fitted.state.step), (End::Stopped, stop_after));
        stopped.script = Box::new(|_| Ok(Control::Continue));
        runs.go(&settings, &mut stopped, 2).unwrap();
        assert_eq!(steps(&stopped.events), steps(&whole.events), "stopped after step {stop_after}");
        assert_eq!(
            model_bytes(&stopped.newest().unwrap()),
            model_bytes(&whole.newest().unwrap()),
            "stopped after step {stop_after}"
        );
    }
}

#[test]
fn a_stopped_run_is_evaluated_where_it_stands() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    recorder.stop_at_poll(poll_of_step(&runs, 6));
    let fitted = runs.go(&settings(), &mut recorder, 1).unwrap();
    assert_eq!(fitted.best_step(), 6, "the newest is the best while the dev loss falls");
    assert_eq!(recorder.best, Some(4), "but the run that may be resumed has not looked yet");
    assert_eq!(recorder.evals().iter().map(|e| e.0).collect::<Vec<_>>(), [0, 4, 6]);
}

#[test]
fn each_epoch_visits_every_row_once_and_steps_name_their_rows() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    runs.go(&settings(), &mut recorder, 1).unwrap();
    let rows: Vec<Vec<String>> = recorder
        .events
        .iter()
        .filter_map(|e| if let EventBody::Step { rows, .. } = e { Some(rows.clone()) } else { None })
        .collect();
    let mut all: Vec<String> = runs.train.iter().map(|e| e.row.clone()).collect();
    all.sort();
    for epoch in rows.chunks(5) {
        let mut seen = epoch.concat();
        seen.sort();
        assert_eq!(seen, all);
    }
}

#[test]
fn every_rows_own_loss_is_told_and_their_mean_is_the_steps() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    runs.go(&settings(), &mut recorder, 1).unwrap();
    let mut steps = 0;
    for event in &recorder.events {
        let EventBody::Step { step, loss, rows, losses, .. } = event else { continue };
        assert_eq!(rows.len(), losses.len());
        // All answers have two tokens.
        let mean = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64;
        assert!((mean - loss).abs() < 1e-6 * loss, "{mean} {loss}");
        if *step == 1 {
            let mut model = model(1);
            for (row, told) in rows.iter().zip(losses) {
                let example = runs.train.iter().find(|e| e.row == *row).unwrap();
                let alone = model.loss(&[&example.sequence]).unwrap().loss_sum / 2.0;
                assert!((alone - f64::from(*told)).abs() < 1e-5 * alone, "{row}: {told}, alone {alone}");
            }
        }
        steps += 1;
    }
    assert_eq!(steps, 20);
}

#[test]
fn the_best_checkpoint_is_kept_and_patience_ends_the_run() {
    // Learns the answers of other rows: the dev loss rises as soon as the training loss has fallen far enough.
    let mut runs = Runs::new();
    for example in &mut runs.dev {
        let prompt = example.sequence.tokens.len() - 2;
        example.sequence.tokens[prompt] = 3;
    }
    let settings = TrainSettings {
        patience: 3,
        eval_every: 1,
        keep_checkpoints: 2,
        epochs: 40.0,
        learning_rate: 0.1,
        ..settings()
    };
    let mut recorder = Recorder::new();
    let fitted = runs.go(&settings, &mut recorder, 1).unwrap();
    assert_eq!(fitted.end, End::Early);
    let evals = recorder.evals();
    let best = evals[1..].iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert_eq!((fitted.best_step(), recorder.best), (best, Some(best)));
    assert_eq!(fitted.state.step, best + 3);
    assert_eq!(recorder.kept(), [best, best + 2, best + 3]);
    // Asked once more, there is nothing left to train.
    let steps_before = steps(&recorder.events).len();
    let again = runs.go(&settings, &mut recorder, 2).unwrap();
    assert_eq!((again.end, again.state), (fitted.end, fitted.state));
    assert_eq!(steps(&recorder.events).len(), steps_before);
}

#[test]
fn an_equal_dev_loss_is_no_better_one_and_the_last_step_ends_the_run_before_patience_does() {
    let runs = Runs::new();
    for (steps, end) in [(20, End::Early), (3, End::Done)] {
        // A rate that changes nothing in f32: every evaluation gives the same loss.
        let settings = TrainSettings {
            learning_rate: 1e-30,
            patience: 2,
            eval_every: 1,
            keep_checkpoints: 1,
            max_steps: Some(steps),
            ..settings()
        };
        let mut recorder = Recorder::new();
        let fitted = runs.go(&settings, &mut recorder, 1).unwrap();
        assert_eq!((fitted.end, fitted.state.step, fitted.best_step()), (end, 3, 1));
        assert_eq!(recorder.kept(), [1, 3], "the best one and the newest");
        let losses: Vec<u64> = recorder.evals().iter().map(|e| e.1.to_bits()).collect();
        assert_eq!(losses, [losses[0]; 4]);
    }
}

#[test]
fn without_dev_rows_the_last_step_is_the_best() {
    let runs = Runs { dev: Vec::new(), ..Runs::new() };
    let mut recorder = Recorder::new();
    let fitted = runs.go(&settings(), &mut recorder, 1).unwrap();
    assert_eq!((fitted.best_step(), recorder.best), (20, Some(20)));
    assert!(recorder.events.iter().all(|e| !matches!(e, EventBody::Eval { loss: Some(_), .. })));
}

#[test]
fn cancel_ends_between_micro_batches_and_writes_nothing() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    recorder.script = Box::new(|poll| Ok(if poll >= 5 { Control::Cancel } else { Control::Continue }));
    let fitted = runs.go(&settings(), &mut recorder, 1).unwrap();
    assert_eq!(fitted.end, End::Cancelled);
    assert_eq!(recorder.kept(), [0u64; 0]);
}

#[test]
fn a_checkpoint_is_written_at_the_end_of_the_step_in_which_it_is_asked_for() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    // Polls 1..=3 belong to the evaluation of 7 rows by 3, 4 and 5 to the first step, 6 and 7 to the second.
    recorder.script = Box::new(|poll| match poll {
        6 => Ok(Control::Checkpoint),
        10 => Err(std::io::ErrorKind::BrokenPipe.into()),
        _ => Ok(Control::Continue),
    });
    runs.go(&settings(), &mut recorder, 1).unwrap_err();
    assert_eq!(recorder.kept(), [2]);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_names_the_rows() {
    let runs = Runs::new();
    let settings = TrainSettings {
        learning_rate: 1e38,
        warmup: 0.0,
        max_grad_norm: 0.0,
        schedule: crate::domain::settings::Schedule::Constant,
        ..settings()
    };
    let mut recorder = Recorder::new();
    let error = runs.go(&settings, &mut recorder, 1).unwrap_err().to_string();
    assert!(error.contains("not") && error.contains("row-") && error.contains("learning_rate"), "{error}");
}

#[test]
fn a_checkpoint_of_other_rows_or_settings_is_refused() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    recorder.stop_at_poll(poll_of_step(&runs, 3));
    runs.go(&settings(), &mut recorder, 1).unwrap();
    let other_settings = TrainSettings { learning_rate: 0.5, ..settings() };
    let other_rows = Runs { train: examples(28, 1), ..Runs::new() };
    for error in [runs.go(&other_settings, &mut recorder, 1), other_rows.go(&settings(), &mut recorder, 1)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("other settings or other rows"), "{error}");
    }
}

#[test]
fn a_damaged_checkpoint_is_told_with_its_file() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    recorder.stop_at_poll(poll_of_step(&runs, 3));
    runs.go(&settings(), &mut recorder, 1).unwrap();
    let dir = recorder.newest().unwrap();
    let victim = model_bytes(&dir).into_iter().map(|f| f.0).find(|name| name != "trainer.json").unwrap();
    let mut bytes = std::fs::read(dir.join(&victim)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join(&victim), &bytes).unwrap();
    let error = state::read(&dir).unwrap_err().to_string();
    assert!(error.contains(&victim) && error.contains("hash"), "{error}");
    std::fs::remove_file(dir.join("trainer.json")).unwrap();
    assert!(state::read(&dir).unwrap_err().to_string().contains("trainer.json"));
}

#[test]
fn fixed_rows_are_answered_at_every_evaluation_and_their_failure_is_only_a_warning() {
    let runs = Runs::new();
    let mut recorder = Recorder::new();
    let mut asked = 0;
    let mut answer = |_: &Trainable| {
        asked += 1;
        anyhow::ensure!(asked != 2, "no answer today");
        Ok(vec![Sample {
            row: "row-3".into(),
            output: format!("answer {asked}"),
            gold: None,
            correct: Some(false),
            ended: Some(true),
        }])
    };
    let data = Data { train: &runs.train, dev: &runs.dev };
    fit(&mut model(1), data, &settings(), Past::default(), &mut answer, &mut recorder).unwrap();
    let samples: Vec<u64> = recorder
        .events
        .iter()
        .filter_map(|e| if let EventBody::Sample { step, .. } = e { Some(*step) } else { None })
        .collect();
    assert_eq!(samples, [0, 8, 12, 16, 20]);
    let warned = |e: &EventBody| matches!(e, EventBody::Warning { message } if message.contains("step 4") && message.contains("no answer today"));
    assert_eq!(recorder.events.iter().filter(|e| warned(e)).count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn how_a_step_is_cut_into_micro_batches_changes_neither_loss_nor_gradient(seed: u64, n in 5usize..30, cut in 0..4usize) {
        let runs = Runs { train: examples(n, 3), dev: Vec::new() };
        let go = |batch_size, accumulate| {
            // Where epsilon is small, AdamW makes a whole step of a gradient that is but rounding, and the next loss shows it.
            let settings =
                TrainSettings { batch_size, accumulate, seed, epochs: 1.0, epsilon: 1.0, ..settings() };
            let mut recorder = Recorder::new();
            runs.go(&settings, &mut recorder, 1).unwrap();
            recorder.losses_and_norms()
        };
        let whole = go(12, 1);
        let split = go([6, 4, 3, 1][cut], [2, 3, 4, 12][cut]);
        prop_assert_eq!(whole.len(), split.len());
        for (w, s) in whole.iter().zip(&split) {
            prop_assert!((w.0 - s.0).abs() <= 1e-5 * w.0.abs() && (w.1 - s.1).abs() <= 1e-5 * w.1.abs(), "{:?} {:?}", w, s);
        }
    }
}
