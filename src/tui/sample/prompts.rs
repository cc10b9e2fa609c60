//! The sample's prompt run: a tree of versions, one of them beside its parent, a race under way, a trial by hand.

use std::collections::BTreeMap;

use super::NOW_MS;
use crate::domain::event::{Event, EventBody};
use crate::domain::outcome::FlipKind;
use crate::domain::prompt::{Fate, Lane, Lesson, PromptNews, PromptVersion, Score, Spend, Standing};
use crate::domain::run::{Progress, RunKind, RunRecord, RunState};
use crate::domain::settings::Budget;
use crate::domain::versions::{Branch, FoundVersion, HAND, Slice, Trial, TriedRow, VersionTree};

pub const RUN: &str = "prompt-3";

const START: &str = "Which team should get this message?\n\n{{ message }}\n";

/// Id, parent, who wrote it, what was changed, what became of it, selected and fresh score, rows fixed and broken.
type Told = (&'static str, &'static str, &'static str, &'static str, Fate, f64, f64, usize, usize);

const VERSIONS: [Told; 9] = [
    ("v0", "", "start", "as it stands", Fate::Survived, 0.625, 0.6, 0, 0),
    ("v1", "v0", "wording", "asks for the topic", Fate::Survived, 0.75, 0.7, 6, 1),
    ("v2", "v0", "edit", "a clause is dropped", Fate::Dropped, 0.4, 0.0, 1, 5),
    ("v3", "v0", "labels", "labels described by their terms", Fate::Survived, 0.8, 0.75, 8, 1),
    ("v4", "v1", "examples", "4 examples from train", Fate::Beaten, 0.7, 0.0, 3, 4),
    ("v5", "v3", "reflection", "rewritten after 5 failures", Fate::Open, 0.85, 0.0, 4, 1),
    ("v6", "v3", "merge", "of v3 and v1", Fate::Open, 0.83, 0.0, 3, 1),
    ("v7", "v1", "edit", "be brief, moved to the front", Fate::Dropped, 0.5, 0.0, 0, 3),
    ("v8", "v5", "history", "written after 6 scored versions", Fate::Open, 0.82, 0.0, 2, 1),
];

fn version((id, parent, proposer, edit, fate, selected, fresh, ..): &Told) -> PromptVersion {
    PromptVersion {
        id: (*id).into(),
        hash: format!("{id:0>32}"),
        parents: Some((*parent).to_owned()).filter(|p| !p.is_empty()).into_iter().collect(),
        epoch: usize::from(*id != "v0") + usize::from(*id > "v3"),
        proposer: (*proposer).into(),
        edit: (*edit).into(),
        fate: *fate,
        selected: Some(Score { mean: *selected, n: 40 }),
        fresh: (*fresh > 0.0).then_some(Score { mean: *fresh, n: 40 }),
        start_fresh: (*fresh > 0.0).then_some(Score { mean: 0.6, n: 40 }),
        ..PromptVersion::default()
    }
}

fn lesson((version, gain, edit): (&str, f64, &str)) -> Lesson {
    Lesson { epoch: 1, version: version.into(), proposer: "edit".into(), edit: edit.into(), gain, n: 40 }
}

fn lessons() -> Vec<Lesson> {
    let told = [("v3", 0.175, "labels described by their terms"), ("v2", -0.225, "a clause is dropped")];
    told.map(lesson).into()
}

pub fn tree(run: Option<&str>) -> VersionTree {
    let runs = vec![RUN.to_owned(), "prompt-2".into(), HAND.into()];
    let files = vec![("route".to_owned(), "prompts/route.md".to_owned())];
    if run == Some(HAND) {
        let by_hand = |(id, parent, edit): (&str, &str, &str)| PromptVersion {
            id: id.into(),
            hash: format!("hand{id}"),
            parents: vec![parent.into()],
            proposer: HAND.into(),
            edit: edit.into(),
            selected: Some(Score { mean: 0.75, n: 24 }),
            ..PromptVersion::default()
        };
        let told = [("v0", "prompt-3:v3", "as prompt-3:v3"), ("v1", "v0", "+5 -2 words")];
        let branch = |(depth, told): (usize, (&str, &str, &str))| Branch {
            version: by_hand(told),
            depth,
            fixed: 2 * depth,
            broken: depth,
            tag: None,
            current: depth == 1,
        };
        let versions = told.into_iter().enumerate().map(branch).collect();
        return VersionTree { run: HAND.into(), runs, files, versions, ..VersionTree::default() };
    }
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    let versions = VERSIONS
        .iter()
        .map(|told| {
            let depth = depths.get(told.1).map_or(0, |depth| depth + 1);
            depths.insert(told.0, depth);
            let tag = (told.0 == "v3").then(|| "short-one".to_owned());
            Branch {
                version: version(told),
                depth,
                fixed: told.7,
                broken: told.8,
                tag,
                current: told.0 == "v0",
            }
        })
        .collect();
    VersionTree {
        run: run.unwrap_or(RUN).into(),
        runs,
        metric: "accuracy".into(),
        versions,
        lessons: lessons(),
        gain: None,
        files,
    }
}

fn row((i, flip): (usize, Option<FlipKind>)) -> TriedRow {
    let right = flip != Some(FlipKind::Regressed);
    TriedRow {
        id: format!("{i:05}"),
        input: format!("I ordered my new card {} days ago and it still has not come", i + 2),
        gold: Some("delivery".into()),
        before: Some(if right { "card_lost" } else { "delivery" }.into()),
        after: if right { "delivery" } else { "refund" }.into(),
        flip,
        right: Some(right),
    }
}

pub fn found(of: Option<&str>) -> FoundVersion {
    let (run, id) = of.and_then(|of| of.split_once(':')).unwrap_or((RUN, "v3"));
    let text = format!(
        "You sort messages of a bank's customers.\n\nAnswer with one of: delivery, card_lost, refund.\nName the team only; never promise a refund. ({id})\n\n{{{{ message }}}}\n"
    );
    let texts = |text: String| BTreeMap::from([("route".to_owned(), text)]);
    let told = VERSIONS.iter().find(|told| told.0 == id).unwrap_or(&VERSIONS[3]);
    let parent = (id != "v0").then(|| PromptVersion {
        id: if run == HAND { "v0" } else { told.1 }.into(),
        prompts: texts(START.into()),
        ..version(&VERSIONS[0])
    });
    let prompts = texts(if id == "v0" { START.to_owned() } else { text });
    let flips = [Some(FlipKind::Regressed), Some(FlipKind::Fixed), Some(FlipKind::Fixed)];
    let rows = if id == "v0" { Vec::new() } else { flips.into_iter().enumerate().map(row).collect() };
    FoundVersion {
        run: run.into(),
        version: PromptVersion { id: id.into(), prompts, ..version(told) },
        parent,
        tag: (id == "v3").then(|| "short-one".to_owned()),
        rows,
        more: 0,
    }
}

pub fn trial(slice: &Slice) -> Trial {
    let flips = [Some(FlipKind::Regressed), Some(FlipKind::Fixed), Some(FlipKind::Fixed), None, None];
    Trial {
        version: "v1".into(),
        before: Some("v0".into()),
        slice: slice.clone(),
        score: Score { mean: 0.75, n: 24 },
        before_score: Some(Score { mean: 0.708, n: 24 }),
        ci95: Some(crate::score::stats::paired_difference(2, 1, 24)),
        rows: flips.into_iter().enumerate().map(row).collect(),
        asked: 24,
        tokens: 118.0,
        before_tokens: Some(131.0),
        ms: 640,
        ..Trial::default()
    }
}

/// A prompt run in its second epoch.
pub fn run() -> RunRecord {
    RunRecord {
        progress: Some(Progress { phase: "epoch 2/5, race".into(), done: 24, total: 40, eta_ms: None }),
        ..super::run(RUN, RunKind::Prompt, RunState::Running)
    }
}

/// What it told: the first epoch, and a race under way.
pub fn events() -> Vec<Event> {
    let spend = Spend { calls: 1_204, cached: 36, tokens: 96_320, usd: 0.0, seconds: 41.5 };
    let budget = Budget { calls: Some(4_000), ..Budget::default() };
    let told = |told: &Told| PromptNews::Version { version: version(told) };
    let mut news: Vec<PromptNews> = VERSIONS[..4].iter().map(told).collect();
    let standing = |id: &str, selected: f64, fresh: f64| Standing {
        version: id.into(),
        selected: Score { mean: selected, n: 40 },
        fresh: Score { mean: fresh, n: 40 },
        start: Score { mean: 0.6, n: 40 },
    };
    let standings = vec![standing("v3", 0.8, 0.75), standing("v1", 0.75, 0.7)];
    news.push(PromptNews::Epoch { epoch: 1, epochs: 5, standings, budget, spend });
    news.extend(lessons().into_iter().map(|lesson| PromptNews::Lesson { lesson }));
    news.extend(VERSIONS[4..].iter().map(told));
    let lane = |(id, mean, n, runs): (&str, f64, usize, bool)| Lane {
        version: id.into(),
        score: Score { mean, n },
        runs,
    };
    let lanes = [
        ("v3", 0.79, 24, true),
        ("v1", 0.75, 24, true),
        ("v0", 0.625, 24, true),
        ("v4", 0.7, 20, false),
        ("v5", 0.875, 24, true),
        ("v6", 0.83, 24, true),
        ("v7", 0.4, 10, false),
        ("v8", 0.82, 24, true),
    ];
    let lanes = lanes.map(lane).into();
    news.push(PromptNews::Race { epoch: 2, round: 4, rows: 24, of: 40, lanes, budget, spend });
    let event = |(i, news): (usize, PromptNews)| Event {
        seq: i as u64 + 1,
        t_ms: NOW_MS - 30_000 + i as u64 * 100,
        body: EventBody::Prompt(news),
    };
    news.into_iter().enumerate().map(event).collect()
}
