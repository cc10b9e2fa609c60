//! The playground, and answers to judge.

use super::TEAMS;
use super::row;
use crate::domain::judge::{Agreement, Kappa, Queue, QueueItem};
use crate::domain::outcome::StageOutcome;
use crate::domain::play::{PlayAsk, PlayBody, PlayEvent, PlayInput, PlayToken, Playing};
use crate::domain::review::{Apart, Pair, Progress, ReviewItem, ReviewQueue, RowAgreement};
use crate::domain::scaling::Scaling;
use crate::score::scaling::{Trained, curve};

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
pub fn review() -> ReviewQueue {
    let item = |row: &str, input: &str, gold: &str| ReviewItem {
        row: row.into(),
        stratum: "card arrival".into(),
        input: input.into(),
        gold: Some(gold.into()),
        ..ReviewItem::default()
    };
    ReviewQueue {
        annotator: "ann".into(),
        done: 2,
        total: 5,
        strata: vec![Progress { stratum: "card arrival".into(), done: 2, total: 5 }],
        items: vec![
            item("00021", "my card has not come", "delivery"),
            item("00034", "two payments are missing", "payments"),
            item("00055", "who are you?", "smalltalk"),
        ],
    }
}

pub fn reviewed() -> RowAgreement {
    let kappa = Kappa { value: 0.743, ci95: [0.41, 0.96] };
    RowAgreement {
        annotators: vec![("ann".into(), 5), ("ben".into(), 5)],
        rows: 5,
        same: 4,
        alpha: Some(kappa),
        pairs: vec![Pair { a: "ann".into(), b: "ben".into(), rows: 5, same: 4, kappa: Some(kappa) }],
        apart: vec![Apart {
            row: "00034".into(),
            said: vec![("ann".into(), "payments".into()), ("ben".into(), "delivery".into())],
            ..Apart::default()
        }],
        ..RowAgreement::default()
    }
}

pub fn scaling() -> Scaling {
    let trained = |rows: usize, wrong: usize| Trained {
        run: format!("train-{rows}"),
        rows,
        right: (0..500).map(|i| i >= wrong).collect(),
    };
    Scaling {
        group: "sweep-1".into(),
        ..curve(vec![trained(550, 130), trained(1100, 92), trained(2200, 66)], 7)
    }
}

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
