//! A run of kind `judge`: the answers of two candidates side by side, each pair in both orders.
//!
//! The pairs stand in `inputs/pairs.jsonl`, in the order of the rows. Each row's outcome is written as it is judged (`a`, `b`, `tie`,
//! `identical`, or `unread` without a verdict), so that a resumed run asks about no pair twice.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::{Asker, figures};
use crate::backend::Access;
use crate::domain::event::EventBody;
use crate::domain::judge::{AnswerPair, Effort, PairSettings, Pairwise};
use crate::domain::outcome::Outcome;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::RunRow;
use crate::domain::run::RunResult;
use crate::domain::words::counted;
use crate::pipeline::rubric::{PREFERENCES, Rubric};
use crate::score::preference::{Pair, Preferred, pairwise};
use crate::store::{files, lines};

/// A batch should take about so long.
const BATCH_MS: f64 = 1_000.0;
/// Pairs of the largest batch.
const MOST: usize = 256;

/// Where the result stands, in the run's folder.
pub const RESULT: &str = "artifacts/pairwise.json";

/// Judge every pair that has no verdict yet.
pub fn run(
    settings: &PairSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    let path = inputs.dir.join("inputs").join(PairSettings::FILE);
    let (pairs, bad) = lines::read_all::<AnswerPair>(&path)?;
    ensure!(bad == 0 && pairs.len() == inputs.rows.len(), "{} does not fit the run's rows", path.display());
    let access = Access::of(inputs);
    let mut asker = None;
    let open = || Asker::open(&settings.judge, &access);
    judge(settings, &inputs.rows, &pairs, &inputs.outcomes, &mut asker, &open, reporter).and_then(|judged| {
        let found = summary(settings, &pairs, &judged.outcomes);
        let result = inputs.dir.join(RESULT);
        if let Some(folder) = result.parent() {
            std::fs::create_dir_all(folder)?;
        }
        files::write_json(&result, &found).with_context(|| format!("cannot write {}", result.display()))?;
        Ok(RunResult { part: None, metrics: flat(&found), candidate: None, stopped: judged.stopped })
    })
}

struct Judged {
    outcomes: Vec<Outcome>,
    stopped: bool,
}

fn judge<'a>(
    settings: &'a PairSettings,
    rows: &[RunRow],
    pairs: &[AnswerPair],
    done: &[Outcome],
    asker: &mut Option<Asker<'a>>,
    open: &dyn Fn() -> Asker<'a>,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<Judged> {
    let judge = &settings.judge;
    let words = PREFERENCES.map(str::to_owned);
    let rubric = Rubric::of_two(&judge.pairwise_name, &judge.pairwise)?;
    let mut known: HashMap<&str, &Outcome> =
        done.iter().filter(|o| o.output != UNREAD).map(|o| (o.row.as_str(), o)).collect();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut todo: Vec<(&RunRow, &AnswerPair)> = Vec::new();
    for (row, pair) in rows.iter().zip(pairs) {
        match known.remove(row.id.as_str()).filter(|o| o.row_hash == row.hash) {
            Some(outcome) => outcomes.push(outcome.clone()),
            None if pair.a.trim() == pair.b.trim() => {
                let outcome = Outcome { output: IDENTICAL.into(), ..blank(row) };
                reporter.outcome(&outcome)?;
                outcomes.push(outcome);
            }
            None => todo.push((row, pair)),
        }
    }
    let (began, mut at, mut stopped) = (Instant::now(), 0, false);
    let mut size = 4;
    while at < todo.len() {
        match reporter.poll_control()? {
            Control::Cancel | Control::Stop => {
                stopped = true;
                break;
            }
            Control::Continue | Control::Checkpoint => {}
        }
        let asker = asker.get_or_insert_with(open);
        let least = asker.width().max(4);
        size = size.max(least);
        let batch = &todo[at..(at + size).min(todo.len())];
        let asked = Instant::now();
        let sheets = batch.iter().flat_map(|(row, pair)| {
            let sheet = |one: &str, other: &str| rubric.fill(row, &[one, other]).map_err(|e| e.to_string());
            [sheet(&pair.a, &pair.b), sheet(&pair.b, &pair.a)]
        });
        let said = asker.preferences(sheets.collect(), &words);
        for ((row, _), both) in batch.iter().zip(said.chunks(2)) {
            let mut outcome = Outcome { judged: both.to_vec(), ..blank(row) };
            outcome.output = word(&outcome).into();
            if outcome.output == UNREAD {
                outcome.error = both.iter().find_map(|judged| judged.error.clone());
            }
            reporter.outcome(&outcome)?;
            outcomes.push(outcome);
        }
        let ms = asked.elapsed().as_secs_f64() * 1e3 / batch.len() as f64;
        at += batch.len();
        size = ((BATCH_MS / ms.max(1e-3)) as usize).clamp(1, MOST.min(size * 2)).max(least);
        let per_pair = began.elapsed().as_secs_f64() * 1e3 / at as f64;
        reporter.event(EventBody::Progress {
            phase: "pairs".into(),
            done: outcomes.len() as u64,
            total: rows.len() as u64,
            eta_ms: Some((per_pair * (todo.len() - at) as f64) as u64),
        })?;
    }
    let unread: Vec<&Outcome> = outcomes.iter().filter(|o| o.output == UNREAD).collect();
    if let Some(first) = unread.first() {
        let message = format!(
            "the judge `{}` gave no verdict on {}, which count for nobody; the first: {}",
            judge.name,
            counted(unread.len(), "pair"),
            first.error.as_deref().unwrap_or("no reason")
        );
        reporter.event(EventBody::Warning { message })?;
    }
    Ok(Judged { outcomes, stopped })
}

const IDENTICAL: &str = "identical";
const UNREAD: &str = "unread";

fn blank(row: &RunRow) -> Outcome {
    Outcome {
        row: row.id.clone(),
        row_hash: row.hash.clone(),
        part: row.part,
        stratum: row.stratum.clone(),
        ..Outcome::default()
    }
}

fn preferred(outcome: &Outcome, order: usize) -> Option<Preferred> {
    match outcome.judged.get(order)?.verdict.as_deref()? {
        "first" => Some(Preferred::First),
        "second" => Some(Preferred::Second),
        _ => Some(Preferred::Neither),
    }
}

/// What an outcome says in a word.
fn word(outcome: &Outcome) -> &'static str {
    match (preferred(outcome, 0), preferred(outcome, 1)) {
        (None, _) | (_, None) => UNREAD,
        (Some(Preferred::First), Some(Preferred::Second)) => "a",
        (Some(Preferred::Second), Some(Preferred::First)) => "b",
        _ => "tie",
    }
}

/// The result over all that is judged so far.
fn summary(settings: &PairSettings, pairs: &[AnswerPair], outcomes: &[Outcome]) -> Pairwise {
    let lengths: HashMap<&str, (usize, usize)> = pairs
        .iter()
        .map(|pair| (pair.row.as_str(), (pair.a.trim().chars().count(), pair.b.trim().chars().count())))
        .collect();
    let all: Vec<Pair<'_>> = outcomes
        .iter()
        .map(|outcome| Pair {
            stratum: outcome.stratum.as_deref(),
            identical: outcome.output == IDENTICAL,
            a_first: preferred(outcome, 0),
            b_first: preferred(outcome, 1),
            lengths: lengths.get(outcome.row.as_str()).copied().unwrap_or_default(),
        })
        .collect();
    let mut effort = Effort::default();
    outcomes.iter().flat_map(|outcome| &outcome.judged).for_each(|judged| effort.add(&judged.effort));
    Pairwise {
        judge: settings.judge.name.clone(),
        candidates: settings.candidates.clone(),
        left_out: settings.left_out,
        usd: settings.judge.usd(effort.tokens_in, effort.tokens_out),
        effort,
        ..pairwise(&all)
    }
}

/// The figures of the run's record.
fn flat(found: &Pairwise) -> std::collections::BTreeMap<String, f64> {
    let counts = [
        ("n", found.n),
        ("wins", found.wins),
        ("losses", found.losses),
        ("ties", found.ties),
        ("identical", found.identical),
        ("swayed", found.swayed),
        ("unread", found.unread),
    ];
    let shares = [("win_rate", found.won), ("position_bias", found.position), ("longer_won", found.longer)];
    counts
        .into_iter()
        .map(|(name, n)| (name.to_owned(), n as f64))
        .chain(shares.into_iter().filter_map(|(name, share)| Some((name.to_owned(), share.value()?))))
        .chain([("p_value".to_owned(), found.p_value)])
        .chain(found.length_correlation.map(|rho| ("length_correlation".to_owned(), rho)))
        .chain(figures(&found.effort, found.usd))
        .collect()
}
