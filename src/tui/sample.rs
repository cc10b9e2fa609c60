//! A made-up workspace: what `tunebench bench frame` draws, and what the tests of the screens look at. No figure here is a measurement.

mod remedies;
pub mod trajectories;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::app::{App, Effect, Message};
use super::config::Settings;
use super::keymap::Keymap;
use super::signs::Signs;
use super::theme::{BUNDLED, bundled};
use crate::domain::api::{
    EngineStatus, Failure, FromEngine, ImportReport, PromptsKept, Push, Request, Response, RowDetail,
    RowPage, RowQuery, RowSummary, ToEngine, View,
};
use crate::domain::board::{
    Board, BoardRow, Comparison, GoalResult, Percentiles, StrataView, Stratum, StratumDelta,
};
use crate::domain::count::Counts;
use crate::domain::detail::{
    CalibrationBin, CalibrationDetail, ClassScore, ClassesDetail, Detail, Measured, StratumScore,
};
use crate::domain::event::{Event, EventBody};
use crate::domain::imported::ImportedFile;
use crate::domain::judge::{Agreement, Kappa, Queue, QueueItem};
use crate::domain::ladder::{Advice, Ladder, Reason, Rung, Step, Verdict};
use crate::domain::metric::{Direction, Unit};
use crate::domain::outcome::{Flip, FlipKind, StageOutcome};
use crate::domain::play::{PlayAsk, PlayBody, PlayEvent, PlayInput, PlayToken, Playing};
use crate::domain::power::{self, Power};
use crate::domain::row::Part;
use crate::domain::run::{Progress, RunKind, RunRecord, RunState};
use crate::domain::timeline::{Cell, Curve, Moment, StepFlips, Timeline};
use crate::domain::trace::{Attempt, RowTrace, StageTrace};
use crate::domain::trilemma::{Cost, Goodput, Training, Trilemma};

/// The clock of the sample: 2026-01-01T00:00:00Z.
pub const NOW_MS: u64 = 1_767_225_600_000;

const TOPICS: [(&str, usize, f64, f64); 8] = [
    ("card arrival", 812, 0.41, 0.93),
    ("cash withdrawal fee", 640, 0.77, 0.95),
    ("top-up failed", 502, 0.12, 0.58),
    ("refund not showing", 488, 0.55, 0.81),
    ("change of address", 377, 0.83, 0.97),
    ("lost or stolen card", 301, 0.62, 0.9),
    ("exchange rate", 180, 0.44, 0.79),
    ("verify identity", 96, 0.5, 0.75),
];

const TEAMS: [&str; 5] = ["delivery", "card_lost", "refund", "transfer", "payments"];

/// A deterministic number of 0..1 (SplitMix64).
fn noise(i: u64) -> f64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

pub fn status() -> EngineStatus {
    EngineStatus {
        version: "0.1.0".into(),
        pid: 4711,
        workspace: "support-router".into(),
        root: "/home/ada/support-router".into(),
        clients: 1,
        started_ms: NOW_MS - 60_000,
        device: "CPU, 2 threads".into(),
        notices: vec![],
        train: crate::domain::settings::TrainSettings::default().shown(),
        judges: vec!["helpful".into()],
    }
}

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
    }
}

fn summary(i: usize) -> RowSummary {
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
fn trace(row: &str) -> RowTrace {
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

pub fn run(name: &str, kind: RunKind, state: RunState) -> RunRecord {
    RunRecord {
        run: name.into(),
        kind,
        state,
        created_ms: NOW_MS - 600_000,
        started_ms: Some(NOW_MS - 590_000),
        ended_ms: state.is_final().then_some(NOW_MS - 300_000),
        ran_ms: 290_000,
        told_ms: NOW_MS - 300_000,
        from: None,
        findings: Vec::new(),
        settings: vec![
            ("tuning.train.rank".into(), "16".into()),
            ("tuning.train.learning_rate".into(), "2e-4".into()),
        ],
        group: None,
        progress: (!state.is_final()).then(|| Progress {
            phase: "train".into(),
            done: 612,
            total: 1000,
            eta_ms: Some(192_000),
        }),
        metrics: BTreeMap::from([("loss".into(), 0.412), ("eval_loss".into(), 0.52)]),
        candidate: None,
        message: None,
        resumable: false,
        last_seq: 0,
    }
}

pub fn runs() -> Vec<RunRecord> {
    let mut eval = run("eval-1", RunKind::Eval, RunState::Done);
    eval.settings = vec![];
    eval.candidate = Some("base".into());
    eval.metrics = BTreeMap::from([("accuracy".into(), 0.612), ("macro_f1".into(), 0.58)]);
    eval.created_ms -= 86_400_000;
    let mut broken = run("lora-10", RunKind::Train, RunState::Interrupted);
    broken.message = Some("the worker was killed (signal 9) at step 240".into());
    broken.resumable = true;
    broken.created_ms -= 7_200_000;
    let mut done = run("lora-11", RunKind::Train, RunState::Done);
    done.settings = vec![("tuning.train.rank".into(), "8".into())];
    done.candidate = Some("lora-11".into());
    done.metrics.insert("accuracy".into(), 0.871);
    done.created_ms -= 3_600_000;
    vec![run("lora-12", RunKind::Train, RunState::Running), done, broken, eval]
}

/// Loss at a step: falls, with noise and one spike.
fn loss(step: u64) -> f64 {
    let spike = if step == 333 { 1.1 } else { 0.0 };
    0.35 + 1.9 * (-(step as f64) / 130.0).exp() + (noise(step) - 0.5) * 0.18 + spike
}

pub fn step(seq: u64, step: u64, total: u64) -> Event {
    let body = EventBody::Step {
        step,
        total,
        epoch: step as f64 / 250.0,
        loss: loss(step),
        lr: 2e-4 * (1.0 - step as f64 / total.max(1) as f64),
        grad_norm: 0.5 + noise(step + 9) * 0.6,
        tokens: 3_400,
        trained_tokens: 48,
        padding: 0,
        ms: 155.0 + noise(step + 5) * 20.0,
        wait_ms: 0.2,
        rows: (0..8).map(|i| format!("{:05}", (step * 8 + i) % 3396)).collect(),
        losses: (0..8).map(|i| (loss(step) * (0.3 + 1.4 * noise(step * 8 + i))) as f32).collect(),
    };
    Event { seq, t_ms: NOW_MS - 200_000 + step * 150, body }
}

/// Steps only, numbered by themselves.
pub fn steps(range: RangeInclusive<u64>, total: u64) -> Vec<Event> {
    range.map(|i| step(i, i, total)).collect()
}

/// A training with evaluations, fixed rows, checkpoints and a log.
pub fn training(until: u64, total: u64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut push = |t_ms: u64, body: EventBody| {
        let seq = events.len() as u64 + 1;
        events.push(Event { seq, t_ms, body });
    };
    push(NOW_MS - 210_000, EventBody::State { state: RunState::Running, message: None });
    push(
        NOW_MS - 209_000,
        EventBody::Log {
            message: "mask gate: 3.2% of tokens are trained, the stop token is among them".into(),
        },
    );
    for i in 1..=until {
        let Event { t_ms, body, .. } = step(0, i, total);
        push(t_ms, body);
        if i % 100 == 0 {
            let metrics = BTreeMap::from([("accuracy".into(), 0.6 + 0.3 * (i as f64 / total as f64))]);
            push(t_ms, EventBody::Eval { step: i, loss: Some(loss(i) + 0.12), metrics });
            for (k, gold) in TEAMS.iter().enumerate().take(4) {
                let right = i >= 200 + k as u64 * 100;
                push(
                    t_ms,
                    EventBody::Sample {
                        step: i,
                        row: format!("{:05}", 17 + k * 31),
                        output: if right { (*gold).into() } else { TEAMS[(k + 1) % 5].into() },
                        gold: Some((*gold).into()),
                        correct: Some(right),
                        ended: Some(true),
                    },
                );
            }
            push(
                t_ms,
                EventBody::Checkpoint { step: i, path: format!("checkpoints/step-{i:06}"), best: true },
            );
        }
    }
    push(
        NOW_MS - 1000,
        EventBody::Warning { message: "2 rows are longer than max_length and were cut".into() },
    );
    events
}

/// As the engine works it out, of a few answers.
pub fn detail(candidate: &str) -> Detail {
    let class = |label: &str, support: usize, answered: usize, right: usize| ClassScore {
        label: label.into(),
        support,
        answered,
        right,
        precision: right as f64 / answered as f64,
        recall: right as f64 / support as f64,
        f1: 2.0 * right as f64 / (answered + support) as f64,
    };
    let measured = |name: &str, value: f64, ci95| Measured {
        name: name.into(),
        value,
        n: 412,
        ci95,
        unit: Unit::Share,
        direction: Direction::Higher,
        threshold: Some(0.5),
        right: Some((value * 412.0) as usize),
        about: "share of rows whose answer is the golden one".into(),
    };
    let bin = |low: f64, n, probability, right| CalibrationBin {
        low,
        high: low + 1.0 / 15.0,
        n,
        probability,
        right,
    };
    Detail {
        candidate: candidate.into(),
        id: format!("{:064x}", 3),
        rung: "lora".into(),
        run: Some("train-12".into()),
        n: 412,
        samples: 1,
        errors: 2,
        primary: "accuracy".into(),
        metrics: vec![measured("accuracy", 0.908, Some([0.876, 0.932]))],
        classes: Some(ClassesDetail {
            classes: vec![
                class("billing", 210, 214, 197),
                class("card delivery", 180, 175, 160),
                class("fraud", 22, 23, 17),
            ],
            macro_f1: 0.87,
            weighted_f1: 0.9,
            labels: ["billing", "card delivery", "fraud"].map(String::from).to_vec(),
            matrix: vec![vec![197, 11, 2], vec![15, 160, 4], vec![2, 3, 17]],
            unread: vec![0, 1, 0],
            ..ClassesDetail::default()
        }),
        calibration: Some(CalibrationDetail {
            n: 412,
            ece: 0.043,
            brier: 0.071,
            bins: vec![bin(0.4, 12, 0.45, 4), bin(0.8, 100, 0.84, 80), bin(14.0 / 15.0, 300, 0.98, 290)],
        }),
        strata: vec![StratumScore {
            stratum: "mail, late".into(),
            n: 12,
            right: 7,
            value: 7.0 / 12.0,
            ci95: None,
        }],
        ..Detail::default()
    }
}

pub fn board() -> Board {
    let row = |(i, (name, rung, accuracy, p50)): (usize, (&str, &str, f64, f64))| BoardRow {
        regression: None,
        sets: BTreeMap::new(),
        candidate: name.into(),
        id: format!("{i:064x}"),
        rung: rung.into(),
        run: Some(format!("eval-{i}")),
        runs: vec![format!("eval-{i}")],
        n: 412,
        stale: 0,
        errors: 0,
        metrics: BTreeMap::from([
            ("accuracy".into(), accuracy),
            ("macro_f1".into(), accuracy - 0.03),
            ("format_error_rate".into(), 0.02 / (i + 1) as f64),
        ]),
        ci95: Some([accuracy - 0.04, accuracy + 0.04]),
        latency_ms: Some(Percentiles { p50, p90: p50 * 1.4, p95: p50 * 1.6, p99: p50 * 2.2 }),
        tokens_in: 641.0 / (i + 1) as f64,
        tokens_out: 4.0,
        usd_per_1k: Some(0.021 / (i + 1) as f64),
        judges: Vec::new(),
        goals: [
            ("accuracy", ">= 0.9", accuracy, accuracy >= 0.9),
            ("latency_p95_ms", "<= 2000", p50 * 1.6, true),
        ]
        .into_iter()
        .map(|(metric, want, got, pass)| GoalResult {
            metric: metric.into(),
            want: want.into(),
            got: Some(got),
            state: if pass { "pass" } else { "fail" }.into(),
            why: None,
        })
        .collect(),
        trilemma: Trilemma {
            ttft_ms: Some(Percentiles { p50: p50 * 0.8, p90: p50 * 1.1, p95: p50 * 1.3, p99: p50 * 1.9 }),
            rows_per_s: Some(4000.0 / p50),
            cost: Cost {
                machine_usd_per_1k: Some(0.021 / (i + 1) as f64),
                machine_s_per_row: Some(p50 / 4000.0),
                usd_per_hour: Some(1.2),
                usd_per_1k: Some(0.021 / (i + 1) as f64),
                ..Cost::default()
            },
            goodput: Some(Goodput {
                n: 30,
                good: (accuracy * 30.0) as usize,
                limit_ms: 2000.0,
                ci95: crate::score::stats::wilson((accuracy * 30.0) as usize, 30),
                per_s: None,
            }),
            training: (rung == "lora").then(|| Training {
                run: name.into(),
                hours: 0.8,
                usd_per_hour: Some(1.2),
            }),
            ..Trilemma::default()
        },
        ..BoardRow::default()
    };
    let step = |over: &str, fixed: usize, regressed: usize| {
        let n = 412;
        Some(Step {
            over: over.into(),
            n,
            delta: (fixed as f64 - regressed as f64) / n as f64,
            ci95: crate::score::stats::paired_difference(fixed, regressed, n),
            p_value: crate::score::stats::mcnemar_exact(fixed, regressed),
            fixed,
            regressed,
            churned: 12,
            needed: 0,
        })
    };
    let rung = |rung: &str, candidate: &str, value, candidates, step| Rung {
        rung: rung.into(),
        candidate: candidate.into(),
        value: Some(value),
        n: 412,
        candidates,
        step,
    };
    let ladder = Ladder {
        rungs: vec![
            rung("baseline", "base", 0.612, 1, None),
            rung("prompt", "route v7", 0.704, 7, step("base", 51, 13)),
            rung("lora", "lora-12", 0.908, 2, step("route v7", 93, 9)),
        ],
        advice: Advice {
            verdict: Verdict::Done,
            rung: None,
            reasons: vec![Reason { says: Verdict::Done, text: "lora-12 meets every goal".into() }],
            run: None,
        },
    };
    let rows = [
        ("base", "baseline", 0.612, 88.0),
        ("route v7", "prompt", 0.704, 91.0),
        ("lora-11", "lora", 0.871, 24.0),
        ("lora-12", "lora", 0.908, 21.0),
    ];
    let mut board = Board {
        own: Vec::new(),
        primary: "accuracy".into(),
        metrics: ["accuracy", "macro_f1", "format_error_rate", "latency_p95_ms"].map(String::from).to_vec(),
        eval_rows: 412,
        rows: rows.into_iter().enumerate().map(row).collect(),
        total: 4,
        ladder,
        ..Board::default()
    };
    crate::score::trilemma::pareto(&mut board);
    board
}

/// Every candidate of the board by topic; of a run its evaluations on 24 fixed rows.
pub fn timeline(run: Option<&str>) -> Timeline {
    let cells = |right: &dyn Fn(f64, f64) -> f64, rows: &dyn Fn(usize) -> usize| -> Vec<Cell> {
        let of = |(_, n, base, best): &(&str, usize, f64, f64)| {
            let n = rows(*n);
            Cell { right: (right(*base, *best) * n as f64).round() as usize, n }
        };
        TOPICS.iter().map(of).collect()
    };
    let moment = |name: &str, rung: &str, step: Option<u64>, cells: Vec<Cell>| {
        let all = cells.iter().fold(Cell::default(), |a, c| Cell { right: a.right + c.right, n: a.n + c.n });
        Moment { name: name.into(), rung: rung.into(), t_ms: NOW_MS, step, all, cells }
    };
    let eval = |n: usize| n * 15 / 100;
    let at = |share: f64| cells(&move |base, best| base + (best - base) * share, &eval);
    let mut columns = vec![moment("base", "baseline", None, at(0.0))];
    let mut curve = None;
    match run {
        None => {
            columns.push(moment("route v7", "prompt", None, at(0.3)));
            columns.push(moment("lora-11", "lora", None, at(0.9)));
        }
        Some(run) => {
            let flips = |step: u64| StepFlips {
                step,
                all: Cell { right: 8 + step as usize / 50, n: 24 },
                fixed: (0..step as usize / 200).map(|i| format!("{i:05}")).collect(),
                regressed: if step == 400 { vec!["00031".into()] } else { vec![] },
                churned: 1,
            };
            let steps = [200, 400, 600];
            columns.extend(steps.map(|step| {
                let share = step as f64 / 600.0;
                moment(
                    &format!("{run}@{step}"),
                    "lora",
                    Some(step),
                    cells(&move |base, best| base + (best - base) * share, &|_| 3),
                )
            }));
            curve = Some(Curve {
                run: run.into(),
                losses: (1..=612)
                    .map(|s| (s, 0.4 + 1.7 / (1.0 + s as f64 / 60.0) + 0.1 * noise(s)))
                    .collect(),
                evals: steps.map(|s| (s, 0.5 + 1.6 / (1.0 + s as f64 / 60.0))).to_vec(),
                checkpoints: vec![(200, true), (400, true), (600, false)],
                flips: steps.map(flips).to_vec(),
            });
        }
    }
    columns.push(moment("lora-12", "lora", None, at(1.0)));
    Timeline { strata: TOPICS.map(|(name, ..)| name.to_owned()).to_vec(), columns, left_out: 0, run: curve }
}

/// A board of many candidates, each with figures of its own; now and then one is not known.
pub fn large_board(candidates: usize) -> Board {
    let like = board();
    let row = |i: usize| {
        let at = i as u64 * 7;
        let mut row = like.rows[i % like.rows.len()].clone();
        (row.candidate, row.id) = (format!("{}-{i}", row.candidate), format!("{i:064x}"));
        let accuracy = 0.4 + 0.55 * noise(at);
        row.metrics.insert("accuracy".into(), accuracy);
        row.metrics.insert("macro_f1".into(), accuracy - 0.1 * noise(at + 1));
        row.ci95 = Some([accuracy - 0.03, accuracy + 0.03]);
        let p50 = 10.0 + 300.0 * noise(at + 2);
        row.latency_ms = (!i.is_multiple_of(17)).then_some(Percentiles {
            p50,
            p90: p50 * 1.4,
            p95: p50 * 1.6,
            p99: p50 * 2.2,
        });
        let usd = (!i.is_multiple_of(11)).then(|| 0.5 * noise(at + 3));
        (row.usd_per_1k, row.trilemma.cost.usd_per_1k) = (usd, usd);
        row
    };
    let mut large = Board { rows: (0..candidates).map(row).collect(), total: candidates, ..like.clone() };
    crate::score::trilemma::pareto(&mut large);
    large
}

pub fn comparison(a: &str, b: &str) -> Comparison {
    let flip = |i: usize| {
        let s = summary(i * 13 + 5);
        let gold = s.gold.clone().unwrap_or_default();
        let wrong = |k: usize| TEAMS[(i * 13 + 5 + k) % 5].to_owned();
        let other = wrong(1 + i % 2);
        let (kind, a, b) = match i {
            0..3 => (FlipKind::Regressed, gold.clone(), other),
            3..12 => (FlipKind::Fixed, other, gold.clone()),
            _ => (FlipKind::Churned, other, wrong(3 + i % 2)),
        };
        Flip { row: s.id, flip: kind, stratum: s.stratum, input: s.text, gold: s.gold, a, b }
    };
    Comparison {
        candidates: [a.into(), b.into()],
        metric: "accuracy".into(),
        n: 412,
        a: 0.612,
        b: 0.908,
        fixed: 131,
        regressed: 9,
        churned: 22,
        delta: 0.296,
        ci95: [0.25, 0.342],
        p_value: 1e-12,
        test: "mcnemar_exact".into(),
        needed: 0,
        strata: TOPICS
            .iter()
            .map(|(name, rows, base, best)| StratumDelta {
                stratum: (*name).into(),
                n: rows * 15 / 100,
                a: *base,
                b: *best,
                fixed: rows / 20,
                regressed: rows / 300,
                churned: 0,
            })
            .collect(),
        flips: (0..15).map(flip).collect(),
        ..Comparison::default()
    }
}

/// What the eval part of the made-up workspace can show.
pub fn power(candidate: Option<&str>, difference: f64) -> Power {
    let cost = power::Cost {
        rows: 412,
        calls: 412,
        tokens_in: 36_000,
        tokens_out: 1_900,
        seconds: Some(38.0),
        usd: None,
        run: "eval-3".into(),
        of_another: candidate.is_some(),
    };
    Power {
        metric: "accuracy".into(),
        candidate: candidate.unwrap_or("baseline").into(),
        part: Part::Eval,
        rows: 412,
        expected: false,
        discordance: 0.21,
        compared: 4,
        design_effect: 1.0,
        smallest: Some(0.066),
        difference,
        power: 0.55,
        needed: Some(705),
        strata: Vec::new(),
        cost: Some(cost),
    }
}

/// Who answers a question in the playground, and of which row.
pub fn playing(question: &PlayAsk) -> Playing {
    let row = match &question.input {
        PlayInput::Row { id } => Some(row(id)),
        PlayInput::Typed { .. } => None,
    };
    let typed = if let PlayInput::Typed { text } = &question.input { text.clone() } else { String::new() };
    Playing {
        id: question.id,
        candidate: question.candidate.clone().unwrap_or_else(|| "baseline".into()),
        stages: vec!["route".into()],
        labels: TEAMS.map(String::from).to_vec(),
        row: row.as_ref().map(|r| r.id.clone()),
        input: row.as_ref().map_or(typed, |r| r.input.clone()),
        gold: row.and_then(|r| r.gold),
    }
}

/// An answer as it comes: prompt, pieces, figures and tokens, end.
pub fn play_events(question: &PlayAsk) -> Vec<PlayEvent> {
    let of = playing(question);
    let best = question.candidate.as_deref() == Some("lora-12");
    let output = of.gold.clone().filter(|_| best).unwrap_or_else(|| "card_lost".into());
    let stage = "route".to_owned();
    let token = |text: &str, p: f64| PlayToken {
        text: text.into(),
        logprob: p.ln(),
        top: [(text, p), ("card", (1.0 - p) * 0.6), ("re", (1.0 - p) * 0.3), ("\n", (1.0 - p) * 0.1)]
            .map(|(text, p)| (text.to_owned(), p.ln()))
            .to_vec(),
    };
    let (head, tail) = output.split_at(output.len().min(3));
    let outcome = StageOutcome {
        stage: stage.clone(),
        output: output.clone(),
        tokens_in: if best { 24 } else { 641 },
        tokens_out: 3,
        ttft_ms: if best { 21.0 } else { 88.0 },
        ms: if best { 29.0 } else { 104.0 },
        format_ok: true,
        ..StageOutcome::default()
    };
    let prompt = format!("Which team is this message for?\n\n{}\n\nTeam:", of.input);
    let bodies = [
        PlayBody::Prompt { stage: stage.clone(), prompt },
        PlayBody::Piece { stage: stage.clone(), text: head.into() },
        PlayBody::Piece { stage, text: tail.into() },
        PlayBody::Stage {
            outcome,
            tokens: vec![token(head, if best { 0.97 } else { 0.31 }), token(tail, 0.94), token("\n", 0.06)],
        },
        PlayBody::Done { output },
    ];
    bodies.into_iter().map(|body| PlayEvent { id: question.id, body }).collect()
}

/// Three answers for a person to judge.
pub fn queue() -> Queue {
    let item = |i: usize, input: &str, output: &str| QueueItem {
        item: format!("00000000{i}"),
        row: format!("{i:05}"),
        stratum: Some("late cards".into()),
        input: input.into(),
        output: output.into(),
        gold: Some("cards".into()),
    };
    Queue {
        judge: "helpful".into(),
        annotator: "ann".into(),
        verdicts: ["bad", "fair", "good"].map(String::from).to_vec(),
        done: 2,
        total: 5,
        items: vec![
            item(1, "my card has not come yet", "cards: it will be there tomorrow"),
            item(2, "two payments were taken\nfor one ticket", "payments"),
            item(3, "who are you?", "I do not know."),
        ],
    }
}

/// A judge that people agree with on most answers.
pub fn agreement() -> Agreement {
    Agreement {
        judge: "helpful".into(),
        verdicts: ["bad", "fair", "good"].map(String::from).to_vec(),
        n: 40,
        judged: 40,
        same: 33,
        kappa: Some(Kappa { value: 0.71, ci95: [0.55, 0.87] }),
        at_least: 0.6,
        people_at_least: 30,
        ..Agreement::default()
    }
}

/// What an engine would answer, from this page.
pub fn respond(request: &Request) -> Response {
    match request {
        Request::Status => Response::Status { status: status() },
        Request::Import { .. } | Request::Imported => Response::Import {
            report: ImportReport { rows: 3396, format: "jsonl/records".into(), ..ImportReport::default() },
        },
        Request::Strata => Response::Strata { view: strata() },
        Request::Sample { per, .. } => {
            Response::Sample { rows: (0..per * 8).map(|i| format!("{i:05}")).collect() }
        }
        Request::Rows { query } => Response::Rows { page: rows(query) },
        Request::Row { id } => Response::Row { row: row(id) },
        Request::Count { by, .. } => {
            Response::Counts { counts: Counts { by: by.clone(), ..Counts::default() } }
        }
        Request::Trace { row, .. } => Response::Trace { run: "eval-1".into(), trace: trace(row) },
        Request::LaunchAll { sets, .. } => {
            Response::LaunchedAll { runs: (0..sets.len()).map(|i| format!("eval-{}", i + 20)).collect() }
        }
        Request::Sweep { .. } => {
            Response::Swept { group: "sweep-1".into(), runs: vec!["train-13".into(), "train-14".into()] }
        }
        Request::DropHopeless { .. } => Response::Done { message: "noted".into() },
        Request::Prompts => Response::Prompts { kept: PromptsKept::default() },
        Request::Launch { kind, .. } => Response::Launched { run: format!("{kind}-13") },
        Request::Runs => Response::Runs { runs: runs() },
        Request::Run { run: id } => match runs().into_iter().find(|r| r.run == *id) {
            Some(run) => Response::Run { run },
            None => Response::Error { error: Failure::new(2, format!("no run {id}")) },
        },
        Request::Events { run, after, limit } => {
            let events: Vec<Event> =
                training(612, 1000).into_iter().filter(|e| e.seq > *after).take(*limit).collect();
            Response::Events { run: run.clone(), events, more: false }
        }
        Request::Board => Response::Board { board: board() },
        Request::Timeline { run } => Response::Timeline { timeline: timeline(run.as_deref()) },
        Request::Remedies { row, candidate } => {
            Response::Remedies { remedies: remedies::remedies(row, candidate.as_deref()) }
        }
        Request::Power { candidate, difference, .. } => {
            Response::Power { power: power(candidate.as_deref(), *difference) }
        }
        Request::BoardRows { .. } => Response::Board { board: Board { rows: vec![], ..board() } },
        Request::CompareMany { a, others, .. } => {
            Response::Compared { comparisons: others.iter().map(|b| comparison(a, b)).collect() }
        }
        Request::Compare { a, b, .. } => Response::Compare { comparison: comparison(a, b) },
        Request::ImportOutcomes { .. } => Response::ImportedOutcomes {
            imported: ImportedFile { rows: 10, matched: 10, ..ImportedFile::default() },
        },
        Request::Outcomes => Response::Outcomes { imported: Vec::new() },
        Request::Play { question, .. } => Response::Playing { playing: playing(question) },
        Request::RemoveOutcomes { .. } | Request::PlayCancel { .. } => {
            Response::Done { message: String::new() }
        }
        Request::Detail { candidate } => Response::Detail { detail: Box::new(detail(candidate)) },
        Request::JudgeQueue { .. } => Response::Queue { queue: queue() },
        Request::Pairwise { .. } => Response::Pairwise { pairwise: Box::default() },
        Request::JudgeAgreement { .. } => Response::Agreement { agreement: agreement() },
        Request::Examples { query, .. } => Response::Examples { page: trajectories::examples(query) },
        Request::SearchExamples { input, .. } => {
            Response::FoundExamples { found: trajectories::found(input) }
        }
        Request::Trajectory { run } => Response::Trajectory { view: Box::new(trajectories::view(run)) },
        Request::Control { .. }
        | Request::ImportExamples { .. }
        | Request::Steer { .. }
        | Request::Decide { .. }
        | Request::JudgeSay { .. }
        | Request::Undo
        | Request::Repair
        | Request::ExportRows { .. }
        | Request::Leave => Response::Done { message: String::new() },
    }
}

/// What an engine would push at first to one who follows a view.
pub fn snapshot(view: &View) -> Push {
    match view {
        View::Runs => Push::Runs { runs: runs() },
        View::Board => Push::Board { board: board() },
        View::Strata => Push::Strata { view: strata() },
        View::Files => Push::Files { news: vec![] },
        View::Run { run, .. } if run.starts_with("trajectory") => {
            Push::Events { run: run.clone(), events: trajectories::events() }
        }
        View::Run { run, after } => Push::Events {
            run: run.clone(),
            events: training(612, 1000).into_iter().filter(|e| e.seq > *after).collect(),
        },
    }
}

/// Lets the state and this page talk until nobody has anything to say.
pub fn settle(app: &mut App, effects: Vec<Effect>) {
    let mut queue = effects;
    while let Some(effect) = queue.pop() {
        let news = match effect {
            Effect::Send(ToEngine::Ask { tag, request: Request::Play { question, keys } }) => {
                let events = play_events(&question);
                let request = Request::Play { question, keys };
                let answer = FromEngine::Answer { tag, response: respond(&request) };
                queue.extend(app.update(Message::Engine(answer), NOW_MS));
                FromEngine::Push { push: Push::Play { events } }
            }
            Effect::Send(ToEngine::Ask { tag, request }) => {
                FromEngine::Answer { tag, response: respond(&request) }
            }
            Effect::Send(ToEngine::Follow { view }) => FromEngine::Push { push: snapshot(&view) },
            _ => continue,
        };
        queue.extend(app.update(Message::Engine(news), NOW_MS));
    }
}

/// The settings without any file.
pub fn settings(theme: &str) -> Settings {
    Settings {
        keymap: Keymap::default(),
        themes: BUNDLED.iter().map(|(name, _)| bundled(name)).collect(),
        theme: theme.to_owned(),
        problems: vec![],
    }
}

/// The screens, connected, with everything there.
pub fn app(size: (u16, u16), theme: &str, signs: Signs) -> App {
    let mut app = App::new(size, signs, NOW_MS);
    app.update(Message::Settings(settings(theme)), NOW_MS);
    let effects = app.update(Message::Engine(FromEngine::Connected { status: status() }), NOW_MS);
    settle(&mut app, effects);
    app
}
