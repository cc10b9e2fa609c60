//! Scoring the rows of a candidate: every metric asked for, with what the candidate's stages say of their answers.

use std::collections::BTreeMap;

use super::expression;
use super::intent::Intent;
use super::metric::{Base, Metric, MetricError, Prepared, Schema};
use super::rows::{self, Answer};
use crate::backend::Access;
use crate::domain::candidate::{Constraint, OutputKind, StageCandidate};
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;
use crate::domain::settings::EvalSettings;
use crate::embed::Source;

/// A stage, and the schema of its answers where a metric asks for it.
#[derive(Debug)]
struct Stage {
    spec: StageCandidate,
    schema: Option<Schema>,
}

/// The metrics of a run, ready to be worked out on its rows.
#[derive(Debug)]
pub struct Scorer {
    primary: Metric,
    /// Those that look at answers first, then what is worked out from those, expressions last.
    metrics: Vec<Metric>,
    stages: BTreeMap<String, Stage>,
    intent: Option<Intent>,
    /// Golds that the model of `[eval] intent` is to embed first; none where no metric asks for it, or it was opened.
    awaited: Option<Vec<String>>,
}

impl Scorer {
    /// `golds` are those of the rows: what the built-in embedder is fitted on, where a metric asks for it.
    pub fn new<'a>(
        settings: &EvalSettings,
        stages: &[StageCandidate],
        golds: impl Iterator<Item = &'a str>,
    ) -> Result<Self, MetricError> {
        let primary = settings.primary_metric()?;
        // What a spec asks for and nobody can work out should not pass in silence.
        for name in settings.metrics.iter().chain(&settings.beside) {
            settings.known().find(name)?;
        }
        let mut metrics = settings.scored();
        let mut at = 0;
        while let Some(metric) = metrics.get(at) {
            let also: Vec<Metric> = match (&metric.prepared, metric.entry.base) {
                (Prepared::Own(own), _) => own.used.iter().chain(&own.correct).cloned().collect(),
                (_, Base::Ece | Base::Brier) => {
                    rows::accuracy_of(metric.stage.as_deref()).into_iter().collect()
                }
                _ => Vec::new(),
            };
            for metric in also {
                if metrics.iter().all(|m| m.name != metric.name) {
                    metrics.push(metric);
                }
            }
            at += 1;
        }
        metrics.sort_by_key(|metric| match metric.entry.base {
            Base::Expression => 2,
            Base::Brier => 1,
            _ => 0,
        });
        let wants = |base| metrics.iter().any(|m| m.entry.base == base);
        let by_model = wants(Base::Intent) && settings.intent.model.is_some();
        let (intent, awaited) = if by_model {
            (None, Some(golds.map(str::to_owned).collect()))
        } else {
            (wants(Base::Intent).then(|| Intent::fit(golds)), None)
        };
        let stage = |spec: &StageCandidate| {
            let schema = match &spec.constraint {
                Some(Constraint::Schema(schema)) if wants(Base::JsonSchema) => Schema::new(schema).ok(),
                _ => None,
            };
            (spec.name.clone(), Stage { spec: spec.clone(), schema })
        };
        let stages = stages.iter().map(stage).collect();
        Ok(Self { primary, metrics, stages, intent, awaited })
    }

    /// With the model of `[eval] intent`, where a metric asks for it.
    ///
    /// # Errors
    /// Why it cannot embed, in words.
    pub fn with_embedder(mut self, settings: &EvalSettings, access: &Access) -> Result<Self, String> {
        if let (Some(golds), Some(model)) = (self.awaited.take(), &settings.intent.model) {
            self.intent = Some(Intent::by(Source::open(model, access)?, &golds)?);
        }
        Ok(self)
    }

    /// The metric that says which rows are right.
    pub const fn primary(&self) -> &Metric {
        &self.primary
    }

    /// Fill an outcome's scores and its right or wrong. `kind` is that of its answer. What cannot be worked out is kept in `unscored` with why.
    pub fn fill(&self, outcome: &mut Outcome, kind: OutputKind, row: Option<&RunRow>) {
        for metric in &self.metrics {
            let value = if expression::is_own(metric) {
                match expression::value(metric, outcome, row) {
                    Ok(value) => value,
                    Err(why) => {
                        outcome.unscored.insert(metric.key().to_owned(), why);
                        None
                    }
                }
            } else {
                let value = self.value(metric, outcome, kind, row);
                if value.is_none()
                    && metric.entry.base == Base::Intent
                    && let Some(why) = self.intent.as_ref().and_then(Intent::trouble)
                {
                    outcome.unscored.insert(metric.key().to_owned(), why);
                }
                value
            };
            if let Some(value) = value.filter(|v| v.is_finite()) {
                outcome.scores.insert(metric.key().to_owned(), value);
            }
        }
        outcome.correct = outcome.scores.get(self.primary.key()).and_then(|&score| self.primary.right(score));
    }

    /// What judges say came after the answer: their scores, what is worked out from those, and right or wrong where that hangs on them.
    pub fn fill_judged(&self, outcome: &mut Outcome, row: Option<&RunRow>) {
        for metric in self.metrics.iter().filter(|m| m.is_judged() || expression::is_own(m)) {
            let value = if metric.is_judged() {
                rows::value(metric, outcome)
            } else {
                outcome.unscored.remove(metric.key());
                expression::value(metric, outcome, row).unwrap_or_else(|why| {
                    outcome.unscored.insert(metric.key().to_owned(), why);
                    None
                })
            };
            match value.filter(|v| v.is_finite()) {
                Some(value) => outcome.scores.insert(metric.key().to_owned(), value),
                None => outcome.scores.remove(metric.key()),
            };
        }
        let primary = &self.primary;
        if primary.is_judged() || expression::is_own(primary) {
            outcome.correct = outcome.scores.get(primary.key()).and_then(|&score| primary.right(score));
        }
    }

    fn value(
        &self,
        metric: &Metric,
        outcome: &Outcome,
        kind: OutputKind,
        row: Option<&RunRow>,
    ) -> Option<f64> {
        match metric.entry.base {
            Base::FormatErrorRate => return rows::format_error(outcome, metric.stage.as_deref()),
            Base::Brier | Base::Judge | Base::JudgeScore => return rows::value(metric, outcome),
            _ => {}
        }
        let intent = self.intent.as_ref();
        match &metric.stage {
            None => {
                let stage = rows::last_stage(outcome).and_then(|ran| self.stages.get(&ran.stage));
                let answer = Answer {
                    output: &outcome.output,
                    gold: outcome.gold.as_deref(),
                    kind: Some(kind),
                    readable: rows::readable(outcome),
                    tools: stage.map_or(&[], |s| &s.spec.tools),
                    schema: stage.and_then(|s| s.schema.as_ref()),
                    intent,
                };
                rows::judged(outcome, metric, &answer)
            }
            Some(name) => {
                let stage = self.stages.get(name)?;
                let gold = row.and_then(|row| stage.spec.own_gold(&row.fields));
                let ran = rows::stage_of(outcome, name);
                // A stage that should have answered and did not is wrong; without a gold nothing was asked of it.
                if ran.is_none() && gold.is_none() {
                    return None;
                }
                let answer = Answer {
                    output: ran.map_or("", |s| &s.output),
                    gold: gold.as_deref(),
                    kind: Some(stage.spec.output),
                    readable: ran.is_some_and(|s| s.format_ok),
                    tools: &stage.spec.tools,
                    schema: stage.schema.as_ref(),
                    intent,
                };
                rows::judged(outcome, metric, &answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::metric::OwnMetric;
    use crate::domain::outcome::StageOutcome;
    use crate::pipeline::tests as scripted;
    use serde_json::json;

    fn settings(metrics: &[&str]) -> EvalSettings {
        EvalSettings { metrics: metrics.iter().map(|m| (*m).to_owned()).collect(), ..EvalSettings::default() }
    }

    fn answered(stage: &str, output: &str) -> Outcome {
        let stage = StageOutcome {
            stage: stage.into(),
            output: output.into(),
            tokens_out: 7,
            format_ok: true,
            probability: Some(0.8),
            ..StageOutcome::default()
        };
        Outcome { output: output.into(), stages: vec![stage], ..Outcome::default() }
    }

    #[test]
    fn the_stage_says_what_may_be_called_and_what_its_answers_look_like() {
        let mut call = scripted::stage("call", "{{ input }}", OutputKind::Tool, &[]);
        call.tools = crate::domain::tool::tests::tools();
        let mut extract = scripted::stage("extract", "{{ input }}", OutputKind::Json, &[]);
        extract.constraint = Some(Constraint::Schema(json!({ "type": "object", "required": ["a"] })));
        let metrics =
            ["invalid_tool_rate", "extract.json_schema", "json_schema", "call.invalid_parameter_rate"];
        let scorer = Scorer::new(&settings(&metrics), &[extract, call], std::iter::empty()).unwrap();
        let mut outcome = answered("extract", "{\"b\": 1}");
        outcome
            .stages
            .extend(answered("call", "{\"name\": \"weather\", \"arguments\": {\"town\": 1}}").stages);
        outcome.output.clone_from(&outcome.stages[1].output);
        scorer.fill(&mut outcome, OutputKind::Tool, None);
        assert_eq!(outcome.scores["invalid_tool_rate"], 0.0);
        assert_eq!(outcome.scores["call.invalid_parameter_rate"], 1.0);
        assert_eq!(outcome.scores["extract.json_schema"], 0.0);
        assert!(!outcome.scores.contains_key("json_schema"), "the last stage has no schema");
        assert_eq!(outcome.correct, None, "without a gold");
    }

    #[test]
    fn what_an_expression_names_is_scored_first() {
        let own = OwnMetric {
            name: "good".into(),
            expression: "normalized and brier < 0.1 and s.tokens_out == 7 and s.accuracy == 1 and scores['contains:x'] == 1".into(),
            threshold: Some(0.5),
            ..OwnMetric::default()
        };
        let mut stage = scripted::stage("s", "{{ input }}", OutputKind::Text, &[]);
        stage.gold = Some("own".into());
        let settings = EvalSettings {
            primary: "good".into(),
            own: vec![own],
            ..settings(&["good", "s.accuracy", "contains:x"])
        };
        let scorer = Scorer::new(&settings, &[stage], std::iter::empty()).unwrap();
        let mut row = scripted::row("1", "in");
        row.fields.insert("own".into(), "x y".into());
        let mut outcome = Outcome { gold: Some("X, y".into()), ..answered("s", "x y") };
        scorer.fill(&mut outcome, OutputKind::Text, Some(&row));
        assert_eq!(outcome.unscored, BTreeMap::new());
        // Brier of 0.8 on an answer that is wrong letter for letter.
        assert!((outcome.scores["brier"] - 0.64).abs() < 1e-12);
        assert_eq!(outcome.correct, Some(false));
        let mut outcome = Outcome { gold: Some("x y".into()), ..answered("s", "x y") };
        scorer.fill(&mut outcome, OutputKind::Text, Some(&row));
        assert_eq!(outcome.correct, Some(true), "{:?}", outcome.scores);
    }

    #[test]
    fn a_value_is_known_of_old_outcomes_where_they_say_enough() {
        let own = |expression: &str| OwnMetric {
            name: "x".into(),
            expression: expression.into(),
            threshold: Some(0.5),
            ..OwnMetric::default()
        };
        let value = |expression: &str, outcome: &Outcome| {
            let settings = EvalSettings { own: vec![own(expression)], ..EvalSettings::default() };
            rows::value(&settings.known().find("x").unwrap(), outcome)
        };
        let mut old = Outcome { gold: Some("x".into()), correct: Some(true), ..answered("s", "x") };
        assert_eq!(value("correct and tokens_out < 40", &old), Some(1.0));
        assert_eq!(value("correct and fields.a == 1", &old), None, "the row is not here");
        assert_eq!(value("output + 1", &old), None);
        old.error = Some("gone".into());
        assert_eq!(value("tokens_out < 40", &old), Some(0.0), "what failed is wrong");
    }

    #[test]
    fn hostile_answers_are_scored() {
        let metrics = [
            "exact",
            "normalized",
            "contains",
            "regex:^(a+)+$",
            "numeric",
            "rouge_l",
            "intent",
            "json_valid",
            "json_fields",
            "right_tool",
            "tool_precision",
            "refusal_rate",
            "length_chars",
            "length_words",
            "invalid_tool_rate",
        ];
        let stage = scripted::stage("s", "{{ input }}", OutputKind::Text, &[]);
        let scorer = Scorer::new(&settings(&metrics), &[stage], ["gold one", ""].into_iter()).unwrap();
        let long = "aaaaaaaaa! 12,345 \u{202e}\u{1b}[31m ".repeat(30_000);
        let deep = "[".repeat(100_000);
        for output in [
            "",
            "\u{0}",
            long.as_str(),
            deep.as_str(),
            "{\"name\": NaN}",
            "1e999",
            "\u{1f468}\u{200d}\u{1f469}",
        ] {
            for gold in ["", "gold one", long.as_str(), "{\"a\": {}}"] {
                let mut outcome = Outcome { gold: Some(gold.into()), ..answered("s", output) };
                scorer.fill(&mut outcome, OutputKind::Text, None);
                assert!(outcome.scores.values().all(|v| v.is_finite()));
                let graded = outcome.scores.iter().filter(|(k, _)| !k.starts_with("length"));
                assert!(graded.clone().all(|(_, v)| (0.0..=1.0).contains(v)), "{:?}", outcome.scores);
            }
        }
    }
}
