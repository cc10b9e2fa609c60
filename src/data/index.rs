//! The row index on disk: fixed-size records, ids, a table to find ids, and what was learned of the sources.
//!
//! ```text
//! magic and version                     8 bytes
//! records     n x 40   offset u64, length u32, source u32, line u64, content hash 16 bytes
//! id ends     n x 8    end of each id in the id text
//! id text              UTF-8
//! id table    n x 12   [`id_keys`] as u64, row u32; sorted
//! meta                 JSON ([`Meta`])
//! footer      6 x 8    rows, and where id ends, id text, id table, meta and footer begin
//! checksum    32       BLAKE3 of everything before it
//! ```
//! All numbers are little-endian. A file whose checksum or version differs is rebuilt, never trusted.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::path::Path;

use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::canonical::HASH_BYTES;
use super::format::Layout;
use super::guess::Guess;
use super::hash_many::hash_many;
use crate::domain::row::Quarantined;

const MAGIC: &[u8; 8] = b"TBINDEX2";
const RECORD: usize = 40;
const ID_END: usize = 8;
const ID_ENTRY: usize = 12;
const FOOTER: usize = 48;
const CHECKSUM: usize = 32;

/// What the index says beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub sources: Vec<Source>,
    pub rows: u64,
    /// Bytes of all sources.
    pub bytes: u64,
    /// The first 1,000.
    pub quarantined: Vec<Quarantined>,
    pub quarantined_total: usize,
    pub warnings: Vec<String>,
    /// `jsonl/records`.
    pub format: String,
    /// Names of all fields, sorted (the first 10,000).
    pub fields: Vec<String>,
    pub guess: Guess,
}

/// One data file as it was indexed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Source {
    /// As written in `workspace.toml`.
    pub path: String,
    pub stamp: Stamp,
    pub layout: Layout,
    /// Parquet: the file of lines that it was converted to, beside the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converted: Option<String>,
}

/// Tells a file from its changed self without reading all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub size: u64,
    pub mtime_ns: i64,
    /// BLAKE3 of the first and last 64 KiB.
    pub ends: String,
}

impl Stamp {
    pub fn of(file: &File) -> io::Result<Self> {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        const END: u64 = 64 << 10;
        let meta = file.metadata()?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; END as usize];
        for start in [0, meta.len().saturating_sub(END)] {
            let mut filled = 0;
            while filled < piece.len() {
                match file.read_at(&mut piece[filled..], start + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            hasher.update(&piece[..filled]);
        }
        let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Ok(Self { size: meta.len(), mtime_ns, ends: hasher.finalize().to_hex().to_string() })
    }
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub offset: u64,
    pub len: u32,
    pub source: u32,
    pub line: u64,
    pub hash: [u8; HASH_BYTES],
}

/// Blocks of BLAKE3 that an id is filled up to: only full blocks are hashed side by side.
const ID_BLOCK: usize = 64;

/// What sorts an id into the table: the first 8 bytes of the BLAKE3 of the id, filled up to whole blocks with zeros, which no id holds.
pub(super) fn id_keys(ids: &[&str]) -> Vec<u64> {
    let mut filled = Vec::with_capacity(ids.len() * ID_BLOCK);
    let ends = ids.iter().map(|id| {
        filled.extend_from_slice(id.as_bytes());
        filled.resize(filled.len().next_multiple_of(ID_BLOCK).max(ID_BLOCK), 0);
        filled.len()
    });
    let ends: Vec<usize> = ends.collect();
    let mut start = 0;
    let filled = ends.iter().map(|end| filled.get(mem::replace(&mut start, *end)..*end).unwrap_or_default());
    let hashes = hash_many(&filled.collect::<Vec<_>>());
    hashes.iter().map(|hash| u64_at(hash, 0).unwrap_or_default()).collect()
}

/// [`id_keys`] of one.
pub(super) fn id_key(id: &str) -> u64 {
    id_keys(&[id]).first().copied().unwrap_or_default()
}

/// Bytes that are hashed and written at once.
const TOGETHER: usize = 1 << 18;

/// Writes an index front to back; nothing of it is kept in memory.
pub(super) struct Writer<W> {
    out: W,
    hasher: blake3::Hasher,
    /// What is neither hashed nor written yet.
    pending: Vec<u8>,
    written: u64,
    rows: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer =
            Self { out, hasher: blake3::Hasher::new(), pending: Vec::new(), written: 0, rows: 0 };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= TOGETHER { self.flush() } else { Ok(()) }
    }

    /// BLAKE3 takes many chunks side by side, and one after the other what comes in small pieces.
    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.pending);
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&record.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&record.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&record.source.to_le_bytes());
        bytes[16..24].copy_from_slice(&record.line.to_le_bytes());
        bytes[24..].copy_from_slice(&record.hash);
        self.rows += 1;
        self.put(&bytes)
    }

    /// After the last record: the ids in the order of the rows, called for twice, and their keys with the rows, where they are sorted
    /// already.
    pub fn finish(
        mut self,
        ids: &mut dyn FnMut(&mut dyn FnMut(&str, u64) -> io::Result<()>) -> io::Result<()>,
        sorted: Option<&[(u64, u32)]>,
        meta: &Meta,
    ) -> io::Result<W> {
        let id_ends = self.written;
        let mut end = 0u64;
        let mut table: Vec<(u64, u32)> = Vec::new();
        ids(&mut |id, key| {
            end += id.len() as u64;
            if sorted.is_none() {
                table.push((key, table.len() as u32));
            }
            self.put(&end.to_le_bytes())
        })?;
        let id_text = self.written;
        ids(&mut |id, _| self.put(id.as_bytes()))?;
        let id_table = self.written;
        table.par_sort_unstable();
        let mut bytes = Vec::with_capacity(ID_ENTRY * 4096);
        for entries in sorted.unwrap_or(&table).chunks(4096) {
            bytes.clear();
            for (key, row) in entries {
                bytes.extend_from_slice(&key.to_le_bytes());
                bytes.extend_from_slice(&row.to_le_bytes());
            }
            self.put(&bytes)?;
        }
        let meta_at = self.written;
        self.put(&serde_json::to_vec(meta)?)?;
        let footer = self.written;
        for number in [self.rows, id_ends, id_text, id_table, meta_at, footer] {
            self.put(&number.to_le_bytes())?;
        }
        self.flush()?;
        let checksum = self.hasher.finalize();
        self.out.write_all(checksum.as_bytes())?;
        Ok(self.out)
    }
}

/// An index, memory-mapped.
#[derive(Debug)]
pub(super) struct Index {
    map: Mmap,
    rows: usize,
    id_ends: usize,
    id_text: usize,
    id_table: usize,
    pub meta: Meta,
}

/// Why an index cannot be used.
pub(super) enum Unusable {
    Absent,
    Damaged(String),
    Io(io::Error),
}

impl Index {
    /// Opens and verifies an index. The checksum is taken by reading, not through the map, so that the pages do not stay.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        let mut file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Unusable::Absent,
            _ => Unusable::Io(e),
        })?;
        let size = file.metadata().map_err(Unusable::Io)?.len() as usize;
        if size < MAGIC.len() + FOOTER + CHECKSUM {
            return Err(Unusable::Damaged("too short".into()));
        }
        verify(&mut file, size - CHECKSUM)?;
        // SAFETY: the index is only ever replaced by rename, so the mapped file does not change or shrink under the map;
        // what another program might do to it in between is read as plain bytes, bounds are checked on each access.
        let map = unsafe { Mmap::map(&file) }.map_err(Unusable::Io)?;
        Self::parse(map).ok_or_else(|| Unusable::Damaged("its parts do not fit together".into()))
    }

    fn parse(map: Mmap) -> Option<Self> {
        let footer = map.len().checked_sub(FOOTER + CHECKSUM)?;
        let number = |i: usize| u64_at(&map, footer + 8 * i).and_then(|n| usize::try_from(n).ok());
        let (rows, id_ends, id_text, id_table, meta) =
            (number(0)?, number(1)?, number(2)?, number(3)?, number(4)?);
        let fits = id_ends == MAGIC.len() + rows.checked_mul(RECORD)?
            && id_text == id_ends + rows * ID_END
            && id_text <= id_table
            && meta == id_table.checked_add(rows * ID_ENTRY)?
            && meta <= footer
            && number(5)? == footer;
        if !fits {
            return None;
        }
        let meta = serde_json::from_slice(map.get(meta..footer)?).ok()?;
        Some(Self { map, rows, id_ends, id_text, id_table, meta })
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// Tells this index from every other.
    pub fn checksum(&self) -> &[u8] {
        self.map.get(self.map.len() - CHECKSUM..).unwrap_or_default()
    }

    pub fn record(&self, row: usize) -> Option<Record> {
        if row >= self.rows {
            return None;
        }
        let at = MAGIC.len() + row * RECORD;
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(self.map.get(at + 24..at + RECORD)?);
        Some(Record {
            offset: u64_at(&self.map, at)?,
            len: u32_at(&self.map, at + 8)?,
            source: u32_at(&self.map, at + 12)?,
            line: u64_at(&self.map, at + 16)?,
            hash,
        })
    }

    pub fn id(&self, row: usize) -> Option<&str> {
        if row >= self.rows {
            return None;
        }
        let end = u64_at(&self.map, self.id_ends + row * ID_END)? as usize;
        let start = match row {
            0 => 0,
            _ => u64_at(&self.map, self.id_ends + (row - 1) * ID_END)? as usize,
        };
        let text = self.map.get(self.id_text..self.id_table)?.get(start..end)?;
        std::str::from_utf8(text).ok()
    }

    pub fn find(&self, id: &str) -> Option<usize> {
        let key = id_key(id);
        let entry = |i: usize| u64_at(&self.map, self.id_table + i * ID_ENTRY);
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low.midpoint(high);
            if entry(middle)? < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..self.rows)
            .take_while(|i| entry(*i) == Some(key))
            .filter_map(|i| u32_at(&self.map, self.id_table + i * ID_ENTRY + 8))
            .map(|row| row as usize)
            .find(|row| self.id(*row) == Some(id))
    }
}

fn verify(file: &mut File, body: usize) -> Result<(), Unusable> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    let mut left = body;
    let mut first = true;
    while left > 0 {
        let want = left.min(piece.len());
        file.read_exact(&mut piece[..want]).map_err(Unusable::Io)?;
        if std::mem::take(&mut first) && !piece.starts_with(MAGIC) {
            return Err(Unusable::Damaged("of another version".into()));
        }
        hasher.update(&piece[..want]);
        left -= want;
    }
    let mut checksum = [0; CHECKSUM];
    file.read_exact(&mut checksum).map_err(Unusable::Io)?;
    if hasher.finalize() != blake3::Hash::from_bytes(checksum) {
        return Err(Unusable::Damaged("its checksum does not hold".into()));
    }
    Ok(())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}
