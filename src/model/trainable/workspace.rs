//! Buffers of one forward and backward: made once, grown when a batch is larger, never cleared.

use super::device::{Batch, Device, Kind, Memory};
use super::footprint::{OfAdapter, of_adapters, places, saved_widths, widest};

/// What the backward of one layer wants of its forward, beside its input.
#[derive(Debug)]
pub(super) struct Saved<M: Memory> {
    /// The layer that it is of.
    pub of: Option<usize>,
    /// Residual stream before the feed-forward (tokens x hidden).
    pub x_mid: M::Buffer,
    /// Inverse root mean squares of both norms (tokens).
    pub r: M::Buffer,
    pub r_mid: M::Buffer,
    /// Of the four groups of linear layers.
    pub linear: [M::LinearSaved; 4],
    /// Stacked q|k|v, q and k normalized and rotated.
    pub qkv: M::Buffer,
    /// With q and k norm: q|k before it, and its inverse root mean squares per head.
    pub qk: M::Buffer,
    pub r_q: M::Buffer,
    pub r_k: M::Buffer,
    /// Attention's output (tokens x heads*dim) and log sum exp (heads x tokens).
    pub mixed: M::Buffer,
    pub lse: M::Buffer,
    /// Stacked gate|up (tokens x 2 ffn); the backward overwrites it with its gradient.
    pub gate_up: M::Buffer,
}

/// Which buffers a layer uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Layers below this one share the first place for their activations, which are made again in the backward.
    shared: usize,
    backward: bool,
}

impl Places {
    /// As many of the `layers` as `budget` bytes hold beside what is always there: every layer's input, one place.
    pub fn new(layers: usize, backward: bool, budget: usize, input: usize, saved: usize) -> Self {
        let always = (layers + 1) * input + saved;
        let kept = (budget.saturating_sub(always) / saved.max(1)).min(layers);
        // A single shared layer has the place for itself.
        let shared = if !backward {
            layers
        } else if kept + 1 >= layers {
            0
        } else {
            layers - kept
        };
        Self { shared, backward }
    }

    pub fn slot(&self, layer: usize) -> usize {
        if layer < self.shared { 0 } else { layer - self.shared + usize::from(self.shared > 0) }
    }

    pub fn slots(&self, layers: usize) -> usize {
        self.slot(layers - 1) + 1
    }

    /// The only layer that uses a place; none for the shared one.
    pub fn layer_of(&self, slot: usize) -> Option<usize> {
        if self.shared == 0 { Some(slot) } else { slot.checked_sub(1).map(|above| self.shared + above) }
    }

    /// Number of layers that share a place.
    pub fn shared(&self) -> usize {
        self.shared
    }

    pub fn inputs(&self, layers: usize) -> usize {
        if self.backward { layers + 1 } else { 2 }
    }

    /// Without a backward, inputs are written in turn.
    pub fn input_of(&self, layer: usize) -> usize {
        if self.backward { layer } else { layer % 2 }
    }
}

impl<M: Memory> Default for Saved<M> {
    fn default() -> Self {
        Self {
            of: None,
            x_mid: Default::default(),
            r: Default::default(),
            r_mid: Default::default(),
            linear: Default::default(),
            qkv: Default::default(),
            qk: Default::default(),
            r_q: Default::default(),
            r_k: Default::default(),
            mixed: Default::default(),
            lse: Default::default(),
            gate_up: Default::default(),
        }
    }
}

/// Everything else.
#[derive(Debug)]
pub(super) struct Workspace<M: Memory> {
    pub places: Places,
    pub saved: Vec<Saved<M>>,
    /// Residual stream before each layer, and after the last (tokens x hidden).
    pub inputs: Vec<M::Buffer>,
    pub batch: Batch<M::Batch>,
    /// Inverse root mean squares of the last norm.
    pub r: M::Buffer,
    /// A normalized hidden state, made anew in the backward.
    pub normed: M::Buffer,
    /// swiglu's output (tokens x ffn), then its gradient.
    pub inner: M::Buffer,
    /// Gradients: of the residual stream, of a hidden state, of q|k|v.
    pub d_x: M::Buffer,
    pub d_h: M::Buffer,
    pub d_qkv: M::Buffer,
    pub linear: M::LinearScratch,
    /// Hidden states of the predicting tokens only, and their gradient.
    pub hidden: M::Buffer,
    pub d_hidden: M::Buffer,
    /// Of a chunk of them; the output layer's operation makes room for as many as it takes at once.
    pub logits: M::Buffer,
}

impl<M: Memory> Default for Workspace<M> {
    fn default() -> Self {
        Self {
            places: Places::default(),
            saved: Vec::new(),
            inputs: Vec::new(),
            batch: Batch::default(),
            r: Default::default(),
            normed: Default::default(),
            inner: Default::default(),
            d_x: Default::default(),
            d_h: Default::default(),
            d_qkv: Default::default(),
            linear: Default::default(),
            hidden: Default::default(),
            d_hidden: Default::default(),
            logits: Default::default(),
        }
    }
}

impl<M: Memory> Workspace<M> {
    /// Makes room for the packed batch, with activations of at most `budget` bytes if that is possible at all.
    pub fn fit<D: Device<Memory = M>>(&mut self, device: &D, budget: usize, backward: bool) {
        use Kind::{Activation, Statistic};
        let (decoder, lora) = (device.decoder(), device.lora());
        let (c, shape) = (&decoder.config, decoder.attention_shape());
        let (n, h) = (self.batch.packed.tokens(), c.hidden);
        let (widths, widest) = (saved_widths(decoder), widest(decoder, lora));
        self.places = places::<M>(decoder, lora, budget, n, backward);
        let slots = self.places.slots(c.layers);
        // Where memory is short, places of a smaller batch before are given back.
        if self.saved.len() < slots || (backward && self.places.shared > 0) {
            self.saved.resize_with(slots, Saved::default);
        }
        for saved in &mut self.saved {
            saved.of = None;
        }
        for layer in (0..c.layers).rev() {
            let slot = self.places.slot(layer);
            let saved = &mut self.saved[slot];
            let own = if slot == 0 && self.places.shared > 0 { widest } else { of_adapters(lora, layer) };
            let buffers = [
                &mut saved.x_mid,
                &mut saved.r,
                &mut saved.r_mid,
                &mut saved.qkv,
                &mut saved.qk,
                &mut saved.r_q,
                &mut saved.r_k,
                &mut saved.mixed,
                &mut saved.lse,
                &mut saved.gate_up,
            ];
            for (buffer, (kind, width)) in buffers.into_iter().zip(widths) {
                device.fit(buffer, kind, n * width);
            }
            for (saved, OfAdapter { rank, magnitudes }) in saved.linear.iter_mut().zip(own) {
                device.fit_linear(saved, n, rank, magnitudes);
            }
        }
        let inputs = self.places.inputs(c.layers);
        if self.inputs.len() < inputs {
            self.inputs.resize_with(inputs, Default::default);
        }
        for input in &mut self.inputs {
            device.fit(input, Activation, n * h);
        }
        for (buffer, kind, width) in [
            (&mut self.r, Statistic, 1),
            (&mut self.normed, Activation, h),
            (&mut self.inner, Activation, c.ffn),
        ] {
            device.fit(buffer, kind, n * width);
        }
        let targets = self.batch.packed.targets.len();
        device.fit(&mut self.hidden, Activation, targets * h);
        device.fit_linear_scratch(&mut self.linear, n);
        if backward {
            for (buffer, width) in [
                (&mut self.d_x, h),
                (&mut self.d_h, h.max(shape.q_cols())),
                (&mut self.d_qkv, shape.qkv_cols()),
            ] {
                device.fit(buffer, Activation, n * width);
            }
            device.fit(&mut self.d_hidden, Activation, targets * h);
        }
    }
}

#[cfg(test)]
impl Workspace<super::cpu::Host> {
    /// Floats in all buffers but the logits.
    pub fn floats(&self) -> usize {
        let saved = self.saved.iter().flat_map(|s| {
            [&s.x_mid, &s.r, &s.r_mid, &s.qkv, &s.qk, &s.r_q, &s.r_k, &s.mixed, &s.lse, &s.gate_up]
                .into_iter()
                .chain(s.linear.iter().flat_map(|l| [&l.u, &l.v]))
        });
        let own = [
            &self.r,
            &self.normed,
            &self.inner,
            &self.d_x,
            &self.d_h,
            &self.d_qkv,
            &self.linear.c,
            &self.linear.dropped,
        ];
        let all = saved.chain(&self.inputs).chain(own).chain([&self.hidden, &self.d_hidden]);
        all.map(Vec::len).sum()
    }
}
