//! Recorded passes: where the same launches come step after step, one call submits all of them.
//!
//! A recording holds addresses, sizes and grids; what changes from step to step stands in buffers. The first pass of a kind goes
//! launch by launch (kernels are loaded, algorithms are chosen, buffers get their size), the second one is recorded.

use std::collections::{HashMap, HashSet};

use crate::ops::cuda::{Address, CudaError, Gpu, Graph};

/// What the launches of a pass depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub rows: usize,
    pub splits: usize,
    pub lane: u32,
}

#[derive(Debug, Default)]
pub(super) struct Graphs {
    seen: HashSet<Kind>,
    made: HashMap<Kind, Graph>,
    /// Of the buffers that the recordings name.
    addresses: Vec<Address>,
    /// Recording was tried and failed.
    off: bool,
}

/// Recordings at once; each takes some memory on the device.
const MOST: usize = 64;

impl Graphs {
    /// Forgets the recordings if a buffer is not where it was.
    pub fn keep(&mut self, gpu: &Gpu, addresses: Vec<Address>) {
        if addresses != self.addresses {
            self.forget(gpu, |_| true);
            self.addresses = addresses;
        }
    }

    pub fn forget(&mut self, gpu: &Gpu, which: impl Fn(&Kind) -> bool) {
        self.seen.retain(|kind| !which(kind));
        self.made.retain(|kind, graph| {
            let goes = which(kind);
            if goes {
                gpu.forget(*graph);
            }
            !goes
        });
    }

    /// The recording of a kind, made now if its time has come; none: to be done launch by launch. `pass` submits it.
    ///
    /// # Errors
    /// What failed before.
    pub fn ready(
        &mut self,
        gpu: &Gpu,
        kind: Kind,
        pass: &mut dyn FnMut(),
    ) -> Result<Option<Graph>, CudaError> {
        gpu.check()?;
        if self.off {
            return Ok(None);
        }
        if let Some(graph) = self.made.get(&kind) {
            return Ok(Some(*graph));
        }
        if self.seen.insert(kind) {
            return Ok(None);
        }
        if self.made.len() >= MOST {
            self.forget(gpu, |other| *other != kind);
        }
        match gpu.record(pass) {
            Ok(graph) => {
                self.made.insert(kind, graph);
                Ok(Some(graph))
            }
            Err(error) => {
                // The worker's log: answers are the same, only later.
                eprintln!("passes are submitted launch by launch, for they cannot be recorded: {error}");
                self.off = true;
                Ok(None)
            }
        }
    }
}
