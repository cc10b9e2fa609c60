//! The board: candidates, a comparison, a detail, the power of the rows.

use std::collections::BTreeMap;

use super::data::summary;
use super::{TEAMS, TOPICS, noise};
use crate::domain::board::{Board, BoardRow, Comparison, GoalResult, Percentiles, StratumDelta};
use crate::domain::detail::{
    CalibrationBin, CalibrationDetail, ClassScore, ClassesDetail, Detail, Measured, StratumScore,
};
use crate::domain::ladder::{Advice, Ladder, Reason, Rung, Step, Verdict};
use crate::domain::metric::{Direction, Unit};
use crate::domain::outcome::{Flip, FlipKind};
use crate::domain::power::{self, Power};
use crate::domain::row::Part;
use crate::domain::trilemma::{Cost, Goodput, Training, Trilemma};

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
