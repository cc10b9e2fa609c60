//! Which rows each thread takes, and in which packs.

use crate::ops::Par;

/// Tokens of one pack: enough for the products to run at full speed; bounds the memory of activations.
const TOKENS_PER_PACK: usize = 2048;
/// The same on a GPU, whose products want more rows.
const TOKENS_PER_GPU_PACK: usize = 8192;
/// A split whose largest share is beyond this multiple of the mean is worse than threads inside of the operations.
const WORST_SHARE: f64 = 1.25;

/// Per thread its packs, each a list of rows; and the parallelism inside of operations.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub shards: Vec<Vec<Vec<usize>>>,
    pub inner: Par,
}

impl Plan {
    /// Longest rows first, each to the thread with the least tokens so far; depends on nothing but its arguments.
    pub fn new(lengths: &[usize], threads: usize) -> Self {
        let mut order: Vec<usize> = (0..lengths.len()).filter(|i| lengths[*i] > 0).collect();
        if order.is_empty() {
            return Self { shards: Vec::new(), inner: Par::SERIAL };
        }
        order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
        let mut shares = vec![(0, Vec::new()); threads];
        for row in order {
            if let Some((tokens, rows)) = shares.iter_mut().min_by_key(|(tokens, _)| *tokens) {
                *tokens += lengths[row];
                rows.push(row);
            }
        }
        let total: usize = lengths.iter().sum();
        let largest = shares.iter().map(|(tokens, _)| *tokens).max().unwrap_or(0);
        if largest as f64 > WORST_SHARE * total as f64 / threads as f64 {
            let all = (0..lengths.len()).filter(|i| lengths[*i] > 0).collect();
            return Self { shards: vec![packs(all, lengths, TOKENS_PER_PACK)], inner: Par::threads(threads) };
        }
        let shards = shares.into_iter().map(|(_, mut rows)| {
            rows.sort_unstable();
            packs(rows, lengths, TOKENS_PER_PACK)
        });
        Self { shards: shards.collect(), inner: Par::SERIAL }
    }
}

/// The packs of a GPU, one after another: rows in their order.
pub(super) fn packs_for_gpu(lengths: &[usize]) -> Vec<Vec<usize>> {
    packs((0..lengths.len()).filter(|i| lengths[*i] > 0).collect(), lengths, TOKENS_PER_GPU_PACK)
}

/// Packs of at most `most` tokens, of at least one row.
fn packs(rows: Vec<usize>, lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for row in rows {
        match packs.last_mut().filter(|_| lengths[row] <= room) {
            Some(pack) => {
                room -= lengths[row];
                pack.push(row);
            }
            None => {
                room = most.saturating_sub(lengths[row]);
                packs.push(vec![row]);
            }
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_with_tokens_is_taken_once_and_no_pack_is_too_large() {
        let lengths: Vec<usize> = (0..100).map(|i| i * 37 % 300).collect();
        for threads in 1..5 {
            let plan = Plan::new(&lengths, threads);
            assert_eq!(plan.shards.len(), threads);
            let mut taken: Vec<usize> = plan.shards.iter().flatten().flatten().copied().collect();
            taken.sort_unstable();
            assert_eq!(taken, (0..100).filter(|i| lengths[*i] > 0).collect::<Vec<_>>());
            for pack in plan.shards.iter().flatten() {
                assert!(pack.iter().map(|r| lengths[*r]).sum::<usize>() <= TOKENS_PER_PACK);
            }
        }
    }

    #[test]
    fn few_or_uneven_rows_are_split_inside_the_operations() {
        assert_eq!(Plan::new(&[100], 2), Plan { shards: vec![vec![vec![0]]], inner: Par::threads(2) });
        assert_eq!(Plan::new(&[900, 10, 20], 2).inner, Par::threads(2));
        assert_eq!(Plan::new(&[100, 90], 2).inner, Par::SERIAL);
        assert_eq!(Plan::new(&[0, 0], 2).shards.len(), 0);
    }
}
