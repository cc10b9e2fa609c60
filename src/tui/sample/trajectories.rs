//! A made-up store of worked examples and the run that found it.

use std::collections::BTreeMap;

use super::{NOW_MS, TEAMS, TOPICS, noise};
use crate::domain::event::{Event, EventBody};
use crate::domain::example::{
    Effect, Example, ExamplePage, ExampleQuery, Form, Found, FoundExamples, Shown, Source,
};
use crate::domain::run::{Progress, RunKind, RunRecord, RunState};
use crate::domain::trajectory::{Measured, Searching, TrajectoryNews, TrajectoryReport, TrajectoryView};

const TOTAL: usize = 3_590;

pub fn example(i: usize) -> Example {
    let (topic, ..) = TOPICS[i % TOPICS.len()];
    let team = TEAMS[i % TEAMS.len()];
    let did = |seed: u64, most: f64| (noise(seed + i as u64) * most) as u32;
    let fixed = if i < 40 { 40 - i as u32 } else { did(1, 2.0) };
    let effect = Effect { uses: fixed + 20 + did(2, 30.0), fixed, broken: did(3, 4.0) };
    let found = (i < 60).then(|| Found {
        row: format!("{:05}", 7 * i),
        wrong: "card_lost".into(),
        gold: team.into(),
        proposal: "same answer".into(),
        tried: 6,
        set: if i.is_multiple_of(2) { vec![id(i)] } else { vec![id(i), id(i + 1)] },
        proposals: vec![("neighbours".into(), false), ("same answer".into(), true)],
    });
    Example {
        format: 1,
        id: id(i),
        stage: "route".into(),
        input: format!("I ordered my new card {} days ago and it still has not come ({topic})", i % 19 + 2),
        answer: team.into(),
        stratum: Some(format!("{topic} (chat)")),
        row: Some(format!("{i:05}")),
        source: if i % 7 == 3 { Source::Trace } else { Source::Gold },
        run: "trajectory-1".into(),
        found_rows: if i < 40 { 1 + i as u32 % 3 } else { u32::from(found.is_some()) },
        found: found.into_iter().collect(),
        effect: BTreeMap::from([(format!("{topic} (chat)"), effect)]),
        enabled: i % 11 != 5,
        ..Example::default()
    }
}

fn id(i: usize) -> String {
    format!("{:012x}", (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A) % (1 << 48))
}

/// A window on the store; a filter leaves a tenth.
pub fn examples(query: &ExampleQuery) -> ExamplePage {
    let total = if query.text.is_empty() { TOTAL } else { TOTAL / 10 };
    let to = (query.offset + query.count).min(total);
    let examples: Vec<Example> = (query.offset.min(to)..to).map(example).collect();
    let edited = examples.iter().skip(2).step_by(9).map(|e| e.id.clone()).collect();
    ExamplePage { store: "trajectory-1".into(), total, offset: query.offset, examples, edited }
}

pub fn found(_input: &str) -> FoundExamples {
    let hit = |i: usize| {
        let shown = Shown {
            id: id(i),
            score: 0.98 - 0.11 * i as f64,
            similarity: 0.91 - 0.07 * i as f64,
            bm25: 14.2 - 3.0 * i as f64,
            value: 0.21 - 0.13 * i as f64,
            near_duplicate: i == 0,
        };
        (example(i), shown)
    };
    FoundExamples {
        store: "trajectory-1".into(),
        stage: "route".into(),
        hits: [4, 2, 1, 0].into_iter().map(hit).collect(),
    }
}

fn measured(store: &str, shots: usize, right: usize) -> Measured {
    Measured {
        store: store.into(),
        shots,
        rows: 200,
        right,
        fixed: right.saturating_sub(100),
        broken: 9,
        tokens_in: 85.0 + 85.0 * shots as f64,
        ms: 4.0 + 6.0 * shots as f64,
        p_value: 0.000_4,
        ci95: (shots > 0).then(|| crate::score::stats::paired_difference(right.saturating_sub(100), 9, 200)),
        near_duplicates: 1,
    }
}

fn curve() -> Vec<Measured> {
    let right = |store: &str, rights: [usize; 4]| {
        [1, 3, 5, 10].into_iter().zip(rights).map(|(k, n)| measured(store, k, n)).collect::<Vec<_>>()
    };
    [right("found", [131, 142, 139, 128]), right("all", [138, 149, 152, 147])].concat()
}

pub fn view(run: &str) -> TrajectoryView {
    let report = TrajectoryReport {
        form: Form::Text.name().into(),
        looked_at: 300,
        wrong: 126,
        without: measured("none", 0, 115),
        chosen: Some(measured("all", 5, 152)),
        curve: curve(),
        ablation: vec![measured("all, by lift", 5, 151)],
        calls: 4_212,
        ..TrajectoryReport::default()
    };
    TrajectoryView {
        run: run.into(),
        base: "prompt-1".into(),
        with: format!("prompt-1+{run}"),
        report: Some(report),
        turned: 88,
        stores: vec!["trajectory-1".into(), "desk-2024".into()],
    }
}

/// The run in a state; what it told so far.
pub fn run(state: RunState) -> RunRecord {
    let progress = (!state.is_final()).then(|| Progress {
        phase: "dev, 5 of all".into(),
        done: 120,
        total: 200,
        eta_ms: Some(41_000),
    });
    RunRecord {
        run: "trajectory-1".into(),
        kind: RunKind::Trajectory,
        state,
        created_ms: NOW_MS - 300_000,
        started_ms: Some(NOW_MS - 299_000),
        ended_ms: state.is_final().then_some(NOW_MS - 60_000),
        ran_ms: 239_000,
        told_ms: NOW_MS,
        settings: vec![("candidate".into(), "prompt-1".into())],
        from: None,
        group: None,
        progress,
        metrics: BTreeMap::new(),
        findings: vec![],
        candidate: state.is_final().then(|| "trajectory-1".into()),
        message: None,
        resumable: false,
        last_seq: 12,
    }
}

pub fn events() -> Vec<Event> {
    let searching = |turned, failed| {
        EventBody::Trajectory(TrajectoryNews::Searching(Searching {
            looked_at: 300,
            wrong: 126,
            turned,
            failed,
            tried: 300,
            calls: 1_204,
        }))
    };
    let log = |message: &str| EventBody::Log { message: message.into() };
    let mut bodies = vec![
        log("126 of 300 train rows are wrong without examples"),
        searching(40, 12),
        searching(88, 38),
        log("88 of 126 wrong rows can be turned to gold; the smallest sets are made of 71 examples"),
    ];
    bodies.extend(curve().into_iter().take(6).map(|measured_| {
        EventBody::Trajectory(TrajectoryNews::Measured {
            measured: measured_,
            without: measured("none", 0, 115),
            ablation: false,
        })
    }));
    let events = bodies.into_iter().enumerate();
    events.map(|(i, body)| Event { seq: i as u64 + 1, t_ms: NOW_MS - 100_000, body }).collect()
}
