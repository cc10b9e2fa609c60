//! Where a training computes: the CPU, or a GPU where there is one that does what is asked.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::preflight::GpuMemory;
use crate::domain::event::EventBody;
use crate::domain::report::Reporter;
use crate::domain::settings::{DeviceChoice, TrainSettings};
use crate::model::trainable::Trainable;
use crate::ops::cuda::{self, CudaError, Driver, Launcher};

/// A GPU that was chosen, with nothing of the run on it yet.
#[derive(Debug)]
pub struct Chosen {
    ordinal: usize,
    launcher: Arc<dyn Launcher>,
}

impl Chosen {
    /// What it has free now.
    pub fn memory(&self) -> anyhow::Result<GpuMemory> {
        let free = self.launcher.memory()?.free as u64;
        Ok(GpuMemory { name: format!("cuda:{} ({})", self.ordinal, self.launcher.name()), free })
    }
}

/// The device that the settings ask for, none for the CPU; where there is something to say about it, it is said. An outline of the
/// model will do.
///
/// # Errors
/// A GPU that was asked for by name and cannot be used: what is missing, and what to do.
pub fn choose(
    model: &Trainable,
    settings: &TrainSettings,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Option<Chosen>> {
    let look = || {
        let found = cuda::libraries();
        Gpus { driver: found.driver.is_there(), remedy: found.remedy(), count: cuda::devices() }
    };
    choose_of(model, settings.device, &look, &Driver::open, reporter)
}

/// Moves the model to the GPU that was chosen, if one was.
///
/// # Errors
/// No room there.
pub fn place(
    model: &mut Trainable,
    chosen: Option<Chosen>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<()> {
    let Some(Chosen { ordinal, launcher }) = chosen else { return Ok(()) };
    let name = launcher.name();
    model.move_to(launcher).with_context(|| format!("cuda:{ordinal}"))?;
    let message =
        format!("training on cuda:{ordinal} ({name}) in bf16; dev rows are answered and scored on the CPU");
    reporter.event(EventBody::Log { message })?;
    Ok(())
}

/// What this machine has.
struct Gpus {
    driver: bool,
    /// For libraries that are missing.
    remedy: Option<String>,
    count: usize,
}

fn choose_of(
    model: &Trainable,
    choice: DeviceChoice,
    look: &dyn Fn() -> Gpus,
    open: &dyn Fn(usize) -> Result<Arc<dyn Launcher>, CudaError>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Option<Chosen>> {
    let ordinal = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Cuda(n) => {
            if let Some(what) = model.not_on_gpu() {
                bail!(
                    "device = \"cuda:{n}\": {what} is trained on the CPU only yet: set device = \"cpu\", or train without it"
                );
            }
            usize::from(n)
        }
        DeviceChoice::Auto => {
            let gpus = look();
            let why_not = match (&gpus.remedy, gpus.count) {
                // No driver: a machine without a GPU, as most are.
                _ if !gpus.driver => return Ok(None),
                (Some(remedy), _) => Some(format!("a GPU driver is here, but not all it takes: {remedy}")),
                (None, 0) => return Ok(None),
                (None, _) => model.not_on_gpu().map(|what| format!("{what} is not trained on a GPU yet")),
            };
            if let Some(why_not) = why_not {
                let message = format!("training on the CPU: {why_not}");
                reporter.event(EventBody::Log { message })?;
                return Ok(None);
            }
            0
        }
    };
    match (open(ordinal), choice) {
        (Ok(launcher), _) => Ok(Some(Chosen { ordinal, launcher })),
        (Err(error), DeviceChoice::Auto) => {
            let message = format!("training on the CPU: cuda:{ordinal} cannot be used: {error}");
            reporter.event(EventBody::Warning { message })?;
            Ok(None)
        }
        (Err(error), _) => bail!("device = \"cuda:{ordinal}\": {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cuda::Emulator;
    use crate::tuning::train::tests::recorder::{Recorder, steps};
    use crate::tuning::train::tests::{examples, model_with_heads_of, settings};
    use crate::tuning::train::{Data, End, Past, fit, no_samples, state};

    const GPU: &dyn Fn() -> Gpus = &|| Gpus { driver: true, remedy: None, count: 1 };

    fn broken(_: usize) -> Result<Arc<dyn Launcher>, CudaError> {
        Err(CudaError::call("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICES_UNAVAILABLE"))
    }

    /// Whether a GPU does the work, and what was said.
    fn placed(
        model: &mut Trainable,
        choice: DeviceChoice,
        look: &dyn Fn() -> Gpus,
        open: &dyn Fn(usize) -> Result<Arc<dyn Launcher>, CudaError>,
    ) -> anyhow::Result<(bool, Vec<EventBody>)> {
        let mut recorder = Recorder::new();
        let chosen = choose_of(model, choice, look, open, &mut recorder)?;
        place(model, chosen, &mut recorder)?;
        Ok((model.on_gpu(), recorder.events))
    }

    #[test]
    fn auto_stays_on_the_cpu_where_no_gpu_can_be_used_and_says_why_once() {
        let mut fits = model_with_heads_of(8, 1);
        let none = || Gpus { driver: false, remedy: Some("a driver".into()), count: 0 };
        let (on_gpu, said) = placed(&mut fits, DeviceChoice::Auto, &none, &broken).unwrap();
        assert!(!on_gpu && said.is_empty(), "a machine without a GPU is nothing to talk about: {said:?}");

        let missing = || Gpus { driver: true, remedy: Some("pip install nvidia-cublas".into()), count: 1 };
        let mut small = model_with_heads_of(4, 1);
        let cases: [(&mut Trainable, &dyn Fn() -> Gpus, &str); 3] = [
            (&mut fits, &missing, "pip install nvidia-cublas"),
            (&mut small, GPU, "heads of 4"),
            (&mut model_with_heads_of(8, 2), GPU, "DEVICES_UNAVAILABLE"),
        ];
        for (model, look, word) in cases {
            let (on_gpu, said) = placed(model, DeviceChoice::Auto, look, &broken).unwrap();
            let [EventBody::Log { message } | EventBody::Warning { message }] = said.as_slice() else {
                panic!("{said:?}")
            };
            assert!(!on_gpu && message.contains("on the CPU") && message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_gpu_that_was_asked_for_and_cannot_be_used_is_an_error() {
        let choice = DeviceChoice::Cuda(3);
        let error = placed(&mut model_with_heads_of(8, 1), choice, GPU, &broken).unwrap_err().to_string();
        assert!(error.contains("cuda:3") && error.contains("DEVICES_UNAVAILABLE"), "{error}");
        let Some(launcher) = Emulator::new(0) else { return };
        let open = move |_: usize| Ok(launcher.clone());
        let error = placed(&mut model_with_heads_of(4, 1), choice, GPU, &open).unwrap_err().to_string();
        assert!(error.contains("heads of 4") && error.contains("device = \"cpu\""), "{error}");
    }

    #[test]
    fn the_loop_on_a_gpu_follows_the_cpus_and_resumes_bit_for_bit() {
        if Emulator::new(0).is_none() {
            return;
        }
        let settings =
            crate::domain::settings::TrainSettings { max_steps: Some(4), eval_every: 2, ..settings() };
        let (train, dev) = (examples(12, 0), examples(3, 100));
        let go = |device: DeviceChoice, recorder: &mut Recorder| {
            let mut model = model_with_heads_of(8, 1);
            let open = |_: usize| Ok(Emulator::new(0).unwrap());
            let chosen = choose_of(&model, device, GPU, &open, recorder).unwrap();
            place(&mut model, chosen, recorder).unwrap();
            let from = recorder.newest().map(|dir| {
                let state = state::read(&dir).unwrap();
                state::load_model(&dir, &mut model).unwrap();
                state
            });
            let data = Data { train: &train, dev: &dev };
            let past = Past { state: from, ..Past::default() };
            fit(&mut model, data, &settings, past, &mut no_samples, recorder)
        };
        let (mut cpu, mut gpu, mut killed) = (Recorder::new(), Recorder::new(), Recorder::new());
        assert_eq!(go(DeviceChoice::Cpu, &mut cpu).unwrap().end, End::Done);
        assert_eq!(go(DeviceChoice::Auto, &mut gpu).unwrap().end, End::Done);
        let (wanted, found) = (steps(&cpu.events), steps(&gpu.events));
        assert_eq!(found.len(), 4);
        for (f, w) in found.iter().zip(&wanted) {
            assert!((f.1 / w.1 - 1.0).abs() < 0.03 && (f.2 / w.2 - 1.0).abs() < 0.1, "{f:?} wanted {w:?}");
        }
        for ((_, f), (_, w)) in gpu.evals().iter().zip(&cpu.evals()) {
            assert!((f / w - 1.0).abs() < 0.03, "dev loss {f} wanted {w}");
        }
        let poll = gpu.last_poll_of_step(4);
        killed.script = Box::new(move |at| {
            if at == poll {
                Err(std::io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(crate::domain::report::Control::Continue)
            }
        });
        go(DeviceChoice::Auto, &mut killed).unwrap_err();
        killed.script = Box::new(|_| Ok(crate::domain::report::Control::Continue));
        go(DeviceChoice::Auto, &mut killed).unwrap();
        assert_eq!(steps(&killed.events), found);
    }
}
