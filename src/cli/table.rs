//! Tables for people: columns aligned by what a terminal shows, text from data and models made harmless.

use unicode_width::UnicodeWidthStr as _;

use crate::domain::run::RunRecord;
use crate::domain::words::steers;
pub use crate::domain::words::{number, share};

/// Without control characters and escape sequences: what data or a model wrote must not steer the terminal.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // CSI ... final byte; OSC ... BEL or ST; else the character after ESC.
            '\u{1b}' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {},
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\n' | '\t' | '\r' => out.push(' '),
            c if steers(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// [`clean`], line by line.
pub fn clean_lines(text: &str) -> String {
    let mut out: String = text.lines().flat_map(|line| [clean(line), "\n".into()]).collect();
    if !text.ends_with('\n') {
        out.pop();
    }
    out
}

/// Rows of cells under a header; columns named with a leading `>` are aligned to the right.
#[derive(Debug)]
pub struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        let right = header.iter().map(|h| h.starts_with('>')).collect();
        let names = header.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![names] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|c| clean(c)).collect());
    }

    pub fn render(&self) -> String {
        let columns = self.right.len();
        let width =
            |at: usize| self.rows.iter().filter_map(|r| r.get(at)).map(|c| c.width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate().take(columns) {
                if at > 0 {
                    line.push_str("  ");
                }
                let pad = " ".repeat(widths[at].saturating_sub(cell.width()));
                if self.right[at] {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Milliseconds for people: `840ms`, `12.3s`, `4m07`, `2h05m`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{}.{}s", s, ms % 1000 / 100),
        60..3600 => format!("{}m{:02}", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

/// What a run's figures say in a line: `loss 0.412 eval_loss 0.518`.
pub fn figures(run: &RunRecord, at_most: usize) -> String {
    let mut names: Vec<&String> = run.metrics.keys().collect();
    // The metrics of the end tell more than the last loss.
    names.sort_by_key(|n| (n.contains("loss") && run.state.has_result(), n.contains(':'), n.as_str()));
    names
        .into_iter()
        .take(at_most)
        .map(|n| format!("{n} {}", number(run.metrics.get(n).copied().unwrap_or_default())))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wide_characters_count_twice() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(vec!["日本".into(), "1".into()]);
        table.row(vec!["ab".into(), "10".into()]);
        assert_eq!(table.render(), "name   n\n日本   1\nab    10\n");
    }

    #[test]
    fn escape_sequences_are_taken_out_whole() {
        assert_eq!(clean("a\u{1b}[31mred\u{1b}[0m b"), "ared b");
        assert_eq!(clean("\u{1b}]0;title\u{7}x\u{1b}]8;;http://x\u{1b}\\y"), "xy");
        assert_eq!(clean("one\ntwo\u{202e}"), "one two");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(840), "840ms");
        assert_eq!(duration(12_340), "12.3s");
        assert_eq!(duration(247_000), "4m07");
        assert_eq!(duration(7_500_000), "2h05m");
    }

    proptest! {
        #[test]
        fn nothing_that_steers_a_terminal_passes(text in any::<String>()) {
            prop_assert!(!clean(&text).chars().any(steers));
        }
    }
}
