//! `tunebench data scaling`: train on more and more of the rows, and say whether still more would pay.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{ask_with_keys, block_on, connect, once, unexpected};
use super::follow::INTERRUPTED;
use super::output::{Exit, Output};
use super::sweep::follow_all;
use super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::keys::Keys;
use crate::domain::sample::SEED;
use crate::domain::scaling::{SHARES, Scaling};
use crate::domain::words::counted;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tell what came of this sweep (default, with --show: the newest)
    group: Option<String>,
    /// Only tell, train nothing
    #[arg(long)]
    show: bool,
    /// Shares of the train rows; the smaller ones are contained in the larger ones
    #[arg(long, value_delimiter = ',', default_values_t = SHARES.map(String::from))]
    shares: Vec<String>,
    /// Which rows make up a share
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// A setting of all runs: a path of workspace.toml, as in `run train`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Leave the runs to themselves and return at once
    #[arg(long)]
    detach: bool,
    /// Send the keys that the workspace names to the endpoints that it names them for, without being asked
    #[arg(long)]
    trust: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    if args.show || args.group.is_some() {
        let Response::Scaling { scaling } = once(root, Request::Scaling { group: args.group })? else {
            return Err(unexpected());
        };
        out.result(&scaling, || render(&scaling));
        return Ok(ExitCode::SUCCESS);
    }
    let shares: Vec<String> =
        args.shares.iter().map(|share| format!("share:{}:{}", share.trim(), args.seed)).collect();
    if shares.len() < 3 {
        return Err(Exit::usage("--shares: a curve takes at least 3 shares, such as 25%,50%,100%"));
    }
    let set = super::run::settings("set", &args.set)?;
    let axes = vec![("tuning.train.rows".to_owned(), shares)];
    let request = Request::Sweep { set, axes, drop_hopeless: false, keys: Keys::default() };
    block_on(async {
        let mut client = connect(root).await?;
        let Response::Swept { group, runs } = ask_with_keys(&client, root, request, args.trust).await? else {
            return Err(unexpected());
        };
        out.say(&format!("{group}: {}: {}", counted(runs.len(), "run"), runs.join(" ")));
        if args.detach {
            out.result(&serde_json::json!({ "group": group, "runs": runs }), || {
                format!("`tunebench data scaling {group}` tells what came of it, when they have ended\n")
            });
            return Ok(ExitCode::SUCCESS);
        }
        if follow_all(&mut client, root, &runs, out).await?.is_none() {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let request = Request::Scaling { group: Some(group) };
        let Response::Scaling { scaling } = super::ask::ask(&client, request).await? else {
            return Err(unexpected());
        };
        out.result(&scaling, || render(&scaling));
        Ok(if scaling.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn render(scaling: &Scaling) -> String {
    let mut table = Table::new(&["run", ">train rows", ">wrong", "95%"]);
    for point in &scaling.points {
        table.row(vec![
            point.run.clone(),
            point.rows.to_string(),
            format!("{:.1}%", 100.0 * point.error),
            format!("{:.1}% to {:.1}%", 100.0 * point.ci95[0], 100.0 * point.ci95[1]),
        ]);
    }
    let mut text = format!(
        "{}{}, each on the same {}\n",
        table.render(),
        clean(&scaling.group),
        counted(scaling.eval_rows, "eval row")
    );
    if let (Some(law), Some([low, high])) = (scaling.law, scaling.exponent_ci95) {
        text.push_str(&format!(
            "wrong = {:.3} x rows^-{:.3} (95% of the exponent {low:.3} to {high:.3})\n",
            law.scale, law.exponent
        ));
    }
    text.push_str(&format!("{}\n", clean(&scaling.words)));
    if !scaling.missing.is_empty() {
        text.push_str(&format!("without a result: {}\n", clean(&scaling.missing.join(", "))));
    }
    text
}
