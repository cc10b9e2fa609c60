//! Remedies for a wrong row.

use super::{play, press, shown, type_text};
use crate::domain::api::{Failure, FromEngine, Request, Response, ToEngine};
use crate::domain::run::RunKind;
use crate::tui::app::{App, Effect, Message};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;

fn app() -> App {
    sample::app((80, 24), "dark", Signs::unicode())
}

fn asked(effects: &[Effect]) -> Vec<(u64, Request)> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { tag, request }) => Some((*tag, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

fn remedies(effects: &[Effect]) -> Vec<Option<String>> {
    let of = |(_, request)| match request {
        Request::Remedies { candidate, .. } => Some(candidate),
        _ => None,
    };
    asked(effects).into_iter().filter_map(of).collect()
}

#[test]
fn one_key_on_every_wrong_row_prices_remedies_for_who_has_it_wrong() {
    let mut on_rows = app();
    play(&mut on_rows, "1 right");
    assert_eq!(remedies(&press(&mut on_rows, "R")), [None], "the engine knows who has it wrong");
    // The first flip is a regression: B has it wrong; of a fixed row that is A.
    let mut on_flips = app();
    play(&mut on_flips, "5 down down down enter");
    let (a, b) = (on_flips.board.a.clone(), on_flips.board.b.clone());
    assert_eq!(remedies(&press(&mut on_flips, "R")), [b]);
    play(&mut on_flips, "esc f f");
    assert_eq!(remedies(&press(&mut on_flips, "R")), [a]);
    play(&mut on_flips, "esc enter");
    assert_eq!(remedies(&press(&mut on_flips, "R")).len(), 1, "within the flip");
    let mut on_trace = app();
    play(&mut on_trace, "1 right T");
    assert!(matches!(&remedies(&press(&mut on_trace, "R"))[..], [Some(_)]));
    let mut on_play = app();
    play(&mut on_play, "1 right a");
    assert!(matches!(&remedies(&press(&mut on_play, "R"))[..], [Some(_)]));
    // What was typed is no row.
    play(&mut on_play, "esc i");
    type_text(&mut on_play, "hello");
    play(&mut on_play, "enter");
    assert!(remedies(&press(&mut on_play, "R")).is_empty());
    assert!(shown(&on_play).contains("no row of the data"), "{}", shown(&on_play));
}

#[test]
fn enter_starts_the_chosen_remedy_with_its_settings_and_a_refused_one_says_why() {
    let mut app = app();
    play(&mut app, "1 right R down");
    let sent = asked(&press(&mut app, "enter"));
    let [(_, Request::Launch { kind, set, .. })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(*kind, RunKind::Trajectory);
    assert!(set.contains(&("tuning.trajectory.strata".into(), "[\"top-up failed\"]".into())), "{set:?}");
    assert!(app.layers.is_empty());
    play(&mut app, "R end down down");
    assert!(asked(&press(&mut app, "enter")).is_empty());
    assert!(shown(&app).contains("cannot be started: stage route"), "{}", shown(&app));
    play(&mut app, "q");
    assert!(app.layers.is_empty());
}

#[test]
fn what_cannot_be_priced_says_why_where_it_was_asked() {
    let mut app = app();
    play(&mut app, "1 right");
    let sent = asked(&press(&mut app, "R"));
    assert!(shown(&app).contains("counting rows like it"));
    let response = Response::Error { error: Failure::new(2, "nothing is scored yet") };
    app.update(Message::Engine(FromEngine::Answer { tag: sent[0].0, response }), NOW_MS);
    assert!(shown(&app).contains("nothing is scored yet"), "{}", shown(&app));
    assert!(asked(&press(&mut app, "enter down enter")).is_empty());
    play(&mut app, "esc");
    assert!(app.layers.is_empty());
}
