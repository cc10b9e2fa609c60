//! The rows of a strata run, read from `inputs/rows.jsonl` some at a time: a million of them are never in memory together.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rayon::prelude::*;

use crate::domain::row::RunRow;

/// Rows that are read together.
pub const AT_ONCE: usize = 4_096;

#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    file: File,
    /// Where each line ends.
    ends: Vec<u64>,
}

impl Rows {
    /// # Errors
    /// A file that cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || -> std::io::Result<Self> {
            let file = File::open(path)?;
            let mut reader = BufReader::with_capacity(1 << 20, &file);
            let (mut ends, mut at) = (Vec::new(), 0);
            loop {
                let (read, ended) = {
                    let some = reader.fill_buf()?;
                    match some.iter().position(|b| *b == b'\n') {
                        Some(end) => (end + 1, true),
                        None => (some.len(), false),
                    }
                };
                if read == 0 {
                    break;
                }
                reader.consume(read);
                at += read as u64;
                if ended {
                    ends.push(at);
                }
            }
            drop(reader);
            Ok(Self { path: path.to_owned(), file, ends })
        };
        open().with_context(|| format!("cannot read {}", path.display()))
    }

    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all lines.
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn start(&self, row: usize) -> u64 {
        row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }

    fn parse(&self, row: usize, line: &[u8]) -> anyhow::Result<RunRow> {
        serde_json::from_slice(line)
            .with_context(|| format!("{}:{}: is no row", self.path.display(), row + 1))
    }

    /// The rows from `from` on, at most `count`.
    ///
    /// # Errors
    /// A line that is no row.
    pub fn some(&self, from: usize, count: usize) -> anyhow::Result<Vec<RunRow>> {
        let to = (from + count).min(self.len());
        let start = self.start(from);
        let size = (self.start(to).max(start) - start) as usize;
        let mut bytes = vec![0; size];
        self.file
            .read_exact_at(&mut bytes, start)
            .with_context(|| format!("reading {}", self.path.display()))?;
        let at = |row: usize| (self.start(row) - start) as usize;
        (from..to)
            .into_par_iter()
            .map(|row| self.parse(row, bytes.get(at(row)..at(row + 1)).unwrap_or_default()))
            .collect()
    }

    /// The inputs at `places`.
    ///
    /// # Errors
    /// A line that is no row.
    pub fn inputs(&self, places: &[usize]) -> anyhow::Result<Vec<String>> {
        let read = |row: &usize| -> anyhow::Result<String> {
            Ok(self.some(*row, 1)?.pop().map_or_else(String::new, |row| row.input))
        };
        places.par_iter().map(read).collect()
    }

    /// All inputs, some at a time with the place of the first. `each` returns false to end early.
    ///
    /// # Errors
    /// A line that is no row, or what `each` says.
    pub fn each(
        &self,
        mut each: impl FnMut(usize, Vec<RunRow>) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        for from in (0..self.len()).step_by(AT_ONCE) {
            if !each(from, self.some(from, AT_ONCE)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, input: &str) -> String {
        let row = serde_json::json!({ "id": id, "hash": "h", "part": null, "fields": {}, "input": input });
        format!("{row}\n")
    }

    #[test]
    fn rows_come_in_order_whatever_is_read_together() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("rows.jsonl");
        let text: String = (0..AT_ONCE + 10).map(|i| line(&format!("r{i}"), &"x".repeat(i % 50))).collect();
        std::fs::write(&path, &text).unwrap();
        let rows = Rows::open(&path).unwrap();
        assert_eq!((rows.len(), rows.bytes()), (AT_ONCE + 10, text.len() as u64));
        let mut ids = Vec::new();
        let mut starts = Vec::new();
        rows.each(|from, some| {
            starts.push(from);
            ids.extend(some.into_iter().map(|row| row.id));
            Ok(true)
        })
        .unwrap();
        assert_eq!(starts, [0, AT_ONCE]);
        assert!(ids.iter().enumerate().all(|(i, id)| *id == format!("r{i}")));
        assert_eq!(rows.inputs(&[49, 0, 3]).unwrap(), ["x".repeat(49), String::new(), "xxx".into()]);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("rows.jsonl");
        std::fs::write(&path, line("a", "b") + "nonsense\n").unwrap();
        let said = format!("{:#}", Rows::open(&path).unwrap().some(0, 9).unwrap_err());
        assert!(said.contains("rows.jsonl:2: is no row"), "{said}");
        std::fs::write(&path, "").unwrap();
        assert!(Rows::open(&path).unwrap().is_empty());
    }
}
