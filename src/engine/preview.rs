//! What a training run would see of the rows, before it starts.

use super::freeze::run_rows;
use super::launch::wish;
use super::state::{Engine, bad_input};
use super::{candidates, parts, rows};
use crate::domain::api::Failure;
use crate::domain::preview::Preview;
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunKind;
use crate::tuning::train;
use crate::worker::folder::now_ms;

/// Rows that are made into tokens, spread evenly over the train part.
const LOOKED_AT: usize = 2_000;

/// With these settings of a training run; `row` is shown as tokens, else the first that would be trained on.
pub fn preview(engine: &Engine, row: Option<&str>, set: &[(String, String)]) -> Result<Preview, Failure> {
    let wish = wish(engine, RunKind::Train, set)?;
    let dataset = parts::dataset(engine, &wish.ws)?;
    let settings = &wish.ws.config.tuning.train;
    let candidate = wish.resolve(engine, &dataset)?;
    let candidate = candidates::for_training(engine, &wish.ws, candidate, settings)?;
    if parts::parts(engine, &dataset)?.iter().all(Option::is_none) {
        return Err(bad_input(
            "the rows have no parts yet, so that it is not known which are trained on; build the strata first (`tunebench strata build`)",
        ));
    }
    let rows: Vec<RunRow> = run_rows(engine, &wish.ws, &dataset, RunKind::LrRange)?;
    let train: Vec<&RunRow> = rows.iter().filter(|row| row.part == Some(Part::Train)).collect();
    let looked = LOOKED_AT.min(train.len());
    let some: Vec<RunRow> = (0..looked)
        .filter_map(|i| train.get(i * train.len() / looked.max(1)))
        .map(|row| (*row).clone())
        .collect();
    let shown = row.map(|id| one(engine, &dataset, id)).transpose()?;
    let mut preview = train::preview(&candidate, settings, now_ms(), (&some, train.len()), shown.as_ref())
        .map_err(|e| bad_input(format!("{e:#}")))?;
    if let Some(rendered) = &mut preview.rendered {
        let loaded = rows::loaded(engine)?;
        let at = dataset.find(&rendered.id);
        rendered.not_learned = match at.and_then(|at| loaded.parts.get(at).copied()).flatten() {
            _ if loaded.is_excluded(&rendered.id) => Some("left out by hand".into()),
            Some(Part::Train) => None,
            Some(part) => Some(format!("a row of the {} part", part.name())),
            None => Some("a row of no part".into()),
        };
    }
    Ok(preview)
}

/// Any row, whatever its part.
fn one(engine: &Engine, dataset: &crate::data::Dataset, id: &str) -> Result<RunRow, Failure> {
    let at = dataset.find(id).ok_or_else(|| bad_input(format!("no row `{id}`")))?;
    let row = dataset.row(at).map_err(|e| parts::data_error(&e))?;
    let (input, in_file) = dataset.resolve(&row).map_err(|e| parts::data_error(&e))?;
    let decided = engine.read(|s| s.decisions.gold.get(id).cloned());
    Ok(RunRow {
        turns: dataset.turns(&row),
        id: row.id,
        hash: row.hash,
        part: None,
        stratum: None,
        fields: row.fields,
        input,
        gold: decided.or(in_file),
    })
}
