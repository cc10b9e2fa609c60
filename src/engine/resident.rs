//! Launching what stays and answers: `serve` and the playground. They are frozen with the models they begin with, and no rows.

use super::state::{Engine, bad_input};
use super::{candidates, parts};
use crate::domain::api::Failure;
use crate::domain::candidate::{Candidate, ModelRef, ModelSource, StageCandidate};
use crate::domain::resident::{Bounds, PLAY_IDLE_S, PlaySettings, ServeSettings, Served};
use crate::domain::run::{Job, RunKind};
use crate::domain::words::nearest;
use crate::workspace::Workspace;
use crate::workspace::config::ModelPlace;

/// What is set for such a run; models and candidates may be named several times.
const SERVE_KEYS: &[&str] = &["model", "port", "at_once", "waiting", "cache_mib"];
const PLAY_KEYS: &[&str] = &["candidate", "idle_s", "at_once", "waiting", "cache_mib"];

/// The job that the settings ask for.
pub fn job(engine: &Engine, kind: RunKind, set: &[(String, String)]) -> Result<Job, Failure> {
    let ws = Workspace::load(&engine.root).map_err(|p| parts::problems(&p))?;
    let keys = if kind == RunKind::Serve { SERVE_KEYS } else { PLAY_KEYS };
    let (mut named, mut port, mut idle_s, mut bounds) = (Vec::new(), 0, PLAY_IDLE_S, Bounds::default());
    for (key, value) in set {
        match key.as_str() {
            _ if !keys.contains(&key.as_str()) => {
                let near = nearest(key, keys.iter().copied());
                let advice = near.map_or_else(|| keys.join(", "), |near| format!("did you mean `{near}`?"));
                return Err(bad_input(format!("`{key}` is no setting of a run of kind {kind}: {advice}")));
            }
            "port" => port = number(key, value, 0, u64::from(u16::MAX))? as u16,
            "idle_s" => idle_s = number(key, value, 1, 7 * 86_400)?,
            "at_once" => bounds.at_once = number(key, value, 1, 1024)? as usize,
            "waiting" => bounds.waiting = number(key, value, 0, 100_000)? as usize,
            "cache_mib" => bounds.cache_mib = Some(number(key, value, 1, 1 << 24)?),
            _ => named.push(value.as_str()),
        }
    }
    if kind == RunKind::Serve {
        let mut models: Vec<Served> = Vec::new();
        for name in named {
            for served in served(engine, &ws, name)? {
                match models.iter().find(|known| known.name == served.name) {
                    None => models.push(served),
                    Some(known) if *known == served => {}
                    Some(_) => {
                        return Err(bad_input(format!("two models would be called `{}`", served.name)));
                    }
                }
            }
        }
        if models.is_empty() {
            return Err(bad_input(
                "name what is to be served: a training run, a candidate or a model of workspace.toml",
            ));
        }
        return Ok(Job::Serve(ServeSettings { models, port, bounds }));
    }
    let resolve = |name: &str| candidates::resolve(engine, &ws, &parts::dataset(engine, &ws)?, Some(name));
    let candidates = named.into_iter().map(resolve).collect::<Result<Vec<Candidate>, _>>()?;
    Ok(Job::Playground(PlaySettings { candidates, bounds, idle_s }))
}

fn number(key: &str, value: &str, least: u64, most: u64) -> Result<u64, Failure> {
    let read = value.trim().parse::<u64>().ok().filter(|n| (least..=most).contains(n));
    read.ok_or_else(|| bad_input(format!("{key} = {value}: a number from {least} to {most} is expected")))
}

/// What a name stands for: a model of workspace.toml, or a candidate's adapters with the bases that they are on.
fn served(engine: &Engine, ws: &Workspace, name: &str) -> Result<Vec<Served>, Failure> {
    if let Some(entry) = ws.config.models.get(name) {
        let ModelPlace::Local { path } = &entry.place else {
            return Err(bad_input(format!(
                "`{name}` is behind an endpoint already; only local models are served"
            )));
        };
        let path = ws.resolve(path);
        let hash = super::models::model_hash(engine, &path)
            .map_err(|e| bad_input(format!("model `{name}`: {}: {e}", path.display())))?;
        let source = ModelSource::Local { path: path.display().to_string() };
        let model = ModelRef {
            name: name.to_owned(),
            source,
            hash,
            usd_per_million_input: entry.usd_per_million_input,
            usd_per_million_output: entry.usd_per_million_output,
            usd_per_hour: entry.usd_per_hour,
            limits: Default::default(),
            device: entry.device,
        };
        return Ok(vec![Served { name: name.to_owned(), model, adapter: None }]);
    }
    let candidate = match name.split_once('@') {
        Some((run, step)) => candidates::at_step(engine, run, step)?,
        None => candidates::find(engine, name).map(|known| known.candidate).map_err(|failure| {
            let models: Vec<&str> = ws.config.models.keys().map(String::as_str).collect();
            let message = format!("{}; models of workspace.toml: {}", failure.message, models.join(", "));
            Failure { message, ..failure }
        })?,
    };
    let local = |stage: &&StageCandidate| matches!(stage.model.source, ModelSource::Local { .. });
    let stages: Vec<&StageCandidate> = candidate.stages.iter().filter(local).collect();
    if stages.is_empty() {
        return Err(bad_input(format!("`{name}` has no model of this machine to serve")));
    }
    let mut found: Vec<Served> = Vec::new();
    let mut put = |name: String, stage: &StageCandidate, adapted: bool| {
        let adapter = if adapted { stage.adapter.clone() } else { None };
        let served = Served { name, model: stage.model.clone(), adapter };
        if !found.iter().any(|known| known.name == served.name) {
            found.push(served);
        }
    };
    let adapters = stages.iter().filter(|stage| stage.adapter.is_some()).count();
    for stage in stages {
        if stage.adapter.is_some() {
            let of_stage = if adapters == 1 { String::new() } else { format!(".{}", stage.name) };
            put(format!("{}{of_stage}", candidate.name), stage, true);
        }
        let of_file = ws.config.models.get(&stage.model.name).is_some_and(|entry| {
            match (&entry.place, &stage.model.source) {
                (ModelPlace::Local { path: of_file }, ModelSource::Local { path }) => {
                    ws.resolve(of_file) == std::path::Path::new(path)
                }
                _ => false,
            }
        });
        // A model that was trained whole has its base's name in the candidate, and is another one.
        let name = if of_file || stage.adapter.is_some() { &stage.model.name } else { &candidate.name };
        put(name.clone(), stage, false);
    }
    Ok(found)
}
