//! Models of the workspace by place and content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state::{Engine, bad_input};
use crate::domain::api::Failure;
use crate::domain::candidate::{Limits, ModelRef, ModelSource};
use crate::domain::settings::BUILTIN;
use crate::model::encoder::Encoder;
use crate::model::mean_state::MeanState;
use crate::store::files;
use crate::workspace::Workspace;
use crate::workspace::config::ModelPlace;

/// A model of `[models]`, by place and content; `key` is where its name stands.
pub fn model_ref(engine: &Engine, ws: &Workspace, name: &str, key: &str) -> Result<ModelRef, Failure> {
    let entry = ws
        .config
        .models
        .get(name)
        .ok_or_else(|| bad_input(ws.problem(key, format!("no model `{name}`")).to_string()))?;
    let (source, hash) = match &entry.place {
        ModelPlace::Local { path } => {
            let path = ws.resolve(path);
            let hash = model_hash(engine, &path)
                .map_err(|e| bad_input(format!("model `{name}`: {}: {e}", path.display())))?;
            (ModelSource::Local { path: path.display().to_string() }, hash)
        }
        ModelPlace::Endpoint { endpoint, model, api_key_env } => {
            let hash = endpoint_hash(endpoint, model, entry.mask_pii);
            let source = ModelSource::Endpoint {
                endpoint: endpoint.clone(),
                model: model.clone(),
                api_key_env: api_key_env.clone(),
            };
            (source, hash)
        }
    };
    Ok(ModelRef {
        name: name.to_owned(),
        source,
        hash,
        usd_per_million_input: entry.usd_per_million_input,
        usd_per_million_output: entry.usd_per_million_output,
        usd_per_hour: entry.usd_per_hour,
        limits: Limits {
            max_in_flight: entry.max_in_flight,
            requests_per_minute: entry.requests_per_minute,
            timeout: entry.timeout,
            mask_pii: entry.mask_pii,
        },
        device: entry.device,
    })
}

/// Its files are where they are said to be: a workspace may have been made before its model was there.
pub fn present(model: &ModelRef) -> Result<(), Failure> {
    let ModelSource::Local { path } = &model.source else { return Ok(()) };
    let missing =
        ["config.json", "tokenizer.json"].into_iter().find(|name| !Path::new(path).join(name).is_file());
    missing.map_or(Ok(()), |name| {
        Err(bad_input(format!(
            "model `{}`: {path} has no {name}; put the model's files there (a Hugging Face folder), or name its folder at [models.{}] path in workspace.toml",
            model.name, model.name
        )))
    })
}

/// The critic that `[tuning.prompt]` names.
pub fn critic(engine: &Engine, ws: &Workspace) -> Result<Option<ModelRef>, Failure> {
    let Some(name) = &ws.config.tuning.prompt.critic else { return Ok(None) };
    model_ref(engine, ws, name, "tuning.prompt.critic").map(Some)
}

/// The model that a key names as its embedder; none for the built-in one.
pub fn embedder(
    engine: &Engine,
    ws: &Workspace,
    name: &str,
    key: &str,
) -> Result<Option<Box<ModelRef>>, Failure> {
    if name == BUILTIN {
        return Ok(None);
    }
    let model = model_ref(engine, ws, name, key)?;
    if let ModelSource::Local { path } = &model.source
        && !Encoder::is_one(Path::new(path))
        && !MeanState::is_one(Path::new(path))
    {
        let message = format!(
            "the model `{name}` cannot embed; a folder of a BERT, RoBERTa, XLM-RoBERTa or DistilBERT is expected, one of a language model, or an endpoint with embeddings"
        );
        return Err(bad_input(ws.problem(key, message).to_string()));
    }
    Ok(Some(Box::new(model)))
}

/// The embedder of `[tuning.trajectory]`; none for the built-in one.
pub fn of_examples(engine: &Engine, ws: &Workspace) -> Result<Option<Box<ModelRef>>, Failure> {
    embedder(engine, ws, &ws.config.tuning.trajectory.embedder, "tuning.trajectory.embedder")
}

/// What decides an endpoint's answers, as far as we know. Placeholders are another question.
pub(super) fn endpoint_hash(endpoint: &str, model: &str, mask_pii: bool) -> String {
    let masked = if mask_pii { "\nmask_pii" } else { "" };
    blake3::hash(format!("{endpoint}\n{model}{masked}").as_bytes()).to_hex().to_string()
}

/// Size and time of a file whose hash is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hashed {
    size: u64,
    mtime_ns: i128,
    hash: String,
}

/// Content hash of a model's configuration, tokenizer and weights. Hashes of large files are kept by size and time in `cache/`.
pub fn model_hash(engine: &Engine, dir: &Path) -> io::Result<String> {
    let cache_path = engine.state_dir.join("cache/file-hashes.json");
    let mut cache: BTreeMap<String, Hashed> =
        fs::read(&cache_path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let before = cache.clone();
    let hash = hash_model_files(dir, &mut cache)?;
    if cache != before {
        // A cache: what cannot be kept is computed again.
        let _ = fs::create_dir_all(engine.state_dir.join("cache"));
        let _ = files::write_json(&cache_path, &cache);
    }
    Ok(hash)
}

pub(super) fn hash_model_files(dir: &Path, cache: &mut BTreeMap<String, Hashed>) -> io::Result<String> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).collect();
    names.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        let settings = matches!(
            name.as_str(),
            "config.json" | "generation_config.json" | "chat_template.jinja" | "special_tokens_map.json"
        ) || name.starts_with("tokenizer");
        // How an embedder reads its texts and makes its vectors.
        let settings = settings
            || name == "modules.json"
            || name == "config_sentence_transformers.json"
            || (name.starts_with("sentence_") && name.ends_with("_config.json"));
        (weights || settings) && path.is_file()
    });
    names.extend(Some(dir.join("1_Pooling/config.json")).filter(|path| path.is_file()));
    names.sort();
    let mut whole = blake3::Hasher::new();
    for path in names {
        let meta = fs::metadata(&path)?;
        let (size, mtime_ns) =
            (meta.len(), i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()));
        let key = path.display().to_string();
        let hash = match cache.get(&key) {
            Some(kept) if kept.size == size && kept.mtime_ns == mtime_ns => kept.hash.clone(),
            _ => {
                let hash = hash_file(&path)?;
                cache.insert(key, Hashed { size, mtime_ns, hash: hash.clone() });
                hash
            }
        };
        whole.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        whole.update(b"\0");
        whole.update(hash.as_bytes());
    }
    Ok(whole.finalize().to_hex().to_string())
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&block[..n]);
    }
}
