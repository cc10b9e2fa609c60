//! Worked examples for an input: the nearest by embedding, by words (BM25) or by both (reciprocal rank fusion), better ones first by what
//! they did for rows of the same stratum, unlike each other if wanted, within a number and a length.
//!
//! Exact and deterministic: neither the order of the store nor the number of threads changes what is found.

pub mod bm25;
pub mod choose;
pub mod nearest;
mod open;
pub mod store;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::example::{Example, Order, Ranking, Retrieval, Shown};
use crate::embed::gpu::{self, Table};
use crate::embed::{Embedder, Source, Vectors, dot, words};
use bm25::Bm25;
pub use open::{EMBEDDER, MODEL, embedder_of, open};

/// Of the built-in embedder.
const SEED: u64 = 7;

/// The built-in embedder, fitted on these texts in whatever order they come.
pub fn fit<'t>(texts: impl IntoIterator<Item = &'t str>) -> Embedder {
    let mut texts: Vec<&str> = texts.into_iter().collect();
    texts.sort_unstable();
    texts.dedup();
    Embedder::fit(&texts, SEED)
}

/// Examples that a ranking hands on, and as many times the shots at least.
const DEPTH: usize = 50;
const DEPTH_PER_SHOT: usize = 4;

/// Bytes of a token, as tokens are reckoned here; no tokenizer is at hand for a model behind an endpoint.
const BYTES_PER_TOKEN: usize = 4;

/// From this share of words in common (Jaccard) on an example says nearly what the input says: it may be used, but is counted.
pub const NEAR_DUPLICATE: f64 = 0.9;

/// Words in common, of all words of both.
fn overlap(a: &str, b: &str) -> f64 {
    let of = |text: &str| words(text).collect::<BTreeSet<String>>();
    let (a, b) = (of(a), of(b));
    let common = a.intersection(&b).count();
    let all = a.len() + b.len() - common;
    if all == 0 { 0.0 } else { common as f64 / all as f64 }
}

/// Tokens that an example takes in a prompt, reckoned.
pub fn tokens(example: &Example) -> usize {
    (example.input.len() + example.answer.len()).div_ceil(BYTES_PER_TOKEN) + 8
}

/// The same text but for white space around it and case.
pub fn same_text(a: &str, b: &str) -> bool {
    a.trim() == b.trim() || a.trim().to_lowercase() == b.trim().to_lowercase()
}

/// Examples of one stage, ready to be searched.
///
/// Disabled ones are ranked with the others and then passed over: taking one out changes what is found for the inputs that it was found
/// for, and for no other.
#[derive(Clone, Debug)]
pub struct Index {
    /// By id.
    examples: Arc<Vec<Arc<Example>>>,
    embedder: Arc<Source>,
    vectors: Arc<Vectors>,
    /// The vectors on the GPU that this process was lent.
    on_gpu: Option<Arc<Table>>,
    words: Arc<Bm25>,
}

/// What examples are wanted for.
pub struct Query<'a> {
    pub text: &'a str,
    pub stratum: Option<&'a str>,
    /// Examples made of this row are not shown.
    pub row: Option<&'a str>,
    /// These are not shown either.
    pub skip: Option<&'a (dyn Fn(&Example) -> bool + Sync)>,
}

impl<'a> Query<'a> {
    pub fn text(text: &'a str) -> Self {
        Self { text, stratum: None, row: None, skip: None }
    }
}

/// An example that was found, and why.
#[derive(Clone, Debug)]
pub struct Hit {
    pub example: Arc<Example>,
    pub why: Shown,
}

impl Index {
    /// # Errors
    /// Why the embedder failed, in words, with its name.
    pub fn new(
        examples: impl IntoIterator<Item = Arc<Example>>,
        embedder: Arc<Source>,
    ) -> Result<Self, String> {
        let mut examples: Vec<Arc<Example>> = examples.into_iter().collect();
        examples.sort_by(|a, b| a.id.cmp(&b.id));
        examples.dedup_by(|a, b| a.id == b.id);
        let texts: Vec<&str> = examples.iter().map(|e| e.input.as_str()).collect();
        let vectors = Arc::new(embedder.embed_with_fit(&texts)?.0);
        let words = Arc::new(Bm25::new(texts.iter().copied()));
        let on_gpu = gpu::lent(vectors.data.len()).and_then(|gpu| gpu.table(&vectors, None)).map(Arc::new);
        Ok(Self { examples: Arc::new(examples), embedder, vectors, on_gpu, words })
    }

    /// The same texts and vectors with other figures of what the examples did, or some of them disabled: `of` gives the new example of
    /// each.
    #[must_use]
    pub fn with_examples(&self, of: &dyn Fn(&Arc<Example>) -> Arc<Example>) -> Self {
        Self { examples: Arc::new(self.examples.iter().map(of).collect()), ..self.clone() }
    }

    pub fn embedder(&self) -> &Arc<Source> {
        &self.embedder
    }

    /// Have a model embed these inputs together, which costs less than each when it is asked for.
    ///
    /// # Errors
    /// As [`Self::retrieve`].
    pub fn prepare(&self, texts: &[&str]) -> Result<(), String> {
        if self.embedder.builtin().is_none() {
            self.embedder.embed(texts, &mut |_| true)?;
        }
        Ok(())
    }

    /// Disabled ones among them.
    pub fn examples(&self) -> &[Arc<Example>] {
        &self.examples
    }

    /// The nearest by the vectors: on the GPU where they are there and it can tell, else on the CPU; the same.
    fn near(&self, vector: &[f32], depth: usize, keep: &(dyn Fn(usize) -> bool + Sync)) -> nearest::Ranked {
        let on_gpu = self.on_gpu.as_ref().and_then(|table| {
            let gpu = gpu::lent(self.vectors.data.len())?;
            nearest::top_on((gpu, table), &self.vectors, vector, depth, keep)
        });
        on_gpu.unwrap_or_else(|| nearest::top(&self.vectors, vector, depth, keep))
    }

    /// The examples for an input, in the order in which they are to be shown.
    ///
    /// # Errors
    /// Why the embedder failed, in words, with its name.
    pub fn retrieve(&self, query: &Query<'_>, how: &Retrieval) -> Result<Vec<Hit>, String> {
        if self.examples.is_empty() {
            return Ok(Vec::new());
        }
        let keep = |place: usize| {
            self.examples.get(place).is_some_and(|e| {
                let own = query.row.is_some() && e.row.as_deref() == query.row;
                !own && !query.skip.is_some_and(|skip| skip(e))
            })
        };
        let shown = |place: usize| self.examples.get(place).is_some_and(|e| e.enabled);
        let (asked, said) = self.embedder.embed_with_fit(&[query.text])?;
        let vector = if asked.is_empty() { &[][..] } else { asked.row(0) };
        if vector.len() != self.vectors.dimensions {
            return Err(format!(
                "the embedder `{}` gave {} numbers for an input, and {} for the examples: is it still the same model?",
                self.embedder.name(),
                vector.len(),
                self.vectors.dimensions
            ));
        }
        // The cosine with all that the input says, also with what the store's main directions cannot express.
        let said = said.first().copied().unwrap_or(0.0);
        let similarity = |place: usize| said * dot(self.vectors.row(place), vector);
        let by_words = match how.ranking {
            Ranking::Nearest => Default::default(),
            Ranking::Bm25 | Ranking::Fused => self.words.scores(query.text),
        };
        let worded = |depth: usize| {
            let kept = by_words.iter().map(|(i, s)| (*i, *s)).filter(|(i, _)| keep(*i));
            nearest::top_of(kept, depth)
        };
        let near = |depth: usize| self.near(vector, depth, &keep);
        let ranked = |depth: usize| -> nearest::Ranked {
            match how.ranking {
                Ranking::Nearest => near(depth),
                Ranking::Bm25 => {
                    let ranked = worded(depth);
                    let best = ranked.first().map_or(1.0, |(_, score)| score.max(f32::MIN_POSITIVE));
                    ranked.into_iter().map(|(place, score)| (place, score / best)).collect()
                }
                Ranking::Fused => {
                    let places =
                        |ranked: nearest::Ranked| ranked.into_iter().map(|(i, _)| i).collect::<Vec<usize>>();
                    let (near, words) = (places(near(depth)), places(worded(depth)));
                    nearest::top_of(choose::fuse(&[&near, &words]).into_iter(), depth)
                }
            }
        };
        let mut depth = DEPTH.max(DEPTH_PER_SHOT * how.shots);
        let mut found = ranked(depth);
        // Where most of the nearest are disabled, those behind them are looked at as well.
        while found.len() == depth && found.iter().filter(|(place, _)| shown(*place)).count() < how.shots {
            depth *= 4;
            found = ranked(depth);
        }
        found.retain(|(place, _)| shown(*place));
        found.retain(|(place, _)| similarity(*place) >= how.threshold);
        let value = |place: usize| self.examples[place].value(query.stratum);
        let weighted: Vec<f32> = found
            .iter()
            .map(|(place, relevance)| {
                let value = if how.lift_weight == 0.0 { 0.0 } else { value(*place) as f32 };
                relevance + how.lift_weight * value
            })
            .collect();
        let likeness =
            |a: usize, b: usize| dot(self.vectors.row(found[a].0), self.vectors.row(found[b].0)).max(0.0);
        let mut room = if how.max_tokens == 0 { usize::MAX } else { how.max_tokens };
        let mut fits = |at: usize| {
            let needs = tokens(&self.examples[found[at].0]);
            let fits = needs <= room;
            if fits {
                room -= needs;
            }
            fits
        };
        let taken = choose::diverse(&weighted, how.shots, how.diversity, &likeness, &mut fits);
        let mut hits: Vec<Hit> = taken
            .into_iter()
            .map(|at| {
                let place = found[at].0;
                Hit {
                    example: self.examples[place].clone(),
                    why: Shown {
                        id: self.examples[place].id.clone(),
                        score: f64::from(weighted[at]),
                        similarity: f64::from(similarity(place)),
                        bm25: by_words.get(&place).map_or(0.0, |s| f64::from(*s)),
                        value: value(place),
                        near_duplicate: overlap(&self.examples[place].input, query.text) >= NEAR_DUPLICATE,
                    },
                }
            })
            .collect();
        if how.order == Order::Last {
            hits.reverse();
        }
        Ok(hits)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::domain::example::Effect;
    use proptest::prelude::*;

    pub fn example(row: &str, input: &str, answer: &str) -> Example {
        Example {
            format: 1,
            id: Example::id_of("route", input, answer),
            stage: "route".into(),
            input: input.into(),
            answer: answer.into(),
            row: Some(row.into()),
            enabled: true,
            ..Example::default()
        }
    }

    fn store() -> Vec<Example> {
        [
            ("r1", "my card is lost", "cards"),
            ("r2", "the card has not arrived", "cards"),
            ("r3", "i want a refund", "payments"),
            ("r4", "refund for the broken phone", "payments"),
            ("r5", "the app crashes", "app"),
        ]
        .map(|(row, input, answer)| example(row, input, answer))
        .to_vec()
    }

    fn index(examples: &[Example]) -> Index {
        let embedder = fit(store().iter().map(|e| e.input.as_str()));
        Index::new(examples.iter().cloned().map(Arc::new), Arc::new(embedder.into())).unwrap()
    }

    fn found(index: &Index, query: &Query<'_>, how: &Retrieval) -> Vec<Hit> {
        index.retrieve(query, how).unwrap()
    }

    fn rows(hits: &[Hit]) -> Vec<&str> {
        hits.iter().filter_map(|h| h.example.row.as_deref()).collect()
    }

    #[test]
    fn the_most_alike_stands_next_to_the_input_and_a_row_never_sees_itself() {
        let index = index(&store());
        for ranking in [Ranking::Nearest, Ranking::Bm25, Ranking::Fused] {
            let how = Retrieval { shots: 2, ranking, ..Retrieval::default() };
            let asked = || Query::text("refund for a broken phone");
            let hits = found(&index, &asked(), &how);
            // Of five texts the embedding tells little.
            if ranking == Ranking::Bm25 {
                assert_eq!(hits.last().and_then(|h| h.example.row.as_deref()), Some("r4"), "{ranking:?}");
            }
            let first = Retrieval { order: Order::First, ..how.clone() };
            let mut mirrored = rows(&hits);
            mirrored.reverse();
            assert_eq!(rows(&found(&index, &asked(), &first)), mirrored);
            let own = Query { row: Some("r4"), ..Query::text("refund for the broken phone") };
            assert!(!rows(&found(&index, &own, &how)).contains(&"r4"), "{ranking:?}");
        }
    }

    #[test]
    fn nothing_is_used_below_the_threshold_or_beyond_the_tokens() {
        let index = index(&store());
        let none = Retrieval { threshold: 0.9, ..Retrieval::default() };
        assert!(found(&index, &Query::text("quite another matter altogether"), &none).is_empty());
        let short = Retrieval { max_tokens: 15, shots: 5, ..Retrieval::default() };
        let hits = found(&index, &Query::text("the app crashes"), &short);
        assert_eq!(rows(&hits), ["r5"]);
        assert!(hits[0].why.near_duplicate);
    }

    #[test]
    fn what_broke_rows_of_the_stratum_comes_later_there_and_nowhere_else() {
        let mut examples = store();
        examples[3].effect.insert("phones".into(), Effect { uses: 40, fixed: 0, broken: 30 });
        examples[3].effect.insert("others".into(), Effect { uses: 60, fixed: 50, broken: 0 });
        let index = index(&examples);
        let how = Retrieval { shots: 1, lift_weight: 1.0, ..Retrieval::default() };
        let of = |stratum: Option<&str>| {
            let query = Query { stratum, ..Query::text("refund for the broken phone please") };
            found(&index, &query, &how)[0].example.row.clone()
        };
        assert_ne!(of(Some("phones")).as_deref(), Some("r4"));
        assert_eq!(of(Some("others")).as_deref(), Some("r4"));
    }

    #[test]
    fn an_empty_store_and_an_empty_question_find_nothing_amiss() {
        let how = Retrieval::default();
        assert!(found(&index(&[]), &Query::text("x"), &how).is_empty());
        let _ = found(&index(&store()), &Query::text(""), &how);
        let zero = Retrieval { shots: 0, ..how };
        assert!(found(&index(&store()), &Query::text("card"), &zero).is_empty());
    }

    #[test]
    fn behind_many_that_are_disabled_the_next_ones_are_found() {
        let many: Vec<Example> = (0..300)
            .map(|i| Example {
                enabled: i >= 290,
                ..example(&format!("r{i}"), &format!("my card is lost {i}"), "cards")
            })
            .collect();
        for ranking in [Ranking::Nearest, Ranking::Bm25, Ranking::Fused] {
            let how = Retrieval { shots: 3, ranking, ..Retrieval::default() };
            let hits = found(&index(&many), &Query::text("my card is lost"), &how);
            assert_eq!(hits.len(), 3, "{ranking:?}");
            assert!(hits.iter().all(|hit| hit.example.enabled));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Rankings, weights of words and vectors are those of the whole store, whatever of it is disabled.
        #[test]
        fn an_example_taken_out_changes_only_what_it_was_found_for(
            words in prop::collection::vec("(card|refund|app|phone|late|lost)( (card|refund|app|phone|late|lost|the|my|a)){0,5}", 70..90),
            out in 0..70usize,
            ask in "(card|refund|app|phone)( (card|late|app|my|the)){0,4}",
            ranking in prop::sample::select(vec![Ranking::Nearest, Ranking::Bm25, Ranking::Fused]),
            diversity in prop::sample::select(vec![0.0_f32, 0.4]),
        ) {
            let all: Vec<Example> =
                words.iter().enumerate().map(|(i, text)| example(&format!("r{i}"), &format!("{text} {i}"), "x")).collect();
            let mut less = all.clone();
            less[out].enabled = false;
            let how = Retrieval { shots: 4, ranking, diversity, ..Retrieval::default() };
            let shown = |of: &[Example]| -> Vec<Shown> {
                found(&index(of), &Query::text(&ask), &how).into_iter().map(|hit| hit.why).collect()
            };
            let (before, after) = (shown(&all), shown(&less));
            if before.iter().any(|shown| shown.id == all[out].id) {
                prop_assert!(after.iter().all(|shown| shown.id != all[out].id));
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn the_order_of_the_store_changes_nothing(order in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle(), text in "(card|refund|app|phone|the)( (card|refund|app|phone|the)){0,3}", diversity in 0.0..1.0f32, shots in 1..5usize) {
            let all = store();
            let shuffled: Vec<Example> = order.iter().map(|&i| all[i].clone()).collect();
            let how = Retrieval { shots, diversity, ..Retrieval::default() };
            let a: Vec<Shown> = found(&index(&all), &Query::text(&text), &how).into_iter().map(|h| h.why).collect();
            let b: Vec<Shown> = found(&index(&shuffled), &Query::text(&text), &how).into_iter().map(|h| h.why).collect();
            prop_assert_eq!(a, b);
        }
    }
}
