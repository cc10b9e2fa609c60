//! What a checkpoint holds beyond the model, and how it is written and read.
//!
//! A checkpoint folder has the model's own state (adapter or weights, optimizer moments) and `trainer.json`, which is written
//! last and lists every other file with its hash: a folder that was torn by a power cut is told from a whole one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::steer::Recorded;
use crate::model::trainable::Trainable;

const TRAINER_FILE: &str = "trainer.json";
const FORMAT: u32 = 1;

/// Where the training loop stands. Together with the model's state it decides everything that follows: the order of the rows
/// is a function of `seed`, position and changes, and nothing else is drawn by chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub step: u64,
    /// Position in the data: the epoch, from 0, and how many of its rows are taken.
    pub epoch: u64,
    pub epoch_rows: usize,
    pub seed: u64,
    /// Tokens through the model, and those of them that were trained.
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Dev loss before the first step.
    #[serde(with = "exact")]
    pub loss_before: Option<f64>,
    /// The best evaluation: its step and its dev loss.
    pub best_step: Option<u64>,
    #[serde(with = "exact")]
    pub best_loss: Option<f64>,
    /// Evaluations with a dev loss, of which the best is chosen.
    #[serde(default)]
    pub evals: u64,
    /// Evaluations since the best one.
    pub evals_without_better: u64,
    /// Mean loss per trained token of the last step.
    #[serde(with = "exact")]
    pub last_loss: Option<f64>,
    /// The run came to its end (by its steps or by patience); a resumed one has nothing left to train.
    pub finished: bool,
    /// Changes in mid-run, oldest first; a resumed run may still have some before it.
    #[serde(default)]
    pub changes: Vec<Recorded>,
    /// Hash of the settings and of every token trained or evaluated on.
    pub inputs: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct TrainerFile {
    format: u32,
    #[serde(flatten)]
    state: TrainerState,
    /// BLAKE3 of the other files.
    files: BTreeMap<String, String>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: {source}", path.display())]
    Model { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// Write a checkpoint into the fresh folder `dir`; every byte is on the disk when this returns.
pub fn write(dir: &Path, model: &Trainable, state: &TrainerState) -> io::Result<()> {
    model.save_state(dir).map_err(io::Error::other)?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = File::open(entry.path())?;
        file.sync_all()?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), hash(&entry.path())?);
    }
    let body = serde_json::to_vec_pretty(&TrainerFile { format: FORMAT, state: state.clone(), files })?;
    let mut file = File::create(dir.join(TRAINER_FILE))?;
    file.write_all(&body)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Read a checkpoint's state, after checking that the folder is whole.
pub fn read(dir: &Path) -> Result<TrainerState, CheckpointError> {
    let path = dir.join(TRAINER_FILE);
    let body = fs::read(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    let damaged = |path: &Path, reason: String| CheckpointError::Damaged { path: path.to_owned(), reason };
    let read: TrainerFile = serde_json::from_slice(&body)
        .map_err(|e| damaged(&path, format!("no trainer state of this version ({e})")))?;
    if read.format != FORMAT {
        return Err(damaged(&path, format!("format {}, this version reads {FORMAT}", read.format)));
    }
    for (name, want) in &read.files {
        let path = dir.join(name);
        let got = hash(&path).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        if got != *want {
            return Err(damaged(&path, "its content is not what was written (hash differs)".into()));
        }
    }
    Ok(read.state)
}

/// Bring `model` to the state of a checkpoint that [`read`] found whole.
pub fn load_model(dir: &Path, model: &mut Trainable) -> Result<(), CheckpointError> {
    model.load_state(dir).map_err(|e| CheckpointError::Model { path: dir.to_owned(), source: e.into() })
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Floats as decimal strings: the shortest that reads back to the same bits (JSON numbers may lose the last one on reading,
/// and have no infinity).
mod exact {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|v| format!("{v:?}")).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|s| s.parse().map_err(D::Error::custom)).transpose()
    }
}
