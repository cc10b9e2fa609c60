//! Dropout (Srivastava et al. 2014) by a function of counters: `y = x k / (1 - p)`, `k` 1 with probability `1 - p`, else 0.
//!
//! Whether an element is kept is a hash of its token's key, of the layer and of its column, and of nothing else: no generator is
//! advanced. So the mask is the same in the backward, in a recomputation, and however rows are packed or spread over threads.

use super::mat::{Mat, MatMut};
use super::simd::simd;

/// The mask of one layer's input.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Of every token: what seed, step, row and position make.
    pub keys: &'a [u64],
    /// Tells layers apart.
    pub layer: u64,
    /// Probability of an element to be dropped, below 1.
    pub rate: f32,
}

/// The finalizer of SplitMix64 (Steele et al. 2014): every bit of the input changes half of the output's.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The bound below which a hash drops, and what is kept is multiplied by.
pub(super) fn dropout_bound(rate: f32) -> (u32, f32) {
    ((f64::from(rate) * 4_294_967_296.0) as u32, 1.0 / (1.0 - rate))
}

impl Dropout<'_> {
    /// The row's key in two halves, the bound below which a hash drops, and what is kept is multiplied by.
    fn of_row(&self, row: usize) -> (u32, u32, u32, f32) {
        let key = mix(self.keys[row] ^ (self.layer + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (bound, kept) = dropout_bound(self.rate);
        (key as u32, (key >> 32) as u32, bound, kept)
    }

    /// What element `column` of row `row` is multiplied by.
    #[cfg(test)]
    pub fn factor(&self, row: usize, column: usize) -> f32 {
        let (low, high, bound, kept) = self.of_row(row);
        factor(low, high, column as u32, bound, kept)
    }
}

/// 32-bit hash with the constants of Wellons' lowbias32, the second key half mixed in on the way.
#[inline(always)]
#[allow(clippy::inline_always)]
fn factor(low: u32, high: u32, column: u32, bound: u32, kept: f32) -> f32 {
    let h = low.wrapping_add(column.wrapping_mul(0x9E37_79B9));
    let h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    let h = (h ^ (h >> 15) ^ high).wrapping_mul(0x846C_A68B);
    let h = h ^ (h >> 16);
    if h < bound { 0.0 } else { kept }
}

simd! {
    /// `y = x k / (1 - p)` (rows x cols each).
    pub fn dropout(x: Mat<'_>, mask: &Dropout<'_>, y: MatMut<'_>) {
        for i in 0..x.n_rows() {
            let (low, high, bound, kept) = mask.of_row(i);
            for (j, (y, x)) in y.row_mut(i).iter_mut().zip(x.row(i)).enumerate() {
                *y = x * factor(low, high, j as u32, bound, kept);
            }
        }
    }
}

simd! {
    /// `dx += dy k / (1 - p)`.
    pub fn dropout_backward(dy: Mat<'_>, mask: &Dropout<'_>, dx: MatMut<'_>) {
        for i in 0..dy.n_rows() {
            let (low, high, bound, kept) = mask.of_row(i);
            for (j, (dx, dy)) in dx.row_mut(i).iter_mut().zip(dy.row(i)).enumerate() {
                *dx += dy * factor(low, high, j as u32, bound, kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_drops_its_share_and_differs_between_rows_layers_and_keys() {
        let (n, cols) = (64, 500);
        let keys: Vec<u64> = (0..n as u64).map(mix).collect();
        let x = vec![1.0; n * cols];
        let masked = |layer, rate, keys: &[u64]| {
            let mut y = vec![f32::NAN; n * cols];
            dropout(Mat::new(&x, n, cols), &Dropout { keys, layer, rate }, MatMut::new(&mut y, n, cols));
            y
        };
        for rate in [0.05, 0.3, 0.9] {
            let y = masked(3, rate, &keys);
            let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
            // Five standard deviations of a share of 32,000.
            let allowed = 5.0 * (f64::from(rate * (1.0 - rate)) / y.len() as f64).sqrt();
            assert!((dropped - f64::from(rate)).abs() < allowed, "{dropped} of {rate}");
            assert!(y.iter().all(|y| *y == 0.0 || (y * (1.0 - rate) - 1.0).abs() < 1e-6));
            // Independent masks agree in a share of p^2 + (1-p)^2.
            let agreeing = f64::from(rate * rate + (1.0 - rate) * (1.0 - rate));
            let pairs: [(&[f32], &[f32]); 3] = [
                (&y[cols..], &y[..(n - 1) * cols]),
                (&masked(4, rate, &keys), &y),
                (&masked(3, rate, &keys.iter().map(|k| k + 1).collect::<Vec<_>>()), &y),
            ];
            for (a, b) in pairs {
                let same = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / b.len() as f64;
                assert!((same - agreeing).abs() < 0.02, "{same}, independent masks have {agreeing}");
            }
        }
        assert_eq!(masked(3, 0.0, &keys), x);
    }

    #[test]
    fn the_backward_has_the_mask_of_the_forward_and_adds() {
        let keys = [5, 6];
        let mask = Dropout { keys: &keys, layer: 1, rate: 0.5 };
        let (mut y, mut dx) = (vec![0.0; 80], vec![1.0; 80]);
        dropout(Mat::new(&[1.0; 80], 2, 40), &mask, MatMut::new(&mut y, 2, 40));
        dropout_backward(Mat::new(&[1.0; 80], 2, 40), &mask, MatMut::new(&mut dx, 2, 40));
        for (i, (y, dx)) in y.iter().zip(&dx).enumerate() {
            assert_eq!(*dx, y + 1.0);
            assert_eq!(*y, mask.factor(i / 40, i % 40));
        }
    }
}
