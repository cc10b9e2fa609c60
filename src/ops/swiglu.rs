//! SwiGLU (Shazeer 2020, arXiv:2002.05202) on a stacked gate|up buffer.
//!
//! `m = silu(g) u`, `silu(g) = g s`, `s = 1 / (1 + e^-g)`. Backward: `du = dm g s`, `dg = dm u s (1 + g - g s)`.

use super::mat::{Mat, MatMut};
use super::par::Par;
use super::simd::{exp, simd};

const ROWS_PER_THREAD: usize = 16;

/// `gate_up` (rows x 2 ffn) to `m` (rows x ffn).
pub fn swiglu(gate_up: Mat<'_>, m: MatMut<'_>, par: Par) {
    let n = m.n_rows();
    if !par.is_serial() && n >= 2 * ROWS_PER_THREAD {
        let ((m0, m1), (p, q)) = (m.split_rows(n / 2), par.halves());
        rayon::join(|| swiglu(gate_up.rows(0..n / 2), m0, p), || swiglu(gate_up.rows(n / 2..n), m1, q));
    } else {
        forward(gate_up, m);
    }
}

simd! {
    fn forward(gate_up: Mat<'_>, m: MatMut<'_>) {
        assert_eq!(gate_up.n_cols(), 2 * m.n_cols());
        for i in 0..m.n_rows() {
            let (gate, up) = gate_up.row(i).split_at(m.n_cols());
            for ((m, g), u) in m.row_mut(i).iter_mut().zip(gate).zip(up) {
                *m = g / (1.0 + exp::<FMA>(-g)) * u;
            }
        }
    }
}

/// In place: `gate_up` becomes its gradient; `dm` becomes `m` once more, which the weights' gradients want next.
pub fn swiglu_backward(gate_up: MatMut<'_>, dm: MatMut<'_>, par: Par) {
    let n = dm.n_rows();
    if !par.is_serial() && n >= 2 * ROWS_PER_THREAD {
        let ((g0, g1), (d0, d1)) = (gate_up.split_rows(n / 2), dm.split_rows(n / 2));
        let (p, q) = par.halves();
        rayon::join(|| swiglu_backward(g0, d0, p), || swiglu_backward(g1, d1, q));
    } else {
        backward(gate_up, dm);
    }
}

simd! {
    fn backward(gate_up: MatMut<'_>, dm: MatMut<'_>) {
        let ffn = dm.n_cols();
        assert!(gate_up.n_cols() == 2 * ffn && gate_up.n_rows() == dm.n_rows());
        for i in 0..dm.n_rows() {
            let (gate, up) = gate_up.row_mut(i).split_at_mut(ffn);
                for ((gate, up), dm) in gate.iter_mut().zip(up).zip(dm.row_mut(i)) {
                    let (g, u, d) = (*gate, *up, *dm);
                    let s = 1.0 / (1.0 + exp::<FMA>(-g));
                    let silu = g * s;
                    *dm = silu * u;
                    *gate = d * u * s * (1.0 + g - silu);
                    *up = d * silu;
                }
        }
    }
}
