//! Screen 1's list: strata arranged by hand.

use super::{play, press, shown, type_text};
use crate::domain::api::{Request, ToEngine};
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
