//! The engine: one per workspace, the only process that opens the store.
//!
//! ```text
//! server      sockets: a task per client, that pulls what its client follows when the client can take it
//! requests    one request -> one response, on blocking threads
//! state       runs and decisions in memory, under one lock held for moments
//! standing    the outcomes behind the board, and each candidate's row, worked out once
//! play        questions to the playground's worker, and their answers to the client that asked
//! feedback    what people said of answers, and the rows that are made of it
//! supervisor  a thread: starts workers, follows their event files, buries the dead
//! outcomes    results made elsewhere, and which rows they are of
//! remedies    what could be done about a wrong row, and what that takes
//! sets        rows that once were fixed, and general-ability sets
//! saved       files that people save, while somebody looks
//! launch      checks what is wished for and makes its run
//! freeze      writes what a run works on into its folder
//! models      models by place and content
//! ```

mod board;
mod branch;
mod candidates;
pub mod client;
mod compare;
mod complete;
mod count;
mod decisions;
mod examples;
mod export_rows;
mod feedback;
mod filter;
mod freeze;
mod grow;
mod honest;
mod ingest;
mod judges;
mod judging;
mod launch;
mod leaks;
mod map;
mod models;
mod outcomes;
mod pairs;
mod parts;
mod play;
mod power;
mod preview;
mod problems;
mod prompts;
pub mod protocol;
mod queue;
mod remedies;
mod requests;
mod resident;
mod review;
mod rows;
mod sample;
mod saved;
mod scaling;
mod server;
mod sets;
mod standing;
mod state;
mod steer;
mod strata;
mod supervisor;
mod sweep;
mod timeline;
mod trial;
mod versions;
mod views;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixListener;

use crate::store::files::{self, Lock};

/// Exit code of an engine that found another one's lock.
pub const EXIT_LOCKED: u8 = 75;

/// How an engine's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nobody was attached and nothing was under way, or it was asked to leave.
    Left,
    /// Another engine serves this workspace.
    Locked,
}

/// Where the engine of the workspace at `root` (absolute) listens.
pub fn socket_path(root: &Path) -> io::Result<PathBuf> {
    files::socket_path(&root.join(".tunebench/engine.sock"))
}

/// Be the engine of the workspace at `root`, until nobody needs one.
pub fn run(root: &Path) -> anyhow::Result<Ending> {
    // The terminal that the client was started from is not ours.
    let _ = rustix::process::setsid();
    let root = root.canonicalize().with_context(|| format!("no folder at {}", root.display()))?;
    let state_dir = root.join(".tunebench");
    files::state_dir(&state_dir).map_err(files::with_remedy)?;
    let note = std::process::id().to_string();
    let Some(_lock) = Lock::take_within(&state_dir.join("engine.lock"), &note, Duration::from_millis(100))?
    else {
        return Ok(Ending::Locked);
    };
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()?;
    let path = socket_path(&root)?;
    // Bound before the store is opened: clients that come meanwhile wait instead of starting another engine.
    let listener = {
        let _guard = runtime.enter();
        bind(&path)?
    };
    let served = (|| {
        let engine = state::Engine::open(&root, program)?;
        let supervisor = supervisor::start(engine.clone())?;
        tracing::info!("engine {} serves {}", protocol::VERSION, root.display());
        let served = runtime.block_on(server::serve(engine.clone(), listener));
        engine.update(|state| state.leaving = true);
        let _ = supervisor.join();
        served.map_err(anyhow::Error::from)
    })();
    // Before the lock is given back: whoever has the lock may put a socket there.
    let _ = fs::remove_file(&path);
    runtime.shutdown_timeout(Duration::from_secs(2));
    served.map(|()| Ending::Left)
}

/// Listen at `path`. What lies there is left of a dead engine, since the lock is ours; but only a socket, and only our own, is replaced.
fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(meta) => {
            files::check_owner(path, meta.uid(), files::own_uid())?;
            anyhow::ensure!(
                meta.file_type().is_socket(),
                "{} is in the way: it is no socket; remove it",
                path.display()
            );
            fs::remove_file(path)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot look at {}", path.display())),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
