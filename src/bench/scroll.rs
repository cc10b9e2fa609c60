//! `tunebench bench scroll`: from a key to the frame that shows the row it leads to, over a file of many rows, with a real engine behind
//! the real event loop; and what client and engine hold in memory above an empty workspace.
//!
//! The screens run in a process of their own, as they do for people, so that their memory is theirs alone: this one makes the files, starts
//! it once on an empty workspace and once on the large one, and reports the difference.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ratatui::buffer::Buffer;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::frame::board::Times;
use super::import;
use crate::data;
use crate::engine::client;
use crate::machine;
use crate::tui::app::{App, Message};
use crate::tui::event_loop::{self, Signal, Sources};
use crate::tui::key::Key;
use crate::tui::sample;
use crate::tui::screens;
use crate::tui::signs::Signs;
use crate::tui::terminal::{Frames, Input, Surface};
use crate::workspace::Workspace;

/// How long one frame may take before the measurement gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// A held key repeats 30 times a second on most systems.
const REPEAT: Duration = Duration::from_millis(33);

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Rows of the file
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: usize,
    /// Rounds over the keys: 60 lines down, 20 pages, both ends, 20 lines up
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    #[arg(long, default_value_t = 120)]
    pub width: u16,
    #[arg(long, default_value_t = 40)]
    pub height: u16,
    /// The workspace to scroll in: the part of the measurement that runs in a process of its own
    #[arg(long, hide = true)]
    pub within: Option<PathBuf>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub rows: usize,
    pub bytes: u64,
    pub width: u16,
    pub height: u16,
    /// From starting the client to the first frame with rows; the engine starts and opens the index meanwhile.
    pub open_ms: f64,
    /// From a key to the painted frame with the row that it leads to, the engine's answer included where it takes one.
    pub keys: Times,
    /// Keys of which the row was not here yet: the engine had to be asked first.
    pub asked: Times,
    /// Memory above that on an empty workspace, in MiB: all that is resident, and without pages of mapped files.
    pub client_mib: f64,
    pub engine_mib: f64,
    pub client_own_mib: f64,
    pub engine_own_mib: f64,
}

/// What the process with the screens tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Within {
    open_ms: f64,
    /// Milliseconds of each key, and whether the first frame after it had the row already.
    keys: Vec<(f64, bool)>,
    client: Memory,
    engine: Memory,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Memory {
    resident: u64,
    own: u64,
}

fn memory(pid: u32) -> Memory {
    let of = |field| machine::status_of(&pid.to_string(), field).unwrap_or(0);
    Memory { resident: of("VmRSS:"), own: of("RssAnon:") }
}

/// Scrolls a workspace of its own and reports.
///
/// # Errors
/// No temporary folder, no engine, or a frame that never came.
pub fn run(settings: &Settings) -> anyhow::Result<Measured> {
    let dir = std::env::temp_dir().join(format!("tunebench-bench-scroll-{}", std::process::id()));
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let measured = measure(&dir, settings);
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    measured
}

fn measure(dir: &Path, settings: &Settings) -> anyhow::Result<Measured> {
    let workspace = |name: &str, rows: usize| -> anyhow::Result<PathBuf> {
        let root = dir.join(name);
        std::fs::create_dir(&root)?;
        import::workspace(&root, rows, 14)?;
        // As `data import` does it: in the memory of whoever asks for it.
        data::import(&Workspace::load(&root)?, true, &mut |_, _| {})?;
        Ok(root)
    };
    let empty = within(&workspace("empty", 1)?, &Settings { rows: 1, rounds: 0, ..settings.clone() })?;
    let root = workspace("large", settings.rows)?;
    let bytes = std::fs::metadata(root.join("rows.jsonl"))?.len();
    let large = within(&root, settings)?;
    let mib = |large: u64, empty: u64| (large as f64 - empty as f64) / f64::from(1 << 20);
    let keys = large.keys.iter().map(|(ms, _)| *ms).collect();
    let asked = large.keys.iter().filter(|(_, here)| !here).map(|(ms, _)| *ms).collect();
    Ok(Measured {
        rows: settings.rows,
        bytes,
        width: settings.width,
        height: settings.height,
        open_ms: large.open_ms,
        keys: Times::of(keys),
        asked: Times::of(asked),
        client_mib: mib(large.client.resident, empty.client.resident),
        engine_mib: mib(large.engine.resident, empty.engine.resident),
        client_own_mib: mib(large.client.own, empty.client.own),
        engine_own_mib: mib(large.engine.own, empty.engine.own),
    })
}

/// The same program on one workspace.
fn within(root: &Path, settings: &Settings) -> anyhow::Result<Within> {
    let out = std::process::Command::new(std::env::current_exe()?)
        .args(["bench", "scroll", "--json", "--within"])
        .arg(root)
        .args(["--rows", &settings.rows.to_string(), "--rounds", &settings.rounds.to_string()])
        .args(["--width", &settings.width.to_string(), "--height", &settings.height.to_string()])
        .env("TUNEBENCH_IDLE_SECS", "0.1")
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("the screens did not tell what they measured: {text}"))
}

/// The screens over one workspace, with keys pressed as a person does.
///
/// # Errors
/// No engine, or a frame that never came.
pub fn scroll(root: &Path, settings: &Settings) -> anyhow::Result<Within> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let found =
        runtime.block_on(tokio::task::LocalSet::new().run_until(drive(root.to_owned(), settings.clone())));
    runtime.shutdown_background();
    found
}

async fn drive(root: PathBuf, settings: Settings) -> anyhow::Result<Within> {
    let start = Instant::now();
    let (to_engine, from_screens) = unbounded_channel();
    let (to_screens, from_engine) = unbounded_channel();
    let connection = tokio::spawn(client::drive(root.clone(), from_screens, to_screens));
    let (keys, pressed) = unbounded_channel();
    let (painted, mut frames) = unbounded_channel();
    let (width, height) = (settings.width, settings.height);
    let screens = tokio::task::spawn_local(async move {
        let mut surface = Watched { frames: Frames::on(io::sink(), width, height), width, height, painted };
        let mut app = App::new((width, height), Signs::unicode(), sample::NOW_MS);
        app.update(Message::Settings(sample::settings("dark")), sample::NOW_MS);
        let (_settings, settings) = unbounded_channel();
        let sources = Sources {
            signals: Box::pin(futures_util::stream::pending::<Signal>()),
            inputs: Box::pin(stream(pressed)),
            from_engine,
            settings,
        };
        Box::pin(event_loop::run(app, &mut surface, sources, &to_engine)).await.map(drop)
    });
    // The rows pane has the focus; then as many keys as are wanted, each when the frame before is there.
    let mut hand = Hand { keys, frames: &mut frames, at: 0, rows: settings.rows, took: Vec::new() };
    hand.until(&row(0)).await?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    hand.press("right")?;
    hand.until(&row(0)).await?;
    let page = screens::strata::rows_height((width, height)).cast_signed();
    for _ in 0..settings.rounds {
        for _ in 0..60 {
            hand.go("down", 1).await?;
        }
        for _ in 0..20 {
            hand.go("pgdn", page).await?;
        }
        hand.go("end", isize::MAX).await?;
        hand.go("pgup", -page).await?;
        for _ in 0..20 {
            hand.go("up", -1).await?;
        }
        hand.go("home", isize::MIN).await?;
    }
    let took = std::mem::take(&mut hand.took);
    let engine = client::Client::connect(&root).await?.context("the engine is gone")?;
    let found = Within {
        open_ms,
        keys: took,
        client: memory(std::process::id()),
        engine: memory(engine.status().pid),
    };
    drop(hand);
    screens.abort();
    connection.abort();
    Ok(found)
}

/// The row's id in the generated file.
fn row(at: usize) -> String {
    format!("m{at:07}")
}

fn stream(keys: UnboundedReceiver<Key>) -> impl futures_util::Stream<Item = Input> {
    futures_util::stream::unfold(keys, |mut keys| async move {
        let key = keys.recv().await?;
        Some((Input::Key(key), keys))
    })
}

/// A hand on the keys, and eyes on the frames.
struct Hand<'a> {
    keys: UnboundedSender<Key>,
    frames: &'a mut UnboundedReceiver<(Instant, String)>,
    at: usize,
    rows: usize,
    took: Vec<(f64, bool)>,
}

impl Hand<'_> {
    fn press(&self, key: &str) -> anyhow::Result<()> {
        let key = key.parse::<Key>().map_err(|e| anyhow::anyhow!("{key}: {e}"))?;
        self.keys.send(key).context("the screens have ended")
    }

    /// Waits for the frame in which the selected row is this one; whether it was the first frame.
    async fn until(&mut self, row: &str) -> anyhow::Result<(Instant, bool)> {
        let mut first = true;
        loop {
            let (when, selected) = tokio::time::timeout(PATIENCE, self.frames.recv())
                .await
                .with_context(|| format!("no frame with row {row} came within {} s", PATIENCE.as_secs()))?
                .context("the screens have ended")?;
            if selected == row {
                return Ok((when, first));
            }
            first = false;
        }
    }

    /// A key that moves by so many rows.
    async fn go(&mut self, key: &str, by: isize) -> anyhow::Result<()> {
        while self.frames.try_recv().is_ok() {}
        let to = self.at.saturating_add_signed(by).min(self.rows.saturating_sub(1));
        if to == self.at {
            return Ok(());
        }
        self.at = to;
        let start = Instant::now();
        self.press(key)?;
        let (painted, here) = self.until(&row(to)).await?;
        self.took.push((painted.duration_since(start).as_secs_f64() * 1e3, here));
        tokio::time::sleep_until((start + REPEAT).into()).await;
        Ok(())
    }
}

/// Frames on a sink, each told with the row that is selected in it.
struct Watched {
    frames: Frames<io::Sink>,
    width: u16,
    height: u16,
    painted: UnboundedSender<(Instant, String)>,
}

impl Surface for Watched {
    fn draw(&mut self, draw: &mut dyn FnMut(&mut Buffer)) -> io::Result<()> {
        let mut selected = String::new();
        self.frames.draw(&mut |buf| {
            draw(buf);
            selected = selected_row(buf);
        })?;
        let _ = self.painted.send((Instant::now(), selected));
        Ok(())
    }

    fn resize(&mut self, width: u16, height: u16) -> io::Result<()> {
        (self.width, self.height) = (width, height);
        self.frames.resize(width, height)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.frames.clear()
    }

    fn suspend(&mut self) -> io::Result<(u16, u16)> {
        Ok((self.width, self.height))
    }
}

/// The id behind the last pointer in a frame: that of the rows pane, which stands right of the list.
fn selected_row(buf: &Buffer) -> String {
    let pointer = Signs::unicode().pointer;
    let area = buf.area;
    let cells = (area.y..area.bottom()).flat_map(|y| (area.x..area.right()).map(move |x| (x, y)));
    for (x, y) in cells {
        if buf[(x, y)].symbol() == pointer {
            let text: String = (x + 2..area.right()).map(|x| buf[(x, y)].symbol()).take(8).collect();
            if text.starts_with('m') && text.get(1..).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
                return text;
            }
        }
    }
    String::new()
}

impl Measured {
    /// Two lines.
    pub fn text(&self) -> String {
        let times = |t: &Times| {
            format!(
                "{} keys, p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms",
                t.n, t.p50_ms, t.p99_ms, t.max_ms
            )
        };
        format!(
            "{} rows, {:.0} MB, {}x{}: open in {:.0} ms; {}; of these with a question to the engine: {}\n\
             above an empty workspace: client {:.1} MiB, engine {:.1} MiB (without mapped files {:.1} and {:.1})",
            self.rows,
            self.bytes as f64 / 1e6,
            self.width,
            self.height,
            self.open_ms,
            times(&self.keys),
            times(&self.asked),
            self.client_mib,
            self.engine_mib,
            self.client_own_mib,
            self.engine_own_mib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_row_is_read_off_a_frame() {
        let mut app = sample::app((120, 40), "dark", Signs::unicode());
        for row in &mut app.strata.window.rows {
            row.id = format!("m{:0>7}", row.id);
        }
        app.strata.window.go(3, 10);
        let mut buf = Buffer::empty(ratatui::layout::Rect::new(0, 0, 120, 40));
        screens::draw(&app, &mut buf);
        assert_eq!(selected_row(&buf), "m0000003");
    }
}
