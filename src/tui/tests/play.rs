//! Screen 6: questions, answers as they come, what is said of them.

use super::{drawn, play, press, shown, text_of, type_text};
use crate::domain::api::{Decision, Failure, FromEngine, Push, Request, Response, ToEngine};
use crate::domain::outcome::StageOutcome;
use crate::domain::play::{Feedback, PlayAsk, PlayBody, PlayEvent, PlayInput, Playing, SAID};
use crate::tui::app::{App, Effect, Message, Mood, Screen};
use crate::tui::sample::{self, NOW_MS};
use crate::tui::screens;
use crate::tui::screens::play::answer::Standing;
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Surface as _};

fn app(size: (u16, u16)) -> App {
    let mut app = sample::app(size, "dark", Signs::unicode());
    play(&mut app, "6");
    app
}

fn asks(effects: &[Effect]) -> Vec<(u64, Request)> {
    let ask = |e: &Effect| match e {
        Effect::Send(ToEngine::Ask { tag, request }) => Some((*tag, request.clone())),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

fn questions(effects: &[Effect]) -> Vec<PlayAsk> {
    let question =
        |(_, request)| if let Request::Play { question, .. } = request { Some(question) } else { None };
    asks(effects).into_iter().filter_map(question).collect()
}

fn decisions(effects: &[Effect]) -> Vec<Feedback> {
    let said = |(_, request)| match request {
        Request::Decide { decision: Decision::Feedback(said) } => Some(said),
        _ => None,
    };
    asks(effects).into_iter().filter_map(said).collect()
}

fn news(app: &mut App, id: u64, body: PlayBody) {
    let push = Push::Play { events: vec![PlayEvent { id, body }] };
    app.update(Message::Engine(FromEngine::Push { push }), NOW_MS + 50);
}

fn answer(app: &mut App, tag: u64, response: Response) {
    let effects = app.update(Message::Engine(FromEngine::Answer { tag, response }), NOW_MS);
    sample::settle(app, effects);
}

/// Type an input and ask it, without anybody answering.
fn ask(app: &mut App, text: &str) -> Vec<Effect> {
    press(app, "i");
    type_text(app, text);
    press(app, "enter")
}

fn typed(text: &str) -> PlayInput {
    PlayInput::Typed { text: text.into() }
}

#[test]
fn an_input_goes_to_the_baseline_and_the_best_candidate() {
    let mut app = app((120, 40));
    let asked = questions(&ask(&mut app, "where is\nmy card?"));
    let to: Vec<_> = asked.iter().map(|q| q.candidate.as_deref()).collect();
    assert_eq!(to, [Some("base"), Some("lora-12")]);
    assert!(asked.iter().all(|q| q.input == typed("where is\nmy card?") && q.sample == 0), "{asked:?}");
    assert_ne!(asked[0].id, asked[1].id);
    // Asked again while the first are under way: those are broken off.
    let effects = press(&mut app, "r");
    let cancelled: Vec<u64> = asks(&effects)
        .into_iter()
        .filter_map(|(_, r)| if let Request::PlayCancel { id } = r { Some(id) } else { None })
        .collect();
    assert_eq!(cancelled, [asked[0].id, asked[1].id]);
    assert!(questions(&effects).iter().all(|q| q.sample == 1), "another drawing");
    assert!(questions(&ask(&mut app, "other")).iter().all(|q| q.sample == 0));
}

#[test]
fn a_row_is_asked_from_the_other_screens_and_leads_back_to_them() {
    let row = |id: &str| PlayInput::Row { id: id.into() };
    let sent = |app: &mut App, keys: &str| questions(&press(app, keys)).into_iter().map(|q| q.input).next();
    let mut app = app((120, 40));
    play(&mut app, "1 enter down");
    assert_eq!(sent(&mut app, "a"), Some(row("00001")));
    assert_eq!(app.screen, Screen::Play);
    assert_eq!(sent(&mut app, "]"), Some(row("00002")));
    assert_eq!(sent(&mut app, "["), Some(row("00001")));
    assert_eq!(sent(&mut app, "["), Some(row("00000")));
    assert_eq!(sent(&mut app, "["), None);
    play(&mut app, "o");
    assert_eq!((app.screen, app.strata.window.rows.len()), (Screen::Strata, 1));
    // Of a comparison, those that are compared.
    play(&mut app, "5 home down enter down");
    let flip = app.board.flips()[1].row.clone();
    let asked = questions(&press(&mut app, "a"));
    let to: Vec<_> = asked.iter().map(|q| (q.candidate.as_deref(), q.input.clone())).collect();
    assert_eq!(to, [(Some("base"), row(&flip)), (Some("route v7"), row(&flip))]);
    play(&mut app, "5 esc esc end a");
    assert_eq!(app.player(1), Some(Some("lora-12".into())));
}

#[test]
fn who_answers_is_chosen_from_a_list_or_typed() {
    let mut app = app((120, 40));
    ask(&mut app, "hello");
    press(&mut app, "right c");
    insta::assert_snapshot!("layer_players", shown(&app));
    for (typing, who) in [("route", Some(Some("route v7"))), ("stands", Some(None)), ("nobody", None)] {
        press(&mut app, "esc c");
        type_text(&mut app, typing);
        let asked = questions(&press(&mut app, "enter"));
        assert_eq!(app.player(1), who.map(|w| w.map(String::from)), "{typing}");
        // What was asked is asked of the new one at once.
        assert_eq!(asked.len(), usize::from(who.is_some()), "{typing}");
    }
    press(&mut app, "c");
    type_text(&mut app, "another");
    press(&mut app, "enter");
    type_text(&mut app, "lora-11@200");
    assert_eq!(questions(&press(&mut app, "enter"))[0].candidate.as_deref(), Some("lora-11@200"));
    press(&mut app, "x");
    assert_eq!((app.player(0), app.player(1)), (Some(Some("lora-11@200".into())), app.player(1)));
}

#[test]
fn temperature_and_length_hold_from_the_next_question_on() {
    let mut app = app((120, 40));
    press(&mut app, "s");
    type_text(&mut app, "hot");
    press(&mut app, "enter");
    insta::assert_snapshot!("layer_play_settings_refused", shown(&app));
    press(&mut app, "ctrl-u");
    type_text(&mut app, "0.7");
    press(&mut app, "down");
    type_text(&mut app, "32");
    press(&mut app, "enter");
    let asked = questions(&ask(&mut app, "hello"));
    assert!(asked.iter().all(|q| q.temperature == Some(0.7) && q.max_tokens == Some(32)), "{asked:?}");
    assert!(shown(&app).contains("temperature 0.7"));
    press(&mut app, "s ctrl-u down ctrl-u enter");
    let asked = questions(&press(&mut app, "r"));
    assert!(asked.iter().all(|q| q.temperature.is_none() && q.max_tokens.is_none()));
}

#[test]
fn answers_are_shown_as_they_come() {
    for size in [(80, 24), (120, 40)] {
        let mut app = app(size);
        insta::assert_snapshot!(format!("play_empty_{}x{}", size.0, size.1), shown(&app));
        let effects = ask(&mut app, "I ordered a card.\nWhere is it?");
        let [(a, question), (b, _)] = &asks(&effects)[..] else { panic!("{effects:?}") };
        let Request::Play { question, .. } = question else { panic!() };
        let stages = vec!["intent".to_owned(), "solve".to_owned(), "say".to_owned()];
        let playing =
            Playing { id: question.id, candidate: "base".into(), stages, ..sample::playing(question) };
        answer(&mut app, *a, Response::Playing { playing });
        let prompt = |stage: &str| PlayBody::Prompt { stage: stage.into(), prompt: "Hm".into() };
        let piece = |text: &str| PlayBody::Piece { stage: "solve".into(), text: text.into() };
        news(&mut app, question.id, prompt("intent"));
        let outcome = StageOutcome {
            stage: "intent".into(),
            output: "delivery".into(),
            tokens_in: 40,
            tokens_out: 3,
            ttft_ms: 12.0,
            ms: 20.0,
            format_ok: true,
            ..StageOutcome::default()
        };
        news(&mut app, question.id, PlayBody::Stage { outcome, tokens: vec![] });
        news(&mut app, question.id, prompt("solve"));
        news(&mut app, question.id, piece("It was sent on Monday and "));
        news(&mut app, question.id, piece("comes tomor"));
        // Of a question that nobody asked.
        news(&mut app, 999, piece("no"));
        let error = Failure::new(2, "no candidate `lora-12`");
        answer(&mut app, *b, Response::Error { error });
        insta::assert_snapshot!(format!("play_streaming_{}x{}", size.0, size.1), shown(&app));
        news(&mut app, question.id, PlayBody::Waiting { why: "the model `base` is loaded".into() });
        assert!(shown(&app).contains("the model `base` is loaded"), "{}", shown(&app));
        news(&mut app, question.id, PlayBody::Failed { error: "the worker ended in mid-answer".into() });
        insta::assert_snapshot!(format!("play_failed_{}x{}", size.0, size.1), shown(&app));
    }
    // Too low for two panes: one of them, and a key for the other.
    let mut app = sample::app((80, 17), "dark", Signs::unicode());
    play(&mut app, "1 down enter a right");
    insta::assert_snapshot!("play_low_80x17", shown(&app));
}

#[test]
fn what_is_said_of_an_answer_reaches_the_engine_and_the_screen() {
    let row = "00000";
    let mut app = app((120, 40));
    play(&mut app, "1 enter a");
    let base = Feedback {
        row: Some(row.into()),
        input: sample::row(row).input,
        candidate: "base".into(),
        output: "card_lost".into(),
        ..Feedback::default()
    };
    for (keys, typed, good, edit) in [
        ("+", "", Some(true), None),
        ("+", "", None, None),
        ("minus", "", Some(false), None),
        ("e ctrl-u", "a new card\nis sent", Some(false), Some("a new card\nis sent")),
        ("g", "refund", Some(false), Some("refund")),
    ] {
        let mut effects = Vec::new();
        for key in keys.split_whitespace() {
            effects = press(&mut app, key);
        }
        if !typed.is_empty() {
            type_text(&mut app, typed);
            effects = press(&mut app, "enter");
        }
        let want = Feedback { good, edit: edit.map(String::from), ..base.clone() };
        assert_eq!(decisions(&effects), [want], "{keys} {typed}");
        sample::settle(&mut app, effects);
    }
    for size in [(80, 24), (120, 40)] {
        app.update(Message::Resize(size.0, size.1), NOW_MS);
        insta::assert_snapshot!(format!("play_said_{}x{}", size.0, size.1), shown(&app));
    }
    // Both were asked the same: the gold is that of both.
    assert!(app.play.sides.iter().all(|s| s.answer.as_ref().unwrap().gold.as_deref() == Some("refund")));
    // Nothing to say while it is written.
    ask(&mut app, "hello");
    for keys in ["+", "minus", "e", "g"] {
        assert_eq!(press(&mut app, keys), [], "{keys}");
        assert!(app.layers.is_empty() && app.notices.last().unwrap().mood == Mood::Plain, "{keys}");
    }
}

#[test]
fn a_label_is_chosen_as_gold_from_a_list() {
    let mut app = app((80, 24));
    play(&mut app, "1 enter a g");
    insta::assert_snapshot!("layer_gold_of_answer", shown(&app));
}

#[test]
fn what_was_said_is_taken_back_on_the_screen_too() {
    let mut app = app((120, 40));
    play(&mut app, "1 enter a + minus");
    let good = |app: &App| app.play.sides[0].answer.as_ref().unwrap().good;
    assert_eq!(good(&app), Some(false));
    for (message, want) in [
        (format!("took back: {SAID}"), Some(true)),
        // Something else that was decided.
        ("took back: note on row 3".to_owned(), Some(true)),
        (format!("took back: {SAID}"), None),
        ("there is nothing to undo".to_owned(), None),
    ] {
        let (tag, _) = asks(&press(&mut app, "u"))[0].clone();
        answer(&mut app, tag, Response::Done { message: message.clone() });
        assert_eq!(good(&app), want, "{message}");
    }
    // An edit is the gold as long as it stands.
    let gold = |app: &App| app.play.sides.each_ref().map(|s| s.answer.as_ref().unwrap().gold.clone());
    let before = gold(&app);
    let id = app.play.sides[0].answer.as_ref().unwrap().id;
    app.edited(id, "zzzz".into());
    app.play.kept(id);
    assert_eq!(gold(&app)[0].as_deref(), Some("zzzz"));
    // The edit's own request goes out before the one that takes it back.
    let (tag, _) = asks(&press(&mut app, "u")).pop().unwrap();
    answer(&mut app, tag, Response::Done { message: format!("took back: {SAID}") });
    assert_eq!(gold(&app), before);
    let (tag, _) = asks(&press(&mut app, "+"))[0].clone();
    let error = Failure::new(1, "the disk is full");
    answer(&mut app, tag, Response::Error { error });
    assert_eq!(good(&app), None, "what could not be kept is not shown");
}

#[test]
fn every_token_can_be_looked_into() {
    for (size, signs) in [((80, 24), Signs::unicode()), ((120, 40), Signs::ascii())] {
        let mut app = sample::app(size, "mono", signs);
        play(&mut app, "1 enter a w");
        insta::assert_snapshot!(format!("layer_why_{}x{}", size.0, size.1), shown(&app));
        press(&mut app, "right right right right");
        assert!(shown(&app).contains("token 3 of 3"), "{}", shown(&app));
        press(&mut app, "left down pgdn end home");
        assert!(shown(&app).contains("token 2 of 3"));
        press(&mut app, "esc");
        assert!(app.layers.is_empty());
    }
    let mut app = app((80, 24));
    press(&mut app, "w");
    assert!(app.layers.is_empty() && shown(&app).contains("no answer here to look into yet"));
}

#[test]
fn an_input_of_many_lines_is_written_pasted_and_found_again() {
    let mut app = app((80, 24));
    // A paste on the screen itself opens the box.
    type_text(&mut app, "first line\r\nsecond \u{1b}[31mline");
    press(&mut app, "ctrl-j");
    type_text(
        &mut app,
        "third line that is longer than the terminal is wide, so that it goes on in a row of its own",
    );
    insta::assert_snapshot!("layer_compose_80x24", shown(&app));
    press(&mut app, "enter");
    ask(&mut app, "two");
    press(&mut app, "i up up");
    let asked = questions(&press(&mut app, "enter"));
    assert!(
        matches!(&asked[0].input, PlayInput::Typed { text } if text.starts_with("first line\nsecond line\nthird"))
    );
    assert_eq!(questions(&press(&mut app, "i enter")), [], "nothing is asked with nothing");
}

#[test]
fn a_lost_connection_ends_the_answers_under_way() {
    let mut app = app((120, 40));
    ask(&mut app, "hello");
    app.update(Message::Engine(FromEngine::Lost { reason: "gone".into() }), NOW_MS);
    for side in &app.play.sides {
        let answer = side.answer.as_ref().unwrap();
        assert!(matches!(&answer.standing, Standing::Failed(why) if why.contains("lost")), "{answer:?}");
    }
    assert_eq!(questions(&press(&mut app, "r")), []);
    assert!(shown(&app).contains("no connection"), "{}", shown(&app));
}

#[test]
fn breaking_off_asks_the_engine_once_for_each_open_answer() {
    let mut app = app((120, 40));
    let asked = questions(&ask(&mut app, "hello"));
    news(&mut app, asked[0].id, PlayBody::Done { output: "done".into() });
    let cancels: Vec<Request> = asks(&press(&mut app, "k")).into_iter().map(|(_, r)| r).collect();
    assert_eq!(cancels, [Request::PlayCancel { id: asked[1].id }]);
    news(&mut app, asked[1].id, PlayBody::Failed { error: "broken off".into() });
    assert_eq!(press(&mut app, "k"), []);
}

#[test]
fn a_frame_of_a_streaming_answer_costs_some_hundred_bytes() {
    for size in [(80, 24), (120, 40)] {
        let mut app = app(size);
        let asked = questions(&ask(&mut app, "hello"));
        let mut frames = Frames::on(std::io::sink(), size.0, size.1);
        frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
        let start = frames.written();
        let (mut most, count) = (0, 400);
        for i in 0..count {
            for question in &asked {
                let text = if i % 17 == 16 { "\n".to_owned() } else { format!("word{i} ") };
                news(&mut app, question.id, PlayBody::Piece { stage: "say".into(), text });
            }
            let before = frames.written();
            frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
            most = most.max(frames.written() - before);
        }
        let mean = (frames.written() - start) / count;
        assert!(mean < 300, "{size:?}: {mean} bytes a frame");
        assert!(most < 8_000, "{size:?}: a frame of {most} bytes");
        // The end is what is seen.
        assert!(text_of(&drawn(&app)).contains("word398"), "{}", shown(&app));
    }
}

#[test]
fn an_answer_is_scrolled_and_followed_again_at_its_end() {
    let mut app = app((80, 24));
    let asked = questions(&ask(&mut app, "hello"));
    let lines = |from: usize, to: usize| (from..to).map(|i| format!("line {i}\n")).collect::<String>();
    let piece = |text: String| PlayBody::Piece { stage: "say".into(), text };
    news(&mut app, asked[0].id, piece(lines(0, 40)));
    press(&mut app, "home");
    assert!(shown(&app).contains("line 0") && !shown(&app).contains("line 39"));
    news(&mut app, asked[0].id, piece(lines(40, 50)));
    assert!(shown(&app).contains("line 0"), "stays where it is read");
    press(&mut app, "end");
    news(&mut app, asked[0].id, piece(lines(50, 60)));
    assert!(shown(&app).contains("line 59"));
}
