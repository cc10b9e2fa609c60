//! Files that people edit: noticed while somebody follows [`View::Files`](crate::domain::api::View::Files), read again, and told.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::parts;
use super::state::Engine;
use crate::domain::api::FileNews;
use crate::workspace::watch::{self, Watch};
use crate::workspace::{FILE, Problems, Workspace};

/// The watch, as long as anybody follows.
#[derive(Debug, Default)]
pub struct Watching {
    followers: usize,
    watch: Option<Watch>,
}

/// Keeps the watch alive; the last one to let go ends it.
#[derive(Debug)]
pub struct Follower(Arc<Engine>);

pub fn follow(engine: &Arc<Engine>) -> Follower {
    let mut watching = engine.watching.lock().unwrap_or_else(PoisonError::into_inner);
    watching.followers += 1;
    if watching.watch.is_none() {
        watching.watch = start(engine);
    }
    drop(watching);
    // What is saved from now on is compared with this.
    note_prompts(engine);
    Follower(engine.clone())
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut watching = self.0.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.followers -= 1;
        if watching.followers == 0 {
            watching.watch = None;
        }
    }
}

/// None, with a notice, where the system cannot watch.
fn start(engine: &Arc<Engine>) -> Option<Watch> {
    let ws = Workspace::open(&engine.root).ok().map(|(ws, _)| ws);
    let weak = Arc::downgrade(engine);
    let changed = move |paths: Vec<PathBuf>| {
        if let Some(engine) = weak.upgrade() {
            read_again(&engine, &paths);
        }
    };
    match watch::watch(&engine.root, ws.as_ref(), changed) {
        Ok(watch) => Some(watch),
        Err(error) => {
            let text = format!("{FILE}: saved files are not noticed here: {error}");
            tell(engine, vec![FileNews { file: FILE.into(), problem: true, text }]);
            None
        }
    }
}

/// Read again what was saved, and tell what came of it.
fn read_again(engine: &Arc<Engine>, paths: &[PathBuf]) {
    let again = paths.iter().any(|path| *path == engine.root.join(FILE));
    if again {
        // It may name other files now.
        let mut watching = engine.watching.lock().unwrap_or_else(PoisonError::into_inner);
        if watching.followers > 0 {
            watching.watch = start(engine).or(watching.watch.take());
        }
    }
    let (ws, problems) = match Workspace::open(&engine.root) {
        Ok((ws, missing)) => (Some(ws), missing),
        Err(problems) => (None, problems),
    };
    let news: Vec<FileNews> =
        paths.iter().map(|path| news_of(engine, ws.as_ref(), &problems, path)).collect();
    let usable = news.iter().all(|news| !news.problem);
    tell(engine, news);
    if usable {
        note_prompts(engine);
    }
    if again && ws.is_some() {
        // Goals, metrics, dimensions may be others.
        engine.update(|state| {
            state.board_version = state.version;
            state.strata_version = state.version;
        });
    }
}

/// The prompts as they stand are a version.
fn note_prompts(engine: &Engine) {
    if let Err(failure) = super::trial::note_files(engine) {
        tracing::warn!("the prompts are not kept as a version: {}", failure.message);
    }
}

fn news_of(engine: &Engine, ws: Option<&Workspace>, problems: &Problems, path: &Path) -> FileNews {
    let file = path.strip_prefix(&engine.root).unwrap_or(path).display().to_string();
    let bad = |text: String| FileNews { file: file.clone(), problem: true, text };
    let good = |text: String| FileNews { file: file.clone(), problem: false, text };
    let is_it = |named: &str| engine.root.join(named) == path || ws.is_some_and(|w| w.resolve(named) == path);
    let mut mine = problems.0.iter().filter(|p| is_it(&p.file));
    if let Some(first) = mine.next() {
        let line = if first.line > 0 { format!("{}:", first.line) } else { String::new() };
        let more = mine.count();
        let more = if more > 0 { format!(" ({more} more: `tunebench check`)") } else { String::new() };
        let kept = if file == FILE && ws.is_none() { "; what was read before still holds" } else { "" };
        return bad(format!("{file}:{line} {}{more}{kept}", first.message));
    }
    if !path.exists() {
        return bad(format!("{file}: is gone"));
    }
    if file == FILE {
        return good(format!("{file}: read again"));
    }
    if ws.is_some_and(|ws| ws.sources().iter().any(|source| source == path)) {
        return match parts::import(engine, false) {
            Ok(report) => {
                let aside = match report.quarantined_total {
                    0 => String::new(),
                    n => format!(", {n} set aside"),
                };
                good(format!("{file}: changed on disk and indexed again, {} rows{aside}", report.rows))
            }
            Err(failure) => bad(format!("{file}: cannot be indexed: {}", failure.message)),
        };
    }
    good(format!("{file}: saved; what is started from now on uses it"))
}

fn tell(engine: &Engine, news: Vec<FileNews>) {
    engine.update(|state| {
        for news in news {
            state.files.insert(news.file.clone(), (state.version, news));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn until(engine: &Engine, file: &str, what: &str) -> FileNews {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let news = engine.read(|s| s.files.get(file).map(|(_, news)| news.clone()));
            if let Some(news) = news.clone().filter(|n| n.text.contains(what)) {
                return news;
            }
            assert!(Instant::now() < deadline, "{file}: {what}: {news:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn saved_files_are_read_again_while_somebody_follows() {
        let dir = crate::workspace::tests::sample();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join(".tunebench")).unwrap();
        let engine = Engine::open(&root, "unused".into()).unwrap();
        let (first, second) = (follow(&engine), follow(&engine));
        drop(first);

        std::fs::write(root.join("prompts/route.md"), "Sort: {{ input }}").unwrap();
        assert!(!until(&engine, "prompts/route.md", "saved").problem);
        std::fs::write(root.join("prompts/route.md"), "Sort:\n{% if %}").unwrap();
        assert!(until(&engine, "prompts/route.md", "prompts/route.md:2: not a valid template").problem);

        let rows = "{\"message\":\"a\",\"team\":\"b\"}\n{\"message\":\"c\",\"team\":\"d\"}\n";
        std::fs::write(root.join("data/tickets.jsonl"), rows).unwrap();
        assert!(!until(&engine, "data/tickets.jsonl", "indexed again, 2 rows").problem);

        let good = std::fs::read_to_string(root.join(FILE)).unwrap();
        std::fs::write(root.join(FILE), format!("[evil]\nx = 1\n{good}")).unwrap();
        let news = until(&engine, FILE, "workspace.toml:1:");
        assert!(news.problem && news.text.contains("evil"), "{news:?}");
        std::fs::write(root.join(FILE), &good).unwrap();
        assert!(!until(&engine, FILE, "read again").problem);

        drop(second);
        assert!(engine.watching.lock().unwrap().watch.is_none(), "nobody follows, nothing is watched");
    }
}
