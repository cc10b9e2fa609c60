//! What a run trains: one stage of its candidate, on that stage's base.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};

use super::examples::Language;
use crate::domain::candidate::{Candidate, ModelSource, StageCandidate};
use crate::domain::row::RunRow;
use crate::domain::run::RunSpec;
use crate::domain::settings::TrainSettings;
use crate::model::Decoder;
use crate::model::chat::{ChatTemplate, Message};
use crate::model::lora::Lora;
use crate::model::tokenizer::Tokenizer;
use crate::model::trainable::{AdapterTraining, Trainable};
use crate::ops::Par;
use crate::pipeline::template::{Prompt, Scope};

/// Weights of an adapter in PEFT's format.
pub(super) const ADAPTER: &str = "adapter_model.safetensors";

/// The stage under training and how its rows become text.
pub struct Subject<'a> {
    pub candidate: &'a Candidate,
    pub stage_at: usize,
    pub stage: &'a StageCandidate,
    /// The folder of the stage's model.
    pub base: PathBuf,
    pub language: Language,
    prompt: Prompt,
}

impl<'a> Subject<'a> {
    /// The stage that `settings` name, or the only one.
    pub fn new(spec: &'a RunSpec, settings: &TrainSettings) -> anyhow::Result<Self> {
        let candidate = spec.candidate.as_ref().context("spec.json names no candidate to train")?;
        Self::of(candidate, spec.created_ms, settings)
    }

    /// `created_ms`: what templates take for now.
    pub fn of(candidate: &'a Candidate, created_ms: u64, settings: &TrainSettings) -> anyhow::Result<Self> {
        let stage_at = stage_at(candidate, &settings.stage)?;
        let stage = candidate.stages.get(stage_at).context("the candidate has no such stage")?;
        let base = match &stage.model.source {
            ModelSource::Local { path } => PathBuf::from(path),
            ModelSource::Endpoint { endpoint, .. } => {
                bail!("stage `{}` is answered by {endpoint}; only a local model can be trained", stage.name)
            }
        };
        let launched = SystemTime::UNIX_EPOCH + Duration::from_millis(created_ms);
        let prompt = Prompt::new(stage)?;
        let template = ChatTemplate::load(&base)?;
        let template = template.map(|template| template.at(launched).with_tools(prompt.native_tools()));
        let language = Language { tokenizer: Tokenizer::load(&base)?, template };
        Ok(Self { candidate, stage_at, stage, base, language, prompt })
    }

    /// What the stage is asked on a row; none when its `when` does not hold there. Earlier stages have answered with their gold.
    pub fn messages(&self, row: &RunRow) -> anyhow::Result<Option<Vec<Message>>> {
        if self.stage.is_bare() && !row.turns.is_empty() {
            return Ok(self.prompt(row)?.map(|_| row.turns.iter().map(Message::from).collect()));
        }
        Ok(self.prompt(row)?.map(|text| vec![Message::user(text)]))
    }

    /// The same as text.
    pub fn prompt(&self, row: &RunRow) -> anyhow::Result<Option<String>> {
        let mut scope = Scope::new(row);
        for earlier in self.candidate.stages.iter().take(self.stage_at) {
            if let Some(gold) = earlier.own_gold(&row.fields) {
                scope.add(earlier, &gold);
            }
        }
        Ok(if self.prompt.holds(&scope)? { Some(self.prompt.render_in(&scope)?) } else { None })
    }

    /// What it should answer: the gold of its own field where it has one, else the row's.
    pub fn gold(&self, row: &RunRow) -> Option<String> {
        if self.stage.gold.is_some() { self.stage.own_gold(&row.fields) } else { row.gold.clone() }
    }

    /// The model before its first step: a fresh adapter, or the one that the candidate has, or every weight. Where a branch of an
    /// adapter is to train every weight, the adapter in `start` is merged.
    pub fn start(
        &self,
        settings: &TrainSettings,
        decoder: Arc<Decoder>,
        threads: usize,
        start: Option<&Path>,
    ) -> anyhow::Result<Trainable> {
        let merged = start.filter(|dir| !settings.method.trains_adapter() && dir.join(ADAPTER).is_file());
        let adapter = match (merged, &self.stage.adapter) {
            (Some(dir), _) => Some(Lora::load_peft(dir, &decoder)?),
            (None, Some(adapter)) => Some(Lora::load_peft(Path::new(&adapter.path), &decoder)?),
            (None, None) => None,
        };
        let decoder = match (settings.method.trains_adapter(), adapter) {
            (true, adapter) => {
                let lora = match adapter {
                    Some(lora) => lora,
                    None => Lora::from_settings(&decoder, settings, Par::threads(threads))?,
                };
                let training = AdapterTraining {
                    dropout: settings.dropout,
                    seed: settings.seed,
                    loraplus_lr_ratio: settings.loraplus_lr_ratio as f32,
                };
                let trainable = Trainable::lora(decoder, lora, threads)?;
                return Ok(trainable.with_adapter_training(training));
            }
            (false, Some(lora)) => lora.merge(&decoder)?,
            (false, None) => Arc::unwrap_or_clone(decoder),
        };
        Ok(Trainable::full(decoder, threads))
    }
}

fn stage_at(candidate: &Candidate, name: &str) -> anyhow::Result<usize> {
    let names: Vec<&str> = candidate.stages.iter().map(|s| s.name.as_str()).collect();
    match names.as_slice() {
        [] => bail!("candidate `{}` has no stage to train", candidate.name),
        [_] if name.is_empty() => Ok(0),
        _ if name.is_empty() => bail!("set tuning.train.stage to the stage to train: {}", names.join(", ")),
        _ => names
            .iter()
            .position(|n| *n == name)
            .with_context(|| format!("no stage `{name}` to train; the candidate has {}", names.join(", "))),
    }
}
