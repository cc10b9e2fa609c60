//! Rows to examples, and the mask gate, with the tokenizers and templates of the model fixtures.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, json};

use super::super::examples::{Built, Language, build, mask_gate};
use super::super::subject::Subject;
use crate::domain::candidate::{
    Candidate, Decoding, Limits, ModelRef, ModelSource, OutputKind, StageCandidate,
};
use crate::domain::row::{Part, RunRow, Turn};
use crate::domain::run::{Job, RUN_FORMAT, RunSpec};
use crate::domain::settings::{EvalSettings, TrainSettings, TrainedTurns};
use crate::model::Sequence;
use crate::model::chat::{conversation_tokens, prompt_tokens};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn stage(name: &str, base: &Path, prompt: &str) -> StageCandidate {
    StageCandidate {
        name: name.into(),
        model: ModelRef {
            name: "base".into(),
            source: ModelSource::Local { path: base.display().to_string() },
            hash: "base".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        },
        adapter: None,
        prompt: prompt.into(),
        prompt_name: "bare".into(),
        output: OutputKind::Label,
        labels: vec![],
        decoding: Decoding::default(),
        when: None,
        retries: 0,
        constraint: None,
        tools: Vec::new(),
        gold: None,
        examples: None,
    }
}

fn spec(stages: Vec<StageCandidate>) -> RunSpec {
    RunSpec {
        format: RUN_FORMAT,
        id: "run-1".into(),
        workspace: "test".into(),
        created_ms: 0,
        seed: 7,
        threads: 1,
        job: Job::Train { train: TrainSettings::default(), eval: EvalSettings::default() },
        candidate: Some(Candidate { name: "base".into(), rung: "baseline".into(), stages }),
        settings: vec![],
        past: None,
        from: None,
        cache: Default::default(),
        rows: vec![],
    }
}

fn row(id: &str, input: &str, gold: Option<&str>) -> RunRow {
    let mut fields = Map::new();
    fields.insert("topic".into(), json!("money"));
    RunRow {
        id: id.into(),
        hash: id.into(),
        part: Some(Part::Train),
        stratum: None,
        fields,
        input: input.into(),
        turns: Vec::new(),
        gold: gold.map(String::from),
    }
}

fn settings(stage: &str) -> TrainSettings {
    TrainSettings { stage: stage.into(), ..TrainSettings::default() }
}

#[test]
fn of_a_conversation_every_answer_is_trained_and_the_tokens_are_those_it_is_asked_with() {
    let spoken = [("user", "My card"), ("assistant", "Which one?"), ("user", "The blue one")];
    let turns: Vec<Turn> =
        spoken.iter().map(|(role, text)| Turn { role: (*role).into(), text: (*text).into() }).collect();
    for model in ["llama", "mistral", "qwen2", "qwen3"] {
        let spec = spec(vec![stage("route", &fixture(model), StageCandidate::BARE)]);
        let subject = Subject::new(&spec, &settings("")).unwrap();
        let rows = [RunRow { turns: turns.clone(), ..row("a", "as text", Some("billing")) }];
        let Language { tokenizer, template } = &subject.language;
        let messages = subject.messages(&rows[0]).unwrap().unwrap();
        let asked = conversation_tokens(tokenizer, template.as_ref(), &messages).unwrap();
        let answers = |built: &Built| -> Vec<String> {
            let Sequence { tokens, trained } = &built.examples[0].sequence;
            let runs = tokens.iter().zip(trained).collect::<Vec<_>>();
            let runs = runs.chunk_by(|a, b| a.1 == b.1).filter(|run| *run[0].1);
            runs.map(|run| {
                let ids: Vec<u32> = run.iter().map(|(id, _)| **id).collect();
                tokenizer.decode(&ids).unwrap().trim().to_owned()
            })
            .collect()
        };
        let last = build(&rows, &subject, 200, TrainedTurns::Last);
        assert_eq!(answers(&last), ["billing"], "{model}");
        let all = build(&rows, &subject, 200, TrainedTurns::All);
        // The template of this qwen2 opens its answers with an empty thought and writes earlier turns without one.
        let as_asked = template.is_some() && model != "qwen2";
        let want: &[&str] = if as_asked { &["Which one?", "billing"] } else { &["billing"] };
        assert_eq!(answers(&all), want, "{model}");
        for built in [last, all] {
            assert_eq!(built.examples[0].sequence.prompt(), asked, "{model}");
            mask_gate(&built, &rows, &subject).unwrap();
        }
    }
}

#[test]
fn only_the_answer_is_trained_its_end_token_too_after_the_prompt_that_is_asked() {
    for model in ["llama", "mistral", "qwen2", "qwen3"] {
        let spec = spec(vec![stage("route", &fixture(model), "Team? {{ input }}")]);
        let subject = Subject::new(&spec, &settings("")).unwrap();
        let rows = [row("a", "My card", Some("billing"))];
        let built = build(&rows, &subject, 96, TrainedTurns::All);
        let sequence = &built.examples[0].sequence;
        let language = &subject.language;
        let asked = prompt_tokens(&language.tokenizer, language.template.as_ref(), "Team? My card").unwrap();
        let (prompt, answer) = sequence.tokens.split_at(asked.len());
        assert_eq!(prompt, asked, "{model}");
        assert_eq!(language.tokenizer.decode(answer).unwrap().trim(), "billing", "{model}");
        let ends = answer.iter().filter(|t| language.tokenizer.eos().contains(t)).count();
        assert!(ends == 1 && language.tokenizer.eos().contains(answer.last().unwrap()), "{model}");
        let marks: Vec<bool> = (0..sequence.tokens.len()).map(|i| i >= asked.len()).collect();
        assert_eq!(sequence.trained, marks, "{model}");
        let shown = mask_gate(&built, &rows, &subject).unwrap().join("\n");
        assert!(shown.contains("row a") && shown.contains('⟦') && shown.ends_with('⟧'), "{model}: {shown}");
    }
}

#[test]
fn what_controls_a_terminal_is_shown_as_its_escape() {
    let spec = spec(vec![stage("route", &fixture("qwen2"), "{{ input }}")]);
    let subject = Subject::new(&spec, &settings("")).unwrap();
    let rows = [row("a", "\u{1b}[2J\nx\u{9b}", Some("b"))];
    let shown = mask_gate(&build(&rows, &subject, 96, TrainedTurns::All), &rows, &subject).unwrap().join("");
    assert!(!shown.contains(char::is_control), "{shown:?}");
}

#[test]
fn rows_that_are_left_out_are_counted_with_the_reason() {
    let mut route = stage("route", &fixture("qwen2"), "{{ topic }}: {{ input }}");
    route.when = Some("input != 'skip'".into());
    let spec = spec(vec![route]);
    let subject = Subject::new(&spec, &settings("route")).unwrap();
    let mut rows = vec![
        row("good", "x", Some("a")),
        row("no gold", "x", None),
        row("long", &"word ".repeat(60), Some("a")),
        row("skipped", "skip", Some("a")),
        row("ends", "x", Some("a<|im_end|>b")),
        row("no topic", "x", Some("a")),
    ];
    rows[5].fields.clear();
    let built = build(&rows, &subject, 60, TrainedTurns::All);
    assert_eq!(built.examples.iter().map(|e| e.row.as_str()).collect::<Vec<_>>(), ["good"]);
    let warnings = built.warnings("train", 60);
    for needles in [
        ["1 of 6 train rows", "no gold"],
        ["max_length = 60", "(long)"],
        ["`when`", "(skipped)"],
        ["2 of 6", "row ends: the answer contains the text of a token that ends generation"],
    ] {
        assert!(
            warnings.iter().any(|w| needles.iter().all(|n| w.contains(n))),
            "{needles:?} in {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), 4);
}

#[test]
fn the_gate_refuses_when_nothing_is_trained() {
    let spec = spec(vec![stage("route", &fixture("qwen2"), "{{ input }}")]);
    let subject = Subject::new(&spec, &settings("")).unwrap();
    for (rows, limit, says) in [
        (vec![row("a", "x", None)], 60, "row a has no gold"),
        (vec![row("a", "x", Some("b"))], 3, "more than max_length"),
        (vec![], 60, "no rows in the train part"),
    ] {
        let error = mask_gate(&build(&rows, &subject, limit, TrainedTurns::All), &rows, &subject)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("mask gate") && error.contains(says), "{error}");
    }
    let rows = [row("a", "x", Some("b"))];
    for (spoil, says) in [
        (0, "no token is trained"),
        (1, "the token that ends the answer is not trained"),
        (2, "the token that ends the answer is not trained"),
        (3, "read the prompt as different tokens"),
    ] {
        let mut built = build(&rows, &subject, 60, TrainedTurns::All);
        let sequence = &mut built.examples[0].sequence;
        match spoil {
            0 => sequence.trained.fill(false),
            1 => *sequence.trained.last_mut().unwrap() = false,
            2 => *sequence.tokens.last_mut().unwrap() = 9,
            _ => sequence.tokens[0] ^= 1,
        }
        let error = mask_gate(&built, &rows, &subject).unwrap_err().to_string();
        assert!(error.contains("row a") && error.contains(says), "{error}");
    }
}

#[test]
fn the_gate_refuses_a_template_that_trains_on_another_prompt_than_it_asks() {
    let temp = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"] {
        fs::copy(fixture("qwen2").join(file), temp.path().join(file)).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}Go: {% endif %}";
    fs::write(temp.path().join("chat_template.jinja"), template).unwrap();
    let spec = spec(vec![stage("route", temp.path(), "{{ input }}")]);
    let subject = Subject::new(&spec, &settings("")).unwrap();
    let rows = [row("a", "x", Some("b"))];
    let error =
        mask_gate(&build(&rows, &subject, 60, TrainedTurns::All), &rows, &subject).unwrap_err().to_string();
    assert!(error.contains("row a") && error.contains("no beginning of the conversation"), "{error}");
}

#[test]
fn a_later_stage_is_trained_on_the_gold_of_the_stages_before_it() {
    let mut first = stage("topic", &fixture("qwen2"), "{{ input }}");
    first.gold = Some("topic".into());
    let mut second = stage("route", &fixture("qwen2"), "{{ topic }} / {{ input }}");
    second.gold = Some("team".into());
    let spec = spec(vec![first, second]);
    let subject = Subject::new(&spec, &settings("route")).unwrap();
    let mut row = row("a", "My card", Some("whole"));
    row.fields.insert("team".into(), json!("billing"));
    assert_eq!(subject.prompt(&row).unwrap().unwrap(), "money / My card");
    assert_eq!(subject.gold(&row).unwrap(), "billing");
    for (stage, says) in [("", "topic, route"), ("rout", "topic, route")] {
        let error = Subject::new(&spec, &settings(stage)).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}
