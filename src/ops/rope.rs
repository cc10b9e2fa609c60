//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split form that Hugging Face checkpoints use.
//!
//! With angle `a_i = position * frequency_i`, `i < dim/2`: `y_i = x_i cos a_i - x_{i+dim/2} sin a_i`,
//! `y_{i+dim/2} = x_{i+dim/2} cos a_i + x_i sin a_i`. A rotation: its backward is the rotation by `-a_i`.

use super::mat::MatMut;
use super::par::Par;
use super::simd::{fma, simd};

/// The frequencies of one model, in radians per position (`dim / 2` of them).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub frequencies: Vec<f32>,
}

/// Cosines and sines by position, made as far as they were asked for: row `p` holds `dim/2` cosines, then `dim/2` sines.
#[derive(Clone, Debug, Default)]
pub struct RopeTable {
    values: Vec<f32>,
    positions: usize,
}

impl RopeTable {
    /// Makes the rows of all positions below `positions`.
    pub fn cover(&mut self, rope: &Rope, positions: usize) {
        for position in self.positions..positions {
            // In f32 like the reference implementation: at far positions the rounding of the angle shows in the logits.
            let angle = |f: &f32| position as f32 * f;
            self.values.extend(rope.frequencies.iter().map(|f| angle(f).cos()));
            self.values.extend(rope.frequencies.iter().map(|f| angle(f).sin()));
        }
        self.positions = self.positions.max(positions);
    }

    /// All rows, one after another.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    fn row(&self, position: usize, dim: usize) -> &[f32] {
        &self.values[position * dim..(position + 1) * dim]
    }
}

/// Rotates every head of `x` (rows x heads*dim) in place by its row's position; `inverse` rotates back (the backward).
pub fn rotate(x: MatMut<'_>, dim: usize, table: &RopeTable, positions: &[u32], inverse: bool, par: Par) {
    let n = x.n_rows();
    assert!(positions.len() == n && x.n_cols().is_multiple_of(dim));
    if !par.is_serial() && n >= 64 {
        let ((x0, x1), (p, q)) = (x.split_rows(n / 2), par.halves());
        let (before, after) = positions.split_at(n / 2);
        rayon::join(
            || rotate(x0, dim, table, before, inverse, p),
            || rotate(x1, dim, table, after, inverse, q),
        );
    } else {
        rotate_rows(x, dim, table, positions, if inverse { -1.0 } else { 1.0 });
    }
}

simd! {
    fn rotate_rows(x: MatMut<'_>, dim: usize, table: &RopeTable, positions: &[u32], sign: f32) {
        for (i, position) in positions.iter().enumerate() {
            let (cos, sin) = table.row(*position as usize, dim).split_at(dim / 2);
            for head in x.row_mut(i).chunks_exact_mut(dim) {
                let (low, high) = head.split_at_mut(dim / 2);
                for (((l, h), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (p, q, s) = (*l, *h, sign * s);
                    *l = fma::<FMA>(p, *c, -(q * s));
                    *h = fma::<FMA>(q, *c, p * s);
                }
            }
        }
    }
}
