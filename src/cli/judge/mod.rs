//! `tunebench judge`: two candidates side by side by a judge, a judge beside people, and the people's queue.

pub mod pairwise;
mod queue;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::judge::{Agreement, Kappa};
use crate::domain::words::counted;

/// Answers in the list of partings, and characters of each.
const PARTINGS: usize = 20;
const TEXT: usize = 60;

#[derive(Debug, Subcommand)]
enum What {
    /// How far the judge agrees with people, how lenient everybody is, and where they part
    Agreement,
    /// Answers for you to judge, without saying whose they are: one by one on a terminal, else a list
    Queue(queue::QueueArgs),
    /// Your verdict on an answer of the queue
    Say(queue::SayArgs),
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The judge; needed where there are several and [eval] names none
    #[arg(long, global = true, value_name = "NAME")]
    judge: Option<String>,
    #[command(subcommand)]
    what: Option<What>,
    /// A candidate: its name, the start of its id, or a run
    a: Option<String>,
    /// The candidate that is held against A: their answers are judged side by side, in both orders
    b: Option<String>,
    /// With A and B: at most so many rows (default: all that both have answered)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// With A and B: leave the run to itself and return at once
    #[arg(long)]
    detach: bool,
    /// With A and B: send the judge's key to its endpoint without being asked
    #[arg(long)]
    trust: bool,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match (args.what, args.a, args.b) {
        (Some(What::Agreement), None, None) => agreement(root, args.judge, out),
        (Some(What::Queue(queue)), None, None) => queue::run(queue, args.judge, root, out),
        (Some(What::Say(say)), None, None) => queue::say(say, args.judge, root, out),
        (None, Some(a), Some(b)) => {
            let named = args.judge.map(|name| ("judge".to_owned(), name));
            let rows = args.rows.map(|n| ("rows".to_owned(), n.to_string()));
            let set = [("a".to_owned(), a), ("b".to_owned(), b)].into_iter().chain(named).chain(rows);
            pairwise::run(root, set.collect(), args.detach, args.trust, out)
        }
        _ => Err(Exit::usage(
            "name two candidates, `tunebench judge A B`, or say agreement, queue, or say ITEM VERDICT",
        )),
    }
}

fn agreement(root: &Path, judge: Option<String>, out: &Output) -> super::CommandResult {
    let agreement = ask_agreement(root, judge)?;
    let mut value = serde_json::to_value(&agreement).map_err(|e| Exit::failed(e.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("trusted".into(), agreement.trusted().into());
    }
    out.result(&value, || render(&agreement));
    Ok(ExitCode::SUCCESS)
}

fn ask_agreement(root: &Path, judge: Option<String>) -> Result<Agreement, Exit> {
    match once(root, Request::JudgeAgreement { judge })? {
        Response::Agreement { agreement } => Ok(agreement),
        _ => Err(unexpected()),
    }
}

fn kappa(name: &str, kappa: Option<Kappa>) -> String {
    match kappa {
        Some(k) => format!("{name} {:.3} (95% {:.3} to {:.3})", k.value, k.ci95[0], k.ci95[1]),
        None => format!("{name} cannot be told: only one verdict was ever given"),
    }
}

/// A judge beside people, in words.
fn render(a: &Agreement) -> String {
    let mut text = format!("judge {} beside people\n", clean(&a.judge));
    match &a.distrust {
        None => text.push_str("  trusted\n"),
        Some(why) => text.push_str(&format!("  not to be trusted: {}\n", clean(why))),
    }
    text.push_str(&format!("  {} judged by people", counted(a.judged, "answer")));
    if a.without_judge > 0 {
        text.push_str(&format!(", {} of them without a verdict of the judge as it stands", a.without_judge));
    }
    if a.split > 0 {
        text.push_str(&format!(", people split evenly on {}", a.split));
    }
    text.push('\n');
    if a.n == 0 {
        text.push_str("  `tunebench judge queue` asks for verdicts; an evaluation with the metric judge gets the judge's\n");
        return text;
    }
    text.push_str(&format!("  the same verdict on {} of {}\n", a.same, counted(a.n, "answer")));
    text.push_str(&format!("  {}\n", kappa("kappa", a.kappa)));
    if a.weighted.is_some() {
        text.push_str(&format!("  {}\n", kappa("weighted kappa (squared)", a.weighted)));
    }
    if let Some((x, y, n, between)) = &a.people {
        let between = kappa("kappa", *between);
        text.push_str(&format!("  {} and {} on {}: {between}\n", clean(x), clean(y), counted(*n, "answer")));
    }
    let heads: Vec<String> = a.verdicts.iter().map(|word| format!(">people: {word}")).collect();
    let heads: Vec<&str> = std::iter::once("").chain(heads.iter().map(String::as_str)).collect();
    let mut table = Table::new(&heads);
    for (word, row) in a.verdicts.iter().zip(&a.table) {
        let cells = row.iter().map(usize::to_string);
        table.row(std::iter::once(format!("judge: {word}")).chain(cells).collect());
    }
    text.push_str(&format!("\n{}", table.render()));
    let mut table =
        Table::new(&["annotator", ">judged", ">shared", ">right", ">others", ">difference", "95%"]);
    for l in &a.leniency {
        let shared = l.n > 0;
        let share = |value: f64| if shared { format!("{value:.3}") } else { "-".into() };
        table.row(vec![
            l.annotator.clone(),
            l.all.to_string(),
            l.n.to_string(),
            share(l.right),
            share(l.others),
            if shared { format!("{:+.3}", l.difference) } else { "-".into() },
            if shared { format!("{:+.3} to {:+.3}", l.ci95[0], l.ci95[1]) } else { String::new() },
        ]);
    }
    text.push_str(&format!(
        "\nleniency: the share called right, beside the others on the same answers\n{}",
        table.render()
    ));
    if !a.partings.is_empty() {
        let mut table = Table::new(&["item", "row", "judge", "people", "answer"]);
        for p in a.partings.iter().take(PARTINGS) {
            let people: Vec<String> = p.people.iter().map(|(who, word)| format!("{who} {word}")).collect();
            table.row(vec![
                p.item.clone(),
                p.row.clone(),
                p.judge.clone().unwrap_or_else(|| "-".into()),
                people.join(", "),
                p.output.chars().take(TEXT).collect(),
            ]);
        }
        text.push_str(&format!("\nwhere they part\n{}", table.render()));
        if a.partings.len() > PARTINGS {
            text.push_str(&format!("... and {} more (--json lists them)\n", a.partings.len() - PARTINGS));
        }
    }
    text
}
