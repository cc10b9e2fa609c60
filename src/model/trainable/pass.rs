//! Forward and backward of whole blocks by hand, the same for every device.
//!
//! Each layer's input is kept; the rest of its activations is kept as far as the memory that was granted reaches, from the top
//! layer down, and otherwise made again by the same operations before the layer's backward (Chen et al. 2016,
//! arXiv:1604.06174): the gradient is the same bit for bit.
//!
//! The residual stream's gradient `d_x` runs backwards through the layers and every branch adds to it. What is cheap to make
//! again (normalized states, swiglu's output) is not kept. Frozen weights get no gradient, and the backward ends at the
//! lowest layer that is trained.

use super::device::{Device, Gradient, Loss};
use super::workspace::Workspace;

/// What is computed, on a device, in so many bytes: layers whose activations go beyond them are computed again in the backward.
pub(super) struct Net<'a, D> {
    pub device: &'a D,
    pub activations: usize,
}

/// Group of the linear layers; the order of `LayerAt::linears`.
const QKV: usize = 0;
const O: usize = 1;
const GATE_UP: usize = 2;
const DOWN: usize = 3;

impl<D: Device> Net<'_, D> {
    /// Adds the losses of the packed batch; with `scale` and a gradient, adds `scale * d(loss)` to it.
    pub fn run(
        &self,
        ws: &mut Workspace<D::Memory>,
        loss: &mut Loss<D>,
        backward: Option<(f32, &mut Gradient<D>)>,
    ) {
        ws.fit(self.device, self.activations, backward.is_some());
        self.device.take(&mut ws.batch);
        self.forward(ws);
        self.device.gather(&ws.batch, &ws.normed, &mut ws.hidden);
        let (hidden, logits) = (&ws.hidden, &mut ws.logits);
        let Some((scale, grad)) = backward else {
            return self.device.loss(&ws.batch, hidden, logits, loss, None);
        };
        let backward = (scale, &mut ws.d_hidden, self.full().then_some(&mut *grad));
        self.device.loss(&ws.batch, hidden, logits, loss, Some(backward));
        self.backward(ws, grad);
    }

    /// Whether every parameter is trained.
    fn full(&self) -> bool {
        self.device.lora().is_none()
    }

    fn forward(&self, ws: &mut Workspace<D::Memory>) {
        let (d, decoder) = (self.device, self.device.decoder());
        let layers = decoder.config.layers;
        d.embedding(&ws.batch, &mut ws.inputs[ws.places.input_of(0)]);
        for layer in 0..layers {
            self.layer_forward(layer, ws, true);
        }
        let x = &ws.inputs[ws.places.input_of(layers)];
        d.rms_norm(decoder.layout.norm, x, &mut ws.normed, &mut ws.r, ws.batch.packed.tokens());
    }

    /// Fills the layer's saved activations from its input. With `output` goes on to the input of the layer above; when
    /// activations are made again that is there already, and the last product is spared.
    fn layer_forward(&self, layer: usize, ws: &mut Workspace<D::Memory>, output: bool) {
        let d = self.device;
        let at = &d.decoder().layout.layers[layer];
        let n = ws.batch.packed.tokens();
        let (slot, input) = (ws.places.slot(layer), ws.places.input_of(layer));
        let (s, c, batch) = (&mut ws.saved[slot], &mut ws.linear, &ws.batch);
        let [l_qkv, l_o, l_gate_up, l_down] = &mut s.linear;

        d.rms_norm(at.attention_norm, &ws.inputs[input], &mut ws.normed, &mut s.r, n);
        d.linear((layer, QKV), batch, &ws.normed, l_qkv, c, &mut s.qkv, None);
        d.position(at, batch, &mut s.qkv, &mut s.qk, &mut s.r_q, &mut s.r_k);
        d.attention(batch, &s.qkv, &mut s.mixed, &mut s.lse);
        d.linear((layer, O), batch, &s.mixed, l_o, c, &mut s.x_mid, Some(&ws.inputs[input]));

        d.rms_norm(at.ffn_norm, &s.x_mid, &mut ws.normed, &mut s.r_mid, n);
        d.linear((layer, GATE_UP), batch, &ws.normed, l_gate_up, c, &mut s.gate_up, None);
        d.swiglu(&s.gate_up, &mut ws.inner, n);
        if output {
            let out = &mut ws.inputs[ws.places.input_of(layer + 1)];
            d.linear((layer, DOWN), batch, &ws.inner, l_down, c, out, Some(&s.x_mid));
        } else {
            d.linear_again((layer, DOWN), batch, &ws.inner, l_down, c);
        }
        s.of = Some(layer);
    }

    fn backward(&self, ws: &mut Workspace<D::Memory>, grad: &mut Gradient<D>) {
        let (d, decoder) = (self.device, self.device.decoder());
        let (layers, n, full) = (decoder.config.layers, ws.batch.packed.tokens(), self.full());
        d.scatter(&ws.batch, &ws.d_hidden, &mut ws.d_h);
        let x = &ws.inputs[ws.places.input_of(layers)];
        let of_norm = full.then_some(&mut *grad);
        d.rms_norm_backward(decoder.layout.norm, x, &ws.r, &ws.d_h, &mut ws.d_x, false, of_norm, n);
        let lowest = self.lowest();
        for layer in (lowest.0..layers).rev() {
            // The lowest trained group of this layer; below it nothing asks for a gradient.
            let stop = if layer == lowest.0 && !full { Some(lowest.1) } else { None };
            self.layer_backward(layer, stop, ws, grad);
        }
        if full {
            d.embedding_backward(&ws.batch, &ws.d_x, grad);
        }
    }

    /// Layer and group of the lowest adapter; the very first without one.
    fn lowest(&self) -> (usize, usize) {
        let Some(lora) = self.device.lora() else { return (0, 0) };
        let layers = self.device.decoder().config.layers;
        lora.modules.iter().map(|m| (m.layer, m.group)).min().unwrap_or((layers, 0))
    }

    fn layer_backward(
        &self,
        layer: usize,
        stop: Option<usize>,
        ws: &mut Workspace<D::Memory>,
        grad: &mut Gradient<D>,
    ) {
        let (d, full) = (self.device, self.full());
        let at = &d.decoder().layout.layers[layer];
        let n = ws.batch.packed.tokens();
        let slot = ws.places.slot(layer);
        if ws.saved[slot].of != Some(layer) {
            self.layer_forward(layer, ws, false);
        }
        let (s, c, batch) = (&mut ws.saved[slot], &mut ws.linear, &ws.batch);
        let below = |group: usize| stop.is_none_or(|lowest| group > lowest);

        // Feed-forward. swiglu's output is only there after its backward, which wants the gradient for it first.
        d.linear_backward_x((layer, DOWN), batch, grad, &ws.d_x, &mut s.linear[DOWN], c, Some(&mut ws.inner));
        d.swiglu_backward(&mut s.gate_up, &mut ws.inner, n);
        d.linear_backward_weights((layer, DOWN), batch, grad, &ws.d_x, &ws.inner, &s.linear[DOWN], c);
        if !below(DOWN) {
            return;
        }
        let d_h = below(GATE_UP).then_some(&mut ws.d_h);
        d.linear_backward_x((layer, GATE_UP), batch, grad, &s.gate_up, &mut s.linear[GATE_UP], c, d_h);
        d.rms_norm_again(at.ffn_norm, &s.x_mid, &s.r_mid, &mut ws.normed, n);
        d.linear_backward_weights(
            (layer, GATE_UP),
            batch,
            grad,
            &s.gate_up,
            &ws.normed,
            &s.linear[GATE_UP],
            c,
        );
        if !below(GATE_UP) {
            return;
        }
        let of_norm = full.then_some(&mut *grad);
        d.rms_norm_backward(at.ffn_norm, &s.x_mid, &s.r_mid, &ws.d_h, &mut ws.d_x, true, of_norm, n);

        // Attention.
        let d_mixed = below(O).then_some(&mut ws.d_h);
        d.linear_backward_x((layer, O), batch, grad, &ws.d_x, &mut s.linear[O], c, d_mixed);
        d.linear_backward_weights((layer, O), batch, grad, &ws.d_x, &s.mixed, &s.linear[O], c);
        if !below(O) {
            return;
        }
        d.attention_backward(batch, &s.qkv, &s.mixed, &s.lse, &ws.d_h, &mut ws.d_qkv);
        let of_norm = full.then_some(&mut *grad);
        d.position_backward(at, batch, &mut ws.d_qkv, &s.qk, &s.r_q, &s.r_k, of_norm);
        let d_h = below(QKV).then_some(&mut ws.d_h);
        d.linear_backward_x((layer, QKV), batch, grad, &ws.d_qkv, &mut s.linear[QKV], c, d_h);
        let x = &ws.inputs[ws.places.input_of(layer)];
        d.rms_norm_again(at.attention_norm, x, &s.r, &mut ws.normed, n);
        d.linear_backward_weights((layer, QKV), batch, grad, &ws.d_qkv, &ws.normed, &s.linear[QKV], c);
        if !below(QKV) {
            return;
        }
        let of_norm = full.then_some(&mut *grad);
        d.rms_norm_backward(at.attention_norm, x, &s.r, &ws.d_h, &mut ws.d_x, true, of_norm, n);
    }
}
