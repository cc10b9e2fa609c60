//! What drawing costs: the first frame, and a tick of a running curve, in bytes to the terminal and in time; and from a key to the frame on a
//! large board.
//!
//! The workspace is made up (`tui::sample`), so that the figures do not depend on anybody's data. Bytes are counted where the terminal would be.

pub(super) mod board;

use std::io;
use std::time::Instant;

use serde::Serialize;

use crate::domain::api::{FromEngine, Push};
use crate::tui::app::{App, Message};
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Surface as _};
use crate::tui::{key::Key, sample, screens};

/// Steps of the made-up run before the ticks.
const STEPS: u64 = 612;

/// Figures for one size of the terminal.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    pub width: u16,
    pub height: u16,
    /// The frame before the engine has answered.
    pub connecting_bytes: u64,
    /// The train screen, drawn whole.
    pub first_bytes: u64,
    pub first_ms: f64,
    /// One step of the curve: the median and the largest of the ticks.
    pub tick_bytes: u64,
    pub tick_bytes_max: u64,
    /// Update of the state, drawing and writing of a tick: the median.
    pub tick_ms: f64,
    /// A frame in which nothing changed.
    pub idle_bytes: u64,
}

/// Figures at 80x24, 120x40 and 200x60.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub ticks: u64,
    pub sizes: Vec<Size>,
    pub boards: Vec<board::Large>,
}

fn frame(frames: &mut Frames<io::Sink>, app: &App) -> io::Result<u64> {
    let before = frames.written();
    frames.draw(&mut |buf| screens::draw(app, buf))?;
    Ok(frames.written() - before)
}

fn measure(width: u16, height: u16, ticks: u64) -> io::Result<Size> {
    let size = (width, height);
    let connecting = App::new(size, Signs::unicode(), sample::NOW_MS);
    let connecting_bytes = frame(&mut Frames::on(io::sink(), width, height), &connecting)?;

    let mut app = sample::app(size, "dark", Signs::unicode());
    let effects = app.update(Message::Key(Key::char('4')), sample::NOW_MS);
    sample::settle(&mut app, effects);
    let mut frames = Frames::on(io::sink(), width, height);
    let start = Instant::now();
    let first_bytes = frame(&mut frames, &app)?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;

    let mut costs = Vec::new();
    let last_seq = app.series.values().map(|s| s.last_seq).max().unwrap_or(0);
    for i in 1..=ticks {
        let start = Instant::now();
        let events = vec![sample::step(last_seq + i, STEPS + i, 1000.max(STEPS + ticks))];
        let push = Push::Events { run: "lora-12".into(), events };
        app.update(Message::Engine(FromEngine::Push { push }), sample::NOW_MS);
        let bytes = frame(&mut frames, &app)?;
        costs.push((bytes, start.elapsed().as_secs_f64() * 1e3));
    }
    let idle_bytes = frame(&mut frames, &app)?;
    let middle = costs.len() / 2;
    costs.sort_by_key(|c| c.0);
    let (tick_bytes, tick_bytes_max) =
        (costs.get(middle).map_or(0, |c| c.0), costs.last().map_or(0, |c| c.0));
    costs.sort_by(|a, b| a.1.total_cmp(&b.1));
    let tick_ms = costs.get(middle).map_or(0.0, |c| c.1);
    Ok(Size {
        width,
        height,
        connecting_bytes,
        first_bytes,
        first_ms,
        tick_bytes,
        tick_bytes_max,
        tick_ms,
        idle_bytes,
    })
}

/// Measures `ticks` steps of a running curve at three sizes, and as many rounds of keys as there are `rounds` on a board of `candidates`.
///
/// # Errors
/// None in practice: the writer is a sink.
pub fn run(ticks: u64, candidates: usize, rounds: usize) -> io::Result<Report> {
    const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];
    let sizes = SIZES.into_iter().map(|(w, h)| measure(w, h, ticks));
    let boards = SIZES.into_iter().map(|(w, h)| board::measure(candidates, w, h, rounds));
    Ok(Report { ticks, sizes: sizes.collect::<io::Result<_>>()?, boards: boards.collect::<io::Result<_>>()? })
}

impl Report {
    /// One line for each size.
    pub fn text(&self) -> String {
        let line = |s: &Size| {
            format!(
                "{}x{}: first frame {} bytes ({} while connecting), {:.2} ms; tick {} bytes (at most {}), {:.2} ms; unchanged {} bytes",
                s.width,
                s.height,
                s.first_bytes,
                s.connecting_bytes,
                s.first_ms,
                s.tick_bytes,
                s.tick_bytes_max,
                s.tick_ms,
                s.idle_bytes
            )
        };
        let boards = self.boards.iter().map(board::Large::text);
        self.sizes.iter().map(line).chain(boards).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_frame_costs_bytes_and_an_unchanged_one_next_to_none() {
        let report = super::run(20, 50, 1).unwrap();
        for size in &report.sizes {
            assert!(size.idle_bytes < size.tick_bytes && size.tick_bytes <= size.tick_bytes_max, "{size:?}");
            assert!(
                size.tick_bytes_max < size.first_bytes && size.connecting_bytes < size.first_bytes,
                "{size:?}"
            );
        }
    }
}
