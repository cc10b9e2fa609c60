//! `tunebench metrics`: which metrics there are, and the detail of a candidate.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::ask::{once, unexpected};
use super::output::{Exit, Output};
use super::table::{Table, clean};
use crate::domain::api::{Request, Response};
use crate::domain::detail::{Detail, sections};
use crate::domain::metric::{Argument, Direction, REGISTRY, Unit};
use crate::workspace::{self, Workspace};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A candidate whose classes, calibration, fields, tools, stages and strata are shown; none: list the metrics
    candidate: Option<String>,
}

/// One line of the list.
#[derive(Debug, Serialize)]
struct Line {
    /// With its argument: `precision:LABEL`, `contains[:TEXT]`.
    name: String,
    unit: Unit,
    direction: Direction,
    per_row: bool,
    of_stage: bool,
    threshold: Option<f64>,
    about: String,
    source: String,
    /// Of the workspace's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    expression: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    metrics: Vec<Line>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let Some(candidate) = args.candidate else {
        let list = list(root)?;
        out.result(&list, || render_list(&list));
        return Ok(ExitCode::SUCCESS);
    };
    let Response::Detail { detail } = once(root, Request::Detail { candidate })? else {
        return Err(unexpected());
    };
    out.result(&detail, || render(&detail));
    Ok(ExitCode::SUCCESS)
}

/// The registry, and where there is a workspace its own metrics and thresholds.
fn list(root: &Path) -> Result<List, Exit> {
    let mut metrics: Vec<Line> = REGISTRY
        .iter()
        .map(|e| Line {
            name: match e.argument {
                Argument::None => e.name.to_owned(),
                Argument::Optional(what) => format!("{}[:{what}]", e.name),
                Argument::Required(what) => format!("{}:{what}", e.name),
            },
            unit: e.unit,
            direction: e.direction,
            per_row: e.per_row,
            of_stage: e.of_stage,
            threshold: e.threshold,
            about: e.about.to_owned(),
            source: e.source.to_owned(),
            expression: None,
        })
        .collect();
    if root.join(workspace::FILE).is_file() {
        let (ws, _) = Workspace::open(root).map_err(|problems| Exit::usage(problems.to_string()))?;
        let eval = &ws.config.eval;
        if let Some(line) = metrics.iter_mut().find(|line| line.name == "intent") {
            line.threshold = Some(eval.intent.threshold);
        }
        metrics.extend(eval.own.iter().map(|own| Line {
            name: own.name.clone(),
            unit: Unit::Number,
            direction: own.direction,
            per_row: true,
            of_stage: false,
            threshold: own.threshold,
            about: own.about.clone(),
            source: "workspace.toml".into(),
            expression: Some(own.expression.clone()),
        }));
    }
    Ok(List { metrics })
}

fn render_list(list: &List) -> String {
    let mut table = Table::new(&["metric", "unit", "better", "on a row", "of a stage", "what it is"]);
    let yes = |yes: bool| if yes { "yes" } else { "" }.to_owned();
    for line in &list.metrics {
        let better = match line.direction {
            Direction::Higher => "higher",
            Direction::Lower => "lower",
        };
        let about = match (&line.expression, line.about.as_str()) {
            (Some(expression), "") => expression.clone(),
            (Some(expression), about) => format!("{about}: {expression}"),
            (None, about) => about.to_owned(),
        };
        let on_row = match (line.per_row, line.threshold) {
            (true, Some(at)) if line.direction == Direction::Higher => format!("right from {at}"),
            (true, Some(at)) => format!("right to {at}"),
            (yes_, _) => yes(yes_),
        };
        table.row(vec![
            line.name.clone(),
            unit(line.unit).into(),
            better.into(),
            on_row,
            yes(line.of_stage),
            about,
        ]);
    }
    table.render()
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Share => "share",
        Unit::Score => "0 to 1",
        Unit::Milliseconds => "ms",
        Unit::Tokens => "tokens",
        Unit::Characters => "characters",
        Unit::Words => "words",
        Unit::UsDollars => "US dollars",
        Unit::Number => "number",
    }
}

/// The detail for people.
fn render(detail: &Detail) -> String {
    let mut text = String::new();
    for section in sections(detail) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{}\n", clean(&section.title)));
        if !section.rows.is_empty() {
            let header: Vec<&str> = section.header.iter().map(String::as_str).collect();
            let mut table = Table::new(&header);
            section.rows.into_iter().for_each(|row| table.row(row));
            for line in table.render().lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
        for note in section.notes {
            text.push_str(&format!("  {}\n", clean(&note)));
        }
    }
    text
}
