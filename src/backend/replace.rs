//! Fixed texts replaced by others in an answer that comes in pieces, wherever the pieces are cut.

/// Replaces each of some texts by another, leftmost first, the longest of those that begin at one place. What is put in is not
/// looked at again.
#[derive(Clone, Debug, Default)]
pub struct Replacer {
    /// From, to; none of the first is empty.
    pairs: Vec<(String, String)>,
    /// The end of what came, which may be the beginning of one of the texts.
    held: String,
}

impl Replacer {
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().filter(|(from, _)| !from.is_empty()).collect();
        pairs.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        Self { pairs, held: String::new() }
    }

    /// The next piece; what can be said of the answer by now.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        self.take(false)
    }

    /// The rest.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    /// All of a text at once.
    pub fn whole(&mut self, text: &str) -> String {
        let mut all = self.push(text);
        all.push_str(&self.finish());
        all
    }

    fn take(&mut self, end: bool) -> String {
        let held = std::mem::take(&mut self.held);
        let mut out = String::with_capacity(held.len());
        let mut rest = held.as_str();
        while let Some(first) = rest.chars().next() {
            // A longer text that has begun decides before a shorter one that is whole.
            let begun = |from: &String| !end && from.len() > rest.len() && from.starts_with(rest);
            if self.pairs.iter().any(|(from, _)| begun(from)) {
                rest.clone_into(&mut self.held);
                return out;
            }
            match self.pairs.iter().find(|(from, _)| rest.starts_with(from.as_str())) {
                Some((from, to)) => {
                    out.push_str(to);
                    rest = &rest[from.len()..];
                }
                None => {
                    out.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replacer() -> Replacer {
        let pairs = [("<A_1>", "one"), ("<A_12>", "<A_1>"), ("secret", ""), ("sec", "S"), ("ä<", "x")];
        Replacer::new(pairs.map(|(from, to)| (from.to_owned(), to.to_owned())))
    }

    #[test]
    fn the_longest_text_is_replaced_and_what_is_put_in_stays() {
        assert_eq!(replacer().whole("<A_1><A_12> <A_1 secret section"), "one<A_1> <A_1  Stion");
        let mut r = replacer();
        assert_eq!(
            (r.push("a<A"), r.push("_1"), r.push(">b"), r.finish()),
            ("a".into(), String::new(), "oneb".into(), String::new())
        );
    }

    proptest! {
        #[test]
        fn where_the_pieces_are_cut_changes_nothing(text in "(<A_1>|<A_12>|<A|sec|ret|ä|<|[a-z ])*", cuts in prop::collection::vec(0usize..40, 0..8)) {
            let mut pieces = replacer();
            let mut got = String::new();
            let mut rest = text.as_str();
            for cut in cuts {
                let cut = (0..=cut.min(rest.len())).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or(0);
                got.push_str(&pieces.push(&rest[..cut]));
                rest = &rest[cut..];
            }
            got.push_str(&pieces.push(rest));
            got.push_str(&pieces.finish());
            prop_assert_eq!(got, replacer().whole(&text));
        }
    }
}
