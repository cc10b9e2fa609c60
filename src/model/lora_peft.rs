//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::decoder::Decoder;
use super::lora::{Choice, Kind, Lora, LoraModule};
use super::weights::Weights;
use super::{ModelError, files, pissa, write};
use crate::ops::Par;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// What PEFT puts after the names of modules for DoRA's magnitudes.
const MAGNITUDE: &str = ".lora_magnitude_vector";
/// What PEFT puts before the names of the base model's modules.
const PREFIX: &str = "base_model.model.";

impl Lora {
    /// Reads a PEFT adapter for `decoder`.
    ///
    /// # Errors
    /// A file that is missing or damaged; a kind of adapter that is not supported (trained biases or whole modules);
    /// a tensor that is missing, of another shape, or of a layer that the decoder does not have.
    pub fn load_peft(dir: &Path, decoder: &Decoder) -> Result<Self, ModelError> {
        let file = dir.join(CONFIG);
        let Some(Value::Object(map)) = files::read_json(dir, CONFIG)? else {
            return Err(ModelError::file(&file, "is missing; a LoRA adapter of PEFT has it"));
        };
        let config = PeftConfig::parse(&map, &file)?;
        if !dir.join(TENSORS).exists() {
            let other = dir.join("adapter_model.bin").exists();
            let hint =
                if other { "; only safetensors are read, and this folder has adapter_model.bin" } else { "" };
            return Err(ModelError::file(&dir.join(TENSORS), format!("is missing{hint}")));
        }
        let weights = Weights::open_file(&dir.join(TENSORS))?;
        let tensors = dir.join(TENSORS);

        // The tensors say which layers have adapters; the configuration only says which names to look at.
        let mut found = BTreeSet::new();
        for name in weights.names() {
            let suffixes: &[&str] = if config.decomposed {
                &[".lora_A.weight", ".lora_B.weight", MAGNITUDE]
            } else {
                &[".lora_A.weight", ".lora_B.weight"]
            };
            let module = name
                .strip_prefix(PREFIX)
                .and_then(|n| suffixes.iter().find_map(|suffix| n.strip_suffix(suffix)));
            let Some(module) = module else {
                let message = "is not a LoRA matrix of a linear layer; only base_model.model.NAME.lora_A.weight and lora_B.weight are supported, and lora_magnitude_vector with use_dora";
                return Err(ModelError::tensor(&tensors, name, message));
            };
            found.insert(module.to_owned());
        }
        if found.is_empty() {
            return Err(ModelError::file(&tensors, "holds no adapter: it has no tensor"));
        }
        let mut left = found.clone();
        let mut lacking = None;
        let mut lora = Self::layout(decoder, config.kind(), |name| {
            if left.remove(name) {
                let of = |pattern: &[(String, f64)]| {
                    pattern.iter().find(|(key, _)| ends_with(name, key)).map(|(_, v)| *v)
                };
                let rank = of(&config.rank_pattern).map_or(config.rank, |r| r as usize);
                let alpha = of(&config.alpha_pattern).map_or(config.alpha, |a| a as f32);
                return Some(Choice { rank, alpha });
            }
            if lacking.is_none() && config.targets.iter().any(|t| ends_with(name, t)) {
                lacking = Some(name.to_owned());
            }
            None
        });
        if let Some(name) = left.first() {
            let message = format!(
                "this model has no linear layer {name}; the adapter is of another model, or of a layer that cannot carry one here"
            );
            return Err(ModelError::tensor(&tensors, &tensor(name, 'A'), message));
        }
        if let Some(name) = lacking {
            return Err(ModelError::tensor(
                &tensors,
                &tensor(&name, 'A'),
                format!("is missing, though {CONFIG} targets it"),
            ));
        }
        for module in lora.modules.clone() {
            let (a, b) = (module.rank * module.inputs, module.outputs * module.rank);
            for (which, shape, range) in [
                ('A', [module.rank, module.inputs], module.a..module.a + a),
                ('B', [module.outputs, module.rank], module.b..module.b + b),
            ] {
                let name = tensor(&module.name, which);
                if let Some(found) = weights.shape(&name).filter(|found| *found != shape) {
                    let message =
                        format!("has shape {found:?}; rank {} on this model asks for {shape:?}", module.rank);
                    return Err(ModelError::tensor(&tensors, &name, message));
                }
                weights.read_f32(&name, &shape, &mut lora.params[range])?;
            }
            if let Some(m) = module.magnitude {
                let name = format!("{PREFIX}{}{MAGNITUDE}", module.name);
                weights.read_f32(&name, &[module.outputs], &mut lora.params[m..m + module.outputs])?;
            }
        }
        lora.refresh(decoder, Par::SERIAL);
        Ok(lora)
    }

    /// Writes the adapter into `dir`, which is made if it is not there; `base` is the base model's name or path. One that
    /// started by PiSSA is written as a plain LoRA of twice the rank, for the untouched base.
    pub fn save_peft(&self, dir: &Path, base: Option<&str>) -> Result<(), ModelError> {
        std::fs::create_dir_all(dir).map_err(|e| ModelError::io(dir, e))?;
        let mut matrices: Vec<(String, Vec<usize>, Cow<'_, [f32]>)> = Vec::new();
        for module in &self.modules {
            let ((a, b), rank) = match &self.start {
                Some(start) => {
                    let (a, b) = pissa::join(module, &self.params, &start.params);
                    ((a.into(), b.into()), 2 * module.rank)
                }
                None => {
                    let (a, b) = self.matrices(module);
                    ((a.into(), b.into()), module.rank)
                }
            };
            matrices.push((tensor(&module.name, 'A'), vec![rank, module.inputs], a));
            matrices.push((tensor(&module.name, 'B'), vec![module.outputs, rank], b));
            if let Some(m) = self.magnitudes(module) {
                matrices.push((
                    format!("{PREFIX}{}{MAGNITUDE}", module.name),
                    vec![module.outputs],
                    m.into(),
                ));
            }
        }
        let tensors: Vec<_> =
            matrices.iter().map(|(n, s, v)| (n.as_str(), s.as_slice(), v.as_ref())).collect();
        write::safetensors(&dir.join(TENSORS), &tensors, &[("format", "pt")])?;
        write::json(&dir.join(CONFIG), &self.config(base))
    }

    fn config(&self, base: Option<&str>) -> Value {
        let differing = |value: &dyn Fn(&LoraModule) -> Value, usual: &Value| -> Map<String, Value> {
            let pairs = self.modules.iter().map(|m| (m.name.clone(), value(m)));
            pairs.filter(|(_, v)| v != usual).collect()
        };
        // With twice the rank, the alpha that leaves the scale as it is.
        let (ranks, alphas) = match &self.start {
            None => (1, 1.0),
            Some(_) if self.rank_stabilized => (2, std::f32::consts::SQRT_2),
            Some(_) => (2, 2.0),
        };
        let rank = |rank: usize| json!(rank * ranks);
        let alpha = |alpha: f32| number(alpha * alphas);
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": true,
            "r": rank(self.rank),
            "lora_alpha": alpha(self.alpha),
            "rank_pattern": differing(&|m| rank(m.rank), &rank(self.rank)),
            "alpha_pattern": differing(&|m| alpha(m.alpha), &alpha(self.alpha)),
            "use_rslora": self.rank_stabilized,
            "target_modules": self.target_modules(),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "layers_to_transform": null,
            "layers_pattern": null,
            "use_dora": self.norms.is_some(),
        })
    }

    /// Short names where every layer has them, full names otherwise.
    fn target_modules(&self) -> Vec<String> {
        let mut by_projection: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for module in &self.modules {
            let short = module.name.rsplit('.').next().unwrap_or_default();
            by_projection.entry(short).or_default().push(&module.name);
        }
        let layers = self.groups.len();
        by_projection
            .into_iter()
            .flat_map(|(short, names)| if names.len() == layers { vec![short] } else { names })
            .map(str::to_owned)
            .collect()
    }
}

/// A whole number without a point, as PEFT writes alphas.
fn number(value: f32) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}

fn tensor(module: &str, which: char) -> String {
    format!("{PREFIX}{module}.lora_{which}.weight")
}

/// PEFT's rule: the name itself, or its end after a dot.
fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `adapter_config.json`, as far as it is supported.
struct PeftConfig {
    rank: usize,
    alpha: f32,
    rank_stabilized: bool,
    decomposed: bool,
    /// In the file's order: the first that fits counts.
    rank_pattern: Vec<(String, f64)>,
    alpha_pattern: Vec<(String, f64)>,
    /// Plain names that every layer's tensors must be there for; empty where the rule is more than names.
    targets: Vec<String>,
}

impl PeftConfig {
    fn kind(&self) -> Kind {
        let Self { rank, alpha, rank_stabilized, decomposed, .. } = *self;
        Kind { rank, alpha, rank_stabilized, decomposed }
    }

    fn parse(map: &Map<String, Value>, file: &Path) -> Result<Self, ModelError> {
        refuse_unsupported(map, file)?;
        let number = |key: &str, or: f64| match map.get(key) {
            None | Some(Value::Null) => Ok(or),
            Some(v) => match v.as_f64().filter(|n| n.is_finite()) {
                Some(n) => Ok(n),
                None => Err(ModelError::key(file, key, format!("{v} is not a number"))),
            },
        };
        let pattern = |key: &str| -> Result<Vec<(String, f64)>, ModelError> {
            let pairs = match map.get(key) {
                None | Some(Value::Null) => return Ok(Vec::new()),
                Some(Value::Object(pairs)) => pairs,
                Some(v) => return Err(ModelError::key(file, key, format!("{v} is not an object"))),
            };
            let pair = |(name, value): (&String, &Value)| {
                let at = format!("{key}.{name}");
                // PEFT reads these keys as regular expressions.
                if name.contains(|c: char| "\\^$*+?()[]{}|".contains(c)) {
                    return Err(ModelError::key(
                        file,
                        &at,
                        "a regular expression is not supported; name the layers",
                    ));
                }
                let value = value.as_f64().filter(|n| n.is_finite());
                value.map(|v| (name.clone(), v)).ok_or_else(|| ModelError::key(file, &at, "is not a number"))
            };
            pairs.iter().map(pair).collect()
        };
        let rank_pattern = pattern("rank_pattern")?;
        let rank = number("r", 8.0)?;
        for (key, rank) in rank_pattern.iter().chain([&("r".to_owned(), rank)]) {
            if !(1.0..=65_536.0).contains(rank) || rank.fract() != 0.0 {
                return Err(ModelError::key(
                    file,
                    key,
                    format!("{rank} is not a rank: a whole number from 1"),
                ));
            }
        }
        let set = |key: &str| map.get(key).is_some_and(|v| !v.is_null());
        let plain = !["layers_to_transform", "layers_pattern", "exclude_modules"].into_iter().any(set);
        let targets = match map.get("target_modules") {
            Some(Value::Array(names)) if plain => {
                names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            rank: rank as usize,
            alpha: number("lora_alpha", 8.0)? as f32,
            rank_stabilized: flag("use_rslora"),
            decomposed: flag("use_dora"),
            rank_pattern,
            alpha_pattern: pattern("alpha_pattern")?,
            targets,
        })
    }
}

fn refuse_unsupported(map: &Map<String, Value>, file: &Path) -> Result<(), ModelError> {
    let kind = map.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
    if kind != "LORA" {
        return Err(ModelError::key(file, "peft_type", format!("{kind} is not supported; supported: LORA")));
    }
    let bias = map.get("bias").and_then(Value::as_str).unwrap_or("none");
    if bias != "none" {
        return Err(ModelError::key(file, "bias", format!("{bias} is not supported; supported: none")));
    }
    for key in ["fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"] {
        if map.get(key).is_some_and(|v| !matches!(v, Value::Null | Value::Bool(false))) {
            return Err(ModelError::key(
                file,
                key,
                "is set, and such adapters are not supported; plain LoRA is",
            ));
        }
    }
    // These starts change the base's weights too, so that A and B alone do not give the model.
    let start = map.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
    if ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|s| start.starts_with(s)) {
        let message = format!(
            "{start} changes the base model; have PEFT convert the adapter to plain LoRA when it saves it"
        );
        return Err(ModelError::key(file, "init_lora_weights", message));
    }
    for key in [
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
        "megatron_config",
    ] {
        let empty = |v: &Value| {
            v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(Map::is_empty)
        };
        if map.get(key).is_some_and(|v| !empty(v)) {
            return Err(ModelError::key(
                file,
                key,
                "is set, and such adapters are not supported; plain LoRA is",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
