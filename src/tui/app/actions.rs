//! An action was asked for, by key or from the palette.

use super::{App, Effect, Link, Mood, Purpose, Screen};
use crate::domain::api::{Decision, EngineStatus, Failure, Request, Response, ToEngine};
use crate::domain::imported::ImportAs;
use crate::domain::keys::{KeyNeed, Keys};
use crate::domain::leak::{ALLOW, LEAKS};
use crate::domain::run::{RunAction, RunKind, RunRecord};
use crate::domain::sample::{SEED, SampleAsk, Wanted};
use crate::domain::strata::ByHand;
use crate::domain::sweep;
use crate::domain::words::counted;
use crate::tui::keymap::{Action, Binding, Context};
use crate::tui::layers::complete::Completing;
use crate::tui::layers::form::{Form, FormPurpose, is_list};
use crate::tui::layers::picker::{Choice, Picker};
use crate::tui::layers::{Confirmed, Layer, TextPurpose};
use crate::tui::screens::play::{Who, why};
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
            "Take {} that {id} made and that hold into the data, in the train part? `tunebench data grown {id}` lists them; undo takes them back.",
            counted(kept, "row")
        );
        self.layers.push(Layer::Confirm { question, then: Confirmed::AcceptGrown(id.clone()) });
    }

    /// Whether a key makes sense as things stand: what is done to a run depends on where that run stands.
    pub fn offers(&self, binding: &Binding) -> bool {
        let run = match binding.context {
            Context::Prompts => self.prompt_run(),
            Context::Trajectories => self.trajectory_run(),
            Context::Train => self.shown_run(),
            Context::Runs => self.selected_run(),
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
            (None, Action::Steer | Action::KillLane) => run.is_some_and(|r| !r.state.is_final()),
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
                let question = format!(
                    "Cancel {id}? What it has learned since its last checkpoint is lost (S would keep it)."
                );
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

    fn act_layer(&mut self, action: Action) {
        let height = usize::from(self.size.1.saturating_sub(6).max(1));
        let flips = self.board.flips().len();
        if let Some(Layer::Why { side, token, scroll }) = self.layers.last().cloned() {
            return self.act_why(action, side, token, scroll, height);
        }
        if matches!(self.layers.last(), Some(Layer::Judging(_))) {
            return self.act_judging(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Map(_))) {
            return self.act_map(action);
        }
        if matches!(self.layers.last(), Some(Layer::Counts(_))) {
            return self.act_counts(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Reviewing(_))) {
            return self.act_reviewing(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Mending(_))) {
            return self.act_mending(action);
        }
        if matches!(self.layers.last(), Some(Layer::Preview(_))) {
            return self.act_preview(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Problems(_))) {
            return self.act_problems(action, height);
        }
        match action {
            Action::Complete => return self.take_completion(),
            Action::Up | Action::Down if self.completes().is_some() => {
                return self.completing.step(action);
            }
            Action::Accept if self.completing_refused() => return,
            _ => {}
        }
        let Some(layer) = self.layers.last_mut() else { return };
        match layer {
            Layer::Help { scroll, .. } | Layer::Difference { scroll, .. } => match action {
                Action::Back => drop(self.layers.pop()),
                _ => *scroll = moved(*scroll, action, height, 500),
            },
            Layer::Trace(view) => match action {
                Action::Back => drop(self.layers.pop()),
                Action::Remedies => {
                    let (row, of) = (view.row.clone(), view.of.get(view.at).cloned());
                    self.open_remedies(row, of);
                }
                Action::NextPane | Action::PreviousPane => self.turn_trace(action == Action::NextPane),
                _ => view.scroll = moved(view.scroll, action, height, 5000),
            },
            Layer::Choice => {
                if action == Action::Back {
                    self.layers.pop();
                }
            }
            Layer::Detail(view) => match action {
                Action::Back => drop(self.layers.pop()),
                _ => view.scroll = moved(view.scroll, action, height, 5000),
            },
            Layer::Board(layer) => {
                let layer = *layer;
                self.act_board_layer(layer, action, height);
            }
            Layer::Flip { scroll } => match action {
                Action::Back => drop(self.layers.pop()),
                Action::Trace => self.trace_flip(),
                Action::Remedies => self.mend_flip(),
                // The arrows walk through the flips, pages scroll within one.
                Action::Up => {
                    *scroll = 0;
                    self.board.flip = self.board.flip.saturating_sub(1);
                }
                Action::Down => {
                    *scroll = 0;
                    self.board.flip = (self.board.flip + 1).min(flips.saturating_sub(1));
                }
                _ => *scroll = moved(*scroll, action, height, 500),
            },
            Layer::Confirm { then, .. } => {
                let then = then.clone();
                self.layers.pop();
                match (then, action == Action::Yes) {
                    (Confirmed::Cancel(run), true) => self.control(run, RunAction::Cancel),
                    (Confirmed::ExcludeCopies(kind), true) => self.exclude_copies(kind),
                    (Confirmed::AcceptGrown(run), true) => {
                        let words = format!("take the rows of {run} into the data");
                        let request = Request::AcceptGrown { run, filter: "kept".into(), withdraw: false };
                        self.ask(Purpose::Decide(words), request);
                    }
                    (Confirmed::Trust { purpose, again, needs }, true) => {
                        self.outbox.push(Effect::Send(ToEngine::Trust { needs }));
                        self.ask(purpose, *again);
                    }
                    (Confirmed::Launch { purpose, again }, true) => drop(self.ask(purpose, *again)),
                    (Confirmed::Launch { .. }, false) => {}
                    (Confirmed::Trust { purpose, .. }, false) => {
                        let error = Failure::new(2, "no key was sent");
                        self.answer(0, purpose, Response::Error { error });
                    }
                    (Confirmed::Replace { query, file }, true) => self.export(query, file, true),
                    (Confirmed::Merge { a, b }, true) => {
                        let words = format!("merge {a} and {b}");
                        self.strata.merging = None;
                        self.ask(Purpose::Decide(words), Request::ByHand { by_hand: ByHand::Merge { a, b } });
                    }
                    (
                        Confirmed::Cancel(_)
                        | Confirmed::ExcludeCopies(_)
                        | Confirmed::AcceptGrown(_)
                        | Confirmed::Merge { .. }
                        | Confirmed::Replace { .. },
                        false,
                    ) => {}
                }
            }
            Layer::Picker(picker) => match action {
                Action::Back => drop(self.layers.pop()),
                Action::Accept => {
                    let choice = picker.chosen();
                    self.layers.pop();
                    if let Some(choice) = choice {
                        self.chosen(choice);
                    }
                }
                _ => picker.go(moved(picker.selected, action, height, usize::MAX)),
            },
            Layer::Text { input, purpose, .. } => match action {
                Action::Accept => {
                    let (text, purpose) = (input.text().trim().to_owned(), purpose.clone());
                    self.layers.pop();
                    self.typed(purpose, text);
                }
                Action::Back => {
                    let purpose = purpose.clone();
                    self.layers.pop();
                    self.gave_up(&purpose);
                }
                _ => {}
            },
            Layer::Compose(compose) => match action {
                Action::Accept => {
                    let (purpose, text) = (compose.purpose.clone(), compose.area.text().to_owned());
                    self.layers.pop();
                    self.composed(purpose, text);
                }
                Action::Newline => compose.area.insert("\n"),
                Action::Back => drop(self.layers.pop()),
                _ => {}
            },
            // Above.
            Layer::Why { .. }
            | Layer::Judging(_)
            | Layer::Mending(_)
            | Layer::Reviewing(_)
            | Layer::Problems(_)
            | Layer::Counts(_)
            | Layer::Map(_)
            | Layer::Preview(_) => {}
            Layer::Form(form) => match action {
                Action::Back => drop(self.layers.pop()),
                Action::FieldNext => form.step(1),
                Action::FieldPrevious => form.step(-1),
                Action::Accept => {
                    if let Some(values) = form.submit() {
                        let purpose = form.purpose.clone();
                        self.layers.pop();
                        self.submitted(purpose, values);
                    }
                }
                _ => {}
            },
        }
    }

    fn act_why(&mut self, action: Action, side: usize, token: Option<usize>, scroll: usize, page: usize) {
        let answer = self.play.sides.get(side).and_then(|side| side.answer.clone());
        let (Some(answer), false) = (answer, action == Action::Back) else {
            self.layers.pop();
            return;
        };
        let last = answer.tokens().count().saturating_sub(1);
        let (to, wanted) = match action {
            Action::NextPane => (token.map(|at| (at + 1).min(last)), None),
            Action::PreviousPane => (token.map(|at| at.saturating_sub(1)), None),
            _ => (token, Some(moved(scroll, action, page, usize::MAX))),
        };
        let scroll = why::scrolled(self, &answer, to, wanted, scroll);
        if let Some(layer) = self.layers.last_mut() {
            *layer = Layer::Why { side, token: to, scroll };
        }
    }

    fn chosen(&mut self, choice: Choice) {
        match choice {
            Choice::Action(context, action) => {
                match context {
                    Context::Strata => self.screen = Screen::Strata,
                    Context::Rows => {
                        self.screen = Screen::Strata;
                        self.strata.pane = crate::tui::screens::strata::Pane::Rows;
                    }
                    Context::Prompts => self.screen = Screen::Prompts,
                    Context::Trajectories => self.screen = Screen::Trajectories,
                    Context::Train => self.screen = Screen::Train,
                    Context::Board | Context::Flips => self.screen = Screen::Board,
                    Context::Play => self.screen = Screen::Play,
                    Context::Runs => self.screen = Screen::Runs,
                    _ => {}
                }
                self.act(action);
            }
            Choice::ShowPrompts(run) => self.show_prompts(run),
            Choice::EditFile(file) => self.edit_file(file),
            Choice::ShowRun(run) => self.show_training(run),
            Choice::Store(name) => self.show_store(name),
            Choice::SortBoard(column) => self.sort_board(column),
            Choice::Overlay(run) => self.train.toggle_overlay(run),
            Choice::Remedy(run, remedy) => self.remedy(run, remedy),
            Choice::Player(side, who) => self.player_chosen(side, who),
            Choice::OtherPlayer(side) => self.other_player(side),
            Choice::View(name, view) => self.show_view(&name, &view),
            Choice::SaveView => self.type_line("name of the view", "", TextPurpose::SaveView),
            Choice::DeleteView(name) => self.delete_view(name),
            Choice::GoldOf(id, gold) => self.edited(id, gold),
        }
    }

    fn submitted(&mut self, purpose: FormPurpose, values: Vec<(String, String)>) {
        match purpose {
            FormPurpose::Launch(RunKind::Train) if values.iter().any(|(key, text)| is_list(key, text)) => {
                let (axes, set): (Vec<_>, Vec<_>) =
                    values.into_iter().partition(|(key, text)| is_list(key, text));
                let axes = axes.into_iter().map(|(key, text)| (key, sweep::values(&text))).collect();
                let keys = Keys::default();
                self.ask(Purpose::Sweep, Request::Sweep { set, axes, drop_hopeless: false, keys });
            }
            FormPurpose::Launch(RunKind::Eval)
                if values.iter().any(|(key, text)| key == "model" && text.contains(',')) =>
            {
                let (models, set): (Vec<_>, Vec<_>) = values.into_iter().partition(|(key, _)| key == "model");
                let models = models.into_iter().flat_map(|(_, list)| sweep::values(&list));
                let with = |model| set.iter().cloned().chain([("model".to_owned(), model)]).collect();
                let sets = models.filter(|model| !model.is_empty()).map(with).collect();
                let keys = Keys::default();
                self.ask(
                    Purpose::Launch(RunKind::Eval),
                    Request::LaunchAll { kind: RunKind::Eval, sets, keys },
                );
            }
            FormPurpose::Launch(kind) => self.launch(kind, values, None),
            FormPurpose::Judging => self.judge_form_sent(&values),
            FormPurpose::Scaling => self.scaling_submitted(values),
            FormPurpose::Review => self.review_form_sent(&values),
            FormPurpose::Sample => {
                let value = |name: &str| values.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
                let wanted = Wanted {
                    mode: value("mode").and_then(|mode| mode.parse().ok()).unwrap_or_default(),
                    n: value("n").and_then(|n| n.parse().ok()).unwrap_or(1),
                    seed: value("seed").and_then(|seed| seed.parse().ok()).unwrap_or(SEED),
                    filter: value("filter").unwrap_or_default().to_owned(),
                    part: None,
                };
                let mark = value("mark").map(str::to_owned);
                self.sample_ask = wanted.clone();
                self.ask(
                    Purpose::Sample,
                    Request::Sample { sample: SampleAsk { wanted, mark, ..SampleAsk::default() } },
                );
            }
            FormPurpose::Play => self.play_settings(&values),
            FormPurpose::SteerPrompt(run) => self.prompt_steer_submitted(run, values),
            FormPurpose::Slice => self.slice_submitted(&values),
            FormPurpose::Steer(run) => self.steer_submitted(run, values),
            FormPurpose::Branch => {
                let (from, set): (Vec<_>, Vec<_>) = values.into_iter().partition(|(key, _)| key == "from");
                self.launch(RunKind::Train, set, from.into_iter().next().map(|(_, from)| from));
            }
            FormPurpose::ImportOutcomes => {
                let value = |name: &str| {
                    values.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()).unwrap_or_default()
                };
                let (file, candidate) = (value("file"), value("candidate"));
                let match_by = Some(value("match")).filter(|field| !field.is_empty());
                let how = ImportAs { candidate, match_by, ..ImportAs::default() };
                self.ask(Purpose::ImportOutcomes(file.clone()), Request::ImportOutcomes { file, how });
            }
        }
    }

    /// A training run for each share of the train rows.
    fn scaling_submitted(&mut self, values: Vec<(String, String)>) {
        let (shares, set): (Vec<_>, Vec<_>) = values.into_iter().partition(|(key, _)| key == "shares");
        let shares: Vec<String> = shares.iter().flat_map(|(_, list)| sweep::values(list)).collect();
        if shares.len() < 3 {
            return self.notice(Mood::Bad, "a curve takes at least 3 shares, such as 25%,50%,100%");
        }
        let shares = shares.iter().map(|share| format!("share:{share}")).collect();
        let axes = vec![("tuning.train.rows".to_owned(), shares)];
        let request = Request::Sweep { set, axes, drop_hopeless: false, keys: Keys::default() };
        self.ask(Purpose::Sweep, request);
    }

    /// What was typed so far changed: searches follow as one types.
    pub(crate) fn input_changed(&mut self) {
        match self.layers.last_mut() {
            Some(Layer::Text { input, purpose: TextPurpose::FilterRuns { .. }, .. }) => {
                self.runs_screen.filter = input.text().to_owned();
            }
            Some(Layer::Text { input, purpose: TextPurpose::FilterBoard { .. }, .. }) => {
                let text = input.text().to_owned();
                self.filter_board(text);
            }
            Some(Layer::Picker(picker)) => picker.search(),
            _ => {}
        }
        self.complete();
    }

    fn gave_up(&mut self, purpose: &TextPurpose) {
        if let TextPurpose::FilterRuns { before } = purpose {
            self.runs_screen.filter.clone_from(before);
        }
        if let TextPurpose::FilterBoard { before } = purpose {
            self.filter_board(before.clone());
        }
    }

    fn typed(&mut self, purpose: TextPurpose, text: String) {
        let some = |text: String| Some(text).filter(|t| !t.is_empty());
        match purpose {
            TextPurpose::SearchRows => self.strata.search(text),
            TextPurpose::Histogram => self.histogram(&text),
            TextPurpose::MapBy => self.map_by(text),
            TextPurpose::CountBy => self.count_rows(&text),
            TextPurpose::SaveView => self.save_view(&text),
            TextPurpose::ExportRows => self.export_typed(&text),
            TextPurpose::ExportExamples { store } => self.export_examples(store, &text),
            TextPurpose::ImportExamples => self.import_examples(&text),
            TextPurpose::FilterExamples => self.trajectories.search(text),
            TextPurpose::Budget { run } => self.raise_budget(run, &text),
            TextPurpose::FilterRuns { .. } => self.runs_screen.filter = text,
            TextPurpose::FilterBoard { .. } => self.filter_board(text),
            TextPurpose::Volume => self.volume_typed(&text),
            TextPurpose::Mark { row } => {
                if let Some(mark) = some(text) {
                    match self.review_has_mark(&row, &mark) {
                        Some(has) => {
                            self.review_marked(&row, &mark, !has);
                            self.decide(format!("mark row {row}"), Decision::Mark { row, mark, on: !has });
                        }
                        None => self.mark(row, mark),
                    }
                }
            }
            TextPurpose::Gold { row } => self.give_gold(row, some(text)),
            TextPurpose::ReviewGold { row } => self.review_gold(&row, some(text)),
            TextPurpose::Note { row } => {
                self.review_noted(&row, some(text.clone()));
                self.decide(format!("write the note of row {row}"), Decision::Note { row, note: some(text) });
            }
            TextPurpose::SplitStratum { stratum } => match text.parse::<usize>() {
                Ok(into @ 2..=12) => {
                    let by_hand = ByHand::Split { id: stratum, into };
                    self.ask(Purpose::Decide("split the stratum".into()), Request::ByHand { by_hand });
                }
                _ => self.notice(Mood::Bad, format!("`{text}` is no number of parts; expected 2 to 12")),
            },
            TextPurpose::NameStratum { stratum } => {
                self.decide("name the stratum".into(), Decision::NameStratum { stratum, name: some(text) });
            }
            TextPurpose::Player { side } => {
                if let Some(name) = some(text) {
                    self.player_chosen(side, Who::Named(name));
                }
            }
            TextPurpose::NameVersion { version } => {
                self.decide("name the version".into(), Decision::TagPrompt { version, tag: some(text) });
            }
            TextPurpose::NameCandidate { candidate } => match some(text) {
                Some(name) => {
                    self.decide(format!("rename {candidate}"), Decision::NameCandidate { candidate, name });
                }
                None => self.notice(Mood::Plain, "a candidate needs a name; it keeps its old one"),
            },
        }
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
