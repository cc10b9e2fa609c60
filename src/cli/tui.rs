//! `tunebench [DIR]`: joins the screens to the engine.

use std::path::Path;

use super::output::Exit;

#[derive(Debug, clap::Args)]
pub struct TuiArgs {
    /// Print lines instead of drawing, for screen readers and logs
    #[arg(long)]
    plain: bool,
}

pub fn run(args: TuiArgs, root: &Path) -> super::CommandResult {
    Err(Exit::failed("the TUI is not built yet"))
}
