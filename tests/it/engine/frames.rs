//! Frames by hand: hostile ones, old ones, and clients that do not read.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::bench::{Bench, until};

/// A raw connection, after the engine was started by a command.
fn connect(bench: &Bench) -> UnixStream {
    assert!(bench.run(&["runs"]).status.success());
    let stream = UnixStream::connect(bench.state().join("engine.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn send(stream: &mut UnixStream, value: &Value) {
    let body = serde_json::to_vec(value).unwrap();
    stream.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
    stream.write_all(&body).unwrap();
}

fn receive(stream: &mut UnixStream) -> Option<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}

fn hello(stream: &mut UnixStream, version: &str) -> Value {
    send(stream, &json!({ "type": "hello", "protocol": 1, "version": version }));
    receive(stream).unwrap()
}

#[test]
fn hostile_frames_end_their_connection_and_nothing_else() {
    let bench = Bench::new();
    let mut good = connect(&bench);
    assert_eq!(hello(&mut good, "0.0.1")["type"], "hello");
    let engine = bench.engine().unwrap();
    let hostile: [&[u8]; 6] = [
        &[0xff, 0xff, 0xff, 0xff, 0, 0],
        &[0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'],
        &[0, 0, 0, 2, b'{', b'}'],
        &[0, 0, 0, 0],
        &[0, 0, 1],
        &[0, 0, 0, 4, 0xff, 0xfe, 0xfd, 0xfc],
    ];
    for bytes in hostile {
        for after_hello in [false, true] {
            let mut stream = connect(&bench);
            if after_hello {
                hello(&mut stream, "0.0.1");
            }
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Refused or closed, but never answered as if it had been a message.
            if let Some(answer) = receive(&mut stream) {
                assert_eq!(answer["type"], "refused", "{answer}");
            }
        }
    }
    // A deep nest of brackets is no way to the end of the stack.
    let mut stream = connect(&bench);
    let deep = "[".repeat(500_000);
    stream.write_all(&(deep.len() as u32).to_be_bytes()).unwrap();
    let _ = stream.write_all(deep.as_bytes());
    assert!(receive(&mut stream).is_none_or(|a| a["type"] == "refused"));
    send(&mut good, &json!({ "type": "request", "id": 7, "request": { "ask": "status" } }));
    let answer = receive(&mut good).unwrap();
    assert_eq!((&answer["type"], &answer["id"]), (&json!("response"), &json!(7)));
    assert_eq!(bench.engine(), Some(engine));
}

#[test]
fn an_idle_engine_makes_room_for_a_newer_version_and_a_busy_one_says_why_not() {
    let bench = Bench::new();
    let run = bench.train(1_000_000);
    bench.wait_steps(&run, 1);
    let mut stream = connect(&bench);
    hello(&mut stream, "99.0.0");
    send(&mut stream, &json!({ "type": "leave" }));
    let answer = receive(&mut stream).unwrap();
    assert_eq!(answer["type"], "leaving");
    assert!(answer["busy"].as_str().unwrap().contains(&run), "{answer}");
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");
    until("the engine to be idle", || {
        send(&mut stream, &json!({ "type": "leave" }));
        // Its going may be quicker than its answer.
        receive(&mut stream).is_none_or(|answer| answer["busy"].is_null()).then_some(())
    });
    until("the engine to leave", || bench.engine().is_none().then_some(()));
}

#[test]
fn a_client_that_does_not_read_gets_the_newest_state_and_holds_up_nobody() {
    let bench = Bench::new();
    let run = bench.train(600);
    let mut lazy = connect(&bench);
    hello(&mut lazy, "0.0.1");
    send(&mut lazy, &json!({ "type": "follow", "view": { "view": "runs" } }));
    send(&mut lazy, &json!({ "type": "follow", "view": { "view": "run", "run": run, "after": 0 } }));
    // Others are served meanwhile.
    bench.wait_state(&run, "done");
    let mut seqs = Vec::new();
    let mut records = 0;
    loop {
        let frame = receive(&mut lazy).expect("the rest is still told");
        let push = &frame["push"];
        match push["push"].as_str().unwrap() {
            "events" => {
                seqs.extend(push["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()));
            }
            "run_changed" => {
                records += 1;
                if push["run"]["state"] == "done" && push["run"]["last_seq"].as_u64() == seqs.last().copied()
                {
                    break;
                }
            }
            _ => {}
        }
    }
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert!(records < seqs.len(), "changes of the record were drawn together");
}
