//! The `train` run over its run folder: rows to examples, the loop, the best checkpoint to an artifact, and its score.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::artifact;
use super::device;
use super::examples;
use super::fit::{Data, End, Fitted, Past, fit};
use super::fixed_rows::FixedRows;
use super::preflight;
use super::state::{self, TrainerState};
use super::subject::{ADAPTER, Subject};
use super::too_large::TooLarge;
use crate::backend::Access;
use crate::domain::event::EventBody;
use crate::domain::preflight::figures as lesson;
use crate::domain::report::{Reporter, RunInputs};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunResult;
use crate::domain::run::SELECTED_AMONG;
use crate::domain::settings::{EvalSettings, TrainSettings};
use crate::machine;
use crate::model::trainable::Trainable;
use crate::model::{Base, ModelConfig};
use crate::tuning::evaluate;
use crate::tuning::scoring::Scoring;

/// Train the run's candidate and score what comes of it on the eval part.
pub fn run(
    settings: &TrainSettings,
    eval: &EvalSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    check(settings)?;
    let spec = &inputs.spec;
    let subject = Subject::new(spec, settings)?;
    let config = ModelConfig::load(&subject.base)?;
    let rows = |part: Part| inputs.rows.iter().filter(move |row| row.part == Some(part));

    let max_length = settings.max_length.min(config.max_positions);
    let train = examples::build(rows(Part::Train), &subject, max_length, settings.turns);
    let dev = examples::build(rows(Part::Dev), &subject, max_length, settings.turns);
    let mut warnings = train.warnings("train", max_length);
    warnings.extend(dev.warnings("dev", max_length));
    if dev.examples.is_empty() {
        warnings.push("no dev rows: nothing tells the best step, the last one is taken".into());
    }
    for message in warnings {
        reporter.event(EventBody::Warning { message })?;
    }
    for message in examples::mask_gate(&train, &inputs.rows, &subject)? {
        reporter.event(EventBody::Log { message })?;
    }

    let data = Data { train: &train.examples, dev: &dev.examples };
    ensure!(!data.train.is_empty(), "no row to train on");
    let hash = &subject.stage.model.hash;
    let shares = settings.method.trains_adapter();
    // Where another run of this process holds the base, it is neither read nor held twice.
    let shared = if shares { Base::held(&subject.base, hash, settings.method.is_quantized()) } else { None };
    let files = if shared.is_some() { 0 } else { preflight::weights_on_disk(&subject.base) };
    let held = machine::resident().unwrap_or(0).saturating_sub(shared.unwrap_or(0));
    let chosen = device::choose(&preflight::outline(&config, settings, spec.threads)?, settings, reporter)?;
    let gpu = chosen.as_ref().map(device::memory).transpose()?;
    let threads = spec.threads;
    let asked = preflight::Asked { config: &config, files, data, settings, threads, held, gpu: gpu.as_ref() };
    let plan = preflight::reckon(&asked, spec.past.as_ref(), machine::available_memory())?;
    reporter.event(EventBody::Preflight(plan.report.clone()))?;

    let quantized = settings.method.is_quantized();
    let Base { decoder, buffers } =
        // Where the weights change, they are nobody else's.
        if shares { Base::open(&subject.base, hash, quantized)? } else { Base::load(&subject.base, quantized)? };
    let start = spec.from.as_ref().map(|_| inputs.dir.join("inputs/start"));
    let mut model = subject.start(settings, decoder, spec.threads, start.as_deref())?;
    model.share_buffers(buffers.clone());
    model.grant_activations(plan.grant);
    let on_device = |error| TooLarge::from_device(error, &asked, &plan.report.memory);
    device::place(&mut model, chosen, reporter).map_err(on_device)?;
    preflight::rehearse(&mut model, data, settings).map_err(on_device)?;
    let state = match (&inputs.resume_from, &start) {
        (Some(newest), _) => resume(newest, &mut model, reporter)?,
        (None, Some(start)) => {
            branch(start, &mut model)?;
            None
        }
        (None, None) => None,
    };
    if let (Some(_), Some(lora), None) = (&subject.stage.adapter, model.adapter(), &spec.from) {
        let message = format!(
            "goes on with the candidate's adapter (rank {}, alpha {}): method, rank, alpha, targets and init of the settings do not apply",
            lora.rank, lora.alpha
        );
        reporter.event(EventBody::Warning { message })?;
    }
    if let Some(from) = &spec.from {
        let message = format!("a branch of {from}: its weights and moments; rows and schedule begin anew");
        reporter.event(EventBody::Log { message })?;
    }
    let message = format!(
        "{} rows ({} trained tokens an epoch), {} dev rows, {} trained parameters",
        train.examples.len(),
        train.examples.iter().map(|e| e.sequence.targets()).sum::<usize>(),
        dev.examples.len(),
        model.parameters()
    );
    reporter.event(EventBody::Log { message })?;

    let fixed =
        FixedRows::choose(&dev.examples, &inputs.rows, settings.fixed_rows, &subject, eval, spec.threads);
    let from_step = state.as_ref().map_or(0, |state| state.step);
    let past = Past { state, history: inputs.history.clone() };
    let fitted = fit(&mut model, data, settings, past, &mut |model| fixed.answer(model), reporter)
        .map_err(on_device)?;
    if fitted.end == End::Cancelled {
        return Ok(RunResult { stopped: true, ..RunResult::default() });
    }

    // Of this process: where others trained beside it, it says nothing about this run.
    let of_process = machine::peak_resident().filter(|_| !buffers.joined());
    let peak = if model.on_gpu() { model.peak_on_gpu() } else { of_process };
    drop(buffers);
    let used = take_best(&fitted, &inputs.dir, &mut model, reporter)?;
    model.bring_home()?;
    let trained = artifact::write(&inputs.dir.join("artifacts"), settings.method, &model, &subject.base)?;
    drop(model);
    let message = format!("the model of step {used} is in {}", trained.place());
    reporter.event(EventBody::Log { message })?;

    let candidate = trained.candidate(subject.candidate, subject.stage_at, &spec.id);
    let mut metrics = figures(&fitted.state, used);
    let share = (fitted.state.step - from_step) as f64 / plan.report.steps.max(1) as f64;
    metrics.extend(gpu.iter().map(|_| (lesson::ON_GPU.to_owned(), 1.0)));
    metrics.extend(lessons(&plan, fitted.worked.as_secs_f64(), share, peak));
    let stopped = fitted.end == End::Stopped;
    let eval_rows: Vec<RunRow> = rows(Part::Eval).cloned().collect();
    if eval_rows.is_empty() {
        let message = "no eval rows: the trained candidate has no score".into();
        reporter.event(EventBody::Warning { message })?;
    } else {
        let mut scoring = Scoring { reporter, stop_is_answered: stopped, outcomes: Vec::new() };
        let access = Access { device: settings.scoring_device(), ..Access::of(inputs) };
        metrics.extend(evaluate::candidate(&candidate, &eval_rows, eval, &[], &access, &mut scoring)?);
        metrics.extend(evaluate::sets(&candidate, &inputs.sets, &access, &mut scoring)?.metrics);
    }
    Ok(RunResult { metrics, candidate: Some(candidate), stopped, part: None })
}

/// What no run could work with. The engine checks the same at launch; a run folder may come from elsewhere.
pub(super) fn check(s: &TrainSettings) -> anyhow::Result<()> {
    ensure!(s.objective == "sft", "objective = \"{}\": `sft` is the only objective yet", s.objective);
    let positive = [
        ("learning_rate", s.learning_rate),
        ("epochs", s.epochs),
        ("epsilon", s.epsilon),
        ("batch_size", s.batch_size as f64),
        ("accumulate", s.accumulate as f64),
        ("max_length", s.max_length as f64),
    ];
    for (name, value) in positive {
        ensure!(value.is_finite() && value > 0.0, "{name} = {value}: expected a number above 0");
    }
    for (name, value) in [("weight_decay", s.weight_decay), ("max_grad_norm", s.max_grad_norm)] {
        ensure!(value.is_finite() && value >= 0.0, "{name} = {value}: expected 0 or a number above it");
    }
    ensure!(
        (0.0..=1.0).contains(&s.warmup),
        "warmup = {}: expected a share of the steps, from 0 to 1",
        s.warmup
    );
    for (name, value) in [("beta1", s.beta1), ("beta2", s.beta2)] {
        ensure!((0.0..1.0).contains(&value), "{name} = {value}: expected a number from 0 to below 1");
    }
    Ok(())
}

/// Bring `model` to the weights of the checkpoint in `start`, and the optimizer to its moments where it has the same parameters.
fn branch(start: &Path, model: &mut Trainable) -> anyhow::Result<()> {
    state::read(start).context("the checkpoint that this run branches from cannot be used")?;
    // Merged already: every weight is trained on, and an adapter's moments say nothing of them.
    if model.adapter().is_none() && start.join(ADAPTER).is_file() {
        return Ok(());
    }
    state::load_model(start, model)
        .context("a branch keeps method, rank, alpha and targets of the run that it branches from")
}

/// The state of the newest checkpoint that is whole, loaded into `model`; none when there is none.
fn resume(
    newest: &Path,
    model: &mut Trainable,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Option<TrainerState>> {
    let parent = newest.parent().unwrap_or(newest);
    let mut all: Vec<PathBuf> = fs::read_dir(parent)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| step_of(path).is_some_and(|step| Some(step) <= step_of(newest)))
        .collect();
    all.sort_by_key(|path| step_of(path));
    while let Some(dir) = all.pop() {
        match state::read(&dir) {
            Ok(state) => {
                state::load_model(&dir, model)?;
                return Ok(Some(state));
            }
            Err(e) if all.is_empty() => {
                return Err(anyhow::Error::new(e).context("no checkpoint can be used"));
            }
            Err(e) => {
                let message = format!("a checkpoint cannot be used, the one before it is taken: {e}");
                reporter.event(EventBody::Warning { message })?;
            }
        }
    }
    Ok(None)
}

/// Bring `model` to the best step; returns the step it stands at.
fn take_best(
    fitted: &Fitted,
    run_dir: &Path,
    model: &mut Trainable,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<u64> {
    let best = fitted.best_step();
    if best == fitted.state.step {
        return Ok(best);
    }
    let dir = checkpoint_folder(run_dir, best);
    match state::read(&dir) {
        Ok(_) => {
            state::load_model(&dir, model)?;
            Ok(best)
        }
        Err(e) => {
            let message = format!("the best checkpoint cannot be used, the last step is taken: {e}");
            reporter.event(EventBody::Warning { message })?;
            Ok(fitted.state.step)
        }
    }
}

fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Where the reporter puts the checkpoint of a step.
pub(super) fn checkpoint_folder(run_dir: &Path, step: u64) -> PathBuf {
    run_dir.join("checkpoints").join(format!("step-{step:06}"))
}

/// The figures of the loop. `loss` and `eval_loss` are those of the events; `eval_loss` is the best one.
fn figures(state: &TrainerState, used: u64) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::from([
        ("steps".to_owned(), state.step as f64),
        ("best_step".to_owned(), used as f64),
        ("trained_tokens".to_owned(), state.trained_tokens as f64),
        (SELECTED_AMONG.to_owned(), state.evals as f64),
    ]);
    let losses =
        [("loss", state.last_loss), ("eval_loss", state.best_loss), ("eval_loss_before", state.loss_before)];
    metrics.extend(losses.into_iter().filter_map(|(name, loss)| Some((name.to_owned(), loss?))));
    metrics
}

/// What the run took beside what was reckoned: later runs learn from it ([`crate::domain::preflight::PastRuns`]). `share` is
/// the part of the work that was done in `seconds`.
fn lessons(plan: &preflight::Plan, seconds: f64, share: f64, peak: Option<u64>) -> Vec<(String, f64)> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let eta = plan.report.eta_ms.map(|ms| ms as f64 / 1e3);
    let speed = (seconds > 0.0 && share > 0.0).then(|| plan.flops * share / seconds);
    let all = [
        (lesson::RECKONED_MIB, Some(mib(plan.reckoned))),
        (lesson::ESTIMATED_MIB, Some(mib(plan.report.peak))),
        (lesson::PEAK_MIB, peak.map(mib)),
        (lesson::ESTIMATED_SECONDS, eta),
        (lesson::TRAIN_SECONDS, Some(seconds)),
        (lesson::FLOPS_PER_S, speed),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
