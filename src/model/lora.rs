//! Low-rank adapters on any of a decoder's linear layers: which layers, where their numbers stand, how they start.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::ModelError;
use super::decoder::Decoder;
use crate::domain::settings::Targets;
use crate::ops::{LoraGroup, LoraPart};
use crate::workspace::nearest;

/// The linear layers of a block, stacked by the input that they share.
pub(super) const GROUPS: [&[&str]; 4] = [
    &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    &["self_attn.o_proj"],
    &["mlp.gate_proj", "mlp.up_proj"],
    &["mlp.down_proj"],
];

/// The adapter of one linear layer: `y += (scale) (x A^T) B^T`, `A (rank x inputs)`, `B (outputs x rank)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// `model.layers.0.self_attn.q_proj`
    pub name: String,
    pub(super) layer: usize,
    pub(super) group: usize,
    pub rank: usize,
    pub alpha: f32,
    /// `alpha / rank`, or `alpha / sqrt(rank)` with rank-stabilized scaling.
    pub scale: f32,
    pub inputs: usize,
    pub outputs: usize,
    /// Columns of the group's output.
    pub(super) out: std::ops::Range<usize>,
    /// Offsets in the adapter's parameters.
    pub(super) a: usize,
    pub(super) b: usize,
}

/// An adapter for a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    pub rank: usize,
    pub alpha: f32,
    /// Scaling by `alpha / sqrt(rank)` (Kalajdzievski 2023, arXiv:2312.03732).
    pub rank_stabilized: bool,
    pub(super) modules: Vec<LoraModule>,
    pub(super) params: Vec<f32>,
    /// By layer, in the order of [`GROUPS`].
    pub(super) groups: Vec<[Option<LoraGroup>; 4]>,
}

/// A linear layer that may carry an adapter, with rank and alpha if it is chosen.
pub(super) struct Choice {
    pub rank: usize,
    pub alpha: f32,
}

impl Lora {
    /// A fresh adapter as PEFT starts it: `A` uniform in `±1/sqrt(inputs)` (He et al. 2015 with slope sqrt 5), `B` zero.
    ///
    /// # Errors
    /// A rank of zero; a target that names no linear layer of the decoder.
    pub fn init(
        decoder: &Decoder,
        rank: usize,
        alpha: f32,
        targets: &Targets,
        seed: u64,
    ) -> Result<Self, ModelError> {
        if rank == 0 || !alpha.is_finite() {
            return Err(ModelError::Request(format!(
                "a LoRA of rank {rank} and alpha {alpha} is none: rank is at least 1"
            )));
        }
        check_targets(decoder.config.layers, targets)?;
        let mut lora = Self::layout(decoder, rank, alpha, false, |name| {
            list(targets).iter().any(|target| matches(target, name)).then_some(Choice { rank, alpha })
        });
        let mut rng = StdRng::seed_from_u64(seed);
        for module in &lora.modules {
            let bound = 1.0 / (module.inputs as f32).sqrt();
            let a = &mut lora.params[module.a..module.a + module.rank * module.inputs];
            a.fill_with(|| rng.random_range(-bound..bound));
        }
        Ok(lora)
    }

    /// Places for the chosen layers' adapters, all zero. `choose` is asked for every linear layer by its name.
    pub(super) fn layout(
        decoder: &Decoder,
        rank: usize,
        alpha: f32,
        rank_stabilized: bool,
        mut choose: impl FnMut(&str) -> Option<Choice>,
    ) -> Self {
        let (mut modules, mut groups, mut total) = (Vec::new(), Vec::new(), 0);
        for (layer, at) in decoder.layout.layers.iter().enumerate() {
            let mut of_layer = [const { None }; 4];
            for (group, names) in GROUPS.iter().enumerate() {
                let first = modules.len();
                let (inputs, mut out) = (at.linears[group].inputs, 0);
                let mut ranks = 0;
                let mut parts = Vec::new();
                for name in *names {
                    let outputs = outputs(decoder, name);
                    let name = format!("model.layers.{layer}.{name}");
                    let columns = out..out + outputs;
                    out += outputs;
                    let Some(Choice { rank, alpha }) = choose(&name) else { continue };
                    let scale =
                        if rank_stabilized { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 };
                    let a = total + ranks * inputs;
                    parts.push(LoraPart { out: columns.clone(), ranks: ranks..ranks + rank, scale, b: 0 });
                    ranks += rank;
                    modules.push(LoraModule {
                        name,
                        layer,
                        group,
                        rank,
                        alpha,
                        scale,
                        inputs,
                        outputs,
                        out: columns,
                        a,
                        b: 0,
                    });
                }
                // The group's A's stand together (one product makes x A^T for all of them), the B's follow.
                let a = total;
                total += ranks * inputs;
                for (part, module) in parts.iter_mut().zip(&mut modules[first..]) {
                    part.b = total;
                    module.b = total;
                    total += module.rank * module.outputs;
                }
                if !parts.is_empty() {
                    of_layer[group] = Some(LoraGroup { inputs, rank: ranks, a, parts });
                }
            }
            groups.push(of_layer);
        }
        Self { rank, alpha, rank_stabilized, modules, params: vec![0.0; total], groups }
    }

    pub fn modules(&self) -> &[LoraModule] {
        &self.modules
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.params.len()
    }

    pub fn values(&self) -> &[f32] {
        &self.params
    }

    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// `A (rank x inputs)` and `B (outputs x rank)` of a module.
    pub fn matrices(&self, module: &LoraModule) -> (&[f32], &[f32]) {
        let (a, b) = (module.rank * module.inputs, module.outputs * module.rank);
        (&self.params[module.a..module.a + a], &self.params[module.b..module.b + b])
    }

    /// The decoder with the adapter folded into its weights, `W + scale B A`.
    pub fn merge(&self, decoder: &Decoder) -> Result<Decoder, ModelError> {
        self.check(decoder)?;
        let mut merged = decoder.clone();
        for module in &self.modules {
            let at = decoder.layout.layers[module.layer].linears[module.group];
            let (a, b) = self.matrices(module);
            for (row, out) in module.out.clone().enumerate() {
                let weight = &mut merged.params[at.weight + out * at.inputs..][..at.inputs];
                for r in 0..module.rank {
                    let factor = module.scale * b[row * module.rank + r];
                    for (w, a) in weight.iter_mut().zip(&a[r * at.inputs..]) {
                        *w += factor * a;
                    }
                }
            }
        }
        Ok(merged)
    }

    /// That the adapter was made for a decoder of this shape.
    pub(super) fn check(&self, decoder: &Decoder) -> Result<(), ModelError> {
        let fits = self.groups.len() == decoder.layout.layers.len()
            && self.modules.iter().all(|m| {
                let at = &decoder.layout.layers[m.layer].linears[m.group];
                at.inputs == m.inputs && m.out.end <= at.outputs
            });
        if fits { Ok(()) } else { Err(ModelError::Request("the adapter was made for another model".into())) }
    }
}

/// Names of a block's linear layers without their module: `q_proj` and so on.
pub(super) fn projections() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|g| g.iter()).filter_map(|n| n.rsplit('.').next())
}

/// Outputs of one linear layer of a block.
fn outputs(decoder: &Decoder, name: &str) -> usize {
    let (config, shape) = (&decoder.config, decoder.attention_shape());
    match name {
        "self_attn.q_proj" => shape.q_cols(),
        "self_attn.k_proj" | "self_attn.v_proj" => shape.kv_cols(),
        "mlp.gate_proj" | "mlp.up_proj" => config.ffn,
        _ => config.hidden,
    }
}

fn list(targets: &Targets) -> &[String] {
    match targets {
        Targets::One(one) => std::slice::from_ref(one),
        Targets::Many(many) => many,
    }
}

/// Whether each target names a linear layer of a model with so many blocks.
///
/// # Errors
/// No target; one that names no linear layer, told with the nearest name that does.
pub fn check_targets(layers: usize, targets: &Targets) -> Result<(), ModelError> {
    let targets = list(targets);
    if targets.is_empty() {
        let message = "no target: name at least one linear layer, or \"all-linear\"";
        return Err(ModelError::Request(message.into()));
    }
    let names_one = |target: &str| {
        let mut names =
            (0..layers).flat_map(|l| GROUPS.iter().flat_map(move |g| g.iter().map(move |n| (l, n))));
        names.any(|(layer, name)| matches(target, &format!("model.layers.{layer}.{name}")))
    };
    let Some(target) = targets.iter().find(|t| !names_one(t)) else { return Ok(()) };
    // The last part of a full name is where the slip can be told from the names there are.
    let (path, last) = target.rsplit_once('.').map_or(("", target.as_str()), |(path, last)| (path, last));
    let near = nearest(last, projections().chain((path.is_empty()).then_some("all-linear")))
        .map(|near| if path.is_empty() { near.to_owned() } else { format!("{path}.{near}") })
        .filter(|near| names_one(near))
        .map_or_else(String::new, |near| format!("did you mean `{near}`? "));
    Err(ModelError::Request(format!(
        "target `{target}` names no linear layer of this model; {near}use \"all-linear\", names such as {}, or full names with *, such as model.layers.*.self_attn.q_proj",
        projections().collect::<Vec<_>>().join(", ")
    )))
}

/// PEFT's rule (the full name, or its end after a dot), and `*` for any characters of the full name or its end.
fn matches(target: &str, name: &str) -> bool {
    if target == "all-linear" {
        return true;
    }
    let ends = std::iter::once(0).chain(name.match_indices('.').map(|(i, _)| i + 1));
    ends.map(|i| &name[i..]).any(|end| wildcard(target.as_bytes(), end.as_bytes()))
}

/// `*` stands for any characters; without backtracking over more than the last star.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}
