//! `tunebench bench map`: the map of texts laid out on the principal axes and by neighbours, with the time each takes and how far neighbours
//! on the map are neighbours indeed; vectors and layouts can be kept for a peer.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::embed::{Embedder, Vectors};
use crate::strata::layout::{self, Point};

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// A CSV file with a header
    pub file: PathBuf,
    /// The column with the texts
    #[arg(long, default_value = "text")]
    pub column: String,
    /// Texts on the map, spread evenly over the file
    #[arg(long, default_value_t = 2_000)]
    pub points: usize,
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Neighbours that trustworthiness looks at
    #[arg(long, default_value_t = 15)]
    pub neighbours: usize,
    /// Keep vectors.npy, principal.npy and neighbours.npy in this folder
    #[arg(long)]
    pub save: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub texts: usize,
    pub points: usize,
    pub principal_s: f64,
    pub neighbours_s: f64,
    pub principal_trust: Option<f64>,
    pub neighbours_trust: Option<f64>,
}

/// Embeds the texts, lays the map out twice and measures both.
///
/// # Errors
/// The file cannot be read, or has no such column.
pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    let texts = texts(&settings.file, &settings.column)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (vectors, _) = Embedder::fit(&texts, settings.seed).embed_with_fit(&texts);
    let n = settings.points.min(vectors.len());
    let sample = vectors.select(&(0..n).map(|i| i * vectors.len() / n.max(1)).collect::<Vec<_>>());
    let start = Instant::now();
    let principal = layout::principal(&sample);
    let principal_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let neighbours = layout::neighbours(&sample, &principal, settings.seed);
    let neighbours_s = start.elapsed().as_secs_f64();
    if let Some(to) = &settings.save {
        save(to, &sample, &principal, &neighbours)?;
    }
    let trust = |points: &[Point]| layout::trustworthiness(&sample, points, settings.neighbours);
    Ok(Report {
        texts: texts.len(),
        points: n,
        principal_s,
        neighbours_s,
        principal_trust: trust(&principal),
        neighbours_trust: trust(&neighbours),
    })
}

fn texts(file: &Path, column: &str) -> anyhow::Result<Vec<String>> {
    let mut reader =
        csv::Reader::from_path(file).with_context(|| format!("cannot read {}", file.display()))?;
    let at = reader.headers()?.iter().position(|name| name == column);
    let at = at.with_context(|| format!("{} has no column `{column}`", file.display()))?;
    reader.records().map(|row| Ok(row?.get(at).unwrap_or_default().to_owned())).collect()
}

fn save(to: &Path, vectors: &Vectors, principal: &[Point], neighbours: &[Point]) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    let flat = |points: &[Point]| -> Vec<f32> { points.iter().flat_map(|p| [p.0, p.1]).collect() };
    npy(&to.join("vectors.npy"), vectors.dimensions, &vectors.data)?;
    npy(&to.join("principal.npy"), 2, &flat(principal))?;
    npy(&to.join("neighbours.npy"), 2, &flat(neighbours))
}

/// NumPy's format 1.0: magic, version, length of the header, header padded to 64 bytes, values.
fn npy(path: &Path, columns: usize, values: &[f32]) -> anyhow::Result<()> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}").into_bytes();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(b' ');
    }
    header.push(b'\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header);
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

impl Report {
    pub fn text(&self) -> String {
        let told = |trust: Option<f64>| trust.map_or("-".to_owned(), |t| format!("{t:.3}"));
        format!(
            "{} of {} texts: principal axes {:.2} s, trustworthiness {}; neighbours {:.2} s, {}",
            self.points,
            self.texts,
            self.principal_s,
            told(self.principal_trust),
            self.neighbours_s,
            told(self.neighbours_trust)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_laid_out_and_kept_for_a_peer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.csv");
        let row = |i: usize| {
            format!("\"{} {} number {i}\",x\n", ["card", "money", "login"][i % 3], ["lost", "late"][i % 2])
        };
        std::fs::write(&file, format!("text,category\n{}", (0..60).map(row).collect::<String>())).unwrap();
        let settings = Settings {
            file,
            column: "text".into(),
            points: 50,
            seed: 1,
            neighbours: 5,
            save: Some(dir.path().join("kept")),
        };
        let report = run(&settings).unwrap();
        assert_eq!((report.texts, report.points), (60, 50));
        assert!(report.neighbours_trust.unwrap() > 0.6, "{report:?}");
        let kept = std::fs::read(dir.path().join("kept/neighbours.npy")).unwrap();
        assert_eq!(kept.len(), 128 + 50 * 2 * 4);
        assert!(run(&Settings { column: "none".into(), ..settings }).is_err());
    }
}
