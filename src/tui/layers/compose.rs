//! A box to write several lines into: an input to ask, an answer as it should be.

use crate::tui::key::{Code, Key};
use crate::tui::widgets::textarea::TextArea;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComposePurpose {
    Ask,
    /// An input for a store of examples.
    Try,
    /// What an example of a store shows as its answer, or as its input.
    Example {
        store: String,
        id: String,
        answer: bool,
    },
    /// The answer to question `id` as it should be.
    Edit {
        id: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Compose {
    pub title: String,
    pub area: TextArea,
    pub purpose: ComposePurpose,
    /// What was written before, newest last, and where one is in it; at its length stands what is being written.
    history: Vec<String>,
    at: usize,
    draft: String,
}

impl Compose {
    pub fn new(title: &str, start: &str, purpose: ComposePurpose, history: Vec<String>) -> Self {
        let at = history.len();
        Self { title: title.into(), area: TextArea::new(start), purpose, history, at, draft: String::new() }
    }

    /// Typing; up on the first line and down on the last one go through what was written before.
    pub fn key(&mut self, key: Key) -> bool {
        let to = match key.code {
            Code::Up if self.area.on_first_line() && self.at > 0 => self.at - 1,
            Code::Down if self.area.on_last_line() && self.at < self.history.len() => self.at + 1,
            _ => return self.area.key(key),
        };
        if self.at == self.history.len() {
            self.draft = self.area.text().to_owned();
        }
        self.at = to;
        self.area = TextArea::new(self.history.get(to).unwrap_or(&self.draft));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_comes_back_and_the_draft_is_kept() {
        let history = vec!["first\nof two lines".to_owned(), "second".to_owned()];
        let mut compose = Compose::new("ask", "", ComposePurpose::Ask, history);
        compose.area.insert("draft");
        let press = |compose: &mut Compose, code| compose.key(Key::plain(code));
        for (code, text) in [
            (Code::Up, "second"),
            (Code::Up, "first\nof two lines"),
            // Within its lines first.
            (Code::Up, "first\nof two lines"),
            (Code::Up, "first\nof two lines"),
            (Code::Down, "first\nof two lines"),
            (Code::Down, "second"),
            (Code::Down, "draft"),
            (Code::Down, "draft"),
        ] {
            press(&mut compose, code);
            assert_eq!(compose.area.text(), text, "{code:?}");
        }
    }
}
