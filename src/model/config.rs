//! `config.json` of a Hugging Face folder, as far as the decoder needs it.

/// Frequencies of the rotary embedding beyond the plain `theta`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by a factor.
    Linear {
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a ramp between
    /// (transformers, `_compute_llama3_parameters`).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
}

/// Architectures whose blocks are of the Llama family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// A decoder of the Llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub arch: Arch,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Dimension of one head; not always `hidden / heads`.
    pub head_dim: usize,
    /// Inner dimension of the feed-forward network.
    pub ffn: usize,
    pub vocab: usize,
    pub max_positions: usize,
    pub rms_eps: f32,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// Biases on q, k and v (qwen2; llama's `attention_bias` puts them on o as well).
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// RMSNorm per head on q and k (qwen3).
    pub qk_norm: bool,
    pub tied_embeddings: bool,
    /// Keys further back than this are not seen (mistral); none: all are.
    pub sliding_window: Option<usize>,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}
