//! Completing filters while they are typed.

use super::{play, press, shown, type_text};
use crate::domain::api::{FromEngine, Request, Response, ToEngine};
use crate::domain::complete::{Completion, Suggestion};
use crate::tui::app::{App, Effect, Message};
use crate::tui::layers::Layer;
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;

fn app(size: (u16, u16)) -> App {
    sample::app(size, "dark", Signs::unicode())
}

fn line(app: &App) -> String {
    match app.layers.last() {
        Some(Layer::Text { input, .. }) => input.text().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn typed(app: &mut App, text: &str) {
    let effects = app.update(Message::Paste(text.to_owned()), NOW_MS);
    sample::settle(app, effects);
}

#[test]
fn keys_and_values_of_rows_are_taken_with_tab_and_quoted_where_they_must_be() {
    let mut app = app((80, 24));
    play(&mut app, "1 /");
    typed(&mut app, "cus");
    play(&mut app, "tab");
    assert_eq!(line(&app), "\"customer id\":");
    play(&mut app, "ctrl-u");
    typed(&mut app, "strat");
    play(&mut app, "tab down tab");
    assert_eq!(line(&app), "stratum:\"top-up failed (mail)\" ");
    typed(&mut app, "-ba");
    play(&mut app, "tab");
    typed(&mut app, "wr");
    insta::assert_snapshot!("completing_80x24", shown(&app));
    play(&mut app, "tab enter");
    assert!(app.layers.is_empty());
    assert_eq!(app.strata.query.text, "stratum:\"top-up failed (mail)\" -base:wrong");
}

#[test]
fn a_wrong_filter_stays_in_the_line_with_what_is_wrong() {
    let mut app = app((200, 60));
    play(&mut app, "1 /");
    typed(&mut app, "basse:wrong");
    play(&mut app, "enter");
    assert_eq!(line(&app), "basse:wrong");
    assert!(shown(&app).contains("no row has `basse`, the nearest is `base`"));
    insta::assert_snapshot!("completing_error_200x60", shown(&app));
    play(&mut app, "home right right delete enter");
    assert_eq!(app.strata.query.text, "base:wrong");
}

#[test]
fn runs_and_candidates_are_completed_from_what_is_here() {
    let mut app = app((120, 40));
    press(&mut app, "7 /");
    type_text(&mut app, "ki");
    press(&mut app, "tab");
    type_text(&mut app, "tr");
    press(&mut app, "tab");
    assert_eq!(line(&app), "kind:train ");
    type_text(&mut app, "accuraci>.5");
    assert!(shown(&app).contains("nothing has `accuraci`, the nearest is `accuracy`"));
    press(&mut app, "esc 5 /");
    type_text(&mut app, "is:fr");
    press(&mut app, "tab");
    assert_eq!(line(&app), "is:front ");
}

#[test]
fn one_question_a_key_is_under_way_and_the_last_text_is_asked_for() {
    let mut app = app((80, 24));
    let asked = |effects: Vec<Effect>| -> Vec<(u64, String)> {
        let of = |e: Effect| match e {
            Effect::Send(ToEngine::Ask { tag, request: Request::Complete { filter, .. } }) => {
                Some((tag, filter))
            }
            _ => None,
        };
        effects.into_iter().filter_map(of).collect()
    };
    let first = asked(press(&mut app, "1 /"));
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(asked(press(&mut app, "b a")).is_empty(), "the first is not answered yet");
    // A field that is being read keeps nothing else waiting.
    let second = asked(press(&mut app, "s e :"));
    assert_eq!(second.iter().map(|(_, f)| f.as_str()).collect::<Vec<_>>(), ["base:"]);
    let completion =
        Completion { items: vec![Suggestion { text: "right".into(), aside: String::new() }], error: None };
    let answer = |app: &mut App, tag| {
        let response = Response::Completion { completion: completion.clone() };
        app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS)
    };
    assert!(asked(press(&mut app, "r")).is_empty());
    let again = asked(answer(&mut app, second[0].0));
    assert_eq!(again.iter().map(|(_, f)| f.as_str()).collect::<Vec<_>>(), ["base:r"]);
    press(&mut app, "tab");
    assert_eq!(line(&app), "base:right ");
}
