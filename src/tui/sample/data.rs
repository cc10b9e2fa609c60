//! The data: strata, rows, a trace.

use std::collections::BTreeMap;

use super::{TEAMS, TOPICS, noise};
use crate::domain::api::{RowDetail, RowPage, RowQuery, RowSummary};
use crate::domain::board::{StrataView, Stratum};
use crate::domain::row::Part;
use crate::domain::trace::{Attempt, RowTrace, StageTrace};

pub fn strata() -> StrataView {
    let stratum = |(i, (name, rows, base, best)): (usize, &(&str, usize, f64, f64))| Stratum {
        id: format!("s{i}"),
        name: format!("{name} {}", if i % 2 == 0 { "(chat)" } else { "(mail)" }),
        dimensions: BTreeMap::from([("channel".into(), if i % 2 == 0 { "chat" } else { "mail" }.into())]),
        rows: *rows,
        terms: vec!["card".into(), "arrive".into()],
        parts: [rows * 65 / 100, rows / 10, rows * 15 / 100, rows / 10],
        base: Some(*base),
        best: Some(*best),
        scored: rows * 15 / 100,
        cluster: format!("s{i}"),
    };
    let strata: Vec<Stratum> = TOPICS.iter().enumerate().map(stratum).collect();
    let map = (0..600_u64)
        .map(|i| {
            let s = (i % 8) as usize;
            let angle = s as f64 * 0.785;
            let spread = |k: u64| (noise(i * 7 + k) - 0.5) * 0.5;
            ((angle.cos() * 0.65 + spread(1)) as f32, (angle.sin() * 0.65 + spread(2)) as f32, s)
        })
        .collect();
    StrataView {
        rows: strata.iter().map(|s| s.rows).sum(),
        quarantined: 3,
        clusters: 8,
        outliers: 37,
        near_duplicates: 61,
        dimensions: vec!["channel".into()],
        strata,
        base: Some("base".into()),
        best: Some("lora-12".into()),
        map,
        by_hand: Vec::new(),
    }
}

pub fn summary(i: usize) -> RowSummary {
    let gold = TEAMS[i % 5];
    let base = TEAMS[(i * 3 + i / 7) % 5];
    let text = format!("I ordered my new card {} days ago and it still has not come, what now?", i % 20 + 2);
    RowSummary {
        id: format!("{i:05}"),
        length: text.len() + i % 50,
        text,
        gold: Some(gold.into()),
        base: Some((base.into(), Some(base == gold))),
        best: Some((gold.into(), Some(true))),
        part: Some(Part::ALL[i % 4]),
        stratum: Some(format!("s{}", i % 8)),
        marks: if i.is_multiple_of(6) { vec!["star".into()] } else { vec![] },
        has_note: i % 10 == 3,
    }
}

pub fn rows(query: &RowQuery) -> RowPage {
    let ids: Vec<usize> = match &query.ids {
        Some(ids) => ids.iter().filter_map(|id| id.parse().ok()).collect(),
        None => (0..strata().rows)
            .filter(|i| query.stratum.as_ref().is_none_or(|s| *s == format!("s{}", i % 8)))
            .collect(),
    };
    let rows = ids.iter().skip(query.offset).take(query.count).map(|i| summary(*i)).collect();
    RowPage { total: ids.len(), offset: query.offset, rows }
}

/// Two stages, the first asked again, with what would move a terminal in it.
pub fn trace(row: &str) -> RowTrace {
    let attempt = |answer: &str, problem: Option<&str>| Attempt {
        answer: answer.into(),
        tokens_in: 40,
        tokens_out: 6,
        ttft_ms: 2.0,
        ms: 12.5,
        problem: problem.map(str::to_owned),
        ..Attempt::default()
    };
    let plan = StageTrace {
        stage: "plan".into(),
        prompt: "Which tool?\n\nmy card \u{1b}[2J is lost".into(),
        attempts: vec![
            attempt("let me see", Some("the answer is no call of a tool (no JSON)")),
            attempt("{\"name\":\"desk\",\"arguments\":{\"topic\":\"cards\"}}", None),
        ],
        output: "{\"name\":\"desk\",\"arguments\":{\"topic\":\"cards\"}}".into(),
        result: Some(serde_json::json!({ "team": "cards" })),
        ..StageTrace::default()
    };
    let skipped = StageTrace { stage: "refuse".into(), skipped: true, ..StageTrace::default() };
    RowTrace { row: row.to_owned(), sample: 0, stages: vec![plan, skipped] }
}

pub fn row(id: &str) -> RowDetail {
    let s = summary(id.parse().unwrap_or(0));
    RowDetail {
        id: id.into(),
        input: format!(
            "{} I have waited long enough.\nCan you look into it today? My order number is 88-1234.",
            s.text
        ),
        gold: s.gold.clone(),
        gold_in_file: s.gold,
        fields: BTreeMap::from([("channel".into(), "chat".into()), ("turns".into(), "2".into())]),
        part: s.part,
        stratum: s.stratum,
        marks: s.marks,
        note: s.has_note.then(|| "the gold is disputed".into()),
        source: "data/tickets.jsonl".into(),
        line: 232,
        flags: vec![],
        feedback: vec![],
        answers: [("base", s.base), ("lora-12", s.best)]
            .into_iter()
            .filter_map(|(c, a)| a.map(|(t, r)| (c.into(), t, r)))
            .collect(),
    }
}
