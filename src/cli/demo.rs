//! `tunebench demo`: a bundled workspace, copied out of the binary and opened, or climbed without a terminal.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::ask::{ask, block_on, connect, launch, unexpected};
use super::follow::{self, Followed};
use super::output::{Exit, Output};
use super::{board, compare, tui};
use crate::domain::api::{Request, Response};
use crate::domain::board::{Board, BoardRow, Comparison};
use crate::domain::run::{RunKind, RunRecord};
use crate::domain::words::counted;
use crate::engine::client::Client;
use crate::score::ladder;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which of the bundled workspaces
    #[arg(long = "bundle", value_enum, default_value = "demo", value_name = "NAME")]
    bundle: Bundle,
    /// Where to put the workspace, or where it already is (default: tunebench/NAME in the user's data folder)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Climb the ladder without a terminal and print the board
    #[arg(long)]
    no_tui: bool,
    #[command(flatten)]
    tui: tui::TuiArgs,
}

/// Files of a workspace as they are in the repository.
macro_rules! bundle {
    ($dir:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../workspaces/", $dir, "/", $path)) as &[u8])),*]
    };
}
type Files = &'static [(&'static str, &'static [u8])];
const DEMO: Files = bundle![
    "demo":
    "workspace.toml",
    "README.md",
    "prompts/route.md",
    "data/messages.jsonl",
];
const PLANNER: Files = bundle![
    "planner":
    "workspace.toml",
    "README.md",
    "prompts/intent.md",
    "prompts/plan.md",
    "prompts/answer.md",
    "tools/find_team.json",
    "tools/block_item.json",
    "data/messages.jsonl",
];
/// Both workspaces' base: in the repository the planner's `model` is a link to the demo's.
const MODEL: Files = bundle![
    "demo":
    "model/README.md",
    "model/config.json",
    "model/generation_config.json",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
    "model/model.safetensors",
];

/// A bundled workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Bundle {
    /// Support messages and the team that handles each: one stage
    #[default]
    Demo,
    /// An agent of three stages with recorded tools
    Planner,
}

impl Bundle {
    const fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Planner => "planner",
        }
    }

    fn files(self) -> impl Iterator<Item = (&'static str, &'static [u8])> {
        let own = match self {
            Self::Demo => DEMO,
            Self::Planner => PLANNER,
        };
        own.iter().chain(MODEL).copied()
    }
}

/// What is run without a terminal. Examples are found for the tuned prompt; the LoRA sees neither.
const RUNS: [RunKind; 5] =
    [RunKind::Strata, RunKind::Eval, RunKind::Prompt, RunKind::Trajectory, RunKind::Train];

/// Says which version of tunebench a copy was made by.
const VERSION_FILE: &str = ".demo-version";

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    let root = match args.dir {
        Some(dir) => dir,
        None => {
            default_dir(args.bundle, |name| std::env::var_os(name).map(PathBuf::from)).ok_or_else(|| {
                Exit::usage(
                    "no data folder is known (neither XDG_DATA_HOME nor HOME is set); say where: --dir DIR",
                )
            })?
        }
    };
    for line in place(args.bundle, &root)? {
        out.say(&line);
    }
    if args.no_tui { climb(&root, out) } else { tui::run(args.tui, &root) }
}

/// `$XDG_DATA_HOME/tunebench/NAME`, else under `$HOME/.local/share`. Relative values count as unset (XDG base directories, 0.8).
fn default_dir(bundle: Bundle, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path: &PathBuf| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("tunebench").join(bundle.name()))
}

/// Make the copy, or find the one that is there. What is there is never changed. Returns what there is to say.
fn place(bundle: Bundle, dir: &Path) -> Result<Vec<String>, Exit> {
    let cannot = |what: &str, path: &Path, e: std::io::Error| {
        Exit::failed(format!("cannot {what} {}: {e}", path.display()))
    };
    if dir.join(crate::workspace::FILE).is_file() {
        return Ok(reopened(bundle, dir));
    }
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(Exit::usage(format!(
                "{} is not empty and holds no workspace.toml; name a new or an empty folder with --dir",
                dir.display()
            )));
        }
        Ok(false) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Exit::usage(format!("cannot read {}: {e}", dir.display()))),
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| cannot("make", parent, e))?;
    let name = dir.file_name().ok_or_else(|| Exit::usage(format!("{} names no folder", dir.display())))?;
    // The copy appears whole or not at all.
    let half_made = parent.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let made = copy(bundle, &half_made).and_then(|()| fs::rename(&half_made, dir));
    match made {
        Ok(()) => Ok(vec![format!("made the {} workspace at {}", bundle.name(), dir.display())]),
        Err(e) => {
            let _ = fs::remove_dir_all(&half_made);
            // Somebody else may have made it in the meantime.
            if dir.join(crate::workspace::FILE).is_file() {
                return Ok(reopened(bundle, dir));
            }
            Err(cannot("make", dir, e))
        }
    }
}

fn reopened(bundle: Bundle, dir: &Path) -> Vec<String> {
    let mut lines = vec![format!("the workspace at {} is opened as it is", dir.display())];
    let theirs = fs::read_to_string(dir.join(VERSION_FILE)).unwrap_or_default();
    let ours = version(bundle);
    if !theirs.is_empty() && theirs.trim() != ours {
        lines.push(format!(
            "  it was made by {}, this is {ours}; --dir NEW makes a fresh one",
            super::table::clean(theirs.trim())
        ));
    }
    lines
}

/// Version of tunebench and the start of the hash of all that is bundled.
fn version(bundle: Bundle) -> String {
    let mut hash = blake3::Hasher::new();
    for (path, bytes) in bundle.files() {
        hash.update(path.as_bytes());
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    format!("tunebench {} ({})", env!("CARGO_PKG_VERSION"), &hash.finalize().to_hex()[..12])
}

fn copy(bundle: Bundle, to: &Path) -> std::io::Result<()> {
    let version = format!("{}\n", version(bundle));
    let mut files: Vec<(&str, &[u8])> = bundle.files().collect();
    files.push((VERSION_FILE, version.as_bytes()));
    for (path, bytes) in files {
        let path = to.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Every rung, each over the best of the one below; then the board, what each rung added, and what all of them changed.
fn climb(root: &Path, out: &Output) -> super::CommandResult {
    block_on(async {
        let started = Instant::now();
        let client = connect(root).await?;
        let Response::Import { report } = ask(&client, Request::Import { force: false }).await? else {
            return Err(unexpected());
        };
        out.say(&format!("data: {}", counted(report.rows, "row")));
        let mut rungs = Vec::new();
        for kind in RUNS {
            let over = rungs.last().filter(|_| kind == RunKind::Trajectory);
            let set = over.map(|below: &String| vec![("candidate".to_owned(), below.clone())]);
            let Some(record) = rung(&client, root, kind, set.unwrap_or_default(), out).await? else {
                return Ok(ExitCode::from(130));
            };
            rungs.extend(record.candidate);
        }
        let board = climbed(super::ask::board(&client).await?, &rungs);
        let comparison = match rungs.as_slice() {
            [first, .., last] => Some(compared(&client, first, last).await?),
            _ => None,
        };
        let seconds = started.elapsed().as_secs_f64();
        let value = json!({
            "board": board.rows,
            "ladder": board.ladder,
            "comparison": comparison,
            "workspace": root,
            "seconds": (seconds * 10.0).round() / 10.0,
        });
        out.result(&value, || {
            let comparison = comparison.as_ref().map(compare::render).unwrap_or_default();
            format!(
                "\n{}\n{}\n\n{comparison}\n{seconds:.0} s; `tunebench {}` shows all of it",
                board::standings(&board),
                board::lines(&ladder::lines(&board.ladder)),
                root.display()
            )
        });
        Ok(ExitCode::SUCCESS)
    })
}

/// One run to its end; none when the person left it to itself.
async fn rung(
    client: &Client,
    root: &Path,
    kind: RunKind,
    set: Vec<(String, String)>,
    out: &Output,
) -> Result<Option<RunRecord>, Exit> {
    let run = launch(client, root, kind, set, None, false).await?;
    match follow::follow(client.clone(), root, &run, out).await? {
        Followed::Detached => Ok(None),
        Followed::Ended(record) if record.state.has_result() => Ok(Some(*record)),
        Followed::Ended(record) => Err(Exit::failed(format!(
            "{run} {}{}; see {}",
            record.state,
            record.message.map(|m| format!(": {m}")).unwrap_or_default(),
            root.join(".tunebench/runs").join(&run).display()
        ))),
    }
}

/// The board's rows of these candidates, in the order in which they were climbed.
fn climbed(mut board: Board, candidates: &[String]) -> Board {
    let place = |row: &BoardRow| candidates.iter().position(|c| *c == row.candidate);
    board.rows.retain(|row| place(row).is_some());
    board.rows.sort_by_key(place);
    board
}

/// In short: the rows that flipped are for `tunebench compare` and the screens.
async fn compared(client: &Client, a: &str, b: &str) -> Result<Comparison, Exit> {
    let request = Request::Compare { a: a.to_owned(), b: b.to_owned(), metric: None };
    let Response::Compare { mut comparison } = ask(client, request).await? else { return Err(unexpected()) };
    comparison.flips.clear();
    comparison.strata.clear();
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_is_xdgs_else_homes_and_never_a_relative_one() {
        let dir = |xdg: Option<&str>, home: Option<&str>| {
            default_dir(Bundle::Demo, |name| match name {
                "XDG_DATA_HOME" => xdg.map(PathBuf::from),
                "HOME" => home.map(PathBuf::from),
                _ => None,
            })
        };
        assert_eq!(dir(Some("/data"), Some("/home/a")), Some("/data/tunebench/demo".into()));
        assert_eq!(dir(Some("data"), Some("/home/a")), Some("/home/a/.local/share/tunebench/demo".into()));
        assert_eq!(dir(Some(""), None), None);
        assert_eq!(dir(None, None), None);
    }

    #[test]
    fn a_copy_is_made_whole_and_then_opened_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/demo");
        place(Bundle::Demo, &dir).unwrap();
        for (path, bytes) in Bundle::Demo.files() {
            assert!(fs::read(dir.join(path)).unwrap() == bytes, "{path}");
        }
        let beside: Vec<_> = fs::read_dir(folder.path().join("deep")).unwrap().collect();
        assert_eq!(beside.len(), 1, "nothing half made is left");

        fs::write(dir.join("prompts/route.md"), "mine {{ input }}").unwrap();
        let said = place(Bundle::Demo, &dir).unwrap();
        assert_eq!(fs::read_to_string(dir.join("prompts/route.md")).unwrap(), "mine {{ input }}");
        assert_eq!(said.len(), 1, "{said:?}");

        fs::write(dir.join(VERSION_FILE), "tunebench 0.0.1\n").unwrap();
        assert!(place(Bundle::Demo, &dir).unwrap()[1].contains("0.0.1"));
    }

    #[test]
    fn an_empty_folder_is_used_and_a_strangers_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        place(Bundle::Demo, folder.path()).unwrap();
        assert!(folder.path().join("workspace.toml").is_file());

        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let exit = place(Bundle::Demo, folder.path()).unwrap_err();
        assert_eq!(exit.code, 2);
        assert!(exit.message.contains("not empty"), "{}", exit.message);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_bundled_workspaces_are_valid() {
        for (bundle, name, epochs) in
            [(Bundle::Demo, "support-desk", 2.0), (Bundle::Planner, "planner", 10.0)]
        {
            let folder = tempfile::tempdir().unwrap();
            place(bundle, folder.path()).unwrap();
            let workspace = crate::workspace::Workspace::load(folder.path()).unwrap();
            assert_eq!(workspace.config.name, name);
            assert_eq!(workspace.config.tuning.train.epochs, epochs);
        }
    }

    #[test]
    fn every_file_of_the_workspaces_is_bundled() {
        for bundle in [Bundle::Demo, Bundle::Planner] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces").join(bundle.name());
            let mut folders = vec![root.clone()];
            let mut found = Vec::new();
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                    let name = entry.path().strip_prefix(&root).unwrap().display().to_string();
                    // The recipe is for who has the repository; the state folder is no part of it.
                    if entry.path().is_dir() && name != "recipe" && name != ".tunebench" {
                        folders.push(entry.path());
                    } else if entry.path().is_file() {
                        found.push(name);
                    }
                }
            }
            let mut bundled: Vec<&str> = bundle.files().map(|(path, _)| path).collect();
            bundled.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, bundled);
        }
    }
}
