//! Tests of the workspace file: the design's example, every kind of mistake, hostile input.

use super::config::{Constrain, ModelPlace, Task, Want};
use super::*;

/// The example of the documentation, whole.
pub(crate) const SAMPLE: &str = r#"[workspace]
name = "support-router"
task = "classification"

[[goal]]
metric = "accuracy"
at_least = 0.90
[[goal]]
metric = "latency_p95_ms"
at_most = 2000

[data]
source = ["data/tickets.jsonl"]
input = "{{ message }}"
gold = "team"
dimensions = ["channel", "turns"]
embedder = "builtin"
[data.split]
eval = 0.15
dev = 0.10
reserve = 0.10
stratified = true
group = "customer"
seed = 7

[models.base]
path = "models/base"
[models.critic]
endpoint = "http://127.0.0.1:8000/v1"
model = "big-model"
api_key_env = "CRITIC_API_KEY"
usd_per_million_input = 1.75
usd_per_million_output = 14.0

[[stage]]
name = "route"
model = "base"
prompt = "prompts/route.md"
output = "label"
max_tokens = 8

[eval]
primary = "accuracy"
metrics = ["accuracy", "macro_f1", "format_error_rate", "latency_p95_ms"]
judge = "critic"
[tuning.prompt]
fan_out = 16
epochs = 5
survivors = 4
rows = 40
critic = "critic"
stages = ["route"]
budget = { calls = 4000, usd = 5.0, seconds = 1800 }
[tuning.trajectory]
shots = 5
[tuning.train]
stage = "route"
prompt = "bare"
objective = "sft"
method = "lora"
rank = 16
alpha = 32
targets = "all-linear"
learning_rate = 2e-4
epochs = 4
"#;

/// A folder with the sample workspace and everything it names.
pub(crate) fn sample() -> tempfile::TempDir {
    write(SAMPLE)
}

fn write(toml: impl AsRef<[u8]>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["data", "prompts", "models/base"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("data/tickets.jsonl"), "{\"message\":\"hi\",\"team\":\"a\"}\n").unwrap();
    std::fs::write(dir.path().join("prompts/route.md"), "Route: {{ input }}").unwrap();
    std::fs::write(dir.path().join(FILE), toml).unwrap();
    dir
}

/// The problems of the sample after a replacement, as printed.
fn problems(from: &str, to: &str) -> String {
    assert!(SAMPLE.contains(from), "{from}");
    let dir = write(SAMPLE.replacen(from, to, 1));
    Workspace::load(dir.path()).unwrap_err().to_string()
}

#[test]
fn the_whole_example_of_the_design_loads() {
    let dir = sample();
    let ws = Workspace::load(dir.path()).unwrap();
    let c = &ws.config;
    assert_eq!((c.name.as_str(), c.task), ("support-router", Task::Classification));
    assert_eq!(c.goals[0].want, Want::AtLeast(0.9));
    assert_eq!(c.goals[1].want, Want::AtMost(2000.0));
    assert_eq!(c.data.split.group, ["customer"]);
    assert_eq!(c.models["base"].place, ModelPlace::Local { path: "models/base".into() });
    assert_eq!(c.judge.as_deref(), Some("critic"));
    assert_eq!(c.judges.len(), 1, "a model that judges by the built-in rubric");
    assert!(c.judges_of_eval().is_empty(), "no metric needs it");
    assert_eq!(c.stages[0].max_tokens, 8);
    assert_eq!(c.tuning.prompt.budget.calls, Some(4000));
    assert_eq!((c.tuning.train.rank, c.tuning.train.alpha, c.tuning.train.learning_rate), (16, 32.0, 2e-4));
    assert_eq!(c.strata.dimensions, ["channel", "turns"]);
    assert_eq!(ws.sources(), [ws.root.join("data/tickets.jsonl")]);
}

#[test]
fn a_short_file_gets_defaults() {
    let dir = write(
        "[data]\nsource = \"data/tickets.jsonl\"\n[models.m]\npath = \"models/base\"\n[[stage]]\nname = \"a\"\noutput = \"json\"\n",
    );
    let ws = Workspace::load(dir.path()).unwrap();
    assert_eq!(ws.config.task, Task::Extraction);
    assert_eq!(ws.config.stages[0].model, "m");
    assert_eq!(ws.config.tuning.train, crate::domain::settings::TrainSettings::default());
    assert_eq!(ws.config.eval.primary, "accuracy");
    assert_eq!(ws.config.name, ws.root.file_name().unwrap().to_str().unwrap());
}

#[test]
fn unknown_keys_name_their_line_and_the_nearest_valid_key() {
    assert_eq!(
        problems("learning_rate = 2e-4", "lerning_rate = 2e-4"),
        "workspace.toml:64: unknown key `lerning_rate` in [tuning.train]; did you mean `learning_rate`?"
    );
    assert_eq!(problems("[eval]", "[evel]"), "workspace.toml:42: unknown key `evel`; did you mean `eval`?");
    assert!(problems("gold = \"team\"", "xyzzy = 1").contains("valid keys: source, input, gold"));
}

#[test]
fn wrong_types_and_ranges_name_their_line_and_what_is_expected() {
    for (from, to, expected) in [
        (
            "rank = 16",
            "rank = \"16\"",
            "workspace.toml:61: `tuning.train.rank`: expected a whole number, found a string",
        ),
        (
            "rank = 16",
            "rank = 0",
            "workspace.toml:61: `tuning.train.rank` must be a whole number from 1 to 65536",
        ),
        ("rank = 16", "rank = -1", "workspace.toml:61: `tuning.train.rank` must be"),
        ("rank = 16", "rank = 99999999999999999999", "workspace.toml:61: "),
        ("rank = 16", "rank = 1.5", "expected a whole number, found a number"),
        ("learning_rate = 2e-4", "learning_rate = nan", "`tuning.train.learning_rate` must be above 0"),
        ("epochs = 4\n", "epochs = []\n", "expected a number, found a list"),
        ("stratified = true", "stratified = 1", "expected true or false, found an integer"),
        (
            "eval = 0.15",
            "eval = 0.95",
            "workspace.toml:19: `data.split.eval`: eval, dev and reserve take 1.15",
        ),
        (
            "[[stage]]",
            "[stage]",
            "workspace.toml:35: `stage`: expected a list of tables: write [[stage]], found a table",
        ),
        (
            "method = \"lora\"",
            "method = \"lra\"",
            "workspace.toml:60: `tuning.train.method`: `lra` is none of: lora, rslora, dora, qlora, qdora, full",
        ),
        (
            "method = \"lora\"",
            "method = \"dora\"\ninit = \"pissa\"",
            "workspace.toml:61: `tuning.train.init`: `pissa` splits the base's own weights",
        ),
        (
            "method = \"lora\"",
            "method = \"full\"\ndropout = 0.1",
            "workspace.toml:61: `tuning.train.dropout`: is of adapters",
        ),
        (
            "method = \"lora\"",
            "dropout = 1",
            "workspace.toml:60: `tuning.train.dropout` must be a share from 0 to below 1, not 1",
        ),
        ("method = \"lora\"", "loraplus_lr_ratoi = 4", "did you mean `loraplus_lr_ratio`?"),
        (
            "method = \"lora\"",
            "rank_pattern = { q_proj = 2.5 }",
            "workspace.toml:60: `tuning.train.rank_pattern.q_proj` must be a whole number from 1 to 65536",
        ),
        (
            "method = \"lora\"",
            "alpha_pattern = 3",
            "workspace.toml:60: `tuning.train.alpha_pattern`: expected names with numbers",
        ),
        (
            "model = \"base\"",
            "model = \"bose\"",
            "workspace.toml:37: `stage.0.model`: no model is called `bose`; did you mean `base`?",
        ),
        (
            "metric = \"accuracy\"",
            "metric = \"acuracy\"",
            "workspace.toml:6: `goal.0.metric`: `acuracy` is no metric; did you mean `accuracy`?",
        ),
        ("primary = \"accuracy\"", "primary = \"macro_f1\"", "does not say which rows are right"),
        ("at_least = 0.90", "", "workspace.toml:5: `goal.0.at_least` is missing"),
        ("{{ message }}", "{{ message ", "workspace.toml:14: `data.input`: is not a template"),
        ("source = [\"data/tickets.jsonl\"]", "", "workspace.toml:12: `data.source` is missing"),
        ("name = \"route\"", "name = \"\"", "workspace.toml:36: `stage.0.name` must not be empty"),
        ("path = \"models/base\"", "path = \"\\u0000\"", "must not contain a NUL character"),
        ("name = \"support-router\"", "name = 1979-05-27", "expected a string, found a date"),
        (
            "judge = \"critic\"",
            "judge = \"critc\"",
            "workspace.toml:45: `eval.judge`: no model is called `critc`; did you",
        ),
        ("[eval]", "[[judge]]\nname = \"kind\"\n[eval]", "workspace.toml:42: `judge.0.model` is missing"),
        ("[eval]", "[[judge]]\nname = \"kind\"\nmodel = \"crtic\"\n[eval]", "did you mean `critic`?"),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nverdict = [\"a\"]\n[eval]",
            "workspace.toml:45: unknown key `verdict` in [judge.0]; did you mean `verdicts`?",
        ),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nverdicts = [\"good\", \"Good\"]\n[eval]",
            "workspace.toml:45: `judge.0.verdicts`: `Good` stands twice",
        ),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nscale = [5, 1]\n[eval]",
            "workspace.toml:45: `judge.0.scale`: must be [LOWEST, HIGHEST]",
        ),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nscale = [1, 5]\nright_from = 1\n[eval]",
            "`1` is the worst verdict: everything would be right",
        ),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nright_from = \"fine\"\n[eval]",
            "workspace.toml:45: `judge.0.right_from`: `fine` is none of the verdicts: bad, good",
        ),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nagreement_at_least = 60\n[eval]",
            "workspace.toml:45: `judge.0.agreement_at_least` must be a kappa from 0 to 1, not 60",
        ),
        (
            "[eval]",
            "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nrubric = \"prompts/no.md\"\n[eval]",
            "workspace.toml:45: rubric `prompts/no.md`",
        ),
        (
            "metric = \"accuracy\"",
            "metric = \"judge:kind\"",
            "workspace.toml:6: `goal.0.metric`: `judge:kind` needs a judge; add a table [[judge]]",
        ),
    ] {
        let found = problems(from, to);
        assert!(found.contains(expected), "{to}:\n{found}");
    }
}

#[test]
fn several_problems_are_reported_at_once_in_the_order_of_the_file() {
    let dir = write(
        SAMPLE.replace("gold =", "golt =").replace("rank = 16", "rank = true").replace("shots", "shuts"),
    );
    let found = Workspace::load(dir.path()).unwrap_err();
    assert_eq!(found.0.iter().map(|p| p.line).collect::<Vec<_>>(), [15, 55, 61], "{found}");
}

#[test]
fn missing_files_name_the_line_and_where_was_looked() {
    let dir = sample();
    std::fs::remove_file(dir.path().join("prompts/route.md")).unwrap();
    std::fs::remove_file(dir.path().join("data/tickets.jsonl")).unwrap();
    std::fs::create_dir(dir.path().join("data/tickets.jsonl")).unwrap();
    std::fs::remove_dir(dir.path().join("models/base")).unwrap();
    let found = Workspace::load(dir.path()).unwrap_err().to_string();
    let lines: Vec<&str> = found.lines().collect();
    assert!(lines[0].starts_with("workspace.toml:13: data file `data/tickets.jsonl` (that is /"), "{found}");
    assert!(lines[0].ends_with("is a folder; name a file"), "{found}");
    assert!(lines[1].starts_with("workspace.toml:27: model `models/base`"), "{found}");
    assert!(lines[2].starts_with("workspace.toml:38: prompt `prompts/route.md`"), "{found}");
    let (_, missing) = Workspace::open(dir.path()).unwrap();
    assert_eq!(missing.0.len(), 3);
}

#[test]
fn absolute_paths_and_paths_out_of_the_folder_are_shown_resolved() {
    let found = problems("data/tickets.jsonl", "../elsewhere/./x.jsonl");
    assert!(found.contains("`../elsewhere/./x.jsonl` (that is /"), "{found}");
    assert!(found.contains("/elsewhere/x.jsonl) does not exist"), "{found}");
    assert!(!found.contains("(that is /") || !found.contains("/../"), "{found}");
    assert!(
        problems("data/tickets.jsonl", "/nowhere/x.jsonl")
            .contains("data file `/nowhere/x.jsonl` does not exist")
    );
}

#[test]
fn a_broken_prompt_names_its_own_file_and_line() {
    let dir = sample();
    std::fs::write(dir.path().join("prompts/route.md"), "one\n{% if x %}\nthree").unwrap();
    let found = Workspace::load(dir.path()).unwrap_err().to_string();
    assert!(found.starts_with("prompts/route.md:2: not a valid template"), "{found}");
}

#[test]
fn secrets_are_refused_and_never_repeated() {
    for (from, to) in [
        ("api_key_env = \"CRITIC_API_KEY\"", "api_key = \"sk-hush\""),
        ("api_key_env = \"CRITIC_API_KEY\"", "api_key_env = \"sk-hush\""),
        ("http://127.0.0.1:8000/v1", "http://me:hush@127.0.0.1:8000/v1"),
        ("seed = 7", "seed = 7\npassword = \"hush\""),
    ] {
        let found = problems(from, to);
        assert!(found.contains("environment variable") || found.contains("api_key_env"), "{found}");
        assert!(!found.contains("hush"), "{found}");
    }
}

#[test]
fn syntax_errors_name_their_line() {
    assert!(problems("seed = 7", "seed = = 7").starts_with("workspace.toml:24: not valid TOML"));
    assert!(problems("seed = 7", "seed = 7\nseed = 8").starts_with("workspace.toml:25: not valid TOML"));
}

#[test]
fn hostile_files_are_refused_without_a_panic() {
    let cases: [(Vec<u8>, &str); 6] = [
        (b"a = ".iter().copied().chain(std::iter::repeat_n(b'[', 10 << 20)).collect(), "bytes; at most"),
        (b"a = ".iter().copied().chain(std::iter::repeat_n(b'[', 1 << 19)).collect(), "not valid TOML"),
        (b"[workspace]\nname = \"\xff\"\n".to_vec(), "workspace.toml:2: is not valid UTF-8"),
        (b"[workspace]\n\n\0".to_vec(), "workspace.toml:3: holds a NUL"),
        ("a.".repeat(200_000).into_bytes(), "not valid TOML"),
        (Vec::new(), "`stage` is missing"),
    ];
    for (bytes, expected) in cases {
        let dir = write(&bytes);
        let found = Workspace::load(dir.path()).unwrap_err().to_string();
        assert!(found.contains(expected), "{}", &found[..found.len().min(300)]);
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(Workspace::load(dir.path()).unwrap_err().to_string().contains("tunebench init"));
    std::fs::create_dir(dir.path().join(FILE)).unwrap();
    assert!(Workspace::load(dir.path()).unwrap_err().to_string().contains("is a folder"));
    assert!(Workspace::load(&dir.path().join("nowhere")).is_err());
}

fn set(kind: Option<RunKind>, pairs: &[(&str, &str)]) -> Result<Workspace, String> {
    let dir = sample();
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Workspace::load(dir.path()).unwrap().with_settings(kind, &pairs).map_err(|e| e.to_string())
}

#[test]
fn settings_replace_values_by_path_and_by_the_runs_own_keys() {
    let ws = set(
        Some(RunKind::Train),
        &[
            ("tuning.train.rank", "8"),
            ("learning_rate", "1e-3"),
            ("epochs", "0.5"),
            ("prompt", "same"),
            ("targets", "[\"q_proj\", \"v_proj\"]"),
            ("stage.route.max_tokens", "12"),
            ("shots", "3"),
            ("schedule", "linear"),
            ("weight_decay", ".01"),
        ],
    )
    .unwrap();
    let train = &ws.config.tuning.train;
    assert_eq!((train.rank, train.learning_rate, train.epochs, train.weight_decay), (8, 1e-3, 0.5, 0.01));
    assert_eq!(train.prompt, "same");
    assert_eq!(ws.config.stages[0].max_tokens, 12);
    assert_eq!(ws.config.tuning.trajectory.shots, 3);
    let prompt =
        [("rows", "60"), ("few_shot", "0"), ("pins", "[\"never promise a refund\"]"), ("budget.tokens", "9")];
    let prompt = set(Some(RunKind::Prompt), &prompt).unwrap().config.tuning.prompt;
    assert_eq!((prompt.rows, prompt.few_shot, prompt.budget.tokens), (60, 0, Some(9)));
    assert_eq!(prompt.pins, ["never promise a refund"]);
    assert_eq!(set(Some(RunKind::Eval), &[("latency_rows", "5")]).unwrap().config.eval.latency_rows, 5);
    assert_eq!(set(Some(RunKind::Strata), &[("k", "5")]).unwrap().config.strata.k, Some(5));
}

#[test]
fn wrong_settings_are_refused_with_the_nearest_key() {
    let train = Some(RunKind::Train);
    for (kind, key, value, expected) in [
        (train, "rnk", "8", "--set: `rnk`: is no setting; did you mean `rank`?"),
        (train, "tuning.train.rnk", "8", "--set: unknown key `rnk` in [tuning.train]; did you mean `rank`?"),
        (train, "rank", "many", "--set: `tuning.train.rank`: expected a whole number, found a string"),
        (
            Some(RunKind::Prompt),
            "fan_out",
            "0",
            "`tuning.prompt.fan_out` must be a whole number from 1 to 4096",
        ),
        (Some(RunKind::Prompt), "few_shots", "1", "did you mean `few_shot`?"),
        (Some(RunKind::Prompt), "budget.call", "1", "is no setting"),
        (None, "epochs", "3", "write one of: tuning.prompt.epochs, tuning.train.epochs"),
        (None, "stage.rout.max_tokens", "3", "no `stage` is called `rout`; there are: route"),
        (None, "", "3", "is no path"),
        (train, "rank", "8\nalpha = 1", "expected a whole number, found a string"),
        (train, "prompt", "prompts/none.md", "prompt `prompts/none.md`"),
        (None, "data", "3", "is no setting"),
    ] {
        let found = set(kind, &[(key, value)]).unwrap_err();
        assert!(found.contains(expected), "{key}={value}: {found}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_loading_panic(text in "\\PC{0,200}", line in 0usize..70) {
        let mut lines: Vec<&str> = SAMPLE.lines().collect();
        let at = line.min(lines.len());
        lines.insert(at, &text);
        let dir = write(lines.join("\n"));
        let _ = Workspace::load(dir.path());
    }

    #[test]
    fn no_setting_makes_a_panic(key in "[a-z_.0-9]{0,30}", value in "\\PC{0,40}") {
        let _ = set(Some(RunKind::Train), &[(&key, &value)]);
    }
}

#[test]
fn a_stage_says_how_its_answers_are_chosen() {
    let keys = "max_tokens = 8\nmin_p = 0.05\nrepetition_penalty = 1.2\nstop = [\"\\n\", \"END\"]\nseed = 3\nconstrain = \"labels\"";
    let dir = write(SAMPLE.replacen("max_tokens = 8", keys, 1));
    let stage = Workspace::load(dir.path()).unwrap().config.stages.remove(0);
    assert_eq!((stage.min_p, stage.repetition_penalty, stage.seed), (Some(0.05), Some(1.2), 3));
    assert_eq!(stage.stop, ["\n", "END"]);
    assert_eq!(stage.constrain, Some(Constrain::Labels));
    let one = write(SAMPLE.replacen("max_tokens = 8", "stop = \"\\n\\n\"", 1));
    assert_eq!(Workspace::load(one.path()).unwrap().config.stages[0].stop, ["\n\n"]);
}

#[test]
fn the_form_of_answers_is_a_word_or_a_table_with_one_key() {
    let json = SAMPLE.replacen("output = \"label\"", "output = \"json\"", 1);
    let with = |constrain: &str| {
        let dir = write(json.replacen("max_tokens = 8", &format!("constrain = {constrain}"), 1));
        std::fs::create_dir(dir.path().join("schemas")).unwrap();
        std::fs::write(dir.path().join("schemas/a.json"), "{\"type\": \"object\"}").unwrap();
        std::fs::write(dir.path().join("schemas/bad.json"), "{\n\"type\": }").unwrap();
        Workspace::load(dir.path()).map(|ws| {
            let constrain = ws.config.stages[0].constrain.clone().unwrap();
            if let Constrain::Schema(path) = &constrain {
                assert_eq!(ws.schema(path).unwrap(), serde_json::json!({ "type": "object" }));
            }
            constrain
        })
    };
    assert_eq!(with("\"json\"").unwrap(), Constrain::Json);
    assert_eq!(with("{ regex = \"a+\" }").unwrap(), Constrain::Regex("a+".into()));
    assert_eq!(with("{ schema = \"schemas/a.json\" }").unwrap(), Constrain::Schema("schemas/a.json".into()));
    for (constrain, says) in [
        ("\"labels\"", "workspace.toml:40: `stage.0.constrain`: \"labels\" belongs to"),
        ("\"lables\"", "workspace.toml:40: `stage.0.constrain`: `lables` is no form of answers"),
        ("{}", "workspace.toml:40: `stage.0.constrain`: needs one of regex and schema"),
        ("{ regex = \"a\", schema = \"b\" }", "needs one of regex and schema"),
        ("{ regx = \"a\" }", "unknown key `regx` in [stage.0.constrain]; did you mean `regex`?"),
        ("{ schema = \"schemas/none.json\" }", "workspace.toml:40: schema `schemas/none.json`"),
        ("{ schema = \"schemas/bad.json\" }", "schemas/bad.json:2: not valid JSON"),
        ("3", "workspace.toml:40: `stage.0.constrain`"),
    ] {
        let said = with(constrain).unwrap_err().to_string();
        assert!(said.contains(says), "{constrain}: {said}");
    }
    assert!(problems("max_tokens = 8", "constrain = \"json\"").contains("answers no JSON"));
    assert!(problems("max_tokens = 8", "stop = [\"\"]").contains("`stage.0.stop` has an empty item"));
    assert!(problems("max_tokens = 8", "min_p = 1.5").contains("`stage.0.min_p`"));
    assert!(problems("max_tokens = 8", "repetition_penalty = 0").contains("above 0"));
}

#[test]
fn judges_are_read_and_metrics_find_theirs() {
    let dir = sample();
    std::fs::write(dir.path().join("prompts/kind.md"), "Is it kind?\n{{ output }}\n").unwrap();
    let judges = "[[judge]]\nname = \"kind\"\nmodel = \"critic\"\nrubric = \"prompts/kind.md\"\nscale = [1, 5]\nright_from = 4\n\
                  two_step = true\n[[judge]]\nname = \"short\"\nmodel = \"base\"\nverdicts = [\"no\", \"so-so\", \"yes\"]\n\n[eval]";
    let metrics = "metrics = [\"accuracy\", \"judge:short\", \"judge_score\"]\njudge = \"kind\"";
    let text = SAMPLE.replace("[eval]", judges).replace("judge = \"critic\"", "");
    let text = text.replace(
        "metrics = [\"accuracy\", \"macro_f1\", \"format_error_rate\", \"latency_p95_ms\"]",
        metrics,
    );
    std::fs::write(dir.path().join(FILE), &text).unwrap();
    let c = Workspace::load(dir.path()).unwrap().config;
    let [kind, short] = &c.judges[..] else { panic!("{:?}", c.judges) };
    assert_eq!((kind.verdicts.words.len(), kind.verdicts.right_from, kind.verdicts.scale), (5, 3, true));
    assert_eq!((kind.two_step, kind.agreement_at_least, kind.people_at_least), (true, 0.6, 30));
    assert_eq!((short.verdicts.right_from, short.rubric.as_ref()), (2, None));
    let asked: Vec<&str> = c.judges_of_eval().iter().map(|judge| judge.name.as_str()).collect();
    assert_eq!(asked, ["kind", "short"], "the one that `judge` means comes first");
    let without = text.replace("judge = \"kind\"", "");
    std::fs::write(dir.path().join(FILE), without).unwrap();
    let said = Workspace::load(dir.path()).unwrap_err().to_string();
    assert!(said.contains("`judge_score` means one of several judges; write judge_score:NAME"), "{said}");
    std::fs::write(dir.path().join("prompts/kind.md"), "a\n{% if %}").unwrap();
    std::fs::write(dir.path().join(FILE), text).unwrap();
    let said = Workspace::load(dir.path()).unwrap_err().to_string();
    assert!(said.contains("prompts/kind.md:2: not a valid template"), "{said}");
}

const GOAL: &str = "[[goal]]\nmetric = \"accuracy\"";

#[test]
fn the_workspaces_own_metrics_are_primary_goal_and_column_like_any_other() {
    let own = "[[metric]]\nname = \"brief\"\nexpression = \"correct and tokens_out < 40\"\nthreshold = 0.5\n";
    let toml = SAMPLE
        .replacen(GOAL, &format!("{own}[[goal]]\nmetric = \"brief\""), 1)
        .replacen(
            "primary = \"accuracy\"",
            "primary = \"brief\"\nsamples = 3\nintent = { threshold = 0.6 }",
            1,
        )
        .replacen("metric = \"latency_p95_ms\"", "metric = \"invalid_tool_rate\"", 1);
    let dir = write(toml);
    let eval = Workspace::load(dir.path()).unwrap().config.eval;
    assert_eq!((eval.primary.as_str(), eval.samples, eval.intent.threshold), ("brief", 3, 0.6));
    assert_eq!(eval.primary_metric().unwrap().right(1.0), Some(true));
    assert_eq!(eval.beside, ["invalid_tool_rate"], "scored, though no column");
    assert_eq!(eval.known().find("intent").unwrap().right(0.7), Some(true));
    // Frozen with a run: a worker reads no workspace.
    let frozen: crate::domain::settings::EvalSettings =
        serde_json::from_str(&serde_json::to_string(&eval).unwrap()).unwrap();
    assert_eq!(frozen, eval);
}

#[test]
fn slips_in_a_metric_name_their_line_and_the_nearest_name() {
    let metric = |body: &str| problems(GOAL, &format!("[[metric]]\n{body}\n{GOAL}"));
    for (body, want) in [
        ("name = \"x\"", "workspace.toml:5: `metric.0.expression` is missing"),
        ("expression = \"1\"", "workspace.toml:5: `metric.0.name` is missing"),
        (
            "name = \"accuracy\"\nexpression = \"1\"",
            "workspace.toml:6: `metric.0.name`: `accuracy` is a metric",
        ),
        ("name = \"route\"\nexpression = \"1\"", "workspace.toml:6: `metric.0.name`: `route` is a stage"),
        (
            "name = \"x\"\nexpression = \"tokens_ot < 40\"",
            "workspace.toml:7: `metric.0.expression`: `tokens_ot` is not in scope; did you mean `tokens_out`?",
        ),
        (
            "name = \"x\"\nexpression = \"1 +\"",
            "workspace.toml:7: `metric.0.expression`: is not an expression",
        ),
        (
            "name = \"x\"\nexpression = \"1\"\nthreshold = nan",
            "workspace.toml:8: `metric.0.threshold` must be",
        ),
        ("name = \"x\"\nexpression = \"1\"\nexpresion = \"1\"", "did you mean `expression`?"),
    ] {
        let said = metric(body);
        assert!(said.contains(want), "{body}: {said}");
    }
    let said = problems("primary = \"accuracy\"", "primary = \"regex:(\"");
    assert!(
        said.contains("workspace.toml:43: `eval.primary`: the metric `regex`: `(` is no regular expression"),
        "{said}"
    );
    let said = problems("judge = \"critic\"", "intent = { embedder = \"nobody\", threshold = 2 }");
    assert!(
        said.contains("`eval.intent.embedder`") && said.contains("`eval.intent.threshold` must be"),
        "{said}"
    );
    let said = problems("judge = \"critic\"", "samples = 0");
    assert!(said.contains("`eval.samples` must be a whole number from 1"), "{said}");
}

#[test]
fn schemas_of_metrics_are_read_with_the_workspace() {
    let toml = SAMPLE.replacen("\"macro_f1\"", "\"route.json_schema:schemas/a.json\"", 1);
    let dir = write(toml);
    let said = |dir: &tempfile::TempDir| Workspace::load(dir.path()).unwrap_err().to_string();
    assert!(said(&dir).contains("workspace.toml:44: schema `schemas/a.json`"), "{}", said(&dir));
    std::fs::create_dir(dir.path().join("schemas")).unwrap();
    let file = dir.path().join("schemas/a.json");
    for (text, want) in [
        ("{\"type\": ", "schemas/a.json:1: not valid JSON"),
        ("{\"type\": \"text\"}", "schemas/a.json: not a schema that answers can be held against"),
        ("{\"$ref\": \"http://127.0.0.1:1/x\"}", "schemas/a.json: not a schema"),
    ] {
        std::fs::write(&file, text).unwrap();
        assert!(said(&dir).contains(want), "{}", said(&dir));
    }
    std::fs::write(&file, "{\"type\": \"object\"}").unwrap();
    let eval = Workspace::load(dir.path()).unwrap().config.eval;
    let metric = eval.known().find("route.json_schema:schemas/a.json").unwrap();
    assert!(metric.key().starts_with("route.json_schema:schemas/a.json#"), "{}", metric.key());
}

#[test]
fn a_stages_metric_may_have_points_after_its_colon() {
    let dir = write(SAMPLE.replacen("max_tokens = 8", "max_tokens = 8\nmetric = \"numeric:0.01\"", 1));
    let config = Workspace::load(dir.path()).unwrap().config;
    assert_eq!(config.stages[0].metric.as_deref(), Some("route.numeric:0.01"));
    assert!(config.eval.metrics.contains(&"route.numeric:0.01".to_owned()));
}
