use super::*;
use crate::domain::settings::StrataSettings;
use crate::embed::FlatWriter;
use crate::strata::artifact::FORMAT;

/// Rows `r0`.. with a cluster each, and channels by turns; every row's vector is its number.
fn artifact(clusters: &[usize]) -> StrataArtifact {
    let k = clusters.iter().max().map_or(0, |most| most + 1);
    let settings = StrataSettings { dimensions: vec!["channel".into()], ..StrataSettings::default() };
    let channels = ["chat", "mail"];
    let strata = (0..k * 2).map(|at| Stratum {
        dimensions: BTreeMap::from([("channel".into(), channels[at % 2].into())]),
        ..Stratum::default()
    });
    StrataArtifact {
        format: FORMAT,
        settings,
        clusters: (0..k)
            .map(|c| Cluster {
                id: format!("c{}", c + 1),
                name: format!("name {c}"),
                rows: clusters.iter().filter(|of| **of == c).count(),
                terms: vec![format!("term{c}")],
                group: format!("g{}", c % 2 + 1),
            })
            .collect(),
        groups: (1..=2)
            .map(|g| ClusterGroup { id: format!("g{g}"), name: format!("group {g}"), terms: vec![] })
            .collect(),
        strata: strata.collect(),
        rows: clusters
            .iter()
            .enumerate()
            .map(|(i, &cluster)| RowPlace {
                id: format!("r{i}"),
                stratum: cluster * 2 + i % 2,
                cluster,
                outlier: 0.0,
                flags: Vec::new(),
            })
            .collect(),
        ..StrataArtifact::default()
    }
}

fn kin(name: &str, rows: std::ops::Range<usize>) -> Kin {
    Kin { name: name.into(), rows: rows.map(|i| format!("r{i}")).collect(), terms: Vec::new() }
}

fn arranged(artifact: &StrataArtifact, acts: Vec<Act>) -> Arranged {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("v.f16");
    let mut writer = FlatWriter::create(&path).unwrap();
    writer.append(&(0..artifact.rows.len()).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    let acts = (1..).zip(acts).collect();
    arrange(artifact, &acts, &mut || Flat::open(&path, 1).map_err(|e| e.to_string()))
}

fn shown(of: &Arranged) -> Vec<(&str, &str, usize)> {
    of.clusters.iter().map(|c| (c.id.as_str(), c.name.as_str(), c.rows)).collect()
}

fn state(of: &Arranged) -> Vec<ActState> {
    of.told.iter().map(|t| t.state).collect()
}

fn clusters(sizes: &[usize]) -> Vec<usize> {
    sizes.iter().enumerate().flat_map(|(c, n)| vec![c; *n]).collect()
}

#[test]
fn nothing_decided_is_what_the_run_found() {
    let got = arranged(&artifact(&clusters(&[6, 4])), vec![]);
    assert_eq!(shown(&got), [("c1", "name 0", 6), ("c2", "name 1", 4)]);
    assert_eq!(got.strata.len(), 4);
    assert_eq!(got.strata[0].id, "c1/channel=chat");
    assert_eq!(got.strata.iter().map(|s| s.rows).sum::<usize>(), 10);
    for (row, at) in got.stratum_of.iter().enumerate() {
        assert_eq!(got.strata[*at as usize].dimensions["channel"], ["chat", "mail"][row % 2]);
    }
}

#[test]
fn a_merge_is_found_again_under_other_numbers() {
    let merge = Act::Merge { of: vec![kin("small", 6..10), kin("large", 0..6)] };
    let got = arranged(&artifact(&clusters(&[6, 4, 2])), vec![merge.clone()]);
    assert_eq!(shown(&got), [("c1", "name 0", 10), ("c3", "name 2", 2)]);
    assert_eq!(got.clusters[0].terms, ["term0", "term1"]);
    assert!(got.cluster_of[..10].iter().all(|c| *c == 0));
    // Built anew: other numbers, and a row that changed sides.
    let anew: Vec<usize> = (0..12)
        .map(|i| {
            if i < 7 {
                2
            } else if i < 10 {
                0
            } else {
                1
            }
        })
        .collect();
    let got = arranged(&artifact(&anew), vec![merge.clone()]);
    assert_eq!(shown(&got), [("c3", "name 2", 10), ("c2", "name 1", 2)]);
    // They came together by themselves.
    let got = arranged(&artifact(&clusters(&[10, 2])), vec![merge]);
    assert_eq!((state(&got), shown(&got).len()), (vec![ActState::Stands], 2));
}

#[test]
fn a_split_goes_by_the_nearest_of_its_parts() {
    let split = Act::Split { parts: vec![kin("low", 0..2), kin("high", 7..9)] };
    let got = arranged(&artifact(&clusters(&[10, 4])), vec![split.clone()]);
    assert_eq!(shown(&got), [("c1.1", "low", 5), ("c1.2", "high", 5), ("c2", "name 1", 4)]);
    assert_eq!(got.strata[0].cluster, "c1.1");
    // Apart already.
    let got = arranged(&artifact(&clusters(&[6, 8])), vec![split]);
    assert_eq!(state(&got), [ActState::Stands]);
}

#[test]
fn what_cannot_be_applied_is_said_and_changes_nothing() {
    let gone = Act::Merge { of: vec![kin("old", 90..95), kin("here", 0..3)] };
    let scattered = Act::Name { level: Level::Cluster, of: kin("mine", 4..8), by: None };
    let got = arranged(&artifact(&clusters(&[6, 4])), vec![gone, scattered]);
    assert_eq!(state(&got), [ActState::Failed; 2]);
    assert_eq!(shown(&got), [("c1", "name 0", 6), ("c2", "name 1", 4)]);
    let why: Vec<&str> = got.told.iter().filter_map(|t| t.why.as_deref()).collect();
    assert!(why[0].contains("\"old\" 0 are still in the data"), "{why:?}");
    assert!(why[1].contains("scattered now over \"name 0\" (2), \"name 1\" (2)"), "{why:?}");
}

#[test]
fn names_follow_their_rows_and_survive_a_merge() {
    let name = Act::Name { level: Level::Cluster, of: kin("mine", 6..10), by: None };
    let stratum = Act::Name {
        level: Level::Stratum,
        of: Kin { name: "chats".into(), rows: vec!["r0".into(), "r2".into(), "r4".into()], terms: vec![] },
        by: None,
    };
    let merge = Act::Merge { of: vec![kin("a", 0..6), kin("b", 6..10)] };
    let got = arranged(&artifact(&clusters(&[6, 4])), vec![name.clone(), stratum]);
    assert_eq!(shown(&got)[1].1, "mine");
    let names: Vec<&str> = got.strata.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"chats") && names.contains(&"mine · channel=mail"), "{names:?}");
    let got = arranged(&artifact(&clusters(&[6, 4])), vec![name, merge]);
    assert_eq!(shown(&got), [("c1", "mine", 10)]);
}

#[test]
fn groups_keep_their_clusters_and_are_named_too() {
    let name = Act::Name { level: Level::Group, of: kin("all cards", 0..6), by: None };
    let split = Act::Split { parts: vec![kin("low", 0..2), kin("high", 4..6)] };
    let got = arranged(&artifact(&clusters(&[6, 4, 2])), vec![split, name]);
    let groups: Vec<_> = got.groups.iter().map(|g| (g.name.as_str(), g.rows)).collect();
    assert_eq!(groups, [("all cards", 8), ("group 2", 4)]);
    assert!(got.strata.iter().filter(|s| s.cluster.starts_with("c1.")).all(|s| s.group == "g1"));
    assert_eq!(got.told[1].on.as_deref(), Some("g1"));
    // All of the second group's rows go over: it is no more.
    let merge = Act::Merge { of: vec![kin("a", 0..6), kin("b", 6..10)] };
    assert_eq!(arranged(&artifact(&clusters(&[6, 4, 2])), vec![merge]).groups.len(), 1);
}

#[test]
fn two_clusters_never_have_one_name() {
    let name = Act::Name { level: Level::Cluster, of: kin("name 0", 6..10), by: None };
    let got = arranged(&artifact(&clusters(&[6, 4])), vec![name]);
    assert_eq!(shown(&got), [("c1", "name 0 (c1)", 6), ("c2", "name 0", 4)]);
}

#[test]
fn witnesses_are_the_same_whatever_the_order() {
    let ids: Vec<String> = (0..500).map(|i| format!("r{i}")).collect();
    let forward = witnesses(ids.iter().map(String::as_str));
    assert_eq!(forward.len(), WITNESSES);
    assert_eq!(forward, witnesses(ids.iter().rev().map(String::as_str)));
    assert_eq!(witnesses(["a"].into_iter()), ["a"]);
}
