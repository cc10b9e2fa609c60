//! Nearest rows on a GPU, where this process has one. The GPU proposes more than is wanted and the CPU measures those again, so that what is found is
//! what the CPU finds, to the bit; where the proposals cannot tell, the CPU looks at all rows.
//!
//! A run that holds a GPU lends it ([`lend`]); nobody else opens one.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Vectors, dot};
use crate::ops::cuda::{CudaError, Driver, Gpu, Launcher, MOST_NEAREST, NearestTable};

/// Less work than so many products is done on the CPU before a GPU has begun.
const LEAST: usize = 1 << 24;

/// Half of the distance from 1 to the next f32: a sum of `n` products is off by at most `n` of it, as a share of the lengths' product (Higham 2002,
/// section 3.1).
const UNIT: f32 = 5.960_464_5e-8;

/// Numbers of the GPUs that are lent: once for each loan.
static LENT: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// The first that was looked for. A process has one.
static OPENED: OnceLock<(usize, Option<Searcher>)> = OnceLock::new();

fn held() -> MutexGuard<'static, Vec<usize>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Searches of this process may compute on a GPU as long as this lives.
#[derive(Debug)]
pub struct Loan(usize);

/// The caller holds the GPU with this number.
pub fn lend(ordinal: usize) -> Loan {
    held().push(ordinal);
    Loan(ordinal)
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut held = held();
        if let Some(at) = held.iter().position(|ordinal| *ordinal == self.0) {
            held.swap_remove(at);
        }
    }
}

/// The GPU that was lent, for work of so many products; none where there is none, where it cannot be opened, or where it would not pay.
pub fn lent(products: usize) -> Option<&'static Searcher> {
    if products < LEAST {
        return None;
    }
    let wanted = *held().first()?;
    let (ordinal, opened) = OPENED.get_or_init(|| (wanted, Driver::open(wanted).ok().map(Searcher::over)));
    opened.as_ref().filter(|_| held().contains(ordinal))
}

/// A GPU that looks for nearest rows.
#[derive(Debug)]
pub struct Searcher {
    gpu: Gpu,
    /// It failed: it is not asked again.
    trouble: Mutex<Option<CudaError>>,
}

/// Vectors on a GPU.
#[derive(Debug)]
pub struct Table {
    values: NearestTable,
    dimensions: usize,
    rows: usize,
    /// Length of the longest row.
    longest: f32,
}

impl Searcher {
    pub fn over(launcher: Arc<dyn Launcher>) -> Self {
        Self { gpu: Gpu::new(launcher), trouble: Mutex::default() }
    }

    /// Why it is not asked any more.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ToString::to_string)
    }

    fn told<T>(&self, found: Result<T, CudaError>) -> Option<T> {
        found.map_err(|e| *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(e)).ok()
    }

    /// Brings vectors there, with what is added to the products of each. None: it cannot.
    pub fn table(&self, vectors: &Vectors, bias: Option<&[f32]>) -> Option<Table> {
        if self.trouble().is_some() || vectors.is_empty() {
            return None;
        }
        let values = self.told(self.gpu.nearest_table(&vectors.data, vectors.dimensions, bias, false))?;
        let longest = vectors.rows().map(|row| dot(row, row)).fold(0.0, f32::max).sqrt();
        Some(Table { values, dimensions: vectors.dimensions, rows: vectors.len(), longest })
    }

    /// The nearest centroids of vectors, `|x - c|^2` the smallest: for each those that may be the nearest (squared distances of the two nearest that
    /// are closer than rounding are not told apart), in their order; none where it cannot tell. `table` has the centroids with `-|c|^2 / 2`.
    ///
    /// None: the GPU cannot be asked.
    pub fn centroids(&self, table: &Table, vectors: &[f32]) -> Option<Vec<Option<Vec<usize>>>> {
        const PROPOSED: usize = 8;
        let found = self.proposals(table, vectors, PROPOSED)?;
        let lengths = vectors.chunks_exact(table.dimensions).map(|x| dot(x, x).sqrt());
        let told = found.into_iter().zip(lengths).map(|(proposed, length)| {
            let (_, best) = proposed.first()?;
            // |x - c|^2 = |x|^2 - 2 score: score and distance are each off by a share of (|x| + |c|)^2.
            let off = 4.0 * (table.dimensions + 2) as f32 * UNIT * (length + table.longest).powi(2);
            let may = |score: f32| score >= best - off;
            // Those behind the last one may be as near as it.
            if proposed.len() < table.rows && proposed.last().is_none_or(|(_, score)| may(*score)) {
                return None;
            }
            let mut places: Vec<usize> =
                proposed.iter().filter(|(_, score)| may(*score)).map(|(place, _)| *place).collect();
            places.sort_unstable();
            Some(places)
        });
        Some(told.collect())
    }

    /// The rows with the largest products with a query, as many as a GPU finds, in no order, and a bound: no other row's product is above it, however it
    /// is summed.
    ///
    /// None: the GPU cannot be asked.
    pub fn most(&self, table: &Table, query: &[f32]) -> Option<(Vec<usize>, f32)> {
        let found = self.proposals(table, query, MOST_NEAREST)?.pop()?;
        let off = 4.0 * (table.dimensions + 2) as f32 * UNIT * dot(query, query).sqrt() * table.longest;
        let bound = match found.last() {
            Some((_, score)) if found.len() < table.rows => score + off,
            _ => f32::NEG_INFINITY,
        };
        Some((found.into_iter().map(|(place, _)| place).collect(), bound))
    }

    fn proposals(&self, table: &Table, queries: &[f32], k: usize) -> Option<Vec<Vec<(usize, f32)>>> {
        if self.trouble().is_some() {
            return None;
        }
        self.told(self.gpu.nearest(&table.values, queries, k))
    }
}
