//! The second level: clusters that are close to each other form a group.
//!
//! Average linkage (UPGMA; Sokal and Michener 1958) over the distances of the clusters' centroids, cut where the silhouette of the centroids is best.

use super::kmeans;
use crate::embed::Vectors;

/// Fewer clusters are looked through without groups.
const CLUSTERS_MIN: usize = 6;

/// Group of each centroid, and how many groups there are. Each is its own where there are too few for groups.
pub fn groups(centroids: &Vectors) -> (Vec<usize>, usize) {
    let n = centroids.len();
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
        let silhouette = kmeans::silhouette(&distances, &numbered, count);
        if best.as_ref().is_none_or(|(most, ..)| silhouette > *most) {
            best = Some((silhouette, numbered, count));
        }
    }
    best.map_or_else(|| (vec![0; n], 1), |(_, group, count)| (group, count))
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
    let mut d: Vec<f64> = distances.iter().map(|d| f64::from(*d)).collect();
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
        // Lance and Williams' update for the mean of all pairs.
        for &c in alive.iter().filter(|c| **c != a && **c != b) {
            let mean = (size[a] * d[a * n + c] + size[b] * d[b * n + c]) / (size[a] + size[b]);
            (d[a * n + c], d[c * n + a]) = (mean, mean);
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

    #[test]
    fn what_is_close_is_one_group() {
        let (group, count) = groups(&on_a_line(&[0.0, 0.1, 0.2, 5.0, 5.1, 9.0, 9.1, 9.2]));
        assert_eq!((group, count), (vec![0, 0, 0, 1, 1, 2, 2, 2], 3));
    }

    #[test]
    fn few_clusters_and_equal_ones_are_no_trouble() {
        assert_eq!(groups(&on_a_line(&[0.0, 1.0, 9.0])), (vec![0, 1, 2], 3));
        assert_eq!(groups(&on_a_line(&[])).1, 0);
        let (group, count) = groups(&on_a_line(&[1.0; 7]));
        assert_eq!(group.len(), 7);
        assert!((1..=3).contains(&count), "{count}");
    }

    #[test]
    fn merges_are_those_of_average_linkage() {
        // scipy.cluster.hierarchy.linkage([[0],[1],[3],[7]], "average"): (0, 1), then with 2, then with 3.
        let line = on_a_line(&[0.0, 1.0, 3.0, 7.0]);
        assert_eq!(merges(&kmeans::distances(&line), 4), [(0, 1), (0, 2), (0, 3)]);
    }
}
