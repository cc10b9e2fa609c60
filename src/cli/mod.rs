//! Subcommands: one file each, plain and `--json` output.
//!
//! Exit codes: 0 done; 1 the work failed or a check found problems; 2 wrong usage or bad input.

mod ask;
pub mod bench;
pub mod board;
pub mod cache;
pub mod check;
pub mod compare;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod engine;
pub mod examples;
pub mod export;
mod follow;
pub mod generate;
mod grown;
pub mod init;
pub mod judge;
pub mod metrics;
pub mod model;
pub mod outcomes;
pub mod output;
pub mod play;
pub mod power;
pub mod progress;
pub mod prompts;
pub mod remedies;
pub mod report;
pub mod review;
pub mod run;
pub mod runs;
pub mod scaling;
pub mod serve;
pub mod strata;
mod sweep;
mod table;
mod trust;
pub mod tui;
pub mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{Exit, Output};

/// A terminal workbench for tuning language models by hand.
#[derive(Debug, Parser)]
#[command(name = "tunebench", version)]
struct Cli {
    /// Workspace to open in the TUI (default: the current folder)
    dir: Option<PathBuf>,
    #[command(flatten)]
    tui: tui::TuiArgs,
    /// The workspace's folder
    #[arg(short = 'C', long = "workspace", global = true, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Print one JSON object as the last line of stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy the bundled demo workspace and open it
    Demo(demo::Args),
    /// Scaffold a workspace from a data file
    Init(init::Args),
    /// Validate workspace, data, prompts and models
    Check(check::Args),
    /// Import data; find, count and export rows
    Data(data::Args),
    /// Build and sample strata
    Strata(strata::Args),
    /// Start a run and follow it
    Run(run::Args),
    /// Versions of prompts that were tuned: list, show, diff, tag, adopt, roll back
    Prompts(prompts::Args),
    /// List, show and steer runs
    Runs(runs::Args),
    /// Models behind an OpenAI-compatible endpoint on this machine
    Serve(serve::Args),
    /// Two candidates on the same rows
    Compare(compare::Args),
    /// What the eval rows can show, how many more would show it, and what an evaluation costs
    Power(power::Args),
    /// Every candidate on every metric
    Board(board::Args),
    /// The board, or a comparison, as Markdown, CSV or a page for the browser
    Report(report::Args),
    /// Judges: two candidates side by side, a judge beside people, answers for you to judge
    Judge(judge::Args),
    /// Which metrics there are; with a candidate its classes, calibration, fields, tools, stages and strata
    Metrics(metrics::Args),
    /// Ask one or two candidates, and read their answers
    Play(play::Args),
    /// What could be done about a wrong row: a prompt edit, a stored example, training rows; with what each fixes and takes
    Remedies(remedies::Args),
    /// Worked examples that trajectory runs found
    Examples(examples::Args),
    /// Put results made elsewhere on the board
    Outcomes(outcomes::Args),
    /// One generation
    Generate(generate::Args),
    /// Look at, verify and download models
    Model(model::Args),
    /// Write a run's model as a folder other tools load
    Export(export::Args),
    /// The response cache: its size and hits, or clear it
    Cache(cache::Args),
    /// What is wrong here, and the remedy
    Doctor(doctor::Args),
    /// Reproducible measurements
    Bench(bench::Args),
    #[command(hide = true)]
    Engine(engine::Args),
    #[command(hide = true)]
    Worker(worker::Args),
}

/// Everything from the arguments to the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let root = cli.workspace.unwrap_or_else(|| PathBuf::from("."));
    let out = Output::new(cli.json);
    // clap's own `args_conflicts_with_subcommands` would refuse `-C DIR check`, too.
    if let (Some(dir), Some(_)) = (&cli.dir, &cli.command) {
        let message =
            format!("{0} stands before a subcommand; name the workspace with -C {0}", dir.display());
        return Exit::usage(message).report(&out);
    }
    let result = match cli.command {
        None => tui::run(cli.tui, &cli.dir.unwrap_or(root)),
        Some(Command::Demo(args)) => demo::run(args, &out),
        Some(Command::Init(args)) => init::run(args, &out),
        Some(Command::Check(args)) => check::run(args, &root, &out),
        Some(Command::Data(args)) => data::run(args, &root, &out),
        Some(Command::Strata(args)) => strata::run(args, &root, &out),
        Some(Command::Run(args)) => run::run(args, &root, &out),
        Some(Command::Prompts(args)) => prompts::run(args, &root, &out),
        Some(Command::Runs(args)) => runs::run(args, &root, &out),
        Some(Command::Serve(args)) => serve::run(args, &root, &out),
        Some(Command::Compare(args)) => compare::run(args, &root, &out),
        Some(Command::Power(args)) => power::run(args, &root, &out),
        Some(Command::Board(args)) => board::run(args, &root, &out),
        Some(Command::Report(args)) => report::run(args, &root, &out),
        Some(Command::Judge(args)) => judge::run(args, &root, &out),
        Some(Command::Metrics(args)) => metrics::run(args, &root, &out),
        Some(Command::Play(args)) => play::run(args, &root, &out),
        Some(Command::Remedies(args)) => remedies::run(args, &root, &out),
        Some(Command::Examples(args)) => examples::run(args, &root, &out),
        Some(Command::Outcomes(args)) => outcomes::run(args, &root, &out),
        Some(Command::Generate(args)) => generate::run(args, &out),
        Some(Command::Model(args)) => model::run(args, &out),
        Some(Command::Export(args)) => export::run(args, &root, &out),
        Some(Command::Cache(args)) => cache::run(args, &root, &out),
        Some(Command::Doctor(args)) => doctor::run(args, &root, &out),
        Some(Command::Bench(args)) => bench::run(args, &out),
        Some(Command::Engine(args)) => engine::run(args),
        Some(Command::Worker(args)) => worker::run(args),
    };
    result.unwrap_or_else(|exit| exit.report(&out))
}

/// What every subcommand returns: its exit code, or why it could not do its work.
pub type CommandResult = Result<ExitCode, Exit>;
