//! Screen 2: versions, the race, what is written by hand.

use super::{play, press, shown, type_text};
use crate::domain::api::{Decision, FileNews, FromEngine, Push, Request, Response, ToEngine};
use crate::domain::event::{Event, EventBody};
use crate::domain::prompt::{ClauseEffect, ClauseReport, Fate, PromptNews};
use crate::domain::run::{RunAction, RunKind, RunRecord, RunState};
use crate::domain::steer::{Change, Limit};
use crate::domain::versions::{HAND, Slice};
use crate::tui::app::{App, Effect, Message, Screen};
use crate::tui::sample::{self, NOW_MS, prompts};
use crate::tui::screens::prompts::Pane;
use crate::tui::signs::Signs;

fn push(app: &mut App, push: Push) {
    let effects = app.update(Message::Engine(FromEngine::Push { push }), NOW_MS);
    sample::settle(app, effects);
}

/// With a prompt run under way.
fn app(size: (u16, u16), signs: Signs) -> App {
    let mut app = sample::app(size, "dark", signs);
    push(&mut app, Push::RunChanged { run: prompts::run() });
    play(&mut app, "2");
    app
}

fn unicode(size: (u16, u16)) -> App {
    app(size, Signs::unicode())
}

fn asked(effects: &[Effect]) -> Vec<Request> {
    let request = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { request, .. }) => Some(request.clone()),
        _ => None,
    };
    effects.iter().filter_map(request).collect()
}

fn saved(app: &mut App, file: &str, problem: bool) -> Vec<Effect> {
    let news = vec![FileNews { file: file.into(), problem, text: format!("{file}: saved") }];
    app.update(Message::Engine(FromEngine::Push { push: Push::Files { news } }), NOW_MS)
}

#[test]
fn the_screen_at_every_size() {
    for size in [(80, 24), (120, 40), (200, 60)] {
        insta::assert_snapshot!(format!("prompts_{}x{}", size.0, size.1), shown(&unicode(size)));
    }
    insta::assert_snapshot!("prompts_ascii", shown(&app((120, 40), Signs::ascii())));
}

#[test]
fn on_a_narrow_screen_every_pane_is_a_tab() {
    let mut app = unicode((80, 24));
    for pane in ["text", "rows", "race"] {
        play(&mut app, "w");
        insta::assert_snapshot!(format!("prompts_{pane}_80x24"), shown(&app));
    }
    play(&mut app, "w");
    assert_eq!(app.prompts.pane, Pane::Tree);
}

#[test]
fn before_there_is_any_version_the_screen_says_what_to_press() {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    let effects = press(&mut app, "2");
    for effect in effects {
        if let Effect::Send(ToEngine::Ask { tag, request: Request::PromptTree { .. } }) = effect {
            let response = Response::PromptTree { tree: Default::default() };
            app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS);
        }
    }
    let text = shown(&app);
    assert!(text.contains("t tunes the prompts") && text.contains("e opens a prompt"), "{text}");
}

/// Keys, and what they ask of the engine.
#[test]
fn keys_ask_for_what_they_say() {
    let control = |action| Request::Control { run: prompts::RUN.into(), action, keys: Default::default() };
    let table: [(&str, Request); 6] = [
        ("p", control(RunAction::Pause)),
        ("S", control(RunAction::Stop)),
        ("v", Request::TryPrompts { slice: Slice::default(), keys: Default::default() }),
        ("down", Request::PromptVersion { of: Some("prompt-3:v6".into()) }),
        ("u", Request::Undo),
        (
            "b",
            Request::Decide {
                decision: Decision::AdoptPrompts {
                    files: vec![crate::domain::api::PromptFile {
                        stage: "route".into(),
                        ..Default::default()
                    }],
                },
            },
        ),
    ];
    for (keys, want) in table {
        let mut app = unicode((120, 40));
        let (before, last) = keys.rsplit_once(' ').unwrap_or(("", keys));
        play(&mut app, before);
        let got = asked(&press(&mut app, last));
        assert!(got.contains(&want), "{keys}: {got:?}");
    }
}

#[test]
fn a_lane_is_taken_out_when_one_says_yes_and_named_before() {
    let steer = Request::Steer { run: prompts::RUN.into(), changes: vec![Change::Kill("v6".into())] };
    let mut app = unicode((120, 40));
    play(&mut app, "end");
    assert!(asked(&press(&mut app, "K")).is_empty());
    assert!(shown(&app).contains("Take v6 out of the race"), "{}", shown(&app));
    assert!(asked(&press(&mut app, "n")).is_empty());
    play(&mut app, "K");
    assert_eq!(asked(&press(&mut app, "y")), [steer]);
    // One that is out is not asked about again.
    app.prompts.selected = app
        .prompts
        .tree
        .iter()
        .flat_map(|tree| &tree.versions)
        .find(|b| b.version.fate == Fate::Dropped)
        .map(|b| b.version.id.clone());
    assert!(app.prompts.selected.is_some());
    let steers = |effects: &[Effect]| asked(effects).iter().any(|r| matches!(r, Request::Steer { .. }));
    assert!(!steers(&press(&mut app, "K")));
    assert!(shown(&app).contains("has left the race already"), "{}", shown(&app));
}

#[test]
fn a_run_that_began_since_the_tree_was_read_is_there_to_choose() {
    let mut app = unicode((120, 40));
    let begun = RunRecord { run: "prompt-9".into(), ..prompts::run() };
    app.update(Message::Engine(FromEngine::Push { push: Push::RunChanged { run: begun } }), NOW_MS);
    play(&mut app, "r");
    assert!(shown(&app).contains("prompt-9"), "{}", shown(&app));
}

#[test]
fn clauses_beyond_the_pane_are_scrolled_to() {
    let mut app = unicode((80, 24));
    let clause = |i: usize| ClauseEffect {
        words: format!("clause number {i}"),
        delta: 0.5 - i as f64 / 40.0,
        ci95: Some([-0.1, 0.6]),
        ..ClauseEffect::default()
    };
    let report = ClauseReport { rows: 40, score: 0.7, clauses: (0..40).map(clause).collect() };
    app.series.get_mut(prompts::RUN).unwrap().climb.clauses = Some(report);
    play(&mut app, "w w w");
    let text = shown(&app);
    assert!(text.contains("clause number 0") && text.contains("[-.10, +.60]"), "{text}");
    assert!(!text.contains("clause number 39") && text.contains("more"), "{text}");
    play(&mut app, "end");
    let text = shown(&app);
    assert!(text.contains("clause number 39") && !text.contains("clause number 0 "), "{text}");
}

#[test]
fn a_version_is_adopted_named_and_forked() {
    let mut app = unicode((120, 40));
    // The answer or the last one is selected first; home is the start, whose texts stand in the files.
    play(&mut app, "home");
    press(&mut app, "A");
    assert!(shown(&app).contains("stand in the prompt files already"), "{}", shown(&app));
    play(&mut app, "down");
    let id = app.prompts.branch().unwrap().version.id.clone();
    let effects = press(&mut app, "A");
    let [Request::Decide { decision: Decision::AdoptPrompts { files } }] = &asked(&effects)[..] else {
        panic!("{effects:?}")
    };
    let text = &prompts::found(Some(&format!("prompt-3:{id}"))).version.prompts["route"];
    assert_eq!(files[0].hash, blake3::hash(text.as_bytes()).to_hex().to_string());
    sample::settle(&mut app, effects);

    press(&mut app, "n");
    type_text(&mut app, "kind one");
    let tag = asked(&press(&mut app, "enter"));
    assert!(
        matches!(&tag[..], [Request::Decide { decision: Decision::TagPrompt { tag: Some(tag), .. } }] if tag == "kind one"),
        "{tag:?}"
    );

    // A fork is adopted first, and opened when that is done.
    let effects = press(&mut app, "f");
    let [Effect::Send(ToEngine::Ask { tag, request: Request::Decide { .. } })] = effects[..] else {
        panic!("{effects:?}")
    };
    let response = Response::Done { message: "prompts/route.md written".into() };
    let effects = app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS);
    let edits: Vec<&Effect> = effects.iter().filter(|e| matches!(e, Effect::Edit(_))).collect();
    assert_eq!(edits, [&Effect::Edit("/home/ada/support-router/prompts/route.md".into())]);
}

#[test]
fn a_saved_prompt_is_tried_at_once_and_what_is_saved_meanwhile_after_it() {
    let mut app = unicode((120, 40));
    let tries = |effects: &[Effect]| {
        asked(effects).iter().filter(|r| matches!(r, Request::TryPrompts { .. })).count()
    };
    for (file, broken, why) in
        [("data/x.jsonl", false, "no prompt"), ("prompts/route.md", true, "cannot be used")]
    {
        let effects = saved(&mut app, file, broken);
        assert_eq!(tries(&effects), 0, "{why}");
        sample::settle(&mut app, effects);
    }
    let mut effects = saved(&mut app, "prompts/route.md", false);
    assert_eq!(tries(&effects), 1);
    // All but the trial is answered.
    let is_trial =
        |e: &Effect| matches!(e, Effect::Send(ToEngine::Ask { request: Request::TryPrompts { .. }, .. }));
    let others: Vec<Effect> = effects.extract_if(.., |e| !is_trial(e)).collect();
    sample::settle(&mut app, others);
    assert!(shown(&app).contains("trying on 24 rows"), "{}", shown(&app));
    let meanwhile = saved(&mut app, "prompts/route.md", false);
    assert_eq!(tries(&meanwhile), 0, "one at a time");
    sample::settle(&mut app, meanwhile);
    // The first one's answer leads to the second.
    let Some(tag) = effects.iter().find_map(|e| match e {
        Effect::Send(ToEngine::Ask { tag, request: Request::TryPrompts { .. } }) => Some(*tag),
        _ => None,
    }) else {
        panic!("{effects:?}")
    };
    let trial = Box::new(prompts::trial(&Slice::default()));
    let effects =
        app.update(Message::Engine(FromEngine::Answer { tag, response: Response::Tried { trial } }), NOW_MS);
    assert_eq!(tries(&effects), 1);
    sample::settle(&mut app, effects);
    assert_eq!(app.prompts.shown.as_deref(), Some(HAND));
    let text = shown(&app);
    for words in ["by hand", "hand:v1 against v0", "tried on 24 rows: hand:v1: 0.750 (n=24), v0 had 0.708"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Switched off, or on another screen, a saved prompt costs nothing.
    play(&mut app, "l");
    assert_eq!(tries(&saved(&mut app, "prompts/route.md", false)), 0);
    play(&mut app, "l 5");
    assert_eq!(tries(&saved(&mut app, "prompts/route.md", false)), 0);
}

#[test]
fn the_slice_is_chosen_in_a_form_and_tried_at_once() {
    let mut app = unicode((80, 24));
    press(&mut app, "s right down down right down");
    type_text(&mut app, "12");
    insta::assert_snapshot!("layer_slice_form", shown(&app));
    let stratum = app.strata.view.as_ref().unwrap().strata[0].name.clone();
    let slice = Slice { stratum: Some(stratum), mark: None, failing: true, rows: 12 };
    let want = Request::TryPrompts { slice, keys: Default::default() };
    assert_eq!(asked(&press(&mut app, "enter")), [want]);
}

#[test]
fn a_run_is_steered_from_its_form_which_comes_back_with_what_is_wrong() {
    let mut app = unicode((80, 24));
    press(&mut app, "a");
    type_text(&mut app, "a refund = money back");
    press(&mut app, "down down");
    type_text(&mut app, "the worst");
    assert_eq!(asked(&press(&mut app, "enter")), []);
    assert!(shown(&app).contains("a version is expected"), "{}", shown(&app));
    press(&mut app, "down down ctrl-u right down");
    type_text(&mut app, "8000");
    insta::assert_snapshot!("layer_steer_prompt_form", shown(&app));
    let changes = vec![
        Change::Hint("a refund = money back".into()),
        Change::Kill("v5".into()),
        Change::Budget(Limit::Calls(8000)),
    ];
    let want = Request::Steer { run: prompts::RUN.into(), changes };
    assert_eq!(asked(&press(&mut app, "enter")), [want]);
}

#[test]
fn the_knobs_of_a_run_are_sent_as_settings() {
    let mut app = unicode((80, 24));
    press(&mut app, "t down");
    type_text(&mut app, "8");
    press(&mut app, "down down down down down right");
    insta::assert_snapshot!("layer_prompt_form", shown(&app));
    let asked = asked(&press(&mut app, "enter"));
    let [Request::Launch { kind: RunKind::Prompt, set, .. }] = &asked[..] else { panic!("{asked:?}") };
    let set: Vec<(&str, &str)> = set.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert!(set.contains(&("tuning.prompt.fan_out", "8")), "{set:?}");
    assert!(set.contains(&("tuning.prompt.stages", "[\"route\"]")), "{set:?}");
}

#[test]
fn after_a_lost_connection_everything_is_asked_for_again_and_shown_as_before() {
    let mut app = unicode((120, 40));
    let before = shown(&app);
    app.update(Message::Engine(FromEngine::Lost { reason: "gone".into() }), NOW_MS);
    let effects = app.update(Message::Engine(FromEngine::Connected { status: sample::status() }), NOW_MS);
    assert!(asked(&effects).iter().any(|r| matches!(r, Request::PromptTree { .. })), "{effects:?}");
    sample::settle(&mut app, effects);
    // The run's events come again from the start: what was heard counts once.
    push(&mut app, Push::Events { run: prompts::RUN.into(), events: prompts::events() });
    app.notices.clear();
    assert_eq!(shown(&app), before);
}

#[test]
fn a_run_that_tells_of_an_epoch_has_its_tree_read_again() {
    let mut app = unicode((120, 40));
    let seq = app.series[prompts::RUN].last_seq + 1;
    let news = PromptNews::Epoch {
        epoch: 2,
        epochs: 5,
        standings: Vec::new(),
        budget: Default::default(),
        spend: Default::default(),
    };
    let events = vec![Event { seq, t_ms: NOW_MS, body: EventBody::Prompt(news) }];
    let news = Push::Events { run: prompts::RUN.into(), events };
    let effects = app.update(Message::Engine(FromEngine::Push { push: news }), NOW_MS);
    assert!(asked(&effects).iter().any(|r| matches!(r, Request::PromptTree { .. })), "{effects:?}");
}

#[test]
fn the_finished_run_says_its_gain_and_offers_no_pause() {
    let mut app = unicode((120, 40));
    let mut run = prompts::run();
    run.state = RunState::Done;
    push(&mut app, Push::RunChanged { run });
    assert!(shown(&app).contains("2 shows its versions"), "{}", shown(&app));
    assert_eq!(asked(&press(&mut app, "p")), []);
    press(&mut app, "1 5");
    assert_eq!(app.screen, Screen::Board);
}
