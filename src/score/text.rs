//! Answers as text: normalized, as numbers, refusals.

use std::sync::LazyLock;

use regex::{RegexSet, RegexSetBuilder};

use super::metric::Tolerance;

/// Lower case, no punctuation, no articles, single spaces (SQuAD's `normalize_answer`, Rajpurkar et al. 2016).
/// Punctuation is ASCII's, as there.
pub fn normalize(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    plain.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).collect::<Vec<_>>().join(" ")
}

/// A number as it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    pub value: f64,
    /// A percent sign follows.
    pub percent: bool,
}

/// Whether the last number of the answer is the last one of the gold. Where one of them is a percentage and the other is none, 45% may be
/// 45 or 0.45. None where the gold has no number.
pub fn same_number(output: &str, gold: &str, tolerance: Tolerance) -> Option<bool> {
    let want = last_number(gold)?;
    let Some(got) = last_number(output) else { return Some(false) };
    let holds = |got, want| tolerance.holds(got, want);
    Some(match (got.percent, want.percent) {
        (true, false) => holds(got.value, want.value) || holds(got.value / 100.0, want.value),
        (false, true) => holds(got.value, want.value) || holds(got.value, want.value / 100.0),
        _ => holds(got.value, want.value),
    })
}

/// The last number of a text. A point is the decimal point; commas, apostrophes, underscores and narrow spaces between groups of three digits
/// are separators, and so are points where a decimal comma follows them (1.234,5). What is not finite is no number.
pub fn last_number(text: &str) -> Option<Number> {
    let chars: Vec<char> = text.chars().collect();
    let digit = |i: usize| chars.get(i).is_some_and(char::is_ascii_digit);
    let mut end = chars.len();
    loop {
        // The last digit before `end`, and back to where its run of digits and separators begins.
        let last = (0..end).rev().find(|&i| digit(i))?;
        let mut start = last;
        while start > 0
            && (digit(start - 1) || (start > 1 && is_separator(chars[start - 1]) && digit(start - 2)))
        {
            start -= 1;
        }
        // 12e3 ends in a run of its own.
        let (mut start, mut stop) = (start, last + 1);
        if let Some((from, to)) = exponent(&chars, start, stop) {
            (start, stop) = (from, to);
        }
        if start > 0 && chars[start - 1] == '.' && !(start > 1 && chars[start - 2] == '.') {
            start -= 1;
        }
        if let Some(value) = read(&chars[start..stop]).filter(|v| v.is_finite()) {
            let sign = start.checked_sub(1).filter(|&at| {
                matches!(chars[at], '-' | '\u{2212}')
                    && !at.checked_sub(1).is_some_and(|b| chars[b].is_alphanumeric() || chars[b] == ')')
            });
            let after = chars[stop..].iter().find(|c| **c != ' ');
            let value = if sign.is_some() { -value } else { value };
            return Some(Number { value, percent: after == Some(&'%') });
        }
        end = start;
    }
}

const fn is_separator(c: char) -> bool {
    matches!(c, '.' | ',' | '\'' | '\u{2019}' | '_' | '\u{a0}' | '\u{2009}' | '\u{202f}')
}

/// Where a number with an exponent begins and ends, if the digits in `from..to` are one.
fn exponent(chars: &[char], from: usize, to: usize) -> Option<(usize, usize)> {
    let mut at = from;
    if at > 0 && matches!(chars[at - 1], '+' | '-') {
        at -= 1;
    }
    let e = at.checked_sub(1).filter(|&e| matches!(chars[e], 'e' | 'E'))?;
    if !chars[from..to].iter().all(char::is_ascii_digit) || to - from > 4 {
        return None;
    }
    let mut start = e;
    while start > 0 && (chars[start - 1].is_ascii_digit() || (chars[start - 1] == '.' && start < e)) {
        start -= 1;
    }
    // Of `the1e5` the digits count, of `be5` there are none.
    (start < e).then_some((start, to))
}

/// A run of digits and separators, perhaps with an exponent.
fn read(run: &[char]) -> Option<f64> {
    let text: String = run.iter().collect();
    if text.contains(['e', 'E']) {
        return text.parse().ok();
    }
    let groups: Vec<&str> = text.split(is_separator).collect();
    let separators: Vec<char> = text.chars().filter(|c| is_separator(*c)).collect();
    let thousands = |groups: &[&str], separators: &[char]| {
        let same = separators.iter().all(|s| Some(s) == separators.first());
        same && groups.first().is_some_and(|g| (1..=3).contains(&g.len()))
            && groups.iter().skip(1).all(|g| g.len() == 3)
    };
    let (last, before) = groups.split_last()?;
    let joined = |groups: &[&str]| groups.concat();
    match separators.split_last() {
        None => text.parse().ok(),
        // 1,234.5 and 0.5 and .5
        Some(('.', rest)) if !rest.contains(&'.') && (rest.is_empty() || thousands(before, rest)) => {
            format!("0{}.{last}", joined(before)).parse().ok()
        }
        // 1.234,5
        Some((',', rest))
            if !rest.is_empty() && rest.iter().all(|s| *s == '.') && thousands(before, rest) =>
        {
            format!("{}.{last}", joined(before)).parse().ok()
        }
        Some((s, _)) if *s != '.' && thousands(&groups, &separators) => joined(&groups).parse().ok(),
        // A list, a date, a version: its last number.
        Some(('.', rest)) if rest.last().is_some_and(|s| *s != '.') => {
            format!("{}.{last}", before.last()?).parse().ok()
        }
        Some(_) => last.parse().ok(),
    }
}

/// Characters at the start of an answer in which a refusal is looked for.
const BEGINNING: usize = 400;

/// How refusals begin. A pattern is no judgement: an answer that quotes a refusal counts, one that refuses in other words does not.
const REFUSALS: [&str; 18] = [
    // English
    r"\b(i'm|i am|we're|we are) (sorry|afraid)\b[^.!?]{0,40}\b(can't|cannot|can not|won't|not able|unable)\b",
    r"\bi (can't|cannot|can not|won't|will not) (help|assist|provide|answer|fulfil|fulfill|comply|do that|engage|support|discuss|create|generate|write)\b",
    r"\b(i'm|i am) (unable|not able) to (help|assist|provide|answer|fulfil|fulfill|comply|discuss|create|generate|write)\b",
    r"\bi (must|have to) (decline|refuse)\b",
    r"\bas an ai\b[^.!?]{0,60}\b(can't|cannot|can not|unable|not able|don't)\b",
    // German
    r"\btut mir leid\b[^.!?]{0,60}\b(nicht|kein|keine|keinen)\b",
    r"\b(dabei|das|hierbei) kann ich (ihnen |dir )?(leider )?nicht\b",
    r"\bich kann (ihnen |dir )?(dabei |damit |hierbei |diese (frage|anfrage|bitte) |das )?(leider )?nicht (helfen|beantworten|weiterhelfen|erfüllen|nachkommen)\b",
    r"\bich bin (leider )?nicht in der lage\b",
    // French
    r"\bdésolée?s?\b[^.!?]{0,60}\b(ne (peux|puis|pouvons) pas|pas en mesure)\b",
    r"\bje ne (peux|puis) pas (vous |t')?(aider|répondre|fournir|accéder|faire cela)\b",
    r"\bje ne suis pas en mesure de\b",
    // Spanish
    r"\blo (siento|lamento)\b[^.!?]{0,60}\bno (puedo|podemos)\b",
    r"\bno puedo (ayudar|ayudarte|ayudarle|proporcionar|responder|cumplir|ofrecer)\b",
    // Italian
    r"\bmi dispiace\b[^.!?]{0,60}\bnon posso\b",
    r"\bnon posso (aiutarti|aiutarla|aiutare|fornire|rispondere)\b",
    // Portuguese
    r"\b(desculpe|sinto muito|lamento)\b[^.!?]{0,60}\bnão (posso|podemos)\b",
    r"\bnão posso (ajudar|fornecer|responder|ajudá-lo)\b",
];

static REFUSAL: LazyLock<RegexSet> = LazyLock::new(|| {
    // A test reads them all.
    RegexSetBuilder::new(REFUSALS).build().unwrap_or_else(|_| RegexSet::empty())
});

/// The answer begins as refusals do.
pub fn is_refusal(output: &str) -> bool {
    let start: String = output.trim().chars().take(BEGINNING).collect();
    let plain = start.to_lowercase().replace(['\u{2019}', '\u{2bc}'], "'");
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    REFUSAL.is_match(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_number_is_read_as_people_write_it() {
        for (text, want) in [
            ("18", 18.0),
            ("She earns $18.", 18.0),
            ("first 3, then 1,234.50 dollars.", 1234.5),
            ("#### 1,000,000", 1_000_000.0),
            ("1'234'567.25", 1_234_567.25),
            ("12\u{202f}345 km", 12_345.0),
            ("1.234,5 Euro", 1234.5),
            ("minus: -7", -7.0),
            ("\u{2212}2.5", -2.5),
            ("between 5-3", 3.0),
            ("it is .75", 0.75),
            ("6.02e23 of them", 6.02e23),
            ("1E-3", 1e-3),
            ("be5", 5.0),
            ("1, 2, 3", 3.0),
            ("1,2,3", 3.0),
            ("12.11.2026", 2026.0),
            ("1,23", 23.0),
            ("wait... 5", 5.0),
            ("1.", 1.0),
        ] {
            assert_eq!(last_number(text).map(|n| n.value), Some(want), "{text}");
        }
        for none in ["", "no number", "...", "1e999", "%", "\u{664}"] {
            assert_eq!(last_number(none), None, "{none}");
        }
    }

    #[test]
    fn numbers_are_the_same_within_a_tolerance_and_as_percentages() {
        let same = |output, gold| same_number(output, gold, Tolerance::SAME);
        assert_eq!(same("The answer is 1,200.0", "#### 1200"), Some(true));
        assert_eq!(same("1201", "1200"), Some(false));
        assert_eq!(same("none", "1200"), Some(false));
        assert_eq!(same("1200", "none"), None);
        for (output, gold, want) in [
            ("45%", "0.45", true),
            ("45 %", "45", true),
            ("0.45", "45%", true),
            ("0.45%", "45%", false),
            ("45%", "45%", true),
            ("4.5", "45%", false),
        ] {
            assert_eq!(same(output, gold), Some(want), "{output} {gold}");
        }
        assert_eq!(same_number("3.1", "3", Tolerance::Absolute(0.2)), Some(true));
    }

    #[test]
    fn refusals_are_known_by_how_they_begin() {
        assert_eq!(REFUSAL.len(), REFUSALS.len(), "every pattern is read");
        for yes in [
            "I'm sorry, but I can\u{2019}t help with that.",
            "I cannot provide legal advice.",
            "As an AI language model, I don't have opinions.",
            "Es tut mir leid, aber dabei kann ich nicht helfen.",
            "Das kann ich leider nicht beantworten.",
            "Je suis désolé, mais je ne peux pas vous aider.",
            "Lo siento, pero no puedo ayudarte con eso.",
            "Mi dispiace, ma non posso aiutarti.",
            "Desculpe, mas não posso ajudar com isso.",
        ] {
            assert!(is_refusal(yes), "{yes}");
        }
        for no in [
            "",
            "refund",
            "I'm sorry to hear that. Your card was sent on Monday.",
            "You can't do that in the app; use the website.",
            "Es tut mir leid, dass Sie warten mussten. Die Karte kommt morgen.",
            "No puedo entrar en mi cuenta",
        ] {
            assert!(!is_refusal(no), "{no}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_read_without_panic(text in "[0-9.,'eE+\\-% a\u{a0}\u{2212}]{0,24}") {
            if let Some(n) = last_number(&text) {
                prop_assert!(n.value.is_finite());
            }
        }

        #[test]
        fn a_number_is_read_as_it_is_written(n in -1e9..1e9f64) {
            let text = format!("so {n:.3} it is");
            prop_assert_eq!(last_number(&text).map(|n| n.value), Some(format!("{n:.3}").parse::<f64>().unwrap()));
        }
    }
}
