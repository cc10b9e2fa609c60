//! The adapter on a GPU: as it is trained, as products take it, and what DoRA derives from it.

use std::sync::Arc;

use super::base::{Base, Dequantized};
use crate::model::ModelError;
use crate::model::decoder::Decoder;
use crate::model::lora::Lora;
use crate::ops::cuda::{Buffer, CudaError, DoraRows, Dtype, Gpu, Launcher, View};

/// An adapter.
#[derive(Debug)]
pub(in crate::model) struct Adapter {
    /// In f32, as it is trained.
    pub values: Buffer,
    /// In bf16.
    pub rounded: Buffer,
    /// Where PiSSA started, in bf16 and in the same places; its scales are negative.
    pub start: Option<Buffer>,
    pub dora: Option<Dora>,
    /// What is derived from `values` is older than they are.
    stale: bool,
}

/// Of every output of every group with an adapter: the length of its row of `W + scale B A`, and its magnitude by that; 1 where a
/// layer of the group has no adapter.
#[derive(Debug)]
pub(in crate::model) struct Dora {
    norms: Buffer,
    gains: Buffer,
    /// Where a group's begin, by layer.
    places: Vec<[usize; 4]>,
}

impl Dora {
    fn new(launcher: &Arc<dyn Launcher>, decoder: &Decoder, lora: &Lora) -> Result<Self, CudaError> {
        let mut total = 0;
        let places = (0..decoder.config.layers).map(|layer| {
            [0, 1, 2, 3].map(|group| {
                let place = total;
                total += lora.magnitudes_of(layer, group);
                place
            })
        });
        let places = places.collect();
        let ones = || Buffer::from_f32(launcher, &vec![1.0; total]);
        Ok(Self { norms: ones()?, gains: ones()?, places })
    }

    /// Lengths and gains (1 x outputs) of a group.
    pub fn of(&self, (layer, group): (usize, usize), outputs: usize) -> [View<'_>; 2] {
        let place = self.places[layer][group];
        [&self.norms, &self.gains].map(|buffer| View::at(buffer, place, 1, outputs))
    }
}

impl Adapter {
    pub fn new(launcher: &Arc<dyn Launcher>, decoder: &Decoder, lora: &Lora) -> Result<Self, CudaError> {
        let n = lora.parameters();
        let start = lora.start.is_some().then(|| Buffer::new(launcher, n, Dtype::Bf16)).transpose()?;
        let dora = lora.norms.is_some().then(|| Dora::new(launcher, decoder, lora)).transpose()?;
        let (values, rounded) =
            (Buffer::new(launcher, n, Dtype::F32)?, Buffer::new(launcher, n, Dtype::Bf16)?);
        let mut adapter = Self { values, rounded, start, dora, stale: true };
        adapter.load(lora)?;
        Ok(adapter)
    }

    /// Takes the values of an adapter of the same layout from the host.
    pub fn load(&mut self, lora: &Lora) -> Result<(), CudaError> {
        self.values.write_f32(0, lora.values())?;
        if let (Some(to), Some(from)) = (&self.start, &lora.start) {
            to.write_f32(0, &from.params)?;
        }
        self.stale = true;
        Ok(())
    }

    /// The values on the host, with what follows from them there.
    pub fn save(&self, decoder: &Decoder, lora: &mut Lora, par: crate::ops::Par) -> Result<(), ModelError> {
        self.values.read_f32(0, &mut lora.params)?;
        lora.refresh(decoder, par);
        Ok(())
    }

    /// The values have changed.
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// Brings what is derived up to date, if it is not: before a pass.
    pub fn refresh(
        &mut self,
        gpu: &Gpu,
        decoder: &Decoder,
        lora: &Lora,
        base: &Base,
        room: &mut Dequantized,
    ) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        gpu.cast(&self.values, &self.rounded, self.values.len());
        let Some(dora) = &self.dora else { return };
        for (layer, at) in decoder.layout.layers.iter().enumerate() {
            for (group, linear) in at.linears.iter().enumerate() {
                let Some(adapter) = lora.group(layer, group) else { continue };
                let w = base.weight(gpu, linear, (layer, group), room);
                let a = View::at(&self.values, adapter.a, adapter.rank, adapter.inputs);
                let [norms, gains] = dora.of((layer, group), linear.outputs);
                for part in &adapter.parts {
                    let Some(m) = part.magnitude else { continue };
                    let rows = DoraRows {
                        w: w.rows(part.out.clone()),
                        a: a.rows(part.ranks.clone()),
                        b: View::at(&self.values, part.b, part.out.len(), part.ranks.len()),
                        m: View::at(&self.values, m, 1, part.out.len()),
                        scale: part.scale,
                    };
                    gpu.dora_norm(rows, norms.cols(part.out.clone()), gains.cols(part.out.clone()));
                }
            }
        }
    }

    /// Bytes of an adapter on a device without gradient and moments.
    pub fn bytes_of(decoder: &Decoder, lora: &Lora) -> usize {
        let (n, f32, bf16) = (lora.parameters(), Dtype::F32.bytes(), Dtype::Bf16.bytes());
        let magnitudes =
            (0..decoder.config.layers).map(|l| (0..4).map(|g| lora.magnitudes_of(l, g)).sum::<usize>());
        n * (f32 + bf16)
            + if lora.start.is_some() { n * bf16 } else { 0 }
            + 2 * f32 * magnitudes.sum::<usize>()
    }
}
