//! What one fills in on screen 2: a run's knobs, changes of a run under way, the slice of a trial.

use super::App;
use crate::domain::api::Request;
use crate::domain::prompt::Fate;
use crate::domain::steer::Change;
use crate::domain::versions::{Slice, TRIAL_ROWS_MAX};
use crate::tui::app::{Mood, Purpose};
use crate::tui::layers::form::{Field, Form, FormPurpose, Want, field};
use crate::tui::layers::{Confirmed, Layer};
use crate::tui::widgets::input::TextInput;

impl App {
    /// The knobs of a new prompt run, as the last one had them.
    pub(crate) fn prompt_form(&mut self) {
        let like = self.prompt_run().and_then(|id| self.run(&id).map(|r| r.settings.clone()));
        // What was set for one version alone is not meant for the next run.
        let like = like.filter(|set| !set.iter().any(|(key, _)| key.ends_with("task")));
        let stages =
            self.prompts.tree.iter().flat_map(|tree| tree.files.iter().map(|(stage, _)| stage.clone()));
        let mut from = self.candidate_names();
        from.extend(self.prompts.address());
        let form = Form::prompt(&like.unwrap_or_default(), stages.collect(), from);
        self.launch_form(form);
    }

    /// Changes of the prompt run on screen: `values` as they were typed before.
    pub(super) fn prompt_steer_form(&mut self, values: Option<Vec<(String, String)>>) {
        let Some(record) = self.prompt_run().and_then(|id| self.run(&id)).cloned() else {
            return self.notice(Mood::Plain, "there is no run to change; t starts one");
        };
        if record.state.is_final() {
            return self.notice(
                Mood::Plain,
                format!(
                    "{} is {} and takes no change; t starts the next one, from its answer where you say so, with your pins",
                    record.run, record.state
                ),
            );
        }
        let values = values.unwrap_or_default();
        let filled = |field: Field| Field {
            input: TextInput::new(
                values.iter().find(|(k, _)| k == field.key).map(|(_, v)| v.clone()).unwrap_or_default(),
            ),
            stands: "no change".into(),
            ..field
        };
        let versions: Vec<String> = self
            .series
            .get(&record.run)
            .map(|s| s.climb.standing().iter().filter(|l| l.runs).map(|l| l.version.clone()).collect())
            .unwrap_or_default();
        let learned: Vec<String> = self
            .prompts
            .tree
            .iter()
            .flat_map(|tree| tree.lessons.iter().map(|lesson| lesson.version.clone()))
            .collect();
        let fields = vec![
            field("hint", "hint", "what you know: goes into new versions, and to the critic", Want::Text),
            field("pin", "pin", "words that must stay where they stand", Want::Text),
            Field {
                choices: versions,
                ..field("kill", "kill", "a version that leaves the race: v7", Want::Text)
            },
            field("budget.calls", "budget: calls", "answers of models in all", Want::Count),
            field("budget.tokens", "budget: tokens", "read and written in all", Want::Count),
            field("budget.usd", "budget: USD", "in all: 2.5", Want::Positive),
            field("budget.seconds", "budget: seconds", "of work in all", Want::Count),
            Field {
                choices: learned,
                ..field("lesson", "lesson of", "the version whose lesson is to be another: v3", Want::Text)
            },
            field("words", "its words", "what was learned, in your words; `-` forgets it", Want::Text),
        ];
        let fields = fields.into_iter().map(filled).collect();
        self.layers.push(Layer::Form(Form {
            title: "change the run from its next round on",
            purpose: FormPurpose::SteerPrompt(record.run),
            fields,
            focus: 0,
            error: None,
        }));
    }

    pub(crate) fn prompt_steer_submitted(&mut self, run: String, values: Vec<(String, String)>) {
        let value = |key: &str| values.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let mut lines: Vec<String> = Vec::new();
        for key in ["hint", "pin", "kill", "budget.calls", "budget.tokens", "budget.usd", "budget.seconds"] {
            lines.extend(value(key).map(|value| format!("{key}={value}")));
        }
        match (value("lesson"), value("words")) {
            (Some(version), words) => {
                let words = words.filter(|words| *words != "-").unwrap_or_default();
                lines.push(format!("lesson:{version}={words}"));
            }
            (None, Some(_)) => lines.push("lesson:=".to_owned()),
            (None, None) => {}
        }
        match lines.iter().map(|line| line.parse()).collect::<Result<Vec<Change>, String>>() {
            Ok(changes) if changes.is_empty() => self.notice(Mood::Plain, "nothing was changed"),
            Ok(changes) => {
                self.ask(Purpose::Steer(run.clone()), Request::Steer { run, changes });
            }
            Err(why) => {
                self.notice(Mood::Bad, why);
                self.prompt_steer_form(Some(values));
            }
        }
    }

    /// The selected version leaves the race.
    pub(super) fn kill_lane(&mut self) {
        let run = self.prompt_run().filter(|id| self.run(id).is_some_and(|r| !r.state.is_final()));
        let (Some(run), Some(version)) = (run, self.prompts.branch().map(|b| b.version.id.clone())) else {
            return self.notice(Mood::Plain, "there is no race to leave");
        };
        let lanes = self.series.get(&run).map(|s| s.climb.lanes.as_slice()).unwrap_or_default();
        let races = lanes.iter().any(|lane| lane.runs && lane.version == version);
        let may =
            self.prompts.branch().is_some_and(|b| matches!(b.version.fate, Fate::Open | Fate::Survived));
        if !races && !may {
            let text =
                format!("{version} has left the race already; K takes out the version that is selected");
            return self.notice(Mood::Plain, text);
        }
        let question = format!("Take {version} out of the race of {run}? It does not come back.");
        let purpose = Purpose::Steer(run.clone());
        let again = Box::new(Request::Steer { run, changes: vec![Change::Kill(version)] });
        self.layers.push(Layer::Confirm { question, then: Confirmed::Launch { purpose, again } });
    }

    pub(super) fn slice_form(&mut self) {
        let slice = &self.prompts.slice;
        let strata: Vec<String> =
            self.strata.view.iter().flat_map(|view| view.strata.iter().map(|s| s.name.clone())).collect();
        let filled = |field: Field, value: String| Field {
            input: TextInput::new(value),
            stands: "any".into(),
            ..field
        };
        let fields = vec![
            Field {
                choices: strata,
                ..filled(
                    field("stratum", "stratum", "only rows of this one", Want::Text),
                    slice.stratum.clone().unwrap_or_default(),
                )
            },
            filled(
                field("mark", "mark", "only rows with this mark: star", Want::Text),
                slice.mark.clone().unwrap_or_default(),
            ),
            Field {
                choices: vec!["yes".into()],
                ..filled(
                    field(
                        "failing",
                        "failing",
                        "yes: only rows that the version before got wrong",
                        Want::Text,
                    ),
                    if slice.failing { "yes".into() } else { String::new() },
                )
            },
            filled(
                field("rows", "rows", "how many: 24", Want::Count),
                if slice.rows > 0 { slice.rows.to_string() } else { String::new() },
            ),
        ];
        self.layers.push(Layer::Form(Form {
            title: "rows that prompts are tried on (of dev, then train; never of eval)",
            purpose: FormPurpose::Slice,
            fields,
            focus: 0,
            error: None,
        }));
    }

    /// The slice is kept, and tried at once.
    pub(crate) fn slice_submitted(&mut self, values: &[(String, String)]) {
        let value = |key: &str| values.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        self.prompts.slice = Slice {
            stratum: value("stratum"),
            mark: value("mark"),
            failing: value("failing").is_some_and(|v| matches!(v.as_str(), "yes" | "y" | "true" | "1")),
            rows: value("rows").and_then(|v| v.parse().ok()).unwrap_or(0).min(TRIAL_ROWS_MAX),
        };
        self.act_prompts(crate::tui::keymap::Action::TryPrompts);
    }
}
