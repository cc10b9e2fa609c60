//! The map: where rows stand in the plane. First the two directions along which they differ most, then a layout that keeps neighbours
//! together.
//!
//! The layout is UMAP's (McInnes, Healy and Melville 2018, arXiv:1802.03426) with its defaults: 15 neighbours, min_dist 0.1, 500 epochs of
//! gradient descent with 5 negative samples, begun from the plane of the principal axes. Deterministic by seed.

use rayon::prelude::*;

use crate::domain::rng::SplitMix64;
use crate::embed::{Vectors, dot, principal_axes};

/// Neighbours that are kept together.
pub const NEIGHBOURS: usize = 15;
const EPOCHS: usize = 500;
/// Strangers that are pushed away for each neighbour that is pulled near.
const NEGATIVE: usize = 5;
/// The curve `1 / (1 + a d^2b)` that min_dist 0.1 and spread 1 ask for.
const A: f32 = 1.576_943;
const B: f32 = 0.895_061;
/// The longest step along one axis.
const CLIP: f32 = 4.0;

/// A place in the plane, in -1..1 on both axes.
pub type Point = (f32, f32);

/// The plane of the two principal axes; the farthest coordinate of each is 1.
pub fn principal(vectors: &Vectors) -> Vec<Point> {
    let (mean, axes) = principal_axes(&vectors.data, vectors.dimensions, 2);
    let along = |axis: Option<&Vec<f32>>| -> Vec<f32> {
        let Some(axis) = axis else { return vec![0.0; vectors.len()] };
        let offset = dot(&mean, axis);
        let values: Vec<f32> = vectors.rows().map(|row| dot(row, axis) - offset).collect();
        let farthest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
        values.into_iter().map(|v| if farthest > 0.0 { v / farthest } else { 0.0 }).collect()
    };
    along(axes.first()).into_iter().zip(along(axes.get(1))).collect()
}

/// Squared Euclidean distance; of vectors of length 1 it orders as the cosine does.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    (dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0)
}

/// The `k` nearest others of each, nearest first, with their distances.
fn nearest(vectors: &Vectors, k: usize) -> Vec<Vec<(f32, u32)>> {
    (0..vectors.len())
        .into_par_iter()
        .map(|i| {
            let mut others: Vec<(f32, u32)> = (0..vectors.len())
                .filter(|j| *j != i)
                .map(|j| (apart(vectors.row(i), vectors.row(j)).sqrt(), j as u32))
                .collect();
            let order = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
            if k < others.len() {
                others.select_nth_unstable_by(k, order);
                others.truncate(k);
            }
            others.sort_unstable_by(order);
            others
        })
        .collect()
}

/// How strongly each belongs to its neighbours: `exp(-(d - rho) / sigma)`, with sigma such that they sum to log2 of their number.
fn strengths(neighbours: &[(f32, u32)]) -> Vec<f32> {
    let rho = neighbours.iter().map(|n| n.0).find(|d| *d > 0.0).unwrap_or(0.0);
    let mean = neighbours.iter().map(|n| n.0).sum::<f32>() / neighbours.len().max(1) as f32;
    let wanted = (neighbours.len() as f32).log2();
    let sum = |sigma: f32| neighbours.iter().map(|n| (-(n.0 - rho).max(0.0) / sigma).exp()).sum::<f32>();
    let (mut low, mut high, mut sigma) = (0.0_f32, f32::INFINITY, 1.0_f32);
    for _ in 0..64 {
        if sum(sigma) > wanted {
            high = sigma;
        } else {
            low = sigma;
        }
        sigma = if high.is_finite() { f32::midpoint(low, high) } else { sigma * 2.0 };
    }
    let sigma = sigma.clamp((1e-3 * mean).max(f32::MIN_POSITIVE), f32::MAX);
    neighbours.iter().map(|n| (-(n.0 - rho).max(0.0) / sigma).exp()).collect()
}

/// Pairs that belong together, in both directions, with how much: the fuzzy union of what each says of the other.
fn edges(vectors: &Vectors) -> Vec<(u32, u32, f32)> {
    let neighbours = nearest(vectors, NEIGHBOURS.min(vectors.len().saturating_sub(1)));
    let mut one_way: Vec<(u32, u32, f32)> = neighbours
        .iter()
        .zip(0..)
        .flat_map(|(of, i)| of.iter().zip(strengths(of)).map(move |((_, j), w)| (i, *j, w)))
        .collect();
    one_way.sort_unstable_by_key(|e| (e.0, e.1));
    let find = |i: u32, j: u32| {
        let at = one_way.binary_search_by_key(&(i, j), |e| (e.0, e.1)).ok()?;
        one_way.get(at).map(|e| e.2)
    };
    let mut both: Vec<(u32, u32, f32)> = Vec::with_capacity(one_way.len() * 2);
    for &(i, j, w) in &one_way {
        let back = find(j, i);
        let union = w + back.unwrap_or(0.0) - w * back.unwrap_or(0.0);
        both.push((i, j, union));
        if back.is_none() {
            both.push((j, i, union));
        }
    }
    both.sort_unstable_by_key(|e| (e.0, e.1));
    both
}

/// A layout that keeps neighbours together, begun from `start`.
pub fn neighbours(vectors: &Vectors, start: &[Point], seed: u64) -> Vec<Point> {
    let n = vectors.len().min(start.len());
    if n < 4 {
        return start.to_vec();
    }
    let edges = edges(vectors);
    let most = edges.iter().map(|e| e.2).fold(0.0, f32::max);
    let mut rng = SplitMix64::new(seed);
    // A little noise, so that equal rows can part.
    let mut at: Vec<[f32; 2]> =
        start.iter().map(|p| [p.0, p.1].map(|v| 10.0 * v + 1e-3 * (rng.unit() as f32 - 0.5))).collect();
    // Pairs that would be visited less than once are left out.
    let every = |w: f32| most / w.max(f32::MIN_POSITIVE);
    let edges: Vec<(usize, usize, f32)> = edges
        .into_iter()
        .filter(|e| every(e.2) <= EPOCHS as f32)
        .map(|(i, j, w)| (i as usize, j as usize, every(w)))
        .collect();
    let mut due: Vec<f32> = edges.iter().map(|e| e.2).collect();
    for epoch in 1..=EPOCHS {
        let step = 1.0 - (epoch - 1) as f32 / EPOCHS as f32;
        for (&(i, j, every), due) in edges.iter().zip(&mut due) {
            if *due > epoch as f32 {
                continue;
            }
            *due += every;
            let (from, to) = (at[i], at[j]);
            let pull = pull([from[0] - to[0], from[1] - to[1]]);
            for axis in 0..2 {
                at[i][axis] += step * pull[axis];
                at[j][axis] -= step * pull[axis];
            }
            for _ in 0..NEGATIVE {
                let k = rng.below(n);
                if k == i {
                    continue;
                }
                let (from, to) = (at[i], at[k]);
                let push = push([from[0] - to[0], from[1] - to[1]]);
                for axis in 0..2 {
                    at[i][axis] += step * push[axis];
                }
            }
        }
    }
    filled(&at)
}

/// The gradient that pulls a pair together.
fn pull(d: [f32; 2]) -> [f32; 2] {
    let square = d[0] * d[0] + d[1] * d[1];
    if square <= 0.0 {
        return [0.0; 2];
    }
    let power = square.powf(B);
    let size = -2.0 * A * B * power / square / (1.0 + A * power);
    d.map(|d| (size * d).clamp(-CLIP, CLIP))
}

/// The gradient that pushes strangers apart.
fn push(d: [f32; 2]) -> [f32; 2] {
    let square = d[0] * d[0] + d[1] * d[1];
    if square <= 0.0 {
        return [CLIP; 2];
    }
    let size = 2.0 * B / ((0.001 + square) * (1.0 + A * square.powf(B)));
    d.map(|d| (size * d).clamp(-CLIP, CLIP))
}

/// Of the points, on each end of an axis: those that may stand far off.
const TAIL: f32 = 0.02;
/// Of the axis, on each end: the room of the tails.
const TAIL_ROOM: f32 = 0.1;

/// Spread over -1..1 on both axes. Where the tails would take more than half of an axis they are drawn closer, in their order: a few that stand
/// far off leave the others room.
fn filled(at: &[[f32; 2]]) -> Vec<Point> {
    let span = |axis: usize| {
        let mut values: Vec<f32> = at.iter().map(|p| p[axis]).filter(|v| v.is_finite()).collect();
        values.sort_by(f32::total_cmp);
        let of = |share: f32| {
            let place = (values.len().saturating_sub(1) as f32 * share).round() as usize;
            values.get(place).copied().unwrap_or(0.0)
        };
        let (lo, low, high, hi) = (of(0.0), of(TAIL), of(1.0 - TAIL), of(1.0));
        let tails = high > low && high - low < 0.5 * (hi - lo);
        move |v: f32| {
            let part = |from: f32, to: f32| (v - from) / (to - from);
            match v {
                _ if !(hi > lo && v.is_finite()) => 0.0,
                _ if !tails => part(lo, hi).mul_add(2.0, -1.0),
                _ if v < low => part(lo, low).mul_add(TAIL_ROOM, -1.0),
                _ if v > high => part(high, hi).mul_add(TAIL_ROOM, 1.0 - TAIL_ROOM),
                _ => part(low, high).mul_add(2.0 - 2.0 * TAIL_ROOM, TAIL_ROOM - 1.0),
            }
        }
    };
    let (x, y) = (span(0), span(1));
    at.iter().map(|p| (x(p[0]), y(p[1]))).collect()
}

/// Share of neighbours in the plane that are neighbours indeed, weighed by how far off the others are; 1: all (Venna and Kaski 2001).
///
/// `T = 1 - 2 / (n k (2n - 3k - 1)) * sum over i, over the k nearest j of i in the plane that are not among its k nearest: rank(i, j) - k`.
/// None where there are too few points for so many neighbours (`k` must be below half of them).
pub fn trustworthiness(vectors: &Vectors, points: &[Point], k: usize) -> Option<f64> {
    let n = vectors.len();
    if k == 0 || 2 * k >= n || points.len() != n {
        return None;
    }
    let off: usize = (0..n)
        .into_par_iter()
        .map(|i| {
            let by = |distance: &dyn Fn(usize) -> f32| -> Vec<usize> {
                let mut others: Vec<(f32, usize)> =
                    (0..n).filter(|j| *j != i).map(|j| (distance(j), j)).collect();
                others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                others.into_iter().map(|(_, j)| j).collect()
            };
            let mut rank = vec![0; n];
            for (at, j) in by(&|j| apart(vectors.row(i), vectors.row(j))).into_iter().enumerate() {
                rank[j] = at + 1;
            }
            let in_plane = by(&|j| {
                let (dx, dy) = (points[i].0 - points[j].0, points[i].1 - points[j].1);
                dx * dx + dy * dy
            });
            in_plane.into_iter().take(k).map(|j| rank[j].saturating_sub(k)).sum::<usize>()
        })
        .sum();
    let (n, k) = (n as f64, k as f64);
    Some(1.0 - off as f64 * 2.0 / (n * k * (2.0 * n - 3.0 * k - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows around eight centers in 16 dimensions: too many for a plane of two axes.
    fn blobs(n: usize) -> Vectors {
        let mut rng = SplitMix64::new(5);
        let mut data = Vec::new();
        for i in 0..n {
            let mut row: Vec<f32> = (0..16)
                .map(|axis| if axis == i % 8 { 1.0 } else { 0.0 } + 0.25 * (rng.unit() as f32 - 0.5))
                .collect();
            let length = dot(&row, &row).sqrt();
            for v in &mut row {
                *v /= length;
            }
            data.extend(row);
        }
        Vectors { dimensions: 16, data }
    }

    #[test]
    fn neighbours_stay_together_better_than_on_two_axes() {
        let vectors = blobs(160);
        let start = principal(&vectors);
        let laid = neighbours(&vectors, &start, 7);
        let trust = |points: &[Point]| trustworthiness(&vectors, points, 10).unwrap();
        let (two, near) = (trust(&start), trust(&laid));
        assert!(near > 0.975 && near > two + 0.01, "{two} {near}");
        assert!(laid.iter().all(|p| p.0.abs() <= 1.0 && p.1.abs() <= 1.0));
        // Of ten neighbours in the plane nine are of the same center.
        let same = |points: &[Point]| {
            let of = |i: usize| {
                let mut others: Vec<(f32, usize)> = (0..points.len())
                    .filter(|j| *j != i)
                    .map(|j| ((points[i].0 - points[j].0).powi(2) + (points[i].1 - points[j].1).powi(2), j))
                    .collect();
                others.sort_by(|a, b| a.0.total_cmp(&b.0));
                others.iter().take(10).filter(|(_, j)| j % 8 == i % 8).count()
            };
            (0..points.len()).map(of).sum::<usize>() as f64 / (10 * points.len()) as f64
        };
        assert!(same(&laid) > 0.9, "{}", same(&laid));
    }

    #[test]
    fn a_layout_hangs_on_its_seed_alone() {
        let vectors = blobs(60);
        let start = principal(&vectors);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let laid = neighbours(&vectors, &start, 7);
        assert_eq!(laid, one.install(|| neighbours(&vectors, &start, 7)));
        assert_ne!(laid, neighbours(&vectors, &start, 8));
    }

    #[test]
    fn a_few_points_far_off_leave_the_others_room() {
        let mut at: Vec<[f32; 2]> = (0..200).map(|i| [i as f32 / 199.0, (i % 20) as f32]).collect();
        let alone = filled(&at);
        assert!((alone[0].0 + 1.0).abs() < 1e-6 && (alone[199].0 - 1.0).abs() < 1e-6);
        at.extend([[100.0, 0.0], [-50.0, 0.0], [60.0, 19.0]]);
        let points = filled(&at);
        assert!(points[190].0 - points[10].0 > 1.5, "{:?} {:?}", points[10], points[190]);
        assert!((points[201].0 + 1.0).abs() < 1e-6 && (points[200].0 - 1.0).abs() < 1e-6);
        let mut order: Vec<usize> = (0..at.len()).collect();
        order.sort_by(|a, b| at[*a][0].total_cmp(&at[*b][0]));
        assert!(order.windows(2).all(|w| points[w[0]].0 <= points[w[1]].0), "in their order");
    }

    #[test]
    fn few_rows_and_equal_rows_have_a_place() {
        for n in [0, 1, 3, 5, 40] {
            let vectors = Vectors { dimensions: 4, data: [0.5; 4].repeat(n) };
            let laid = neighbours(&vectors, &principal(&vectors), 1);
            assert!(laid.len() == n && laid.iter().all(|p| p.0.is_finite() && p.1.is_finite()), "{n}");
        }
    }

    #[test]
    fn trustworthiness_is_scikit_learns() {
        let text = include_str!("../../tests/fixtures/strata/trustworthiness.json");
        let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
        let numbers = |of: &serde_json::Value| -> Vec<f32> {
            of.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        let rows =
            |name: &str| -> Vec<Vec<f32>> { fixture[name].as_array().unwrap().iter().map(numbers).collect() };
        let vectors = rows("vectors");
        let vectors = Vectors { dimensions: vectors[0].len(), data: vectors.concat() };
        let points: Vec<Point> = rows("points").iter().map(|p| (p[0], p[1])).collect();
        for pair in fixture["trustworthiness"].as_array().unwrap() {
            let (k, want) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
            let got = trustworthiness(&vectors, &points, k).unwrap();
            assert!((got - want).abs() < 1e-9, "{k}: {got} {want}");
        }
        assert_eq!(trustworthiness(&vectors, &points, points.len() / 2), None);
    }
}
