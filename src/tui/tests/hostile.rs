//! Text that would control the terminal, in every place where text from data, models or files is shown.

use super::{drawn, play, sample};
use crate::domain::api::{Failure, FromEngine, Push, Response, RowDetail};
use crate::domain::event::{Event, EventBody};
use crate::domain::example::{Example, ExamplePage};
use crate::domain::play::{Feedback, PlayBody, PlayEvent};
use crate::domain::run::{RunKind, RunState};
use crate::tui::app::{App, Message};
use crate::tui::sample::{prompts, trajectories};
use crate::tui::signs::Signs;

const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202E}evil\u{200B}\u{8}\r\n\tline\u{1b}P+q\u{1b}\\日本\u{0301}\u{0301}\u{0301}\u{0301}\u{0301}";

/// Puts the text into every string of a value, keys and ids included.
fn poison<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    fn walk(value: &mut serde_json::Value) {
        use serde_json::Value as V;
        match value {
            // Names of variants are not text.
            V::String(s)
                if !["train", "dev", "eval", "reserve", "fixed", "regressed", "churned"]
                    .contains(&s.as_str()) =>
            {
                s.push_str(EVIL);
            }
            V::Array(items) => items.iter_mut().for_each(walk),
            V::Object(map) => map
                .iter_mut()
                .filter(|(k, _)| {
                    ![
                        "ranking",
                        "order",
                        "form",
                        "source",
                        "kind",
                        "state",
                        "push",
                        "verdict",
                        "says",
                        "unit",
                        "direction",
                        "fate",
                        "news",
                        "fell",
                        "method",
                    ]
                    .contains(&k.as_str())
                })
                .for_each(|(_, v)| walk(v)),
            _ => {}
        }
    }
    let mut json = serde_json::to_value(value).unwrap();
    walk(&mut json);
    serde_json::from_value(json).unwrap()
}

fn said() -> Feedback {
    poison(&Feedback { edit: Some(String::new()), good: Some(true), ..Feedback::default() })
}

/// An event with evil text in it, whose name stays.
fn poison_event(event: &PlayEvent) -> PlayEvent {
    let evil = |text: &str| format!("{text}{EVIL}");
    let body = match &event.body {
        PlayBody::Prompt { stage, prompt } => PlayBody::Prompt { stage: evil(stage), prompt: evil(prompt) },
        PlayBody::Piece { stage, text } => PlayBody::Piece { stage: evil(stage), text: evil(text) },
        PlayBody::Stage { outcome, tokens } => {
            PlayBody::Stage { outcome: poison(outcome), tokens: tokens.iter().map(poison).collect() }
        }
        PlayBody::Done { output } => PlayBody::Done { output: evil(output) },
        other => other.clone(),
    };
    PlayEvent { id: event.id, body }
}

/// An example whose id stays, so that it is found again; words without end and characters of odd widths in its texts.
fn hostile_example(example: &Example) -> Example {
    let word = "W".repeat(5_000);
    let odd = "日本語のとても長い言葉e\u{301}\u{301}👩‍👩‍👧‍👦ﷺ".repeat(40);
    let evil = |text: &str| format!("{text}{EVIL}{word}{odd}");
    let mut made = Example { id: example.id.clone(), ..poison(example) };
    made.input = evil(&example.input);
    made.answer = evil(&example.answer);
    made.stratum = Some(evil("stratum"));
    made
}

fn hostile_page(page: &ExamplePage) -> ExamplePage {
    let examples = page.examples.iter().map(hostile_example).collect();
    ExamplePage { examples, ..page.clone() }
}

fn push(app: &mut App, push: Push) {
    let effects = app.update(Message::Engine(FromEngine::Push { push }), sample::NOW_MS);
    answer_with_evil(app, effects);
}

/// Answers questions for rows with poisoned rows, without end being a danger: each answer is for one question.
fn answer_with_evil(app: &mut App, effects: Vec<crate::tui::app::Effect>) {
    use crate::domain::api::{Request, ToEngine};
    use crate::tui::app::Effect;
    let mut queue = effects;
    let mut left = 50;
    while let (Some(effect), true) = (queue.pop(), left > 0) {
        left -= 1;
        let Effect::Send(ToEngine::Ask { tag, request }) = effect else { continue };
        if let Request::Play { question, .. } = &request {
            let playing = poison(&sample::playing(question));
            let answer = FromEngine::Answer { tag, response: Response::Playing { playing } };
            app.update(Message::Engine(answer), sample::NOW_MS);
            let mut events: Vec<_> = sample::play_events(question).iter().map(poison_event).collect();
            let waiting = PlayBody::Waiting { why: EVIL.into() };
            events.insert(0, PlayEvent { id: question.id, body: waiting });
            for event in events {
                let push = Push::Play { events: vec![event] };
                app.update(Message::Engine(FromEngine::Push { push }), sample::NOW_MS);
                assert_tame(app, "an answer");
            }
            let push = Push::Play {
                events: vec![PlayEvent { id: question.id, body: PlayBody::Failed { error: EVIL.into() } }],
            };
            app.update(Message::Engine(FromEngine::Push { push }), sample::NOW_MS);
            continue;
        }
        let response = match &request {
            Request::Row { id } => Response::Row {
                row: RowDetail { id: id.clone(), feedback: vec![said()], ..poison(&sample::row("00003")) },
            },
            Request::Rows { query } => Response::Rows { page: poison(&sample::rows(query)) },
            Request::Compare { a, b, .. } => {
                Response::Compare { comparison: poison(&sample::comparison(a, b)) }
            }
            Request::PromptTree { run } => {
                let tame = prompts::tree(run.as_deref());
                let mut tree = poison(&tame);
                tree.run.clone_from(&tame.run);
                for (evil, tame) in tree.versions.iter_mut().zip(tame.versions) {
                    (evil.version.id, evil.version.parents) = (tame.version.id, tame.version.parents);
                }
                Response::PromptTree { tree }
            }
            Request::PromptVersion { of } => {
                let tame = prompts::found(of.as_deref());
                let mut found = Box::new(poison(&tame));
                found.run.clone_from(&tame.run);
                found.version.id.clone_from(&tame.version.id);
                Response::PromptVersion { found }
            }
            Request::TryPrompts { slice, .. } => {
                let tame = prompts::trial(slice);
                let mut trial = Box::new(poison(&tame));
                trial.version.clone_from(&tame.version);
                Response::Tried { trial }
            }
            // What identifies a text stays, so that it is found again.
            Request::Grown { grown } => {
                let Response::Grown { page: tame } = sample::respond(&request) else { continue };
                let mut page = poison(&tame);
                page.run.clone_from(&grown.run);
                for made in &mut page.rows {
                    made.one.text.push_str(&"W".repeat(5_000));
                    made.one.why.push_str(&"日本語のとても長い言葉e\u{301}👩‍👩‍👧‍👦ﷺ".repeat(40));
                }
                Response::Grown { page }
            }
            Request::Trace { .. } => poison(&sample::respond(&request)),
            Request::Examples { query, .. } => {
                Response::Examples { page: hostile_page(&trajectories::examples(query)) }
            }
            Request::SearchExamples { input, .. } => {
                let mut found = trajectories::found(input);
                for (example, _) in &mut found.hits {
                    *example = hostile_example(example);
                }
                Response::FoundExamples { found }
            }
            Request::Trajectory { run } => {
                let tame = trajectories::view(run);
                let mut view = Box::new(poison(&tame));
                view.run.clone_from(&tame.run);
                Response::Trajectory { view }
            }
            Request::Detail { candidate } => {
                Response::Detail { detail: Box::new(poison(&sample::detail(candidate))) }
            }
            other => sample::respond(other),
        };
        queue.extend(app.update(Message::Engine(FromEngine::Answer { tag, response }), sample::NOW_MS));
    }
}

fn press(app: &mut App, keys: &str) {
    for key in keys.split_whitespace() {
        let effects = super::press(app, key);
        answer_with_evil(app, effects);
    }
}

fn assert_tame(app: &App, at: &str) {
    let buf = drawn(app);
    for y in 0..buf.area.height {
        for x in 0..buf.area.width {
            let symbol = buf[(x, y)].symbol();
            let bad = symbol.chars().find(|c| c.is_control() || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'));
            assert_eq!(bad, None, "{at} ({x}, {y}): {symbol:?}");
            assert!(!symbol.contains("owned"), "{at}");
        }
    }
    let text = super::text_of(&buf);
    assert!(!text.contains("[2J") && !text.contains("0;owned") && !text.contains("31m"), "{at}: {text}");
}

#[test]
fn no_text_from_outside_controls_the_terminal() {
    for (size, signs) in
        [((80, 24), Signs::unicode()), ((200, 60), Signs::unicode()), ((120, 40), Signs::ascii())]
    {
        let mut app = sample::app(size, "dark", signs);
        let mut status = poison(&sample::status());
        status.notices = vec![EVIL.into()];
        let effects = app.update(Message::Engine(FromEngine::Connected { status }), sample::NOW_MS);
        answer_with_evil(&mut app, effects);
        push(&mut app, Push::Strata { view: poison(&sample::strata()) });
        push(&mut app, Push::Board { board: poison(&sample::board()) });
        let mut runs: Vec<_> = sample::runs().iter().map(poison).collect();
        for run in &mut runs {
            run.message = Some(EVIL.into());
        }
        let shown = runs[0].run.clone();
        push(&mut app, Push::Runs { runs });
        let mut events: Vec<Event> = sample::training(300, 1000).iter().map(poison).collect();
        let seq = events.len() as u64 + 1;
        events.push(Event { seq, t_ms: 0, body: EventBody::Warning { message: EVIL.into() } });
        push(&mut app, Push::Events { run: shown, events });
        let run = poison(&prompts::run());
        let of = run.run.clone();
        push(&mut app, Push::RunChanged { run });
        let events = prompts::events().iter().map(poison).collect();
        push(&mut app, Push::Events { run: of, events });
        for keys in [
            "1",
            "down",
            "enter",
            "down",
            "enter",
            "T",
            "pgdn",
            "esc",
            "g",
            "esc",
            "n",
            "esc",
            "esc",
            "esc",
            "right right right",
            "4",
            "w",
            "w",
            "o",
            "enter",
            "r",
            "esc",
            "t",
            "esc",
            "k",
            "n",
            "5",
            "down",
            "enter",
            "s",
            "s",
            "enter",
            "esc",
            "esc esc m",
            "pgdn",
            "esc",
            "n",
            "esc",
            "6",
            "c",
            "esc",
            "[",
            "1 a",
            "w",
            "right right",
            "down",
            "esc",
            "g",
            "esc",
            "e",
            "esc",
            "+",
            "2",
            "w",
            "w",
            "down enter",
            "2 w",
            "w",
            "t",
            "esc",
            "a",
            "esc",
            "n",
            "esc",
            "r",
            "esc",
            "v",
            "w w w",
            "7",
            "down",
            "right",
            "space",
            "left",
            "down",
            "space",
            "d",
            "esc",
            "?",
            "esc",
            ":",
        ] {
            press(&mut app, keys);
            assert_tame(&app, keys);
        }
        press(&mut app, "esc");
        let mut failed = sample::run("x", RunKind::Train, RunState::Running);
        push(&mut app, Push::RunChanged { run: failed.clone() });
        failed.state = RunState::Failed;
        failed.message = Some(EVIL.into());
        push(&mut app, Push::RunChanged { run: failed });
        assert_tame(&app, "last words");
        let effects = super::press(&mut app, "u");
        for effect in effects {
            if let crate::tui::app::Effect::Send(crate::domain::api::ToEngine::Ask { tag, .. }) = effect {
                let response = Response::Error { error: Failure::new(1, EVIL) };
                app.update(Message::Engine(FromEngine::Answer { tag, response }), sample::NOW_MS);
            }
        }
        assert_tame(&app, "a failure");
        app.update(Message::Engine(FromEngine::Lost { reason: EVIL.into() }), sample::NOW_MS);
        assert_tame(&app, "a lost connection");
    }
}

/// Screen 3: the list, an example, what is tried, the run; every pane at every size, and the borders stay where they are.
#[test]
fn no_example_controls_the_terminal_or_pushes_borders_away() {
    for (size, signs) in
        [((80, 24), Signs::unicode()), ((200, 60), Signs::unicode()), ((120, 40), Signs::ascii())]
    {
        for state in [RunState::Running, RunState::Done] {
            let mut app = sample::app(size, "dark", signs.clone());
            let mut run = trajectories::run(state);
            run.message = Some(EVIL.into());
            let of = run.run.clone();
            push(&mut app, Push::RunChanged { run });
            press(&mut app, "3");
            let mut events: Vec<Event> = trajectories::events().iter().map(poison).collect();
            let seq = events.len() as u64 + 1;
            events.push(Event { seq, t_ms: 0, body: EventBody::Warning { message: EVIL.into() } });
            push(&mut app, Push::Events { run: of, events });
            for keys in [
                "down", "enter", "pgdn", "esc", "w", "w", "i", "m", "enter", "esc", "down", "enter", "esc",
                "w", "o", "o", "space", "down", "space", "t", "esc", "r", "esc", "f", "esc", "L", "esc", "x",
                "e", "esc",
            ] {
                press(&mut app, keys);
                assert_tame(&app, keys);
            }
            press(&mut app, "esc esc 3");
            let buf = drawn(&app);
            let edge = buf.area.width - 1;
            let borders: Vec<String> =
                (2..buf.area.height - 3).map(|y| buf[(edge, y)].symbol().to_owned()).collect();
            let lined =
                borders.iter().filter(|s| ["│", "┐", "┘", "|", "+", "┤"].contains(&s.as_str())).count();
            assert_eq!(lined, borders.len(), "{size:?}: {borders:?}");
        }
    }
}

#[test]
fn wide_characters_do_not_push_borders_away() {
    let mut app = sample::app((80, 24), "dark", Signs::unicode());
    let mut view = sample::strata();
    view.strata[0].name = "日本語の分類がとても長い名前であること、そして幅は二倍".into();
    push(&mut app, Push::Strata { view });
    play(&mut app, "1");
    let buf = drawn(&app);
    for y in 1..buf.area.height - 1 {
        assert!(["│", "┐", "┘"].contains(&buf[(79, y)].symbol()), "row {y}: {:?}", buf[(79, y)].symbol());
    }
}

#[test]
fn no_made_text_controls_the_terminal_or_pushes_borders_away() {
    for (size, signs) in
        [((80, 24), Signs::unicode()), ((200, 60), Signs::unicode()), ((120, 40), Signs::ascii())]
    {
        let mut app = sample::app(size, "dark", signs);
        let mut run = sample::run("grow-1", RunKind::Grow, RunState::Running);
        run.message = Some(EVIL.into());
        push(&mut app, Push::RunChanged { run });
        for keys in [
            "=", "down", "enter", "pgdn", "esc", "space", "f", "f", "end", "w", "down", "esc", "A", "esc",
            "b", "esc", "r", "enter",
        ] {
            press(&mut app, keys);
            assert_tame(&app, keys);
        }
        let buf = drawn(&app);
        let edge = buf.area.width - 1;
        let borders: Vec<String> =
            (2..buf.area.height - 4).map(|y| buf[(edge, y)].symbol().to_owned()).collect();
        let lined = borders.iter().filter(|s| ["│", "┐", "┘", "|", "+", "┤"].contains(&s.as_str())).count();
        assert_eq!(lined, borders.len(), "{size:?}: {borders:?}");
    }
}
