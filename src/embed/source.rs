//! Who embeds: the built-in embedder, an encoder's folder, a language model's, or an endpoint. What a model embedded once is kept on disk, by the model's content
//! and the text's.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::f16;

use super::store::{Key, Store};
use super::{Embedder, Vectors};
use crate::backend::{Access, Endpoint};
use crate::domain::candidate::{ModelRef, ModelSource};
use crate::domain::settings::BUILTIN;
use crate::model::encoder::Encoder;
use crate::model::mean_state::MeanState;
use crate::model::sentence::{Pooling, Sentence, to_length_one};
use crate::ops::Par;

/// Texts that are embedded before they are kept.
const BATCH: usize = 256;
/// Texts that an encoder gets at once: their activations should stay in the caches.
const AT_ONCE: usize = 8;
/// Numbers of the vectors that are remembered where no file keeps them: 32 MiB.
const REMEMBERED: usize = 1 << 23;

enum Model {
    Builtin(Box<Embedder>),
    Encoder(Box<Encoder>),
    MeanState(Box<MeanState>),
    Endpoint(Box<Endpoint>),
}

/// Vectors that were made.
#[derive(Debug, Default)]
struct Kept {
    /// `vectors/<hash>`; none: nothing is kept on disk.
    store: Option<Store>,
    /// Those that it does not keep.
    recent: HashMap<Key, Vec<f32>>,
}

impl Kept {
    /// Those of `keys` that are kept.
    fn find(&mut self, keys: &[Key], found: &mut HashMap<Key, Vec<f32>>) -> io::Result<()> {
        for key in keys {
            if found.contains_key(key) {
                continue;
            }
            let on_disk = match &mut self.store {
                Some(store) => store.get(key)?,
                None => None,
            };
            if let Some(vector) = on_disk.or_else(|| self.recent.get(key).cloned()) {
                found.insert(*key, vector);
            }
        }
        Ok(())
    }

    fn put(&mut self, new: &[(Key, Vec<f32>)]) -> io::Result<()> {
        if let Some(store) = &mut self.store {
            store.append(new)?;
        }
        for (key, vector) in new {
            if self.store.as_ref().is_some_and(|store| store.knows(key)) {
                continue;
            }
            if (self.recent.len() + 1) * vector.len() > REMEMBERED {
                self.recent.clear();
            }
            self.recent.insert(*key, vector.clone());
        }
        Ok(())
    }
}

/// How far an embedding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many texts are done.
    Done(usize),
    /// Nothing has come for a moment: a server is waited for.
    Waiting,
}

impl Step {
    /// With so many done before.
    pub const fn behind(self, before: usize) -> Self {
        match self {
            Self::Done(n) => Self::Done(before + n),
            Self::Waiting => Self::Waiting,
        }
    }
}

/// Who embeds.
pub struct Source {
    name: String,
    model: Model,
    kept: Mutex<Kept>,
    threads: usize,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl From<Embedder> for Source {
    fn from(embedder: Embedder) -> Self {
        let model = Model::Builtin(Box::new(embedder));
        Self { name: BUILTIN.into(), model, kept: Mutex::default(), threads: 1 }
    }
}

impl Source {
    /// A model of the workspace.
    ///
    /// # Errors
    /// A folder that is no encoder's, an endpoint that cannot be asked, a store that cannot be read: in words, with the model's name.
    pub fn open(model: &ModelRef, access: &Access) -> Result<Self, String> {
        let folder = access.cache.as_ref().and_then(|place| place.vectors());
        let failed = |why: String| format!("the embedder `{}`: {why}", model.name);
        let (opened, variant) = match &model.source {
            ModelSource::Local { path } => {
                let dir = Path::new(path);
                // What is no language model is said to be no encoder, by its file.
                if MeanState::is_one(dir) {
                    let model = MeanState::open(dir, &model.hash).map_err(|e| failed(e.to_string()))?;
                    let variant = format!("-state{}", variant(model.sentence()));
                    (Model::MeanState(Box::new(model)), variant)
                } else {
                    let encoder = Encoder::load(dir).map_err(|e| failed(e.to_string()))?;
                    let variant = variant(encoder.sentence());
                    (Model::Encoder(Box::new(encoder)), variant)
                }
            }
            ModelSource::Endpoint { .. } => {
                let endpoint = Endpoint::open(model, &access.keys).map_err(|e| failed(e.to_string()))?;
                (Model::Endpoint(Box::new(endpoint)), String::new())
            }
        };
        let name = format!("{}{variant}", model.hash.get(..32).unwrap_or(&model.hash));
        let store = folder.map(|dir| Store::open(&dir.join(name))).transpose();
        let store = store.map_err(|e| broken(&model.name, &e))?;
        let kept = Mutex::new(Kept { store, ..Kept::default() });
        Ok(Self { name: model.name.clone(), model: opened, kept, threads: access.threads })
    }

    /// As `workspace.toml` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The built-in embedder.
    pub const fn builtin(&self) -> Option<&Embedder> {
        match &self.model {
            Model::Builtin(embedder) => Some(embedder),
            Model::Encoder(_) | Model::MeanState(_) | Model::Endpoint(_) => None,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text was embedded before, and a file keeps its vector.
    pub fn knows(&self, text: &str) -> bool {
        self.kept().store.as_ref().is_some_and(|store| store.knows(&key(text)))
    }

    /// One vector a text, in their order, and for each the share of what it says that the vectors can express: of the built-in embedder's as
    /// [`Embedder::embed_with_fit`] has it, of a model's all.
    ///
    /// # Errors
    /// Why the model could not embed, in words.
    pub fn embed_with_fit(&self, texts: &[&str]) -> Result<(Vectors, Vec<f32>), String> {
        if let Model::Builtin(embedder) = &self.model {
            return Ok(embedder.embed_with_fit(texts));
        }
        let vectors = self.embed(texts, &mut |_| true)?.unwrap_or_default();
        Ok((vectors, vec![1.0; texts.len()]))
    }

    /// One vector of length 1 for each text, in their order. `each` hears how far it is; it returns false to end early, which gives none.
    ///
    /// A model's vectors are as f16 keeps them: one that is new and one that was kept are the same.
    ///
    /// # Errors
    /// Why the model could not embed, in words, with its name.
    pub fn embed(
        &self,
        texts: &[&str],
        each: &mut dyn FnMut(Step) -> bool,
    ) -> Result<Option<Vectors>, String> {
        if let Model::Builtin(embedder) = &self.model {
            let vectors = embedder.embed(texts);
            return Ok(each(Step::Done(texts.len())).then_some(vectors));
        }
        let keys: Vec<Key> = texts.iter().map(|text| key(text)).collect();
        let mut found: HashMap<Key, Vec<f32>> = HashMap::new();
        let failed = |e: io::Error| broken(&self.name, &e);
        {
            let mut kept = self.kept();
            kept.find(&keys, &mut found).map_err(failed)?;
            if keys.iter().any(|key| !found.contains_key(key))
                && let Some(store) = &mut kept.store
            {
                store.look().map_err(failed)?;
                kept.find(&keys, &mut found).map_err(failed)?;
            }
        }
        let mut asked = HashSet::new();
        let open: Vec<(Key, &str)> = keys
            .iter()
            .zip(texts)
            .filter(|(key, _)| !found.contains_key(*key) && asked.insert(**key))
            .map(|(key, text)| (*key, *text))
            .collect();
        let mut done = texts.len() - open.len();
        for some in open.chunks(BATCH) {
            if !each(Step::Done(done)) {
                return Ok(None);
            }
            let batch: Vec<&str> = some.iter().map(|(_, text)| *text).collect();
            let rounded = |vector: Vec<f32>| vector.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
            let Some(vectors) = self.work(&batch, &mut || each(Step::Waiting))? else { return Ok(None) };
            if vectors.iter().flatten().any(|x| !x.is_finite()) {
                return Err(format!(
                    "the embedder `{}` gave a vector that is no list of finite numbers: are its weights whole?",
                    self.name
                ));
            }
            let vectors = vectors.into_iter().map(rounded);
            let new: Vec<(Key, Vec<f32>)> = some.iter().map(|(key, _)| *key).zip(vectors).collect();
            self.kept().put(&new).map_err(failed)?;
            found.extend(new);
            done += some.len();
        }
        each(Step::Done(done));
        let dimensions = found.values().next().map_or(1, Vec::len);
        if found.values().any(|vector| vector.len() != dimensions) {
            return Err(format!(
                "the embedder `{}` gave vectors of different lengths: is it still the same model? If not, remove those of the other one from .tunebench/vectors",
                self.name
            ));
        }
        let data = keys.iter().filter_map(|key| found.get(key)).flatten().copied().collect();
        Ok(Some(Vectors { dimensions, data }))
    }

    /// None where nobody waits for them any more.
    fn work(&self, texts: &[&str], waits: &mut dyn FnMut() -> bool) -> Result<Option<Vec<Vec<f32>>>, String> {
        let failed = |why: String| format!("the embedder `{}`: {why}", self.name);
        match &self.model {
            Model::Builtin(embedder) => Ok(Some(embedder.embed(texts).rows().map(<[f32]>::to_vec).collect())),
            Model::Encoder(encoder) => {
                let embed = |texts: &[&str]| {
                    let all = encoder.embed(texts, Par::threads(1)).map_err(|e| failed(e.to_string()))?;
                    Ok(all.chunks(encoder.dimensions()).map(<[f32]>::to_vec).collect::<Vec<_>>())
                };
                self.side_by_side(texts, &embed).map(Some)
            }
            Model::MeanState(model) => {
                let embed = |texts: &[&str]| {
                    let all = model.embed(texts, Par::threads(1)).map_err(|e| failed(e.to_string()))?;
                    Ok(all.chunks(model.dimensions()).map(<[f32]>::to_vec).collect::<Vec<_>>())
                };
                self.side_by_side(texts, &embed).map(Some)
            }
            Model::Endpoint(endpoint) => {
                let mut found = endpoint.embeddings(texts, waits).map_err(|e| failed(e.to_string()))?;
                for vector in found.iter_mut().flatten() {
                    to_length_one(vector);
                }
                Ok(found)
            }
        }
    }

    /// `embed` of [`AT_ONCE`] texts at a time, over the threads.
    fn side_by_side(
        &self,
        texts: &[&str],
        embed: &(dyn Fn(&[&str]) -> Result<Vec<Vec<f32>>, String> + Sync),
    ) -> Result<Vec<Vec<f32>>, String> {
        use rayon::prelude::*;
        if texts.len() <= AT_ONCE || self.threads <= 1 {
            let found: Result<Vec<_>, String> = texts.chunks(AT_ONCE).map(embed).collect();
            return found.map(|found| found.concat());
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(|e| e.to_string())?;
        let found: Result<Vec<_>, String> = pool.install(|| texts.par_chunks(AT_ONCE).map(embed).collect());
        found.map(|found| found.concat())
    }
}

/// What of a folder's settings makes other vectors of the same weights.
fn variant(sentence: &Sentence) -> String {
    let pooling = match sentence.pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "cls",
    };
    let lower = if sentence.lower { "-lower" } else { "" };
    format!("-{pooling}-{}{lower}", sentence.longest)
}

fn broken(name: &str, error: &io::Error) -> String {
    format!("the vectors of the embedder `{name}` cannot be kept: {error}")
}

fn key(text: &str) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::Limits;
    use crate::domain::settings::CachePlace;

    fn encoder(path: &Path) -> ModelRef {
        ModelRef {
            name: "mini".into(),
            source: ModelSource::Local { path: path.display().to_string() },
            hash: "0123456789abcdef0123456789abcdef00".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        }
    }

    #[test]
    fn weights_that_are_no_numbers_are_an_error_and_no_vectors() {
        let temp = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(from.join(name), temp.path().join(name)).unwrap();
        }
        let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let head = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..head]).unwrap();
        let name =
            tensors.as_object().unwrap().keys().find(|name| name.ends_with("embeddings.LayerNorm.bias"));
        let at = head + tensors[name.unwrap()]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(temp.path().join("model.safetensors"), bytes).unwrap();
        let source = Source::open(&encoder(temp.path()), &Access::threads(1)).unwrap();
        let why = source.embed(&["where is my card"], &mut |_| true).unwrap_err();
        assert!(why.contains("`mini`") && why.contains("finite numbers"), "{why}");
    }

    #[test]
    fn an_encoder_embeds_what_changed_and_finds_the_rest() {
        let temp = tempfile::tempdir().unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
        let model = encoder(&path);
        let access = Access {
            cache: Some(CachePlace { dir: CachePlace::folder(temp.path()), limit: 1 << 20 }),
            ..Access::threads(2)
        };
        let mut told = Vec::new();
        let source = Source::open(&model, &access).unwrap();
        let first = source.embed(&["where is my card", "refund", "refund"], &mut |n| {
            told.push(n);
            true
        });
        let first = first.unwrap().unwrap();
        assert_eq!((first.len(), first.row(1)), (3, first.row(2)));
        assert_eq!(told, [Step::Done(1), Step::Done(3)], "the same text is embedded once");
        assert!(first.rows().all(|row| (super::super::dot(row, row) - 1.0).abs() < 1e-3));
        drop(source);

        let source = Source::open(&model, &access).unwrap();
        told.clear();
        let again = source.embed(&["refund", "the app", "where is my card"], &mut |n| {
            told.push(n);
            true
        });
        let again = again.unwrap().unwrap();
        assert_eq!(told, [Step::Done(2), Step::Done(3)]);
        for (a, b) in again.row(0).iter().zip(first.row(1)).chain(again.row(2).iter().zip(first.row(0))) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        assert!(source.embed(&["another"], &mut |_| false).unwrap().is_none());

        let none =
            ModelRef { source: ModelSource::Local { path: temp.path().display().to_string() }, ..model };
        assert!(Source::open(&none, &access).unwrap_err().contains("mini"));
    }
}
