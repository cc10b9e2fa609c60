//! Words as people read them: counts with their noun, the name that was meant, and text without what steers a terminal.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

/// `1 row`, `5 rows`. `one` is the noun for one; its plural ends in `s`.
pub fn counted(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {}", plural(one)) }
}

/// `a`, `a and b`, `a, b and c`.
pub fn listed(words: &[String]) -> String {
    match words {
        [all @ .., before, last] if !all.is_empty() => format!("{}, {before} and {last}", all.join(", ")),
        _ => words.join(" and "),
    }
}

/// The noun alone, for a number that is written in its own way.
pub fn noun(n: usize, one: &str) -> String {
    if n == 1 { one.to_owned() } else { plural(one) }
}

fn plural(one: &str) -> String {
    match one {
        "stratum" => "strata".into(),
        _ => format!("{one}s"),
    }
}

/// `1.4 GiB`
pub fn bytes(n: u64) -> String {
    let mib = n as f64 / f64::from(1 << 20);
    match mib {
        m if m >= 1024.0 => format!("{:.1} GiB", m / 1024.0),
        m if m >= 10.0 => format!("{m:.0} MiB"),
        m => format!("{m:.1} MiB"),
    }
}

/// Marks that change the direction of what follows (embeddings, overrides, isolates: UAX #9): with them a line reads as another one.
/// They pass nowhere, as control characters do not.
pub const fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Control characters, and marks that change the direction of text.
pub fn steers(c: char) -> bool {
    c.is_control() || turns_direction(c)
}

/// Text without the escape sequences in it, whole (ECMA-48: CSI, OSC, DCS, SOS, PM, APC, also in their 8-bit form): a blank stands for each.
pub fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| matches!(c, '\u{1b}' | '\u{90}'..='\u{9f}')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(if skip_escape(c, &mut chars) { ' ' } else { c });
    }
    Cow::Owned(out)
}

/// Whether `first` begins an escape sequence; what follows of it is taken from `rest`.
pub fn skip_escape(first: char, rest: &mut Peekable<Chars<'_>>) -> bool {
    match first {
        '\u{1b}' => match rest.peek().copied() {
            Some('[') => {
                rest.next();
                skip_csi(rest);
            }
            Some(']' | 'P' | 'X' | '^' | '_') => {
                rest.next();
                skip_string(rest);
            }
            // Other escapes: intermediate bytes 0x20..0x2F, then one final byte.
            Some(_) => {
                while rest.next_if(|c| matches!(c, ' '..='/')).is_some() {}
                rest.next_if(|c| matches!(c, '0'..='~'));
            }
            None => {}
        },
        '\u{9b}' => skip_csi(rest),
        '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(rest),
        _ => return false,
    }
    true
}

/// Parameters and intermediates (0x20..0x3F), then one final byte (0x40..0x7E).
fn skip_csi(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// Up to BEL or ST. A string that never ends is cut at the end of the line, so that one bad escape does not swallow a whole row.
fn skip_string(chars: &mut Peekable<Chars<'_>>) {
    while let Some(c) = chars.next_if(|c| *c != '\n') {
        match c {
            '\u{07}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

/// `40 s`, `4 min 7 s`, `2 h 5 min`; rounded up.
pub fn duration(ms: u64) -> String {
    let s = ms.div_ceil(1000);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// A share of rows: as a count where there are too few for a percentage to mean much.
pub fn share(value: f64, n: usize) -> String {
    if n < 30 { format!("{}/{n}", (value * n as f64).round()) } else { format!("{value:.3}") }
}

/// Four figures, whatever the size.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 || (value.fract() == 0.0 && size >= 1.0) {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 0.001 || value == 0.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.1e}")
    }
}

/// `0.012`, `3.1e-7`.
pub fn p_value(p: f64) -> String {
    match p {
        // Such a tail is rounded to 0.
        _ if p < 1e-300 => "under 1e-300".into(),
        _ if p < 0.001 => format!("{p:.1e}"),
        _ => format!("{p:.3}"),
    }
}

/// `2026-11-20 21:04 UTC` of milliseconds since the Unix epoch. Days to a date of the Gregorian calendar as Howard Hinnant's
/// `civil_from_days` (chrono-Compatible Low-Level Date Algorithms).
pub fn utc(ms: u64) -> String {
    let (days, minutes) = (ms / 86_400_000, ms / 60_000 % 1_440);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on.
    let m = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// The nearest of `valid` to what was written, if any is near enough to be meant.
pub fn nearest<'a>(written: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Metrics on strings are quadratic: what is absurdly long was not a slip of the finger.
    if written.len() > 200 {
        return None;
    }
    let lower = written.to_lowercase();
    valid
        .into_iter()
        .map(|key| (strsim::normalized_damerau_levenshtein(&lower, key).max(part_of(&lower, key)), key))
        .filter(|(likeness, _)| *likeness >= 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

/// `lr_rate` and `rate` are not near by letters, but one stands in the other.
fn part_of(written: &str, key: &str) -> f64 {
    let contained = written.len() >= 3 && (key.contains(written) || written.contains(key));
    if contained { 0.5 } else { 0.0 }
}

/// One line of at most `most` characters, without anything that steers a terminal.
pub fn brief(text: &str, most: usize) -> String {
    let mut line = String::new();
    let (mut n, mut gap) = (0, false);
    for c in text.chars() {
        if c.is_whitespace() {
            gap = n > 0;
        } else if !steers(c) {
            if n + usize::from(gap) >= most {
                line.push_str("...");
                break;
            }
            if gap {
                line.push(' ');
                n += 1;
            }
            gap = false;
            line.push(c);
            n += 1;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_listed_with_one_and() {
        let of = |n: usize| listed(&["a", "b", "c", "d"].map(str::to_owned)[..n]);
        assert_eq!([of(0), of(1), of(2), of(3), of(4)], ["", "a", "a and b", "a, b and c", "a, b, c and d"]);
    }

    #[test]
    fn escape_sequences_go_whole_and_leave_the_words_on_both_sides() {
        let words = |text: &str| -> Vec<String> {
            without_escapes(text).split_whitespace().map(String::from).collect()
        };
        assert_eq!(words("card\u{1b}[2Jlost"), ["card", "lost"]);
        assert_eq!(words("\u{1b}]0;title\u{7}card\u{9b}31mred \u{1b}(Bx"), ["card", "red", "x"]);
        assert_eq!(words("never ends \u{1b}]8;;http\nnext"), ["never", "ends", "next"]);
        assert!(matches!(without_escapes("as it is"), Cow::Borrowed("as it is")));
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "row")), ["0 rows", "1 row", "2 rows"]);
        assert_eq!([1, 2].map(|n| counted(n, "stratum")), ["1 stratum", "2 strata"]);
        assert_eq!([1, 2].map(|n| noun(n, "eval row")), ["eval row", "eval rows"]);
    }

    #[test]
    fn few_rows_are_counted_and_many_are_shares() {
        assert_eq!(share(0.5, 10), "5/10");
        assert_eq!(share(0.5, 100), "0.500");
    }

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_340_000), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_868_800_000), "2000-03-01 00:00 UTC");
        assert_eq!(utc(1_709_164_800_000), "2024-02-29 00:00 UTC");
        assert_eq!(utc(1_795_208_645_000), "2026-11-20 21:04 UTC");
    }

    #[test]
    fn what_turns_the_direction_steers_as_control_characters_do() {
        assert!("\u{202a}\u{202e}\u{2066}\u{2069}\u{1b}\u{9b}".chars().all(steers));
        assert!(!"a\u{202f}\u{2065}\u{206a}\u{5d0}".chars().any(turns_direction));
    }

    #[test]
    fn the_nearest_key_is_found_and_nonsense_has_none() {
        let keys = ["learning_rate", "rank", "alpha", "source"];
        assert_eq!(nearest("lerning_rate", keys), Some("learning_rate"));
        assert_eq!(nearest("soruce", keys), Some("source"));
        assert_eq!(nearest("Rank", keys), Some("rank"));
        assert_eq!(nearest("learn", keys), Some("learning_rate"));
        assert_eq!(nearest("xyzzy", keys), None);
        assert_eq!(nearest(&"a".repeat(1 << 20), keys), None);
    }
}
