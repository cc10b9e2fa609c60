//! Vectors to clusters and their groups, named, and those crossed with the dimensions: strata.

use std::collections::BTreeMap;

use crate::domain::board::Stratum;
use crate::embed::{Flat, Vectors, dot};
use crate::strata::artifact::{Cluster, ClusterGroup};
use crate::strata::dimensions::Sliced;
use crate::strata::{groups, kmeans, naming};

use super::{Build, spread};

/// Numbers of clusters that are tried where none is given, up to one for every 25 rows.
const TRIED: [usize; 12] = [4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24];
pub(super) const ROWS_PER_CLUSTER: usize = 25;

/// The least number whose silhouette reaches this share of the best one's is taken: of short texts it creeps up with every further
/// cluster, and fewer strata are easier to look after.
const GOOD_ENOUGH: f64 = 0.9;

/// The same in words.
pub const CRITERION: &str = "the fewest within 10% of the best silhouette";

/// The trial clusterings see so many rows, and the silhouette so many.
const TRIAL_ROWS: usize = 4_096;
const SILHOUETTE_ROWS: usize = 1_200;

/// The number of clusters: of [`TRIED`] the least whose silhouette on a sample is within 10% of the best, with all that were tried.
pub(super) fn choose_k(vectors: &Flat, seed: u64) -> (usize, Vec<(usize, f64)>) {
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

/// Cosine of each vector with the mean of its cluster.
pub(super) fn within(vectors: &Flat, assignment: &[usize]) -> Vec<f32> {
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

impl Build<'_> {
    /// Clusters and their groups, named.
    pub(super) fn clusters(
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
    pub(super) fn strata(
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
