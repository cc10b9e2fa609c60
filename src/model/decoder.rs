//! The decoder of the Llama family: its parameters in one buffer, and where each stands in it.
//!
//! Per layer, on hidden states `x`: `x += o(attention(rope(q|k|v of norm(x))))`, `x += down(swiglu(gate|up of norm(x)))`.
//! q, k and v stand one below the other, so do gate and up: each group is one product.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::config::{ModelConfig, RopeScaling};
use super::weights::Weights;
use super::{ModelError, write};
use crate::ops::{AttentionShape, Mat, Nf4, Rope, Weight};

/// A tensor of the checkpoint within the parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// As Hugging Face names it: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub offset: usize,
    pub shape: Vec<usize>,
}

impl Param {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// A linear layer, or several stacked over the same input: weight `(outputs x inputs)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinearAt {
    /// None where it is kept in NF4.
    pub weight: Option<usize>,
    pub bias: Option<usize>,
    pub inputs: usize,
    pub outputs: usize,
}

impl LinearAt {
    pub fn bias<'a>(&self, params: &'a [f32]) -> Option<&'a [f32]> {
        self.bias.map(|b| &params[b..b + self.outputs])
    }
}

/// Offsets of one layer's parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerAt {
    pub attention_norm: usize,
    /// The groups in the order of [`super::lora::Group`]: q|k|v, o, gate|up, down.
    pub linears: [LinearAt; 4],
    pub qk_norm: Option<(usize, usize)>,
    pub ffn_norm: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub params: Vec<Param>,
    pub layers: Vec<LayerAt>,
    pub embedding: usize,
    pub norm: usize,
    /// Equals `embedding` if the embeddings are tied.
    pub head: usize,
    pub total: usize,
}

/// Collects parameters one after another.
struct Layer<'a> {
    layout: &'a mut Layout,
    prefix: String,
    /// Weights of linear layers stand elsewhere.
    quantized: bool,
}

impl Layer<'_> {
    fn add(&mut self, name: &str, shape: &[usize]) -> usize {
        let offset = self.layout.total;
        let param = Param { name: format!("{}{name}", self.prefix), offset, shape: shape.to_vec() };
        self.layout.total += param.len();
        self.layout.params.push(param);
        offset
    }

    fn linear(&mut self, names: &[(&str, usize)], inputs: usize, bias: bool) -> LinearAt {
        let weight = (!self.quantized).then_some(self.layout.total);
        if weight.is_some() {
            for (name, outputs) in names {
                self.add(&format!("{name}.weight"), &[*outputs, inputs]);
            }
        }
        let bias_at = self.layout.total;
        if bias {
            for (name, outputs) in names {
                self.add(&format!("{name}.bias"), &[*outputs]);
            }
        }
        let outputs = names.iter().map(|(_, n)| n).sum();
        LinearAt { weight, bias: bias.then_some(bias_at), inputs, outputs }
    }
}

impl Layout {
    pub(super) fn new(c: &ModelConfig) -> Self {
        Self::of(c, false)
    }

    fn of(c: &ModelConfig, quantized: bool) -> Self {
        let mut layout = Self { params: vec![], layers: vec![], embedding: 0, norm: 0, head: 0, total: 0 };
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let mut at = Layer { layout: &mut layout, prefix: String::new(), quantized };
        at.add("model.embed_tokens.weight", &[c.vocab, c.hidden]);
        for i in 0..c.layers {
            at.prefix = format!("model.layers.{i}.");
            let attention_norm = at.add("input_layernorm.weight", &[c.hidden]);
            let names = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
            let qkv = at.linear(&names, c.hidden, c.qkv_bias);
            let qk_norm = c.qk_norm.then(|| {
                let q_norm = at.add("self_attn.q_norm.weight", &[c.head_dim]);
                (q_norm, at.add("self_attn.k_norm.weight", &[c.head_dim]))
            });
            let o = at.linear(&[("self_attn.o_proj", c.hidden)], q, c.o_bias);
            let ffn_norm = at.add("post_attention_layernorm.weight", &[c.hidden]);
            let names = [("mlp.gate_proj", c.ffn), ("mlp.up_proj", c.ffn)];
            let gate_up = at.linear(&names, c.hidden, c.mlp_bias);
            let down = at.linear(&[("mlp.down_proj", c.hidden)], c.ffn, c.mlp_bias);
            at.layout.layers.push(LayerAt {
                attention_norm,
                linears: [qkv, o, gate_up, down],
                qk_norm,
                ffn_norm,
            });
        }
        at.prefix.clear();
        let norm = at.add("model.norm.weight", &[c.hidden]);
        let head = if c.tied_embeddings { 0 } else { at.add("lm_head.weight", &[c.vocab, c.hidden]) };
        layout.norm = norm;
        layout.head = head;
        layout
    }
}

/// A decoder in f32, or with the linear layers of its blocks in NF4.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub config: ModelConfig,
    pub(super) params: Vec<f32>,
    /// By layer and group, of each its linear layers one below the other; empty in f32.
    nf4: Vec<[Vec<Nf4>; 4]>,
    pub(super) layout: Layout,
    pub(super) rope: Rope,
}

impl Decoder {
    fn blank(config: ModelConfig) -> Result<Self, ModelError> {
        check(&config)?;
        let layout = Layout::new(&config);
        Ok(Self { params: vec![0.0; layout.total], nf4: Vec::new(), rope: rope(&config), layout, config })
    }

    /// Places and shapes without numbers, with the linear layers in f32 or in NF4: for reckoning only, nothing can be computed
    /// with it.
    pub fn outline(config: ModelConfig, quantized: bool) -> Result<Self, ModelError> {
        check(&config)?;
        let layout = Layout::of(&config, quantized);
        Ok(Self { params: Vec::new(), nf4: Vec::new(), rope: rope(&config), layout, config })
    }

    /// Reads a Hugging Face folder: `config.json` and safetensors, sharded or not.
    ///
    /// # Errors
    /// An unreadable or unsupported file; a tensor that is missing or of another shape, by its name and file.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        check(&config)?;
        for param in &Layout::new(&config).params {
            weights.check(&param.name, &param.shape)?;
        }
        let mut decoder = Self::blank(config)?;
        for param in &decoder.layout.params {
            weights.read_f32(&param.name, &param.shape, &mut decoder.params[param.range()])?;
        }
        Ok(decoder)
    }

    /// As [`Decoder::load`], with the linear layers of the blocks in NF4 with double quantization (QLoRA); embeddings, norms and
    /// head stay in f32. One weight at a time is there in f32.
    ///
    /// # Errors
    /// As there.
    pub fn load_quantized(dir: &Path) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let weights = Weights::open(dir)?;
        check(&config)?;
        for param in &Layout::new(&config).params {
            weights.check(&param.name, &param.shape)?;
        }
        Self::quantized_from(config, |param, into| weights.read_f32(&param.name, &param.shape, into))
    }

    /// The same decoder with the linear layers of its blocks in NF4; one that is so already stays as it is.
    ///
    /// # Errors
    /// None for a decoder that was made.
    pub fn quantized(&self) -> Result<Self, ModelError> {
        if self.is_quantized() {
            return Ok(self.clone());
        }
        let places: BTreeMap<&str, &Param> =
            self.layout.params.iter().map(|p| (p.name.as_str(), p)).collect();
        Self::quantized_from(self.config.clone(), |param, into| {
            if let Some(from) = places.get(param.name.as_str()) {
                into.copy_from_slice(&self.params[from.range()]);
            }
            Ok(())
        })
    }

    fn quantized_from(
        config: ModelConfig,
        read: impl Fn(&Param, &mut [f32]) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        let layout = Layout::of(&config, true);
        let mut params = vec![0.0; layout.total];
        for param in &layout.params {
            read(param, &mut params[param.range()])?;
        }
        let mut nf4: Vec<[Vec<Nf4>; 4]> = vec![Default::default(); config.layers];
        let mut buffer = Vec::new();
        for param in Layout::new(&config).params {
            let place = super::lora::place(&param.name);
            let (Some((layer, group)), [rows, cols]) = (place, param.shape.as_slice()) else { continue };
            buffer.resize(param.len(), 0.0);
            read(&param, &mut buffer)?;
            nf4[layer][group].push(Nf4::quantize(&buffer, *rows, *cols));
        }
        Ok(Self { params, nf4, rope: rope(&config), layout, config })
    }

    /// Whether the linear layers of the blocks are in NF4.
    pub fn is_quantized(&self) -> bool {
        self.quantized_sizes().next().is_some()
    }

    /// Weights of the groups that are in NF4.
    fn quantized_sizes(&self) -> impl Iterator<Item = usize> {
        let linears = self.layout.layers.iter().flat_map(|at| &at.linears);
        linears.filter(|at| at.weight.is_none()).map(|at| at.outputs * at.inputs)
    }

    /// Bytes of all weights as they stand in memory.
    pub fn bytes(&self) -> usize {
        4 * self.layout.total + self.quantized_sizes().map(Nf4::bytes_of).sum::<usize>()
    }

    /// In f32 what the quantized weights stand for.
    #[cfg(test)]
    pub(super) fn dequantized(&self) -> Self {
        let mut decoder = Self::blank(self.config.clone()).unwrap();
        for param in decoder.layout.params.clone() {
            let into = &mut decoder.params[param.range()];
            if let Some(from) = self.layout.params.iter().find(|p| p.name == param.name) {
                into.copy_from_slice(&self.params[from.range()]);
                continue;
            }
            let (layer, group) = super::lora::place(&param.name).unwrap();
            let (at, blank) = (&self.layout.layers[layer].linears[group], &decoder.layout.layers[layer]);
            let first = (param.offset - blank.linears[group].weight.unwrap()) / at.inputs;
            let rows = first..first + param.shape[0];
            self.weight(at, layer, group)
                .read_rows(rows, crate::ops::MatMut::new(into, param.shape[0], at.inputs));
        }
        decoder
    }

    /// Random weights as transformers starts a model: normal with deviation 0.02, norms 1, biases 0.
    pub fn random(config: ModelConfig, seed: u64) -> Result<Self, ModelError> {
        let mut decoder = Self::blank(config)?;
        let mut rng = StdRng::seed_from_u64(seed);
        for param in &decoder.layout.params {
            let values = &mut decoder.params[param.range()];
            if param.shape.len() == 2 {
                values.fill_with(|| 0.02 * normal(&mut rng));
            } else if param.name.ends_with("norm.weight") {
                values.fill(1.0);
            }
        }
        Ok(decoder)
    }

    /// Writes `config.json` and `model.safetensors` (f32) into `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// A quantized decoder; a file that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        self.check_f32("be written")?;
        std::fs::create_dir_all(dir).map_err(|e| ModelError::io(dir, e))?;
        let tensors: Vec<_> = self
            .layout
            .params
            .iter()
            .map(|p| (p.name.as_str(), p.shape.as_slice(), &self.params[p.range()]))
            .collect();
        write::safetensors(&dir.join("model.safetensors"), &tensors, &[("format", "pt")])?;
        write::json(&dir.join("config.json"), &self.config.to_json())
    }

    pub(super) fn check_f32(&self, to: &str) -> Result<(), ModelError> {
        if self.is_quantized() {
            return Err(ModelError::Request(format!(
                "a base in NF4 cannot {to}: load the model in f32 for that"
            )));
        }
        Ok(())
    }

    /// Number of parameters; tied embeddings count once.
    pub fn parameters(&self) -> usize {
        self.layout.total + self.quantized_sizes().sum::<usize>()
    }

    /// All parameters in f32, stacked as [`Decoder::tensors`] says.
    pub fn values(&self) -> &[f32] {
        &self.params
    }

    /// For tests and for who merges adapters: the parameters, to be changed in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// Names, places and shapes of the parameters in f32.
    pub fn tensors(&self) -> &[Param] {
        &self.layout.params
    }

    pub(super) fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            dim: self.config.head_dim,
            window: self.config.sliding_window,
        }
    }

    pub(super) fn slice(&self, offset: usize, len: usize) -> &[f32] {
        &self.params[offset..offset + len]
    }

    /// The weight of a group of linear layers, in whatever form it is kept.
    pub(super) fn weight(&self, at: &LinearAt, layer: usize, group: usize) -> Weight<'_> {
        match at.weight {
            Some(weight) => Weight::F32(Mat::new(&self.params[weight..], at.outputs, at.inputs)),
            None => Weight::Nf4(&self.nf4[layer][group]),
        }
    }

    pub(super) fn embedding(&self) -> Mat<'_> {
        Mat::new(&self.params[self.layout.embedding..], self.config.vocab, self.config.hidden)
    }

    pub(super) fn head(&self) -> Mat<'_> {
        Mat::new(&self.params[self.layout.head..], self.config.vocab, self.config.hidden)
    }

    /// That every token is in the vocabulary and every position within the model.
    pub(super) fn check_tokens(&self, tokens: &[u32], start: usize) -> Result<(), ModelError> {
        if let Some((i, id)) = tokens.iter().enumerate().find(|(_, id)| **id as usize >= self.config.vocab) {
            return Err(ModelError::Request(format!(
                "token {id} at position {} is beyond the model's vocabulary of {}; the tokenizer is of another model",
                start + i,
                self.config.vocab
            )));
        }
        let (end, max) = (start + tokens.len(), self.config.max_positions);
        if end > max {
            return Err(ModelError::Request(format!(
                "{end} tokens are more than the model's {max} positions; shorten the text"
            )));
        }
        Ok(())
    }
}

/// What the operations take for granted of a configuration.
fn check(c: &ModelConfig) -> Result<(), ModelError> {
    let sizes = [c.hidden, c.layers, c.heads, c.kv_heads, c.head_dim, c.ffn, c.vocab, c.max_positions];
    let wrong = if sizes.contains(&0) {
        "a size is zero"
    } else if !c.heads.is_multiple_of(c.kv_heads) {
        "the number of heads is no multiple of the number of key-value heads"
    } else if !c.head_dim.is_multiple_of(2) {
        "the head dimension is odd"
    } else if c.sliding_window == Some(0) {
        "the sliding window is zero"
    } else {
        return Ok(());
    };
    Err(ModelError::Request(format!("this configuration makes no decoder: {wrong}")))
}

/// `theta^(-2i/dim)`, scaled as the configuration says (transformers, `modeling_rope_utils.py`).
fn rope(c: &ModelConfig) -> Rope {
    let frequency = |i: usize| {
        let plain = c.rope_theta.powf(-2.0 * i as f64 / c.head_dim as f64);
        match c.rope_scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = original_max_position_embeddings as f64;
                let wavelength = 2.0 * std::f64::consts::PI / plain;
                if wavelength < original / high_freq_factor {
                    plain
                } else if wavelength > original / low_freq_factor {
                    plain / factor
                } else {
                    let smooth =
                        (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
            }
        }
    };
    Rope { frequencies: (0..c.head_dim / 2).map(|i| frequency(i) as f32).collect() }
}

/// A standard normal number (Box and Muller 1958).
pub(super) fn normal(rng: &mut StdRng) -> f32 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    ((-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()) as f32
}
