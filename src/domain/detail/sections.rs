//! A detail as tables for people: what the command prints and the screen scrolls through.

use super::{CalibrationDetail, ClassesDetail, Detail, Measured, StageDetail};
use crate::domain::metric::Unit;
use crate::domain::words::counted;

/// Below so many rows a share is told as a count.
const FEW: usize = 30;

/// One table with its heading. Columns whose name begins with `>` are aligned to the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    pub title: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Lines below the table.
    pub notes: Vec<String>,
}

impl Section {
    fn new(title: impl Into<String>, header: &[&str]) -> Self {
        let header = header.iter().map(|h| (*h).to_owned()).collect();
        Self { title: title.into(), header, ..Self::default() }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

/// Every part that has something to say.
pub fn sections(detail: &Detail) -> Vec<Section> {
    let mut all = vec![head(detail)];
    all.push(metrics(&detail.metrics, "metrics"));
    if let Some(classes) = &detail.classes {
        all.push(of_classes(classes));
        all.push(confusion(classes));
    }
    if let Some(found) = &detail.calibration {
        all.push(calibration(
            found,
            "calibration: probability of the likeliest label, and how often it is right",
        ));
    }
    all.push(fields(detail));
    all.push(tools(detail));
    for stage in &detail.stages {
        // Of a pipeline of one stage everything is told already.
        if detail.stages.len() > 1 || !stage.metrics.is_empty() {
            all.extend(of_stage(stage));
        }
    }
    all.push(strata(detail));
    all.push(unscored(detail));
    all.retain(|s| !s.rows.is_empty() || !s.notes.is_empty());
    all
}

fn head(detail: &Detail) -> Section {
    let from = detail.run.as_ref().map(|run| format!(", from {run}")).unwrap_or_default();
    let mut section = Section::new(format!("{} ({}{from})", detail.candidate, detail.rung), &[]);
    let mut facts = vec![counted(detail.n, "row")];
    if detail.samples > 1 {
        facts.push(format!("{} answers to each", detail.samples));
    }
    for (n, what) in [
        (detail.errors, "failed"),
        (detail.without_gold, "without gold"),
        (detail.stale, "changed since and left out"),
    ] {
        if n > 0 {
            facts.push(format!("{n} {what}"));
        }
    }
    section.notes.push(facts.join(", "));
    if !detail.not_measured.is_empty() {
        section.notes.push(format!("not measured here: {}", detail.not_measured.join(", ")));
    }
    section
}

/// `12/20`, or `0.612` of many.
fn share(part: usize, whole: usize) -> String {
    match whole {
        0 => "-".into(),
        n if n < FEW => format!("{part}/{n}"),
        n => format!("{:.3}", part as f64 / n as f64),
    }
}

fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 || (value.fract() == 0.0 && size >= 1.0) {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.001 || value == 0.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.1e}")
    }
}

fn interval(ci95: Option<[f64; 2]>) -> String {
    ci95.map_or_else(|| "-".into(), |[low, high]| format!("{} to {}", number(low), number(high)))
}

fn measured(m: &Measured) -> String {
    if m.unit == Unit::Share && m.right.is_some() && m.n < FEW {
        return format!("{}/{}", number((m.value * m.n as f64 * 100.0).round() / 100.0), m.n);
    }
    let value = number(m.value);
    match m.unit {
        Unit::Milliseconds => format!("{value} ms"),
        Unit::UsDollars => format!("${value}"),
        _ => value,
    }
}

fn metrics(all: &[Measured], title: &str) -> Section {
    let mut section = Section::new(title, &["metric", ">value", ">95%", ">n", ">right", "what it is"]);
    for m in all {
        // A graded metric with a threshold says how many rows reach it.
        let right = match (m.threshold, m.right) {
            (Some(at), Some(right)) if m.unit != Unit::Share => format!("{} (at {at})", share(right, m.n)),
            _ => String::new(),
        };
        section.row([m.name.clone(), measured(m), interval(m.ci95), m.n.to_string(), right, m.about.clone()]);
    }
    section
}

fn of_classes(found: &ClassesDetail) -> Section {
    let mut section = Section::new(
        "classes, most frequent first",
        &["class", ">rows", ">answered", ">right", ">precision", ">recall", ">f1"],
    );
    for c in &found.classes {
        section.row([
            c.label.clone(),
            c.support.to_string(),
            c.answered.to_string(),
            c.right.to_string(),
            share(c.right, c.answered),
            share(c.right, c.support),
            number(c.f1),
        ]);
    }
    if found.classes_left_out > 0 {
        section.notes.push(format!("{} more are left out", counted(found.classes_left_out, "class")));
    }
    section
}

fn confusion(found: &ClassesDetail) -> Section {
    if found.matrix.is_empty() {
        let mut section = Section::new("confusions, the largest first", &[">rows", "gold", "answered"]);
        for pair in &found.confused {
            let answer = pair.answer.clone().unwrap_or_else(|| "(could not be read)".into());
            section.row([pair.n.to_string(), pair.gold.clone(), answer]);
        }
        if found.confused_left_out > 0 {
            section.notes.push(format!("{} more are left out", counted(found.confused_left_out, "pair")));
        }
        return section;
    }
    let mut section =
        Section::new("confusion: a row of the table is a golden class, a column an answer", &[]);
    let unread = found.unread.iter().any(|n| *n > 0);
    section.header = [String::new(), "gold".into()].into();
    section.header.extend((1..=found.labels.len()).map(|i| format!(">{i}")));
    if unread {
        section.header.push(">unread".into());
    }
    let shown = |n: usize| if n == 0 { ".".to_owned() } else { n.to_string() };
    for (i, label) in found.labels.iter().enumerate() {
        let mut cells = vec![(i + 1).to_string(), label.clone()];
        cells.extend(found.matrix.get(i).into_iter().flatten().map(|n| shown(*n)));
        if unread {
            cells.push(shown(found.unread.get(i).copied().unwrap_or(0)));
        }
        section.rows.push(cells);
    }
    section
}

fn calibration(found: &CalibrationDetail, title: &str) -> Section {
    let mut section = Section::new(title, &["probability", ">rows", ">mean", ">right", ">off by"]);
    for bin in &found.bins {
        let off = bin.probability - bin.right as f64 / bin.n.max(1) as f64;
        section.row([
            format!("{:.2}-{:.2}", bin.low, bin.high),
            bin.n.to_string(),
            format!("{:.3}", bin.probability),
            share(bin.right, bin.n),
            format!("{off:+.3}"),
        ]);
    }
    section.notes.push(format!(
        "ece {:.4}, brier {:.4} over {}",
        found.ece,
        found.brier,
        counted(found.n, "row")
    ));
    section
}

fn fields(detail: &Detail) -> Section {
    let mut section = Section::new(
        "fields of the golden JSON, the weakest first",
        &["field", ">rows", ">right", ">share", ">another value", ">missing", ">not asked for"],
    );
    for f in &detail.fields {
        section.row([
            f.field.clone(),
            f.n.to_string(),
            f.right.to_string(),
            share(f.right, f.n),
            f.wrong.to_string(),
            f.missing.to_string(),
            f.unasked.to_string(),
        ]);
    }
    if detail.fields_left_out > 0 {
        section.notes.push(format!("{} more are left out", counted(detail.fields_left_out, "field")));
    }
    section
}

fn tools(detail: &Detail) -> Section {
    let mut section = Section::new(
        "tools",
        &["tool", ">golden", ">called", ">right tool", ">right arguments", ">invalid arguments", ""],
    );
    for t in &detail.tools {
        section.row([
            t.tool.clone(),
            t.golden.to_string(),
            t.called.to_string(),
            share(t.right_tool, t.golden),
            share(t.right_arguments, t.golden),
            t.invalid_arguments.to_string(),
            if t.declared { String::new() } else { "not declared".into() },
        ]);
    }
    section
}

fn of_stage(stage: &StageDetail) -> Vec<Section> {
    let mut section = metrics(&stage.metrics, &format!("stage {}", stage.stage));
    let mut facts = vec![counted(stage.ran, "answer")];
    if stage.skipped > 0 {
        facts.push(format!("{} skipped", stage.skipped));
    }
    facts.push(format!("{} could not be read", share(stage.format_errors, stage.ran)));
    if stage.retries > 0 {
        facts.push(format!("asked again {} times", stage.retries));
    }
    facts.push(format!("{:.0} tokens in, {:.0} out on the mean", stage.tokens_in, stage.tokens_out));
    section.notes.push(facts.join(", "));
    let found = stage.calibration.as_ref();
    std::iter::once(section)
        .chain(found.map(|c| calibration(c, &format!("calibration of stage {}", stage.stage))))
        .collect()
}

fn strata(detail: &Detail) -> Section {
    let title = format!("strata by {}, the weakest first", detail.primary);
    let mut section = Section::new(title, &["stratum", ">rows", ">right", ">mean", ">95%"]);
    for s in &detail.strata {
        section.row([
            s.stratum.clone(),
            s.n.to_string(),
            share(s.right, s.n),
            if s.n < FEW { "-".into() } else { number(s.value) },
            interval(s.ci95),
        ]);
    }
    section
}

fn unscored(detail: &Detail) -> Section {
    let mut section =
        Section::new("metrics that could not be worked out", &["metric", ">rows", "first row", "why"]);
    for u in &detail.unscored {
        section.row([u.metric.clone(), u.n.to_string(), u.row.clone(), u.why.clone()]);
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::detail::{ClassScore, StratumScore};

    #[test]
    fn few_rows_are_counts_and_what_says_nothing_is_left_out() {
        let class = |label: &str, support: usize, right: usize| ClassScore {
            label: label.into(),
            support,
            answered: support,
            right,
            precision: 0.5,
            recall: 0.5,
            f1: 0.5,
        };
        let detail = Detail {
            candidate: "base".into(),
            rung: "baseline".into(),
            n: 45,
            classes: Some(ClassesDetail {
                classes: vec![class("a", 40, 20), class("b", 5, 4)],
                labels: vec!["a".into(), "b".into()],
                matrix: vec![vec![20, 20], vec![1, 4]],
                unread: vec![0, 0],
                ..ClassesDetail::default()
            }),
            strata: vec![StratumScore { stratum: "s".into(), n: 5, right: 2, value: 0.4, ci95: None }],
            ..Detail::default()
        };
        let all = sections(&detail);
        let titles: Vec<&str> = all.iter().map(|s| s.title.split([',', ':']).next().unwrap()).collect();
        assert_eq!(titles, ["base (baseline)", "classes", "confusion", "strata by "]);
        assert_eq!(all[1].rows[0][5], "0.500");
        assert_eq!(all[1].rows[1][5], "4/5");
        assert_eq!(all[3].rows[0][2..4], ["2/5".to_owned(), "-".into()]);
        assert!(all.iter().all(|s| s.rows.iter().all(|r| r.len() == s.header.len())));
    }
}
