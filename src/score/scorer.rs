//! Scoring the rows of a candidate: every metric asked for, with what the candidate's stages say of their answers.

use std::collections::BTreeMap;

use super::expression;
use super::intent::Intent;
use super::metric::{Base, Metric, MetricError, Prepared, Schema};
use super::rows::{self, Answer};
use crate::domain::candidate::{Constraint, OutputKind, StageCandidate};
use crate::domain::outcome::Outcome;
use crate::domain::row::RunRow;
use crate::domain::settings::EvalSettings;

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
        let intent = wants(Base::Intent).then(|| Intent::fit(golds));
        let stage = |spec: &StageCandidate| {
            let schema = match &spec.constraint {
                Some(Constraint::Schema(schema)) if wants(Base::JsonSchema) => Schema::new(schema).ok(),
                _ => None,
            };
            (spec.name.clone(), Stage { spec: spec.clone(), schema })
        };
        let stages = stages.iter().map(stage).collect();
        Ok(Self { primary, metrics, stages, intent })
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
                self.value(metric, outcome, kind, row)
            };
            if let Some(value) = value.filter(|v| v.is_finite()) {
                outcome.scores.insert(metric.key().to_owned(), value);
            }
        }
        outcome.correct = outcome.scores.get(self.primary.key()).and_then(|&score| self.primary.right(score));
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
            Base::Brier => return rows::value(metric, outcome),
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
