//! Parents: drawn from the front of the versions that are best on some row, not only by the mean.
//!
//! GEPA's selection (Agrawal et al. 2025, algorithm 2): each version counts on how many rows it is among the best; those that a single
//! other one dominates are left out; the rest are drawn in proportion.

use super::Node;
use crate::domain::rng::SplitMix64;

/// Versions of `among` with the number of `rows` on which each is among the best; dominated ones are left out.
pub fn front(nodes: &[Node], among: &[usize], rows: &[usize]) -> Vec<(usize, usize)> {
    let score =
        |node: usize, row: usize| nodes.get(node).and_then(|n| n.marks.get(&row)).map(|mark| mark.score);
    let rows: Vec<usize> =
        rows.iter().copied().filter(|row| among.iter().all(|node| score(*node, *row).is_some())).collect();
    let of = |node: usize| -> Vec<f64> { rows.iter().filter_map(|row| score(node, *row)).collect() };
    let all: Vec<(usize, Vec<f64>)> = among.iter().map(|&node| (node, of(node))).collect();
    let best: Vec<f64> = (0..rows.len())
        .map(|i| all.iter().filter_map(|(_, scores)| scores.get(i)).fold(f64::MIN, |a, b| a.max(*b)))
        .collect();
    let dominated = |own: &[f64], at: usize| {
        all.iter().enumerate().any(|(other, (_, scores))| {
            other != at
                && scores.iter().zip(own).all(|(theirs, mine)| theirs >= mine)
                // Of two that are the same everywhere the first stays.
                && (scores != own || other < at)
        })
    };
    all.iter()
        .enumerate()
        .filter(|(at, (_, scores))| !dominated(scores, *at))
        .map(|(_, (node, scores))| {
            (*node, scores.iter().zip(&best).filter(|(score, best)| score >= best).count())
        })
        .collect()
}

/// `n` parents, each drawn in proportion to the rows that it is best on.
pub fn draw(front: &[(usize, usize)], n: usize, rng: &mut SplitMix64) -> Vec<usize> {
    let total: usize = front.iter().map(|(_, rows)| rows.max(&1)).sum();
    (0..n)
        .filter_map(|_| {
            let mut at = rng.below(total);
            front.iter().find_map(|(node, rows)| {
                let rows = (*rows).max(1);
                if at < rows {
                    return Some(*node);
                }
                at -= rows;
                None
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn specialists_are_on_the_front_and_dominated_versions_are_not() {
        let node = |scores: &[f64]| Node {
            marks: scores
                .iter()
                .enumerate()
                .map(|(i, s)| (i, Mark { score: *s, ..Mark::default() }))
                .collect(),
            ..Node::default()
        };
        let nodes = [node(&[1.0, 1.0, 0.0, 0.0]), node(&[0.0, 0.0, 1.0, 0.0]), node(&[1.0, 0.0, 0.0, 0.0])];
        let got = front(&nodes, &[0, 1, 2], &[0, 1, 2, 3]);
        assert_eq!(got, [(0, 3), (1, 2)]);
        let drawn = draw(&got, 500, &mut SplitMix64::new(1));
        let first = drawn.iter().filter(|n| **n == 0).count();
        assert!(drawn.len() == 500 && (240..360).contains(&first), "{first}");
        assert!(draw(&[], 3, &mut SplitMix64::new(1)).is_empty());
    }
}
