//! The decoder once more, in f64 by candle's autograd and its plainest operations: what tests compare with.
//!
//! Several of candle's fused operations drop gradients silently; only basic arithmetic, `matmul`, `softmax`, `silu` and
//! `cross_entropy` are used.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::config::{Arch, ModelConfig, RopeScaling};
use super::decoder::Decoder;
use super::lora::{GROUPS, Lora};
use super::trainable::{Sequence, dropout_keys};
use crate::ops::Dropout;

/// A small decoder of each architecture, with what makes it differ: GQA, heads wider than hidden/heads, biases, q and k norm,
/// sliding window, tied embeddings, RoPE scaling.
pub fn small(arch: Arch, layers: usize) -> Decoder {
    let config = ModelConfig {
        arch,
        hidden: 24,
        layers,
        heads: 4,
        kv_heads: 2,
        head_dim: if arch == Arch::Qwen3 { 10 } else { 6 },
        ffn: 40,
        vocab: 53,
        max_positions: 96,
        rms_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: if arch == Arch::Llama {
            RopeScaling::Linear { factor: 2.0 }
        } else {
            RopeScaling::None
        },
        qkv_bias: arch == Arch::Qwen2,
        o_bias: false,
        mlp_bias: false,
        qk_norm: arch == Arch::Qwen3,
        tied_embeddings: matches!(arch, Arch::Qwen2 | Arch::Qwen3),
        sliding_window: (arch == Arch::Mistral).then_some(5),
        bos: None,
        eos: vec![],
        pad: None,
    };
    let mut decoder = Decoder::random(config, 11).unwrap();
    // Large enough weights, norms and biases that every path counts.
    let tensors = decoder.tensors().to_vec();
    let mut state = 1_u32;
    for tensor in &tensors {
        for value in &mut decoder.values_mut()[tensor.range()] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            *value = if tensor.shape.len() == 2 { *value * 12.0 } else { *value + noise };
        }
    }
    decoder
}

pub struct Oracle {
    config: ModelConfig,
    frequencies: Vec<f64>,
    tensors: BTreeMap<String, Tensor>,
    vars: Vec<(String, Var)>,
    scales: BTreeMap<String, f64>,
    /// Rate and seed of dropout on the adapters' inputs.
    pub dropout: Option<(f32, u64)>,
    /// Of the row in work.
    keys: RefCell<Vec<u64>>,
}

impl Oracle {
    /// Without an adapter every parameter is a variable, with one its matrices are.
    pub fn new(decoder: &Decoder, lora: Option<&Lora>) -> Result<Self> {
        let mut oracle = Self {
            config: decoder.config.clone(),
            frequencies: decoder.rope.frequencies.iter().map(|f| f64::from(*f)).collect(),
            tensors: BTreeMap::new(),
            vars: Vec::new(),
            scales: BTreeMap::new(),
            dropout: None,
            keys: RefCell::default(),
        };
        let decoder = &decoder.dequantized();
        for p in decoder.tensors() {
            oracle.add(&p.name, &decoder.values()[p.range()], &p.shape, lora.is_none())?;
        }
        for module in lora.map_or(&[][..], Lora::modules) {
            if let Some(lora) = lora {
                let (a, b) = lora.matrices(module);
                oracle.add(&format!("{}.lora_A", module.name), a, &[module.rank, module.inputs], true)?;
                oracle.add(&format!("{}.lora_B", module.name), b, &[module.outputs, module.rank], true)?;
                if let Some(m) = lora.magnitudes(module) {
                    oracle.add(
                        &format!("{}.lora_magnitude_vector", module.name),
                        m,
                        &[module.outputs],
                        true,
                    )?;
                }
                if let Some(start) = &lora.start {
                    let mut before = lora.clone();
                    before.params.clone_from(&start.params);
                    let (a, b) = before.matrices(module);
                    oracle.add(
                        &format!("{}.start_A", module.name),
                        a,
                        &[module.rank, module.inputs],
                        false,
                    )?;
                    oracle.add(
                        &format!("{}.start_B", module.name),
                        b,
                        &[module.outputs, module.rank],
                        false,
                    )?;
                }
                oracle.scales.insert(module.name.clone(), f64::from(module.scale));
            }
        }
        Ok(oracle)
    }

    fn add(&mut self, name: &str, values: &[f32], shape: &[usize], trained: bool) -> Result<()> {
        let mut tensor = Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64)?;
        if trained {
            let var = Var::from_tensor(&tensor)?;
            tensor = var.as_tensor().clone();
            self.vars.push((name.to_owned(), var));
        }
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = &self.tensors[&format!("{name}.weight")];
        let mut y = x.matmul(&weight.t()?)?;
        if let Some(scale) = self.scales.get(name) {
            let get = |what: &str| self.tensors.get(&format!("{name}.{what}"));
            let for_a = self.drop(x, name)?;
            let product = |a: &Tensor, b: &Tensor| for_a.matmul(&a.t()?)?.matmul(&b.t()?)? * *scale;
            let (a, b) = (&self.tensors[&format!("{name}.lora_A")], &self.tensors[&format!("{name}.lora_B")]);
            y = (y + product(a, b)?)?;
            if let (Some(a), Some(b)) = (get("start_A"), get("start_B")) {
                y = (y - product(a, b)?)?;
            }
            if let Some(m) = get("lora_magnitude_vector") {
                // A constant in the gradient.
                let adapted = (weight + (b.matmul(a)? * *scale)?)?.detach();
                let norms = adapted.sqr()?.sum_keepdim(1)?.sqrt()?.t()?;
                y = y.broadcast_mul(&m.unsqueeze(0)?.div(&norms)?)?;
            }
        }
        if let Some(bias) = self.tensors.get(&format!("{name}.bias")) {
            y = y.broadcast_add(bias)?;
        }
        Ok(y)
    }

    fn drop(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let Some((rate, _)) = self.dropout else { return Ok(x.clone()) };
        let rest = name.strip_prefix("model.layers.").unwrap();
        let (layer, layer_name) = rest.split_once('.').unwrap();
        let group = GROUPS.iter().position(|names| names.contains(&layer_name)).unwrap();
        let keys = self.keys.borrow();
        let mask = Dropout { keys: &keys, layer: layer.parse::<u64>().unwrap() * 4 + group as u64, rate };
        let (n, columns) = x.dims2()?;
        let factors = (0..n * columns).map(|i| f64::from(mask.factor(i / columns, i % columns)));
        x * Tensor::from_vec(factors.collect::<Vec<f64>>(), (n, columns), &Device::Cpu)?
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.rms_eps))?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(&self.tensors[&format!("{name}.weight")])
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (n, dim) = x.dims2()?;
        let angles: Vec<f64> =
            (0..n).flat_map(|p| self.frequencies.iter().map(move |f| p as f64 * f)).collect();
        let angles = Tensor::from_vec(angles, (n, dim / 2), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (low, high) = (x.narrow(1, 0, dim / 2)?, x.narrow(1, dim / 2, dim / 2)?);
        Tensor::cat(&[((&low * &cos)? - (&high * &sin)?)?, ((&high * &cos)? + (&low * &sin)?)?], 1)
    }

    fn attention(&self, x: &Tensor, prefix: &str) -> Result<Tensor> {
        let (c, n) = (&self.config, x.dims()[0]);
        let mask: Vec<f64> = (0..n * n)
            .map(|i| (i / n, i % n))
            .map(|(q, k)| if k <= q && c.sliding_window.is_none_or(|w| q - k < w) { 0.0 } else { -1e30 })
            .collect();
        let mask = Tensor::from_vec(mask, (n, n), &Device::Cpu)?;
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|p| self.linear(x, &format!("{prefix}{p}")));
        let (q, k, v) = (q?, k?, v?);
        let mut heads = Vec::new();
        for head in 0..c.heads {
            let kv = head / (c.heads / c.kv_heads);
            let (mut q, mut k) =
                (q.narrow(1, head * c.head_dim, c.head_dim)?, k.narrow(1, kv * c.head_dim, c.head_dim)?);
            if c.qk_norm {
                q = self.norm(&q, &format!("{prefix}q_norm"))?;
                k = self.norm(&k, &format!("{prefix}k_norm"))?;
            }
            let scores = (self.rotate(&q)?.matmul(&self.rotate(&k)?.t()?)? / (c.head_dim as f64).sqrt())?;
            let weights = candle_nn::ops::softmax(&(scores + &mask)?, D::Minus1)?;
            heads.push(weights.matmul(&v.narrow(1, kv * c.head_dim, c.head_dim)?.contiguous()?)?);
        }
        self.linear(&Tensor::cat(&heads, 1)?, &format!("{prefix}o_proj"))
    }

    /// Logits after every token (tokens x vocab).
    pub fn logits(&self, tokens: &[u32]) -> Result<Tensor> {
        if let Some((_, seed)) = self.dropout {
            *self.keys.borrow_mut() = dropout_keys(seed, tokens).take(tokens.len()).collect();
        }
        let embedding = &self.tensors["model.embed_tokens.weight"];
        let mut x = embedding.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
        for layer in 0..self.config.layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let normed = self.norm(&x, &at("input_layernorm"))?;
            x = (&x + self.attention(&normed, &at("self_attn."))?)?;
            let normed = self.norm(&x, &at("post_attention_layernorm"))?;
            let inner = (self.linear(&normed, &at("mlp.gate_proj"))?.silu()?
                * self.linear(&normed, &at("mlp.up_proj"))?)?;
            x = (&x + self.linear(&inner, &at("mlp.down_proj"))?)?;
        }
        let head = self.tensors.get("lm_head.weight").unwrap_or(embedding);
        self.norm(&x, "model.norm")?.matmul(&head.t()?)
    }

    /// Sum of the losses of the rows, and its gradients by name.
    pub fn gradients(&self, rows: &[&Sequence]) -> Result<(f64, BTreeMap<String, Vec<f64>>)> {
        let mut total = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        for row in rows.iter().filter(|r| r.targets() > 0) {
            let logits = self.logits(&row.tokens)?;
            let places: Vec<u32> =
                (1..row.tokens.len() as u32).filter(|i| row.trained[*i as usize]).collect();
            let targets: Vec<u32> = places.iter().map(|i| row.tokens[*i as usize]).collect();
            let before = Tensor::new(places.iter().map(|i| i - 1).collect::<Vec<u32>>(), &Device::Cpu)?;
            let mean = candle_nn::loss::cross_entropy(
                &logits.index_select(&before, 0)?,
                &Tensor::new(targets, &Device::Cpu)?,
            )?;
            total = (total + (mean * places.len() as f64)?)?;
        }
        let store = total.backward()?;
        let mut gradients = BTreeMap::new();
        for (name, var) in &self.vars {
            let gradient = match store.get(var) {
                Some(g) => g.flatten_all()?.to_vec1()?,
                None => vec![0.0; var.elem_count()],
            };
            gradients.insert(name.clone(), gradient);
        }
        Ok((total.to_scalar()?, gradients))
    }
}
