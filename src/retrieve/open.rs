//! A frozen store, opened for searching.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};

use super::{Index, fit, store};
use crate::backend::Access;
use crate::domain::candidate::ModelRef;
use crate::domain::example::{Example, StageExamples, StoreEmbedder};
use crate::domain::keys::KeyNeed;
use crate::embed::{Embedder, Source};

/// A fitted embedder's file, beside the store that it was fitted with.
pub const EMBEDDER: &str = "embedder.safetensors";
/// Instead of it: the model that embeds, frozen.
pub const MODEL: &str = "embedder.json";

/// Indexes that were made lately: a pipeline is opened for every question of the playground.
static INDEXES: Mutex<VecDeque<(String, Arc<Index>)>> = Mutex::new(VecDeque::new());
const INDEXES_HELD: usize = 6;

/// The index of a stage's frozen store. Vectors that a model gave are kept where `access` has its response cache.
///
/// # Errors
/// Files that are gone or changed, an embedder that fails: with its name.
pub fn open(examples: &StageExamples, stage: &str, access: &Access) -> anyhow::Result<Arc<Index>> {
    let by = match &examples.embedder {
        Some(StoreEmbedder::Model(model)) => asked(model, access),
        Some(StoreEmbedder::Fitted(file)) => file.hash.clone(),
        None => String::new(),
    };
    let key = format!("{} {by} {stage}", examples.hash);
    let held = || INDEXES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, index)) = held().iter().find(|(known, _)| *known == key) {
        return Ok(index.clone());
    }
    let all = store::read(Path::new(&examples.path), Some(&examples.hash))?;
    let embedder = match &examples.embedder {
        Some(StoreEmbedder::Model(model)) => Source::open(model, access).map_err(anyhow::Error::msg)?,
        Some(StoreEmbedder::Fitted(file)) => embedder_of(Path::new(&file.path), Some(&file.hash))?.0.into(),
        None => fit(all.iter().filter(|e| e.stage == stage).map(|e| e.input.as_str())).into(),
    };
    let of_stage = all.into_iter().filter(|e| e.stage == stage).map(Arc::<Example>::new);
    let index = Arc::new(Index::new(of_stage, Arc::new(embedder)).map_err(anyhow::Error::msg)?);
    let mut held = held();
    held.push_front((key, index.clone()));
    held.truncate(INDEXES_HELD);
    Ok(index)
}

/// What tells a model that is asked apart from others: content, place, limits, key, and where its vectors are kept.
fn asked(model: &ModelRef, access: &Access) -> String {
    let key = KeyNeed::of(model).and_then(|need| access.keys.get(&need).map(str::to_owned));
    let key = key.map(|key| blake3::hash(key.as_bytes()).to_hex().to_string());
    let kept = access.cache.as_ref().map(|place| &place.dir);
    format!("{} {:?} {:?} {key:?} {kept:?}", model.hash, model.source, model.limits)
}

/// A fitted embedder and the hash of its file. With `expected`, the hash must be that.
///
/// # Errors
/// A file that is gone, changed or none.
pub fn embedder_of(path: &Path, expected: Option<&str>) -> anyhow::Result<(Embedder, String)> {
    let bytes =
        std::fs::read(path).with_context(|| format!("the embedder at {} cannot be read", path.display()))?;
    let hash = store::hash(&bytes);
    ensure!(
        expected.is_none_or(|expected| expected == hash),
        "{} was changed: its hash is not the one that the candidate names",
        path.display()
    );
    Ok((Embedder::from_bytes(&path.display().to_string(), &bytes)?, hash))
}
