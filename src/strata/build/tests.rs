use super::*;
use crate::domain::report::notes::{After, Notes};
use crate::domain::run::{Job, RUN_FORMAT, RunSpec};
use serde_json::json;
use std::collections::HashSet;

const TOPICS: [[&str; 4]; 4] = [
    [
        "where is my card",
        "the card has not arrived yet",
        "card delivery is late",
        "still waiting for the card",
    ],
    [
        "refund my purchase",
        "the shop owes me a refund",
        "money back for a purchase",
        "purchase refund not received",
    ],
    ["the app crashes", "app crashes at login", "cannot open the app", "login in the app fails"],
    ["change my address", "i moved house", "new address after moving", "update the home address please"],
];

fn rows(n: usize) -> Vec<RunRow> {
    (0..n)
        .map(|i| {
            let topic = i % 4;
            let text = format!("{} number {i}", TOPICS[topic][i / 4 % 4]);
            let fields = json!({ "channel": if i % 3 == 0 { "mail" } else { "chat" } });
            RunRow {
                id: format!("r{i}"),
                hash: format!("h{i}"),
                part: None,
                stratum: None,
                fields: fields.as_object().cloned().unwrap_or_default(),
                input: text,
                turns: Vec::new(),
                gold: None,
            }
        })
        .collect()
}

fn inputs(rows: Vec<RunRow>, settings: &StrataSettings, threads: usize, dir: &Path) -> RunInputs {
    let lines: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
    std::fs::create_dir_all(dir.join("inputs")).unwrap();
    std::fs::write(dir.join(ROWS), lines).unwrap();
    let spec = RunSpec {
        sets: Vec::new(),
        format: RUN_FORMAT,
        id: "strata-1".into(),
        workspace: "test".into(),
        created_ms: 0,
        seed: 7,
        threads,
        job: Job::Strata(settings.clone()),
        candidate: None,
        settings: Vec::new(),
        past: None,
        from: None,
        cache: Default::default(),
        rows: Vec::new(),
    };
    RunInputs {
        sets: Vec::new(),
        dir: dir.to_owned(),
        spec,
        rows: Vec::new(),
        resume_from: None,
        outcomes: Vec::new(),
        keys: crate::domain::keys::Keys::default(),
        cache: None,
        history: Vec::new(),
    }
}

fn build(rows: Vec<RunRow>, settings: &StrataSettings, threads: usize) -> StrataArtifact {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = Notes::default();
    let result = run(settings, &inputs(rows, settings, threads, dir.path()), &mut reporter).unwrap();
    let artifact = StrataArtifact::read(dir.path()).unwrap();
    assert_eq!(result.metrics["strata"], artifact.strata.len() as f64);
    assert!(matches!(reporter.events.last(), Some(EventBody::Progress { done: 5, total: 5, .. })));
    artifact
}

fn settings(k: Option<usize>) -> StrataSettings {
    StrataSettings { k, dimensions: vec!["channel".into()], ..StrataSettings::default() }
}

#[test]
fn topics_become_clusters_crossed_with_the_dimension() {
    let mut all = rows(400);
    all.push(RunRow { input: "zxcv qwer uiop".into(), id: "odd".into(), ..all[0].clone() });
    all.push(RunRow { id: "copy".into(), ..all[7].clone() });
    let got = build(all.clone(), &settings(Some(4)), 2);
    // Each cluster is one topic.
    let topics: HashSet<(usize, usize)> = (0..400).map(|i| (i % 4, got.rows[i].cluster)).collect();
    assert_eq!(topics.len(), 4);
    assert_eq!(got.strata.len(), 8);
    assert_eq!(got.strata.iter().map(|s| s.rows).sum::<usize>(), 402);
    for (row, place) in all.iter().zip(&got.rows) {
        let stratum = &got.strata[place.stratum];
        assert_eq!(json!(stratum.dimensions["channel"]), row.fields["channel"]);
        assert!(stratum.id.starts_with(&got.clusters[place.cluster].id));
        assert!(
            stratum.name.starts_with(&got.clusters[place.cluster].name) && stratum.name.contains("channel=")
        );
    }
    let names: HashSet<&str> = got.strata.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names.len(), 8);
    let card = &got.clusters[got.rows[0].cluster];
    assert!(card.name.contains("card"), "{card:?}");
    let place = |id: &str| got.rows.iter().find(|r| r.id == id).unwrap();
    assert!(place("odd").flags.contains(&OUTLIER.to_owned()));
    assert!(place("copy").flags.contains(&NEAR_DUPLICATE.to_owned()));
    assert_eq!(map_view(&got).len(), 402);
    assert!(got.map.iter().all(|p| p.x.abs() <= 1.0 && p.y.abs() <= 1.0));
}

#[test]
fn the_number_of_clusters_is_chosen_and_the_choice_is_kept() {
    let got = build(rows(400), &settings(None), 2);
    assert!(got.tried.iter().any(|(k, _)| *k == got.clusters.len()), "{:?}", got.tried);
    assert!(got.clusters.len() <= 400 / super::cut::ROWS_PER_CLUSTER);
    assert_eq!(build(rows(30), &settings(None), 1).clusters.len(), 1);
}

#[test]
fn the_same_rows_give_the_same_strata_on_any_number_of_threads() {
    let got = build(rows(300), &settings(None), 1);
    assert_eq!(build(rows(300), &settings(None), 3), got);
}

#[test]
fn rows_that_say_nothing_are_one_stratum() {
    let mut all = rows(200);
    for row in &mut all {
        row.input = "?!".into();
    }
    let got = build(all, &StrataSettings { dimensions: Vec::new(), ..settings(None) }, 2);
    assert_eq!((got.strata.len(), got.strata[0].rows, got.strata[0].name.as_str()), (1, 200, "cluster 1"));
    assert_eq!(got.flagged(OUTLIER), 0);
}

#[test]
fn a_cancelled_build_leaves_nothing_and_bad_input_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut reporter = Notes::asking(After::Polls(0), Control::Cancel);
    let settings = settings(None);
    assert!(run(&settings, &inputs(rows(30), &settings, 1, dir.path()), &mut reporter).unwrap().stopped);
    assert!(StrataArtifact::read(dir.path()).unwrap_err().to_string().contains("strata.json"));
    let said =
        run(&settings, &inputs(vec![], &settings, 1, dir.path()), &mut reporter).unwrap_err().to_string();
    assert!(said.contains("no rows"), "{said}");
}
