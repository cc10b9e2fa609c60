//! `tunebench serve`: models behind an OpenAI-compatible endpoint, as a run of the workspace or, for a folder, in this process.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::ask::{ask, block_on, connect, launch, unexpected};
use super::output::{Exit, Output};
use super::table::clean;
use crate::backend::models::{Footprint, Models};
use crate::domain::api::{Push, Request, Response, View};
use crate::domain::candidate::{AdapterRef, Limits, ModelRef, ModelSource};
use crate::domain::event::EventBody;
use crate::domain::keys::Keys;
use crate::domain::resident::{Bounds, Served, url_of};
use crate::domain::run::{RunAction, RunKind, RunRecord, RunState};
use crate::domain::words::bytes;
use crate::engine::client::Client;
use crate::machine;
use crate::serve::Server;
use crate::store::files;
use crate::worker::folder::RunFolder;

/// Answers under way may take so long to end after Ctrl-C, where no worker looks after them.
const DRAIN: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Training runs (their best, or RUN@STEP), candidates, models of workspace.toml; or folders of models, without a workspace
    #[arg(required = true, value_name = "RUN_OR_MODEL")]
    models: Vec<String>,
    /// Where to listen on 127.0.0.1; 0 takes any port that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// With one folder: an adapter in PEFT's format beside it, called as its folder or NAME
    #[arg(long, value_name = "[NAME=]DIR")]
    adapter: Vec<String>,
    /// Answers under way at once
    #[arg(long, default_value_t = Bounds::default().at_once, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024))]
    at_once: usize,
    /// Questions that may wait beside them; more get status 429
    #[arg(long, default_value_t = Bounds::default().waiting)]
    waiting: usize,
    /// Memory for keys and values of the answers under way, in MiB (default: what they could need, 1024 at most)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    cache_mib: Option<u64>,
    /// Print the token too, not only the file that it is in
    #[arg(long)]
    show_token: bool,
    /// Leave it to itself as soon as it answers (`tunebench runs stop` ends it)
    #[arg(long)]
    detach: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let folders: Vec<PathBuf> =
        args.models.iter().map(PathBuf::from).filter(|dir| dir.join("config.json").is_file()).collect();
    if folders.len() == args.models.len() {
        return here(&args, &folders, out);
    }
    if !args.adapter.is_empty() {
        return Err(Exit::usage("--adapter goes with a model's folder; a run brings its own adapter"));
    }
    if !root.join(crate::workspace::FILE).is_file() {
        let named = args.models.iter().find(|name| !Path::new(name).join("config.json").is_file());
        return Err(Exit::usage(format!(
            "`{}` is no model's folder (it has no config.json), and {} is no workspace whose runs could be served; name a folder, or a workspace with -C",
            named.map_or("", String::as_str),
            root.display()
        )));
    }
    block_on(in_workspace(&args, root, out))
}

/// What is told once it answers.
fn up(
    out: &Output,
    run: Option<&str>,
    url: &str,
    models: &[String],
    token_file: &Path,
    token: Option<String>,
) {
    let mut value =
        json!({ "run": run, "state": "running", "url": url, "models": models, "token_file": token_file });
    if let Some(token) = &token {
        value["token"] = json!(token);
    }
    out.result(&value, || {
        let token = token.map(|token| format!("\n  token   {token}")).unwrap_or_default();
        let run = run.map(|run| format!("\n  run     {run}")).unwrap_or_default();
        format!(
            "answers at {url}\n  models  {}\n  key     in {} (Authorization: Bearer ...){token}{run}",
            clean(&models.join(", ")),
            token_file.display()
        )
    });
}

async fn in_workspace(args: &Args, root: &Path, out: &Output) -> super::CommandResult {
    let mut set: Vec<(String, String)> =
        args.models.iter().map(|name| ("model".into(), name.clone())).collect();
    set.push(("port".into(), args.port.to_string()));
    set.push(("at_once".into(), args.at_once.to_string()));
    set.push(("waiting".into(), args.waiting.to_string()));
    if let Some(mib) = args.cache_mib {
        set.push(("cache_mib".into(), mib.to_string()));
    }
    let mut client = connect(root).await?;
    let run = launch(&client, root, RunKind::Serve, set, None, false).await?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let (mut said, mut told, mut stopping, mut after) = (None, false, false, 0);
    'connected: loop {
        client.follow(View::Run { run: run.clone(), after }).await?;
        loop {
            tokio::select! {
                _ = interrupted.recv() => {
                    if !stopping && !out.json && std::io::stdin().is_terminal() && out.stderr_is_terminal() {
                        match choice(&run, &mut interrupted, out).await {
                            Choice::Detach => return Ok(ExitCode::SUCCESS),
                            Choice::GoOn => continue,
                            Choice::Stop => {}
                        }
                    }
                    // The second time it ends at once.
                    let action = if stopping { RunAction::Cancel } else { RunAction::Stop };
                    stop(&client, &run, action, out).await;
                    stopping = true;
                }
                _ = terminated.recv() => {
                    stop(&client, &run, RunAction::Stop, out).await;
                    stopping = true;
                }
                push = client.push() => match push {
                    None => {
                        out.say(&format!("{run}: the engine ended; connecting again"));
                        client = connect(root).await?;
                        continue 'connected;
                    }
                    Some(Push::Events { run: of, events }) if of == run => {
                        for event in events {
                            after = after.max(event.seq);
                            if let EventBody::Warning { message } = event.body {
                                out.say(&format!("{run}: warning: {}", clean(&message)));
                            }
                        }
                    }
                    Some(Push::RunChanged { run: record }) if record.run == run => {
                        if record.state.is_final() {
                            return Ok(ended(&record, told, out));
                        }
                        if !told && let Some((url, models)) = address(&record) {
                            told = true;
                            let token_file = RunFolder::new(root.join(".tunebench/runs").join(&run)).token();
                            let token = if args.show_token { Some(std::fs::read_to_string(&token_file)?) } else { None };
                            up(out, Some(&run), &url, &models, &token_file, token);
                            if args.detach {
                                return Ok(ExitCode::SUCCESS);
                            }
                        } else if said.as_ref() != Some(&(record.state, record.message.clone())) {
                            let message = record.message.as_ref().map(|m| format!(": {}", clean(m))).unwrap_or_default();
                            out.say(&format!("{run}: {}{message}", record.state));
                        }
                        said = Some((record.state, record.message));
                    }
                    Some(_) => {}
                },
            }
        }
    }
}

fn address(record: &RunRecord) -> Option<(String, Vec<String>)> {
    let message = record.message.as_ref().filter(|_| record.state == RunState::Running)?;
    let (url, models) = url_of(message)?;
    Some((url.to_owned(), models.into_iter().map(str::to_owned).collect()))
}

async fn stop(client: &Client, run: &str, action: RunAction, out: &Output) {
    match ask(client, Request::Control { run: run.to_owned(), action, keys: Keys::default() }).await {
        Ok(Response::Done { message }) => out.say(&clean(&message)),
        Ok(_) => out.say(&unexpected().message),
        Err(exit) => out.say(&exit.message),
    }
}

/// The last words. What a server that came up is to print stands on stdout already.
fn ended(record: &RunRecord, told: bool, out: &Output) -> ExitCode {
    let why = record.message.as_ref().map(|m| format!(": {}", clean(m))).unwrap_or_default();
    let words = format!("{} {}{why}", record.run, record.state);
    if told {
        out.say(&words);
    } else {
        out.result(&json!({ "run": record.run, "state": record.state, "message": record.message }), || words);
    }
    if record.state.has_result() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

enum Choice {
    Detach,
    Stop,
    GoOn,
}

/// Ctrl-C on a terminal: what is meant?
async fn choice(run: &str, interrupted: &mut tokio::signal::unix::Signal, out: &Output) -> Choice {
    out.say(&format!("{run}: d and Enter leaves it running, s stops it, anything else goes on"));
    let (told, answer) = oneshot::channel();
    // A thread that nobody waits for: a line may never come.
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().lock().read_line(&mut line);
        let _ = told.send(line);
    });
    let line = tokio::select! {
        line = answer => line.unwrap_or_default(),
        _ = interrupted.recv() => "s".to_owned(),
    };
    match line.trim() {
        "d" => {
            out.say(&format!("{run} goes on (`tunebench runs stop {run}` ends it)"));
            Choice::Detach
        }
        "s" => Choice::Stop,
        _ => Choice::GoOn,
    }
}

/// Folders of models, served by this process until it is told to end.
fn here(args: &Args, folders: &[PathBuf], out: &Output) -> super::CommandResult {
    if args.detach {
        return Err(Exit::usage(
            "--detach needs a workspace, whose engine looks after the run; a folder is served by this process",
        ));
    }
    let served = served(args, folders)?;
    let bounds = Bounds { at_once: args.at_once, waiting: args.waiting, cache_mib: args.cache_mib };
    let mut need = 0;
    for dir in folders {
        need += Footprint::of(dir, &bounds).map_err(super::generate::usage)?.total();
    }
    let available = machine::available_memory();
    if need > available {
        return Err(Exit::usage(format!(
            "the models take up to {} and {} of memory is free; serve fewer or smaller ones, or set a smaller --cache-mib",
            bytes(need),
            bytes(available)
        )));
    }
    let models = Arc::new(Models::new(super::generate::threads(), bounds, usize::MAX));
    let token_file = token_folder()?.join(format!("serve-{}.token", std::process::id()));
    let server =
        Server::start(&served, &models, args.port, &token_file).map_err(|e| Exit::usage(format!("{e:#}")))?;
    let names: Vec<String> = served.iter().map(|s| s.name.clone()).collect();
    up(out, None, &server.url(), &names, &token_file, args.show_token.then(|| server.token().to_owned()));
    block_on(async {
        let (mut interrupted, mut terminated) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        loop {
            tokio::select! {
                _ = interrupted.recv() => break,
                _ = terminated.recv() => break,
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    if let Some(fault) = models.fault() {
                        return Err(Exit::failed(fault));
                    }
                }
            }
        }
        server.stop();
        let until = Instant::now() + DRAIN;
        while !server.is_quiet() && Instant::now() < until {
            tokio::select! {
                _ = interrupted.recv() => break,
                _ = terminated.recv() => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        Ok(())
    })?;
    drop(server);
    Ok(ExitCode::SUCCESS)
}

/// The models and adapters by the names of their folders.
fn served(args: &Args, folders: &[PathBuf]) -> Result<Vec<Served>, Exit> {
    let mut served: Vec<Served> = Vec::new();
    for dir in folders {
        let dir = dir.canonicalize()?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = dir.display().to_string();
        let model = ModelRef {
            name: name.clone(),
            // Files that change while they are served are nobody's to tell apart here.
            hash: path.clone(),
            source: ModelSource::Local { path },
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        };
        served.push(Served { name, model, adapter: None });
    }
    if !args.adapter.is_empty() && served.len() != 1 {
        return Err(Exit::usage("--adapter goes with one model's folder"));
    }
    for adapter in &args.adapter {
        let (name, dir) = match adapter.split_once('=') {
            Some((name, dir)) if !name.is_empty() && !name.contains('/') => (Some(name.to_owned()), dir),
            _ => (None, adapter.as_str()),
        };
        let path = Path::new(dir).canonicalize().map_err(|e| Exit::usage(format!("--adapter {dir}: {e}")))?;
        let name =
            name.unwrap_or_else(|| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let path = path.display().to_string();
        let adapter = Some(AdapterRef { hash: path.clone(), path });
        let base = served[0].model.clone();
        served.push(Served { name, model: base, adapter });
    }
    for (i, one) in served.iter().enumerate() {
        if served[..i].iter().any(|before| before.name == one.name) {
            return Err(Exit::usage(format!(
                "two models would be called `{}`; name adapters as NAME=DIR",
                one.name
            )));
        }
    }
    Ok(served)
}

/// The user's own folder for what lives as long as a session.
fn token_folder() -> Result<PathBuf, Exit> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute() && dir.is_dir());
    match runtime {
        Some(dir) => {
            let dir = dir.join("tunebench");
            files::private_dir(&dir)?;
            Ok(dir)
        }
        None => Ok(files::private_temp()?),
    }
}
