//! Stop strings over an answer that comes in pieces.

/// Gives an answer's text on up to the first stop string.
///
/// Of several strings that end the answer the one that begins first counts. What may be the beginning of one is held back, so
/// that no part of a stop string is ever given out, however the text is cut into pieces.
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    /// Text that was not given out; always shorter than the longest stop string.
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Empty strings are left out.
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { strings, held: String::new(), stopped: false }
    }

    /// A stop string came; nothing more is given out.
    pub const fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text that is certain with this piece.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        if self.strings.is_empty() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        // A match that began before another may still be growing: all before the earliest beginning, whole or not, is certain.
        let whole = self.strings.iter().filter_map(|s| self.held.find(s.as_str())).min();
        let begun = self.begun();
        match whole {
            Some(at) if begun.is_none_or(|b| at <= b) => {
                self.stopped = true;
                let mut text = std::mem::take(&mut self.held);
                text.truncate(at);
                text
            }
            _ => {
                let keep = begun.unwrap_or(self.held.len());
                let rest = self.held.split_off(keep);
                std::mem::replace(&mut self.held, rest)
            }
        }
    }

    /// What was held back when the answer ended.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let mut text = std::mem::take(&mut self.held);
        if let Some(at) = self.strings.iter().filter_map(|s| text.find(s.as_str())).min() {
            self.stopped = true;
            text.truncate(at);
        }
        text
    }

    /// Where the end of the held text begins to be a stop string, without being all of it; the earliest place.
    fn begun(&self) -> Option<usize> {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len()).filter(|&at| self.held.is_char_boundary(at)).find(|&at| {
            let tail = &self.held[at..];
            self.strings.iter().any(|s| s.len() > tail.len() && s.starts_with(tail))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by a search in the whole text.
    fn whole(text: &str, stops: &[String]) -> String {
        let end = stops.iter().filter_map(|s| text.find(s.as_str())).min();
        text[..end.unwrap_or(text.len())].to_owned()
    }

    #[test]
    fn nothing_of_a_stop_string_is_given_out() {
        let mut stop = StopStrings::new(&["\n\n".into(), "END".into()]);
        assert_eq!(stop.push("a\n"), "a");
        assert_eq!(stop.push("b E"), "\nb ");
        assert_eq!(stop.push("N"), "");
        assert_eq!(stop.push("d EN"), "ENd ");
        assert_eq!(stop.push("D and more"), "");
        assert!(stop.stopped());
        assert_eq!(stop.push("x") + &stop.finish(), "");
    }

    #[test]
    fn a_beginning_that_came_to_nothing_is_given_at_the_end() {
        let mut stop = StopStrings::new(&["END".into()]);
        assert_eq!(stop.push("the EN"), "the ");
        assert_eq!((stop.finish().as_str(), stop.stopped()), ("EN", false));
    }

    #[test]
    fn without_stop_strings_the_text_goes_through() {
        let mut stop = StopStrings::new(&[]);
        assert_eq!(stop.push("abc"), "abc");
        assert_eq!(stop.finish(), "");
    }

    proptest! {
        #[test]
        fn however_the_text_is_cut_it_ends_as_in_a_search_of_the_whole(
            text in "[abcé ]{0,40}",
            stops in prop::collection::vec("[abcé ]{1,4}", 0..4),
            cuts in prop::collection::vec(0_usize..5, 0..60),
        ) {
            let want = whole(&text, &stops);
            let mut stop = StopStrings::new(&stops);
            let mut got = String::new();
            let mut chars = text.chars();
            for n in cuts.iter().copied().chain([usize::MAX]) {
                let piece: String = chars.by_ref().take(n).collect();
                got.push_str(&stop.push(&piece));
                // What was given out is never taken back.
                prop_assert!(want.starts_with(&got), "{:?} of {:?}", got, want);
            }
            got.push_str(&stop.finish());
            prop_assert_eq!(&got, &want);
            prop_assert_eq!(stop.stopped(), want.len() < text.len());
        }
    }
}
