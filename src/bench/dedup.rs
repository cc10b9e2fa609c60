//! Near duplicates among many texts, beside the exact likeness of pairs.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::domain::rng::SplitMix64;
use crate::machine;
use crate::strata::duplicates;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Texts to make, where --texts names none
    #[arg(long, default_value_t = 100_000)]
    pub rows: usize,
    /// A file of texts, one a line
    #[arg(long)]
    pub texts: Option<PathBuf>,
    /// Jaccard likeness of the 5-grams of characters
    #[arg(long, default_value_t = 0.7)]
    pub threshold: f64,
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Keep the texts for a peer, one a line
    #[arg(long)]
    pub save: Option<PathBuf>,
    /// Write the pairs that were found: `A B LIKENESS`, places from 0
    #[arg(long)]
    pub pairs: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub texts: usize,
    pub threshold: f64,
    pub threads: usize,
    pub seconds: f64,
    pub pairs: usize,
    pub copies: usize,
    pub peak_mib: f64,
}

/// # Errors
/// A threshold that is no likeness, or a file that cannot be read or written.
pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    if !(0.0..=1.0).contains(&settings.threshold) || settings.threads == 0 {
        bail!("--threshold must be from 0 to 1, and --threads at least 1");
    }
    let texts: Vec<String> = match &settings.texts {
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .lines()
            .map(str::to_owned)
            .collect(),
        None => draw(settings.rows),
    };
    if let Some(path) = &settings.save {
        fs::write(path, texts.join("\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(settings.threads).build()?;
    let began = Instant::now();
    let (pairs, copies) =
        pool.install(|| (duplicates::pairs(&texts, settings.threshold), duplicates::copies(&texts)));
    let seconds = began.elapsed().as_secs_f64();
    if let Some(path) = &settings.pairs {
        let lines: String =
            pairs.iter().map(|p| format!("{} {} {:.6}\n", p.texts.0, p.texts.1, p.likeness)).collect();
        fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Report {
        texts: texts.len(),
        threshold: settings.threshold,
        threads: settings.threads,
        seconds,
        pairs: pairs.len(),
        copies: copies.len(),
        peak_mib: machine::peak_resident().unwrap_or(0) as f64 / (1 << 20) as f64,
    })
}

/// Messages of about 120 characters; one in five is another one with some words changed, so that all degrees of likeness occur.
fn draw(rows: usize) -> Vec<String> {
    let mut rng = SplitMix64::new(5);
    let words: Vec<String> = (0..4000)
        .map(|_| (0..2 + rng.below(8)).map(|_| char::from(b'a' + rng.below(26) as u8)).collect())
        .collect();
    let mut texts: Vec<Vec<usize>> = Vec::with_capacity(rows);
    let mut seen: HashSet<Vec<usize>> = HashSet::new();
    while texts.len() < rows {
        let text = if !texts.is_empty() && rng.below(5) == 0 {
            let mut text = texts[rng.below(texts.len())].clone();
            for _ in 0..rng.below(6) {
                let at = rng.below(text.len());
                text[at] = rng.below(words.len());
            }
            text
        } else {
            (0..12 + rng.below(16)).map(|_| rng.below(words.len())).collect()
        };
        if seen.insert(text.clone()) {
            texts.push(text);
        }
    }
    texts.iter().map(|t| t.iter().map(|&w| words[w].as_str()).collect::<Vec<_>>().join(" ")).collect()
}
