//! Sets of rows.

use rayon::prelude::*;

/// A set of rows, by their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    pub(super) words: Vec<u64>,
    pub(super) len: usize,
}

impl Bits {
    /// The rows that `holds` says yes to. It is asked in several threads.
    pub fn of(len: usize, holds: impl Fn(usize) -> bool + Sync) -> Self {
        let word =
            |at: usize| (at * 64..len.min(at * 64 + 64)).fold(0, |w, i| w | u64::from(holds(i)) << (i % 64));
        Self { words: (0..len.div_ceil(64)).into_par_iter().with_min_len(64).map(word).collect(), len }
    }

    pub fn has(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    pub fn set(&mut self, at: usize, on: bool) {
        if at < self.len
            && let Some(word) = self.words.get_mut(at / 64)
        {
            *word = *word & !(1 << (at % 64)) | u64::from(on) << (at % 64);
        }
    }

    pub fn invert(&mut self) {
        for word in &mut self.words {
            *word = !*word;
        }
        if let (Some(last), used @ 1..) = (self.words.last_mut(), self.len % 64) {
            *last &= (1 << used) - 1;
        }
    }

    /// Only what is in both.
    pub fn intersect(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    /// What is in either.
    pub fn join(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_those_of_a_list_of_truths() {
        for len in [0, 1, 63, 64, 65, 200] {
            let (a, b) = (|i: usize| i.is_multiple_of(3), |i: usize| i % 5 == 1);
            let held = |bits: &Bits| (0..len + 70).map(|i| bits.has(i)).collect::<Vec<_>>();
            let want = |holds: &dyn Fn(usize) -> bool| {
                (0..len + 70).map(|i| i < len && holds(i)).collect::<Vec<_>>()
            };
            let mut bits = Bits::of(len, a);
            assert_eq!(held(&bits), want(&a));
            bits.invert();
            assert_eq!(held(&bits), want(&|i| !a(i)));
            assert_eq!(bits.count(), (0..len).filter(|&i| !a(i)).count());
            for i in 0..len + 70 {
                let on = bits.has(i);
                bits.set(i, !on);
                assert_eq!(bits.has(i), !on && i < len);
                bits.set(i, on);
            }
            bits.join(&Bits::of(len, b));
            assert_eq!(held(&bits), want(&|i| !a(i) || b(i)));
            bits.intersect(&Bits::of(len, a));
            assert_eq!(held(&bits), want(&|i| a(i) && b(i)));
        }
    }
}
