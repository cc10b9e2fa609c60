//! Strata x candidates over time, with the checkpoints of a training run.

use std::collections::HashMap;

use super::candidates::{self, Known};
use super::rows;
use super::standing;
use super::state::{Engine, bad_input, failed, no_run};
use crate::domain::api::Failure;
use crate::domain::event::Event;
use crate::domain::outcome::Outcome;
use crate::domain::run::RunKind;
use crate::domain::timeline::{Moment, Timeline};
use crate::score;
use crate::store::lines;

/// Candidates and checkpoints that are told: what a screen can show, a few times over.
const COLUMNS: usize = 100;
/// Strata that are told; the rest are the smallest. All cells together must fit a frame.
const STRATA: usize = 300;

/// Of all candidates; or of a training run: the first baseline, its evaluations on its fixed rows, and what it made.
pub fn timeline(engine: &Engine, run: Option<&str>) -> Result<Timeline, Failure> {
    let loaded = rows::loaded(engine)?;
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    // The largest first; rows of no stratum are counted in the whole only.
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    for at in 0..loaded.dataset.len() {
        if let Some(stratum) = loaded.stratum(at) {
            *sizes.entry(stratum).or_default() += 1;
        }
    }
    let mut strata: Vec<u32> = sizes.keys().copied().collect();
    strata.sort_by_key(|s| (std::cmp::Reverse(sizes.get(s).copied()), *s));
    strata.truncate(STRATA);
    let places: HashMap<u32, usize> = strata.iter().enumerate().map(|(at, s)| (*s, at)).collect();
    let place = |row: &str| places.get(&loaded.stratum(loaded.dataset.find(row)?)?).copied();
    let names = strata.iter().map(|s| loaded.strata.as_ref().and_then(|i| i.name(*s)).unwrap_or_default());

    let known = candidates::known(engine);
    let moment = |k: &Known| -> Result<Option<Moment>, Failure> {
        let Some(scored) = standing::scored(engine, &loaded, k)? else { return Ok(None) };
        let counted: Vec<&Outcome> = score::board::on_the_board(&k.candidate, &scored.current);
        let (all, cells) = score::timeline::cells(&counted, &primary, strata.len(), &|o| place(&o.row));
        let (name, rung) = (k.candidate.name.clone(), k.candidate.rung.clone());
        Ok(Some(Moment { name, rung, t_ms: k.created_ms, step: None, all, cells }))
    };
    let mut timeline = Timeline { strata: names.collect(), ..Timeline::default() };
    let Some(run) = run else {
        let from = known.len().saturating_sub(COLUMNS);
        timeline.left_out = from;
        for k in known.iter().skip(from) {
            timeline.columns.extend(moment(k)?);
        }
        return Ok(timeline);
    };
    let found = engine.read(|s| s.runs.get(run).map(|r| (r.record.kind, r.folder.clone())));
    let (kind, folder) = found.ok_or_else(|| no_run(run))?;
    if kind != RunKind::Train {
        return Err(bad_input(format!(
            "{run} is no training run but a run of kind {kind}: it has no checkpoints"
        )));
    }
    let (events, _) =
        lines::read_all::<Event>(&folder.events()).map_err(|e| failed(format!("{run}: {e}")))?;
    let (curve, mut checkpoints) = score::timeline::curve(run, events.into_iter(), strata.len(), &place);
    let base = known.iter().find(|k| k.candidate.rung == "baseline");
    let made = known.iter().find(|k| k.runs.iter().any(|r| r == run));
    timeline.left_out = checkpoints.len().saturating_sub(COLUMNS);
    checkpoints.drain(..timeline.left_out);
    if let Some(k) = base {
        timeline.columns.extend(moment(k)?);
    }
    timeline.columns.extend(checkpoints);
    if let Some(k) = made {
        timeline.columns.extend(moment(k)?);
    }
    timeline.run = Some(curve);
    Ok(timeline)
}
