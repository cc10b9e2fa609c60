//! From a key to the painted frame on a large board: moving, ordering, filtering, the picture; and what arrives from the engine.

use std::io;
use std::time::Instant;

use serde::Serialize;

use crate::domain::api::{FromEngine, Push};
use crate::domain::board::Board;
use crate::score::stats::percentile;
use crate::tui::app::{App, Message};
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Surface as _};
use crate::tui::{key::Key, sample, screens};

/// Keys pressed one after the other; a frame is painted after each.
const KEYS: &str = "down down pgdn pgdn end up home o p 5 0 enter O down pgdn o down enter end O / l o r a 7 enter pgdn esc \
    / ctrl-u enter v 2 . 5 M enter p down pgdn right up esc l pgdn esc down";

/// Milliseconds of one kind of thing: how many, the median, the 99th percentile, the most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub n: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Times {
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_unstable_by(f64::total_cmp);
        let at = |q| percentile(&all, q).unwrap_or(0.0);
        Self { n: all.len(), p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// One size of the terminal.
#[derive(Clone, Debug, Serialize)]
pub struct Large {
    pub candidates: usize,
    pub width: u16,
    pub height: u16,
    /// The first frame of the board, from its arrival in messages of at most a frame's length.
    pub open_ms: f64,
    /// From a key to the painted frame.
    pub keys: Times,
    /// From the news of one changed candidate to the painted frame.
    pub news: Times,
}

/// A key press and the frame after it, `rounds` times over all keys.
///
/// # Errors
/// None in practice: the writer is a sink.
pub fn measure(candidates: usize, width: u16, height: u16, rounds: usize) -> io::Result<Large> {
    let board = sample::large_board(candidates);
    let mut app = sample::app((width, height), "dark", Signs::unicode());
    app.update(Message::Key(Key::char('5')), sample::NOW_MS);
    let mut frames = Frames::on(io::sink(), width, height);
    frames.draw(&mut |buf| screens::draw(&app, buf))?;
    let hear = |app: &mut App, push: Push| {
        app.update(Message::Engine(FromEngine::Push { push }), sample::NOW_MS);
    };

    let started = Instant::now();
    // As the engine sends it: the beginning, then the rest.
    let whole = |rows: &[_]| Board { rows: rows.to_vec(), ..board.clone() };
    let mut parts = board.rows.chunks(800);
    if let Some(first) = parts.next() {
        hear(&mut app, Push::Board { board: whole(first) });
    }
    for part in parts {
        hear(&mut app, Push::BoardRows { board: whole(part) });
    }
    frames.draw(&mut |buf| screens::draw(&app, buf))?;
    let open_ms = started.elapsed().as_secs_f64() * 1e3;

    let keys: Vec<Key> = KEYS.split_whitespace().filter_map(|k| k.parse().ok()).collect();
    let mut times = Vec::new();
    for _ in 0..rounds {
        for key in &keys {
            let started = Instant::now();
            app.update(Message::Key(*key), sample::NOW_MS);
            frames.draw(&mut |buf| screens::draw(&app, buf))?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut news = Vec::new();
    for at in 0..rounds * 10 {
        let changed = board.rows.iter().skip(at * 37 % candidates.max(1)).take(1).cloned().map(|mut row| {
            row.metrics.insert("accuracy".into(), (at % 100) as f64 / 100.0);
            row
        });
        let rows = changed.collect();
        let started = Instant::now();
        hear(&mut app, Push::BoardRows { board: Board { rows, ..whole(&[]) } });
        frames.draw(&mut |buf| screens::draw(&app, buf))?;
        news.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Large { candidates, width, height, open_ms, keys: Times::of(times), news: Times::of(news) })
}

impl Large {
    pub fn text(&self) -> String {
        let times = |t: &Times| {
            format!("{:.2} ms (99% under {:.2}, at most {:.2}, n = {})", t.p50_ms, t.p99_ms, t.max_ms, t.n)
        };
        format!(
            "board of {} candidates at {}x{}: open {:.1} ms; key to frame {}; one changed candidate to frame {}",
            self.candidates,
            self.width,
            self.height,
            self.open_ms,
            times(&self.keys),
            times(&self.news)
        )
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_key_paints_a_frame_on_boards_of_every_size() {
        for candidates in [0, 1, 300] {
            let found = super::measure(candidates, 80, 24, 1).unwrap();
            assert!(found.keys.n > 40 && found.news.n == 10, "{found:?}");
        }
    }
}
