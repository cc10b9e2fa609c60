//! Streams a file through its splitter: batches of rows with offset and line, in bounded memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;

use super::format::{Format, Layout};
use super::split::{Found, Items, Lines, Records, Splitter, newline};
use super::{DataError, MAX_ROW, parse, shape};

/// Bytes read before rows are handed over.
const PIECE: usize = 2 << 20;

/// A row in a [`Batch`].
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Position in the batch's bytes; empty where the row was too long to keep.
    pub start: usize,
    pub end: usize,
    /// Position in the file.
    pub offset: u64,
    /// From 1.
    pub line: u64,
    /// Why the row is bad already before it was parsed.
    pub fault: Option<String>,
}

/// Rows that were found together.
pub(super) struct Batch<'a> {
    /// Whoever wants to keep them leaves others in their place: they are filled again.
    pub bytes: &'a mut Vec<u8>,
    pub rows: &'a mut Vec<Span>,
    /// Bytes of the file read so far.
    pub done: u64,
}

/// Reads the rows of a file in order. Blank lines are no rows. The next piece is read and split on a thread of its own while
/// `each` works: up to [`AHEAD`] + 2 pieces are in memory.
pub(super) fn scan(
    file: &mut File,
    layout: &Layout,
    path: &Path,
    each: &mut dyn FnMut(Batch<'_>) -> ControlFlow<()>,
) -> Result<(), DataError> {
    let mut splitter: Box<dyn Splitter> = match layout.format {
        Format::Json => Box::new(Items::default()),
        Format::Csv | Format::Tsv => {
            Box::new(Records { delimiter: layout.delimiter, width: layout.columns.len() })
        }
        // Parquet has been converted to lines.
        Format::Jsonl | Format::Parquet | Format::Text => Box::new(Lines::default()),
    };
    let cannot_read = |e| DataError::io("cannot read", path)(e);
    file.seek(SeekFrom::Start(layout.start)).map_err(cannot_read)?;
    let scanner = Scanner { base: layout.start, line: layout.line, ..Scanner::default() };
    let (full, pieces) = mpsc::sync_channel(AHEAD);
    let (empty, used) = mpsc::channel();
    std::thread::scope(|threads| {
        threads.spawn(move || scanner.run(file, splitter.as_mut(), &full, &used));
        for piece in pieces {
            let Piece { mut bytes, mut rows, done } = piece.map_err(cannot_read)?;
            if each(Batch { bytes: &mut bytes, rows: &mut rows, done }).is_break() {
                break;
            }
            // The reader has ended where nobody takes it.
            _ = empty.send((bytes, rows));
        }
        Ok(())
    })
}

/// Pieces that wait for being worked on.
const AHEAD: usize = 1;

/// Bytes and the rows in them.
struct Piece {
    bytes: Vec<u8>,
    rows: Vec<Span>,
    /// Bytes of the file read so far.
    done: u64,
}

#[derive(Default)]
struct Scanner {
    bytes: Vec<u8>,
    /// Offset in the file of `bytes[0]`.
    base: u64,
    /// Where the current row begins in `bytes`.
    at: usize,
    /// Line at `at`.
    line: u64,
    rows: Vec<Span>,
    /// Offset and line of a row whose beginning has been thrown away because it is too long.
    dropped: Option<(u64, u64)>,
}

impl Scanner {
    /// True: the file has ended.
    fn fill(&mut self, file: &mut File) -> std::io::Result<bool> {
        let want = PIECE.saturating_sub(self.bytes.len()).max(PIECE / 2);
        self.bytes.reserve(want);
        let got = file.take(want as u64).read_to_end(&mut self.bytes)?;
        Ok(got < want)
    }

    /// Finds the rows in `bytes`. True: no more will come.
    fn split(&mut self, splitter: &mut dyn Splitter, last: bool) -> bool {
        loop {
            let tail = self.bytes.get(self.at..).unwrap_or_default();
            match splitter.find(tail, last) {
                Found::Row { len, next } => {
                    self.row(len, None);
                    self.advance(splitter, next);
                }
                Found::Skip(n) => self.advance(splitter, n),
                Found::Torn { reason } => {
                    let len = tail.len();
                    let line = newline(tail).unwrap_or(len);
                    self.row(line, Some(reason.to_owned()));
                    self.advance(splitter, (line + 1).min(len));
                }
                Found::End => return true,
                Found::More => {
                    if last || tail.len() <= MAX_ROW {
                        return last;
                    }
                    let drop = tail.len();
                    if splitter.drop_front(drop) {
                        self.dropped.get_or_insert((self.base + self.at as u64, self.line));
                        self.advance(splitter, drop);
                        return false;
                    }
                    // A record that is too long because of an open quote: only its first line is lost.
                    let Some(line) = newline(tail) else {
                        self.dropped.get_or_insert((self.base + self.at as u64, self.line));
                        self.advance(splitter, drop);
                        return false;
                    };
                    self.row(line, Some(parse::too_long() + "; is a quote left open here?"));
                    self.advance(splitter, line + 1);
                }
            }
        }
    }

    fn row(&mut self, len: usize, fault: Option<String>) {
        let (start, end) = (self.at, self.at + len);
        if let Some((offset, line)) = self.dropped.take() {
            let fault = Some(parse::too_long());
            self.rows.push(Span { start, end: start, offset, line, fault });
            return;
        }
        let blank = self.bytes.get(start..end).is_none_or(|row| row.trim_ascii().is_empty());
        if !blank {
            self.rows.push(Span { start, end, offset: self.base + start as u64, line: self.line, fault });
        }
    }

    fn advance(&mut self, splitter: &dyn Splitter, by: usize) {
        let passed = self.bytes.get(self.at..self.at + by).unwrap_or_default();
        self.line += splitter.breaks(passed);
        self.at += by;
    }

    /// Reads and splits until the file ends or nobody takes the pieces any more. `used`: buffers that can be filled again.
    fn run(
        mut self,
        file: &mut File,
        splitter: &mut dyn Splitter,
        full: &mpsc::SyncSender<std::io::Result<Piece>>,
        used: &mpsc::Receiver<(Vec<u8>, Vec<Span>)>,
    ) {
        loop {
            let last = match self.fill(file) {
                Ok(last) => last,
                Err(error) => {
                    // Where nobody takes it, nobody waits for it.
                    _ = full.send(Err(error));
                    return;
                }
            };
            let ended = self.split(splitter, last);
            let done = self.base + self.bytes.len() as u64;
            let (bytes, rows) = self.shift(used.try_recv().unwrap_or_default());
            if (!rows.is_empty() && full.send(Ok(Piece { bytes, rows, done })).is_err()) || ended {
                return;
            }
        }
    }

    /// Hands over what was split, and goes on with the rest in other buffers.
    fn shift(&mut self, (mut bytes, mut rows): (Vec<u8>, Vec<Span>)) -> (Vec<u8>, Vec<Span>) {
        bytes.clear();
        rows.clear();
        bytes.extend_from_slice(self.bytes.get(self.at..).unwrap_or_default());
        self.base += self.at as u64;
        self.at = 0;
        (std::mem::replace(&mut self.bytes, bytes), std::mem::replace(&mut self.rows, rows))
    }
}

/// An array in a JSON file: behind its bracket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ArrayStart {
    pub key: String,
    pub start: u64,
    pub line: u64,
}

/// The array that a JSON file is, or the arrays of objects that stand in its object directly (at most 16).
/// A conversation is no such array: its object is a row.
pub(super) fn arrays(path: &Path, start: u64) -> Result<Vec<ArrayStart>, DataError> {
    let mut file = File::open(path).map_err(DataError::io("cannot read", path))?;
    file.seek(SeekFrom::Start(start)).map_err(DataError::io("cannot read", path))?;
    let mut piece = vec![0; 1 << 20];
    let (mut offset, mut line) = (start, 1);
    let (mut depth, mut in_string, mut escaped) = (0u64, false, false);
    let mut found: Vec<ArrayStart> = Vec::new();
    // The last string at depth 1; `is_key` once its colon was seen.
    let (mut word, mut is_key) = (Vec::new(), false);
    // An array has been opened and what it holds is not seen yet.
    let mut opened = None;
    loop {
        let n = file.read(&mut piece).map_err(DataError::io("cannot read", path))?;
        if n == 0 {
            return Ok(found);
        }
        for byte in &piece[..n] {
            offset += 1;
            line += u64::from(*byte == b'\n');
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ if depth == 1 && !is_key && word.len() < 100 => word.push(*byte),
                    _ => {}
                }
                continue;
            }
            if !byte.is_ascii_whitespace()
                && let Some(array) = opened.take()
                && *byte == b'{'
                && found.len() < 16
            {
                found.push(array);
            }
            match byte {
                b'"' => {
                    in_string = true;
                    if depth == 1 && !is_key {
                        word.clear();
                    }
                }
                b':' if depth == 1 => is_key = true,
                b',' if depth == 1 => is_key = false,
                b'[' if depth == 0 => {
                    return Ok(vec![ArrayStart { key: String::new(), start: offset, line }]);
                }
                b'[' if depth == 1 && is_key => {
                    depth += 1;
                    let key = String::from_utf8_lossy(&word).into_owned();
                    opened =
                        (!shape::is_conversation(&key)).then_some(ArrayStart { key, start: offset, line });
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// Where an array stands in a JSON object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Within {
    /// Behind its bracket; the line there, from 1.
    Array {
        start: u64,
        line: u64,
    },
    Nothing,
}

/// The array under `keys[0]`, or in the object there under `keys[1]`, and so on. The file is not read beyond it.
pub(super) fn array_in(path: &Path, start: u64, keys: &[&str]) -> Result<Within, DataError> {
    let mut file = File::open(path).map_err(DataError::io("cannot read", path))?;
    file.seek(SeekFrom::Start(start)).map_err(DataError::io("cannot read", path))?;
    let mut piece = vec![0; 1 << 20];
    let (mut offset, mut line) = (start, 1);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    // So many of the keys lead to the object whose own keys are watched: it is open at this depth less one.
    let mut matched = 0;
    let (mut word, mut is_key) = (Vec::new(), false);
    loop {
        let n = file.read(&mut piece).map_err(DataError::io("cannot read", path))?;
        if n == 0 {
            return Ok(Within::Nothing);
        }
        for byte in &piece[..n] {
            offset += 1;
            line += u64::from(*byte == b'\n');
            let watched = depth == matched + 1;
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ if watched && !is_key && word.len() < 100 => word.push(*byte),
                    _ => {}
                }
                continue;
            }
            let wanted = watched && is_key && keys.get(matched).is_some_and(|key| key.as_bytes() == word);
            match byte {
                b'"' => {
                    in_string = true;
                    if watched && !is_key {
                        word.clear();
                    }
                }
                b':' if watched => is_key = true,
                b',' if watched => is_key = false,
                b'[' if wanted => return Ok(Within::Array { start: offset, line }),
                b'{' if wanted && matched + 1 < keys.len() => {
                    (matched, depth, is_key) = (matched + 1, depth + 1, false);
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    // Out of the object that the keys led to.
                    if matched > 0 && depth == matched {
                        (matched, is_key) = (matched - 1, true);
                    }
                }
                _ => {}
            }
        }
    }
}
