//! Weights in 4-bit NormalFloat with double quantization (Dettmers et al. 2023, arXiv:2305.14314), as bitsandbytes keeps them.
//!
//! A block of 64 consecutive weights shares a constant `c`, its largest magnitude; a weight is the nearest of 16 levels (the
//! paper's appendix E) times `c`, two in a byte, the first in the high half. The constants, less their mean, are kept in 8 bits:
//! 256 of them share a constant in f32 and take the nearest of 256 levels of a dynamic float (Dettmers 2016, arXiv:1511.04561).
//! So a weight takes 4 + 8/64 + 32/(64 * 256) = 4.127 bits.

use std::ops::Range;
use std::sync::LazyLock;

use rayon::prelude::*;

use super::mat::MatMut;

/// Weights that share a constant.
const BLOCK: usize = 64;
/// Constants that share a constant.
const SUPER_BLOCK: usize = 256;

/// Appendix E: quantiles of the normal distribution, with an exact zero, scaled to ±1.
const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The two levels of every byte.
static PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [LEVELS[byte >> 4], LEVELS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Levels of the constants: for exponents -6 to 0 the middles of 1, 2, 4 ... 64 parts of [0.1, 1] with both signs; 0 and 1.
static DYNAMIC: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut levels = Vec::with_capacity(256);
    for exponent in 0..7 {
        let parts = 1_usize << exponent;
        let step = (1.0_f32 - 0.1) / parts as f32;
        // From both ends, fused, as torch.linspace has it.
        let edge = |i: usize| {
            if i < parts.div_ceil(2) {
                (f64::from(step) * i as f64 + f64::from(0.1_f32)) as f32
            } else {
                (1.0 - f64::from(step) * (parts - i) as f64) as f32
            }
        };
        let scale = 10_f64.powi(exponent - 6) as f32;
        for i in 0..parts {
            let middle = scale * (0.5 * (edge(i) + edge(i + 1)));
            levels.extend([middle, -middle]);
        }
    }
    levels.extend([0.0, 1.0]);
    levels.sort_by(f32::total_cmp);
    let mut all = [0.0; 256];
    all.copy_from_slice(&levels);
    all
});

/// A weight (rows x cols) in NF4.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4 {
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    /// Of every block, an index into the levels of constants.
    constants: Vec<u8>,
    /// Of every super-block.
    super_constants: Vec<f32>,
    mean: f32,
}

impl Nf4 {
    /// Quantizes `values` (rows x cols, row by row).
    pub fn quantize(values: &[f32], rows: usize, cols: usize) -> Self {
        // Whole blocks for every task, so that the result does not depend on their number.
        const TASK: usize = 256 * BLOCK;
        assert_eq!(values.len(), rows * cols, "a weight of {rows} x {cols}");
        let mut codes = vec![0; values.len().div_ceil(2)];
        let mut largest = vec![0.0_f32; values.len().div_ceil(BLOCK)];
        let tasks = codes.par_chunks_mut(TASK / 2).zip(largest.par_chunks_mut(TASK / BLOCK));
        tasks.zip(values.par_chunks(TASK)).for_each(|((codes, largest), values)| {
            let blocks = codes.chunks_mut(BLOCK / 2).zip(largest).zip(values.chunks(BLOCK));
            blocks.for_each(|((codes, largest), values)| *largest = quantize_block(values, codes));
        });
        let mean = (largest.iter().map(|c| f64::from(*c)).sum::<f64>() / largest.len().max(1) as f64) as f32;
        let (mut constants, mut super_constants) = (Vec::with_capacity(largest.len()), Vec::new());
        for block in largest.chunks(SUPER_BLOCK) {
            let most = block.iter().map(|c| (c - mean).abs()).fold(0.0, f32::max);
            super_constants.push(most);
            let by = if most > 0.0 { 1.0 / most } else { 0.0 };
            constants.extend(block.iter().map(|c| nearest_dynamic((c - mean) * by)));
        }
        Self { rows, cols, codes, constants, super_constants, mean }
    }

    pub fn n_rows(&self) -> usize {
        self.rows
    }

    pub fn n_cols(&self) -> usize {
        self.cols
    }

    /// Codes, constants, super-constants and mean: what a device is given, with [`Nf4::levels`].
    pub(super) fn parts(&self) -> (&[u8], &[u8], &[f32], f32) {
        (&self.codes, &self.constants, &self.super_constants, self.mean)
    }

    /// The levels of constants.
    pub(super) fn levels() -> &'static [f32] {
        DYNAMIC.as_slice()
    }

    /// Bytes that so many weights take.
    pub fn bytes_of(len: usize) -> usize {
        len.div_ceil(2) + len.div_ceil(BLOCK) + 4 * len.div_ceil(BLOCK * SUPER_BLOCK) + 4
    }

    /// Writes some rows (rows x cols) in f32 to `into`.
    pub fn read_rows(&self, rows: Range<usize>, into: &mut MatMut<'_>) {
        assert!(rows.end <= self.rows && rows.len() == into.n_rows() && into.n_cols() == self.cols);
        for (i, row) in rows.enumerate() {
            self.read(row * self.cols, into.row_mut(i));
        }
    }

    /// Weights from place `from` on.
    fn read(&self, mut from: usize, mut out: &mut [f32]) {
        while !out.is_empty() {
            let block = from / BLOCK;
            let n = (BLOCK - from % BLOCK).min(out.len());
            let (now, rest) = out.split_at_mut(n);
            let constant =
                DYNAMIC[usize::from(self.constants[block])] * self.super_constants[block / SUPER_BLOCK];
            read_codes(&self.codes[from / 2..], from % 2 == 1, constant + self.mean, now);
            from += n;
            out = rest;
        }
    }
}

/// Writes the codes of at most [`BLOCK`] weights; returns their constant.
fn quantize_block(values: &[f32], codes: &mut [u8]) -> f32 {
    let largest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
    let by = if largest > 0.0 { 1.0 / largest } else { 0.0 };
    for (code, pair) in codes.iter_mut().zip(values.chunks(2)) {
        let level = |i: usize| pair.get(i).map_or(7, |v| nearest(v * by));
        *code = (level(0) << 4) | level(1);
    }
    largest
}

/// Index of the nearest level, the lower one of two as near.
fn nearest(x: f32) -> u8 {
    let middles = LEVELS.windows(2).map(|pair| 0.5 * (pair[0] + pair[1]));
    middles.filter(|middle| x > *middle).count() as u8
}

/// The same among the levels of constants.
fn nearest_dynamic(x: f32) -> u8 {
    let above = DYNAMIC.partition_point(|level| *level < x).clamp(1, 255);
    let nearer_below = x - DYNAMIC[above - 1] <= DYNAMIC[above] - x;
    (above - usize::from(nearer_below)) as u8
}

/// `out = constant * level` of one block's codes; with `odd` the first one is in the low half of its byte.
fn read_codes(codes: &[u8], odd: bool, constant: f32, out: &mut [f32]) {
    let first = usize::from(odd).min(out.len());
    let (head, out) = out.split_at_mut(first);
    for (value, code) in head.iter_mut().zip(codes) {
        *value = PAIRS[usize::from(*code)][1] * constant;
    }
    let codes = codes.get(first..).unwrap_or_default();
    let whole = out.len() / 2;
    let (pairs, last) = out.split_at_mut(2 * whole);
    for (pair, code) in pairs.chunks_exact_mut(2).zip(codes) {
        let levels = PAIRS[usize::from(*code)];
        pair[0] = levels[0] * constant;
        pair[1] = levels[1] * constant;
    }
    if let (Some(value), Some(code)) = (last.first_mut(), codes.get(whole)) {
        *value = PAIRS[usize::from(*code)][0] * constant;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::super::{Mat, Par, Weight, Write, linear, linear_backward_x, matmul};
    use super::*;

    fn whole(weight: &Nf4) -> Vec<f32> {
        let mut values = vec![f32::NAN; weight.rows * weight.cols];
        weight.read_rows(0..weight.rows, &mut MatMut::new(&mut values, weight.rows, weight.cols));
        values
    }

    #[test]
    fn weights_are_quantized_and_dequantized_as_bitsandbytes_does() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4/bitsandbytes.safetensors");
        let bytes = std::fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let data = tensors.tensor(name).unwrap();
            data.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        assert_eq!(floats("levels"), LEVELS);
        for (level, wanted) in DYNAMIC.iter().zip(floats("dynamic")) {
            assert!((level - wanted).abs() <= f32::EPSILON * wanted.abs(), "{level} {wanted}");
        }
        for name in ["even", "odd"] {
            let of = |what: &str| format!("{name}.{what}");
            let shape = tensors.tensor(&of("weight")).unwrap().shape().to_vec();
            let theirs = Nf4 {
                rows: shape[0],
                cols: shape[1],
                codes: tensors.tensor(&of("codes")).unwrap().data().to_vec(),
                constants: tensors.tensor(&of("constants")).unwrap().data().to_vec(),
                super_constants: floats(&of("super_constants")),
                mean: floats(&of("mean"))[0],
            };
            let wanted = floats(&of("dequantized"));
            let near = |found: &[f32]| {
                found.iter().zip(&wanted).all(|(f, w)| (f - w).abs() <= 4.0 * f32::EPSILON * w.abs())
            };
            assert!(near(&whole(&theirs)), "{name}: dequantized from its state");
            let ours = Nf4::quantize(&floats(&of("weight")), shape[0], shape[1]);
            // A last code without a weight is of no account.
            let used = shape[0] * shape[1] / 2;
            assert_eq!(ours.codes[..used], theirs.codes[..used], "{name}");
            // The mean is summed in another order there: a constant in the middle of two levels, but for rounding, takes either.
            let pairs = || ours.constants.iter().zip(&theirs.constants);
            assert!(pairs().all(|(a, b)| a.abs_diff(*b) <= 1), "{name}");
            assert!(pairs().filter(|(a, b)| a != b).count() <= theirs.constants.len() / 100, "{name}");
            let found = whole(&ours);
            for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                if ours.constants[i / BLOCK] == theirs.constants[i / BLOCK] {
                    let allowed = 32.0 * f32::EPSILON * wanted.abs();
                    assert!(
                        (found - wanted).abs() <= allowed,
                        "{name}, quantized here: {i}: {found} {wanted}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_weight_is_off_by_at_most_half_the_widest_gap(rows in 1usize..40, cols in 1usize..90, seed: u32, spread in 0.0..2.0f32) {
            let mut state = seed;
            let values: Vec<f32> = (0..rows * cols).map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * (1.0 + spread * (i / 300 % 7) as f32)
            }).collect();
            let weight = Nf4::quantize(&values, rows, cols);
            let largest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
            // Half of the widest gap between levels, and what the 8 bits of the constants take off.
            for (found, value) in whole(&weight).iter().zip(&values) {
                prop_assert!((found - value).abs() <= (0.152 + 0.02) * largest, "{} for {}", found, value);
            }
        }
    }

    #[test]
    fn a_weight_takes_the_bytes_that_are_reckoned() {
        for (rows, cols) in [(1, 1), (64, 64), (130, 257)] {
            let weight = Nf4::quantize(&vec![0.5; rows * cols], rows, cols);
            let taken = weight.codes.len() + weight.constants.len() + 4 * weight.super_constants.len() + 4;
            assert_eq!(Nf4::bytes_of(rows * cols), taken);
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        assert!(whole(&Nf4::quantize(&[0.0; 200], 10, 20)).iter().all(|v| *v == 0.0));
    }

    #[test]
    fn products_with_quantized_weights_are_those_with_what_they_stand_for() {
        // More than a tile, of layers whose rows begin within blocks and within bytes.
        let (n, inputs, outputs) = (9, 1031, [300, 7]);
        let noise = |len: usize, seed: u32| -> Vec<f32> {
            (0..len as u32)
                .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / (1 << 23) as f32 - 1.0)
                .collect()
        };
        let weights: Vec<Nf4> =
            outputs.iter().map(|o| Nf4::quantize(&noise(o * inputs, *o as u32), *o, inputs)).collect();
        let dense = weights.iter().map(whole).collect::<Vec<_>>().concat();
        let dense = Mat::new(&dense, 307, inputs);
        let (x, dy) = (noise(n * inputs, 1), noise(n * 307, 2));
        let (x, dy) = (Mat::new(&x, n, inputs), Mat::new(&dy, n, 307));
        let (mut y, mut dx) = (vec![0.0; n * 307], vec![0.0; n * inputs]);
        matmul(MatMut::new(&mut y, n, 307), Write::Set, 1.0, x, dense.t(), Par::SERIAL);
        matmul(MatMut::new(&mut dx, n, inputs), Write::Set, 1.0, dy, dense, Par::SERIAL);
        for par in [Par::SERIAL, Par::threads(3)] {
            let (mut found, mut found_dx) = (vec![1.0; n * 307], vec![f32::NAN; n * inputs]);
            let weight = Weight::Nf4(&weights);
            linear(MatMut::new(&mut found, n, 307), Write::Add, x, weight, par);
            assert!(found.iter().zip(&y).all(|(f, y)| (f - 1.0 - y).abs() < 1e-3));
            linear_backward_x(MatMut::new(&mut found_dx, n, inputs), dy, weight, par);
            assert!(found_dx.iter().zip(&dx).all(|(f, d)| (f - d).abs() < 1e-3));
            let mut one = vec![0.0; 307];
            linear(MatMut::new(&mut one, 1, 307), Write::Set, x.rows(0..1), weight, par);
            assert!(one.iter().zip(&y).all(|(f, y)| (f - y).abs() < 1e-3));
        }
    }
}
