//! Screen 3: the list, an example, what is tried, the run.

use super::{play, press, sample, shown, type_text};
use crate::domain::api::{Decision, FILE_THERE, Failure, FromEngine, Push, Request, Response, ToEngine};
use crate::domain::example::ExampleQuery;
use crate::domain::run::{RunAction, RunKind, RunRecord, RunState};
use crate::tui::app::{App, Effect, Message, Screen};
use crate::tui::layers::Layer;
use crate::tui::sample::{NOW_MS, trajectories as made};
use crate::tui::screens::trajectories::Pane;
use crate::tui::signs::Signs;

/// Screen 3 with the run in this state.
fn at(size: (u16, u16), state: RunState, keys: &str) -> App {
    let mut app = sample::app(size, "dark", Signs::unicode());
    let run = made::run(state);
    let effects = app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run } }), NOW_MS);
    sample::settle(&mut app, effects);
    play(&mut app, &format!("3 {keys}"));
    app
}

fn requests(effects: Vec<Effect>) -> Vec<Request> {
    let asked = |effect| match effect {
        Effect::Send(ToEngine::Ask { request, .. }) => Some(request),
        _ => None,
    };
    effects.into_iter().filter_map(asked).collect()
}

/// Writes an input and lets it be answered.
fn tried(app: &mut App) {
    play(app, "i");
    type_text(app, "my card has not come");
    play(app, "enter");
}

/// The answer to the last question.
fn answered(app: &mut App, response: Response) {
    let tag = *app.pending.keys().next_back().unwrap();
    app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS);
}

#[test]
fn a_store_goes_to_a_file_that_is_replaced_only_when_one_says_so_and_comes_from_one() {
    let mut app = at((80, 24), RunState::Done, "X");
    assert!(shown(&app).contains("write the store trajectory-1 to"), "{}", shown(&app));
    let wanted = |force| match requests(press(&mut at((80, 24), RunState::Done, "X"), "enter")).pop() {
        Some(Request::ExportExamples { store, file, .. }) => Request::ExportExamples { store, file, force },
        other => panic!("{other:?}"),
    };
    assert_eq!(requests(press(&mut app, "enter")), [wanted(false)]);
    let error = Failure::new(2, format!("it {FILE_THERE}; choose another name"));
    answered(&mut app, Response::Error { error });
    assert!(shown(&app).contains("Replace it?"), "{}", shown(&app));
    assert_eq!(requests(press(&mut app, "y")), [wanted(true)]);
    let file = "/w/trajectory-1.jsonl".to_owned();
    answered(&mut app, Response::ExportedExamples { store: "trajectory-1".into(), examples: 7, file });
    assert!(shown(&app).contains("7 examples of trajectory-1 are in"), "{}", shown(&app));

    for (typed, name) in [("/tmp/mine.jsonl", "mine"), ("/tmp/a b.jsonl as cards", "cards")] {
        let mut app = at((80, 24), RunState::Done, "I");
        type_text(&mut app, typed);
        let file = typed.split(" as ").next().unwrap().to_owned();
        let want = Request::ImportExamples { file, name: name.to_owned() };
        assert_eq!(requests(press(&mut app, "enter")), [want]);
        answered(&mut app, Response::Done { message: "2 examples are there".into() });
        assert_eq!(app.trajectories.shown.as_deref(), Some(name));
    }
}

#[test]
fn the_screen_at_every_size() {
    for size in [(80, 24), (120, 40), (200, 60)] {
        let mut app = at(size, RunState::Done, "down");
        tried(&mut app);
        play(&mut app, "esc");
        insta::assert_snapshot!(format!("trajectories_{}x{}", size.0, size.1), shown(&app));
    }
    for size in [(80, 24), (200, 60)] {
        let app = at(size, RunState::Running, "w w w");
        insta::assert_snapshot!(format!("trajectories_running_{}x{}", size.0, size.1), shown(&app));
    }
    let empty = {
        let mut app = sample::app((80, 24), "dark", Signs::unicode());
        play(&mut app, "3");
        shown(&app)
    };
    insta::assert_snapshot!("trajectories_none_80x24", empty);
}

#[test]
fn narrow_panes_share_one_place() {
    for (name, keys) in [("example", "enter"), ("run", "w w w")] {
        insta::assert_snapshot!(
            format!("trajectories_{name}_80x24"),
            shown(&at((80, 24), RunState::Done, keys))
        );
    }
    let mut app = at((80, 24), RunState::Done, "w w");
    tried(&mut app);
    insta::assert_snapshot!("trajectories_try_80x24", shown(&app));
    insta::assert_snapshot!("layer_trajectory_form", shown(&at((80, 24), RunState::Done, "t")));
}

#[test]
fn thousands_of_examples_are_asked_for_in_windows() {
    let mut app = at((120, 40), RunState::Done, "");
    assert_eq!(app.trajectories.window.rows.len(), 200);
    let asked = requests(press(&mut app, "end"));
    let offset = |request: &Request| match request {
        Request::Examples { query, .. } => Some(query.offset),
        _ => None,
    };
    assert_eq!(asked.iter().filter_map(offset).collect::<Vec<_>>(), [3_489]);
    // One question at a time, and what comes for another order is passed over.
    assert!(requests(press(&mut app, "up up")).iter().all(|request| offset(request).is_none()));
    play(&mut app, "o");
    assert_eq!((app.trajectories.sort_name(), app.trajectories.window.selected), ("harm", 0));
}

#[test]
fn the_list_is_ordered_and_filtered_by_the_engine() {
    let mut app = at((80, 24), RunState::Done, "o o");
    play(&mut app, "/");
    type_text(&mut app, "card is:off");
    let asked = requests(press(&mut app, "enter"));
    let want = ExampleQuery { text: "card is:off".into(), sort: "uses".into(), offset: 0, count: 200 };
    assert!(
        asked.iter().any(|request| matches!(request, Request::Examples { query, .. } if *query == want)),
        "{asked:?}"
    );
    // Esc takes the filter away again.
    press(&mut app, "esc");
    assert!(app.trajectories.filter.is_empty());
}

#[test]
fn keys_decide_about_the_selected_example() {
    let edits = |keys: &str| -> Vec<(String, serde_json::Value)> {
        let mut app = at((80, 24), RunState::Done, "down");
        let asked = requests(press(&mut app, keys));
        asked
            .into_iter()
            .filter_map(|request| match request {
                Request::Decide { decision: Decision::Example { store, example, edit } } => {
                    assert_eq!(store, "trajectory-1");
                    Some((example, serde_json::to_value(edit).unwrap()))
                }
                _ => None,
            })
            .collect()
    };
    let id = |i: usize| made::example(i).id;
    assert_eq!(edits("d"), [(id(1), serde_json::json!({ "enabled": false }))]);
    assert_eq!(edits("down down down down d"), [(id(5), serde_json::json!({ "enabled": true }))]);
    // Two are picked, and the third stands for them.
    assert_eq!(edits("space down space down m"), [(id(3), serde_json::json!({ "merges": [id(1), id(2)] }))]);
    assert_eq!(edits("m"), [], "nothing is picked");
    assert_eq!(edits("e enter"), [], "nothing is changed");
    let mut app = at((80, 24), RunState::Done, "down e");
    press(&mut app, "ctrl-u");
    type_text(&mut app, "refund");
    let asked = requests(press(&mut app, "enter"));
    assert!(
        matches!(&asked[0], Request::Decide { decision: Decision::Example { edit, .. } } if edit.answer.as_deref().is_some_and(|a| a.ends_with("refund"))),
        "{asked:?}"
    );
}

#[test]
fn an_input_is_searched_and_answered_with_and_without() {
    let mut app = at((200, 60), RunState::Done, "");
    play(&mut app, "i");
    type_text(&mut app, "my card has not come");
    let asked = requests(press(&mut app, "enter"));
    let candidates: Vec<Option<String>> = asked
        .iter()
        .filter_map(|request| match request {
            Request::Play { question, .. } => Some(question.candidate.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(candidates, [Some("prompt-1".to_owned()), Some("prompt-1+trajectory-1".to_owned())]);
    assert!(
        asked
            .iter()
            .any(|r| matches!(r, Request::SearchExamples { input, .. } if input == "my card has not come"))
    );
    // An answer that is late belongs to nobody.
    tried(&mut app);
    let open = app.trajectories.attempt.open().count();
    assert_eq!(open, 0, "both were answered");
    assert!(shown(&app).contains("lift-harm"));
    let effects = app.update(Message::Engine(FromEngine::Lost { reason: "gone".into() }), NOW_MS);
    assert!(effects.is_empty());
}

#[test]
fn one_key_leads_to_training_and_others_steer_the_run() {
    let mut app = at((80, 24), RunState::Done, "");
    let asked = requests(press(&mut app, "L"));
    assert!(
        matches!(&asked[0], Request::Launch { kind: RunKind::Train, set, .. } if *set == [("tuning.train.rows".to_owned(), "store:trajectory-1".to_owned())]),
        "{asked:?}"
    );
    let mut app = at((80, 24), RunState::Running, "");
    assert!(requests(press(&mut app, "L")).is_empty(), "it has not found its examples yet");
    for (key, action) in [("p", RunAction::Pause), ("S", RunAction::Stop)] {
        let asked = requests(press(&mut app, key));
        assert!(matches!(&asked[0], Request::Control { action: a, .. } if *a == action), "{asked:?}");
    }
    press(&mut app, "k");
    assert!(matches!(app.layers.last(), Some(Layer::Confirm { .. })));
}

#[test]
fn a_store_that_cannot_be_read_says_why_and_another_can_be_chosen() {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    let run = made::run(RunState::Done);
    app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run } }), NOW_MS);
    for effect in press(&mut app, "3") {
        if let Effect::Send(ToEngine::Ask { tag, request: Request::Examples { .. } }) = effect {
            let error = Failure::new(2, "trajectory-1 made no store");
            let answer = FromEngine::Answer { tag, response: Response::Error { error } };
            let effects = app.update(Message::Engine(answer), NOW_MS);
            assert!(requests(effects).iter().all(|r| !matches!(r, Request::Examples { .. })), "not again");
        }
    }
    assert!(shown(&app).contains("made no store"));
    play(&mut app, "r enter");
    assert_eq!((app.screen, app.trajectories.shown.as_deref()), (Screen::Trajectories, Some("trajectory-1")));
    press(&mut app, "w");
    assert_eq!(app.trajectories.pane, Pane::Example);
}

#[test]
fn the_newest_run_that_left_a_store_is_shown_and_one_under_way_before_it() {
    let mut app = at((80, 24), RunState::Done, "");
    let newer = |app: &mut App, state| {
        let run = RunRecord { run: "trajectory-2".into(), created_ms: NOW_MS, ..made::run(state) };
        app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run } }), NOW_MS);
    };
    newer(&mut app, RunState::Running);
    assert_eq!(app.example_store().as_deref(), Some("trajectory-2"));
    newer(&mut app, RunState::Cancelled);
    assert_eq!(app.example_store().as_deref(), Some("trajectory-1"));
    newer(&mut app, RunState::Stopped);
    assert_eq!(app.example_store().as_deref(), Some("trajectory-2"));
}

#[test]
fn the_budget_of_a_run_under_way_is_changed_and_a_slip_is_told() {
    let mut app = at((80, 24), RunState::Running, "b");
    type_text(&mut app, "8000");
    let asked = requests(press(&mut app, "enter"));
    assert!(
        matches!(&asked[0], Request::Steer { run, changes } if run == "trajectory-1" && changes[0].to_string() == "budget.calls=8000"),
        "{asked:?}"
    );
    press(&mut app, "b");
    type_text(&mut app, "many");
    assert!(requests(press(&mut app, "enter")).is_empty());
    assert!(shown(&app).contains("whole number"));
    let mut app = at((80, 24), RunState::Done, "");
    press(&mut app, "b");
    assert!(app.layers.is_empty());
}
