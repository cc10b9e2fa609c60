//! Losses on a GPU: each row's sum stays there until the host asks for all of them, once a step.

use crate::ops::cuda::{Buffer, CudaError, Dtype, Gpu, View};

/// What [`Gpu::clip`] leaves: norm of the gradient, factor for it, 1 if finite.
pub(in crate::model::trainable) const STATE: usize = 3;

/// Losses since they were last asked for.
#[derive(Debug)]
pub(in crate::model::trainable) struct Losses {
    /// Of the targets of one batch.
    pub each: Buffer,
    /// Room for the gradient's state, then sums by row: one copy to the host brings both.
    told: Buffer,
    rows: usize,
}

impl Default for Losses {
    fn default() -> Self {
        Self { each: Buffer::empty(Dtype::F32), told: Buffer::empty(Dtype::F32), rows: 0 }
    }
}

impl Losses {
    /// Adds those of a batch, whose `each` is there.
    pub fn keep(&mut self, gpu: &Gpu, ends: &Buffer, rows: usize) {
        let (taken, wanted) = (STATE + self.rows, STATE + self.rows + rows);
        if self.told.len() < wanted {
            let mut more = Buffer::empty(Dtype::F32);
            gpu.fit(&mut more, wanted.next_power_of_two());
            if self.rows > 0 {
                gpu.copy(&more, &self.told, taken);
            }
            self.told = more;
        }
        gpu.row_losses(&self.each, ends, View::at(&self.told, taken, 1, rows));
        self.rows += rows;
    }

    /// The sums by row since the last call, in the order of the batches, and what `state` holds; waits for the device, once.
    pub fn take(&mut self, gpu: &Gpu, state: Option<&Buffer>) -> Result<(Vec<f64>, [f32; STATE]), CudaError> {
        let rows = std::mem::take(&mut self.rows);
        gpu.fit(&mut self.told, STATE + rows);
        if let Some(state) = state {
            gpu.copy(&self.told, state, STATE);
        }
        gpu.check()?;
        let mut told = vec![0.0; STATE + rows];
        self.told.read_f32(0, &mut told)?;
        let (state, rows) = told.split_at(STATE);
        Ok((rows.iter().map(|sum| f64::from(*sum)).collect(), [state[0], state[1], state[2]]))
    }
}
