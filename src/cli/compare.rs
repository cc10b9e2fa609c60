//! `tunebench compare A B`: two candidates on the same rows.

use std::path::Path;
use std::process::ExitCode;

use super::ask::{once, unexpected};
use super::output::Output;
use super::table::{Table, clean, number, share};
use crate::domain::api::{Request, Response};
use crate::domain::board::Comparison;
use crate::domain::outcome::FlipKind;
use crate::domain::words::{counted, p_value};
use crate::score::paired::MCNEMAR;

/// Flips that are printed.
const SHOWN_FLIPS: usize = 20;
/// Characters of a text in the list of flips.
const SHOWN_TEXT: usize = 40;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A candidate: its name, the start of its id, or a run
    a: String,
    /// The candidate that is held against A
    b: String,
    /// Another metric than the primary one
    #[arg(long)]
    metric: Option<String>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let request = Request::Compare { a: args.a, b: args.b, metric: args.metric };
    let Response::Compare { comparison } = once(root, request)? else { return Err(unexpected()) };
    out.result(&comparison, || render(&comparison));
    Ok(ExitCode::SUCCESS)
}

/// The comparison for people.
pub fn render(c: &Comparison) -> String {
    let binary = c.test == MCNEMAR;
    let value = |v: f64| if binary { share(v, c.n) } else { number(v) };
    let [a, b] = &c.candidates;
    let mut text = format!(
        "{} on {}\n  {}  {}\n  {}  {}\n  difference {:+.3} (95% {:+.3} to {:+.3}), p = {} ({})\n",
        clean(&c.metric),
        counted(c.n, "row"),
        value(c.a),
        clean(a),
        value(c.b),
        clean(b),
        c.delta,
        c.ci95[0],
        c.ci95[1],
        p_value(c.p_value),
        if binary { "exact McNemar" } else { "paired bootstrap" },
    );
    text.push_str(&format!("  fixed {}, regressed {}, churned {}\n", c.fixed, c.regressed, c.churned));
    if c.needed > 0 {
        text.push_str(&format!(
            "  {} fixed, none regressed, would bring p below 0.05\n",
            counted(c.needed, "further row")
        ));
    }
    if c.strata.len() > 1 {
        let mut table = Table::new(&["stratum", ">n", ">a", ">b", ">fixed", ">regressed"]);
        for s in &c.strata {
            let value = |v: f64| if binary { share(v, s.n) } else { number(v) };
            table.row(vec![
                s.stratum.clone(),
                s.n.to_string(),
                value(s.a),
                value(s.b),
                s.fixed.to_string(),
                s.regressed.to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    if !c.flips.is_empty() {
        let short = |t: &str| -> String { t.chars().take(SHOWN_TEXT).collect() };
        let mut table = Table::new(&["row", "flip", "gold", "a", "b", "input"]);
        for flip in c.flips.iter().take(SHOWN_FLIPS) {
            let kind = match flip.flip {
                FlipKind::Fixed => "fixed",
                FlipKind::Regressed => "regressed",
                FlipKind::Churned => "churned",
            };
            table.row(vec![
                flip.row.clone(),
                kind.into(),
                short(flip.gold.as_deref().unwrap_or_default()),
                short(&flip.a),
                short(&flip.b),
                short(&flip.input),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
        if c.flips.len() > SHOWN_FLIPS {
            text.push_str(&format!("... and {} more (--json lists them)\n", c.flips.len() - SHOWN_FLIPS));
        }
    }
    text
}
