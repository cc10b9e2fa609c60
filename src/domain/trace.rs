//! Traces: what each stage was asked on a row and what it said, attempt by attempt.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::example::Shown;

/// Bytes of text in a row's trace; longer texts are cut, evenly.
const TEXT_MAX: usize = 128 << 10;

/// Attempts of a stage that are kept, beside the last one.
const ATTEMPTS_MAX: usize = 7;

/// One answer of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// As given.
    pub answer: String,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub ttft_ms: f64,
    pub ms: f64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The likeliest labels with their probabilities, where labels were scored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, f64)>,
}

/// What one stage did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageTrace {
    pub stage: String,
    /// Its `when` did not hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    pub prompt: String,
    pub attempts: Vec<Attempt>,
    /// Attempts between the first ones and the last that are left out here.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// As read.
    pub output: String,
    /// Examples that were shown, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Shown>,
    /// What a tool answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why the stage had no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// One line of `traces/rows.jsonl`. The row comes first: lines are told apart by their beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowTrace {
    pub row: String,
    #[serde(default)]
    pub sample: u32,
    pub stages: Vec<StageTrace>,
}

impl StageTrace {
    /// Take an attempt down; of very many the first ones and the last stay.
    pub fn push(&mut self, attempt: Attempt) {
        if self.attempts.len() > ATTEMPTS_MAX {
            self.attempts.pop();
            self.left_out += 1;
        }
        self.attempts.push(attempt);
    }

    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let answers =
            self.attempts.iter_mut().flat_map(|a| std::iter::once(&mut a.answer).chain(&mut a.problem));
        [&mut self.prompt, &mut self.output].into_iter().chain(&mut self.error).chain(answers)
    }
}

impl RowTrace {
    /// The trace at a size that a line of a file and a frame can bear: each text gets an even share, what is cut is said.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let count: usize = self.stages.iter_mut().map(|s| s.texts().count() + 1).sum();
        let share = (TEXT_MAX / count.max(1)).max(256);
        for stage in &mut self.stages {
            stage.texts().for_each(|text| cut(text, share));
            if let Some(result) = stage.result.as_mut().filter(|r| r.to_string().len() > share) {
                let mut text = result.to_string();
                cut(&mut text, share);
                *result = Value::String(text);
            }
            for attempt in &mut stage.attempts {
                attempt.labels.truncate(10);
            }
        }
        self
    }
}

fn cut(text: &mut String, max: usize) {
    if text.len() <= max {
        return;
    }
    let at = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let rest = text.len() - at;
    text.truncate(at);
    text.push_str(&format!("… ({rest} more bytes)"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_of_long_texts_and_many_retries_stays_small_and_says_what_is_missing() {
        let mut stage =
            StageTrace { prompt: "ä".repeat(1 << 20), output: "short".into(), ..StageTrace::default() };
        for i in 0..100 {
            stage.push(Attempt { answer: format!("{i} {}", "x".repeat(1 << 20)), ..Attempt::default() });
        }
        stage.result = Some(Value::String("y".repeat(1 << 20)));
        let trace = RowTrace { row: "r".into(), sample: 0, stages: vec![stage.clone(), stage] }.bounded();
        let line = serde_json::to_string(&trace).unwrap();
        assert!(line.len() < 200 << 10, "{}", line.len());
        let stage = &trace.stages[0];
        assert_eq!((stage.attempts.len(), stage.left_out), (8, 92));
        assert!(stage.attempts[0].answer.starts_with("0 x") && stage.attempts[7].answer.starts_with("99 x"));
        assert!(stage.prompt.ends_with("more bytes)") && stage.output == "short");
        assert_eq!(serde_json::from_str::<RowTrace>(&line).unwrap(), trace);
    }
}
