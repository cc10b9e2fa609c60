//! Two candidates on the same rows, told.

use super::About;
use super::blocks::{Block, Cell, Mood, Table, clean};
use super::board;
use super::charts;
use super::csv::kind;
use crate::domain::board::{Board, Comparison};
use crate::domain::diff;
use crate::domain::metric::Metric;
use crate::domain::outcome::FlipKind;
use crate::domain::words::{counted, number, p_value, share, utc};

pub(super) fn blocks(c: &Comparison, all: &Board, about: &About) -> Vec<Block> {
    let [a, b] = &c.candidates;
    // A share of rows that are right or wrong can be told as a count.
    let counts = c.is_binary();
    let value = |v: f64, n: usize| if counts { share(v, n) } else { number(v) };
    let mut blocks = vec![
        Block::Heading(1, format!("{}: {b} against {a}", about.workspace)),
        Block::Text(format!(
            "{} on {} that both have at the same content. Made {} by tunebench {}.",
            c.metric,
            counted(c.n, "row"),
            utc(about.made_ms),
            about.version
        )),
        Block::Figures(vec![
            (a.clone(), value(c.a, c.n)),
            (b.clone(), value(c.b, c.n)),
            ("difference".into(), difference(c)),
            ("p".into(), format!("{} ({})", p_value(c.p_value), c.test_name())),
            ("fixed, regressed, churned".into(), format!("{}, {}, {}", c.fixed, c.regressed, c.churned)),
        ]),
    ];
    if c.needed > 0 {
        blocks.push(Block::Text(format!(
            "{} fixed, none regressed, would bring p below 0.05.",
            counted(c.needed, "further row")
        )));
    }
    let remarks = remarks(c);
    if !remarks.is_empty() {
        blocks.push(Block::List(remarks));
    }
    blocks.push(Block::Chart(charts::difference(c, board::lower_is_better(&c.metric))));
    let both = Board {
        rows: all.rows.iter().filter(|row| c.candidates.contains(&row.candidate)).cloned().collect(),
        ..all.clone()
    };
    if !both.rows.is_empty() {
        blocks.push(Block::Heading(2, "On the board".into()));
        blocks.push(Block::Table(board::table(&both)));
    }
    if c.strata.len() > 1 {
        blocks.push(Block::Heading(2, "By stratum".into()));
        let lower = board::lower_is_better(&c.metric);
        blocks.extend(charts::strata(&c.strata, lower).map(Block::Chart));
        let mut table = Table::new(["stratum", ">n", ">a", ">b", ">difference", ">fixed", ">regressed"]);
        for s in &c.strata {
            let delta = s.b - s.a;
            let mood = match (delta == 0.0, (delta > 0.0) != lower) {
                (true, _) => Mood::Plain,
                (_, true) => Mood::Good,
                (_, false) => Mood::Bad,
            };
            table.rows.push(vec![
                s.stratum.as_str().into(),
                s.n.to_string().into(),
                value(s.a, s.n).into(),
                value(s.b, s.n).into(),
                Cell::of(format!("{delta:+.3}"), mood),
                s.fixed.to_string().into(),
                s.regressed.to_string().into(),
            ]);
        }
        blocks.push(Block::Table(table));
    }
    for prompt in &c.prompts {
        blocks.push(Block::Heading(2, format!("Prompt of stage {}", prompt.stage)));
        blocks.push(Block::Diff(diff::lines(&clean(&prompt.a), &clean(&prompt.b))));
    }
    blocks.extend(flips(c));
    blocks
}

/// A count where there are too few rows for a share to mean much.
fn difference(c: &Comparison) -> String {
    let ci = format!("95% {:+.3} to {:+.3}", c.ci95[0], c.ci95[1]);
    if c.is_binary() && c.n < 30 {
        return format!("{:+} of {} ({ci})", (c.delta * c.n as f64).round(), c.n);
    }
    format!("{:+.3} ({ci})", c.delta)
}

/// What the figures rest on, and what was lost again.
fn remarks(c: &Comparison) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(adjusted) = &c.adjusted {
        remarks.push(format!(
            "One of {}: adjusted p = {} (Holm).",
            counted(adjusted.of, "comparison"),
            p_value(adjusted.p_value)
        ));
    }
    if let Some(clusters) = &c.clusters {
        remarks.push(format!(
            "Rows belong together by {}: {} of {}, and the errors are those of clusters.",
            clusters.by,
            counted(clusters.clusters, "cluster"),
            counted(c.n, "row")
        ));
    }
    if let Some(s) = &c.stratified {
        remarks.push(format!(
            "If each of {} had its share of the eval part: {:+.3} (95% {:+.3} to {:+.3}), p = {}.",
            counted(s.strata, "stratum"),
            s.delta,
            s.ci95[0],
            s.ci95[1],
            p_value(s.p_value)
        ));
    }
    if let Some(kept) = c.regression.as_ref().filter(|kept| kept.kept < kept.of) {
        let shown: Vec<&str> = kept.lost.iter().take(50).map(String::as_str).collect();
        remarks.push(format!(
            "{} of {} rows that once were fixed are lost again in {}: {}",
            kept.of - kept.kept,
            kept.of,
            c.candidates[1],
            shown.join(", ")
        ));
    }
    remarks
}

fn flips(c: &Comparison) -> Vec<Block> {
    if Metric::find(&c.metric).is_ok_and(|m| m.entry.threshold.is_none()) {
        return Vec::new();
    }
    let mut blocks = vec![Block::Heading(2, "Flips".into())];
    let total = c.fixed + c.regressed + c.churned;
    if c.flips.is_empty() {
        blocks.push(Block::Text("No row has another outcome.".into()));
        return blocks;
    }
    if total > c.flips.len() {
        blocks.push(Block::Text(format!("The first {} of {total}, regressions first.", c.flips.len())));
    }
    let mut table = Table::new(["row", "flip", "stratum", "gold", "a", "b", "input"]);
    for flip in &c.flips {
        let mood = match flip.flip {
            FlipKind::Fixed => Mood::Good,
            FlipKind::Regressed => Mood::Bad,
            FlipKind::Churned => Mood::Plain,
        };
        table.rows.push(vec![
            flip.row.as_str().into(),
            Cell::of(kind(flip.flip), mood),
            flip.stratum.as_deref().unwrap_or_default().into(),
            flip.gold.as_deref().unwrap_or_default().into(),
            flip.a.as_str().into(),
            flip.b.as_str().into(),
            flip.input.as_str().into(),
        ]);
    }
    blocks.push(Block::Table(table));
    blocks
}
