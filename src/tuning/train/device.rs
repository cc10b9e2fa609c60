//! Where a training computes: the CPU, or a GPU where there is one that does what is asked.

use anyhow::Context as _;

use super::preflight::GpuMemory;
use crate::backend::device::{self, Said, TRAINING};
use crate::domain::event::EventBody;
use crate::domain::report::Reporter;
use crate::domain::settings::TrainSettings;
use crate::model::trainable::Trainable;

pub use crate::backend::device::Chosen;

/// What a chosen GPU has free now.
pub fn memory(chosen: &Chosen) -> anyhow::Result<GpuMemory> {
    let free = chosen.launcher.memory()?.free as u64;
    Ok(GpuMemory { name: format!("cuda:{} ({})", chosen.ordinal, chosen.launcher.name()), free })
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
    told(device::choose(settings.device, TRAINING, model.not_on_gpu()), reporter)
}

/// Says what is to be said of a choice.
fn told(
    chosen: Result<(Option<Chosen>, Option<Said>), String>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Option<Chosen>> {
    let (chosen, said) = chosen.map_err(anyhow::Error::msg)?;
    match said {
        Some(Said::Log(message)) => reporter.event(EventBody::Log { message })?,
        Some(Said::Warning(message)) => reporter.event(EventBody::Warning { message })?,
        None => {}
    }
    Ok(chosen)
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
    let message = format!("training on cuda:{ordinal} ({name}) in bf16");
    reporter.event(EventBody::Log { message })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::device::{Gpus, choose_of};
    use crate::domain::settings::DeviceChoice;
    use crate::ops::cuda::{CudaError, Emulator, Launcher};
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
        let chosen = choose_of(choice, TRAINING, model.not_on_gpu(), look, open);
        let chosen = told(chosen, &mut recorder)?;
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
            let chosen = choose_of(device, TRAINING, model.not_on_gpu(), GPU, &open);
            let chosen = told(chosen, recorder).unwrap();
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
