//! The one registry of metrics: name, unit, direction, per row or not, threshold. A workspace adds its own ([`OwnMetric`]).
//!
//! A name is `base`, `base:ARGUMENT` (`precision:billing`, `json_fields:address.city`) or, for one stage of a pipeline, `STAGE.base`.

mod own;
mod prepared;
mod registry;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::words::nearest;
pub use own::{Own, OwnMetric, SCOPE};
pub use prepared::{Pattern, Prepared, Schema, Tolerance};
pub use registry::REGISTRY;

/// What a value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 0 to 1; on a row 0 or 1.
    Share,
    /// 0 to 1, on a row too.
    Score,
    Milliseconds,
    Tokens,
    Characters,
    Words,
    UsDollars,
    /// Whatever an expression says.
    Number,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    #[default]
    Higher,
    Lower,
}

/// How a metric is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Accuracy,
    Exact,
    Normalized,
    Contains,
    Regex,
    Numeric,
    RougeL,
    Intent,
    JsonValid,
    JsonSchema,
    JsonFields,
    RightTool,
    RightArguments,
    ToolPrecision,
    ToolRecall,
    InvalidTool,
    InvalidParameter,
    FormatErrorRate,
    RefusalRate,
    LengthChars,
    LengthWords,
    MacroF1,
    WeightedF1,
    Precision,
    Recall,
    F1,
    Ece,
    Brier,
    /// Percentile of the latency pass.
    Latency(u8),
    TokensIn,
    TokensOut,
    UsdPer1k,
    /// Share of rows that a judge calls right.
    Judge,
    /// Mean of a judge's verdicts between worst and best.
    JudgeScore,
    PassAt,
    Majority,
    RowVariance,
    /// A workspace's own.
    Expression,
}

/// What follows the colon of a metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    None,
    Optional(&'static str),
    Required(&'static str),
}

/// One line of the registry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub name: &'static str,
    pub base: Base,
    pub unit: Unit,
    pub direction: Direction,
    /// Has a value on each row (whose mean it is); only such a metric can be compared row by row.
    pub per_row: bool,
    /// A row is right from this value on (up to it, where lower is better). None: says nothing about right and wrong.
    pub threshold: Option<f64>,
    pub argument: Argument,
    /// Can be asked of one stage.
    pub of_stage: bool,
    pub about: &'static str,
    /// Where the formula or the definition comes from; empty where the name says it all.
    pub source: &'static str,
}

/// A metric asked for by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As it was asked for; the key in flat results.
    pub name: String,
    /// Its line of the registry; of a workspace's metric what stands for one. A threshold that the workspace sets is the one here.
    pub entry: Entry,
    pub stage: Option<String>,
    pub argument: Option<String>,
    /// What it is worked out with, read once.
    pub prepared: Prepared,
    /// The key in an outcome's `scores`: the name, and where what it means is written in the workspace, a hash of that.
    key: Option<String>,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MetricError {
    #[error("`{0}` is no metric; {near}metrics: {2}", near = .1.as_ref().map(|near| format!("did you mean `{near}`? ")).unwrap_or_default())]
    Unknown(String, Option<String>, String),
    #[error("the metric `{0}` needs a {1}: `{0}:{1}`")]
    ArgumentMissing(&'static str, &'static str),
    #[error("the metric `{0}` takes nothing after a colon, found `{1}`")]
    ArgumentExcess(String, String),
    #[error("the metric `{0}`: {1}")]
    ArgumentWrong(&'static str, String),
    #[error("the metric `{0}` is of the whole pipeline, not of one stage")]
    NotOfStage(String),
    #[error("`{0}` does not say which rows are right; per-row metrics that do: {list}", list = primaries())]
    NotPrimary(String),
    #[error("`{0}` has no value on each row, so two candidates cannot be compared row by row; metrics that have one: {list}", list = comparables())]
    NotPerRow(String),
    #[error("the workspace's metric `{0}`: {1}")]
    Expression(String, String),
}

fn listed(keep: impl Fn(&Entry) -> bool) -> String {
    REGISTRY.iter().filter(|e| keep(e)).map(|e| e.name).collect::<Vec<_>>().join(", ")
}

fn primaries() -> String {
    listed(|e| e.threshold.is_some())
}

fn comparables() -> String {
    listed(|e| e.per_row)
}

/// Where names are looked up: the registry and what a workspace adds to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    pub own: &'a [OwnMetric],
    /// Similarity from which on an answer has the gold's intent.
    pub intent: Option<f64>,
    /// The metric that says which rows are right.
    pub primary: Option<&'a str>,
    /// JSON Schemas by the file that `json_schema:FILE` names.
    pub schemas: Option<&'a BTreeMap<String, Arc<Value>>>,
}

impl Known<'_> {
    fn unknown(&self, name: &str, base: &str) -> MetricError {
        let names = || REGISTRY.iter().map(|e| e.name).chain(self.own.iter().map(|own| own.name.as_str()));
        let near = nearest(base, names()).map(str::to_owned);
        MetricError::Unknown(name.to_owned(), near, names().collect::<Vec<_>>().join(", "))
    }

    /// Look a name up.
    pub fn find(&self, name: &str) -> Result<Metric, MetricError> {
        let (head, argument) = match name.split_once(':') {
            Some((head, argument)) => (head, Some(argument.trim().to_owned())),
            None => (name, None),
        };
        // Stage names may hold dots; bases do not.
        let (stage, base) = match head.rsplit_once('.') {
            Some((stage, base)) => (Some(stage.to_owned()), base),
            None => (None, head),
        };
        if let Some(own) = self.own.iter().find(|own| own.name == base) {
            return match (stage, argument) {
                (Some(_), _) => Err(MetricError::NotOfStage(own.name.clone())),
                (_, Some(found)) => Err(MetricError::ArgumentExcess(own.name.clone(), found)),
                (None, None) => own.metric(self),
            };
        }
        let Some(entry) = REGISTRY.iter().find(|e| e.name == base) else {
            return Err(self.unknown(name, base));
        };
        match (entry.argument, &argument) {
            (Argument::Required(what), None) => return Err(MetricError::ArgumentMissing(entry.name, what)),
            (Argument::None, Some(found)) => {
                return Err(MetricError::ArgumentExcess(entry.name.to_owned(), found.clone()));
            }
            _ => {}
        }
        if stage.is_some() && !entry.of_stage {
            return Err(MetricError::NotOfStage(entry.name.to_owned()));
        }
        let mut entry = *entry;
        if let (Base::Intent, Some(threshold)) = (entry.base, self.intent) {
            entry.threshold = Some(threshold);
        }
        let schema = argument.as_ref().and_then(|file| self.schemas?.get(file));
        let wrong = |why| MetricError::ArgumentWrong(entry.name, why);
        let prepared = match (entry.base, self.primary) {
            (Base::Majority, Some(primary)) if primary != name => {
                self.find(primary).map_or(Prepared::Nothing, |primary| Prepared::Vote(Box::new(primary)))
            }
            (base, _) => Prepared::new(base, argument.as_deref(), schema).map_err(wrong)?,
        };
        let key = match &prepared {
            Prepared::Schema(schema) => Some(format!("{name}#{}", schema.hash())),
            _ => None,
        };
        Ok(Metric { name: name.to_owned(), entry, stage, argument, prepared, key })
    }

    /// Look up a metric that says which rows are right.
    pub fn primary(&self, name: &str) -> Result<Metric, MetricError> {
        let metric = self.find(name)?;
        match (metric.entry.threshold, metric.entry.base) {
            (Some(_), _) => Ok(metric),
            (None, Base::Expression) => Err(MetricError::Expression(
                name.to_owned(),
                "does not say which rows are right; give it a threshold = NUMBER".into(),
            )),
            (None, _) => Err(MetricError::NotPrimary(name.to_owned())),
        }
    }

    /// Look up a metric that two candidates can be compared by.
    pub fn comparable(&self, name: &str) -> Result<Metric, MetricError> {
        let metric = self.find(name)?;
        if !metric.entry.per_row {
            return Err(MetricError::NotPerRow(name.to_owned()));
        }
        Ok(metric)
    }
}

impl Metric {
    /// Look a name up in the registry alone.
    pub fn find(name: &str) -> Result<Self, MetricError> {
        Known::default().find(name)
    }

    /// Look up a metric of the registry that two candidates can be compared by.
    pub fn comparable(name: &str) -> Result<Self, MetricError> {
        Known::default().comparable(name)
    }

    /// The key in an outcome's `scores`.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.name)
    }

    /// What it says, for people.
    pub fn about(&self) -> &str {
        match &self.prepared {
            Prepared::Own(own) => own.about(),
            _ => self.entry.about,
        }
    }

    /// A judge decides it; people must agree with that judge before a goal can lean on it.
    pub fn is_judged(&self) -> bool {
        matches!(self.entry.base, Base::Judge | Base::JudgeScore)
    }

    /// A row with this score is right; none where the metric does not tell.
    pub fn right(&self, score: f64) -> Option<bool> {
        self.entry.threshold.map(|at| match self.entry.direction {
            Direction::Higher => score >= at,
            Direction::Lower => score <= at,
        })
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_stage_and_argument() {
        let m = Metric::find("route.accuracy").unwrap();
        assert_eq!((m.stage.as_deref(), m.entry.base), (Some("route"), Base::Accuracy));
        let m = Metric::find("precision:v1.2: beta").unwrap();
        assert_eq!((m.stage, m.argument.as_deref()), (None, Some("v1.2: beta")));
        assert_eq!(
            Metric::find("json_fields:address.city").unwrap().argument.as_deref(),
            Some("address.city")
        );
        assert!(Metric::find("json_fields").is_ok());
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_nearest() {
        let said = Metric::find("acuracy").unwrap_err().to_string();
        assert!(said.contains("`acuracy`") && said.contains("did you mean `accuracy`?"), "{said}");
        let said = Metric::find("wombat").unwrap_err().to_string();
        assert!(!said.contains("did you mean") && said.contains("metrics: accuracy, macro_f1"), "{said}");
        assert!(Metric::find("precision").unwrap_err().to_string().contains("precision:LABEL"));
        assert!(Metric::find("accuracy:x").is_err());
        assert!(Metric::find("route.macro_f1").is_err());
        let known = Known::default();
        assert!(known.primary("macro_f1").unwrap_err().to_string().contains("accuracy, exact"));
        assert!(known.primary("tokens_out").is_err());
        assert!(known.comparable("tokens_out").is_ok());
        assert!(known.comparable("latency_p95_ms").is_err());
    }

    #[test]
    fn the_threshold_follows_the_direction_and_the_workspace() {
        assert_eq!(Metric::find("json_fields").unwrap().right(0.9), Some(false));
        assert_eq!(Metric::find("format_error_rate").unwrap().right(0.0), Some(true));
        assert_eq!(Metric::find("tokens_in").unwrap().right(1.0), None);
        assert_eq!(Metric::find("intent").unwrap().right(0.7), Some(false));
        let known = Known { intent: Some(0.6), ..Known::default() };
        assert_eq!(known.find("answer.intent").unwrap().right(0.7), Some(true));
    }

    #[test]
    fn arguments_that_say_nothing_are_refused() {
        for (name, want) in [
            ("regex:(", "is no regular expression"),
            ("regex:", "is empty"),
            ("regex:a{5000}{5000}", "is too large"),
            ("contains:", "is empty"),
            ("numeric:near", "a tolerance is"),
            ("numeric:-1", "a tolerance is"),
            ("numeric:inf", "a tolerance is"),
            ("pass_at:0", "a whole number"),
            ("pass_at:many", "a whole number"),
        ] {
            let said = Metric::find(name).unwrap_err().to_string();
            assert!(said.contains(want), "{name}: {said}");
        }
        for name in ["regex:^\\d+$", "contains:a b", "numeric:0.5", "numeric:1%", "pass_at:5"] {
            assert!(Metric::find(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn no_name_stands_twice_and_every_line_says_what_it_is() {
        let mut names: Vec<_> = REGISTRY.iter().map(|e| e.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REGISTRY.len());
        assert!(REGISTRY.iter().all(|e| !e.about.is_empty()));
    }
}
