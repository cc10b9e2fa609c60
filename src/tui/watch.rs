//! The user's configuration, read again when a file of it is saved.

use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Options;
use super::config::{self, Settings};

/// An editor writes a file in several strokes; this long after the last one it is read.
const SETTLING: Duration = Duration::from_millis(100);

/// Settings whenever they change, as long as the watcher lives; nothing for a folder that does not exist or cannot be watched.
///
/// The debouncers of notify's family wake up all the time, and an idle screen shall cost nothing: hence one of our own.
pub fn settings(options: &Options) -> (Option<RecommendedWatcher>, UnboundedReceiver<Settings>) {
    let (send, receive) = unbounded_channel();
    let Some(folder) = options.config.clone().filter(|f| f.is_dir()) else {
        return (None, receive);
    };
    let (strokes, mut changed) = unbounded_channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|e| !e.kind.is_access()) {
            // The screens may be gone already.
            let _ = strokes.send(());
        }
    });
    let watcher = watcher.and_then(|mut watcher| {
        watcher.watch(&folder, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    let (theme, no_color) = (options.theme.clone(), options.no_color);
    tokio::spawn(async move {
        while changed.recv().await.is_some() {
            while let Ok(Some(())) = tokio::time::timeout(SETTLING, changed.recv()).await {}
            if send.send(config::read(Some(&folder), theme.as_deref(), no_color)).is_err() {
                return;
            }
        }
    });
    (watcher.ok(), receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_theme_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tui.toml");
        std::fs::write(&file, "theme = \"dark\"\n").unwrap();
        let options = Options { config: Some(dir.path().to_owned()), ..Options::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = runtime.block_on(async {
            let (watcher, mut changes) = settings(&options);
            assert!(watcher.is_some());
            std::fs::write(&file, "theme = \"light\"\n").unwrap();
            changes.recv().await
        });
        assert_eq!(read.map(|s| s.theme).as_deref(), Some("light"));
        let nowhere = Options { config: Some(dir.path().join("absent")), ..options };
        assert!(settings(&nowhere).0.is_none());
    }
}
