//! Which examples of a store are listed, and in what order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::domain::example::{Example, ExampleEdit};

/// Whether an example has every word of `text` somewhere, whatever their case. `is:off`, `is:edited`, `stage:NAME` and `stratum:NAME` ask
/// for what they say.
pub fn fits(example: &Example, edits: &BTreeMap<String, ExampleEdit>, text: &str) -> bool {
    let stratum = example.stratum.as_deref().unwrap_or_default().to_lowercase();
    let whole = || {
        [&example.id, &example.input, &example.answer, &example.stage, &stratum]
            .map(|part| part.to_lowercase())
            .join("\n")
    };
    let whole = std::cell::LazyCell::new(whole);
    text.to_lowercase().split_whitespace().all(|word| match word.split_once(':') {
        Some(("is", "off")) => !example.enabled,
        Some(("is", "on")) => example.enabled,
        Some(("is", "edited")) => edits.contains_key(&example.id),
        Some(("stage", name)) => example.stage.to_lowercase() == name,
        Some(("stratum", name)) => stratum.contains(name),
        _ => whole.contains(word),
    })
}

/// By what is asked for, the most of it first; of equals by what they did, then by id.
pub fn order(all: &mut [Example], sort: &str) {
    type Key = (Reverse<i64>, String, Reverse<(u32, u32)>);
    let key = |e: &Example| -> Key {
        let total = e.total();
        let number = |n: u32| Reverse(i64::from(n));
        let (first, text) = match sort {
            "harm" => (number(total.broken), String::new()),
            "uses" => (number(total.uses), String::new()),
            "found" => (number(e.found_rows), String::new()),
            "stratum" => (number(0), e.stratum.clone().unwrap_or_default()),
            "answer" => (number(0), e.answer.clone()),
            _ => (Reverse(i64::from(e.found_rows + total.fixed)), String::new()),
        };
        (first, text, Reverse((e.found_rows + total.fixed, total.uses)))
    };
    all.sort_by_cached_key(|e| (key(e), e.id.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::example::Effect;

    fn example(id: &str, stratum: &str, (uses, fixed, broken): (u32, u32, u32)) -> Example {
        Example {
            id: id.into(),
            stage: "route".into(),
            input: format!("My Card {id}"),
            stratum: Some(stratum.into()),
            effect: BTreeMap::from([(stratum.to_owned(), Effect { uses, fixed, broken })]),
            enabled: id != "c",
            ..Example::default()
        }
    }

    #[test]
    fn examples_are_ordered_by_what_is_asked_for_and_then_by_what_they_did() {
        let all =
            || vec![example("a", "z", (9, 0, 1)), example("b", "y", (3, 2, 0)), example("c", "y", (3, 0, 4))];
        for (sort, want) in [
            ("", ["b", "a", "c"]),
            ("lift", ["b", "a", "c"]),
            ("harm", ["c", "a", "b"]),
            ("uses", ["a", "b", "c"]),
            ("stratum", ["b", "c", "a"]),
        ] {
            let mut got = all();
            order(&mut got, sort);
            let ids: Vec<&str> = got.iter().map(|e| e.id.as_str()).collect();
            assert_eq!(ids, want, "{sort}");
        }
    }

    #[test]
    fn a_filter_asks_for_every_word_and_for_what_was_decided() {
        let (on, off) = (example("a", "mail x", (0, 0, 0)), example("c", "chat", (0, 0, 0)));
        let edits = BTreeMap::from([("a".to_owned(), ExampleEdit::default())]);
        for (text, fit_on, fit_off) in [
            ("", true, true),
            ("card MY", true, true),
            ("card a", true, true),
            ("is:off", false, true),
            ("is:on", true, false),
            ("is:edited", true, false),
            ("stage:route stratum:chat", false, true),
            ("stage:other", false, false),
            ("lost", false, false),
        ] {
            assert_eq!((fits(&on, &edits, text), fits(&off, &edits, text)), (fit_on, fit_off), "{text}");
        }
    }
}
