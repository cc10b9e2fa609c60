//! What is reckoned before a run, and that looking at the largest batches leaves no trace.

use super::super::preflight::{Asked, GpuMemory, reckon, rehearse};
use super::super::too_large::TooLarge;
use super::*;
use crate::domain::finding::{Lower, Remedy};
use crate::domain::preflight::PastRuns;
use crate::domain::settings::{Method, Recompute};
use crate::model::ModelError;

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
    let asked = Asked { config, files: 0, data, settings: &settings, threads: 2, held: 0, gpu: None };
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
    let asked = Asked {
        config: &base.decoder().config,
        files: 0,
        data,
        settings: &settings,
        threads: 1,
        held: 0,
        gpu: None,
    };
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
fn a_gpu_is_reckoned_with_its_own_memory_and_element_sizes() {
    let runs = Runs::new();
    let base = model_with_heads_of(8, 1);
    let data = Data { train: &runs.train, dev: &runs.dev };
    let (config, settings) = (&base.decoder().config, settings());
    let gpu = |free: u64| GpuMemory { name: "cuda:0 (a card)".into(), free };
    let on_cpu = Asked { config, files: 0, data, settings: &settings, threads: 1, held: 0, gpu: None };
    let (cpu, card) = (reckon(&on_cpu, None, 1 << 40).unwrap(), gpu(1 << 40));
    let on_gpu = Asked { gpu: Some(&card), ..on_cpu };
    let plenty = reckon(&on_gpu, None, 1 << 40).unwrap();
    assert_eq!(2 * plenty.report.memory.weights, cpu.report.memory.weights, "bf16");
    assert_eq!((plenty.report.available, plenty.grant), (1 << 40, usize::MAX));
    assert!(plenty.report.line().contains("free on cuda:0 (a card)"));
    // Its free memory decides, not the machine's; that must hold the base.
    let always = TrainSettings { recompute: Recompute::Always, ..settings.clone() };
    let least = reckon(&Asked { settings: &always, ..on_gpu }, None, 1 << 40).unwrap().report.memory.total();
    let middle = gpu(available(least.midpoint(plenty.report.memory.total())));
    let tight = reckon(&Asked { gpu: Some(&middle), ..on_gpu }, None, 1 << 40).unwrap();
    assert!(tight.report.recomputed.0 > 0 && tight.grant < usize::MAX);
    let message = reckon(&on_gpu, None, 1000).err().unwrap().to_string();
    assert!(
        message.contains("does not fit this machine's memory") && message.contains("cuda:0"),
        "{message}"
    );
}

#[test]
fn a_run_that_does_not_fit_offers_to_start_again_with_what_is_enough() {
    let runs = Runs::new();
    let base = model_with_heads_of(8, 1);
    let data = Data { train: &runs.train, dev: &runs.dev };
    let config = &base.decoder().config;
    let settings = TrainSettings { recompute: Recompute::Never, ..settings() };
    let plenty = GpuMemory { name: "cuda:0 (a card)".into(), free: 1 << 40 };
    let asked =
        Asked { config, files: 0, data, settings: &settings, threads: 1, held: 0, gpu: Some(&plenty) };
    let always = TrainSettings { recompute: Recompute::Always, ..settings.clone() };
    let least = reckon(&Asked { settings: &always, ..asked }, None, 1 << 40).unwrap().reckoned;
    let offered = |free: u64| {
        let gpu = GpuMemory { free, ..plenty.clone() };
        let error = reckon(&Asked { gpu: Some(&gpu), ..asked }, None, 1 << 40).err().unwrap();
        let finding = error.downcast_ref::<TooLarge>().unwrap().finding("train-7");
        assert!(finding.evidence.contains("does not fit") && finding.evidence.contains("on cuda:0"));
        (finding.remedy, finding.advice)
    };
    let (remedy, advice) = offered(available(least + 64));
    assert_eq!(remedy, Some(Remedy::Again { lower: Lower::Recompute }));
    assert!(advice.contains("tunebench run train --like train-7 --set 'recompute=always'"), "{advice}");
    assert!(
        matches!(offered(0).0, Some(Remedy::Again { .. })),
        "where nothing is enough, what saves the most"
    );
    // A device that runs out all the same.
    let memory = reckon(&asked, None, 1 << 40).unwrap().report.memory;
    let out = anyhow::Error::from(ModelError::OutOfMemory("out of device memory: 1 MiB".into()));
    let error = TooLarge::from_device(out.context("the largest train batch"), &asked, &memory);
    assert_eq!(error.to_string(), "the largest train batch: out of device memory: 1 MiB");
    let remedy = error.downcast_ref::<TooLarge>().unwrap().finding("train-7").remedy;
    assert_eq!(remedy, Some(Remedy::Again { lower: Lower::Recompute }));
    let other = TooLarge::from_device(anyhow::anyhow!("a fault"), &asked, &memory);
    assert!(!other.is::<TooLarge>());
}

#[test]
fn past_runs_correct_the_estimates() {
    let runs = Runs::new();
    let base = model(1);
    let data = Data { train: &runs.train, dev: &runs.dev };
    let settings = settings();
    let asked = Asked {
        config: &base.decoder().config,
        files: 0,
        data,
        settings: &settings,
        threads: 1,
        held: 0,
        gpu: None,
    };
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
