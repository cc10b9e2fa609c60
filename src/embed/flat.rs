//! Vectors in a flat file of f16, one behind the other: written in order, read through a memory map.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use memmap2::Mmap;

use super::Vectors;

/// `n` vectors of `dimensions` f16: `2 n dimensions` bytes, of which only those in use take memory that cannot be given back.
#[derive(Debug)]
pub struct Flat {
    map: Option<Mmap>,
    dimensions: usize,
}

impl Flat {
    /// # Errors
    /// A file that cannot be read, or is no whole number of vectors.
    pub fn open(path: &Path, dimensions: usize) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let record = 2 * dimensions as u64;
        if record == 0 || !size.is_multiple_of(record) {
            let why = format!(
                "{}: {size} bytes are no whole number of vectors of {dimensions} f16",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        // SAFETY: files of vectors are written under another name and renamed, or only appended to, and never cut while they are read.
        let map = if size > 0 { Some(unsafe { Mmap::map(&file)? }) } else { None };
        Ok(Self { map, dimensions })
    }

    pub fn len(&self) -> usize {
        self.halves().len() / self.dimensions
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    pub const fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn halves(&self) -> &[f16] {
        let bytes: &[u8] = self.map.as_deref().unwrap_or_default();
        // SAFETY: every pattern of two bytes is an f16; a map begins at a page, so that nothing is left over at its head.
        let (_, halves, _) = unsafe { bytes.align_to::<f16>() };
        halves
    }

    /// The vectors from `from` on, as many as `out` has room for.
    ///
    /// # Panics
    /// Vectors that are not there.
    pub fn read(&self, from: usize, out: &mut [f32]) {
        let start = from * self.dimensions;
        self.halves()[start..start + out.len()].convert_to_f32_slice(out);
    }

    /// The vectors at `places`, in that order.
    ///
    /// # Panics
    /// A place beyond the last.
    pub fn select(&self, places: &[usize]) -> Vectors {
        let mut data = vec![0.0; places.len() * self.dimensions];
        for (out, &at) in data.chunks_exact_mut(self.dimensions).zip(places) {
            self.read(at, out);
        }
        Vectors { dimensions: self.dimensions, data }
    }
}

/// Writes a [`Flat`]; it appears when it is finished.
#[derive(Debug)]
pub struct FlatWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
}

impl FlatWriter {
    pub fn create(path: &Path) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        let file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        Ok(Self { path: path.to_owned(), temporary, file })
    }

    pub fn append(&mut self, values: &[f32]) -> io::Result<()> {
        let mut halves = [f16::ZERO; 1024];
        for some in values.chunks(halves.len()) {
            let halves = &mut halves[..some.len()];
            halves.convert_from_f32_slice(some);
            for half in halves {
                self.file.write_all(&half.to_ne_bytes())?;
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_as_f16_and_a_torn_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("v.f16");
        let mut writer = FlatWriter::create(&path).unwrap();
        let data: Vec<f32> = (0..3000).map(|i| i as f32 / 4096.0).collect();
        writer.append(&data[..1500]).unwrap();
        writer.append(&data[1500..]).unwrap();
        assert!(!path.exists());
        writer.finish().unwrap();
        let flat = Flat::open(&path, 3).unwrap();
        assert_eq!((flat.len(), flat.dimensions()), (1000, 3));
        let some = flat.select(&[999, 0]);
        assert!(some.row(0).iter().zip(&data[2997..]).all(|(a, b)| (a - b).abs() < 1e-3));
        assert_eq!(some.row(1)[0], 0.0);
        assert!(Flat::open(&path, 7).unwrap_err().to_string().contains("whole number"));
        FlatWriter::create(&path).unwrap().finish().unwrap();
        assert_eq!(Flat::open(&path, 3).unwrap().len(), 0);
    }
}
