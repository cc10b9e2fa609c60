//! What a model is, and the memory that training a LoRA adapter on it takes; read from headers, without its weights.

use std::path::Path;
use std::sync::Arc;

use super::decoder::Layout;
use super::trainable::footprint::{On, RowSize};
use super::weights::Weights;
use super::{Decoder, Lora, ModelConfig, ModelError, Trainable};
use crate::domain::preflight::Memory;
use crate::domain::settings::Targets;

/// The training that memory is reckoned for: LoRA on all linear layers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rank: usize,
    /// Rows of a micro-batch, and tokens of a row.
    pub batch: usize,
    pub length: usize,
    pub threads: usize,
}

/// A model's folder at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    pub config: ModelConfig,
    /// Tied embeddings count once.
    pub parameters: u64,
    /// Type of the weights on disk.
    pub dtype: String,
    /// Bytes of the weights on disk.
    pub bytes: u64,
    pub adapter_parameters: u64,
    pub memory: Memory,
}

impl ModelInfo {
    /// # Errors
    /// A configuration that is not supported; a tensor that is missing or of another shape.
    pub fn load(dir: &Path, shape: &Shape) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        let layout = Layout::new(&config);
        for param in &layout.params {
            weights.check(&param.name, &param.shape)?;
        }
        let dtype = layout.params.first().and_then(|p| weights.dtype(&p.name));
        let outline = Arc::new(Decoder::outline(config.clone(), false)?);
        let lora = Lora::init(&outline, shape.rank, shape.rank as f32, &Targets::default(), 0)?;
        let adapter_parameters = lora.parameters() as u64;
        let row = RowSize { tokens: shape.length, targets: shape.length };
        let memory =
            Trainable::lora(outline, lora, shape.threads)?.memory(On::Cpu, &[vec![row; shape.batch]], &[]);
        Ok(Self {
            parameters: layout.total as u64,
            dtype: dtype.map(|d| format!("{d:?}").to_lowercase()).unwrap_or_default(),
            bytes: weights.bytes(),
            adapter_parameters,
            memory,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{MODELS, fixture};
    use super::*;

    #[test]
    fn figures_are_those_of_the_loaded_model_and_its_adapter() {
        for name in MODELS {
            let shape = Shape { rank: 4, batch: 8, length: 64, threads: 2 };
            let info = ModelInfo::load(&fixture(name), &shape).unwrap();
            let decoder = Decoder::load(&fixture(name)).unwrap();
            let lora = Lora::init(&decoder, 4, 8.0, &Targets::default(), 1).unwrap();
            assert_eq!(info.parameters, decoder.parameters() as u64, "{name}");
            assert_eq!(info.adapter_parameters, lora.parameters() as u64, "{name}");
            assert_eq!(info.memory.gradients, 2 * info.memory.adapters, "one for each thread");
        }
    }

    #[test]
    fn a_folder_with_a_missing_tensor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture("qwen3").join(file), dir.path().join(file)).unwrap();
        }
        let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        let more = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
        assert_ne!(more, config);
        std::fs::write(dir.path().join("config.json"), more).unwrap();
        let shape = Shape { rank: 4, batch: 8, length: 64, threads: 2 };
        let error = ModelInfo::load(dir.path(), &shape).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("model.layers.2."), "{error}");
    }
}
