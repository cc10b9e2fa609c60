//! Tables over the state machine: message in, state and effects out.

use super::{play, press, shown, type_text};
use crate::domain::api::{
    Decision, Failure, FileNews, FromEngine, Push, Request, Response, RowQuery, STRATUM_GONE, ToEngine, View,
};
use crate::domain::row::Part;
use crate::domain::run::{RunAction, RunKind, RunState};
use crate::domain::sweep::Group;
use crate::tui::app::{App, Effect, Link, Message, Mood, Pending, Purpose, Screen};
use crate::tui::layers::Layer;
use crate::tui::sample::{self, NOW_MS};
use crate::tui::screens::strata::Pane;
use crate::tui::signs::Signs;

fn app() -> App {
    sample::app((120, 40), "dark", Signs::unicode())
}

fn asked(effects: &[Effect]) -> Vec<Request> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { request, .. }) => Some(request.clone()),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

fn news(app: &mut App, news: FromEngine) -> Vec<Effect> {
    app.update(Message::Engine(news), NOW_MS)
}

fn lost(app: &mut App) -> Vec<Effect> {
    news(app, FromEngine::Lost { reason: "the engine is gone".into() })
}

#[test]
fn keys_move_between_the_screens_that_exist() {
    for (keys, screen) in [
        ("1", Screen::Strata),
        ("4", Screen::Train),
        ("5", Screen::Board),
        ("7", Screen::Runs),
        ("2", Screen::Prompts),
        ("3", Screen::Trajectories),
        ("8", Screen::Strata),
        ("tab", Screen::Prompts),
        ("6", Screen::Play),
        ("tab tab tab", Screen::Train),
        ("tab tab tab tab tab tab tab", Screen::Strata),
        ("shift-tab", Screen::Runs),
    ] {
        let mut app = app();
        press(&mut app, keys);
        assert_eq!(app.screen, screen, "{keys}");
    }
}

#[test]
fn leaving_detaches_and_asks_nothing_of_the_engine() {
    assert_eq!(press(&mut app(), "q"), [Effect::Quit]);
    for keys in ["g", "t", "4 k", "?", ":", "5 down enter enter", "6 i", "6 i x enter w", "7 /"] {
        let mut app = app();
        play(&mut app, keys);
        assert_eq!(press(&mut app, "ctrl-c"), [Effect::Quit], "after {keys}");
        assert_eq!(press(&mut app, "ctrl-z"), [Effect::Suspend], "after {keys}");
    }
}

#[test]
fn a_candidates_detail_is_read_from_the_board() {
    let mut app = app();
    play(&mut app, "5 m");
    let text = shown(&app);
    for part in ["412 rows, 2 failed", "card delivery", "confusion", "ece 0.0430", "7/12"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    press(&mut app, "esc");
    assert!(app.layers.is_empty());
    // An answer that nobody waits for any more changes nothing; a failure is told where it was asked.
    let effects = press(&mut app, "m");
    let [Request::Detail { candidate }] = &asked(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(candidate, "base");
    let tag = effects.iter().find_map(|e| match e {
        Effect::Send(ToEngine::Ask { tag, .. }) => Some(*tag),
        _ => None,
    });
    let response = Response::Error { error: Failure::new(1, "the outcomes cannot be read") };
    news(&mut app, FromEngine::Answer { tag: tag.unwrap(), response });
    assert!(shown(&app).contains("the outcomes cannot be read"));
}

#[test]
fn escape_closes_the_top_layer_and_only_that() {
    let mut app = app();
    play(&mut app, "1 enter ? ");
    assert_eq!(app.layers.len(), 1);
    press(&mut app, "esc");
    assert!(app.layers.is_empty());
    assert_eq!(app.strata.pane, Pane::Rows);
    press(&mut app, "esc");
    assert_eq!(app.strata.pane, Pane::List);
}

#[test]
fn letters_typed_into_a_line_do_not_act() {
    let mut app = app();
    play(&mut app, "1 enter g");
    assert_eq!(press(&mut app, "q t 4 ?"), []);
    assert_eq!((app.screen, app.layers.len()), (Screen::Strata, 1));
}

#[test]
fn decisions_reach_the_engine_as_people_meant_them() {
    let row = "00000";
    for (keys, typed, want) in [
        // The first row carries a star: m takes it away.
        ("m", "", Decision::Mark { row: row.into(), mark: "star".into(), on: false }),
        ("down m", "", Decision::Mark { row: "00001".into(), mark: "star".into(), on: true }),
        ("M", "doubt", Decision::Mark { row: row.into(), mark: "doubt".into(), on: true }),
        ("g ctrl-u", "refund", Decision::Gold { row: row.into(), gold: Some("refund".into()) }),
        ("g ctrl-u", " ", Decision::Gold { row: row.into(), gold: None }),
        ("n", "look again", Decision::Note { row: row.into(), note: Some("look again".into()) }),
        (
            "esc home down n ctrl-u",
            "late cards",
            Decision::NameStratum { stratum: "s0".into(), name: Some("late cards".into()) },
        ),
    ] {
        let mut app = app();
        play(&mut app, "1 enter");
        let mut effects = Vec::new();
        for key in keys.split_whitespace() {
            effects = press(&mut app, key);
            if asked(&effects).iter().all(|r| matches!(r, Request::Rows { .. } | Request::Row { .. })) {
                sample::settle(&mut app, std::mem::take(&mut effects));
            }
        }
        if !typed.is_empty() {
            type_text(&mut app, typed);
            effects = press(&mut app, "enter");
        }
        assert_eq!(asked(&effects), [Request::Decide { decision: want }], "{keys} {typed:?}");
    }
    assert_eq!(asked(&press(&mut app(), "u")), [Request::Undo]);
}

#[test]
fn rows_are_asked_for_by_window_and_only_once_at_a_time() {
    let mut app = app();
    play(&mut app, "1");
    let effects = press(&mut app, "down");
    assert_eq!(asked(&effects).len(), 1);
    // While that question is under way, nothing more is asked; the answer of a stratum left behind is dropped.
    assert_eq!(asked(&press(&mut app, "down down")), []);
    let Some(Effect::Send(ToEngine::Ask { tag, request: Request::Rows { query } })) = effects.first() else {
        panic!("{effects:?}")
    };
    let page = sample::rows(query);
    let effects = news(&mut app, FromEngine::Answer { tag: *tag, response: Response::Rows { page } });
    assert!(!app.strata.loaded);
    let [Request::Rows { query }] = &asked(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(query.stratum.as_deref(), Some("s2"));
    sample::settle(&mut app, effects);
    // A jump to the end asks for the rows around it.
    play(&mut app, "enter");
    let [Request::Rows { query }] = &asked(&press(&mut app, "end"))[..] else { panic!("no question") };
    assert!(query.offset > 0 && query.count <= 500, "{query:?}");
}

#[test]
fn filters_and_orders_change_the_query() {
    let mut app = app();
    play(&mut app, "1 enter");
    play(&mut app, "o");
    assert_eq!(app.strata.query.sort, "wrong-first");
    play(&mut app, "p p");
    assert_eq!(app.strata.query.part, Some(Part::Dev));
    play(&mut app, "f");
    assert_eq!(app.strata.query.stratum.as_deref(), Some("s0"));
    play(&mut app, "f");
    assert_eq!(app.strata.query.stratum, None);
    play(&mut app, "/");
    type_text(&mut app, "mark:star");
    play(&mut app, "enter");
    assert_eq!(
        app.strata.query,
        RowQuery {
            text: "mark:star".into(),
            sort: "wrong-first".into(),
            part: Some(Part::Dev),
            ..RowQuery::default()
        }
    );
    // The reserve is not on the way round.
    play(&mut app, "p p");
    assert_eq!(app.strata.query.part, None);
}

#[test]
fn a_launch_from_the_form_shows_the_new_run() {
    let mut app = app();
    play(&mut app, "1 t");
    press(&mut app, "ctrl-u");
    type_text(&mut app, "8");
    let effects = press(&mut app, "enter");
    let [Request::Launch { kind: RunKind::Train, set, .. }] = &asked(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert!(set.contains(&("tuning.train.rank".into(), "8".into())), "{set:?}");
    sample::settle(&mut app, effects);
    assert_eq!(app.screen, Screen::Train);
    assert_eq!(app.shown_run().as_deref(), Some("lora-12"), "until the engine tells of the new one");
    news(
        &mut app,
        FromEngine::Push {
            push: Push::RunChanged { run: sample::run("train-13", RunKind::Train, RunState::Queued) },
        },
    );
    assert_eq!(app.shown_run().as_deref(), Some("train-13"));
}

#[test]
fn several_values_in_the_form_launch_a_sweep_whose_curves_are_drawn_together() {
    let mut app = app();
    play(&mut app, "1 t");
    press(&mut app, "ctrl-u");
    type_text(&mut app, "4, 8");
    let effects = press(&mut app, "enter");
    let [Request::Sweep { set, axes, drop_hopeless: false, .. }] = &asked(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(axes, &[("tuning.train.rank".to_owned(), vec!["4".to_owned(), "8".to_owned()])]);
    assert!(set.iter().all(|(key, _)| key != "tuning.train.rank"), "{set:?}");
    sample::settle(&mut app, effects);
    let mut follows = Vec::new();
    for (i, name) in ["train-13", "train-14"].into_iter().enumerate() {
        let mut run = sample::run(name, RunKind::Train, RunState::Running);
        run.settings[0].1 = ["4", "8"][i].into();
        run.group = Some(Group { name: "sweep-1".into(), drop_hopeless: false });
        follows.extend(news(&mut app, FromEngine::Push { push: Push::RunChanged { run } }));
    }
    assert_eq!(app.shown_run().as_deref(), Some("train-13"));
    assert_eq!(app.overlaid(), ["train-14"]);
    let followed = |run: &str| {
        follows.iter().any(
            |e| matches!(e, Effect::Send(ToEngine::Follow { view: View::Run { run: r, .. } }) if r == run),
        )
    };
    assert!(followed("train-13") && followed("train-14"), "{follows:?}");
    play(&mut app, "w w w");
    let screen = shown(&app);
    assert!(screen.contains("sweep-1") && screen.contains("rank=8"), "{screen}");
    let effects = press(&mut app, "D");
    assert_eq!(asked(&effects), [Request::DropHopeless { group: "sweep-1".into(), on: true }]);
    // Back takes the others away.
    play(&mut app, "esc");
    assert_eq!(app.overlaid(), [""; 0]);
}

#[test]
fn steering_keys_ask_for_what_they_say() {
    for (keys, want) in [
        ("p", RunAction::Pause),
        ("c", RunAction::Checkpoint),
        ("S", RunAction::Stop),
        ("k y", RunAction::Cancel),
    ] {
        let effects = press(&mut app_on_train(), keys);
        assert_eq!(
            asked(&effects),
            [Request::Control { run: "lora-12".into(), action: want, keys: Default::default() }],
            "{keys}"
        );
    }
    for keys in ["k n", "k esc", "R"] {
        assert_eq!(asked(&press(&mut app_on_train(), keys)), [], "{keys}");
    }
    let mut app = app();
    play(&mut app, "7 down down");
    let effects = press(&mut app, "r");
    assert_eq!(
        asked(&effects),
        [Request::Control { run: "lora-10".into(), action: RunAction::Resume, keys: Default::default() }]
    );
}

#[test]
fn a_run_is_offered_what_applies_where_it_stands() {
    use RunState as S;
    let all = ["pause", "resume", "checkpoint", "stop+keep", "cancel"];
    for (state, resumable, want) in [
        (S::Queued, false, &["cancel"][..]),
        (S::Running, false, &["pause", "checkpoint", "stop+keep", "cancel"]),
        (S::Paused, false, &["resume", "checkpoint", "stop+keep", "cancel"]),
        (S::Done, false, &[]),
        (S::Stopped, true, &["resume"]),
        (S::Cancelled, false, &[]),
        (S::Interrupted, true, &["resume"]),
    ] {
        let mut app = sample::app((200, 40), "dark", Signs::unicode());
        let mut run = sample::run("lora-12", RunKind::Train, state);
        run.resumable = resumable;
        news(&mut app, FromEngine::Push { push: Push::Runs { runs: vec![run] } });
        for screen in ["4", "7"] {
            play(&mut app, screen);
            let text = shown(&app);
            let footer = text.lines().last().unwrap();
            let offered: Vec<&str> = all.into_iter().filter(|w| footer.contains(&format!(" {w}"))).collect();
            assert_eq!(offered, want, "{state} on screen {screen}: {footer}");
            // The palette and the keys say the same as the footer.
            press(&mut app, ":");
            type_text(&mut app, "'resume");
            assert_eq!(shown(&app).contains("nothing matches"), !want.contains(&"resume"), "{state}");
            press(&mut app, "esc");
            let asks = asked(&press(&mut app, "R"));
            assert_eq!(asks.len(), usize::from(want.contains(&"resume")), "{state} on screen {screen}");
        }
    }
}

fn app_on_train() -> App {
    let mut app = app();
    play(&mut app, "4");
    app
}

#[test]
fn enter_on_the_curve_opens_the_rows_of_that_step() {
    let mut app = app_on_train();
    play(&mut app, "left left");
    assert_eq!(app.train.cursor, Some(610));
    let effects = press(&mut app, "enter");
    let [Request::Events { run, after, limit: 1 }] = &asked(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(run, "lora-12");
    let events = sample::training(612, 1000);
    assert!(matches!(events[*after as usize].body, crate::domain::event::EventBody::Step { step: 610, .. }));
    sample::settle(&mut app, effects);
    assert_eq!((app.screen, app.strata.pane), (Screen::Strata, Pane::Rows));
    assert_eq!(app.strata.window.total, 8);
    assert!(shown(&app).contains("rows of step 610 of lora-12"));
}

#[test]
fn the_curve_is_followed_only_while_it_is_shown() {
    let mut app = app();
    let effects = press(&mut app, "4");
    assert!(
        effects.contains(&Effect::Send(ToEngine::Follow {
            view: View::Run { run: "lora-12".into(), after: 0 }
        })),
        "{effects:?}"
    );
    sample::settle(&mut app, effects);
    let effects = press(&mut app, "5");
    assert!(
        matches!(&effects[..], [Effect::Send(ToEngine::Unfollow { view: View::Run { run, .. } })] if run == "lora-12"),
        "{effects:?}"
    );
    // Back again: only what is new is asked for.
    let effects = press(&mut app, "4");
    let last = app.series["lora-12"].last_seq;
    assert_eq!(
        effects,
        [Effect::Send(ToEngine::Follow { view: View::Run { run: "lora-12".into(), after: last } })]
    );
}

#[test]
fn strata_that_are_being_built_say_how_far_they_are() {
    let mut app = App::new((120, 40), Signs::unicode(), NOW_MS);
    news(&mut app, FromEngine::Connected { status: sample::status() });
    let view = crate::domain::board::StrataView { rows: 100, ..Default::default() };
    news(&mut app, FromEngine::Push { push: Push::Strata { view } });
    assert!(shown(&app).contains("no strata yet: b builds them"));
    let mut run = sample::run("strata-1", RunKind::Strata, RunState::Queued);
    run.progress = None;
    run.message = Some("waits for the CPU".into());
    news(&mut app, FromEngine::Push { push: Push::RunChanged { run } });
    assert!(shown(&app).contains("strata-1 builds the strata: waits for the CPU"), "{}", shown(&app));
    assert_eq!(
        asked(&press(&mut app, "b")),
        [Request::Launch { kind: RunKind::Strata, set: vec![], keys: Default::default(), from: None }]
    );
}

#[test]
fn deciding_on_many_rows_at_once_asks_first_and_says_how_many() {
    let mut app = app_on_train();
    play(&mut app, "1");
    app.strata.pane = Pane::Rows;
    let pick = |app: &mut App, n: usize| app.strata.picked = (0..n).map(|i| format!("r{i}")).collect();
    pick(&mut app, 3);
    assert!(
        matches!(asked(&press(&mut app, "m"))[..], [Request::Decide { .. }]),
        "a few are decided on at once"
    );
    for (keys, words) in
        [("x", "Leave 1,200 rows out of learning and scoring?"), ("m", "Set the mark `star` on 1,200 rows?")]
    {
        pick(&mut app, 1200);
        assert_eq!(asked(&press(&mut app, keys)), []);
        let Some(Layer::Confirm { question, .. }) = app.layers.last() else { panic!("{:?}", app.layers) };
        assert_eq!(*question, format!("{words} u takes all of it back as one."));
        assert_eq!(asked(&press(&mut app, "n")), []);
        press(&mut app, keys);
        match &asked(&press(&mut app, "y"))[..] {
            [Request::Decide { decision: Decision::Together { decisions } }] => {
                assert_eq!(decisions.len(), 1200);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_stratum_that_is_gone_gives_way_to_all_rows_without_a_complaint() {
    let mut app = app_on_train();
    play(&mut app, "1 down down");
    let gone = app.strata.query.stratum.clone().expect("a stratum is shown");
    let query = app.strata.query.clone();
    app.pending.insert(900, Pending { purpose: Purpose::Rows(query), again: None, since_ms: 0 });
    let error = Failure::new(2, format!("{STRATUM_GONE} `{gone}`"));
    news(&mut app, FromEngine::Answer { tag: 900, response: Response::Error { error } });
    assert!(app.notices.is_empty(), "{:?}", app.notices);
    assert_eq!(app.strata.selected, 2, "the new list says what it became");
    let mut view = app.strata.view.clone().expect("there are strata");
    view.strata.retain(|s| s.id != gone);
    app.strata.fill(view);
    assert_ne!(app.strata.query.stratum.as_ref(), Some(&gone));
    // A saved view of it is older than the list.
    app.strata.query.stratum = Some(gone.clone());
    let query = app.strata.query.clone();
    app.pending.insert(901, Pending { purpose: Purpose::Rows(query), again: None, since_ms: 0 });
    let error = Failure::new(2, format!("{STRATUM_GONE} `{gone}`"));
    news(&mut app, FromEngine::Answer { tag: 901, response: Response::Error { error } });
    assert!(app.notices.is_empty() && app.strata.query.stratum.is_none(), "{:?}", app.notices);
}

#[test]
fn questions_that_fail_for_one_cause_are_one_notice_which_one_esc_closes() {
    let mut app = app_on_train();
    press(&mut app, "1");
    for (tag, purpose) in
        [Purpose::Row("a".into()), Purpose::Views, Purpose::Row("b".into())].into_iter().enumerate()
    {
        let tag = 900 + tag as u64;
        app.pending.insert(tag, Pending { purpose, again: None, since_ms: 0 });
        let error = Failure::new(2, "data/rows.jsonl: there is no such file");
        news(&mut app, FromEngine::Answer { tag, response: Response::Error { error } });
    }
    let failures: Vec<&str> =
        app.notices.iter().filter(|n| n.mood == Mood::Bad).map(|n| n.text.as_str()).collect();
    assert_eq!(failures, ["could not read row b: data/rows.jsonl: there is no such file"]);
    assert!(shown(&app).contains("(3 failed)"), "{}", shown(&app));
    press(&mut app, "esc");
    assert!(app.notices.is_empty(), "{:?}", app.notices);
}

#[test]
fn rows_that_could_not_be_read_are_read_again_once_the_file_is_back() {
    let rows = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send(ToEngine::Ask { tag, request: Request::Rows { .. } }) => Some(*tag),
            _ => None,
        })
    };
    let mut app = app();
    play(&mut app, "1");
    let tag = rows(&press(&mut app, "down")).expect("other rows are asked for");
    let error = Failure::new(1, "cannot read /w/data/rows.jsonl: No such file or directory");
    let effects = news(&mut app, FromEngine::Answer { tag, response: Response::Error { error } });
    assert_eq!(rows(&effects), None, "not over and over");
    assert!(shown(&app).contains("could not read the rows"), "{}", shown(&app));
    let file = |problem, text: &str| FromEngine::Push {
        push: Push::Files {
            news: vec![FileNews {
                file: "data/rows.jsonl".into(),
                problem,
                text: format!("data/rows.jsonl: {text}"),
            }],
        },
    };
    assert_eq!(rows(&news(&mut app, file(true, "cannot be indexed"))), None, "it is not back");
    let effects = news(&mut app, file(false, "changed on disk and indexed again, 3396 rows"));
    assert!(rows(&effects).is_some(), "{effects:?}");
    assert!(app.notices.iter().all(|n| n.mood != Mood::Bad), "{:?}", app.notices);
}

#[test]
fn a_row_is_not_asked_for_again_before_the_rows_that_may_not_have_it_any_more() {
    let mut app = app();
    play(&mut app, "1 right down");
    app.strata.changed();
    let effects = app.update(Message::Tick, NOW_MS);
    assert!(matches!(asked(&effects)[..], [Request::Rows { .. }]), "{effects:?}");
    sample::settle(&mut app, effects);
    assert_eq!(app.strata.detail.as_ref().map(|d| &d.id), app.strata.window.current().map(|r| &r.id));
}

#[test]
fn every_layer_tells_its_keys_and_takes_another_theme() {
    for (keys, says) in [
        ("1 z", "First corner of a box"),
        ("1 !", "Of each group of duplicates"),
        ("1 F", "The other end of the table"),
        ("1 right V", "Close the top layer"),
    ] {
        let mut app = app();
        play(&mut app, keys);
        if matches!(app.layers.last(), Some(Layer::Text { .. })) {
            type_text(&mut app, "stratum");
            play(&mut app, "enter");
        }
        let layers = app.layers.len();
        play(&mut app, "?");
        assert!(shown(&app).contains(says), "{keys}: {}", shown(&app));
        play(&mut app, "? ctrl-t");
        assert_eq!((app.layers.len(), app.look.theme.name.as_str()), (layers, "light"), "{keys}");
    }
}

#[test]
fn the_palette_offers_nothing_that_only_a_layer_can_do() {
    let mut app = app();
    play(&mut app, "1 :");
    type_text(&mut app, "the gold stands");
    assert!(!shown(&app).contains("The gold stands"), "{}", shown(&app));
}

#[test]
fn what_is_wrong_offers_to_leave_rows_out_where_rows_are_listed() {
    let mut app = app();
    play(&mut app, "1 !");
    assert!(!shown(&app).contains("x leave out"), "{}", shown(&app));
    play(&mut app, "enter");
    assert!(shown(&app).contains("x leave out"), "{}", shown(&app));
}

#[test]
fn a_long_filter_leaves_the_count_in_the_title() {
    let mut app = app();
    app.update(Message::Resize(80, 24), NOW_MS);
    play(&mut app, "1 right /");
    type_text(&mut app, &format!("-{}", "no such words ".repeat(8)));
    play(&mut app, "enter");
    let title = shown(&app).lines().nth(1).map(str::to_owned).unwrap_or_default();
    assert!(title.contains('(') && title.contains("), with "), "{title}");
}

#[test]
fn a_lost_connection_is_shown_and_mended() {
    let mut app = app_on_train();
    let effects = press(&mut app, "p");
    assert_eq!(asked(&effects).len(), 1);
    lost(&mut app);
    assert!(app.pending.is_empty());
    assert!(
        app.notices.iter().any(|n| n.mood == Mood::Bad && n.text.contains("pause lora-12")),
        "{:?}",
        app.notices
    );
    let text = shown(&app);
    assert!(text.contains("no connection to the engine") && text.contains("the engine is gone"), "{text}");
    // What would change something is refused, what only reads waits.
    assert_eq!(press(&mut app, "c"), []);
    press(&mut app, "1");
    assert_eq!(press(&mut app, "down"), []);
    let effects = news(&mut app, FromEngine::Connected { status: sample::status() });
    assert!(matches!(app.link, Link::Up { .. }));
    // The connection follows its views again by itself; only the curve that was left meanwhile is given up.
    let views = effects
        .iter()
        .filter(|e| matches!(e, Effect::Send(ToEngine::Follow { .. } | ToEngine::Unfollow { .. })));
    let views: Vec<&Effect> = views.collect();
    assert!(matches!(views[..], [Effect::Send(ToEngine::Unfollow { view: View::Run { .. } })]), "{views:?}");
    assert_eq!(asked(&effects).len(), 1, "the rows that were waited for: {effects:?}");
}

#[test]
fn failures_stay_until_they_are_closed() {
    let mut app = app();
    play(&mut app, "7");
    let effects = press(&mut app, "p");
    let Some(Effect::Send(ToEngine::Ask { tag, .. })) = effects.first() else { panic!("{effects:?}") };
    let error = Failure::new(1, "the worker does not listen; resume the run");
    news(&mut app, FromEngine::Answer { tag: *tag, response: Response::Error { error } });
    press(&mut app, "down");
    let text = shown(&app);
    assert!(text.contains("could not pause lora-12: the worker does not listen; resume the run"), "{text}");
    press(&mut app, "esc");
    assert!(!shown(&app).contains("could not pause"));
}

#[test]
fn a_long_search_for_what_is_wrong_tells_how_far_it_is() {
    let mut app = app();
    press(&mut app, "1 !");
    let effects = app.update(Message::Tick, NOW_MS + 2000);
    let tag = effects.iter().find_map(|effect| match effect {
        Effect::Send(ToEngine::Ask { tag, request: Request::ReadingProgress }) => Some(*tag),
        _ => None,
    });
    let response = Response::Progress { done: 1200, total: 10_188 };
    news(&mut app, FromEngine::Answer { tag: tag.unwrap(), response });
    app.update(Message::Tick, NOW_MS + 3000);
    assert!(
        shown(&app).contains("look for what is wrong with the rows: 11%, 24s left (3s)"),
        "{}",
        shown(&app)
    );
}

#[test]
fn a_first_filter_over_many_rows_tells_how_far_it_is_and_how_long_it_takes() {
    let mut app = app();
    play(&mut app, "1 right");
    press(&mut app, "/");
    type_text(&mut app, "parcel");
    press(&mut app, "enter");
    let effects = app.update(Message::Tick, NOW_MS + 1000);
    let tag = effects.iter().find_map(|effect| match effect {
        Effect::Send(ToEngine::Ask { tag, request: Request::ReadingProgress }) => Some(*tag),
        _ => None,
    });
    news(
        &mut app,
        FromEngine::Answer {
            tag: tag.unwrap(),
            response: Response::Progress { done: 250_000, total: 1_000_000 },
        },
    );
    app.update(Message::Tick, NOW_MS + 4000);
    assert!(shown(&app).contains("read the rows: 25%, 12s left (4s)"), "{}", shown(&app));
}

#[test]
fn news_hides_no_failure() {
    let mut app = app();
    app.notice(Mood::Bad, "cannot mark row 17 without the engine");
    app.notice(Mood::Good, "connected again");
    assert!(shown(&app).contains("cannot mark row 17"), "{}", shown(&app));
    press(&mut app, "esc");
    let text = shown(&app);
    assert!(!text.contains("cannot mark row 17") && text.contains("connected again"), "{text}");
}

#[test]
fn the_help_says_every_sentence_to_its_end_at_80_columns() {
    let mut app = app();
    app.update(Message::Resize(80, 24), NOW_MS);
    play(&mut app, "1 ?");
    let text = shown(&app);
    assert!(text.contains("of every stratum, by size, by errors, by") && text.contains("doubt"), "{text}");
}

#[test]
fn a_key_is_sent_only_after_a_yes_and_what_needs_it_is_asked_again() {
    use crate::domain::keys::KeyNeed;
    let needs = vec![KeyNeed { origin: "https://api.test".into(), variable: "CRITIC_KEY".into() }];
    let refused = |app: &mut App| {
        let effects = press(app, "b");
        let Some(Effect::Send(ToEngine::Ask { tag, .. })) = effects.first() else { panic!("{effects:?}") };
        let error = Failure { needs: needs.clone(), ..Failure::new(2, "needs a key") };
        news(app, FromEngine::Answer { tag: *tag, response: Response::Error { error } })
    };
    let mut app = app();
    play(&mut app, "1");
    assert_eq!(refused(&mut app), []);
    let text = shown(&app);
    assert!(text.contains("CRITIC_KEY") && text.contains("https://api.test"), "{text}");
    let effects = press(&mut app, "y");
    assert_eq!(effects[0], Effect::Send(ToEngine::Trust { needs: needs.clone() }), "{effects:?}");
    assert!(matches!(asked(&effects)[..], [Request::Launch { kind: RunKind::Strata, .. }]), "{effects:?}");
    // A no sends nothing.
    refused(&mut app);
    assert_eq!(press(&mut app, "n"), []);
    assert!(shown(&app).contains("no key was sent"), "{}", shown(&app));
}

#[test]
fn a_failed_question_for_rows_is_not_repeated_for_ever() {
    let mut app = app();
    play(&mut app, "1");
    let mut effects = press(&mut app, "down");
    for _ in 0..3 {
        let Some(Effect::Send(ToEngine::Ask { tag, .. })) = effects.first() else { break };
        let error = Failure::new(1, "disk");
        effects = news(&mut app, FromEngine::Answer { tag: *tag, response: Response::Error { error } });
    }
    assert_eq!(effects, []);
    assert_eq!(asked(&press(&mut app, "down")).len(), 1, "but again for another stratum");
}

#[test]
fn the_end_of_a_training_tells_its_result_and_compares_it_with_the_baseline() {
    let mut app = app_on_train();
    let mut run = sample::run("lora-12", RunKind::Train, RunState::Done);
    run.candidate = Some("lora-12".into());
    run.metrics.insert("accuracy".into(), 0.908);
    let effects = news(&mut app, FromEngine::Push { push: Push::RunChanged { run: run.clone() } });
    assert_eq!(asked(&effects), [Request::Compare { a: "base".into(), b: "lora-12".into(), metric: None }]);
    sample::settle(&mut app, effects);
    assert!(shown(&app).contains("lora-12 is done: accuracy .908"), "{}", shown(&app));
    play(&mut app, "5");
    assert!(shown(&app).contains("regressed 9"), "{}", shown(&app));
    // The same record again is no news.
    assert_eq!(news(&mut app, FromEngine::Push { push: Push::RunChanged { run } }), []);
}

#[test]
fn a_run_that_died_says_its_last_words() {
    let mut app = app();
    let mut run = sample::run("lora-12", RunKind::Train, RunState::Interrupted);
    run.message = Some("the worker was killed".into());
    run.resumable = true;
    news(&mut app, FromEngine::Push { push: Push::Runs { runs: vec![run] } });
    let text = shown(&app);
    assert!(
        text.contains("lora-12 interrupted: the worker was killed; it can be resumed on screen 7"),
        "{text}"
    );
}

#[test]
fn the_board_says_which_runs_are_one_candidate_and_what_is_stale() {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    play(&mut app, "5");
    assert!(!shown(&app).contains("counts, not") && !shown(&app).contains("left out"));
    let mut board = sample::board();
    board.rows[0].runs = vec!["eval-1".into(), "eval-2".into()];
    board.rows[0].stale = 3;
    news(&mut app, FromEngine::Push { push: Push::Board { board } });
    let text = shown(&app);
    assert!(text.contains("2 runs of this same candidate: eval-2 counts, not eval-1"), "{text}");
    assert!(text.contains("3 rows changed since: left out until it is evaluated again"), "{text}");
}

#[test]
fn a_saved_file_is_told_and_what_was_wrong_with_it_goes_with_the_next() {
    let mut app = app();
    let file = |problem, text: &str| FromEngine::Push {
        push: Push::Files {
            news: vec![FileNews { file: "workspace.toml".into(), problem, text: text.into() }],
        },
    };
    news(&mut app, file(true, "workspace.toml:3: unknown key `evil`"));
    press(&mut app, "down");
    assert!(shown(&app).contains("workspace.toml:3: unknown key `evil`"), "a problem stays");
    news(&mut app, file(false, "workspace.toml: read again"));
    let text = shown(&app);
    assert!(text.contains("workspace.toml: read again") && !text.contains("evil"), "{text}");
    assert!(app.notices.iter().all(|n| n.mood == Mood::Plain));
}

#[test]
fn two_candidates_are_chosen_and_compared() {
    let mut app = app();
    play(&mut app, "5 down c down");
    let effects = press(&mut app, "c");
    assert_eq!(
        asked(&effects),
        [Request::Compare { a: "route v7".into(), b: "lora-11".into(), metric: None }]
    );
    sample::settle(&mut app, effects);
    assert_eq!(
        asked(&press(&mut app, "x")),
        [Request::Compare { a: "lora-11".into(), b: "route v7".into(), metric: None }]
    );
}

#[test]
fn flips_filter_by_kind_and_open_as_rows() {
    let mut app = app();
    play(&mut app, "5 down enter");
    assert_eq!(app.board.flips().len(), 15);
    play(&mut app, "f");
    assert_eq!(app.board.flips().len(), 3);
    play(&mut app, "f f f");
    assert_eq!(app.board.flips().len(), 15);
    play(&mut app, "f r");
    assert_eq!((app.screen, app.strata.window.total), (Screen::Strata, 3));
}

#[test]
fn the_palette_runs_an_action_of_another_screen() {
    let mut app = app();
    press(&mut app, "1 :");
    type_text(&mut app, "logarithmic");
    app.update(Message::Key("down".parse().unwrap()), NOW_MS);
    press(&mut app, "enter");
    assert_eq!(app.screen, Screen::Train);
    assert!(app.train.log_scale);
}

#[test]
fn the_filter_of_the_runs_follows_while_typing_and_giving_up_brings_it_back() {
    let mut app = app();
    play(&mut app, "7 /");
    type_text(&mut app, "kind:eval");
    assert_eq!(app.listed_runs().len(), 1);
    press(&mut app, "esc");
    assert_eq!(app.listed_runs().len(), 4);
}

#[test]
fn time_is_counted_only_while_something_waits() {
    let mut app = app();
    play(&mut app, "4");
    assert_eq!(app.tick_ms(), None, "a curve moves by events, not by time");
    press(&mut app, "p");
    assert_eq!(app.tick_ms(), Some(1000));
    lost(&mut app);
    assert_eq!(app.tick_ms(), Some(1000));
    assert_eq!(App::new((80, 24), Signs::unicode(), 0).tick_ms(), Some(1000));
}

#[test]
fn long_waits_say_for_what_and_how_long() {
    let mut app = app_on_train();
    press(&mut app, "c");
    app.update(Message::Tick, NOW_MS + 3000);
    assert!(shown(&app).contains("waiting for the engine to checkpoint lora-12 (3s)"), "{}", shown(&app));
}

#[test]
fn a_new_configuration_is_used_at_once_and_its_mistakes_are_said() {
    let mut app = app();
    let mut settings = sample::settings("dark");
    settings.problems = vec!["keys.toml:2: unknown action `x`".into()];
    settings.themes.retain(|t| t.name == "dark");
    settings.themes[0] =
        crate::tui::theme::parse("dark", "[roles]\ngood = { fg = \"blue\" }\n", &|_| None).unwrap();
    app.update(Message::Settings(settings), NOW_MS);
    assert_eq!(app.look.theme.style(crate::tui::theme::Role::Good).fg, Some(ratatui::style::Color::Blue));
    assert!(shown(&app).contains("keys.toml:2: unknown action"));
    app.update(Message::Settings(sample::settings("dark")), NOW_MS);
    assert!(app.notices.is_empty(), "{:?}", app.notices);
}

#[test]
fn a_row_is_traced_through_the_stages_of_each_candidate() {
    let mut app = app();
    play(&mut app, "1 enter T");
    let text = shown(&app);
    for want in [
        "trace",
        "plan",
        "Which tool?",
        "asked again",
        "not readable: the answer is no call",
        "the tool answers",
        "refuse: skipped",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    let before = text.lines().find(|l| l.contains("left/right")).unwrap().to_owned();
    play(&mut app, "right");
    let after = shown(&app).lines().find(|l| l.contains("left/right")).unwrap().to_owned();
    assert_ne!(before, after, "another candidate's trace");
    play(&mut app, "esc");
    assert!(app.layers.is_empty());
    play(&mut app, "5 down enter");
    let asks = asked(&press(&mut app, "T"));
    assert!(matches!(&asks[..], [Request::Trace { .. }]), "{asks:?}");
}
