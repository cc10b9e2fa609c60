//! A frozen store, opened for searching.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};

use super::{Index, fit, store};
use crate::domain::example::{Example, StageExamples};
use crate::embed::Embedder;

/// A fitted embedder's file, beside the store that it was fitted with.
pub const EMBEDDER: &str = "embedder.safetensors";

/// Indexes that were made lately: a pipeline is opened for every question of the playground.
static INDEXES: Mutex<VecDeque<(String, Arc<Index>)>> = Mutex::new(VecDeque::new());
const INDEXES_HELD: usize = 6;

/// The index of a stage's frozen store.
///
/// # Errors
/// Files that are gone or changed.
pub fn open(examples: &StageExamples, stage: &str) -> anyhow::Result<Arc<Index>> {
    let fitted = examples.embedder.as_ref().map(|e| e.hash.as_str()).unwrap_or_default();
    let key = format!("{} {fitted} {stage}", examples.hash);
    let held = || INDEXES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, index)) = held().iter().find(|(known, _)| *known == key) {
        return Ok(index.clone());
    }
    let all = store::read(Path::new(&examples.path), Some(&examples.hash))?;
    let embedder = match &examples.embedder {
        Some(file) => embedder_of(Path::new(&file.path), Some(&file.hash))?.0,
        None => fit(all.iter().filter(|e| e.stage == stage).map(|e| e.input.as_str())),
    };
    let of_stage = all.into_iter().filter(|e| e.stage == stage).map(Arc::<Example>::new);
    let index = Arc::new(Index::new(of_stage, Arc::new(embedder)));
    let mut held = held();
    held.push_front((key, index.clone()));
    held.truncate(INDEXES_HELD);
    Ok(index)
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
