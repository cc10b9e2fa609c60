//! Completing a filter while it is typed: what stands at the cursor, which of the things it could become fit, and the text with one taken.
//!
//! What is taken is written so that [`Filter::parse`] reads it back as it is, in quotes where it must be.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::filter::{Filter, Op, Spot, SpotOf, key_text, quoted, value_of};

/// Things suggested at most.
pub const SUGGESTED: usize = 50;

/// Something that could stand at the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suggestion {
    pub text: String,
    /// What a key means, how many rows have a value.
    pub aside: String,
}

/// What could stand at the cursor, and what is wrong with the filter so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    pub items: Vec<Suggestion>,
    pub error: Option<String>,
}

/// What is being typed, and the bytes that something taken replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub span: Range<usize>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A word so far, or a key.
    Key {
        typed: String,
    },
    Value {
        key: String,
        op: Op,
        typed: String,
    },
}

impl What {
    pub fn typed(&self) -> &str {
        match self {
            Self::Key { typed } | Self::Value { typed, .. } => typed,
        }
    }

    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Key { .. } => None,
            Self::Value { key, .. } => Some(key),
        }
    }
}

/// What stands at byte `at`; none where nothing can be completed, such as before a word or within `>=`.
pub fn place(text: &str, at: usize) -> Option<Place> {
    let before = text.get(..at)?;
    let (filter, spots) = Filter::read(text);
    let touched = |spot: &&Spot| {
        let value = matches!(spot.of, SpotOf::Value(..));
        (spot.span.start < at || value && spot.span.start == at) && at <= spot.span.end
    };
    let Some(spot) = spots.iter().find(touched) else {
        let inside = filter.terms.iter().any(|t| t.span.start <= at && at <= t.span.end);
        let what = What::Key { typed: String::new() };
        return (!inside).then_some(Place { span: at..at, what });
    };
    let typed = value_of(before.get(spot.span.start..)?);
    let what = match &spot.of {
        // A dash alone: whatever comes is negated.
        SpotOf::Word if text.get(spot.span.clone()) == Some("-") => {
            return Some(Place { span: at..at, what: What::Key { typed: String::new() } });
        }
        SpotOf::Word | SpotOf::Key => What::Key { typed },
        SpotOf::Value(key, op) => What::Value { key: key.clone(), op: *op, typed },
    };
    Some(Place { span: spot.span.clone(), what })
}

/// The text with `taken` in its place, and where the cursor stands then.
pub fn take(text: &str, place: &Place, taken: &str) -> (String, usize) {
    let (head, tail) =
        (text.get(..place.span.start).unwrap_or(text), text.get(place.span.end..).unwrap_or_default());
    let written = match place.what {
        What::Key { .. } if tail.starts_with([':', '=', '<', '>']) => key_text(taken),
        What::Key { .. } => format!("{}:", key_text(taken)),
        What::Value { .. } => {
            let apart = tail.starts_with(|c: char| c.is_whitespace() || c == ',');
            format!("{}{}", quoted(taken), if apart { "" } else { " " })
        }
    };
    // Two quotes in a row would be read as one within the text before.
    let apart = if head.ends_with('"') && written.starts_with('"') { " " } else { "" };
    (format!("{head}{apart}{written}{tail}"), head.len() + apart.len() + written.len())
}

/// Those that fit what was typed, in any case: first those that begin so, then those that have it somewhere; each in the order given.
pub fn fitting(items: impl IntoIterator<Item = Suggestion>, typed: &str) -> Vec<Suggestion> {
    let typed = typed.to_lowercase();
    let (mut begin, mut hold) = (Vec::new(), Vec::new());
    for item in items {
        let text = item.text.to_lowercase();
        if text.starts_with(&typed) {
            begin.push(item);
        } else if text.contains(&typed) {
            hold.push(item);
        }
    }
    begin.extend(hold);
    begin.truncate(SUGGESTED);
    begin
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::filter::Test;

    fn at_end(text: &str) -> Option<(What, Range<usize>)> {
        place(text, text.len()).map(|p| (p.what, p.span))
    }

    fn key(typed: &str) -> What {
        What::Key { typed: typed.into() }
    }

    fn value(key: &str, op: Op, typed: &str) -> What {
        What::Value { key: key.into(), op, typed: typed.into() }
    }

    #[test]
    fn the_cursor_stands_on_a_key_or_on_a_value() {
        assert_eq!(at_end(""), Some((key(""), 0..0)));
        assert_eq!(at_end("ba"), Some((key("ba"), 0..2)));
        assert_eq!(at_end("len>4 -"), Some((key(""), 7..7)));
        assert_eq!(at_end("len>4 -ma"), Some((key("ma"), 7..9)));
        assert_eq!(at_end("len>4 "), Some((key(""), 6..6)));
        assert_eq!(at_end("base:"), Some((value("base", Op::Fits, ""), 5..5)));
        assert_eq!(at_end("mark:a,b"), Some((value("mark", Op::Fits, "b"), 7..8)));
        assert_eq!(at_end("stratum=\"card ar"), Some((value("stratum", Op::Is, "card ar"), 8..16)));
        assert_eq!(at_end("\"customer i"), Some((key("customer i"), 0..11)));
        assert_eq!(place("len>=4", 4), None, "within an operator");
        assert_eq!(place("a card", 2), None, "before a word");
        assert_eq!(place("base:wrong", 2), Some(Place { span: 0..4, what: key("ba") }));
    }

    #[test]
    fn taking_quotes_where_it_must_and_goes_on_behind() {
        let took = |text: &str, item| take(text, &place(text, text.len()).unwrap(), item);
        assert_eq!(took("ba", "base"), ("base:".into(), 5));
        assert_eq!(took("-cu", "customer id"), ("-\"customer id\":".into(), 15));
        assert_eq!(took("stratum:car", "card arrival"), ("stratum:\"card arrival\" ".into(), 23));
        assert_eq!(took("mark:a,b", "say \"hi\""), ("mark:a,\"say \"\"hi\"\"\" ".into(), 20));
        let text = "ba:wrong len>4";
        assert_eq!(take(text, &place(text, 2).unwrap(), "best"), ("best:wrong len>4".into(), 4));
        let text = "base:wr len>4";
        assert_eq!(take(text, &place(text, 7).unwrap(), "wrong"), ("base:wrong len>4".into(), 10));
    }

    #[test]
    fn what_begins_so_comes_before_what_holds_it() {
        let items = ["best", "base", "base.answer", "database"]
            .map(|text| Suggestion { text: text.into(), aside: String::new() });
        let texts: Vec<String> = fitting(items, "BASE").into_iter().map(|s| s.text).collect();
        assert_eq!(texts, ["base", "base.answer", "database"]);
    }

    proptest! {
        /// Whatever stands around it.
        #[test]
        fn what_is_taken_parses_back(text in "[a-c:=<>,\" -]{0,24}", at in 0_usize..24, item in "[a-c:=<>,\" é-]{1,6}") {
            let at = at.min(text.len());
            if let Some(place) = place(&text, at) {
                let (new, cursor) = take(&text, &place, &item);
                prop_assert!(new.is_char_boundary(cursor));
                let terms = Filter::parse(&new).terms;
                let there = terms.iter().any(|t| t.span.start <= cursor && match (&t.test, &place.what) {
                    (Test::Key { key, .. }, What::Key { .. }) => *key == item,
                    (Test::Key { key: k, op: o, values }, What::Value { key, op, .. }) => {
                        k == key && o == op && values.contains(&item)
                    }
                    (Test::Word(_), _) => false,
                });
                prop_assert!(there, "{text:?} at {at}: {new:?}: {terms:?}");
            }
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,20}", at in 0_usize..40) {
            if let Some(place) = place(&text, at) {
                take(&text, &place, "x");
            }
        }
    }
}
