//! Sweeps: runs launched as a group, and those stopped that fall behind.

use std::collections::{HashMap, HashSet};
use std::fs;

use super::ingest::LaunchFile;
use super::launch;
use super::state::{Engine, bad_input, failed};
use crate::domain::api::Failure;
use crate::domain::event::{Event, EventBody};
use crate::domain::keys::Keys;
use crate::domain::run::{RunAction, RunKind, RunState};
use crate::domain::sweep::{Axis, Group, Losses, combinations, hopeless};
use crate::domain::words::counted;
use crate::store::{files, lines};
use crate::worker::control::{self, Ask};
use crate::worker::folder::RunFolder;

/// Most bytes of events read at once.
const BUDGET: u64 = 1 << 20;

/// Launch a training run for every combination; all of them are checked before the first is made. Returns the group and its runs.
pub fn launch(
    engine: &Engine,
    set: &[(String, String)],
    axes: &[Axis],
    drop_hopeless: bool,
    keys: &Keys,
) -> Result<(String, Vec<String>), Failure> {
    let combinations = combinations(axes).map_err(bad_input)?;
    let sets: Vec<Vec<(String, String)>> =
        combinations.into_iter().map(|own| set.iter().cloned().chain(own).collect()).collect();
    let mut name = String::new();
    let runs = launch::launch_group(engine, RunKind::Train, sets, keys, || {
        name = fresh_name(engine);
        Some(Group { name: name.clone(), drop_hopeless })
    })?;
    Ok((name, runs))
}

/// `sweep-<n>`, with the next free number.
fn fresh_name(engine: &Engine) -> String {
    let number = |name: &str| name.strip_prefix("sweep-")?.parse::<u64>().ok();
    let last = engine.read(|state| {
        state.runs.values().filter_map(|r| number(&r.record.group.as_ref()?.name)).max().unwrap_or(0)
    });
    format!("sweep-{}", last + 1)
}

/// From now on stop the runs of a group that fall behind, or leave them alone.
pub fn set_drop(engine: &Engine, group: &str, on: bool) -> Result<String, Failure> {
    let members: Vec<(String, RunFolder)> = engine.read(|state| {
        let of_group = |g: &Option<Group>| g.as_ref().is_some_and(|g| g.name == group);
        let members = state.runs.values().filter(|r| of_group(&r.record.group));
        members.map(|r| (r.record.run.clone(), r.folder.clone())).collect()
    });
    if members.is_empty() {
        return Err(bad_input(format!("no sweep is called `{group}`")));
    }
    let now = Group { name: group.to_owned(), drop_hopeless: on };
    for (run, folder) in &members {
        let io = |e: std::io::Error| failed(format!("{run}: {e}"));
        let bytes = fs::read(folder.launch()).map_err(io)?;
        let launch: LaunchFile = serde_json::from_slice(&bytes).map_err(|e| io(e.into()))?;
        files::write_json(&folder.launch(), &LaunchFile { group: Some(now.clone()), ..launch })
            .map_err(io)?;
    }
    engine.update(|state| {
        let version = state.version;
        for (run, _) in &members {
            if let Some(run) = state.runs.get_mut(run) {
                run.record.group = Some(now.clone());
                run.version = version;
            }
        }
    });
    let runs = counted(members.len(), "run");
    Ok(if on {
        format!("hopeless ones of the {runs} of {group} will be stopped")
    } else {
        format!("none of the {runs} of {group} will be stopped for being behind")
    })
}

/// Dev losses of runs in groups whose hopeless ones are dropped.
#[derive(Debug, Default)]
pub struct Judge {
    known: HashMap<String, Known>,
    /// Once each: who resumes one of them wants it to go on.
    stopped: HashSet<String>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the newest event looked at, and the byte offset after it.
    seq: u64,
    offset: u64,
    losses: Losses,
}

impl Judge {
    /// Looks at what is new, and stops the runs that became hopeless by it.
    pub fn look(&mut self, engine: &Engine) {
        let members: Vec<(String, String, RunFolder, u64, bool)> = engine.read(|state| {
            let grouped = state.runs.values().filter_map(|r| Some((r.record.group.as_ref()?, r)));
            grouped
                .filter(|(group, _)| group.drop_hopeless)
                .map(|(group, r)| {
                    let running = r.active && r.record.state == RunState::Running;
                    (group.name.clone(), r.record.run.clone(), r.folder.clone(), r.record.last_seq, running)
                })
                .collect()
        });
        let mut fresh = HashSet::new();
        for (group, run, folder, last_seq, _) in &members {
            let known = self.known.entry(run.clone()).or_default();
            if known.seq < *last_seq && known.read(folder) {
                fresh.insert(group.as_str());
            }
        }
        for (group, run, folder, _, running) in &members {
            if !running || !fresh.contains(group.as_str()) || self.stopped.contains(run) {
                continue;
            }
            let others: Vec<&Losses> = members
                .iter()
                .filter(|(of, other, ..)| of == group && other != run)
                .filter_map(|(_, other, ..)| Some(&self.known.get(other)?.losses))
                .collect();
            let Some(why) = self.known.get(run).and_then(|own| hopeless(&own.losses, &others)) else {
                continue;
            };
            tracing::info!("{run}: {why}");
            let ask = Ask::Action { ask: RunAction::Stop, why: Some(why) };
            match folder.control().and_then(|path| control::ask(&path, &ask)) {
                Ok(()) => {
                    self.stopped.insert(run.clone());
                }
                Err(error) => tracing::warn!("{run} could not be stopped: {error}"),
            }
        }
    }
}

impl Known {
    /// Read on. True when there was an evaluation.
    fn read(&mut self, folder: &RunFolder) -> bool {
        let mut any = false;
        let read = lines::read_from(&folder.events(), self.offset, BUDGET, |line, _| {
            if let Ok(event) = serde_json::from_slice::<Event>(line) {
                self.seq = event.seq;
                if let EventBody::Eval { step, loss: Some(loss), .. } = event.body {
                    self.losses.insert(step, loss);
                    any = true;
                }
            }
            true
        });
        if let Ok(offset) = read {
            self.offset = offset;
        }
        any
    }
}
