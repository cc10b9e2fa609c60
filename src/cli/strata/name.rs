//! `tunebench strata name --model NAME`: a model names the clusters, one question each.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::super::ask::{ask, block_on, connect, unexpected};
use super::super::output::{Exit, Output};
use super::super::table::clean;
use super::super::trust::Trust;
use super::render;
use crate::backend::{self, Access, Ask, Backend};
use crate::domain::api::{Request, Response, RowQuery};
use crate::domain::board::{StrataView, Stratum};
use crate::domain::candidate::{Decoding, Limits, ModelRef, ModelSource};
use crate::domain::keys::Keys;
use crate::domain::strata::ByHand;
use crate::workspace::Workspace;
use crate::workspace::config::ModelPlace;

/// Rows of a cluster that the model sees, and characters of each.
const ROWS: usize = 12;
const CLIP: usize = 300;
/// Characters of a name at most.
const NAME_MAX: usize = 60;

/// Terms and some rows of a cluster.
struct Shown {
    id: String,
    name: String,
    terms: Vec<String>,
    rows: Vec<String>,
}

pub fn run(model: &str, trust: bool, root: &Path, out: &Output) -> super::super::CommandResult {
    let mut backend = open(model, trust, root)?;
    let (view, clusters) = block_on(shown(root))?;
    if clusters.is_empty() {
        return Err(Exit::usage("no strata have been built; `tunebench strata build`"));
    }
    let mut names: Vec<(String, String)> = Vec::new();
    let mut silent = Vec::new();
    for cluster in &clusters {
        let mut others: Vec<&str> =
            clusters.iter().filter(|c| c.id != cluster.id).map(|c| c.name.as_str()).collect();
        others.extend(names.iter().map(|(_, name)| name.as_str()));
        let decoding = Decoding { max_tokens: 24, ..Decoding::default() };
        let asked = Ask::turn(question(cluster, &others), decoding);
        let answer = backend.answer(&[asked]).pop();
        let answer = answer.ok_or_else(|| Exit::failed("the model gave no answer"))?;
        let answer = answer.map_err(|e| Exit::failed(format!("{}: {e}", cluster.id)))?;
        match name_of(&answer.text).filter(|name| names.iter().all(|(_, other)| other != name)) {
            Some(name) => {
                out.say(&format!("{}: {} -> {}", cluster.id, clean(&cluster.name), clean(&name)));
                names.push((cluster.id.clone(), name));
            }
            None => silent.push(cluster.id.clone()),
        }
    }
    if !silent.is_empty() {
        out.say(&format!("no usable name for {}; they keep theirs", silent.join(", ")));
    }
    if names.is_empty() {
        return Err(Exit::failed(format!(
            "`{model}` gave no usable name for any of {} clusters",
            view.clusters
        )));
    }
    block_on(async {
        let client = connect(root).await?;
        let by_hand = ByHand::Names { names, by: model.to_owned() };
        let Response::Done { message } = ask(&client, Request::ByHand { by_hand }).await? else {
            return Err(unexpected());
        };
        let Response::Strata { view } = ask(&client, Request::Strata).await? else {
            return Err(unexpected());
        };
        let value =
            json!({ "done": message, "strata": view.strata, "groups": view.groups, "by_hand": view.by_hand });
        out.result(&value, || {
            format!("{}; `tunebench strata undo` takes it back\n\n{}", clean(&message), render(&view))
        });
        Ok(ExitCode::SUCCESS)
    })
}

async fn shown(root: &Path) -> Result<(StrataView, Vec<Shown>), Exit> {
    let client = connect(root).await?;
    let Response::Strata { view } = ask(&client, Request::Strata).await? else { return Err(unexpected()) };
    let mut clusters: Vec<Shown> = Vec::new();
    for stratum in &view.strata {
        let query = RowQuery { stratum: Some(stratum.id.clone()), count: ROWS, ..RowQuery::default() };
        let at = clusters.iter().position(|c| c.id == stratum.cluster);
        if at.is_some_and(|at| clusters[at].rows.len() >= ROWS) {
            continue;
        }
        let Response::Rows { page } = ask(&client, Request::Rows { query }).await? else {
            return Err(unexpected());
        };
        let rows = page.rows.into_iter().map(|row| row.text.chars().take(CLIP).collect::<String>());
        match at {
            Some(at) => clusters[at].rows.extend(rows),
            None => clusters.push(Shown {
                id: stratum.cluster.clone(),
                name: cluster_name(stratum),
                terms: stratum.terms.clone(),
                rows: rows.collect(),
            }),
        }
    }
    for cluster in &mut clusters {
        cluster.rows.truncate(ROWS);
    }
    Ok((view, clusters))
}

/// A stratum is called like its cluster, with the values of the dimensions behind it.
fn cluster_name(stratum: &Stratum) -> String {
    stratum.name.split(" · ").next().unwrap_or_default().to_owned()
}

fn question(cluster: &Shown, others: &[&str]) -> String {
    let rows: String = cluster.rows.iter().map(|row| format!("- {}\n", row.replace('\n', " "))).collect();
    format!(
        "Below are messages that belong together. Give what they have in common a name of two to four words, in lower case, in the \
         language of the messages, that tells them apart from the other groups. Answer with the name only.\n\n\
         Telling words: {}\nOther groups: {}\n\nMessages:\n{rows}",
        cluster.terms.join(", "),
        others.join("; ")
    )
}

/// The name in an answer: its first line, without quotes, marks and control characters.
fn name_of(answer: &str) -> Option<String> {
    let line = clean(answer.lines().map(str::trim).find(|line| !line.is_empty())?);
    let line = line.rsplit_once(':').map_or(line.as_str(), |(_, name)| name);
    let marks = |c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '*' | '.' | '#' | '-' | '\u{201c}' | '\u{201d}')
    };
    let name: Vec<&str> = line.trim_matches(marks).split_whitespace().collect();
    let name = name.join(" ");
    let usable = name.chars().any(char::is_alphanumeric) && name.chars().count() <= NAME_MAX;
    usable.then_some(name)
}

fn open(name: &str, trust: bool, root: &Path) -> Result<Box<dyn Backend>, Exit> {
    let ws = Workspace::load(root).map_err(|problems| Exit::usage(problems.to_string()))?;
    let Some(entry) = ws.config.models.get(name) else {
        let known: Vec<&str> = ws.config.models.keys().map(String::as_str).collect();
        return Err(Exit::usage(format!("--model {name}: no such model; [models] has {}", known.join(", "))));
    };
    let needs: Vec<_> = entry.place.key_need().into_iter().collect();
    let keys = if needs.is_empty() { Keys::default() } else { Trust::load(root)?.settle(&needs, trust)? };
    let source = match &entry.place {
        ModelPlace::Local { path } => ModelSource::Local { path: ws.resolve(path).display().to_string() },
        ModelPlace::Endpoint { endpoint, model, api_key_env } => ModelSource::Endpoint {
            endpoint: endpoint.clone(),
            model: model.clone(),
            api_key_env: api_key_env.clone(),
        },
    };
    let model = ModelRef {
        name: name.to_owned(),
        source,
        // Nothing is kept by it here.
        hash: String::new(),
        usd_per_million_input: entry.usd_per_million_input,
        usd_per_million_output: entry.usd_per_million_output,
        usd_per_hour: entry.usd_per_hour,
        limits: Limits {
            max_in_flight: entry.max_in_flight,
            requests_per_minute: entry.requests_per_minute,
            timeout: entry.timeout,
            mask_pii: entry.mask_pii,
        },
        device: entry.device,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let access = Access { keys, ..Access::threads(threads) };
    backend::open(&model, None, &access).map_err(|e| Exit::usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_first_line_without_what_steers_or_decorates() {
        for (answer, name) in [
            ("card delivery", Some("card delivery")),
            ("\n  \"Card delivery.\"\nBecause they ask for it.", Some("Card delivery")),
            ("Name: **late \u{1b}[31mcards**", Some("late cards")),
            ("...", None),
            ("", None),
        ] {
            assert_eq!(name_of(answer).as_deref(), name, "{answer:?}");
        }
        assert_eq!(name_of(&"word ".repeat(40)), None);
    }
}
