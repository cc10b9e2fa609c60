//! Which device a run computes on. Runs on one device take turns, those on different ones go side by side.

use std::fmt;
use std::path::Path;

use crate::domain::candidate::{ModelSource, StageCandidate};
use crate::domain::run::{Job, RunSpec};
use crate::domain::settings::{DeviceChoice, TrainSettings};
use crate::model::ModelConfig;
use crate::ops::cuda;

/// The CPU, or a GPU by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda(u16),
}

impl Device {
    /// The one that a run will ask for. Only training knows GPUs.
    pub fn of(spec: &RunSpec) -> Self {
        match &spec.job {
            Job::Train { train, .. } | Job::LrRange { train, .. } => {
                Self::of_training(train, || stage_of(spec, train), cuda::devices)
            }
            Job::Strata(_)
            | Job::Eval(_)
            | Job::Trajectory { .. }
            | Job::Judge(_)
            | Job::Serve(_)
            | Job::Playground(_) => Self::Cpu,
        }
    }

    fn of_training<'a>(
        train: &TrainSettings,
        stage: impl FnOnce() -> Option<&'a StageCandidate>,
        devices: impl FnOnce() -> usize,
    ) -> Self {
        let fits = |folder: &str| {
            ModelConfig::load(Path::new(folder)).is_ok_and(|config| cuda::attention_takes(config.head_dim))
        };
        match train.device {
            DeviceChoice::Cpu => Self::Cpu,
            DeviceChoice::Cuda(n) => Self::Cuda(n),
            DeviceChoice::Auto if !train.method.trains_adapter() || devices() == 0 => Self::Cpu,
            DeviceChoice::Auto => match stage().map(|stage| &stage.model.source) {
                Some(ModelSource::Local { path }) if fits(path) => Self::Cuda(0),
                _ => Self::Cpu,
            },
        }
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
    use crate::domain::settings::Method;

    #[test]
    fn a_training_has_the_device_that_it_asks_for_and_a_lock_of_that_device() {
        let of = |device: DeviceChoice, method: Method, gpus: usize| {
            let train = TrainSettings { method, device, ..TrainSettings::default() };
            Device::of_training(&train, || None, || gpus)
        };
        assert_eq!(of(DeviceChoice::Cuda(2), Method::Lora, 0), Device::Cuda(2));
        assert_eq!(of(DeviceChoice::Cpu, Method::Lora, 1), Device::Cpu);
        assert_eq!(of(DeviceChoice::Auto, Method::Lora, 0), Device::Cpu);
        assert_eq!(of(DeviceChoice::Auto, Method::Full, 1), Device::Cpu, "that is not trained on a GPU");
        assert_eq!(of(DeviceChoice::Auto, Method::Lora, 1), Device::Cpu, "without a model nothing fits");
        assert_eq!(Device::Cuda(2).lock_file(), "device-cuda-2.lock");
        assert_eq!(Device::Cpu.lock_file(), "device-cpu.lock");
    }
}
