//! Prompts tried by hand: the texts as they stand in their files, on a slice of rows, beside the version before.
//!
//! The playground's resident worker answers, so that no model is loaded anew for a saved file. Every version is kept in
//! `prompts/hand.json`, every answer in `prompts/trials.jsonl`: what was answered once is not asked again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::rows::{self, Loaded, cut};
use super::state::{Engine, bad_input, failed};
use super::versions::{self, hand, keep_hand, text_of};
use super::{candidates, launch, play, prompts};
use crate::domain::api::Failure;
use crate::domain::candidate::Candidate;
use crate::domain::diff::{self, Change};
use crate::domain::keys::Keys;
use crate::domain::outcome::{FlipKind, Outcome};
use crate::domain::play::PlayInput;
use crate::domain::prompt::{PromptHistory, PromptSettings, PromptVersion, Score};
use crate::domain::row::{Part, RunRow};
use crate::domain::run::RunKind;
use crate::domain::settings::EvalSettings;
use crate::domain::versions::{HAND, Slice, TRIAL_ROWS, TRIAL_ROWS_MAX, Trial, TriedRow};
use crate::domain::words::counted;
use crate::pipeline::Answered;
use crate::score::scorer::Scorer;
use crate::store::lines::{self, Appender};
use crate::tuning::evaluate;
use crate::tuning::prompt as tuning;

/// Characters of an answer in a trial.
const ANSWER_TEXT: usize = 120;
/// Rows of a trial that are told with their texts.
const ROWS_TOLD: usize = 200;
/// Of the bootstrap, where scores are no 0 and 1.
const SEED: u64 = 7;

type Texts = BTreeMap<String, String>;

/// An answer of a trial.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Hash of the version's texts.
    key: String,
    /// The candidate's id: the same texts may be another model's.
    candidate: String,
    outcome: Outcome,
}

fn file(engine: &Engine) -> PathBuf {
    engine.state_dir.join("prompts").join("trials.jsonl")
}

fn all_lines(engine: &Engine) -> Vec<Line> {
    lines::read_all::<Line>(&file(engine)).map(|(lines, _)| lines).unwrap_or_default()
}

/// What a version said, by row; the newest answer of each.
pub fn answers(engine: &Engine, version: &str) -> HashMap<String, String> {
    let of_version = all_lines(engine).into_iter().filter(|line| line.key == version);
    of_version.map(|line| (line.outcome.row.clone(), line.outcome.output)).collect()
}

/// Try the prompts as they stand in their files.
pub fn attempt(engine: &Arc<Engine>, slice: &Slice, keys: &Keys) -> Result<Trial, Failure> {
    let _one = engine.trying.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let loaded = rows::loaded(engine)?;
    let now = candidates::resolve(engine, &loaded.ws, &loaded.dataset, None)?;
    let eval = &loaded.ws.config.eval;
    tuning::check(&PromptSettings::default(), eval, &now)
        .map_err(|(key, message)| bad_input(loaded.ws.problem(&key, message).to_string()))?;
    let keys = launch::check_keys(
        RunKind::Eval,
        &now,
        &EvalSettings { judges: Vec::new(), ..eval.clone() },
        None,
        keys,
    )?;
    let (texts, _) = versions::in_files(engine);
    if texts.is_empty() {
        return Err(bad_input(
            "no stage has a prompt file to try; write prompt = \"prompts/NAME.md\" into its table of workspace.toml and make the file",
        ));
    }
    let mut history = hand(engine)?;
    let at = note(engine, &mut history, &texts)?;
    let before = before(engine, &history, at);
    let known_answers = all_lines(engine);
    let (ids, left_out) = rows_of(engine, &loaded, slice, before.as_ref(), &known_answers, eval)?;
    let rows: Vec<RunRow> = ids
        .into_iter()
        .map(|id| play::row(engine, &loaded, PlayInput::Row { id }))
        .collect::<Result<_, _>>()?;

    let then = before.as_ref().map(|version| with_texts(&now, &version.prompts));
    let mut bench = Bench::new(engine, &now, &rows, eval, known_answers)?;
    let after = bench.ask(&history.versions[at].hash, &now, &rows, &keys)?;
    let earlier = match (&before, &then) {
        (Some(version), Some(then)) => Some(bench.ask(&version.hash, then, &rows, &keys)?),
        _ => None,
    };
    // A worker that answers nothing has judged no version.
    if !after.is_empty()
        && let Some(error) = after.iter().map(|o| o.error.clone()).collect::<Option<Vec<_>>>()
    {
        return Err(failed(format!(
            "no row could be answered: {}",
            error.first().cloned().unwrap_or_default()
        )));
    }
    let trial = told(&loaded, &bench, slice, &after, earlier.as_deref());
    summarize(&mut history, at, before.as_ref(), &bench, &now, then.as_ref());
    history.metric.clone_from(&eval.primary);
    keep_hand(engine, &history)?;
    engine.update(|_| ());
    Ok(Trial {
        version: history.versions[at].id.clone(),
        before: before.map(|version| version.id),
        left_out,
        asked: bench.asked,
        ms: began.elapsed().as_millis() as u64,
        ..trial
    })
}

/// The prompts in the files are a version from now on, also before anybody tries them: what comes next is compared with it.
pub fn note_files(engine: &Engine) -> Result<(), Failure> {
    let _one = engine.trying.lock().unwrap_or_else(PoisonError::into_inner);
    let (texts, _) = versions::in_files(engine);
    if texts.is_empty() {
        return Ok(());
    }
    let mut history = hand(engine)?;
    note(engine, &mut history, &texts)?;
    keep_hand(engine, &history)
}

/// The place of the texts' version, made where there is none. It is the head from now on.
fn note(engine: &Engine, history: &mut PromptHistory, texts: &Texts) -> Result<usize, Failure> {
    let hash = tuning::hash(texts);
    let head = history.head.clone();
    let at = match history.versions.iter().position(|version| version.hash == hash) {
        Some(at) => at,
        None => {
            for text in texts.values() {
                candidates::keep_prompt(engine, blake3::hash(text.as_bytes()).to_hex().as_str(), text)?;
            }
            let parent = head.as_ref().and_then(|id| history.versions.iter().find(|v| v.id == *id));
            let same = versions::same_texts(engine, texts);
            let (parents, edit) = match (same, parent) {
                // It was taken over from a run.
                (Some(address), _) => (vec![address.clone()], format!("as {address}")),
                (None, Some(parent)) => (vec![parent.id.clone()], edit_words(&parent.prompts, texts)),
                (None, None) => (Vec::new(), "as it stood".to_owned()),
            };
            let id = format!("v{}", history.versions.len());
            let prompts = texts.clone();
            let proposer = HAND.to_owned();
            history.versions.push(PromptVersion {
                id,
                hash,
                parents,
                proposer,
                edit,
                prompts,
                ..PromptVersion::default()
            });
            history.versions.len() - 1
        }
    };
    history.format = 1;
    let id = history.versions[at].id.clone();
    if head.as_ref() != Some(&id) {
        history.before.clone_from(&history.head);
        history.head = Some(id);
    }
    Ok(at)
}

/// What the files held before they held this version: what it is compared with.
fn before(engine: &Engine, history: &PromptHistory, at: usize) -> Option<PromptVersion> {
    let version = history.versions.get(at)?;
    let before = history.before.as_ref().filter(|id| **id != version.id);
    let before = before.and_then(|id| history.versions.iter().find(|v| v.id == *id)).cloned();
    before.or_else(|| {
        let parent = version.parents.first()?;
        if parent.contains(':') {
            versions::find(engine, Some(parent)).ok()?.parent
        } else {
            history.versions.iter().find(|v| v.id == *parent).cloned()
        }
    })
}

/// `+5 -2 words`
fn edit_words(before: &Texts, after: &Texts) -> String {
    let (mut added, mut removed) = (0, 0);
    let mut changed = Vec::new();
    for (stage, text) in after {
        let was = before.get(stage).map_or("", String::as_str);
        if was != text {
            changed.push(stage.as_str());
        }
        for (change, piece) in diff::words(was, text) {
            let words = piece.split_whitespace().count();
            match change {
                Change::Added => added += words,
                Change::Removed => removed += words,
                Change::Kept => {}
            }
        }
    }
    let stages = if after.len() > 1 { format!("{}: ", changed.join(", ")) } else { String::new() };
    format!("{stages}+{added} -{removed} words")
}

fn with_texts(candidate: &Candidate, texts: &Texts) -> Candidate {
    let mut candidate = candidate.clone();
    for stage in &mut candidate.stages {
        if let Some(text) = texts.get(&stage.name) {
            stage.prompt.clone_from(text);
        }
    }
    candidate
}

/// Ids of the slice's rows, of dev first, spread over the strata; and how many of eval and the reserve were left out.
fn rows_of(
    engine: &Engine,
    loaded: &Loaded,
    slice: &Slice,
    before: Option<&PromptVersion>,
    known: &[Line],
    eval: &crate::domain::settings::EvalSettings,
) -> Result<(Vec<String>, usize), Failure> {
    let wanted = if slice.rows == 0 { TRIAL_ROWS } else { slice.rows };
    if wanted > TRIAL_ROWS_MAX {
        return Err(bad_input(format!("{wanted} rows; at most {TRIAL_ROWS_MAX} are tried at once")));
    }
    if loaded.parts.iter().all(Option::is_none) {
        return Err(bad_input(
            "the rows have no parts yet, so that rows to try on cannot be told from those of eval; build the strata first (`tunebench strata build`)",
        ));
    }
    let stratum = match (&slice.stratum, &loaded.strata) {
        (None, _) => None,
        (Some(name), None) => {
            return Err(bad_input(format!("stratum `{name}`: no strata were built yet")));
        }
        (Some(name), Some(strata)) => {
            let by_name = || {
                (0..loaded.dataset.len())
                    .filter_map(|at| loaded.stratum(at))
                    .find(|at| strata.name(*at).as_deref() == Some(name))
            };
            let at = strata.find(name).or_else(by_name);
            Some(at.ok_or_else(|| bad_input(format!("no stratum is called `{name}`")))?)
        }
    };
    let primary = eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let wrong: BTreeSet<&str> = known
        .iter()
        .filter(|line| before.is_some_and(|version| version.hash == line.key))
        .filter(|line| tuning::score(&line.outcome, &primary) < 1.0)
        .map(|line| line.outcome.row.as_str())
        .collect();
    let marked: Option<BTreeSet<String>> = slice.mark.as_ref().map(|mark| {
        let has = |marks: &BTreeSet<String>| marks.iter().any(|m| m.eq_ignore_ascii_case(mark));
        engine
            .read(|s| s.decisions.marks.iter().filter(|(_, m)| has(m)).map(|(row, _)| row.clone()).collect())
    });
    let mut left_out = 0;
    let mut groups: BTreeMap<(u8, Option<u32>), Vec<([u8; 32], usize)>> = BTreeMap::new();
    for at in 0..loaded.dataset.len() {
        let id = loaded.dataset.id(at);
        let of = loaded.stratum(at);
        let in_slice = stratum.is_none_or(|wanted| of == Some(wanted))
            && marked.as_ref().is_none_or(|marked| marked.contains(id))
            && (!slice.failing || wrong.contains(id));
        if !in_slice {
            continue;
        }
        let order = match loaded.parts.get(at).copied().flatten() {
            Some(Part::Dev) => 0,
            Some(Part::Train) => 1,
            Some(Part::Eval | Part::Reserve) => {
                left_out += 1;
                continue;
            }
            None => continue,
        };
        let place = *blake3::hash(id.as_bytes()).as_bytes();
        groups.entry((order, of)).or_default().push((place, at));
    }
    // Dev rows before those of train; within a part a stratum's first row before anyone's second.
    let mut ordered: Vec<(u8, usize, [u8; 32], usize)> = Vec::new();
    for ((order, _), mut group) in groups {
        group.sort_unstable();
        ordered.extend(group.into_iter().enumerate().map(|(i, (place, at))| (order, i, place, at)));
    }
    ordered.sort_unstable();
    // Rows are read from their file: no more of them than are wanted.
    let has_gold = |at: usize| {
        engine.read(|s| s.decisions.gold.contains_key(loaded.dataset.id(at))) || loaded.text(at).1.is_some()
    };
    let ids: Vec<String> = ordered
        .into_iter()
        .map(|(.., at)| at)
        .filter(|at| has_gold(*at))
        .take(wanted)
        .map(|at| loaded.dataset.id(at).to_owned())
        .collect();
    if ids.is_empty() {
        let why = match (slice.failing, left_out) {
            (true, _) => {
                "no row is known on which the version before was wrong; try it on some rows first".to_owned()
            }
            (_, 0) => "the slice has no row with gold in dev or train".to_owned(),
            (_, n) => format!(
                "all of {} of the slice belong to eval or the reserve, which choose nothing",
                counted(n, "row")
            ),
        };
        return Err(bad_input(why));
    }
    Ok((ids, left_out))
}

/// Who answers and scores, and what was answered.
struct Bench<'a> {
    engine: &'a Arc<Engine>,
    scorer: Scorer,
    primary: crate::score::metric::Metric,
    /// By candidate's id and row.
    known: HashMap<(String, String), Outcome>,
    asked: usize,
}

impl<'a> Bench<'a> {
    fn new(
        engine: &'a Arc<Engine>,
        candidate: &Candidate,
        rows: &[RunRow],
        eval: &crate::domain::settings::EvalSettings,
        lines: Vec<Line>,
    ) -> Result<Self, Failure> {
        let golds: Vec<String> = rows
            .iter()
            .flat_map(|row| {
                let own = candidate.stages.iter().filter_map(|s| s.own_gold(&row.fields));
                own.chain(row.gold.clone()).collect::<Vec<_>>()
            })
            .collect();
        let scorer = Scorer::new(eval, &candidate.stages, golds.iter().map(String::as_str))
            .map_err(|e| bad_input(format!("{e:#}")))?;
        let primary = eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
        let known = lines.into_iter().map(|l| ((l.candidate, l.outcome.row.clone()), l.outcome)).collect();
        Ok(Self { engine, scorer, primary, known, asked: 0 })
    }

    fn score(&self, outcome: &Outcome) -> f64 {
        tuning::score(outcome, &self.primary)
    }

    /// The candidate's outcomes on the rows, in their order; what is known is not asked.
    fn ask(
        &mut self,
        version: &str,
        candidate: &Candidate,
        rows: &[RunRow],
        keys: &Keys,
    ) -> Result<Vec<Outcome>, Failure> {
        let id = candidate.id();
        let place = |row: &RunRow| (id.clone(), row.id.clone());
        let open: Vec<&RunRow> = rows
            .iter()
            .filter(|row| self.known.get(&place(row)).is_none_or(|o| o.row_hash != row.hash))
            .collect();
        let kind = candidate.stages.last().map(|stage| stage.output).unwrap_or_default();
        let answered = play::ask_all(self.engine, candidate, &open, keys);
        let io = |e: std::io::Error| failed(format!("{}: {e}", file(self.engine).display()));
        let mut appender = if open.is_empty() {
            None
        } else {
            std::fs::create_dir_all(self.engine.state_dir.join("prompts")).map_err(io)?;
            Some(Appender::open(&file(self.engine)).map_err(io)?.0)
        };
        for (row, answer) in open.into_iter().zip(answered) {
            let answered = match answer {
                Ok((stages, output)) => Answered { output, kind, stages, ..Answered::default() },
                Err(error) => Answered { kind, error: Some(error), ..Answered::default() },
            };
            let outcome = evaluate::outcome(&self.scorer, (row, 0), answered, None);
            self.asked += 1;
            // What failed may go well the next time.
            if outcome.error.is_none()
                && let Some(appender) = &mut appender
            {
                let line = Line { key: version.to_owned(), candidate: id.clone(), outcome: outcome.clone() };
                appender.append(&line).map_err(io)?;
            }
            self.known.insert(place(row), outcome);
        }
        Ok(rows.iter().filter_map(|row| self.known.get(&place(row)).cloned()).collect())
    }
}

/// The trial in rows and figures.
fn told(
    loaded: &Loaded,
    bench: &Bench<'_>,
    slice: &Slice,
    after: &[Outcome],
    before: Option<&[Outcome]>,
) -> Trial {
    let mean = |outcomes: &[Outcome]| Score {
        mean: outcomes.iter().map(|o| bench.score(o)).sum::<f64>() / outcomes.len().max(1) as f64,
        n: outcomes.len(),
    };
    let tokens = |outcomes: &[Outcome]| {
        outcomes.iter().map(|o| o.tokens_in() as f64).sum::<f64>() / outcomes.len().max(1) as f64
    };
    let mut rows: Vec<TriedRow> = after
        .iter()
        .enumerate()
        .map(|(i, outcome)| {
            let was = before.and_then(|before| before.get(i));
            let (own, then) = (bench.score(outcome), was.map(|o| bench.score(o)));
            let flip = match then {
                Some(then) if own > then => Some(FlipKind::Fixed),
                Some(then) if own < then => Some(FlipKind::Regressed),
                Some(_) if own < 1.0 && was.is_some_and(|o| o.output != outcome.output) => {
                    Some(FlipKind::Churned)
                }
                _ => None,
            };
            let (input, gold) = text_of(loaded, &outcome.row);
            TriedRow {
                id: outcome.row.clone(),
                input,
                gold: outcome.gold.clone().or(gold),
                before: was.map(|o| cut(&o.output, ANSWER_TEXT).into_owned()),
                after: cut(outcome.error.as_ref().unwrap_or(&outcome.output), ANSWER_TEXT).into_owned(),
                flip,
                right: Some(own >= 1.0),
            }
        })
        .collect();
    let order = |row: &TriedRow| match (row.flip, row.right) {
        (Some(FlipKind::Regressed), _) => 0,
        (Some(FlipKind::Fixed), _) => 1,
        (Some(FlipKind::Churned), _) => 2,
        (None, Some(false)) => 3,
        (None, _) => 4,
    };
    rows.sort_by_key(order);
    rows.truncate(ROWS_TOLD.max(rows.iter().filter(|row| row.flip.is_some()).count()));
    let pairs = before.map(|before| -> Vec<(f64, f64)> {
        before.iter().zip(after).map(|(then, now)| (bench.score(then), bench.score(now))).collect()
    });
    let errors: Vec<&String> = after.iter().filter_map(|o| o.error.as_ref()).collect();
    Trial {
        slice: slice.clone(),
        score: mean(after),
        before_score: before.map(mean),
        ci95: pairs.filter(|pairs| !pairs.is_empty()).map(|pairs| tuning::compared(&pairs, SEED).1),
        rows,
        failed: errors.len(),
        error: errors.first().map(|e| (*e).clone()),
        tokens: tokens(after),
        before_tokens: before.map(tokens),
        ..Trial::default()
    }
}

/// What the version did on all rows that it was tried on.
fn summarize(
    history: &mut PromptHistory,
    at: usize,
    before: Option<&PromptVersion>,
    bench: &Bench<'_>,
    now: &Candidate,
    then: Option<&Candidate>,
) {
    let (id, then) = (now.id(), then.map(Candidate::id));
    let mean = |of: &str| {
        let own = bench.known.iter().filter(|((candidate, _), _)| candidate == of);
        let scores: Vec<f64> = own.map(|(_, outcome)| bench.score(outcome)).collect();
        let n = scores.len();
        (n > 0).then(|| Score { mean: scores.iter().sum::<f64>() / n as f64, n })
    };
    // The one before was asked on new rows as well.
    if let (Some(before), Some(then)) = (before, &then)
        && let Some(known) = history.versions.iter_mut().find(|v| v.proposer == HAND && v.hash == before.hash)
    {
        known.selected = mean(then);
    }
    let Some(version) = history.versions.get_mut(at) else { return };
    let mut own: Vec<&Outcome> =
        bench.known.iter().filter(|((of, _), _)| *of == id).map(|(_, outcome)| outcome).collect();
    own.sort_by(|a, b| a.row.cmp(&b.row));
    version.selected = mean(&id);
    // Its rows are told against its parent.
    let of_parent = before.is_some_and(|before| version.parents.first() == Some(&before.id));
    let Some(then) = then.filter(|_| of_parent) else { return };
    (version.fixed, version.broken) = (Vec::new(), Vec::new());
    for outcome in own {
        let Some(was) = bench.known.get(&(then.clone(), outcome.row.clone())) else { continue };
        let (own, was) = (bench.score(outcome), bench.score(was));
        if own > was {
            version.fixed.push(outcome.row.clone());
        } else if own < was {
            version.broken.push(outcome.row.clone());
        }
    }
}

/// Whether a decision changed prompt files.
pub fn after_adoption(engine: &Engine, decision: &crate::domain::api::Decision) {
    if prompts::adopts(decision)
        && let Err(failure) = note_files(engine)
    {
        tracing::warn!("the version that was taken over is not noted: {}", failure.message);
    }
}
