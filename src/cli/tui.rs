//! `tunebench [DIR]`: joins the screens to the engine.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use tokio::sync::mpsc::unbounded_channel;

use super::ask::{block_on, keys};
use super::output::Exit;
use crate::domain::api::{Request, ToEngine};
use crate::engine::client;
use crate::tui::{self, Options};
use crate::workspace::Workspace;

#[derive(Debug, Default, clap::Args)]
pub struct TuiArgs {
    /// Print lines instead of drawing, for screen readers and logs
    #[arg(long)]
    plain: bool,
    /// dark, light, high-contrast, mono, or a file of your own under themes/ in the configuration
    #[arg(long, value_name = "NAME")]
    theme: Option<String>,
}

pub fn run(args: TuiArgs, root: &Path) -> super::CommandResult {
    // What is missing (data, a model) is shown on the screens; what cannot be read at all ends here, before the terminal is taken.
    if let Err(problems) = Workspace::open(root) {
        let new = if root.join(crate::workspace::FILE).is_file() {
            String::new()
        } else {
            "\n`tunebench init DIR --data FILE --model DIR` makes a workspace, `tunebench demo` opens one that is complete".into()
        };
        return Err(Exit::usage(format!("{problems}{new}")));
    }
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !args.plain && !terminal {
        return Err(Exit::usage(
            "the screens need a terminal; use --plain, or the commands (tunebench --help)",
        ));
    }
    let options = Options::from_environment(args.plain, args.theme);
    let root = root.to_path_buf();
    block_on(async move {
        let (to_engine, mut asked) = unbounded_channel();
        let (to_driver, from_screens) = unbounded_channel();
        let (to_screens, from_engine) = unbounded_channel();
        let place = root.clone();
        let forward = async move {
            while let Some(mut message) = asked.recv().await {
                // Values of the variables that the workspace names go from memory to memory, and only with a launch or a question.
                if let ToEngine::Ask { request, .. } = &mut message
                    && let Request::Launch { keys: values, .. }
                    | Request::Sweep { keys: values, .. }
                    | Request::Play { keys: values, .. } = request
                {
                    *values = keys(&place);
                }
                if to_driver.send(message).is_err() {
                    break;
                }
            }
        };
        let connection =
            async move { tokio::join!(client::drive(root, from_screens, to_screens), forward).0 };
        tokio::select! {
            biased;
            left = tui::run(options, to_engine, from_engine) => left?,
            // The connection ends by itself only when none could be made at all. The terminal is given back with the screens.
            failed = connection => failed?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
