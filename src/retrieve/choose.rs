//! From rankings to a choice: fusion, and diversity.

use std::collections::BTreeMap;

/// Constant of reciprocal rank fusion: how much the first ranks count beside the others (Cormack, Clarke and Buettcher 2009 found 60 best).
pub const RRF_K: f32 = 60.0;

/// Reciprocal rank fusion: `sum over rankings of 1 / (60 + rank)`, ranks from 1, as a share of what the first of every ranking would have.
pub fn fuse(rankings: &[&[usize]]) -> BTreeMap<usize, f32> {
    let mut scores = BTreeMap::new();
    let best = rankings.len().max(1) as f32 / (RRF_K + 1.0);
    for ranking in rankings {
        for (rank, &place) in ranking.iter().enumerate() {
            *scores.entry(place).or_default() += 1.0 / (RRF_K + rank as f32 + 1.0) / best;
        }
    }
    scores
}

/// Maximal marginal relevance (Carbonell and Goldstein 1998): each time the one with the largest
/// `(1 - diversity) relevance - diversity * (likeness to the nearest that is taken already)`. Places in `relevance`, in the order taken;
/// of equals the first. `fits` is asked about each that would be taken, and told so.
pub fn diverse(
    relevance: &[f32],
    k: usize,
    diversity: f32,
    likeness: &dyn Fn(usize, usize) -> f32,
    fits: &mut dyn FnMut(usize) -> bool,
) -> Vec<usize> {
    let mut open: Vec<usize> = (0..relevance.len()).collect();
    let mut nearest = vec![0.0_f32; relevance.len()];
    let mut taken = Vec::new();
    while taken.len() < k && !open.is_empty() {
        let gain = |i: usize| (1.0 - diversity) * relevance[i] - diversity * nearest[i];
        let mut at = 0;
        for i in 1..open.len() {
            if gain(open[i]).total_cmp(&gain(open[at])).is_gt() {
                at = i;
            }
        }
        let best = open.remove(at);
        if !fits(best) {
            continue;
        }
        if diversity > 0.0 {
            for &i in &open {
                let like = likeness(i, best);
                nearest[i] = if taken.is_empty() { like } else { nearest[i].max(like) };
            }
        }
        taken.push(best);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        rankings: Vec<Vec<usize>>,
        fused: Vec<(usize, f32)>,
        relevance: Vec<f32>,
        likeness: Vec<Vec<f32>>,
        /// (diversity, places taken)
        diverse: Vec<(f32, Vec<usize>)>,
    }

    #[test]
    fn fusion_and_diversity_are_those_of_the_reference() {
        let reference: Reference =
            serde_json::from_str(include_str!("../../tests/fixtures/retrieve/choose.json")).unwrap();
        let rankings: Vec<&[usize]> = reference.rankings.iter().map(Vec::as_slice).collect();
        let got = fuse(&rankings);
        assert_eq!(got.len(), reference.fused.len());
        for (place, want) in &reference.fused {
            assert!((got[place] - want).abs() < 1e-5, "{place}: {} {want}", got[place]);
        }
        for (diversity, want) in &reference.diverse {
            let likeness = |a: usize, b: usize| reference.likeness[a][b];
            let got = diverse(&reference.relevance, want.len(), *diversity, &likeness, &mut |_| true);
            assert_eq!(&got, want, "{diversity}");
        }
    }

    #[test]
    fn what_does_not_fit_is_passed_over() {
        let got = diverse(&[3.0, 2.0, 1.0], 2, 0.0, &|_, _| 0.0, &mut |i| i != 1);
        assert_eq!(got, [0, 2]);
    }
}
