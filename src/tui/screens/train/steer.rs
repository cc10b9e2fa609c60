//! What one does to a training run beyond pausing and stopping it: steer it, branch from it, test learning rates, do what the
//! doctor advises.

use crate::domain::api::Request;
use crate::domain::finding::{Finding, Remedy};
use crate::domain::leak::LEAKS;
use crate::domain::run::{RunAction, RunKind, RunRecord};
use crate::domain::steer::Change;
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::keymap::Action;
use crate::tui::layers::Layer;
use crate::tui::layers::form::{Field, Form, FormPurpose, Want};
use crate::tui::layers::picker::{Choice, Item, Picker};
use crate::tui::screens::short_key;
use crate::tui::widgets::input::TextInput;
use crate::tui::widgets::number;

/// A remedy in few words.
pub fn remedy_words(remedy: Remedy) -> String {
    match remedy {
        Remedy::LearningRate { times } => format!("learning rate x{times}"),
        Remedy::Stop => "stop and keep".into(),
        Remedy::Branch { times } => format!("branch, rate x{times}"),
        Remedy::Rows { step } => format!("rows of step {step}"),
        Remedy::RangeTest => "range test".into(),
        Remedy::Again { lower } => format!("again with {lower}"),
    }
}

fn field(key: &'static str, label: &'static str, hint: &'static str, want: Want, text: String) -> Field {
    Field { key, label, hint, want, input: TextInput::new(text), stands: String::new(), choices: Vec::new() }
}

/// What was set for a run, by the key's last part.
fn setting(record: &RunRecord, name: &str) -> String {
    record
        .settings
        .iter()
        .rfind(|(key, _)| short_key(key) == name)
        .map(|(_, value)| value.clone())
        .unwrap_or_default()
}

impl App {
    /// True when the action was one of these.
    pub(super) fn act_steer(&mut self, shown: Option<&String>, action: Action) -> bool {
        if !matches!(action, Action::Steer | Action::Branch | Action::Doctor | Action::RangeTest) {
            return false;
        }
        if action == Action::RangeTest {
            self.range_form(shown.cloned());
            return true;
        }
        let Some(record) = shown.and_then(|id| self.run(id)).cloned() else {
            self.notice(Mood::Plain, "there is no run yet; t starts one");
            return true;
        };
        if record.kind != RunKind::Train {
            self.notice(
                Mood::Plain,
                format!("{} is a range test; t trains with what it suggests", record.run),
            );
            return true;
        }
        match action {
            Action::Steer if record.state.is_final() => {
                let text =
                    format!("{} is {}; b branches from it with other settings", record.run, record.state);
                self.notice(Mood::Plain, text);
            }
            Action::Steer => self.steer_form(&record.run, Vec::new()),
            Action::Branch => self.branch_form(&record, None),
            _ => self.doctor(&record),
        }
        true
    }

    fn steer_form(&mut self, run: &str, values: Vec<(String, String)>) {
        let value = |key: &str| {
            values.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let strata =
            self.strata.view.iter().flat_map(|view| view.strata.iter().map(|s| s.name.clone())).collect();
        let fields = vec![
            field(
                "learning_rate",
                "learning rate",
                "the schedule's peak from the next step on: 1e-4, or x0.3 of what it is",
                Want::Text,
                value("learning_rate"),
            ),
            Field {
                choices: strata,
                ..field(
                    "stratum",
                    "stratum",
                    "whose rows are to be drawn more or less often",
                    Want::Text,
                    value("stratum"),
                )
            },
            field(
                "weight",
                "weight",
                "how often, relative to 1: 2, 0.5, 0 never",
                Want::Text,
                value("weight"),
            ),
        ];
        let purpose = FormPurpose::Steer(run.to_owned());
        self.layers.push(Layer::Form(Form {
            title: "change the run from its next step on",
            purpose,
            fields,
            focus: 0,
            error: None,
        }));
    }

    /// The steer form was sent.
    pub(crate) fn steer_submitted(&mut self, run: String, values: Vec<(String, String)>) {
        let value = |key: &str| values.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        let mut lines = Vec::new();
        lines.extend(value("learning_rate").map(|rate| format!("learning_rate={rate}")));
        if value("stratum").is_some() || value("weight").is_some() {
            let (stratum, weight) = (value("stratum").unwrap_or(""), value("weight").unwrap_or(""));
            lines.push(format!("weight:{stratum}={weight}"));
        }
        match lines.iter().map(|line| line.parse()).collect::<Result<Vec<Change>, String>>() {
            Ok(changes) if changes.is_empty() => self.notice(Mood::Plain, "nothing was changed"),
            Ok(changes) => self.steer(run, changes),
            Err(why) => {
                self.notice(Mood::Bad, why);
                self.steer_form(&run, values);
            }
        }
    }

    fn steer(&mut self, run: String, changes: Vec<Change>) {
        self.ask(Purpose::Steer(run.clone()), Request::Steer { run, changes });
    }

    /// The schedule's peak as it is now, as far as it is known here.
    fn peak(&self, record: &RunRecord) -> Option<f64> {
        let changed = self.series.get(&record.run).and_then(|series| {
            series.changes.iter().rev().find_map(|(_, change)| match change {
                Change::LearningRate(rate) => Some(*rate),
                _ => None,
            })
        });
        let steps = || {
            let steps = &self.series.get(&record.run)?.steps;
            steps.iter().map(|s| s.lr).max_by(f64::total_cmp)
        };
        changed.or_else(|| setting(record, "learning_rate").parse().ok()).or_else(steps)
    }

    /// A new run from a checkpoint of this one: of the step under the cursor, or its best.
    fn branch_form(&mut self, record: &RunRecord, times: Option<f64>) {
        let run = &record.run;
        let checkpoints: Vec<u64> = self
            .series
            .get(run)
            .map(|s| s.checkpoints.iter().map(|(step, _)| *step).collect())
            .unwrap_or_default();
        let under_cursor = self.train.cursor.and_then(|at| checkpoints.iter().rfind(|step| **step <= at));
        let from = under_cursor.map_or_else(|| run.clone(), |step| format!("{run}@{step}"));
        let mut choices = vec![run.clone()];
        choices.extend(checkpoints.iter().rev().map(|step| format!("{run}@{step}")));
        let peak = self.peak(record);
        let rate = match (times, peak) {
            (Some(times), Some(peak)) => format!("{:.2e}", peak * times),
            (None, Some(peak)) => format!("{peak:e}"),
            _ => String::new(),
        };
        let like = |key: &str| setting(record, key);
        let fields = vec![
            Field {
                choices,
                ..field("from", "from", "RUN@STEP, or RUN for its best checkpoint", Want::Needed, from)
            },
            field("tuning.train.learning_rate", "learning rate", "of the new run: 1e-4", Want::Rate, rate),
            field(
                "tuning.train.epochs",
                "epochs",
                "times through the train part, from here: 2, 0.5",
                Want::Positive,
                like("epochs"),
            ),
            field(
                "tuning.train.batch_size",
                "batch size",
                "rows of one step: 8, 16",
                Want::Count,
                like("batch_size"),
            ),
            Field {
                choices: ["constant", "linear", "cosine"].map(String::from).into(),
                ..field(
                    "tuning.train.schedule",
                    "schedule",
                    "constant, linear or cosine",
                    Want::Text,
                    like("schedule"),
                )
            },
            field(
                "tuning.train.warmup",
                "warm-up",
                "share of the steps: 0.03; 0 none",
                Want::Text,
                like("warmup"),
            ),
        ];
        self.layers.push(Layer::Form(Form {
            title: "branch: a new run from a checkpoint",
            purpose: FormPurpose::Branch,
            fields,
            focus: 1,
            error: None,
        }));
    }

    fn range_form(&mut self, shown: Option<String>) {
        let record = shown.and_then(|id| self.run(&id).cloned());
        let like = |key: &str| record.as_ref().map(|r| setting(r, key)).unwrap_or_default();
        let fields = vec![
            field(
                "tuning.lr_range.lr_min",
                "lowest rate",
                "where the test begins: 1e-6",
                Want::Positive,
                like("lr_min"),
            ),
            field(
                "tuning.lr_range.lr_max",
                "highest rate",
                "where it ends: 1",
                Want::Positive,
                like("lr_max"),
            ),
            field("tuning.lr_range.steps", "steps", "at least 10; empty: 100", Want::Count, like("steps")),
            field("tuning.train.rank", "rank", "as in the training to come", Want::Count, like("rank")),
            field("tuning.train.alpha", "alpha", "as in the training to come", Want::Positive, like("alpha")),
            field(
                "tuning.train.batch_size",
                "batch size",
                "as in the training to come",
                Want::Count,
                like("batch_size"),
            ),
        ];
        self.layers.push(Layer::Form(Form {
            title: "learning-rate range test",
            purpose: FormPurpose::Launch(RunKind::LrRange),
            fields,
            focus: 0,
            error: None,
        }));
    }

    /// What the doctor finds, each with its remedy one key away.
    fn doctor(&mut self, record: &RunRecord) {
        let item = |finding: &Finding| Item {
            label: format!("{}: {}", finding.rule, finding.evidence),
            aside: finding.remedy.map_or_else(|| "nothing to press".into(), remedy_words),
            choice: Choice::Remedy(record.run.clone(), finding.remedy),
        };
        if record.findings.is_empty() {
            self.notice(Mood::Good, format!("the doctor finds nothing wrong with {}", record.run));
            return;
        }
        let items = record.findings.iter().map(item).collect();
        self.layers.push(Layer::Picker(Picker::new("doctor: enter does what it advises", items)));
    }

    /// A remedy was chosen.
    pub(crate) fn remedy(&mut self, run: String, remedy: Option<Remedy>) {
        let Some(record) = self.run(&run).cloned() else { return };
        let over = record.state.is_final();
        match remedy {
            // A run that has ended goes on as a branch.
            Some(Remedy::LearningRate { times }) if over => self.branch_form(&record, Some(times)),
            Some(Remedy::LearningRate { times }) => self.steer(run, vec![Change::LearningRateTimes(times)]),
            Some(Remedy::Branch { times }) => self.branch_form(&record, Some(times)),
            Some(Remedy::Stop) if over => {
                self.notice(Mood::Plain, format!("{run} is {} already", record.state));
            }
            Some(Remedy::Stop) => self.control(run, RunAction::Stop),
            Some(Remedy::Rows { step }) => {
                self.train.cursor = Some(step);
                self.step_rows(Some(run));
            }
            Some(Remedy::RangeTest) => self.range_form(Some(run)),
            Some(Remedy::Again { lower }) => {
                let mut settings = settings_like(&record);
                for (key, value) in lower.settings() {
                    settings.retain(|(known, _)| short_key(known) != key);
                    settings.push((format!("tuning.train.{key}"), value));
                }
                self.launch(RunKind::Train, settings, None);
            }
            None => {
                let advice = record.findings.into_iter().find(|f| f.remedy.is_none()).map(|f| f.advice);
                self.notice(Mood::Plain, advice.unwrap_or_default());
            }
        }
    }
}

/// The settings that a new training starts from: those of the run on screen, with the rate that a range test suggests.
pub fn settings_like(run: &RunRecord) -> Vec<(String, String)> {
    let mut settings = run.settings.clone();
    // Going on in spite of leaks is said for each run anew.
    settings.retain(|(key, _)| !key.starts_with("tuning.lr_range.") && key != LEAKS);
    if let Some(rate) = run.metrics.get("suggested_learning_rate") {
        settings.retain(|(key, _)| short_key(key) != "learning_rate");
        settings.push(("tuning.train.learning_rate".into(), format!("{rate:e}")));
    }
    settings
}

/// The result of a range test, in words.
pub fn suggestion(record: &RunRecord) -> Option<String> {
    let rate = record.metrics.get("suggested_learning_rate")?;
    Some(format!("suggests a learning rate of {}; t trains with it", number::short(*rate)))
}
