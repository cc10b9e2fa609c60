//! The state of a training on a GPU: base, adapter, gradient, moments, buffers; and the steps over it.
//!
//! Nothing here waits for the device but [`GpuTraining::settle`], once a step, and what copies the state home.

use std::sync::Arc;

use super::Sequence;
use super::footprint::{Largest, activation_bytes};
use super::gpu::{Adapter, Base, Losses, OnDevice, OnGpu};
use super::pass::Net;
use super::workspace::Workspace;
use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;
use crate::ops::cuda::{AdamWFactors, Buffer, CudaError, Dtype, Gpu, Launcher};
use crate::ops::{AdamW, Par};

/// Memory that stays free for the driver and for what else runs on the device.
const RESERVE: usize = 512 << 20;

/// A training on a GPU.
#[derive(Debug)]
pub(super) struct GpuTraining {
    gpu: Gpu,
    /// Shared with who answers beside the training.
    base: Arc<Base>,
    adapter: Adapter,
    grad: Buffer,
    m: Buffer,
    v: Buffer,
    workspace: Workspace<OnGpu>,
    losses: Losses,
    /// Norm of the gradient, factor, 1 if finite.
    state: Buffer,
    parts: Buffer,
    /// Bytes for activations when the buffers are made first; reckoned from what is free then.
    budget: Option<usize>,
}

impl GpuTraining {
    /// Brings decoder and adapter to the device, tensor by tensor.
    ///
    /// # Errors
    /// No room: with the bytes that the parts take.
    pub fn new(launcher: Arc<dyn Launcher>, decoder: &Decoder, lora: &Lora) -> Result<Self, ModelError> {
        let n = lora.parameters();
        let made = || -> Result<Self, CudaError> {
            Ok(Self {
                base: Arc::new(Base::new(&launcher, decoder)?),
                adapter: Adapter::new(&launcher, decoder, lora)?,
                grad: Buffer::zeros(&launcher, n, Dtype::F32)?,
                m: Buffer::empty(Dtype::F32),
                v: Buffer::empty(Dtype::F32),
                workspace: Workspace::default(),
                losses: Losses::default(),
                state: Buffer::zeros(&launcher, 3, Dtype::F32)?,
                parts: Buffer::empty(Dtype::U32),
                budget: None,
                gpu: Gpu::new(launcher.clone()),
            })
        };
        made().map_err(|error| match error {
            CudaError::OutOfMemory { .. } => ModelError::OutOfMemory(format!(
                "{error}: the base takes {} and the adapter with gradient and moments {}; use a smaller base, a lower rank or fewer targets, or device = \"cpu\"",
                mib(Base::bytes_of(decoder)),
                mib(Adapter::bytes_of(decoder, lora) + 3 * n * Dtype::F32.bytes())
            )),
            other => other.into(),
        })
    }

    /// Adds the losses of the rows, and with `scale` the gradient; `granted` bounds the bytes of activations. `dropout` is the
    /// step's seed and the rate.
    pub fn run<'a>(
        &mut self,
        decoder: &Decoder,
        lora: &Lora,
        packs: impl Iterator<Item = Vec<&'a Sequence>>,
        scale: Option<f32>,
        granted: usize,
        dropout: Option<(u64, f32)>,
    ) -> Result<(), ModelError> {
        let room = &mut self.workspace.linear.room;
        self.adapter.refresh(&self.gpu, decoder, lora, &self.base, room);
        let activations = match self.budget {
            Some(budget) => budget,
            None => {
                let free = self.gpu.launcher().memory()?.free;
                *self.budget.insert(free.saturating_sub(RESERVE + logits(decoder)))
            }
        };
        for rows in packs {
            super::pack(&mut self.workspace.batch.packed, rows.into_iter(), dropout.map(|(seed, _)| seed));
            let device = OnDevice {
                gpu: &self.gpu,
                decoder,
                lora,
                base: &self.base,
                adapter: &self.adapter,
                dropout: dropout.map(|(_, rate)| rate),
            };
            let net = Net { device: &device, activations: activations.min(granted) };
            let backward = scale.map(|scale| (scale, &mut self.grad));
            net.run(&mut self.workspace, &mut self.losses, backward);
            if let Err(error) = self.gpu.check() {
                let packed = &self.workspace.batch.packed;
                let pack = Largest { tokens: packed.tokens(), targets: packed.targets.len() };
                let budget = activations.min(granted);
                let error =
                    with_remedy(error, decoder, lora, pack, budget, self.base.bytes(), dropout.is_some());
                // What was made for a batch that does not fit is in the way of one that does.
                (self.workspace, self.losses) = Default::default();
                return Err(error);
            }
        }
        Ok(())
    }

    pub fn zero_grad(&mut self) {
        self.gpu.zero(&self.grad);
    }

    /// The sums of losses by row since the last call; waits for the device.
    pub fn take_losses(&mut self) -> Result<Vec<f64>, ModelError> {
        Ok(self.losses.take(&self.gpu, None)?.0)
    }

    /// The sums of losses by row since the last call, and the norm of the gradient; waits for the device once.
    pub fn settle(&mut self) -> Result<(Vec<f64>, f64), ModelError> {
        self.gpu.clip(&self.grad, 0.0, &mut self.parts, &self.state);
        let (losses, [norm, ..]) = self.losses.take(&self.gpu, Some(&self.state))?;
        Ok((losses, f64::from(norm)))
    }

    /// Step `t` (from 1) of AdamW over ranges of the parameters, each with settings of its own; the gradient is scaled down to
    /// norm `clip` if that is positive and exceeded. A gradient that is not finite changes nothing.
    pub fn step(&mut self, spans: &[(std::ops::Range<usize>, AdamW)], t: u64, clip: f32) {
        let n = self.adapter.values.len();
        if self.m.is_empty() {
            for moments in [&mut self.m, &mut self.v] {
                self.gpu.fit(moments, n);
                self.gpu.zero(moments);
            }
        }
        self.gpu.clip(&self.grad, clip, &mut self.parts, &self.state);
        for (span, settings) in spans {
            let [keep, rate, root_correction] = settings.factors(t);
            let AdamW { beta1, beta2, epsilon, .. } = *settings;
            let factors = AdamWFactors { keep, beta1, beta2, rate, root_correction, epsilon };
            let buffers = [&self.adapter.values, &self.grad, &self.m, &self.v];
            self.gpu.adamw(buffers, span.clone(), &factors, &self.state);
        }
        self.adapter.changed();
    }

    /// The device, and the base on it.
    pub fn share(&self) -> (Arc<dyn Launcher>, Arc<Base>) {
        (self.gpu.launcher().clone(), self.base.clone())
    }

    /// The most bytes that were taken on the device.
    pub fn peak(&self) -> u64 {
        self.gpu.launcher().peak() as u64
    }

    /// The gradient, on the host.
    #[cfg(test)]
    pub fn gradient(&mut self) -> Result<Vec<f32>, ModelError> {
        self.gpu.check()?;
        Ok(self.grad.to_f32()?)
    }

    /// Copies adapter and moments to the host.
    pub fn save(
        &mut self,
        decoder: &Decoder,
        lora: &mut Lora,
        [m, v]: [&mut Vec<f32>; 2],
        par: Par,
    ) -> Result<(), ModelError> {
        self.gpu.check()?;
        self.adapter.save(decoder, lora, par)?;
        (*m, *v) = (self.m.to_f32()?, self.v.to_f32()?);
        Ok(())
    }

    /// Takes adapter and moments from the host; empty moments are those before the first step.
    pub fn load(&mut self, lora: &Lora, m: &[f32], v: &[f32]) -> Result<(), ModelError> {
        self.adapter.load(lora)?;
        for (moments, values) in [(&mut self.m, m), (&mut self.v, v)] {
            *moments = Buffer::empty(Dtype::F32);
            self.gpu.write_f32(moments, values);
        }
        self.zero_grad();
        Ok(self.gpu.check()?)
    }
}

/// Bytes of a chunk of logits.
fn logits(decoder: &Decoder) -> usize {
    let vocab = decoder.config.vocab;
    Gpu::logit_rows(usize::MAX >> 8, vocab) * vocab * Dtype::Bf16.bytes()
}

/// An error; where memory is short, with what takes it and what would save how much.
fn with_remedy(
    error: CudaError,
    decoder: &Decoder,
    lora: &Lora,
    pack: Largest,
    budget: usize,
    base: usize,
    dropout: bool,
) -> ModelError {
    if !matches!(error, CudaError::OutOfMemory { .. }) {
        return error.into();
    }
    let bytes = |pack: Largest, budget: usize| {
        activation_bytes::<OnGpu>(decoder, Some(lora), budget, dropout, Largest::default(), pack)
    };
    let now = bytes(pack, budget);
    let half = Largest { tokens: pack.tokens / 2, targets: pack.targets / 2 };
    let mut ways = vec![format!(
        "batch_size or max_length by half saves {}",
        mib(now.saturating_sub(bytes(half, budget)))
    )];
    let again = now.saturating_sub(bytes(pack, 0));
    if again > 0 {
        ways.push(format!("recompute = \"always\" saves {}", mib(again)));
    }
    ModelError::OutOfMemory(format!(
        "{error}: the base takes {}, the activations of {} tokens at once {}, a chunk of logits {}. To lower {} (accumulate keeps the rows of a step)",
        mib(base),
        pack.tokens,
        mib(now),
        mib(logits(decoder)),
        ways.join("; ")
    ))
}

fn mib(bytes: usize) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
