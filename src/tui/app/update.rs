//! A message comes in: keys to actions, engine's news to state.

use super::{App, Effect, Link, Message, Mood, Notice, Purpose, Screen};
use crate::domain::api::{FromEngine, Push, Response};
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::tui::config::Settings;
use crate::tui::key::Key;

impl App {
    /// The only way the state changes. `now_ms` is the time since the Unix epoch.
    pub fn update(&mut self, message: Message, now_ms: u64) -> Vec<Effect> {
        self.now_ms = now_ms;
        match message {
            Message::Key(key) => self.key(key),
            Message::Paste(text) => {
                if self.layers.is_empty() && self.screen == Screen::Play {
                    self.compose(&text);
                } else if self.layers.last_mut().is_some_and(|layer| layer.paste(&text)) {
                    self.input_changed();
                }
            }
            Message::Resize(width, height) => self.size = (width, height),
            Message::Engine(news) => self.engine(news),
            Message::Settings(settings) => self.settings(settings),
            Message::Edited(Ok(())) => {}
            Message::Edited(Err(why)) => self.notice(Mood::Bad, why),
            Message::Tick => {
                self.follow_export();
                self.follow_reading();
            }
        }
        self.fetch_rows();
        self.fetch_prompts();
        self.fetch_examples();
        self.fetch_grown();
        self.sync_follows();
        std::mem::take(&mut self.outbox)
    }

    fn key(&mut self, key: Key) {
        let contexts = self.contexts();
        if let Some(binding) = self.keymap.find(&contexts, key) {
            self.act(binding.action);
        } else if self.layers.last_mut().is_some_and(|layer| layer.key(key)) {
            self.input_changed();
        }
    }

    fn settings(&mut self, settings: Settings) {
        self.keymap = settings.keymap;
        let name = if self.themes.is_empty() { settings.theme } else { self.look.theme.name.clone() };
        self.themes = settings.themes;
        if let Some(theme) = self.themes.iter().find(|t| t.name == name) {
            self.look.theme = theme.clone();
        }
        // What was wrong in an earlier version of the files is not wrong any more.
        self.notices.retain(|n| !n.text.starts_with(Settings::PROBLEM));
        for problem in settings.problems {
            self.notice(Mood::Bad, format!("{}{problem}", Settings::PROBLEM));
        }
    }

    fn engine(&mut self, news: FromEngine) {
        match news {
            FromEngine::Connected { status } => {
                if matches!(self.link, Link::Lost { .. }) {
                    self.notice(Mood::Good, "connected again");
                }
                for notice in status.notices.iter().take(3) {
                    self.notice(Mood::Plain, notice.clone());
                }
                // Whoever holds the connection follows the same views again.
                self.link = Link::Up { status };
                self.strata.forget_requests();
                self.prompts.forget_requests();
                self.trajectories.forget_requests();
                self.forget_grown();
                self.board.asked = None;
                self.refresh_comparison();
            }
            FromEngine::Lost { reason } => {
                let since_ms = match &self.link {
                    Link::Lost { since_ms, .. } | Link::Connecting { since_ms } => *since_ms,
                    Link::Up { .. } => self.now_ms,
                };
                let lost: Vec<Purpose> =
                    std::mem::take(&mut self.pending).into_values().map(|p| p.purpose).collect();
                for purpose in lost.into_iter().filter(Purpose::changes_things) {
                    let text = format!(
                        "the connection was lost before the engine could say whether it did: {}",
                        purpose.words()
                    );
                    self.notice(Mood::Bad, text);
                }
                self.link = Link::Lost { reason, since_ms };
                self.play.lost();
                self.trajectories.attempt.lost();
                self.strata.forget_requests();
                self.prompts.forget_requests();
                self.trajectories.forget_requests();
                self.forget_grown();
                self.board.asked = None;
            }
            FromEngine::Answer { tag, response } => {
                if let Some(pending) = self.pending.remove(&tag) {
                    match (pending.again, response) {
                        (Some(again), Response::Error { error }) if !error.needs.is_empty() => {
                            self.ask_for_trust(pending.purpose, again, error.needs);
                        }
                        (Some(again), Response::Error { error }) if error.leaks => {
                            self.ask_about_leaks(pending.purpose, again, &error.message);
                        }
                        (_, response) => self.answer(tag, pending.purpose, response),
                    }
                }
            }
            FromEngine::Push { push } => self.push(push),
        }
    }

    fn push(&mut self, push: Push) {
        match push {
            Push::Runs { mut runs } => {
                runs.sort_by(|a, b| b.created_ms.cmp(&a.created_ms).then_with(|| b.run.cmp(&a.run)));
                // News that came while the connection was away are news too.
                if let Some(before) = self.runs.take() {
                    for run in &runs {
                        self.grown_changed(run);
                        let was = before.iter().find(|r| r.run == run.run).map(|r| r.state);
                        self.state_changed(run, was);
                    }
                }
                self.runs = Some(runs);
            }
            Push::RunChanged { run } => {
                self.grown_changed(&run);
                let was = self.run(&run.run).map(|r| r.state);
                self.state_changed(&run, was);
                let runs = self.runs.get_or_insert_default();
                match runs.iter_mut().find(|r| r.run == run.run) {
                    Some(known) => *known = run,
                    None => {
                        let at = runs.partition_point(|r| r.created_ms > run.created_ms);
                        runs.insert(at, run);
                    }
                }
            }
            Push::Events { run, events } => self.series.entry(run).or_default().push(events),
            Push::Play { events } => {
                self.trajectories.attempt.heard(&events, self.now_ms);
                self.play.heard(events, self.now_ms);
            }
            Push::Board { board } => {
                self.board.fill(board);
                self.refresh_comparison();
                // The golden answers and outcomes behind the rows may be others now.
                self.strata.rows_stale = true;
            }
            Push::BoardRows { board } => {
                self.board.merge(board);
                self.refresh_comparison();
                self.strata.rows_stale = true;
            }
            Push::Strata { view } => self.strata.fill(view),
            Push::Files { news } => {
                for news in news {
                    // What was wrong with an earlier version of the file is not wrong any more.
                    let (file, problem) = (news.file.clone(), news.problem);
                    let of_file = format!("{file}:");
                    let unreadable = |n: &Notice| n.failed > 0 && n.text.contains(&file);
                    self.notices.retain(|n| !n.text.starts_with(&of_file) && (problem || !unreadable(n)));
                    self.notice(if news.problem { Mood::Bad } else { Mood::Plain }, news.text);
                    if problem {
                        self.strata.rows_stale = true;
                    } else {
                        self.strata.changed();
                        self.prompt_saved(&file);
                    }
                }
            }
        }
    }

    /// Tells of runs that came to their end.
    fn state_changed(&mut self, run: &RunRecord, was: Option<RunState>) {
        if !run.state.is_final() || was.is_none_or(RunState::is_final) {
            return;
        }
        if run.kind == RunKind::Trajectory {
            self.trajectories.refresh();
        }
        let name = &run.run;
        match run.state {
            // It leaves when nobody asks, and comes again with the next question.
            RunState::Done | RunState::Stopped if run.kind == RunKind::Playground => {}
            RunState::Done | RunState::Stopped => {
                let result = match crate::tui::screens::train::steer::suggestion(run) {
                    Some(words) => format!(" and {words}"),
                    None => self.result_words(run),
                };
                let next = match (run.kind, &run.candidate) {
                    (RunKind::Train, Some(candidate)) => {
                        // Nobody's own comparison is taken away, and nobody's focus is moved.
                        let (pane, own) = (self.board.pane, self.board.a.is_some());
                        if self.screen != Screen::Board || !own {
                            self.compare_with_baseline(candidate);
                        }
                        if self.screen == Screen::Board {
                            self.board.pane = pane;
                        }
                        "; 5 shows what it fixed and broke"
                    }
                    (RunKind::Eval, _) => "; 5 shows the board",
                    (RunKind::LrRange, _) => "; 4 shows its curve",
                    (RunKind::Prompt, _) => "; 2 shows its versions",
                    (RunKind::Trajectory, _) => "; 3 shows its examples",
                    (RunKind::Strata, _) => "; 1 shows the strata",
                    (RunKind::Grow, _) => "; = on screen 1 shows what fell where, and takes the rest in",
                    _ => "",
                };
                self.notice(Mood::Good, format!("{name} is {}{result}{next}", run.state));
            }
            RunState::Cancelled => self.notice(Mood::Plain, format!("{name} is cancelled")),
            _ => {
                let why = run.message.as_deref().unwrap_or("it left no last words");
                let next =
                    if run.resumable { "; it can be resumed on screen 7" } else { "; screen 7 has its log" };
                self.notice(Mood::Bad, format!("{name} {}: {why}{next}", run.state));
            }
        }
    }

    /// `: accuracy .908`
    fn result_words(&self, run: &RunRecord) -> String {
        if run.kind == RunKind::Grow {
            let of = |name: &str| run.metrics.get(name).copied().unwrap_or(0.0);
            return format!(": {} of {} kept", of("kept"), of("made"));
        }
        let primary = self.board.board.as_ref().map(|b| b.primary.clone()).unwrap_or_default();
        run.metrics
            .get(&primary)
            .map(|v| format!(": {primary} {}", crate::tui::widgets::number::share(*v, 3)))
            .unwrap_or_default()
    }
}
