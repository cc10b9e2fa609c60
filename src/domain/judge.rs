//! Judges: a model with a rubric that says how good an answer is; what it said of one, and how far people agree with it.

use serde::{Deserialize, Serialize};

use super::candidate::ModelRef;

/// What a judge can say, worst first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// At least two, all different.
    pub words: Vec<String>,
    /// Place of the first word that means right; at least 1.
    pub right_from: usize,
    /// The words are numbers whose distances count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scale: bool,
}

impl Verdicts {
    /// Right from the first word above the middle.
    pub fn new(words: Vec<String>) -> Self {
        let right_from = words.len().div_ceil(2);
        Self { words, right_from, scale: false }
    }

    /// Whole numbers from `low` to `high`.
    pub fn scale(low: i64, high: i64) -> Self {
        Self { scale: true, ..Self::new((low..=high).map(|n| n.to_string()).collect()) }
    }

    /// Where a word stands among the others, from 0.
    pub fn place(&self, word: &str) -> Option<usize> {
        self.words.iter().position(|w| w == word)
    }

    pub fn is_right(&self, word: &str) -> Option<bool> {
        self.place(word).map(|place| place >= self.right_from)
    }

    /// 0 for the worst word, 1 for the best one.
    pub fn score(&self, word: &str) -> Option<f64> {
        let last = self.words.len().checked_sub(1).filter(|last| *last > 0)?;
        self.place(word).map(|place| place as f64 / last as f64)
    }
}

/// `[[judge]]`, frozen: everything that decides its verdicts, and what it takes to trust them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    pub name: String,
    pub model: ModelRef,
    /// The rubric's text (minijinja).
    pub rubric: String,
    /// What it is called in errors: its file.
    pub rubric_name: String,
    /// The rubric for two answers side by side.
    pub pairwise: String,
    pub pairwise_name: String,
    pub verdicts: Verdicts,
    /// First gather what the question needs, then judge on it.
    pub two_step: bool,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Cohen's kappa with people below which it is not to be trusted.
    pub agreement_at_least: f64,
    /// Answers that people must have judged before it can be trusted.
    pub people_at_least: usize,
}

/// What a rubric is called where prompts go by their stages: `judge:NAME`.
pub const STAGE: &str = "judge:";

/// Raise it when the words around a rubric change: verdicts of before are another judge's.
const SCAFFOLD: u32 = 1;

impl Judge {
    /// What decides its verdicts, by content: verdicts under another id are another judge's, whatever its name.
    pub fn id(&self) -> String {
        let parts = serde_json::json!({
            "scaffold": SCAFFOLD,
            "model": self.model.hash,
            "rubric": self.rubric,
            "verdicts": self.verdicts,
            "two_step": self.two_step,
            "max_tokens": self.max_tokens,
        });
        blake3::hash(parts.to_string().as_bytes()).to_hex().as_str()[..16].to_owned()
    }

    /// Its rubric's name among prompts.
    pub fn stage(&self) -> String {
        format!("{STAGE}{}", self.name)
    }

    /// US dollars for so many tokens; none where its model has no price by tokens.
    pub fn usd(&self, tokens_in: u64, tokens_out: u64) -> Option<f64> {
        let part = |price: Option<f64>, tokens: u64| price.map(|price| price * tokens as f64 / 1e6);
        let parts = [
            part(self.model.usd_per_million_input, tokens_in),
            part(self.model.usd_per_million_output, tokens_out),
        ];
        parts.iter().any(Option::is_some).then(|| parts.iter().flatten().sum())
    }
}

/// What judging took, apart from what the answers took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Effort {
    /// Answers asked for, and of them those from the response cache.
    pub calls: u32,
    pub cached: u32,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// The server counted no tokens.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

impl Effort {
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.cached += other.cached;
        self.tokens_in += other.tokens_in;
        self.tokens_out += other.tokens_out;
        self.estimated |= other.estimated;
    }
}

/// What a judge said of one answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Judged {
    pub judge: String,
    /// [`Judge::id`].
    pub id: String,
    /// None where it gave none that can be read: neither right nor wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Why there is no verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
    /// [`Verdicts::score`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Of the verdict, where verdicts were scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What it gathered before it judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signals: Option<String>,
    #[serde(flatten)]
    pub effort: Effort,
}

/// A verdict of a person on an answer, without knowing whose answer it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonVerdict {
    pub judge: String,
    pub annotator: String,
    pub row: String,
    pub row_hash: String,
    /// [`output_hash`] of the answer.
    pub output_hash: String,
    /// Id of a candidate that gave it.
    pub candidate: String,
    /// None takes it back.
    pub verdict: Option<String>,
}

impl PersonVerdict {
    /// What it is about and by whom: a later verdict on it replaces this one.
    pub fn key(&self) -> String {
        [&self.judge, &self.annotator, &self.row, &self.row_hash, &self.output_hash]
            .map(String::as_str)
            .join("\0")
    }

    pub fn item(&self) -> String {
        item_id(&self.row, &self.row_hash, &self.output_hash)
    }
}

/// An answer by its content, surrounding space aside.
pub fn output_hash(output: &str) -> String {
    blake3::hash(output.trim().as_bytes()).to_hex().as_str()[..32].to_owned()
}

/// What people call an answer to a row by: it says nothing of who gave it.
pub fn item_id(row: &str, row_hash: &str, output_hash: &str) -> String {
    let text = format!("{row}\0{row_hash}\0{output_hash}");
    blake3::hash(text.as_bytes()).to_hex().as_str()[..10].to_owned()
}

/// Cohen's kappa with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kappa {
    pub value: f64,
    pub ci95: [f64; 2],
}

/// How one annotator (or the judge) says right, beside others on the same answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Leniency {
    pub annotator: String,
    /// Answers that somebody else judged, too.
    pub n: usize,
    /// Share that it called right, and the mean of the others' shares.
    pub right: f64,
    pub others: f64,
    /// `right - others`, with its 95% interval over answers.
    pub difference: f64,
    pub ci95: [f64; 2],
    /// All verdicts of this annotator.
    pub all: usize,
}

/// An answer on which judge and people part, or people among themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parting {
    pub item: String,
    pub row: String,
    pub stratum: Option<String>,
    pub output: String,
    pub judge: Option<String>,
    /// Annotator and verdict.
    pub people: Vec<(String, String)>,
}

/// A judge beside people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    pub judge: String,
    /// Worst first.
    pub verdicts: Vec<String>,
    /// Answers with a verdict of both the judge and people (by majority).
    pub n: usize,
    /// Answers that people judged; of them those without a verdict of the judge as it stands, and those on which people are split evenly.
    pub judged: usize,
    pub without_judge: usize,
    pub split: usize,
    /// Answers on which judge and people say the same.
    pub same: usize,
    pub kappa: Option<Kappa>,
    /// With squared weights, where the verdicts are a scale; then it is the one that decides.
    pub weighted: Option<Kappa>,
    /// Rows: the judge's verdict; columns: people's.
    pub table: Vec<Vec<usize>>,
    /// People among themselves: Cohen's kappa of the two annotators with most answers in common.
    pub people: Option<(String, String, usize, Option<Kappa>)>,
    pub leniency: Vec<Leniency>,
    pub partings: Vec<Parting>,
    pub at_least: f64,
    pub people_at_least: usize,
    /// None: to be trusted.
    pub distrust: Option<String>,
}

impl Agreement {
    pub const MAX_PARTINGS: usize = 200;
    /// What a goal or a board says of a judge that is not calibrated.
    pub fn trusted(&self) -> bool {
        self.distrust.is_none()
    }
}

/// One answer for a person to judge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueItem {
    pub item: String,
    pub row: String,
    pub stratum: Option<String>,
    pub input: String,
    pub output: String,
    pub gold: Option<String>,
}

/// What is left for an annotator to judge, in the annotator's own order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    pub judge: String,
    pub annotator: String,
    /// Worst first.
    pub verdicts: Vec<String>,
    /// Answers of this queue that the annotator has judged, and all of it.
    pub done: usize,
    pub total: usize,
    pub items: Vec<QueueItem>,
}

/// An answer that people judged, a line of `inputs/judged.jsonl` of a prompt run that tunes a judge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedAnswer {
    pub row: String,
    pub row_hash: String,
    pub output: String,
    /// The row's own gold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
}

impl JudgedAnswer {
    /// The file of them among the inputs, in the order of the rows.
    pub const FILE: &str = "judged.jsonl";
}

/// The answers of A and B to a row, a line of a judge run's `inputs/pairs.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPair {
    pub row: String,
    pub a: String,
    pub b: String,
}

/// A run of kind `judge`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairSettings {
    pub judge: Judge,
    /// Names of A and B.
    pub candidates: [String; 2],
    /// Rows of both on which one of them failed.
    pub left_out: usize,
}

impl PairSettings {
    /// The file of [`AnswerPair`]s among the inputs.
    pub const FILE: &str = "pairs.jsonl";
}

/// One stratum of a pairwise comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairStratum {
    pub stratum: String,
    pub n: usize,
    pub wins: usize,
    pub losses: usize,
    pub ties: usize,
}

/// A share with its 95% interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub count: usize,
    pub n: usize,
    pub ci95: [f64; 2],
}

impl Share {
    pub fn value(&self) -> Option<f64> {
        (self.n > 0).then(|| self.count as f64 / self.n as f64)
    }
}

/// What came of judging the answers of A and B side by side, in both orders. Wins are B's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pairwise {
    pub judge: String,
    /// Names of A and B.
    pub candidates: [String; 2],
    /// Rows with a verdict.
    pub n: usize,
    /// B's answer was preferred in both orders; A's was; neither.
    pub wins: usize,
    pub losses: usize,
    pub ties: usize,
    /// Of the ties: answers that are the same, which nobody was asked about; and preferences that went with the order.
    pub identical: usize,
    pub swayed: usize,
    /// Rows without a verdict in one of the orders.
    pub unread: usize,
    /// Rows of both that were not asked about, since one of them failed there.
    pub left_out: usize,
    /// Exact sign test of wins against losses, two-sided.
    pub p_value: f64,
    /// Share of wins among wins and losses (Clopper and Pearson).
    pub won: Share,
    /// Rows on which the preference followed the position, among those asked and read.
    pub position: Share,
    /// Of those: the first answer was preferred both times.
    pub first: usize,
    /// The longer answer won, among wins and losses of answers with different lengths.
    pub longer: Share,
    /// Spearman's correlation of the difference in length with the preference; none where one of them never varies.
    pub length_correlation: Option<f64>,
    pub strata: Vec<PairStratum>,
    #[serde(flatten)]
    pub effort: Effort,
    pub usd: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_begins_above_the_middle() {
        let two = Verdicts::new(["bad", "good"].map(String::from).to_vec());
        assert_eq!(
            (two.is_right("bad"), two.is_right("good"), two.is_right("x")),
            (Some(false), Some(true), None)
        );
        let five = Verdicts::scale(1, 5);
        assert_eq!((five.is_right("3"), five.is_right("4")), (Some(false), Some(true)));
        assert_eq!((five.score("1"), five.score("4"), five.score("6")), (Some(0.0), Some(0.75), None));
    }
}
