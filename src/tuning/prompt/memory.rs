//! What was tried: a proposal that repeats a failed one is skipped, and what each edit gained is kept as a lesson.

use std::collections::HashSet;

use super::Texts;
use crate::domain::prompt::Lesson;

/// Texts nearer than this, as a share of the longer one, are taken for the same.
const NEAR: f64 = 0.05;
/// An edit is another one if it is at least so far from a failed one, relative to its distance from its parent.
const OTHER: f64 = 0.5;
/// Longer texts are compared by words: by characters it is quadratic in their length.
const LONG: usize = 400;
/// Failed versions that are looked at, the newest.
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub struct Memory {
    seen: HashSet<String>,
    failed: Vec<Texts>,
    pub lessons: Vec<Lesson>,
}

impl Memory {
    /// Take a version down; false where it was there before. `key` is the hash of its texts.
    pub fn note(&mut self, key: &str) -> bool {
        self.seen.insert(key.to_owned())
    }

    pub fn fail(&mut self, texts: Texts) {
        self.failed.push(texts);
        if self.failed.len() > KEPT {
            self.failed.remove(0);
        }
    }

    /// The proposal is a failed one in hardly other words.
    pub fn repeats(&self, texts: &Texts, parent: &Texts) -> bool {
        let mut own = None;
        self.failed.iter().any(|failed| {
            let near = distance(texts, failed);
            near < NEAR && near < OTHER * *own.get_or_insert_with(|| distance(texts, parent))
        })
    }

    /// The most telling lessons, gains and losses, each as often as the other.
    pub fn telling(&self, n: usize) -> Vec<&Lesson> {
        let mut sorted: Vec<&Lesson> = self.lessons.iter().collect();
        sorted.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        if sorted.len() <= n {
            return sorted;
        }
        let worst = sorted.split_off(sorted.len() - n / 2);
        sorted.truncate(n - worst.len());
        sorted.extend(worst);
        sorted
    }
}

/// Largest normalized edit distance over the stages.
fn distance(a: &Texts, b: &Texts) -> f64 {
    let of = |(stage, text): (&String, &String)| b.get(stage).map_or(1.0, |other| text_distance(text, other));
    a.iter().map(of).fold(0.0, f64::max)
}

/// Levenshtein's distance over the length of the longer text; 0 to 1.
pub fn text_distance(a: &str, b: &str) -> f64 {
    if a == b {
        return 0.0;
    }
    if a.len().max(b.len()) <= LONG {
        return 1.0 - strsim::normalized_levenshtein(a, b);
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split_whitespace().collect(), b.split_whitespace().collect());
    let longer = a.len().max(b.len());
    // Whoever differs that much in length alone is far.
    if a.len().abs_diff(b.len()) as f64 > 0.5 * longer as f64 {
        return 1.0;
    }
    strsim::generic_levenshtein(&Words(&a), &Words(&b)) as f64 / longer.max(1) as f64
}

struct Words<'a, 'b>(&'a [&'b str]);

impl<'w, 'b> IntoIterator for &'w Words<'_, 'b> {
    type Item = &'b str;
    type IntoIter = std::iter::Copied<std::slice::Iter<'w, &'b str>>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Texts {
        Texts::from([("s".to_owned(), text.to_owned())])
    }

    #[test]
    fn a_failed_edit_in_hardly_other_words_is_a_repetition_and_another_edit_is_not() {
        let mut memory = Memory::default();
        let parent = texts("Which team should handle this message? {{ input }}");
        memory.fail(texts(
            "Which team should handle this message, please? Name the department only. {{ input }}",
        ));
        let near =
            texts("Which team should handle this message, please? Name the department only! {{ input }}");
        assert!(memory.repeats(&near, &parent));
        let other = texts("Which topic should handle this message? {{ input }}");
        assert!(!memory.repeats(&other, &parent));
        assert!(memory.note("a") && !memory.note("a"));
    }

    #[test]
    fn long_texts_are_compared_by_words() {
        let long = "one two three four ".repeat(60);
        let other = long.replacen("three", "seven", 12);
        let got = text_distance(&long, &other);
        assert!((got - 12.0 / 240.0).abs() < 1e-9, "{got}");
        assert_eq!(text_distance(&long, "short"), 1.0);
    }
}
