//! What a run will take, reckoned before its model is loaded; and its largest batches, run before its first step.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::fit::{Data, Example};
use super::order::Order;
use super::too_large::TooLarge;
use crate::domain::preflight::{PastRuns, Preflight};
use crate::domain::settings::{Recompute, TrainSettings};
use crate::domain::words::bytes;
use crate::model::trainable::footprint::{On, RowSize};
use crate::model::trainable::{AdapterTraining, Sequence, Trainable};
use crate::model::{Decoder, Lora, ModelConfig};

/// Share of the free memory that a run may plan with: the rest is for the system and for what is not reckoned.
const SHARE: f64 = 0.9;

/// What was reckoned, and what follows from it for the run.
pub struct Plan {
    pub report: Preflight,
    /// Without what past runs teach.
    pub reckoned: u64,
    /// Bytes for activations.
    pub grant: usize,
    /// Floating-point operations of all steps and evaluations.
    pub flops: f64,
}

/// The micro-batches of a run.
pub(super) struct Batches {
    pub train: Vec<Vec<RowSize>>,
    pub dev: Vec<Vec<RowSize>>,
}

impl Batches {
    /// Each different micro-batch once: epochs shuffle anew, so all of them are looked at, up to a bound.
    pub fn new(data: Data<'_>, settings: &TrainSettings) -> Self {
        const STEPS: u64 = 20_000;
        let mut order = Order::new(data.train.len(), settings);
        let size =
            |row: usize| data.train.get(row).map_or(RowSize { tokens: 0, targets: 0 }, |e| e.sequence.size());
        let steps = 1..=order.total_steps().min(STEPS);
        let train = steps
            .flat_map(|step| {
                order.step(step, |row| data.train.get(row).map_or(0, |e| e.sequence.tokens.len()))
            })
            .map(|rows| rows.into_iter().map(size).collect())
            .collect();
        let dev = dev_batches(data.dev, settings)
            .map(|batch| batch.iter().map(|e| e.sequence.size()).collect())
            .collect();
        Self { train, dev }
    }
}

/// Dev rows as an evaluation takes them: rows of like length share a batch.
fn dev_batches<'a>(dev: &'a [Example], settings: &TrainSettings) -> impl Iterator<Item = Vec<&'a Example>> {
    let mut dev: Vec<&Example> = dev.iter().collect();
    dev.sort_by_key(|example| example.sequence.tokens.len());
    let size = settings.batch_size.max(1);
    (0..dev.len().div_ceil(size)).map(move |i| dev[i * size..((i + 1) * size).min(dev.len())].to_vec())
}

/// What a run is asked to do, and with what.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub config: &'a ModelConfig,
    /// Bytes of the weights' files: loading reads them beside what is made of them.
    pub files: u64,
    pub data: Data<'a>,
    pub settings: &'a TrainSettings,
    pub threads: usize,
    /// Bytes that this process holds already.
    pub held: u64,
    /// Where it is to compute, if not on the CPU.
    pub gpu: Option<&'a GpuMemory>,
}

/// A GPU before anything of the run is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// `cuda:0 (NVIDIA H100)`
    pub name: String,
    pub free: u64,
}

impl Asked<'_> {
    pub(super) fn on(&self) -> On {
        if self.gpu.is_some() { On::Gpu } else { On::Cpu }
    }
}

/// Bytes of a run beside its model: what it writes, the rows, the scoring at its end. On the demo's whole run 110.6 MiB were reckoned
/// without them, and 134.5 MiB were taken (benches/README.md).
const RUN: u64 = 16 << 20;

/// Reckons the run. `available` is what the machine has left, in bytes; a GPU has its own, and the machine's then holds the base
/// that it is copied from.
///
/// # Errors
/// A run that does not fit: what to lower, and what each would save.
pub fn reckon(asked: &Asked<'_>, past: Option<&PastRuns>, available: u64) -> anyhow::Result<Plan> {
    let Asked { config, files, data, settings, threads, held, gpu } = *asked;
    let mut model = outline(config, settings, threads)?;
    let batches = Batches::new(data, settings);
    if let Some(gpu) = gpu {
        let at_home = model.bytes_at_home();
        let budget = (available as f64 * SHARE) as u64 + held;
        let needed = held + (at_home + model.bytes_of_state()).max(at_home + files);
        if needed > budget {
            bail!(
                "the base does not fit this machine's memory, from which it goes to {}: it takes about {} and {} may be planned with; take a smaller model, or end what else runs here",
                gpu.name,
                bytes(needed),
                bytes(budget)
            );
        }
    }
    let (available, held, files) = gpu.map_or((available, held + RUN, files), |gpu| (gpu.free, 0, 0));
    let on = asked.on();
    let needs = |model: &Trainable, batches: &Batches| {
        let memory = model.memory(on, &batches.train, &batches.dev);
        (memory, held + memory.total().max(memory.weights + files))
    };
    let budget = (available as f64 * SHARE) as u64 + held;
    let kept = needs(&model, &batches);
    model.grant_activations(0);
    let least = needs(&model, &batches);
    let mut grant = match settings.recompute {
        Recompute::Always => 0,
        Recompute::Auto if kept.1 > budget => {
            let rest = least.0.total() - least.0.activations + held;
            usize::try_from(budget.saturating_sub(rest)).unwrap_or(usize::MAX)
        }
        Recompute::Never | Recompute::Auto => usize::MAX,
    };
    if grant != usize::MAX && grant > 0 {
        // Buffers between operations come on top of what layers keep.
        model.grant_activations(grant);
        let over = needs(&model, &batches).1.saturating_sub(budget);
        grant = grant.saturating_sub(usize::try_from(over).unwrap_or(usize::MAX));
    }
    model.grant_activations(grant);
    let (memory, reckoned) = needs(&model, &batches);
    if reckoned > budget {
        bail!(TooLarge::reckoned(asked, &memory, reckoned, budget)?);
    }

    let order = Order::new(data.train.len(), settings);
    let epochs = order.epochs_after(order.total_steps());
    let evaluations = evaluations(order.total_steps(), settings);
    let sum = |examples: &[Example], of: &dyn Fn(RowSize) -> f64| -> f64 {
        examples.iter().map(|e| of(e.sequence.size())).sum()
    };
    let tokens = |row: RowSize| row.tokens as f64;
    let flops = epochs * sum(data.train, &|row| model.flops(row, true))
        + evaluations * sum(data.dev, &|row| model.flops(row, false));
    let report = Preflight {
        memory,
        peak: past.map_or(reckoned, |past| (reckoned as f64 * past.memory) as u64),
        available,
        recomputed: (model.recomputed(on, &batches.train) as u64, config.layers as u64),
        steps: order.total_steps(),
        tokens: (epochs * sum(data.train, &tokens) + evaluations * sum(data.dev, &tokens)) as u64,
        eta_ms: past.map(|past| (1e3 * flops / past.flops_per_s) as u64),
        past_runs: past.map_or(0, |past| past.runs),
        device: gpu.map(|gpu| gpu.name.clone()),
    };
    Ok(Plan { report, reckoned, grant, flops })
}

/// Evaluations of a run, the one before the first step among them.
fn evaluations(steps: u64, settings: &TrainSettings) -> f64 {
    let every = if settings.eval_every > 0 { settings.eval_every } else { steps.div_ceil(10).max(1) };
    1.0 + steps.div_ceil(every) as f64
}

/// The run's model without its numbers.
pub(super) fn outline(
    config: &ModelConfig,
    settings: &TrainSettings,
    threads: usize,
) -> anyhow::Result<Trainable> {
    let decoder = Decoder::outline(config.clone(), settings.method.is_quantized())?;
    if !settings.method.trains_adapter() {
        return Ok(Trainable::full(decoder, threads));
    }
    let lora = Lora::outline(&decoder, settings)?;
    let training = AdapterTraining { dropout: settings.dropout, ..AdapterTraining::default() };
    Ok(Trainable::lora(Arc::new(decoder), lora, threads)?.with_adapter_training(training))
}

/// Bytes of the weights' files in a model's folder.
pub fn weights_on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let weights = entries.filter(|e| e.path().extension().is_some_and(|ext| ext == "safetensors"));
    weights.filter_map(|e| std::fs::metadata(e.path()).ok()).map(|m| m.len()).sum()
}

/// Runs the largest batch of each kind once, so that what does not fit fails now and not in an hour. Leaves no trace.
pub fn rehearse(model: &mut Trainable, data: Data<'_>, settings: &TrainSettings) -> anyhow::Result<()> {
    let tokens = |batch: &[&Sequence]| batch.iter().map(|s| s.tokens.len()).sum::<usize>();
    let mut order = Order::new(data.train.len(), settings);
    let length = |row: usize| data.train.get(row).map_or(0, |e| e.sequence.tokens.len());
    let train =
        (1..=order.total_steps().min(order.steps_per_epoch())).flat_map(|step| order.step(step, length));
    let train =
        train.map(|rows| rows.iter().filter_map(|r| data.train.get(*r)).map(|e| &e.sequence).collect());
    let train: Option<Vec<&Sequence>> = train.max_by_key(|batch: &Vec<&Sequence>| tokens(batch));
    let dev = dev_batches(data.dev, settings).map(|batch| batch.iter().map(|e| &e.sequence).collect());
    let dev: Option<Vec<&Sequence>> = dev.max_by_key(|batch: &Vec<&Sequence>| tokens(batch));
    if let Some(rows) = dev {
        model.loss(&rows).context("the largest dev batch")?;
    }
    if let Some(rows) = train {
        model.forward_backward(&rows, 1.0).context("the largest train batch")?;
    }
    model.zero_grad();
    Ok(())
}
