//! Strata as the newest `strata` run found them, with people's names and the candidates' scores.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::board;
use super::rows;
use super::state::Engine;
use crate::data::Dataset;
use crate::domain::api::Failure;
use crate::domain::board::{StrataView, Stratum};
use crate::domain::row::Part;
use crate::workspace::config::Split;

/// The newest strata, ready to be looked up.
#[derive(Debug, Default)]
pub struct StrataIndex {
    pub view: StrataView,
    of_row: HashMap<String, u32>,
    pub outliers: HashSet<String>,
    pub near_duplicates: HashSet<String>,
}

impl StrataIndex {
    /// A row's stratum, as a place in [`StrataView::strata`].
    pub fn of_row(&self, row: &str) -> Option<u32> {
        self.of_row.get(row).copied()
    }
    pub fn find(&self, id: &str) -> Option<u32> {
        self.view.strata.iter().position(|s| s.id == id).map(|at| at as u32)
    }
    pub fn id(&self, at: u32) -> Option<String> {
        self.view.strata.get(at as usize).map(|s| s.id.clone())
    }
    pub fn name(&self, at: u32) -> Option<String> {
        self.view.strata.get(at as usize).map(|s| s.name.clone())
    }
}

pub fn latest(_engine: &Engine) -> Result<Option<Arc<StrataIndex>>, Failure> {
    Ok(None)
}

pub fn view(engine: &Engine) -> Result<StrataView, Failure> {
    let loaded = rows::loaded(engine)?;
    let mut view = loaded.strata.as_ref().map(|s| s.view.clone()).unwrap_or_default();
    view.rows = loaded.dataset.len();
    view.quarantined = loaded.dataset.report().quarantined_total;
    Ok(view)
}

pub fn sample(
    _engine: &Engine,
    _per: usize,
    _part: Option<Part>,
    _seed: u64,
) -> Result<Vec<String>, Failure> {
    Ok(Vec::new())
}

pub const READY: bool = false;

pub fn split(
    split: &Split,
    dataset: &Dataset,
    open: &[usize],
    groups: &[Option<String>],
    _strata: &[Option<u32>],
) -> Vec<(usize, Part)> {
    open.iter()
        .map(|&i| {
            let key = groups[i].clone().unwrap_or_else(|| dataset.id(i).to_owned());
            let hash = blake3::hash(format!("{}\n{key}", split.seed).as_bytes());
            let bytes = hash.as_bytes();
            let u = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as f64 / u32::MAX as f64;
            let part = if u < split.eval {
                Part::Eval
            } else if u < split.eval + split.dev {
                Part::Dev
            } else if u < split.eval + split.dev + split.reserve {
                Part::Reserve
            } else {
                Part::Train
            };
            (i, part)
        })
        .collect()
}
