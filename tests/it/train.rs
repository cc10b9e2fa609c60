//! The `train` run through its worker: killed anywhere it goes on bit for bit; what it leaves is exported and verified.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Map, Value};
use tunebench::domain::candidate::{
    Candidate, Decoding, Limits, ModelRef, ModelSource, OutputKind, StageCandidate,
};
use tunebench::domain::event::{Event, EventBody};
use tunebench::domain::row::{Part, RowRef, RunRow};
use tunebench::domain::run::{Job, RUN_FORMAT, RunResult, RunSpec, RunState};
use tunebench::domain::settings::{EvalSettings, Method, TrainSettings};
use tunebench::store::lines;
use tunebench::worker::folder::{EventLog, RunFolder};

const TEAMS: [&str; 3] = ["billing", "delivery", "account"];

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen2")
}

fn rows() -> Vec<RunRow> {
    let words = ["invoice wrong", "parcel late", "cannot log in"];
    (0..44)
        .map(|i| RunRow {
            id: format!("row-{i}"),
            hash: format!("{i:032x}"),
            part: Some(match i % 11 {
                8 => Part::Dev,
                9 | 10 => Part::Eval,
                _ => Part::Train,
            }),
            stratum: None,
            fields: Map::new(),
            input: format!("{} {}", words[i % 3], "!".repeat(i % 5)),
            turns: Vec::new(),
            gold: (i != 3).then(|| TEAMS[i % 3].to_owned()),
        })
        .collect()
}

fn settings() -> TrainSettings {
    TrainSettings {
        rank: 4,
        learning_rate: 1e-2,
        batch_size: 3,
        accumulate: 2,
        epochs: 5.0,
        eval_every: 3,
        checkpoint_every: 2,
        fixed_rows: 2,
        ..TrainSettings::default()
    }
}

/// A run folder as the engine would freeze it.
fn freeze(root: &Path, id: &str, train: TrainSettings) -> RunFolder {
    let rows = rows();
    let stage = StageCandidate {
        name: "route".into(),
        model: ModelRef {
            name: "base".into(),
            source: ModelSource::Local { path: model().display().to_string() },
            hash: "base".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        },
        adapter: None,
        prompt: "{{ input }}".into(),
        prompt_name: "bare".into(),
        output: OutputKind::Label,
        labels: TEAMS.map(String::from).to_vec(),
        decoding: Decoding { max_tokens: 8, ..Decoding::default() },
        when: None,
        retries: 0,
        constraint: None,
        tools: Vec::new(),
        gold: None,
        examples: None,
    };
    let spec = RunSpec {
        sets: Vec::new(),
        format: RUN_FORMAT,
        id: id.into(),
        workspace: "test".into(),
        created_ms: 0,
        seed: 7,
        threads: 2,
        job: Job::Train { train, eval: EvalSettings { latency_rows: 0, ..EvalSettings::default() } },
        candidate: Some(Candidate { name: "base".into(), rung: "baseline".into(), stages: vec![stage] }),
        settings: vec![],
        past: None,
        from: None,
        cache: Default::default(),
        rows: rows.iter().map(|r| RowRef { id: r.id.clone(), hash: r.hash.clone() }).collect(),
    };
    let folder = RunFolder::new(root.join(".tunebench/runs").join(id));
    fs::create_dir_all(folder.dir()).unwrap();
    folder.freeze(&spec, &rows).unwrap();
    folder
}

fn tunebench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tunebench"))
}

fn worker(folder: &RunFolder) -> Child {
    tunebench().arg("worker").arg(folder.dir()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn events(folder: &RunFolder) -> Vec<Event> {
    lines::read_all::<Event>(&folder.events()).map(|(events, _)| events).unwrap_or_default()
}

/// Bits of loss and gradient norm, by step; of the last time that each was taken.
fn curve(folder: &RunFolder) -> BTreeMap<u64, (u64, u64)> {
    let step = |e: Event| match e.body {
        EventBody::Step { step, loss, grad_norm, .. } => Some((step, (loss.to_bits(), grad_norm.to_bits()))),
        _ => None,
    };
    events(folder).into_iter().filter_map(step).collect()
}

fn run_to_end(folder: &RunFolder) -> RunResult {
    let status = worker(folder).wait().unwrap();
    let log: Vec<_> =
        events(folder).into_iter().map(|e| e.body).filter(|b| matches!(b, EventBody::State { .. })).collect();
    assert!(status.success(), "{log:?}");
    assert_eq!(folder.read_state().unwrap().state, RunState::Done);
    folder.read_result().unwrap()
}

fn adapter(folder: &RunFolder) -> Vec<u8> {
    fs::read(folder.artifacts().join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_worker_killed_again_and_again_ends_with_the_same_adapter() {
    let temp = tempfile::tempdir().unwrap();
    let whole = freeze(temp.path(), "whole", settings());
    let want = run_to_end(&whole);
    assert_eq!(curve(&whole).len(), 30);

    let killed = freeze(temp.path(), "killed", settings());
    // Killed when so many lines have been written, or while a checkpoint is being written.
    for (round, lines_more) in [7, 3, 11, 5, 9, 2].into_iter().enumerate() {
        let seen = events(&killed).len();
        let mut child = worker(&killed);
        let half_written = || {
            let entries = fs::read_dir(killed.checkpoints()).into_iter().flatten();
            entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "part"))
        };
        while child.try_wait().unwrap().is_none() {
            let enough = events(&killed).len() >= seen + 4 + lines_more;
            if enough && (round % 2 == 0 || half_written()) {
                child.kill().unwrap();
                child.wait().unwrap();
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let got = run_to_end(&killed);
    assert_eq!(curve(&killed), curve(&whole));
    assert_eq!(adapter(&killed), adapter(&whole));
    assert_eq!(got.metrics["loss"].to_bits(), want.metrics["loss"].to_bits());
    assert_eq!(got.metrics["accuracy"], want.metrics["accuracy"]);
}

#[test]
fn a_run_that_was_steered_and_killed_is_the_run_that_had_that_change_from_the_beginning() {
    let temp = tempfile::tempdir().unwrap();
    let long = TrainSettings { epochs: 60.0, fixed_rows: 0, ..settings() };
    let steered = freeze(temp.path(), "steered", long.clone());
    let mut child = worker(&steered);
    let changed = || events(&steered).into_iter().find(|e| matches!(e.body, EventBody::Change { .. }));
    let steps = || events(&steered).into_iter().filter(|e| matches!(e.body, EventBody::Step { .. })).count();
    let mut asked = false;
    while changed().is_none() || events(&steered).len() < 60 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was changed");
        if !asked && steps() > 0 {
            steered.steer(&["learning_rate=x0.21".parse().unwrap()]).unwrap();
            asked = true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    run_to_end(&steered);

    let told = freeze(temp.path(), "told", long.clone());
    EventLog::open(&told.events()).unwrap().append(changed().unwrap().body).unwrap();
    run_to_end(&told);
    assert_eq!(curve(&steered).len(), 360);
    assert_eq!(curve(&steered), curve(&told));
    assert_eq!(adapter(&steered), adapter(&told));
    let plain = freeze(temp.path(), "plain", long);
    run_to_end(&plain);
    assert_ne!(adapter(&plain), adapter(&told));
}

#[test]
fn a_run_shows_its_mask_tells_what_it_leaves_out_and_scores_what_it_made() {
    let temp = tempfile::tempdir().unwrap();
    let folder = freeze(temp.path(), "run-1", settings());
    let result = run_to_end(&folder);
    let events: Vec<EventBody> = events(&folder).into_iter().map(|e| e.body).collect();
    let told = |needle: &str| {
        events.iter().any(|e| match e {
            EventBody::Log { message } | EventBody::Warning { message } => message.contains(needle),
            _ => false,
        })
    };
    assert!(told("mask gate: row") && told("⟦"), "{events:#?}");
    assert!(told("1 of 32 train rows are left out: they have no gold (row-3)"), "{events:#?}");
    let samples = events.iter().filter(|e| matches!(e, EventBody::Sample { .. })).count();
    assert_eq!(samples, 2 * (1 + 10), "two rows at each of ten evaluations and before the first step");

    let candidate = result.candidate.unwrap();
    assert_eq!((candidate.name.as_str(), candidate.rung.as_str()), ("run-1", "lora"));
    let adapter = candidate.stages[0].adapter.clone().unwrap();
    assert!(Path::new(&adapter.path).join("adapter_config.json").exists());
    assert!(result.metrics["eval_loss"] < result.metrics["eval_loss_before"]);
    assert_eq!(folder.read_outcomes().unwrap().len(), 8, "the eval part");
    assert!(result.metrics["accuracy"] > 0.9, "{:?}", result.metrics);
}

fn export(root: &Path, run: &str, to: &Path, format: &str) -> (i32, Value) {
    let output = tunebench()
        .args(["-C", root.to_str().unwrap(), "--json", "export", run, "--format", format, "--to"])
        .arg(to)
        .output()
        .unwrap();
    let line = String::from_utf8(output.stdout).unwrap().lines().last().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), serde_json::from_str(&line).unwrap())
}

#[test]
fn what_is_exported_answers_as_what_was_trained() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    run_to_end(&freeze(root, "run-1", TrainSettings { epochs: 1.0, ..settings() }));
    for (run, format, file) in [
        ("run-1", "peft", "adapter_model.safetensors"),
        ("run-1", "merged", "model.safetensors"),
        ("run-1@4", "peft", "adapter_config.json"),
        ("run-1@4", "merged", "tokenizer.json"),
    ] {
        let to = root.join(format!("out-{run}-{format}"));
        let (code, json) = export(root, run, &to, format);
        assert_eq!(code, 0, "{run} {format}: {json}");
        assert!(
            to.join(file).exists() && json["max_abs_diff"].as_f64().unwrap() < 1e-4,
            "{run} {format}: {json}"
        );
    }
    let relative =
        tunebench().current_dir(root).args(["export", "run-1", "--to", "bare-name"]).output().unwrap();
    assert!(relative.status.success(), "{}", String::from_utf8_lossy(&relative.stderr));
    assert!(root.join("bare-name/adapter_model.safetensors").exists());
    let again = root.join("out-run-1-peft");
    for (run, to, says) in [
        ("run-1@5", "new", "run-1@4"),
        ("run-2", "new", "run-1"),
        ("run-1@x", "new", "RUN@STEP"),
        ("../run-1", "new", "no run"),
        ("run-1", again.to_str().unwrap(), "not empty"),
    ] {
        let (code, json) = export(root, run, &root.join(to), "peft");
        assert!(code == 2 && json["error"].as_str().unwrap().contains(says), "{run}: {code} {json}");
        assert!(!root.join("new").exists());
    }
}

#[test]
fn a_run_over_every_weight_leaves_a_whole_model() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    let full = TrainSettings { method: Method::Full, epochs: 1.0, learning_rate: 1e-3, ..settings() };
    let result = run_to_end(&freeze(root, "full", full));
    let candidate = result.candidate.unwrap();
    let ModelSource::Local { path } = &candidate.stages[0].model.source else { panic!("not local") };
    for file in ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"] {
        assert!(Path::new(path).join(file).exists(), "{file}");
    }
    assert_ne!(candidate.stages[0].model.hash, "base");
    assert_eq!(export(root, "full", &root.join("a"), "merged").0, 0);
    let (code, json) = export(root, "full", &root.join("b"), "peft");
    assert!(code == 2 && json["error"].as_str().unwrap().contains("merged"), "{json}");
}
