//! `tunebench export RUN`: a folder that other tools load.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{Exit, Output};
use crate::domain::row::RunRow;
use crate::domain::run::Job;
use crate::store::lines;
use crate::tuning::train::export::{self, ExportError};
use crate::worker::folder::RunFolder;
use crate::workspace;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A training run, or one of its checkpoints: RUN@STEP
    run: String,
    /// The folder to write; must be new or empty
    #[arg(long)]
    to: PathBuf,
    /// The adapter alone, or base and adapter merged into a whole model [default: peft; merged after full training]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Peft,
    Merged,
}

impl From<Format> for export::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Peft => Self::Peft,
            Format::Merged => Self::Merged,
        }
    }
}

#[derive(serde::Serialize)]
struct Exported {
    path: PathBuf,
    max_abs_diff: f64,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let (run, step) = match args.run.split_once('@') {
        None => (args.run.as_str(), None),
        Some((run, step)) => {
            let step = step.parse().map_err(|_| {
                Exit::usage(format!("`{}`: expected RUN@STEP with a number, such as {run}@120", args.run))
            })?;
            (run, Some(step))
        }
    };
    let folder = find(root, run)?;
    let spec = folder.read_spec().map_err(|e| Exit::usage(format!("{e:#}")))?;
    let Job::Train { train, .. } = &spec.job else {
        return Err(Exit::usage(format!(
            "{run} is of kind {}; only a training run has a model to export",
            spec.job.kind()
        )));
    };
    let (rows, _) = lines::read_all::<RunRow>(&folder.rows())?;
    let format = args.format.map(export::Format::from);
    // A folder that cannot be made is told before the work is done, not after it.
    let is_new = !args.to.exists();
    std::fs::create_dir_all(&args.to).map_err(|e| {
        Exit::usage(format!(
            "--to {}: cannot be made: {e}; name a new folder in one that you can write to",
            args.to.display()
        ))
    })?;
    let exported = export::export(folder.dir(), &spec, train, &rows, step, format, &args.to);
    if exported.is_err() && is_new {
        // Empty again, unless somebody put something there.
        let _ = std::fs::remove_dir(&args.to);
    }
    let max_abs_diff = exported.map_err(|e| match e {
        ExportError::Request(message) => Exit::usage(message),
        ExportError::Failed(error) => Exit::from(error),
    })?;
    let path = args.to.canonicalize()?;
    out.result(&Exported { path: path.clone(), max_abs_diff }, || {
        format!("{}\nread again: logprobs differ by at most {max_abs_diff:.1e}", path.display())
    });
    Ok(ExitCode::SUCCESS)
}

/// The run's folder, by its id.
fn find(root: &Path, run: &str) -> Result<RunFolder, Exit> {
    let runs = root.join(workspace::STATE).join("runs");
    let plain = !run.is_empty() && !run.contains(['/', '\\']) && run != "." && run != "..";
    if plain && runs.join(run).is_dir() {
        return Ok(RunFolder::new(runs.join(run)));
    }
    let mut known: Vec<String> = std::fs::read_dir(&runs)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    known.sort();
    Err(Exit::usage(match workspace::nearest(run, known.iter().map(String::as_str)) {
        _ if known.is_empty() => format!("no run `{run}`: {} has no runs", root.display()),
        Some(nearest) => {
            format!("no run `{run}` here; did you mean {nearest}? (`tunebench runs` lists all)")
        }
        None => format!("no run `{run}` here; `tunebench runs` lists all"),
    }))
}
