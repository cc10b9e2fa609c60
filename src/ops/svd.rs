//! The largest singular values of a matrix with their vectors.
//!
//! Small matrices by one-sided Jacobi rotations (Hestenes 1958) in f64, to the last bit that f32 can show. Larger ones are first
//! projected on the subspace that randomized subspace iteration finds (Halko et al. 2011, arXiv:0909.4061, algorithm 4.4),
//! with the 16 iterations that PiSSA's authors use. The same bits every time: the random start is fixed, nothing is divided.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::mat::{Mat, MatMut};
use super::matmul::{Write, matmul};
use super::par::Par;
use super::simd::{dot, simd};

/// Up to this smaller side, a matrix is taken whole.
const SMALL: usize = 96;
/// Directions beyond those asked for, and rounds.
const MORE: usize = 16;
const ROUNDS: usize = 16;
/// Rotations end when no pair of rows is less orthogonal.
const ORTHOGONAL: f64 = 1e-14;
const SWEEPS: usize = 60;

/// `W (m x n)` nearly is the sum of `values_i left_i right_i^T`, values descending.
#[derive(Clone, Debug)]
pub struct Components {
    pub values: Vec<f32>,
    /// (rank x m)
    pub left: Vec<f32>,
    /// (rank x n)
    pub right: Vec<f32>,
}

/// The `rank` largest singular values of `w`; `rank` is at most its smaller side.
pub fn principal_components(w: Mat<'_>, rank: usize) -> Components {
    let (m, n) = (w.n_rows(), w.n_cols());
    if m > n {
        let Components { values, left, right } = principal_components(w.t(), rank);
        return Components { values, left: right, right: left };
    }
    let width = rank + MORE;
    if m <= SMALL || m <= width {
        let rows = (0..m).map(|i| column(w.t(), i)).collect();
        let identity = (0..m).map(|i| (0..m).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        return largest(rows, identity, rank);
    }
    // q (width x m) spans nearly the space of the largest left vectors: orthonormal rows of (W W^T)^k W O.
    let mut rng = StdRng::seed_from_u64(0);
    let mut q = vec![0f32; width * m];
    let mut z: Vec<f32> = (0..width * n).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    for _ in 0..=ROUNDS {
        orthonormal(&mut z, n);
        let z_mat = Mat::new(&z, width, n);
        matmul(MatMut::new(&mut q, width, m), Write::Set, 1.0, z_mat, w.t(), Par::SERIAL);
        orthonormal(&mut q, m);
        let q_mat = Mat::new(&q, width, m);
        matmul(MatMut::new(&mut z, width, n), Write::Set, 1.0, q_mat, w, Par::SERIAL);
    }
    // z = q W now: the small problem, whose left vectors q turns into those of W.
    let wide = |values: &[f32], len: usize| -> Vec<Vec<f64>> {
        values.chunks_exact(len).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect()
    };
    largest(wide(&z, n), wide(&q, m), rank)
}

fn column(w: Mat<'_>, i: usize) -> Vec<f64> {
    let mut values = vec![0f32; w.n_rows()];
    for (j, value) in values.iter_mut().enumerate() {
        *value = w.at(j, i);
    }
    values.into_iter().map(f64::from).collect()
}

/// Rotates pairs of `rows` until all are orthogonal: then they are `s v^T`, and `basis`, rotated alike, holds the `u`.
fn largest(mut rows: Vec<Vec<f64>>, mut basis: Vec<Vec<f64>>, rank: usize) -> Components {
    for _ in 0..SWEEPS {
        let mut worst = 0.0_f64;
        for i in 1..rows.len() {
            let (before, after) = rows.split_at_mut(i);
            let (before_basis, after_basis) = basis.split_at_mut(i);
            for (row, of_basis) in before.iter_mut().zip(before_basis) {
                let (p, q) = (row, &mut after[0]);
                let (pp, qq, pq) = (inner(p, p), inner(q, q), inner(p, q));
                if pq == 0.0 || pp == 0.0 || qq == 0.0 {
                    continue;
                }
                worst = worst.max(pq.abs() / (pp * qq).sqrt());
                let tau = (qq - pp) / (2.0 * pq);
                let t = tau.signum() / (tau.abs() + tau.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                rotate(p, q, c, c * t);
                rotate(of_basis, &mut after_basis[0], c, c * t);
            }
        }
        if worst < ORTHOGONAL {
            break;
        }
    }
    let lengths: Vec<f64> = rows.iter().map(|row| inner(row, row).sqrt()).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| lengths[*b].total_cmp(&lengths[*a]));
    let mut found = Components { values: Vec::new(), left: Vec::new(), right: Vec::new() };
    for i in order.into_iter().take(rank) {
        let by = if lengths[i] > 0.0 { 1.0 / lengths[i] } else { 0.0 };
        found.values.push(lengths[i] as f32);
        found.left.extend(basis[i].iter().map(|u| *u as f32));
        found.right.extend(rows[i].iter().map(|v| (v * by) as f32));
    }
    found
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// `p = c p - s q`, `q = s p + c q`.
fn rotate(p: &mut [f64], q: &mut [f64], c: f64, s: f64) {
    for (p, q) in p.iter_mut().zip(q) {
        (*p, *q) = (c * *p - s * *q, s * *p + c * *q);
    }
}

simd! {
    /// Makes the rows of `values` (rows x `len`) orthonormal, each against those before it, twice (Giraud et al. 2005).
    fn orthonormal(values: &mut [f32], len: usize) {
        for i in 0..values.len() / len {
            let (before, from) = values.split_at_mut(i * len);
            let row = &mut from[..len];
            for _ in 0..2 {
                for other in before.chunks_exact(len) {
                    let share = dot::<FMA>(row, other);
                    for (x, o) in row.iter_mut().zip(other) {
                        *x -= share * o;
                    }
                }
                let length = dot::<FMA>(row, row).sqrt();
                let by = if length > 0.0 { 1.0 / length } else { 0.0 };
                for x in row.iter_mut() {
                    *x *= by;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of a matrix with singular values `spectrum` and orthonormal vectors.
    fn matrix(m: usize, n: usize, spectrum: &[f32]) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(3);
        let mut vectors = |len: usize| {
            let mut v: Vec<f32> = (0..spectrum.len() * len).map(|_| rng.random_range(-1.0..1.0)).collect();
            orthonormal(&mut v, len);
            v
        };
        let (left, right) = (vectors(m), vectors(n));
        let mut w = vec![0.0; m * n];
        for (i, s) in spectrum.iter().enumerate() {
            for row in 0..m {
                for column in 0..n {
                    w[row * n + column] += s * left[i * m + row] * right[i * n + column];
                }
            }
        }
        w
    }

    #[test]
    fn the_largest_values_and_vectors_are_found_in_matrices_of_any_shape() {
        for (m, n, rank, k) in
            [(7, 5, 5, 5), (40, 64, 3, 40), (300, 130, 6, 130), (130, 300, 6, 100), (1, 9, 1, 1)]
        {
            let spectrum: Vec<f32> = (0..k).map(|i| 10.0 * 0.8_f32.powi(i)).collect();
            let w = matrix(m, n, &spectrum);
            let w = Mat::new(&w, m, n);
            let found = principal_components(w, rank);
            assert_eq!((found.left.len(), found.right.len()), (rank * m, rank * n));
            for (i, wanted) in spectrum.iter().enumerate().take(rank) {
                let (u, v) = (&found.left[i * m..(i + 1) * m], &found.right[i * n..(i + 1) * n]);
                assert!((found.values[i] / wanted - 1.0).abs() < 1e-5, "{m} x {n}: {:?}", found.values);
                // W v = s u, and both have length 1: what defines them.
                for (row, u) in u.iter().enumerate() {
                    let product: f32 = w.row(row).iter().zip(v).map(|(w, v)| w * v).sum();
                    assert!((product - found.values[i] * u).abs() < 2e-4, "{m} x {n}, value {i}");
                }
                let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
                assert!((length(u) - 1.0).abs() < 1e-5 && (length(v) - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_matrix_of_lower_rank_has_zero_values() {
        let w = matrix(12, 20, &[2.0, 1.0]);
        let found = principal_components(Mat::new(&w, 12, 20), 4);
        assert!(found.values[2..].iter().all(|s| *s < 1e-5), "{:?}", found.values);
        assert!(found.left.iter().chain(&found.right).all(|x| x.is_finite()));
    }
}
