//! `workspace.toml`: schema, defaults, validation with line numbers; and watching its files.
//!
//! Unknown keys are errors with file, line and the nearest valid key. Secrets never stand in the file.

pub mod config;
mod files;
mod method;
mod problem;
mod reader;
pub mod scaffold;
mod schema;
mod settings;
mod tree;
pub mod watch;

use std::path::{Path, PathBuf};

pub use config::Config;
pub use problem::{Problem, Problems};

pub use crate::domain::words::nearest;

use crate::domain::run::RunKind;
use crate::domain::tool::Tool;

/// Name of the file that makes a folder a workspace.
pub const FILE: &str = "workspace.toml";

/// Name of the state folder.
pub const STATE: &str = ".tunebench";

/// Inputs that were typed in the playground, with the answers that people gave: rows beside those of the sources. Written by the engine
/// from its journal.
pub const FEEDBACK: &str = ".tunebench/feedback/rows.jsonl";

/// Rows that runs made and people accepted, `grow-N.jsonl` for each run: sources beside those that the file names.
pub const GROWN_SOURCES: &str = "data/grown";

/// A file that people write by hand is never this long.
const MAX_BYTES: u64 = 1 << 20;

/// An opened workspace: where it is and what its file says.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The folder, absolute.
    pub root: PathBuf,
    /// `workspace.toml`, absolute.
    pub file: PathBuf,
    pub config: Config,
    tree: tree::Table,
}

impl Workspace {
    /// Reads and validates `workspace.toml` and looks whether the files it names are there.
    pub fn load(dir: &Path) -> Result<Self, Problems> {
        let (workspace, missing) = Self::open(dir)?;
        missing.into_result()?;
        Ok(workspace)
    }

    /// [`Self::load`] for those who can work while a data file, prompt or model is missing: what is missing is handed back.
    pub fn open(dir: &Path) -> Result<(Self, Problems), Problems> {
        let (root, file) = locate(dir)?;
        let tree = tree::parse(FILE, &read_text(&file, FILE)?).map_err(Problems)?;
        let mut workspace = Self::from_tree(root, file, tree)?;
        let mut missing = files::missing(&workspace);
        missing.0.extend(files::take_schemas(&mut workspace));
        Ok((workspace, missing))
    }

    fn from_tree(root: PathBuf, file: PathBuf, tree: tree::Table) -> Result<Self, Problems> {
        let folder =
            root.file_name().map_or_else(|| "workspace".into(), |n| n.to_string_lossy().into_owned());
        let sink = reader::Sink::new(FILE);
        let config = schema::read(&tree, &folder, &sink);
        Problems(sink.into_parts().0).into_result()?;
        Ok(Self { root, file, config, tree })
    }

    /// The workspace with `--set key=value` applied. A key is a path of `workspace.toml` (`tuning.train.rank`, `stage.route.max_tokens`,
    /// `models.base.path`); keys of the run's own table may stand alone (`rank`), and so may any key that only one table has.
    pub fn with_settings(self, kind: Option<RunKind>, set: &[(String, String)]) -> Result<Self, Problems> {
        if set.is_empty() {
            return Ok(self);
        }
        let mut tree = self.tree.clone();
        settings::apply(&mut tree, &self.valid_keys(), kind, set)?;
        let mut workspace = Self::from_tree(self.root, self.file, tree)?;
        let mut missing = files::missing(&workspace);
        missing.0.extend(files::take_schemas(&mut workspace));
        missing.into_result()?;
        Ok(workspace)
    }

    /// Valid keys by table path.
    fn valid_keys(&self) -> settings::Keys {
        let sink = reader::Sink::new(FILE);
        schema::read(&self.tree, "", &sink);
        sink.into_parts().1
    }

    /// A path as written in the file, made absolute.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        // Lexical, so that messages show a readable path also where nothing is there.
        files::tidy(&self.root.join(path))
    }

    /// A recorded tool by its file.
    pub fn tool(&self, path: &Path) -> Result<Tool, Problems> {
        files::read_tool(self, path)
    }

    /// A JSON Schema by its file.
    pub fn schema(&self, path: &Path) -> Result<serde_json::Value, Problems> {
        files::read_schema(self, path)
    }

    /// The data files, absolute, in order.
    pub fn sources(&self) -> Vec<PathBuf> {
        self.config.data.sources.iter().map(|s| self.resolve(s)).collect()
    }

    /// The files of a set, as shown and absolute.
    pub fn set_files(&self, set: &config::SetConfig) -> Vec<(String, PathBuf)> {
        set.sources.iter().map(|source| (source.clone(), self.resolve(source))).collect()
    }

    /// Sets that an evaluation is also on.
    pub fn sets_of_eval(&self) -> Vec<&config::SetConfig> {
        let wanted = |set: &&config::SetConfig| match &self.config.eval.sets {
            Some(named) => named.contains(&set.settings.name),
            None => set.every,
        };
        self.config.sets.iter().filter(wanted).collect()
    }

    /// Files of rows that were made and accepted, as shown, in the order of their runs.
    fn grown(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join(GROWN_SOURCES)) else { return Vec::new() };
        let number = |name: &str| name.strip_prefix("grow-")?.strip_suffix(".jsonl")?.parse::<u64>().ok();
        let mut found: Vec<(u64, String)> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some((number(&name)?, format!("{GROWN_SOURCES}/{name}"))))
            .filter(|(_, path)| self.root.join(path).is_file())
            .collect();
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// Every file with rows, as shown and absolute: the sources, rows that were made and accepted, and people's feedback where there is any.
    pub fn row_files(&self) -> Vec<(String, PathBuf)> {
        let mut files: Vec<(String, PathBuf)> =
            self.config.data.sources.iter().cloned().zip(self.sources()).collect();
        let named: Vec<PathBuf> = files.iter().map(|(_, path)| path.clone()).collect();
        let grown = self.grown().into_iter().map(|shown| (shown.clone(), self.resolve(&shown)));
        files.extend(grown.filter(|(_, path)| !named.contains(path)));
        let feedback = self.root.join(FEEDBACK);
        if feedback.is_file() {
            files.push((FEEDBACK.to_owned(), feedback));
        }
        files
    }

    /// The state folder `.tunebench`.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join(STATE)
    }

    /// Line of `workspace.toml` where a key stands (`data.gold`, `stage.0.prompt`); 0 where it does not.
    pub fn line_of(&self, path: &str) -> u64 {
        settings::place_of(&self.tree, path)
    }

    /// A problem with the value of a key of `workspace.toml`.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        Problem { file: FILE.into(), line: self.line_of(path), message: message.into() }
    }
}

/// The workspace's folder and file; `dir` may also name the file itself.
fn locate(dir: &Path) -> Result<(PathBuf, PathBuf), Problems> {
    let dir = if dir.file_name().is_some_and(|n| n == FILE) && !dir.is_dir() {
        dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    } else {
        dir
    };
    let shown = dir.display().to_string();
    let root = std::fs::canonicalize(dir).map_err(|e| Problems::of_file(&shown, cannot_read(&e)))?;
    if !root.is_dir() {
        return Err(Problems::of_file(shown, "is not a folder; name the folder that holds workspace.toml"));
    }
    let file = root.join(FILE);
    if std::fs::symlink_metadata(&file).is_err() {
        let advice = format!("no {FILE} here; make one with `tunebench init DIR --data FILE --model DIR`");
        return Err(Problems::of_file(root.display().to_string(), advice));
    }
    Ok((root, file))
}

fn cannot_read(error: &std::io::Error) -> String {
    format!("cannot be read: {error}")
}

/// A small text file that people write.
fn read_text(file: &Path, shown: &str) -> Result<String, Problems> {
    let bad = |message: String| Problems::of_file(shown, message);
    let meta = std::fs::metadata(file).map_err(|e| bad(cannot_read(&e)))?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "a folder" } else { "not a regular file" };
        return Err(bad(format!("is {what}; a text file is expected")));
    }
    if meta.len() > MAX_BYTES {
        return Err(bad(format!("has {} bytes; at most {MAX_BYTES} are read", meta.len())));
    }
    let bytes = std::fs::read(file).map_err(|e| bad(cannot_read(&e)))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = String::from_utf8_lossy(valid).matches('\n').count() as u64 + 1;
        let message = "is not valid UTF-8 here; save it as UTF-8".into();
        Problems(vec![Problem { file: shown.into(), line, message }])
    })?;
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() as u64 + 1;
        let message = "holds a NUL character here; it is no text file".into();
        return Err(Problems(vec![Problem { file: shown.into(), line, message }]));
    }
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
pub(crate) mod tests;
