//! Questions in the playground: looked up here, answered by the resident worker, relayed to the client that asked and to no other.
//!
//! ```text
//! client --Request::Play--> ask --a task and a connection per question--> worker (play.sock in its run's folder)
//!        <--Push::Play----- Desk <------------------PlayEvent------------
//! ```
//! A question ends with its client's connection. What a client does not read is put together, and once there is too much of it
//! nothing more is read from the worker.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;

use super::protocol::{FRAME_MAX, read_frame, write_frame};
use super::state::{Engine, bad_input};
use super::{candidates, launch, parts, rows};
use crate::data::feedback;
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, OutputKind};
use crate::domain::keys::Keys;
use crate::domain::outcome::StageOutcome;
use crate::domain::play::{PlayAsk, PlayBody, PlayEvent, PlayInput, PlayRequest, Playing};
use crate::domain::row::RunRow;
use crate::domain::run::{RunKind, RunState};
use crate::domain::settings::EvalSettings;
use crate::store::files;
use crate::worker::folder::RunFolder;

/// Questions of one client under way at once.
const AT_ONCE: usize = 8;
/// Longest input that is typed, in bytes; with its candidate it must fit a frame.
const INPUT_MAX: usize = 256 << 10;
/// Most tokens asked for by a client.
const TOKENS_MAX: usize = 1 << 20;
/// Text that is put together into one piece, and what may wait for a client in all, in bytes.
const PIECE: usize = 32 << 10;
const WAITING: usize = 512 << 10;
/// Events in one push, in bytes of their JSON.
const PUSH_BYTES: usize = 256 << 10;
/// Time between two looks at a worker that is starting.
const LOOK: Duration = Duration::from_millis(50);
/// Workers that may end before a question reaches one.
const STARTS: usize = 3;

const BROKEN_OFF: &str = "broken off";

/// A client's questions, and news of them that it has not got yet.
#[derive(Debug, Default)]
pub struct Desk {
    state: Mutex<OnDesk>,
    news: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct OnDesk {
    /// Questions under way, each with what tells it to end.
    open: BTreeMap<u64, watch::Sender<bool>>,
    events: Vec<PlayEvent>,
    /// Bytes of their texts.
    bytes: usize,
    closed: bool,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, OnDesk> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new question; what says that it is to end.
    fn open(&self, id: u64) -> Result<watch::Receiver<bool>, Failure> {
        let mut state = self.state();
        if state.open.contains_key(&id) {
            return Err(bad_input(format!(
                "question {id} is under way already; give every question a number of its own"
            )));
        }
        if state.open.len() >= AT_ONCE {
            return Err(bad_input(format!("{AT_ONCE} questions are under way already; cancel one")));
        }
        let (end, ended) = watch::channel(state.closed);
        state.open.insert(id, end);
        Ok(ended)
    }

    fn put(&self, id: u64, body: PlayBody) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.bytes += size(&body);
        match (state.events.iter_mut().rfind(|event| event.id == id).map(|event| &mut event.body), body) {
            (Some(PlayBody::Piece { stage: of, text }), PlayBody::Piece { stage, text: more })
                if *of == stage && text.len() + more.len() <= PIECE =>
            {
                text.push_str(&more);
            }
            (_, body) => state.events.push(PlayEvent { id, body }),
        }
        drop(state);
        self.news.notify_one();
    }

    /// Wait until the client has taken enough of what waits for it.
    async fn room(&self) {
        loop {
            let room = self.room.notified();
            if self.state().bytes <= WAITING {
                return;
            }
            room.await;
        }
    }

    /// There may be something to take.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What fits one push; nothing when nothing waits.
    pub fn take(&self) -> Vec<PlayEvent> {
        let mut state = self.state();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(first) = state.events.first() {
            let length = serde_json::to_vec(first).map_or(0, |json| json.len());
            if !taken.is_empty() && bytes + length > PUSH_BYTES {
                break;
            }
            bytes += length;
            let event = state.events.remove(0);
            state.bytes -= size(&event.body).min(state.bytes);
            taken.push(if length > FRAME_MAX / 2 { shortened(event) } else { event });
        }
        drop(state);
        self.room.notify_waiters();
        taken
    }

    /// The client is gone.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.events.clear();
        state.bytes = 0;
        for end in state.open.values() {
            let _ = end.send(true);
        }
        drop(state);
        self.room.notify_waiters();
    }
}

fn size(body: &PlayBody) -> usize {
    match body {
        PlayBody::Waiting { why: text }
        | PlayBody::Prompt { prompt: text, .. }
        | PlayBody::Piece { text, .. }
        | PlayBody::Done { output: text }
        | PlayBody::Failed { error: text } => text.len(),
        PlayBody::Stage { outcome, tokens } => {
            let others = |t: &crate::domain::play::PlayToken| {
                t.top.iter().map(|(text, _)| text.len() + 8).sum::<usize>()
            };
            outcome.output.len() + tokens.iter().map(|t| t.text.len() + 8 + others(t)).sum::<usize>()
        }
    }
}

/// What would not fit a frame, with its texts cut and its tokens left out.
fn shortened(event: PlayEvent) -> PlayEvent {
    // A character takes at most twelve bytes of JSON.
    let short = |text: String| rows::cut(&text, FRAME_MAX / 64).into_owned();
    let body = match event.body {
        PlayBody::Waiting { why } => PlayBody::Waiting { why: short(why) },
        PlayBody::Prompt { stage, prompt } => PlayBody::Prompt { stage, prompt: short(prompt) },
        PlayBody::Piece { stage, text } => PlayBody::Piece { stage, text: short(text) },
        PlayBody::Done { output } => PlayBody::Done { output: short(output) },
        PlayBody::Failed { error } => PlayBody::Failed { error: short(error) },
        PlayBody::Stage { mut outcome, .. } => {
            outcome.output = short(outcome.output);
            PlayBody::Stage { outcome, tokens: Vec::new() }
        }
    };
    PlayEvent { body, ..event }
}

/// Break a question off. One that has ended already needs nothing.
pub fn cancel(desk: &Desk, id: u64) -> String {
    match desk.state().open.get(&id) {
        Some(end) => {
            let _ = end.send(true);
            "the answer is broken off".into()
        }
        None => "the answer has ended already".into(),
    }
}

/// Look up what is asked of whom, and begin to ask. Runs on a blocking thread.
pub fn ask(engine: &Arc<Engine>, desk: &Arc<Desk>, ask: PlayAsk, keys: Keys) -> Result<Playing, Failure> {
    let loaded = rows::loaded(engine)?;
    let mut candidate = candidates::resolve(engine, &loaded.ws, &loaded.dataset, ask.candidate.as_deref())?;
    let keys = launch::check_keys(
        RunKind::Eval,
        &candidate,
        &EvalSettings::default(),
        None::<&crate::domain::candidate::ModelRef>,
        &keys,
    )?;
    set_decoding(&mut candidate, &ask)?;
    let row = row(engine, &loaded, ask.input.clone())?;
    let last = candidate.stages.last();
    let playing = Playing {
        id: ask.id,
        candidate: candidate.name.clone(),
        stages: candidate.stages.iter().map(|stage| stage.name.clone()).collect(),
        labels: last.filter(|s| s.output == OutputKind::Label).map(|s| s.labels.clone()).unwrap_or_default(),
        row: matches!(ask.input, PlayInput::Row { .. }).then(|| row.id.clone()),
        input: row.input.clone(),
        gold: row.gold.clone(),
    };
    let question = PlayRequest::Ask {
        id: engine.questions.fetch_add(1, Ordering::Relaxed),
        candidate: Box::new(candidate),
        row: Box::new(row),
        logprobs: ask.logprobs,
        keys,
    };
    let ended = desk.open(ask.id)?;
    let (engine, desk) = (engine.clone(), desk.clone());
    tokio::runtime::Handle::current().spawn(async move {
        let outcome = relay(&engine, &desk, ask.id, &question, ended).await;
        // First gone, then told: whoever is told may use the number again.
        desk.state().open.remove(&ask.id);
        desk.put(ask.id, outcome.unwrap_or_else(|error| PlayBody::Failed { error }));
    });
    Ok(playing)
}

/// What the person set, in place of every stage's own.
fn set_decoding(candidate: &mut Candidate, ask: &PlayAsk) -> Result<(), Failure> {
    if let Some(wrong) = ask.temperature.filter(|t| !(0.0..=100.0).contains(t)) {
        return Err(bad_input(format!("a temperature of {wrong}; expected a number from 0 (greedy) to 100")));
    }
    if let Some(wrong) = ask.max_tokens.filter(|n| !(1..=TOKENS_MAX).contains(n)) {
        return Err(bad_input(format!("{wrong} tokens at most; expected a number from 1 to {TOKENS_MAX}")));
    }
    for stage in &mut candidate.stages {
        let decoding = &mut stage.decoding;
        decoding.temperature = ask.temperature.unwrap_or(decoding.temperature);
        decoding.max_tokens = ask.max_tokens.unwrap_or(decoding.max_tokens);
        decoding.seed = decoding.seed.wrapping_add(u64::from(ask.sample));
    }
    Ok(())
}

/// Questions that are put together at once by [`ask_all`].
const TOGETHER: usize = 16;

/// A row's answer: what every stage did, and the output.
pub type Whole = Result<(Vec<StageOutcome>, String), String>;

/// A candidate's answers to rows, in their order, many at once. Runs on a blocking thread, and waits there.
pub fn ask_all(engine: &Arc<Engine>, candidate: &Candidate, rows: &[&RunRow], keys: &Keys) -> Vec<Whole> {
    let one = |row: &RunRow| {
        let question = PlayRequest::Ask {
            id: engine.questions.fetch_add(1, Ordering::Relaxed),
            candidate: Box::new(candidate.clone()),
            row: Box::new(row.clone()),
            logprobs: None,
            keys: keys.clone(),
        };
        async move { whole(engine, &question).await }
    };
    let questions: Vec<_> = rows.iter().map(|row| one(row)).collect();
    let answers = futures_util::stream::iter(questions).buffered(TOGETHER).collect();
    tokio::runtime::Handle::current().block_on(answers)
}

/// A question's whole answer.
async fn whole(engine: &Arc<Engine>, question: &PlayRequest) -> Whole {
    let (desk, (_end, ended)) = (Desk::default(), watch::channel(false));
    let answer = relay(engine, &desk, 0, question, ended);
    tokio::pin!(answer);
    let mut stages = Vec::new();
    let mut take = |desk: &Desk| {
        for event in desk.take() {
            if let PlayBody::Stage { outcome, .. } = event.body {
                stages.push(outcome);
            }
        }
    };
    let end = loop {
        tokio::select! {
            end = &mut answer => break end?,
            // So that a long answer does not wait for a reader.
            () = desk.news() => take(&desk),
        }
    };
    loop {
        let waiting = !desk.state().events.is_empty();
        take(&desk);
        if !waiting {
            break;
        }
    }
    match end {
        PlayBody::Done { output } => Ok((stages, output)),
        PlayBody::Failed { error } => Err(error),
        _ => Err("the answer has no end".into()),
    }
}

/// The row that is asked: one of the data as it stands now, or one made of what was typed.
pub fn row(engine: &Engine, loaded: &rows::Loaded, input: PlayInput) -> Result<RunRow, Failure> {
    let data = &loaded.dataset;
    match input {
        PlayInput::Row { id } => {
            let at = data.find(&id).ok_or_else(|| bad_input(format!("no row `{id}`")))?;
            let row = data.row(at).map_err(|e| parts::data_error(&e))?;
            let (input, in_file) = data.resolve(&row).map_err(|e| parts::data_error(&e))?;
            let (gold, hash) =
                engine.read(|s| rows::with_gold(&row.id, &row.hash, in_file, &s.decisions.gold));
            let stratum = loaded.stratum(at).and_then(|s| loaded.strata.as_ref()?.name(s));
            let part = loaded.parts.get(at).copied().flatten();
            let turns = data.turns(&row);
            Ok(RunRow { id: row.id, hash, part, stratum, fields: row.fields, input, turns, gold })
        }
        PlayInput::Typed { text } => {
            if text.trim().is_empty() {
                return Err(bad_input("there is nothing to ask; type an input or name a row"));
            }
            if text.len() > INPUT_MAX {
                return Err(bad_input(format!(
                    "the input has {} bytes; at most {} KiB can be typed",
                    text.len(),
                    INPUT_MAX >> 10
                )));
            }
            let fields = feedback::fields(&loaded.ws.config.data, &text, None);
            let canonical = crate::data::canonical::to_string(&Value::Object(fields.clone()));
            let hash = blake3::hash(canonical.as_bytes()).to_hex().as_str()[..32].to_owned();
            let id = feedback::row_id(&text);
            let turns = Vec::new();
            Ok(RunRow { id, hash, part: None, stratum: None, fields, input: text, turns, gold: None })
        }
    }
}

/// Why an answer has no end of its own.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    /// Nobody wants it any more.
    Off,
    /// The worker is gone.
    Gone,
    /// What cannot be sent or read.
    Wrong(String),
}

/// Put a question to the worker and its answer on the desk. The last event, or why there is none.
async fn relay(
    engine: &Arc<Engine>,
    desk: &Desk,
    id: u64,
    question: &PlayRequest,
    mut ended: watch::Receiver<bool>,
) -> Result<PlayBody, String> {
    let (run, stream) = tokio::select! {
        found = connect(engine, desk, id) => found?,
        () = over(&mut ended) => return Err(BROKEN_OFF.into()),
    };
    match converse(desk, id, question, stream, &mut ended).await {
        Ok(end) => Ok(end),
        Err(Broken::Off) => Err(BROKEN_OFF.into()),
        Err(Broken::Gone) => Err(last_words(engine, &run).await),
        Err(Broken::Wrong(why)) => Err(format!("{run}: {why}")),
    }
}

/// Ask on a connection of the question's own.
async fn converse(
    desk: &Desk,
    id: u64,
    question: &PlayRequest,
    stream: UnixStream,
    ended: &mut watch::Receiver<bool>,
) -> Result<PlayBody, Broken> {
    let (mut read, mut write) = stream.into_split();
    let number = match question {
        PlayRequest::Ask { id, .. } | PlayRequest::Cancel { id } => *id,
    };
    match write_frame(&mut write, question).await {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            return Err(Broken::Wrong(format!("the question could not be sent: {e}; ask for less at once")));
        }
        Err(_) => return Err(Broken::Gone),
    }
    loop {
        let event = tokio::select! {
            event = read_frame::<PlayEvent>(&mut read) => event,
            () = over(ended) => {
                // Where the worker is gone, its answer is, too.
                let _ = write_frame(&mut write, &PlayRequest::Cancel { id: number }).await;
                return Err(Broken::Off);
            }
        };
        match event {
            Ok(Some(event)) if event.id != number => {}
            Ok(Some(PlayEvent {
                body: body @ (PlayBody::Done { .. } | PlayBody::Failed { .. }), ..
            })) => {
                return Ok(body);
            }
            Ok(Some(PlayEvent { body, .. })) => desk.put(id, body),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(Broken::Wrong(format!("its worker sent what cannot be read: {e}")));
            }
            Ok(None) | Err(_) => return Err(Broken::Gone),
        }
        tokio::select! {
            () = desk.room() => {}
            // Told to the worker above.
            () = over(ended) => {}
        }
    }
}

/// The question is to end.
async fn over(ended: &mut watch::Receiver<bool>) {
    let _ = ended.wait_for(|end| *end).await;
}

/// The worker has gone in mid-answer: what the supervisor finds out about that, if it does so soon.
async fn last_words(engine: &Engine, run: &str) -> String {
    let mut why = String::new();
    for _ in 0..40 {
        if let Ok(record) = engine.record(run)
            && record.state.is_final()
        {
            why = record.message.map(|m| format!(": {m}")).unwrap_or_default();
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    format!("the worker of {run} ended in mid-answer{why}; ask again, and another one is started")
}

/// A connection to the playground's worker, started where there is none. While it waits, it says for what.
async fn connect(engine: &Arc<Engine>, desk: &Desk, id: u64) -> Result<(String, UnixStream), String> {
    let (mut said, mut ending) = (None, String::new());
    for _ in 0..STARTS {
        let place = engine.clone();
        let found = spawn_blocking(move || find_or_launch(&place)).await;
        let (run, folder) = found.map_err(|e| format!("internal error: {e}"))?.map_err(|f| f.message)?;
        let path = folder.play().map_err(|e| format!("{run}: {e}"))?;
        loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => {
                    own(&path, &stream).map_err(|e| e.to_string())?;
                    return Ok((run, stream));
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
                Err(e) => return Err(format!("the worker of {run} cannot be asked: {e}")),
            }
            let record = engine.record(&run).map_err(|f| f.message)?;
            match (record.state, record.message) {
                (RunState::Failed, message) => {
                    let why = message.map(|m| format!(": {m}")).unwrap_or_default();
                    return Err(format!("{run} failed{why}"));
                }
                // It was just leaving, or had died without anybody's having asked since.
                (state, message) if state.is_final() => {
                    ending = message.map(|m| format!(": {m}")).unwrap_or_default();
                    break;
                }
                (_, message) => {
                    let why = message.unwrap_or_else(|| format!("{run} is starting"));
                    if said.as_ref() != Some(&why) {
                        desk.put(id, PlayBody::Waiting { why: why.clone() });
                        said = Some(why);
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Err(format!("{STARTS} workers of the playground ended before they could be asked, the last one{ending}"))
}

/// Who listens there sees keys and rows.
fn own(path: &Path, stream: &UnixStream) -> io::Result<()> {
    files::check_owner(path, stream.peer_cred()?.uid(), files::own_uid())
}

/// The playground's run: the newest that has not ended, or a new one.
fn find_or_launch(engine: &Engine) -> Result<(String, RunFolder), Failure> {
    let _one = engine.playing.lock().unwrap_or_else(PoisonError::into_inner);
    let kind = RunKind::Playground;
    let open = engine.read(|state| {
        let open = state.runs.values().filter(|r| r.record.kind == kind && !r.record.state.is_final());
        let newest = open.max_by_key(|r| r.record.created_ms);
        newest.map(|r| (r.record.run.clone(), r.folder.clone()))
    });
    if let Some(found) = open {
        return Ok(found);
    }
    let run = launch::launch(engine, kind, Vec::new(), Keys::default(), None)?;
    let folder = engine.read(|s| s.runs.get(&run).map(|r| r.folder.clone()));
    folder.map(|folder| (run.clone(), folder)).ok_or_else(|| super::state::no_run(&run))
}

#[cfg(test)]
mod tests;
