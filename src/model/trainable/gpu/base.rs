//! The frozen base on a GPU: bf16, its linear layers in NF4 where the decoder has them so.

use std::sync::Arc;

use crate::model::decoder::{Decoder, LinearAt};
use crate::ops::cuda::{Buffer, CudaError, Dtype, Gpu, Launcher, Nf4Weight, View};
use crate::ops::{Nf4, Weight};

/// The decoder's parameters.
#[derive(Debug)]
pub struct Base {
    /// Every tensor at the place that it has in the decoder's parameters.
    pub(in crate::model) values: Buffer,
    /// By layer and group, of each its linear layers one below the other; empty in bf16.
    nf4: Vec<[Vec<Nf4Weight>; 4]>,
    levels: Buffer,
}

/// A group's weight as a product takes it, where the base is in NF4: made anew for each product.
#[derive(Debug, Default)]
pub(in crate::model) struct Dequantized(Buffer);

impl Dequantized {
    pub fn buffer(&self) -> &Buffer {
        &self.0
    }
}

impl Base {
    /// Brings the decoder to the device, tensor by tensor.
    pub fn new(launcher: &Arc<dyn Launcher>, decoder: &Decoder) -> Result<Self, CudaError> {
        let values = Buffer::new(launcher, decoder.values().len(), Dtype::Bf16)?;
        for tensor in decoder.tensors() {
            values.write_f32(tensor.offset, &decoder.values()[tensor.range()])?;
        }
        let mut nf4 = Vec::new();
        let mut levels = Buffer::empty(Dtype::F32);
        if decoder.is_quantized() {
            levels = Nf4Weight::levels(launcher)?;
            for (layer, at) in decoder.layout.layers.iter().enumerate() {
                let mut groups = [const { Vec::new() }; 4];
                for (group, (to, linear)) in groups.iter_mut().zip(&at.linears).enumerate() {
                    if let Weight::Nf4(parts) = decoder.weight(linear, layer, group) {
                        for part in parts {
                            to.push(Nf4Weight::new(launcher, part)?);
                        }
                    }
                }
                nf4.push(groups);
            }
        }
        Ok(Self { values, nf4, levels })
    }

    /// Bytes that a decoder takes on a device, with room for one group's weight in bf16 where it is in NF4.
    pub fn bytes_of(decoder: &Decoder) -> usize {
        let groups =
            || decoder.layout.layers.iter().flat_map(|at| &at.linears).filter(|at| at.weight.is_none());
        let elements = |at: &LinearAt| at.outputs * at.inputs;
        let codes: usize = groups().map(|at| Nf4::bytes_of(elements(at))).sum();
        let dequantized = groups().map(elements).max().unwrap_or(0);
        codes + Dtype::Bf16.bytes() * (decoder.layout.total + dequantized)
    }

    /// Bytes that it takes, without what is dequantized in passing.
    pub fn bytes(&self) -> usize {
        let nf4 = self.nf4.iter().flatten().flatten().map(Nf4Weight::bytes);
        self.values.bytes() + self.levels.bytes() + nf4.sum::<usize>()
    }

    /// The weight (outputs x inputs) of a group: where it stands, or dequantized into `room`.
    pub(in crate::model) fn weight<'a>(
        &'a self,
        gpu: &Gpu,
        linear: &LinearAt,
        (layer, group): (usize, usize),
        room: &'a mut Dequantized,
    ) -> View<'a> {
        if let Some(at) = linear.weight {
            return View::at(&self.values, at, linear.outputs, linear.inputs);
        }
        gpu.fit_as(&mut room.0, linear.outputs * linear.inputs, Dtype::Bf16);
        let w = View::new(&room.0, linear.outputs, linear.inputs);
        let mut first = 0;
        for part in self.nf4.get(layer).map_or(&[][..], |groups| &groups[group]) {
            gpu.dequantize(part, &self.levels, w.rows(first..first + part.n_rows()));
            first += part.n_rows();
        }
        w
    }
}
