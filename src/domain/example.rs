//! Worked examples: what a stage was given and should answer, where it comes from, and what it did for other rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::candidate::ModelRef;

/// Evidence that is kept of an example, row by row; further rows are only counted.
pub const FOUND_MAX: usize = 20;

/// Version of an example's line.
pub const EXAMPLE_FORMAT: u32 = 1;

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The row's golden answer, or the stage's own gold.
    #[default]
    Gold,
    /// What the pipeline itself said on a row that it got right.
    Trace,
    /// A person wrote or corrected it.
    Person,
}

impl Source {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gold => "gold",
            Self::Trace => "trace",
            Self::Person => "person",
        }
    }
}

/// What examples did on rows that they were retrieved for, each compared with the same prompt without them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Rows that they were shown for.
    pub uses: u32,
    /// Of these, wrong without and right with.
    pub fixed: u32,
    /// Right without and wrong with.
    pub broken: u32,
}

/// Rows for which as much is assumed as is known from elsewhere, before an example's own rows speak.
pub const PRIOR_ROWS: f64 = 4.0;

impl Effect {
    pub fn add(&mut self, other: Self) {
        self.uses += other.uses;
        self.fixed += other.fixed;
        self.broken += other.broken;
    }

    /// `(fixed - broken + m * before) / (uses + m)` with m = [`PRIOR_ROWS`]: the difference of the posterior means of two Beta-binomial
    /// models (Gelman et al. 2013, chapter 2) whose prior means differ by `before`. In -1..1.
    pub fn value(self, before: f64) -> f64 {
        let net = f64::from(self.fixed) - f64::from(self.broken);
        (net + PRIOR_ROWS * before) / (f64::from(self.uses) + PRIOR_ROWS)
    }
}

/// A row that the example helped to answer: it was in the smallest set that turned the answer to gold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub row: String,
    /// What was answered without examples.
    pub wrong: String,
    pub gold: String,
    /// `neighbours`, `same answer`, `own traces`.
    pub proposal: String,
    /// Sets of examples that were tried for the row.
    pub tried: u32,
    /// Ids of the smallest set, this one among them.
    pub set: Vec<String>,
    /// The sets that were proposed, in order, with whether they turned the answer; what followed made the last one smaller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proposals: Vec<(String, bool)>,
}

/// A worked example of one stage: a line of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// [`EXAMPLE_FORMAT`].
    #[serde(default)]
    pub format: u32,
    /// Hash of stage, input and answer, as they were when it was made.
    #[serde(default)]
    pub id: String,
    pub stage: String,
    /// What the pipeline was given.
    pub input: String,
    /// What the stage should say.
    pub answer: String,
    /// Outputs of the stages before it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// The row's fields: templates may name them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stratum: Option<String>,
    /// The row that it is made of; it is never shown for that row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    #[serde(default)]
    pub source: Source,
    /// The run that found it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// How it was found; at most [`FOUND_MAX`] rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
    /// Rows for which it was in the smallest set.
    #[serde(default)]
    pub found_rows: u32,
    /// By stratum (empty: rows without one).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub effect: BTreeMap<String, Effect>,
    #[serde(default = "yes")]
    pub enabled: bool,
}

const fn yes() -> bool {
    true
}

impl Example {
    /// The id of an example with this content.
    pub fn id_of(stage: &str, input: &str, answer: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [stage, input, answer] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().as_str()[..12].to_owned()
    }

    /// Over all strata.
    pub fn total(&self) -> Effect {
        let mut total = Effect::default();
        self.effect.values().for_each(|effect| total.add(*effect));
        total
    }

    /// What it is worth in a stratum: its rows there, drawn towards all its rows, and these towards 0.
    pub fn value(&self, stratum: Option<&str>) -> f64 {
        let overall = self.total().value(0.0);
        match self.effect.get(stratum.unwrap_or_default()) {
            Some(here) => here.value(overall),
            None => overall,
        }
    }

    pub fn note(&mut self, found: Found) {
        self.found_rows += 1;
        if self.found.len() < FOUND_MAX {
            self.found.push(found);
        }
    }
}

/// By what examples are found for an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranking {
    /// Cosine of the embeddings.
    Nearest,
    /// Words in common.
    Bm25,
    /// Both, by reciprocal rank fusion.
    #[default]
    Fused,
}

impl Ranking {
    pub const ALL: [(&'static str, Self); 3] =
        [("nearest", Self::Nearest), ("bm25", Self::Bm25), ("fused", Self::Fused)];
}

/// Where the example most like the input stands among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Next to the input.
    #[default]
    Last,
    First,
}

/// How examples stand in the prompt of a template that does not lay them out itself (by `examples`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Before the input, in its place in the template: `Input: ...`, `Answer: ...`, and at the end the row's own.
    #[default]
    Text,
    /// As turns of user and assistant before the question.
    Turns,
    /// As text, in place of the whole template: the examples alone say what to do. A row without examples is asked by the template.
    Bare,
}

impl Form {
    pub const ALL: [(&'static str, Self); 3] =
        [("text", Self::Text), ("turns", Self::Turns), ("bare", Self::Bare)];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Turns => "turns",
            Self::Bare => "bare",
        }
    }

    /// What a person reads of it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Text => "text before the input",
            Self::Turns => "turns of a conversation",
            Self::Bare => "text in place of the prompt",
        }
    }
}

/// How examples are chosen for a row and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retrieval {
    /// At most so many.
    pub shots: usize,
    pub ranking: Ranking,
    /// Examples less like the input than this cosine are not used.
    pub threshold: f32,
    /// 0: only how like they are to the input counts; 1: only how unlike each other.
    pub diversity: f32,
    /// How much lift minus harm in the row's stratum counts beside likeness.
    pub lift_weight: f32,
    /// Tokens of all examples together, reckoned at four bytes each; 0: no limit.
    pub max_tokens: usize,
    pub order: Order,
    pub form: Form,
}

impl Default for Retrieval {
    fn default() -> Self {
        Self {
            shots: 5,
            ranking: Ranking::Fused,
            threshold: 0.0,
            diversity: 0.0,
            lift_weight: 0.5,
            max_tokens: 0,
            order: Order::Last,
            form: Form::Text,
        }
    }
}

/// A stage's examples: a frozen store by content, and how it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageExamples {
    /// The store's file, absolute.
    pub path: String,
    /// BLAKE3 of its bytes.
    pub hash: String,
    pub retrieval: Retrieval,
    /// What turns texts into vectors, as it was when the store was made. None: the built-in embedder, fitted on the store's own inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedder: Option<StoreEmbedder>,
}

/// What turns the texts of a store into vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StoreEmbedder {
    /// An encoder's folder or an endpoint, frozen.
    Model(Box<ModelRef>),
    /// The built-in embedder, as it was fitted.
    Fitted(KeptFile),
}

impl StoreEmbedder {
    /// Of its content.
    pub fn hash(&self) -> &str {
        match self {
            Self::Model(model) => &model.hash,
            Self::Fitted(file) => &file.hash,
        }
    }

    pub fn model(&self) -> Option<&ModelRef> {
        match self {
            Self::Model(model) => Some(model),
            Self::Fitted(_) => None,
        }
    }
}

/// A file by content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Absolute.
    pub path: String,
    /// BLAKE3 of its bytes.
    pub hash: String,
}

/// An example that was shown, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shown {
    pub id: String,
    /// What it was ranked by.
    pub score: f64,
    /// Cosine with the input.
    pub similarity: f64,
    pub bm25: f64,
    /// Lift minus harm in the row's stratum, shrunk.
    pub value: f64,
    /// It says nearly what the input says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub near_duplicate: bool,
}

/// Which examples of a store, and in what order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExampleQuery {
    /// Words that must stand in input, answer, stage or stratum, any case; `is:off`, `is:edited`, `stage:NAME`, `stratum:NAME`.
    pub text: String,
    /// `lift` (what did most; also where nothing is said), `harm`, `uses`, `found`, `stratum`, `answer`.
    pub sort: String,
    pub offset: usize,
    pub count: usize,
}

/// A window on a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExamplePage {
    pub store: String,
    /// Of those that fit.
    pub total: usize,
    #[serde(default)]
    pub offset: usize,
    pub examples: Vec<Example>,
    /// Ids that something was decided about.
    pub edited: Vec<String>,
}

/// What is retrieved for an input, in the order in which it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FoundExamples {
    pub store: String,
    pub stage: String,
    pub hits: Vec<(Example, Shown)>,
}

/// What a person decided about an example of a run's store. Each replaces what was decided before about the same example.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExampleEdit {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// It stands for these as well, which are no longer shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub merges: Vec<String>,
}

impl ExampleEdit {
    pub fn says_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A store as people left it: `edits` by example id.
pub fn edited(examples: &[Example], edits: &BTreeMap<String, ExampleEdit>) -> Vec<Example> {
    let merged: BTreeMap<&str, &str> = edits
        .iter()
        .flat_map(|(into, edit)| edit.merges.iter().map(move |gone| (gone.as_str(), into.as_str())))
        .collect();
    let mut out: Vec<Example> = Vec::with_capacity(examples.len());
    for example in examples.iter().filter(|e| !merged.contains_key(e.id.as_str())) {
        let mut example = example.clone();
        if let Some(edit) = edits.get(&example.id) {
            for gone in examples.iter().filter(|e| edit.merges.contains(&e.id)) {
                example.found_rows += gone.found_rows;
                let room = FOUND_MAX.saturating_sub(example.found.len());
                example.found.extend(gone.found.iter().take(room).cloned());
                for (stratum, effect) in &gone.effect {
                    example.effect.entry(stratum.clone()).or_default().add(*effect);
                }
            }
            if let Some(enabled) = edit.enabled {
                example.enabled = enabled;
            }
            if edit.input.is_some() || edit.answer.is_some() {
                example.source = Source::Person;
                if let Some(input) = &edit.input {
                    example.input.clone_from(input);
                    // The row's fields say something else now; the text form needs none.
                    example.fields.clear();
                }
                if let Some(answer) = &edit.answer {
                    example.answer.clone_from(answer);
                }
            }
        }
        out.push(example);
    }
    out
}

/// Those that others stand for now, as disabled ones: they are never shown, but keep their places in the rankings of a frozen store.
pub fn merged_away(examples: &[Example], edits: &BTreeMap<String, ExampleEdit>) -> Vec<Example> {
    let gone = |e: &&Example| edits.values().any(|edit| edit.merges.contains(&e.id));
    examples.iter().filter(gone).map(|e| Example { enabled: false, ..e.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example(id: &str) -> Example {
        Example { id: id.into(), stage: "s".into(), enabled: true, ..Example::default() }
    }

    #[test]
    fn a_stratum_s_own_rows_outweigh_the_others_as_they_grow() {
        let mut e = example("a");
        e.effect.insert("x".into(), Effect { uses: 20, fixed: 10, broken: 0 });
        e.effect.insert("y".into(), Effect { uses: 20, fixed: 0, broken: 10 });
        assert!(e.value(Some("x")) > 0.35 && e.value(Some("y")) < -0.35);
        assert_eq!(e.value(Some("elsewhere")), 0.0);
        let mut few = example("b");
        few.effect.insert("x".into(), Effect { uses: 1, fixed: 1, broken: 0 });
        assert!(few.value(Some("x")) < 0.4, "one row says little: {}", few.value(Some("x")));
    }

    #[test]
    fn edits_change_disable_and_merge_and_leave_the_rest_alone() {
        let mut all = vec![example("a"), example("b"), example("c")];
        all[1].effect.insert("x".into(), Effect { uses: 2, fixed: 1, broken: 1 });
        all[1].found_rows = 3;
        let edits = BTreeMap::from([
            ("a".to_owned(), ExampleEdit { merges: vec!["b".into()], ..ExampleEdit::default() }),
            (
                "c".to_owned(),
                ExampleEdit { answer: Some("new".into()), enabled: Some(false), ..ExampleEdit::default() },
            ),
        ]);
        let got = edited(&all, &edits);
        assert_eq!(got.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!((got[0].total().uses, got[0].found_rows), (2, 3));
        assert_eq!((got[1].answer.as_str(), got[1].enabled, got[1].source), ("new", false, Source::Person));
        assert_eq!(edited(&all, &BTreeMap::new()), all);
    }

    proptest! {
        #[test]
        fn a_value_stays_within_its_bounds(fixed in 0u32..50, broken in 0u32..50, more in 0u32..50, before in -1.0..1.0f64) {
            let effect = Effect { uses: fixed + broken + more, fixed, broken };
            prop_assert!((-1.0..=1.0).contains(&effect.value(before)));
        }
    }
}
