//! A group of linear layers with its adapter on a GPU: the twin of `model/linear.rs`, with its formulas.

use super::adapter::Adapter;
use super::base::Dequantized;
use super::{BatchOnGpu, OnDevice};
use crate::model::lora::Lora;
use crate::model::trainable::device::Batch;
use crate::ops::LoraGroup;
use crate::ops::cuda::{Addend, Buffer, Gpu, Mask, View};

/// What the backward of a group wants of its forward, beside the input.
#[derive(Debug, Default)]
pub(in crate::model::trainable) struct Saved {
    /// `x A^T` (tokens x rank).
    pub u: Buffer,
    /// With DoRA, the output before its magnitude and bias (tokens x outputs); then the gradient for it.
    pub v: Buffer,
}

/// Buffers that serve all groups in turn.
#[derive(Debug, Default)]
pub(in crate::model::trainable) struct Scratch {
    /// Gradient of `u` (tokens x rank).
    pub c: Buffer,
    /// With dropout, the adapter's input or the gradient for it (tokens x inputs).
    pub dropped: Buffer,
    pub room: Dequantized,
    /// Sums of the magnitudes' gradient.
    pub parts: Buffer,
}

/// `A` (rank x inputs) and `B`s of a group, within bf16 parameters.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Factors<'a> {
    pub group: &'a LoraGroup,
    params: &'a Buffer,
}

/// Those of the adapter for a group, and of PiSSA's start.
pub(in crate::model) fn factors<'a>(
    lora: &'a Lora,
    adapter: &'a Adapter,
    (layer, group): (usize, usize),
) -> Option<(Factors<'a>, Option<Factors<'a>>)> {
    let trained = Factors { group: lora.group(layer, group)?, params: &adapter.rounded };
    let start = lora.start.as_ref().zip(adapter.start.as_ref());
    let start = start
        .and_then(|(start, params)| Some(Factors { group: start.groups[layer][group].as_ref()?, params }));
    Some((trained, start))
}

impl<'a> Factors<'a> {
    fn a(self) -> View<'a> {
        View::at(self.params, self.group.a, self.group.rank, self.group.inputs)
    }

    /// `u = x A^T`.
    pub(in crate::model) fn down(self, gpu: &Gpu, x: View<'_>, u: View<'_>) {
        gpu.matmul(u, Addend::None, 1.0, x, self.a().t());
    }

    /// `y += s u B^T`.
    pub(in crate::model) fn up(self, gpu: &Gpu, u: View<'_>, y: View<'_>) {
        for part in &self.group.parts {
            let b = View::at(self.params, part.b, part.out.len(), part.ranks.len());
            let (y, u) = (y.cols(part.out.clone()), u.cols(part.ranks.clone()));
            gpu.matmul(y, Addend::Itself, part.scale, u, b.t());
        }
    }

    /// `c = s dy B`, and with a destination `dx [+]= c A`.
    fn back(self, gpu: &Gpu, dy: View<'_>, c: View<'_>, dx: Option<(View<'_>, Addend<'_>)>) {
        for part in &self.group.parts {
            let b = View::at(self.params, part.b, part.out.len(), part.ranks.len());
            let (c, dy) = (c.cols(part.ranks.clone()), dy.cols(part.out.clone()));
            gpu.matmul(c, Addend::None, part.scale, dy, b);
        }
        if let Some((dx, addend)) = dx {
            gpu.matmul(dx, addend, 1.0, c, self.a());
        }
    }
}

impl OnDevice<'_> {
    /// Of the trained adapter, and of PiSSA's start.
    fn factors(&self, at: (usize, usize)) -> Option<(Factors<'_>, Option<Factors<'_>>)> {
        factors(self.lora, self.adapter, at)
    }

    /// The adapter's input: that of the layer, or with dropout what is left of it.
    fn for_a<'b>(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        x: View<'b>,
        dropped: &'b Buffer,
    ) -> View<'b> {
        let Some(mask) = self.mask(at, batch) else { return x };
        let left = View::new(dropped, x.rows, x.cols);
        self.gpu.dropout(x, mask, left, false);
        left
    }

    /// In training steps with dropout.
    fn mask<'b>(&self, (layer, group): (usize, usize), batch: &'b Batch<BatchOnGpu>) -> Option<Mask<'b>> {
        let layer = (layer * 4 + group) as u64;
        self.dropout.map(|rate| Mask { keys: &batch.own.keys, layer, rate })
    }

    /// `y = [residual +] x W^T + bias + adapter`.
    pub(super) fn group_forward(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        x: &Buffer,
        saved: &Saved,
        scratch: &mut Scratch,
        y: &Buffer,
        residual: Option<&Buffer>,
    ) {
        let (gpu, linear, n) = (self.gpu, self.group(at), batch.packed.tokens());
        let weight = self.base.weight(gpu, linear, at, &mut scratch.room);
        let (x, y) = (View::new(x, n, linear.inputs), View::new(y, n, linear.outputs));
        // The residual is added by the product, in f32.
        let addend = residual.map_or(Addend::None, |r| Addend::Other(View::new(r, n, linear.outputs)));
        match (self.factors(at), &self.adapter.dora) {
            (None, _) => gpu.matmul(y, addend, 1.0, x, weight.t()),
            (Some((trained, _)), Some(dora)) => {
                let (v, u) =
                    (View::new(&saved.v, n, linear.outputs), View::new(&saved.u, n, trained.group.rank));
                gpu.matmul(v, Addend::None, 1.0, x, weight.t());
                trained.down(gpu, self.for_a(at, batch, x, &scratch.dropped), u);
                trained.up(gpu, u, v);
                if let Some(residual) = residual {
                    gpu.copy(y.buffer, residual, n * linear.outputs);
                }
                let [_, gains] = dora.of(at, linear.outputs);
                gpu.dora_forward(v, gains, y, residual.is_some());
            }
            (Some((trained, start)), None) => {
                gpu.matmul(y, addend, 1.0, x, weight.t());
                let for_a = self.for_a(at, batch, x, &scratch.dropped);
                let u = View::new(&saved.u, n, trained.group.rank);
                // The same buffer for both: the backward wants the trained adapter's u, which comes last.
                for factors in start.into_iter().chain([trained]) {
                    factors.down(gpu, for_a, u);
                    factors.up(gpu, u, y);
                }
            }
        }
        if let Some(bias) = linear.bias {
            gpu.add_bias(y, self.vector(bias, linear.outputs));
        }
    }

    /// What the backward wants of the forward, once more, without the output.
    pub(super) fn group_forward_again(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        x: &Buffer,
        saved: &Saved,
        scratch: &mut Scratch,
    ) {
        let (gpu, linear, n) = (self.gpu, self.group(at), batch.packed.tokens());
        let Some((trained, _)) = self.factors(at) else { return };
        let (x, u) = (View::new(x, n, linear.inputs), View::new(&saved.u, n, trained.group.rank));
        trained.down(gpu, self.for_a(at, batch, x, &scratch.dropped), u);
        if self.adapter.dora.is_some() {
            let weight = self.base.weight(gpu, linear, at, &mut scratch.room);
            let v = View::new(&saved.v, n, linear.outputs);
            gpu.matmul(v, Addend::None, 1.0, x, weight.t());
            trained.up(gpu, u, v);
        }
    }

    /// `dx = dy W [+ c A]`, `c = s dy B`; with DoRA the magnitudes' gradient too.
    pub(super) fn group_backward_x(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        grad: &Buffer,
        dy: &Buffer,
        saved: &Saved,
        scratch: &mut Scratch,
        dx: Option<&Buffer>,
    ) {
        let (gpu, linear, n) = (self.gpu, self.group(at), batch.packed.tokens());
        let factors = self.factors(at);
        let mut dy = View::new(dy, n, linear.outputs);
        let dx = dx.map(|dx| View::new(dx, n, linear.inputs));
        if let (Some((trained, _)), Some(dora)) = (&factors, &self.adapter.dora) {
            let (v, [norms, gains]) = (View::new(&saved.v, n, linear.outputs), dora.of(at, linear.outputs));
            let count = gpu.dora_backward(dy, v, gains, &mut scratch.parts);
            let parts = View::new(&scratch.parts, count, linear.outputs);
            for part in &trained.group.parts {
                let Some(m) = part.magnitude else { continue };
                let d_m = View::at(grad, m, 1, part.out.len());
                gpu.dora_magnitude(parts.cols(part.out.clone()), norms.cols(part.out.clone()), d_m);
            }
            dy = v;
        }
        if let Some(dx) = dx {
            let weight = self.base.weight(gpu, linear, at, &mut scratch.room);
            gpu.matmul(dx, Addend::None, 1.0, dy, weight);
        }
        let Some((trained, start)) = factors else { return };
        let c = View::new(&scratch.c, n, trained.group.rank);
        // Through the adapter: straight into dx, or with dropout into a buffer that is masked then.
        let mask = self.mask(at, batch);
        let dropped = View::new(&scratch.dropped, n, linear.inputs);
        let mut through =
            dx.map(|dx| if mask.is_some() { (dropped, Addend::None) } else { (dx, Addend::Itself) });
        for factors in start.into_iter().chain([trained]) {
            factors.back(gpu, dy, c, through);
            through = through.map(|(to, _)| (to, Addend::Itself));
        }
        if let (Some(dx), Some(mask)) = (dx, mask) {
            gpu.dropout(dropped, mask, dx, true);
        }
    }

    /// Gradients of the adapter's `A` and `B`, if there is one.
    pub(super) fn group_backward_weights(
        &self,
        at: (usize, usize),
        batch: &Batch<BatchOnGpu>,
        grad: &Buffer,
        dy: &Buffer,
        x: &Buffer,
        saved: &Saved,
        scratch: &Scratch,
    ) {
        let (gpu, linear, n) = (self.gpu, self.group(at), batch.packed.tokens());
        let Some((Factors { group, .. }, _)) = self.factors(at) else { return };
        let dy = if self.adapter.dora.is_some() { &saved.v } else { dy };
        let (dy, x) = (View::new(dy, n, linear.outputs), View::new(x, n, linear.inputs));
        let x = self.for_a(at, batch, x, &scratch.dropped);
        let (u, c) = (View::new(&saved.u, n, group.rank), View::new(&scratch.c, n, group.rank));
        let d_a = View::at(grad, group.a, group.rank, group.inputs);
        gpu.matmul(d_a, Addend::Itself, 1.0, c.t(), x);
        for part in &group.parts {
            let d_b = View::at(grad, part.b, part.out.len(), part.ranks.len());
            let (dy, u) = (dy.cols(part.out.clone()), u.cols(part.ranks.clone()));
            gpu.matmul(d_b, Addend::Itself, part.scale, dy.t(), u);
        }
    }
}
