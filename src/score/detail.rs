//! A candidate's detail: classes, calibration, fields, tools, stages, strata.

use std::collections::{BTreeMap, BTreeSet};

use super::aggregate;
use super::board::{IMPORTED, interval, on_the_board};
use super::calibration::calibration;
use super::calls::{self, calls};
use super::labels::Confusion;
use super::metric::{Base, Metric};
use super::{repeats, rows};
use crate::domain::candidate::{Candidate, OutputKind};
use crate::domain::detail::{
    ClassesDetail, Confused, Detail, FieldDetail, Measured, StageDetail, StratumScore, ToolDetail, Unscored,
};
use crate::domain::outcome::Outcome;
use crate::domain::schema::equal;
use crate::domain::settings::EvalSettings;

/// Lines of each list at most, so that an answer fits a frame whatever the data is.
const LINES: usize = 300;
/// Pairs of classes.
const PAIRS: usize = 200;
/// Metrics that could not be worked out.
const ERRORS: usize = 40;
/// Characters of a label, a field or a row's name.
const TEXT: usize = 60;
/// The bootstrap of every metric on more rows than these would be felt; the primary one has its interval always.
const INTERVALS: usize = 20_000;

/// What is measured whether it was asked for or not.
const ALWAYS: [&str; 5] = ["latency_p50_ms", "latency_p95_ms", "tokens_in", "tokens_out", "usd_per_1k"];

/// Everything about a candidate on the rows that count on the board.
pub fn detail(candidate: &Candidate, outcomes: &[Outcome], settings: &EvalSettings) -> Detail {
    let scored = on_the_board(candidate, outcomes);
    let by_row = repeats::by_row(&scored);
    let kind = |o: &Outcome| {
        let ran = rows::last_stage(o)?;
        candidate.stages.iter().find(|s| s.name == ran.stage).map(|s| s.output)
    };
    let of_kind = |wanted: OutputKind| -> Vec<&Outcome> {
        scored.iter().filter(|o| kind(o) == Some(wanted)).copied().collect()
    };
    let made_elsewhere = candidate.rung == IMPORTED || candidate.stages.is_empty();
    let pick = |wanted: OutputKind, looks_so: bool| {
        if made_elsewhere && looks_so { scored.clone() } else { of_kind(wanted) }
    };
    let golds = || scored.iter().filter_map(|o| o.gold.as_deref());
    let classes = classes(&pick(OutputKind::Label, look_like_labels(golds())));
    let objects = made_elsewhere && golds().next().is_some() && golds().all(|g| rows::fields(g).is_some());
    let calling = objects && golds().all(|g| calls(g).is_some());
    let (fields, fields_left_out) = fields(&pick(OutputKind::Json, objects && !calling));
    let tools = tools(candidate, &pick(OutputKind::Tool, calling));

    let known = settings.known();
    let mut wanted = settings.scored();
    let mut also: Vec<&str> = ALWAYS.to_vec();
    if classes.is_some() {
        also.extend(["accuracy", "macro_f1", "weighted_f1"]);
    }
    let confidences = aggregate::confidences(&scored, None);
    if !confidences.is_empty() {
        also.extend(["ece", "brier"]);
    }
    if !tools.is_empty() {
        also.extend(["tool_precision", "tool_recall"]);
    }
    if settings.samples > 1 || scored.iter().any(|o| o.sample > 0) {
        also.extend(["pass_at:1", "majority", "row_variance"]);
    }
    for name in also {
        if wanted.iter().all(|m| m.name != name)
            && let Ok(metric) = known.find(name)
        {
            wanted.push(metric);
        }
    }
    let (of_stages, whole): (Vec<Metric>, Vec<Metric>) = wanted.into_iter().partition(|m| m.stage.is_some());
    let measure = |metric: &Metric| measured(metric, &scored, candidate, &settings.primary);
    let metrics: Vec<Measured> = whole.iter().filter_map(measure).collect();
    let stages = candidate
        .stages
        .iter()
        .map(|stage| stage_detail(&stage.name, &scored, &of_stages, &measure))
        .collect();
    let missing = |m: &&Metric| !ALWAYS.contains(&m.name.as_str()) && measure(m).is_none();
    let not_measured = whole.iter().chain(&of_stages).filter(missing).map(|m| m.name.clone()).collect();
    let primary = settings.primary_metric().ok();
    Detail {
        candidate: candidate.name.clone(),
        id: candidate.id(),
        rung: candidate.rung.clone(),
        // What only the caller knows.
        run: None,
        stale: 0,
        n: by_row.len(),
        samples: by_row.iter().map(Vec::len).max().unwrap_or(0),
        errors: by_row.iter().filter(|row| row.iter().any(|o| o.error.is_some())).count(),
        without_gold: by_row.iter().filter(|row| row.iter().all(|o| o.gold.is_none())).count(),
        primary: settings.primary.clone(),
        metrics,
        not_measured,
        classes,
        calibration: calibration(&confidences),
        fields,
        fields_left_out,
        tools,
        stages,
        strata: primary.map(|primary| strata(&primary, &scored)).unwrap_or_default(),
        unscored: unscored(&scored),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn measured(
    metric: &Metric,
    outcomes: &[&Outcome],
    candidate: &Candidate,
    primary: &str,
) -> Option<Measured> {
    let value = aggregate::value(metric, outcomes, Some(candidate))?;
    let per_row = metric.entry.per_row
        || matches!(metric.entry.base, Base::PassAt | Base::Majority | Base::RowVariance);
    let values = if per_row { repeats::values(metric, outcomes) } else { Vec::new() };
    let n = if per_row {
        values.len()
    } else {
        match metric.entry.base {
            Base::Latency(_) => outcomes.iter().filter(|o| o.latency_ms.is_some()).count(),
            Base::Ece => aggregate::confidences(outcomes, metric.stage.as_deref()).len(),
            Base::UsdPer1k => repeats::count(outcomes),
            _ => outcomes.iter().filter(|o| o.gold.is_some()).count(),
        }
    };
    let right = metric
        .entry
        .threshold
        .filter(|_| per_row)
        .map(|_| values.iter().filter(|v| metric.right(**v) == Some(true)).count());
    let ci95 =
        if per_row && (n <= INTERVALS || metric.name == primary) { interval(metric, outcomes) } else { None };
    Some(Measured {
        name: metric.name.clone(),
        value,
        n,
        ci95,
        unit: metric.entry.unit,
        direction: metric.entry.direction,
        threshold: metric.entry.threshold,
        right,
        about: metric.about().to_owned(),
    })
}

/// Answers made elsewhere do not say what they are: golds that repeat are labels.
fn look_like_labels<'a>(golds: impl Iterator<Item = &'a str>) -> bool {
    let mut different = BTreeSet::new();
    let mut all = 0;
    for gold in golds {
        all += 1;
        different.insert(gold.trim());
    }
    different.len() > 1 && different.len() * 3 <= all && different.iter().all(|gold| gold.len() <= TEXT)
}

fn classes(outcomes: &[&Outcome]) -> Option<ClassesDetail> {
    let confusion = aggregate::confusion(outcomes);
    if confusion.labels.is_empty() {
        return None;
    }
    let mut classes = confusion.classes();
    classes.sort_by(|a, b| b.support.cmp(&a.support).then_with(|| a.label.cmp(&b.label)));
    let left_out = classes.len().saturating_sub(LINES);
    classes.truncate(LINES);
    for class in &mut classes {
        class.label = short(&class.label);
    }
    let small = confusion.labels.len() <= ClassesDetail::MATRIX;
    let (confused, confused_left_out) = confused(&confusion);
    Some(ClassesDetail {
        classes,
        classes_left_out: left_out,
        macro_f1: confusion.macro_f1().unwrap_or(0.0),
        weighted_f1: confusion.weighted_f1().unwrap_or(0.0),
        confused,
        confused_left_out,
        labels: if small { confusion.labels.iter().map(|l| short(l)).collect() } else { Vec::new() },
        matrix: if small { confusion.counts } else { Vec::new() },
        unread: if small { confusion.unread } else { Vec::new() },
    })
}

fn confused(confusion: &Confusion) -> (Vec<Confused>, usize) {
    let name = |i: usize| confusion.labels.get(i).map(|l| short(l)).unwrap_or_default();
    let mut all: Vec<(usize, usize, Option<usize>)> = Vec::new();
    for (gold, row) in confusion.counts.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|(answer, n)| *answer != gold && **n > 0);
        all.extend(wrong.map(|(answer, n)| (*n, gold, Some(answer))));
    }
    let unread = confusion.unread.iter().enumerate().filter(|(_, n)| **n > 0);
    all.extend(unread.map(|(gold, n)| (*n, gold, None)));
    all.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let left_out = all.len().saturating_sub(PAIRS);
    all.truncate(PAIRS);
    let pair = |(n, gold, answer): (usize, usize, Option<usize>)| Confused {
        gold: name(gold),
        answer: answer.map(name),
        n,
    };
    (all.into_iter().map(pair).collect(), left_out)
}

/// Field by field, the one that is most often not right first; and how many are left out.
fn fields(outcomes: &[&Outcome]) -> (Vec<FieldDetail>, usize) {
    let mut all: BTreeMap<String, FieldDetail> = BTreeMap::new();
    for outcome in outcomes {
        let Some(gold) = outcome.gold.as_deref().and_then(rows::fields) else { continue };
        let output = rows::fields(&outcome.output).unwrap_or_default();
        let mut at = |name: &String, count: &dyn Fn(&mut FieldDetail)| {
            let detail = all.entry(name.clone()).or_insert_with(|| FieldDetail {
                field: short(name),
                n: 0,
                right: 0,
                wrong: 0,
                missing: 0,
                unasked: 0,
            });
            count(detail);
        };
        for (name, want) in &gold {
            let got = output.get(name).filter(|_| outcome.error.is_none());
            at(name, &|d| {
                d.n += 1;
                match got {
                    None => d.missing += 1,
                    Some(got) if equal(got, want) => d.right += 1,
                    Some(_) => d.wrong += 1,
                }
            });
        }
        for name in output.keys().filter(|name| !gold.contains_key(*name)) {
            at(name, &|d| d.unasked += 1);
        }
    }
    let mut all: Vec<FieldDetail> = all.into_values().collect();
    all.sort_by(|a, b| (b.n - b.right).cmp(&(a.n - a.right)).then_with(|| a.field.cmp(&b.field)));
    let left_out = all.len().saturating_sub(LINES);
    all.truncate(LINES);
    (all, left_out)
}

/// Tool by tool: what is declared, what is golden, what was called.
fn tools(candidate: &Candidate, outcomes: &[&Outcome]) -> Vec<ToolDetail> {
    let declared: Vec<_> = candidate.stages.iter().flat_map(|s| &s.tools).collect();
    let mut all: BTreeMap<String, ToolDetail> = BTreeMap::new();
    let mut at = |name: &str, count: &mut dyn FnMut(&mut ToolDetail)| {
        let detail = all.entry(name.to_owned()).or_insert_with(|| ToolDetail {
            tool: short(name),
            declared: declared.iter().any(|tool| tool.name == name),
            golden: 0,
            called: 0,
            right_tool: 0,
            right_arguments: 0,
            invalid_arguments: 0,
        });
        count(detail);
    };
    if !outcomes.is_empty() {
        for tool in &declared {
            at(&tool.name, &mut |_| {});
        }
    }
    for outcome in outcomes {
        let made = calls(&outcome.output).unwrap_or_default();
        for call in &made {
            let tool = declared.iter().find(|tool| tool.name == call.name);
            let invalid = tool.is_some_and(|tool| !calls::fits(call, tool));
            at(&call.name, &mut |d| {
                d.called += 1;
                d.invalid_arguments += usize::from(invalid);
            });
        }
        for gold in outcome.gold.as_deref().and_then(calls).unwrap_or_default() {
            let same: Vec<_> = made.iter().filter(|call| call.name == gold.name).collect();
            let right = same.iter().any(|call| equal(&call.arguments, &gold.arguments));
            at(&gold.name, &mut |d| {
                d.golden += 1;
                d.right_tool += usize::from(!same.is_empty());
                d.right_arguments += usize::from(right);
            });
        }
    }
    let mut all: Vec<ToolDetail> = all.into_values().collect();
    all.sort_by(|a, b| b.golden.cmp(&a.golden).then_with(|| b.called.cmp(&a.called)));
    all.truncate(LINES);
    all
}

fn stage_detail(
    name: &str,
    outcomes: &[&Outcome],
    metrics: &[Metric],
    measure: &dyn Fn(&Metric) -> Option<Measured>,
) -> StageDetail {
    let ran: Vec<_> = outcomes.iter().filter_map(|o| rows::stage_of(o, name)).collect();
    let skipped = outcomes.iter().flat_map(|o| &o.stages).filter(|s| s.stage == name && s.skipped).count();
    StageDetail {
        stage: name.to_owned(),
        skipped,
        format_errors: ran.iter().filter(|s| !s.format_ok).count(),
        retries: ran.iter().map(|s| u64::from(s.retries)).sum(),
        tokens_in: aggregate::mean(ran.iter().map(|s| s.tokens_in as f64)).unwrap_or(0.0),
        tokens_out: aggregate::mean(ran.iter().map(|s| s.tokens_out as f64)).unwrap_or(0.0),
        ran: ran.len(),
        metrics: metrics.iter().filter(|m| m.stage.as_deref() == Some(name)).filter_map(measure).collect(),
        calibration: calibration(&aggregate::confidences(outcomes, Some(name))),
    }
}

/// The weakest first; where they are alike, the largest. Empty where no row has a stratum.
fn strata(primary: &Metric, outcomes: &[&Outcome]) -> Vec<StratumScore> {
    let mut by_name: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_name.entry(outcome.stratum.as_deref().unwrap_or("(none)")).or_default().push(outcome);
    }
    if by_name.keys().all(|name| *name == "(none)") {
        return Vec::new();
    }
    let mut all: Vec<StratumScore> = by_name
        .into_iter()
        .filter_map(|(name, outcomes)| {
            let values = repeats::values(primary, &outcomes);
            Some(StratumScore {
                stratum: short(name),
                n: values.len(),
                right: values.iter().filter(|v| primary.right(**v) == Some(true)).count(),
                value: aggregate::mean(values.iter().copied())?,
                ci95: interval(primary, &outcomes),
            })
        })
        .collect();
    let sign = if primary.right(f64::MAX) == Some(false) { -1.0 } else { 1.0 };
    all.sort_by(|a, b| (sign * a.value).total_cmp(&(sign * b.value)).then_with(|| b.n.cmp(&a.n)));
    all.truncate(LINES);
    all
}

fn unscored(outcomes: &[&Outcome]) -> Vec<Unscored> {
    let mut all: BTreeMap<&str, Unscored> = BTreeMap::new();
    for outcome in outcomes {
        for (key, why) in &outcome.unscored {
            let entry = all.entry(key).or_insert_with(|| Unscored {
                metric: key.split('#').next().unwrap_or(key).to_owned(),
                n: 0,
                row: short(&outcome.row),
                why: why.chars().take(300).collect(),
            });
            entry.n += 1;
        }
    }
    all.into_values().take(ERRORS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::aggregate::tests::{candidate, outcome};
    use super::*;
    use crate::domain::detail::sections;

    fn json(pairs: &[(&str, &str)], kind: OutputKind) -> (Candidate, Vec<Outcome>) {
        let mut c = candidate("x");
        c.stages[0].output = kind;
        let all =
            pairs.iter().enumerate().map(|(i, (gold, output))| outcome(&i.to_string(), gold, output, true));
        (c, all.collect())
    }

    #[test]
    fn classes_and_their_confusions_are_counted() {
        let mut all: Vec<Outcome> = [("a", "a"), ("a", "b"), ("a", "b"), ("b", "b"), ("b", "a")]
            .iter()
            .enumerate()
            .map(|(i, (gold, answer))| outcome(&i.to_string(), gold, answer, true))
            .collect();
        all.push(outcome("5", "a", "gibberish", false));
        for (i, o) in all.iter_mut().enumerate() {
            o.stages[0].probability = Some(0.5 + 0.05 * i as f64);
            o.stratum = Some(if i < 2 { "north" } else { "south" }.into());
        }
        let got = detail(&candidate("base"), &all, &EvalSettings::default());
        let classes = got.classes.as_ref().unwrap();
        let first = &classes.classes[0];
        assert_eq!((first.label.as_str(), first.support, first.answered, first.right), ("a", 4, 2, 1));
        assert_eq!(
            (classes.matrix.clone(), classes.unread.clone()),
            (vec![vec![1, 2], vec![1, 1]], vec![1, 0])
        );
        let pair = &classes.confused[0];
        assert_eq!((pair.gold.as_str(), pair.answer.as_deref(), pair.n), ("a", Some("b"), 2));
        assert!(classes.confused.iter().any(|c| c.answer.is_none() && c.n == 1));
        assert_eq!(got.calibration.as_ref().unwrap().n, 6);
        assert!(
            got.metrics.iter().any(|m| m.name == "ece") && got.metrics.iter().any(|m| m.name == "macro_f1")
        );
        let accuracy = got.metrics.iter().find(|m| m.name == "accuracy").unwrap();
        assert_eq!((accuracy.n, accuracy.right, accuracy.ci95.is_some()), (6, Some(2), true));
        let strata: Vec<_> = got.strata.iter().map(|s| (s.stratum.as_str(), s.n, s.right)).collect();
        assert_eq!(strata, [("south", 4, 1), ("north", 2, 1)]);
        assert!(!sections(&got).is_empty());
    }

    #[test]
    fn json_is_told_field_by_field() {
        let (c, all) = json(
            &[
                ("{\"a\": 1, \"b\": {\"c\": 2}}", "{\"a\": 1, \"b\": {\"c\": 3}}"),
                ("{\"a\": 1}", "{\"d\": 1}"),
                ("{\"a\": 1}", "not json"),
            ],
            OutputKind::Json,
        );
        let got = detail(&c, &all, &EvalSettings::default());
        let fields: Vec<_> = got
            .fields
            .iter()
            .map(|f| (f.field.as_str(), f.n, f.right, f.wrong, f.missing, f.unasked))
            .collect();
        assert_eq!(fields, [("a", 3, 1, 0, 2, 0), ("b.c", 1, 0, 1, 0, 0), ("d", 0, 0, 0, 0, 1)]);
        assert!(got.classes.is_none());
    }

    #[test]
    fn tools_are_told_one_by_one() {
        let call =
            |tool: &str, city: &str| format!("{{\"name\": \"{tool}\", \"arguments\": {{\"city\": {city}}}}}");
        let (rome, bonn, bad, news) = (
            call("weather", "\"Rome\""),
            call("weather", "\"Bonn\""),
            call("weather", "3"),
            call("news", "1"),
        );
        let pairs = [(&rome, &rome), (&rome, &bonn), (&rome, &bad), (&rome, &news)];
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(g, o)| (g.as_str(), o.as_str())).collect();
        let (mut c, all) = json(&pairs, OutputKind::Tool);
        c.stages[0].tools = crate::domain::tool::tests::tools();
        let got = detail(&c, &all, &EvalSettings::default());
        let weather = got.tools.iter().find(|t| t.tool == "weather").unwrap();
        assert_eq!(
            (
                weather.golden,
                weather.called,
                weather.right_tool,
                weather.right_arguments,
                weather.invalid_arguments
            ),
            (4, 3, 3, 1, 1)
        );
        let of = |name: &str| got.tools.iter().find(|t| t.tool == name).map(|t| (t.declared, t.called));
        assert_eq!((of("news"), of("stock")), (Some((false, 1)), Some((true, 0))));
    }

    #[test]
    fn whatever_the_labels_are_the_detail_fits_a_frame() {
        let long = "\u{1f600}\u{1b}[2J\"".repeat(5_000);
        let all: Vec<Outcome> = (0..3_000)
            .map(|i| outcome(&i.to_string(), &format!("{i} {long}"), &format!("{} {long}", i + 1), true))
            .collect();
        let got = detail(&candidate("x"), &all, &EvalSettings::default());
        let classes = got.classes.as_ref().unwrap();
        assert_eq!((classes.classes.len(), classes.classes_left_out), (LINES, 3_001 - LINES));
        assert!(classes.matrix.is_empty() && classes.confused_left_out > 0);
        assert!(serde_json::to_string(&got).unwrap().len() < 1 << 20);
    }

    #[test]
    fn several_answers_to_a_row_are_one_row() {
        let mut all =
            vec![outcome("1", "a", "a", true), outcome("1", "a", "b", true), outcome("2", "b", "b", true)];
        all[1].sample = 1;
        let got = detail(&candidate("x"), &all, &EvalSettings::default());
        let accuracy = got.metrics.iter().find(|m| m.name == "accuracy").unwrap();
        assert_eq!((got.n, got.samples, accuracy.n, accuracy.value), (2, 2, 2, 0.75));
        assert!(got.metrics.iter().any(|m| m.name == "majority"));
    }
}
