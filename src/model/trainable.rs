//! A model in training: gradients of batches, optimizer, state on disk.
//!
//! A batch is split by sequence over threads; each packs its rows one after another (no padding), goes forward and backward
//! through all layers by itself, serially, and adds to a gradient of its own; these are summed in a fixed order. So results
//! depend on the number of threads only by rounding, and not at all otherwise.

mod buffers;
mod cpu;
mod device;
pub mod footprint;
mod gpu;
#[cfg(test)]
mod gpu_method_tests;
#[cfg(test)]
mod gpu_tests;
mod gpu_training;
#[cfg(test)]
mod method_tests;
mod pass;
mod plan;
mod state;
#[cfg(test)]
mod tests;
mod workspace;

use std::ops::Range;
use std::sync::Arc;

use super::ModelError;
use super::decoder::{Decoder, Param};
use super::lora::Lora;
use crate::ops::cuda::{self, Launcher};
use crate::ops::{self, Par};
use cpu::{Cpu, Host, Losses};
use device::Packed;
use gpu_training::GpuTraining;
use pass::Net;
use plan::Plan;
use workspace::Workspace;

pub use crate::ops::AdamW;
pub use buffers::{Buffers, Lendable};

/// One row: its tokens, and which of them are targets (each is predicted from the tokens before it, so never the first).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub trained: Vec<bool>,
}

impl Sequence {
    /// Number of targets.
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|t| **t).count()
    }

    /// The tokens before the answer, which is the last run of targets.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.answer_start()]
    }

    /// The last run of targets.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.answer_start()..]
    }

    fn answer_start(&self) -> usize {
        self.trained.iter().rposition(|t| !t).map_or(0, |last| last + 1).min(self.tokens.len())
    }

    /// Tokens that are read: all before the last target; none without a target.
    fn inputs(&self) -> usize {
        self.trained.iter().rposition(|t| *t).unwrap_or(0)
    }
}

/// Sum of the losses (natural log) over the targets of a batch, and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepLoss {
    pub loss_sum: f64,
    pub trained: usize,
}

#[derive(Debug)]
enum Model {
    Lora { decoder: Arc<Decoder>, lora: Lora },
    Full(Box<Decoder>),
}

impl Model {
    fn on_cpu(&self, par: Par) -> Cpu<'_> {
        match self {
            Self::Lora { decoder, lora } => Cpu { decoder, lora: Some(lora), dropout: None, par },
            Self::Full(decoder) => Cpu { decoder, lora: None, dropout: None, par },
        }
    }

    fn decoder(&self) -> &Decoder {
        match self {
            Self::Lora { decoder, .. } => decoder,
            Self::Full(decoder) => decoder,
        }
    }

    fn params(&mut self) -> &mut [f32] {
        match self {
            Self::Lora { lora, .. } => &mut lora.params,
            Self::Full(decoder) => &mut decoder.params,
        }
    }

    fn parameters(&self) -> usize {
        match self {
            Self::Lora { lora, .. } => lora.parameters(),
            Self::Full(decoder) => decoder.parameters(),
        }
    }
}

/// One thread's buffers and gradient.
#[derive(Debug, Default)]
struct Shard {
    workspace: Workspace<Host>,
    /// As long as the trained parameters once used.
    grad: Vec<f32>,
    dirty: bool,
    losses: Losses,
    /// Rows of the batch, and the sum of their losses.
    rows: Vec<(usize, f64)>,
}

/// What a training step does with an adapter beyond following its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterTraining {
    /// Share of the adapters' inputs that is dropped, below 1; which ones depends on `seed`, the step, the row's tokens, and on
    /// nothing else. q, k and v share a mask, gate and up too.
    pub dropout: f32,
    pub seed: u64,
    /// Learning rate of `B` and of magnitudes by that of `A` (LoRA+, Hayou et al. 2024, arXiv:2402.12354).
    pub loraplus_lr_ratio: f32,
}

impl Default for AdapterTraining {
    fn default() -> Self {
        Self { dropout: 0.0, seed: 0, loraplus_lr_ratio: 1.0 }
    }
}

/// A decoder whose adapter, or all of whose parameters, are trained.
#[derive(Debug)]
pub struct Trainable {
    model: Model,
    adapter_training: AdapterTraining,
    threads: usize,
    /// Bytes that activations may take, all threads together.
    activations: usize,
    /// The first one's gradient collects the others'.
    shards: Vec<Shard>,
    /// Where the shards' workspaces lie between two batches; those of another model over the same base may use them then.
    buffers: Buffers,
    /// AdamW's first and second moments; empty before the first step.
    m: Vec<f32>,
    v: Vec<f32>,
    steps: u64,
    /// Losses that nobody has asked for yet.
    loss: f64,
    row_losses: Vec<f64>,
    /// Where the work is done, if not here; adapter and moments above are then as old as [`Trainable::bring_home`].
    gpu: Option<Box<GpuTraining>>,
    home: bool,
}

impl Trainable {
    /// Trains `lora`; the decoder stays as it is and gets no gradient.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn lora(decoder: Arc<Decoder>, lora: Lora, threads: usize) -> Result<Self, ModelError> {
        lora.check(&decoder)?;
        Ok(Self::new(Model::Lora { decoder, lora }, threads))
    }

    /// Trains every parameter.
    pub fn full(decoder: Decoder, threads: usize) -> Self {
        Self::new(Model::Full(Box::new(decoder)), threads)
    }

    fn new(model: Model, threads: usize) -> Self {
        Self {
            model,
            adapter_training: AdapterTraining::default(),
            threads: threads.max(1),
            activations: usize::MAX,
            shards: Vec::new(),
            buffers: Buffers::default(),
            m: Vec::new(),
            v: Vec::new(),
            steps: 0,
            loss: 0.0,
            row_losses: Vec::new(),
            gpu: None,
            home: true,
        }
    }

    /// The same with other than the plain training of an adapter.
    #[must_use]
    pub fn with_adapter_training(mut self, training: AdapterTraining) -> Self {
        self.adapter_training = training;
        self
    }

    /// What of this training a GPU does not do; none if it does all.
    pub fn not_on_gpu(&self) -> Option<String> {
        let Model::Lora { decoder, .. } = &self.model else { return Some("method = \"full\"".into()) };
        let dim = decoder.config.head_dim;
        if !cuda::attention_takes(dim) {
            return Some(format!("attention with heads of {dim}"));
        }
        None
    }

    /// Moves the training of an adapter to a GPU: bf16 activations and base, f32 adapter, one shard.
    ///
    /// # Errors
    /// What a GPU does not do; no room on the device.
    pub fn move_to(&mut self, launcher: Arc<dyn Launcher>) -> Result<(), ModelError> {
        let refused = self.not_on_gpu();
        let (Model::Lora { decoder, lora }, None) = (&self.model, &refused) else {
            return Err(ModelError::Request(format!(
                "{} is trained on the CPU only yet: set device = \"cpu\", or train without it",
                refused.unwrap_or_default()
            )));
        };
        let mut gpu = GpuTraining::new(launcher, decoder, lora)?;
        gpu.load(lora, &self.m, &self.v)?;
        self.gpu = Some(Box::new(gpu));
        Ok(())
    }

    /// Whether a GPU does the work.
    pub fn on_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// Copies what a GPU has trained to the host: adapter and moments. Nothing to do on the CPU.
    pub fn bring_home(&mut self) -> Result<(), ModelError> {
        if let (Some(gpu), Model::Lora { lora, decoder }, false) = (&mut self.gpu, &mut self.model, self.home)
        {
            gpu.save(decoder, lora, [&mut self.m, &mut self.v], Par::threads(self.threads))?;
        }
        self.home = true;
        Ok(())
    }

    /// Grants the activations of all threads this many bytes: layers that do not fit are computed again in the backward.
    /// Zero computes all of them again; without a grant all are kept. The gradient is the same, bit for bit.
    pub fn grant_activations(&mut self, bytes: usize) {
        self.activations = bytes;
    }

    /// Works in `buffers` from now on: models over one base that take turns need one set of activations between them.
    /// Whatever others left in them, results are the same, bit for bit.
    pub fn share_buffers(&mut self, buffers: Buffers) {
        self.buffers = buffers;
    }

    /// The model: the frozen base, or the one in training.
    pub fn decoder(&self) -> &Decoder {
        self.model.decoder()
    }

    /// The adapter in training.
    pub fn adapter(&self) -> Option<&Lora> {
        match &self.model {
            Model::Lora { lora, .. } => Some(lora),
            Model::Full(_) => None,
        }
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.model.parameters()
    }

    /// Optimizer steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Adds `scale * d(loss_sum)/dθ` of the batch to the gradient, and returns its loss. Rows without a target count for nothing.
    ///
    /// # Errors
    /// A row that does not fit the model: nothing is added then. A failure of the GPU.
    pub fn forward_backward(&mut self, rows: &[&Sequence], scale: f32) -> Result<StepLoss, ModelError> {
        let trained = self.run(rows, Some(scale))?;
        Ok(StepLoss { loss_sum: self.take_loss()?, trained })
    }

    /// As [`Trainable::forward_backward`], without waiting for the loss: [`Trainable::settle`] tells that of all batches since.
    pub fn accumulate(&mut self, rows: &[&Sequence], scale: f32) -> Result<(), ModelError> {
        self.run(rows, Some(scale)).map(|_| ())
    }

    /// The sum of losses since it was last told, and the Euclidean norm of the gradient. On a GPU this is where the host waits.
    pub fn settle(&mut self) -> Result<(f64, f64), ModelError> {
        match &mut self.gpu {
            Some(gpu) => gpu.settle(),
            None => Ok((std::mem::take(&mut self.loss), self.grad_norm())),
        }
    }

    /// The sum of each row's losses, in the order of the last batch. Empty where they stay on a GPU.
    pub fn row_losses(&self) -> &[f64] {
        &self.row_losses
    }

    /// The batch's loss, without a gradient.
    pub fn loss(&mut self, rows: &[&Sequence]) -> Result<StepLoss, ModelError> {
        let trained = self.run(rows, None)?;
        Ok(StepLoss { loss_sum: self.take_loss()?, trained })
    }

    fn take_loss(&mut self) -> Result<f64, ModelError> {
        match &mut self.gpu {
            Some(gpu) => gpu.take_loss(),
            None => Ok(std::mem::take(&mut self.loss)),
        }
    }

    /// Number of targets; their losses are added to what [`Trainable::take_loss`] gives.
    fn run(&mut self, rows: &[&Sequence], scale: Option<f32>) -> Result<usize, ModelError> {
        for (i, row) in rows.iter().enumerate() {
            check_row(self.model.decoder(), row)
                .map_err(|message| ModelError::Request(format!("row {i} of the batch: {message}")))?;
        }
        let trained = rows.iter().filter(|r| r.inputs() > 0).map(|r| r.targets()).sum();
        let AdapterTraining { dropout, seed, .. } = self.adapter_training;
        let seed = (scale.is_some() && dropout > 0.0 && self.adapter().is_some())
            .then(|| dropout_seed(seed, self.steps));
        let lengths: Vec<usize> = rows.iter().map(|row| row.inputs()).collect();
        self.row_losses.clear();
        if let (Some(gpu), Model::Lora { decoder, lora }) = (&mut self.gpu, &self.model) {
            let packs = plan::packs_for_gpu(&lengths);
            let packs = packs.iter().map(|pack| pack.iter().map(|i| rows[*i]).collect());
            let dropout = seed.map(|seed| (seed, self.adapter_training.dropout));
            gpu.run(decoder, lora, packs, scale, self.activations, dropout)?;
            return Ok(trained);
        }
        let plan = Plan::new(&lengths, self.threads);
        if self.shards.len() < plan.shards.len() {
            self.shards.resize_with(plan.shards.len(), Shard::default);
        }
        self.buffers.lend(self.shards.iter_mut().take(plan.shards.len()).map(|s| &mut s.workspace));
        let activations = self.activations / plan.shards.len().max(1);
        let (mut device, parameters) = (self.model.on_cpu(plan.inner), self.model.parameters());
        device.dropout = seed.map(|_| self.adapter_training.dropout);
        let net = Net { device: &device, activations };
        let work = |shard: &mut Shard, batches: &[Vec<usize>]| {
            if scale.is_some() && shard.grad.len() < parameters {
                shard.grad = vec![0.0; parameters];
            }
            shard.losses.sum = 0.0;
            shard.rows.clear();
            for batch in batches {
                pack(&mut shard.workspace.batch.packed, batch.iter().map(|i| rows[*i]), seed);
                let backward = scale.map(|scale| (scale, shard.grad.as_mut_slice()));
                shard.dirty |= backward.is_some();
                net.run(&mut shard.workspace, &mut shard.losses, backward);
                let mut each = shard.losses.each.iter();
                for &i in batch {
                    let own = each.by_ref().take(rows[i].targets()).map(|l| f64::from(*l)).sum();
                    shard.rows.push((i, own));
                }
            }
        };
        let tasks = self.shards.iter_mut().zip(&plan.shards);
        if plan.shards.len() <= 1 {
            tasks.for_each(|(shard, batches)| work(shard, batches));
        } else {
            let work = &work;
            rayon::scope(|scope| {
                for (shard, batches) in tasks {
                    scope.spawn(move |_| work(shard, batches));
                }
            });
        }
        self.buffers.take_back(self.shards.iter_mut().take(plan.shards.len()).map(|s| &mut s.workspace));
        let used = self.shards.iter().take(plan.shards.len());
        self.loss += used.clone().map(|shard| shard.losses.sum).sum::<f64>();
        self.row_losses.resize(rows.len(), 0.0);
        for (i, sum) in used.flat_map(|shard| &shard.rows) {
            self.row_losses[*i] = *sum;
        }
        Ok(trained)
    }

    pub fn zero_grad(&mut self) {
        if let Some(gpu) = &mut self.gpu {
            return gpu.zero_grad();
        }
        for shard in self.shards.iter_mut().filter(|s| s.dirty) {
            shard.grad.fill(0.0);
            shard.dirty = false;
        }
    }

    /// The gradient so far, in the order of the trained parameters; empty before the first batch.
    pub fn gradient(&mut self) -> &[f32] {
        let Some((first, rest)) = self.shards.split_first_mut() else { return &[] };
        for shard in rest.iter_mut().filter(|s| s.dirty) {
            if first.grad.is_empty() {
                std::mem::swap(&mut first.grad, &mut shard.grad);
            } else {
                for (sum, g) in first.grad.iter_mut().zip(&mut shard.grad) {
                    *sum += *g;
                    *g = 0.0;
                }
            }
            first.dirty = true;
            shard.dirty = false;
        }
        &first.grad
    }

    fn grad_norm(&mut self) -> f64 {
        ops::squared_norm(self.gradient()).sqrt()
    }

    /// One step of AdamW on the gradient, scaled down to norm `clip` if that is positive and exceeded. Vectors (norms, biases)
    /// get no weight decay. The gradient stays until [`Trainable::zero_grad`].
    pub fn step(&mut self, settings: &AdamW, clip: f32) {
        let n = self.parameters();
        let spans = self.spans(settings);
        if let Some(gpu) = &mut self.gpu {
            self.steps += 1;
            self.home = false;
            return gpu.step(&spans, self.steps, clip);
        }
        let norm = self.grad_norm();
        let scale =
            if clip > 0.0 && norm > f64::from(clip) { (f64::from(clip) / (norm + 1e-6)) as f32 } else { 1.0 };
        if self.m.is_empty() {
            (self.m, self.v) = (vec![0.0; n], vec![0.0; n]);
        }
        let Some(first) = self.shards.first().filter(|s| s.grad.len() == n) else { return };
        self.steps += 1;
        let par = Par::threads(self.threads);
        let params = self.model.params();
        for (span, settings) in spans {
            let (w, g) = (&mut params[span.clone()], &first.grad[span.clone()]);
            ops::adamw(&settings, self.steps, scale, w, g, &mut self.m[span.clone()], &mut self.v[span], par);
        }
        if let Model::Lora { decoder, lora } = &mut self.model {
            lora.refresh(decoder, par);
        }
    }

    /// Ranges of the parameters with the optimizer's settings for each.
    fn spans(&self, settings: &AdamW) -> Vec<(Range<usize>, AdamW)> {
        match &self.model {
            Model::Full(decoder) if settings.weight_decay != 0.0 => {
                let of = |p: &Param| {
                    let weight_decay = if p.shape.len() > 1 { settings.weight_decay } else { 0.0 };
                    (p.range(), AdamW { weight_decay, ..*settings })
                };
                decoder.tensors().iter().map(of).collect()
            }
            Model::Lora { lora, .. } if self.adapter_training.loraplus_lr_ratio != 1.0 => {
                let faster = AdamW { lr: settings.lr * self.adapter_training.loraplus_lr_ratio, ..*settings };
                let (mut from, mut spans) = (0, Vec::new());
                for b in lora.spans_of_b() {
                    spans.extend([(from..b.start, *settings), (b.clone(), faster)]);
                    from = b.end;
                }
                spans
            }
            _ => vec![(0..self.parameters(), *settings)],
        }
    }

    /// Ends training: the trained adapter, or the trained model.
    pub fn into_parts(self) -> (Option<Lora>, Arc<Decoder>) {
        match self.model {
            Model::Lora { decoder, lora } => (Some(lora), decoder),
            Model::Full(decoder) => (None, Arc::new(*decoder)),
        }
    }
}

fn check_row(decoder: &Decoder, row: &Sequence) -> Result<(), String> {
    if row.tokens.len() != row.trained.len() {
        return Err(format!(
            "{} tokens but {} marks of what is trained",
            row.tokens.len(),
            row.trained.len()
        ));
    }
    if row.trained.first() == Some(&true) {
        return Err("its first token is marked as trained, but nothing comes before it".into());
    }
    let read = row.inputs();
    decoder.check_tokens(&row.tokens[..read], 0).map_err(|e| e.to_string())?;
    match row.tokens.get(read).filter(|id| **id as usize >= decoder.config.vocab) {
        Some(id) => Err(format!("token {id} is beyond the model's vocabulary of {}", decoder.config.vocab)),
        None => Ok(()),
    }
}

/// What tells a row's tokens apart in the step that has this `seed`: the row's tokens and the position. Rows are known by what they
/// say, not by where they stand, so that order, packs and micro-batches do not matter.
pub(super) fn dropout_keys(seed: u64, tokens: &[u32]) -> impl Iterator<Item = u64> {
    let row = tokens.iter().fold(seed, |key, token| ops::mix(key.wrapping_add(u64::from(*token) + 1)));
    (0..).map(move |position: u64| ops::mix(row.wrapping_add(position)))
}

/// The seed of a step's masks.
fn dropout_seed(seed: u64, steps: u64) -> u64 {
    ops::mix(ops::mix(seed).wrapping_add(steps))
}

/// Lays the rows one after another; with the step's `seed` for dropout, tokens get keys that depend on their row and place.
fn pack<'a>(packed: &mut Packed, rows: impl Iterator<Item = &'a Sequence>, seed: Option<u64>) {
    packed.ids.clear();
    packed.positions.clear();
    packed.keys.clear();
    packed.rows.clear();
    packed.predicting.clear();
    packed.targets.clear();
    for row in rows {
        let (start, n) = (packed.ids.len(), row.inputs());
        packed.ids.extend_from_slice(&row.tokens[..n]);
        packed.positions.extend(0..n as u32);
        if let Some(seed) = seed {
            packed.keys.extend(dropout_keys(seed, &row.tokens).take(n));
        }
        packed.rows.push(start..start + n);
        for (i, (token, trained)) in row.tokens.iter().zip(&row.trained).enumerate().skip(1) {
            if *trained {
                packed.predicting.push((start + i - 1) as u32);
                packed.targets.push(*token);
            }
        }
    }
}
