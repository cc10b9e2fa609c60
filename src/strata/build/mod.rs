//! A `strata` run: embed, cluster, cross with the dimensions, name, flag, draw the map.

mod cut;
mod embedding;

use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::bail;

pub use cut::CRITERION;
use cut::{choose_k, within};
use embedding::Embedded;

use super::artifact::{FORMAT, MapPoint, NEAR_DUPLICATE, OUTLIER, RowPlace, StrataArtifact};
use super::dimensions::Sliced;
use super::rows::Rows;
use super::{dimensions, duplicates, kmeans, layout, outliers};
use crate::backend::Access;
use crate::domain::event::EventBody;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::RunRow;
use crate::domain::run::RunResult;
use crate::domain::settings::StrataSettings;
use crate::embed::Flat;
use rayon::prelude::*;

/// Near duplicates are looked for among rows of so many bytes at most: their pieces take some ten times as much.
const NEAR_BYTES: u64 = 192 << 20;

/// Points of the map.
const MAP_POINTS: usize = 2_000;

/// The rows, in the run's folder.
const ROWS: &str = "inputs/rows.jsonl";

const PHASES: [&str; 5] = ["embedding", "clustering", "naming", "duplicates", "map"];

/// Build the strata of the run's rows, and write `artifacts/strata.json`. A run that is stopped or cancelled before its end leaves nothing.
pub fn run(
    settings: &StrataSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let began = Instant::now();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(inputs.spec.threads).build()?;
    // The reporter stays on this thread; only the work itself moves to the pool.
    let access = Access::of(inputs);
    let rows = Rows::open(&inputs.dir.join(ROWS))?;
    let build = Build { settings, dir: &inputs.dir, rows: &rows, pool: &pool, access: &access };
    let Some(artifact) = build.run(reporter)? else {
        return Ok(RunResult { stopped: true, ..RunResult::default() });
    };
    artifact.write(&inputs.dir)?;
    let metrics = [
        ("strata", artifact.strata.len() as f64),
        ("clusters", artifact.clusters.len() as f64),
        ("outliers", artifact.flagged(OUTLIER) as f64),
        ("near_duplicates", artifact.flagged(NEAR_DUPLICATE) as f64),
        ("seconds", began.elapsed().as_secs_f64()),
    ];
    Ok(RunResult {
        metrics: metrics.map(|(k, v)| (k.to_owned(), v)).into(),
        candidate: None,
        stopped: false,
        part: None,
    })
}

struct Build<'a> {
    settings: &'a StrataSettings,
    /// The run's folder.
    dir: &'a Path,
    rows: &'a Rows,
    pool: &'a rayon::ThreadPool,
    access: &'a Access,
}

fn goes_on(reporter: &mut dyn Reporter) -> io::Result<bool> {
    Ok(!matches!(reporter.poll_control()?, Control::Stop | Control::Cancel))
}

impl Build<'_> {
    fn run(&self, reporter: &mut dyn Reporter) -> anyhow::Result<Option<StrataArtifact>> {
        if self.rows.is_empty() {
            bail!("there are no rows to build strata of; is the data imported?");
        }
        if self.settings.k == Some(0) {
            bail!("the number of clusters must be at least 1 (--k)");
        }
        let began = Instant::now();
        let mut phase = 0;
        let mut next = |reporter: &mut dyn Reporter| -> anyhow::Result<bool> {
            if !goes_on(reporter)? {
                return Ok(false);
            }
            let (done, total) = (phase as u64, PHASES.len() as u64);
            let eta_ms =
                (phase > 0).then(|| began.elapsed().as_millis() as u64 * (total - done) / done.max(1));
            reporter.event(EventBody::Progress {
                phase: PHASES[phase.min(4)].to_owned(),
                done,
                total,
                eta_ms,
            })?;
            phase += 1;
            Ok(true)
        };
        let seed = self.settings.seed;

        if !next(reporter)? {
            return Ok(None);
        }
        let Some(Embedded { vectors, shares, ids, columns }) = self.embed(reporter)? else { return Ok(None) };

        if !next(reporter)? {
            return Ok(None);
        }
        let (k, tried) = match self.settings.k {
            Some(k) => (k, Vec::new()),
            None => self.pool.install(|| choose_k(&vectors, seed)),
        };
        if let Some((_, silhouette)) = tried.iter().find(|(tried, _)| *tried == k) {
            let message = format!("{k} clusters: {CRITERION} (theirs {silhouette:.3})");
            reporter.event(EventBody::Log { message })?;
        }
        let kmeans::KMeans { centroids, assignment, .. } =
            self.pool.install(|| kmeans::fit_flat(&vectors, k, seed));
        // A model has something to say of every text: there far out is who is far from all of its own cluster.
        let shares = shares.unwrap_or_else(|| within(&vectors, &assignment));
        let scores = outliers::scores(&shares.iter().map(|share| 1.0 - share).collect::<Vec<_>>());

        if !next(reporter)? {
            return Ok(None);
        }
        let (clusters, cluster_groups) = self.clusters(&assignment, &centroids)?;
        let columns: Vec<Sliced> = columns.iter().map(|raw| dimensions::sliced(raw)).collect();
        let (strata, places) = self.strata(&clusters, &assignment, &columns);

        if !next(reporter)? {
            return Ok(None);
        }
        let groups = self.duplicates(reporter)?;

        if !next(reporter)? {
            return Ok(None);
        }
        let (map, trust) = self.pool.install(|| map(&vectors, seed));

        let mut rows: Vec<RowPlace> = ids
            .into_iter()
            .enumerate()
            .map(|(i, id)| RowPlace {
                id,
                stratum: places[i],
                cluster: assignment[i],
                outlier: scores[i],
                flags: if scores[i] >= outliers::FLAGGED { vec![OUTLIER.to_owned()] } else { Vec::new() },
            })
            .collect();
        for &row in groups.iter().flat_map(|group| &group.rows) {
            rows[row].flags.push(NEAR_DUPLICATE.to_owned());
        }
        let total = PHASES.len() as u64;
        reporter.event(EventBody::Progress {
            phase: PHASES[4].to_owned(),
            done: total,
            total,
            eta_ms: Some(0),
        })?;
        Ok(Some(StrataArtifact {
            format: FORMAT,
            settings: self.settings.clone(),
            clusters,
            groups: cluster_groups,
            tried,
            strata,
            rows,
            duplicates: groups,
            map,
            trust,
            dimensions: vectors.dimensions(),
        }))
    }

    /// Near duplicates, as long as all texts and their pieces fit into memory; beyond, those that say exactly the same.
    fn duplicates(&self, reporter: &mut dyn Reporter) -> anyhow::Result<Vec<duplicates::Group>> {
        if self.rows.bytes() <= NEAR_BYTES {
            let mut texts = Vec::with_capacity(self.rows.len());
            self.rows.each(|_, rows| {
                texts.extend(rows.into_iter().map(|row| row.input));
                Ok(true)
            })?;
            return Ok(self.pool.install(|| duplicates::groups(&texts, self.settings.duplicates)));
        }
        let message = format!(
            "the rows are {} MiB: only those that say exactly the same are looked for, near duplicates up to {} MiB",
            self.rows.bytes() >> 20,
            NEAR_BYTES >> 20
        );
        reporter.event(EventBody::Log { message })?;
        let mut said: Vec<([u8; 16], u32)> = Vec::with_capacity(self.rows.len());
        self.rows.each(|from, rows| {
            let some: Vec<_> = self.pool.install(|| {
                let said =
                    |(i, row): (usize, &RunRow)| Some((duplicates::said(&row.input)?, (from + i) as u32));
                rows.par_iter().enumerate().filter_map(said).collect()
            });
            said.extend(some);
            Ok(true)
        })?;
        self.pool.install(|| said.par_sort_unstable());
        let mut groups: Vec<duplicates::Group> = said
            .chunk_by(|a, b| a.0 == b.0)
            .filter(|same| same.len() > 1)
            .map(|same| duplicates::Group {
                exact: true,
                rows: same.iter().map(|(_, row)| *row as usize).collect(),
            })
            .collect();
        groups.sort_by_key(|group| group.rows.first().copied());
        Ok(groups)
    }
}

/// Neighbours that the map's trustworthiness looks at.
const TRUSTED: usize = 15;

/// A sample of the rows on the two directions along which rows differ most, and beside it where neighbours stand together; how far
/// neighbours on either are neighbours indeed.
fn map(vectors: &Flat, seed: u64) -> (Vec<MapPoint>, Option<[f64; 2]>) {
    let places = spread(vectors.len(), MAP_POINTS);
    let sample = vectors.select(&places);
    let principal = layout::principal(&sample);
    let near = layout::neighbours(&sample, &principal, seed);
    let trust = |points: &[layout::Point]| layout::trustworthiness(&sample, points, TRUSTED);
    let trust = trust(&principal).zip(trust(&near)).map(|(principal, near)| [principal, near]);
    let points = places.iter().zip(principal.iter().zip(near));
    (points.map(|(&row, (&(x, y), near))| MapPoint { row, x, y, near: Some(near) }).collect(), trust)
}

/// What a view needs of the map: coordinates and the stratum's place.
pub fn map_view(artifact: &StrataArtifact) -> Vec<(f32, f32, usize)> {
    artifact
        .map
        .iter()
        .filter_map(|point| Some((point.x, point.y, artifact.rows.get(point.row)?.stratum)))
        .collect()
}

/// `count` places spread evenly over `n` (all, where there are fewer).
fn spread(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| i * n / count.max(1)).collect()
}

#[cfg(test)]
mod tests;
