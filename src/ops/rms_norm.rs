//! Root mean square layer normalization (Zhang and Sennrich 2019, arXiv:1910.07467).
//!
//! Forward, per row of width `h`: `y_i = x_i r w_i` with `r = 1 / sqrt(mean(x^2) + eps)`.
//! Backward: `dr/dx_i = -r^3 x_i / h`, hence `dx_i = r w_i dy_i - x_i (r^3 / h) sum_j dy_j w_j x_j` and `dw_i = sum over rows of dy_i x_i r`.
//! `r` is kept from the forward (one float a row); `y` is not, [`rms_norm_again`] makes it anew where a backward wants it.

#![allow(clippy::needless_range_loop)] // Several arrays share the index; loops of this form vectorize.

use super::mat::{Mat, MatMut};
use super::par::Par;
use super::simd::{dot, fma, simd};

/// Fewer rows are not worth another thread.
const ROWS_PER_THREAD: usize = 32;

/// `y = x r w` (rows x h each), `r` (rows) is written.
pub fn rms_norm(x: Mat<'_>, w: &[f32], eps: f32, y: MatMut<'_>, r: &mut [f32], par: Par) {
    let n = x.n_rows();
    if !par.is_serial() && n >= 2 * ROWS_PER_THREAD {
        let (half, (p, q)) = (n / 2, par.halves());
        let ((y0, y1), (r0, r1)) = (y.split_rows(half), r.split_at_mut(half));
        rayon::join(
            || rms_norm(x.rows(0..half), w, eps, y0, r0, p),
            || rms_norm(x.rows(half..n), w, eps, y1, r1, q),
        );
    } else {
        forward(x, w, eps, y, r);
    }
}

simd! {
    fn forward(x: Mat<'_>, w: &[f32], eps: f32, y: MatMut<'_>, r: &mut [f32]) {
        let h = x.n_cols();
        assert!(w.len() == h && y.n_cols() == h && y.n_rows() == x.n_rows() && r.len() >= x.n_rows());
        for i in 0..x.n_rows() {
            let row = x.row(i);
            let inverse = 1.0 / (dot::<FMA>(row, row) / h as f32 + eps).sqrt();
            r[i] = inverse;
            for ((y, x), w) in y.row_mut(i).iter_mut().zip(row).zip(w) {
                *y = x * inverse * w;
            }
        }
    }
}

/// `y` once more from `x` and the kept `r`.
pub fn rms_norm_again(x: Mat<'_>, w: &[f32], r: &[f32], y: MatMut<'_>, par: Par) {
    let n = x.n_rows();
    if !par.is_serial() && n >= 2 * ROWS_PER_THREAD {
        let (half, (p, q)) = (n / 2, par.halves());
        let ((y0, y1), (r0, r1)) = (y.split_rows(half), r.split_at(half));
        rayon::join(
            || rms_norm_again(x.rows(0..half), w, r0, y0, p),
            || rms_norm_again(x.rows(half..n), w, r1, y1, q),
        );
    } else {
        again(x, w, r, y);
    }
}

simd! {
    fn again(x: Mat<'_>, w: &[f32], r: &[f32], y: MatMut<'_>) {
        assert!(w.len() == x.n_cols() && y.n_cols() == x.n_cols() && y.n_rows() == x.n_rows());
        for i in 0..x.n_rows() {
            let inverse = r[i];
            for ((y, x), w) in y.row_mut(i).iter_mut().zip(x.row(i)).zip(w) {
                *y = x * inverse * w;
            }
        }
    }
}

/// `dx = [dx +] r w dy - x (r^3 / h) sum(dy w x)`; with `add`, onto the residual's gradient that stands in `dx`.
pub fn rms_norm_backward(x: Mat<'_>, w: &[f32], r: &[f32], dy: Mat<'_>, dx: MatMut<'_>, add: bool, par: Par) {
    let n = x.n_rows();
    if !par.is_serial() && n >= 2 * ROWS_PER_THREAD {
        let (half, (p, q)) = (n / 2, par.halves());
        let ((d0, d1), (r0, r1)) = (dx.split_rows(half), r.split_at(half));
        rayon::join(
            || rms_norm_backward(x.rows(0..half), w, r0, dy.rows(0..half), d0, add, p),
            || rms_norm_backward(x.rows(half..n), w, r1, dy.rows(half..n), d1, add, q),
        );
    } else {
        backward(x, w, r, dy, dx, add);
    }
}

simd! {
    fn backward(x: Mat<'_>, w: &[f32], r: &[f32], dy: Mat<'_>, dx: MatMut<'_>, add: bool) {
        let h = x.n_cols();
        for i in 0..x.n_rows() {
            row_backward::<FMA>(x.row(i), w, r[i], dy.row(i), &mut dx.row_mut(i)[..h], add);
        }
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn row_backward<const FMA: bool>(x: &[f32], w: &[f32], r: f32, dy: &[f32], dx: &mut [f32], add: bool) {
    let h = x.len();
    assert!(w.len() == h && dy.len() == h && dx.len() == h);
    let mut sums = [0f32; 16];
    let whole = h - h % 16;
    for start in (0..whole).step_by(16) {
        for j in 0..16 {
            let i = start + j;
            sums[j] = fma::<FMA>(dy[i] * w[i], x[i], sums[j]);
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for i in whole..h {
        sum = fma::<FMA>(dy[i] * w[i], x[i], sum);
    }
    let c = sum * r * r * r / h as f32;
    if add {
        for i in 0..h {
            dx[i] += dy[i] * w[i] * r - x[i] * c;
        }
    } else {
        for i in 0..h {
            dx[i] = dy[i] * w[i] * r - x[i] * c;
        }
    }
}

simd! {
    /// `dw += sum over rows of dy x r`.
    pub fn rms_norm_weight_backward(x: Mat<'_>, r: &[f32], dy: Mat<'_>, dw: &mut [f32]) {
        for i in 0..x.n_rows() {
            let inverse = r[i];
            for ((d, g), x) in dw.iter_mut().zip(dy.row(i)).zip(x.row(i)) {
                *d = fma::<FMA>(g * inverse, *x, *d);
            }
        }
    }
}

simd! {
    /// RMSNorm of every head by itself, in place (qwen3's q and k norm): `x` (rows x heads*dim), `w` (dim), `r` (rows x heads).
    pub fn rms_norm_heads(x: MatMut<'_>, w: &[f32], eps: f32, r: &mut [f32]) {
        let (dim, n_heads) = (w.len(), x.n_cols() / w.len());
        for i in 0..x.n_rows() {
            for (head, row) in x.row_mut(i).chunks_exact_mut(dim).enumerate() {
                let inverse = 1.0 / (dot::<FMA>(row, row) / dim as f32 + eps).sqrt();
                r[i * n_heads + head] = inverse;
                for (x, w) in row.iter_mut().zip(w) {
                    *x = *x * inverse * w;
                }
            }
        }
    }
}

simd! {
    /// Backward of [`rms_norm_heads`]: `x` is its input, `d` holds dy and becomes dx; `dw` (dim) is added to if given.
    pub fn rms_norm_heads_backward(x: Mat<'_>, w: &[f32], r: &[f32], d: MatMut<'_>, dw: Option<&mut [f32]>) {
        let (dim, n_heads) = (w.len(), x.n_cols() / w.len());
        let mut dy = vec![0f32; dim];
        for i in 0..x.n_rows() {
            let heads = x.row(i).chunks_exact(dim).zip(d.row_mut(i).chunks_exact_mut(dim));
            for (head, (x, d)) in heads.enumerate() {
                let inverse = r[i * n_heads + head];
                dy.copy_from_slice(d);
                if let Some(dw) = dw.as_deref_mut() {
                    for ((dw, g), x) in dw.iter_mut().zip(&dy).zip(x) {
                        *dw = fma::<FMA>(g * inverse, *x, *dw);
                    }
                }
                row_backward::<FMA>(x, w, inverse, &dy, d, false);
            }
        }
    }
}
