//! What a run made of train rows: looked through, taken in and out; the run watched and steered from there.

use super::{play, press, shown, type_text};
use crate::domain::api::{Failure, FromEngine, Push, Request, Response, ToEngine};
use crate::domain::grow::{GrownAsk, GrownPage};
use crate::domain::run::{Progress, RunAction, RunKind, RunRecord, RunState};
use crate::domain::steer::{Change, Limit};
use crate::tui::app::{App, Effect, Message};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::signs::Signs;
use crate::tui::theme::bundled;

fn grow_run(state: RunState) -> RunRecord {
    let mut run = sample::run("grow-1", RunKind::Grow, state);
    let figures =
        [("made", 1200.0), ("kept", 600.0), ("calls", 3012.0), ("tokens", 412_000.0), ("usd", 0.31)];
    run.metrics = figures.map(|(k, v)| (k.to_owned(), v)).into();
    run.settings = vec![("tuning.grow.per_row".into(), "2".into())];
    run.progress = Some(Progress { phase: "grow".into(), done: 1200, total: 2000, eta_ms: Some(192_000) });
    run
}

fn with_run(size: (u16, u16), theme: &str, signs: Signs, state: RunState) -> App {
    let mut app = sample::app(size, theme, signs);
    let run = grow_run(state);
    app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run } }), NOW_MS);
    app
}

fn app() -> App {
    with_run((80, 24), "dark", Signs::unicode(), RunState::Running)
}

fn asked(effects: &[Effect]) -> Vec<(u64, Request)> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { tag, request }) => Some((*tag, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

/// The windows among what was asked.
fn windows(effects: &[Effect]) -> Vec<GrownAsk> {
    let window = |(_, request)| match request {
        Request::Grown { grown } if grown.at.is_none() => Some(grown),
        _ => None,
    };
    asked(effects).into_iter().filter_map(window).collect()
}

/// What was decided on made rows: the filter, and whether they go out.
fn decided(effects: &[Effect]) -> Vec<(String, bool)> {
    let decision = |(_, request)| match request {
        Request::AcceptGrown { run, filter, withdraw } => {
            assert_eq!(run, "grow-1");
            Some((filter, withdraw))
        }
        _ => None,
    };
    asked(effects).into_iter().filter_map(decision).collect()
}

#[test]
fn made_texts_stand_beside_their_rows_on_any_size_and_without_colour() {
    for (size, theme) in [((80, 24), "dark"), ((200, 60), "dark"), ((80, 24), "mono")] {
        let signs = if theme == "mono" { Signs::ascii() } else { Signs::unicode() };
        let mut app = with_run(size, theme, signs, RunState::Running);
        app.look.theme = bundled(theme);
        play(&mut app, "1 = down down down");
        insta::assert_snapshot!(format!("grown_{}x{}_{theme}", size.0, size.1), shown(&app));
    }
    let mut app = app();
    play(&mut app, "1 = down enter");
    insta::assert_snapshot!("grown_text_80x24", shown(&app));
}

#[test]
fn the_layer_opens_from_the_data_from_a_run_and_from_a_launch() {
    for keys in ["1 =", "1 right =", "7 enter"] {
        let mut app = app();
        app.runs_screen.selected = Some("grow-1".into());
        play(&mut app, keys);
        assert!(shown(&app).contains("made texts · grow-1"), "{keys}: {}", shown(&app));
    }
    let mut app = app();
    play(&mut app, "1 + enter");
    assert!(shown(&app).contains("made texts · grow-13"), "{}", shown(&app));
    // Nothing was ever made.
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    play(&mut app, "1 =");
    insta::assert_snapshot!("grown_none_80x24", shown(&app));
    assert!(asked(&press(&mut app, "a A x X space p b S")).is_empty());
    play(&mut app, "esc");
    assert!(app.layers.is_empty());
}

#[test]
fn texts_come_by_the_window_and_never_all_at_once() {
    let mut app = app();
    let first = press(&mut app, "1 =");
    let want = GrownAsk { run: "grow-1".into(), count: 200, brief: true, ..GrownAsk::default() };
    assert_eq!(windows(&first), std::slice::from_ref(&want));
    sample::settle(&mut app, first);
    // A jump to the end asks for what lies there, once.
    let end = press(&mut app, "end");
    assert_eq!(windows(&end), [GrownAsk { offset: 1099, ..want.clone() }]);
    assert!(windows(&press(&mut app, "up")).is_empty(), "one question at a time");
    sample::settle(&mut app, end);
    assert!(shown(&app).contains("1,199 of 1,200"), "{}", shown(&app));
    // The selected one is fetched whole, with its parents.
    play(&mut app, "home");
    assert!(shown(&app).contains("row 00012"), "{}", shown(&app));
}

#[test]
fn filters_narrow_the_texts_and_a_wrong_one_says_why() {
    let mut app = app();
    play(&mut app, "1 = f");
    assert!(shown(&app).contains("[kept]") && shown(&app).contains("1 of 600"), "{}", shown(&app));
    play(&mut app, "f");
    assert!(shown(&app).contains("[refused]") && !shown(&app).contains("✓ kept"), "{}", shown(&app));
    play(&mut app, "f");
    assert!(shown(&app).contains("[accepted]") && shown(&app).contains("1 of 8"), "{}", shown(&app));
    press(&mut app, "/ ctrl-u");
    type_text(&mut app, "golf:x");
    let said = asked(&press(&mut app, "enter"));
    let [(tag, Request::Grown { grown })] = &said[..] else { panic!("{said:?}") };
    assert_eq!(grown.filter, "golf:x");
    let error = Failure::new(2, "a made text has no `golf`; did you mean `gold`?");
    let response = Response::Error { error };
    let after = app.update(Message::Engine(FromEngine::Answer { tag: *tag, response }), NOW_MS);
    assert!(windows(&after).is_empty(), "it is not asked again and again");
    assert!(shown(&app).contains("did you mean `gold`?"), "{}", shown(&app));
    play(&mut app, "f");
    assert!(shown(&app).contains("[all]") && shown(&app).contains("1,200"), "{}", shown(&app));
}

#[test]
fn one_is_taken_in_by_a_key_several_by_picking_and_all_only_after_a_question() {
    let mut app = app();
    play(&mut app, "1 = end up");
    assert_eq!(decided(&press(&mut app, "a")), [("id:grown-1198".to_owned(), false)]);
    // What leaks has no row.
    let mut app = self::app();
    play(&mut app, "1 = down down down down down");
    assert_eq!(decided(&press(&mut app, "a")), []);
    assert!(shown(&app).contains("it fell at `leak`"), "{}", shown(&app));
    // A disputed one may be overruled, one that is in the data goes out.
    play(&mut app, "home down");
    assert_eq!(decided(&press(&mut app, "a")), [("id:grown-0001".to_owned(), false)]);
    play(&mut app, "home");
    assert_eq!(decided(&press(&mut app, "a")), []);
    assert!(shown(&app).contains("in the data already"), "{}", shown(&app));
    assert_eq!(decided(&press(&mut app, "x")), [("id:grown-0000".to_owned(), true)]);

    let mut app = self::app();
    play(&mut app, "1 = end up space home down space");
    assert!(shown(&app).contains("2 picked"), "{}", shown(&app));
    assert_eq!(decided(&press(&mut app, "a")), [("id:grown-0001,grown-1198".to_owned(), false)]);
    assert!(!shown(&app).contains("picked"));

    let mut app = self::app();
    play(&mut app, "1 = f");
    assert_eq!(decided(&press(&mut app, "A")), []);
    assert!(shown(&app).contains("Take 592 rows of grow-1 (all of `kept`)"), "{}", shown(&app));
    let yes = press(&mut app, "y");
    assert_eq!(decided(&yes), [("kept".to_owned(), false)]);
    // What was decided is read again, and one undo takes it back.
    let (tag, _) = asked(&yes)[0];
    let response = Response::Done { message: "592 rows in data/grown/grow-1.jsonl".into() };
    let after = app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS);
    assert_eq!(windows(&after).len(), 1);
    assert!(shown(&app).contains("592 rows in data/grown/grow-1.jsonl"));
    assert!(matches!(asked(&press(&mut app, "u"))[..], [(_, Request::Undo)]));
    press(&mut app, "X");
    assert!(shown(&app).contains("Take all 8 rows of grow-1 out of the data?"), "{}", shown(&app));
    assert_eq!(decided(&press(&mut app, "n")), []);
    press(&mut app, "X");
    assert_eq!(decided(&press(&mut app, "y")), [(String::new(), true)]);
    // They are rows like others.
    press(&mut app, "o");
    assert!(app.layers.is_empty() && app.strata.query.text == "synthetic.run=grow-1");
}

#[test]
fn a_run_is_watched_paused_steered_and_stopped_from_its_texts() {
    let mut app = app();
    play(&mut app, "1 =");
    assert!(shown(&app).contains("1200 of 2000, 3m12 left"), "{}", shown(&app));
    let control = |effects: Vec<Effect>| match &asked(&effects)[..] {
        [(_, Request::Control { run, action, .. })] => (run.clone(), *action),
        other => panic!("{other:?}"),
    };
    assert_eq!(control(press(&mut app, "p")), ("grow-1".into(), RunAction::Pause));
    assert_eq!(control(press(&mut app, "S")), ("grow-1".into(), RunAction::Stop));
    press(&mut app, "b");
    insta::assert_snapshot!("grown_steer_form", shown(&app));
    type_text(&mut app, "4");
    press(&mut app, "down");
    type_text(&mut app, "9000");
    let said = asked(&press(&mut app, "enter"));
    let changes = vec![Change::PerRow(4), Change::Budget(Limit::Calls(9000))];
    assert!(
        matches!(&said[..], [(_, Request::Steer { run, changes: c })] if run == "grow-1" && *c == changes),
        "{said:?}"
    );
    // More was made: it is read again, where one is.
    play(&mut app, "end");
    let mut run = grow_run(RunState::Running);
    run.metrics.insert("made".into(), 1264.0);
    let push = Push::RunChanged { run: run.clone() };
    let news = windows(&app.update(Message::Engine(FromEngine::Push { push }), NOW_MS));
    assert_eq!(news.iter().map(|ask| ask.offset).collect::<Vec<_>>(), [1099]);
    let nothing_new = app.update(
        Message::Engine(FromEngine::Push { push: Push::RunChanged { run: grow_run(RunState::Running) } }),
        NOW_MS,
    );
    assert!(windows(&nothing_new).is_empty());
    // A run that is over takes no change, one whose budget was spent does.
    for (resumable, said) in [(false, "starts another"), (true, "change the run")] {
        let mut app = self::app();
        let run = RunRecord { resumable, ..grow_run(RunState::Done) };
        app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run } }), NOW_MS);
        play(&mut app, "1 = b");
        assert!(shown(&app).contains(said), "{}", shown(&app));
    }
}

#[test]
fn an_answer_for_other_texts_is_let_go_and_a_lost_connection_asks_again() {
    let mut app = app();
    let first = press(&mut app, "1 =");
    let (tag, _) = asked(&first)[0];
    press(&mut app, "f");
    let page = GrownPage { run: "grow-1".into(), total: 7, ..GrownPage::default() };
    let response = Response::Grown { page };
    let after = windows(&app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS));
    assert_eq!(after.iter().map(|ask| ask.filter.as_str()).collect::<Vec<_>>(), ["kept"]);
    app.update(Message::Engine(FromEngine::Lost { reason: "gone".into() }), NOW_MS);
    let status = sample::status();
    let again = windows(&app.update(Message::Engine(FromEngine::Connected { status }), NOW_MS));
    assert_eq!(again.iter().map(|ask| ask.filter.as_str()).collect::<Vec<_>>(), ["kept"]);
}
