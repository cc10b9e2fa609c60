use std::os::unix::net::UnixStream as Plain;

use super::*;
use crate::domain::candidate::{Decoding, Limits, ModelRef, OutputKind};
use crate::domain::resident::Bounds;

struct Rig {
    dir: tempfile::TempDir,
    playground: Playground,
    models: Arc<Models>,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let models = Arc::new(Models::new(1, Bounds::default(), 2));
    let playground = Playground::start(&dir.path().join("play.sock"), &models, Access::threads(1)).unwrap();
    Rig { dir, playground, models }
}

impl Rig {
    fn connect(&self) -> Plain {
        let stream = Plain::connect(self.dir.path().join("play.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

fn send(stream: &mut Plain, request: &PlayRequest) {
    use std::io::Write as _;
    stream.write_all(&crate::store::frames::encode(request).unwrap()).unwrap();
}

fn next(stream: &mut Plain) -> Option<PlayEvent> {
    use std::io::Read as _;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    Some(serde_json::from_slice(&body).unwrap())
}

/// All events of a question, its last one last.
fn hear(stream: &mut Plain, id: u64) -> Vec<PlayBody> {
    let mut all = Vec::new();
    loop {
        let event = next(stream).expect("a last event comes");
        if event.id != id {
            continue;
        }
        let last = matches!(event.body, PlayBody::Done { .. } | PlayBody::Failed { .. });
        all.push(event.body);
        if last {
            return all;
        }
    }
}

fn stage(name: &str, model: &str, prompt: &str) -> StageCandidate {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
    let model = ModelRef {
        name: model.into(),
        source: ModelSource::Local { path: path.display().to_string() },
        hash: model.into(),
        usd_per_million_input: None,
        usd_per_million_output: None,
        usd_per_hour: None,
        limits: Limits::default(),
        device: Default::default(),
    };
    StageCandidate {
        model,
        decoding: Decoding { max_tokens: 4, ..Decoding::default() },
        ..crate::pipeline::tests::stage(name, prompt, OutputKind::Text, &[])
    }
}

fn ask(id: u64, stages: Vec<StageCandidate>, max_tokens: Option<usize>) -> PlayRequest {
    let row = serde_json::json!({ "id": "r1", "hash": "", "part": null, "fields": {}, "input": "My card" });
    let mut stages = stages;
    for stage in &mut stages {
        stage.decoding.max_tokens = max_tokens.unwrap_or(stage.decoding.max_tokens);
    }
    let candidate = Candidate { name: "c".into(), rung: "prompt".into(), stages };
    let ask = serde_json::json!({ "play": "ask", "id": id, "candidate": candidate, "row": row });
    serde_json::from_value(ask).unwrap()
}

#[test]
fn every_stage_tells_its_prompt_its_pieces_and_its_end_in_order() {
    let rig = rig();
    let mut stream = rig.connect();
    let mut skipped = stage("never", "qwen2", "{{ input }}");
    skipped.when = Some("input == 'x'".into());
    let stages = vec![
        stage("first", "qwen2", "say {{ input }}"),
        skipped,
        stage("second", "qwen2", "and {{ first }}"),
    ];
    send(&mut stream, &ask(1, stages, None));
    let mut told: Vec<String> = Vec::new();
    let mut pieces = String::new();
    let mut last = String::new();
    for body in hear(&mut stream, 1) {
        match body {
            PlayBody::Waiting { why } => told.push(why),
            PlayBody::Prompt { stage, prompt } => {
                pieces.clear();
                assert!(prompt.contains("<|im_start|>user"), "as the model reads it: {prompt}");
                told.push(format!("prompt {stage}"));
            }
            PlayBody::Piece { text, .. } => pieces += &text,
            PlayBody::Stage { outcome, .. } => {
                if !outcome.skipped {
                    assert!(outcome.tokens_out > 0 && outcome.ms > 0.0);
                    last.clone_from(&pieces);
                }
                told.push(format!("end {} {}", outcome.stage, outcome.skipped));
            }
            PlayBody::Done { output } => assert_eq!(output.trim(), last.trim()),
            PlayBody::Failed { error } => panic!("{error}"),
        }
    }
    let wanted = [
        "qwen2 is being loaded",
        "prompt first",
        "end first false",
        "end never true",
        "prompt second",
        "end second false",
    ];
    assert_eq!(told, wanted);
    assert!(rig.playground.idle() < Duration::from_secs(60));
}

#[test]
fn two_candidates_answer_side_by_side_as_each_does_alone() {
    let rig = rig();
    let question = |id, model| ask(id, vec![stage("s", model, "{{ input }}")], Some(12));
    let output = |bodies: Vec<PlayBody>| match bodies.into_iter().next_back() {
        Some(PlayBody::Done { output }) => output,
        other => panic!("{other:?}"),
    };
    let alone: Vec<String> = [(1, "qwen2"), (2, "llama")]
        .map(|(id, model)| {
            let mut stream = rig.connect();
            send(&mut stream, &question(id, model));
            output(hear(&mut stream, id))
        })
        .into();
    let (mut a, mut b) = (rig.connect(), rig.connect());
    send(&mut a, &question(3, "qwen2"));
    send(&mut b, &question(4, "llama"));
    assert_eq!([output(hear(&mut b, 4)), output(hear(&mut a, 3))], [alone[1].clone(), alone[0].clone()]);
    // And on one connection.
    send(&mut a, &question(5, "qwen2"));
    send(&mut a, &question(6, "llama"));
    let mut last = HashMap::new();
    while last.len() < 2 {
        if let PlayEvent { id, body: PlayBody::Done { output } } = next(&mut a).unwrap() {
            last.insert(id, output);
        }
    }
    assert_eq!((&last[&5], &last[&6]), (&alone[0], &alone[1]));
}

#[test]
fn what_cannot_be_asked_is_an_error_of_its_question_only() {
    let rig = rig();
    let mut stream = rig.connect();
    let error = |bodies: Vec<PlayBody>| match bodies.into_iter().next_back() {
        Some(PlayBody::Failed { error }) => error,
        other => panic!("{other:?}"),
    };
    send(&mut stream, &ask(1, vec![], None));
    assert!(error(hear(&mut stream, 1)).contains("no stages"));
    send(&mut stream, &ask(2, vec![stage("s", "qwen2", "{{ nobody }}")], None));
    assert!(error(hear(&mut stream, 2)).contains("nobody"));
    send(&mut stream, &ask(3, vec![stage("s", "nowhere", "{{ input }}")], None));
    assert!(error(hear(&mut stream, 3)).contains("nowhere"));
    send(&mut stream, &ask(4, vec![stage("s", "qwen2", &"word ".repeat(300))], None));
    assert!(error(hear(&mut stream, 4)).contains("context"));
    send(&mut stream, &PlayRequest::Cancel { id: 77 });
    send(&mut stream, &ask(5, vec![stage("s", "qwen2", "{{ input }}")], None));
    assert!(matches!(hear(&mut stream, 5).last(), Some(PlayBody::Done { .. })));
    rig.playground.stop();
    send(&mut stream, &ask(6, vec![stage("s", "qwen2", "{{ input }}")], None));
    assert!(error(hear(&mut stream, 6)).contains("leaving"));
}

#[test]
fn a_closed_connection_takes_its_questions_back_and_nonsense_closes_it() {
    use std::io::{Read as _, Write as _};
    let rig = rig();
    let mut stream = rig.connect();
    send(&mut stream, &ask(1, vec![stage("s", "qwen2", "{{ input }}")], Some(80)));
    drop(stream);
    while !rig.playground.is_quiet() || rig.models.busy() > 0 {
        std::thread::yield_now();
    }
    let mut stream = rig.connect();
    stream.write_all(b"\0\0\0\x05hello").unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    let mut stream = rig.connect();
    stream.write_all(&[0xff; 8]).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
}
