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
