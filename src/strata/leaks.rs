//! Texts that are scored on and stand in texts that are learned from.
//!
//! Exact: the same words, but for case. By words in a row, as benchmarks were searched for in GPT-3's training text (Brown et al. 2020,
//! "Language Models are Few-Shot Learners", appendix C): a scored text of at least [`Rule::words`] words leaks that shares so many words in
//! a row with a learned one; a shorter one, of at least [`Rule::least`] words, that stands in a learned one as a whole. What stands in more
//! than [`Rule::common`] learned texts is a phrase of the trade and no leak. Of still shorter texts only the same one is found.

use rayon::prelude::*;

use crate::domain::rng::SplitMix64;

/// When words in a row are a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub words: usize,
    pub least: usize,
    pub common: usize,
}

impl Default for Rule {
    fn default() -> Self {
        Self { words: 13, least: 8, common: 10 }
    }
}

/// A scored text and a learned one that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlap {
    /// Places of the texts.
    pub scored: u32,
    /// Not the same text: shared n-grams; 1 where a short text stands in a longer one as a whole.
    pub grams: Option<u32>,
    pub learned: u32,
    /// Of the scored text's words so many in a hundred stand in those n-grams; 100 of the same text.
    pub percent: u32,
}

/// Learned texts that a thread takes at a time.
const CHUNK: usize = 2_048;

/// Texts by their places: how many, and each of them.
pub type Texts<'a, 't> = (usize, &'a (dyn Fn(usize) -> &'t str + Sync));

/// All overlaps, in order: by scored text, the same text first.
///
/// Memory: 12 bytes for each n-gram of the scored texts, and the overlaps. The learned texts go by.
pub fn overlaps<'t>(scored: Texts<'_, 't>, learned: Texts<'_, 't>, rule: Rule) -> Vec<Overlap> {
    Scored::new(scored, rule).overlaps(scored.1, learned)
}

/// Scored texts, made ready to be found in others.
#[derive(Debug)]
pub struct Scored {
    rule: Rule,
    /// Hash of an n-gram or of a whole text, and the text's place; sorted.
    entries: Vec<(u64, u32)>,
}

impl Scored {
    pub fn new(scored: Texts<'_, '_>, rule: Rule) -> Self {
        let mut entries: Vec<(u64, u32)> = (0..scored.0)
            .into_par_iter()
            .flat_map_iter(|at| {
                let words = words(scored.1(at));
                let mut all = Vec::new();
                all.extend(whole(&words));
                match words.len() {
                    n if n >= rule.words => windows(&words, rule.words, &mut |hash| all.push(hash)),
                    n if n >= rule.least => windows(&words, n, &mut |hash| all.push(hash)),
                    _ => {}
                }
                all.sort_unstable();
                all.dedup();
                all.into_iter().map(move |hash| (hash, at as u32))
            })
            .collect();
        entries.par_sort_unstable();
        Self { rule, entries }
    }

    /// What is looked for and stands in learned texts: its hash with the text's place.
    fn hits(&self, learned: Texts<'_, '_>) -> Vec<(u64, u32)> {
        let rule = self.rule;
        let known = Known::new(&self.entries);
        let chunks: Vec<usize> = (0..learned.0).step_by(CHUNK).collect();
        let mut hits: Vec<(u64, u32)> = chunks
            .into_par_iter()
            .flat_map_iter(|first| {
                let mut hits = Vec::new();
                for at in first..learned.0.min(first + CHUNK) {
                    let words = words(learned.1(at));
                    let from = hits.len();
                    let mut take = |hash: u64| {
                        if known.has(hash) {
                            hits.push((hash, at as u32));
                        }
                    };
                    whole(&words).into_iter().for_each(&mut take);
                    for n in rule.least..=rule.words {
                        windows(&words, n, &mut take);
                    }
                    hits[from..].sort_unstable();
                }
                hits
            })
            .collect();
        hits.par_sort_unstable();
        hits.dedup();
        hits
    }

    /// From now on words in a row that stand in more than [`Rule::common`] of these learned texts are no leak, in whatever text they stand.
    pub fn forget_common(&mut self, learned: Texts<'_, '_>) {
        let hits = self.hits(learned);
        let common = |docs: &&[(u64, u32)]| docs[0].0 & WHOLE == 0 && docs.len() > self.rule.common;
        let phrases: Vec<u64> =
            hits.chunk_by(|a, b| a.0 == b.0).filter(common).map(|docs| docs[0].0).collect();
        self.entries.retain(|(hash, _)| phrases.binary_search(hash).is_err());
    }

    /// All overlaps, in order: by scored text, the same text first. `scored` gives the texts again.
    pub fn overlaps<'t>(
        &self,
        scored: &(dyn Fn(usize) -> &'t str + Sync),
        learned: Texts<'_, 't>,
    ) -> Vec<Overlap> {
        let rule = self.rule;
        let hits = self.hits(learned);
        let mut found: Vec<(u32, u32, bool)> = Vec::new();
        for docs in hits.chunk_by(|a, b| a.0 == b.0) {
            let hash = docs[0].0;
            let same = hash & WHOLE != 0;
            if !same && docs.len() > rule.common {
                continue;
            }
            let from = self.entries.partition_point(|(known, _)| *known < hash);
            for (_, at) in self.entries[from..].iter().take_while(|(known, _)| *known == hash) {
                found.extend(docs.iter().map(|(_, doc)| (*at, *doc, same)));
            }
        }
        found.sort_unstable_by_key(|(at, doc, same)| (*at, *doc, !same));
        let pairs: Vec<&[(u32, u32, bool)]> = found.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let mut all: Vec<Overlap> = pairs
            .into_par_iter()
            .map(|pair| {
                let (at, doc, same) = pair[0];
                let percent =
                    if same { 100 } else { covered(scored(at as usize), learned.1(doc as usize), rule) };
                Overlap { scored: at, learned: doc, grams: (!same).then_some(pair.len() as u32), percent }
            })
            .collect();
        all.sort_unstable();
        all
    }
}

/// Words of the scored text, in a hundred, that stand in n-grams which the learned one has.
fn covered(scored: &str, learned: &str, rule: Rule) -> u32 {
    let (scored, learned) = (words(scored), words(learned));
    let n = scored.len().min(rule.words);
    let mut known = Vec::new();
    windows(&learned, n, &mut |hash| known.push(hash));
    known.sort_unstable();
    let (mut at, mut free, mut count) = (0_usize, 0_usize, 0_usize);
    windows(&scored, n, &mut |hash| {
        if known.binary_search(&hash).is_ok() {
            count += at + n - free.max(at);
            free = at + n;
        }
        at += 1;
    });
    (100 * count / scored.len().max(1)) as u32
}

/// Set in the hashes of whole texts.
const WHOLE: u64 = 1 << 63;
/// Of the polynomial that windows are hashed with.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hash of each word: letters and digits in lower case (FNV-1a).
fn words(text: &str) -> Vec<u64> {
    let mut all = Vec::new();
    let mut word: Option<u64> = None;
    for c in text.chars() {
        if c.is_alphanumeric() {
            let mut hash = word.unwrap_or(0xCBF2_9CE4_8422_2325);
            for lower in c.to_lowercase() {
                hash = (hash ^ u64::from(u32::from(lower))).wrapping_mul(0x0000_0100_0000_01B3);
            }
            word = Some(hash);
        } else {
            all.extend(word.take());
        }
    }
    all.extend(word);
    all
}

/// Of the words of a whole text, if it has any.
fn whole(words: &[u64]) -> Option<u64> {
    (!words.is_empty()).then(|| {
        let hash =
            words.iter().fold(words.len() as u64, |hash, word| SplitMix64::new(hash ^ word).next_u64());
        hash | WHOLE
    })
}

/// Hashes of every `n` words in a row.
fn windows(words: &[u64], n: usize, with: &mut dyn FnMut(u64)) {
    if n == 0 || words.len() < n {
        return;
    }
    let power = (0..n).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut sum = 0u64;
    for (i, word) in words.iter().enumerate() {
        sum = sum.wrapping_mul(BASE).wrapping_add(*word);
        if i >= n {
            sum = sum.wrapping_sub(power.wrapping_mul(words[i - n]));
        }
        if i + 1 >= n {
            with(SplitMix64::new(sum ^ n as u64).next_u64() & !WHOLE);
        }
    }
}

/// Which hashes are looked for: a bit for each in front of the list.
struct Known<'a> {
    entries: &'a [(u64, u32)],
    bits: Vec<u64>,
}

impl<'a> Known<'a> {
    fn new(entries: &'a [(u64, u32)]) -> Self {
        let mut bits = vec![0u64; (entries.len() / 4).next_power_of_two().clamp(1, 1 << 22)];
        let mask = bits.len() * 64 - 1;
        for (hash, _) in entries {
            let at = *hash as usize & mask;
            bits[at / 64] |= 1 << (at % 64);
        }
        Self { entries, bits }
    }

    fn has(&self, hash: u64) -> bool {
        let at = hash as usize & (self.bits.len() * 64 - 1);
        self.bits[at / 64] >> (at % 64) & 1 == 1
            && self.entries.binary_search_by_key(&hash, |(known, _)| *known).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(scored: &[&str], learned: &[&str]) -> Vec<(u32, u32, Option<u32>)> {
        let all = overlaps((scored.len(), &|i| scored[i]), (learned.len(), &|i| learned[i]), Rule::default());
        all.into_iter().map(|o| (o.scored, o.learned, o.grams)).collect()
    }

    const LONG: &str = "the quick brown fox jumps over the lazy dog and runs far away into the dark wood";

    #[test]
    fn the_same_text_words_in_a_row_and_short_texts_within_long_ones_are_leaks() {
        let upper = format!("So: {}!", LONG.to_uppercase());
        assert_eq!(of(&["Thank you!"], &["thank you", "thanks"]), [(0, 0, None)], "however short");
        assert_eq!(of(&[LONG], &[&upper]), [(0, 0, Some(5))], "17 words have 5 13-grams");
        assert_eq!(
            of(
                &["my card was declined at the shop today"],
                &["hello, my card was declined at the shop today again"]
            ),
            [(0, 0, Some(1))]
        );
        assert!(
            of(&["my card was declined at the shop"], &["hello, my card was declined at the shop today"])
                .is_empty(),
            "7 words are a phrase"
        );
        assert!(of(&[&LONG[..40]], &["the quick brown fox walks over the lazy dog"]).is_empty());
        assert!(of(&["", "?!"], &["", "..."]).is_empty(), "what says nothing is no leak");
    }

    #[test]
    fn what_stands_in_many_learned_texts_is_a_phrase_but_the_same_text_is_a_leak() {
        let many: Vec<String> = (0..11).map(|i| format!("{LONG} number {i}")).collect();
        let learned: Vec<&str> = many.iter().map(String::as_str).collect();
        let other = format!("{LONG} indeed");
        assert!(of(&[&other], &learned).is_empty());
        assert_eq!(of(&[&other], &learned[..10]).len(), 10);
        assert_eq!(of(&[&other, &many[0]], &learned), [(1, 0, None)]);
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_comparing_all_pairs_finds(
            scored in prop::collection::vec("[ab]( [ab]){0,16}", 1..6),
            learned in prop::collection::vec("[ab]( [ab]){0,16}", 1..8),
        ) {
            let rule = Rule { words: 5, least: 3, common: 1000 };
            let got = overlaps((scored.len(), &|i| scored[i].as_str()), (learned.len(), &|i| learned[i].as_str()), rule);
            let mut want = Vec::new();
            for (i, a) in scored.iter().enumerate() {
                let a: Vec<&str> = a.split(' ').collect();
                for (j, b) in learned.iter().enumerate() {
                    let b: Vec<&str> = b.split(' ').collect();
                    let n = a.len().min(rule.words);
                    let grams: std::collections::BTreeSet<&[&str]> = if n < rule.least { Default::default() } else {
                        a.windows(n).filter(|gram| b.windows(n).any(|other| other == *gram)).collect()
                    };
                    if a == b {
                        want.push(Overlap { scored: i as u32, learned: j as u32, grams: None, percent: 100 });
                    } else if !grams.is_empty() {
                        let in_one = |at: usize| (at.saturating_sub(n - 1)..=at).any(|from| a.get(from..from + n).is_some_and(|gram| grams.contains(gram)));
                        let percent = (100 * (0..a.len()).filter(|at| in_one(*at)).count() / a.len()) as u32;
                        want.push(Overlap { scored: i as u32, learned: j as u32, grams: Some(grams.len() as u32), percent });
                    }
                }
            }
            want.sort();
            prop_assert_eq!(got, want);
        }
    }
}
