//! `tunebench run KIND`: start a run and follow it.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{block_on, connect, launch, once, unexpected};
use super::follow;
use super::output::{Exit, Output};
use super::power;
use super::sweep;
use crate::domain::api::{Request, Response};
use crate::domain::keys::Keys;
use crate::domain::leak::LEAKS;
use crate::domain::run::RunKind;
use crate::domain::sample::TrainRows;
use crate::domain::sweep::values;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do: eval, prompt, trajectory, train, strata, lr-range or grow
    kind: String,
    /// A setting for this run: a path of workspace.toml (`tuning.train.rank=8`, or `rank=8`), or `candidate=NAME`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Evaluate the pipeline with this model of workspace.toml in place of its own; several times for one run each, on the same rows
    #[arg(long = "model", value_name = "NAME", conflicts_with_all = ["from", "sweep"])]
    models: Vec<String>,
    /// Start a training run from another one's checkpoint: RUN@STEP, or RUN for its best; its settings hold but for --set
    #[arg(long, value_name = "RUN[@STEP]")]
    from: Option<String>,
    /// Begin with what was set for this run; --set and --sweep replace some of it
    #[arg(long, value_name = "RUN", conflicts_with = "from")]
    like: Option<String>,
    /// Train once for each of several values, side by side: `--sweep rank=4,8,16`; several times for all combinations
    #[arg(long = "sweep", value_name = "KEY=A,B,C", conflicts_with = "from")]
    sweep: Vec<String>,
    /// With --sweep: stop runs early that fall behind (their best dev loss is above the median of the others' means)
    #[arg(long, requires = "sweep")]
    drop_hopeless: bool,
    /// Go on though rows that the run is scored on stand in what it learns from (`tunebench data leaks`)
    #[arg(long, value_name = "allow|refuse")]
    leaks: Option<String>,
    /// Train on (or grow from) only the train rows that this filter admits
    #[arg(long = "where", value_name = "FILTER", allow_hyphen_values = true)]
    filter: Option<String>,
    /// Train on (or grow from) only a sample of the train rows (of those that --where admits): `--sample weak:500`, with a seed `weak:500:9`
    #[arg(long, value_name = "MODE:N")]
    sample: Option<String>,
    /// Leave the run to itself and return at once
    #[arg(long)]
    detach: bool,
    /// Send the keys that the workspace names to the endpoints that it names them for, without being asked
    #[arg(long)]
    trust: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let kind: RunKind = args.kind.parse().map_err(Exit::usage)?;
    if kind.is_resident() {
        return Err(Exit::usage(match kind {
            RunKind::Serve => "`tunebench serve RUN_OR_MODEL` serves models".to_owned(),
            _ => format!("a {kind} is opened on its screen, in `tunebench`"),
        }));
    }
    let mut set = settings("set", &args.set)?;
    set.extend(args.leaks.map(|leaks| (LEAKS.to_owned(), leaks)));
    let axes = settings("sweep", &args.sweep)?;
    if let Some(like) = args.like {
        let Response::Run { run } = once(root, Request::Run { run: like })? else { return Err(unexpected()) };
        if run.kind != kind {
            return Err(Exit::usage(format!("--like {}: it is no {kind} run", run.run)));
        }
        // What is given now replaces what stood there, by whichever of its names.
        let short = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let given: Vec<String> = set.iter().chain(&axes).map(|(key, _)| short(key)).collect();
        // Going on in spite of leaks is said for each run anew.
        let again = |key: &str| key != LEAKS && !given.contains(&short(key));
        set.splice(0..0, run.settings.into_iter().filter(|(key, _)| again(key)));
    }
    if let Some(rows) = rows(args.sample.as_deref(), args.filter.as_deref()) {
        let key = match kind {
            RunKind::Train => "tuning.train.rows",
            RunKind::Grow => "tuning.grow.rows",
            _ => {
                let why =
                    format!("--where and --sample choose rows to train on or to grow from, not for {kind}");
                return Err(Exit::usage(why));
            }
        };
        if args.set.iter().any(|s| s.starts_with("rows=") || s.starts_with(&format!("{key}="))) {
            return Err(Exit::usage("--where and --sample say what --set rows= says, too; leave one out"));
        }
        rows.parse::<TrainRows>().map_err(Exit::usage)?;
        set.retain(|(set, _)| set != "rows" && set != key);
        set.push((key.to_owned(), rows));
    }
    if !args.models.is_empty() {
        if kind != RunKind::Eval {
            return Err(Exit::usage(format!("--model: only evaluations take other models, not {kind}")));
        }
        if let Some(twice) = args.models.iter().enumerate().find(|(i, m)| args.models[..*i].contains(m)) {
            return Err(Exit::usage(format!("--model {}: named twice", twice.1)));
        }
        let with =
            |model: &String| set.iter().cloned().chain([("model".to_owned(), model.clone())]).collect();
        let mut sets: Vec<Vec<(String, String)>> = args.models.iter().map(with).collect();
        if let [only] = &mut sets[..] {
            return start(root, kind, std::mem::take(only), None, args.detach, args.trust, out);
        }
        let request = Request::LaunchAll { kind, sets, keys: Keys::default() };
        return sweep::several(root, request, args.detach, args.trust, out);
    }
    if !axes.is_empty() {
        if kind != RunKind::Train {
            return Err(Exit::usage(format!("--sweep: only training runs are swept, not {kind}")));
        }
        let axes = axes.into_iter().map(|(key, list)| (key, values(&list))).collect();
        let request = Request::Sweep { set, axes, drop_hopeless: args.drop_hopeless, keys: Keys::default() };
        return sweep::start(root, request, args.detach, args.trust, out);
    }
    start(root, kind, set, args.from, args.detach, args.trust, out)
}

/// What `tuning.train.rows` is by the flags.
fn rows(sample: Option<&str>, filter: Option<&str>) -> Option<String> {
    match (sample, filter) {
        (None, None) => None,
        (None, Some(filter)) => Some(format!("where:{filter}")),
        (Some(sample), filter) => {
            Some(format!("sample:{sample} {}", filter.unwrap_or("")).trim_end().to_owned())
        }
    }
}

/// Launch, and follow unless detached.
pub fn start(
    root: &Path,
    kind: RunKind,
    set: Vec<(String, String)>,
    from: Option<String>,
    detach: bool,
    agreed: bool,
    out: &Output,
) -> super::CommandResult {
    block_on(async {
        let client = connect(root).await?;
        power::tell(&client, kind, &set, out).await;
        let run = launch(&client, root, kind, set, from, agreed).await?;
        if detach {
            follow::result(&follow::fresh(&client, &run).await?, out);
            return Ok(ExitCode::SUCCESS);
        }
        let followed = follow::follow(client, root, &run, out).await?;
        Ok(follow::finish(&followed, out))
    })
}

/// `key=value` pairs.
pub fn settings(flag: &str, set: &[String]) -> Result<Vec<(String, String)>, Exit> {
    set.iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
            _ => Err(Exit::usage(format!("--{flag} {pair}: KEY=VALUE is expected, as in --{flag} rank=8"))),
        })
        .collect()
}
