//! Vectors on disk: `vectors/<embedder>/vectors.f16`, records of a text's hash (16 bytes) and its vector (f16), one behind the other.
//!
//! A record that a crash cut short is no record, and is cut off before the next is appended. Who cannot have the lock reads.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use half::f16;

use crate::store::files::{self, Lock};

const KEY: usize = 16;

#[derive(Debug)]
pub(super) struct Store {
    dir: std::path::PathBuf,
    file: File,
    /// None before the first vector.
    dimensions: Option<usize>,
    /// Number of each text's record.
    places: HashMap<[u8; KEY], u64>,
    records: u64,
    lock: Option<Lock>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    dimensions: usize,
}

impl Store {
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = Lock::try_take(&dir.join("lock"), "vectors")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("vectors.f16"))?;
        let header = fs::read(dir.join("header.json")).ok();
        let header: Option<Header> = header.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let dimensions = header.map(|h| h.dimensions).filter(|n| (1..=1 << 16).contains(n));
        let mut store =
            Self { dir: dir.to_owned(), file, dimensions, places: HashMap::new(), records: 0, lock };
        store.read_keys()?;
        Ok(store)
    }

    fn read_keys(&mut self) -> io::Result<()> {
        let Some(size) = self.size() else { return Ok(()) };
        self.records = self.file.metadata()?.len() / size;
        let mut reader = io::BufReader::with_capacity(1 << 20, &self.file);
        reader.seek(SeekFrom::Start(0))?;
        let mut record = vec![0; size as usize];
        for at in 0..self.records {
            reader.read_exact(&mut record)?;
            if let Some(key) = record.first_chunk::<KEY>() {
                self.places.insert(*key, at);
            }
        }
        Ok(())
    }

    /// Bytes of a record.
    fn size(&self) -> Option<u64> {
        self.dimensions.map(|n| (KEY + 2 * n) as u64)
    }

    pub fn get(&self, key: &[u8; KEY]) -> io::Result<Option<Vec<f32>>> {
        let (Some(at), Some(size)) = (self.places.get(key), self.size()) else { return Ok(None) };
        let mut bytes = vec![0; size as usize - KEY];
        self.file.read_exact_at(&mut bytes, at * size + KEY as u64)?;
        let (pairs, _) = bytes.as_chunks::<2>();
        Ok(Some(pairs.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()).collect()))
    }

    /// Keep vectors, all of one length. Where another process keeps them, nothing is written.
    pub fn append(&mut self, new: &[([u8; KEY], Vec<f32>)]) -> io::Result<()> {
        let Some((_, first)) = new.first().filter(|_| self.lock.is_some()) else { return Ok(()) };
        if self.dimensions != Some(first.len()) {
            // The first, or a model that changed behind its address: what was kept is another's.
            self.file.set_len(0)?;
            files::write_json(&self.dir.join("header.json"), &Header { dimensions: first.len() })?;
            (self.dimensions, self.records) = (Some(first.len()), 0);
            self.places.clear();
        }
        let Some(size) = self.size() else { return Ok(()) };
        let mut bytes = Vec::with_capacity(new.len() * size as usize);
        for (key, vector) in new.iter().filter(|(_, vector)| vector.len() == first.len()) {
            bytes.extend_from_slice(key);
            bytes.extend(vector.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
            self.places.insert(*key, self.records + (bytes.len() as u64 / size) - 1);
        }
        let start = self.records * size;
        self.file.set_len(start)?;
        self.file.seek(SeekFrom::Start(start))?;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.records += bytes.len() as u64 / size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_and_a_torn_record_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("e");
        let record = |k: u8| ([k; KEY], vec![f32::from(k), 0.5, -0.25]);
        let mut store = Store::open(&dir).unwrap();
        store.append(&[record(1), record(2)]).unwrap();
        assert_eq!(store.get(&[2; KEY]).unwrap(), Some(vec![2.0, 0.5, -0.25]));
        // Another process at the same time reads, and writes nothing.
        let mut other = Store::open(&dir).unwrap();
        assert_eq!(other.get(&[1; KEY]).unwrap(), Some(vec![1.0, 0.5, -0.25]));
        other.append(&[record(9)]).unwrap();
        drop((store, other));

        let path = dir.join("vectors.f16");
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len(), 2 * (KEY + 6));
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut store = Store::open(&dir).unwrap();
        assert_eq!((store.get(&[1; KEY]).unwrap().is_some(), store.get(&[2; KEY]).unwrap()), (true, None));
        store.append(&[record(3)]).unwrap();
        drop(store);
        let mut store = Store::open(&dir).unwrap();
        assert_eq!(store.get(&[3; KEY]).unwrap(), Some(vec![3.0, 0.5, -0.25]));
        // Vectors of another length are another model's.
        store.append(&[([4; KEY], vec![1.0])]).unwrap();
        assert_eq!((store.get(&[3; KEY]).unwrap(), store.get(&[4; KEY]).unwrap()), (None, Some(vec![1.0])));
    }
}
