//! Answers of a random Llama: many rows on one prompt, one row alone, labels scored and labels generated.
//!
//! The counterpart of `benches/peers/decode_torch.py`: the same model and prompts of the same shape, so that both run in turn
//! compare. No token ends an answer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use super::train_step::{Shape, of_shape, size};
use crate::domain::candidate::Decoding;
use crate::domain::settings::DeviceChoice;
use crate::machine;
use crate::model::Decoder;
use crate::model::config::{Arch, ModelConfig, RopeScaling};
use crate::model::decode::{self, Engine, Generation, Lane, OnGpu, Request, Work};
use crate::model::labels::{LabelScores, LabelTrie};
use crate::model::trainable::BaseOnGpu;
use crate::ops::cuda::{Driver, Gpu, Launcher};
use crate::ops::simd::{dot, simd};

/// Bytes that the bandwidth is measured over: far more than any cache holds.
const READ: usize = 512 << 20;
/// The same of a GPU; the one that tests have is slow.
const GPU_READ: usize = if cfg!(test) { 1 << 20 } else { READ };

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Many rows on one prompt
    Batch,
    /// One row, long answer
    Single,
    /// The batch's rows, one of 77 labels each: scored, and generated
    Labels,
}

/// Shape of model and prompts.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Settings {
    /// What to measure (default: everything)
    #[arg(long)]
    mode: Option<Mode>,
    /// Times that each is measured; the best counts
    #[arg(long, default_value_t = 3, value_parser = size(1..=1000))]
    times: usize,
    #[arg(long, default_value_t = 2, value_parser = size(1..=1024))]
    threads: usize,
    /// cpu (f32) or cuda:0 (bf16)
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Sizes of a known model; others given beside it win
    #[arg(long)]
    shape: Option<Shape>,
    #[arg(long, default_value_t = 512, default_value_ifs = of_shape("1024", "3072"), value_parser = size(2..=65_536))]
    hidden: usize,
    #[arg(long, default_value_t = 8, default_value_ifs = of_shape("28", "28"), value_parser = size(1..=1024))]
    layers: usize,
    #[arg(long, default_value_t = 8, default_value_ifs = of_shape("16", "24"), value_parser = size(1..=1024))]
    heads: usize,
    #[arg(long, default_value_t = 8, default_value_ifs = of_shape("8", "8"), value_parser = size(1..=1024))]
    kv_heads: usize,
    /// Inner dimension of the feed-forward network
    #[arg(long, default_value_t = 1408, default_value_ifs = of_shape("3072", "8192"), value_parser = size(1..=1 << 20))]
    ffn: usize,
    #[arg(long, default_value_t = 8192, default_value_ifs = of_shape("151936", "128256"), value_parser = size(2..=1 << 20))]
    vocab: usize,
    /// Rows of the batch
    #[arg(long, default_value_t = 64, value_parser = size(1..=65_536))]
    rows: usize,
    /// Tokens that all prompts begin with
    #[arg(long, default_value_t = 512, value_parser = size(0..=1 << 20))]
    shared: usize,
    /// Tokens of each prompt after these
    #[arg(long, default_value_t = 16, value_parser = size(1..=1 << 20))]
    suffix: usize,
    /// Tokens of each answer in the batch
    #[arg(long, default_value_t = 16, value_parser = size(1..=1 << 20))]
    new: usize,
    /// Tokens of the answer of one row alone
    #[arg(long, default_value_t = 128, value_parser = size(2..=1 << 20))]
    single_new: usize,
}

/// Each the best of its times.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single: Option<Single>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Peak resident memory of this process, or what was allocated on the GPU; none where the system does not tell.
    pub peak_mib: Option<u64>,
    /// `cpu`, or what the GPU calls itself.
    pub device: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Batch {
    pub ms: f64,
    pub rows_per_s: f64,
    /// New tokens.
    pub tokens_per_s: f64,
    /// Of the first pass with nothing in the cache to the first token of the first row.
    pub ttft_ms: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Single {
    pub ms: f64,
    /// New tokens, with the time of the prompt.
    pub tokens_per_s: f64,
    pub ttft_ms: f64,
    pub tpot_ms: f64,
    /// Read by as many threads from memory, in 10^9 bytes a second; on a GPU what a copy there reads and writes.
    pub bandwidth_gb_s: f64,
    /// Weights read for each token after the first (by arithmetic: elements times 4 bytes, on a GPU 2), as a share of that bandwidth.
    pub mbu: f64,
}

/// Rows a second, with the time of the prompts; and of one row after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Labels {
    pub scored_rows_per_s: f64,
    /// As many tokens as a label has on average, and the one that ends it.
    pub generated_rows_per_s: f64,
    pub scored_alone_per_s: f64,
    pub generated_alone_per_s: f64,
}

/// Labels, and their tokens on average with the one that ends them.
const LABELS: usize = 77;
const LABEL_TOKENS: usize = 6;
/// What the head's weights are multiplied with for labels: random ones find all labels alike, a trained model does not.
const SURE: f32 = 8.0;

/// Runs what is asked for.
pub fn run(s: &Settings) -> anyhow::Result<Report> {
    anyhow::ensure!(
        s.hidden.is_multiple_of(2 * s.heads),
        "--hidden {} is no even multiple of --heads {}",
        s.hidden,
        s.heads
    );
    anyhow::ensure!(
        s.heads.is_multiple_of(s.kv_heads),
        "--heads {} is no multiple of --kv-heads {}",
        s.heads,
        s.kv_heads
    );
    let launcher = match s.device {
        DeviceChoice::Cuda(n) => Some(Driver::open(usize::from(n))?),
        DeviceChoice::Cpu | DeviceChoice::Auto => None,
    };
    run_on(s, launcher)
}

fn run_on(s: &Settings, launcher: Option<Arc<dyn Launcher>>) -> anyhow::Result<Report> {
    let decoder = Arc::new(Decoder::random(config(s), 0).context("making the model")?);
    let wants = |mode| s.mode.is_none_or(|m| m == mode);
    let rig = Rig::new(s, decoder, launcher.as_ref())?;
    let mut report = Report { device: "cpu".into(), ..Report::default() };
    if wants(Mode::Batch) {
        report.batch = Some(batch(s, &rig)?);
    }
    if wants(Mode::Single) {
        report.single = Some(single(s, &rig)?);
    }
    if wants(Mode::Labels) {
        report.labels = Some(labels(s, &rig)?);
    }
    report.peak_mib = machine::peak_resident().map(|b| b >> 20);
    if let Some(launcher) = launcher {
        report.peak_mib = Some(launcher.peak() as u64 >> 20);
        report.device = launcher.name();
    }
    Ok(report)
}

/// A model, and where it answers.
struct Rig {
    decoder: Arc<Decoder>,
    settings: decode::Settings,
}

impl Rig {
    fn new(
        s: &Settings,
        decoder: Arc<Decoder>,
        launcher: Option<&Arc<dyn Launcher>>,
    ) -> anyhow::Result<Self> {
        let gpu = launcher.map(|launcher| -> anyhow::Result<OnGpu> {
            let base = Some(Arc::new(BaseOnGpu::new(launcher, &decoder)?));
            Ok(OnGpu { launcher: launcher.clone(), base })
        });
        let settings = decode::Settings { gpu: gpu.transpose()?, ..decode::Settings::threads(s.threads) };
        Ok(Self { decoder, settings })
    }

    fn on_gpu(&self) -> bool {
        self.settings.gpu.is_some()
    }

    fn engine(&self) -> anyhow::Result<Engine<'static>> {
        Ok(Engine::new(self.decoder.clone(), self.settings.clone())?)
    }

    /// Runs `measure` so many times, on the CPU each with an engine that knows nothing yet. On a GPU one engine stays, so that what
    /// is made once is not measured: it gets another number each time, for prompts of which it knows none.
    fn times(
        &self,
        times: usize,
        mut measure: impl FnMut(&mut Engine<'static>, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut engine = self.engine()?;
        if self.on_gpu() {
            measure(&mut engine, times as u64)?;
        }
        for time in 0..times {
            if self.on_gpu() {
                measure(&mut engine, time as u64)?;
            } else {
                measure(&mut self.engine()?, 0)?;
            }
        }
        Ok(())
    }
}

fn batch(s: &Settings, rig: &Rig) -> anyhow::Result<Batch> {
    let (mut ms, mut ttft_ms) = (f64::INFINITY, f64::INFINITY);
    rig.times(s.times, |engine, time| {
        let (took, made) = answer(engine, &prompts(s, s.rows, s.shared, time), s.new)?;
        ms = ms.min(took);
        ttft_ms = ttft_ms.min(made.iter().map(|m| m.done.ttft_ms).fold(f64::INFINITY, f64::min));
        Ok(())
    })?;
    let (rows_per_s, tokens) = (1e3 * s.rows as f64 / ms, (s.rows * s.new) as f64);
    Ok(Batch { ms, rows_per_s, tokens_per_s: 1e3 * tokens / ms, ttft_ms })
}

fn single(s: &Settings, rig: &Rig) -> anyhow::Result<Single> {
    let mut best = (f64::INFINITY, Generation::default());
    rig.times(s.times, |engine, time| {
        let (ms, made) = answer(engine, &prompts(s, 1, 0, time), s.single_new)?;
        if ms < best.0 {
            best = (ms, made.into_iter().next().unwrap_or_default());
        }
        Ok(())
    })?;
    let (ms, done) = (best.0, best.1.done);
    let (bandwidth, element) = match &rig.settings.gpu {
        Some(gpu) => (Gpu::new(gpu.launcher.clone()).copy_rate(GPU_READ, 20)?, 2),
        None => (bandwidth(s.threads), 4),
    };
    // The embedding's table is not read, but for a row.
    let read = element * (rig.decoder.parameters() - s.vocab * s.hidden);
    Ok(Single {
        ms,
        tokens_per_s: 1e3 * s.single_new as f64 / ms,
        ttft_ms: done.ttft_ms,
        tpot_ms: done.tpot_ms(),
        bandwidth_gb_s: bandwidth / 1e9,
        mbu: 1e3 * read as f64 / done.tpot_ms() / bandwidth,
    })
}

fn labels(s: &Settings, rig: &Rig) -> anyhow::Result<Labels> {
    let mut decoder = (*rig.decoder).clone();
    let head = decoder.tensors().iter().find(|t| t.name == "lm_head.weight").map(|t| t.range());
    let head = head.context("the model has no head of its own")?;
    decoder.values_mut()[head].iter_mut().for_each(|w| *w *= SURE);
    let launcher = rig.settings.gpu.as_ref().map(|gpu| gpu.launcher.clone());
    let rig = Rig::new(s, Arc::new(decoder), launcher.as_ref())?;
    let trie = Arc::new(LabelTrie::new(
        (0..LABELS).map(|i| i.to_string()).collect(),
        &label_tokens(s.vocab),
        &[s.vocab as u32 - 1],
    )?);
    let score = |engine: &mut Engine<'_>, prompts: &[Vec<u32>]| -> anyhow::Result<f64> {
        let start = Instant::now();
        let request = |p: &Vec<u32>| {
            let work = Work::Score(Box::new(LabelScores::new(trie.clone())));
            Request { lane: Lane::BASE, prompt: p.clone(), work }
        };
        let made = engine.run(prompts.iter().map(request).collect(), &mut |_, _| ControlFlow::Continue(()));
        made.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let decoding = Decoding { max_tokens: LABEL_TOKENS, ..Decoding::default() };
    let generate = |engine: &mut Engine<'_>, prompts: &[Vec<u32>]| -> anyhow::Result<f64> {
        let start = Instant::now();
        let request = |p: &Vec<u32>| Request::generate(Lane::BASE, p.clone(), &decoding, &[]);
        let requests = prompts.iter().map(request).collect::<Result<_, _>>()?;
        let made = engine.run(requests, &mut |_, _| ControlFlow::Continue(()));
        made.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut best = [f64::INFINITY; 4];
    // Row after row, each new but for what all share.
    let alone = Settings { suffix: s.suffix + 1, ..s.clone() };
    let measures: [&dyn Fn(&mut Engine<'_>, &[Vec<u32>]) -> anyhow::Result<f64>; 2] = [&score, &generate];
    for (i, measure) in measures.into_iter().enumerate() {
        rig.times(s.times, |engine, time| {
            best[i] = best[i].min(measure(engine, &prompts(s, s.rows, s.shared, time))?);
            let rows = prompts(&alone, s.rows, s.shared, time);
            let each: anyhow::Result<f64> = rows.chunks(1).map(|row| measure(engine, row)).sum();
            best[2 + i] = best[2 + i].min(each?);
            Ok(())
        })?;
    }
    let [scored, generated, scored_alone, generated_alone] = best.map(|seconds| s.rows as f64 / seconds);
    Ok(Labels {
        scored_rows_per_s: scored,
        generated_rows_per_s: generated,
        scored_alone_per_s: scored_alone,
        generated_alone_per_s: generated_alone,
    })
}

/// Labels of three to seven tokens, of which many begin alike, as names of intents do.
fn label_tokens(vocab: usize) -> Vec<Vec<u32>> {
    let most = vocab as u32 - 1;
    (0..LABELS as u32)
        .map(|label| {
            let place = |depth: u32| match depth {
                0 => label % 25,
                1 => 25 + label % 40,
                _ => 65 + (label * 31 + depth * 17) % 200,
            };
            (0..3 + label % 5).map(|depth| place(depth) % most).collect()
        })
        .collect()
}

/// Milliseconds, and the answers.
fn answer(
    engine: &mut Engine<'_>,
    prompts: &[Vec<u32>],
    new: usize,
) -> anyhow::Result<(f64, Vec<Generation>)> {
    let decoding = Decoding { max_tokens: new, ..Decoding::default() };
    let start = Instant::now();
    let request = |p: &Vec<u32>| Request::generate(Lane::BASE, p.clone(), &decoding, &[]);
    let requests = prompts.iter().map(request).collect::<Result<_, _>>()?;
    let made = engine.run(requests, &mut |_, _| ControlFlow::Continue(()));
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let made: Vec<Generation> = made.into_iter().collect::<Result<_, _>>()?;
    anyhow::ensure!(made.iter().all(|m| m.tokens.len() == new), "an answer ended early");
    Ok((ms, made))
}

/// Bytes a second that the threads read together; the best of some times.
fn bandwidth(threads: usize) -> f64 {
    let buffer = vec![1.0f32; READ / size_of::<f32>()];
    let part = buffer.len().div_ceil(threads);
    let seconds = (0..7).map(|_| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in buffer.chunks(part) {
                scope.spawn(move || std::hint::black_box(read(part)));
            }
        });
        start.elapsed().as_secs_f64()
    });
    READ as f64 / seconds.fold(f64::INFINITY, f64::min)
}

simd! {
    fn read(part: &[f32]) -> f32 {
        dot::<FMA>(part, part)
    }
}

fn config(s: &Settings) -> ModelConfig {
    ModelConfig {
        arch: Arch::Llama,
        hidden: s.hidden,
        layers: s.layers,
        heads: s.heads,
        kv_heads: s.kv_heads,
        head_dim: s.hidden / s.heads,
        ffn: s.ffn,
        vocab: s.vocab,
        max_positions: (s.shared + s.suffix + s.new.max(s.single_new)).max(512),
        rms_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tied_embeddings: false,
        sliding_window: None,
        bos: None,
        eos: Vec::new(),
        pad: None,
    }
}

/// Prompts that begin with the same `shared` tokens and go on by themselves; others for each number.
fn prompts(s: &Settings, rows: usize, shared: usize, number: u64) -> Vec<Vec<u32>> {
    let mut state = 1 + number;
    let mut token = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % s.vocab as u64) as u32
    };
    let shared: Vec<u32> = (0..shared).map(|_| token()).collect();
    (0..rows).map(|_| shared.iter().copied().chain((0..s.suffix).map(|_| token())).collect()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn small(more: &str) -> Settings {
        let small = "x --hidden 16 --layers 2 --heads 2 --kv-heads 1 --ffn 24 --vocab 300 --rows 3 --shared 40 --suffix 3 --new 4 --single-new 5 --times 1";
        Cli::try_parse_from(small.split(' ').chain(more.split_whitespace())).unwrap().settings
    }

    #[test]
    fn reports_what_was_asked_for() {
        let all = run(&small("")).unwrap();
        let (batch, single) = (all.batch.unwrap(), all.single.unwrap());
        assert!((batch.tokens_per_s - 4.0 * batch.rows_per_s).abs() < 1e-6 * batch.tokens_per_s);
        assert!(batch.ttft_ms > 0.0 && batch.ttft_ms <= batch.ms);
        assert!(single.tpot_ms > 0.0 && single.mbu > 0.0 && single.bandwidth_gb_s > 0.1);
        let labels = all.labels.unwrap();
        assert!(labels.scored_rows_per_s > 0.0 && labels.generated_alone_per_s > 0.0);
        let one = run(&small("--mode batch")).unwrap();
        assert!(one.batch.is_some() && one.single.is_none());
    }

    #[test]
    fn a_gpu_reports_the_same_and_says_which_it_is() {
        let Some(launcher) = crate::ops::cuda::Emulator::new(0) else { return };
        let all = run_on(&small(""), Some(launcher)).unwrap();
        assert_eq!(all.device, "emulator");
        assert!(all.batch.unwrap().rows_per_s > 0.0 && all.labels.unwrap().scored_rows_per_s > 0.0);
        assert!(all.single.unwrap().mbu > 0.0);
        let shape = Cli::try_parse_from(["x", "--device", "cuda:1", "--shape", "qwen3-0.6b", "--rows", "2"]);
        let shape = shape.unwrap().settings;
        assert_eq!((shape.hidden, shape.vocab, shape.rows), (1024, 151_936, 2));
        assert_eq!(shape.device, DeviceChoice::Cuda(1));
    }

    #[test]
    fn shapes_that_make_no_model_are_errors() {
        let wrong = Settings { heads: 3, ..small("") };
        assert!(run(&wrong).unwrap_err().to_string().contains("--heads"));
        assert!(Cli::try_parse_from(["x", "--rows", "0"]).is_err());
    }
}
