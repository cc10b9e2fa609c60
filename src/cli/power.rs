//! `tunebench power`: what the rows can show, before anything is run.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean, share};
use crate::domain::api::{Request, Response};
use crate::domain::power::Power;
use crate::domain::row::Part;
use crate::domain::run::RunKind;
use crate::engine::client::Client;

/// Points that runs speak of.
const POINTS: f64 = 5.0;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose evaluation is reckoned: a name, the start of an id, or a run (default: the baseline)
    #[arg(long)]
    candidate: Option<String>,
    /// The difference that should show, in points of 100
    #[arg(long, default_value_t = POINTS, value_name = "POINTS")]
    difference: f64,
    /// On the reserve instead of the eval part
    #[arg(long)]
    reserve: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    if !(args.difference > 0.0 && args.difference <= 100.0) {
        return Err(Exit::usage(format!(
            "--difference {}: points above 0 and up to 100 are expected",
            args.difference
        )));
    }
    let request = Request::Power {
        candidate: args.candidate,
        difference: args.difference / 100.0,
        part: args.reserve.then_some(Part::Reserve),
    };
    let Response::Power { power } = once(root, request)? else { return Err(unexpected()) };
    out.result(&power, || render(&power));
    Ok(ExitCode::SUCCESS)
}

fn render(power: &Power) -> String {
    let mut text = lines(power).join("\n");
    if !power.strata.is_empty() {
        let mut table = Table::new(&["stratum", ">rows", ">disagree", ">right", ">more"]);
        for s in &power.strata {
            table.row(vec![
                s.stratum.clone(),
                s.rows.to_string(),
                share(s.discordance, s.rows),
                s.right.map_or_else(|| "-".into(), |right| share(right, s.rows)),
                s.more.to_string(),
            ]);
        }
        text.push_str("\n\n");
        text.push_str(&table.render());
    }
    text
}

fn lines(power: &Power) -> Vec<String> {
    power.lines().iter().map(|line| clean(line)).collect()
}

/// The first lines of a run that scores rows. What cannot be told here is told by the launch.
pub async fn tell(client: &Client, kind: RunKind, set: &[(String, String)], out: &Output) {
    if !matches!(kind, RunKind::Eval | RunKind::Train) {
        return;
    }
    let last = |names: &[&str]| set.iter().rev().find(|(key, _)| names.contains(&key.as_str()));
    let part = last(&["part", "eval.part"]).filter(|(_, value)| value == Part::Reserve.name());
    let request = Request::Power {
        candidate: last(&["candidate"]).map(|(_, name)| name.clone()),
        difference: POINTS / 100.0,
        part: part.map(|_| Part::Reserve),
    };
    if let Ok(Response::Power { power }) = client.ask(request).await {
        for line in lines(&power) {
            out.say(&line);
        }
    }
}
