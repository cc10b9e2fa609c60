//! The playground's socket: questions to candidates, answered side by side, in pieces.
//!
//! Frames both ways ([`crate::store::frames`]): [`ToPlay`] in, [`PlayEvent`] out. A connection that closes takes its questions back.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::backend::models::{Answerer, Models};
use crate::backend::resident::Event;
use crate::backend::{self, Access, Answer, Ask, Backend, BackendError, Finish, Listener, Prompt, TokenLogprob};
use crate::domain::candidate::{ModelSource, StageCandidate};
use crate::domain::resident::{PlayAnswer, PlayAsk, PlayBody, PlayEvent, PlayPrompt, PlayToken, ToPlay};
use crate::domain::row::RunRow;
use crate::model::chat::Message;
use crate::pipeline::Pipeline;
use crate::store::files;
use crate::store::frames::{FRAME_MAX, read_frame, write_frame};

/// Questions of a connection that are worked on at once; more are refused.
const AT_ONCE: usize = 16;
/// Connections; screens are few.
const CONNECTIONS: usize = 16;
/// Events that wait for a reader before the answering waits as well.
const AHEAD: usize = 256;

/// A playground that answers.
pub struct Playground {
    shared: Arc<Shared>,
    path: PathBuf,
    stopping: watch::Sender<bool>,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    models: Arc<Models>,
    access: Access,
    under_way: AtomicUsize,
    /// When a question was asked or answered last.
    last: Mutex<Instant>,
}

impl Shared {
    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Playground {
    /// Listens at `path`.
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn start(path: &Path, models: &Arc<Models>, access: Access) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(AT_ONCE * CONNECTIONS)
            .enable_all()
            .build()?;
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(path)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot listen at {}: {e}", path.display())))?
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let shared = Arc::new(Shared {
            models: models.clone(),
            access,
            under_way: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
        });
        let (stopping, stopped) = watch::channel(false);
        runtime.spawn(accept(listener, shared.clone(), stopped));
        Ok(Self { shared, path: path.to_owned(), stopping, runtime: Some(runtime) })
    }

    /// Takes no more questions; those under way go on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub fn is_quiet(&self) -> bool {
        self.shared.under_way.load(Ordering::Relaxed) == 0
    }

    /// How long nobody has asked, and nothing was answered.
    pub fn idle(&self) -> Duration {
        if self.is_quiet() {
            self.shared.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
        } else {
            Duration::ZERO
        }
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(&self.path);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shared, stopped) = (shared.clone(), stopped.clone());
                tokio::spawn(async move {
                    let _ = converse(stream, shared, stopped).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn converse(stream: UnixStream, shared: Arc<Shared>, stopped: watch::Receiver<bool>) -> io::Result<()> {
    files::check_owner(Path::new("the other end"), stream.peer_cred()?.uid(), files::own_uid())?;
    let (read, mut write) = stream.into_split();
    let (events, mut to_write) = mpsc::channel::<PlayEvent>(AHEAD);
    let writer = async move {
        while let Some(event) = to_write.recv().await {
            write_event(&mut write, event).await?;
        }
        Ok(())
    };
    // Whichever ends first ends the connection, and with its channels every question.
    tokio::select! {
        ended = hear(read, shared, stopped, events) => ended,
        ended = writer => ended,
    }
}

/// An event that is too long for a frame is an error of its question.
async fn write_event(write: &mut tokio::net::unix::OwnedWriteHalf, event: PlayEvent) -> io::Result<()> {
    match write_frame(write, &event).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let message = format!("what came is longer than {FRAME_MAX} bytes and cannot be shown");
            write_frame(write, &PlayEvent { body: PlayBody::Error { message }, ..event }).await
        }
        written => written,
    }
}

async fn hear(
    mut read: OwnedReadHalf,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    events: mpsc::Sender<PlayEvent>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut open: HashMap<u64, watch::Sender<bool>> = HashMap::new();
    while let Some(message) = read_frame::<ToPlay>(&mut read).await? {
        open.retain(|_, cancel| cancel.receiver_count() > 0);
        match message {
            ToPlay::Cancel { id } => {
                if let Some(cancel) = open.get(&id) {
                    cancel.send_replace(true);
                }
            }
            ToPlay::Ask(ask) => {
                shared.touch();
                let (id, side) = (ask.id, ask.side);
                let refuse = |message: &str| PlayEvent { id, side, body: PlayBody::Error { message: message.into() } };
                if *stopped.borrow() {
                    let _ = events.send(refuse("the playground is leaving; ask again for a new one")).await;
                    continue;
                }
                if open.contains_key(&id) {
                    let _ = events.send(refuse("a question with this number is under way")).await;
                    continue;
                }
                let Ok(permit) = room.clone().try_acquire_owned() else {
                    let _ = events.send(refuse("too many questions at once")).await;
                    continue;
                };
                let (cancel, cancelled) = watch::channel(false);
                open.insert(id, cancel);
                let (shared, events) = (shared.clone(), events.clone());
                shared.under_way.fetch_add(1, Ordering::Relaxed);
                tokio::task::spawn_blocking(move || {
                    let teller = Teller { id, side, events, cancelled, runtime: Handle::current() };
                    answer(&shared, *ask, &teller);
                    shared.touch();
                    shared.under_way.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                });
            }
        }
    }
    Ok(())
}

/// The way back to who asked one question.
#[derive(Clone)]
struct Teller {
    id: u64,
    side: u8,
    events: mpsc::Sender<PlayEvent>,
    cancelled: watch::Receiver<bool>,
    runtime: Handle,
}

impl Teller {
    /// False: nobody listens any more.
    fn tell(&self, body: PlayBody) -> bool {
        !*self.cancelled.borrow()
            && self.events.blocking_send(PlayEvent { id: self.id, side: self.side, body }).is_ok()
    }

    /// The next event of an answer; none when the question was taken back, or the model is gone.
    fn next(&self, from: &mut mpsc::UnboundedReceiver<Event>) -> Option<Event> {
        let mut cancelled = self.cancelled.clone();
        self.runtime.block_on(async {
            tokio::select! {
                event = from.recv() => event,
                // Also when the connection is gone.
                _ = cancelled.wait_for(|cancelled| *cancelled) => None,
                () = self.events.closed() => None,
            }
        })
    }
}

fn answer(shared: &Arc<Shared>, ask: PlayAsk, teller: &Teller) {
    let body = match try_answer(shared, ask, teller) {
        Ok(answer) => PlayBody::Finish(answer),
        Err(message) => PlayBody::Error { message },
    };
    if *teller.cancelled.borrow() {
        // Said once, so that whoever cancelled knows that nothing follows.
        let body = PlayBody::Error { message: "cancelled".into() };
        let _ = teller.events.blocking_send(PlayEvent { id: teller.id, side: teller.side, body });
        return;
    }
    teller.tell(body);
}

fn try_answer(shared: &Arc<Shared>, ask: PlayAsk, teller: &Teller) -> Result<PlayAnswer, String> {
    let mut candidate = ask.candidate;
    let Some(last) = candidate.stages.last_mut() else {
        return Err(format!("`{}` was imported: only its outcomes are known, it cannot be asked", candidate.name));
    };
    if let Some(decoding) = ask.decoding {
        last.decoding = decoding;
    }
    let logprobs = ask.logprobs;
    let open = |stage: &StageCandidate| -> Result<Box<dyn Backend>, BackendError> {
        let source = match &stage.model.source {
            ModelSource::Local { .. } => Source::Here(shared.models.open(&stage.model, stage.adapter.as_ref())?),
            ModelSource::Endpoint { .. } => {
                Source::Elsewhere(backend::open(&stage.model, stage.adapter.as_ref(), &shared.access)?)
            }
        };
        Ok(Box::new(Tap { source, teller: teller.clone(), logprobs }))
    };
    let said = |e: BackendError| e.to_string();
    let prompt = match ask.prompt {
        PlayPrompt::Row { input, fields } => {
            let row = RunRow {
                id: String::new(),
                hash: String::new(),
                part: None,
                stratum: None,
                fields,
                input,
                gold: None,
            };
            let mut pipeline = Pipeline::with_backends(&candidate, &mut |stage| open(stage))
                .map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
            let answered = pipeline.answer(&[&row]).pop().unwrap_or_default();
            if let Some(error) = answered.error {
                return Err(error);
            }
            let stages = &answered.stages;
            return Ok(PlayAnswer {
                output: answered.output,
                format_ok: stages.iter().all(|s| s.format_ok),
                tokens_in: stages.iter().map(|s| s.tokens_in).sum(),
                tokens_out: stages.iter().map(|s| s.tokens_out).sum(),
                ttft_ms: stages.iter().find(|s| !s.skipped).map_or(0.0, |s| s.ttft_ms),
                ms: stages.iter().map(|s| s.ms).sum(),
                cut: false,
            });
        }
        PlayPrompt::Chat { turns } => Prompt::Chat(
            turns.into_iter().map(|t| Message { role: t.role, content: t.content }).collect(),
        ),
        PlayPrompt::Text { text } => Prompt::Text(text),
    };
    let mut backend = open(last).map_err(said)?;
    let question = Ask { prompt, constraint: last.constraint.clone(), ..Ask::turn("", last.decoding.clone()) };
    let answer = backend.answer(&[question]).pop().unwrap_or_else(|| Err(BackendError("no answer came".into())));
    let answer = answer.map_err(said)?;
    Ok(PlayAnswer {
        output: answer.text,
        format_ok: true,
        tokens_in: answer.tokens_in,
        tokens_out: answer.tokens_out,
        ttft_ms: answer.ttft_ms,
        ms: answer.ms,
        cut: answer.finish == Finish::Length,
    })
}

enum Source {
    Here(Answerer),
    Elsewhere(Box<dyn Backend>),
}

/// A model that tells who asked what it is asked, and what it says, as it says it.
struct Tap {
    source: Source,
    teller: Teller,
    logprobs: Option<usize>,
}

impl Backend for Tap {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        asks.iter().enumerate().map(|(i, ask)| self.one(i, ask, listener)).collect()
    }
}

impl Tap {
    fn one(&mut self, i: usize, ask: &Ask, listener: &mut Listener<'_>) -> Result<Answer, BackendError> {
        let gone = || BackendError("cancelled".into());
        let ask = Ask { logprobs: self.logprobs.or(ask.logprobs), ..ask.clone() };
        let teller = &self.teller;
        let answerer = match &mut self.source {
            Source::Here(answerer) => answerer,
            Source::Elsewhere(backend) => {
                teller.tell(PlayBody::Prompt { text: ask.text().to_owned() });
                let mut hear = |_: usize, text: &str| {
                    let token = PlayBody::Token { text: text.to_owned(), tokens: Vec::new() };
                    if teller.tell(token) { listener(i, text) } else { ControlFlow::Break(()) }
                };
                let mut answers = backend.stream(std::slice::from_ref(&ask), &mut hear);
                return answers.pop().unwrap_or_else(|| Err(BackendError("no answer came".into())));
            }
        };
        let text = answerer.reader.text(&ask).map_err(|e| BackendError(e.to_string()))?;
        if !teller.tell(PlayBody::Prompt { text }) {
            return Err(gone());
        }
        let mut from = answerer.submit(ask).map_err(|e| BackendError(e.to_string()))?;
        while let Some(event) = teller.next(&mut from) {
            match event {
                Event::Text { text, tokens } => {
                    let heard = listener(i, &text);
                    let tokens = tokens.into_iter().map(token).collect();
                    if !teller.tell(PlayBody::Token { text, tokens }) || heard.is_break() {
                        return Err(gone());
                    }
                }
                Event::Finished(answer) => return Ok(*answer),
                Event::Failed(error) => return Err(error),
            }
        }
        Err(gone())
    }
}

fn token(token: TokenLogprob) -> PlayToken {
    PlayToken { text: token.text, logprob: token.logprob, top: token.top }
}

#[cfg(test)]
mod tests;
