//! `tunebench [DIR]`: joins the screens to the engine.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use tokio::sync::mpsc::unbounded_channel;

use super::ask::{block_on, keys};
use super::output::Exit;
use super::trust::{self, Trust};
use crate::domain::api::{Failure, FileNews, FromEngine, Push, Response, ToEngine};
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
    let mut problems = Vec::new();
    block_on(async move {
        let (to_engine, mut asked) = unbounded_channel();
        let (to_driver, from_screens) = unbounded_channel();
        let (to_keeper, mut told) = unbounded_channel();
        let (to_screens, from_engine) = unbounded_channel();
        // A damaged file trusts nobody; what is agreed to holds as long as the screens are open.
        let mut trust = Trust::load(&root).or_else(|exit| {
            problems.push(exit.message);
            Trust::forgetful(&root)
        })?;
        let place = root.clone();
        let news = to_screens.clone();
        for text in problems {
            let _ = news.send(problem(text));
        }
        let forward = async move {
            while let Some(mut message) = asked.recv().await {
                match &mut message {
                    ToEngine::Trust { needs } => {
                        if let Err(error) = trust.add(needs) {
                            let _ = news
                                .send(problem(format!("trust.json: the answer could not be kept: {error}")));
                        }
                        continue;
                    }
                    // Values of the variables that the workspace names go from memory to memory, and only with a launch.
                    ToEngine::Ask { request, .. } => {
                        if let Some(values) = request.keys_mut() {
                            *values = keys(&place, &trust);
                        }
                    }
                    _ => {}
                }
                if to_driver.send(message).is_err() {
                    break;
                }
            }
        };
        // Whether a key is there to be sent is known here only.
        let backward = async move {
            while let Some(mut message) = told.recv().await {
                if let FromEngine::Answer { response: Response::Error { error }, .. } = &mut message
                    && let Some(need) = error.needs.iter().find(|need| trust::value(&need.variable).is_none())
                {
                    *error = Failure::new(2, trust::unset(need).message);
                }
                if to_screens.send(message).is_err() {
                    break;
                }
            }
        };
        let connection =
            async move { tokio::join!(client::drive(root, from_screens, to_keeper), forward, backward).0 };
        tokio::select! {
            biased;
            left = tui::run(options, to_engine, from_engine) => left?,
            // The connection ends by itself only when none could be made at all. The terminal is given back with the screens.
            failed = connection => failed?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Told on the screens as what is wrong with a file.
fn problem(text: String) -> FromEngine {
    let news = vec![FileNews { file: "trust.json".into(), problem: true, text }];
    FromEngine::Push { push: Push::Files { news } }
}
