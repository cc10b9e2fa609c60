//! Delta debugging (Zeller and Hildebrandt 2002, "Simplifying and isolating failure-inducing input", `ddmin`), one question at a time, so
//! that many rows can be minimized side by side.
//!
//! From a set that turns the answer to a 1-minimal one: without any single element it turns no more.

use std::collections::HashMap;

/// The minimization of one set.
#[derive(Clone, Debug)]
pub struct Ddmin {
    /// The smallest set that is known to turn the answer.
    set: Vec<usize>,
    /// Parts that it is divided into.
    parts: usize,
    /// Next among the parts, then their complements.
    at: usize,
    known: HashMap<Vec<usize>, bool>,
    asked: Option<Vec<usize>>,
}

impl Ddmin {
    /// `n` elements that together turn the answer; none of them does not.
    pub fn new(n: usize) -> Self {
        Self { set: (0..n).collect(), parts: 2, at: 0, known: HashMap::new(), asked: None }
    }

    /// The smallest set so far, in ascending order.
    pub fn smallest(&self) -> &[usize] {
        &self.set
    }

    /// The set that is to be tested next; none when the smallest is found.
    pub fn next(&mut self) -> Option<Vec<usize>> {
        loop {
            if self.set.len() <= 1 {
                return None;
            }
            let parts = self.parts.min(self.set.len());
            // Of two parts the complements are the parts again.
            let tests = if parts == 2 { 2 } else { 2 * parts };
            if self.at >= tests {
                if parts >= self.set.len() {
                    return None;
                }
                self.parts = (2 * parts).min(self.set.len());
                self.at = 0;
                continue;
            }
            let test = self.test(parts);
            match self.known.get(&test) {
                None => {
                    self.asked = Some(test.clone());
                    return Some(test);
                }
                Some(&turned) => self.step(test, turned),
            }
        }
    }

    /// What came of the set that [`Self::next`] gave.
    pub fn tell(&mut self, turned: bool) {
        if let Some(test) = self.asked.take() {
            self.known.insert(test.clone(), turned);
            self.step(test, turned);
        }
    }

    fn test(&self, parts: usize) -> Vec<usize> {
        let n = self.set.len();
        let part = self.at % parts;
        let (from, to) = (part * n / parts, (part + 1) * n / parts);
        let inside = |i: usize| (from..to).contains(&i) == (self.at < parts);
        self.set.iter().enumerate().filter(|(i, _)| inside(*i)).map(|(_, x)| *x).collect()
    }

    fn step(&mut self, test: Vec<usize>, turned: bool) {
        if !turned {
            self.at += 1;
            return;
        }
        let parts = self.parts.min(self.set.len());
        // A part: begin anew in it. A complement: the same parts but one.
        self.parts = if self.at < parts { 2 } else { (parts - 1).max(2) };
        self.set = test;
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minimize(n: usize, turns: impl Fn(&[usize]) -> bool) -> (Vec<usize>, usize) {
        let mut search = Ddmin::new(n);
        let mut asked = 0;
        while let Some(test) = search.next() {
            asked += 1;
            search.tell(turns(&test));
        }
        (search.smallest().to_vec(), asked)
    }

    #[test]
    fn the_example_of_the_paper_is_found() {
        // Figure 4: of eight changes 1, 7 and 8 make the failure.
        let (set, asked) = minimize(8, |s| [0, 6, 7].iter().all(|x| s.contains(x)));
        assert_eq!(set, [0, 6, 7]);
        assert!(asked <= 8 * 8 + 3 * 8, "{asked}");
    }

    proptest! {
        /// One planted set is found whatever it is.
        #[test]
        fn what_is_planted_is_found(n in 1..16usize, planted in prop::collection::btree_set(0..16usize, 1..5)) {
            let planted: Vec<usize> = planted.into_iter().filter(|x| *x < n).collect();
            prop_assume!(!planted.is_empty());
            let (set, asked) = minimize(n, |s| planted.iter().all(|x| s.contains(x)));
            prop_assert_eq!(set, planted);
            prop_assert!(asked <= n * n + 3 * n);
        }

        /// Whatever turns the answer, the result turns it, and nothing of it can be left out.
        #[test]
        fn the_result_is_one_minimal(n in 1..9usize, seed in any::<u64>()) {
            let turns = |s: &[usize]| {
                let bits: u64 = s.iter().map(|x| 1 << x).sum();
                s.len() == n || (!s.is_empty() && bits.wrapping_mul(seed | 1).rotate_left(17).is_multiple_of(3))
            };
            let (set, _) = minimize(n, turns);
            prop_assert!(turns(&set));
            for left_out in &set {
                let rest: Vec<usize> = set.iter().copied().filter(|x| x != left_out).collect();
                prop_assert!(rest.is_empty() || !turns(&rest), "{set:?} without {left_out}");
            }
        }
    }
}
