//! Prompts by their hash: what prompt runs tried is kept in `.tunebench/prompts/`.

use std::fs;

use super::candidates::keep_prompt;
use super::state::{Engine, failed};
use crate::domain::api::Failure;
use crate::domain::prompt::PromptHistory;
use crate::tuning::prompt::HISTORY;
use crate::worker::folder::RunFolder;

/// A run's history; none where it has not written one yet.
pub fn history(folder: &RunFolder) -> Result<Option<PromptHistory>, Failure> {
    let path = folder.dir().join(HISTORY);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| failed(format!("{} is damaged: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(format!("{}: {e}", path.display()))),
    }
}

/// Keep the texts of a run that has ended: each survivor's, and the answer's.
pub fn keep(engine: &Engine, folder: &RunFolder) -> Result<(), Failure> {
    let Some(history) = history(folder)? else { return Ok(()) };
    for text in history.versions.iter().filter(|v| v.fresh.is_some()).flat_map(|v| v.prompts.values()) {
        keep_prompt(engine, blake3::hash(text.as_bytes()).to_hex().as_str(), text)?;
    }
    Ok(())
}
