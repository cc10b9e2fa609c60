//! Residents of this user on this machine, as batch runs see them: who they are, and what memory they were promised.
//!
//! Each living one has a file in a private folder, locked as long as it lives.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::control::{self, Ask};
use crate::domain::run::{RunAction, RunKind};
use crate::machine;
use crate::store::files::{self, Lock};

/// What a resident says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// `serve-1 of support-desk`
    pub name: String,
    pub kind: RunKind,
    pub pid: u32,
    /// Bytes it may come to hold.
    pub promised: u64,
    /// Its control socket.
    pub control: PathBuf,
}

/// A resident's entry, until dropped.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn folder() -> io::Result<PathBuf> {
    let dir = files::private_temp()?.join("residents");
    files::private_dir(&dir)?;
    Ok(dir)
}

/// Enters a resident.
///
/// # Errors
/// The folder cannot be written.
pub fn enter(neighbour: &Neighbour) -> io::Result<Entry> {
    enter_in(&folder()?, neighbour)
}

fn enter_in(dir: &Path, neighbour: &Neighbour) -> io::Result<Entry> {
    let path = dir.join(format!("{}.json", neighbour.pid));
    let note = serde_json::to_string(neighbour)?;
    match Lock::try_take(&path, &note)? {
        Some(lock) => Ok(Entry { path, _lock: lock }),
        None => Err(io::Error::other(format!("{} is held by another process", path.display()))),
    }
}

/// Those that live. What dead ones left is removed.
pub fn living() -> Vec<Neighbour> {
    folder().map(|dir| living_in(&dir)).unwrap_or_default()
}

fn living_in(dir: &Path) -> Vec<Neighbour> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<Neighbour> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            if !Lock::is_held(&path) {
                let _ = fs::remove_file(&path);
                return None;
            }
            serde_json::from_slice(&fs::read(&path).ok()?).ok()
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Bytes that residents were promised and do not hold yet.
pub fn still_promised(neighbours: &[Neighbour]) -> u64 {
    let open = |n: &Neighbour| n.promised.saturating_sub(machine::resident_of(n.pid).unwrap_or(0));
    neighbours.iter().filter(|n| n.pid != std::process::id()).map(open).sum()
}

/// Playgrounds make room for `run`.
pub fn ask_playgrounds_to_leave(neighbours: &[Neighbour], run: &str) {
    for playground in neighbours.iter().filter(|n| n.kind == RunKind::Playground) {
        let why = Some(format!("made room for {run}"));
        // One that does not hear is waited for like the others.
        let _ = control::ask(&playground.control, &Ask::Action { ask: RunAction::Stop, why });
    }
}

/// `serve-1 of a and serve-2 of b`
pub fn names(neighbours: &[Neighbour]) -> String {
    neighbours.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resident_is_seen_while_it_lives_and_its_promise_counts_until_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut neighbour = Neighbour {
            name: "serve-1 of w".into(),
            kind: RunKind::Serve,
            pid: std::process::id(),
            promised: 1 << 50,
            control: "/nowhere".into(),
        };
        fs::write(dir.path().join("1.json"), "left by a dead one").unwrap();
        let entry = enter_in(dir.path(), &neighbour).unwrap();
        assert_eq!(living_in(dir.path()), [neighbour.clone()]);
        assert!(enter_in(dir.path(), &neighbour).is_err());
        assert_eq!(still_promised(&[neighbour.clone()]), 0, "one's own promise is no other's");
        drop(entry);
        assert!(living_in(dir.path()).is_empty());
        assert!(!dir.path().join("1.json").exists());
        // The process that started the tests holds something.
        neighbour.pid = rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32;
        let open = still_promised(&[neighbour.clone()]);
        assert!(open > 0 && open < 1 << 50, "{open}");
        neighbour.promised = 1;
        assert_eq!(still_promised(&[neighbour]), 0);
    }
}
