//! The engine's answers, each by what it was asked for.

use super::{App, Link, Mood, Purpose, Screen};
use crate::domain::api::{Request, Response, RowQuery, STRATUM_GONE};
use crate::domain::event::EventBody;
use crate::domain::run::{RunAction, RunKind};
use crate::domain::scaling::Scaling;
use crate::domain::words::noun;
use crate::tui::layers::Layer;
use crate::tui::screens::strata::Pane;
use crate::tui::widgets::number;

impl App {
    pub(super) fn answer(&mut self, tag: u64, purpose: Purpose, response: Response) {
        if let Response::Error { error } = response {
            if let Purpose::Play(id, _) = purpose {
                if let Some(answer) = self.answer_to(id) {
                    answer.fail(error.message);
                }
                return;
            }
            if matches!(purpose, Purpose::Say(_)) {
                self.play.unsaid();
            }
            if let Purpose::JudgeSay(_) = &purpose {
                self.judging_answered(&purpose, Response::Error { error: error.clone() });
            }
            if let Purpose::Complete(_) = &purpose {
                return self.completing_failed(tag);
            }
            match purpose {
                Purpose::Count { query, by } => return self.counts_arrived(&query, &by, Err(error.message)),
                Purpose::Map(by, layout) => return self.map_arrived(&by, layout, Err(error.message)),
                Purpose::Export { query, file, .. } => return self.export_failed(*query, file, &error),
                Purpose::ExportExamples { store, file } => {
                    return self.export_examples_failed(store, file, &error);
                }
                Purpose::ExportProgress(_) | Purpose::ReadingProgress => return,
                // None has been drawn yet: the form says what it is.
                Purpose::Scaling => return,
                _ => {}
            }
            if let Purpose::ReviewSay(_) = &purpose {
                self.reviewing_answered(&purpose, Response::Error { error: error.clone() });
            }
            self.strata.request_failed(tag);
            if matches!(purpose, Purpose::TryPrompts) {
                self.trial_failed();
            }
            if let Purpose::SearchExamples(input) = &purpose {
                return self.trajectories.attempt.found(input, Err(error.message));
            }
            if matches!(purpose, Purpose::Examples(..) | Purpose::Trajectory(_)) {
                self.trajectories.request_failed(tag, &error.message);
                return;
            }
            if matches!(purpose, Purpose::Compare(..)) {
                self.board.asked = None;
            }
            if let Purpose::Trace { of, row } = &purpose {
                return self.trace_arrived(of, row, Err(error.message));
            }
            if let Purpose::Remedies { row, candidate } = &purpose {
                return self.remedies_arrived(row, candidate.as_deref(), Err(error.message));
            }
            if let Purpose::Preview(row) = &purpose {
                return self.preview_arrived(row, Err(error.message));
            }
            if let Purpose::Grown { run, filter } = &purpose {
                return self.grown_arrived(tag, (run, filter), Err(error.message));
            }
            if let Purpose::GrownText { at, .. } = purpose {
                return self.grown_text_arrived(tag, at, None);
            }
            if let Purpose::Problems(kind) = purpose {
                return self.problems_arrived(tag, kind, Err(error.message));
            }
            if let Purpose::Detail(candidate) = &purpose {
                return self.detail_arrived(candidate, Err(error.message));
            }
            if let Purpose::Rows(query) = &purpose
                && (query.stratum.is_some() || query.group.is_some())
                && error.message.starts_with(STRATUM_GONE)
            {
                return self.strata.stratum_gone(query);
            }
            self.could_not(&purpose, &error.message);
            return;
        }
        match (purpose, response) {
            (purpose @ (Purpose::JudgeQueue | Purpose::JudgeSay(_) | Purpose::Agreement), response) => {
                self.judging_answered(&purpose, response);
            }
            (
                purpose @ (Purpose::ReviewQueue | Purpose::ReviewSay(_) | Purpose::ReviewAgreement),
                response,
            ) => self.reviewing_answered(&purpose, response),
            (Purpose::Scaling, Response::Scaling { scaling }) => self.scaled = told(&scaling),
            (Purpose::Rows(query), Response::Rows { page }) => self.strata.rows_arrived(tag, &query, page),
            (Purpose::Row(_), Response::Row { row }) => self.strata.row_arrived(tag, row),
            (Purpose::Complete(filter), Response::Completion { completion }) => {
                self.completion_arrived(tag, &filter, completion);
            }
            (Purpose::Count { query, by }, Response::Counts { counts }) => {
                self.counts_arrived(&query, &by, Ok(counts));
            }
            (Purpose::Map(by, layout), Response::Map { map }) => self.map_arrived(&by, layout, Ok(map)),
            (Purpose::Views, Response::Views { views }) => self.views_arrived(views),
            (Purpose::Export { .. }, Response::Done { message }) => self.notice(Mood::Good, message),
            (Purpose::ReadingProgress, Response::Progress { done, total }) => {
                self.looked = (100 * done).checked_div(total);
            }
            (Purpose::ExportProgress(file), Response::Progress { done, total }) => {
                self.export_progress(&file, (done, total));
            }
            (Purpose::Examples(_, query), Response::Examples { page }) => {
                self.trajectories.arrived(tag, &query, page);
            }
            (Purpose::Trajectory(_), Response::Trajectory { view }) => {
                self.trajectories.view_arrived(tag, *view);
            }
            (Purpose::SearchExamples(input), Response::FoundExamples { found }) => {
                self.trajectories.attempt.found(&input, Ok(found));
            }
            (purpose @ (Purpose::ExportExamples { .. } | Purpose::ImportExamples(_)), response) => {
                self.examples_answered(purpose, response);
            }
            (Purpose::Sample, Response::Sample { sample }) => {
                let words = format!(
                    "a sample ({}) of {} {}",
                    sample.mode,
                    number::count(sample.total),
                    noun(sample.total, "row")
                );
                if !sample.done.is_empty() {
                    self.notice(Mood::Good, sample.done.join("; "));
                }
                self.show_rows(words, sample.rows.into_iter().map(|row| row.id).collect());
            }
            (Purpose::Status, Response::Status { status }) => {
                if let Some(Layer::Form(form)) = self.layers.last_mut() {
                    form.stands(&status.tuning);
                }
                if matches!(self.link, Link::Up { .. }) {
                    self.link = Link::Up { status };
                }
            }
            (Purpose::Launch(kind), Response::Launched { run }) => {
                let curve = matches!(kind, RunKind::Train | RunKind::LrRange);
                if curve {
                    self.show_training(run.clone());
                }
                let where_ = match kind {
                    _ if curve => "",
                    RunKind::Prompt => {
                        self.show_prompts(run.clone());
                        ""
                    }
                    RunKind::Grow => {
                        self.open_grown(Some(run.clone()));
                        ""
                    }
                    RunKind::Trajectory => {
                        self.trajectories.shown = None;
                        "; 3 shows it"
                    }
                    _ => "; 7 shows it",
                };
                self.notice(Mood::Good, format!("{run} is on its way{where_}"));
            }
            (Purpose::Launch(_), Response::LaunchedAll { runs }) => {
                let words = format!("{} {} on their way", runs.len(), noun(runs.len(), "evaluation"));
                self.notice(Mood::Good, words);
            }
            (Purpose::PromptTree, Response::PromptTree { tree }) => self.tree_arrived(tree),
            (Purpose::PromptVersion(of), Response::PromptVersion { found }) => {
                self.version_arrived(&of, *found);
            }
            (Purpose::TryPrompts, Response::Tried { trial }) => self.tried(*trial),
            (Purpose::Fork(_), Response::Done { message }) => {
                self.prompts.stale();
                self.notice(Mood::Good, message);
                self.act_prompts(crate::tui::keymap::Action::EditPrompt);
            }
            (Purpose::Sweep, Response::Swept { group, runs }) => {
                let words = format!("{group}: {} {} on their way", runs.len(), noun(runs.len(), "run"));
                if let Some(first) = runs.into_iter().next() {
                    self.show_training(first);
                }
                self.notice(Mood::Good, words);
            }
            (Purpose::DropHopeless(_), Response::Done { message }) => self.notice(Mood::Plain, message),
            (Purpose::Control(run, action), _) => {
                let words = match action {
                    RunAction::Pause => "will pause after this step",
                    RunAction::Resume => "goes on",
                    RunAction::Checkpoint => "will write a checkpoint after this step",
                    RunAction::Stop => "will finish with a checkpoint",
                    RunAction::Cancel => "will end",
                };
                self.notice(Mood::Plain, format!("{run} {words}"));
            }
            (Purpose::Steer(_), Response::Done { message }) => self.notice(Mood::Good, message),
            (Purpose::Compare(a, b), Response::Compare { comparison }) => {
                self.board.comparison_arrived(&a, &b, comparison);
            }
            (Purpose::Timeline(run), Response::Timeline { timeline }) => {
                self.board.timeline = Some((run, timeline));
            }
            (Purpose::Remedies { row, candidate }, Response::Remedies { remedies }) => {
                self.remedies_arrived(&row, candidate.as_deref(), Ok(remedies));
            }
            (Purpose::Preview(row), Response::Preview { preview }) => {
                self.preview_arrived(&row, Ok(*preview));
            }
            (Purpose::Grown { run, filter }, Response::Grown { page }) => {
                self.grown_arrived(tag, (&run, &filter), Ok(page));
            }
            (Purpose::GrownText { at, .. }, Response::Grown { page }) => {
                self.grown_text_arrived(tag, at, Some(page));
            }
            (Purpose::Problems(kind), Response::Problems { problems }) => {
                self.problems_arrived(tag, kind, Ok(problems));
            }
            (Purpose::Detail(candidate), Response::Detail { detail }) => {
                self.detail_arrived(&candidate, Ok(detail));
            }
            (Purpose::Power, Response::Power { power }) => self.power = power.lines(),
            (Purpose::Trace { of, row }, Response::Trace { run, trace }) => {
                self.trace_arrived(&of, &row, Ok((run, trace)));
            }
            (Purpose::StepRows { run, step }, Response::Events { events, .. }) => {
                let rows = events.into_iter().find_map(|e| match e.body {
                    EventBody::Step { step: s, rows, losses, .. } if s == step => Some((rows, losses)),
                    _ => None,
                });
                match rows {
                    Some((rows, losses)) if !rows.is_empty() => {
                        let mut with: Vec<(String, Option<f32>)> = rows
                            .into_iter()
                            .enumerate()
                            .map(|(i, row)| (row, losses.get(i).copied()))
                            .collect();
                        // The costliest first: those are behind a spike.
                        with.sort_by(|a, b| b.1.unwrap_or(0.0).total_cmp(&a.1.unwrap_or(0.0)));
                        // With weights a row can be in a step twice.
                        let mut seen = std::collections::BTreeSet::new();
                        with.retain(|(row, _)| seen.insert(row.clone()));
                        let order = if losses.is_empty() { "" } else { " by loss" };
                        self.show_rows(
                            format!("rows of step {step} of {run}{order}"),
                            with.iter().map(|(row, _)| row.clone()).collect(),
                        );
                        self.strata.losses =
                            with.into_iter().filter_map(|(row, loss)| Some((row, loss?))).collect();
                    }
                    _ => self
                        .notice(Mood::Plain, format!("step {step} of {run} does not say which rows it used")),
                }
            }
            (Purpose::Play(id, _), Response::Playing { playing }) => {
                if let Some(answer) = self.answer_to(id) {
                    answer.accepted(playing);
                }
            }
            (Purpose::PlayCancel, Response::Done { .. }) => {}
            (Purpose::Say(id), Response::Done { message }) => {
                self.strata.rows_stale = true;
                self.play.kept(id);
                let new_label = self.play.answer(id).is_some_and(|answer| {
                    !answer.labels.is_empty()
                        && answer.edit.as_ref().is_some_and(|e| !answer.labels.contains(e))
                });
                let message = if message.is_empty() { "noted".into() } else { message };
                let (mood, aside) = if new_label {
                    (Mood::Plain, ", which is none of the labels so far and becomes one")
                } else {
                    (Mood::Good, "")
                };
                self.notice(mood, format!("{message}{aside}; u takes it back"));
            }
            (Purpose::Decide(_), response) => {
                self.strata.rows_stale = true;
                self.refresh_problems();
                self.refresh_grown();
                self.prompts.stale();
                self.trajectories.refresh();
                if let Response::Done { message } = response {
                    self.notice(
                        Mood::Good,
                        if message.is_empty() { "done; u takes it back".into() } else { message },
                    );
                }
            }
            (Purpose::Undo, response) => {
                self.strata.rows_stale = true;
                self.refresh_problems();
                self.refresh_grown();
                self.prompts.stale();
                self.trajectories.refresh();
                let text = if let Response::Done { message } = response { message } else { String::new() };
                if text.contains(crate::domain::play::SAID) {
                    self.play.unsaid();
                }
                self.notice(Mood::Good, if text.is_empty() { "taken back".into() } else { text });
            }
            (Purpose::Import, Response::Import { report }) => {
                self.strata.rows_stale = true;
                let bad = match (report.quarantined_total, report.quarantined.first()) {
                    (0, _) => String::new(),
                    (n, None) => format!(", {} quarantined", number::count(n)),
                    (n, Some(q)) => format!(
                        ", {} quarantined, first {}:{}: {}",
                        number::count(n),
                        q.file,
                        q.line,
                        q.reason
                    ),
                };
                let mood = if report.quarantined_total > 0 { Mood::Bad } else { Mood::Good };
                self.notice(
                    mood,
                    format!(
                        "{} {} ({}) in {:.1}s{bad}",
                        number::count(report.rows),
                        noun(report.rows, "row"),
                        report.format,
                        report.seconds
                    ),
                );
            }
            (Purpose::ImportOutcomes(file), Response::ImportedOutcomes { imported }) => {
                let names: Vec<&str> = imported.candidates.iter().map(|c| c.candidate.as_str()).collect();
                self.notice(
                    Mood::Good,
                    format!(
                        "{file} ({}): {} outcomes, {} of rows known here; on the board: {}",
                        imported.format,
                        number::count(imported.rows),
                        number::count(imported.matched),
                        names.join(", ")
                    ),
                );
            }
            (purpose, _) => self.notice(
                Mood::Bad,
                format!(
                    "could not {}: the engine gave an answer of another kind; are both of one version?",
                    purpose.words()
                ),
            ),
        }
    }

    /// Some rows by their ids, on the strata screen.
    pub(crate) fn show_rows(&mut self, title: String, ids: Vec<String>) {
        self.screen = Screen::Strata;
        self.layers.clear();
        self.strata.pane = Pane::Rows;
        self.strata.show(RowQuery { ids: Some(ids), ..RowQuery::default() }, title);
    }

    /// Asks for what the strata screen shows and does not have.
    pub(super) fn fetch_rows(&mut self) {
        if !self.connected() {
            return;
        }
        let height = crate::tui::screens::strata::rows_height(self.size);
        if let Some(query) = self.strata.wants_rows(height) {
            let tag = self.ask(Purpose::Rows(query.clone()), Request::Rows { query });
            self.strata.rows_tag = tag;
        }
        if let Some(id) = self.strata.wants_row() {
            let tag = self.ask(Purpose::Row(id.clone()), Request::Row { id: id.clone() });
            self.strata.row_asked(tag, id);
        }
    }
}

/// A scaling curve in a few lines.
fn told(scaling: &Scaling) -> Vec<String> {
    let share = |share: f64| format!("{:.1}%", 100.0 * share);
    let points: Vec<String> = scaling
        .points
        .iter()
        .map(|p| format!("{} rows {} wrong", number::count(p.rows), share(p.error)))
        .collect();
    let mut lines = vec![format!("{}: {}", scaling.group, points.join(", ")), scaling.words.clone()];
    if !scaling.missing.is_empty() {
        lines.push(format!("without a result yet: {}", scaling.missing.join(", ")));
    }
    lines
}
