//! The scaling curve of a sweep over shares of the train rows, from what its runs left.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Engine, bad_input, failed};
use crate::domain::api::Failure;
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunKind;
use crate::domain::scaling::Scaling;
use crate::score::scaling::{Trained, curve};
use crate::store::lines;
use crate::worker::folder::RunFolder;

/// The setting that is swept.
pub const KEY: &str = "tuning.train.rows";
/// Of the bootstrap.
const SEED: u64 = 7;

/// The curve of a group; none named: of the newest that swept over the rows.
pub fn scaling(engine: &Engine, group: Option<&str>) -> Result<Scaling, Failure> {
    let mut runs: Vec<(u64, String, String, RunFolder, bool)> = engine.read(|s| {
        let swept = |set: &[(String, String)]| set.iter().any(|(key, _)| key == KEY || key == "rows");
        s.runs
            .values()
            .filter(|r| r.record.kind == RunKind::Train && swept(&r.record.settings))
            .filter_map(|r| {
                let of = r.record.group.as_ref()?.name.clone();
                let done = r.record.state.has_result();
                Some((r.record.created_ms, of, r.record.run.clone(), r.folder.clone(), done))
            })
            .collect()
    });
    runs.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
    let newest = runs.last().map(|run| run.1.clone());
    let Some(group) = group.map(str::to_owned).or(newest) else {
        return Err(bad_input("no curve has been drawn yet; `tunebench data scaling` trains for one"));
    };
    runs.retain(|run| run.1 == group);
    if runs.is_empty() {
        return Err(bad_input(format!("`{group}` is no sweep over shares of the train rows")));
    }
    let mut missing = Vec::new();
    let mut found: Vec<(String, usize, BTreeMap<String, bool>)> = Vec::new();
    for (_, _, run, folder, done) in runs {
        let io = |e: std::io::Error| failed(format!("{run}: {e}"));
        if !done {
            missing.push(run);
            continue;
        }
        let mut train = 0;
        lines::read_from(&folder.rows(), 0, u64::MAX, |line, _| {
            let part = serde_json::from_slice::<RunRow>(line).ok().and_then(|row| row.part);
            train += usize::from(part == Some(Part::Train));
            true
        })
        .map_err(io)?;
        // A resumed run may have answered a row twice: the last one counts.
        let mut right = BTreeMap::new();
        for outcome in folder.read_outcomes().map_err(io)? {
            if outcome.part == Some(Part::Eval)
                && outcome.sample == 0
                && let Some(correct) = outcome.correct
            {
                right.insert(format!("{}\0{}", outcome.row, outcome.row_hash), correct);
            }
        }
        found.push((run, train, right));
    }
    let mut common: Option<BTreeSet<&String>> = None;
    for (_, _, right) in &found {
        let own: BTreeSet<&String> = right.keys().collect();
        common = Some(common.map_or(own.clone(), |before| before.intersection(&own).copied().collect()));
    }
    let common = common.unwrap_or_default();
    let trained = found.iter().map(|(run, rows, right)| Trained {
        run: run.clone(),
        rows: *rows,
        right: common.iter().filter_map(|key| right.get(*key).copied()).collect(),
    });
    Ok(Scaling { group, missing, ..curve(trained.collect(), SEED) })
}
