//! Minima of many hash functions over a set: MinHash (Broder 1997).

use super::simd::simd;

/// Functions that go over the set together, so that it is read once for all of them.
const TOGETHER: usize = 8;

simd! {
    /// `out[i] = min over x in set of (a_i x + b_i) mod 2^32`, of an empty set the largest number; `keys` are the `(a, b)`, with `a` odd.
    pub fn min_hashes(set: &[u32], keys: &[(u32, u32)], out: &mut [u32]) {
        for (keys, out) in keys.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER)) {
            let (mut a, mut b, mut least) = ([1_u32; TOGETHER], [0_u32; TOGETHER], [u32::MAX; TOGETHER]);
            for (i, key) in keys.iter().enumerate() {
                (a[i], b[i]) = *key;
            }
            for x in set {
                for i in 0..TOGETHER {
                    least[i] = least[i].min(a[i].wrapping_mul(*x).wrapping_add(b[i]));
                }
            }
            let n = out.len();
            out.copy_from_slice(&least[..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_is_the_least_of_its_function(set in prop::collection::vec(any::<u32>(), 0..50), keys in prop::collection::vec((any::<u32>(), any::<u32>()), 0..20)) {
            let mut out = vec![7; keys.len()];
            min_hashes(&set, &keys, &mut out);
            for ((a, b), got) in keys.iter().zip(out) {
                let want = set.iter().map(|x| a.wrapping_mul(*x).wrapping_add(*b)).min().unwrap_or(u32::MAX);
                prop_assert_eq!(got, want);
            }
        }
    }
}
