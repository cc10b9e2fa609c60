//! Runs, and what a training run tells.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{NOW_MS, TEAMS, noise};
use crate::domain::event::{Event, EventBody};
use crate::domain::run::{Progress, RunKind, RunRecord, RunState};

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
