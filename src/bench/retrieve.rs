//! What an exact search over many examples costs, beside reading their vectors once.

use std::time::Instant;

use serde::Serialize;

use crate::domain::rng::SplitMix64;
use crate::embed::Vectors;
use crate::ops::dots::dots;
use crate::retrieve::nearest::top;

/// What is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Settings {
    #[arg(long, default_value_t = 100_000)]
    pub examples: usize,
    #[arg(long, default_value_t = 256)]
    pub dimensions: usize,
    #[arg(long, default_value_t = 5)]
    pub shots: usize,
    #[arg(long, default_value_t = 50)]
    pub queries: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    pub examples: usize,
    pub dimensions: usize,
    pub threads: usize,
    /// One query: the median, and the largest.
    pub ms: f64,
    pub ms_max: f64,
    /// Bytes of vectors read per second, at the median.
    pub gb_per_s: f64,
    /// The same products on one thread, nothing kept.
    pub floor_one_thread_ms: f64,
}

/// # Errors
/// Sizes of nothing, or of more than fits in 8 GiB.
pub fn run(settings: &Settings) -> Result<Report, String> {
    let Settings { examples, dimensions, shots, queries } = *settings;
    let values = examples.checked_mul(dimensions).filter(|n| (1..=1 << 31).contains(n));
    let (Some(values), true) = (values, queries > 0) else {
        return Err("--examples times --dimensions must be from 1 to 2^31, and --queries at least 1".into());
    };
    let mut rng = SplitMix64::new(7);
    let mut draw = |n: usize| (0..n).map(|_| rng.unit() as f32 - 0.5).collect::<Vec<f32>>();
    let vectors = Vectors { dimensions, data: draw(values) };
    let asked: Vec<Vec<f32>> = (0..queries).map(|_| draw(dimensions)).collect();
    let timed = |work: &mut dyn FnMut(&[f32])| {
        let mut ms: Vec<f64> = asked
            .iter()
            .map(|query| {
                let began = Instant::now();
                work(query);
                began.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        ms.sort_by(f64::total_cmp);
        ms
    };
    let mut found = 0;
    let searched = timed(&mut |query| found += top(&vectors, query, shots, &|_| true).len());
    if found != queries * shots.min(examples) {
        return Err("the search found fewer than there are".into());
    }
    let mut out = vec![0.0; examples];
    let floor = timed(&mut |query| dots(&vectors.data, query, &mut out));
    let median = |ms: &[f64]| ms.get(ms.len() / 2).copied().unwrap_or_default();
    let ms = median(&searched);
    Ok(Report {
        examples,
        dimensions,
        threads: rayon::current_num_threads(),
        ms,
        ms_max: searched.last().copied().unwrap_or_default(),
        gb_per_s: values as f64 * 4.0 / ms / 1e6,
        floor_one_thread_ms: median(&floor),
    })
}
