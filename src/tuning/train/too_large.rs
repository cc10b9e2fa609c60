//! A run that does not fit the memory of its device: what to lower, what that saves, and a new run with it.

use thiserror::Error;

use super::preflight::{Asked, Batches, outline};
use crate::domain::finding::{Finding, Lower, Remedy, Rule};
use crate::domain::preflight::Memory;
use crate::domain::settings::{Method, Recompute, Targets, TrainSettings};
use crate::domain::words::bytes;
use crate::model::ModelError;

/// The run does not fit the memory that is left now.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct TooLarge {
    message: String,
    /// Bytes that are too many, if that is known.
    over: u64,
    /// What to lower with the bytes that each saves, most first.
    ways: Vec<(u64, Lower)>,
}

impl TooLarge {
    /// Told before anything is loaded.
    pub(super) fn reckoned(
        asked: &Asked<'_>,
        memory: &Memory,
        reckoned: u64,
        budget: u64,
    ) -> anyhow::Result<Self> {
        let ways = ways(asked, memory)?;
        let longest = asked.data.train.iter().map(|e| e.sequence.tokens.len()).max().unwrap_or(0);
        let mut list: Vec<String> =
            ways.iter().map(|(saved, what)| format!("{what} saves {}", bytes(*saved))).collect();
        list.push(format!("max_length below {longest} leaves the longest rows out"));
        if asked.gpu.is_some() {
            list.push("device = \"cpu\" takes the machine's memory".into());
        }
        list.push("a smaller model takes less of everything".into());
        let place = asked.gpu.as_ref().map_or_else(String::new, |gpu| format!(" on {}", gpu.name));
        let message = format!(
            "the run does not fit: it takes about {}{place} and {} may be planned with (weights {}, optimizer and gradients {}, activations {}). {}",
            bytes(reckoned),
            bytes(budget),
            bytes(memory.weights),
            bytes(memory.optimizer + memory.gradients + memory.adapters),
            bytes(memory.activations + memory.logits),
            list.join("; ")
        );
        Ok(Self { message, over: reckoned.saturating_sub(budget), ways })
    }

    /// A device that ran out of memory in spite of what was reckoned; other errors stay as they are.
    pub(super) fn from_device(error: anyhow::Error, asked: &Asked<'_>, memory: &Memory) -> anyhow::Error {
        let out = |cause: &(dyn std::error::Error + 'static)| {
            matches!(cause.downcast_ref(), Some(ModelError::OutOfMemory(_)))
        };
        if !error.chain().any(out) {
            return error;
        }
        let ways = ways(asked, memory).unwrap_or_default();
        Self { message: format!("{error:#}"), over: 0, ways }.into()
    }

    /// The offer to start `run` again: of what is enough that which changes the result the least, else what saves the most.
    pub fn finding(&self, run: &str) -> Finding {
        let enough =
            self.ways.iter().filter(|(saved, _)| *saved >= self.over).min_by_key(|(_, lower)| *lower);
        let best = enough.or(self.ways.first()).copied();
        let advice = match best {
            Some((saved, lower)) => {
                let set: Vec<String> =
                    lower.settings().iter().map(|(key, value)| format!("--set '{key}={value}'")).collect();
                format!(
                    "start it again with {lower}, which saves {}: tunebench run train --like {run} {}",
                    bytes(saved),
                    set.join(" ")
                )
            }
            None => "take a smaller model or shorter rows".into(),
        };
        Finding {
            rule: Rule::OutOfMemory,
            evidence: self.message.clone(),
            advice,
            remedy: best.map(|(_, lower)| Remedy::Again { lower }),
        }
    }
}

/// What can be lowered, and what each would save, most first.
fn ways(asked: &Asked<'_>, memory: &Memory) -> anyhow::Result<Vec<(u64, Lower)>> {
    let Asked { config, data, settings, threads, .. } = *asked;
    let with = |changed: &TrainSettings| -> anyhow::Result<u64> {
        let mut model = outline(config, changed, threads)?;
        let batches = Batches::new(data, changed);
        if changed.recompute != Recompute::Never {
            model.grant_activations(0);
        }
        Ok(model.memory(asked.on(), &batches.train, &batches.dev).total())
    };
    let mut ways = Vec::new();
    let mut way = |lower: Lower, changed: &TrainSettings| -> anyhow::Result<()> {
        let saved = memory.total().saturating_sub(with(changed)?);
        // The overhead is there whatever is lowered.
        if saved > (memory.total() - memory.overhead) / 50 {
            ways.push((saved, lower));
        }
        Ok(())
    };
    if !settings.method.trains_adapter() {
        way(Lower::Lora, &TrainSettings { method: Method::Lora, ..settings.clone() })?;
    }
    // What was reckoned may have kept some: that of a device that ran out in spite of it.
    if settings.recompute != Recompute::Always {
        way(Lower::Recompute, &TrainSettings { recompute: Recompute::Always, ..settings.clone() })?;
    }
    if settings.batch_size > 1 {
        let (batch_size, accumulate) = (settings.batch_size / 2, settings.accumulate * 2);
        let smaller = TrainSettings { batch_size, accumulate, ..settings.clone() };
        way(Lower::Batch { batch_size, accumulate }, &smaller)?;
    }
    if settings.method.trains_adapter() && settings.rank > 1 {
        let rank = settings.rank / 2;
        way(Lower::Rank { rank }, &TrainSettings { rank, ..settings.clone() })?;
        if settings.targets == Targets::default() {
            let targets = Targets::Many(vec!["q_proj".into(), "v_proj".into()]);
            way(Lower::QueryAndValue, &TrainSettings { targets, ..settings.clone() })?;
        }
    }
    ways.sort_by_key(|way| std::cmp::Reverse(way.0));
    Ok(ways)
}
