//! The screens: state, drawing, keys, the terminal.
//!
//! ```text
//! signals, keys, engine's news --Message--> App::update --Effect--> engine, terminal
//!                                             |
//!                                        screens::draw (a pure function of the state)
//! ```
//!
//! Knows the domain's types only: no socket, no store, no model. Whoever calls [`run`] holds the connection.

pub mod app;
pub mod config;
mod editor;
pub mod event_loop;
pub mod key;
pub mod keymap;
pub mod layers;
pub mod plain;
pub mod sample;
pub mod screens;
pub mod series;
pub mod signs;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod theme;
mod watch;
pub mod widgets;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::domain::api::{FromEngine, ToEngine};
use app::{App, Message};
use event_loop::{Signal, Sources};
use signs::Signs;
use terminal::Screen;

/// How the screens are to behave.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print lines instead of drawing.
    pub plain: bool,
    /// Theme by name; none: the configuration's, else dark.
    pub theme: Option<String>,
    /// Folder of the user's configuration; none: there is none.
    pub config: Option<PathBuf>,
    /// `NO_COLOR` is set.
    pub no_color: bool,
    /// The locale has no UTF-8.
    pub ascii: bool,
}

impl Options {
    /// What the environment says: `NO_COLOR` (no-color.org: set and not empty), the locale, XDG's folders.
    pub fn from_environment(plain: bool, theme: Option<String>) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self {
            plain,
            theme,
            config: config::folder(variable),
            no_color: variable("NO_COLOR").is_some_and(|v| !v.is_empty()),
            ascii: !signs::locale_is_utf8(variable),
        }
    }
}

/// Shows the screens until somebody leaves. Runs go on without them.
///
/// # Errors
/// There is no terminal, or it cannot be written to.
pub async fn run(
    options: Options,
    to_engine: UnboundedSender<ToEngine>,
    from_engine: UnboundedReceiver<FromEngine>,
) -> anyhow::Result<()> {
    if options.plain {
        return plain::run(to_engine, from_engine).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        anyhow::bail!("the screens need a terminal; use --plain, or the commands (tunebench --help)");
    }
    let signs = if options.ascii { Signs::ascii() } else { Signs::unicode() };
    let settings = config::read(options.config.as_deref(), options.theme.as_deref(), options.no_color);
    let signals = signals().context("signals cannot be listened to")?;
    let (mut screen, size) = Screen::take("tunebench").context("the terminal cannot be taken")?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let mut app = App::new(size, signs, now_ms);
    app.update(Message::Settings(settings), now_ms);
    // The watcher lives as long as the loop.
    let (_watcher, settings) = watch::settings(&options);
    let sources = Sources { signals, inputs: screen.inputs(), from_engine, settings };
    // The state is large: it lives on the heap.
    let outcome = Box::pin(event_loop::run(app, &mut screen, sources, &to_engine)).await;
    drop(screen);
    outcome.map(drop).context("the terminal cannot be written to")
}

/// Signals that end or wake the screens.
fn signals() -> std::io::Result<impl futures_util::Stream<Item = Signal> + Unpin> {
    let mut leave =
        [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?];
    // SIGCONT: somebody stopped us from outside and let us go on.
    let mut continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
    Ok(futures_util::stream::poll_fn(move |cx| {
        use std::task::Poll;
        for signal in &mut leave {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(Some(Signal::Leave));
            }
        }
        continued.poll_recv(cx).map(|_| Some(Signal::Continued))
    }))
}
