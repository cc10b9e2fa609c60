//! Strata as the newest `strata` run found them, with people's names, the parts, and the scores of baseline and best candidate.

mod by_hand;
mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

pub use by_hand::decision;
pub use table::RowTable;

use super::rows::{self, Loaded};
use super::standing::{self, Scored};
use super::state::Engine;
use crate::domain::api::Failure;
use crate::domain::board::{Choice, StrataView, Stratum};
use crate::domain::complete::Suggestion;
use crate::domain::row::Part;
use crate::domain::run::RunKind;
use crate::domain::strata::Act;
use crate::domain::words::counted;
use crate::strata::artifact::{Cluster, NEAR_DUPLICATE, RowPlace, StrataArtifact};
use crate::strata::build::CRITERION;
use crate::strata::hand::{self, Arranged};
use crate::strata::outliers;

/// A row on the map: on the principal axes, and where neighbours stand together.
#[derive(Debug)]
pub struct MapRow {
    pub row: String,
    pub x: f32,
    pub y: f32,
    pub near: Option<(f32, f32)>,
}

/// The newest strata, ready to be looked up.
#[derive(Debug, Default)]
pub struct StrataIndex {
    /// Without parts and scores.
    view: StrataView,
    pub table: RowTable,
    pub points: Vec<MapRow>,
    /// Trustworthiness of the map on the principal axes and by neighbours.
    pub trust: Option<[f64; 2]>,
    /// As they stand after what people decided.
    clusters: Vec<Cluster>,
    /// The run's folder.
    dir: PathBuf,
    /// Rows that say the same or nearly, together.
    pub duplicates: Vec<Vec<String>>,
}

/// What people decided: names by id of older versions, and everything since.
type Decided = (BTreeMap<String, String>, BTreeMap<u64, Act>);

/// The index of a run, after the decisions of a moment.
pub type StrataCache = Option<(String, Decided, Arc<StrataIndex>)>;

impl StrataIndex {
    fn new(artifact: StrataArtifact, dir: &Path, (names, acts): &Decided) -> Self {
        let Arranged { clusters, groups, mut strata, stratum_of, told, .. } =
            hand::arrange(&artifact, acts, &mut || artifact.vectors(dir));
        let map = artifact
            .map
            .iter()
            .filter_map(|point| {
                let (x, y) = point.near.unwrap_or((point.x, point.y));
                Some((x, y, *stratum_of.get(point.row)? as usize))
            })
            .collect();
        let points = artifact
            .map
            .iter()
            .filter_map(|p| {
                let row = artifact.rows.get(p.row)?.id.clone();
                Some(MapRow { row, x: p.x, y: p.y, near: p.near })
            })
            .collect();
        let trust = artifact.trust;
        let id = |at: &usize| artifact.rows.get(*at).map(|row| row.id.clone());
        let duplicates = artifact.duplicates.iter().map(|g| g.rows.iter().filter_map(id).collect()).collect();
        let is = |row: &RowPlace, flag: &str| row.flags.iter().any(|f| f == flag);
        let placed = artifact
            .rows
            .iter()
            .zip(&stratum_of)
            .map(|(r, at)| (r.id.as_str(), *at, outliers::shown(r.outlier), is(r, NEAR_DUPLICATE)));
        let table = RowTable::new(placed);
        for stratum in &mut strata {
            if let Some(name) = names.get(&stratum.id) {
                stratum.name.clone_from(name);
            }
        }
        let view = StrataView {
            rows: artifact.rows.len(),
            quarantined: 0,
            clusters: clusters.len(),
            outliers: table.outliers(),
            near_duplicates: table.near_duplicates(),
            dimensions: artifact.settings.dimensions,
            strata,
            base: None,
            best: None,
            map,
            groups,
            choice: Choice {
                k: artifact.clusters.len(),
                criterion: if artifact.tried.is_empty() { String::new() } else { CRITERION.into() },
                tried: artifact.tried,
            },
            by_hand: told,
        };
        Self { view, clusters, dir: dir.to_owned(), table, points, trust, duplicates }
    }

    /// A row's stratum, as a place in the list of strata.
    pub fn of_row(&self, row: &str) -> Option<u32> {
        self.table.stratum(row)
    }

    /// How unusual a row is among all, 0 to 1.
    pub fn outlier(&self, row: &str) -> Option<f32> {
        self.table.outlier(row)
    }

    /// A stratum by its place.
    pub fn stratum(&self, at: u32) -> Option<&Stratum> {
        self.view.strata.get(at as usize)
    }

    /// Places of the strata whose cluster's, or group's, id and name hold so.
    pub fn above_that(&self, group: bool, holds: impl Fn(&str, &str) -> bool) -> HashSet<u32> {
        let fits = |at: &u32| self.above(*at, group).is_some_and(|(id, name)| holds(id, name));
        (0..self.view.strata.len() as u32).filter(fits).collect()
    }

    pub fn has_group(&self, id: &str) -> bool {
        self.view.groups.iter().any(|g| g.id == id)
    }

    /// Ids and names of the group and of the cluster of a stratum, as a filter asks for them.
    pub fn above(&self, at: u32, group: bool) -> Option<(&str, &str)> {
        let stratum = self.stratum(at)?;
        if group {
            let group = self.view.groups.iter().find(|g| g.id == stratum.group)?;
            return Some((&group.id, &group.name));
        }
        let cluster = self.clusters.iter().find(|c| c.id == stratum.cluster)?;
        Some((&cluster.id, &cluster.name))
    }

    /// A stratum's place, by its id.
    pub fn find(&self, id: &str) -> Option<u32> {
        self.view.strata.iter().position(|s| s.id == id).map(|at| at as u32)
    }

    /// Places of the strata whose id and name hold so.
    pub fn places(&self, holds: impl Fn(&str, &str) -> bool) -> HashSet<u32> {
        let strata = self.view.strata.iter().zip(0..);
        strata.filter(|(s, _)| holds(&s.id, &s.name)).map(|(_, at)| at).collect()
    }

    /// Names with their rows, for completing filters.
    pub fn names(&self) -> Vec<Suggestion> {
        let name = |s: &Stratum| Suggestion { text: s.name.clone(), aside: counted(s.rows, "row") };
        self.view.strata.iter().map(name).collect()
    }

    /// How many strata there are.
    pub fn len(&self) -> usize {
        self.view.strata.len()
    }

    pub fn id(&self, at: u32) -> Option<String> {
        self.view.strata.get(at as usize).map(|s| s.id.clone())
    }

    pub fn name(&self, at: u32) -> Option<String> {
        self.view.strata.get(at as usize).map(|s| s.name.clone())
    }
}

/// The newest strata that can be read; none before the first run.
pub fn latest(engine: &Engine) -> Result<Option<Arc<StrataIndex>>, Failure> {
    let (mut runs, decided) = engine.read(|state| {
        let done =
            state.runs.values().filter(|r| r.record.kind == RunKind::Strata && r.record.state.has_result());
        let runs: Vec<_> =
            done.map(|r| (r.record.ended_ms, r.record.run.clone(), r.folder.clone())).collect();
        (runs, (state.decisions.strata.clone(), state.decisions.acts.clone()))
    });
    runs.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let mut cache = engine.strata_cache.lock().unwrap_or_else(PoisonError::into_inner);
    for (_, run, folder) in runs.into_iter().rev() {
        if let Some((kept_run, kept, index)) = &*cache
            && *kept_run == run
            && *kept == decided
        {
            return Ok(Some(index.clone()));
        }
        match StrataArtifact::read(folder.dir()) {
            Ok(artifact) => {
                let index = Arc::new(StrataIndex::new(artifact, folder.dir(), &decided));
                *cache = Some((run, decided, index.clone()));
                return Ok(Some(index));
            }
            // A run that was stopped before its end left none.
            Err(error) => tracing::warn!("{run}: {error:#}"),
        }
    }
    Ok(None)
}

/// All strata with parts and scores.
pub fn view(engine: &Engine) -> Result<StrataView, Failure> {
    let loaded = rows::loaded(engine)?;
    let mut view = loaded.strata.as_ref().map(|s| s.view.clone()).unwrap_or_default();
    view.rows = loaded.dataset.len();
    view.quarantined = loaded.dataset.report().quarantined_total;
    loaded.strata_of_rows();
    for (at, part) in loaded.parts.iter().enumerate() {
        let stratum = loaded.stratum(at).and_then(|s| view.strata.get_mut(s as usize));
        if let (Some(stratum), Some(part)) = (stratum, part) {
            let column = Part::ALL.iter().position(|p| p == part).unwrap_or_default();
            stratum.parts[column] += 1;
        }
    }
    let (base, best) = standing::base_and_best(engine, &loaded).unwrap_or_default();
    if let Some(base) = base {
        for (at, (score, n)) in scores(&loaded, &base).into_iter().enumerate() {
            if let Some(stratum) = view.strata.get_mut(at) {
                (stratum.base, stratum.scored) = (score, n);
            }
        }
        view.base = Some(base.candidate.name.clone());
    }
    if let Some(best) = best {
        for (at, (score, n)) in scores(&loaded, &best).into_iter().enumerate() {
            if let Some(stratum) = view.strata.get_mut(at) {
                stratum.best = score;
                stratum.scored = stratum.scored.max(n);
            }
        }
        view.best = Some(best.candidate.name.clone());
    }
    Ok(view)
}

/// Share of right rows on the eval part, and how many were scored, by stratum.
pub(super) fn scores(loaded: &Loaded, scored: &Scored) -> Vec<(Option<f64>, usize)> {
    let strata = loaded.strata.as_ref().map_or(0, |s| s.view.strata.len());
    let right: HashMap<&str, Option<bool>> =
        scored.current.iter().map(|o| (o.row.as_str(), o.correct)).collect();
    let mut counts = vec![(0usize, 0usize); strata];
    for (at, part) in loaded.parts.iter().enumerate() {
        if *part != Some(Part::Eval) {
            continue;
        }
        let right = right.get(loaded.dataset.id(at)).copied().flatten();
        let count = loaded.stratum(at).and_then(|s| counts.get_mut(s as usize));
        if let (Some(right), Some(count)) = (right, count) {
            count.0 += usize::from(right);
            count.1 += 1;
        }
    }
    counts.into_iter().map(|(right, n)| ((n > 0).then(|| right as f64 / n as f64), n)).collect()
}
