//! What subcommands share that need the engine: a connection, a question, an answer of the right kind.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;

use super::output::Exit;
use crate::domain::api::{Request, Response};
use crate::domain::run::RunKind;
use crate::engine::client::Client;
use crate::workspace::Workspace;
use crate::workspace::config::ModelPlace;

/// Run `work` to its end on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T, Exit>>) -> Result<T, Exit> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Connect to the workspace's engine, or start it. A folder that is no workspace is wrong usage.
pub async fn connect(root: &Path) -> Result<Client, Exit> {
    if !root.join(crate::workspace::FILE).is_file() {
        let message = match Workspace::load(root) {
            Err(problems) => problems.to_string(),
            Ok(_) => format!("{} is no workspace", root.display()),
        };
        return Err(Exit::usage(message));
    }
    Ok(Client::connect_or_start(root).await?)
}

/// Ask; a failure becomes this command's exit.
pub async fn ask(client: &Client, request: Request) -> Result<Response, Exit> {
    match client.ask(request).await? {
        Response::Error { error } => Err(Exit { code: error.code, message: error.message }),
        response => Ok(response),
    }
}

/// One question on a connection of its own.
pub fn once(root: &Path, request: Request) -> Result<Response, Exit> {
    block_on(async { ask(&connect(root).await?, request).await })
}

/// An answer of another kind than asked for: the engine is of another version.
pub fn unexpected() -> Exit {
    Exit::failed("the engine gave an answer of another kind; is it of this version? `tunebench doctor` says")
}

/// Values of the variables that the workspace's models name, as far as they are set.
pub fn keys(root: &Path) -> BTreeMap<String, String> {
    let Ok((ws, _)) = Workspace::open(root) else { return BTreeMap::new() };
    ws.config
        .models
        .values()
        .filter_map(|model| match &model.place {
            ModelPlace::Endpoint { api_key_env: Some(name), .. } => {
                Some((name.clone(), std::env::var(name).ok()?))
            }
            _ => None,
        })
        .collect()
}

pub async fn launch(
    client: &Client,
    root: &Path,
    kind: RunKind,
    set: Vec<(String, String)>,
    from: Option<String>,
) -> Result<String, Exit> {
    match ask(client, Request::Launch { kind, set, keys: keys(root), from }).await? {
        Response::Launched { run } => Ok(run),
        _ => Err(unexpected()),
    }
}
