//! A `strata` run: embed, cluster, cross with the dimensions, name, flag, draw the map.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use super::artifact::{
    Cluster, ClusterGroup, FORMAT, MapPoint, NEAR_DUPLICATE, OUTLIER, RowPlace, StrataArtifact, VECTORS,
};
use super::dimensions::Sliced;
use super::rows::{AT_ONCE, Rows};
use super::{dimensions, duplicates, groups, kmeans, layout, naming, outliers};
use crate::backend::Access;
use crate::domain::board::Stratum;
use crate::domain::candidate::ModelRef;
use crate::domain::event::EventBody;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::RunRow;
use crate::domain::run::RunResult;
use crate::domain::settings::StrataSettings;
use crate::embed::{Embedder, FIT_TEXTS, Flat, FlatWriter, Source, Vectors, dot};
use rayon::prelude::*;
use serde_json::Value;

/// Numbers of clusters that are tried where none is given, up to one for every 25 rows.
const TRIED: [usize; 12] = [4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24];
const ROWS_PER_CLUSTER: usize = 25;

/// The least number whose silhouette reaches this share of the best one's is taken: of short texts it creeps up with every further
/// cluster, and fewer strata are easier to look after.
const GOOD_ENOUGH: f64 = 0.9;

/// The same in words.
pub const CRITERION: &str = "the fewest within 10% of the best silhouette";

/// The trial clusterings see so many rows, and the silhouette so many.
const TRIAL_ROWS: usize = 4_096;
const SILHOUETTE_ROWS: usize = 1_200;

/// Near duplicates are looked for among rows of so many bytes at most: their pieces take some ten times as much.
const NEAR_BYTES: u64 = 192 << 20;

/// The built-in embedder is fitted on so much text at most: the features of a text take some fifty times its size.
const FIT_BYTES: u64 = 6 << 20;

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

/// What one pass over the rows leaves.
struct Embedded {
    vectors: Flat,
    /// Of the built-in embedder: the share of what each row says that the corpus can express.
    shares: Option<Vec<f32>>,
    ids: Vec<String>,
    /// Values of each dimension.
    columns: Vec<Vec<Option<Value>>>,
}

/// Cosine of each vector with the mean of its cluster.
fn within(vectors: &Flat, assignment: &[usize]) -> Vec<f32> {
    let clusters = assignment.iter().max().map_or(0, |most| most + 1);
    let mut row = vec![0.0_f32; vectors.dimensions()];
    let mut means = vec![vec![0.0_f64; vectors.dimensions()]; clusters];
    for (at, cluster) in assignment.iter().enumerate() {
        vectors.read(at, &mut row);
        means[*cluster].iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let means: Vec<Vec<f32>> = means
        .into_iter()
        .map(|mean| {
            let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            mean.into_iter().map(|x| (x / length) as f32).collect()
        })
        .collect();
    let cosine = |(at, cluster): (usize, &usize)| {
        vectors.read(at, &mut row);
        dot(&row, &means[*cluster])
    };
    assignment.iter().enumerate().map(cosine).collect()
}

/// How far an embedding is.
struct Pace {
    began: Instant,
    /// Rows that are to be embedded: the others are known.
    open: usize,
    total: usize,
}

impl Pace {
    fn told(&self, done: usize, embedded: usize) -> EventBody {
        let spent = self.began.elapsed().as_millis() as u64;
        let left = self.open.saturating_sub(embedded) as u64;
        let eta_ms = (embedded > 0).then(|| spent * left / embedded as u64);
        let phase = PHASES[0].to_owned();
        EventBody::Progress { phase, done: done as u64, total: self.total as u64, eta_ms }
    }
}

fn goes_on(reporter: &mut dyn Reporter) -> io::Result<bool> {
    Ok(!matches!(reporter.poll_control()?, Control::Stop | Control::Cancel))
}

impl Build<'_> {
    /// Every row to its vector, in a file. None: stopped.
    fn embed(&self, reporter: &mut dyn Reporter) -> anyhow::Result<Option<Embedded>> {
        let path = self.dir.join(VECTORS);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let mut writer = FlatWriter::create(&path).with_context(|| format!("writing {}", path.display()))?;
        let n = self.rows.len();
        let mut ids = Vec::with_capacity(n);
        let mut columns: Vec<Vec<Option<Value>>> =
            vec![Vec::with_capacity(n); self.settings.dimensions.len()];
        let mut take = |rows: Vec<RunRow>| -> Vec<String> {
            let mut texts = Vec::with_capacity(rows.len());
            for mut row in rows {
                for (column, name) in columns.iter_mut().zip(&self.settings.dimensions) {
                    column.push(row.fields.remove(name));
                }
                ids.push(row.id);
                texts.push(row.input);
            }
            texts
        };
        let (dimensions, shares) = match &self.settings.embedder {
            None => {
                let sample = self.rows.inputs(&fitted_on(self.rows))?;
                let embedder = self.pool.install(|| Embedder::fit(&sample, self.settings.seed));
                drop(sample);
                let pace = Pace { began: Instant::now(), open: n, total: n };
                let mut shares = Vec::with_capacity(n);
                let whole = self.rows.each(|from, rows| {
                    let texts = take(rows);
                    let (vectors, some) = self.pool.install(|| embedder.embed_with_fit(&texts));
                    writer.append(&vectors.data)?;
                    shares.extend(some);
                    if n > AT_ONCE {
                        let done = from + texts.len();
                        reporter.event(pace.told(done, done))?;
                    }
                    Ok(goes_on(reporter)?)
                })?;
                if !whole {
                    return Ok(None);
                }
                (embedder.dimensions(), Some(shares))
            }
            Some(model) => match self.by_model(model, &mut take, &mut writer, reporter)? {
                Some(dimensions) => (dimensions, None),
                None => return Ok(None),
            },
        };
        writer.finish().with_context(|| format!("writing {}", path.display()))?;
        let vectors = Flat::open(&path, dimensions).with_context(|| format!("reading {}", path.display()))?;
        Ok(Some(Embedded { vectors, shares, ids, columns }))
    }

    /// By a model, which keeps what it embedded: a run that was killed goes on where it was. Returns the vectors' length; none: stopped.
    fn by_model(
        &self,
        model: &ModelRef,
        take: &mut dyn FnMut(Vec<RunRow>) -> Vec<String>,
        writer: &mut FlatWriter,
        reporter: &mut dyn Reporter,
    ) -> anyhow::Result<Option<usize>> {
        let source = Source::open(model, self.access).map_err(anyhow::Error::msg)?;
        let total = self.rows.len();
        let mut open = 0;
        self.rows.each(|_, rows| {
            open += rows.iter().filter(|row| !source.knows(&row.input)).count();
            Ok(true)
        })?;
        if open < total {
            let message = format!("{} of {total} rows are embedded already", total - open);
            reporter.event(EventBody::Log { message })?;
        }
        let pace = Pace { began: Instant::now(), open, total };
        let (mut embedded, mut dimensions, mut broken) = (0, None, None);
        let whole = self.rows.each(|from, rows| {
            let texts = take(rows);
            let known = texts.iter().filter(|text| source.knows(text)).count();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let found = source.embed(&texts, &mut |done| {
                let told = reporter
                    .event(pace.told(from + done, embedded + done.saturating_sub(known)))
                    .and_then(|()| goes_on(reporter));
                told.unwrap_or_else(|error| {
                    broken = Some(error);
                    false
                })
            });
            if let Some(error) = broken.take() {
                return Err(error.into());
            }
            let Some(vectors) = found.map_err(anyhow::Error::msg)? else { return Ok(false) };
            embedded += texts.len() - known;
            let before = *dimensions.get_or_insert(vectors.dimensions);
            ensure!(
                before == vectors.dimensions,
                "the embedder `{}` gave vectors of {before} and of {} numbers",
                model.name,
                vectors.dimensions
            );
            writer.append(&vectors.data)?;
            Ok(true)
        })?;
        Ok(if whole { dimensions } else { None })
    }

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

    /// Clusters and their groups, named.
    fn clusters(
        &self,
        assignment: &[usize],
        centroids: &Vectors,
    ) -> anyhow::Result<(Vec<Cluster>, Vec<ClusterGroup>)> {
        let k = assignment.iter().max().map_or(0, |most| most + 1);
        let mut rows = vec![0usize; k];
        for cluster in assignment {
            rows[*cluster] += 1;
        }
        let mut said = naming::Said::new(k);
        self.rows.each(|from, rows| {
            let texts: Vec<String> = rows.into_iter().map(|row| row.input).collect();
            self.pool.install(|| said.add(&texts, &assignment[from..from + texts.len()]));
            Ok(true)
        })?;
        let named = self.pool.install(|| said.names());
        let (group_of, count) = self.pool.install(|| groups::groups(centroids, &rows));
        let grouped = count > 1 && count < k;
        // The group with the most rows is the first.
        let mut order: Vec<usize> = (0..count).collect();
        let size = |group: usize| (0..k).filter(|c| group_of[*c] == group).map(|c| rows[c]).sum::<usize>();
        order.sort_by_key(|group| std::cmp::Reverse(size(*group)));
        let mut place = vec![0; count];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new;
        }
        let found = if grouped {
            let of: Vec<usize> = group_of.iter().map(|group| place[*group]).collect();
            let named = self.pool.install(|| said.grouped(&of, count).names());
            let group = |(i, naming): (usize, naming::Naming)| ClusterGroup {
                id: format!("g{}", i + 1),
                name: naming.name,
                terms: naming.terms,
            };
            named.into_iter().enumerate().map(group).collect()
        } else {
            Vec::new()
        };
        let cluster = |(i, naming): (usize, naming::Naming)| Cluster {
            id: format!("c{}", i + 1),
            name: naming.name,
            rows: rows[i],
            terms: naming.terms,
            group: if grouped { format!("g{}", place[group_of[i]] + 1) } else { String::new() },
        };
        Ok((named.into_iter().enumerate().map(cluster).collect(), found))
    }

    /// Clusters x values of the dimensions, as far as rows have them; and each row's place among them.
    fn strata(
        &self,
        clusters: &[Cluster],
        assignment: &[usize],
        columns: &[Sliced],
    ) -> (Vec<Stratum>, Vec<usize>) {
        let columns: Vec<(&String, &Sliced)> = self.settings.dimensions.iter().zip(columns).collect();
        let mut slices: BTreeMap<(usize, Vec<&str>), Vec<usize>> = BTreeMap::new();
        for (i, &cluster) in assignment.iter().enumerate() {
            let values = columns.iter().map(|(_, c)| c.values[c.of[i] as usize].as_str()).collect();
            slices.entry((cluster, values)).or_default().push(i);
        }
        let mut ordered: Vec<_> = slices.into_iter().collect();
        ordered.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.0.cmp(&b.0)));
        let mut places = vec![0; assignment.len()];
        let strata = ordered
            .into_iter()
            .enumerate()
            .map(|(place, ((cluster, values), rows))| {
                for &row in &rows {
                    places[row] = place;
                }
                let dimensions: BTreeMap<String, String> = columns
                    .iter()
                    .zip(&values)
                    .map(|((name, _), value)| ((*name).clone(), (*value).to_owned()))
                    .collect();
                // In the order in which the workspace names the dimensions.
                let pairs: Vec<String> =
                    columns.iter().zip(&values).map(|((name, _), value)| format!("{name}={value}")).collect();
                let cluster = &clusters[cluster];
                let joined = |head: &str, mark: &str| {
                    std::iter::once(head)
                        .chain(pairs.iter().map(String::as_str))
                        .collect::<Vec<_>>()
                        .join(mark)
                };
                Stratum {
                    id: joined(&cluster.id, "/"),
                    name: joined(&cluster.name, " · "),
                    dimensions,
                    rows: rows.len(),
                    terms: cluster.terms.clone(),
                    cluster: cluster.id.clone(),
                    group: cluster.group.clone(),
                    ..Stratum::default()
                }
            })
            .collect();
        (strata, places)
    }
}

/// The number of clusters: of [`TRIED`] the least whose silhouette on a sample is within 10% of the best, with all that were tried.
fn choose_k(vectors: &Flat, seed: u64) -> (usize, Vec<(usize, f64)>) {
    let n = vectors.len();
    let most = (n / ROWS_PER_CLUSTER).max(1);
    if most < TRIED[0] {
        return (most, Vec::new());
    }
    let training = vectors.select(&spread(n, TRIAL_ROWS));
    let sample = vectors.select(&spread(n, SILHOUETTE_ROWS));
    let distances = kmeans::distances(&sample);
    let tried: Vec<(usize, f64)> = TRIED
        .iter()
        .filter(|k| **k <= most)
        .map(|&k| {
            let centroids = kmeans::fit(&training, k, seed).centroids;
            let (assignment, _) = kmeans::assign(&sample, &centroids);
            (k, kmeans::silhouette(&distances, &assignment, centroids.len()))
        })
        .collect();
    let best = tried.iter().map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
    let enough = if best > 0.0 { best * GOOD_ENOUGH } else { best };
    let k = tried.iter().find(|(_, s)| *s >= enough).map_or(TRIED[0], |(k, _)| *k);
    (k, tried)
}

/// Rows that the built-in embedder is fitted on, spread evenly.
fn fitted_on(rows: &Rows) -> Vec<usize> {
    let n = rows.len();
    let texts = FIT_BYTES * n as u64 / rows.bytes().max(1);
    let step = n.div_ceil(FIT_TEXTS).max(n.div_ceil(texts.max(1_000) as usize)).max(1);
    (0..n).step_by(step).collect()
}

/// `count` places spread evenly over `n` (all, where there are fewer).
fn spread(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| i * n / count.max(1)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Outcome;
    use crate::domain::run::{Job, RUN_FORMAT, RunSpec};
    use serde_json::json;
    use std::collections::HashSet;

    struct Quiet {
        events: Vec<EventBody>,
        control: Control,
    }

    impl Reporter for Quiet {
        fn event(&mut self, body: EventBody) -> io::Result<()> {
            self.events.push(body);
            Ok(())
        }
        fn outcome(&mut self, _: &Outcome) -> io::Result<()> {
            Err(io::Error::other("strata have no outcomes"))
        }
        fn checkpoint(
            &mut self,
            _: u64,
            _: bool,
            _: usize,
            _: &mut dyn FnMut(&Path) -> io::Result<()>,
        ) -> io::Result<()> {
            Err(io::Error::other("strata have no checkpoints"))
        }
        fn poll_control(&mut self) -> io::Result<Control> {
            Ok(self.control)
        }
    }

    const TOPICS: [[&str; 4]; 4] = [
        [
            "where is my card",
            "the card has not arrived yet",
            "card delivery is late",
            "still waiting for the card",
        ],
        [
            "refund my purchase",
            "the shop owes me a refund",
            "money back for a purchase",
            "purchase refund not received",
        ],
        ["the app crashes", "app crashes at login", "cannot open the app", "login in the app fails"],
        ["change my address", "i moved house", "new address after moving", "update the home address please"],
    ];

    fn rows(n: usize) -> Vec<RunRow> {
        (0..n)
            .map(|i| {
                let topic = i % 4;
                let text = format!("{} number {i}", TOPICS[topic][i / 4 % 4]);
                let fields = json!({ "channel": if i % 3 == 0 { "mail" } else { "chat" } });
                RunRow {
                    id: format!("r{i}"),
                    hash: format!("h{i}"),
                    part: None,
                    stratum: None,
                    fields: fields.as_object().cloned().unwrap_or_default(),
                    input: text,
                    turns: Vec::new(),
                    gold: None,
                }
            })
            .collect()
    }

    fn inputs(rows: Vec<RunRow>, settings: &StrataSettings, threads: usize, dir: &Path) -> RunInputs {
        let lines: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
        std::fs::create_dir_all(dir.join("inputs")).unwrap();
        std::fs::write(dir.join(ROWS), lines).unwrap();
        let spec = RunSpec {
            sets: Vec::new(),
            format: RUN_FORMAT,
            id: "strata-1".into(),
            workspace: "test".into(),
            created_ms: 0,
            seed: 7,
            threads,
            job: Job::Strata(settings.clone()),
            candidate: None,
            settings: Vec::new(),
            past: None,
            from: None,
            cache: Default::default(),
            rows: Vec::new(),
        };
        RunInputs {
            sets: Vec::new(),
            dir: dir.to_owned(),
            spec,
            rows: Vec::new(),
            resume_from: None,
            outcomes: Vec::new(),
            keys: crate::domain::keys::Keys::default(),
            cache: None,
            history: Vec::new(),
        }
    }

    fn build(rows: Vec<RunRow>, settings: &StrataSettings, threads: usize) -> StrataArtifact {
        let dir = tempfile::tempdir().unwrap();
        let mut reporter = Quiet { events: Vec::new(), control: Control::Continue };
        let result = run(settings, &inputs(rows, settings, threads, dir.path()), &mut reporter).unwrap();
        let artifact = StrataArtifact::read(dir.path()).unwrap();
        assert_eq!(result.metrics["strata"], artifact.strata.len() as f64);
        assert!(matches!(reporter.events.last(), Some(EventBody::Progress { done: 5, total: 5, .. })));
        artifact
    }

    fn settings(k: Option<usize>) -> StrataSettings {
        StrataSettings { k, dimensions: vec!["channel".into()], ..StrataSettings::default() }
    }

    #[test]
    fn topics_become_clusters_crossed_with_the_dimension() {
        let mut all = rows(400);
        all.push(RunRow { input: "zxcv qwer uiop".into(), id: "odd".into(), ..all[0].clone() });
        all.push(RunRow { id: "copy".into(), ..all[7].clone() });
        let got = build(all.clone(), &settings(Some(4)), 2);
        // Each cluster is one topic.
        let topics: HashSet<(usize, usize)> = (0..400).map(|i| (i % 4, got.rows[i].cluster)).collect();
        assert_eq!(topics.len(), 4);
        assert_eq!(got.strata.len(), 8);
        assert_eq!(got.strata.iter().map(|s| s.rows).sum::<usize>(), 402);
        for (row, place) in all.iter().zip(&got.rows) {
            let stratum = &got.strata[place.stratum];
            assert_eq!(json!(stratum.dimensions["channel"]), row.fields["channel"]);
            assert!(stratum.id.starts_with(&got.clusters[place.cluster].id));
            assert!(
                stratum.name.starts_with(&got.clusters[place.cluster].name)
                    && stratum.name.contains("channel=")
            );
        }
        let names: HashSet<&str> = got.strata.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), 8);
        let card = &got.clusters[got.rows[0].cluster];
        assert!(card.name.contains("card"), "{card:?}");
        let place = |id: &str| got.rows.iter().find(|r| r.id == id).unwrap();
        assert!(place("odd").flags.contains(&OUTLIER.to_owned()));
        assert!(place("copy").flags.contains(&NEAR_DUPLICATE.to_owned()));
        assert_eq!(map_view(&got).len(), 402);
        assert!(got.map.iter().all(|p| p.x.abs() <= 1.0 && p.y.abs() <= 1.0));
    }

    #[test]
    fn the_number_of_clusters_is_chosen_and_the_choice_is_kept() {
        let got = build(rows(400), &settings(None), 2);
        assert!(got.tried.iter().any(|(k, _)| *k == got.clusters.len()), "{:?}", got.tried);
        assert!(got.clusters.len() <= 400 / ROWS_PER_CLUSTER);
        assert_eq!(build(rows(30), &settings(None), 1).clusters.len(), 1);
    }

    #[test]
    fn the_same_rows_give_the_same_strata_on_any_number_of_threads() {
        let got = build(rows(300), &settings(None), 1);
        assert_eq!(build(rows(300), &settings(None), 3), got);
    }

    #[test]
    fn rows_that_say_nothing_are_one_stratum() {
        let mut all = rows(200);
        for row in &mut all {
            row.input = "?!".into();
        }
        let got = build(all, &StrataSettings { dimensions: Vec::new(), ..settings(None) }, 2);
        assert_eq!(
            (got.strata.len(), got.strata[0].rows, got.strata[0].name.as_str()),
            (1, 200, "cluster 1")
        );
        assert_eq!(got.flagged(OUTLIER), 0);
    }

    #[test]
    fn a_cancelled_build_leaves_nothing_and_bad_input_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let mut reporter = Quiet { events: Vec::new(), control: Control::Cancel };
        let settings = settings(None);
        assert!(run(&settings, &inputs(rows(30), &settings, 1, dir.path()), &mut reporter).unwrap().stopped);
        assert!(StrataArtifact::read(dir.path()).unwrap_err().to_string().contains("strata.json"));
        let said =
            run(&settings, &inputs(vec![], &settings, 1, dir.path()), &mut reporter).unwrap_err().to_string();
        assert!(said.contains("no rows"), "{said}");
    }
}
