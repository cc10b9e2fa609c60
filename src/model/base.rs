//! Bases in use: in one process each is held once, by folder and content, with the buffers of those who train on it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::decoder::Decoder;
use super::error::ModelError;
use super::trainable::{Buffers, Lendable};

/// Frozen weights, and buffers for training adapters on them. Dropped with its last user.
#[derive(Clone, Debug)]
pub struct Base {
    pub decoder: Arc<Decoder>,
    pub buffers: Buffers,
}

struct Open {
    dir: PathBuf,
    hash: String,
    quantized: bool,
    decoder: Weak<Decoder>,
    buffers: Weak<Lendable>,
}

static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

impl Open {
    fn is(&self, dir: &Path, hash: &str, quantized: bool) -> bool {
        self.dir == dir && self.hash == hash && self.quantized == quantized
    }
}

/// Those still in use.
fn open_now() -> MutexGuard<'static, Vec<Open>> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|base| base.decoder.strong_count() > 0);
    open
}

impl Base {
    /// The base in `dir` whose content is `hash`, its linear layers in NF4 if so wanted: the one in use, or loaded now.
    ///
    /// # Errors
    /// A folder that holds no model that can be read.
    pub fn open(dir: &Path, hash: &str, quantized: bool) -> Result<Self, ModelError> {
        let dir = dir.canonicalize().map_err(|e| ModelError::io(dir, e))?;
        // Held while loading, so that two who ask at once do not load twice.
        let mut open = open_now();
        if let Some(known) = open.iter_mut().find(|base| base.is(&dir, hash, quantized))
            && let Some(decoder) = known.decoder.upgrade()
        {
            let buffers = known.buffers.upgrade().map(Buffers::from).unwrap_or_default();
            buffers.join();
            known.buffers = buffers.downgrade();
            return Ok(Self { decoder, buffers });
        }
        let base = Self::load(&dir, quantized)?;
        let (decoder, buffers) = (Arc::downgrade(&base.decoder), base.buffers.downgrade());
        open.push(Open { dir, hash: hash.to_owned(), quantized, decoder, buffers });
        Ok(base)
    }

    /// A base of one's own.
    ///
    /// # Errors
    /// A folder that holds no model that can be read.
    pub fn load(dir: &Path, quantized: bool) -> Result<Self, ModelError> {
        let decoder = if quantized { Decoder::load_quantized(dir)? } else { Decoder::load(dir)? };
        Ok(Self { decoder: Arc::new(decoder), buffers: Buffers::default() })
    }

    /// Bytes of its weights, where somebody in this process holds them.
    pub fn held(dir: &Path, hash: &str, quantized: bool) -> Option<u64> {
        let dir = dir.canonicalize().ok()?;
        let open = open_now();
        let known = open.iter().find(|base| base.is(&dir, hash, quantized))?;
        Some(known.decoder.upgrade()?.bytes() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_loaded_once_and_dropped_with_its_last_user() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/mistral");
        let first = Base::open(&dir, "mine", false).unwrap();
        assert!(!first.buffers.joined());
        let second = Base::open(&dir.join("."), "mine", false).unwrap();
        assert!(Arc::ptr_eq(&first.decoder, &second.decoder) && first.buffers.joined());
        let other = Base::open(&dir, "other content", false).unwrap();
        assert!(!Arc::ptr_eq(&first.decoder, &other.decoder));
        let quantized = Base::open(&dir, "mine", true).unwrap();
        assert!(quantized.decoder.is_quantized() && !first.decoder.is_quantized());
        drop(first);
        assert_eq!(Base::held(&dir, "mine", false), Some(second.decoder.bytes() as u64));
        drop(second);
        assert_eq!(Base::held(&dir, "mine", false), None);
    }
}
