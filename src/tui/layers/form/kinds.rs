//! What is asked for each kind of run and for the other forms.

use std::collections::BTreeMap;

use crate::domain::grow::Method;
use crate::domain::run::RunKind;
use crate::domain::sample::{Mode, SEED, Wanted};
use crate::domain::scaling::SHARES;
use crate::tui::layers::judging::{DISPUTED, JudgeAsk};
use crate::tui::widgets::input::TextInput;
use crate::tui::widgets::text;

use super::{Field, Form, FormPurpose, Want, field};

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
}
