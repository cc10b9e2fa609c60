//! Dropout with a mask that nobody stores: a function of seed, stream and element, made anew in the backward.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11): a keyed bijection of a
//! 128-bit counter; element `i` is dropped if word `i % 4` of the block at counter `(i / 4, stream)` under key `seed` is below
//! `p 2^32`; kept ones are divided by `1 - p`. The same bits as `kernels/dropout.cu`, whatever the threads and chunks.

/// The mask of one tensor in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub seed: u64,
    /// Tells masks of one seed apart: one number per step and tensor.
    pub stream: u64,
    /// Elements with a word below it are dropped.
    pub threshold: u32,
    /// `1 / (1 - p)`
    pub scale: f32,
}

impl Dropout {
    /// `p` in [0, 1).
    pub fn new(p: f32, seed: u64, stream: u64) -> Self {
        let threshold = (f64::from(p) * f64::from(u32::MAX)).round() as u32;
        Self { seed, stream, threshold, scale: 1.0 / (1.0 - p) }
    }

    /// The four words of elements `4 block ..`.
    fn words(&self, block: u64) -> [u32; 4] {
        philox(
            [block as u32, (block >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32],
            self.seed,
        )
    }
}

fn philox(mut c: [u32; 4], key: u64) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let (p0, p1) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// Applies the mask to elements `first ..` of a tensor in place; the backward is the same call on their gradient.
pub fn dropout(mask: &Dropout, first: u64, x: &mut [f32]) {
    let mut block = (u64::MAX, [0; 4]);
    for (i, x) in (first..).zip(x) {
        if block.0 != i / 4 {
            block = (i / 4, mask.words(i / 4));
        }
        *x = if block.1[(i % 4) as usize] < mask.threshold { 0.0 } else { *x * mask.scale };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123 1.14 (tests/kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_its_known_answers() {
        assert_eq!(philox([0; 4], 0), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(philox(pi, 0x299f31d0_a4093822), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn the_mask_does_not_depend_on_pieces_and_keeps_the_mean() {
        let n = 100_000;
        let mask = Dropout::new(0.3, 7, 1 << 40);
        let mut whole = vec![1.0; n];
        dropout(&mask, 0, &mut whole);
        let mut pieces = vec![1.0; n];
        for (i, piece) in pieces.chunks_mut(333).enumerate() {
            dropout(&mask, 333 * i as u64, piece);
        }
        assert_eq!(whole, pieces);
        let dropped = whole.iter().filter(|x| **x == 0.0).count() as f64 / n as f64;
        assert!((dropped - 0.3).abs() < 0.005, "{dropped}");
        let mean = whole.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        let mut other = vec![1.0; n];
        dropout(&Dropout { stream: 2, ..mask }, 0, &mut other);
        assert_ne!(whole, other);
        let mut none = vec![1.5; 10];
        dropout(&Dropout::new(0.0, 7, 1), 0, &mut none);
        assert_eq!(none, [1.5; 10]);
    }
}
