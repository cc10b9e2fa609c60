//! The event loop with a scripted person and a sample engine: no terminal, no socket.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;

use super::sample;
use crate::domain::api::{FromEngine, ToEngine};
use crate::tui::app::{App, Screen};
use crate::tui::event_loop::{Cause, Pacer, Signal, Sources, run};
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Input};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Plays keys into the loop, one after the engine has nothing more to say to the one before.
fn played(keys: &str) -> (App, Vec<u8>) {
    let (to_engine, mut asks) = unbounded_channel();
    let (news, from_engine) = unbounded_channel();
    let (_keep, settings) = unbounded_channel();
    let keys: Vec<Input> = keys.split_whitespace().map(|k| Input::Key(k.parse().unwrap())).collect();
    // The sample engine: connects, then answers everything.
    let engine = async move {
        let _ = news.send(FromEngine::Connected { status: sample::status() });
        while let Some(ask) = asks.recv().await {
            let answer = match ask {
                ToEngine::Ask { tag, request } => {
                    FromEngine::Answer { tag, response: sample::respond(&request) }
                }
                ToEngine::Follow { view } => FromEngine::Push { push: sample::snapshot(&view) },
                ToEngine::Unfollow { .. } | ToEngine::Trust { .. } => continue,
            };
            let _ = news.send(answer);
        }
    };
    let inputs = Box::pin(stream::iter(keys).then(|key| async move {
        // The engine talks while the person thinks.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        key
    }));
    let mut bytes = Vec::new();
    let app = runtime().block_on(async {
        let mut frames = Frames::on(&mut bytes, 80, 24);
        let sources =
            Sources { signals: Box::pin(stream::pending::<Signal>()), inputs, from_engine, settings };
        let app = App::new((80, 24), Signs::unicode(), sample::NOW_MS);
        let screens = run(app, &mut frames, sources, &to_engine);
        tokio::select! {
            app = screens => app.unwrap(),
            () = engine => panic!("the engine ended first"),
        }
    });
    (app, bytes)
}

#[test]
fn a_person_opens_the_curve_and_leaves() {
    let (app, bytes) = played("4 left left enter 5 q");
    assert_eq!(app.screen, Screen::Board);
    assert!(app.connected() && app.series["lora-12"].steps.len() == 612);
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("\u{1b}[?2026h").count(), text.matches("\u{1b}[?2026l").count());
    assert!(text.contains("connecting"), "the first frame came before the engine");
}

#[test]
fn signals_come_before_input() {
    let (to_engine, _asks) = unbounded_channel();
    let (_news, from_engine) = unbounded_channel();
    let (_keep, settings) = unbounded_channel();
    let app = runtime().block_on(async {
        let mut frames = Frames::on(std::io::sink(), 80, 24);
        let sources = Sources {
            signals: stream::iter([Signal::Continued, Signal::Leave]),
            inputs: stream::iter(std::iter::repeat_n(Input::Key("4".parse().unwrap()), 100)),
            from_engine,
            settings,
        };
        let app = App::new((80, 24), Signs::unicode(), 0);
        Box::pin(run(app, &mut frames, sources, &to_engine)).await.unwrap()
    });
    assert_eq!(app.screen, Screen::Strata, "no key was looked at after the signal");
}

#[test]
fn a_terminal_or_an_engine_that_goes_away_does_not_hang_the_loop() {
    let (to_engine, asks) = unbounded_channel();
    let (news, from_engine) = unbounded_channel();
    let (keep, settings) = unbounded_channel();
    drop((news, asks, keep));
    let app = runtime().block_on(async {
        let mut frames = Frames::on(std::io::sink(), 80, 24);
        let inputs = Box::pin(stream::iter([Input::Resize(100, 30), Input::End]).then(|input| async move {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            input
        }));
        let sources = Sources { signals: stream::pending::<Signal>(), inputs, from_engine, settings };
        let app = App::new((80, 24), Signs::unicode(), 0);
        Box::pin(run(app, &mut frames, sources, &to_engine)).await.unwrap()
    });
    assert_eq!(app.size, (100, 30));
    assert!(!app.connected());
}

#[test]
fn frames_are_paced_by_what_happened() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut pacer = Pacer::new();
    assert_eq!(pacer.due(), None, "nothing happened, nothing is drawn");
    pacer.changed(Cause::Run, start);
    assert_eq!(pacer.due(), Some(start), "the first at once");
    pacer.drawn(start);
    assert_eq!(pacer.due(), None);
    pacer.changed(Cause::Run, start + ms(5));
    assert_eq!(pacer.due(), Some(start + ms(100)));
    pacer.changed(Cause::Input, start + ms(6));
    assert_eq!(pacer.due(), Some(start + ms(8)), "a person does not wait for a run's pace");
    pacer.changed(Cause::Run, start + ms(7));
    assert_eq!(pacer.due(), Some(start + ms(8)));
    pacer.drawn(start + ms(8));
    pacer.changed(Cause::Input, start + ms(500));
    assert_eq!(pacer.due(), Some(start + ms(500)), "after a rest at once");
}
