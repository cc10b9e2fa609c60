//! Two texts against each other, by words and by lines. Texts of strangers are to be cleaned before.

use std::time::Duration;

use similar::{ChangeTag, TextDiff};

/// After so long a diff is as good as it is.
const PATIENCE: Duration = Duration::from_millis(50);

/// What became of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Kept,
    Added,
    Removed,
}

/// `b` against `a`, word by word; neighbours of one kind are one piece.
pub fn words(a: &str, b: &str) -> Vec<(Change, String)> {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_words(a, b);
    let mut pieces: Vec<(Change, String)> = Vec::new();
    for change in diff.iter_all_changes() {
        let kind = match change.tag() {
            ChangeTag::Equal => Change::Kept,
            ChangeTag::Insert => Change::Added,
            ChangeTag::Delete => Change::Removed,
        };
        match pieces.last_mut() {
            Some((last, text)) if *last == kind => text.push_str(change.value()),
            _ => pieces.push((kind, change.value().to_owned())),
        }
    }
    pieces
}

/// A piece as it is read without colour: `{+added+}`, `[-removed-]`.
pub fn marked(change: Change, text: &str) -> String {
    match change {
        Change::Kept => text.to_owned(),
        Change::Added => format!("{{+{text}+}}"),
        Change::Removed => format!("[-{text}-]"),
    }
}

/// `b` against `a`, line by line: `+` and `-` before what changed, with three lines around it.
pub fn lines(a: &str, b: &str) -> String {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(a, b);
    diff.unified_diff().context_radius(3).missing_newline_hint(false).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_show_what_went_and_what_came() {
        let all = words("send to card team", "send to fraud team now");
        let text: String = all.iter().map(|(change, text)| marked(*change, text)).collect();
        assert_eq!(text, "send to [-card-]{+fraud+} team{+ now+}");
        assert_eq!(words("same", "same"), [(Change::Kept, "same".to_owned())]);
    }

    #[test]
    fn lines_carry_their_marks() {
        let text = lines("a\nb\nc\n", "a\nx\nc\n");
        assert!(text.contains("\n-b\n") && text.contains("\n+x\n") && text.contains("\n a\n"), "{text}");
        assert_eq!(lines("a\n", "a\n"), "");
    }
}
