//! What a `strata` run leaves behind: `artifacts/strata.json`.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::duplicates;
pub use super::naming::TERMS;
use crate::domain::board::Stratum;
use crate::domain::settings::StrataSettings;
use crate::embed::Flat;

/// Version of the file's format.
pub const FORMAT: u32 = 1;

/// Place in a run's folder.
pub const FILE: &str = "artifacts/strata.json";

/// The rows' vectors beside it, f16.
pub const VECTORS: &str = "artifacts/vectors.f16";

/// Flag of rows that say what is said nowhere else.
pub const OUTLIER: &str = "outliers";
/// Flag of rows that are in a group of duplicates, exact or near.
pub const NEAR_DUPLICATE: &str = "near-duplicates";

/// The strata of a data set and everything found on the way. Rows are referred to by their place in `rows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StrataArtifact {
    pub format: u32,
    pub settings: StrataSettings,
    pub clusters: Vec<Cluster>,
    /// Each number of clusters that was tried, with its silhouette; empty where the number was given.
    pub tried: Vec<(usize, f64)>,
    /// The largest first. `parts`, `base`, `best` and `scored` are the engine's to fill.
    pub strata: Vec<Stratum>,
    /// In the order of the run's rows.
    pub rows: Vec<RowPlace>,
    pub duplicates: Vec<duplicates::Group>,
    /// A sample of the rows.
    pub map: Vec<MapPoint>,
    /// Length of the vectors in [`VECTORS`], in the order of `rows`; 0 where an older version kept none.
    #[serde(default)]
    pub dimensions: usize,
}

/// Rows that speak of one matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// `c1` is the largest.
    pub id: String,
    pub name: String,
    pub rows: usize,
    /// Heaviest terms by c-TF-IDF.
    pub terms: Vec<String>,
}

/// Where a row belongs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowPlace {
    pub id: String,
    pub hash: String,
    /// Place in `strata`.
    pub stratum: usize,
    /// Place in `clusters`.
    pub cluster: usize,
    /// Robust z-score of how little of the row is said elsewhere.
    pub outlier: f32,
    /// [`OUTLIER`], [`NEAR_DUPLICATE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// A row on the map, in -1..1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapPoint {
    /// Place in `rows`.
    pub row: usize,
    pub x: f32,
    pub y: f32,
}

impl StrataArtifact {
    /// Rows with a flag.
    pub fn flagged(&self, flag: &str) -> usize {
        self.rows.iter().filter(|row| row.flags.iter().any(|f| f == flag)).count()
    }

    /// The rows' vectors.
    ///
    /// # Errors
    /// They are not there, or not whole: in words.
    pub fn vectors(&self, run_dir: &Path) -> Result<Flat, String> {
        if self.dimensions == 0 {
            return Err("an older version built these strata and kept no vectors; build them again".into());
        }
        let path = run_dir.join(VECTORS);
        Flat::open(&path, self.dimensions)
            .map_err(|e| format!("{}: {e}; build the strata again", path.display()))
    }

    /// Write to a run's folder; the file appears whole or not at all.
    pub fn write(&self, run_dir: &Path) -> anyhow::Result<PathBuf> {
        let path = run_dir.join(FILE);
        let temporary = path.with_extension("json.tmp");
        let write = || -> anyhow::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = BufWriter::new(File::create(&temporary)?);
            serde_json::to_writer(&mut file, self)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&temporary, &path)?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Read what [`Self::write`] wrote.
    pub fn read(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(FILE);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let artifact: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; run `tunebench strata build` again", path.display()))?;
        anyhow::ensure!(
            artifact.format == FORMAT,
            "{} has format {}, this version reads {FORMAT}; run `tunebench strata build` again",
            path.display(),
            artifact.format
        );
        Ok(artifact)
    }
}
