//! The second level: clusters that are close to each other form a group.
//!
//! Ward's linkage (Ward 1963) over the clusters' centroids, cut where the silhouette of the centroids is best among the cuts in which no group
//! holds most of the rows: one that does is no overview. Average linkage puts nearly all clusters of short messages into one group.

use super::kmeans;
use crate::embed::Vectors;

/// Fewer clusters are looked through without groups.
const CLUSTERS_MIN: usize = 6;

/// A larger share of the rows in one group says too little.
const LARGEST: f64 = 0.6;

/// Group of each centroid, and how many groups there are. Each is its own where there are too few for groups, or none that say something.
/// `rows`: of each cluster.
pub fn groups(centroids: &Vectors, rows: &[usize]) -> (Vec<usize>, usize) {
    let n = centroids.len();
    let all = rows.iter().sum::<usize>() as f64;
    if n < CLUSTERS_MIN {
        return ((0..n).collect(), n);
    }
    let distances = kmeans::distances(centroids);
    let mut best: Option<(f64, Vec<usize>, usize)> = None;
    let mut group: Vec<usize> = (0..n).collect();
    let merges = merges(&distances, n);
    for (done, (a, b)) in merges.into_iter().enumerate() {
        for of in &mut group {
            if *of == b {
                *of = a;
            }
        }
        let count = n - done - 1;
        if count < 2 {
            break;
        }
        // More than half as many groups as clusters would be no overview.
        if count > n / 2 {
            continue;
        }
        let (numbered, _) = numbered(&group);
        let mut held = vec![0; count];
        for (group, rows) in numbered.iter().zip(rows) {
            held[*group] += rows;
        }
        if held.into_iter().max().unwrap_or(0) as f64 > LARGEST * all {
            continue;
        }
        let silhouette = kmeans::silhouette(&distances, &numbered, count);
        if best.as_ref().is_none_or(|(most, ..)| silhouette > *most) {
            best = Some((silhouette, numbered, count));
        }
    }
    best.map_or_else(|| ((0..n).collect(), n), |(_, group, count)| (group, count))
}

/// Numbers without gaps, in the order of the first members.
fn numbered(group: &[usize]) -> (Vec<usize>, usize) {
    let mut seen: Vec<usize> = Vec::new();
    let numbered = group
        .iter()
        .map(|of| {
            seen.iter().position(|s| s == of).unwrap_or_else(|| {
                seen.push(*of);
                seen.len() - 1
            })
        })
        .collect();
    (numbered, seen.len())
}

/// All n - 1 merges, the closest first: the second of the two becomes part of the first.
fn merges(distances: &[f32], n: usize) -> Vec<(usize, usize)> {
    // Squared.
    let mut d: Vec<f64> = distances.iter().map(|d| f64::from(*d).powi(2)).collect();
    let mut size = vec![1.0_f64; n];
    let mut alive: Vec<usize> = (0..n).collect();
    let mut found = Vec::with_capacity(n.saturating_sub(1));
    while alive.len() > 1 {
        let mut nearest = (f64::INFINITY, 0, 0);
        for (i, &a) in alive.iter().enumerate() {
            for &b in &alive[i + 1..] {
                if d[a * n + b] < nearest.0 {
                    nearest = (d[a * n + b], a, b);
                }
            }
        }
        let (least, a, b) = nearest;
        if least.is_infinite() {
            break;
        }
        // Lance and Williams' update for the growth of the variance within.
        for &c in alive.iter().filter(|c| **c != a && **c != b) {
            let (with_a, with_b) = (size[a] + size[c], size[b] + size[c]);
            let ward = (with_a * d[a * n + c] + with_b * d[b * n + c] - size[c] * least)
                / (size[a] + size[b] + size[c]);
            (d[a * n + c], d[c * n + a]) = (ward, ward);
        }
        size[a] += size[b];
        alive.retain(|c| *c != b);
        found.push((a, b));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_line(at: &[f32]) -> Vectors {
        Vectors { dimensions: 1, data: at.to_vec() }
    }

    fn of(at: &[f32]) -> (Vec<usize>, usize) {
        groups(&on_a_line(at), &vec![10; at.len()])
    }

    #[test]
    fn what_is_close_is_one_group() {
        assert_eq!(of(&[0.0, 0.1, 0.2, 5.0, 5.1, 9.0, 9.1, 9.2]), (vec![0, 0, 0, 1, 1, 2, 2, 2], 3));
    }

    #[test]
    fn few_clusters_and_equal_ones_are_no_trouble() {
        assert_eq!(of(&[0.0, 1.0, 9.0]), (vec![0, 1, 2], 3));
        assert_eq!(of(&[]).1, 0);
        let (group, count) = of(&[1.0; 7]);
        assert_eq!(group.len(), 7);
        assert!((1..=7).contains(&count), "{count}");
    }

    #[test]
    fn no_group_holds_nearly_all_rows() {
        // By the silhouette alone the seven are one group and the last is the other.
        let at = [0.0, 0.5, 1.2, 1.9, 2.2, 2.9, 3.4, 90.0];
        let (group, count) = of(&at);
        assert!(count > 2 && count < at.len(), "{group:?}");
        let largest = (0..count).map(|g| group.iter().filter(|of| **of == g).count()).max();
        assert!(largest.is_some_and(|n| n <= 4), "{group:?}");
        let one = groups(&on_a_line(&at), &[1, 1, 1000, 1, 1, 1, 1, 1]);
        assert_eq!(one.1, at.len(), "a cluster that is most of the rows by itself leaves no groups");
    }

    #[test]
    fn merges_are_those_of_wards_linkage() {
        // scipy.cluster.hierarchy.linkage([[x] for x in at], "ward"); "average" joins (2, 4) before (0, 1).
        let at = [5.5, 6.2, 6.7, 7.1, 7.4, 7.7, 11.3];
        let found = merges(&kmeans::distances(&on_a_line(&at)), at.len());
        assert_eq!(found, [(4, 5), (2, 3), (0, 1), (2, 4), (0, 2), (0, 6)]);
    }
}
