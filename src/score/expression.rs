//! The workspace's own metrics on a row: what their expressions have in scope.

use std::collections::BTreeMap;

use minijinja::Value;

use super::metric::{Base, Direction, Metric, Own, Prepared};
use super::rows;
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;

/// The value on a row, where it has one. Without the row itself only what looks at the outcome alone has a value. Err: why it could not be
/// worked out. A row that failed counts 0 where higher is better, and has no value else.
pub fn value(metric: &Metric, outcome: &Outcome, row: Option<&RunRow>) -> Result<Option<f64>, String> {
    let Prepared::Own(own) = &metric.prepared else { return Ok(None) };
    if outcome.error.is_some() {
        return Ok((metric.entry.direction == Direction::Higher).then_some(0.0));
    }
    if row.is_none() && !own.is_of_outcome() {
        return Ok(None);
    }
    own.expression.number(&scope(own, outcome, row))
}

/// Everything by its name. Stages' names come last: a definition whose name is a stage's is refused.
fn scope(own: &Own, outcome: &Outcome, row: Option<&RunRow>) -> Value {
    let number = |value: Option<f64>| value.map_or(Value::from(()), Value::from);
    let text = |value: Option<&str>| value.map_or(Value::from(()), Value::from);
    let stages: BTreeMap<&str, Value> = outcome
        .stages
        .iter()
        .map(|stage| {
            if stage.skipped {
                return (stage.stage.as_str(), Value::from(()));
            }
            let prefix = format!("{}.", stage.stage);
            let scores = outcome.scores.iter().filter_map(|(name, value)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), Value::from(*value)))
            });
            let parts = [
                ("output", Value::from(stage.output.as_str())),
                ("tokens_in", Value::from(stage.tokens_in)),
                ("tokens_out", Value::from(stage.tokens_out)),
                ("ms", Value::from(stage.ms)),
                ("retries", Value::from(stage.retries)),
                ("format_ok", Value::from(stage.format_ok)),
                ("probability", number(stage.probability)),
            ];
            let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value));
            (stage.stage.as_str(), scores.chain(parts).collect::<BTreeMap<_, _>>().into())
        })
        .collect();
    let probability = rows::last_stage(outcome).and_then(|stage| stage.probability);
    let ms: f64 = outcome.stages.iter().map(|s| s.ms).sum();
    let mut names: BTreeMap<String, Value> = BTreeMap::new();
    names.extend(own.used.iter().map(|m| (m.name.clone(), number(rows::value(m, outcome)))));
    names.extend(stages.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let scores: BTreeMap<&str, f64> = outcome.scores.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let correct = own.correct.as_ref().and_then(|m| m.right(rows::value(m, outcome)?));
    let fixed = [
        ("output", Value::from(outcome.output.as_str())),
        ("gold", text(outcome.gold.as_deref())),
        ("input", text(row.map(|row| row.input.as_str()))),
        ("fields", row.map_or(Value::from(()), |row| Value::from_serialize(&row.fields))),
        ("correct", correct.map_or(Value::from(()), Value::from)),
        ("tokens_in", Value::from(outcome.tokens_in())),
        ("tokens_out", Value::from(outcome.tokens_out())),
        ("ms", Value::from(ms)),
        ("probability", number(probability)),
        ("scores", Value::from_serialize(&scores)),
        ("stages", Value::from_serialize(&stages)),
    ];
    names.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    names.into_iter().collect()
}

/// A metric of this kind.
pub fn is_own(metric: &Metric) -> bool {
    metric.entry.base == Base::Expression
}
