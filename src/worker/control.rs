//! Requests to a running worker: its control socket and its signals, gathered in one place that the run polls.
//!
//! One JSON line in, one out: `{"ask": "pause"}` is answered by `{"ok": true}`. `{"host": RUN_DIR}` asks the worker to take another
//! run in; where it cannot, the answer says why. Changes in mid-run come by the run's folder: they outlive a worker.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::domain::keys::Keys;
use crate::domain::report::Control;
use crate::domain::run::RunAction;
use crate::store::files;

/// One request on the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ask {
    Action {
        ask: RunAction,
        /// Becomes the run's last words, where it ends by this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    Host {
        host: PathBuf,
        /// What its models need.
        #[serde(default, skip_serializing_if = "Keys::is_empty")]
        keys: Keys,
    },
}

impl From<RunAction> for Ask {
    fn from(ask: RunAction) -> Self {
        Self::Action { ask, why: None }
    }
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Takes the run in a folder into this process, or says why not.
pub type TakeIn = Arc<dyn Fn(&Path, Keys) -> Result<(), String> + Send + Sync>;

#[derive(Debug, Default)]
struct Wishes {
    paused: bool,
    checkpoint: bool,
    stop: bool,
    cancel: bool,
    why: Option<String>,
}

/// What has been asked of the run.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    shared: Arc<(Mutex<Wishes>, Condvar)>,
}

impl Requests {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, action: RunAction) {
        let mut wishes = self.wishes();
        match action {
            RunAction::Pause => wishes.paused = true,
            RunAction::Resume => wishes.paused = false,
            RunAction::Checkpoint => wishes.checkpoint = true,
            RunAction::Stop => wishes.stop = true,
            RunAction::Cancel => wishes.cancel = true,
        }
        self.shared.1.notify_all();
    }

    /// Why the run is to end: its last words.
    pub fn because(&self, why: String) {
        self.wishes().why = Some(why);
    }

    pub fn why(&self) -> Option<String> {
        self.wishes().why.clone()
    }

    /// What to do now: `Some` to act, `None` while paused. Stop and cancel stay asked for.
    pub fn now(&self) -> Option<Control> {
        let mut wishes = self.wishes();
        if wishes.cancel {
            Some(Control::Cancel)
        } else if wishes.stop {
            Some(Control::Stop)
        } else if std::mem::take(&mut wishes.checkpoint) {
            Some(Control::Checkpoint)
        } else if wishes.paused {
            None
        } else {
            Some(Control::Continue)
        }
    }

    /// Return when the run is not paused, or is asked for something that a paused run does as well.
    pub fn wait_while_paused(&self) {
        let mut wishes = self.wishes();
        while wishes.paused && !wishes.checkpoint && !wishes.stop && !wishes.cancel {
            wishes = self.shared.1.wait(wishes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wait for `time`, less when the run is to end.
    pub fn nap(&self, time: Duration) {
        let wishes = self.wishes();
        if !wishes.cancel && !wishes.stop {
            let _ = self.shared.1.wait_timeout(wishes, time).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn cancelled(&self) -> bool {
        self.wishes().cancel
    }

    pub fn stopped(&self) -> bool {
        self.wishes().stop
    }
}

/// Ends the listening when dropped, and removes the socket.
pub struct Listening {
    path: PathBuf,
    _until: tokio::sync::oneshot::Sender<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listen at `path` (and for SIGTERM, which means stop; SIGHUP means nothing) on a thread of its own.
pub fn listen(path: &Path, requests: Requests, take_in: TakeIn) -> io::Result<Listening> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _guard = runtime.enter();
        UnixListener::bind(path)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen at {}: {e}", path.display())))?
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (mut terminate, mut hangup) = {
        let _guard = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let (until, mut ended) = tokio::sync::oneshot::channel();
    thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = &mut ended => break,
                    Some(()) = terminate.recv() => requests.put(RunAction::Stop),
                    Some(()) = hangup.recv() => {}
                    Ok((stream, _)) = listener.accept() => {
                        let (requests, take_in) = (requests.clone(), take_in.clone());
                        tokio::spawn(async move { let _ = converse(stream, &requests, &take_in).await; });
                    }
                }
            }
        });
    })?;
    Ok(Listening { path: path.to_owned(), _until: until })
}

async fn converse(stream: UnixStream, requests: &Requests, take_in: &TakeIn) -> io::Result<()> {
    files::check_owner(Path::new("the other end"), stream.peer_cred()?.uid(), files::own_uid())?;
    let (read, mut write) = stream.into_split();
    // Requests are short; whoever sends more is not one of ours.
    let mut lines = BufReader::new(read.take(64 << 10)).lines();
    while let Some(line) = lines.next_line().await? {
        let said = match serde_json::from_str::<Ask>(&line) {
            Ok(Ask::Action { ask, why }) => {
                if let Some(why) = why {
                    requests.because(why);
                }
                requests.put(ask);
                Ok(())
            }
            Ok(Ask::Host { host, keys }) => take_in(&host, keys).map_err(Some),
            Err(_) => Err(None),
        };
        let mut answer = serde_json::to_vec(&Answer { ok: said.is_ok(), why: said.err().flatten() })?;
        answer.push(b'\n');
        write.write_all(&answer).await?;
    }
    Ok(())
}

/// The other end: ask the worker at `path`, and wait for its word.
pub fn ask(path: &Path, ask: &Ask) -> io::Result<()> {
    use std::io::{BufRead as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reader = std::io::BufReader::new(stream);
    let mut answer = String::new();
    reader.read_line(&mut answer)?;
    match serde_json::from_str::<Answer>(&answer) {
        Ok(Answer { ok: true, .. }) => Ok(()),
        Ok(Answer { why: Some(why), .. }) => Err(io::Error::other(why)),
        _ => Err(io::Error::other("the worker did not understand the request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_and_cancel_stay_asked_for_and_a_checkpoint_is_asked_once() {
        let requests = Requests::default();
        requests.put(RunAction::Checkpoint);
        assert_eq!(requests.now(), Some(Control::Checkpoint));
        assert_eq!(requests.now(), Some(Control::Continue));
        requests.put(RunAction::Pause);
        assert_eq!(requests.now(), None);
        requests.put(RunAction::Stop);
        assert_eq!(requests.now(), Some(Control::Stop));
        assert_eq!(requests.now(), Some(Control::Stop));
        requests.put(RunAction::Cancel);
        assert_eq!(requests.now(), Some(Control::Cancel));
    }

    #[test]
    fn a_request_over_the_socket_arrives_and_nonsense_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c.sock");
        let requests = Requests::default();
        let take_in: TakeIn = Arc::new(|dir, _| Err(format!("no room for {}", dir.display())));
        let listening = listen(&path, requests.clone(), take_in).unwrap();
        ask(&path, &RunAction::Pause.into()).unwrap();
        assert_eq!(requests.now(), None);
        ask(&path, &RunAction::Resume.into()).unwrap();
        assert_eq!(requests.now(), Some(Control::Continue));
        let refused =
            ask(&path, &Ask::Host { host: "runs/train-2".into(), keys: Keys::default() }).unwrap_err();
        assert_eq!(refused.to_string(), "no room for runs/train-2");
        let why = Some("it was hopeless".to_owned());
        ask(&path, &Ask::Action { ask: RunAction::Stop, why: why.clone() }).unwrap();
        assert_eq!((requests.now(), requests.why()), (Some(Control::Stop), why));
        use std::io::{Read as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"ask\": \"explode\"}\n{\"steer\": [\"learning_rate=1e-4\"]}\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "{\"ok\":false}\n{\"ok\":false}\n");
        drop(listening);
        assert!(!path.exists());
    }
}
