//! Reductions over one row of logits, as wide as the vocabulary: the largest, and the sum that softmax divides by.

use super::simd::{exp, simd};

/// Elements of a block: its partial results stay in registers, and sums of blocks are added in f64.
pub(crate) const BLOCK: usize = 1024;
const LANES: usize = 32;

simd! {
    /// Place of the largest element, the first of equals; none where an element is not a number or positive infinity, or
    /// where there is none above negative infinity.
    pub(crate) fn argmax(row: &[f32]) -> Option<usize> {
        let mut largest = f32::NEG_INFINITY;
        let mut block = 0;
        let mut odd = 0u32;
        for (at, part) in row.chunks(BLOCK).enumerate() {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let mut odds = [0u32; LANES];
            let chunks = part.chunks_exact(LANES);
            let mut here = f32::NEG_INFINITY;
            for &x in chunks.remainder() {
                here = if x > here { x } else { here };
                odd |= u32::from(x.is_nan() || x == f32::INFINITY);
            }
            for x in chunks {
                for i in 0..LANES {
                    lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
                    odds[i] |= u32::from(x[i].is_nan() || x[i] == f32::INFINITY);
                }
            }
            for i in 0..LANES {
                here = if lanes[i] > here { lanes[i] } else { here };
                odd |= odds[i];
            }
            if here > largest {
                largest = here;
                block = at;
            }
        }
        if odd != 0 || largest == f32::NEG_INFINITY {
            return None;
        }
        let from = block * BLOCK;
        row[from..].iter().position(|&x| x == largest).map(|place| from + place)
    }
}

simd! {
    /// `sum_i exp((x_i - shift) * scale)`.
    pub(crate) fn exp_total(row: &[f32], shift: f32, scale: f32) -> f64 {
        let mut total = 0f64;
        for part in row.chunks(BLOCK) {
            let mut sums = [0f32; LANES];
            let chunks = part.chunks_exact(LANES);
            for &x in chunks.remainder() {
                total += f64::from(weight::<FMA>(x, shift, scale));
            }
            for x in chunks {
                for i in 0..LANES {
                    sums[i] += weight::<FMA>(x[i], shift, scale);
                }
            }
            total += f64::from(super::simd::reduce(&sums));
        }
        total
    }
}

simd! {
    /// Replaces every `x` by `exp((x - shift) * scale)` and puts the sum of every block of [`BLOCK`] elements into `sums`.
    pub(crate) fn exp_blocks(row: &mut [f32], shift: f32, scale: f32, sums: &mut Vec<f64>) {
        sums.clear();
        for part in row.chunks_mut(BLOCK) {
            for x in part.iter_mut() {
                *x = weight::<FMA>(*x, shift, scale);
            }
            let mut total = 0f64;
            for lane in part.chunks(LANES) {
                total += f64::from(lane.iter().sum::<f32>());
            }
            sums.push(total);
        }
    }
}

/// `exp((x - shift) * scale)` for `x` up to `shift`; zero where it is below what f32 can tell from zero beside 1.
#[inline(always)]
#[allow(clippy::inline_always)]
fn weight<const FMA: bool>(x: f32, shift: f32, scale: f32) -> f32 {
    let power = (x - shift) * scale;
    let w = exp::<FMA>(power);
    if power > -86.0 { w } else { 0.0 }
}

/// `log sum_i exp(x_i)`, given the largest of them.
pub(crate) fn log_sum_exp(row: &[f32], largest: f32) -> f64 {
    f64::from(largest) + exp_total(row, largest, 1.0).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn argmax_takes_the_first_of_equals_and_refuses_what_is_no_number() {
        for n in [1, 5, 31, 32, 33, 1023, 1024, 1025, 5000] {
            let mut row: Vec<f32> = (0..n).map(|i| -((i % 97) as f32) - 1.0).collect();
            assert_eq!(argmax(&row), Some(0));
            for at in [n - 1, n / 2] {
                row[at] = 7.0;
                assert_eq!(argmax(&row), Some(at), "{n}");
            }
            for bad in [f32::NAN, f32::INFINITY] {
                let mut row = row.clone();
                row[n / 3] = bad;
                assert_eq!(argmax(&row), None, "{bad} of {n}");
            }
        }
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 40]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY, -5.0]), Some(1));
    }

    proptest! {
        #[test]
        fn sums_of_exponentials_are_those_of_f64(row in prop::collection::vec(-40_f32..40.0, 1..3000)) {
            let largest = row[argmax(&row).unwrap()];
            let want: f64 = row.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).sum();
            let close = |got: f64| (got - want).abs() < 1e-5 * want;
            prop_assert!(close(exp_total(&row, largest, 1.0)));
            prop_assert!((log_sum_exp(&row, largest) - want.ln() - f64::from(largest)).abs() < 1e-5);
            let (mut weights, mut sums) = (row.clone(), Vec::new());
            exp_blocks(&mut weights, largest, 1.0, &mut sums);
            prop_assert!(close(sums.iter().sum()));
            prop_assert_eq!(sums.len(), row.len().div_ceil(BLOCK));
        }
    }
}
