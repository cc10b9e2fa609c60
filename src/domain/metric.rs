//! The one registry of metrics: name, unit, direction, per row or not, threshold.
//!
//! A name is `base`, `base:ARGUMENT` (`precision:billing`, `json_fields:address.city`) or, for one stage of a pipeline, `STAGE.base`.

use std::fmt;

use thiserror::Error;

use super::words::nearest;

/// What a value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 0 to 1.
    Share,
    Milliseconds,
    Tokens,
    UsDollars,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Higher,
    Lower,
}

/// How a metric is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Accuracy,
    Exact,
    Normalized,
    JsonValid,
    JsonFields,
    RightTool,
    RightArguments,
    FormatErrorRate,
    MacroF1,
    WeightedF1,
    Precision,
    Recall,
    F1,
    /// Percentile of the latency pass.
    Latency(u8),
    TokensIn,
    TokensOut,
    UsdPer1k,
    /// Share of rows that a judge calls right.
    Judge,
    /// Mean of a judge's verdicts between worst and best.
    JudgeScore,
}

/// What follows the colon of a metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    None,
    Optional(&'static str),
    Required(&'static str),
}

/// One line of the registry.
#[derive(Debug, PartialEq)]
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
}

const fn share(name: &'static str, base: Base, about: &'static str) -> Entry {
    Entry {
        name,
        base,
        unit: Unit::Share,
        direction: Direction::Higher,
        per_row: false,
        threshold: None,
        argument: Argument::None,
        of_stage: false,
        about,
    }
}

const fn per_row(name: &'static str, base: Base, threshold: f64, about: &'static str) -> Entry {
    Entry { per_row: true, threshold: Some(threshold), of_stage: true, ..share(name, base, about) }
}

const fn latency(name: &'static str, percent: u8) -> Entry {
    Entry {
        unit: Unit::Milliseconds,
        direction: Direction::Lower,
        of_stage: true,
        ..share(name, Base::Latency(percent), "what a user would wait: one row at a time, warmed, no cache")
    }
}

const fn tokens(name: &'static str, base: Base, about: &'static str) -> Entry {
    Entry {
        unit: Unit::Tokens,
        direction: Direction::Lower,
        per_row: true,
        of_stage: true,
        ..share(name, base, about)
    }
}

/// Every metric there is.
pub static REGISTRY: [Entry; 22] = [
    per_row(
        "accuracy",
        Base::Accuracy,
        0.5,
        "share of rows whose answer is the golden one (JSON: the same value)",
    ),
    share("macro_f1", Base::MacroF1, "mean of the classes' F1"),
    share(
        "weighted_f1",
        Base::WeightedF1,
        "mean of the classes' F1, weighted by how often a class is golden",
    ),
    Entry {
        argument: Argument::Required("LABEL"),
        ..share("precision", Base::Precision, "of the rows answered with LABEL, the share that are")
    },
    Entry {
        argument: Argument::Required("LABEL"),
        ..share("recall", Base::Recall, "of the rows that are LABEL, the share answered with it")
    },
    Entry {
        argument: Argument::Required("LABEL"),
        ..share("f1", Base::F1, "harmonic mean of precision and recall of LABEL")
    },
    per_row(
        "exact",
        Base::Exact,
        0.5,
        "the answer is the gold, letter for letter, but for surrounding space",
    ),
    per_row(
        "normalized",
        Base::Normalized,
        0.5,
        "the answer is the gold without regard to case, punctuation, articles and spacing",
    ),
    per_row("json_valid", Base::JsonValid, 0.5, "the answer is JSON"),
    Entry {
        argument: Argument::Optional("FIELD"),
        ..per_row(
            "json_fields",
            Base::JsonFields,
            1.0,
            "share of the gold's fields that the answer has with the same value",
        )
    },
    per_row("right_tool", Base::RightTool, 0.5, "share of calls that call the golden call's tool"),
    per_row(
        "right_arguments",
        Base::RightArguments,
        0.5,
        "of the calls of the golden tool, the share with the golden arguments",
    ),
    Entry {
        direction: Direction::Lower,
        ..per_row(
            "format_error_rate",
            Base::FormatErrorRate,
            0.5,
            "share of rows with an answer that could not be read",
        )
    },
    Entry {
        argument: Argument::Optional("NAME"),
        of_stage: false,
        ..per_row("judge", Base::Judge, 0.5, "share of rows that the judge NAME calls right")
    },
    Entry {
        argument: Argument::Optional("NAME"),
        of_stage: false,
        threshold: None,
        ..per_row(
            "judge_score",
            Base::JudgeScore,
            0.5,
            "mean verdict of the judge NAME, from 0 (worst) to 1 (best)",
        )
    },
    latency("latency_p50_ms", 50),
    latency("latency_p90_ms", 90),
    latency("latency_p95_ms", 95),
    latency("latency_p99_ms", 99),
    tokens("tokens_in", Base::TokensIn, "tokens read per row"),
    tokens("tokens_out", Base::TokensOut, "tokens written per row"),
    Entry {
        unit: Unit::UsDollars,
        direction: Direction::Lower,
        ..share("usd_per_1k", Base::UsdPer1k, "US dollars per 1,000 rows, by the models' prices")
    },
];

/// A metric asked for by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As it was asked for; the key in `scores` and in flat results.
    pub name: String,
    pub entry: &'static Entry,
    pub stage: Option<String>,
    pub argument: Option<String>,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MetricError {
    #[error("`{0}` is no metric; {near}metrics: {list}", near = .1.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default(), list = names())]
    Unknown(String, Option<&'static str>),
    #[error("the metric `{0}` needs a {1}: `{0}:{1}`")]
    ArgumentMissing(&'static str, &'static str),
    #[error("the metric `{0}` takes nothing after a colon, found `{1}`")]
    ArgumentExcess(&'static str, String),
    #[error("the metric `{0}` is of the whole pipeline, not of one stage")]
    NotOfStage(&'static str),
    #[error("`{0}` does not say which rows are right; per-row metrics that do: {list}", list = primaries())]
    NotPrimary(String),
    #[error("`{0}` has no value on each row, so two candidates cannot be compared row by row; metrics that have one: {list}", list = comparables())]
    NotPerRow(String),
}

fn listed(keep: impl Fn(&Entry) -> bool) -> String {
    REGISTRY.iter().filter(|e| keep(e)).map(|e| e.name).collect::<Vec<_>>().join(", ")
}

fn names() -> String {
    listed(|_| true)
}

fn primaries() -> String {
    listed(|e| e.threshold.is_some())
}

fn comparables() -> String {
    listed(|e| e.per_row)
}

impl Metric {
    /// Look a name up.
    pub fn find(name: &str) -> Result<Self, MetricError> {
        let (head, argument) = match name.split_once(':') {
            Some((head, argument)) => (head, Some(argument.trim().to_owned())),
            None => (name, None),
        };
        // Stage names may hold dots; bases do not.
        let (stage, base) = match head.rsplit_once('.') {
            Some((stage, base)) => (Some(stage.to_owned()), base),
            None => (None, head),
        };
        let entry = REGISTRY.iter().find(|e| e.name == base).ok_or_else(|| {
            MetricError::Unknown(name.to_owned(), nearest(base, REGISTRY.iter().map(|e| e.name)))
        })?;
        match (entry.argument, &argument) {
            (Argument::Required(what), None) => return Err(MetricError::ArgumentMissing(entry.name, what)),
            (Argument::None, Some(found)) => {
                return Err(MetricError::ArgumentExcess(entry.name, found.clone()));
            }
            _ => {}
        }
        if stage.is_some() && !entry.of_stage {
            return Err(MetricError::NotOfStage(entry.name));
        }
        Ok(Self { name: name.to_owned(), entry, stage, argument })
    }

    /// Look up a metric that says which rows are right.
    pub fn primary(name: &str) -> Result<Self, MetricError> {
        let metric = Self::find(name)?;
        if metric.entry.threshold.is_none() {
            return Err(MetricError::NotPrimary(name.to_owned()));
        }
        Ok(metric)
    }

    /// Look up a metric that two candidates can be compared by.
    pub fn comparable(name: &str) -> Result<Self, MetricError> {
        let metric = Self::find(name)?;
        if !metric.entry.per_row {
            return Err(MetricError::NotPerRow(name.to_owned()));
        }
        Ok(metric)
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
        let said = Metric::find("bleu").unwrap_err().to_string();
        assert!(!said.contains("did you mean") && said.contains("metrics: accuracy, macro_f1"), "{said}");
        assert!(Metric::find("precision").unwrap_err().to_string().contains("precision:LABEL"));
        assert!(Metric::find("accuracy:x").is_err());
        assert!(Metric::find("route.macro_f1").is_err());
        assert!(Metric::primary("macro_f1").unwrap_err().to_string().contains("accuracy, exact"));
        assert!(Metric::primary("tokens_out").is_err());
        assert!(Metric::comparable("tokens_out").is_ok());
        assert!(Metric::comparable("latency_p95_ms").is_err());
    }

    #[test]
    fn the_threshold_follows_the_direction() {
        assert_eq!(Metric::find("json_fields").unwrap().right(0.9), Some(false));
        assert_eq!(Metric::find("format_error_rate").unwrap().right(0.0), Some(true));
        assert_eq!(Metric::find("tokens_in").unwrap().right(1.0), None);
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<_> = REGISTRY.iter().map(|e| e.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REGISTRY.len());
    }
}
