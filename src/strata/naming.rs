//! Names of clusters from what is said in them more than elsewhere: class-based tf-idf (c-TF-IDF; Grootendorst 2022, BERTopic).

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use crate::domain::words::without_escapes;
use crate::embed::words;

/// Terms kept for each cluster.
pub const TERMS: usize = 8;

/// Words of a name.
const NAME_WORDS: usize = 2;

/// Share of its weight that a term loses when another class has it as heavily. c-TF-IDF tells classes apart already; much more than this
/// and names turn to oddities (`card today` for cards that are declined).
const HELD_BACK: f64 = 0.2;

/// English words that say nothing of a matter. Other languages' are held down by the idf alone.
const STOP_WORDS: &str = "a about after again all also am an and any are aren't as at be been before being but by can can't cannot could \
couldn't did didn't do does doesn't doing don't done down for from get gets getting go going got had has hasn't have haven't having he hello \
her here hers hi him his how i i'd i'll i'm i've if in into is isn't it it's its just keep let like made make makes me might more most much my need \
no not now of off on once one only or other our out over own please really same say says see she should since so some still such take than \
that that's the their them then there there's these they they're thing this those through to too try trying under until up us use used very \
want was wasn't way we well were weren't what what's when where which while who whom why will with won't would wouldn't yet you you're your \
know tell thanks thank think seems able anything something someone im ive dont tried today ago many times lot already anyone however \
happen happened happens happening currently within show shows wondering sure believe look looks looking seem seeing saw given best";

/// A term and its weight in a class.
pub type Weighted = (String, f64);

/// c-TF-IDF over counts by class: W = tf / (words of the class) x ln(1 + A / f), with A the mean number of words in a class and f the
/// term's count over all classes. Each class's terms, heaviest first.
pub fn class_tf_idf(counts: &[BTreeMap<String, usize>]) -> Vec<Vec<Weighted>> {
    let sizes: Vec<usize> = counts.iter().map(|c| c.values().sum()).collect();
    let average = sizes.iter().sum::<usize>() as f64 / counts.len().max(1) as f64;
    let mut everywhere: HashMap<&str, usize> = HashMap::new();
    for (term, count) in counts.iter().flatten() {
        *everywhere.entry(term).or_default() += count;
    }
    counts
        .iter()
        .zip(&sizes)
        .map(|(class, &size)| {
            let mut terms: Vec<Weighted> = class
                .iter()
                .map(|(term, &count)| {
                    let everywhere = everywhere.get(term.as_str()).copied().unwrap_or(count) as f64;
                    (term.clone(), count as f64 / size as f64 * (1.0 + average / everywhere).ln())
                })
                .collect();
            terms.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            terms
        })
        .collect()
}

/// A cluster's name and its heaviest terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    pub name: String,
    pub terms: Vec<String>,
}

/// Texts of each class that the order of a name's words is taken from, spread as they come.
const EXAMPLES: usize = 400;
/// Different words of a class from which on those that were said once are forgotten: in a million texts they are numbers and slips of the keys.
const WORDS_MAX: usize = 200_000;
/// Small words that make one with the word before them: `top up`, `log in`.
const PARTICLES: [&str; 8] = ["up", "in", "off", "out", "on", "down", "back", "over"];

/// What classes of texts say; texts are added some at a time.
#[derive(Clone, Debug, Default)]
pub struct Said {
    counts: Vec<HashMap<String, usize>>,
    /// The words of some texts, all of them and in their order.
    examples: Vec<Vec<Vec<String>>>,
    /// Texts of each class so far.
    texts: Vec<usize>,
}

fn stop_words() -> &'static HashSet<&'static str> {
    static STOP: std::sync::OnceLock<HashSet<&str>> = std::sync::OnceLock::new();
    STOP.get_or_init(|| STOP_WORDS.split_whitespace().collect())
}

fn telling(word: &str) -> bool {
    word.chars().count() > 1 && word.chars().any(char::is_alphabetic) && !stop_words().contains(word)
}

impl Said {
    pub fn new(classes: usize) -> Self {
        Self {
            counts: vec![HashMap::new(); classes],
            examples: vec![Vec::new(); classes],
            texts: vec![0; classes],
        }
    }

    /// Further texts, each with its class.
    pub fn add<T: AsRef<str> + Sync>(&mut self, texts: &[T], classes: &[usize]) {
        let said: Vec<Vec<String>> =
            texts.par_iter().map(|text| words(&without_escapes(text.as_ref())).collect()).collect();
        for (words, &class) in said.into_iter().zip(classes) {
            let counts = &mut self.counts[class];
            for word in words.iter().filter(|word| telling(word)) {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(word.clone(), 1)),
                }
            }
            if counts.len() > WORDS_MAX {
                counts.retain(|_, count| *count > 1);
            }
            if self.examples[class].len() < EXAMPLES {
                self.examples[class].push(words);
            }
            self.texts[class] += 1;
        }
    }

    /// The same of larger classes: `of` is that of each class.
    pub fn grouped(&self, of: &[usize], count: usize) -> Self {
        let mut grouped = Self::new(count);
        for (class, &group) in of.iter().enumerate() {
            for (word, n) in &self.counts[class] {
                *grouped.counts[group].entry(word.clone()).or_default() += n;
            }
            grouped.examples[group].extend(self.examples[class].iter().cloned());
            grouped.texts[group] += self.texts[class];
        }
        grouped
    }

    /// A name for each class. No two say the same, or nearly.
    pub fn names(&self) -> Vec<Naming> {
        let counts: Vec<BTreeMap<String, usize>> =
            self.counts.iter().map(|c| c.iter().map(|(w, n)| (w.clone(), *n)).collect()).collect();
        let weights = class_tf_idf(&counts);
        let mut taken: Vec<Vec<String>> = Vec::new();
        let mut named = Vec::with_capacity(weights.len());
        for (class, weighted) in weights.iter().enumerate() {
            let mut chosen = choose(&distinct(class, &weights), &mut taken, class + 1);
            in_spoken_order(&mut chosen, &self.examples[class]);
            for word in &mut chosen {
                if let Some(particle) = particle(word, &self.examples[class]) {
                    word.push(' ');
                    word.push_str(particle);
                }
            }
            let name = if chosen.is_empty() { format!("cluster {}", class + 1) } else { chosen.join(" ") };
            let terms = weighted.iter().take(TERMS).map(|(term, _)| term.clone()).collect();
            named.push(Naming { name, terms });
        }
        named
    }
}

/// Name `k` clusters of texts.
pub fn name<T: AsRef<str> + Sync>(texts: &[T], assignment: &[usize], k: usize) -> Vec<Naming> {
    let mut said = Said::new(k);
    said.add(texts, assignment);
    said.names()
}

/// The small word that mostly follows a word, and makes another one of it.
fn particle(word: &str, examples: &[Vec<String>]) -> Option<&'static str> {
    let mut times = 0;
    let mut followed = [0_usize; PARTICLES.len()];
    for words in examples {
        for (at, _) in words.iter().enumerate().filter(|(_, w)| *w == word) {
            times += 1;
            let next = words.get(at + 1).and_then(|next| PARTICLES.iter().position(|p| p == next));
            if let Some(next) = next {
                followed[next] += 1;
            }
        }
    }
    let most = followed.iter().enumerate().max_by_key(|(at, n)| (**n, std::cmp::Reverse(*at)));
    most.filter(|(_, n)| **n * 2 > times && **n > 1).map(|(at, _)| PARTICLES[at])
}

/// A class's terms again, those held back that are as heavy in another class: they would not tell the two apart.
fn distinct(class: usize, weights: &[Vec<Weighted>]) -> Vec<String> {
    const CONSIDERED: usize = 40;
    let mut heaviest_elsewhere: HashMap<&str, f64> = HashMap::new();
    for (_, terms) in weights.iter().enumerate().filter(|(other, _)| *other != class) {
        for (term, weight) in terms.iter().take(CONSIDERED) {
            let most = heaviest_elsewhere.entry(term).or_default();
            *most = most.max(*weight);
        }
    }
    let mut terms: Vec<(&str, f64)> = weights[class]
        .iter()
        .take(CONSIDERED)
        .map(|(term, weight)| {
            let elsewhere = heaviest_elsewhere.get(term.as_str()).copied().unwrap_or(0.0);
            (term.as_str(), weight * (1.0 - HELD_BACK * (elsewhere / weight).min(1.0)))
        })
        .collect();
    terms.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    terms.into_iter().map(|(term, _)| term.to_owned()).collect()
}

/// The first words that are no forms of each other; further ones while another name says nearly the same.
fn choose(terms: &[String], taken: &mut Vec<Vec<String>>, number: usize) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    for term in terms {
        if chosen.iter().any(|word| alike(word, term)) {
            continue;
        }
        chosen.push(term.clone());
        if chosen.len() < NAME_WORDS {
            continue;
        }
        if !taken.iter().any(|other| same(other, &chosen)) {
            taken.push(chosen.clone());
            return chosen;
        }
    }
    // Too few words to tell it apart.
    if !chosen.is_empty() && taken.iter().any(|other| same(other, &chosen)) {
        chosen.push(number.to_string());
    }
    taken.push(chosen.clone());
    chosen
}

/// The words of one are forms of the other's.
fn same(a: &[String], b: &[String]) -> bool {
    let within = |a: &[String], b: &[String]| a.iter().all(|word| b.iter().any(|other| alike(word, other)));
    within(a, b) && within(b, a)
}

/// Forms of one word, roughly: a long common beginning, or one within the other (`activate`, `reactivate`).
fn alike(a: &str, b: &str) -> bool {
    if a.contains(b) || b.contains(a) {
        return true;
    }
    let common = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let shorter = a.chars().count().min(b.chars().count());
    common >= 4 && common + 1 >= shorter
}

/// Words in the order in which the class's texts mostly have them: `card arrival`, not `arrival card`.
fn in_spoken_order(chosen: &mut [String], examples: &[Vec<String>]) {
    let mut earlier = vec![0_i64; chosen.len()];
    for words in examples {
        let places: Vec<Option<usize>> = chosen.iter().map(|c| words.iter().position(|w| w == c)).collect();
        for (i, a) in places.iter().enumerate() {
            for b in places.iter().filter_map(|b| *b) {
                if let Some(a) = a {
                    earlier[i] += (b as i64 - *a as i64).signum();
                }
            }
        }
    }
    let mut order: Vec<(i64, String)> = earlier.into_iter().zip(chosen.iter().cloned()).collect();
    order.sort_by_key(|(wins, _)| std::cmp::Reverse(*wins));
    for (place, (_, word)) in chosen.iter_mut().zip(order) {
        *place = word;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        documents: Vec<Vec<String>>,
        /// Weight of each term in each class.
        weights: Vec<BTreeMap<String, f64>>,
    }

    #[test]
    fn weights_are_bertopics() {
        let r: Reference =
            serde_json::from_str(include_str!("../../tests/fixtures/strata/ctfidf.json")).unwrap();
        let counts: Vec<BTreeMap<String, usize>> = r
            .documents
            .iter()
            .map(|class| {
                let mut counts = BTreeMap::new();
                for word in class.iter().flat_map(|d| d.split_whitespace()) {
                    *counts.entry(word.to_owned()).or_default() += 1;
                }
                counts
            })
            .collect();
        for (got, want) in class_tf_idf(&counts).iter().zip(&r.weights) {
            assert_eq!(got.len(), want.len());
            for (term, weight) in got {
                assert!((weight - want[term]).abs() < 1e-9, "{term}");
            }
        }
    }

    fn names(texts: &[&str], assignment: &[usize], k: usize) -> Vec<String> {
        name(texts, assignment, k).into_iter().map(|n| n.name).collect()
    }

    #[test]
    fn what_is_left_of_escape_sequences_is_in_no_name() {
        let texts = [
            "\u{1b}[2Jcard \u{1b}[31marrival",
            "\u{1b}[2Jcard \u{1b}]0;evil\u{7}arrival",
            "refund please",
            "refund me",
        ];
        let got = name(&texts, &[0, 0, 1, 1], 2);
        assert_eq!(got[0].name, "card arrival");
        assert_eq!(got[0].terms, ["arrival", "card"]);
    }

    #[test]
    fn names_say_what_is_said_here_and_not_elsewhere() {
        let texts =
            ["my card arrival is late", "card arrival tracking", "payment refused", "the payments fail"];
        assert_eq!(names(&texts, &[0, 0, 1, 1], 2)[0], "card arrival");
        let texts = ["refund please", "refund refunds", "transfer pending", "transfers pending"];
        let got = names(&texts, &[0, 0, 1, 1], 2);
        assert!(!got[0].contains("refunds") && got[1] == "transfer pending", "{got:?}");
    }

    #[test]
    fn a_word_keeps_the_small_word_that_makes_it_another_one() {
        let texts =
            ["auto top up failed", "the auto top-up", "top up by card", "close my account", "account closed"];
        let got = names(&texts, &[0, 0, 0, 1, 1], 2);
        assert_eq!(got[0], "auto top up");
    }

    #[test]
    fn no_two_names_say_nearly_the_same() {
        let terms = |words: &str| -> Vec<String> { words.split(' ').map(str::to_owned).collect() };
        let mut taken = Vec::new();
        assert_eq!(choose(&terms("transfer pending bank"), &mut taken, 1), ["transfer", "pending"]);
        assert_eq!(
            choose(&terms("pending transfers friend"), &mut taken, 2),
            ["pending", "transfers", "friend"]
        );
        assert_eq!(choose(&terms("transfer bank"), &mut taken, 3), ["transfer", "bank"]);
    }

    #[test]
    fn texts_that_are_added_in_parts_and_put_together_are_named_alike() {
        let texts = ["card arrival late", "card arrival", "refund please shop", "shop refund"];
        let mut said = Said::new(4);
        said.add(&texts[..1], &[0]);
        said.add(&texts[1..], &[1, 2, 3]);
        assert_eq!(said.grouped(&[0, 0, 1, 1], 2).names(), name(&texts, &[0, 0, 1, 1], 2));
    }

    #[test]
    fn no_two_clusters_share_a_name() {
        let got = names(&["same words", "same words", "same words", "", "12 34"], &[0, 1, 2, 3, 4], 5);
        let distinct: HashSet<&String> = got.iter().collect();
        assert_eq!(distinct.len(), 5, "{got:?}");
        assert_eq!((got[3].as_str(), got[4].as_str()), ("cluster 4", "cluster 5"));
    }
}
