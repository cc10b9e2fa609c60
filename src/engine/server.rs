//! Sockets. A task per client; nothing is buffered for a client that does not read: what it follows is looked up when it can take it,
//! so a slow one gets the newest state and never a queue of old ones.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::client::same_view;
use super::play::Desk;
use super::protocol::{FRAME_MAX, ToClient, ToServer, VERSION, encode, read_frame, write_frame};
use super::state::Engine;
use super::{board, ingest, requests, strata};
use crate::domain::api::{FileNews, PROTOCOL, Push, Response, View};
use crate::domain::board::Board;
use crate::domain::run::RunRecord;
use crate::store::files;

/// Requests of one client that are worked on at once; further ones wait in its socket.
const IN_FLIGHT: usize = 16;
/// Least time between two rounds of pushes to a client.
const ROUND: Duration = Duration::from_millis(50);
/// Least time between two pushes of answers: as long as a frame of the screens.
const FRAME: Duration = Duration::from_millis(33);
/// Events in one push, in bytes of their lines.
const PUSH_BYTES: usize = 256 << 10;
/// How long a connection may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long the engine stays for the first client, and after the last one.
const FIRST_GRACE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(10);

/// Serve until nobody is attached and nothing is under way for a while, or until asked to end.
pub async fn serve(engine: Arc<Engine>, listener: UnixListener) -> io::Result<()> {
    let told = std::env::var("TUNEBENCH_IDLE_SECS").ok().and_then(|s| s.parse().ok());
    let grace = told.map_or(GRACE, Duration::from_secs_f64);
    let leave = Arc::new(Notify::new());
    let mut changes = engine.changes();
    let (mut terminate, mut interrupt, mut hangup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let mut deadline = Some(Instant::now() + grace.max(FIRST_GRACE));
    let mut visits = 0;
    loop {
        let (busy, now_visits) =
            engine.read(|state| (state.clients > 0 || state.is_busy().is_some(), state.visits));
        // A client can have come and gone between two looks.
        let visited = std::mem::replace(&mut visits, now_visits) != now_visits;
        deadline = match deadline {
            _ if busy => None,
            Some(set) if !visited => Some(set),
            _ => Some(Instant::now() + grace),
        };
        let until = deadline.unwrap_or_else(Instant::now);
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (engine, leave) = (engine.clone(), leave.clone());
                    tokio::spawn(async move {
                        if let Err(error) = connection(engine, stream, leave).await {
                            tracing::debug!("a connection ended: {error}");
                        }
                    });
                }
                // Too many open files, say: try again in a moment instead of spinning.
                Err(error) => {
                    tracing::error!("cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep_until(until), if deadline.is_some() => break,
            () = leave.notified() => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // A terminal that closes is no reason to end.
            _ = hangup.recv() => {}
        }
    }
    Ok(())
}

/// Counts a client as long as it lives.
struct Attached(Arc<Engine>);

impl Attached {
    fn new(engine: Arc<Engine>) -> Self {
        engine.update(|state| {
            state.clients += 1;
            state.visits += 1;
        });
        Self(engine)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.update(|state| state.clients -= 1);
    }
}

/// A client's place in the playground: its questions end with its connection.
struct Seat(Arc<Desk>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the reading half hands to the writing half.
enum Out {
    Response(u64, Response, OwnedSemaphorePermit),
    Follow(View),
    Unfollow(View),
    Message(ToClient),
    /// Tell the client that the engine leaves, then let it.
    Leave(Arc<Notify>),
}

async fn connection(engine: Arc<Engine>, stream: UnixStream, leave: Arc<Notify>) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (mut read, mut write) = stream.into_split();
    if let Err(error) = files::check_owner(Path::new("the client"), peer, files::own_uid()) {
        let _ = write_frame(&mut write, &ToClient::Refused { reason: error.to_string() }).await;
        return Err(error);
    }
    let attached = Attached::new(engine.clone());
    let hello = tokio::time::timeout(HELLO_PATIENCE, read_frame::<ToServer>(&mut read)).await;
    let reason = match hello {
        Ok(Ok(Some(ToServer::Hello { .. }))) => None,
        Ok(Ok(Some(_))) => Some("the first frame must be a hello".to_owned()),
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no hello came".to_owned()),
    };
    if let Some(reason) = reason {
        return write_frame(&mut write, &ToClient::Refused { reason }).await;
    }
    let hello = ToClient::Hello { protocol: PROTOCOL, version: VERSION.into(), status: engine.status() };
    write_frame(&mut write, &hello).await?;
    let (out, todo) = mpsc::channel(IN_FLIGHT);
    let seat = Seat(Arc::default());
    let desk = &seat.0;
    let mut writer = tokio::spawn(write_loop(engine.clone(), write, todo, desk.clone()));
    let result = tokio::select! {
        result = read_loop(engine, read, out, leave, desk) => result,
        _ = &mut writer => return Ok(()),
    };
    if let Err(error) = &result
        && error.kind() == io::ErrorKind::InvalidData
    {
        // The reason is on its way; give it a moment to be read.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut writer).await;
    }
    writer.abort();
    drop(attached);
    result
}

async fn read_loop(
    engine: Arc<Engine>,
    mut read: OwnedReadHalf,
    out: mpsc::Sender<Out>,
    leave: Arc<Notify>,
    desk: &Arc<Desk>,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
    loop {
        let message = match read_frame::<ToServer>(&mut read).await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(error) => {
                let refused = ToClient::Refused { reason: error.to_string() };
                let _ = out.send(Out::Message(refused)).await;
                return Err(error);
            }
        };
        match message {
            ToServer::Hello { .. } => {}
            ToServer::Request { id, request } => {
                let permit = permits.clone().acquire_owned().await.map_err(|_| closed())?;
                let (engine, out, desk) = (engine.clone(), out.clone(), desk.clone());
                tokio::spawn(async move {
                    let response = spawn_blocking(move || requests::answer(&engine, &desk, request))
                        .await
                        .unwrap_or_else(|e| {
                            requests::error(super::state::failed(format!("internal error: {e}")))
                        });
                    let _ = out.send(Out::Response(id, response, permit)).await;
                });
            }
            ToServer::Follow { view } => out.send(Out::Follow(view)).await.map_err(|_| closed())?,
            ToServer::Unfollow { view } => out.send(Out::Unfollow(view)).await.map_err(|_| closed())?,
            ToServer::Leave => {
                let busy = engine.read(|state| match state.is_busy() {
                    None if state.clients > 1 => {
                        Some(format!("{} other clients are attached", state.clients - 1))
                    }
                    busy => busy,
                });
                let out_message = match busy {
                    None => Out::Leave(leave.clone()),
                    busy => Out::Message(ToClient::Leaving { busy }),
                };
                out.send(out_message).await.map_err(|_| closed())?;
            }
        }
    }
}

/// One followed view, and what was last sent of it.
struct Followed {
    view: View,
    /// [`super::state::State::version`] at the last push. None: the snapshot is due.
    seen: Option<u64>,
    /// For a run: the last event sent, and the byte offset after it.
    seq: u64,
    offset: u64,
    /// For the board: as it was last sent.
    board: Option<Arc<Board>>,
    /// For the files: they are watched as long as this is held.
    _files: Option<super::saved::Follower>,
}

/// The writing half: answers as they come, and pushes in rounds.
struct Writer {
    engine: Arc<Engine>,
    write: OwnedWriteHalf,
    follows: Vec<Followed>,
    pushed: u64,
}

async fn write_loop(
    engine: Arc<Engine>,
    write: OwnedWriteHalf,
    mut todo: mpsc::Receiver<Out>,
    desk: Arc<Desk>,
) -> io::Result<()> {
    let mut changes = engine.changes();
    let (mut answers_due, mut next_answers) = (false, Instant::now());
    let mut writer = Writer { engine, write, follows: Vec::new(), pushed: 0 };
    let mut next_round = Instant::now();
    let mut due = false;
    loop {
        tokio::select! {
            out = todo.recv() => match out {
                None => return Ok(()),
                Some(Out::Response(id, response, permit)) => {
                    writer.respond(id, response).await?;
                    drop(permit);
                }
                Some(Out::Message(message)) => write_frame(&mut writer.write, &message).await?,
                Some(Out::Leave(leave)) => {
                    write_frame(&mut writer.write, &ToClient::Leaving { busy: None }).await?;
                    leave.notify_one();
                }
                Some(Out::Follow(view)) => {
                    writer.follows.retain(|f| !same_view(&f.view, &view));
                    let seq = if let View::Run { after, .. } = view { after } else { 0 };
                    let files = if view == View::Files {
                        let engine = writer.engine.clone();
                        spawn_blocking(move || super::saved::follow(&engine)).await.ok()
                    } else {
                        None
                    };
                    writer.follows.push(Followed { view, seen: None, seq, offset: 0, board: None, _files: files });
                    (due, next_round) = (true, Instant::now());
                }
                Some(Out::Unfollow(view)) => writer.follows.retain(|f| !same_view(&f.view, &view)),
            },
            () = desk.news(), if !answers_due => answers_due = true,
            () = tokio::time::sleep_until(next_answers), if answers_due => {
                answers_due = false;
                loop {
                    let events = desk.take();
                    if events.is_empty() {
                        break;
                    }
                    writer.push(Push::Play { events }).await?;
                }
                next_answers = Instant::now() + FRAME;
            }
            Ok(()) = changes.changed(), if !writer.follows.is_empty() && !due => due = true,
            () = tokio::time::sleep_until(next_round), if due => {
                due = false;
                changes.mark_unchanged();
                writer.round().await?;
                next_round = Instant::now() + ROUND;
            }
        }
    }
}

impl Writer {
    async fn respond(&mut self, id: u64, response: Response) -> io::Result<()> {
        let frame = encode(&ToClient::Response { id, response }).or_else(|_| {
            let message = format!("the answer is longer than {FRAME_MAX} bytes; ask for less at once");
            encode(&ToClient::Response { id, response: requests::error(super::state::failed(message)) })
        })?;
        self.send(&frame).await
    }

    async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        self.write.write_all(frame).await
    }

    async fn push(&mut self, push: Push) -> io::Result<()> {
        self.pushed += 1;
        match encode(&ToClient::Push { seq: self.pushed, push }) {
            Ok(frame) => self.send(&frame).await,
            Err(error) => {
                tracing::warn!("a push is left out: {error}");
                Ok(())
            }
        }
    }

    /// Bring every followed view up to date.
    async fn round(&mut self) -> io::Result<()> {
        for at in 0..self.follows.len() {
            let (view, seen) = (self.follows[at].view.clone(), self.follows[at].seen);
            match view {
                View::Runs => self.push_runs(at, seen).await?,
                View::Files => self.push_files(at, seen).await?,
                View::Run { run, .. } => self.push_run(at, &run, seen).await?,
                View::Board => {
                    let version = self.engine.read(|s| s.board_version);
                    if seen.is_none_or(|seen| seen < version) {
                        self.follows[at].seen = Some(version);
                        let engine = self.engine.clone();
                        if let Ok(Ok(board)) = spawn_blocking(move || board::board(&engine)).await {
                            let before = self.follows[at].board.replace(board.clone());
                            for push in board::news(before.as_deref(), &board) {
                                self.push(push).await?;
                            }
                        }
                    }
                }
                View::Strata => {
                    let version = self.engine.read(|s| s.strata_version.max(s.board_version));
                    if seen.is_none_or(|seen| seen < version) {
                        self.follows[at].seen = Some(version);
                        let engine = self.engine.clone();
                        if let Ok(Ok(view)) = spawn_blocking(move || strata::view(&engine)).await {
                            self.push(Push::Strata { view }).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A snapshot of the newest runs that fit a frame, the rest one by one; later those that changed.
    async fn push_runs(&mut self, at: usize, seen: Option<u64>) -> io::Result<()> {
        let (version, mut records) = self.engine.read(|state| {
            let changed = state.runs.values().filter(|r| seen.is_none_or(|seen| r.version > seen));
            (state.version, changed.map(|r| r.record.clone()).collect::<Vec<_>>())
        });
        records.sort_by(|a, b| (a.created_ms, &a.run).cmp(&(b.created_ms, &b.run)));
        self.follows[at].seen = Some(version);
        if seen.is_none() {
            let fits = requests::newest_that_fit(&records);
            let rest: Vec<RunRecord> = records.drain(..records.len() - fits).collect();
            self.push(Push::Runs { runs: records }).await?;
            records = rest;
        }
        for run in records {
            self.push(Push::RunChanged { run }).await?;
        }
        Ok(())
    }

    /// First what cannot be used as it stands; later what was saved.
    async fn push_files(&mut self, at: usize, seen: Option<u64>) -> io::Result<()> {
        let (version, news) = self.engine.read(|state| {
            let due = |(at, news): &&(u64, FileNews)| seen.map_or(news.problem, |seen| *at > seen);
            let news: Vec<FileNews> =
                state.files.values().filter(due).map(|(_, news)| news.clone()).collect();
            (state.version, news)
        });
        self.follows[at].seen = Some(version);
        if news.is_empty() { Ok(()) } else { self.push(Push::Files { news }).await }
    }

    /// The record if it changed, and every event that is new, page by page.
    async fn push_run(&mut self, at: usize, run: &str, seen: Option<u64>) -> io::Result<()> {
        let seq = self.follows[at].seq;
        let found = self.engine.read(|state| {
            let r = state.runs.get(run)?;
            let page = r.pages.range(..=seq).next_back().map_or(0, |(_, offset)| *offset);
            Some((r.version, r.record.clone(), r.folder.clone(), page))
        });
        let Some((version, record, folder, page)) = found else { return Ok(()) };
        if seen.is_some_and(|seen| seen >= version) {
            return Ok(());
        }
        let last = record.last_seq;
        self.follows[at].offset = self.follows[at].offset.max(page);
        // The end of a run is told after its last event.
        let ended = record.state.is_final();
        if !ended {
            self.push(Push::RunChanged { run: record.clone() }).await?;
        }
        while self.follows[at].seq < last {
            let (from, after) = (self.follows[at].offset, self.follows[at].seq);
            let reading = folder.clone();
            let read =
                spawn_blocking(move || ingest::events_after(&reading, from, after, usize::MAX, PUSH_BYTES));
            let (events, offset, _) = read.await.map_err(io::Error::other)??;
            let Some(newest) = events.last().map(|e| e.seq) else { break };
            self.follows[at].offset = offset;
            self.follows[at].seq = newest;
            self.push(Push::Events { run: run.to_owned(), events }).await?;
        }
        if ended {
            self.push(Push::RunChanged { run: record }).await?;
        }
        self.follows[at].seen = Some(version);
        Ok(())
    }
}
