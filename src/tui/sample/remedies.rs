//! Remedies for a wrong row: one with evidence, one without, one that cannot be started.

use crate::domain::remedy::{Bound, Expected, FailedStage, Price, Remedies, Remedy};
use crate::domain::row::Part;
use crate::domain::run::RunKind;

pub fn remedies(row: &str, candidate: Option<&str>) -> Remedies {
    let candidate = candidate.unwrap_or("lora-12");
    let set =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let remedies = vec![
        Remedy {
            kind: RunKind::Prompt,
            what: "edits of the prompt of stage route, raced and scored on fresh rows".into(),
            expected: Some(Expected {
                fixed: 4.2,
                fixed95: [1.1, 8.6],
                broken: 0.4,
                seen_wrong: 20,
                seen_fixed: 6.0,
                seen_right: 48,
                seen_broken: 1.0,
                of_stratum: true,
                runs: vec!["prompt-2".into(), "prompt-1".into()],
            }),
            price: Price {
                bound: Bound::About,
                seconds: Some(200.0),
                calls: Some(1204),
                tokens: Some(310_000),
                usd: Some(0.12),
                from: "as prompt-2 took".into(),
            },
            set: set(&[("candidate", candidate), ("tuning.prompt.stages", "[\"route\"]")]),
            refused: None,
        },
        Remedy {
            kind: RunKind::Trajectory,
            what: "examples out of 61 train rows like this one, kept where they turn wrong answers of stage route".into(),
            expected: None,
            price: Price {
                bound: Bound::AtLeast,
                seconds: Some(14.0),
                calls: Some(261),
                tokens: Some(44_100),
                usd: None,
                from: "each row asked once or twice, by what answers took in eval-1; no trajectory run tells yet".into(),
            },
            set: set(&[
                ("candidate", candidate),
                ("tuning.trajectory.stages", "[\"route\"]"),
                ("tuning.trajectory.strata", "[\"top-up failed\"]"),
            ]),
            refused: None,
        },
        Remedy {
            kind: RunKind::Train,
            what: "an adapter of stage route on 2,410 train rows, the 61 of this stratum 3 times as often".into(),
            expected: None,
            price: Price::default(),
            set: Vec::new(),
            refused: Some("stage route is answered by an endpoint; only local models are trained".into()),
        },
    ];
    Remedies {
        row: row.into(),
        part: Some(Part::Eval),
        stratum: Some("top-up failed".into()),
        candidate: candidate.into(),
        answer: Some("refund".into()),
        gold: Some("payments".into()),
        right: Some(false),
        stage: Some(FailedStage { stage: "route".into(), why: "the only one that ran".into() }),
        scored: 30,
        wrong: 14,
        same_mistake: 6,
        right_by: vec!["base".into()],
        remedies,
        notes: vec![
            "nothing learns from a row of the eval part: rows of the train part like it are learned from"
                .into(),
        ],
    }
}
