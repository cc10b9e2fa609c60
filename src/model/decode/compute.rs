//! What computes the passes: the CPU, or a GPU. Who is computed, with which blocks and lanes, is the same for both.

use std::sync::Arc;

use super::batch::{Feed, Outcome};
use super::device::Device;
use super::engine::Settings;
use super::pages::{BLOCK, Pages};
use super::pass::Host;
use crate::model::trainable::BaseOnGpu;
use crate::model::{Decoder, ModelError};
use crate::ops::cuda::Launcher;
use crate::ops::{KvPages, Par};

/// A GPU to answer on, with what is there already.
#[derive(Clone, Debug)]
pub struct OnGpu {
    pub launcher: Arc<dyn Launcher>,
    /// The decoder's weights, where somebody has brought them there.
    pub base: Option<Arc<BaseOnGpu>>,
}

impl OnGpu {
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self { launcher, base: None }
    }
}

#[derive(Debug)]
pub(super) enum Compute {
    Host(Box<Host>),
    Device(Box<Device>),
}

impl Compute {
    /// What computes, and its blocks: on the CPU in `kv_bytes` at most, on a GPU in half of what is free there, as far as so many
    /// whole contexts reach as there may be requests.
    ///
    /// # Errors
    /// A GPU that has no room for the weights.
    pub fn new(decoder: &Decoder, settings: &Settings) -> Result<(Self, Pages), ModelError> {
        let Some(gpu) = &settings.gpu else {
            let c = &decoder.config;
            let blocks = settings.kv_bytes / KvPages::block_bytes(c.layers, c.kv_dim(), BLOCK);
            return Ok((Self::Host(Box::default()), Pages::new(BLOCK, blocks)));
        };
        let (device, blocks) = Device::new(gpu, decoder, settings)?;
        Ok((Self::Device(Box::new(device)), Pages::new(BLOCK, blocks)))
    }

    /// Tokens are chosen there, where a feed says how.
    pub fn chooses(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// Feeds all tokens: their keys and values are in the blocks then (their tables' owners say so by [`Pages::extend`]), and what
    /// follows is told where it is wanted. Tokens and positions are checked already.
    ///
    /// # Errors
    /// A failure of the GPU; nothing is in the blocks then.
    pub fn pass(
        &mut self,
        decoder: &Decoder,
        pages: &mut Pages,
        feeds: &[Feed<'_>],
        par: Par,
    ) -> Result<Outcome, ModelError> {
        match self {
            Self::Host(host) => Ok(decoder.pass(pages, feeds, host, par)),
            Self::Device(device) => device.pass(decoder, pages, feeds),
        }
    }

    #[cfg(test)]
    pub fn with_blocks(self, decoder: &Decoder, block: usize, count: usize) -> Self {
        match self {
            Self::Host(host) => Self::Host(host),
            Self::Device(device) => Self::Device(Box::new(device.with_blocks(decoder, block, count))),
        }
    }

    /// The lane's adapter is gone.
    pub fn forget(&mut self, lane: u32) {
        if let Self::Device(device) = self {
            device.forget(lane);
        }
    }
}
