//! A quick look at a data file, without an index: how many rows, and a sample of them.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use super::format::{self, Format};
use super::guess::{SAMPLE_ROW_BYTES, Sample};
use super::scan::scan;
use super::{DataError, parquet, parse};
use crate::domain::row::Quarantined;
use crate::domain::words::counted;

/// Sampled bad rows that are described.
const SHOWN: usize = 5;
/// A look at parquet ends after as many rows: they must be decoded one after the other.
const PARQUET_ROWS: u64 = 2000;

/// What was seen.
#[derive(Debug)]
pub struct Survey {
    pub format: Format,
    /// Rows as far as their ends can be told; the bad ones among them are counted too.
    pub rows: u64,
    pub sample: Sample,
    /// Of the sampled rows; the first few.
    pub bad: Vec<Quarantined>,
    pub bad_total: usize,
    /// A table with names of its columns.
    pub header: bool,
}

/// Streams through the file and parses a sample of its rows. `shown` is what the file is called in errors.
pub fn survey(path: &Path, shown: &str) -> Result<Survey, DataError> {
    let layout = format::detect(path, shown)?;
    let mut survey = Survey {
        format: layout.format,
        rows: 0,
        sample: Sample::default(),
        bad: Vec::new(),
        bad_total: 0,
        header: !layout.columns.is_empty(),
    };
    if layout.format == Format::Parquet {
        survey.rows = parquet::rows(path, shown)?;
        let mut seen = 0;
        parquet::each_line(path, shown, &mut |line| {
            seen += 1;
            survey.take(shown, seen, line, &layout);
            Ok(seen < PARQUET_ROWS)
        })?;
        return Ok(survey);
    }
    let mut file = File::open(path).map_err(DataError::io("cannot read", path))?;
    scan(&mut file, &layout, path, &mut |batch| {
        for span in batch.rows.iter() {
            survey.rows += 1;
            match &span.fault {
                Some(reason) => survey.quarantine(shown, span.line, reason.clone()),
                None => {
                    let bytes = batch.bytes.get(span.start..span.end).unwrap_or_default();
                    survey.take(shown, span.line, bytes, &layout);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(survey)
}

impl Survey {
    /// Why there is no row in the sample.
    pub fn no_row(&self) -> String {
        match self.bad_total {
            0 if self.rows > 0 => {
                format!("{}, none of them short enough to be looked at", counted(self.rows as usize, "row"))
            }
            0 if self.header => "0 rows: the file has a header and no rows".into(),
            0 => "0 rows: the file has none".into(),
            n => format!("no usable row: {}", counted(n, "bad one")),
        }
    }

    fn take(&mut self, shown: &str, line: u64, bytes: &[u8], layout: &format::Layout) {
        if bytes.len() > SAMPLE_ROW_BYTES {
            return;
        }
        let Some(place) = self.sample.choose() else { return };
        match parse::fields(layout, bytes) {
            Ok(fields) => self.sample.put(place, fields),
            Err(reason) => self.quarantine(shown, line, reason),
        }
    }

    fn quarantine(&mut self, shown: &str, line: u64, reason: String) {
        self.bad_total += 1;
        if self.bad.len() < SHOWN {
            self.bad.push(Quarantined { file: shown.to_owned(), line, reason });
        }
    }
}
