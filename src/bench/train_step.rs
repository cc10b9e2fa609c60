//! One LoRA training step on a random Llama, beside the floor that its matrix products alone set.
//!
//! The counterpart of `benches/peers/lora_step_torch.py`: the same model, batch and numbers, so that both run in turn compare.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::domain::settings::{DeviceChoice, Targets};
use crate::machine;
use crate::model::config::{Arch, ModelConfig, RopeScaling};
use crate::model::trainable::footprint::On;
use crate::model::{AdamW, Decoder, Lora, Sequence, Trainable};
use crate::ops::cuda::{Driver, Gpu};
use crate::ops::{Mat, MatMut, Par, Write, matmul};

/// Side of the matrices whose product tells a GPU's rate, and how often it is made.
const RATE_SIDE: usize = 8192;
const RATE_TIMES: usize = 30;

/// The shape of a known model; its weights are random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shape {
    #[value(name = "qwen3-0.6b")]
    Qwen3,
    #[value(name = "llama-3.2-3b")]
    Llama3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

/// Shape of model and batch.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Settings {
    /// Steps to run; the second half counts
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u16).range(2..))]
    steps: u16,
    #[arg(long, default_value_t = 2, value_parser = size(1..=1024))]
    threads: usize,
    /// cpu or cuda:0
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// What activations are stored as: f32 on the CPU, bf16 on a GPU
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Sizes of a known model, four rows of 2048 tokens, rank 16; others given beside it win
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
    /// Rows of one step
    #[arg(long, default_value_t = 8, default_value_ifs = of_shape("4", "4"), value_parser = size(1..=65_536))]
    batch: usize,
    /// Tokens of one row
    #[arg(long, default_value_t = 128, default_value_ifs = of_shape("2048", "2048"), value_parser = size(1..=1 << 20))]
    seq: usize,
    #[arg(long, default_value_t = 8, default_value_ifs = of_shape("16", "16"), value_parser = size(1..=4096))]
    rank: usize,
    /// Keep only each layer's input for the backward and compute the rest again
    #[arg(long)]
    recompute: bool,
}

/// A default for each shape.
pub(super) fn of_shape(
    qwen3: &'static str,
    llama3: &'static str,
) -> [(&'static str, clap::builder::ArgPredicate, Option<&'static str>); 2] {
    let is = |name: &'static str| clap::builder::ArgPredicate::Equals(name.into());
    [("shape", is("qwen3-0.6b"), Some(qwen3)), ("shape", is("llama-3.2-3b"), Some(llama3))]
}

/// A whole number in a range; clap has no ranged parser for `usize`.
pub(super) fn size(
    range: std::ops::RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    move |text| {
        let value: usize = text.parse().map_err(|_| format!("`{text}` is not a whole number"))?;
        if range.contains(&value) { Ok(value) } else { Err(format!("{value} is not in {range:?}")) }
    }
}

/// Medians over the second half of the steps.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub ms_per_step: f64,
    /// The step's large matrix products alone: on the CPU made by themselves over the same threads, on a GPU all of the step's
    /// operations at the rate of one large product.
    pub floor_ms: f64,
    pub tokens_per_s: f64,
    /// Peak resident memory of this process, or what was allocated on the GPU; none where the system does not tell.
    pub peak_mib: Option<u64>,
    /// What preflight would have said of it; on the CPU only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reckoned_mib: Option<u64>,
    /// `cpu`, or what the GPU calls itself.
    pub device: String,
    /// On a GPU: the rate of one large bf16 product in this run (10^12 operations a second), and the share of it that the step
    /// reaches (MFU; what is computed twice counts once).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matmul_tflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Number of trained parameters.
    pub trainable: usize,
    /// Mean loss per token of the last step.
    pub loss: f64,
}

/// Runs the steps.
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
    let gpu = match (s.device, s.dtype) {
        (DeviceChoice::Cuda(n), None | Some(Dtype::Bf16)) => Some(Driver::open(usize::from(n))?),
        (DeviceChoice::Cpu | DeviceChoice::Auto, None | Some(Dtype::F32)) => None,
        _ => anyhow::bail!("--dtype: the CPU trains in f32, a GPU in bf16"),
    };
    let rate = match &gpu {
        Some(gpu) => Some(Gpu::new(gpu.clone()).matmul_rate(RATE_SIDE, RATE_TIMES)?),
        None => None,
    };
    let held = machine::resident();
    let decoder = Arc::new(Decoder::random(config(s), 0).context("making the model")?);
    let targets = Targets::One("all-linear".into());
    let lora = Lora::init(&decoder, s.rank, 2.0 * s.rank as f32, &targets, 0)?;
    let trained = lora.parameters();
    let mut trainable = Trainable::lora(decoder.clone(), lora, s.threads)?;
    if s.recompute {
        trainable.grant_activations(0);
    }
    let of_rate = gpu.as_ref().map_or(0, |gpu| gpu.peak());
    if let Some(gpu) = &gpu {
        trainable.move_to(gpu.clone())?;
    }
    let rows = rows(s);
    let rows: Vec<&Sequence> = rows.iter().collect();
    let tokens = s.batch * s.seq;
    let on = if trainable.on_gpu() { On::Gpu } else { On::Cpu };
    let memory = trainable.memory(on, &[rows.iter().map(|row| row.size()).collect()], &[]);
    let beside = if on == On::Gpu { Some(0) } else { held };
    let reckoned = beside.map(|held| (held + memory.total()) >> 20);
    let (mut times, mut loss) = (Vec::new(), 0.0);
    for _ in 0..s.steps {
        let start = Instant::now();
        trainable.accumulate(&rows, 1.0 / tokens as f32)?;
        trainable.step(&AdamW { weight_decay: 0.01, ..AdamW::default() }, 0.0);
        loss = trainable.settle()?.loss_sum / tokens as f64;
        trainable.zero_grad();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let ms_per_step = median_of_second_half(&times);
    let flops: f64 = rows.iter().map(|row| trainable.flops(row.size(), true)).sum();
    let (peak_mib, floor_ms) = match (&gpu, rate) {
        // The rate's matrices are freed before, but may have been the most at once in a small run.
        (Some(gpu), Some(rate)) => {
            ((gpu.peak() > of_rate).then(|| gpu.peak() as u64 >> 20), 1e3 * flops / rate)
        }
        _ => {
            let peak = machine::peak_resident().map(|b| b >> 20);
            drop(trainable);
            (peak, floor(s))
        }
    };
    let round = |x: f64| (x * 10.0).round() / 10.0;
    Ok(Report {
        ms_per_step: round(ms_per_step),
        floor_ms: round(floor_ms),
        tokens_per_s: (1e3 * tokens as f64 / ms_per_step).round(),
        peak_mib,
        reckoned_mib: reckoned,
        device: gpu.as_ref().map_or_else(|| "cpu".to_owned(), |gpu| gpu.name()),
        matmul_tflops: rate.map(|rate| round(rate / 1e12)),
        mfu: rate.map(|_| floor_ms / ms_per_step),
        trainable: trained,
        loss,
    })
}

/// Both known models have heads of 128, whatever their hidden size.
fn head_dim(s: &Settings) -> usize {
    s.shape.map_or(s.hidden / s.heads, |_| 128)
}

fn config(s: &Settings) -> ModelConfig {
    ModelConfig {
        arch: if s.shape == Some(Shape::Qwen3) { Arch::Qwen3 } else { Arch::Llama },
        hidden: s.hidden,
        layers: s.layers,
        heads: s.heads,
        kv_heads: s.kv_heads,
        head_dim: head_dim(s),
        ffn: s.ffn,
        vocab: s.vocab,
        max_positions: s.seq.max(512),
        rms_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: s.shape == Some(Shape::Qwen3),
        tied_embeddings: s.shape.is_some(),
        sliding_window: None,
        bos: None,
        eos: Vec::new(),
        pad: None,
    }
}

fn rows(s: &Settings) -> Vec<Sequence> {
    let mut state = 1_u64;
    let mut token = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % s.vocab as u64) as u32
    };
    let row = |_| Sequence {
        tokens: (0..=s.seq).map(|_| token()).collect(),
        trained: (0..=s.seq).map(|i| i > 0).collect(),
    };
    (0..s.batch).map(row).collect()
}

fn median_of_second_half(times: &[f64]) -> f64 {
    let mut half = times[times.len() / 2..].to_vec();
    half.sort_by(f64::total_cmp);
    half[half.len() / 2]
}

/// The products of a step with the frozen weights, each forward and for its input's gradient, without anything between them.
fn floor(s: &Settings) -> f64 {
    let tokens = (s.batch * s.seq).div_ceil(s.threads);
    let (h, q, kv) = (s.hidden, head_dim(s) * s.heads, head_dim(s) * s.kv_heads);
    let layer = [(h, q + 2 * kv), (q, h), (h, 2 * s.ffn), (s.ffn, h)];
    let widest = layer.iter().flat_map(|(i, o)| [*i, *o]).max().unwrap_or(0);
    let weights: Vec<Vec<f32>> = (0..s.layers).flat_map(|_| layer).map(|(i, o)| vec![0.01; i * o]).collect();
    let head = vec![0.01; s.vocab * h];
    let chunk = tokens.min(256);
    let one_thread = || {
        let (mut x, mut y) = (vec![1.0f32; tokens * widest], vec![0.0f32; tokens * widest]);
        let mut logits = vec![0.0f32; chunk * s.vocab];
        let mut product = |i: usize, o: usize, weight: &[f32], backward: bool| {
            let weight = Mat::new(weight, o, i);
            if backward {
                matmul(
                    MatMut::new(&mut x, tokens, i),
                    Write::Set,
                    1.0,
                    Mat::new(&y, tokens, o),
                    weight,
                    Par::SERIAL,
                );
            } else {
                matmul(
                    MatMut::new(&mut y, tokens, o),
                    Write::Set,
                    1.0,
                    Mat::new(&x, tokens, i),
                    weight.t(),
                    Par::SERIAL,
                );
            }
        };
        for (weight, (i, o)) in weights.iter().zip(layer.iter().cycle()) {
            product(*i, *o, weight, false);
        }
        // The gradient of the lowest layer's input is not asked for.
        for (weight, (i, o)) in weights.iter().zip(layer.iter().cycle()).skip(1) {
            product(*i, *o, weight, true);
        }
        let head = Mat::new(&head, s.vocab, h);
        for first in (0..tokens).step_by(chunk) {
            let n = chunk.min(tokens - first);
            matmul(
                MatMut::new(&mut logits, n, s.vocab),
                Write::Set,
                1.0,
                Mat::new(&x, n, h),
                head.t(),
                Par::SERIAL,
            );
            matmul(
                MatMut::new(&mut y, n, h),
                Write::Set,
                1.0,
                Mat::new(&logits, n, s.vocab),
                head,
                Par::SERIAL,
            );
        }
    };
    let times: Vec<f64> = (0..6)
        .map(|_| {
            let start = Instant::now();
            rayon::scope(|scope| (0..s.threads).for_each(|_| scope.spawn(|_| one_thread())));
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median_of_second_half(&times)
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

    fn small(more: &[&str]) -> Settings {
        let small = "x --steps 4 --hidden 16 --layers 2 --heads 2 --kv-heads 1 --ffn 24 --vocab 32 --batch 3 --seq 8 --rank 2";
        Cli::try_parse_from(small.split(' ').chain(more.iter().copied())).unwrap().settings
    }

    #[test]
    fn reports_what_the_peer_reports() {
        let report = run(&small(&[])).unwrap();
        // Per layer, rank times (inputs + outputs) of q, k, v, o, gate, up, down.
        let per_layer = 2 * ((16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 24));
        assert_eq!(report.trainable, 2 * per_layer);
        assert!(report.ms_per_step > 0.0 && report.floor_ms >= 0.0 && report.loss < 5.0 && report.loss > 1.0);
    }

    #[test]
    fn a_known_shape_sets_the_sizes_that_are_not_given() {
        let of = |args: &str| Cli::try_parse_from(args.split(' ')).unwrap().settings;
        let qwen = of("x --shape qwen3-0.6b");
        assert_eq!((qwen.hidden, qwen.layers, qwen.batch, qwen.seq, qwen.rank), (1024, 28, 4, 2048, 16));
        let outline = Decoder::outline(config(&qwen), false).unwrap();
        assert_eq!(outline.parameters(), 596_049_920, "Qwen/Qwen3-0.6B, tied embeddings once");
        let llama = of("x --shape llama-3.2-3b --batch 2");
        assert_eq!((llama.hidden, llama.heads, llama.kv_heads, llama.batch), (3072, 24, 8, 2));
        assert_eq!(Decoder::outline(config(&llama), false).unwrap().parameters(), 3_212_749_824);
        assert_eq!(of("x").seq, 128);
    }

    #[test]
    fn a_gpu_that_is_not_here_and_a_type_that_a_device_does_not_have_are_errors() {
        let message = run(&small(&["--dtype", "bf16"])).unwrap_err().to_string();
        assert!(message.contains("f32"), "{message}");
        if crate::ops::cuda::devices() == 0 {
            let message = run(&small(&["--device", "cuda:0", "--dtype", "bf16"])).unwrap_err().to_string();
            assert!(message.contains("CUDA cannot be used") || message.contains("no device"), "{message}");
        }
    }

    #[test]
    fn shapes_that_make_no_model_are_errors() {
        let mut wrong = small(&[]);
        wrong.heads = 3;
        assert!(run(&wrong).unwrap_err().to_string().contains("--heads"));
        assert!(Cli::try_parse_from(["x", "--layers", "0"]).is_err());
        assert!(Cli::try_parse_from(["x", "--steps", "1"]).is_err());
    }
}
