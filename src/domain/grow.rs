//! Growing the data: rows that a model made of train rows, what they were checked for, and where they fell.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::candidate::ModelRef;
use super::row::Part;
use super::settings::{Budget, Likeness};

/// Field of a row that says that it was made, of which rows, how and by whom.
pub const SYNTHETIC: &str = "synthetic";

/// How rows are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The same gold in other words.
    #[default]
    Paraphrase,
    /// The model plays the person who writes another message like some of a stratum and a gold.
    SelfPlay,
    /// From the gold back to an input (Köksal et al. 2023, "LongForm"; Li et al. 2023, "Self-Alignment with Instruction Backtranslation").
    Reverse,
}

impl Method {
    pub const ALL: [(&'static str, Self); 3] =
        [("paraphrase", Self::Paraphrase), ("self-play", Self::SelfPlay), ("reverse", Self::Reverse)];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Paraphrase => "paraphrase",
            Self::SelfPlay => "self-play",
            Self::Reverse => "reverse",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `[tuning.grow]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrowSettings {
    pub method: Method,
    /// Name of the model that writes; none: the critic of `[tuning.prompt]`, else the first stage's model.
    pub maker: Option<String>,
    /// Which train rows are grown from, as `[tuning.train] rows` has it.
    pub rows: String,
    /// Rows to make of each.
    pub per_row: usize,
    /// Rows that the maker is shown, in self-play.
    pub shown: usize,
    /// Fields that the maker writes; none: those that make up the input.
    pub fields: Vec<String>,
    /// What a gold means, by the gold; the maker reads it.
    pub meanings: BTreeMap<String, String>,
    pub temperature: f32,
    pub max_tokens: usize,
    /// Likeness of meaning (cosine, 0 to 1) that what a restatement of the new text says must have with what its parents say; 0: not asked.
    pub meaning: f64,
    /// Cosine with a row that is scored on from which on a new text is a leak; none: by the embedder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leak: Option<f64>,
    pub budget: Budget,
    pub seed: u64,
    /// The model that `[data] embedder` names; filled in when a run is frozen. None: the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedder: Option<Box<ModelRef>>,
}

impl Default for GrowSettings {
    fn default() -> Self {
        Self {
            method: Method::Paraphrase,
            maker: None,
            rows: "sample:weak:100".into(),
            per_row: 2,
            shown: 4,
            fields: Vec::new(),
            meanings: BTreeMap::new(),
            temperature: 0.9,
            max_tokens: 512,
            meaning: 0.0,
            leak: None,
            budget: Budget::default(),
            seed: 7,
            embedder: None,
        }
    }
}

/// How a row is written down so that it reads back as what was meant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowForm {
    /// Fields that the maker writes.
    pub fields: Vec<String>,
    /// Template of the input; none: the shape's own.
    pub input: Option<String>,
    /// Field with the gold; none: the shape's own.
    pub gold: Option<String>,
    /// What near duplicates are found by.
    pub likeness: Likeness,
}

/// A row of the data, of whatever part: what is made must not say what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    pub id: String,
    pub part: Option<Part>,
    pub input: String,
}

impl Other {
    /// Their file in `inputs/`.
    pub const FILE: &'static str = "others.jsonl";

    /// Saying what it says is a leak.
    pub fn is_scored(&self) -> bool {
        self.part.is_some_and(|part| part != Part::Train)
    }
}

/// What a made text is checked for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The maker gave no text.
    Silent,
    /// Empty, cut off, too long, debris of a template, odd characters.
    Text,
    /// Says what another row says, or nearly.
    Duplicate,
    /// Says what a row says that is scored on.
    Leak,
    /// The label check gave no answer.
    Unanswered,
    /// Whoever checks answers it otherwise than gold.
    Disputed,
    /// Restated, it is too far from what its parents say.
    Meaning,
}

impl Check {
    pub const ALL: [Self; 7] = [
        Self::Silent,
        Self::Text,
        Self::Duplicate,
        Self::Leak,
        Self::Unanswered,
        Self::Disputed,
        Self::Meaning,
    ];

    /// A person may know better: its row is whole, and only who checks, or the restatement, spoke against it.
    pub const fn may_be_overruled(self) -> bool {
        matches!(self, Self::Unanswered | Self::Disputed | Self::Meaning)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Text => "text",
            Self::Duplicate => "duplicate",
            Self::Leak => "leak",
            Self::Unanswered => "unanswered",
            Self::Disputed => "disputed",
            Self::Meaning => "meaning",
        }
    }

    /// What it means to fall here.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Silent => "the maker gave nothing",
            Self::Text => "empty, cut off, too long, template debris or odd characters",
            Self::Duplicate => "says what another row says, or nearly",
            Self::Leak => "says what a dev, eval or reserve row says",
            Self::Unanswered => "the label check gave no answer",
            Self::Disputed => "the label check answers otherwise than gold",
            Self::Meaning => "restated, it is too far from its parents",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a made row is from; the field [`SYNTHETIC`] of the row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    pub parents: Vec<String>,
    pub maker: String,
    pub method: Method,
    pub run: String,
}

/// One text that was made, and what came of it: a line of [`GROWN`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grown {
    /// The row's id, where it became a row.
    pub id: String,
    pub parents: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stratum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
    /// What was made; of several fields, the input.
    pub text: String,
    /// What whoever checks answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Likeness of meaning, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub likeness: Option<f64>,
    /// Cosine with the nearest row that is scored on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<f64>,
    /// Where it fell; none: it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fell: Option<Check>,
    /// Why it fell.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The row, where it passed the checks of its text.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub row: Map<String, Value>,
}

impl Grown {
    pub fn falls(&mut self, check: Check, why: String) {
        self.fell = Some(check);
        self.why = why;
    }
}

/// Everything that was made, in the run's folder.
pub const GROWN: &str = "artifacts/grown.jsonl";
/// The rows that are kept, as they would stand in the data.
pub const KEPT: &str = "artifacts/rows.jsonl";

/// Figure of a run: texts that it was to make, and has not made.
pub const UNMADE: &str = "unmade";

/// How many fell where: figures of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    pub made: usize,
    pub kept: usize,
    pub fell: BTreeMap<Check, usize>,
}

impl Tally {
    /// One more, and where it fell.
    pub fn add(&mut self, fell: Option<Check>) {
        self.made += 1;
        match fell {
            None => self.kept += 1,
            Some(check) => *self.fell.entry(check).or_default() += 1,
        }
    }

    /// As a run tells them.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let fell = self.fell.iter().map(|(check, n)| (format!("fell_{check}"), *n as f64));
        fell.chain([("made".to_owned(), self.made as f64), ("kept".to_owned(), self.kept as f64)]).collect()
    }
}

/// What a person asks of a run that grew rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrownAsk {
    pub run: String,
    /// Only these: `kept`, `refused`, `accepted`, where they fell (`disputed`, ...), `stratum:`, `gold:`, `parent:`, words of the text.
    pub filter: String,
    pub offset: usize,
    pub count: usize,
    /// Texts no longer than a line of a list.
    pub brief: bool,
    /// Instead of a window: the text that stands here in the run, whole, with the rows that it was made of.
    pub at: Option<usize>,
}

/// A made text, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Its place in the run, from 0.
    #[serde(default)]
    pub at: usize,
    /// Its row is in the data.
    #[serde(default)]
    pub accepted: bool,
    #[serde(flatten)]
    pub one: Grown,
}

/// A row that a text was made of, as the run was frozen with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parent {
    pub id: String,
    pub input: String,
    pub gold: Option<String>,
}

/// What a run made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrownPage {
    pub run: String,
    pub method: Method,
    pub maker: String,
    /// Who answered the new inputs.
    pub checker: String,
    pub counts: Tally,
    /// Its rows are in the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// The file of the data that they stand in, or would.
    pub file: String,
    /// Texts that the question means, and how many of them `--accept` with the same filter would take in.
    pub total: usize,
    pub open: usize,
    pub offset: usize,
    pub rows: Vec<Made>,
    /// Of the only text, where one was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
}

/// Rows of a run that somebody took into the data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// Hash of the file, which is kept in the state folder under it.
    pub hash: String,
    pub rows: usize,
}
