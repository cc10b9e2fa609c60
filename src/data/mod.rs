//! Data: formats, shapes, the row index by offset, import, quarantine.
//!
//! A source file is indexed once (`import`): where each row stands, its content hash, its id. Rows are then read from
//! the file by offset (`Dataset`), so that a million rows open at once. A bad row is quarantined with file, line and
//! reason; the rest still loads.

mod bits;
pub mod canonical;
mod columns;
mod dataset;
mod digest;
pub mod feedback;
pub mod format;
mod guess;
mod hash_many;
mod ids;
mod import;
mod index;
pub mod language;
pub mod outcomes;
mod parquet;
mod parse;
mod resolve;
mod scan;
pub mod sets;
mod shape;
mod split;
mod survey;
mod write;

use std::path::PathBuf;

pub use bits::Bits;
pub use columns::{Column, Of, making};
pub use dataset::Dataset;
pub use guess::{Guess, Sample, guess, template_of};
pub use import::import;
pub use parse::{clean, clean_line};
pub use resolve::{Resolver, field, fields_of, unknown_fields};
pub use shape::Shape;
pub use survey::{Survey, survey};
pub use write::{RowWriter, Written};

/// Longest row, in bytes as it stands in the file.
pub const MAX_ROW: usize = 4 << 20;

/// Why data cannot be imported or read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is no index yet.
    #[error("the data has not been imported; run `tunebench data import`")]
    NotImported,
    /// The sources are not those that were indexed.
    #[error("{file} has changed since it was imported; run `tunebench data import`")]
    Stale { file: String },
    /// The index cannot be trusted.
    #[error("the index {file} is damaged ({reason}); run `tunebench data import` to rebuild it")]
    Damaged { file: String, reason: String },
    /// Wrong input: a file, a template, a field.
    #[error("{file}: {message}")]
    Input { file: String, message: String },
    /// A row that cannot be rendered.
    #[error("row {row} ({file}:{line}): {message}")]
    Row { row: String, file: String, line: u64, message: String },
    #[error("no row {0}")]
    NoRow(usize),
    #[error("{what} {}: {error}", path.display())]
    Io { what: &'static str, path: PathBuf, error: std::io::Error },
}

impl DataError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, error }
    }

    fn input(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Input { file: file.into(), message: message.into() }
    }

    /// 2 for bad input, 1 for work that failed.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } => 1,
            _ => 2,
        }
    }
}

#[cfg(test)]
mod tests;
