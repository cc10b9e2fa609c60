//! A model in training: gradients of batches, optimizer, state on disk.
//!
//! A batch is split by sequence over threads; each packs its rows one after another (no padding), goes forward and backward
//! through all layers by itself, serially, and adds to a gradient of its own; these are summed in a fixed order. So results
//! depend on the number of threads only by rounding, and not at all otherwise.

mod buffers;
mod cpu;
mod device;
pub mod footprint;
pub(in crate::model) mod gpu;
#[cfg(test)]
mod gpu_method_tests;
#[cfg(test)]
mod gpu_tests;
mod gpu_training;
#[cfg(test)]
mod method_tests;
mod pass;
mod placement;
mod plan;
mod rows;
mod state;
#[cfg(test)]
mod tests;
mod workspace;

use std::ops::Range;
use std::sync::Arc;

use super::ModelError;
use super::decoder::{Decoder, Param};
use super::lora::Lora;
use crate::ops::{self, Par};
use cpu::{Cpu, Host, Losses};
use gpu_training::GpuTraining;
use pass::Net;
use plan::Plan;
use rows::{check_row, dropout_seed, pack};
use workspace::Workspace;

pub use crate::ops::AdamW;
pub use buffers::{Buffers, Lendable};
pub use gpu::Base as BaseOnGpu;
pub use rows::Sequence;
#[cfg(test)]
pub(super) use rows::dropout_keys;

/// Sum of the losses (natural log) over the targets of a batch, and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepLoss {
    pub loss_sum: f64,
    pub trained: usize,
}

/// What a step's batches came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    pub loss_sum: f64,
    /// The sum of each row's losses, batch after batch, in the order in which they were given.
    pub row_losses: Vec<f64>,
    /// Euclidean norm of the gradient.
    pub grad_norm: f64,
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
    /// Losses that nobody has asked for yet: their sum, and by row.
    loss: f64,
    row_losses: Vec<f64>,
    /// Rows among these whose losses stand on a GPU.
    there: Vec<usize>,
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
            there: Vec::new(),
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

    /// The losses since they were last told, and the norm of the gradient. On a GPU this is where the host waits.
    pub fn settle(&mut self) -> Result<Settled, ModelError> {
        let grad_norm = match &mut self.gpu {
            Some(gpu) => {
                let (losses, norm) = gpu.settle()?;
                self.take_in(&losses);
                norm
            }
            None => self.grad_norm(),
        };
        let (loss_sum, row_losses) = self.told();
        Ok(Settled { loss_sum, row_losses, grad_norm })
    }

    /// Losses that a GPU tells, to the rows that they are of.
    fn take_in(&mut self, losses: &[f64]) {
        for (row, loss) in self.there.drain(..).zip(losses) {
            self.row_losses[row] = *loss;
            self.loss += loss;
        }
    }

    /// What nobody has asked for yet.
    fn told(&mut self) -> (f64, Vec<f64>) {
        self.there.clear();
        (std::mem::take(&mut self.loss), std::mem::take(&mut self.row_losses))
    }

    /// The batch's loss, without a gradient.
    pub fn loss(&mut self, rows: &[&Sequence]) -> Result<StepLoss, ModelError> {
        let trained = self.run(rows, None)?;
        Ok(StepLoss { loss_sum: self.take_loss()?, trained })
    }

    fn take_loss(&mut self) -> Result<f64, ModelError> {
        if let Some(gpu) = &mut self.gpu {
            let losses = gpu.take_losses()?;
            self.take_in(&losses);
        }
        Ok(self.told().0)
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
        let first = self.row_losses.len();
        self.row_losses.resize(first + rows.len(), 0.0);
        if let (Some(gpu), Model::Lora { decoder, lora }) = (&mut self.gpu, &self.model) {
            let packs = plan::packs_for_gpu(&lengths);
            self.there.extend(packs.iter().flatten().map(|row| first + row));
            let packs = packs.iter().map(|pack| pack.iter().map(|i| rows[*i]).collect());
            let dropout = seed.map(|seed| (seed, self.adapter_training.dropout));
            let run = gpu.run(decoder, lora, packs, scale, self.activations, dropout);
            if run.is_err() {
                self.told();
            }
            return run.map(|()| trained);
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
        for (i, sum) in used.flat_map(|shard| &shard.rows) {
            self.row_losses[first + i] = *sum;
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
