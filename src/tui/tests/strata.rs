//! Screen 1's list: strata arranged by hand.

use super::{play, press, shown, type_text};
use crate::domain::api::{Request, ToEngine};
use crate::domain::board::{StrataGroup, Stratum};
use crate::domain::strata::{ActState, ActTold, ByHand};
use crate::tui::app::{App, Effect};
use crate::tui::sample;
use crate::tui::signs::Signs;

fn app() -> App {
    let mut app = sample::app((120, 40), "dark", Signs::unicode());
    play(&mut app, "1 home down");
    app
}

fn by_hand(effects: &[Effect]) -> Vec<ByHand> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { request: Request::ByHand { by_hand }, .. }) => Some(by_hand.clone()),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

#[test]
fn a_stratum_is_split_into_as_many_parts_as_are_typed() {
    let mut app = app();
    press(&mut app, "S");
    press(&mut app, "ctrl-u");
    type_text(&mut app, "3");
    let effects = press(&mut app, "enter");
    assert_eq!(by_hand(&effects), [ByHand::Split { id: "s0".into(), into: 3 }]);
    press(&mut app, "S");
    press(&mut app, "ctrl-u");
    type_text(&mut app, "one");
    assert_eq!(by_hand(&press(&mut app, "enter")), []);
    assert!(shown(&app).contains("`one` is no number of parts"));
}

#[test]
fn two_strata_are_merged_after_a_question() {
    let mut app = app();
    play(&mut app, "X down");
    press(&mut app, "X");
    assert!(shown(&app).contains("Put \""), "{}", shown(&app));
    // No: the first one stays marked.
    assert_eq!(by_hand(&press(&mut app, "n")), []);
    press(&mut app, "X");
    let [ByHand::Merge { a, b }] = &by_hand(&press(&mut app, "y"))[..] else { panic!() };
    assert!(a == "s0" && b != "s0", "{a} {b}");
    assert_eq!(app.strata.merging, None);
    // The same twice is not marked any more, and so is one that esc forgot.
    play(&mut app, "X X");
    assert_eq!(app.strata.merging, None);
    play(&mut app, "X");
    assert!(app.strata.merging.is_some());
    play(&mut app, "esc esc");
    assert_eq!(app.strata.merging, None);
}

#[test]
fn a_decision_that_found_nothing_is_told_on_the_list() {
    let mut app = app();
    assert!(!shown(&app).contains("by hand"));
    let told = ActTold {
        number: 1,
        what: "merge".into(),
        state: ActState::Failed,
        on: None,
        why: Some("gone".into()),
    };
    app.strata.view.as_mut().unwrap().by_hand = vec![told];
    assert!(shown(&app).contains("1 by hand not found"), "{}", shown(&app));
}

#[test]
fn the_selection_stays_with_the_parts_of_what_was_split() {
    let mut app = app();
    play(&mut app, "down down");
    let whole = app.strata.view.clone().unwrap();
    let chosen = app.strata.selected_stratum().unwrap().clone();
    let mut split = whole.clone();
    split.strata.retain(|s| s.id != chosen.id);
    for part in ["1", "2"] {
        let (id, cluster) = (format!("{}.{part}", chosen.id), format!("{}.{part}", chosen.cluster));
        split.strata.push(Stratum { id, cluster, rows: chosen.rows / 2, ..chosen.clone() });
    }
    app.strata.fill(split);
    let part = app.strata.selected_stratum().map(|s| s.id.clone()).unwrap();
    assert!(part.starts_with(&format!("{}.", chosen.id)), "{part}");
    assert_eq!(app.strata.query.stratum, Some(part), "its rows are shown");
    // Taken back.
    app.strata.fill(whole);
    assert_eq!(app.strata.selected_stratum().map(|s| &s.id), Some(&chosen.id));
}

#[test]
fn by_hand_speaks_of_the_whole_cluster() {
    let mut app = app();
    let view = app.strata.view.as_mut().unwrap();
    for (stratum, channel) in view.strata.iter_mut().zip(["chat", "mail"]) {
        stratum.cluster = "c1".into();
        stratum.name = format!("cards · channel={channel}");
    }
    press(&mut app, "S");
    assert!(shown(&app).contains("split \"cards\" (all its 2 strata) into"), "{}", shown(&app));
}

fn grouped() -> App {
    let mut app = app();
    let view = app.strata.view.as_mut().unwrap();
    for (at, stratum) in view.strata.iter_mut().enumerate() {
        stratum.group = ["g1", "g2"][at % 2].into();
    }
    let rows = |id: &str| view.strata.iter().filter(|s| s.group == id).map(|s| s.rows).sum();
    let group =
        |id: &str, name: &str, rows| StrataGroup { id: id.into(), name: name.into(), rows, terms: vec![] };
    view.groups = vec![group("g1", "cards and money", rows("g1")), group("g2", "accounts", rows("g2"))];
    play(&mut app, "home down");
    app
}

#[test]
fn groups_are_headings_that_fold_and_show_their_rows() {
    let mut app = grouped();
    assert_eq!(app.strata.entries().len(), 1 + 2 + 8 + 2);
    assert_eq!(app.strata.query.group.as_deref(), Some("g1"));
    assert!(shown(&app).contains("cards and money"), "{}", shown(&app));
    play(&mut app, "space");
    assert_eq!(app.strata.entries().len(), 1 + 2 + 4 + 2);
    play(&mut app, "enter");
    assert_eq!(app.strata.entries().len(), 1 + 2 + 8 + 2);
    play(&mut app, "down");
    assert_eq!((app.strata.query.group.as_deref(), app.strata.query.stratum.as_deref()), (None, Some("s0")));
    // A new view of the same groups: the selection stays where it was.
    let view = app.strata.view.clone().unwrap();
    app.strata.fill(view);
    assert_eq!(app.strata.selected_stratum().map(|s| s.id.as_str()), Some("s0"));
}

#[test]
fn the_numbers_of_clusters_that_were_tried_are_shown() {
    let mut app = app();
    press(&mut app, "k");
    let text = shown(&app);
    for part in ["how many clusters", "8 clusters: the fewest within 10%", "0.268", "--k N"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    press(&mut app, "esc");
    assert!(app.layers.is_empty());
}
