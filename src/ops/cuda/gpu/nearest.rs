#![allow(unsafe_code)]
//! The rows of a table that score highest for each query; see `kernels/nearest.cu`.

use half::f16;

use super::{Gpu, int, pointer};
use crate::ops::cuda::buffer::Buffer;
use crate::ops::cuda::error::CudaError;
use crate::ops::cuda::seam::{Arg, Dtype};

/// Queries and rows of a block's tile.
const TILE: usize = 64;
/// Most that are found for a query.
pub const MOST_NEAREST: usize = 60;
/// Queries that are on the device at once.
const AT_ONCE: usize = 16_384;
/// Most parts of a table: what the merging of a query reads.
const PARTS: usize = 256;
const NO_ROW: u32 = u32::MAX;

/// A table on the device.
#[derive(Debug)]
pub struct NearestTable {
    values: Buffer,
    bias: Option<Buffer>,
    rows: usize,
    dim: usize,
    half: bool,
}

impl NearestTable {
    /// Elements of `values` in f32; in f16 there are as many pairs of bytes.
    fn elements(&self) -> usize {
        self.rows * self.dim * if self.half { 2 } else { 1 }
    }
}

impl Gpu {
    /// A table (rows x dim) in f32, or rounded to f16, with a bias for each row where there is one.
    ///
    /// # Errors
    /// No room; lengths that do not fit.
    pub fn nearest_table(
        &self,
        values: &[f32],
        dim: usize,
        bias: Option<&[f32]>,
        half: bool,
    ) -> Result<NearestTable, CudaError> {
        let rows = values.len().checked_div(dim).unwrap_or(0);
        if rows * dim != values.len() || bias.is_some_and(|bias| bias.len() != rows) {
            let message = format!("{} values and their bias are no rows of {dim}", values.len());
            return Err(CudaError::call("nearest", message));
        }
        self.check()?;
        let of_f32 = |values: &[f32]| Buffer::from_f32(self.launcher(), values);
        let values = if half {
            let bytes: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
            let buffer = Buffer::new(self.launcher(), bytes.len(), Dtype::U8)?;
            buffer.write_u8(0, &bytes)?;
            buffer
        } else {
            of_f32(values)?
        };
        Ok(NearestTable { values, bias: bias.map(of_f32).transpose()?, rows, dim, half })
    }

    /// The `k` rows with the highest `<query, row> + bias` for each query (queries x dim), best first, of equals the lower row; fewer where the
    /// table has fewer. What scores NaN or -inf is not found. At most [`MOST_NEAREST`].
    ///
    /// # Errors
    /// Queries of another length, a `k` that is too large, what fails on the device.
    pub fn nearest(
        &self,
        table: &NearestTable,
        queries: &[f32],
        k: usize,
    ) -> Result<Vec<Vec<(usize, f32)>>, CudaError> {
        let count = queries.len().checked_div(table.dim).unwrap_or(0);
        if count * table.dim != queries.len() || k > MOST_NEAREST {
            let message = format!("{k} rows of {} for {} values", table.dim, queries.len());
            return Err(CudaError::call("nearest", message));
        }
        let k = k.min(table.rows);
        if count == 0 || k == 0 {
            return Ok(vec![Vec::new(); count]);
        }
        let mut found = Vec::with_capacity(count);
        for some in queries.chunks(AT_ONCE * table.dim) {
            self.nearest_of(table, some, k, &mut found)?;
        }
        Ok(found)
    }

    fn nearest_of(
        &self,
        table: &NearestTable,
        queries: &[f32],
        k: usize,
        found: &mut Vec<Vec<(usize, f32)>>,
    ) -> Result<(), CudaError> {
        let count = queries.len() / table.dim;
        let tiles = count.div_ceil(TILE);
        // As many parts as fill the chip, of a tile at least.
        let chip = super::BLOCKS_PER_MULTIPROCESSOR * self.launcher().multiprocessors() as usize;
        let wanted = chip.div_ceil(tiles).clamp(1, PARTS);
        let span = table.rows.div_ceil(wanted).next_multiple_of(TILE);
        let parts = table.rows.div_ceil(span);
        let asked = Buffer::from_f32(self.launcher(), queries)?;
        let room = |n: usize, dtype: Dtype| Buffer::new(self.launcher(), n, dtype);
        let mut scores = room(count * parts * k, Dtype::F32)?;
        let mut ids = room(count * parts * k, Dtype::U32)?;
        let bias = table.bias.as_ref().map_or(Ok(Arg::Pointer(0)), |bias| pointer(bias, table.rows));
        let args = [
            pointer(&asked, count * table.dim)?,
            pointer(&table.values, table.elements())?,
            bias?,
            pointer(&scores, count * parts * k)?,
            pointer(&ids, count * parts * k)?,
            int(count)?,
            int(table.rows)?,
            int(table.dim)?,
            int(span)?,
            int(parts)?,
            int(k)?,
        ];
        let kernel = if table.half { "nearest_f16" } else { "nearest_f32" };
        self.run(|| self.launch(kernel, [tiles, parts], [256, 1], (8 * TILE * k) as u32, &args));
        if parts > 1 {
            let (merged, merged_ids) = (room(count * k, Dtype::F32)?, room(count * k, Dtype::U32)?);
            let args = [
                pointer(&scores, count * parts * k)?,
                pointer(&ids, count * parts * k)?,
                pointer(&merged, count * k)?,
                pointer(&merged_ids, count * k)?,
                int(parts)?,
                int(k)?,
            ];
            self.run(|| self.launch("nearest_merge", [count, 1], [32, 1], (4 * parts) as u32, &args));
            (scores, ids) = (merged, merged_ids);
        }
        self.check()?;
        let (mut all, mut who) = (vec![0.0; count * k], vec![0; count * k]);
        scores.read_f32(0, &mut all)?;
        ids.read_u32(0, &mut who)?;
        for (scores, ids) in all.chunks_exact(k).zip(who.chunks_exact(k)) {
            let there = ids.iter().zip(scores).filter(|(id, _)| **id != NO_ROW);
            found.push(there.map(|(id, score)| (*id as usize, *score)).collect());
        }
        Ok(())
    }
}
