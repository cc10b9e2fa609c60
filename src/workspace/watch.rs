//! Notices when `workspace.toml`, a prompt or a data file was saved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::config::{Constrain, ModelPlace};
use super::{FILE, Workspace};

/// Editors save in several steps (write, rename, change mode); changes this close together are one.
const SETTLE: Duration = Duration::from_millis(200);
/// A file that is written all the time is told of this often.
const LONGEST: Duration = Duration::from_secs(5);

/// Watches until dropped.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
}

/// Calls `changed` with the absolute paths of the workspace's files that were written, made, renamed or removed; on a thread of its own,
/// which sleeps while nothing changes (the debouncers of notify's family wake up all the time). Without a workspace that can be read:
/// of `workspace.toml` in `root` alone.
///
/// Watches the folders that hold the files, not the files: editors replace a file by rename, and a watched file that is
/// replaced is lost.
pub fn watch(
    root: &Path,
    ws: Option<&Workspace>,
    changed: impl Fn(Vec<PathBuf>) + Send + 'static,
) -> anyhow::Result<Watch> {
    let mut files: BTreeSet<PathBuf> = BTreeSet::from([root.join(FILE)]);
    if let Some(ws) = ws {
        files.extend(ws.sources());
        files.extend(ws.config.stages.iter().filter_map(|s| s.prompt.as_ref()).map(|p| ws.resolve(p)));
        files.extend(ws.config.stages.iter().flat_map(|s| &s.tools).map(|p| ws.resolve(p)));
        files.extend(ws.config.stages.iter().filter_map(|s| match &s.constrain {
            Some(Constrain::Schema(path)) => Some(ws.resolve(path)),
            _ => None,
        }));
        let train = ws.config.tuning.train.prompt.as_str();
        if !matches!(train, "bare" | "same") {
            files.insert(ws.resolve(train));
        }
        files.extend(ws.config.models.values().filter_map(|m| match &m.place {
            ModelPlace::Local { path } => Some(ws.resolve(path).join("config.json")),
            ModelPlace::Endpoint { .. } => None,
        }));
    }
    // Events carry the path of the watched folder as the system knows it, which is not the path as written where a link is on the way.
    let mut by_real: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for file in files {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { continue };
        let Ok(real) = std::fs::canonicalize(folder) else { continue };
        by_real.insert(real.join(name), file.clone());
        folders.insert(real);
    }
    let prompts = std::fs::canonicalize(root.join("prompts")).ok();
    folders.extend(prompts.clone());

    let (strokes, settle) = mpsc::channel::<PathBuf>();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        if event.kind.is_access() {
            return;
        }
        for path in &event.paths {
            let file = match by_real.get(path) {
                Some(file) => file,
                None if is_prompt(path, prompts.as_deref()) => path,
                None => continue,
            };
            // Whoever listened may be gone already.
            let _ = strokes.send(file.clone());
        }
    })?;
    std::thread::Builder::new().name("files".into()).spawn(move || {
        while let Ok(first) = settle.recv() {
            let mut paths = BTreeSet::from([first]);
            let until = Instant::now() + LONGEST;
            while let Ok(path) =
                settle.recv_timeout(SETTLE.min(until.saturating_duration_since(Instant::now())))
            {
                paths.insert(path);
            }
            changed(paths.into_iter().collect());
        }
    })?;
    for folder in folders {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(Watch { _watcher: watcher })
}

/// A new prompt is of interest before `workspace.toml` names it.
fn is_prompt(path: &Path, prompts: Option<&Path>) -> bool {
    prompts.is_some() && path.parent() == prompts && path.extension().is_some_and(|e| e == "md")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_prompt_saved_by_rename_and_data_appended_are_noticed_and_other_files_are_not() {
        let dir = crate::workspace::tests::sample();
        let ws = Workspace::load(dir.path()).unwrap();
        let (tx, rx) = mpsc::channel();
        let _watch = watch(&ws.root, Some(&ws), move |paths| tx.send(paths).unwrap()).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        std::fs::write(ws.root.join("prompts/route.md.tmp"), "{{ input }}!").unwrap();
        std::fs::rename(ws.root.join("prompts/route.md.tmp"), ws.root.join("prompts/route.md")).unwrap();
        std::fs::write(ws.root.join("data/tickets.jsonl"), "{}\n").unwrap();
        let expected = BTreeSet::from([ws.root.join("prompts/route.md"), ws.root.join("data/tickets.jsonl")]);
        let mut seen = BTreeSet::new();
        while seen != expected {
            seen.extend(rx.recv_timeout(Duration::from_secs(20)).unwrap());
            assert!(seen.is_subset(&expected), "{seen:?}");
        }
    }
}
