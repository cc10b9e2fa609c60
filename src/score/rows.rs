//! Scoring one row: its answer against its gold.

use std::collections::BTreeMap;

use serde_json::Value;

use super::metric::{Base, Metric};
use crate::domain::candidate::OutputKind;
use crate::domain::outcome::{Elsewhere, Outcome, StageOutcome};
use crate::domain::schema::equal;
use crate::pipeline::output::parse_json;

/// An answer and what it should have been.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub output: &'a str,
    pub gold: &'a str,
    /// None for answers made elsewhere.
    pub kind: Option<OutputKind>,
    /// It could be read as its kind.
    pub readable: bool,
}

/// The value of a metric that compares an answer with its gold; none for metrics that do not.
pub fn score(base: Base, argument: Option<&str>, answer: &Answer<'_>) -> Option<f64> {
    let bool = |right: bool| Some(f64::from(u8::from(right)));
    match base {
        Base::Accuracy => bool(answer.readable && same(answer)),
        Base::Exact => bool(answer.output.trim() == answer.gold.trim()),
        Base::Normalized => bool(normalize(answer.output) == normalize(answer.gold)),
        Base::JsonValid => bool(parse_json(answer.output).is_some()),
        Base::JsonFields => json_fields(answer.output, answer.gold, argument),
        Base::RightTool => {
            let gold = parse_json(answer.gold)?;
            let output = parse_json(answer.output).unwrap_or_default();
            let same = same_field("name", &output, &gold)?;
            bool(answer.readable && same)
        }
        Base::RightArguments => {
            let (output, gold) = (parse_json(answer.output)?, parse_json(answer.gold)?);
            let called = answer.readable && same_field("name", &output, &gold)?;
            if called { bool(same_field("arguments", &output, &gold)?) } else { None }
        }
        _ => None,
    }
}

fn same(answer: &Answer<'_>) -> bool {
    if answer.output.trim() == answer.gold.trim() {
        return true;
    }
    matches!(answer.kind, Some(OutputKind::Json | OutputKind::Tool))
        && match (parse_json(answer.output), parse_json(answer.gold)) {
            (Some(output), Some(gold)) => equal(&output, &gold),
            _ => false,
        }
}

/// Whether a field is the gold's; none where the gold has no such field.
fn same_field(name: &str, output: &Value, gold: &Value) -> Option<bool> {
    let want = gold.get(name)?;
    Some(output.get(name).is_some_and(|got| equal(got, want)))
}

/// Lower case, no punctuation, no articles, single spaces (SQuAD's `normalize_answer`, Rajpurkar et al. 2016).
/// Punctuation is ASCII's, as there.
pub fn normalize(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    plain.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).collect::<Vec<_>>().join(" ")
}

/// Share of the gold's fields that the answer has with the same value, or of one field. Fields are the leaves of nested objects, named by
/// dotted path; a list is one value. None where the gold is no object, or lacks the field asked for.
fn json_fields(output: &str, gold: &str, field: Option<&str>) -> Option<f64> {
    let gold = leaves(parse_json(gold)?.as_object()?);
    let output = parse_json(output).and_then(|v| v.as_object().map(leaves)).unwrap_or_default();
    let right = |name: &String, want: &Value| output.get(name).is_some_and(|got| equal(got, want));
    match field {
        Some(name) => gold.get_key_value(name).map(|(name, want)| f64::from(u8::from(right(name, want)))),
        None if gold.is_empty() => Some(f64::from(u8::from(output.is_empty()))),
        None => Some(gold.iter().filter(|(name, want)| right(name, want)).count() as f64 / gold.len() as f64),
    }
}

fn leaves(object: &serde_json::Map<String, Value>) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, object: &serde_json::Map<String, Value>, out: &mut BTreeMap<String, Value>) {
        for (key, value) in object {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) if !inner.is_empty() => walk(&path, inner, out),
                _ => {
                    out.insert(path, value.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", object, &mut out);
    out
}

/// Fill an outcome's scores and its right or wrong: `primary` and those of `metrics` that have a value on each row and need the gold.
/// `stage_gold` is the gold of stages that have one of their own. A row that failed is wrong by all of them.
pub fn fill(
    outcome: &mut Outcome,
    primary: &Metric,
    metrics: &[Metric],
    kind: OutputKind,
    stage_gold: &BTreeMap<String, (OutputKind, String)>,
) {
    for metric in std::iter::once(primary).chain(metrics) {
        let value = match &metric.stage {
            None if metric.entry.base == Base::FormatErrorRate => format_error(outcome, None),
            Some(stage) if metric.entry.base == Base::FormatErrorRate => format_error(outcome, Some(stage)),
            None => outcome.gold.as_deref().and_then(|gold| {
                let answer =
                    Answer { output: &outcome.output, gold, kind: Some(kind), readable: readable(outcome) };
                judged(outcome, metric, &answer)
            }),
            Some(stage) => stage_gold.get(stage).and_then(|(kind, gold)| {
                let ran = outcome.stages.iter().find(|s| s.stage == *stage && !s.skipped);
                let answer = Answer {
                    output: ran.map_or("", |s| &s.output),
                    gold,
                    kind: Some(*kind),
                    readable: ran.is_some_and(|s| s.format_ok),
                };
                judged(outcome, metric, &answer)
            }),
        };
        if let Some(value) = value {
            outcome.scores.insert(metric.name.clone(), value);
        }
    }
    outcome.correct = outcome.scores.get(&primary.name).and_then(|&score| primary.right(score));
}

/// Scores for an outcome made elsewhere, where right and wrong may be all that is known: `score` (or `correct`) is the primary metric's.
pub fn fill_imported(outcome: &mut Outcome, primary: &Metric, score: Option<f64>) {
    let given = score.or_else(|| outcome.correct.map(|right| f64::from(u8::from(right))));
    let value = given.or_else(|| value(primary, outcome));
    if let Some(value) = value {
        outcome.scores.insert(primary.name.clone(), value);
        outcome.correct = outcome.correct.or_else(|| primary.right(value));
    }
}

fn judged(outcome: &Outcome, metric: &Metric, answer: &Answer<'_>) -> Option<f64> {
    let value = score(metric.entry.base, metric.argument.as_deref(), answer)?;
    Some(if outcome.error.is_some() { 0.0 } else { value })
}

/// The last stage that ran could be read (always so for outcomes made elsewhere).
pub fn readable(outcome: &Outcome) -> bool {
    outcome.error.is_none() && last_stage(outcome).is_none_or(|stage| stage.format_ok)
}

fn last_stage(outcome: &Outcome) -> Option<&StageOutcome> {
    outcome.stages.iter().rfind(|stage| !stage.skipped)
}

/// 1 where an answer of any stage (or of the one asked for) could not be read. None where nothing was answered.
fn format_error(outcome: &Outcome, stage: Option<&str>) -> Option<f64> {
    if outcome.error.is_some() {
        return None;
    }
    let mut ran =
        outcome.stages.iter().filter(|s| !s.skipped && stage.is_none_or(|name| s.stage == name)).peekable();
    ran.peek()?;
    Some(f64::from(u8::from(ran.any(|s| !s.format_ok))))
}

/// The value of a per-row metric on an outcome: as it was scored, else worked out from answer and gold. None where it has none.
pub fn value(metric: &Metric, outcome: &Outcome) -> Option<f64> {
    if let Some(&score) = outcome.scores.get(&metric.name) {
        return Some(score);
    }
    let of_stage =
        |s: &&StageOutcome| !s.skipped && metric.stage.as_ref().is_none_or(|name| s.stage == *name);
    let tokens = |count: fn(&StageOutcome) -> u64, told: fn(&Elsewhere) -> Option<u64>| {
        if let Some(elsewhere) = &outcome.elsewhere {
            return told(elsewhere).filter(|_| metric.stage.is_none()).map(|n| n as f64);
        }
        let mut ran = outcome.stages.iter().filter(of_stage).peekable();
        ran.peek()?;
        Some(ran.map(count).sum::<u64>() as f64)
    };
    match metric.entry.base {
        Base::TokensIn if outcome.error.is_none() => tokens(|s| s.tokens_in, |e| e.tokens_in),
        Base::TokensOut if outcome.error.is_none() => tokens(|s| s.tokens_out, |e| e.tokens_out),
        Base::FormatErrorRate => format_error(outcome, metric.stage.as_deref()),
        Base::Accuracy
            if metric.stage.is_none() && outcome.scores.is_empty() && outcome.correct.is_some() =>
        {
            outcome.correct.map(|right| f64::from(u8::from(right)))
        }
        base if metric.stage.is_none() => {
            let gold = outcome.gold.as_deref()?;
            // Only right or wrong is known of some outcomes made elsewhere.
            if outcome.output.is_empty() && outcome.stages.is_empty() && outcome.error.is_none() {
                return None;
            }
            let answer = Answer { output: &outcome.output, gold, kind: None, readable: readable(outcome) };
            let value = score(base, metric.argument.as_deref(), &answer)?;
            Some(if outcome.error.is_some() { 0.0 } else { value })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(name: &str, output: &str, gold: &str, kind: OutputKind) -> Option<f64> {
        let metric = Metric::find(name).unwrap();
        let answer = Answer { output, gold, kind: Some(kind), readable: true };
        score(metric.entry.base, metric.argument.as_deref(), &answer)
    }

    #[test]
    fn text_is_compared_exactly_or_normalized() {
        assert_eq!(value_of("exact", " Paris ", "Paris", OutputKind::Text), Some(1.0));
        assert_eq!(value_of("exact", "The Paris.", "paris", OutputKind::Text), Some(0.0));
        assert_eq!(value_of("normalized", "The  Paris.", "paris", OutputKind::Text), Some(1.0));
        assert_eq!(value_of("normalized", "another", "nother", OutputKind::Text), Some(0.0));
    }

    #[test]
    fn json_is_compared_by_value_and_field_by_field() {
        let gold = r#"{"name": "Ann", "age": 30, "at": {"city": "Rome", "tags": ["a", "b"]}}"#;
        let other = r#"{"age": 30.0, "at": {"tags": ["b", "a"], "city": "Rome"}, "name": "Bob"}"#;
        assert_eq!(value_of("json_fields", other, gold, OutputKind::Json), Some(0.5));
        assert_eq!(value_of("json_fields:at.city", other, gold, OutputKind::Json), Some(1.0));
        assert_eq!(value_of("json_fields:name", other, gold, OutputKind::Json), Some(0.0));
        assert_eq!(value_of("json_fields:nothing", other, gold, OutputKind::Json), None);
        assert_eq!(value_of("json_fields", "not json", gold, OutputKind::Json), Some(0.0));
        assert_eq!(value_of("json_valid", "not json", gold, OutputKind::Json), Some(0.0));
        let reordered = r#"{"at": {"tags": ["a", "b"], "city": "Rome"}, "age": 30, "name": "Ann"}"#;
        assert_eq!(value_of("accuracy", reordered, gold, OutputKind::Json), Some(1.0));
        assert_eq!(value_of("accuracy", reordered, gold, OutputKind::Text), Some(0.0), "text is text");
    }

    #[test]
    fn a_row_that_failed_or_could_not_be_read_is_wrong() {
        let primary = Metric::find("accuracy").unwrap();
        let mut failed = Outcome {
            output: "x".into(),
            gold: Some("x".into()),
            error: Some("out of memory".into()),
            ..Outcome::default()
        };
        fill(&mut failed, &primary, &[], OutputKind::Label, &BTreeMap::new());
        assert_eq!((failed.correct, failed.scores["accuracy"]), (Some(false), 0.0));
        let stage = StageOutcome { stage: "s".into(), format_ok: false, ..StageOutcome::default() };
        let mut unread =
            Outcome { output: "x".into(), gold: Some("x".into()), stages: vec![stage], ..Outcome::default() };
        let format = Metric::find("format_error_rate").unwrap();
        fill(&mut unread, &primary, std::slice::from_ref(&format), OutputKind::Label, &BTreeMap::new());
        assert_eq!((unread.correct, unread.scores["format_error_rate"]), (Some(false), 1.0));
        assert_eq!(value(&format, &failed), None, "a failed row has no format");
    }

    #[test]
    fn a_row_without_gold_is_neither_right_nor_wrong() {
        let mut row = Outcome { output: "x".into(), ..Outcome::default() };
        fill(&mut row, &Metric::find("accuracy").unwrap(), &[], OutputKind::Text, &BTreeMap::new());
        assert_eq!(row.correct, None);
        assert!(row.scores.is_empty());
    }

    #[test]
    fn a_stage_is_scored_against_its_own_gold() {
        let stages = ["a", "b"].map(|name| StageOutcome {
            stage: name.into(),
            output: format!("out-{name}"),
            format_ok: true,
            ..StageOutcome::default()
        });
        let mut row = Outcome {
            output: "out-b".into(),
            gold: Some("out-b".into()),
            stages: stages.to_vec(),
            ..Outcome::default()
        };
        let own = BTreeMap::from([("a".to_owned(), (OutputKind::Text, "other".to_owned()))]);
        let metrics = ["a.accuracy", "b.accuracy"].map(|n| Metric::find(n).unwrap());
        fill(&mut row, &Metric::find("accuracy").unwrap(), &metrics, OutputKind::Text, &own);
        assert_eq!(row.scores["a.accuracy"], 0.0);
        assert!(!row.scores.contains_key("b.accuracy"), "no gold of its own");
        assert_eq!(row.correct, Some(true));
    }

    #[test]
    fn outcomes_made_elsewhere_count_as_they_were_judged() {
        let exact = Metric::find("exact").unwrap();
        let mut row = Outcome { correct: Some(true), gold: Some("18".into()), ..Outcome::default() };
        fill_imported(&mut row, &exact, None);
        assert_eq!((row.scores["exact"], row.correct), (1.0, Some(true)));
        let mut row = Outcome { output: "18".into(), gold: Some("18".into()), ..Outcome::default() };
        fill_imported(&mut row, &exact, None);
        assert_eq!(row.correct, Some(true));
        let accuracy = Metric::find("accuracy").unwrap();
        let row = Outcome { correct: Some(true), gold: Some("18".into()), ..Outcome::default() };
        assert_eq!(value(&accuracy, &row), Some(1.0));
    }
}
