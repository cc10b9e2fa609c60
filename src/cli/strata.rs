//! `tunebench strata build|sample`.

use std::path::Path;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::ask::{ask, block_on, connect, launch, once, unexpected};
use super::follow::{self, Followed};
use super::output::{Exit, Output};
use super::table::{Table, share};
use crate::domain::api::{Request, Response};
use crate::domain::board::StrataView;
use crate::domain::row::Part;
use crate::domain::run::RunKind;
use crate::domain::sample::{SampleAsk, Wanted};
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
            "seconds": seconds,
            "run": run,
        });
        out.result(&value, || render(&view));
        Ok(ExitCode::SUCCESS)
    })
}

fn render(view: &StrataView) -> String {
    let mut table =
        Table::new(&["stratum", ">rows", ">train", ">dev", ">eval", ">reserve", ">base", ">best", "terms"]);
    for s in &view.strata {
        let score = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| share(v, s.scored));
        let mut cells = vec![s.name.clone(), s.rows.to_string()];
        cells.extend(s.parts.iter().map(usize::to_string));
        cells.extend([score(s.base), score(s.best), s.terms.join(" ")]);
        table.row(cells);
    }
    format!(
        "{}{} in {} ({}), {}, {}, {} quarantined\n",
        table.render(),
        counted(view.rows, "row"),
        counted(view.strata.len(), "stratum"),
        counted(view.clusters, "cluster"),
        counted(view.outliers, "outlier"),
        counted(view.near_duplicates, "near-duplicate"),
        view.quarantined
    )
}
