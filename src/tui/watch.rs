//! The user's configuration, read again when a file of it is saved.

use notify::{RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Options;
use super::config::{self, Settings};

/// Settings whenever they change; nothing for a folder that does not exist or cannot be watched.
pub fn settings(
    options: &Options,
) -> (Option<Debouncer<RecommendedWatcher, RecommendedCache>>, UnboundedReceiver<Settings>) {
    let (send, receive) = unbounded_channel();
    let Some(folder) = options.config.clone().filter(|f| f.is_dir()) else {
        return (None, receive);
    };
    let (theme, no_color) = (options.theme.clone(), options.no_color);
    let read = folder.clone();
    let on_change = move |events: DebounceEventResult| {
        if events.is_ok_and(|events| events.iter().any(|e| !e.kind.is_access())) {
            // The screens may be gone already.
            let _ = send.send(config::read(Some(&read), theme.as_deref(), no_color));
        }
    };
    let watcher =
        new_debouncer(std::time::Duration::from_millis(100), None, on_change).and_then(|mut watcher| {
            watcher.watch(&folder, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
    (watcher.ok(), receive)
}
