//! The client's end: find the workspace's engine or start one, ask it, follow it.
//!
//! [`Client`] is one connection. [`drive`] keeps one for the screens, through engines that come and go.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::protocol::{ToClient, ToServer, VERSION, is_newer, read_frame, write_frame};
use crate::domain::api::{EngineStatus, FromEngine, PROTOCOL, Push, Request, Response, ToEngine, View};
use crate::store::files;
use crate::workspace::Workspace;

/// How long an engine may take to come up (a store may have to be rebuilt).
const START_PATIENCE: Duration = Duration::from_secs(30);
/// The engine's log is begun anew above this.
const LOG_MAX: u64 = 1 << 20;

/// A connection to a workspace's engine. Cheap to clone; the connection closes with the last clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    status: EngineStatus,
    write: AsyncMutex<OwnedWriteHalf>,
    waiting: Waiting,
    next_id: AtomicU64,
    pushes: AsyncMutex<UnboundedReceiver<Push>>,
    reader: tokio::task::JoinHandle<()>,
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>>;

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The folder that holds `workspace.toml`, as an absolute path.
fn workspace_root(root: &Path) -> anyhow::Result<PathBuf> {
    let root = root.canonicalize().with_context(|| format!("no folder at {}", root.display()))?;
    if !root.join("workspace.toml").is_file() {
        bail!(
            "{} is no workspace: it has no workspace.toml; make one with `tunebench init`, or name another folder with -C",
            root.display()
        );
    }
    Ok(root)
}

impl Client {
    /// Connect to the engine of the workspace at `root`; start one if there is none.
    pub async fn connect_or_start(root: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Self::connect_or_start_with(root, &program).await
    }

    /// [`Client::connect_or_start`], with the program to start as the engine.
    pub async fn connect_or_start_with(root: &Path, program: &Path) -> anyhow::Result<Self> {
        let root = workspace_root(root)?;
        let deadline = Instant::now() + START_PATIENCE;
        let mut engine: Option<Child> = None;
        let mut last_error = None;
        loop {
            match Self::try_connect(&root).await? {
                Attempt::Connected(client) => return Ok(client),
                Attempt::Nobody(error) => last_error = error.or(last_error),
            }
            // An engine of our starting that has ended found another one's lock held: that one is coming up, or going.
            let ended = match &mut engine {
                None => true,
                Some(child) => child.try_wait()?.is_some(),
            };
            if ended {
                if engine.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(Some(s)) if s.code() != Some(i32::from(super::EXIT_LOCKED)))) {
                    bail!("the engine could not start: {}", log_tail(&root));
                }
                if engine.is_none() || Instant::now() < deadline {
                    engine = Some(start(&root, program)?);
                }
            }
            if Instant::now() > deadline {
                let why = last_error.map(|e| format!(" ({e})")).unwrap_or_default();
                bail!(
                    "no engine answered for {} within {} s{why}; its log: {}",
                    root.display(),
                    START_PATIENCE.as_secs(),
                    log_tail(&root)
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Connect to a running engine; None when there is none.
    pub async fn connect(root: &Path) -> anyhow::Result<Option<Self>> {
        match Self::try_connect(&workspace_root(root)?).await? {
            Attempt::Connected(client) => Ok(Some(client)),
            Attempt::Nobody(_) => Ok(None),
        }
    }

    async fn try_connect(root: &Path) -> anyhow::Result<Attempt> {
        let path = super::socket_path(root)?;
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(Attempt::Nobody(None));
            }
            Err(e) => return Err(e).with_context(|| format!("cannot connect to {}", path.display())),
        };
        // Whoever listens there gets to see keys and data: it must be ourselves.
        files::check_owner(&path, stream.peer_cred()?.uid(), files::own_uid())?;
        let (mut read, mut write) = stream.into_split();
        let hello = ToServer::Hello { protocol: PROTOCOL, version: VERSION.into() };
        if let Err(e) = write_frame(&mut write, &hello).await {
            return Ok(Attempt::Nobody(Some(e)));
        }
        let answer = tokio::time::timeout(START_PATIENCE, read_frame::<ToClient>(&mut read)).await;
        let (protocol, version, mut status) = match answer {
            Ok(Ok(Some(ToClient::Hello { protocol, version, status }))) => (protocol, version, status),
            Ok(Ok(Some(ToClient::Refused { reason }))) => {
                bail!("the engine refused the connection: {reason}")
            }
            // It was just leaving.
            Ok(Ok(None)) => return Ok(Attempt::Nobody(None)),
            Ok(Err(e)) if e.kind() != io::ErrorKind::InvalidData => return Ok(Attempt::Nobody(Some(e))),
            Ok(Ok(Some(_)) | Err(_)) => bail!(
                "what listens at {} speaks another language; is it an engine of tunebench?",
                path.display()
            ),
            Err(_) => bail!(
                "the engine at {} does not answer; see {}",
                path.display(),
                root.join(".tunebench/engine.log").display()
            ),
        };
        if is_newer(VERSION, &version) {
            // An older engine makes room when it is idle, and this client then starts one of its own version.
            write_frame(&mut write, &ToServer::Leave).await?;
            match read_frame::<ToClient>(&mut read).await {
                Ok(Some(ToClient::Leaving { busy: Some(busy) })) if protocol == PROTOCOL => {
                    // Whoever shows the status says so: a line on stderr would be drawn into the screens.
                    status.notices.push(format!(
                        "the engine is of version {version} and stays, because {busy}; this is {VERSION}"
                    ));
                }
                Ok(Some(ToClient::Leaving { busy: Some(busy) })) => {
                    bail!(
                        "the engine is of version {version}, this is {VERSION}, and it cannot leave because {busy}; try again later"
                    )
                }
                _ => return Ok(Attempt::Nobody(None)),
            }
        } else if protocol != PROTOCOL {
            bail!(
                "the engine is of version {version} and this client is older ({VERSION}); use the newer one"
            );
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (push_tx, push_rx) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_loop(read, waiting.clone(), push_tx));
        Ok(Attempt::Connected(Self {
            inner: Arc::new(Inner {
                status,
                write: AsyncMutex::new(write),
                waiting,
                next_id: AtomicU64::new(1),
                pushes: AsyncMutex::new(push_rx),
                reader,
            }),
        }))
    }

    /// The engine as it was when the connection was made.
    pub fn status(&self) -> &EngineStatus {
        &self.inner.status
    }

    /// Ask, and wait for the answer. A failed request is an answer ([`Response::Error`]); an error here means that the connection is gone.
    pub async fn ask(&self, request: Request) -> io::Result<Response> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, wait) = oneshot::channel();
        match &mut *self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(waiting) => waiting.insert(id, answer),
            None => return Err(lost()),
        };
        let sent = self.send(&ToServer::Request { id, request }).await;
        if let Err(error) = sent {
            if let Some(waiting) = &mut *self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
                waiting.remove(&id);
            }
            return Err(error);
        }
        wait.await.map_err(|_| lost())
    }

    /// Follow a view: a snapshot comes as a push, then what changes.
    pub async fn follow(&self, view: View) -> io::Result<()> {
        self.send(&ToServer::Follow { view }).await
    }

    pub async fn unfollow(&self, view: View) -> io::Result<()> {
        self.send(&ToServer::Unfollow { view }).await
    }

    /// The next push; None when the connection is gone. Can be dropped and called again without losing one.
    pub async fn push(&self) -> Option<Push> {
        self.inner.pushes.lock().await.recv().await
    }

    async fn send(&self, message: &ToServer) -> io::Result<()> {
        let mut write = self.inner.write.lock().await;
        write_frame(&mut *write, message).await
    }
}

enum Attempt {
    Connected(Client),
    Nobody(Option<io::Error>),
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection to the engine was lost")
}

async fn read_loop(mut read: OwnedReadHalf, waiting: Waiting, pushes: UnboundedSender<Push>) {
    while let Ok(Some(message)) = read_frame::<ToClient>(&mut read).await {
        match message {
            ToClient::Response { id, response } => {
                let waiter = waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&id));
                if let Some(waiter) = waiter {
                    let _ = waiter.send(response);
                }
            }
            ToClient::Push { push, .. } => {
                let _ = pushes.send(push);
            }
            ToClient::Hello { .. } | ToClient::Leaving { .. } => {}
            ToClient::Refused { .. } => break,
        }
    }
    // Whoever waits learns that no answer will come.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Start an engine: no terminal, its log in the state folder. It makes a session of its own at once.
fn start(root: &Path, program: &Path) -> anyhow::Result<Child> {
    let state = root.join(".tunebench");
    files::state_dir(&state).map_err(files::with_remedy)?;
    let log = state.join("engine.log");
    if fs::metadata(&log).is_ok_and(|m| m.len() > LOG_MAX) {
        let _ = fs::rename(&log, state.join("engine.log.old"));
    }
    let log: File = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    let mut command = Command::new(program);
    // Keys come with launches; they should not lie in the engine's environment as long as it lives.
    if let Ok((workspace, _)) = Workspace::open(root) {
        for variable in workspace.config.models.values().filter_map(|model| model.place.key_variable()) {
            command.env_remove(variable);
        }
    }
    command
        .arg("engine")
        .arg(root)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start the engine ({})", program.display()))
}

fn log_tail(root: &Path) -> String {
    let path = root.join(".tunebench/engine.log");
    let text = fs::read(&path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.reverse();
    if lines.is_empty() { format!("{} is empty", path.display()) } else { lines.join(" | ") }
}

/// Join the screens to the engine: connect (or start one), hand over requests and pushes, and when the engine goes, connect again and follow
/// the same views, each run from the last event that was handed over. Ends when `from_screens` closes.
pub async fn drive(
    root: PathBuf,
    mut from_screens: UnboundedReceiver<ToEngine>,
    to_screens: UnboundedSender<FromEngine>,
) -> anyhow::Result<()> {
    let mut views: BTreeMap<View, u64> = BTreeMap::new();
    let mut first = true;
    loop {
        let client = match Client::connect_or_start(&root).await {
            Ok(client) => client,
            Err(error) if first => return Err(error),
            Err(error) => {
                let _ = to_screens.send(FromEngine::Lost { reason: format!("{error:#}") });
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(2)) => continue,
                    () = to_screens.closed() => return Ok(()),
                }
            }
        };
        first = false;
        let _ = to_screens.send(FromEngine::Connected { status: client.status().clone() });
        let mut alive = true;
        for (view, last) in &views {
            alive &= client.follow(from_event(view, *last)).await.is_ok();
        }
        while alive {
            tokio::select! {
                message = from_screens.recv() => match message {
                    None => return Ok(()),
                    Some(ToEngine::Ask { tag, request }) => {
                        let (client, to_screens) = (client.clone(), to_screens.clone());
                        tokio::spawn(async move {
                            let response = client.ask(request).await.unwrap_or_else(|e| Response::Error {
                                error: crate::domain::api::Failure::new(1, e.to_string()),
                            });
                            let _ = to_screens.send(FromEngine::Answer { tag, response });
                        });
                    }
                    Some(ToEngine::Follow { view }) => {
                        let after = if let View::Run { after, .. } = view { after } else { 0 };
                        alive = client.follow(view.clone()).await.is_ok();
                        views.retain(|followed, _| !same_view(followed, &view));
                        views.insert(view, after);
                    }
                    Some(ToEngine::Trust { .. }) => {}
                    Some(ToEngine::Unfollow { view }) => {
                        views.retain(|followed, _| !same_view(followed, &view));
                        alive = client.unfollow(view).await.is_ok();
                    }
                },
                push = client.push() => match push {
                    None => alive = false,
                    Some(push) => {
                        if let Push::Events { run, events } = &push
                            && let Some(seq) = events.last().map(|e| e.seq)
                        {
                            for (view, last) in &mut views {
                                if matches!(view, View::Run { run: followed, .. } if followed == run) {
                                    *last = seq;
                                }
                            }
                        }
                        let _ = to_screens.send(FromEngine::Push { push });
                    }
                },
            }
        }
        let _ = to_screens.send(FromEngine::Lost { reason: "the engine ended; connecting again".into() });
    }
}

/// The same view, wherever its events begin.
pub(super) fn same_view(a: &View, b: &View) -> bool {
    match (a, b) {
        (View::Run { run: a, .. }, View::Run { run: b, .. }) => a == b,
        _ => a == b,
    }
}

/// The view as it is followed again: a run from the last event seen.
fn from_event(view: &View, last: u64) -> View {
    match view {
        View::Run { run, .. } => View::Run { run: run.clone(), after: last },
        other => other.clone(),
    }
}
