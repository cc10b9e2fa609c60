//! The whole state of a training on disk, exact: parameters, moments, step count.

use std::path::Path;

use super::{Model, Trainable};
use crate::model::lora::Lora;
use crate::model::weights::Weights;
use crate::model::{ModelError, write};

const OPTIMIZER: &str = "optimizer.safetensors";

impl Trainable {
    /// Writes the adapter (as PEFT does) or the model, and `optimizer.safetensors`, into `dir`. After steps on a GPU
    /// [`Trainable::bring_home`] comes before.
    pub fn save_state(&self, dir: &Path) -> Result<(), ModelError> {
        if !self.home {
            return Err(ModelError::Request(
                "the state of the GPU was not copied home before it was saved".into(),
            ));
        }
        match &self.model {
            Model::Lora { lora, .. } => lora.save_peft(dir, None)?,
            Model::Full(decoder) => decoder.save(dir)?,
        }
        let (shape, steps) = ([self.m.len()], self.steps.to_string());
        let moments = [("m", shape.as_slice(), self.m.as_slice()), ("v", &shape, &self.v)];
        write::safetensors(&dir.join(OPTIMIZER), &moments, &[("steps", &steps)])
    }

    /// Goes on from what [`Trainable::save_state`] wrote: the next steps are the same, bit for bit. The gradient is zero then.
    ///
    /// # Errors
    /// A state of another model, or of an adapter with other layers or ranks; nothing is changed then.
    pub fn load_state(&mut self, dir: &Path) -> Result<(), ModelError> {
        let file = dir.join(OPTIMIZER);
        let optimizer = Weights::open_file(&file)?;
        let steps = optimizer.metadata("steps").and_then(|s| s.parse().ok());
        let steps = steps
            .ok_or_else(|| ModelError::file(&file, "has no count of steps; it is not a training state"))?;
        let n = if optimizer.shape("m") == Some(&[0]) { 0 } else { self.parameters() };
        let (m, v) = (optimizer.read_vec("m", &[n])?, optimizer.read_vec("v", &[n])?);
        match &mut self.model {
            Model::Lora { decoder, lora } => {
                let saved = Lora::load_peft(dir, decoder)?;
                if !lora.restore(saved, decoder) {
                    let message =
                        "holds an adapter of other layers, ranks or scaling than this run's settings ask for";
                    return Err(ModelError::file(dir, message));
                }
            }
            Model::Full(decoder) => {
                let weights = Weights::open(dir)?;
                let tensors = decoder.tensors().to_vec();
                for tensor in &tensors {
                    weights.check(&tensor.name, &tensor.shape)?;
                }
                for tensor in &tensors {
                    weights.read_f32(&tensor.name, &tensor.shape, &mut decoder.params[tensor.range()])?;
                }
            }
        }
        (self.m, self.v, self.steps) = (m, v, steps);
        self.home = true;
        if let (Some(gpu), Model::Lora { lora, .. }) = (&mut self.gpu, &self.model) {
            gpu.load(lora, &self.m, &self.v)?;
        }
        self.zero_grad();
        Ok(())
    }
}
