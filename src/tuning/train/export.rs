//! A run's model as a folder that other tools load: the adapter in PEFT's format, or base and adapter merged.
//!
//! What was written is read again and asked the run's own rows, beside the model that was trained; the folder appears only
//! when both say the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifact;
use super::examples;
use super::run::checkpoint_folder;
use super::state;
use super::subject::Subject;
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunSpec;
use crate::domain::settings::{TrainSettings, TrainedTurns};
use crate::model::Decoder;
use crate::model::lora::Lora;
use crate::ops::Par;

/// What other tools are to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The adapter alone.
    Peft,
    /// A whole model in Hugging Face's layout.
    Merged,
}

/// The largest difference of a logprob that rounding in f32 explains: merged, `scale B A` is added to W once; in training
/// the product of the activations is added.
const TOLERANCE: f64 = 1e-3;
/// Rows that are asked, and tokens of each.
const ROWS: usize = 8;
const TOKENS: usize = 256;

/// Why a run's model was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What was asked for cannot be had; the message says what can.
    #[error("{0}")]
    Request(String),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// A model in memory: a base with or without an adapter.
struct Model {
    decoder: Decoder,
    adapter: Option<Lora>,
}

impl Model {
    /// Log-probabilities of every token of the vocabulary after each of `tokens`.
    fn logprobs(&self, tokens: &[u32], threads: usize) -> anyhow::Result<Vec<f64>> {
        let mut logprobs = Vec::new();
        let logits = self.decoder.logits_all(tokens, self.adapter.as_ref(), Par::threads(threads))?;
        for row in logits.chunks(self.decoder.config.vocab) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = row.iter().map(|&l| f64::from(l - max).exp()).sum::<f64>().ln() + f64::from(max);
            logprobs.extend(row.iter().map(|&l| f64::from(l) - log_sum));
        }
        Ok(logprobs)
    }
}

/// Write the model of the run in `run_dir` (of one of its checkpoints, if `step` says so) to the new folder `to`.
/// Returns the largest difference between its logprobs and those of the trained model.
pub fn export(
    run_dir: &Path,
    spec: &RunSpec,
    settings: &TrainSettings,
    rows: &[RunRow],
    step: Option<u64>,
    format: Option<Format>,
    to: &Path,
) -> Result<f64, ExportError> {
    let format = match (settings.method.trains_adapter(), format) {
        (false, Some(Format::Peft)) => {
            let message = "the run trained every weight and has no adapter; use --format merged";
            return Err(ExportError::Request(message.into()));
        }
        (false, _) => Format::Merged,
        (true, format) => format.unwrap_or(Format::Peft),
    };
    if to.exists() && std::fs::read_dir(to).map_or(true, |mut entries| entries.next().is_some()) {
        let message = format!("{} is there already and not empty; name a new folder", to.display());
        return Err(ExportError::Request(message));
    }
    let subject = Subject::new(spec, settings)?;
    let trained = trained(run_dir, spec, settings, &subject, step)?;
    let asked = sample(rows, &subject, trained.decoder.config.max_positions)?;
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(anyhow::Error::from)?;
    }

    let mut difference = 0.0;
    artifact::replace_folder(to, |fresh| {
        let written = match (format, &trained.adapter) {
            (Format::Peft, Some(lora)) => {
                lora.save_peft(fresh, subject.base.to_str())?;
                Model {
                    adapter: Some(Lora::load_peft(fresh, &trained.decoder)?),
                    decoder: trained.decoder.clone(),
                }
            }
            (_, adapter) => {
                let merged = match adapter {
                    Some(lora) => lora.merge(&trained.decoder)?,
                    None => trained.decoder.clone(),
                };
                artifact::write_model(&merged, &subject.base, fresh)?;
                drop(merged);
                Model { decoder: Decoder::load(fresh)?, adapter: None }
            }
        };
        for tokens in &asked {
            let want = trained.logprobs(tokens, spec.threads)?;
            let got = written.logprobs(tokens, spec.threads)?;
            let largest = want.iter().zip(&got).map(|(w, g)| (w - g).abs()).fold(0.0, f64::max);
            difference = largest.max(difference);
        }
        anyhow::ensure!(
            difference <= TOLERANCE,
            "read again, the written model differs by {difference:.2e} in its logprobs (at most {TOLERANCE:.0e} is \
             rounding); nothing was kept in {}",
            to.display()
        );
        Ok(())
    })?;
    Ok(difference)
}

/// The model as it was trained: of the run's end, or of a checkpoint.
fn trained(
    run_dir: &Path,
    spec: &RunSpec,
    settings: &TrainSettings,
    subject: &Subject<'_>,
    step: Option<u64>,
) -> Result<Model, ExportError> {
    let artifacts = run_dir.join("artifacts");
    let load = || Decoder::load(&subject.base).map_err(anyhow::Error::from);
    let missing = |what: String| {
        let steps = checkpoints(run_dir);
        let advice = match steps.as_slice() {
            [] => "the run has no checkpoint yet either".to_owned(),
            steps => {
                let names: Vec<String> = steps.iter().map(|s| format!("{}@{s}", spec.id)).collect();
                format!("its checkpoints are {}", names.join(", "))
            }
        };
        ExportError::Request(format!("{what}; {advice}"))
    };
    if let Some(step) = step {
        let dir = checkpoint_folder(run_dir, step);
        if !dir.is_dir() {
            return Err(missing(format!("run {} has no checkpoint of step {step}", spec.id)));
        }
        state::read(&dir).map_err(anyhow::Error::from)?;
        let mut model = subject.start(settings, Arc::new(load()?), spec.threads, None)?;
        state::load_model(&dir, &mut model).map_err(anyhow::Error::from)?;
        return Ok(Model { decoder: model.decoder().clone(), adapter: model.adapter().cloned() });
    }
    let (adapter, model) = (artifacts.join("adapter"), artifacts.join("model"));
    match settings.method.trains_adapter() {
        true if adapter.is_dir() => {
            let decoder = load()?;
            let lora = Lora::load_peft(&adapter, &decoder).map_err(anyhow::Error::from)?;
            Ok(Model { decoder, adapter: Some(lora) })
        }
        false if model.is_dir() => {
            Ok(Model { decoder: Decoder::load(&model).map_err(anyhow::Error::from)?, adapter: None })
        }
        _ => Err(missing(format!("run {} has not come to a result", spec.id))),
    }
}

/// Token sequences to compare on: dev rows, else those of other parts.
fn sample(rows: &[RunRow], subject: &Subject<'_>, max_positions: usize) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut order: Vec<&RunRow> = rows.iter().collect();
    order.sort_by_key(|row| row.part != Some(Part::Dev));
    let built = examples::build(order.into_iter().take(4 * ROWS), subject, usize::MAX, TrainedTurns::Last);
    let asked: Vec<Vec<u32>> = built
        .examples
        .into_iter()
        .take(ROWS)
        .map(|e| e.sequence.tokens.into_iter().take(TOKENS.min(max_positions)).collect())
        .collect();
    anyhow::ensure!(
        !asked.is_empty(),
        "none of the run's rows can be asked: nothing to verify the written model with"
    );
    Ok(asked)
}

/// Steps that have a checkpoint.
fn checkpoints(run_dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(run_dir.join("checkpoints"));
    let name = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<u64> =
        entries.into_iter().flatten().filter_map(|entry| name(entry.ok()?.path())).collect();
    steps.sort_unstable();
    steps
}
