//! Several lines of text being typed.

use ratatui::layout::Rect;
use unicode_segmentation::UnicodeSegmentation;

use super::{Painter, text};
use crate::tui::key::{Code, Key};
use crate::tui::theme::Role;

/// Longer pastes are cut, in bytes: what is typed is shown anew with every key.
const LONGEST: usize = 256 << 10;

/// The text and where the cursor stands, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextArea {
    text: String,
    at: usize,
}

impl TextArea {
    pub fn new(start: &str) -> Self {
        let text = text::clean(start).into_owned();
        Self { at: text.len(), text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the cursor's line begins and ends.
    fn line(&self) -> (usize, usize) {
        let start = self.text[..self.at].rfind('\n').map_or(0, |i| i + 1);
        let end = self.text[self.at..].find('\n').map_or(self.text.len(), |i| self.at + i);
        (start, end)
    }

    pub fn on_first_line(&self) -> bool {
        self.line().0 == 0
    }

    pub fn on_last_line(&self) -> bool {
        self.line().1 == self.text.len()
    }

    fn before(&self) -> Option<usize> {
        self.text[..self.at].grapheme_indices(true).next_back().map(|(i, _)| i)
    }

    fn after(&self) -> Option<usize> {
        self.text[self.at..].graphemes(true).next().map(|g| self.at + g.len())
    }

    /// Pasted or typed text, with its lines.
    pub fn insert(&mut self, text: &str) {
        let clean = text::clean(text);
        let mut room = LONGEST.saturating_sub(self.text.len()).min(clean.len());
        while !clean.is_char_boundary(room) {
            room -= 1;
        }
        self.text.insert_str(self.at, &clean[..room]);
        self.at += room;
    }

    /// To the same column of the line above or below.
    fn climb(&mut self, down: bool) {
        let (start, end) = self.line();
        let column = self.text[start..self.at].graphemes(true).count();
        let (from, to) = match down {
            true if end < self.text.len() => {
                let from = end + 1;
                (from, self.text[from..].find('\n').map_or(self.text.len(), |i| from + i))
            }
            false if start > 0 => (self.text[..start - 1].rfind('\n').map_or(0, |i| i + 1), start - 1),
            _ => return,
        };
        let line = &self.text[from..to];
        self.at = from + line.grapheme_indices(true).nth(column).map_or(line.len(), |(i, _)| i);
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
            (Code::Up, _) => self.climb(false),
            (Code::Down, _) => self.climb(true),
            (Code::Home, _) | (Code::Char('a'), true) => self.at = self.line().0,
            (Code::End, _) | (Code::Char('e'), true) => self.at = self.line().1,
            (Code::Char('u'), true) => {
                let start = self.line().0;
                self.text.replace_range(start..self.at, "");
                self.at = start;
            }
            (Code::Char('k'), true) => {
                let end = self.line().1;
                self.text.replace_range(self.at..end, "");
            }
            (Code::Char('w'), true) => {
                let head = self.text[..self.at].trim_end();
                let start = head.rfind([' ', '\n']).map_or(0, |i| i + 1);
                self.text.replace_range(start..self.at, "");
                self.at = start;
            }
            _ => return false,
        }
        true
    }

    /// The rows of cells that the text takes, each as bytes of the text; and the row and column of the cursor.
    fn rows(&self, width: usize) -> (Vec<(usize, usize)>, (usize, usize)) {
        let (mut rows, mut cursor) = (Vec::new(), (0, 0));
        let (mut start, mut used) = (0, 0);
        for (i, g) in self.text.grapheme_indices(true) {
            let cells = text::width(g);
            if g != "\n" && used + cells > width {
                rows.push((start, i));
                (start, used) = (i, 0);
            }
            if i == self.at {
                // Before a line break that a full row ends with, it stands on the row's last cell.
                cursor = (rows.len(), used.min(width.saturating_sub(1)));
            }
            if g == "\n" {
                rows.push((start, i));
                (start, used) = (i + g.len(), 0);
            } else {
                used += cells;
            }
        }
        if self.at == self.text.len() {
            if used >= width {
                rows.push((start, self.text.len()));
                (start, used) = (self.text.len(), 0);
            }
            cursor = (rows.len(), used);
        }
        rows.push((start, self.text.len()));
        (rows, cursor)
    }

    /// Rows that the text takes at a width.
    pub fn height(&self, width: u16) -> u16 {
        self.rows(usize::from(width.max(1))).0.len().try_into().unwrap_or(u16::MAX)
    }

    /// Draws the part around the cursor.
    pub fn draw(&self, p: &mut Painter<'_>, area: Rect) {
        let (rows, cursor) = self.rows(usize::from(area.width.max(1)));
        let height = usize::from(area.height.max(1));
        let top = super::window::scroll(0, cursor.0, height);
        let blank = " ".repeat(usize::from(area.width));
        for y in 0..area.height {
            p.put(area, 0, y, area.width, &blank, Role::Input);
        }
        for (y, (from, to)) in rows.iter().skip(top).take(height).enumerate() {
            p.put(area, 0, y as u16, area.width, &self.text[*from..*to], Role::Input);
        }
        let under = self.text[self.at..].graphemes(true).next().filter(|g| *g != "\n").unwrap_or(" ");
        p.put(area, cursor.1 as u16, (cursor.0 - top) as u16, area.width, under, Role::Cursor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(area: &mut TextArea, keys: &str) {
        for key in keys.split_whitespace() {
            assert!(area.key(key.parse().unwrap()), "{key}");
        }
    }

    #[test]
    fn a_paste_keeps_its_lines_and_controls_nothing() {
        let mut area = TextArea::default();
        area.insert("one\r\ntwo\u{1b}[31m red\u{202E}\tthree");
        assert_eq!(area.text(), "one\ntwo red    three");
        keys(&mut area, "up home x down end ctrl-w");
        assert_eq!(area.text(), "xone\ntwo red    ");
    }

    #[test]
    fn the_column_is_kept_between_lines_by_what_people_see_as_one_character() {
        let mut area = TextArea::new("日本語\nab\ne\u{301}xyz");
        keys(&mut area, "home right right up");
        area.insert("|");
        assert_eq!(area.text(), "日本語\nab|\ne\u{301}xyz");
        assert!(!area.on_first_line() && !area.on_last_line());
        keys(&mut area, "up");
        assert!(area.on_first_line());
    }

    #[test]
    fn long_lines_go_on_in_the_next_row_and_the_cursor_goes_with_them() {
        let area = TextArea::new("abcdef\n日本");
        assert_eq!(area.rows(3), (vec![(0, 3), (3, 6), (7, 10), (10, 13)], (3, 2)));
        assert_eq!(TextArea::new("abc").rows(3), (vec![(0, 3), (3, 3)], (1, 0)));
        assert_eq!(TextArea::default().rows(3), (vec![(0, 0)], (0, 0)));
    }

    #[test]
    fn a_huge_paste_is_cut() {
        let mut area = TextArea::default();
        area.insert(&"é".repeat(LONGEST));
        assert_eq!(area.text().len(), LONGEST);
        area.insert("x");
        assert_eq!(area.text().len(), LONGEST);
    }

    proptest! {
        #[test]
        fn no_key_sequence_breaks_the_text(start in "(\\PC|\n){0,12}", codes in proptest::collection::vec(0_u8..17, 0..60), width in 1_usize..9) {
            let mut area = TextArea::new(&start);
            for code in codes {
                let key = match code {
                    0 => Key::plain(Code::Backspace), 1 => Key::plain(Code::Delete), 2 => Key::plain(Code::Left), 3 => Key::plain(Code::Right),
                    4 => Key::plain(Code::Home), 5 => Key::plain(Code::End), 6 => Key::ctrl('w'), 7 => Key::ctrl('u'), 8 => Key::ctrl('k'),
                    9 => Key::char('日'), 10 => Key::char('\u{301}'), 11 => Key::char('日'), 12 => Key::plain(Code::Up), 13 => Key::plain(Code::Down),
                    14 => Key::char(' '), _ => Key::char('x'),
                };
                area.key(key);
                prop_assert!(area.text.is_char_boundary(area.at));
                let (rows, cursor) = area.rows(width);
                prop_assert!(cursor.0 < rows.len() && (cursor.1 < width || width < 2));
                let joined: String = rows.iter().map(|(from, to)| &area.text[*from..*to]).collect();
                prop_assert_eq!(joined, area.text.replace('\n', ""));
            }
        }
    }
}
