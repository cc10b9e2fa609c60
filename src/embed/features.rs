//! What a text is made of, hashed: words, pairs of words, and character n-grams within words (which forgive typos).

use std::collections::HashMap;

/// Kinds of features. Each gets its share of a vector's length, whatever their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Words = 0,
    Characters = 1,
}

impl Group {
    pub const COUNT: usize = 2;
    pub const ALL: [Self; Self::COUNT] = [Self::Words, Self::Characters];

    /// Squares add up to 1.
    pub const fn share(self) -> f32 {
        match self {
            Self::Words => 0.8,
            Self::Characters => 0.6,
        }
    }
}

/// One feature of a text and how often it has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feature {
    pub hash: u64,
    pub group: Group,
    pub count: u32,
}

/// Sorted by hash, each once.
pub type Bag = Vec<Feature>;

/// Character n-grams of these lengths, with `^` and `$` at the ends of the word.
const GRAMS: std::ops::RangeInclusive<usize> = 3..=5;

/// Longer texts are read up to here, in words: a stratum shows in the first page.
const WORDS: usize = 1_000;

/// Runs of letters and digits, in lower case, with an apostrophe inside (`don't`).
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let apostrophe = |c: char| c == '\'' || c == '\u{2019}';
    text.split(move |c: char| !(c.is_alphanumeric() || apostrophe(c)))
        .map(move |word| word.trim_matches(apostrophe))
        .filter(|word| !word.is_empty())
        .map(|word| {
            let word = word.to_lowercase();
            if word.contains('\u{2019}') { word.replace('\u{2019}', "'") } else { word }
        })
}

pub fn bag(text: &str) -> Bag {
    let words: Vec<String> = words(text).take(WORDS).collect();
    let mut times: HashMap<&str, u32> = HashMap::with_capacity(words.len());
    for word in &words {
        *times.entry(word).or_default() += 1;
    }
    let mut features: Bag = Vec::new();
    let mut push = |hash, group, count| features.push(Feature { hash, group, count });
    for pair in words.windows(2) {
        push(hash(2, &[&pair[0], &pair[1]]), Group::Words, 1);
    }
    for (word, count) in times {
        push(hash(1, &[word]), Group::Words, count);
        let marked = format!("^{word}$");
        let starts: Vec<usize> =
            marked.char_indices().map(|(at, _)| at).chain(std::iter::once(marked.len())).collect();
        for n in GRAMS {
            for edge in starts.windows(n + 1) {
                push(hash(3, &[&marked[edge[0]..edge[n]]]), Group::Characters, count);
            }
        }
    }
    features.sort_unstable_by_key(|feature| feature.hash);
    features.dedup_by(|next, kept| {
        let same = next.hash == kept.hash;
        kept.count += if same { next.count } else { 0 };
        same
    });
    features
}

/// FNV-1a over the parts, with a mark between them, then mixed (the finalizer of MurmurHash3), so that every bit counts.
fn hash(kind: u8, parts: &[&str]) -> u64 {
    let mut h: u64 = 0xCBF2_9CE4_8422_2325;
    let mut feed = |byte: u8| h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    feed(kind);
    for part in parts {
        part.bytes().for_each(&mut feed);
        feed(0xFF);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    h ^= h >> 33;
    h = h.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let got: Vec<String> =
            words("I've 'quoted' 2 top-ups, \u{201c}Äpfel\u{201d}; don\u{2019}t!").collect();
        assert_eq!(got, ["i've", "quoted", "2", "top", "ups", "äpfel", "don't"]);
        assert_eq!(words(" \u{1b}[31m ... ").collect::<Vec<_>>(), ["31m"]);
    }

    #[test]
    fn a_bag_counts_each_feature_once() {
        let bag = bag("hot hot");
        let count = |hash: u64| bag.iter().find(|f| f.hash == hash).map(|f| f.count);
        assert_eq!(count(hash(1, &["hot"])), Some(2));
        assert_eq!(count(hash(2, &["hot", "hot"])), Some(1));
        // ^ho hot ot$ ^hot hot$ ^hot$, each twice
        assert_eq!(bag.iter().filter(|f| f.group == Group::Characters).count(), 6);
    }
}
