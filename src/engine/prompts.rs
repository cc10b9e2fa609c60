//! Prompts by their hash: what prompt runs tried is kept in `.tunebench/prompts/`, and can be adopted: written into the prompt files
//! of `workspace.toml`, by a journal entry that can be taken back.

use std::fs;
use std::path::PathBuf;

use super::candidates::keep_prompt;
use super::judges;
use super::state::{Engine, bad_input, failed};
use super::versions;
use crate::domain::api::{Decision, Failure, PromptFile};
use crate::domain::judge;
use crate::domain::prompt::PromptHistory;
use crate::store::files;
use crate::tuning::prompt::HISTORY;
use crate::worker::folder::RunFolder;
use crate::workspace::Workspace;

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

/// Keep the texts of a run that has ended.
pub fn keep(engine: &Engine, folder: &RunFolder) -> Result<(), Failure> {
    let Some(history) = history(folder)? else { return Ok(()) };
    for text in history.versions.iter().flat_map(|v| v.prompts.values()) {
        keep_prompt(engine, blake3::hash(text.as_bytes()).to_hex().as_str(), text)?;
    }
    Ok(())
}

fn kept_text(engine: &Engine, hash: &str) -> Result<String, Failure> {
    // A hash that leads elsewhere is none.
    let named = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let path = engine.state_dir.join("prompts").join(format!("{hash}.md"));
    let text = if named { fs::read_to_string(&path).ok() } else { None };
    let text = text.ok_or_else(|| bad_input(format!("no prompt `{hash}` is kept in .tunebench/prompts")))?;
    if blake3::hash(text.as_bytes()).to_hex().as_str() == hash {
        Ok(text)
    } else {
        Err(failed(format!("{} is damaged: its text is another one", path.display())))
    }
}

/// The file of a stage's prompt, or of a judge's rubric.
fn file_of<'a>(ws: &'a Workspace, stage: &str) -> Result<&'a PathBuf, Failure> {
    if let Some(name) = stage.strip_prefix(judge::STAGE) {
        let judge = judges::named(ws, Some(name))?;
        return judge.rubric.as_ref().ok_or_else(|| super::judging::no_file(name));
    }
    let found = ws.config.stages.iter().find(|known| known.name == stage).ok_or_else(|| {
        let names: Vec<&str> = ws.config.stages.iter().map(|s| s.name.as_str()).collect();
        bad_input(format!("workspace.toml has no stage `{stage}`; its stages: {}", names.join(", ")))
    })?;
    found.prompt.as_ref().ok_or_else(|| {
        bad_input(format!(
            "stage `{stage}` has no prompt file; write prompt = \"prompts/{stage}.md\" into workspace.toml and make the file"
        ))
    })
}

/// An adoption with everything filled in, and what the files have now kept.
pub fn adoption(engine: &Engine, wanted: Vec<PromptFile>) -> Result<Decision, Failure> {
    let (ws, _) = Workspace::open(&engine.root).map_err(|p| super::parts::problems(&p))?;
    let mut files = Vec::new();
    for want in wanted {
        let path = file_of(&ws, &want.stage)?;
        let file = path.display().to_string();
        let now = fs::read_to_string(ws.resolve(path)).map_err(|e| bad_input(format!("{file}: {e}")))?;
        let before = blake3::hash(now.as_bytes()).to_hex().to_string();
        keep_prompt(engine, &before, &now)?;
        let hash = match want.hash.as_str() {
            "" => {
                let last = engine.read(|s| s.decisions.prompts.adopted.get(&file).map(|f| f.before.clone()));
                last.ok_or_else(|| {
                    bad_input(format!("no prompt was adopted into {file}, so there is nothing to go back to"))
                })?
            }
            hash => hash.to_owned(),
        };
        if kept_text(engine, &hash).is_err() {
            // A run keeps its texts when it ends.
            versions::keep_text(engine, &hash)?;
        }
        kept_text(engine, &hash)?;
        if hash != before {
            files.push(PromptFile { stage: want.stage, file, hash, before });
        }
    }
    if files.is_empty() {
        return Err(bad_input("the prompt files have these texts already"));
    }
    Ok(Decision::AdoptPrompts { files })
}

/// Whether it puts other texts into prompt files.
pub const fn adopts(decision: &Decision) -> bool {
    matches!(decision, Decision::AdoptPrompts { .. })
}

/// Write the files of an adoption that was decided (or taken back). A text that somebody wrote in the meantime is kept first.
pub fn write(engine: &Engine, decision: &Decision) -> Result<(), Failure> {
    let Decision::AdoptPrompts { files: adopted } = decision else { return Ok(()) };
    let (ws, _) = Workspace::open(&engine.root).map_err(|p| super::parts::problems(&p))?;
    for file in adopted {
        let text = kept_text(engine, &file.hash)?;
        let path = ws.resolve(std::path::Path::new(&file.file));
        if let Ok(now) = fs::read_to_string(&path) {
            keep_prompt(engine, blake3::hash(now.as_bytes()).to_hex().as_str(), &now)?;
        }
        files::write_atomic(&path, text.as_bytes())
            .map_err(|e| failed(format!("{} could not be written: {e}", path.display())))?;
    }
    Ok(())
}
