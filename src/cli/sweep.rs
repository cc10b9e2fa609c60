//! Several runs followed together, and a table of what came of them: `tunebench run train --sweep`, `tunebench run eval --model A --model B`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use super::ask::{ask_with_keys, block_on, board, connect, unexpected};
use super::follow::{self, INTERRUPTED, Show};
use super::output::{Exit, Output};
use super::table::{Table, clean, duration, number};
use crate::domain::api::{Push, Request, Response, View};
use crate::domain::board::Board;
use crate::domain::run::RunRecord;
use crate::domain::words::counted;
use crate::engine::client::Client;

pub fn start(
    root: &Path,
    request: Request,
    detach: bool,
    agreed: bool,
    out: &Output,
) -> super::CommandResult {
    let swept: Vec<String> = match &request {
        Request::Sweep { axes, .. } => axes.iter().map(|(key, _)| key.clone()).collect(),
        _ => Vec::new(),
    };
    block_on(async {
        let mut client = connect(root).await?;
        let Response::Swept { group, runs } = ask_with_keys(&client, root, request, agreed).await? else {
            return Err(unexpected());
        };
        out.say(&format!("{group}: {}: {}", counted(runs.len(), "run"), runs.join(" ")));
        if detach {
            result(&group, &swept, &fresh(&client, &runs).await?, out);
            return Ok(ExitCode::SUCCESS);
        }
        let Some(records) = follow_all(&mut client, root, &runs, out).await? else {
            return Ok(ExitCode::from(INTERRUPTED));
        };
        result(&group, &swept, &records, out);
        Ok(code(&records))
    })
}

/// `tunebench run eval --model A --model B`: a run each, and at the end those candidates on the board.
pub fn several(
    root: &Path,
    request: Request,
    detach: bool,
    agreed: bool,
    out: &Output,
) -> super::CommandResult {
    block_on(async {
        let mut client = connect(root).await?;
        let Response::LaunchedAll { runs } = ask_with_keys(&client, root, request, agreed).await? else {
            return Err(unexpected());
        };
        out.say(&format!("{}: {}", counted(runs.len(), "run"), runs.join(" ")));
        let records = if detach {
            fresh(&client, &runs).await?
        } else {
            match follow_all(&mut client, root, &runs, out).await? {
                Some(records) => records,
                None => return Ok(ExitCode::from(INTERRUPTED)),
            }
        };
        let board = board(&client).await?;
        let mine = |name: &String| records.iter().any(|r| r.candidate.as_ref() == Some(name));
        let rows = board.rows.iter().filter(|row| mine(&row.candidate)).cloned().collect();
        let board = Board { rows, ..board };
        out.result(&serde_json::json!({ "runs": records, "board": board.rows }), || {
            let mut text = String::new();
            for record in records.iter().filter(|r| detach || !r.state.has_result()) {
                let said = record.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
                text.push_str(&clean(&format!("{} {}{said}", record.run, record.state)));
                text.push('\n');
            }
            if !board.rows.is_empty() {
                text.push_str(&super::board::render(&board));
            }
            text
        });
        Ok(if detach { ExitCode::SUCCESS } else { code(&records) })
    })
}

fn code(records: &[RunRecord]) -> ExitCode {
    if records.iter().all(|r| r.state.has_result()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn fresh(client: &Client, runs: &[String]) -> Result<Vec<RunRecord>, Exit> {
    let mut records = Vec::new();
    for run in runs {
        records.push(follow::fresh(client, run).await?);
    }
    Ok(records)
}

/// Show the progress of several runs, by lines, until all have ended. None: Ctrl-C; they go on.
pub(super) async fn follow_all(
    client: &mut Client,
    root: &Path,
    runs: &[String],
    out: &Output,
) -> Result<Option<Vec<RunRecord>>, Exit> {
    let mut shows: BTreeMap<String, (Show<'_>, u64, Option<RunRecord>)> =
        runs.iter().map(|run| (run.clone(), (Show::new(out, run, false), 0, None))).collect();
    'connected: loop {
        for (run, (_, after, ended)) in &shows {
            if ended.is_none() {
                client.follow(View::Run { run: run.clone(), after: *after }).await?;
            }
        }
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {
                    out.say("detached; the runs go on (`tunebench runs`)");
                    return Ok(None);
                }
                push = client.push() => match push {
                    None => {
                        out.say("the engine ended; connecting again");
                        *client = connect(root).await?;
                        continue 'connected;
                    }
                    Some(Push::Events { run, events }) => {
                        if let Some((show, after, _)) = shows.get_mut(&run) {
                            for event in events {
                                *after = (*after).max(event.seq);
                                show.event(&event);
                            }
                        }
                    }
                    Some(Push::RunChanged { run: record }) => {
                        if let Some((show, _, ended)) = shows.get_mut(&record.run) {
                            show.record(&record);
                            *ended = record.state.is_final().then_some(record);
                        }
                        if shows.values().all(|(_, _, ended)| ended.is_some()) {
                            break 'connected;
                        }
                    }
                    Some(_) => {}
                },
            }
        }
    }
    Ok(Some(runs.iter().filter_map(|run| shows.get(run).and_then(|(_, _, ended)| ended.clone())).collect()))
}

/// `group, runs`, and on a terminal a table with the swept settings and the figures beside them.
fn result(group: &str, swept: &[String], records: &[RunRecord], out: &Output) {
    out.result(&serde_json::json!({ "group": group, "runs": records }), || {
        let mut head = vec!["run", "state"];
        head.extend(swept.iter().map(String::as_str));
        head.extend([">steps", ">loss", ">dev loss", ">took", "said"]);
        let mut table = Table::new(&head);
        for record in records {
            let metric = |name: &str| record.metrics.get(name).map(|v| number(*v)).unwrap_or_default();
            let set = |key: &String| {
                let last = record.settings.iter().rev().find(|(k, _)| k == key);
                last.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            let steps = record.progress.as_ref().filter(|p| p.phase == "train").map(|p| p.done.to_string());
            let took = record.ended_ms.and_then(|end| record.took_ms(end)).map(duration);
            let mut row = vec![record.run.clone(), record.state.to_string()];
            row.extend(swept.iter().map(set));
            row.push(record.metrics.get("steps").map(|s| number(*s)).or(steps).unwrap_or_default());
            row.extend([metric("loss"), metric("eval_loss"), took.unwrap_or_default()]);
            row.push(record.message.clone().unwrap_or_default());
            table.row(row);
        }
        format!("{group}\n{}", table.render())
    });
}
