//! One request, one response. Runs on blocking threads, never on the socket loop.

use std::sync::Arc;

use super::play::{self, Desk};
use super::protocol::FRAME_MAX;
use super::state::{Engine, bad_input, failed, no_run};
use super::{
    board, candidates, compare, complete, count, decisions, examples, export_rows, freeze, grow, ingest,
    judges, launch, leaks, map, outcomes, pairs, parts, power, preview, problems, prompts, queue, remedies,
    review, rows, sample, scaling, steer, strata, sweep, timeline, trial, versions,
};
use crate::domain::api::{Failure, Request, Response};
use crate::domain::grow::GrownAsk;
use crate::domain::run::RunRecord;
use crate::worker::folder::now_ms;

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
            decisions::decide(engine, decision)?;
            Response::Done { message }
        }
        Request::Sample { sample: ask } => {
            let (sample, marks) = sample::sample(engine, &ask)?;
            if let Some(marks) = marks {
                decisions::decide(engine, marks)?;
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
        Request::ReadingProgress => {
            let (done, total) = match problems::progress(engine) {
                (_, 0) => crate::data::making(),
                looking => looking,
            };
            Response::Progress { done, total }
        }
        Request::Preview { row, set } => {
            Response::Preview { preview: Box::new(preview::preview(engine, row.as_deref(), &set)?) }
        }
        Request::Leaks { offset, count } => Response::Leaks { leaks: leaks::leaks(engine, offset, count)? },
        Request::Exclude { query, keep_first, on } => {
            decisions::decide(engine, problems::exclude(engine, &query, keep_first, on)?)?
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
            Response::Grown { page: grow::texts::page(engine, &ask)? }
        }
        Request::AcceptGrown { run, filter, withdraw } => {
            let run = find_run(engine, &run)?;
            let message = grow::taken::accept(engine, &run, &filter, withdraw)?;
            Response::Done { message }
        }
        Request::DropHopeless { group, on } => {
            Response::Done { message: sweep::set_drop(engine, &group, on)? }
        }
        Request::Control { run, action, keys } => {
            Response::Done { message: steer::steer(engine, &find_run(engine, &run)?, action, &keys)? }
        }
        Request::Steer { run, changes } => {
            Response::Done { message: steer::change(engine, &find_run(engine, &run)?, &changes)? }
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
        Request::ExportExamples { store, file, force } => {
            let (store, examples) = examples::export(engine, store.as_deref(), &file, force)?;
            Response::ExportedExamples { store, examples, file }
        }
        Request::ImportExamples { file, name } => {
            Response::Done { message: examples::import(engine, &file, &name)? }
        }
        Request::Decide { decision } => {
            let decision = decisions::check(engine, decision)?;
            let response = decisions::decide(engine, decision.clone())?;
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
            let _one = engine.accepting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let pending = grow::taken::Pending::before_undo(engine)?;
            let undone =
                engine.store.undo(now_ms()).map_err(|e| failed(format!("nothing was undone: {e}")))?;
            match undone {
                None => {
                    pending.end();
                    Response::Done { message: "there is nothing to undo".into() }
                }
                Some((entry, decisions)) => {
                    engine.decided(decisions);
                    let back = entry.inverse.clone().and_then(|inverse| serde_json::from_value(inverse).ok());
                    if let Some(back) = back {
                        prompts::write(engine, &back)?;
                        grow::taken::write(engine, &back)?;
                        trial::after_adoption(engine, &back);
                    }
                    pending.end();
                    Response::Done { message: format!("took back: {}", decisions::describe(&entry)) }
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
            decisions::decide(engine, decision)?
        }
        Request::ReviewQueue { review: asked } => {
            Response::ReviewQueue { queue: review::queue(engine, &asked)? }
        }
        Request::ReviewSay { annotator, row, opinion, settle } => {
            decisions::decide(engine, review::say(engine, annotator.as_deref(), &row, opinion, settle)?)?
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
