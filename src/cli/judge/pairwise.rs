//! `tunebench judge A B`: a run of kind `judge`, and what came of it.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::super::ask::{ask, block_on, connect, launch, unexpected};
use super::super::follow::{self, Followed};
use super::super::output::{Exit, Output};
use super::super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::judge::{Pairwise, Share};
use crate::domain::run::{RunKind, RunRecord};
use crate::domain::words::counted;
use crate::engine::client::Client;

/// Below so many rows a share is told as a count alone.
const FEW: usize = 30;

pub fn run(
    root: &Path,
    set: Vec<(String, String)>,
    detach: bool,
    agreed: bool,
    out: &Output,
) -> crate::cli::CommandResult {
    block_on(async {
        let client = connect(root).await?;
        let run = launch(&client, root, RunKind::Judge, set, None, agreed).await?;
        if detach {
            follow::result(&follow::fresh(&client, &run).await?, out);
            return Ok(ExitCode::SUCCESS);
        }
        let followed = follow::follow(client, root, &run, out).await?;
        let record = match &followed {
            Followed::Ended(record) if record.state.has_result() => record,
            _ => return Ok(follow::finish(&followed, out)),
        };
        let client = connect(root).await?;
        let pairwise = of_run(&client, &record.run).await?;
        out.result(&with(record, &pairwise)?, || render(&pairwise));
        Ok(ExitCode::SUCCESS)
    })
}

/// What came of a run.
pub async fn of_run(client: &Client, run: &str) -> Result<Pairwise, Exit> {
    match ask(client, Request::Pairwise { run: run.to_owned() }).await? {
        Response::Pairwise { pairwise } => Ok(*pairwise),
        _ => Err(unexpected()),
    }
}

/// A run's record with it.
pub fn with(record: &RunRecord, pairwise: &Pairwise) -> Result<serde_json::Value, Exit> {
    let mut value = serde_json::to_value(record).map_err(|e| Exit::failed(e.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("pairwise".into(), json!(pairwise));
    }
    Ok(value)
}

fn share(share: Share) -> String {
    match share.value() {
        Some(value) if share.n >= FEW => format!(
            "{} of {} ({value:.3}, 95% {:.3} to {:.3})",
            share.count, share.n, share.ci95[0], share.ci95[1]
        ),
        _ => format!("{} of {}", share.count, share.n),
    }
}

/// The result for people.
pub fn render(p: &Pairwise) -> String {
    let [a, b] = &p.candidates;
    let (a, b) = (clean(a), clean(b));
    let mut text = format!(
        "{b} against {a} by the judge {}, each pair in both orders: {}\n",
        clean(&p.judge),
        counted(p.n, "row")
    );
    text.push_str(&format!("  {b} better {}, {a} better {}, ties {}", p.wins, p.losses, p.ties));
    if p.identical > 0 {
        text.push_str(&format!(" ({} the same answer, not asked)", p.identical));
    }
    text.push('\n');
    let p_value = if p.p_value < 0.001 { format!("{:.1e}", p.p_value) } else { format!("{:.3}", p.p_value) };
    text.push_str(&format!("  {b} won {} of those decided, p = {p_value} (exact sign test)\n", share(p.won)));
    text.push_str(&format!("  the preference followed the position on {}", share(p.position)));
    if p.position.count > 0 {
        text.push_str(&format!(", the first answer {} times", p.first));
    }
    text.push('\n');
    text.push_str(&format!("  the longer answer won {}", share(p.longer)));
    if let Some(rho) = p.length_correlation {
        text.push_str(&format!("; length and preference correlate at {rho:+.2} (Spearman)"));
    }
    text.push('\n');
    if p.unread > 0 {
        text.push_str(&format!("  no verdict on {}\n", counted(p.unread, "further row")));
    }
    if p.left_out > 0 {
        text.push_str(&format!("  {} left out: a candidate failed there\n", counted(p.left_out, "row")));
    }
    let usd = p.usd.map(|usd| format!(", {usd:.4} US dollars")).unwrap_or_default();
    text.push_str(&format!(
        "  the judge was asked {} times ({} answers from the cache), {} tokens in, {} out{usd}\n",
        p.effort.calls, p.effort.cached, p.effort.tokens_in, p.effort.tokens_out
    ));
    if p.strata.len() > 1 {
        let mut table = Table::new(&["stratum", ">n", ">better", ">worse", ">ties"]);
        for s in &p.strata {
            table.row(vec![
                s.stratum.clone(),
                s.n.to_string(),
                s.wins.to_string(),
                s.losses.to_string(),
                s.ties.to_string(),
            ]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    text
}
