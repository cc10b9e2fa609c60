//! One request, one response. Runs on blocking threads, never on the socket loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::play::{self, Desk};
use super::protocol::FRAME_MAX;
use super::rows::cut;
use super::state::{Engine, bad_input, failed, needs_keys, no_run};
use super::{
    board, candidates, compare, complete, count, examples, export_rows, feedback, freeze, grow, ingest,
    judges, launch, leaks, map, outcomes, pairs, parts, power, preview, problems, prompts, queue, remedies,
    review, rows, sample, scaling, strata, sweep, timeline, trial, versions, views,
};
use crate::domain::api::{Decision, Failure, PICKED_MAX, Request, Response};
use crate::domain::grow::GrownAsk;
use crate::domain::keys::{KEYS_MAX, Keys};
use crate::domain::play::{Feedback, SAID};
use crate::domain::problem::EXCLUDED;
use crate::domain::review::SETTLED;
use crate::domain::row::{Part, RunRow};
use crate::domain::run::{RunAction, RunKind, RunRecord, RunState};
use crate::domain::steer::Change;
use crate::domain::strata::ByHand;
use crate::domain::words::counted;
use crate::store::lines;
use crate::worker::control::{self, Ask};
use crate::worker::folder::{RunFolder, now_ms};

/// How long a worker may take to open its control socket.
const WORKER_PATIENCE: Duration = Duration::from_secs(10);
/// Longest note, gold or name.
const TEXT_MAX: usize = 256 << 10;

pub fn error(error: Failure) -> Response {
    Response::Error { error }
}

/// `desk` is the asking client's.
pub fn answer(engine: &Arc<Engine>, desk: &Arc<Desk>, request: Request) -> Response {
    try_answer(engine, desk, request).unwrap_or_else(error)
}

fn try_answer(engine: &Arc<Engine>, desk: &Arc<Desk>, request: Request) -> Result<Response, Failure> {
    Ok(match request {
        Request::Status => Response::Status { status: engine.status() },
        Request::Import { force } => Response::Import { report: parts::import(engine, force)? },
        Request::Imported => Response::Import { report: parts::imported(engine)? },
        Request::Strata => {
            // Strata that were built only now have not given out their parts yet.
            if strata::latest(engine)?.is_some() {
                freeze::assign_parts(engine)?;
            }
            Response::Strata { view: strata::view(engine)? }
        }
        Request::ByHand { by_hand } => {
            let (decision, message) = strata::decision(engine, &by_hand)?;
            decide(engine, decision)?;
            Response::Done { message }
        }
        Request::Sample { sample: ask } => {
            let (sample, marks) = sample::sample(engine, &ask)?;
            if let Some(marks) = marks {
                decide(engine, marks)?;
            }
            Response::Sample { sample }
        }
        Request::Rows { query } => Response::Rows { page: rows::page(engine, &query)? },
        Request::Row { id } => Response::Row { row: rows::detail(engine, &id)? },
        Request::Complete { filter, at } => {
            Response::Completion { completion: complete::complete(engine, &filter, at)? }
        }
        Request::Count { query, by, limit } => {
            Response::Counts { counts: count::count(engine, &query, &by, limit)? }
        }
        Request::Problems { kind, query } => {
            Response::Problems { problems: problems::problems(engine, kind, &query)? }
        }
        Request::ProblemsProgress => {
            let (done, total) = problems::progress(engine);
            Response::Progress { done, total }
        }
        Request::Preview { row, set } => {
            Response::Preview { preview: Box::new(preview::preview(engine, row.as_deref(), &set)?) }
        }
        Request::Leaks { offset, count } => Response::Leaks { leaks: leaks::leaks(engine, offset, count)? },
        Request::Exclude { query, keep_first, on } => {
            decide(engine, problems::exclude(engine, &query, keep_first, on)?)?
        }
        Request::ExportRows { query, file, force } => {
            Response::Done { message: export_rows::write(engine, &query, &file, force)? }
        }
        Request::ExportProgress { file } => {
            let (done, total) = export_rows::progress(engine, &file);
            Response::Progress { done, total }
        }
        Request::Map { by, layout } => Response::Map { map: map::map(engine, &by, layout)? },
        Request::Views => Response::Views { views: engine.read(|s| s.decisions.views.clone()) },
        Request::Launch { kind, set, keys, from } => {
            Response::Launched { run: launch::launch(engine, kind, set, keys, from.as_deref())? }
        }
        Request::LaunchAll { kind, sets, keys } => {
            Response::LaunchedAll { runs: launch::launch_all(engine, kind, sets, &keys)? }
        }
        Request::Sweep { set, axes, drop_hopeless, keys } => {
            let (group, runs) = sweep::launch(engine, &set, &axes, drop_hopeless, &keys)?;
            Response::Swept { group, runs }
        }
        Request::Scaling { group } => {
            Response::Scaling { scaling: Box::new(scaling::scaling(engine, group.as_deref())?) }
        }
        Request::Grown { grown: ask } => {
            let ask = GrownAsk { run: find_run(engine, &ask.run)?, ..ask };
            Response::Grown { page: grow::page(engine, &ask)? }
        }
        Request::AcceptGrown { run, filter, withdraw } => {
            let run = find_run(engine, &run)?;
            let (decision, message) = if withdraw {
                (
                    grow::withdrawal(engine, &run)?,
                    format!("the rows of {run} are out of the data; undo takes that back"),
                )
            } else {
                grow::acceptance(engine, &run, &filter)?
            };
            decide(engine, decision.clone())?;
            grow::write(engine, &decision)?;
            Response::Done { message }
        }
        Request::DropHopeless { group, on } => {
            Response::Done { message: sweep::set_drop(engine, &group, on)? }
        }
        Request::Control { run, action, keys } => {
            Response::Done { message: steer(engine, &find_run(engine, &run)?, action, &keys)? }
        }
        Request::Steer { run, changes } => {
            Response::Done { message: change(engine, &find_run(engine, &run)?, changes)? }
        }
        Request::Runs => {
            let mut runs = engine.read(super::state::State::records);
            let fits = newest_that_fit(&runs);
            Response::Runs { runs: runs.split_off(runs.len() - fits) }
        }
        Request::Run { run } => Response::Run { run: engine.record(&find_run(engine, &run)?)? },
        Request::Events { run, after, limit } => events(engine, &find_run(engine, &run)?, after, limit)?,
        Request::Detail { candidate } => {
            Response::Detail { detail: Box::new(board::detail(engine, &candidate)?) }
        }
        Request::Board => Response::Board { board: board::window(&*board::board(engine)?, 0) },
        Request::Timeline { run } => {
            let run = run.map(|run| find_run(engine, &run)).transpose()?;
            Response::Timeline { timeline: timeline::timeline(engine, run.as_deref())? }
        }
        Request::Remedies { row, candidate } => {
            Response::Remedies { remedies: remedies::remedies(engine, &row, candidate.as_deref())? }
        }
        Request::BoardRows { from } => {
            Response::Board { board: board::window(&*board::board(engine)?, from) }
        }
        Request::Compare { a, b, metric } => {
            Response::Compare { comparison: compare::compare(engine, &a, &b, metric.as_deref())? }
        }
        Request::Power { candidate, difference, part } => {
            Response::Power { power: power::power(engine, candidate.as_deref(), difference, part)? }
        }
        Request::CompareMany { a, others, metric } => {
            Response::Compared { comparisons: compare::many(engine, &a, &others, metric.as_deref())? }
        }
        Request::ImportOutcomes { file, how } => {
            Response::ImportedOutcomes { imported: outcomes::import(engine, &file, &how)? }
        }
        Request::Outcomes => Response::Outcomes { imported: outcomes::list(engine) },
        Request::RemoveOutcomes { candidate } => {
            Response::Done { message: outcomes::remove(engine, &candidate)? }
        }
        Request::Trace { of, row } => {
            // The start of a run's name is enough, but a candidate of that name comes first.
            let known = candidates::find(engine, &of).is_ok();
            let of = if known { of } else { find_run(engine, &of).unwrap_or(of) };
            let (run, trace) = board::trace(engine, &of, &row)?;
            Response::Trace { run, trace }
        }
        Request::Examples { store, id, query } => {
            let page = examples::page(engine, store.as_deref(), id.as_deref(), &query)?;
            Response::Examples { page }
        }
        Request::Trajectory { run } => Response::Trajectory { view: Box::new(examples::view(engine, &run)?) },
        Request::SearchExamples { store, stage, input, shots, keys } => {
            let found = examples::search(engine, store.as_deref(), stage.as_deref(), &input, shots, &keys)?;
            Response::FoundExamples { found }
        }
        Request::ImportExamples { file, name } => {
            Response::Done { message: examples::import(engine, &file, &name)? }
        }
        Request::Decide { decision } => {
            let decision = check(engine, decision)?;
            let response = decide(engine, decision.clone())?;
            prompts::write(engine, &decision)?;
            trial::after_adoption(engine, &decision);
            response
        }
        Request::PromptTree { run } => Response::PromptTree { tree: versions::tree(engine, run.as_deref())? },
        Request::PromptVersion { of } => {
            Response::PromptVersion { found: Box::new(versions::shown(engine, of.as_deref())?) }
        }
        Request::TryPrompts { slice, keys } => {
            Response::Tried { trial: Box::new(trial::attempt(engine, &slice, &keys)?) }
        }
        Request::Prompts => Response::Prompts { kept: engine.read(|s| s.decisions.prompts.clone()) },
        Request::Undo => {
            let undone =
                engine.store.undo(now_ms()).map_err(|e| failed(format!("nothing was undone: {e}")))?;
            match undone {
                None => Response::Done { message: "there is nothing to undo".into() },
                Some((entry, decisions)) => {
                    engine.decided(decisions);
                    let back = entry.inverse.clone().and_then(|inverse| serde_json::from_value(inverse).ok());
                    if let Some(back) = back {
                        prompts::write(engine, &back)?;
                        grow::write(engine, &back)?;
                        trial::after_adoption(engine, &back);
                    }
                    Response::Done { message: format!("took back: {}", describe(&entry)) }
                }
            }
        }
        Request::JudgeAgreement { judge } => {
            Response::Agreement { agreement: judges::agreement(engine, judge.as_deref())? }
        }
        Request::Pairwise { run } => {
            Response::Pairwise { pairwise: Box::new(pairs::result(engine, &find_run(engine, &run)?)?) }
        }
        Request::JudgeQueue { judge, annotator, per, disagreement } => {
            let asked = queue::Asked { judge, annotator, per, disagreement };
            Response::Queue { queue: queue::queue(engine, &asked)? }
        }
        Request::JudgeSay { judge, annotator, item, verdict } => {
            let decision = queue::verdict(engine, judge.as_deref(), annotator, &item, &verdict)?;
            decide(engine, decision)?
        }
        Request::ReviewQueue { review: asked } => {
            Response::ReviewQueue { queue: review::queue(engine, &asked)? }
        }
        Request::ReviewSay { annotator, row, opinion, settle } => {
            decide(engine, review::say(engine, annotator.as_deref(), &row, opinion, settle)?)?
        }
        Request::ReviewAgreement => {
            Response::ReviewAgreement { agreement: Box::new(review::agreement(engine)?) }
        }
        Request::Play { question, keys } => {
            Response::Playing { playing: play::ask(engine, desk, question, keys)? }
        }
        Request::PlayCancel { id } => Response::Done { message: play::cancel(desk, id) },
        Request::Repair => {
            let message = engine.repair().map_err(|e| failed(format!("{e:#}")))?;
            Response::Done { message }
        }
        Request::Leave => {
            return Err(bad_input("leaving is asked for by a frame of its own"));
        }
    })
}

/// Write a decision down that was checked.
fn decide(engine: &Engine, decision: Decision) -> Result<Response, Failure> {
    let message = noted(&decision);
    let decisions = engine
        .store
        .decide(now_ms(), decision)
        .map_err(|e| failed(format!("the decision could not be written down: {e}")))?;
    engine.decided(decisions);
    Ok(Response::Done { message })
}

/// A run by its id, or by the start of it where only one begins so.
fn find_run(engine: &Engine, name: &str) -> Result<String, Failure> {
    engine.read(|state| {
        if state.runs.contains_key(name) {
            return Ok(name.to_owned());
        }
        let mut like = state.runs.keys().filter(|id| !name.is_empty() && id.starts_with(name));
        match (like.next(), like.next()) {
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => {
                Err(bad_input(format!("several runs begin with `{name}`; write more of it")))
            }
            (None, _) => Err(no_run(name)),
        }
    })
}

/// What a person asks of a run.
fn steer(engine: &Engine, run: &str, action: RunAction, keys: &Keys) -> Result<String, Failure> {
    let (record, folder, active) = engine
        .read(|s| s.runs.get(run).map(|r| (r.record.clone(), r.folder.clone(), r.active)))
        .ok_or_else(|| no_run(run))?;
    let state = record.state;
    match action {
        RunAction::Resume if state.is_final() => {
            if !record.resumable {
                return Err(bad_input(format!("{run} is {state} and cannot be resumed")));
            }
            // Told now: the worker could only fail on it.
            if folder.spec().exists()
                && let Err(error) = folder.read_spec()
            {
                return Err(bad_input(format!(
                    "{run} cannot be resumed: {error:#}; put the file back from a copy, or start it again with `tunebench run {}`",
                    record.kind
                )));
            }
            wait_for_end(engine, run);
            give_keys(engine, run, keys)?;
            if engine.set_run_state(run, RunState::Queued, Some("resumed".into()))? {
                Ok(format!("{run} is queued again"))
            } else {
                Err(failed(format!("the worker of {run} has not ended yet; try again in a moment")))
            }
        }
        RunAction::Resume if state == RunState::Paused => ask_worker(&folder, &record, action),
        RunAction::Resume if lacks_keys(engine, run) => {
            give_keys(engine, run, keys)?;
            Ok(format!("{run} has its keys and is queued"))
        }
        RunAction::Resume => Err(bad_input(format!("{run} is {state}, not paused"))),
        _ if state.is_final() => Err(bad_input(format!("{run} is {state} already"))),
        RunAction::Cancel | RunAction::Stop if !active && state == RunState::Queued => {
            if engine.set_run_state(run, RunState::Cancelled, None)? {
                Ok(format!("{run} is cancelled"))
            } else {
                ask_worker(&folder, &record, action)
            }
        }
        RunAction::Checkpoint if record.kind.is_resident() => {
            Err(bad_input(format!("{run} has nothing to checkpoint: it answers and learns nothing")))
        }
        RunAction::Pause if record.kind == RunKind::Playground => {
            Err(bad_input(format!("{run} cannot be paused; it can be stopped")))
        }
        _ if !active => Err(bad_input(format!("{run} is {state}: it has no worker yet"))),
        _ => ask_worker(&folder, &record, action),
    }
}

/// It waits for keys, since the engine that had them is gone.
fn lacks_keys(engine: &Engine, run: &str) -> bool {
    engine.read(|s| s.runs.get(run).is_some_and(|r| !s.missing_keys(r).is_empty()))
}

/// Takes of the keys those that the run's models need; refuses where some are missing.
fn give_keys(engine: &Engine, run: &str, keys: &Keys) -> Result<(), Failure> {
    let needs = engine.read(|s| s.runs.get(run).map(|r| r.needs_keys.clone())).unwrap_or_default();
    let missing = keys.missing(&needs);
    if !missing.is_empty() {
        return Err(needs_keys(run, missing));
    }
    if needs.is_empty() {
        return Ok(());
    }
    let keys = keys.only(&needs);
    if keys.bytes() > KEYS_MAX {
        return Err(bad_input(format!("the keys are longer than {} KiB", KEYS_MAX >> 10)));
    }
    engine.update(|state| {
        let version = state.version;
        state.keys.insert(run.to_owned(), keys);
        if let Some(run) = state.runs.get_mut(run).filter(|r| r.record.state == RunState::Queued) {
            (run.record.message, run.record.resumable, run.version) = (None, false, version);
        }
    });
    Ok(())
}

/// A run that said its last word still has a worker for a moment.
fn wait_for_end(engine: &Engine, run: &str) {
    let deadline = Instant::now() + WORKER_PATIENCE;
    while Instant::now() < deadline && engine.read(|s| s.runs.get(run).is_some_and(|r| r.active)) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ask_worker(folder: &RunFolder, record: &RunRecord, action: RunAction) -> Result<String, Failure> {
    let run = &record.run;
    tell_worker(folder, run, &action.into())?;
    let said = match action {
        RunAction::Pause if record.kind.is_resident() => "will refuse requests",
        RunAction::Stop if record.kind.is_resident() => "ends with the answers that are under way",
        RunAction::Pause => "will pause at its next step",
        RunAction::Resume => "goes on",
        RunAction::Checkpoint => "will write a checkpoint",
        RunAction::Stop => "will finish with a checkpoint",
        RunAction::Cancel => "is being cancelled",
    };
    Ok(format!("{run} {said}"))
}

/// Change a training run from its next step on, or a prompt run from its next round on.
fn change(engine: &Engine, run: &str, changes: Vec<Change>) -> Result<String, Failure> {
    let (record, folder, active) = engine
        .read(|s| s.runs.get(run).map(|r| (r.record.clone(), r.folder.clone(), r.active)))
        .ok_or_else(|| no_run(run))?;
    let of_prompts = match record.kind {
        RunKind::Prompt | RunKind::Trajectory => true,
        RunKind::Train => false,
        kind => {
            return Err(bad_input(format!(
                "{run} is a run of kind {kind}; only training, prompt and trajectory runs can be steered"
            )));
        }
    };
    let budget = |change: &&Change| matches!(change, Change::Budget(_));
    if record.kind == RunKind::Trajectory
        && let Some(other) = changes.iter().find(|change| !budget(change))
    {
        return Err(bad_input(format!(
            "`{other}`: of a trajectory run the budget can be changed, such as budget.calls=8000"
        )));
    }
    if let Some(other) = changes.iter().find(|change| change.is_of_prompts() != of_prompts) {
        let whose = if of_prompts { "a training" } else { "a prompt run" };
        return Err(bad_input(format!(
            "`{other}` is a change of {whose}, and {run} is a {} run",
            record.kind
        )));
    }
    if record.state.is_final() {
        return Err(bad_input(format!(
            "{run} is {} already; {} can go on with other settings",
            record.state,
            if of_prompts { "a new run" } else { "a branch" }
        )));
    }
    if changes.is_empty() {
        return Err(bad_input(
            "nothing to change; write learning_rate=1e-4, learning_rate=x0.3 or weight:STRATUM=2 for a training, hint=TEXT, pin=WORDS, kill=v7, budget.calls=8000 or lesson:v7=TEXT for a prompt run",
        ));
    }
    for change in &changes {
        if let Change::Weight { stratum, .. } = change {
            known_stratum(&folder, run, stratum)?;
        }
    }
    if !active {
        return Err(bad_input(format!("{run} is {}: it has no worker yet", record.state)));
    }
    let words: Vec<String> = changes.iter().map(ToString::to_string).collect();
    tell_worker(&folder, run, &Ask::Steer { steer: changes })?;
    let next = if of_prompts { "round" } else { "step" };
    Ok(format!("{run} takes {} from its next {next} on", words.join(" and ")))
}

/// The stratum is one of those that the run's training rows had at its launch.
fn known_stratum(folder: &RunFolder, run: &str, stratum: &str) -> Result<(), Failure> {
    let (rows, _) = lines::read_all::<RunRow>(&folder.rows()).map_err(|e| failed(format!("{run}: {e}")))?;
    let known: std::collections::BTreeSet<String> =
        rows.into_iter().filter(|r| r.part == Some(Part::Train)).filter_map(|r| r.stratum).collect();
    if known.contains(stratum) {
        return Ok(());
    }
    let there = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(bad_input(format!("no training row of {run} is of stratum `{stratum}`; its strata: {there}")))
}

fn tell_worker(folder: &RunFolder, run: &str, ask: &Ask) -> Result<(), Failure> {
    let deadline = Instant::now() + WORKER_PATIENCE;
    loop {
        let asked = folder.control().and_then(|path| control::ask(&path, ask));
        match asked {
            Ok(()) => return Ok(()),
            // Its worker is starting; or it is ending, and then the run's state will say so.
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) && Instant::now() < deadline =>
            {
                if folder.read_state().is_some_and(|s| s.state.is_final()) {
                    return Err(bad_input(format!("{run} has just ended")));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(failed(format!("the worker of {run} cannot be asked: {e}"))),
        }
    }
}

fn events(engine: &Engine, run: &str, after: u64, limit: usize) -> Result<Response, Failure> {
    let (folder, from) = engine
        .read(|s| {
            let r = s.runs.get(run)?;
            let from = r.pages.range(..=after).next_back().map_or(0, |(_, offset)| *offset);
            Some((r.folder.clone(), from))
        })
        .ok_or_else(|| no_run(run))?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (events, offset, more) = ingest::events_after(&folder, from, after, limit, FRAME_MAX / 2)
        .map_err(|e| failed(format!("{run}: its events cannot be read: {e}")))?;
    // So that the next page is found at once.
    if let Some(last) = events.last() {
        engine.remember_page(run, last.seq, offset);
    }
    Ok(Response::Events { run: run.to_owned(), events, more })
}

/// How many of the newest records fit a frame with room to spare.
pub fn newest_that_fit(records: &[RunRecord]) -> usize {
    let mut room = FRAME_MAX / 2;
    let mut fits = 0;
    for record in records.iter().rev() {
        let size = serde_json::to_vec(record).map_or(usize::MAX, |b| b.len() + 1);
        if size > room {
            break;
        }
        room -= size;
        fits += 1;
    }
    fits
}

/// Refuse what makes no sense before it is written down for good.
fn check(engine: &Engine, decision: Decision) -> Result<Decision, Failure> {
    let texts: Vec<&String> = match &decision {
        Decision::Mark { row, mark, .. } => vec![row, mark],
        Decision::Gold { row, gold } => [Some(row), gold.as_ref()].into_iter().flatten().collect(),
        Decision::Note { row, note } => [Some(row), note.as_ref()].into_iter().flatten().collect(),
        Decision::NameStratum { stratum, name } => {
            [Some(stratum), name.as_ref()].into_iter().flatten().collect()
        }
        Decision::NameCandidate { candidate, name } => vec![candidate, name],
        Decision::Strata { .. } => return Err(bad_input("strata are arranged by requests of their own")),
        Decision::Grown { .. } => {
            return Err(bad_input("rows that a run made are accepted by a request of their own"));
        }
        // Made here, with the outcomes.
        Decision::Outcomes { .. } => {
            return Err(bad_input("outcomes are imported and removed by requests of their own"));
        }
        Decision::Feedback(f) => {
            [f.row.as_ref(), Some(&f.input), Some(&f.candidate), Some(&f.output), f.edit.as_ref()]
                .into_iter()
                .flatten()
                .collect()
        }
        Decision::AdoptPrompts { files } => files.iter().flat_map(|f| [&f.stage, &f.file, &f.hash]).collect(),
        Decision::TagPrompt { version, tag } => [Some(version), tag.as_ref()].into_iter().flatten().collect(),
        Decision::Review(_) => return Err(bad_input("an opinion on a row is given by a review")),
        Decision::Verdict(_) => return Err(bad_input("a verdict is given on an item of a queue")),
        Decision::Example { store, example, edit } => {
            let texts = [edit.input.as_ref(), edit.answer.as_ref()].into_iter().flatten();
            texts.chain([store, example]).chain(&edit.merges).collect()
        }
        Decision::View { name, view: Some(view) } => {
            let ids = view.query.ids.iter().flatten();
            ids.chain([name, &view.scope, &view.query.text]).collect()
        }
        Decision::View { name, view: None } => vec![name],
        Decision::Together { decisions } => return Ok(Decision::Together { decisions: several(decisions)? }),
    };
    if texts.iter().any(|t| t.len() > TEXT_MAX) {
        return Err(bad_input(format!("at most {} KiB of text are kept", TEXT_MAX >> 10)));
    }
    match decision {
        Decision::View { name, view } => views::decision(engine, &name, view),
        Decision::Mark { ref mark, .. } if mark.trim().is_empty() => Err(bad_input("a mark needs a name")),
        Decision::NameCandidate { candidate, name } => {
            let id = candidates::find(engine, &candidate)?.id;
            let name = candidates::slug(&name);
            if name.is_empty() {
                return Err(bad_input("a candidate's name is made of letters, digits, `-`, `_` and `.`"));
            }
            if candidates::known(engine).iter().any(|k| k.candidate.name == name && k.id != id) {
                return Err(bad_input(format!("another candidate is called `{name}`")));
            }
            Ok(Decision::NameCandidate { candidate: id, name })
        }
        Decision::NameStratum { stratum, name } => {
            let ask = ByHand::Rename { id: stratum, name: name.unwrap_or_default() };
            strata::decision(engine, &ask).map(|(decision, _)| decision)
        }
        Decision::Feedback(said) => feedback::decision(engine, said),
        Decision::AdoptPrompts { files } => prompts::adoption(engine, files),
        Decision::Example { store, example, edit } => examples::decision(engine, &store, &example, edit),
        decision => Ok(decision),
    }
}

/// The same decision on several rows; the others are asked for one by one.
fn several(decisions: &[Decision]) -> Result<Vec<Decision>, Failure> {
    if decisions.is_empty() || decisions.len() > PICKED_MAX {
        let n = decisions.len();
        return Err(bad_input(format!("one decision is made on 1 to {PICKED_MAX} rows, and these are {n}")));
    }
    let fits = |text: &String| text.len() <= TEXT_MAX / 64;
    for decision in decisions {
        let well = match decision {
            Decision::Mark { row, mark, .. } => fits(row) && fits(mark) && !mark.trim().is_empty(),
            Decision::Gold { row, gold } => fits(row) && gold.as_ref().is_none_or(fits),
            _ => return Err(bad_input("only marks and golds are given to several rows at once")),
        };
        if !well {
            return Err(bad_input(format!(
                "marks and golds of several rows have a name and at most {} KiB",
                (TEXT_MAX >> 10) / 64
            )));
        }
    }
    Ok(decisions.to_vec())
}

/// Several decisions on rows in words; none where they are something else.
fn on_rows(decisions: &[Decision]) -> Option<String> {
    let all = |is: fn(&Decision) -> bool| decisions.iter().all(is);
    match decisions.first()? {
        Decision::Mark { mark, on, .. } if all(|d| matches!(d, Decision::Mark { .. })) => {
            let on = if *on { "on" } else { "off" };
            Some(format!("mark `{}` {on} {}", crate::data::clean_line(mark), counted(decisions.len(), "row")))
        }
        Decision::Gold { .. } if all(|d| matches!(d, Decision::Gold { .. })) => {
            Some(format!("gold of {}", counted(decisions.len(), "row")))
        }
        _ => None,
    }
}

/// What became of a decision.
fn noted(decision: &Decision) -> String {
    if let Decision::AdoptPrompts { files } = decision {
        let names: Vec<&str> = files.iter().map(|f| f.file.as_str()).collect();
        return format!("{} written; `tunebench prompts undo` takes it back", names.join(", "));
    }
    if let Decision::Verdict(said) = decision {
        let verdict = said.verdict.as_deref().unwrap_or("nothing");
        return format!("noted: {} says {verdict} of {}", said.annotator, said.item());
    }
    if let Decision::Mark { row, mark, on } = decision
        && mark == EXCLUDED
    {
        let what = if *on { "is left out of learning and scoring" } else { "counts again" };
        return format!("row {row} {what}");
    }
    if let Decision::View { name, view } = decision {
        let what = if view.is_some() { "kept" } else { "deleted" };
        return format!("the view {name} is {what}; undo takes that back");
    }
    let Decision::Together { decisions } = decision else { return "noted".into() };
    if let Some(Decision::Review(said)) = decisions.first() {
        let word = said.opinion.as_ref().map_or("nothing", |opinion| opinion.word());
        let who = if said.annotator == SETTLED { "settled" } else { said.annotator.as_str() };
        return format!("noted: row {}, {who}: {}", said.row, cut(word, 80));
    }
    if let Some((n, on)) = excluded(decisions) {
        let what = if on { "left out of learning and scoring" } else { "taken in again" };
        return format!("{} {what}; undo takes it back", counted(n, "row"));
    }
    if let Some(words) = on_rows(decisions) {
        return format!("noted: {words}; undo takes it back as one");
    }
    match decisions.as_slice() {
        [Decision::Feedback(said), Decision::Gold { row, .. }] if said.row.is_none() => {
            format!("noted: {row} is a row to train on from the next run on")
        }
        [Decision::Feedback(_), Decision::Gold { row, .. }] => format!("noted: the gold of row {row}"),
        _ => "noted".into(),
    }
}

/// How many rows were left out, or taken in again, where that is all that was decided.
fn excluded(decisions: &[Decision]) -> Option<(usize, bool)> {
    let mark = |d: &Decision| match d {
        Decision::Mark { mark, on, .. } if mark == EXCLUDED => Some(*on),
        _ => None,
    };
    let all: Vec<bool> = decisions.iter().filter_map(mark).collect();
    let on = *all.first()?;
    (all.len() == decisions.len() && all.iter().all(|one| *one == on)).then_some((all.len(), on))
}

/// Which answer: on the screen may be another by now.
fn said_of(said: &Feedback) -> String {
    let input = cut(said.input.lines().next().unwrap_or_default(), 40);
    format!("{SAID} to \"{}\"", crate::data::clean_line(&input))
}

fn describe(entry: &crate::store::journal::Entry) -> String {
    match entry.effect() {
        Some(Decision::Verdict(said)) => format!("verdict of {} on {}", said.annotator, said.item()),
        Some(Decision::Feedback(said)) => said_of(&said),
        Some(Decision::Review(said)) => format!("review of row {}", said.row),
        Some(Decision::Together { decisions }) if matches!(decisions.first(), Some(Decision::Review(_))) => {
            match decisions.first() {
                Some(Decision::Review(said)) => format!("review of row {}", said.row),
                _ => "a review".to_owned(),
            }
        }
        Some(Decision::Together { decisions })
            if matches!(decisions.first(), Some(Decision::Strata { .. })) =>
        {
            format!("names of {}", counted(decisions.len(), "cluster"))
        }
        Some(Decision::Together { decisions }) if excluded(&decisions).is_some() => {
            format!("what was left out or taken in ({})", counted(decisions.len(), "row"))
        }
        Some(Decision::Together { decisions }) if on_rows(&decisions).is_some() => {
            on_rows(&decisions).unwrap_or_default()
        }
        Some(Decision::Together { decisions }) => decisions
            .iter()
            .find_map(|d| if let Decision::Feedback(said) = d { Some(said_of(said)) } else { None })
            .unwrap_or_else(|| SAID.to_owned()),
        Some(Decision::Mark { row, mark, on }) => {
            format!("mark `{mark}` {} row {row}", if on { "on" } else { "off" })
        }
        Some(Decision::Gold { row, .. }) => format!("gold of row {row}"),
        Some(Decision::Example { store, example, .. }) => {
            format!("what was decided on example {example} of {store}")
        }
        Some(Decision::Note { row, .. }) => format!("note on row {row}"),
        Some(Decision::View { name, .. }) => format!("the view {name}"),
        Some(Decision::NameStratum { stratum, .. }) => format!("name of stratum {stratum}"),
        Some(Decision::Strata { act: Some(act), .. }) => act.words(),
        Some(Decision::Strata { number, act: None }) => {
            format!("taking back decision {number} on the strata")
        }
        Some(Decision::AdoptPrompts { files }) => {
            let names: Vec<&str> = files.iter().map(|f| f.file.as_str()).collect();
            format!("the adoption of {}", names.join(", "))
        }
        Some(Decision::TagPrompt { version, .. }) => format!("tag of version {}", cut(&version, 12)),
        Some(Decision::NameCandidate { name, .. }) => format!("name of candidate {name}"),
        Some(Decision::Grown { run, accepted: Some(accepted) }) => {
            format!("{} that {run} made, taken into the data", counted(accepted.rows, "row"))
        }
        Some(Decision::Grown { run, accepted: None }) => format!("taking the rows of {run} out of the data"),
        Some(Decision::Outcomes { candidate, import: Some(_) }) => {
            format!("import of the outcomes of {candidate}")
        }
        Some(Decision::Outcomes { candidate, import: None }) => {
            format!("removal of the outcomes of {candidate}")
        }
        None => entry.op.clone(),
    }
}
