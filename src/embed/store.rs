//! Vectors by the text's content: `vectors/<embedder>/`, which resumes after a kill and embeds nothing twice.
//!
//! ```text
//! vectors.f16   the vectors, one behind the other ([`super::flat`])
//! keys          BLAKE3 of each one's text, 16 bytes, in the same order
//! header.json   their length
//! ```
//! A batch of vectors is on disk before its keys are written: what has a whole key has a vector. What a crash left behind the last whole key is
//! cut off before the next batch. Who cannot have the lock reads.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use half::f16;

use super::flat::Flat;
use crate::store::files::{self, Lock};

const KEY: usize = 16;
/// Version of the files; those of another one are thrown away.
const FORMAT: u32 = 2;

pub(super) type Key = [u8; KEY];

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    vectors: File,
    keys: File,
    /// None before the first vector.
    dimensions: Option<usize>,
    /// Number of each text's vector.
    places: HashMap<Key, u32>,
    records: u64,
    /// The vectors as they were when one was last read.
    map: Option<Flat>,
    lock: Option<Lock>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    format: u32,
    dimensions: usize,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl Store {
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = Lock::try_take(&dir.join("lock"), "vectors")?;
        let header = fs::read(dir.join("header.json")).ok();
        let header: Option<Header> = header.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let header = header.filter(|h| h.format == FORMAT && (1..=1 << 16).contains(&h.dimensions));
        let mut store = Self {
            dir: dir.to_owned(),
            vectors: open(&dir.join("vectors.f16"))?,
            keys: open(&dir.join("keys"))?,
            dimensions: header.map(|h| h.dimensions),
            places: HashMap::new(),
            records: 0,
            map: None,
            lock,
        };
        store.read_keys()?;
        Ok(store)
    }

    fn read_keys(&mut self) -> io::Result<()> {
        let Some(size) = self.size() else { return Ok(()) };
        let vectors = self.vectors.metadata()?.len() / size;
        self.records = (self.keys.metadata()?.len() / KEY as u64).min(vectors).min(u64::from(u32::MAX));
        let mut reader = io::BufReader::with_capacity(1 << 20, &self.keys);
        reader.seek(SeekFrom::Start(0))?;
        let mut key = [0; KEY];
        self.places.reserve(self.records as usize);
        for at in 0..self.records as u32 {
            reader.read_exact(&mut key)?;
            self.places.insert(key, at);
        }
        Ok(())
    }

    /// Bytes of a vector.
    fn size(&self) -> Option<u64> {
        self.dimensions.map(|n| 2 * n as u64)
    }

    pub fn knows(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    pub fn get(&mut self, key: &Key) -> io::Result<Option<Vec<f32>>> {
        let (Some(&at), Some(dimensions)) = (self.places.get(key), self.dimensions) else { return Ok(None) };
        if self.map.as_ref().is_none_or(|map| map.len() <= at as usize) {
            self.map = Some(Flat::first(&self.vectors, dimensions, self.records as usize)?);
        }
        let mut vector = vec![0.0; dimensions];
        if let Some(map) = &self.map {
            map.read(at as usize, &mut vector);
        }
        Ok(Some(vector))
    }

    /// Keep vectors, all of one length. Where another process keeps them, nothing is written.
    pub fn append(&mut self, new: &[(Key, Vec<f32>)]) -> io::Result<()> {
        let Some((_, first)) = new.first().filter(|_| self.lock.is_some()) else { return Ok(()) };
        if self.dimensions != Some(first.len()) {
            self.begin(first.len())?;
        }
        let Some(size) = self.size() else { return Ok(()) };
        let (mut bytes, mut keys) = (Vec::with_capacity(new.len() * size as usize), Vec::new());
        for (key, vector) in new.iter().filter(|(_, vector)| vector.len() == first.len()) {
            bytes.extend(vector.iter().flat_map(|x| f16::from_f32(*x).to_ne_bytes()));
            keys.extend_from_slice(key);
        }
        put(&mut self.vectors, self.records * size, &bytes)?;
        put(&mut self.keys, self.records * KEY as u64, &keys)?;
        for key in keys.as_chunks::<KEY>().0 {
            self.places.insert(*key, self.records as u32);
            self.records += 1;
        }
        Ok(())
    }

    /// Empty files: the first vector, or a model that changed behind its address, so that what was kept is another's. The old files are not
    /// cut, since somebody may be reading them.
    fn begin(&mut self, dimensions: usize) -> io::Result<()> {
        let header = self.dir.join("header.json");
        if header.exists() {
            fs::remove_file(&header)?;
        }
        for name in ["vectors.f16", "keys"] {
            let path = self.dir.join(name);
            if fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
                fs::remove_file(&path)?;
            }
        }
        (self.vectors, self.keys) = (open(&self.dir.join("vectors.f16"))?, open(&self.dir.join("keys"))?);
        files::write_json(&header, &Header { format: FORMAT, dimensions })?;
        (self.dimensions, self.records, self.map) = (Some(dimensions), 0, None);
        self.places.clear();
        Ok(())
    }
}

/// What stands behind `start` was torn.
fn put(file: &mut File, start: u64, bytes: &[u8]) -> io::Result<()> {
    if file.metadata()?.len() != start {
        file.set_len(start)?;
    }
    file.seek(SeekFrom::Start(start))?;
    file.write_all(bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(k: u8) -> (Key, Vec<f32>) {
        ([k; KEY], vec![f32::from(k), 0.5, -0.25])
    }

    #[test]
    fn what_was_kept_is_found_and_another_process_only_reads() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("e");
        let mut store = Store::open(&dir).unwrap();
        store.append(&[record(1), record(2)]).unwrap();
        assert_eq!(store.get(&[2; KEY]).unwrap(), Some(vec![2.0, 0.5, -0.25]));
        store.append(&[record(5)]).unwrap();
        assert_eq!(store.get(&[5; KEY]).unwrap(), Some(vec![5.0, 0.5, -0.25]));
        let mut other = Store::open(&dir).unwrap();
        assert_eq!(other.get(&[1; KEY]).unwrap(), Some(vec![1.0, 0.5, -0.25]));
        other.append(&[record(9)]).unwrap();
        assert!(!other.knows(&[9; KEY]));
        drop((store, other));
        assert_eq!(fs::read(dir.join("vectors.f16")).unwrap().len(), 3 * 6);
        // Vectors of another length are another model's.
        let mut store = Store::open(&dir).unwrap();
        store.append(&[([4; KEY], vec![1.0])]).unwrap();
        assert_eq!((store.get(&[2; KEY]).unwrap(), store.get(&[4; KEY]).unwrap()), (None, Some(vec![1.0])));
        // Files of another version are no vectors.
        drop(store);
        fs::write(dir.join("header.json"), "{\"dimensions\": 1}").unwrap();
        assert!(!Store::open(&dir).unwrap().knows(&[4; KEY]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// A kill may leave any length of either file behind the last batch that was acknowledged.
        #[test]
        fn wherever_a_batch_is_torn_what_came_before_is_whole(torn_vectors in 0..19u64, torn_keys in 0..49u64) {
            let temp = tempfile::tempdir().unwrap();
            let mut store = Store::open(temp.path()).unwrap();
            store.append(&[record(1), record(2)]).unwrap();
            store.append(&[record(3), record(4), record(5)]).unwrap();
            drop(store);
            let cut = |name: &str, to: u64| {
                OpenOptions::new().write(true).open(temp.path().join(name)).unwrap().set_len(to).unwrap();
            };
            cut("vectors.f16", 12 + torn_vectors.min(18));
            cut("keys", 32 + torn_keys.min(48));
            let mut store = Store::open(temp.path()).unwrap();
            let whole = 2 + (torn_vectors / 6).min(torn_keys / 16);
            for k in 1..=5_u8 {
                let wanted = (u64::from(k) <= whole).then(|| record(k).1);
                prop_assert_eq!(store.get(&[k; KEY]).unwrap(), wanted);
            }
            store.append(&[record(7)]).unwrap();
            drop(store);
            let mut store = Store::open(temp.path()).unwrap();
            prop_assert_eq!(store.get(&[7; KEY]).unwrap(), Some(record(7).1));
            prop_assert_eq!(store.get(&[2; KEY]).unwrap(), Some(record(2).1));
            prop_assert_eq!(store.records, whole + 1);
        }
    }
}
