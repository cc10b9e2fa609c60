//! Dot products of many rows with one vector: the work of an exact search.
//!
//! Bound by memory: n x d x 4 bytes are read once, one fused multiply-add for each value.

use super::simd::{dot, simd};

simd! {
    /// `out[i] = <rows[i], query>`; rows `(n, d)` one after the other, `d` the query's length.
    pub fn dots(rows: &[f32], query: &[f32], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(query.len().max(1)).zip(out.iter_mut()) {
            *out = dot::<FMA>(row, query);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_product_is_the_plain_sum(d in 1..70usize, n in 0..9usize, seed in any::<u32>()) {
            let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) % 1000) as f32 / 500.0 - 1.0;
            let rows: Vec<f32> = (0..n * d).map(value).collect();
            let query: Vec<f32> = (0..d).map(|i| value(i + 7)).collect();
            let mut out = vec![0.0; n];
            dots(&rows, &query, &mut out);
            for (i, got) in out.iter().enumerate() {
                let want: f64 = (0..d).map(|j| f64::from(rows[i * d + j]) * f64::from(query[j])).sum();
                prop_assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}
