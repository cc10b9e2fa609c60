//! What the screens send to the terminal, in bytes.

use super::{play, sample};
use crate::domain::api::{FromEngine, Push};
use crate::tui::app::Message;
use crate::tui::screens;
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Surface as _};

/// Bytes of the first frame, and the largest of a hundred ticks of a running curve.
fn bytes(size: (u16, u16), keys: &str) -> (u64, u64) {
    let mut app = sample::app(size, "dark", Signs::unicode());
    play(&mut app, keys);
    let mut frames = Frames::on(std::io::sink(), size.0, size.1);
    frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
    let first = frames.written();
    let mut most = 0;
    let mut last = app.series["lora-12"].last_seq;
    for step in 613..713 {
        last += 1;
        let events = vec![sample::step(last, step, 1000)];
        app.update(
            Message::Engine(FromEngine::Push { push: Push::Events { run: "lora-12".into(), events } }),
            sample::NOW_MS,
        );
        let before = frames.written();
        frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
        if std::env::var_os("TICKS").is_some() {
            eprintln!("{keys} step {step}: {}", frames.written() - before);
        }
        most = most.max(frames.written() - before);
    }
    (first, most)
}

#[test]
fn a_tick_of_a_running_curve_costs_less_than_300_bytes() {
    for keys in ["4", "4 w", "4 w w", "4 e"] {
        let (first, tick) = bytes((80, 24), keys);
        assert!(tick < 300, "{keys}: a tick of {tick} bytes");
        assert!(first < 8_000, "{keys}: a first frame of {first} bytes");
    }
}

#[test]
fn nothing_new_costs_nothing_but_the_frame() {
    let app = sample::app((80, 24), "dark", Signs::unicode());
    let mut frames = Frames::on(std::io::sink(), 80, 24);
    frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
    let before = frames.written();
    frames.draw(&mut |buf| screens::draw(&app, buf)).unwrap();
    assert!(frames.written() - before <= 16, "{}", frames.written() - before);
}
