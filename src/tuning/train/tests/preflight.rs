//! What is reckoned before a run, and that looking at the largest batches leaves no trace.

use super::super::preflight::{Asked, reckon, rehearse};
use super::*;
use crate::domain::preflight::PastRuns;
use crate::domain::settings::{Method, Recompute};

/// Bytes that a machine must have free for a plan of `bytes` beside what this process holds already.
fn available(bytes: u64) -> u64 {
    (bytes as f64 / 0.9) as u64
}

#[test]
fn a_run_that_does_not_fit_is_told_what_to_lower_before_anything_is_loaded() {
    let runs = Runs::new();
    let base = model(1);
    let data = Data { train: &runs.train, dev: &runs.dev };
    let config = &base.decoder().config;
    let settings = TrainSettings { rank: 1, recompute: Recompute::Never, method: Method::Full, ..settings() };
    let asked = Asked { config, files: 0, data, settings: &settings, threads: 2, held: 0 };
    let Err(error) = reckon(&asked, None, 0) else { panic!("it does not fit") };
    let error = error.to_string();
    for needle in [
        "does not fit",
        "method = \"lora\" saves",
        "batch_size = 1 with accumulate = 4 saves",
        "max_length below",
    ] {
        assert!(error.contains(needle), "{error}");
    }
}

#[test]
fn activations_are_made_again_when_memory_asks_and_only_then() {
    let runs = Runs::new();
    let base = model(1);
    let data = Data { train: &runs.train, dev: &runs.dev };
    let settings = settings();
    let asked =
        Asked { config: &base.decoder().config, files: 0, data, settings: &settings, threads: 1, held: 0 };
    let plenty = reckon(&asked, None, 1 << 40).unwrap();
    assert_eq!((plenty.report.recomputed.0, plenty.grant), (0, usize::MAX));
    let always = TrainSettings { recompute: Recompute::Always, ..settings.clone() };
    let least = reckon(&Asked { settings: &always, ..asked }, None, 1 << 40).unwrap();
    assert!(least.report.memory.activations < plenty.report.memory.activations);
    assert_eq!(least.report.recomputed.0, plenty.report.recomputed.1);
    // Between the two: something is made again, and it fits.
    let middle = least.report.memory.total().midpoint(plenty.report.memory.total());
    let tight = reckon(&asked, None, available(middle)).unwrap();
    assert!(tight.report.recomputed.0 > 0 && tight.report.memory.total() <= middle);
}

#[test]
fn past_runs_correct_the_estimates() {
    let runs = Runs::new();
    let base = model(1);
    let data = Data { train: &runs.train, dev: &runs.dev };
    let settings = settings();
    let asked =
        Asked { config: &base.decoder().config, files: 0, data, settings: &settings, threads: 1, held: 0 };
    let first = reckon(&asked, None, 1 << 40).unwrap();
    assert_eq!(first.report.eta_ms, None);
    let past = PastRuns { runs: 3, memory: 1.5, flops_per_s: first.flops / 20.0 };
    let next = reckon(&asked, Some(&past), 1 << 40).unwrap();
    assert_eq!(next.report.eta_ms, Some(20_000));
    let ratio = next.report.peak as f64 / next.reckoned as f64;
    assert!((ratio - 1.5).abs() < 1e-6);
    // 28 rows four times, and 7 dev rows at each of 20 / 4 evaluations and before the first step.
    let tokens = |examples: &[Example]| examples.iter().map(|e| e.sequence.size().tokens as u64).sum::<u64>();
    assert_eq!(next.report.tokens, 4 * tokens(&runs.train) + 6 * tokens(&runs.dev));
    assert_eq!(next.report.steps, 20);
}

#[test]
fn running_the_largest_batches_first_changes_nothing() {
    let runs = Runs::new();
    let data = Data { train: &runs.train, dev: &runs.dev };
    let curve = |rehearsed: bool| {
        let mut model = model(3);
        if rehearsed {
            rehearse(&mut model, data, &settings()).unwrap();
        }
        let mut recorder = Recorder::new();
        fit(&mut model, data, &settings(), Past::default(), &mut no_samples, &mut recorder).unwrap();
        let lora = model.adapter().unwrap().values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        (recorder.evals(), lora)
    };
    assert_eq!(curve(true), curve(false));
}
