//! Names of clusters from what is said in them more than elsewhere: class-based tf-idf (c-TF-IDF; Grootendorst 2022, BERTopic).

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use crate::embed::words;

/// Terms kept for each cluster.
pub const TERMS: usize = 8;

/// Words of a name.
const NAME_WORDS: usize = 2;

/// English words that say nothing of a matter. Other languages' are held down by the idf alone.
const STOP_WORDS: &str = "a about after again all also am an and any are aren't as at be been before being but by can can't cannot could \
couldn't did didn't do does doesn't doing don't done down for from get gets getting go going got had has hasn't have haven't having he hello \
her here hers hi him his how i i'd i'll i'm i've if in into is isn't it it's its just keep let like made make makes me might more most much my need \
no not now of off on once one only or other our out over own please really same say says see she should since so some still such take than \
that that's the their them then there there's these they they're thing this those through to too try trying under until up us use used very \
want was wasn't way we well were weren't what what's when where which while who whom why will with won't would wouldn't yet you you're your \
know tell thanks thank think seems able anything something someone im ive dont";

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

/// Name `k` clusters of texts. No two names are the same.
pub fn name<T: AsRef<str> + Sync>(texts: &[T], assignment: &[usize], k: usize) -> Vec<Naming> {
    let stop: HashSet<&str> = STOP_WORDS.split_whitespace().collect();
    let told: Vec<Vec<String>> = texts
        .par_iter()
        .map(|text| {
            let telling = |w: &String| {
                w.chars().count() > 1 && w.chars().any(char::is_alphabetic) && !stop.contains(w.as_str())
            };
            words(text.as_ref()).filter(telling).collect()
        })
        .collect();
    let mut counts = vec![BTreeMap::<String, usize>::new(); k];
    for (words, &cluster) in told.iter().zip(assignment) {
        for word in words {
            *counts[cluster].entry(word.clone()).or_default() += 1;
        }
    }
    let weights = class_tf_idf(&counts);
    let mut taken: HashSet<Vec<String>> = HashSet::new();
    let mut named = Vec::with_capacity(k);
    for (cluster, weighted) in weights.iter().enumerate() {
        let mut chosen = choose(&distinct(cluster, &weights), &mut taken, cluster + 1);
        in_spoken_order(&mut chosen, &told, assignment, cluster);
        let name = if chosen.is_empty() { format!("cluster {}", cluster + 1) } else { chosen.join(" ") };
        let terms = weighted.iter().take(TERMS).map(|(term, _)| term.clone()).collect();
        named.push(Naming { name, terms });
    }
    named
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
            (term.as_str(), weight * (1.0 - 0.6 * (elsewhere / weight).min(1.0)))
        })
        .collect();
    terms.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    terms.into_iter().map(|(term, _)| term.to_owned()).collect()
}

/// The first words that are no forms of each other; further ones while the name is taken.
fn choose(terms: &[String], taken: &mut HashSet<Vec<String>>, number: usize) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    for term in terms {
        if chosen.iter().any(|word| alike(word, term)) {
            continue;
        }
        chosen.push(term.clone());
        let mut words = chosen.clone();
        words.sort();
        if chosen.len() >= NAME_WORDS && taken.insert(words) {
            return chosen;
        }
    }
    // Too few words to tell it apart.
    let mut words = chosen.clone();
    words.sort();
    if !chosen.is_empty() && !taken.insert(words) {
        chosen.push(number.to_string());
    }
    chosen
}

/// Forms of one word, roughly: a long common beginning.
fn alike(a: &str, b: &str) -> bool {
    let common = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let shorter = a.chars().count().min(b.chars().count());
    common >= 4 && common + 1 >= shorter
}

/// Words in the order in which the cluster's texts mostly have them: `card arrival`, not `arrival card`.
fn in_spoken_order(chosen: &mut [String], told: &[Vec<String>], assignment: &[usize], cluster: usize) {
    let mut earlier = vec![0_i64; chosen.len()];
    for (words, _) in told.iter().zip(assignment).filter(|(_, c)| **c == cluster) {
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
    fn names_say_what_is_said_here_and_not_elsewhere() {
        let texts =
            ["my card arrival is late", "card arrival tracking", "payment refused", "the payments fail"];
        assert_eq!(names(&texts, &[0, 0, 1, 1], 2)[0], "card arrival");
        let texts = ["refund please", "refund refunds", "transfer pending", "transfers pending transfer"];
        let got = names(&texts, &[0, 0, 1, 1], 2);
        assert!(!got[0].contains("refunds") && got[1] == "transfer pending", "{got:?}");
    }

    #[test]
    fn no_two_clusters_share_a_name() {
        let got = names(&["same words", "same words", "same words", "", "12 34"], &[0, 1, 2, 3, 4], 5);
        let distinct: HashSet<&String> = got.iter().collect();
        assert_eq!(distinct.len(), 5, "{got:?}");
        assert_eq!((got[3].as_str(), got[4].as_str()), ("cluster 4", "cluster 5"));
    }
}
