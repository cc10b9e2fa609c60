//! A metric over many outcomes.

use std::collections::BTreeMap;

use super::calibration::calibration;
use super::labels::Confusion;
use super::metric::{Base, Metric};
use super::stats::percentile;
use super::{repeats, rows};
use crate::domain::board::Percentiles;
use crate::domain::candidate::Candidate;
use crate::domain::outcome::Outcome;

/// The metric's value over `outcomes`; none where it was not measured: no gold, no latency pass, no price.
pub fn value(metric: &Metric, outcomes: &[&Outcome], candidate: Option<&Candidate>) -> Option<f64> {
    match metric.entry.base {
        Base::MacroF1 => confusion(outcomes).macro_f1(),
        Base::WeightedF1 => confusion(outcomes).weighted_f1(),
        Base::Precision | Base::Recall | Base::F1 => {
            let class = confusion(outcomes).class(metric.argument.as_deref()?)?;
            Some(match metric.entry.base {
                Base::Precision => class.precision,
                Base::Recall => class.recall,
                _ => class.f1,
            })
        }
        Base::Latency(percent) => {
            percentile(&latencies(outcomes, metric.stage.as_deref()), f64::from(percent) / 100.0)
        }
        Base::UsdPer1k => usd_per_1k(candidate?, outcomes),
        Base::Ece => calibration(&confidences(outcomes, metric.stage.as_deref())).map(|c| c.ece),
        // What is spent is spent on each answer, however many a row gets.
        Base::TokensIn | Base::TokensOut => mean(outcomes.iter().filter_map(|o| rows::value(metric, o))),
        _ => mean(repeats::values(metric, outcomes).into_iter()),
    }
}

/// Several metrics by name. Those that were not measured are left out.
pub fn values(
    metrics: &[Metric],
    outcomes: &[&Outcome],
    candidate: Option<&Candidate>,
) -> BTreeMap<String, f64> {
    metrics.iter().filter_map(|m| Some((m.name.clone(), value(m, outcomes, candidate)?))).collect()
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Golden and answered classes of the rows that have a gold and were asked.
pub fn confusion(outcomes: &[&Outcome]) -> Confusion {
    // Of some outcomes made elsewhere only right or wrong is known.
    let asked = |o: &&&Outcome| !o.output.is_empty() || !o.stages.is_empty() || o.error.is_some();
    Confusion::count(outcomes.iter().filter(asked).filter_map(|o| {
        let answer = rows::readable(o).then_some(o.output.as_str());
        Some((o.gold.as_deref()?, answer))
    }))
}

/// Probabilities of the likeliest labels with whether they are right, of the pipeline or of one stage.
pub fn confidences(outcomes: &[&Outcome], stage: Option<&str>) -> Vec<(f64, bool)> {
    let Some(accuracy) = rows::accuracy_of(stage) else { return Vec::new() };
    outcomes.iter().filter_map(|o| rows::confidence(o, stage, &accuracy)).collect()
}

/// Milliseconds of the latency pass, ascending: of the whole pipeline, or of one stage.
fn latencies(outcomes: &[&Outcome], stage: Option<&str>) -> Vec<f64> {
    let mut all: Vec<f64> = outcomes
        .iter()
        .filter_map(|o| {
            let whole = o.latency_ms?;
            match stage {
                None => Some(whole),
                // Timed one by one in the latency pass only, so other rows' stage times say nothing.
                Some(name) => o.stages.iter().find(|s| s.stage == name && !s.skipped).map(|s| s.ms),
            }
        })
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    all
}

/// Percentiles of the latency pass; none where there was none.
pub fn latency(outcomes: &[&Outcome]) -> Option<Percentiles> {
    let all = latencies(outcomes, None);
    let at = |q| percentile(&all, q);
    Some(Percentiles { p50: at(0.50)?, p90: at(0.90)?, p95: at(0.95)?, p99: at(0.99)? })
}

/// US dollars per 1,000 rows: tokens by their price, and a local machine's hours by the latency pass. None where no model has a price, or
/// where a machine's price meets no latency.
fn usd_per_1k(candidate: &Candidate, outcomes: &[&Outcome]) -> Option<f64> {
    let mut usd = None;
    for stage in &candidate.stages {
        let model = &stage.model;
        let ran = |o: &Outcome| o.stages.iter().find(|s| s.stage == stage.name && !s.skipped).cloned();
        let per_row = |of: &dyn Fn(&Outcome) -> Option<f64>| mean(outcomes.iter().filter_map(|o| of(o)));
        for (price, tokens) in [
            (
                model.usd_per_million_input,
                (|s| s.tokens_in) as fn(&crate::domain::outcome::StageOutcome) -> u64,
            ),
            (model.usd_per_million_output, |s| s.tokens_out),
        ] {
            if let Some(price) = price {
                let tokens =
                    per_row(&|o| (!o.stages.is_empty()).then(|| ran(o).map_or(0.0, |s| tokens(&s) as f64)))?;
                *usd.get_or_insert(0.0) += tokens * price / 1e6;
            }
        }
        if let Some(price) = model.usd_per_hour {
            let ms = per_row(&|o| o.latency_ms.map(|_| ran(o).map_or(0.0, |s| s.ms)))?;
            *usd.get_or_insert(0.0) += ms / 3_600_000.0 * price;
        }
    }
    usd.map(|usd| usd * 1_000.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::candidate::{Decoding, Limits, ModelRef, ModelSource, OutputKind, StageCandidate};
    use crate::domain::outcome::StageOutcome;
    use crate::domain::settings::EvalSettings;
    use crate::score::scorer::Scorer;

    pub fn candidate(name: &str) -> Candidate {
        let model = ModelRef {
            name: "base".into(),
            source: ModelSource::Local { path: "/nowhere".into() },
            hash: "h".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        };
        let stage = StageCandidate {
            name: "route".into(),
            model,
            adapter: None,
            prompt: "{{ input }}".into(),
            prompt_name: "bare".into(),
            output: OutputKind::Label,
            labels: vec!["a".into(), "b".into()],
            decoding: Decoding::default(),
            when: None,
            retries: 0,
            constraint: None,
            tools: Vec::new(),
            gold: None,
            examples: None,
        };
        Candidate { name: name.into(), rung: "baseline".into(), stages: vec![stage] }
    }

    fn scorer() -> Scorer {
        let settings = EvalSettings { metrics: Vec::new(), ..EvalSettings::default() };
        Scorer::new(&settings, &[], std::iter::empty()).unwrap()
    }

    pub fn outcome(row: &str, gold: &str, output: &str, format_ok: bool) -> Outcome {
        let stage = StageOutcome {
            stage: "route".into(),
            output: output.into(),
            tokens_in: 100,
            tokens_out: 10,
            ms: 36.0,
            format_ok,
            ..StageOutcome::default()
        };
        let mut outcome = Outcome {
            row: row.into(),
            row_hash: format!("hash-{row}"),
            output: output.into(),
            gold: Some(gold.into()),
            stages: vec![stage],
            ..Outcome::default()
        };
        scorer().fill(&mut outcome, OutputKind::Label, None);
        outcome
    }

    fn of(name: &str, outcomes: &[Outcome], candidate: &Candidate) -> Option<f64> {
        value(&Metric::find(name).unwrap(), &outcomes.iter().collect::<Vec<_>>(), Some(candidate))
    }

    #[test]
    fn what_was_not_measured_has_no_value() {
        let c = candidate("x");
        for entry in super::super::metric::REGISTRY {
            let name = match entry.argument {
                super::super::metric::Argument::Required(_) => format!("{}:1", entry.name),
                _ => entry.name.to_owned(),
            };
            assert_eq!(of(&name, &[], &c), None, "{name}");
        }
        let rows = [outcome("1", "a", "a", true)];
        assert_eq!(of("latency_p95_ms", &rows, &c), None);
        assert_eq!(of("usd_per_1k", &rows, &c), None);
        assert_eq!(of("precision:zebra", &rows, &c), None);
    }

    #[test]
    fn unread_answers_are_wrong_and_no_class() {
        let rows = [
            outcome("1", "a", "a", true),
            outcome("2", "a", "gibberish", false),
            outcome("3", "b", "a", true),
            outcome("4", "b", "b", true),
        ];
        let c = candidate("x");
        assert_eq!(of("accuracy", &rows, &c), Some(0.5));
        assert_eq!(of("format_error_rate", &rows, &c), Some(0.25));
        assert_eq!(of("precision:a", &rows, &c), Some(0.5));
        assert_eq!(of("recall:a", &rows, &c), Some(0.5));
        let unread = confusion(&rows.iter().collect::<Vec<_>>());
        assert_eq!((unread.labels, unread.unread), (vec!["a".to_owned(), "b".into()], vec![1, 0]));
    }

    #[test]
    fn cost_adds_tokens_and_hours() {
        let mut c = candidate("x");
        c.stages[0].model.usd_per_million_input = Some(2.0);
        c.stages[0].model.usd_per_million_output = Some(10.0);
        let mut rows = [outcome("1", "a", "a", true), outcome("2", "a", "a", true)];
        // 1000 x (100 x 2 + 10 x 10) / 1e6
        assert!((of("usd_per_1k", &rows, &c).unwrap() - 0.3).abs() < 1e-12);
        c.stages[0].model.usd_per_hour = Some(3.6);
        assert_eq!(of("usd_per_1k", &rows, &c), None, "no latency to price the hours by");
        rows[0].latency_ms = Some(36.0);
        // 1000 x 36 ms at 3.6 dollars an hour: 0.036
        assert!((of("usd_per_1k", &rows, &c).unwrap() - 0.336).abs() < 1e-12);
    }
}
