//! `tunebench cache [show|clear]`: the response cache of a workspace.

use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use super::output::{Exit, Output};
use crate::backend::cache::{self, Survey};
use crate::domain::settings::CachePlace;
use crate::domain::words::{bytes, counted};
use crate::workspace::{FILE, STATE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Show,
    Clear,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size and hits, or remove every answer that no run is writing beside
    #[arg(value_enum, default_value = "show")]
    what: What,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    if !root.join(FILE).is_file() {
        return Err(Exit::usage(format!("{} is no workspace: no {FILE} there", root.display())));
    }
    let dir = CachePlace::folder(&root.join(STATE));
    let cannot = |e: std::io::Error| Exit::failed(format!("{}: {e}", dir.display()));
    match args.what {
        What::Show => {
            let seen = cache::survey(&dir).map_err(cannot)?;
            let value = json!({
                "answers": seen.answers, "bytes": seen.bytes, "segments": seen.segments,
                "hits": seen.hits, "misses": seen.misses, "damaged": seen.damaged,
            });
            out.result(&value, || words(&seen));
        }
        What::Clear => {
            let (freed, stayed) = cache::clear(&dir).map_err(cannot)?;
            out.result(&json!({ "bytes": freed, "stayed": stayed }), || {
                let stayed = match stayed {
                    0 => String::new(),
                    n => format!("; {} that a run writes stayed", counted(n, "segment")),
                };
                format!("removed {}{stayed}", bytes(freed))
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// In a line, for `doctor` as well.
pub(super) fn words(seen: &Survey) -> String {
    let asked = seen.hits + seen.misses;
    let rate = match asked {
        0 => String::new(),
        _ => format!(" ({:.0}%)", 100.0 * seen.hits as f64 / asked as f64),
    };
    let damaged = match seen.damaged {
        0 => String::new(),
        n => format!(", {} passed over", counted(n, "damaged line")),
    };
    format!(
        "{}, {}; {} hits of {}{rate}{damaged}",
        counted(seen.answers, "answer"),
        bytes(seen.bytes),
        seen.hits,
        counted(asked as usize, "question")
    )
}
