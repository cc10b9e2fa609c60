//! `tunebench data grown`: what a run made of train rows, and taking it into the data.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::ask::{once, unexpected};
use super::output::Output;
use super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::grow::{Check, Grown, GrownAsk, GrownPage, Made};
use crate::domain::words::{brief, counted};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A filter's terms must all hold; `-` before a term negates it: kept, refused, accepted, silent, text, duplicate, leak,
unanswered, disputed, meaning (where it fell), stratum:NAME, gold:NAME, answer:WORDS, parent:ID, id:ID, likeness>0.5 (to its parents, where asked),
nearest>0.8 (cosine with the nearest row that is scored on), and words of the text."
)]
pub struct Args {
    /// The run
    run: String,
    /// Only these: `kept`, `disputed stratum:"card arrival"`, `parent:r017`
    #[arg(long = "where", value_name = "FILTER", default_value = "", allow_hyphen_values = true)]
    filter: String,
    /// Take what is kept (of what --where admits) into the data, beside what was taken before, as a source of its own in the train part; what is
    /// disputed, unanswered or fell at its meaning only where --where names that (or the text's id). One undo takes all back
    #[arg(long)]
    accept: bool,
    /// Take the run's rows (those that --where admits) out of the data again
    #[arg(long, conflicts_with = "accept")]
    withdraw: bool,
    /// Leave out so many
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// Texts to show
    #[arg(short = 'n', long, default_value_t = 20)]
    count: usize,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let Args { run, filter, accept, withdraw, from, count } = args;
    if accept || withdraw {
        let request = Request::AcceptGrown { run: run.clone(), filter, withdraw };
        let Response::Done { message } = once(root, request)? else { return Err(unexpected()) };
        out.result(&json!({ "run": run, "done": message }), || format!("{}\n", clean(&message)));
        return Ok(ExitCode::SUCCESS);
    }
    let grown = GrownAsk { run, filter, offset: from, count, ..GrownAsk::default() };
    let Response::Grown { page } = once(root, Request::Grown { grown })? else { return Err(unexpected()) };
    out.result(&page, || render(&page));
    Ok(ExitCode::SUCCESS)
}

/// Characters of a text and of a reason.
const TEXT: usize = 60;
const WHY: usize = 50;

fn render(page: &GrownPage) -> String {
    let mut table = Table::new(&["", "parents", "gold", "text", "why"]);
    for Made { one: Grown { parents, gold, text, fell, why, .. }, accepted, .. } in &page.rows {
        let first = parents.first().map(String::as_str).unwrap_or_default();
        let more = if parents.len() > 1 { format!(" +{}", parents.len() - 1) } else { String::new() };
        table.row(vec![
            if *accepted { "in data" } else { fell.map_or("kept", Check::name) }.to_owned(),
            format!("{first}{more}"),
            brief(gold.as_deref().unwrap_or_default(), 24),
            brief(text, TEXT),
            brief(why, WHY),
        ]);
    }
    let mut text = table.render();
    let shown = page.rows.len();
    if shown < page.total {
        text.push_str(&format!("{} to {} of {}\n", page.offset + 1, page.offset + shown, page.total));
    }
    text.push_str(&format!(
        "{}: {} by {}, checked by {}: {} kept of {} made\n",
        clean(&page.run),
        page.method,
        clean(&page.maker),
        clean(&page.checker),
        page.counts.kept,
        page.counts.made
    ));
    for (check, n) in &page.counts.fell {
        text.push_str(&format!("  {n} {check}: {}\n", check.words()));
    }
    match &page.accepted {
        Some(accepted) => {
            text.push_str(&format!(
                "{} of them in {}, a source of the data\n",
                counted(accepted.rows, "row"),
                clean(&page.file)
            ));
        }
        None if page.counts.kept > 0 => text.push_str("--accept takes what is kept into the data\n"),
        None => {}
    }
    text
}
