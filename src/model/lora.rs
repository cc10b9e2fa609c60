//! Low-rank adapters on any of a decoder's linear layers: which layers, where their numbers stand, how they start.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::decoder::Decoder;
use super::{ModelError, pissa};
use crate::domain::settings::{Init, Targets, TrainSettings};
use crate::domain::words::nearest;
use crate::ops::{self, LoraGroup, LoraPart, Par};

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
    /// Of DoRA's magnitudes (outputs).
    pub(super) magnitude: Option<usize>,
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
    pub(super) groups: Vec<Groups<LoraGroup>>,
    /// With DoRA, the lengths of the rows of `W + scale B A` (outputs of the group), as [`Lora::refresh`] found them.
    pub(super) norms: Option<Vec<Groups<Vec<f32>>>>,
    pub(super) start: Option<Start>,
}

/// Something for each group of a layer that has an adapter.
pub(super) type Groups<T> = [Option<T>; 4];

/// Where PiSSA started: the base stays whole, and `scale B A` of the start is taken off its output. The layout is the
/// adapter's own; the scales are negative.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Start {
    pub params: Vec<f32>,
    pub groups: Vec<Groups<LoraGroup>>,
}

/// A linear layer that may carry an adapter, with rank and alpha if it is chosen.
pub(super) struct Choice {
    pub rank: usize,
    pub alpha: f32,
}

/// What all layers of an adapter have alike, beside the usual rank and alpha.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub rank: usize,
    pub alpha: f32,
    pub rank_stabilized: bool,
    /// Magnitudes of the outputs are trained too.
    pub decomposed: bool,
}

impl Lora {
    /// As [`Lora::from_settings`], all but these by default.
    ///
    /// # Errors
    /// As there.
    pub fn init(
        decoder: &Decoder,
        rank: usize,
        alpha: f32,
        targets: &Targets,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let settings =
            TrainSettings { rank, alpha, targets: targets.clone(), seed, ..TrainSettings::default() };
        Self::from_settings(decoder, &settings, Par::SERIAL)
    }

    /// The places of an adapter, all zero: needs no weights, an [`Decoder::outline`] will do.
    ///
    /// # Errors
    /// A rank of zero; a target or a pattern that names no linear layer of the decoder.
    pub fn outline(decoder: &Decoder, settings: &TrainSettings) -> Result<Self, ModelError> {
        let (rank, alpha) = (settings.rank, settings.alpha);
        check_targets(decoder.config.layers, &settings.targets)?;
        let ranks = settings.rank_pattern.iter().map(|(name, rank)| (name.as_str(), *rank)).collect();
        let mut ranks = Patterns::new(ranks, "rank_pattern:");
        let alphas = settings.alpha_pattern.iter().map(|(name, alpha)| (name.as_str(), *alpha)).collect();
        let mut alphas = Patterns::new(alphas, "alpha_pattern:");
        let kind = Kind {
            rank,
            alpha,
            rank_stabilized: settings.method.is_rank_stabilized(),
            decomposed: settings.method.is_decomposed(),
        };
        let lora = Self::layout(decoder, kind, |name| {
            let (rank, alpha) = (ranks.find(name).unwrap_or(rank), alphas.find(name).unwrap_or(alpha));
            list(&settings.targets).iter().any(|t| matches(t, name)).then_some(Choice { rank, alpha })
        });
        ranks.all_used()?;
        alphas.all_used()?;
        if let Some(module) = lora.modules.iter().find(|m| m.rank == 0 || !m.alpha.is_finite()) {
            let message = format!(
                "{}: a LoRA of rank {} and alpha {} is none: rank is at least 1",
                module.name, module.rank, module.alpha
            );
            return Err(ModelError::Request(message));
        }
        Ok(lora)
    }

    /// A fresh adapter as PEFT starts it: `A` uniform in `±1/sqrt(inputs)` (He et al. 2015 with slope sqrt 5), `B` zero, magnitudes
    /// the lengths of the weights' rows; or as PiSSA has it.
    ///
    /// # Errors
    /// Those of [`Lora::outline`]; a rank above what PiSSA can split.
    pub fn from_settings(decoder: &Decoder, settings: &TrainSettings, par: Par) -> Result<Self, ModelError> {
        let mut lora = Self::outline(decoder, settings)?;
        if settings.init == Init::Pissa {
            lora.start_in_principal_components(decoder, par)?;
        } else {
            let mut rng = StdRng::seed_from_u64(settings.seed);
            for module in &lora.modules {
                let bound = 1.0 / (module.inputs as f32).sqrt();
                let a = &mut lora.params[module.a..module.a + module.rank * module.inputs];
                a.fill_with(|| rng.random_range(-bound..bound));
            }
        }
        lora.refresh(decoder, par);
        if let Some(norms) = &lora.norms {
            for module in &lora.modules {
                let norms = norms[module.layer][module.group].as_deref().unwrap_or_default();
                if let Some(m) = module.magnitude {
                    lora.params[m..m + module.outputs].copy_from_slice(&norms[module.out.clone()]);
                }
            }
        }
        Ok(lora)
    }

    /// Brings what is derived from the parameters up to date: to be called whenever they have changed. Only DoRA has such things.
    pub(super) fn refresh(&mut self, decoder: &Decoder, par: Par) {
        let Some(norms) = &mut self.norms else { return };
        for (layer, (norms, groups)) in norms.iter_mut().zip(&self.groups).enumerate() {
            for (at, (norms, group)) in norms.iter_mut().zip(groups).enumerate() {
                if let (Some(norms), Some(group)) = (norms, group) {
                    let weight = decoder.weight(&decoder.layout.layers[layer].linears[at], layer, at);
                    ops::dora_norms(group, &self.params, weight, norms, par);
                }
            }
        }
    }

    /// Places for the chosen layers' adapters, all zero. `choose` is asked for every linear layer by its name.
    pub(super) fn layout(
        decoder: &Decoder,
        kind: Kind,
        mut choose: impl FnMut(&str) -> Option<Choice>,
    ) -> Self {
        let Kind { rank, alpha, rank_stabilized, decomposed } = kind;
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
                    parts.push(LoraPart {
                        out: columns.clone(),
                        ranks: ranks..ranks + rank,
                        scale,
                        b: 0,
                        magnitude: None,
                    });
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
                        magnitude: None,
                    });
                }
                // The group's A's stand together (one product makes x A^T for all of them), the B's follow, then magnitudes.
                let a = total;
                total += ranks * inputs;
                for (part, module) in parts.iter_mut().zip(&mut modules[first..]) {
                    part.b = total;
                    module.b = total;
                    total += module.rank * module.outputs;
                }
                for (part, module) in parts.iter_mut().zip(&mut modules[first..]).filter(|_| decomposed) {
                    part.magnitude = Some(total);
                    module.magnitude = Some(total);
                    total += module.outputs;
                }
                if !parts.is_empty() {
                    of_layer[group] = Some(LoraGroup { inputs, rank: ranks, a, parts });
                }
            }
            groups.push(of_layer);
        }
        let norms = decomposed.then(|| {
            let of = |group: usize, layer: usize| {
                groups[layer][group]
                    .is_some()
                    .then(|| vec![0.0; decoder.layout.layers[layer].linears[group].outputs])
            };
            (0..groups.len()).map(|layer| std::array::from_fn(|group| of(group, layer))).collect()
        });
        Self { rank, alpha, rank_stabilized, modules, params: vec![0.0; total], groups, norms, start: None }
    }

    pub(super) fn group(&self, layer: usize, group: usize) -> Option<&LoraGroup> {
        self.groups[layer][group].as_ref()
    }

    /// Outputs of a group whose magnitudes are trained; 0 for others.
    pub(super) fn magnitudes_of(&self, layer: usize, group: usize) -> usize {
        let norms = self.norms.as_ref().and_then(|norms| norms[layer][group].as_ref());
        norms.map_or(0, Vec::len)
    }

    /// The largest rank of a group.
    pub(super) fn widest(&self) -> usize {
        self.groups.iter().flatten().flatten().map(|g| g.rank).max().unwrap_or(0)
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

    /// For tests, of adapters without magnitudes: the parameters, to be changed in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.params
    }

    /// `A (rank x inputs)` and `B (outputs x rank)` of a module.
    pub fn matrices(&self, module: &LoraModule) -> (&[f32], &[f32]) {
        let (a, b) = (module.rank * module.inputs, module.outputs * module.rank);
        (&self.params[module.a..module.a + a], &self.params[module.b..module.b + b])
    }

    /// Magnitudes (outputs) of a module, with DoRA.
    pub fn magnitudes(&self, module: &LoraModule) -> Option<&[f32]> {
        module.magnitude.map(|m| &self.params[m..m + module.outputs])
    }

    /// Outputs of the group with the most that have a magnitude; 0 without DoRA.
    pub(super) fn widest_magnitudes(&self) -> usize {
        self.norms.iter().flatten().flatten().flatten().map(Vec::len).max().unwrap_or(0)
    }

    /// Where `B` and the magnitudes stand among the parameters, one range a group: what LoRA+ gives another learning rate.
    pub(super) fn spans_of_b(&self) -> Vec<std::ops::Range<usize>> {
        let groups: Vec<&LoraGroup> = self.groups.iter().flatten().flatten().collect();
        let ends = groups.iter().skip(1).map(|g| g.a).chain([self.params.len()]);
        groups.iter().zip(ends).map(|(g, end)| g.a + g.rank * g.inputs..end).collect()
    }

    /// The decoder with the adapter folded into its weights: `W + scale B A`, with DoRA each row brought to its magnitude.
    ///
    /// # Errors
    /// An adapter of another model; a quantized decoder.
    pub fn merge(&self, decoder: &Decoder) -> Result<Decoder, ModelError> {
        self.check(decoder)?;
        decoder.check_f32("take an adapter into its weights")?;
        let mut merged = decoder.clone();
        for module in &self.modules {
            let at = decoder.layout.layers[module.layer].linears[module.group];
            let Some(first) = at.weight else { continue };
            let of_module = |params| {
                let (a, b): (usize, usize) = (module.rank * module.inputs, module.outputs * module.rank);
                let params: &[f32] = params;
                (&params[module.a..module.a + a], &params[module.b..module.b + b])
            };
            let mut terms = vec![(module.scale, of_module(&self.params))];
            if let Some(start) = &self.start {
                terms.push((-module.scale, of_module(&start.params)));
            }
            let gains = match (&self.norms, self.group(module.layer, module.group)) {
                (Some(norms), Some(group)) => norms[module.layer][module.group]
                    .as_ref()
                    .map(|norms| ops::dora_gains(group, &self.params, norms)),
                _ => None,
            };
            for (row, out) in module.out.clone().enumerate() {
                let weight = &mut merged.params[first + out * at.inputs..][..at.inputs];
                for (scale, (a, b)) in &terms {
                    for r in 0..module.rank {
                        let factor = scale * b[row * module.rank + r];
                        for (w, a) in weight.iter_mut().zip(&a[r * at.inputs..]) {
                            *w += factor * a;
                        }
                    }
                }
                if let Some(gains) = &gains {
                    for w in weight.iter_mut() {
                        *w *= gains[out];
                    }
                }
            }
        }
        Ok(merged)
    }

    /// Goes on from a saved adapter of the same layers; false if it is another one, and nothing is changed then.
    pub(super) fn restore(&mut self, saved: Self, decoder: &Decoder) -> bool {
        match &mut self.start {
            None if saved.modules == self.modules => self.params = saved.params,
            Some(start) if saved.modules.len() == self.modules.len() => {
                let alike = |(ours, theirs): (&LoraModule, &LoraModule)| {
                    (&ours.name, 2 * ours.rank, ours.scale, ours.inputs, ours.outputs)
                        == (&theirs.name, theirs.rank, theirs.scale, theirs.inputs, theirs.outputs)
                };
                if !self.modules.iter().zip(&saved.modules).all(alike) {
                    return false;
                }
                for (module, from) in self.modules.iter().zip(&saved.modules) {
                    pissa::split(module, saved.matrices(from), &mut self.params, &mut start.params);
                }
            }
            _ => return false,
        }
        self.refresh(decoder, Par::SERIAL);
        true
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

/// Layer and group of a linear layer's weight by its full name; none for other parameters.
pub(super) fn place(weight: &str) -> Option<(usize, usize)> {
    let (layer, name) = weight.strip_prefix("model.layers.")?.strip_suffix(".weight")?.split_once('.')?;
    let group = GROUPS.iter().position(|names| names.contains(&name))?;
    Some((layer.parse().ok()?, group))
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

/// Values by names or patterns of layers, and which of them have named one.
struct Patterns<'a, T> {
    /// What they are called in a message.
    what: &'static str,
    entries: Vec<(&'a str, T, bool)>,
}

impl<'a, T: Copy> Patterns<'a, T> {
    fn new(entries: Vec<(&'a str, T)>, what: &'static str) -> Self {
        Self { what, entries: entries.into_iter().map(|(pattern, value)| (pattern, value, false)).collect() }
    }

    /// The value of the pattern that says most of the name: the one with the most characters beside stars, the first by name
    /// among equals.
    fn find(&mut self, name: &str) -> Option<T> {
        let letters = |pattern: &str| pattern.chars().filter(|c| *c != '*').count();
        let mut best: Option<(usize, T)> = None;
        for (pattern, value, used) in self.entries.iter_mut().filter(|(pattern, ..)| matches(pattern, name)) {
            *used = true;
            if best.is_none_or(|(most, _)| letters(pattern) > most) {
                best = Some((letters(pattern), *value));
            }
        }
        best.map(|(_, value)| value)
    }

    fn all_used(&self) -> Result<(), ModelError> {
        let Some((pattern, ..)) = self.entries.iter().find(|(.., used)| !used) else { return Ok(()) };
        let last = pattern.rsplit('.').next().unwrap_or_default();
        let near =
            nearest(last, projections()).map_or(String::new(), |name| format!(" (did you mean `{name}`?)"));
        Err(ModelError::Request(format!(
            "{} `{pattern}` names no linear layer of this model{near}; use \"all-linear\", names such as {}, or full names with *, such as model.layers.*.self_attn.q_proj",
            self.what,
            projections().collect::<Vec<_>>().join(", ")
        )))
    }
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
