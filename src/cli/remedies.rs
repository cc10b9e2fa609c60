//! `tunebench remedies ROW`: what could be done about a wrong row, and what that takes.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::run;
use super::table::clean;
use crate::domain::api::{Request, Response};
use crate::domain::remedy::Remedies;
use crate::domain::run::RunKind;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The row's id
    row: String,
    /// Who answers it wrong: a name, the start of an id, or a run (default: the best candidate that does, else the baseline)
    #[arg(long, value_name = "CANDIDATE")]
    candidate: Option<String>,
    /// Start a remedy: prompt, trajectory or train
    #[arg(long, value_name = "KIND")]
    start: Option<String>,
    /// Leave the run to itself and return at once
    #[arg(long, requires = "start")]
    detach: bool,
    /// Send the keys that the workspace names to the endpoints that it names them for, without being asked
    #[arg(long, requires = "start")]
    trust: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let kind: Option<RunKind> = match args.start.as_deref() {
        None => None,
        Some("prompt") => Some(RunKind::Prompt),
        Some("trajectory") => Some(RunKind::Trajectory),
        Some("train") => Some(RunKind::Train),
        Some(other) => {
            return Err(Exit::usage(format!("--start {other}: expected prompt, trajectory or train")));
        }
    };
    let request = Request::Remedies { row: args.row, candidate: args.candidate };
    let Response::Remedies { remedies } = once(root, request)? else { return Err(unexpected()) };
    let Some(kind) = kind else {
        out.result(&remedies, || render(&remedies));
        return Ok(ExitCode::SUCCESS);
    };
    let Some(remedy) = remedies.remedies.into_iter().find(|r| r.kind == kind) else {
        return Err(Exit::usage(remedies.notes.join("\n")));
    };
    if let Some(why) = remedy.refused {
        return Err(Exit::usage(why));
    }
    out.say(&clean(&remedy.command()));
    run::start(root, kind, remedy.set, None, args.detach, args.trust, out)
}

fn render(remedies: &Remedies) -> String {
    let mut lines = remedies.head();
    for remedy in &remedies.remedies {
        lines.push(String::new());
        lines.push(format!("{}: {}", remedy.name(), remedy.what));
        match &remedy.refused {
            Some(why) => lines.push(format!("  cannot be started: {}", why.replace('\n', "; "))),
            None => {
                lines.push(format!("  fixes: {}", remedies.fixes(remedy)));
                lines.push(format!("  takes: {}", remedy.price.line()));
                lines.push(format!("  {}", remedy.command()));
            }
        }
    }
    lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")
}
