//! `tunebench judge queue` and `say`: a person's verdicts.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::super::ask::{once, unexpected};
use super::super::output::{Exit, Output};
use super::super::table::clean;
use crate::domain::api::{Request, Response};
use crate::domain::judge::{Queue, QueueItem};
use crate::domain::words::counted;

#[derive(Debug, clap::Args)]
pub struct QueueArgs {
    /// Rows of every stratum
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    per: u64,
    /// Who judges (default: your user name)
    #[arg(long = "as", value_name = "NAME")]
    annotator: Option<String>,
    /// Only rows on which candidates, or the judge and people, part, or on which the judge is torn
    #[arg(long)]
    disagreement: bool,
    /// Print the queue instead of asking, also on a terminal
    #[arg(long)]
    list: bool,
}

#[derive(Debug, clap::Args)]
pub struct SayArgs {
    /// The answer, as `tunebench judge queue` calls it
    item: String,
    /// One of the judge's verdicts
    verdict: String,
    /// Who judges (default: your user name)
    #[arg(long = "as", value_name = "NAME")]
    annotator: Option<String>,
}

fn fetch(root: &Path, args: &QueueArgs, judge: Option<&String>) -> Result<Queue, Exit> {
    let request = Request::JudgeQueue {
        judge: judge.cloned(),
        annotator: args.annotator.clone(),
        per: args.per as usize,
        disagreement: args.disagreement,
    };
    match once(root, request)? {
        Response::Queue { queue } => Ok(queue),
        _ => Err(unexpected()),
    }
}

pub fn run(args: QueueArgs, judge: Option<String>, root: &Path, out: &Output) -> crate::cli::CommandResult {
    let queue = fetch(root, &args, judge.as_ref())?;
    let asks = !out.json && !args.list && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if asks && !queue.items.is_empty() {
        return interview(&args, judge, queue, root, out);
    }
    out.result(&queue, || render(&queue));
    Ok(ExitCode::SUCCESS)
}

pub fn say(args: SayArgs, judge: Option<String>, root: &Path, out: &Output) -> crate::cli::CommandResult {
    let request =
        Request::JudgeSay { judge, annotator: args.annotator, item: args.item, verdict: args.verdict };
    let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
    out.result(&serde_json::json!({ "message": message }), || clean(&message));
    Ok(ExitCode::SUCCESS)
}

/// Lines of a text, each harmless.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("    {}\n", clean(line))).collect()
}

fn shown(item: &QueueItem) -> String {
    let stratum = item.stratum.as_ref().map(|s| format!("  [{}]", clean(s))).unwrap_or_default();
    format!("{}{stratum}\n  input\n{}  answer\n{}", item.item, lines(&item.input), lines(&item.output))
}

fn head(queue: &Queue) -> String {
    format!(
        "judge {}: {} to judge by {}, {} of {} done; verdicts: {}\n",
        clean(&queue.judge),
        counted(queue.total - queue.done, "answer"),
        clean(&queue.annotator),
        queue.done,
        queue.total,
        clean(&queue.verdicts.join(", "))
    )
}

fn render(queue: &Queue) -> String {
    let mut text = head(queue);
    if queue.total == 0 {
        text.push_str("no answer on the board is to be judged; `tunebench run eval` makes some\n");
    }
    for item in &queue.items {
        text.push_str(&format!("\n{}", shown(item)));
    }
    let rest = (queue.total - queue.done).saturating_sub(queue.items.len());
    if rest > 0 {
        text.push_str(&format!("\n... and {} more, when these are judged\n", counted(rest, "answer")));
    }
    text
}

/// One answer after the other.
fn interview(
    args: &QueueArgs,
    judge: Option<String>,
    mut queue: Queue,
    root: &Path,
    out: &Output,
) -> crate::cli::CommandResult {
    let words: Vec<String> =
        queue.verdicts.iter().enumerate().map(|(i, word)| format!("{}={}", i + 1, clean(word))).collect();
    let keys = format!("{}, s=skip, g=gold, u=undo, q=leave", words.join(", "));
    out.say(head(&queue).trim_end());
    let mut stdin = std::io::stdin().lock();
    let mut judged = 0;
    while !queue.items.is_empty() {
        let mut at = 0;
        let mut said = 0;
        'items: while let Some(item) = queue.items.get(at) {
            out.say(&format!("\n{}", shown(item)));
            loop {
                let mut stderr = std::io::stderr().lock();
                let _ = write!(stderr, "[{keys}] ");
                let _ = stderr.flush();
                drop(stderr);
                let mut line = String::new();
                if stdin.read_line(&mut line)? == 0 {
                    break 'items;
                }
                let word = line.trim();
                let by_number = word.parse::<usize>().ok().filter(|n| *n >= 1);
                // On a scale a number is the verdict itself.
                let verdict = queue
                    .verdicts
                    .iter()
                    .find(|v| v.to_lowercase() == word.to_lowercase())
                    .or_else(|| queue.verdicts.get(by_number? - 1));
                match (word, verdict) {
                    (_, Some(verdict)) => {
                        let request = Request::JudgeSay {
                            judge: judge.clone(),
                            annotator: args.annotator.clone(),
                            item: item.item.clone(),
                            verdict: verdict.clone(),
                        };
                        once(root, request)?;
                        (at, said, judged) = (at + 1, said + 1, judged + 1);
                        continue 'items;
                    }
                    ("s", None) => {
                        at += 1;
                        continue 'items;
                    }
                    ("g", None) => {
                        out.say(&format!("  gold\n{}", lines(item.gold.as_deref().unwrap_or("(none)"))));
                    }
                    ("u", None) if said > 0 => {
                        once(root, Request::Undo)?;
                        (at, said, judged) = (at.saturating_sub(1), said - 1, judged - 1);
                        continue 'items;
                    }
                    ("q", None) => break 'items,
                    _ => {}
                }
            }
        }
        let left = at < queue.items.len();
        let all = queue.items.len() + queue.done >= queue.total;
        if left || all || said == 0 {
            break;
        }
        queue = fetch(root, args, judge.as_ref())?;
    }
    out.say(&format!("{} given", counted(judged, "verdict")));
    let agreement = super::ask_agreement(root, judge)?;
    out.result(&agreement, || super::render(&agreement));
    Ok(ExitCode::SUCCESS)
}
