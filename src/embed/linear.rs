//! The linear algebra behind the embedder: sparse products, a randomized truncated SVD, symmetric eigenvectors.
//! Sums run in a fixed order, whatever the number of threads.

use rayon::prelude::*;

use crate::domain::rng::SplitMix64;

/// Inner product. Eight running sums, which the compiler keeps in vector registers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// A dense matrix, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dense {
    pub columns: usize,
    pub data: Vec<f32>,
}

impl Dense {
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.columns..(i + 1) * self.columns]
    }

    fn rows(&self) -> usize {
        self.data.len().checked_div(self.columns).unwrap_or(0)
    }

    /// self (n, k) x other (k, m), with `other` small.
    fn times(&self, other: &Self) -> Self {
        let m = other.columns;
        let mut data = vec![0.0; self.rows() * m];
        data.par_chunks_mut(m.max(1)).zip(self.data.par_chunks(self.columns.max(1))).for_each(
            |(out, row)| {
                for (k, value) in row.iter().enumerate() {
                    for (o, v) in out.iter_mut().zip(other.row(k)) {
                        *o += value * v;
                    }
                }
            },
        );
        Self { columns: m, data }
    }

    /// self^T self (k, k), in double precision: blocks of rows in parallel, added up in order.
    fn gram(&self) -> Vec<f64> {
        const BLOCK: usize = 512;
        let k = self.columns;
        let blocks: Vec<Vec<f64>> = self
            .data
            .par_chunks((BLOCK * k).max(1))
            .map(|block| {
                let mut sum = vec![0.0_f64; k * k];
                for row in block.chunks_exact(k) {
                    for i in 0..k {
                        let x = f64::from(row[i]);
                        for (out, y) in sum[i * k..=i * k + i].iter_mut().zip(row) {
                            *out += x * f64::from(*y);
                        }
                    }
                }
                sum
            })
            .collect();
        let mut total = vec![0.0; k * k];
        for block in blocks {
            total.iter_mut().zip(block).for_each(|(t, b)| *t += b);
        }
        for i in 0..k {
            for j in 0..i {
                total[j * k + i] = total[i * k + j];
            }
        }
        total
    }

    /// An orthonormal basis of the columns' span, the directions of most weight first: Y W L^(-1/2) with Y^T Y = W L W^T. Directions
    /// below rounding are dropped. Also returns the square roots of L.
    fn orthonormal(&self) -> (Self, Vec<f64>) {
        let k = self.columns;
        let (values, vectors) = symmetric_eigen(self.gram(), k);
        let least = values.first().copied().unwrap_or(0.0) * 1e-10;
        let kept = values.iter().take_while(|v| **v > least && **v > 0.0).count();
        let mut transform = Self { columns: kept, data: vec![0.0; k * kept] };
        for i in 0..k {
            for j in 0..kept {
                transform.data[i * kept + j] = (vectors[j * k + i] / values[j].sqrt()) as f32;
            }
        }
        (self.times(&transform), values[..kept].iter().map(|v| v.sqrt()).collect())
    }
}

/// A sparse matrix by rows and by columns.
pub struct Sparse {
    rows: Vec<Vec<(u32, f32)>>,
    columns: Vec<Vec<(u32, f32)>>,
}

impl Sparse {
    pub fn new(rows: Vec<Vec<(u32, f32)>>, columns: usize) -> Self {
        let mut by_column = vec![Vec::new(); columns];
        for (i, row) in rows.iter().enumerate() {
            for (column, value) in row {
                by_column[*column as usize].push((i as u32, *value));
            }
        }
        Self { rows, columns: by_column }
    }

    fn product(lines: &[Vec<(u32, f32)>], other: &Dense) -> Dense {
        let m = other.columns;
        let mut data = vec![0.0; lines.len() * m];
        data.par_chunks_mut(m.max(1)).zip(lines).for_each(|(out, line)| {
            for (k, value) in line {
                for (o, v) in out.iter_mut().zip(other.row(*k as usize)) {
                    *o += value * v;
                }
            }
        });
        Dense { columns: m, data }
    }

    /// self x other
    fn times(&self, other: &Dense) -> Dense {
        Self::product(&self.rows, other)
    }

    /// self^T x other
    fn transposed_times(&self, other: &Dense) -> Dense {
        Self::product(&self.columns, other)
    }
}

/// The first `rank` right singular vectors of `matrix`, as columns (features, rank): randomized range finder with power iterations
/// (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1). Fewer where the matrix has a lower rank.
pub fn right_singular(
    matrix: &Sparse,
    rank: usize,
    oversampling: usize,
    power: usize,
    rng: &mut SplitMix64,
) -> Dense {
    let width = (rank + oversampling).min(matrix.columns.len());
    let random = Dense {
        columns: width,
        data: (0..width * matrix.columns.len())
            .map(|_| if rng.next_u64() >> 63 == 0 { 1.0 } else { -1.0 })
            .collect(),
    };
    let mut range = matrix.times(&random).orthonormal().0;
    for _ in 0..power {
        let back = matrix.transposed_times(&range).orthonormal().0;
        range = matrix.times(&back).orthonormal().0;
    }
    // B = Q^T A; the left singular vectors of B^T are the right ones of A.
    let mut basis = matrix.transposed_times(&range).orthonormal().0;
    if basis.columns > rank {
        let kept = basis.data.chunks_exact(basis.columns).flat_map(|row| row[..rank].to_vec()).collect();
        basis = Dense { columns: rank, data: kept };
    }
    basis
}

/// The `count` directions along which the rows of `data` (n, dimensions) vary most, by eigenvectors of their covariance, and the mean.
/// Each direction's largest entry is positive, so that a map does not flip from one build to the next.
pub fn principal_axes(data: &[f32], dimensions: usize, count: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let n = data.len().checked_div(dimensions).unwrap_or(0);
    if n == 0 {
        return (vec![0.0; dimensions], Vec::new());
    }
    let mut mean = vec![0.0_f64; dimensions];
    for row in data.chunks_exact(dimensions) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64);
    }
    let mean: Vec<f32> = mean.into_iter().map(|m| m as f32).collect();
    let centred = Dense {
        columns: dimensions,
        data: data
            .chunks_exact(dimensions)
            .flat_map(|row| row.iter().zip(&mean).map(|(v, m)| v - m))
            .collect(),
    };
    let (_, vectors) = symmetric_eigen(centred.gram(), dimensions);
    let axes = vectors
        .chunks_exact(dimensions)
        .take(count)
        .map(|axis| {
            let largest = axis.iter().copied().fold(0.0_f64, |a, b| if b.abs() > a.abs() { b } else { a });
            axis.iter().map(|v| (v * largest.signum()) as f32).collect()
        })
        .collect();
    (mean, axes)
}

/// Eigenvalues of a symmetric (k, k) matrix, largest first, and eigenvectors, one after the other: cyclic Jacobi rotations
/// (Golub and Van Loan, section 8.5).
fn symmetric_eigen(mut a: Vec<f64>, k: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0; k * k];
    for i in 0..k {
        v[i * k + i] = 1.0;
    }
    let scale: f64 = a.iter().map(|x| x * x).sum();
    for _sweep in 0..60 {
        let off: f64 = (0..k).map(|i| (0..i).map(|j| a[i * k + j].powi(2)).sum::<f64>()).sum();
        if off <= 1e-26 * scale {
            break;
        }
        for p in 0..k {
            for q in p + 1..k {
                let apq = a[p * k + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * k + q] - a[p * k + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for i in 0..k {
                    let (x, y) = (a[i * k + p], a[i * k + q]);
                    a[i * k + p] = c * x - s * y;
                    a[i * k + q] = s * x + c * y;
                }
                for i in 0..k {
                    let (x, y) = (a[p * k + i], a[q * k + i]);
                    a[p * k + i] = c * x - s * y;
                    a[q * k + i] = s * x + c * y;
                }
                // Rows of v are the eigenvectors.
                for i in 0..k {
                    let (x, y) = (v[p * k + i], v[q * k + i]);
                    v[p * k + i] = c * x - s * y;
                    v[q * k + i] = s * x + c * y;
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|i, j| a[j * k + j].total_cmp(&a[i * k + i]));
    let values = order.iter().map(|&i| a[i * k + i]).collect();
    let vectors = order.iter().flat_map(|&i| v[i * k..(i + 1) * k].to_vec()).collect();
    (values, vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_satisfy_their_equation() {
        let k = 7;
        let mut rng = SplitMix64::new(1);
        let mut a = vec![0.0; k * k];
        for i in 0..k {
            for j in 0..=i {
                let x = rng.unit() - 0.5;
                a[i * k + j] = x;
                a[j * k + i] = x;
            }
        }
        let (values, vectors) = symmetric_eigen(a.clone(), k);
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
        for (value, vector) in values.iter().zip(vectors.chunks_exact(k)) {
            for i in 0..k {
                let got: f64 = (0..k).map(|j| a[i * k + j] * vector[j]).sum();
                assert!((got - value * vector[i]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_randomized_svd_finds_the_exact_one() {
        // (n, m) of rank 12 with falling weights; the exact right singular vectors are eigenvectors of A^T A.
        let (n, m, rank) = (60, 30, 5);
        let mut rng = SplitMix64::new(3);
        let mut dense = vec![0.0_f32; n * m];
        for r in 0..12 {
            let left: Vec<f64> = (0..n).map(|_| rng.unit() - 0.5).collect();
            let right: Vec<f64> = (0..m).map(|_| rng.unit() - 0.5).collect();
            let weight = 3.0_f64.powi(-r);
            for i in 0..n {
                for j in 0..m {
                    dense[i * m + j] += (weight * left[i] * right[j]) as f32;
                }
            }
        }
        let rows =
            dense.chunks_exact(m).map(|row| row.iter().enumerate().map(|(j, v)| (j as u32, *v)).collect());
        let got = right_singular(&Sparse::new(rows.collect(), m), rank, 8, 2, &mut rng);
        let gram = Dense { columns: m, data: dense }.gram();
        let (_, exact) = symmetric_eigen(gram, m);
        for (r, axis) in exact.chunks_exact(m).take(rank).enumerate() {
            let overlap: f64 = (0..m).map(|i| f64::from(got.row(i)[r]) * axis[i]).sum();
            assert!((overlap.abs() - 1.0).abs() < 1e-4, "direction {r}: {overlap}");
        }
    }

    #[test]
    fn a_matrix_of_lower_rank_gives_fewer_directions() {
        let rows = (0..10).map(|i| vec![(0, i as f32), (1, 2.0 * i as f32)]).collect();
        let got = right_singular(&Sparse::new(rows, 2), 2, 5, 1, &mut SplitMix64::new(1));
        assert_eq!(got.columns, 1);
        let none = right_singular(&Sparse::new(vec![vec![]; 3], 0), 0, 5, 1, &mut SplitMix64::new(1));
        assert_eq!(none.columns, 0);
    }

    #[test]
    fn principal_axes_follow_the_spread() {
        let data: Vec<f32> =
            (0..50).flat_map(|i| [i as f32, -0.5 * i as f32, 0.01 * (i % 3) as f32]).collect();
        let (mean, axes) = principal_axes(&data, 3, 2);
        assert!((mean[0] - 24.5).abs() < 1e-4);
        let want = [2.0 / 5.0_f32.sqrt(), -1.0 / 5.0_f32.sqrt(), 0.0];
        assert!(axes[0].iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-3), "{axes:?}");
    }
}
