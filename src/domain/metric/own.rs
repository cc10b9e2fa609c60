//! Metrics that a workspace defines: an expression over a row's answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Argument, Base, Direction, Entry, Known, Metric, MetricError, Prepared, REGISTRY, Unit};
use crate::domain::expression::Expression;
use crate::domain::words::nearest;

/// What every expression has in scope, beside the stages and the metrics, each by its name.
pub const SCOPE: [&str; 11] = [
    "output",
    "gold",
    "input",
    "fields",
    "correct",
    "tokens_in",
    "tokens_out",
    "ms",
    "probability",
    "scores",
    "stages",
];

/// `[[metric]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnMetric {
    pub name: String,
    /// minijinja. True is 1, false 0, none no value.
    pub expression: String,
    #[serde(default)]
    pub about: String,
    #[serde(default)]
    pub direction: Direction,
    /// A row is right from this value on (up to it, where lower is better); none: says nothing about right and wrong.
    #[serde(default)]
    pub threshold: Option<f64>,
}

/// A definition with its expression compiled.
#[derive(Debug)]
pub struct Own {
    pub definition: OwnMetric,
    pub expression: Expression,
    /// Metrics of the registry that it names.
    pub used: Vec<Metric>,
    /// What says whether a row is `correct`: the primary metric; `accuracy` where that is an expression itself.
    pub correct: Option<Metric>,
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.definition == other.definition
    }
}

impl Own {
    pub fn about(&self) -> &str {
        match self.definition.about.as_str() {
            "" => &self.definition.expression,
            about => about,
        }
    }

    /// Whether it can be worked out without the row itself, from what a candidate made of it.
    pub fn is_of_outcome(&self) -> bool {
        !self.expression.names().iter().any(|name| matches!(name.as_str(), "input" | "fields"))
    }
}

impl OwnMetric {
    /// Ready to be worked out.
    pub(super) fn metric(&self, known: &Known<'_>) -> Result<Metric, MetricError> {
        let wrong = |why| MetricError::Expression(self.name.clone(), why);
        let expression = Expression::compile(&self.expression).map_err(wrong)?;
        let registry = Known { own: &[], ..*known };
        let flat = |name: &&String| REGISTRY.iter().any(|e| e.name == **name && is_flat(e));
        let used = expression
            .names()
            .iter()
            .filter(flat)
            .map(|name| registry.find(name))
            .collect::<Result<_, _>>()?;
        let correct = match known.primary.filter(|_| expression.names().contains("correct")) {
            Some(primary) => Some(registry.find(primary).or_else(|_| registry.find("accuracy"))?),
            None if expression.names().contains("correct") => Some(registry.find("accuracy")?),
            None => None,
        };
        // An older score under another definition is none of this metric.
        let mut hash = blake3::Hasher::new();
        hash.update(self.expression.as_bytes());
        hash.update(correct.as_ref().map_or("", |m| m.key()).as_bytes());
        let hash = hash.finalize().to_hex();
        let entry = Entry {
            name: "expression",
            base: Base::Expression,
            unit: Unit::Number,
            direction: self.direction,
            per_row: true,
            threshold: self.threshold,
            argument: Argument::None,
            of_stage: false,
            about: "an expression of workspace.toml",
            source: "",
        };
        Ok(Metric {
            name: self.name.clone(),
            entry,
            stage: None,
            argument: None,
            prepared: Prepared::Own(Arc::new(Own { definition: self.clone(), expression, used, correct })),
            key: Some(format!("{}#{}", self.name, &hash[..8])),
        })
    }

    /// What is wrong with the definition, and with which key: its name, or what its expression names. `before` are the metrics above it,
    /// `stages` the stages' names.
    pub fn fault(&self, before: &[Self], stages: &[&str]) -> Result<(), (&'static str, String)> {
        let name = self.name.as_str();
        let is_word = name.len() <= 64
            && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_word {
            return Err((
                "name",
                "must be letters, digits or `_`, at most 64, and start with a letter".into(),
            ));
        }
        let taken = if REGISTRY.iter().any(|e| e.name == name) {
            Some("a metric of tunebench")
        } else if SCOPE.contains(&name) {
            Some("what every expression has in scope")
        } else if stages.contains(&name) {
            Some("a stage")
        } else if before.iter().any(|own| own.name == name) {
            Some("another metric of this file")
        } else {
            None
        };
        if let Some(what) = taken {
            return Err(("name", format!("`{name}` is {what} already; take another name")));
        }
        let metric = self.metric(&Known::default()).map_err(|e| match e {
            MetricError::Expression(_, why) => ("expression", why),
            other => ("expression", other.to_string()),
        })?;
        let Prepared::Own(own) = &metric.prepared else { return Ok(()) };
        let metrics = REGISTRY.iter().filter(|e| is_flat(e)).map(|e| e.name);
        let known: Vec<&str> = SCOPE.into_iter().chain(stages.iter().copied()).chain(metrics).collect();
        if let Some(used) = own.expression.names().iter().find(|used| !known.contains(&used.as_str())) {
            let why = match nearest(used, known.iter().copied()) {
                _ if used == name || before.iter().any(|own| own.name == *used) => {
                    "an expression uses no metric of this file".to_owned()
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("in scope are: {}", known.join(", ")),
            };
            return Err(("expression", format!("`{used}` is not in scope; {why}")));
        }
        Ok(())
    }
}

/// Has a value on each row under its bare name.
fn is_flat(entry: &Entry) -> bool {
    entry.per_row && !matches!(entry.argument, Argument::Required(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, expression: &str) -> OwnMetric {
        OwnMetric { name: name.into(), expression: expression.into(), ..OwnMetric::default() }
    }

    #[test]
    fn a_definition_is_held_against_names_that_are_taken_and_names_that_are_not_there() {
        let before = [own("brief", "tokens_out < 40")];
        let fault = |name: &str, expression: &str| {
            own(name, expression)
                .fault(&before, &["route", "first-pass"])
                .err()
                .map(|(key, why)| format!("{key}: {why}"))
        };
        assert_eq!(fault("right_and_brief", "correct and tokens_out < 40 and route.output != ''"), None);
        assert_eq!(fault("x", "json_fields > 0.5 and fields.channel == 'mail'"), None);
        for (name, expression, want) in [
            ("accuracy", "1", "name: `accuracy` is a metric of tunebench"),
            ("output", "1", "name: `output` is what every"),
            ("route", "1", "name: `route` is a stage"),
            ("brief", "1", "name: `brief` is another metric"),
            ("a-b", "1", "name: must be letters"),
            ("", "1", "name: must be letters"),
            ("x", "tokens_ot < 40", "expression: `tokens_ot` is not in scope; did you mean `tokens_out`?"),
            ("x", "brief and correct", "expression: `brief` is not in scope; an expression uses no"),
            ("x", "x + 1", "expression: `x` is not in scope; an expression uses no"),
            ("x", "macro_f1 > 0.5", "expression: `macro_f1` is not in scope"),
            ("x", "1 +", "expression: is not an expression"),
            ("x", &" ".repeat(5000), "expression: the expression is longer"),
        ] {
            let said = fault(name, expression).unwrap_or_default();
            assert!(said.starts_with(want), "{name} {expression}: {said}");
        }
    }

    #[test]
    fn a_changed_definition_is_another_metric() {
        let key = |expression: &str, primary| {
            let all = [own("x", expression)];
            Known { own: &all, primary, ..Known::default() }.find("x").unwrap().key().to_owned()
        };
        assert_eq!(key("tokens_out < 40", None), key("tokens_out < 40", Some("exact")));
        assert_ne!(key("tokens_out < 40", None), key("tokens_out < 41", None));
        assert_ne!(key("correct", Some("exact")), key("correct", Some("normalized")));
        assert_eq!(
            key("correct", Some("x")),
            key("correct", Some("accuracy")),
            "an expression is not correct by itself"
        );
    }

    #[test]
    fn it_is_primary_where_it_has_a_threshold() {
        let mut all = [own("x", "tokens_out < 40")];
        let said = Known { own: &all, ..Known::default() }.primary("x").unwrap_err().to_string();
        assert!(said.contains("threshold"), "{said}");
        all[0].threshold = Some(0.5);
        let known = Known { own: &all, ..Known::default() };
        assert_eq!(known.primary("x").unwrap().right(1.0), Some(true));
        assert!(known.find("route.x").is_err() && known.find("x:y").is_err());
        let said = known.find("y").unwrap_err().to_string();
        assert!(said.ends_with(", x"), "{said}");
    }
}
