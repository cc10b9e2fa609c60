//! The data: strata, rows, a trace.

use std::collections::BTreeMap;

use super::{TEAMS, TOPICS, noise};
use crate::domain::api::{RowDetail, RowPage, RowQuery, RowSummary};
use crate::domain::board::{Choice, StrataView, Stratum};
use crate::domain::count::{Counts, Group};
use crate::domain::map::{Dot, Layout, MapView};
use crate::domain::preview::{Dropped, LengthBin, Packing, Preview, RenderedRow};
use crate::domain::problem::{ProblemCount, ProblemKind, Problems, RowProblem};
use crate::domain::row::Part;
use crate::domain::trace::{Attempt, RowTrace, StageTrace};
use crate::domain::views::SavedView;

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
        group: String::new(),
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
        groups: Vec::new(),
        choice: Choice {
            k: 8,
            tried: vec![(4, 0.131), (6, 0.202), (8, 0.268), (10, 0.271), (12, 0.275)],
            criterion: "the fewest within 10% of the best silhouette".into(),
        },
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

/// Channels by strata, with how they are answered.
pub fn counts(by: &[String]) -> Counts {
    let group = |i: usize| {
        let rows = 900 / (i + 1);
        let value = |k: usize| match (i, k) {
            (5, _) => None,
            (_, 0) => Some(["card arrival", "top-up failed", "refund", "exchange rate"][i % 4].to_owned()),
            (_, k) => Some(((i + k) % 9).to_string()),
        };
        Group {
            values: (0..by.len()).map(value).collect(),
            rows,
            base: (rows * (5 + i % 6) / 16, rows * 3 / 4),
            best: (rows * 2 / 3, rows * 3 / 4),
        }
    };
    let groups: Vec<Group> = (0..40).map(group).collect();
    Counts {
        by: by.to_vec(),
        rows: groups.iter().map(|g| g.rows).sum(),
        distinct: 41,
        groups,
        base: Some("base".into()),
        best: Some("lora-12".into()),
    }
}

/// The dots of the map by strata, in a circle or in a line.
pub fn map(by: &str, layout: Layout) -> MapView {
    let view = strata();
    let dot = |(i, (x, y, s)): (usize, &(f32, f32, usize))| {
        let (x, y) = if layout == Layout::Neighbours { (*x, *y) } else { (*x, *x) };
        Dot { row: format!("{i:05}"), x, y, group: (*s).min(6) }
    };
    let dots: Vec<Dot> = view.map.iter().enumerate().map(dot).collect();
    let mut groups: Vec<(String, usize)> = view.strata.iter().take(6).map(|s| (s.name.clone(), 75)).collect();
    groups.push(("(others)".into(), 150));
    MapView { by: by.to_owned(), layout, trust: Some(0.93), dots, groups, rows: view.rows }
}

pub fn views() -> BTreeMap<String, SavedView> {
    let query =
        RowQuery { text: "base:wrong best:right".into(), sort: "length".into(), ..RowQuery::default() };
    BTreeMap::from([("what lora mends".into(), SavedView { query, scope: "all rows".into() })])
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
        outlier: None,
        flags: vec![],
        feedback: vec![],
        answers: [("base", s.base), ("lora-12", s.best)]
            .into_iter()
            .filter_map(|(c, a)| a.map(|(t, r)| (c.into(), t, r)))
            .collect(),
    }
}

/// Some rows of some kinds: every third row of a group is its first.
pub fn problems(kind: Option<ProblemKind>, query: &RowQuery) -> Problems {
    let count = |kind, rows, groups| ProblemCount { kind, rows, groups };
    let kinds = vec![
        count(ProblemKind::ConflictingGold, 4, Some(2)),
        count(ProblemKind::WrongGold, 23, None),
        count(ProblemKind::ExactDuplicate, 18, Some(8)),
        count(ProblemKind::NearDuplicate, 61, Some(20)),
        count(ProblemKind::OddCharacters, 3, None),
        count(ProblemKind::Pii, 12, None),
    ];
    let total = kind.and_then(|kind| kinds.iter().find(|c| c.kind == kind)).map_or(0, |c| c.rows);
    let row = |kind: ProblemKind, i: usize| {
        let s = summary(i * 7);
        let member = kind.in_groups() && !i.is_multiple_of(3);
        let first = summary((i - i % 3) * 7);
        RowProblem {
            reason: match (kind, member) {
                (ProblemKind::NearDuplicate, true) => format!("0.{} like {}", 96 - i % 3 * 5, first.id),
                (ProblemKind::WrongGold, _) => "8 of its 10 nearest rows say `refund`, 1 its own".into(),
                (ProblemKind::Pii, _) => "e-mail address at character 12 of the input".into(),
                (kind, false) if kind.in_groups() => "first of 3 alike".into(),
                (kind, _) => kind.help().into(),
            },
            text: if member { s.text.replace("still has not", "has still not") } else { s.text },
            id: s.id,
            gold: s.gold,
            part: s.part,
            group: kind.in_groups().then(|| first.id.clone()),
            like: member.then_some(first.text),
            ..RowProblem::default()
        }
    };
    let places = (0..total).skip(query.offset).take(query.count);
    Problems {
        rows: strata().rows - 2,
        excluded: 2,
        kinds,
        notes: vec![
            "near duplicates: Jaccard likeness of 5-grams of characters at least 0.8 ([strata] duplicates)"
                .into(),
        ],
        total,
        offset: query.offset,
        found: places.filter_map(|i| Some(row(kind?, i))).collect(),
        ..Problems::default()
    }
}

/// A row with a chat template's marks, and what would move a terminal in it.
pub fn preview(id: &str) -> Preview {
    let text = summary(id.parse().unwrap_or(0)).text;
    Preview {
        stage: "route".into(),
        max_length: 1024,
        rows: 2410,
        looked_at: 2000,
        rendered: Some(RenderedRow {
            id: id.into(),
            pieces: vec![
                (format!("<|im_start|>user\n{text} \u{1b}[2J<|im_end|>\n<|im_start|>assistant\n"), false),
                ("delivery<|im_end|>".into(), true),
            ],
            tokens: 31,
            trained: 2,
            dropped: None,
        }),
        lengths: (0..6)
            .map(|i| LengthBin { from: i * 12 + 1, to: (i + 1) * 12, rows: [12, 420, 890, 510, 140, 21][i] })
            .collect(),
        shortest: 9,
        median: 29,
        longest: 71,
        tokens: 61_204,
        trained: 4_011,
        dropped: vec![Dropped { why: "no gold".into(), rows: 7, ids: vec!["00012".into(), "00740".into()] }],
        packing: Packing {
            batch_size: 8,
            accumulate: 1,
            steps: 302,
            sequences: 8.0,
            tokens: 244.8,
            padding_before: 0.314,
            padding_after: 0.0,
        },
    }
}
