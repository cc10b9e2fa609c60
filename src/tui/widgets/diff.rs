//! Two texts, word by word.

use similar::{ChangeTag, TextDiff};

use super::{Piece, text};
use crate::tui::theme::Role;

/// `b` against `a`: kept words plain, added ones as `{+so+}` where colour may be absent, removed ones as `[-so-]`.
pub fn words(a: &str, b: &str) -> Vec<Piece> {
    let (a, b) = (text::clean(a), text::clean(b));
    let diff = TextDiff::configure()
        .timeout(std::time::Duration::from_millis(50))
        .diff_words(a.as_ref(), b.as_ref());
    let mut pieces: Vec<(ChangeTag, String)> = Vec::new();
    for change in diff.iter_all_changes() {
        match pieces.last_mut() {
            Some((tag, text)) if *tag == change.tag() => text.push_str(change.value()),
            _ => pieces.push((change.tag(), change.value().to_owned())),
        }
    }
    pieces
        .into_iter()
        .map(|(tag, text)| match tag {
            ChangeTag::Equal => (text, Role::Text),
            ChangeTag::Insert => (format!("{{+{text}+}}"), Role::Added),
            ChangeTag::Delete => (format!("[-{text}-]"), Role::Removed),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_show_without_colour_and_both_texts_can_be_read_off() {
        let pieces = words("send to card team", "send to fraud team now");
        let text: String = pieces.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(text, "send to [-card-]{+fraud+} team{+ now+}");
        assert!(words("same", "same").iter().all(|(_, role)| *role == Role::Text));
    }

    #[test]
    fn hostile_text_is_cleaned_first() {
        assert_eq!(words("\u{1b}[31ma", "a"), [("a".to_owned(), Role::Text)]);
    }
}
