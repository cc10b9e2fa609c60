//! `[eval]`, `[[metric]]` and `[[goal]]`: metrics by their names.

use std::collections::BTreeMap;

use super::judges::{check_eval_judge, check_judged};
use super::known_model;
use crate::domain::metric::{Direction, Known, Metric, MetricError, OwnMetric};
use crate::domain::row::Part;
use crate::domain::settings::{BUILTIN, EvalSettings, IntentSettings};
use crate::domain::words::nearest;
use crate::workspace::config::{Goal, JudgeEntry, ModelEntry, SetConfig, Stage, Task, Want};
use crate::workspace::reader::{Fields, clip, clip_long};

/// What metrics can be of.
pub(super) struct Named<'a> {
    pub stages: &'a [Stage],
    pub judges: &'a [JudgeEntry],
    /// `[eval] judge`.
    pub default: Option<&'a str>,
    pub known: Known<'a>,
}

/// A metric's name, looked up; a wrong one, or one of a stage or judge that is not there, is a problem of `key`.
fn known_metric(fields: &Fields<'_>, key: &str, found: Result<Metric, MetricError>, named: &Named<'_>) {
    let stages = named.stages;
    match found {
        Ok(metric) if metric.is_judged() => check_judged(fields, key, &metric, named.judges, named.default),
        Err(e) => fields.fault(key, &clip_long(&e.to_string())),
        Ok(Metric { stage: Some(stage), name, .. }) if stages.iter().all(|s| s.name != stage) => {
            let known: Vec<&str> = stages.iter().map(|s| s.name.as_str()).collect();
            let near = nearest(&stage, known.iter().copied());
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("stages: {}", known.join(", ")),
            };
            fields.fault(key, &format!("`{}`: no stage is called `{}`; {hint}", clip(&name), clip(&stage)));
        }
        Ok(_) => {}
    }
}

/// `[[metric]]`: those that are as they should be.
pub(super) fn read_metrics(file: &mut Fields<'_>, stages: &[Stage]) -> Vec<OwnMetric> {
    let stages: Vec<&str> = stages.iter().map(|s| s.name.as_str()).collect();
    let mut own: Vec<OwnMetric> = Vec::new();
    for mut fields in file.table_list("metric") {
        let (name, expression) = (fields.string("name"), fields.string("expression"));
        let metric = OwnMetric {
            about: fields.string("about").unwrap_or_default(),
            direction: fields
                .choice("direction", &[("higher", Direction::Higher), ("lower", Direction::Lower)])
                .unwrap_or_default(),
            threshold: fields.number("threshold", "a finite number", |_| true),
            name: name.unwrap_or_default(),
            expression: expression.unwrap_or_default(),
        };
        if !fields.has("name") {
            fields.missing("name", "give the metric a name, name = \"brief_and_right\"");
        }
        if !fields.has("expression") {
            fields.missing(
                "expression",
                "say what it is on a row, expression = \"correct and tokens_out < 40\"",
            );
        }
        if !metric.name.is_empty() && !metric.expression.is_empty() {
            match metric.fault(&own, &stages) {
                Ok(()) => own.push(metric),
                Err((key, why)) => fields.fault(key, &clip_long(&why)),
            }
        }
        fields.finish();
    }
    own
}

/// `[[goal]]`.
pub(super) fn read_goal(mut fields: Fields<'_>, named: &Named<'_>) -> Option<Goal> {
    let metric = fields.string("metric");
    let at_least = fields.number("at_least", "a finite number", |_| true);
    let at_most = fields.number("at_most", "a finite number", |_| true);
    match &metric {
        Some(name) => known_metric(&fields, "metric", named.known.find(name), named),
        None if !fields.has("metric") => {
            fields.missing("metric", "name what the goal is about, metric = \"accuracy\"");
        }
        None => {}
    }
    let want = match (at_least, at_most) {
        (Some(limit), None) => Some(Want::AtLeast(limit)),
        (None, Some(limit)) => Some(Want::AtMost(limit)),
        (Some(_), Some(_)) => {
            fields.fault("at_most", "a goal has at_least or at_most, not both; write two goals");
            None
        }
        (None, None) => {
            if !fields.has("at_least") && !fields.has("at_most") {
                fields.missing("at_least", "say at_least = NUMBER or at_most = NUMBER");
            }
            None
        }
    };
    fields.finish();
    Some(Goal { metric: metric?, want: want? })
}

/// `[eval]`, and the model that judges.
pub(super) fn read_eval(
    mut fields: Fields<'_>,
    task: Task,
    models: &BTreeMap<String, ModelEntry>,
    named: &Named<'_>,
    sets: &[SetConfig],
) -> (EvalSettings, Option<String>) {
    let Named { stages, known, .. } = named;
    let own = known.own;
    let base = EvalSettings::default();
    let (primary, metrics): (&str, &[&str]) = match task {
        Task::Classification => (base.primary.as_str(), &[]),
        Task::Extraction => {
            ("accuracy", &["accuracy", "json_valid", "json_fields", "format_error_rate", "latency_p95_ms"])
        }
        Task::Generation => ("normalized", &["normalized", "exact", "latency_p95_ms"]),
        Task::Agent => ("accuracy", &["accuracy", "format_error_rate", "latency_p95_ms"]),
    };
    let metrics = if metrics.is_empty() {
        base.metrics.clone()
    } else {
        metrics.iter().map(|&m| m.to_owned()).collect()
    };
    let default = EvalSettings { primary: primary.into(), metrics, ..base.clone() };

    let primary = fields.string("primary");
    if let Some(name) = &primary {
        known_metric(&fields, "primary", known.primary(name), named);
    }
    let metrics = fields.strings("metrics");
    for name in metrics.iter().flatten() {
        known_metric(&fields, "metrics", known.find(name), named);
    }
    let judge = fields.string("judge");
    if let Some(judge) = &judge {
        check_eval_judge(&fields, judge, named.judges, models);
    }
    let part = fields.choice("part", &[Part::Eval, Part::Reserve].map(|p| (p.name(), p)));
    if part.is_some() && !fields.is_set("part") {
        fields.fault("part", "a look at the reserve is asked for run by run: --set part=reserve");
    }
    let wanted = fields.strings("sets");
    for name in wanted.iter().flatten() {
        let there = || sets.iter().map(|set| set.settings.name.as_str());
        if !there().any(|set| set == name) {
            let hint = match nearest(name, there()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if sets.is_empty() => "there are none; add a table [[set]]".to_owned(),
                None => format!("sets: {}", there().collect::<Vec<_>>().join(", ")),
            };
            fields.fault("sets", &format!("no set is called `{}`; {hint}", clip(name)));
        }
    }
    let mut settings = EvalSettings {
        sets: wanted,
        part: part.unwrap_or(default.part),
        primary: primary.unwrap_or(default.primary),
        metrics: metrics.unwrap_or(default.metrics),
        latency_rows: fields.count("latency_rows", 0..=1_000_000).unwrap_or(default.latency_rows),
        samples: fields.whole("samples", 1..=1000).map_or(default.samples, |n| n as u32),
        intent: read_intent(&mut fields, models),
        own: own.to_vec(),
        ..default
    };
    // What decides right and wrong is always shown.
    if !settings.metrics.contains(&settings.primary) {
        settings.metrics.insert(0, settings.primary.clone());
    }
    for metric in stages.iter().filter_map(|stage| stage.metric.as_ref()) {
        if !settings.metrics.contains(metric) {
            settings.metrics.push(metric.clone());
        }
    }
    // A metric that a person wrote is one to look at.
    for own in own {
        if !settings.metrics.contains(&own.name) {
            settings.metrics.push(own.name.clone());
        }
    }
    fields.finish();
    (settings, judge)
}

/// `intent = { embedder = "builtin", threshold = 0.8 }`
fn read_intent(fields: &mut Fields<'_>, models: &BTreeMap<String, ModelEntry>) -> IntentSettings {
    let default = IntentSettings::default();
    let mut table = fields.table_or_empty("intent");
    let embedder = table.string("embedder").unwrap_or(default.embedder);
    if embedder != BUILTIN {
        known_model(&table, "embedder", &embedder, models);
    }
    let share = |n: f64| n > 0.0 && n <= 1.0;
    let threshold = table.number("threshold", "above 0 and at most 1", share).unwrap_or(default.threshold);
    table.finish();
    IntentSettings { embedder, model: None, threshold }
}
