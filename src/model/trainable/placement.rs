//! Where a training computes: here, or on a GPU.

use std::sync::Arc;

use super::gpu_training::GpuTraining;
use super::{Model, Trainable};
use crate::model::ModelError;
use crate::model::decode::OnGpu;
use crate::ops::Par;
use crate::ops::cuda::{self, Launcher};

impl Trainable {
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

    /// The GPU that does the work, with the base there: for who answers in mid-training.
    pub fn gpu(&self) -> Option<OnGpu> {
        let (launcher, base) = self.gpu.as_ref()?.share();
        Some(OnGpu { launcher, base: Some(base) })
    }

    /// Whether a GPU does the work.
    pub fn on_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// The most bytes that were taken on the GPU; none on the CPU.
    pub fn peak_on_gpu(&self) -> Option<u64> {
        self.gpu.as_ref().map(|gpu| gpu.peak())
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
}
