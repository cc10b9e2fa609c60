//! Scoring one row: its answer against its gold.

use std::collections::BTreeMap;

use serde_json::Value;

use super::intent::Intent;
use super::metric::{Base, Direction, Metric, Prepared, Schema, Tolerance};
use super::{calibration, calls, expression, rouge, text};
use crate::domain::candidate::OutputKind;
use crate::domain::outcome::{Outcome, StageOutcome};
use crate::domain::schema::equal;
use crate::domain::tool::Tool;
use crate::pipeline::output::parse_json;

/// An answer, what it should have been, and what it is judged with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    pub output: &'a str,
    pub gold: Option<&'a str>,
    /// None for answers made elsewhere.
    pub kind: Option<OutputKind>,
    /// It could be read as its kind.
    pub readable: bool,
    /// What could be called.
    pub tools: &'a [Tool],
    /// Of the stage, where its answers have one.
    pub schema: Option<&'a Schema>,
    pub intent: Option<&'a Intent>,
}

/// The value of a metric that looks at an answer (and mostly at its gold); none for metrics that do not, and where it says nothing.
pub fn score(metric: &Metric, answer: &Answer<'_>) -> Option<f64> {
    let bool = |right: bool| Some(f64::from(u8::from(right)));
    let output = answer.output;
    match metric.entry.base {
        Base::Accuracy => bool(answer.readable && same(answer)?),
        Base::Exact => bool(output.trim() == answer.gold?.trim()),
        Base::Normalized => bool(text::normalize(output) == text::normalize(answer.gold?)),
        Base::Contains => {
            let wanted = metric.argument.as_deref().or(answer.gold)?.trim();
            // Every text contains nothing.
            if wanted.is_empty() { None } else { bool(output.contains(wanted)) }
        }
        Base::Regex => match &metric.prepared {
            Prepared::Pattern(pattern) => bool(pattern.is_match(output)),
            _ => None,
        },
        Base::Numeric => {
            let tolerance = match metric.prepared {
                Prepared::Tolerance(tolerance) => tolerance,
                _ => Tolerance::SAME,
            };
            bool(text::same_number(output, answer.gold?, tolerance)?)
        }
        Base::RougeL => rouge::rouge_l(output, answer.gold?),
        Base::Intent => answer.intent?.similarity(output, answer.gold?),
        Base::JsonValid => bool(parse_json(output).is_some()),
        Base::JsonSchema => {
            let schema = match &metric.prepared {
                Prepared::Schema(schema) => schema.as_ref(),
                _ if metric.argument.is_none() => answer.schema?,
                _ => return None,
            };
            bool(parse_json(output).is_some_and(|value| schema.is_valid(&value)))
        }
        Base::JsonFields => json_fields(output, answer.gold?, metric.argument.as_deref()),
        Base::RightTool => {
            let gold = parse_json(answer.gold?)?;
            let output = parse_json(output).unwrap_or_default();
            let same = same_field("name", &output, &gold)?;
            bool(answer.readable && same)
        }
        Base::RightArguments => {
            let (output, gold) = (parse_json(output)?, parse_json(answer.gold?)?);
            let called = answer.readable && same_field("name", &output, &gold)?;
            if called { bool(same_field("arguments", &output, &gold)?) } else { None }
        }
        Base::ToolPrecision => calls::share(output, answer.gold?, true),
        Base::ToolRecall => calls::share(output, answer.gold?, false),
        Base::InvalidTool => calls::invalid_tool(output, answer.tools),
        Base::InvalidParameter => calls::invalid_parameters(output, answer.tools),
        Base::RefusalRate => bool(text::is_refusal(output)),
        Base::LengthChars => Some(output.chars().count() as f64),
        Base::LengthWords => Some(output.split_whitespace().count() as f64),
        _ => None,
    }
}

/// None without a gold.
fn same(answer: &Answer<'_>) -> Option<bool> {
    let gold = answer.gold?;
    if answer.output.trim() == gold.trim() {
        return Some(true);
    }
    let json = matches!(answer.kind, Some(OutputKind::Json | OutputKind::Tool));
    Some(
        json && match (parse_json(answer.output), parse_json(gold)) {
            (Some(output), Some(gold)) => equal(&output, &gold),
            _ => false,
        },
    )
}

/// Whether a field is the gold's; none where the gold has no such field.
fn same_field(name: &str, output: &Value, gold: &Value) -> Option<bool> {
    let want = gold.get(name)?;
    Some(output.get(name).is_some_and(|got| equal(got, want)))
}

/// Share of the gold's fields that the answer has with the same value, or of one field. Fields are the leaves of nested objects, named by
/// dotted path; a list is one value. None where the gold is no object, or lacks the field asked for.
fn json_fields(output: &str, gold: &str, field: Option<&str>) -> Option<f64> {
    let gold = fields(gold)?;
    let output = fields(output).unwrap_or_default();
    let right = |name: &String, want: &Value| output.get(name).is_some_and(|got| equal(got, want));
    match field {
        Some(name) => gold.get_key_value(name).map(|(name, want)| f64::from(u8::from(right(name, want)))),
        None if gold.is_empty() => Some(f64::from(u8::from(output.is_empty()))),
        None => Some(gold.iter().filter(|(name, want)| right(name, want)).count() as f64 / gold.len() as f64),
    }
}

/// The leaves of a JSON object by dotted path; none where a text is no object.
pub fn fields(text: &str) -> Option<BTreeMap<String, Value>> {
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
    walk("", parse_json(text)?.as_object()?, &mut out);
    Some(out)
}

/// A judge's verdict as a number; none where it gave none.
fn by_judge(outcome: &Outcome, metric: &Metric) -> Option<f64> {
    let judged = outcome.judged_by(metric.argument.as_deref())?;
    match metric.entry.base {
        Base::Judge => judged.right.map(|right| f64::from(u8::from(right))),
        Base::JudgeScore => judged.score,
        _ => None,
    }
}

/// Scores for an outcome made elsewhere, where right and wrong may be all that is known: `score` (or `correct`) is the primary metric's.
pub fn fill_imported(outcome: &mut Outcome, primary: &Metric, score: Option<f64>) {
    let given = score.or_else(|| outcome.correct.map(|right| f64::from(u8::from(right))));
    let value = given.or_else(|| value(primary, outcome));
    if let Some(value) = value {
        outcome.scores.insert(primary.key().to_owned(), value);
        outcome.correct = outcome.correct.or_else(|| primary.right(value));
    }
}

/// [`score`] on an outcome: a row that failed is as wrong as can be where higher is better, and has no value else.
pub(super) fn judged(outcome: &Outcome, metric: &Metric, answer: &Answer<'_>) -> Option<f64> {
    let failed = outcome.error.is_some();
    if failed && metric.entry.direction == Direction::Lower {
        return None;
    }
    let value = score(metric, answer)?;
    Some(if failed { 0.0 } else { value })
}

/// The last stage that ran could be read (always so for outcomes made elsewhere).
pub fn readable(outcome: &Outcome) -> bool {
    outcome.error.is_none() && last_stage(outcome).is_none_or(|stage| stage.format_ok)
}

/// The stage whose answer is the pipeline's.
pub fn last_stage(outcome: &Outcome) -> Option<&StageOutcome> {
    outcome.stages.iter().rfind(|stage| !stage.skipped)
}

/// A stage that ran.
pub(super) fn stage_of<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a StageOutcome> {
    outcome.stages.iter().find(|s| s.stage == name && !s.skipped)
}

/// 1 where an answer of any stage (or of the one asked for) could not be read. None where nothing was answered.
pub(super) fn format_error(outcome: &Outcome, stage: Option<&str>) -> Option<f64> {
    if outcome.error.is_some() {
        return None;
    }
    let mut ran =
        outcome.stages.iter().filter(|s| !s.skipped && stage.is_none_or(|name| s.stage == name)).peekable();
    ran.peek()?;
    Some(f64::from(u8::from(ran.any(|s| !s.format_ok))))
}

/// The probability of the likeliest label and whether it is right: of the last stage that ran, or of the one asked for. `accuracy` is that of
/// the pipeline, or of the stage.
pub fn confidence(outcome: &Outcome, stage: Option<&str>, accuracy: &Metric) -> Option<(f64, bool)> {
    if outcome.error.is_some() {
        return None;
    }
    let ran = match stage {
        None => last_stage(outcome)?,
        Some(name) => stage_of(outcome, name)?,
    };
    let p = ran.probability.filter(|p| (0.0..=1.0).contains(p))?;
    Some((p, accuracy.right(value(accuracy, outcome)?)?))
}

/// The accuracy that a calibration is of.
pub(super) fn accuracy_of(stage: Option<&str>) -> Option<Metric> {
    let name = stage.map_or_else(|| "accuracy".to_owned(), |stage| format!("{stage}.accuracy"));
    Metric::find(&name).ok()
}

/// The value of a per-row metric on an outcome: as it was scored, else worked out from answer and gold. None where it has none.
pub fn value(metric: &Metric, outcome: &Outcome) -> Option<f64> {
    if let Some(&score) = outcome.scores.get(metric.key()) {
        return Some(score);
    }
    let stage = metric.stage.as_deref();
    let tokens = |count: fn(&StageOutcome) -> u64| {
        let mut ran = outcome
            .stages
            .iter()
            .filter(|s| !s.skipped && stage.is_none_or(|name| s.stage == name))
            .peekable();
        ran.peek()?;
        Some(ran.map(count).sum::<u64>() as f64)
    };
    match metric.entry.base {
        Base::TokensIn if outcome.error.is_none() => tokens(|s| s.tokens_in),
        Base::TokensOut if outcome.error.is_none() => tokens(|s| s.tokens_out),
        Base::FormatErrorRate => format_error(outcome, stage),
        Base::Judge | Base::JudgeScore => by_judge(outcome, metric),
        Base::Brier => {
            let (p, right) = confidence(outcome, stage, &accuracy_of(stage)?)?;
            Some(calibration::brier(p, right))
        }
        Base::Expression if outcome.unscored.contains_key(metric.key()) => None,
        Base::Expression => expression::value(metric, outcome, None).ok().flatten(),
        Base::Accuracy if stage.is_none() && outcome.scores.is_empty() && outcome.correct.is_some() => {
            outcome.correct.map(|right| f64::from(u8::from(right)))
        }
        // Only right or wrong is known of some outcomes made elsewhere.
        _ if outcome.output.is_empty() && outcome.stages.is_empty() && outcome.error.is_none() => None,
        _ => {
            let answer = match stage {
                None => Answer {
                    output: &outcome.output,
                    gold: outcome.gold.as_deref(),
                    readable: readable(outcome),
                    ..Answer::default()
                },
                // Its gold is not known here; some metrics need none.
                Some(name) => {
                    let ran = stage_of(outcome, name)?;
                    Answer { output: &ran.output, readable: ran.format_ok, ..Answer::default() }
                }
            };
            judged(outcome, metric, &answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::row::RunRow;
    use crate::domain::settings::EvalSettings;
    use crate::pipeline::tests as scripted;
    use crate::score::scorer::Scorer;

    fn scorer(metrics: &[&str], stages: &[&str]) -> Scorer {
        let settings = EvalSettings {
            metrics: metrics.iter().map(|m| (*m).to_owned()).collect(),
            ..EvalSettings::default()
        };
        let stage = |name: &&str| {
            let mut stage = scripted::stage(name, "{{ input }}", OutputKind::Text, &[]);
            stage.gold = (*name == "a").then(|| "own".to_owned());
            stage
        };
        let stages: Vec<_> = stages.iter().map(stage).collect();
        Scorer::new(&settings, &stages, std::iter::empty()).unwrap()
    }

    fn value_of(name: &str, output: &str, gold: &str, kind: OutputKind) -> Option<f64> {
        let metric = Metric::find(name).unwrap();
        let answer =
            Answer { output, gold: Some(gold), kind: Some(kind), readable: true, ..Answer::default() };
        score(&metric, &answer)
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
        let mut failed = Outcome {
            output: "x".into(),
            gold: Some("x".into()),
            error: Some("out of memory".into()),
            ..Outcome::default()
        };
        scorer(&[], &[]).fill(&mut failed, OutputKind::Label, None);
        assert_eq!((failed.correct, failed.scores["accuracy"]), (Some(false), 0.0));
        let stage = StageOutcome { stage: "s".into(), format_ok: false, ..StageOutcome::default() };
        let mut unread =
            Outcome { output: "x".into(), gold: Some("x".into()), stages: vec![stage], ..Outcome::default() };
        let format = Metric::find("format_error_rate").unwrap();
        scorer(&["format_error_rate"], &[]).fill(&mut unread, OutputKind::Label, None);
        assert_eq!((unread.correct, unread.scores["format_error_rate"]), (Some(false), 1.0));
        assert_eq!(value(&format, &failed), None, "a failed row has no format");
    }

    #[test]
    fn a_row_without_gold_is_neither_right_nor_wrong() {
        let mut row = Outcome { output: "x".into(), ..Outcome::default() };
        scorer(&[], &[]).fill(&mut row, OutputKind::Text, None);
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
        let mut fields: RunRow = scripted::row("1", "x");
        fields.fields.insert("own".into(), "other".into());
        let metrics = ["a.accuracy", "b.accuracy", "b.length_chars"];
        scorer(&metrics, &["a", "b"]).fill(&mut row, OutputKind::Text, Some(&fields));
        assert_eq!(row.scores["b.length_chars"], 5.0, "needs no gold");
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
