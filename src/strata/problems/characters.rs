//! Characters that do not belong in a text: control characters, U+FFFD, invisible ones, text that was decoded with the wrong encoding,
//! letters of two alphabets in one word.

/// Something odd, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Odd {
    pub what: String,
    /// Characters before it.
    pub at: usize,
}

/// The first `most` odd things of a text.
pub fn odd(text: &str, most: usize) -> Vec<Odd> {
    if text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n' | b'\r' | b'\t')) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut word = Word::default();
    let mut before = None;
    let mut all = text.chars().enumerate().peekable();
    while let Some((at, c)) = all.next() {
        if found.len() >= most {
            return found;
        }
        let after = all.peek().map(|(_, c)| *c);
        if let Some(what) = strange(before, c, after) {
            found.push(Odd { what: format!("{what} U+{:04X}", c as u32), at });
        } else if let Some(garbled) = after.and_then(|after| garbled(c, after)) {
            found.push(Odd {
                what: format!("garbled text: `{c}{}` for `{garbled}`", after.unwrap_or(' ')),
                at,
            });
            all.next();
            before = after;
            word = Word::default();
            continue;
        }
        if let Some((first, second)) = word.takes(c) {
            found.push(Odd { what: format!("{first} and {second} letters in one word"), at });
        }
        before = Some(c);
    }
    found.truncate(most);
    found
}

/// What a single character is, if it is odd between its neighbours.
fn strange(before: Option<char>, c: char, after: Option<char>) -> Option<&'static str> {
    match c {
        '\n' | '\r' | '\t' => None,
        '\u{fffd}' => Some("replacement character (bytes that could not be read)"),
        '\u{feff}' => Some("byte order mark"),
        '\u{200b}' | '\u{2060}' | '\u{180e}' | '\u{00ad}' => Some("invisible character"),
        // Joiners have work to do in emoji and in scripts that join their letters.
        '\u{200c}' | '\u{200d}' => {
            let joins = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && script(c).is_none());
            (!(joins(before) && joins(after))).then_some("invisible character")
        }
        // Marks of direction belong to scripts that are written from the right.
        c if crate::domain::words::turns_direction(c) => Some("mark that turns the direction of text"),
        '\u{e000}'..='\u{f8ff}' | '\u{f0000}'.. => Some("private use character"),
        c if c.is_control() => Some("control character"),
        _ => None,
    }
}

/// UTF-8 of two bytes that was read as Windows-1252 or ISO 8859-1: `Ã©` for `é`, and the beginning of three bytes: `â€` for quotation marks.
fn garbled(c: char, after: char) -> Option<char> {
    if c == '\u{e2}' && after == '\u{20ac}' {
        return Some('\u{2019}');
    }
    let lead = match c as u32 {
        lead @ 0xC2..=0xC5 => lead,
        _ => return None,
    };
    let trail = as_byte(after)?;
    // `Â` before a space or a sign, `Ã` before what no text has behind it.
    let c = char::from_u32((lead & 0x1F) << 6 | (u32::from(trail) & 0x3F))?;
    (c.is_alphanumeric() || matches!(c, '\u{a0}'..='\u{bf}')).then_some(c)
}

/// The byte 0x80..0xC0 that Windows-1252 or ISO 8859-1 shows as this character.
fn as_byte(c: char) -> Option<u8> {
    /// Windows-1252, 0x80 to 0x9F; those without a character stand as in ISO 8859-1.
    const HIGH: [u32; 32] = [
        0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152,
        0x8D, 0x017D, 0x8F, 0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122,
        0x0161, 0x203A, 0x0153, 0x9D, 0x017E, 0x0178,
    ];
    match c as u32 {
        byte @ 0x80..0xC0 => Some(byte as u8),
        other => HIGH.iter().position(|high| *high == other).map(|at| 0x80 + at as u8),
    }
}

/// The alphabets that are confused with each other. Others may stand together (Japanese mixes three).
fn script(c: char) -> Option<&'static str> {
    if !c.is_alphabetic() {
        return None;
    }
    match c as u32 {
        0x41..=0x5A | 0x61..=0x7A | 0xC0..=0x24F | 0x1E00..=0x1EFF => Some("Latin"),
        // Greek letters that stand for something in formulas and units stand alone, or at the end of a word.
        0x370..=0x3FF | 0x1F00..=0x1FFF => Some("Greek"),
        0x400..=0x52F => Some("Cyrillic"),
        _ => None,
    }
}

/// The word that is being read.
#[derive(Default)]
struct Word {
    script: Option<&'static str>,
    told: bool,
}

impl Word {
    /// Both alphabets at the first letter of the second one. A Greek letter beside Latin ones is a symbol (`kΩ`, `αvalue`).
    fn takes(&mut self, c: char) -> Option<(&'static str, &'static str)> {
        if !c.is_alphabetic() {
            *self = Self::default();
            return None;
        }
        let now = script(c)?;
        let before = *self.script.get_or_insert(now);
        let mixed = before != now && (before == "Cyrillic" || now == "Cyrillic") && !self.told;
        self.told |= mixed;
        mixed.then_some((before, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Vec<String> {
        odd(text, 9).into_iter().map(|o| format!("{}: {}", o.at, o.what)).collect()
    }

    #[test]
    fn what_does_not_belong_is_found_with_its_place() {
        for (text, want) in [
            ("a\0b", "1: control character U+0000"),
            ("a\u{1b}[31m", "1: control character U+001B"),
            ("caf\u{fffd}", "3: replacement character"),
            ("\u{feff}id", "0: byte order mark"),
            ("pass\u{200b}word", "4: invisible character U+200B"),
            ("pass\u{200d}word", "4: invisible character U+200D"),
            ("cafÃ© au lait", "3: garbled text: `Ã©` for `é`"),
            ("Ã¼ber", "0: garbled text: `Ã¼` for `ü`"),
            ("10Â\u{a0}kg", "2: garbled text"),
            ("itâ€™s", "2: garbled text"),
            ("p\u{430}ypal", "1: Latin and Cyrillic letters in one word"),
            ("\u{202e}gpj.exe", "0: mark that turns the direction"),
            ("\u{e001}", "0: private use character"),
        ] {
            let got = said(text);
            assert!(got.len() == 1 && got[0].starts_with(want), "{text:?}: {got:?}");
        }
    }

    #[test]
    fn what_people_write_is_left_alone() {
        for text in [
            "",
            "plain\ttext\r\nand more",
            "Ürün Çeşme São Tomé Ångström",
            "Überraschung ÄÖÜ",
            "привет мир",
            "日本語とカタカナ mixed with English",
            "👩\u{200d}👩\u{200d}👧 family",
            "می\u{200c}خواهم",
            "10 kΩ, µm, ∆x",
            "“quotes” – dashes — …",
            "naïve café",
            "€ 5 £3",
            "العربية",
            "à la carte Â",
            "USD-рубль и iPhone",
        ] {
            assert_eq!(said(text), Vec::<String>::new(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            let all = odd(&text, usize::MAX);
            prop_assert!(all.iter().all(|o| o.at < text.chars().count()));
            let one = odd(&text, 1);
            prop_assert!(one.len() <= 1);
            prop_assert_eq!(one.first(), all.first());
        }
    }
}
