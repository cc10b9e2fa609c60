//! Themes: a style for each role of the interface, read from TOML, inheritable.
//!
//! ```toml
//! inherits = "dark"
//! [roles]
//! good = { fg = "green", bold = true }
//! selected = { fg = "#ffffff", bg = "blue" }
//! ```

use std::collections::BTreeMap;

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;
use toml::Spanned;

/// What a piece of the screen means. Styles hang on roles only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Text,
    Dim,
    Title,
    Header,
    Tab,
    TabActive,
    Key,
    Border,
    BorderFocused,
    Selected,
    Good,
    Bad,
    Warning,
    Notice,
    Input,
    Cursor,
    Axis,
    Curve,
    CurveRaw,
    Eval,
    Series1,
    Series2,
    Series3,
    Series4,
    Series5,
    Series6,
    Added,
    Removed,
}

impl Role {
    const ALL: [(&'static str, Self); 28] = [
        ("text", Self::Text),
        ("dim", Self::Dim),
        ("title", Self::Title),
        ("header", Self::Header),
        ("tab", Self::Tab),
        ("tab_active", Self::TabActive),
        ("key", Self::Key),
        ("border", Self::Border),
        ("border_focused", Self::BorderFocused),
        ("selected", Self::Selected),
        ("good", Self::Good),
        ("bad", Self::Bad),
        ("warning", Self::Warning),
        ("notice", Self::Notice),
        ("input", Self::Input),
        ("cursor", Self::Cursor),
        ("axis", Self::Axis),
        ("curve", Self::Curve),
        ("curve_raw", Self::CurveRaw),
        ("eval", Self::Eval),
        ("series_1", Self::Series1),
        ("series_2", Self::Series2),
        ("series_3", Self::Series3),
        ("series_4", Self::Series4),
        ("series_5", Self::Series5),
        ("series_6", Self::Series6),
        ("added", Self::Added),
        ("removed", Self::Removed),
    ];

    /// The role of the n-th thing of a kind.
    pub const fn series(n: usize) -> Self {
        [Self::Series1, Self::Series2, Self::Series3, Self::Series4, Self::Series5, Self::Series6][n % 6]
    }
}

/// A style for each role.
#[derive(Clone, Debug, PartialEq)]
pub struct Theme {
    pub name: String,
    styles: Vec<Style>,
}

impl Theme {
    pub fn style(&self, role: Role) -> Style {
        self.styles.get(role as usize).copied().unwrap_or_default()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThemeFile {
    inherits: Option<Spanned<String>>,
    #[serde(default)]
    roles: BTreeMap<Spanned<String>, Spanned<StyleFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StyleFile {
    fg: Option<Spanned<String>>,
    bg: Option<Spanned<String>>,
    #[serde(default)]
    bold: bool,
    #[serde(default)]
    dim: bool,
    #[serde(default)]
    italic: bool,
    #[serde(default)]
    underlined: bool,
    #[serde(default)]
    reversed: bool,
}

/// Why a file of the configuration cannot be used: the line, counted from 1, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    pub line: usize,
    pub message: String,
}

impl LineError {
    pub fn at(text: &str, offset: usize, message: impl Into<String>) -> Self {
        let line = text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
        Self { line, message: message.into() }
    }

    pub fn toml(text: &str, error: &toml::de::Error) -> Self {
        Self::at(text, error.span().map_or(0, |s| s.start), error.message())
    }
}

/// Colour names: the sixteen of ANSI, the terminal's own, `#rrggbb`, or a number of the 256.
fn color(text: &str) -> Option<Color> {
    Some(match text {
        "default" => Color::Reset,
        "black" => Color::Black,
        "red" => Color::Red,
        "green" => Color::Green,
        "yellow" => Color::Yellow,
        "blue" => Color::Blue,
        "magenta" => Color::Magenta,
        "cyan" => Color::Cyan,
        "gray" => Color::Gray,
        "dark-gray" => Color::DarkGray,
        "light-red" => Color::LightRed,
        "light-green" => Color::LightGreen,
        "light-yellow" => Color::LightYellow,
        "light-blue" => Color::LightBlue,
        "light-magenta" => Color::LightMagenta,
        "light-cyan" => Color::LightCyan,
        "white" => Color::White,
        _ => match text.strip_prefix('#') {
            Some(hex) if hex.len() == 6 && hex.is_ascii() => {
                let rgb = u32::from_str_radix(hex, 16).ok()?;
                Color::Rgb((rgb >> 16) as u8, (rgb >> 8) as u8, rgb as u8)
            }
            Some(_) => return None,
            None => Color::Indexed(text.parse().ok()?),
        },
    })
}

/// Reads a theme. `parent` gives the text of another theme by its name.
///
/// # Errors
/// The line and what is wrong there: a role, colour or parent that does not exist, a circle of parents.
pub fn parse(name: &str, text: &str, parent: &dyn Fn(&str) -> Option<String>) -> Result<Theme, LineError> {
    parse_below(name, text, parent, 0)
}

fn parse_below(
    name: &str,
    text: &str,
    parent: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<Theme, LineError> {
    let file: ThemeFile = toml::from_str(text).map_err(|e| LineError::toml(text, &e))?;
    let mut styles = vec![Style::default(); Role::ALL.len()];
    if let Some(inherits) = &file.inherits {
        let fail = |message: String| LineError::at(text, inherits.span().start, message);
        let wanted = inherits.as_ref();
        if depth >= 8 {
            return Err(fail(format!("`{wanted}` inherits in a circle")));
        }
        let above = parent(wanted).ok_or_else(|| fail(format!("there is no theme `{wanted}` to inherit")))?;
        styles = parse_below(wanted, &above, parent, depth + 1)
            .map_err(|e| fail(format!("theme `{wanted}`, line {}: {}", e.line, e.message)))?
            .styles;
    }
    for (role, spec) in &file.roles {
        let wanted = role.as_ref().as_str();
        let Some((_, role)) = Role::ALL.iter().find(|(n, _)| *n == wanted) else {
            let nearest = Role::ALL
                .iter()
                .map(|(n, _)| *n)
                .max_by(|a, b| strsim::jaro_winkler(a, wanted).total_cmp(&strsim::jaro_winkler(b, wanted)))
                .unwrap_or_default();
            return Err(LineError::at(
                text,
                role.span().start,
                format!("unknown role `{wanted}`; the nearest is `{nearest}`"),
            ));
        };
        let spec = spec.as_ref();
        let read = |value: &Option<Spanned<String>>| {
            match value {
            None => Ok(None),
            Some(value) => color(value.as_ref()).map(Some).ok_or_else(|| {
                LineError::at(
                    text,
                    value.span().start,
                    format!("`{}` is no colour; expected an ANSI name (red, light-blue, dark-gray), #rrggbb, 0-255 or default", value.as_ref()),
                )
            }),
        }
        };
        let mut style = Style { fg: read(&spec.fg)?, bg: read(&spec.bg)?, ..Style::default() };
        for (on, modifier) in [
            (spec.bold, Modifier::BOLD),
            (spec.dim, Modifier::DIM),
            (spec.italic, Modifier::ITALIC),
            (spec.underlined, Modifier::UNDERLINED),
            (spec.reversed, Modifier::REVERSED),
        ] {
            if on {
                style = style.add_modifier(modifier);
            }
        }
        if let Some(slot) = styles.get_mut(*role as usize) {
            *slot = style;
        }
    }
    Ok(Theme { name: name.to_owned(), styles })
}

/// The bundled themes by name.
pub const BUNDLED: [(&str, &str); 4] = [
    ("dark", include_str!("../../themes/dark.toml")),
    ("light", include_str!("../../themes/light.toml")),
    ("high-contrast", include_str!("../../themes/high-contrast.toml")),
    ("mono", include_str!("../../themes/mono.toml")),
];

/// Text of a bundled theme.
pub fn bundled_text(name: &str) -> Option<String> {
    BUNDLED.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_owned())
}

/// A bundled theme; without styles where the name is unknown.
pub fn bundled(name: &str) -> Theme {
    bundled_text(name)
        .and_then(|text| parse(name, &text, &bundled_text).ok())
        .unwrap_or_else(|| Theme { name: name.to_owned(), styles: vec![Style::default(); Role::ALL.len()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_stand_in_the_order_of_their_styles() {
        for (i, (name, role)) in Role::ALL.iter().enumerate() {
            assert_eq!(*role as usize, i, "{name}");
        }
    }

    #[test]
    fn every_bundled_theme_reads_and_keeps_to_ansi_colours() {
        for (name, text) in BUNDLED {
            let theme = parse(name, text, &bundled_text)
                .unwrap_or_else(|e| panic!("{name}:{}: {}", e.line, e.message));
            for style in &theme.styles {
                for color in [style.fg, style.bg].into_iter().flatten() {
                    assert!(!matches!(color, Color::Rgb(..) | Color::Indexed(_)), "{name}: {color:?}");
                    assert!(name != "mono", "mono has no colours");
                }
            }
            assert_ne!(theme.style(Role::Selected), theme.style(Role::Text), "{name}: the selection shows");
        }
    }

    #[test]
    fn a_theme_changes_what_it_names_and_inherits_the_rest() {
        let theme = parse(
            "mine",
            "inherits = \"dark\"\n[roles]\ngood = { fg = \"#010203\", bold = true }\n",
            &bundled_text,
        );
        let theme = theme.unwrap();
        assert_eq!(theme.style(Role::Good), Style::new().fg(Color::Rgb(1, 2, 3)).bold());
        assert_eq!(theme.style(Role::Bad), bundled("dark").style(Role::Bad));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, want) in [
            ("[roles]\ngood = {}\ngod = {}\n", 3, "unknown role `god`; the nearest is `good`"),
            ("[roles]\n\ngood = { fg = \"grün\" }\n", 3, "`grün` is no colour"),
            ("inherits = \"nobody\"\n", 1, "there is no theme `nobody`"),
            ("inherits = \"self\"\n", 1, "circle"),
            ("[roles]\ngood = { blink = true }\n", 2, "unknown field `blink`"),
            ("\n[roles\n", 2, ""),
        ] {
            let circle = |name: &str| (name == "self").then(|| "inherits = \"self\"".to_owned());
            let error = parse("x", text, &circle).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error:?}");
            assert!(error.message.contains(want), "{text:?}: {error:?}");
        }
    }
}
