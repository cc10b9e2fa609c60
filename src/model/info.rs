//! What a model is, and the memory that training a LoRA adapter on it takes; read from headers, without its weights.

use std::path::Path;

use serde::Serialize;

use super::decoder::Layout;
use super::weights::Weights;
use super::{ModelConfig, ModelError};

/// The training that memory is reckoned for: LoRA on all linear layers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rank: usize,
    /// Rows of a micro-batch, and tokens of a row.
    pub batch: usize,
    pub length: usize,
    pub threads: usize,
}

/// Bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In f32, as they are computed with.
    pub weights: u64,
    pub adapters: u64,
    /// One for each thread that takes rows of its own.
    pub gradients: u64,
    /// AdamW's two moments.
    pub optimizer: u64,
    /// What the backward wants of the forward, buffers and logits.
    pub activations: u64,
    pub total: u64,
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
        let adapter_parameters = adapter_parameters(&config, shape.rank as u64);
        Ok(Self {
            parameters: layout.total as u64,
            dtype: dtype.map(|d| format!("{d:?}").to_lowercase()).unwrap_or_default(),
            bytes: weights.bytes(),
            adapter_parameters,
            memory: memory(&config, layout.total as u64, adapter_parameters, shape),
            config,
        })
    }
}

/// `rank * (inputs + outputs)` of every linear layer of the blocks.
fn adapter_parameters(c: &ModelConfig, rank: u64) -> u64 {
    let linears = [
        (c.hidden, c.q_dim()),
        (c.hidden, c.kv_dim()),
        (c.hidden, c.kv_dim()),
        (c.q_dim(), c.hidden),
        (c.hidden, c.ffn),
        (c.hidden, c.ffn),
        (c.ffn, c.hidden),
    ];
    linears.iter().map(|(i, o)| rank * (i + o) as u64).sum::<u64>() * c.layers as u64
}

/// As `trainable` lays its buffers out: rows go to threads, and each thread takes them in packs of some 2,048 tokens.
fn memory(c: &ModelConfig, parameters: u64, adapters: u64, shape: &Shape) -> Memory {
    let (batch, length, threads) = (shape.batch.max(1), shape.length.max(1), shape.threads.max(1));
    // Too few rows for the threads: one shard, and the threads work inside of the operations.
    let shards = if batch >= threads { threads } else { 1 };
    let rows = batch.div_ceil(shards).min((2048 / length).max(1));
    let tokens = (rows * length) as u64;
    let (q, kv) = (c.q_dim(), c.kv_dim());
    let qkv = q + 2 * kv;
    let qk_norm = if c.qk_norm { q + kv + c.heads + c.kv_heads } else { 0 };
    let per_layer = 2 * c.hidden + 2 + qkv + qk_norm + q + c.heads + 2 * c.ffn + 7 * shape.rank;
    let shared = 3 * c.hidden + c.hidden.max(q) + 1 + c.ffn + qkv + 3 * shape.rank + 2 * c.hidden;
    let logits = tokens.min(256) * c.vocab as u64;
    let activations = 4 * shards as u64 * (tokens * (c.layers * per_layer + shared) as u64 + logits);
    let [weights, adapters, gradients, optimizer] =
        [parameters, adapters, adapters * shards as u64, 2 * adapters].map(|n| 4 * n);
    Memory {
        weights,
        adapters,
        gradients,
        optimizer,
        activations,
        total: weights + adapters + gradients + optimizer + activations,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{MODELS, fixture};
    use super::super::{Decoder, Lora};
    use super::*;
    use crate::domain::settings::Targets;

    #[test]
    fn figures_are_those_of_the_loaded_model_and_its_adapter() {
        for name in MODELS {
            let shape = Shape { rank: 4, batch: 8, length: 64, threads: 2 };
            let info = ModelInfo::load(&fixture(name), &shape).unwrap();
            let decoder = Decoder::load(&fixture(name)).unwrap();
            let lora = Lora::init(&decoder, 4, 8.0, &Targets::default(), 1).unwrap();
            assert_eq!(info.parameters, decoder.parameters() as u64, "{name}");
            assert_eq!(info.adapter_parameters, lora.parameters() as u64, "{name}");
            let m = info.memory;
            assert_eq!(m.gradients, 2 * m.adapters);
            assert_eq!(m.total, m.weights + m.adapters + m.gradients + m.optimizer + m.activations);
        }
    }

    #[test]
    fn more_rows_take_more_activations_up_to_a_pack() {
        let config = ModelConfig::load(&fixture("llama")).unwrap();
        let activations =
            |batch, length| memory(&config, 0, 0, &Shape { rank: 8, batch, length, threads: 1 }).activations;
        assert!(activations(8, 128) > activations(4, 128));
        assert_eq!(activations(16, 128), activations(64, 128));
        assert!(activations(1, 8192) > activations(64, 128));
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
