//! What encoders of the BERT family compute beside products, forward only: layer norm, the exact GELU and its approximation, softmax of
//! whole rows.

use super::simd::{dot, exp, fma, simd};

simd! {
    /// In place, every row of `gain.len()`: `(x - mean) / sqrt(variance + eps) * gain + bias` (Ba et al. 2016, arXiv:1607.06450).
    pub fn layer_norm(x: &mut [f32], gain: &[f32], bias: &[f32], eps: f32) {
        let width = gain.len().max(1);
        for row in x.chunks_exact_mut(width) {
            let mean = row.iter().sum::<f32>() / width as f32;
            for x in row.iter_mut() {
                *x -= mean;
            }
            let scale = 1.0 / (dot::<FMA>(row, row) / width as f32 + eps).sqrt();
            for ((x, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
                *x = fma::<FMA>(*x * scale, *gain, *bias);
            }
        }
    }
}

simd! {
    /// In place: `x Phi(x) = x/2 (1 + erf(x / sqrt(2)))`, with erf within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
    pub fn gelu(all: &mut [f32]) {
        for x in all.iter_mut() {
            let z = *x * std::f32::consts::FRAC_1_SQRT_2;
            let t = 1.0 / (1.0 + 0.327_591_1 * z.abs());
            let mut poly = fma::<FMA>(t, 1.061_405_4, -1.453_152_1);
            poly = fma::<FMA>(t, poly, 1.421_413_8);
            poly = fma::<FMA>(t, poly, -0.284_496_73);
            poly = fma::<FMA>(t, poly, 0.254_829_6);
            let erf = (1.0 - t * poly * exp::<FMA>(-z * z)).copysign(z);
            *x = 0.5 * *x * (1.0 + erf);
        }
    }
}

simd! {
    /// In place: `x/2 (1 + tanh(u)) = x / (1 + e^-2u)`, `u = sqrt(2/pi) (x + 0.044715 x^3)` (Hendrycks and Gimpel 2016, arXiv:1606.08415).
    pub fn gelu_tanh(all: &mut [f32]) {
        for x in all.iter_mut() {
            let u = (2.0 / std::f32::consts::PI).sqrt() * (*x + 0.044_715 * *x * *x * *x);
            *x /= 1.0 + exp::<FMA>(-2.0 * u);
        }
    }
}

simd! {
    /// In place: softmax of every row of `width`.
    pub fn softmax(all: &mut [f32], width: usize) {
        for row in all.chunks_exact_mut(width.max(1)) {
            let largest = row.iter().fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most });
            for x in row.iter_mut() {
                *x = exp::<FMA>(*x - largest);
            }
            let inverse = 1.0 / row.iter().sum::<f32>();
            for x in row.iter_mut() {
                *x *= inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: &[f32], want: impl Iterator<Item = f64>) {
        let mut n = 0;
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                (f64::from(*got) - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "{at}: {got}, wanted {want}"
            );
            n += 1;
        }
        assert_eq!(n, got.len());
    }

    /// erf by its series in f64: `2/sqrt(pi) sum (-1)^n x^(2n+1) / (n! (2n+1))`.
    fn erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut power, mut sum) = (x, 0.0);
        for n in 0..200 {
            sum += power / f64::from(2 * n + 1);
            power *= -x * x / f64::from(n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn both_gelus_are_what_their_formulas_say() {
        let xs: Vec<f32> = (-1200..=1200).map(|i| i as f32 * 0.01).collect();
        let of = |xs: &[f32]| xs.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let mut got = xs.clone();
        gelu(&mut got);
        near(&got, of(&xs).into_iter().map(|x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))));
        let mut got = xs.clone();
        gelu_tanh(&mut got);
        let tanh = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        near(&got, of(&xs).into_iter().map(|x| 0.5 * x * (1.0 + tanh(x).tanh())));
        // Far out nothing overflows.
        let mut far = [-1e4, 1e4];
        gelu_tanh(&mut far);
        assert_eq!((far[0].abs() < 1e-30, far[1]), (true, 1e4));
    }

    #[test]
    fn rows_are_normed_and_softened_each_by_itself_whatever_their_width() {
        for width in [1usize, 2, 7, 31, 32, 33, 100] {
            let rows: Vec<Vec<f64>> = (0..3)
                .map(|r| (0..width).map(|i| ((i * 7 + r * 13) % 11) as f64 * 0.5 - 2.0).collect())
                .collect();
            let flat: Vec<f32> = rows.iter().flatten().map(|x| *x as f32).collect();
            let mut got = flat.clone();
            softmax(&mut got, width);
            let soft = rows.iter().flat_map(|row| {
                let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
                row.iter().map(move |x| (x - most).exp() / sum).collect::<Vec<_>>()
            });
            near(&got, soft);
            let (gain, bias): (Vec<f32>, Vec<f32>) =
                (0..width).map(|i| (1.0 + i as f32 * 0.1, i as f32 - 3.0)).unzip();
            let mut got = flat.clone();
            layer_norm(&mut got, &gain, &bias, 1e-3);
            let normed = rows.iter().flat_map(|row| {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let scale = 1.0 / (variance + 1e-3).sqrt();
                let of = |(x, (gain, bias)): (&f64, (&f32, &f32))| {
                    (x - mean) * scale * f64::from(*gain) + f64::from(*bias)
                };
                row.iter().zip(gain.iter().zip(&bias)).map(of).collect::<Vec<_>>()
            });
            near(&got, normed);
        }
    }
}
