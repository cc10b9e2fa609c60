#![allow(unsafe_code)]
//! Vector code by run-time dispatch, and the small vector functions that several operations share.
//!
//! Without AVX2 and FMA code generation `f32::mul_add` is a library call and loops stay narrow (a training step measured 1.7
//! times slower); building for the native processor would end one binary for all. [`simd!`] compiles a function twice and
//! picks at run time; the helpers below are inlined into both copies.

/// Whether the wide copies may run: AVX2 and FMA are there.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_wide() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
}

/// Defines a function in two copies, one for AVX2 + FMA; in its body the constant `FMA` says whether a fused multiply-add is an
/// instruction.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(unused_mut, clippy::inline_always, clippy::extra_unused_type_parameters)]
            fn body<const FMA: bool>($(mut $arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                if $crate::ops::simd::has_wide() {
                    // SAFETY: the processor has AVX2 and FMA, which is all that `wide` asks for.
                    return unsafe { wide($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Accumulators of a reduction: four vectors of eight, enough to hide the latency of an add.
const LANES: usize = 32;

/// `a * b + c`, fused where that is an instruction.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `sum_i a_i b_i` over the shorter of both.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut tail = 0f32;
    for (x, y) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        tail = fma::<FMA>(*x, *y, tail);
    }
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] = fma::<FMA>(x[i], y[i], sums[i]);
        }
    }
    reduce(&sums) + tail
}

/// Pairwise sum of the lanes.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(crate) fn reduce(sums: &[f32; LANES]) -> f32 {
    let mut s = *sums;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            s[i] += s[i + width];
        }
        width /= 2;
    }
    s[0]
}

/// The largest element; negative infinity of none.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let mut largest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    for x in lanes {
        largest = if x > largest { x } else { largest };
    }
    largest
}

/// `e^x` without a branch, so that loops over it vectorize: range reduction by ln 2 in two parts and the degree-5 polynomial of
/// Cephes `expf`; relative error below 2e-7 on [-87, 88], clamped outside, not-a-number stays.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to the nearest integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let t = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut q = 1.987_569_1e-4f32;
    q = fma::<FMA>(q, r, 1.398_199_9e-3);
    q = fma::<FMA>(q, r, 8.333_452e-3);
    q = fma::<FMA>(q, r, 4.166_579_6e-2);
    q = fma::<FMA>(q, r, 0.166_666_66);
    q = fma::<FMA>(q, r, 0.5);
    let e = fma::<FMA>(q, r * r, r) + 1.0;
    e * f32::from_bits((t.to_bits() << 23).wrapping_add(127 << 23))
}

/// Replaces every `x` by `exp(x - shift)`; returns their sum.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(crate) fn exp_sum<const FMA: bool>(a: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let mut chunks = a.chunks_exact_mut(LANES);
    for x in &mut chunks {
        for i in 0..LANES {
            let e = exp::<FMA>(x[i] - shift);
            x[i] = e;
            sums[i] += e;
        }
    }
    let mut tail = 0f32;
    for x in chunks.into_remainder() {
        *x = exp::<FMA>(*x - shift);
        tail += *x;
    }
    reduce(&sums) + tail
}

#[cfg(test)]
mod tests {
    simd! { fn exps(xs: &[f32]) -> Vec<f32> { xs.iter().map(|x| super::exp::<FMA>(*x)).collect() } }
    simd! { fn dots(a: &[f32], b: &[f32]) -> f32 { super::dot::<FMA>(a, b) } }
    simd! { fn maxima(a: &[f32]) -> f32 { super::max(a) } }

    #[test]
    fn exp_agrees_with_the_library() {
        let xs: Vec<f32> = (-8600..8700).map(|i| i as f32 * 0.01).collect();
        for (x, y) in xs.iter().zip(exps(&xs)) {
            let wanted = f64::from(*x).exp();
            assert!(((f64::from(y) - wanted) / wanted).abs() < 3e-7, "exp({x}) = {y}, wanted {wanted}");
        }
        assert!(exps(&[f32::NAN])[0].is_nan());
        assert!(exps(&[f32::NEG_INFINITY])[0] < 1e-37);
    }

    #[test]
    fn reductions_take_every_element_whatever_the_length() {
        for n in [0usize, 1, 7, 31, 32, 33, 64, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let wanted: f64 = (0..n).map(|i| (i * i) as f64).sum();
            assert!((f64::from(dots(&a, &a)) - wanted).abs() < 1e-3 * (1.0 + wanted));
            assert_eq!(maxima(&a), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
