//! What is wrong with the rows.

use super::{play, press, shown};
use crate::domain::api::{Decision, Failure, FromEngine, Request, Response, RowQuery, ToEngine};
use crate::domain::problem::{EXCLUDED, ProblemKind};
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

fn decided(effects: &[Effect]) -> Vec<Decision> {
    let of = |(_, request)| if let Request::Decide { decision } = request { Some(decision) } else { None };
    asked(effects).into_iter().filter_map(of).collect()
}

fn mark(row: &str, mark: &str) -> Decision {
    Decision::Mark { row: row.into(), mark: mark.into(), on: true }
}

#[test]
fn one_key_lists_what_is_wrong_and_one_more_leaves_a_row_out() {
    for keys in ["1 !", "1 right !"] {
        let mut app = app();
        play(&mut app, keys);
        assert!(
            shown(&app).contains("near-duplicate") && shown(&app).contains("20 groups"),
            "{}",
            shown(&app)
        );
    }
    let mut app = app();
    play(&mut app, "1 ! down down down enter down");
    assert!(shown(&app).contains("[-2-]{+9+}"), "word by word: {}", shown(&app));
    assert_eq!(decided(&press(&mut app, "x")), [mark("00007", EXCLUDED)]);
    assert_eq!(decided(&press(&mut app, "m")), [mark("00007", "star")]);
    let undone = asked(&press(&mut app, "u"));
    assert!(matches!(&undone[..], [(_, Request::Undo)]), "{undone:?}");
    // The same on any row.
    let mut app = self::app();
    play(&mut app, "1 right down");
    let of = decided(&press(&mut app, "x"));
    assert!(matches!(&of[..], [Decision::Mark { mark, on: true, .. }] if mark == EXCLUDED), "{of:?}");
}

#[test]
fn a_decision_reads_the_list_again_and_the_rows_open_on_the_screen() {
    let mut app = app();
    play(&mut app, "1 ! down down down enter");
    let effects = press(&mut app, "x");
    let (tag, _) = asked(&effects)[0];
    let response = Response::Done { message: "noted".into() };
    let again = asked(&app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS));
    let kind = Some(ProblemKind::NearDuplicate);
    assert!(
        again.iter().any(|(_, r)| matches!(r, Request::Problems { kind: k, .. } if *k == kind)),
        "{again:?}"
    );
    play(&mut app, "r");
    assert!(app.layers.is_empty());
    assert_eq!(app.strata.query, RowQuery { text: "problem:near-duplicate".into(), ..RowQuery::default() });
    play(&mut app, "! enter enter");
    assert_eq!(
        app.strata.query.ids.as_deref(),
        Some(&["00000".to_owned()][..]),
        "of a group's first row itself"
    );
}

#[test]
fn all_but_the_first_of_each_group_go_after_a_question_and_only_of_duplicates() {
    let mut app = app();
    play(&mut app, "1 ! X");
    assert!(shown(&app).contains("only of duplicates"), "{}", shown(&app));
    play(&mut app, "down down down X");
    assert!(shown(&app).contains("Leave 41 of near-duplicate out"), "{}", shown(&app));
    assert!(asked(&press(&mut app, "n")).is_empty());
    play(&mut app, "X");
    let sent = asked(&press(&mut app, "y"));
    let [(_, Request::Exclude { query, keep_first: true, on: true })] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(query.text, "problem:near-duplicate");
}

#[test]
fn what_cannot_be_looked_at_says_why_and_an_old_answer_changes_nothing() {
    let mut app = app();
    play(&mut app, "1");
    let sent = asked(&press(&mut app, "!"));
    assert!(shown(&app).contains("looking through all rows"));
    let late = asked(&press(&mut app, "esc !"));
    let fail = |tag| {
        let response = Response::Error { error: Failure::new(2, "the data has changed") };
        Message::Engine(FromEngine::Answer { tag, response })
    };
    app.update(fail(sent[0].0), NOW_MS);
    assert!(shown(&app).contains("looking through all rows"), "that answer was for another one");
    app.update(fail(late.last().unwrap().0), NOW_MS);
    assert!(shown(&app).contains("the data has changed"), "{}", shown(&app));
    press(&mut app, "enter down x X r esc");
    assert!(app.layers.is_empty());
}

#[test]
fn a_run_that_learns_from_what_it_is_scored_on_starts_only_after_a_yes() {
    let mut app = app();
    play(&mut app, "4 t");
    let sent = asked(&press(&mut app, "enter"));
    let refuse = |app: &mut App, tag: u64| {
        let error =
            Failure { leaks: true, ..Failure::new(2, "2 of 40 rows stand in what it learns from\nmore") };
        app.update(Message::Engine(FromEngine::Answer { tag, response: Response::Error { error } }), NOW_MS)
    };
    let launch = |sent: &[(u64, Request)]| -> (u64, Vec<(String, String)>) {
        let found = sent.iter().find_map(|(tag, r)| match r {
            Request::Launch { set, .. } => Some((*tag, set.clone())),
            _ => None,
        });
        found.unwrap()
    };
    let (tag, set) = launch(&sent);
    assert!(!set.iter().any(|(key, _)| key == "leaks"));
    refuse(&mut app, tag);
    assert!(shown(&app).contains("2 of 40 rows stand"), "{}", shown(&app));
    assert!(asked(&press(&mut app, "n")).is_empty());
    play(&mut app, "4 t");
    let (tag, _) = launch(&asked(&press(&mut app, "enter")));
    refuse(&mut app, tag);
    let (_, set) = launch(&asked(&press(&mut app, "y")));
    assert!(set.contains(&("leaks".into(), "allow".into())), "{set:?}");
}
