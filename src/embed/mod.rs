//! Text to vectors ([`Source`]): by the built-in embedder ([`Embedder`]), a model's folder, or an endpoint. The built-in embedder needs no
//! weights: hashed words and character n-grams, weighted by tf-idf, reduced by a truncated SVD of the corpus it is fitted on (latent semantic
//! analysis, Deerwester et al. 1990).
//!
//! Deterministic: neither the number of threads nor how texts are put into batches changes a bit.

mod features;
mod flat;
pub mod gpu;
mod kept;
mod linear;
mod source;
mod store;

use std::collections::HashMap;

use rayon::prelude::*;

pub use features::words;
pub use flat::{Flat, FlatWriter};
pub use linear::{dot, principal_axes};
pub use source::{Source, Step};

use crate::domain::rng::SplitMix64;
use features::Group;
use linear::{Dense, Sparse};

/// Dimensions of the built-in embedder.
pub const DIMENSIONS: usize = 64;

/// The SVD is fitted on so many texts at most, spread evenly over the corpus.
pub const FIT_TEXTS: usize = 20_000;

/// Most features kept: the most common ones that are in two texts at least.
const VOCABULARY: usize = 40_000;

/// Directions beyond `DIMENSIONS` that sharpen the randomized SVD, and its power iterations (Halko, Martinsson and Tropp 2011).
const OVERSAMPLING: usize = 10;
const POWER_ITERATIONS: usize = 2;

/// Vectors of one length, one after the other, each of length 1 (or 0, of a text that shares nothing with the corpus).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    pub dimensions: usize,
    /// (texts, dimensions)
    pub data: Vec<f32>,
}

impl Vectors {
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.dimensions).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dimensions..(i + 1) * self.dimensions]
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.dimensions.max(1))
    }

    /// The vectors at `places`, in that order.
    pub fn select(&self, places: &[usize]) -> Self {
        Self {
            dimensions: self.dimensions,
            data: places.iter().flat_map(|&i| self.row(i)).copied().collect(),
        }
    }
}

/// Column and idf of each hashed feature, and the idf of the rarest, which stands for all unknown ones.
#[derive(Clone, Debug, Default, PartialEq)]
struct Vocabulary {
    known: HashMap<u64, (u32, f32)>,
    rarest: f32,
}

/// The built-in embedder, fitted on a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedder {
    vocabulary: Vocabulary,
    /// (features, dimensions)
    basis: Dense,
}

impl Embedder {
    /// Fit on a corpus: what is common in it, and along which directions its texts differ.
    pub fn fit<T: AsRef<str> + Sync>(texts: &[T], seed: u64) -> Self {
        let step = texts.len().div_ceil(FIT_TEXTS).max(1);
        let bags: Vec<_> = texts.par_iter().step_by(step).map(|text| features::bag(text.as_ref())).collect();
        let vocabulary = vocabulary(&bags, VOCABULARY);
        let rows = bags.par_iter().map(|bag| weigh(bag, &vocabulary).0).collect();
        let matrix = Sparse::new(rows, vocabulary.known.len());
        let rank = DIMENSIONS.min(bags.len()).min(vocabulary.known.len());
        let mut rng = SplitMix64::new(seed);
        let basis = linear::right_singular(&matrix, rank, OVERSAMPLING, POWER_ITERATIONS, &mut rng);
        Self { vocabulary, basis }
    }

    /// At least one, also of a corpus that says nothing.
    pub fn dimensions(&self) -> usize {
        self.basis.columns.max(1)
    }

    /// One vector a text, in their order.
    pub fn embed<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vectors {
        self.embed_with_fit(texts).0
    }

    /// The vectors, and for each text the share of what it says (of its tf-idf length) that the corpus' main directions can express:
    /// near 0 for what is said nowhere else.
    pub fn embed_with_fit<T: AsRef<str> + Sync>(&self, texts: &[T]) -> (Vectors, Vec<f32>) {
        let dimensions = self.dimensions();
        let (data, shares): (Vec<Vec<f32>>, Vec<f32>) =
            texts.par_iter().map(|text| self.project(text.as_ref())).unzip();
        (Vectors { dimensions, data: data.concat() }, shares)
    }

    fn project(&self, text: &str) -> (Vec<f32>, f32) {
        let (row, length) = weigh(&features::bag(text), &self.vocabulary);
        let mut vector = vec![0.0; self.dimensions()];
        for (column, value) in row {
            for (out, axis) in vector.iter_mut().zip(self.basis.row(column as usize)) {
                *out += value * axis;
            }
        }
        let norm = dot(&vector, &vector).sqrt();
        if norm > 0.0 {
            for v in &mut vector {
                *v /= norm;
            }
        }
        (vector, if length > 0.0 { (norm / length).min(1.0) } else { 0.0 })
    }
}

/// The weighed features of texts without the SVD: what a linear classifier reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms(Vocabulary);

impl Terms {
    /// The most common features of a corpus, at most `most` of them.
    pub fn fit<T: AsRef<str> + Sync>(texts: &[T], most: usize) -> Self {
        let bags: Vec<_> = texts.par_iter().map(|text| features::bag(text.as_ref())).collect();
        Self(vocabulary(&bags, VOCABULARY.min(most)))
    }

    pub fn len(&self) -> usize {
        self.0.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.known.is_empty()
    }

    /// (column, value) by column; a vector of length 1 at most.
    pub fn row(&self, text: &str) -> Vec<(u32, f32)> {
        weigh(&features::bag(text), &self.0).0
    }
}

/// The `most` features worth a column, with their smoothed idf, ln((1 + n) / (1 + df)) + 1.
fn vocabulary(bags: &[features::Bag], most: usize) -> Vocabulary {
    let mut frequency: HashMap<u64, u32> = HashMap::new();
    for feature in bags.iter().flatten() {
        *frequency.entry(feature.hash).or_default() += 1;
    }
    // Of a handful of texts nothing may be in two.
    let least = if frequency.values().any(|df| *df >= 2) { 2 } else { 1 };
    let mut kept: Vec<(u64, u32)> = frequency.into_iter().filter(|(_, df)| *df >= least).collect();
    kept.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    kept.truncate(most);
    let n = bags.len() as f32;
    let idf = |df: u32| ((1.0 + n) / (1.0 + df as f32)).ln() + 1.0;
    let rarest = kept.last().map_or(1.0, |(_, df)| idf(*df));
    let known =
        kept.into_iter().enumerate().map(|(column, (hash, df))| (hash, (column as u32, idf(df)))).collect();
    Vocabulary { known, rarest }
}

/// Sublinear tf-idf, words and characters each brought to their share of length 1. Returns the known features by column, and the length
/// that the vector would have with the unknown ones.
fn weigh(bag: &features::Bag, vocabulary: &Vocabulary) -> (Vec<(u32, f32)>, f32) {
    let mut squares = [0.0_f32; Group::COUNT];
    let mut row: Vec<(u32, f32, Group)> = Vec::with_capacity(bag.len());
    for feature in bag {
        let tf = 1.0 + (feature.count as f32).ln();
        let known = vocabulary.known.get(&feature.hash);
        let value = tf * known.map_or(vocabulary.rarest, |(_, idf)| *idf);
        squares[feature.group as usize] += value * value;
        if let Some((column, _)) = known {
            row.push((*column, value, feature.group));
        }
    }
    let weight = |group: Group| {
        let square = squares[group as usize];
        if square > 0.0 { group.share() / square.sqrt() } else { 0.0 }
    };
    let length =
        Group::ALL.iter().filter(|g| squares[**g as usize] > 0.0).map(|g| g.share().powi(2)).sum::<f32>();
    let mut row: Vec<(u32, f32)> = row.into_iter().map(|(c, v, group)| (c, v * weight(group))).collect();
    row.sort_unstable_by_key(|(column, _)| *column);
    (row, length.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn corpus() -> Vec<String> {
        let topics = [
            [
                "where is my card",
                "the card has not arrived",
                "my new card is late",
                "card delivery still waiting",
            ],
            ["refund my purchase", "i want a refund", "money back for the purchase", "refund not received"],
            ["the app crashes", "app crashes at login", "cannot open the app", "login in the app fails"],
        ];
        (0..20).flat_map(|i| topics.iter().map(move |t| format!("{} {i}", t[i % 4]))).collect()
    }

    #[test]
    fn texts_on_one_matter_are_nearer_than_others_even_with_typos() {
        let embedder = Embedder::fit(&corpus(), 7);
        let v =
            embedder.embed(&["has my card arrived", "teh crad has not arived", "refund the purchase please"]);
        let near = |i, j| dot(v.row(i), v.row(j));
        assert!(near(0, 1) > 0.6 && near(0, 1) > near(0, 2) + 0.3, "{} {}", near(0, 1), near(0, 2));
        assert!(v.rows().all(|row| (dot(row, row) - 1.0).abs() < 1e-5), "length 1");
    }

    #[test]
    fn what_shares_nothing_with_the_corpus_is_zero_and_says_so() {
        let embedder = Embedder::fit(&corpus(), 7);
        let (v, shares) = embedder.embed_with_fit(&["", "\u{4f60}\u{597d}", "where is my card"]);
        assert!(v.row(0).iter().chain(v.row(1)).all(|x| *x == 0.0));
        assert!(shares[0] == 0.0 && shares[1] == 0.0 && shares[2] > 0.5, "{shares:?}");
    }

    #[test]
    fn tiny_corpora_are_no_trouble() {
        for texts in [vec![], vec![""], vec!["?", "!"], vec!["one"], vec!["same", "same"], vec!["a b", "c d"]]
        {
            let embedder = Embedder::fit(&texts, 1);
            let vectors = embedder.embed(&texts);
            assert!(vectors.data.iter().all(|x| x.is_finite()));
            assert_eq!(vectors.data.len(), texts.len() * embedder.dimensions());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn neither_batches_nor_threads_change_a_vector(texts in prop::collection::vec("[a-d ]{0,24}", 1..40), cut in 0..40usize, threads in 1..4usize) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let embedder = Embedder::fit(&texts, 7);
            prop_assert_eq!(&pool.install(|| Embedder::fit(&texts, 7)), &embedder);
            let whole = embedder.embed(&texts);
            let (a, b) = texts.split_at(cut.min(texts.len()));
            let parts = [pool.install(|| embedder.embed(a)).data, embedder.embed(b).data].concat();
            prop_assert_eq!(parts, whole.data);
        }
    }
}
