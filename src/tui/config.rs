//! The user's configuration: `tui.toml`, `keys.toml` and `themes/*.toml` under `$XDG_CONFIG_HOME/tunebench`. All may be absent; what is wrong is said with file and line,
//! and the rest still holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::key::Key;
use super::keymap::Keymap;
use super::theme::{self, BUNDLED, LineError, Theme, bundled, bundled_text};

/// The configuration as the screens use it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub keymap: Keymap,
    /// Every theme there is, bundled ones first.
    pub themes: Vec<Theme>,
    /// The one to start with.
    pub theme: String,
    /// Each with file and line.
    pub problems: Vec<String>,
}

impl Settings {
    /// How notices of problems begin.
    pub const PROBLEM: &'static str = "configuration: ";
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TuiFile {
    theme: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Where the configuration stands (XDG Base Directory Specification); none without a home.
pub fn folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".config")))
        .map(|p| p.join("tunebench"))
}

/// Reads the configuration. `wanted` is a theme from the command line; without colours there is only the mono theme.
pub fn read(folder: Option<&Path>, wanted: Option<&str>, no_color: bool) -> Settings {
    let mut problems = Vec::new();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let at = |name: &str| folder.map(|f| f.join(name));
    let mut complain = |file: &Path, error: LineError| {
        problems.push(format!("{}:{}: {}", file.display(), error.line, error.message));
    };

    let mut chosen = wanted.map(str::to_owned);
    if let Some((file, text)) = at("tui.toml").and_then(load) {
        match toml::from_str::<TuiFile>(&text) {
            Ok(read) => chosen = chosen.or_else(|| read.theme.map(Spanned::into_inner)),
            Err(e) => complain(&file, LineError::toml(&text, &e)),
        }
    }

    let mut keymap = Keymap::default();
    if let Some((file, text)) = at("keys.toml").and_then(load) {
        match keys(&text) {
            Ok(read) => keymap = read,
            Err(e) => complain(&file, e),
        }
    }

    let mut themes: Vec<Theme> = BUNDLED.iter().map(|(name, _)| bundled(name)).collect();
    if let Some(Ok(entries)) = at("themes").map(std::fs::read_dir) {
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        for (path, text) in
            files.into_iter().filter(|f| f.extension().is_some_and(|e| e == "toml")).filter_map(load)
        {
            if let Some(name) = path.file_stem().and_then(|s| s.to_str()) {
                texts.insert(name.to_owned(), text);
            }
        }
    }
    for (name, text) in &texts {
        // A theme that inherits its own name means the bundled one.
        let parent = |wanted: &str| {
            texts.get(wanted).filter(|_| wanted != name).cloned().or_else(|| bundled_text(wanted))
        };
        match theme::parse(name, text, &parent) {
            Ok(theme) => match themes.iter_mut().find(|t| t.name == *name) {
                Some(known) => *known = theme,
                None => themes.push(theme),
            },
            Err(e) => complain(&at("themes").unwrap_or_default().join(format!("{name}.toml")), e),
        }
    }

    let mut theme = chosen.unwrap_or_else(|| "dark".to_owned());
    if no_color {
        themes = vec![bundled("mono")];
        "mono".clone_into(&mut theme);
    } else if !themes.iter().any(|t| t.name == theme) {
        let names: Vec<&str> = themes.iter().map(|t| t.name.as_str()).collect();
        // One that is there but cannot be read was complained of already.
        let unreadable = texts.contains_key(&theme);
        problems.extend(
            (!unreadable).then(|| format!("there is no theme `{theme}`; there are {}", names.join(", "))),
        );
        "dark".clone_into(&mut theme);
    }
    Settings { keymap, themes, theme, problems }
}

fn load(path: PathBuf) -> Option<(PathBuf, String)> {
    let text = std::fs::read(&path).ok()?;
    Some((path, String::from_utf8_lossy(&text).into_owned()))
}

fn keys(text: &str) -> Result<Keymap, LineError> {
    let file: BTreeMap<Spanned<String>, Spanned<OneOrMany>> =
        toml::from_str(text).map_err(|e| LineError::toml(text, &e))?;
    let mut changes = BTreeMap::new();
    for (name, value) in &file {
        let names = match value.as_ref() {
            OneOrMany::One(key) => vec![key.clone()],
            OneOrMany::Many(keys) => keys.clone(),
        };
        let keys: Result<Vec<Key>, String> = names.iter().map(|k| k.parse()).collect();
        changes.insert(name.as_ref().clone(), keys.map_err(|e| LineError::at(text, value.span().start, e))?);
    }
    Keymap::with(&changes).map_err(|(name, message)| {
        let offset = file.keys().find(|k| *k.as_ref() == name).map_or(0, |k| k.span().start);
        LineError::at(text, offset, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::keymap::{Action, Context};
    use crate::tui::theme::Role;

    #[test]
    fn nothing_there_is_fine() {
        let settings = read(Some(Path::new("/nonexistent")), None, false);
        assert_eq!((settings.theme.as_str(), settings.themes.len()), ("dark", 4));
        assert!(settings.problems.is_empty());
    }

    #[test]
    fn mistakes_are_named_with_file_and_line_and_the_rest_holds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("themes")).unwrap();
        std::fs::write(dir.path().join("tui.toml"), "theme = \"mine\"\n").unwrap();
        std::fs::write(dir.path().join("keys.toml"), "\"row.mark\" = [\"x\"]\n\"row.gold\" = \"hyper-g\"\n")
            .unwrap();
        std::fs::write(
            dir.path().join("themes/mine.toml"),
            "inherits = \"light\"\n[roles]\ngood = { bold = true }\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("themes/bad.toml"), "[roles]\ngod = {}\n").unwrap();
        let settings = read(Some(dir.path()), None, false);
        assert_eq!(settings.theme, "mine");
        assert_eq!(settings.problems.len(), 2, "{:?}", settings.problems);
        assert!(settings.problems[0].contains("keys.toml:2: `hyper-g` is no key"), "{:?}", settings.problems);
        assert!(settings.problems[1].contains("bad.toml:2: unknown role `god`"), "{:?}", settings.problems);
        let mine = settings.themes.iter().find(|t| t.name == "mine").unwrap();
        assert_eq!(mine.style(Role::Good), ratatui::style::Style::new().bold());
    }

    #[test]
    fn keys_change_what_the_keymap_finds() {
        let keymap = keys("\"row.mark\" = [\"y\", \"f5\"]\n").unwrap();
        assert_eq!(keymap.find(&[Context::Rows], Key::char('y')).map(|b| b.action), Some(Action::Mark));
        assert_eq!(keymap.find(&[Context::Rows], Key::char('m')).map(|b| b.action), None);
        assert_eq!(keys("\n\"row.marc\" = \"x\"\n").unwrap_err().line, 2);
    }

    #[test]
    fn no_color_means_mono() {
        let settings = read(None, Some("light"), true);
        assert_eq!((settings.theme.as_str(), settings.themes.len()), ("mono", 1));
    }

    #[test]
    fn the_folder_follows_xdg() {
        let with = |pairs: &'static [(&str, &str)]| {
            folder(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(with(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]), Some("/x/tunebench".into()));
        assert_eq!(with(&[("XDG_CONFIG_HOME", "rel"), ("HOME", "/h")]), Some("/h/.config/tunebench".into()));
        assert_eq!(with(&[]), None);
    }
}
