//! What a person chose, filled in or typed, and what is done with it.

use crate::domain::api::{Decision, Request};
use crate::domain::imported::ImportAs;
use crate::domain::keys::Keys;
use crate::domain::run::RunKind;
use crate::domain::sample::{SEED, SampleAsk, Wanted};
use crate::domain::strata::ByHand;
use crate::domain::sweep;
use crate::tui::app::{App, Mood, Purpose, Screen};
use crate::tui::keymap::Context;
use crate::tui::layers::form::{FormPurpose, is_list};
use crate::tui::layers::picker::Choice;
use crate::tui::layers::{Layer, TextPurpose};
use crate::tui::screens::play::Who;

impl App {
    pub(super) fn chosen(&mut self, choice: Choice) {
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
            Choice::GrownRun(run) => self.show_grown(run),
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

    pub(super) fn submitted(&mut self, purpose: FormPurpose, values: Vec<(String, String)>) {
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
            FormPurpose::SteerGrown(run) => self.grown_steered(run, &values),
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

    pub(super) fn gave_up(&mut self, purpose: &TextPurpose) {
        if let TextPurpose::FilterRuns { before } = purpose {
            self.runs_screen.filter.clone_from(before);
        }
        if let TextPurpose::FilterBoard { before } = purpose {
            self.filter_board(before.clone());
        }
    }

    pub(super) fn typed(&mut self, purpose: TextPurpose, text: String) {
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
            TextPurpose::FilterGrown => self.filter_grown(text),
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
