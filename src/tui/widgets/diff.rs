//! Two texts, word by word.

use super::{Piece, text};
use crate::domain::diff::{self, Change};
use crate::tui::theme::Role;

/// `b` against `a`: kept words plain, added ones as `{+so+}` where colour may be absent, removed ones as `[-so-]`.
pub fn words(a: &str, b: &str) -> Vec<Piece> {
    diff::words(&text::clean(a), &text::clean(b))
        .into_iter()
        .map(|(change, text)| {
            let role = match change {
                Change::Kept => Role::Text,
                Change::Added => Role::Added,
                Change::Removed => Role::Removed,
            };
            (diff::marked(change, &text), role)
        })
        .collect()
}

/// Pieces over as many lines as they need.
pub fn wrapped(pieces: Vec<Piece>, width: usize) -> Vec<Vec<Piece>> {
    let mut lines: Vec<Vec<Piece>> = vec![Vec::new()];
    let mut used = 0;
    for (text_, role) in pieces {
        for (i, paragraph) in text_.split('\n').enumerate() {
            if i > 0 {
                lines.push(Vec::new());
                used = 0;
            }
            for word in paragraph.split_inclusive(' ') {
                for part in if text::width(word) > width {
                    text::wrap(word, width, 300)
                } else {
                    vec![word.to_owned()]
                } {
                    let w = text::width(&part);
                    if used + w > width && used > 0 {
                        lines.push(Vec::new());
                        used = 0;
                    }
                    used += w;
                    if let Some(line) = lines.last_mut() {
                        line.push((part, role));
                    }
                }
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_cleaned_first() {
        assert_eq!(words("\u{1b}[31ma", "a"), [("a".to_owned(), Role::Text)]);
        let marked: Vec<_> = words("to card", "to fraud").into_iter().skip(1).collect();
        assert_eq!(marked, [("[-card-]".to_owned(), Role::Removed), ("{+fraud+}".to_owned(), Role::Added)]);
    }
}
