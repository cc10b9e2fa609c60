//! One value of every row, side by side in a file: what filters, counts and lengths are taken from, without reading the rows again.
//!
//! Columns are made when something first asks for them, in one pass over the rows for all that are missing, and are kept beside the
//! index under its checksum: data that changed has other columns.
//!
//! ```text
//! magic and version   8 bytes
//! rows                u64
//! ends                rows x 8   end of each value in the text, its separator included; the highest bit says that there is none
//! text                values as UTF-8, each with a NUL behind it
//! checksum            32         BLAKE3 of everything before it
//! ```
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;
use rayon::prelude::*;
use regex::bytes::Regex;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::bits::Bits;
use super::format::Format;
use super::index::Record;
use super::shape::as_text;
use super::{DataError, Dataset, MAX_ROW, field, parse};

const MAGIC: &[u8; 8] = b"TBCOLUM1";
const HEAD: usize = 16;
const CHECKSUM: usize = 32;
const ABSENT: u64 = 1 << 63;

/// Rows that one thread takes at a time; a multiple of 64, so that each thread has words of its own in [`Bits`].
const CHUNK: usize = 4096;
/// Rows whose values wait in memory for being written.
const WINDOW: usize = 16 * CHUNK;
/// Rows that stand together are read together, up to so many bytes.
const READ_AT_ONCE: u64 = 8 << 20;

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    Input,
    /// As it stands in the file.
    Gold,
    /// A field by its name, or by a path with dots.
    Field(String),
    /// What was found out about the rows, and kept with [`Dataset::keep`].
    Found(String),
}

impl Of {
    fn name(&self) -> String {
        match self {
            Self::Input => "input".into(),
            Self::Gold => "gold".into(),
            Self::Field(name) => format!("field:{name}"),
            Self::Found(name) => format!("found:{name}"),
        }
    }
}

/// A column, memory-mapped.
#[derive(Debug)]
pub struct Column {
    map: Mmap,
    rows: usize,
    text: usize,
}

impl Column {
    fn open(path: &Path, rows: usize) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let size = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let text = HEAD + rows.checked_mul(8)?;
        let body = size.checked_sub(CHECKSUM).filter(|body| *body >= text)?;
        verify(&mut file, body)?;
        // SAFETY: columns are only ever replaced by rename or removed, so the mapped file does not change or shrink under the map;
        // every access checks its bounds, and text is checked to be UTF-8 before it is used as such.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let column = Self { map, rows, text };
        let fits = column.map.starts_with(MAGIC)
            && column.map.get(8..HEAD)? == (rows as u64).to_le_bytes()
            && (0..rows).all(|row| column.end(row) >= column.start(row))
            && column.text + column.start(rows) == body;
        fits.then_some(column)
    }

    pub const fn len(&self) -> usize {
        self.rows
    }

    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn raw_end(&self, row: usize) -> u64 {
        let at = HEAD + row * 8;
        self.map.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(ABSENT, u64::from_le_bytes)
    }

    fn end(&self, row: usize) -> usize {
        (self.raw_end(row) & !ABSENT) as usize
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.end(before))
    }

    fn bytes(&self) -> &[u8] {
        self.map.get(self.text..self.map.len() - CHECKSUM).unwrap_or_default()
    }

    /// A row's value; none where the row has none.
    pub fn get(&self, row: usize) -> Option<&str> {
        if row >= self.rows || self.raw_end(row) & ABSENT != 0 {
            return None;
        }
        let value = self.bytes().get(self.start(row)..self.end(row).checked_sub(1)?)?;
        std::str::from_utf8(value).ok()
    }

    /// The rows whose value holds so.
    pub fn rows_where(&self, holds: impl Fn(Option<&str>) -> bool + Sync) -> Bits {
        Bits::of(self.rows, |row| holds(self.get(row)))
    }

    /// The rows whose value contains `needle`, in any case.
    ///
    /// The text is searched as a whole: a NUL ends each value, and no needle that has none can reach beyond it.
    pub fn containing(&self, needle: &str) -> Bits {
        let pattern = regex::escape(needle);
        let wanted = (!needle.contains('\0'))
            .then(|| regex::bytes::RegexBuilder::new(&pattern).case_insensitive(true).build().ok());
        match wanted.flatten() {
            Some(wanted) => self.matching(&wanted),
            // A needle that no expression can be made of is too long to search for quickly.
            None => {
                let lower = needle.to_lowercase();
                self.rows_where(|value| value.is_some_and(|v| v.to_lowercase().contains(&lower)))
            }
        }
    }

    fn matching(&self, wanted: &Regex) -> Bits {
        let text = self.bytes();
        let chunks: Vec<Vec<u64>> = (0..self.rows.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let (first, last) = (chunk * CHUNK, self.rows.min((chunk + 1) * CHUNK));
                let mut words = vec![0; (last - first).div_ceil(64)];
                let part = text.get(..self.start(last)).unwrap_or_default();
                let (mut row, mut at) = (first, self.start(first));
                while let Some(found) = wanted.find_at(part, at) {
                    while row < last && self.end(row) <= found.start() {
                        row += 1;
                    }
                    if row >= last {
                        break;
                    }
                    words[(row - first) / 64] |= 1 << ((row - first) % 64);
                    at = self.end(row);
                    row += 1;
                }
                words
            })
            .collect();
        Bits { words: chunks.concat(), len: self.rows }
    }
}

fn verify(file: &mut File, body: usize) -> Option<()> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    let mut left = body;
    while left > 0 {
        let want = left.min(piece.len());
        file.read_exact(&mut piece[..want]).ok()?;
        hasher.update(&piece[..want]);
        left -= want;
    }
    let mut checksum = [0; CHECKSUM];
    file.read_exact(&mut checksum).ok()?;
    (hasher.finalize() == blake3::Hash::from_bytes(checksum)).then_some(())
}

/// Columns of a data set: where they are kept, and those that are open.
#[derive(Debug)]
pub(super) struct Columns {
    dir: PathBuf,
    /// Of the index, and of what inputs and golds are made of.
    key: blake3::Hash,
    open: Mutex<HashMap<Of, Arc<Column>>>,
}

impl Columns {
    pub fn new(dir: PathBuf, key: blake3::Hash) -> Self {
        Self { dir, key, open: Mutex::default() }
    }

    fn prefix(&self) -> String {
        self.key.to_hex()[..16].to_owned()
    }

    fn path(&self, of: &Of) -> PathBuf {
        let name = blake3::hash(of.name().as_bytes()).to_hex();
        self.dir.join(format!("{}-{}.col", self.prefix(), &name[..16]))
    }

    fn opened(&self, of: &Of, rows: usize) -> Option<Arc<Column>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(column) = open.get(of) {
            return Some(column.clone());
        }
        let column = Arc::new(Column::open(&self.path(of), rows)?);
        open.insert(of.clone(), column.clone());
        Some(column)
    }

    /// Columns of data that is not there any more.
    fn sweep(&self) {
        let prefix = self.prefix();
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Rows read for the columns that this process makes, and those to be read; 0 of 0 while it makes none.
static MAKING: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// How far the columns are that are being made, of how many rows.
pub fn making() -> (usize, usize) {
    (MAKING[0].load(Ordering::Relaxed), MAKING[1].load(Ordering::Relaxed))
}

/// Tells how far they are, until it is dropped.
struct Making;

impl Making {
    fn tell(done: usize, total: usize) {
        MAKING[0].store(done, Ordering::Relaxed);
        MAKING[1].store(total, Ordering::Relaxed);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        Self::tell(0, 0);
    }
}

impl Dataset {
    /// The columns asked for, in that order. Those that are missing are made in one pass over the rows.
    pub fn columns(&self, wanted: &[Of]) -> Result<Vec<Arc<Column>>, DataError> {
        let mut missing: Vec<&Of> =
            wanted.iter().filter(|of| self.columns.opened(of, self.len()).is_none()).collect();
        // What was found out cannot be read off the rows.
        missing.retain(|of| !matches!(of, Of::Found(_)));
        if !missing.is_empty() {
            self.make(&missing)?;
        }
        let open = |of| {
            self.columns.opened(of, self.len()).ok_or_else(|| DataError::Damaged {
                file: self.columns.path(of).display().to_string(),
                reason: "it cannot be read back".into(),
            })
        };
        wanted.iter().map(open).collect()
    }

    fn make(&self, wanted: &[&Of]) -> Result<(), DataError> {
        let dir = &self.columns.dir;
        fs::create_dir_all(dir).map_err(DataError::io("cannot make", dir))?;
        self.columns.sweep();
        let mut writers = wanted
            .iter()
            .map(|of| Writer::new(&self.columns.path(of), self.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let _told = Making;
        for window in (0..self.len()).step_by(WINDOW) {
            Making::tell(window, self.len());
            let chunks: Vec<usize> = (window..self.len().min(window + WINDOW)).step_by(CHUNK).collect();
            let values: Vec<Vec<Piece>> = chunks
                .into_par_iter()
                .map(|first| self.pieces(first..self.len().min(first + CHUNK), wanted))
                .collect::<Result<_, _>>()?;
            for pieces in values {
                for (writer, piece) in writers.iter_mut().zip(pieces) {
                    writer.put(&piece)?;
                }
            }
        }
        writers.into_iter().try_for_each(Writer::finish)
    }

    /// The values of some rows that follow each other, by column.
    fn pieces(&self, rows: std::ops::Range<usize>, wanted: &[&Of]) -> Result<Vec<Piece>, DataError> {
        let mut pieces = vec![Piece::default(); wanted.len()];
        let names: Option<Vec<&str>> = wanted
            .iter()
            .map(|of| match of {
                Of::Field(name) => Some(name.as_str()),
                Of::Input | Of::Gold | Of::Found(_) => None,
            })
            .collect();
        self.each_row(rows, names.as_deref(), &mut |row, fields| {
            let resolved = names.is_none().then(|| self.resolved(row, &fields));
            for (piece, of) in pieces.iter_mut().zip(wanted) {
                match (of, &resolved) {
                    (Of::Field(name), _) => piece.push(field(&fields, name).and_then(as_text).as_deref()),
                    (Of::Input, Some(Ok((input, _)))) => piece.push(Some(input)),
                    (Of::Gold, Some(Ok((_, gold)))) => piece.push(gold.as_deref()),
                    // A row that cannot be rendered has neither.
                    (Of::Input | Of::Gold | Of::Found(_), _) => piece.push(None),
                }
            }
        })?;
        Ok(pieces)
    }

    /// Input and gold of a row with these fields; the error says what is wrong with it.
    pub fn resolved(
        &self,
        row: usize,
        fields: &Map<String, Value>,
    ) -> Result<(String, Option<String>), String> {
        if self.is_feedback(row) {
            Ok(super::feedback::resolve(fields))
        } else {
            self.resolver.resolve(fields)
        }
    }

    /// The fields of some rows that follow each other, of JSON only those `names`, where some are named. Rows are read many at a time, and
    /// their content is not held against its hash.
    ///
    /// # Errors
    /// A file that is not as it was indexed.
    pub fn each_row(
        &self,
        rows: std::ops::Range<usize>,
        names: Option<&[&str]>,
        with: &mut dyn FnMut(usize, Map<String, Value>),
    ) -> Result<(), DataError> {
        let mut block = Block::default();
        for row in rows {
            let record = self.index.record(row).ok_or(DataError::NoRow(row))?;
            let number = record.source as usize;
            let (Some(source), Some(file)) = (self.index.meta.sources.get(number), self.files.get(number))
            else {
                return Err(DataError::NoRow(row));
            };
            let stale = || DataError::Stale { file: source.path.clone() };
            let bytes = block.read(self, row, &record, file).map_err(|_| stale())?;
            let json = matches!(source.layout.format, Format::Jsonl | Format::Json | Format::Parquet);
            let fields = match names {
                Some(names) if json => some_fields(bytes, names),
                _ => parse::fields(&source.layout, bytes).ok(),
            };
            with(row, fields.ok_or_else(stale)?);
        }
        Ok(())
    }

    /// What was found out about the rows, if it was kept for this state of the data.
    pub fn found(&self, name: &str) -> Option<Arc<Column>> {
        self.columns.opened(&Of::Found(name.to_owned()), self.len())
    }

    /// Keeps what was found out about the rows, one value each and in their order, for as long as the data stays as it is. `name` says what
    /// it is and what it hangs on.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn keep(
        &self,
        name: &str,
        values: impl Iterator<Item = Option<String>>,
    ) -> Result<Arc<Column>, DataError> {
        let of = Of::Found(name.to_owned());
        let dir = &self.columns.dir;
        fs::create_dir_all(dir).map_err(DataError::io("cannot make", dir))?;
        self.columns.sweep();
        let mut writer = Writer::new(&self.columns.path(&of), self.len())?;
        let mut piece = Piece::default();
        for value in values {
            piece.push(value.as_deref());
            if piece.lengths.len() == CHUNK {
                writer.put(&std::mem::take(&mut piece))?;
            }
        }
        writer.put(&piece)?;
        writer.finish()?;
        self.columns.opened(&of, self.len()).ok_or_else(|| DataError::Damaged {
            file: self.columns.path(&of).display().to_string(),
            reason: "it cannot be read back".into(),
        })
    }
}

/// Rows of a file that stand together, read at once.
#[derive(Default)]
struct Block {
    source: u32,
    offset: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn read(&mut self, data: &Dataset, row: usize, record: &Record, file: &File) -> std::io::Result<&[u8]> {
        let inside = |block: &Self| {
            let start = record.offset.checked_sub(block.offset)? as usize;
            let end = start.checked_add(record.len as usize)?;
            (block.source == record.source && end <= block.bytes.len()).then_some(start..end)
        };
        if inside(self).is_none() {
            if record.len as usize > MAX_ROW {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            let last = (row + 1..(row / CHUNK + 1) * CHUNK)
                .map_while(|next| data.index.record(next))
                .take_while(|r| r.source == record.source && r.offset >= record.offset)
                .map(|r| r.offset - record.offset + u64::from(r.len))
                .take_while(|end| *end <= READ_AT_ONCE)
                .last();
            let len = last.unwrap_or(0).max(u64::from(record.len));
            self.bytes.resize(len as usize, 0);
            file.read_exact_at(&mut self.bytes, record.offset)?;
            (self.source, self.offset) = (record.source, record.offset);
        }
        let range = inside(self).unwrap_or_default();
        Ok(&self.bytes[range])
    }
}

/// Some rows' values, as they go into the file.
#[derive(Clone, Debug, Default)]
struct Piece {
    text: Vec<u8>,
    /// Bytes of each value with its separator, and whether there is one.
    lengths: Vec<(u32, bool)>,
}

impl Piece {
    fn push(&mut self, value: Option<&str>) {
        let before = self.text.len();
        for part in value.into_iter().flat_map(|v| v.split('\0')) {
            self.text.extend_from_slice(part.as_bytes());
        }
        self.text.push(0);
        self.lengths.push(((self.text.len() - before) as u32, value.is_some()));
    }
}

/// Writes a column beside its place, and puts it there when it is whole.
struct Writer {
    path: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
    ends: Vec<u8>,
    end: u64,
    rows: usize,
}

impl Writer {
    fn new(path: &Path, rows: usize) -> Result<Self, DataError> {
        let temporary = Temporary(path.with_extension(format!("{}.tmp", std::process::id())));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary.0)
            .map_err(DataError::io("cannot write", &temporary.0))?;
        file.seek(SeekFrom::Start((HEAD + rows * 8) as u64))
            .map_err(DataError::io("cannot write", &temporary.0))?;
        let ends = Vec::with_capacity(rows * 8);
        Ok(Self {
            path: path.to_owned(),
            temporary,
            out: BufWriter::with_capacity(1 << 20, file),
            ends,
            end: 0,
            rows,
        })
    }

    fn put(&mut self, piece: &Piece) -> Result<(), DataError> {
        for &(length, there) in &piece.lengths {
            self.end += u64::from(length);
            let end = if there { self.end } else { self.end | ABSENT };
            self.ends.extend_from_slice(&end.to_le_bytes());
        }
        self.out.write_all(&piece.text).map_err(DataError::io("cannot write", &self.path))
    }

    fn finish(self) -> Result<(), DataError> {
        let Self { path, temporary, out, ends, end, rows } = self;
        let write = || -> std::io::Result<()> {
            let mut file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            let mut head = Vec::with_capacity(HEAD + ends.len());
            head.extend_from_slice(MAGIC);
            head.extend_from_slice(&(rows as u64).to_le_bytes());
            head.extend_from_slice(&ends);
            file.write_all_at(&head, 0)?;
            let mut hasher = blake3::Hasher::new();
            file.seek(SeekFrom::Start(0))?;
            hasher.update_reader((&mut file).take(head.len() as u64 + end))?;
            file.seek(SeekFrom::End(0))?;
            file.write_all(hasher.finalize().as_bytes())?;
            // A cache: what a crash takes fails its checksum and is made again.
            fs::rename(&temporary.0, &path)
        };
        write().map_err(DataError::io("cannot write", &path))
    }
}

/// A file that goes where it was not renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Of a JSON object only the fields that are asked for, by name or as the first part of a path.
fn some_fields(bytes: &[u8], names: &[&str]) -> Option<Map<String, Value>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    Wanted(names).deserialize(&mut reader).ok()
}

struct Wanted<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let asked =
                |name: &&str| **name == *key || name.split_once('.').is_some_and(|(first, _)| first == key);
            if self.0.iter().any(asked) {
                fields.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}
