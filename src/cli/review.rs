//! `tunebench data review`: rows for people to review, second opinions, how far they agree, and what is to be settled.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::judge::Kappa;
use crate::domain::review::{Opinion, PER, ReviewAsk, ReviewQueue, RowAgreement};
use crate::domain::sample::SEED;
use crate::domain::words::counted;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Rows that are left for you, the same ones for everybody, some of every stratum
    Queue {
        /// Rows of every stratum
        #[arg(long, default_value_t = PER, value_parser = at_least_one)]
        per: usize,
        /// Only rows that this filter admits
        #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
        filter: String,
        /// Who reviews (default: your user name)
        #[arg(long = "as", value_name = "NAME")]
        annotator: Option<String>,
        /// Only rows that somebody else has decided on; what they said is not told
        #[arg(long)]
        second: bool,
        /// The same seed draws the same rows
        #[arg(long, default_value_t = SEED)]
        seed: u64,
    },
    /// Your opinion on a row
    Say(Said),
    /// How far annotators agree, and the rows on which they part
    Agreement,
    /// The last word on a row on which annotators part
    Settle(Said),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("opinion").required(true))]
struct Said {
    row: String,
    /// The gold stands
    #[arg(long, group = "opinion")]
    accept: bool,
    /// This is the gold; empty: it has none
    #[arg(long, group = "opinion", value_name = "TEXT", allow_hyphen_values = true)]
    gold: Option<String>,
    /// The row is not to be used
    #[arg(long, group = "opinion")]
    exclude: bool,
    /// Who says so (default: your user name)
    #[arg(long = "as", value_name = "NAME")]
    annotator: Option<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number of at least 1".into())
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    match args.what {
        What::Queue { per, filter, annotator, second, seed } => {
            let review = ReviewAsk { annotator, per, filter, seed, second };
            let Response::ReviewQueue { queue } = once(root, Request::ReviewQueue { review })? else {
                return Err(unexpected());
            };
            out.result(&queue, || listed(&queue));
        }
        What::Say(said) => say(said, false, root, out)?,
        What::Settle(said) => say(said, true, root, out)?,
        What::Agreement => {
            let Response::ReviewAgreement { agreement } = once(root, Request::ReviewAgreement)? else {
                return Err(unexpected());
            };
            out.result(&agreement, || agreed(&agreement));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(said: Said, settle: bool, root: &Path, out: &Output) -> Result<(), Exit> {
    let opinion = match said {
        Said { exclude: true, .. } => Some(Opinion::Exclude),
        Said { gold: Some(ref gold), .. } => {
            Some(Opinion::Gold(Some(gold.clone()).filter(|g| !g.is_empty())))
        }
        _ => None,
    };
    let request = Request::ReviewSay { annotator: said.annotator, row: said.row, opinion, settle };
    let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
    out.result(&serde_json::json!({ "message": message }), || clean(&message));
    Ok(())
}

/// Lines of a text, each harmless.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("    {}\n", clean(line))).collect()
}

fn listed(queue: &ReviewQueue) -> String {
    let mut text = format!("{}: {} of {} decided\n", clean(&queue.annotator), queue.done, queue.total);
    let mut table = Table::new(&["stratum", ">decided", ">rows"]);
    for s in &queue.strata {
        table.row(vec![s.stratum.clone(), s.done.to_string(), s.total.to_string()]);
    }
    text.push_str(&table.render());
    for item in &queue.items {
        let gold = item.gold.as_deref().map_or_else(|| "    (none)\n".into(), lines);
        text.push_str(&format!(
            "\n{}  [{}]\n  input\n{}  gold\n{gold}",
            clean(&item.row),
            clean(&item.stratum),
            lines(&item.input)
        ));
    }
    let more = (queue.total - queue.done.min(queue.total)).saturating_sub(queue.items.len());
    if more > 0 {
        text.push_str(&format!("\n... and {} more, when these are decided\n", counted(more, "row")));
    }
    text
}

fn told(name: &str, kappa: Option<Kappa>) -> String {
    match kappa {
        Some(k) => format!("{name} {:.3} (95% {:.3} to {:.3})", k.value, k.ci95[0], k.ci95[1]),
        None => format!("{name} cannot be told: only one thing was ever said"),
    }
}

fn agreed(found: &RowAgreement) -> String {
    let who: Vec<String> = found
        .annotators
        .iter()
        .map(|(name, rows)| format!("{} {}", clean(name), counted(*rows, "row")))
        .collect();
    let mut text = format!("decided: {}\n", who.join(", "));
    if found.rows == 0 {
        text.push_str(
            "no row has a second opinion; `tunebench data review queue --second --as NAME` asks for them\n",
        );
        return text;
    }
    text.push_str(&format!("the same on {} of {}\n", found.same, counted(found.rows, "row")));
    text.push_str(&format!("{}\n", told("Krippendorff's alpha", found.alpha)));
    for pair in &found.pairs {
        let kappa = told("Cohen's kappa", pair.kappa);
        text.push_str(&format!(
            "  {} and {}: the same on {} of {}; {kappa}\n",
            clean(&pair.a),
            clean(&pair.b),
            pair.same,
            counted(pair.rows, "row")
        ));
    }
    if !found.apart.is_empty() {
        let mut table = Table::new(&["row", "stratum", "in the file", "said", "input"]);
        for apart in &found.apart {
            let said: Vec<String> = apart.said.iter().map(|(who, gold)| format!("{who}: {gold}")).collect();
            let input = apart.input.chars().take(50).collect();
            table.row(vec![
                apart.row.clone(),
                apart.stratum.clone(),
                apart.gold.clone().unwrap_or_default(),
                said.join("; "),
                input,
            ]);
        }
        text.push_str(&format!(
            "\nto settle: `tunebench data review settle ROW --gold TEXT`\n{}",
            table.render()
        ));
    }
    text
}
