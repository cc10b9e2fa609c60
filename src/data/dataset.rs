//! An imported data set: rows by offset, ids, inputs and golds. Reading takes `&self` and can go on in several threads.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::columns::Columns;
use super::format::Format;
use super::guess::Guess;
use super::index::{Index, Record, Stamp, Unusable};
use super::resolve::{Resolver, unknown_fields};
use super::shape::Shape;
use super::{DataError, canonical, feedback, import, parse};
use crate::domain::api::ImportReport;
use crate::domain::row::{Quarantined, Row, Turn};
use crate::workspace::{FEEDBACK, Workspace};

/// Rows of the workspace's sources.
#[derive(Debug)]
pub struct Dataset {
    pub(super) index: Index,
    pub(super) files: Vec<File>,
    pub(super) resolver: Resolver,
    pub(super) columns: Columns,
}

impl Dataset {
    /// Opens the index. `NotImported`, `Stale` and `Damaged` all mean: import, and open again.
    pub fn open(ws: &Workspace) -> Result<Self, DataError> {
        let (index, files) = open_index(ws)?;
        let data = &ws.config.data;
        let wrong = |key: &str, message: String| {
            DataError::input(
                format!("{}:{}", crate::workspace::FILE, ws.line_of(key)),
                format!("`{key}`: {message}"),
            )
        };
        if let Some(template) = &data.input
            && index.len() > 0
            && index.meta.fields.len() < import::FIELDS
            && let Some(message) = unknown_fields(template, &index.meta.fields).into_iter().next()
        {
            return Err(wrong("data.input", message));
        }
        let resolver = Resolver::new(data.input.as_deref(), data.gold.as_deref(), &index.meta.guess)
            .map_err(|message| wrong("data.input", message))?;
        // Inputs and golds are other ones where they are made in another way.
        let mut key = blake3::Hasher::new();
        key.update(index.checksum()).update(format!("{:?}", (&data.input, &data.gold)).as_bytes());
        let columns = Columns::new(import::index_dir(ws).join("columns"), key.finalize());
        Ok(Self { index, files, resolver, columns })
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empty beyond the last row.
    pub fn id(&self, row: usize) -> &str {
        self.index.id(row).unwrap_or_default()
    }

    /// Hex of the content hash; empty beyond the last row.
    pub fn hash(&self, row: usize) -> String {
        self.index.record(row).map(|r| hex(&r.hash)).unwrap_or_default()
    }

    /// Bytes of a row in its file.
    pub fn bytes(&self, row: usize) -> u64 {
        self.index.record(row).map_or(0, |r| u64::from(r.len))
    }

    /// Position of a row by its id.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.index.find(id)
    }

    /// Reads a row from its file. The content is held against its hash: a file that changed behind our back is noticed.
    pub fn row(&self, row: usize) -> Result<Row, DataError> {
        let record = self.index.record(row).ok_or(DataError::NoRow(row))?;
        let id = self.id(row).to_owned();
        let source = self.index.meta.sources.get(record.source as usize);
        let (Some(source), Some(file)) = (source, self.files.get(record.source as usize)) else {
            return Err(DataError::NoRow(row));
        };
        let stale = || DataError::Stale { file: source.path.clone() };
        if record.len as usize > super::MAX_ROW {
            return Err(stale());
        }
        let mut bytes = vec![0; record.len as usize];
        file.read_exact_at(&mut bytes, record.offset).map_err(|_| stale())?;
        let fields = parse::fields(&source.layout, &bytes).map_err(|_| stale())?;
        if canonical::hash(&fields) != record.hash {
            return Err(stale());
        }
        Ok(Row { id, hash: hex(&record.hash), fields, source: source.path.clone(), line: record.line })
    }

    /// Input and gold of a row.
    pub fn resolve(&self, row: &Row) -> Result<(String, Option<String>), DataError> {
        if row.source == FEEDBACK {
            return Ok(feedback::resolve(&row.fields));
        }
        self.resolver.resolve(&row.fields).map_err(|message| DataError::Row {
            row: row.id.clone(),
            file: row.source.clone(),
            line: row.line,
            message,
        })
    }

    /// What does not fit in a row with these fields; see [`Resolver::misfit`].
    pub fn misfit(&self, row: usize, fields: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
        if self.is_feedback(row) { None } else { self.resolver.misfit(fields) }
    }

    /// What the import took the rows for.
    pub fn guess(&self) -> &Guess {
        &self.index.meta.guess
    }

    /// The row was typed in the playground.
    pub fn is_feedback(&self, row: usize) -> bool {
        let source = self.index.record(row).and_then(|r| self.index.meta.sources.get(r.source as usize));
        source.is_some_and(|source| source.path == FEEDBACK)
    }

    /// The conversation that the row's input is the text of; empty where it is none.
    pub fn turns(&self, row: &Row) -> Vec<Turn> {
        if row.source == FEEDBACK { Vec::new() } else { self.resolver.turns(&row.fields) }
    }

    /// Messages of the row's conversation before the golden answer, without the system's; 1 where it is none.
    pub fn turn_count(&self, row: &Row) -> usize {
        let turns = Shape::of(&row.fields).turns(&row.fields);
        turns.iter().filter(|turn| turn.role != "system").count().max(1)
    }

    /// The file that a row is from, relative to the workspace.
    pub fn source(&self, row: usize) -> &str {
        let source = self.index.record(row).and_then(|r| self.index.meta.sources.get(r.source as usize));
        source.map_or("", |source| source.path.as_str())
    }

    /// Names of the fields that occur, sorted.
    pub fn fields(&self) -> &[String] {
        &self.index.meta.fields
    }

    /// The first 1,000 bad rows.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.index.meta.quarantined
    }

    /// What the import found, for those who come later.
    pub fn report(&self) -> ImportReport {
        import::report(&self.index.meta, true)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// The index with the files that its rows stand in, when it fits the sources as they are now.
pub(super) fn open_index(ws: &Workspace) -> Result<(Index, Vec<File>), DataError> {
    let path = import::index_path(ws);
    let shown = || path.strip_prefix(&ws.root).unwrap_or(&path).display().to_string();
    let index = Index::open(&path).map_err(|e| match e {
        Unusable::Absent => DataError::NotImported,
        Unusable::Damaged(reason) => DataError::Damaged { file: shown(), reason },
        Unusable::Io(e) => DataError::io("cannot read", &path)(e),
    })?;
    let there = ws.row_files();
    if !index.meta.sources.iter().map(|s| &s.path).eq(there.iter().map(|(shown, _)| shown)) {
        return Err(DataError::NotImported);
    }
    let mut files = Vec::new();
    for (source, (_, path)) in index.meta.sources.iter().zip(there) {
        let file = File::open(&path).map_err(DataError::io("cannot read", &path))?;
        let stamp = Stamp::of(&file).map_err(DataError::io("cannot read", &path))?;
        if stamp != source.stamp {
            return Err(DataError::Stale { file: source.path.clone() });
        }
        files.push(match (&source.converted, source.layout.format) {
            (Some(name), Format::Parquet) => open_converted(ws, name)?,
            _ => file,
        });
    }
    Ok((index, files))
}

fn open_converted(ws: &Workspace, name: &str) -> Result<File, DataError> {
    let path: PathBuf = import::index_dir(ws).join(name);
    File::open(&path)
        .map_err(|e| DataError::Damaged { file: path.display().to_string(), reason: e.to_string() })
}

// Shared between threads as it is: the map is read-only and files are read at positions.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Dataset>();
    shared::<Record>();
};
