//! `tunebench run KIND`: start a run and follow it.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{block_on, connect, launch};
use super::follow;
use super::output::{Exit, Output};
use crate::domain::run::RunKind;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do: eval, train, strata or lr-range
    kind: String,
    /// A setting for this run: a path of workspace.toml (`tuning.train.rank=8`, or `rank=8`), or `candidate=NAME`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Start a training run from another one's checkpoint: RUN@STEP, or RUN for its best; its settings hold but for --set
    #[arg(long, value_name = "RUN[@STEP]")]
    from: Option<String>,
    /// Leave the run to itself and return at once
    #[arg(long)]
    detach: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let kind: RunKind = args.kind.parse().map_err(Exit::usage)?;
    let set = settings(&args.set)?;
    start(root, kind, set, args.from, args.detach, out)
}

/// Launch, and follow unless detached.
pub fn start(
    root: &Path,
    kind: RunKind,
    set: Vec<(String, String)>,
    from: Option<String>,
    detach: bool,
    out: &Output,
) -> super::CommandResult {
    block_on(async {
        let client = connect(root).await?;
        let run = launch(&client, root, kind, set, from).await?;
        if detach {
            follow::result(&follow::fresh(&client, &run).await?, out);
            return Ok(ExitCode::SUCCESS);
        }
        let followed = follow::follow(client, root, &run, out).await?;
        Ok(follow::finish(&followed, out))
    })
}

/// `key=value` pairs.
fn settings(set: &[String]) -> Result<Vec<(String, String)>, Exit> {
    set.iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
            _ => Err(Exit::usage(format!("--set {pair}: KEY=VALUE is expected, as in --set rank=8"))),
        })
        .collect()
}
