//! What stays when processes die.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rand::Rng as _;
use tunebench::domain::api::{Decision, Push, Request, Response, RowQuery, View};
use tunebench::domain::event::{Event, EventBody};
use tunebench::domain::run::RunState;
use tunebench::engine::client::Client;
use tunebench::store::lines;

use super::bench::{Bench, until};

fn assert_no_gap(events: &[Event]) {
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event.seq, at as u64 + 1, "event {at}: {event:?}");
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A connection to the engine that is there (the binary starts it, with this bench's environment).
pub(super) async fn client(bench: &Bench) -> Client {
    assert!(bench.run(&["runs"]).status.success());
    Client::connect(&bench.root).await.unwrap().expect("an engine listens")
}

pub(super) async fn ask(client: &Client, request: Request) -> Response {
    let response = client.ask(request).await.unwrap();
    assert!(!matches!(response, Response::Error { .. }), "{response:?}");
    response
}

#[test]
fn a_killed_worker_leaves_last_words_and_its_run_resumes_to_the_end() {
    let bench = Bench::new();
    let run = bench.train(120);
    let mut random = rand::rng();
    for _ in 0..3 {
        let before = bench.steps(&run);
        bench.wait_steps(&run, (before + random.random_range(1..25)).min(100));
        bench.kill_worker(&run);
        let record = bench.wait_state(&run, "interrupted");
        assert!(record["message"].as_str().unwrap_or_default().contains("signal 9"), "{record}");
        assert_eq!(record["resumable"], true);
        assert!(bench.run(&["runs", "resume", &run]).status.success());
    }
    let record = bench.wait_state(&run, "done");
    assert_eq!(bench.steps(&run), 120);
    assert!(record["metrics"]["accuracy"].is_number(), "{record}");
    let events = bench.events(&run);
    assert_no_gap(&events);
    assert_eq!(record["last_seq"].as_u64(), events.last().map(|e| e.seq));
    // Every resumed life began at a checkpoint, and no step of the whole is missing.
    let mut steps: Vec<u64> = events
        .iter()
        .filter_map(|e| if let EventBody::Step { step, .. } = e.body { Some(step) } else { None })
        .collect();
    steps.sort_unstable();
    steps.dedup();
    assert_eq!(steps, (1..=120).collect::<Vec<_>>());
}

#[test]
fn a_run_whose_specification_is_damaged_is_not_offered_to_be_resumed() {
    let bench = Bench::new();
    let run = bench.train(400);
    bench.wait_steps(&run, 2);
    bench.kill_worker(&run);
    bench.wait_state(&run, "interrupted");
    let spec = bench.state().join("runs").join(&run).join("spec.json");
    std::fs::write(&spec, "{\"format\": ").unwrap();
    let checks = bench.json(&["doctor"])["checks"].clone();
    let of = |name: &str| checks.as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone();
    let (damaged, runs) = (of("run"), of("runs"));
    assert!(
        damaged["detail"].as_str().unwrap().contains(&format!("{run} is interrupted and cannot be resumed")),
        "{damaged}"
    );
    assert!(damaged["detail"].as_str().unwrap().contains("spec.json"), "{damaged}");
    assert!(damaged["remedy"].as_str().unwrap().contains("tunebench run train"), "{damaged}");
    assert_eq!(runs["ok"], true, "nothing else is to be resumed: {runs}");
    let refused = bench.run(&["runs", "resume", &run]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("cannot be resumed"), "{said}");
    assert_eq!(bench.json(&["runs", "show", &run])["state"], "interrupted");
}

#[test]
fn after_a_killed_engine_the_next_client_adopts_the_worker_and_no_event_is_lost_or_doubled() {
    let bench = Bench::new();
    let run = bench.train(400);
    bench.wait_steps(&run, 5);
    let worker = bench.worker(&run).unwrap();
    let mut seen: Vec<Event> = Vec::new();
    runtime().block_on(async {
        for kill in [true, true, false] {
            let client = client(&bench).await;
            let after = seen.last().map_or(0, |e| e.seq);
            client.follow(View::Run { run: run.clone(), after }).await.unwrap();
            let mut fresh = 0;
            let mut killed = false;
            while let Some(push) = client.push().await {
                match push {
                    Push::Events { events, .. } => {
                        fresh += events.len();
                        seen.extend(events);
                    }
                    Push::RunChanged { run } if run.state.is_final() => break,
                    _ => {}
                }
                if kill && !killed && fresh >= 20 {
                    bench.kill_engine();
                    killed = true;
                    assert_eq!(bench.worker(&run), Some(worker), "the worker lives on");
                }
            }
        }
    });
    let record = bench.wait_state(&run, "done");
    assert_no_gap(&seen);
    assert_eq!(record["last_seq"].as_u64(), seen.last().map(|e| e.seq));
    assert_eq!(seen, bench.events(&run));
    let starts = seen.iter().filter(|e| matches!(e.body, EventBody::State { state: RunState::Running, .. }));
    assert_eq!(starts.count(), 1, "one worker did all of it");
}

#[test]
fn a_worker_that_dies_with_its_engine_is_found_interrupted() {
    let bench = Bench::new();
    let run = bench.train(1_000_000);
    bench.wait_steps(&run, 12);
    bench.kill_engine();
    bench.kill_worker(&run);
    let record = bench.wait_state(&run, "interrupted");
    assert!(record["message"].as_str().unwrap_or_default().contains("the worker died"), "{record}");
    assert_no_gap(&bench.events(&run));
}

#[test]
fn a_terminal_that_closes_leaves_the_run_running() {
    let bench = Bench::new();
    let pty =
        native_pty_system().openpty(PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 }).unwrap();
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_tunebench"));
    command.args(["-C", bench.root.to_str().unwrap(), "run", "train"]);
    command.args(["--set", "max_steps=1000000", "--set", "epochs=100000"]);
    command.env("TMPDIR", bench.root.parent().unwrap().join("tmp"));
    command.env("TUNEBENCH_IDLE_SECS", "2");
    let mut child = pty.slave.spawn_command(command).unwrap();
    drop(pty.slave);
    let mut reader = pty.master.try_clone_reader().unwrap();
    // The client draws on: somebody has to read. The reader holds the terminal open and must let go of it.
    let enough = Arc::new(AtomicBool::new(false));
    let drain = std::thread::spawn({
        let enough = enough.clone();
        move || {
            let mut block = [0; 4096];
            while !enough.load(Ordering::Relaxed) && reader.read(&mut block).is_ok_and(|n| n > 0) {}
        }
    });
    let run = "train-1";
    until("the run to begin", || bench.state().join("runs").join(run).exists().then_some(()));
    bench.wait_steps(run, 3);
    let (engine, worker) = (bench.engine().unwrap(), bench.worker(run).unwrap());
    // Closing the master hangs up: the kernel sends SIGHUP to the session of the terminal.
    enough.store(true, Ordering::Relaxed);
    drain.join().unwrap();
    drop(pty.master);
    let status = child.wait().unwrap();
    assert!(!status.success(), "the client ended by the hang-up");
    let steps = bench.steps(run);
    bench.wait_steps(run, steps + 5);
    assert_eq!((bench.engine(), bench.worker(run)), (Some(engine), Some(worker)));
    assert!(bench.run(&["runs", "cancel", run]).status.success());
    bench.wait_state(run, "cancelled");
}

#[test]
fn an_acknowledged_mark_survives_the_engine_being_killed_right_after() {
    let bench = Bench::new();
    runtime().block_on(async {
        for i in 0..5 {
            let client = client(&bench).await;
            let row = format!("r{i:03}");
            let decision = Decision::Mark { row: row.clone(), mark: "star".into(), on: true };
            ask(&client, Request::Decide { decision }).await;
            bench.kill_engine();
        }
        let client = client(&bench).await;
        let query = RowQuery { text: "mark:star".into(), count: 10, ..RowQuery::default() };
        let Response::Rows { page } = ask(&client, Request::Rows { query }).await else { panic!() };
        let ids: Vec<&str> = page.rows.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["r000", "r001", "r002", "r003", "r004"]);
        // Undo takes them back one by one, and survives as well.
        ask(&client, Request::Undo).await;
        bench.kill_engine();
        let client = self::client(&bench).await;
        let Response::Row { row } = ask(&client, Request::Row { id: "r004".into() }).await else { panic!() };
        assert!(row.marks.is_empty());
    });
}

#[test]
fn a_torn_journal_and_torn_events_are_cut_and_work_goes_on() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    runtime().block_on(async {
        let client = client(&bench).await;
        let decision = Decision::Note { row: "r001".into(), note: Some("kept".into()) };
        ask(&client, Request::Decide { decision }).await;
    });
    bench.kill_engine();
    let tear = |path: std::path::PathBuf| {
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"{\"seq\": 99999, \"t\": 1, \"t_ms\": 1, \"ki").unwrap();
    };
    tear(bench.state().join("journal.jsonl"));
    tear(bench.state().join("runs/eval-1/events.jsonl"));
    runtime().block_on(async {
        let client = client(&bench).await;
        let Response::Status { status } = ask(&client, Request::Status).await else { panic!() };
        assert!(status.notices.iter().any(|n| n.contains("torn")), "{:?}", status.notices);
        let Response::Row { row } = ask(&client, Request::Row { id: "r001".into() }).await else { panic!() };
        assert_eq!(row.note.as_deref(), Some("kept"));
        let decision = Decision::Mark { row: "r002".into(), mark: "star".into(), on: true };
        ask(&client, Request::Decide { decision }).await;
    });
    assert_eq!(bench.run_state("eval-1"), "done");
    let path = bench.state().join("journal.jsonl");
    let (entries, bad) = lines::read_all::<tunebench::store::journal::Entry>(&path).unwrap();
    assert_eq!(bad, 0);
    let seqs: Vec<u64> = entries.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=entries.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_damaged_store_is_rebuilt_and_nothing_that_people_decided_is_lost() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    runtime().block_on(async {
        let client = client(&bench).await;
        let decision = Decision::Mark { row: "r001".into(), mark: "star".into(), on: true };
        ask(&client, Request::Decide { decision }).await;
    });
    bench.kill_engine();
    for entry in std::fs::read_dir(bench.state().join("store")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, vec![0xa5; 70_000]).unwrap();
        }
    }
    runtime().block_on(async {
        let client = client(&bench).await;
        let Response::Status { status } = ask(&client, Request::Status).await else { panic!() };
        assert!(status.notices.iter().any(|n| n.contains("rebuilt")), "{:?}", status.notices);
        let Response::Row { row } = ask(&client, Request::Row { id: "r001".into() }).await else { panic!() };
        assert_eq!(row.marks, ["star"]);
    });
    assert_eq!(bench.run_state("eval-1"), "done");
    assert_eq!(bench.json(&["board"])["rows"][0]["candidate"], "baseline");
}

#[test]
fn two_clients_that_start_at_once_get_one_engine_and_see_the_same_run() {
    let bench = Bench::new();
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut command = bench.command(&["runs", "--json"]);
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for client in &mut clients {
        assert!(client.wait().unwrap().success());
    }
    let run = bench.train(60);
    let watch = || async {
        let client = client(&bench).await;
        client.follow(View::Run { run: run.clone(), after: 0 }).await.unwrap();
        let mut seen = Vec::new();
        while let Some(push) = client.push().await {
            match push {
                Push::Events { events, .. } => seen.extend(events),
                Push::RunChanged { run } if run.state.is_final() => break,
                _ => {}
            }
        }
        seen
    };
    let (one, two) = runtime().block_on(async { tokio::join!(watch(), watch()) });
    assert_no_gap(&one);
    assert_eq!(one, two);
    assert_eq!(one, bench.events(&run));
}
