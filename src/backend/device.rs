//! Where a model computes: the CPU, or a GPU where there is one that does what is asked.

use std::path::Path;
use std::sync::Arc;

use crate::domain::settings::DeviceChoice;
use crate::model::ModelConfig;
use crate::model::decode::{OnGpu, Settings};
use crate::ops::cuda::{self, CudaError, Driver, Launcher};

/// A GPU that was chosen, with nothing on it yet.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub ordinal: usize,
    pub launcher: Arc<dyn Launcher>,
}

/// What this machine has.
#[derive(Clone, Debug)]
pub struct Gpus {
    pub driver: bool,
    /// For libraries that are missing.
    pub remedy: Option<String>,
    pub count: usize,
}

impl Gpus {
    pub fn here() -> Self {
        let found = cuda::libraries();
        Self { driver: found.driver.is_there(), remedy: found.remedy(), count: cuda::devices() }
    }
}

/// The work, in words.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub doing: &'static str,
    pub done: &'static str,
}

pub const TRAINING: Work = Work { doing: "training", done: "trained" };
pub const ANSWERING: Work = Work { doing: "answering", done: "answered" };

/// Why a GPU that is here is not used, where nobody asked for it by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Log(String),
    Warning(String),
}

/// The device for `work`; none is the CPU. `not_on_gpu` is what of it a GPU does not do.
///
/// # Errors
/// A GPU that was asked for by name and cannot be used: what is missing, and what to do.
pub fn choose(
    choice: DeviceChoice,
    work: Work,
    not_on_gpu: Option<String>,
) -> Result<(Option<Chosen>, Option<Said>), String> {
    choose_of(choice, work, not_on_gpu, &Gpus::here, &Driver::open)
}

/// As [`choose`], on a machine that is told.
///
/// # Errors
/// As there.
pub fn choose_of(
    choice: DeviceChoice,
    work: Work,
    not_on_gpu: Option<String>,
    look: &dyn Fn() -> Gpus,
    open: &dyn Fn(usize) -> Result<Arc<dyn Launcher>, CudaError>,
) -> Result<(Option<Chosen>, Option<Said>), String> {
    let Work { doing, done } = work;
    let ordinal = match choice {
        DeviceChoice::Cpu => return Ok((None, None)),
        DeviceChoice::Cuda(n) => {
            if let Some(what) = not_on_gpu {
                return Err(format!(
                    "device = \"cuda:{n}\": {what} is {done} on the CPU only yet: set device = \"cpu\""
                ));
            }
            usize::from(n)
        }
        DeviceChoice::Auto => {
            let gpus = look();
            let why_not = match (&gpus.remedy, gpus.count) {
                // No driver: a machine without a GPU, as most are.
                _ if !gpus.driver => return Ok((None, None)),
                (Some(remedy), _) => Some(format!("a GPU driver is here, but not all it takes: {remedy}")),
                (None, 0) => return Ok((None, None)),
                (None, _) => not_on_gpu.map(|what| format!("{what} is not {done} on a GPU yet")),
            };
            if let Some(why_not) = why_not {
                return Ok((None, Some(Said::Log(format!("{doing} on the CPU: {why_not}")))));
            }
            0
        }
    };
    match (open(ordinal), choice) {
        (Ok(launcher), _) => Ok((Some(Chosen { ordinal, launcher }), None)),
        (Err(error), DeviceChoice::Auto) => {
            let message = format!("{doing} on the CPU: cuda:{ordinal} cannot be used: {error}");
            Ok((None, Some(Said::Warning(message))))
        }
        (Err(error), _) => Err(format!("device = \"cuda:{ordinal}\": {error}")),
    }
}

/// Settings for the model in `dir`, where `choice` says; and what is to be said of that.
///
/// # Errors
/// As [`choose`]; a configuration that cannot be read.
pub fn settings_for(
    dir: &Path,
    choice: DeviceChoice,
    settings: Settings,
) -> Result<(Settings, Option<String>), String> {
    if choice == DeviceChoice::Cpu {
        return Ok((settings, None));
    }
    let dim = ModelConfig::load(dir).map_err(|e| e.to_string())?.head_dim;
    let (chosen, said) = choose(choice, ANSWERING, not_answered(dim))?;
    Ok(match chosen {
        Some(Chosen { ordinal, launcher }) => {
            let said = format!("answering on cuda:{ordinal} ({}) in bf16", launcher.name());
            (Settings { gpu: Some(OnGpu::new(launcher)), ..settings }, Some(said))
        }
        None => (settings, said.map(|(Said::Log(said) | Said::Warning(said))| said)),
    })
}

/// What of a model with attention heads of `dim` a GPU does not answer; none if it answers it.
pub fn not_answered(dim: usize) -> Option<String> {
    (!cuda::attention_takes(dim)).then(|| format!("attention with heads of {dim}"))
}
