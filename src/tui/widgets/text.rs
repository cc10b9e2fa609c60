//! Foreign text made fit for a terminal: everything that comes from data, models and files passes through [`clean`].

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::domain::words::{skip_escape, turns_direction};

/// Marks stacked on one letter beyond this number are dropped: they would paint over neighbouring lines.
const MAX_COMBINING: usize = 3;

/// Invisible characters, and those that change the direction or look of what follows.
const fn is_deceptive(c: char) -> bool {
    turns_direction(c)
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}' // zero width space and joiners, direction marks
            | '\u{2028}' | '\u{2029}' // line and paragraph separators
            | '\u{2060}'..='\u{206F}' // word joiner, invisible operators
            | '\u{3164}' | '\u{FFA0}'
            | '\u{FE00}'..='\u{FE0F}' // variation selectors: terminals disagree about their width
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E0FFF}' // tags and further selectors
        )
}

fn is_plain(c: char) -> bool {
    (c == '\n' || !c.is_control()) && (c.is_ascii() || !(is_deceptive(c) || is_combining(c)))
}

fn is_combining(c: char) -> bool {
    !c.is_ascii() && unicode_width::UnicodeWidthChar::width(c) == Some(0)
}

/// Strips control sequences (ECMA-48: CSI, OSC, DCS, SOS, PM, APC, also in their 8-bit form), control characters, direction overrides,
/// zero-width characters and piles of combining marks. Line breaks stay, tabs become spaces.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut combining = 0;
    while let Some(c) = chars.next() {
        match c {
            c if skip_escape(c, &mut chars) => {}
            '\t' => out.push_str("    "),
            '\n' => out.push('\n'),
            '\r' => {
                if chars.peek() != Some(&'\n') {
                    out.push('\n');
                }
            }
            c if c.is_control() || is_deceptive(c) => {}
            c if is_combining(c) => {
                combining += 1;
                if combining <= MAX_COMBINING {
                    out.push(c);
                }
                continue;
            }
            c => out.push(c),
        }
        combining = 0;
    }
    Cow::Owned(out)
}

/// Cells that `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Foreign text on one line: cleaned, line breaks shown as `newline`.
pub fn one_line(text: &str, newline: &str) -> String {
    clean(text).trim_end_matches('\n').replace('\n', newline)
}

/// What is not ASCII becomes `?`, one per cell.
pub fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for g in text.graphemes(true) {
        match g {
            "·" => out.push('|'),
            "—" | "–" => out.push('-'),
            "’" | "‘" => out.push('\''),
            "“" | "”" => out.push('"'),
            g if g.is_ascii() => out.push_str(g),
            g => out.extend(std::iter::repeat_n('?', g.width())),
        }
    }
    Cow::Owned(out)
}

/// At most `cells` cells of `text`, with `ellipsis` in the last where something was cut off.
pub fn cut<'a>(text: &'a str, cells: usize, ellipsis: &str) -> Cow<'a, str> {
    // A text never takes more cells than bytes.
    if text.len() <= cells || text.width() <= cells {
        return Cow::Borrowed(text);
    }
    let room = cells.saturating_sub(ellipsis.width());
    let mut out = String::new();
    let mut used = 0;
    for g in text.graphemes(true) {
        let w = g.width();
        if used + w > room {
            break;
        }
        out.push_str(g);
        used += w;
    }
    if cells > 0 {
        out.push_str(ellipsis);
    }
    Cow::Owned(out)
}

/// [`cut`], but in the middle: names that are alike often differ at their ends (`stratum \u{b7} channel=chat`).
pub fn cut_middle<'a>(text: &'a str, cells: usize, ellipsis: &str) -> Cow<'a, str> {
    if text.len() <= cells || text.width() <= cells {
        return Cow::Borrowed(text);
    }
    // Two thirds for the beginning.
    let tail_room = cells.saturating_sub(ellipsis.width()) / 3;
    let (mut from, mut used) = (text.len(), 0);
    for (at, g) in text.grapheme_indices(true).rev() {
        used += g.width();
        if used > tail_room {
            break;
        }
        from = at;
    }
    let tail = text.get(from..).unwrap_or_default();
    Cow::Owned(format!("{}{tail}", cut(text, cells.saturating_sub(tail.width()), ellipsis)))
}

/// Cleaned text broken into lines of at most `cells` cells, at spaces where there are any; at most `limit` lines.
pub fn wrap(text: &str, cells: usize, limit: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if cells == 0 {
        return lines;
    }
    for paragraph in clean(text).split('\n') {
        let mut line = String::new();
        let mut used = 0;
        for word in paragraph.split_inclusive(' ') {
            let w = word.trim_end().width();
            if used > 0 && used + w > cells {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
                used = 0;
            }
            if w > cells {
                for g in word.graphemes(true) {
                    if used + g.width() > cells {
                        lines.push(std::mem::take(&mut line));
                        used = 0;
                    }
                    used += g.width();
                    line.push_str(g);
                    if lines.len() >= limit {
                        return lines;
                    }
                }
            } else {
                line.push_str(word);
                used += word.width();
            }
            if lines.len() >= limit {
                return lines;
            }
        }
        lines.push(line.trim_end().to_owned());
        if lines.len() >= limit {
            break;
        }
    }
    lines.truncate(limit);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_cut_in_the_middle_keep_their_ends() {
        let name = "clicked buy on \u{b7} channel=chat";
        assert_eq!(cut_middle(name, 15, "\u{2026}"), "clicked bu\u{2026}chat");
        assert_eq!(cut_middle("short", 15, "\u{2026}"), "short");
        for cells in 0..20 {
            assert!(
                width(&cut_middle(
                    "\u{4f60}\u{597d} card \u{4f60}\u{597d}\u{4f60}\u{597d} e\u{301}",
                    cells,
                    "\u{2026}"
                )) <= cells
            );
        }
    }

    #[test]
    fn control_sequences_leave_nothing_behind() {
        for (dirty, want) in [
            ("a\u{1b}[31;1mred\u{1b}[0m b", "ared b"),
            ("\u{1b}]0;title\u{07}x", "x"),
            ("\u{1b}]52;c;ZXZpbA==\u{1b}\\x", "x"),
            ("\u{1b}P+q544e\u{1b}\\x", "x"),
            ("\u{9b}2Jx\u{9d}0;t\u{9c}y", "xy"),
            ("\u{1b}(0x\u{1b}cy\u{1b}", "xy"),
            ("bell\u{07} null\0 back\u{08}", "bell null back"),
            ("one\r\ntwo\rthree", "one\ntwo\nthree"),
            ("a\tb", "a    b"),
            ("\u{1b}]8;;http://x/never ends\nnext", "\nnext"),
        ] {
            assert_eq!(clean(dirty), want, "{dirty:?}");
        }
    }

    #[test]
    fn direction_overrides_and_invisible_characters_are_dropped() {
        assert_eq!(clean("user\u{202E}nimda\u{202C} \u{2066}x\u{2069}"), "usernimda x");
        assert_eq!(clean("z\u{200B}e\u{200D}r\u{FEFF}o\u{E0041}"), "zero");
    }

    #[test]
    fn a_pile_of_combining_marks_is_cut_down() {
        let pile = format!("e{}x", "\u{0301}".repeat(50));
        assert_eq!(clean(&pile), format!("e{}x", "\u{0301}".repeat(MAX_COMBINING)));
        assert_eq!(clean("naïve e\u{0301}te\u{0301}"), "naïve e\u{0301}te\u{0301}");
    }

    #[test]
    fn wide_characters_count_for_two_cells() {
        assert_eq!(cut("日本語のテキスト", 7, "…"), "日本語…");
        assert_eq!(cut("日本語", 6, "…"), "日本語");
        assert_eq!(cut("abc", 2, "…"), "a…");
        assert_eq!(wrap("日本語 text", 6, 9), ["日本語", "text"]);
    }

    #[test]
    fn ascii_keeps_the_number_of_cells() {
        assert_eq!(ascii("naïve 日本"), "na?ve ????");
    }

    proptest! {
        #[test]
        fn clean_text_has_no_control_characters_and_stays_clean(s in "\\PC*|(.|\\x1b|\\x9b|\\[|\\]|;|\\x07|\\u{202E})*") {
            let once = clean(&s).into_owned();
            prop_assert!(once.chars().all(|c| c == '\n' || !c.is_control() && !is_deceptive(c)), "{once:?}");
            prop_assert_eq!(clean(&once).into_owned(), once.clone());
        }

        #[test]
        fn no_line_is_wider_than_asked(s in ".{0,80}", cells in 2_usize..20) {
            for line in wrap(&s, cells, 100) {
                prop_assert!(width(&line) <= cells, "{line:?}");
            }
            prop_assert!(width(&cut(&clean(&s).replace('\n', " "), cells, "…")) <= cells);
        }
    }
}
