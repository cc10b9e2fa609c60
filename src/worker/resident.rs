//! The worker of a resident run: makes room, loads the models, lets `serve` or the playground answer, and tells how they fare.
//!
//! It never takes the lock of the device: batch runs go on beside it. On the CPU it takes half the threads while one does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::control::Requests;
use super::folder::RunFolder;
use super::neighbours::{self, Neighbour};
use super::play::Playground;
use super::reporter::FolderReporter;
use crate::backend::models::{Footprint, Models};
use crate::domain::candidate::{ModelRef, ModelSource};
use crate::domain::event::EventBody;
use crate::domain::report::{Reporter as _, RunInputs};
use crate::domain::resident::{Bounds, address};
use crate::domain::run::{Job, RunResult, RunState};
use crate::domain::words::bytes;
use crate::machine;
use crate::serve::Server;
use crate::store::files::{self, Lock};

/// Time between two looks at what was asked of the run.
const TICK: Duration = Duration::from_millis(250);
/// Time between two tellings of figures that changed.
const TELL: Duration = Duration::from_secs(5);
/// Answers under way have so long to end when the run is stopped.
const DRAIN: Duration = Duration::from_secs(30);
/// Share of the free memory that may be planned with, as for training.
const SHARE: f64 = 0.9;
/// Bases that a playground holds at once: two candidates side by side.
const PLAY_BASES: usize = 2;

/// What answers, whichever way.
enum Service {
    Serve(Server),
    Play(Playground),
}

impl Service {
    fn stop(&self) {
        match self {
            Self::Serve(server) => server.stop(),
            Self::Play(playground) => playground.stop(),
        }
    }

    /// Nobody is being answered any more.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Serve(server) => server.is_quiet(),
            Self::Play(playground) => playground.is_quiet(),
        }
    }
}

/// From loading to leaving. None: cancelled.
pub fn run(
    inputs: &RunInputs,
    folder: &RunFolder,
    requests: &Requests,
    reporter: &mut FolderReporter,
) -> anyhow::Result<Option<RunResult>> {
    let spec = &inputs.spec;
    let (bounds, wanted) = wanted(&spec.job);
    let device = files::private_temp()?.join("device-cpu.lock");
    let mut neighbour = Neighbour {
        name: format!("{} of {}", spec.id, spec.workspace),
        kind: spec.job.kind(),
        pid: std::process::id(),
        promised: promised(&wanted, &bounds)?,
        control: folder.control()?,
    };
    if !make_room(&mut neighbour, &device, requests, reporter)? {
        return Ok(None);
    }
    let entry = neighbours::enter(&neighbour).context("cannot say that this run is here")?;
    let most = if matches!(spec.job, Job::Serve(_)) { usize::MAX } else { PLAY_BASES };
    let models = Arc::new(Models::new(spec.threads, bounds, most));
    let (service, address) = match &spec.job {
        Job::Serve(settings) => {
            let token = folder.token();
            let server = Server::start(&settings.models, &models, settings.port, &token)?;
            let names: Vec<&str> = settings.models.iter().map(|m| m.name.as_str()).collect();
            let message = format!("token in {}", token.display());
            reporter.event(EventBody::Log { message })?;
            let address = address(&server.url(), &names);
            (Service::Serve(server), address)
        }
        Job::Playground(settings) => {
            for candidate in &settings.candidates {
                for stage in candidate.stages.iter().filter(|s| is_local(&s.model)) {
                    models.open(&stage.model, stage.adapter.as_ref())?;
                }
            }
            let socket = folder.play()?;
            let access = crate::backend::Access {
                keys: inputs.keys.clone(),
                ..crate::backend::Access::threads(spec.threads)
            };
            (Service::Play(Playground::start(&socket, &models, access)?), "answers the playground".to_owned())
        }
        _ => bail!("{} is no run that stays", spec.id),
    };
    reporter.state(RunState::Running, Some(address.clone()))?;
    let ended = stay(&service, &models, spec.threads, &device, &spec.job, &address, requests, reporter);
    if ended.is_err() || requests.cancelled() {
        service.stop();
    }
    models.close();
    drop(entry);
    let metrics = models.figures().metrics();
    ended.map(|stopped| stopped.map(|stopped| RunResult { metrics, candidate: None, stopped, part: None }))
}

/// Answers until it is asked to end, or nobody asks any more. Some(whether it was asked to); none: cancelled.
fn stay(
    service: &Service,
    models: &Models,
    threads: usize,
    device: &Path,
    job: &Job,
    address: &str,
    requests: &Requests,
    reporter: &mut FolderReporter,
) -> anyhow::Result<Option<bool>> {
    let mut told: BTreeMap<String, f64> = BTreeMap::new();
    let mut told_at = Instant::now();
    let mut paused = false;
    loop {
        requests.nap(TICK);
        if requests.cancelled() {
            return Ok(None);
        }
        if let Some(fault) = models.fault() {
            bail!(fault);
        }
        if requests.stopped() {
            return drain(service, requests, reporter);
        }
        if let (Service::Play(playground), Job::Playground(settings)) = (service, job)
            && playground.idle() >= Duration::from_secs(settings.idle_s.max(1))
        {
            service.stop();
            return Ok(Some(false));
        }
        let pause = requests.now().is_none();
        if let Service::Serve(server) = service
            && pause != paused
        {
            paused = pause;
            server.pause(pause);
            let (state, message) = if pause {
                (RunState::Paused, format!("refuses requests ({address})"))
            } else {
                (RunState::Running, address.to_owned())
            };
            reporter.state(state, Some(message))?;
        }
        let beside = Lock::is_held(device);
        models.use_threads(if beside { (threads / 2).max(1) } else { threads });
        if told_at.elapsed() >= TELL {
            told_at = Instant::now();
            let metrics = models.figures().metrics();
            if metrics != told {
                reporter.event(EventBody::Figures { metrics: metrics.clone() })?;
                told = metrics;
            }
        }
    }
}

/// Takes nothing more, and lets what is under way come to its end, within a limit.
fn drain(
    service: &Service,
    requests: &Requests,
    reporter: &mut FolderReporter,
) -> anyhow::Result<Option<bool>> {
    service.stop();
    let until = Instant::now() + DRAIN;
    while !service.is_quiet() && Instant::now() < until {
        if requests.cancelled() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if !service.is_quiet() {
        let message = format!("some answers did not end within {} s and were broken off", DRAIN.as_secs());
        reporter.event(EventBody::Warning { message })?;
    }
    Ok(Some(true))
}

fn is_local(model: &ModelRef) -> bool {
    matches!(model.source, ModelSource::Local { .. })
}

/// The models that the run begins with.
fn wanted(job: &Job) -> (Bounds, Vec<&ModelRef>) {
    match job {
        Job::Serve(settings) => (settings.bounds, settings.models.iter().map(|m| &m.model).collect()),
        Job::Playground(settings) => {
            let stages = settings.candidates.iter().flat_map(|c| &c.stages);
            (settings.bounds, stages.map(|s| &s.model).filter(|m| is_local(m)).collect())
        }
        Job::Strata(_)
        | Job::Eval(_)
        | Job::Judge(_)
        | Job::Prompt { .. }
        | Job::Trajectory { .. }
        | Job::Grow { .. }
        | Job::Train { .. }
        | Job::LrRange { .. } => (Bounds::default(), Vec::new()),
    }
}

/// Bytes that they come to hold, each base once.
fn promised(models: &[&ModelRef], bounds: &Bounds) -> anyhow::Result<u64> {
    let mut seen: Vec<&str> = Vec::new();
    let mut sum = 0;
    for model in models {
        let ModelSource::Local { path } = &model.source else { continue };
        if !seen.contains(&model.hash.as_str()) {
            seen.push(&model.hash);
            sum += Footprint::of(&PathBuf::from(path), bounds)
                .with_context(|| format!("the model `{}`", model.name))?
                .total();
        }
    }
    Ok(sum)
}

/// Waits until there is memory for it beside the batch run that is under way. False: it was asked to end meanwhile.
///
/// # Errors
/// It does not fit, and nobody is there whose end would help.
fn make_room(
    mine: &mut Neighbour,
    device: &Path,
    requests: &Requests,
    reporter: &mut FolderReporter,
) -> anyhow::Result<bool> {
    let mut said = String::new();
    loop {
        let others = neighbours::living();
        machine::leave_to_others(neighbours::still_promised(&others));
        let available = machine::available_memory();
        if mine.promised <= (available as f64 * SHARE) as u64 {
            return Ok(true);
        }
        let batch = Lock::is_held(device).then(|| std::fs::read_to_string(device).unwrap_or_default());
        let mut names: Vec<String> = batch.into_iter().filter(|name| !name.trim().is_empty()).collect();
        names.extend(others.iter().map(|other| other.name.clone()));
        let need = format!("takes up to {} and {} of memory is free", bytes(mine.promised), bytes(available));
        if names.is_empty() {
            bail!("it {need}; serve fewer or smaller models, or set a smaller cache_mib or at_once");
        }
        let message = format!("waits for {} to end: it {need}", names.join(" and "));
        if said.is_empty() {
            reporter.state(RunState::Queued, Some(message.clone()))?;
            said = message;
        }
        requests.nap(Duration::from_millis(500));
        if requests.cancelled() || requests.stopped() {
            return Ok(false);
        }
    }
}
