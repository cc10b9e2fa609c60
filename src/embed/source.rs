//! Models that embed: an encoder's folder, or an endpoint. What was embedded once is kept on disk, by the model's content and the text's.

use std::collections::HashMap;
use std::path::Path;

use super::Vectors;
use super::store::Store;
use crate::backend::{Access, Endpoint};
use crate::domain::candidate::{ModelRef, ModelSource};
use crate::model::encoder::{Encoder, Pooling};
use crate::ops::Par;

/// Texts that are embedded before they are kept.
const BATCH: usize = 256;
/// Texts that an encoder gets at once: their activations should stay in the caches.
const AT_ONCE: usize = 8;

enum Model {
    Encoder(Box<Encoder>),
    Endpoint(Box<Endpoint>),
}

/// Who embeds.
pub struct Source {
    name: String,
    model: Model,
    /// `vectors/<hash>`; none: nothing is kept.
    store: Option<Store>,
    threads: usize,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    /// # Errors
    /// A folder that is no encoder's, an endpoint that cannot be asked, a store that cannot be read: in words.
    pub fn open(model: &ModelRef, access: &Access) -> Result<Self, String> {
        let folder = access.cache.as_ref().and_then(|place| place.vectors());
        let (opened, pooling) = match &model.source {
            ModelSource::Local { path } => {
                let encoder = Encoder::load(Path::new(path))
                    .map_err(|e| format!("the embedder `{}`: {e}", model.name))?;
                let pooling = match encoder.pooling() {
                    Pooling::Mean => "-mean",
                    Pooling::Cls => "-cls",
                };
                (Model::Encoder(Box::new(encoder)), pooling)
            }
            ModelSource::Endpoint { .. } => (
                Model::Endpoint(Box::new(Endpoint::open(model, &access.keys).map_err(|e| e.to_string())?)),
                "",
            ),
        };
        let name = format!("{}{pooling}", model.hash.get(..32).unwrap_or(&model.hash));
        let store = folder.map(|dir| Store::open(&dir.join(name))).transpose();
        let store = store.map_err(|e| format!("the vectors of `{}` cannot be kept: {e}", model.name))?;
        Ok(Self { name: model.name.clone(), model: opened, store, threads: access.threads })
    }

    /// The text was embedded before, and its vector is kept.
    pub fn knows(&self, text: &str) -> bool {
        self.store.as_ref().is_some_and(|store| store.knows(&key(text)))
    }

    /// What was embedded once is found again.
    pub const fn keeps(&self) -> bool {
        self.store.is_some()
    }

    /// One vector of length 1 for each text, in their order. `each` hears how many are done; it returns false to end early, which gives none.
    ///
    /// # Errors
    /// Why the model could not embed, in words.
    pub fn embed(
        &mut self,
        texts: &[&str],
        each: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vectors>, String> {
        let keys: Vec<[u8; 16]> = texts.iter().map(|text| key(text)).collect();
        let mut found: HashMap<[u8; 16], Vec<f32>> = HashMap::new();
        if let Some(store) = &mut self.store {
            for key in &keys {
                if !found.contains_key(key)
                    && let Some(vector) = store.get(key).map_err(|e| broken(&self.name, &e))?
                {
                    found.insert(*key, vector);
                }
            }
        }
        let mut open: Vec<usize> = Vec::new();
        let mut asked = std::collections::HashSet::new();
        for (at, key) in keys.iter().enumerate() {
            if !found.contains_key(key) && asked.insert(*key) {
                open.push(at);
            }
        }
        let mut done = texts.len() - open.len();
        for some in open.chunks(BATCH) {
            if !each(done) {
                return Ok(None);
            }
            let batch: Vec<&str> = some.iter().filter_map(|at| texts.get(*at).copied()).collect();
            let vectors = self.work(&batch)?;
            let new: Vec<([u8; 16], Vec<f32>)> =
                some.iter().filter_map(|at| keys.get(*at).copied()).zip(vectors).collect();
            if let Some(store) = &mut self.store {
                let kept = store.append(&new);
                kept.map_err(|e| broken(&self.name, &e))?;
            }
            found.extend(new);
            done += some.len();
        }
        each(done);
        let dimensions = found.values().next().map_or(1, Vec::len);
        if found.values().any(|vector| vector.len() != dimensions) {
            return Err(format!("the embedder `{}` gave vectors of different lengths", self.name));
        }
        let data = keys.iter().filter_map(|key| found.get(key)).flatten().copied().collect();
        Ok(Some(Vectors { dimensions, data }))
    }

    fn work(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        use rayon::prelude::*;
        match &self.model {
            Model::Encoder(encoder) => {
                let embed = |texts: &[&str]| {
                    let all = encoder.embed(texts, Par::threads(1)).map_err(|e| e.to_string())?;
                    Ok(all.chunks(encoder.dimensions()).map(<[f32]>::to_vec).collect::<Vec<_>>())
                };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.max(1)).build();
                let pool = pool.map_err(|e| e.to_string())?;
                let found: Result<Vec<_>, String> =
                    pool.install(|| texts.par_chunks(AT_ONCE).map(embed).collect());
                found.map(|found| found.concat())
            }
            Model::Endpoint(endpoint) => {
                let mut found = endpoint.embeddings(texts).map_err(|e| e.to_string())?;
                for vector in &mut found {
                    let norm = super::dot(vector, vector).sqrt();
                    if norm > 0.0 {
                        for x in vector {
                            *x /= norm;
                        }
                    }
                }
                Ok(found)
            }
        }
    }
}

fn broken(name: &str, error: &std::io::Error) -> String {
    format!("the vectors of `{name}` cannot be kept: {error}")
}

fn key(text: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::Limits;
    use crate::domain::settings::CachePlace;

    #[test]
    fn an_encoder_embeds_what_changed_and_finds_the_rest() {
        let temp = tempfile::tempdir().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
        let model = ModelRef {
            name: "mini".into(),
            source: ModelSource::Local { path: path.display().to_string() },
            hash: "0123456789abcdef0123456789abcdef00".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        };
        let access = Access {
            cache: Some(CachePlace { dir: CachePlace::folder(temp.path()), limit: 1 << 20 }),
            ..Access::threads(2)
        };
        let mut told = Vec::new();
        let mut source = Source::open(&model, &access).unwrap();
        let first = source.embed(&["where is my card", "refund", "refund"], &mut |n| {
            told.push(n);
            true
        });
        let first = first.unwrap().unwrap();
        assert_eq!((first.len(), first.row(1)), (3, first.row(2)));
        assert_eq!(told, [1, 3], "the same text is embedded once");
        assert!(first.rows().all(|row| (super::super::dot(row, row) - 1.0).abs() < 1e-3));
        drop(source);

        let mut source = Source::open(&model, &access).unwrap();
        told.clear();
        let again = source.embed(&["refund", "the app", "where is my card"], &mut |n| {
            told.push(n);
            true
        });
        let again = again.unwrap().unwrap();
        assert_eq!(told, [2, 3]);
        for (a, b) in again.row(0).iter().zip(first.row(1)).chain(again.row(2).iter().zip(first.row(0))) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        assert!(source.embed(&["another"], &mut |_| false).unwrap().is_none());

        let none =
            ModelRef { source: ModelSource::Local { path: temp.path().display().to_string() }, ..model };
        assert!(Source::open(&none, &access).unwrap_err().contains("mini"));
    }
}
