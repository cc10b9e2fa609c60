//! The terminal: the only module that names crossterm.
//!
//! Whatever ends the program, the terminal is given back as it was found: [`Screen`] restores it when dropped, the panic hook before the message is printed,
//! and signals end the event loop, which drops the screen.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{
    DisableBracketedPaste, EnableBracketedPaste, Event, EventStream, KeyCode, KeyEvent, KeyEventKind,
    KeyModifiers,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, SetTitle, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use futures_util::StreamExt;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::key::{Code, Key};

/// The terminal is in our hands.
static TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// What comes from the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Key(Key),
    Paste(String),
    Resize(u16, u16),
    /// The terminal is gone.
    End,
}

/// A frame's bytes, collected until it is whole. The backend holds one end, [`Frames`] the other.
#[derive(Clone, Debug, Default)]
struct Collected(Rc<RefCell<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a frame is drawn on.
pub trait Surface {
    /// Draws a whole frame; only what changed is written.
    fn draw(&mut self, draw: &mut dyn FnMut(&mut Buffer)) -> io::Result<()>;
    fn resize(&mut self, width: u16, height: u16) -> io::Result<()>;
    /// Forgets what is on the terminal: the next frame is written whole.
    fn clear(&mut self) -> io::Result<()>;
    /// Gives the terminal to the shell, stops, and takes it back. Returns the size by then.
    fn suspend(&mut self) -> io::Result<(u16, u16)>;
    /// Gives the terminal to another program, keys included.
    fn leave(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Takes it back. Returns the size by then.
    fn come_back(&mut self) -> io::Result<(u16, u16)> {
        self.suspend()
    }
}

/// Frames on any writer, each one synchronized update and one write. Only cells that differ from the last frame are sent.
#[derive(Debug)]
pub struct Frames<W: Write> {
    backend: CrosstermBackend<Collected>,
    collected: Collected,
    inner: W,
    /// The writer is the terminal: nothing is written once that was given back.
    guarded: bool,
    written: u64,
    current: Buffer,
    shown: Buffer,
}

/// Ends the synchronized update on every path out of a frame, also when drawing fails or panics.
struct Update<'a, W: Write>(&'a mut Frames<W>);

impl<W: Write> Update<'_, W> {
    fn end(&mut self) -> io::Result<()> {
        queue!(self.0.collected, EndSynchronizedUpdate)?;
        let bytes = self.0.collected.0.take();
        if self.0.guarded && !TAKEN.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.0.written += bytes.len() as u64;
        self.0.inner.write_all(&bytes)?;
        self.0.inner.flush()
    }
}

impl<W: Write> Drop for Update<'_, W> {
    fn drop(&mut self) {
        if !self.0.collected.0.borrow().is_empty() {
            let _ = self.end();
        }
    }
}

impl<W: Write> Frames<W> {
    /// On a writer that is no terminal: for tests and measurements.
    pub fn on(writer: W, width: u16, height: u16) -> Self {
        Self::over(writer, false, width, height)
    }

    fn over(inner: W, guarded: bool, width: u16, height: u16) -> Self {
        let collected = Collected::default();
        let area = Rect::new(0, 0, width, height);
        let (current, shown) = (Buffer::empty(area), Buffer::empty(area));
        Self {
            backend: CrosstermBackend::new(collected.clone()),
            collected,
            inner,
            guarded,
            written: 0,
            current,
            shown,
        }
    }

    /// Bytes written so far.
    pub const fn written(&self) -> u64 {
        self.written
    }
}

impl<W: Write> Surface for Frames<W> {
    fn draw(&mut self, draw: &mut dyn FnMut(&mut Buffer)) -> io::Result<()> {
        // What was queued between frames (a clearing) belongs into this one.
        let before = self.collected.0.take();
        queue!(self.collected, BeginSynchronizedUpdate)?;
        self.collected.0.borrow_mut().extend(before);
        let mut update = Update(self);
        let Frames { backend, current, shown, .. } = &mut *update.0;
        current.reset();
        draw(current);
        let changes = shown.diff(current);
        if !changes.is_empty() {
            backend.draw(changes.into_iter())?;
        }
        std::mem::swap(current, shown);
        update.end()
    }

    fn resize(&mut self, width: u16, height: u16) -> io::Result<()> {
        let area = Rect::new(0, 0, width, height);
        self.current.resize(area);
        self.shown.resize(area);
        self.clear()
    }

    fn clear(&mut self) -> io::Result<()> {
        self.shown.reset();
        queue!(self.collected, Clear(ClearType::All))
    }

    fn suspend(&mut self) -> io::Result<(u16, u16)> {
        Ok((self.current.area.width, self.current.area.height))
    }
}

/// The user's terminal.
#[derive(Debug)]
pub struct Screen {
    frames: Frames<io::Stdout>,
    /// None while another program has the keyboard: whoever reads it besides would steal its keys.
    events: Events,
}

type Events = Rc<RefCell<Option<EventStream>>>;

impl Screen {
    /// Takes the terminal, and says how large it is.
    ///
    /// # Errors
    /// Standard output is no terminal.
    pub fn take(title: &str) -> io::Result<(Self, (u16, u16))> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
            }));
        });
        // Under NO_COLOR crossterm would write resets that cancel reverse video and hide the selection; the mono theme has no colours anyway.
        crossterm::style::force_color_output(true);
        enter(title)?;
        let (width, height) = crossterm::terminal::size()?;
        let frames = Frames::over(io::stdout(), true, width, height);
        let events = Rc::new(RefCell::new(Some(EventStream::new())));
        Ok((Self { frames, events }, (width, height)))
    }

    /// Keys, pastes and sizes as they come. Ends with [`Input::End`] when the terminal is gone.
    pub fn inputs(&self) -> impl futures_util::Stream<Item = Input> + Unpin + use<> {
        let events = self.events.clone();
        let all = futures_util::stream::poll_fn(move |cx| match events.borrow_mut().as_mut() {
            Some(events) => events.poll_next_unpin(cx),
            None => std::task::Poll::Pending,
        });
        let inputs = all.filter_map(|event| {
            std::future::ready(match event {
                Ok(event) => input(event),
                Err(_) => Some(Input::End),
            })
        });
        Box::pin(inputs)
    }
}

fn enter(title: &str) -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let title = super::widgets::text::one_line(title, " ");
    execute!(
        io::stdout(),
        EnterAlternateScreen,
        EnableBracketedPaste,
        cursor::Hide,
        SetTitle(title),
        Clear(ClearType::All)
    )
}

/// The terminal as it was found. Does nothing when it is not in our hands.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Every step is tried: a terminal that is gone cannot be restored, and one half restored is worse than one restored.
        let _ = execute!(
            io::stdout(),
            EndSynchronizedUpdate,
            DisableBracketedPaste,
            LeaveAlternateScreen,
            cursor::Show
        );
        let _ = disable_raw_mode();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

impl Surface for Screen {
    fn draw(&mut self, draw: &mut dyn FnMut(&mut Buffer)) -> io::Result<()> {
        self.frames.draw(draw)
    }

    fn resize(&mut self, width: u16, height: u16) -> io::Result<()> {
        self.frames.resize(width, height)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.frames.clear()
    }

    fn suspend(&mut self) -> io::Result<(u16, u16)> {
        give_back();
        // As Ctrl-Z in a terminal does: the whole foreground group stops, `cargo run` included.
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        self.enter_again()
    }

    fn leave(&mut self) -> io::Result<()> {
        self.events.borrow_mut().take();
        give_back();
        Ok(())
    }

    fn come_back(&mut self) -> io::Result<(u16, u16)> {
        let size = self.enter_again()?;
        self.events.replace(Some(EventStream::new()));
        Ok(size)
    }
}

impl Screen {
    fn enter_again(&mut self) -> io::Result<(u16, u16)> {
        enter("tunebench")?;
        let (width, height) = crossterm::terminal::size()?;
        self.frames.resize(width, height)?;
        Ok((width, height))
    }
}

fn input(event: Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => self::key(key).map(Input::Key),
        Event::Paste(text) => Some(Input::Paste(text)),
        Event::Resize(width, height) => Some(Input::Resize(width, height)),
        _ => None,
    }
}

fn key(event: KeyEvent) -> Option<Key> {
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    let alt = event.modifiers.contains(KeyModifiers::ALT);
    let code = match event.code {
        KeyCode::Char(c) => Code::Char(c),
        KeyCode::Enter => Code::Enter,
        KeyCode::Esc => Code::Esc,
        KeyCode::Tab if event.modifiers.contains(KeyModifiers::SHIFT) => Code::BackTab,
        KeyCode::Tab => Code::Tab,
        KeyCode::BackTab => Code::BackTab,
        KeyCode::Backspace => Code::Backspace,
        KeyCode::Delete => Code::Delete,
        KeyCode::Up => Code::Up,
        KeyCode::Down => Code::Down,
        KeyCode::Left => Code::Left,
        KeyCode::Right => Code::Right,
        KeyCode::Home => Code::Home,
        KeyCode::End => Code::End,
        KeyCode::PageUp => Code::PageUp,
        KeyCode::PageDown => Code::PageDown,
        KeyCode::F(n) => Code::F(n),
        _ => return None,
    };
    Some(Key { code, ctrl, alt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    const BEGIN: &str = "\u{1b}[?2026h";
    const END: &str = "\u{1b}[?2026l";

    #[test]
    fn a_frame_is_one_synchronized_update_and_writes_only_what_changed() {
        let mut bytes = Vec::new();
        let mut frames = Frames::on(&mut bytes, 40, 5);
        for text in ["hello", "hello", "hellu"] {
            let mut draw = |buf: &mut Buffer| {
                buf.set_string(0, 0, text, Style::new());
            };
            frames.draw(&mut draw).unwrap();
        }
        drop(frames);
        let text = String::from_utf8(bytes).unwrap();
        let parts: Vec<&str> = text.split_inclusive(END).collect();
        assert_eq!(parts.len(), 3, "{text:?}");
        assert!(parts.iter().all(|p| p.starts_with(BEGIN) && p.ends_with(END)), "{parts:?}");
        assert!(
            parts[0].contains("hello") && !parts[1].contains('h') || parts[1] == format!("{BEGIN}{END}"),
            "{parts:?}"
        );
        assert!(parts[2].contains('u') && !parts[2].contains("hell"), "{parts:?}");
    }

    #[test]
    fn the_update_ends_also_when_drawing_panics() {
        let mut bytes = Vec::new();
        let mut frames = Frames::on(&mut bytes, 40, 5);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            frames.draw(&mut |_| panic!("drawing failed"))
        }));
        assert!(outcome.is_err());
        drop(frames);
        assert!(String::from_utf8(bytes).unwrap().ends_with(END));
    }

    #[test]
    fn keys_are_taken_over_and_releases_are_not() {
        let press = |code, modifiers| input(Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(press(KeyCode::Char('S'), KeyModifiers::SHIFT), Some(Input::Key(Key::char('S'))));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Input::Key(Key::ctrl('c'))));
        assert_eq!(press(KeyCode::BackTab, KeyModifiers::SHIFT), Some(Input::Key(Key::plain(Code::BackTab))));
        assert_eq!(press(KeyCode::CapsLock, KeyModifiers::NONE), None);
        let release = KeyEvent::new_with_kind(KeyCode::Enter, KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(input(Event::Key(release)), None);
    }
}
