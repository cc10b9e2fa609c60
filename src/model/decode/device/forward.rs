//! The layers of a pass on a GPU: what is submitted, in which order, over which buffers. Nothing here makes a buffer larger, moves
//! anything between host and device, or depends on more than sizes: a recording of it serves all passes of its kind.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Buffers;
use super::inputs::Inputs;
use crate::model::Decoder;
use crate::model::decode::batch::{Batch, Stretch};
use crate::model::trainable::BaseOnGpu;
use crate::model::trainable::gpu::{Adapter, factors};
use crate::ops::cuda::{Addend, Buffer, Gpu, KvCache, Positions, View};

/// The linear groups: q|k|v, o, gate|up, down.
#[derive(Clone, Copy)]
enum Group {
    Qkv,
    Out,
    GateUp,
    Down,
}

/// One pass.
pub(super) struct Forward<'a> {
    pub gpu: &'a Gpu,
    pub decoder: &'a Decoder,
    pub base: &'a BaseOnGpu,
    pub adapters: &'a BTreeMap<u32, Adapter>,
    pub cache: &'a KvCache,
    pub buffers: &'a mut Buffers,
    pub batch: &'a Batch<'a>,
    pub inputs: &'a Inputs,
}

impl Forward<'_> {
    /// A vector of the base.
    fn vector(&self, offset: usize, len: usize) -> View<'_> {
        View::at(&self.base.values, offset, 1, len)
    }

    /// A table of the base (vocab x hidden).
    fn table(&self, offset: usize) -> View<'_> {
        View::at(&self.base.values, offset, self.decoder.config.vocab, self.decoder.config.hidden)
    }

    /// From the tokens to the hidden states after the last layer, in `x`.
    pub fn layers(&mut self) {
        let (c, shape, n) = (&self.decoder.config, self.decoder.attention_shape(), self.inputs.rows);
        let h = c.hidden;
        let (gpu, inputs) = (self.gpu, self.inputs);
        {
            let b = &self.buffers;
            gpu.gather_at(
                self.table(self.decoder.layout.embedding),
                inputs.ids(&b.inputs),
                View::new(&b.x, n, h),
            );
        }
        for (layer, at) in self.decoder.layout.layers.iter().enumerate() {
            self.norm(at.attention_norm, n, |b| &b.x);
            self.linear(layer, Group::Qkv);
            let b = &self.buffers;
            let qkv = View::new(&b.qkv, n, shape.qkv_cols());
            let positions = Positions { table: &b.table, positions: inputs.positions(&b.inputs) };
            match at.qk_norm {
                Some((q, k)) => {
                    let norms = [self.vector(q, c.head_dim), self.vector(k, c.head_dim)];
                    gpu.norm_rope(&shape, qkv, &b.raw, norms, c.rms_eps, &b.r, positions);
                }
                None => {
                    let qk = qkv.cols(0..shape.q_cols() + shape.kv_cols());
                    gpu.rotate(qk, shape.dim, positions, false);
                }
            }
            gpu.paged_write(&shape, qkv, inputs.slots(&b.inputs), self.cache, layer);
            let mixed = View::new(&b.mixed, n, shape.q_cols());
            let queries = inputs.queries(&b.inputs);
            gpu.paged_attention(&shape, qkv, queries, self.cache, layer, &b.parts, mixed);
            self.linear(layer, Group::Out);
            self.norm(at.ffn_norm, n, |b| &b.x);
            self.linear(layer, Group::GateUp);
            let b = &self.buffers;
            gpu.swiglu(View::new(&b.gate_up, n, 2 * c.ffn), View::new(&b.inner, n, c.ffn));
            self.linear(layer, Group::Down);
        }
        let b = &self.buffers;
        gpu.gather_at(View::new(&b.x, n, h), inputs.wanted(&b.inputs), View::new(&b.last, inputs.wanted, h));
        self.norm(self.decoder.layout.norm, inputs.wanted, |b| &b.last);
    }

    /// The logits of some wanted rows, to the beginning of `logits`.
    pub fn logits(&mut self, rows: Range<usize>) {
        let (c, b) = (&self.decoder.config, &self.buffers);
        let hidden = View::new(&b.normed, self.inputs.wanted, c.hidden).rows(rows.clone());
        let logits = View::new(&b.logits, rows.len(), c.vocab);
        self.gpu.matmul(logits, Addend::None, 1.0, hidden, self.table(self.decoder.layout.head).t());
    }

    /// `normed`: RMSNorm of the first `rows` of a buffer.
    fn norm(&self, weight: usize, rows: usize, of: impl Fn(&Buffers) -> &Buffer) {
        let (c, b) = (&self.decoder.config, &*self.buffers);
        let (x, y) = (View::new(of(b), rows, c.hidden), View::new(&b.normed, rows, c.hidden));
        self.gpu.rms_norm(x, self.vector(weight, c.hidden), c.rms_eps, y, &b.r);
    }

    /// A group of linear layers with the lanes' adapters; o and down add to `x`.
    fn linear(&mut self, layer: usize, group: Group) {
        let (gpu, n, at) = (self.gpu, self.inputs.rows, (layer, group as usize));
        let linear = &self.decoder.layout.layers[layer].linears[group as usize];
        let Buffers { x: hidden, normed, qkv, mixed, gate_up, inner, u, v, room, .. } = &mut *self.buffers;
        let (x, y, addend) = match group {
            Group::Qkv => (&*normed, &*qkv, Addend::None),
            Group::Out => (&*mixed, &*hidden, Addend::Itself),
            Group::GateUp => (&*normed, &*gate_up, Addend::None),
            Group::Down => (&*inner, &*hidden, Addend::Itself),
        };
        let (x, y) = (View::new(x, n, linear.inputs), View::new(y, n, linear.outputs));
        let weight = self.base.weight(gpu, linear, at, room);
        let lanes: Vec<_> = self
            .batch
            .lanes
            .iter()
            .enumerate()
            .map(|(i, stretch)| {
                let Stretch { lane, adapter, tokens } = stretch;
                // Rows that fill up belong to the last one.
                let end = if i + 1 == self.batch.lanes.len() { n } else { tokens.end };
                let found = adapter.zip(self.adapters.get(lane));
                let factors = found.and_then(|(lora, adapter)| factors(lora, adapter, at));
                let gains =
                    found.and_then(|(_, adapter)| Some(adapter.dora.as_ref()?.of(at, linear.outputs)[1]));
                (tokens.start..end, factors, gains)
            })
            .collect();
        let scales = lanes.iter().any(|(_, factors, gains)| factors.is_some() && gains.is_some());
        if !scales {
            gpu.matmul(y, addend, 1.0, x, weight.t());
        }
        for (rows, factors, gains) in lanes {
            let (x, y) = (x.rows(rows.clone()), y.rows(rows.clone()));
            let gains = gains.filter(|_| factors.is_some());
            // DoRA scales the whole product, so that it cannot be added to what stands in `y` before the deltas are.
            let to = if gains.is_some() { View::new(v, rows.len(), linear.outputs) } else { y };
            if scales {
                let addend = if gains.is_some() { Addend::None } else { addend };
                gpu.matmul(to, addend, 1.0, x, weight.t());
            }
            if let Some((trained, start)) = factors {
                for factors in start.into_iter().chain([trained]) {
                    let u = View::new(u, rows.len(), factors.group.rank);
                    factors.down(gpu, x, u);
                    factors.up(gpu, u, to);
                }
            }
            if let Some(gains) = gains {
                gpu.dora_forward(to, gains, y, matches!(addend, Addend::Itself));
            }
        }
        if let Some(bias) = linear.bias {
            gpu.add_bias(y, View::at(&self.base.values, bias, 1, linear.outputs));
        }
    }
}
