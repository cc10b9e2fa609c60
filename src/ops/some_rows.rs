#![allow(unsafe_code)]
//! The product of some rows with a transposed row-major matrix: the linear layers of a batch that decodes.
//!
//! Both sides are read as they stand, eight numbers at a time: two rows of `a` with four of the weight, eight sums in registers
//! that hide the latency of the fused multiply-add. Packing the weight first, as large products do, takes up to six times as long
//! for eight rows, four times for 64 (compilers do not find this form by themselves).

use super::mat::{Mat, MatMut};
use super::matmul::Write;

/// Whether the processor has what it takes.
pub(super) fn is_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::simd::has_wide();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `dst (m x n) = [dst +] scale * a (m x k) * w (n x k)^T`; rows of `a` and `w` are contiguous.
pub(super) fn product(dst: MatMut<'_>, write: Write, scale: f32, a: Mat<'_>, w: Mat<'_>) {
    #[cfg(target_arch = "x86_64")]
    if is_there() {
        // SAFETY: the processor has AVX2 and FMA, which is all that it asks for.
        return unsafe { wide::product(dst, write, scale, a, w) };
    }
    super::matmul::few_rows_serial(dst, write, scale, a, w);
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::{Mat, MatMut, Write};

    /// Rows of `a`, and of the weight, in one tile.
    const A: usize = 2;
    const W: usize = 4;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn product(mut dst: MatMut<'_>, write: Write, scale: f32, a: Mat<'_>, w: Mat<'_>) {
        let (m, n) = (dst.n_rows(), dst.n_cols());
        assert!(a.n_rows() == m && w.n_rows() == n && a.n_cols() == w.n_cols());
        let mut put = |i: usize, j: usize, sum: f32| {
            let out = &mut dst.row_mut(i)[j];
            *out = if write == Write::Add { *out + scale * sum } else { scale * sum };
        };
        let whole = n / W * W;
        for j in (0..whole).step_by(W) {
            let rows: [&[f32]; W] = std::array::from_fn(|d| w.row(j + d));
            for i in (0..m / A * A).step_by(A) {
                let sums = tile(std::array::from_fn::<_, A, _>(|d| a.row(i + d)), rows);
                for (di, sums) in sums.iter().enumerate() {
                    for (dj, sum) in sums.iter().enumerate() {
                        put(i + di, j + dj, *sum);
                    }
                }
            }
            for i in m / A * A..m {
                let [sums] = tile([a.row(i)], rows);
                for (dj, sum) in sums.iter().enumerate() {
                    put(i, j + dj, *sum);
                }
            }
        }
        for j in whole..n {
            for i in 0..m {
                let [[sum]] = tile([a.row(i)], [w.row(j)]);
                put(i, j, sum);
            }
        }
    }

    /// Products of every row of `a` with every row of `w`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn tile<const M: usize, const N: usize>(a: [&[f32]; M], w: [&[f32]; N]) -> [[f32; N]; M] {
        let k = w[0].len();
        assert!(a.iter().chain(&w).all(|row| row.len() == k));
        let mut sums = [[_mm256_setzero_ps(); N]; M];
        let whole = k / 8 * 8;
        for at in (0..whole).step_by(8) {
            // SAFETY: `at + 8 <= k`, the length of every row.
            let load = |row: &[f32]| unsafe { _mm256_loadu_ps(row.as_ptr().add(at)) };
            let w: [__m256; N] = std::array::from_fn(|j| load(w[j]));
            for i in 0..M {
                let a = load(a[i]);
                for j in 0..N {
                    sums[i][j] = _mm256_fmadd_ps(a, w[j], sums[i][j]);
                }
            }
        }
        let mut products = [[0.0; N]; M];
        for i in 0..M {
            for j in 0..N {
                let sum = sums[i][j];
                let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
                products[i][j] = _mm_cvtss_f32(one);
                for at in whole..k {
                    products[i][j] = a[i][at].mul_add(w[j][at], products[i][j]);
                }
            }
        }
        products
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::{Mat, MatMut, Par, Write, matmul};

    #[test]
    fn products_of_any_size_are_those_in_f64() {
        let noise = |n: usize, seed: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect()
        };
        for m in [1, 2, 3, 5, 8, 64, 65, 130] {
            for (n, k) in [(1, 1), (3, 7), (4, 8), (9, 33), (600, 100)] {
                let (a, w) = (noise(m * k, 1), noise(n * k, 2));
                for (write, par) in [(Write::Set, 1), (Write::Add, 1), (Write::Add, 3)] {
                    let mut found = noise(m * n, 3);
                    let before = found.clone();
                    let (a_mat, w_mat) = (Mat::new(&a, m, k), Mat::new(&w, n, k));
                    let dst = MatMut::new(&mut found, m, n);
                    matmul(dst, write, 0.5, a_mat, w_mat.t(), Par::threads(par));
                    for (at, found) in found.iter().enumerate() {
                        let (a, w) = (a_mat.row(at / n), w_mat.row(at % n));
                        let product: f64 = a.iter().zip(w).map(|(a, w)| f64::from(*a) * f64::from(*w)).sum();
                        let old = if write == Write::Add { f64::from(before[at]) } else { 0.0 };
                        let off = (f64::from(*found) - old - 0.5 * product).abs();
                        assert!(off < 1e-5 * (k as f64).sqrt(), "{m} x {n} x {k}: off by {off}");
                    }
                }
            }
        }
    }
}
