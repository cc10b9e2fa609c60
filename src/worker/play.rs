//! The playground's socket: questions to candidates, answered side by side, in pieces.
//!
//! Frames both ways ([`crate::store::frames`]): [`PlayRequest`] in, [`PlayEvent`] out. A connection that closes takes its questions back.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
use crate::backend::{self, Access, Answer, Ask, Backend, BackendError, Heard, Listener, TokenLogprob};
use crate::domain::candidate::{Candidate, ModelSource, StageCandidate};
use crate::domain::keys::Keys;
use crate::domain::outcome::StageOutcome;
use crate::domain::play::{PlayBody, PlayEvent, PlayRequest, PlayToken};
use crate::domain::row::RunRow;
use crate::pipeline::Pipeline;
use crate::store::files;
use crate::store::frames::{FRAME_MAX, read_frame, write_frame};

/// Questions of a connection that are worked on at once; more are refused.
const AT_ONCE: usize = 16;
/// Connections; the engine makes one for each question.
const CONNECTIONS: usize = 64;
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
            .max_blocking_threads(4 * CONNECTIONS)
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

/// What a stage did that is too long for a frame is told without its tokens, and with the beginning of its answer; all else that is too
/// long is an error of its question.
async fn write_event(write: &mut tokio::net::unix::OwnedWriteHalf, event: PlayEvent) -> io::Result<()> {
    match (write_frame(write, &event).await, event.body) {
        (Err(error), PlayBody::Stage { outcome, .. }) if error.kind() == io::ErrorKind::InvalidData => {
            let output = outcome.output.chars().take(FRAME_MAX / 16).collect();
            let body = PlayBody::Stage { outcome: StageOutcome { output, ..outcome }, tokens: Vec::new() };
            write_frame(write, &PlayEvent { id: event.id, body }).await
        }
        (Err(error), _) if error.kind() == io::ErrorKind::InvalidData => {
            let error = format!("what came is longer than {FRAME_MAX} bytes and cannot be shown");
            write_frame(write, &PlayEvent { id: event.id, body: PlayBody::Failed { error } }).await
        }
        (written, _) => written,
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
    while let Some(message) = read_frame::<PlayRequest>(&mut read).await? {
        open.retain(|_, cancel| cancel.receiver_count() > 0);
        let (id, question) = match message {
            PlayRequest::Cancel { id } => {
                if let Some(cancel) = open.get(&id) {
                    cancel.send_replace(true);
                }
                continue;
            }
            PlayRequest::Ask { id, candidate, row, logprobs, keys, .. } => {
                (id, Question { candidate: *candidate, row: *row, logprobs, keys })
            }
        };
        shared.touch();
        let permit = room.clone().try_acquire_owned();
        let refused = if *stopped.borrow() {
            Some("the playground is leaving; ask again for a new one")
        } else if open.contains_key(&id) {
            Some("a question with this number is under way")
        } else if permit.is_err() {
            Some("too many questions at once")
        } else {
            None
        };
        if let Some(why) = refused {
            let _ = events.send(PlayEvent { id, body: PlayBody::Failed { error: why.into() } }).await;
            continue;
        }
        let (cancel, cancelled) = watch::channel(false);
        open.insert(id, cancel);
        let (shared, events) = (shared.clone(), events.clone());
        shared.under_way.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || {
            let teller = Teller { id, events, cancelled, runtime: Handle::current() };
            // A slip of ours is this question's alone, and the worker must not wait for it for ever.
            if catch_unwind(AssertUnwindSafe(|| answer(&shared, question, &teller))).is_err() {
                teller.tell(PlayBody::Failed { error: "the question broke the worker's thread".into() });
            }
            shared.touch();
            shared.under_way.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
    Ok(())
}

/// What is asked of one candidate.
struct Question {
    candidate: Candidate,
    row: RunRow,
    logprobs: Option<usize>,
    keys: Keys,
}

/// The way back to who asked one question.
#[derive(Clone)]
struct Teller {
    id: u64,
    events: mpsc::Sender<PlayEvent>,
    cancelled: watch::Receiver<bool>,
    runtime: Handle,
}

impl Teller {
    /// False: nobody listens any more.
    fn tell(&self, body: PlayBody) -> bool {
        !*self.cancelled.borrow() && self.events.blocking_send(PlayEvent { id: self.id, body }).is_ok()
    }

    /// Somebody listens still.
    fn is_heard(&self) -> bool {
        !*self.cancelled.borrow() && !self.events.is_closed()
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

fn answer(shared: &Arc<Shared>, question: Question, teller: &Teller) {
    let body = match try_answer(shared, question, teller) {
        Ok(output) => PlayBody::Done { output },
        Err(error) => PlayBody::Failed { error },
    };
    if *teller.cancelled.borrow() {
        // Said once, so that whoever cancelled knows that nothing follows.
        let body = PlayBody::Failed { error: "cancelled".into() };
        let _ = teller.events.blocking_send(PlayEvent { id: teller.id, body });
    } else {
        teller.tell(body);
    }
}

fn try_answer(shared: &Arc<Shared>, question: Question, teller: &Teller) -> Result<String, String> {
    let Question { candidate, row, logprobs, keys } = question;
    let access = Access { keys, ..shared.access.clone() };
    let tokens: Arc<Mutex<Vec<PlayToken>>> = Arc::default();
    let open = &mut |stage: &StageCandidate| -> Result<Box<dyn Backend>, BackendError> {
        let model = &stage.model;
        let source = match &model.source {
            ModelSource::Local { .. } => {
                if !shared.models.holds(model) {
                    teller.tell(PlayBody::Waiting { why: format!("{} is being loaded", model.name) });
                }
                Source::Here(shared.models.open(model, stage.adapter.as_ref())?)
            }
            ModelSource::Endpoint { .. } => {
                Source::Elsewhere(backend::open(model, stage.adapter.as_ref(), &access)?)
            }
        };
        let (stage, teller, tokens) = (stage.name.clone(), teller.clone(), tokens.clone());
        Ok(Box::new(Tap { source, stage, teller, logprobs, tokens }))
    };
    // Each stage has its own way back.
    let mut pipeline = Pipeline::with_a_backend_per_stage(&candidate, &access, open)
        .map_err(|e| format!("{:#}", anyhow::Error::from(e)))?;
    let ended = &mut |_: usize, outcome: &StageOutcome| {
        let tokens = std::mem::take(&mut *tokens.lock().unwrap_or_else(PoisonError::into_inner));
        teller.tell(PlayBody::Stage { outcome: outcome.clone(), tokens });
    };
    let answered = pipeline.answer_by_stages(&[&row], ended).pop().unwrap_or_default();
    answered.error.map_or(Ok(answered.output), Err)
}

enum Source {
    Here(Answerer),
    Elsewhere(Box<dyn Backend>),
}

/// A stage's model, which tells who asked what it is asked, and what it says, as it says it.
struct Tap {
    source: Source,
    stage: String,
    teller: Teller,
    logprobs: Option<usize>,
    /// Those of the latest answer.
    tokens: Arc<Mutex<Vec<PlayToken>>>,
}

impl Backend for Tap {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        asks.iter().enumerate().map(|(i, ask)| self.one(i, ask, listener)).collect()
    }
}

impl Tap {
    fn one(&mut self, i: usize, ask: &Ask, listener: &mut Listener<'_>) -> Result<Answer, BackendError> {
        let ask = Ask { logprobs: self.logprobs.or(ask.logprobs), ..ask.clone() };
        let (teller, stage) = (&self.teller, &self.stage);
        let prompt = match &self.source {
            Source::Here(answerer) => answerer.reader.text(&ask).map_err(|e| BackendError(e.to_string()))?,
            Source::Elsewhere(_) => ask.text().to_owned(),
        };
        teller.tell(PlayBody::Prompt { stage: stage.clone(), prompt });
        let mut hear = |text: &str| {
            let told = teller.tell(PlayBody::Piece { stage: stage.clone(), text: text.to_owned() });
            if told { listener(i, Heard::Piece(text)) } else { ControlFlow::Break(()) }
        };
        let answer = match &mut self.source {
            Source::Here(answerer) => here(answerer, ask, teller, &mut hear)?,
            Source::Elsewhere(backend) => {
                let mut answers = backend.stream(std::slice::from_ref(&ask), &mut |_, heard| match heard {
                    Heard::Piece(text) => hear(text),
                    Heard::Waiting if !teller.is_heard() => ControlFlow::Break(()),
                    Heard::Waiting | Heard::Done(_) => ControlFlow::Continue(()),
                });
                answers.pop().unwrap_or_else(|| Err(BackendError("no answer came".into())))?
            }
        };
        let token =
            |t: &TokenLogprob| PlayToken { text: t.text.clone(), logprob: t.logprob, top: t.top.clone() };
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) =
            answer.logprobs.iter().map(token).collect();
        let _ = listener(i, Heard::Done(&answer));
        Ok(answer)
    }
}

/// An answer of a model that is loaded here.
fn here(
    answerer: &Answerer,
    ask: Ask,
    teller: &Teller,
    hear: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answer, BackendError> {
    let mut from = answerer.submit(ask).map_err(|e| BackendError(e.to_string()))?;
    while let Some(event) = teller.next(&mut from) {
        match event {
            Event::Text { text, .. } => {
                if hear(&text).is_break() {
                    break;
                }
            }
            Event::Finished(answer) => return Ok(*answer),
            Event::Failed(error) => return Err(error),
        }
    }
    Err(BackendError("cancelled".into()))
}

#[cfg(test)]
mod tests;
