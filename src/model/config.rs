//! `config.json` of a Hugging Face folder, as far as the decoder needs it.
//!
//! Names and defaults are those of transformers 5 (`configuration_llama.py` and so on); older spellings are read too.

mod keys;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ModelError, files};
use keys::Keys;

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

impl Arch {
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class in `architectures` of `config.json`.
    const fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// Sizes beyond these are nonsense, and would overflow further on.
const MAX_SIZE: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_HEADS: usize = 1 << 14;
const MAX_POSITIONS: usize = 1 << 30;

impl ModelConfig {
    /// Reads `config.json` of the folder, and the end tokens of `generation_config.json`, which go before its own.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let file = dir.join("config.json");
        let Some(value) = files::read_json(dir, "config.json")? else {
            return Err(ModelError::file(
                &file,
                "is missing; a model is a Hugging Face folder with config.json, tokenizer.json and *.safetensors",
            ));
        };
        let mut config = Self::parse(&value, &file)?;
        if let Some(ids) = SpecialIds::of_file(dir, "generation_config.json")? {
            if !ids.eos.is_empty() {
                config.eos = ids.eos;
            }
            config.bos = ids.bos.or(config.bos);
            config.pad = ids.pad.or(config.pad);
        }
        Ok(config)
    }

    /// `value` is the content of `config.json`; `file` is named in errors.
    pub fn parse(value: &Value, file: &Path) -> Result<Self, ModelError> {
        let keys = Keys { map: value.as_object().cloned().unwrap_or_default(), file: file.to_path_buf() };
        let arch = keys.arch()?;
        if keys.map.get("quantization_config").is_some_and(|q| !q.is_null()) {
            return Err(keys.error(
                "quantization_config",
                "quantized weights are not supported; use the f32, f16 or bf16 model",
            ));
        }
        for key in ["hidden_act", "hidden_activation"] {
            match keys.map.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::String(act)) if act == "silu" || act == "swish" => {}
                Some(other) => {
                    return Err(keys.error(key, format!("{other} is not supported; supported: \"silu\"")));
                }
            }
        }
        let is = |a: Arch| arch == a;
        let (vocab, ffn, positions) = match arch {
            Arch::Llama => (32_000, 11_008, 2_048),
            Arch::Mistral => (32_000, 14_336, 131_072),
            Arch::Qwen2 | Arch::Qwen3 => (151_936, 22_016, 32_768),
        };
        let hidden = keys.size("hidden_size", MAX_SIZE)?.unwrap_or(4_096);
        let heads = keys.size("num_attention_heads", MAX_HEADS)?.unwrap_or(32);
        // An absent key has the class's default, `null` means as many as heads.
        let kv_default = match arch {
            _ if keys.map.contains_key("num_key_value_heads") => heads,
            Arch::Llama => heads,
            Arch::Mistral => 8,
            Arch::Qwen2 | Arch::Qwen3 => 32,
        };
        let kv_heads = keys.size("num_key_value_heads", MAX_HEADS)?.unwrap_or(kv_default);
        if heads % kv_heads != 0 {
            return Err(keys.error(
                "num_key_value_heads",
                format!("{kv_heads} does not divide num_attention_heads = {heads}"),
            ));
        }
        let head_dim = match keys.size("head_dim", MAX_SIZE)? {
            Some(dim) => dim,
            None if is(Arch::Qwen3) && !keys.map.contains_key("head_dim") => 128,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(keys.error(
                    "num_attention_heads",
                    format!("{heads} does not divide hidden_size = {hidden}, and no head_dim is given"),
                ));
            }
        };
        if head_dim % 2 != 0 {
            return Err(keys.error("head_dim", format!("{head_dim} is odd; rotary embeddings turn pairs")));
        }
        let layers = keys.size("num_hidden_layers", MAX_LAYERS)?.unwrap_or(32);
        let max_positions = keys.size("max_position_embeddings", MAX_POSITIONS)?.unwrap_or(positions);
        let (rope_theta, rope_scaling) = keys.rope(max_positions)?;
        let attention_bias =
            matches!(arch, Arch::Llama | Arch::Qwen3) && keys.flag("attention_bias")?.unwrap_or(false);
        let ids = SpecialIds::parse(value, file)?;
        // An absent key has the class's default, `null` means none.
        let llama_like = matches!(arch, Arch::Llama | Arch::Mistral);
        let id_default = |key: &str, id: u32| (llama_like && !keys.map.contains_key(key)).then_some(id);
        let rms_eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&rms_eps) {
            return Err(keys.error("rms_norm_eps", format!("{rms_eps} is not between 0 and 1")));
        }
        Ok(Self {
            arch,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: keys.size("intermediate_size", MAX_SIZE)?.unwrap_or(ffn),
            vocab: keys.size("vocab_size", MAX_SIZE)?.unwrap_or(vocab),
            max_positions,
            rms_eps: rms_eps as f32,
            rope_theta,
            rope_scaling,
            qkv_bias: is(Arch::Qwen2) || attention_bias,
            o_bias: attention_bias,
            mlp_bias: is(Arch::Llama) && keys.flag("mlp_bias")?.unwrap_or(false),
            qk_norm: is(Arch::Qwen3),
            tied_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            sliding_window: keys.sliding_window(arch, layers, max_positions)?,
            bos: ids.bos.or(id_default("bos_token_id", 1)),
            eos: if ids.eos.is_empty() {
                id_default("eos_token_id", 2).into_iter().collect()
            } else {
                ids.eos
            },
            pad: ids.pad,
        })
    }

    /// `config.json` as transformers 4 and 5 read it.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        put("architectures", json!([self.arch.class()]));
        put("model_type", json!(self.arch.name()));
        put("hidden_size", json!(self.hidden));
        put("num_hidden_layers", json!(self.layers));
        put("num_attention_heads", json!(self.heads));
        put("num_key_value_heads", json!(self.kv_heads));
        put("head_dim", json!(self.head_dim));
        put("intermediate_size", json!(self.ffn));
        put("vocab_size", json!(self.vocab));
        put("max_position_embeddings", json!(self.max_positions));
        put("hidden_act", json!("silu"));
        // Through its shortest decimal: 1e-6_f32 as f64 would be written 9.999999974752427e-07.
        put(
            "rms_norm_eps",
            json!(self.rms_eps.to_string().parse::<f64>().unwrap_or(f64::from(self.rms_eps))),
        );
        put("rope_theta", json!(self.rope_theta));
        put(
            "rope_scaling",
            match self.rope_scaling {
                RopeScaling::None => Value::Null,
                RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings,
                } => json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                }),
            },
        );
        match self.arch {
            Arch::Llama => {
                put("attention_bias", json!(self.qkv_bias));
                put("mlp_bias", json!(self.mlp_bias));
            }
            Arch::Mistral => {
                put("sliding_window", json!(self.sliding_window));
            }
            Arch::Qwen2 | Arch::Qwen3 => {
                if self.arch == Arch::Qwen3 {
                    put("attention_bias", json!(self.qkv_bias));
                }
                put("use_sliding_window", json!(self.sliding_window.is_some()));
                put("sliding_window", json!(self.sliding_window));
                put("max_window_layers", json!(if self.sliding_window.is_some() { 0 } else { self.layers }));
            }
        }
        put("tie_word_embeddings", json!(self.tied_embeddings));
        put("bos_token_id", json!(self.bos));
        put(
            "eos_token_id",
            match self.eos.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
        );
        put("pad_token_id", json!(self.pad));
        put("torch_dtype", json!("float32"));
        Value::Object(map)
    }

    /// Values of the query, and of the keys: `heads * head_dim`, `kv_heads * head_dim`.
    pub const fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    pub const fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Token ids named by a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

impl SpecialIds {
    /// Of `config.json` or `generation_config.json`; none when there is no such file.
    pub fn of_file(dir: &Path, name: &str) -> Result<Option<Self>, ModelError> {
        let Some(value) = files::read_json(dir, name)? else { return Ok(None) };
        Self::parse(&value, &dir.join(name)).map(Some)
    }

    fn parse(value: &Value, file: &Path) -> Result<Self, ModelError> {
        let ids = |key: &str| -> Result<Vec<u32>, ModelError> {
            let id = |value: &Value| match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) => Ok(Some(id)),
                // transformers once wrote -1 for "none".
                None if value.is_null() || value.as_i64() == Some(-1) => Ok(None),
                None => Err(ModelError::key(file, key, format!("{value} is not a token id"))),
            };
            match value.get(key) {
                None => Ok(Vec::new()),
                Some(Value::Array(many)) => many.iter().filter_map(|v| id(v).transpose()).collect(),
                Some(one) => Ok(id(one)?.into_iter().collect()),
            }
        };
        Ok(Self {
            bos: ids("bos_token_id")?.first().copied(),
            eos: ids("eos_token_id")?,
            pad: ids("pad_token_id")?.first().copied(),
        })
    }
}

#[cfg(test)]
mod tests;
