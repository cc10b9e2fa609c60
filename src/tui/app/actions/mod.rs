//! An action was asked for, by key or from the palette.

mod layer;
mod submitted;

use super::{App, Effect, Link, Mood, Purpose, Screen};
use crate::domain::api::{Decision, EngineStatus, Request};
use crate::domain::keys::{KeyNeed, Keys};
use crate::domain::leak::{ALLOW, LEAKS};
use crate::domain::run::{RunAction, RunKind, RunRecord};
use crate::domain::words::counted;
use crate::tui::keymap::{Action, Binding, Context};
use crate::tui::layers::complete::Completing;
use crate::tui::layers::form::Form;
use crate::tui::layers::picker::Picker;
use crate::tui::layers::{Confirmed, Layer, TextPurpose};
use crate::tui::screens::train::steer::settings_like;

impl App {
    /// A form whose empty fields show what they take from `workspace.toml`.
    pub(crate) fn launch_form(&mut self, mut form: Form) {
        if let Link::Up { status: EngineStatus { tuning, .. } } = &self.link {
            form.stands(tuning);
        }
        self.layers.push(Layer::Form(form));
        // The file may have changed since.
        self.ask(Purpose::Status, Request::Status);
    }

    /// Does what a key or the palette asked for, where the focus is.
    pub fn act(&mut self, action: Action) {
        // What was merely told has been seen by now.
        if action != Action::Back {
            self.notices.retain(|n| n.mood == Mood::Bad);
        }
        match action {
            Action::Interrupt => return self.outbox.push(Effect::Quit),
            Action::Suspend => return self.outbox.push(Effect::Suspend),
            Action::Redraw => return self.outbox.push(Effect::Redraw),
            _ => {}
        }
        if self.layers.is_empty() {
            if !self.act_global(action) {
                match self.screen {
                    Screen::Strata => self.act_strata(action),
                    Screen::Prompts => self.act_prompts(action),
                    Screen::Trajectories => self.act_trajectories(action),
                    Screen::Train => self.act_train(action),
                    Screen::Board => self.act_board(action),
                    Screen::Play => self.act_play(action),
                    Screen::Runs => self.act_runs(action),
                }
            }
        } else {
            self.act_layer(action);
        }
    }

    fn act_global(&mut self, action: Action) -> bool {
        match action {
            Action::Quit => self.outbox.push(Effect::Quit),
            Action::Help => self.layers.push(Layer::Help { scroll: 0, contexts: self.contexts() }),
            Action::Palette => {
                let palette = Picker::palette(&self.keymap, &self.contexts(), &|b| self.offers(b));
                self.layers.push(Layer::Picker(palette));
            }
            Action::Back => {
                if self.shown_notice().map(|at| self.notices.remove(at)).is_none() {
                    match self.screen {
                        Screen::Strata => self.strata.back(),
                        Screen::Prompts => self.prompts.back(),
                        Screen::Trajectories => self.trajectories.back(),
                        Screen::Train => self.train.back(),
                        Screen::Board => self.board.back(),
                        Screen::Play => self.play.back(),
                        Screen::Runs => self.runs_screen.back(),
                    }
                }
            }
            Action::NextScreen | Action::PreviousScreen => {
                let n = Screen::ALL.len();
                let at = Screen::ALL.iter().position(|(_, _, s)| *s == self.screen).unwrap_or(0);
                let by = if action == Action::NextScreen { 1 } else { n - 1 };
                self.screen = Screen::ALL[(at + by) % n].2;
            }
            Action::ShowStrata => self.screen = Screen::Strata,
            Action::ShowPrompts => self.screen = Screen::Prompts,
            Action::ShowTrajectories => self.screen = Screen::Trajectories,
            Action::ShowTrain => self.screen = Screen::Train,
            Action::ShowBoard => self.screen = Screen::Board,
            Action::ShowPlay => self.screen = Screen::Play,
            Action::ShowRuns => self.screen = Screen::Runs,
            Action::Undo => {
                self.ask(Purpose::Undo, Request::Undo);
            }
            Action::NextTheme => {
                if !self.themes.is_empty() {
                    let at =
                        self.themes.iter().position(|t| t.name == self.look.theme.name).map_or(0, |i| i + 1);
                    self.look.theme = self.themes[at % self.themes.len()].clone();
                    let name = self.look.theme.name.clone();
                    self.notice(
                        Mood::Plain,
                        format!("theme {name}; keep it with `theme = \"{name}\"` in tui.toml"),
                    );
                }
            }
            Action::ImportData => {
                self.ask(Purpose::Import, Request::Import { force: true });
            }
            Action::BuildStrata => self.launch(RunKind::Strata, Vec::new(), None),
            Action::LaunchPrompt => self.prompt_form(),
            Action::LaunchTrain => {
                let like = self.shown_run().and_then(|id| self.run(&id).map(settings_like));
                self.launch_form(Form::train(like.as_deref().unwrap_or_default()));
            }
            Action::LaunchEval => {
                let names = self.candidate_names();
                self.layers.push(Layer::Form(Form::eval(names)));
                self.power.clear();
                self.ask(Purpose::Power, Request::Power { candidate: None, difference: 0.05, part: None });
            }
            Action::Review => self.review_form(),
            Action::Scaling => {
                self.layers.push(Layer::Form(Form::scaling()));
                self.scaled.clear();
                self.ask(Purpose::Scaling, Request::Scaling { group: None });
            }
            Action::Grow => {
                let names = self.candidate_names();
                self.launch_form(Form::grow(names));
            }
            Action::ShowGrown => self.open_grown(None),
            Action::JudgeQueue => self.judge_queue(),
            Action::JudgeChoice => self.judge_form(),
            Action::ImportOutcomes => self.layers.push(Layer::Form(Form::outcomes())),
            _ => return false,
        }
        true
    }

    pub(crate) fn launch(&mut self, kind: RunKind, set: Vec<(String, String)>, from: Option<String>) {
        // The one who holds the connection adds the values of the variables that the workspace names.
        self.ask(Purpose::Launch(kind), Request::Launch { kind, set, keys: Keys::default(), from });
    }

    pub(crate) fn control(&mut self, run: String, action: RunAction) {
        self.ask(
            Purpose::Control(run.clone(), action),
            Request::Control { run, action, keys: Keys::default() },
        );
    }

    /// Asks whether what a run made is to go into the data.
    fn accept_grown(&mut self, run: &RunRecord) {
        let id = &run.run;
        let kept = run.metrics.get("kept").copied().unwrap_or(0.0) as usize;
        if run.kind != RunKind::Grow {
            return self.notice(Mood::Plain, format!("{id} is a run of kind {}: it makes no rows", run.kind));
        }
        if kept == 0 {
            return self
                .notice(Mood::Plain, format!("{id} has no row that holds; its figures say where they fell"));
        }
        let question = format!(
            "Take {} that {id} made and that hold into the data, in the train part? enter on it shows them; undo takes them back.",
            counted(kept, "row")
        );
        self.layers.push(Layer::Confirm {
            question,
            then: Confirmed::AcceptGrown { run: id.clone(), filter: "kept".into(), withdraw: false },
        });
    }

    /// Whether a key makes sense as things stand: what is done to a run depends on where that run stands.
    pub fn offers(&self, binding: &Binding) -> bool {
        let run = match binding.context {
            Context::Prompts => self.prompt_run(),
            Context::Trajectories => self.trajectory_run(),
            Context::Train => self.shown_run(),
            Context::Runs => self.selected_run(),
            Context::Grown => self.grown_run(),
            Context::Problems => {
                return self.lists_problem_rows()
                    || !matches!(binding.action, Action::Exclude | Action::Mark);
            }
            Context::Text => {
                return self.completes().is_some()
                    || !matches!(binding.action, Action::Complete | Action::Up | Action::Down);
            }
            _ => return true,
        };
        let run = run.and_then(|id| self.run(&id));
        match (steering(binding.action), binding.action) {
            (Some(wanted), _) => run.is_some_and(|r| r.accepts(wanted)),
            (None, Action::AcceptGrown) => run.is_some_and(|r| r.kind == RunKind::Grow),
            (None, Action::Steer | Action::KillLane) => {
                let goes_on = |r: &RunRecord| !r.state.is_final() || r.kind == RunKind::Grow && r.resumable;
                run.is_some_and(goes_on)
            }
            (None, _) => true,
        }
    }

    /// Actions on one run, the same on every screen.
    pub(crate) fn act_run(&mut self, run: Option<String>, action: Action) {
        let Some(record) = run.as_ref().and_then(|id| self.run(id)).cloned() else {
            self.notice(Mood::Plain, "there is no run here yet; t starts a training, e an evaluation");
            return;
        };
        use crate::domain::run::RunState as S;
        let accepts = |wanted| record.accepts(wanted);
        let (id, state) = (record.run.clone(), record.state);
        match action {
            Action::Pause if state == S::Paused => self.control(id, RunAction::Resume),
            Action::CancelRun if accepts(RunAction::Cancel) => {
                let question = if record.kind == RunKind::Grow {
                    format!(
                        "Cancel {id}? What it verified stays, and it can be resumed (S stops it with its figures)."
                    )
                } else {
                    format!(
                        "Cancel {id}? What it has learned since its last checkpoint is lost (S would keep it)."
                    )
                };
                self.layers.push(Layer::Confirm { question, then: Confirmed::Cancel(id) });
            }
            Action::AcceptGrown => self.accept_grown(&record),
            _ => match steering(action) {
                Some(wanted) if accepts(wanted) => self.control(id, wanted),
                Some(RunAction::Resume) if state.is_final() => {
                    self.notice(Mood::Plain, format!("{id} is {state} and has nothing to resume from"));
                }
                Some(wanted) => {
                    let words = super::action_name(wanted);
                    self.notice(Mood::Plain, format!("{id} is {state}: there is nothing to {words}"));
                }
                None => {}
            },
        }
    }

    /// A key would go somewhere for the first time.
    pub(super) fn ask_for_trust(&mut self, purpose: Purpose, again: Request, needs: Vec<KeyNeed>) {
        let each = needs.iter().map(|need| {
            let open = if need.is_open() { ", unencrypted" } else { "" };
            format!("the key in {} to {}{open}", need.variable, need.origin)
        });
        let question = format!(
            "This workspace sends {}. Send it, now and whenever it is needed?",
            each.collect::<Vec<_>>().join(" and ")
        );
        self.layers.push(Layer::Confirm {
            question,
            then: Confirmed::Trust { purpose, again: Box::new(again), needs },
        });
    }

    /// A run was refused since it learns from what it is scored on.
    pub(super) fn ask_about_leaks(&mut self, purpose: Purpose, mut again: Request, why: &str) {
        let allow = (LEAKS.to_owned(), ALLOW.to_owned());
        match &mut again {
            Request::Launch { set, .. } | Request::Sweep { set, .. } => set.push(allow),
            Request::LaunchAll { sets, .. } => sets.iter_mut().for_each(|set| set.push(allow.clone())),
            _ => {}
        }
        let first = why.lines().next().unwrap_or_default();
        let question =
            format!("{first}. Its score would flatter. Start it all the same? (1 ! shows the leaks)");
        let then = Confirmed::Launch { purpose, again: Box::new(again) };
        self.layers.push(Layer::Confirm { question, then });
    }

    pub(crate) fn decide(&mut self, words: String, decision: Decision) {
        self.ask(Purpose::Decide(words), Request::Decide { decision });
    }

    pub(crate) fn candidate_names(&self) -> Vec<String> {
        self.board.board.iter().flat_map(|b| b.rows.iter().map(|r| r.candidate.clone())).collect()
    }

    /// Opens a line to type in.
    pub(crate) fn type_line(
        &mut self,
        title: impl Into<String>,
        start: impl Into<String>,
        purpose: TextPurpose,
    ) {
        self.layers.push(Layer::text(title, start, purpose));
        self.completing = Completing::default();
        self.complete();
    }
}

/// What an action asks of a run.
const fn steering(action: Action) -> Option<RunAction> {
    match action {
        Action::Pause => Some(RunAction::Pause),
        Action::Resume => Some(RunAction::Resume),
        Action::Checkpoint => Some(RunAction::Checkpoint),
        Action::StopAndKeep => Some(RunAction::Stop),
        Action::CancelRun => Some(RunAction::Cancel),
        _ => None,
    }
}

/// A place in a list after a moving action.
pub(crate) fn moved(at: usize, action: Action, page: usize, max: usize) -> usize {
    match action {
        Action::Up => at.saturating_sub(1),
        Action::Down => at.saturating_add(1).min(max),
        Action::PageUp => at.saturating_sub(page.max(1)),
        Action::PageDown => at.saturating_add(page.max(1)).min(max),
        Action::First => 0,
        Action::Last => max,
        _ => at,
    }
}
