//! `tunebench doctor`: what is wrong here, and the remedy.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::ask::{ask, block_on, unexpected};
use super::output::{Exit, Output};
use super::table::clean;
use super::trust::{self, Trust};
use crate::backend::cache as answers;
use crate::backend::endpoint;
use crate::domain::address::Address;
use crate::domain::api::{Request, Response};
use crate::domain::run::{RunRecord, RunState};
use crate::domain::settings::CachePlace;
use crate::domain::words::{bytes, counted};
use crate::engine::client::Client;
use crate::engine::protocol::VERSION;
use crate::machine;
use crate::ops::cuda;
use crate::store::files;
use crate::worker::folder::RunFolder;
use crate::workspace::config::ModelPlace;
use crate::workspace::{FILE, STATE, Workspace};

/// Below this much free space a training run's checkpoints may not fit.
const DISK_LOW: u64 = 2 << 30;
/// Below this much free memory a small model may not fit.
const MEMORY_LOW: u64 = 1 << 30;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rebuild the store from the journal and the run folders
    #[arg(long)]
    repair: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
    remedy: Option<String>,
}

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into(), remedy: None }
    }

    fn bad(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, ok: false, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let mut checks = vec![gpu(), cuda_libraries(), memory(), disk(root), temp()];
    if root.join(FILE).is_file() {
        checks.push(workspace(root));
        checks.extend(endpoints(root));
        checks.push(cache(root, args.repair));
        match files::state_dir(&root.join(STATE)) {
            Ok(()) => checks.extend(block_on(engine(root, args.repair))?),
            // No engine can start there; what it would say is not the cause.
            Err(error) => checks.push(Check::bad("folder", error.to_string(), files::UNWRITABLE)),
        }
    } else if args.repair {
        return Err(Exit::usage(format!("{} is no workspace: there is nothing to repair", root.display())));
    }
    let sound = checks.iter().all(|c| c.ok);
    out.result(&json!({ "checks": checks }), || {
        let mut text = String::new();
        for check in &checks {
            let mark = if check.ok { "ok  " } else { "FAIL" };
            text.push_str(&format!("{mark} {:10} {}\n", check.name, clean(&check.detail)));
            if let Some(remedy) = &check.remedy {
                text.push_str(&format!("     {:10} -> {}\n", "", clean(remedy)));
            }
        }
        text
    });
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A machine without a GPU is sound; doctor says what would make one useful.
fn gpu() -> Check {
    let cpu = "runs use the CPU";
    let nvml = match nvml_wrapper::Nvml::init() {
        Ok(nvml) => nvml,
        Err(_) => {
            return Check {
                remedy: Some(
                    "where the machine has an NVIDIA GPU, install its driver (nvidia-smi must work)".into(),
                ),
                ..Check::good("gpu", format!("no NVIDIA driver was found (libnvidia-ml.so.1); {cpu}"))
            };
        }
    };
    let driver = nvml.sys_driver_version().unwrap_or_else(|_| "unknown".into());
    let count = nvml.device_count().unwrap_or(0);
    let names: Vec<String> = (0..count)
        .filter_map(|at| {
            let device = nvml.device_by_index(at).ok()?;
            let memory = device.memory_info().ok()?;
            Some(format!(
                "{} ({:.0} of {:.0} GiB free)",
                device.name().ok()?,
                memory.free as f64 / (1u64 << 30) as f64,
                memory.total as f64 / (1u64 << 30) as f64
            ))
        })
        .collect();
    if names.is_empty() {
        return Check::good("gpu", format!("driver {driver}, no device; {cpu}"));
    }
    Check::good("gpu", format!("{}; driver {driver}", names.join(", ")))
}

/// Where CUDA's libraries are; without them runs use the CPU, and nothing is wrong.
fn cuda_libraries() -> Check {
    let found = cuda::libraries();
    let places: Vec<String> = found.all().iter().map(|(name, place)| format!("{name}: {place}")).collect();
    let detail = match found.missing()[..] {
        [] => places.join(", "),
        _ => format!("{}; runs use the CPU", places.join(", ")),
    };
    Check { remedy: found.remedy(), ..Check::good("cuda", detail) }
}

fn memory() -> Check {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let (free, total) = (machine::available_memory(), system.total_memory());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let detail = format!("{} of {} free, {}", bytes(free), bytes(total), counted(threads, "thread"));
    if free < MEMORY_LOW {
        return Check::bad("memory", detail, "end other programs, or use a smaller model or batch_size");
    }
    Check::good("memory", detail)
}

fn disk(root: &Path) -> Check {
    let Ok(stat) = rustix::fs::statvfs(root) else {
        return Check::bad(
            "disk",
            format!("{} cannot be looked at", root.display()),
            "name another folder with -C",
        );
    };
    let free = stat.f_bavail * stat.f_frsize;
    let detail = format!("{} free at {}", bytes(free), root.display());
    if free < DISK_LOW {
        return Check::bad("disk", detail, "make room: checkpoints and models need it");
    }
    Check::good("disk", detail)
}

fn temp() -> Check {
    match files::private_temp() {
        Ok(dir) => Check::good("temp", format!("{} is private", dir.display())),
        Err(error) => {
            Check::bad("temp", error.to_string(), "remove that folder, or set TMPDIR to one of your own")
        }
    }
}

fn workspace(root: &Path) -> Check {
    match Workspace::load(root) {
        Ok(ws) => Check::good("workspace", format!("{} is sound", ws.config.name)),
        Err(problems) => {
            let first = problems.0.first().map(ToString::to_string).unwrap_or_default();
            let more = match problems.0.len() {
                0 | 1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            Check::bad("workspace", format!("{first}{more}"), "`tunebench check` lists all problems")
        }
    }
}

/// Whether a server's answer says that the key is wrong or missing.
fn refuses_key(why: &str) -> bool {
    why.contains("401") || why.contains("403")
}

/// Whether the endpoints answer. A key is sent only where it was agreed to before.
fn endpoints(root: &Path) -> Vec<Check> {
    let Ok((ws, _)) = Workspace::open(root) else { return Vec::new() };
    let trust = Trust::load(root).ok();
    let mut checks = Vec::new();
    for (name, model) in &ws.config.models {
        let ModelPlace::Endpoint { endpoint, model: asked, .. } = &model.place else { continue };
        let Ok(address) = Address::parse(endpoint) else { continue };
        let need = model.place.key_need();
        let value = need.as_ref().and_then(|need| trust::value(&need.variable));
        let trusted = need.as_ref().is_some_and(|need| trust.as_ref().is_some_and(|trust| trust.knows(need)));
        let (key, with) = match (&need, value) {
            (None, _) => (None, String::new()),
            (Some(need), None) => (None, format!(" (asked without a key: {} is not set)", need.variable)),
            (Some(_), Some(value)) if trusted => (Some(value), String::new()),
            (Some(need), Some(_)) => {
                (None, format!(" (asked without the key in {}: it was not sent there before)", need.variable))
            }
        };
        let without = need.is_some() && key.is_none();
        checks.push(match endpoint::probe(&address, key, asked) {
            Ok((models, true)) => Check::good(
                "endpoint",
                format!(
                    "model `{name}`: {endpoint} answers, `{asked}` is one of {}{with}",
                    counted(models, "model")
                ),
            ),
            // Some list aliases and adapters nowhere.
            Ok((models, false)) => Check {
                remedy: Some(format!(
                    "check the name `{asked}`, unless the server takes names that it does not list"
                )),
                ..Check::good(
                    "endpoint",
                    format!(
                        "model `{name}`: {endpoint} answers, `{asked}` is none of its {}{with}",
                        counted(models, "model")
                    ),
                )
            },
            // Without its key it may refuse for that alone.
            Err(why) if without && refuses_key(&why) => {
                Check::good("endpoint", format!("model `{name}`: {endpoint}: {why}{with}"))
            }
            Err(why) => {
                let remedy = match &need {
                    Some(need) if refuses_key(&why) => {
                        format!("the server does not take the key in {}: set another", need.variable)
                    }
                    None if refuses_key(&why) => {
                        "the server wants a key: name the variable it is in with `api_key_env`".into()
                    }
                    _ => "start the server, or correct the address; it ends in /v1 with most servers".into(),
                };
                Check::bad("endpoint", format!("model `{name}`: {endpoint}: {why}"), &remedy)
            }
        });
    }
    checks
}

/// The response cache. Damage costs answers that are asked again, nothing else, and repair removes it.
fn cache(root: &Path, repair: bool) -> Check {
    let dir = CachePlace::folder(&root.join(STATE));
    let removed = if repair { answers::repair(&dir) } else { Ok(0) };
    match removed.and_then(|removed| Ok((removed, answers::survey(&dir)?))) {
        Ok((0, seen)) => {
            let remedy = (seen.damaged > 0).then(|| "`tunebench doctor --repair` removes them".to_owned());
            Check { remedy, ..Check::good("cache", super::cache::words(&seen)) }
        }
        Ok((removed, seen)) => {
            let removed = counted(removed, "damaged line");
            Check::good("cache", format!("{}; removed {removed}", super::cache::words(&seen)))
        }
        Err(error) => Check::bad(
            "cache",
            format!("{}: {error}", dir.display()),
            "remove that folder; answers are asked again and remembered anew",
        ),
    }
}

/// Engine, store and runs, as the engine tells. Starting it is a check in itself.
async fn engine(root: &Path, repair: bool) -> Result<Vec<Check>, Exit> {
    let mut checks = Vec::new();
    let ran = matches!(Client::connect(root).await, Ok(Some(_)));
    let client = match Client::connect_or_start(root).await {
        Ok(client) => client,
        Err(error) => {
            checks.push(Check::bad(
                "engine",
                format!("{error:#}"),
                "see .tunebench/engine.log; a store that cannot be opened can be moved away (.tunebench/store), it is rebuilt",
            ));
            return Ok(checks);
        }
    };
    let status = client.status().clone();
    let detail = format!(
        "version {}, process {}, {}",
        status.version,
        status.pid,
        if ran { "was running" } else { "started for this" }
    );
    checks.push(if status.version == VERSION {
        Check::good("engine", detail)
    } else {
        Check::bad("engine", detail, format!("this is {VERSION}; the engine is replaced when it is idle"))
    });
    if repair {
        let Response::Done { message } = ask(&client, Request::Repair).await? else {
            return Err(unexpected());
        };
        checks.push(Check::good("repair", message));
    }
    checks.push(match &status.notices[..] {
        [] => Check::good("store", "sound"),
        // What was mended by itself is told and is no failure; what was left out is one.
        notices if repair || !notices.iter().any(|n| n.contains("cannot")) => {
            Check::good("store", notices.join("; "))
        }
        notices => Check::bad(
            "store",
            notices.join("; "),
            "`tunebench doctor --repair` rebuilds it from journal and runs",
        ),
    });
    let Response::Runs { runs } = ask(&client, Request::Runs).await? else { return Err(unexpected()) };
    let damaged = damaged(root, &runs);
    checks.push(stale(&runs, &damaged));
    checks.extend(damaged.into_iter().map(|d| d.check));
    Ok(checks)
}

/// A run whose specification cannot be read.
struct Damaged {
    run: String,
    check: Check,
}

/// Runs that can neither go on nor be asked for what they made, since what they were to do cannot be read any more.
fn damaged(root: &Path, runs: &[RunRecord]) -> Vec<Damaged> {
    let of = |record: &RunRecord| {
        let folder = RunFolder::new(root.join(STATE).join("runs").join(&record.run));
        // A run that waits for another has no specification yet.
        if !folder.spec().exists() && record.state != RunState::Interrupted {
            return None;
        }
        let error = folder.read_spec().err()?;
        let what = if record.state == RunState::Done { "exported" } else { "resumed" };
        let detail = format!("{} is {} and cannot be {what}: {error:#}", record.run, record.state);
        let remedy = format!(
            "put the file back from a copy, or start it again (`tunebench run {}`) and remove {}",
            record.kind,
            folder.dir().display()
        );
        Some(Damaged { run: record.run.clone(), check: Check::bad("run", detail, remedy) })
    };
    runs.iter().filter_map(of).collect()
}

fn stale(runs: &[RunRecord], damaged: &[Damaged]) -> Check {
    let of = |state: RunState| {
        let sound = |r: &&RunRecord| damaged.iter().all(|d| d.run != r.run);
        runs.iter().filter(|r| r.state == state).filter(sound).map(|r| r.run.as_str()).collect::<Vec<_>>()
    };
    let interrupted = of(RunState::Interrupted);
    if interrupted.is_empty() {
        let under_way = runs.iter().filter(|r| !r.state.is_final()).count();
        return Check::good("runs", format!("{} in all, {under_way} under way", runs.len()));
    }
    Check::bad(
        "runs",
        format!("interrupted: {}", interrupted.join(", ")),
        format!("`tunebench runs resume {}` goes on from its last checkpoint", interrupted[0]),
    )
}
