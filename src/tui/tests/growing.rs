//! Rows are drawn, reviewed, made.

use super::{play, press, shown};
use crate::domain::api::{Decision, Failure, FromEngine, Push, Request, Response, ToEngine};
use crate::domain::review::Opinion;
use crate::domain::run::{RunKind, RunState};
use crate::domain::sample::Mode;
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

fn answer(app: &mut App, tag: u64, response: Response) -> Vec<Effect> {
    app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS)
}

#[test]
fn a_sample_is_drawn_by_a_form_and_its_rows_are_shown() {
    let mut app = app();
    play(&mut app, "1 s");
    insta::assert_snapshot!("sample_form_80x24", shown(&app));
    // The next way; then how many.
    let said = asked(&press(&mut app, "right down ctrl-u 2 enter"));
    let [(tag, Request::Sample { sample })] = &said[..] else { panic!("{said:?}") };
    assert_eq!((sample.wanted.mode, sample.wanted.n, sample.wanted.seed), (Mode::Proportional, 2, 7));
    assert_eq!((sample.mark.as_ref(), sample.out.as_ref()), (None, None));
    let response = sample::respond(&said[0].1);
    answer(&mut app, *tag, response);
    assert!(shown(&app).contains("a sample (proportional) of 16 rows"), "{}", shown(&app));
    play(&mut app, "s");
    assert!(shown(&app).contains("proportional"), "the form remembers");
}

#[test]
fn rows_are_reviewed_by_keys_each_is_one_decision_and_the_end_tells_how_far_people_agree() {
    let mut app = app();
    play(&mut app, "1 r");
    insta::assert_snapshot!("review_form_80x24", shown(&app));
    play(&mut app, "enter");
    insta::assert_snapshot!("review_80x24", shown(&app));
    let said = asked(&press(&mut app, "a"));
    let [(tag, Request::ReviewSay { annotator, row, opinion, settle })] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!((annotator.as_deref(), row.as_str(), opinion, settle), (Some("ann"), "00021", &None, &false));
    assert!(shown(&app).contains("3 of 5 decided") && shown(&app).contains("card arrival: 3 of 5"));
    assert!(asked(&press(&mut app, "u")).is_empty(), "not before the engine has written it down");
    answer(&mut app, *tag, Response::Done { message: String::new() });
    assert!(matches!(asked(&press(&mut app, "u"))[..], [(_, Request::Undo)]));
    assert!(shown(&app).contains("my card has not come"));

    let said = asked(&press(&mut app, "x"));
    assert!(
        matches!(&said[..], [(_, Request::ReviewSay { opinion: Some(Opinion::Exclude), .. })]),
        "{said:?}"
    );
    let error = Failure::new(1, "the disk is full");
    answer(&mut app, said[0].0, Response::Error { error });
    assert!(shown(&app).contains("my card has not come"), "what was not kept is asked for again");

    play(&mut app, "s");
    assert!(asked(&press(&mut app, "n")).is_empty());
    let said = asked(&press(&mut app, "o k enter"));
    assert!(
        matches!(&said[..], [(_, Request::Decide { decision: Decision::Note { row, .. } })] if row == "00034")
    );
    assert!(shown(&app).contains("ok"), "{}", shown(&app));
    press(&mut app, "g ctrl-u");
    let said = asked(&press(&mut app, "z enter"));
    let gold = Some(Opinion::Gold(Some("z".into())));
    assert!(matches!(&said[..], [(_, Request::ReviewSay { opinion, .. })] if *opinion == gold), "{said:?}");
    answer(&mut app, said[0].0, Response::Done { message: String::new() });
    play(&mut app, "a");
    insta::assert_snapshot!("review_done_80x24", shown(&app));
    play(&mut app, "esc");
    assert!(app.layers.is_empty());
}

#[test]
fn whether_more_rows_would_pay_is_told_and_asked_by_runs_for_each_share() {
    let mut app = app();
    play(&mut app, "1 G");
    insta::assert_snapshot!("scaling_80x24", shown(&app));
    let said = asked(&press(&mut app, "enter"));
    let [(_, Request::Sweep { axes, drop_hopeless: false, .. })] = &said[..] else { panic!("{said:?}") };
    let shares = ["share:25%", "share:50%", "share:100%"].map(String::from).to_vec();
    assert_eq!(axes[..], [("tuning.train.rows".to_owned(), shares)]);
    press(&mut app, "G ctrl-u 5 0 % enter");
    assert!(shown(&app).contains("at least 3 shares"), "{}", shown(&app));
}

#[test]
fn rows_are_made_by_a_form_and_what_holds_is_taken_in_by_a_key() {
    let mut app = app();
    play(&mut app, "1 +");
    insta::assert_snapshot!("grow_form_80x24", shown(&app));
    let said = asked(&press(&mut app, "right right down m down down 3 enter"));
    let [(_, Request::Launch { kind: RunKind::Grow, set, .. })] = &said[..] else { panic!("{said:?}") };
    let want =
        [("tuning.grow.method", "self-play"), ("tuning.grow.maker", "m"), ("tuning.grow.per_row", "3")];
    assert_eq!(set[..], want.map(|(k, v)| (k.to_owned(), v.to_owned())));

    let mut run = sample::run("grow-1", RunKind::Grow, RunState::Running);
    run.metrics = [("made", 50.0), ("kept", 38.0), ("fell_leak", 2.0)].map(|(k, v)| (k.to_owned(), v)).into();
    app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run: run.clone() } }), NOW_MS);
    run.state = RunState::Done;
    app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run } }), NOW_MS);
    assert!(shown(&app).contains("grow-1 is done: 38 of 50 kept"), "{}", shown(&app));
    play(&mut app, "7");
    app.runs_screen.selected = Some("grow-1".into());
    assert!(asked(&press(&mut app, "+")).is_empty(), "not without being asked");
    assert!(shown(&app).contains("Take 38 rows that grow-1 made"), "{}", shown(&app));
    let said = asked(&press(&mut app, "y"));
    let [(tag, Request::AcceptGrown { run, filter, withdraw: false })] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!((run.as_str(), filter.as_str()), ("grow-1", "kept"));
    answer(&mut app, *tag, sample::respond(&said[0].1));
    assert!(shown(&app).contains("38 rows in data/grown/grow-1.jsonl"), "{}", shown(&app));
    app.runs_screen.selected = Some("lora-12".into());
    assert!(asked(&press(&mut app, "+")).is_empty() && app.layers.is_empty(), "a training makes no rows");
}
