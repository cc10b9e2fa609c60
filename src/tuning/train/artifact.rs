//! What a run leaves: an adapter in PEFT's format, or a whole model as a Hugging Face folder; and the candidate with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::domain::candidate::{AdapterRef, Candidate, ModelSource};
use crate::domain::settings::Method;
use crate::model::Decoder;
use crate::model::trainable::Trainable;

/// What was trained, in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trained {
    Adapter(AdapterRef),
    Model { path: String, hash: String },
}

impl Trained {
    /// `candidate` with what was trained on its stage `stage_at`, named after its run.
    pub fn candidate(&self, candidate: &Candidate, stage_at: usize, run: &str) -> Candidate {
        let mut candidate = Candidate { name: run.to_owned(), rung: "lora".into(), ..candidate.clone() };
        if let Some(stage) = candidate.stages.get_mut(stage_at) {
            match self {
                Self::Adapter(adapter) => stage.adapter = Some(adapter.clone()),
                Self::Model { path, hash } => {
                    stage.model.source = ModelSource::Local { path: path.clone() };
                    stage.model.hash.clone_from(hash);
                    stage.adapter = None;
                }
            }
        }
        candidate
    }

    /// Its folder.
    pub fn place(&self) -> &str {
        match self {
            Self::Adapter(adapter) => &adapter.path,
            Self::Model { path, .. } => path,
        }
    }
}

/// Write `artifacts/adapter` or `artifacts/model`, replacing what stood there. `base` lends its tokenizer's files.
pub fn write(artifacts: &Path, method: Method, model: &Trainable, base: &Path) -> anyhow::Result<Trained> {
    fs::create_dir_all(artifacts)?;
    match (method.trains_adapter(), model.adapter()) {
        (true, Some(lora)) => {
            let dir = artifacts.join("adapter");
            replace_folder(&dir, |fresh| Ok(lora.save_peft(fresh, base.to_str())?))?;
            Ok(Trained::Adapter(AdapterRef { path: text(&dir)?, hash: adapter_hash(&dir)? }))
        }
        _ => {
            let dir = artifacts.join("model");
            replace_folder(&dir, |fresh| write_model(model.decoder(), base, fresh))?;
            Ok(Trained::Model { path: text(&dir)?, hash: hash(&dir)? })
        }
    }
}

/// Files of a model's folder that say how text becomes tokens and back.
const TEXT_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// A Hugging Face folder of `decoder` with the tokenizer's files of `base`.
pub fn write_model(decoder: &Decoder, base: &Path, dir: &Path) -> anyhow::Result<()> {
    decoder.save(dir)?;
    for name in TEXT_FILES {
        let from = base.join(name);
        if from.exists() {
            fs::copy(&from, dir.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// Fill a fresh folder beside `dir`, then put it in its place: whoever looks sees the old one or the new one.
pub fn replace_folder(dir: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // A bare name has the parent "", which cannot be opened.
    let dir = &std::path::absolute(dir)?;
    // Names that are nobody else's: what was left over under them is removed.
    let beside = |what: &str| {
        let mut name = std::ffi::OsString::from(format!(".tunebench-{what}-"));
        name.push(dir.file_name().unwrap_or_default());
        dir.with_file_name(name)
    };
    let (fresh, old) = (beside("new"), beside("old"));
    for left_over in [&fresh, &old] {
        if left_over.exists() {
            fs::remove_dir_all(left_over)?;
        }
    }
    fs::create_dir(&fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    let filled = fill(&fresh).and_then(|()| Ok(crate::store::files::sync_tree(&fresh)?));
    if let Err(e) = filled {
        let _ = fs::remove_dir_all(&fresh);
        return Err(e);
    }
    if dir.exists() {
        fs::rename(dir, &old)?;
    }
    fs::rename(&fresh, dir)?;
    if let Some(parent) = dir.parent() {
        crate::store::files::sync_dir(parent)?;
    }
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<String> {
    let absolute: PathBuf = path.canonicalize()?;
    absolute.to_str().map(str::to_owned).with_context(|| format!("{} is not valid UTF-8", absolute.display()))
}

/// Content hash of an adapter in PEFT's format: of its weights and its configuration, but not of where its base stood.
pub fn adapter_hash(dir: &Path) -> std::io::Result<String> {
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(dir.join("adapter_config.json"))?)?;
    config.remove("base_model_name_or_path");
    config.sort_keys();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&serde_json::to_vec(&config)?);
    hasher.update_reader(fs::File::open(dir.join("adapter_model.safetensors"))?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 over names and contents of the folder's files.
fn hash(dir: &Path) -> anyhow::Result<String> {
    let mut names: Vec<_> = fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(name.as_encoded_bytes()).update(&[0]);
        let content = blake3::Hasher::new().update_reader(fs::File::open(dir.join(&name))?)?.finalize();
        hasher.update(content.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
