//! Tests over the whole of the screens.

mod budget;
mod completing;
mod growing;
mod grown;
mod hostile;
mod judging;
mod looks;
mod loops;
mod mapping;
mod mending;
mod play;
mod problems;
mod prompts;
mod state;
mod steer;
mod strata;
mod trajectories;
mod viewing;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::app::{App, Effect, Message};
use super::key::Key;
use super::sample;
use super::screens;

/// Presses keys, written as in `keys.toml` and separated by spaces, without anybody answering.
fn press(app: &mut App, keys: &str) -> Vec<Effect> {
    let keys = keys.split_whitespace().map(|k| k.parse::<Key>().unwrap());
    keys.flat_map(|k| app.update(Message::Key(k), sample::NOW_MS)).collect()
}

/// Presses keys while the sample engine answers.
fn play(app: &mut App, keys: &str) {
    for key in keys.split_whitespace() {
        let effects = press(app, key);
        sample::settle(app, effects);
    }
}

fn type_text(app: &mut App, text: &str) {
    app.update(Message::Paste(text.to_owned()), sample::NOW_MS);
}

fn drawn(app: &App) -> Buffer {
    let mut buf = Buffer::empty(Rect::new(0, 0, app.size.0, app.size.1));
    screens::draw(app, &mut buf);
    buf
}

/// The text of a buffer, without spaces at the ends of lines.
fn text_of(buf: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buf.area.height {
        let mut line = String::new();
        let mut x = 0;
        while x < buf.area.width {
            let symbol = buf[(x, y)].symbol();
            line.push_str(symbol);
            x += unicode_width::UnicodeWidthStr::width(symbol).max(1) as u16;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn shown(app: &App) -> String {
    text_of(&drawn(app))
}
