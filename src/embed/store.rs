//! Vectors by the text's content: `vectors/<embedder>/`, which resumes after a kill and embeds nothing twice.
//!
//! ```text
//! vectors.f16   the vectors, one behind the other ([`super::flat`])
//! keys          BLAKE3 of each one's text, 16 bytes, in the same order
//! header.json   their length
//! ```
//! A batch of vectors is on disk before its keys are written: what has a whole key has a vector. What a crash left behind the last whole key is
//! cut off before the next batch. Several may have it open, in this process and in others: a batch is written under a lock, behind what others
//! have written since, and [`Store::look`] finds that.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use half::f16;

use super::flat::Flat;
use crate::store::files::{self, Lock};

const KEY: usize = 16;
/// Version of the files; those of another one are thrown away.
const FORMAT: u32 = 2;
/// How long another's batch may take to be written. Who waited in vain keeps nothing.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) type Key = [u8; KEY];

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// None before the first vector.
    files: Option<Files>,
    /// Number of each text's vector.
    places: HashMap<Key, u32>,
    records: u64,
    /// The vectors as they were when one was last read.
    map: Option<Flat>,
}

#[derive(Debug)]
struct Files {
    dimensions: usize,
    vectors: File,
    keys: File,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    format: u32,
    dimensions: usize,
}

/// The vectors' length, as the folder's header has it.
fn said_of(dir: &Path) -> Option<usize> {
    let header: Header = serde_json::from_slice(&fs::read(dir.join("header.json")).ok()?).ok()?;
    (header.format == FORMAT && (1..=1 << 16).contains(&header.dimensions)).then_some(header.dimensions)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl Files {
    /// None where there are no vectors, or those of another version.
    fn open(dir: &Path) -> io::Result<Option<Self>> {
        let Some(dimensions) = said_of(dir) else { return Ok(None) };
        let open = |name: &str| OpenOptions::new().read(true).write(true).open(dir.join(name));
        match (open("vectors.f16"), open("keys")) {
            (Ok(vectors), Ok(keys)) => Ok(Some(Self { dimensions, vectors, keys })),
            (Err(e), _) | (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(None),
        }
    }

    /// Bytes of a vector.
    const fn size(&self) -> u64 {
        2 * self.dimensions as u64
    }

    /// They still stand in the folder.
    fn are_those_of(&self, dir: &Path) -> bool {
        let same = |file: &File, name: &str| {
            let there = fs::metadata(dir.join(name));
            matches!((file.metadata(), there), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
        };
        said_of(dir) == Some(self.dimensions)
            && same(&self.vectors, "vectors.f16")
            && same(&self.keys, "keys")
    }
}

impl Store {
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut store =
            Self { dir: dir.to_owned(), files: None, places: HashMap::new(), records: 0, map: None };
        store.look()?;
        Ok(store)
    }

    /// Find what others have written since.
    pub fn look(&mut self) -> io::Result<()> {
        if !self.files.as_ref().is_some_and(|files| files.are_those_of(&self.dir)) {
            (self.files, self.records, self.map) = (Files::open(&self.dir)?, 0, None);
            self.places.clear();
        }
        let Some(files) = &self.files else { return Ok(()) };
        let vectors = files.vectors.metadata()?.len() / files.size();
        let there = (files.keys.metadata()?.len() / KEY as u64).min(vectors).min(u64::from(u32::MAX));
        if there <= self.records {
            return Ok(());
        }
        let mut reader = io::BufReader::with_capacity(1 << 20, &files.keys);
        reader.seek(SeekFrom::Start(self.records * KEY as u64))?;
        let mut key = [0; KEY];
        self.places.reserve((there - self.records) as usize);
        for at in self.records as u32..there as u32 {
            reader.read_exact(&mut key)?;
            self.places.insert(key, at);
        }
        self.records = there;
        Ok(())
    }

    pub fn knows(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    pub fn get(&mut self, key: &Key) -> io::Result<Option<Vec<f32>>> {
        let (Some(&at), Some(files)) = (self.places.get(key), &self.files) else { return Ok(None) };
        if self.map.as_ref().is_none_or(|map| map.len() <= at as usize) {
            self.map = Some(Flat::first(&files.vectors, files.dimensions, self.records as usize)?);
        }
        let mut vector = vec![0.0; files.dimensions];
        if let Some(map) = &self.map {
            map.read(at as usize, &mut vector);
        }
        Ok(Some(vector))
    }

    /// Keep vectors, all of one length.
    pub fn append(&mut self, new: &[(Key, Vec<f32>)]) -> io::Result<()> {
        let Some((_, first)) = new.first() else { return Ok(()) };
        // It may have been cleared away.
        fs::create_dir_all(&self.dir)?;
        let Some(_lock) = Lock::take_within(&self.dir.join("lock"), "vectors", PATIENCE)? else {
            return Ok(());
        };
        self.look()?;
        if self.files.as_ref().is_none_or(|files| files.dimensions != first.len()) {
            self.begin(first.len())?;
        }
        let Some(files) = &mut self.files else { return Ok(()) };
        let size = files.size();
        let (mut bytes, mut keys) = (Vec::with_capacity(new.len() * size as usize), Vec::new());
        let fresh = new.iter().filter(|(key, v)| v.len() == first.len() && !self.places.contains_key(key));
        for (key, vector) in fresh {
            bytes.extend(vector.iter().flat_map(|x| f16::from_f32(*x).to_ne_bytes()));
            keys.extend_from_slice(key);
        }
        put(&mut files.vectors, self.records * size, &bytes)?;
        put(&mut files.keys, self.records * KEY as u64, &keys)?;
        for key in keys.as_chunks::<KEY>().0 {
            self.places.insert(*key, self.records as u32);
            self.records += 1;
        }
        Ok(())
    }

    /// Empty files: the first vector, or a model that changed behind its address, so that what was kept is another's. The old files are not
    /// cut, since somebody may be reading them.
    fn begin(&mut self, dimensions: usize) -> io::Result<()> {
        for name in ["header.json", "vectors.f16", "keys"] {
            match fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let (vectors, keys) = (open(&self.dir.join("vectors.f16"))?, open(&self.dir.join("keys"))?);
        files::write_json(&self.dir.join("header.json"), &Header { format: FORMAT, dimensions })?;
        (self.files, self.records, self.map) = (Some(Files { dimensions, vectors, keys }), 0, None);
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
    fn what_was_kept_is_found_by_whoever_has_it_open() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("e");
        let mut store = Store::open(&dir).unwrap();
        store.append(&[record(1), record(2)]).unwrap();
        assert_eq!(store.get(&[2; KEY]).unwrap(), Some(vec![2.0, 0.5, -0.25]));
        store.append(&[record(5)]).unwrap();
        assert_eq!(store.get(&[5; KEY]).unwrap(), Some(vec![5.0, 0.5, -0.25]));
        // Another one writes behind it, and finds what came in between; nothing stands there twice.
        let mut other = Store::open(&dir).unwrap();
        assert_eq!(other.get(&[1; KEY]).unwrap(), Some(vec![1.0, 0.5, -0.25]));
        store.append(&[record(7)]).unwrap();
        other.append(&[record(9), record(7)]).unwrap();
        assert_eq!(other.get(&[7; KEY]).unwrap(), Some(vec![7.0, 0.5, -0.25]));
        assert!(!store.knows(&[9; KEY]));
        store.look().unwrap();
        assert_eq!(store.get(&[9; KEY]).unwrap(), Some(vec![9.0, 0.5, -0.25]));
        assert_eq!(fs::read(dir.join("vectors.f16")).unwrap().len(), 5 * 6);
        // Vectors of another length are another model's, for everybody.
        let mut third = Store::open(&dir).unwrap();
        third.append(&[([4; KEY], vec![1.0])]).unwrap();
        store.look().unwrap();
        for store in [&mut store, &mut third] {
            assert_eq!(
                (store.get(&[2; KEY]).unwrap(), store.get(&[4; KEY]).unwrap()),
                (None, Some(vec![1.0]))
            );
        }
        // What was cleared away is kept anew.
        fs::remove_dir_all(&dir).unwrap();
        store.append(&[record(3)]).unwrap();
        assert_eq!(Store::open(&dir).unwrap().get(&[3; KEY]).unwrap(), Some(vec![3.0, 0.5, -0.25]));
        // Files of another version are no vectors.
        drop((store, other, third));
        fs::write(dir.join("header.json"), "{\"dimensions\": 1}").unwrap();
        assert!(!Store::open(&dir).unwrap().knows(&[3; KEY]));
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
