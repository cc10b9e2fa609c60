//! One line of text being typed.

use ratatui::layout::Rect;
use unicode_segmentation::UnicodeSegmentation;

use super::{Painter, text};
use crate::tui::key::{Code, Key};
use crate::tui::theme::Role;

/// The text and where the cursor stands, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextInput {
    text: String,
    at: usize,
}

impl TextInput {
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { at: text.len(), text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the cursor stands, in bytes.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Another text, with the cursor at byte `at`.
    pub fn set(&mut self, text: String, at: usize) {
        self.at = if text.is_char_boundary(at) { at } else { text.len() };
        self.text = text;
    }

    fn before(&self) -> Option<usize> {
        self.text[..self.at].grapheme_indices(true).next_back().map(|(i, _)| i)
    }

    fn after(&self) -> Option<usize> {
        self.text[self.at..].graphemes(true).next().map(|g| self.at + g.len())
    }

    /// Pasted or typed text; a paste of several lines becomes one.
    pub fn insert(&mut self, text: &str) {
        let line = text::one_line(text, " ");
        self.text.insert_str(self.at, &line);
        self.at += line.len();
    }

    /// Takes a key; false when it means nothing here.
    pub fn key(&mut self, key: Key) -> bool {
        match (key.code, key.ctrl) {
            (Code::Char(c), false) if !key.alt => self.insert(c.encode_utf8(&mut [0; 4])),
            (Code::Backspace, _) | (Code::Char('h'), true) => {
                if let Some(before) = self.before() {
                    self.text.replace_range(before..self.at, "");
                    self.at = before;
                }
            }
            (Code::Delete, _) | (Code::Char('d'), true) => {
                if let Some(after) = self.after() {
                    self.text.replace_range(self.at..after, "");
                }
            }
            (Code::Left, _) => self.at = self.before().unwrap_or(0),
            (Code::Right, _) => self.at = self.after().unwrap_or(self.at),
            (Code::Home, _) | (Code::Char('a'), true) => self.at = 0,
            (Code::End, _) | (Code::Char('e'), true) => self.at = self.text.len(),
            (Code::Char('u'), true) => {
                self.text.replace_range(..self.at, "");
                self.at = 0;
            }
            (Code::Char('k'), true) => self.text.truncate(self.at),
            (Code::Char('w'), true) => {
                let head = self.text[..self.at].trim_end();
                let start = head.rfind(' ').map_or(0, |i| i + 1);
                self.text.replace_range(start..self.at, "");
                self.at = start;
            }
            _ => return false,
        }
        true
    }

    /// Draws the line in one row; the part around the cursor where it is longer.
    pub fn draw(&self, p: &mut Painter<'_>, area: Rect, x: u16, y: u16, width: u16, focused: bool) {
        p.put(area, x, y, width, &" ".repeat(usize::from(width)), Role::Input);
        let head = &self.text[..self.at];
        // Drop graphemes from the left until the cursor fits.
        let mut start = 0;
        for (i, g) in head.grapheme_indices(true) {
            if text::width(&head[start..]) < usize::from(width) {
                break;
            }
            start = i + g.len();
        }
        p.put(area, x, y, width, &self.text[start..], Role::Input);
        if focused {
            let at = x + (text::width(&head[start..]) as u16).min(width.saturating_sub(1));
            let under = self.text[self.at..].graphemes(true).next().unwrap_or(" ");
            p.put(area, at, y, width, under, Role::Cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn editing_goes_by_what_people_see_as_one_character() {
        let mut input = TextInput::new("日e\u{301}");
        input.key(Key::plain(Code::Backspace));
        assert_eq!(input.text(), "日");
        input.key(Key::plain(Code::Left));
        input.insert("a\nb\u{1b}[31m");
        assert_eq!(input.text(), "a b日");
        input.key(Key::ctrl('u'));
        assert_eq!(input.text(), "日");
    }

    proptest! {
        #[test]
        fn no_key_sequence_breaks_the_line(start in "\\PC{0,8}", keys in proptest::collection::vec(0_u8..14, 0..40)) {
            let mut input = TextInput::new(start);
            for k in keys {
                let key = match k {
                    0 => Key::plain(Code::Backspace), 1 => Key::plain(Code::Delete), 2 => Key::plain(Code::Left), 3 => Key::plain(Code::Right),
                    4 => Key::plain(Code::Home), 5 => Key::plain(Code::End), 6 => Key::ctrl('w'), 7 => Key::ctrl('u'), 8 => Key::ctrl('k'),
                    9 => Key::char('日'), 10 => Key::char('\u{301}'), 11 => Key::char(' '), _ => Key::char('x'),
                };
                input.key(key);
                prop_assert!(input.text.is_char_boundary(input.at));
            }
        }
    }
}
