//! The signs of the interface, for terminals with Unicode and for those without.

use ratatui::symbols::border;

/// Everything that is drawn and is not a letter. Meaning never hangs on colour alone: it hangs on these.
#[derive(Clone, Debug)]
pub struct Signs {
    /// Replace what is not ASCII in foreign text, and draw charts without braille.
    pub ascii: bool,
    pub border: border::Set<'static>,
    pub right: &'static str,
    pub wrong: &'static str,
    pub open: &'static str,
    pub star: &'static str,
    pub warning: &'static str,
    pub pointer: &'static str,
    pub bullet: &'static str,
    pub dot: &'static str,
    pub arrow: &'static str,
    pub ellipsis: &'static str,
    pub plus_minus: &'static str,
    pub delta: &'static str,
    pub newline: &'static str,
    pub fixed: &'static str,
    pub regressed: &'static str,
    pub churned: &'static str,
    pub running: &'static str,
    pub paused: &'static str,
    pub queued: &'static str,
    /// Marks of a curve's evaluations, one per overlaid run.
    pub marks: [&'static str; 5],
    /// Rising levels of a small bar.
    pub levels: [&'static str; 8],
    pub cursor: &'static str,
    pub bar_full: &'static str,
    pub bar_empty: &'static str,
}

impl Signs {
    pub const fn unicode() -> Self {
        Self {
            ascii: false,
            border: border::PLAIN,
            right: "✓",
            wrong: "✗",
            open: "·",
            star: "★",
            warning: "!",
            pointer: "›",
            bullet: "●",
            dot: "·",
            arrow: "→",
            ellipsis: "…",
            plus_minus: "±",
            delta: "Δ",
            newline: "⏎",
            fixed: "▲",
            regressed: "▼",
            churned: "◆",
            running: "▶",
            paused: "‖",
            queued: "◌",
            marks: ["●", "◆", "■", "▲", "○"],
            levels: ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
            cursor: "│",
            bar_full: "█",
            bar_empty: "░",
        }
    }

    pub const fn ascii() -> Self {
        Self {
            ascii: true,
            border: border::Set {
                top_left: "+",
                top_right: "+",
                bottom_left: "+",
                bottom_right: "+",
                vertical_left: "|",
                vertical_right: "|",
                horizontal_top: "-",
                horizontal_bottom: "-",
            },
            right: "+",
            wrong: "x",
            open: ".",
            star: "*",
            warning: "!",
            pointer: ">",
            bullet: "o",
            dot: "|",
            arrow: "->",
            ellipsis: "~",
            plus_minus: "+-",
            delta: "d",
            newline: " ",
            fixed: "^",
            regressed: "v",
            churned: "*",
            running: ">",
            paused: "=",
            queued: ".",
            marks: ["O", "X", "#", "A", "@"],
            levels: ["_", "_", ".", "-", "-", "=", "#", "#"],
            cursor: "|",
            bar_full: "#",
            bar_empty: ".",
        }
    }

    /// A bar one cell wide for a share of 0..1.
    pub fn level(&self, share: f64) -> &'static str {
        if !share.is_finite() {
            return " ";
        }
        self.levels[((share.clamp(0.0, 1.0) * 7.0).round() as usize).min(7)]
    }
}

/// Whether the locale of the environment is a UTF-8 one: the first of `LC_ALL`, `LC_CTYPE`, `LANG` that is set decides (POSIX).
pub fn locale_is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| variable(name))
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_set_locale_variable_decides() {
        let with = |pairs: &'static [(&str, &str)]| {
            locale_is_utf8(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(with(&[("LANG", "de_DE.UTF-8")]));
        assert!(with(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!with(&[("LANG", "de_DE.ISO-8859-1")]));
        assert!(!with(&[]));
    }

    #[test]
    fn ascii_signs_are_ascii() {
        let text = format!("{:?}", Signs::ascii());
        assert!(text.is_ascii(), "{text}");
    }
}
