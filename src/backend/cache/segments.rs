//! The cache on disk: append-only segments, each written by one process at a time, read by all.
//!
//! ```text
//! cache/answers/0000000001.answers   lines: KEY (32 hex) CHECK (16 hex, BLAKE3 of key and JSON) JSON
//! cache/answers/counts               hits and misses of all processes
//! ```
//!
//! A writer holds its segment's file lock for as long as it lives. Whatever is killed, at most a last line without its end is lost: readers
//! take whole lines only, the next writer cuts the rest. A line is believed when its checksum holds, and else passed over and counted.
//! Where all segments together are above the limit, the oldest that nobody writes go.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::domain::settings::CachePlace;
use crate::store::files;

/// What an answer is found by.
pub type Key = [u8; 16];

/// Bytes of a line before its JSON: key, space, checksum, space.
const HEAD: usize = 32 + 1 + 16 + 1;

/// A segment is full at this size, or at an eighth of the limit.
const FULL: u64 = 32 << 20;

/// What other processes wrote is looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// One process's view of the cache of a folder.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    index: HashMap<Key, Place>,
    segments: HashMap<u64, Segment>,
    writer: Option<Writer>,
    /// A write failed: no more are tried.
    read_only: bool,
    looked: Option<Instant>,
}

/// Where a line's JSON lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    offset: u64,
    length: u32,
}

#[derive(Debug)]
struct Segment {
    file: File,
    inode: u64,
    /// Whole lines up to here are in the index.
    seen: u64,
}

#[derive(Debug)]
struct Writer {
    number: u64,
    /// Locked.
    file: File,
    length: u64,
}

/// What is in a cache, by a look at every line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub segments: usize,
    pub bytes: u64,
    pub answers: usize,
    /// Lines that cannot be believed. A last line without its end may be one that is being written, and is not counted.
    pub damaged: usize,
    pub hits: u64,
    pub misses: u64,
}

/// Caches that this process has open: runs that share it share them.
static OPEN: Mutex<Vec<(PathBuf, Weak<Cache>)>> = Mutex::new(Vec::new());

impl Cache {
    /// The cache of a folder, which is made where it is not there.
    pub fn open(place: &CachePlace) -> io::Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, cache)| cache.strong_count() > 0);
        let known = open.iter().find(|(dir, _)| *dir == place.dir).and_then(|(_, cache)| cache.upgrade());
        if let Some(cache) = known.filter(|cache| cache.limit == place.limit) {
            return Ok(cache);
        }
        if let Some(parent) = place.dir.parent() {
            fs::create_dir_all(parent)?;
        }
        files::private_dir(&place.dir)?;
        let cache = Arc::new(Self {
            dir: place.dir.clone(),
            limit: place.limit,
            state: Mutex::new(State::default()),
        });
        cache.refresh();
        cache.evict(&mut cache.lock());
        open.push((place.dir.clone(), Arc::downgrade(&cache)));
        Ok(cache)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learn what other processes wrote, unless that was done a moment ago.
    pub fn refresh(&self) {
        let mut state = self.lock();
        if state.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        state.looked = Some(Instant::now());
        let Ok(found) = list(&self.dir) else { return };
        let mine = state.writer.as_ref().map(|w| w.number);
        let gone: Vec<u64> =
            state.segments.keys().filter(|&n| found.iter().all(|(m, _, _)| m != n)).copied().collect();
        for number in gone.into_iter().filter(|n| Some(*n) != mine) {
            state.forget(number);
        }
        for (number, path, meta) in found {
            if Some(number) != mine {
                // One that was taken away in the meantime has nothing to tell.
                let _ = state.learn(number, &path, meta.ino(), meta.len());
            }
        }
    }

    /// The JSON of an answer.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let place = *state.index.get(key)?;
        let segment = state.segments.get(&place.segment)?;
        let mut line = vec![0; HEAD + place.length as usize];
        let read = segment.file.read_exact_at(&mut line, place.offset);
        match read.ok().and_then(|()| parse(&line)) {
            Some((found, json)) if found == *key => Some(json.to_vec()),
            _ => {
                state.index.remove(key);
                None
            }
        }
    }

    /// Remember an answer. What cannot be written is not remembered; the first time is told in the log.
    pub fn put(&self, key: Key, json: &[u8]) {
        let mut state = self.lock();
        if state.read_only || state.index.contains_key(&key) {
            return;
        }
        if let Err(error) = self.append(&mut state, key, json) {
            tracing::warn!("the response cache cannot be written: {}: {error}", self.dir.display());
            state.read_only = true;
            state.writer = None;
        }
    }

    fn append(&self, state: &mut State, key: Key, json: &[u8]) -> io::Result<()> {
        let full = FULL.min(self.limit / 8).max(1);
        if state.writer.as_ref().is_none_or(|w| w.length >= full) {
            state.writer = None;
            let writer = self.take_segment(full)?;
            let path = path_of(&self.dir, writer.number);
            state.learn(writer.number, &path, writer.file.metadata()?.ino(), writer.length)?;
            state.writer = Some(writer);
            self.evict(state);
        }
        let Some(writer) = &mut state.writer else { return Ok(()) };
        let line = line(&key, json);
        if let Err(error) = writer.file.write_all(&line) {
            let _ = writer.file.set_len(writer.length);
            return Err(error);
        }
        let place = Place { segment: writer.number, offset: writer.length, length: json.len() as u32 };
        writer.length += line.len() as u64;
        if let Some(segment) = state.segments.get_mut(&place.segment) {
            segment.seen = writer.length;
        }
        state.index.insert(key, place);
        Ok(())
    }

    /// A segment to write on: the newest that has room and no writer, else a new one.
    fn take_segment(&self, full: u64) -> io::Result<Writer> {
        let found = list(&self.dir)?;
        for (number, path, _) in found.iter().rev().filter(|(_, _, meta)| meta.len() < full) {
            let mut file = match open_locked(path, false) {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                // Another process has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let length = cut_torn(&file)?;
            file.seek(SeekFrom::Start(length))?;
            return Ok(Writer { number: *number, file, length });
        }
        let mut number = found.last().map_or(1, |(number, _, _)| number + 1);
        loop {
            match open_locked(&path_of(&self.dir, number), true) {
                Ok(Some(file)) => return Ok(Writer { number, file, length: 0 }),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            number += 1;
        }
    }

    /// Remove the oldest segments while all together are above the limit.
    fn evict(&self, state: &mut State) {
        let Ok(found) = list(&self.dir) else { return };
        let mut total: u64 = found.iter().map(|(_, _, meta)| meta.len()).sum();
        let mine = state.writer.as_ref().map(|w| w.number);
        for (number, path, meta) in found {
            if total <= self.limit {
                break;
            }
            // A lock that can be had says that nobody writes there.
            if Some(number) != mine
                && matches!(open_locked(&path, false), Ok(Some(_)))
                && fs::remove_file(&path).is_ok()
            {
                total -= meta.len();
                state.forget(number);
            }
        }
    }

    /// Add to the counts that all processes share. Counts are for people: where they cannot be written, they are lost.
    pub fn count(&self, hits: u64, misses: u64) {
        let _ = add_counts(&self.dir, hits, misses);
    }
}

impl State {
    /// Index the lines of a segment beyond those that are known.
    fn learn(&mut self, number: u64, path: &Path, inode: u64, length: u64) -> io::Result<()> {
        if self.segments.get(&number).is_some_and(|known| known.inode != inode) {
            self.forget(number);
        }
        if self.segments.get(&number).is_some_and(|known| known.seen >= length) {
            return Ok(());
        }
        let (file, from) = match self.segments.get(&number) {
            Some(known) => (known.file.try_clone()?, known.seen),
            None => (open_existing(path)?, 0),
        };
        let index = &mut self.index;
        let seen = each_line(&file, from, |offset, line| {
            // The checksum is looked at when the answer is read.
            if let Some(key) = key_of(line) {
                let length = (line.len() - HEAD) as u32;
                index.insert(key, Place { segment: number, offset, length });
            }
        })?;
        self.segments.insert(number, Segment { file, inode, seen });
        Ok(())
    }

    fn forget(&mut self, number: u64) {
        self.segments.remove(&number);
        self.index.retain(|_, place| place.segment != number);
    }
}

/// What is in the cache of a folder; every line is read.
pub fn survey(dir: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    for (_, path, meta) in list(dir)? {
        // One that is gone by now was evicted.
        let Ok(file) = open_existing(&path) else { continue };
        survey.segments += 1;
        survey.bytes += meta.len();
        each_line(&file, 0, |_, line| match parse(line) {
            Some(_) => survey.answers += 1,
            None => survey.damaged += 1,
        })?;
    }
    (survey.hits, survey.misses) = read_counts(dir);
    Ok(survey)
}

/// Write segments with damaged lines anew without them; those that are being written stay as they are. Returns the lines removed.
pub fn repair(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for (_, path, _) in list(dir)? {
        let Ok(Some(file)) = open_locked(&path, false) else { continue };
        let (mut sound, mut damaged) = (Vec::new(), 0);
        each_line(&file, 0, |_, line| match parse(line) {
            Some(_) => {
                sound.extend_from_slice(line);
                sound.push(b'\n');
            }
            None => damaged += 1,
        })?;
        if damaged > 0 {
            files::write_atomic(&path, &sound)?;
            removed += damaged;
        }
    }
    Ok(removed)
}

/// Remove every segment that nobody writes, and the counts. Returns the bytes that were freed and the segments that stayed.
pub fn clear(dir: &Path) -> io::Result<(u64, usize)> {
    let (mut freed, mut stayed) = (0, 0);
    for (_, path, meta) in list(dir)? {
        if matches!(open_locked(&path, false), Ok(Some(_))) {
            fs::remove_file(&path)?;
            freed += meta.len();
        } else {
            stayed += 1;
        }
    }
    match fs::remove_file(dir.join(COUNTS)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok((freed, stayed)),
    }
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.answers"))
}

/// Segments by number, oldest first. A folder that is not there has none.
fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf, fs::Metadata)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".answers")?.parse::<u64>().ok());
        // Of the entry itself: a link is nobody's segment.
        if let (Some(number), Ok(meta)) = (number, entry.metadata())
            && meta.is_file()
        {
            found.push((number, entry.path(), meta));
        }
    }
    found.sort_by_key(|(number, _, _)| *number);
    Ok(found)
}

fn open_existing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

/// Open a segment and lock it for this handle; none where another has it, or where it was taken away meanwhile.
fn open_locked(path: &Path, new: bool) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(new)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let same =
        fs::symlink_metadata(path).is_ok_and(|meta| file.metadata().is_ok_and(|f| f.ino() == meta.ino()));
    Ok(same.then_some(file))
}

/// Cut what follows the last whole line; returns the length that is left.
fn cut_torn(file: &File) -> io::Result<u64> {
    let length = each_line(file, 0, |_, _| {})?;
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    Ok(length)
}

/// Whole lines from `from` on, with their offsets; returns the offset after the last.
fn each_line(file: &File, from: u64, mut each: impl FnMut(u64, &[u8])) -> io::Result<u64> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let (mut offset, mut line) = (from, Vec::new());
    loop {
        line.clear();
        let n = reader.by_ref().read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Ok(offset);
        }
        each(offset, &line);
        offset += n as u64;
    }
}

/// `KEY CHECK JSON` with its end of line.
fn line(key: &Key, json: &[u8]) -> Vec<u8> {
    let mut line = format!("{} {} ", hex(key), checksum(key, json)).into_bytes();
    line.extend_from_slice(json);
    line.push(b'\n');
    line
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn checksum(key: &Key, json: &[u8]) -> String {
    let hash = blake3::Hasher::new().update(key).update(json).finalize();
    hex(&hash.as_bytes()[..8])
}

/// Key and JSON of a line that can be believed.
fn parse(line: &[u8]) -> Option<(Key, &[u8])> {
    let key = key_of(line)?;
    let json = line.get(HEAD..)?;
    (line.get(33..HEAD - 1)? == checksum(&key, json).as_bytes()).then_some((key, json))
}

/// The key of a line that has the shape of one.
fn key_of(line: &[u8]) -> Option<Key> {
    if line.get(32) != Some(&b' ') || line.get(HEAD - 1) != Some(&b' ') {
        return None;
    }
    let mut key = Key::default();
    for (byte, pair) in key.iter_mut().zip(line.get(..32)?.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

const COUNTS: &str = "counts";

/// Two numbers of 20 digits, written at once under a lock.
fn add_counts(dir: &Path, hits: u64, misses: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(dir.join(COUNTS))?;
    flock(&file, FlockOperation::LockExclusive)?;
    let before = read_counts(dir);
    let after = (before.0.saturating_add(hits), before.1.saturating_add(misses));
    file.write_all_at(format!("{:020} {:020}\n", after.0, after.1).as_bytes(), 0)
}

/// Hits and misses; zero where they cannot be read.
fn read_counts(dir: &Path) -> (u64, u64) {
    let read = || {
        let mut text = String::new();
        File::open(dir.join(COUNTS)).ok()?.take(64).read_to_string(&mut text).ok()?;
        let (hits, misses) = text.trim().split_once(' ')?;
        Some((hits.parse().ok()?, misses.parse().ok()?))
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests;
