//! Forms: a few settings with what they must be, checked before anything is sent.

use std::collections::BTreeMap;

use super::judging::{DISPUTED, JudgeAsk};
use crate::domain::grow::Method;
use crate::domain::run::RunKind;
use crate::domain::sample::{Mode, SEED, Wanted};
use crate::domain::scaling::SHARES;
use crate::domain::sweep::values;
use crate::tui::key::{Code, Key};
use crate::tui::widgets::input::TextInput;
use crate::tui::widgets::text;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A whole number of at least 1.
    Count,
    /// A number above 0.
    Positive,
    /// A number between 0 and 1, both out.
    Rate,
    /// A number of at least 0.
    AtLeastZero,
    Text,
    /// Empty, or one of the field's choices.
    Choice,
    /// Must not be empty.
    Needed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Path of `workspace.toml`, or a name of the request.
    pub key: &'static str,
    pub label: &'static str,
    /// What is meant, with an example.
    pub hint: &'static str,
    pub want: Want,
    pub input: TextInput,
    /// The value in `workspace.toml`, which an empty input takes; empty where it is not known.
    pub stands: String,
    /// Values to walk through with left and right at the line's ends.
    pub choices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormPurpose {
    Launch(RunKind),
    /// A training run from a checkpoint; the field `from` says which.
    Branch,
    /// Change this run.
    Steer(String),
    /// Change this prompt run.
    SteerPrompt(String),
    /// Rows that prompts are tried on.
    Slice,
    ImportOutcomes,
    /// How the playground's answers are drawn.
    Play,
    /// Which answers a person judges.
    Judging,
    /// Which rows are drawn.
    Sample,
    /// Which rows a person reviews.
    Review,
    /// Shares of the train rows that are trained on.
    Scaling,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub title: &'static str,
    pub purpose: FormPurpose,
    pub fields: Vec<Field>,
    pub focus: usize,
    /// The field that cannot be sent as it is, and why.
    pub error: Option<(usize, String)>,
}

pub fn field(key: &'static str, label: &'static str, hint: &'static str, want: Want) -> Field {
    Field { key, label, hint, want, input: TextInput::default(), stands: String::new(), choices: Vec::new() }
}

impl Form {
    /// The settings of a training that one mostly changes. Empty ones are taken from `workspace.toml`; `like` is the run to start from.
    pub fn train(like: &[(String, String)]) -> Self {
        let choices = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let mut fields = vec![
            field("tuning.train.rank", "rank", "size of the adapter: 8, 16, 64", Want::Count),
            field(
                "tuning.train.alpha",
                "alpha",
                "scale of the adapter, mostly twice the rank",
                Want::Positive,
            ),
            field(
                "tuning.train.learning_rate",
                "learning rate",
                "2e-4 for LoRA, ten times less for all weights",
                Want::Rate,
            ),
            field("tuning.train.epochs", "epochs", "times through the train part: 4, 0.5", Want::Positive),
            field("tuning.train.batch_size", "batch size", "rows of one step: 8, 16", Want::Count),
            Field {
                choices: choices(&["all-linear", "q_proj,v_proj"]),
                ..field(
                    "tuning.train.targets",
                    "targets",
                    "layers with an adapter: all-linear, or q_proj,v_proj",
                    Want::Text,
                )
            },
            Field {
                choices: choices(&["bare", "same"]),
                ..field(
                    "tuning.train.prompt",
                    "prompt",
                    "bare (input only), same (the stage's prompt), or a file",
                    Want::Text,
                )
            },
        ];
        for field in &mut fields {
            let short = field.key.rsplit('.').next().unwrap_or_default();
            if let Some((_, value)) = like.iter().find(|(k, _)| k == field.key || k == short) {
                field.input = TextInput::new(value.clone());
            }
        }
        Self {
            title: "train a LoRA adapter (several values, such as 4,8,16, make a sweep)",
            purpose: FormPurpose::Launch(RunKind::Train),
            fields,
            focus: 0,
            error: None,
        }
    }

    /// The knobs of a prompt run.
    pub fn prompt(like: &[(String, String)], stages: Vec<String>, candidates: Vec<String>) -> Self {
        let mut fields = vec![
            Field {
                choices: candidates,
                ..field(
                    "candidate",
                    "from",
                    "a candidate, or RUN:v7; empty: the pipeline as it stands",
                    Want::Text,
                )
            },
            field("tuning.prompt.fan_out", "fan-out", "new versions an epoch: 16", Want::Count),
            field("tuning.prompt.epochs", "epochs", "5", Want::Count),
            field("tuning.prompt.survivors", "survivors", "versions that go on: 4", Want::Count),
            field("tuning.prompt.rows", "rows", "of a race, and fresh ones of an epoch: 40", Want::Count),
            field(
                "tuning.prompt.few_shot",
                "examples",
                "most that a prompt may be given: 4; 0 none",
                Want::AtLeastZero,
            ),
            Field {
                choices: stages,
                ..field("tuning.prompt.stages", "stages", "to tune: one, or a,b; empty: all", Want::Text)
            },
            field(
                "tuning.prompt.critic",
                "critic",
                "a model's name; empty: edits that need no model",
                Want::Text,
            ),
            field("tuning.prompt.pins", "pin", "words that must stay where they stand", Want::Text),
            field("tuning.prompt.budget.calls", "budget: calls", "answers of models: 4000", Want::Count),
            field("tuning.prompt.budget.tokens", "budget: tokens", "read and written: 2000000", Want::Count),
            field("tuning.prompt.budget.usd", "budget: USD", "5", Want::Positive),
            field("tuning.prompt.budget.seconds", "budget: seconds", "1800", Want::Count),
        ];
        for field in &mut fields {
            let short = field.key.strip_prefix("tuning.prompt.").unwrap_or(field.key);
            if let Some((_, value)) = like.iter().rfind(|(k, _)| k == field.key || k == short) {
                field.input = TextInput::new(value.clone());
            }
        }
        Self {
            title: "tune the prompts",
            purpose: FormPurpose::Launch(RunKind::Prompt),
            fields,
            focus: 0,
            error: None,
        }
    }

    /// What the fields of a run are where they are left empty: `tuning` by key.
    pub fn stands(&mut self, tuning: &BTreeMap<String, String>) {
        if !matches!(self.purpose, FormPurpose::Launch(_)) {
            return;
        }
        for field in &mut self.fields {
            field.stands =
                tuning.get(field.key).map(|value| text::clean(value).into_owned()).unwrap_or_default();
        }
    }

    pub fn eval(candidates: Vec<String>) -> Self {
        let fields = vec![
            Field {
                choices: candidates,
                ..field(
                    "candidate",
                    "candidate",
                    "a candidate's name, RUN or RUN@STEP; empty: the pipeline as it stands",
                    Want::Text,
                )
            },
            field(
                "model",
                "model",
                "models of workspace.toml in place of its own, a run each: gpt,local; empty: its own",
                Want::Text,
            ),
        ];
        Self {
            title: "evaluate a candidate",
            purpose: FormPurpose::Launch(RunKind::Eval),
            fields,
            focus: 0,
            error: None,
        }
    }

    /// The settings of a search for examples that one mostly changes. Empty ones are taken from `workspace.toml`.
    pub fn trajectory(candidates: Vec<String>) -> Self {
        let choices = |names: &[&str]| names.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let with = |choices: Vec<String>, field: Field| Field { choices, ..field };
        let fields = vec![
            with(
                candidates,
                field(
                    "candidate",
                    "candidate",
                    "whose wrong answers are turned: a name, or RUN; empty: the pipeline as it stands",
                    Want::Text,
                ),
            ),
            field(
                "tuning.trajectory.shots",
                "examples",
                "for each input; half and twice as many are tried too: 5",
                Want::Count,
            ),
            field(
                "tuning.trajectory.rows",
                "rows",
                "train rows that are looked at, spread over the strata: 300",
                Want::Count,
            ),
            with(
                choices(&["fused", "nearest", "bm25"]),
                field("tuning.trajectory.ranking", "ranking", "nearest, bm25, or both: fused", Want::Text),
            ),
            field(
                "tuning.trajectory.embedder",
                "embedder",
                "what is near: builtin, or a model of [models] (an encoder, a language model, an endpoint)",
                Want::Text,
            ),
            with(
                choices(&["metric", "similarity", "numeric", "judge"]),
                field(
                    "tuning.trajectory.match",
                    "match",
                    "when an answer is gold: metric, similarity, numeric, judge",
                    Want::Text,
                ),
            ),
            field(
                "tuning.trajectory.stages",
                "stages",
                "to find examples for: route, or plan,answer; empty: all",
                Want::Text,
            ),
            field("tuning.trajectory.budget.calls", "calls", "answers at most; empty: no limit", Want::Count),
            field("tuning.trajectory.budget.seconds", "seconds", "at most; empty: no limit", Want::Count),
        ];
        Self {
            title: "look for worked examples",
            purpose: FormPurpose::Launch(RunKind::Trajectory),
            fields,
            focus: 0,
            error: None,
        }
    }

    /// How rows are made of train rows.
    pub fn grow(candidates: Vec<String>) -> Self {
        let choices = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let fields = vec![
            Field {
                choices: Method::ALL.map(|(name, _)| name.to_owned()).to_vec(),
                ..field(
                    "tuning.grow.method",
                    "how",
                    "paraphrase, self-play (plays who writes), reverse (from the gold)",
                    Want::Choice,
                )
            },
            field(
                "tuning.grow.maker",
                "maker",
                "a model's name; empty: the critic, else the pipeline's",
                Want::Text,
            ),
            Field {
                choices: choices(&["sample:weak:100", "sample:per-stratum:10", "all"]),
                ..field(
                    "tuning.grow.rows",
                    "from",
                    "train rows: sample:weak:100, where:FILTER, all",
                    Want::Text,
                )
            },
            field("tuning.grow.per_row", "of each", "new rows of each: 2", Want::Count),
            Field {
                choices: candidates,
                ..field(
                    "candidate",
                    "checked by",
                    "who must answer gold; empty: the best candidate",
                    Want::Text,
                )
            },
            field(
                "tuning.grow.meaning",
                "meaning",
                "restated, as near to its parents as: 0.5; 0: not asked",
                Want::AtLeastZero,
            ),
            field("tuning.grow.budget.calls", "budget: calls", "answers of models: 1000", Want::Count),
            field("tuning.grow.budget.usd", "budget: USD", "5", Want::Positive),
            field("tuning.grow.seed", "seed", "the same seed asks the same questions", Want::Count),
        ];
        let title = "grow the data: new rows of train rows, each one checked";
        Self { title, purpose: FormPurpose::Launch(RunKind::Grow), fields, focus: 0, error: None }
    }

    pub fn outcomes() -> Self {
        let fields = vec![
            field(
                "file",
                "file",
                "jsonl or csv with id, output, and correct or score; lm-eval's; promptfoo's",
                Want::Needed,
            ),
            field("candidate", "candidate", "its name on the board", Want::Needed),
            field(
                "match",
                "match",
                "the file's field that tells the row; empty: id, else the input's text",
                Want::Text,
            ),
        ];
        Self { title: "import outcomes", purpose: FormPurpose::ImportOutcomes, fields, focus: 0, error: None }
    }

    /// How answers are drawn in the playground. Empty: as each stage has it.
    pub fn play(temperature: Option<f32>, max_tokens: Option<usize>) -> Self {
        let filled = |field: Field, value: Option<String>| Field {
            input: TextInput::new(value.unwrap_or_default()),
            stands: "as each stage has it".into(),
            ..field
        };
        let fields = vec![
            filled(
                field(
                    "temperature",
                    "temperature",
                    "0 takes the likeliest token each time; 0.7, 1: other answers when asked again",
                    Want::AtLeastZero,
                ),
                temperature.map(|t| t.to_string()),
            ),
            filled(
                field("max_tokens", "tokens at most", "of each stage's answer: 64, 500", Want::Count),
                max_tokens.map(|n| n.to_string()),
            ),
        ];
        Self { title: "how answers are drawn", purpose: FormPurpose::Play, fields, focus: 0, error: None }
    }

    /// Which answers are to be judged; `ask` is what was chosen before.
    pub fn judging(judges: Vec<String>, ask: &JudgeAsk) -> Self {
        let filled = |field: Field, value: Option<String>| Field {
            input: TextInput::new(value.unwrap_or_default()),
            ..field
        };
        let first = judges.first().cloned();
        let fields = vec![
            Field {
                choices: judges,
                ..filled(
                    field(
                        "judge",
                        "judge",
                        "left and right choose among the workspace's judges",
                        Want::Choice,
                    ),
                    ask.judge.clone().or(first),
                )
            },
            Field {
                choices: vec![DISPUTED.into()],
                stands: "of every stratum, by lot".into(),
                ..filled(
                    field(
                        "rows",
                        "rows",
                        "disputed: where candidates, judge or people part, or the judge is torn; empty: all",
                        Want::Choice,
                    ),
                    ask.disagreement.then(|| DISPUTED.to_owned()),
                )
            },
            filled(
                field("per", "of each stratum", "rows of every stratum: 5, 20", Want::Count),
                Some(ask.per.to_string()),
            ),
            Field {
                stands: "your user name".into(),
                ..filled(
                    field("annotator", "who judges", "a name; empty: your user name", Want::Text),
                    ask.annotator.clone(),
                )
            },
        ];
        let title = "answers for you to judge, without seeing whose they are";
        Self { title, purpose: FormPurpose::Judging, fields, focus: 0, error: None }
    }

    /// Which rows are drawn; `last` is what was asked before, `filter` what the rows shown are filtered by.
    pub fn sample(last: &Wanted, filter: &str) -> Self {
        let filled = |field: Field, value: String| Field { input: TextInput::new(value), ..field };
        let fields = vec![
            Field {
                choices: Mode::ALL.map(|mode| mode.name().to_owned()).to_vec(),
                ..filled(
                    field(
                        "mode",
                        "how",
                        "per-stratum, proportional, weak (by errors), active (unsure, short)",
                        Want::Choice,
                    ),
                    last.mode.name().to_owned(),
                )
            },
            filled(
                field("n", "rows", "of every stratum with per-stratum; else in all", Want::Count),
                last.n.max(1).to_string(),
            ),
            Field {
                stands: "all rows".into(),
                ..filled(
                    field("filter", "only", "a filter: part:train -mark:reviewed len>40", Want::Text),
                    filter.to_owned(),
                )
            },
            Field {
                stands: "no mark".into(),
                ..field(
                    "mark",
                    "mark as",
                    "a word; mark:WORD finds the rows again, u takes all back",
                    Want::Text,
                )
            },
            Field {
                stands: SEED.to_string(),
                ..field("seed", "seed", "the same seed draws the same rows", Want::Count)
            },
        ];
        Self { title: "draw a sample of rows", purpose: FormPurpose::Sample, fields, focus: 0, error: None }
    }

    /// Shares of the train rows for a scaling curve.
    pub fn scaling() -> Self {
        let filled = |field: Field, value: String| Field { input: TextInput::new(value), ..field };
        let fields = vec![
            filled(
                field(
                    "shares",
                    "shares",
                    "of the train rows, each with its strata: 25%,50%,100%",
                    Want::Needed,
                ),
                SHARES.join(","),
            ),
            field(
                "tuning.train.epochs",
                "epochs",
                "times through the rows of a share: 4, 0.5",
                Want::Positive,
            ),
        ];
        let title = "would more rows pay? (a training run for each share)";
        Self { title, purpose: FormPurpose::Scaling, fields, focus: 0, error: None }
    }

    pub fn input(&mut self) -> Option<&mut TextInput> {
        self.fields.get_mut(self.focus).map(|f| &mut f.input)
    }

    pub fn step(&mut self, by: isize) {
        let n = self.fields.len() as isize;
        self.focus = (self.focus as isize + by).rem_euclid(n.max(1)) as usize;
    }

    /// Typing; left and right walk through a field's choices where it is empty or holds one of them.
    pub fn key(&mut self, key: Key) -> bool {
        self.error = None;
        let Some(field) = self.fields.get_mut(self.focus) else { return false };
        let by = match key.code {
            Code::Right if !key.ctrl => 1,
            Code::Left if !key.ctrl => -1,
            _ => return field.input.key(key),
        };
        let known = field.choices.iter().position(|c| c == field.input.text());
        if field.choices.is_empty() || (known.is_none() && !field.input.text().is_empty()) {
            return field.input.key(key);
        }
        // The empty value is one of the choices, before the first.
        let n = field.choices.len() as isize + 1;
        let to = (known.map_or(0, |i| i as isize + 1) + by).rem_euclid(n);
        let text =
            (to as usize).checked_sub(1).and_then(|i| field.choices.get(i)).cloned().unwrap_or_default();
        field.input = TextInput::new(text);
        true
    }

    /// The filled-in values, when all are what they must be; else the focus goes to the first that is not.
    pub fn submit(&mut self) -> Option<Vec<(String, String)>> {
        let mut values = Vec::new();
        let lists = self.purpose == FormPurpose::Launch(RunKind::Train);
        for (i, field) in self.fields.iter().enumerate() {
            let text = field.input.text().trim();
            let unknown = field.want == Want::Choice
                && !text.is_empty()
                && !field.choices.iter().any(|choice| choice == text);
            let checked = if unknown {
                Err(format!("`{text}` is none of: {}", field.choices.join(", ")))
            } else {
                check(field.want, text, lists)
            };
            match checked {
                Ok(()) if text.is_empty() => {}
                Ok(()) => values.push((field.key.to_owned(), value(field.key, text))),
                Err(why) => {
                    self.focus = i;
                    self.error = Some((i, why));
                    return None;
                }
            }
        }
        Some(values)
    }
}

/// As `--set` takes it: several targets are a list.
fn value(key: &str, text: &str) -> String {
    if key.ends_with(".pins") && !text.starts_with('[') {
        return format!("[{text:?}]");
    }
    let list = key.ends_with(".targets") && text.contains(',') || key.ends_with(".stages");
    if list && !text.starts_with('[') {
        let names: Vec<String> = text.split(',').map(|t| format!("{:?}", t.trim())).collect();
        return format!("[{}]", names.join(", "));
    }
    text.to_owned()
}

/// Several values of one number: a sweep.
pub fn is_list(key: &str, text: &str) -> bool {
    !["targets", "prompt", "candidate"].contains(&key.rsplit('.').next().unwrap_or_default())
        && values(text).len() > 1
}

/// Where several values may stand, each must be what one must be.
fn check(want: Want, text: &str, lists: bool) -> Result<(), String> {
    if lists && matches!(want, Want::Count | Want::Positive | Want::Rate) && text.contains(',') {
        return values(text).iter().try_for_each(|value| {
            if value.is_empty() {
                Err(format!("`{text}`: a value is missing"))
            } else {
                check_one(want, value)
            }
        });
    }
    check_one(want, text)
}

fn check_one(want: Want, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return if want == Want::Needed { Err("is needed".into()) } else { Ok(()) };
    }
    let number = || text.parse::<f64>().ok().filter(|n| n.is_finite());
    let (fits, expected) = match want {
        Want::Count => (text.parse::<u64>().is_ok_and(|n| n > 0), "a whole number of at least 1"),
        Want::Positive => (number().is_some_and(|n| n > 0.0), "a number above 0"),
        Want::Rate => {
            (number().is_some_and(|n| n > 0.0 && n < 1.0), "a number between 0 and 1, such as 2e-4")
        }
        Want::AtLeastZero => (number().is_some_and(|n| (0.0..=100.0).contains(&n)), "a number from 0 to 100"),
        Want::Text | Want::Choice | Want::Needed => (true, ""),
    };
    if fits { Ok(()) } else { Err(format!("`{text}` is not {expected}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::prompt::PromptSettings;
    use crate::domain::settings::{Budget, shown};
    use crate::domain::settings::{Targets, TrainSettings};
    use crate::domain::trajectory::TrajectorySettings;

    fn typed(form: &mut Form, at: usize, text: &str) {
        form.fields[at].input = TextInput::new(text);
    }

    #[test]
    fn only_what_was_filled_in_is_sent() {
        let mut form = Form::train(&[]);
        assert_eq!(form.submit(), Some(vec![]));
        typed(&mut form, 0, "8");
        typed(&mut form, 5, "q_proj, v_proj");
        let sent = form.submit().unwrap();
        assert_eq!(sent[0], ("tuning.train.rank".to_owned(), "8".to_owned()));
        assert_eq!(sent[1], ("tuning.train.targets".to_owned(), "[\"q_proj\", \"v_proj\"]".to_owned()));
    }

    #[test]
    fn a_wrong_value_is_refused_where_it_stands() {
        for (at, text, why) in [
            (0, "0", "a whole number"),
            (0, "1.5", "a whole number"),
            (1, "-1", "above 0"),
            (2, "inf", "between 0 and 1"),
            (2, "2", "between 0 and 1"),
            (3, "nan", "above 0"),
            (0, "4,0", "a whole number"),
            (0, "4,,8", "a value is missing"),
        ] {
            let mut form = Form::train(&[]);
            typed(&mut form, at, text);
            assert_eq!(form.submit(), None);
            assert_eq!(form.focus, at);
            assert!(
                form.error.as_ref().is_some_and(|(i, e)| *i == at && e.contains(why)),
                "{:?}",
                form.error
            );
        }
        assert_eq!(Form::outcomes().submit(), None);
    }

    #[test]
    fn empty_fields_show_what_they_take_from_the_workspace() {
        let mut form = Form::train(&[]);
        let many = Targets::Many(vec!["q_proj".into(), "v_proj".into()]);
        let settings = TrainSettings { rank: 4, targets: many, ..TrainSettings::default() };
        form.stands(&shown("tuning.train", &settings));
        let stands: Vec<&str> = form.fields.iter().map(|f| f.stands.as_str()).collect();
        assert_eq!(stands, ["4", "32", "0.0002", "4", "8", "q_proj,v_proj", "bare"]);
        assert_eq!(form.submit(), Some(vec![]), "they are shown, not sent");
        let mut form = Form::prompt(&[], Vec::new(), Vec::new());
        let budget = Budget { calls: Some(900), ..Budget::default() };
        form.stands(&shown("tuning.prompt", &PromptSettings { fan_out: 9, budget, ..<_>::default() }));
        let stands =
            |form: &Form, key: &str| form.fields.iter().find(|f| f.key == key).unwrap().stands.clone();
        assert_eq!(stands(&form, "tuning.prompt.fan_out"), "9");
        assert_eq!(stands(&form, "tuning.prompt.budget.calls"), "900");
        assert_eq!(stands(&form, "tuning.prompt.budget.usd"), "");
        let mut form = Form::trajectory(Vec::new());
        form.stands(&shown("tuning.trajectory", &TrajectorySettings { shots: 7, ..<_>::default() }));
        assert_eq!(stands(&form, "tuning.trajectory.shots"), "7");
        assert_eq!(stands(&form, "tuning.trajectory.ranking"), "fused");
    }

    #[test]
    fn a_new_run_starts_from_the_settings_of_the_last() {
        let form = Form::train(&[("rank".into(), "4".into()), ("tuning.train.epochs".into(), "2".into())]);
        assert_eq!((form.fields[0].input.text(), form.fields[3].input.text()), ("4", "2"));
    }

    #[test]
    fn left_and_right_walk_through_choices_but_not_over_typed_text() {
        let mut form = Form::eval(vec!["base".into(), "lora-1".into()]);
        let right = Key::plain(Code::Right);
        for want in ["base", "lora-1", "", "base"] {
            form.key(right);
            assert_eq!(form.fields[0].input.text(), want);
        }
        form.key(Key::char('x'));
        form.key(right);
        assert_eq!(form.fields[0].input.text(), "basex");
    }
}
