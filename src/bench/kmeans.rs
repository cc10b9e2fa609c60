//! k-means on many vectors, by full iterations and as a strata run does it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use rayon::prelude::*;
use serde::Serialize;

use crate::domain::rng::SplitMix64;
use crate::embed::Vectors;
use crate::machine;
use crate::strata::kmeans;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    #[arg(long, default_value_t = 1_000_000)]
    pub vectors: usize,
    #[arg(long, default_value_t = 256)]
    pub dimensions: usize,
    #[arg(long, default_value_t = 100)]
    pub k: usize,
    /// Full iterations
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Keep the vectors for a peer: f32, little-endian, one after the other
    #[arg(long)]
    pub save: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub vectors: usize,
    pub dimensions: usize,
    pub k: usize,
    pub rounds: usize,
    pub threads: usize,
    /// Seeding and the full iterations; sum of squared distances after them.
    pub full_s: f64,
    pub full_inertia: f64,
    /// As a strata run does it: mini-batches, the best of several starts.
    pub strata_s: f64,
    pub strata_inertia: f64,
    /// Multiply-adds of the full iterations' products per second, in 10^9 operations.
    pub gflops: f64,
    pub peak_mib: f64,
}

/// # Errors
/// Sizes of nothing or of more than 16 GiB; the file cannot be written.
pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    let Settings { vectors: n, dimensions: d, k, rounds, threads, .. } = *settings;
    let Some(values) = n.checked_mul(d).filter(|v| (1..=1 << 32).contains(v)) else {
        bail!("--vectors times --dimensions must be from 1 to 2^32");
    };
    if k == 0 || k > n || rounds == 0 || threads == 0 {
        bail!("--k must be from 1 to --vectors, --rounds and --threads at least 1");
    }
    let vectors = Vectors { dimensions: d, data: draw(n, d, k) };
    if let Some(path) = &settings.save {
        let mut bytes = Vec::with_capacity(values * 4);
        vectors.data.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let began = Instant::now();
    let full = pool.install(|| kmeans::full(&vectors, k, rounds, 7));
    let full_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let strata = pool.install(|| kmeans::fit(&vectors, k, 7));
    let strata_s = began.elapsed().as_secs_f64();
    Ok(Report {
        vectors: n,
        dimensions: d,
        k,
        rounds,
        threads,
        full_s,
        full_inertia: full.inertia,
        strata_s,
        strata_inertia: strata.inertia,
        // One assignment more than rounds: the first goes before them.
        gflops: 2.0 * values as f64 * k as f64 * (rounds + 1) as f64 / full_s / 1e9,
        peak_mib: machine::peak_resident().unwrap_or(0) as f64 / (1 << 20) as f64,
    })
}

/// Clouds around twice as many centres as there are clusters, that lie into each other: neither trivial nor hopeless.
fn draw(n: usize, d: usize, k: usize) -> Vec<f32> {
    let mut rng = SplitMix64::new(11);
    let centres: Vec<f32> = (0..2 * k * d).map(|_| rng.unit() as f32 - 0.5).collect();
    let mut data = vec![0.0; n * d];
    data.par_chunks_mut(d).enumerate().for_each(|(i, row)| {
        let mut rng = SplitMix64::new(i as u64);
        let centre = rng.below(2 * k) * d;
        for (value, centre) in row.iter_mut().zip(&centres[centre..centre + d]) {
            *value = centre + (rng.unit() + rng.unit() + rng.unit() - 1.5) as f32;
        }
    });
    data
}
