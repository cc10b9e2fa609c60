//! PiSSA (Meng et al. 2024, arXiv:2404.02948): an adapter that starts in the principal components of each weight.
//!
//! With the `r` largest singular values of `W (outputs x inputs) = U S V^T`: `A_0 = sqrt(S/s) V^T`, `B_0 = U sqrt(S/s)`, `s` the
//! adapter's scale, and what is frozen is the residual `W - s B_0 A_0`. Here the base stays whole, as others may share it,
//! and `- s (x A_0^T) B_0^T` is added to its output: the same function. That is a plain LoRA of twice the rank too,
//! `A = [A; A_0]`, `B = [B, -B_0]`, and such it is written (PEFT's conversion), so that it loads on the untouched base.

use rayon::prelude::*;

use super::ModelError;
use super::decoder::Decoder;
use super::lora::{Lora, LoraModule, Start};
use crate::ops::{self, Mat, MatMut, Par};

impl Lora {
    /// Splits every layer's weight; the layout is there, the parameters are zero.
    pub(super) fn start_in_principal_components(
        &mut self,
        decoder: &Decoder,
        par: Par,
    ) -> Result<(), ModelError> {
        if let Some(m) = self.modules.iter().find(|m| m.rank > m.inputs.min(m.outputs)) {
            let most = m.inputs.min(m.outputs);
            let message = format!(
                "{}: init = \"pissa\" with rank {} needs as many singular values, but the layer has {most}; lower rank",
                m.name, m.rank
            );
            return Err(ModelError::Request(message));
        }
        if let Some(m) = self.modules.iter().find(|m| m.scale <= 0.0) {
            let message = format!("{}: init = \"pissa\" needs an alpha above 0, not {}", m.name, m.alpha);
            return Err(ModelError::Request(message));
        }
        // Layers side by side, each by one thread: what comes out does not depend on their number.
        let split = |module: &LoraModule| {
            let at = decoder.layout.layers[module.layer].linears[module.group];
            let mut weight = vec![0.0; module.outputs * module.inputs];
            let rows = MatMut::new(&mut weight, module.outputs, module.inputs);
            decoder.weight(&at, module.layer, module.group).read_rows(module.out.clone(), rows);
            ops::principal_components(Mat::new(&weight, module.outputs, module.inputs), module.rank)
        };
        let components: Vec<_> = if par.is_serial() {
            self.modules.iter().map(split).collect()
        } else {
            self.modules.par_iter().map(split).collect()
        };
        for (module, found) in self.modules.iter().zip(components) {
            let (a, b) = (&mut self.params[module.a..], module.b);
            let roots: Vec<f32> = found.values.iter().map(|s| (s / module.scale).sqrt()).collect();
            for (r, root) in roots.iter().enumerate() {
                let v = &found.right[r * module.inputs..(r + 1) * module.inputs];
                for (a, v) in a[r * module.inputs..].iter_mut().zip(v) {
                    *a = root * v;
                }
            }
            let b = &mut self.params[b..];
            for (r, root) in roots.iter().enumerate() {
                let u = &found.left[r * module.outputs..(r + 1) * module.outputs];
                for (row, u) in u.iter().enumerate() {
                    b[row * module.rank + r] = root * u;
                }
            }
        }
        let mut groups = self.groups.clone();
        for part in groups.iter_mut().flatten().flatten().flat_map(|g| &mut g.parts) {
            part.scale = -part.scale;
        }
        self.start = Some(Start { params: self.params.clone(), groups });
        Ok(())
    }
}

/// `[A; A_0]` (2 rank x inputs) and `[B, -B_0]` (outputs x 2 rank) of a module; both parameters have its layout.
pub(super) fn join(module: &LoraModule, params: &[f32], start: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = module.rank * module.inputs;
    let a = [&params[module.a..module.a + n], &start[module.a..module.a + n]].concat();
    let mut b = Vec::with_capacity(2 * module.rank * module.outputs);
    for row in 0..module.outputs {
        let at = module.b + row * module.rank;
        b.extend_from_slice(&params[at..at + module.rank]);
        b.extend(start[at..at + module.rank].iter().map(|b| -b));
    }
    (a, b)
}

/// The way back from [`join`].
pub(super) fn split(module: &LoraModule, (a, b): (&[f32], &[f32]), params: &mut [f32], start: &mut [f32]) {
    let n = module.rank * module.inputs;
    let (now, before) = a.split_at(n);
    params[module.a..module.a + n].copy_from_slice(now);
    start[module.a..module.a + n].copy_from_slice(before);
    for (row, b) in b.chunks_exact(2 * module.rank).enumerate() {
        let at = module.b + row * module.rank;
        let (now, before) = b.split_at(module.rank);
        params[at..at + module.rank].copy_from_slice(now);
        for (to, from) in start[at..at + module.rank].iter_mut().zip(before) {
            *to = -from;
        }
    }
}
