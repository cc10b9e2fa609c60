//! `tunebench strata`: build them, list them, arrange them by hand, draw samples.

mod name;

use std::path::Path;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::ask::{ask, block_on, connect, launch, once, unexpected};
use super::follow::{self, Followed};
use super::output::{Exit, Output};
use super::table::{Table, clean, share};
use crate::domain::api::{Request, Response};
use crate::domain::board::{StrataGroup, StrataView, Stratum};
use crate::domain::row::Part;
use crate::domain::run::RunKind;
use crate::domain::sample::{SampleAsk, Wanted};
use crate::domain::strata::{ActState, ByHand};
use crate::domain::words::counted;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Embed, cluster, name and flag the rows
    Build {
        /// Number of clusters (default: chosen by a criterion)
        #[arg(long)]
        k: Option<usize>,
    },
    /// The strata, and what was decided about them by hand
    List,
    /// Cut a stratum's cluster into parts by what its rows say; kept when the strata are built anew
    Split {
        /// Id or name, as `strata list` shows them
        id: String,
        /// Number of parts
        #[arg(long, default_value_t = 2)]
        into: usize,
    },
    /// Put the clusters of two strata together; kept when the strata are built anew
    Merge { a: String, b: String },
    /// Give a stratum or a cluster a name; an empty one takes it away
    Rename { id: String, name: String },
    /// Let a model name the clusters, one question each; people's own names stay
    Name {
        /// A model of `[models]`, local or behind an endpoint
        #[arg(long)]
        model: String,
        /// Send the key that the workspace names to the endpoint that it names it for, without being asked
        #[arg(long)]
        trust: bool,
    },
    /// Take the last decision back, whatever it was
    Undo,
    /// Draw the same number of rows from every stratum: `tunebench data sample --mode per-stratum`
    Sample {
        /// Rows per stratum
        #[arg(long)]
        per: usize,
        /// Only rows of this part
        #[arg(long, value_enum)]
        split: Option<Split>,
        /// Of the draws; the same seed draws the same rows
        #[arg(long, default_value_t = 7)]
        seed: u64,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Split {
    Train,
    Dev,
    Eval,
    Reserve,
}

impl From<Split> for Part {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::Dev => Self::Dev,
            Split::Eval => Self::Eval,
            Split::Reserve => Self::Reserve,
        }
    }
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match args.what {
        What::Build { k } => build(k, root, out),
        What::List => list(root, out),
        What::Split { id, into } => by_hand(ByHand::Split { id, into }, root, out),
        What::Merge { a, b } => by_hand(ByHand::Merge { a, b }, root, out),
        What::Rename { id, name } => by_hand(ByHand::Rename { id, name }, root, out),
        What::Name { model, trust } => name::run(&model, trust, root, out),
        What::Undo => {
            let Response::Done { message } = once(root, Request::Undo)? else { return Err(unexpected()) };
            out.result(&json!({ "done": message }), || clean(&message));
            Ok(ExitCode::SUCCESS)
        }
        What::Sample { per: 0, .. } => {
            Err(Exit::usage("--per 0 draws nothing; expected a whole number of rows per stratum, at least 1"))
        }
        What::Sample { per, split, seed } => {
            let part = split.map(Part::from);
            let wanted = Wanted { n: per, seed, part, ..Wanted::default() };
            let ask = SampleAsk { wanted, ..SampleAsk::default() };
            let Response::Sample { sample } = once(root, Request::Sample { sample: ask })? else {
                return Err(unexpected());
            };
            let rows: Vec<String> = sample.rows.into_iter().map(|row| row.id).collect();
            out.result(&json!({ "rows": rows }), || rows.join("\n"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn by_hand(by_hand: ByHand, root: &Path, out: &Output) -> super::CommandResult {
    block_on(async {
        let client = connect(root).await?;
        let Response::Done { message } = ask(&client, Request::ByHand { by_hand }).await? else {
            return Err(unexpected());
        };
        let Response::Strata { view } = ask(&client, Request::Strata).await? else {
            return Err(unexpected());
        };
        let value =
            json!({ "done": message, "strata": view.strata, "groups": view.groups, "by_hand": view.by_hand });
        out.result(&value, || {
            format!("{}; `tunebench strata undo` takes it back\n\n{}", clean(&message), render(&view))
        });
        Ok(ExitCode::SUCCESS)
    })
}

fn list(root: &Path, out: &Output) -> super::CommandResult {
    let Response::Strata { view } = once(root, Request::Strata)? else { return Err(unexpected()) };
    if view.strata.is_empty() {
        return Err(Exit::usage("no strata have been built; `tunebench strata build`"));
    }
    let value = json!({ "strata": view.strata, "groups": view.groups, "by_hand": view.by_hand, "choice": view.choice });
    out.result(&value, || render(&view));
    Ok(ExitCode::SUCCESS)
}

fn build(k: Option<usize>, root: &Path, out: &Output) -> super::CommandResult {
    block_on(async {
        let client = connect(root).await?;
        let set = k.map(|k| ("k".to_owned(), k.to_string())).into_iter().collect();
        let run = launch(&client, root, RunKind::Strata, set, None, false).await?;
        let followed = follow::follow(client, root, &run, out).await?;
        let record = match &followed {
            Followed::Ended(record) if record.state.has_result() => record,
            _ => return Ok(follow::finish(&followed, out)),
        };
        let Response::Strata { view } = ask(&connect(root).await?, Request::Strata).await? else {
            return Err(unexpected());
        };
        let took = record.ended_ms.and_then(|end| record.took_ms(end));
        let seconds = took.unwrap_or(0) as f64 / 1000.0;
        let value = json!({
            "strata": view.strata,
            "outliers": view.outliers,
            "near_duplicates": view.near_duplicates,
            "groups": view.groups,
            "by_hand": view.by_hand,
            "choice": view.choice,
            "seconds": seconds,
            "run": run,
        });
        out.result(&value, || render(&view));
        Ok(ExitCode::SUCCESS)
    })
}

fn render(view: &StrataView) -> String {
    let mut table = Table::new(&[
        "id", "stratum", ">rows", ">train", ">dev", ">eval", ">reserve", ">base", ">best", "terms",
    ]);
    let score_columns = 8;
    let mut listed: Vec<Result<&StrataGroup, &Stratum>> = Vec::new();
    for group in &view.groups {
        listed.push(Ok(group));
        listed.extend(view.strata.iter().filter(|s| s.group == group.id).map(Err));
    }
    let grouped = !view.groups.is_empty();
    let known = |s: &&Stratum| !view.groups.iter().any(|g| g.id == s.group);
    listed.extend(view.strata.iter().filter(known).map(Err));
    for line in listed {
        let s = match line {
            Ok(group) => {
                let mut cells = vec![group.id.clone(), group.name.clone(), group.rows.to_string()];
                cells.resize(score_columns + 1, String::new());
                cells.push(group.terms.join(" "));
                table.row(cells);
                continue;
            }
            Err(s) => s,
        };
        let score = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| share(v, s.scored));
        let indent = if grouped { "  " } else { "" };
        let mut cells = vec![format!("{indent}{}", s.id), format!("{indent}{}", s.name), s.rows.to_string()];
        cells.extend(s.parts.iter().map(usize::to_string));
        cells.extend([score(s.base), score(s.best), s.terms.join(" ")]);
        table.row(cells);
    }
    let mut text = format!(
        "{}{} in {} ({}), {}, {}, {} quarantined\n",
        table.render(),
        counted(view.rows, "row"),
        counted(view.strata.len(), "stratum"),
        counted(view.clusters, "cluster"),
        counted(view.outliers, "outlier"),
        counted(view.near_duplicates, "near-duplicate"),
        view.quarantined
    );
    if !view.choice.tried.is_empty() {
        text.push_str(&format!("{} clusters: {}\n", view.choice.k, view.choice.criterion));
        let tried: Vec<String> = view.choice.tried.iter().map(|(k, s)| format!("{k} {s:.3}")).collect();
        text.push_str(&format!("tried, with their silhouettes: {}; --k N takes another\n", tried.join("  ")));
    }
    for told in &view.by_hand {
        let state = match told.state {
            ActState::Applied => "by hand",
            ActState::Stands => "by hand, nothing to do",
            ActState::Failed => "by hand, NOT applied",
        };
        let on = told.on.as_ref().map(|on| format!(" ({on})")).unwrap_or_default();
        let why = told.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        text.push_str(&clean(&format!("{state}: {}{on}{why}", told.what)));
        text.push('\n');
    }
    text
}
