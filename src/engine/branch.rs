//! A branch: a training run that starts from another one's checkpoint, with some settings changed.

use std::path::PathBuf;

use super::state::{Engine, bad_input, failed, no_run};
use crate::domain::api::Failure;
use crate::domain::run::Job;
use crate::domain::settings::{Method, TrainSettings};
use crate::domain::steer::{Change, Origin};
use crate::tuning::train::state::{self, TrainerState};

/// Where a branch starts.
#[derive(Debug)]
pub struct Parent {
    pub origin: Origin,
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// What was set for the parent.
    set: Vec<(String, String)>,
    train: TrainSettings,
    state: TrainerState,
}

/// `RUN@STEP`, or `RUN`: its best checkpoint, or its newest where none is better.
pub fn find(engine: &Engine, name: &str) -> Result<Parent, Failure> {
    let (run, step) = name.split_once('@').map_or((name, None), |(run, step)| (run, Some(step)));
    let (folder, set) = engine
        .read(|s| s.runs.get(run).map(|r| (r.folder.clone(), r.record.settings.clone())))
        .ok_or_else(|| no_run(run))?;
    let spec = folder.read_spec().map_err(|e| bad_input(format!("{run} cannot be branched from: {e:#}")))?;
    let Job::Train { train, .. } = spec.job else {
        return Err(bad_input(format!(
            "{run} is no training run; only those have checkpoints to branch from"
        )));
    };
    let checkpoints = folder.list_checkpoints().map_err(|e| failed(e.to_string()))?;
    let there = || match checkpoints.len() {
        0 => "it has none (yet)".to_owned(),
        _ => format!(
            "it has: {}",
            checkpoints.iter().map(|(s, _)| s.to_string()).collect::<Vec<_>>().join(", ")
        ),
    };
    let found = match step {
        Some(step) => step
            .parse::<u64>()
            .ok()
            .and_then(|step| checkpoints.iter().find(|(s, _)| *s == step))
            .ok_or_else(|| bad_input(format!("{run} has no checkpoint at step `{step}`; {}", there())))?,
        None => folder
            .best_checkpoint()
            .and_then(|best| checkpoints.iter().find(|(_, path)| path.file_name() == best.file_name()))
            .or_else(|| checkpoints.last())
            .ok_or_else(|| bad_input(format!("{run} has no checkpoint to branch from; {}", there())))?,
    };
    let (step, checkpoint) = found.clone();
    let state = state::read(&checkpoint).map_err(|e| bad_input(format!("{run}@{step}: {e}")))?;
    Ok(Parent { origin: Origin { run: run.to_owned(), step }, checkpoint, set, train, state })
}

/// `tuning.train.rank` and `rank` are one setting.
fn name(key: &str) -> &str {
    key.strip_prefix("tuning.train.").unwrap_or(key)
}

impl Parent {
    /// The branch's settings: the parent's, as they had become by changes in mid-run, and those that are set now.
    pub fn settings(&self, set: Vec<(String, String)>) -> Vec<(String, String)> {
        let mut all = self.set.clone();
        let mut weights = self.train.weights.clone();
        let mut peak = None;
        for recorded in self.state.changes.iter().filter(|recorded| recorded.step <= self.state.step) {
            match &recorded.change {
                Change::LearningRate(rate) => peak = Some(*rate),
                Change::LearningRateTimes(factor) => {
                    peak = Some(peak.unwrap_or(self.train.learning_rate) * factor);
                }
                Change::Weight { stratum, weight } => drop(weights.insert(stratum.clone(), *weight)),
                // Of prompt runs.
                Change::Hint(_)
                | Change::Pin(_)
                | Change::Kill(_)
                | Change::Budget(_)
                | Change::Lesson { .. }
                | Change::PerRow(_) => {}
            }
        }
        let mut put = |key: &str, value: String| {
            all.retain(|(known, _)| name(known) != name(key));
            all.push((key.to_owned(), value));
        };
        if let Some(peak) = peak {
            put("tuning.train.learning_rate", format!("{peak:?}"));
        }
        if weights != self.train.weights {
            let entries: Vec<String> = weights
                .iter()
                .map(|(stratum, weight)| format!("{} = {weight:?}", toml_key(stratum)))
                .collect();
            put("tuning.train.weights", format!("{{ {} }}", entries.join(", ")));
        }
        for (key, value) in set {
            put(&key, value);
        }
        all
    }

    /// The branch's weights must be the parent's.
    pub fn check(&self, branch: &TrainSettings) -> Result<(), Failure> {
        let (parent, from) = (&self.train, &self.origin);
        let keeps = |what: &str, was: String| {
            bad_input(format!("a branch of {from} keeps its {what} ({was}); start a new run to change it"))
        };
        if parent.stage != branch.stage {
            return Err(keeps("stage", format!("`{}`", parent.stage)));
        }
        match (parent.method, branch.method) {
            (Method::Full, Method::Full) => return Ok(()),
            // The adapter is merged, and every weight trained on.
            (was, Method::Full) if was.trains_adapter() => return Ok(()),
            // The base may become another one, the adapter not.
            (Method::Lora | Method::Qlora, Method::Lora | Method::Qlora)
            | (Method::Dora | Method::Qdora, Method::Dora | Method::Qdora) => {}
            (was, is) if was == is => {}
            (was, _) => return Err(keeps("method", format!("{was:?}").to_lowercase())),
        }
        if parent.rank != branch.rank {
            return Err(keeps("rank", parent.rank.to_string()));
        }
        if (&parent.rank_pattern, &parent.alpha_pattern) != (&branch.rank_pattern, &branch.alpha_pattern) {
            return Err(keeps("rank_pattern and alpha_pattern", "as it has them".into()));
        }
        if parent.init != branch.init {
            return Err(keeps("init", format!("{:?}", parent.init).to_lowercase()));
        }
        if parent.targets != branch.targets {
            return Err(keeps("targets", format!("{:?}", parent.targets)));
        }
        if parent.alpha.to_bits() != branch.alpha.to_bits() {
            return Err(keeps("alpha", parent.alpha.to_string()));
        }
        Ok(())
    }
}

/// A quoted key of TOML.
fn toml_key(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::steer::Recorded;

    fn parent() -> Parent {
        let change = |step, change: &str| Recorded { step, change: change.parse().unwrap() };
        let changes = vec![
            change(3, "learning_rate=x0.5"),
            change(5, "weight:a \"b\"=2"),
            change(9, "learning_rate=1e-9"),
        ];
        let state = TrainerState {
            step: 8,
            epoch: 0,
            epoch_rows: 0,
            seed: 7,
            tokens: 0,
            trained_tokens: 0,
            loss_before: None,
            best_step: None,
            best_loss: None,
            evals: 0,
            evals_without_better: 0,
            last_loss: None,
            finished: false,
            changes,
            inputs: String::new(),
        };
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        Parent {
            origin: Origin { run: "train-1".into(), step: 8 },
            checkpoint: PathBuf::new(),
            set: vec![pair("rank", "4"), pair("tuning.train.epochs", "2")],
            train: TrainSettings { rank: 4, learning_rate: 1e-3, ..TrainSettings::default() },
            state,
        }
    }

    #[test]
    fn a_branch_has_its_parents_settings_as_they_had_become_and_those_set_now() {
        let set = parent().settings(vec![("epochs".into(), "1".into())]);
        let want = [
            ("rank", "4"),
            ("tuning.train.learning_rate", "0.0005"),
            ("tuning.train.weights", "{ \"a \\\"b\\\"\" = 2.0 }"),
            ("epochs", "1"),
        ];
        assert_eq!(set, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let set = parent().settings(vec![("learning_rate".into(), "1e-5".into())]);
        assert_eq!(set.iter().filter(|(k, _)| name(k) == "learning_rate").count(), 1);
    }

    #[test]
    fn a_branch_keeps_the_shape_of_its_adapter() {
        let parent = parent();
        let same = parent.train.clone();
        assert!(parent.check(&TrainSettings { learning_rate: 1.0, epochs: 9.0, ..same.clone() }).is_ok());
        assert!(parent.check(&TrainSettings { method: Method::Full, rank: 9, ..same.clone() }).is_ok());
        for (other, what) in [
            (TrainSettings { rank: 8, ..same.clone() }, "rank (4)"),
            (TrainSettings { alpha: 1.0, ..same.clone() }, "alpha"),
            (TrainSettings { stage: "route".into(), ..same.clone() }, "stage"),
        ] {
            let failure = parent.check(&other).unwrap_err();
            assert!(failure.code == 2 && failure.message.contains(what), "{failure:?}");
        }
    }
}
