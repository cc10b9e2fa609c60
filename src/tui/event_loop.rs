//! The one loop: signals, input, the engine's news, the user's files, the next frame. It waits in one `select!` and draws only what is due.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::app::{App, Effect, Message};
use super::config::Settings;
use super::screens;
use super::terminal::{Input, Surface};
use crate::domain::api::{FromEngine, Push, ToEngine};

/// What ends or wakes the loop from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Leave now: SIGTERM, SIGHUP, SIGINT.
    Leave,
    /// Back in the foreground after the shell's `fg`.
    Continued,
}

/// When the next frame is due: at once after a rest, and never more often than what happened deserves.
#[derive(Debug)]
pub struct Pacer {
    last: Option<Instant>,
    due: Option<Instant>,
}

/// Why something is to be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A person waits for it. A held key repeats 30 times a second, each with an answer of the engine behind it: a pause as long as that
    /// would keep every other of them waiting.
    Input,
    /// A run tells of itself: 10 frames a second at most.
    Run,
}

impl Pacer {
    pub const fn new() -> Self {
        Self { last: None, due: None }
    }

    pub fn changed(&mut self, cause: Cause, now: Instant) {
        let pause = match cause {
            Cause::Input => Duration::from_millis(8),
            Cause::Run => Duration::from_millis(100),
        };
        let due = self.last.map_or(now, |last| last + pause).max(now);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn drawn(&mut self, now: Instant) {
        (self.last, self.due) = (Some(now), None);
    }
}

impl Default for Pacer {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything that comes in.
pub struct Sources<I, S> {
    pub signals: S,
    pub inputs: I,
    pub from_engine: UnboundedReceiver<FromEngine>,
    pub settings: UnboundedReceiver<Settings>,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The editor's end.
async fn closed(editing: &mut Option<tokio::task::JoinHandle<Result<(), String>>>) -> Result<(), String> {
    match editing {
        Some(task) => task.await.unwrap_or_else(|e| Err(e.to_string())),
        None => std::future::pending().await,
    }
}

/// Runs until somebody leaves. The terminal is the caller's to give back.
///
/// # Errors
/// The terminal cannot be written to.
pub async fn run<I, S>(
    mut app: App,
    surface: &mut dyn Surface,
    sources: Sources<I, S>,
    to_engine: &UnboundedSender<ToEngine>,
) -> std::io::Result<App>
where
    I: Stream<Item = Input> + Unpin,
    S: Stream<Item = Signal> + Unpin,
{
    let Sources { mut signals, mut inputs, mut from_engine, mut settings } = sources;
    let (mut engine_open, mut settings_open) = (true, true);
    // The user's editor has the terminal: nothing is drawn and no key is ours.
    let mut editing: Option<tokio::task::JoinHandle<Result<(), String>>> = None;
    let mut pacer = Pacer::new();
    pacer.changed(Cause::Input, Instant::now());
    loop {
        // A flood of news must not keep a due frame waiting.
        if editing.is_none() && pacer.due().is_some_and(|due| due <= Instant::now()) {
            surface.draw(&mut |buf| screens::draw(&app, buf))?;
            pacer.drawn(Instant::now());
        }
        let tick = app.tick_ms().map(|ms| Instant::now() + Duration::from_millis(ms));
        let (message, cause) = tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Some(Signal::Continued) => {
                    surface.clear()?;
                    (Message::Tick, Cause::Input)
                }
                Some(Signal::Leave) | None => return Ok(app),
            },
            input = inputs.next() => match input {
                Some(Input::Key(key)) => (Message::Key(key), Cause::Input),
                Some(Input::Paste(text)) => (Message::Paste(text), Cause::Input),
                Some(Input::Resize(width, height)) => {
                    surface.resize(width, height)?;
                    (Message::Resize(width, height), Cause::Input)
                }
                Some(Input::End) | None => return Ok(app),
            },
            news = from_engine.recv(), if engine_open => match news {
                Some(news) => {
                    // An answer is read as it is written.
                    let of_run = |push: &Push| !matches!(push, Push::Play { .. });
                    let cause = match &news {
                        FromEngine::Push { push } if of_run(push) => Cause::Run,
                        _ => Cause::Input,
                    };
                    (Message::Engine(news), cause)
                }
                None => {
                    engine_open = false;
                    let reason = "the connection was closed; leave with q and start tunebench again".to_owned();
                    (Message::Engine(FromEngine::Lost { reason }), Cause::Input)
                }
            },
            read = settings.recv(), if settings_open => match read {
                Some(read) => (Message::Settings(read), Cause::Input),
                None => {
                    settings_open = false;
                    continue;
                }
            },
            closed = closed(&mut editing), if editing.is_some() => {
                editing = None;
                let (width, height) = surface.come_back()?;
                app.update(Message::Resize(width, height), now_ms());
                (Message::Edited(closed), Cause::Input)
            }
            () = at(pacer.due()), if editing.is_none() => continue,
            () = at(tick) => (Message::Tick, Cause::Run),
        };
        for effect in app.update(message, now_ms()) {
            match effect {
                // Without a receiver the engine's side is gone, and says so through its own channel.
                Effect::Send(ask) => drop(to_engine.send(ask)),
                Effect::Quit => return Ok(app),
                Effect::Redraw => surface.clear()?,
                Effect::Edit(path) => {
                    if editing.is_none() {
                        surface.leave()?;
                        editing = Some(tokio::task::spawn_blocking(move || super::editor::open(&path)));
                    }
                }
                Effect::Suspend => {
                    let (width, height) = surface.suspend()?;
                    app.update(Message::Resize(width, height), now_ms());
                }
            }
        }
        pacer.changed(cause, Instant::now());
    }
}
