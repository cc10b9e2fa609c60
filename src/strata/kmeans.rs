//! k-means and the choice of k.

use rayon::prelude::*;

use crate::domain::rng::SplitMix64;
use crate::embed::gpu::{self, Searcher};
use crate::embed::{Flat, Vectors, dot};
use crate::ops::{Mat, MatMut, Par, Write, matmul};

/// A clustering.
#[derive(Clone, Debug, PartialEq)]
pub struct KMeans {
    pub centroids: Vectors,
    /// Cluster of each vector.
    pub assignment: Vec<usize>,
    /// Sum of squared distances to the centroids.
    pub inertia: f64,
}

/// Up to here every iteration sees all vectors; beyond, mini-batches do the moving.
const FULL: usize = 32_768;
const BATCH: usize = 4_096;
const BATCHES: usize = 200;
const ITERATIONS: usize = 60;
/// Rounds over all vectors of a file after the mini-batches, and vectors of it that are in memory at once.
const FLAT_ROUNDS: usize = 2;
const FLAT_BLOCK: usize = 65_536;
/// Seeds are chosen among so many vectors.
const SEEDING: usize = 8_192;
/// Vectors whose products with all centroids are taken at once.
const BLOCK: usize = 512;
/// Rounding of the products, as a share of the squared lengths that they are differences of: some dozens of roundings of 2^-24.
const ROUNDING: f32 = 4e-6;
/// Partial sums of the centroids' vectors.
const SUMS: usize = 16;
/// The best of so many starts is kept.
const STARTS: usize = 3;

/// Cluster into `k` (fewer where there are fewer distinct vectors). Clusters are numbered by size, the largest first.
///
/// Seeding: greedy k-means++ (Arthur and Vassilvitskii 2007). Moving: Lloyd's iterations, or above [`FULL`] vectors mini-batches
/// (Sculley 2010) and then Lloyd's, twice. The same for any number of threads.
pub fn fit(vectors: &Vectors, k: usize, seed: u64) -> KMeans {
    let mut best: Option<KMeans> = None;
    for start in 0..STARTS as u64 {
        let mut rng = SplitMix64::new(seed.wrapping_add(start));
        let one = fit_once(vectors, k, &mut rng);
        if best.as_ref().is_none_or(|b| one.inertia < b.inertia) {
            best = Some(one);
        }
    }
    by_size(best.unwrap_or_else(|| fit_once(vectors, k, &mut SplitMix64::new(seed))))
}

fn fit_once(vectors: &Vectors, k: usize, rng: &mut SplitMix64) -> KMeans {
    let mut centroids = seeds(vectors, k, rng);
    let rounds = if vectors.len() > FULL {
        mini_batches(vectors.len(), &|places| vectors.select(places), &mut centroids, rng);
        2
    } else {
        ITERATIONS
    };
    lloyd(vectors, centroids, rounds)
}

/// [`fit`] of vectors in a file: beyond [`FULL`] of them no more than a block is in memory. Of [`STARTS`] the one that is best on a sample goes
/// over all vectors.
pub fn fit_flat(vectors: &Flat, k: usize, seed: u64) -> KMeans {
    let n = vectors.len();
    if n <= FULL {
        let all: Vec<usize> = (0..n).collect();
        return fit(&vectors.select(&all), k, seed);
    }
    let sample: Vec<usize> = (0..FULL).map(|i| i * n / FULL).collect();
    let sample = vectors.select(&sample);
    let mut best: Option<(f64, Vectors)> = None;
    for start in 0..STARTS as u64 {
        let mut rng = SplitMix64::new(seed.wrapping_add(start));
        let pool: Vec<usize> = (0..SEEDING).map(|_| rng.below(n)).collect();
        let mut centroids = seeds(&vectors.select(&pool), k, &mut rng);
        mini_batches(n, &|places| vectors.select(places), &mut centroids, &mut rng);
        let inertia: f64 = assign(&sample, &centroids).1.iter().map(|d| f64::from(*d)).sum();
        if best.as_ref().is_none_or(|(least, _)| inertia < *least) {
            best = Some((inertia, centroids));
        }
    }
    let mut centroids = best.map(|(_, centroids)| centroids).unwrap_or_default();
    for _ in 0..FLAT_ROUNDS {
        let (sums, counts) = over(vectors, &centroids, None).1;
        let d = centroids.dimensions;
        for (cluster, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let sums = &sums[cluster * d..(cluster + 1) * d];
            let out = &mut centroids.data[cluster * d..(cluster + 1) * d];
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = (s / count as f64) as f32);
        }
    }
    let mut assignment = Vec::with_capacity(n);
    let inertia = over(vectors, &centroids, Some(&mut assignment)).0;
    by_size(KMeans { centroids, assignment, inertia })
}

/// Sum and number of the vectors of each cluster.
type Sums = (Vec<f64>, Vec<usize>);

/// All vectors to their nearest centroids, block by block: the inertia and the clusters' sums; clusters go to `assignment` where they are wanted.
fn over(vectors: &Flat, centroids: &Vectors, mut assignment: Option<&mut Vec<usize>>) -> (f64, Sums) {
    let (k, d, n) = (centroids.len(), centroids.dimensions, vectors.len());
    let (mut sums, mut counts, mut inertia) = (vec![0.0_f64; k * d], vec![0usize; k], 0.0);
    for from in (0..n).step_by(FLAT_BLOCK) {
        let mut data = vec![0.0; FLAT_BLOCK.min(n - from) * d];
        data.par_chunks_mut(BLOCK * d).enumerate().for_each(|(at, out)| vectors.read(from + at * BLOCK, out));
        let block = Vectors { dimensions: d, data };
        let (nearest, distances) = assign(&block, centroids);
        inertia += distances.iter().map(|x| f64::from(*x)).sum::<f64>();
        for (row, &cluster) in block.rows().zip(&nearest) {
            counts[cluster] += 1;
            sums[cluster * d..(cluster + 1) * d].iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        if let Some(assignment) = &mut assignment {
            assignment.extend(nearest);
        }
    }
    (inertia, (sums, counts))
}

/// Seeds and full iterations only, at most `rounds`.
pub fn full(vectors: &Vectors, k: usize, rounds: usize, seed: u64) -> KMeans {
    let seeds = seeds(vectors, k, &mut SplitMix64::new(seed));
    by_size(lloyd(vectors, seeds, rounds))
}

/// Lloyd's iterations (1957, published 1982).
fn lloyd(vectors: &Vectors, mut centroids: Vectors, rounds: usize) -> KMeans {
    let (mut assignment, mut distances) = assign(vectors, &centroids);
    for _ in 0..rounds {
        move_centroids(vectors, &assignment, &distances, &mut centroids);
        let (now, near) = assign(vectors, &centroids);
        let settled = now == assignment;
        (assignment, distances) = (now, near);
        if settled {
            break;
        }
    }
    let inertia = distances.iter().map(|d| f64::from(*d)).sum();
    KMeans { centroids, assignment, inertia }
}

/// Squared Euclidean distance.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| (x - y).powi(2)).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            let d = x[lane] - y[lane];
            sums[lane] += d * d;
        }
    }
    sums.iter().sum::<f32>() + rest
}

fn seeds(vectors: &Vectors, k: usize, rng: &mut SplitMix64) -> Vectors {
    let n = vectors.len();
    let mut pool: Vec<usize> = (0..n).collect();
    if n > SEEDING {
        rng.shuffle(&mut pool);
        pool.truncate(SEEDING);
    }
    let mut chosen = Vec::new();
    if let Some(&first) = pool.get(rng.below(pool.len())).filter(|_| k > 0) {
        chosen.push(first);
    }
    let trials = 2 + (k.max(1) as f64).ln() as usize;
    let mut near: Vec<f32> = match chosen.first() {
        Some(&first) => {
            pool.par_iter().map(|&i| squared_distance(vectors.row(i), vectors.row(first))).collect()
        }
        None => Vec::new(),
    };
    while chosen.len() < k {
        let total: f64 = near.iter().map(|d| f64::from(*d)).sum();
        // Every vector stands on a seed already.
        if total <= 1e-9 {
            break;
        }
        let mut best: Option<(f64, usize, Vec<f32>)> = None;
        for _ in 0..trials {
            let mut at = rng.unit() * total;
            let place = near.iter().position(|d| {
                at -= f64::from(*d);
                at < 0.0
            });
            let candidate = pool[place.unwrap_or(pool.len() - 1)];
            let with: Vec<f32> = pool
                .par_iter()
                .zip(&near)
                .map(|(&i, d)| d.min(squared_distance(vectors.row(i), vectors.row(candidate))))
                .collect();
            let rest: f64 = with.iter().map(|d| f64::from(*d)).sum();
            if best.as_ref().is_none_or(|(least, ..)| rest < *least) {
                best = Some((rest, candidate, with));
            }
        }
        let Some((_, candidate, with)) = best else { break };
        chosen.push(candidate);
        near = with;
    }
    vectors.select(&chosen)
}

/// The nearest centroid of each vector, the first of equals, and the squared distance to it: on the GPU that the process was lent, where that pays.
pub fn assign(vectors: &Vectors, centroids: &Vectors) -> (Vec<usize>, Vec<f32>) {
    let found =
        gpu::lent(vectors.data.len() * centroids.len()).and_then(|gpu| assign_on(gpu, vectors, centroids));
    found.unwrap_or_else(|| assign_here(vectors, centroids))
}

/// By a GPU, which says which centroids may be the nearest; these are measured here. None: it cannot be asked.
fn assign_on(gpu: &Searcher, vectors: &Vectors, centroids: &Vectors) -> Option<(Vec<usize>, Vec<f32>)> {
    let bias: Vec<f32> = centroids.rows().map(|c| -0.5 * dot(c, c)).collect();
    let table = gpu.table(centroids, Some(&bias))?;
    let proposed = gpu.centroids(&table, &vectors.data)?;
    let all: Vec<usize> = (0..centroids.len()).collect();
    let nearest = |(row, places): (&[f32], &Option<Vec<usize>>)| {
        let mut best = (0, f32::INFINITY);
        for &place in places.as_ref().unwrap_or(&all) {
            let distance = squared_distance(row, centroids.row(place));
            if distance < best.1 {
                best = (place, distance);
            }
        }
        best
    };
    Some(vectors.data.par_chunks(vectors.dimensions.max(1)).zip(&proposed).map(nearest).unzip())
}

/// [`assign`] on the CPU.
///
/// |x - c|^2 = |x|^2 - 2 x.c + |c|^2, with the products of [`BLOCK`] vectors and all centroids as one matrix product. What that leaves within
/// its rounding of the nearest is measured again, so that the answer is the one of plain distances.
fn assign_here(vectors: &Vectors, centroids: &Vectors) -> (Vec<usize>, Vec<f32>) {
    let (d, k) = (vectors.dimensions, centroids.len());
    if d == 0 || k == 0 {
        return (vec![0; vectors.len()], vec![f32::INFINITY; vectors.len()]);
    }
    let squares: Vec<f32> = centroids.rows().map(|c| dot(c, c)).collect();
    let longest = squares.iter().copied().fold(0.0, f32::max);
    let nearest = |row: &[f32], products: &[f32]| {
        let least = products.iter().zip(&squares).map(|(p, c)| c + p).fold(f32::INFINITY, f32::min);
        let limit = least + ROUNDING * (dot(row, row) + longest);
        let mut best = (0, f32::INFINITY);
        for (i, (p, c)) in products.iter().zip(&squares).enumerate() {
            if c + p <= limit {
                let distance = squared_distance(row, centroids.row(i));
                if distance < best.1 {
                    best = (i, distance);
                }
            }
        }
        best
    };
    let blocks: Vec<Vec<(usize, f32)>> = vectors
        .data
        .par_chunks(BLOCK * d)
        .map_init(Vec::new, |products, block| {
            let rows = block.len() / d;
            products.resize(rows * k, 0.0);
            let (x, c) = (Mat::new(block, rows, d), Mat::new(&centroids.data, k, d));
            matmul(MatMut::new(products, rows, k), Write::Set, -2.0, x, c.t(), Par::SERIAL);
            block.chunks_exact(d).zip(products.chunks_exact(k)).map(|(row, p)| nearest(row, p)).collect()
        })
        .collect();
    blocks.into_iter().flatten().unzip()
}

/// Each centroid to the mean of its vectors; one that lost all of them to the vector that is farthest from its own.
fn move_centroids(vectors: &Vectors, assignment: &[usize], distances: &[f32], centroids: &mut Vectors) {
    let (k, d) = (centroids.len(), vectors.dimensions);
    // A fixed number of partial sums, added up in their order: the same for any number of threads.
    let share = assignment.len().div_ceil(SUMS).max(1);
    let partial: Vec<(Vec<f64>, Vec<usize>)> = assignment
        .par_chunks(share)
        .zip(vectors.data.par_chunks((share * d).max(1)))
        .map(|(assignment, data)| {
            let (mut sums, mut counts) = (vec![0.0_f64; k * d], vec![0usize; k]);
            for (row, &cluster) in data.chunks_exact(d.max(1)).zip(assignment) {
                counts[cluster] += 1;
                sums[cluster * d..(cluster + 1) * d]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(s, v)| *s += f64::from(*v));
            }
            (sums, counts)
        })
        .collect();
    let (mut sums, mut counts) = (vec![0.0_f64; k * d], vec![0usize; k]);
    for (more, many) in &partial {
        sums.iter_mut().zip(more).for_each(|(s, v)| *s += v);
        counts.iter_mut().zip(many).for_each(|(c, n)| *c += n);
    }
    let mut farthest: Vec<usize> = Vec::new();
    if counts.contains(&0) {
        farthest = (0..assignment.len()).collect();
        farthest.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
    }
    for (cluster, &count) in counts.iter().enumerate() {
        let out = &mut centroids.data[cluster * d..(cluster + 1) * d];
        if count > 0 {
            let sum = &sums[cluster * d..(cluster + 1) * d];
            out.iter_mut().zip(sum).for_each(|(o, s)| *o = (s / count as f64) as f32);
        } else if let Some(far) = farthest.pop() {
            out.copy_from_slice(vectors.row(far));
        }
    }
}

/// Sculley's update: each vector of a batch pulls its centroid by 1 / (vectors seen by that centroid).
fn mini_batches(
    n: usize,
    select: &dyn Fn(&[usize]) -> Vectors,
    centroids: &mut Vectors,
    rng: &mut SplitMix64,
) {
    let d = centroids.dimensions;
    let mut seen = vec![0usize; centroids.len()];
    for _ in 0..BATCHES {
        let places: Vec<usize> = (0..BATCH).map(|_| rng.below(n)).collect();
        let batch = select(&places);
        let (assignment, _) = assign(&batch, centroids);
        for (row, cluster) in batch.rows().zip(assignment) {
            seen[cluster] += 1;
            let rate = 1.0 / seen[cluster] as f32;
            let centroid = &mut centroids.data[cluster * d..(cluster + 1) * d];
            centroid.iter_mut().zip(row).for_each(|(c, v)| *c += rate * (v - *c));
        }
    }
}

/// Number clusters by size, and drop empty ones.
fn by_size(clusters: KMeans) -> KMeans {
    let mut counts = vec![0usize; clusters.centroids.len()];
    for &cluster in &clusters.assignment {
        counts[cluster] += 1;
    }
    let mut order: Vec<usize> = (0..counts.len()).filter(|&c| counts[c] > 0).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(counts[c]));
    let mut place = vec![0; counts.len()];
    for (new, &old) in order.iter().enumerate() {
        place[old] = new;
    }
    KMeans {
        centroids: clusters.centroids.select(&order),
        assignment: clusters.assignment.iter().map(|&c| place[c]).collect(),
        inertia: clusters.inertia,
    }
}

/// Mean silhouette (Rousseeuw 1987) of a sample: (b - a) / max(a, b), with a the mean distance to the own cluster's others and b that to the
/// nearest other cluster. `distances` is the sample's (n, n) matrix. 0 for fewer than two clusters.
pub fn silhouette(distances: &[f32], assignment: &[usize], k: usize) -> f64 {
    let n = assignment.len();
    let mut counts = vec![0usize; k];
    for &cluster in assignment {
        counts[cluster] += 1;
    }
    if counts.iter().filter(|c| **c > 0).count() < 2 {
        return 0.0;
    }
    let values: Vec<f64> = (0..n)
        .into_par_iter()
        .map(|i| {
            let own = assignment[i];
            if counts[own] < 2 {
                return 0.0;
            }
            let mut sums = vec![0.0_f64; k];
            for (d, &cluster) in distances[i * n..(i + 1) * n].iter().zip(assignment) {
                sums[cluster] += f64::from(*d);
            }
            let a = sums[own] / (counts[own] - 1) as f64;
            let b = (0..k)
                .filter(|&c| c != own && counts[c] > 0)
                .map(|c| sums[c] / counts[c] as f64)
                .fold(f64::INFINITY, f64::min);
            if a.max(b) > 0.0 { (b - a) / a.max(b) } else { 0.0 }
        })
        .collect();
    values.iter().sum::<f64>() / n as f64
}

/// Euclidean distances between all pairs (n, n).
pub fn distances(vectors: &Vectors) -> Vec<f32> {
    let n = vectors.len();
    (0..n)
        .into_par_iter()
        .flat_map_iter(|i| (0..n).map(move |j| squared_distance(vectors.row(i), vectors.row(j)).sqrt()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        points: Vec<Vec<f32>>,
        labels: Vec<usize>,
        /// k, inertia of scikit-learn's best of 50 starts, silhouette of its clustering.
        inertia: Vec<(usize, f64, f64)>,
    }

    fn reference() -> (Reference, Vectors) {
        let r: Reference =
            serde_json::from_str(include_str!("../../tests/fixtures/strata/kmeans.json")).unwrap();
        let vectors = Vectors { dimensions: r.points[0].len(), data: r.points.concat() };
        (r, vectors)
    }

    /// Adjusted Rand index (Hubert and Arabie 1985).
    fn rand_index(a: &[usize], b: &[usize]) -> f64 {
        let pairs = |n: usize| (n * n.saturating_sub(1) / 2) as f64;
        let mut cells = std::collections::HashMap::<(usize, usize), usize>::new();
        let (mut rows, mut columns) = (
            std::collections::HashMap::<usize, usize>::new(),
            std::collections::HashMap::<usize, usize>::new(),
        );
        for (&x, &y) in a.iter().zip(b) {
            *cells.entry((x, y)).or_default() += 1;
            *rows.entry(x).or_default() += 1;
            *columns.entry(y).or_default() += 1;
        }
        let index: f64 = cells.values().map(|&n| pairs(n)).sum();
        let (r, c): (f64, f64) =
            (rows.values().map(|&n| pairs(n)).sum(), columns.values().map(|&n| pairs(n)).sum());
        let expected = r * c / pairs(a.len());
        (index - expected) / (f64::midpoint(r, c) - expected)
    }

    #[test]
    fn inertia_is_as_good_as_scikit_learns_and_silhouette_the_same() {
        let (r, vectors) = reference();
        for &(k, inertia, reference_silhouette) in &r.inertia {
            let got = fit(&vectors, k, 7);
            assert!(got.inertia <= inertia * 1.02, "k {k}: {} against {inertia}", got.inertia);
            if (got.inertia - inertia).abs() < 1e-3 * inertia {
                let s = silhouette(&distances(&vectors), &got.assignment, k);
                assert!((s - reference_silhouette).abs() < 0.01, "k {k}: {s} against {reference_silhouette}");
            }
        }
    }

    #[test]
    fn separable_groups_are_found() {
        let (r, vectors) = reference();
        let got = fit(&vectors, 5, 7);
        assert!(rand_index(&got.assignment, &r.labels) > 0.99);
    }

    #[test]
    fn mini_batches_come_close_to_full_iterations() {
        let (_, small) = reference();
        let mut rng = SplitMix64::new(5);
        let copies = FULL / small.len() + 2;
        let data = (0..copies)
            .flat_map(|_| small.data.clone())
            .map(|v| v + (rng.unit() as f32 - 0.5) * 0.01)
            .collect();
        let large = Vectors { dimensions: small.dimensions, data };
        assert!(large.len() > FULL);
        let (few, many) = (fit(&small, 5, 7), fit(&large, 5, 7));
        let per_row = |m: &KMeans| m.inertia / m.assignment.len() as f64;
        assert!(
            (per_row(&many) - per_row(&few)).abs() < 0.05 * per_row(&few),
            "{} {}",
            per_row(&many),
            per_row(&few)
        );
    }

    #[test]
    fn far_from_the_origin_the_nearest_is_still_the_nearest() {
        let mut rng = SplitMix64::new(3);
        let mut draw = |n: usize| (0..n).map(|_| 1000.0 + rng.unit() as f32).collect::<Vec<f32>>();
        let (vectors, centroids) =
            (Vectors { dimensions: 5, data: draw(5 * 700) }, Vectors { dimensions: 5, data: draw(5 * 9) });
        let (assignment, distances) = assign(&vectors, &centroids);
        for (row, (own, distance)) in vectors.rows().zip(assignment.iter().zip(distances)) {
            let all: Vec<f32> = centroids.rows().map(|c| squared_distance(row, c)).collect();
            let least = all.iter().copied().fold(f32::INFINITY, f32::min);
            assert_eq!((all[*own], distance), (least, least));
            assert_eq!(all.iter().position(|d| *d == least), Some(*own));
        }
    }

    #[test]
    fn a_file_of_many_vectors_is_clustered_as_well_as_the_same_in_memory() {
        use crate::embed::FlatWriter;
        let (n, d) = (FULL + 5_000, 4);
        let mut rng = SplitMix64::new(5);
        let data: Vec<f32> = (0..n)
            .flat_map(|i| (0..d).map(|j| if i % 6 == j { 3.0 } else { 0.0 }).collect::<Vec<f32>>())
            .map(|x| x + rng.unit() as f32 * 0.5)
            .collect();
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("v.f16");
        let mut writer = FlatWriter::create(&path).unwrap();
        writer.append(&data).unwrap();
        writer.finish().unwrap();
        let flat = fit_flat(&Flat::open(&path, d).unwrap(), 5, 7);
        let whole = fit(&Vectors { dimensions: d, data }, 5, 7);
        assert_eq!(flat.assignment.len(), n);
        assert!((flat.inertia / whole.inertia - 1.0).abs() < 0.02, "{} {}", flat.inertia, whole.inertia);
        assert!(rand_index(&flat.assignment, &whole.assignment) > 0.95);
    }

    #[test]
    fn by_a_gpu_every_vector_goes_where_the_cpu_puts_it() {
        let Some(launcher) = crate::ops::cuda::Emulator::new(0) else { return };
        let gpu = Searcher::over(launcher);
        let (r, vectors) = reference();
        for (k, ..) in r.inertia {
            let centroids = seeds(&vectors, k, &mut SplitMix64::new(1));
            assert_eq!(
                assign_on(&gpu, &vectors, &centroids).unwrap(),
                assign_here(&vectors, &centroids),
                "{k}"
            );
        }
        // Far from the origin, with ties, with the same centroid twenty times, and with what is no number.
        let mut rng = SplitMix64::new(3);
        let mut draw = |n: usize, from: f32| {
            (0..n).map(|_| from + (rng.unit() * 8.0).round() as f32).collect::<Vec<f32>>()
        };
        for from in [0.0, 1000.0] {
            let mut vectors = Vectors { dimensions: 5, data: draw(5 * 300, from) };
            let mut centroids = Vectors { dimensions: 5, data: draw(5 * 30, from) };
            for at in 10..30 {
                centroids.data.copy_within(0..5, 5 * at);
            }
            vectors.data[7] = f32::NAN;
            let (on, here) =
                (assign_on(&gpu, &vectors, &centroids).unwrap(), assign_here(&vectors, &centroids));
            assert_eq!(on, here, "{from}");
        }
        assert!(gpu.trouble().is_none());
    }

    #[test]
    fn degenerate_input_gives_fewer_clusters() {
        let same = Vectors { dimensions: 2, data: vec![1.0; 20] };
        assert_eq!(fit(&same, 4, 1).centroids.len(), 1);
        assert!(fit(&Vectors { dimensions: 2, data: vec![] }, 3, 1).assignment.is_empty());
        let none = fit(&Vectors::default(), 3, 1);
        assert!(none.assignment.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_vector_is_with_its_nearest_centroid_and_sizes_fall(data in prop::collection::vec(-1.0..1.0f32, 2..120), k in 1..6usize, threads in 1..4usize) {
            let vectors = Vectors { dimensions: 2, data: data[..data.len() / 2 * 2].to_vec() };
            let got = fit(&vectors, k, 3);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            prop_assert_eq!(&pool.install(|| fit(&vectors, k, 3)), &got);
            let sizes: Vec<usize> = (0..got.centroids.len()).map(|c| got.assignment.iter().filter(|a| **a == c).count()).collect();
            prop_assert!(sizes.windows(2).all(|w| w[0] >= w[1]) && sizes.iter().all(|s| *s > 0), "{:?}", sizes);
            for (row, &own) in vectors.rows().zip(&got.assignment) {
                let d = squared_distance(row, got.centroids.row(own));
                prop_assert!(got.centroids.rows().all(|c| squared_distance(row, c) >= d - 1e-5));
            }
        }
    }
}
