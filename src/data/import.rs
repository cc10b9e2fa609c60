//! Import: from sources to the index. Streaming, in parallel within a piece, rebuilt when a source has changed.

use std::collections::{BTreeSet, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::mem;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::Value;

use super::dataset::{hex, open_index};
use super::digest::{self, Digest};
use super::format::{self, Format};
use super::guess::{SAMPLE_ROW_BYTES, Sample, guess};
use super::ids::Ids;
use super::index::{Meta, Record, Source, Stamp, Writer};
use super::scan::{Batch, Span, scan};
use super::{DataError, canonical, parquet, parse};
use crate::domain::api::ImportReport;
use crate::domain::row::Quarantined;
use crate::domain::words::steers;
use crate::machine;
use crate::workspace::{FEEDBACK, Workspace};

/// As many bad rows are described; all are counted.
const QUARANTINE: usize = 1000;
/// As many field names are kept.
pub(super) const FIELDS: usize = 10_000;

/// Rows that one thread takes at a time.
const TOGETHER: usize = 256;

/// Indexes the workspace's sources, unless an index that fits them is there. `progress` gets bytes done and bytes in all.
///
/// Only one process imports at a time; another waits for it, and then finds its index.
pub fn import(
    ws: &Workspace,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImportReport, DataError> {
    let start = Instant::now();
    let dir = index_dir(ws);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(DataError::io("cannot make the folder", &dir))?;
    let _lock = lock(&dir)?;
    let (meta, cached) = match open_index(ws) {
        Ok((index, _)) if !force => (index.meta, true),
        Ok(_) | Err(DataError::NotImported | DataError::Stale { .. } | DataError::Damaged { .. }) => {
            (build(ws, &dir, progress)?, false)
        }
        Err(e) => return Err(e),
    };
    Ok(ImportReport {
        seconds: start.elapsed().as_secs_f64(),
        peak_mib: machine::peak_resident().map_or(0.0, |b| b as f64 / f64::from(1 << 20)),
        ..report(&meta, cached)
    })
}

pub(super) fn report(meta: &Meta, cached: bool) -> ImportReport {
    ImportReport {
        rows: meta.rows as usize,
        bytes: meta.bytes,
        seconds: 0.0,
        peak_mib: 0.0,
        cached,
        quarantined: meta.quarantined.clone(),
        quarantined_total: meta.quarantined_total,
        format: meta.format.clone(),
        warnings: meta.warnings.clone(),
    }
}

pub(super) fn index_dir(ws: &Workspace) -> PathBuf {
    ws.state_dir().join("index")
}

/// Named by the list of sources, so that a changed source replaces its index.
fn key(ws: &Workspace) -> String {
    let list = ws.row_files().into_iter().map(|(shown, _)| shown).collect::<Vec<_>>().join("\0");
    hex(&canonical::first_bytes(&blake3::hash(list.as_bytes())))
}

pub(super) fn index_path(ws: &Workspace) -> PathBuf {
    index_dir(ws).join(key(ws) + ".idx")
}

fn lock(dir: &Path) -> Result<File, DataError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(DataError::io("cannot open", &path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| DataError::io("cannot lock", &path)(e.into()))?;
    Ok(file)
}

fn build(ws: &Workspace, dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Meta, DataError> {
    let key = key(ws);
    let path = index_path(ws);
    let temp = dir.join(format!("{key}.tmp"));
    let cannot_write = || DataError::io("cannot write", &temp);
    let out = File::create(&temp).map_err(cannot_write())?;
    let writer = Writer::new(out).map_err(cannot_write())?;
    let mut builder = Builder::new(writer, temp.clone());

    let row_files = ws.row_files();
    let mut total = 0;
    for (_, path) in &row_files {
        total += std::fs::metadata(path).map_err(DataError::io("cannot read", path))?.len();
    }
    let mut before = 0;
    for (i, (shown, source)) in row_files.iter().enumerate() {
        let converted = dir.join(format!("{key}-{i}.jsonl"));
        let size = builder
            .source(shown, source, &converted, &mut |done| progress((before + done).min(total), total))?;
        before += size;
    }
    progress(total, total);
    let meta = builder.finish(&path)?;
    let keep: BTreeSet<String> = meta.sources.iter().filter_map(|s| s.converted.clone()).collect();
    remove_others(dir, &key, &keep);
    Ok(meta)
}

/// Indexes of sources that are no longer named, and what a killed import left behind.
fn remove_others(dir: &Path, key: &str, keep: &BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name == "lock" || name == format!("{key}.idx") || keep.contains(&name);
        if !ours {
            // What cannot be removed only takes space.
            _ = std::fs::remove_file(entry.path());
        }
    }
}

struct Builder {
    writer: Writer<File>,
    temp: PathBuf,
    ids: Ids,
    sample: Sample,
    known: Known,
    /// Fields that the rows named last brought.
    found: Vec<String>,
    pending: Pending,
    meta: Meta,
}

/// Fields that were seen so far.
#[derive(Default)]
struct Known {
    fields: HashSet<String>,
    /// Those of the first row, in its order: rows mostly have the same fields in the same order.
    usual: Vec<String>,
}

impl Known {
    fn has(&self, place: usize, key: &str) -> bool {
        self.usual.get(place).is_some_and(|k| k == key) || self.fields.contains(key)
    }

    fn learn(&mut self, names: impl Iterator<Item = String>) {
        for name in names {
            if self.fields.len() < FIELDS {
                self.fields.insert(name);
            }
        }
    }
}

/// Rows whose digests are known and which are not written yet: that is done while the next ones are worked on.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    rows: Vec<Span>,
    digests: Vec<Vec<Result<Digest, String>>>,
}

impl Builder {
    fn new(writer: Writer<File>, temp: PathBuf) -> Self {
        Self {
            writer,
            temp,
            ids: Ids::default(),
            sample: Sample::default(),
            known: Known::default(),
            found: Vec::new(),
            pending: Pending::default(),
            meta: Meta::default(),
        }
    }

    /// Indexes one file and returns its size.
    fn source(
        &mut self,
        shown: &str,
        path: &Path,
        converted: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, DataError> {
        let cannot_read = || DataError::io("cannot read", path);
        let mut file = File::open(path).map_err(cannot_read())?;
        let stamp = Stamp::of(&file).map_err(cannot_read())?;
        let layout = format::detect(path, shown)?;
        let mut scanned = path.to_owned();
        let mut name = None;
        if layout.format == Format::Parquet {
            file = convert(path, shown, converted, stamp.size, progress)?;
            converted.clone_into(&mut scanned);
            name = converted.file_name().map(|n| n.to_string_lossy().into_owned());
        }
        let number = self.meta.sources.len() as u32;
        let source = Source { path: shown.to_owned(), stamp: stamp.clone(), layout, converted: name };
        let mut failed = None;
        scan(&mut file, &source.layout, &scanned, &mut |batch| {
            if source.converted.is_none() {
                progress(batch.done);
            }
            match self.batch(&source, number, batch) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        self.write(&source, number)?;
        let now = File::open(path).and_then(|f| Stamp::of(&f)).map_err(cannot_read())?;
        if now != stamp {
            return Err(DataError::input(shown, "was written to while it was being imported; import again"));
        }
        self.meta.bytes += stamp.size;
        self.meta.sources.push(source);
        Ok(stamp.size)
    }

    fn batch(&mut self, source: &Source, number: u32, batch: Batch<'_>) -> Result<(), DataError> {
        let known = mem::take(&mut self.known);
        let bytes = |span: &Span| match &span.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(batch.bytes.get(span.start..span.end).unwrap_or_default()),
        };
        let of_rows = |spans: &[Span]| {
            digest::of_rows(&source.layout, spans.iter().map(bytes), &|i, key| known.has(i, key))
        };
        let (digests, written): (Vec<Vec<Result<Digest, String>>>, _) = rayon::join(
            || batch.rows.par_chunks(TOGETHER).map(of_rows).collect(),
            || self.write(source, number),
        );
        self.known = known;
        written?;
        self.known.learn(self.found.drain(..));
        if self.known.usual.is_empty()
            && source.path != FEEDBACK
            && let Some(first) = digests.iter().flatten().flatten().next()
        {
            self.known.usual.clone_from(&first.new_fields);
        }
        mem::swap(&mut self.pending.bytes, batch.bytes);
        mem::swap(&mut self.pending.rows, batch.rows);
        self.pending.digests = digests;
        Ok(())
    }

    /// Writes what is pending.
    fn write(&mut self, source: &Source, number: u32) -> Result<(), DataError> {
        let mut pending = mem::take(&mut self.pending);
        for (span, digest) in pending.rows.iter().zip(pending.digests.drain(..).flatten()) {
            match digest {
                Ok(digest) => {
                    let bytes = pending.bytes.get(span.start..span.end).unwrap_or_default();
                    self.row(source, number, bytes, span, digest)?;
                }
                Err(reason) => self.quarantine(source, span.line, reason),
            }
        }
        pending.rows.clear();
        // Its memory is filled again.
        self.pending = pending;
        Ok(())
    }

    fn row(
        &mut self,
        source: &Source,
        number: u32,
        bytes: &[u8],
        span: &Span,
        digest: Digest,
    ) -> Result<(), DataError> {
        let record = Record {
            offset: span.offset,
            len: bytes.len() as u32,
            source: number,
            line: span.line,
            hash: digest.hash,
        };
        self.writer.record(&record).map_err(DataError::io("cannot write", &self.temp))?;
        self.meta.rows += 1;
        self.ids.push(&digest.hash, digest.id.as_deref(), digest.key);
        // What the data looks like is told by the data.
        if source.path == FEEDBACK {
            return Ok(());
        }
        self.found.extend(digest.new_fields);
        if bytes.len() <= SAMPLE_ROW_BYTES
            && let Some(place) = self.sample.choose()
            && let Ok(fields) = parse::fields(&source.layout, bytes)
        {
            self.sample.put(place, fields);
        }
        Ok(())
    }

    fn quarantine(&mut self, source: &Source, line: u64, reason: String) {
        self.meta.quarantined_total += 1;
        if self.meta.quarantined.len() < QUARANTINE {
            self.meta.quarantined.push(Quarantined { file: source.path.clone(), line, reason });
        }
    }

    fn finish(mut self, path: &Path) -> Result<Meta, DataError> {
        let cannot_write = || DataError::io("cannot write", path);
        self.meta.guess = guess(&self.sample, None, None);
        let sources = self.meta.sources.iter().filter(|s| s.path != FEEDBACK);
        let formats: BTreeSet<&str> = sources.map(|s| s.layout.format.name()).collect();
        let formats: Vec<&str> = formats.into_iter().collect();
        self.meta.format = format!("{}/{}", formats.join("+"), self.meta.guess.shape.name());
        self.known.learn(self.found.drain(..));
        self.meta.fields = self.known.fields.into_iter().collect();
        self.meta.fields.sort_unstable();
        let assigned = self.ids.assign();
        self.meta.warnings.extend(assigned.warning());
        let file = self
            .writer
            .finish(&mut |put| assigned.each(put), assigned.table(), &self.meta)
            .map_err(cannot_write())?;
        publish(file, &self.temp, path)?;
        Ok(self.meta)
    }
}

/// The value of a row's `id` field, where it can serve as one.
pub(super) fn own_id(value: &Value) -> Option<String> {
    let id = match value {
        Value::String(s) => s.clone(),
        Value::Number(n) if n.is_u64() || n.is_i64() => n.to_string(),
        _ => return None,
    };
    let fit = !id.is_empty() && id.len() <= super::ids::MAX_ID && id.trim() == id && !id.chars().any(steers);
    fit.then_some(id)
}

fn convert(
    path: &Path,
    shown: &str,
    converted: &Path,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<File, DataError> {
    let temp = converted.with_extension("jsonl.tmp");
    let file = File::create(&temp).map_err(DataError::io("cannot write", &temp))?;
    let rows = parquet::rows(path, shown)?.max(1);
    parquet::convert(path, shown, &file, &mut |done| {
        progress((size as f64 * done as f64 / rows as f64) as u64);
    })?;
    publish(file, &temp, converted)?;
    File::open(converted).map_err(DataError::io("cannot read", converted))
}

/// fsync, rename, fsync of the folder.
fn publish(mut file: File, temp: &Path, path: &Path) -> Result<(), DataError> {
    let cannot_write = || DataError::io("cannot write", path);
    file.flush().and_then(|()| file.sync_all()).map_err(cannot_write())?;
    std::fs::rename(temp, path).map_err(cannot_write())?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|f| f.sync_all()).map_err(cannot_write())?;
    }
    Ok(())
}
