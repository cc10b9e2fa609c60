//! Which device a run computes on. Runs on one device take turns, those on different ones go side by side.

use std::fmt;
use std::path::Path;

use crate::domain::candidate::{ModelRef, ModelSource, StageCandidate};
use crate::domain::run::{Job, RunSpec};
use crate::domain::settings::{DeviceChoice, TrainSettings};
use crate::model::ModelConfig;
use crate::ops::cuda;

/// The CPU, or a GPU by its number. Who wants several takes them in this order, so that no two wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    Cpu,
    Cuda(u16),
}

/// The devices of a run, each once and in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    pub all: Vec<Device>,
    /// A GPU among them was chosen for the run, not by a person: where it cannot be opened, the CPU takes its place.
    pub auto: bool,
}

impl Devices {
    /// Those that a run will ask for: of the training, and of each model that answers.
    pub fn of(spec: &RunSpec) -> Self {
        Self::on(spec, cuda::devices)
    }

    fn on(spec: &RunSpec, gpus: impl Fn() -> usize) -> Self {
        let mut choices = Vec::new();
        let mut scoring = None;
        if let Some(train) = training(spec) {
            scoring = train.scoring_device();
            choices.push(choice_of_training(spec, train));
        }
        let stages = || spec.candidate.iter().flat_map(|c| &c.stages).map(|stage| &stage.model);
        let models: Vec<&ModelRef> = match &spec.job {
            Job::Train { eval, .. } | Job::Trajectory { eval, .. } | Job::Eval(eval) => {
                stages().chain(eval.judges.iter().map(|judge| &judge.model)).collect()
            }
            Job::Prompt { eval, critic, .. } => {
                let judges = eval.judges.iter().map(|judge| &judge.model);
                stages().chain(judges).chain(critic.as_deref()).collect()
            }
            Job::Grow { eval, maker, .. } => {
                let judges = eval.judges.iter().map(|judge| &judge.model);
                stages().chain(judges).chain([&**maker]).collect()
            }
            Job::Judge(pairs) => vec![&pairs.judge.model],
            Job::LrRange { .. } | Job::Strata(_) | Job::Serve(_) | Job::Playground(_) => Vec::new(),
        };
        let local = models.into_iter().filter(|model| matches!(model.source, ModelSource::Local { .. }));
        choices.extend(local.map(|model| (scoring.unwrap_or(model.device), Some(model))));
        let mut all: Vec<Device> =
            choices.iter().map(|(choice, model)| of_choice(*choice, *model, &gpus)).collect();
        if all.is_empty() {
            all.push(Device::Cpu);
        }
        let is_gpu = |device: &Device| *device != Device::Cpu;
        let auto = all.iter().zip(&choices).any(|(device, (choice, _))| is_gpu(device) && choice.is_auto());
        all.sort_unstable();
        all.dedup();
        Self { all, auto }
    }

    /// The CPU alone.
    pub fn is_cpu(&self) -> bool {
        self.all == [Device::Cpu]
    }

    /// With the CPU, where a GPU that was chosen for the run cannot be opened: what it does instead it does there.
    pub fn that_open(self, open: impl Fn(usize) -> bool) -> Self {
        let closed = |device: &Device| matches!(device, Device::Cuda(n) if !open(usize::from(*n)));
        if !self.auto || self.all.contains(&Device::Cpu) || !self.all.iter().any(closed) {
            return self;
        }
        let all = std::iter::once(Device::Cpu).chain(self.all).collect();
        Self { all, auto: self.auto }
    }
}

fn training(spec: &RunSpec) -> Option<&TrainSettings> {
    match &spec.job {
        Job::Train { train, .. } | Job::LrRange { train, .. } => Some(train),
        Job::Strata(_)
        | Job::Eval(_)
        | Job::Judge(_)
        | Job::Prompt { .. }
        | Job::Trajectory { .. }
        | Job::Grow { .. }
        | Job::Serve(_)
        | Job::Playground(_) => None,
    }
}

/// What is chosen for a training, and its model. Only adapters are trained on a GPU.
fn choice_of_training<'a>(spec: &'a RunSpec, train: &TrainSettings) -> (DeviceChoice, Option<&'a ModelRef>) {
    let for_gpus = train.method.trains_adapter() || !train.device.is_auto();
    let choice = if for_gpus { train.device } else { DeviceChoice::Cpu };
    (choice, stage_of(spec, train).map(|stage| &stage.model))
}

/// The device that a choice comes to for a model.
fn of_choice(choice: DeviceChoice, model: Option<&ModelRef>, gpus: &impl Fn() -> usize) -> Device {
    let fits = |folder: &str| {
        ModelConfig::load(Path::new(folder)).is_ok_and(|config| cuda::attention_takes(config.head_dim))
    };
    match choice {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(n) => Device::Cuda(n),
        DeviceChoice::Auto => match model.map(|model| &model.source) {
            Some(ModelSource::Local { path }) if gpus() > 0 && fits(path) => Device::Cuda(0),
            _ => Device::Cpu,
        },
    }
}

impl Device {
    /// Where the run's training computes; the CPU for others.
    pub fn of_training(spec: &RunSpec) -> Self {
        let choice = training(spec).map(|train| choice_of_training(spec, train));
        choice.map_or(Self::Cpu, |(choice, model)| of_choice(choice, model, &cuda::devices))
    }

    /// The file that whoever computes on it holds.
    pub fn lock_file(self) -> String {
        match self {
            Self::Cpu => "device-cpu.lock".into(),
            Self::Cuda(n) => format!("device-cuda-{n}.lock"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("the CPU"),
            Self::Cuda(n) => write!(f, "the GPU cuda:{n}"),
        }
    }
}

/// The stage that a training is of.
pub(super) fn stage_of<'a>(spec: &'a RunSpec, train: &TrainSettings) -> Option<&'a StageCandidate> {
    match spec.candidate.as_ref()?.stages.as_slice() {
        [only] => Some(only),
        many => many.iter().find(|s| s.name == train.stage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::Decoding;
    use crate::domain::settings::{EvalSettings, Method, TrainSettings};

    fn spec(job: serde_json::Value, models: &[(&str, &str)]) -> RunSpec {
        let path = |name: &str| format!("{}/tests/fixtures/models/{name}", env!("CARGO_MANIFEST_DIR"));
        let stage = |(name, device): &(&str, &str)| {
            let source = if name.starts_with("http") { "endpoint" } else { "local" };
            serde_json::json!({
                "name": name, "prompt": "", "prompt_name": "p", "output": "text",
                "decoding": Decoding::default(),
                "model": {"name": name, "source": source, "path": path(name), "hash": name, "device": device,
                    "endpoint": name, "model": "m"},
                "adapter": null,
            })
        };
        let stages: Vec<_> = models.iter().map(stage).collect();
        let spec = serde_json::json!({
            "format": 1, "id": "r-1", "workspace": "w", "created_ms": 0, "seed": 0, "threads": 1, "job": job,
            "candidate": {"name": "c", "rung": "lora", "stages": stages}, "settings": [], "rows": [],
        });
        serde_json::from_value(spec).unwrap()
    }

    fn of(spec: &RunSpec, gpus: usize) -> Vec<Device> {
        Devices::on(spec, || gpus).all
    }

    #[test]
    fn a_training_has_the_device_that_it_asks_for_and_scores_there() {
        let job = |device: DeviceChoice, method: Method| {
            let train = TrainSettings { method, device, ..TrainSettings::default() };
            serde_json::to_value(Job::Train { train, eval: EvalSettings::default() }).unwrap()
        };
        // Heads of 8, which the kernels take, and of 4.
        let (fits, odd) = ([("qwen2", "auto")], [("llama", "auto")]);
        let (auto, lora) = (DeviceChoice::Auto, Method::Lora);
        for (device, method, models, gpus, wanted) in [
            (DeviceChoice::Cuda(2), lora, &fits, 0, vec![Device::Cuda(2)]),
            (DeviceChoice::Cpu, lora, &fits, 1, vec![Device::Cpu]),
            (auto, lora, &fits, 0, vec![Device::Cpu]),
            (auto, lora, &fits, 1, vec![Device::Cuda(0)]),
            (auto, lora, &odd, 1, vec![Device::Cpu]),
            // That is not trained on a GPU, but what came of it answers there.
            (auto, Method::Full, &fits, 1, vec![Device::Cpu, Device::Cuda(0)]),
        ] {
            assert_eq!(of(&spec(job(device, method), models), gpus), wanted, "{device} {method:?}");
        }
        assert_eq!(Device::Cuda(2).lock_file(), "device-cuda-2.lock");
        assert_eq!(Device::Cpu.lock_file(), "device-cpu.lock");
    }

    #[test]
    fn an_evaluation_has_the_devices_of_its_models() {
        let eval = || serde_json::to_value(Job::Eval(EvalSettings::default())).unwrap();
        let of = |models: &[(&str, &str)], gpus| of(&spec(eval(), models), gpus);
        assert_eq!(of(&[("qwen2", "auto")], 1), [Device::Cuda(0)]);
        assert_eq!(of(&[("qwen2", "auto")], 0), [Device::Cpu]);
        let both = [("qwen2", "cuda:1"), ("mistral", "cpu"), ("llama", "auto"), ("qwen3", "cuda:1")];
        assert_eq!(of(&both, 2), [Device::Cpu, Device::Cuda(1)]);
    }

    #[test]
    fn a_run_that_goes_to_the_cpu_for_want_of_a_gpu_that_opens_has_the_cpu_too() {
        let eval = serde_json::to_value(Job::Eval(EvalSettings::default())).unwrap();
        let auto = Devices::on(&spec(eval.clone(), &[("qwen2", "auto")]), || 1);
        assert_eq!(auto.clone().that_open(|_| true), auto);
        assert_eq!(auto.that_open(|_| false).all, [Device::Cpu, Device::Cuda(0)]);
        let named = Devices::on(&spec(eval, &[("qwen2", "cuda:0")]), || 1);
        assert_eq!(named.clone().that_open(|_| false), named, "that one fails");
    }
}
