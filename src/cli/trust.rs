//! Whom the keys of a workspace may go to. A workspace is somebody's file: before a key goes to an origin that it names for the
//! first time, the person is asked, and the answer is remembered in `trust.json` of the user's configuration.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::output::Exit;
use super::table::clean;
use crate::domain::keys::{KeyNeed, Keys};
use crate::store::files::{self, Lock};
use crate::tui::config;

/// How the flag is called that says yes without being asked.
const FLAG: &str = "--trust";

#[derive(Debug, Default, Serialize, Deserialize)]
struct TrustFile {
    trusted: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Entry {
    /// Its folder.
    workspace: String,
    #[serde(flatten)]
    need: KeyNeed,
}

/// What one workspace is trusted with.
#[derive(Debug)]
pub struct Trust {
    path: Option<PathBuf>,
    workspace: String,
    trusted: Vec<KeyNeed>,
}

fn read(path: &Path) -> Result<TrustFile, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TrustFile::default()),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let damaged = |e| format!("{}: {e}; remove the file to be asked again", path.display());
    serde_json::from_slice(&bytes).map_err(damaged)
}

impl Trust {
    /// What was agreed to before.
    pub fn load(root: &Path) -> Result<Self, Exit> {
        let folder = config::folder(|name| std::env::var(name).ok());
        Self::load_from(folder.map(|folder| folder.join("trust.json")), root)
    }

    fn load_from(path: Option<PathBuf>, root: &Path) -> Result<Self, Exit> {
        let root = root.canonicalize()?;
        let workspace = root.display().to_string();
        let file = path.as_deref().map(read).transpose().map_err(Exit::usage)?.unwrap_or_default();
        let mine = file.trusted.into_iter().filter(|entry| entry.workspace == workspace);
        Ok(Self { path, trusted: mine.map(|entry| entry.need).collect(), workspace })
    }

    /// Knows nothing, and writes nothing down.
    pub fn forgetful(root: &Path) -> Result<Self, Exit> {
        Self::load_from(None, root)
    }

    pub fn knows(&self, need: &KeyNeed) -> bool {
        self.trusted.contains(need)
    }

    /// Agreed to: from now on, and in `trust.json`.
    pub fn add(&mut self, needs: &[KeyNeed]) -> io::Result<()> {
        let new: Vec<KeyNeed> = needs.iter().filter(|need| !self.knows(need)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        self.trusted.extend(new.iter().cloned());
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Another client may be asked in the same moment.
        let _lock = Lock::take_within(&path.with_extension("lock"), "", Duration::from_secs(2))?;
        let mut file = read(path).map_err(io::Error::other)?;
        let entry = |need| Entry { workspace: self.workspace.clone(), need };
        file.trusted.extend(new.into_iter().map(entry));
        file.trusted.sort();
        file.trusted.dedup();
        files::write_json(path, &file)
    }

    /// The keys that are needed: those that are trusted already, and those that the person now agrees to. `agreed`: by the flag.
    pub fn settle(&mut self, needs: &[KeyNeed], agreed: bool) -> Result<Keys, Exit> {
        let values: Vec<(KeyNeed, String)> = needs
            .iter()
            .map(|need| Ok((need.clone(), value(&need.variable).ok_or_else(|| unset(need))?)))
            .collect::<Result<_, Exit>>()?;
        for need in needs {
            if self.knows(need) || agreed || self.agree(need)? {
                self.add(std::slice::from_ref(need))
                    .map_err(|e| Exit::failed(format!("the answer could not be kept: {e}")))?;
            } else {
                return Err(Exit::usage(format!(
                    "{} was not sent to {}",
                    clean(&need.variable),
                    clean(&need.origin)
                )));
            }
        }
        Ok(Keys::new(values))
    }

    /// Asks on the terminal.
    fn agree(&self, need: &KeyNeed) -> Result<bool, Exit> {
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Exit::usage(format!("{}; say {FLAG} to agree, once for all", question(need))));
        }
        let mut stderr = io::stderr().lock();
        write!(
            stderr,
            "{} in {}. Send it, now and whenever it is needed? [y/N] ",
            question(need),
            clean(&self.workspace)
        )?;
        stderr.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
    }
}

fn question(need: &KeyNeed) -> String {
    let open = if need.is_open() { ", unencrypted" } else { "" };
    format!("the workspace sends the key in {} to {}{open}", clean(&need.variable), clean(&need.origin))
}

/// The value of a variable, where it is set.
pub fn value(variable: &str) -> Option<String> {
    std::env::var(variable).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

pub fn unset(need: &KeyNeed) -> Exit {
    Exit::usage(format!("{need} is needed, and the variable is not set: export {}=...", need.variable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn need(origin: &str) -> KeyNeed {
        KeyNeed { origin: origin.into(), variable: "TUNEBENCH_TEST_NO_SUCH_KEY".into() }
    }

    #[test]
    fn what_was_agreed_to_holds_for_that_workspace_origin_and_variable() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config/trust.json");
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&two).unwrap();
        let load = |root: &Path| Trust::load_from(Some(path.clone()), root).unwrap();
        let mut first = load(&one);
        let mut other = load(&two);
        first.add(&[need("https://a")]).unwrap();
        other.add(&[need("https://b")]).unwrap();
        assert!(load(&one).knows(&need("https://a")) && !load(&one).knows(&need("https://b")));
        assert!(load(&two).knows(&need("https://b")) && !load(&two).knows(&need("https://a")));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        let said = Trust::load_from(Some(path.clone()), &one).unwrap_err().message;
        assert!(said.contains("trust.json") && said.contains("remove the file"), "{said}");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let mut trust = Trust::load_from(None, temp.path()).unwrap();
        let exit = trust.settle(&[need("https://a")], true).unwrap_err();
        assert_eq!(exit.code, 2);
        assert!(exit.message.contains("TUNEBENCH_TEST_NO_SUCH_KEY"), "{}", exit.message);
        assert!(!trust.knows(&need("https://a")));
    }
}
