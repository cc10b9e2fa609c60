#![allow(unsafe_code)]
//! Matrix products, large ones by the `gemm` crate; and biases.

use super::mat::{Mat, MatMut};
use super::par::Par;
use super::simd::{dot, simd};
use super::some_rows;

/// What a product does with what stands in its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Overwrites it (never reads it).
    Set,
    /// Adds to it.
    Add,
}

/// Up to this many rows, a product with a transposed row-major matrix (a linear layer while decoding) goes row by row of the
/// weight, read once and never packed: where there are no vector instructions for [`some_rows`].
const FEW_ROWS: usize = 4;
/// Up to this many rows such a product goes by [`some_rows`]; with more, packing pays.
const SOME_ROWS: usize = 64;
/// Fewer multiply-adds are not worth another thread.
const WORTH_A_THREAD: usize = 1 << 17;

/// `dst (m x n) = [dst +] scale * a (m x k) * b (k x n)`.
pub fn matmul(dst: MatMut<'_>, write: Write, scale: f32, a: Mat<'_>, b: Mat<'_>, par: Par) {
    let (m, n, k) = (dst.n_rows(), dst.n_cols(), a.n_cols());
    assert!(
        a.n_rows() == m && b.n_rows() == k && b.n_cols() == n,
        "({m} x {n}) = ({} x {k}) * ({} x {})",
        a.n_rows(),
        b.n_rows(),
        b.n_cols()
    );
    if m == 0 || n == 0 {
        return;
    }
    let ((_, a_cs), (b_rs, _)) = (a.strides(), b.strides());
    let by_rows = a_cs == 1 && b_rs == 1;
    if m == 1 && by_rows || m <= FEW_ROWS && by_rows && !some_rows::is_there() {
        return few_rows(dst, write, scale, a, b.t(), par);
    }
    // Each thread a part of the result, serially: a product whose threads work on the same parts takes up to twice as long.
    if !par.is_serial() && m * n * k >= 2 * WORTH_A_THREAD {
        let (p, q) = par.halves();
        if m >= 2 * SOME_ROWS {
            let (upper, lower) = dst.split_rows(m / 2);
            rayon::join(
                || matmul(upper, write, scale, a.rows(0..m / 2), b, p),
                || matmul(lower, write, scale, a.rows(m / 2..m), b, q),
            );
            return;
        } else if n >= 2 {
            let (left, right) = dst.split_cols(n / 2);
            rayon::join(
                || matmul(left, write, scale, a, b.cols(0..n / 2), p),
                || matmul(right, write, scale, a, b.cols(n / 2..n), q),
            );
            return;
        }
    }
    if m <= SOME_ROWS && by_rows && some_rows::is_there() {
        return some_rows::product(dst, write, scale, a, b.t());
    }
    packed(dst, write, scale, a, b);
}

/// By the `gemm` crate, which packs both sides first.
fn packed(mut dst: MatMut<'_>, write: Write, scale: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (dst.n_rows(), dst.n_cols(), a.n_cols());
    let ((a_rs, a_cs), (b_rs, b_cs)) = (a.strides(), b.strides());
    let dst_rs = dst.row_stride();
    // SAFETY: the views' constructors checked that every element they name lies in a live buffer, the shapes agree (asserted by
    // the caller), and `dst` is the only view of its elements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_rs as isize,
            write == Write::Add,
            a.as_ptr(),
            a_cs as isize,
            a_rs as isize,
            b.as_ptr(),
            b_cs as isize,
            b_rs as isize,
            // gemm's alpha scales the destination, its beta the product.
            if write == Write::Add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn few_rows(dst: MatMut<'_>, write: Write, scale: f32, a: Mat<'_>, b_t: Mat<'_>, par: Par) {
    let n = dst.n_cols();
    if !par.is_serial() && n >= 2 && n * a.n_cols() * a.n_rows() >= 2 * WORTH_A_THREAD {
        let (left, right) = dst.split_cols(n / 2);
        let (p, q) = par.halves();
        rayon::join(
            || few_rows(left, write, scale, a, b_t.rows(0..n / 2), p),
            || few_rows(right, write, scale, a, b_t.rows(n / 2..n), q),
        );
        return;
    }
    few_rows_serial(dst, write, scale, a, b_t);
}

simd! {
    pub(super) fn few_rows_serial(dst: MatMut<'_>, write: Write, scale: f32, a: Mat<'_>, b_t: Mat<'_>) {
        for j in 0..dst.n_cols() {
            let weight = b_t.row(j);
            for i in 0..dst.n_rows() {
                let product = scale * dot::<FMA>(a.row(i), weight);
                let out = &mut dst.row_mut(i)[j];
                *out = if write == Write::Add { *out + product } else { product };
            }
        }
    }
}

simd! {
    /// Adds `bias` (cols) to every row of `y` (rows x cols).
    pub fn add_bias(y: MatMut<'_>, bias: &[f32]) {
        assert_eq!(y.n_cols(), bias.len());
        for i in 0..y.n_rows() {
            for (y, b) in y.row_mut(i).iter_mut().zip(bias) {
                *y += b;
            }
        }
    }
}

simd! {
    /// `d_bias += sum of the rows of dy`.
    pub fn bias_backward(dy: Mat<'_>, d_bias: &mut [f32]) {
        assert_eq!(dy.n_cols(), d_bias.len());
        for i in 0..dy.n_rows() {
            for (d, g) in d_bias.iter_mut().zip(dy.row(i)) {
                *d += g;
            }
        }
    }
}
