//! What subcommands share that need the engine: a connection, a question, an answer of the right kind.

use std::future::Future;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Exit;
use super::trust::{self, Trust};
use crate::domain::api::{Request, Response};
use crate::domain::board::Board;
use crate::domain::keys::Keys;
use crate::domain::run::RunKind;
use crate::domain::words::duration;
use crate::engine::client::Client;
use crate::workspace::Workspace;

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

/// One question on a connection of its own. Where the answer takes long, a terminal shows how far it is.
pub fn once(root: &Path, request: Request) -> Result<Response, Exit> {
    block_on(async {
        let client = connect(root).await?;
        if !std::io::stderr().is_terminal() {
            return ask(&client, request).await;
        }
        let answer = ask(&client, request);
        tokio::pin!(answer);
        let mut bar = None;
        loop {
            tokio::select! {
                answer = &mut answer => {
                    if let Some(bar) = bar {
                        ProgressBar::finish_and_clear(&bar);
                    }
                    return answer;
                }
                () = tokio::time::sleep(if bar.is_none() { SOON } else { AGAIN }) => {
                    let bar = bar.get_or_insert_with(waiting_bar);
                    bar.tick();
                    if let Ok(Response::Progress { done, total: total @ 1.. }) = client.ask(Request::ReadingProgress).await {
                        // As fast as so far.
                        let left = bar.elapsed().as_millis() as u64 * total.saturating_sub(done) as u64;
                        let left = left.checked_div(done as u64).map(|ms| format!(", {} left", duration(ms)));
                        bar.set_message(format!(
                            "reading the rows, once for this state of the data: {}%{}",
                            100 * done / total,
                            left.unwrap_or_default()
                        ));
                    }
                }
            }
        }
    })
}

/// An answer that comes within this time needs no sign of life; after it, one so often.
const SOON: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(200);

fn waiting_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // A template of ours that does not parse would only cost the bar its looks.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message("waiting for the engine");
    bar
}

/// The whole board, window by window.
pub async fn board(client: &Client) -> Result<Board, Exit> {
    let Response::Board { mut board } = ask(client, Request::Board).await? else { return Err(unexpected()) };
    let mut restarts = 0;
    while board.rows.len() < board.total {
        let from = board.rows.len();
        let Response::Board { board: next } = ask(client, Request::BoardRows { from }).await? else {
            return Err(unexpected());
        };
        if next.version != board.version || next.rows.is_empty() {
            // It changed meanwhile: from the beginning.
            restarts += 1;
            if restarts > 20 {
                return Err(Exit::failed(
                    "the board changes faster than it can be read; try again in a moment",
                ));
            }
            let Response::Board { board: anew } = ask(client, Request::Board).await? else {
                return Err(unexpected());
            };
            board = anew;
            continue;
        }
        board.rows.extend(next.rows);
    }
    Ok(board)
}

/// An answer of another kind than asked for: the engine is of another version.
pub fn unexpected() -> Exit {
    Exit::failed("the engine gave an answer of another kind; is it of this version? `tunebench doctor` says")
}

/// Values of the variables that the workspace's models name, as far as they are set and may go where they are named for.
pub fn keys(root: &Path, trust: &Trust) -> Keys {
    let Ok((ws, _)) = Workspace::open(root) else { return Keys::default() };
    let needs = ws.config.models.values().filter_map(|model| model.place.key_need());
    Keys::new(needs.filter(|need| trust.knows(need)).filter_map(|need| {
        let value = trust::value(&need.variable)?;
        Some((need, value))
    }))
}

/// Ask for something that may need keys. Where some are missing the person is asked, unless they `agreed` already.
pub async fn ask_with_keys(
    client: &Client,
    root: &Path,
    mut request: Request,
    agreed: bool,
) -> Result<Response, Exit> {
    let mut trust = Trust::load(root)?;
    if let Some(with) = request.keys_mut() {
        *with = keys(root, &trust);
    }
    let needs = match client.ask(request.clone()).await? {
        Response::Error { error } if !error.needs.is_empty() => error.needs,
        Response::Error { error } => return Err(Exit { code: error.code, message: error.message }),
        response => return Ok(response),
    };
    // All that are needed stand in the refusal or were sent already; those are trusted.
    let more = trust.settle(&needs, agreed)?;
    if let Some(with) = request.keys_mut() {
        *with = with.and(&more);
    }
    ask(client, request).await
}

pub async fn launch(
    client: &Client,
    root: &Path,
    kind: RunKind,
    set: Vec<(String, String)>,
    from: Option<String>,
    agreed: bool,
) -> Result<String, Exit> {
    let request = Request::Launch { kind, set, keys: Keys::default(), from };
    match ask_with_keys(client, root, request, agreed).await? {
        Response::Launched { run } => Ok(run),
        _ => Err(unexpected()),
    }
}
