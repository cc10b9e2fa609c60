//! Append-only files of JSON lines. Only whole lines count: a line torn by a crash is cut before the next is appended.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use memchr::{memchr, memrchr};
use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The writing end.
#[derive(Debug)]
pub struct Appender {
    file: File,
    /// Length of the whole lines.
    length: u64,
    line: Vec<u8>,
}

impl Appender {
    /// Open or make the file; a torn or unreadable last line is cut. Also says how many bytes were cut.
    pub fn open(path: &Path) -> io::Result<(Self, u64)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let before = file.metadata()?.len();
        let mut length = whole_lines(&file, before)?;
        // A power cut can leave a last line of the right length with wrong content.
        if length > 0 {
            let start = whole_lines(&file, length - 1)?;
            let mut last = vec![0; (length - 1 - start) as usize];
            file.read_exact_at(&mut last, start)?;
            if serde_json::from_slice::<serde::de::IgnoredAny>(&last).is_err() {
                length = start;
            }
        }
        if length < before {
            file.set_len(length)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(length))?;
        Ok((Self { file, length, line: Vec::new() }, before - length))
    }

    /// Append one line. If it cannot be written whole, nothing of it stays. Returns the offset at which the line begins.
    pub fn append(&mut self, value: &impl Serialize) -> io::Result<u64> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, value)?;
        self.line.push(b'\n');
        if let Err(error) = self.file.write_all(&self.line) {
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return Err(error);
        }
        let at = self.length;
        self.length += self.line.len() as u64;
        Ok(at)
    }

    /// Survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Append lines to a file that nobody keeps open, and survive a power cut. Who else does the same waits.
pub fn append_durably(path: &Path, values: &[impl Serialize]) -> io::Result<()> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let (mut file, _) = Appender::open(path)?;
    for value in values {
        file.append(value)?;
    }
    file.sync()?;
    path.parent().map_or(Ok(()), super::files::sync_dir)
}

/// Length of the lines that end before `end`: one past the last newline in `0..end`.
fn whole_lines(file: &File, end: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut end = end;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|&b| b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Read the whole lines that begin at or after byte `from`, at most about `budget` bytes of them.
/// `each` gets the raw line without its newline and the offset after it; it returns false to end early. Returns the offset after the last line taken.
/// A file that is not there has no lines.
pub fn read_from(
    path: &Path,
    from: u64,
    budget: u64,
    mut each: impl FnMut(&[u8], u64) -> bool,
) -> io::Result<u64> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(from),
        Err(e) => return Err(e),
    };
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(64 << 10, file.take(u64::MAX));
    let mut offset = from;
    let mut line = Vec::new();
    while offset - from < budget {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)?;
        if n == 0 || line.last() != Some(&b'\n') {
            break;
        }
        offset += n as u64;
        line.pop();
        if !each(&line, offset) {
            break;
        }
    }
    Ok(offset)
}

/// All whole lines as `T`; lines that are not `T` are counted, not fatal.
pub fn read_all<T: DeserializeOwned>(path: &Path) -> io::Result<(Vec<T>, usize)> {
    let (mut values, mut bad) = (Vec::new(), 0);
    read_from(path, 0, u64::MAX, |line, _| {
        match serde_json::from_slice(line) {
            Ok(value) => values.push(value),
            Err(_) => bad += 1,
        }
        true
    })?;
    Ok((values, bad))
}

/// As [`read_all`], for long files: in pieces, on all threads.
pub fn read_all_long<T: DeserializeOwned + Send>(path: &Path) -> io::Result<(Vec<T>, usize)> {
    let parsed = in_pieces(path, |lines, _| {
        let lines = lines.split(|b| *b == b'\n');
        // Behind the last newline is nothing.
        let count = lines.clone().count().saturating_sub(1);
        let values: Vec<T> = lines.take(count).filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let bad = count - values.len();
        (values, bad)
    })?;
    let bad = parsed.iter().map(|(_, bad)| bad).sum();
    let mut values = Vec::with_capacity(parsed.iter().map(|(values, _)| values.len()).sum());
    for (piece, _) in parsed {
        values.extend(piece);
    }
    Ok((values, bad))
}

/// What `work` makes of the whole lines of a file, some MiB of them at a time, on all threads; in the order of the file. It gets lines with
/// their newlines, and the byte of the file at which the first begins. A file that is not there has no lines.
pub fn in_pieces<T: Send>(path: &Path, work: impl Fn(&[u8], u64) -> T + Sync) -> io::Result<Vec<T>> {
    in_pieces_of(path, 4 << 20, work)
}

fn in_pieces_of<T: Send>(
    path: &Path,
    size: u64,
    work: impl Fn(&[u8], u64) -> T + Sync,
) -> io::Result<Vec<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let end = file.metadata()?.len();
    (0..end.div_ceil(size))
        .into_par_iter()
        .map_init(Vec::new, |bytes, nth| {
            let (lines, at) = lines_within(&file, nth * size, ((nth + 1) * size).min(end), bytes)?;
            Ok(work(bytes.get(lines).unwrap_or_default(), at))
        })
        .collect()
}

/// The whole lines that begin in `start..end` of a file: where in `bytes`, and at which byte of the file the first begins.
fn lines_within(
    file: &File,
    start: u64,
    end: u64,
    bytes: &mut Vec<u8>,
) -> io::Result<(std::ops::Range<usize>, u64)> {
    const MORE: usize = 64 << 10;
    // A line begins behind a newline: the byte before may be one.
    let from = start.saturating_sub(1);
    bytes.clear();
    read_more(file, from, (end - from) as usize, bytes)?;
    let skip = match memchr(b'\n', bytes) {
        _ if start == 0 => 0,
        Some(at) => at + 1,
        None => return Ok((0..0, start)),
    };
    // The last line may end further on; if it ends nowhere, it is torn.
    while bytes.len() > skip && bytes.last() != Some(&b'\n') {
        let before = bytes.len();
        if read_more(file, from + before as u64, MORE, bytes)? == 0 {
            bytes.truncate(memrchr(b'\n', bytes).map_or(skip, |at| at + 1));
            break;
        }
        if let Some(at) = bytes.get(before..).and_then(|more| memchr(b'\n', more)) {
            bytes.truncate(before + at + 1);
        }
    }
    Ok((skip..bytes.len(), from + skip as u64))
}

/// The line that begins at byte `at` of a file, without its newline.
pub fn line_at(file: &File, at: u64) -> io::Result<Vec<u8>> {
    const MORE: usize = 4 << 10;
    let mut line = Vec::new();
    loop {
        let before = line.len();
        let more = read_more(file, at + before as u64, MORE, &mut line)?;
        if let Some(end) = line.get(before..).and_then(|more| memchr(b'\n', more)) {
            line.truncate(before + end);
            return Ok(line);
        }
        if more == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("no whole line begins at byte {at}"),
            ));
        }
    }
}

/// Append the `n` bytes that stand at byte `at` of a file, or as many as there are. Returns how many.
fn read_more(file: &File, at: u64, n: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let before = bytes.len();
    bytes.resize(before + n, 0);
    let mut got = 0;
    while let Some(room) = bytes.get_mut(before + got..).filter(|room| !room.is_empty()) {
        match file.read_at(room, at + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(before + got);
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(path: &Path) -> Vec<u32> {
        read_all::<u32>(path).unwrap().0
    }

    #[test]
    fn long_files_are_read_in_order_and_what_is_unreadable_is_counted() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.jsonl");
        let text: String = (0..3_000)
            .map(|i| {
                if i % 1_000 == 7 {
                    "nonsense\n".to_owned()
                } else {
                    format!("\"{i} {}\"\n", "x".repeat(4_000))
                }
            })
            .collect();
        std::fs::write(&path, text + "\"torn").unwrap();
        let (some, bad) = read_all_long::<String>(&path).unwrap();
        assert_eq!((some.clone(), bad), read_all::<String>(&path).unwrap());
        assert_eq!((some.len(), bad), (2_997, 3));
        assert_eq!(read_all_long::<String>(&temp.path().join("none")).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn what_was_appended_comes_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.jsonl");
        let (mut appender, cut) = Appender::open(&path).unwrap();
        assert_eq!(cut, 0);
        appender.append(&1).unwrap();
        appender.append(&2).unwrap();
        assert_eq!(lines(&path), [1, 2]);
    }

    #[test]
    fn a_last_line_of_zeros_is_cut() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.jsonl");
        std::fs::write(&path, b"1\n2\n\0\0\0\n").unwrap();
        let (mut appender, cut) = Appender::open(&path).unwrap();
        assert_eq!(cut, 4);
        appender.append(&3).unwrap();
        assert_eq!(lines(&path), [1, 2, 3]);
    }

    proptest! {
        /// Wherever a crash cuts the file, what was whole stays, the rest goes, and appending goes on.
        #[test]
        fn a_cut_anywhere_keeps_the_whole_lines(values in prop::collection::vec(10u32..100_000, 1..30), at in 0.0..1.0) {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("a.jsonl");
            let mut text = String::new();
            let mut ends = vec![0];
            for v in &values {
                text.push_str(&format!("{v}\n"));
                ends.push(text.len());
            }
            let cut = (at * text.len() as f64) as usize;
            std::fs::write(&path, &text.as_bytes()[..cut]).unwrap();
            let whole = ends.iter().filter(|&&e| e > 0 && e <= cut).count();
            let (mut appender, _) = Appender::open(&path).unwrap();
            prop_assert_eq!(lines(&path), values[..whole].to_vec());
            appender.append(&7).unwrap();
            prop_assert_eq!(lines(&path).len(), whole + 1);
        }

        /// Pieces of any size have each line once, in order, with the byte at which it begins; the torn end is in none.
        #[test]
        fn pieces_of_any_size_hold_the_lines(text in "[a\n]{0,60}", size in 1u64..20) {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("a.jsonl");
            std::fs::write(&path, &text).unwrap();
            let pieces = in_pieces_of(&path, size, |lines, at| (lines.to_vec(), at)).unwrap();
            let mut together = Vec::new();
            for (lines, at) in pieces {
                if !lines.is_empty() {
                    prop_assert_eq!(at as usize, together.len());
                    prop_assert_eq!(lines.last(), Some(&b'\n'));
                    let first = lines.split(|b| *b == b'\n').next().unwrap();
                    prop_assert_eq!(line_at(&File::open(&path).unwrap(), at).unwrap(), first);
                }
                together.extend(lines);
            }
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            prop_assert_eq!(String::from_utf8(together).unwrap(), &text[..whole]);
        }

        /// Reading in pieces of any size gives each line once.
        #[test]
        fn reading_in_pieces_loses_and_doubles_nothing(values in prop::collection::vec(0u32..100_000, 0..50), budget in 1u64..40) {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("a.jsonl");
            let text: String = values.iter().map(|v| format!("{v}\n")).collect();
            std::fs::write(&path, text + "12").unwrap();
            let (mut seen, mut offset) = (Vec::new(), 0);
            loop {
                let next = read_from(&path, offset, budget, |line, _| {
                    seen.push(std::str::from_utf8(line).unwrap().parse::<u32>().unwrap());
                    true
                }).unwrap();
                if next == offset { break }
                offset = next;
            }
            prop_assert_eq!(seen, values);
        }
    }
}
