//! `tunebench compare A B`: two candidates on the same rows; `compare A B C ...` several against one.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean, clean_lines, number, share};
use crate::domain::api::{Request, Response};
use crate::domain::board::Comparison;
use crate::domain::diff;
use crate::domain::outcome::FlipKind;
use crate::domain::words::{counted, p_value};

/// Flips that are listed.
const SHOWN_FLIPS: usize = 20;
/// Characters of a text in the list of flips.
const SHOWN_TEXT: usize = 40;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Candidates: a name, the start of an id, or a run. The first is what the others are held against
    #[arg(value_name = "A B ...")]
    candidates: Vec<String>,
    /// Every candidate on the board against A, or against the baseline
    #[arg(long)]
    all: bool,
    /// Another metric than the primary one
    #[arg(long)]
    metric: Option<String>,
    /// What the prompts differ in, line by line
    #[arg(long)]
    prompts: bool,
    /// Answers of the first N flips, word by word
    #[arg(long, value_name = "N")]
    flips: Option<usize>,
}

/// Several candidates against one.
#[derive(Debug, Serialize)]
struct Many {
    baseline: String,
    metric: String,
    /// How the p-values are adjusted.
    correction: &'static str,
    rows: Vec<Comparison>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let Args { mut candidates, all, metric, prompts, flips } = args;
    let diffs = prompts || flips.is_some();
    if all {
        if candidates.len() > 1 {
            return Err(Exit::usage("--all takes one candidate at most: whom all others are held against"));
        }
        candidates.resize(1, "baseline".into());
    } else if candidates.len() < 2 {
        return Err(Exit::usage(
            "name two candidates, or several: the first is what the others are held against",
        ));
    }
    if diffs && (all || candidates.len() > 2) {
        return Err(Exit::usage("--prompts and --flips show two candidates; name two"));
    }
    let a = candidates.remove(0);
    if !all && candidates.len() == 1 {
        let request = Request::Compare { a, b: candidates.remove(0), metric };
        let Response::Compare { comparison } = once(root, request)? else { return Err(unexpected()) };
        out.result(&comparison, || {
            if !diffs {
                return render(&comparison);
            }
            let mut text = heading(&comparison);
            if prompts {
                text.push_str(&render_prompts(&comparison));
            }
            if let Some(n) = flips {
                text.push_str(&render_flips(&comparison, n));
            }
            text
        });
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request::CompareMany { a: a.clone(), others: candidates, metric };
    let Response::Compared { comparisons } = once(root, request)? else { return Err(unexpected()) };
    let first = comparisons.first();
    let many = Many {
        baseline: first.map_or(a, |c| c.candidates[0].clone()),
        metric: first.map(|c| c.metric.clone()).unwrap_or_default(),
        correction: "holm",
        rows: comparisons,
    };
    out.result(&many, || render_many(&many));
    Ok(ExitCode::SUCCESS)
}

/// A value of `n` rows: a count where right or wrong is all there is and rows are few.
fn value(c: &Comparison, v: f64, n: usize) -> String {
    if c.is_binary() { share(v, n) } else { number(v) }
}

/// A difference, as the values are told.
fn difference(c: &Comparison, v: f64, n: usize) -> String {
    if c.is_binary() && n < 30 { format!("{:+.0}/{n}", v * n as f64) } else { format!("{v:+.3}") }
}

fn heading(c: &Comparison) -> String {
    let [a, b] = &c.candidates;
    let mut text = format!(
        "{} on {}\n  {}  {}\n  {}  {}\n  difference {} (95% {:+.3} to {:+.3}), p = {} ({})\n",
        clean(&c.metric),
        counted(c.n, "row"),
        value(c, c.a, c.n),
        clean(a),
        value(c, c.b, c.n),
        clean(b),
        difference(c, c.delta, c.n),
        c.ci95[0],
        c.ci95[1],
        p_value(c.p_value),
        c.test_name(),
    );
    if let Some(clusters) = &c.clusters {
        text.push_str(&format!(
            "  rows belong together by `{}`: {}, standard error {:.4} of those\n",
            clean(&clusters.by),
            counted(clusters.clusters, "cluster"),
            c.se
        ));
    }
    if let Some(s) = &c.stratified {
        let missing = if s.covered < 0.9995 {
            format!("; strata of {:.1}% of the eval part have no rows here", 100.0 * (1.0 - s.covered))
        } else {
            String::new()
        };
        text.push_str(&format!(
            "  weighed by the strata of the eval part {:+.3} (95% {:+.3} to {:+.3}), p = {}{missing}\n",
            s.delta,
            s.ci95[0],
            s.ci95[1],
            p_value(s.p_value)
        ));
    }
    text.push_str(&format!("  fixed {}, regressed {}, churned {}\n", c.fixed, c.regressed, c.churned));
    if c.needed > 0 {
        text.push_str(&format!(
            "  {} fixed, none regressed, would bring p below 0.05\n",
            counted(c.needed, "further row")
        ));
    }
    text
}

/// The comparison for people.
pub fn render(c: &Comparison) -> String {
    let mut text = heading(c);
    if c.strata.len() > 1 {
        let mut table = Table::new(&["stratum", ">n", ">a", ">b", ">fixed", ">regressed", ">churned"]);
        for s in &c.strata {
            table.row(vec![
                s.stratum.clone(),
                s.n.to_string(),
                value(c, s.a, s.n),
                value(c, s.b, s.n),
                s.fixed.to_string(),
                s.regressed.to_string(),
                s.churned.to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    if !c.flips.is_empty() {
        let short = |t: &str| -> String { t.chars().take(SHOWN_TEXT).collect() };
        let mut table = Table::new(&["row", "flip", "gold", "a", "b", "input"]);
        for flip in c.flips.iter().take(SHOWN_FLIPS) {
            table.row(vec![
                flip.row.clone(),
                kind(flip.flip).into(),
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
    if let Some(kept) = c.regression.as_ref().filter(|kept| kept.kept < kept.of) {
        text.push_str(&format!(
            "\n{} of {} rows that once were fixed are lost again in {}: {}\n",
            kept.of - kept.kept,
            kept.of,
            clean(&c.candidates[1]),
            clean(&kept.lost.iter().take(SHOWN_FLIPS).cloned().collect::<Vec<_>>().join(", "))
        ));
    }
    text
}

const fn kind(flip: FlipKind) -> &'static str {
    match flip {
        FlipKind::Fixed => "fixed",
        FlipKind::Regressed => "regressed",
        FlipKind::Churned => "churned",
    }
}

fn render_many(many: &Many) -> String {
    if many.rows.is_empty() {
        return format!("nobody else has rows in common with `{}`", clean(&many.baseline));
    }
    let mut table = Table::new(&[
        "candidate",
        ">n",
        ">value",
        ">difference",
        "95%",
        ">fixed",
        ">regressed",
        ">p",
        ">adjusted p",
        "",
    ]);
    for c in &many.rows {
        table.row(vec![
            c.candidates[1].clone(),
            c.n.to_string(),
            value(c, c.b, c.n),
            difference(c, c.delta, c.n),
            format!("{:+.3} to {:+.3}", c.ci95[0], c.ci95[1]),
            c.fixed.to_string(),
            c.regressed.to_string(),
            p_value(c.p_value),
            p_value(c.deciding_p()),
            if c.is_significant() { "*".into() } else { String::new() },
        ]);
    }
    let mut tests: Vec<&str> = many.rows.iter().map(Comparison::test_name).collect();
    tests.dedup();
    format!(
        "{} against {}\n{}* below 0.05 by Holm's adjusted p over {} ({})\n",
        clean(&many.metric),
        clean(&many.baseline),
        table.render(),
        counted(many.rows.len(), "comparison"),
        tests.join(", ")
    )
}

fn render_prompts(c: &Comparison) -> String {
    if c.prompts.is_empty() {
        return "\nthe prompts are the same\n".into();
    }
    let mut text = String::new();
    for prompt in &c.prompts {
        text.push_str(&format!("\nprompt of stage {}\n", clean(&prompt.stage)));
        text.push_str(&diff::lines(&clean_lines(&prompt.a), &clean_lines(&prompt.b)));
    }
    text
}

fn render_flips(c: &Comparison, n: usize) -> String {
    if c.flips.is_empty() {
        return "\nno row flipped\n".into();
    }
    let mut text = String::new();
    for flip in c.flips.iter().take(n) {
        text.push_str(&format!("\n{} {}\n", kind(flip.flip), clean(&flip.row)));
        for (name, value) in [("input", &flip.input), ("gold", flip.gold.as_ref().unwrap_or(&String::new()))]
        {
            if !value.is_empty() {
                text.push_str(&format!("  {name}: {}\n", clean(value)));
            }
        }
        let answers = diff::words(&clean_lines(&flip.a), &clean_lines(&flip.b));
        let marked: String = answers.iter().map(|(change, text)| diff::marked(*change, text)).collect();
        text.push_str(&format!("  {}\n", marked.trim_end().replace('\n', "\n  ")));
    }
    text
}
