//! A `strata` run: embed, cluster, cross with the dimensions, name, flag, draw the map.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::artifact::{
    Cluster, FORMAT, MapPoint, NEAR_DUPLICATE, OUTLIER, RowPlace, StrataArtifact, VECTORS,
};
use super::{dimensions, duplicates, kmeans, naming, outliers};
use crate::backend::Access;
use crate::domain::board::Stratum;
use crate::domain::candidate::ModelRef;
use crate::domain::event::EventBody;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::RunRow;
use crate::domain::run::RunResult;
use crate::domain::settings::StrataSettings;
use crate::embed::{Embedder, FlatWriter, Source, Vectors, dot, principal_axes};

/// Numbers of clusters that are tried where none is given, up to one for every 25 rows.
const TRIED: [usize; 12] = [4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24];
const ROWS_PER_CLUSTER: usize = 25;

/// The least number whose silhouette reaches this share of the best one's is taken: of short texts it creeps up with every further
/// cluster, and fewer strata are easier to look after.
const GOOD_ENOUGH: f64 = 0.9;

/// The trial clusterings see so many rows, and the silhouette so many.
const TRIAL_ROWS: usize = 4_096;
const SILHOUETTE_ROWS: usize = 1_200;

/// Points of the map.
const MAP_POINTS: usize = 2_000;

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
    let build = Build { settings, dir: &inputs.dir, rows: &inputs.rows, pool: &pool, access: &access };
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
    rows: &'a [RunRow],
    pool: &'a rayon::ThreadPool,
    access: &'a Access,
}

/// Cosine of each vector with the mean of its cluster.
fn within(vectors: &Vectors, assignment: &[usize]) -> Vec<f32> {
    let clusters = assignment.iter().max().map_or(0, |most| most + 1);
    let mut means = vec![vec![0.0_f32; vectors.dimensions]; clusters];
    for (row, cluster) in vectors.rows().zip(assignment) {
        means[*cluster].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let cosine = |row: &[f32], mean: &[f32]| dot(row, mean) / dot(mean, mean).sqrt().max(f32::MIN_POSITIVE);
    vectors.rows().zip(assignment).map(|(row, cluster)| cosine(row, &means[*cluster])).collect()
}

impl Build<'_> {
    /// None: stopped.
    fn by_model(
        &self,
        model: &ModelRef,
        texts: &[&str],
        reporter: &mut dyn Reporter,
    ) -> anyhow::Result<Option<Vectors>> {
        let mut source = Source::open(model, self.access).map_err(anyhow::Error::msg)?;
        let began = Instant::now();
        let (mut first, mut broken) = (None, None);
        let found = source.embed(texts, &mut |done| {
            let before = *first.get_or_insert(done);
            let spent = began.elapsed().as_millis() as u64;
            let eta_ms =
                (done > before).then(|| spent * (texts.len() - done) as u64 / (done - before) as u64);
            let phase = PHASES[0].to_owned();
            let told = reporter
                .event(EventBody::Progress { phase, done: done as u64, total: texts.len() as u64, eta_ms })
                .and_then(|()| reporter.poll_control());
            match told {
                Ok(control) => !matches!(control, Control::Stop | Control::Cancel),
                Err(error) => {
                    broken = Some(error);
                    false
                }
            }
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        found.map_err(anyhow::Error::msg)
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
            if matches!(reporter.poll_control()?, Control::Stop | Control::Cancel) {
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
        let texts: Vec<&str> = self.rows.iter().map(|row| row.input.as_str()).collect();
        let seed = self.settings.seed;

        if !next(reporter)? {
            return Ok(None);
        }
        let (vectors, shares) = match &self.settings.embedder {
            None => {
                let (vectors, shares) =
                    self.pool.install(|| Embedder::fit(&texts, seed).embed_with_fit(&texts));
                (vectors, Some(shares))
            }
            Some(model) => match self.by_model(model, &texts, reporter)? {
                Some(vectors) => (vectors, None),
                None => return Ok(None),
            },
        };

        if !next(reporter)? {
            return Ok(None);
        }
        let (k, tried) = match self.settings.k {
            Some(k) => (k, Vec::new()),
            None => self.pool.install(|| choose_k(&vectors, seed)),
        };
        if let Some((_, silhouette)) = tried.iter().find(|(tried, _)| *tried == k) {
            let message = format!(
                "{k} clusters: the fewest within 10% of the best silhouette (theirs {silhouette:.3})"
            );
            reporter.event(EventBody::Log { message })?;
        }
        let assignment = self.pool.install(|| kmeans::fit(&vectors, k, seed)).assignment;
        // A model has something to say of every text: there far out is who is far from all of its own cluster.
        let shares = shares.unwrap_or_else(|| within(&vectors, &assignment));
        let scores = outliers::scores(&shares.iter().map(|share| 1.0 - share).collect::<Vec<_>>());

        if !next(reporter)? {
            return Ok(None);
        }
        let clusters = self.clusters(&texts, &assignment);
        let (strata, places) = self.strata(&clusters, &assignment);

        if !next(reporter)? {
            return Ok(None);
        }
        let groups = self.pool.install(|| duplicates::groups(&texts, duplicates::THRESHOLD));

        if !next(reporter)? {
            return Ok(None);
        }
        let map = map(&vectors);
        self.keep(&vectors)?;

        let mut rows: Vec<RowPlace> = self
            .rows
            .iter()
            .enumerate()
            .map(|(i, row)| RowPlace {
                id: row.id.clone(),
                hash: row.hash.clone(),
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
            tried,
            strata,
            rows,
            duplicates: groups,
            map,
            dimensions: vectors.dimensions,
        }))
    }

    /// People split strata by them later.
    fn keep(&self, vectors: &Vectors) -> anyhow::Result<()> {
        let path = self.dir.join(VECTORS);
        let write = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            let mut file = FlatWriter::create(&path)?;
            file.append(&vectors.data)?;
            file.finish()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    fn clusters(&self, texts: &[&str], assignment: &[usize]) -> Vec<Cluster> {
        let k = assignment.iter().max().map_or(0, |most| most + 1);
        let named = self.pool.install(|| naming::name(texts, assignment, k));
        named
            .into_iter()
            .enumerate()
            .map(|(i, naming)| Cluster {
                id: format!("c{}", i + 1),
                name: naming.name,
                rows: assignment.iter().filter(|cluster| **cluster == i).count(),
                terms: naming.terms,
            })
            .collect()
    }

    /// Clusters x values of the dimensions, as far as rows have them; and each row's place among them.
    fn strata(&self, clusters: &[Cluster], assignment: &[usize]) -> (Vec<Stratum>, Vec<usize>) {
        let fields: Vec<_> = self.rows.iter().map(|row| &row.fields).collect();
        let columns: Vec<(&String, Vec<String>)> =
            self.settings.dimensions.iter().map(|name| (name, dimensions::values(&fields, name))).collect();
        let mut slices: BTreeMap<(usize, Vec<&str>), Vec<usize>> = BTreeMap::new();
        for (i, &cluster) in assignment.iter().enumerate() {
            let values = columns.iter().map(|(_, values)| values[i].as_str()).collect();
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
                    ..Stratum::default()
                }
            })
            .collect();
        (strata, places)
    }
}

/// The number of clusters: of [`TRIED`] the least whose silhouette on a sample is within 10% of the best, with all that were tried.
fn choose_k(vectors: &Vectors, seed: u64) -> (usize, Vec<(usize, f64)>) {
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

/// `count` places spread evenly over `n` (all, where there are fewer).
fn spread(n: usize, count: usize) -> Vec<usize> {
    let count = count.min(n);
    (0..count).map(|i| i * n / count.max(1)).collect()
}

/// A sample of the rows on the two directions along which rows differ most; the farthest coordinate of each is 1.
fn map(vectors: &Vectors) -> Vec<MapPoint> {
    let places = spread(vectors.len(), MAP_POINTS);
    let sample = vectors.select(&places);
    let (mean, axes) = principal_axes(&sample.data, sample.dimensions, 2);
    let along = |axis: Option<&Vec<f32>>| -> Vec<f32> {
        let Some(axis) = axis else { return vec![0.0; places.len()] };
        let offset = dot(&mean, axis);
        let values: Vec<f32> = sample.rows().map(|row| dot(row, axis) - offset).collect();
        let farthest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
        values.into_iter().map(|v| if farthest > 0.0 { v / farthest } else { 0.0 }).collect()
    };
    let (xs, ys) = (along(axes.first()), along(axes.get(1)));
    places.iter().zip(xs.iter().zip(ys)).map(|(&row, (&x, y))| MapPoint { row, x, y }).collect()
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
    use std::io;

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
            rows,
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
