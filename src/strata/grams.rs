//! Texts as sets of character n-grams: what a text says but for case, punctuation and spacing, the hashes of its grams, and how alike two
//! texts are by them.

use crate::domain::rng::SplitMix64;
use crate::domain::settings::Likeness;

/// Grams beyond which those that are repeated are found by sorting: a table's worst case is the square.
const TABLE_MAX: usize = 4_096;

/// Bytes of a word.
const WORD: usize = 8;

/// Lower case, letters and digits only, single spaces.
pub(super) fn normalize(text: &str) -> String {
    if text.is_ascii() {
        return normalize_ascii(text.as_bytes());
    }
    let plain: String = text
        .chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same without a branch for each byte.
fn normalize_ascii(text: &[u8]) -> String {
    let mut plain = vec![0; text.len()];
    let (mut n, mut before) = (0, b' ');
    for byte in text {
        let byte = if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b' ' };
        // Written over by the next one, where it is a space behind a space.
        plain[n] = byte;
        n += usize::from(byte != b' ' || before != b' ');
        before = byte;
    }
    n -= usize::from(n > 0 && before == b' ');
    plain.truncate(n);
    String::from_utf8(plain).unwrap_or_default()
}

/// Hashes of the character n-grams, in their order and with repetitions; of a shorter text its own. Of 32 bits: of two sets of a thousand
/// grams, one in four thousand pairs of sets shares a hash that is no shared gram.
fn grams(text: &str, gram: usize) -> Vec<u32> {
    let bytes = text.as_bytes();
    if (1..=WORD).contains(&gram) && bytes.len() > gram && bytes.is_ascii() {
        // A gram is a word, from which the next one is a shift away.
        let top = 8 * (gram - 1);
        let mut word = 0;
        let mut next = |byte: &u8| {
            word = (word >> 8) | (u64::from(*byte) << top);
            word
        };
        let (before, others) = bytes.split_at(gram - 1);
        for byte in before {
            next(byte);
        }
        return others.iter().map(|byte| (mixed(next(byte)) >> 32) as u32).collect();
    }
    let edges: Vec<usize> =
        text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len())).collect();
    if edges.len() <= gram {
        return vec![hash(bytes)];
    }
    edges.windows(gram + 1).map(|edge| hash(&bytes[edge[0]..edge[gram]])).collect()
}

/// Word by word.
fn hash(bytes: &[u8]) -> u32 {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    (bytes.chunks(WORD).fold(0, |hash, chunk| mixed(hash ^ word(chunk))) >> 32) as u32
}

fn mixed(word: u64) -> u64 {
    SplitMix64::new(word).next_u64()
}

/// Numbers but 0, each once, by open addressing.
struct Once {
    slots: Vec<u32>,
    all: Vec<u32>,
}

impl Once {
    fn of(grams: Vec<u32>) -> Self {
        let slots = vec![0; (2 * grams.len()).next_power_of_two().max(2)];
        let mut once = Self { slots, all: Vec::with_capacity(grams.len()) };
        for gram in grams.into_iter().map(|gram| gram.max(1)) {
            let at = once.place(gram);
            if once.slots[at] == 0 {
                once.slots[at] = gram;
                once.all.push(gram);
            }
        }
        once
    }

    /// Where a number stands, or would stand.
    fn place(&self, gram: u32) -> usize {
        let last = self.slots.len() - 1;
        let mut at = gram as usize & last;
        while self.slots[at] != 0 && self.slots[at] != gram {
            at = (at + 1) & last;
        }
        at
    }
}

/// Hashes of a text's n-grams, each once, in any order.
pub(super) fn distinct(text: &str, gram: usize) -> Vec<u32> {
    let all = grams(text, gram);
    if all.len() > TABLE_MAX { sorted(all) } else { Once::of(all).all }
}

/// Hashes of a text's n-grams, each once, ascending.
pub(super) fn shingles(text: &str, gram: usize) -> Vec<u32> {
    sorted(grams(text, gram))
}

fn sorted(mut all: Vec<u32>) -> Vec<u32> {
    for gram in &mut all {
        *gram = (*gram).max(1);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Jaccard likeness of two ascending sets.
pub(super) fn likeness(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        both += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

impl Likeness {
    /// How alike two texts are: Jaccard likeness of their n-grams; 0 where one says nothing.
    pub fn of(self, a: &str, b: &str) -> f64 {
        let (a, b) = (normalize(a), normalize(b));
        if a.is_empty() || b.is_empty() {
            return 0.0;
        }
        let (a, b) = (grams(&a, self.ngram), grams(&b, self.ngram));
        if a.len().max(b.len()) > TABLE_MAX {
            return likeness(&sorted(a), &sorted(b));
        }
        let (a, b) = (Once::of(a), Once::of(b));
        let both = b.all.iter().filter(|gram| a.slots[a.place(**gram)] != 0).count();
        both as f64 / (a.all.len() + b.all.len() - both).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_what_it_says() {
        for (text, says) in [
            ("  Où est MA carte?! ", "où est ma carte"),
            ("Where's my card...", "where s my card"),
            ("\t\n", ""),
            ("", ""),
            ("a", "a"),
            ("Straße 7", "straße 7"),
        ] {
            assert_eq!(normalize(text), says);
        }
    }

    proptest! {
        #[test]
        fn ascii_is_read_as_any_text_is(text in "[ -~\\t\\n]{0,40}") {
            let plain: String = text.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
            prop_assert_eq!(normalize(&text), plain.split_whitespace().collect::<Vec<_>>().join(" "));
        }

        #[test]
        fn a_gram_has_one_hash_wherever_it_stands(text in "[a-d ]{0,40}", gram in 1_usize..12) {
            let plain = normalize(&text);
            let among = shingles(&format!("{plain} ß"), gram);
            if plain.len() >= gram {
                prop_assert!(shingles(&plain, gram).iter().all(|hash| among.contains(hash)), "{plain}");
            }
            let distinct: BTreeSet<u32> = distinct(&plain, gram).into_iter().collect();
            prop_assert_eq!(distinct.into_iter().collect::<Vec<_>>(), shingles(&plain, gram));
        }

        #[test]
        fn likeness_is_the_share_of_common_grams(a in "[ab ]{1,30}", b in "[ab ]{1,30}") {
            let likeness = Likeness { threshold: 0.5, ngram: 3 };
            let of = |text: &str| -> BTreeSet<String> {
                let text: Vec<char> = normalize(text).chars().collect();
                if text.len() < 3 { BTreeSet::from([text.iter().collect()]) } else { text.windows(3).map(|gram| gram.iter().collect()).collect() }
            };
            let (sa, sb) = (of(&a), of(&b));
            let want = if normalize(&a).is_empty() || normalize(&b).is_empty() {
                0.0
            } else {
                sa.intersection(&sb).count() as f64 / sa.union(&sb).count() as f64
            };
            prop_assert!((likeness.of(&a, &b) - want).abs() < 1e-12);
        }
    }
}
