//! Exact k nearest by dot product, over all cores.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::embed::Vectors;
use crate::embed::gpu::{Searcher, Table};
use crate::ops::dots::dots;

/// Rows that are scored before their best are taken: 1,024 rows of 256 dimensions are 1 MiB, within a core's cache.
const BLOCK: usize = 1_024;

/// Place and score, best first; of equals the one that stands first.
pub type Ranked = Vec<(usize, f32)>;

fn better(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The `k` best so far.
struct Best {
    k: usize,
    /// Unordered; the first is the worst once there are `k`.
    heap: Ranked,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, heap: Vec::with_capacity(k.min(1 << 16)) }
    }

    /// Scores below this cannot come in.
    fn floor(&self) -> f32 {
        if self.heap.len() < self.k { f32::NEG_INFINITY } else { self.heap.first().map_or(0.0, |w| w.1) }
    }

    fn push(&mut self, found: (usize, f32)) {
        if self.k == 0 {
            return;
        }
        let worse = |a: &(usize, f32), b: &(usize, f32)| better(a, b) == Ordering::Greater;
        if self.heap.len() == self.k {
            if !self.heap.first().is_some_and(|worst| worse(worst, &found)) {
                return;
            }
            self.heap[0] = found;
            let mut at = 0;
            loop {
                let mut worst = at;
                for child in [2 * at + 1, 2 * at + 2] {
                    if child < self.heap.len() && worse(&self.heap[child], &self.heap[worst]) {
                        worst = child;
                    }
                }
                if worst == at {
                    return;
                }
                self.heap.swap(at, worst);
                at = worst;
            }
        }
        self.heap.push(found);
        let mut at = self.heap.len() - 1;
        while at > 0 && worse(&self.heap[at], &self.heap[(at - 1) / 2]) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sorted(mut self) -> Ranked {
        self.heap.sort_unstable_by(better);
        self.heap
    }
}

/// The `k` rows of `vectors` with the largest dot product with `query`, of those that `keep` takes. A query of another length, or not a
/// number in a row, finds nothing there.
pub fn top(vectors: &Vectors, query: &[f32], k: usize, keep: &(dyn Fn(usize) -> bool + Sync)) -> Ranked {
    if query.len() != vectors.dimensions || query.is_empty() {
        return Ranked::new();
    }
    let blocks = vectors.data.par_chunks(BLOCK * vectors.dimensions).enumerate();
    let best = blocks.fold(
        || (Best::new(k), vec![0.0_f32; BLOCK]),
        |(mut best, mut scores), (block, rows)| {
            let n = rows.len() / query.len();
            dots(rows, query, &mut scores[..n]);
            for (i, &score) in scores[..n].iter().enumerate() {
                let place = block * BLOCK + i;
                if score >= best.floor() && keep(place) {
                    best.push((place, score));
                }
            }
            (best, scores)
        },
    );
    let merged = best.map(|(best, _)| best).reduce(
        || Best::new(k),
        |mut a, b| {
            b.heap.into_iter().for_each(|found| a.push(found));
            a
        },
    );
    merged.sorted()
}

/// [`top`] of vectors that are on a GPU as `table`: the same rows with the same scores. None: it cannot tell, and the CPU can.
pub fn top_on(
    (gpu, table): (&Searcher, &Table),
    vectors: &Vectors,
    query: &[f32],
    k: usize,
    keep: &(dyn Fn(usize) -> bool + Sync),
) -> Option<Ranked> {
    let (places, bound) = gpu.most(table, query)?;
    let mut best = Best::new(k);
    let mut score = [0.0];
    for place in places.into_iter().filter(|place| keep(*place)) {
        dots(vectors.row(place), query, &mut score);
        best.push((place, score[0]));
    }
    // Whoever is not among them scores no more than the bound.
    let whole = bound == f32::NEG_INFINITY || k == 0;
    (whole || (best.heap.len() == k && best.floor() > bound)).then(|| best.sorted())
}

/// The best of scores that are there already, by the same rule.
pub fn top_of(scores: impl Iterator<Item = (usize, f32)>, k: usize) -> Ranked {
    let mut best = Best::new(k);
    scores.filter(|(_, score)| !score.is_nan()).for_each(|found| best.push(found));
    best.sorted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Neither blocks nor threads nor k change what is found: it is the head of the sorted whole.
        #[test]
        fn the_k_nearest_are_the_head_of_all_sorted(
            values in prop::collection::vec(-3i8..4, 0..6000),
            k in 0..40usize,
            modulus in 1..5usize,
            threads in 1..4usize,
        ) {
            let dimensions = 2;
            let data: Vec<f32> = values[..values.len() / 2 * 2].iter().map(|v| f32::from(*v)).collect();
            let vectors = Vectors { dimensions, data };
            let query = [1.0, -2.0];
            let keep = |i: usize| i.is_multiple_of(modulus);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let got = pool.install(|| top(&vectors, &query, k, &keep));
            let mut all: Ranked =
                vectors.rows().map(|r| r[0] - 2.0 * r[1]).enumerate().filter(|(i, _)| keep(*i)).collect();
            all.sort_by(better);
            all.truncate(k);
            prop_assert_eq!(got, all);
        }
    }

    #[test]
    fn a_gpu_finds_what_the_cpu_finds_or_says_that_it_cannot_tell() {
        let Some(launcher) = crate::ops::cuda::Emulator::new(0) else { return };
        let gpu = Searcher::over(launcher);
        let mut rng = crate::domain::rng::SplitMix64::new(7);
        let mut draw = |n: usize| (0..n).map(|_| rng.unit() as f32 - 0.5).collect::<Vec<f32>>();
        for (rows, dimensions) in [(1, 3), (59, 8), (60, 8), (61, 8), (700, 17)] {
            let vectors = Vectors { dimensions, data: draw(rows * dimensions) };
            let table = gpu.table(&vectors, None).unwrap();
            for k in [0, 1, 5, 50] {
                let query = draw(dimensions);
                for modulus in [1, 3] {
                    let keep = |i: usize| i.is_multiple_of(modulus);
                    let told = top_on((&gpu, &table), &vectors, &query, k, &keep);
                    if let Some(told) = &told {
                        assert_eq!(*told, top(&vectors, &query, k, &keep), "{rows} x {dimensions}, {k}");
                    }
                    // Where a third is kept, fifty of them are not among the first sixty.
                    let must = rows <= 60 || modulus == 1 || k <= 5;
                    assert!(told.is_some() || !must, "{rows} x {dimensions}, {k}, {modulus}");
                }
            }
        }
        // Many that are alike: nothing tells the sixty from the others.
        let alike = Vectors { dimensions: 2, data: vec![0.5; 2 * 200] };
        let table = gpu.table(&alike, None).unwrap();
        assert_eq!(top_on((&gpu, &table), &alike, &[1.0, 1.0], 5, &|_| true), None);
    }

    #[test]
    fn a_query_of_another_length_finds_nothing() {
        let vectors = Vectors { dimensions: 2, data: vec![1.0, 0.0] };
        assert!(top(&vectors, &[1.0], 3, &|_| true).is_empty());
        assert!(top(&Vectors::default(), &[], 3, &|_| true).is_empty());
        let nan = Vectors { dimensions: 1, data: vec![f32::NAN, 1.0] };
        assert_eq!(top(&nan, &[1.0], 3, &|_| true), [(1, 1.0)]);
    }
}
