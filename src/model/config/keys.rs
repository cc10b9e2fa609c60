//! Reading `config.json` key by key.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Arch, MAX_POSITIONS, RopeScaling};
use crate::model::ModelError;

/// The keys of `config.json`; every complaint names the file and the key. `null` counts as absent.
pub(super) struct Keys {
    pub map: Map<String, Value>,
    pub file: PathBuf,
}

impl Keys {
    pub fn error(&self, key: &str, message: impl Into<String>) -> ModelError {
        ModelError::key(&self.file, key, message)
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn size(&self, key: &str, max: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if n >= 1 && n <= max as u64 => Ok(Some(n as usize)),
            _ => Err(self.error(key, format!("{value} is not a whole number between 1 and {max}"))),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|n| n.is_finite()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.error(key, format!("{value} is not a number"))),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.error(key, format!("{value} is neither true nor false")))
    }

    pub fn arch(&self) -> Result<Arch, ModelError> {
        let supported = Arch::ALL.map(Arch::name).join(", ");
        match self.get("model_type") {
            Some(Value::String(name)) => Arch::ALL.into_iter().find(|a| a.name() == name).ok_or_else(|| {
                self.error("model_type", format!("`{name}` is not supported; supported: {supported}"))
            }),
            Some(other) => Err(self.error("model_type", format!("{other} is not a string"))),
            None => {
                let classes = self.get("architectures").and_then(Value::as_array);
                let named =
                    |a: &Arch| classes.is_some_and(|c| c.iter().any(|c| c.as_str() == Some(a.class())));
                Arch::ALL
                    .into_iter()
                    .find(named)
                    .ok_or_else(|| self.error("model_type", format!("is missing; supported: {supported}")))
            }
        }
    }

    /// Base and scaling of the rotary embedding. transformers 5 keeps both in `rope_parameters`, older versions wrote
    /// `rope_theta` and `rope_scaling`; the latter goes first, as there.
    pub fn rope(&self, max_positions: usize) -> Result<(f64, RopeScaling), ModelError> {
        let non_empty = |v: &&Value| v.as_object().is_none_or(|o| !o.is_empty());
        let (table, value) = ["rope_scaling", "rope_parameters"]
            .into_iter()
            .find_map(|key| self.get(key).filter(non_empty).map(|v| (key, v)))
            .unwrap_or(("rope_parameters", &Value::Null));
        let map = match value {
            Value::Null => Map::new(),
            Value::Object(map) => map.clone(),
            other => return Err(self.error(table, format!("{other} is not an object"))),
        };
        if map.values().any(Value::is_object) {
            return Err(self.error(table, "rotary embeddings that differ between layers are not supported"));
        }
        let inner = |key: &str| format!("{table}.{key}");
        let number = |key: &str| -> Result<Option<f64>, ModelError> {
            match map.get(key).filter(|v| !v.is_null()) {
                None => Ok(None),
                Some(v) => match v.as_f64().filter(|n| n.is_finite() && *n > 0.0) {
                    Some(n) => Ok(Some(n)),
                    None => Err(self.error(&inner(key), format!("{v} is not a positive number"))),
                },
            }
        };
        let need = |key: &str| number(key)?.ok_or_else(|| self.error(&inner(key), "is missing"));
        let theta = match number("rope_theta")? {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 1.0 {
            return Err(self.error("rope_theta", format!("{theta} is not above 1")));
        }
        let partial =
            number("partial_rotary_factor")?.or(self.number("partial_rotary_factor")?).unwrap_or(1.0);
        if partial != 1.0 {
            return Err(
                self.error("partial_rotary_factor", format!("{partial} is not supported; supported: 1"))
            );
        }
        let name = map.get("rope_type").or(map.get("type")).filter(|v| !v.is_null());
        let scaling = match name.map(|v| v.as_str().unwrap_or_default()) {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: need("factor")? },
            Some("llama3") => {
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if high <= low {
                    return Err(self.error(
                        &inner("high_freq_factor"),
                        format!("{high} is not above low_freq_factor = {low}"),
                    ));
                }
                let original = number("original_max_position_embeddings")?.unwrap_or(max_positions as f64);
                RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original.min(MAX_POSITIONS as f64) as usize,
                }
            }
            Some(_) => {
                let name = name.map(Value::to_string).unwrap_or_default();
                let message = format!("{name} is not supported; supported: default, linear, llama3");
                return Err(self.error(&inner("rope_type"), message));
            }
        };
        Ok((theta, scaling))
    }

    /// The attention window, where it is the same in every layer. One that no position can leave is none.
    pub fn sliding_window(
        &self,
        arch: Arch,
        layers: usize,
        max_positions: usize,
    ) -> Result<Option<usize>, ModelError> {
        let window = self.size("sliding_window", MAX_POSITIONS)?;
        let window = match arch {
            Arch::Llama => None,
            Arch::Mistral if self.map.contains_key("sliding_window") => window,
            Arch::Mistral => Some(4_096),
            Arch::Qwen2 | Arch::Qwen3 if !self.flag("use_sliding_window")?.unwrap_or(false) => None,
            Arch::Qwen2 | Arch::Qwen3 => {
                let window = if self.map.contains_key("sliding_window") { window } else { Some(4_096) };
                let sliding = match self.get("layer_types") {
                    Some(Value::Array(types)) => {
                        types.iter().filter(|t| t.as_str() == Some("sliding_attention")).count()
                    }
                    Some(other) => return Err(self.error("layer_types", format!("{other} is not a list"))),
                    None => {
                        let from = match self.get("max_window_layers") {
                            None => 28,
                            Some(v) => v.as_u64().ok_or_else(|| {
                                self.error("max_window_layers", format!("{v} is not a whole number"))
                            })? as usize,
                        };
                        layers.saturating_sub(from)
                    }
                };
                match window {
                    Some(w) if sliding > 0 && sliding < layers && w < max_positions => {
                        return Err(self.error(
                            "max_window_layers",
                            "a sliding window in some layers only is not supported",
                        ));
                    }
                    window => window.filter(|_| sliding > 0),
                }
            }
        };
        Ok(window.filter(|&w| w < max_positions))
    }
}
