//! ROUGE-L: how much of a text's words another has in the same order.

use std::collections::HashMap;

/// Words of a text that are looked at; those beyond are left out, so that no answer takes long.
pub const LONGEST: usize = 20_000;

/// F-measure of the longest common subsequence of words (Lin 2004, beta 1): `2 P R / (P + R)`, P its share of the answer's words, R of the
/// gold's. Words are runs of a-z and 0-9 in the lower-case text, as the rouge-score package has them without stemming. None where the gold
/// has no such word: then the measure says nothing. Of longer texts the first [`LONGEST`] words count.
pub fn rouge_l(output: &str, gold: &str) -> Option<f64> {
    let (output, gold) = (output.to_lowercase(), gold.to_lowercase());
    let gold: Vec<&str> = words(&gold).collect();
    if gold.is_empty() {
        return None;
    }
    let output: Vec<&str> = words(&output).collect();
    let common = longest_common(&output, &gold) as f64;
    if common == 0.0 {
        return Some(0.0);
    }
    let (precision, recall) = (common / output.len() as f64, common / gold.len() as f64);
    Some(2.0 * precision * recall / (precision + recall))
}

fn words(lower: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    lower.split(move |c| !is_word(c)).filter(|word| !word.is_empty()).take(LONGEST)
}

/// Length of the longest common subsequence, 64 places of `a` at a time (Hyyrö 2004): a 0 in `row` is a place where it grows.
fn longest_common(a: &[&str], b: &[&str]) -> usize {
    let blocks = a.len().div_ceil(64);
    let mut places: HashMap<&str, Vec<u64>> = HashMap::new();
    for word in b {
        places.entry(word).or_default();
    }
    for (i, word) in a.iter().enumerate() {
        if let Some(bits) = places.get_mut(word) {
            bits.resize(blocks, 0);
            bits[i / 64] |= 1 << (i % 64);
        }
    }
    let mut row = vec![u64::MAX; blocks];
    for word in b {
        let Some(bits) = places.get(word).filter(|bits| !bits.is_empty()) else { continue };
        let mut carry = 0;
        for (v, m) in row.iter_mut().zip(bits) {
            let u = *v & m;
            let (sum, over) = v.overflowing_add(u);
            let (sum, again) = sum.overflowing_add(carry);
            carry = u64::from(over | again);
            *v = sum | (*v & !m);
        }
    }
    (0..a.len()).filter(|i| row[i / 64] & (1 << (i % 64)) == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of every prefix against every prefix.
    fn plain(a: &[&str], b: &[&str]) -> usize {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 0..a.len() {
            for j in 0..b.len() {
                table[i + 1][j + 1] =
                    if a[i] == b[j] { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
            }
        }
        table[a.len()][b.len()]
    }

    #[derive(serde::Deserialize)]
    struct Case {
        answer: String,
        gold: String,
        rouge_l: f64,
    }

    #[test]
    fn values_are_the_published_definitions() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/score/rouge_l.json")).unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let got = rouge_l(&case.answer, &case.gold).unwrap_or(0.0);
            assert!((got - case.rouge_l).abs() < 1e-9, "{}: {got} {}", case.answer, case.rouge_l);
        }
    }

    #[test]
    fn a_gold_without_words_has_no_value() {
        assert_eq!(rouge_l("anything", ""), None);
        assert_eq!(rouge_l("anything", "你好 !"), None);
        assert_eq!(rouge_l("", "a word"), Some(0.0));
    }

    #[test]
    fn what_is_very_long_is_cut() {
        let long = "a b c ".repeat(200_000);
        assert_eq!(rouge_l(&long, &long), Some(1.0));
        assert!(rouge_l(&long, "b c").unwrap() < 1e-3);
    }

    proptest! {
        #[test]
        fn sixty_four_at_a_time_is_the_same_as_one_by_one(
            a in prop::collection::vec(0..4usize, 0..200), b in prop::collection::vec(0..4usize, 0..200),
        ) {
            let word = |i: &usize| ["w", "x", "y", "z"][*i];
            let (a, b): (Vec<_>, Vec<_>) = (a.iter().map(word).collect(), b.iter().map(word).collect());
            prop_assert_eq!(longest_common(&a, &b), plain(&a, &b));
        }
    }
}
